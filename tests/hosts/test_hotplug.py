# SPDX-License-Identifier: Apache-2.0
"""Disks that come and go while their VM runs: `vm attach`, `vm detach`."""
import json, os, struct, subprocess, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from hostlib import BIN, until
from vmlib import Shell, create, show

pytestmark = pytest.mark.slow

if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)

MiB = 1 << 20
BEATS = 16 * MiB                # a volume's claims and beats lie before that
RESCAN, REMOVED = 1, 2
NO_SUCH_LUN = 't 5 37 0'


def disk(host, name='b', size='64M'):
    host.ok('disk', 'create', f'v1:/{name}.disk', '--size', size)
    return f'v1:/{name}.disk'


def attached(host, name='g'):
    return {d['disk']: d['lun'] for d in show(host, name)['attached']}


@contextmanager
def slow_writes(host):
    """Each takes longer than `vm detach` waits for silence, so there is one under way at any time."""
    [extent] = host.json('volume', 'show', 'v1')['extents']
    host.ok('fault', 'add', extent['lun'], '--kind', 'delay=7000', '--op', 'write', '--range', f"{BEATS}-{extent['size']}")
    yield
    host.ok('fault', 'clear')


def use(shell, lun):
    """What follows is for that LUN; its news (power on, LUNs changed) are heard."""
    shell.run(f'l {lun}', 'l ok')
    until(lambda: shell.run('t', 't ') == 't ok')


def test_a_disk_comes_and_goes(host, shell, cluster):
    b = disk(host)
    did = host.json('vm', 'attach', 'g', '--disk', b)
    assert (did['lun'], did['live']) == (1, True)
    assert shell.expect('event ') == f'event 1 {RESCAN} 1'
    assert shell.run('L', 'L ') == 'L 2 1'
    use(shell, 1)
    assert shell.run('c', 'c ') == f'c {64 * MiB // 4096}'
    shell.run('w 0 200 3 9', 'w ok')
    assert host.json('disk', 'show', b)['holder'] == {'kind': 'vm', 'name': 'g', 'host': 'h1'}
    assert host.json('disk', 'resize', b, '--size', '128M')['size'] == 128 * MiB
    assert shell.expect('event ').split()[1:] == ['3', str(0x2a | 0x09 << 8), '1']
    shell.run('t', 't ')

    r = host.ok('vm', 'detach', 'g', b)
    assert 'without an agent' in r.err and 'mounted' in r.err
    assert shell.expect('event ') == f'event 1 {REMOVED} 1'
    assert shell.run('t', 't ') == NO_SUCH_LUN
    assert shell.run('L', 'L ') == 'L 1 0'
    assert attached(host) == {'v1:/a.disk': 0}
    assert host.json('disk', 'show', b)['holder'] is None
    raw = cluster.dir / 'raw'
    host.ok('disk', 'export', b, raw)
    with open(raw, 'rb') as f:
        for i in range(0, 600, 3):
            f.seek(4096 * i)
            assert struct.unpack('<QQ', f.read(16)) == (i, 9)


def test_an_address_rests(host, shell):
    b, c = disk(host), disk(host, 'c')
    host.ok('vm', 'attach', 'g', '--disk', b)
    host.ok('vm', 'detach', 'g', b)
    assert host.json('vm', 'attach', 'g', '--disk', b)['lun'] == 2
    assert 'LUN 1 was freed' in host.fails('refused', 'vm', 'attach', 'g', '--disk', c, '--lun-number', '1')['message']
    host.kill()
    host.start()
    until(lambda: show(host)['state'] == 'running')
    host.fails('refused', 'vm', 'attach', 'g', '--disk', c, '--lun-number', '1')        # also after a restart
    assert host.fails('busy', 'vm', 'attach', 'g', '--disk', c, '--lun-number', '2')['message'] == 'vm g: LUN 2 is taken'
    host.fails('usage', 'vm', 'attach', 'g', '--disk', c, '--lun-number', '1024')
    assert host.json('vm', 'attach', 'g', '--disk', c, '--lun-number', '1023')['lun'] == 1023
    host.ok('vm', 'detach', 'g', c)
    host.ok('vm', 'reboot', 'g', '--force')                                             # another life of the guest
    shell.expect('ready')
    assert host.json('vm', 'attach', 'g', '--disk', c, '--lun-number', '1')['lun'] == 1


def test_of_a_vm_that_is_off(host):
    b, c = disk(host), disk(host, 'c')
    create(host)
    did = host.json('vm', 'attach', 'g', '--disk', b, '--lun-number', '300')
    assert (did['lun'], did['live']) == (300, False)
    assert host.json('vm', 'attach', 'g', '--disk', c)['lun'] == 1
    assert host.fails('busy', 'vm', 'attach', 'g', '--disk', c)['holder'] == 'vm g'
    host.ok('vm', 'start', 'g')
    with Shell(host) as shell:
        shell.expect('ready')
        assert shell.run('L', 'L ') == 'L 3 300'
        use(shell, 300)
        shell.run('w 0 10 1 3', 'w ok')
        shell.leave()
    host.ok('vm', 'kill', 'g')
    assert host.json('vm', 'detach', 'g', c)['live'] is False
    host.fails('not-found', 'vm', 'detach', 'g', c)
    assert show(host)['disks'] == ['v1:/a.disk', b]
    host.ok('vm', 'start', 'g')
    assert attached(host) == {'v1:/a.disk': 0, b: 300}
    host.ok('vm', 'kill', 'g')


def test_who_has_it_is_named(host, shell, cluster, lun):
    b, c = disk(host), disk(host, 'c')
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', lun)
    host.ok('vm', 'attach', 'g', '--disk', b)
    again = host.fails('busy', 'vm', 'attach', 'g', '--disk', b)
    assert 'has disk v1:/b.disk already, as LUN 1' in again['message'] and again['holder'] == 'vm g', again
    create(host, 'k', '--disk', c)
    host.ok('vm', 'start', 'k')
    other = host.fails('busy', 'vm', 'attach', 'k', '--disk', b)
    assert 'in use by VM g on host h1' in other['message'] and other['holder'] == 'vm g', other
    h2.ok('disk', 'create', 'v1:/m.disk', '--size', '16M')
    create(h2, 'm', '--disk', 'v1:/m.disk')
    for words in (('start', 'm'), ()):
        if words:
            h2.ok('vm', *words)
        there = h2.fails('busy', 'vm', 'attach', 'm', '--disk', b)
        assert 'in use by VM g on host h1' in there['message'] and there['holder'] == 'vm g', there
    assert h2.fails('busy', 'vm', 'attach', 'g', '--disk', c)['holder'] == 'host h1'
    host.fails('not-found', 'vm', 'attach', 'g', '--disk', 'v1:/none.disk')
    host.fails('usage', 'vm', 'attach', 'g', '--disk', 'v1:/vms')
    assert host.fails('not-found', 'vm', 'detach', 'k', b)['object'] == b
    # Refused ones left nothing behind.
    assert attached(h2, 'm') == {'v1:/m.disk': 0} and attached(host, 'k') == {c: 0}
    host.ok('vm', 'detach', 'g', b)
    h2.ok('vm', 'attach', 'm', '--disk', b)
    for h, name in ((host, 'k'), (h2, 'm')):
        h.ok('vm', 'kill', name)


def test_one_in_use_stays(host, shell):
    b = disk(host)
    host.ok('vm', 'attach', 'g', '--disk', b)
    shell.expect('event ')
    use(shell, 1)
    # a guest that gets no processor for a moment looks as if it used nothing: so its writes take long
    with slow_writes(host):
        shell.run('s 4096', 's on')
        refused = host.fails('busy', 'vm', 'detach', 'g', b)
    assert 'the guest is using it' in refused['message'] and '--force' in refused['message'], refused
    shell.expect('s ')                                          # was not disturbed
    shell.run('e', 'e ')
    shell.run('v', 'v ok')
    assert not any(line.startswith('event') for line in shell.said())


def test_force_takes_it_away(host, shell):
    b = disk(host)
    host.ok('vm', 'attach', 'g', '--disk', b)
    use(shell, 1)
    shell.strict = False
    shell.run('s 4096', 's on')
    host.ok('vm', 'detach', 'g', b, '--force')
    assert 'sense 5 37 0' in shell.expect('bad: failed')
    assert attached(host) == {'v1:/a.disk': 0}
    assert host.json('disk', 'show', b)['holder'] is None


def test_the_flush_of_a_guest_that_lets_go(host, shell):
    """It is served until it has flushed and is silent, and sooner than one that says nothing."""
    b = disk(host)
    host.ok('vm', 'attach', 'g', '--disk', b)
    shell.expect('event ')
    use(shell, 1)
    with ThreadPoolExecutor(1) as pool:
        gone = pool.submit(host.run, 'vm', 'detach', 'g', b)
        assert shell.expect('event ') == f'event 1 {REMOVED} 1'
        shell.run('w 0 100 1 4', 'w ok')                        # what it has to write back
        shell.run('f', 'f ok')
        assert gone.result().code == 0, gone.result()
    assert shell.run('t', 't ') == NO_SUCH_LUN


def test_attached_disks_outlive_the_daemon(host, shell):
    disks = [disk(host, n) for n in 'bcd']
    for b in disks:
        host.ok('vm', 'attach', 'g', '--disk', b)
    host.ok('vm', 'detach', 'g', disks[0])
    use(shell, 2)
    shell.run('w 0 100 1 5', 'w ok')
    host.kill()
    host.start()
    until(lambda: show(host)['state'] == 'running')
    assert attached(host) == {'v1:/a.disk': 0, disks[1]: 2, disks[2]: 3}
    assert shell.run('L', 'L ') == 'L 3 3'
    use(shell, 2)
    shell.run('r 0 100 1 5', 'r ok')
    assert host.json('vm', 'attach', 'g', '--disk', disks[0])['lun'] == 4         # the daemon after it can do so too
    use(shell, 4)
    shell.run('w 0 10 1 6', 'w ok')
    host.ok('vm', 'detach', 'g', disks[1])
    host.stop()
    host.start()
    until(lambda: show(host)['state'] == 'running')
    assert attached(host) == {'v1:/a.disk': 0, disks[2]: 3, disks[0]: 4}


def test_nothing_changes_while_it_moves(cluster, lun):
    h1, h2 = (cluster.host(name, '--listen', '127.0.0.1:0') for name in ('h1', 'h2'))
    h1.ok('volume', 'format', 'v1', lun)
    for h in (h1, h2):
        h.ok('volume', 'mount', lun)
    h1.ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
    b, c = disk(h1), disk(h1, 'c')
    create(h1)
    h1.ok('vm', 'start', 'g')
    h1.ok('vm', 'attach', 'g', '--disk', b)
    until(lambda: any(h['name'] == 'h2' for h in h1.json('host', 'list')))
    with ThreadPoolExecutor(1) as pool:
        moved = pool.submit(h1.run, 'vm', 'migrate', 'g', '--to', 'h2', '--bandwidth', '200K', timeout=120)
        until(lambda: any(t['state'] == 'running' and t['verb'] == 'migrate' for t in h1.json('task', 'list')), step=0.01)
        refused = until(lambda: (r := h1.run('--json', 'vm', 'attach', 'g', '--disk', c)).code and r)
        assert refused.code == 4 and 'wait until that is over' in refused.error['message'], refused
        assert h1.run('vm', 'detach', 'g', b).code == 4
        task = next(t['id'] for t in h1.json('task', 'list') if t['verb'] == 'migrate')
        h1.run('task', 'cancel', task)
        moved.result()
    where = h1 if show(h1)['host'] == 'h1' else h2
    where.ok('vm', 'detach', 'g', b)
    where.ok('vm', 'attach', 'g', '--disk', c)
    assert sorted(attached(where)) == ['v1:/a.disk', c]


def test_what_was_begun_is_settled_by_who_has_the_vm_next(host, cluster, lun):
    """As a host leaves it that dies between the two writes of the definition: the entry is pending."""
    b = disk(host)
    create(host)
    path, source = 'v1:/vms/g/definition.json', cluster.dir / 'definition'
    host.ok('file', 'get', path, source)
    definition = json.loads(source.read_text())
    definition['disks'].append({'path': '/b.disk', 'lun': 1, 'pending': True})
    source.write_text(json.dumps(definition))
    host.ok('file', 'put', source, path)
    assert attached(host) == {'v1:/a.disk': 0} and show(host)['disks'] == ['v1:/a.disk']
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', lun)
    h2.ok('vm', 'start', 'g')
    assert 'pending' not in h2.ok('file', 'cat', path).out
    assert h2.json('disk', 'show', b)['holder'] is None
    assert h2.json('vm', 'attach', 'g', '--disk', b)['lun'] == 1
    assert h2.json('disk', 'show', b)['holder']['name'] == 'g'
    h2.ok('vm', 'kill', 'g')


def killed_within(host, lun, after, *words):
    """The daemon dies `after` seconds after it was asked; every write takes a while."""
    host.ok('fault', 'add', lun, '--kind', 'delay=30', '--op', 'all')
    p = subprocess.Popen([BIN / 'perilune', '--connect', host.dir, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)
    host.kill()
    host.start()
    until(lambda: show(host)['state'] == 'running', 60)
    return p.wait(60)


def consistent(host, shell, b):
    """The guest has what the definition says; the disk is had by one, or free. Whether it is attached."""
    has = attached(host)
    assert shell.run('L', 'L ') == f'L {len(has)} {max(has.values())}', has
    if b in has:
        use(shell, has[b])
        shell.run('w 0 4 1 1', 'w ok')
    else:
        host.ok('vm', 'attach', 'other', '--disk', b)           # nobody keeps its lock
        host.ok('vm', 'detach', 'other', b)
    use(shell, 0)
    shell.run('w 0 4 1 1', 'w ok')
    return b in has


def test_killed_between_the_steps(host, shell, lun):
    """Either as before, or as wanted; what was answered is so."""
    b = disk(host)
    host.ok('vm', 'create', 'other', '--volume', 'v1', '--memory', '16M')
    for i in range(8):
        code = killed_within(host, lun, 0.05 + 0.2 * i, 'vm', 'attach', 'g', '--disk', b)
        has = consistent(host, shell, b)
        assert has or code != 0
        if not has:
            host.ok('vm', 'attach', 'g', '--disk', b)
        code = killed_within(host, lun, 0.05 + (0.6 if i % 2 else 2.3) + 0.2 * i, 'vm', 'detach', 'g', b)
        has = consistent(host, shell, b)
        assert not has or code != 0
        if has:
            host.ok('vm', 'detach', 'g', b)


def test_256_disks(host, shell):
    def resident():
        fields = dict(line.split(':', 1) for line in open(f'/proc/{host.proc.pid}/status') if ':' in line)
        return int(fields['RssAnon'].split()[0]) << 10

    for i in range(1, 257):
        host.ok('disk', 'create', f'v1:/d{i}', '--size', '1M')
    before = resident()
    for i in range(1, 256):
        assert host.json('vm', 'attach', 'g', '--disk', f'v1:/d{i}')['lun'] == i
    grown = (resident() - before) / 255
    assert grown < 128 << 10, grown
    assert 'has 256 disks' in host.fails('usage', 'vm', 'attach', 'g', '--disk', 'v1:/d256')['message']
    assert shell.run('L', 'L ') == 'L 256 255'
    for i in (0, 1, 128, 255):
        use(shell, i)
        shell.run(f'w 0 16 1 {i + 1}', 'w ok')
    host.kill()
    host.start()
    until(lambda: show(host)['state'] == 'running', 60)
    assert shell.run('L', 'L ') == 'L 256 255'
    for i in (0, 1, 128, 255):
        use(shell, i)
        shell.run(f'r 0 16 1 {i + 1}', 'r ok')
    host.ok('vm', 'detach', 'g', 'v1:/d200')
    assert host.json('vm', 'attach', 'g', '--disk', 'v1:/d256')['lun'] == 256
    use(shell, 256)
    shell.run('w 0 16 1 1', 'w ok')
    assert shell.run('L', 'L ') == 'L 256 256'
    shell.leave()
    host.ok('vm', 'kill', 'g')
    host.ok('vm', 'start', 'g')
    shell.expect('ready')
    assert shell.run('L', 'L ') == 'L 256 256'
