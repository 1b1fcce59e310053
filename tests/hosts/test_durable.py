# SPDX-License-Identifier: Apache-2.0
"""Done means durable: what a verb said is done is so after its host died without another word."""
import pytest
from hostlib import until


@pytest.mark.slow
def test_names_outlive_their_host(cluster):
    lun = cluster.lun()
    h1, h2 = cluster.host('h1'), cluster.host('h2')
    h1.ok('volume', 'format', 'v1', lun)
    for h in (h1, h2):
        h.ok('volume', 'mount', lun)
    for name in ('gone', 'old'):
        h1.ok('disk', 'create', f'v1:/{name}', '--size', '1M')
    (cluster.dir / 'a').write_text('first')
    (cluster.dir / 'b').write_text('second')
    for name in ('kept', 'removed'):
        h1.ok('file', 'put', cluster.dir / 'a', f'v1:/{name}')
    assert len(h2.json('file', 'ls', 'v1:/')) == 4                      # all of that is in place
    h1.ok('file', 'put', cluster.dir / 'b', 'v1:/kept')
    h1.ok('--yes', 'file', 'rm', 'v1:/removed')
    h1.ok('disk', 'rename', 'v1:/old', '/new')
    h1.ok('--yes', 'disk', 'delete', 'v1:/gone')
    h1.ok('file', 'mkdir', 'v1:/dir')
    h1.kill()
    until(lambda: any('was taken over' in e['text'] for e in h2.json('event', 'list')), 60, what='the takeover')
    assert sorted(f['name'] for f in h2.json('file', 'ls', 'v1:/')) == ['dir', 'kept', 'new']
    assert h2.ok('file', 'cat', 'v1:/kept').out == 'second'
    h2.ok('volume', 'unmount', 'v1')
    h2.ok('volume', 'check', lun)
