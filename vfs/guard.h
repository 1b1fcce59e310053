// SPDX-License-Identifier: Apache-2.0
/*
 * guard.h: shared memory of clients, mapped so that they cannot hurt us with it (INV-HV-1).
 *
 * Memory that its owner can still shrink raises SIGBUS in whoever touches what is gone; so does a
 * shortage of huge pages. Our own VMMs' memory is sealed, and unsealed memory is refused from
 * them. For everybody else a handler puts zeroes under the whole mapping and marks it: the code
 * that touched it goes on with zeroes, sees the mark soon after, and drops that client only.
 */
#ifndef VFS_GUARD_H
#define VFS_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct guard_map {
	uint8_t *base; /* byte 0 of the file; NULL: not mapped */
	size_t size;   /* mapped bytes */
	int slot;      /* private */
};

/* Installs the SIGBUS handler; once, before the first guard_map. Idempotent. */
void guard_install(void);
/*
 * Maps the first `size` bytes of `fd`, shared, aligned to 2 MiB, huge pages advised. -EINVAL: it
 * is shorter than that or no memory file; -EPERM: `sealed` asked for and F_SEAL_SHRINK is not set;
 * -ENOSPC: too many mappings. The descriptor stays the caller's.
 */
int guard_map(struct guard_map *map, int fd, uint64_t size, bool sealed);
void guard_unmap(struct guard_map *map);
/* The client took memory away behind our back: drop it. */
bool guard_was_hit(const struct guard_map *map);

#endif
