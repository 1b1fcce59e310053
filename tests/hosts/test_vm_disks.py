# SPDX-License-Identifier: Apache-2.0
"""A VM's disks while it runs: one that grows under its guest, and what is refused in plain words."""
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hostlib import EXIT, until
from vmlib import Shell, create, show

if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)

MiB = 1 << 20


@pytest.mark.slow
def test_a_disk_grows_under_its_guest(host):
    create(host)
    host.ok('vm', 'start', 'g')
    with Shell(host) as shell:
        shell.expect('ready')
        assert shell.run('c', 'c ') == f'c {64 * MiB // 4096}'
        shell.run('w 16000 300 1 5', 'w ok')
        assert host.json('disk', 'resize', 'v1:/a.disk', '--size', '20G')['size'] == 20480 * MiB
        assert shell.expect('event ') == f'event 3 {0x2a | 0x09 << 8} 0'     # parameters changed: capacity
        assert shell.run('t', 't ') == 't 6 42 9'                           # and a unit attention says so
        assert shell.run('t', 't ') == 't ok'
        assert shell.run('c', 'c ') == f'c {20480 * MiB // 4096}'
        shell.run('w 16384 100 50000 6', 'w ok')                            # far behind its former end
        shell.run('f', 'f ok')
        host.kill()
        host.start()
        until(lambda: show(host)['state'] == 'running')
        shell.run('r 16384 100 50000 6', 'r ok')
        shell.run('r 16000 300 1 5', 'r ok')
        shell.run('t', 't ')
        assert shell.run('c', 'c ') == f'c {20480 * MiB // 4096}'
        assert host.fails('busy', '--yes', 'disk', 'resize', 'v1:/a.disk', '--size', '32M', '--shrink')['holder'] == 'vm g'
        shell.leave()
    host.ok('vm', 'kill', 'g')
    assert host.json('--yes', 'disk', 'resize', 'v1:/a.disk', '--size', '32M', '--shrink')['size'] == 32 * MiB
    host.ok('volume', 'unmount', 'v1')


@pytest.mark.slow
def test_two_resizes_never_shrink_it(host):
    """Whichever is done first: the disk has the larger size, and the guest reads what it wrote behind the smaller."""
    host.ok('disk', 'create', 'v1:/idle.disk', '--size', '64M')
    create(host)
    host.ok('vm', 'start', 'g')
    with Shell(host) as shell, ThreadPoolExecutor(4) as pool:
        shell.expect('ready')
        for i in range(1, 9):
            small, large = 256 * i * MiB, 256 * i * MiB + 128 * MiB
            order = (large, small, small, large) if i % 2 else (small, large, large, small)
            for path in ('v1:/a.disk', 'v1:/idle.disk'):
                did = list(pool.map(lambda size: (size, host.run('disk', 'resize', path, '--size', str(size))), order))
                # One without a guest is held by who resizes it.
                may = {EXIT['ok'], EXIT['refused']} | ({EXIT['busy']} if path == 'v1:/idle.disk' else set())
                assert {r.code for _, r in did} <= may, did
                done = max((size for size, r in did if r.code == 0), default=0)
                assert host.json('disk', 'show', path)['size'] == max(done, large if path == 'v1:/a.disk' else 0), did
            until(lambda: shell.run('t', 't ') == 't ok')
            assert shell.run('c', 'c ') == f'c {large // 4096}'
            shell.run(f'w {large // 4096 - 100} 100 1 {i}', 'w ok')
        assert host.json('disk', 'resize', 'v1:/a.disk', '--size', str(large))['size'] == large     # as it is: fine
        assert 'insist with --shrink' in host.fails('refused', '--yes', 'disk', 'resize', 'v1:/a.disk', '--size', '64M')['message']
        shell.run(f'r {large // 4096 - 100} 100 1 {i}', 'r ok')
        shell.leave()
    host.ok('vm', 'kill', 'g')


@pytest.mark.slow
def test_killed_while_its_disk_grows(host, lun):
    create(host)
    host.ok('vm', 'start', 'g')
    host.ok('fault', 'add', lun, '--kind', 'delay=200', '--op', 'write')
    with ThreadPoolExecutor(3) as pool:
        grown = [pool.submit(host.run, 'disk', 'resize', 'v1:/a.disk', '--size', size) for size in ('1G', '2G')]
        killed = pool.submit(host.run, 'vm', 'kill', 'g').result()
        codes = {g.result().code for g in grown}
    host.ok('fault', 'clear')
    assert killed.code == 0, killed
    assert codes <= {EXIT['ok'], EXIT['refused'], EXIT['busy']}, [g.result() for g in grown]
    host.ok('vm', 'start', 'g')
    with Shell(host) as shell:
        shell.expect('ready')
        assert shell.run('c', 'c ') == f'c {host.json("disk", "show", "v1:/a.disk")["size"] // 4096}'
        shell.leave()
    host.ok('vm', 'kill', 'g')
    host.ok('volume', 'unmount', 'v1')


@pytest.mark.slow
def test_reservations_are_the_disks(host, cluster):
    """They outlive a daemon under a guest that runs, and with APTPL the guest's power."""
    create(host)
    host.ok('vm', 'start', 'g')
    with Shell(host) as shell:
        shell.expect('ready')
        shell.run('t', 't ')
        assert shell.run('K', 'K ') == 'K 0 0 0'
        shell.run('P 0 5 0 0 0', 'P ok')                    # REGISTER, then RESERVE: write exclusive
        shell.run('P 5 0 1 1 0', 'P ok')
        host.kill()
        host.start()
        until(lambda: show(host)['state'] == 'running')
        shell.run('t', 't ')
        assert shell.run('K', 'K ') == 'K 1 5 1'
        assert shell.run('P 6 0 1 1 0', 'P ') == 'P 24'      # another's key: conflict
        shell.run('w 0 10 1 1', 'w ok')
        shell.leave()
    host.ok('vm', 'kill', 'g')
    for lasts in (False, True):
        said = shell.log.stat().st_size                      # by the guest before
        host.ok('vm', 'start', 'g')
        with Shell(host) as shell:
            shell.at = said
            shell.expect('ready')
            shell.run('t', 't ')
            assert shell.run('K', 'K ') == 'K 0 0 0'         # a start is a loss of power
            shell.run(f'P 0 7 0 0 {int(lasts)}', 'P ok')
            shell.run('P 7 0 1 3 0', 'P ok')
            shell.leave()
        host.ok('vm', 'kill', 'g')
    host.kill()
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', cluster.dir / 'lun0')
    until(lambda: h2.run('vm', 'start', 'g').code == 0, 60, what='a start on another host')
    with Shell(h2) as shell:
        shell.expect('ready')
        shell.run('t', 't ')
        assert shell.run('K', 'K ') == 'K 1 7 3'
        shell.run('P 7 0 3 0 0', 'P ok')                    # CLEAR
        assert shell.run('K', 'K ') == 'K 0 0 0'
        shell.leave()
    h2.ok('vm', 'kill', 'g')
    h2.ok('volume', 'unmount', 'v1')
    h2.ok('volume', 'check', cluster.dir / 'lun0')


def test_refusals_name_the_thing(host, cluster, lun):
    create(host)
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', lun)
    host.ok('vm', 'start', 'g')
    error = h2.fails('busy', 'vm', 'start', 'g')
    assert 'runs on host h1' in error['message'] and error['holder'] == 'host h1' and error['object'] == 'v1:g', error
    error = h2.fails('busy', '--yes', 'disk', 'resize', 'v1:/a.disk', '--size', '1G')
    assert 'VM g on host h1' in error['message'] and error['holder'] == 'vm g', error
    other = cluster.lun('other')
    host.ok('volume', 'format', 'v2', other)
    host.ok('volume', 'mount', other)
    host.ok('disk', 'create', 'v2:/b.disk', '--size', '64M')
    error = host.fails('usage', 'vm', 'create', 'x', '--volume', 'v1', '--memory', '16M', '--disk', 'v2:/b.disk')
    assert 'v2:/b.disk lies on another volume' in error['message'], error
