// SPDX-License-Identifier: Apache-2.0
/*
 * mover.c: a payload guest (see vmm.py) that is to be saved and loaded. It changes pages of 4 KiB
 * from POOL on, in a scattered order, and looks each time whether a page still holds what was
 * written last; registers that travel keep constants that it looks at, too; its clocks must not go
 * back; a timer interrupts it. The test writes `mode` and `pages` (struct shared) before the start
 * (without, most of it is on), and reads the counters.
 *
 * Each byte that comes on the serial port is answered with itself. Says "on" at the start, and a line
 * that begins with "bad" as soon as anything is wrong.
 */
#include <stdbool.h>
#include <stdint.h>

#define POOL   0x400000u
#define SHARED ((volatile struct shared *)0x300000)
#define CLOCK  ((volatile struct pvclock *)0x301000)
#define APIC   0xfee00000u

#define MSR_APIC_BASE	 0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_LSTAR	 0xc0000082
#define MSR_KVMCLOCK	 0x4b564d01
#define LSTAR_KEPT	 0xffff800012345678ull
#define CR2_KEPT	 0x123456789000ull
#define LOOKS		 64 /* pages between looks at registers and clocks: they cost an exit here and there */
#define TICKS		 400000u /* of the TSC, or of the APIC's timer, between interrupts */

enum { MODE_DEADLINE = 1, MODE_PERIODIC = 2, MODE_HALT = 4, MODE_CLOCK = 8, MODE_REGISTERS = 16 };

struct shared {
	uint64_t mode, pages; /* the test's */
	uint64_t loops, ticks, errors, clock_ns;
};

struct pvclock {
	uint32_t version, pad;
	uint64_t tsc, system_time;
	uint32_t mul;
	int8_t shift;
	uint8_t flags;
};

struct page {
	uint64_t index, count, check, rest[509];
};

struct gate {
	uint16_t low, selector;
	uint8_t ist, type;
	uint16_t middle;
	uint32_t high, zero;
};

static struct gate idt[256] __attribute__((aligned(16)));
static uint8_t stack[16384] __attribute__((aligned(16), used));
static uint64_t last_tsc, last_ns, seed = 12345;

void program(void);
void tick_entry(void);
void tick(void);

__asm__(".section .text.entry\n"
	"	cli; cld\n"
	"	lea stack+16384(%rip), %rsp\n"
	"	call program\n"
	"1:	hlt; jmp 1b\n"
	".text\n"
	"tick_entry:\n"
	"	push %rax; push %rcx; push %rdx; push %rsi; push %rdi\n"
	"	push %r8; push %r9; push %r10; push %r11\n"
	"	cld; call tick\n"
	"	pop %r11; pop %r10; pop %r9; pop %r8\n"
	"	pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rax\n"
	"	iretq\n");

static inline void out8(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
	uint8_t v;
	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline uint64_t rdtsc(void)
{
	uint32_t a, d;
	__asm__ volatile("rdtsc" : "=a"(a), "=d"(d));
	return a | (uint64_t)d << 32;
}

static inline void wrmsr(uint32_t msr, uint64_t v)
{
	__asm__ volatile("wrmsr"
			 :
			 : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32))
			 : "memory");
}

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t a, d;
	__asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(msr));
	return a | (uint64_t)d << 32;
}

static volatile uint32_t *apic(unsigned offset)
{
	return (volatile uint32_t *)(uintptr_t)(APIC + offset);
}

static void say(const char *text)
{
	while (*text)
		out8(0x3f8, (uint8_t)*text++);
}

static void bad(const char *what)
{
	if (SHARED->errors++)
		return;
	say("bad ");
	say(what);
	say("\n");
}

/* --- the timer --------------------------------------------------------------------------------- */

void tick(void)
{
	SHARED->ticks++;
	*apic(0xb0) = 0; /* EOI */
	if (SHARED->mode & MODE_DEADLINE)
		wrmsr(MSR_TSC_DEADLINE, rdtsc() + TICKS);
}

static void start_timer(void)
{
	const uint64_t at = (uintptr_t)tick_entry;
	struct {
		uint16_t bytes;
		uint64_t base;
	} __attribute__((packed)) idtr = {sizeof(idt) - 1, (uintptr_t)idt};

	idt[0x40] = (struct gate){.low = (uint16_t)at,
				  .selector = 0x10,
				  .type = 0x8e,
				  .middle = (uint16_t)(at >> 16),
				  .high = (uint32_t)(at >> 32)};
	__asm__ volatile("lidt %0" : : "m"(idtr));
	*apic(0xf0) = 0x1ff; /* on, spurious interrupts to 0xff */
	*apic(0x3e0) = 0xb;  /* the timer counts each tick of its clock */
	if (SHARED->mode & MODE_DEADLINE) {
		*apic(0x320) = 2u << 17 | 0x40;
		wrmsr(MSR_TSC_DEADLINE, rdtsc() + TICKS);
	} else {
		*apic(0x320) = 1u << 17 | 0x40;
		*apic(0x380) = TICKS;
	}
	__asm__ volatile("sti");
}

/* --- clocks and registers ---------------------------------------------------------------------- */

static uint64_t clock_ns(void)
{
	uint64_t ns;
	uint32_t version;

	do {
		version = CLOCK->version;
		__asm__ volatile("" : : : "memory");
		uint64_t delta = rdtsc() - CLOCK->tsc;
		delta = CLOCK->shift < 0 ? delta >> -CLOCK->shift : delta << CLOCK->shift;
		ns = CLOCK->system_time + (uint64_t)((unsigned __int128)delta * CLOCK->mul >> 32);
		__asm__ volatile("" : : : "memory");
	} while (version & 1 || version != CLOCK->version);
	return ns;
}

static void look_at_clocks(void)
{
	uint64_t tsc = rdtsc();

	if (tsc < last_tsc)
		bad("tsc went back");
	last_tsc = tsc;
	if (!(SHARED->mode & MODE_CLOCK))
		return;
	uint64_t ns = clock_ns();
	if (ns < last_ns)
		bad("kvmclock went back");
	last_ns = SHARED->clock_ns = ns;
}

static void set_registers(void)
{
	__asm__ volatile("mov %0, %%cr2" : : "r"(CR2_KEPT));
	__asm__ volatile("mov %0, %%dr0" : : "r"(CR2_KEPT));
	wrmsr(MSR_LSTAR, LSTAR_KEPT);
}

static void look_at_registers(void)
{
	uint64_t cr2, dr0;

	__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
	__asm__ volatile("mov %%dr0, %0" : "=r"(dr0));
	if (cr2 != CR2_KEPT)
		bad("cr2");
	if (dr0 != CR2_KEPT)
		bad("dr0");
	if (rdmsr(MSR_LSTAR) != LSTAR_KEPT)
		bad("lstar");
}

/* --- pages ------------------------------------------------------------------------------------- */

static uint64_t mixed(uint64_t index, uint64_t count)
{
	return (index * 0x9e3779b97f4a7c15ull ^ count) * 0xff51afd7ed558ccdull;
}

static void turn(void)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	uint64_t index = (seed >> 33) % SHARED->pages;
	volatile struct page *p = (volatile struct page *)(uintptr_t)(POOL + index * 4096);

	if (p->count && (p->index != index || p->check != mixed(index, p->count)))
		bad("page");
	p->index = index;
	p->count++;
	p->check = mixed(index, p->count);
}

static void answer_input(void)
{
	while (in8(0x3fd) & 1)
		out8(0x3f8, in8(0x3f8));
}

void program(void)
{
	if (!SHARED->pages) { /* nobody can write there: under a daemon */
		SHARED->mode = MODE_DEADLINE | MODE_CLOCK | MODE_REGISTERS;
		SHARED->pages = 2048;
	}
	const bool registers = SHARED->mode & MODE_REGISTERS;

	if (registers)
		set_registers();
	if (SHARED->mode & MODE_CLOCK)
		wrmsr(MSR_KVMCLOCK, (uintptr_t)CLOCK | 1);
	if (SHARED->mode & (MODE_DEADLINE | MODE_PERIODIC))
		start_timer();
	say("on\n");
	for (;;) {
		for (unsigned i = 0; i < LOOKS; i++)
			turn();
		SHARED->loops++;
		look_at_clocks();
		if (registers)
			look_at_registers();
		answer_input();
		if (SHARED->mode & MODE_HALT)
			__asm__ volatile("hlt");
	}
}
