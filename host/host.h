// SPDX-License-Identifier: Apache-2.0
/*
 * host.h: a host of Perilune: its state directory, volumes, VMs, and the API that drives them.
 *
 * The daemon (tools/main_perilund.c) makes one from its options and runs it until it is told to
 * stop. The command line uses the same verbs without a daemon for what needs none (lun probe,
 * volume format, check, debug dump): then there is no state directory, no API, no inventory.
 *
 * The API: HTTP/1.1 and JSON on a unix socket. `POST /v1/NOUN/VERB` with a JSON object, or
 * `GET /v1/NOUN/VERB?key=value` for verbs that only look. Answers: 200 with the result; 202 with
 * {"task": id} for long work (follow it with task/show); 4xx and 5xx with {"error": {...}} as in
 * docs/cli.md. Names of nouns, verbs and keys are those of the command line.
 */
#ifndef HOST_HOST_H
#define HOST_HOST_H

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

struct host;

#define HOST_FIRMWARE "/usr/share/seabios/bios-256k.bin"

struct host_options {
	const char *state_dir;
	const char *name;     /* for people and messages; NULL: the machine's */
	const char *listen;   /* ADDR:PORT for peers (peers.h), or NULL */
	const char *api;      /* the API's socket; NULL: STATE/api.sock */
	const char *group;    /* who may use the socket beside its owner; NULL: nobody */
	const char *vmm;      /* perilune-vmm; NULL: beside this program, else the installed one */
	const char *kvm;      /* NULL: /dev/kvm */
	const char *firmware; /* for VMs that boot from their disk; NULL: Debian's SeaBIOS */
	uint32_t beat_ms;     /* reserved for tests; 0 */
};

/*
 * Takes the state directory (-EBUSY when another daemon has it, err_holder says which), opens
 * inventory and API, mounts what was mounted, finds the VMs that run. Threads run from here on.
 */
int host_start(const struct host_options *options, struct host **out);
/*
 * Ends the API and lets go: volumes without VMs are unmounted, those whose VMs run on are left as a
 * crash would leave them, for the next daemon to go on with. Frees.
 */
void host_stop(struct host *host);

/* A host without state, for verbs flagged HOST_OFFLINE. */
struct host *host_offline(void);

/* Told while a local call runs, from its thread; `total` 0 when it is not known. */
typedef void (*host_progress_fn)(void *arg, uint64_t done, uint64_t total, const char *what);

/*
 * Runs a verb in the calling thread. `args` is borrowed. 0 and *result (owned by the caller, may
 * be NULL), or a negative errno with its words in the thread's error.
 */
int host_call_local(struct host *host, const char *noun, const char *verb, json_t *args,
		    host_progress_fn progress, void *arg, json_t **result);

/* The error of this thread as {"code", "name", "message", "object", "holder"}; a new reference. */
json_t *host_error_json(int err);
/* HTTP's status for a negative errno. */
unsigned host_http_status(int err);

#endif
