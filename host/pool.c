// SPDX-License-Identifier: Apache-2.0
/* pool.c: `pool set` and `pool list`. Settings lie in the inventory; the usual ones are not kept. */
#include "host/pool.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <jansson.h>

#include "base/err.h"
#include "base/util.h"
#include "host/cgroup.h"
#include "host/daemon.h"
#include "host/db.h"
#include "host/event.h"
#include "host/verbs.h"
#include "host/vm_run.h"

#define LIMIT_MAX 100000u

struct search {
	const char *name;
	struct cgroup_cpu cpu;
};

static void read_settings(json_t *value, struct cgroup_cpu *cpu)
{
	json_int_t weight = json_integer_value(json_object_get(value, "cpu_weight"));
	json_int_t limit = json_integer_value(json_object_get(value, "cpu_limit"));

	cpu->weight = weight >= 1 && weight <= VM_SHARES_MAX ? (unsigned)weight : VM_SHARES_DEFAULT;
	cpu->limit = limit >= 0 && limit <= LIMIT_MAX ? (unsigned)limit : 0;
}

static void match(void *arg, const char *key, uint64_t number, json_t *value)
{
	struct search *s = arg;

	(void)number;
	if (!strcmp(key, s->name))
		read_settings(value, &s->cpu);
}

static int settings(struct host *host, const char *name, struct cgroup_cpu *cpu)
{
	struct search s = {.name = name, .cpu = {.weight = VM_SHARES_DEFAULT}};
	int rc = host_db_each(host->db, HOST_POOLS, match, &s);

	*cpu = s.cpu;
	return rc;
}

int host_pool_apply(struct host *host, const char *name)
{
	const struct cgroup g = {.pool = name};
	char files[CGROUPS][CGROUP_PATH];
	struct cgroup_cpu cpu;
	int rc;

	if (!*name)
		return 0;
	rc = settings(host, name, &cpu);
	if (rc < 0)
		return rc;
	cgroup_make(&g, files);
	return cgroup_cpu(&g, &cpu);
}

/* --- verbs ---------------------------------------------------------------------------------------- */

static int take(struct host_call *call, struct cgroup_cpu *cpu)
{
	uint64_t weight, limit;
	int rc = host_arg_u64(call, "cpu_weight", cpu->weight, &weight);

	if (rc == 0)
		rc = host_arg_u64(call, "cpu_limit", cpu->limit, &limit);
	if (rc < 0)
		return rc;
	if (weight < 1 || weight > VM_SHARES_MAX || limit > LIMIT_MAX)
		return fail(-EINVAL, "pool set: a weight of 1 to %u, a limit of 0 to %u %%",
			    VM_SHARES_MAX, LIMIT_MAX);
	cpu->weight = (unsigned)weight;
	cpu->limit = (unsigned)limit;
	return 0;
}

static int store(struct host *host, const char *name, const struct cgroup_cpu *cpu)
{
	bool usual = cpu->weight == VM_SHARES_DEFAULT && !cpu->limit;
	json_t *value = usual ? NULL
			      : json_pack("{s:i, s:i}", "cpu_weight", (int)cpu->weight, "cpu_limit",
					  (int)cpu->limit);
	int rc = host_db_put(host->db, HOST_POOLS, name, value);

	json_decref(value);
	return rc;
}

static int pool_set(struct host_call *call)
{
	struct vm_share share;
	struct cgroup_cpu cpu;
	const char *name;
	int rc = host_arg_need(call, "name", &name);

	if (rc < 0)
		return rc;
	vm_share_init(&share, 2 * MiB); /* for its rules about names */
	if (!*name || str_format(share.pool, sizeof(share.pool), "%s", name) < 0 ||
	    vm_share_check(&share, 2 * MiB, 1, name) < 0)
		return fail(-EINVAL,
			    "pool %s: a name is letters, digits, '.', '_', '-', at most %d", name,
			    VM_POOL_MAX);
	rc = settings(call->host, name, &cpu);
	if (rc == 0)
		rc = take(call, &cpu);
	if (rc == 0 && !cgroup_kind())
		rc = fail(-EOPNOTSUPP,
			  "pool %s: this host has no control group that shares "
			  "processors; see perilune host check",
			  name);
	if (rc == 0)
		rc = store(call->host, name, &cpu);
	if (rc == 0)
		rc = host_pool_apply(call->host, name);
	cgroup_forget(&(struct cgroup){.pool = name}); /* made again for its first VM */
	if (rc == 0)
		host_event(call->host->events, "pool", name, "weight %u, limit %u %%", cpu.weight,
			   cpu.limit);
	return rc;
}

static json_t *entry(json_t *list, const char *name)
{
	json_t *one;
	size_t i;

	json_array_foreach(
		list, i,
		one) if (!strcmp(json_string_value(json_object_get(one, "name")), name)) return one;
	one = json_pack("{s:s, s:i, s:i, s:[]}", "name", name, "cpu_weight", (int)VM_SHARES_DEFAULT,
			"cpu_limit", 0, "vms");
	json_array_append_new(list, one);
	return one;
}

static void list_one(void *arg, const char *key, uint64_t number, json_t *value)
{
	json_t *one = entry(arg, key);
	struct cgroup_cpu cpu;

	(void)number;
	read_settings(value, &cpu);
	json_object_set_new(one, "cpu_weight", json_integer(cpu.weight));
	json_object_set_new(one, "cpu_limit", json_integer(cpu.limit));
}

static int pool_list(struct host_call *call)
{
	struct host_vms *all = call->host->vms;
	struct host_vm *vm;
	int rc;

	call->result = json_array();
	rc = host_db_each(call->host->db, HOST_POOLS, list_one, call->result);
	pthread_mutex_lock(&all->lock);
	list_for_each (vm, &all->list, link) {
		pthread_mutex_lock(&vm->lock);
		if (vm->def.share.pool[0])
			json_array_append_new(
				json_object_get(entry(call->result, vm->def.share.pool), "vms"),
				json_string(vm->name));
		pthread_mutex_unlock(&vm->lock);
	}
	pthread_mutex_unlock(&all->lock);
	return rc;
}

const struct host_verb host_pool_verbs[] = {
	{"pool", "set", HOST_CHANGES, pool_set},
	{"pool", "list", 0, pool_list},
	{NULL, NULL, 0, NULL},
};
