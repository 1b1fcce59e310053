# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the server at full queue depth: every request answered exactly once, what was acknowledged is there."""
import os, random, subprocess, time

import pytest
from clientlib import BUILD


def storm(server, seconds, kills, depth, seed):
    rng = random.Random(seed)
    server.start()
    client = subprocess.Popen([BUILD / 'tests/client/kill_client', server.socket, str(seconds), str(seed), str(depth)],
                              stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(kills):
            time.sleep(rng.uniform(0.02, seconds / kills))
            server.kill()
            server.start()
        out, _ = client.communicate(timeout=seconds + 90)
    finally:
        client.kill()
        client.wait()
    assert client.returncode == 0, f'seed {seed}: {out}'
    word, writes, reads, reconnects = out.split()
    assert word == 'ok' and int(writes) > 100 and int(reads) > 4000, out
    assert int(reconnects) >= kills // 2, f'{out}: the kills were not felt'


@pytest.mark.parametrize('depth', [1, 60])
def test_kill_9_of_the_server(server, depth):
    storm(server, 4, 10, depth, int(os.environ.get('SEED', 1)))


@pytest.mark.soak
def test_kill_9_many_times(server):
    for seed in range(20):
        storm(server, 10, 40, 60, seed)
        server.stop()
