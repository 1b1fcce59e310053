// SPDX-License-Identifier: Apache-2.0
/*
 * volume_impl.h (private to host/volume*.c): the volumes of this host and how their files share them.
 * One mutex serialises mounts (they are rare and long); another, never held across I/O, guards the lists. An
 * unmount holds neither: its LUNs may hang, which is nobody else's concern.
 */
#ifndef HOST_VOLUME_IMPL_H
#define HOST_VOLUME_IMPL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"
#include "host/lun.h"
#include "host/volume.h"

struct cfs;
struct host_promised;

struct host_volume {
	struct list link;
	struct host_volumes *all;
	struct cfs *fs;
	char name[64], id[40];
	struct host_lun *lun[HOST_EXTENTS_MAX];
	unsigned luns;
	struct host_promised *promised;
	unsigned uses, vms;
	bool clean; /* leftovers of dead daemons may lie on it: looked at from clean_ms on */
	bool cleaning;
	bool keep; /* the next daemon goes on in this life (host_volume_keep) */
	uint64_t clean_ms, clean_pause_ms;
	bool changed; /* another host changed its label: perhaps the name */
	bool lost;    /* another host took our slot: mounted anew when nothing uses it any more */
};

struct volume_missing {
	struct list link;
	char id[40], name[64], error[256];
	char lun[HOST_EXTENTS_MAX][256];
	unsigned luns;
};

struct host_volumes {
	struct host *host;
	pthread_mutex_t mounting; /* one mount at a time; taken before `lock` */
	pthread_mutex_t lock;	  /* guards all below */
	struct list list, missing;
	struct list lost; /* evicted, still used: nobody finds them any more; each is missing too */
	/* Being let go: found by nobody, its LUNs are its own until it is out of this list. */
	struct list leaving;
	struct list awaited; /* unmounts that wait for uses to end (volume.c) */
	pthread_cond_t wake, tried,
		idle; /* idle: a volume has one use or none, or is not waited for */
	bool ending, started, first_done;
	pthread_t thread;
};

/* --- volume.c --------------------------------------------------------------------------------- */

/* Gives up a use of each, which is nobody's LUN then. */
void volume_luns_release(struct host_volumes *all, struct host_lun **luns, unsigned n);
/* One of those that leave has left: its LUNs are free. Frees `v`. */
void volume_gone(struct host_volumes *all, struct host_volume *v);

/* --- volume_missing.c: remembered, but not mounted ---------------------------------------------- */

/* Reads the inventory; all that is remembered is missing. */
int volume_missing_load(struct host_volumes *all);
/* Caller holds the lock. One more: a volume that was evicted. */
void volume_missing_add(struct host_volumes *all, struct host_volume *v, const char *why);
/* Caller holds the lock. NULL: nothing of that name or id is missing. Stays while `mounting` is held. */
struct volume_missing *volume_missing_find(struct host_volumes *all, const char *name);
/* Caller holds the lock. It is mounted, or forgotten. */
void volume_missing_drop(struct host_volumes *all, const char *id);
/* Why it could not be mounted; an event once a reason, not once a try. */
void volume_missing_note(struct host_volumes *all, const char *id, const char *why);
/* Out of the inventory; -ENOENT. */
int volume_missing_forget(struct host_volumes *all, const char *name);
void volume_missing_free(struct host_volumes *all);

#endif
