# SPDX-License-Identifier: Apache-2.0
"""VMs of a host whose guest is the disk shell (tests/lib/guest/disk_shell.c).

    create(host, 'g', '--disk', 'v1:/a.disk'); host.ok('vm', 'start', 'g')
    with Shell(host) as shell: shell.run('w 0 100 1 7', 'w ok')
"""
import functools, os, pathlib, subprocess, time

from hostlib import BIN, until
from payloads import c_kernel

disk_shell = functools.cache(lambda: c_kernel('disk_shell'))


def create(host, name='g', *words):
    path = pathlib.Path(host.dir).parent / 'disk_shell'
    path.write_bytes(disk_shell())
    host.ok('vm', 'create', name, '--volume', 'v1', '--memory', '16M', '--kernel', path, *(words or ('--disk', 'v1:/a.disk')))


def show(host, name='g'):
    return host.json('vm', 'show', name)


def answers(host, name='g'):
    """The guest repeats what is typed. A console whose input is over waits for that a moment only: typed until it is seen."""
    until(lambda: 'are you there' in host.ok('vm', 'console', name, stdin='are you there\n').out, what='an answer of the guest')


def state(host, name='g'):
    return show(host, name)['state']


class Shell:
    """What the guest of the VM that was started last on `host` says there, and what is typed there."""

    def __init__(self, host, name='g', strict=True):
        self.host, self.name, self.console, self.strict = host, name, None, strict
        self.log = until(lambda: max(host.dir.glob('vm/*.console'), key=os.path.getmtime, default=None), what='a console')
        self.at = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.leave()

    def leave(self):
        if self.console:
            self.console.kill()
            self.console.communicate()
            self.console = None

    def said(self):
        """All whole lines since the last expect; one that begins with "bad" ends the test (if strict)."""
        with open(self.log, 'rb') as f:
            f.seek(self.at)
            lines = f.read().decode(errors='replace').rpartition('\n')[0].split('\n')
        wrong = [line for line in lines if line.startswith('bad')]
        assert not self.strict or not wrong, wrong[:5]
        return lines

    def expect(self, text, timeout=60):
        """Until a line begins with `text`; returns the line and forgets what came before it."""
        end = time.monotonic() + timeout
        while True:
            lines = self.said()
            for i, line in enumerate(lines):
                if line.startswith(text):
                    self.at += sum(len(x.encode()) + 1 for x in lines[:i + 1])
                    return line
            assert time.monotonic() < end, f'no {text!r} within {timeout} s: {lines[-5:]}; {self.host.log.read_text()[-2000:]}'
            time.sleep(0.05)

    def type(self, line):
        if not self.console or self.console.poll() is not None:
            self.leave()
            self.console = subprocess.Popen([BIN / 'perilune', '--connect', self.host.dir, 'vm', 'console', self.name, '--follow'],
                                            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.console.stdin.write(line.encode() + b'\n')
        self.console.stdin.flush()

    def run(self, line, answer, timeout=60):
        self.type(line)
        return self.expect(answer, timeout)
