# SPDX-License-Identifier: Apache-2.0
"""Whole LUNs given to a VM: `vm attach --lun`. The target is tgt; tests/lab/test_passthrough.py has LIO, which keeps
registrations over a login with the same name and ISID, as tgt does not."""
import os, time

import pytest
from hostlib import until
from targets import Tgt, file_lun
from test_hotplug import attached, use
from vmlib import Shell, create, show
from scsi_guest import CHECK, CONFLICT, GOOD, PREEMPT, RESERVE, keys, register, reserve_out, send, write

if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)

MiB = 1 << 20


@pytest.fixture
def san():
    with Tgt(size='256M', luns=2) as t:
        yield t


def test_its_commands_reach_the_lun(host, shell, san):
    did = host.json('vm', 'attach', 'g', '--lun', san.url)
    assert (did['lun'], did['live']) == (1, True)
    assert shell.expect('event ') == 'event 1 1 1'
    entry = next(d for d in show(host)['attached'] if d['kind'] == 'lun')
    assert entry['disk'] == san.url and entry['lun'] == 1 and entry['shared'] is False, entry
    use(shell, 1)
    inquiry = send(shell, '120000004000', read=64)[4]
    assert inquiry[8:16] == b'IET     ', inquiry                         # its own identity, not ours
    assert shell.run('c', 'c ') == f'c {256 * MiB // 4096}'
    shell.run('w 0 300 7 9', 'w ok')
    shell.run('r 0 300 7 9', 'r ok')
    shell.run('f', 'f ok')
    with open(san.files[0], 'rb') as f:
        f.seek(7 * 4096)
        assert f.read(16) == (7).to_bytes(8, 'little') + (9).to_bytes(8, 'little')
    # Sense data come through; limits are none larger than what gets through; REPORT LUNS is ours.
    assert send(shell, '280fffffff0000000100', read=512)[:4] == (CHECK, 5, 0x21, 0)
    page = send(shell, '1201b0004000', read=64)
    if page[0] == GOOD:
        assert 0 < int.from_bytes(page[4][8:12], 'big') <= 65536, page
    assert shell.run('L', 'L ') == 'L 2 1'
    for cdb in ('040000000000', '3b020000000000000000', '8300' + '00' * 14):
        assert send(shell, cdb)[:4] == (CHECK, 5, 0x20, 0), cdb
    host.ok('vm', 'detach', 'g', san.url)
    assert shell.run('t', 't ') == 't 5 37 0'
    assert attached(host) == {'v1:/a.disk': 0}
    host.ok('vm', 'attach', 'g', '--lun', san.url, '--unfiltered')
    use(shell, 2)
    shell.run('r 0 300 7 9', 'r ok')


@pytest.mark.slow
def test_refused(host, shell, san):
    with file_lun() as path:
        assert 'no SCSI' in host.fails('usage', 'vm', 'attach', 'g', '--lun', path)['message']
    host.ok('volume', 'format', 'v2', san.luns[1])
    held = host.fails('refused', 'vm', 'attach', 'g', '--lun', san.luns[1])
    assert 'holds the volume v2' in held['message'], held
    host.ok('volume', 'mount', san.luns[1])
    host.fails('refused', 'vm', 'attach', 'g', '--lun', san.luns[1])
    host.fails('usage', 'vm', 'attach', 'g')
    host.fails('usage', 'vm', 'attach', 'g', '--disk', 'v1:/a.disk', '--lun', san.url)
    host.fails('usage', 'vm', 'attach', 'g', '--disk', 'v1:/a.disk', '--shared')
    host.fails('not-found', 'vm', 'attach', 'g', '--lun', 'naa.0123')
    # One VM's, unless both say otherwise; also of VMs that are off.
    create(host, 'k', '--disk', 'v1:/a.disk')
    host.ok('vm', 'attach', 'k', '--lun', san.url)
    assert 'VM v1:k has it' in host.fails('refused', '--yes', 'volume', 'format', 'v3', san.url, '--overwrite')['message']
    other = host.fails('busy', 'vm', 'attach', 'g', '--lun', san.url)
    assert 'VM v1:k has it for itself' in other['message'] and other['holder'] == 'vm k', other
    assert host.fails('busy', 'vm', 'attach', 'g', '--lun', san.url, '--shared')['holder'] == 'vm k'
    host.ok('vm', 'detach', 'k', san.url)
    host.ok('vm', 'attach', 'k', '--lun', san.url, '--shared')
    assert 'shared if both say so' in host.fails('busy', 'vm', 'attach', 'g', '--lun', san.url)['message']
    host.ok('vm', 'attach', 'g', '--lun', san.url, '--shared')
    assert host.fails('busy', 'vm', 'attach', 'g', '--lun', san.url, '--shared')['holder'] == 'vm g'


@pytest.mark.slow
def test_two_vms_fence_each_other(host, shell, san):
    host.ok('disk', 'create', 'v1:/k.disk', '--size', '16M')
    create(host, 'k', '--disk', 'v1:/k.disk')
    host.ok('vm', 'start', 'k')
    with Shell(host, 'k') as other:
        other.expect('ready')
        for name in 'gk':
            host.ok('vm', 'attach', name, '--lun', san.url, '--shared')
        for s in (shell, other):
            use(s, 1)
        assert register(shell, 0x1111) == GOOD and register(other, 0x2222) == GOOD
        assert sorted(keys(shell)) == [0x1111, 0x2222]
        assert reserve_out(shell, RESERVE, 0x1111) == GOOD
        assert write(shell) == write(other) == GOOD                     # both are registered
        assert reserve_out(other, PREEMPT, 0x2222, 0x1111) == GOOD
        assert keys(other) == [0x2222]
        assert write(shell) == CONFLICT and write(other) == GOOD
        # Back by registering anew; then it is the other's turn.
        assert register(shell, 0x3333) == GOOD and reserve_out(shell, PREEMPT, 0x3333, 0x2222) == GOOD
        assert write(other) == CONFLICT and write(shell) == GOOD
        other.leave()
    host.ok('vm', 'kill', 'k')


@pytest.mark.slow
def test_it_outlives_daemon_and_target(host, shell, san):
    host.ok('vm', 'attach', 'g', '--lun', san.url)
    use(shell, 1)
    shell.run('w 20000 300 1 4', 'w ok')
    host.kill()
    host.start()
    until(lambda: show(host)['state'] == 'running', 40)
    assert attached(host) == {'v1:/a.disk': 0, san.url: 1}
    shell.run('r 20000 300 1 4', 'r ok')
    # A storm over the target's death: the guest waits, is told of the lost nexus, and does again what went with it.
    shell.run('s 4096', 's on')
    shell.expect('s ')
    for _ in range(2):
        san.restart()
        shell.said()
        shell.expect('s ')
        shell.expect('s ')
    shell.run('e', 'e ')
    shell.run('v', 'v ok')
    # One that is out of reach does not keep the daemon from taking its VM up, and comes back by itself.
    san.kill()
    host.kill()
    host.start()
    until(lambda: show(host)['state'] == 'running', 40)
    shell.run('l 0', 'l ok')
    shell.run('w 0 10 1 4', 'w ok')
    shell.run('l 1', 'l ok')
    shell.type('r 0 4 1 0')
    time.sleep(1)
    san.start()
    shell.strict = False                                                # what it holds by now is another matter
    until(lambda: any(line.startswith(('r ok', 'bad: wrong data')) for line in shell.said()), 60, what='the answer')
    host.ok('vm', 'detach', 'g', san.url)


@pytest.mark.slow
def test_detach_while_the_target_is_away(host, shell, san):
    host.ok('vm', 'attach', 'g', '--lun', san.url)
    use(shell, 1)
    san.kill()
    shell.strict = False
    shell.type('r 0 1 1 0')
    host.fails('busy', 'vm', 'detach', 'g', san.url)                    # the guest waits for it
    host.ok('vm', 'detach', 'g', san.url, '--force')
    assert 'sense 5 37 0' in shell.expect('bad: failed')
    assert attached(host) == {'v1:/a.disk': 0}


@pytest.mark.slow
def test_it_moves_with_its_vm(cluster, lun, san):
    """The next host is the same initiator to the target; the last one stays out."""
    h1, h2 = (cluster.host(name, '--listen', '127.0.0.1:0') for name in ('h1', 'h2'))
    h1.ok('volume', 'format', 'v1', lun)
    for h in (h1, h2):
        h.ok('volume', 'mount', lun)
    h1.ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
    create(h1)
    h1.ok('vm', 'start', 'g')
    h1.ok('vm', 'attach', 'g', '--lun', san.url)
    with Shell(h1) as shell:
        shell.expect('ready')
        use(shell, 1)
        shell.run('w 20000 100 1 6', 'w ok')
        shell.run('l 0', 'l ok')
        shell.leave()
    until(lambda: any(h['name'] == 'h2' for h in h1.json('host', 'list')))
    for source, target in ((h1, h2), (h2, h1)):
        source.ok('vm', 'migrate', 'g', '--to', target.name, timeout=120)
        assert attached(target) == {'v1:/a.disk': 0, san.url: 1}
        with Shell(target) as shell:
            shell.at = os.path.getsize(shell.log)
            shell.run('l 1', 'l ok')
            shell.run('r 20000 100 1 6', 'r ok')
            shell.run('w 20000 100 1 6', 'w ok')
            shell.leave()
        assert san.adm('--mode', 'conn', '--op', 'show', '--tid', '1').stdout.count('Connection') <= 1
    h1.ok('vm', 'detach', 'g', san.url)
    h1.ok('vm', 'kill', 'g')
