// SPDX-License-Identifier: Apache-2.0
/* iscsi_sess.c: one session, used by a thread that may wait: login, commands, the end. */
#include "blockdev/iscsi.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"

/* --- names ------------------------------------------------------------------------------------ */

static int add_portal(struct iscsi_target *t, const char *p, size_t n)
{
	if (t->nportals == ARRAY_SIZE(t->portals) || n == 0 || n >= sizeof(t->portals[0]))
		return -EINVAL;
	memcpy(t->portals[t->nportals], p, n);
	t->portals[t->nportals++][n] = 0;
	return 0;
}

int iscsi_parse_url(const char *url, struct iscsi_target *out)
{
	static const char scheme[] = "iscsi://";
	const char *p = url + sizeof(scheme) - 1, *slash, *lun;
	char *end;
	long n;

	memset(out, 0, sizeof(*out));
	if (strncmp(url, scheme, sizeof(scheme) - 1) != 0 || !(slash = strchr(p, '/')))
		goto bad;
	if (memchr(p, '@', (size_t)(slash - p)))
		return fail(-EINVAL,
			    "LUN URL: no user or password in it; put \"user password\" into a "
			    "file and give --chap-file");
	while (p < slash) {
		size_t len = strcspn(p, ",/");

		if (add_portal(out, p, len) < 0)
			goto bad;
		p += len + (p[len] == ',');
	}
	lun = strchr(slash + 1, '/');
	if (!lun || lun == slash + 1 || (size_t)(lun - slash - 1) >= sizeof(out->iqn) ||
	    !out->nportals)
		goto bad;
	memcpy(out->iqn, slash + 1, (size_t)(lun - slash - 1));
	n = strtol(lun + 1, &end, 10);
	if (end == lun + 1 || *end || n < 0 || n > 16383)
		goto bad;
	out->lun = (int)n;
	return 0;
bad:
	return fail(-EINVAL, "LUN %s: not of the form iscsi://PORTAL[,PORTAL...]/IQN/LUN", url);
}

int iscsi_read_chap(const char *path, struct iscsi_target *out)
{
	FILE *f = fopen(path, "re");
	int n;

	if (!f)
		return fail(-errno, "CHAP file %s: %s", path, strerror(errno));
	n = fscanf(f, "%127s %127s", out->user, out->password);
	fclose(f);
	return n == 2 ? 0 : fail(-EINVAL, "CHAP file %s: not \"user password\" on one line", path);
}

/* --- waiting ---------------------------------------------------------------------------------- */

int isess_pump(struct isess *s, const bool *done, uint64_t deadline_ns)
{
	while (!*done) {
		struct pollfd p = {.fd = iscsi_get_fd(s->ctx),
				   .events = (short)iscsi_which_events(s->ctx)};
		uint64_t now = clock_boot_ns();
		int n;

		if (now >= deadline_ns) {
			s->lost = true;
			return -ETIMEDOUT;
		}
		n = poll(&p, 1, (int)MIN((deadline_ns - now) / NS_PER_MS + 1, 1000));
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0 && iscsi_service(s->ctx, p.revents) < 0 && !*done)
			s->lost = true;
		if (s->lost || iscsi_get_fd(s->ctx) < 0) {
			s->lost = true;
			return *done ? 0 : -ENOTCONN;
		}
	}
	return 0;
}

struct wait {
	bool done;
	int status;
};

static void step_done(struct iscsi_context *ctx, int status, void *data, void *private_data)
{
	struct wait *w = private_data;

	(void)ctx;
	(void)data;
	w->done = true;
	w->status = status;
}

static int step(struct isess *s, struct wait *w, int queued, uint64_t deadline_ns)
{
	int rc = queued < 0 ? -ENOTCONN : isess_pump(s, &w->done, deadline_ns);

	if (rc == 0 && w->status != SCSI_STATUS_GOOD)
		rc = -ECONNREFUSED;
	return rc;
}

static int try_portal(struct isess *s, const char *portal, const char *initiator, uint32_t isid,
		      unsigned index)
{
	uint64_t deadline = clock_boot_ns() + s->timeout_ms * NS_PER_MS;
	struct wait connect = {0}, login = {0};
	int rc;

	s->ctx = iscsi_create_context(initiator);
	MUST(s->ctx);
	iscsi_set_noautoreconnect(s->ctx, 1);
	iscsi_set_tcp_user_timeout(s->ctx, (int)s->timeout_ms);
	iscsi_set_targetname(s->ctx, s->target->iqn);
	iscsi_set_session_type(s->ctx, ISCSI_SESSION_NORMAL);
	iscsi_set_header_digest(s->ctx, ISCSI_HEADER_DIGEST_NONE_CRC32C);
	isid &= 0xffffff;
	index = ((uint32_t)s->target->lun * ISID_INDEXES + index) & 0xffff;
	iscsi_set_isid_random(s->ctx, isid, index);
	s->isid[0] = 0x80; /* "random", RFC 7143 11.12.5 */
	s->isid[1] = (uint8_t)(isid >> 16);
	be16_put(s->isid + 2, (uint16_t)isid);
	be16_put(s->isid + 4, (uint16_t)index);
	if (s->target->user[0])
		iscsi_set_initiator_username_pwd(s->ctx, s->target->user, s->target->password);
	rc = step(s, &connect, iscsi_connect_async(s->ctx, portal, step_done, &connect), deadline);
	if (rc == 0)
		rc = step(s, &login, iscsi_login_async(s->ctx, step_done, &login), deadline);
	if (rc < 0) {
		(void)fail(rc, "LUN %s: portal %s: %s: %s", s->name, portal,
			   connect.done && connect.status == 0 ? "login" : "connection",
			   rc == -ETIMEDOUT ? "no answer; check the network and the target"
					    : iscsi_get_error(s->ctx));
		isess_close(s, false);
		return rc;
	}
	s->fd = iscsi_get_fd(s->ctx);
	fcntl(s->fd, F_SETFD, FD_CLOEXEC);
	return 0;
}

/* --- commands --------------------------------------------------------------------------------- */

struct exec {
	struct scsi_cmd *cmd;
	bool done;
	bool answered;
};

static void exec_done(struct iscsi_context *ctx, int status, void *data, void *private_data)
{
	struct exec *x = private_data;
	struct scsi_task *task = data;

	(void)ctx;
	x->done = true;
	x->answered = status >= 0 && status <= 0xff;
	if (!x->answered)
		return;
	x->cmd->status = (uint8_t)status;
	x->cmd->sense = (struct scsi_sense_data){.key = (uint8_t)task->sense.key,
						 .asc = (uint8_t)(task->sense.ascq >> 8),
						 .ascq = (uint8_t)task->sense.ascq};
	if (x->cmd->dir == SCSI_IN && status == SCSI_GOOD) {
		x->cmd->got = MIN((uint32_t)task->datain.size, x->cmd->length);
		if (x->cmd->got)
			memcpy(x->cmd->data, task->datain.data, x->cmd->got);
	}
}

static int isess_exec(struct scsi_nexus *nexus, struct scsi_cmd *cmd)
{
	static const int dirs[] = {[SCSI_NO_DATA] = SCSI_XFER_NONE,
				   [SCSI_IN] = SCSI_XFER_READ,
				   [SCSI_OUT] = SCSI_XFER_WRITE};
	struct isess *s = container_of(nexus, struct isess, nexus);
	struct iscsi_data out = {.size = cmd->length, .data = cmd->data};
	struct exec x = {.cmd = cmd};
	struct scsi_task *task;
	int rc;

	cmd->got = 0;
	cmd->status = 0xff;
	if (s->lost)
		return -ENOTCONN;
	task = scsi_create_task((int)cmd->cdb_length, cmd->cdb, dirs[cmd->dir], (int)cmd->length);
	MUST(task);
	if (iscsi_scsi_command_async(s->ctx, s->target->lun, task, exec_done,
				     cmd->dir == SCSI_OUT ? &out : NULL, &x) < 0) {
		scsi_free_scsi_task(task);
		s->lost = true;
		return -ENOTCONN;
	}
	rc = isess_pump(s, &x.done, clock_boot_ns() + s->timeout_ms * NS_PER_MS);
	if (rc < 0 && !x.done) { /* its callback must not find this stack frame gone */
		iscsi_scsi_cancel_task(s->ctx, task);
		s->lost = true;
	} else if (!x.answered) {
		s->lost = true;
		rc = -ENOTCONN;
	}
	scsi_free_scsi_task(task);
	return rc;
}

int isess_read(struct isess *s, const struct blk_info *info, uint64_t offset, void *buf,
	       uint32_t length)
{
	struct scsi_cmd cmd = {
		.cdb = {0x88}, .cdb_length = 16, .dir = SCSI_IN, .data = buf, .length = length};
	int rc;

	be64_put(cmd.cdb + 2, offset / info->block_size);
	be32_put(cmd.cdb + 10, length / info->block_size);
	rc = scsi_run(&s->nexus, &cmd);
	return rc == 0 && cmd.got != length ? -EIO : rc;
}

/* --- beginning and end ------------------------------------------------------------------------ */

int isess_login(struct isess *s, const struct iscsi_target *target, const char *name,
		const char *initiator, uint32_t isid, unsigned index, unsigned timeout_ms)
{
	int rc = -EINVAL;

	for (unsigned i = 0; i < target->nportals; i++) {
		*s = (struct isess){.nexus = {.exec = isess_exec},
				    .target = target,
				    .name = name,
				    .fd = -1,
				    .timeout_ms = timeout_ms};
		rc = try_portal(s, target->portals[i], initiator, isid, index);
		if (rc == 0)
			return 0;
	}
	return rc;
}

void isess_close(struct isess *s, bool logout)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	struct wait w = {0};

	if (!s->ctx)
		return;
	if (logout && !s->lost && iscsi_logout_async(s->ctx, step_done, &w) == 0)
		(void)isess_pump(s, &w.done, clock_boot_ns() + 1000 * NS_PER_MS);
	/* Resets the connection: what lies unsent in the socket is not sent any more. */
	if (iscsi_get_fd(s->ctx) >= 0)
		(void)connect(iscsi_get_fd(s->ctx), &none, sizeof(none));
	iscsi_destroy_context(s->ctx);
	s->ctx = NULL;
	s->fd = -1;
	s->lost = true;
}
