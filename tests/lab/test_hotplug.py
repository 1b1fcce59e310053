# SPDX-License-Identifier: Apache-2.0
"""A stock Debian guest gets a disk while it runs and sees it by itself, writes it, and lets it go again; with its agent,
and without."""
import time

import pytest
from perilab import HostSpec, Lab
from perilab.perilune import EXIT

pytestmark = pytest.mark.slow
APPEND = 'root=LABEL=guestroot rw console=ttyS0 quiet panic=-1 mitigations=off fsck.mode=skip'
APPEARS_S = 60
LUN = '/var/lib/perilune/lun0'


@pytest.fixture(scope='module')
def lab():
    with Lab('hotplug', hosts=[HostSpec(state='3G')], luns=[]) as up:
        yield up


def within(console, command, seconds):
    """Until `command` says yes in the guest."""
    end = time.monotonic() + seconds * console.scale
    while console.run(command, check=False)[0]:
        assert time.monotonic() < end, f'{command}: not within {seconds} s: {console.run("dmesg | tail -20")[1]}'
        time.sleep(0.3)


def agent_is(p, state):
    end = time.monotonic() + APPEARS_S * p.host.lab.scale
    while (said := p.json('vm show guest'))['agent']['state'] != state:
        assert time.monotonic() < end, f'the agent is not {state}: {said}'
        time.sleep(0.5)
    return said


def asks_its_agent(p, console):
    """What Debian's qemu-guest-agent tells and does; /dev/sdb is mounted on /mnt."""
    console.run('printf "[Match]\\nName=lo\\n[Network]\\nAddress=10.9.8.7/32\\n" > /etc/systemd/network/lo.network; '
                'systemctl start systemd-networkd')
    end = time.monotonic() + APPEARS_S * p.host.lab.scale
    while (said := agent_is(p, 'running'))['addresses'] != ['10.9.8.7']:
        assert time.monotonic() < end, said
        time.sleep(0.5)
    assert 'Debian GNU/Linux 12' in said['agent']['os'], said
    refused = p.cli('vm detach guest vol:/logs', check=False)
    assert refused.code == EXIT['busy'] and 'mounted on /mnt' in refused.err, refused.err

    frozen = p.json('vm freeze guest --for 100')
    assert frozen['filesystems'] >= 2, frozen                           # the root, and the disk
    console.run('(echo late > /mnt/late; sync) & sleep 2; jobs -r | grep -q Running')
    assert p.json('vm show guest')['agent']['state'] == 'frozen'
    p.cli('vm thaw guest')
    console.run('wait; grep -q late /mnt/late')
    p.cli('vm freeze guest --for 3')
    console.run('echo later > /mnt/later; sync', timeout=120)           # time thaws it
    assert p.cli('vm thaw guest', check=False).code == EXIT['timed-out']
    console.run('systemctl stop qemu-guest-agent')


def test_a_disk_comes_is_written_and_goes(lab):
    host, p = lab.hosts[0], lab.hosts[0].perilune
    p.start()
    host.run(f'truncate -s 2G {LUN}')
    p.cli(f'volume format vol {LUN}')
    p.cli(f'volume mount {LUN}')
    p.cli('disk import /srv/guest/disk.raw vol:/guest.disk', timeout=180)
    p.cli('disk create vol:/logs --size 64M')
    p.cli(f'vm create guest --volume vol --memory 256M --disk vol:/guest.disk --kernel /srv/guest/vmlinuz '
          f'--initrd /srv/guest/initrd.img --append "{APPEND}"', timeout=120)
    p.cli('vm start guest', timeout=60)
    console = p.console('guest').login(150)

    p.cli('vm attach guest --disk vol:/logs')
    within(console, '[ -b /dev/sdb ]', APPEARS_S)                       # nobody asked the guest to look
    console.run('[ $(cat /sys/block/sdb/size) = 131072 ] && readlink -f /sys/block/sdb/device | grep -q ":0:0:1$"')
    console.run('mkfs.ext4 -q /dev/sdb && mount /dev/sdb /mnt && head -c 5000000 /dev/urandom > /mnt/file && sync')

    asks_its_agent(p, console)

    # Without an agent, mounted and quiet: that cannot be seen; but one that is written to is not taken away.
    console.run('dd if=/dev/zero of=/mnt/zeroes bs=512 count=90000 oflag=direct conv=notrunc 2> /dev/null & echo $! > /run/writer')
    refused = p.cli('vm detach guest vol:/logs', check=False)
    assert refused.code == EXIT['busy'] and 'the guest is using it' in refused.err, refused.err
    console.run('kill $(cat /run/writer); wait $(cat /run/writer); umount /mnt')
    p.cli('disk resize vol:/logs --size 128M')
    within(console, '[ $(cat /sys/block/sdb/size) = 262144 ]', APPEARS_S)
    told = console.run('head -c 67108864 /dev/sdb | sha256sum')[1].split()[0]

    gone = p.cli('vm detach guest vol:/logs', timeout=90)
    assert 'mounted' in gone.err, gone.err
    within(console, '[ ! -b /dev/sdb ]', APPEARS_S)
    errors = console.run('dmesg | grep -i "i/o error\\|sense key" | grep -v "Unit Attention" || true')[1]
    assert '[sdb]' not in errors, errors                                # its cache was flushed before it went
    p.cli('disk export vol:/logs /var/lib/perilune/logs.raw', timeout=120)
    assert host.run('head -c 67108864 /var/lib/perilune/logs.raw | sha256sum').out.split()[0] == told

    # Again, at another address; the daemon dies in between.
    p.cli('vm attach guest --disk vol:/logs')
    within(console, '[ -b /dev/sdb ]', APPEARS_S)
    p.kill()
    p.start()
    console = p.console('guest')
    console.serial.write('\n')
    console.run('readlink -f /sys/block/sdb/device | grep -q ":0:0:2$" && mount /dev/sdb /mnt && [ $(stat -c %s /mnt/file) = 5000000 ] && umount /mnt')
    p.cli('vm detach guest vol:/logs', timeout=90)
    within(console, '[ ! -b /dev/sdb ]', APPEARS_S)

    # The agent alone: the guest ignores its power button.
    console.run('mkdir -p /etc/systemd/logind.conf.d; printf "[Login]\\nHandlePowerKey=ignore\\n" > /etc/systemd/logind.conf.d/no.conf; '
                'systemctl restart systemd-logind; systemctl start qemu-guest-agent')
    agent_is(p, 'running')
    p.cli('vm stop guest --timeout 150', timeout=160)
    assert p.json('vm show guest')['state'] == 'stopped'
