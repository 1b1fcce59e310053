# SPDX-License-Identifier: Apache-2.0
"""A full volume pauses the VM whose disk needs space: no error for its guest, and it goes on by itself."""
import os, subprocess

import pytest
from hostlib import until
from vmlib import Shell, create, show, state

if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)

FILL = 'w 0 2400 16 7'      # a block in each of 2400 units of 64 KiB: more than there is
READ = 'r 0 2400 16 7'


@pytest.fixture
def lun(cluster):
    return cluster.lun(size='320M')


@pytest.fixture
def host(cluster, lun):
    h = cluster.host('h1')
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    h.ok('disk', 'create', 'v1:/a.disk', '--size', '1G')
    h.ok('disk', 'create', 'v1:/ballast', '--size', '240M', '--thick')
    create(h)
    h.ok('vm', 'start', 'g')
    return h


@pytest.fixture
def shell(host):
    with Shell(host) as s:
        s.expect('ready')
        yield s


def fill_until_paused(host, shell):
    shell.type(FILL)
    until(lambda: state(host) == 'paused', 60, what='the guest being paused')
    assert 'w ok' not in shell.said()


def check(host, shell):
    """All that was written is there, on the medium too."""
    shell.run(READ, 'r ok')
    shell.run('f', 'f ok')
    host.ok('vm', 'kill', 'g')
    host.ok('volume', 'unmount', 'v1')


def paused_events(host):
    return [e['text'] for e in host.json('event', 'list') if e['kind'] == 'vm' and e['text'].startswith('paused')]


def test_it_is_paused_and_growing_goes_on(host, shell, lun):
    fill_until_paused(host, shell)
    assert 'grow the volume or delete' in show(host)['why']
    assert any('grow the volume or delete' in e for e in paused_events(host))
    assert {'object': 'g', 'text': 'paused'} in host.json('status')['alarms']
    host.fails('no-space', 'disk', 'create', 'v1:/other', '--size', '64M', '--thick')
    subprocess.run(['truncate', '-s', '640M', lun], check=True)
    host.ok('volume', 'grow', 'v1')
    shell.expect('w ok')
    until(lambda: state(host) == 'running')
    assert 'why' not in show(host)
    check(host, shell)
    host.ok('volume', 'check', lun)


@pytest.mark.slow
@pytest.mark.parametrize('who', ['this host', 'another host'])
def test_a_deletion_goes_on(host, shell, cluster, lun, who):
    other = host
    if who == 'another host':
        other = cluster.host('h2')
        other.ok('volume', 'mount', lun)
    fill_until_paused(host, shell)
    other.ok('--yes', 'disk', 'delete', 'v1:/ballast')
    shell.expect('w ok')
    check(host, shell)
    if other != host:
        other.ok('volume', 'unmount', 'v1')
    host.ok('volume', 'check', lun)


@pytest.mark.slow
def test_a_full_array_pauses_too(cluster):
    """A thin array without space (DATA PROTECT 27/07): no error, no matter who writes; and on it goes when there is some."""
    lun = cluster.lun()
    host = cluster.host('h1')
    host.ok('volume', 'format', 'v1', lun)
    host.ok('volume', 'mount', lun)
    host.ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
    create(host)
    host.ok('vm', 'start', 'g')
    with Shell(host) as shell:
        shell.expect('ready')
        shell.run('w 0 100 16 3', 'w ok')
        shell.run('f', 'f ok')
        host.ok('fault', 'add', lun, '--kind', 'no-space')
        shell.type('w 200 300 16 7')
        until(lambda: state(host) == 'paused', 60, what='the guest being paused')
        assert any('no space' in e for e in paused_events(host))
        assert {'object': 'g', 'text': 'paused'} in host.json('status')['alarms']
        assert host.json('fault', 'list')[0]['hits'] > 0 and 'w ok' not in shell.said()
        host.ok('fault', 'clear')
        shell.expect('w ok')
        until(lambda: state(host) == 'running')
        shell.run('r 0 100 16 3', 'r ok')
        shell.run('r 200 300 16 7', 'r ok')
        shell.run('f', 'f ok')
    host.ok('vm', 'kill', 'g')
    host.ok('volume', 'unmount', 'v1')
    host.ok('volume', 'check', lun)


@pytest.mark.slow
def test_one_that_is_paused_can_be_stopped_reset_killed_and_taken_up(host, shell, lun):
    fill_until_paused(host, shell)
    assert 'no space' in host.fails('timed-out', 'vm', 'stop', 'g', '--timeout', '1')['message']
    host.ok('vm', 'reboot', 'g', '--force')                             # a guest that wants nothing runs
    shell.expect('ready')
    until(lambda: state(host) == 'running')
    shell.run('r 0 100 16 7', 'r ok')
    fill_until_paused(host, shell)
    pid = show(host)['pid']
    for how in (host.kill, host.stop):
        how()
        host.start()
        until(lambda: state(host) == 'paused', what='being paused under the next daemon')
        assert show(host)['pid'] == pid
    subprocess.run(['truncate', '-s', '640M', lun], check=True)
    host.ok('volume', 'grow', 'v1')
    shell.expect('w ok')                                                # what waited was done by the last daemon
    shell.run(READ, 'r ok')
    shell.type('w 8 9000 16 9')                                         # again, and this time for good
    until(lambda: state(host) == 'paused', 60, what='being paused for good')
    host.ok('vm', 'kill', 'g')
    assert state(host) == 'stopped'
    host.ok('--yes', 'disk', 'delete', 'v1:/a.disk')
    host.ok('volume', 'unmount', 'v1')
    host.ok('volume', 'check', lun)
