# SPDX-License-Identifier: Apache-2.0
"""The SAN: a machine with LIO. Each LUN is a disk of the machine; two port groups, one a network."""
import os
from dataclasses import dataclass
from . import cache
from .machine import Disk, Machine

IQN = 'iqn.2026-11.io.perilune:san'
MODULES = 'configfs target_core_mod target_core_iblock iscsi_target_mod'.split()
GROUPS = {'sana': 1, 'sanb': 2}


@dataclass
class Lun:
    size: str = '2G'
    block_size: int = 512
    content: str = ''  # a file to begin with, e.g. the guest's disk


class San(Machine):
    def __init__(self, lab, luns, memory='448M'):
        self.luns = luns
        disks = []
        for n, lun in enumerate(luns):
            path = lab.dir / f'lun{n}.raw'
            if lun.content:
                cache.tool(['cp', '--sparse=always', str(lun.content), str(path)])
            cache.tool(['truncate', '-s', lun.size, str(path)])
            disks.append(Disk(f'lun{n}', path, block_size=lun.block_size))
        disks.append(Disk('target', lab.blank_disk('target', '64M')))
        super().__init__(lab, 'san', 1, memory, 1, disks, networks=tuple(GROUPS), modules=MODULES)

    def wait_up(self, timeout=90):
        super().wait_up(timeout)
        self.serve()
        return self.boot_seconds

    def serve(self, restore=False):
        """Brings LIO up. restore: feed saved registrations (APTPL) back first, as an array would."""
        steps = [f'/lab/san.sh lun {n} /dev/lab/lun{n} {n + 1:08x}-6d1f-4a3e-8000-000000000000' for n in range(len(self.luns))]
        if restore:
            steps.append('/lab/san.sh restore')
        for net, group in GROUPS.items():
            steps += [f'/lab/san.sh portal add {group} {self.networks[net]}:3260', f'/lab/san.sh enable {group} 1']
        self.run(' && '.join(steps))

    def portal(self, net='sana'):
        return f'{self.networks[net]}:3260'

    def url(self, lun=0, nets=('sana', 'sanb')):
        """The LUN's name as Perilune writes it: iscsi://PORTAL[,PORTAL]/IQN/LUN."""
        return f'iscsi://{",".join(self.portal(n) for n in nets)}/{IQN}/{lun}'

    def remove_portal(self, net):
        """The target stops listening there and drops the portal's sessions."""
        self.run(f'/lab/san.sh portal remove {GROUPS[net]} {self.portal(net)}')

    def add_portal(self, net):
        self.run(f'/lab/san.sh portal add {GROUPS[net]} {self.portal(net)}')

    def enable(self, net, on):
        """A whole port group: off is TPG down, its sessions end."""
        self.run(f'/lab/san.sh enable {GROUPS[net]} {int(on)}')

    def alua(self, net, state):
        """0 active/optimised, 1 active/non-optimised, 2 standby, 3 unavailable."""
        self.run(f'/lab/san.sh alua {GROUPS[net]} {state}')

    def throttle_lun(self, lun=0, iops=0, bps=0):
        """To see commands in flight: slow the LUN's disk down; 0 takes a limit away."""
        self.throttle(f'lun{lun}', iops, bps)

    def grow(self, lun, size):
        """The array's administrator makes the LUN larger."""
        path = self.lab.dir / f'lun{lun}.raw'
        cache.tool(['truncate', '-s', size, str(path)])
        self.qmp.ask('block_resize', device=f'lun{lun}-f', size=os.stat(path).st_size)
