# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor."""
import json, socket, threading
from .cache import LabError


class Qmp:
    def __init__(self, name, path, timeout=10):
        self.name, self.lock = name, threading.Lock()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(str(path))
        self.file = self.sock.makefile('r')
        self.file.readline()
        self.ask('qmp_capabilities')

    def ask(self, command, **arguments):
        with self.lock:
            self.sock.sendall(json.dumps({'execute': command, 'arguments': arguments}).encode() + b'\n')
            while True:
                line = self.file.readline()
                if not line:
                    raise LabError(f'{self.name}: QEMU is gone ({command})')
                answer = json.loads(line)
                if 'error' in answer:
                    raise LabError(f'{self.name}: {command}: {answer["error"]["desc"]}')
                if 'return' in answer:
                    return answer['return']

    def close(self):
        self.file.close()
        self.sock.close()
