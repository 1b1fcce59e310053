# SPDX-License-Identifier: Apache-2.0
"""Breadth-first over all states of a small model. A model gives its first state and a function of a
state that lists (what happens, next state or None); None is the violation that the name tells."""
import sys
from collections import deque


def explore(first, steps, limit=4_000_000):
    """The shortest way to a violation as a list of words, or None; and the number of states."""
    seen, queue = {first: None}, deque([first])
    while queue:
        state = queue.popleft()
        for what, after in steps(state):
            if after is None:
                way, at = [what], state
                while seen[at]:
                    at, word = seen[at]
                    way.append(word)
                return way[::-1], len(seen)
            if after not in seen:
                if len(seen) >= limit:
                    sys.exit('too many states')
                seen[after] = (state, what)
                queue.append(after)
    return None, len(seen)


def stuck(first, steps, good):
    """A way to a state from which none is reached where good(state), though nobody else dies; None: there
    is no such state."""
    came, back, queue = {first: None}, {}, deque([first])
    while queue:
        state = queue.popleft()
        for what, after in steps(state):
            if after is None:
                continue
            if not what.endswith(' dies'):
                back.setdefault(after, []).append(state)
            if after not in came:
                came[after] = (state, what)
                queue.append(after)
    fine = {s for s in came if good(s)}
    queue = deque(fine)
    while queue:
        for before in back.get(queue.popleft(), ()):
            if before not in fine:
                fine.add(before)
                queue.append(before)
    for at in came:  # in the order of their distance
        if at not in fine:
            way = ['STUCK']
            while came[at]:
                at, word = came[at]
                way.append(word)
            return way[::-1]
    return None


def judge(cases):
    """cases: (name, first, steps, holds?) or (..., good): then, too, a state that is good(state) must stay
    within reach, wherever one is. Exits 1 when a rule fails, or its loss goes unnoticed."""
    bad = 0
    for name, first, steps, holds, *good in cases:
        way, n = explore(first, steps)
        if way is None and good:
            way = stuck(first, steps, good[0])
        ok = (way is None) == holds
        bad += not ok
        print(f"{'ok  ' if ok else 'BAD '} {name}: {'holds' if way is None else 'fails'} ({n} states)")
        if way and (not ok or '-v' in sys.argv):
            print('     ' + '; '.join(way))
    sys.exit(1 if bad else 0)
