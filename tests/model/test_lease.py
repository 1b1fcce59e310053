#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""INV-HA-1 and 2 without reservations (--fence=time), and when a dead host's VM may run elsewhere.
Discrete time; L the lease, F the longest flight of a command, W the silence before the claim.
The victim beats (plain write), looks, then its lease runs from the beat's submission."""
from explore import judge

L, F = 4, 2
X = L + F + 1  # waited from the claim on; one tick for the recoverer's own rounding


def model(W, look='each', wait=X, restart=None, pause=False):
    """look: 'each' beat is followed by a look, or only after a 'lapse'. wait: from the claim to the replay.
    restart: how the VM's start elsewhere is timed (None: not modelled): 'rule' as cfs_slot_lease_over_ms,
    'stale' from the beat as it was seen before the claim, without looking again."""
    M = max(W, wait) + X + 2
    # moved since R's sample, beat age (-1 none, -2 gave up), landed, lease, look window, write age, armed,
    # time since R saw it move, R's phase, time since the claim, reread (0 not, 1 unmoved, 2 moved), done
    first = (0, -1, 0, L, 0, -1, 0, 0, 0, 0, 0, 0)

    def steps(s):
        ch, ba, bl, le, lk, wa, arm, w, ph, cw, rr, rp = s
        out = []
        go = lambda what, **k: out.append((what, tuple({**dict(zip(
            'ch ba bl le lk wa arm w ph cw rr rp'.split(), s)), **k}.values())))
        if ba == -1 and lk == 0:
            go('beat sent', ba=0, bl=0)
        if ba >= 0 and not bl:
            go('beat lands', ch=1, bl=1)
        if ba >= 0 and bl and lk == 0:
            left = L - ba
            if left <= 0:
                go('beat confirmed, too late', ba=-1)
            elif look == 'each' or le <= 0:
                go('beat written, must look', ba=-1, lk=left)
            else:
                go('beat written, lease goes on unlooked', ba=-1, le=max(le, left))
        if lk > 0:
            if ph >= 2:
                go('looks: claim gone', ba=-2, bl=0, le=0, lk=0)
            else:
                go('looks: claim stands', le=max(le, lk), lk=0)
        if wa < 0 and le > 0:
            go('lease runs', arm=1) if pause else go('write sent', wa=0)
        if arm and wa < 0:
            go('wakes, write sent', wa=0, arm=0)
        if wa >= 0:
            if rp and restart is None:
                out.append(('WRITE OF THE DEAD EPOCH AFTER ITS REPLAY', None))
            go('write lands', wa=-1)
        if le > 0 and rp and restart is not None:
            out.append(('THE VM RUNS TWICE', None))
        if ph == 0 and ch:
            go('R sees it move', ch=0, w=0)
        if ph == 0 and not ch and w >= W:
            go('R decides', ph=1)
        if ph == 1:
            go('R claims', ph=2, cw=0)
        if ph == 2 and restart and not rr:
            # the first look that shows the claim gone shows the last confirmed beat too
            go('R looks again', rr=2 if ch else 1, **({'w': 0, 'ch': 0} if ch else {}))
        if ph == 2 and not rp:
            if restart is None and cw >= wait:
                go('R replays', rp=1)
            if restart == 'rule' and rr and w >= L + 1:
                go('VM starts elsewhere', rp=1)
            if restart == 'stale' and (cw + W >= L + 1 if rr != 2 else w >= L + 1) and not ch:
                go('VM starts elsewhere', rp=1)
            if restart == 'stale' and not rr and w >= L + 1:
                go('VM starts elsewhere', rp=1)
        if wa < F:
            go('tick', ba=min(ba + 1, L + 1) if ba >= 0 else ba, le=max(le - 1, 0), lk=max(lk - 1, 0),
               wa=wa + 1 if wa >= 0 else wa, w=min(w + 1, M), cw=min(cw + 1, M))
        return out
    return first, steps


judge([
    ('INV-HA-2: wait lease + flight from the claim, look after each beat', *model(2), True),
    ('the same after a long silence', *model(5), True),
    ('no wait after the claim', *model(X, wait=0), False),
    ('a shorter wait after the claim', *model(2, wait=L - 1), False),
    ('INV-HA-1 broken: looks only after a lapse', *model(2, look='lapse'), False),
    ('without a fence nothing helps a host that sleeps after its check', *model(2, pause=True), False),
    ('VM restart: one lease after its last beat was seen, looking after the claim', *model(2, restart='rule'), True),
    ('VM restart timed by the beat seen before the claim', *model(3, restart='stale'), False),
])
