# SPDX-License-Identifier: Apache-2.0
"""Live migration between two daemons, with monitors that are programs (stublib.py): their guests check each page and
block they left, all memory is compared at the source's stop and the target's start."""
import pytest

from hostlib import until
from stublib import StubCluster, alive, counts, create, goes_on, keys, show


@pytest.fixture
def cluster():
    with StubCluster() as c:
        yield c


@pytest.fixture
def lun(cluster):
    return cluster.lun()


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
