# SPDX-License-Identifier: Apache-2.0
"""A host: a machine with real KVM, both ways to the SAN, a disk for its state, the guest's files in /srv/guest,
QEMU as the peer to measure against, and whatever build/bin held when the lab came up."""
from dataclasses import dataclass
from .console import GuestConsole
from .guest import APPEND
from .machine import Disk, Machine
from .perilune import Perilune

MODULES = 'irqbypass ccp kvm vhost_net tun bridge sg'.split()


@dataclass
class HostSpec:
    memory: str = '1536M'
    cpus: int = 2
    state: str = '1G'      # the disk at /var/lib/perilune, which outlives kill()
    cpu_flags: str = ''    # e.g. '-avx2', to make hosts differ


class Host(Machine):
    def __init__(self, lab, index, spec):
        disks = [Disk('state', lab.blank_disk(f'host{index}-state', spec.state))]
        if lab.guest:
            disks.append(Disk('guest', lab.guest.image, readonly=True))
        if lab.installed:
            disks.append(Disk('installed', lab.installed.image, readonly=True))
        super().__init__(lab, f'host{index}', 10 + index, spec.memory, spec.cpus, disks, cpu_flags=spec.cpu_flags,
                         modules=MODULES)
        self.perilune = Perilune(self)

    def qemu_guest(self, drive, memory=256, cpus=1, append=APPEND, extra=''):
        """The stock guest under QEMU/KVM, our VMM's peer: a GuestConsole. drive is a -drive's file= and format=,
        behind virtio-scsi as sda. It ends with its QEMU."""
        run = self.spawn(
            f'exec qemu-system-x86_64 -accel kvm -cpu host -machine q35 -smp {cpus} -m {memory} -nodefaults '
            f'-no-user-config -display none -no-reboot -serial stdio -kernel /srv/guest/vmlinuz '
            f'-initrd /srv/guest/initrd.img -append "{append}" -device virtio-scsi-pci,id=s '
            f'-drive {drive},if=none,id=d,discard=unmap,detect-zeroes=off -device scsi-hd,drive=d {extra}')
        return GuestConsole(self, run)
