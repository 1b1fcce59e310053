# SPDX-License-Identifier: Apache-2.0
"""The API by hand: curl works, garbage is answered, and the daemon lives."""
import json, random, signal, socket, stat, subprocess, threading

import pytest


def curl(host, path, *options, data=None):
    p = subprocess.run(['curl', '-s', '-w', '\n%{http_code}', '--unix-socket', host.socket, f'http://perilune{path}', *options],
                       input=data, stdout=subprocess.PIPE, timeout=30, check=True)
    body, _, code = p.stdout.rpartition(b'\n')
    return int(code), json.loads(body)


def raw(host, data, timeout=5, more=False):
    """What the daemon answers to bytes."""
    out = b''
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(timeout)
        s.connect(str(host.socket))
        try:
            s.sendall(data)
            if not more:
                s.shutdown(socket.SHUT_WR)
            while chunk := s.recv(65536):
                out += chunk
        except (TimeoutError, ConnectionError, BrokenPipeError):
            pass
    return out


def alive(host):
    assert curl(host, '/v1/host/show')[1]['pid'] == host.proc.pid


def test_curl_speaks_to_it(cluster):
    host = cluster.host()
    assert stat.S_IMODE(host.socket.stat().st_mode) == 0o600
    assert curl(host, '/v1/lun/list') == (200, [])
    code, d = curl(host, '/v1/event/list?limit=1')
    assert code == 200 and len(d) == 1
    lun = cluster.lun()
    code, d = curl(host, '/v1/volume/format', '-d', json.dumps({'name': 'v1', 'luns': [lun]}))
    assert code == 202 and isinstance(d['task'], int)


def test_errors_have_codes_and_words(cluster):
    host = cluster.host()
    big = b'{"luns": "' + b'x' * (2 << 20) + b'"}'
    deep = b'[' * 100000
    for want, path, data in [
        (404, '/', None), (404, '/v1/zip', None), (404, '/v1/lun/zip', None), (404, '/v1/lun/list/x', None),
        (405, '/v1/lun/connect', None), (400, '/v1/lun/connect', b'{'), (400, '/v1/lun/connect', b'[1]'),
        (400, '/v1/lun/connect', b'{"lun": 5}'), (400, '/v1/lun/connect', b'{"lun": ""}'),
        (400, '/v1/lun/connect', b'{"lun": "a\\u0000b"}'), (400, '/v1/lun/connect', b'\xff\xfe'),
        (400, '/v1/lun/connect', b'{"lun": "a", "lun": "b"}'), (400, '/v1/lun/connect', deep),
        (400, '/v1/task/show?id=x', None), (404, '/v1/task/show?id=99', None), (400, '/v1/task/show', None),
        (413, '/v1/lun/connect', big), (400, '/v1/lun/probe', b'{"luns": {"a": 1}}'),
        (400, '/v1/lun/list?x=%ff', None),
        # "on" that names nobody must not run here
        *((400, '/v1/host/show', b'{"on": %s}' % on) for on in (b'null', b'5', b'""', b'["h1"]', b'{}', b'true')), (400, '/v1/host/show?on=', None),
    ]:
        options = ['--data-binary', '@-'] if data is not None else []
        code, d = curl(host, path, *options, data=data)
        assert code == want, (path, data and data[:40], code, d)
        assert d['error']['message'] and isinstance(d['error']['code'], int) and d['error']['name'], d
    alive(host)


@pytest.mark.slow
def test_garbage_does_not_end_the_daemon(cluster):
    host, rng = cluster.host(), random.Random(7)
    seeds = [b'GET /v1/lun/list HTTP/1.1\r\nHost: x\r\n\r\n',
             b'POST /v1/lun/probe HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{"luns": ["/tmp/a"]}',
             b'POST /v1/lun/probe HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"lun\r\n0\r\n\r\n',
             b'PUT /v1/file/put?path=a HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nabc']
    assert b' 200 ' not in raw(host, b'\0\1\2 nonsense\r\n\r\n', timeout=1, more=True)
    for i in range(150):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 12)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        raw(host, bytes(data[:rng.randrange(1, len(data) + 1)]), timeout=0.3)
    alive(host)


def test_idle_and_many_clients(cluster):
    host = cluster.host()
    held = []
    for _ in range(150):
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(host.socket))
        held.append(s)
    alive(host)
    results = []
    threads = [threading.Thread(target=lambda: results.append(curl(host, '/v1/host/show')[0])) for _ in range(30)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [200] * 30
    for s in held:
        s.close()
    alive(host)


@pytest.mark.slow
def test_a_hung_lun_does_not_keep_tasks_from_answering(cluster):
    lun, host = cluster.lun(), cluster.host()
    host.ok('lun', 'connect', lun)
    host.ok('fault', 'add', lun, '--kind', 'delay=3000')
    calls = [threading.Thread(target=host.run, args=('volume', 'format', f'v{i}', lun)) for i in range(3)]
    for t in calls:
        t.start()
    for _ in range(20):
        host.ok('task', 'list', timeout=2)
    host.ok('fault', 'clear')
    for t in calls:
        t.join()
    assert [t['state'] for t in host.json('task', 'list')].count('done') >= 1


def test_who_dies_of_its_own_fault_says_where(cluster):
    host = cluster.host()
    host.may_crash = True
    host.signal(signal.SIGSEGV)
    assert host.proc.wait(20) == -signal.SIGSEGV
    said = host.log.read_text()
    assert 'perilund: signal 11 at address 0x' in said and 'perilund(+0x' in said, said
