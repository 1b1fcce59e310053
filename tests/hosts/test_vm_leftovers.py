# SPDX-License-Identifier: Apache-2.0
"""A daemon that dies within `vm create` or `vm delete` leaves a hidden directory: it is removed by the next one, or by
the host that takes over. What is under way stays."""
import subprocess

import pytest
from hostlib import BIN, until
from vmlib import disk_shell

pytestmark = pytest.mark.slow


def hidden(host):
    return [f['name'] for f in host.json('file', 'ls', 'v1:/vms') if f['name'].startswith('.')]


@pytest.fixture
def host(cluster, lun):
    h = cluster.host('h1')
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    h.ok('vm', 'create', 'other', '--volume', 'v1', '--memory', '16M')
    return h


def die_within_create(host, cluster, lun):
    kernel = cluster.dir / 'kernel'
    kernel.write_bytes(disk_shell() + bytes(48 << 20))
    host.ok('fault', 'add', lun, '--kind', 'delay=200', '--op', 'write')
    p = subprocess.Popen([BIN / 'perilune', '--connect', host.dir, 'vm', 'create', 'g', '--volume', 'v1', '--memory', '128M',
                          '--kernel', kernel], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: hidden(host), 30, what='the hidden directory')
    host.ok('file', 'mkdir', 'v1:/durable')                             # and with it all that was done before
    assert p.poll() is None and hidden(host)
    host.kill()
    p.wait(30)


def clean(host, times=1):
    """It was said, nothing hidden is left, nothing else is gone."""
    until(lambda: sum('what a daemon that died had begun' in e['text'] for e in host.json('event', 'list')) == times, 60,
          what='the leftovers being removed')
    assert not hidden(host)
    assert {f['name'] for f in host.json('file', 'ls', 'v1:/vms')} == {'other'}
    assert [v['name'] for v in host.json('vm', 'list')] == ['other']


def test_the_next_daemon_removes_what_was_begun(host, cluster, lun):
    die_within_create(host, cluster, lun)
    host.start()
    clean(host)
    # A deletion that was cut off after its first step: the directory has its hidden name, of a life that is over.
    host.ok('file', 'mkdir', 'v1:/vms/.deleted-00-00000000-0000000000000001-0000000000000001')
    source = cluster.dir / 'source'
    source.write_text('left')
    host.ok('file', 'put', source, 'v1:/vms/.deleted-00-00000000-0000000000000001-0000000000000001/definition.json')
    host.ok('volume', 'unmount', 'v1')
    host.ok('volume', 'mount', lun)
    clean(host, 2)
    host.ok('vm', 'create', 'g', '--volume', 'v1', '--memory', '16M')
    host.ok('--yes', 'vm', 'delete', 'g')
    host.ok('volume', 'unmount', 'v1')
    host.ok('volume', 'check', lun)


def test_no_mount_waits_for_the_cleaning_of_another_volume(host, cluster, lun):
    def leave():
        """The cleaning that follows the mount may come in between."""
        for i in range(30):
            path = f'v1:/vms/.deleted-00-00000000-0000000000000001-{i:016x}'
            host.run('file', 'mkdir', path)
            host.run('file', 'put', '-', f'{path}/definition.json', stdin='left')
        return len(hidden(host)) == 30

    until(leave, 60, what='leftovers')
    other = cluster.lun('other')
    host.ok('volume', 'format', 'v2', other)
    host.ok('volume', 'unmount', 'v1')
    last = host.json('event', 'list')[-1]['id']
    host.ok('volume', 'mount', lun)
    host.ok('fault', 'add', lun, '--kind', 'delay=100', '--op', 'read')
    until(lambda: any('what a daemon that died' in e['text'] for e in host.json('event', 'list', '--since', last)), 60,
          what='the first removal')
    host.ok('fault', 'add', lun, '--kind', 'delay=1500', '--op', 'read')
    host.ok('fault', 'clear', host.json('fault', 'list')[0]['id'])
    with subprocess.Popen([BIN / 'perilune', '--connect', host.dir, 'volume', 'unmount', 'v1'], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        host.ok('volume', 'mount', other)
        host.ok('volume', 'unmount', 'v2')
        assert p.poll() is None
        host.ok('fault', 'clear')
        out, _ = p.communicate(timeout=60)
        assert p.returncode == 0, out


def test_another_host_removes_it_when_it_takes_over(host, cluster, lun):
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', lun)
    die_within_create(host, cluster, lun)
    clean(h2)
    h2.ok('volume', 'unmount', 'v1')
    h2.ok('volume', 'check', lun)
