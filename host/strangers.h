// SPDX-License-Identifier: Apache-2.0
/*
 * strangers.h (private to host): who may begin to talk to the peers' port, and how soon. An address
 * from which connections came that proved nothing waits before each next one: 100 ms, twice as
 * long each time, at most STRANGER_WAIT_MAX_MS; after STRANGER_FORGET_MS without one it is
 * forgotten. Nobody is locked out for good: a member may sit behind the same address, and gets in,
 * later. One thread.
 */
#ifndef HOST_STRANGERS_H
#define HOST_STRANGERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/netaddr.h"

#define STRANGER_WAIT_MS     100u
#define STRANGER_WAIT_MAX_MS 3000u
#define STRANGER_FORGET_MS   60000u
#define STRANGERS_MAX	     256u /* addresses remembered; the one longest quiet goes first */
#define STRANGERS_AT_ONCE    64u  /* connections that have proved nothing yet */
#define STRANGERS_SAID	     6u	  /* bursts said within STRANGER_FORGET_MS, addresses together */
#define STRANGER_AT_ONCE     16u  /* ... from one address; 2 from one that failed before */

struct strangers;

struct strangers *strangers_create(void);
void strangers_destroy(struct strangers *s);

/*
 * A connection comes. 0: let it begin after *wait_ms, and call strangers_done when it has proved
 * itself or is gone. -EBUSY: too many of them, hang up.
 */
int strangers_admit(struct strangers *s, const struct netaddr *from, uint64_t now_ms,
		    unsigned *wait_ms);
/* True: the first failure of a burst, to be said once, unless STRANGERS_SAID were of late. */
bool strangers_done(struct strangers *s, const struct netaddr *from, uint64_t now_ms, bool proved);
/* A burst that was said and is over (nothing for STRANGER_FORGET_MS): its address and failures. False: none. */
bool strangers_forget(struct strangers *s, uint64_t now_ms, char address[NETADDR_TEXT],
		      unsigned *failures);

#endif
