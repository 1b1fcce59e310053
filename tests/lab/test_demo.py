# SPDX-License-Identifier: Apache-2.0
"""The demo, as `make demo` runs it: it ends well and in time, and says each thing that it must have checked, in this order."""
import os, re, signal, subprocess
import pytest
from proc import Others

pytestmark = pytest.mark.slow
HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT_S = 360        # of the demo, on 2 cores, with downloads cached
GIVEN_UP_S = 1500    # for machines with much else to do

LINES = [
    r'demo: an iSCSI SAN with ATS and two hosts with KVM are up, a daemon on each \(accelerator: (tcg|kvm)\)',
    r'demo: the LUN is formatted over iSCSI',
    r'demo: both hosts have mounted it: host1, host2',
    r'demo: Debian is imported as a thin disk: (\d+) MiB, of which (?!\1)\d+ MiB are allocated',
    r'  guest\| Debian GNU/Linux 12',
    r'demo: on host1 the VM runs Debian with its stock kernel from that disk, under systemd',
    r'demo: the guest has written files and synced them',
    r'demo: starting it on host2 meanwhile is refused with exit 4: .*\bhost1\b',
    r'demo: the daemon of host1 was killed while the guest wrote: .* every file is whole',
    r'demo: a disk was plugged in while the guest ran: it saw /dev/sd\w+ by itself and wrote to it',
    r'demo: pass-through LUN reserved from inside the guest',
    r'demo: migrated host1 to host2, gap [1-9]\d* ms, 0 pings lost .*, [1-9]\d* writes meanwhile, 0 I/O errors\)',
    r'demo: pass-through LUN still reserved by the guest after the migration',
    r'demo: migrated host2 to host1, gap [1-9]\d* ms, 0 pings lost .*, [1-9]\d* writes meanwhile, 0 I/O errors\)',
    r'demo: the disk was unplugged: on the host it holds what the guest wrote, the last of [1-9]\d* acknowledged writes too',
    r'demo: stopped there and started on host2 .*: the files are there and whole',
    r'demo: an installed Debian boots by its own GRUB',
    r'demo: host2 was killed in the middle of writes; the guest had told of [1-9]\d* synced files',
    r'demo: host1 took over, replayed host2\'s journal and started the VM [\d.]+ s after the death',
    r'demo: Debian is up on host1 again, all [1-9]\d* synced files are whole',
    r'demo: fsck of the guest\'s file system is clean',
    r'demo: volume check finds nothing',
]


def run_demo():
    demo = subprocess.Popen([f'{HERE}/demo'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, errors='replace')
    try:
        return demo.communicate(timeout=GIVEN_UP_S)[0], demo.returncode
    except subprocess.TimeoutExpired:
        demo.send_signal(signal.SIGTERM)  # it takes its machines along
        return demo.communicate(timeout=60)[0], 'given up'


def test_demo():
    subprocess.run([f'{HERE}/lab', 'prepare'], check=True, stdout=subprocess.DEVNULL, timeout=1800)
    others = Others()
    out, code = run_demo()
    delay = others.seconds()
    assert code == 0, out[-6000:]
    at = 0
    for pattern in LINES:
        m = re.compile(f'^{pattern}', re.M).search(out, at)
        assert m, f'the demo does not say, at its place: {pattern}\n{out}'
        at = m.end()
    last = re.fullmatch(r'demo: ok \((\d+) s\)', out.rstrip().splitlines()[-1])
    assert last, out[-2000:]
    assert int(last[1]) <= LIMIT_S + delay, f'the demo took {last[1]} s, others {delay:.0f} s of CPU time\n{out}'
