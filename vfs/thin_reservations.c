// SPDX-License-Identifier: Apache-2.0
/* thin_reservations.c: a disk's persistent reservations, stored with its file by a job in the pool. */
#include "vfs/thin_impl.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "clusterfs/cfs.h"

struct store {
	struct pool_job job;
	struct loop_work work;
	struct thin *thin;
	const void *bytes;
	size_t size;
	int rc;
	void (*stored)(void *op, int res);
	void *op;
};

static void store_ended(struct loop_work *work)
{
	struct store *s = container_of(work, struct store, work);
	struct thin *thin = s->thin;

	s->stored(s->op, s->rc);
	free(s);
	thin->in_flight--;
	thin_idle(thin);
}

static void store_job(struct pool_job *job)
{
	struct store *s = container_of(job, struct store, job);

	s->rc = cfs_store_reservations(s->thin->file, s->bytes, s->size);
	if (s->rc < 0)
		log_warn("vfs", "%s: its reservations are not stored: %s", s->thin->disk.info.name,
			 err_message(s->rc));
	loop_post(s->thin->disk.loop, &s->work);
}

void vfs_thin_store_reservations(struct vfs_disk *disk, const void *bytes, size_t size,
				 void (*stored)(void *op, int res), void *op)
{
	struct thin *thin = container_of(disk, struct thin, disk);
	struct store *s = xcalloc(1, sizeof(*s));

	*s = (struct store){.job.fn = store_job,
			    .work.fn = store_ended,
			    .thin = thin,
			    .bytes = bytes,
			    .size = size,
			    .stored = stored,
			    .op = op};
	thin->in_flight++;
	pool_submit(vfs_chans_pool(thin->chans), &s->job);
}
