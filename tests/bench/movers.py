# SPDX-License-Identifier: Apache-2.0
"""A guest that moves to and fro, for the rows of migration: between two daemons in one machine of the lab, or its two
hosts; and QEMU's, between two processes of it in the same machine, over TLS with a pre-shared key, as ours goes."""
import itertools, json, re, shlex, sys, time

from benchlib import alternate
from labs import APPEND, NET, STATE, guest_program, initramfs, lab, qemu

MIG = f'{STATE}/moves.lun'
MODULES = ['virtio_pci', 'virtio_net', 'virtio_scsi', 'sd_mod']
# Idle, until the kernel's command line says "busy": then it writes to its first disk, one block after the other. With a
# card it has the address of the card's last byte, and beats.c waits there for what it is to do.
INIT = '''#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_net virtio_scsi sd_mod
n=0; while [ ! -b /dev/sda ] && [ $n -lt 200 ]; do n=$((n + 1)); sleep 0.05; done
card=/sys/class/net/eth0/address
[ -e $card ] && { mac=$(cat $card); ifconfig eth0 %s.$((0x${mac##*:})) netmask 255.255.255.0 up; beats /dev/sda & }
echo bench-moves
grep -q busy /proc/cmdline && while :; do dd if=/dev/urandom of=/dev/sda bs=4k count=2048 oflag=direct 2> /dev/null; done
while :; do sleep 1000; done
''' % NET


class Daemon:
    """One of two in the same machine: a state, a name, a port of its own."""

    def __init__(self, machine, name, port):
        self.machine, self.name, self.state = machine, name, f'{STATE}/{name}'
        machine.run(f'mkdir -p {self.state}')
        self.run = machine.spawn(f'exec perilund --state {self.state} --name {name} --listen 127.0.0.1:{port}')
        end = time.monotonic() + 30 * machine.lab.scale
        while self.cli('host show', check=False).code:
            if time.monotonic() > end:
                raise RuntimeError(f'{name}: does not answer: {self.run.out}{self.run.err}')
            time.sleep(0.1)

    def cli(self, words, check=True, timeout=120):
        return self.machine.run(f'PERILUNE_CONNECT={self.state} perilune --yes {words}', timeout=timeout, check=check)

    def json(self, words, timeout=120):
        return json.loads(self.cli(f'--json {words}', timeout=timeout).out)

    def kill(self):
        self.run.kill()
        self.run.wait(20)


def two_daemons():
    """In one machine, on one file as the LUN."""
    a = lab('host').hosts[0]
    a.run(f'rm -rf {STATE}/ha {STATE}/hb {MIG}; truncate -s 1G {MIG}')
    daemons = [Daemon(a, 'ha', 7711), Daemon(a, 'hb', 7712)]
    daemons[0].cli(f'volume format vol {MIG}')
    for d in daemons:
        d.cli(f'volume mount {MIG}')
    know_each_other(daemons)
    return a, daemons


def know_each_other(daemons):
    """A host that was seen in the beats has an address."""
    for d, other in (daemons, daemons[::-1]):
        for _ in range(200):
            if any(h['name'] == other.name and h.get('connection') != 'none' for h in d.json('host list')):
                break
            time.sleep(0.2)


def start_vm(a, machine, name, memory, disks=1, words='', net=''):
    """A VM `name` on volume vol, started by daemon `a`; returns when its guest is up. `words` for its kernel."""
    machine.put(initramfs(machine.lab, INIT, MODULES, {'bin/beats': guest_program('beats')}), f'{STATE}/moves.cpio')
    machine.put(machine.lab.kernel.vmlinuz, f'{STATE}/vmlinuz')
    paths = [f'vol:/{name}{i}' for i in range(disks)]
    for path in paths:
        a.cli(f'disk create {path} --size 16M')
    a.cli(f'vm create {name} --volume vol --memory {memory} --cpus 1 --kernel {STATE}/vmlinuz --initrd {STATE}/moves.cpio '
          f'--append {shlex.quote(f"{APPEND} {words}")} ' + ' '.join([net, *(f'--disk {path}' for path in paths)]))
    a.cli(f'vm start {name}')
    end = time.monotonic() + 90 * machine.lab.scale
    while 'bench-moves' not in a.cli(f'vm console {name} --log').out:
        if time.monotonic() > end:
            raise RuntimeError(f'the guest of {name} does not come up: {a.cli(f"vm console {name} --log").out[-500:]}')
        time.sleep(0.3)


class Moves:
    """Of a VM that runs on the first of `daemons`: each call moves it to the other and returns what was reported, with
    `wall_ms` as seen from outside."""

    def __init__(self, daemons, name, words=''):
        self.ways, self.name, self.words = itertools.cycle([daemons, daemons[::-1]]), name, words

    def __call__(self):
        a, b = next(self.ways)
        for last in (False, False, True):
            start = time.monotonic()
            moved = a.cli(f'--json vm migrate {self.name} --to {b.name} {self.words}', check=last, timeout=240)
            took = time.monotonic() - start
            if moved.code == 0:
                return {**json.loads(moved.out), 'wall_ms': took * 1000}
            print(f'moving {self.name} once more: {moved.err}', file=sys.stderr)
            time.sleep(2)  # a machine that is busy with other things: the guest stayed where it was


class QemuMoves:
    """The same guest under QEMU."""
    PSK = '/run/psk'

    def __init__(self, machine, memory, append='', extra='', words=()):
        self.machine, self.memory, self.append, self.extra, self.words = machine, memory, append, extra, words
        self.ports, self.count = itertools.cycle(range(4500, 4600)), itertools.count(1)
        machine.run(f'mkdir -p {self.PSK} && echo qemu:{"5a" * 32} > {self.PSK}/keys.psk && truncate -s 16M {STATE}/moves.raw')
        self.now, serial = self.launch('')
        self.machine.run(f'n=0; until grep -q bench-moves {serial}; do sleep 0.2; n=$((n + 1)); [ $n -lt 600 ] || exit 1; done', timeout=180)

    def launch(self, incoming):
        n = next(self.count)
        serial = f'/run/qemu{n}.serial'
        creds = (f'-object tls-creds-psk,id=client,dir={self.PSK},endpoint=client,username=qemu '
                 f'-object tls-creds-psk,id=server,dir={self.PSK},endpoint=server')
        run = self.machine.spawn('exec ' + qemu(f'{STATE}/vmlinuz', f'{STATE}/moves.cpio', f'{STATE}/moves.raw', memory=self.memory,
                                                serial=f'-serial file:{serial} -monitor stdio', append=self.append,
                                                extra=f'{creds} {self.extra.format(n=n)} {incoming}'))
        run.at = 0
        self.prompt(run, 60)
        return run, serial

    def prompt(self, run, timeout):
        m = run.expect(r'\(qemu\) $', timeout * self.machine.lab.scale, run.at)
        said = bytes(run._out[run.at:m.end()]).decode(errors='replace')
        run.at = m.end()
        return said

    def tell(self, run, line, timeout=30):
        run.at = len(run._out)
        run.write(line + '\n')
        return self.prompt(run, timeout)

    def __call__(self):
        port = next(self.ports)
        to, _ = self.launch('-incoming defer')
        self.tell(to, 'migrate_set_parameter tls-creds server')
        self.tell(to, f'migrate_incoming tcp:127.0.0.1:{port}')
        for line in ('migrate_set_parameter tls-creds client', 'migrate_set_parameter max-bandwidth 10000000000', *self.words):
            self.tell(self.now, line)
        start = time.monotonic()
        self.tell(self.now, f'migrate tcp:127.0.0.1:{port}', 240)
        wall = (time.monotonic() - start) * 1000
        said = self.tell(self.now, 'info migrate')
        if 'status: completed' not in said:
            raise RuntimeError(f'QEMU did not move: {said}')
        self.now.write('quit\n')
        self.now.wait(30 * self.machine.lab.scale)
        self.now = to
        number = lambda what: int(re.search(rf'{what}: (\d+)', said)[1])
        return {'wall_ms': wall, 'total_ms': number('total time'), 'downtime_ms': number('downtime'),
                'sent': number('transferred ram') * 1024}

    def close(self):
        self.now.kill()
        self.now.wait(20)


def both(ours, theirs, what, runs=None):
    """Pairs of one figure of each side, in turns."""
    return alternate(lambda: ours()[what], lambda: theirs()[what], runs)
