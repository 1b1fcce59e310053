# SPDX-License-Identifier: Apache-2.0
"""perilune-vmm with tiny payload guests on the machine's own /dev/kvm: the fast tier."""
import errno, os, pathlib, signal, socket, struct, subprocess, time
import pytest

from vmm import *
from vhost_backend import Backend, GET_VRING_BASE, P_MQ, Relay, SET_INFLIGHT_FD

if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)

PUTS = '''
putc:   mov $0x3f8, %dx
        out %al, %dx
        ret
puts:   lodsb
        test %al, %al
        jz 1f
        call putc
        jmp puts
1:      ret
hex8:   push %rcx                       # %rax as 16 digits
        mov $16, %ecx
1:      rol $4, %rax
        push %rax
        and $15, %eax
        cmp $10, %al
        jb 2f
        add $39, %al
2:      add $48, %al
        call putc
        pop %rax
        loop 1b
        pop %rcx
        ret
'''


def say(text):
    return f'lea 9f(%rip), %rsi; call puts; jmp 8f; 9: .asciz "{text}"; 8:\n'


def guest(body):
    return payload('jmp begin\n' + PUTS + 'begin: cld\n' + body + '\n1: hlt; jmp 1b')


def test_payload_speaks_on_the_console():
    with Vmm(guest(say('hello from the guest'))) as vm:
        vm.run()
        vm.expect(b'hello from the guest')
        s = vm.status()
        assert s['state'] == RUNNING and s['boots'] == 1
        assert s['first_output_ns'] > s['start_ns']


# Reads the dword at PCI register %eax (bus, slot, function and register as in 0xcf8) into %eax.
PCI = '''
pci_read: push %rdx
        mov $0xcf8, %dx
        out %eax, %dx
        mov $0xcfc, %dx
        in %dx, %eax
        pop %rdx
        ret
pci_write: push %rdx                    # %ecx to register %eax
        mov $0xcf8, %dx
        out %eax, %dx
        mov $0xcfc, %dx
        mov %ecx, %eax
        out %eax, %dx
        pop %rdx
        ret
'''


def pci(slot, reg):
    return hex(0x80000000 | slot << 11 | reg)


def pci_guest(body):
    return guest('jmp 7f\n' + PCI + '7:\n' + body)


def test_pci_identities_and_empty_slots():
    body = ''.join(f'mov ${pci(s, r)}, %eax; call pci_read; call hex8;' + say(' ')
                   for s, r in ((0, 0), (0, 0x2c), (2, 0), (3, 0), (4, 0), (31, 0))) + say('done')
    # i440FX with QEMU's subsystem, pvpanic, virtio-rng, nothing, nothing.
    with Vmm(pci_guest(body), devices=[(RNG, 1, 64)]) as vm:
        vm.run()
        while b'done' not in vm.console:
            assert vm.receive(10)
        ids = vm.console.split(b' ')
        assert [int(i, 16) & 0xffffffff for i in ids[:6]] == [
            0x12378086, 0x11001af4, 0x00111b36, 0x10441af4, 0xffffffff, 0xffffffff]


POWER_OFF = 'mov $0x604, %dx; mov $(5 << 10 | 1 << 13), %ax; out %ax, %dx;'


def test_acpi_power_off():
    with Vmm(guest(say('off') + POWER_OFF + say('never'))) as vm:
        vm.run()
        vm.wait_event(EV_POWERED_OFF)
        assert vm.status()['state'] == POWERED_OFF
        assert b'never' not in vm.console
        assert vm.call(START) == errno.EBUSY
        assert vm.call(KILL) == 0
        assert vm.proc.wait(5) == 0


def test_last_words_come_before_the_event():
    for _ in range(20):
        with Vmm(guest(say('last words') + POWER_OFF)) as vm:
            vm.run()
            vm.wait_event(EV_POWERED_OFF)
            assert b'last words' in vm.console      # no message after the event was read


@pytest.mark.parametrize('how', [
    'mov $0xcf9, %dx; mov $6, %al; out %al, %dx;',          # the FADT's reset register
    'mov $0x64, %dx; mov $0xfe, %al; out %al, %dx;',        # keyboard controller
    'lidt 1f(%rip); ud2; 1: .quad 0, 0;',                   # triple fault
])
def test_reset_asks_for_the_kernel_and_runs_again(how):
    with Vmm(guest(say('boot') + how)) as vm:
        vm.run()
        for boot in range(1, 4):
            vm.expect(b'boot')
            vm.wait_event(EV_RESET)
            s = vm.status()
            assert s['state'] == ST_RESET and s['boots'] == boot
            # The daemon's part: guest memory is its to write now.
            vm.mem[KERNEL_GPA:KERNEL_GPA + 4096] = bytes(4096)
            vm.load()
            vm.start()
        said = pathlib.Path(vm.log.name).read_text()
        assert ('triple fault' in said) == ('lidt' in how), said


def test_reset_by_the_daemon():
    with Vmm(guest(say('boot'))) as vm:
        vm.run()
        vm.expect(b'boot')
        assert vm.call(RESET) == 0
        vm.wait_event(EV_RESET)
        vm.load()
        vm.start()
        vm.expect(b'boot')


def test_a_garbled_kernel_is_refused_in_words():
    with Vmm(guest(say('boot'))) as vm:
        vm.configure()
        vm.mem[SETUP_GPA + 0x202:SETUP_GPA + 0x206] = b'XXXX'
        assert vm.call(START) == errno.EINVAL
        vm.load()
        vm.start()
        vm.expect(b'boot')


def test_bad_requests_are_refused_and_garbage_closes():
    with Vmm(guest(say('boot'))) as vm:
        vm.connect()
        assert vm.ready['state'] == NEW
        assert vm.call(START) == errno.EBUSY        # not configured
        assert vm.call(PAUSE) == errno.EINVAL
        vm.configure()
        assert vm.call(CONFIG, vm.config_body()) == errno.EBUSY
        vm.sock.sendall(b'garbage of sixteen bytes')
        with pytest.raises(Gone):
            while True:
                vm.receive(5)
        assert vm.connect()['state'] == CONFIGURED   # the VMM lives, the next daemon is heard
        vm.start()
        vm.expect(b'boot')


def test_pvpanic_is_reported_and_the_guest_goes_on():
    body = (f'mov ${pci(2, 4)}, %eax; mov $2, %ecx; call pci_write;'
            f'mov ${pci(2, 16)}, %eax; call pci_read; and $-16, %eax; mov %rax, %rbx;'
            'movb (%rbx), %al; add $48, %al; call putc; movb $1, (%rbx);' + say(' after'))
    with Vmm(pci_guest(body)) as vm:
        vm.run()
        vm.wait_event(EV_PANICKED)
        vm.expect(b'1 after')
        s = vm.status()
        assert s['flags'] & 1 and s['state'] == RUNNING


COUNT = '2: incl 0x180000; jmp 2b'


def counter(vm):
    return struct.unpack('<I', vm.mem[0x180000:0x180004])[0]


def moves(vm, seconds=0.3):
    was = counter(vm)
    time.sleep(seconds)
    return counter(vm) != was


def test_pause_and_resume_stop_and_move_the_guest():
    with Vmm(guest(say('on') + COUNT), cpus=1) as vm:
        vm.run()
        vm.expect(b'on')
        assert moves(vm)
        for _ in range(20):
            assert vm.call(PAUSE) == 0
            assert not moves(vm, 0.02)
            assert vm.call(RESUME) == 0
        assert moves(vm)


def test_guest_stands_still_when_its_lease_ends_and_runs_when_renewed():
    with Vmm(guest(say('on') + COUNT), lease=boot_ns() + 60_000_000_000) as vm:
        vm.run()
        vm.expect(b'on')
        end = boot_ns() + 500_000_000
        vm.set_lease(end)
        assert moves(vm, 0.3)                       # it runs while the lease does
        while boot_ns() < end + 5_000_000:
            time.sleep(0.005)
        while moves(vm, 0.05):                      # no word of the daemon was needed
            assert boot_ns() < end + 1_000_000_000, 'it runs on'
        vm.wait_event(EV_FROZEN)
        assert not moves(vm)
        assert vm.status()['state'] == FROZEN
        assert vm.call(RESUME) == errno.EPERM       # the lease has not been renewed
        vm.set_lease(boot_ns() + 60_000_000_000)
        assert not moves(vm)                        # and it does not run by itself either
        assert vm.call(RESUME) == 0
        assert moves(vm)


def test_lease_ends_while_no_daemon_is_there():
    with Vmm(guest(say('on') + COUNT), lease=boot_ns() + 60_000_000_000) as vm:
        vm.run()
        vm.expect(b'on')
        vm.sock.close()
        vm.set_lease(boot_ns() + 200_000_000)
        time.sleep(0.3)
        assert not moves(vm)
        assert vm.connect()['state'] == FROZEN


def test_lease_that_ended_while_the_process_was_stopped():
    with Vmm(guest(say('on') + COUNT), lease=boot_ns() + 60_000_000_000) as vm:
        vm.run()
        vm.expect(b'on')
        os.kill(vm.proc.pid, signal.SIGSTOP)
        time.sleep(0.1)
        was = counter(vm)
        vm.set_lease(boot_ns() + 100_000_000)
        time.sleep(0.3)
        os.kill(vm.proc.pid, signal.SIGCONT)
        vm.wait_event(EV_FROZEN)
        assert counter(vm) == was                   # not one more turn of the loop


def test_no_start_without_lease():
    with Vmm(guest(say('on')), lease=1) as vm:
        vm.configure()
        assert vm.call(START) == errno.EPERM
        vm.set_lease(LEASE_NONE)
        vm.start()
        vm.expect(b'on')


def test_console_input_reaches_the_guest():
    echo = '2: mov $0x3fd, %dx; 3: in %dx, %al; test $1, %al; jz 3b; mov $0x3f8, %dx; in %dx, %al; call putc; jmp 2b'
    with Vmm(guest(say('ready') + echo)) as vm:
        vm.run()
        vm.expect(b'ready')
        vm.send(CONSOLE_INPUT, b'typed by a person')
        vm.expect(b'typed by a person')


def test_console_output_is_kept_while_no_daemon_is_there():
    with Vmm(guest(say('ready') + '2: cmpb $0, 0x190000; je 2b;' + say('kept for the next daemon'))) as vm:
        vm.run()
        vm.expect(b'ready')
        vm.sock.close()
        time.sleep(0.1)                             # until the VMM has seen it
        vm.mem[0x190000] = 1
        time.sleep(0.3)
        vm.connect()
        vm.expect(b'kept for the next daemon')


def test_console_ring_keeps_the_last_64_k_and_counts_the_rest():
    flood = ('2: cmpb $0, 0x190000; je 2b; mov $70000, %ecx; 2: mov $0x3f8, %dx; mov $120, %al; out %al, %dx; loop 2b;'
             'mov $46, %al; call putc; movb $1, 0x190001;')
    with Vmm(guest(say('ready') + flood)) as vm:
        vm.run()
        vm.expect(b'ready')
        vm.sock.close()
        time.sleep(0.1)                             # until the VMM has seen it
        vm.mem[0x190000] = 1
        deadline = time.monotonic() + 60
        while not vm.mem[0x190001]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        vm.console = b''
        lost = vm.connect()['lost']
        vm.expect(b'.')
        assert lost == 70001 - 65536


def test_a_silent_connection_takes_nothing_from_the_daemon():
    with Vmm(guest(say('on') + COUNT)) as vm:
        vm.run()
        quiet = []
        for _ in range(12):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            s.connect(vm.path)
            quiet.append(s)
        assert vm.status()['state'] == RUNNING
        for s in quiet:
            s.close()


# --- the sandbox


def proc_status(pid):
    with open(f'/proc/{pid}/status') as f:
        return dict(line.rstrip('\n').split(':\t', 1) for line in f if ':\t' in line)


def test_sandbox_holds_no_files_and_no_rights():
    with Vmm(guest(say('on') + COUNT), args=['--uid', '65534', '--gid', '65534']) as vm:
        vm.run()
        vm.expect(b'on')
        pid = vm.proc.pid
        s = proc_status(pid)
        assert s['Seccomp'] == '2' and s['NoNewPrivs'] == '1'
        assert s['Uid'].split() == ['65534'] * 4 and s['Gid'].split() == ['65534'] * 4
        assert all(int(s[c], 16) == 0 for c in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'))
        for task in os.listdir(f'/proc/{pid}/task'):
            assert proc_status(f'{pid}/task/{task}')['Seccomp'] == '2'
        fds = {fd: os.readlink(f'/proc/{pid}/fd/{fd}') for fd in os.listdir(f'/proc/{pid}/fd')}
        del fds['2']                                # standard error: the daemon's log
        for link in fds.values():
            assert link in ('/dev/null', '/dev/kvm', '/memfd:guest (deleted)') or \
                link.startswith(('socket:', 'anon_inode:kvm-', 'anon_inode:[eventfd]')), fds
        assert os.readlink(f'/proc/{pid}/ns/net') != os.readlink('/proc/self/ns/net')


@pytest.mark.parametrize('what', ['open', 'cap'])                          # KVM_ENABLE_CAP: its argument cannot be looked at
def test_sandbox_kills_who_breaks_the_rules(what):
    with Vmm(guest(say('on')), args=[f'--self-test-{what}']) as vm:
        assert vm.proc.wait(10) == -signal.SIGSYS


def test_unsealed_memory_is_refused():
    import fcntl
    real, fcntl.fcntl = fcntl.fcntl, lambda *a: 0
    try:
        vm = Vmm(guest(say('on')))
    finally:
        fcntl.fcntl = real
    with vm:
        assert vm.proc.wait(10) == 2
        vm.log.seek(0)
        assert b'not sealed' in vm.log.read()


# --- virtio

# Starts the virtio device in slot 3 with ring 0: descriptors at 0x180000, avail 0x181000, used
# 0x182000, 16 entries. %rbx: its common configuration; %r12w: the notify port.
VIRTIO = f'''
        mov ${pci(3, 4)}, %eax; mov $7, %ecx; call pci_write
        mov ${pci(3, 16)}, %eax; call pci_read; and $-4, %eax; mov %rax, %r12
        mov ${pci(3, 20)}, %eax; call pci_read; and $-16, %eax; mov %rax, %rbx
        call virtio_init; jmp virtio_ready
virtio_init:
        movb $0, 20(%rbx)
2:      movb 20(%rbx), %al; test %al, %al; jnz 2b       # wait for the reset to be over
        movb $1, 20(%rbx); movb $3, 20(%rbx)
        movl $1, 8(%rbx); movl $1, 12(%rbx)             # VIRTIO_F_VERSION_1 and no other
        movb $11, 20(%rbx); movb 20(%rbx), %al; test $8, %al; jz 3f
        movw $0, 22(%rbx); movw $16, 24(%rbx)
        movl $0x180000, 32(%rbx); movl $0, 36(%rbx)
        movl $0x181000, 40(%rbx); movl $0, 44(%rbx)
        movl $0x182000, 48(%rbx); movl $0, 52(%rbx)
        movw $1, 28(%rbx)
        movb $15, 20(%rbx)
        ret
3:      mov $33, %al; call putc; hlt
desc:   # %rax: index; %rsi address, %ecx length, %edx flags | next << 16
        shl $4, %rax; lea 0x180000(%rax), %rdi
        mov %rsi, (%rdi); mov %ecx, 8(%rdi); mov %edx, 12(%rdi)
        ret
submit: # head in %ax: puts it into avail and kicks
        movzwl 0x181002, %ecx; mov %ecx, %edi; and $15, %edi
        mov %ax, 0x181004(,%rdi,2)
        inc %ecx; mov %cx, 0x181002
        mov %r12, %rdx; xor %eax, %eax; out %ax, %dx
        ret
wait_used: # until used.idx == avail.idx
2:      mov 0x182002, %ax; cmp 0x181002, %ax; jne 2b
        ret
virtio_ready:
'''


def virtio_guest(body):
    return pci_guest(VIRTIO + body)


def test_rng_fills_the_guests_buffer():
    body = ('xor %eax, %eax; mov $0x183000, %esi; mov $64, %ecx; mov $2, %edx; call desc;'
            'xor %eax, %eax; call submit; call wait_used;' + say('used'))
    with Vmm(virtio_guest(body), devices=[(RNG, 1, 16)]) as vm:
        vm.run()
        vm.expect(b'used')
        head, written = struct.unpack('<II', vm.mem[0x182004:0x18200c])
        assert (head, written) == (0, 64)
        assert len(set(vm.mem[0x183000:0x183040])) > 20
        assert vm.mem[0x183040:0x183050] == bytes(16)


def test_rng_answers_bad_chains_with_nothing():
    # A loop, an address outside, a chain with nothing to write: each is answered with 0 bytes.
    body = ('xor %eax, %eax; mov $0x183000, %esi; mov $64, %ecx; mov $0x00000003, %edx; call desc;'
            'mov $1, %eax; mov $0xfffffffffffff000, %rsi; mov $8192, %ecx; mov $2, %edx; call desc;'
            'mov $2, %eax; mov $0x183000, %esi; mov $64, %ecx; mov $0, %edx; call desc;'
            'xor %eax, %eax; call submit; mov $1, %eax; call submit; mov $2, %eax; call submit; call wait_used;' +
            say('used'))
    with Vmm(virtio_guest(body), devices=[(RNG, 1, 16)]) as vm:
        vm.run()
        vm.expect(b'used')
        used = struct.unpack('<6I', vm.mem[0x182004:0x18201c])
        assert used == (0, 0, 1, 0, 2, 0)


def test_a_broken_ring_breaks_only_its_device():
    # An avail index far ahead of what the ring can hold.
    body = 'movw $999, 0x181002; mov %r12, %rdx; xor %eax, %eax; out %ax, %dx;' + say('kicked') + COUNT
    with Vmm(virtio_guest(body), devices=[(RNG, 1, 16)]) as vm:
        vm.run()
        vm.expect(b'kicked')
        time.sleep(0.1)
        assert vm.status()['state'] == RUNNING and vm.mem[0x182002:0x182004] == bytes(2)


# Reads sector %r13 into 0x184000: header at 0x183000, status at 0x183010.
READ = '''
        movl $0, 0x183000; movl $0, 0x183004; mov %r13, 0x183008; movb $255, 0x183010
        xor %eax, %eax; mov $0x183000, %esi; mov $16, %ecx; mov $0x00010001, %edx; call desc
        mov $1, %eax; mov $0x184000, %esi; mov $512, %ecx; mov $0x00020003, %edx; call desc
        mov $2, %eax; mov $0x183010, %esi; mov $1, %ecx; mov $2, %edx; call desc
        xor %eax, %eax; call submit
'''
SHOW = 'mov $0x184000, %esi; call puts; movzbl 0x183010, %eax; add $48, %al; call putc;'


def blk_disk():
    disk = bytearray(1 << 20)
    for i in range(16):
        disk[512 * i:512 * i + 10] = b'sector%03d\0' % i
    return disk


def test_blk_request_reaches_the_backend_and_comes_back():
    body = 'mov $7, %r13d;' + READ + 'call wait_used;' + SHOW
    with Vmm(virtio_guest(body), devices=[(BLK, 1, 16)]) as vm:
        vm.configure()
        tag = vm.send(START)
        assert not vm.receive(0.3)                  # waits for its back-end
        back = Backend(vm.connect(2, 0), blk_disk())
        assert vm.await_type(REPLY, 10, tag)[2][:4] == bytes(4)
        vm.expect(b'sector0070')
        assert back.inflight_given and SET_INFLIGHT_FD in back.messages and back.served == 1
        s = vm.status()
        assert s['ready'] == 1 and s['connected'] == 1


def test_capacity_comes_from_the_backend():
    with Vmm(virtio_guest('mov 0x2000(%rbx), %rax; call hex8;' + say('.')), devices=[(BLK, 1, 16)]) as vm:
        vm.configure()
        Backend(vm.connect(2, 0), bytearray(3 << 20))
        vm.start()
        vm.expect(b'%016x.' % (3 << 11))


def test_backend_dies_with_a_request_under_way_and_its_successor_answers():
    body = 'mov $9, %r13d;' + READ + 'call wait_used;' + SHOW
    with Vmm(virtio_guest(body), devices=[(BLK, 1, 16)]) as vm:
        vm.configure()
        first = Backend(vm.connect(2, 0), blk_disk(), hold=True)
        vm.start()
        assert first.took.wait(10)
        first.die()
        assert not vm.receive(0.3)                  # the guest waits; nothing is told, nothing breaks
        assert vm.status()['connected'] == 0
        second = Backend(vm.connect(2, 0), blk_disk())
        vm.expect(b'sector0090')
        assert not second.inflight_given and SET_INFLIGHT_FD in second.messages
        assert second.rings[0].base_given == 0 and second.served == 1


def test_daemon_and_backend_come_back_after_many_deaths():
    body = 'mov $0, %r13d; 5:' + READ + 'call wait_used;' + SHOW + 'inc %r13; and $15, %r13; jmp 5b;'
    with Vmm(virtio_guest(body), devices=[(BLK, 1, 16)]) as vm:
        vm.configure()
        back = Backend(vm.connect(2, 0), blk_disk())
        vm.start()
        for _ in range(10):
            vm.console = b''
            vm.expect(b'sector0150')
            assert not back.error
            back.die()
            vm.sock.close()
            vm.connect()
            back = Backend(vm.connect(2, 0), blk_disk())
        assert vm.status()['state'] == RUNNING


# A request is under way; once the test says so the guest resets the device and waits for status 0.
RESET_DEVICE = ('mov $3, %r13d;' + READ + '2: cmpb $0, 0x190000; je 2b;' + say('asked') + 'movb $0, 20(%rbx);'
                '2: movb 20(%rbx), %al; test %al, %al; jnz 2b;' + say('reset'))


def test_guest_reset_takes_the_ring_back():
    with Vmm(virtio_guest(RESET_DEVICE), devices=[(BLK, 1, 16)]) as vm:
        vm.configure()
        first = Backend(vm.connect(2, 0), blk_disk(), hold=True)
        vm.start()
        assert first.took.wait(10)
        vm.mem[0x190000] = 1
        vm.expect(b'asked')
        vm.expect(b'reset')                         # this back-end gives the ring back at once
        assert GET_VRING_BASE in first.messages


def test_guest_reset_waits_for_the_successor_of_a_dead_backend():
    with Vmm(virtio_guest(RESET_DEVICE), devices=[(BLK, 1, 16)]) as vm:
        vm.configure()
        first = Backend(vm.connect(2, 0), blk_disk(), hold=True, never=GET_VRING_BASE)
        vm.start()
        assert first.took.wait(10)
        vm.mem[0x190000] = 1
        vm.expect(b'asked')
        while vm.receive(0.5):
            pass
        assert b'reset' not in vm.console           # it does not answer, and the guest must wait
        first.die()
        while vm.receive(0.5):
            pass
        assert b'reset' not in vm.console           # dead is not yet drained
        second = Backend(vm.connect(2, 0), blk_disk())
        vm.expect(b'reset')                         # its successor has ended all it had begun
        assert second.rings == {}


def test_reboot_takes_the_rings_back_and_gives_them_anew():
    body = 'mov $5, %r13d;' + READ + 'call wait_used;' + SHOW + 'mov $0xcf9, %dx; mov $6, %al; out %al, %dx;'
    with Vmm(virtio_guest(body), devices=[(BLK, 1, 16), (RNG, 1, 64)]) as vm:
        vm.configure()
        back = Backend(vm.connect(2, 0), blk_disk())
        vm.start()
        for boot in range(3):
            vm.expect(b'sector0050')
            vm.wait_event(EV_RESET)
            assert back.messages.count(GET_VRING_BASE) == boot + 1 and not back.rings[0].enabled
            vm.mem[0x180000:0x190000] = bytes(0x10000)
            vm.load()
            vm.start()
        assert not back.error


def test_a_backend_that_breaks_the_protocol_is_dropped_and_named():
    body = 'mov $1, %r13d;' + READ + 'call wait_used;' + SHOW
    with Vmm(virtio_guest(body), devices=[(BLK, 1, 16)]) as vm:
        vm.configure()
        Backend(vm.connect(2, 0), protocol=P_MQ)    # a blk back-end without configuration space
        event = vm.wait_event(EV_DEVICE)
        assert event[1] == 0 and 'configuration space' in event[2]
        s = vm.connect(2, 0)
        s.sendall(b'x' * 64)                        # answers to nothing
        assert vm.wait_event(EV_DEVICE)[1] == 0
        s.close()
        Backend(vm.connect(2, 0), blk_disk())
        vm.start()
        vm.expect(b'sector0010')


def test_connections_for_no_device_are_closed():
    with Vmm(guest(say('on')), devices=[(RNG, 1, 16)]) as vm:
        vm.configure()
        for device in (0, 1, 99, 0xffffffff):
            s = vm.connect(2, device)
            s.settimeout(5)
            assert s.recv(1) == b''
            s.close()
        vm.start()
        vm.expect(b'on')


def test_rings_outside_of_memory_break_only_the_device():
    body = ('movb $0, 20(%rbx);2: movb 20(%rbx), %al; test %al, %al; jnz 2b; movb $3, 20(%rbx);'
            'movl $1, 8(%rbx); movl $1, 12(%rbx); movb $11, 20(%rbx);'
            'movl $0xfffff000, 32(%rbx); movl $0xffffffff, 36(%rbx); movl $0xfffff000, 48(%rbx);'
            'movw $1, 28(%rbx); movb $15, 20(%rbx);' + say('ran') +
            'call virtio_init; mov $2, %r13d;' + READ + 'call wait_used;' + SHOW)
    with Vmm(virtio_guest(body), devices=[(BLK, 1, 16)]) as vm:
        vm.configure()
        Backend(vm.connect(2, 0), blk_disk())
        vm.start()
        vm.expect(b'ran')
        vm.expect(b'sector0020')                    # after its next reset it works


class RawServer:
    """The daemon's own vhost-user back-end over a file, joined to device 0 of the VMM."""

    def __init__(self, vm, path):
        self.path = vm.dir.name + '/backend.sock'
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.proc = subprocess.Popen([f'{BUILD}/tests/client/raw_server', 'blk', self.path, path], stdout=subprocess.PIPE,
                                     stderr=vm.log)
        assert self.proc.stdout.readline() == b'ready\n'
        back = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        back.connect(self.path)
        self.relay = Relay(vm.connect(2, 0), back)

    def kill(self):
        self.proc.kill()
        self.proc.wait()
        self.proc.stdout.close()
        self.relay.join(10)


def test_our_backend_is_killed_and_started_again_under_load(tmp_path):
    # Reads sector after sector; each answer is looked at by the guest, and a wrong one stops it.
    body = ('mov $0, %r13d; 5:' + READ + 'call wait_used; cmpb $0, 0x183010; jne 6f;'
            'cmp %r13, 0x184000; jne 6f; incl 0x190000; inc %r13; and $1023, %r13; jmp 5b; 6:' + say('wrong'))
    disk = tmp_path / 'disk.raw'
    disk.write_bytes(b''.join(struct.pack('<Q', i) + bytes(504) for i in range(2048)))
    with Vmm(virtio_guest(body), devices=[(BLK, 1, 16)]) as vm:
        def answered():
            return struct.unpack('<I', vm.mem[0x190000:0x190004])[0]
        vm.configure()
        server = RawServer(vm, str(disk))
        vm.start()
        for _ in range(8):
            was, deadline = answered(), time.monotonic() + 20
            while answered() < was + 200:
                assert time.monotonic() < deadline, f'stuck at {answered()}'
                assert not vm.receive(0.01) and not vm.console
            server.kill()
            server = RawServer(vm, str(disk))
        server.kill()
        assert vm.status()['state'] == RUNNING and not vm.console
