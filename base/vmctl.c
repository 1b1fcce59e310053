// SPDX-License-Identifier: Apache-2.0
/*
 * Control messages to bytes and back. Every field is checked in both directions: the daemon does
 * not trust a VMM (a guest may have broken out of it), the VMM refuses what it could not run.
 */
#include "base/vmctl.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/vmctl_format.h"

static const char *const state_names[] = {
	[VMCTL_STATE_NEW] = "new",
	[VMCTL_STATE_CONFIGURED] = "configured",
	[VMCTL_STATE_RUNNING] = "running",
	[VMCTL_STATE_PAUSED] = "paused",
	[VMCTL_STATE_FROZEN] = "frozen",
	[VMCTL_STATE_RESET] = "reset",
	[VMCTL_STATE_POWERED_OFF] = "powered-off",
	[VMCTL_STATE_CRASHED] = "crashed",
};

static const char *const event_names[] = {
	[VMCTL_EVENT_POWERED_OFF] = "powered-off", [VMCTL_EVENT_RESET] = "reset",
	[VMCTL_EVENT_PANICKED] = "panicked",	   [VMCTL_EVENT_CRASHED] = "crashed",
	[VMCTL_EVENT_FROZEN] = "frozen",	   [VMCTL_EVENT_DEVICE] = "device",
	[VMCTL_EVENT_WATCHDOG] = "watchdog",
};

const char *vmctl_state_name(enum vmctl_state state)
{
	if ((size_t)state >= ARRAY_SIZE(state_names) || !state_names[state])
		return "unknown";
	return state_names[state];
}

const char *vmctl_event_name(enum vmctl_event_kind kind)
{
	if ((size_t)kind >= ARRAY_SIZE(event_names) || !event_names[kind])
		return "unknown";
	return event_names[kind];
}

static bool power_of_two(uint64_t x)
{
	return x && !(x & (x - 1));
}

/* --- what a CONFIG must be, whoever sends it --------------------------------------------------- */

static unsigned queues_max(enum vmctl_device_kind kind)
{
	switch (kind) {
	case VMCTL_DEVICE_SCSI:
	case VMCTL_DEVICE_BLK:
		return VMCTL_QUEUES_MAX;
	case VMCTL_DEVICE_RNG:
	case VMCTL_DEVICE_BALLOON:
	case VMCTL_DEVICE_AGENT:
		return 1;
	case VMCTL_DEVICE_NET:
		return VMCTL_NET_PAIRS_MAX;
	}
	return 0;
}

static int check_device(const struct vmctl_device *d, unsigned index)
{
	const unsigned max = queues_max(d->kind);

	if (!max)
		return fail(-EPROTO, "vm configuration: device %u: unknown kind %u", index,
			    (unsigned)d->kind);
	if (d->queues < 1 || d->queues > max)
		return fail(-EPROTO, "vm configuration: device %u: %u queues, 1 to %u can be",
			    index, d->queues, max);
	if (!power_of_two(d->queue_size) || d->queue_size < 2 || d->queue_size > 1024)
		return fail(-EPROTO,
			    "vm configuration: device %u: queue size %u is no power of two"
			    " from 2 to 1024",
			    index, d->queue_size);
	return 0;
}

static int check_part(const char *what, uint64_t gpa, uint64_t bytes, uint64_t memory_bytes)
{
	uint64_t low = vmctl_low_bytes(memory_bytes);

	if (gpa > low || bytes > low - gpa)
		return fail(-EPROTO, "vm configuration: %s lies outside of guest memory", what);
	return 0;
}

static int check_config(const struct vmctl_config *c)
{
	if (c->cpus < 1 || c->cpus > VMCTL_CPUS_MAX)
		return fail(-EPROTO, "vm configuration: %u cpus, 1 to %u can be", c->cpus,
			    VMCTL_CPUS_MAX);
	if (c->memory_bytes < VMCTL_MEMORY_MIN || c->memory_bytes % VMCTL_MEMORY_ALIGN ||
	    c->memory_bytes > 16 * TiB)
		return fail(-EPROTO,
			    "vm configuration: memory of %llu bytes is no multiple of 2 MiB",
			    (unsigned long long)c->memory_bytes);
	if (c->boot != VMCTL_BOOT_LINUX && c->boot != VMCTL_BOOT_NONE &&
	    c->boot != VMCTL_BOOT_FIRMWARE)
		return fail(-EPROTO, "vm configuration: unknown kind of boot %u",
			    (unsigned)c->boot);
	if (c->boot == VMCTL_BOOT_FIRMWARE &&
	    (c->setup_bytes < VMCTL_FIRMWARE_MIN || c->setup_bytes > VMCTL_FIRMWARE_MAX ||
	     c->setup_bytes % VMCTL_LOG_PAGE || c->setup_gpa + c->setup_bytes != MiB))
		return fail(-EPROTO, "vm configuration: firmware does not end at 1 MiB");
	int rc = check_part("setup", c->setup_gpa, c->setup_bytes, c->memory_bytes);
	if (!rc)
		rc = check_part("kernel", c->kernel_gpa, c->kernel_bytes, c->memory_bytes);
	if (!rc)
		rc = check_part("initrd", c->initrd_gpa, c->initrd_bytes, c->memory_bytes);
	if (rc)
		return rc;
	if (c->devices_n > VMCTL_DEVICES_MAX)
		return fail(-EPROTO, "vm configuration: %u devices, %u can be", c->devices_n,
			    VMCTL_DEVICES_MAX);
	for (unsigned i = 0; i < c->devices_n && !rc; i++)
		rc = check_device(&c->devices[i], i);
	return rc;
}

/* --- encode ------------------------------------------------------------------------------------ */

/* Each returns the payload's length. A text is cut, never refused: it is for people. */

static size_t put_text(uint8_t *p, const char *text, size_t at)
{
	size_t n = strnlen(text, VMCTL_TEXT_MAX);

	memcpy(p + at, text, n);
	return n;
}

static size_t encode_hello(const struct vmctl_hello *h, uint8_t *p)
{
	struct vmctl_wire_hello w = {
		.version = le32_of(h->version),
		.kind = le32_of(h->kind),
		.device = le32_of(h->device),
		.features = le64_of(h->features),
	};
	memcpy(p, &w, sizeof(w));
	return sizeof(w);
}

static size_t encode_config(const struct vmctl_config *c, uint8_t *p)
{
	size_t cmdline = strnlen(c->cmdline, VMCTL_CMDLINE_MAX);
	size_t at = sizeof(struct vmctl_wire_config);
	struct vmctl_wire_config w = {
		.cpus = le32_of(c->cpus),
		.boot = le32_of(c->boot),
		.memory_bytes = le64_of(c->memory_bytes),
		.setup_gpa = le64_of(c->setup_gpa),
		.setup_bytes = le64_of(c->setup_bytes),
		.kernel_gpa = le64_of(c->kernel_gpa),
		.kernel_bytes = le64_of(c->kernel_bytes),
		.initrd_gpa = le64_of(c->initrd_gpa),
		.initrd_bytes = le64_of(c->initrd_bytes),
		.devices_n = le32_of(c->devices_n),
		.cmdline_bytes = le32_of((uint32_t)cmdline),
	};
	memcpy(p, &w, sizeof(w));
	for (unsigned i = 0; i < c->devices_n; i++) {
		struct vmctl_wire_device d = {
			.kind = le16_of((uint16_t)c->devices[i].kind),
			.queues = le16_of(c->devices[i].queues),
			.queue_size = le16_of(c->devices[i].queue_size),
		};
		memcpy(p + at, &d, sizeof(d));
		at += sizeof(d);
	}
	memcpy(p + at, c->cmdline, cmdline);
	return at + cmdline;
}

static size_t encode_status(const struct vmctl_status *s, uint8_t *p)
{
	size_t text = put_text(p, s->text, sizeof(struct vmctl_wire_status));
	struct vmctl_wire_status w = {
		.version = le32_of(s->version),
		.state = le32_of(s->state),
		.features = le64_of(s->features),
		.pid = le32_of(s->pid),
		.boots = le32_of(s->boots),
		.flags = le32_of(s->panicked ? VMCTL_WIRE_PANICKED : 0),
		.text_bytes = le32_of((uint32_t)text),
		.devices_ready = le64_of(s->devices_ready),
		.devices_connected = le64_of(s->devices_connected),
		.console_lost = le64_of(s->console_lost),
		.start_ns = le64_of(s->start_ns),
		.first_output_ns = le64_of(s->first_output_ns),
	};
	memcpy(p, &w, sizeof(w));
	return sizeof(w) + text;
}

static size_t encode_text(uint32_t kind, uint32_t code, const char *words, uint8_t *p)
{
	size_t text = put_text(p, words, sizeof(struct vmctl_wire_text));
	struct vmctl_wire_text w = {
		.kind = le32_of(kind),
		.code = le32_of(code),
		.text_bytes = le32_of((uint32_t)text),
	};
	memcpy(p, &w, sizeof(w));
	return sizeof(w) + text;
}

static int encode_load(const struct vmctl_load *l, uint8_t *p)
{
	struct vmctl_wire_load w = {.bytes = le64_of(l->bytes),
				    .elapsed_ns = le64_of(l->elapsed_ns)};

	if (l->bytes < 1 || l->bytes > VMCTL_STATE_MAX)
		return -EINVAL;
	memcpy(p, &w, sizeof(w));
	return sizeof(w);
}

static size_t encode_set_balloon(const struct vmctl_balloon *b, uint8_t *p)
{
	struct vmctl_wire_set_balloon w = {.target = le64_of(b->target)};

	memcpy(p, &w, sizeof(w));
	return sizeof(w);
}

static size_t encode_machine(const struct vmctl_machine *m, uint8_t *p)
{
	struct vmctl_wire_machine w = {.flags = le32_of(m->nested ? VMCTL_WIRE_NESTED : 0),
				       .watchdog = le32_of(m->watchdog)};

	memcpy(p, &w, sizeof(w));
	return sizeof(w);
}

static size_t encode_balloon(const struct vmctl_balloon *b, uint8_t *p)
{
	struct vmctl_wire_balloon w = {
		.flags = le64_of(b->ready ? VMCTL_WIRE_BALLOON_READY : 0),
		.target = le64_of(b->target),
		.taken = le64_of(b->taken),
		.inflated = le64_of(b->inflated),
		.reported = le64_of(b->reported),
		.age_ns = le64_of(b->age_ns),
	};

	for (unsigned i = 0; i < VMCTL_BALLOON_STATS; i++)
		w.stat[i] = le64_of(b->stat[i]);
	memcpy(p, &w, sizeof(w));
	return sizeof(w);
}

static int encode_net(const struct vmctl_net *n, uint8_t *p)
{
	struct vmctl_wire_net w = {.device = le32_of(n->device), .mtu = le16_of(n->mtu)};

	memcpy(w.mac, n->mac, sizeof(w.mac));
	memcpy(p, &w, sizeof(w));
	return sizeof(w);
}

static int encode_payload(const struct vmctl_msg *msg, uint8_t *p)
{
	switch (msg->type) {
	case VMCTL_HELLO:
		return (int)encode_hello(&msg->hello, p);
	case VMCTL_CONFIG:
		if (check_config(&msg->config))
			return -EINVAL;
		return (int)encode_config(&msg->config, p);
	case VMCTL_START:
	case VMCTL_PAUSE:
	case VMCTL_RESUME:
	case VMCTL_POWER_BUTTON:
	case VMCTL_RESET:
	case VMCTL_KILL:
	case VMCTL_GET_STATUS:
	case VMCTL_LOG_START:
	case VMCTL_LOG_SYNC:
	case VMCTL_LOG_STOP:
	case VMCTL_SAVE:
	case VMCTL_GET_CPU:
	case VMCTL_NET_TAPS:
	case VMCTL_GET_BALLOON:
	case VMCTL_CAN_SAVE:
	case VMCTL_POSTCOPY:
	case VMCTL_POSTCOPY_END:
		return 0;
	case VMCTL_FAULTS: {
		le64 base = le64_of(msg->faults.base);

		memcpy(p, &base, sizeof(base));
		return sizeof(base);
	}
	case VMCTL_SET_BALLOON:
		return (int)encode_set_balloon(&msg->balloon, p);
	case VMCTL_BALLOON:
		return (int)encode_balloon(&msg->balloon, p);
	case VMCTL_NET:
	case VMCTL_NET_VHOST:
	case VMCTL_NET_TAKE:
		return encode_net(&msg->net, p);
	case VMCTL_LOAD:
		return encode_load(&msg->load, p);
	case VMCTL_SET_MACHINE:
		return (int)encode_machine(&msg->machine, p);
	case VMCTL_CPU:
	case VMCTL_SET_CPU:
		return (int)cpu_table_encode(&msg->cpu, p, VMCTL_PAYLOAD_MAX);
	case VMCTL_READY:
	case VMCTL_STATUS:
		return (int)encode_status(&msg->status, p);
	case VMCTL_EVENT:
		return (int)encode_text(msg->event.kind, msg->event.code, msg->event.text, p);
	case VMCTL_REPLY:
		return (int)encode_text((uint32_t)-msg->reply.err, msg->reply.value,
					msg->reply.text, p);
	case VMCTL_CONSOLE_INPUT:
	case VMCTL_CONSOLE_OUTPUT:
		if (msg->console.bytes > VMCTL_CONSOLE_CHUNK)
			return -EINVAL;
		memcpy(p, msg->console.data, msg->console.bytes);
		return (int)msg->console.bytes;
	}
	return -EINVAL;
}

int vmctl_encode(const struct vmctl_msg *msg, uint8_t *buf, size_t size)
{
	MUST(size >= VMCTL_HEADER_BYTES + VMCTL_PAYLOAD_MAX);
	int n = encode_payload(msg, buf + VMCTL_HEADER_BYTES);
	if (n < 0)
		return n;
	struct vmctl_wire_header h = {
		.magic = le32_of(VMCTL_MAGIC),
		.type = le16_of((uint16_t)msg->type),
		.bytes = le32_of((uint32_t)n),
		.tag = le32_of(msg->tag),
	};
	memcpy(buf, &h, sizeof(h));
	return n + VMCTL_HEADER_BYTES;
}

/* --- decode ------------------------------------------------------------------------------------ */

static int bad_size(const char *what, size_t bytes)
{
	return fail(-EPROTO, "control message: %s of %zu bytes is malformed", what, bytes);
}

/* A counted text that is the rest of the payload; control characters become '?'. */
static int get_text(const uint8_t *p, size_t bytes, uint32_t counted, char *dst, const char *what)
{
	if (counted != bytes || bytes > VMCTL_TEXT_MAX)
		return bad_size(what, bytes);
	for (size_t i = 0; i < bytes; i++)
		dst[i] = p[i] < 0x20 || p[i] == 0x7f ? '?' : (char)p[i];
	dst[bytes] = 0;
	return 0;
}

static int decode_hello(const uint8_t *p, size_t bytes, struct vmctl_hello *h)
{
	struct vmctl_wire_hello w;

	if (bytes != sizeof(w))
		return bad_size("HELLO", bytes);
	memcpy(&w, p, sizeof(w));
	*h = (struct vmctl_hello){
		.version = le32_get(w.version),
		.kind = le32_get(w.kind),
		.device = le32_get(w.device),
		.features = le64_get(w.features),
	};
	if (h->kind != VMCTL_KIND_CONTROL && h->kind != VMCTL_KIND_VHOST_USER &&
	    h->kind != VMCTL_KIND_AGENT)
		return fail(-EPROTO, "control message: HELLO of unknown kind %u",
			    (unsigned)h->kind);
	return 0;
}

static int decode_config(const uint8_t *p, size_t bytes, struct vmctl_config *c)
{
	struct vmctl_wire_config w;

	if (bytes < sizeof(w))
		return bad_size("CONFIG", bytes);
	memcpy(&w, p, sizeof(w));
	memset(c, 0, sizeof(*c));
	c->cpus = le32_get(w.cpus);
	c->boot = le32_get(w.boot);
	c->memory_bytes = le64_get(w.memory_bytes);
	c->setup_gpa = le64_get(w.setup_gpa);
	c->setup_bytes = le64_get(w.setup_bytes);
	c->kernel_gpa = le64_get(w.kernel_gpa);
	c->kernel_bytes = le64_get(w.kernel_bytes);
	c->initrd_gpa = le64_get(w.initrd_gpa);
	c->initrd_bytes = le64_get(w.initrd_bytes);
	c->devices_n = le32_get(w.devices_n);
	uint32_t cmdline = le32_get(w.cmdline_bytes);
	size_t at = sizeof(w);
	if (c->devices_n > VMCTL_DEVICES_MAX || cmdline > VMCTL_CMDLINE_MAX ||
	    bytes != at + c->devices_n * sizeof(struct vmctl_wire_device) + cmdline)
		return bad_size("CONFIG", bytes);
	for (unsigned i = 0; i < c->devices_n; i++) {
		struct vmctl_wire_device d;
		memcpy(&d, p + at, sizeof(d));
		at += sizeof(d);
		c->devices[i] = (struct vmctl_device){
			.kind = le16_get(d.kind),
			.queues = le16_get(d.queues),
			.queue_size = le16_get(d.queue_size),
		};
	}
	if (memchr(p + at, 0, cmdline))
		return fail(-EPROTO, "vm configuration: the command line holds a zero byte");
	memcpy(c->cmdline, p + at, cmdline);
	return check_config(c);
}

static int decode_status(const uint8_t *p, size_t bytes, struct vmctl_status *s)
{
	struct vmctl_wire_status w;

	if (bytes < sizeof(w))
		return bad_size("STATUS", bytes);
	memcpy(&w, p, sizeof(w));
	*s = (struct vmctl_status){
		.version = le32_get(w.version),
		.features = le64_get(w.features),
		.state = le32_get(w.state),
		.pid = le32_get(w.pid),
		.boots = le32_get(w.boots),
		.panicked = le32_get(w.flags) & VMCTL_WIRE_PANICKED,
		.devices_ready = le64_get(w.devices_ready),
		.devices_connected = le64_get(w.devices_connected),
		.console_lost = le64_get(w.console_lost),
		.start_ns = le64_get(w.start_ns),
		.first_output_ns = le64_get(w.first_output_ns),
	};
	if (s->state < VMCTL_STATE_NEW || s->state > VMCTL_STATE_CRASHED)
		return fail(-EPROTO, "control message: unknown state %u", (unsigned)s->state);
	return get_text(p + sizeof(w), bytes - sizeof(w), le32_get(w.text_bytes), s->text,
			"STATUS");
}

static int decode_event(const uint8_t *p, size_t bytes, struct vmctl_event *e)
{
	struct vmctl_wire_text w;

	if (bytes < sizeof(w))
		return bad_size("EVENT", bytes);
	memcpy(&w, p, sizeof(w));
	e->kind = le32_get(w.kind);
	e->code = le32_get(w.code);
	if (e->kind < VMCTL_EVENT_POWERED_OFF || e->kind > VMCTL_EVENT_WATCHDOG)
		return fail(-EPROTO, "control message: unknown event %u", (unsigned)e->kind);
	return get_text(p + sizeof(w), bytes - sizeof(w), le32_get(w.text_bytes), e->text, "EVENT");
}

static int decode_reply(const uint8_t *p, size_t bytes, struct vmctl_reply *r)
{
	struct vmctl_wire_text w;

	if (bytes < sizeof(w))
		return bad_size("REPLY", bytes);
	memcpy(&w, p, sizeof(w));
	if (le32_get(w.kind) > 4095)
		return bad_size("REPLY", bytes);
	r->err = -(int)le32_get(w.kind);
	r->value = le32_get(w.code);
	return get_text(p + sizeof(w), bytes - sizeof(w), le32_get(w.text_bytes), r->text, "REPLY");
}

static int decode_load(const uint8_t *p, size_t bytes, struct vmctl_load *l)
{
	struct vmctl_wire_load w;

	if (bytes != sizeof(w))
		return bad_size("LOAD", bytes);
	memcpy(&w, p, sizeof(w));
	l->bytes = le64_get(w.bytes);
	l->elapsed_ns = le64_get(w.elapsed_ns);
	if (l->elapsed_ns > VMCTL_ELAPSED_MAX)
		return fail(-EPROTO, "control message: LOAD of a state of long ago");
	if (l->bytes < 1 || l->bytes > VMCTL_STATE_MAX)
		return fail(-EPROTO, "control message: LOAD of a state of %llu bytes",
			    (unsigned long long)l->bytes);
	return 0;
}

static int decode_set_balloon(const uint8_t *p, size_t bytes, struct vmctl_balloon *b)
{
	struct vmctl_wire_set_balloon w;

	if (bytes != sizeof(w))
		return bad_size("SET_BALLOON", bytes);
	memcpy(&w, p, sizeof(w));
	*b = (struct vmctl_balloon){.target = le64_get(w.target)};
	return 0;
}

static int decode_balloon(const uint8_t *p, size_t bytes, struct vmctl_balloon *b)
{
	struct vmctl_wire_balloon w;

	if (bytes != sizeof(w))
		return bad_size("BALLOON", bytes);
	memcpy(&w, p, sizeof(w));
	*b = (struct vmctl_balloon){
		.ready = le64_get(w.flags) & VMCTL_WIRE_BALLOON_READY,
		.target = le64_get(w.target),
		.taken = le64_get(w.taken),
		.inflated = le64_get(w.inflated),
		.reported = le64_get(w.reported),
		.age_ns = le64_get(w.age_ns),
	};
	for (unsigned i = 0; i < VMCTL_BALLOON_STATS; i++)
		b->stat[i] = le64_get(w.stat[i]);
	return 0;
}

static int decode_net(const uint8_t *p, size_t bytes, struct vmctl_net *n)
{
	struct vmctl_wire_net w;

	if (bytes != sizeof(w))
		return bad_size("NET", bytes);
	memcpy(&w, p, sizeof(w));
	n->device = le32_get(w.device);
	n->mtu = le16_get(w.mtu);
	memcpy(n->mac, w.mac, sizeof(n->mac));
	if (n->device >= VMCTL_DEVICES_MAX)
		return fail(-EPROTO, "control message: NET for device %u", n->device);
	return 0;
}

static int decode_machine(const uint8_t *p, size_t bytes, struct vmctl_machine *m)
{
	struct vmctl_wire_machine w;

	if (bytes != sizeof(w))
		return bad_size("SET_MACHINE", bytes);
	memcpy(&w, p, sizeof(w));
	if (le32_get(w.flags) & ~(uint32_t)VMCTL_WIRE_NESTED ||
	    le32_get(w.watchdog) > VMCTL_WATCHDOG_REPORT)
		return fail(-EPROTO, "vm machine: asks for what this release does not know");
	m->nested = le32_get(w.flags) & VMCTL_WIRE_NESTED;
	m->watchdog = le32_get(w.watchdog);
	return 0;
}

static int decode_payload(const uint8_t *p, size_t bytes, struct vmctl_msg *msg)
{
	switch (msg->type) {
	case VMCTL_HELLO:
		return decode_hello(p, bytes, &msg->hello);
	case VMCTL_CONFIG:
		return decode_config(p, bytes, &msg->config);
	case VMCTL_START:
	case VMCTL_PAUSE:
	case VMCTL_RESUME:
	case VMCTL_POWER_BUTTON:
	case VMCTL_RESET:
	case VMCTL_KILL:
	case VMCTL_GET_STATUS:
	case VMCTL_LOG_START:
	case VMCTL_LOG_SYNC:
	case VMCTL_LOG_STOP:
	case VMCTL_SAVE:
	case VMCTL_GET_CPU:
	case VMCTL_NET_TAPS:
	case VMCTL_GET_BALLOON:
	case VMCTL_CAN_SAVE:
	case VMCTL_POSTCOPY:
	case VMCTL_POSTCOPY_END:
		return bytes ? bad_size("a request", bytes) : 0;
	case VMCTL_FAULTS: {
		le64 base;

		if (bytes != sizeof(base))
			return bad_size("FAULTS", bytes);
		memcpy(&base, p, sizeof(base));
		msg->faults.base = le64_get(base);
		return 0;
	}
	case VMCTL_SET_BALLOON:
		return decode_set_balloon(p, bytes, &msg->balloon);
	case VMCTL_BALLOON:
		return decode_balloon(p, bytes, &msg->balloon);
	case VMCTL_NET:
	case VMCTL_NET_VHOST:
	case VMCTL_NET_TAKE:
		return decode_net(p, bytes, &msg->net);
	case VMCTL_SET_MACHINE:
		return decode_machine(p, bytes, &msg->machine);
	case VMCTL_LOAD:
		return decode_load(p, bytes, &msg->load);
	case VMCTL_CPU:
	case VMCTL_SET_CPU:
		return cpu_table_decode(p, bytes, &msg->cpu);
	case VMCTL_READY:
	case VMCTL_STATUS:
		return decode_status(p, bytes, &msg->status);
	case VMCTL_EVENT:
		return decode_event(p, bytes, &msg->event);
	case VMCTL_REPLY:
		return decode_reply(p, bytes, &msg->reply);
	case VMCTL_CONSOLE_INPUT:
	case VMCTL_CONSOLE_OUTPUT:
		if (bytes > VMCTL_CONSOLE_CHUNK)
			return bad_size("console text", bytes);
		memcpy(msg->console.data, p, bytes);
		msg->console.bytes = (uint32_t)bytes;
		return 0;
	}
	return fail(-EPROTO, "control message: unknown type %u", (unsigned)msg->type);
}

int vmctl_decode(const uint8_t *buf, size_t bytes, struct vmctl_msg *msg)
{
	struct vmctl_wire_header h;

	if (bytes < sizeof(h))
		return 0;
	memcpy(&h, buf, sizeof(h));
	size_t payload = le32_get(h.bytes);
	if (le32_get(h.magic) != VMCTL_MAGIC || le16_get(h.flags) || payload > VMCTL_PAYLOAD_MAX)
		return fail(-EPROTO, "control message: no header of this protocol");
	if (bytes - sizeof(h) < payload)
		return 0;
	msg->type = le16_get(h.type);
	msg->tag = le32_get(h.tag);
	int rc = decode_payload(buf + sizeof(h), payload, msg);
	return rc ? rc : (int)(sizeof(h) + payload);
}
