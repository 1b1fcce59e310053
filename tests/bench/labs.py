# SPDX-License-Identifier: Apache-2.0
"""The lab for the benchmark's rows: one lab at a time, kept for the rows that follow each other; small guests made of
the stock kernel and an initramfs of busybox; QEMU with like devices."""
import atexit, functools, io, shutil, subprocess, sys, tempfile
from pathlib import Path

from benchlib import BUILD, TOP

sys.path.append(str(TOP / 'tests/lab'))
from perilab import HostSpec, Lab, Lun  # noqa: E402
from perilab.image import libraries  # noqa: E402
from perilab.newc import boot_archive  # noqa: E402

HERE = Path(__file__).resolve().parent
STATE = '/var/lib/perilune'
APPEND = 'console=ttyS0 quiet panic=-1 mitigations=off'
_now = {}


def lab(kind):
    """'host': one host, nothing beside it. 'san': LIO and two hosts. What another row left up stays up."""
    if _now.get('kind') != kind:
        close()
        programs = {f'/usr/bin/{p.rpartition("/")[2]}': BUILD / f'tests/{p}' for p in (
            'bench/until_seen', 'bench/gaps', 'hosts/vmm_run', 'hosts/pinger', 'client/raw_server')}
        programs['/usr/bin/iperf3'] = shutil.which('iperf3')
        made = Lab(f'bench-{kind}', hosts=[HostSpec(state='3G', memory='3G')] if kind == 'host' else [HostSpec(), HostSpec()],
                   luns=[] if kind == 'host' else [Lun('2G')], guest=False, programs=programs)
        _now.update(kind=kind, lab=made.up())
    return _now['lab']


def close():
    if _now:
        _now['lab'].down()
        _now.clear()


atexit.register(close)


def once(fn):
    """What it makes is kept as long as the lab is up that it was made in."""
    @functools.wraps(fn)
    def kept():
        if fn not in _now.get('kept', ()):
            made = fn()  # which may close the lab, and bring another one up
            _now.setdefault('kept', {})[fn] = made
        return _now['kept'][fn]
    return kept


# --- guests -------------------------------------------------------------------------------------------------------

INIT = '''#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_scsi sd_mod
n=0; while [ ! -b /dev/sda ] && [ $n -lt 200 ]; do n=$((n + 1)); sleep 0.05; done
stty -echo
while :; do echo bench-ready; read line && eval "$line"; done
'''
FIRST = '#!/bin/busybox sh\necho bench-init\nwhile :; do /bin/busybox sleep 1000; done\n'
NESTED = '''#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
modprobe kvm-amd || modprobe kvm-intel
nested
while :; do sleep 1000; done
'''


def initramfs(made, init, modules=(), files=()):
    """The bytes of one; `files`: {name: path here}."""
    f = io.BytesIO()
    c = boot_archive(f, made.kernel, init.encode(), modules)
    for name, src in dict(files).items():
        c.copy(src, name)
    c.end()
    return f.getvalue()


def payload():
    """A bzImage that says one byte, '!', with its very first instructions, by whichever entry a loader takes: real mode
    (QEMU's firmware) or 64 bits."""
    with tempfile.TemporaryDirectory() as d:
        Path(f'{d}/p.S').write_text('''
            .code16
            .org 0
            .byte 0xeb, 0x66              # 0x200, the header's jump, to 0x268
            .org 0x68
            mov $0x3f8, %dx
            mov $'!', %al
            out %al, %dx
            1: hlt
            jmp 1b
            .org 0x200
            .fill 0x200                   # 32-bit entry: nobody's
            .code64
            mov $0x3f8, %dx
            mov $'!', %al
            out %al, %dx
            1: hlt
            jmp 1b
            .fill 4096
        ''')
        subprocess.run(['gcc', '-c', '-o', f'{d}/p.o', f'{d}/p.S'], check=True)
        subprocess.run(['objcopy', '-O', 'binary', '-j', '.text', f'{d}/p.o', f'{d}/p.bin'], check=True)
        code = Path(f'{d}/p.bin').read_bytes()
    from vmm import setup_sectors
    setup = bytearray(setup_sectors())
    setup[0x200:0x202] = code[:2]
    setup[0x268:0x268 + 16] = code[0x68:0x78]
    return bytes(setup) + code[0x200:]


def guest_program(name, *libraries):
    """guest/NAME.c, linked statically."""
    out = BUILD / 'bench' / name
    out.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(['gcc', '-std=gnu17', '-D_GNU_SOURCE', '-O2', '-Wall', '-Wextra', '-Werror', '-static', '-o', out, HERE / f'guest/{name}.c',
                    *libraries], check=True)
    return out


def program(name):
    """One of this machine, and its libraries, for initramfs()."""
    path = shutil.which(name)
    files = {f'bin/{name}': path, 'lib64/ld-linux-x86-64.so.2': '/lib64/ld-linux-x86-64.so.2'}
    return {**files, **{lib.lstrip('/'): lib for lib in libraries([path])}}


def guest_io():
    """The load program for guests."""
    return guest_program('guest_io', '-luring')


# --- a network inside of the machine ------------------------------------------------------------------------------

BRIDGE, NET = 'br9', '10.99.0'  # the machine's own address in it is NET.1
INTO_BRIDGE = '/run/into-bridge'


def bridged(a):
    """Makes the bridge, and what puts QEMU's taps into it. Its address is its own: else it is the lowest of its ports', taps
    have a new one each time, and a guest sends to the last one until its neighbour table is looked through again."""
    a.run(f'[ -d /sys/class/net/{BRIDGE} ] || {{ ip link add {BRIDGE} address 02:00:00:00:00:01 type bridge stp_state 0 forward_delay 0 && '
          f'ip addr add {NET}.1/24 dev {BRIDGE} && ip link set {BRIDGE} up; }}')
    a.put(f'#!/bin/sh\nexec ip link set $1 master {BRIDGE} up\n'.encode(), INTO_BRIDGE, 0o755)


def our_net(number, words=''):
    """`vm create`'s words for a card in the bridge; guests here take the last byte of its MAC for their address's."""
    return f'--net bridge={BRIDGE},mac=02:00:00:00:00:{number:02x}{words}'


def qemu_net(tap, number, words=''):
    return (f'-netdev tap,id=n,ifname={tap},script={INTO_BRIDGE},downscript=no{words} '
            f'-device virtio-net-pci,netdev=n,mac=02:00:00:00:00:{number:02x},romfile=')


def qemu(kernel, initrd, disk, aio='io_uring', extra='', memory=256, serial='-serial stdio', append=''):
    """QEMU's words for a machine with the devices that ours has: one processor, virtio-scsi, rng, pvpanic, serial."""
    initrd = f'-initrd {initrd}' if initrd else ''
    return (f'qemu-system-x86_64 -accel kvm -cpu host -machine q35,memory-backend=mem -object memory-backend-memfd,id=mem,size={memory}M '
            f'-smp 1 -m {memory} -nodefaults -no-user-config -display none -no-reboot {serial} -kernel {kernel} {initrd} '
            f'-append "{APPEND} {append}" -object iothread,id=io -device virtio-scsi-pci,id=s,iothread=io '
            f'-drive file={disk},format=raw,cache=none,aio={aio},if=none,id=d -device scsi-hd,drive=d '
            f'-device virtio-rng-pci -device pvpanic-pci {extra}')
