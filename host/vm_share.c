// SPDX-License-Identifier: Apache-2.0
/* vm_share.c: memory and processors of a VM, as said and as stored. */
#include "host/vm_share.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "base/vmctl.h"
#include "host/call.h"

void vm_share_init(struct vm_share *s, uint64_t memory)
{
	*s = (struct vm_share){
		.memory = memory,
		.memory_reserved = VM_NOT_SAID,
		.memory_shares = VM_SHARES_DEFAULT,
		.cpu_weight = VM_SHARES_DEFAULT,
	};
}

uint64_t vm_share_reserved(const struct vm_share *s)
{
	return MIN(s->memory_reserved, s->memory);
}

static int check_memory(const struct vm_share *s, uint64_t max, const char *name)
{
	if (s->memory < VMCTL_MEMORY_MIN || s->memory % VMCTL_MEMORY_ALIGN)
		return fail(-EINVAL,
			    "vm %s: memory is a multiple of 2M, at least 2M; %llu bytes are not",
			    name, (unsigned long long)s->memory);
	if (s->memory > max)
		return fail(-EINVAL,
			    "vm %s: %llu MiB of memory, its maximum is %llu; stop it and give "
			    "--memory-max too",
			    name, (unsigned long long)(s->memory / MiB),
			    (unsigned long long)(max / MiB));
	if (s->memory_reserved != VM_NOT_SAID && s->memory_reserved > s->memory)
		return fail(-EINVAL, "vm %s: %llu MiB reserved of %llu MiB of memory", name,
			    (unsigned long long)(s->memory_reserved / MiB),
			    (unsigned long long)(s->memory / MiB));
	return 0;
}

static bool pool_name_good(const char *p)
{
	if (*p == '.' || *p == '-')
		return false;
	for (; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
			return false;
	return true;
}

int vm_share_check(const struct vm_share *s, uint64_t max, unsigned cpus, const char *name)
{
	cpu_set_t set;
	int rc = check_memory(s, max, name);

	if (rc < 0)
		return rc;
	if (s->memory_shares < 1 || s->memory_shares > VM_SHARES_MAX || s->cpu_weight < 1 ||
	    s->cpu_weight > VM_SHARES_MAX)
		return fail(-EINVAL, "vm %s: shares and weights are 1 to %u", name, VM_SHARES_MAX);
	if (s->cpu_limit > 100 * cpus || s->cpu_reserved > 100 * cpus)
		return fail(-EINVAL,
			    "vm %s: %u %% of a processor are more than its %u processors; 0 to %u"
			    " can be",
			    name, MAX(s->cpu_limit, s->cpu_reserved), cpus, 100 * cpus);
	if (s->cpu_limit && s->cpu_reserved > s->cpu_limit)
		return fail(-EINVAL, "vm %s: %u %% of a processor reserved, its limit is %u %%",
			    name, s->cpu_reserved, s->cpu_limit);
	if (!pool_name_good(s->pool))
		return fail(-EINVAL, "vm %s: a pool's name is letters, digits, '.', '_', '-'",
			    name);
	return vm_share_cpus(s->cpus_allowed, &set) < 0
		       ? fail(-EINVAL, "vm %s: '%s' is no list of processors; as 0-3,8", name,
			      s->cpus_allowed)
		       : 0;
}

int vm_share_cpus(const char *text, cpu_set_t *out)
{
	CPU_ZERO(out);
	for (unsigned i = 0; !*text && i < CPU_SETSIZE; i++)
		CPU_SET(i, out);
	while (*text) {
		char *end;
		unsigned long from, to;

		if (!isdigit((unsigned char)*text))
			return -EINVAL;
		from = to = strtoul(text, &end, 10);
		if (*end == '-') {
			text = end + 1;
			if (!isdigit((unsigned char)*text))
				return -EINVAL;
			to = strtoul(text, &end, 10);
		}
		if (from > to || to >= CPU_SETSIZE || (*end && *end != ',') ||
		    (*end == ',' && !end[1]))
			return -EINVAL;
		for (; from <= to; from++)
			CPU_SET(from, out);
		text = *end ? end + 1 : end;
	}
	return 0;
}

/* --- what a call says -------------------------------------------------------------------------- */

static int take_number(struct host_call *call, const char *key, unsigned *out, bool *changed)
{
	uint64_t value = VM_NOT_SAID;
	int rc = host_arg_u64(call, key, VM_NOT_SAID, &value);

	if (rc < 0 || value == VM_NOT_SAID)
		return rc;
	*out = (unsigned)MIN(value, 1000000u); /* too much for all of them: refused as such */
	*changed = true;
	return 0;
}

static int take_text(struct host_call *call, const char *key, char *dst, size_t size, bool *changed)
{
	const char *text = host_arg(call, key);

	if (!text)
		return 0;
	*changed = true;
	if (!strcmp(text, "all") || !strcmp(text, "none"))
		text = "";
	return str_format(dst, size, "%s", text) < 0
		       ? fail(-EINVAL, "--%s: at most %zu characters", key, size - 1)
		       : 0;
}

int vm_share_args(struct vm_share *s, struct host_call *call, bool *changed)
{
	uint64_t memory = VM_NOT_SAID, reserved = VM_NOT_SAID;
	int rc = host_arg_u64(call, "memory", VM_NOT_SAID, &memory);

	if (rc == 0)
		rc = host_arg_u64(call, "memory_reservation", VM_NOT_SAID, &reserved);
	if (memory != VM_NOT_SAID)
		s->memory = memory;
	if (reserved != VM_NOT_SAID)
		s->memory_reserved = reserved;
	*changed |= memory != VM_NOT_SAID || reserved != VM_NOT_SAID;
	if (rc == 0)
		rc = take_number(call, "memory_shares", &s->memory_shares, changed);
	if (rc == 0)
		rc = take_number(call, "cpu_weight", &s->cpu_weight, changed);
	if (rc == 0)
		rc = take_number(call, "cpu_limit", &s->cpu_limit, changed);
	if (rc == 0)
		rc = take_number(call, "cpu_reservation", &s->cpu_reserved, changed);
	if (rc == 0)
		rc = take_text(call, "cpu_affinity", s->cpus_allowed, sizeof(s->cpus_allowed),
			       changed);
	if (rc == 0)
		rc = take_text(call, "pool", s->pool, sizeof(s->pool), changed);
	return rc;
}

/* --- as stored, as shown ------------------------------------------------------------------------- */

static void put(json_t *doc, const char *key, uint64_t value, uint64_t usual)
{
	if (value != usual)
		json_object_set_new(doc, key, json_integer((json_int_t)value));
}

void vm_share_record(const struct vm_share *s, uint64_t max, json_t *doc)
{
	put(doc, "memory_now", s->memory, max);
	put(doc, "memory_reserved", s->memory_reserved, VM_NOT_SAID);
	put(doc, "memory_shares", s->memory_shares, VM_SHARES_DEFAULT);
	put(doc, "cpu_weight", s->cpu_weight, VM_SHARES_DEFAULT);
	put(doc, "cpu_limit", s->cpu_limit, 0);
	put(doc, "cpu_reserved", s->cpu_reserved, 0);
	if (s->cpus_allowed[0])
		json_object_set_new(doc, "cpu_affinity", json_string(s->cpus_allowed));
	if (s->pool[0])
		json_object_set_new(doc, "pool", json_string(s->pool));
}

static uint64_t get(json_t *doc, const char *key, uint64_t usual)
{
	json_t *v = json_object_get(doc, key);

	return json_is_integer(v) && json_integer_value(v) >= 0 ? (uint64_t)json_integer_value(v)
								: usual;
}

static void get_text(json_t *doc, const char *key, char *dst, size_t size)
{
	const char *text = json_string_value(json_object_get(doc, key));

	(void)str_format(dst, size, "%s", text ? text : "");
}

void vm_share_parse(struct vm_share *s, uint64_t max, json_t *doc)
{
	vm_share_init(s, get(doc, "memory_now", max));
	s->memory_reserved = get(doc, "memory_reserved", VM_NOT_SAID);
	s->memory_shares = (unsigned)MIN(get(doc, "memory_shares", VM_SHARES_DEFAULT), UINT32_MAX);
	s->cpu_weight = (unsigned)MIN(get(doc, "cpu_weight", VM_SHARES_DEFAULT), UINT32_MAX);
	s->cpu_limit = (unsigned)MIN(get(doc, "cpu_limit", 0), UINT32_MAX);
	s->cpu_reserved = (unsigned)MIN(get(doc, "cpu_reserved", 0), UINT32_MAX);
	get_text(doc, "cpu_affinity", s->cpus_allowed, sizeof(s->cpus_allowed));
	get_text(doc, "pool", s->pool, sizeof(s->pool));
}

void vm_share_json(const struct vm_share *s, uint64_t max, json_t *doc)
{
	json_t *more = json_pack("{s:I, s:I, s:I, s:i, s:i, s:i, s:i, s:s, s:s}", "memory",
				 (json_int_t)s->memory, "memory_max", (json_int_t)max,
				 "memory_reservation", (json_int_t)vm_share_reserved(s),
				 "memory_shares", (int)s->memory_shares, "cpu_weight",
				 (int)s->cpu_weight, "cpu_limit", (int)s->cpu_limit,
				 "cpu_reservation", (int)s->cpu_reserved, "cpu_affinity",
				 s->cpus_allowed[0] ? s->cpus_allowed : "all", "pool", s->pool);

	json_object_update(doc, more);
	/* For one that is off. */
	json_object_set_new(doc, "memory_target", json_integer((json_int_t)s->memory));
	json_object_set_new(doc, "memory_used", json_null());
	json_object_set_new(doc, "guest_memory", json_null());
	json_decref(more);
}
