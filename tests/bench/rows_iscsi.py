# SPDX-License-Identifier: Apache-2.0
"""One iSCSI session of ours against iscsi-perf (libiscsi's own) on the same LUN of a tgtd."""
import re, subprocess, sys

from benchlib import BUILD, SECONDS, TOP, by_turns, check_output, row

sys.path.insert(0, str(TOP / 'tests/hosts'))


@row('iscsi-randread-4k', 'IOPS')
def randread():
    from targets import Tgt
    seconds = max(1, round(SECONDS))
    with Tgt(size='1G') as t:
        check_output([BUILD / 'tests/bench/blk_bench', t.url, 'write', 8, 1 << 20, 3])  # no holes

        def ours():
            return float(check_output([BUILD / 'tests/bench/blk_bench', t.url, 'read', 32, 4096, seconds]).split()[0])

        def peer():
            p = subprocess.run(['iscsi-perf', '-m', '32', '-b', '8', '-t', str(seconds), '-r', t.url], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, timeout=60 + seconds)
            rates = re.findall(r'iops average (\d+)', p.stdout)
            if not rates:
                raise RuntimeError(f'iscsi-perf: {p.stdout[-300:]}')
            return float(rates[-1])
        return by_turns(ours, peer)  # three busy threads on two processors: runs differ by a fifth
