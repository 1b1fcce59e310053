// SPDX-License-Identifier: Apache-2.0
/*
 * vm_hotplug.c: `vm attach` and `vm detach`, of a VM that runs here or of one that is off.
 *
 * Who has a disk is said in two places: the definition says which disks a VM has, a disk's lock says
 * which VM uses it now. A disk that comes or goes stands in the definition as `pending` while its lock
 * may say more than that, so that whoever has the VM next, this daemon's successor or another host, finds
 * the lock and gives it up; a pending disk is not the VM's. The definition decides:
 *
 *	attach	pending, durable | the lock | durable: it is the VM's | the guest is told
 *	detach	the guest has let go | pending, durable: it is not the VM's | the lock | durable: gone
 *
 * A crash before the bar that makes it so leaves all as it was, one behind it all as it was wanted.
 *
 * A guest is asked whether it has a disk mounted, if it has an agent. Otherwise what is known is what it does:
 * a disk that it keeps using is not taken from it. Then it is told, flushes and falls silent, and only then the disk goes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/agent_words.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/holder.h"
#include "host/names.h"
#include "host/verbs.h"
#include "host/vm_pass.h"
#include "host/vm_run.h"
#include "host/volume.h"
#include "vfs/controller.h"

#define CHANGE_MS    60000 /* it may be starting; another disk may be on its way out */
#define LOOK_MS	     10
#define IDLE_MS	     300   /* without a command for that long: the guest does not use it now */
#define DRAIN_MS     5000  /* in use for that long: it is in use */
#define SILENT_MS    100   /* after its flush */
#define UNHEARD_MS   500   /* for a guest that cannot be told */
#define UNFLUSHED_MS 2000  /* for one that was told and has nothing to flush */
#define LET_GO_MS    30000 /* for what the guest has to write back */
#define FORCE_MS     5000
#define AGENT_MS     5000 /* the guest's agent, where there is one, is waited for */

static const char no_agent[] =
	"without an agent in the guest nobody knows whether it has the disk mounted";
static const char by_force[] =
	"by force: the guest was not asked whether it uses the disk, or has it mounted; what it had"
	" not written to it yet is lost";

void vm_addresses_rested(struct host_vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->def.freed = 0;
	pthread_mutex_unlock(&vm->lock);
}

/* --- the disk that was named --------------------------------------------------------------------- */

struct plug {
	struct host_call *call;
	struct host_volume *volume; /* the VM's, used */
	const char *name;	    /* the VM's */
	const char *text;	    /* the disk, or LUN, as it was said */
	struct vm_def_disk disk;
	int want; /* the address that was asked for; -1: any */
	bool force;
	bool asked; /* the guest's agent has said that it is not mounted */
	unsigned lun;
};

static int take_disk(struct plug *p)
{
	char volume[64];
	const char *path;
	int rc = host_split_name(p->text, volume, &path);

	if (rc < 0)
		return rc;
	if (str_format(p->disk.path, sizeof(p->disk.path), "%s", path) < 0)
		return fail(-EINVAL, "%s: a disk's path has at most %zu bytes", p->text,
			    sizeof(p->disk.path) - 1);
	if (strcmp(volume, host_volume_name(p->volume)))
		return fail(
			-EINVAL,
			"vm %s: disk %s lies on another volume than %s; a VM's disks lie on its own"
			" volume",
			p->name, p->text, host_volume_name(p->volume));
	return 0;
}

static int check_kind(struct plug *p)
{
	struct cfs_stat st;
	int rc = cfs_stat(host_volume_fs(p->volume), p->disk.path, &st);

	if (rc == 0 && st.kind != CFS_DISK)
		rc = fail(-EINVAL, "%s: a %s, not a disk", p->text, host_kind_name(st.kind));
	return rc;
}

static int has_it_already(struct plug *p, unsigned lun)
{
	(void)fail(-EBUSY, "vm %s: has disk %s already, as LUN %u", p->name, p->text, lun);
	err_object("%s", p->text);
	err_holder("vm %s", p->name);
	return -EBUSY;
}

static int has_not(struct plug *p)
{
	int rc = fail(-ENOENT, "vm %s: has no disk %s; see perilune vm show %s", p->name, p->text,
		      p->name);

	err_object("%s", p->text);
	return rc;
}

/* Who has it, for -EBUSY of its lock. */
static int name_holder(struct plug *p, int rc)
{
	return p->disk.pass ? rc : host_name_holder(p->volume, p->disk.path, rc);
}

/* Puts it at the end of `def`, as the VM's or on its way. */
static int add(struct plug *p, struct vm_def *def, bool pending)
{
	int at = vm_def_find(def, p->disk.path), rc;

	if (at >= 0)
		return has_it_already(p, def->disk[at].lun);
	rc = vm_def_pick_lun(def, p->name, p->want, &p->lun);
	if (rc == 0)
		rc = vm_def_add(def, p->name, p->disk.path, p->lun);
	if (rc < 0)
		return rc;
	p->disk.lun = p->lun;
	p->disk.pending = pending;
	def->disk[def->disks - 1] = p->disk;
	return 0;
}

static int store(struct host_vm *vm, const struct vm_def *def)
{
	int rc = vm_def_replace(host_volume_fs(vm->volume), vm->name, def);

	if (rc == 0)
		vm_set_disks(vm, def);
	return rc;
}

/* --- attach -------------------------------------------------------------------------------------- */

/* The lock is had, or is given up again; `why` is the error that ends it. */
static int undo(struct host_vm *vm, struct vm_def *def, int why)
{
	unsigned last = def->disks - 1;
	bool clean = vm->open[last].file || why == -EBUSY || why == -ENOENT || why == -EINVAL;
	struct err_info saved;

	err_save(&saved, why);
	/* One whose lock may name the VM still stays pending, to be settled later. */
	if (vm_disk_close(vm, last) == 0 && clean) {
		vm_def_remove(def, last, false);
		(void)store(vm, def);
	}
	return err_restore(&saved);
}

static int attach_here(struct plug *p, struct host_vm *vm, struct vm_def *def)
{
	unsigned last;
	int rc = vm_disks_settle(vm, true);

	if (rc < 0)
		return rc;
	*def = vm->def;
	rc = add(p, def, true);
	if (rc == 0)
		rc = store(vm, def);
	if (rc < 0)
		return rc;
	last = def->disks - 1;
	rc = vm_disk_open(vm, last);
	if (rc < 0)
		return undo(vm, def, name_holder(p, rc));
	def->disk[last].pending = false;
	rc = store(vm, def);
	if (rc == 0)
		rc = vm_disk_show(vm, last, false);
	if (rc < 0) {
		def->disk[last].pending = true;
		return undo(vm, def, rc);
	}
	return 0;
}

static int attach_live(struct plug *p, struct host_vm *vm)
{
	struct vm_def *def;
	int rc = vm_change_begin(vm, "a disk is being attached", false, CHANGE_MS);

	if (rc < 0)
		return rc;
	def = xmalloc(sizeof(*def));
	rc = attach_here(p, vm, def);
	free(def);
	vm_change_end(vm);
	return rc;
}

/* Of a VM that is off: with its lock in our hands, so that it stays off. */
static int with_definition(struct plug *p,
			   int (*change)(struct plug *p, struct vm_def *def, uint64_t owner))
{
	struct cfs *fs = host_volume_fs(p->volume);
	struct vm_def *def = xmalloc(sizeof(*def));
	struct cfs_vm_lock *lock;
	int rc = vm_hold(p->volume, p->name, &lock);

	if (rc < 0)
		goto out;
	rc = vm_def_load(fs, p->name, def);
	for (unsigned i = rc == 0 ? def->disks : 0; rc == 0 && i-- > 0;) {
		if (!def->disk[i].pending)
			continue;
		rc = vm_disk_settle(fs, &def->disk[i], cfs_vm_lock_vbn(lock));
		if (rc == 0)
			vm_def_remove(def, i, false);
	}
	if (rc == 0)
		def->freed = 0; /* there is no guest that remembers */
	if (rc == 0)
		rc = change(p, def, cfs_vm_lock_vbn(lock));
	if (rc == 0)
		rc = vm_def_replace(fs, p->name, def);
	(void)cfs_vm_unlock(lock);
out:
	free(def);
	return rc;
}

/* That nobody uses it now is tried by opening it. */
static int add_to_definition(struct plug *p, struct vm_def *def, uint64_t owner)
{
	struct cfs_file *file;
	int rc = add(p, def, false);

	if (rc < 0 || p->disk.pass)
		return rc;
	rc = cfs_open(host_volume_fs(p->volume), p->disk.path, CFS_OPEN_WRITE, owner, &file);
	if (rc < 0)
		return name_holder(p, rc);
	return cfs_close(file);
}

/* --- detach -------------------------------------------------------------------------------------- */

struct quiet {
	struct controller_use first, last;
	uint64_t began_ms, since_ms; /* nothing was done since then */
};

/* One look; the milliseconds of silence so far. */
static int look(struct plug *p, struct host_vm *vm, struct quiet *q, uint64_t *silent_ms)
{
	uint64_t now = clock_boot_ms();
	struct controller_use use;
	int rc = controller_get_use(vm->controller, p->lun, &use);

	if (rc < 0)
		return rc;
	if (vm_change_stop(vm))
		return fail(-ECANCELED, "vm %s: it ends", vm->name);
	if (!q->began_ms) {
		q->began_ms = q->since_ms = now;
		q->first = use;
	} else if (use.medium != q->last.medium || use.in_flight) {
		q->since_ms = now;
	}
	q->last = use;
	*silent_ms = now - q->since_ms;
	return host_progress(p->call, 0, 0, "waiting for the guest to let go of the disk");
}

/* How long the guest must be silent before the disk can be taken. */
static uint64_t silence_wanted(const struct quiet *q)
{
	if (!q->last.listens)
		return UNHEARD_MS;
	return q->last.told && q->last.flushes != q->first.flushes ? SILENT_MS : UNFLUSHED_MS;
}

static int wait_quiet(struct plug *p, struct host_vm *vm, bool told, unsigned limit_ms)
{
	struct quiet q = {0};
	uint64_t silent = 0;
	int rc;

	while ((rc = look(p, vm, &q, &silent)) == 0) {
		if (silent >= (told ? silence_wanted(&q) : IDLE_MS))
			return 0;
		if (clock_boot_ms() - q.began_ms >= limit_ms)
			return -ETIMEDOUT;
		sleep_ms(LOOK_MS);
	}
	return rc;
}

static int still_used(struct plug *p, const char *what)
{
	(void)fail(-EBUSY,
		   "vm %s: disk %s: %s; unmount it in the guest, or insist with --force, which "
		   "takes it"
		   " away under the guest",
		   p->name, p->text, what);
	err_object("%s", p->text);
	err_holder("vm %s", p->name);
	return -EBUSY;
}

/* What the guest's agent says: 0, it does not have it mounted, or nobody can say; -EBUSY. */
static int ask_agent(struct plug *p, struct host_vm *vm)
{
	char where[AGENT_TEXT_MAX + 1];
	int rc = vm_agent_mounted(vm->agent, p->lun, where, sizeof(where), AGENT_MS);

	p->asked = rc >= 0;
	if (rc > 0) {
		cleanup_free char *why =
			xasprintf("the guest's agent says that it is mounted on %s", where);

		return still_used(p, why);
	}
	err_clear();
	return 0;
}

/* It is told, and waited for. */
static int ask_guest(struct plug *p, struct host_vm *vm)
{
	bool runs;
	int rc;

	pthread_mutex_lock(&vm->lock);
	runs = vm->phase == VM_RUNNING;
	pthread_mutex_unlock(&vm->lock);
	if (!runs && !p->force)
		return still_used(p, "the VM stands still and cannot let go of it");
	rc = runs && !p->force ? ask_agent(p, vm) : 0;
	if (rc < 0)
		return rc;
	rc = runs && !p->force ? wait_quiet(p, vm, false, DRAIN_MS) : 0;
	if (rc == -ETIMEDOUT)
		return still_used(p, "the guest is using it");
	if (rc == 0)
		rc = controller_leave(vm->controller, p->lun, true);
	if (rc == 0 && runs)
		rc = wait_quiet(p, vm, true, p->force ? FORCE_MS : LET_GO_MS);
	if (rc == -ETIMEDOUT && p->force)
		return 0;
	if (rc < 0) {
		struct err_info why;

		if (rc == -ETIMEDOUT)
			rc = still_used(p, "the guest was told and has not let go of it");
		err_save(&why, rc);
		(void)controller_leave(vm->controller, p->lun, false);
		return err_restore(&why);
	}
	return 0;
}

/* By its path, or what a LUN is called, or its id. */
static int find_attached(const struct plug *p, const struct vm_def *def)
{
	for (unsigned i = 0; i < def->disks; i++) {
		const struct vm_def_disk *d = &def->disk[i];

		if (d->pass ? !strcmp(d->name, p->text) || !strcmp(d->path, p->text)
			    : p->disk.path[0] && !strcmp(d->path, p->disk.path))
			return (int)i;
	}
	return -ENOENT;
}

static int detach_here(struct plug *p, struct host_vm *vm, struct vm_def *def)
{
	int rc = vm_disks_settle(vm, true), at;

	if (rc < 0)
		return rc;
	at = find_attached(p, &vm->def);
	if (at < 0)
		return has_not(p);
	p->lun = vm->def.disk[at].lun;
	if (vm->open[at].disk) {
		rc = ask_guest(p, vm);
		if (rc == 0)
			rc = vm_disk_hide(vm, (unsigned)at);
	}
	*def = vm->def;
	def->disk[at].pending = true;
	if (rc == 0)
		rc = store(vm, def);
	if (rc == 0)
		rc = vm_disk_close(vm, (unsigned)at);
	if (rc < 0)
		return rc;
	vm_def_remove(def, (unsigned)at, true);
	return store(vm, def);
}

static int detach_live(struct plug *p, struct host_vm *vm)
{
	struct vm_def *def;
	int rc = vm_change_begin(vm, "a disk is being detached", false, CHANGE_MS);

	if (rc < 0)
		return rc;
	def = xmalloc(sizeof(*def));
	rc = detach_here(p, vm, def);
	free(def);
	vm_change_end(vm);
	return rc;
}

static int remove_from_definition(struct plug *p, struct vm_def *def, uint64_t owner)
{
	int at = find_attached(p, def);

	(void)owner;
	if (at < 0)
		return has_not(p);
	p->lun = def->disk[at].lun;
	vm_def_remove(def, (unsigned)at, false);
	return 0;
}

/* --- the verbs ----------------------------------------------------------------------------------- */

/* On the VM that runs here, or on its definition; it may end in between. */
static int on_vm(struct plug *p, int (*live)(struct plug *p, struct host_vm *vm),
		 int (*off)(struct plug *p, struct vm_def *def, uint64_t owner), bool *lives)
{
	struct host_vm *vm = vm_find(p->call->host->vms, p->volume, p->name);
	int rc = -ENOENT;

	*lives = false;
	if (vm) {
		bool ended;

		rc = live(p, vm);
		pthread_mutex_lock(&vm->lock);
		ended = vm->phase == VM_ENDED;
		pthread_mutex_unlock(&vm->lock);
		vm_put(vm);
		*lives = rc == 0;
		if (rc != -ENOENT || !ended)
			return rc;
	}
	return with_definition(p, off);
}

static json_t *result_of(const struct plug *p, bool live)
{
	return json_pack("{s:s, s:s, s:i, s:b}", "vm", p->name, "disk", p->text, "lun", (int)p->lun,
			 "live", live);
}

/* The definition, for what a LUN needs to know of its VM. */
static int attach_lun(struct plug *p, bool *live)
{
	struct vm_def *def = xmalloc(sizeof(*def));
	struct host *host = p->call->host;
	struct vm_pass_guard *guard;
	int rc = vm_def_load(host_volume_fs(p->volume), p->name, def), at;

	if (rc == 0)
		rc = vm_pass_probe(host, def, p->text, &p->disk);
	at = rc < 0 ? -ENOENT : vm_def_find(def, p->disk.path);
	if (at >= 0 && !def->disk[at].pending)
		rc = has_it_already(p, def->disk[at].lun);
	free(def);
	if (rc < 0)
		return rc;
	p->disk.shared = host_arg_bool(p->call, "shared");
	p->disk.unfiltered = host_arg_bool(p->call, "unfiltered");
	rc = vm_pass_begin(host, p->volume, p->name, &p->disk, &guard);
	if (rc < 0)
		return rc;
	rc = on_vm(p, attach_live, add_to_definition, live);
	vm_pass_done(guard);
	return rc;
}

/* What of --disk and --lun was said. */
static int take_what(struct plug *p, bool *lun)
{
	const char *disk = host_arg(p->call, "disk");

	p->text = host_arg(p->call, "lun");
	*lun = p->text != NULL;
	if (disk && p->text)
		return fail(-EINVAL, "vm attach: --disk or --lun, not both");
	if (!disk && !p->text)
		return fail(-EINVAL, "vm attach: say what: --disk or --lun");
	if (disk && (host_arg_bool(p->call, "shared") || host_arg_bool(p->call, "unfiltered")))
		return fail(-EINVAL, "vm attach: --shared and --unfiltered go with --lun");
	if (disk)
		p->text = disk;
	return 0;
}

static int vm_attach(struct host_call *call)
{
	struct plug p = {.call = call, .want = -1};
	uint64_t want;
	bool live, lun = false;
	int rc = host_arg_u64(call, "lun_number", UINT64_MAX, &want);

	if (rc == 0)
		rc = take_what(&p, &lun);
	if (rc == 0 && want != UINT64_MAX)
		p.want = want < VM_LUNS ? (int)want : VM_LUNS;
	if (rc == 0)
		rc = vm_named(call, &p.volume, &p.name);
	if (rc < 0)
		return rc;
	if (!lun)
		rc = take_disk(&p);
	if (rc == 0 && !lun)
		rc = check_kind(&p);
	if (rc == 0)
		rc = lun ? attach_lun(&p, &live) : on_vm(&p, attach_live, add_to_definition, &live);
	if (rc == 0) {
		call->result = result_of(&p, live);
		host_event(call->host->events, "vm", p.name, "disk %s attached as LUN %u", p.text,
			   p.lun);
	}
	host_volume_put(p.volume);
	return rc;
}

static int vm_detach(struct host_call *call)
{
	struct plug p = {.call = call, .force = host_arg_bool(call, "force")};
	bool live;
	int rc = host_arg_need(call, "disk", &p.text);

	if (rc == 0)
		rc = vm_named(call, &p.volume, &p.name);
	if (rc < 0)
		return rc;
	if (strstr(p.text, ":/") && !strstr(p.text, "://"))
		rc = take_disk(&p);
	if (rc == 0)
		rc = on_vm(&p, detach_live, remove_from_definition, &live);
	if (rc == 0) {
		call->result = result_of(&p, live);
		if (live && !p.asked)
			json_object_set_new(call->result, "note",
					    json_string(p.force ? by_force : no_agent));
		host_event(call->host->events, "vm", p.name, "disk %s, LUN %u, detached%s", p.text,
			   p.lun, p.force ? " by force" : "");
	}
	host_volume_put(p.volume);
	return rc;
}

const struct host_verb host_hotplug_verbs[] = {
	{"vm", "attach", HOST_CHANGES, vm_attach},
	{"vm", "detach", HOST_CHANGES | HOST_TASK, vm_detach},
	{NULL, NULL, 0, NULL},
};
