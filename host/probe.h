// SPDX-License-Identifier: Apache-2.0
/*
 * probe.h (private to host): what this machine can do, found out by doing it. Each probe runs in a
 * child process of its own with a time limit, so that none can hang or harm the caller.
 */
#ifndef HOST_PROBE_H
#define HOST_PROBE_H

#include <stddef.h>

#define HOST_PROBE_TEXT 240

struct host_probe_result {
	char ok; /* 0 or 1 */
	char detail[HOST_PROBE_TEXT];
	char cure[HOST_PROBE_TEXT]; /* empty when ok */
};

struct host_probe {
	const char *name;
	void (*run)(struct host_probe_result *out);
};

/* Ended by a NULL name; `kvm` ones in probe_kvm.c, the others in probe.c. */
extern const struct host_probe host_probes_kvm[];
extern const struct host_probe host_probes_machine[];

/* In a child, at most three seconds. */
void host_probe_run(const struct host_probe *probe, struct host_probe_result *out);

/* For probes: sets the result. `cure` NULL means that all is well. */
void host_probe_say(struct host_probe_result *out, const char *cure, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
