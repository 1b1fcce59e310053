// SPDX-License-Identifier: Apache-2.0
/*
 * net_echo.c: a payload guest (see vmm.py) with a virtio-net device: answers ARP and ICMP echo for
 * 10.99.0.N, where N is the last byte of its MAC, by polling. Says "up" and its MAC; "announce" when the
 * device asks it to announce itself, which it does, and acknowledges; echoes what is typed on its
 * serial port. Whatever is wrong is said in a line that begins with "bad".
 *
 * It counts the frames that came in a page of its own, and writes into another for each: memory that is
 * to move along.
 */
#include <stdbool.h>
#include <stdint.h>

#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#define RING   64u
#define BUFFER 2048u
#define HEADER 12u

enum { RX, TX, CTRL };

struct avail {
	uint16_t flags, idx, ring[RING], event;
};
struct used {
	uint16_t flags, idx;
	struct vring_used_elem ring[RING];
	uint16_t event;
};
struct queue {
	struct vring_desc desc[RING] __attribute__((aligned(4096)));
	struct avail avail __attribute__((aligned(4096)));
	volatile struct used used __attribute__((aligned(4096)));
	uint16_t seen;
};

static struct queue queue[3];
static uint8_t rx_data[RING][BUFFER] __attribute__((aligned(4096)));
static uint8_t tx_data[RING][BUFFER] __attribute__((aligned(4096)));
static uint8_t frames[4096 * 16] __attribute__((aligned(4096)));
static struct {
	struct virtio_net_ctrl_hdr hdr;
	volatile uint8_t ack;
} ctrl;
static uint8_t stack[16384] __attribute__((aligned(16), used));
static volatile struct virtio_pci_common_cfg *common;
static volatile struct virtio_net_config *config;
static uint16_t notify_port;
static uint8_t mac[6];

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

static void say_hex(uint8_t b)
{
	static const char digits[] = "0123456789abcdef";
	const char text[] = {digits[b >> 4], digits[b & 15], 0};

	say(text);
}

/* --- the device -------------------------------------------------------------------------------- */

static uint32_t pci_read(unsigned dev, unsigned reg)
{
	out32(0xcf8, 0x80000000 | dev << 11 | reg);
	return in32(0xcfc);
}

static uint32_t gpa(const volatile void *p)
{
	return (uint32_t)(uintptr_t)p;
}

static void set_queue(unsigned q)
{
	common->queue_select = (uint16_t)q;
	common->queue_size = RING;
	common->queue_desc_lo = gpa(queue[q].desc);
	common->queue_desc_hi = 0;
	common->queue_avail_lo = gpa(&queue[q].avail);
	common->queue_avail_hi = 0;
	common->queue_used_lo = gpa(&queue[q].used);
	common->queue_used_hi = 0;
	common->queue_enable = 1;
}

static void put(unsigned q, uint16_t head)
{
	struct queue *r = &queue[q];

	r->avail.ring[r->avail.idx % RING] = head;
	__asm__ volatile("" : : : "memory");
	r->avail.idx++;
	__asm__ volatile("mfence" : : : "memory");
	if (!(r->used.flags & VRING_USED_F_NO_NOTIFY))
		out16(notify_port, (uint16_t)q);
}

static bool start_device(void)
{
	unsigned dev = 3;

	while (dev < 32 && pci_read(dev, 0) != 0x10411af4)
		dev++;
	if (dev == 32)
		return false;
	out32(0xcf8, 0x80000000 | dev << 11 | 4);
	out16(0xcfc, 7);
	notify_port = (uint16_t)(pci_read(dev, 0x10) & ~3u);
	uint32_t bar = pci_read(dev, 0x14) & ~15u;
	common = (void *)(uintptr_t)bar;
	config = (void *)(uintptr_t)(bar + 0x2000);
	common->device_status = 0;
	while (common->device_status)
		;
	common->device_status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	common->guest_feature_select = 0;
	common->guest_feature = 1u << VIRTIO_NET_F_MAC | 1u << VIRTIO_NET_F_MRG_RXBUF |
				1u << VIRTIO_NET_F_STATUS | 1u << VIRTIO_NET_F_CTRL_VQ |
				1u << VIRTIO_NET_F_GUEST_ANNOUNCE;
	common->guest_feature_select = 1;
	common->guest_feature = 1;
	common->device_status |= VIRTIO_CONFIG_S_FEATURES_OK;
	for (unsigned q = 0; q < 3; q++)
		set_queue(q);
	common->device_status |= VIRTIO_CONFIG_S_DRIVER_OK;
	for (unsigned i = 0; i < 6; i++)
		mac[i] = config->mac[i];
	for (unsigned i = 0; i < RING; i++) {
		queue[RX].desc[i] = (struct vring_desc){gpa(rx_data[i]), BUFFER, VRING_DESC_F_WRITE,
							0};
		put(RX, (uint16_t)i);
	}
	return true;
}

/* `frame` has room for the header before it. */
static void transmit(const uint8_t *frame, unsigned n)
{
	struct queue *r = &queue[TX];
	uint16_t i = r->avail.idx % RING;

	while ((uint16_t)(r->avail.idx - r->used.idx) >= RING)
		;
	memset(tx_data[i], 0, HEADER);
	memcpy(tx_data[i] + HEADER, frame, n);
	r->desc[i] = (struct vring_desc){gpa(tx_data[i]), HEADER + n, 0, 0};
	put(TX, i);
}

/* --- what it answers ------------------------------------------------------------------------------ */

static void fill_arp(uint8_t *f, uint8_t op, const uint8_t *to_mac, const uint8_t *to_ip)
{
	static const uint8_t head[] = {0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6, 4, 0x00};
	const uint8_t own[] = {10, 99, 0, mac[5]};

	memcpy(f, to_mac, 6);
	memcpy(f + 6, mac, 6);
	memcpy(f + 12, head, sizeof(head));
	f[21] = op;
	memcpy(f + 22, mac, 6);
	memcpy(f + 28, own, 4);
	memcpy(f + 32, to_mac, 6);
	memcpy(f + 38, to_ip, 4);
}

static bool ours(const uint8_t *ip)
{
	return ip[0] == 10 && ip[1] == 99 && ip[2] == 0 && ip[3] == mac[5];
}

static void answer(uint8_t *f, unsigned n)
{
	uint8_t out[60] = {0};

	if (n >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 1 && ours(f + 38)) {
		fill_arp(out, 2, f + 22, f + 28);
		transmit(out, sizeof(out));
		return;
	}
	if (n < 42 || f[12] != 8 || f[13] != 0 || f[14] != 0x45 || f[23] != 1 || f[34] != 8 ||
	    !ours(f + 30))
		return;
	memcpy(f, f + 6, 6);
	memcpy(f + 6, mac, 6);
	memcpy(f + 30, f + 26, 4);
	f[26] = 10;
	f[27] = 99;
	f[28] = 0;
	f[29] = mac[5];
	f[34] = 0;
	unsigned sum = (unsigned)(f[36] << 8 | f[37]) + 0x0800;
	sum = (sum & 0xffff) + (sum >> 16);
	f[36] = (uint8_t)(sum >> 8);
	f[37] = (uint8_t)sum;
	transmit(f, n);
}

static void receive(void)
{
	struct queue *r = &queue[RX];

	while (r->seen != r->used.idx) {
		const volatile struct vring_used_elem *e = &r->used.ring[r->seen % RING];
		uint16_t head = (uint16_t)e->id;
		uint32_t n = e->len;
		uint64_t *count = (void *)frames;

		r->seen++;
		if (n < HEADER + 14 || rx_data[head][10] != 1)
			say("bad: a frame\n");
		else
			answer(rx_data[head] + HEADER, n - HEADER);
		frames[4096 * (1 + ++*count % 15)]++;
		put(RX, head);
	}
}

static void tell_all(void)
{
	static const uint8_t all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	const uint8_t own[] = {10, 99, 0, mac[5]};
	uint8_t out[60] = {0};

	fill_arp(out, 1, all, own);
	transmit(out, sizeof(out));
}

static void announce(void)
{
	struct queue *r = &queue[CTRL];

	tell_all();
	ctrl.hdr.class = VIRTIO_NET_CTRL_ANNOUNCE;
	ctrl.hdr.cmd = VIRTIO_NET_CTRL_ANNOUNCE_ACK;
	ctrl.ack = 0xff;
	r->desc[0] = (struct vring_desc){gpa(&ctrl.hdr), 2, VRING_DESC_F_NEXT, 1};
	r->desc[1] = (struct vring_desc){gpa(&ctrl.ack), 1, VRING_DESC_F_WRITE, 0};
	put(CTRL, 0);
	while (r->used.idx != r->avail.idx)
		;
	say(ctrl.ack || config->status & VIRTIO_NET_S_ANNOUNCE ? "bad: no acknowledgement\n"
							       : "announce\n");
}

void guest_main(void)
{
	unsigned turn = 0;

	if (!start_device())
		say("bad: there is no virtio-net\n");
	else
		tell_all();
	say("up ");
	for (unsigned i = 0; i < 6; i++)
		say_hex(mac[i]);
	say(config->status & VIRTIO_NET_S_LINK_UP ? " link\n" : " no link\n");
	for (;;) {
		receive();
		if (++turn % 256)
			continue;
		if (config->status & VIRTIO_NET_S_ANNOUNCE)
			announce();
		if (in8(0x3fd) & 1)
			out8(0x3f8, in8(0x3f8));
	}
}
