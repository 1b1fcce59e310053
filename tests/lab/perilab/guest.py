# SPDX-License-Identifier: Apache-2.0
"""The guest: a minbase Debian 12 with systemd, its stock kernel and the initrd that its initramfs-tools made.
root logs in by itself on ttyS0. Nothing in it knows of Perilune."""
import os, shutil
from pathlib import Path
from . import cache

SUITE = 'bookworm'
PACKAGES = 'systemd-sysv,dbus,linux-image-cloud-amd64,initramfs-tools,e2fsprogs,zstd,qemu-guest-agent'
NO = ['/usr/share/doc/*', '/usr/share/locale/*', '/usr/share/man/*', '/usr/share/info/*', '/usr/share/zoneinfo/*',
      '/usr/lib/udev/hwdb.d/*']
DISK_SIZE = '1G'
LABEL = 'guestroot'
MASK = '''apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service
    fstrim.timer systemd-tmpfiles-clean.timer getty@tty1.service systemd-update-utmp.service
    getty-static.service dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount
    modprobe@configfs.service modprobe@dm_mod.service modprobe@efi_pstore.service modprobe@fuse.service
    modprobe@loop.service'''.split()
APPEND = f'root=LABEL={LABEL} rw console=ttyS0 quiet panic=-1 mitigations=off fsck.mode=skip'


def _sources():
    """The machine's own Debian sources, so that its choice of mirror holds; else mmdebstrap's defaults."""
    for path in (Path('/etc/apt/sources.list.d/debian.sources'), Path('/etc/apt/sources.list')):
        if path.is_file() and SUITE in path.read_text():
            return [str(path)]
    return []


class Guest:
    """disk: raw ext4, sparse; kernel, initrd; image: an ext4 image that holds all three as files."""

    def __init__(self, kernel):
        key = cache.digest(kernel.key, Path(__file__))
        self.path = cache.entry('guest', key, self._build)
        self.disk, self.kernel, self.initrd = (self.path / n for n in ('disk.raw', 'vmlinuz', 'initrd.img'))
        self.image = self.path / 'guest.ext4'

    def _build(self, work):
        tree, files = work / 'tree', work / 'files'
        cache.tool(['mmdebstrap', '--quiet', '--mode=root', '--variant=minbase', '--format=directory', f'--include={PACKAGES}',
                    '--aptopt=APT::Install-Recommends "false"', *(f'--dpkgopt=path-exclude={n}' for n in NO),
                    SUITE, str(tree), *_sources()], timeout=1200)
        configure(tree, LABEL)
        files.mkdir()
        shutil.copy(os.path.realpath(next((tree / 'boot').glob('vmlinuz-*'))), files / 'vmlinuz')
        shutil.copy(os.path.realpath(next((tree / 'boot').glob('initrd.img-*'))), files / 'initrd.img')
        for path in (*tree.glob('boot/vmlinuz-*'), *tree.glob('boot/initrd.img-*'), *tree.glob('usr/lib/udev/hwdb.bin')):
            path.unlink()  # the machine boots from copies beside the disk; a small disk is imported quickly
        cache.tool(['mke2fs', '-q', '-t', 'ext4', '-L', LABEL, '-E', 'lazy_itable_init=0,lazy_journal_init=0', '-d', str(tree),
                    str(files / 'disk.raw'), DISK_SIZE])
        cache.tool(['fallocate', '--dig-holes', str(files / 'disk.raw')])
        used = int(cache.tool(['du', '-sm', str(files)]).split()[0])
        cache.tool(['mke2fs', '-q', '-t', 'ext4', '-O', '^has_journal', '-m', '0', '-d', str(files), str(work / 'guest.ext4'),
                    f'{used * 11 // 10 + 32}M'])
        for f in files.iterdir():
            f.rename(work / f.name)
        shutil.rmtree(tree)
        files.rmdir()


def configure(tree, label):
    """A root that logs in by itself on ttyS0, and less work at boot."""
    (tree / 'etc/hostname').write_text('guest\n')
    (tree / 'etc/fstab').write_text(f'LABEL={label} / ext4 defaults 0 1\n')
    (tree / 'etc/machine-id').write_text('77777777777777777777777777777777\n')
    drop = tree / 'etc/systemd/system/serial-getty@ttyS0.service.d'
    drop.mkdir(parents=True)
    (drop / 'autologin.conf').write_text(
        '[Service]\nExecStart=\nExecStart=-/sbin/agetty -o "-p -f -- \\\\u" --autologin root --keep-baud 115200 - vt220\n')
    (tree / 'root/.hushlogin').touch()
    (tree / 'root/.bashrc').write_text("PS1='guest# '\nbind 'set enable-bracketed-paste off' 2>/dev/null\n")
    for unit in MASK:
        link = tree / 'etc/systemd/system' / unit
        link.unlink(missing_ok=True)
        link.symlink_to('/dev/null')
