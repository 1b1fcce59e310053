# SPDX-License-Identifier: Apache-2.0
"""`volume paths` tells the truth of a path: a target that stands still is down, one that goes on is up again."""
import pytest
from hostlib import until
from targets import Tgt


@pytest.mark.slow
def test_a_target_stands_still_and_goes_on(cluster):
    with Tgt(size='1G') as t:
        h = cluster.host('h1')
        h.ok('volume', 'format', 'v1', t.url)
        h.ok('volume', 'mount', t.url)

        def path():
            return h.json('volume', 'paths', 'v1')[0]
        first = path()
        assert (first['state'], first['kind'], first['errors']) == ('up', 'iscsi', 0) and first['latency_us'] > 0
        t.stop()
        until(lambda: path()['state'] == 'down', 60, what='the path being down')
        lost = path()
        assert lost['errors'] > 0 and lost['since'] > first['since']
        assert {'object': t.url, 'text': 'down'} in h.json('status', timeout=120)['alarms']
        t.cont()
        until(lambda: path()['state'] == 'up', 60, what='the path being up again')
        assert path()['since'] > lost['since']
        until(lambda: h.json('volume', 'show', 'v1')['state'] == 'mounted', 60, what='writes going on')
        h.ok('disk', 'create', 'v1:/a', '--size', '1M')
        h.ok('volume', 'unmount', 'v1')
