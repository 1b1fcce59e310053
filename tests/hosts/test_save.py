# SPDX-License-Identifier: Apache-2.0
"""`vm save` and `vm restore`, without KVM: the stub's guest knows its pages and blocks again, its monitor compares a checksum
over all memory; what ran twice stands in the stubs' book."""
import os, re, signal

import pytest
from hostlib import perilune, until
from stublib import Book, alive, cluster, counts, create, goes_on, keys, lock_range, show  # noqa: F401 (cluster is a fixture)

STATE = '/vms/g/state'


@pytest.fixture
def hosts(cluster, host, lun):
    b = cluster.host('h2')
    b.ok('volume', 'mount', lun)
    create(host)
    host.ok('vm', 'start', 'g')
    goes_on(host)
    return host, b


def files(host):
    return {f['name'] for f in host.json('file', 'ls', 'v1:/vms/g')}


def end(hosts):
    for h in hosts:
        if h.json('vm', 'show', 'g')['pid']:
            h.ok('vm', 'kill', 'g')
        h.ok('volume', 'unmount', 'v1')
    hosts[0].ok('volume', 'check', hosts[0].dir.parent / 'lun0')


def test_there_and_elsewhere(hosts):
    a, b = hosts
    before = goes_on(a)
    pid = show(a)['pid']
    done = a.json('vm', 'save', 'g')
    assert 0 < done['written'] < 33 << 20
    assert not alive(pid)
    for h in hosts:
        d = show(h)
        assert d['state'] == 'saved' and d['host'] is None and d['pid'] is None and d['saved_bytes'] > 0, d
        assert [v['state'] for v in h.json('vm', 'list')] == ['saved']
    assert 'state' in files(b)
    b.ok('vm', 'restore', 'g')              # another host
    now = goes_on(b)
    assert now[0] > before[0]               # no boot: it counts on
    assert {show(h)['host'] for h in hosts} == {'h2'}
    until(lambda: 'state' not in files(a))
    r = b.run('vm', 'restore', 'g')
    assert r.code == 4, r
    b.ok('vm', 'save', 'g')
    b.ok('vm', 'start', 'g')                # start does the same
    goes_on(b)
    b.ok('vm', 'kill', 'g')
    r = b.run('vm', 'restore', 'g')         # never a second time
    assert r.code == 2 and 'is not saved' in r.err, r
    b.ok('vm', 'start', 'g')
    assert 'boot 1' in b.ok('vm', 'console', 'g', '--log').out
    goes_on(b)
    end(hosts)


@pytest.mark.slow
def test_a_check_knows_the_state_of_a_saved_vm(cluster, hosts):
    a, b = hosts
    lun = cluster.dir / 'lun0'
    lock = int(lock_range(a).split('-')[0]) // 4096
    a.ok('vm', 'save', 'g')
    for h in hosts:
        h.ok('volume', 'unmount', 'v1')
    r = perilune('--json', 'volume', 'check', lun)
    assert r.code == 0 and r.json['clean'] and r.json['findings'] == [], r
    words = perilune('debug', 'dump', lun, '--block', lock).out
    inode = int(re.search(r'state saved in the file of inode\D*(\d+)', words).group(1))
    raw = lun.read_bytes()[inode * 4096:(inode + 1) * 4096]
    with open(lun, 'r+b') as f:
        f.seek(inode * 4096 + 200)
        f.write(b'\xff' * 16)
    r = perilune('--json', 'volume', 'check', lun)
    assert r.code == 7 and any('--discard-state' in f['text'] for f in r.json['findings']), r.json
    with open(lun, 'r+b') as f:
        f.seek(inode * 4096)
        f.write(raw)
    for h in hosts:
        h.ok('volume', 'mount', lun)
    b.ok('vm', 'restore', 'g')              # a check takes nothing away
    goes_on(b)
    end(hosts)


@pytest.mark.slow
def test_what_is_refused_meanwhile(hosts):
    a, b = hosts
    a.ok('disk', 'create', 'v1:/other.disk', '--size', '16M')
    a.ok('vm', 'save', 'g')
    for h in hosts:
        for words in (('vm', 'attach', 'g', '--disk', 'v1:/other.disk'), ('vm', 'detach', 'g', 'v1:/a.disk'),
                      ('vm', 'rename', 'g', 'x'), ('vm', 'delete', 'g', '--yes')):
            r = h.run(*words)
            assert r.code == 4 and 'is saved' in r.err and '--discard-state' in r.err, (words, r)
        for words in (('disk', 'resize', 'v1:/a.disk', '--size', '96M'), ('disk', 'delete', 'v1:/a.disk', '--yes'),
                      ('disk', 'export', 'v1:/a.disk', h.dir / 'copy')):
            r = h.run(*words)
            assert r.code == 4 and 'VM g' in r.err and 'saved' in r.err, (words, r)
        assert h.json('disk', 'show', 'v1:/a.disk')['holder'] == {'kind': 'vm', 'name': 'g', 'host': None}
    r = b.run('vm', 'start', 'g', '--discard-state')        # asks
    assert r.code == 5, r
    assert show(b)['state'] == 'saved'
    b.ok('vm', 'start', 'g', '--discard-state', '--yes')
    assert 'boot 1' in b.ok('vm', 'console', 'g', '--log').out
    assert any('thrown away' in e['text'] for e in b.json('event', 'list'))
    goes_on(b)
    assert 'state' not in files(a)
    b.ok('vm', 'kill', 'g')
    (b.dir / 'left').write_text('left over')
    b.ok('file', 'put', b.dir / 'left', f'v1:{STATE}')
    b.ok('vm', 'start', 'g')                # no lock names it
    assert 'state' not in files(b)
    b.ok('vm', 'save', 'g')
    a.ok('vm', 'delete', 'g', '--discard-state', '--yes')
    a.ok('disk', 'delete', 'v1:/a.disk', '--yes')
    for h in hosts:
        h.ok('volume', 'unmount', 'v1')
    a.ok('volume', 'check', a.dir.parent / 'lun0')


@pytest.mark.slow
def test_paused_stays_paused(hosts):
    a, b = hosts
    a.ok('vm', 'pause', 'g')
    before = counts(a)
    a.ok('vm', 'save', 'g')
    b.ok('vm', 'restore', 'g')
    d = show(b)
    assert d['state'] == 'paused' and 'vm resume' in d['why'], d
    assert counts(b) is None                # it has done nothing since
    b.kill()
    b.start()
    until(lambda: show(b)['state'] == 'paused')
    b.ok('vm', 'resume', 'g')
    assert goes_on(b)[0] > before[0]
    end(hosts)


@pytest.mark.slow
def test_weaker_processor_is_refused(cluster, hosts):
    a, b = hosts
    a.ok('vm', 'save', 'g')
    (cluster.stub / 'weak-cpu-h2').touch()
    r = b.run('vm', 'restore', 'g')
    assert r.code != 0 and 'avx' in r.err and 'stays saved' in r.err, r
    assert show(b)['state'] == 'saved' and not cluster.vmms()
    a.ok('vm', 'restore', 'g')
    goes_on(a)
    end(hosts)


@pytest.mark.slow
def test_damage_is_refused(cluster, hosts):
    """Wherever a byte of it is another: nothing runs, the state stays, and can be thrown away."""
    a, b = hosts
    a.ok('vm', 'save', 'g')
    image = b.dir / 'state'
    a.ok('file', 'get', f'v1:{STATE}', image)
    lun = cluster.dir / 'lun0'
    whole, raw = image.read_bytes(), lun.read_bytes()
    index, data = int.from_bytes(whole[0x30:0x38], 'little'), int.from_bytes(whole[0x38:0x40], 'little')
    memory = next(at for at in range(data, len(whole), 4096) if any(whole[at:at + 4096]))
    for at in (0x11, int.from_bytes(whole[0x28:0x30], 'little') + 20, index + 1, memory + 1000):
        block = whole[at & -4096:(at & -4096) + 4096]
        places = [p for p in range(0, len(raw), 4096) if raw[p:p + 4096] == block]
        assert places, at
        with open(lun, 'r+b') as f:
            for p in places:
                f.seek(p + at % 4096)
                f.write(bytes([block[at % 4096] ^ 1]))
        r = b.run('vm', 'restore', 'g')
        assert r.code == 7 and 'damaged' in r.err and 'stays saved' in r.err, (at, r)
        assert show(b)['state'] == 'saved' and not cluster.vmms()
        with open(lun, 'r+b') as f:
            for p in places:
                f.seek(p)
                f.write(block)
    b.ok('vm', 'restore', 'g')
    goes_on(b)
    end(hosts)


@pytest.mark.slow
def test_no_space(cluster, hosts):
    """The volume is full: the guest goes on, nothing is left behind."""
    a, b = hosts
    a.ok('vm', 'kill', 'g')
    a.ok('disk', 'create', 'v1:/thick', '--size', '64M', '--thick')
    a.ok('vm', 'detach', 'g', 'v1:/a.disk')
    a.ok('vm', 'attach', 'g', '--disk', 'v1:/thick')
    Book(cluster).forget()
    a.ok('vm', 'start', 'g')
    keys(a, '5')
    until(lambda: goes_on(a)[1] > 15000, 60)    # its pages are no zeroes now
    keys(a, '1')
    for n in range(40):
        free = a.json('volume', 'show', 'v1')['free'] >> 20
        if free < 16:
            break
        a.run('disk', 'create', f'v1:/fill{n}', '--size', f'{max(free // 2, 4)}M', '--thick')
    r = a.run('vm', 'save', 'g')
    assert r.code == 6, r
    goes_on(a)
    assert show(a)['state'] == 'running' and 'state' not in files(a)
    a.ok('disk', 'delete', 'v1:/fill0', '--yes')
    until(lambda: a.run('vm', 'save', 'g').code == 0)   # its space comes back bit by bit
    b.ok('vm', 'restore', 'g')
    goes_on(b)
    end(hosts)


@pytest.mark.slow
def test_saver_dies_then_another_restores(cluster, hosts):
    """Its host is gone, with the state's file still in its journal."""
    a, b = hosts
    a.ok('vm', 'save', 'g')
    a.kill()
    b.ok('vm', 'restore', 'g')
    goes_on(b)
    assert not cluster.violations()
    a.start()
    until(lambda: show(a)['host'] == 'h2')
    end(hosts)
