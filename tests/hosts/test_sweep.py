# SPDX-License-Identifier: Apache-2.0
"""Pages of zeroes of real guests go back to a host that lacks memory: the monitor with KVM, guests that write to these
pages, or to their disk, as fast as they can, and compare. With monitors that are programs: test_memory.py."""
import os, pathlib

import pytest
from hostlib import until
from payloads import c_kernel
from test_memory import drill, events, fill, nobody_writes
from vmlib import Shell, create, show

if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)

MiB = 1 << 20


def sweep(host, name):
    """The host lacks memory until `name`, the only one that can be swept now, was; in its first standstill nothing changes."""
    nobody_writes(host, name, lambda: drill(host, 1024, 48))
    until(lambda: any(e['object'] == f'v1:{name}' for e in events(host, 'nothing but zeroes')), 120, what=f'a sweep of {name}')
    drill(host, 1024, 500)


@pytest.mark.slow
def test_no_write_is_lost(host):
    drill(host, 1024, 500)
    path = pathlib.Path(host.dir).parent / 'zeroes'
    path.write_bytes(c_kernel('zeroes', 128 * MiB))
    host.ok('vm', 'create', 'z', '--volume', 'v1', '--memory', '128M', '--kernel', path)
    create(host, 'g', '--disk', 'v1:/a.disk', '--memory', '128M')
    for vm in 'zg':
        host.ok('vm', 'set', vm, '--memory-reservation', '16M')
    host.ok('vm', 'start', 'z')
    with Shell(host, 'z') as pages, Shell(host) as disk:
        until(lambda: (show(host, 'z')['memory_used'] or 0) > 100 * MiB, 60, what='a guest that has written its pages')
        sweep(host, 'z')
        pages.run('look', 'all ')

        host.ok('vm', 'start', 'g')
        disk.log = until(lambda: set(host.dir.glob('vm/*.console')) - {pages.log}, what='a second console').pop()
        disk.expect('ready')
        disk.run('s 512', 's on')
        disk.expect('s ')
        fill(host, 'g')
        until(lambda: (show(host, 'g')['memory_used'] or 0) > 120 * MiB)
        sweep(host, 'g')
        until(lambda: show(host, 'g')['memory_used'] < 64 * MiB)
        disk.expect('s ')
        disk.run('e', 'e ')
        disk.run('v', 'v ok')
        pages.run('look', 'all ')
        for vm in 'zg':
            assert show(host, vm)['state'] == 'running'
            host.ok('vm', 'kill', vm)
    given = {e['object']: int(e['text'].split()[0]) for e in events(host, 'nothing but zeroes')}
    assert given['v1:z'] >= 24 and given['v1:g'] >= 80, given
