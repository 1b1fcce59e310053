# SPDX-License-Identifier: Apache-2.0
"""What VMs get of their host's memory: definitions, targets, migrations. Monitors are programs (vmm_stub.c), whose guests
obey a balloon at once; the device itself: test_balloon.py, real guests: tests/lab/test_memory.py."""
import pytest

from hostlib import until
from stublib import StubCluster, create, goes_on, show

MiB = 1 << 20


@pytest.fixture
def cluster():
    with StubCluster() as c:
        yield c


@pytest.fixture
def host(cluster):
    h = cluster.host('h1')
    lun = cluster.lun()
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    h.ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
    return h


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
