# SPDX-License-Identifier: Apache-2.0
"""Perilune on a host of the lab: its daemon as a process that can be killed, its command line, its VMs' consoles."""
import json, shlex, signal, time
from .cache import LabError
from .channel import LabTimeout, RunFailed
from .console import GuestConsole

STATE = '/var/lib/perilune'
EXIT = {'ok': 0, 'failed': 1, 'usage': 2, 'not-found': 3, 'busy': 4, 'refused': 5, 'no-space': 6, 'integrity': 7,
        'unreachable': 8, 'timed-out': 9}


class Perilune:
    def __init__(self, host):
        self.host, self.daemon = host, None

    def start(self, timeout=30):
        """Starts the daemon and waits until it answers; the seconds that took."""
        start = time.monotonic()
        address = self.host.networks['lan']
        self.daemon = self.host.spawn(f'exec perilund --state {STATE} --name {self.host.name} --listen {address}:7700')
        end = start + timeout * self.host.lab.scale
        while self.cli('host show', check=False, timeout=timeout).code:
            if self.daemon.code is not None:
                raise RunFailed(f'{self.host.name}: perilund ended with {self.daemon.code}: '
                                f'{(self.daemon.out + self.daemon.err)[-2000:]}')
            if time.monotonic() > end:
                raise LabTimeout(f'{self.host.name}: perilund does not answer after {timeout} s: '
                                 f'{(self.daemon.out + self.daemon.err)[-2000:]}')
            time.sleep(0.1)
        return time.monotonic() - start

    def kill(self):
        """kill -9 of the daemon alone; VMs stay."""
        self.daemon.kill(signal.SIGKILL)
        self.daemon.wait(20)

    def cli(self, words, check=True, timeout=60):
        """perilune WORDS; a Run."""
        run = self.host.run(f'PERILUNE_CONNECT={STATE} perilune --yes {words}', timeout=timeout, check=False)
        if check and run.code:
            dead = self.daemon and self.daemon.code is not None
            raise RunFailed(f'{self.host.name}: perilune {words}: exit {run.code}\n{run.out[-3000:]}{run.err[-3000:]}' +
                            (f'\nperilund ended with {self.daemon.code}: {(self.daemon.out + self.daemon.err)[-3000:]}' if dead else ''))
        return run

    def json(self, words, timeout=60):
        out = self.cli(f'--json {words}', timeout=timeout).out
        try:
            return json.loads(out)
        except ValueError as e:
            raise LabError(f'{self.host.name}: perilune --json {words}: not JSON: {out[:500]}') from e

    def console(self, vm):
        """A VM's serial console."""
        return GuestConsole(self.host, self.host.spawn(f'PERILUNE_CONNECT={STATE} exec perilune vm console {shlex.quote(vm)}'))
