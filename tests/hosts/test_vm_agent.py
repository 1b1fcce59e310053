# SPDX-License-Identifier: Apache-2.0
"""The agent in a VM's guest, under its daemon: a payload guest (tests/lib/guest/agent.c) with an agent that does as
it is told. Debian's runs in the lab."""
import functools, os

import pytest
from hostlib import until
from payloads import c_kernel
from vmlib import Shell, show

if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)

kernel = functools.cache(lambda: c_kernel('agent'))


def start(host):
    path = host.dir.parent / 'agent'
    path.write_bytes(kernel())
    host.ok('vm', 'create', 'g', '--volume', 'v1', '--memory', '16M', '--kernel', path, '--disk', 'v1:/a.disk')
    host.ok('vm', 'start', 'g')


@pytest.fixture
def guest(host):
    """With the agent's port closed."""
    host.ok('disk', 'create', 'v1:/more', '--size', '8M')
    start(host)
    with Shell(host) as shell:
        shell.expect('named org.qemu.guest_agent.0')
        yield shell


def agent_state(host):
    return show(host)['agent']['state']


def opened(host, guest):
    guest.run('o', 'done o')
    until(lambda: show(host)['addresses'], 60, what='the agent being found')
    assert agent_state(host) == 'running'


def counters(guest):
    words = guest.run('?', 'frozen').split()
    return int(words[1]), int(words[3])


@pytest.mark.slow
def test_what_it_tells_is_in_vm_show(host, guest):
    until(lambda: agent_state(host) == 'absent', 60, what='nobody being found')
    assert show(host)['agent']['os'] is None and show(host)['addresses'] == []
    opened(host, guest)
    d = show(host)
    assert d['agent']['os'] == 'Payload? 1' and d['addresses'] == ['10.1.2.3']
    assert d['agent']['interfaces'][1] == {'name': 'eth0', 'mac': '52:54:00:00:00:01', 'addresses': ['10.1.2.3', 'fe80::1']}
    assert '10.1.2.3' in host.ok('vm', 'show', 'g').out
    host.ok('vm', 'kill', 'g')
    assert show(host)['agent'] is None and show(host)['addresses'] == []


@pytest.mark.slow
def test_stop_asks_the_agent(host, guest):
    opened(host, guest)
    host.ok('vm', 'stop', 'g', '--timeout', '60')       # the guest knows no power button
    assert 'asked guest-shutdown' in host.ok('vm', 'console', 'g', '--log').out
    assert show(host)['state'] == 'stopped'


@pytest.mark.slow
def test_an_agent_that_talks_nonsense_holds_nothing_up(host, guest):
    opened(host, guest)
    for mode in 'ge':
        guest.run(mode, f'done {mode}')
        until(lambda: agent_state(host) == 'absent', 90, what='an agent being given up')
        assert show(host)['addresses'] == []
        d = host.ok('vm', 'attach', 'g', '--disk', 'v1:/more') and host.json('vm', 'detach', 'g', 'v1:/more')
        assert 'without an agent' in d['note']
    guest.type('c')                                     # ends the endless one
    guest.run('a', 'done a')
    opened(host, guest)


@pytest.mark.slow
def test_a_mounted_disk_is_kept(host, guest):
    opened(host, guest)
    host.ok('vm', 'attach', 'g', '--disk', 'v1:/more')
    guest.run('m 1', 'done m')
    error = host.fails('busy', 'vm', 'detach', 'g', 'v1:/more')
    assert 'mounted on /data' in error['message'] and '--force' in error['message'] and error['holder'] == 'vm g'
    assert show(host)['disks'] == ['v1:/a.disk', 'v1:/more']
    guest.run('m 1001', 'done m')
    assert 'note' not in host.json('vm', 'detach', 'g', 'v1:/more')
    host.ok('vm', 'attach', 'g', '--disk', 'v1:/more')
    guest.run('m 2', 'done m')                          # the address that was freed rests
    host.fails('busy', 'vm', 'detach', 'g', 'v1:/more')
    host.ok('vm', 'detach', 'g', 'v1:/more', '--force')
    assert show(host)['disks'] == ['v1:/a.disk']


def test_freeze_and_thaw(host, guest):
    until(lambda: agent_state(host) == 'absent', 60, what='nobody being found')
    assert 'agent' in host.fails('unreachable', 'vm', 'freeze', 'g')['message']
    opened(host, guest)
    assert host.json('vm', 'freeze', 'g', '--for', '60') == {'filesystems': 1}
    assert agent_state(host) == 'frozen' and counters(guest) == (1, 0)
    host.fails('busy', 'vm', 'freeze', 'g')
    host.ok('vm', 'thaw', 'g')
    assert counters(guest) == (0, 1)
    host.fails('timed-out', 'vm', 'thaw', 'g')
    host.ok('vm', 'freeze', 'g', '--for', '2')
    until(lambda: counters(guest)[0] == 0, 60, what='time thawing it')
    host.fails('timed-out', 'vm', 'thaw', 'g')
    assert any('frozen for too long; thawed' in e['text'] for e in host.json('event', 'list'))


@pytest.mark.slow
def test_a_daemon_that_dies_leaves_nothing_frozen(host, guest):
    opened(host, guest)
    host.ok('vm', 'freeze', 'g', '--for', '600')
    host.kill()                                         # the VMM thaws by itself
    host.start()
    until(lambda: host.run('vm', 'show', 'g', '--json').code == 0 and show(host)['addresses'], 60,
          what='the next daemon finding the agent')
    assert agent_state(host) == 'running' and show(host)['addresses'] == ['10.1.2.3']
    assert counters(guest) == (0, 1)
    assert not any('frozen by nobody' in e['text'] for e in host.json('event', 'list'))


@pytest.mark.slow
def test_it_is_found_where_the_guest_moved_to(pair):
    h1, h2 = pair
    start(h1)
    with Shell(h1) as guest:
        guest.expect('named org.qemu.guest_agent.0')
        opened(h1, guest)
        h1.ok('vm', 'freeze', 'g', '--for', '600')
    h1.json('vm', 'migrate', 'g', '--to', 'h2', timeout=120)
    until(lambda: show(h2)['addresses'], 60, what='the agent being found on the other host')
    assert agent_state(h2) == 'running'                 # and thawed: nobody is left there who would
    with Shell(h2) as guest:
        guest.at = os.path.getsize(guest.log)
        assert counters(guest)[0] == 0
    h2.json('vm', 'migrate', 'g', '--to', 'h1', timeout=120)
    until(lambda: show(h1)['addresses'], 60, what='the agent being found back')
    h1.ok('vm', 'stop', 'g', '--timeout', '60')
    assert 'asked guest-shutdown' in h1.ok('vm', 'console', 'g', '--log').out
