# SPDX-License-Identifier: Apache-2.0
"""The processor a VM sees, chosen so that unlike hosts agree. The stubs have x86-64-v2 and AVX, weak ones no AVX."""
import os

import pytest
from hostlib import BIN, until
from stublib import cluster, create, goes_on, show  # noqa: F401 (cluster is a fixture)


@pytest.fixture
def hosts(cluster):
    """h2 is the weak one."""
    (cluster.stub / 'weak-cpu-h2').touch()
    a, b = (cluster.host(n) for n in ('h1', 'h2'))
    lun = cluster.lun()
    a.ok('volume', 'format', 'v1', lun)
    for h in (a, b):
        h.ok('volume', 'mount', lun)
    for h, other in ((a, b), (b, a)):
        until(lambda: any(x['name'] == other.name and x['address'] for x in h.json('host', 'list')))
    a.ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
    return a, b


def test_one_without_a_baseline_stays(cluster, hosts):
    a, b = hosts
    create(a)
    assert show(a)['cpu'] == 'host'
    a.ok('vm', 'start', 'g')
    pid, vmms = show(a)['pid'], cluster.vmms()
    r = a.run('vm', 'migrate', 'g', '--to', 'h2')
    assert r.code != 0 and 'avx' in r.err and 'missing' in r.err, r
    assert show(a)['pid'] == pid and show(a)['state'] == 'running'
    until(lambda: cluster.vmms() == vmms)
    goes_on(a)


@pytest.mark.slow
@pytest.mark.parametrize('cpu', ['baseline=x86-64-v2', 'baseline=h1,h2'])
def test_one_with_a_baseline_moves(hosts, cpu):
    a, b = hosts
    create(a, 'g', '32M', ('v1:/a.disk',), '--cpu', cpu)
    assert show(b)['cpu'] == cpu.partition('=')[2]
    a.ok('vm', 'start', 'g')
    for source, target in ((a, b), (b, a)):
        source.ok('vm', 'migrate', 'g', '--to', target.name)
        goes_on(target)
    a.ok('vm', 'save', 'g')
    b.ok('vm', 'restore', 'g')
    goes_on(b)
    b.ok('vm', 'kill', 'g')
    b.ok('vm', 'start', 'g')
    goes_on(b)


def test_what_is_refused(cluster, hosts):
    a, b = hosts
    assert a.json('host', 'cpu')['levels'] == ['x86-64-v1', 'x86-64-v2']
    assert a.json('host', 'cpu', '--on', 'h2')['host'] == 'h2'
    for cpu, word in (('486', 'baseline='), ('baseline=', 'at most'), ('baseline=x86-64-v9', 'no such level'), ('baseline=h1,nobody', 'nobody')):
        r = a.run('vm', 'create', 'x', '--volume', 'v1', '--memory', '32M', '--cpu', cpu)
        assert r.code in (2, 3) and word in r.err, (cpu, r)
    create(a, 'g', '32M', ('v1:/a.disk',), '--cpu', 'baseline=x86-64-v3')
    r = a.run('vm', 'start', 'g')
    assert r.code != 0 and 'avx2' in r.err and 'x86-64-v3' in r.err, r
    create(a, 'h', '32M', (), '--cpu', 'baseline=h1')       # what h1 has, h2 lacks
    r = a.run('vm', 'set', 'h', '--cpu', 'host')
    assert r.code == 0 and show(a, 'h')['cpu'] == 'host', r
    a.ok('vm', 'set', 'h', '--cpu', 'baseline=h1')
    r = b.run('vm', 'start', 'h')
    assert r.code != 0 and 'avx' in r.err and not cluster.vmms(), r


@pytest.mark.skipif(not os.access('/dev/kvm', os.R_OK | os.W_OK), reason='no /dev/kvm')
def test_this_machine_has_levels(cluster):
    """With the true monitor, and KVM."""
    from hostlib import Host
    h = Host(cluster, 'true')
    cluster.hosts['true'] = h.start('--vmm', BIN / 'perilune-vmm')
    d = h.json('host', 'cpu')
    assert 'x86-64-v1' in d['levels'] and len(d['table']) > 1000, d
