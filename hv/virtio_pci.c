// SPDX-License-Identifier: Apache-2.0
/*
 * The PCI transport. The guest writes whatever it likes into these registers, in any order and
 * size: indexes are checked at each use, addresses by whoever follows them.
 */
#include "hv/virtio_pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "hv/kvm.h"
#include "hv/msix.h"
#include "hv/pci.h"
#include "hv/state.h"
#include "hv/virtio.h"

#define NOTIFY_BAR   0
#define NOTIFY_BYTES 4
#define MEMORY_BAR   1
#define MEMORY_BYTES 0x8000
#define COMMON_AT    0x0000 /* in the memory BAR; each part has a page */
#define ISR_AT	     0x1000
#define DEVICE_AT    0x2000
#define DEVICE_BYTES 0x1000
#define MMIO_NOTIFY  0x3000
#define MSIX_AT	     0x4000
#define COMMON_BYTES 0x38 /* struct virtio_pci_common_cfg */

struct hv_virtio_pci {
	struct hv_pci_function function; /* first: callbacks get it */
	struct hv_virtio *dev;
	struct hv_kvm *kvm;
	struct hv_msix msix;
	unsigned cfg_cap; /* VIRTIO_PCI_CAP_PCI_CFG */
	uint32_t device_feature_select, driver_feature_select;
	uint64_t driver_features; /* as written; the device gets them at FEATURES_OK */
	uint16_t config_vector, queue_select;
	int config_gsi; /* of the device's config_fd; -1: none */
};

/* --- interrupts and kicks ---------------------------------------------------------------------- */

static void connect_interrupt(struct hv_virtio_pci *p, int fd, int *connected, uint16_t vector)
{
	int gsi = hv_msix_gsi(&p->msix, vector);

	if (gsi == *connected)
		return;
	if (*connected >= 0)
		hv_kvm_irqfd(p->kvm, fd, (unsigned)*connected, false);
	*connected = gsi;
	if (gsi >= 0 && hv_kvm_irqfd(p->kvm, fd, (unsigned)gsi, true))
		*connected = -1;
}

/* Connects each call eventfd to the interrupt it has now, or to none. */
static void update_interrupts(struct hv_virtio_pci *p)
{
	connect_interrupt(p, p->dev->config_fd, &p->config_gsi, p->config_vector);
	for (unsigned i = 0; i < p->dev->queues_n; i++) {
		struct hv_virtio_queue *q = &p->dev->queue[i];

		connect_interrupt(p, q->call_fd, &q->gsi, q->vector);
	}
}

void hv_virtio_config_changed(struct hv_virtio *v)
{
	if (hv_virtio_ready(v))
		eventfd_write(v->config_fd, 1);
}

static void connect_kicks(struct hv_virtio_pci *p, unsigned bar, uint64_t address, bool on)
{
	for (unsigned i = 0; i < p->dev->queues_n; i++) {
		int fd = p->dev->queue[i].kick_fd;

		/* Without an ioeventfd the access comes here and is passed on: slower, but right. */
		if (bar == NOTIFY_BAR)
			hv_kvm_ioeventfd(p->kvm, fd, true, address, (int)i, on);
		else
			hv_kvm_ioeventfd(p->kvm, fd, false, address + MMIO_NOTIFY, (int)i, on);
	}
}

static void bar_moved(struct hv_pci_function *f, unsigned bar, uint64_t old)
{
	struct hv_virtio_pci *p = container_of(f, struct hv_virtio_pci, function);

	if (old)
		connect_kicks(p, bar, old, false);
	if (f->bars[bar].address)
		connect_kicks(p, bar, f->bars[bar].address, true);
}

static void kick(struct hv_virtio_pci *p, uint64_t queue)
{
	if (queue < p->dev->queues_n)
		eventfd_write(p->dev->queue[queue].kick_fd, 1);
}

/* --- status ------------------------------------------------------------------------------------ */

static void clear_queues(struct hv_virtio *v)
{
	for (unsigned i = 0; i < v->queues_n; i++) {
		struct hv_virtio_queue *q = &v->queue[i];

		q->size = q->size_max;
		q->enabled = false;
		q->desc = q->driver = q->device = 0;
	}
}

void hv_virtio_reset_done(struct hv_virtio *v)
{
	if (!v->resetting)
		return;
	v->resetting = false;
	v->status = 0;
	v->driver_features = 0;
	clear_queues(v);
}

bool hv_virtio_ready(const struct hv_virtio *v)
{
	return v->status & VIRTIO_CONFIG_S_DRIVER_OK && !v->resetting;
}

static void reset(struct hv_virtio_pci *p)
{
	p->config_vector = HV_VIRTIO_NO_VECTOR;
	p->driver_features = 0;
	p->device_feature_select = p->driver_feature_select = p->queue_select = 0;
	for (unsigned i = 0; i < p->dev->queues_n; i++)
		p->dev->queue[i].vector = HV_VIRTIO_NO_VECTOR;
	update_interrupts(p);
	p->dev->resetting = true;
	p->dev->ops->reset(p->dev);
}

static uint64_t offered(struct hv_virtio *v)
{
	return v->ops->features(v) | 1ULL << VIRTIO_F_VERSION_1;
}

static void set_status(struct hv_virtio_pci *p, uint8_t status)
{
	struct hv_virtio *v = p->dev;

	if (v->resetting)
		return; /* the guest has to wait for 0 first */
	if (status == 0) {
		if (v->status)
			reset(p);
		return;
	}
	status |= v->status; /* 2.1.1: a driver clears no bit; else a device could be run twice */
	if (status & VIRTIO_CONFIG_S_FEATURES_OK && !(v->status & VIRTIO_CONFIG_S_FEATURES_OK)) {
		bool good = !(p->driver_features & ~offered(v)) &&
			    p->driver_features & 1ULL << VIRTIO_F_VERSION_1;
		if (good)
			v->driver_features = p->driver_features;
		else
			status &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
	}
	if (!(status & VIRTIO_CONFIG_S_FEATURES_OK))
		status &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
	bool run = status & VIRTIO_CONFIG_S_DRIVER_OK && !hv_virtio_ready(v);
	v->status = status;
	if (run)
		v->ops->run(v);
}

/* --- common configuration ---------------------------------------------------------------------- */

static struct hv_virtio_queue *selected(struct hv_virtio_pci *p)
{
	return p->queue_select < p->dev->queues_n ? &p->dev->queue[p->queue_select] : NULL;
}

static uint32_t half(uint64_t value, bool high)
{
	return (uint32_t)(high ? value >> 32 : value);
}

static void set_half(uint64_t *dst, bool high, uint32_t value)
{
	if (high)
		*dst = (*dst & UINT32_MAX) | (uint64_t)value << 32;
	else
		*dst = (*dst & ~(uint64_t)UINT32_MAX) | value;
}

static uint32_t queue_read(struct hv_virtio_pci *p, uint64_t offset)
{
	const struct hv_virtio_queue *q = selected(p);

	if (!q)
		return offset == VIRTIO_PCI_COMMON_Q_MSIX ? HV_VIRTIO_NO_VECTOR : 0;
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		return q->size;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		return q->vector;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return q->enabled;
	case VIRTIO_PCI_COMMON_Q_NOFF:
		return p->queue_select;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		return half(q->desc, offset == VIRTIO_PCI_COMMON_Q_DESCHI);
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		return half(q->driver, offset == VIRTIO_PCI_COMMON_Q_AVAILHI);
	case VIRTIO_PCI_COMMON_Q_USEDLO:
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		return half(q->device, offset == VIRTIO_PCI_COMMON_Q_USEDHI);
	default:
		return 0;
	}
}

static uint32_t common_read(struct hv_virtio_pci *p, uint64_t offset)
{
	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		return p->device_feature_select;
	case VIRTIO_PCI_COMMON_DF:
		return p->device_feature_select > 1
			       ? 0
			       : half(offered(p->dev), p->device_feature_select == 1);
	case VIRTIO_PCI_COMMON_GFSELECT:
		return p->driver_feature_select;
	case VIRTIO_PCI_COMMON_GF:
		return p->driver_feature_select > 1
			       ? 0
			       : half(p->driver_features, p->driver_feature_select == 1);
	case VIRTIO_PCI_COMMON_MSIX:
		return p->config_vector;
	case VIRTIO_PCI_COMMON_NUMQ:
		return p->dev->queues_n;
	case VIRTIO_PCI_COMMON_STATUS:
		return p->dev->status;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		return p->queue_select;
	default:
		return queue_read(p, offset);
	}
}

static uint16_t checked_vector(const struct hv_virtio_pci *p, uint32_t vector)
{
	return vector < p->msix.n ? (uint16_t)vector : HV_VIRTIO_NO_VECTOR;
}

/* Addresses and size stand still once a queue is enabled, until the device is reset. */
static void queue_write(struct hv_virtio_pci *p, uint64_t offset, uint32_t value)
{
	struct hv_virtio_queue *q = selected(p);

	if (!q || p->dev->resetting)
		return;
	if (offset == VIRTIO_PCI_COMMON_Q_MSIX) {
		q->vector = checked_vector(p, value);
		update_interrupts(p);
		return;
	}
	if (q->enabled)
		return;
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		if (value >= 2 && value <= q->size_max && !(value & (value - 1)))
			q->size = (uint16_t)value;
		break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		q->enabled = value == 1;
		break;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		set_half(&q->desc, offset == VIRTIO_PCI_COMMON_Q_DESCHI, value);
		break;
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		set_half(&q->driver, offset == VIRTIO_PCI_COMMON_Q_AVAILHI, value);
		break;
	case VIRTIO_PCI_COMMON_Q_USEDLO:
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		set_half(&q->device, offset == VIRTIO_PCI_COMMON_Q_USEDHI, value);
		break;
	default:
		break;
	}
}

static void common_write(struct hv_virtio_pci *p, uint64_t offset, uint32_t value)
{
	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		p->device_feature_select = value;
		break;
	case VIRTIO_PCI_COMMON_GFSELECT:
		p->driver_feature_select = value;
		break;
	case VIRTIO_PCI_COMMON_GF:
		if (p->driver_feature_select <= 1 &&
		    !(p->dev->status & VIRTIO_CONFIG_S_FEATURES_OK))
			set_half(&p->driver_features, p->driver_feature_select == 1, value);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		p->config_vector = checked_vector(p, value);
		update_interrupts(p);
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		set_status(p, (uint8_t)value);
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		p->queue_select = (uint16_t)value;
		break;
	default:
		queue_write(p, offset, value);
		break;
	}
}

/* --- the BARs ---------------------------------------------------------------------------------- */

static uint64_t memory_read(void *opaque, uint64_t offset, unsigned size)
{
	struct hv_virtio_pci *p = opaque;
	uint64_t value = 0;

	if (offset < ISR_AT) {
		if (offset >= COMMON_BYTES)
			return 0;
		if (size == 8)
			return common_read(p, offset) | (uint64_t)common_read(p, offset + 4) << 32;
		return common_read(p, offset);
	}
	if (offset < DEVICE_AT)
		return 0; /* ISR: no interrupt ever comes by a pin */
	if (offset < DEVICE_AT + DEVICE_BYTES)
		p->dev->ops->config_read(p->dev, (uint32_t)(offset - DEVICE_AT), &value, size);
	else if (offset >= MSIX_AT && offset < MSIX_AT + HV_MSIX_TABLE_BYTES)
		value = hv_msix_read(&p->msix, offset - MSIX_AT, size);
	return value;
}

static void memory_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct hv_virtio_pci *p = opaque;

	if (offset < COMMON_BYTES) {
		common_write(p, offset, (uint32_t)value);
		if (size == 8)
			common_write(p, offset + 4, (uint32_t)(value >> 32));
	} else if (offset >= DEVICE_AT && offset < DEVICE_AT + DEVICE_BYTES) {
		if (p->dev->ops->config_write)
			p->dev->ops->config_write(p->dev, (uint32_t)(offset - DEVICE_AT), value,
						  size);
	} else if (offset == MMIO_NOTIFY) {
		kick(p, value & 0xffff);
	} else if (offset >= MSIX_AT && offset < MSIX_AT + HV_MSIX_TABLE_BYTES) {
		hv_msix_write(&p->msix, offset - MSIX_AT, size, value);
		update_interrupts(p);
	}
}

static uint64_t notify_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return 0;
}

static void notify_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	(void)size;
	if (offset == 0)
		kick(opaque, value & 0xffff);
}

static const struct hv_region_ops memory_ops = {.read = memory_read, .write = memory_write};
static const struct hv_region_ops notify_ops = {.read = notify_read, .write = notify_write};

/* --- the window through configuration space (4.1.4.9), for firmware without mapped BARs --------- */

#define CFG_DATA offsetof(struct virtio_pci_cfg_cap, pci_cfg_data)

/* True when the window's fields make sense; they lie in config space, where the guest writes them. */
static bool window(struct hv_virtio_pci *p, unsigned offset, unsigned size, unsigned *bar,
		   uint64_t *at, unsigned *len)
{
	struct virtio_pci_cap cap;

	if (offset != p->cfg_cap + CFG_DATA)
		return false;
	memcpy(&cap, p->function.config + p->cfg_cap, sizeof(cap));
	*bar = cap.bar;
	*at = le32toh(cap.offset);
	*len = le32toh(cap.length);
	if ((*len != 1 && *len != 2 && *len != 4) || *len > size || *at % *len)
		return false;
	return (*bar == MEMORY_BAR && *at + *len <= MEMORY_BYTES) ||
	       (*bar == NOTIFY_BAR && *at + *len <= NOTIFY_BYTES);
}

static bool config_read(struct hv_pci_function *f, unsigned offset, unsigned size, uint32_t *value)
{
	struct hv_virtio_pci *p = container_of(f, struct hv_virtio_pci, function);
	unsigned bar, len;
	uint64_t at;

	if (!window(p, offset, size, &bar, &at, &len))
		return false;
	*value = bar == MEMORY_BAR ? (uint32_t)memory_read(p, at, len) : 0;
	return true;
}

static void config_written(struct hv_pci_function *f, unsigned offset, unsigned size)
{
	struct hv_virtio_pci *p = container_of(f, struct hv_virtio_pci, function);
	unsigned bar, len;
	uint64_t at;

	if (window(p, offset, size, &bar, &at, &len)) {
		uint32_t value = 0;
		memcpy(&value, f->config + offset, len);
		if (bar == MEMORY_BAR)
			memory_write(p, at, len, value);
		else
			notify_write(p, at, len, value);
	}
	if (offset < p->msix.cap + PCI_CAP_MSIX_SIZEOF && offset + size > p->msix.cap)
		update_interrupts(p);
}

/* --- creation ---------------------------------------------------------------------------------- */

static unsigned add_cap(struct hv_virtio_pci *p, uint8_t type, unsigned bar, uint32_t offset,
			uint32_t length, uint32_t extra, unsigned bytes)
{
	struct virtio_pci_notify_cap cap = {
		.cap = {.cap_len = (uint8_t)bytes,
			.cfg_type = type,
			.bar = (uint8_t)bar,
			.offset = htole32(offset),
			.length = htole32(length)},
		.notify_off_multiplier = htole32(extra),
	};

	return hv_pci_add_capability(&p->function, PCI_CAP_ID_VNDR, &cap, bytes);
}

static void add_caps(struct hv_virtio_pci *p)
{
	/*
	 * The same multiplier for both ways to notify: SeaBIOS takes the first one's address and the last
	 * one's multiplier.
	 */
	add_cap(p, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_BAR, 0, NOTIFY_BYTES, 0, 20);
	add_cap(p, VIRTIO_PCI_CAP_COMMON_CFG, MEMORY_BAR, COMMON_AT, COMMON_BYTES, 0, 16);
	add_cap(p, VIRTIO_PCI_CAP_ISR_CFG, MEMORY_BAR, ISR_AT, 4, 0, 16);
	add_cap(p, VIRTIO_PCI_CAP_DEVICE_CFG, MEMORY_BAR, DEVICE_AT, DEVICE_BYTES, 0, 16);
	add_cap(p, VIRTIO_PCI_CAP_NOTIFY_CFG, MEMORY_BAR, MMIO_NOTIFY, NOTIFY_BYTES, 0, 20);
	p->cfg_cap = add_cap(p, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0, 0, 20);
	p->function.writable[p->cfg_cap + offsetof(struct virtio_pci_cap, bar)] = 0xff;
	memset(p->function.writable + p->cfg_cap + offsetof(struct virtio_pci_cap, offset), 0xff,
	       12); /* offset, length, data */
}

static int create_queues(struct hv_virtio *v)
{
	v->config_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (v->config_fd < 0)
		return fail(-errno, "virtio: eventfd: %s", strerror(errno));
	for (unsigned i = 0; i < v->queues_n; i++) {
		struct hv_virtio_queue *q = &v->queue[i];

		q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		q->gsi = -1;
		q->vector = HV_VIRTIO_NO_VECTOR;
		if (q->kick_fd < 0 || q->call_fd < 0)
			return fail(-errno, "virtio: eventfd: %s", strerror(errno));
	}
	clear_queues(v);
	return 0;
}

int hv_virtio_pci_create(struct hv_virtio_pci **out, struct hv_virtio *device, struct hv_pci *pci,
			 struct hv_kvm *kvm, unsigned slot)
{
	const struct hv_pci_identity id = {
		.vendor = 0x1af4,
		.device = 0x1040 + device->type,
		.subsystem_vendor = 0x1af4,
		.subsystem = 0x1100,
		.class_code = device->pci_class,
		.revision = 1,
	};
	struct hv_virtio_pci *p = xcalloc(1, sizeof(*p));
	struct hv_pci_function *f = &p->function;

	MUST(device->queues_n <= HV_VIRTIO_QUEUES);
	p->dev = device;
	p->kvm = kvm;
	p->config_vector = HV_VIRTIO_NO_VECTOR;
	p->config_gsi = device->config_fd = -1;
	for (unsigned i = 0; i < device->queues_n; i++)
		device->queue[i].kick_fd = device->queue[i].call_fd = device->queue[i].gsi = -1;
	hv_pci_function_init(f, &id);
	f->bars[NOTIFY_BAR] = (struct hv_pci_bar){
		.io = true, .bytes = NOTIFY_BYTES, .region = {.ops = &notify_ops, .opaque = p}};
	f->bars[MEMORY_BAR] = (struct hv_pci_bar){.bytes = MEMORY_BYTES,
						  .region = {.ops = &memory_ops, .opaque = p}};
	f->bar_moved = bar_moved;
	f->config_read = config_read;
	f->config_written = config_written;
	add_caps(p);
	int rc = hv_msix_init(&p->msix, f, kvm, device->queues_n + 1, MEMORY_BAR, MSIX_AT);
	if (!rc)
		rc = create_queues(device);
	if (rc) {
		hv_virtio_pci_destroy(p);
		return rc;
	}
	hv_pci_add(pci, f, slot);
	*out = p;
	return 0;
}

void hv_virtio_pci_destroy(struct hv_virtio_pci *p)
{
	if (!p)
		return;
	p->config_vector = HV_VIRTIO_NO_VECTOR;
	for (unsigned i = 0; i < p->dev->queues_n; i++)
		p->dev->queue[i].vector = HV_VIRTIO_NO_VECTOR;
	if (p->function.pci) {
		update_interrupts(p);
		hv_pci_remove(&p->function);
	}
	util_close(&p->dev->config_fd);
	for (unsigned i = 0; i < p->dev->queues_n; i++) {
		util_close(&p->dev->queue[i].kick_fd);
		util_close(&p->dev->queue[i].call_fd);
	}
	free(p);
}

/* --- saved state ------------------------------------------------------------------------------- */

static void save_queue(const struct hv_virtio_queue *q, struct hv_state_writer *w)
{
	hv_state_put16(w, q->size);
	hv_state_put16(w, q->enabled);
	hv_state_put16(w, q->vector);
	hv_state_put64(w, q->desc);
	hv_state_put64(w, q->driver);
	hv_state_put64(w, q->device);
}

static void load_queue(struct hv_virtio_pci *p, struct hv_virtio_queue *q,
		       struct hv_state_reader *r)
{
	uint16_t size = hv_state_get16(r);

	if (size < 2 || size > q->size_max || size & (size - 1))
		r->bad = true;
	q->size = size;
	q->enabled = hv_state_get16(r) & 1;
	q->vector = checked_vector(p, hv_state_get16(r));
	q->desc = hv_state_get64(r);
	q->driver = hv_state_get64(r);
	q->device = hv_state_get64(r);
}

void hv_virtio_pci_save(const struct hv_virtio_pci *p, unsigned instance, struct hv_state_writer *w)
{
	const struct hv_virtio *v = p->dev;

	MUST(!v->resetting);
	hv_state_begin(w, "virtio", instance, 1);
	hv_state_put16(w, v->type);
	hv_state_put16(w, (uint16_t)v->queues_n);
	hv_pci_function_save(&p->function, w);
	hv_state_put32(w, p->device_feature_select);
	hv_state_put32(w, p->driver_feature_select);
	hv_state_put64(w, p->driver_features);
	hv_state_put64(w, v->driver_features);
	hv_state_put16(w, p->config_vector);
	hv_state_put16(w, p->queue_select);
	hv_state_put8(w, v->status);
	for (unsigned i = 0; i < v->queues_n; i++)
		save_queue(&v->queue[i], w);
	hv_msix_save(&p->msix, w);
}

int hv_virtio_pci_load(struct hv_virtio_pci *p, unsigned instance, struct hv_state_reader *r)
{
	struct hv_virtio *v = p->dev;
	int rc = hv_state_section(r, "virtio", instance, 1);

	if (rc < 0)
		return rc;
	if (hv_state_get16(r) != v->type || hv_state_get16(r) != v->queues_n)
		return hv_state_refuse(r, "it was saved by another device");
	rc = hv_pci_function_load(&p->function, r);
	if (rc)
		return rc;
	p->device_feature_select = hv_state_get32(r);
	p->driver_feature_select = hv_state_get32(r);
	p->driver_features = hv_state_get64(r);
	v->driver_features = hv_state_get64(r);
	p->config_vector = checked_vector(p, hv_state_get16(r));
	p->queue_select = hv_state_get16(r);
	v->status = hv_state_get8(r);
	for (unsigned i = 0; i < v->queues_n; i++)
		load_queue(p, &v->queue[i], r);
	hv_msix_load(&p->msix, r);
	rc = hv_state_done(r);
	/* A driver that goes on has agreed on its features; as set_status would have it. */
	if (!rc && v->status & VIRTIO_CONFIG_S_DRIVER_OK &&
	    !(v->status & VIRTIO_CONFIG_S_FEATURES_OK &&
	      v->driver_features & 1ULL << VIRTIO_F_VERSION_1))
		rc = hv_state_refuse(r, "a driver runs it without having agreed on features");
	if (!rc)
		update_interrupts(p);
	return rc;
}

void hv_virtio_pci_call_all(struct hv_virtio_pci *p)
{
	hv_virtio_config_changed(p->dev);
	for (unsigned i = 0; hv_virtio_ready(p->dev) && i < p->dev->queues_n; i++) {
		if (p->dev->queue[i].enabled)
			eventfd_write(p->dev->queue[i].call_fd, 1);
	}
}
