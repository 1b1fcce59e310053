// SPDX-License-Identifier: Apache-2.0
/* discover.h: what an iSCSI portal offers: targets by SendTargets, their LUNs by REPORT LUNS. */
#ifndef BLOCKDEV_DISCOVER_H
#define BLOCKDEV_DISCOVER_H

/*
 * Blocking. `portal` is HOST or HOST:PORT (3260); `initiator` may be NULL, `chap_file` as in
 * blk_options. Calls `fn` for each LUN with a URL that blk_open takes; a target that lets nobody in
 * gives one call with `url` NULL and the reason. -ECONNREFUSED, -ETIMEDOUT, -EACCES, -EINVAL.
 */
int blk_discover(const char *portal, const char *initiator, const char *chap_file,
		 void (*fn)(void *arg, const char *target, const char *url, const char *error),
		 void *arg);

#endif
