// SPDX-License-Identifier: Apache-2.0
/*
 * balloon.h: virtio-balloon (virtio 1.2, 5.5): the guest gives memory back, page by page when it is asked
 * to have less (inflate), by itself what it does not use (free-page reporting). Served by the VMM. All
 * calls under the machine's lock.
 *
 * What is given back is punched out of the memfd (hv/gmem.h), so that the host has it again; a page that
 * the guest takes back is zeroes at its next use. What the guest says of itself is believed by nobody: it
 * is shown, and it steers targets.
 */
#ifndef HV_BALLOON_H
#define HV_BALLOON_H

#include "base/vmctl.h"
#include "hv/virtio.h"

struct hv_balloon;
struct hv_gmem;
struct hv_state_reader;
struct hv_state_writer;

void hv_balloon_create(struct hv_balloon **out, struct hv_gmem *gmem, uint16_t queue_size);
void hv_balloon_destroy(struct hv_balloon *balloon);
struct hv_virtio *hv_balloon_device(struct hv_balloon *balloon);

/* The guest is to have `bytes` of its memory: the driver is told, and does it in its own time. */
void hv_balloon_set_target(struct hv_balloon *balloon, uint64_t bytes);
/* What is known. */
void hv_balloon_get(const struct hv_balloon *balloon, struct vmctl_balloon *out);
/* Asks the guest, which runs, for newer numbers. */
void hv_balloon_ask(struct hv_balloon *balloon);

/* Section "balloon". To be loaded after its transport; -EINVAL: rings that are none. */
void hv_balloon_save(const struct hv_balloon *balloon, unsigned instance,
		     struct hv_state_writer *w);
int hv_balloon_load(struct hv_balloon *balloon, unsigned instance, struct hv_state_reader *r);

#endif
