// SPDX-License-Identifier: Apache-2.0
/* The console's UART. Interrupts: received data and transmitter empty; modem lines stand still. */
#include "hv/serial.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "hv/bus.h"
#include "hv/kvm.h"
#include "hv/state.h"

#define PORT	    0x3f8
#define IRQ	    4
#define INPUT_BYTES 4096 /* kept for a guest that is slow to read; what a person pastes */

enum { RBR_THR_DLL = 0, IER_DLM, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

#define IER_RDI	   0x01
#define IER_THRI   0x02
#define IIR_NONE   0x01
#define IIR_THRI   0x02
#define IIR_RDI	   0x04
#define IIR_FIFO   0xc0
#define FCR_ENABLE 0x01
#define FCR_CLEAR  0x02
#define LCR_DLAB   0x80
#define MCR_LOOP   0x10
#define LSR_DR	   0x01
#define LSR_EMPTY  0x60 /* holding register and shifter */
#define MSR_QUIET  0xb0 /* carrier, data set ready, clear to send */

struct hv_serial {
	struct hv_region region;
	struct hv_kvm *kvm;
	void (*output)(void *opaque, uint8_t byte);
	void *opaque;
	uint8_t ier, lcr, mcr, scr, fcr, dll, dlm;
	bool thr_pending; /* "transmitter empty" not yet seen by the guest */
	bool line;	  /* IRQ 4 as last set */
	uint8_t in[INPUT_BYTES];
	size_t in_head, in_n;
};

static bool data_ready(const struct hv_serial *s)
{
	return s->in_n > 0;
}

static void update_irq(struct hv_serial *s)
{
	bool line = (s->ier & IER_RDI && data_ready(s)) || (s->ier & IER_THRI && s->thr_pending);

	if (line == s->line)
		return;
	s->line = line;
	hv_kvm_irq_line(s->kvm, IRQ, line);
}

static void put_input(struct hv_serial *s, uint8_t byte)
{
	if (s->in_n == INPUT_BYTES)
		return;
	s->in[(s->in_head + s->in_n++) % INPUT_BYTES] = byte;
}

static void transmit(struct hv_serial *s, uint8_t byte)
{
	if (s->mcr & MCR_LOOP)
		put_input(s, byte);
	else
		s->output(s->opaque, byte);
	s->thr_pending = true;
}

static uint8_t receive(struct hv_serial *s)
{
	uint8_t byte = s->in[s->in_head];

	if (!data_ready(s))
		return 0;
	s->in_head = (s->in_head + 1) % INPUT_BYTES;
	s->in_n--;
	return byte;
}

static uint8_t identify(struct hv_serial *s)
{
	uint8_t fifo = s->fcr & FCR_ENABLE ? IIR_FIFO : 0;

	if (s->ier & IER_RDI && data_ready(s))
		return fifo | IIR_RDI;
	if (s->ier & IER_THRI && s->thr_pending) {
		s->thr_pending = false;
		return fifo | IIR_THRI;
	}
	return fifo | IIR_NONE;
}

/* In loop-back the modem control outputs come back as inputs: how drivers find the device. */
static uint8_t modem_status(const struct hv_serial *s)
{
	if (!(s->mcr & MCR_LOOP))
		return MSR_QUIET;
	return (uint8_t)((s->mcr & 0x02) << 3 | (s->mcr & 0x01) << 5 | (s->mcr & 0x0c) << 4);
}

static uint8_t read_register(struct hv_serial *s, uint64_t offset)
{
	switch (offset) {
	case RBR_THR_DLL:
		return s->lcr & LCR_DLAB ? s->dll : receive(s);
	case IER_DLM:
		return s->lcr & LCR_DLAB ? s->dlm : s->ier;
	case IIR_FCR:
		return identify(s);
	case LCR:
		return s->lcr;
	case MCR:
		return s->mcr;
	case LSR:
		return LSR_EMPTY | (data_ready(s) ? LSR_DR : 0);
	case MSR:
		return modem_status(s);
	default:
		return s->scr;
	}
}

static void write_register(struct hv_serial *s, uint64_t offset, uint8_t value)
{
	switch (offset) {
	case RBR_THR_DLL:
		if (s->lcr & LCR_DLAB)
			s->dll = value;
		else
			transmit(s, value);
		break;
	case IER_DLM:
		if (s->lcr & LCR_DLAB) {
			s->dlm = value;
			break;
		}
		if (value & IER_THRI && !(s->ier & IER_THRI))
			s->thr_pending = true; /* it is empty now, and says so */
		s->ier = value & 0x0f;
		break;
	case IIR_FCR:
		s->fcr = value;
		if (value & FCR_CLEAR)
			s->in_n = 0;
		break;
	case LCR:
		s->lcr = value;
		break;
	case MCR:
		s->mcr = value & 0x1f;
		break;
	case SCR:
		s->scr = value;
		break;
	default:
		break; /* LSR, MSR: read only */
	}
}

static uint64_t serial_read(void *opaque, uint64_t offset, unsigned size)
{
	struct hv_serial *s = opaque;
	uint8_t value = read_register(s, offset);

	(void)size;
	update_irq(s);
	return value;
}

static void serial_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct hv_serial *s = opaque;

	(void)size;
	write_register(s, offset, (uint8_t)value);
	update_irq(s);
}

static const struct hv_region_ops serial_ops = {.read = serial_read, .write = serial_write};

void hv_serial_create(struct hv_serial **out, struct hv_bus *ports, struct hv_kvm *kvm,
		      void (*output)(void *opaque, uint8_t byte), void *opaque)
{
	struct hv_serial *s = xcalloc(1, sizeof(*s));

	s->kvm = kvm;
	s->output = output;
	s->opaque = opaque;
	s->region.ops = &serial_ops;
	s->region.opaque = s;
	hv_bus_map(ports, &s->region, PORT, 8);
	*out = s;
}

void hv_serial_destroy(struct hv_serial *serial)
{
	if (!serial)
		return;
	hv_bus_unmap(&serial->region);
	free(serial);
}

size_t hv_serial_input(struct hv_serial *s, const uint8_t *data, size_t n)
{
	size_t room = INPUT_BYTES - s->in_n;

	n = MIN(n, room);
	for (size_t i = 0; i < n; i++)
		put_input(s, data[i]);
	update_irq(s);
	return n;
}

/* --- saved state ------------------------------------------------------------------------------- */

void hv_serial_save(const struct hv_serial *s, struct hv_state_writer *w)
{
	hv_state_begin(w, "serial", 0, 1);
	hv_state_put8(w, s->ier);
	hv_state_put8(w, s->lcr);
	hv_state_put8(w, s->mcr);
	hv_state_put8(w, s->scr);
	hv_state_put8(w, s->fcr);
	hv_state_put8(w, s->dll);
	hv_state_put8(w, s->dlm);
	hv_state_put8(w, s->thr_pending);
	hv_state_put8(w, s->line);
	hv_state_put16(w, (uint16_t)s->in_n);
	for (size_t i = 0; i < s->in_n; i++)
		hv_state_put8(w, s->in[(s->in_head + i) % INPUT_BYTES]);
}

int hv_serial_load(struct hv_serial *s, struct hv_state_reader *r)
{
	int rc = hv_state_section(r, "serial", 0, 1);

	if (rc < 0)
		return rc;
	s->ier = hv_state_get8(r) & 0x0f;
	s->lcr = hv_state_get8(r);
	s->mcr = hv_state_get8(r) & 0x1f;
	s->scr = hv_state_get8(r);
	s->fcr = hv_state_get8(r);
	s->dll = hv_state_get8(r);
	s->dlm = hv_state_get8(r);
	s->thr_pending = hv_state_get8(r) & 1;
	s->line = hv_state_get8(r) & 1;
	size_t n = hv_state_get16(r);
	if (n > INPUT_BYTES)
		return hv_state_refuse(r, "more input than there is room");
	s->in_head = 0;
	s->in_n = n;
	hv_state_get(r, s->in, n);
	return hv_state_done(r);
}
