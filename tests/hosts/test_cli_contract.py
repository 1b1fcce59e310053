# SPDX-License-Identifier: Apache-2.0
"""The command line's contract (docs/cli.md): words, exit codes, JSON, help; what needs no volume."""
import json, os, pathlib, re, subprocess

import pytest

from hostlib import BIN, TOP, perilune


def test_version_and_help():
    assert re.fullmatch(r'perilune \d+\.\d+\S*\n', perilune('--version').out)
    r = perilune('--help')
    assert r.code == 0 and 'example:' in r.out
    assert max(map(len, r.out.splitlines())) <= 80


def all_verbs():
    """From the synopses that the help is made of."""
    for line in perilune('--help-markdown').out.splitlines():
        m = re.match(r'`perilune (\w+)(?: (\w+))?', line)
        if m:
            yield m[1], m[2] if m[2] and m[2].islower() else ''


@pytest.mark.slow
def test_every_verb_has_help_within_80_columns_and_an_example():
    verbs = list(all_verbs())
    assert ('lun', 'probe') in verbs
    for noun, verb in verbs:
        r = perilune(noun, *([verb] if verb else []), '--help')
        assert r.code == 0, r
        assert 'usage: perilune ' + noun in r.out and 'example: perilune' in r.out, r
        # an example may be one long line: it is to be copied
        assert all(len(l) <= 80 for l in r.out.splitlines()), r


def test_cli_document_has_every_synopsis():
    doc = (TOP / 'docs/cli.md').read_text()
    for line in perilune('--help-markdown').out.splitlines():
        if line.startswith('`'):
            assert line in doc, f'docs/cli.md lacks {line}'


@pytest.mark.parametrize('words', [
    [], ['lun'], ['nonsense'], ['lun', 'nonsense'], ['lun', 'probe'], ['lun', 'list', 'extra'],
    ['lun', 'list', '--no-such'], ['task', 'show', 'abc'], ['--progress=loud', 'lun', 'list'], ['fault', 'add', 'x'],
    ['volume', 'format', 'v1'], ['lun', 'probe', '/x', '--chap-file'],
])
def test_bad_words_are_usage(words):
    r = perilune('--json', *words)
    assert r.code == 2 and r.out == '', r
    assert r.error['name'] == 'usage' and r.error['message'], r


def test_no_daemon_is_unreachable():
    r = perilune('lun', 'list')
    assert r.code == 8 and 'start perilund' in r.err, r
    r = perilune('--json', 'lun', 'list')
    assert r.code == 8 and r.error['name'] == 'unreachable' and r.error['code'] == 8, r


def test_dry_run_does_nothing(tmp_path):
    lun = tmp_path / 'lun'
    lun.write_bytes(b'\0' * (1 << 20))
    r = perilune('--dry-run', 'volume', 'format', 'v1', lun)
    assert r.code == 0 and json.loads(r.out)['would']['args']['luns'] == [str(lun)], r
    assert lun.read_bytes() == b'\0' * (1 << 20)


PROBE = {'id', 'size', 'block_size', 'physical_block_size', 'compare_and_write', 'reservations', 'preempt_abort',
         'unmap', 'write_same', 'paths'}


def test_lun_probe_without_and_with_daemon(cluster):
    lun = cluster.lun(size='300M')
    here = perilune('--json', 'lun', 'probe', lun)
    assert here.code == 0, here
    host = cluster.host()
    there = host.json('lun', 'probe', lun)
    for d in here.json, there:
        assert PROBE <= d.keys() and d['size'] == 300 << 20 and d['compare_and_write'] == 'file'
        assert d['id'].startswith('file.') and isinstance(d['paths'], list)
    assert here.json['id'] == there['id']
    # relative paths are the caller's, several LUNs give a list
    r = subprocess.run([BIN / 'perilune', '--json', 'lun', 'probe', 'lun0', './lun0'], cwd=cluster.dir, text=True,
                       stdout=subprocess.PIPE, check=True, env={**os.environ, 'PERILUNE_CONNECT': str(host.dir)})
    assert [d['id'] for d in json.loads(r.stdout)] == [there['id']] * 2
    # for people
    assert 'compare_and_write' in host.ok('lun', 'probe', lun).out


def test_lun_errors(cluster):
    host = cluster.host()
    missing = str(cluster.dir / 'nix')
    e = host.fails('not-found', 'lun', 'probe', missing)
    assert missing in e['message'] and e['object'] == missing
    host.fails('not-found', 'lun', 'disconnect', missing)


def test_lun_connect_is_remembered(cluster):
    lun, host = cluster.lun(), cluster.host()
    assert host.json('lun', 'list') == []
    d = host.json('lun', 'connect', lun)
    assert [(x['id'], x['state']) for x in host.json('lun', 'list')] == [(d['id'], 'connected')]
    host.kill()
    os.truncate(lun, 2 << 30)
    host.start()
    listed = host.json('lun', 'list')
    assert [(x['id'], x['state'], x['size']) for x in listed] == [(d['id'], 'connected', 2 << 30)]
    os.truncate(lun, 3 << 30)
    again = host.json('lun', 'rescan')[0]
    assert again['size'] == 3 << 30 and again['old_size'] == 2 << 30
    host.ok('lun', 'disconnect', d['id'])
    assert host.json('lun', 'list') == []


def test_host_check_probes_and_says_cures(cluster):
    names = {'kvm', 'kvm-stock-kernels', 'nested', 'huge-pages', 'io_uring', 'memlock'}
    for rows in perilune('--json', 'host', 'check').json, cluster.host().json('host', 'check'):
        assert names <= {r['name'] for r in rows}
        for r in rows:
            assert r.keys() >= {'name', 'ok', 'detail', 'cure'} and isinstance(r['ok'], bool) and r['detail']
            assert r['ok'] == (r['cure'] == '')


def test_faults_by_the_command_line(cluster):
    lun, host = cluster.lun(), cluster.host()
    host.ok('lun', 'connect', lun)
    assert host.json('fault', 'list') == []
    f = host.json('fault', 'add', lun, '--kind', 'fail', '--op', 'read', '--for', '60')
    assert host.json('fault', 'list')[0]['id'] == f['id']
    host.fails('usage', 'fault', 'add', lun, '--kind', 'sulk')
    host.ok('fault', 'clear', f['id'])
    assert host.json('fault', 'list') == []


@pytest.mark.slow
def test_second_daemon_on_a_state_directory_is_refused(cluster):
    host = cluster.host()
    p = subprocess.run([BIN / 'perilund', '--state', host.dir], text=True, timeout=30, stderr=subprocess.PIPE)
    assert p.returncode == 4 and f'pid {host.proc.pid}' in p.stderr and '--state' in p.stderr
    assert host.json('host', 'show')['pid'] == host.proc.pid  # and the first one is well


def test_host_names_are_kept(cluster):
    host = cluster.host()
    a = host.json('host', 'show')
    isid = (host.dir / 'isid').read_text()
    host.stop()
    host.start()
    b = host.json('host', 'show')
    assert (a['id'], a['initiator'], isid) == (b['id'], b['initiator'], (host.dir / 'isid').read_text())
    assert re.fullmatch(r'iqn\.2026-11\.\S+', a['initiator']) and a['name'] == 'h1'


def test_events_and_tasks_survive_the_daemon(cluster):
    lun, host = cluster.lun(), cluster.host()
    host.ok('volume', 'format', 'v1', lun)
    task = host.json('task', 'list')[-1]
    assert task['verb'] == 'format' and task['state'] == 'done' and task['result']['name'] == 'v1'
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ', task['started'])
    ids = [e['id'] for e in host.json('event', 'list')]
    host.stop()
    host.start()
    assert host.json('task', 'show', task['id']) == task
    assert host.ok('task', 'watch', task['id']).code == 0
    after = [e['id'] for e in host.json('event', 'list')]
    assert after[:len(ids)] == ids and len(after) > len(ids) and after == sorted(set(after))
    host.fails('not-found', 'task', 'show', '4711')
    host.fails('usage', 'task', 'cancel', task['id'])
    e = host.json('event', 'show', after[0])
    assert e.keys() >= {'id', 'time', 'kind', 'object', 'text'}


def test_format_refuses_what_is_there(cluster):
    host = cluster.host()
    small, table, fs, good = cluster.lun('small', '8M'), cluster.lun('t'), cluster.lun('fs'), cluster.lun('good')
    host.fails('usage', 'volume', 'format', 'v1', small)
    with open(table, 'r+b') as f:
        f.seek(510)
        f.write(b'\x55\xaa')
        f.seek(446 + 4)
        f.write(b'\x83\0\0\0\0\x08\0\0\0\0\x10\0\0')
    subprocess.run(['mkfs.ext4', '-q', '-F', fs], check=True, timeout=60)
    for lun in table, fs:
        e = host.fails('refused', 'volume', 'format', 'v1', lun)
        assert '--overwrite' in e['message'] and lun in e['message'], e
        # --yes is no --overwrite
        host.fails('refused', '--yes', 'volume', 'format', 'v1', lun)
        # without a terminal, what destroys wants --yes
        host.fails('refused', 'volume', 'format', 'v1', lun, '--overwrite')
        host.ok('--yes', 'volume', 'format', 'v1', lun, '--overwrite')
    host.ok('volume', 'format', 'v2', good)
    host.fails('refused', 'volume', 'format', 'v3', good)
    for name in 'a/b', 'x' * 64, '\x07':
        host.fails('usage', '--yes', 'volume', 'format', name, good, '--overwrite')


def test_format_offline(cluster):
    lun = cluster.lun()
    r = perilune('--json', 'volume', 'format', 'v1', lun)
    assert r.code == 0 and r.json['name'] == 'v1', r
    assert perilune('volume', 'format', 'v1', lun).code == 5


def test_discover(cluster):
    from targets import Tgt, free_port
    with Tgt(size='64M', luns=2) as tgt:
        here = perilune('--json', 'lun', 'discover', tgt.portal)
        assert here.code == 0, here
        assert {d['lun'] for d in here.json if d['lun']} >= set(tgt.luns) and here.json[0]['target'] == tgt.iqn
        host = cluster.host()
        assert {d['lun'] for d in host.json('lun', 'discover', tgt.portal)} >= set(tgt.luns)
        assert tgt.url in host.ok('lun', 'discover', tgt.portal).out
        # what is discovered can be used
        d = host.json('lun', 'connect', tgt.url)
        assert d['compare_and_write'] == 'baton' and d['id'] == host.json('lun', 'list')[0]['id']
        assert host.json('lun', 'probe', d['id'])['id'] == d['id']
    host.fails('unreachable', 'lun', 'discover', f'127.0.0.1:{free_port()}')
    host.fails('usage', 'lun', 'discover', 'a/b')


def test_chap_comes_from_a_file_and_is_never_said(cluster):
    from targets import Tgt
    with Tgt(size='64M', chap=('anna', 'verysecret12')) as tgt:
        host = cluster.host()
        chap = cluster.dir / 'chap'
        chap.write_text('anna verysecret12\n')
        assert host.run('lun', 'connect', tgt.url).code != 0
        host.ok('lun', 'connect', tgt.url, '--chap-file', chap)
        host.stop()
        host.start()                                        # and the file is remembered, not what is in it
        assert host.json('lun', 'list')[0]['state'] == 'connected'
        said = host.ok('-v', '--json', 'lun', 'list').out + host.log.read_text() + json.dumps(host.json('task', 'list'))
        assert 'verysecret' not in said and 'verysecret' not in str((host.dir / 'inventory').read_bytes())
