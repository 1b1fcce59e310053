// SPDX-License-Identifier: Apache-2.0
/*
 * agent_words.h (private to host): what a guest's agent tells, made fit for people and programs: texts are cut and
 * have no control characters, addresses are addresses, lists have an end. Any JSON will do, and whatever is none
 * of what is looked for is left out.
 */
#ifndef HOST_AGENT_WORDS_H
#define HOST_AGENT_WORDS_H

#include <stddef.h>
#include <jansson.h>

#define AGENT_TEXT_MAX	     100 /* of a name that is shown to people */
#define AGENT_INTERFACES_MAX 64
#define AGENT_ADDRESSES_MAX  256 /* of one interface, and of all that others can reach */

/* A text for people: cut, without control characters; "" for what is none. */
void agent_text(json_t *text, char *dst, size_t size);
/* guest-get-osinfo: the system in words, or "". */
void agent_os(json_t *info, char *dst, size_t size);
/*
 * guest-network-get-interfaces: a new list of {name, mac, addresses}; to `all` go the addresses that others can
 * reach: no loopback, no link-local ones.
 */
json_t *agent_interfaces(json_t *list, json_t *all);
/* guest-get-fsinfo: 1, a file system of the SCSI disk at address `lun` is mounted at `where`; 0: none. */
int agent_mounted(json_t *list, unsigned lun, char *where, size_t size);

#endif
