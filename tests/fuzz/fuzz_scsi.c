// SPDX-License-Identifier: Apache-2.0
/*
 * Commands made of garbage to a SCSI target: a sequence of {LUN and flags, CDB, sizes, data}. Each
 * is answered exactly once, moves no more than there is room for, and never reaches past the disk.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "vfs/scsi.h"

#define DISK 65536u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

struct fuzz_disk {
	struct vfs_disk disk;
	uint8_t data[DISK];
	struct vfs_req *held[256];
	unsigned held_count;
	bool hold;
};

static void execute(struct fuzz_disk *d, struct vfs_req *req)
{
	uint64_t at = 0;

	if (req->op != VFS_FLUSH)
		MUST(req->length && req->offset % 512 == 0 && req->length % 512 == 0 &&
		     req->offset < DISK && req->length <= DISK - req->offset);
	for (int i = 0; i < req->iovcnt; i++) {
		void *p = req->iov[i].iov_base;

		MUST(at + req->iov[i].iov_len <= req->length);
		if (req->op == VFS_READ)
			memcpy(p, d->data + req->offset + at, req->iov[i].iov_len);
		else if (req->op == VFS_WRITE)
			memcpy(d->data + req->offset + at, p, req->iov[i].iov_len);
		at += req->iov[i].iov_len;
	}
	MUST((req->op != VFS_READ && req->op != VFS_WRITE) || at == req->length);
	req->done(req, d->data[0] == 0xee ? -5 : 0);
}

static void submit(struct vfs_disk *disk, struct vfs_req *req)
{
	struct fuzz_disk *d = container_of(disk, struct fuzz_disk, disk);

	if (d->hold && d->held_count < ARRAY_SIZE(d->held))
		d->held[d->held_count++] = req;
	else
		execute(d, req);
}

static void release(struct fuzz_disk *d)
{
	d->hold = false;
	while (d->held_count)
		execute(d, d->held[--d->held_count]);
}

static void done(struct scsi_cmd *cmd)
{
	MUST(cmd->tag == 0); /* once */
	cmd->tag = 1;
	MUST(cmd->moved <= MAX(cmd->in_bytes, cmd->out_bytes) || cmd->out_bytes >= cmd->moved);
	MUST(cmd->status != SCSI_CHECK_CONDITION || cmd->sense_bytes == SCSI_SENSE);
}

static void store(struct vfs_disk *disk, const void *pr, size_t n,
		  void (*stored)(void *op, int res), void *op)
{
	(void)disk;
	(void)pr;
	MUST(n <= CONTROLLER_PR_BYTES);
	stored(op, 0);
}

struct one {
	struct scsi_cmd cmd;
	struct iovec out, in;
	uint8_t *out_data, *in_data;
};

/* Takes one command off the input; NULL at its end. */
static struct one *next(const uint8_t **bytes, size_t *size, unsigned *lun, bool *hold)
{
	struct one *o;
	const uint8_t *b = *bytes;
	size_t out, in, fill;

	if (*size < 20)
		return NULL;
	o = xaligned(16, sizeof(*o));
	*lun = b[0] & 1;
	*hold = b[0] & 2;
	o->cmd.attribute = b[0] & 4 ? SCSI_ORDERED : SCSI_SIMPLE;
	out = b[1] * 64u;
	in = b[2] * 64u;
	memcpy(o->cmd.cdb, b + 4, 16);
	*bytes += 20;
	*size -= 20;
	fill = MIN(out, MIN(*size, (size_t)b[3]));
	o->out_data = xaligned(512, out + 1);
	o->in_data = xaligned(512, in + 1);
	memcpy(o->out_data, *bytes, fill);
	*bytes += fill;
	*size -= fill;
	o->out = (struct iovec){o->out_data + (b[0] >> 3 & 1), out};
	o->in = (struct iovec){o->in_data + (b[0] >> 3 & 1), in};
	o->cmd.out = &o->out;
	o->cmd.in = &o->in;
	o->cmd.out_count = out != 0;
	o->cmd.in_count = in != 0;
	o->cmd.out_bytes = out;
	o->cmd.in_bytes = in;
	o->cmd.done = done;
	return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const struct vfs_disk_ops ops = {.submit = submit};
	struct fuzz_disk *d = xcalloc(1, sizeof(*d));
	struct scsi_target *t = scsi_target_new("fuzz", false);
	struct controller_lun o = {.pr_store = store};
	struct one *all[64];
	unsigned n = 0, lun;
	struct vfs_disk *disk;
	bool hold;

	d->disk.ops = &ops;
	d->disk.info.size = DISK;
	d->disk.info.block_size = 512;
	d->disk.info.grain = 4096;
	d->disk.info.discard_unit = 65536;
	MUST(scsi_attach(t, &d->disk, &o) == 0);
	while (n < ARRAY_SIZE(all) && (all[n] = next(&bytes, &size, &lun, &hold))) {
		if (hold)
			d->hold = true;
		else
			release(d);
		scsi_execute(t, lun, &all[n]->cmd);
		n++;
	}
	MUST(scsi_detach(t, 0, &disk) == 0 && disk == &d->disk);
	release(d);
	for (unsigned i = 0; i < n; i++) {
		MUST(all[i]->cmd.tag == 1);
		free(all[i]->out_data);
		free(all[i]->in_data);
		free(all[i]);
	}
	scsi_target_free(t);
	free(d);
	return 0;
}
