# SPDX-License-Identifier: Apache-2.0
"""The host's part of plugging a disk in: `vm attach` from the request to the API to its answer, when the disk is the VM's,
durably, and the guest was told. The VM's monitor is the tests' program, so there is no guest that could be slow."""
import http.client, json, os, socket, tempfile, time

from benchlib import BUILD, RUNS, row, work_dir, written_file
from rows_disk import GiB, Host
from vmm import setup_sectors

TURNS = max(15, 3 * RUNS)


class Api(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__('perilune', timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def attach_ms(host, body):
    api = Api(f'{host.state}/api.sock')
    api.connect()
    begun = time.perf_counter()
    api.request('POST', '/v1/vm/attach', body)
    answer = api.getresponse()
    said = answer.read()
    took = (time.perf_counter() - begun) * 1000
    api.close()
    if answer.status != 200:
        raise RuntimeError(f'vm attach: {answer.status}: {said!r}')
    return took


@row('attach-host-part', 'ms')
def attach_host_part():
    out = []
    with tempfile.TemporaryDirectory(dir=work_dir()) as folder:
        os.symlink(BUILD / 'tests/stub/vmm_stub', f'{folder}/perilune-vmm')
        with open(f'{folder}/kernel', 'wb') as f:
            f.write(setup_sectors() + bytes(4096))
        lun = written_file('attach.lun', GiB)
        host = Host(folder, 'host0', ('--vmm', f'{folder}/perilune-vmm', '--kvm', '/dev/null'))
        try:
            host.cli('volume', 'format', 'bench', lun, '--overwrite')
            host.cli('volume', 'mount', lun)
            for name in ('root', 'more'):
                host.cli('disk', 'create', f'bench:/{name}', '--size', '64M')
            host.cli('vm', 'create', 'plug', '--volume', 'bench', '--memory', '32M', '--kernel', f'{folder}/kernel', '--disk', 'bench:/root')
            host.cli('vm', 'start', 'plug')
            for i in range(TURNS + 1):
                took = attach_ms(host, json.dumps({'name': 'plug', 'disk': 'bench:/more'}))
                host.cli('vm', 'detach', 'plug', 'bench:/more')
                if i:
                    out.append((took, None))
            host.cli('vm', 'kill', 'plug')
        finally:
            host.stop()
    return out
