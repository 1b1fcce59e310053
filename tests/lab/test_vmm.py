# SPDX-License-Identifier: Apache-2.0
"""perilune-vmm on real KVM with stock kernels, without a daemon: vmm_run plays its part, raw_server the disk's."""
import os, re, time
import pytest
from perilab import Lab
from perilab.console import GuestConsole
from perilab.image import TOP

pytestmark = pytest.mark.slow
BUILD = TOP / os.environ.get('BUILD', 'build')
VMM = '/usr/lib/perilune/perilune-vmm'
APPEND = 'root=LABEL=guestroot rw console=ttyS0 quiet panic=-1 mitigations=off fsck.mode=skip'


@pytest.fixture(scope='module')
def host():
    programs = {'/usr/bin/vmm_run': BUILD / 'tests/hosts/vmm_run', '/usr/bin/raw_server': BUILD / 'tests/client/raw_server'}
    with Lab('vmm', hosts=1, luns=[], programs=programs) as lab:
        yield lab.hosts[0]


def vmm_run(host, options, append):
    run = host.spawn(f'exec vmm_run --vmm {VMM} --kernel /srv/guest/vmlinuz --initrd /srv/guest/initrd.img '
                     f'--memory 256M --append "{append}" {options}')
    return GuestConsole(host, run)


def test_debian_from_a_scsi_disk_panics_reboots_and_powers_off(host):
    host.run('qemu-img convert -O raw /srv/guest/disk.raw /var/lib/perilune/disk.raw', timeout=60)
    server = host.spawn('exec raw_server scsi /tmp/disk.sock /var/lib/perilune/disk.raw')
    server.expect('ready', 20)
    guest = vmm_run(host, '--rng --scsi /tmp/disk.sock', APPEND).login()

    assert guest.run('findmnt -n -o SOURCE /')[1].split() == ['/dev/sda']
    assert guest.run('cat /sys/class/misc/hw_random/rng_current')[1].split() == ['virtio_rng.0']
    interrupts = guest.run('cat /proc/interrupts')[1]
    assert re.search(r'PCI-MSI.*virtio\d-request', interrupts), interrupts
    guest.run('dd if=/dev/sda of=/dev/null bs=1M count=64 iflag=direct')
    guest.run('echo kept > /root/kept; sync')

    # What the VMM costs beside the guest's memory, and that it is locked up.
    pid = host.run('pidof perilune-vmm').out.strip()
    rollup = dict(re.findall(r'^(\w+): +(\d+) kB', host.run(f'cat /proc/{pid}/smaps_rollup').out, re.M))
    assert int(rollup['Pss_Anon']) + int(rollup['Pss_File']) <= 8 * 1024, rollup
    assert re.search(r'^Seccomp:\s+2$', host.run(f'cat /proc/{pid}/status').out, re.M)

    # A panic is reported by pvpanic (loaded by udev); the kernel then reboots, and finds its disk again.
    guest.run('modprobe pvpanic-pci')
    guest.serial.write('echo c > /proc/sysrq-trigger\n')
    guest.expect('Linux version|Welcome to|guest login', 120)
    assert 'event panicked' in guest.serial.err and 'event reset' in guest.serial.err
    guest.login()
    assert guest.run('cat /root/kept')[1].split() == ['kept']
    guest.power_off()
    assert 'event powered-off' in guest.serial.err
    server.kill()


PATH = 'export PATH=/sbin:/usr/sbin:/bin:/usr/bin; '


def test_two_processors(host):
    guest = vmm_run(host, '--cpus 2', 'console=ttyS0 quiet panic=-1 mitigations=off rdinit=/bin/sh')
    guest.expect(r'# ', 120)
    guest.serial.write(PATH + 'mkdir -p /proc; mount -t proc proc /proc; n=0; while read a b; do [ "$a" = processor ] && '
                       'n=$((n+1)); done < /proc/cpuinfo; echo cpus=$n=\n')
    guest.expect('cpus=2=', 60)
    guest.serial.kill()


def test_reboot_without_disks(host):
    guest = vmm_run(host, '--once', 'console=ttyS0 quiet panic=-1 mitigations=off rdinit=/bin/sh')
    guest.expect(r'# ', 120)
    guest.serial.write(PATH + 'reboot -f\n')
    assert guest.serial.wait(60 * host.lab.scale) == 3      # --once: a reboot is the end


def move(host, guest, times):
    """To another process and on, again and again; the last line of each must be right."""
    for _ in range(times):
        done = guest.serial.err.count('vmm_run: moved')
        host.run('kill -USR1 $(pidof vmm_run)')
        deadline = time.monotonic() + 60 * host.lab.scale
        while guest.serial.err.count('vmm_run: moved') == done:
            assert time.monotonic() < deadline, guest.serial.err[-2000:]
            time.sleep(0.1)
    assert ' 0 pages differ' in guest.serial.err and not re.search(r' [1-9]\d* pages differ', guest.serial.err)


def shell(guest, command, pattern, timeout=60):
    guest.serial.write(command + '\n')
    return guest.expect(pattern, timeout)


TROUBLE = 'soft lockup|rcu.*stall|Call Trace|BUG:|clocksource.*unstable|Clock.*skew|unchecked MSR'


def test_a_stock_kernel_with_two_processors_moves(host):
    guest = vmm_run(host, '--cpus 2 --rng', 'console=ttyS0 panic=-1 mitigations=off rdinit=/bin/sh')
    guest.expect(r'# ', 120)
    shell(guest, PATH + 'mkdir -p /proc /dev; mount -t proc proc /proc; mount -t devtmpfs dev /dev; echo moun""ted', 'mounted\r?\n')
    move(host, guest, 4)
    shell(guest, 'read a r < /proc/uptime; sleep 2; read b r < /proc/uptime; echo slept=$((${b%%.*}-${a%%.*}))=', r'slept=[2-9]=')
    shell(guest, 'loc() { while read n c d r; do [ "$n" = LOC: ] && echo $c $d; done < /proc/interrupts; }; set -- $(loc); x=$1; y=$2; '
                 'sleep 1; set -- $(loc); [ $1 -gt $x ] && [ $2 -gt $y ] && echo both""=tick', 'both=tick\r?\n')
    assert not re.search(TROUBLE, guest.serial.out), guest.serial.out[-3000:]
    guest.serial.kill()


def test_debian_with_its_disk_moves_while_it_writes(host):
    host.run('qemu-img convert -O raw /srv/guest/disk.raw /var/lib/perilune/moved.raw', timeout=60)
    server = host.spawn('exec raw_server scsi /tmp/moved.sock /var/lib/perilune/moved.raw')
    server.expect('ready', 20)
    guest = vmm_run(host, '--rng --scsi /tmp/moved.sock', APPEND).login()
    guest.run('dd if=/dev/urandom of=/root/a bs=1M count=8 && cp /root/a /root/want && sync')
    guest.serial.write('while [ ! -e /root/stop ]; do dd if=/root/a of=/root/b bs=64k oflag=direct 2>/dev/null; '
                       'cmp /root/b /root/want || touch /root/w-r-o-n-g; done &\n')
    move(host, guest, 3)
    guest.run('touch /root/stop; wait; test ! -e /root/w-r-o-n-g && cmp /root/a /root/want', timeout=120)
    assert guest.run(f'dmesg | grep -iE "{TROUBLE}|I/O error|EXT4-fs error" || true')[1].strip() == ''
    guest.power_off()
    server.kill()
