# SPDX-License-Identifier: Apache-2.0
"""Network devices of VMs: the tap's way into a bridge and out of it, frames through a real guest's driver, refusals."""
import os, pathlib, re, subprocess

import pytest
from hostlib import BIN, Cluster, Host, until
from netlib import Lan
from payloads import c_kernel
from vmlib import show, state

KVM = os.access('/dev/kvm', os.R_OK | os.W_OK)
needs_kvm = pytest.mark.skipif(not KVM, reason='no /dev/kvm')
MACS = ('02:00:00:00:00:02', '02:00:00:00:00:03')


@pytest.fixture(scope='module')
def net():
    """A LAN of two hosts with a volume, and a payload guest's kernel."""
    with Lan() as lan, Cluster() as c:
        lun = c.lun()
        lan.hosts = []
        for i in range(2):
            h = c.hosts[f'h{i + 1}'] = Host(c, f'h{i + 1}', lan.within(i))
            h.start('--listen', f'10.99.0.{200 + i}:0')
            if i == 0:
                h.ok('volume', 'format', 'v1', lun)
            h.ok('volume', 'mount', lun)
            lan.hosts.append(h)
        until(lambda: all(len(h.json('host', 'list')) == 2 for h in lan.hosts))
        lan.kernel = pathlib.Path(c.dir) / 'net_echo'
        lan.kernel.write_bytes(c_kernel('net_echo'))
        lan.cluster = c
        yield lan


@pytest.fixture
def vm(net, request):
    """A name that no other test has; its VM is gone afterwards."""
    name = request.node.name.replace('[', '-').replace(']', '')[:40]
    yield name
    for h in net.hosts:
        if not h.proc or h.proc.poll() is not None:
            h.start('--listen', f'10.99.0.{200 + net.hosts.index(h)}:0')
        h.run('vm', 'kill', name)
    net.hosts[0].run('--yes', 'vm', 'delete', name)


def create(net, name, *nets, memory='16M'):
    words = [w for n in nets for w in ('--net', n)]
    return net.hosts[0].json('vm', 'create', name, '--volume', 'v1', '--memory', memory, '--kernel', net.kernel, *words)


@needs_kvm
def test_a_guest_answers_pings_and_its_tap_goes_with_it(net, vm):
    h = net.hosts[0]
    assert create(net, vm, f'bridge=br0,mac={MACS[0]}')['nets'][0]['state'] == 'off'
    h.ok('vm', 'start', vm)
    (port,) = net.ports(0)
    assert show(h, vm)['nets'] == [{'bridge': 'br0', 'mac': MACS[0], 'queues': 1, 'state': 'connected', 'device': port}]
    with net.pinger('10.99.0.2') as p:
        p.first()
        until(lambda: 'up 020000000002 link' in h.ok('vm', 'console', vm, '--log').out)
        p.stop()
        assert p.lost == 0
    net.ip('link', 'set', port, 'nomaster', ns=net.ns[0])
    assert show(h, vm)['nets'][0]['state'] == 'disconnected'
    net.ip('link', 'set', port, 'master', 'br0', ns=net.ns[0])
    h.ok('vm', 'kill', vm)
    until(lambda: net.ports(0) == [])
    assert show(h, vm)['nets'][0]['state'] == 'off' and 'device' not in show(h, vm)['nets'][0]


@needs_kvm
def test_the_network_goes_on_without_the_daemon_and_the_tap_goes_with_the_monitor(net, vm):
    h = net.hosts[0]
    create(net, vm, f'bridge=br0,mac={MACS[0]}')
    h.ok('vm', 'start', vm)
    before = show(h, vm)
    with net.pinger('10.99.0.2') as p:
        p.first()
        h.kill()
        h.start('--listen', '10.99.0.200:0')
        until(lambda: state(h, vm) == 'running')
        assert p.stop().lost == 0
    assert show(h, vm)['nets'] == before['nets'] and show(h, vm)['pid'] == before['pid']
    h.kill()
    os.kill(before['pid'], 9)
    until(lambda: net.ports(0) == [])           # nobody but the monitor has it


@needs_kvm
def test_two_devices_and_a_tap_that_was_there(net, vm):
    h = net.hosts[0]
    net.ip('tuntap', 'add', 'mytap', 'mode', 'tap', 'vnet_hdr', ns=net.ns[0])
    try:
        net.ip('link', 'set', 'mytap', 'address', '02:00:00:00:00:0a', ns=net.ns[0])     # a low one: no bridge may take it
        net.ip('link', 'set', 'mytap', 'master', 'br0', ns=net.ns[0])
        nets = create(net, vm, f'tap=mytap,mac={MACS[0]}', 'bridge=br0')['nets']
        assert int(nets[1]['mac'][:2], 16) & 3 == 2                         # locally administered, of one interface
        h.ok('vm', 'start', vm)
        with net.pinger('10.99.0.2') as p:
            assert p.first().stop().lost == 0
        assert [(n.get('tap'), n.get('bridge'), n['state']) for n in show(h, vm)['nets']] == [
            ('mytap', None, 'connected'), (None, 'br0', 'connected')]
        assert show(h, vm)['nets'][1]['mac'] == nets[1]['mac']
        h.ok('vm', 'kill', vm)
        until(lambda: net.ports(0) == [])
        net.ip('link', 'show', 'mytap', ns=net.ns[0])                       # not ours to take away
    finally:
        net.ip('link', 'delete', 'mytap', ns=net.ns[0])


def test_what_cannot_be_is_refused_and_named(net, vm):
    h = net.hosts[0]
    for words in ('bridge=', 'br0', 'bridge=br0,tap=t', 'vlan=3', 'bridge=br0,vlan=4095', 'bridge=br0,mac=01:00:00:00:00:01',
                  'bridge=br0,mac=02:00', 'bridge=a/b', 'tap=t,vlan=2', 'bridge=br0,queues=9', 'bridge=br0,speed=1'):
        assert 'say bridge=BR' in (e := h.fails('usage', 'vm', 'create', vm, '--volume', 'v1', '--memory', '16M', '--net', words))[
            'message'] or 'VLAN' in e['message'], words
    create(net, vm, 'bridge=br9')
    e = h.fails('not-found', 'vm', 'start', vm)
    assert 'bridge br9' in e['message'] and 'no such interface' in e['message'] and state(h, vm) == 'stopped'
    h.ok('--yes', 'vm', 'delete', vm)
    create(net, vm, 'bridge=up0')
    assert 'no bridge' in h.fails('usage', 'vm', 'start', vm)['message']
    h.ok('--yes', 'vm', 'delete', vm)
    create(net, vm, 'bridge=br0,vlan=7')        # br0 does not filter VLANs
    assert 'vlan_filtering 1' in h.fails('usage', 'vm', 'start', vm)['message']
    h.ok('--yes', 'vm', 'delete', vm)
    create(net, vm, 'tap=nosuch')
    assert 'tap nosuch' in h.fails('not-found', 'vm', 'start', vm)['message']
    assert net.ports(0) == []


@pytest.mark.slow
@needs_kvm
def test_no_ping_is_lost_when_a_vm_moves(net, vm):
    def announced(host):
        return host.run('vm', 'console', vm, '--log').out.count('announce')

    h1, h2 = net.hosts
    create(net, vm, f'bridge=br0,mac={MACS[0]}')
    h1.ok('vm', 'start', vm)
    with net.pinger('10.99.0.2') as p:
        p.first()
        for source, target, at in ((h1, h2, 1), (h2, h1, 0), (h1, h2, 1)):
            told = announced(target)
            source.ok('vm', 'migrate', vm, '--to', target.name, '--max-downtime', '20000', timeout=120)
            assert len(net.ports(at)) == 1 and show(target, vm)['nets'][0]['state'] == 'connected'
            until(lambda: net.ports(1 - at) == [])
            until(lambda: announced(target) > told)             # the guest did, and acknowledged
        p.stop()
        assert p.lost == 0, (p.sent, p.longest)
    for h in net.hosts:
        assert 'bad' not in h.ok('vm', 'console', vm, '--log').out


@pytest.mark.slow
@needs_kvm
def test_what_came_while_it_stood_still_is_sent_after(net, vm):
    """The source is stopped in the middle of the standstill: frames wait in its tap, and only there."""
    h1, h2 = net.hosts
    create(net, vm, f'bridge=br0,mac={MACS[0]}')
    h1.ok('vm', 'start', vm)
    steps = h1.dir / 'steps'
    steps.mkdir(exist_ok=True)
    with net.pinger('10.99.0.2') as p:
        p.first()
        (steps / 'source.saved').write_text('')
        task = subprocess.Popen([BIN / 'perilune', '--connect', h1.dir, 'vm', 'migrate', vm, '--to', 'h2', '--max-downtime', '20000'],
                                stdout=subprocess.DEVNULL)
        try:
            until(lambda: (steps / 'source.saved.reached').exists(), timeout=60)
            before = net.went('p0', net.switch)[0]
            with net.pinger('10.99.0.2', interval=1, wait=20000, most=2000) as during:
                until(lambda: net.went('p0', net.switch)[0] >= before + 2000, timeout=60)
                assert net.went(net.ports(0)[0], net.ns[0])[1] == 0         # more than the kernel's usual 1000 wait in it
                (steps / 'source.saved').unlink()
                assert task.wait(60) == 0
                until(lambda: state(h2, vm) == 'running')
                assert during.first().stop().lost == 0 and during.sent == 2000
        finally:
            (steps / 'source.saved').unlink(missing_ok=True)
            task.wait()
        assert p.stop().lost == 0, (p.sent, p.longest)
    assert int(re.findall(r' (\d+) frames were sent after it', h1.log.read_text())[-1]) > 1000


def test_a_host_without_the_bridge_refuses_before_anything_moves(net, vm):
    h1, h2 = net.hosts
    net.ip('link', 'add', 'brx', 'type', 'bridge', ns=net.ns[0])
    try:
        create(net, vm, 'bridge=brx')
        if not KVM:
            pytest.skip('no /dev/kvm')
        h1.ok('vm', 'start', vm)
        pid = show(h1, vm)['pid']
        e = h1.fails('not-found', 'vm', 'migrate', vm, '--to', 'h2')
        assert 'bridge brx' in e['message'] and 'h2' in e['message'], e
        assert state(h1, vm) == 'running' and show(h1, vm)['pid'] == pid
    finally:
        net.ip('link', 'delete', 'brx', ns=net.ns[0])
