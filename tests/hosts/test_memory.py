# SPDX-License-Identifier: Apache-2.0
"""What VMs get of their host's memory: definitions, targets, migrations. Monitors are programs (vmm_stub.c), whose guests
obey a balloon at once; the device itself: test_balloon.py, real guests: tests/lab/test_memory.py."""
import glob, hashlib, mmap, os, pathlib, subprocess, time

import pytest

from hostlib import BIN, until
from stublib import HangsUp, NoGroups, alive, cluster, create, goes_on, keys, show  # noqa: F401 (cluster is a fixture)

MiB = 1 << 20


def memory(host, name='g'):
    d = show(host, name)
    return [d[k] // MiB for k in ('memory', 'memory_max', 'memory_reservation', 'memory_target')]


def ballooned(host, mib, name='g'):
    until(lambda: (show(host, name)['guest_memory'] or {}).get('ballooned') == mib * MiB, what=f'{mib} MiB in the balloon')


def test_of_a_vm_that_is_off(host):
    create(host)
    assert memory(host) == [32, 32, 32, 32]
    d = show(host)
    assert d['memory_shares'] == 100 and d['memory_used'] is None and d['guest_memory'] is None
    host.ok('vm', 'set', 'g', '--memory', '16M')
    assert memory(host) == [16, 32, 16, 16]
    host.ok('vm', 'set', 'g', '--memory-max', '64M')
    assert memory(host) == [16, 64, 16, 16]
    host.ok('vm', 'set', 'g', '--memory', '48M', '--memory-reservation', '8M', '--memory-shares', '300')
    assert memory(host) == [48, 64, 8, 48] and show(host)['memory_shares'] == 300
    host.stop()
    host.start()
    assert memory(host) == [48, 64, 8, 48]
    for words in (['--memory', '65M'], ['--memory', '66M'], ['--memory', '0'], ['--memory-reservation', '50M'], ['--memory-shares', '0'],
                  ['--memory-max', '32M'], ['--memory-max', '3M'], []):
        assert 'vm' in host.fails('usage', 'vm', 'set', 'g', *words)['message']
    assert memory(host) == [48, 64, 8, 48]
    host.fails('not-found', 'vm', 'set', 'x', '--memory', '16M')
    host.ok('vm', 'create', 'b', '--volume', 'v1', '--memory', '16M', '--memory-max', '32M')
    assert memory(host, 'b') == [16, 32, 16, 16]
    host.ok('vm', 'set', 'b', '--memory', '32M')
    host.ok('vm', 'set', 'b', '--memory-max', '64M')                    # it had all: it has all
    assert memory(host, 'b') == [64, 64, 64, 64]
    host.fails('usage', 'vm', 'create', 'c', '--volume', 'v1', '--memory', '16M', '--memory-max', '8M')


@pytest.mark.slow
def test_of_one_that_runs_and_moves(cluster, host):
    create(host)
    host.ok('vm', 'set', 'g', '--memory', '24M')
    host.ok('vm', 'start', 'g')
    goes_on(host)
    ballooned(host, 8)
    d = show(host)
    assert 0 < d['memory_used'] <= 32 * MiB and d['guest_memory']['total'] == 24 * MiB and d['guest_memory']['free'] is None
    host.ok('vm', 'set', 'g', '--memory', '16M')
    ballooned(host, 16)
    host.fails('busy', 'vm', 'set', 'g', '--memory-max', '64M')
    host.fails('usage', 'vm', 'set', 'g', '--memory', '64M')
    host.kill()                                                         # the next daemon finds it as it was said
    host.start()
    until(lambda: show(host)['state'] == 'running')
    goes_on(host)
    ballooned(host, 16)
    host.ok('vm', 'set', 'g', '--memory', '20M')
    ballooned(host, 12)

    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', cluster.dir / 'lun0')
    until(lambda: any(h['name'] == 'h2' for h in host.json('host', 'list')))
    assert 'h1' in h2.fails('busy', 'vm', 'set', 'g', '--memory', '8M')['message']
    host.json('vm', 'migrate', 'g', '--to', 'h2', '--verify', timeout=120)
    goes_on(h2)
    ballooned(h2, 12)
    assert memory(h2) == [20, 32, 20, 20]
    h2.ok('vm', 'set', 'g', '--memory', '32M')
    ballooned(h2, 0)
    h2.ok('vm', 'kill', 'g')
    assert memory(host) == [32, 32, 32, 32]


def drill(host, total, available):
    """What /proc/meminfo says to this host, in MiB."""
    steps = host.dir / 'steps'
    steps.mkdir(exist_ok=True)
    new = steps / 'meminfo.new'
    new.write_text(f'MemTotal: {total << 10} kB\nMemAvailable: {available << 10} kB\n')
    new.rename(steps / 'meminfo')


@pytest.mark.slow
def test_what_is_reserved_must_be_there(cluster, host):
    # 1024 MiB, of which the host keeps 128: 896 for VMs.
    drill(host, 1024, 900)
    create(host, 'a', '512M')
    create(host, 'b', '512M', ())
    create(host, 'c', '256M', ())
    host.ok('vm', 'start', 'a')
    e = host.fails('no-space', 'vm', 'start', 'b')['message']
    assert '512 MiB' in e and '384 left' in e and '896 MiB' in e
    assert show(host, 'b')['state'] == 'stopped'
    host.ok('vm', 'start', 'c')
    host.fails('no-space', 'vm', 'start', 'b')
    host.ok('vm', 'set', 'b', '--memory-reservation', '130M')
    host.fails('no-space', 'vm', 'start', 'b')                          # two MiB too much
    host.ok('vm', 'set', 'b', '--memory-reservation', '128M')
    host.ok('vm', 'start', 'b')
    host.fails('no-space', 'vm', 'set', 'b', '--memory-reservation', '129M')
    assert show(host, 'b')['memory_reservation'] == 128 * MiB
    host.ok('vm', 'set', 'b', '--memory-reservation', '100M')
    host.ok('vm', 'kill', 'c')
    host.ok('vm', 'set', 'b', '--memory-reservation', '384M')
    host.kill()                                                         # what runs is taken up, whatever there is
    drill(host, 512, 400)
    host.start()
    for vm in 'ab':
        until(lambda: show(host, vm)['state'] == 'running')
    assert 'reserved' in host.fails('no-space', 'vm', 'start', 'c')['message']
    host.ok('vm', 'kill', 'b')

    h2 = cluster.host('h2')                                             # and at a migration's target, before anything moves
    h2.ok('volume', 'mount', cluster.dir / 'lun0')
    until(lambda: any(h['name'] == 'h2' for h in host.json('host', 'list')))
    drill(h2, 512, 600)
    e = host.fails('no-space', 'vm', 'migrate', 'a', '--to', 'h2')['message']
    assert '512 MiB' in e and 'h2' in e
    drill(h2, 2048, 300)
    assert '300 MiB of memory are free' in host.fails('no-space', 'vm', 'migrate', 'a', '--to', 'h2')['message']
    goes_on(host, 'a')
    drill(h2, 2048, 1800)
    host.json('vm', 'migrate', 'a', '--to', 'h2', timeout=120)
    assert show(h2, 'a')['state'] == 'running'


@pytest.mark.slow
def test_a_target_must_have_what_the_guest_uses(cluster, host):
    """Reserved or not: refused before anything moves, with both numbers."""
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', cluster.dir / 'lun0')
    create(host, 'g', '256M')
    host.ok('vm', 'set', 'g', '--memory-reservation', '16M')
    host.ok('vm', 'start', 'g')
    goes_on(host)
    fill(host, 'g')
    drill(h2, 1024, 100)
    until(lambda: any(h['name'] == 'h2' for h in host.json('host', 'list')))
    e = host.fails('no-space', 'vm', 'migrate', 'g', '--to', 'h2')['message']
    assert 'h2' in e and '256 MiB of memory in use' in e and '100 MiB are free' in e, e
    assert show(host)['host'] == 'h1' and not events(h2, 'came from')
    goes_on(host)
    drill(h2, 1024, 500)
    host.json('vm', 'migrate', 'g', '--to', 'h2', '--verify', timeout=120)
    goes_on(h2)


def test_two_that_reserve_at_once_do_not_both_get_it(host):
    """One is admitted, and its definition is not written yet."""
    drill(host, 1024, 900)
    for vm in 'abc':
        create(host, vm, '256M', () if vm != 'a' else ('v1:/a.disk',))
        host.ok('vm', 'set', vm, '--memory-reservation', '0')
    host.ok('vm', 'set', 'c', '--memory-max', '640M', '--memory-reservation', '640M')
    for vm in 'ab':
        host.ok('vm', 'start', vm)
    step = host.dir / 'steps' / 'set.admitted'
    step.write_text('')
    first = subprocess.Popen([BIN / 'perilune', '--connect', host.dir, 'vm', 'set', 'a', '--memory-reservation', '256M'],
                             stdout=subprocess.DEVNULL)
    try:
        until(lambda: step.with_suffix('.admitted.reached').exists())
        host.ok('vm', 'start', 'c')                                     # both fit: 896
        host.ok('vm', 'kill', 'c')
        host.ok('vm', 'set', 'c', '--memory-max', '642M', '--memory-reservation', '642M')
        assert '640 left' in host.fails('no-space', 'vm', 'start', 'c')['message']
        step.unlink()
        assert first.wait(60) == 0
    finally:
        step.unlink(missing_ok=True)
        first.wait()
    assert show(host, 'a')['memory_reservation'] == 256 * MiB
    host.fails('no-space', 'vm', 'start', 'c')
    host.ok('vm', 'set', 'a', '--memory-reservation', '254M')
    host.ok('vm', 'start', 'c')


def test_processors_that_are_not_there(host):
    create(host)
    host.ok('vm', 'set', 'g', '--cpu-affinity', '1000')                 # off: other hosts may have it
    host.ok('vm', 'set', 'g', '--cpu-affinity', '0')
    host.ok('vm', 'start', 'g')
    assert 'no processor' in host.fails('usage', 'vm', 'set', 'g', '--cpu-affinity', '1000')['message']
    assert show(host)['cpu_affinity'] == '0'
    host.kill()
    host.start()
    until(lambda: show(host)['state'] == 'running')
    assert show(host)['cpu_affinity'] == '0' and os.sched_getaffinity(show(host)['pid']) == {0}
    host.ok('vm', 'set', 'g', '--cpu-affinity', '0,1000')
    assert os.sched_getaffinity(show(host)['pid']) == {0}
    assert os.sched_getaffinity(host.proc.pid) == os.sched_getaffinity(0)


def threads(pid):
    return [int(t) for t in os.listdir(f'/proc/{pid}/task')]


def test_processors_are_the_daemons_own(host):
    """Those that the kernel or the daemon's service keeps for others are no VM's, unless it says so; nor I/O threads'."""
    create(host)
    create(host, 'b', '32M', ())
    host.ok('vm', 'start', 'g')
    own, one = os.sched_getaffinity(0), max(os.sched_getaffinity(0))
    assert os.sched_getaffinity(show(host)['pid']) == own
    host.stop()
    host.prefix = ['taskset', '-c', str(one), *host.prefix]
    host.start()
    until(lambda: show(host)['state'] == 'running')
    host.ok('vm', 'start', 'b')
    for vm in 'gb':                                                     # also what a daemon before has started
        assert all(os.sched_getaffinity(t) == {one} for t in threads(show(host, vm)['pid']))
    io = [t for t in threads(host.proc.pid) if pathlib.Path(f'/proc/{t}/comm').read_text().startswith('io/')]
    assert len(io) == 1 and os.sched_getaffinity(io[0]) == {one}
    host.ok('vm', 'set', 'b', '--cpu-affinity', str(min(own)))
    assert os.sched_getaffinity(show(host, 'b')['pid']) == {min(own)}
    host.ok('vm', 'set', 'b', '--cpu-affinity', 'all')
    assert os.sched_getaffinity(show(host, 'b')['pid']) == {one}


def test_processors_without_control_groups(cluster):
    """What needs none is kept though the rest cannot be."""
    host = cluster.hosts['h1'] = NoGroups(cluster, 'h1').start()
    lun = cluster.lun()
    host.ok('volume', 'format', 'v1', lun)
    host.ok('volume', 'mount', lun)
    create(host, 'g', '32M', ())
    host.ok('vm', 'set', 'g', '--cpu-weight', '300', '--cpu-affinity', '0')
    host.ok('vm', 'start', 'g')
    until(lambda: 'no control group' in host.log.read_text())
    told = next(e for e in host.json('event', 'list') if 'no control group' in e['text'])
    assert told['object'] == 'v1:g' and told['text'].startswith('this host has no'), told
    assert os.sched_getaffinity(show(host)['pid']) == {0}


def test_processors_reserved(host):
    n = len(os.sched_getaffinity(0))
    create(host, 'a', '32M', ('v1:/a.disk',), '--cpus', '2')
    create(host, 'b', '32M', (), '--cpus', '64')
    host.ok('vm', 'set', 'a', '--cpu-reservation', '60')
    host.ok('vm', 'set', 'b', '--cpu-reservation', str(100 * os.cpu_count() - 50))
    host.ok('vm', 'start', 'a')
    assert 'processor' in host.fails('no-space', 'vm', 'start', 'b')['message']
    host.ok('vm', 'set', 'a', '--cpu-reservation', '50')
    host.ok('vm', 'start', 'b')


def group_file(host, pool, vm, *files):
    name = f'{host.dir}:v1:{vm}'.replace('/', '_')
    for root in ('', '/cpu', '/cpu,cpuacct'):
        for file in files:
            f = pathlib.Path(f'/sys/fs/cgroup{root}/perilune/{pool}{name}/{file}')
            if f.exists():
                return f.read_text().split()
    pytest.fail(f'no {files} of {vm}')


def weight(host, vm, pool=''):
    w = int(group_file(host, pool, vm, 'cpu.weight', 'cpu.shares')[0])
    return w if w <= 10000 and not os.path.exists('/sys/fs/cgroup/cpu') else w * 100 // 1024


def limit(host, vm, pool=''):
    w = group_file(host, pool, vm, 'cpu.max', 'cpu.cfs_quota_us')[0]
    return None if w in ('max', '-1') else int(w) // 1000


def in_group(host, vm, pool=''):
    return str(show(host, vm)['pid']) in group_file(host, pool, vm, 'cgroup.procs')


def has_cpu_groups(host):
    return next(c for c in host.json('host', 'check') if c['name'] == 'cgroups')['ok']


def test_weights_limits_pools_and_affinity(host):
    web = f'web{os.getpid()}'                                           # groups are the machine's, and others test, too
    inside = f'pool-{web}/'
    create(host, 'g', '32M', ('v1:/a.disk',), '--cpus', '2')
    if not has_cpu_groups(host):
        host.ok('vm', 'start', 'g')
        for words in (['--cpu-weight', '300'], ['--cpu-limit', '50'], ['--pool', web]):
            assert 'control group' in host.fails('failed', 'vm', 'set', 'g', *words)['message']
        host.ok('vm', 'set', 'g', '--cpu-affinity', '0')
        return
    host.ok('vm', 'set', 'g', '--cpu-weight', '300', '--cpu-limit', '150')
    host.ok('vm', 'start', 'g')
    assert weight(host, 'g') in (299, 300) and limit(host, 'g') == 150 and in_group(host, 'g')
    host.ok('vm', 'set', 'g', '--cpu-limit', '0', '--cpu-weight', '50')
    assert weight(host, 'g') == 50 and limit(host, 'g') is None
    host.ok('vm', 'set', 'g', '--cpu-reservation', '80')                # kept by a weight
    assert weight(host, 'g') in (79, 80)
    host.ok('pool', 'set', web, '--cpu-limit', '120', '--cpu-weight', '200')
    host.ok('vm', 'set', 'g', '--pool', web, '--cpu-limit', '70', '--cpu-reservation', '0')
    assert in_group(host, 'g', inside) and limit(host, 'g', inside) == 70
    pool = next(p for p in host.json('pool', 'list') if p['name'] == web)
    assert pool == {'name': web, 'cpu_weight': 200, 'cpu_limit': 120, 'vms': ['g']}
    host.kill()
    host.start()
    until(lambda: show(host)['state'] == 'running')
    assert in_group(host, 'g', inside) and limit(host, 'g', inside) == 70
    host.ok('vm', 'set', 'g', '--pool', 'none')
    assert in_group(host, 'g') and limit(host, 'g') == 70
    host.ok('pool', 'set', web, '--cpu-limit', '0', '--cpu-weight', '100')
    assert host.json('pool', 'list') == []
    assert not glob.glob(f'/sys/fs/cgroup/**/perilune/{inside}', recursive=True)  # others' groups come and go meanwhile
    host.fails('usage', 'pool', 'set', '../up', '--cpu-limit', '10')
    host.fails('usage', 'vm', 'set', 'g', '--pool', 'a/b')

    pid = show(host)['pid']
    host.ok('vm', 'set', 'g', '--cpu-affinity', '0')
    assert all(os.sched_getaffinity(int(t)) == {0} for t in os.listdir(f'/proc/{pid}/task'))
    assert 'no processor' in host.fails('usage', 'vm', 'set', 'g', '--cpu-affinity', '1000')['message']
    host.ok('vm', 'set', 'g', '--cpu-affinity', 'all')
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)


def test_a_daemon_that_dies_in_the_middle_of_vm_set(host):
    """The definition says it; the next daemon does it."""
    if not has_cpu_groups(host):
        pytest.skip('no control group that shares processors')
    create(host, 'g', '32M', ('v1:/a.disk',), '--cpus', '2')
    host.ok('vm', 'start', 'g')
    step = host.dir / 'steps' / 'set.written'
    step.parent.mkdir(exist_ok=True)
    step.write_text('')
    task = subprocess.Popen([BIN / 'perilune', '--connect', host.dir, 'vm', 'set', 'g', '--pool', 'web', '--cpu-limit', '70'],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: step.with_suffix('.written.reached').exists())
        assert in_group(host, 'g')
        host.kill()
    finally:
        step.unlink()
        task.kill()
        task.wait()
    host.start()
    until(lambda: show(host)['state'] == 'running')
    assert show(host)['pool'] == 'web' and in_group(host, 'g', 'pool-web/') and limit(host, 'g', 'pool-web/') == 70
    host.ok('vm', 'kill', 'g')


def test_a_vm_that_ends_in_the_middle_of_vm_set(host):
    """What is to be done in its supervisor is not waited for any more: both end."""
    create(host)
    host.ok('vm', 'start', 'g')
    step = host.dir / 'steps' / 'set.written'
    step.parent.mkdir(exist_ok=True)
    step.write_text('')
    tasks = []
    try:
        for words in ('set', 'g', '--cpu-affinity', '0'), ('kill', 'g'):
            tasks.append(subprocess.Popen([BIN / 'perilune', '--connect', host.dir, 'vm', *words], stdout=subprocess.DEVNULL,
                                          stderr=subprocess.DEVNULL))
            until(lambda: step.with_suffix('.written.reached').exists())
        until(lambda: not show(host)['pid'] or not alive(show(host)['pid']))
        step.unlink()
        for t in tasks:
            t.wait(60)
        until(lambda: show(host)['state'] == 'stopped')
    finally:
        step.unlink(missing_ok=True)
        for t in tasks:
            t.kill()
            t.wait()
    host.ok('vm', 'start', 'g')
    assert show(host)['cpu_affinity'] == '0'


def test_top(host):
    create(host)
    assert host.json('vm', 'top') == []
    host.ok('vm', 'start', 'g')
    goes_on(host)

    def top():
        d = host.json('vm', 'top')[0]
        return d['cpu'] is not None and d['write_bytes'] > 0 and d['memory_used'] > 0 and d
    d = until(top, what='a second look')
    assert (d['name'], d['state'], d['memory'], d['cpus']) == ('g', 'running', 32 * MiB, 1)
    assert d['cpu'] >= 0 and d['read'] >= 0 and d['write'] >= 0 and d['cpu_seconds'] >= 0
    assert 'USED' in host.ok('vm', 'top').out


def target(host, name):
    return show(host, name)['memory_target'] // MiB


def events(host, text):
    return [e for e in host.json('event', 'list') if text in e['text']]


def guest_memory(host, name):
    """Its monitor's, as a file."""
    pid = show(host, name)['pid']
    return open(next(f'/proc/{pid}/fd/{fd}' for fd in os.listdir(f'/proc/{pid}/fd')
                     if os.readlink(f'/proc/{pid}/fd/{fd}').startswith('/memfd:guest')), 'r+b')


def fill(host, name):
    """All of it is in use, as seen from outside: what its guest never touched are pages of zeroes now. No byte is written."""
    with guest_memory(host, name) as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as memory:
        os.posix_fallocate(f.fileno(), 0, len(memory))
        memory[::4096]                                                  # before, such pages count as holes for those who seek data


@pytest.mark.slow
def test_vms_give_when_the_host_lacks_memory_and_get_back(host):
    # Of 1024 MiB: low below 64, enough from 128 on.
    drill(host, 1024, 500)
    create(host, 'a', '128M')
    create(host, 'b', '128M', ())
    create(host, 'c', '64M', ())
    host.ok('vm', 'set', 'a', '--memory-reservation', '32M')
    host.ok('vm', 'set', 'b', '--memory-reservation', '32M', '--memory-shares', '300')
    for vm in 'abc':
        host.ok('vm', 'start', vm)
        if vm == 'b':
            keys(host, '0', vm)                                         # it writes no pages, `a` does
        fill(host, vm)
        until(lambda: show(host, vm)['memory_used'] == show(host, vm)['memory_max'] and show(host, vm)['guest_memory'])
    assert [target(host, vm) for vm in 'abc'] == [128, 128, 64]
    drill(host, 1024, 48)
    until(lambda: target(host, 'a') < 128 and target(host, 'b') < 128)
    a, b = 128 - target(host, 'a'), 128 - target(host, 'b')
    assert 78 <= a + b <= 84 and 2 * b < a < 4 * b and target(host, 'c') == 64, (a, b)
    ballooned(host, a, 'a')
    until(lambda: events(host, 'are asked for'))
    assert show(host, 'a')['memory'] == 128 * MiB                       # what it is to have, when there is enough
    until(lambda: {e['object'] for e in events(host, 'nothing but zeroes')} == {'v1:a', 'v1:b'}, 60)  # what they never wrote is no loss
    assert show(host, 'c')['memory_used'] == 64 * MiB                   # all of it is reserved
    until(lambda: 32 * MiB <= show(host, 'b')['memory_used'] < 64 * MiB)
    drill(host, 1024, 500)
    until(lambda: [target(host, vm) for vm in 'abc'] == [128, 128, 64])
    ballooned(host, 0, 'a')
    assert events(host, 'available again')
    goes_on(host, 'a')


def nobody_writes(host, name, before, end=None):
    """In its next standstill for a sweep, which begins after `before()`, its memory (up to `end`) stays what it is."""
    step = host.dir / 'steps' / 'sweep.stands'
    reached = step.with_suffix('.stands.reached')
    step.parent.mkdir(exist_ok=True)
    step.write_text('')
    try:
        with guest_memory(host, name) as f, mmap.mmap(f.fileno(), end or 0, prot=mmap.PROT_READ) as memory:
            before()
            until(reached.exists, 60, 0.005, what='a standstill')
            was = hashlib.blake2b(memory).digest()
            time.sleep(0.3)
            assert hashlib.blake2b(memory).digest() == was, f'somebody writes to the memory of {name}'
    finally:
        step.unlink()
    reached.unlink()


@pytest.mark.slow
def test_a_sweep_waits_for_disks_and_pauses_nobody(cluster, host):
    """What disks read is not written while it stands; a monitor that hangs up just then leaves nobody paused."""
    drill(host, 1024, 500)
    create(host, 'a', '64M')
    host.ok('vm', 'set', 'a', '--memory-reservation', '8M')
    host.ok('vm', 'start', 'a')
    keys(host, '0', 'a')
    fill(host, 'a')
    host.ok('fault', 'add', cluster.dir / 'lun0', '--kind', 'delay=100', '--op', 'read', '--range', f'{16 * MiB}-{1024 * MiB}')

    def loses_its_monitor():
        with HangsUp(cluster, 'h1', 'pause') as hung_up:
            drill(host, 1024, 48)
            hung_up()
        goes_on(host, 'a')                                              # it runs again, by the next connection
    nobody_writes(host, 'a', loses_its_monitor, 8 * MiB)                # rings, and what disks read: quickly looked at
    host.ok('fault', 'clear')
    until(lambda: events(host, 'nothing but zeroes'), 60, what='the next sweep')
    assert not events(host, 'running again') and not events(host, 'paused')
    assert show(host, 'a')['state'] == 'running'


def park(host):
    """Memory all but runs out, until one is saved for it; there is not enough for it to come back."""
    step = host.dir / 'steps' / 'save.begun'
    step.touch()
    drill(host, 1024, 10)
    until(step.with_suffix('.begun.reached').exists, 60)
    drill(host, 1024, 100)
    step.unlink()
    step.with_suffix('.begun.reached').unlink()
    until(lambda: show(host, 'a')['state'] == 'saved' and show(host, 'a')['pid'] is None, 60)


@pytest.mark.slow
def test_the_last_resort_is_to_save_the_least(cluster, host):
    drill(host, 1024, 500)
    create(host, 'a', '64M')
    create(host, 'b', '64M', ())
    create(host, 'c', '64M', ())
    host.ok('vm', 'set', 'a', '--memory-reservation', '60M', '--memory-shares', '50')
    host.ok('vm', 'set', 'b', '--memory-reservation', '60M')
    host.ok('vm', 'set', 'c', '--memory-shares', '1')                   # all of it is reserved: not this one
    for vm in 'abc':
        host.ok('vm', 'start', vm)
    goes_on(host, 'a')
    park(host)
    assert (show(host, 'b')['state'], show(host, 'c')['state']) == ('running', 'running')
    assert events(host, 'least shares') and events(host, 'it comes back by itself')
    host.stop()                                                         # the next daemon knows
    drill(host, 1024, 500)
    host.start()
    until(lambda: show(host, 'a')['state'] == 'running', 60)
    goes_on(host, 'a')
    until(lambda: events(host, 'goes on where it was saved'))

    park(host)                                                          # what somebody saves meanwhile stays saved
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', cluster.dir / 'lun0')
    h2.ok('vm', 'start', 'a')
    goes_on(h2, 'a')
    h2.ok('vm', 'save', 'a')
    drill(host, 1024, 500)
    until(lambda: events(host, 'does not come back by itself'), 60)
    assert show(host, 'a')['state'] == 'saved'
    host.ok('vm', 'restore', 'a')
    goes_on(host, 'a')

    step = host.dir / 'steps' / 'save.taken'                            # a stop waits for no save of the host's own
    step.touch()
    drill(host, 1024, 10)
    until(step.with_suffix('.taken.reached').exists, 60)
    host.proc.terminate()
    until(lambda: host.run('host', 'list').code == 8, 60)
    step.unlink()
    assert host.proc.wait(60) == 0
    assert 'not saved: perilund is stopping' in host.log.read_text()
    drill(host, 1024, 500)
    host.start()
    until(lambda: show(host, 'a')['state'] == 'running')
    goes_on(host, 'a')
    for vm in 'abc':
        host.ok('vm', 'kill', vm)


@pytest.mark.slow
def test_one_that_cannot_come_back_at_once_is_tried_again(cluster, host):
    """The host is in maintenance, or its storage fails: reasons that pass."""
    drill(host, 1024, 500)
    create(host, 'a', '64M')
    host.ok('vm', 'set', 'a', '--memory-reservation', '60M', '--memory-shares', '50')
    host.ok('vm', 'start', 'a')
    goes_on(host, 'a')
    park(host)
    host.run('host', 'maintenance', 'on')
    drill(host, 1024, 500)
    time.sleep(3)
    assert show(host, 'a')['state'] == 'saved' and not events(host, 'not started again')
    step = host.dir / 'steps' / 'restore.read'                          # it has begun; then its storage fails
    step.touch()
    reached = step.with_suffix('.read.reached')
    host.ok('host', 'maintenance', 'off')
    until(reached.exists, 60)
    at = f'{16 << 20}-{1 << 30}'
    host.ok('fault', 'add', cluster.dir / 'lun0', '--kind', 'fail', '--op', 'read', '--range', at)
    step.unlink()
    until(lambda: events(host, 'not started again yet'), 60)
    assert not events(host, 'does not come back')
    host.ok('fault', 'clear')
    until(lambda: show(host, 'a')['state'] == 'running', 60)
    until(lambda: events(host, 'goes on where it was saved'))
    goes_on(host, 'a')
