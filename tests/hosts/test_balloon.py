# SPDX-License-Identifier: Apache-2.0
"""virtio-balloon in the VMM: the guest (a payload) starts the device and kicks, the test writes its rings."""
import errno, os, struct, sys, time
from contextlib import ExitStack
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'lib'))
from vmm import *
from test_vmm import COUNT, PCI, guest, moves, pci, say

if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)

BALLOON, MEMORY, SIZE = 5, 16 * MiB, 16
SET_BALLOON, GET_BALLOON, BALLOON_ANSWER = 0x68, 0x69, 0x6c
F_STATS, F_OOM, F_REPORTING = 2, 4, 32
INFLATE, DEFLATE, STATS, REPORTING = range(4)
RINGS, MAILBOX, CONFIG_AT, PAGE = 0x180000, 0x17f000, 0x17f100, 4096
NONE = (1 << 64) - 1


def ring(queue):
    """Addresses of descriptors, avail, used."""
    return tuple(RINGS + queue * 0x4000 + i * 0x1000 for i in range(3))


def balloon_guest(features, queues, body=''):
    """Starts the device in slot 3; then kicks queue n - 1 when MAILBOX says n, writes `actual` when it says 100 + actual,
    and shows the configuration's first word at CONFIG_AT all the time."""
    set_up = ''.join(f'''
        movw ${q}, 22(%rbx); movw ${SIZE}, 24(%rbx)
        movl ${ring(q)[0]}, 32(%rbx); movl $0, 36(%rbx)
        movl ${ring(q)[1]}, 40(%rbx); movl $0, 44(%rbx)
        movl ${ring(q)[2]}, 48(%rbx); movl $0, 52(%rbx)
        movw $1, 28(%rbx)
    ''' for q in queues)
    return guest('jmp 7f\n' + PCI + f'''7:
        mov ${pci(3, 4)}, %eax; mov $7, %ecx; call pci_write
        mov ${pci(3, 16)}, %eax; call pci_read; and $-4, %eax; mov %rax, %r12
        mov ${pci(3, 20)}, %eax; call pci_read; and $-16, %eax; mov %rax, %rbx
        movb $0, 20(%rbx)
2:      movb 20(%rbx), %al; test %al, %al; jnz 2b
        movb $1, 20(%rbx); movb $3, 20(%rbx)
        movl $0, 8(%rbx); movl ${features}, 12(%rbx)
        movl $1, 8(%rbx); movl $1, 12(%rbx)
        movb $11, 20(%rbx); movb 20(%rbx), %al; test $8, %al; jz 3f
        {set_up}
        movb $15, 20(%rbx)
        {say('on')} {body}
4:      mov 0x2000(%rbx), %eax; mov %eax, {CONFIG_AT}
        movl {MAILBOX}, %eax; test %eax, %eax; jz 4b
        movl $0, {MAILBOX}
        cmp $100, %eax; jae 5f
        dec %eax; mov %r12, %rdx; out %ax, %dx; jmp 4b
5:      sub $100, %eax; mov %eax, 0x2004(%rbx); jmp 4b
3:      {say('refused')} hlt
''')


class Guest(Vmm):
    def __init__(self, features=F_STATS | F_OOM | F_REPORTING, queues=range(4), **kw):
        super().__init__(balloon_guest(features, queues), memory=MEMORY, devices=[(BALLOON, 1, SIZE)], **kw)
        self.run()
        self.expect(b'on')

    def wait(self, what, timeout=20):
        end = time.monotonic() + timeout
        while not (answer := what()):
            assert time.monotonic() < end, 'it does not come'
            self.receive(0.01)
        return answer

    def post(self, number):
        self.wait(lambda: self.mem[MAILBOX:MAILBOX + 4] == bytes(4))
        self.mem[MAILBOX:MAILBOX + 4] = struct.pack('<I', number)
        self.wait(lambda: self.mem[MAILBOX:MAILBOX + 4] == bytes(4))

    def submit(self, queue, pieces, kick=True):
        """One chain: [(address, length, writable)]."""
        desc, avail, _ = ring(queue)
        index = struct.unpack('<H', self.mem[avail + 2:avail + 4])[0]
        head = index % 4 * 4
        for i, (address, length, writable) in enumerate(pieces):
            flags = (2 if writable else 0) | (1 if i + 1 < len(pieces) else 0)
            at = desc + (head + i) * 16
            self.mem[at:at + 16] = struct.pack('<QIHH', address, length, flags, head + i + 1)
        at = avail + 4 + index % SIZE * 2
        self.mem[at:at + 2] = struct.pack('<H', head)
        self.mem[avail + 2:avail + 4] = struct.pack('<H', index + 1 & 0xffff)
        if kick:
            self.post(queue + 1)
        return index + 1 & 0xffff

    def used(self, queue):
        at = ring(queue)[2]
        return struct.unpack('<H', self.mem[at + 2:at + 4])[0]

    def answered(self, queue, index):
        self.wait(lambda: self.used(queue) == index)

    def inflate(self, pfns, address=0x190000):
        body = struct.pack(f'<{len(pfns)}I', *pfns)
        self.mem[address:address + len(body)] = body
        self.answered(INFLATE, self.submit(INFLATE, [(address, len(body), False)]))

    def balloon(self):
        b = self.await_type(BALLOON_ANSWER, 10, self.send(GET_BALLOON))[2]
        keys = ('ready', 'target', 'taken', 'inflated', 'reported', 'age')
        words = struct.unpack('<16Q', b)
        return dict(zip(keys, words)), words[6:]

    def set_target(self, nbytes):
        return self.call(SET_BALLOON, struct.pack('<Q', nbytes))

    def there(self, page):
        """Is it in the memfd?"""
        try:
            return os.lseek(self.memfd, page * PAGE, os.SEEK_DATA) == page * PAGE
        except OSError as e:
            assert e.errno == errno.ENXIO
            return False

    def fill(self, *pages):
        for p in pages:
            self.mem[p * PAGE:(p + 1) * PAGE] = bytes([p & 255 or 1]) * PAGE


def test_pages_that_are_given_back_leave_the_memfd_and_come_again_as_zeroes():
    with Guest() as vm:
        pages = list(range(1024, 1040))
        vm.fill(*pages)
        vm.inflate([MEMORY // PAGE] * 9)        # no memory; but the rings' pages are there now
        was = os.fstat(vm.memfd).st_blocks
        # In no order, one twice, neighbours apart; the last ones are no memory.
        vm.inflate([1030, 1024, 1025, 1030, 1035, 1026, MEMORY // PAGE, 0xffffffff, 0xc0000])
        gone = {1024, 1025, 1026, 1030, 1035}
        assert os.fstat(vm.memfd).st_blocks == was - len(gone) * 8
        for p in pages:
            assert vm.there(p) == (p not in gone)
        for p in pages:
            assert vm.mem[p * PAGE:(p + 1) * PAGE] == (bytes(PAGE) if p in gone else bytes([p & 255 or 1]) * PAGE)
        d, _ = vm.balloon()
        assert d['ready'] == 1 and d['inflated'] == len(gone) * PAGE and d['reported'] == 0
        # Back again: the guest just uses them.
        vm.answered(DEFLATE, vm.submit(DEFLATE, [(0x190000, 12, False)]))
        vm.fill(1030)
        assert vm.there(1030)
        assert moves_on(vm)


def moves_on(vm):
    vm.post(DEFLATE + 1)        # it answers its mailbox
    return vm.status()['state'] == RUNNING


def test_a_request_of_many_pages_in_pieces():
    with Guest() as vm:
        pages = list(range(2048, 4096))         # 8 to 16 MiB
        vm.fill(*pages)
        body = struct.pack(f'<{len(pages)}I', *reversed(pages))
        vm.mem[0x190000:0x190000 + len(body)] = body
        cut = 4 * 700
        vm.answered(INFLATE, vm.submit(INFLATE, [(0x190000, cut, False), (0x190000 + cut, len(body) - cut, False)]))
        assert not any(vm.there(p) for p in pages)
        assert vm.balloon()[0]['inflated'] == 8 * MiB


def test_the_target_reaches_the_guest_and_its_answer_comes_back():
    with Guest() as vm:
        assert vm.balloon()[0]['target'] == MEMORY
        assert vm.set_target(10 * MiB) == 0
        vm.wait(lambda: struct.unpack('<I', vm.mem[CONFIG_AT:CONFIG_AT + 4])[0] == 6 * MiB // PAGE)
        vm.post(100 + 1234)
        vm.wait(lambda: vm.balloon()[0]['taken'] == 1234 * PAGE)
        assert vm.set_target(MEMORY) == 0
        vm.wait(lambda: struct.unpack('<I', vm.mem[CONFIG_AT:CONFIG_AT + 4])[0] == 0)
        vm.post(100 + 0xffffff00)               # what it says of itself is not believed
        vm.wait(lambda: vm.balloon()[0]['taken'] == MEMORY)
        for wrong in (0, MiB, MEMORY + 1, NONE):
            assert vm.set_target(wrong) == errno.EINVAL and 'memory' in vm.why
        # It holds for the guest after a reboot.
        assert vm.set_target(8 * MiB) == 0
        assert vm.call(RESET) == 0
        vm.wait_event(EV_RESET)
        assert vm.balloon()[0]['target'] == 8 * MiB and vm.balloon()[0]['ready'] == 0
        vm.mem[RINGS:RINGS + 0x10000] = bytes(0x10000)
        vm.load()
        vm.start()
        vm.expect(b'on')
        vm.wait(lambda: struct.unpack('<I', vm.mem[CONFIG_AT:CONFIG_AT + 4])[0] == 8 * MiB // PAGE)


def stats(**values):
    tags = {'swap_in': 0, 'free': 4, 'total': 5, 'available': 6, 'caches': 7, 'strange': 77}
    return b''.join(struct.pack('<HQ', tags[k], v) for k, v in values.items())


def test_statistics_are_asked_for_again_and_again():
    with Guest() as vm:
        assert vm.balloon()[0]['age'] == NONE and set(vm.balloon()[1]) == {NONE}
        body = stats(free=5 * MiB, total=15 * MiB, strange=1)
        vm.mem[0x190000:0x190000 + len(body)] = body
        index = vm.submit(STATS, [(0x190000, len(body), False)])
        for n in range(3):
            vm.wait(lambda: vm.balloon()[0]['age'] != NONE)
            vm.answered(STATS, index)           # newer ones are wanted: the buffer is the driver's
            body = stats(free=(6 + n) * MiB, total=15 * MiB)
            vm.mem[0x190000:0x190000 + len(body)] = body
            index = vm.submit(STATS, [(0x190000, len(body), False)])
            vm.wait(lambda: vm.used(STATS) != index and vm.balloon()[1][4] == (6 + n) * MiB)
        assert vm.balloon()[1][5] == 15 * MiB and vm.balloon()[1][0] == NONE


def test_a_guest_that_stands_still_is_not_asked():
    with Guest() as vm:
        body = stats(free=5 * MiB)
        vm.mem[0x190000:0x190000 + len(body)] = body
        vm.submit(STATS, [(0x190000, len(body), False)])
        assert vm.call(PAUSE) == 0
        copy = bytes(vm.mem)
        for _ in range(3):
            vm.balloon()
        assert vm.mem[:] == copy
        assert vm.call(RESUME) == 0


def test_free_pages_that_are_reported_leave_the_memfd():
    with Guest() as vm:
        vm.fill(*range(1024, 1100))
        # A range that is not whole pages gives what is whole of it.
        vm.answered(REPORTING, vm.submit(REPORTING, [(1024 * PAGE, 16 * PAGE, True), (1050 * PAGE + 100, 3 * PAGE, True)]))
        gone = set(range(1024, 1040)) | {1051, 1052}
        assert {p for p in range(1024, 1100) if not vm.there(p)} == gone
        assert vm.mem[1050 * PAGE:1051 * PAGE] == bytes([1050 & 255]) * PAGE
        assert vm.balloon()[0]['reported'] == len(gone) * PAGE


def test_without_statistics_reporting_has_the_third_queue():
    with Guest(features=F_REPORTING, queues=range(3)) as vm:
        vm.fill(1024)
        vm.answered(2, vm.submit(2, [(1024 * PAGE, PAGE, True)]))
        assert not vm.there(1024)


def test_a_driver_that_wants_no_reporting_gives_nothing_away():
    with Guest(features=F_STATS) as vm:
        vm.fill(1024)
        vm.answered(REPORTING, vm.submit(REPORTING, [(1024 * PAGE, PAGE, True)]))
        assert vm.there(1024)


def test_bad_chains_and_rings_harm_the_device_alone():
    with Guest() as vm:
        vm.fill(1024)
        vm.answered(INFLATE, vm.submit(INFLATE, [(NONE - PAGE, 4, False)]))
        vm.answered(REPORTING, vm.submit(REPORTING, [(MEMORY - PAGE, 2 * PAGE, True)]))
        vm.answered(REPORTING, vm.submit(REPORTING, [(1024 * PAGE, PAGE, False)]))     # not the device's to write
        assert vm.there(1024)
        avail = ring(STATS)[1]
        vm.mem[avail + 2:avail + 4] = struct.pack('<H', 999)
        vm.post(STATS + 1)
        vm.inflate([1024])
        assert not vm.there(1024) and vm.status()['state'] == RUNNING


def test_what_was_given_back_is_in_the_log():
    with Guest() as vm:
        vm.fill(*range(1024, 1040))
        vm.log_start()
        vm.inflate([1024, 1025, 1030])
        vm.answered(REPORTING, vm.submit(REPORTING, [(1032 * PAGE, 2 * PAGE, True)]))
        assert vm.call(PAUSE) == 0
        assert {1024, 1025, 1030, 1032, 1033} <= set(vm.dirty_pages())


def test_it_moves_with_target_rings_and_the_statistics_buffer():
    with ExitStack() as stack:
        vm = stack.enter_context(Guest())
        assert vm.set_target(12 * MiB) == 0
        vm.post(100 + 17)
        body = stats(free=5 * MiB)
        vm.mem[0x190000:0x190000 + len(body)] = body
        index = vm.submit(STATS, [(0x190000, len(body), False)])
        vm.submit(DEFLATE, [(0x190000, 4, False)])
        vm.answered(DEFLATE, 1)
        for n in range(2):
            assert vm.call(PAUSE) == 0
            state = vm.save()
            other = stack.enter_context(Vmm(None, memory=MEMORY, devices=vm.devices))
            other.__class__ = Guest
            other.configure()
            other.mem[:] = vm.mem[:]
            assert other.load_state(state) == 0, other.why
            vm.close()
            vm = other
            assert vm.call(RESUME) == 0
            d, _ = vm.balloon()
            assert (d['target'], d['taken'], d['ready']) == (12 * MiB, 17 * PAGE, 1)
            vm.answered(STATS, index)           # the buffer that was kept comes back here
            body = stats(free=(7 + n) * MiB)
            vm.mem[0x190000:0x190000 + len(body)] = body
            index = vm.submit(STATS, [(0x190000, len(body), False)])
            vm.fill(1024)
            vm.inflate([1024], address=0x191000)
            assert not vm.there(1024)


def test_without_the_device_and_with_two():
    with Vmm(guest(say('on') + COUNT)) as vm:
        vm.run()
        vm.expect(b'on')
        assert vm.call(SET_BALLOON, struct.pack('<Q', 2 * MiB)) == errno.EINVAL
        assert vm.call(GET_BALLOON) == errno.EINVAL
        assert moves(vm)
    with Vmm(guest(say('on')), devices=[(BALLOON, 1, 16)] * 2) as vm:
        vm.configure()
        assert vm.call(START) == errno.EINVAL and 'second' in vm.why
