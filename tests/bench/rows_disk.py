# SPDX-License-Identifier: Apache-2.0
"""A thin disk against fio on a raw LUN file and against `qemu-img bench` on qcow2, all on one file system, O_DIRECT and
io_uring. `perilune disk bench` enters where a vring's request does."""
import contextlib, functools, json, os, re, subprocess, tempfile, time

from benchlib import BUILD, SECONDS, alternate, by_turns, check_output, row, work_dir, written_file

SIZE = 2 << 30            # of the disk, and of fio's and QEMU's files
STRIDE = 1052672          # 1 MiB + 4 KiB: an odd number of blocks, so that it visits them all
GiB = 1 << 30
# fio's malloc asks for huge pages too, as `disk bench` and guests do: the kernel joins requests of scattered pages less.
HUGE = {**os.environ, 'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}


class Host:
    """A perilund with a state directory of its own, and the command line to it."""

    def __init__(self, folder, name, args=()):
        self.state = f'{folder}/{name}'
        os.makedirs(self.state, exist_ok=True)
        self.log = open(f'{self.state}.log', 'wb')
        self.process = subprocess.Popen([str(BUILD / 'bin/perilund'), '--state', self.state, '--name', name, *args],
                                        stdout=self.log, stderr=self.log)
        end = time.monotonic() + 20
        while not os.path.exists(f'{self.state}/api.sock'):
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f'perilund {name} did not come up')
            time.sleep(0.02)

    def cli(self, *args, timeout=300):
        return check_output([BUILD / 'bin/perilune', '--connect', self.state, '--yes', *args], timeout)

    def json(self, *args, timeout=300):
        return json.loads(self.cli('--json', *args, timeout=timeout))

    def stop(self):
        self.process.terminate()
        self.process.wait(60)
        self.log.close()


@contextlib.contextmanager
def volume(lun, hosts=1):
    with tempfile.TemporaryDirectory(dir=work_dir()) as folder:
        up = [Host(folder, f'host{i}') for i in range(hosts)]
        try:
            up[0].cli('volume', 'format', 'bench', lun, '--overwrite')
            for h in up:
                h.cli('volume', 'mount', lun)
            yield up if hosts > 1 else up[0]
        finally:
            for h in up:
                h.stop()


@functools.lru_cache(None)
def disk():
    """One daemon with an allocated disk, for all rows that need it; ends with this process."""
    stack = contextlib.ExitStack()
    host = stack.enter_context(volume(written_file('disk.lun', 6 * GiB)))
    host.cli('disk', 'create', 'bench:/full', '--size', str(SIZE))
    host.cli('disk', 'bench', 'bench:/full', '--op', 'write', '--pattern', 'stride', '--bs', '1M',
             '--depth', '8', '--requests', str(SIZE >> 20))
    import atexit
    atexit.register(stack.close)
    return host


def ours(*args):
    r = disk().json('disk', 'bench', 'bench:/full', '--seconds', str(max(1, round(SECONDS))), *args)
    return float(r['iops'])


def fio(depth, *args):
    out = check_output(['fio', '--name=peer', '--direct=1', '--ioengine=io_uring', f'--iodepth={depth}', '--output-format=json', *args],
                       env=HUGE)
    job = json.loads(out)['jobs'][0]
    return job['read']['iops'] + job['write']['iops']


def fio_seconds(rw, bs, depth, seed):
    return fio(depth, f"--filename={written_file('peer.raw', SIZE)}", f'--rw={rw}', f'--bs={bs}', f'--runtime={SECONDS:g}', '--time_based',
               f'--randseed={seed}')


def fio_stride(op, count):
    """The blocks of `disk bench` and `qemu-img bench` in their order, from a list."""
    lun, log = written_file('peer.raw', SIZE), work_dir() / f'stride-{op}.log'
    lines, at = [], 0
    for _ in range(count):
        lines.append(f'{lun} {op} {at} 4096\n')
        at = (at + STRIDE) % SIZE
    log.write_text(f'fio version 2 iolog\n{lun} add\n{lun} open\n{"".join(lines)}{lun} close\n')
    return fio(32, f'--read_iolog={log}')


def qcow2(fresh):
    path = work_dir() / ('fresh.qcow2' if fresh else 'full.qcow2')
    if fresh or not path.exists():
        check_output(['qemu-img', 'create', '-q', '-f', 'qcow2', path, str(SIZE)])
        if not fresh:
            check_output(['qemu-img', 'bench', '-w', '-f', 'qcow2', '-t', 'none', '-i', 'io_uring', '-s', '1M', '-d', '8',
                          '-c', str(SIZE >> 20), path])
    return path


def qemu_stride(write, fresh, count):
    out = check_output(['qemu-img', 'bench', *(['-w'] if write else []), '-f', 'qcow2', '-t', 'none', '-i', 'io_uring', '-d', '32',
                        '-s', '4096', '-S', str(STRIDE), '-c', str(count), qcow2(fresh)])
    return count / float(re.search(r'([\d.]+) seconds', out)[1])


def pairs(our_args, rw, bs, depth):
    seeds = iter(range(1, 100))
    return by_turns(lambda: ours(*our_args), lambda: fio_seconds(rw, bs, depth, next(seeds)))


@row('disk-randread-4k', 'IOPS')
def randread():
    return pairs(['--op', 'read', '--depth', '32'], 'randread', '4k', 32)


@row('disk-randwrite-4k', 'IOPS')
def randwrite():
    return pairs(['--op', 'write', '--depth', '32'], 'randwrite', '4k', 32)


STRIDE_COUNT = 60000


@functools.lru_cache(None)
def stride(op):
    """((ours, fio's), QEMU's): the runs serve two rows."""
    args = ['--op', op, '--pattern', 'stride', '--stride', str(STRIDE), '--depth', '32', '--requests', str(STRIDE_COUNT)]
    return by_turns(lambda: (float(disk().json('disk', 'bench', 'bench:/full', *args)['iops']), fio_stride(op, STRIDE_COUNT)),
                    lambda: qemu_stride(op == 'write', False, STRIDE_COUNT))


@row('disk-stride-read-4k', 'IOPS')
def stride_read():
    return [(ours, qemu) for (ours, _), qemu in stride('read')]


@row('disk-stride-write-4k', 'IOPS')
def stride_write():
    return [(ours, qemu) for (ours, _), qemu in stride('write')]


@row('device-stride-read-4k', 'IOPS', kind='native')
def device_read():
    """fio on a raw file against the same runs of QEMU: what the machine's disk leaves for anybody to reach."""
    return [(fio, qemu) for (_, fio), qemu in stride('read')]


@row('device-stride-write-4k', 'IOPS', kind='native')
def device_write():
    return [(fio, qemu) for (_, fio), qemu in stride('write')]


@row('disk-first-write-4k', 'IOPS')
def first_write():
    """A new volume each time: what a deleted disk gave back would be holes in the LUN file."""
    count = 20000
    lun = written_file('first.lun', 4 * GiB)

    def first():
        with volume(lun) as host:
            host.cli('disk', 'create', 'bench:/fresh', '--size', str(SIZE))
            r = host.json('disk', 'bench', 'bench:/fresh', '--op', 'write', '--pattern', 'stride', '--stride', str(STRIDE),
                          '--depth', '32', '--requests', str(count))
            return float(r['iops'])
    return alternate(first, lambda: qemu_stride(True, True, count))


@row('disk-seqread-1m', 'IOPS')
def seqread():
    return pairs(['--op', 'read', '--pattern', 'stride', '--bs', '1M', '--depth', '8'], 'read', '1m', 8)


@row('disk-seqwrite-1m', 'IOPS')
def seqwrite():
    return pairs(['--op', 'write', '--pattern', 'stride', '--bs', '1M', '--depth', '8'], 'write', '1m', 8)


# --- names and memory ---------------------------------------------------------------------------------------------


def files(lun, folder, count, end='leave'):
    """Seconds that one host takes to create `count` files on a new volume, durable."""
    with open(lun, 'r+b') as f:  # the labels: what was left like a crash is watched for a silence by format
        f.write(bytes(4 << 20))
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return float(check_output([BUILD / 'tests/bench/cfs_files', lun, folder, end, str(count)], 600))


@row('files-10000', 's')
def files_10000():
    """Against ten times the time of 1,000: as ten runs, so that both sides take as long."""
    lun = written_file('files.lun', 2 * GiB)
    with tempfile.TemporaryDirectory(dir=work_dir()) as folder:
        return alternate(lambda: files(lun, folder, 10000), lambda: sum(files(lun, folder, 1000) for _ in range(10)))


@row('mount-10000-files', 's')
def mount_10000():
    lun = written_file('files.lun', 2 * GiB)
    with tempfile.TemporaryDirectory(dir=work_dir()) as folder:
        files(lun, folder, 10000, 'create')
        for _ in range(5):
            yield float(check_output([BUILD / 'tests/bench/cfs_files', lun, folder, 'mount', '0'])), None


@row('alloc-4-hosts', 'op/s')
def alloc():
    """Hosts that create disks and allocate on one volume: four of them together against one."""
    lun = written_file('alloc.lun', 16 * GiB)
    with tempfile.TemporaryDirectory(dir=work_dir()) as folder:

        def run(hosts):
            check_output([BUILD / 'tests/bench/cfs_files', lun, folder, 'format', '0'])
            procs = [subprocess.Popen([str(BUILD / 'tests/bench/cfs_files'), lun, folder, 'alloc', str(i)], stdout=subprocess.PIPE,
                                      stderr=subprocess.DEVNULL, text=True) for i in range(hosts)]
            return sum(float(p.communicate(timeout=120)[0]) for p in procs)
        return alternate(lambda: run(4), lambda: run(1))


@row('map-cache-rss', 'MiB')
def map_cache():
    """What the daemon grows by while an 8 TiB disk is read at random, every leaf of its map in use."""
    with tempfile.TemporaryDirectory(dir=work_dir()) as folder:
        with volume(written_file('first.lun', 4 * GiB)) as host:
            host.cli('disk', 'create', 'bench:/wide', '--size', '8T')
            host.cli('disk', 'bench', 'bench:/wide', '--op', 'write', '--pattern', 'stride', '--stride', str(10 << 20),
                     '--depth', '32', '--requests', '40000', timeout=600)
            for _ in range(3):
                host.cli('disk', 'bench', 'bench:/wide', '--op', 'read', '--depth', '32', '--seconds', '5')
            yield rss(host) - base_rss(folder), None


def rss(host):
    """MiB of a daemon."""
    with open(f'/proc/{host.process.pid}/status') as f:
        return int(re.search(r'VmRSS:\s+(\d+) kB', f.read())[1]) / 1024


def base_rss(folder):
    """A daemon that has a volume mounted and no disk open, just started."""
    lun = f'{folder}/small'
    with open(lun, 'wb') as f:
        f.truncate(GiB)
    with volume(lun) as host:
        return rss(host)
