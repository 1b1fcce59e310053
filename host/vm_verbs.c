// SPDX-License-Identifier: Apache-2.0
/* vm_verbs.c: the `vm` verbs on VMs that exist. Making one: vm_create.c. */
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
#include "host/event.h"
#include "host/names.h"
#include "host/verbs.h"
#include "host/vm_move.h"
#include "host/vm_net.h"
#include "host/vm_run.h"
#include "host/vm_saved.h"
#include "host/vm_tree.h"
#include "host/volume.h"

#define STOP_S_DEFAULT	 60
#define STOP_S_MAX	 86400
#define FREEZE_S_DEFAULT 30
#define FREEZE_S_MAX	 600
#define KILL_MS		 30000
#define ASK_MS		 15000
#define AGENT_MS	 5000 /* the guest's agent, where there is one, is waited for */
#define LOOK_MS		 200  /* between looks at a VM that starts or stops */
#define OWED                                                                                      \
	"its lock is not given up yet, since its storage fails: that is tried again until it is," \
	" and until then it can be started on this host alone"

/* --- finding -------------------------------------------------------------------------------------- */

struct search {
	struct host_vms *vms;
	const char *name;
	struct host_volumes *volumes;
	struct host_volume *hit;
	char other[64];
};

/* One that is here is there, whatever its storage says. */
static int has_vm(struct host_vms *vms, struct host_volume *volume, const char *name)
{
	cleanup_free char *path = vm_path(name, "vm");
	struct host_vm *vm = vm_find(vms, volume, name);
	struct cfs_stat st;

	if (vm) {
		vm_put(vm);
		return 0;
	}
	return cfs_stat(host_volume_fs(volume), path, &st);
}

static int search_one(void *arg, struct host_volume *volume)
{
	struct search *s = arg;
	int rc = has_vm(s->vms, volume, s->name);

	if (rc == -ENOENT) {
		err_clear();
		return 0;
	}
	if (rc < 0)
		return rc;
	if (s->hit)
		return fail(-EINVAL, "vm %s: on two volumes; say %s:%s or %s:%s", s->name,
			    host_volume_name(s->hit), s->name, host_volume_name(volume), s->name);
	return host_volume_get(s->volumes, host_volume_name(volume), &s->hit);
}

int vm_named(struct host_call *call, struct host_volume **volume, const char **name)
{
	struct search s = {.vms = call->host->vms, .volumes = call->host->volumes};
	const char *text, *colon;
	char volume_name[64];
	int rc = host_arg_need(call, "name", &text);

	if (rc < 0)
		return rc;
	colon = strchr(text, ':');
	*name = s.name = colon ? colon + 1 : text;
	rc = vm_check_name(*name);
	if (rc < 0)
		return rc;
	if (colon) {
		if (str_format(volume_name, sizeof(volume_name), "%.*s", (int)(colon - text),
			       text) < 0)
			return fail(-ENOENT, "vm %s: no such volume", text);
		rc = host_volume_get(call->host->volumes, volume_name, volume);
		if (rc < 0)
			return rc;
		rc = has_vm(call->host->vms, *volume, *name);
		if (rc < 0)
			host_volume_put(*volume);
	} else {
		rc = host_volumes_each(call->host->volumes, search_one, &s);
		if (rc < 0 && s.hit)
			host_volume_put(s.hit);
		if (rc == 0 && !s.hit)
			rc = -ENOENT;
		*volume = s.hit;
	}
	if (rc == -ENOENT) {
		rc = fail(rc, "vm %s: there is none on the mounted volumes; see perilune vm list",
			  text);
		err_object("%s", text);
	}
	return rc;
}

/* The VM that runs here, used; NULL: it does not run; -EBUSY: it runs elsewhere. */
static int find_running(struct host_call *call, struct host_vm **out)
{
	struct host_volume *volume;
	const char *name;
	char owner[64];
	int rc = vm_named(call, &volume, &name);

	if (rc < 0)
		return rc;
	*out = vm_find(call->host->vms, volume, name);
	if (!*out) {
		cleanup_free char *path = vm_path(name, "vm");

		rc = cfs_vm_owner(host_volume_fs(volume), path, owner, sizeof(owner));
		if (rc == 0) {
			rc = fail(-EBUSY, "vm %s: runs on host %s; say it there", name, owner);
			err_object("%s:%s", host_volume_name(volume), name);
			err_holder("host %s", owner);
		} else if (rc == -ENOENT) {
			err_clear();
			rc = 0;
		}
	}
	host_volume_put(volume);
	return rc;
}

int vm_need_running(struct host_call *call, struct host_vm **out)
{
	int rc = find_running(call, out);

	return rc < 0 || *out
		       ? rc
		       : fail(-EINVAL, "vm %s: does not run; start it with perilune vm start",
			      host_arg(call, "name"));
}

/* --- looking -------------------------------------------------------------------------------------- */

static void state_here(struct host_vm *vm, json_t *d)
{
	char text[VM_WHY_MAX];
	const char *why = vm_state_why(vm, text);

	vm_agent_show(vm->agent, d);
	json_object_set_new(d, "state", json_string(vm_state_name(vm)));
	json_object_set_new(d, "host", json_string(vm->all->host->name));
	json_object_set_new(d, "pid", vm->pid ? json_integer(vm->pid) : json_null());
	json_object_set_new(d, "started", host_json_time(vm->started_ns));
	if (why)
		json_object_set_new(d, "why", json_string(why));
	vm_usage_json(vm, d);
	if (atomic_load(&vm->incomplete))
		json_object_set_new(d, "memory_coming", json_true());
	pthread_mutex_lock(&vm->lock);
	if (vm->move)
		json_object_set_new(d, "moves_to", json_string(vm->move_to));
	pthread_mutex_unlock(&vm->lock);
}

static int state_elsewhere(struct host_call *call, struct host_volume *volume,
			   const struct vm_def *def, const char *name, json_t *d)
{
	cleanup_free char *path = vm_path(name, "vm");
	struct host_vms *all = call->host->vms;
	struct cfs_vm_where where;
	const char *state = "stopped";
	bool runs;
	json_t *why;
	int rc = cfs_vm_where(host_volume_fs(volume), path, &where);

	if (rc == -ENOENT) /* it is going */
		err_clear();
	else if (rc < 0)
		return rc;
	runs = where.state == CFS_VM_RUNS || where.state == CFS_VM_OFFERED;
	pthread_mutex_lock(&all->lock);
	if (where.state != CFS_VM_STOPPED && !where.here) /* it has run again since */
		json_object_del(all->crashes, def->id);
	why = json_incref(json_object_get(all->crashes, def->id));
	pthread_mutex_unlock(&all->lock);
	if (runs)
		state = "running";
	else if (where.state == CFS_VM_SAVED)
		state = "saved";
	else if (why)
		state = "crashed";
	if (!strcmp(state, "crashed"))
		json_object_set(d, "error", why);
	json_decref(why);
	if (where.state == CFS_VM_SAVED)
		vm_saved_describe(volume, name, d);
	if (where.owed)
		json_object_set_new(d, "why", json_string(OWED));
	json_object_set_new(d, "state", json_string(state));
	json_object_set_new(d, "host", runs ? json_string(where.host) : json_null());
	json_object_set_new(d, "pid", json_null());
	json_object_set_new(d, "started", json_null());
	vm_agent_show(NULL, d);
	return 0;
}

static int describe(struct host_call *call, struct host_volume *volume, const char *name,
		    json_t **out)
{
	struct vm_def *def = xcalloc(1, sizeof(*def));
	struct host_vm *vm = vm_find(call->host->vms, volume, name);
	json_t *d = json_pack("{s:s, s:s, s:n, s:n}", "name", name, "volume",
			      host_volume_name(volume), "state", "host");
	json_t *more = NULL;
	int rc = 0;

	if (vm)
		vm_get_def(vm, def);
	else
		rc = vm_def_load(host_volume_fs(volume), name, def);
	if (rc == 0)
		more = vm_def_json(def, host_volume_name(volume));
	if (more && vm)
		json_object_set_new(more, "nets", vm_def_nets_json(def, vm));
	if (rc == 0 && vm)
		state_here(vm, d);
	else if (rc == 0)
		rc = state_elsewhere(call, volume, def, name, d);
	if (more)
		json_object_update_missing(d, more);
	json_decref(more);
	if (vm)
		vm_put(vm);
	free(def);
	if (rc < 0)
		json_decref(d);
	else
		*out = d;
	return rc;
}

struct listing {
	struct host_call *call;
	struct host_volume *volume;
	json_t *names;
};

static int list_name(void *arg, const char *name, const struct cfs_stat *stat)
{
	struct listing *l = arg;

	if (stat->kind == CFS_DIR && vm_check_name(name) == 0)
		json_array_append_new(l->names, json_string(name));
	err_clear();
	return 0;
}

/* One that cannot be read is listed with its error. */
static int list_volume(void *arg, struct host_volume *volume)
{
	struct host_call *call = arg;
	struct listing l = {call, volume, json_array()};
	json_t *name, *d;
	size_t i;

	(void)cfs_readdir(host_volume_fs(volume), VM_DIR, list_name, &l);
	err_clear();
	json_array_foreach(l.names, i, name)
	{
		int rc = describe(call, volume, json_string_value(name), &d);

		if (rc < 0)
			d = json_pack("{s:O, s:s, s:s, s:n, s:s}", "name", name, "volume",
				      host_volume_name(volume), "state", "unknown", "host", "error",
				      err_message(rc));
		json_array_append_new(call->result, d);
	}
	json_decref(l.names);
	return 0;
}

static int vm_list(struct host_call *call)
{
	call->result = json_array();
	(void)host_volumes_each(call->host->volumes, list_volume, call);
	call->result = host_sorted(call->result);
	return 0;
}

static int vm_show(struct host_call *call)
{
	struct host_volume *volume;
	const char *name;
	int rc = vm_named(call, &volume, &name);

	if (rc < 0)
		return rc;
	rc = describe(call, volume, name, &call->result);
	host_volume_put(volume);
	return rc;
}

/* --- start and stop ------------------------------------------------------------------------------- */

/* Waits for what the supervisor does, saying how far it is; a cancelled task gives the start up. */
static int follow_start(struct host_call *call, struct host_vm *vm)
{
	int rc;

	while ((rc = vm_wait_started(vm, LOOK_MS)) == -ETIMEDOUT) {
		const char *step;
		int go_on;

		pthread_mutex_lock(&vm->lock);
		step = vm->step;
		pthread_mutex_unlock(&vm->lock);
		go_on = host_progress(call, 0, 0, step);
		if (go_on < 0) {
			vm_give_up_soon(vm);
			return go_on;
		}
	}
	return rc;
}

/* Takes the use of `volume`. */
static int start(struct host_call *call, struct host_volume *volume, const char *name,
		 enum vm_how how)
{
	struct vm_def *def = xcalloc(1, sizeof(*def));
	const char *state = host_arg(call, "state"); /* not for people: the balancer's */
	struct cfs_saved only = {0};
	struct host_vm *vm;
	int rc = vm_def_load(host_volume_fs(volume), name, def);

	if (rc == 0 && state && (how != VM_HOW_RESTORE || vm_saved_parse(state, &only) < 0))
		rc = fail(-EINVAL, "vm %s: state %s: is none", name, state);
	if (rc == 0)
		rc = host_maintenance_check(call->host);
	if (rc == 0 && !def->has_kernel && !def->firmware)
		rc = fail(-EINVAL, "vm %s: has no kernel; make it with --kernel or --boot disk",
			  name);
	if (rc == 0 && def->firmware)
		rc = vm_check_firmware(call->host);
	if (rc == 0)
		rc = vm_launch(call->host->vms, volume, name, def, how, &only, NULL, &vm);
	else
		host_volume_put(volume);
	free(def);
	if (rc < 0)
		return rc;
	rc = follow_start(call, vm);
	vm_put(vm);
	return rc;
}

static int start_as(struct host_call *call, enum vm_how how)
{
	struct host_volume *volume, *again;
	const char *name;
	int rc = vm_named(call, &volume, &name);

	if (rc < 0)
		return rc;
	rc = host_volume_get(call->host->volumes, host_volume_name(volume), &again);
	if (rc == 0)
		rc = start(call, again, name, how);
	if (rc == 0)
		rc = describe(call, volume, name, &call->result);
	host_volume_put(volume);
	return rc;
}

/* One that is saved goes on where it was, unless that is thrown away. */
static int vm_start(struct host_call *call)
{
	return start_as(call, host_arg_bool(call, "discard_state") ? VM_HOW_DISCARD : VM_HOW_ANY);
}

static int vm_restore(struct host_call *call)
{
	return start_as(call, VM_HOW_RESTORE);
}

static int need_timeout(struct host_call *call, uint64_t *seconds)
{
	int rc = host_arg_u64(call, "timeout", STOP_S_DEFAULT, seconds);

	if (rc == 0 && (*seconds < 1 || *seconds > STOP_S_MAX))
		rc = fail(-EINVAL, "--timeout: 1 to %d seconds", STOP_S_MAX);
	return rc;
}

/* It is over here; but another host may have it, or the next daemon. */
static int not_moved(struct host_vm *vm)
{
	char to[64] = "", object[200];
	bool saved, left;

	pthread_mutex_lock(&vm->lock);
	saved = vm->saved;
	left = vm->left;
	if (vm->moved)
		memcpy(to, vm->move_to, sizeof(to));
	pthread_mutex_unlock(&vm->lock);
	if (saved)
		return vm_say_saved(vm->volume, vm->name);
	if (left)
		return fail(-ESHUTDOWN,
			    "vm %s: perilund is stopping, and leaves it as it is; say it again to"
			    " the next one",
			    vm->name);
	if (!to[0])
		return 0;
	(void)fail(-EBUSY, "vm %s: moved to host %s meanwhile; say it there", vm->name, to);
	err_object("%s", vm_object(vm, object));
	err_holder("host %s", to);
	return -EBUSY;
}

/*
 * The guest's own way, then wait: its agent is asked, or its ACPI button is pressed where none answers, or one
 * has not done it.
 */
static int power_off(struct host_call *call, struct host_vm *vm, uint64_t seconds)
{
	uint64_t until = clock_boot_ms() + seconds * 1000,
		 button = clock_boot_ms() + seconds * 1000 / 2;
	bool pressed = false;
	int rc;

	vm_move_break(vm, "it is being stopped");
	if (vm_agent_shutdown(vm->agent, AGENT_MS) < 0) {
		err_clear();
		button = 0;
	}
	rc = 0;
	while (rc == 0 && vm_wait_ended(vm, pressed || button ? LOOK_MS : 0) == -ETIMEDOUT) {
		if (!pressed && clock_boot_ms() >= button) {
			pressed = true;
			rc = vm_ask(vm, VM_ASK_BUTTON, ASK_MS);
			continue;
		}
		rc = host_progress(call, 0, 0, "the guest shuts down");
		if (rc == 0 && clock_boot_ms() >= until) {
			char text[VM_WHY_MAX];
			const char *why = vm_state_why(vm, text);

			rc = fail(-ETIMEDOUT,
				  "vm %s: the guest has not powered off within %llu s%s%s; wait"
				  " longer (--timeout), or end it with perilune vm kill",
				  vm->name, (unsigned long long)seconds, why ? ": " : "",
				  why ? why : "");
			err_object("%s:%s", host_volume_name(vm->volume), vm->name);
		}
	}
	return rc < 0 ? rc : not_moved(vm);
}

/* For what is done to a VM that runs. */
static int ask(struct host_vm *vm, enum vm_ask what)
{
	int rc = vm_ask(vm, what, ASK_MS);

	if (rc != VM_ASK_ENDED)
		return rc;
	rc = not_moved(vm);
	return rc < 0 ? rc : fail(-EINVAL, "vm %s: ended before it could be obeyed", vm->name);
}

/* One that is off already is as it should be. */
static int vm_stop(struct host_call *call)
{
	struct host_vm *vm;
	uint64_t seconds;
	int rc = need_timeout(call, &seconds);

	if (rc == 0)
		rc = find_running(call, &vm);
	if (rc < 0 || !vm)
		return rc;
	rc = power_off(call, vm, seconds);
	vm_put(vm);
	return rc;
}

static int kill_one(struct host_vm *vm)
{
	int rc;

	vm_kill_soon(vm);
	rc = vm_wait_ended(vm, KILL_MS);
	if (rc == 0)
		return not_moved(vm);
	return rc == -ETIMEDOUT ? fail(rc,
				       "vm %s: is not over after %d s, its storage may hang; it"
				       " ends as soon as it can",
				       vm->name, KILL_MS / 1000)
				: rc;
}

static int vm_kill(struct host_call *call)
{
	struct host_vm *vm;
	int rc = find_running(call, &vm);

	if (rc < 0 || !vm)
		return rc;
	rc = kill_one(vm);
	vm_put(vm);
	return rc;
}

/* As a person would: off by its button, then on; --force: its reset button. */
static int vm_reboot(struct host_call *call)
{
	struct host_volume *volume = NULL;
	char name[VM_NAME_MAX + 1];
	struct host_vm *vm;
	uint64_t seconds;
	int rc = need_timeout(call, &seconds);

	if (rc == 0)
		rc = vm_need_running(call, &vm);
	if (rc < 0)
		return rc;
	memcpy(name, vm->name, sizeof(name));
	if (host_arg_bool(call, "force")) {
		rc = ask(vm, VM_ASK_RESET);
	} else {
		rc = host_volume_get(call->host->volumes, host_volume_name(vm->volume), &volume);
		if (rc == 0)
			rc = power_off(call, vm, seconds);
	}
	vm_put(vm);
	if (!volume)
		return rc;
	if (rc == 0)
		return start(call, volume, name, VM_HOW_ANY);
	host_volume_put(volume);
	return rc;
}

static int ask_running(struct host_call *call, enum vm_ask what)
{
	struct host_vm *vm;
	int rc = vm_need_running(call, &vm);

	if (rc < 0)
		return rc;
	rc = ask(vm, what);
	vm_put(vm);
	return rc;
}

/* It stands still until `vm resume`; one that stands still already is as it should be. */
static int vm_pause(struct host_call *call)
{
	return ask_running(call, VM_ASK_PAUSE);
}

static int vm_resume(struct host_call *call)
{
	return ask_running(call, VM_ASK_RESUME);
}

/* --- the guest's agent ------------------------------------------------------------------------------ */

static int vm_freeze(struct host_call *call)
{
	unsigned count = 0;
	struct host_vm *vm;
	uint64_t seconds;
	int rc = host_arg_u64(call, "for", FREEZE_S_DEFAULT, &seconds);

	if (rc == 0 && (seconds < 1 || seconds > FREEZE_S_MAX))
		rc = fail(-EINVAL, "--for: 1 to %d seconds", FREEZE_S_MAX);
	if (rc == 0)
		rc = vm_need_running(call, &vm);
	if (rc < 0)
		return rc;
	rc = vm_agent_freeze(vm->agent, (unsigned)seconds * 1000, &count);
	vm_put(vm);
	if (rc == 0)
		call->result = json_pack("{s:i}", "filesystems", (int)count);
	return rc;
}

static int vm_thaw(struct host_call *call)
{
	struct host_vm *vm;
	int rc = vm_need_running(call, &vm);

	if (rc < 0)
		return rc;
	rc = vm_agent_thaw(vm->agent);
	vm_put(vm);
	return rc;
}

/* --- console -------------------------------------------------------------------------------------- */

/* The API's thread: hands the socket to the supervisor; -1: the client went before. */
static void attach_console(void *arg, int fd)
{
	struct host_vm *vm = arg;

	if (fd >= 0)
		vm_give_client(vm, fd);
	vm_put(vm);
}

static int vm_console(struct host_call *call)
{
	struct host_vm *vm;
	int rc = vm_need_running(call, &vm);

	if (rc < 0)
		return rc;
	call->upgrade = attach_console;
	call->upgrade_arg = vm;
	return 0;
}

/* What it has said on this host, also when it is off. */
static int vm_console_log(struct host_call *call)
{
	cleanup_free char *path = NULL;
	struct host_volume *volume;
	char volume_name[64], id[40];
	const char *name;
	int rc = vm_named(call, &volume, &name);

	if (rc < 0)
		return rc;
	cfs_names(host_volume_fs(volume), volume_name, id);
	host_volume_put(volume);
	path = vm_console_path(call->host, id, name);
	call->answer_fd = open(path, O_RDONLY | O_CLOEXEC);
	return call->answer_fd < 0 ? fail(-ENOENT, "vm %s: has said nothing on this host", name)
				   : 0;
}

/* --- rename, delete ------------------------------------------------------------------------------- */

int vm_hold(struct host_volume *volume, const char *name, struct cfs_vm_lock **lock)
{
	cleanup_free char *path = vm_path(name, "vm");
	struct err_info why;
	char owner[64];
	int rc = cfs_vm_lock(host_volume_fs(volume), path, 0, lock);

	if (rc != -EBUSY)
		return rc;
	err_save(&why, rc);
	if (vm_is_saved(host_volume_fs(volume), name))
		return vm_say_saved(volume, name);
	if (cfs_vm_owner(host_volume_fs(volume), path, owner, sizeof(owner)) == 0) {
		rc = fail(-EBUSY, "vm %s: runs on host %s; say it there, or stop it first", name,
			  owner);
		err_holder("host %s", owner);
	} else {
		rc = err_restore(&why);
	}
	err_object("%s:%s", host_volume_name(volume), name);
	return rc;
}

static int vm_rename(struct host_call *call)
{
	struct host_volume *volume;
	struct cfs_vm_lock *lock;
	const char *name, *to;
	int rc = host_arg_need(call, "to", &to);

	if (rc == 0)
		rc = vm_check_name(to);
	if (rc == 0)
		rc = vm_named(call, &volume, &name);
	if (rc < 0)
		return rc;
	rc = vm_hold(volume, name, &lock);
	if (rc == 0) {
		cleanup_free char *old = vm_path(name, NULL), *new = vm_path(to, NULL);

		rc = cfs_rename(host_volume_fs(volume), old, new);
		if (rc == 0)
			rc = cfs_sync_names(host_volume_fs(volume));
		(void)cfs_vm_unlock(lock);
	}
	if (rc == 0)
		host_event(call->host->events, "vm", to, "renamed from %s", name);
	host_volume_put(volume);
	return rc;
}

/* It gets a name that is no VM's, then its parts go; its disks stay. */
static int vm_delete(struct host_call *call)
{
	struct host_volume *volume;
	struct cfs_vm_lock *lock;
	const char *name;
	int rc = vm_named(call, &volume, &name);

	if (rc < 0)
		return rc;
	rc = host_arg_bool(call, "discard_state") ? vm_saved_hold(volume, name, &lock)
						  : vm_hold(volume, name, &lock);
	if (rc == 0) {
		struct cfs *fs = host_volume_fs(volume);
		cleanup_free char *old = vm_path(name, NULL),
				  *gone = vm_hidden_path(call->host, fs, "deleted");

		rc = cfs_rename(fs, old, gone);
		(void)cfs_vm_unlock(lock);
		if (rc == 0)
			rc = vm_tree_delete(fs, gone);
		if (rc == 0)
			rc = cfs_sync_names(fs);
	}
	if (rc == 0)
		host_event(call->host->events, "vm", name, "deleted");
	host_volume_put(volume);
	return rc;
}

const struct host_verb host_vm_verbs[] = {
	{"vm", "create", HOST_CHANGES | HOST_TASK, vm_create},
	{"vm", "start", HOST_CHANGES | HOST_TASK, vm_start},
	{"vm", "stop", HOST_CHANGES | HOST_TASK, vm_stop},
	{"vm", "kill", HOST_CHANGES, vm_kill},
	{"vm", "migrate", HOST_CHANGES | HOST_TASK, vm_migrate},
	{"vm", "save", HOST_CHANGES | HOST_TASK, vm_save},
	{"vm", "restore", HOST_CHANGES | HOST_TASK, vm_restore},
	{"vm", "reboot", HOST_CHANGES | HOST_TASK, vm_reboot},
	{"vm", "pause", HOST_CHANGES, vm_pause},
	{"vm", "resume", HOST_CHANGES, vm_resume},
	{"vm", "freeze", HOST_CHANGES, vm_freeze},
	{"vm", "thaw", HOST_CHANGES, vm_thaw},
	{"vm", "list", 0, vm_list},
	{"vm", "show", 0, vm_show},
	{"vm", "console", 0, vm_console},
	{"vm", "console-log", 0, vm_console_log},
	{"vm", "rename", HOST_CHANGES, vm_rename},
	{"vm", "delete", HOST_CHANGES, vm_delete},
	{NULL, NULL, 0, NULL},
};
