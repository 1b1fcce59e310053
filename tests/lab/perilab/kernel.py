# SPDX-License-Identifier: Apache-2.0
"""Debian's stock cloud kernel: the package as it is, unpacked into the cache."""
import re
from pathlib import Path
from . import cache

META = 'linux-image-cloud-amd64'


def _newest():
    """(package, version) that the machine's apt would install, or None when its lists are empty."""
    depends = cache.tool(['apt-cache', 'depends', META])
    m = re.search(r'Depends: (linux-image-\S+)', depends)
    if not m:
        return None
    version = re.search(r'^\s*Candidate: (\S+)', cache.tool(['apt-cache', 'policy', m[1]]), re.M)
    return (m[1], version[1]) if version and version[1] != '(none)' else None


class Kernel:
    """vmlinuz, the modules' folder, and their dependencies."""

    def __init__(self):
        found = _newest()
        if not found:
            cache.tool(['apt-get', 'update', '-qq'])
            found = _newest()
        if not found:
            raise cache.LabError(f'{META}: apt knows no such package; is this Debian 12 with its sources?')
        self.package, self.version = found
        self.key = cache.digest('kernel 1', self.package, self.version)
        self.path = cache.entry('kernel', self.key, self._build)
        self.release = self.package.removeprefix('linux-image-')
        self.vmlinuz = self.path / 'boot' / f'vmlinuz-{self.release}'
        self.modules = self.path / 'lib/modules' / self.release
        self._deps = {}
        for line in (self.modules / 'modules.dep').read_text().splitlines():
            path, _, needs = line.partition(':')
            self._deps[_name(path)] = (path, needs.split())

    def _build(self, work):
        cache.tool(['apt-get', 'download', '-qq', '-o', 'APT::Sandbox::User=root', f'{self.package}={self.version}'],
                   cwd=work)
        deb = next(work.glob('*.deb'))
        cache.tool(['dpkg', '-x', str(deb), str(work)])
        deb.unlink()
        cache.tool(['depmod', '-b', str(work), self.package.removeprefix('linux-image-')])

    def closure(self, names):
        """[(path below the modules' folder, its line of modules.dep)] of the modules and what they need.
        A name that the kernel has built in, or not at all, is left out: init says which it misses."""
        todo, out = [_name(n) for n in names], {}
        while todo:
            name = todo.pop()
            if name in out or name not in self._deps:
                continue
            path, needs = self._deps[name]
            out[name] = (path, f'{path}: {" ".join(needs)}\n')
            todo += [_name(n) for n in needs]
        return sorted(out.values())


def _name(path):
    return Path(path).name.split('.ko')[0].replace('-', '_')
