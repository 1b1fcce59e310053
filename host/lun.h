// SPDX-License-Identifier: Apache-2.0
/*
 * lun.h (private to host): the LUNs this host has open, by name and by id, with counted uses: a
 * LUN is opened once, whoever uses it. Those that were connected are remembered in the inventory.
 */
#ifndef HOST_LUN_H
#define HOST_LUN_H

#include <stdbool.h>
#include <jansson.h>

#define HOST_EXTENTS_MAX 32 /* LUNs of one volume (clusterfs/cfs.h) */

struct blk;
struct host;
struct host_call;
struct host_lun;
struct host_luns;

int host_luns_create(struct host *host, struct host_luns **out);
/* Opens what was connected before; what cannot be reached is tried again by who wants it. */
void host_luns_restore(struct host_luns *luns);
void host_luns_destroy(struct host_luns *luns);

/*
 * A use of the LUN `name`: a path, a URL, or the id of a known one. Opens it if it is not open;
 * blocking. `chap_file` may be NULL. `read_only` asks for no more than reading; a LUN that is open
 * already stays as it is.
 */
int host_lun_get(struct host_luns *luns, const char *name, const char *chap_file, bool read_only,
		 struct host_lun **out);
void host_lun_put(struct host_luns *luns, struct host_lun *lun);
struct blk *host_lun_blk(struct host_lun *lun);
const char *host_lun_name(const struct host_lun *lun);
/*
 * One user at a time may write to a LUN ("volume v1", "volume check"): -EBUSY, in words, when there
 * is one. Named in `lun list` and in refusals. The holder of the claim may rename or end it (NULL).
 */
int host_lun_claim(struct host_luns *luns, struct host_lun *lun, const char *user);
void host_lun_set_user(struct host_luns *luns, struct host_lun *lun, const char *user);
/* Whether the LUN named `name`, or with that id, is claimed, and by whom. */
bool host_luns_user(struct host_luns *luns, const char *name, char user[80]);

/*
 * Finds extents: calls `fn` for each known LUN, used meanwhile; non-zero ends the walk.
 */
int host_luns_each(struct host_luns *luns, int (*fn)(void *arg, struct host_lun *lun), void *arg);

/* `volume paths`: the way this LUN is reached; a new reference. */
json_t *host_lun_path(struct host_luns *luns, struct host_lun *lun);

/*
 * For verbs on unmounted LUNs: uses of all `names`, and their blks; claimed unless only read. On
 * error none is held.
 */
int host_luns_hold(struct host_call *call, const char *const *names, unsigned n, bool read_only,
		   struct host_lun **luns, struct blk **blks);
void host_luns_release(struct host_call *call, struct host_lun **luns, unsigned n, bool read_only);

#endif
