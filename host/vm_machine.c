// SPDX-License-Identifier: Apache-2.0
/* vm_machine.c: what is in a VM's machine, as people say it: --boot, --nested, --watchdog. */
#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "host/verbs.h"
#include "host/vm_run.h"

int vm_machine_args(struct vm_def *d, struct host_call *call, const char *name, bool *said)
{
	const char *boot = host_arg(call, "boot"), *nested = host_arg(call, "nested"),
		   *watchdog = host_arg(call, "watchdog");

	*said = boot || nested || watchdog;
	if (boot && strcmp(boot, "disk") && strcmp(boot, "kernel"))
		return fail(-EINVAL, "vm %s: --boot %s: disk or kernel", name, boot);
	if (nested && strcmp(nested, "on") && strcmp(nested, "off"))
		return fail(-EINVAL, "vm %s: --nested %s: on or off", name, nested);
	if (boot)
		d->firmware = !strcmp(boot, "disk");
	if (nested)
		d->nested = !strcmp(nested, "on");
	return watchdog ? vm_watchdog_parse(watchdog, &d->watchdog) : 0;
}
