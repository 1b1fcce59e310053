# SPDX-License-Identifier: Apache-2.0
"""Slots, lease, fence, takeover and locks between processes: each cfs_host is a host on one file LUN."""
import os, pathlib, random, shutil, signal, subprocess, tempfile, time

import pytest

from targets import Tgt

TOP = pathlib.Path(__file__).resolve().parents[2]
PROG = TOP / os.environ.get('BUILD', 'build') / 'tests/hosts/cfs_host'
BEAT, SILENCE, LEASE, FLIGHT = 200, 4, 1500, 500
AS_SHIPPED = {'beat': 1000, 'silence': 4, 'lease': 6000, 'flight': 500}  # where a process has to start within the silence
BEATS, LATE = 352, 500  # the block of slot 0's beats (docs/format.md); ms
SPARE = 202 << 20  # a block in no group's metadata, far behind what the tests allocate


class Refused(Exception):
    pass


class Host:
    def __init__(self, site, name):
        self.site, self.name = site, name
        self.log = site.dir / f'{name}.log'
        nexus = [] if site.file else [f'iqn.2026-01.org.perilune.test:{site.dir.name}.{name}', '0x00023d01']
        with open(self.log, 'a') as log:
            self.proc = subprocess.Popen([PROG, site.lun, site.dir / f'state-{name}', name, *nexus],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        site.hosts.append(self)

    def send(self, line):
        self.proc.stdin.write(line + '\n')
        self.proc.stdin.flush()

    def wait(self):
        got = self.proc.stdout.readline()
        word, _, rest = got.strip().partition(' ')
        if word != 'ok':
            how = got.strip() or f'died, exit {self.proc.wait(10)}'
            raise Refused(f'{self.name}: {how}\n{self.log.read_text()[-2000:]}')
        return rest

    def __call__(self, line):
        self.send(line)
        return self.wait()

    def mount(self):
        self.slot, self.epoch = map(int, self('mount').split())
        return self

    def signal(self, sig):
        os.kill(self.proc.pid, sig)

    def kill(self):
        self.proc.kill()
        self.proc.wait()

    def end(self):
        if self.proc.poll() is None:
            try:
                self.signal(signal.SIGCONT)
                self.kill()
            except ProcessLookupError:
                pass
        for f in (self.proc.stdin, self.proc.stdout):
            try:
                f.close()
            except BrokenPipeError:
                pass

    def heard(self, kind):
        return f'event {kind} ' in self.log.read_text()


class Site:
    def __init__(self, beat=BEAT, silence=SILENCE, lease=LEASE, flight=FLIGHT, lun=None, size=1 << 30):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix='perilune-slots-', dir='/var/tmp'))
        self.lun, self.file, self.hosts = lun or self.dir / 'lun', not lun, []
        if self.file:
            with open(self.lun, 'wb') as f:
                f.truncate(size)
        h = Host(self, 'format')
        h(f'format {beat} {silence} {lease} {flight}')
        h.end()

    def host(self, name):
        return Host(self, name)

    def mount(self, name):
        return Host(self, name).mount()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for h in self.hosts:
            h.end()
        shutil.rmtree(self.dir)


@pytest.fixture
def site():
    with Site() as s:
        yield s


@pytest.fixture
def san():
    with Tgt(size='1G') as t, Site(lun=t.url) as s:
        yield s


@pytest.fixture
def shipped_site():
    with Site(**AS_SHIPPED) as s:
        yield s


@pytest.fixture
def shipped_san():
    with Tgt(size='1G') as t, Site(**AS_SHIPPED, lun=t.url) as s:
        yield s


def until(fn, seconds, what):
    end = time.monotonic() + seconds
    while not fn():
        assert time.monotonic() < end, f'not within {seconds} s: {what}'
        time.sleep(0.01)


def dead(by, slot, epoch):
    return lambda: by(f'life {slot} {epoch}') == 'dead'


@pytest.mark.slow
def test_counter_moves_between_hosts(site):
    """Four hosts count in one file: each count is there, none twice; nobody starves."""
    hosts = [site.mount(f'h{i}') for i in range(4)]
    hosts[0]('create /n')
    for h in hosts:
        h.send(f'add /n 4000 {site.dir}/{h.name}.n')
    done = [int(h.wait()) for h in hosts]
    assert min(done) > 0
    assert int(hosts[0]('value /n')) == sum(done)
    values = sorted(int(v) for h in hosts for v in (site.dir / f'{h.name}.n').read_text().split())
    assert values == list(range(1, sum(done) + 1))
    for h in hosts:
        h('unmount')


def test_kill_and_takeover(site):
    """kill -9: the slot is taken over after the silence, what was durable is there, and in time."""
    a, b = site.mount('alpha'), site.mount('beta')
    a('create /n')
    a(f'add /n 500 {site.dir}/a.n')
    a.send(f'add /n 60000 {site.dir}/a.n')
    time.sleep(0.5)
    a.kill()
    start = time.monotonic()
    until(dead(b, a.slot, a.epoch), 10, 'takeover')
    took = time.monotonic() - start
    assert (SILENCE - 1) * BEAT / 1000 <= took <= (SILENCE + 3) * BEAT / 1000 + 1, took
    last = max(map(int, (site.dir / 'a.n').read_text().split()))
    assert last <= int(b('value /n')) <= last + 1
    b(f'add /n 100 {site.dir}/b.n')
    a = site.mount('alpha')
    assert a.epoch == 2
    assert int(a('value /n')) >= last + 1


def test_restart_goes_on_in_the_same_epoch(shipped_site):
    """A daemon that is back within the silence: same slot, same epoch, nobody takes over."""
    site = shipped_site
    a, b = site.mount('alpha'), site.mount('beta')
    a('create /n')
    slot = a.slot
    for _ in range(3):
        a.send(f'add /n 60000 {site.dir}/a.n')
        time.sleep(0.3)
        a.kill()
        a = site.mount('alpha')
        assert (a.slot, a.epoch) == (slot, 1)
        last = max(map(int, (site.dir / 'a.n').read_text().split()))
        assert last <= int(a('value /n')) <= last + 1
    assert not b.heard('recovering')
    b(f'add /n 100 {site.dir}/b.n')


@pytest.mark.slow
def test_stopped_past_the_lease_alone(site):
    """INV-HA-1: stopped for three leases with nobody there to take over: not a write before a beat."""
    a = site.mount('alpha')
    log = site.dir / 'hammer'
    at = (BEATS + a.slot) * 4096
    a(f'delay {LATE} {at}-{at + 4096}')                                 # so that there is a time before a beat
    a(f'hammer {SPARE} {log}')
    time.sleep(0.3 + LATE / 1000)
    a.signal(signal.SIGSTOP)
    time.sleep(3 * LEASE / 1000)
    a.signal(signal.SIGCONT)
    until(lambda: a.heard('thawed'), 5, 'thawed')

    def answers():
        return [tuple(map(int, r.split())) for r in log.read_text().splitlines()[:-1]]
    until(lambda: answers()[-1][1] == 0, 5, 'a write going through again')
    rows = answers()
    gap = max(range(1, len(rows)), key=lambda i: rows[i][0] - rows[i - 1][0])
    assert rows[gap][0] - rows[gap - 1][0] > LEASE * 1e6
    # The write that was under way when it stopped may have been past the gate. Each one since is refused (-ESTALE, 116) until
    # a beat that was sent since has arrived.
    refused = [i for i, (_, rc) in enumerate(rows) if rc == -116]
    assert refused and refused[0] in (gap - 1, gap) and refused == list(range(refused[0], refused[-1] + 1)), rows[gap - 3:gap + 9]
    a('unmount')


def test_stopped_and_taken_over(site):
    """A file LUN is fenced by killing: the stopped host never writes again, whatever it was doing."""
    a, b = site.mount('alpha'), site.mount('beta')
    a(f'hammer {SPARE} {site.dir}/hammer')
    time.sleep(0.3)
    a.signal(signal.SIGSTOP)
    start = time.monotonic()
    until(dead(b, a.slot, a.epoch), 10, 'takeover')
    took = time.monotonic() - start
    assert took <= (SILENCE + 3) * BEAT / 1000 + 1.5, took
    assert a.proc.wait(5) == -signal.SIGKILL
    before = b(f'peek {SPARE}')
    a.end()
    time.sleep(0.5)
    assert b(f'peek {SPARE}') == before


def await_beat(site, host):
    """It has just beaten."""
    def read():
        with open(site.lun, 'rb') as f:
            f.seek((BEATS + host.slot) * 4096)
            return f.read(512)
    was = read()
    until(lambda: read() != was, 5, 'a beat')


def test_vm_runs_once(site):
    """One lock decides for a VM: refused while its host lives, taken over when that host's lease is over."""
    a, b = site.mount('alpha'), site.mount('beta')
    a('createvm /vm')
    a('vmlock /vm 0')
    with pytest.raises(Refused, match='err 16 .*alpha'):
        b('vmlock /vm 20000')
    assert b('vmowner /vm').split()[1] == 'alpha'
    a.kill()
    a = site.mount('alpha')
    a('vmadopt /vm')
    time.sleep(2 * BEAT / 1000)
    await_beat(site, a)
    start = time.monotonic()
    a.kill()
    b('vmlock /vm 20000')
    took = time.monotonic() - start
    assert (LEASE - BEAT) / 1000 <= took <= (SILENCE * BEAT + LEASE) / 1000 + 2, took
    b('vmunlock /vm')


def test_live_volume_is_not_formatted(site):
    a = site.mount('alpha')
    f = site.host('format')
    with pytest.raises(Refused, match='err 1 .*alpha'):
        f(f'format {BEAT} {SILENCE} {LEASE} {FLIGHT} 1')
    a.signal(signal.SIGSTOP)  # silent, but its process holds the LUN
    with pytest.raises(Refused, match='err 1 .*alpha'):
        f(f'format {BEAT} {SILENCE} {LEASE} {FLIGHT} 1')
    a.kill()
    f(f'format {BEAT} {SILENCE} {LEASE} {FLIGHT} 1')


def test_64_hosts_at_once():
    with Site(beat=1000, silence=8, lease=12000) as site:
        hosts = [site.host(f'h{i}') for i in range(64)]
        for h in hosts:
            h.send('mount')
        for h in hosts:
            h.slot, h.epoch = map(int, h.wait().split())
        assert sorted(h.slot for h in hosts) == list(range(64))
        for h in hosts:
            h.send('unmount')
        for h in hosts:
            h.wait()


def mount_again(site, name, tries=5):
    """On a machine with much to do a host that mounts may be late with its first beats: then another one declares it
    dead and, as it must on a file, kills it. It comes once more. Any other end is ours."""
    for _ in range(tries - 1):
        try:
            return site.mount(name)
        except Refused:
            h = site.hosts[-1]
            if h.proc.poll() != -signal.SIGKILL or not any(o.heard('recovered') for o in site.hosts):
                raise
    return site.mount(name)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(3))
def test_chaos(site, seed):
    """Hosts count in two files and are killed, stopped, continued: nothing durable is lost."""
    rng = random.Random(seed)
    hosts = {n: mount_again(site, n) for n in ('h0', 'h1', 'h2', 'h3')}
    hosts['h0']('create /n0')
    hosts['h0']('create /n1')
    for n, h in hosts.items():
        h.send(f'add /n{int(n[1]) % 2} 600000 {site.dir}/{n}.n')
    for _ in range(12):
        time.sleep(rng.uniform(0.1, 1.2))
        n = rng.choice(list(hosts))
        h = hosts[n]
        if rng.random() < 0.5:
            h.signal(signal.SIGSTOP)
            time.sleep(rng.choice([0.3, 2.5]))
            try:
                h.signal(signal.SIGCONT)
            except ProcessLookupError:
                pass
            if h.proc.poll() is None:
                continue
        h.kill()
        hosts[n] = h = mount_again(site, n)
        h.send(f'add /n{int(n[1]) % 2} 600000 {site.dir}/{n}.n')
    for h in hosts.values():
        h.kill()
    judge = mount_again(site, 'judge')
    for i in (0, 1):
        values = [int(v) for n in (f'h{i}', f'h{i + 2}') for v in (site.dir / f'{n}.n').read_text().split()]
        assert len(values) == len(set(values)), 'a count was given twice: an update was lost'
        end = time.monotonic() + 20
        while True:
            try:
                got = int(judge(f'value /n{i}'))
                break
            except Refused:
                assert time.monotonic() < end
        assert got >= max(values), f'seed {seed}: {got} < {max(values)}: what was durable is lost'


# --- on a real target: reservations fence, nobody can kill anybody --------------------------------------


@pytest.mark.slow
def test_san_stopped_and_continued(san):
    """Stopped past its lease and taken over by reservations: when it goes on it writes nothing."""
    a, b = san.mount('alpha'), san.mount('beta')
    log = san.dir / 'hammer'
    a('create /n')
    a(f'add /n 300 {san.dir}/a.n')
    a(f'hammer {SPARE} {log}')
    time.sleep(0.5)
    a.signal(signal.SIGSTOP)
    start = time.monotonic()
    until(dead(b, a.slot, a.epoch), 20, 'takeover')
    took = time.monotonic() - start
    assert took <= (SILENCE + 4) * BEAT / 1000 + FLIGHT / 1000 + 3, took
    before = b(f'peek {SPARE}')
    last = max(map(int, (san.dir / 'a.n').read_text().split()))
    assert int(b('value /n')) == last
    a.signal(signal.SIGCONT)
    until(lambda: a.heard('evicted'), 10, 'evicted')
    time.sleep(1)
    assert b(f'peek {SPARE}') == before
    rows = [tuple(map(int, r.split())) for r in log.read_text().splitlines()[:-1]]
    assert rows[-1][1] == -116
    b(f'add /n 300 {san.dir}/b.n')
    with pytest.raises(Refused, match='err 116'):
        a(f'add /n 300 {san.dir}/a.n')


@pytest.mark.slow
def test_san_kill_and_takeover(san):
    a, b = san.mount('alpha'), san.mount('beta')
    a('create /n')
    a.send(f'add /n 60000 {san.dir}/a.n')
    time.sleep(1.5)
    a.kill()
    start = time.monotonic()
    until(dead(b, a.slot, a.epoch), 20, 'takeover')
    print('takeover', time.monotonic() - start)
    last = max(map(int, (san.dir / 'a.n').read_text().split()))
    assert last <= int(b('value /n')) <= last + 1
    a = san.mount('alpha')
    assert a.epoch == 2
    a(f'add /n 300 {san.dir}/a.n')
    for h in (a, b):
        h('unmount')


def test_san_restart_goes_on(shipped_san):
    san = shipped_san
    a, b = san.mount('alpha'), san.mount('beta')
    a('create /n')
    a.send(f'add /n 60000 {san.dir}/a.n')
    time.sleep(0.7)
    a.kill()
    a = san.mount('alpha')
    assert a.epoch == 1
    last = max(map(int, (san.dir / 'a.n').read_text().split()))
    assert last <= int(a('value /n')) <= last + 1
    assert not b.heard('recovering')
