// SPDX-License-Identifier: Apache-2.0
/*
 * iscsi.h: an iSCSI LUN: its sessions and its node; private to blockdev.
 *
 * A session is one libiscsi context: one login, one TCP connection. It is used by one thread at a
 * time: by whoever brings it up, runs commands on it and waits (isess_*), or by the loop of the
 * channel that it was handed to (iscsi_chan.c). libiscsi's own reconnect is off: it sends again
 * behind our back (INV-BLK-1).
 */
#ifndef BLOCKDEV_ISCSI_H
#define BLOCKDEV_ISCSI_H

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "blockdev/node.h"
#include "blockdev/scsi.h"

/*
 * ISIDs: type "random" (80h), 24 bits of options.isid, then 16 bits: the LUN's number, since a
 * session to another LUN of the same target must not end this one, and who uses it.
 */
#define ISID_INDEXES  64u
#define ISID_CONTROL  62u /* the baton's */
#define ISID_ONE_SHOT 63u /* probing and disruptive commands */
#define ISID_CHANNELS 60u

struct iscsi_blk;

struct iscsi_target {
	char portals[8][128];
	unsigned nportals;
	char iqn[224];
	int lun;
	char user[128], password[128]; /* CHAP; never printed */
};

struct isess {
	struct scsi_nexus nexus;
	const struct iscsi_target *target;
	const char *name; /* of the LUN, for messages */
	struct iscsi_context *ctx;
	int fd;
	unsigned timeout_ms;
	bool lost;	     /* the context is unusable: commands fail */
	uint64_t generation; /* of the registration it carries, iscsi_blk.reg_generation */
	bool registered;
	uint8_t isid[6]; /* as it logged in */
};

struct iscsi_blk {
	struct blk node;
	struct iscsi_target target;
	struct scsi_limits limits;
	char initiator[224];
	uint32_t isid;
	_Atomic unsigned used; /* the highest session index so far, plus one */
	struct baton *baton;   /* cas == BLK_CAS_BATON */

	pthread_mutex_t reg_lock; /* key, look, look_arg; never held across I/O */
	uint64_t key;		  /* 0: sessions are not registered */
	int (*look)(void *arg);
	void *look_arg;
	_Atomic uint64_t reg_generation; /* changes with key: sessions register afresh */
};

static inline struct iscsi_blk *iscsi_of(struct blk *blk)
{
	return container_of(blk, struct iscsi_blk, node);
}

/* --- sessions, blocking (iscsi_sess.c) -------------------------------------------------------- */

/* "iscsi://PORTAL[,PORTAL...]/IQN/LUN" */
int iscsi_parse_url(const char *url, struct iscsi_target *out);
/* "user password" on one line. */
int iscsi_read_chap(const char *path, struct iscsi_target *out);
/* Zeroes `s`, connects to the first portal that answers, and logs in. */
int isess_login(struct isess *s, const struct iscsi_target *target, const char *name,
		const char *initiator, uint32_t isid, unsigned index, unsigned timeout_ms);
/*
 * Ends it: with a LOGOUT, or by a reset that also throws away what the socket has not sent. Its
 * commands' callbacks run with SCSI_STATUS_CANCELLED.
 */
void isess_close(struct isess *s, bool logout);
/* Waits for the socket and serves it until *done or the deadline; -ETIMEDOUT, -ENOTCONN. */
int isess_pump(struct isess *s, const bool *done, uint64_t deadline_ns);

/* --- the blk's own sessions (iscsi.c) --------------------------------------------------------- */

int iscsi_login_as(struct iscsi_blk *blk, struct isess *s, unsigned index, unsigned timeout_ms);
/*
 * "New session, register, look, then use": brings `s` (new, or one whose registration is out of
 * date) in line with the blk's key. -ESTALE when the look says no.
 */
int iscsi_enrol(struct iscsi_blk *blk, struct isess *s);
/*
 * A registered session for one disruptive command; to be ended with iscsi_one_shot_end. It stays
 * registered when the host has a key: LIO enforces by the initiator's name, and taking the key off
 * one of its sessions shuts out all of them.
 */
int iscsi_one_shot(struct iscsi_blk *blk, struct isess *s, uint64_t *key);
void iscsi_one_shot_end(struct iscsi_blk *blk, struct isess *s);
/* The session that blk_read in a look goes by, in this thread; NULL elsewhere. */
struct isess *iscsi_looking(const struct blk *lowest);
/* A read on a session in hand. */
int isess_read(struct isess *s, const struct blk_info *info, uint64_t offset, void *buf,
	       uint32_t length);

/* --- the channels (iscsi_chan.c) -------------------------------------------------------------- */

#define ISCSI_CHAN_SIZE 2048 /* at least sizeof(struct iscsi_chan), asserted there */
int iscsi_chan_open(struct blk_chan *chan);
void iscsi_chan_close(struct blk_chan *chan);
void iscsi_chan_submit(struct blk_chan *chan, struct blk_req *req);
void iscsi_chan_reset(struct blk *blk);
/* Has the channel's session unregister, in its loop; waits for it. */
void iscsi_chans_unregister(struct iscsi_blk *blk);

#endif
