// SPDX-License-Identifier: Apache-2.0
/*
 * vol.h: a volume on a file LUN for tests: formatted with short times, mounted by one host or more, each with a
 * blk and a state directory of its own; all gone with vol_free.
 */
#ifndef TESTS_LIB_VOL_H
#define TESTS_LIB_VOL_H

#include <stdint.h>

#include "blockdev/blk.h"
#include "clusterfs/cfs.h"

#define VOL_HOSTS 4u
#define VOL_LUNS  3u

struct vol {
	char *lun; /* the first */
	unsigned luns;
	char *path[VOL_LUNS];	    /* all; path[0] is `lun` */
	uint32_t block_size;	    /* logical */
	char *dir;		    /* of state directories */
	struct blk *blk[VOL_HOSTS]; /* of the first LUN */
	struct blk *more[VOL_HOSTS][VOL_LUNS];
	struct cfs *fs[VOL_HOSTS];
	const char *log;	/* record.h: of all mounts that name none, or NULL */
	bool faulty[VOL_HOSTS]; /* set before a mount: faults of "file.test" strike this host */
};

/* Formats a file of `size` bytes. MUST succeed. */
struct vol *vol_make(uint64_t size);
/* The same on `luns` files of that size, with logical blocks of 512 or 4096 bytes. */
struct vol *vol_make_as(uint64_t size, unsigned luns, uint32_t block_size);
/*
 * As vol_make; a host is not taken for dead for 1.5 s: for tests that do much with several. They are one process, so
 * that who is taken for dead can't be fenced: its locks are busy from then on.
 */
struct vol *vol_make_patient(uint64_t size);
/* As vol_make, with the times that users have: a beat a second. */
struct vol *vol_make_calm(uint64_t size);
/* An image of a volume that is there already, e.g. a copy; vol_free removes it too. */
struct vol *vol_open(const char *path);
/*
 * An image of a patient volume that nobody has mounted, e.g. a copy, gets the short times of vol_make: for what is
 * replayed of a record of it, when there is nobody left who could be late.
 */
void vol_hurry(const char *path);
/* Mounts it as host `i`; through the recorder when `log` is not NULL. 0 or a negative errno. */
int vol_mount(struct vol *v, unsigned i, const char *log);
int vol_unmount(struct vol *v, unsigned i);
/* As a crash of that host's daemon. */
void vol_abandon(struct vol *v, unsigned i);
/* Runs `volume check`; counts findings; those not mended are printed when `print`. */
int vol_check(struct vol *v, bool repair, bool print, struct cfs_check_result *result);
/* The same through the recorder (a volume of one LUN). */
int vol_check_recorded(struct vol *v, bool repair, const char *log,
		       struct cfs_check_result *result);
void vol_free(struct vol *v);

#endif
