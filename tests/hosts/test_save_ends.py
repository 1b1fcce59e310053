# SPDX-License-Identifier: Apache-2.0
"""A daemon is told to stop, a task is cancelled, or a verb is cut off, while a VM's state changes hands: the state is there as
long as the VM's lock may name it, and goes when it cannot."""
import subprocess

import pytest
from hostlib import BIN, until
from stublib import cluster, create, goes_on, lock_range, show  # noqa: F401 (cluster is a fixture)

STATE = 'v1:/vms/g/state'


@pytest.fixture
def host(host):
    (host.dir / 'steps').mkdir()
    create(host)
    host.ok('vm', 'start', 'g')
    goes_on(host)
    return host


class Step:
    """A verb that stands still at a named step."""

    def __init__(self, host, name, *words):
        self.host = host
        self.file = host.dir / 'steps' / name
        self.reached = self.file.with_name(name + '.reached')
        self.file.touch()
        self.p = subprocess.Popen([BIN / 'perilune', '--connect', host.dir, *words], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        until(self.reached.exists, 60, 0.005, what=name)

    def then(self, name):
        """On to another one."""
        file = self.file.with_name(name)
        file.touch()
        self.go()
        self.file, self.reached = file, file.with_name(name + '.reached')
        until(self.reached.exists, 60, 0.005, what=name)

    def go(self):
        self.file.unlink()
        self.reached.unlink()

    def said(self):
        return self.p.communicate(timeout=60)[0].decode()


def told_to_stop(host):
    """It has begun to: nobody is heard any more."""
    host.proc.terminate()
    until(lambda: host.run('host', 'list').code == 8, 60, what='the API being closed')


def stopped(host):
    assert host.proc.wait(60) == 0, host.log.read_text()[-3000:]


def has_state(host):
    return 'state' in {f['name'] for f in host.json('file', 'ls', 'v1:/vms/g')}


@pytest.mark.slow
def test_told_to_stop_while_the_outcome_of_a_save_is_unknown(host, lun):
    at = lock_range(host)
    s = Step(host, 'save.written', 'vm', 'save', 'g')
    host.ok('fault', 'add', lun, '--kind', 'lost-answer', '--op', 'cas', '--range', at)     # it comes through
    host.ok('fault', 'add', lun, '--kind', 'fail', '--op', 'read', '--range', at)
    s.then('save.laid')
    told_to_stop(host)
    s.go()
    stopped(host)
    s.said()
    assert 'not known yet who has its lock' in host.log.read_text() or 'it is not known who has the VM' in host.log.read_text()
    host.start()
    until(lambda: show(host)['state'] == 'saved')
    host.ok('vm', 'restore', 'g')
    goes_on(host)


@pytest.mark.slow
@pytest.mark.parametrize('how', ['cancel', 'stop'])
def test_a_restore_that_is_given_up(host, how):
    """Before the state is used up it stays; after that the guest lives."""
    host.ok('vm', 'save', 'g')
    for step, want in (('restore.loaded', 'saved'), ('restore.accepted', 'running')):
        s = Step(host, step, 'vm', 'restore', 'g')
        if how == 'cancel':
            task = next(t['id'] for t in host.json('task', 'list') if t['state'] == 'running')
            host.ok('task', 'cancel', str(task))
            until(lambda: host.json('task', 'show', str(task))['state'] == 'cancelled')
            s.go()
        else:
            told_to_stop(host)
            s.go()
            stopped(host)
            host.start()
        s.said()
        until(lambda: show(host)['state'] == want and (want == 'running' or show(host)['pid'] is None), 60,
              what=f'{want} after {step}, {how}')
        if want == 'running':
            goes_on(host)
    assert not any(e['text'] == 'killed' for e in host.json('event', 'list'))


def test_a_restore_whose_lock_cannot_be_read_is_killed(host, lun):
    """Nothing has changed yet: it ends, and stays saved."""
    at = lock_range(host)
    host.ok('vm', 'save', 'g')
    s = Step(host, 'restore.loaded', 'vm', 'restore', 'g')
    host.ok('fault', 'add', lun, '--kind', 'fail', '--range', at)
    s.go()
    until(lambda: 'not known yet who has its lock' in host.log.read_text())
    host.ok('vm', 'kill', 'g')
    s.said()
    host.ok('fault', 'clear')
    assert show(host)['state'] == 'saved'
    host.ok('vm', 'restore', 'g')
    goes_on(host)


@pytest.mark.slow
def test_a_verb_dies_that_had_the_lock(cluster, host, lun):
    host.ok('vm', 'kill', 'g')
    s = Step(host, 'set.held', 'vm', 'set', 'g', '--memory-max', '64M')
    assert show(host)['state'] == 'running' and show(host)['pid'] is None   # for that moment
    host.kill()
    s.go()
    s.said()
    host.start()
    until(lambda: show(host)['state'] == 'stopped')
    assert 'why' not in show(host)
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', lun)
    h2.ok('vm', 'start', 'g')
    goes_on(h2)


@pytest.mark.slow
def test_the_state_of_a_saved_vm_is_no_file_to_remove(cluster, host):
    mine = cluster.dir / 'mine'
    mine.write_text('nothing')
    for path in (STATE, 'v1:/vms//g/state'):
        host.fails('busy', 'file', 'put', mine, path)               # it may be about to be saved
    host.ok('vm', 'save', 'g')
    for path in (STATE, 'v1:/vms//g/state'):
        for words in (('--yes', 'file', 'rm', path), ('file', 'put', mine, path)):
            r = host.run(*words)
            assert r.code != 0 and has_state(host), (words, r)
    r = host.run('--yes', 'file', 'rm', STATE)
    assert r.code == 4 and 'is saved' in r.err, r
    host.ok('vm', 'restore', 'g')
    goes_on(host)
    host.ok('vm', 'kill', 'g')
    host.ok('file', 'put', mine, STATE)                             # nothing, and anybody's
    host.ok('--yes', 'file', 'rm', STATE)


def test_what_is_left_of_a_state_goes(cluster, host):
    s = Step(host, 'save.written', 'vm', 'save', 'g')               # its daemon dies: the guest goes on
    host.kill()
    s.go()
    s.said()
    host.start()
    until(lambda: show(host)['state'] == 'running')
    goes_on(host)
    until(lambda: not has_state(host), 60, what='the file being gone')
    host.ok('vm', 'kill', 'g')
    left = cluster.dir / 'left'
    left.write_text('of a host that died')
    host.ok('file', 'put', left, STATE)
    host.ok('vm', 'start', 'g')
    goes_on(host)
    assert not has_state(host)
