# SPDX-License-Identifier: Apache-2.0
"""A stock Linux guest that counts on its disk is moved between two hosts on an iSCSI LUN; at each named step of the move
something dies: a daemon, a monitor, a whole machine, the cable. Afterwards the VM runs on exactly one host, or is stopped
and can be started; the guest has met no error, finds each number that it was told to be on the disk, and the volume is
whole. tests/hosts/test_migrate_kills.py does it with each of them at each step."""
import re, sys, time
from pathlib import Path

import pytest
from perilab import HostSpec, Lab, Lun

sys.path.append(str(Path(__file__).resolve().parents[1] / 'bench'))
from labs import APPEND, NESTED, STATE, guest_program, initramfs  # noqa: E402

pytestmark = pytest.mark.slow
STEPS = f'{STATE}/steps'
MODULES = ['irqbypass', 'ccp', 'kvm', 'kvm-amd', 'kvm-intel']  # of a guest that has guests
KILLS = [  # where the host of that side stops, and who dies then
    ('source.begun', 'target-daemon'),
    ('target.asked', 'link'),
    ('target.configured', 'target-machine'),
    ('source.round', 'source-vmm'),
    ('source.paused', 'link'),
    ('source.drained', 'source-machine'),
    ('source.saved', 'target-vmm'),
    ('target.state', 'source-daemon'),
    ('target.loaded', 'target-daemon'),
    ('source.loaded', 'target-machine'),
    ('source.offered', 'source-machine'),
    ('target.called', 'target-vmm'),
    ('target.accepted', 'source-daemon'),
    ('target.disks', 'target-daemon'),
    ('source.told', 'link'),
    ('target.resumed', 'source-machine'),
    ('source.moved', 'source-daemon'),
]
OFFERED = [step for step, _ in KILLS].index('source.offered')  # from here on the VM may be the target's
INIT = '''#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_scsi sd_mod
while [ ! -b /dev/sda ]; do sleep 0.05; done
there() { dd if=/dev/sda bs=4096 count=1 iflag=direct 2>/dev/null | tr -cd 0-9; }
n=$(there); n=$((n + 0))
echo "found $n"
while :; do
	n=$((n + 1))
	printf '%-4096d' $n | dd of=/dev/sda bs=4096 iflag=fullblock oflag=direct conv=notrunc,fsync 2>/dev/null || echo "FAILED $n"
	[ "$(there)" = $n ] || echo "WRONG $n: $(there)"
	echo "n $n"
done
'''


def until(what, fn, seconds):
    end = time.monotonic() + seconds
    while not (said := fn()):
        assert time.monotonic() < end, f'not within {seconds:.0f} s: {what}'
        time.sleep(0.1)
    return said


class World:
    def __init__(self, lab):
        self.lab, self.hosts = lab, lab.hosts
        self.told = 0  # the highest number that a guest had on the disk
        initrd = initramfs(lab, INIT, ['virtio_pci', 'virtio_scsi', 'sd_mod'])
        for h in self.hosts:
            h.put(initrd, f'{STATE}/counts.cpio')
            h.put(lab.kernel.vmlinuz, f'{STATE}/vmlinuz')
            h.run(f'mkdir {STEPS}; sync')
            h.perilune.start()
        a, b = self.hosts
        a.perilune.cli(f'volume format vol {lab.san.url(0)}')
        for h in self.hosts:
            h.perilune.cli(f'volume mount {lab.san.url(0)}')
        a.perilune.cli('disk create vol:/g.disk --size 64M')
        a.perilune.cli(f'vm create g --volume vol --memory 96M --disk vol:/g.disk --kernel {STATE}/vmlinuz '
                       f'--initrd {STATE}/counts.cpio --append "{APPEND}"', timeout=120)
        self.start(a)
        until('each host sees the other', lambda: all(len([x for x in h.perilune.json('host list') if x['state'] == 'active']) == 2
                                                      for h in self.hosts), self.seconds(30))

    def seconds(self, n):
        return n * self.lab.scale

    def start(self, host):
        """Found on its disk is at least what was told."""
        self.told = max([self.told, *self.boot(host)[1]])

        def once():
            r = host.perilune.cli('vm start g', check=False, timeout=90)
            assert r.code == 0 or 'if that came to nothing, try again' in r.err, f'{host.name}: vm start: {r.code} {r.err}'
            return r.code == 0
        until('the start', once, self.seconds(30))
        told = self.told
        self.count(host)
        found = self.boot(host)[0]
        assert found >= told, f'{host.name}: {found} on the disk, {told} was told to be'

    def boot(self, host):
        """What the guest said on this host since it booted (here, or elsewhere): the number found on its disk, and all told."""
        said = host.perilune.cli('vm console g --log', check=False).out
        assert not re.search('FAILED|WRONG|I/O error', said), said[-3000:]
        at = said.rfind('found ')
        found = re.match(r'found (\d+)\r?\n', said[at:]) if at >= 0 else None
        return found and int(found[1]), [int(n) for n in re.findall(r'^n (\d+)\r?$', said[max(at, 0):], re.M)]

    def count(self, host):
        """The guest counts on this host, from where it was, and never said that anything is wrong."""
        def on():
            numbers = self.boot(host)[1]
            return numbers and numbers[-1] > self.told and numbers[-1]
        self.told = until(f'{host.name}: the guest counts, beyond {self.told}', on, self.seconds(90))

    def settle(self, hosts=None):
        """The one of `hosts` on which it runs, started again if it was stopped."""
        hosts = hosts or self.hosts

        def one():
            said = [h.perilune.json('vm show g') for h in hosts]
            here = [h for h, s in zip(hosts, said) if s['pid'] is not None]
            states = {s['state'] for s in said}
            if len(here) == 1 and states == {'running'} and {s['host'] for s in said} == {here[0].name}:
                return here
            return not here and states <= {'stopped', 'crashed'} and ['none']
        where = until('the VM on one host, or stopped', one, self.seconds(60))[0]
        if where == 'none':
            where = hosts[0]
            self.start(where)
        else:
            self.count(where)
        return where

    def pid(self, host):
        return host.perilune.json('vm show g')['pid']


def kill(world, actor, source, target):
    """Does it; returns what brings things back."""
    host = source if actor.startswith('source') else target
    other = target if host is source else source
    if actor.endswith('daemon'):
        host.perilune.kill()
        return lambda: host.perilune.start(60)
    if actor.endswith('vmm'):
        # a zombie that its daemon, which stands at the step, has not waited for yet is dead, when all its threads are
        host.run('pid=$(busybox pidof perilune-vmm) && kill -9 $pid && '
                 'while cat /proc/$pid/task/*/status 2>/dev/null | grep -q "^State:.[^ZX]"; do sleep 0.02; done')
        return lambda: None
    if actor == 'link':
        target.silence('lan')
        return lambda: target.silence('lan', False)
    host.kill()
    host.start()

    def back():  # not before the other one has come to terms with it
        world.settle([other])
        host.wait_up()
        host.perilune.start(60)
    return back


def one_case(world, step, actor):
    source = world.settle()
    target = next(h for h in world.hosts if h is not source)
    at, pid = source if step.startswith('source') else target, world.pid(source)
    at.run(f'touch {STEPS}/{step}')
    move = source.spawn(f'PERILUNE_CONNECT={STATE} exec perilune vm migrate g --to {target.name} --verify')
    until(f'{step} is reached: {move.out}{move.err}', lambda: move.code is not None or
          at.run(f'[ -e {STEPS}/{step}.reached ]', check=False).code == 0, world.seconds(60))
    assert move.code is None, f'{move.code}: {move.out}{move.err}'
    world.told = max([world.told, *world.boot(source)[1]])
    back = kill(world, actor, source, target)
    if at.channel:  # not of a machine that was killed
        at.run(f'rm -f {STEPS}/*')
    if actor == 'link':
        move.wait(world.seconds(60))
    back()
    if actor != 'source-machine':
        move.wait(world.seconds(60))
    for h in world.hosts:
        h.run(f'rm -f {STEPS}/*')
    where = world.settle()
    if [s for s, _ in KILLS].index(step) < OFFERED and actor not in ('source-vmm', 'source-machine'):
        assert where is source and world.pid(source) == pid, f'{where.name}: {move.out}{move.err}'
    return where


@pytest.fixture(scope='module')
def lab():
    with Lab('kills', hosts=[HostSpec(), HostSpec()], luns=[Lun('1G')], guest=False) as up:
        yield up


@pytest.fixture(scope='module')
def world(lab):
    return World(lab)


def test_a_guest_that_has_a_guest(lab, world):
    """Neither moved nor saved, with the reason, for as long as it has one; nothing has happened to it."""
    a, b = (h.perilune for h in world.hosts)
    world.hosts[0].put(initramfs(lab, NESTED.replace('nested\n', 'nested 30; echo it is gone\n'), MODULES, {'bin/nested': guest_program('nested')}),
                       f'{STATE}/nested.cpio')
    a.cli(f'vm create nested --volume vol --memory 192M --nested on --kernel {STATE}/vmlinuz --initrd {STATE}/nested.cpio '
          f'--append "{APPEND}"', timeout=120)
    a.cli('vm start nested')
    until('a guest in the guest', lambda: 'guest in guest: 42' in a.cli('vm console nested --log').out, world.seconds(90))
    for words in ('vm migrate nested --to host2', 'vm migrate nested --to host2 --quick', 'vm save nested'):
        said = a.cli(words, check=False)
        assert said.code and 'guest' in said.err and 'of its own' in said.err, said.err
        assert a.json('vm show nested')['state'] == 'running'
    until('its end', lambda: 'it is gone' in a.cli('vm console nested --log').out, world.seconds(90))
    a.cli('vm migrate nested --to host2', timeout=120)
    assert b.json('vm show nested')['host'] == 'host2'
    b.cli('vm kill nested')


def test_somebody_dies(lab, world):
    for step, actor in KILLS:
        began = time.monotonic()
        where = one_case(world, step, actor)
        lab.talk(f'{step}, {actor}: on {where.name} after {time.monotonic() - began:.1f} s, {world.told} numbers')
    where = world.settle()
    where.perilune.cli('vm kill g')
    for h in world.hosts:
        h.perilune.cli('volume unmount vol')
    world.hosts[0].perilune.cli(f'volume check {lab.san.url(0)}', timeout=120)
