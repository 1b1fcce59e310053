# SPDX-License-Identifier: Apache-2.0
"""VMs under their daemons, without KVM: what test_vm_life.py shows with one, where there is none; and the stub itself."""
import os, signal
import pytest

from hostlib import until
from stublib import StubCluster, alive, counts, create, goes_on, keys, show


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
    create(h)
    return h


def test_start_stop_kill(host):
    host.ok('vm', 'start', 'g')
    goes_on(host)
    d = show(host)
    assert d['state'] == 'running' and alive(d['pid'])
    host.ok('vm', 'stop', 'g', '--timeout', '20')
    assert show(host)['state'] == 'stopped' and not alive(d['pid'])
    host.ok('vm', 'start', 'g')
    goes_on(host)
    host.ok('vm', 'kill', 'g')
    assert show(host)['state'] == 'stopped'
    host.ok('volume', 'unmount', 'v1')
    host.ok('volume', 'check', host.dir.parent / 'lun0')


def test_guest_reboots_and_powers_off(host):
    host.ok('vm', 'start', 'g')
    pid = show(host)['pid']
    goes_on(host)
    keys(host, 'r')
    until(lambda: 'boot 2' in host.ok('vm', 'console', 'g', '--log').out)
    goes_on(host)
    assert show(host)['pid'] == pid
    keys(host, 'o')
    until(lambda: show(host)['state'] == 'stopped')


def test_daemon_ends_and_comes_back(host):
    host.ok('vm', 'start', 'g')
    pid = show(host)['pid']
    goes_on(host)
    for end in (host.kill, host.stop):
        end()
        assert alive(pid)
        host.start()
        until(lambda: show(host)['state'] == 'running')
        assert show(host)['pid'] == pid
        goes_on(host)


def test_monitor_dies(host):
    host.ok('vm', 'start', 'g')
    os.kill(show(host)['pid'], signal.SIGKILL)
    until(lambda: show(host)['state'] == 'crashed')
    host.ok('vm', 'start', 'g')
    goes_on(host)


def test_what_is_written_in_the_stubs_book(cluster, host):
    # One that runs while another does is found out.
    host.ok('vm', 'start', 'g')
    goes_on(host)
    h2 = cluster.host('h2')
    lun = cluster.lun('other')
    h2.ok('volume', 'format', 'v1', lun)
    h2.ok('volume', 'mount', lun)
    h2.ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
    create(h2)
    assert h2.run('vm', 'start', 'g').code
    until(lambda: 'runs twice' in cluster.violations())
    (cluster.stub / 'violations').unlink()
    assert counts(host)
