// SPDX-License-Identifier: Apache-2.0
/* chans.c: channels to a volume's extents for one loop, counted. */
#include "vfs/chans.h"

#include <stdlib.h>

#include "base/loop.h"
#include "base/util.h"
#include "blockdev/blk.h"
#include "clusterfs/volume.h"

struct vfs_chans {
	struct cfs *fs;
	struct loop *loop;
	struct pool *pool;
	_Atomic unsigned refs;
	unsigned n;
	struct blk_chan *chan[CFS_MAX_EXTENTS];
};

int vfs_chans_open(struct cfs *fs, struct loop *loop, struct pool *pool, struct vfs_chans **out)
{
	struct vfs_chans *c = xcalloc(1, sizeof(*c));

	c->fs = fs;
	c->loop = loop;
	c->pool = pool;
	c->refs = 1;
	for (; c->n < fs->extents; c->n++) {
		int rc = blk_chan_open(fs->extent[c->n], loop, BLK_CHAN_DATA, &c->chan[c->n]);

		if (rc < 0) {
			while (c->n-- > 0)
				blk_chan_close(c->chan[c->n]);
			free(c);
			return rc;
		}
	}
	*out = c;
	return 0;
}

void vfs_chans_get(struct vfs_chans *chans)
{
	chans->refs++;
}

void vfs_chans_put(struct vfs_chans *chans)
{
	if (--chans->refs)
		return;
	for (unsigned i = 0; i < chans->n; i++)
		blk_chan_close(chans->chan[i]);
	free(chans);
}

struct cfs *vfs_chans_volume(struct vfs_chans *chans)
{
	return chans->fs;
}

struct loop *vfs_chans_loop(struct vfs_chans *chans)
{
	return chans->loop;
}

struct pool *vfs_chans_pool(struct vfs_chans *chans)
{
	return chans->pool;
}

unsigned vfs_chans_extents(const struct vfs_chans *chans)
{
	return chans->n;
}

struct blk_chan *vfs_chan(struct vfs_chans *chans, unsigned e)
{
	MUST(e < chans->n);
	return chans->chan[e];
}
