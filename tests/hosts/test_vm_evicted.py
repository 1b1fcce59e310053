# SPDX-License-Identifier: Apache-2.0
"""A host is taken over while its daemon lives: stopped past its lease with a VM that writes as deep as it can. Its
guest stands still by itself, nothing of it lands late, it runs elsewhere, and the host comes back as somebody new."""
import os, signal, time

import pytest
from hostlib import EXIT, until
from proc import alive, stands_still
from targets import Tgt
from vmlib import Shell, create, show, state

if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)

pytestmark = pytest.mark.slow


def format_and_mount(lun, hosts, hidden=False, fence='auto'):
    """`hidden`: the LUN says that it has no reservations; its compare-and-write stays what it is."""
    for h in hosts:
        if hidden:
            h.ok('lun', 'connect', lun)
            h.ok('fault', 'add', lun, '--kind', 'no-reservations')
        if h is hosts[0]:
            h.ok('volume', 'format', 'v1', lun, '--fence', fence)
        h.ok('volume', 'mount', lun)
    hosts[0].ok('disk', 'create', 'v1:/a.disk', '--size', '64M')
    create(hosts[0])


def start_elsewhere(host, timeout=90):
    end = time.monotonic() + timeout
    while (r := host.run('vm', 'start', 'g', timeout=120)).code:
        assert r.code == EXIT['busy'] and 'h1' in r.err and time.monotonic() < end, r
        time.sleep(0.5)


def mounted(host):
    r = host.run('--json', 'volume', 'show', 'v1')
    return r.code == 0 and r.json['state'] == 'mounted'


def evict(cluster, lun, **how):
    h1, h2 = cluster.host('h1'), cluster.host('h2')
    format_and_mount(lun, [h1, h2], **how)
    h1.ok('vm', 'start', 'g')
    pid = show(h1)['pid']
    with Shell(h1) as first:
        first.expect('ready')
        first.run('s 2000', 's 2048')
        h1.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    stands_still(pid, 40)
    start_elsewhere(h2)
    took = time.monotonic() - stopped
    assert show(h2)['host'] == 'h2' and state(h2) == 'running'
    with Shell(h2) as shell:
        shell.expect('ready')
        shell.run('w 0 2000 1 4000000000', 'w ok')
        h1.signal(signal.SIGCONT)
        yield h1, h2, took
        until(lambda: not alive(pid), 40, what='the old VMM ending')
        until(lambda: mounted(h1), 60, what='the volume being mounted anew')
        for h in (h1, h2):
            assert (show(h)['state'], show(h)['host']) == ('running', 'h2')
        r = h1.run('vm', 'start', 'g')
        assert r.code == EXIT['busy'] and 'h2' in r.err, r
        time.sleep(1)
        shell.run('r 0 2000 1 4000000000', 'r ok')                      # nothing came late
    h2.ok('vm', 'kill', 'g')
    h1.ok('vm', 'start', 'g')                                           # and it is good for something again
    with Shell(h1) as shell:
        until(lambda: shell.said().count('ready') == 2, what='the guest on its first host')
        shell.run('r 0 2000 1 4000000000', 'r ok')
    h1.ok('vm', 'kill', 'g')
    for h in (h1, h2):
        h.ok('volume', 'unmount', 'v1')
    h1.ok('volume', 'check', lun)


def both_see_it(h1):
    for words in ('evicted', 'another host took over'):
        until(lambda: any(words in e['text'] for e in h1.json('event', 'list')), 40, what=f'{words!r} among the events')


def test_on_an_iscsi_lun_it_comes_back_by_itself(cluster):
    with Tgt(size='1G') as t:
        for h1, h2, took in evict(cluster, t.url):
            both_see_it(h1)


# Of a format without options: a host that cannot be fenced otherwise may write for a lease after its last beat, and what
# it sent may land a flight time later.
LEASE_S, FLIGHT_S, BEAT_S = 6, 3, 1


def test_without_reservations_time_has_to_pass(cluster):
    with Tgt(size='1G') as t:
        for h1, h2, took in evict(cluster, t.url, hidden=True, fence='time'):
            assert h2.json('volume', 'show', 'v1')['fence'] == 'time'
            assert took > LEASE_S + FLIGHT_S - BEAT_S, took
            both_see_it(h1)


def test_without_reservations_and_by_default_nobody_is_taken_over(cluster):
    with Tgt(size='1G') as t:
        h1, h2 = cluster.host('h1'), cluster.host('h2')
        format_and_mount(t.url, [h1, h2], hidden=True)
        assert h2.json('volume', 'show', 'v1')['fence'] == 'none'
        assert any('unfenced' in a['text'] for a in h2.json('status')['alarms'])
        h1.ok('vm', 'start', 'g')
        pid = show(h1)['pid']
        assert show(h2)['host'] == 'h1'                                 # what it reads of the VM is no host's alone from now on
        h1.kill()
        until(lambda: any('unfenced' in e['text'] and 'h1' in e['text'] for e in h2.json('event', 'list')), 60,
              what='the other host saying that it cannot take over')
        assert (show(h2)['state'], show(h2)['host']) == ('running', 'h1')
        h1.start()                                                      # the same life goes on
        h1.ok('volume', 'show', 'v1')
        assert show(h1)['pid'] == pid
        until(lambda: state(h1) == 'running', 60, what='the guest going on')
        h1.ok('vm', 'kill', 'g')


def test_on_a_file_it_is_ended_and_started_again(cluster):
    for h1, h2, took in evict(cluster, cluster.lun()):
        assert h1.proc.wait(20) == -signal.SIGKILL                      # that is how a file is fenced
        h1.start()
