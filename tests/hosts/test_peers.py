# SPDX-License-Identifier: Apache-2.0
"""Hosts that reach each other over the network: found in the beats, known by the volume's secret; commands
passed on; strangers, garbage, a cut network. Nothing may depend on any of it."""
import contextlib, os, socket, subprocess, threading, time, uuid

import pytest

from netlib import Net
from hostlib import EXIT, Host, until
from targets import Tgt

ANY = ('--listen', '127.0.0.1:0')
STRANGER = '127.0.0.66'  # another address than the hosts', so that its delays are not theirs


def members(host):
    return {h['name']: h for h in host.json('host', 'list')}


@pytest.fixture
def three(cluster):
    """h1 and h2 on v1; h3 has a volume of its own."""
    lun = cluster.lun(size='1G')
    h1, h2, h3 = (cluster.host(n, *ANY) for n in ('h1', 'h2', 'h3'))
    h1.ok('volume', 'format', 'v1', lun)
    h1.ok('volume', 'mount', lun)
    h2.ok('volume', 'mount', lun)
    other = cluster.lun('other', size='256M')
    h3.ok('volume', 'format', 'v3', other)
    h3.ok('volume', 'mount', other)
    until(lambda: members(h1).get('h2', {}).get('address') and members(h2).get('h1', {}).get('address'), what='they see each other')
    return cluster, h1, h2, h3


def port_of(host):
    return int(host.json('host', 'show')['address'].rsplit(':', 1)[1])


def connect(port, source=STRANGER):
    s = socket.socket()
    s.settimeout(20)
    s.bind((source, 0))
    s.connect(('127.0.0.1', port))
    return s


def knock(port, identity):
    """TLS 1.3 with a wrong secret for the volume of that id."""
    p = subprocess.run(['openssl', 's_client', '-bind', f'{STRANGER}:0', '-connect', f'127.0.0.1:{port}', '-tls1_3',
                        '-psk_identity', identity, '-psk', '00' * 32, '-ciphersuites', 'TLS_AES_128_GCM_SHA256'],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert 'alert' in p.stdout and 'Reused, TLSv1.3' not in p.stdout, p.stdout


def rss_kib(host):
    with open(f'/proc/{host.proc.pid}/status') as f:
        return next(int(line.split()[1]) for line in f if line.startswith('VmRSS'))


def events(host, word):
    return [e for e in host.json('event', 'list', '--limit', '2000') if e['kind'] == 'peer' and word in e['text']]


def test_hosts_are_listed_with_their_connections(three):
    cluster, h1, h2, h3 = three
    hosts = members(h1)
    assert set(hosts) == {'h1', 'h2'}
    assert hosts['h1']['connection'] == 'self' and hosts['h2']['connection'] in ('idle', 'connecting', 'connected')
    assert hosts['h2']['address'] == h2.json('host', 'show')['address'] and {'slot', 'epoch', 'state', 'volume'} <= hosts['h2'].keys()
    h1.ok('--on', 'h2', 'host', 'show')
    assert members(h1)['h2']['connection'] == 'connected' and members(h1)['h2']['connection_error'] is None
    assert 'connected' in h1.ok('host', 'list').out
    # one without a place on the network
    h4 = cluster.host('h4')
    h4.ok('volume', 'mount', h1.json('volume', 'paths', 'v1')[0]['path'])
    until(lambda: 'h4' in members(h1), what='h4 is seen')
    assert members(h1)['h4']['connection'] == 'none' and members(h1)['h4']['address'] == ''
    assert 'address' in h1.fails('unreachable', '--on', 'h4', 'host', 'show')['message']
    h4.ok('--on', 'h1', 'host', 'show')  # but it reaches others


def test_commands_are_passed_on(three):
    cluster, h1, h2, h3 = three
    assert h1.json('--on', 'h2', 'host', 'show')['name'] == 'h2'
    assert h1.json('--on', h2.json('host', 'show')['id'], 'host', 'show')['name'] == 'h2'
    assert h1.json('--on', 'h1', 'host', 'show')['name'] == 'h1'  # itself
    # answers, errors and exit codes are those of the other host
    h1.ok('--on', 'h2', 'disk', 'create', 'v1:/a', '--size', '64M')
    for words in (('disk', 'show', 'v1:/a'), ('volume', 'paths', 'v1'), ('event', 'list', '--limit', '5')):
        there, here = h1.json('--on', 'h2', *words), h2.json(*words)
        assert type(there) is type(here) and (words[0] != 'disk' or there == here)
    for code, words in (('not-found', ('disk', 'show', 'v1:/none')), ('not-found', ('volume', 'unmount', 'v9')),
                        ('usage', ('disk', 'create', 'nonsense', '--size', '1M')), ('busy', ('volume', 'check', cluster.dir / 'lun0'))):
        assert h1.fails(code, '--on', 'h2', *words) == h2.fails(code, *words), words
    # a task of the other host is followed; what it did is done
    (cluster.dir / 'raw').write_bytes(b'R' * 65536)
    h1.ok('--on', 'h2', 'disk', 'import', cluster.dir / 'raw', 'v1:/raw')
    assert h1.json('disk', 'show', 'v1:/raw')['size'] == 65536
    assert any(t['noun'] == 'disk' for t in h2.json('task', 'list')) and not any(t['noun'] == 'disk' for t in h1.json('task', 'list'))
    # bytes, both ways
    data = os.urandom(200000)
    (cluster.dir / 'in').write_bytes(data)
    h1.ok('--on', 'h2', 'file', 'put', cluster.dir / 'in', 'v1:/f')
    h1.ok('--on', 'h2', 'file', 'get', 'v1:/f', cluster.dir / 'out')
    assert (cluster.dir / 'out').read_bytes() == data
    # who is not there
    h1.fails('not-found', '--on', 'h3', 'host', 'show')
    h1.fails('not-found', '--on', 'nobody', 'host', 'show')
    h1.fails('usage', '--on', '', 'host', 'show')
    assert h1.run('--dry-run', '--on', 'h2', 'host', 'show').json['would']['on'] == 'h2'


@pytest.mark.slow
def test_two_hosts_of_one_name(three):
    cluster, h1, h2, h3 = three
    twin = cluster.hosts['twin'] = Host(cluster, 'twin')
    twin.name = 'h1'
    twin.start(*ANY)
    twin.ok('volume', 'mount', str(cluster.dir / 'lun0'))
    ids = [h.json('host', 'show')['id'] for h in (h1, twin)]
    # neither for itself nor for others is the name enough; the id is
    for h in h1, h2, twin:
        until(lambda: 'two hosts' in h.run('--on', 'h1', 'host', 'show').err, what='the name is no name')
        h.fails('usage', '--on', 'h1', 'host', 'show')
        for i in ids:
            until(lambda: h.run('--on', i, 'host', 'show').code == 0, what='the id is one')
            assert h.json('--on', i, 'host', 'show')['id'] == i


@pytest.mark.slow
def test_no_common_volume_no_way(three):
    cluster, h1, h2, h3 = three
    h1.ok('--on', 'h2', 'host', 'show')
    h2.ok('volume', 'unmount', 'v1')
    until(lambda: h1.fails('not-found', '--on', 'h2', 'host', 'show') if 'h2' not in members(h1) else None, what='h2 is gone')
    h2.ok('volume', 'mount', str(cluster.dir / 'lun0'))
    until(lambda: h1.run('--on', 'h2', 'volume', 'list').code == 0, what='h2 is back')


def test_many_at_once(three):
    cluster, h1, h2, h3 = three
    codes = []

    def some(a, b):
        for i in range(8):
            codes.append(a.run('--on', b.name, 'file', 'ls', 'v1:/').code)

    threads = [threading.Thread(target=some, args=p) for p in ((h1, h2), (h2, h1), (h1, h2), (h2, h1))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert codes == [0] * 32


@pytest.mark.slow
def test_a_host_dies_and_returns(three):
    cluster, h1, h2, h3 = three
    h1.ok('--on', 'h2', 'host', 'show')
    h2.kill()
    e = h1.fails('unreachable', '--on', 'h2', 'host', 'show')
    assert 'h2' in e['message'] and e['object'] == 'h2'
    gone = {'connection': 'failed', 'connection_error': 'on a slow machine it has been taken over by now'}
    until(lambda: members(h1).get('h2', gone)['connection'] == 'failed', what='the loss is shown')
    assert members(h1).get('h2', gone)['connection_error']
    h2.start(*ANY)  # another port, in the same life if it was quick
    until(lambda: h1.run('--on', 'h2', 'host', 'show').code == 0, what='h2 is reached again')
    assert members(h1)['h2']['connection'] == 'connected'


@pytest.mark.slow
def test_who_lost_the_volume_commands_nobody(cluster):
    with Tgt(size='1G') as t:  # there a takeover leaves the other's process alone
        h1, h2 = (cluster.host(n, *ANY) for n in ('h1', 'h2'))
        h1.ok('volume', 'format', 'v1', t.url)
        h1.ok('volume', 'mount', t.url)
        h2.ok('volume', 'mount', t.url)
        until(lambda: h2.run('--on', 'h1', 'host', 'show').code == 0, what='h1 is reached')
        h2.ok('fault', 'add', t.url, '--kind', 'fail')
        until(lambda: members(h1).get('h2', {}).get('state') in (None, 'recovering'), timeout=60, what='h2 is taken over')
        # its connection is cut, and a new one is not let in; the network and the secret are as they were
        until(lambda: h2.run('--on', 'h1', 'host', 'show').code != 0, timeout=20, what='h2 is cut off')
        for i in range(3):
            assert h2.run('--on', 'h1', 'host', 'show').code in (EXIT['unreachable'], EXIT['not-found'])
        h2.ok('fault', 'clear')
        until(lambda: h2.run('--on', 'h1', 'host', 'show').code == 0, timeout=60, what='h2 is a member again')


@pytest.mark.slow
def test_hosts_stop_in_the_middle_of_calls(three):
    cluster, h1, h2, h3 = three
    done, codes, seen = threading.Event(), set(), set()  # of this round, of all

    def ask():
        while not done.is_set():
            code = h1.run('--on', 'h2', 'file', 'ls', 'v1:/').code
            codes.add(code)
            seen.add(code)

    threads = [threading.Thread(target=ask) for i in range(3)]
    for t in threads:
        t.start()
    try:
        for i in range(2):
            until(lambda: 0 in codes, what='a call is answered')
            if i:
                h2.ok('volume', 'unmount', 'v1')
            h2.stop()  # asserts a clean end, in time
            h2.start(*ANY)
            if i:
                h2.ok('volume', 'mount', str(cluster.dir / 'lun0'))
            codes.clear()
        until(lambda: 0 in codes, what='a call is answered')
        h1.stop()  # the side that asks
    finally:
        done.set()
        for t in threads:
            t.join()
    assert seen <= {0, EXIT['unreachable'], EXIT['not-found']}


@pytest.mark.slow
def test_a_stranger_gets_nowhere(three):
    cluster, h1, h2, h3 = three
    port, before = port_of(h2), rss_kib(h2)
    volume = h2.json('volume', 'show', 'v1')['id']
    # TLS 1.3 with a wrong secret, and for a volume that is not there
    for identity in volume, str(uuid.uuid4()):
        knock(port, identity)
    refused = until(lambda: events(h2, 'refused'), what='it is said')
    assert len(refused) == 1 and refused[0]['object'] == STRANGER and 'secret' in refused[0]['text']
    # garbage, while commands go on
    stop, codes = threading.Event(), []

    def work():
        while not stop.is_set():
            codes.append(h1.run('--on', 'h2', 'file', 'ls', 'v1:/').code)

    t = threading.Thread(target=work)
    t.start()
    try:
        for i in range(300):
            with contextlib.suppress(OSError):
                s = connect(port)
                s.sendall([os.urandom(3000), b'GET / HTTP/1.1\r\n\r\n', b'\x16\x03\x01\x40\x00\x01' + os.urandom(100), b''][i % 4])
                s.close()
    finally:
        stop.set()
        t.join()
    assert codes and set(codes) == {0}
    assert h2.proc.poll() is None and rss_kib(h2) - before < 32 << 10
    # it is slowed: the answer to garbage waits (or there is none: too many of its connections wait), and
    # a burst is said once
    assert len(events(h2, 'refused')) == 1

    def waited():
        start = time.monotonic()
        with contextlib.suppress(OSError), connect(port) as s:
            s.sendall(b'x' * 100)
            while s.recv(100):
                pass
        return time.monotonic() - start >= 1

    until(waited, timeout=60, what='a slow answer')
    assert len(events(h2, 'refused')) == 1
    # members are let in all the while
    assert h3.run('--on', 'h2', 'host', 'show').code == EXIT['not-found']
    h1.ok('--on', 'h2', 'host', 'show')


@pytest.mark.slow
def test_who_is_early_or_late_is_no_stranger(three):
    cluster, h1, h2, h3 = three
    volume, lun = h2.json('volume', 'show', 'v1')['id'], str(cluster.dir / 'lun0')
    h2.ok('volume', 'unmount', 'v1')
    knock(port_of(h2), volume)
    h2.ok('volume', 'mount', lun)
    # remembered, and not there
    h2.stop()
    h1.ok('volume', 'unmount', 'v1')
    os.rename(lun, lun + '.away')
    h2.start(*ANY)
    assert h2.json('volume', 'list')[0]['state'] == 'missing'
    knock(port_of(h2), volume)
    knock(port_of(h2), str(uuid.uuid4()))
    refused = until(lambda: events(h2, 'refused'), what='who names a volume that was never here is one')
    assert len(refused) == 1
    os.rename(lun + '.away', lun)


@pytest.mark.slow
def test_connections_that_say_nothing(three):
    cluster, h1, h2, h3 = three
    port = port_of(h2)
    held = [connect(port) for i in range(100)]
    try:
        h1.ok('--on', 'h2', 'host', 'show')
        for s in held:  # each is ended by the other side, most at once, the others when their time is over
            with contextlib.suppress(ConnectionError):
                assert s.recv(1) == b''
    finally:
        for s in held:
            s.close()


@pytest.mark.slow
def test_a_cut_network_hinders_nothing(cluster):
    lun = cluster.lun(size='1G')
    with Net() as net:
        hosts = []
        for i, name in enumerate(('h1', 'h2')):
            h = cluster.hosts[name] = Host(cluster, name, prefix=['ip', 'netns', 'exec', net.ns[i]])
            hosts.append(h.start('--listen', f'10.231.7.{i + 1}:7700'))
        h1, h2 = hosts
        h1.ok('volume', 'format', 'v1', lun)
        h1.ok('volume', 'mount', lun)
        h2.ok('volume', 'mount', lun)
        until(lambda: h1.run('--on', 'h2', 'host', 'show').code == 0, what='h2 is reached')
        h2.ok('--on', 'h1', 'host', 'show')
        net.cable('down')
        # the directory's lock goes to and fro by the beats alone
        for i in range(4):
            hosts[i % 2].ok('file', 'mkdir', f'v1:/d{i}')
        assert {f['name'] for f in h1.json('file', 'ls', 'v1:/')} == {f'd{i}' for i in range(4)}
        assert h1.run('--on', 'h2', 'host', 'show').code == EXIT['unreachable']
        assert all(h['state'] == 'active' for h in members(h1).values())
        net.cable('up')
        until(lambda: h1.run('--on', 'h2', 'host', 'show').code == 0, timeout=60, what='h2 is reached again')
        h2.ok('file', 'mkdir', 'v1:/last')
        for h in hosts:
            h.stop()


def test_an_address_that_comes_later_is_told(cluster):
    lun = cluster.lun()
    with Net() as net:
        net.ip('-n', net.ns[0], 'addr', 'flush', 'dev', net.link[0])
        hosts = []
        for i, name in enumerate(('h1', 'h2')):
            h = cluster.hosts[name] = Host(cluster, name, prefix=['ip', 'netns', 'exec', net.ns[i]])
            hosts.append(h.start('--listen', '0.0.0.0:7700'))
        h1, h2 = hosts
        h1.ok('volume', 'format', 'v1', lun)
        h1.ok('volume', 'mount', lun)
        h2.ok('volume', 'mount', lun)
        until(lambda: members(h2).get('h1') and members(h1).get('h2', {}).get('address') == '10.231.7.2:7700', what='they see each other')
        assert h1.json('host', 'show')['address'] == '' and members(h2)['h1']['address'] == ''
        net.ip('-n', net.ns[0], 'addr', 'add', '10.231.7.1/24', 'dev', net.link[0])
        until(lambda: members(h2)['h1']['address'] == '10.231.7.1:7700', what='the address is told')
        assert h1.json('host', 'show')['address'] == '10.231.7.1:7700'
        until(lambda: h2.run('--on', 'h1', 'host', 'show').code == 0, what='h1 is reached')
