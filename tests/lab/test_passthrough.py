# SPDX-License-Identifier: Apache-2.0
"""LUNs that are passed through, on LIO: what guests reserve from inside outlives the daemon and goes along with the
VM, because whoever runs it logs in as the same initiator. Hosts and guests run on the bare machine."""
import os, sys

import pytest
from perilab import Lab, Lun

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'hosts'))
from hostlib import Cluster, Host, until  # noqa: E402
from vmlib import Shell, create, show  # noqa: E402
from scsi_guest import CONFLICT, GOOD, PREEMPT, RESERVE, keys, register, reserve_out, send, write  # noqa: E402

pytestmark = pytest.mark.slow
if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)


@pytest.fixture(scope='module')
def san():
    with Lab('passthrough', hosts=0, luns=[Lun('256M')], guest=False) as up:
        yield up


@pytest.fixture
def hosts(san):
    """Two daemons in the lab's network, with a volume on a file."""
    with Cluster() as c:
        lun = c.lun()
        for name in ('h1', 'h2'):
            c.hosts[name] = Host(c, name, ['nsenter', f'--net=/proc/{os.getpid()}/fd/{san.network.fd}', '--'])
            c.hosts[name].start('--listen', '127.0.0.1:0', wait=60)
        h1, h2 = c.hosts.values()
        h1.ok('volume', 'format', 'v1', lun)
        for h in (h1, h2):
            h.ok('volume', 'mount', lun)
        yield h1, h2


def start(host, name):
    host.ok('disk', 'create', f'v1:/{name}.disk', '--size', '16M')
    create(host, name, '--disk', f'v1:/{name}.disk')
    host.ok('vm', 'start', name)
    shell = Shell(host, name)
    shell.expect('ready', 120)
    return shell


def test_reservations_are_the_guests(san, hosts):
    h1, h2 = hosts
    url = san.san.url(0)
    g, k = start(h1, 'g'), start(h2, 'k')
    for host, name in ((h1, 'g'), (h2, 'k')):
        host.ok('vm', 'attach', name, '--lun', url, '--shared', timeout=120)
    for shell in (g, k):
        shell.run('l 1', 'l ok')
        until(lambda: shell.run('t', 't ', 120) == 't ok', 60)
    assert send(g, '120000004000', read=64)[4][8:16] == b'LIO-ORG '
    assert register(g, 0x1111) == register(k, 0x2222) == GOOD
    assert reserve_out(g, RESERVE, 0x1111) == GOOD
    assert write(g) == write(k) == GOOD
    assert reserve_out(g, PREEMPT, 0x1111, 0x2222) == GOOD              # fences the other
    assert write(k) == CONFLICT and write(g) == GOOD

    # The daemon dies: the next one's login ends the old session, and is the same nexus.
    g.leave()
    h1.kill()
    h1.start('--listen', '127.0.0.1:0', wait=60)
    until(lambda: show(h1, 'g')['state'] == 'running', 60)
    assert keys(g) == [0x1111] and write(g) == GOOD and write(k) == CONFLICT

    # It moves: so is the next host's.
    g.leave()
    until(lambda: any(h['name'] == 'h2' for h in h1.json('host', 'list')), 60)
    h1.ok('vm', 'migrate', 'g', '--to', 'h2', timeout=240)
    with Shell(h2, 'g') as g:
        g.at = os.path.getsize(g.log)
        assert keys(g) == [0x1111] and write(g) == GOOD and write(k) == CONFLICT
        # And the other one fences it there, by registering anew.
        assert register(k, 0x3333) == GOOD and reserve_out(k, PREEMPT, 0x3333, 0x1111) == GOOD
        assert write(g) == CONFLICT and write(k) == GOOD
    k.leave()
    for name in 'gk':
        h2.ok('vm', 'kill', name)
