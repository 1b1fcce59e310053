#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""One lock decides for a VM (clusterfs/lockdisk.c): a disk's lock that names VM X changes only in the
hands of who holds X's lock. Host A starts X, host B takes X's disk d for its VM Y."""
from explore import judge


def model(rule):
    first = ('free', ('X', 0), 0, 0, None)  # X's lock, d's lock (VM, token), A, B, what B read of d

    def steps(s):
        x, d, a, b, read = s
        out = []
        if a == 2 and b == 2:
            out.append(('TWO WRITERS', None))
        if a == 0 and x == 'free':
            out.append(('A takes X', ('A', d, 1, b, read)))
        if a == 1:
            mine = d[0] == 'X'
            if rule == 'fresh':
                out.append(('A renews d', (x, (d[0], d[1] + 1) if mine else d, 2 if mine else 9, b, read)))
            else:
                out.append(('A reads d', (x, d, 2 if mine else 9, b, read)))
        if b == 0 and x == 'free':
            if rule == 'through':
                out.append(('B takes X', ('B', d, a, 1, d)))
            else:
                out.append(('B reads d, and X: free', (x, d, a, 1, d)))
        if b == 1:
            out.append(('B swaps d to Y', (x, ('Y', 0) if d == read else d, a, 2 if d == read else 9, None)))
        if b in (2, 9) and x == 'B':
            out.append(('B frees X', ('free', d, a, b, None)))
        return out
    return first, steps


judge([
    ('steal through the VM\'s lock', *model('through'), True),
    ('who finds X free swaps d', *model('read'), False),
    # The start renews d's token: holds too, for one compare-and-write a disk and start.
    ('a start renews its disks\' tokens', *model('fresh'), True),
])
