# SPDX-License-Identifier: Apache-2.0
"""What is downloaded or built once: kept outside of the clone, an entry a directory, named by content.

An entry is built in a directory beside it and renamed, so what can be seen is whole. A lock a name keeps
two labs from building the same thing. A change of an ingredient changes the name; what nobody used for
two weeks goes.
"""
import contextlib, fcntl, hashlib, os, shutil, subprocess, sys, tempfile, time
from pathlib import Path

KEEP_SECONDS = 14 * 24 * 3600


class LabError(Exception):
    """The lab could not do what was asked; the message says what failed and where to look."""


def root():
    base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    path = Path(base) / 'perilune-lab'
    path.mkdir(parents=True, exist_ok=True)
    return path


def digest(*parts):
    """A short name for strings, bytes, Paths (their content) and anything else with a stable repr."""
    h = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            part = part.read_bytes()
        elif not isinstance(part, (str, bytes)):
            part = repr(part)
        data = part.encode() if isinstance(part, str) else part
        h.update(b'%d:' % len(data) + data)
    return h.hexdigest()[:16]


@contextlib.contextmanager
def locked(name):
    with open(root() / f'{name}.lock', 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def entry(name, key, build):
    """The directory of (name, key); build(dir) fills it when it is not there."""
    path = root() / f'{name}-{key}'
    if not path.is_dir():
        with locked(name):
            if not path.is_dir():
                start = time.monotonic()
                print(f'lab: building {name} (once)', file=sys.stderr, flush=True)
                _sweep(name)
                work = Path(tempfile.mkdtemp(prefix=f'{name}.new.', dir=root()))
                try:
                    build(work)
                    os.chmod(work, 0o755)
                    os.rename(work, path)
                finally:
                    shutil.rmtree(work, ignore_errors=True)
                print(f'lab: built {name} in {time.monotonic() - start:.0f} s', file=sys.stderr, flush=True)
    os.utime(path)
    return path


def _sweep(name):
    """Caller holds the name's lock: half-built leftovers go, and entries that nobody used for long."""
    for path in root().glob(f'{name}[.-]*'):
        if path.name.startswith(f'{name}.new.') or (
                path.is_dir() and path.name.startswith(f'{name}-') and path.stat().st_mtime < time.time() - KEEP_SECONDS):
            shutil.rmtree(path, ignore_errors=True)


def tool(cmd, timeout=600, **kw):
    """Runs a program of the bare machine; its output, or LabError with the end of what it said."""
    try:
        p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                           timeout=timeout, text=True, errors='replace', **kw)
    except FileNotFoundError as e:
        raise LabError(f'{cmd[0]}: not installed; run make deps') from e
    except subprocess.TimeoutExpired as e:
        raise LabError(f'{" ".join(map(str, cmd))}: not done after {timeout} s') from e
    if p.returncode:
        raise LabError(f'{" ".join(map(str, cmd))}: exit {p.returncode}\n{p.stdout[-2000:]}')
    return p.stdout
