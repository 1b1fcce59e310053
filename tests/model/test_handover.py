#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A running VM is handed over (clusterfs/lockoffer.c, handover.c): source S, target T, and C, who starts it
anew when nobody can have it any more. Each compare-and-write may be answered, be done without an answer, or be
late: done at any time later, or never. Messages are not in the model: whatever they say, T may try at any
time, and S may give up at any time. Hosts die, at any moment; a dead one's late commands end when its life is
over (fenced, replayed). Never two runners; and from wherever it stands, somebody can still come to run it, as long
as anybody lives.

A state: the VM's record (owner, word), late commands (what they expect, what they write), what S, T and C are at,
how often S may still offer."""
from explore import judge

RUNS = 'runs'
SOURCE, OFFER, TARGET, COLD = ('S', 'active'), ('T', 'offered'), ('T', 'active'), ('C', 'active')


def model(settle='swap', token=True, accept='swap', cold='dead', gives_up=False):
    """settle: how S finds out what an unknown offer has become. token: a fresh one with each change. accept: how T
    takes it up. cold: when C may take an offer. gives_up: S does not ask again after an unknown answer."""
    first = (SOURCE, frozenset(), RUNS, 'ready', 'idle', 2)

    def swap(state, who, expect, new, done, unknown, what):
        """The ways in which a compare-and-write of host `who` can go; `expect` is what it has read."""
        rec, late, s, t, c, left = state

        def at(rec, late, pc):
            at = {'S': s, 'T': t, 'C': c}
            at[who] = pc
            return (rec, late, at['S'], at['T'], at['C'], left)
        if rec == expect:
            # A record that was changed has a new token: what is late and expects the old one misses for good.
            after = frozenset() if token else late
            yield what, at(new, after, done)
            yield what + ', no answer', at(new, after, unknown)
        if len(late) < 2:
            yield what + ', late', at(rec, late | {(who, expect, new)}, unknown)

    def steps(state):
        rec, late, s, t, c, left = state
        if [s, t, c].count(RUNS) > 1:
            yield 'TWO RUNNERS', None
            return
        for cmd in late:
            who, expect, new = cmd
            hit = rec == expect
            rest = frozenset() if hit and token else late - {cmd}
            yield f'late {who} ' + ('hits' if hit else 'misses'), (new if hit else rec, rest, s, t, c, left)

        # S: runs - still (vCPUs paused, controller quiesced) - offered, or nobody knows - runs, or lost
        if s == RUNS and left:
            yield 'S holds still', (rec, late, 'still', t, c, left - 1)
        if s == 'still':
            yield from swap(state, 'S', SOURCE, OFFER, 'offered', 'unknown', 'S offers')
        if s in ('offered', 'unknown') and not (gives_up and s == 'unknown'):
            if rec == SOURCE and settle == 'read':
                yield 'S reads: still mine', (rec, late, RUNS, t, c, left)
            elif rec == SOURCE or rec == OFFER:
                yield from swap(state, 'S', rec, SOURCE, RUNS, 'unknown', 'S takes back')
            else:
                yield 'S finds it lost', (rec, late, 'lost', t, c, left)
        # T: has all of the guest. It looks whenever it likes.
        if t in ('ready', 'unknown'):
            if rec == OFFER and accept == 'message':
                yield 'T believes it', (rec, late, s, RUNS, c, left)
            elif rec == OFFER:
                yield from swap(state, 'T', OFFER, TARGET, RUNS, 'unknown', 'T takes up')
                yield from swap(state, 'T', OFFER, SOURCE, 'ready', 'unknown', 'T declines')
            elif rec == TARGET:
                yield 'T finds it its own', (rec, late, s, RUNS, c, left)
        # C: a cold start
        over = {'S': s == 'over', 'T': t == 'over', 'C': False}
        if c in ('idle', 'unknown'):
            if rec == COLD:
                yield 'C finds it its own', (rec, late, s, t, RUNS, left)
            elif rec == OFFER and (over['S'] or cold == 'any' or cold == 'owner' and over['T']):
                yield from swap(state, 'C', rec, COLD, RUNS, 'unknown', 'C starts it')
            elif rec != OFFER and over[rec[0]]:
                yield from swap(state, 'C', rec, COLD, RUNS, 'unknown', 'C starts it')
        for who, pc in (('S', s), ('T', t)):
            if pc not in ('dead', 'over'):
                yield who + ' dies', (rec, late, 'dead' if who == 'S' else s, 'dead' if who == 'T' else t, c, left)
            if pc == 'dead':
                rest = frozenset(x for x in late if x[0] != who)
                yield who + '\'s life is over', (rec, rest, 'over' if who == 'S' else s,
                                                 'over' if who == 'T' else t, c, left)
    return first, steps


def runs(state):
    return RUNS in state[2:5]


judge([
    ('a hand-over by compare-and-write', *model(), True, runs),
    # It is taken from a source that has paused it: no second runner, but a needless cold start.
    ('an offer is the target\'s when it is dead', *model(cold='owner'), True, runs),
    ('an unknown offer is settled by a read', *model(settle='read'), False),
    ('no fresh token', *model(token=False), False),
    ('the target believes the message', *model(accept='message'), False),
    ('the source does not ask again', *model(gives_up=True), False, runs),
])
