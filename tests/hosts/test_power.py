# SPDX-License-Identifier: Apache-2.0
"""An array's power and sessions, on a tgtd of the test's own (WCE=1): a guest never hears "flushed" of what may be
lost, and hears it whenever nothing is."""
import errno, re, subprocess

import pytest

from targets import Tgt, program


class Disk:
    """A disk_host on a target; each command returns its number."""

    def __init__(self, url, state):
        self.log = open(state / 'log', 'w+')
        self.proc = subprocess.Popen([program('disk_host'), url, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=self.log, text=True)

    def __enter__(self):
        assert self.proc.stdout.readline() == 'ready\n', self.said()
        return self

    def __call__(self, *words):
        self.proc.stdin.write(' '.join(map(str, words)) + '\n')
        self.proc.stdin.flush()
        answer = self.proc.stdout.readline()
        assert answer, self.said()
        return int(answer)

    def said(self):
        self.log.seek(0)
        return self.log.read()[-4000:]

    def __exit__(self, kind, *exc):
        try:
            self.proc.stdin.close()
            code = self.proc.wait(timeout=60)
        finally:
            self.proc.kill()
            self.proc.wait()
        assert kind or code == 0, self.said()


@pytest.fixture
def tgt():
    with Tgt(size='300M') as t:
        yield t


def sessions(tgt):
    """Ids of what stands, in the order of their logins: service, the baton's, beat, data."""
    shown = tgt.adm('--mode', 'conn', '--op', 'show', '--tid', '1').stdout
    return sorted(int(s) for s in re.findall(r'Session: (\d+)', shown))


def cut(tgt, sid):
    tgt.adm('--mode', 'conn', '--op', 'delete', '--tid', '1', '--sid', str(sid), '--cid', '0')


def test_power(tgt, tmp_path):
    with Disk(tgt.url, tmp_path) as disk:
        assert disk('write', 1) == 0 and disk('flush') == 0 and disk('lost') == 0
        for n in range(1, 3):
            assert disk('write', 2) == 0
            tgt.restart()
            assert disk('flush') == -errno.EIO and disk('lost') == n
            assert disk('flush') == 0
            assert disk('write', 3) == 0 and disk('flush') == 0 and disk('read') == 3
        # Nothing that is not flushed: nothing is lost.
        tgt.restart()
        assert disk('flush') == 0 and disk('write', 4) == 0 and disk('flush') == 0 and disk('lost') == 2


def test_sessions(tgt, tmp_path):
    """The target goes on, one session ends. Of the data's nobody can tell that from an array that was off."""
    with Disk(tgt.url, tmp_path) as disk:
        assert disk('write', 5) == 0 and disk('flush') == 0
        *others, data = sessions(tgt)
        assert len(others) == 3
        for sid in others:
            assert disk('write', 5) == 0
            cut(tgt, sid)
            assert disk('flush') == 0 and disk('lost') == 0, disk.said()
        assert data in sessions(tgt)
        assert disk('write', 6) == 0
        cut(tgt, data)
        # Seen by the time that a command has gone over the session that stands for it.
        assert disk('read') == 6
        assert disk('flush') == -errno.EIO and disk('lost') == 1, disk.said()
        assert disk('flush') == 0 and disk('read') == 6


def test_first_writes(tgt, tmp_path):
    """Where only sessions end and the array lives, what was answered stays readable: it is read back, and known again by its
    checksums, overwritten or not. (tests/unit/test_thin_power.c: what is not there is zero, never what the unit held before.) The flush
    fails all the same; other sessions prove nothing, so the data's own is asked."""
    with Disk(tgt.url, tmp_path) as disk:
        assert disk('write', 5) == 0 and disk('flush') == 0
        *others, data = sessions(tgt)
        for mib, sid in enumerate(others, 2):
            assert disk('write', 7, mib) == 0
            cut(tgt, sid)
            assert disk('flush') == 0 and disk('read', mib) == 7 and disk('lost') == 0, disk.said()
        assert disk('write', 7, 10) == 0 and disk('write', 8, 10) == 0 and disk('write', 6, 12) == 0
        cut(tgt, data)
        assert disk('read', 10) == 8 and disk('read', 12) == 6, disk.said()
        assert disk('flush') == -errno.EIO and disk('lost') == 1
        assert disk('write', 9, 11) == 0
        tgt.restart()
        assert disk('read', 11) == 9 and disk('read', 2) == 7 and disk('read', 10) == 8, disk.said()
        assert disk('flush') == -errno.EIO and disk('lost') == 2, disk.said()
        assert disk('write', 9, 11) == 0 and disk('flush') == 0 and disk('read', 11) == 9
        assert 'are undone' not in disk.said()
