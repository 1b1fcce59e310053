# SPDX-License-Identifier: Apache-2.0
"""Volumes, disks and files by the command line: several daemons on a file LUN, and what bad input gets."""
import hashlib, json, os, random, signal, subprocess, threading, time

import pytest

from hostlib import BIN, EXIT, perilune, until

VOLUME = {'name', 'id', 'size', 'free', 'promised', 'reclaim_pending', 'extents', 'hosts', 'state', 'format_version'}


@pytest.fixture
def pair(cluster):
    """Two hosts with one volume v1."""
    lun, h1, h2 = cluster.lun(size='2G'), cluster.host('h1'), cluster.host('h2')
    h1.ok('volume', 'format', 'v1', lun)
    h1.ok('volume', 'mount', lun)
    h2.ok('volume', 'mount', lun)
    until(lambda: {h['name'] for h in h1.json('volume', 'show', 'v1')['hosts']} == {'h1', 'h2'}, what='both hosts on v1')
    return cluster, lun, h1, h2


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_volume_on_two_hosts(pair):
    cluster, lun, h1, h2 = pair
    v = h2.json('volume', 'show', 'v1')
    assert VOLUME <= v.keys() and v['state'] == 'mounted' and v['size'] == 2 << 30 and 0 < v['free'] < v['size']
    assert v['promised'] == 0 and {h['name'] for h in v['hosts']} == {'h1', 'h2'}
    host = next(h for h in v['hosts'] if h['name'] == 'h1')
    assert {'name', 'id', 'slot', 'epoch', 'state', 'beat_age_ms', 'address'} <= host.keys()
    assert host['state'] == 'active' and host['id'] == h1.json('host', 'show')['id']
    assert [x['lun'] for x in v['extents']] == [h1.json('lun', 'probe', lun)['id']]
    paths = h1.json('volume', 'paths', 'v1')
    assert {'lun', 'path', 'kind', 'state', 'since', 'group', 'policy', 'errors', 'latency_us', 'bytes'} <= paths[0].keys()
    assert paths[0]['bytes'] > 0 and paths[0]['errors'] == 0 and paths[0]['latency_us'] >= 0
    assert {(h['name'], h['volume']) for h in h1.json('host', 'list')} == {('h1', 'v1'), ('h2', 'v1')}
    assert h1.json('volume', 'list')[0]['name'] == 'v1'
    assert isinstance(h1.json('volume', 'locks', 'v1'), list)
    status = h1.json('status')
    assert status['volumes'][0]['name'] == 'v1' and status['host'] == 'h1' and 'v1' in h1.ok('status').out
    # mounted twice, unknown, formatted or checked while it lives
    assert h1.fails('busy', 'volume', 'mount', lun)['holder']
    h1.fails('not-found', 'volume', 'show', 'v2')
    h1.fails('not-found', 'volume', 'unmount', 'v2')
    h1.fails('not-found', 'volume', 'mount', 'v2')
    for who in h1, h2:
        who.fails('refused', '--yes', 'volume', 'format', 'x', lun, '--overwrite')
        assert who.fails('busy', 'volume', 'check', lun)['holder']
    r = perilune('--json', '--yes', 'volume', 'format', 'x', lun, '--overwrite')
    assert r.code == EXIT['refused'], r
    r = perilune('--json', 'volume', 'check', lun)
    assert r.code == EXIT['busy'] and 'h' in r.error['message'], r
    # and after all that it is as it was
    h1.ok('file', 'mkdir', 'v1:/still')
    assert [f['name'] for f in h2.json('file', 'ls', 'v1:/')] == ['still']
    for h in h1, h2:
        h.ok('volume', 'unmount', 'v1')
        assert h.json('volume', 'list') == []
    r = perilune('--json', 'volume', 'check', lun)
    assert r.code == 0 and r.json['clean'] and r.json['findings'] == [], r


@pytest.mark.slow
def test_mounts_are_remembered_until_unmount(cluster):
    lun, h = cluster.lun(), cluster.host()
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    h.stop()
    h.start()
    assert [(v['name'], v['state']) for v in h.json('volume', 'list')] == [('v1', 'mounted')]
    # away: said, and mounted when it is back
    h.stop()
    os.rename(lun, lun + '.away')
    h.start()
    v = h.json('volume', 'list')[0]
    assert v['name'] == 'v1' and v['state'] == 'missing' and v['error']
    h.fails('not-found', 'volume', 'show', 'v1')
    os.rename(lun + '.away', lun)
    until(lambda: h.json('volume', 'list')[0]['state'] == 'mounted', what='the volume came back')
    h.ok('volume', 'unmount', 'v1')
    h.stop()
    h.start()
    assert h.json('volume', 'list') == []
    # by name, when the LUN is known
    h.ok('lun', 'connect', lun)
    h.ok('volume', 'mount', 'v1')
    assert h.fails('busy', 'lun', 'disconnect', lun)['holder'] == 'volume v1'


@pytest.mark.slow
def test_unmount_beside_who_only_looks(cluster):
    lun, h = cluster.lun(), cluster.host()
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    done, codes = threading.Event(), set()

    def look(words):
        while not done.is_set():
            codes.add(h.run(*words).code)

    threads = [threading.Thread(target=look, args=[w]) for w in (['status'], ['volume', 'list']) * 2]
    for t in threads:
        t.start()
    h.ok('fault', 'add', lun, '--kind', 'delay=100', '--op', 'all', '--range', '0-16M')        # each look at the hosts takes long
    try:
        for i in range(3):
            h.ok('volume', 'unmount', 'v1')
            h.ok('volume', 'mount', lun)
    finally:
        done.set()
        for t in threads:
            t.join()
    assert codes == {0}


def test_no_mount_waits_for_an_unmount_whose_lun_is_slow(cluster):
    slow, other, h = cluster.lun('slow'), cluster.lun('other'), cluster.host()
    for name, lun in (('v1', slow), ('v2', other)):
        h.ok('volume', 'format', name, lun)
    h.ok('volume', 'mount', slow)
    h.ok('file', 'put', '-', 'v1:/f', stdin='kept')
    h.ok('fault', 'add', slow, '--kind', 'delay=1500', '--op', 'write')
    with subprocess.Popen([BIN / 'perilune', '--connect', h.dir, 'volume', 'unmount', 'v1'], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        until(lambda: [v['state'] for v in h.json('volume', 'list') if v['name'] == 'v1'] == ['unmounting'], 10, 0.005)
        h.ok('volume', 'mount', other)
        h.ok('volume', 'unmount', 'v2')
        assert p.poll() is None
        assert 'being unmounted' in h.fails('busy', 'volume', 'mount', slow)['message']
        h.ok('fault', 'clear')
        out, _ = p.communicate(timeout=60)
        assert p.returncode == 0, out
    assert h.json('volume', 'list') == []
    h.ok('volume', 'mount', slow)
    assert h.ok('file', 'cat', 'v1:/f').out == 'kept'


def test_rename_volume(cluster):
    lun, h = cluster.lun(), cluster.host()
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    h.fails('usage', 'volume', 'rename', 'v1', 'a/b')
    h.ok('volume', 'rename', 'v1', 'archive')
    assert h.json('volume', 'show', 'archive')['name'] == 'archive'
    h.fails('not-found', 'volume', 'show', 'v1')
    h.stop()
    h.start()
    assert h.json('volume', 'list')[0]['name'] == 'archive'


def test_the_other_host_learns_the_new_name(pair):
    _, _, h1, h2 = pair
    h1.ok('volume', 'rename', 'v1', 'archive')
    until(lambda: [v['name'] for v in h2.json('volume', 'list')] == ['archive'], what='the name being known on h2')
    h2.ok('disk', 'create', 'archive:/a', '--size', '64M')
    h2.fails('not-found', 'disk', 'show', 'v1:/a')
    h2.stop()
    h2.start()                                          # the inventory has it too
    h2.ok('disk', 'show', 'archive:/a')


@pytest.mark.slow
def test_disks(pair):
    cluster, lun, h1, h2 = pair
    h1.ok('disk', 'create', 'v1:/a', '--size', '64M')
    assert [(f['name'], f['size']) for f in h2.json('file', 'ls', 'v1:/')] == [('a', 64 << 20)]
    assert h1.json('volume', 'show', 'v1')['promised'] == 64 << 20
    d = h2.json('disk', 'show', 'v1:/a')
    assert {'path', 'size', 'allocated', 'thin', 'holder', 'generation', 'created'} <= d.keys()
    assert (d['path'], d['size'], d['allocated'], d['thin'], d['holder']) == ('v1:/a', 64 << 20, 0, True, None)
    h1.ok('file', 'mkdir', 'v1:/dir')
    h1.ok('disk', 'create', 'v1:/dir/thick', '--size', '16M', '--thick')
    assert h1.json('disk', 'show', 'v1:/dir/thick')['allocated'] == 16 << 20
    assert {(d['path'], d['size']) for d in h2.json('disk', 'list')} == {('v1:/a', 64 << 20), ('v1:/dir/thick', 16 << 20)}
    assert [d['path'] for d in h2.json('disk', 'list', 'v1:/dir')] == ['v1:/dir/thick']
    assert [d['path'] for d in h2.json('disk', 'list', 'v1')] and h2.fails('not-found', 'disk', 'list', 'v9')
    assert h1.json('disk', 'extents', 'v1:/a') == []
    h1.ok('disk', 'resize', 'v1:/a', '--size', '128M')
    assert h1.json('disk', 'show', 'v1:/a')['size'] == 128 << 20
    h1.fails('refused', 'disk', 'resize', 'v1:/a', '--size', '32M')
    h1.fails('refused', 'disk', 'resize', 'v1:/a', '--size', '32M', '--shrink')
    h1.ok('--yes', 'disk', 'resize', 'v1:/a', '--size', '32M', '--shrink')
    assert h1.json('disk', 'show', 'v1:/a')['size'] == 32 << 20
    h1.ok('disk', 'rename', 'v1:/a', '/b')
    h1.fails('not-found', 'disk', 'show', 'v1:/a')
    h1.fails('refused', 'disk', 'delete', 'v1:/b')
    h1.ok('--yes', 'disk', 'delete', 'v1:/b')
    h1.fails('not-found', '--yes', 'disk', 'delete', 'v1:/b')
    until(lambda: h2.json('volume', 'show', 'v1')['promised'] == 16 << 20, timeout=30, what='promises counted')


def test_bad_names_and_values(cluster):
    lun, h = cluster.lun(), cluster.host()
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    for size in '0', '1000', '65T', 'x', '-4096':
        h.fails('usage', 'disk', 'create', 'v1:/a', '--size', size)
    for name in 'a', 'v1:a', 'v1', ':/a', 'v1:/' + 'x' * 256, 'v1:/a\x07b', 'v1:/..', 'v1:/.', 'x' * 64 + ':/a':
        r = h.run('--json', 'disk', 'create', name, '--size', '1M')
        assert r.code in (EXIT['usage'], EXIT['not-found']), r
        assert r.code == EXIT['usage'] or name.startswith('x'), r
    h.fails('not-found', 'disk', 'create', 'v1:/no/dir', '--size', '1M')
    h.ok('disk', 'create', 'v1:/a', '--size', '1M')
    assert h.run('disk', 'create', 'v1:/a', '--size', '2M').code == EXIT['failed']
    assert h.json('disk', 'show', 'v1:/a')['size'] == 1 << 20
    h.ok('disk', 'create', 'v1:/' + 'x' * 255, '--size', '1M')
    h.fails('refused', '--yes', 'file', 'rm', 'v1:/a')
    h.ok('file', 'mkdir', 'v1:/d')
    h.fails('usage', 'disk', 'show', 'v1:/d')


@pytest.mark.slow
def test_files(pair):
    cluster, lun, h1, h2 = pair
    data = os.urandom(700_001)
    (cluster.dir / 'f').write_bytes(data)
    h1.ok('file', 'put', cluster.dir / 'f', 'v1:/f')
    assert h2.run('file', 'cat', 'v1:/f', binary=True).out == data
    h2.ok('file', 'get', 'v1:/f', cluster.dir / 'g')
    assert (cluster.dir / 'g').read_bytes() == data
    h2.ok('file', 'put', '-', 'v1:/f', stdin='new\n')
    assert h1.ok('file', 'cat', 'v1:/f').out == 'new\n'
    assert [(f['name'], f['kind'], f['size']) for f in h1.json('file', 'ls', 'v1:/')] == [('f', 'file', 4)]
    h1.ok('file', 'mkdir', 'v1:/d')
    h1.ok('file', 'put', '-', 'v1:/d/x', stdin='')
    assert h1.run('--yes', 'file', 'rm', 'v1:/d').code != 0      # not empty
    h1.ok('--yes', 'file', 'rm', 'v1:/d/x')
    h1.ok('--yes', 'file', 'rm', 'v1:/d')
    h1.fails('refused', 'file', 'rm', 'v1:/f')
    h1.fails('not-found', 'file', 'cat', 'v1:/nix')
    h1.fails('not-found', 'file', 'put', cluster.dir / 'nix', 'v1:/nix')
    assert [f['name'] for f in h2.json('file', 'ls', 'v1:/')] == ['f']


def sparse(path, size, pieces, seed=1):
    rng = random.Random(seed)
    with open(path, 'wb') as f:
        for at, n in pieces:
            f.seek(at)
            while n:
                f.write(rng.randbytes(min(n, 1 << 20)))
                n -= min(n, 1 << 20)
        f.truncate(size)


@pytest.mark.slow
def test_import_and_export_keep_bytes_and_holes(pair):
    cluster, lun, h1, h2 = pair
    raw, back = cluster.dir / 'raw', cluster.dir / 'back'
    sparse(raw, 300 << 20, [(0, 100), (5 << 20, 3 << 20), (100_000_003, 4096), ((300 << 20) - 512, 512)])
    with open(raw, 'r+b') as f:       # zeroes that are written
        f.seek(200 << 20)
        f.write(bytes(8 << 20))
    r = h1.json('disk', 'import', raw, 'v1:/r')
    assert r['size'] == 300 << 20 and 3 << 20 <= r['allocated'] < 4 << 20
    assert sum(x['length'] for x in h1.json('disk', 'extents', 'v1:/r')) == r['allocated']
    h2.ok('disk', 'export', 'v1:/r', back)
    assert sha(raw) == sha(back) and back.stat().st_blocks * 512 < 5 << 20
    e = h2.fails('refused', 'disk', 'export', 'v1:/r', back)
    assert '--overwrite' in e['message']
    h2.ok('disk', 'export', 'v1:/r', back, '--overwrite')
    assert sorted(p.name for p in cluster.dir.iterdir() if 'part' in p.name) == []
    # odd sizes are rounded up, and what is there is not replaced
    sparse(raw, 1_000_001, [(0, 1_000_001)])
    assert h1.run('disk', 'import', raw, 'v1:/r').code == EXIT['failed']
    assert h1.json('disk', 'import', raw, 'v1:/odd')['size'] == 1_003_520
    h1.ok('disk', 'export', 'v1:/odd', back, '--overwrite')
    assert back.read_bytes()[:1_000_001] == raw.read_bytes() and back.read_bytes()[1_000_001:] == bytes(3519)
    h1.fails('not-found', 'disk', 'import', cluster.dir / 'nix', 'v1:/n')
    h1.fails('usage', 'disk', 'import', cluster.dir, 'v1:/n')
    h1.fails('not-found', 'disk', 'export', 'v1:/n', cluster.dir / 'n')


@pytest.mark.slow
def test_import_is_durable_when_it_says_so(pair):
    """kill -9 right after exit 0; another host reads."""
    cluster, lun, h1, h2 = pair
    raw, back = cluster.dir / 'raw', cluster.dir / 'back'
    sparse(raw, 64 << 20, [(1 << 20, 10 << 20)])
    h1.ok('disk', 'import', raw, 'v1:/r')
    h1.kill()
    h2.ok('disk', 'export', 'v1:/r', back, timeout=90)
    assert sha(raw) == sha(back)


@pytest.mark.slow
def test_import_goes_on_when_the_target_comes_back(cluster):
    """tgt has a volatile cache, so what was not flushed yet may be lost with a session: it is imported once more."""
    from targets import Tgt
    raw, back = cluster.dir / 'raw', cluster.dir / 'back'
    sparse(raw, 40 << 20, [(1 << 20, 30 << 20)])
    with Tgt(size='300M') as t:
        h = cluster.host()
        h.ok('volume', 'format', 'v1', t.url)
        h.ok('volume', 'mount', t.url)
        h.ok('fault', 'add', t.url, '--kind', 'delay=50', '--op', 'write', '--range', '64M-300M')
        with subprocess.Popen([BIN / 'perilune', '--connect', h.dir, 'disk', 'import', raw, 'v1:/r'], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
            def done():
                return sum(t['progress']['done'] for t in h.json('task', 'list') if t['verb'] == 'import')
            for part in (4 << 20, 12 << 20):
                until(lambda: done() > part, timeout=60, what='it gets on')
                t.restart()
            h.ok('fault', 'clear')
            out, _ = p.communicate(timeout=120)
            assert p.returncode == 0, out
        h.ok('disk', 'export', 'v1:/r', back)
        assert sha(raw) == sha(back)
        h.ok('volume', 'unmount', 'v1')


def test_import_of_a_file_that_grows(cluster):
    """It is as large as it was; what lies behind that is nobody's."""
    lun, h = cluster.lun(), cluster.host()
    raw, back = cluster.dir / 'raw', cluster.dir / 'back'
    sparse(raw, 64 << 20, [(0, 32 << 20)])
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    h.ok('fault', 'add', lun, '--kind', 'delay=100', '--op', 'write')
    with subprocess.Popen([BIN / 'perilune', '--connect', h.dir, 'disk', 'import', raw, 'v1:/r'], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        until(lambda: [t for t in h.json('task', 'list') if t['verb'] == 'import' and t['progress']['done']], what='the task')
        with open(raw, 'r+b') as f:
            f.seek(100 << 20)
            f.write(bytes([7]) * (8 << 20))
        h.ok('fault', 'clear')
        out, _ = p.communicate(timeout=60)
    assert p.returncode == 0, out
    h.ok('disk', 'export', 'v1:/r', back)
    os.truncate(raw, 64 << 20)
    assert sha(raw) == sha(back)


@pytest.mark.slow
def test_a_full_volume_is_no_space(cluster):
    lun, h = cluster.lun(size='300M'), cluster.host()
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    h.ok('disk', 'create', 'v1:/thin', '--size', '1T')      # promised, not taken
    e = h.fails('no-space', 'disk', 'create', 'v1:/big', '--size', '400M', '--thick')
    assert e['message']
    h.fails('not-found', 'disk', 'show', 'v1:/big')
    sparse(cluster.dir / 'raw', 500 << 20, [(0, 400 << 20)])
    h.fails('no-space', 'disk', 'import', cluster.dir / 'raw', 'v1:/i', timeout=120)
    h.fails('not-found', 'disk', 'show', 'v1:/i')
    # space comes back
    until(lambda: h.run('disk', 'create', 'v1:/half', '--size', '150M', '--thick').code == 0, timeout=40,
          what='space came back')
    h.ok('volume', 'reclaim', 'v1')


@pytest.mark.slow
def test_ctrl_c_detaches_and_the_task_goes_on(cluster):
    lun, h = cluster.lun(), cluster.host()
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    sparse(cluster.dir / 'raw', 200 << 20, [(0, 200 << 20)])
    h.ok('fault', 'add', lun, '--kind', 'delay=20', '--op', 'write')
    p = subprocess.Popen([BIN / 'perilune', '--connect', h.dir, '--progress=json', 'disk', 'import', cluster.dir / 'raw', 'v1:/r'],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    task = until(lambda: [t for t in h.json('task', 'list') if t['verb'] == 'import'], what='the task')[0]
    time.sleep(0.5)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=20)
    assert p.returncode == EXIT['timed-out'] and f'perilune task watch {task["id"]}' in err, err
    assert json.loads(err.splitlines()[0])['task'] == task['id']
    assert h.json('task', 'show', task['id'])['state'] == 'running'
    h.ok('fault', 'clear')
    r = h.run('--json', 'task', 'watch', task['id'], timeout=120)
    assert r.code == 0 and r.json['size'] == 200 << 20, r
    # and another one is cancelled
    h.ok('fault', 'add', lun, '--kind', 'delay=20', '--op', 'write')
    p = subprocess.Popen([BIN / 'perilune', '--connect', h.dir, '--json', 'disk', 'import', cluster.dir / 'raw', 'v1:/s'],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    task = until(lambda: [t for t in h.json('task', 'list') if t['verb'] == 'import' and t['state'] == 'running'])[0]
    h.ok('task', 'cancel', task['id'])
    h.ok('fault', 'clear')
    out, err = p.communicate(timeout=60)
    assert p.returncode == EXIT['failed'] and 'cancelled' in err, err
    assert h.json('task', 'show', task['id'])['state'] == 'cancelled'
    h.fails('not-found', 'disk', 'show', 'v1:/s')


def test_bench(cluster):
    lun, h = cluster.lun(), cluster.host()
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    h.ok('disk', 'create', 'v1:/b', '--size', '32M', '--thick')
    for words in ([], ['--op', 'write'], ['--pattern', 'stride', '--stride', '64K'], ['--depth', '1', '--bs', '64K']):
        b = h.json('--yes', 'disk', 'bench', 'v1:/b', '--requests', '2000', *words)
        assert b['errors'] == 0 and b['requests'] >= 2000 and b['iops'] > 0 and b['p99_us'] >= b['p50_us'] > 0
    h.fails('refused', 'disk', 'bench', 'v1:/b', '--op', 'write')
    for words in ['--op', 'x'], ['--depth', '0'], ['--bs', '1000'], ['--pattern', 'x'], ['--seconds', '99999']:
        h.fails('usage', '--yes', 'disk', 'bench', 'v1:/b', *words)


@pytest.mark.slow
def test_damage_is_found_and_named(cluster):
    lun, h = cluster.lun(), cluster.host()
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    h.ok('disk', 'create', 'v1:/a', '--size', '8M')
    inode = h.json('disk', 'show', 'v1:/a')['inode']
    assert 'name: v1' in h.ok('debug', 'dump', 'v1').out
    h.ok('volume', 'unmount', 'v1')             # checkpointed: the inode is in its place
    words = perilune('debug', 'dump', lun, '--block', inode).out
    assert 'inode' in words and h.ok('debug', 'dump', lun, '--block', inode).out == words
    with open(lun, 'r+b') as f:
        f.seek(inode * 4096 + 200)
        f.write(b'\xff' * 16)
    r = perilune('--json', 'volume', 'check', lun)
    assert r.code == EXIT['integrity'] and not r.json['clean'] and r.json['findings'], r
    h.ok('volume', 'mount', lun)
    e = h.fails('integrity', 'disk', 'show', 'v1:/a')
    assert e['message']
    h.ok('disk', 'create', 'v1:/b', '--size', '8M')         # the volume goes on
    h.ok('volume', 'unmount', 'v1')
    perilune('volume', 'check', lun, '--repair')
    r = perilune('--json', 'volume', 'check', lun)
    assert r.code == 0 and r.json['clean'], r


@pytest.mark.slow
def test_four_hosts_work_at_once(cluster):
    lun = cluster.lun(size='4G')
    hosts = [cluster.host(f'h{i}') for i in range(4)]
    hosts[0].ok('volume', 'format', 'v1', lun)
    for h in hosts:
        h.ok('volume', 'mount', lun)

    def work(h):
        for i in range(6):
            h.ok('disk', 'create', f'v1:/{h.name}-{i}', '--size', '64M', timeout=120)
            h.ok('file', 'put', '-', f'v1:/{h.name}-{i}.txt', stdin=f'{h.name} {i}', timeout=120)
            if i % 2:
                h.ok('--yes', 'disk', 'delete', f'v1:/{h.name}-{i}', timeout=120)

    threads = [threading.Thread(target=work, args=(h,)) for h in hosts]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    want = {f'v1:/h{k}-{i}' for k in range(4) for i in (0, 2, 4)}
    for h in hosts:
        assert {d['path'] for d in h.json('disk', 'list', 'v1', timeout=120)} == want
        assert h.ok('file', 'cat', 'v1:/h2-5.txt').out == 'h2 5'
    for h in hosts:
        h.ok('volume', 'unmount', 'v1')
    r = perilune('--json', 'volume', 'check', lun)
    assert r.code == 0 and r.json['clean'], r


@pytest.mark.slow
def test_a_dead_hosts_work_is_taken_over(pair):
    cluster, lun, h1, h2 = pair
    for i in range(5):
        h1.ok('file', 'put', '-', f'v1:/f{i}', stdin=f'content {i}')
    h1.kill()
    began = time.monotonic()
    for i in range(5):
        assert h2.ok('file', 'cat', f'v1:/f{i}', timeout=60).out == f'content {i}'
    h2.ok('--yes', 'file', 'rm', 'v1:/f0', timeout=60)
    assert time.monotonic() - began < 40
    h1.start()
    until(lambda: [v['state'] for v in h1.json('volume', 'list')] == ['mounted'], timeout=40, what='h1 mounted again')
    assert {f['name'] for f in h1.json('file', 'ls', 'v1:/')} == {f'f{i}' for i in range(1, 5)}
    for h in h1, h2:
        h.ok('volume', 'unmount', 'v1')
    assert perilune('volume', 'check', lun).code == 0


def test_an_arrays_clone_is_refused_and_gets_an_identity(cluster):
    lun, h1, h2 = cluster.lun(), cluster.host('h1'), cluster.host('h2')
    h1.ok('volume', 'format', 'v1', lun)
    h1.ok('volume', 'mount', lun)
    h1.ok('file', 'put', '-', 'v1:/f', stdin='original')
    h1.ok('volume', 'unmount', 'v1')
    clone = str(cluster.dir / 'clone')
    subprocess.run(['cp', '--sparse=always', lun, clone], check=True)
    h1.ok('volume', 'mount', lun)
    for h in h1, h2:
        e = h.fails('refused', 'volume', 'mount', clone)
        assert '--new-identity' in e['message'], e
    h2.ok('volume', 'mount', clone, '--new-identity')
    assert h2.ok('file', 'cat', 'v1:/f').out == 'original'
    lun_of = lambda h: h.json('volume', 'show', 'v1')['extents'][0]['lun']
    assert lun_of(h1) != lun_of(h2)
    h2.ok('file', 'put', '-', 'v1:/f', stdin='changed')
    assert h1.ok('file', 'cat', 'v1:/f').out == 'original'
    # one host cannot have both: their blocks carry one id
    assert 'v1' in h1.fails('busy', 'volume', 'mount', clone)['message']


def test_damaged_labels(cluster):
    lun, h = cluster.lun(), cluster.host()
    h.ok('volume', 'format', 'v1', lun)
    with open(lun, 'r+b') as f:                                 # the first copy: the other serves
        f.seek(1 << 20)
        first = f.read(4096)
        assert b'v1' in first
        f.seek(1 << 20)
        f.write(b'\xee' * 4096)
    h.ok('volume', 'mount', lun)
    h.ok('volume', 'unmount', 'v1')
    with open(lun, 'r+b') as f:                                 # every copy
        f.seek(1 << 20)
        f.write(b'\xee' * 4096)
        f.seek(3 << 20)
        assert b'v1' in f.read(4096)
        f.seek(3 << 20)
        f.write(b'\xee' * 4096)
    r = h.run('--json', 'volume', 'mount', lun)
    assert r.code in (EXIT['integrity'], EXIT['not-found']) and r.error['message'], r
    h.fails('not-found', 'volume', 'mount', cluster.lun('blank'))


@pytest.mark.slow
def test_64_daemons_mount_one_volume(cluster):
    lun = cluster.lun(size='4G')
    hosts = [cluster.host(f'h{i:02}') for i in range(64)]
    hosts[0].ok('volume', 'format', 'v1', lun)
    for h in hosts:
        h.ok('volume', 'mount', lun, timeout=120)
    names = {h.name for h in hosts}
    until(lambda: {x['name'] for x in hosts[63].json('volume', 'show', 'v1')['hosts'] if x['state'] == 'active'} == names,
          timeout=60, what='64 active hosts')
    hosts[0].ok('file', 'put', '-', 'v1:/f', stdin='for all', timeout=120)
    assert hosts[63].ok('file', 'cat', 'v1:/f', timeout=120).out == 'for all'
    extra = cluster.host('h64')
    assert extra.run('volume', 'mount', lun, timeout=120).code == EXIT['busy']


@pytest.mark.slow
def test_grow(pair):
    cluster, lun, h1, h2 = pair
    assert 'larger' in h1.fails('usage', 'volume', 'grow', 'v1')['message']
    os.truncate(lun, 3 << 30)
    v = h1.json('volume', 'grow', 'v1')
    assert v['size'] > (3 << 30) - (64 << 20) and v['free'] > 2 << 30
    until(lambda: h2.json('volume', 'show', 'v1')['size'] == v['size'], what='h2 saw it')
    h2.ok('disk', 'create', 'v1:/big', '--size', '2200M', '--thick', timeout=120)
    # another LUN: refused while others are mounted, or when it holds something
    more = cluster.lun('more', '1G')
    h1.fails('busy', 'volume', 'grow', 'v1', more)
    h2.ok('volume', 'unmount', 'v1')
    h1.fails('busy', 'volume', 'grow', 'v1', lun)
    fs = cluster.lun('fs', '1G')
    subprocess.run(['mkfs.ext4', '-q', '-F', fs], check=True, timeout=60)
    h1.fails('refused', 'volume', 'grow', 'v1', fs)
    v = h1.json('volume', 'grow', 'v1', more)
    assert len(v['extents']) == 2
    h1.ok('disk', 'create', 'v1:/two', '--size', '900M', '--thick', timeout=120)
    # remembered with both, and whoever lacks one is told
    h1.stop()
    h1.start()
    assert h1.json('volume', 'list')[0]['state'] == 'mounted'
    h2.fails('not-found', 'volume', 'mount', lun)
    h2.ok('volume', 'mount', more, lun)
    assert h2.json('disk', 'show', 'v1:/two')['allocated'] == 900 << 20
    for h in h1, h2:
        h.ok('volume', 'unmount', 'v1')
    r = perilune('--json', 'volume', 'check', lun, more)
    assert r.code == 0 and r.json['clean'], r


def test_a_disk_in_use_by_a_vm_is_refused_by_its_name(pair):
    if not os.access('/dev/kvm', os.R_OK | os.W_OK):
        pytest.skip('no /dev/kvm')
    from payloads import guest, say
    from vmm import setup_sectors
    cluster, lun, h1, h2 = pair
    kernel = cluster.dir / 'kernel'
    kernel.write_bytes(setup_sectors() + guest(say('up')))
    h1.ok('disk', 'create', 'v1:/d', '--size', '8M')
    h1.ok('vm', 'create', 'web', '--volume', 'v1', '--memory', '16M', '--disk', 'v1:/d', '--kernel', kernel)
    h1.ok('vm', 'start', 'web')
    for h in h1, h2:
        assert h.json('disk', 'show', 'v1:/d')['holder'] == {'kind': 'vm', 'name': 'web', 'host': 'h1'}
        words = [['disk', 'delete', 'v1:/d'], ['disk', 'export', 'v1:/d', cluster.dir / 'x'], ['disk', 'bench', 'v1:/d', '--op', 'write']]
        if h is h2:  # where the VM runs, its disk may grow (test_vm_disks.py)
            words.append(['disk', 'resize', 'v1:/d', '--size', '16M'])
        for w in words:
            e = h.fails('busy', '--yes', *w)
            assert e['holder'] == 'vm web' and 'web' in e['message'], e
    assert h1.fails('busy', 'volume', 'unmount', 'v1')['holder']
    h1.ok('vm', 'kill', 'web')
    assert h2.json('disk', 'show', 'v1:/d')['holder'] is None
    h2.ok('--yes', 'disk', 'delete', 'v1:/d')
