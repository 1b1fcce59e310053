# SPDX-License-Identifier: Apache-2.0
"""An installed Debian 12: a partitioned disk with its stock kernel and a GRUB that its own grub-install put there, booted by
a BIOS and nothing else. Made once, in an emulated PC. It knows of its serial console, as a server's installation does, and
nothing of Perilune."""
import inspect, os, shutil, struct, subprocess
from pathlib import Path
from . import cache
from .guest import MASK, NO, SUITE, _sources, configure

PACKAGES = 'systemd-sysv,dbus,linux-image-cloud-amd64,initramfs-tools,e2fsprogs,zstd,grub-pc'
MiB = 1 << 20
DISK_MIB, FIRST_MIB = 1024, 1  # the partition begins behind GRUB's place
LABEL = 'installed'
GRUB = '''GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT="quiet"
GRUB_CMDLINE_LINUX="console=ttyS0 panic=-1 mitigations=off fsck.mode=skip"
GRUB_TERMINAL=console
GRUB_DISABLE_OS_PROBER=true
'''
SETUP = '''#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -o remount,rw /
mkdir -p /dev/disk/by-uuid && ln -s /dev/vda1 /dev/disk/by-uuid/$(blkid -s UUID -o value /dev/vda1)
grub-install /dev/vda && update-grub && rm /setup && sync && echo "is installed"
mount -o remount,ro /
sync
echo o > /proc/sysrq-trigger
sleep 60
'''


class Installed:
    """disk: raw, partitioned, sparse; image: an ext4 image that holds it as disk.raw."""

    def __init__(self, kernel):
        key = cache.digest(kernel.key, Path(__file__), inspect.getsource(configure), MASK, NO)
        self.path = cache.entry('installed', key, self._build)
        self.disk, self.image = self.path / 'disk.raw', self.path / 'installed.ext4'

    def _build(self, work):
        tree, disk = work / 'tree', work / 'disk.raw'
        cache.tool(['mmdebstrap', '--quiet', '--mode=root', '--variant=minbase', '--format=directory', f'--include={PACKAGES}',
                    '--aptopt=APT::Install-Recommends "false"', *(f'--dpkgopt=path-exclude={n}' for n in NO),
                    SUITE, str(tree), *_sources()], timeout=1200)
        configure(tree, LABEL)
        (tree / 'etc/default/grub').write_text(GRUB)
        (tree / 'setup').write_text(SETUP)
        (tree / 'setup').chmod(0o755)
        for name in ('vmlinuz', 'initrd.img'):
            shutil.copy(os.path.realpath(next((tree / 'boot').glob(f'{name}-*'))), work / name)
        for path in tree.glob('usr/lib/udev/hwdb.bin'):
            path.unlink()
        shutil.rmtree(tree / 'var/cache/apt', ignore_errors=True)
        with open(disk, 'wb') as f:
            f.truncate(DISK_MIB * MiB)
        cache.tool(['mke2fs', '-q', '-t', 'ext4', '-L', LABEL, '-E', f'lazy_itable_init=0,lazy_journal_init=0,offset={FIRST_MIB * MiB}',
                    '-d', str(tree), str(disk), f'{DISK_MIB - FIRST_MIB}M'])
        with open(disk, 'r+b') as f:  # an MBR with one active Linux partition
            f.seek(446)
            f.write(struct.pack('<B3sB3sII', 0x80, b'\xfe\xff\xff', 0x83, b'\xfe\xff\xff', FIRST_MIB * 2048,
                                (DISK_MIB - FIRST_MIB) * 2048))
            f.seek(510)
            f.write(b'\x55\xaa')
        self._install(work, disk)
        cache.tool(['fallocate', '--dig-holes', str(disk)])
        used = int(cache.tool(['du', '-sm', str(disk)]).split()[0])
        files = work / 'files'
        files.mkdir()
        os.link(disk, files / 'disk.raw')
        cache.tool(['mke2fs', '-q', '-t', 'ext4', '-O', '^has_journal', '-m', '0', '-d', str(files), str(work / 'installed.ext4'),
                    f'{used * 11 // 10 + 32}M'])
        shutil.rmtree(files)
        shutil.rmtree(tree)

    def _install(self, work, disk):
        """In a PC of QEMU's, by emulation: grub-install and update-grub run as an installer would run them."""
        words = ['qemu-system-x86_64', '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-machine', 'pc',
                 '-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2', '-m', '512', '-serial', 'stdio', '-kernel', work / 'vmlinuz',
                 '-initrd', work / 'initrd.img', '-append', 'root=/dev/vda1 ro console=ttyS0 quiet mitigations=off init=/setup panic=-1',
                 '-drive', f'file={disk},format=raw,if=virtio,cache=unsafe']
        p = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
        (work / 'install.log').write_bytes(p.stdout)
        if b'is installed' not in p.stdout:
            raise cache.LabError(f'the installation of GRUB: {p.stdout[-2000:].decode(errors="replace")}')
