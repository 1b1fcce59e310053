# SPDX-License-Identifier: Apache-2.0
"""Others want something of a VM, or of its host, at the very moment in which it changes hosts (stublib.py)."""
import signal, subprocess, time

import pytest

from hostlib import BIN, until
from stublib import alive, create, goes_on, lock_range, show
from targets import Tgt
from test_migrate import GROUPS, begin, cluster, migrate, pair, stands_still, stop_at  # noqa: F401 (fixtures)
from test_postcopy import FAST, busy, moved, whole

pytestmark = pytest.mark.slow


def said(host, *words):
    """Under way."""
    return subprocess.Popen([BIN / 'perilune', '--connect', host.dir, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def test_disks_that_open_late_before_all_memory_has_come(pair, lun):
    """Until they do it says what it waits for; what knows which pages are there stays (under ASan: or was freed in use)."""
    h1, h2 = pair
    busy(h1)
    accepted, go_accepted = stop_at(h2, 'target.accepted')
    rest, go_rest = stop_at(h1, 'source.rest')
    p = begin(h1, h2, *FAST)
    accepted()
    n = 0

    def cannot_open():
        nonlocal n
        n += 1
        h1.ok('disk', 'create', f'v1:/b{n}.disk', '--size', '64M')      # the root is its own again
        h2.ok('fault', 'add', lun, '--kind', 'fail', '--range', f'{GROUPS}-{1 << 30}')      # the lease goes on
        return h2.run('disk', 'list', 'v1').code or h2.ok('fault', 'clear').code            # it may have read the root anew
    until(cannot_open)
    go_accepted()
    stands_still(h2, 'its storage is waited for: vm g: disk v1:/a.disk: ', 'perilune vm kill')
    assert any('waits for its disks: vm g: disk v1:/a.disk: ' in e['text'] for e in h2.json('event', 'list'))
    h2.ok('fault', 'clear')
    rest()
    goes_on(h2)
    go_rest()
    moved(p)
    whole(h2)
    goes_on(h2)
    migrate(h2, h1)
    goes_on(h1)


@pytest.mark.parametrize('step', ['source.round', 'target.called'])
def test_maintenance_of_a_host_that_a_vm_is_on_its_way_to(pair, step):
    """It does not come; or, past that, it comes and leaves."""
    h1, h2 = pair
    wait, go_on = stop_at(h1 if step.startswith('source') else h2, step)
    p = begin(h1, h2)
    wait()
    on = said(h2, '--json', 'host', 'maintenance', 'on')
    until(lambda: h2.json('host', 'show')['maintenance'])
    time.sleep(0.5)
    assert on.poll() is None                                            # it is not over with it yet
    go_on()
    heard = p.communicate(timeout=60)[0]
    assert (p.returncode == 0) == (step == 'target.called'), heard
    heard = on.communicate(timeout=60)[0]
    assert on.returncode == 0, heard
    assert show(h2)['pid'] is None and show(h1)['host'] == 'h1'
    goes_on(h1)


def test_maintenance_said_twice_and_off_again(pair):
    """One task empties a host; when that is not wanted any more it stops, and what was on its way stays."""
    h1, h2 = pair
    wait, go_on = stop_at(h1, 'source.round')
    on = said(h1, 'host', 'maintenance', 'on')
    wait()
    assert 'is being emptied already' in h1.fails('busy', 'host', 'maintenance', 'on')['message']
    h1.ok('host', 'maintenance', 'off')
    heard = on.communicate(timeout=60)[0]
    assert on.returncode and 'host maintenance off' in heard, heard
    go_on()
    until(lambda: 'moves_to' not in show(h1))
    assert show(h1)['state'] == 'running' and show(h1)['host'] == 'h1'
    goes_on(h1)
    assert h1.json('host', 'maintenance', 'on')['moved'] == ['v1:g']
    goes_on(h2)


@pytest.mark.parametrize('verb', [('pause',), ('resume',), ('reboot', '--force')], ids=lambda v: v[0])
def test_said_too_late(pair, verb):
    """The VM is the other host's before it can be obeyed: it is not said that it was."""
    h1, h2 = pair
    held = verb[0] == 'resume'
    if held:
        h1.ok('vm', 'pause', 'g')
    offered, go_on = stop_at(h1, 'source.offered')
    p = begin(h1, h2)
    offered()
    late = said(h1, 'vm', verb[0], 'g', *verb[1:])
    time.sleep(1)
    go_on()
    assert p.wait(60) == 0
    heard = late.communicate(timeout=60)[0]
    assert late.returncode and 'moved to host h2' in heard, heard
    assert show(h2)['state'] == ('paused' if held else 'running')


def test_a_saver_that_was_taken_over(cluster):
    """Somebody else has the VM by then: it is not said that it is saved."""
    with Tgt(size='1G') as t:
        h1, h2 = cluster.host('h1'), cluster.host('h2')
        h1.ok('volume', 'format', 'v1', t.url)
        for h in (h1, h2):
            h.ok('volume', 'mount', t.url)
        h1.ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
        create(h1)
        h1.ok('vm', 'start', 'g')
        goes_on(h1)
        pid = show(h1)['pid']
        written, go_on = stop_at(h1, 'save.written')
        p = said(h1, 'vm', 'save', 'g')
        written()
        h1.signal(signal.SIGSTOP)
        until(lambda: h2.run('vm', 'start', 'g', timeout=120).code == 0, 90, 0.5, what='its start elsewhere')
        goes_on(h2)
        go_on()
        h1.signal(signal.SIGCONT)
        heard = p.communicate(timeout=90)[0]
        assert p.returncode and 'lost its place' in heard, heard
        until(lambda: not alive(pid), 40, what='the end of its first monitor')
        goes_on(h2)
        until(lambda: h1.run('vm', 'show', 'g').code == 0 and show(h1)['host'] == 'h2', 60)
        h1.fails('busy', 'vm', 'start', 'g')


@pytest.mark.parametrize('verb', ['kill', 'stop'])
def test_ended_when_the_daemon_ends_before_it_is_known_whose_it_is(pair, lun, verb):
    """The next daemon finds it as it was left; nobody said that it is off."""
    h1, h2 = pair
    at = lock_range(h1)
    offered, go_on = stop_at(h1, 'source.offered')
    p = begin(h1, h2)
    offered()
    h1.ok('fault', 'add', lun, '--kind', 'fail', '--range', at)         # the lease goes on
    end = said(h1, 'vm', verb, 'g')
    time.sleep(1)
    go_on()
    until(lambda: 'not known yet who has its lock' in h1.log.read_text())
    assert end.poll() is None
    h1.stop()
    heard = end.communicate(timeout=60)[0]
    p.communicate(timeout=60)
    assert end.returncode, heard
    h1.start()
    until(lambda: [show(h)['state'] for h in (h1, h2)] == ['running'] * 2 and show(h1)['host'] == show(h2)['host'], 60)
    goes_on(h1 if show(h1)['host'] == 'h1' else h2)


def test_a_source_that_has_some_of_its_memory_still(pair):
    """It runs on the target alone, whoever is asked."""
    h1, h2 = pair
    busy(h1)
    rest, go_on = stop_at(h1, 'source.rest')
    p = begin(h1, h2, *FAST)
    rest()
    goes_on(h2)
    until(lambda: show(h1)['host'] == 'h2', 10)
    s = show(h1)
    assert s['state'] == 'running' and s['pid'] is None, s
    assert not h1.json('status')['vms'] and [v['name'] for v in h2.json('status')['vms']] == ['g']
    assert h1.fails('busy', 'vm', 'kill', 'g')['holder'] == 'host h2'
    assert 'has left this host' in h1.fails('busy', 'vm', 'start', 'g')['message']
    on = said(h1, 'host', 'maintenance', 'on')                          # it is wanted until all has gone
    until(lambda: h1.json('host', 'show')['maintenance'])
    time.sleep(0.5)
    assert on.poll() is None
    go_on()
    moved(p)
    heard = on.communicate(timeout=60)[0]
    assert on.returncode == 0, heard
    whole(h2)
    goes_on(h2)
