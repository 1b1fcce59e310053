# SPDX-License-Identifier: Apache-2.0
"""Writes initramfs archives (cpio, newc; the kernel's Documentation/driver-api/early-userspace)."""
import os, shutil, stat


class Newc:
    def __init__(self, f):
        self.f, self.ino, self.dirs = f, 1, set()

    def _add(self, name, mode, data=b'', rdev=(0, 0)):
        raw = name.encode() + b'\0'
        fields = (self.ino, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(raw), 0)
        head = b'070701' + b''.join(b'%08X' % v for v in fields) + raw
        self.f.write(head + b'\0' * (-len(head) % 4) + data + b'\0' * (-len(data) % 4))
        self.ino += 1

    def _parents(self, name):
        parent = os.path.dirname(name)
        if parent and parent not in self.dirs:
            self.dir(parent)

    def dir(self, name, mode=0o755):
        name = name.strip('/')
        self._parents(name)
        if name not in self.dirs:
            self.dirs.add(name)
            self._add(name, stat.S_IFDIR | mode)

    def file(self, name, data, mode=0o644):
        name = name.strip('/')
        self._parents(name)
        self._add(name, stat.S_IFREG | mode, data)

    def link(self, name, target):
        name = name.strip('/')
        self._parents(name)
        self._add(name, stat.S_IFLNK | 0o777, str(target).encode())

    def char(self, name, major, minor):
        name = name.strip('/')
        self._parents(name)
        self._add(name, stat.S_IFCHR | 0o600, rdev=(major, minor))

    def copy(self, src, name=None):
        """A file of this machine, under the same path or another."""
        src = str(src)
        with open(src, 'rb') as f:
            self.file(name or src, f.read(), stat.S_IMODE(os.stat(src).st_mode))

    def end(self):
        self._add('TRAILER!!!', 0)


def boot_archive(f, kernel, init, modules=()):
    """Begins one into file `f`: busybox, `init` (bytes), `modules` and what they need. The caller may add to it, and ends it."""
    c = Newc(f)
    for d in ('proc', 'sys', 'dev', 'bin', 'sbin'):
        c.dir(d)
    c.char('dev/console', 5, 1)
    c.copy(shutil.which('busybox', path='/usr/local/bin:/usr/bin:/bin'), 'bin/busybox')
    c.file('init', init, 0o755)
    lines = []
    for path, line in kernel.closure(modules):
        c.copy(kernel.modules / path, f'lib/modules/{kernel.release}/{path}')
        lines.append(line)
    c.file(f'lib/modules/{kernel.release}/modules.dep', ''.join(lines).encode())
    return c
