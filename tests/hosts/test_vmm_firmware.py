# SPDX-License-Identifier: Apache-2.0
"""perilune-vmm boots from a disk: Debian's SeaBIOS finds it behind virtio-scsi, and what the boot sector says by the
BIOS comes out of the serial port. And the rest of a machine: its watchdog, kernels of 32 bits."""
import errno, os, socket, struct, subprocess, sys, tempfile, time
from contextlib import ExitStack, contextmanager
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'lib'))
from vmm import *
from payloads import assemble32, boot_sector as make_boot_sector
from vhost_backend import Relay
from test_vmm import POWER_OFF, guest, say

if not os.path.exists(SEABIOS):
    pytest.skip('no SeaBIOS: Debian package seabios', allow_module_level=True)
MEMORY = 32 * MiB
BOOTS_IN = 120  # seconds, at most: thousands of emulated instructions and exits


@pytest.fixture(scope='module')
def boot_sector():
    return make_boot_sector()


@contextmanager
def disk(boot_sector, text):
    """A raw_server with a disk that says `text`; gives its socket's path."""
    with tempfile.TemporaryDirectory(prefix='fw-') as d:
        with open(d + '/disk', 'wb') as f:
            f.write(boot_sector + text.encode() + b'\0')
            f.truncate(16 * MiB)
        server = subprocess.Popen([f'{BUILD}/tests/client/raw_server', 'scsi', d + '/sock', d + '/disk'],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert b'ready' in server.stdout.readline()
            yield d + '/sock'
        finally:
            server.kill()
            server.wait()
            server.stdout.close()


def join(vm, path):
    back = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    back.connect(path)
    return Relay(vm.connect(2, 0), back)


def firmware():
    with open(SEABIOS, 'rb') as f:
        return f.read()


def booted(stack, path, **kw):
    vm = stack.enter_context(Vmm(memory=MEMORY, devices=[(SCSI, 1, 128)], firmware=firmware(), **kw))
    vm.configure()
    join(vm, path)
    vm.start()
    vm.expect(b'SeaBIOS', BOOTS_IN)
    return vm


def type_and_see(vm, text):
    vm.send(CONSOLE_INPUT, text)
    vm.expect(text, BOOTS_IN)


@pytest.mark.slow
def test_a_boot_sector_speaks_reads_reboots_and_powers_off(boot_sector):
    with ExitStack() as stack:
        path = stack.enter_context(disk(boot_sector, 'second sector'))
        vm = booted(stack, path, cpus=2)
        for boot in (1, 2):                     # through the firmware each time
            vm.expect(b'second sector', BOOTS_IN)
            type_and_see(vm, b'typed')
            assert vm.status()['boots'] == boot
            if boot == 1:
                vm.send(CONSOLE_INPUT, b'!')
                vm.wait_event(EV_RESET, BOOTS_IN)
                vm.load()
                vm.start()
        vm.send(CONSOLE_INPUT, b'.')
        vm.wait_event(EV_POWERED_OFF, BOOTS_IN)


@pytest.mark.slow
def test_it_moves_in_the_middle_of_the_boot(boot_sector):
    with ExitStack() as stack:
        path = stack.enter_context(disk(boot_sector, 'second sector'))
        vm = booted(stack, path)                # it has just said its name: disks come after that
        assert vm.call(PAUSE) == 0
        state = vm.save()
        other = stack.enter_context(Vmm(memory=MEMORY, devices=[(SCSI, 1, 128)]))
        other.configure()
        other.mem[:] = vm.mem[:]
        assert other.load_state(state) == 0, other.why
        vm.close()
        join(other, path)
        assert other.call(RESUME) == 0, other.why
        other.expect(b'second sector', BOOTS_IN)
        type_and_see(other, b'typed there')


def test_firmware_that_does_not_end_at_1_mib_is_refused():
    with Vmm(memory=MEMORY, firmware=firmware()[:-4096]) as vm:
        vm.connect()
        body = bytearray(vm.config_body())
        body[16:24] = struct.pack('<Q', 0x90000)
        with pytest.raises(Gone):
            vm.call(CONFIG, bytes(body))


# --- kernels of 32 bits

PROTECTED = '''
.code32
_start: cli
        mov $0x1f000, %esp
        mov $0xc0000001, %eax           # what a 64-bit mode would have sign-extended or faulted on
        mov 0x1f1+0x11(%esi), %ebx      # the zero page: "HdrS"
        cmp $0x53726448, %ebx
        jne 2f
        mov %cr0, %eax
        test $0x80000000, %eax          # no paging
        jnz 2f
        .byte 0x40                      # inc %eax here, a prefix in 64 bits
        mov %cr0, %ebx
        inc %ebx
        cmp %ebx, %eax
        jne 2f
        mov $text, %esi
        call puts
        mov $0x604, %dx
        mov $(5 << 10 | 1 << 13), %ax
        out %ax, %dx
2:      hlt
        jmp 2b
puts:   mov $0x3f8, %dx
1:      lodsb
        test %al, %al
        jz 1f
        out %al, %dx
        jmp 1b
1:      ret
text:   .asciz "32 bits, flat, without paging"
'''


def test_a_kernel_without_a_64_bit_entry_is_entered_in_protected_mode():
    code = assemble32(PROTECTED, KERNEL_GPA)
    setup = bytearray(setup_sectors())
    setup[0x236:0x238] = bytes(2)               # no XLF_KERNEL_64
    with Vmm(code.ljust(4096, b'\0'), setup=bytes(setup)) as vm:
        vm.run()
        vm.expect(b'32 bits, flat, without paging')
        vm.wait_event(EV_POWERED_OFF)


# --- the watchdog

ARM = 'mov $0x620, %dx; mov $2, %eax; out %eax, %dx; mov $0x628, %dx; mov $1, %al; out %al, %dx;'
# Says whether the boot before ended by it (the status register), as the kernel's driver asks.
ASK = 'mov $0x62a, %dx; in %dx, %al; add $48, %al; call putc;'
PET = '2: mov $0x629, %dx; mov $1, %al; out %al, %dx; cmpb $0, 0x190000; je 2b;'


def watched(body, how):
    vm = Vmm(guest(ASK + ARM + body))
    vm.configure()
    assert vm.set_machine(watchdog=how) == 0
    vm.start()
    return vm


@pytest.mark.slow
def test_a_watchdog_that_runs_out_resets_the_guest_which_learns_of_it():
    with watched(say('armed'), 1) as vm:
        vm.expect(b'0armed')
        vm.wait_event(EV_WATCHDOG)
        vm.wait_event(EV_RESET)
        vm.load()
        vm.start()
        vm.expect(b'1armed')
        vm.wait_event(EV_RESET)


def test_a_watchdog_can_only_report():
    with watched(say('armed') + '3: mov $0x628, %dx; in %dx, %al; test $1, %al; jnz 3b;' + say('goes on'), 2) as vm:
        vm.expect(b'armed')
        assert vm.wait_event(EV_WATCHDOG)
        vm.expect(b'goes on')
        assert vm.status()['state'] == RUNNING and not vm.events


@pytest.mark.slow
def test_a_watchdog_that_is_fed_or_stands_still_with_its_guest_does_not_run_out():
    with watched(say('armed') + PET + say('no more'), 1) as vm:
        vm.expect(b'armed')
        end = time.monotonic() + 4
        while time.monotonic() < end:
            vm.receive(0.2)
        assert not vm.events
        assert vm.call(PAUSE) == 0
        vm.mem[0x190000] = 1                    # it feeds no more
        state = vm.save()
        time.sleep(3)
        with Vmm(None) as other:
            other.configure()
            assert other.set_machine(watchdog=1) == 0
            other.mem[:] = vm.mem[:]
            assert other.load_state(state) == 0, other.why
            time.sleep(3)
            assert other.status()['state'] == PAUSED and not other.events
            assert other.call(RESUME) == 0
            other.expect(b'no more')
            other.wait_event(EV_WATCHDOG)
        assert not vm.events


@pytest.mark.slow
def test_without_a_watchdog_there_is_nothing():
    with watched(say('armed'), 0) as vm:
        vm.expect(b'/armed')                    # 0xff + 48
        end = time.monotonic() + 3
        while time.monotonic() < end:
            vm.receive(0.2)
        assert not vm.events
