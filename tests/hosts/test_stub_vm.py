# SPDX-License-Identifier: Apache-2.0
"""VMs under their daemons, without KVM: what test_vm_life.py shows with one, where there is none; and the stub itself."""
import os, signal
import pytest

from hostlib import until
from stublib import Book, alive, cluster, counts, create, goes_on, keys, lock_range, show  # noqa: F401 (cluster is a fixture)


@pytest.fixture
def host(host):
    create(host)
    return host


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
    os.kill(show(host)['pid'], signal.SIGKILL)
    until(lambda: show(host)['state'] == 'crashed')
    host.ok('vm', 'delete', 'g', '--yes')
    create(host)
    assert show(host)['state'] == 'stopped'     # another one, which has never run


@pytest.mark.slow
def test_its_lock_is_given_up_when_that_works(cluster, host):
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', cluster.dir / 'lun0')
    host.ok('vm', 'start', 'g')
    goes_on(host)
    host.ok('fault', 'add', cluster.dir / 'lun0', '--kind', 'fail', '--op', 'cas', '--range', lock_range(host))
    host.run('vm', 'kill', 'g')
    until(lambda: any('its lock is not given up yet' in e['text'] for e in host.json('event', 'list')), 60)
    h2.fails('busy', 'vm', 'start', 'g', timeout=120)
    host.ok('fault', 'clear')
    until(lambda: any('its lock is given up now' in e['text'] for e in host.json('event', 'list')), 60)
    d = show(host)
    assert d['state'] == 'stopped' and 'why' not in d and d['host'] is None
    h2.ok('vm', 'start', 'g')
    goes_on(h2)
    host.stop()                                                         # what it remembered of it is old
    host.start()
    goes_on(h2)
    assert show(host)['host'] == 'h2'


@pytest.mark.slow
def test_a_daemon_is_stopped_before_it_could_give_a_lock_up(cluster, host):
    """Its monitor died with the daemon; the next one cannot take what it left, nor can the one after the next forget it."""
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', cluster.dir / 'lun0')
    host.ok('vm', 'start', 'g')
    goes_on(host)
    at = lock_range(host)
    (host.dir / 'steps').mkdir()
    file = host.dir / 'steps' / 'adopt.remains'
    file.touch()
    pid = show(host)['pid']
    host.kill()
    os.kill(pid, signal.SIGKILL)
    host.start()
    until(file.with_name(file.name + '.reached').exists)
    host.ok('fault', 'add', cluster.dir / 'lun0', '--kind', 'fail', '--op', 'cas', '--range', at)
    file.unlink()
    until(lambda: 'not known yet who has its lock' in host.log.read_text(), 60)
    host.stop()
    host.start()
    until(lambda: show(h2)['state'] in ('stopped', 'crashed'), 60, what='its lock being given up')
    h2.ok('vm', 'start', 'g')
    goes_on(h2)


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


@pytest.mark.parametrize('host_lost', [False, True])
def test_a_lost_block_is_found(cluster, host, host_lost):
    """A stub's guest reads all of its disk when it boots, and knows what it was told of each block: what was answered, or
    what was flushed, if its host is lost."""
    lost = cluster.stub / 'g.lost-h1'

    def start():
        lost.touch() if host_lost else None
        host.ok('vm', 'start', 'g')
        assert not lost.exists()

    start()
    goes_on(host)
    book = Book(cluster)
    until(lambda: sum(book.flushed()) > 100, what='a flush')
    host.ok('vm', 'kill', 'g')
    assert all(f <= a <= b for f, a, b in zip(book.flushed(), book.answered(), book.begun()))
    at = next(i for i in range(256) if book.flushed()[i])
    for part in ('answered', 'begun') if host_lost else ('begun',):
        book.set(part, at, book.begun()[at] + 3)
    start()
    goes_on(host)
    assert not cluster.violations()
    host.ok('vm', 'kill', 'g')
    one_more = book.answered()[at] + 1
    for part in book.PARTS if host_lost else ('answered', 'begun'):
        book.set(part, at, one_more)
    start()
    until(lambda: f'bad block at the boot {at}:' in cluster.violations())
    (cluster.stub / 'violations').unlink()


def test_a_disk_taken_by_force(host):
    """What is said of it is true with an agent, too: nobody was asked."""
    host.ok('disk', 'create', 'v1:/b.disk', '--size', '64M')
    host.ok('vm', 'start', 'g')
    goes_on(host)
    for force in (), ('--force',):
        host.ok('vm', 'attach', 'g', '--disk', 'v1:/b.disk')
        note = host.json('vm', 'detach', 'g', 'v1:/b.disk', *force)['note']
        assert ('agent' in note, 'by force' in note) == (not force, bool(force)), note
    goes_on(host)


def test_faults_of_what_is_not_open(host):
    """They wait for it, and say so; one that strikes at once is refused."""
    lun = str(host.dir.parent / 'lun0')
    assert 'note' not in host.json('fault', 'add', lun, '--kind', 'delay=1')
    assert 'is open here now' in host.json('fault', 'add', 'nobody', '--kind', 'fail')['note']
    assert 'nobody' in host.fails('not-found', 'fault', 'add', 'nobody', '--kind', 'power-loss')['message']
    host.ok('fault', 'clear')
