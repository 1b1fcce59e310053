// SPDX-License-Identifier: Apache-2.0
/*
 * vm_save.c: `vm save`. The supervisor does all of it in one piece, the guest standing still: state and memory into
 * a file, durable; then the compare-and-write that makes the VM nobody's, and the file its state. Before that
 * the guest goes on where it was, whatever fails; after it the VM is saved, whoever dies.
 */
#include <errno.h>
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
#include "host/vm_saved.h"
#include "host/volume.h"
#include "migrate/statefile.h"
#include "vfs/controller.h"

#define CHANGE_MS 10000
#define DRAIN_MS  10000

struct saving {
	struct host_vm *vm;
	struct host_call *call; /* NULL: nobody looks */
	struct cfs_file *file;
	bool ran;
	bool made; /* the file is there, or a part of it */
	uint8_t *state;
	uint32_t state_bytes;
	char *meta;
	struct cfs_saved reference;
	vm_whole_fn whole;
	void *whole_arg;
	uint64_t bytes; /* of memory, written */
};

static void step(struct saving *s, const char *name)
{
	host_step(s->vm->all->host, name);
}

/* --- the file --------------------------------------------------------------------------------------- */

static int open_file(struct saving *s)
{
	struct cfs *fs = host_volume_fs(s->vm->volume);
	cleanup_free char *path = vm_path(s->vm->name, VM_STATE_FILE);
	int rc;

	vm_saved_remove(s->vm);
	s->made = true;
	rc = cfs_create(fs, path, CFS_FILE, 0);
	if (rc == 0)
		rc = cfs_open(fs, path, CFS_OPEN_WRITE, 0, &s->file);
	if (rc < 0)
		s->file = NULL;
	return rc;
}

static int write_file(void *arg, const void *src, size_t n, uint64_t offset)
{
	struct saving *s = arg;
	int64_t done = cfs_pwrite(s->file, src, n, offset);

	if (done >= 0)
		s->bytes += n;
	return (int)MIN(done, 0);
}

static int on_progress(void *arg, uint64_t done, uint64_t total)
{
	struct saving *s = arg;

	if (vm_is_ending(s->vm))
		return fail(-ECANCELED, "vm %s: not saved: it ends", s->vm->name);
	if (s->call)
		return host_progress(s->call, done, total, "writing its memory");
	return atomic_load(&s->vm->all->host->ending)
		       ? fail(-ECANCELED, "vm %s: not saved: perilund is stopping", s->vm->name)
		       : 0;
}

static int make_meta(struct saving *s)
{
	struct cpu_table *cpu = xcalloc(1, sizeof(*cpu));
	cleanup_free char *text = NULL;
	char now[40];
	json_t *doc;
	int rc = vm_cpu_get(s->vm, cpu);

	if (rc == 0) {
		text = vm_cpu_text(cpu);
		clock_rfc3339(clock_wall_ns(), now, sizeof(now));
		doc = json_pack("{s:i, s:s, s:o, s:s, s:I, s:b, s:s, s:s}", "version",
				VM_STATE_VERSION, "name", s->vm->name, "definition",
				vm_def_record(&s->vm->def), "cpu", text, "started_ns",
				(json_int_t)s->vm->started_ns, "held", s->vm->held, "host",
				s->vm->all->host->name, "saved", now);
		s->meta = json_dumps(doc, JSON_COMPACT);
		json_decref(doc);
		rc = s->meta ? 0
			     : fail(-EIO, "vm %s: its definition cannot be written", s->vm->name);
	}
	free(cpu);
	return rc;
}

/* Whole and durable; closed. */
static int write_it(struct saving *s)
{
	const struct mig_file_io io = {.write = write_file, .progress = on_progress, .arg = s};
	const struct mig_file_parts parts = {.meta = s->meta,
					     .meta_bytes = (uint32_t)strlen(s->meta),
					     .state = s->state,
					     .state_bytes = s->state_bytes};
	struct cfs_stat st;
	uint64_t size = 0;
	int rc = mig_file_write(&io, &parts, s->vm->memory_fd, s->vm->def.memory, &size), closed;

	if (rc == 0)
		rc = cfs_truncate(s->file,
				  size); /* zeroes at the end of memory are no bytes of it yet */
	if (rc == 0)
		rc = cfs_fsync(s->file);
	if (rc == 0) {
		cfs_file_stat(s->file, &st);
		s->reference.inode = st.inode;
		memcpy(s->reference.id, st.id, sizeof(s->reference.id));
	}
	closed = cfs_close(s->file);
	s->file = NULL;
	return rc < 0 ? rc : closed;
}

/* --- the guest stands still ------------------------------------------------------------------------- */

static int check(struct host_vm *vm)
{
	for (unsigned i = 0; i < vm->def.disks; i++)
		if (vm->def.disk[i].pass)
			return fail(-EOPNOTSUPP,
				    "vm %s: has LUN %s passed through, which nobody keeps as it is "
				    "while the VM is saved; detach it first",
				    vm->name, vm->def.disk[i].name);
	if (vm->resetting || (vm->phase != VM_RUNNING && !(vm->phase == VM_PAUSED && vm->held)))
		return fail(-EINVAL, "vm %s: is %s now; not saved", vm->name,
			    vm->resetting ? "being reset" : vm_state_name(vm));
	return 0;
}

/* As it was before. What does not work now is tried again by the supervisor. */
static int goes_on(struct saving *s, int why)
{
	struct host_vm *vm = s->vm;
	struct err_info saved;

	err_save(&saved, why);
	controller_unquiesce(vm->controller);
	if (s->ran)
		vm_run_on(vm);
	return err_restore(&saved);
}

/* It stands still, and nothing of it is under way. An error: it goes on, or will. */
static int stop(struct saving *s)
{
	struct host_vm *vm = s->vm;
	int rc = s->ran ? vm_call_plain(vm, VMCTL_PAUSE, VM_CALL_MS) : 0;

	if (rc == -EINVAL) /* it rebooted, or ended, just now */
		return rc;
	if (rc == 0)
		rc = controller_quiesce(vm->controller, DRAIN_MS);
	if (rc == -ETIMEDOUT)
		rc = fail(rc, "vm %s: its storage did not answer within %d ms; not saved", vm->name,
			  DRAIN_MS);
	return rc < 0 ? goes_on(s, rc) : 0;
}

/* 0: nobody runs it any more, and its state is the file's. */
static int lay_down(struct saving *s)
{
	struct host_vm *vm = s->vm;
	int rc, settled = -ENOENT;

	if (s->whole)
		s->whole(s->whole_arg, &s->reference);
	rc = cfs_vm_save(vm->vm_lock, &s->reference);
	step(s, "save.laid");
	if (rc < 0) {
		struct err_info why;

		err_save(&why, rc);
		settled = vm_settle(vm);
		if (vm->unsettled)
			return settled;
		rc = err_restore(&why);
	}
	if (settled == 0)
		return goes_on(s, rc);
	pthread_mutex_lock(&vm->lock);
	vm->moved = true;
	vm->orphan = settled != -ENOENT;
	vm->saved = !vm->orphan;
	pthread_mutex_unlock(&vm->lock);
	return vm->orphan ? fail(-ESTALE, "vm %s: this host lost its place on the volume", vm->name)
			  : 0;
}

static int take_down(struct saving *s)
{
	struct host_vm *vm = s->vm;
	int rc = check(vm);

	if (rc == 0)
		rc = make_meta(s);
	if (rc == 0)
		rc = open_file(s);
	if (rc < 0)
		return rc;
	s->ran = vm->phase == VM_RUNNING;
	step(s, "save.begun");
	rc = stop(s);
	if (rc < 0)
		return rc;
	step(s, "save.paused");
	rc = vm_make_state(vm, &s->state, &s->state_bytes);
	step(s, "save.taken");
	if (rc == 0)
		rc = write_it(s);
	step(s, "save.written");
	if (rc < 0 && vm_process_ended(vm))
		rc = fail(-EHOSTDOWN, "vm %s: not saved: its monitor died", vm->name);
	return rc < 0 ? goes_on(s, rc) : lay_down(s);
}

/*
 * What failed leaves no file. But only he who has the lock for sure may say so: while that is not known (the
 * daemon ends) the lock may name the file.
 */
static int save_here(struct host_vm *vm, void *arg)
{
	struct saving *s = arg;
	struct err_info why;
	int rc = take_down(s);

	if (rc == 0)
		return 0;
	err_save(&why, rc);
	if (s->file)
		(void)cfs_close(s->file);
	s->file = NULL;
	if (s->made && !vm->moved && !vm->unsettled)
		vm_saved_remove(vm);
	return err_restore(&why);
}

/* --- from the beginning to the end ------------------------------------------------------------------ */

int vm_save_it(struct host_vm *vm, struct host_call *call, vm_whole_fn whole, void *arg,
	       uint64_t *bytes)
{
	struct saving s = {.vm = vm, .call = call, .whole = whole, .whole_arg = arg};
	char text[256];
	int rc = vm_change_begin(vm, "it is being saved", true, CHANGE_MS);

	if (rc < 0)
		return rc;
	rc = vm_do(vm, save_here, &s);
	free(s.state);
	free(s.meta);
	if (rc < 0) {
		struct err_info why;

		err_save(&why, rc);
		(void)str_format(text, sizeof(text), "not saved: %.200s", why.message);
		vm_tell(vm, text);
		(void)err_restore(&why);
	}
	vm_change_end(vm);
	if (rc == 0)
		(void)vm_wait_ended(vm, VM_CALL_MS);
	*bytes = s.bytes;
	return rc;
}

int vm_save(struct host_call *call)
{
	uint64_t began = clock_boot_ms(), bytes = 0;
	struct host_vm *vm;
	int rc = vm_need_running(call, &vm);

	if (rc < 0)
		return rc;
	rc = vm_save_it(vm, call, NULL, NULL, &bytes);
	if (rc == 0)
		call->result = json_pack("{s:s, s:I, s:I}", "name", vm->name, "written",
					 (json_int_t)bytes, "total_ms",
					 (json_int_t)(clock_boot_ms() - began));
	vm_put(vm);
	return rc;
}
