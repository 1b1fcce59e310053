# SPDX-License-Identifier: Apache-2.0
"""The iscsi backend on LIO: ATS, reservations, reinstatement; native programs against the lab's SAN."""
import os, subprocess

import pytest
from perilab import Lab, Lun

pytestmark = pytest.mark.slow
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, os.environ.get('BUILD', 'build'), 'tests', 'hosts')


@pytest.fixture(scope='module')
def lab():
    with Lab('blockdev', hosts=0, luns=[Lun('512M'), Lun('512M', block_size=4096)], guest=False) as up:
        yield up


def start(lab, program, *args):
    return lab.native([f'{BUILD}/{program}', *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(p, timeout=100):
    try:
        out, err = p.communicate(timeout=timeout)
    finally:
        if p.poll() is None:
            p.kill()
            p.wait()
    assert p.returncode == 0, (out, err[-3000:])
    return out


def info(lab, lun):
    return dict(line.split(' ', 1) for line in finish(start(lab, 'lun_check', 'info', lab.san.url(lun, ['sana']))).splitlines())


def test_info(lab):
    first, second = info(lab, 0), info(lab, 1)
    assert (first['block_size'], second['block_size']) == ('512', '4096')
    assert first['id'] != second['id']
    for lun in (first, second):
        assert lun['id'].startswith('naa.6001405') and lun['cas'] == 'ats', lun
        assert all(lun[name] == '1' for name in ('reservations', 'preempt_abort', 'unmap', 'write_same', 'reinstatement')), lun


@pytest.mark.parametrize('lun', [0, 1])
@pytest.mark.parametrize('verb', ['data', 'cas', 'reset', 'look', 'fence'])
def test_verb(lab, verb, lun):
    finish(start(lab, 'lun_check', verb, lab.san.url(lun, ['sana'])))


@pytest.mark.parametrize('options,count', [([], 50), (['--timeout', '1500', '--fault', 'lost-answer=20,4'], 25),
                                           (['--timeout', '1000', '--fault', 'late-write=1200,3'], 25)],
                         ids=['plain', 'answers-lost', 'late'])
def test_cas(lab, options, count):
    """4 hosts increment under a lock made of ATS: no update is lost."""
    url = lab.san.url(0, ['sana', 'sanb'])
    before = int(finish(start(lab, 'cas_incr', '--print', url)))
    procs = [start(lab, 'cas_incr', '--seed', str(100 * i), *options, url, str(count)) for i in range(4)]
    outs = [finish(p) for p in procs]
    assert all('cas ats' in out for out in outs)
    assert not options or sum(int(out.split('unknown ')[1].split()[0]) for out in outs) > 4, outs
    assert int(finish(start(lab, 'cas_incr', '--print', url))) - before == 4 * count


def test_unmount_leaves_no_registration(lab, tmp_path):
    """None of any session's, also of those that ended before the last one: it would outlive them and keep others out."""
    finish(start(lab, '../bench/lock_pairs', 'ours', lab.san.url(0, ['sana']), tmp_path / 'state', '0.2'))
    keys = lab.san.run('cat /sys/kernel/config/target/core/iblock_0/lun0/pr/res_pr_registered_i_pts').out
    assert 'Key' not in keys, keys
