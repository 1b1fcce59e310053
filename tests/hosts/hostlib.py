# SPDX-License-Identifier: Apache-2.0
"""Several hosts on one machine: `perilund --state DIR` each, on temporary files. What a test starts
is ended by pid when it is over, whatever happened."""
import json, os, pathlib, shutil, signal, socket, subprocess, tempfile, time

TOP = pathlib.Path(__file__).resolve().parents[2]
BIN = TOP / os.environ.get('BUILD', 'build') / 'bin'
EXIT = {'ok': 0, 'failed': 1, 'usage': 2, 'not-found': 3, 'busy': 4, 'refused': 5, 'no-space': 6,
        'integrity': 7, 'unreachable': 8, 'timed-out': 9}
# Before a command: it sees no control groups.
NO_GROUPS = ['unshare', '-m', 'sh', '-c', 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"', 'sh']


class Failed(Exception):
    pass


class Result:
    def __init__(self, p, words):
        self.code, self.out, self.err, self.words = p.returncode, p.stdout, p.stderr, words

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def error(self):
        """The error object of --json."""
        return json.loads(self.err.strip().splitlines()[-1])['error']

    def __repr__(self):
        return f'perilune {" ".join(self.words)}: exit {self.code}\n{self.out}{self.err}'


def perilune(*words, connect=None, timeout=60, stdin=None, env=None, binary=False):
    words = [str(w) for w in words]
    e = {**os.environ, **(env or {})}
    e['PERILUNE_CONNECT'] = str(connect or '/nonexistent')
    p = subprocess.run([BIN / 'perilune', *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=e,
                       timeout=timeout, text=not binary, input=stdin,
                       **({} if stdin is not None else {'stdin': subprocess.DEVNULL}))
    if binary:
        p.stderr = p.stderr.decode(errors='replace')
    return Result(p, words)


class Host:
    def __init__(self, cluster, name, prefix=()):
        self.name, self.dir = name, cluster.dir / name
        self.prefix = list(prefix)  # words before the daemon's own, such as `ip netns exec NS`
        self.log = cluster.dir / f'{name}.log'
        self.proc = None
        self.may_crash = False

    @property
    def socket(self):
        return self.dir / 'api.sock'

    def start(self, *options, wait=15):
        with open(self.log, 'a') as log:
            self.proc = subprocess.Popen([*self.prefix, BIN / 'perilund', '--state', self.dir, '--name', self.name, *options],
                                         stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        end = time.monotonic() + wait
        while True:
            with socket.socket(socket.AF_UNIX) as s:
                try:
                    s.connect(str(self.socket))
                    return self
                except OSError:
                    pass
            if self.proc.poll() is not None or time.monotonic() > end:
                raise Failed(f'{self.name} does not come up:\n{self.log.read_text()[-3000:]}')
            time.sleep(0.01)

    def run(self, *words, **kw):
        return perilune(*words, connect=self.dir, **kw)

    def ok(self, *words, **kw):
        r = self.run(*words, **kw)
        assert r.code == 0, f'{r}\n--- log of {self.name}:\n{self.log.read_text()[-3000:]}'
        return r

    def json(self, *words, **kw):
        return self.ok('--json', *words, **kw).json

    def fails(self, code, *words, **kw):
        """--json; the error object of a command that must end in `code` (a name of EXIT)."""
        r = self.run('--json', *words, **kw)
        assert r.code == EXIT[code], r
        assert r.out == '', r
        assert r.error['code'] == EXIT[code] and r.error['name'] == code, r
        return r.error

    def signal(self, sig):
        self.proc.send_signal(sig)

    def kill(self):
        if self.proc and self.proc.poll() is None:
            self.proc.send_signal(signal.SIGCONT)
            self.proc.kill()
        if self.proc:
            self.proc.wait(20)

    def crashed(self):
        """Whether a daemon here died of its own fault (base/crash.h)."""
        return self.log.exists() and 'perilund: signal ' in self.log.read_text(errors='replace')

    def stop(self, timeout=30):
        self.proc.terminate()
        assert self.proc.wait(timeout) == 0, self.log.read_text()[-3000:]


class Cluster:
    """with Cluster() as c: h1 = c.host('h1'); lun = c.lun('a', '1G')"""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix='ph-', dir=os.environ.get('PERILUNE_TMP', '/tmp')))
        self.hosts = {}

    def lun(self, name='lun0', size='1G'):
        path = self.dir / name
        subprocess.run(['truncate', '-s', size, path], check=True)
        return str(path)

    def host(self, name='h1', *options):
        self.hosts[name] = Host(self, name).start(*options)
        return self.hosts[name]

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        for h in self.hosts.values():
            h.kill()
        for vmm in self.vmms():
            try:
                os.kill(vmm, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if kind and os.environ.get('PERILUNE_KEEP'):
            print(f'kept: {self.dir}')
        else:
            crashed = [h.log.read_text()[-5000:] for h in self.hosts.values() if h.crashed() and not h.may_crash]
            shutil.rmtree(self.dir, ignore_errors=True)
            assert not crashed, crashed

    def vmms(self):
        """VMMs of this cluster's hosts: their sockets lie in its directories."""
        found = []
        for p in pathlib.Path('/proc').glob('[0-9]*'):
            try:
                words = (p / 'cmdline').read_bytes().split(b'\0')
            except OSError:
                continue
            if words[0].endswith(b'perilune-vmm') and any(str(self.dir).encode() in w for w in words):
                found.append(int(p.name))
        return found


def until(fn, timeout=20, step=0.05, what='it'):
    """Waits until fn() is true; returns its value."""
    end = time.monotonic() + timeout
    while True:
        value = fn()
        if value:
            return value
        assert time.monotonic() < end, f'{what} did not happen within {timeout} s'
        time.sleep(step)
