# SPDX-License-Identifier: Apache-2.0
import pathlib, sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from hostlib import Cluster, until  # noqa: E402
from vmlib import Shell, create, show  # noqa: E402


@pytest.fixture
def cluster():
    with Cluster() as c:
        yield c


@pytest.fixture
def lun(cluster):
    return cluster.lun()


@pytest.fixture
def host(cluster, lun):
    """A daemon with the volume v1 on `lun`, and a disk in it."""
    h = cluster.host('h1')
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    h.ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
    return h


@pytest.fixture
def pair(cluster, lun):
    """Two daemons that see each other, with the volume v1 on `lun`, and a disk in it."""
    h1, h2 = (cluster.host(n, '--listen', '127.0.0.1:0') for n in ('h1', 'h2'))
    h1.ok('volume', 'format', 'v1', lun)
    for h in (h1, h2):
        h.ok('volume', 'mount', lun)
    h1.ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
    until(lambda: any(h['name'] == 'h2' for h in h1.json('host', 'list')))
    until(lambda: any(h['name'] == 'h1' for h in h2.json('host', 'list')))
    return h1, h2


@pytest.fixture
def shell(host):
    """The disk shell as the guest of a VM `g` that has the disk."""
    create(host)
    host.ok('vm', 'start', 'g')
    with Shell(host) as s:
        s.expect('ready')
        yield s
        s.leave()
    if show(host)['state'] == 'running':
        host.ok('vm', 'kill', 'g')


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure says what its daemons said last."""
    report = (yield).get_result()
    args = getattr(item, 'funcargs', {})
    cluster = args.get('cluster') or getattr(args.get('world'), 'cluster', None)
    if report.failed and cluster and hasattr(report.longrepr, 'addsection'):
        for host in cluster.hosts.values():
            said = host.log.read_text(errors='replace').splitlines() if host.log.exists() else []
            report.longrepr.addsection(f'log of {host.name}', '\n'.join(line[:240] for line in said[-20:]))
