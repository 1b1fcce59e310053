// SPDX-License-Identifier: Apache-2.0
/*
 * discover.c: discovery with libiscsi's blocking calls, each under a time limit. Sessions are short
 * and their own: nothing of a mounted volume is touched.
 */
#include "blockdev/discover.h"

#include <errno.h>
#include <string.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "base/err.h"
#include "base/util.h"
#include "blockdev/iscsi.h"

#define TIMEOUT_S   5
#define TARGETS_MAX 256
#define LUNS_BYTES  (8 + 8 * 256)
#define MADE_UP	    "iqn.2026-11.org.perilune:discover"

struct look {
	const char *portal, *initiator;
	struct iscsi_target chap;
	bool with_chap;
	void (*fn)(void *arg, const char *target, const char *url, const char *error);
	void *arg;
};

static struct iscsi_context *context(const struct look *look, enum iscsi_session_type type)
{
	struct iscsi_context *iscsi = iscsi_create_context(look->initiator ? look->initiator
									   : MADE_UP);

	MUST(iscsi);
	iscsi_set_session_type(iscsi, type);
	iscsi_set_timeout(iscsi, TIMEOUT_S);
	iscsi_set_noautoreconnect(iscsi, 1);
	if (look->with_chap)
		(void)iscsi_set_initiator_username_pwd(iscsi, look->chap.user, look->chap.password);
	return iscsi;
}

static int connect_failed(struct iscsi_context *iscsi, const char *portal)
{
	const char *why = iscsi_get_error(iscsi);
	int err = strstr(why, "efused")		 ? -ECONNREFUSED
		  : strstr(why, "uthentication") ? -EACCES
		  : strstr(why, "imed out")	 ? -EIO
		  : strstr(why, "annot resolve") ? -EINVAL
						 : -EIO;

	(void)fail(err, "portal %s: %s", portal, why);
	err_object("%s", portal);
	return err;
}

static uint64_t lun_number(const uint8_t *b)
{
	/* SAM-5 4.7.7: peripheral and flat addressing, all that targets use for single LUNs. */
	return (b[0] & 0xc0) == 0x40 ? (uint64_t)((b[0] & 0x3f) << 8 | b[1]) : b[1];
}

static void tell_luns(const struct look *look, const char *target, struct iscsi_context *iscsi)
{
	struct scsi_task *task = iscsi_reportluns_sync(iscsi, 0, LUNS_BYTES);
	int bytes = task ? task->datain.size : 0, n;

	if (!task || task->status != SCSI_STATUS_GOOD || bytes < 8) {
		look->fn(look->arg, target, NULL, iscsi_get_error(iscsi));
		if (task)
			scsi_free_scsi_task(task);
		return;
	}
	n = (int)MIN(be32_get(task->datain.data), (uint32_t)bytes - 8) / 8;
	for (int i = 0; i < n; i++) {
		cleanup_free char *url =
			xasprintf("iscsi://%s/%s/%llu", look->portal, target,
				  (unsigned long long)lun_number(task->datain.data + 8 + 8 * i));

		look->fn(look->arg, target, url, NULL);
	}
	scsi_free_scsi_task(task);
}

static void look_at_target(const struct look *look, const char *target)
{
	struct iscsi_context *iscsi = context(look, ISCSI_SESSION_NORMAL);

	iscsi_set_targetname(iscsi, target);
	if (iscsi_connect_sync(iscsi, look->portal) == 0 && iscsi_login_sync(iscsi) == 0) {
		tell_luns(look, target, iscsi);
		(void)iscsi_logout_sync(iscsi);
	} else {
		look->fn(look->arg, target, NULL, iscsi_get_error(iscsi));
	}
	iscsi_destroy_context(iscsi);
}

int blk_discover(const char *portal, const char *initiator, const char *chap_file,
		 void (*fn)(void *arg, const char *target, const char *url, const char *error),
		 void *arg)
{
	struct look look = {.portal = portal, .initiator = initiator, .fn = fn, .arg = arg};
	struct iscsi_discovery_address *found, *t;
	struct iscsi_context *iscsi;
	unsigned n = 0;
	int rc = chap_file ? iscsi_read_chap(chap_file, &look.chap) : 0;

	if (rc < 0)
		return rc;
	if (!*portal || strpbrk(portal, "/ \t"))
		return fail(-EINVAL, "portal %s: write HOST or HOST:PORT", portal);
	look.with_chap = chap_file != NULL;
	iscsi = context(&look, ISCSI_SESSION_DISCOVERY);
	if (iscsi_connect_sync(iscsi, portal) < 0 || iscsi_login_sync(iscsi) < 0) {
		rc = connect_failed(iscsi, portal);
		iscsi_destroy_context(iscsi);
		return rc;
	}
	found = iscsi_discovery_sync(iscsi);
	for (t = found; t && n < TARGETS_MAX; t = t->next, n++)
		look_at_target(&look, t->target_name);
	if (found)
		iscsi_free_discovery_data(iscsi, found);
	(void)iscsi_logout_sync(iscsi);
	iscsi_destroy_context(iscsi);
	return 0;
}
