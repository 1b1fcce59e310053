// SPDX-License-Identifier: Apache-2.0
/* vhost_memory.c: a client's table of memory, alive as long as a request uses it. */
#include "vfs/vhost.h"

#include <errno.h>
#include <stdlib.h>

#include "base/err.h"

struct vhost_memory *vhost_memory_new(void)
{
	struct vhost_memory *m = xcalloc(1, sizeof(*m));

	m->refs = 1;
	return m;
}

int vhost_memory_add(struct vhost_memory *m, const struct vhost_user_mem_region *r, int fd,
		     bool sealed)
{
	unsigned i = m->mem.count;
	struct guest_region region = {.gpa = r->gpa,
				      .size = r->size,
				      .user_addr = r->user_addr,
				      .offset = r->mmap_offset};
	int rc;

	if (r->mmap_offset + r->size < r->size)
		return fail(-EINVAL, "guest memory: offset %#llx overflows",
			    (unsigned long long)r->mmap_offset);
	if (i == GUEST_MEM_REGIONS)
		return fail(-E2BIG, "guest memory: more than %d regions", GUEST_MEM_REGIONS);
	rc = guard_map(&m->map[i], fd, r->mmap_offset + r->size, sealed);
	if (rc < 0)
		return rc;
	region.host = m->map[i].base + r->mmap_offset;
	rc = guest_mem_add(&m->mem, &region);
	if (rc < 0)
		guard_unmap(&m->map[i]);
	return rc;
}

void vhost_memory_put(struct vhost_memory *m)
{
	if (!m || --m->refs)
		return;
	for (unsigned i = 0; i < m->mem.count; i++)
		guard_unmap(&m->map[i]);
	free(m);
}

bool vhost_memory_was_hit(const struct vhost_memory *m)
{
	for (unsigned i = 0; i < m->mem.count; i++)
		if (guard_was_hit(&m->map[i]))
			return true;
	return false;
}
