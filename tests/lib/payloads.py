# SPDX-License-Identifier: Apache-2.0
"""Payload guests (see vmm.py): pieces of assembler that speak on the console, echo what is typed, power off."""
import os, subprocess, tempfile

from vmm import KERNEL_GPA, payload, setup_sectors

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


# As `payload` of vmm.py for a program in C without libraries: tests/lib/guest/NAME.c; its entry comes first.
C_FLAGS = ('-O2 -std=c17 -Wall -Wextra -Wshadow -Werror -ffreestanding -fno-pic -fno-stack-protector -fcf-protection=none '
           '-mgeneral-regs-only -mno-red-zone -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns').split()
SCRIPT = f'''SECTIONS {{
    . = {KERNEL_GPA + 0x200:#x};
    .text : {{ *(.text.entry) *(.text*) }}
    .data : {{ *(.rodata*) *(.data*) }}
    __bss_start = .;
    .bss : {{ *(.bss*) *(COMMON) }}
    _end = .;
    /DISCARD/ : {{ *(.note*) *(.comment) }}
}}'''


def c_kernel(name, memory=8 << 20):
    """A whole bzImage; it may use what lies below `memory`."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'guest', name + '.c')
    with tempfile.TemporaryDirectory() as d:
        with open(d + '/script', 'w') as f:
            f.write(SCRIPT)
        subprocess.run(['gcc', *C_FLAGS, '-c', '-o', d + '/p.o', source], check=True)
        subprocess.run(['ld', '--no-warn-rwx-segments', '-T', d + '/script', '-o', d + '/p', d + '/p.o'], check=True)
        subprocess.run(['objcopy', '-O', 'binary', '-R', '.bss', d + '/p', d + '/p.bin'], check=True)
        with open(d + '/p.bin', 'rb') as f:
            return setup_sectors(memory - KERNEL_GPA) + bytes(0x200) + f.read()


# Real mode, at 0x7c00. Speaks, reads its disk's second sector (int 13h, extended), echoes what is typed.
BOOT_SECTOR = '''
.code16
_start: cli
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x7c00, %sp
        sti
        mov $packet, %si
        mov $0x42, %ah
        int $0x13
        jc 3f
        mov $0x7e00, %si
        call puts
2:      xor %ah, %ah
        int $0x16
        cmp $'!', %al
        je 4f
        cmp $'.', %al
        je 5f
        call putc
        jmp 2b
3:      mov $bad, %si
        call puts
6:      hlt
        jmp 6b
4:      mov $0xcf9, %dx
        mov $6, %al
        out %al, %dx
        jmp 6b
5:      mov $0x604, %dx
        mov $(5 << 10 | 1 << 13), %ax
        out %ax, %dx
        jmp 6b
putc:   mov $0x0e, %ah
        mov $7, %bx
        int $0x10
        ret
puts:   cld
1:      lodsb
        test %al, %al
        jz 1f
        call putc
        jmp 1b
1:      ret
packet: .byte 16, 0, 1, 0
        .word 0x7e00, 0
        .quad 1
bad:    .asciz "disk error"
        .org 510
        .word 0xaa55
'''


def assemble32(asm, at):
    """Code of 16 or 32 bits, as it lies at address `at`; begins with _start."""
    with tempfile.TemporaryDirectory() as d:
        with open(d + '/p.S', 'w') as f:
            f.write('.globl _start\n' + asm)
        subprocess.run(['gcc', '-m32', '-c', '-o', d + '/p.o', d + '/p.S'], check=True)
        subprocess.run(['ld', '-m', 'elf_i386', '-Ttext', hex(at), '-e', '_start', '--oformat', 'binary', '-o', d + '/p', d + '/p.o'],
                       check=True)
        with open(d + '/p', 'rb') as f:
            return f.read()


def boot_sector():
    """The first sector of a disk whose second one holds text, with a zero behind it. "!" reboots, "." powers off."""
    return assemble32(BOOT_SECTOR, 0x7c00)
