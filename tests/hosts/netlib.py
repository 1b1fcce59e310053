# SPDX-License-Identifier: Apache-2.0
"""Hosts on networks of their own, with a cable that can be pulled."""
import json, os, subprocess

import pytest


class Net:
    """Two network namespaces with a cable between them."""

    def __init__(self):
        self.tag = f'ph{os.getpid()}'
        self.ns = [f'{self.tag}a', f'{self.tag}b']
        self.link = [f'{self.tag}l', f'{self.tag}r']
        self.made = []

    def ip(self, *words):
        subprocess.run(['ip', *words], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def __enter__(self):
        try:
            for n in self.ns:
                self.ip('netns', 'add', n)
                self.made.append(n)
            self.ip('link', 'add', self.link[0], 'netns', self.ns[0], 'type', 'veth', 'peer', 'name', self.link[1], 'netns', self.ns[1])
            for n, l, a in zip(self.ns, self.link, ('10.231.7.1/24', '10.231.7.2/24')):
                self.ip('-n', n, 'addr', 'add', a, 'dev', l)
                self.ip('-n', n, 'link', 'set', 'lo', 'up')
                self.ip('-n', n, 'link', 'set', l, 'up')
        except subprocess.CalledProcessError as e:
            self.__exit__()
            pytest.skip(f'no network namespaces here: {e.stdout.decode().strip()}')
        return self

    def __exit__(self, *a):
        for n in self.made:
            subprocess.run(['ip', 'netns', 'delete', n], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def cable(self, state):
        self.ip('-n', self.ns[1], 'link', 'set', self.link[1], state)


BUILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', os.environ.get('BUILD', 'build'))


class Lan:
    """Hosts with a bridge "br0" each, in namespaces of their own, cabled to one switch; an observer (10.99.0.1) there, too."""

    def __init__(self, hosts=2):
        self.tag = f'pl{os.getpid()}'
        self.ns = [f'{self.tag}h{i}' for i in range(hosts)]
        self.switch = f'{self.tag}s'
        self.made = []

    def ip(self, *words, ns=None):
        subprocess.run(['ip', *(('-n', ns) if ns else ()), *words], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def __enter__(self):
        try:
            for i, n in enumerate((self.switch, *self.ns)):
                self.ip('netns', 'add', n)
                self.made.append(n)
                self.ip('link', 'set', 'lo', 'up', ns=n)
                # an address of its own: else it has the lowest of its ports', and changes it as they come and go
                self.ip('link', 'add', 'br0', 'address', f'02:0b:00:00:00:{i:02x}', 'type', 'bridge', ns=n)
                self.ip('link', 'set', 'br0', 'up', ns=n)
            self.ip('addr', 'add', '10.99.0.1/24', 'dev', 'br0', ns=self.switch)
            for i, n in enumerate(self.ns):
                self.ip('addr', 'add', f'10.99.0.{200 + i}/24', 'dev', 'br0', ns=n)
                self.ip('link', 'add', f'p{i}', 'netns', self.switch, 'type', 'veth', 'peer', 'name', 'up0', 'netns', n)
                for where, port in ((self.switch, f'p{i}'), (n, 'up0')):
                    self.ip('link', 'set', port, 'master', 'br0', ns=where)
                    self.ip('link', 'set', port, 'up', ns=where)
        except subprocess.CalledProcessError as e:
            self.__exit__()
            pytest.skip(f'no network namespaces with bridges here: {e.stdout.decode().strip()}')
        return self

    def __exit__(self, *a):
        for n in self.made:
            subprocess.run(['ip', 'netns', 'delete', n], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def within(self, i):
        """Words before a command that is to run on host i."""
        return 'ip', 'netns', 'exec', self.ns[i]

    def ports(self, i):
        """The VMs' ports of a host's bridge."""
        out = subprocess.run(['ip', '-n', self.ns[i], '-o', 'link', 'show', 'master', 'br0'], check=True, stdout=subprocess.PIPE, text=True).stdout
        return [line.split(':')[1].strip() for line in out.splitlines() if 'plnet' in line]

    def pinger(self, address, interval=10, wait=5000, most=None):
        return Pinger(['ip', 'netns', 'exec', self.switch, f'{BUILD}/tests/hosts/pinger', address, str(interval), str(wait),
                       *([str(most)] if most else [])])

    def went(self, device, ns):
        """Frames that a device gave away, and those that it dropped instead."""
        out = subprocess.run(['ip', '-n', ns, '-j', '-s', 'link', 'show', device], check=True, stdout=subprocess.PIPE, text=True).stdout
        tx = json.loads(out)[0]['stats64']['tx']
        return tx['packets'], tx['dropped']


class Pinger:
    """Pings until stop(); what it saw is in sent, lost and longest (ms)."""

    def __init__(self, cmd):
        self.proc = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        self.proc.stdout.close()
        self.proc.stdin.close()

    def first(self):
        assert self.proc.stdout.readline() == 'first\n'
        return self

    def stop(self):
        self.proc.stdin.write('\n')
        self.proc.stdin.flush()
        for line in self.proc.stdout:
            if line.startswith('sent'):
                words = line.split()
                self.sent, self.lost, self.longest = (int(words[i]) for i in (1, 3, 5))
                return self
        raise AssertionError('the pinger said nothing')
