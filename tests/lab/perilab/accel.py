# SPDX-License-Identifier: Apache-2.0
"""KVM or emulation: the lab's only switch. A /dev/kvm that opens proves nothing, so the probe boots the stock
kernel under it, in a machine that looks for /dev/kvm of its own, and remembers the answer until the next boot."""
import os, subprocess
from pathlib import Path
from . import cache
from .network import popen
from .newc import boot_archive

PROBE_SECONDS = 12  # a stock kernel on a real KVM is there in 2
PROBE_INIT = '''#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
modprobe kvm_amd nested=1 || modprobe kvm_intel nested=1
[ -c /dev/kvm ] && echo lab-probe-nested-kvm
echo lab-probe-done
poweroff -f
'''


class Accel:
    def __init__(self, name):
        self.name = name

    def words(self, flags=''):
        """QEMU's words; flags such as '-avx2' make hosts differ."""
        flags = f',{flags}' if flags else ''
        if self.name == 'kvm':
            return ['-accel', 'kvm', '-cpu', f'host{flags}']
        return ['-accel', 'tcg,thread=multi,tb-size=256', '-cpu', f'max,+svm,+npt,-la57{flags}']

    def spare_cpus(self, cpus):
        """Processors that run no programs, so no guests: under emulation the first, where there are others. Each of
        QEMU's processors that loads an FPU state (XRSTOR) clears a bit in the flags of the first without a lock, and
        what the first has just set or cleared there is undone: that it is in a guest, by whose page tables, and
        whether it takes interrupts."""
        return 1 if self.name == 'tcg' and cpus > 1 else 0


def choose(kernel):
    """PERILUNE_LAB_ACCEL=kvm or tcg insists; else the probe decides."""
    forced = os.environ.get('PERILUNE_LAB_ACCEL')
    if forced in ('kvm', 'tcg'):
        return Accel(forced)
    if forced:
        raise cache.LabError(f'PERILUNE_LAB_ACCEL={forced}: kvm or tcg')
    if not os.access('/dev/kvm', os.R_OK | os.W_OK):
        return Accel('tcg')
    boot = Path('/proc/sys/kernel/random/boot_id').read_text()
    key = cache.digest(kernel.key, boot, Path(__file__), Path(__file__).with_name('newc.py'))
    path = cache.entry('accel', key, lambda work: (work / 'answer').write_text('kvm' if _probe(kernel, work) else 'tcg'))
    return Accel((path / 'answer').read_text())


def _probe(kernel, work):
    with open(work / 'probe.cpio', 'wb') as f:
        boot_archive(f, kernel, PROBE_INIT.encode(), ['irqbypass', 'ccp', 'kvm', 'kvm-amd', 'kvm-intel']).end()
    p = popen(['qemu-system-x86_64', '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-machine', 'q35', *Accel('kvm').words(), '-m', '256', '-serial', 'stdio',
               '-kernel', kernel.vmlinuz, '-initrd', work / 'probe.cpio', '-append', 'console=ttyS0 panic=-1 quiet'],
              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        out = p.communicate(timeout=PROBE_SECONDS)[0]
    except subprocess.TimeoutExpired:
        p.kill()
        out = p.communicate()[0]
    (work / 'probe.log').write_bytes(out)
    return b'lab-probe-nested-kvm' in out
