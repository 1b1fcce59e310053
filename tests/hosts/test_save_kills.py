# SPDX-License-Identifier: Apache-2.0
"""Something dies at each named step of a save, or of a restore; or two hosts restore at once. Afterwards the VM runs on
exactly one host, is saved, or is stopped and can be started; its guest finds its pages and blocks as it left them; no
state was used twice, nobody ran twice (the stubs' book, looked at when a test ends)."""
import subprocess, time

import pytest
from hostlib import BIN, until
from stublib import StubCluster, create, end_process, goes_on, show

pytestmark = pytest.mark.slow

SAVE = ['begun', 'paused', 'taken', 'written', 'laid']
RESTORE = ['read', 'machine', 'loaded', 'accepted', 'disks', 'resumed']
STEPS = [f'save.{s}' for s in SAVE] + [f'restore.{s}' for s in RESTORE]
TAKEN = STEPS[STEPS.index('restore.accepted'):]     # the lock is the host's, the state nobody's


class World:
    """Two hosts, with a VM that runs on one of them."""

    def __init__(self, cluster):
        self.cluster = cluster
        a = cluster.host('h1')
        self.lun = cluster.lun()
        a.ok('volume', 'format', 'v1', self.lun)
        a.ok('volume', 'mount', self.lun)
        b = cluster.host('h2')
        b.ok('volume', 'mount', self.lun)
        self.hosts = [a, b]
        for h in self.hosts:
            (h.dir / 'steps').mkdir()
        a.ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
        create(a)
        a.ok('vm', 'start', 'g')
        goes_on(a)

    def states(self):
        return {show(h)['state'] for h in self.hosts}

    def rest(self):
        """What has become of it when nothing changes any more: the host it runs on, 'saved', or 'stopped'."""
        def one():
            shown = [show(h) for h in self.hosts]
            here = [h for h, d in zip(self.hosts, shown) if d['pid'] is not None]
            states = {d['state'] for d in shown}
            if len(here) == 1 and states == {'running'} and {d['host'] for d in shown} == {here[0].name}:
                return here[0]
            if not here and not self.cluster.vmms():
                return 'saved' if states == {'saved'} else 'stopped' if states <= {'stopped', 'crashed'} else None
        return until(one, 60, what='the VM on one host, saved, or stopped')

    def running(self):
        where = self.rest()
        if isinstance(where, str):
            where = self.hosts[0]
            where.ok('vm', 'start', 'g')
        goes_on(where)
        return where

    def saved(self):
        if self.rest() != 'saved':
            self.running().ok('vm', 'save', 'g')

    def vmm(self, host):
        for pid in self.cluster.vmms():
            if f'{host.dir}:v1:g' in open(f'/proc/{pid}/cmdline').read():
                return pid
        return None

    def begin(self, host, *words):
        return subprocess.Popen([BIN / 'perilune', '--connect', host.dir, *words], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture
def world():
    with StubCluster() as cluster:
        yield World(cluster)


def kill_and_come_back(world, host, actor):
    if actor == 'daemon':
        host.kill()
        return host.start
    pid = world.vmm(host)
    if actor == 'vmm':
        if pid:
            end_process(pid)
        return lambda: None
    host.lose(pid)                  # its daemon stays away until others have its place

    def back():
        other = next(h for h in world.hosts if h is not host)
        until(lambda: all(x['state'] == 'active' for x in other.json('host', 'list')), 60, what='the takeover')
        host.start()
    return back


def one_case(world, step, actor):
    verb = step.split('.')[0]
    if verb == 'save':
        host = world.running()
    else:
        world.saved()
        host = world.hosts[len(actor) % 2]
    file = host.dir / 'steps' / step
    reached = file.with_name(step + '.reached')
    file.touch()
    p = world.begin(host, 'vm', verb, 'g')
    try:
        until(reached.exists, 30, 0.005, what=f'{step} ({p.poll()})')
        back = kill_and_come_back(world, host, actor)
        file.unlink()
        reached.unlink()
        back()
        p.wait(60)
    finally:
        p.kill()
        said = p.communicate()[0].decode()
    where = world.rest()
    assert not world.cluster.violations(), (step, actor, said)
    if step == 'save.laid' or (verb == 'restore' and step not in TAKEN and actor != 'vmm'):
        assert where == 'saved', (step, actor, where, said)
    elif actor == 'daemon' or (verb == 'save' and step != 'save.laid' and actor == 'vmm'):
        want = 'stopped' if actor == 'vmm' else host
        # What was written already is whole without its monitor.
        assert where == want or (actor == 'vmm' and step == 'save.written' and where == 'saved'), (step, actor, where, said)
    elif verb == 'restore' and step not in TAKEN:
        assert where in ('saved', host), (step, actor, where, said)
    return where, said


def end(world):
    where = world.running()
    where.ok('vm', 'kill', 'g')
    for h in world.hosts:
        h.ok('volume', 'unmount', 'v1')
    world.hosts[0].ok('volume', 'check', world.lun)


@pytest.mark.parametrize('actor, steps', [
    ('daemon', STEPS), ('vmm', ['save.taken', 'save.written', 'restore.loaded', 'restore.accepted']),
    ('machine', ['save.written', 'save.laid', 'restore.loaded', 'restore.accepted'])])
def test_somebody_dies(world, actor, steps):
    for step in steps:
        began = time.monotonic()
        where, said = one_case(world, step, actor)
        print(f'{step} {actor}: {getattr(where, "name", where)} after {time.monotonic() - began:.1f} s: {said.strip()[:150]}')
    end(world)


def test_two_restore_at_once(world):
    """Both have all of it loaded; one compare-and-write decides."""
    a, b = world.hosts
    for first in (a, b):
        world.saved()
        steps = [h.dir / 'steps' / 'restore.loaded' for h in world.hosts]
        for s in steps:
            s.touch()
        p = [world.begin(h, 'vm', 'restore', 'g') for h in world.hosts]
        for s in steps:
            until(s.with_name(s.name + '.reached').exists, 30, 0.005)
        assert world.states() == {'starting'}
        for h, s in sorted(zip(world.hosts, steps), key=lambda x: x[0] is not first):
            s.unlink()
            s.with_name(s.name + '.reached').unlink()
        said = [x.communicate(timeout=60)[0].decode() for x in p]
        assert sorted(x.returncode for x in p) == [0, 4], said
        assert 'quicker' in ''.join(said), said
        winner = world.rest()
        assert winner is world.hosts[[x.returncode for x in p].index(0)]
        goes_on(winner)
    end(world)


@pytest.mark.soak
@pytest.mark.parametrize('step', STEPS)
def test_many_times(world, step):
    for _ in range(20):
        for actor in ('daemon', 'vmm', 'machine'):
            one_case(world, step, actor)
    end(world)
