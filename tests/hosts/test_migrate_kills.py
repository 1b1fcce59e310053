# SPDX-License-Identifier: Apache-2.0
"""Something dies at each named step of a migration: either daemon, either monitor, either machine, the link. Afterwards
the VM runs on exactly one host, or is stopped and can be started; its guest finds its pages and blocks as it left them;
nobody ever ran it twice (the stubs' book, looked at when a test ends)."""
import subprocess, time

import pytest
from hostlib import BIN, until
from netlib import Net
from stublib import StubCluster, StubHost, create, end_process, goes_on, show

pytestmark = pytest.mark.slow

SOURCE = ['begun', 'round', 'paused', 'drained', 'saved', 'loaded', 'offered', 'told', 'moved']
TARGET = ['asked', 'configured', 'state', 'loaded', 'called', 'accepted', 'disks', 'resumed']
STEPS = [f'source.{s}' for s in SOURCE] + [f'target.{s}' for s in TARGET]
ACTORS = [f'{which}-{what}' for what in ('daemon', 'vmm', 'machine') for which in ('source', 'target')] + ['link']
# Nothing is offered yet: whoever dies but what the guest is in, it goes on where it was.
BEFORE = [f'source.{s}' for s in SOURCE[:SOURCE.index('offered')]] + [f'target.{s}' for s in TARGET[:TARGET.index('called')]]


class World:
    """Two hosts with a VM, a cable between them."""

    def __init__(self, cluster, net, memory='32M'):
        self.cluster, self.net = cluster, net
        for i, name in enumerate(('h1', 'h2')):
            h = cluster.hosts[name] = StubHost(cluster, name, prefix=['ip', 'netns', 'exec', net.ns[i], 'env', f'PERILUNE_STUB={cluster.stub}'])
            h.options = ('--listen', f'10.231.7.{i + 1}:7700')
            h.start()
        self.hosts = [cluster.hosts['h1'], cluster.hosts['h2']]
        self.lun = cluster.lun()
        self.hosts[0].ok('volume', 'format', 'v1', self.lun)
        for h in self.hosts:
            h.ok('volume', 'mount', self.lun)
            (h.dir / 'steps').mkdir()
        self.hosts[0].ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
        create(self.hosts[0], memory=memory)
        self.hosts[0].ok('vm', 'start', 'g')
        goes_on(self.hosts[0])
        for a in self.hosts:
            until(lambda: len([h for h in a.json('host', 'list') if h['state'] == 'active']) == 2)

    def settle(self, hosts=None):
        """The one of `hosts` (all that there are) on which it runs, started again if it was stopped."""
        hosts = hosts or self.hosts

        def one():
            said = [show(h) for h in hosts]
            here = [h for h, s in zip(hosts, said) if s['pid'] is not None]
            states = {s['state'] for s in said}
            if any('memory_coming' in s or 'moves_to' in s for s in said):  # it may end here yet: no more of it will come, or it is gone
                return None
            if len(here) == 1 and states == {'running'} and {s['host'] for s in said} == {here[0].name}:
                return here[0]
            return not here and states <= {'stopped', 'crashed'}
        where = until(one, 60, what='the VM on one host, or stopped')
        if where is True:
            where = hosts[0]
            until(lambda: started(where), 30, what='its start')
        goes_on(where)
        return where

    def vmm(self, host):
        """The monitor that lives on `host`, also when its VM is not known to."""
        for pid in self.cluster.vmms():
            if f'{host.dir}:v1:g' in open(f'/proc/{pid}/cmdline').read():
                return pid
        return None


def started(host):
    """Once more if not: who has lost its source, or its target, may wait for it yet."""
    r = host.run('vm', 'start', 'g')
    assert r.code == 0 or 'if that came to nothing, try again' in r.err, r
    return r.code == 0


def kill(world, actor, source, target):
    """Does it; returns what brings things back, and whether there was anything to do."""
    host = source if actor.startswith('source') else target
    if actor.endswith('daemon'):
        host.kill()
        return host.start, True
    if actor.endswith('vmm'):
        pid = world.vmm(host)
        if pid:
            end_process(pid)
        return lambda: None, pid is not None
    world.net.cable('down')
    if actor == 'link':
        return lambda: world.net.cable('up'), True
    host.lose(world.vmm(host))

    def back():                     # not before the other one has come to terms with it
        world.settle([h for h in world.hosts if h is not host])
        world.net.cable('up')
        host.start()
    return back, True


def begin(source, target, reached, words):
    """`perilune vm migrate`, at the step. Once more when the target was started, or its cable came back, a moment ago; one
    that has lost its source may wait for it yet."""
    end = time.monotonic() + 30
    while True:
        p = subprocess.Popen([BIN / 'perilune', '--connect', source.dir, 'vm', 'migrate', 'g', '--to', target.name, *words],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            until(lambda: reached.exists() or p.poll() is not None, 30, 0.005, what=reached.stem)
        except AssertionError:
            p.kill()
            raise
        if reached.exists():
            return p
        said = p.communicate()[0].decode()
        assert any(w in said for w in ('if that came to nothing, try again', ': not reached: ')) and time.monotonic() < end, said


def one_case(world, step, actor, words=('--verify',), at_step=lambda: None, after=lambda said: None):
    """`at_step` is called before it dies, `after` when the migration has ended and all are back."""
    source = world.settle()
    target = next(h for h in world.hosts if h is not source)
    pid = show(source)['pid']
    file = (source if step.startswith('source') else target).dir / 'steps' / step
    reached = file.with_name(step + '.reached')
    file.touch()
    p = begin(source, target, reached, words)
    try:
        at_step()
        back, done = kill(world, actor, source, target)
        file.unlink()
        reached.unlink()
        if actor == 'link':         # until it was noticed
            p.wait(60)
        back()
        p.wait(60)
    finally:
        p.kill()
        said = p.communicate()[0].decode()
    after(said)
    where = world.settle()
    assert not world.cluster.violations(), (step, actor, said)
    if step in BEFORE and actor not in ('source-vmm', 'source-machine') and done:
        assert where is source and show(source)['pid'] == pid, (step, actor, said)
    return where, said


@pytest.fixture
def world():
    with Net() as net, StubCluster() as cluster:
        yield World(cluster, net)


def end(world):
    where = world.settle()
    where.ok('vm', 'kill', 'g')
    for h in world.hosts:
        h.ok('volume', 'unmount', 'v1')
    world.hosts[0].ok('volume', 'check', world.lun)


def cases(world, step, actors, case=one_case):
    for actor in actors:
        began = time.monotonic()
        where, said = case(world, step, actor)
        print(f'{step} {actor}: on {where.name} after {time.monotonic() - began:.1f} s: {said.strip()[:150]}')
    end(world)


@pytest.mark.parametrize('step', STEPS)
def test_somebody_dies(world, step):
    cases(world, step, ACTORS[:4])


@pytest.mark.parametrize('step', STEPS)
def test_a_machine_dies(world, step):
    cases(world, step, ACTORS[4:6])


@pytest.mark.parametrize('step', STEPS)
def test_the_link_is_cut(world, step):
    cases(world, step, ACTORS[6:])


def dies_at_work(world, times):
    for _ in range(times):
        source = world.settle()
        back, _ = kill(world, 'source-machine', source, next(h for h in world.hosts if h is not source))
        back()
        assert not world.cluster.violations()
    end(world)


def test_a_machine_dies_at_work(world):
    """Nothing moves, and nobody but the guest flushes: on the other host it finds what it flushed."""
    dies_at_work(world, 2)


@pytest.mark.soak
def test_a_machine_dies_at_work_many_times(world):
    dies_at_work(world, 20)


@pytest.mark.soak
@pytest.mark.parametrize('actor', ACTORS)
@pytest.mark.parametrize('step', STEPS)
def test_many_times(world, step, actor):
    cases(world, step, [actor] * 20)
