# SPDX-License-Identifier: Apache-2.0
"""4 hosts (processes) increment a counter under a lock made of compare-and-write: no update is lost,
whatever the mode, and with answers swallowed or commands landing late. LIO has its turn in tests/lab."""
import re, signal, subprocess, time

import pytest

from targets import Tgt, file_lun, program


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


def counter(lun):
    p = subprocess.run([program('cas_incr'), '--print', lun], capture_output=True, text=True, timeout=30)
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


def test_baton():
    with Tgt() as t:
        assert all('cas baton' in o for o in hosts(t.url, 200))


def test_baton_registered():
    """With keys of the hosts' own and the reservation, as a mounted volume has them."""
    with Tgt() as t:
        hosts(t.url, 50, each=lambda i: ('--register', str(0x1000 + i)))


def test_baton_answers_lost():
    with Tgt() as t:
        outs = hosts(t.url, 15, '--timeout', '200', '--fault', 'lost-answer=20')
        assert unknown(outs) > 10


def test_baton_late():
    with Tgt() as t:
        outs = hosts(t.url, 15, '--timeout', '200', '--fault', 'late-write=250,5')
        assert unknown(outs) > 10


def test_baton_holder_killed():
    """A host that dies inside of a section (or outside) keeps nobody out for long."""
    with Tgt() as t:
        for _ in range(2):
            p = subprocess.Popen([program('cas_incr'), '--offset', '0x200000', t.url, '1000000'])
            time.sleep(0.4)
            p.send_signal(signal.SIGKILL)
            p.wait()
            hosts(t.url, 5, n=2)


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


@pytest.mark.slow
def test_baton_stop_and_continue(tmp_path):
    """A host that is stopped inside of a section, for longer than a holder may be silent, then goes on: it is taken
    out, what it still sends is refused, and no update is lost."""
    COUNT = 5000  # so long that one of the stops hits a holder
    with Tgt() as t:
        logs = [tmp_path / f'log{i}' for i in range(3)]
        procs = [subprocess.Popen([program('cas_incr'), '--timeout', '4000', t.url, str(COUNT)], stderr=log.open('w'),
                                  stdout=subprocess.DEVNULL) for log in logs]
        silent = 0
        for i in range(40):
            p = procs[i % 3]
            if p.poll() is not None or silent:
                break
            time.sleep(0.05 + 0.007 * (i % 5))
            p.send_signal(signal.SIGSTOP)
            time.sleep(1.4)
            p.send_signal(signal.SIGCONT)
            silent = sum('is silent' in log.read_text() for log in logs)
        for p, log in zip(procs, logs):
            assert p.wait(100) == 0, log.read_text()[-3000:]
        assert silent and counter(t.url) == 3 * COUNT
