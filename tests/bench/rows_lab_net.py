# SPDX-License-Identifier: Apache-2.0
"""A guest's network: iperf3 from a guest to its host, our virtio-net against QEMU's on a tap in the same bridge of the same
machine, the kernel's vhost serving both, or neither."""
from benchlib import SECONDS, by_turns, row
from labs import APPEND, INIT, NET, STATE, bridged, initramfs, once, our_net, program, qemu, qemu_net
from rows_lab_vm import Guest, host

NET_INIT = (INIT.replace('virtio_scsi sd_mod', 'virtio_net').replace('! -b /dev/sda', '! -e /sys/class/net/eth0')
            .replace('stty', 'mkdir /tmp; stty'))


class NetGuest(Guest):
    def __init__(self, run, number):
        run.write('\n')
        super().__init__(run)
        self.run.write(f'ifconfig eth0 {NET}.{number} netmask 255.255.255.0 up\n')
        self.expect('bench-ready', 20)

    def mbit(self):
        self.run.write(f'iperf3 -c {NET}.1 -t {SECONDS:g} -i 0 -f k | grep -E "receiver|error"\n')
        m = self.expect(r'([\d.]+) Kbits/sec +receiver|error(.*)\n', 60 + SECONDS)
        if not m[1]:
            raise RuntimeError(f'iperf3: {m[2].decode()}')
        self.expect('bench-ready', 60)
        return float(m[1]) / 1000


@once
def server():
    """The machine, which takes what comes."""
    a = host()
    bridged(a)
    a.put(initramfs(a.lab, NET_INIT, ['virtio_pci', 'virtio_net'], program('iperf3')), f'{STATE}/net.cpio')
    a.spawn('exec iperf3 -s --forceflush').expect('listening', 30)
    return a


def tcp(vhost, number):
    """`vhost`: on or off, on both sides; the guests' addresses end in `number` and the one behind it."""
    a, name = server(), f'net-{vhost}'
    a.perilune.cli(f'vm create {name} --volume vol --memory 256M --cpus 1 {our_net(number, f",vhost={vhost}")} '
                   f'--kernel {STATE}/vmlinuz --initrd {STATE}/net.cpio --append "{APPEND}"')
    a.perilune.cli(f'vm start {name}')
    theirs = None
    try:
        ours = NetGuest(a.spawn(f'PERILUNE_CONNECT={STATE} exec perilune vm console {name}'), number)
        theirs = NetGuest(a.spawn('exec ' + qemu(f'{STATE}/vmlinuz', f'{STATE}/net.cpio', f'{STATE}/peer.raw',
                                                 extra=qemu_net(f'q{number}', number + 1, f',vhost={vhost}'))), number + 1)
        return by_turns(ours.mbit, theirs.mbit)
    finally:
        a.perilune.cli(f'vm kill {name}', check=False)
        if theirs:
            theirs.run.kill()
            theirs.run.wait(20)


@row('net-guest-tcp', 'Mbit/s')
def with_vhost():
    return tcp('on', 10)


@row('net-guest-tcp-no-vhost', 'Mbit/s')
def without_vhost():
    return tcp('off', 20)
