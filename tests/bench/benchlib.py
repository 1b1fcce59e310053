# SPDX-License-Identifier: Apache-2.0
"""What rows of the benchmark share: both sides run in turns, medians, one line a row.

A row is a function marked @row(name, unit, goal, of='peer'): it returns pairs (ours, peer), or yields
them. goal is a comparison of the ratio ours / peer ('>= 1.0'), or with of='ours' of our own figure."""
import os, statistics, subprocess, sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.append(str(TOP / 'tests/lib'))
BUILD = Path(os.environ.get('BUILD', TOP / 'build')).resolve()
RUNS = int(os.environ.get('BENCH_RUNS', '5'))
SECONDS = float(os.environ.get('BENCH_SECONDS', '3'))
ROWS = []  # in the order of their files and places


def row(name, unit, goal, kind='native', of='peer'):
    def mark(fn):
        ROWS.append({'name': name, 'unit': unit, 'goal': goal, 'kind': kind, 'of': of, 'fn': fn})
        return fn
    return mark


def work_dir():
    """On the file system of the build: a real disk, O_DIRECT."""
    path = BUILD / 'bench'
    path.mkdir(parents=True, exist_ok=True)
    return path


def written_file(name, size):
    """
    A file of `size` bytes, fully written with bytes that are not zero; kept between runs, but written
    anew when it has holes: a volume that gives space back punches them.
    """
    path = work_dir() / name
    if not path.exists() or path.stat().st_size != size or path.stat().st_blocks * 512 < size:
        tmp = path.with_suffix('.new')
        block = os.urandom(1 << 20)
        with open(tmp, 'wb', buffering=0) as f:
            for _ in range(size >> 20):
                f.write(block)
            os.fsync(f.fileno())
        tmp.rename(path)
    with open(path, 'rb') as f:  # a page in the cache sends a direct write over it to a worker thread
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def check_output(cmd, timeout=120, env=None):
    p = subprocess.run([str(c) for c in cmd], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout, env=env)
    if p.returncode:
        raise RuntimeError(f"{' '.join(map(str, cmd))}: exit {p.returncode}: {p.stderr.strip()[-500:]}")
    return p.stdout


def alternate(ours, peer, runs=None):
    """Runs both in turns, after one round that does not count: a list of (ours, peer)."""
    pairs = []
    for i in range((runs or RUNS) + 1):
        pair = (ours(), peer()) if i % 2 else tuple(reversed((peer(), ours())))
        if i:
            pairs.append(pair)
    return pairs


def meets(value, goal):
    op, want = goal.split()
    return value >= float(want) if op == '>=' else value <= float(want)


def measure(r):
    """The line of a row, and whether it meets its goal."""
    pairs = list(r['fn']())
    ours = statistics.median(p[0] for p in pairs)
    peers = [p[1] for p in pairs if p[1] is not None]
    peer = statistics.median(peers) if peers else None
    ratio = ours / peer if peer else None
    good = meets(ours if r['of'] == 'ours' else ratio, r['goal'])
    fmt = lambda x: '-' if x is None else f'{x:.4g}' if x < 1000 else f'{x:.0f}'
    line = '\t'.join([r['name'], fmt(ours), fmt(peer), '-' if ratio is None else f'{ratio:.3f}', r['unit']])
    return line, good


def main(kind, names):
    rows = [r for r in ROWS if r['kind'] == kind and (not names or r['name'] in names)]
    tsv = BUILD / 'bench.tsv'
    kept = tsv.read_text().splitlines() if tsv.exists() else []
    bad = 0
    for r in rows:
        try:
            line, good = measure(r)
        except Exception as e:  # a row that cannot be measured must not hide the others
            print(f"{r['name']}: failed: {e}", file=sys.stderr, flush=True)
            bad += 1
            continue
        print(f"{line}\tgoal {r['goal']}{' (ours)' if r['of'] == 'ours' else ''}: {'met' if good else 'MISSED'}", flush=True)
        kept = [k for k in kept if k.split('\t')[0] != r['name']] + [line]
        tsv.parent.mkdir(parents=True, exist_ok=True)
        tsv.write_text('\n'.join(kept) + '\n')
    if names and not rows:
        print(f'no such row; there are: {" ".join(r["name"] for r in ROWS)}', file=sys.stderr)
        return 2
    return 1 if bad else 0
