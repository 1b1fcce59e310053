// SPDX-License-Identifier: Apache-2.0
/*
 * disk_shell.c: a payload guest (see vmm.py) that drives LUNs of a virtio-scsi controller as told
 * on its serial port, a command a line, numbers in decimal, blocks of 4 KiB:
 *
 *	l LUN				what follows is for that LUN (0 at first); "l ok"
 *	L				REPORT LUNS; "L COUNT LAST", and "L LUN" of each with `L 1`
 *	w FIRST COUNT STRIDE STAMP	writes blocks FIRST, FIRST + STRIDE, ...; "w ok"
 *	r FIRST COUNT STRIDE STAMP	reads and compares; "r ok"
 *	f				SYNCHRONIZE CACHE; "f ok"
 *	F				the same, where it may fail: "F ok" or "F failed"
 *	s BLOCKS			a storm over blocks 0 to BLOCKS - 1: reads and writes at full
 *					depth until `e`; "s on", "s N" after each 1024 answers
 *	e				ends the storm when all is answered; "e WRITES READS"
 *	v				every block holds what was acknowledged last; "v ok"
 *	c				READ CAPACITY; "c BLOCKS"
 *	x CDB N				that command (hex), with N bytes to read; "x STATUS KEY ASC ASCQ",
 *					and the first 64 bytes in hex
 *	X CDB DATA N			the same with N bytes to write, those (hex) and zeroes behind them
 *	t				TEST UNIT READY; "t ok", or the sense data "t KEY ASC ASCQ"
 *	P KEY NEW ACTION TYPE FLAGS	PERSISTENT RESERVE OUT; "P ok", or its status "P STATUS"
 *	K				PERSISTENT RESERVE IN; how many keys, the first, the reservation's
 *					type: "K KEYS KEY TYPE"
 *	p				powers off, as it does when its power button is pressed
 *
 * It does little per request: where KVM emulates its guests, an instruction takes a microsecond.
 * Whatever is wrong is said in a line that begins with "bad": an error, wrong data, a request that
 * is answered twice. Says "ready" when it is, and "event TYPE REASON LUN" when the device sends one.
 */
#include <stdbool.h>
#include <stdint.h>

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_scsi.h>

#define RING   256u /* entries, and requests in flight: descriptors are indirect */
#define BLOCK  4096u
#define BLOCKS 8192u /* of a storm at most */

enum { CONTROL, EVENTS, REQUEST }; /* queues */
#define EVENT_BUFFERS 8

#define READ_16	    0x88
#define WRITE_16    0x8a
#define SYNC_16	    0x91
#define CAPACITY_16 0x9e
#define REPORT_LUNS 0xa0
#define PR_IN	    0x5e
#define PR_OUT	    0x5f
#define TUR	    0x00

struct slot {
	bool busy, write, check;
	uint32_t block, stamp;
	struct virtio_scsi_cmd_req req;
	struct virtio_scsi_cmd_resp resp;
	struct vring_desc out[3], in[3], none[2];
};

struct avail {
	uint16_t flags, idx, ring[RING], event;
};
struct used {
	uint16_t flags, idx;
	struct vring_used_elem ring[RING];
	uint16_t event;
};

#define barrier() __asm__ volatile("" : : : "memory")

static struct vring_desc desc[RING] __attribute__((aligned(4096)));
static struct avail avail __attribute__((aligned(4096)));
static volatile struct used used __attribute__((aligned(4096)));
static struct vring_desc event_desc[RING] __attribute__((aligned(4096)));
static struct avail event_avail __attribute__((aligned(4096)));
static volatile struct used event_used __attribute__((aligned(4096)));
static struct virtio_scsi_event event_buffer[EVENT_BUFFERS];
static uint16_t events_seen;
static uint8_t data[RING][BLOCK] __attribute__((aligned(4096)));
static struct slot slot[RING];
static uint8_t idle_ring[3][4096] __attribute__((aligned(4096)));
static uint8_t stack[16384] __attribute__((aligned(16), used));

static volatile struct virtio_pci_common_cfg *common;
static uint16_t notify_port, seen;
static uint32_t lun;
static unsigned in_flight, errors;
static uint64_t tag;
static uint16_t free_slot[RING];
static unsigned free_slots;

/* The storm's memory: what was acknowledged, and which blocks have a request. */
static uint32_t acked[BLOCKS];
static bool taken[BLOCKS];
static bool storming;
static uint32_t storm_blocks, next_stamp;
static uint64_t dice = 88172645463325252ULL, writes, reads;

void *memset(void *to, int byte, unsigned long n);
void *memcpy(void *to, const void *from, unsigned long n);
void guest_main(void);

__asm__(".section .text.entry, \"ax\"\n"
	".globl _start\n"
	"_start: cld\n"
	"	mov $__bss_start, %rdi\n"
	"	mov $_end, %rcx\n"
	"	sub %rdi, %rcx\n"
	"	xor %eax, %eax\n"
	"	rep stosb\n"
	"	mov $stack + 16384, %rsp\n"
	"	call guest_main\n"
	"	.text\n");

void *memset(void *to, int byte, unsigned long n)
{
	void *at = to;

	__asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(byte) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, unsigned long n)
{
	void *at = to;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
	return to;
}

/* --- ports, the console ------------------------------------------------------------------------ */

static void out8(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static void out16(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static void out32(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static uint8_t in8(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static uint16_t in16(uint16_t port)
{
	uint16_t v;

	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static uint32_t in32(uint16_t port)
{
	uint32_t v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static void say(const char *text)
{
	for (; *text; text++)
		out8(0x3f8, (uint8_t)*text);
}

static void say_number(uint64_t n)
{
	char text[24], *p = text + sizeof(text);

	*--p = 0;
	do
		*--p = (char)('0' + n % 10);
	while (n /= 10);
	say(" ");
	say(p);
}

static void power_off(void)
{
	for (;;)
		out16(0x604, 5 << 10 | 1 << 13);
}

/* --- the device -------------------------------------------------------------------------------- */

static uint32_t pci_address(unsigned dev, unsigned reg)
{
	return 0x80000000 | dev << 11 | reg;
}

static uint32_t pci_read(unsigned dev, unsigned reg)
{
	out32(0xcf8, pci_address(dev, reg));
	return in32(0xcfc);
}

static uint64_t gpa(const volatile void *p)
{
	return (uint64_t)(uintptr_t)p;
}

static void set_queue(unsigned q, volatile const void *d, volatile const void *a,
		      volatile const void *u)
{
	common->queue_select = (uint16_t)q;
	common->queue_size = RING;
	common->queue_desc_lo = (uint32_t)gpa(d);
	common->queue_desc_hi = 0;
	common->queue_avail_lo = (uint32_t)gpa(a);
	common->queue_avail_hi = 0;
	common->queue_used_lo = (uint32_t)gpa(u);
	common->queue_used_hi = 0;
	common->queue_enable = 1;
}

static void start_device(void)
{
	unsigned dev = 3;

	while (dev < 32 && pci_read(dev, 0) != 0x10481af4)
		dev++;
	if (dev == 32) {
		say("bad: there is no virtio-scsi\n");
		return;
	}
	out32(0xcf8, pci_address(dev, 4));
	out16(0xcfc, 7);
	notify_port = (uint16_t)(pci_read(dev, 0x10) & ~3u);
	common = (void *)(uintptr_t)(pci_read(dev, 0x14) & ~15u);
	common->device_status = 0;
	while (common->device_status)
		;
	common->device_status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	common->guest_feature_select = 0;
	common->guest_feature = 1u << VIRTIO_RING_F_INDIRECT_DESC | 1u << VIRTIO_SCSI_F_HOTPLUG |
				1u << VIRTIO_SCSI_F_CHANGE;
	common->guest_feature_select = 1;
	common->guest_feature = 1;
	common->device_status |= VIRTIO_CONFIG_S_FEATURES_OK;
	set_queue(CONTROL, idle_ring[0], idle_ring[1], idle_ring[2]);
	set_queue(EVENTS, event_desc, &event_avail, &event_used);
	set_queue(REQUEST, desc, &avail, &used);
	common->device_status |= VIRTIO_CONFIG_S_DRIVER_OK;
}

static void describe(struct vring_desc *d, const volatile void *p, unsigned long n, unsigned flags,
		     unsigned next)
{
	*d = (struct vring_desc){gpa(p), (uint32_t)n, (uint16_t)flags, (uint16_t)next};
}

static void prepare_slots(void)
{
	for (unsigned i = 0; i < RING; i++) {
		struct slot *s = &slot[i];

		s->req.lun[0] = 1;
		describe(&s->out[0], &s->req, sizeof(s->req), VRING_DESC_F_NEXT, 1);
		describe(&s->out[1], data[i], BLOCK, VRING_DESC_F_NEXT, 2);
		describe(&s->out[2], &s->resp, sizeof(s->resp), VRING_DESC_F_WRITE, 0);
		describe(&s->in[0], &s->req, sizeof(s->req), VRING_DESC_F_NEXT, 1);
		describe(&s->in[1], &s->resp, sizeof(s->resp),
			 VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 2);
		describe(&s->in[2], data[i], BLOCK, VRING_DESC_F_WRITE, 0);
		describe(&s->none[0], &s->req, sizeof(s->req), VRING_DESC_F_NEXT, 1);
		describe(&s->none[1], &s->resp, sizeof(s->resp), VRING_DESC_F_WRITE, 0);
		free_slot[free_slots++] = (uint16_t)i;
	}
}

static void put_32(uint8_t *p, uint32_t v)
{
	v = __builtin_bswap32(v);
	__builtin_memcpy(p, &v, 4);
}

static struct slot *take_slot(uint8_t op)
{
	struct slot *s = &slot[free_slot[--free_slots]];

	s->busy = true;
	s->check = false;
	s->req.tag = ++tag;
	s->req.lun[2] = lun < 256 ? 0 : (uint8_t)(0x40 | lun >> 8);
	s->req.lun[3] = (uint8_t)lun;
	s->req.cdb[0] = op;
	s->req.cdb[1] = 0;
	s->resp.response = s->resp.status = 0xff;
	return s;
}

/* `with`: the chain to use; kicks unless the device is at it anyway. */
static void send(struct slot *s, const struct vring_desc *with, unsigned descs)
{
	unsigned i = (unsigned)(s - slot);

	describe(&desc[i], with, descs * sizeof(*with), VRING_DESC_F_INDIRECT, 0);
	avail.ring[avail.idx % RING] = (uint16_t)i;
	barrier();
	avail.idx++;
	in_flight++;
	__asm__ volatile("mfence" : : : "memory");
	if (!(used.flags & VRING_USED_F_NO_NOTIFY))
		out16(notify_port, REQUEST);
}

static void bad(const char *what, const struct slot *s)
{
	if (errors++ > 20)
		return;
	say("bad: ");
	say(what);
	say(" block");
	say_number(s->block);
	say(" stamp");
	say_number(s->stamp);
	say(" response");
	say_number(s->resp.response);
	say(" status");
	say_number(s->resp.status);
	say(" sense");
	say_number(s->resp.sense[2] & 15u);
	say_number(s->resp.sense[12]);
	say_number(s->resp.sense[13]);
	say("\n");
}

static bool good(const struct slot *s)
{
	return s->resp.response == VIRTIO_SCSI_S_OK && s->resp.status == 0;
}

/* The two ends of a block say which it is, and which write it was. */
static void fill(uint8_t *p, uint64_t block, uint64_t stamp)
{
	uint64_t *w = (uint64_t *)(void *)p;

	w[0] = w[BLOCK / 8 - 2] = block;
	w[1] = w[BLOCK / 8 - 1] = stamp;
}

static bool holds(const uint8_t *p, uint64_t block, uint64_t stamp)
{
	const uint64_t *w = (const uint64_t *)(const void *)p;

	if (!stamp)
		block = 0; /* never written */
	return w[0] == block && w[1] == stamp && w[BLOCK / 8 - 2] == block &&
	       w[BLOCK / 8 - 1] == stamp;
}

/* A unit attention is news, no error: the command is given once more. */
static bool attention(const struct slot *s)
{
	return s->resp.response == VIRTIO_SCSI_S_OK && s->resp.status == 2 &&
	       (s->resp.sense[2] & 15) == 6;
}

static void finish(struct slot *s)
{
	if (s->check && attention(s)) {
		in_flight--;
		s->resp.response = s->resp.status = 0xff;
		send(s, s->write ? s->out : s->in, 3);
		return;
	}
	s->busy = false;
	free_slot[free_slots++] = (uint16_t)(s - slot);
	in_flight--;
	if (!s->check)
		return;
	if (!good(s)) {
		bad("failed", s);
	} else if (!s->write && !holds(data[s - slot], s->block, s->stamp)) {
		bad("wrong data", s);
	} else if (storming) {
		if (s->write)
			acked[s->block] = s->stamp;
		*(s->write ? &writes : &reads) += 1;
		if ((writes + reads) % 1024 == 0) {
			say("s");
			say_number(writes + reads);
			say("\n");
		}
	}
	if (storming)
		taken[s->block] = false;
}

/* Takes what was answered. */
static void reap(void)
{
	while (seen != used.idx) {
		uint32_t id = used.ring[seen % RING].id;

		seen++;
		if (id >= RING || !slot[id].busy) {
			static struct slot none;

			none.block = id;
			bad("answered twice:", &none);
			continue;
		}
		finish(&slot[id]);
	}
}

static void wait_for(unsigned at_most)
{
	while (in_flight > at_most) {
		reap();
		barrier();
	}
}

static void transfer(bool write, uint32_t block, uint32_t stamp)
{
	struct slot *s;

	wait_for(RING - 1);
	s = take_slot(write ? WRITE_16 : READ_16);
	s->write = write;
	s->check = true;
	s->block = block;
	s->stamp = stamp;
	put_32(s->req.cdb + 2, block >> 29);
	put_32(s->req.cdb + 6, block * (BLOCK / 512));
	put_32(s->req.cdb + 10, BLOCK / 512);
	if (write)
		fill(data[s - slot], block, stamp);
	send(s, write ? s->out : s->in, 3);
}

/* One command with nothing beside it. */
static struct slot *single(uint8_t op, uint8_t action, bool answers)
{
	struct slot *s = take_slot(op);

	memset(s->req.cdb + 1, 0, 15);
	s->req.cdb[1] = action;
	if (answers)
		put_32(s->req.cdb + 10, 32);
	send(s, answers ? s->in : s->none, answers ? 3 : 2);
	wait_for(0);
	return s;
}

/* --- the commands ------------------------------------------------------------------------------ */

static const char *parse(const char *p, uint32_t *n)
{
	*n = 0;
	while (*p == ' ')
		p++;
	for (; *p >= '0' && *p <= '9'; p++)
		*n = *n * 10 + (uint32_t)(*p - '0');
	return p;
}

static void range(bool write, const char *p)
{
	uint32_t first, count, stride, stamp, before = errors;

	p = parse(p, &first);
	p = parse(p, &count);
	p = parse(p, &stride);
	parse(p, &stamp);
	for (uint32_t i = 0; i < count; i++)
		transfer(write, first + i * stride, stamp);
	wait_for(0);
	if (errors == before)
		say(write ? "w ok\n" : "r ok\n");
}

static void begin_storm(const char *p)
{
	parse(p, &storm_blocks);
	if (storm_blocks < RING || storm_blocks > BLOCKS)
		storm_blocks = BLOCKS;
	memset(acked, 0, sizeof(acked));
	memset(taken, 0, sizeof(taken));
	writes = reads = 0;
	storming = true;
	say("s on\n");
}

/* As many more as there is room for; two thirds write. */
static void storm(void)
{
	for (unsigned tries = 0; in_flight < RING && tries < 2 * RING; tries++) {
		uint32_t block;

		dice ^= dice << 13;
		dice ^= dice >> 7;
		dice ^= dice << 17;
		block = (uint32_t)(dice >> 20) % storm_blocks;
		if (taken[block])
			continue;
		taken[block] = true;
		if (dice % 3)
			transfer(true, block, ++next_stamp);
		else
			transfer(false, block, acked[block]);
	}
	reap();
}

static void end_storm(void)
{
	wait_for(0);
	storming = false;
	say("e");
	say_number(writes);
	say_number(reads);
	say("\n");
}

static void verify(void)
{
	uint32_t before = errors;

	for (uint32_t i = 0; i < storm_blocks; i++)
		transfer(false, i, acked[i]);
	wait_for(0);
	if (errors == before)
		say("v ok\n");
}

static void capacity(void)
{
	struct slot *s = single(CAPACITY_16, 0x10, true);
	const uint8_t *p = data[s - slot];
	uint64_t last = 0;

	for (unsigned i = 0; i < 8; i++)
		last = last << 8 | p[i];
	if (!good(s))
		bad("READ CAPACITY", s);
	say("c");
	say_number((last + 1) / (BLOCK / 512));
	say("\n");
}

static uint32_t lun_of(const uint8_t *p)
{
	return (p[0] & 0x3fu) << 8 | p[1];
}

static void report_luns(const char *p)
{
	struct slot *s = take_slot(REPORT_LUNS);
	const uint8_t *d = data[s - slot];
	uint32_t n, all;

	parse(p, &all);
	memset(s->req.cdb + 1, 0, 15);
	put_32(s->req.cdb + 6, BLOCK);
	send(s, s->in, 3);
	wait_for(0);
	if (!good(s))
		bad("REPORT LUNS", s);
	n = ((uint32_t)d[2] << 8 | d[3]) / 8;
	for (uint32_t i = 1; all && i <= n; i++) {
		say("L");
		say_number(lun_of(d + 8 * i));
		say("\n");
	}
	say("L");
	say_number(n);
	say_number(n ? lun_of(d + 8 * n) : 0);
	say("\n");
}

static unsigned hex_digit(char c)
{
	return c >= 'a' ? c - 'a' + 10u : (unsigned)(c - '0');
}

static const char *parse_hex(const char *p, uint8_t *to, unsigned *n)
{
	while (*p == ' ')
		p++;
	for (*n = 0; p[0] > ' ' && p[1] > ' '; p += 2)
		to[(*n)++] = (uint8_t)(hex_digit(p[0]) << 4 | hex_digit(p[1]));
	return p;
}

static void say_hex(const uint8_t *p, unsigned n)
{
	static const char digit[] = "0123456789abcdef";
	char text[3] = {0};

	say(" ");
	for (; n > 0; n--, p++) {
		text[0] = digit[*p >> 4];
		text[1] = digit[*p & 15];
		say(text);
	}
}

/* Its data are as long as is said, not a block. */
static void any_command(const char *p, bool write)
{
	uint8_t cdb[16] = {0};
	unsigned n, bytes;
	struct slot *s;
	struct vring_desc *d;

	p = parse_hex(p, cdb, &n);
	s = take_slot(cdb[0]);
	memcpy(s->req.cdb, cdb, sizeof(cdb));
	memset(data[s - slot], 0, BLOCK);
	if (write)
		p = parse_hex(p, data[s - slot], &n);
	parse(p, &bytes);
	d = write ? &s->out[1] : &s->in[2];
	d->len = bytes;
	send(s, !bytes ? s->none : write ? s->out : s->in, bytes ? 3 : 2);
	wait_for(0);
	d->len = BLOCK;
	say("x");
	say_number(s->resp.response ? 1000u + s->resp.response : s->resp.status);
	say_number(s->resp.sense_len ? s->resp.sense[2] & 15u : 0);
	say_number(s->resp.sense_len ? s->resp.sense[12] : 0);
	say_number(s->resp.sense_len ? s->resp.sense[13] : 0);
	if (!write && bytes)
		say_hex(data[s - slot], bytes < 64 ? bytes : 64);
	say("\n");
}

static void test_unit(void)
{
	struct slot *s = single(TUR, 0, false);

	say("t");
	if (good(s)) {
		say(" ok");
	} else {
		say_number(s->resp.sense[2] & 15u);
		say_number(s->resp.sense[12]);
		say_number(s->resp.sense[13]);
	}
	say("\n");
}

static void reserve_out(const char *p)
{
	struct slot *s = take_slot(PR_OUT);
	uint8_t *d = data[s - slot];
	uint32_t key, new_key, action, type, flags;

	p = parse(p, &key);
	p = parse(p, &new_key);
	p = parse(p, &action);
	p = parse(p, &type);
	parse(p, &flags);
	memset(s->req.cdb + 1, 0, 15);
	s->req.cdb[1] = (uint8_t)action;
	s->req.cdb[2] = (uint8_t)type;
	s->req.cdb[8] = 24;
	memset(d, 0, 24);
	put_32(d + 4, key);
	put_32(d + 12, new_key);
	d[20] = (uint8_t)flags;
	send(s, s->out, 3);
	wait_for(0);
	say("P");
	if (good(s))
		say(" ok");
	else
		say_number(s->resp.status);
	say("\n");
}

static const uint8_t *reserve_in(uint8_t action)
{
	struct slot *s = take_slot(PR_IN);

	memset(s->req.cdb + 1, 0, 15);
	s->req.cdb[1] = action;
	s->req.cdb[8] = 64;
	send(s, s->in, 3);
	wait_for(0);
	if (!good(s))
		bad("PERSISTENT RESERVE IN", s);
	return data[s - slot];
}

static void reservations(void)
{
	const uint8_t *d = reserve_in(0);
	uint32_t n = d[7] / 8u, key = n ? d[15] | (uint32_t)d[14] << 8 : 0;

	d = reserve_in(1);
	say("K");
	say_number(n);
	say_number(key);
	say_number(d[7] ? d[21] : 0);
	say("\n");
}

static void sync_cache(void)
{
	struct slot *s = single(SYNC_16, 0, false);

	if (good(s))
		say("f ok\n");
	else
		bad("flush", s);
}

static void obey(const char *line)
{
	switch (line[0]) {
	case 'w':
	case 'r':
		range(line[0] == 'w', line + 1);
		break;
	case 'l':
		parse(line + 1, &lun);
		say("l ok\n");
		break;
	case 'L':
		report_luns(line + 1);
		break;
	case 'x':
	case 'X':
		any_command(line + 1, line[0] == 'X');
		break;
	case 'f':
		sync_cache();
		break;
	case 'F': /* one that may fail: what was written since the last is to be written again then */
		say(good(single(SYNC_16, 0, false)) ? "F ok\n" : "F failed\n");
		break;
	case 's':
		begin_storm(line + 1);
		break;
	case 'e':
		end_storm();
		break;
	case 'v':
		verify();
		break;
	case 'c':
		capacity();
		break;
	case 't':
		test_unit();
		break;
	case 'P':
		reserve_out(line + 1);
		break;
	case 'K':
		reservations();
		break;
	case 'p':
		power_off();
		break;
	default:
		say("bad: no such command\n");
	}
}

static void give_event_buffer(unsigned i)
{
	describe(&event_desc[i], &event_buffer[i], sizeof(event_buffer[i]), VRING_DESC_F_WRITE, 0);
	event_avail.ring[event_avail.idx % RING] = (uint16_t)i;
	barrier();
	event_avail.idx++;
	out16(notify_port, EVENTS);
}

static void look_at_events(void)
{
	while (events_seen != event_used.idx) {
		unsigned i = event_used.ring[events_seen++ % RING].id % EVENT_BUFFERS;

		say("event");
		say_number(event_buffer[i].event);
		say_number(event_buffer[i].reason);
		say_number(lun_of(event_buffer[i].lun + 2));
		say("\n");
		give_event_buffer(i);
	}
}

/* Looks at the serial port and the power button. */
static void look(void)
{
	static char line[160];
	static unsigned n;

	while (in8(0x3fd) & 1) {
		char c = (char)in8(0x3f8);

		if (c == '\n') {
			line[n] = 0;
			n = 0;
			obey(line);
		} else if (n < sizeof(line) - 1) {
			line[n++] = c;
		}
	}
	if (in16(0x600) & 0x100)
		power_off();
	look_at_events();
}

void guest_main(void)
{
	prepare_slots();
	start_device();
	for (unsigned i = 0; i < EVENT_BUFFERS; i++)
		give_event_buffer(i);
	for (unsigned i = 0; i < 8 && !good(single(TUR, 0, false)); i++)
		; /* the attention after a power-on */
	say("ready\n");
	for (unsigned turn = 0;; turn++) {
		if (storming)
			storm();
		if (!storming || turn % 64 == 0)
			look();
	}
}
