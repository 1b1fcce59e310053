#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""INV-BLK-2 (record.c): an unknown compare-and-write is settled by another one, never by a read; and
INV-FS-5 (release.c): a lock leaves in four steps, a dead lock is broken only after the replay."""
from explore import judge


def settle(rule):
    """A holds the lock and frees it; the answer is lost, the command may come through late. B wants it.
    rule 'read': A reads, finds itself, goes on as the holder. 'swap': A swaps to a fresh token first."""
    first = ('A1', None, 'hold', False)  # the record, A's late command (expect, write), A, B holds

    def steps(s):
        rec, late, a, b = s
        out = []
        if a in ('hold', 'hold2') and b and rec != 'x':
            out.append(('TWO HOLDERS', None))
        if late:
            hit = rec == late[0]
            out.append(('late command ' + ('hits' if hit else 'misses'), (late[1] if hit else rec, None, a, b)))
        if a == 'hold' and not late:
            out.append(('A frees, no answer', (rec, ('A1', 'free'), 'unknown', b)))
        if a == 'unknown':
            if rule == 'read' and rec == 'A1':
                out.append(('A reads: still mine', (rec, late, 'hold2', b)))
            if rule == 'swap' and rec == 'A1':
                out.append(('A swaps to a fresh token', ('A2', late, 'hold2', b)))
            if rec != 'A1':
                out.append(('A: it is gone', (rec, late, 'out', b)))
        if rec == 'free' and not b:
            out.append(('B takes it', ('B1', late, a, True)))
        return out
    return first, steps


def release(skip=(), broken_early=False):
    """A changes X to 1 under the lock and gives it up, B takes it and changes X to 2 in place. A dies at any
    moment, its journal is replayed by B. X must end as what its last holder made of it.
    Steps: 1 in place, 2 flush (here: one step), 3 RELEASED record durable, 4 the lock."""
    # X on the medium, A's journal (none, 'rec', 'released'), lock, A's step, A dead, replayed, B's step
    first = (0, None, 'A', 0, False, False, 0)

    def steps(s):
        x, j, lock, a, dead, rep, b = s
        out = []
        if b == 2 and x != 2:
            out.append(('B\'S CHANGE IS UNDONE', None))
        if b == 1 and lock == 'B' and j and not dead and x == 0 and a == 4:
            out.append(('B READS X WITHOUT A\'S CHANGE', None))
        if not dead:
            if a == 0:
                out.append(('A logs X=1', (x, 'rec', lock, 1, dead, rep, b)))
            if a == 1:
                out.append(('A in place, flush', (x if 1 in skip else 1, j, lock, 2, dead, rep, b)))
            if a == 2:
                out.append(('A RELEASED durable', (x, j if 3 in skip else 'released', lock, 3, dead, rep, b)))
            if a == 3:
                out.append(('A frees the lock', (x, j, 'free', 4, dead, rep, b)))
            out.append(('A dies', (x, j, lock, a, True, rep, b)))
        if dead and not rep:
            out.append(('replay of A', (1 if j == 'rec' else x, j, lock, a, dead, True, b)))
        if lock == 'free' or (lock == 'A' and dead and (rep or broken_early)):
            out.append(('B takes the lock', (x, j, 'B', a, dead, rep, 1)))
        if lock == 'B' and b == 1:
            out.append(('B writes X=2 in place', (2, j, lock, a, dead, rep, 2)))
        return out
    return first, steps


judge([
    ('INV-BLK-2: settled by a swap to a fresh token', *settle('swap'), True),
    ('settled by a read', *settle('read'), False),
    ('INV-FS-5: four steps, broken after the replay', *release(), True),
    ('no RELEASED record', *release(skip=(3,)), False),
    ('not in place before the lock goes', *release(skip=(1,)), False),
    ('a dead lock broken before the replay', *release(broken_early=True), False),
])
