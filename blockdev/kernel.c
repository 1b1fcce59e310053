// SPDX-License-Identifier: Apache-2.0
/*
 * kernel.c: a block device as a LUN. io_uring for data; SG_IO for what only SCSI has (identity,
 * COMPARE AND WRITE, reading keys); IOC_PR_* for reservations, since they reach every path of a
 * multipath device. A request comes back when the kernel returns it, not before: its buffers are the
 * kernel's, so a stuck path stalls (DESIGN 5).
 *
 * A loop device is a file of this machine: compare-and-write and host locks go by OFD locks on the
 * device node, as file.c's do.
 */
#include "blockdev/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/pr.h>
#include <scsi/sg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "blockdev/casfile.h"
#include "blockdev/node.h"
#include "blockdev/offload.h"
#include "blockdev/scsi.h"
#include "blockdev/uring.h"

#define RAW_TIMEOUT_MS 600000 /* of a command that is passed through: a guest has its own */

struct blk_kernel {
	struct blk node;
	int fd;
	dev_t dev;
	bool scsi, loop;
	struct scsi_nexus nexus; /* SG_IO */
	struct scsi_limits limits;
	struct casfile *cas; /* loop */
	struct offload *offload;
	uint64_t key; /* registered, or 0 */
};

static struct blk_kernel *of(struct blk *blk)
{
	return container_of(blk, struct blk_kernel, node);
}

/* --- SG_IO ------------------------------------------------------------------------------------ */

static int sg_exec(struct scsi_nexus *nexus, struct scsi_cmd *cmd)
{
	static const int dirs[] = {[SCSI_NO_DATA] = SG_DXFER_NONE,
				   [SCSI_IN] = SG_DXFER_FROM_DEV,
				   [SCSI_OUT] = SG_DXFER_TO_DEV};
	struct blk_kernel *k = container_of(nexus, struct blk_kernel, nexus);
	uint8_t sense[64] = {0};
	struct sg_io_hdr io = {.interface_id = 'S',
			       .dxfer_direction = dirs[cmd->dir],
			       .cmd_len = (unsigned char)cmd->cdb_length,
			       .mx_sb_len = sizeof(sense),
			       .dxfer_len = cmd->length,
			       .dxferp = cmd->data,
			       .cmdp = cmd->cdb,
			       .sbp = sense,
			       .timeout = k->node.options.timeout_ms};

	if (ioctl(k->fd, SG_IO, &io) < 0)
		return -errno;
	if (io.host_status == 3) /* DID_TIME_OUT */
		return -ETIMEDOUT;
	if (io.host_status && io.status == SCSI_GOOD)
		return -ENOTCONN;
	cmd->status = io.status;
	cmd->got = cmd->length - (uint32_t)MAX(io.resid, 0);
	scsi_parse_sense(sense, io.sb_len_wr, &cmd->sense);
	return 0;
}

/* A command as it is; its data lie where the request's do. */
static int sg_raw(struct blk_kernel *k, struct blk_req *req)
{
	static const int dirs[] = {[BLK_DATA_NONE] = SG_DXFER_NONE,
				   [BLK_DATA_IN] = SG_DXFER_FROM_DEV,
				   [BLK_DATA_OUT] = SG_DXFER_TO_DEV};
	struct blk_scsi *s = req->scsi;
	struct sg_io_hdr io = {.interface_id = 'S',
			       .dxfer_direction = dirs[s->data],
			       .cmd_len = (unsigned char)s->cdb_length,
			       .mx_sb_len = BLK_SENSE_MAX,
			       .iovec_count = (unsigned short)req->iovcnt,
			       .dxfer_len = (unsigned)req->length,
			       .dxferp = (void *)req->iov,
			       .cmdp = s->cdb,
			       .sbp = s->sense,
			       .timeout = RAW_TIMEOUT_MS};

	if (blk_gate_shut(&k->node, req))
		return -ESTALE;
	if (ioctl(k->fd, SG_IO, &io) < 0)
		return errno == ENOTTY ? -EOPNOTSUPP : -EIO;
	if (io.host_status == 3) /* DID_TIME_OUT */
		return -ETIMEDOUT;
	if (io.host_status && io.status == SCSI_GOOD)
		return -ENOTCONN;
	s->status = io.status;
	s->sense_bytes = MIN(io.sb_len_wr, BLK_SENSE_MAX);
	s->moved = req->length - (uint64_t)MAX(io.resid, 0);
	return 0;
}

static int sg_cas(struct blk_kernel *k, struct blk_req *req)
{
	uint8_t *buf = xaligned(4096, 2 * req->length);
	struct scsi_cmd cmd = {.cdb = {0x89, k->limits.cas_fua ? 0x08 : 0},
			       .cdb_length = 16,
			       .dir = SCSI_OUT,
			       .data = buf,
			       .length = (uint32_t)(2 * req->length)};
	int rc;

	be64_put(cmd.cdb + 2, req->offset / req->length);
	cmd.cdb[13] = 1;
	memcpy(buf, req->iov[0].iov_base, req->length);
	memcpy(buf + req->length, req->iov[1].iov_base, req->length);
	do {
		if (blk_gate_shut(&k->node, req)) {
			rc = -ESTALE;
			break;
		}
		rc = k->nexus.exec(&k->nexus, &cmd);
		if (rc < 0) {
			req->maybe_done = true;
			break;
		}
		if (scsi_power_loss(cmd.status, &cmd.sense))
			atomic_fetch_add(k->nexus.power_count, 1);
		rc = scsi_errno(cmd.status, &cmd.sense);
	} while (scsi_resend(cmd.status, &cmd.sense) == SCSI_RESEND);
	if (cmd.status && scsi_resend(cmd.status, &cmd.sense) == SCSI_RESEND_ENDED)
		req->maybe_done = true;
	if (rc == 0 && !k->limits.cas_fua && fdatasync(k->fd) < 0) {
		req->maybe_done = true;
		rc = -EIO;
	}
	free(buf);
	return rc;
}

/* --- requests --------------------------------------------------------------------------------- */

static int blocking(struct blk_chan *chan, struct blk_req *req)
{
	struct blk_kernel *k = of(chan->blk);
	uint64_t range[2] = {req->offset, req->length};

	if (req->op == BLK_CAS)
		return sg_cas(k, req);
	if (req->op == BLK_SCSI)
		return sg_raw(k, req);
	if (blk_gate_shut(chan->blk, req))
		return -ESTALE;
	if (ioctl(k->fd, BLKDISCARD, range) == 0)
		return 0;
	req->maybe_done = true;
	return uring_errno(chan, req, -errno);
}

static void kernel_submit(struct blk_chan *chan, struct blk_req *req)
{
	struct blk_kernel *k = of(chan->blk);

	if (uring_submit(chan, req, k->fd))
		return;
	if (req->op == BLK_CAS && k->cas)
		casfile_submit(k->cas, chan, req);
	else if (req->op == BLK_SCSI && k->scsi)
		offload_submit(k->offload, req);
	else if (req->op == BLK_SCSI)
		blk_complete(req, -EOPNOTSUPP);
	else if (req->op == BLK_CAS ? chan->blk->info.cas == BLK_CAS_ATS : chan->blk->info.unmap)
		offload_submit(k->offload, req);
	else
		blk_complete(req, -EOPNOTSUPP);
}

static int kernel_host_lock(struct blk *blk, unsigned slot, bool lock)
{
	if (!of(blk)->loop)
		return fail(-EOPNOTSUPP, "LUN %s: host locks are for files of one machine",
			    blk->info.name);
	return casfile_host_lock(blk, of(blk)->fd, slot, lock);
}

/* --- reservations ----------------------------------------------------------------------------- */

static enum pr_type kernel_type(enum blk_pr_type type)
{
	return type == BLK_PR_WE_ALL_REGISTRANTS ? PR_WRITE_EXCLUSIVE_ALL_REGS
						 : PR_WRITE_EXCLUSIVE_REG_ONLY;
}

/* The ioctls answer -errno, or a positive SCSI status. */
static int pr_result(struct blk *blk, const char *what, int rc)
{
	if (rc == 0)
		return 0;
	if (rc == SCSI_RESERVATION_CONFLICT || (rc < 0 && errno == EBADE))
		return -EBADE;
	if (rc > 0)
		return fail(-EIO, "LUN %s: %s: status %02xh", blk->info.name, what, rc);
	rc = errno == ENOTTY || errno == EOPNOTSUPP ? -EOPNOTSUPP : -errno;
	return fail(rc, "LUN %s: %s: %s", blk->info.name, what, strerror(-rc));
}

static int register_key(struct blk *blk, uint64_t key)
{
	struct pr_registration reg = {.new_key = key, .flags = PR_FL_IGNORE_KEY};

	return pr_result(blk, "register", ioctl(of(blk)->fd, IOC_PR_REGISTER, &reg));
}

/* One nexus a path, the kernel's: there is no later session that would need a look. */
static int kernel_pr_register(struct blk *blk, uint64_t key, int (*look)(void *arg), void *arg)
{
	int rc = register_key(blk, key);

	(void)look;
	(void)arg;
	if (rc == 0)
		of(blk)->key = key;
	return rc;
}

static int kernel_pr_unregister(struct blk *blk)
{
	of(blk)->key = 0;
	return register_key(blk, 0);
}

static int kernel_pr_reserve(struct blk *blk, enum blk_pr_type type)
{
	struct pr_reservation res = {.key = of(blk)->key, .type = kernel_type(type)};

	return pr_result(blk, "reserve", ioctl(of(blk)->fd, IOC_PR_RESERVE, &res));
}

static int kernel_pr_read(struct blk *blk, struct blk_pr_state *out)
{
	if (!of(blk)->scsi)
		return fail(-EOPNOTSUPP, "LUN %s: its keys cannot be read", blk->info.name);
	return scsi_pr_read(&of(blk)->nexus, out);
}

static int kernel_pr_preempt(struct blk *blk, enum blk_pr_type type, uint64_t victim_key)
{
	struct pr_preempt p = {
		.old_key = victim_key, .new_key = of(blk)->key, .type = kernel_type(type)};
	int rc = pr_result(blk, "preempt", ioctl(of(blk)->fd, IOC_PR_PREEMPT, &p));

	if (rc == -EBADE && of(blk)->scsi) { /* absent, or is it our own key that is gone? */
		struct blk_pr_state *state = xcalloc(1, sizeof(*state));

		rc = scsi_pr_read(&of(blk)->nexus, state);
		if (rc == 0 && scsi_pr_has(state, victim_key))
			rc = -EBADE;
		free(state);
	}
	return rc;
}

static int kernel_pr_clear(struct blk *blk)
{
	struct pr_clear c = {.key = of(blk)->key};

	return pr_result(blk, "clear", ioctl(of(blk)->fd, IOC_PR_CLEAR, &c));
}

/* --- the node --------------------------------------------------------------------------------- */

static int kernel_rescan(struct blk *blk)
{
	return kernel_size(of(blk)->fd, &blk->info);
}

static void kernel_close(struct blk *blk)
{
	struct blk_kernel *k = of(blk);

	casfile_destroy(k->cas);
	offload_destroy(k->offload);
	if (k->fd >= 0)
		close(k->fd);
}

static const struct blk_ops kernel_ops = {
	.close = kernel_close,
	.rescan = kernel_rescan,
	.submit = kernel_submit,
	.host_lock = kernel_host_lock,
	.pr_register = kernel_pr_register,
	.pr_unregister = kernel_pr_unregister,
	.pr_reserve = kernel_pr_reserve,
	.pr_preempt = kernel_pr_preempt,
	.pr_read = kernel_pr_read,
	.pr_clear = kernel_pr_clear,
};

/* What SCSI says of it; the kernel's own geometry stays, it is what the kernel enforces. */
static int probe_scsi(struct blk_kernel *k)
{
	struct blk_info *info = &k->node.info, scsi = *info;
	struct scsi_cmd ready = {.cdb_length = 6};
	int rc;

	k->nexus = (struct scsi_nexus){.exec = sg_exec, .power_count = &k->node.power_count};
	if (scsi_run(&k->nexus, &ready) == -ENOTTY || k->nexus.exec(&k->nexus, &ready) < 0)
		return 0;
	rc = scsi_probe(&k->nexus, &k->node.options, &scsi, &k->limits);
	if (rc < 0)
		return rc;
	k->scsi = true;
	memcpy(info->id, scsi.id, sizeof(info->id));
	info->cas = scsi.cas == BLK_CAS_ATS ? BLK_CAS_ATS : BLK_CAS_NONE;
	info->reservations = scsi.reservations;
	info->preempt_abort = scsi.preempt_abort;
	info->zeroes_after_unmap = scsi.zeroes_after_unmap;
	return 0;
}

static int probe_loop(struct blk_kernel *k, const char *name)
{
	int fd, rc;

	k->loop = true;
	k->node.info.zeroes_after_unmap = k->node.info.unmap;
	if (k->node.options.read_only)
		return 0;
	fd = open(name, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		return fail(-errno, "LUN %s: %s", name, strerror(errno));
	rc = casfile_create(&k->cas, &k->node, fd);
	if (rc < 0)
		close(fd);
	k->node.info.cas = BLK_CAS_FILE;
	return rc;
}

static int probe(struct blk_kernel *k, const char *name)
{
	struct blk_info *info = &k->node.info;
	int rc = kernel_geometry(k->fd, k->dev, info);

	info->kind = BLK_KERNEL;
	if (rc < 0)
		return rc;
	kernel_warn_queueing(k->dev, name);
	if (kernel_loop_identity(k->fd, k->dev, info))
		rc = probe_loop(k, name);
	else
		rc = probe_scsi(k);
	if (rc == 0 && k->node.options.force_id)
		(void)str_format(info->id, sizeof(info->id), "%s", k->node.options.force_id);
	if (rc == 0 && !info->id[0] && kernel_sysfs_identity(k->dev, info) < 0)
		rc = fail(-EINVAL,
			  "LUN %s: has no NAA, EUI or serial number, so two paths to it could not "
			  "be told from two LUNs; name it by hand",
			  name);
	return rc;
}

int blk_kernel_open(const char *name, const struct blk_options *options, struct blk **out)
{
	struct blk_kernel *k = xcalloc(1, sizeof(*k));
	struct stat st;
	int rc = 0;

	blk_node_init(&k->node, &kernel_ops, name, options);
	k->fd = open(name, (options->read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
	if (k->fd < 0 || fstat(k->fd, &st) < 0)
		rc = fail(-errno, "LUN %s: %s", name, strerror(errno));
	if (rc == 0) {
		k->dev = st.st_rdev;
		rc = probe(k, name);
	}
	if (rc == 0)
		rc = offload_create(&k->offload, blocking);
	if (rc == 0)
		rc = blk_node_start(&k->node);
	if (rc < 0) {
		blk_node_free(&k->node);
		return rc;
	}
	*out = &k->node;
	return 0;
}
