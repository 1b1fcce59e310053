# SPDX-License-Identifier: Apache-2.0
"""Guests that move: how long it takes, beside QEMU in the same machine, and what it asks of a SAN."""
from benchlib import RUNS, row
from labs import STATE, lab
from movers import Moves, QemuMoves, both, know_each_other, start_vm, two_daemons

@row('mig-total-idle-1g', 'ms')
def total_idle():
    a, daemons = two_daemons()
    theirs = None
    try:
        start_vm(daemons[0], a, 'idle', '1G')
        theirs = QemuMoves(a, 1024)
        yield from both(Moves(daemons, 'idle'), theirs, 'wall_ms')
    finally:
        if theirs:
            theirs.close()
        for d in daemons:
            d.cli('vm kill idle', check=False)
            d.kill()


# --- on the SAN ---------------------------------------------------------------------------------------------------


def on_san(disks, words=''):
    """Requests to the LUN, one after the other, while the guest stands still: of each move."""
    made = lab('san')
    hosts = made.hosts
    lun = made.san.url(0)
    for host in hosts:
        host.run(f'rm -rf {STATE}/*')
        host.perilune.start()
    daemons = [SanHost(host) for host in hosts]
    try:
        daemons[0].cli(f'volume format vol {lun} --overwrite', timeout=120)
        for d in daemons:
            d.cli(f'volume mount {lun}', timeout=120)
        know_each_other(daemons)
        start_vm(daemons[0], hosts[0], 'moves', '128M', disks, words)
        move = Moves(daemons, 'moves', '--max-downtime 1000')
        for i in range(3 * RUNS + 1):
            found = move()
            if i:
                yield found['standstill']['lun_steps'], None
    finally:
        for d in daemons:
            d.cli('vm kill moves', check=False)
        for d in daemons:
            d.cli('volume unmount vol', check=False)
            d.host.perilune.kill()


class SanHost:
    """A host of the lab as movers.py wants it."""

    def __init__(self, host):
        self.host, self.name = host, host.name
        self.cli, self.json = host.perilune.cli, host.perilune.json


@row('mig-lun-commands', 'requests')
def lun_commands():
    yield from on_san(1)


@row('mig-lun-commands-64', 'requests')
def lun_commands_64():
    yield from on_san(64)


@row('mig-lun-commands-busy', 'requests')
def lun_commands_busy():
    yield from on_san(1, 'busy')
