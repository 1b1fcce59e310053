# SPDX-License-Identifier: Apache-2.0
"""Hosts whose VMs are programs (tests/stub/vmm_stub.c): no KVM, many of them, killed at will.

    h1 = host(cluster, 'h1'); create(h1); h1.ok('vm', 'start', 'g'); goes_on(h1)

What must never be (a VM that runs twice, a page or block that is not what it was left as, also after a cold start: Book)
the stubs write down; `cluster` looks at it when the test is over.
"""
import os, re, signal, struct, subprocess, sys

import pytest
from hostlib import BIN, NO_GROUPS, Cluster, Host, until

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'lib'))
from vmm import setup_sectors

STUB = BIN.parent / 'tests' / 'stub' / 'vmm_stub'


class StubCluster(Cluster):
    def __init__(self):
        super().__init__()
        self.stub = self.dir / 'stub'
        self.stub.mkdir()
        os.symlink(STUB, self.dir / 'perilune-vmm')

    def host(self, name='h1', *options):
        h = StubHost(self, name, prefix=['env', f'PERILUNE_STUB={self.stub}'])
        h.options = options
        self.hosts[name] = h.start()
        return h

    def violations(self):
        path = self.stub / 'violations'
        return path.read_text() if path.exists() else ''

    def __exit__(self, kind, value, trace):
        wrong = self.violations()
        super().__exit__(kind, value, trace)
        assert not wrong, wrong


@pytest.fixture
def cluster():
    """For a test file that imports it, in place of conftest.py's, whose `lun` and `host` are in it then, too."""
    with StubCluster() as c:
        yield c


class StubHost(Host):
    options = ()

    def start(self, *options, **kw):
        return super().start('--vmm', self.dir.parent / 'perilune-vmm', '--kvm', '/dev/null', '--listen', '127.0.0.1:0',
                             *self.options, *options, **kw)


    def lose(self, vmm, name='g'):
        """The whole machine is gone, and its monitor with it: what a guest did not flush is not promised."""
        self.kill()
        if vmm:
            end_process(vmm)
        (self.dir.parent / 'stub' / f'{name}.lost-{self.name}').touch()


class NoGroups(StubHost):
    """A host that sees no control groups."""

    def __init__(self, cluster, name):
        super().__init__(cluster, name, prefix=[*NO_GROUPS, 'env', f'PERILUNE_STUB={cluster.stub}'])


def create(host, name='g', memory='32M', disks=('v1:/a.disk',), *words, volume='v1'):
    kernel = host.dir.parent / 'kernel'
    kernel.write_bytes(setup_sectors() + bytes(4096))
    host.ok('vm', 'create', name, '--volume', volume, '--memory', memory, '--kernel', kernel,
            *[w for d in disks for w in ('--disk', d)], *words)


class HangsUp:
    """The host's monitor hangs up, once, when it hears `when`: "pause", "resume" (obeyed), "no pause", "no resume" (not);
    until the block ends (2 s at most) it cannot be connected.

        with HangsUp(cluster, 'h1', 'pause') as at: ...; at(); ...
    """

    def __init__(self, cluster, host, when):
        self.file, self.done = (cluster.stub / f'{word}-{host}' for word in ('hangs-up', 'hung-up'))
        self.file.with_suffix('.new').write_text(when)
        self.file.with_suffix('.new').rename(self.file)

    def __enter__(self):
        return lambda timeout=60: until(self.done.exists, timeout, what='a lost connection')

    def __exit__(self, *_):
        self.file.unlink(missing_ok=True)
        self.done.unlink(missing_ok=True)


class Book:
    """What the guest's disk must hold (tests/lib/stub_book.h): for each block how often it was written."""
    PARTS = 'answered', 'flushed', 'begun'
    BLOCKS = 256

    def __init__(self, cluster, name='g'):
        self.path = cluster.stub / f'{name}.book'

    def part(self, name):
        at = self.PARTS.index(name) * self.BLOCKS * 4
        return struct.unpack(f'<{self.BLOCKS}I', self.path.read_bytes()[at:at + self.BLOCKS * 4])

    def set(self, name, block, count):
        with open(self.path, 'r+b') as f:
            f.seek((self.PARTS.index(name) * self.BLOCKS + block) * 4)
            f.write(struct.pack('<I', count))

    def forget(self):
        """The VM, which stands, is given another disk, of zeroes."""
        self.path.unlink()

    answered, flushed, begun = (lambda self, n=n: self.part(n) for n in PARTS)


def show(host, name='g'):
    return host.json('vm', 'show', name)


def lock_range(host):
    """Where on the LUN the lock of the one VM lies that runs here and has a disk."""
    holders = [x['holder'] for x in host.json('volume', 'locks', 'v1')]
    at = int(next(h for h in holders if h.startswith('the VM of block ')).split()[-1]) * 4096
    return f'{at}-{at + 4096}'


def counts(host, name='g'):
    """What the guest said last on this host: steps, pages, writes, reads; None: nothing."""
    lines = re.findall(r'^n (\d+) pages (\d+) writes (\d+) reads (\d+)$', host.run('vm', 'console', name, '--log').out, re.M)
    return tuple(map(int, lines[-1])) if lines else None


def goes_on(host, name='g', disk=True, timeout=30):
    """The guest lives here: it steps, writes pages and blocks; returns its counts."""
    before = counts(host, name) or (0, 0, 0, 0)

    def on():
        now = counts(host, name)
        return now and now[0] > before[0] and (not disk or now[2] > before[2]) and now
    return until(on, timeout, what=f'the guest going on, beyond {before}')


def keys(host, text, name='g'):
    """Types them; returns when the monitor has said that it had them."""
    p = subprocess.Popen([BIN / 'perilune', '--connect', host.dir, 'vm', 'console', name, '--follow'], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE)
    try:
        p.stdin.write(text.encode())
        p.stdin.flush()
        want = [f'key {k}\n'.encode() for k in text]
        while want:
            line = p.stdout.readline()
            assert line, 'the console ended'
            if line == want[0]:
                want.pop(0)
    finally:
        p.kill()
        p.communicate()


def alive(pid):
    """Any thread of it: the first may be a zombie while others still end."""
    try:
        zombie = open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()[0] == 'Z'
        return not zombie or len(os.listdir(f'/proc/{pid}/task')) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def end_process(pid):
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), what=f'the end of process {pid}')
