# SPDX-License-Identifier: Apache-2.0
"""A stock Debian guest gives memory back: what it frees by itself, what it is asked for by the balloon; and has it again."""
import json, re, time

import pytest
from perilab import HostSpec, Lab

pytestmark = pytest.mark.slow
APPEND = 'root=LABEL=guestroot rw console=ttyS0 quiet panic=-1 mitigations=off fsck.mode=skip'
LUN = '/var/lib/perilune/lun0'
MiB = 1 << 20
GIVES_BACK_S = 90


@pytest.fixture(scope='module')
def lab():
    with Lab('memory', hosts=[HostSpec(state='3G')], luns=[]) as up:
        yield up


def show(p):
    return json.loads(p.cli('--json vm show guest').out)


def within(console, look, what):
    end = time.monotonic() + GIVES_BACK_S * console.scale
    while not (answer := look()):
        assert time.monotonic() < end, what
        time.sleep(0.5)
    return answer


def meminfo(console, key):
    return int(re.search(rf'^{key}: +(\d+) kB', console.run('cat /proc/meminfo')[1], re.M).group(1)) * 1024


def test_memory_comes_back_and_goes_again(lab):
    host, p = lab.hosts[0], lab.hosts[0].perilune
    p.start()
    host.run(f'truncate -s 2G {LUN}')
    p.cli(f'volume format vol {LUN}')
    p.cli(f'volume mount {LUN}')
    p.cli('disk import /srv/guest/disk.raw vol:/guest.disk', timeout=180)
    p.cli(f'vm create guest --volume vol --memory 256M --memory-max 384M --memory-reservation 64M --disk vol:/guest.disk '
          f'--kernel /srv/guest/vmlinuz --initrd /srv/guest/initrd.img --append "{APPEND}"', timeout=120)
    p.cli('vm start guest', timeout=60)
    console = p.console('guest').login(150)

    # It was started with less than its maximum, and says what it has.
    d = within(console, lambda: (s := show(p)) and (s['guest_memory'] or {}).get('ballooned') == 128 * MiB and s, 'the balloon at start')
    g = d['guest_memory']
    assert 0 < g['free'] < g['total'] <= 384 * MiB and g['available'] > 0 and g['caches'] > 0
    assert d['memory_used'] <= 272 * MiB

    # What it frees it gives back unasked.
    before = d['memory_used']
    console.run('head -c 80M /dev/zero > /dev/shm/file')
    # What is shown is some moments old: wait until it has the file, or there is nothing to come back.
    within(console, lambda: show(p)['memory_used'] > before + 60 * MiB, 'memory in use')
    time.sleep(3)
    used = show(p)['memory_used']
    console.run('rm /dev/shm/file')
    within(console, lambda: show(p)['memory_used'] < used - 50 * MiB, 'free pages reported')
    assert show(p)['guest_memory']['reported_free'] > 50 * MiB

    # Asked for, it gives; the host has it.
    console.run('echo 3 > /proc/sys/vm/drop_caches')
    free = meminfo(console, 'MemFree')
    p.cli('vm set guest --memory 160M')
    within(console, lambda: show(p)['guest_memory']['ballooned'] == 224 * MiB, 'the balloon after vm set')
    assert show(p)['memory_used'] <= 176 * MiB
    assert meminfo(console, 'MemFree') < free - 64 * MiB
    console.run('sha256sum /usr/bin/[a-d]* > /dev/null')                     # it lives with that

    # And back, to all it can have; in use it is the guest's again.
    p.cli('vm set guest --memory 384M')
    within(console, lambda: show(p)['guest_memory']['ballooned'] == 0, 'an empty balloon')
    assert meminfo(console, 'MemFree') > free
    console.run('head -c 150M /dev/urandom > /dev/shm/file && sha256sum /dev/shm/file > /dev/shm/sum && sha256sum -c /dev/shm/sum', timeout=120)
    assert show(p)['memory_used'] > 176 * MiB

    # Its processors, by control groups of version 2.
    p.cli('pool set web --cpu-limit 150')
    p.cli('vm set guest --pool web --cpu-weight 300 --cpu-limit 80')
    group = '/sys/fs/cgroup' + host.run('cat /proc/$(pidof perilune-vmm)/cgroup').out.strip().split('::')[1]
    assert '/perilune/pool-web/' in group, group
    assert host.run(f'cat "{group}/cpu.max" "{group}/cpu.weight" "{group}/../cpu.max"').out.split() == [
        '80000', '100000', '300', '150000', '100000']
    p.cli('vm kill guest')
