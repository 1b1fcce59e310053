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


def judge(cases):
    """cases: (name, first, steps, holds?). Exits 1 when a rule fails, or its loss goes unnoticed."""
    bad = 0
    for name, first, steps, holds in cases:
        way, n = explore(first, steps)
        ok = (way is None) == holds
        bad += not ok
        print(f"{'ok  ' if ok else 'BAD '} {name}: {'holds' if way is None else 'fails'} ({n} states)")
        if way and (not ok or '-v' in sys.argv):
            print('     ' + '; '.join(way))
    sys.exit(1 if bad else 0)
