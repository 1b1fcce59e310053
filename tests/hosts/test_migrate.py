# SPDX-License-Identifier: Apache-2.0
"""Live migration between two daemons, with monitors that are programs (stublib.py): their guests check each page and
block they left, all memory is compared at the source's stop and the target's start."""
import json, os, pathlib, signal, subprocess, time

import pytest

import vmlib
from hostlib import BIN, Cluster, until
from stublib import HangsUp, NoGroups, alive, cluster, counts, create, goes_on, keys, lock_range, show  # noqa: F401 (cluster is a fixture)


@pytest.fixture
def pair(cluster, lun):
    """Two hosts, the VM g running on the first."""
    h1, h2 = cluster.host('h1'), cluster.host('h2')
    h1.ok('volume', 'format', 'v1', lun)
    for h in (h1, h2):
        h.ok('volume', 'mount', lun)
    h1.ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
    create(h1)
    h1.ok('vm', 'start', 'g')
    goes_on(h1)
    until(lambda: any(h['name'] == 'h2' for h in h1.json('host', 'list')))
    until(lambda: any(h['name'] == 'h1' for h in h2.json('host', 'list')))
    return h1, h2


GROUPS = 1024 * 4096        # of an extent, from there on: what lies before keeps the lease (docs/format.md)


def migrate(source, target, *words, name='g'):
    return source.json('vm', 'migrate', name, '--to', target.name, '--verify', *words)


def test_there_and_back(pair, cluster, lun):
    h1, h2 = pair
    pid = show(h1)['pid']
    for source, target in ((h1, h2), (h2, h1), (h1, h2)):
        was = counts(source)
        d = migrate(source, target)
        assert d['to'] == target.name and d['downtime_ms'] > 0 and d['sent'] > 0
        assert show(target)['state'] == 'running' and show(target)['host'] == target.name
        assert show(source)['host'] == target.name and show(source)['pid'] is None
        assert goes_on(target)[1] > was[1]                              # it did not begin anew
        assert 'boot' not in target.run('vm', 'console', 'g', '--log').out.partition('\n')[0] or target is h1
        assert not alive(pid)
        pid = show(target)['pid']
        source.fails('busy', 'vm', 'kill', 'g')
    assert any('moved to host h2' in e['text'] for e in h1.json('event', 'list'))
    assert any('came from host h1' in e['text'] for e in h2.json('event', 'list'))
    h2.ok('vm', 'stop', 'g', '--timeout', '20')
    for h in (h1, h2):
        h.ok('volume', 'unmount', 'v1')
    h1.ok('volume', 'check', lun)


def begin(source, target, *words):
    """A migration under way; it ends by itself."""
    return subprocess.Popen([BIN / 'perilune', '--connect', source.dir, 'vm', 'migrate', 'g', '--to', target.name, *words],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def book(cluster, name='g'):
    """When its monitors ran and stood still: words of what happened."""
    path = cluster.stub / f'{name}.log'
    return [line.split()[3:] for line in path.read_text().splitlines()]


def stop_at(host, step):
    """The next migration stops there; returns what waits for it, and what lets it go on."""
    (host.dir / 'steps').mkdir(exist_ok=True)
    file = host.dir / 'steps' / step
    file.touch()
    return lambda: until(file.with_name(step + '.reached').exists, what=step), file.unlink


def stays(source, target, p, *words):
    """The migration fails, with these words; the VM goes on where it is, and can be moved then."""
    said = p.communicate(timeout=60)[0]
    assert p.returncode and all(w in said for w in words), said
    until(lambda: show(source)['state'] == 'running')
    goes_on(source)
    assert show(source)['host'] == source.name
    migrate(source, target)
    goes_on(target)


# --- refused before anything moves


def refused(source, target, code, *words, to=None, more=()):
    e = source.fails(code, 'vm', 'migrate', 'g', '--to', to or target.name, *more)
    assert all(w in e['message'] for w in words), e
    assert show(source)['host'] == source.name
    assert not any('came from' in x['text'] for x in target.json('event', 'list'))
    goes_on(source)


@pytest.mark.slow
def test_refusals(cluster, pair):
    h1, h2 = pair
    refused(h1, h2, 'usage', 'that is this host', to='h1')
    refused(h1, h2, 'not-found', 'nobody', to='nobody')
    refused(h1, h2, 'usage', more=('--max-downtime', '600001'))
    refused(h1, h2, 'usage', more=('--streams', '17'))
    assert h2.fails('busy', 'vm', 'migrate', 'g', '--to', 'h1')['holder'] == 'host h1'
    weak = cluster.stub / 'weak-cpu-h2'
    weak.touch()
    refused(h1, h2, 'failed', 'h2', 'avx')
    weak.unlink()
    h1.ok('vm', 'kill', 'g')
    h1.fails('usage', 'vm', 'migrate', 'g', '--to', 'h2')                # it does not run
    create(h1, 'large', '512M', ())
    (h2.dir / 'steps').mkdir(exist_ok=True)
    small = h2.dir / 'steps' / 'meminfo'
    small.write_text(f'MemTotal: {1 << 20} kB\nMemAvailable: {100 << 10} kB\n')
    h1.ok('vm', 'start', 'large')
    e = h1.fails('no-space', 'vm', 'migrate', 'large', '--to', 'h2')
    assert 'h2' in e['message'] and 'memory' in e['message'], e
    small.unlink()
    h1.ok('vm', 'kill', 'large')
    h1.ok('vm', 'start', 'g')
    h2.ok('volume', 'unmount', 'v1')
    until(lambda: not any(h['name'] == 'h2' for h in h1.json('host', 'list')))
    refused(h1, h1, 'not-found', 'h2', to='h2')


# --- something happens in the middle


def test_guest_reboots_meanwhile(pair):
    h1, h2 = pair
    wait, go_on = stop_at(h1, 'source.round')
    p = begin(h1, h2)
    wait()
    keys(h1, 'r')
    go_on()
    stays(h1, h2, p, 'the guest rebooted')


def test_guest_powers_off_meanwhile(pair):
    h1, h2 = pair
    wait, go_on = stop_at(h1, 'source.round')
    p = begin(h1, h2)
    wait()
    pid = show(h1)['pid']
    keys(h1, 'o')
    go_on()
    assert 'the VM ended' in p.communicate(timeout=60)[0] and p.returncode
    until(lambda: show(h1)['state'] == 'stopped' and not alive(pid))
    h2.ok('vm', 'start', 'g')                                           # whose lock was given up
    goes_on(h2)


@pytest.mark.slow
def test_killed_meanwhile(pair):
    h1, h2 = pair
    wait, go_on = stop_at(h1, 'source.round')
    pid = show(h1)['pid']
    p = begin(h1, h2)
    wait()
    k = subprocess.Popen([BIN / 'perilune', '--connect', h1.dir, 'vm', 'kill', 'g'], stdin=subprocess.DEVNULL)
    until(lambda: any(e['text'] == 'killed' for e in h1.json('event', 'list')))
    until(lambda: not alive(pid), what='the monitor killed, whatever the migration waits for')
    go_on()
    assert p.wait(60) and k.wait(60) == 0
    p.stdout.close()
    assert show(h1)['state'] == 'stopped'
    h2.ok('vm', 'start', 'g')
    goes_on(h2)


def test_stopped_meanwhile(pair):
    h1, h2 = pair
    wait, go_on = stop_at(h1, 'source.round')
    p = begin(h1, h2)
    wait()
    k = subprocess.Popen([BIN / 'perilune', '--connect', h1.dir, 'vm', 'stop', 'g'], stdin=subprocess.DEVNULL)
    until(lambda: any(t['verb'] == 'stop' and t['state'] == 'running' for t in h1.json('task', 'list')))
    go_on()
    assert p.wait(60) and k.wait(60) == 0
    p.stdout.close()
    assert show(h1)['state'] == 'stopped' == show(h2)['state']


@pytest.mark.slow
def test_paused_meanwhile(pair):
    h1, h2 = pair
    keys(h1, '0')
    wait, go_on = stop_at(h1, 'source.round')
    p = begin(h1, h2)
    wait()
    h1.ok('vm', 'pause', 'g')
    go_on()
    said = p.communicate(timeout=60)[0]
    assert p.returncode and 'is paused' in said and 'storage' not in said, said
    assert show(h1)['state'] == 'paused'
    h1.ok('vm', 'resume', 'g')
    goes_on(h1, disk=False)


@pytest.mark.slow
def test_a_monitor_that_does_not_answer_a_pause(pair):
    """What it was told meanwhile it does later: a guest that should not stand still goes on."""
    h1, _ = pair
    pid = show(h1)['pid']
    os.kill(pid, signal.SIGSTOP)
    assert h1.run('vm', 'pause', 'g').code
    os.kill(pid, signal.SIGCONT)
    until(lambda: show(h1)['state'] == 'running')
    goes_on(h1)
    assert show(h1)['pid'] == pid


@pytest.mark.slow
def test_a_monitor_that_does_not_answer_for_long(pair):
    h1, h2 = pair
    keys(h1, '0')
    pid = show(h1)['pid']
    wait, go_on = stop_at(h1, 'source.round')
    p = begin(h1, h2)
    wait()
    os.kill(pid, signal.SIGSTOP)
    go_on()
    said = p.communicate(timeout=60)[0]
    os.kill(pid, signal.SIGCONT)
    assert p.returncode and 'did not answer' in said, said
    goes_on(h1, disk=False)
    assert show(h1)['pid'] == pid
    until(lambda: show(h1)['state'] == 'running')
    migrate(h1, h2)
    goes_on(h2, disk=False)


def test_a_monitor_that_hangs_up(pair, cluster):
    """While the guest stands still, or is let run again: it was to run all the while, and is not said to be paused."""
    h1, h2 = pair
    for when in 'pause', 'no resume':
        wait, go_on = stop_at(h1, 'source.paused')
        if when == 'pause':
            go_on()
        with HangsUp(cluster, 'h1', when) as hung_up:
            p = begin(h1, h2, '--quick')
            if when != 'pause':
                wait()
                h1.ok('task', 'cancel', next(t['id'] for t in h1.json('task', 'list') if t['state'] == 'running'))
                go_on()
            hung_up()
            assert show(h1)['state'] == 'running', when
        p.communicate(timeout=60)
        assert p.returncode
        goes_on(h1)
    assert not any(e['text'].startswith(('paused', 'running again')) for e in h1.json('event', 'list'))
    migrate(h1, h2)
    goes_on(h2)


def cpu_limits(host, name='g'):
    """Of the monitor's control groups: the files, with what says that there is no limit."""
    group = f'{host.dir}:v1:{name}'.replace('/', '_')
    return [(f, none) for root in ('', '/unified', '/cpu,cpuacct', '/cpu') for file, none in (('cpu.max', 'max'), ('cpu.cfs_quota_us', '-1'))
            if (f := pathlib.Path(f'/sys/fs/cgroup{root}/perilune/{group}/{file}')).exists()]


def unlimited(host):
    return all(f.read_text().split()[0] == none for f, none in cpu_limits(host))


@pytest.mark.slow
def test_slowed_down_when_the_daemon_dies(pair):
    h1, _ = pair
    limits = cpu_limits(h1)
    if not limits:
        pytest.skip('no control group for processor time here')
    h1.kill()
    for f, _ in limits:
        f.write_text('10000')                                           # as a migration had set it
    assert not unlimited(h1)
    h1.start()
    goes_on(h1)
    assert unlimited(h1)


@pytest.mark.slow
def test_cancelled(pair):
    h1, h2 = pair
    wait, go_on = stop_at(h1, 'source.round')
    p = begin(h1, h2)
    wait()
    task = [t for t in h1.json('task', 'list') if t['verb'] == 'migrate'][-1]
    assert task['state'] == 'running' and task['progress']['what'], task
    h1.ok('task', 'cancel', task['id'])
    go_on()
    stays(h1, h2, p)
    assert h1.json('task', 'show', task['id'])['state'] == 'cancelled'


@pytest.mark.slow
def test_only_one_at_a_time(pair):
    h1, h2 = pair
    wait, go_on = stop_at(h1, 'source.round')
    p = begin(h1, h2)
    wait()
    assert show(h1)['moves_to'] == 'h2' and show(h1)['state'] == 'running'
    assert 'moves' in h1.fails('busy', 'vm', 'migrate', 'g', '--to', 'h2')['holder']
    h1.ok('disk', 'create', 'v1:/b.disk', '--size', '64M')
    assert 'moves' in h1.fails('busy', 'vm', 'attach', 'g', '--disk', 'v1:/b.disk')['holder']
    assert show(h2)['host'] == 'h1' and show(h2)['pid'] is None
    h2.fails('busy', 'vm', 'kill', 'g')
    h2.fails('busy', 'vm', 'start', 'g')
    assert h2.run('volume', 'unmount', 'v1').code                       # it is expected there
    go_on()
    assert p.wait(60) == 0
    p.stdout.close()
    goes_on(h2)


@pytest.mark.slow
def test_daemons_stop_in_order_meanwhile(pair):
    h1, h2 = pair
    for who in (h2, h1):
        wait, go_on = stop_at(h1, 'source.round')
        p = begin(h1, h2)
        wait()
        end = subprocess.Popen(['kill', str(who.proc.pid)])
        go_on()
        p.communicate(timeout=60)
        end.wait()
        assert who.proc.wait(30) == 0
        who.start()
        until(lambda: show(h1)['state'] == 'running' and show(h1)['host'] in ('h1', 'h2'))
        if show(h1)['host'] == 'h2':                                    # it had gone before the daemon heard of its end
            migrate(h2, h1)
        goes_on(h1)


# --- how it goes


@pytest.mark.slow
def test_one_stream_and_many(pair):
    h1, h2 = pair
    migrate(h1, h2, '--streams', '1')
    migrate(h2, h1, '--streams', '8')
    goes_on(h1)


@pytest.mark.slow
def test_a_guest_that_writes_too_fast(pair):
    # A millisecond for pages: it gets less and less of its processor, or is left alone with the reason. Or stands still.
    h1, h2 = pair
    keys(h1, '6')
    p = begin(h1, h2, '--max-downtime', '40', '--no-postcopy')
    said = p.communicate(timeout=100)[0]
    if p.returncode:
        assert '--max-downtime' in said and show(h1)['host'] == 'h1', said
        goes_on(h1)
        assert unlimited(h1)
        d = migrate(h1, h2, '--quick')
        assert d['downtime_ms'] > 0
    goes_on(h2)


def test_quick(pair):
    """It stands still first; then all of it goes, once."""
    h1, h2 = pair
    keys(h1, '6')
    d = migrate(h1, h2, '--quick')
    assert d['downtime_ms'] > 0 and d['rounds'] <= 1, d
    goes_on(h2)
    wait, go_on = stop_at(h2, 'source.drained')                         # and back: killed while it stands still
    p = begin(h2, h1, '--quick')
    wait()
    h2.kill()
    go_on()
    h2.start()
    p.communicate(timeout=60)
    until(lambda: show(h2)['state'] == 'running')
    goes_on(h2)


@pytest.mark.slow
def test_a_held_one_moves_and_stays_held(pair):
    h1, h2 = pair
    h1.ok('vm', 'pause', 'g')
    was = counts(h1)
    migrate(h1, h2)
    assert show(h2)['state'] == 'paused' and show(h1)['host'] == 'h2' and counts(h2) is None
    h2.kill()
    h2.start()
    until(lambda: show(h2)['state'] == 'paused')
    migrate(h2, h1)
    assert show(h1)['state'] == 'paused' and counts(h1) == was
    h1.ok('vm', 'resume', 'g')
    assert goes_on(h1)[0] > was[0]


@pytest.mark.slow
def test_slowed_down_without_control_groups(cluster, lun):
    """It stands still and runs in turns, less and less; whatever comes of the migration, it has all of its time again."""
    h1 = cluster.hosts['h1'] = NoGroups(cluster, 'h1').start()
    h2 = cluster.host('h2')
    h1.ok('volume', 'format', 'v1', lun)
    for h in (h1, h2):
        h.ok('volume', 'mount', lun)
    h1.ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
    create(h1, memory='128M')
    h1.ok('vm', 'start', 'g')
    until(lambda: any(h['name'] == 'h1' for h in h2.json('host', 'list')))
    until(lambda: any(h['name'] == 'h2' for h in h1.json('host', 'list')))
    keys(h1, '6')
    p = begin(h1, h2, '--max-downtime', '150', '--bandwidth', '64M', '--no-postcopy')

    def task():
        until(lambda: p.poll() is not None or any(t['verb'] == 'migrate' for t in h1.json('task', 'list')))
        return [t for t in h1.json('task', 'list') if t['verb'] == 'migrate'][-1]

    def stood():
        return sum(line[0] == 'stands' for line in book(cluster))
    until(lambda: p.poll() is not None or 'slowed down' in (task()['progress']['what'] or ''), 60)
    before = stood()
    until(lambda: p.poll() is not None or stood() > before + 12, 60)    # a round makes it stand twice
    assert stood() > before + 12, p.communicate()
    with HangsUp(cluster, 'h1', 'no resume'):                           # a connection that is lost while it stands, or for good
        until(lambda: p.poll() is not None or (cluster.stub / 'hung-up-h1').exists(), 60)
        assert show(h1)['state'] == 'running' or p.poll() == 0
    if task()['state'] == 'running':
        h1.run('task', 'cancel', task()['id'])
    p.communicate(timeout=60)
    assert not any(e['text'].startswith('running again') for e in h1.json('event', 'list'))
    where = next(h for h in (h1, h2) if show(h)['pid'])
    goes_on(where)
    before = len(book(cluster))
    time.sleep(1)
    assert len(book(cluster)) - before <= 2                             # it is let run
    goes_on(where)


@pytest.mark.slow
def test_bandwidth_is_kept(pair):
    h1, h2 = pair
    keys(h1, '5')                                                       # 10,000 pages a second: all of its memory is there
    until(lambda: counts(h1)[1] > 20000)
    keys(h1, '0')
    d = migrate(h1, h2, '--bandwidth', '8M')
    assert d['sent'] > 16 << 20 and d['total_ms'] > 1000, d
    goes_on(h2)


@pytest.mark.slow
def test_maintenance_empties_a_host(pair):
    h1, h2 = pair
    h1.ok('disk', 'create', 'v1:/b.disk', '--size', '64M')
    for name, disks in (('b', ('v1:/b.disk',)), ('c', ())):
        create(h1, name, '32M', disks)
        h1.ok('vm', 'start', name)
    h1.fails('usage', 'host', 'maintenance', 'maybe')
    d = h1.json('host', 'maintenance', 'on')
    assert sorted(d['moved']) == ['v1:b', 'v1:c', 'v1:g'], d
    assert {v['host'] for v in h1.json('vm', 'list')} == {'h2'}
    for name in ('b', 'g'):
        goes_on(h2, name)
    h1.ok('volume', 'show', 'v1')
    assert h1.json('host', 'show')['maintenance'] is True
    assert 'maintenance' in h2.fails('refused', 'vm', 'migrate', 'g', '--to', 'h1')['message']
    h2.ok('vm', 'kill', 'c')
    h1.fails('refused', 'vm', 'start', 'c')
    h1.stop()
    h1.start()
    h1.fails('refused', 'vm', 'start', 'c')                             # it lasts
    e = h2.fails('busy', 'host', 'maintenance', 'on')                   # nobody takes them
    assert 'still here' in e['message'], e
    assert {v['host'] for v in h2.json('vm', 'list')} == {'h2', None}
    for h in (h1, h2):
        h.ok('host', 'maintenance', 'off')
    # Started again it listens elsewhere: the others hear of that by its beat.
    until(lambda: h2.run('vm', 'migrate', 'g', '--to', 'h1', '--verify').code == 0, 60, 0.5, what='a way to h1')
    goes_on(h1)


@pytest.mark.slow
def test_maintenance_while_a_guest_ends(pair):
    h1, h2 = pair
    reached, go = stop_at(h1, 'source.round')
    m = subprocess.Popen([BIN / 'perilune', '--json', '--connect', h1.dir, 'host', 'maintenance', 'on'], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, text=True)
    reached()
    keys(h1, 'o')
    go()
    assert json.loads(m.communicate(timeout=60)[0])['moved'] == [] and m.returncode == 0
    assert show(h1)['state'] == 'stopped'


@pytest.mark.soak
def test_to_and_fro_a_hundred_times(pair):
    h1, h2 = pair
    keys(h1, '4')
    for i in range(100):
        source, target = (h1, h2) if i % 2 == 0 else (h2, h1)
        migrate(source, target)
        goes_on(target)


# --- once the target has the lock, nothing but its monitor's death ends the VM


@pytest.mark.slow
def test_resume_is_refused_for_a_while(pair, cluster):
    h1, h2 = pair
    no = cluster.stub / 'no-resume-h2'
    no.touch()
    p = begin(h1, h2)
    until(lambda: show(h2)['state'] == 'paused' and show(h2)['host'] == 'h2')
    why = until(lambda: show(h2).get('why'))
    assert 'monitor did not let it run' in why and 'space' not in why, why
    pid = show(h2)['pid']
    h2.kill()
    h2.start()                                                          # its next daemon is refused, too
    until(lambda: show(h2)['state'] == 'paused')
    no.unlink()
    until(lambda: show(h2)['state'] == 'running')
    goes_on(h2)
    said = p.communicate(timeout=60)[0]
    assert p.returncode == 1 and 'vm g: moved to host h2, where it does not run yet' in said, said
    assert show(h2)['pid'] == pid and show(h1)['host'] == 'h2' and show(h1)['pid'] is None
    migrate(h2, h1)
    goes_on(h1)


@pytest.mark.slow
def test_a_new_daemon_whose_storage_fails(pair, lun):
    """It cannot know at once whether the VM is its own, and ends nothing."""
    h1, _ = pair
    pid = show(h1)['pid']
    h1.kill()
    reached, go = stop_at(h1, 'adopt.begun')
    h1.start()
    reached()
    h1.ok('fault', 'add', lun, '--kind', 'fail', '--op', 'read', '--range', f'{GROUPS}-{1 << 30}')   # the lease goes on
    go()
    time.sleep(2)
    assert alive(pid)
    h1.ok('fault', 'clear')
    until(lambda: show(h1)['state'] == 'running' and show(h1)['pid'] == pid, 60)
    goes_on(h1)
    h1.ok('vm', 'kill', 'g')
    h1.ok('vm', 'start', 'g')
    goes_on(h1)


def stands_still(host, *words):
    """It says so, wherever one looks, and why."""
    why = until(lambda: all(w in show(host).get('why', '') for w in words) and show(host)['why'], what='a reason')
    for vm in (show(host), *host.json('vm', 'list'), *host.json('status')['vms']):
        assert vm['state'] == 'paused' and vm['why'] == why, vm
    assert {'object': 'g', 'text': 'paused'} in host.json('status')['alarms']
    assert counts(host) is None


@pytest.mark.slow
def test_a_target_that_takes_its_time(pair):
    """The guest stands still there: that is what its state says, and nobody says that it runs."""
    h1, h2 = pair
    reached, go = stop_at(h2, 'target.disks')
    p = begin(h1, h2)
    reached()
    stands_still(h2)
    said = p.communicate(timeout=60)[0]
    assert p.returncode == 1 and 'vm g: moved to host h2, which has not said that it runs: ' in said, said
    assert 'see perilune vm show g --on h2' in said, said
    assert show(h1)['host'] == 'h2' and show(h1)['pid'] is None
    assert any('has not said that it runs' in e['text'] for e in h1.json('event', 'list'))
    task = next(t for t in h1.json('task', 'list') if t['verb'] == 'migrate')
    assert task['state'] == 'failed' and task['result']['to'] == 'h2', task
    stands_still(h2)
    go()
    until(lambda: show(h2)['state'] == 'running')
    assert 'why' not in show(h2)
    goes_on(h2)
    migrate(h2, h1)
    goes_on(h1)


@pytest.mark.slow
def test_a_restored_one_that_takes_its_time(pair):
    h1, h2 = pair
    h1.ok('vm', 'save', 'g')
    reached, go = stop_at(h2, 'restore.disks')
    p = subprocess.Popen([BIN / 'perilune', '--connect', h2.dir, 'vm', 'restore', 'g'], stdin=subprocess.DEVNULL)
    reached()
    stands_still(h2)
    assert p.poll() is None
    go()
    assert p.wait(60) == 0
    assert show(h2)['state'] == 'running' and 'why' not in show(h2)
    goes_on(h2)


@pytest.mark.slow
def test_one_that_came_and_whose_daemon_died(pair):
    """What has come stands still, until the new daemon lets it run."""
    h1, h2 = pair
    reached, go = stop_at(h2, 'target.accepted')
    p = begin(h1, h2)
    reached()
    h2.kill()
    go()
    said = p.communicate(timeout=60)[0]
    assert p.returncode == 1 and 'vm g: moved to host h2, which has not said that it runs: ' in said, said
    reached, go = stop_at(h2, 'adopt.begun')
    h2.start()
    reached()
    stands_still(h2)
    go()
    until(lambda: show(h2)['state'] == 'running')
    goes_on(h2)


@pytest.mark.slow
def test_a_monitor_that_dies_as_soon_as_it_has_the_vm(pair, cluster):
    """Then nobody runs it, and nobody says so."""
    h1, h2 = pair
    reached, go = stop_at(h2, 'target.accepted')
    p = begin(h1, h2)
    reached()
    os.kill(next(v for v in cluster.vmms() if f'{h2.dir}:v1:g' in pathlib.Path(f'/proc/{v}/cmdline').read_text()), signal.SIGKILL)
    go()
    said = p.communicate(timeout=60)[0]
    assert p.returncode and 'is stopped, host h2 could not run it: host h2: vm g: its monitor died' in said, said
    until(lambda: show(h2)['state'] == 'crashed' and show(h1)['state'] == 'stopped')
    assert not any('came from' in e['text'] for e in h2.json('event', 'list'))
    h1.ok('vm', 'start', 'g')
    goes_on(h1)
    assert show(h2)['state'] == 'running'
    h1.ok('vm', 'kill', 'g')
    assert show(h2)['state'] == 'stopped' and 'error' not in show(h2)   # that crash was a life ago


@pytest.mark.slow
@pytest.mark.parametrize('step', ['source.offered', 'target.called'])
def test_a_daemon_is_stopped_while_its_storage_fails(pair, lun, step):
    """It ends soon, though it is not known who has the VM. The next one asks the lock."""
    h1, h2 = pair
    who = h1 if step.startswith('source') else h2
    at = lock_range(h1)
    reached, go = stop_at(who, step)
    p = begin(h1, h2)
    reached()
    who.ok('fault', 'add', lun, '--kind', 'fail', '--range', at)        # the lease goes on
    go()
    until(lambda: 'not known yet who has its lock' in who.log.read_text())
    who.stop()
    p.communicate(timeout=60)
    who.start()
    until(lambda: [show(h)['state'] for h in (h1, h2)] == ['running'] * 2 and show(h1)['host'] == show(h2)['host'], 60)
    where, other = (h1, h2) if show(h1)['host'] == 'h1' else (h2, h1)
    goes_on(where)
    migrate(where, other)
    goes_on(other)


# --- with KVM


@pytest.mark.slow
@pytest.mark.skipif(not os.access('/dev/kvm', os.R_OK | os.W_OK), reason='no /dev/kvm')
def test_with_a_processor():
    with Cluster() as cluster:
        lun = cluster.lun()
        h1, h2 = (cluster.host(n, '--listen', '127.0.0.1:0') for n in ('h1', 'h2'))
        h1.ok('volume', 'format', 'v1', lun)
        for h in (h1, h2):
            h.ok('volume', 'mount', lun)
        h1.ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
        vmlib.create(h1)
        h1.ok('vm', 'start', 'g')
        until(lambda: len(h1.json('host', 'list')) == 2 == len(h2.json('host', 'list')))
        for i, (source, target) in enumerate(((h1, h2), (h2, h1), (h1, h2))):
            with vmlib.Shell(source) as shell:
                shell.run(f'w {i * 1000} 100 1 7', 'w ok')
            migrate(source, target)
            with vmlib.Shell(target) as shell:
                shell.run('v', 'v ok')                                  # each block as it was written, on whatever host
        h2.ok('vm', 'reboot', 'g', '--force')                           # its monitor never had a kernel
        with vmlib.Shell(h2) as shell:
            shell.run('w 0 100 1 7', 'w ok')
