# SPDX-License-Identifier: Apache-2.0
"""What a machine boots: a small initramfs, a read-only disk with the userland (programs of this very machine
with the libraries that ldd names), and, made new for each lab, the programs that were just built."""
import os, re, shutil, subprocess
from pathlib import Path
from . import cache
from .newc import Newc, boot_archive

LAB = Path(__file__).resolve().parent.parent
TOP = LAB.parent.parent
INIT = LAB / 'init'

BOOT_MODULES = ['virtio_pci', 'virtio_blk', 'overlay']
MODULES = BOOT_MODULES + '''
    virtio_net virtio_console virtio_scsi virtio-rng irqbypass ccp kvm kvm-amd kvm-intel
    vhost_net tun tap bridge veth macvtap sch_netem sch_tbf sch_prio cls_u32 tls
    configfs target_core_mod target_core_iblock target_core_file iscsi_target_mod tcm_loop
    scsi_mod sd_mod sg iscsi_tcp scsi_debug null_blk nbd loop fuse
    dm-mod dm-multipath dm-round-robin dm-service-time dm-queue-length scsi_dh_alua'''.split()

# Programs of the bare machine that a lab machine has too; those after '?' only where they are installed.
PROGRAMS = '''
    busybox dash bash qemu-system-x86_64 qemu-img qemu-io qemu-storage-daemon fio ip tc bridge
    e2fsck mke2fs debugfs dumpe2fs blkid blkdiscard losetup setpriv nsenter unshare taskset flock
    iscsi-ls iscsi-inq iscsi-readcapacity16 iscsi-perf iscsi-swp iscsi-test-cu
    ? strace gdbserver curl sg_persist sg_inq sg_vpd iscsid iscsiadm multipathd multipath kpartx'''.split()
QEMU_MODULES = ['accel-tcg-x86_64.so', 'block-iscsi.so']
DATA = ['/usr/share/qemu', '/usr/share/seabios', '/usr/lib/ipxe/qemu']


def libraries(files):
    """The libraries of ELF files, as ldd names them."""
    out = set()
    if not files:
        return out
    # not cache.tool: ldd exits 1 when one of the files is static or a script
    p = subprocess.run(['ldd', *map(str, files)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in p.stdout.splitlines():
        m = re.search(r'=> (/\S+) \(', line) or re.match(r'\s+(/\S+) \(', line)
        if m:
            out.add(os.path.join(os.path.realpath(os.path.dirname(m[1])), os.path.basename(m[1])))
        elif 'not found' in line:
            raise cache.LabError(f'ldd: {line.strip()}')
    return out


def _which(name):
    return shutil.which(name, path='/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin')


class Images:
    """root: the userland's disk; boot: the initramfs without what was just built."""

    def __init__(self, kernel):
        self.kernel = kernel
        names = iter(PROGRAMS)
        need = {n: _which(n) for n in iter(lambda: next(names), '?')}
        maybe = {n: _which(n) for n in names}
        missing = [n for n, path in need.items() if not path]
        if missing:
            raise cache.LabError(f'{" ".join(missing)}: not installed; run make deps')
        self.programs = sorted(os.path.join(os.path.realpath(os.path.dirname(p)), os.path.basename(p))
                               for p in {**need, **maybe}.values() if p)
        qemu = '/usr/lib/x86_64-linux-gnu/qemu'
        self.qemu_modules = [f'{qemu}/{m}' for m in QEMU_MODULES if os.path.exists(f'{qemu}/{m}')]
        self.libraries = libraries(self.programs + self.qemu_modules)
        stamps = [(p, os.stat(p).st_size, os.stat(p).st_mtime_ns)
                  for p in sorted([*self.programs, *self.qemu_modules, *self.libraries])]
        self.root = cache.entry('root', cache.digest(kernel.key, stamps, MODULES, DATA, Path(__file__),
                                                     INIT / 'agent.c'), self._root) / 'root.ext4'
        self.boot = cache.entry('boot', cache.digest(kernel.key, BOOT_MODULES, INIT / 'stage1.sh', Path(__file__),
                                                     Path(__file__).with_name('newc.py')),
                                self._boot) / 'boot.cpio'

    def _root(self, work):
        stage = work / 'stage'
        for d in 'usr/bin usr/sbin usr/lib usr/lib64 proc sys dev run tmp etc root lab var/lib srv mnt'.split():
            (stage / d).mkdir(parents=True)
        for d in ('bin', 'sbin', 'lib', 'lib64'):
            (stage / d).symlink_to(f'usr/{d}')
        (stage / 'var/run').symlink_to('/run')
        for path in [*self.programs, *self.qemu_modules, *self.libraries]:
            _install(path, stage)
        for path in DATA:
            if os.path.isdir(path):
                shutil.copytree(path, stage / path.lstrip('/'), symlinks=True, ignore_dangling_symlinks=True)
        # not busybox: its shell takes its own applets before the programs in PATH
        (stage / 'usr/bin/sh').symlink_to('dash')
        for applet in cache.tool(['busybox', '--list']).split():
            if not any((stage / d / applet).exists() for d in ('usr/bin', 'usr/sbin')):
                (stage / 'usr/bin' / applet).symlink_to('busybox')
        self._modules(stage)
        (stage / 'etc/passwd').write_text('root::0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n')
        (stage / 'etc/group').write_text('root:x:0:\nkvm:x:104:\nperilune:x:990:\nnogroup:x:65534:\n')
        (stage / 'etc/iscsi').mkdir()
        cache.tool(['gcc', '-std=gnu17', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-O2', '-s', '-static', '-o',
                    str(stage / 'lab/agent'), str(INIT / 'agent.c')])
        size = int(cache.tool(['du', '-sm', str(stage)]).split()[0])
        cache.tool(['mke2fs', '-q', '-t', 'ext4', '-O', '^has_journal', '-m', '0', '-d', str(stage),
                    str(work / 'root.ext4'), f'{size * 5 // 4 + 16}M'])
        shutil.rmtree(stage)

    def _modules(self, stage):
        top = stage / 'usr/lib/modules' / self.kernel.release
        lines = []
        for path, line in self.kernel.closure(MODULES):
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.kernel.modules / path, top / path)
            lines.append(line)
        (top / 'modules.dep').write_text(''.join(lines))

    def _boot(self, work):
        with open(work / 'boot.cpio', 'wb') as f:
            c = boot_archive(f, self.kernel, (INIT / 'stage1.sh').read_bytes(), BOOT_MODULES)
            c.dir('fresh')
            c.end()

    def initrd(self, path, programs):
        """Writes the initramfs of one lab: boot, the inits, and {path in the machine: file} of fresh programs
        with those of their libraries that the userland's disk has not."""
        programs = dict(programs)
        for lib in libraries(programs.values()) - self.libraries:
            programs[lib] = lib
        with open(path, 'wb') as f:
            f.write(self.boot.read_bytes())
            f.write(b'\0' * (-f.tell() % 512))
            c = Newc(f)
            for name in ('init.sh', 'san.sh'):
                c.file(f'fresh/lab/{name}', (INIT / name).read_bytes(), 0o755)
            for name, src in programs.items():
                c.copy(src, 'fresh' + name)
            c.end()


def built_programs():
    """What build/bin holds, for /usr/bin, /usr/sbin and /usr/lib/perilune as `make install` would have it."""
    where = {'perilund': '/usr/sbin', 'perilune-vmm': '/usr/lib/perilune'}
    build = TOP / os.environ.get('BUILD', 'build') / 'bin'
    return {f'{where.get(p.name, "/usr/bin")}/{p.name}': str(p) for p in sorted(build.glob('*')) if p.is_file()}


def _install(path, stage):
    dest = stage / path.lstrip('/')
    dest.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(os.path.realpath(path), dest)
