# SPDX-License-Identifier: Apache-2.0
"""Post-copy: a guest that writes much runs on the target before all of its memory has come. The guests
(stublib.py) check each page and block they left; what dies meanwhile ends the VM, which nobody else runs."""
import re, socket, subprocess, time

import pytest

from hostlib import BIN, until
from netlib import Net
from stublib import StubCluster, alive, cluster, counts, create, goes_on, keys, lock_range, show  # noqa: F401 (cluster is a fixture)
from test_migrate import begin, pair, stop_at  # noqa: F401 (pair is a fixture)
from test_migrate_kills import ACTORS, World, cases, one_case

pytestmark = pytest.mark.slow

# A round of its 24 MiB takes 3 s, in which it writes to a part of its pages; 5 s are for slow disks.
FAST = ('--postcopy', '--max-downtime', '5000', '--bandwidth', '8M')


def moved(p, timeout=90):
    said = p.communicate(timeout=timeout)[0]
    assert p.returncode == 0, said


def busy(host):
    """All of its pages are there, and it writes some of them all the time: so few that it does not ask for all in seconds."""
    begun = counts(host)[1]
    keys(host, '6')
    until(lambda: counts(host)[1] > begun + 20000, what='a guest that writes much')
    keys(host, '4')


def times_whole(host):
    return sum('all of its memory has come' in e['text'] for e in host.json('event', 'list'))


def whole(host, before=0):
    until(lambda: times_whole(host) > before, what='all of its memory')


def test_runs_before_all_has_come(pair):
    h1, h2 = pair
    busy(h1)
    wait, go_on = stop_at(h1, 'source.rest')    # nothing goes but what is asked for
    p = begin(h1, h2, *FAST)
    wait()
    until(lambda: show(h2)['state'] == 'running' and show(h2)['host'] == 'h2')
    goes_on(h2)                                 # it reads pages and does requests of which none was there
    before = counts(h2)
    e = h2.fails('busy', 'vm', 'migrate', 'g', '--to', 'h1')
    assert 'memory is coming still' in e['message']
    until(lambda: counts(h2)[1] > before[1] + 200)
    assert not times_whole(h2) and show(h2)['memory_coming']
    go_on()
    moved(p)
    whole(h2)
    assert 'memory_coming' not in show(h2)
    goes_on(h2)
    assert show(h1)['pid'] is None and show(h1)['host'] == 'h2'
    moved(begin(h2, h1, *FAST))                 # and back, without a stop
    whole(h1)
    goes_on(h1)


def test_a_guest_that_asks_for_nothing(pair):
    """The source hears of no wish for longer than it waits for one who is gone (8 s): the target tells that it lives."""
    h1, h2 = pair
    busy(h1)
    wait, go_on = stop_at(h1, 'source.rest')
    p = begin(h1, h2, *FAST)
    wait()
    goes_on(h2)
    h2.ok('vm', 'pause', 'g')
    time.sleep(11)
    h2.ok('vm', 'resume', 'g')
    goes_on(h2)
    go_on()
    moved(p)
    whole(h2)
    goes_on(h2)


def told_to_stop(host):
    host.proc.terminate()
    until(lambda: host.run('host', 'list').code == 8, 60, what='the API being closed')


def waits(host):
    until(lambda: 'stops when all memory' in host.log.read_text(), what=f'{host.name}, told to stop')


def test_daemons_that_are_stopped_wait_for_the_rest(pair, monkeypatch):
    """Both of them; who started them hears of it."""
    h1, h2 = pair
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as starter:
        starter.bind(str(h1.dir.parent / 'notify'))
        starter.settimeout(30)
        monkeypatch.setenv('NOTIFY_SOCKET', str(h1.dir.parent / 'notify'))
        h1.stop()
        h1.start()
        until(lambda: show(h1)['state'] == 'running')
        busy(h1)
        wait, go_on = stop_at(h1, 'source.rest')
        p = begin(h1, h2, *FAST)
        wait()
        goes_on(h2)
        pid = show(h2)['pid']
        for host in (h2, h1):
            told_to_stop(host)
        waits(h2)
        go_on()
        waits(h1)
        assert re.fullmatch(rb'EXTEND_TIMEOUT_USEC=\d+', starter.recv(4096))
    p.communicate(timeout=60)
    for host in (h1, h2):
        assert host.proc.wait(60) == 0, host.log.read_text()[-3000:]
    assert alive(pid)
    h2.start()
    until(lambda: show(h2)['state'] == 'running')
    assert show(h2)['pid'] == pid
    goes_on(h2)
    h2.fails('usage', 'vm', 'migrate', 'g', '--to', 'h1', '--postcopy', '--verify')


def test_the_source_knows_nothing_of_its_outcome(pair, lun):
    """Somebody says vm stop between offer and outcome, the target says nothing, and storage does not tell who has the VM
    while the daemon is told to stop: all that the target may lack is sent all the same. Its monitor hears late that it has all."""
    h1, h2 = pair
    late = h1.dir.parent / 'stub' / 'no-whole-h2'
    late.touch()
    busy(h1)
    at = lock_range(h1)
    offered, go_offered = stop_at(h1, 'source.offered')
    told, go_told = stop_at(h1, 'source.moved')
    resumed, go_resumed = stop_at(h2, 'target.resumed')
    p = begin(h1, h2, *FAST[:3])
    offered()
    stop = subprocess.Popen([BIN / 'perilune', '--connect', h1.dir, 'vm', 'stop', 'g'], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)
    until(lambda: any((t['noun'], t['verb']) == ('vm', 'stop') and t['state'] == 'running' for t in h1.json('task', 'list')))
    go_offered()
    resumed()
    told()
    assert stop.poll() is None
    h1.ok('fault', 'add', lun, '--kind', 'fail', '--op', 'read', '--range', at)
    told_to_stop(h1)
    go_told()
    assert h1.proc.wait(60) == 0, h1.log.read_text()[-3000:]
    go_resumed()
    whole(h2)
    goes_on(h2)
    for one in (p, stop):
        one.communicate(timeout=60)
    assert 'has all pages' not in (h1.dir.parent / 'stub' / 'g.log').read_text()
    late.unlink()
    until(lambda: 'has all pages' in (h1.dir.parent / 'stub' / 'g.log').read_text())
    h1.start()
    until(lambda: show(h1)['host'] == 'h2' and show(h1)['state'] == 'running')


def test_reboots_and_ends_before_all_has_come(pair):
    h1, h2 = pair
    busy(h1)
    wait, go_on = stop_at(h1, 'source.rest')
    p = begin(h1, h2, *FAST)
    wait()
    goes_on(h2)
    keys(h2, 'r')                               # its kernel goes nowhere before all pages are there
    go_on()
    moved(p)
    whole(h2)
    until(lambda: any('rebooted' in e['text'] for e in h2.json('event', 'list')))
    goes_on(h2)
    busy(h2)
    wait, go_on = stop_at(h2, 'source.rest')
    p = begin(h2, h1, *FAST)
    wait()
    goes_on(h1)
    h1.ok('vm', 'kill', 'g')
    go_on()
    assert 'came to host h1' in p.communicate(timeout=60)[0] and p.returncode
    h2.ok('vm', 'start', 'g')
    goes_on(h2)


# --- deaths

STEPS = [f'source.{s}' for s in ('post', 'loaded', 'offered', 'told', 'moved', 'rest', 'whole')] + \
        [f'target.{s}' for s in ('lazy', 'state', 'loaded', 'called', 'accepted', 'disks', 'resumed')]
BEFORE = {'source.post', 'target.lazy'}         # as in test_migrate_kills.py


def one_death(world, step, actor):
    source = world.settle()
    target = next(h for h in world.hosts if h is not source)
    busy(source)
    was = show(source)['pid']
    waits = world.cluster.stub / f'reads-all-{target.name}'
    if (step, actor) == ('target.accepted', 'source-daemon'):
        waits.touch()                           # what its monitor is told then waits for a page
    rest, pid, before = step == 'source.rest', None, times_whole(target)

    def at_step():
        nonlocal pid
        if rest:
            until(lambda: show(target)['host'] == target.name and show(target)['state'] == 'running')
        if step == 'source.whole':              # the source knows a moment before the target has noted it
            whole(target, before)
        pid = world.vmm(target)

    def after(said):
        if rest and actor != 'source-vmm':
            # Nobody has all of its memory: it does not live, on neither host.
            until(lambda: not alive(pid), what='an end of the monitor that lacks memory')
            if not actor.endswith('machine'):   # after which it was started
                until(lambda: {show(h)['state'] for h in world.hosts} <= {'stopped', 'crashed'}, 60, what=f'the VM stopped ({said})')
        if (step, actor) == ('target.accepted', 'target-vmm'):
            assert 'is stopped' in said and ': vm g: its monitor died' in said, said
            until(lambda: any('its monitor died' in e['text'] for e in target.json('event', 'list')))
        if waits.exists():                      # it ends at once
            waits.unlink()
            until(lambda: 'did not come whole' in target.log.read_text())
            assert 'did not answer within' not in target.log.read_text()

    where, said = one_case(world, step, actor, FAST if rest else FAST[:3], at_step, after)
    if step in BEFORE and actor not in ('source-vmm', 'source-machine'):
        assert where is source and show(source)['pid'] == was, (step, actor, said)
    if step == 'source.whole' and actor not in ('target-vmm', 'target-machine'):
        assert where is target and show(target)['pid'] == pid, (step, actor, said)
    return where, said


@pytest.fixture
def world():
    with Net() as net, StubCluster() as made:
        yield World(made, net)


# Two each at those steps that live migration knows, too, and at the last; all of them with `soak`.
TWO = {'source.loaded': (0, 3), 'source.told': (1, 2), 'source.moved': (0, 3), 'source.whole': (0, 1), 'target.state': (1, 2),
       'target.loaded': (0, 3), 'target.called': (1, 2), 'target.disks': (0, 3), 'target.resumed': (1, 2)}
SOME = [(s, [ACTORS[i] for i in TWO.get(s, (0, 1, 2, 3, 6))]) for s in STEPS] + [('source.rest', ACTORS[4:6])]


@pytest.mark.parametrize(('step', 'actors'), SOME, ids=lambda x: x if isinstance(x, str) else '+'.join(x))
def test_somebody_dies_at_a_step(world, step, actors):
    cases(world, step, actors, one_death)


@pytest.mark.soak
@pytest.mark.parametrize('actor', ACTORS)
@pytest.mark.parametrize('step', STEPS)
def test_many_times(world, step, actor):
    cases(world, step, [actor] * 20, one_death)


def test_begun_by_itself():
    """A guest that outruns a slow link however little of the processor it gets (a host in a namespace has no control groups)."""
    with Net() as net, StubCluster() as cluster:
        world = World(cluster, net, '16M')
        h1, h2 = world.hosts
        for ns, link in zip(net.ns, net.link):
            subprocess.run(['tc', '-n', ns, 'qdisc', 'add', 'dev', link, 'root', 'tbf', 'rate', '80mbit', 'burst', '64kb', 'latency', '50ms'], check=True)
        keys(h1, '6')
        until(lambda: counts(h1)[1] > 20000, what='a guest that writes much')
        moved(begin(h1, h2, '--max-downtime', '300'), 240)
        told = [e['text'] for e in h1.json('event', 'list')]
        assert any('begins anew, as a post-copy: ' in t and 'writes faster' in t for t in told), told
        whole(h2)
        goes_on(h2)
