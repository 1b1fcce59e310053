# SPDX-License-Identifier: Apache-2.0
"""The client of init/agent.c: commands in a machine over one virtio-serial port."""
import re, signal, socket, struct, threading, time
from .cache import LabError

HELLO, EXEC, EXEC_PTY, IN, KILL, OUT, ERR, EXIT = range(1, 9)
HEAD = struct.Struct('<BII')
PAYLOAD_MAX = 32768
SEND_SECONDS = 120  # a machine that takes nothing for so long is dead


class LabTimeout(LabError):
    """Something was not done in its time."""


class RunFailed(LabError):
    """A command of run() ended with another exit code than 0."""


class Run:
    """A command in a machine. out and err grow while it runs; code is None until it has ended."""

    def __init__(self, channel, ident, command, log):
        self.channel, self.id, self.command, self.log = channel, ident, command, log
        self._out, self._err, self.code = bytearray(), bytearray(), None
        self.changed = channel.changed

    @property
    def out(self):
        return self._out.decode(errors='replace')

    @property
    def err(self):
        return self._err.decode(errors='replace')

    def write(self, data):
        """Sends to its standard input."""
        data = data.encode() if isinstance(data, str) else data
        for at in range(0, len(data), PAYLOAD_MAX):
            self.channel.send(IN, self.id, data[at:at + PAYLOAD_MAX])

    def eof(self):
        self.channel.send(IN, self.id, b'')

    def kill(self, sig=signal.SIGKILL):
        """Signals the command's process group."""
        self.channel.send(KILL, self.id, struct.pack('<I', int(sig)))

    def until(self, ready, timeout, what):
        """Waits until ready() is true; LabTimeout after timeout seconds, LabError when the machine died."""
        end = time.monotonic() + timeout
        with self.changed:
            while True:
                found = ready()
                if found:
                    return found
                if self.channel.dead:
                    more = f'; {self.channel.why()}' if self.channel.why else ''
                    raise LabError(f'{self.channel.name}: {self.command}: {self.channel.dead}{more}')
                left = end - time.monotonic()
                if left <= 0:
                    raise LabTimeout(f'{self.channel.name}: {self.command}: no {what} after {timeout:.0f} s; '
                                     f'said: {(self.out + self.err)[-1500:]}')
                self.changed.wait(min(left, 1))

    def wait(self, timeout=60):
        """Its exit code; 128 + signal when it was killed. It goes on when the time is over."""
        self.until(lambda: self.code is not None, timeout, 'end')
        return self.code

    def expect(self, pattern, timeout=60, start=0):
        """Waits for a regular expression in its output from the byte `start`; the match. An early end is an
        error at once."""
        rx = re.compile(pattern.encode() if isinstance(pattern, str) else pattern, re.M)

        def ready():
            m = rx.search(self._out, start)
            if not m and self.code is not None:
                raise RunFailed(f'{self.channel.name}: {self.command}: ended with {self.code} before '
                                f'{pattern!r}; said: {(self.out + self.err)[-1500:]}')
            return m
        return self.until(ready, timeout, f'{pattern!r}')


class Channel:
    """One connection to one agent; threads may share it."""

    def __init__(self, name, path, log=None, why=None):
        """why() may say more of a machine that is gone."""
        self.name, self.log, self.why = name, log, why
        self.changed = threading.Condition()
        self.runs, self.next, self.dead = {}, 1, None
        self.lock = threading.Lock()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack('ll', SEND_SECONDS, 0))
        self.sock.connect(str(path))
        self.nonce = struct.pack('<d', time.time()) + struct.pack('<Q', id(self))
        self.greeted, self.padded = False, False
        threading.Thread(target=self._read, daemon=True).start()

    def hello(self, timeout):
        """Waits for the agent: True when it answered in time. Asks again, for it may not run yet. The padding, which
        pushes out what a client before us left half-said, goes once: nobody reads while the machine boots, and a
        full socket would hold us for ever."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and not self.dead:
            pad = b'' if self.padded else b'\0' * (PAYLOAD_MAX + 16)
            self.padded = True
            self.send(HELLO, 0, self.nonce, pad)
            with self.changed:
                if self.changed.wait_for(lambda: self.greeted or self.dead, min(2, max(0, end - time.monotonic()))):
                    break
        return self.greeted

    def send(self, kind, ident, payload, before=b''):
        with self.lock:
            try:
                self.sock.sendall(before + HEAD.pack(kind, ident, len(payload)) + payload)
            except OSError as e:
                self._die(f'the machine is gone ({e.strerror})')

    def start(self, command, pty=False):
        with self.changed:
            run = Run(self, self.next, command, self.log)
            self.runs[self.next] = run
            self.next += 1
        if len(command.encode()) > PAYLOAD_MAX:
            raise LabError(f'{self.name}: a command of more than {PAYLOAD_MAX} bytes; use put()')
        self.send(EXEC_PTY if pty else EXEC, run.id, command.encode())
        return run

    def close(self):
        self._die('its channel was closed')
        self.sock.close()

    def _die(self, why):
        with self.changed:
            self.dead = self.dead or why
            self.changed.notify_all()

    def _exactly(self, n):
        data = bytearray()
        while len(data) < n:
            part = self.sock.recv(n - len(data))
            if not part:
                raise OSError('end of file')
            data += part
        return bytes(data)

    def _read(self):
        try:
            seen = b''
            want = HEAD.pack(HELLO, 0, len(self.nonce)) + self.nonce
            while not seen.endswith(want):  # whatever was left for the client before us
                seen = (seen + self._exactly(1))[-len(want):]
            with self.changed:
                self.greeted = True
                self.changed.notify_all()
            while True:
                kind, ident, length = HEAD.unpack(self._exactly(HEAD.size))
                self._handle(kind, ident, self._exactly(length))
        except (OSError, ValueError) as e:
            self._die(f'the machine is gone ({e})')

    def _handle(self, kind, ident, data):
        with self.changed:
            run = self.runs.get(ident)
            if not run:
                return
            if kind == OUT:
                run._out += data
            elif kind == ERR:
                run._err += data
            elif kind == EXIT:
                run.code = struct.unpack('<I', data)[0]
                del self.runs[ident]
                if self.log:
                    self.log(run)
            self.changed.notify_all()
