# SPDX-License-Identifier: Apache-2.0
"""A machine of the lab: a QEMU process with the agent's channel, a monitor and its serial log."""
import itertools, os, subprocess, threading, time
from pathlib import Path
from .cache import LabError
from .channel import Channel, LabTimeout, RunFailed
from .network import NETWORKS
from .qmp import Qmp

APPEND = 'console=ttyS0 panic=-1 mitigations=off quiet clocksource=tsc tsc=reliable no_timer_check'


class Disk:
    """A disk of a machine, found in it as /dev/lab/SERIAL."""

    def __init__(self, serial, path, readonly=False, block_size=512):
        self.serial, self.path, self.readonly, self.block_size = serial, Path(path), readonly, block_size

    def words(self):
        """cache=unsafe: a flush ends in the page cache below, which outlives the machine's QEMU. What a power cut must
        not lose is lost by no kill(), and the machine's time does not hang on how busy the disk below is."""
        node = f'{self.serial}-f'
        ro = ',read-only=on' if self.readonly else ',discard=unmap'
        return ['-drive', f'file={self.path},format=raw,if=none,id={node},aio=threads,cache=unsafe{ro}',
                '-device', f'virtio-blk-pci,id={self.serial},drive={node},serial={self.serial},num-queues=2,'
                           f'logical_block_size={self.block_size},physical_block_size={max(4096, self.block_size)}']


class Machine:
    """Knows nothing of what runs inside; see san.py and host.py."""

    def __init__(self, lab, name, number, memory, cpus, disks, networks=tuple(NETWORKS), cpu_flags='', modules=()):
        self.lab, self.name, self.number = lab, name, number
        self.memory, self.cpus, self.cpu_flags, self.modules = memory, cpus, cpu_flags, list(modules)
        self.disks = [Disk('root', lab.images.root, readonly=True), *disks]
        self.networks = {n: f'{NETWORKS[n]}.{number}' for n in networks}
        self.dir = lab.dir / name
        self.dir.mkdir()
        self.process = self.channel = self.qmp = None
        self.console_log = lab.logs / f'{name}.console'
        self._log_lock = threading.Lock()
        self._starts = itertools.count(1)
        for net in self.networks:
            lab.network.tap(self._tap(net), net)

    def _tap(self, net):
        return f'{self.name}-{net}'

    def _mac(self, net):
        return f'52:54:00:77:{list(NETWORKS).index(net):02x}:{self.number:02x}'

    # --- power ---

    def start(self):
        """Powers it on; wait_up() says when it can be used."""
        start = next(self._starts)
        for name in ('agent', 'qmp', 'serial'):
            (self.dir / name).unlink(missing_ok=True)
        with open(self.lab.logs / f'{self.name}.qemu', 'ab') as log:
            self.process = self.lab.network.popen(self._words(start), stdout=log, stderr=log)
        self.started = time.monotonic()

    def _words(self, start):
        nets = ','.join(f'{n}/{self._mac(n)}/{a}' for n, a in self.networks.items())
        spare = self.lab.accel.spare_cpus(self.cpus)
        append = f'{APPEND}{" isolcpus=0" if spare else ""} lab.name={self.name} lab.net={nets} lab.mods={",".join(self.lab.kernel_has(self.modules))}'
        log = self.console_log if start == 1 else f'{self.console_log}.{start}'
        words = ['qemu-system-x86_64', '-name', f'{self.lab.name}-{self.name}', '-nodefaults', '-no-user-config',
                 '-display', 'none', '-no-reboot', '-d', 'cpu_reset', '-machine', 'q35,hpet=off', *self.lab.accel.words(self.cpu_flags),
                 '-smp', self.cpus + spare, '-m', self.memory,
                 '-kernel', self.lab.kernel.vmlinuz, '-initrd', self.lab.initrd, '-append', append,
                 '-qmp', f'unix:{self.dir}/qmp,server=on,wait=off',
                 '-chardev', f'socket,id=serial,path={self.dir}/serial,server=on,wait=off,logfile={log}',
                 '-serial', 'chardev:serial',
                 '-device', 'virtio-serial-pci', '-chardev', f'socket,id=agent,path={self.dir}/agent,server=on,wait=off',
                 '-device', 'virtserialport,chardev=agent,name=agent', '-device', 'virtio-rng-pci']
        for net in self.networks:
            words += ['-netdev', f'tap,id={net}-n,ifname={self._tap(net)},script=no,downscript=no',
                      '-device', f'virtio-net-pci,id={net},netdev={net}-n,mac={self._mac(net)},romfile=']
        for disk in self.disks:
            words += disk.words()
        return words

    def wait_up(self, timeout=90):
        """Waits for the agent; the seconds since power-on. One that does not come up is switched off and on again,
        once: QEMU's emulation of several processors stops for ever in a boot now and then."""
        try:
            return self._wait_up(timeout)
        except LabTimeout as e:
            self.lab.talk(f'{e}\n{self.name}: switched off and on again')
            self.kill()
            self.start()
            return self._wait_up(timeout)

    def _wait_up(self, timeout):
        end = self.started + timeout
        while not self.channel:
            try:
                self.channel = Channel(self.name, self.dir / 'agent', self._log, self._why_gone)
            except (FileNotFoundError, ConnectionRefusedError):
                self._alive(end)
                time.sleep(0.02)
        while not self.channel.hello(0.5):
            self._alive(end)
        self.boot_seconds = time.monotonic() - self.started
        self.qmp = Qmp(self.name, self.dir / 'qmp')
        return self.boot_seconds

    def _alive(self, end):
        if self.process.poll() is not None:
            raise LabError(f'{self.name}: QEMU ended with {self.process.returncode}; see {self.lab.logs}/{self.name}.qemu')
        if time.monotonic() > end:
            raise LabTimeout(f'{self.name}: not up; see {self.console_log}:\n{self._tail()}')

    def _why_gone(self):
        """Of a machine whose channel ended: QEMU's end, and what the machine said last."""
        process = self.process
        try:
            code = process.wait(5)
        except subprocess.TimeoutExpired:
            code = 'not ended'
        said = (self.lab.logs / f'{self.name}.qemu').read_text(errors='replace')
        fault = said.rfind('Triple fault')  # QEMU's -d cpu_reset
        return (f'its QEMU: {code}; {said[fault:fault + 1500] if fault >= 0 else said[-500:]}\nits console: '
                f'{self._tail()}')

    def _tail(self):
        try:
            return self.console_log.read_text(errors='replace')[-1500:]
        except OSError:
            return ''

    @property
    def running(self):
        return bool(self.process) and self.process.poll() is None

    def kill(self):
        """The power cord: its QEMU gets SIGKILL. start() powers it on again; its disks keep what was written."""
        if self.process:
            self.process.kill()
            self.process.wait()
        self._forget()

    def _forget(self):
        for x in (self.channel, self.qmp):
            if x:
                x.close()
        self.channel = self.qmp = None

    def reboot(self):
        self.kill()
        self.start()
        self.wait_up()

    def freeze(self):
        """It stands still, its clock too, and knows nothing of it; wake() lets it go on."""
        self.qmp.ask('stop')

    def wake(self):
        self.qmp.ask('cont')

    # --- network ---

    def link(self, net, up):
        """The cable: the machine sees its carrier go and come."""
        self.qmp.ask('set_link', name=net, up=up)

    def silence(self, net, on=True):
        """Packets vanish both ways while the carrier stays: nastier than a pulled cable."""
        self.lab.network.silence(self._tap(net), net, on)

    def throttle(self, serial, iops=0, bps=0):
        """Slows one of its disks down; 0 takes a limit away."""
        self.qmp.ask('block_set_io_throttle', id=f'/machine/peripheral/{serial}/virtio-backend', bps=bps, bps_rd=0,
                     bps_wr=0, iops=iops, iops_rd=0, iops_wr=0)

    # --- commands ---

    def spawn(self, command, pty=False):
        """Starts a shell command; a Run, whose output grows while it runs."""
        if not self.channel:
            raise LabError(f'{self.name}: is not up')
        return self.channel.start(command, pty)

    def run(self, command, timeout=60, check=True, stdin=None):
        """Runs a shell command to its end: a Run with code, out, err. With check, RunFailed unless it exits 0. When
        the time is over it is killed and LabTimeout raised. timeout is stretched on slow machines."""
        run = self.spawn(command)
        if stdin is not None:
            run.write(stdin)
        run.eof()
        try:
            run.wait(timeout * self.lab.scale)
        except LabTimeout:
            run.kill()
            raise
        if check and run.code:
            raise RunFailed(f'{self.name}: {command}: exit {run.code}\n{run.out[-3000:]}{run.err[-3000:]}')
        return run

    def put(self, src, dest, mode=None):
        """Copies a file in (bytes or a path of the bare machine)."""
        data = src if isinstance(src, bytes) else Path(src).read_bytes()
        if mode is None:
            mode = 0o644 if isinstance(src, bytes) else os.stat(src).st_mode & 0o777
        self.run(f'cat > {dest}.new && chmod {mode:o} {dest}.new && mv {dest}.new {dest}', 120, stdin=data)

    def get(self, src, dest=None):
        """Copies a file out; its bytes when no dest is given."""
        data = bytes(self.run(f'cat {src}', 120)._out)
        if dest:
            Path(dest).write_bytes(data)
        return data

    def _log(self, run):
        with self._log_lock, open(self.lab.logs / f'{self.name}.commands', 'a') as f:
            f.write(f'[{time.monotonic() - self.lab.born:8.2f}] {run.command}\n    exit {run.code}\n')
            for text in (run.out, run.err):
                f.write(''.join(f'    {line}\n' for line in text[-4000:].splitlines()))
