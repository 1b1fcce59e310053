// SPDX-License-Identifier: Apache-2.0
/*
 * zeroes.c: a payload guest (see vmm.py) that writes as fast as it can into pages of 4 KiB from POOL on, in a scattered
 * order: every second time a page becomes all zeroes. How often it wrote each it keeps elsewhere, and looks each time
 * whether the page still holds what was written last. Needs 128 MiB of memory.
 *
 * A byte that comes on the serial port: it looks at all pages and says "all N", N times written. Says "on" at the
 * start, and a line that begins with "bad" as soon as anything is wrong.
 */
#include <stdint.h>

#define COUNTS ((uint32_t *)0x800000)
#define POOL   0x1000000ull
#define PAGES  (112u * 256)

static uint8_t stack[16384] __attribute__((aligned(16), used));
static uint64_t seed = 12345, written;
static uint32_t errors;

void program(void);

__asm__(".section .text.entry\n"
	"	cli; cld\n"
	"	lea stack+16384(%rip), %rsp\n"
	"	call program\n"
	"1:	hlt; jmp 1b\n"
	".text\n");

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

static void say(const char *text)
{
	while (*text)
		out8(0x3f8, (uint8_t)*text++);
}

static void say_number(uint64_t n)
{
	char text[24];
	unsigned at = sizeof(text) - 1;

	text[at] = 0;
	do
		text[--at] = (char)('0' + n % 10);
	while (n /= 10);
	say(text + at);
}

/* Never zero. */
static uint64_t mixed(uint64_t index, uint64_t count)
{
	return (index * 0x9e3779b97f4a7c15ull ^ count) * 0xff51afd7ed558ccdull | 1;
}

static void look(uint32_t index)
{
	const volatile uint64_t *p = (const volatile uint64_t *)(POOL + index * 4096ull);
	const uint64_t want = COUNTS[index] % 2 ? mixed(index, COUNTS[index]) : 0;

	if ((p[0] == want && p[256] == want && p[511] == want) || errors++ > 4)
		return;
	say("bad page ");
	say_number(index);
	say("\n");
}

static void turn(void)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	uint32_t index = (uint32_t)((seed >> 33) % PAGES);
	volatile uint64_t *p = (volatile uint64_t *)(POOL + index * 4096ull);

	look(index);
	const uint64_t next = ++COUNTS[index] % 2 ? mixed(index, COUNTS[index]) : 0;
	p[0] = p[256] = p[511] = next;
	written++;
}

void program(void)
{
	for (uint32_t i = 0; i < PAGES; i++)
		COUNTS[i] = 0;
	say("on\n");
	for (;;) {
		for (unsigned i = 0; i < 4096; i++)
			turn();
		if (!(in8(0x3fd) & 1))
			continue;
		(void)in8(0x3f8);
		for (uint32_t i = 0; i < PAGES; i++)
			look(i);
		say("all ");
		say_number(written);
		say("\n");
	}
}
