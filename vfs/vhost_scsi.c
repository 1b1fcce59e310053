// SPDX-License-Identifier: Apache-2.0
/*
 * vhost_scsi.c: virtio-scsi's three kinds of queues: 0 control, 1 events, the rest requests.
 *
 * Nothing at a disk can be recalled, so ABORT TASK and resets are answered when the commands they
 * mean have ended by themselves: no attempt can touch memory or medium any more. Event buffers
 * are taken only when there is something to send; an event that finds none is dropped and
 * EVENTS_MISSED says so with the next, as it does after a restart of the daemon.
 */
#include "vfs/vhost_scsi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <linux/virtio_scsi.h>

#include "base/err.h"
#include "base/log.h"
#include "vfs/disk.h"
#include "vfs/scsi.h"

enum { CONTROL_QUEUE, EVENT_QUEUE, FIRST_REQUEST_QUEUE };

#define SEGMENTS	126u
#define COMMANDS	128u /* of one LUN, that a guest sends side by side */
#define EVENTS		64u  /* that wait for a buffer */
#define RESPONSE_PIECES 4u
#define KEPT_MAGIC	0x4b53u

struct vhost_scsi_event {
	struct list link;
	struct virtio_scsi_event event;
};

struct scsi_request {
	struct vhost_req req; /* first */
	struct iovec response[RESPONSE_PIECES];
	unsigned response_pieces;
	union {
		struct scsi_cmd cmd;
		struct {
			struct list link;
			uint32_t subtype;
			int lun; /* -1: all */
			uint64_t seq, tag;
		} task;
	};
};

/* At the end of the in-flight region: what a guest set and a new daemon must know. */
struct kept {
	uint16_t magic;
	uint8_t cache_off[CONTROLLER_LUNS / 8];
};
_Static_assert(sizeof(struct kept) <= VHOST_KEPT, "kept");

static struct vhost_scsi *scsi_of(struct vhost_device *dev)
{
	return container_of(dev, struct vhost_scsi, dev);
}

static struct scsi_request *of(struct vhost_req *req)
{
	return container_of(req, struct scsi_request, req);
}

/* The LUN that eight bytes name, or -VIRTIO_SCSI_S_... */
static int decode_lun(const uint8_t lun[8])
{
	if (lun[0] != 1 || lun[1] != 0)
		return -VIRTIO_SCSI_S_BAD_TARGET;
	if (lun[2] & 0x80) /* neither peripheral nor flat addressing */
		return -VIRTIO_SCSI_S_INCORRECT_LUN;
	return (lun[2] & 0x3f) << 8 | lun[3];
}

/* Where the answer goes: the first `bytes` the guest lets us write; false: too few, too torn. */
static bool response_place(struct scsi_request *r, size_t bytes)
{
	const struct iovec *in = r->req.iov + r->req.out;
	size_t covered = 0;
	unsigned n = 0;

	while (n < r->req.in && n < RESPONSE_PIECES && covered < bytes)
		covered += in[n++].iov_len;
	if (covered < bytes)
		return false;
	r->response_pieces = iov_slice(r->response, in, n, 0, bytes);
	return true;
}

static void respond(struct scsi_request *r, const void *response, size_t bytes, uint64_t data)
{
	iov_write(r->response, r->response_pieces, 0, response, bytes);
	vhost_req_done(&r->req, (uint32_t)(bytes + data));
}

/* --- what outlives the daemon ------------------------------------------------------------------ */

static void keep(struct vhost_scsi *scsi)
{
	struct kept kept = {.magic = KEPT_MAGIC};
	void *place = scsi->dev.session ? vhost_session_kept(scsi->dev.session) : NULL;

	if (!place)
		return;
	for (unsigned i = 0; i < CONTROLLER_LUNS; i++)
		if (scsi_disk(scsi->target, i) && !scsi_write_cache(scsi->target, i))
			kept.cache_off[i / 8] |= (uint8_t)(1u << i % 8);
	memcpy(place, &kept, sizeof(kept));
}

static void restore(struct vhost_scsi *scsi)
{
	const void *place = vhost_session_kept(scsi->dev.session);
	struct kept kept;

	if (!place)
		return;
	memcpy(&kept, place, sizeof(kept));
	if (kept.magic !=
	    KEPT_MAGIC) /* a client that is new here: its guest came from another host */
		keep(scsi);
	for (unsigned i = 0; kept.magic == KEPT_MAGIC && i < CONTROLLER_LUNS; i++)
		if (kept.cache_off[i / 8] >> i % 8 & 1)
			scsi_set_write_cache(scsi->target, i, false);
}

/* --- task management --------------------------------------------------------------------------- */

static void tmf_answer(struct scsi_request *r, uint8_t response)
{
	struct virtio_scsi_ctrl_tmf_resp resp = {.response = response};

	respond(r, &resp, sizeof(resp), 0);
}

static bool task_waits(const struct vhost_scsi *scsi, const struct scsi_request *r)
{
	bool one = r->task.subtype == VIRTIO_SCSI_T_TMF_ABORT_TASK;

	return scsi_busy(scsi->target, r->task.lun, r->task.seq, one ? &r->task.tag : NULL);
}

static void task_end(struct vhost_scsi *scsi, struct scsi_request *r)
{
	if (r->task.subtype == VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET ||
	    r->task.subtype == VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET)
		scsi_attention(scsi->target, r->task.lun, ASC_POWER_ON);
	tmf_answer(r, VIRTIO_SCSI_S_OK);
}

/* A command has ended: whoever waited for it may go. */
static void tasks_look(struct vhost_scsi *scsi)
{
	struct list *at = scsi->tasks.next;

	while (at != &scsi->tasks) {
		struct scsi_request *r = list_entry(at, struct scsi_request, task.link);

		at = at->next;
		if (task_waits(scsi, r))
			continue;
		list_del(&r->task.link);
		task_end(scsi, r);
	}
}

static void tmf(struct vhost_scsi *scsi, struct scsi_request *r,
		const struct virtio_scsi_ctrl_tmf_req *in)
{
	struct scsi_target *t = scsi->target;
	int lun = decode_lun(in->lun);
	uint64_t tag = in->tag;

	r->task.subtype = in->subtype;
	r->task.lun = in->subtype == VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET ? -1 : lun;
	r->task.tag = tag;
	r->task.seq = scsi_sequence(t);
	if (r->req.replay) {
		/* The commands it meant are only being taken again: let the guest ask once more. */
		tmf_answer(r, VIRTIO_SCSI_S_FAILURE);
		return;
	}
	if (lun < 0) {
		tmf_answer(r, (uint8_t)-lun);
		return;
	}
	switch (in->subtype) {
	case VIRTIO_SCSI_T_TMF_ABORT_TASK:
	case VIRTIO_SCSI_T_TMF_ABORT_TASK_SET:
	case VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET:
	case VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET:
		if (!scsi_disk(t, (unsigned)lun)) {
			tmf_answer(r, VIRTIO_SCSI_S_INCORRECT_LUN);
			return;
		}
		break;
	case VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET:
		break;
	case VIRTIO_SCSI_T_TMF_QUERY_TASK:
	case VIRTIO_SCSI_T_TMF_QUERY_TASK_SET:
		tmf_answer(r, scsi_busy(t, lun, r->task.seq,
					in->subtype == VIRTIO_SCSI_T_TMF_QUERY_TASK ? &tag : NULL)
				      ? VIRTIO_SCSI_S_FUNCTION_SUCCEEDED
				      : VIRTIO_SCSI_S_OK);
		return;
	default:
		tmf_answer(r, VIRTIO_SCSI_S_FUNCTION_REJECTED);
		return;
	}
	if (task_waits(scsi, r))
		list_add_tail(&scsi->tasks, &r->task.link);
	else
		task_end(scsi, r);
}

static void control(struct vhost_scsi *scsi, struct scsi_request *r)
{
	struct virtio_scsi_ctrl_an_resp an = {.response = VIRTIO_SCSI_S_OK};
	struct virtio_scsi_ctrl_tmf_req in = {.type = UINT32_MAX};
	size_t got = iov_read(r->req.iov, r->req.out, 0, &in, sizeof(in));

	if (got == sizeof(in) && in.type == VIRTIO_SCSI_T_TMF &&
	    response_place(r, sizeof(struct virtio_scsi_ctrl_tmf_resp))) {
		tmf(scsi, r, &in);
		return;
	}
	/* There are no asynchronous notifications to subscribe to. */
	if (got >= sizeof(struct virtio_scsi_ctrl_an_req) &&
	    (in.type == VIRTIO_SCSI_T_AN_QUERY || in.type == VIRTIO_SCSI_T_AN_SUBSCRIBE) &&
	    response_place(r, sizeof(an))) {
		respond(r, &an, sizeof(an), 0);
		return;
	}
	scsi->dev.stats.errors++;
	if (response_place(r, 1))
		tmf_answer(r, VIRTIO_SCSI_S_FAILURE);
	else
		vhost_req_done(&r->req, 0);
}

/* --- commands ---------------------------------------------------------------------------------- */

static void bad_command(struct vhost_scsi *scsi, struct scsi_request *r, int response)
{
	struct virtio_scsi_cmd_resp resp = {.response = (uint8_t)response};

	/* A driver's scan asks for targets that are not there: no error. */
	if (response != VIRTIO_SCSI_S_BAD_TARGET)
		scsi->dev.stats.errors++;
	respond(r, &resp, sizeof(resp), 0);
}

static void count(struct controller_stats *st, const struct scsi_cmd *cmd)
{
	switch (cmd->cdb[0]) {
	case 0x08:
	case 0x28:
	case 0xa8:
	case 0x88:
		st->reads++;
		st->read_bytes += cmd->moved;
		break;
	case 0x0a:
	case 0x2a:
	case 0xaa:
	case 0x8a:
		st->writes++;
		st->write_bytes += cmd->moved;
		break;
	case 0x35:
	case 0x91:
		st->flushes++;
		break;
	case 0x42:
	case 0x41:
	case 0x93:
		st->discards++;
		break;
	default:
		st->others++;
	}
	if (cmd->status == SCSI_CHECK_CONDITION && ((cmd->sense[2] & 15) == KEY_MEDIUM_ERROR ||
						    (cmd->sense[2] & 15) == KEY_HARDWARE_ERROR))
		st->errors++;
}

static void command_done(struct scsi_cmd *cmd)
{
	struct scsi_request *r = container_of(cmd, struct scsi_request, cmd);
	struct vhost_scsi *scsi = scsi_of(vhost_req_device(&r->req));
	struct virtio_scsi_cmd_resp resp = {.status = (uint8_t)cmd->status};
	uint64_t data = cmd->in_bytes ? cmd->in_bytes : cmd->out_bytes;

	count(&scsi->dev.stats, cmd);
	if (cmd->cdb[0] == 0x15 || cmd->cdb[0] == 0x55)
		keep(scsi);
	resp.response = cmd->overrun ? VIRTIO_SCSI_S_OVERRUN : VIRTIO_SCSI_S_OK;
	resp.resid = (uint32_t)(data - MIN(cmd->moved, data));
	resp.sense_len = cmd->sense_bytes;
	memcpy(resp.sense, cmd->sense, cmd->sense_bytes);
	respond(r, &resp, sizeof(resp), cmd->in_bytes ? cmd->moved : 0);
	if (!list_empty(&scsi->tasks))
		tasks_look(scsi);
}

static void command(struct vhost_scsi *scsi, struct scsi_request *r)
{
	struct vhost_req *req = &r->req;
	struct virtio_scsi_cmd_req in;
	struct iovec *data_in = req->iov + req->out, *data_out = req->iov;
	struct scsi_cmd *cmd = &r->cmd;
	int lun;

	if (!response_place(r, sizeof(struct virtio_scsi_cmd_resp))) {
		scsi->dev.stats.errors++;
		vhost_req_done(req, 0);
		return;
	}
	if (iov_read(req->iov, req->out, 0, &in, sizeof(in)) != sizeof(in)) {
		bad_command(scsi, r, VIRTIO_SCSI_S_FAILURE);
		return;
	}
	lun = decode_lun(in.lun);
	if (lun < 0) {
		bad_command(scsi, r, -lun);
		return;
	}
	cmd->out_count = req->out;
	cmd->in_count = req->in;
	vhost_trim_front(req, &data_out, &cmd->out_count, sizeof(in));
	vhost_trim_front(req, &data_in, &cmd->in_count, sizeof(struct virtio_scsi_cmd_resp));
	cmd->out = data_out;
	cmd->in = data_in;
	cmd->out_bytes = vhost_pieces_bytes(data_out, cmd->out_count);
	cmd->in_bytes = vhost_pieces_bytes(data_in, cmd->in_count);
	memcpy(cmd->cdb, in.cdb, sizeof(cmd->cdb));
	cmd->tag = in.tag;
	cmd->attribute = in.task_attr == VIRTIO_SCSI_S_ORDERED ? SCSI_ORDERED
			 : in.task_attr == VIRTIO_SCSI_S_HEAD  ? SCSI_HEAD_OF_QUEUE
							       : SCSI_SIMPLE;
	cmd->done = command_done;
	if (req->replay && !scsi_repeatable(cmd->cdb)) {
		/* It may have been done or not: the guest is to look (29/00) and ask again. */
		cmd->moved = 0;
		cmd->overrun = false;
		scsi_sense(cmd, KEY_UNIT_ATTENTION, ASC_POWER_ON);
		command_done(cmd);
		return;
	}
	scsi_execute(scsi->target, (unsigned)lun, cmd);
}

static void request(struct vhost_device *dev, struct vhost_session *s, struct vhost_req *req)
{
	(void)s;
	if (vhost_ring_index(req->ring) == CONTROL_QUEUE)
		control(scsi_of(dev), of(req));
	else
		command(scsi_of(dev), of(req));
}

static void bad_request(struct vhost_device *dev)
{
	dev->stats.errors++;
}

/* --- events ------------------------------------------------------------------------------------ */

static void send_events(struct vhost_scsi *scsi)
{
	while (scsi->missed || !list_empty(&scsi->events)) {
		struct vhost_req *req = vhost_ring_take(scsi->dev.session, EVENT_QUEUE);
		struct virtio_scsi_event event = {.event = VIRTIO_SCSI_T_NO_EVENT};

		if (!req)
			return;
		if (!list_empty(&scsi->events)) {
			struct vhost_scsi_event *e = list_first(&scsi->events,
								struct vhost_scsi_event, link);

			event = e->event;
			list_del(&e->link);
			free(e);
			scsi->event_count--;
		}
		if (scsi->missed)
			event.event |= VIRTIO_SCSI_T_EVENTS_MISSED;
		if (iov_write(req->iov + req->out, req->in, 0, &event, sizeof(event)) ==
		    sizeof(event)) {
			scsi->missed = false;
			vhost_req_done(req, sizeof(event));
		} else {
			scsi->missed = true; /* the buffer was too small for one */
			vhost_req_done(req, 0);
		}
	}
}

static bool listens(const struct vhost_scsi *scsi, unsigned feature)
{
	return scsi->dev.session && scsi->features >> feature & 1;
}

static void post_event(struct vhost_scsi *scsi, unsigned feature, unsigned type, unsigned lun,
		       unsigned reason)
{
	struct vhost_scsi_event *e;

	if (!listens(scsi, feature))
		return; /* a guest that comes later, or does not listen, scans */
	if (scsi->event_count == EVENTS) {
		scsi->missed = true;
		return;
	}
	e = xcalloc(1, sizeof(*e));
	e->event.event = type;
	e->event.reason = reason;
	e->event.lun[0] = 1;
	e->event.lun[2] = lun < 256 ? 0 : (uint8_t)(0x40 | lun >> 8);
	e->event.lun[3] = (uint8_t)lun;
	list_add_tail(&scsi->events, &e->link);
	scsi->event_count++;
	send_events(scsi);
}

static bool is_leaving(const struct vhost_scsi *scsi, unsigned lun)
{
	return scsi->leaving[lun / 8] >> lun % 8 & 1;
}

/* The guest is told that a LUN goes, or that it is there. */
static void announce(struct vhost_scsi *scsi, unsigned lun, bool leaving)
{
	scsi->leaving[lun / 8] &= (uint8_t) ~(1u << lun % 8);
	scsi->leaving[lun / 8] |= (uint8_t)(leaving << lun % 8);
	post_event(scsi, VIRTIO_SCSI_F_HOTPLUG, VIRTIO_SCSI_T_TRANSPORT_RESET, lun,
		   leaving ? VIRTIO_SCSI_EVT_RESET_REMOVED : VIRTIO_SCSI_EVT_RESET_RESCAN);
}

static void forget_events(struct vhost_scsi *scsi)
{
	struct vhost_scsi_event *e, *next;

	list_for_each_safe (e, next, &scsi->events, link) {
		list_del(&e->link);
		free(e);
	}
	scsi->event_count = 0;
	scsi->missed = false;
}

static bool manual_ring(struct vhost_device *dev, unsigned index)
{
	(void)dev;
	return index == EVENT_QUEUE;
}

static void kicked(struct vhost_device *dev, unsigned index)
{
	(void)index;
	send_events(scsi_of(dev));
}

static void ring_started(struct vhost_device *dev, struct vhost_ring *ring, bool fresh)
{
	struct vhost_scsi *scsi = scsi_of(dev);

	if (fresh)
		return;
	/* A driver that was running already: what happened meanwhile it has not heard. */
	if (vhost_ring_index(ring) == EVENT_QUEUE)
		scsi->missed = true;
	restore(scsi);
}

/* --- the device -------------------------------------------------------------------------------- */

static void get_config(struct vhost_device *dev, uint8_t data[VHOST_USER_CONFIG_SIZE])
{
	struct virtio_scsi_config c = {
		.num_queues = dev->rings - FIRST_REQUEST_QUEUE,
		.seg_max = SEGMENTS,
		.max_sectors = GUEST_IO_MAX / 512,
		.cmd_per_lun = COMMANDS,
		.event_info_size = sizeof(struct virtio_scsi_event),
		.sense_size = VIRTIO_SCSI_SENSE_SIZE,
		.cdb_size = VIRTIO_SCSI_CDB_SIZE,
		.max_lun = CONTROLLER_LUNS - 1,
	};

	memcpy(data, &c, sizeof(c));
}

/* Sizes of sense and CDB could be changed; drivers only ever write what stands there. */
static int set_config(struct vhost_device *dev, unsigned offset, const uint8_t *data, unsigned size)
{
	uint8_t now[VHOST_USER_CONFIG_SIZE] = {0};

	get_config(dev, now);
	if (memcmp(now + offset, data, size) != 0)
		return fail(-EINVAL, "config space: sizes of sense data and CDBs are fixed");
	return 0;
}

static void set_features(struct vhost_device *dev, uint64_t features)
{
	scsi_of(dev)->features = features;
}

static void reset(struct vhost_device *dev)
{
	struct vhost_scsi *scsi = scsi_of(dev);

	forget_events(scsi);
	scsi_attention(scsi->target, -1, ASC_POWER_ON);
	for (unsigned i = 0; i < CONTROLLER_LUNS; i++)
		scsi_set_write_cache(scsi->target, i, true);
	keep(scsi);
}

static void shed(struct vhost_device *dev)
{
	struct vhost_scsi *scsi = scsi_of(dev);

	for (unsigned i = 0; i < CONTROLLER_LUNS; i++)
		if (scsi_disk(scsi->target, i))
			vfs_shed(scsi_disk(scsi->target, i));
}

static const struct vhost_device_ops scsi_ops = {
	.features = 1ULL << VIRTIO_SCSI_F_HOTPLUG | 1ULL << VIRTIO_SCSI_F_CHANGE,
	.request_size = sizeof(struct scsi_request),
	.request = request,
	.bad_request = bad_request,
	.get_config = get_config,
	.set_config = set_config,
	.set_features = set_features,
	.ring_started = ring_started,
	.reset = reset,
	.shed = shed,
	.manual_ring = manual_ring,
	.kicked = kicked,
};

void vhost_scsi_init(struct vhost_scsi *scsi)
{
	scsi->dev.ops = &scsi_ops;
	scsi->target = scsi_target_new(scsi->dev.name, scsi->dev.read_only);
	list_init(&scsi->tasks);
	list_init(&scsi->events);
}

void vhost_scsi_destroy(struct vhost_scsi *scsi)
{
	forget_events(scsi);
	scsi_target_free(scsi->target);
}

int vhost_scsi_attach(struct vhost_scsi *scsi, struct vfs_disk *disk,
		      const struct controller_lun *options)
{
	int rc = scsi_attach(scsi->target, disk, options);

	if (rc < 0)
		return rc;
	keep(scsi);
	announce(scsi, options->lun, false);
	return 0;
}

int vhost_scsi_leave(struct vhost_scsi *scsi, unsigned lun, bool leaving)
{
	if (!vhost_scsi_has(scsi, lun))
		return fail(-ENOENT, "controller %s: no disk at LUN %u", scsi->dev.name, lun);
	if (is_leaving(scsi, lun) != leaving)
		announce(scsi, lun, leaving);
	return 0;
}

int vhost_scsi_use(struct vhost_scsi *scsi, unsigned lun, struct controller_use *out)
{
	struct scsi_use use;

	if (!scsi_get_use(scsi->target, lun, &use))
		return fail(-ENOENT, "controller %s: no disk at LUN %u", scsi->dev.name, lun);
	*out = (struct controller_use){
		.medium = use.medium,
		.flushes = use.flushes,
		.in_flight = use.in_flight,
		.listens = listens(scsi, VIRTIO_SCSI_F_HOTPLUG),
		.told = list_empty(&scsi->events),
	};
	return 0;
}

int vhost_scsi_detach(struct vhost_scsi *scsi, unsigned lun, struct vfs_disk **disk)
{
	int rc = scsi_detach(scsi->target, lun, disk);

	if (rc < 0)
		return rc;
	keep(scsi);
	if (!is_leaving(scsi, lun)) /* else it knows */
		announce(scsi, lun, true);
	scsi->leaving[lun / 8] &= (uint8_t) ~(1u << lun % 8);
	return 0;
}

bool vhost_scsi_has(const struct vhost_scsi *scsi, unsigned lun)
{
	return scsi_disk(scsi->target, lun);
}

void vhost_scsi_resized(struct vhost_scsi *scsi, struct vfs_disk *disk)
{
	int lun = scsi_find(scsi->target, disk);

	if (lun < 0)
		return;
	scsi_attention(scsi->target, lun, ASC_CAPACITY_CHANGED);
	post_event(scsi, VIRTIO_SCSI_F_CHANGE, VIRTIO_SCSI_T_PARAM_CHANGE, (unsigned)lun,
		   ASC_CAPACITY_CHANGED >> 8 | (ASC_CAPACITY_CHANGED & 0xff) << 8);
}
