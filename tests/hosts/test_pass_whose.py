# SPDX-License-Identifier: Apache-2.0
"""Whose a LUN is that is passed through: a VM's, this host's, a volume's. VMs are stubs; loop devices stand for the
kernel's, a tgt for the array."""
import contextlib, mmap, re, subprocess, time

import pytest
from hostlib import BIN, EXIT, until
from stublib import StubCluster, create, goes_on, show
from targets import Tgt, loop_device


@pytest.fixture
def cluster():
    with StubCluster() as c:
        yield c


@pytest.fixture
def san():
    with Tgt(size='256M', luns=1) as t:
        yield t


@pytest.fixture
def device():
    with loop_device('64M') as dev:
        subprocess.run(['mkfs.ext4', '-q', dev], check=True, timeout=60)
        yield dev


@contextlib.contextmanager
def again(device):
    """Another device of the same file."""
    def out(*words):
        return subprocess.run(['losetup', *words], check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    dev = out('--show', '-f', out('-n', '-O', 'BACK-FILE', device))
    try:
        yield dev
    finally:
        out('-d', dev)


class Mount:
    """The device mounted, or not: `mount()` says whether it could be. In a namespace of its own: tests that run at the
    same time copy what is mounted in this one, and so keep it in use."""

    def __init__(self, device, at):
        self.device, self.at, self.proc = device, at, None
        at.mkdir()

    def __call__(self):
        script = 'mount "$1" "$2" 2>/dev/null || exit 1; echo mounted; read end; umount "$2"'
        self.proc = subprocess.Popen(['unshare', '-m', 'sh', '-c', script, 'sh', self.device, self.at], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE)
        return self.proc.stdout.readline() == b'mounted\n' or self.end()

    def end(self):
        if self.proc:
            self.proc.communicate(timeout=60)
        self.proc = None
        return False


@pytest.fixture
def mount(cluster, device):
    m = Mount(device, cluster.dir / 'mnt')
    yield m
    m.end()


@pytest.fixture
def off(cluster, lun):
    """A host with the VM `g`, which is off."""
    h1 = cluster.host('h1')
    h1.ok('volume', 'format', 'v1', lun)
    h1.ok('volume', 'mount', lun)
    h1.ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
    create(h1)
    return h1


def test_a_device_that_is_mounted(off, device, mount):
    assert mount()
    held = off.fails('busy', 'vm', 'attach', 'g', '--lun', device)
    assert 'this host uses it' in held['message'] and held['holder'] == 'this host', held
    mount.end()
    off.ok('vm', 'attach', 'g', '--lun', device)
    assert mount()
    assert 'this host uses it' in off.fails('busy', 'vm', 'start', 'g')['message']
    mount.end()
    off.ok('vm', 'start', 'g')
    assert not mount()
    # The next daemon takes it again; what was mounted in between keeps its VM waiting.
    off.kill()
    off.start()
    goes_on(off, timeout=60)
    assert not mount()
    off.kill()
    assert mount()
    off.start()
    until(lambda: 'waits for its disks: vm g: LUN ' + device in off.log.read_text(), 40)
    assert show(off)['state'] != 'stopped'
    mount.end()
    goes_on(off, timeout=60)
    assert not mount()
    off.ok('vm', 'detach', 'g', device)
    assert mount()
    mount.end()
    off.ok('vm', 'attach', 'g', '--lun', device, '--shared')
    assert not mount()
    create(off, 'k', disks=())
    assert off.fails('busy', 'vm', 'attach', 'k', '--lun', device)['holder'] == 'vm g'
    off.ok('vm', 'attach', 'k', '--lun', device, '--shared')
    alone = off.fails('busy', 'vm', 'start', 'k')
    assert 'cannot tell two VMs apart' in alone['message'] and alone['holder'] == 'vm g', alone
    off.ok('vm', 'kill', 'g')
    assert mount()


def other_machine(cluster, name):
    """A daemon that takes itself for another machine's."""
    boot = cluster.dir / f'{name}.boot'
    boot.write_text(f'00000000-0000-4000-8000-{len(cluster.hosts):012}\n')
    h = cluster.host(name)
    h.kill()
    h.prefix = ['unshare', '-m', 'sh', '-c', f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"', 'sh', *h.prefix]
    return h.start()


def meet(h1, h2):
    until(lambda: any(h['name'] == h2.name for h in h1.json('host', 'list')))
    until(lambda: any(h['name'] == h1.name for h in h2.json('host', 'list')))


def test_a_device_moves_with_its_vm(cluster, off, lun, device, mount):
    h2, h3 = cluster.host('h2'), other_machine(cluster, 'h3')
    off.ok('vm', 'attach', 'g', '--lun', device)
    for h in (h2, h3):
        h.ok('volume', 'mount', lun)
        meet(off, h)
    off.ok('vm', 'start', 'g')
    for source, target in ((off, h2), (h2, off)):
        source.ok('vm', 'migrate', 'g', '--to', target.name)
        goes_on(target)
        assert not mount()
    # On another machine it is somebody's who uses it there.
    held = off.fails('busy', 'vm', 'migrate', 'g', '--to', 'h3')
    assert 'this host uses it' in held['message'], held
    goes_on(off)
    assert not mount()
    off.ok('vm', 'kill', 'g')


@pytest.fixture
def second(cluster, off):
    """Another volume, v2, with the VM `k`; its LUN."""
    path = cluster.lun('lun1')
    off.ok('volume', 'format', 'v2', path)
    off.ok('volume', 'mount', path)
    off.ok('disk', 'create', 'v2:/k.disk', '--size', '16M')
    create(off, 'k', disks=('v2:/k.disk',), volume='v2')
    return path


def marked(path, text):
    """The blocks that have the text in them, as faults' ranges."""
    with open(path, 'rb') as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as data:
        return {f'{at}-{at + 4096}' for at in (m.start() // 4096 * 4096 for m in re.finditer(re.escape(text.encode()), data))}


def test_who_cannot_be_asked_may_have_it(off, second, device):
    off.ok('vm', 'attach', 'k', '--lun', device)
    off.ok('lun', 'connect', second)
    for text in ('.passthrough', f'"{device}"'):                        # the directory of the VMs; its definition
        off.ok('volume', 'unmount', 'v2')                               # nothing of it is remembered
        blocks = marked(second, text)
        assert blocks, text
        for block in blocks:
            off.ok('fault', 'add', second, '--kind', 'fail', '--op', 'read', '--range', block)
        off.ok('volume', 'mount', 'v2')
        held = off.fails('unreachable', 'vm', 'attach', 'v1:g', '--lun', device)
        assert 'is not known' in held['message'], held
        off.ok('fault', 'clear')
        assert off.fails('busy', 'vm', 'attach', 'g', '--lun', device)['holder'] == 'vm k'


def test_two_attach_it_at_the_same_time(cluster, off, second, device):
    """VMs of two volumes: each looks at both, and none sees an entry that is not there yet."""
    h2 = cluster.host('h2')
    for path in (cluster.dir / 'lun0', second):
        h2.ok('volume', 'mount', path)

    def attach(host, name):
        return subprocess.Popen([BIN / 'perilune', '--connect', host.dir, 'vm', 'attach', name, '--lun', device],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for host in (off, h2):
        (steps := off.dir / 'steps').mkdir(exist_ok=True)
        stop, reached = steps / 'attach.checked', steps / 'attach.checked.reached'
        reached.unlink(missing_ok=True)
        stop.touch()
        first = attach(off, 'g')
        until(reached.exists, what='the first to have looked')
        other = attach(host, 'k')
        time.sleep(1)                                                   # it would have looked, too
        stop.unlink()
        said = [p.communicate(timeout=60)[0] for p in (first, other)]
        assert (first.returncode, other.returncode) == (0, EXIT['busy']), said
        assert 'VM v1:g has it' in said[1], said
        off.ok('vm', 'detach', 'g', device)


def test_two_cannot_share_a_device_on_one_host(cluster, off, lun, device):
    """Two loop devices of one file are one LUN, as two paths are."""
    h2 = cluster.host('h2')
    h2.ok('volume', 'mount', lun)
    meet(off, h2)
    off.ok('disk', 'create', 'v1:/k.disk', '--size', '16M')
    create(off, 'k', disks=('v1:/k.disk',))
    with again(device) as path:
        off.ok('vm', 'attach', 'g', '--lun', device, '--shared')
        off.ok('vm', 'attach', 'k', '--lun', path, '--shared')
        off.ok('vm', 'start', 'g')
        h2.ok('vm', 'start', 'k')
        held = off.fails('busy', 'vm', 'migrate', 'g', '--to', 'h2')
        assert 'cannot tell two VMs apart' in held['message'] and 'VM k' in held['message'], held
        goes_on(off)
        off.ok('vm', 'kill', 'g')
        h2.ok('vm', 'kill', 'k')


def test_an_array_can_show_it_to_its_vm_alone(off, san):
    """By the initiator's name, known before there is a session; whichever host runs the VM."""
    names = [show(off)['initiator']]
    create(off, 'k', disks=())
    names.append(show(off, 'k')['initiator'])
    assert names[0] != names[1] and all(n.startswith('iqn.2026-01.org.perilune:vm.') for n in names), names
    assert names[0] in off.ok('vm', 'show', 'g').out
    for word in (('bind', '--initiator-name', names[0]), ('unbind', '--initiator-address', 'ALL')):
        san.adm('--mode', 'target', '--tid', '1', '--op', *word)
    assert off.run('lun', 'probe', san.url).code != 0
    assert off.run('vm', 'attach', 'k', '--lun', san.url).code != 0
    off.ok('vm', 'attach', 'g', '--lun', san.url)
    off.ok('vm', 'start', 'g')
    assert names[0] in san.adm('--mode', 'conn', '--op', 'show', '--tid', '1').stdout
    off.ok('vm', 'kill', 'g')


def test_a_lun_with_a_volume(cluster, off, lun, san):
    off.ok('vm', 'attach', 'g', '--lun', san.url)
    h2 = cluster.host('h2')
    h2.ok('volume', 'format', 'v2', san.url)                            # it has not mounted v1, and cannot know
    has = off.fails('busy', 'volume', 'mount', san.url)
    assert 'VM v1:g has it' in has['message'] and has['holder'] == 'vm g', has
    off.ok('vm', 'start', 'g')                                          # it may be the guest's own
    h2.ok('volume', 'mount', san.url)
    h2.ok('volume', 'mount', lun)
    meet(off, h2)
    has = off.fails('busy', 'vm', 'migrate', 'g', '--to', 'h2')
    assert 'in use here by volume v2' in has['message'], has
    goes_on(off)
    off.ok('vm', 'kill', 'g')
    has = h2.fails('busy', 'vm', 'start', 'g')
    assert 'in use here by volume v2' in has['message'] and has['holder'] == 'h2, volume v2', has
    has = off.fails('busy', 'vm', 'start', 'g')
    assert 'host h2' in has['message'] and has['holder'] == 'host h2', has
    h2.ok('volume', 'unmount', 'v2')
    off.ok('vm', 'start', 'g')
    goes_on(off)
    off.ok('vm', 'kill', 'g')
