# SPDX-License-Identifier: Apache-2.0
"""QEMU without KVM is a client of our disks: Debian boots from them, unmodified."""
import time

import pytest
from clientlib import Qemu, Server, fsck, guest_disk

FILES = 'cd /root; for i in $(seq 30); do head -c 200000 /dev/urandom >f$i; sha256sum f$i >>sums; done; sync'


@pytest.fixture
def disk(tmp_path, request):
    with Server(tmp_path, getattr(request, 'param', 'blk')) as s:
        guest_disk(s)
        yield s.start()


def check_clean(server):
    st = server.stop()
    assert st['errors'] == 0 and st['writes'] > 50, st
    rc, out = fsck(server.luns[0])
    assert rc == 0, out


@pytest.mark.slow
def test_boots_from_vhost_user_blk(disk):
    with Qemu(disk, 'vhost-user-blk-pci,chardev=c,num-queues=1', ',reconnect=1') as q:
        c = q.login()
        assert 'vda' in c.run('findmnt -no SOURCE /')
        c.run(FILES)
        c.run('fstrim -v / && echo 3 >/proc/sys/vm/drop_caches && cd /root && sha256sum -c --quiet sums')
        q.power_off()
    check_clean(disk)


@pytest.mark.slow
@pytest.mark.parametrize('disk', ['scsi'], indirect=True)
def test_boots_from_vhost_user_scsi(disk):
    with Qemu(disk, 'vhost-user-scsi-pci,chardev=c') as q:
        c = q.login()
        assert 'sda' in c.run('findmnt -no SOURCE /')
        assert 'write back' in c.run('cat /sys/class/scsi_disk/*/cache_type')
        assert 'unmap' in c.run('cat /sys/class/scsi_disk/*/provisioning_mode')
        c.run(FILES)
        c.run('fstrim -v / && echo 3 >/proc/sys/vm/drop_caches && cd /root && sha256sum -c --quiet sums')
        c.run('echo 1 >/sys/block/sda/device/rescan; ! dmesg | grep -iE "i/o error|sense key"')
        q.power_off()
    check_clean(disk)


@pytest.mark.slow
def test_server_is_killed_under_qemu(disk):
    """Only vhost-user-blk: QEMU's vhost-user-scsi cannot reconnect."""
    with Qemu(disk, 'vhost-user-blk-pci,chardev=c,num-queues=1', ',reconnect=1') as q:
        c = q.login()
        c.begin(FILES + '; ' + FILES.replace('f$i', 'g$i') + '; ' + FILES.replace('f$i', 'h$i'))
        for _ in range(4):
            time.sleep(0.7)
            disk.kill()
            disk.start()
        c.finish(120)
        c.run('echo 3 >/proc/sys/vm/drop_caches && cd /root && sha256sum -c --quiet sums', 120)
        c.run('! dmesg | grep -iE "i/o error|ext4-fs error"')
        q.power_off()
    check_clean(disk)
