# SPDX-License-Identifier: Apache-2.0
"""What two hosts say to each other while a VM moves is spoilt on its way: cut, stretched, other bits, garbage, at any byte,
in either direction. The migration ends with an error, the guest goes on where it is, and the next migration works. If it
is what the target says that is spoilt, it may be its last word, that it runs: then the guest goes on there."""
import ctypes, os, random, socket, threading

import pytest
from hostlib import until
from netlib import Net
from stublib import StubCluster, goes_on, show
from test_migrate import begin, migrate
from test_migrate_kills import World

pytestmark = pytest.mark.slow

KINDS = 'cut', 'stretch', 'flip', 'garbage'
LAST = 4096             # bytes from the offer on, about: who has the VM then, its lock tells
CLONE_NEWNET = 0x40000000


def within(ns, make):
    """A socket made in a network namespace."""
    made = []

    def run():
        with open(f'/var/run/netns/{ns}') as f:
            if ctypes.CDLL(None, use_errno=True).setns(f.fileno(), CLONE_NEWNET) < 0:
                raise OSError(ctypes.get_errno(), 'setns')
        try:
            made.append(make())
        except OSError:
            pass
    t = threading.Thread(target=run)
    t.start()
    t.join()
    return made[0] if made else None


class Middle:
    """Who is on the way from each host to the other: each one's address is here in the other's namespace."""

    def __init__(self, net):
        self.net, self.lock, self.listeners, self.ends = net, threading.Lock(), [], []
        self.count(None)

    def count(self, ns):
        """From now on what goes over the connections that are made in a namespace, and back."""
        with self.lock:
            self.kind, self.made_in, self.went, self.spoilt = None, ns, [0, 0], False

    def spoil(self, ns, kind, back, at, rng):
        """Byte `at` of that."""
        self.count(ns)
        with self.lock:
            self.kind, self.back, self.at, self.rng = kind, back, at, rng

    def __enter__(self):
        for i in (0, 1):
            there = f'10.231.7.{2 - i}', 7700
            self.net.ip('-n', self.net.ns[i], 'addr', 'add', f'{there[0]}/32', 'dev', 'lo')
            self.listeners.append(within(self.net.ns[i], lambda: socket.create_server(there)))
            threading.Thread(target=self.accept, args=(self.listeners[i], self.net.ns[i], self.net.ns[1 - i], there), daemon=True).start()
        return self

    def __exit__(self, *_):
        for s in self.listeners + self.ends:
            shut(s)

    def accept(self, listener, here, ns, there):
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            server = within(ns, lambda: socket.create_connection(there))
            self.ends += [s for s in (client, server) if s]
            if not server:
                shut(client)
                continue
            for back, pair in enumerate(((client, server), (server, client))):
                threading.Thread(target=self.pump, args=(*pair, here, back), daemon=True).start()

    def pump(self, source, sink, here, back):
        garbage = False
        try:
            while data := source.recv(1 << 16):
                data, garbage = self.pass_on(data, here, back, garbage)
                if data is None:
                    break
                sink.sendall(data)
        except OSError:
            pass
        shut(source)
        shut(sink)

    def pass_on(self, data, here, back, garbage):
        with self.lock:
            if garbage:
                return self.rng.randbytes(len(data)), True
            if here != self.made_in:
                return data, False
            at = self.at - self.went[back] if self.kind else -1
            self.went[back] += len(data)
            if not self.kind or back != self.back or self.spoilt or not 0 <= at < len(data):
                return data, False
            self.spoilt = True
            if self.kind == 'cut':
                return None, False
            if self.kind == 'stretch':
                return data[:at] + self.rng.randbytes(self.rng.randint(1, 64)) + data[at:], False
            if self.kind == 'flip':
                return data[:at] + bytes([data[at] ^ 1 << self.rng.randrange(8)]) + data[at + 1:], False
            return data[:at] + self.rng.randbytes(len(data) - at), True


def shut(s):
    try:
        s.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    s.close()


def spoilt(world, middle, kind, back, rng):
    def ns_of(host):
        return middle.net.ns[world.hosts.index(host)]

    source = world.settle()
    target = next(h for h in world.hosts if h is not source)
    middle.count(ns_of(source))
    migrate(source, target)
    all_of_it = middle.went[back]
    goes_on(target)
    source, target = target, source
    pid = show(source)['pid']
    at = rng.randrange(all_of_it if back else all_of_it - LAST)
    middle.spoil(ns_of(source), kind, back, at, rng)
    p = begin(source, target)
    said = p.communicate(timeout=60)[0]
    what = f'{kind} at byte {at} of {all_of_it} {"back" if back else "there"}: {said.strip()[-200:]}'
    print(what)
    if not middle.spoilt:       # fewer bytes than last time
        return False
    where = world.settle()
    if where is source or not back:
        assert p.returncode and where is source and show(source)['pid'] == pid, what
    else:
        source, target = target, source
    middle.count(None)
    until(lambda: source.run('vm', 'migrate', 'g', '--to', target.name, '--verify').code == 0, 60, what=f'a migration after {what}')
    goes_on(target)
    assert not world.cluster.violations(), what
    return True


def many(seed, times):
    rng = random.Random(seed)
    with Net() as net, Middle(net) as middle, StubCluster() as cluster:
        world = World(cluster, net)
        for back in (0, 1):
            for kind in KINDS:
                until(lambda: sum(spoilt(world, middle, kind, back, rng) for _ in range(times)), 60 * times, what=f'{kind} once')
        world.settle().ok('vm', 'kill', 'g')
        for h in world.hosts:
            h.ok('volume', 'unmount', 'v1')
        world.hosts[0].ok('volume', 'check', world.lun)


def test_spoilt_on_its_way():
    many(int(os.environ.get('SEED', 1)), 1)


@pytest.mark.soak
def test_spoilt_many_times():
    many(7, 20)
