# SPDX-License-Identifier: Apache-2.0
"""A host dies, a link goes, with QEMU in our VMM's place: the stock guest runs from a LUN of the SAN on host1,
writes and syncs; host1's power goes; host2 runs the guest from the same LUN and finds the files. Then host2's
cable is pulled, and then its packets vanish, and each time it goes on over the other way and comes back. The guest
is in a shell at once, without systemd, which the demo and test_vmm.py boot."""
import subprocess, time
from perilab import LabTimeout, Lun
from perilab.guest import APPEND

HOSTS, LUNS = 2, [Lun('2G', content='guest'), Lun('128M')]


def scenario(lab):
    a, b = lab.hosts
    first = boot(lab, a)
    exits = int(a.run('cat /sys/kernel/debug/kvm/exits').out)
    assert exits > 1000, f'host1: KVM counted {exits} exits, so no guest ran on it'
    first.run('for i in 1 2 3; do dd if=/dev/urandom of=/root/f$i bs=64k count=8 2>/dev/null; done; '
              'cd /root; sha256sum f1 f2 f3 > sums; sync')
    first.serial.write('while :; do dd if=/dev/zero of=/root/torn bs=64k count=64 conv=fsync; done\n')
    time.sleep(1)
    a.kill()
    lab.talk('host1 is dead')

    a.start()  # it boots beside what follows
    second = boot(lab, b)
    second.run('cd /root && sha256sum -c sums')
    second.serial.write('sync; mount -o remount,ro / && poweroff -ff\n')
    assert second.serial.wait(60 * lab.scale) == 0, second.transcript()[-2000:]
    fsck = lab.native(['e2fsck', '-fn', lab.dir / 'lun0.raw'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = fsck.communicate(timeout=60)[0].decode()
    assert fsck.returncode == 0, f'the guest\'s file system: {said}'
    a.wait_up()
    a.run('ls /var/lib/perilune')
    link_goes(lab, b)


def boot(lab, host):
    start = time.monotonic()
    drive = f'file={lab.san.url(0, ["sana"])},format=raw,cache=none'
    guest = host.qemu_guest(drive, append=f'{APPEND} init=/bin/bash HOME=/root').login()
    lab.talk(f'{host.name}: the guest is up after {time.monotonic() - start:.0f} s')
    return guest


def link_goes(lab, host):
    one, two = (f'iscsi-readcapacity16 {lab.san.url(1, [net])}' for net in ('sana', 'sanb'))
    for name, cut in (('cable', lambda on: host.link('sana', not on)), ('silence', lambda on: host.silence('sana', on))):
        host.run(one)
        cut(True)
        assert not answers(host, one), f'{name}: the cut way still answers'
        assert host.run('cat /sys/class/net/sana/carrier').out.strip() == ('0' if name == 'cable' else '1')
        host.run(two)
        cut(False)
        host.run(one)
        lab.talk(f'{host.name}: {name} gone and back')


def answers(host, command):
    try:
        return host.run(command, timeout=3, check=False).code == 0
    except LabTimeout:
        return False
