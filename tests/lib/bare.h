// SPDX-License-Identifier: Apache-2.0
/* bare.h: a volume on a file LUN, and hosts on it that are less than a mount: for tests of parts. */
#ifndef TESTS_LIB_BARE_H
#define TESTS_LIB_BARE_H

#include "clusterfs/volume.h"

struct bare_volume {
	char *path;	 /* of the LUN */
	char *state_dir; /* its hosts' state directories lie in it */
};
/* Times in ms; `silence` in beats. Never fails. */
struct bare_volume *bare_volume_make(uint64_t size, uint32_t beat, uint32_t silence,
				     uint32_t lease);
void bare_volume_remove(struct bare_volume *v);

struct bare_event {
	char kind[24];
	char text[200];
};
struct bare_host {
	struct cfs fs;
	struct blk *blk;
	char state[256];
	pthread_mutex_t lock;
	struct bare_event event[32];
	unsigned events;
};
/* Opens the LUN and loads the label; a state directory of that name. Nothing is taken yet. */
struct bare_host *bare_host_open(const char *lun, const char *state_dir, const char *name);
/* The same with a fault filter over its LUN: faults strike this host only. */
struct bare_host *bare_host_open_faulty(const char *lun, const char *state_dir, const char *name);
/* Closes the LUN; slots and locks must be over. */
void bare_host_close(struct bare_host *h);
bool bare_host_heard(struct bare_host *h, const char *kind);

#endif
