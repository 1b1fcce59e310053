# SPDX-License-Identifier: Apache-2.0
"""perilune-vmm with tiny payload guests on the machine's own /dev/kvm: the fast tier."""
import errno, os, signal, socket, struct, sys, time
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'lib'))
from vmm import *

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
