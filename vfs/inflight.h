// SPDX-License-Identifier: Apache-2.0
/*
 * inflight.h: which requests of a ring were taken and not answered, kept in memory that the client
 * holds for us and gives back after our restart (vhost-user spec, "Inflight I/O tracking"; the
 * steps there are cited by number below). So each request is answered exactly once, whenever the
 * daemon dies.
 *
 * The region is shared with the client: what is read from it is checked.
 */
#ifndef VFS_INFLIGHT_H
#define VFS_INFLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/vhost_user.h"

struct inflight {
	struct vhost_user_inflight_ring *ring; /* NULL: not tracked, all calls do nothing */
	unsigned size;			       /* entries of the ring, and of desc[] at least */
	uint64_t counter;		       /* of the next request taken */
	uint16_t batch;			       /* answered since the last publish */
};

/*
 * Begins on `region` for a ring of `size` whose used index in guest memory is `used_idx`. Fresh
 * memory is initialised (*resumed false). Else what an interrupted publish left half done is
 * finished, and heads[0..return) are those to take again, in the order they were taken first.
 * -EINVAL: the region makes no sense for this ring.
 */
int inflight_start(struct inflight *inf, void *region, unsigned size, uint16_t used_idx,
		   uint16_t *heads, bool *resumed);
/* Before a request is executed. */
void inflight_take(struct inflight *inf, uint16_t head);
/* When it is put into the used ring, before the used index moves. */
void inflight_put(struct inflight *inf, uint16_t head);
/* After the used index moved to `used_idx`. */
void inflight_published(struct inflight *inf, uint16_t used_idx);
/* The ring stopped with nothing in flight: the region is fresh for its next start. */
void inflight_end(struct inflight *inf);

#endif
