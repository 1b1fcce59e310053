# SPDX-License-Identifier: Apache-2.0
"""LUNs for tests, as context managers that take away what they made.

    with Tgt(size='64M') as t: ... t.url ...       a private tgtd with one LUN (t.luns for more)
    with file_lun('64M') as path: ...              a file
    with loop_device('64M', block_size=4096) as dev: ...

Ports are chosen free; each tgtd has a control port of its own, so tests run side by side."""
import contextlib, os, random, re, signal, socket, subprocess, tempfile, time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, os.environ.get('BUILD', 'build'))


def program(name):
    """A helper of tests/hosts, built by `make tests`."""
    return os.path.join(BUILD, 'tests', 'hosts', name)


def size_bytes(size):
    m = re.fullmatch(r'(\d+)([KMGT]?)', str(size))
    return int(m[1]) << {'': 0, 'K': 10, 'M': 20, 'G': 30, 'T': 40}[m[2]]


@contextlib.contextmanager
def file_lun(size='64M', directory=None):
    fd, path = tempfile.mkstemp(prefix='perilune-lun-', dir=directory or os.environ.get('TEST_DIR', '/var/tmp'))
    os.ftruncate(fd, size_bytes(size))
    os.close(fd)
    try:
        yield path
    finally:
        os.unlink(path)


@contextlib.contextmanager
def loop_device(size='64M', block_size=512):
    with file_lun(size) as path:
        dev = subprocess.run(['losetup', '--show', '-f', '-b', str(block_size), path], check=True,
                             capture_output=True, text=True).stdout.strip()
        try:
            yield dev
        finally:
            subprocess.run(['losetup', '-d', dev], check=True)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Tgt:
    """A tgtd in the foreground: `url` of LUN 1, `luns` of all; `stop`, `cont`, `restart`."""
    address = '127.0.0.1'

    def launch(self, words, **kw):
        """Starts its process; another network may be put before it."""
        return subprocess.Popen(words, **kw)

    def __init__(self, size='64M', luns=1, chap=None, thin=False, block_size=512):
        self.size, self.nluns, self.chap, self.thin, self.block_size = size, luns, chap, thin, block_size
        self.stack = contextlib.ExitStack()
        self.iqn = f'iqn.2026-01.org.perilune:test.{os.getpid()}.{random.randrange(1 << 32):08x}'

    def __enter__(self):
        try:
            self.files = [self.stack.enter_context(file_lun(self.size)) for _ in range(self.nluns)]
            self.serials = [f'{random.randrange(1 << 48):012x}' for _ in self.files]
            self.port = free_port()
            self.portal = f'{self.address}:{self.port}'
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        self.control = random.randrange(100, 32000)
        self.log = tempfile.TemporaryFile()
        self.proc = self.launch(['tgtd', '-f', '-t', '1', '-C', str(self.control), '--iscsi', f'portal={self.portal}'],
                                stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while self.adm('--mode', 'sys', '--op', 'show', check=False).returncode:
            assert self.proc.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.05)
        self.adm('--mode', 'target', '--op', 'new', '--tid', '1', '--targetname', self.iqn)
        for n, (path, serial) in enumerate(zip(self.files, self.serials), 1):
            self.adm('--mode', 'logicalunit', '--op', 'new', '--tid', '1', '--lun', str(n), '--backing-store', path,
                     '--blocksize', str(self.block_size))
            params = f'scsi_id=PERI{serial},scsi_sn={serial}' + (',thin_provisioning=1' if self.thin else '')
            self.adm('--mode', 'logicalunit', '--op', 'update', '--tid', '1', '--lun', str(n), '--params', params)
        if self.chap:
            user, password = self.chap
            self.adm('--mode', 'account', '--op', 'new', '--user', user, '--password', password)
            self.adm('--mode', 'account', '--op', 'bind', '--tid', '1', '--user', user)
        self.adm('--mode', 'target', '--op', 'bind', '--tid', '1', '--initiator-address', 'ALL')
        self.luns = [f'iscsi://{self.portal}/{self.iqn}/{n}' for n in range(1, self.nluns + 1)]
        self.url = self.luns[0]

    def adm(self, *args, check=True):
        p = subprocess.run(['tgtadm', '-C', str(self.control), '--lld', 'iscsi', *args], capture_output=True, text=True,
                           timeout=20)
        assert not check or p.returncode == 0, (args, p.stderr)
        return p

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors='replace')

    def stop(self):
        self.proc.send_signal(signal.SIGSTOP)

    def cont(self):
        self.proc.send_signal(signal.SIGCONT)

    def kill(self):
        if self.proc and self.proc.poll() is None:
            self.proc.send_signal(signal.SIGKILL)
            self.proc.wait(timeout=20)
        for suffix in ('', '.lock'):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f'/var/run/tgtd/socket.{self.control}{suffix}')

    def restart(self):
        """As an array that lost power: keys and reservation are gone."""
        self.kill()
        self.start()

    def __exit__(self, *exc):
        if getattr(self, 'proc', None):
            self.kill()
            self.log.close()
        self.stack.close()
