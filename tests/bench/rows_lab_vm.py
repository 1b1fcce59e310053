# SPDX-License-Identifier: Apache-2.0
"""Our VMM and daemon against QEMU/KVM, both in the same machine of the lab, in turns: time to boot, a guest's I/O, memory."""
import re, time

from benchlib import SECONDS, alternate, by_turns, row
from labs import APPEND, FIRST, INIT, NESTED, STATE, guest_io, guest_program, initramfs, lab, once, payload, qemu

DISK_MIB = 512


@once
def host():
    """A host with a daemon and a volume on a file: VMs `first` and `init`, a disk each, and QEMU's raw disk."""
    made = lab('host')
    a = made.hosts[0]
    a.put(payload(), f'{STATE}/payload')
    a.put(initramfs(made, FIRST), f'{STATE}/first.cpio')
    a.put(made.kernel.vmlinuz, f'{STATE}/vmlinuz')
    a.run(f'truncate -s 1G {STATE}/lun; truncate -s 64M {STATE}/peer.raw')
    start_daemon(a)
    a.perilune.cli(f'volume format vol {STATE}/lun')
    a.perilune.cli(f'volume mount {STATE}/lun')
    for name, words in (('first', f'--kernel {STATE}/payload'),
                        ('init', f'--kernel {STATE}/vmlinuz --initrd {STATE}/first.cpio --append "{APPEND}"')):
        a.perilune.cli(f'disk create vol:/{name} --size 64M')
        a.perilune.cli(f'vm create {name} --volume vol --memory 256M --cpus 1 --disk vol:/{name} {words}')
    return a


def start_daemon(a):
    a.perilune.start()


# --- boot ---------------------------------------------------------------------------------------------------------


def seen(a, text, where, command):
    return float(a.run(f'until_seen {text} {where} {command}', timeout=90).out)


def ours_until(text, vm):
    a = host()
    took = seen(a, f"'{text}'", f'{STATE}/vm', f'perilune --connect {STATE} vm start {vm}')
    a.perilune.cli(f'vm kill {vm}')
    return took


def qemu_until(text, kernel, initrd):
    return seen(host(), f"'{text}'", '-', qemu(kernel, initrd, f'{STATE}/peer.raw'))


@row('lab-boot-first-instruction', 'ms')
def first_instruction():
    return alternate(lambda: ours_until('!', 'first'), lambda: qemu_until('!', f'{STATE}/payload', None))


@row('lab-boot-init', 'ms')
def boot_init():
    return alternate(lambda: ours_until('bench-init', 'init'),
                     lambda: qemu_until('bench-init', f'{STATE}/vmlinuz', f'{STATE}/first.cpio'))


# --- a guest in a guest -------------------------------------------------------------------------------------------


@row('lab-nested-payload', 'works')
def nested_payload():
    """A guest with --nested on makes a VM with its own KVM, whose code adds two numbers: as one of QEMU's does."""
    a, answer = host(), "'guest in guest: 42'"
    a.put(initramfs(a.lab, NESTED, ['irqbypass', 'ccp', 'kvm', 'kvm-amd', 'kvm-intel'], {'bin/nested': guest_program('nested')}),
          f'{STATE}/nested.cpio')
    a.perilune.cli(f'vm create nested --volume vol --memory 256M --nested on --kernel {STATE}/vmlinuz --initrd {STATE}/nested.cpio '
                   f'--append "{APPEND}"')
    ours = seen(a, answer, f'{STATE}/vm', f'perilune --connect {STATE} vm start nested')
    a.perilune.cli('vm kill nested')
    theirs = seen(a, answer, '-', qemu(f'{STATE}/vmlinuz', f'{STATE}/nested.cpio', f'{STATE}/peer.raw'))
    return [(float(ours > 0), float(theirs > 0))]


# --- memory -------------------------------------------------------------------------------------------------------


def pss(a, pid, but):
    """MiB of a process, proportionally, without the mappings whose name holds `but`: the guest's memory."""
    total, counts = 0, True
    for line in a.run(f'cat /proc/{pid}/smaps').out.splitlines():
        if re.match(r'[0-9a-f]+-[0-9a-f]+ ', line):
            counts = but not in line
        elif counts and line.startswith('Pss:'):
            total += int(line.split()[1])
    return total / 1024


def settled(a, pid, but):
    """Once it no longer changes: what a mount or a start needed for a moment is given back."""
    last = None
    for _ in range(15):
        now = pss(a, pid, but)
        if last is not None and abs(now - last) < 0.05:
            break
        last = now
        time.sleep(1)
    return now


def our_memory():
    """A daemon that was just started, its growth with a VM, and the VMM."""
    a = host()
    a.perilune.kill()
    start_daemon(a)
    for _ in range(100):
        if a.perilune.cli('disk list vol', check=False).code == 0:
            break
        time.sleep(0.1)
    daemon = a.run('pidof perilund').out.split()[0]
    time.sleep(2)
    before = settled(a, daemon, 'memfd:guest')
    seen(a, 'bench-init', f'{STATE}/vm', f'perilune --connect {STATE} vm start init')
    vmm = a.perilune.json('vm show init')['pid']
    grown, own = settled(a, daemon, 'memfd:guest') - before, settled(a, vmm, 'memfd:guest')
    a.perilune.cli('vm kill init')
    return max(0, grown) + own


def qemu_memory():
    a = host()
    run = a.spawn('echo pid $$; exec ' + qemu(f'{STATE}/vmlinuz', f'{STATE}/first.cpio', f'{STATE}/peer.raw'))
    pid = int(run.expect(r'pid (\d+)', 30)[1])
    run.expect('bench-init', 90)
    found = settled(a, pid, 'memfd:')
    run.kill()
    run.wait(20)
    return found


@row('lab-vmm-memory', 'MiB')
def memory():
    return alternate(our_memory, qemu_memory)


# --- a guest's I/O ------------------------------------------------------------------------------------------------


class Guest:
    """A guest that takes commands on its console."""

    def __init__(self, run):
        self.run, self.at = run, 0
        self.expect('bench-ready', 90)

    def expect(self, pattern, timeout):
        m = self.run.expect(pattern, timeout, self.at)
        self.at = m.end()
        return m

    def iops(self, op):
        self.run.write(f'guest_io /dev/sda {op} 32 4096 {SECONDS:g}\n')
        m = self.expect(r'iops (\d+) in|guest_io: (.*)\n', 60 + SECONDS)
        if not m[1]:
            raise RuntimeError(f'guest_io {op}: {m[2].decode()}')
        return float(m[1])


@once
def both():
    """Our guest on the daemon's way to a raw file, and QEMU's on its own to another such file; both stay up, one works."""
    a = host()
    made = a.lab
    a.put(initramfs(made, INIT, ['virtio_pci', 'virtio_scsi', 'sd_mod'], {'bin/guest_io': guest_io()}), f'{STATE}/bench.cpio')
    for name in ('ours', 'theirs'):
        a.run(f'dd if=/dev/urandom of={STATE}/{name}.raw bs=1M count={DISK_MIB} oflag=direct', timeout=300)
    server = a.spawn(f'exec raw_server scsi /tmp/bench.sock {STATE}/ours.raw')
    server.expect('ready', 30)
    ours = Guest(a.spawn(f'exec vmm_run --vmm /usr/lib/perilune/perilune-vmm --kernel {STATE}/vmlinuz --initrd {STATE}/bench.cpio '
                         f'--memory 256M --append "{APPEND}" --scsi /tmp/bench.sock --rng'))
    theirs = Guest(a.spawn('exec ' + qemu(f'{STATE}/vmlinuz', f'{STATE}/bench.cpio', f'{STATE}/theirs.raw')))
    return ours, theirs


def guest_rows(op):
    ours, theirs = both()
    return by_turns(lambda: ours.iops(op), lambda: theirs.iops(op))


@row('lab-guest-randread-4k', 'IOPS')
def guest_randread():
    return guest_rows('read')


@row('lab-guest-randwrite-4k', 'IOPS')
def guest_randwrite():
    return guest_rows('write')
