# SPDX-License-Identifier: Apache-2.0
"""Two daemons reach a LUN through a proxy that delays, cuts, and swallows the answers of commands that were done. Under
load: a VM on each that writes as deep as it can, names that come and go. What was acknowledged is there."""
import os, random, threading, time

import pytest
from hostlib import EXIT, until
from targets import Tgt
from vmlib import Shell, create
from proxy import Proxy

if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)

SECONDS = int(os.environ.get('BAD_NETWORK_SECONDS', '15'))
MAY_FAIL = {EXIT[n] for n in ('ok', 'failed', 'busy', 'unreachable', 'timed-out')}


class Names(threading.Thread):
    """Creates and deletes files and disks on a host until told to stop; knows what must and what must not be there."""

    def __init__(self, host, rng):
        super().__init__(daemon=True)
        self.host, self.rng, self.stop, self.wrong = host, rng, False, []
        self.there, self.gone, self.done = {}, set(), 0

    def do(self, *words, **kw):
        r = self.host.run(*words, timeout=120, **kw)
        if r.code not in MAY_FAIL:
            self.wrong.append(repr(r))
        self.done += r.code == 0
        return r.code == 0

    def run(self):
        n = 0
        while not self.stop:
            n += 1
            path = f'v1:/{self.host.name}-{n}'
            if n % 3 == 0:
                if self.do('disk', 'create', path, '--size', f'{self.rng.randrange(1, 64)}M'):
                    self.there[path] = None
            else:
                source = self.host.dir.parent / f'{self.host.name}.source'
                source.write_bytes(text := self.rng.randbytes(self.rng.randrange(1, 200000)))
                if self.do('file', 'put', source, path):
                    self.there[path] = text
            if self.there and self.rng.random() < 0.4:
                path = self.rng.choice(list(self.there))
                text = self.there.pop(path)
                if self.do('--yes', *(('disk', 'delete') if text is None else ('file', 'rm')), path):
                    self.gone.add(path)

    def check(self, host):
        """From whichever host, once the network is good again."""
        assert not self.wrong, self.wrong
        names = {f['name'] for f in host.json('file', 'ls', 'v1:/')}
        for path, text in self.there.items():
            assert path[4:] in names, f'{path} was acknowledged and is not there'
            if text is not None:
                assert host.ok('file', 'cat', path, binary=True).out == text, f'{path} holds something else'
        assert not names & {path[4:] for path in self.gone}


def bring_up(cluster, lun):
    hosts = [cluster.host('h1'), cluster.host('h2')]
    hosts[0].ok('volume', 'format', 'v1', lun)
    for h in hosts:
        h.ok('volume', 'mount', lun)
        h.ok('disk', 'create', f'v1:/{h.name}.disk', '--size', '64M')
        create(h, f'g-{h.name}', '--disk', f'v1:/{h.name}.disk')
        h.ok('vm', 'start', f'g-{h.name}')
    return hosts


def write_and_flush(shell):
    """tgt has a volatile cache: a session that was cut may mean that it is gone, and then a flush fails. Who is told so writes
    again."""
    for _ in range(30):
        shell.run('w 8000 2000 1 77', 'w ok', 120)
        if shell.run('F', 'F ', 120) == 'F ok':
            return
    raise AssertionError('no flush succeeds')


@pytest.mark.slow
def test_two_daemons_on_a_bad_network(cluster):
    rng = random.Random(int(os.environ.get('SEED', 1)))
    with Tgt(size='1G') as t, Proxy(t.port, rng.random()) as proxy:
        lun = t.url.replace(t.portal, f'127.0.0.1:{proxy.port}')
        hosts = bring_up(cluster, lun)
        shells = [Shell(h, f'g-{h.name}') for h in hosts]
        names = [Names(h, random.Random(rng.random())) for h in hosts]
        for s in shells:
            s.expect('ready')
            s.run('s 4000', 's 1024')
        proxy.begin()
        for n in names:
            n.start()
        time.sleep(SECONDS)
        for n in names:
            n.stop = True
        for s in shells:
            s.run('e', 'e ', 120)
            s.run('v', 'v ok', 120)
            write_and_flush(s)
        proxy.end()
        for n in names:
            n.join(180)
            assert not n.is_alive()
        print(f'{proxy.cuts} cuts, {proxy.swallowed} with answers swallowed; {[n.done for n in names]} verbs done')
        assert proxy.cuts > SECONDS // 4 and proxy.swallowed > 3
        for s, h in zip(shells, hosts):
            s.leave()
            h.ok('vm', 'kill', f'g-{h.name}')
        for n, other in zip(names, reversed(hosts)):
            assert n.done > 5
            n.check(other)
        for h, other in zip(hosts, reversed(hosts)):                    # what was flushed, as another host reads it
            other.ok('vm', 'start', f'g-{h.name}')
            s = Shell(other, f'g-{h.name}')
            until(lambda: 'ready' in s.said(), what='the guest on the other host')
            s.run('r 8000 2000 1 77', 'r ok')
            s.leave()
            other.ok('vm', 'kill', f'g-{h.name}')
        for h in hosts:
            h.ok('volume', 'unmount', 'v1')
        hosts[0].ok('volume', 'check', t.url)
