# SPDX-License-Identifier: Apache-2.0
"""Real guests saved to their volume and restored on another host: the monitor with KVM. What may go wrong:
test_save*.py, with monitors that are programs."""
import os, pathlib

import pytest
from payloads import c_kernel
from vmlib import Shell, answers, create, show

pytestmark = pytest.mark.slow

if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)


def over(source, target):
    source.ok('vm', 'save', 'g')
    assert show(target)['state'] == 'saved'
    target.ok('vm', 'restore', 'g')
    d = show(target)
    assert (d['state'], d['host']) == ('running', target.name), d


def test_a_storm_on_the_disk_goes_on(pair, lun):
    h1, h2 = pair
    create(h1)
    h1.ok('vm', 'start', 'g')
    with Shell(h1) as shell:
        shell.expect('ready')
        shell.run('s 512', 's on')
        shell.expect('s ')
    over(h1, h2)
    with Shell(h2) as shell:
        shell.at = os.path.getsize(shell.log)
        shell.expect('s ')                          # under load, and nothing it reads is wrong
        shell.run('e', 'e ')
        shell.run('v', 'v ok')
        shell.run('f', 'f ok')
    h2.ok('vm', 'reboot', 'g', '--force')           # with a kernel from the volume
    with Shell(h2) as shell:
        shell.expect('ready')
    h2.ok('vm', 'kill', 'g')
    for h in pair:
        h.ok('volume', 'unmount', 'v1')
    h1.ok('volume', 'check', lun)


def test_memory_registers_and_clocks(pair):
    """The guest writes pages all the time, and looks at its memory, registers, timer and clocks (mover.c)."""
    h1, h2 = pair
    path = pathlib.Path(h1.dir).parent / 'mover'
    path.write_bytes(c_kernel('mover', 16 << 20))
    h1.ok('vm', 'create', 'g', '--volume', 'v1', '--memory', '16M', '--cpus', '2', '--cpu', 'baseline=x86-64-v1',
          '--kernel', path)
    h1.ok('vm', 'start', 'g')
    for source, target in ((h1, h2), (h2, h1)):
        over(source, target)
        answers(target)
    for h in pair:
        assert 'bad' not in h.ok('vm', 'console', 'g', '--log').out
    h1.ok('vm', 'kill', 'g')
