# SPDX-License-Identifier: Apache-2.0
"""A guest's serial console: what a person at it would type and see. Works on any Run whose standard input and
output are the console (QEMU's -serial stdio, `perilune vm console`)."""
import base64, itertools, re
from .channel import RunFailed

PROMPT = r'guest# '


class GuestConsole:
    def __init__(self, machine, run):
        self.machine, self.serial, self.scale = machine, run, machine.lab.scale
        self.at = 0
        self._marks = itertools.count(1)

    def expect(self, pattern, timeout):
        m = self.serial.expect(pattern, timeout * self.scale, self.at)
        self.at = m.end()
        return m

    def expect_words(self, words, timeout):
        """What a program wrote that places its cursor as it likes, within words too (GRUB)."""
        return self.expect(r'(?:\x1b\[[0-9;?]*[A-Za-z])*'.join(re.escape(c) for c in words), timeout)

    def login(self, timeout=120):
        """Waits for root's prompt (the guest logs in by itself)."""
        self.expect(PROMPT, timeout)
        return self

    def run(self, command, timeout=60, check=True):
        """Types a command; (exit code, output). The mark is made by the shell, so the echo is not taken for it."""
        n = next(self._marks)
        self.at = len(self.serial._out)
        self.serial.write(f"{{ {command}\n}}; echo \"mark\"-{n}-$?-\n")
        m = self.expect(rf'mark-{n}-(\d+)-\r*\n', timeout)
        text = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', m.string[:m.start()].decode(errors='replace').replace('\r', ''))
        text = text.rsplit(f'"mark"-{n}-$?-\n', 1)[-1]
        code = int(m[1])
        if check and code:
            raise RunFailed(f'{self.machine.name}: in the guest: {command}: exit {code}\n{text[-2000:]}')
        return code, text

    def put(self, path, text):
        """A small file, typed in words that no shell takes for anything else."""
        self.run(f'echo {base64.b64encode(text.encode()).decode()} | base64 -d > {path}')

    def power_off(self, timeout=60):
        """As a person would; waits for the monitor to end."""
        self.serial.write('systemctl poweroff\n')
        code = self.serial.wait(timeout * self.scale)
        if code:
            raise RunFailed(f'{self.machine.name}: after the guest\'s power-off its monitor ended with {code}')

    def transcript(self):
        return self.serial.out
