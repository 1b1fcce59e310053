# SPDX-License-Identifier: Apache-2.0
"""What rows of the benchmark share: both sides run in turns, medians, one line a row.

A row is a function marked @row(name, unit): it returns pairs (ours, peer), or yields them. What it is to reach
stands in goals.tsv, which also says which rows there must be: name, native or lab, what counts (the ratio ours / peer, or
our own figure), the goal. A row that is not in it has none: it helps to judge others."""
import os, statistics, subprocess, sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.append(str(TOP / 'tests/lib'))
BUILD = Path(os.environ.get('BUILD', TOP / 'build')).resolve()
RUNS = int(os.environ.get('BENCH_RUNS', '5'))
SECONDS = float(os.environ.get('BENCH_SECONDS', '1'))
ROWS = []  # in the order of their files and places


def goals():
    """{name: (kind, of, goal)} of all rows that there must be."""
    lines = (Path(__file__).parent / 'goals.tsv').read_text().splitlines()
    return {name: tuple(rest) for name, *rest in (line.split('\t') for line in lines if line and line[0] != '#')}


GOALS = goals()


def row(name, unit, kind=None):
    """`kind`: of rows without a goal."""
    def mark(fn):
        found, of, goal = GOALS.get(name, (kind, 'ratio', None))
        ROWS.append({'name': name, 'unit': unit, 'goal': goal, 'kind': found, 'of': of, 'fn': fn})
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


def by_turns(ours, peer):
    """
    The same for what takes SECONDS each: many short runs. A disk that others use too drifts by a third within seconds,
    and both sides are to have their share of it.
    """
    return alternate(ours, peer, 3 * RUNS)


def meets(value, goal):
    op, want = goal.split()
    return value >= float(want) if op == '>=' else value <= float(want)


def measure(r):
    """The line of a row, and what is said of its goal."""
    pairs = list(r['fn']())
    ours = statistics.median(p[0] for p in pairs)
    peers = [p[1] for p in pairs if p[1] is not None]
    peer = statistics.median(peers) if peers else None
    ratio = ours / peer if peer else None
    said = 'no goal'
    if r['goal']:
        good = meets(ours if r['of'] == 'ours' else ratio, r['goal'])
        said = f"goal {r['goal']}{' (ours)' if r['of'] == 'ours' else ''}: {'met' if good else 'MISSED'}"
    fmt = lambda x: '-' if x is None else f'{x:.4g}' if x < 1000 else f'{x:.0f}'
    line = '\t'.join([r['name'], fmt(ours), fmt(peer), '-' if ratio is None else f'{ratio:.3f}', r['unit']])
    return line, said


TSV = BUILD / 'bench.tsv'


def written():
    return TSV.read_text().splitlines() if TSV.exists() else []


def missing(kinds):
    """Names of the rows that ought to be in the file, and are not."""
    have = {line.split('\t')[0] for line in written() if line.count('\t') == 4}
    return [name for name, (kind, *_) in GOALS.items() if kind in kinds and name not in have]


def check(kinds):
    lost = missing(kinds)
    if lost:
        print(f'{TSV}: no line for {", ".join(lost)}', file=sys.stderr)
    return 1 if lost else 0


def main(kind, names):
    rows = [r for r in ROWS if r['kind'] == kind and (not names or r['name'] in names)]
    kept = written()
    if not names:  # figures of former runs must not stand for a row that fails now
        kept = [k for k in kept if k.split('\t')[0] not in {r['name'] for r in rows}]
        TSV.parent.mkdir(parents=True, exist_ok=True)
        TSV.write_text(''.join(f'{k}\n' for k in kept))
    bad = 0
    for r in rows:
        try:
            line, said = measure(r)
        except Exception as e:  # a row that cannot be measured must not hide the others
            print(f"{r['name']}: failed: {e}", file=sys.stderr, flush=True)
            bad += 1
            continue
        print(f'{line}\t{said}', flush=True)
        kept = [k for k in kept if k.split('\t')[0] != r['name']] + [line]
        TSV.parent.mkdir(parents=True, exist_ok=True)
        TSV.write_text('\n'.join(kept) + '\n')
    if names and not rows:
        print(f'no such row; there are: {" ".join(r["name"] for r in ROWS)}', file=sys.stderr)
        return 2
    return 1 if bad or (not names and check([kind])) else 0
