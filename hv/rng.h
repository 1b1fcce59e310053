// SPDX-License-Identifier: Apache-2.0
/*
 * rng.h: virtio-rng (virtio 1.2, 5.4), the host kernel's random bytes. Served by the VMM itself:
 * somebody polls the queue's kick_fd and calls hv_rng_serve. All under the machine's lock.
 */
#ifndef HV_RNG_H
#define HV_RNG_H

#include "hv/virtio.h"

struct hv_gmem;
struct hv_rng;
struct hv_state_reader;
struct hv_state_writer;

void hv_rng_create(struct hv_rng **out, struct hv_gmem *gmem, uint16_t queue_size);
void hv_rng_destroy(struct hv_rng *rng);
struct hv_virtio *hv_rng_device(struct hv_rng *rng);
/* Answers what waits. A broken ring is left alone until the guest resets the device. */
void hv_rng_serve(struct hv_rng *rng);

/*
 * Section "rng". To be loaded after its transport; -EINVAL when a running device's ring lies
 * outside of guest memory.
 */
void hv_rng_save(const struct hv_rng *rng, unsigned instance, struct hv_state_writer *w);
int hv_rng_load(struct hv_rng *rng, unsigned instance, struct hv_state_reader *r);

#endif
