// SPDX-License-Identifier: Apache-2.0
/* vm_top.c: `vm top`: what the VMs that run here use, by the supervisors' last looks, a second ago at most. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/util.h"
#include "host/daemon.h"
#include "host/names.h"
#include "host/verbs.h"
#include "host/vm_run.h"
#include "host/vm_usage.h"
#include "host/volume.h"

static json_t *rate(uint64_t amount, uint64_t span_ns, uint64_t unit)
{
	if (!span_ns)
		return json_null();
	return json_integer((json_int_t)((double)amount * (double)unit / (double)span_ns));
}

static json_t *describe(struct host_vm *vm)
{
	struct vm_usage u;
	struct vm_def *def = xmalloc(sizeof(*def));
	json_t *d;

	vm_get_def(vm, def);
	vm_usage_get(vm, &u);
	d = json_pack("{s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I}", "name", vm->name, "volume",
		      host_volume_name(vm->volume), "state", vm_state_name(vm), "cpus",
		      (int)def->cpus, "cpu_seconds", (json_int_t)(u.cpu_ns / NS_PER_S), "memory",
		      (json_int_t)def->share.memory, "memory_used", (json_int_t)u.memory,
		      "read_bytes", (json_int_t)u.read_bytes, "write_bytes",
		      (json_int_t)u.write_bytes);
	/* Percent of one processor; bytes a second. */
	json_object_set_new(d, "cpu", rate(u.cpu_span_ns, u.span_ns, 100));
	json_object_set_new(d, "read", rate(u.read_span, u.span_ns, NS_PER_S));
	json_object_set_new(d, "write", rate(u.write_span, u.span_ns, NS_PER_S));
	json_object_set_new(d, "memory_target", json_integer((json_int_t)vm_memory_target(vm)));
	json_object_set_new(d, "pool", json_string(def->share.pool));
	free(def);
	return d;
}

/* A use of the `n`th that runs here, or NULL. */
static struct host_vm *use_one(struct host_vms *all, unsigned n)
{
	struct host_vm *vm, *hit = NULL;

	pthread_mutex_lock(&all->lock);
	list_for_each (vm, &all->list, link) {
		if (n-- == 0) {
			vm->uses++;
			hit = vm;
			break;
		}
	}
	pthread_mutex_unlock(&all->lock);
	return hit;
}

static int vm_top(struct host_call *call)
{
	struct host_vms *all = call->host->vms;
	struct host_vm *vm;

	call->result = json_array();
	for (unsigned i = 0; (vm = use_one(all, i)); i++) {
		if (vm_is_here(vm))
			json_array_append_new(call->result, describe(vm));
		vm_put(vm);
	}
	call->result = host_sorted(call->result);
	return 0;
}

const struct host_verb host_vm_top_verbs[] = {
	{"vm", "top", 0, vm_top},
	{NULL, NULL, 0, NULL},
};
