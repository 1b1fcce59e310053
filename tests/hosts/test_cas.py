# SPDX-License-Identifier: Apache-2.0
"""4 hosts (processes) increment a counter under a lock made of compare-and-write: no update is lost,
whatever the mode, and with answers swallowed or commands landing late. LIO has its turn in tests/lab."""
import os, re, signal, subprocess, threading, time

import pytest

from hostlib import until
from targets import Tgt, file_lun, program
from proxy import Proxy


def hosts(lun, count, *options, n=4, each=lambda i: ()):
    """Starts n hosts; returns their outputs, checks that the counter grew by n * count."""
    before = counter(lun)
    procs = [subprocess.Popen([program('cas_incr'), '--seed', str(100 * i), *options, *each(i), lun, str(count)],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for i in range(n)]
    outs = []
    try:
        for p in procs:
            out, err = p.communicate(timeout=100)
            assert p.returncode == 0, (out, err[-3000:])
            outs.append(out)
    finally:
        for p in procs:
            if p.poll() is None:
                p.kill()
                p.wait()
    assert counter(lun) - before == n * count, outs
    return outs


def counter(lun, offset=None):
    p = subprocess.run([program('cas_incr'), '--print', *(['--offset', str(offset)] if offset else []), lun], capture_output=True, text=True, timeout=30)
    assert p.returncode == 0, p.stderr
    return int(p.stdout)


def unknown(outs):
    return sum(int(re.search(r'unknown (\d+)', o)[1]) for o in outs)


def test_file():
    with file_lun() as lun:
        assert all('cas file' in o for o in hosts(lun, 200))


def test_file_answers_lost():
    with file_lun() as lun:
        outs = hosts(lun, 40, '--timeout', '20', '--fault', 'lost-answer=20')
        assert unknown(outs) > 10
        outs = hosts(lun, 40, '--timeout', '20', '--fault', 'late-write=30,15')
        assert unknown(outs) > 10


@pytest.mark.slow
def test_baton():
    with Tgt() as t:
        assert all('cas baton' in o for o in hosts(t.url, 200))


def test_baton_registered():
    """With keys of the hosts' own and the reservation, as a mounted volume has them."""
    with Tgt() as t:
        hosts(t.url, 50, each=lambda i: ('--register', str(0x1000 + i)))


@pytest.mark.slow
def test_baton_answers_lost():
    with Tgt() as t:
        outs = hosts(t.url, 15, '--timeout', '200', '--fault', 'lost-answer=20')
        assert unknown(outs) > 10


def test_baton_late():
    with Tgt() as t:
        outs = hosts(t.url, 15, '--timeout', '200', '--fault', 'late-write=250,5')
        assert unknown(outs) > 10


@pytest.mark.slow
def test_baton_holder_killed():
    """A host that dies inside of a section (or outside) keeps nobody out for long."""
    with Tgt() as t:
        for _ in range(2):
            p = subprocess.Popen([program('cas_incr'), '--offset', '0x200000', t.url, '1000000'])
            time.sleep(0.4)
            p.send_signal(signal.SIGKILL)
            p.wait()
            hosts(t.url, 5, n=2)


@pytest.mark.slow
def test_baton_array_forgets_keys():
    """The target dies and comes back without keys: the mutex is set up again, nothing is lost."""
    with Tgt() as t:
        procs = [subprocess.Popen([program('cas_incr'), '--timeout', '3000', t.url, '400'], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True) for _ in range(3)]
        time.sleep(0.5)
        t.restart()
        for p in procs:
            out, err = p.communicate(timeout=100)
            assert p.returncode == 0, (out, err[-3000:])
        assert counter(t.url) == 3 * 400


class StopInside:
    """Stops a process when it gives its lock at block `lba` back, which it does inside of a section only; once each time
    it is armed. At the taking it would not do: who reads that the lock is taken asks for no section, and finds nobody silent."""

    def __init__(self, lba):
        self.lba, self.pid, self.armed, self.stopped = lba, None, False, threading.Event()

    def watch(self, data):
        # an iSCSI command's header: opcode 01h, the CDB at 32 (RFC 7143 11.3); WRITE(16), its LBA at 2 (SBC-3); its
        # data come with it (ImmediateData): the owner at 8, none when it is given back (cas_incr.c)
        if (self.armed and len(data) >= 64 and data[0] & 0x3f == 1 and data[32] == 0x8a
                and int.from_bytes(data[34:42], 'big') == self.lba and not any(data[56:64])):
            self.armed = False
            os.kill(self.pid, signal.SIGSTOP)
            self.stopped.set()


def silent(logs):
    return sum(log.read_text().count('is silent') for log in logs)


@pytest.mark.slow
def test_baton_stop_and_continue(tmp_path):
    """A host that is stopped inside of a section, for longer than a holder may be silent, then goes on: it is taken
    out, what it still sends is refused, and no update is lost."""
    OFFSET = 0x200000
    stop = StopInside(OFFSET // 512)
    with Tgt() as t, Proxy(t.port, watch=stop.watch) as proxy:
        logs = [tmp_path / f'log{i}' for i in range(3)]
        urls = [t.url.replace(t.portal, f'127.0.0.1:{proxy.port}'), t.url, t.url]
        # They count until they are told to end: somebody has to be left who finds the stopped one silent. And they rest,
        # for who asks first gets the baton: one behind a proxy may wait for minutes for two that never do.
        procs = [subprocess.Popen([program('cas_incr'), '--timeout', '4000', '--offset', str(OFFSET), '--rest', '10', url, str(10**9)],
                                  stderr=log.open('w'), stdout=subprocess.PIPE, text=True) for log, url in zip(logs, urls)]
        stop.pid = procs[0].pid
        try:
            for _ in range(2):
                before = silent(logs[1:])
                stop.stopped.clear()
                stop.armed = True
                until(stop.stopped.is_set, 30, what='it being inside of a section')
                until(lambda: silent(logs[1:]) > before, 30, what='the stopped holder being taken out')
                procs[0].send_signal(signal.SIGCONT)
            rounds = 0
            for p in procs:
                p.send_signal(signal.SIGTERM)
            for p, log in zip(procs, logs):
                out, _ = p.communicate(timeout=100)
                assert p.returncode == 0, log.read_text()[-3000:]
                rounds += int(re.search(r'rounds (\d+)', out)[1])
        finally:
            for p in procs:
                if p.poll() is None:
                    p.kill()
                    p.wait()
        assert counter(t.url, OFFSET) == rounds
