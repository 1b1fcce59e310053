// SPDX-License-Identifier: Apache-2.0
/* vm_verbs.c: the verbs of VMs that exist: start, stop, kill, reboot, list, show, console. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/verbs.h"
#include "host/vm_run.h"
#include "host/vm_verbs.h"
#include "host/volume.h"

#define START_WAIT_MS	   180000 /* a dead host's takeover included */
#define WAIT_STEP_MS	   500
#define ASK_MS		   15000
#define STOP_TIMEOUT_S	   60
#define STOP_TIMEOUT_MAX_S 86400
#define KILL_WAIT_MS	   30000

struct search {
	const char *name;
	struct host_volume *hit;
	bool two;
};

static int search_one(void *arg, struct host_volume *v)
{
	struct search *s = arg;
	cleanup_free char *object = vm_path(s->name, "vm");
	struct cfs_stat st;
	int rc = cfs_stat(host_volume_fs(v), object, &st);

	if (rc == -ENOENT) {
		err_clear();
		return 0;
	}
	if (rc < 0)
		return rc;
	s->two = s->hit != NULL;
	s->hit = v;
	return s->two;
}

static int not_found(const char *name)
{
	(void)fail(-ENOENT, "vm %s: there is none on the mounted volumes; see perilune vm list",
		   name);
	err_object("%s", name);
	return -ENOENT;
}

int vm_resolve(struct host_call *call, struct host_volume **volume, const char **name)
{
	struct host_volumes *all = call->host->volumes;
	struct search s = {0};
	const char *given, *colon;
	char text[64];
	int rc = host_arg_need(call, "name", &given);

	if (rc < 0)
		return rc;
	colon = strchr(given, ':');
	s.name = *name = colon ? colon + 1 : given;
	rc = vm_check_name(*name);
	if (rc < 0)
		return rc;
	if (colon) {
		if (str_format(text, sizeof(text), "%.*s", (int)(colon - given), given) < 0)
			return fail(-EINVAL, "%s: a volume's name has at most 63 bytes", given);
		rc = host_volume_get(all, text, volume);
		if (rc < 0)
			return rc;
		rc = search_one(&s, *volume);
		if (rc == 0 && !s.hit)
			rc = not_found(given);
		if (rc < 0)
			host_volume_put(*volume);
		return rc;
	}
	rc = host_volumes_each(all, search_one, &s);
	if (s.two)
		return fail(-EINVAL, "vm %s: two volumes have one; say VOLUME:%s", given, given);
	if (rc == 0 && !s.hit)
		rc = not_found(given);
	/* Found among used volumes; used anew by name, it may have gone in between. */
	return rc < 0 ? rc : host_volume_get(all, host_volume_name(s.hit), volume);
}

/* Who runs it elsewhere: -EBUSY with the holder; 0: nobody. */
int vm_refuse_elsewhere(struct host_volume *v, const char *name)
{
	cleanup_free char *object = vm_path(name, "vm");
	char owner[80];
	int rc = cfs_vm_owner(host_volume_fs(v), object, owner, sizeof(owner));

	if (rc == -ENOENT) {
		err_clear();
		return 0;
	}
	if (rc < 0)
		return rc;
	(void)fail(-EBUSY, "vm %s: runs on host %s; say it there", name, owner);
	err_object("%s", name);
	err_holder("%s", owner);
	return -EBUSY;
}

static void describe_here(struct host_vm *vm, json_t *d)
{
	pthread_mutex_lock(&vm->lock);
	json_object_set_new(d, "state", json_string(vm_phase_name(vm->phase)));
	json_object_set_new(d, "pid", json_integer(vm->pid));
	json_object_set_new(d, "started", host_json_time(vm->started_ns));
	json_object_set_new(d, "panicked", json_boolean(vm->panicked));
	pthread_mutex_unlock(&vm->lock);
	json_object_set_new(d, "host", json_string(vm->all->host->name));
}

static void describe_elsewhere(struct host_vms *all, struct host_volume *v, const char *name,
			       json_t *d)
{
	cleanup_free char *object = vm_path(name, "vm"), *key = NULL;
	struct cfs_info *info = xcalloc(1, sizeof(*info));
	const char *why = NULL;
	char owner[80] = "";
	int rc = cfs_vm_owner(host_volume_fs(v), object, owner, sizeof(owner));

	if (rc < 0)
		err_clear();
	if (cfs_info(host_volume_fs(v), info) == 0) {
		key = xasprintf("%s/%s", info->id, name);
		pthread_mutex_lock(&all->lock);
		why = json_string_value(json_object_get(all->crashes, key));
		if (rc < 0 && why)
			json_object_set_new(d, "error", json_string(why));
		pthread_mutex_unlock(&all->lock);
	}
	free(info);
	json_object_set_new(d, "state",
			    json_string(rc == 0 ? "running"
					: why	? "crashed"
						: "stopped"));
	json_object_set_new(d, "host", rc == 0 ? json_string(owner) : json_null());
	json_object_set_new(d, "pid", json_null());
	json_object_set_new(d, "started", json_null());
}

static json_t *describe(struct host_vms *all, struct host_volume *v, const char *name)
{
	struct vm_def *def = xcalloc(1, sizeof(*def));
	struct host_vm *vm = vm_find(all, v, name);
	int rc = vm_def_load(host_volume_fs(v), name, def);
	json_t *d = rc == 0 ? vm_def_json(def, host_volume_name(v)) : NULL;

	if (!d) {
		d = json_pack("{s:n, s:n, s:[], s:[], s:s, s:s}", "memory", "cpus", "disks", "nets",
			      "policy", "manual", "error", err_message(rc));
		err_clear();
	}
	free(def);
	json_object_set_new(d, "name", json_string(name));
	json_object_set_new(d, "volume", json_string(host_volume_name(v)));
	if (vm) {
		describe_here(vm, d);
		vm_put(vm);
	} else {
		describe_elsewhere(all, v, name, d);
	}
	return d;
}

static int vm_show(struct host_call *call)
{
	struct host_volume *v;
	const char *name;
	int rc = vm_resolve(call, &v, &name);

	if (rc < 0)
		return rc;
	call->result = describe(call->host->vms, v, name);
	host_volume_put(v);
	return 0;
}

static int add_dir(void *arg, const char *name, const struct cfs_stat *st)
{
	if (st->kind == CFS_DIR)
		json_array_append_new(arg, json_string(name));
	return 0;
}

static int list_volume(void *arg, struct host_volume *v)
{
	struct host_call *call = arg;
	json_t *names = json_array(), *name;
	int rc = cfs_readdir(host_volume_fs(v), VM_DIR, add_dir, names);
	size_t i;

	json_array_foreach(names, i, name)
	{
		cleanup_free char *object = vm_path(json_string_value(name), "vm");
		struct cfs_stat st;

		if (cfs_stat(host_volume_fs(v), object, &st) == 0)
			json_array_append_new(call->result, describe(call->host->vms, v,
								     json_string_value(name)));
	}
	json_decref(names);
	err_clear();
	return rc == -ENOENT ? 0 : rc;
}

static int vm_list(struct host_call *call)
{
	call->result = json_array();
	return host_volumes_each(call->host->volumes, list_volume, call);
}

static int vm_start(struct host_call *call)
{
	struct host_volume *v;
	struct host_vm *vm;
	struct vm_def *def;
	const char *name;
	int rc = vm_resolve(call, &v, &name);

	if (rc < 0)
		return rc;
	def = xcalloc(1, sizeof(*def));
	rc = vm_def_load(host_volume_fs(v), name, def);
	if (rc == 0)
		rc = host_progress(call, 0, 0, "starting");
	if (rc == 0)
		rc = vm_launch(call->host->vms, v, name, def, NULL, &vm); /* takes `v` */
	else
		host_volume_put(v);
	free(def);
	if (rc < 0)
		return rc;
	for (unsigned ms = 0;;
	     ms += WAIT_STEP_MS) { /* in steps: it can be cancelled, the VM stays */
		rc = vm_wait_started(vm, WAIT_STEP_MS);
		if (rc != -ETIMEDOUT || ms >= START_WAIT_MS ||
		    host_progress(call, ms / 1000, 0, "starting") < 0)
			break;
	}
	if (rc == 0)
		call->result = json_pack("{s:s, s:s, s:i}", "name", vm->name, "host",
					 call->host->name, "pid", (int)vm->pid);
	vm_put(vm);
	return rc;
}

/* The VM that runs here: 0 and a use; 0 and NULL: it is stopped; -EBUSY: elsewhere. */
static int running_vm(struct host_call *call, struct host_vm **out)
{
	struct host_volume *v;
	const char *name;
	int rc = vm_resolve(call, &v, &name);

	*out = NULL;
	if (rc < 0)
		return rc;
	*out = vm_find(call->host->vms, v, name);
	if (!*out)
		rc = vm_refuse_elsewhere(v, name);
	host_volume_put(v);
	return rc;
}

static int must_run(struct host_call *call, struct host_vm **out)
{
	int rc = running_vm(call, out);

	if (rc == 0 && !*out)
		rc = fail(-EINVAL, "vm %s: does not run; see perilune vm start",
			  host_arg(call, "name"));
	return rc;
}

static int wait_end(struct host_call *call, struct host_vm *vm, unsigned timeout_s)
{
	uint64_t began = clock_boot_ms(), limit = began + 1000ULL * timeout_s;
	int rc = -ETIMEDOUT;

	while (rc == -ETIMEDOUT && clock_boot_ms() < limit) {
		rc = vm_wait_ended(vm, (unsigned)MIN(500, limit - clock_boot_ms()));
		if (rc == -ETIMEDOUT && host_progress(call, (clock_boot_ms() - began) / 1000,
						      timeout_s, "waiting for the guest") < 0)
			return -ECANCELED;
	}
	return rc;
}

static int vm_stop(struct host_call *call)
{
	struct host_vm *vm = NULL;
	uint64_t timeout_s;
	int rc = host_arg_u64(call, "timeout", STOP_TIMEOUT_S, &timeout_s);

	if (rc == 0 && timeout_s > STOP_TIMEOUT_MAX_S)
		rc = fail(-EINVAL, "--timeout: at most %d seconds", STOP_TIMEOUT_MAX_S);
	if (rc == 0)
		rc = running_vm(call, &vm);
	if (rc < 0)
		return rc;
	if (vm) {
		rc = vm_ask(vm, VM_ASK_BUTTON, ASK_MS);
		if (rc == 0 || rc == -ENOENT)
			rc = wait_end(call, vm, (unsigned)timeout_s);
		if (rc == -ETIMEDOUT)
			rc = fail(rc,
				  "vm %s: the guest did not power off within %llu s and runs on;"
				  " perilune vm kill %s ends it",
				  vm->name, (unsigned long long)timeout_s, vm->name);
		vm_put(vm);
	}
	if (rc == 0)
		call->result = json_pack("{s:s}", "state", "stopped");
	return rc;
}

static int vm_kill(struct host_call *call)
{
	struct host_vm *vm;
	int rc = running_vm(call, &vm);

	if (rc == 0 && vm) {
		rc = vm_ask(vm, VM_ASK_KILL, ASK_MS);
		if (rc == 0 || rc == -ENOENT)
			rc = vm_wait_ended(vm, KILL_WAIT_MS);
		if (rc == -ETIMEDOUT)
			rc = fail(rc, "vm %s: does not end; its storage may hang", vm->name);
		vm_put(vm);
	}
	if (rc == 0)
		call->result = json_pack("{s:s}", "state", "stopped");
	return rc;
}

static int vm_reboot(struct host_call *call)
{
	struct host_vm *vm;
	int rc = must_run(call, &vm);

	if (rc < 0)
		return rc;
	rc = vm_ask(vm, VM_ASK_RESET, ASK_MS);
	vm_put(vm);
	return rc;
}

/* The API's thread: hands the socket to the supervisor. */
static void attach(void *arg, int fd)
{
	struct host_vm *vm = arg;

	if (fd >= 0) {
		pthread_mutex_lock(&vm->lock);
		if (vm->phase == VM_ENDED || vm->new_client >= 0)
			close(fd);
		else
			vm->new_client = fd;
		pthread_mutex_unlock(&vm->lock);
		vm_wake(vm);
	}
	vm_put(vm);
}

static int vm_console(struct host_call *call)
{
	struct host_vm *vm;
	int rc = must_run(call, &vm);

	if (rc < 0)
		return rc;
	call->upgrade = attach;
	call->upgrade_arg = vm;
	return 0;
}

static int vm_console_log(struct host_call *call)
{
	cleanup_free char *path = NULL;
	struct host_volume *v;
	struct vm_def *def;
	const char *name;
	int rc = vm_resolve(call, &v, &name);

	if (rc < 0)
		return rc;
	def = xcalloc(1, sizeof(*def));
	rc = vm_def_load(host_volume_fs(v), name, def);
	host_volume_put(v);
	path = xasprintf("%s/vm/%.13s.console", call->host->state.dir, def->id);
	free(def);
	if (rc < 0)
		return rc;
	call->answer_fd = open(path, O_RDONLY | O_CLOEXEC);
	return call->answer_fd < 0 ? fail(-ENOENT, "vm %s: has said nothing on this host", name)
				   : 0;
}

const struct host_verb host_vm_verbs[] = {
	{"vm", "list", 0, vm_list},
	{"vm", "show", 0, vm_show},
	{"vm", "start", HOST_CHANGES | HOST_TASK, vm_start},
	{"vm", "stop", HOST_CHANGES | HOST_TASK, vm_stop},
	{"vm", "kill", HOST_CHANGES | HOST_TASK, vm_kill},
	{"vm", "reboot", HOST_CHANGES, vm_reboot},
	{"vm", "console", 0, vm_console},
	{"vm", "console-log", 0, vm_console_log},
	{NULL, NULL, 0, NULL},
};
