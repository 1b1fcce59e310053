# SPDX-License-Identifier: Apache-2.0
"""The iscsi backend on a tgtd of the test's own. LIO has its turn in tests/lab."""
import subprocess, tempfile

import pytest

from targets import Tgt, program


def check(verb, *args, rc=0, timeout=60, options=()):
    p = subprocess.run([program('lun_check'), *options, verb, *args], capture_output=True, text=True, timeout=timeout)
    assert p.returncode == rc, (verb, args, p.returncode, p.stdout, p.stderr[-3000:])
    return dict(line.split(' ', 1) for line in p.stdout.splitlines()) if verb == 'info' and not rc else p.stderr


@pytest.fixture
def tgt():
    with Tgt() as t:
        yield t


def test_info(tgt):
    info = check('info', tgt.url)
    assert info['id'] == f't10.PERI{tgt.serials[0]}' or tgt.serials[0] in info['id'], info
    assert int(info['size']) == 64 << 20 and info['block_size'] == '512' and info['cas'] == 'baton'
    assert info['reservations'] == '1' and info['preempt_abort'] == '0' and info['reinstatement'] == '0'
    assert info['unmap'] == '0'


def test_thin_and_4k():
    with Tgt(thin=True, block_size=4096) as t:
        info = check('info', t.url)
        assert info['unmap'] == '1' and info['block_size'] == '4096'
        check('data', t.url)
        check('cas', t.url)


def test_two_luns_and_portals():
    """Two LUNs of one target, one host: their sessions do not end each other. A dead portal is passed over."""
    with Tgt(luns=2) as t:
        ids = {check('info', url)['id'] for url in t.luns}
        assert len(ids) == 2
        url = t.url.replace('iscsi://', 'iscsi://127.0.0.1:1,')
        assert check('info', url)['id'] in ids


@pytest.mark.parametrize('verb', ['data', 'cas', 'reset', 'look', 'fence'])
def test_verb(tgt, verb):
    check(verb, tgt.url)


@pytest.mark.slow
def test_idle_answers_nop(tgt):
    for name, value in (('nop_interval', '1'), ('nop_count', '2')):
        tgt.adm('--mode', 'target', '--op', 'update', '--tid', '1', '-n', name, '-v', value)
    check('idle', tgt.url, '5')


def test_silent_target(tgt):
    check('stopped', tgt.url, str(tgt.proc.pid))


def test_chap():
    with Tgt(chap=('user1', 'secretsecret1')) as t, tempfile.NamedTemporaryFile('w') as good, \
            tempfile.NamedTemporaryFile('w') as bad:
        good.write('user1 secretsecret1\n')
        bad.write('user1 wrongwrong123\n')
        good.flush(), bad.flush()
        check('cas', t.url, options=('--chap-file', good.name))
        assert 'secretsecret1' not in check('info', t.url, rc=1, options=('--chap-file', bad.name))
        check('info', t.url, rc=1)


def test_errors():
    said = check('info', 'iscsi://127.0.0.1:1/iqn.2026-01.org.perilune:none/1', rc=1, options=('--timeout', '1000'))
    assert '127.0.0.1:1' in said
    for url in ('iscsi://', 'iscsi://host', 'iscsi://host/iqn', 'iscsi://host/iqn/x', 'iscsi://u%p@host/iqn/1'):
        check('info', url, rc=1)


def test_no_such_lun(tgt):
    check('info', tgt.url[:-1] + '7', rc=1)
