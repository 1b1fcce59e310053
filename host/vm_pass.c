// SPDX-License-Identifier: Apache-2.0
/* vm_pass.c: LUNs that are passed through: what they are, whose they are, how they are opened. */
#include "host/vm_pass.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "base/vmctl.h"
#include "blockdev/blk.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/vm_move.h"
#include "host/vm_run.h"
#include "host/volume.h"
#include "vfs/iothread.h"
#include "vfs/pass.h"

#define GUARD	    VM_DIR "/.passthrough"
#define GUARD_MS    20000
#define POLL_MS	    20
#define VOLUMES_MAX 64 /* as host_volumes_each's */
/* Who looks at a device in passing is waited for: udev, multipathd, a child of ours that has not called exec. */
#define CLAIM_MS 500
#define FLIGHT_MS \
	3000 /* where a login does not end the old session: what a dead daemon sent has landed */

static bool is_iscsi(const char *name)
{
	return !strncmp(name, "iscsi://", 8);
}

/* The VM as an initiator, and what else opening needs. `chap` is the caller's to free. */
static void fill_options(struct host *host, const struct vm_def *def, uint32_t isid,
			 char initiator[VM_IQN_BYTES], char **chap, struct blk_options *o)
{
	vm_def_initiator(def, initiator);
	*chap = xasprintf("%s/chap", host->state.dir);
	*o = (struct blk_options){.initiator = initiator, .isid = isid};
	if (access(*chap, R_OK) == 0)
		o->chap_file = *chap;
}

/* --- what it is ---------------------------------------------------------------------------------- */

struct known {
	const char *id;
	char name[256];
};

static int find_known(void *arg, struct host_lun *lun)
{
	struct known *k = arg;
	struct blk *blk = host_lun_blk(lun);

	if (!blk || strcmp(blk_info(blk)->id, k->id))
		return 0;
	(void)str_format(k->name, sizeof(k->name), "%s", host_lun_name(lun));
	return 1;
}

static int resolve(struct host *host, const char *text, char name[256])
{
	struct known k = {.id = text};
	char *whole;

	if (is_iscsi(text))
		return str_format(name, 256, "%s", text) < 0
			       ? fail(-EINVAL, "LUN %s: a name has at most 255 bytes", text)
			       : 0;
	if (text[0] == '/') {
		whole = realpath(text, NULL);
		(void)str_format(name, 256, "%s", whole ? whole : text);
		free(whole);
		return 0;
	}
	if (host_luns_each(host->luns, find_known, &k) <= 0)
		return fail(-ENOENT,
			    "LUN %s: not known here; give its path or URL, or connect to it first",
			    text);
	memcpy(name, k.name, 256);
	return 0;
}

static int check_device(const char *name)
{
	struct stat st;

	if (stat(name, &st) < 0)
		return fail(-errno, "LUN %s: %s", name, strerror(errno));
	return S_ISBLK(st.st_mode) ? 0
				   : fail(-EINVAL,
					  "LUN %s: a file speaks no SCSI; only iSCSI LUNs and SCSI "
					  "devices are passed through",
					  name);
}

/*
 * A descriptor by which the device is ours: -EBUSY when this host has mounted it, or made it part of
 * another; and as long as it is open nobody can.
 */
static int claim(const char *name, unsigned wait_ms)
{
	uint64_t until = clock_boot_ms() + wait_ms;
	int fd, rc;

	while ((fd = open(name, O_RDONLY | O_EXCL | O_CLOEXEC)) < 0 && errno == EBUSY &&
	       clock_boot_ms() < until)
		sleep_ms(POLL_MS);
	if (fd >= 0)
		return fd;
	if (errno != EBUSY)
		return fail(-errno, "LUN %s: %s", name, strerror(errno));
	rc = fail(-EBUSY, "LUN %s: this host uses it: mounted, or part of another device", name);
	err_object("%s", name);
	err_holder("this host");
	return rc;
}

static int check_unused(const char *name)
{
	int fd = claim(name, CLAIM_MS);

	if (fd >= 0)
		close(fd);
	return fd < 0 ? fd : 0;
}

/* As the VM, since the array may show the LUN to nobody else; not by the VM's ISID. */
static int open_to_look(struct host *host, const struct vm_def *def, const struct vm_def_disk *d,
			struct blk **blk)
{
	cleanup_free char *chap = NULL;
	char initiator[VM_IQN_BYTES];
	struct blk_options options;

	fill_options(host, def, d->isid ^ 0xffffff, initiator, &chap, &options);
	options.read_only = true;
	return blk_open(d->name, &options, blk);
}

/*
 * A volume may lie on it by now: the guest's own, which nobody has mounted while the guest is off, unless the LUN
 * is shared. What cannot be seen is no reason not to start.
 */
static int check_quiet(struct host *host, const struct vm_def *def, const struct vm_def_disk *d)
{
	struct blk *blk;
	int rc = d->shared ? -ENODATA : open_to_look(host, def, d, &blk);

	if (rc == 0) {
		rc = cfs_quiet(blk);
		blk_close(blk);
	}
	if (rc == -EBUSY)
		return fail_prefix(rc, "LUN %s", d->name);
	err_clear();
	return 0;
}

/* Our own volumes claim no device: hosts may be several on one machine, and a LUN several devices. */
static int check_not_ours(struct host *host, const char *id, const char *name)
{
	char user[80];
	int rc;

	if (!host_luns_user(host->luns, id, user))
		return 0;
	rc = fail(-EBUSY, "LUN %s: in use here by %s; no VM gets it", name, user);
	err_object("%s", name);
	err_holder("%s, %s", host->name, user);
	return rc;
}

static int check_no_volume(struct blk *blk, const char *name)
{
	struct cfs_identity identity;
	int rc = cfs_identify(blk, &identity);

	if (rc == -ENOENT) {
		err_clear();
		return 0;
	}
	if (rc == -EUCLEAN)
		rc = fail(-EPERM, "LUN %s: holds a damaged Perilune volume; no VM gets it", name);
	else if (rc == 0)
		rc = fail(-EPERM, "LUN %s: holds the volume %s; no VM gets it", name,
			  identity.name);
	err_object("%s", name);
	return rc;
}

int vm_pass_probe(struct host *host, const struct vm_def *def, const char *text,
		  struct vm_def_disk *entry)
{
	struct vm_def_disk e = {.pass = true};
	cleanup_free char *chap = NULL;
	struct blk_options options;
	char initiator[VM_IQN_BYTES];
	struct blk *blk;
	int rc = resolve(host, text, e.name);

	if (rc == 0 && !is_iscsi(e.name))
		rc = check_device(e.name);
	if (rc < 0)
		return rc;
	do
		random_bytes(&e.isid, sizeof(e.isid));
	while (!(e.isid &= 0xffffff));
	fill_options(host, def, e.isid, initiator, &chap, &options);
	options.read_only = true;
	rc = blk_open(e.name, &options, &blk);
	if (rc < 0)
		return rc;
	(void)str_format(e.path, sizeof(e.path), "%s", blk_info(blk)->id);
	e.block = blk_info(blk)->block_size;
	e.drains = blk_info(blk)->reinstatement;
	rc = check_no_volume(blk, e.name);
	blk_close(blk);
	if (rc == 0)
		*entry = e;
	return rc;
}

/* --- whose it is --------------------------------------------------------------------------------- */

struct search {
	const struct vm_def_disk *entry;
	struct host_volume *own;
	const char *own_name; /* the VM that wants it */
	const char *cure;
	struct host_volume *volume;
	json_t *names;
};

static int add_name(void *arg, const char *name, const struct cfs_stat *st)
{
	struct search *s = arg;

	if (st->kind == CFS_DIR && name[0] != '.' && strlen(name) <= VM_NAME_MAX)
		json_array_append_new(s->names, json_string(name));
	return 0;
}

static int check_vm(struct search *s, const char *name)
{
	struct vm_def *def = xmalloc(sizeof(*def));
	int rc = 0, at;

	rc = vm_def_load(host_volume_fs(s->volume), name, def);
	if (rc == -ENOENT || rc == -EUCLEAN) { /* gone meanwhile, or damaged: nobody can start it */
		err_clear();
		rc = 0;
		goto out;
	}
	if (rc < 0) {
		(void)fail_prefix(rc, "LUN %s: whether VM %s:%s has it is not known",
				  s->entry->name, host_volume_name(s->volume), name);
		goto out;
	}
	at = vm_def_find(def, s->entry->path);
	if (at >= 0 && def->disk[at].pass && !(def->disk[at].shared && s->entry->shared)) {
		rc = fail(-EBUSY, "LUN %s: VM %s:%s has it%s; %s", s->entry->name,
			  host_volume_name(s->volume), name,
			  def->disk[at].shared ? "" : " for itself", s->cure);
		err_object("%s", s->entry->name);
		err_holder("vm %s", name);
	}
out:
	free(def);
	return rc;
}

static int check_volume(void *arg, struct host_volume *volume)
{
	struct search *s = arg;
	json_t *name;
	int rc = 0;
	size_t i;

	s->volume = volume;
	s->names = json_array();
	rc = cfs_readdir(host_volume_fs(volume), VM_DIR, add_name, s);
	if (rc == -ENOENT) { /* never a VM */
		err_clear();
		rc = 0;
	} else if (rc < 0) {
		(void)fail_prefix(rc, "LUN %s: whether a VM of volume %s has it is not known",
				  s->entry->name, host_volume_name(volume));
	}
	json_array_foreach(s->names, i, name)
	{
		const char *n = json_string_value(name);

		if (rc == 0 && (volume != s->own || strcmp(n, s->own_name)))
			rc = check_vm(s, n);
	}
	json_decref(s->names);
	return rc;
}

/*
 * Files that are open for writing once in the cluster: of all mounted volumes, since the other VM may be
 * another volume's, in the order of their ids, so that nobody waits for who waits for him.
 */
struct vm_pass_guard {
	struct host_volumes *volumes;
	unsigned n, held;
	char id[VOLUMES_MAX][40];
	struct host_volume *volume[VOLUMES_MAX];
	struct cfs_file *file[VOLUMES_MAX];
};

static int note_volume(void *arg, struct host_volume *volume)
{
	struct vm_pass_guard *g = arg;
	char name[64];

	if (g->n < VOLUMES_MAX)
		cfs_names(host_volume_fs(volume), name, g->id[g->n++]);
	return 0;
}

static int by_id(const void *a, const void *b)
{
	return strcmp(a, b);
}

static int open_guard(struct cfs *fs, struct cfs_file **guard)
{
	uint64_t until = clock_boot_ms() + GUARD_MS;
	int rc = cfs_mkdir(fs, VM_DIR);

	if (rc == 0 || rc == -EEXIST)
		rc = cfs_create(fs, GUARD, CFS_FILE, 0);
	if (rc < 0 && rc != -EEXIST)
		return rc;
	while ((rc = cfs_open(fs, GUARD, CFS_OPEN_WRITE, 0, guard)) == -EBUSY &&
	       clock_boot_ms() < until)
		sleep_ms(POLL_MS);
	if (rc == 0)
		err_clear();
	return rc;
}

static int take_guards(struct vm_pass_guard *g, const char *lun)
{
	int rc = 0;

	(void)host_volumes_each(g->volumes, note_volume, g);
	qsort(g->id, g->n, sizeof(g->id[0]), by_id);
	for (unsigned i = 0; i < g->n && rc == 0; i++) {
		struct host_volume *v;

		if (host_volume_get(g->volumes, g->id[i], &v) < 0) {
			err_clear(); /* unmounted meanwhile */
			continue;
		}
		rc = open_guard(host_volume_fs(v), &g->file[g->held]);
		if (rc < 0) {
			(void)fail_prefix(rc,
					  "LUN %s: whether a VM of volume %s gets it is not known",
					  lun, host_volume_name(v));
			host_volume_put(v);
		} else {
			g->volume[g->held++] = v;
		}
	}
	return rc;
}

/* The VM of this host, other than the one with the id `but`, that has the LUN `id` open. */
static bool user_here(struct host_vms *all, const char *id, const char *but,
		      char name[VM_NAME_MAX + 1])
{
	struct host_vm *vm;
	bool found = false;

	pthread_mutex_lock(&all->lock);
	list_for_each (vm, &all->list, link) {
		int at;

		pthread_mutex_lock(&vm->lock);
		at = strcmp(vm->def.id, but) ? vm_def_find(&vm->def, id) : -ENOENT;
		if (at >= 0 && vm->def.disk[at].pass && vm->open[at].blk && !found) {
			memcpy(name, vm->name, VM_NAME_MAX + 1);
			found = true;
		}
		pthread_mutex_unlock(&vm->lock);
	}
	pthread_mutex_unlock(&all->lock);
	return found;
}

/* A kernel device's initiator is this host, whichever VM asks. */
static int check_alone_here(struct host *host, const struct vm_def *def,
			    const struct vm_def_disk *d)
{
	char other[VM_NAME_MAX + 1];
	int rc;

	if (is_iscsi(d->name) || !user_here(host->vms, d->path, def->id, other))
		return 0;
	rc = fail(-EBUSY,
		  "LUN %s: VM %s has it on this host, by the kernel, which cannot tell two VMs "
		  "apart; give them an iscsi:// URL, or run them on two hosts",
		  d->name, other);
	err_object("%s", d->name);
	err_holder("vm %s", other);
	return rc;
}

int vm_pass_begin(struct host *host, struct host_volume *volume, const char *name,
		  const struct vm_def_disk *entry, struct vm_pass_guard **guard)
{
	struct search s = {.entry = entry,
			   .own = volume,
			   .own_name = name,
			   .cure = "it can be shared if both say so (--shared)"};
	char user[VM_NAME_MAX + 1];
	struct vm_pass_guard *g = xcalloc(1, sizeof(*g));
	int rc;

	g->volumes = host->volumes;
	rc = take_guards(g, entry->name);
	if (rc == 0)
		rc = host_volumes_each(host->volumes, check_volume, &s);
	if (rc == 0 && !is_iscsi(entry->name) && !user_here(host->vms, entry->path, "", user))
		rc = check_unused(entry->name);
	if (rc == 0)
		host_step(host, "attach.checked");
	else
		vm_pass_done(g);
	*guard = g;
	return rc;
}

int vm_pass_check_free(struct host *host, const char *id, const char *name)
{
	struct vm_def_disk *entry = xcalloc(1, sizeof(*entry));
	struct search s = {
		.entry = entry, .own_name = "", .cure = "take it from there first (vm detach)"};
	int rc;

	(void)str_format(entry->path, sizeof(entry->path), "%s", id);
	(void)str_format(entry->name, sizeof(entry->name), "%s", name);
	rc = host->volumes ? host_volumes_each(host->volumes, check_volume, &s) : 0;
	free(entry);
	return rc;
}

void vm_pass_done(struct vm_pass_guard *g)
{
	while (g->held-- > 0) {
		(void)cfs_close(g->file[g->held]);
		host_volume_put(g->volume[g->held]);
	}
	free(g);
}

/* --- opening ------------------------------------------------------------------------------------- */

/* Who was kicked out looks before he comes back: the VM may run elsewhere by now. */
static int look(void *arg)
{
	struct host_vm *vm = arg;

	return vm->vm_lock ? cfs_vm_lock_look(vm->vm_lock) : -ESTALE;
}

static int gate(struct host_vm *vm, struct vm_open_disk *open)
{
	void *page = mmap(NULL, VMCTL_LEASE_BYTES, PROT_READ, MAP_SHARED,
			  cfs_lease_fd(host_volume_fs(vm->volume)), 0);

	if (page == MAP_FAILED)
		return fail(-errno, "vm %s: cannot map its lease: %s", vm->name, strerror(errno));
	open->lease = page;
	blk_set_lease(open->blk, page);
	return 0;
}

/* A name may mean another LUN by now, or here. */
static int check_identity(const struct vm_def_disk *d, struct blk *blk)
{
	const struct blk_info *info = blk_info(blk);

	return !strcmp(info->id, d->path)
		       ? 0
		       : fail(-EBUSY, "LUN %s: is %s here, not %s; attach it by another name",
			      d->name, info->id, d->path);
}

int vm_pass_check(struct host *host, const struct vm_def *def, const struct vm_def_disk *d,
		  bool claimed)
{
	struct blk *blk;
	int rc = open_to_look(host, def, d, &blk);

	if (rc < 0)
		return rc;
	rc = check_identity(d, blk);
	blk_close(blk);
	if (rc == 0)
		rc = check_alone_here(host, def, d);
	if (rc == 0)
		rc = check_not_ours(host, d->path, d->name);
	if (rc == 0 && !is_iscsi(d->name) && !claimed)
		rc = check_unused(d->name);
	return rc;
}

static int take_claim(const struct vm_def_disk *d, struct vm_open_disk *open, unsigned wait_ms)
{
	int fd;

	if (is_iscsi(d->name) || open->claimed)
		return 0;
	fd = claim(d->name, wait_ms);
	if (fd < 0)
		return fd;
	open->claim = fd;
	open->claimed = true;
	return 0;
}

static void drop_claim(struct vm_open_disk *open)
{
	if (open->claimed)
		close(open->claim);
	open->claimed = false;
}

void vm_pass_leave(struct host_vm *vm)
{
	for (unsigned i = 0; i < vm->def.disks; i++)
		drop_claim(&vm->open[i]);
}

void vm_pass_stay(struct host_vm *vm)
{
	for (unsigned i = 0; i < vm->def.disks; i++) {
		int rc = vm->open[i].blk ? take_claim(&vm->def.disk[i], &vm->open[i], CLAIM_MS) : 0;

		if (rc < 0) /* its guest runs, and has it */
			log_warn("host", "vm %s: its own no more: %s", vm->name, err_message(rc));
	}
}

int vm_pass_open(struct host_vm *vm, unsigned i)
{
	const struct vm_def_disk *d = &vm->def.disk[i];
	struct vm_open_disk *open = &vm->open[i];
	struct pass_options pass = {.name = d->name,
				    .id = d->path,
				    .block_size = d->block,
				    .unfiltered = d->unfiltered};
	cleanup_free char *chap = NULL;
	struct blk_options options;
	char initiator[VM_IQN_BYTES];
	int rc = check_alone_here(vm->all->host, &vm->def, d);

	if (rc == 0)
		rc = take_claim(d, open, CLAIM_MS);
	if (rc == 0)
		rc = check_not_ours(vm->all->host, d->path, d->name);
	if (rc == 0 && !vm->adopt && !d->pending) /* at attach it held none */
		rc = check_quiet(vm->all->host, &vm->def, d);
	if (rc < 0) {
		drop_claim(open);
		return fail_prefix(rc, "vm %s", vm->name);
	}
	fill_options(vm->all->host, &vm->def, d->isid, initiator, &chap, &options);
	options.pass = true;
	options.lazy = vm->adopt; /* a guest that runs waits for its LUN */
	options.drains = d->drains;
	options.look = look;
	options.look_arg = vm;
	if (vm->adopt && !vm->came && is_iscsi(d->name) && !d->drains)
		sleep_ms(FLIGHT_MS);
	rc = blk_open(d->name, &options, &open->blk);
	if (rc < 0) {
		open->blk = NULL;
		drop_claim(open);
		return fail_prefix(rc, "vm %s", vm->name);
	}
	if (!is_iscsi(d->name))
		rc = check_identity(d, open->blk);
	if (rc == 0)
		rc = gate(vm, open);
	if (rc == 0)
		rc = vfs_pass_open(open->blk, iothread_loop(vm->all->io[vm->io]), &pass,
				   &open->disk);
	if (rc < 0) {
		open->disk = NULL;
		vm_pass_close(vm, i);
	}
	return rc;
}

void vm_pass_close(struct host_vm *vm, unsigned i)
{
	struct vm_open_disk *open = &vm->open[i];

	blk_close(open->blk);
	if (open->lease)
		munmap(open->lease, VMCTL_LEASE_BYTES);
	drop_claim(open);
	open->blk = NULL;
	open->lease = NULL;
}
