# SPDX-License-Identifier: Apache-2.0
"""One lab: its network, its SAN and hosts, their logs, and the end of all that, whatever happened."""
import fcntl, json, os, shutil, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from proc import Others
from . import accel, cache
from .guest import Guest
from .host import Host, HostSpec
from .installed import Installed
from .image import Images, TOP, built_programs
from .kernel import Kernel
from .network import Network
from .san import Lun, San

BOOT_EXPECTED = 6.0  # seconds to boot that time-outs were written for; slower machines stretch them
PATIENCE = 2.0       # at least, for what else a machine may begin to do meanwhile


class Lab:
    """luns: what the SAN offers (none: no SAN). hosts: how many, or a HostSpec each. guest: attach the guest's
    files. installed: a Debian with its own GRUB, too, in /srv/installed. programs: {path in the machine: file}, beside what build/bin holds."""

    def __init__(self, name='lab', hosts=2, luns=(Lun(),), guest=True, programs=None, installed=False):
        self.name, self.born = name, time.monotonic()
        self.specs = [HostSpec() for _ in range(hosts)] if isinstance(hosts, int) else list(hosts)
        self.lun_specs, self.want_guest, self.programs = list(luns), guest, programs or {}
        self.want_installed = installed
        self.machines, self.hosts, self.san, self.network, self.dir = [], [], None, None, None
        self.slowness, self.scale = 1.0, PATIENCE

    # --- coming up and going down ---

    def up(self):
        """Brings everything up. A Lun's content may be 'guest': the guest's disk."""
        _sweep()
        self.prepare()
        self._directories()
        try:
            self._machines()
        except BaseException:
            self.down()
            raise
        return self

    def prepare(self):
        """Downloads, builds and probes what the cache has not."""
        self.kernel = Kernel()
        self.images = Images(self.kernel)
        self.guest = Guest(self.kernel) if self.want_guest else None
        self.installed = Installed(self.kernel) if self.want_installed else None
        for lun in self.lun_specs:
            if lun.content == 'guest':
                lun.content = self.guest.disk
        self.accel = accel.choose(self.kernel)
        return self

    def _directories(self):
        self.dir = Path(tempfile.mkdtemp(prefix=f'perilune-lab-{self.name}-'))
        self._alive = open(self.dir / 'alive', 'w')
        fcntl.flock(self._alive, fcntl.LOCK_EX)
        logs = TOP / os.environ.get('BUILD', 'build') / 'lab'
        logs.mkdir(parents=True, exist_ok=True)
        for old in logs.glob(f'{self.name}.*'):
            pid = old.name.rsplit('.', 1)[1]
            if not os.path.exists(f'/proc/{pid}'):
                shutil.rmtree(old, ignore_errors=True)
        self.logs = logs / f'{self.name}.{os.getpid()}'
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir()

    def _machines(self):
        self.network = Network()
        self.initrd = self.dir / 'initrd'
        self.images.initrd(self.initrd, {**built_programs(), **self.programs})
        if self.lun_specs:
            self.san = San(self, self.lun_specs)
            self.machines.append(self.san)
        for i, spec in enumerate(self.specs):
            self.hosts.append(Host(self, i + 1, spec))
            self.machines.append(self.hosts[-1])
        for machine in self.machines:
            machine.start()
        with ThreadPoolExecutor(len(self.machines) or 1) as pool:
            times = list(pool.map(lambda m: m.wait_up(), self.machines))
        self.slowness = max([1.0, *(t / BOOT_EXPECTED for t in times)])
        self.scale = max(PATIENCE, self.slowness)
        self.talk(f'{len(self.machines)} machines up after {time.monotonic() - self.born:.1f} s '
                  f'({self.accel.name}, slowest boot {max(times, default=0):.1f} s, logs in {self.logs})')

    def down(self):
        """Ends everything. What must survive is in logs."""
        for machine in self.machines:
            machine.kill()
        if self.network:
            self.network.close()
            self.network = None
        if self.dir:
            shutil.rmtree(self.dir, ignore_errors=True)
            self._alive.close()
            self.dir = None

    def release(self):
        """Lets go of the agents, so that other processes can attach (`lab exec`); writes what they need."""
        for machine in self.machines:
            machine.channel.close()
            machine.channel = None
        (self.dir / 'info.json').write_text(json.dumps({
            'name': self.name, 'pid': os.getpid(), 'logs': str(self.logs),
            'luns': [self.san.url(n) for n in range(len(self.lun_specs))] if self.san else [],
            'machines': {m.name: m.networks for m in self.machines}}))

    def __enter__(self):
        return self.up()

    def __exit__(self, *_):
        self.down()

    # --- for machines and scenarios ---

    def talk(self, text):
        print(f'lab: {self.name}: {text}', file=sys.stderr, flush=True)

    def kernel_has(self, modules):
        return [m for m in modules if self.kernel.closure([m])]

    def blank_disk(self, name, size):
        """A fresh ext4 disk for a machine; its path."""
        made = cache.entry(f'blank{size}', '1', lambda work: cache.tool(
            ['mke2fs', '-q', '-t', 'ext4', '-E', 'lazy_itable_init=0,lazy_journal_init=0', str(work / 'disk'), size]))
        path = self.dir / f'{name}.raw'
        cache.tool(['cp', '--sparse=always', str(made / 'disk'), str(path)])
        return path

    def others(self):
        """The CPU time of others than this lab's machines, from now on: see tests/lib/proc.py."""
        return Others(*(machine.process.pid for machine in self.machines if machine.running))

    def native(self, cmd, **kw):
        """Starts a program of the bare machine inside the lab's network (a Popen): it reaches the SAN as a host
        does, at native speed. It is killed when we die."""
        return self.network.popen(cmd, **kw)


def running():
    """{name: what release() wrote} of the labs that are up on this machine; 'dir' is where their sockets are."""
    found = {}
    for path in sorted(Path(tempfile.gettempdir()).glob('perilune-lab-*/info.json')):
        info = json.loads(path.read_text())
        if os.path.exists(f'/proc/{info["pid"]}'):
            found[info['name']] = {**info, 'dir': str(path.parent)}
    return found


def _sweep():
    """Directories of labs that were killed: nobody holds their lock any more."""
    for path in Path(tempfile.gettempdir()).glob('perilune-lab-*'):
        try:
            with open(path / 'alive') as f:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            if time.time() - path.stat().st_mtime < 60:
                continue  # just being made
        except OSError:
            continue
        shutil.rmtree(path, ignore_errors=True)
