# SPDX-License-Identifier: Apache-2.0
"""A network namespace of the lab's own: a bridge a network, a tap a card. Nothing leads out of it, and it
goes with the last process in it. Processes enter by the descriptor held here, so it has no name to leak."""
import os, queue, subprocess, threading
from .cache import LabError

# The lab's networks: hosts among each other, and two ways to the SAN. .254 is the bare machine in each.
NETWORKS = {'lan': '10.77.0', 'sana': '10.77.1', 'sanb': '10.77.2'}


class _Starter:
    """Starts processes from one thread that lives as long as we do: PR_SET_PDEATHSIG fires at the end of the
    *thread* that forked, not of the process."""

    def __init__(self):
        self.work = queue.Queue()
        threading.Thread(target=self._loop, daemon=True).start()

    def _loop(self):
        while True:
            call, answer = self.work.get()
            try:
                answer.put((call(), None))
            except BaseException as e:  # told to the caller below
                answer.put((None, e))

    def __call__(self, call):
        answer = queue.Queue()
        self.work.put((call, answer))
        result, error = answer.get()
        if error:
            raise error
        return result


_starter = None


def popen(cmd, **kw):
    """A child that is killed when we die, however we die."""
    global _starter
    if not _starter:
        _starter = _Starter()
    kw.setdefault('stdin', subprocess.DEVNULL)
    cmd = ['setpriv', '--pdeathsig', 'KILL', '--', *map(str, cmd)]
    return _starter(lambda: subprocess.Popen(cmd, **kw))


class Network:
    def __init__(self):
        script = 'set -e; ip link set lo up\n'
        for name, prefix in NETWORKS.items():
            script += f'''ip link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0
                ip addr add {prefix}.254/24 dev {name}; ip link set {name} up\n'''
        script += 'echo ready; read x'
        holder = popen(['unshare', '--net', '--', 'sh', '-c', script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True)
        try:
            if holder.stdout.readline() != 'ready\n':
                raise LabError(f'no network namespace with bridges; is this root? {holder.stderr.read()}')
            self.fd = os.open(f'/proc/{holder.pid}/ns/net', os.O_RDONLY | os.O_CLOEXEC)
        finally:
            holder.kill()
            holder.communicate()

    def enter(self):
        """The words before a command that put it into the network; the descriptor for pass_fds."""
        return ['nsenter', f'--net=/proc/self/fd/{self.fd}', '--']

    def popen(self, cmd, **kw):
        return popen([*self.enter(), *cmd], pass_fds=[self.fd], **kw)

    def ip(self, *words):
        p = self.popen(['ip', *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        out = p.communicate(timeout=20)[0]
        if p.returncode:
            raise LabError(f'ip {" ".join(words)}: {out.strip()}')
        return out

    def tap(self, name, network):
        self.ip('tuntap', 'add', name, 'mode', 'tap')
        self.ip('link', 'set', name, 'master', network, 'up')

    def silence(self, tap, network, on):
        """Frames of the tap vanish, both ways; its owner's link stays up."""
        if on:
            self.ip('link', 'set', tap, 'nomaster')
        else:
            self.ip('link', 'set', tap, 'master', network)

    def close(self):
        os.close(self.fd)
