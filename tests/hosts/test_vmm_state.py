# SPDX-License-Identifier: Apache-2.0
"""perilune-vmm saved and loaded: a guest goes on in another process with the right memory, registers, clocks and rings."""
import ctypes, errno, fcntl, os, random, struct, sys, time
from contextlib import ExitStack
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'lib'))
from vmm import *
from payloads import c_kernel
from vhost_backend import Backend, GET_VRING_BASE
from test_vmm import READ, guest, say, virtio_guest

DEADLINE, PERIODIC, HALT, CLOCK, REGISTERS = 1, 2, 4, 8, 16
SHARED, MEMORY, PAGES = 0x300000, 16 * MiB, 2048


@pytest.fixture(scope='module')
def image():
    return c_kernel('mover')


def mover(image, mode, **kw):
    vm = Vmm(image[1024:], memory=MEMORY, setup=image[:1024], **kw)
    vm.mem[SHARED:SHARED + 16] = struct.pack('<QQ', mode, PAGES)
    vm.run()
    vm.expect(b'on\n')
    return vm


def counters(vm):
    """loops, ticks, errors, clock in ns"""
    return struct.unpack('<4Q', vm.mem[SHARED + 16:SHARED + 48])


def goes_on(vm, loops=50, ticks=0, timeout=60):
    was, end = counters(vm), time.monotonic() + timeout
    while counters(vm)[0] < was[0] + loops or counters(vm)[1] < was[1] + ticks:
        assert time.monotonic() < end, f'it stands still at {counters(vm)}, was at {was}'
        vm.receive(0.02)
    assert counters(vm)[2] == 0 and b'bad' not in vm.console


def target_of(vm, **kw):
    """Another process with the same configuration, and a copy of the memory."""
    other = Vmm(None, memory=vm.memory, cpus=vm.cpus, devices=vm.devices, **kw)
    other.configure()
    other.mem[:] = vm.mem[:]
    return other


def move(vm, stack):
    """To another process, whole: this one ends."""
    assert vm.call(PAUSE) == 0
    state = vm.save()
    other = stack.enter_context(target_of(vm))
    assert other.load_state(state) == 0, other.why
    assert other.status()['state'] == PAUSED
    vm.close()
    assert other.call(RESUME) == 0, other.why
    return other


@pytest.mark.slow
@pytest.mark.parametrize('mode', [0, DEADLINE, PERIODIC, DEADLINE | HALT, PERIODIC | HALT, CLOCK,
                                  DEADLINE | CLOCK | REGISTERS])
def test_a_running_guest_goes_on_in_another_process(image, mode):
    ticks = 20 if mode & (DEADLINE | PERIODIC) else 0
    with ExitStack() as stack:
        vm = stack.enter_context(mover(image, mode, cpus=2))    # the second waits to be woken, and is saved so
        goes_on(vm, ticks=ticks)
        for _ in range(3):                                      # A, B, A, B
            vm = move(vm, stack)
            goes_on(vm, ticks=ticks)
            vm.send(CONSOLE_INPUT, b'are you there')
            vm.expect(b'are you there')
        assert vm.status()['boots'] == 1


def test_a_saved_guest_goes_on_where_it_is(image):
    with mover(image, DEADLINE | CLOCK | REGISTERS) as vm:
        for _ in range(5):
            goes_on(vm, loops=10, ticks=5)
            assert vm.call(PAUSE) == 0
            was = counters(vm)
            first = vm.save()
            assert len(vm.save()) == len(first) and counters(vm) == was
            assert vm.call(RESUME) == 0
        goes_on(vm, ticks=20)


def test_input_that_waits_in_the_serial_port_moves_along():
    # Reads nothing before the test says so: the bytes are in the device when it is saved.
    body = (say('on') + '2: cmpb $0, 0x190000; je 2b; 3: mov $0x3fd, %dx; in %dx, %al; test $1, %al; jz 3b;'
            'mov $0x3f8, %dx; in %dx, %al; call putc; jmp 3b')
    with Vmm(guest(body)) as vm:
        vm.run()
        vm.expect(b'on')
        vm.send(CONSOLE_INPUT, b'typed before')
        assert vm.call(PAUSE) == 0
        state = vm.save()
        with target_of(vm) as other:
            assert other.load_state(state) == 0, other.why
            assert other.call(RESUME) == 0
            other.mem[0x190000] = 1
            other.expect(b'typed before')


# --- the log of written pages


def copy_by_rounds(vm, copy, rounds):
    """As a migration does; returns the pages of each round."""
    vm.log_start()
    copy[:] = vm.mem[:]
    sent = []
    for i in range(rounds + 1):
        if i == rounds:
            assert vm.call(PAUSE) == 0
        else:
            time.sleep(0.2)
        pages = vm.dirty_pages()
        for p in pages:
            copy[p * 4096:(p + 1) * 4096] = vm.mem[p * 4096:(p + 1) * 4096]
        sent.append(set(pages))
    return sent


def differing(a, b):
    return [p for p in range(len(a) // 4096) if a[p * 4096:p * 4096 + 4096] != b[p * 4096:p * 4096 + 4096]]


def test_a_copy_made_by_rounds_is_the_memory_at_the_stop(image):
    with mover(image, DEADLINE | CLOCK) as vm:
        copy = bytearray(MEMORY)
        sent = copy_by_rounds(vm, copy, 4)
        assert all(s for s in sent[:-1]) and len(sent[0]) < MEMORY // 4096
        state = vm.save()
        for p in vm.dirty_pages():                  # what saving wrote
            copy[p * 4096:(p + 1) * 4096] = vm.mem[p * 4096:(p + 1) * 4096]
        assert differing(copy, vm.mem) == []
        assert vm.dirty_pages() == []               # it stands still
        with Vmm(None, memory=MEMORY) as other:
            other.configure()
            other.mem[:] = bytes(copy)
            assert other.load_state(state) == 0, other.why
            assert other.call(RESUME) == 0
            goes_on(other, ticks=20)


def test_the_log_starts_clean_each_time_and_ends(image):
    with mover(image, 0) as vm:
        assert vm.call(LOG_SYNC) == errno.EINVAL    # there is none
        vm.log_start()
        time.sleep(0.2)
        assert vm.call(PAUSE) == 0
        vm.log_start()                              # anew: what was written before is of no interest
        assert vm.dirty_pages() == []
        assert vm.call(RESUME) == 0
        goes_on(vm)
        assert vm.dirty_pages()
        assert vm.call(LOG_STOP) == 0 and vm.call(LOG_STOP) == 0
        assert vm.call(LOG_SYNC) == errno.EINVAL
        goes_on(vm)


def test_a_log_of_the_wrong_size_or_unsealed_is_refused(image):
    with mover(image, 0) as vm:
        for size, seal in ((MEMORY // 4096 // 8 - 1, True), (MEMORY // 4096 // 8, False), (0, True)):
            fd = os.memfd_create('log', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, size)
            if seal:
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            assert vm.call(LOG_START, fd=fd) == errno.EINVAL
            os.close(fd)
        assert vm.call(LOG_START) == errno.EINVAL   # no descriptor
        goes_on(vm)


def test_what_the_vmm_writes_itself_is_in_the_log():
    # virtio-rng is served by the VMM: buffer and used ring are its writes, not a processor's.
    body = (say('on') + '5: cmpb $0, 0x190000; je 5b; movb $0, 0x190000;'
            'xor %eax, %eax; mov $0x183000, %esi; mov $8192, %ecx; mov $2, %edx; call desc;'
            'xor %eax, %eax; call submit; call wait_used;' + say('used') + 'jmp 5b')
    with Vmm(virtio_guest(body), devices=[(RNG, 1, 16)]) as vm:
        vm.run()
        vm.expect(b'on')
        vm.log_start()
        copy = bytes(vm.mem)
        vm.mem[0x190000] = 1
        vm.expect(b'used')
        assert vm.call(PAUSE) == 0
        pages = set(vm.dirty_pages()) | {0x190}     # the test's own write
        assert {0x182, 0x183} <= pages
        assert set(differing(copy, vm.mem)) <= pages


def test_memory_above_the_hole_is_logged_where_it_lies_in_the_memfd():
    # The guest maps 4 GiB and on, and writes to the second page there; the VMM (virtio-rng) writes to the third.
    body = (say('on') + '5: cmpb $0, 0x190000; je 5b;'
            'movl $0x83, 0x195000; movl $1, 0x195004; movl $0x195003, 0x2020; movl $0, 0x2024;'
            'mov %cr3, %rax; mov %rax, %cr3; mov $0x100001000, %rax; movq $7, (%rax);'
            'xor %eax, %eax; mov $0x100002000, %rsi; mov $64, %ecx; mov $2, %edx; call desc;'
            'xor %eax, %eax; call submit; call wait_used;' + say('used'))
    low, memory = 0xc0000000, 0xc0000000 + 16 * MiB
    with Vmm(virtio_guest(body), memory=memory, devices=[(RNG, 1, 16)]) as vm:
        vm.run()
        vm.expect(b'on')
        vm.log_start()
        vm.mem[0x190000] = 1
        vm.expect(b'used')
        assert vm.call(PAUSE) == 0
        pages = vm.dirty_pages()
        assert {low // 4096 + 1, low // 4096 + 2} == {p for p in pages if p >= low // 4096}
        assert vm.mem[low + 4096] == 7 and any(vm.mem[low + 8192:low + 8192 + 64])
        assert {0x182, 0x195} <= set(pages)
        state = vm.save()
        with Vmm(None, memory=memory, devices=vm.devices) as other:
            other.configure()
            for p in (*range(0, 0x200), *pages):            # the rest is empty
                other.mem[p * 4096:p * 4096 + 4096] = vm.mem[p * 4096:p * 4096 + 4096]
            assert other.load_state(state) == 0, other.why
            assert other.call(RESUME) == 0


# --- devices with rings


def test_rng_goes_on_with_its_ring():
    body = (say('on') + '5: xor %eax, %eax; mov $0x183000, %esi; mov $64, %ecx; mov $2, %edx; call desc;'
            'xor %eax, %eax; call submit; call wait_used; incl 0x190000; jmp 5b')
    with ExitStack() as stack:
        vm = stack.enter_context(Vmm(virtio_guest(body), devices=[(RNG, 1, 16)]))
        vm.run()
        vm.expect(b'on')
        for _ in range(3):
            was, end = vm.mem[0x190000:0x190004], time.monotonic() + 20
            while struct.unpack('<I', vm.mem[0x190000:0x190004])[0] < struct.unpack('<I', was)[0] + 40:
                assert time.monotonic() < end
                vm.receive(0.01)
            vm = move(vm, stack)
        assert vm.status()['ready'] == 1


# Reads sector after sector; says "wrong" and stops when an answer is another sector's.
READER = ('mov $0, %r13d; 5:' + READ + 'call wait_used; cmpb $0, 0x183010; jne 6f;'
          'cmp %r13, 0x184000; jne 6f; incl 0x190000; inc %r13; and $1023, %r13; jmp 5b; 6:' + say('wrong'))


def numbered_disk():
    return bytearray(b''.join(struct.pack('<Q', i) + bytes(504) for i in range(1024)))


def answered(vm):
    return struct.unpack('<I', vm.mem[0x190000:0x190004])[0]


def reads_on(vm, n=100):
    was, end = answered(vm), time.monotonic() + 30
    while answered(vm) < was + n:
        assert time.monotonic() < end, f'stuck at {answered(vm)}'
        vm.receive(0.01)
    assert not vm.console


def test_a_disk_goes_on_where_its_rings_stood():
    with ExitStack() as stack:
        vm = stack.enter_context(Vmm(virtio_guest(READER), devices=[(BLK, 1, 16)]))
        vm.configure()
        back = Backend(vm.connect(2, 0), numbered_disk())
        vm.start()
        for i in range(4):
            reads_on(vm)
            assert vm.call(PAUSE) == 0
            state = vm.save()
            assert back.messages.count(GET_VRING_BASE) == 1 and not back.error
            base = back.rings[0].next
            other = stack.enter_context(target_of(vm))
            if i % 2:                               # the back-end may come before the state, or after it
                back = Backend(other.connect(2, 0), numbered_disk())
            assert other.load_state(state) == 0, other.why
            vm.close()
            if not i % 2:
                back = Backend(other.connect(2, 0), numbered_disk())
            vm = other
            assert vm.call(RESUME) == 0
            assert back.started.wait(10)
            assert back.rings[0].base_given == base
        reads_on(vm)


def test_a_saved_disk_goes_on_at_its_own_back_end_and_at_a_new_one():
    with Vmm(virtio_guest(READER), devices=[(BLK, 1, 16)]) as vm:
        vm.configure()
        back = Backend(vm.connect(2, 0), numbered_disk())
        vm.start()
        for i in range(3):
            reads_on(vm)
            assert vm.call(PAUSE) == 0
            vm.save()
            if i == 1:
                back.die()
                vm.save()                           # it has no rings to give back
            assert vm.call(RESUME) == 0
            if i == 1:
                back = Backend(vm.connect(2, 0), numbered_disk())
        reads_on(vm)
        assert not back.error


def test_saving_fails_while_a_back_end_is_gone_and_the_guest_goes_on():
    with Vmm(virtio_guest(READER), devices=[(BLK, 1, 16)]) as vm:
        vm.configure()
        back = Backend(vm.connect(2, 0), numbered_disk())
        vm.start()
        reads_on(vm)
        back.die()
        end = time.monotonic() + 10
        while vm.status()['connected']:
            assert time.monotonic() < end
        assert vm.call(PAUSE) == 0
        fd = os.memfd_create('state')
        os.ftruncate(fd, MiB)
        assert vm.call(SAVE, fd=fd) == errno.ENOTCONN and 'device 0' in vm.why
        assert vm.call(RESUME) == 0
        back = Backend(vm.connect(2, 0), numbered_disk())
        reads_on(vm)
        # One that does not give its rings back: RESUME ends the wait, and so does its death.
        back.never = GET_VRING_BASE
        assert vm.call(PAUSE) == 0
        tag = vm.send(SAVE, fd=fd)
        assert not vm.receive(0.3)
        resume = vm.send(RESUME)
        assert vm.heard(vm.await_type(REPLY, 10, tag)) == errno.ECANCELED
        assert vm.heard(vm.await_type(REPLY, 10, resume)) == 0
        assert vm.call(PAUSE) == 0
        tag = vm.send(SAVE, fd=fd)
        back.die()
        assert vm.heard(vm.await_type(REPLY, 10, tag)) == errno.ENOTCONN
        assert vm.call(RESUME) == 0
        back = Backend(vm.connect(2, 0), numbered_disk())
        reads_on(vm)
        os.close(fd)


# --- what is refused


def test_states_in_which_nothing_is_saved_or_loaded(image):
    fd = os.memfd_create('state')
    os.ftruncate(fd, MiB)
    with mover(image, 0) as vm:
        assert vm.call(SAVE, fd=fd) == errno.EINVAL         # it runs
        assert vm.call(PAUSE) == 0
        assert vm.call(SAVE) == errno.EINVAL                # no descriptor
        os.ftruncate(fd, 1000)
        assert vm.call(SAVE, fd=fd) == errno.ENOSPC
        state = vm.save()
        assert vm.load_state(state) == errno.EBUSY          # it has a machine
        assert vm.call(RESUME) == 0
        goes_on(vm)
        vm.set_lease(1)
        vm.wait_event(EV_FROZEN)
        assert vm.call(SAVE, fd=fd) == errno.EINVAL
    with Vmm(None, memory=MEMORY) as vm:
        vm.connect()
        assert vm.load_state(state) == errno.EBUSY          # not configured
        vm.configure()
        assert vm.call(START) == errno.EINVAL               # without a kernel
    os.close(fd)


def test_a_guest_that_powers_off_in_the_last_moment_is_not_saved():
    for _ in range(20):
        with Vmm(guest(say('on') + 'mov $0x604, %dx; mov $(5 << 10 | 1 << 13), %ax; out %ax, %dx;')) as vm:
            vm.run()
            fd = os.memfd_create('state')
            os.ftruncate(fd, MiB)
            vm.expect(b'on')
            vm.call(PAUSE)
            if vm.call(SAVE, fd=fd) == 0:                   # caught before: then it does it later
                assert vm.call(RESUME) == 0
            vm.wait_event(EV_POWERED_OFF)
            os.close(fd)


def test_damaged_states_are_refused_and_the_good_one_is_loaded_then(image):
    with mover(image, DEADLINE) as vm:
        assert vm.call(PAUSE) == 0
        state = vm.save()
        with target_of(vm) as other:
            for i in (*range(0, 64), *range(64, len(state), 211)):
                bad = bytearray(state)
                bad[i] ^= 0x41
                assert other.load_state(bytes(bad)) == errno.EINVAL and 'saved state' in other.why
            for n in (1, 31, 32, 100, len(state) - 1):
                assert other.load_state(state[:n]) == errno.EINVAL
            assert other.load_state(state + b'x') == errno.EINVAL
            assert other.load_state(os.urandom(5000)) == errno.EINVAL
            # A memfd shorter than said.
            fd = os.memfd_create('state')
            os.pwrite(fd, state[:500], 0)
            assert other.call(LOAD, struct.pack('<QQ', len(state), 0), fd=fd) == errno.EINVAL
            os.close(fd)
            assert other.status()['state'] == CONFIGURED
            assert other.load_state(state) == 0, other.why
            assert other.call(RESUME) == 0
            goes_on(other, ticks=20)


def test_the_state_of_another_vm_is_refused(image):
    with mover(image, 0) as vm:
        assert vm.call(PAUSE) == 0
        state = vm.save()
        for other in (Vmm(None, memory=MEMORY, cpus=2), Vmm(None, memory=MEMORY * 2),
                      Vmm(None, memory=MEMORY, devices=[(RNG, 1, 16)])):
            with other:
                other.configure()
                assert other.load_state(state) == errno.EINVAL and 'another vm' in other.why


xxh3 = ctypes.CDLL('libxxhash.so.0').XXH3_64bits
xxh3.argtypes, xxh3.restype = [ctypes.c_char_p, ctypes.c_size_t], ctypes.c_uint64


def with_checksum(state):
    return bytes(state[:24]) + struct.pack('<Q', xxh3(bytes(state[32:]), len(state) - 32)) + bytes(state[32:])


def sections(state):
    """(name, instance) -> where its contents lie, from and to"""
    at, found = 32, {}
    while at < len(state):
        instance, _, n = struct.unpack('<IIQ', state[at + 16:at + 32])
        found[state[at:at + 16].rstrip(b'\0').decode(), instance] = at + 32, at + 32 + n
        at = (at + 32 + n + 7) & ~7
    return found


def test_a_processor_that_lacks_what_the_guest_has_seen_is_refused_by_name(image):
    with mover(image, 0) as vm:
        assert vm.call(PAUSE) == 0
        state = bytearray(vm.save())
        at = sections(state)['vcpu', 0][0]
        leaves = struct.unpack('<I', state[at:at + 4])[0]
        for i in range(leaves):
            entry = at + 4 + 40 * i
            function, index = struct.unpack('<II', state[entry:entry + 8])
            if (function, index) == (7, 0):
                state[entry + 16 + 2] |= 0x21           # bits 16 and 21 of EBX
        with target_of(vm) as other:
            assert other.load_state(with_checksum(state)) == errno.ENOTSUP
            assert other.why == 'processor: avx512f, avx512ifma are missing'
            assert other.status()['state'] == CONFIGURED
        assert vm.call(RESUME) == 0                     # as a source does whose target refused
        goes_on(vm)


def test_the_clock_goes_on_as_it_is_told_and_by_no_wall_clock(image):
    with mover(image, CLOCK) as vm:
        goes_on(vm)
        assert vm.call(PAUSE) == 0
        was, state = counters(vm)[3], bytearray(vm.save())
        a, _ = sections(state)['clock', 0]
        state[a + 8:a + 16] = struct.pack('<Q', time.time_ns() - 3600 * 10**9)      # a host whose clock is an hour off
        for elapsed in (0, 600 * 10**9):
            with target_of(vm) as other:
                assert other.load_state(with_checksum(state), elapsed) == 0, other.why
                assert other.call(RESUME) == 0
                goes_on(other)
                assert elapsed <= counters(other)[3] - was < elapsed + 300 * 10**9


@pytest.mark.slow
def test_lies_with_a_right_checksum_harm_nobody(image):
    """What KVM keeps is checked by KVM, the rest by us: an error or a guest that is broken, never a broken VMM."""
    lot = random.Random(1)
    with mover(image, DEADLINE, cpus=2, devices=[(RNG, 1, 16)]) as vm:
        assert vm.call(PAUSE) == 0
        good = vm.save()
        where, refused, other = list(sections(good).items()), 0, None
        for i in range(75):
            bad = bytearray(good)
            # Every section in turn; of the processors' more, there is more in them.
            (_, _), (a, b) = where[i % len(where)] if i % 3 else where[-1 - i % 2]
            for _ in range(lot.choice((1, 1, 4, 40))):
                bad[lot.randrange(a, b)] = lot.choice((0, 1, 0x7f, 0x80, 0xff, lot.randrange(256)))
            other = other or target_of(vm)
            rc = other.load_state(with_checksum(bad))
            assert rc in (0, errno.EINVAL, errno.ENOTSUP), (i, rc, other.why)
            refused += rc != 0
            if rc == 0:                                 # it runs, or it crashes or reboots: the guest, not its VMM
                assert other.call(RESUME) in (0, errno.EINVAL)
                other.status()
                assert other.call(KILL) == 0
                assert other.proc.wait(10) == 0
                other.close()
                other = None
        assert 10 < refused < 75
        if other:
            assert other.load_state(good) == 0, other.why
            assert other.call(RESUME) == 0
            goes_on(other, ticks=20)
            other.close()


# --- a loaded guest's later life


def test_a_loaded_guest_that_reboots_gets_a_kernel():
    body = say('boot') + '2: cmpb $0, 0x190000; je 2b; movb $0, 0x190000; mov $0xcf9, %dx; mov $6, %al; out %al, %dx;'
    kernel = guest(body)
    with Vmm(kernel) as vm:
        vm.run()
        vm.expect(b'boot')
        assert vm.call(PAUSE) == 0
        state = vm.save()
        with target_of(vm) as other:
            assert other.load_state(state) == 0, other.why
            assert other.call(RESUME) == 0
            other.mem[0x190000] = 1
            other.wait_event(EV_RESET)
            assert other.call(START) == errno.EINVAL        # it knows none
            other.kernel, other.cpus = kernel, 2
            other.load()
            assert other.call(CONFIG, other.config_body()) == errno.EINVAL
            other.cpus = 1
            assert other.call(CONFIG, other.config_body()) == 0, other.why
            other.start()
            other.expect(b'boot')
            assert other.status()['boots'] == 2


def test_a_reset_ends_the_log(image):
    with mover(image, 0) as vm:
        vm.log_start()
        assert vm.call(RESET) == 0
        vm.wait_event(EV_RESET)
        assert vm.call(LOG_SYNC) == errno.EINVAL
        vm.load()
        vm.start()
        vm.expect(b'on\n')


# --- processors


def test_the_processor_is_told_and_can_be_made_less(image):
    with Vmm(image[1024:], memory=MEMORY, setup=image[:1024]) as vm:
        vm.configure()
        leaves, msrs = vm.cpu_table()
        vendor, ecx = leaves[0, 0][1:], leaves[1, 0][2]
        assert ecx >> 31 & 1 and not ecx >> 5 & 1           # in a virtual machine; without VMX
        # A baseline without CX16: the guest does not see it, all else it does.
        less = {k: list(v) for k, v in leaves.items()}
        assert ecx >> 13 & 1
        less[1, 0][2] &= ~(1 << 13)
        assert vm.set_cpu(less, msrs) == 0, vm.why
        now = vm.cpu_table()[0]
        assert now[1, 0][2] == ecx & ~(1 << 13) and now[0, 0][1:] == vendor
        # Another maker's processor is none that this one could be.
        other = {k: list(v) for k, v in leaves.items()}
        other[0, 0] = [1, 1, 2, 3]
        assert vm.set_cpu(other, msrs) == errno.ENOTSUP and 'maker' in vm.why
        vm.mem[SHARED:SHARED + 16] = struct.pack('<QQ', 0, PAGES)
        vm.start()
        vm.expect(b'on\n')
        assert vm.cpu_table()[0] == now                     # of the machine itself
        assert vm.set_cpu(less, msrs) == errno.EBUSY
        assert vm.call(PAUSE) == 0
        state = vm.save()
        with target_of(vm) as other:                        # the guest keeps what it has
            assert other.cpu_table()[0][1, 0][2] == ecx
            assert other.load_state(state) == 0, other.why
            assert other.cpu_table()[0] == now


def test_an_idle_guest_is_asked_for_its_processor():
    """It halts for ever: KVM tells nothing of a processor that does not come out."""
    with Vmm(guest(say('halts'))) as vm:
        vm.run()
        vm.expect(b'halts')
        time.sleep(0.2)                                     # or it may not have halted yet, and answers all the same
        leaves, msrs = vm.cpu_table()
        assert leaves[0, 0]
        assert vm.call(PAUSE) == 0
        assert vm.cpu_table() == (leaves, msrs)
