# SPDX-License-Identifier: Apache-2.0
"""How long a guest that moves stands still, as somebody outside sees it, and which pings it does not answer: between two
daemons, and two QEMUs, in one machine. A guest of each side moves to and fro; the one whose turn it is not is idle."""
import contextlib, sys

from benchlib import RUNS, alternate, row
from labs import NET, bridged, our_net, qemu_net
from movers import Moves, QemuMoves, start_vm, two_daemons

OURS, THEIRS = 2, 3  # the last number of their address
TURNS = 3 * RUNS
WORDS = 'init_on_free=1'  # what the boot left is zeroes: an idle guest has little to send, and moves are short
BEFORE, AFTER = 250, 100  # datagrams


@contextlib.contextmanager
def guests():
    """The machine, and what moves ours and theirs."""
    a, daemons = two_daemons()
    theirs = None
    try:
        bridged(a)
        start_vm(daemons[0], a, 'beats', '256M', words=WORDS, net=our_net(OURS))
        theirs = QemuMoves(a, 256, append=WORDS, extra=qemu_net('q{n}', THEIRS))
        yield a, Moves(daemons, 'beats'), theirs
    finally:
        if theirs:
            theirs.close()
        for d in daemons:
            d.cli('vm kill beats', check=False)
            d.kill()


class Gap:
    """Each call moves a guest, and returns the longest time between two of its datagrams, in ms. `rate`: KiB of memory that
    it changes a second; `disk`: it writes to that, too. `usual`: the longest in the half second before."""

    def __init__(self, machine, move, number, rate=0, disk=0):
        self.machine, self.move, self.words = machine, move, f'{NET}.{number} {rate} {disk}'

    def __call__(self):
        self.run, self.at = self.machine.spawn(f'exec gaps {self.words}'), 0
        self.expect('first')
        self.usual = self.longest(BEFORE)
        self.moved = self.move()
        gap = self.longest(AFTER)
        self.run.eof()
        self.run.wait(60 * self.machine.lab.scale)
        return gap

    def longest(self, datagrams):
        self.run.write(f'{datagrams}\n')
        return int(self.expect(r'longest (\d+)')[1]) / 1000

    def expect(self, pattern):
        m = self.run.expect(pattern, 60 * self.machine.lab.scale, self.at)
        self.at = m.end()
        return m


@row('mig-downtime-idle', 'ms')
def downtime_idle():
    with guests() as (a, ours, theirs):
        return alternate(Gap(a, ours, OURS), Gap(a, theirs, THEIRS), TURNS)


def rate_of(gap):
    """Bytes a second that are sent through TLS, by a move of a guest that has filled its memory and changes almost nothing."""
    gap()
    return gap.moved['sent'] * 1000 / gap.moved['total_ms']


@row('mig-downtime-busy', 'ms')
def downtime_busy():
    """Both guests change as much: half of what the slower of the two sends."""
    with guests() as (a, ours, theirs):
        rates = rate_of(Gap(a, ours, OURS, 1)), rate_of(Gap(a, theirs, THEIRS, 1))
        half = int(min(rates) / 2 / 1024)
        print(f'mig-downtime-busy: sent {rates[0] / 1024:.0f} and {rates[1] / 1024:.0f} KiB/s, each guest changes {half}', file=sys.stderr)
        return alternate(Gap(a, ours, OURS, half, 1), Gap(a, theirs, THEIRS, half, 1), TURNS)


def lost_pings(machine, move, number):
    run = machine.spawn(f'exec pinger {NET}.{number} 10 3000')
    run.expect('first', 60 * machine.lab.scale)
    move()
    run.eof()
    return int(run.expect(r'lost (\d+)', 60 * machine.lab.scale)[1])


@row('mig-lost-pings', 'pings')
def lost_in_moves():
    """Of all moves together."""
    with guests() as (a, ours, theirs):
        pairs = alternate(lambda: lost_pings(a, ours, OURS), lambda: lost_pings(a, theirs, THEIRS), TURNS)
        return [(sum(p[0] for p in pairs), sum(p[1] for p in pairs))]
