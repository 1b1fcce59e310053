# SPDX-License-Identifier: Apache-2.0
"""What /proc says of processes: who lives, and who had the processors.

A limit in seconds says little where others compute as well. A second that they had of the processors delays
whatever is measured by a second at most, so tests allow for that much:

    other = Others(pid)
    ...what is measured...
    assert took <= LIMIT_S + other.seconds()
"""
import os, time

HZ = os.sysconf('SC_CLK_TCK')


def _stat(pid):
    """From the third field on: the second, a name, may hold spaces and brackets."""
    with open(f'/proc/{pid}/stat') as f:
        return f.read().rpartition(')')[2].split()


def alive(pid):
    """A zombie is not."""
    try:
        return _stat(pid)[0] != 'Z'
    except FileNotFoundError:
        return False


def cpu_s(pid):
    """User and system time of a process so far, all its threads."""
    return sum(map(int, _stat(pid)[11:13])) / HZ


def stands_still(pid, timeout):
    """Until it uses no CPU time for a second; what it has used by then."""
    end, last = time.monotonic() + timeout, cpu_s(pid)
    while True:
        time.sleep(1)
        now = cpu_s(pid)
        if now == last:
            return now
        assert time.monotonic() < end, f'process {pid} goes on after {timeout} s'
        last = now


def machine_cpu_s():
    """What all processes of the machine used so far, and the machine below took from it."""
    with open('/proc/stat') as f:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, f.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / HZ


def children_cpu_s():
    """What our children used that have ended, and theirs."""
    t = os.times()
    return t.children_user + t.children_system


class Others:
    """CPU time that went, since now, to others than processes `pids` and our children that end meanwhile."""

    def __init__(self, *pids):
        self.own = {pid: cpu_s(pid) for pid in pids}
        self.machine, self.children = machine_cpu_s(), children_cpu_s()

    def seconds(self, *born):
        """`born`: further processes, which have begun meanwhile."""
        own = sum(cpu_s(pid) - self.own.get(pid, 0) for pid in (*self.own, *born))
        return max(0, machine_cpu_s() - self.machine - (children_cpu_s() - self.children) - own)
