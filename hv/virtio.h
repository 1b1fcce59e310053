// SPDX-License-Identifier: Apache-2.0
/*
 * virtio.h: a virtio 1.x device as its transport (virtio_pci.h) sees it, and what each kind does.
 *
 * The transport keeps queues, features and status as the guest sets them. A device is told when
 * the driver is ready (`run`) and when the guest resets it (`reset`). A reset may take time: a
 * back-end still has requests under way, and until the last of them has ended the guest must not
 * reuse its memory. So the guest reads its old status until hv_virtio_reset_done (drivers wait for
 * 0, as virtio 1.2, 4.1.4.3.2 asks of them); no vCPU is ever blocked.
 *
 * Everything here happens under the machine's lock.
 */
#ifndef HV_VIRTIO_H
#define HV_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

#define HV_VIRTIO_QUEUES    18 /* control, event and 16 request queues */
#define HV_VIRTIO_NO_VECTOR 0xffff

struct hv_virtio;

struct hv_virtio_queue {
	uint16_t size_max, size; /* entries */
	bool enabled;
	uint64_t desc, driver, device; /* guest addresses as the guest wrote them: unchecked */
	uint16_t vector;
	int kick_fd; /* eventfd: the guest has work */
	int call_fd; /* eventfd: interrupts the guest */
	int gsi;     /* private to the transport: call_fd's route now, -1 none */
};

struct hv_virtio_ops {
	/* Offered bits. */
	uint64_t (*features)(struct hv_virtio *v);
	/* Device configuration; beyond its end reads are zero, writes ignored. */
	void (*config_read)(struct hv_virtio *v, uint32_t offset, void *dst, unsigned size);
	/* NULL: nothing of it is the guest's to write. */
	void (*config_write)(struct hv_virtio *v, uint32_t offset, uint64_t value, unsigned size);
	void (*run)(struct hv_virtio *v);
	/* Answer with hv_virtio_reset_done, at once or later. */
	void (*reset)(struct hv_virtio *v);
	/* The queue's kick_fd was written to. NULL: served elsewhere, nobody here polls for it. */
	void (*serve)(struct hv_virtio *v, unsigned queue);
};

struct hv_virtio {
	const struct hv_virtio_ops *ops; /* set by the device, as these five */
	uint16_t type;			 /* VIRTIO_ID_... */
	uint32_t pci_class;		 /* 24 bits */
	unsigned queues_n;
	struct hv_virtio_queue queue[HV_VIRTIO_QUEUES]; /* size_max */
	uint64_t driver_features;			/* accepted, valid from FEATURES_OK on */
	uint8_t status;					/* as the guest sees it */
	bool resetting;
	int config_fd; /* eventfd of the transport's: the configuration changed */
};

/* The guest may go on: its status reads 0, all queues are off. Harmless when no reset is waited for. */
void hv_virtio_reset_done(struct hv_virtio *v);
/* The device's configuration is another now; the driver is told. */
void hv_virtio_config_changed(struct hv_virtio *v);
/* DRIVER_OK is set, and no reset under way. */
bool hv_virtio_ready(const struct hv_virtio *v);

#endif
