# SPDX-License-Identifier: Apache-2.0
"""VMs under their daemons, with payload guests on the machine's own /dev/kvm: start, stop, refuse, reboot, die, and
daemons that end while guests run. Real kernels run in the lab."""
import os, signal, subprocess, threading, time
import pytest
from hostlib import BIN, EXIT, until
from proc import alive, cpu_s, stands_still
from vmlib import show, state
from vmm import setup_sectors
from payloads import BUTTON_OFF, ECHO, POWER_OFF, guest, say

if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)

FROZEN_S = 20


def kernel(host, body, name='kernel'):
    path = host.dir.parent / name
    path.write_bytes(setup_sectors() + guest(body))
    return path


def create(host, body, name='g', *words):
    host.ok('vm', 'create', name, '--volume', 'v1', '--memory', '16M', '--kernel', kernel(host, body, f'kernel-{name}'),
            *(words or ('--disk', 'v1:/a.disk')))


def says(host, text, name='g', timeout=20):
    """Until the guest has said it on this host: the console's log."""
    until(lambda: text in host.run('vm', 'console', name, '--log').out, timeout, what=f'the guest saying {text!r}')


def test_definition(host, cluster):
    create(host, say('on') + ECHO)
    d = show(host)
    assert (d['name'], d['volume'], d['state'], d['host'], d['pid'], d['started']) == ('g', 'v1', 'stopped', None, None, None)
    assert (d['memory'], d['cpus'], d['disks'], d['nets']) == (16 << 20, 1, ['v1:/a.disk'], []) and d['policy']
    assert [v['name'] for v in host.json('vm', 'list')] == ['g']
    create(host, ECHO, 'b')
    assert [v['name'] for v in host.json('vm', 'list')] == ['b', 'g']
    k = cluster.dir / 'kernel-g'
    new = ['--volume', 'v1', '--memory', '16M']
    host.fails('failed', 'vm', 'create', 'g', *new, '--kernel', k)
    for name in ('', '.x', 'a/b', 'a:b', 'a b', 'x' * 101):
        assert "name" in host.fails('usage', 'vm', 'create', name, *new)['message']
    host.fails('usage', 'vm', 'create', 'x', '--volume', 'v1', '--memory', '3M', '--kernel', k)
    host.fails('usage', 'vm', 'create', 'x', *new, '--cpus', '1000', '--kernel', k)
    host.fails('usage', 'vm', 'create', 'x', *new, '--kernel', __file__)
    host.fails('not-found', 'vm', 'create', 'x', *new, '--kernel', '/nonexistent')
    host.fails('not-found', 'vm', 'create', 'x', *new, '--disk', 'v1:/none')
    host.fails('usage', 'vm', 'create', 'x', *new, '--disk', 'v1:/a.disk', '--disk', 'v1:/a.disk')
    host.fails('not-found', 'vm', 'create', 'x', '--volume', 'v2', '--memory', '16M')
    assert [v['name'] for v in host.json('vm', 'list')] == ['b', 'g']
    assert {f['name'] for f in host.json('file', 'ls', 'v1:/vms')} == {'b', 'g'}    # nothing half made stays
    host.ok('vm', 'rename', 'g', 'web')
    assert state(host, 'v1:web') == 'stopped'
    host.fails('not-found', 'vm', 'show', 'g')
    host.fails('refused', 'vm', 'delete', 'web')
    host.ok('--yes', 'vm', 'delete', 'web')
    host.ok('--yes', 'vm', 'delete', 'b')
    assert host.json('vm', 'list') == [] and host.json('file', 'ls', 'v1:/vms') == []
    assert host.json('disk', 'show', 'v1:/a.disk')['size'] == 64 << 20


def test_one_that_has_no_kernel(host):
    host.ok('vm', 'create', 'g', '--volume', 'v1', '--memory', '16M', '--disk', 'v1:/a.disk')
    assert 'kernel' in host.fails('usage', 'vm', 'start', 'g')['message']
    assert state(host) == 'stopped'


def test_start_console_kill(host):
    create(host, say('hello') + ECHO)
    host.ok('vm', 'start', 'g')
    d = show(host)
    assert d['state'] == 'running' and d['host'] == 'h1' and alive(d['pid']) and d['started'].endswith('Z')
    out = host.ok('vm', 'console', 'g', stdin='typed\n').out
    assert 'hello' in out and 'typed' in out                            # what it said before, and its echo
    assert 'hello' not in host.ok('vm', 'console', 'g', stdin='again\n').out
    assert host.fails('busy', 'vm', 'start', 'g')['holder'] == 'host h1'
    for words in (['vm', 'rename', 'g', 'x'], ['--yes', 'vm', 'delete', 'g'], ['volume', 'unmount', 'v1'],
                  ['--yes', 'disk', 'delete', 'v1:/a.disk']):
        host.fails('busy', *words)
    p = subprocess.Popen([BIN / 'perilune', '--connect', host.dir, 'vm', 'console', 'g', '--follow'], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE)
    host.ok('vm', 'kill', 'g')
    assert p.wait(10) == 0                                              # the console ends with the VM
    p.stdout.close()
    assert state(host) == 'stopped' and not alive(d['pid'])
    host.ok('vm', 'kill', 'g')                                          # is as it should be
    host.fails('usage', 'vm', 'console', 'g')
    assert 'typed' in host.ok('vm', 'console', 'g', '--log').out
    host.ok('--yes', 'disk', 'delete', 'v1:/a.disk')                    # its lock was given up
    host.ok('volume', 'unmount', 'v1')


def test_power_button_and_power_off(host):
    create(host, say('up') + BUTTON_OFF)
    host.ok('vm', 'start', 'g')
    says(host, 'up')
    host.ok('vm', 'stop', 'g', '--timeout', '20')
    assert state(host) == 'stopped'
    host.ok('vm', 'stop', 'g')
    create(host, say('deaf') + ECHO, 'deaf', '--cpus', '1')
    host.ok('vm', 'start', 'deaf')
    assert 'vm kill' in host.fails('timed-out', 'vm', 'stop', 'deaf', '--timeout', '1')['message']
    assert state(host, 'deaf') == 'running'
    host.ok('vm', 'kill', 'deaf')
    create(host, POWER_OFF, 'brief', '--cpus', '1')
    host.ok('vm', 'start', 'brief')
    until(lambda: state(host, 'brief') == 'stopped')


def test_reboots(host):
    create(host, say('boot') + BUTTON_OFF)
    host.ok('vm', 'start', 'g')
    pid = show(host)['pid']

    def boots():
        return host.ok('vm', 'console', 'g', '--log').out.count('boot')
    host.ok('vm', 'reboot', 'g', '--force')
    until(lambda: boots() == 2)
    assert show(host)['pid'] == pid
    host.ok('vm', 'reboot', 'g', '--timeout', '20')
    until(lambda: boots() == 3)
    assert state(host) == 'running' and show(host)['pid'] != pid


def test_vmm_dies(host):
    create(host, say('up') + ECHO)
    host.ok('vm', 'start', 'g')
    os.kill(show(host)['pid'], signal.SIGKILL)
    until(lambda: state(host) == 'crashed')
    assert 'its monitor died' in show(host)['error']
    assert any(e['kind'] == 'vm' and 'its monitor died' in e['text'] for e in host.json('event', 'list'))
    host.ok('vm', 'start', 'g')
    assert state(host) == 'running'


def test_sandbox(host):
    create(host, say('up') + ECHO)
    host.ok('vm', 'start', 'g')
    pid = show(host)['pid']
    status = dict(line.rstrip('\n').split(':\t', 1) for line in open(f'/proc/{pid}/status') if ':\t' in line)
    assert status['Seccomp'] == '2' and int(status['Uid'].split()[0]) >= 1879048192 and status['NSpid'].split()[-1] == '1'
    assert int(open(f'/proc/{pid}/oom_score_adj').read()) == 0
    for fd in os.listdir(f'/proc/{pid}/fd'):
        link = os.readlink(f'/proc/{pid}/fd/{fd}')
        assert link in ('/dev/null', '/dev/kvm', '/memfd:guest (deleted)') or link.endswith('.log') or \
            link.startswith(('socket:', 'anon_inode:kvm-', 'anon_inode:[eventfd]', '/memfd:perilune-inflight')) or \
            link == 'anon_inode:[timerfd]', link                        # the watchdog's
    for ns in ('pid', 'net', 'mnt', 'ipc'):
        assert os.readlink(f'/proc/{pid}/ns/{ns}') != os.readlink(f'/proc/self/ns/{ns}'), ns
    assert os.getsid(pid) != os.getsid(host.proc.pid)
    create(host, say('other') + ECHO, 'other', '--cpus', '1')
    host.ok('vm', 'start', 'other')
    uids = {open(f'/proc/{show(host, n)["pid"]}/status').read().split('Uid:\t')[1].split()[0] for n in ('g', 'other')}
    assert len(uids) == 2                                               # neither can touch the other


@pytest.mark.slow
def test_other_host_is_refused_and_may_start_it_afterwards(host, cluster, lun):
    create(host, say('up') + BUTTON_OFF)
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', lun)
    host.ok('vm', 'start', 'g')
    for words in (['vm', 'start', 'g'], ['vm', 'stop', 'g'], ['vm', 'kill', 'g'], ['vm', 'console', 'g'],
                  ['--yes', 'vm', 'delete', 'g'], ['vm', 'rename', 'g', 'x']):
        r = h2.run(*words)
        assert r.code == EXIT['busy'] and 'h1' in r.err, r
    assert show(h2)['state'] == 'running' and show(h2)['host'] == 'h1'
    host.ok('vm', 'stop', 'g', '--timeout', '20')
    h2.ok('vm', 'start', 'g')
    says(h2, 'up')
    assert show(host)['host'] == 'h2'
    host.fails('busy', 'vm', 'start', 'g')
    h2.ok('vm', 'kill', 'g')
    host.ok('vm', 'start', 'g')


@pytest.mark.slow
def test_both_start_it_at_once(host, cluster, lun):
    create(host, say('up') + ECHO)
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', lun)
    for _ in range(5):
        codes = {}
        threads = [threading.Thread(target=lambda h=h: codes.update({h.name: h.run('vm', 'start', 'g').code})) for h in (host, h2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert sorted(codes.values()) == [EXIT['ok'], EXIT['busy']], codes
        (host if codes['h1'] == 0 else h2).ok('vm', 'kill', 'g')


# --- daemons that end


def goes_on(host):
    """The guest answers on its console and its disk is served."""
    assert 'xyzzy' in host.ok('vm', 'console', 'g', stdin='xyzzy\n').out


def test_daemon_killed_and_started_again(host):
    create(host, say('up') + ECHO)
    host.ok('vm', 'start', 'g')
    before = show(host)
    for _ in range(3):
        host.kill()
        began = time.monotonic()
        host.start()
        after = show(host)
        took = time.monotonic() - began
        assert (after['state'], after['pid'], after['started']) == ('running', before['pid'], before['started'])
        assert took < 3, took
        goes_on(host)
    host.fails('busy', 'vm', 'start', 'g')
    host.ok('vm', 'kill', 'g')
    assert not alive(before['pid'])
    host.ok('vm', 'start', 'g')


def test_daemon_stopped_and_started_again(host):
    create(host, say('up') + ECHO)
    host.ok('vm', 'start', 'g')
    pid = show(host)['pid']
    host.stop()
    assert alive(pid)
    host.start()
    assert show(host)['pid'] == pid and state(host) == 'running'
    goes_on(host)


def test_pause_and_resume(host):
    create(host, say('up') + ECHO)
    host.fails('usage', 'vm', 'pause', 'g')                         # it is off
    host.ok('vm', 'start', 'g')
    says(host, 'up')
    pid = show(host)['pid']
    for _ in range(2):
        host.ok('vm', 'pause', 'g')
        host.ok('vm', 'pause', 'g')                                 # as it should be already
        assert state(host) == 'paused' and 'vm resume' in show(host)['why']
        stands_still(pid, 10)
        host.ok('vm', 'resume', 'g')
        host.ok('vm', 'resume', 'g')
        assert state(host) == 'running' and 'why' not in show(host)
        goes_on(host)
    # The next daemon lets it stand, however the last one ended.
    host.ok('vm', 'pause', 'g')
    for how in (host.kill, host.stop):
        how()
        host.start()
        assert (state(host), show(host)['pid']) == ('paused', pid)
        stands_still(pid, 10)
    host.fails('timed-out', 'vm', 'stop', 'g', '--timeout', '1')    # nobody there to hear the button
    host.ok('vm', 'resume', 'g')
    goes_on(host)
    # Its reset button, and its end.
    host.ok('vm', 'pause', 'g')
    host.ok('vm', 'reboot', 'g', '--force')
    until(lambda: state(host) == 'running')
    goes_on(host)
    host.ok('vm', 'pause', 'g')
    host.ok('vm', 'kill', 'g')
    assert state(host) == 'stopped' and not alive(pid)
    host.ok('vm', 'start', 'g')
    assert state(host) == 'running'
    goes_on(host)


@pytest.mark.slow
def test_what_happened_while_no_daemon_was_there(host):
    # Powered off, dead, rebooted: the next daemon finds out.
    create(host, say('up') + BUTTON_OFF)
    host.ok('vm', 'start', 'g')
    pid = show(host)['pid']
    host.kill()
    os.kill(pid, signal.SIGKILL)
    host.start()
    until(lambda: state(host) == 'crashed')
    host.ok('vm', 'start', 'g')
    host.ok('vm', 'stop', 'g', '--timeout', '20')
    late = 'mov $0x600000, %ecx; 2: loop 2b;'
    create(host, say('boot') + late + POWER_OFF, 'late', '--cpus', '1')
    host.ok('vm', 'start', 'late')
    host.kill()
    time.sleep(4)
    host.start()
    until(lambda: state(host, 'late') == 'stopped', 120)  # six million instructions, a microsecond each where KVM is emulated


@pytest.mark.slow
def test_vmm_stops_by_itself_when_the_daemon_stays_away(host):
    counting = say('up') + '2: incl 0x190000; jmp 2b;'
    create(host, counting)
    host.ok('vm', 'start', 'g')
    pid = show(host)['pid']
    host.signal(signal.SIGSTOP)

    last = stands_still(pid, FROZEN_S)
    host.signal(signal.SIGCONT)
    until(lambda: state(host) == 'running' and cpu_s(pid) > last, 20, what='the guest going on')
    assert any('frozen' in e['text'] for e in host.json('event', 'list') if e['kind'] == 'vm')
    assert show(host)['pid'] == pid


@pytest.mark.slow
def test_a_dead_hosts_vm_is_started_elsewhere(host, cluster, lun):
    create(host, say('up') + ECHO)
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', lun)
    host.ok('vm', 'start', 'g')
    pid = show(host)['pid']
    until(lambda: show(h2)['host'] == 'h1')
    host.kill()
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 60
    while (r := h2.run('vm', 'start', 'g', timeout=90)).code:
        assert r.code == EXIT['busy'] and 'h1' in r.err and time.monotonic() < end, r
        time.sleep(0.5)
    says(h2, 'up')
    host.start()                                                        # comes back as somebody new
    until(lambda: host.run('vm', 'list').code == 0 and host.json('vm', 'list') != [])
    assert show(host)['host'] == 'h2'
    host.fails('busy', 'vm', 'start', 'g')


@pytest.mark.slow
def test_an_old_vmm_is_ended_when_its_vm_was_taken_over(host, cluster, lun):
    # The daemon dies, its VMM lives on, frozen; another host takes the VM; the daemon comes back.
    create(host, say('up') + ECHO)
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', lun)
    host.ok('vm', 'start', 'g')
    pid = show(host)['pid']
    host.kill()
    end = time.monotonic() + 60
    while (r := h2.run('vm', 'start', 'g', timeout=90)).code:
        assert r.code == EXIT['busy'] and time.monotonic() < end, r
        time.sleep(0.5)
    assert alive(pid)
    host.start()
    until(lambda: not alive(pid), what='the old VMM ending')
    assert show(h2)['state'] == 'running' and alive(show(h2)['pid'])
