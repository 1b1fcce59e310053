# SPDX-License-Identifier: Apache-2.0
"""A stock Debian kernel's virtio-net on a tap in a bridge of its host: TCP with both hosts, several queues, a VLAN, moves
that lose no ping and no connection. The hosts' processors are unlike, so only a VM with a baseline moves."""
import re, sys, time
from pathlib import Path

import pytest
from perilab import HostSpec, Lab, Lun
from perilab.lan import Pinger, address, bridge

sys.path.append(str(Path(__file__).resolve().parents[1] / 'bench'))
from labs import APPEND, STATE, initramfs  # noqa: E402

pytestmark = pytest.mark.slow
LACKS = ['adx', 'rdseed']        # what host2's processor does
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
    hosts = [HostSpec(), HostSpec(cpu_flags=','.join(f'-{flag}' for flag in LACKS))]
    with Lab('net', hosts=hosts, luns=[Lun('1G')], guest=False) as up:
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


def until(lab, look, what):
    end = time.monotonic() + 60 * lab.scale
    while not look():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def listen(host, port, rest=''):
    """A server, which listens: a connection before would be refused."""
    server = host.spawn(f'busybox nc -l -p {port} {rest}')
    until(host.lab, lambda: not host.run(f'cat /proc/net/tcp /proc/net/tcp6 2> /dev/null | grep -q ":{port:04X} .* 0A "', check=False).code,
          f'nobody listens at port {port}')
    return server


def prepared(lab):
    a, b = lab.hosts
    for h in (a, b):
        bridge(h)
        h.run('ip link set br0 type bridge vlan_filtering 1')
        h.perilune.start()
    a.perilune.cli(f'volume format vol {lab.san.url(0)}')
    for h in (a, b):
        h.perilune.cli(f'volume mount {lab.san.url(0)}')
    a.put(initramfs(lab, INIT, ['virtio_pci', 'virtio_net']), f'{STATE}/net.cpio')
    a.put(lab.kernel.vmlinuz, f'{STATE}/vmlinuz')
    for h, other in ((a, b), (b, a)):
        until(lab, lambda: any(x['name'] == other.name and x['address'] for x in h.perilune.json('host list')), f'{h.name} is alone')
    return a, b


def create(p, name, words):
    p.cli(f'vm create {name} --volume vol --memory 192M {words} --kernel {STATE}/vmlinuz --initrd {STATE}/net.cpio '
          f'--append "{APPEND}"', timeout=120)
    p.cli(f'vm start {name}', timeout=60)


def refused_by_an_unlike_host(a, b):
    """A VM that sees all of host1's processor."""
    flags = [set(h.run('grep -m1 ^flags /proc/cpuinfo').out.split()) for h in (a, b)]
    lacks = [flag for flag in LACKS if flag in flags[0] - flags[1]]
    assert lacks, flags
    create(a.perilune, 'full', '--net bridge=br0')
    refused = a.perilune.cli('vm migrate full --to host2', check=False)
    assert refused.code and 'missing' in refused.err and all(flag in refused.err for flag in lacks), refused.err
    assert a.perilune.json('vm show full')['state'] == 'running' and b.perilune.json('vm show full')['host'] == 'host1'
    a.perilune.cli('vm kill full')
    return lacks


def tcp_both_ways(a, b, guest):
    """Long enough for segmentation: 16 MiB are the same at the other end. From this host, to the other one."""
    a.run(f'head -c 16777216 /dev/urandom > {STATE}/data')
    want = a.run(f'sha256sum {STATE}/data').out.split()[0]
    listen(a, 5001, f'< {STATE}/data')
    out = guest.run(f'mkfifo /none; exec 3<> /none; nc {a.networks["lan"]} 5001 <&3 > /data; exec 3<&-; sha256sum /data', 120)
    assert want in out, out
    server = listen(b, 5002, '| sha256sum')
    out = guest.run(f'nc {b.networks["lan"]} 5002 < /data; :', 120)
    assert server.expect(r'([0-9a-f]{64})', 60)[1].decode() == want, out


def vlan(a, guest, tap):
    """VLAN 7 alone, untagged: another port of that VLAN hears the second card."""
    vlans = a.run(f'bridge vlan show dev {tap}').out
    assert '7 PVID Egress Untagged' in vlans and ' 1 ' not in vlans, vlans
    a.run('modprobe veth && ip link add v0 type veth peer name v1 && ip link set v0 master br0 up && bridge vlan del dev v0 vid 1 && '
          'bridge vlan add dev v0 vid 7 pvid untagged && ip addr add 10.78.0.1/24 dev v1 && ip link set v1 up')
    out = guest.run('ifconfig eth1 10.78.0.2 netmask 255.255.255.0 up; ping -c 2 -W 5 10.78.0.1')
    assert ' 0% packet loss' in out, out


def moves(lab, a, b, guest, ip):
    """There and back, while somebody pings it and it talks to host2."""
    server = listen(b, 5003)
    out = guest.run(f'(n=0; while :; do n=$((n + 1)); echo tick $n; sleep 0.1; done | nc {b.networks["lan"]} 5003) & sleep 1', 30)
    server.expect('tick 3', 30)
    for source, target in ((a, b), (b, a)):
        pinger = Pinger(lab, ip)
        source.perilune.cli(f'vm migrate web --to {target.name} --max-downtime 5000', timeout=240)
        pinger.stop()
        lab.talk(f'{source.name} to {target.name}: {pinger.sent} pings, {pinger.lost} lost, longest gap {pinger.longest} ms')
        assert pinger.lost == 0 and pinger.sent > 20, (pinger.sent, pinger.lost, pinger.longest)
        assert target.perilune.json('vm show web')['nets'][0]['state'] == 'connected'
        assert not source.run('ls /sys/class/net | grep plnet || true').out
    told = max(int(n) for n in re.findall(r'tick (\d+)\n', server.out))
    server.expect(rf'tick {told + 20}\n', 60)
    numbers = [int(n) for n in re.findall(r'tick (\d+)\n', server.out)]
    assert numbers == list(range(1, len(numbers) + 1)), out


def test_tcp_queues_vlan_and_moves_without_a_lost_ping(lab):
    a, b = prepared(lab)
    lacks = refused_by_an_unlike_host(a, b)
    create(a.perilune, 'web', '--cpu baseline=x86-64-v2 --cpus 2 --net bridge=br0,queues=2 --net bridge=br0,vlan=7')
    guest, ip = Guest(a, 'web'), address(1)
    out = guest.run(f'ifconfig eth0 {ip} netmask 255.255.255.0 up; ls -d /sys/class/net/eth0/queues/rx-*; '
                    'ls -d /sys/class/net/eth1/queues/rx-*; cat /sys/class/net/eth0/mtu; grep -m1 ^flags /proc/cpuinfo')
    assert 'rx-1' in out and out.count('rx-') == 3 and '1500' in out, out
    assert 'sse4_2' in out.split() and not set(lacks) & set(out.split()), out
    nets = a.perilune.json('vm show web')['nets']
    assert [n['state'] for n in nets] == ['connected'] * 2
    assert a.run('busybox ps | grep -c "[v]host-"').out.split() == ['3']     # the kernel serves each pair

    tcp_both_ways(a, b, guest)
    vlan(a, guest, nets[1]['device'])
    moves(lab, a, b, guest, ip)
    a.perilune.cli('vm kill web')
