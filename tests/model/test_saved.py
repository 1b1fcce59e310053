#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A VM is saved and restored (clusterfs/lockoffer.c: lay down, wake) by two hosts, A and B, which may both restore at
once. Each compare-and-write may be answered, be done without an answer, or be late: done at any time later, or never.
Hosts die, at any moment; a dead one's late commands end when its life is over. Never two runners, never a state that is
used twice (the disks have moved on since); and somebody can always come to run it, as long as anybody lives.

A state: the VM's record (owner, state, the saved state's number), late commands, what A and B are at, which states were
used, how many were made."""
from explore import judge

SAVES = 2
FIRST = ('A', 'active', 0)


def model(drop=True, token=True, settle='swap', wake='swap'):
    """drop: to take the VM drops the reference. token: a fresh one with each change. settle: how a saver finds out
    what an unknown attempt has become. wake: how a restorer takes it."""
    first = (FIRST, frozenset(), ('runs', 0), ('idle', 0), frozenset(), 0)

    def steps(state):
        rec, late, a, b, used, made = state
        pcs = {'A': a, 'B': b}
        if [a[0], b[0]].count('runs') > 1:
            yield 'TWO RUNNERS', None
            return

        def at(host, pc, rec=rec, late=late, used=used, made=made):
            p = dict(pcs)
            p[host] = pc
            return rec, late, p['A'], p['B'], used, made

        def begin(host, n, rec=rec, late=late):
            """The host runs it, from state n."""
            if n and n in used:
                return None
            return at(host, ('runs', 0), rec, late, used | {n} if n else used)

        def swap(host, new, n, done, unknown, what):
            """It compares with what it has just read."""
            after = frozenset() if token else late
            if done == 'runs':
                yield what + (' AGAIN' if n in used else ''), begin(host, n, new, after)
            else:
                yield what, at(host, (done, n), new, after)
            yield what + ', no answer', at(host, (unknown, n), new, after)
            if len(late) < 2:
                yield what + ', late', at(host, (unknown, n), late=late | {(host, rec, new)})

        for cmd in late:
            host, expect, new = cmd
            hit = rec == expect
            rest = frozenset() if hit and token else late - {cmd}
            yield f'late {host} ' + ('hits' if hit else 'misses'), (new if hit else rec, rest, a, b, used, made)

        for host, (pc, n) in pcs.items():
            other = pcs['B' if host == 'A' else 'A']
            mine = rec[0] == host and rec[1] == 'active'
            saved = rec[1] == 'saved'
            if pc == 'runs' and made < SAVES:
                yield f'{host} stands still, state {made + 1} is durable', at(host, ('still', made + 1), made=made + 1)
            if pc == 'still' and mine:
                yield from swap(host, ('-', 'saved', n), n, 'idle', 'asks', f'{host} lays it down')
            if pc == 'still' and not mine:
                yield f'{host} finds it lost', at(host, ('idle', 0))
            if pc == 'asks' and mine and settle == 'read':
                yield f'{host} reads: still mine', begin(host, 0)
            elif pc == 'asks' and mine:
                yield from swap(host, (host, 'active', 0), 0, 'runs', 'asks', f'{host} takes back')
            elif pc == 'asks':
                yield f'{host} finds it saved, or another\'s', at(host, ('idle', 0))
            # A restorer has all of the state loaded, of what he saw.
            ref = rec[2] if saved or (not drop and rec[2] and (rec[0] == host or other[0] == 'over')) else 0
            if pc == 'idle' and ref:
                yield f'{host} loads state {ref}', at(host, ('loaded', ref))
            if pc in ('loaded', 'wakes'):
                if saved and rec[2] == n:
                    if wake == 'read':
                        yield f'{host} believes what it read', at(host, ('believes', n))
                    else:
                        yield from swap(host, (host, 'active', 0 if drop else n), n, 'runs', 'wakes', f'{host} takes it up')
                elif pc == 'wakes' and mine:
                    yield f'{host} finds it its own', begin(host, n)
                elif not drop and rec[2] == n and not saved and other[0] == 'over':
                    yield from swap(host, (host, 'active', n), n, 'runs', 'wakes', f'{host} takes it up')
                else:
                    yield f'{host} was slower', at(host, ('idle', 0))
            if pc == 'believes':
                yield f'{host} writes its name', begin(host, n, (host, 'active', 0))
            # A cold start: of what is its own, an attempt of his having come late; of what a dead host ran.
            if pc == 'idle' and mine:
                yield f'{host} starts anew what is its own', begin(host, 0)
            if pc == 'idle' and rec[1] == 'active' and rec[0] != host and other[0] == 'over':
                yield from swap(host, (host, 'active', 0), 0, 'runs', 'asks', f'{host} starts it anew')
            if pc not in ('dead', 'over') and other[0] not in ('dead', 'over'):
                yield f'{host} dies', at(host, ('dead', 0))
            if pc == 'dead':
                yield f'{host}\'s life is over', at(host, ('over', 0), late=frozenset(x for x in late if x[0] != host))
    return first, steps


def runs(state):
    return 'runs' in (state[2][0], state[3][0])


judge([
    ('save and restore by compare-and-write', *model(), True, runs),
    ('the reference stays when it is taken up', *model(drop=False), False),
    ('no fresh token', *model(token=False), False),
    ('an unknown save is settled by a read', *model(settle='read'), False),
    ('a restorer believes what it read', *model(wake='read'), False),
])
