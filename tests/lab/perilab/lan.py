# SPDX-License-Identifier: Apache-2.0
"""VMs in the lab's network: a bridge "br0" in each host, whose uplink is the host's card in `lan`; from the bare machine,
pings each 10 ms to a VM, at native speed."""
import os, subprocess
from .cache import LabError
from .network import NETWORKS

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
PINGER = os.path.join(TOP, os.environ.get('BUILD', 'build'), 'tests/hosts/pinger')

# In a guest with nothing but perl: its first card gets an address. $1: the address
SET_ADDRESS = r'''
my @ip = split /\./, $ARGV[0];
my ($card) = grep { $_ ne "lo" } map { s{.*/}{}r } glob("/sys/class/net/*");
socket(my $s, 2, 2, 0) or die $!;
sub set { ioctl($s, $_[0], pack("a16", $card) . $_[1]) or die "$card: $!\n" }
set(0x8916, pack("S n C4 x8", 2, 0, @ip));               # SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS: up
set(0x891c, pack("S n C4 x8", 2, 0, 255, 255, 255, 0));
set(0x8914, pack("S x14", 0x1043));
print "$card is up\n";
'''


def bridge(host):
    address = host.networks['lan']
    host.run('ip link show br0 > /dev/null 2>&1 || { ip link add br0 type bridge stp_state 0 forward_delay 0 && '
             f'ip addr del {address}/24 dev lan && ip link set lan master br0 && ip addr add {address}/24 dev br0 && ip link set br0 up; }}')


def address(number):
    """Of a VM."""
    return f'{NETWORKS["lan"]}.{100 + number}'


class Pinger:
    """Pings until stop(): sent, lost, longest (ms between two answers)."""

    def __init__(self, lab, to, interval=10, wait=8000):
        self.to, self.proc = to, lab.native([PINGER, to, interval, wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.proc.stdout.readline() != 'first\n':
            raise LabError(f'{to} answers no ping')

    def stop(self):
        out, _ = self.proc.communicate('\n', timeout=60)
        words = out.split()
        self.sent, self.lost, self.longest = (int(words[words.index(w) + 1]) for w in ('sent', 'lost', 'longest'))
        return self
