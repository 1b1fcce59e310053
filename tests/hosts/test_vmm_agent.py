# SPDX-License-Identifier: Apache-2.0
"""The guest agent's channel of perilune-vmm: a payload guest (tests/lib/guest/agent.c) on one side, the test in
the daemon's place on the other."""
import functools, select, socket, time
from contextlib import ExitStack

import pytest

from payloads import c_kernel
from test_vmm_state import move
from vmm import AGENT, CONSOLE_INPUT, EV_RESET, PAUSE, RESET, RESUME, RNG, RUNNING, MiB, Vmm

KIND, THAWS = 3, 1
MEMORY = 8 * MiB
kernel = functools.cache(lambda: c_kernel('agent', MEMORY))


@pytest.fixture
def vm():
    with ExitStack() as stack:
        image = kernel()
        v = stack.enter_context(Vmm(image[1024:], memory=MEMORY, setup=image[:1024], devices=[(RNG, 1, 16), (AGENT, 1, 64)]))
        v.stack = stack
        v.run()
        for text in (b'ready', b'added 1\n', b'named org.qemu.guest_agent.0\n'):
            v.expect(text)
        yield v


def type_line(vm, line):
    vm.send(CONSOLE_INPUT, line.encode() + b'\n')
    vm.expect(b'done ' + line[:1].encode() + b'\n')


def read(sock, want, timeout=20):
    """Until `want` bytes have come, or `want` itself; b'' at the end of the connection."""
    got, end = b'', time.monotonic() + timeout
    while (len(got) < want) if isinstance(want, int) else (want not in got):
        assert select.select([sock], [], [], max(0, end - time.monotonic()))[0], f'{len(got)} bytes: {got[-200:]!r}'
        try:
            data = sock.recv(65536)
        except ConnectionResetError:
            data = b''
        if not data:
            return b''
        got += data
    return got


def ask(sock, name, args=''):
    sock.sendall(b'{"execute": "%s"%s}\n' % (name.encode(), args.encode()))


def test_bytes_go_both_ways_and_the_guest_sees_who_is_there(vm):
    assert vm.status()['connected'] == 1                # the rng, not the agent
    with vm.connect(KIND, 1) as daemon:
        vm.expect(b'host 1\n')
        assert vm.status()['connected'] == 3
        type_line(vm, 'o')
        ask(daemon, 'guest-ping')
        assert read(daemon, b'\n') == b'{"return": {}}\n'
        type_line(vm, 's hello')
        assert read(daemon, b'\n') == b'hello\n'
    vm.expect(b'host 0\n')
    with vm.connect(KIND, 1) as daemon:                 # another one, as after the daemon's restart
        vm.expect(b'host 1\n')
        ask(daemon, 'guest-ping')
        assert read(daemon, b'\n') == b'{"return": {}}\n'
        with vm.connect(KIND, 1) as newer:              # replaces it, and the guest notices nothing
            assert read(daemon, 1) == b''
            ask(newer, 'guest-ping')
            assert read(newer, b'\n') == b'{"return": {}}\n'
        vm.expect(b'host 0\n')
        assert b'host' not in vm.console


def test_what_is_said_to_a_closed_port_is_thrown_away(vm):
    with vm.connect(KIND, 1) as daemon:
        vm.expect(b'host 1\n')
        ask(daemon, 'guest-shutdown')
        type_line(vm, '?')                              # the device has had its turn, or will before the port opens
        time.sleep(0.2)
        type_line(vm, 'o')
        ask(daemon, 'guest-ping')
        assert read(daemon, b'\n') == b'{"return": {}}\n'
        assert b'shutdown' not in vm.console
        type_line(vm, 'c')                              # the agent ends: so does the connection
        assert read(daemon, 1) == b''
    with vm.connect(KIND, 1) as daemon:
        type_line(vm, 'o')
        ask(daemon, 'guest-ping')
        assert read(daemon, b'\n') == b'{"return": {}}\n'


@pytest.mark.slow
def test_a_side_that_does_not_read_makes_the_other_wait(vm):
    with vm.connect(KIND, 1) as daemon:
        type_line(vm, 'o')
        vm.send(CONSOLE_INPUT, b'r 80\n')               # more than a socket holds
        time.sleep(0.3)
        assert b'done r' not in vm.console and vm.status()['state'] == RUNNING
        assert len(read(daemon, 80 * 4096)) == 80 * 4096
        vm.expect(b'done r\n')
        type_line(vm, 'd')
        daemon.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        daemon.setblocking(False)
        sent, piece, still = 0, b'x' * 4096, 0
        while still < 10:                               # full for a while: nobody takes it
            try:
                sent += daemon.send(piece)
                still = 0
            except BlockingIOError:
                still += 1
                time.sleep(0.02)
        assert sent < 1 << 20
        assert vm.status()['state'] == RUNNING
        daemon.setblocking(True)
        type_line(vm, 'a')                              # it reads again
        daemon.settimeout(20)
        daemon.sendall(b'\n\xff{"execute": "guest-ping"}\n')
        assert read(daemon, b'{"return": {}}\n')


def test_a_guest_that_sends_without_end_stops_nothing(vm):
    with vm.connect(KIND, 1) as daemon:
        type_line(vm, 'o')
        type_line(vm, 'e')
        ask(daemon, 'guest-ping')
        assert len(read(daemon, 100000)) >= 100000
        assert vm.status()['state'] == RUNNING
    assert vm.status()['state'] == RUNNING
    assert vm.call(PAUSE) == 0 and vm.call(RESUME) == 0


def test_who_froze_and_went_away_has_thawed(vm):
    with vm.connect(KIND, 1, THAWS) as daemon:
        type_line(vm, 'o')
        ask(daemon, 'guest-fsfreeze-freeze')
        assert read(daemon, b'\n') == b'{"return": 1}\n'
    vm.expect(b'asked guest-fsfreeze-thaw\n')
    type_line(vm, '?')
    with vm.connect(KIND, 1, THAWS) as daemon:          # replaced: who comes sees to it
        ask(daemon, 'guest-ping')
        read(daemon, b'return": {}}\n')
        vm.console = b''
        with vm.connect(KIND, 1) as newer:
            ask(newer, 'guest-ping')
            read(newer, b'return": {}}\n')
    type_line(vm, '?')
    assert b'thaw\n' not in vm.console


def test_a_reset_begins_anew(vm):
    with vm.connect(KIND, 1) as daemon:
        type_line(vm, 'o')
        ask(daemon, 'guest-ping')
        read(daemon, b'\n')
        assert vm.call(RESET) == 0
        vm.wait_event(EV_RESET)
        assert read(daemon, 1) == b''
        vm.load()
        vm.start()
        vm.expect(b'named org.qemu.guest_agent.0\n')
        with vm.connect(KIND, 1) as newer:
            vm.expect(b'host 1\n')
            type_line(vm, 'o')
            ask(newer, 'guest-ping')
            assert read(newer, b'\n') == b'{"return": {}}\n'


def test_it_moves_with_its_guest(vm):
    stack = vm.stack
    daemon = vm.connect(KIND, 1)
    vm.expect(b'host 1\n')
    type_line(vm, 'o')
    for _ in range(3):
        ask(daemon, 'guest-ping')
        assert read(daemon, b'\n') == b'{"return": {}}\n'
        vm.send(CONSOLE_INPUT, b'r 100\n')              # what is on its way may be lost, nothing more
        daemon.close()
        vm = move(vm, stack)
        vm.expect(b'done r\n')
        daemon = vm.connect(KIND, 1)
        daemon.sendall(b'\xff')
        ask(daemon, 'guest-ping')
        assert read(daemon, b'{"return": {}}\n')
    daemon.close()


def test_two_agents_or_none(vm):
    with vm.connect(KIND, 0) as wrong:                  # the rng
        assert read(wrong, 1) == b''
    with vm.connect(KIND, 7) as wrong:
        assert read(wrong, 1) == b''
    with Vmm(kernel()[1024:], memory=MEMORY, setup=kernel()[:1024], devices=[(AGENT, 1, 64), (AGENT, 1, 64)]) as other:
        with pytest.raises(AssertionError, match='CONFIG'):
            other.configure()
