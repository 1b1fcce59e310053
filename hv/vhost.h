// SPDX-License-Identifier: Apache-2.0
/*
 * vhost.h: a virtio device whose requests the daemon serves: the vhost-user front-end.
 *
 * Each device has a thread that talks to its back-end, because a back-end may take its time. The
 * daemon connects, and may die and connect again at any time: the guest runs on, its requests wait
 * in the rings, and the next connection gets everything anew: features, memory, rings, and the
 * in-flight area that the VMM kept (so that each request is answered exactly once).
 *
 * A guest's reset is answered only when the back-end has given the rings back, or, where it died
 * before it could, when a new one has connected: it accepts connections only after all of its
 * predecessor's commands have ended.
 *
 * To be saved a device is suspended: the rings are taken back (the back-end has answered all by then),
 * but the guest's driver knows nothing of it; hv_vhost_resume gives them again, to the same back-end
 * or to another one, here or where the state was loaded.
 *
 * The object lives as long as the VMM; machines come and go on it (hv_vhost_device).
 */
#ifndef HV_VHOST_H
#define HV_VHOST_H

#include <pthread.h>
#include <stdbool.h>

#include "hv/virtio.h"

struct hv_gmem;
struct hv_state_reader;
struct hv_state_writer;
struct hv_vhost;
struct vmctl_device;

struct hv_vhost_ops {
	/* Connected, dropped, or rings given back: look again. From the device's thread, no lock held. */
	void (*changed)(void *opaque);
	/* The back-end was dropped because of what it did. */
	void (*dropped)(void *opaque, unsigned index, const char *why);
};

/* `lock`: the machine's, also for all calls below. Borrows everything. */
int hv_vhost_create(struct hv_vhost **out, unsigned index, const struct vmctl_device *config,
		    struct hv_gmem *gmem, pthread_mutex_t *lock, const struct hv_vhost_ops *ops,
		    void *opaque);
/* Ends the thread; called without the lock. */
void hv_vhost_destroy(struct hv_vhost *vhost);

/* Takes the socket of a new back-end, whose predecessor is dropped. */
void hv_vhost_connect(struct hv_vhost *vhost, int fd);
/* A back-end is there and has said what it can. */
bool hv_vhost_connected(const struct hv_vhost *vhost);

/* The device, fresh, for a new machine. Only while hv_vhost_idle. */
struct hv_virtio *hv_vhost_device(struct hv_vhost *vhost);
/* The machine ends: takes the rings back from the back-end, as a reset by the guest does. */
void hv_vhost_stop(struct hv_vhost *vhost);
/* No back-end has rings of ours. */
bool hv_vhost_idle(const struct hv_vhost *vhost);

/* -ENOTCONN: it is at work for the guest, and there is no back-end that could give rings back. */
int hv_vhost_suspend(struct hv_vhost *vhost);
/* True when it is done; -ENOTCONN in *rc when the back-end went away before. */
bool hv_vhost_suspended(const struct hv_vhost *vhost, int *rc);
void hv_vhost_resume(struct hv_vhost *vhost);

/* Section "vhost" of its index; loaded after its transport, it is suspended then. */
void hv_vhost_save(const struct hv_vhost *vhost, struct hv_state_writer *w);
int hv_vhost_load(struct hv_vhost *vhost, struct hv_state_reader *r);

#endif
