# SPDX-License-Identifier: Apache-2.0
"""Hosts on networks of their own, with a cable that can be pulled."""
import os, subprocess

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
