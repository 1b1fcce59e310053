// SPDX-License-Identifier: Apache-2.0
/*
 * vm_restore.c: a VM that is saved begins again. Like a migration's target: a VMM that runs nothing gets memory and
 * state, all of it read and checked, then the compare-and-write by which the VM is ours, and the state nobody's.
 * What fails before leaves it saved. After it the VM is one that runs: it is not ended for what does not work
 * at once, and a daemon that is started anew takes it up from its VMM.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/cpu_table.h"
#include "base/err.h"
#include "base/log.h"
#include "host/daemon.h"
#include "host/verbs.h"
#include "host/vm_cpu.h"
#include "host/vm_move.h"
#include "host/vm_net.h"
#include "host/vm_saved.h"
#include "host/volume.h"
#include "migrate/statefile.h"

#define ACCEPT_MS 50   /* between tries to find out who has the lock */
#define REMOVE_MS 3000 /* others may look at the file for a moment */
#define POLL_MS	  5

struct reading {
	struct host_vm *vm;
	struct cfs_saved reference;
	struct cfs_file *cfs;
	struct mig_file_io io;
	struct mig_file *file;
	struct cpu_table cpu;
	struct vm_loaded loaded;
};

static void step(struct reading *r, const char *name)
{
	host_step(r->vm->all->host, name);
}

/* --- what is there ---------------------------------------------------------------------------------- */

bool vm_is_saved(struct cfs *fs, const char *name)
{
	cleanup_free char *path = vm_path(name, "vm");
	struct cfs_vm_where where;

	return cfs_vm_where(fs, path, &where) == 0 && where.state == CFS_VM_SAVED;
}

void vm_saved_text(const struct cfs_saved *state, char dst[VM_STATE_TEXT])
{
	char *at = dst + str_format(dst, VM_STATE_TEXT, "%llu.", (unsigned long long)state->inode);

	for (unsigned i = 0; i < sizeof(state->id); i++)
		at += str_format(at, 3, "%02x", state->id[i]);
}

int vm_saved_parse(const char *text, struct cfs_saved *out)
{
	unsigned long long inode = 0;
	char again[VM_STATE_TEXT];
	int n = 0;

	memset(out, 0, sizeof(*out));
	if (sscanf(text, "%llu.%n", &inode, &n) != 1 || !n ||
	    strlen(text + n) != 2 * sizeof(out->id))
		return -EINVAL;
	out->inode = inode;
	for (unsigned i = 0; i < sizeof(out->id); i++) {
		char two[3] = {text[n + 2 * (int)i], text[n + 2 * (int)i + 1], 0};

		out->id[i] = (uint8_t)strtoul(two, NULL, 16);
	}
	vm_saved_text(out, again);
	return inode && !strcmp(text, again) ? 0 : -EINVAL;
}

int vm_say_saved(struct host_volume *volume, const char *name)
{
	(void)fail(-EBUSY,
		   "vm %s: is saved; let it go on with perilune vm start, or throw its state away "
		   "with perilune vm start --discard-state",
		   name);
	err_object("%s:%s", host_volume_name(volume), name);
	err_holder("its saved state");
	return -EBUSY;
}

void vm_saved_describe(struct host_volume *volume, const char *name, json_t *d)
{
	cleanup_free char *path = vm_path(name, VM_STATE_FILE);
	struct cfs_stat st;

	if (cfs_stat(host_volume_fs(volume), path, &st) < 0) {
		json_object_set_new(d, "error", json_string("its saved state is not there"));
		err_clear();
		return;
	}
	json_object_set_new(d, "saved", host_json_time(st.modified_ns));
	json_object_set_new(d, "saved_bytes", json_integer((json_int_t)st.allocated));
}

void vm_saved_remove(struct host_vm *vm)
{
	cleanup_free char *path = vm_path(vm->name, VM_STATE_FILE);
	uint64_t until = clock_boot_ms() + REMOVE_MS;
	int rc;

	while ((rc = cfs_unlink(host_volume_fs(vm->volume), path)) == -EBUSY &&
	       clock_boot_ms() < until)
		sleep_ms(POLL_MS);
	if (rc < 0 && rc != -ENOENT)
		log_warn("save", "vm %s: %s is left over: %s", vm->name, path, err_message(rc));
	err_clear();
}

/* --- reading ---------------------------------------------------------------------------------------- */

static int read_file(void *arg, void *dst, size_t n, uint64_t offset)
{
	struct reading *r = arg;
	int64_t got = cfs_pread(r->cfs, dst, n, offset);

	if (got < 0)
		return (int)got;
	return (size_t)got == n ? 0 : fail(-EUCLEAN, "the saved state is damaged: it ends early");
}

static int on_progress(void *arg, uint64_t done, uint64_t total)
{
	struct reading *r = arg;

	(void)done;
	(void)total;
	return vm_is_ending(r->vm) || atomic_load(&r->vm->all->host->ending)
		       ? fail(-ECANCELED, "vm %s: the restore was given up", r->vm->name)
		       : 0;
}

static int open_state(struct reading *r)
{
	struct host_vm *vm = r->vm;
	cleanup_free char *path = vm_path(vm->name, VM_STATE_FILE);
	struct cfs_stat st;
	int rc = cfs_open(host_volume_fs(vm->volume), path, 0, 0, &r->cfs);

	if (rc < 0) {
		r->cfs = NULL;
		return rc;
	}
	cfs_file_stat(r->cfs, &st);
	if (st.inode != r->reference.inode || memcmp(st.id, r->reference.id, sizeof(st.id)) != 0)
		return fail(-EUCLEAN, "%s is another file than the one that was saved", path);
	r->io = (struct mig_file_io){.read = read_file, .progress = on_progress, .arg = r};
	return mig_file_open(&r->io, &r->file);
}

/* The machine is what it was when it was saved; which disks it has, the volume says. */
static int take_words(struct reading *r)
{
	struct host_vm *vm = r->vm;
	struct vm_def *def = xcalloc(1, sizeof(*def)), *now = xcalloc(1, sizeof(*now));
	struct mig_file_parts parts;
	json_t *doc;
	int rc = vm_def_load(host_volume_fs(vm->volume), vm->name, now);

	mig_file_parts(r->file, &parts);
	doc = json_loadb(parts.meta, parts.meta_bytes, JSON_REJECT_DUPLICATES, NULL);
	if (rc == 0 && json_integer_value(json_object_get(doc, "version")) != VM_STATE_VERSION)
		rc = fail(-EPROTONOSUPPORT, "the saved state is of another release");
	if (rc == 0)
		rc = vm_def_parse(json_object_get(doc, "definition"), vm->name, def);
	if (rc == 0)
		rc = vm_cpu_parse(json_string_value(json_object_get(doc, "cpu")), &r->cpu);
	if (rc == 0 && (def->memory != mig_file_memory(r->file) || strcmp(def->id, now->id) != 0))
		rc = fail(-EUCLEAN, "the saved state is another machine's");
	if (rc == 0)
		rc = vm_nets_check(def, vm->name);
	if (rc == 0) {
		vm_def_take_disks(def, now);
		pthread_mutex_lock(&vm->lock);
		vm->def = *def;
		vm->held = json_is_true(json_object_get(doc, "held"));
		vm->started_ns = (uint64_t)json_integer_value(json_object_get(doc, "started_ns"));
		pthread_mutex_unlock(&vm->lock);
	}
	json_decref(doc);
	free(def);
	free(now);
	return rc;
}

static int load(struct reading *r)
{
	struct mig_file_parts parts;
	int rc;

	vm_set_step(r->vm, "reading its memory");
	rc = mig_file_load(r->file, r->vm->memory_fd);
	mig_file_parts(r->file, &parts);
	if (rc == 0)
		rc = vm_load_state(r->vm, parts.state, parts.state_bytes, 0, &r->loaded);
	return rc;
}

static void close_state(struct reading *r)
{
	mig_file_close(r->file);
	if (r->cfs)
		(void)cfs_close(r->cfs);
	r->file = NULL;
	r->cfs = NULL;
}

/* --- the lock --------------------------------------------------------------------------------------- */

/* From here on a start that is given up would end a guest that is nowhere else. */
static int commit(struct host_vm *vm)
{
	bool ending = atomic_load(&vm->all->host->ending) || vm_is_ending(vm);

	pthread_mutex_lock(&vm->lock);
	ending |= vm->killed;
	vm->committed = !ending;
	pthread_mutex_unlock(&vm->lock);
	return ending ? fail(-ECANCELED, "the restore was given up") : 0;
}

static bool is_killed(struct host_vm *vm)
{
	bool killed;

	pthread_mutex_lock(&vm->lock);
	killed = vm->killed;
	pthread_mutex_unlock(&vm->lock);
	return killed;
}

/* 0: the VM is ours; else it is not, for sure, or (unsettled) the next daemon asks. Nothing runs meanwhile. */
static int take_up(struct host_vm *vm, const struct cfs_saved *state)
{
	cleanup_free char *path = vm_path(vm->name, "vm");
	bool said = false, tried = false;
	int rc;

	for (;;) {
		rc = cfs_vm_restore(host_volume_fs(vm->volume), path, state, &tried, &vm->vm_lock);
		if (rc == 0 || rc == -ENOENT || rc == -EBUSY || atomic_load(&vm->lost))
			break;
		if (!tried && is_killed(vm)) /* nothing has changed */
			break;
		vm->unsettled = atomic_load(&vm->all->host->ending);
		if (vm->unsettled) /* the next daemon asks */
			break;
		if (!said)
			log_warn("save", "vm %s: not known yet who has its lock: %s", vm->name,
				 err_message(rc));
		said = true;
		sleep_ms(ACCEPT_MS);
	}
	return rc == -ENOENT ? fail(-EBUSY, "vm %s: somebody else was quicker: %s", vm->name,
				    err_message(rc))
			     : rc;
}

static int discard(struct host_vm *vm, const struct cfs_saved *state)
{
	int rc = take_up(vm, state);

	if (rc == 0) {
		vm_tell(vm, "its saved state is thrown away; it begins anew");
		vm_saved_remove(vm);
	}
	return rc;
}

static void run_it(struct reading *r)
{
	struct host_vm *vm = r->vm;

	step(r, "restore.accepted");
	vm->loaded = true;
	pthread_mutex_lock(&vm->lock);
	vm->adopt = vm->came = vm->stands = true; /* from here on a guest that lives */
	pthread_mutex_unlock(&vm->lock);
	vm_load_run(vm, &r->loaded, "restore.disks");
	(void)vm_remember(vm);
	step(r, "restore.resumed");
	vm_saved_remove(vm);
}

static int restore(struct host_vm *vm, const struct cfs_saved *state)
{
	struct reading *r = xcalloc(1, sizeof(*r));
	struct err_info why;
	int rc;

	r->vm = vm;
	r->reference = *state;
	vm_set_step(vm, "reading its state");
	rc = open_state(r);
	if (rc == 0)
		rc = take_words(r);
	step(r, "restore.read");
	if (rc == 0)
		rc = vm_load_machine(vm, &r->cpu);
	step(r, "restore.machine");
	if (rc == 0)
		rc = load(r);
	err_save(&why, rc);
	close_state(r);
	rc = err_restore(&why);
	step(r, "restore.loaded");
	if (vm->pid && vm_process_ended(vm)) /* the state is good for another try */
		rc = fail(-EHOSTDOWN, "its monitor died");
	if (rc == 0)
		rc = commit(vm);
	if (rc < 0)
		rc = fail_prefix(rc, "vm %s: not restored, it stays saved", vm->name);
	else
		rc = take_up(vm, state);
	if (rc == 0)
		run_it(r);
	free(r->loaded.controller);
	free(r);
	return rc;
}

int vm_saved_begin(struct host_vm *vm)
{
	cleanup_free char *path = vm_path(vm->name, "vm");
	struct cfs_vm_where where;
	int rc = cfs_vm_where(host_volume_fs(vm->volume), path, &where);

	if (rc < 0)
		return rc;
	if (where.state != CFS_VM_SAVED)
		return vm->how == VM_HOW_RESTORE
			       ? fail(-EINVAL,
				      "vm %s: is not saved; start it with perilune vm start",
				      vm->name)
			       : 0;
	if (vm->only.inode && (vm->only.inode != where.saved.inode ||
			       memcmp(vm->only.id, where.saved.id, sizeof(vm->only.id)) != 0))
		return fail(-ESTALE, "vm %s: is saved anew; that is another state than is meant",
			    vm->name);
	if (vm->how == VM_HOW_DISCARD)
		return discard(vm, &where.saved);
	rc = restore(vm, &where.saved);
	return rc < 0 ? rc : VM_SAVED_RUNS;
}

/* --- thrown away, and not started ------------------------------------------------------------------- */

int vm_saved_hold(struct host_volume *volume, const char *name, struct cfs_vm_lock **lock)
{
	cleanup_free char *path = vm_path(name, "vm");
	struct cfs *fs = host_volume_fs(volume);
	struct vm_def *def;
	struct cfs_vm_where where;
	bool tried = false;
	int rc = cfs_vm_where(fs, path, &where);

	if (rc < 0)
		return rc;
	if (where.state != CFS_VM_SAVED)
		return vm_hold(volume, name, lock);
	rc = cfs_vm_restore(fs, path, &where.saved, &tried, lock);
	if (rc < 0 && tried) { /* it may come through still */
		struct err_info why;

		err_save(&why, rc);
		cfs_vm_owe(fs, path);
		rc = err_restore(&why);
	}
	if (rc < 0)
		return rc;
	def = xcalloc(1, sizeof(*def));
	if (vm_def_load(fs, name, def) == 0)
		for (unsigned i = 0; i < def->disks; i++)
			(void)vm_disk_settle(fs, &def->disk[i], cfs_vm_lock_vbn(*lock));
	err_clear();
	free(def);
	return 0;
}
