# SPDX-License-Identifier: Apache-2.0
"""A stock Debian kernel's virtio-net on a tap in a bridge of its host: TCP both ways, several queues,
vhost-net."""
import sys
from pathlib import Path

import pytest
from perilab import HostSpec, Lab, Lun
from perilab.lan import address, bridge

sys.path.append(str(Path(__file__).resolve().parents[1] / 'bench'))
from labs import APPEND, STATE, initramfs  # noqa: E402

pytestmark = pytest.mark.slow
INIT = '''#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_net
n=0; while [ ! -d /sys/class/net/eth0 ] && [ $n -lt 200 ]; do n=$((n + 1)); sleep 0.05; done
stty -echo
while :; do echo guest-ready; read line && eval "$line"; done
'''


@pytest.fixture(scope='module')
def lab():
    with Lab('net', hosts=[HostSpec()], luns=[Lun('1G')], guest=False) as up:
        yield up


class Guest:
    """Takes commands on its console; `run` returns what they said."""

    def __init__(self, host, name):
        self.console, self.at, self.n = host.spawn(f'PERILUNE_CONNECT={STATE} exec perilune vm console {name}'), 0, 0
        self.console.write('\n')
        self.at = self.console.expect('guest-ready', 90, self.at).end()

    def run(self, command, timeout=60):
        self.n += 1
        self.console.write(f'{command}; echo done-{self.n}\n')
        m = self.console.expect(rf'(?s)(.*?)done-{self.n}\r?\n', timeout, self.at)
        self.at = m.end()
        return m[1].decode()


def test_tcp_both_ways_over_several_queues(lab):
    a = lab.hosts[0]
    for h in (a,):
        bridge(h)
        h.run('ip link set br0 type bridge vlan_filtering 1')
        h.perilune.start()
    a.perilune.cli(f'volume format vol {lab.san.url(0)}')
    for h in (a,):
        h.perilune.cli(f'volume mount {lab.san.url(0)}')
    a.put(initramfs(lab, INIT, ['virtio_pci', 'virtio_net']), f'{STATE}/net.cpio')
    a.put(lab.kernel.vmlinuz, f'{STATE}/vmlinuz')
    a.perilune.cli(f'vm create web --volume vol --memory 192M --cpus 2 --net bridge=br0,queues=2 --net bridge=br0,vlan=7 '
                   f'--kernel {STATE}/vmlinuz --initrd {STATE}/net.cpio --append "{APPEND}"', timeout=120)
    a.perilune.cli('vm start web', timeout=60)
    guest, ip = Guest(a, 'web'), address(1)
    out = guest.run(f'ifconfig eth0 {ip} netmask 255.255.255.0 up; ls -d /sys/class/net/eth0/queues/rx-*; '
                    'ls -d /sys/class/net/eth1/queues/rx-*; cat /sys/class/net/eth0/mtu')
    assert 'rx-1' in out and out.count('rx-') == 3 and '1500' in out, out
    nets = a.perilune.json('vm show web')['nets']
    assert [n['state'] for n in nets] == ['connected'] * 2

    assert a.run('busybox ps | grep -c "[v]host-"').out.split() == ['3']     # the kernel serves each pair

    # TCP, long enough for segmentation both ways: 16 MiB are the same at the other end.
    host_ip = a.networks['lan']
    a.run(f'head -c 16777216 /dev/urandom > {STATE}/data')
    want = a.run(f'sha256sum {STATE}/data').out.split()[0]
    a.spawn(f'busybox nc -l -p 5001 < {STATE}/data')
    out = guest.run(f'sleep 1; mkfifo /none; exec 3<> /none; nc {host_ip} 5001 <&3 > /data; exec 3<&-; sha256sum /data', 120)
    assert want in out, out
    server = a.spawn('busybox nc -l -p 5002 | sha256sum')
    guest.run(f'sleep 1; nc {host_ip} 5002 < /data; :', 120)
    assert server.expect(r'([0-9a-f]{64})', 60)[1].decode() == want
    a.perilune.cli('vm kill web')
