# SPDX-License-Identifier: Apache-2.0
"""Payload guests (see vmm.py): pieces of assembler that speak on the console, echo what is typed, power off."""
from vmm import payload

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
'''

# Answers each byte with itself, for ever.
ECHO = '''
2:      mov $0x3fd, %dx
3:      in %dx, %al
        test $1, %al
        jz 3b
        mov $0x3f8, %dx
        in %dx, %al
        call putc
        jmp 2b
'''

POWER_OFF = 'mov $0x604, %dx; mov $(5 << 10 | 1 << 13), %ax; out %ax, %dx;'

# Waits for the ACPI power button (its bit in PM1a's status), then powers off.
BUTTON_OFF = '''
2:      mov $0x600, %dx
        in %dx, %ax
        test $0x100, %ax
        jz 2b
''' + POWER_OFF


def say(text):
    return f'lea 9f(%rip), %rsi; call puts; jmp 8f; 9: .asciz "{text}\\n"; 8:\n'


def guest(body):
    return payload('jmp begin\n' + PUTS + 'begin: cld\n' + body + '\n1: hlt; jmp 1b')
