# SPDX-License-Identifier: Apache-2.0
"""Live migration of real guests between two daemons on one machine: the monitor with KVM, a payload guest that drives
its disk at full depth and compares every answer. Kills and errors: test_migrate*.py, with monitors that are programs."""
import os, pathlib, subprocess, time

import pytest
from hostlib import BIN, NO_GROUPS, Host, until
from payloads import c_kernel
from vmlib import Shell, answers, create, show, state

pytestmark = pytest.mark.slow

if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)


def migrate(source, target):
    return source.json('vm', 'migrate', 'g', '--to', target.name, '--verify', timeout=120)


def test_a_storm_on_the_disk_moves_there_and_back(pair, cluster, lun):
    h1, h2 = pair
    create(h1)
    h1.ok('vm', 'start', 'g')
    with Shell(h1) as shell:
        shell.expect('ready')
        shell.run('s 512', 's on')
        shell.expect('s ')
    for source, target in ((h1, h2), (h2, h1), (h1, h2)):
        pid = show(source)['pid']
        d = migrate(source, target)
        assert d['to'] == target.name and d['sent'] > 0
        assert (show(target)['state'], show(target)['host'], show(source)['host']) == ('running', target.name, target.name)
        with Shell(target) as shell:
            shell.at = os.path.getsize(shell.log)
            shell.expect('s ')                              # it goes on, under load, and nothing it reads is wrong
        assert show(target)['pid'] != pid
    with Shell(h2) as shell:
        shell.at = os.path.getsize(shell.log)
        shell.run('e', 'e ')
        shell.run('v', 'v ok')
        shell.run('f', 'f ok')
    # What a guest that came can still do: reboot with a kernel from the volume, be paused, be ended.
    h2.ok('vm', 'reboot', 'g', '--force')
    with Shell(h2) as shell:
        shell.expect('ready')
        shell.run('t', 't')
        h2.ok('vm', 'pause', 'g')
        h2.ok('vm', 'migrate', 'g', '--to', 'h1')
        h1.ok('vm', 'migrate', 'g', '--to', 'h2')
        assert state(h2) == 'paused'
        h2.ok('vm', 'resume', 'g')
        shell.run('c', 'c 16384')
    h2.ok('vm', 'kill', 'g')
    for h in (h1, h2):
        h.ok('volume', 'unmount', 'v1')
    h1.ok('volume', 'check', lun)


def test_memory_registers_and_clocks_move_along(pair):
    """The guest writes pages all the time, and looks at its memory, registers, timer and clocks (mover.c)."""
    h1, h2 = pair
    path = pathlib.Path(h1.dir).parent / 'mover'
    path.write_bytes(c_kernel('mover', 16 << 20))
    h1.ok('vm', 'create', 'g', '--volume', 'v1', '--memory', '16M', '--cpus', '2', '--kernel', path)
    h1.ok('vm', 'start', 'g')
    for source, target in ((h1, h2), (h2, h1), (h1, h2)):
        assert migrate(source, target)['rounds'] > 0
        answers(target)
    for h in pair:
        assert 'bad' not in h.ok('vm', 'console', 'g', '--log').out
    assert show(h2)['state'] == 'running'
    h2.ok('vm', 'kill', 'g')


def test_clocks_of_a_guest_that_is_slowed_down(cluster, lun):
    """Where there are no control groups it stands still and runs in turns: its clocks go on as they should (mover.c looks)."""
    h1 = Host(cluster, 'h1', prefix=NO_GROUPS)
    cluster.hosts['h1'] = h1.start('--listen', '127.0.0.1:0')
    h2 = cluster.host('h2', '--listen', '127.0.0.1:0')
    h1.ok('volume', 'format', 'v1', lun)
    for h in (h1, h2):
        h.ok('volume', 'mount', lun)
    until(lambda: any(h['name'] == 'h2' for h in h1.json('host', 'list')))
    until(lambda: any(h['name'] == 'h1' for h in h2.json('host', 'list')))
    path = pathlib.Path(h1.dir).parent / 'mover'
    path.write_bytes(c_kernel('mover', 16 << 20))
    h1.ok('vm', 'create', 'g', '--volume', 'v1', '--memory', '16M', '--cpus', '2', '--kernel', path)
    h1.ok('vm', 'start', 'g')
    p = subprocess.Popen([BIN / 'perilune', '--connect', h1.dir, 'vm', 'migrate', 'g', '--to', 'h2', '--max-downtime', '60', '--bandwidth', '8M',
                          '--no-postcopy'],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def slowed():
        tasks = [t for t in h1.json('task', 'list') if t['verb'] == 'migrate']
        return p.poll() is not None or tasks and 'slowed down' in (tasks[-1]['progress']['what'] or '')
    until(slowed, 60)
    assert p.poll() is None, p.communicate()
    time.sleep(3)                                   # some thirty turns
    for t in h1.json('task', 'list'):
        h1.run('task', 'cancel', t['id'])
    p.communicate(timeout=60)
    where = next(h for h in (h1, h2) if show(h)['pid'])
    answers(where)
    for h in (h1, h2):
        assert 'bad' not in h.run('vm', 'console', 'g', '--log').out
    where.ok('vm', 'kill', 'g')


def lazily(source, target):
    d = source.json('vm', 'migrate', 'g', '--to', target.name, '--postcopy', '--max-downtime', '5000', '--bandwidth', '1M', timeout=120)
    if d['postcopy']:
        until(lambda: any('all of its memory has come' in e['text'] for e in target.json('event', 'list')))
    return d['postcopy']


def test_a_storm_goes_on_before_all_memory_has_come(pair):
    """Post-copy with a processor: vCPUs wait for pages in the kernel, the disk's requests in the controller."""
    h1, h2 = pair
    create(h1)
    h1.ok('vm', 'start', 'g')
    with Shell(h1) as shell:
        shell.expect('ready')
        shell.run('s 512', 's on')
        shell.expect('s ')
    went = []
    for source, target in ((h1, h2), (h2, h1)):
        went.append(lazily(source, target))
        with Shell(target) as shell:
            shell.at = os.path.getsize(shell.log)
            shell.expect('s ')
    assert any(went)
    with Shell(h1) as shell:
        shell.at = os.path.getsize(shell.log)
        shell.run('e', 'e ')
        shell.run('v', 'v ok')
    h1.ok('vm', 'kill', 'g')


def test_memory_and_registers_before_all_memory_has_come(pair):
    h1, h2 = pair
    path = pathlib.Path(h1.dir).parent / 'mover'
    path.write_bytes(c_kernel('mover', 16 << 20))
    h1.ok('vm', 'create', 'g', '--volume', 'v1', '--memory', '16M', '--cpus', '2', '--kernel', path)
    h1.ok('vm', 'start', 'g')
    for source, target in ((h1, h2), (h2, h1)):
        assert lazily(source, target)
        answers(target)
    for h in pair:
        assert 'bad' not in h.ok('vm', 'console', 'g', '--log').out
    h1.ok('vm', 'kill', 'g')
