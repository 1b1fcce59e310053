// SPDX-License-Identifier: Apache-2.0
/*
 * agent.c: a payload guest (see vmm.py) with a guest agent of its own on the virtio port
 * org.qemu.guest_agent.0, which does as it is told on the serial port, a command a line:
 *
 *	o, c		opens, closes the port
 *	a		answers, as qemu-guest-agent does (at first)
 *	n		reads, but never answers
 *	g		answers everything with garbage
 *	e		endless: sends bytes without a newline for ever, once it was asked something
 *	d		deaf: puts up no more buffers, so that what is sent to it piles up
 *	s TEXT		sends TEXT and a newline as it is
 *	r COUNT		sends COUNT times 4096 bytes
 *	m LUN		LUN is mounted on /data; of a number over 1000: none is
 *	?		"frozen F thaws T shutdowns S"
 *	p		powers off
 *
 * It says "ready", "added", "named NAME", "host 0", "host 1", "asked REQUEST".
 */
#include <stdbool.h>
#include <stdint.h>

#include <linux/virtio_config.h>
#include <linux/virtio_console.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#define RING	16u /* entries; descriptor i is buffer i */
#define BUFFER	4096u
#define QUEUES	6u
#define REQUEST 65536u

enum { CONTROL_IN = 2, CONTROL_OUT, PORT_IN, PORT_OUT };

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
	uint8_t data[RING][BUFFER] __attribute__((aligned(4096)));
};

static struct queue queue[QUEUES];
static uint8_t stack[65536] __attribute__((aligned(16), used));
static volatile struct virtio_pci_common_cfg *common;
static uint16_t notify_port;
static char request[REQUEST];
static unsigned request_n;
static char mode = 'a';
static unsigned frozen, thaws, shutdowns, mounted = 1001;
static bool endless;

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
	"	mov $stack + 65536, %rsp\n"
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

static uint32_t pci_read(unsigned dev, unsigned reg)
{
	out32(0xcf8, 0x80000000 | dev << 11 | reg);
	return in32(0xcfc);
}

static uint32_t gpa(const volatile void *p)
{
	return (uint32_t)(uintptr_t)p;
}

static void kick(unsigned q)
{
	__asm__ volatile("mfence" : : : "memory");
	out16(notify_port, (uint16_t)q);
}

/* Hands buffer `i` of `n` bytes to the device. */
static void put(unsigned q, unsigned i, unsigned n, bool write)
{
	struct queue *u = &queue[q];

	u->desc[i] = (struct vring_desc){gpa(u->data[i]), n, write ? VRING_DESC_F_WRITE : 0, 0};
	u->avail.ring[u->avail.idx % RING] = (uint16_t)i;
	__asm__ volatile("" : : : "memory");
	u->avail.idx++;
}

/* The next buffer that came back, -1: none. */
static int take(unsigned q, unsigned *n)
{
	struct queue *u = &queue[q];

	if (u->seen == u->used.idx)
		return -1;
	unsigned i = u->used.ring[u->seen % RING].id;
	*n = u->used.ring[u->seen % RING].len;
	u->seen++;
	return (int)i;
}

static void start_device(void)
{
	unsigned dev = 3;

	while (dev < 32 && pci_read(dev, 0) != 0x10431af4)
		dev++;
	if (dev == 32) {
		say("bad: there is no virtio-console\n");
		return;
	}
	out32(0xcf8, 0x80000000 | dev << 11 | 4);
	out16(0xcfc, 7);
	notify_port = (uint16_t)(pci_read(dev, 0x10) & ~3u);
	common = (void *)(uintptr_t)(pci_read(dev, 0x14) & ~15u);
	common->device_status = 0;
	while (common->device_status)
		;
	common->device_status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	common->guest_feature_select = 0;
	common->guest_feature = 1u << VIRTIO_CONSOLE_F_MULTIPORT;
	common->guest_feature_select = 1;
	common->guest_feature = 1;
	common->device_status |= VIRTIO_CONFIG_S_FEATURES_OK;
	if (common->num_queues != QUEUES)
		say("bad: another number of queues\n");
	for (unsigned q = 0; q < QUEUES; q++) {
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
	common->device_status |= VIRTIO_CONFIG_S_DRIVER_OK;
	for (unsigned i = 0; i < RING; i++) {
		put(CONTROL_IN, i, BUFFER, true);
		put(PORT_IN, i, BUFFER, true);
	}
	kick(CONTROL_IN);
	kick(PORT_IN);
}

/* Waits until the device has read all of it. */
static void send(unsigned q, const void *data, unsigned n)
{
	while (n) {
		unsigned part = n < BUFFER ? n : BUFFER, unused;

		memcpy(queue[q].data[0], data, part);
		put(q, 0, part, false);
		kick(q);
		while (take(q, &unused) < 0)
			;
		data = (const uint8_t *)data + part;
		n -= part;
	}
}

static void send_control(unsigned id, unsigned event, unsigned value)
{
	const struct virtio_console_control c = {id, (uint16_t)event, (uint16_t)value};

	send(CONTROL_OUT, &c, sizeof(c));
}

static void hear_control(const uint8_t *data, unsigned n)
{
	struct virtio_console_control c;

	if (n < sizeof(c)) {
		say("bad: half a control message\n");
		return;
	}
	memcpy(&c, data, sizeof(c));
	if (c.event == VIRTIO_CONSOLE_PORT_ADD) {
		say("added");
		say_number(c.id);
		say("\n");
		send_control(c.id, VIRTIO_CONSOLE_PORT_READY, 1);
	} else if (c.event == VIRTIO_CONSOLE_PORT_NAME) {
		say("named ");
		say((const char *)data + sizeof(c));
		say("\n");
	} else if (c.event == VIRTIO_CONSOLE_PORT_OPEN) {
		say("host");
		say_number(c.value);
		say("\n");
	} else {
		say("bad: control message\n");
	}
}

/* --- the agent --------------------------------------------------------------------------------- */

static unsigned length(const char *s)
{
	unsigned n = 0;

	while (s[n])
		n++;
	return n;
}

static const char *find(const char *in, const char *what)
{
	for (; *in; in++) {
		unsigned i = 0;

		while (what[i] && in[i] == what[i])
			i++;
		if (!what[i])
			return in;
	}
	return 0;
}

static void answer(const char *text)
{
	send(PORT_OUT, text, length(text));
}

static void answer_number(const char *head, uint64_t n, const char *tail)
{
	char text[512], *p = text + sizeof(text);
	unsigned at = 0;

	*--p = 0;
	do
		*--p = (char)('0' + n % 10);
	while (n /= 10);
	for (; *head; head++)
		request[at++] = *head;
	for (; *p; p++)
		request[at++] = *p;
	for (; *tail; tail++)
		request[at++] = *tail;
	send(PORT_OUT, request, at);
}

static uint64_t number(const char *s)
{
	uint64_t n = 0;

	while (*s == ' ' || *s == ':' || *s == '"')
		s++;
	for (; *s >= '0' && *s <= '9'; s++)
		n = 10 * n + (uint64_t)(*s - '0');
	return n;
}

static void filesystems(void)
{
	if (mounted > 1000)
		answer("{\"return\": []}\n");
	else
		answer_number("{\"return\": [{\"name\": \"sdx\", \"mountpoint\": \"/data\", "
			      "\"type\": \"ext4\", \"disk\": [{\"bus-type\": \"scsi\", \"bus\": 0, "
			      "\"target\": 0, \"unit\": ",
			      mounted,
			      ", \"pci-controller\": {\"domain\": 0, \"bus\": 0, \"slot\": 3, "
			      "\"function\": 0}}]}]}\n");
}

static void obey(void)
{
	if (find(request, "guest-sync-delimited"))
		answer_number("\xff{\"return\": ", number(find(request, "\"id\"") + 4), "}\n");
	else if (find(request, "guest-ping"))
		answer("{\"return\": {}}\n");
	else if (find(request, "guest-get-osinfo"))
		answer("{\"return\": {\"id\": \"payload\", \"pretty-name\": \"Payload\\u0007 "
		       "1\"}}\n");
	else if (find(request, "guest-network-get-interfaces"))
		answer("{\"return\": [{\"name\": \"lo\", \"ip-addresses\": [{\"ip-address\": "
		       "\"127.0.0.1\", \"ip-address-type\": \"ipv4\", \"prefix\": 8}]}, {\"name\": "
		       "\"eth0\", \"hardware-address\": \"52:54:00:00:00:01\", \"ip-addresses\": "
		       "[{\"ip-address\": \"10.1.2.3\", \"ip-address-type\": \"ipv4\", \"prefix\": "
		       "24}, {\"ip-address\": \"fe80::1\", \"ip-address-type\": \"ipv6\", "
		       "\"prefix\": 64}, {\"ip-address\": \"no address\"}]}]}\n");
	else if (find(request, "guest-get-fsinfo"))
		filesystems();
	else if (find(request, "guest-fsfreeze-status"))
		answer(frozen ? "{\"return\": \"frozen\"}\n" : "{\"return\": \"thawed\"}\n");
	else if (find(request, "guest-fsfreeze-freeze"))
		answer_number("{\"return\": ", ++frozen, "}\n");
	else if (find(request, "guest-fsfreeze-thaw")) {
		thaws++;
		answer_number("{\"return\": ", frozen, "}\n");
		frozen = 0;
	} else if (find(request, "guest-shutdown")) {
		say("shutdown\n");
		power_off();
	} else
		answer("{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"never heard of "
		       "it\"}}\n");
}

static void asked(void)
{
	const char *name = find(request, "guest-");

	say("asked ");
	for (; name && *name && *name != '"'; name++)
		out8(0x3f8, (uint8_t)*name);
	say("\n");
	if (mode == 'a')
		obey();
	else if (mode == 'g')
		answer("\xff[[[{\"return\": nonsense]]\n\xff\n\xff{}\n");
	else if (mode == 'e')
		endless = true;
}

static void hear(const uint8_t *data, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (data[i] == 0xff) {
			request_n = 0;
		} else if (data[i] == '\n') {
			request[request_n] = 0;
			asked();
			request_n = 0;
		} else if (request_n < REQUEST / 2) {
			request[request_n++] = (char)data[i];
		}
	}
}

/* --- commands ---------------------------------------------------------------------------------- */

static void status(void)
{
	say("frozen");
	say_number(frozen);
	say(" thaws");
	say_number(thaws);
	say(" shutdowns");
	say_number(shutdowns);
	say("\n");
}

static void command(char *line, unsigned n)
{
	static uint8_t page[BUFFER];

	switch (line[0]) {
	case 'o':
	case 'c':
		endless = false;
		send_control(1, VIRTIO_CONSOLE_PORT_OPEN, line[0] == 'o');
		break;
	case 's':
		line[n++] = '\n';
		send(PORT_OUT, line + 2, n - 2);
		break;
	case 'r':
		for (uint64_t i = number(line + 1); i; i--)
			send(PORT_OUT, page, sizeof(page));
		break;
	case 'm':
		mounted = (unsigned)number(line + 1);
		break;
	case '?':
		status();
		break;
	case 'p':
		power_off();
		break;
	default:
		mode = line[0];
		break;
	}
	say("done ");
	out8(0x3f8, (uint8_t)line[0]);
	say("\n");
}

static void typed(void)
{
	static char line[256];
	static unsigned n;

	while (in8(0x3fd) & 1) {
		char c = (char)in8(0x3f8);

		if (c != '\n' && n < sizeof(line) - 2) {
			line[n++] = c;
		} else if (c == '\n') {
			line[n] = 0;
			command(line, n);
			n = 0;
		}
	}
}

void guest_main(void)
{
	unsigned n;
	int i;

	start_device();
	send_control(0xffffffff, VIRTIO_CONSOLE_DEVICE_READY, 1);
	say("ready\n");
	for (;;) {
		while ((i = take(CONTROL_IN, &n)) >= 0) {
			hear_control(queue[CONTROL_IN].data[i], n);
			put(CONTROL_IN, (unsigned)i, BUFFER, true);
			kick(CONTROL_IN);
		}
		while (mode != 'd' && (i = take(PORT_IN, &n)) >= 0) {
			hear(queue[PORT_IN].data[i], n);
			put(PORT_IN, (unsigned)i, BUFFER, true);
			kick(PORT_IN);
		}
		if (endless)
			answer("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
		typed();
		/* Where guests share processors with what they wait for. */
		__asm__ volatile("pause");
	}
}
