# SPDX-License-Identifier: Apache-2.0
"""A Debian that was installed on its disk boots by its own GRUB, with no kernel named; it may run guests of its own."""
import pytest
from perilab import HostSpec, Lab

pytestmark = pytest.mark.slow
LUN = '/var/lib/perilune/lun'


@pytest.fixture(scope='module')
def host():
    with Lab('firmware', hosts=[HostSpec(state='3G')], luns=[], guest=False, installed=True) as lab:
        h = lab.hosts[0]
        h.perilune.start()
        h.run(f'truncate -s 2G {LUN}')
        for words in (f'volume format v {LUN}', f'volume mount {LUN}', 'disk import /srv/installed/disk.raw v:/root'):
            h.perilune.cli(words, timeout=180)
        yield h


def test_an_installed_debian_boots_by_its_own_grub(host):
    p = host.perilune
    p.cli('vm create deb --volume v --memory 320M --boot disk --disk v:/root --nested on')
    p.cli('vm start deb')
    console = p.console('deb')
    console.expect('SeaBIOS', 60)
    console.expect_words('GNU GRUB', 60)
    console.login(180)
    _, out = console.run('cat /proc/cmdline; findmnt -no SOURCE /; dmesg | grep -ciE "i/o error|ext4-fs error"', check=False)
    assert 'BOOT_IMAGE=/boot/vmlinuz' in out and out.split()[-2:] == ['/dev/sda1', '0'], out
    console.run('ls /boot/grub/i386-pc/core.img && test ! -e /setup')      # its own installation

    console.run('grep -qw svm /proc/cpuinfo || grep -qw vmx /proc/cpuinfo')      # --nested on
    console.run('{ modprobe kvm-amd || modprobe kvm-intel; } && test -c /dev/kvm', 60)
    p.cli('vm stop deb --timeout 120', timeout=180)
    assert p.json('vm show deb')['state'] == 'stopped'
