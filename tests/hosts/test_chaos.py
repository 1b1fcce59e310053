# SPDX-License-Identifier: Apache-2.0
"""Hosts work at random and are killed, stopped past their lease and continued; histories decide: what was
flushed is there when another host reads it, what was answered when the same host comes back; and
`volume check` finds nothing."""
import os, random, signal, subprocess, time

import pytest

from targets import Tgt, program
from test_slots import BEAT, LEASE, SILENCE, Site

pytestmark = pytest.mark.slow

WORKER = program('cfs_worker')
SECONDS = int(os.environ.get('CHAOS_SECONDS', '15'))


class Worker:
    def __init__(self, site, name):
        self.site, self.name, self.lives = site, name, 0
        self.history, self.log = site.dir / f'{name}.history', site.dir / f'{name}.log'
        (site.dir / f'state-{name}').mkdir()
        self.start()

    def start(self):
        self.lives += 1
        self.doomed = False
        self.log_at = len(self.log.read_text()) if self.lives > 1 else 0
        with open(self.log, 'a') as log:
            self.proc = subprocess.Popen([WORKER, 'work', self.site.lun, self.site.dir / f'state-{self.name}', self.name,
                                          str(self.lives * 100 + int(self.name[1])), '600', self.history],
                                         stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def end(self):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGKILL)
        return self.proc.wait(20)


def verify(site, name, what, histories):
    (site.dir / f'state-{name}').mkdir(exist_ok=True)
    p = subprocess.run([WORKER, 'verify', site.lun, site.dir / f'state-{name}', name, what, *histories],
                       capture_output=True, text=True, timeout=120)
    assert p.returncode == 0, f'{what}: {p.stdout}{p.stderr[-3000:]}'


def check(site):
    h = site.host('check')
    assert h('check') == '0', h.log.read_text()[-3000:]
    h.end()


def chaos(site, rng):
    workers = [Worker(site, f'w{i}') for i in range(3)]
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.3, 2))
            w = rng.choice(workers)
            if rng.random() < 0.4:  # stopped: shortly, or until it is taken over
                long = rng.random() < 0.5
                w.proc.send_signal(signal.SIGSTOP)
                time.sleep((SILENCE * BEAT + LEASE) / 1000 + 1 if long else 0.3)
                w.proc.send_signal(signal.SIGCONT)
                w.doomed |= long
                try:
                    w.proc.wait(2)
                except subprocess.TimeoutExpired:
                    continue
            rc = w.end()
            # Killed by us or by who fenced it, or it found that its life is over (3), some by an error (1). That may
            # happen to one that was not stopped for long too, where processors are short of time.
            said = w.log.read_text()[w.log_at:]
            over = w.doomed or 'another host took over slot' in said
            assert rc == -signal.SIGKILL or (over and rc in (1, 3)), (rc, said[-2000:])
            time.sleep(rng.choice([0, 0, SILENCE * BEAT / 1000 + 1.5]))
            w.start()
    finally:
        for w in workers:
            w.end()
    verify(site, 'judge', 'flushed', [w.history for w in workers])
    check(site)


def test_answered_survives_the_daemon():
    """kill -9 and back within the silence, three times: the same epoch, and what was answered is there."""
    with Site(size=4 << 30, silence=20, lease=6000) as site:
        w = Worker(site, 'w0')
        try:
            for _ in range(3):
                time.sleep(2)
                w.end()
                w.start()
            time.sleep(2)
        finally:
            w.end()
        verify(site, 'w0', 'answered', [w.history])
        assert 'epoch 2' not in w.log.read_text()
        check(site)


def test_chaos_on_a_file():
    with Site(size=4 << 30) as site:
        chaos(site, random.Random(1))


def test_chaos_on_tgt():
    with Tgt(size='4G') as t, Site(lun=t.url) as site:
        chaos(site, random.Random(2))


@pytest.mark.soak
@pytest.mark.parametrize('seed', range(10, 40))
def test_soak(seed):
    with Site(size=4 << 30) as site:
        chaos(site, random.Random(seed))


@pytest.mark.soak
@pytest.mark.parametrize('seed', range(50, 60))
def test_soak_on_tgt(seed):
    with Tgt(size='4G') as t, Site(lun=t.url) as site:
        chaos(site, random.Random(seed))
