# SPDX-License-Identifier: Apache-2.0
"""On the lab's SAN (LIO): locks made of COMPARE AND WRITE against bare ones; what the death of a host costs."""
import subprocess, sys, tempfile, time

from benchlib import BUILD, RUNS, SECONDS, TOP, alternate, row
from labs import STATE, lab

sys.path.insert(0, str(TOP / 'tests/hosts'))
VMFS_S = 16  # a product that is not at hand: what is said of its lease, not measured


# --- locks --------------------------------------------------------------------------------------------------------


def pairs(made, which, folder):
    p = made.native([BUILD / 'tests/bench/lock_pairs', which, made.san.url(0, ['sana']), folder, f'{3 * SECONDS:g}'],
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = p.communicate(timeout=120 + 3 * SECONDS)
    if p.returncode:
        raise RuntimeError(err[-1000:])
    return float(out)


@row('lock-pair-ats', 'pairs/s')
def lock_pair():
    made = lab('san')
    for host in made.hosts:
        host.kill()  # they would take time of the processors
    with tempfile.TemporaryDirectory() as folder:
        try:
            return alternate(lambda: pairs(made, 'ours', folder), lambda: pairs(made, 'bare', folder))
        finally:
            for host in made.hosts:
                host.start()
            for host in made.hosts:
                host.wait_up()


# --- the death of a host ------------------------------------------------------------------------------------------


def join(host, lun, hide):
    """A daemon without a past; `hide`: it sees no reservations."""
    host.run(f'rm -rf {STATE}/*')
    host.perilune.start()
    if hide:
        host.perilune.cli(f'fault add {lun} --kind no-reservations')


def takeover(a, b):
    """Seconds from the power cut of `a`, which writes to a disk, until `b` has written to it."""
    writer = a.spawn(f'PERILUNE_CONNECT={STATE} exec perilune --yes disk bench vol:/disk --op write --depth 4 --seconds 600')
    for _ in range(200):
        if a.name in str(b.perilune.json('disk show vol:/disk').get('holder')):
            break
        time.sleep(0.1)
    else:
        raise RuntimeError(f'{a.name} does not hold the disk: {writer.out}{writer.err}')
    time.sleep(2)
    a.kill()
    died = time.monotonic()
    while True:
        done = b.perilune.cli('disk bench vol:/disk --op write --requests 1', check=False, timeout=90)
        if done.code == 0:
            return time.monotonic() - died
        if time.monotonic() - died > 120:
            raise RuntimeError(f'no takeover: {done.err}')
        time.sleep(0.1)


def takeovers(made, lun, hide):
    a, b = made.hosts
    join(b, lun, hide)
    b.perilune.cli(f'volume format vol {lun} --overwrite' + (' --fence time' if hide else ''), timeout=120)
    b.perilune.cli(f'volume mount {lun}')
    b.perilune.cli('disk create vol:/disk --size 64M')
    try:
        for i in range(RUNS):
            join(a, lun, hide)
            a.perilune.cli(f'volume mount {lun}', timeout=120)
            yield takeover(a, b), VMFS_S
            a.start()
            a.wait_up()
    finally:
        b.perilune.cli('volume unmount vol', check=False)
        b.perilune.kill()


@row('takeover-reservations', 's')
def takeover_reservations():
    made = lab('san')
    yield from takeovers(made, made.san.url(0), False)


@row('takeover-without', 's')
def takeover_without():
    from targets import Tgt
    made = lab('san')

    class LabTgt(Tgt):
        """In the lab's network, where the hosts reach it."""
        address = '10.77.1.254'

        def launch(self, words, **kw):
            return made.native(words, **kw)
    with LabTgt(size='1G') as t:
        yield from takeovers(made, t.url, True)
