# SPDX-License-Identifier: Apache-2.0
"""Our vhost-user-blk server against qemu-storage-daemon's, one I/O thread each, the same raw file, the same client."""
import contextlib, functools, os, subprocess, tempfile, time

from benchlib import BUILD, SECONDS, by_turns, check_output, row, written_file
from proc import cpu_s

SIZE = 2 << 30


def await_socket(process, path):
    end = time.monotonic() + 20
    while not os.path.exists(path):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f'the server did not come up: exit {process.poll()}')
        time.sleep(0.01)


@contextlib.contextmanager
def server(which):
    lun = written_file('vhost.lun', SIZE)
    with tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/s'
        if which == 'ours':
            cmd = [BUILD / 'tests/client/raw_server', 'blk', path, lun]
        else:
            cmd = ['qemu-storage-daemon', '--object', 'iothread,id=io',
                   '--blockdev', f'driver=file,node-name=file,filename={lun},aio=io_uring,cache.direct=on',
                   '--blockdev', 'driver=raw,node-name=raw,file=file', '--export',
                   f'type=vhost-user-blk,id=e,node-name=raw,writable=on,addr.type=unix,addr.path={path},iothread=io']
        process = subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await_socket(process, path)
            yield path, process.pid
        finally:
            process.kill()  # the client is gone; nothing on the raw file is worth a graceful end, which QSD may not come to
            process.wait(20)


def run(which, rw, seed):
    """(IOPS, microseconds of the server's CPU a request)"""
    with server(which) as (path, pid):
        before = cpu_s(pid)
        iops, done = check_output([BUILD / 'tests/bench/vhost_client', path, rw, SECONDS, 32, 4096, seed]).split()
        return float(iops), (cpu_s(pid) - before) * 1e6 / int(done)


@functools.lru_cache(None)
def both(rw):
    """The runs serve two rows: IOPS and CPU."""
    seeds = iter(range(1, 1000))
    seed = lambda: next(seeds) // 2  # the same order of blocks on both sides of a pair
    return by_turns(lambda: run('ours', rw, seed()), lambda: run('qsd', rw, seed()))


@row('vhost-randread-4k', 'IOPS')
def randread():
    return [(o[0], p[0]) for o, p in both('read')]


@row('vhost-randwrite-4k', 'IOPS')
def randwrite():
    return [(o[0], p[0]) for o, p in both('write')]


@row('vhost-cpu-per-io', 'us')
def cpu_per_io():
    return [(o[1], p[1]) for rw in ('read', 'write') for o, p in both(rw)]
