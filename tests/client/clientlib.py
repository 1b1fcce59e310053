# SPDX-License-Identifier: Apache-2.0
"""Servers and clients for tests of the exports: raw_server, and QEMU without KVM with the lab's stock Debian guest."""
import os, re, shutil, signal, subprocess, sys, threading, time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get('BUILD', TOP / 'build')).resolve()
sys.path.insert(0, str(TOP / 'tests/lab'))


class Server:
    """raw_server over one file LUN or several; kill() is kill -9, start() begins again."""

    def __init__(self, folder, kind='blk', size=64 << 20):
        self.folder, self.kind = Path(folder), kind
        self.socket = self.folder / 's'
        self.luns = [self.folder / 'lun0']
        with open(self.luns[0], 'wb') as f:
            f.truncate(size)
        self.process = None
        self.log = open(self.folder / 'server.log', 'ab')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def start(self):
        self.process = subprocess.Popen([BUILD / 'tests/client/raw_server', self.kind, self.socket, *self.luns],
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        assert line == 'ready\n', f'raw_server: {line!r}; {(self.folder / "server.log").read_text()[-2000:]}'
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        """Ends in order; what it counted, as a dict."""
        self.process.send_signal(signal.SIGTERM)
        out = self.process.stdout.read()
        assert self.process.wait(30) == 0, out
        self.process = None
        words = out.split()
        return {k: int(v) for k, v in zip(words[::2], words[1::2])}


class Console:
    """A guest's serial console on QEMU's standard input and output."""
    PROMPT = r'guest# '

    def __init__(self, process):
        self.process, self.out, self.at, self.mark = process, '', 0, 0
        self.changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while data := os.read(self.process.stdout.fileno(), 65536):
            with self.changed:
                self.out += data.decode(errors='replace').replace('\r', '')
                self.changed.notify_all()
        with self.changed:
            self.out += '\n<end of console>\n'
            self.changed.notify_all()

    def expect(self, pattern, timeout):
        end = time.monotonic() + timeout
        with self.changed:
            while not (m := re.compile(pattern).search(self.out, self.at)):
                left = end - time.monotonic()
                assert left > 0 and '<end of console>' not in self.out, \
                    f'no {pattern!r} within {timeout} s:\n{self.out[-3000:]}'
                self.changed.wait(left)
            self.at = m.end()
            return m

    def send(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def begin(self, command):
        """Types a command; finish() waits for its end."""
        self.mark += 1
        self.at = len(self.out)
        self.send(f'{{ {command}\n}}; echo "mark"-{self.mark}-$?-\n')

    def finish(self, timeout=60):
        start = self.at
        m = self.expect(rf'mark-{self.mark}-(\d+)-\n', timeout)
        text = self.out[start:m.start()].rsplit(f'"mark"-{self.mark}-$?-\n', 1)[-1]
        assert m[1] == '0', f'in the guest: exit {m[1]}\n{text[-3000:]}'
        return text

    def run(self, command, timeout=60):
        self.begin(command)
        return self.finish(timeout)


def guest():
    """The lab's stock guest: disk, kernel, initrd (built once, cached)."""
    from perilab import cache, guest as g, kernel  # noqa: F401
    return g.Guest(kernel.Kernel())


class Qemu:
    """QEMU without KVM: the stock guest, its root on a vhost-user disk of `server`."""

    def __init__(self, server, device, chardev=''):
        g = guest()
        self.process = subprocess.Popen(
            ['qemu-system-x86_64', '-machine', 'pc,accel=tcg', '-cpu', 'max', '-smp', '1', '-m', '384',
             '-object', 'memory-backend-memfd,id=m,size=384M,share=on', '-numa', 'node,memdev=m',
             '-kernel', g.kernel, '-initrd', g.initrd, '-append',
             'root=LABEL=guestroot rw console=ttyS0 quiet panic=-1 mitigations=off fsck.mode=skip',
             '-chardev', f'socket,id=c,path={server.socket}{chardev}', '-device', device,
             '-display', 'none', '-serial', 'stdio', '-monitor', 'none', '-nic', 'none', '-no-reboot'],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(server.folder / 'qemu.log', 'ab'))
        self.console = Console(self.process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def login(self):
        self.console.expect(Console.PROMPT, 150)
        return self.console

    def power_off(self):
        self.console.send('sync; poweroff -f\n')
        assert self.process.wait(60) == 0


def guest_disk(server):
    """Puts a copy of the stock guest's disk in place of the server's first LUN."""
    subprocess.run(['cp', '--sparse=always', guest().disk, server.luns[0]], check=True, timeout=120)


def fsck(path):
    p = subprocess.run(['e2fsck', '-fn', path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return p.returncode, p.stdout
