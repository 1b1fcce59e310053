// SPDX-License-Identifier: Apache-2.0
/*
 * vm_def.c: definitions. What is read comes from a shared disk that others write: it is checked as
 * a user's words are.
 */
#include "host/vm_def.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "base/vmctl.h"
#include "clusterfs/cfs.h"
#include "host/names.h"
#include "host/vm_cpu.h"
#include "host/vm_net.h"

#define DEF_BYTES_MAX (512 * KiB)
#define DEF_VERSION   1
#define MEMORY_MAX    (4 * TiB)
#define FIRMWARE_MIN  (32 * MiB) /* of memory, for firmware and a boot loader */
#define BUSY_MS	      3000	 /* others look at a definition for a moment */
#define BUSY_POLL_MS  5

char *vm_path(const char *name, const char *part)
{
	return part ? xasprintf(VM_DIR "/%s/%s", name, part) : xasprintf(VM_DIR "/%s", name);
}

int vm_check_name(const char *name)
{
	size_t n = strlen(name);
	int bad = n == 0 || n > VM_NAME_MAX || name[0] == '.' || name[0] == '-';

	for (size_t i = 0; i < n; i++)
		if ((unsigned char)name[i] < 0x21 || name[i] == 0x7f || name[i] == '/' ||
		    name[i] == ':')
			bad = 1;
	return bad ? fail(-EINVAL,
			  "a VM's name has 1 to %d characters, no spaces, '/' or ':', and begins "
			  "with"
			  " neither '.' nor '-'",
			  VM_NAME_MAX)
		   : 0;
}

int vm_def_check(const struct vm_def *d, const char *name)
{
	if (d->cpus < 1 || d->cpus > VM_CPUS_MAX)
		return fail(-EINVAL, "vm %s: %u CPUs; 1 to %d can be", name, d->cpus, VM_CPUS_MAX);
	if (d->memory < VMCTL_MEMORY_MIN || d->memory % VMCTL_MEMORY_ALIGN ||
	    d->memory > MEMORY_MAX)
		return fail(-EINVAL,
			    "vm %s: memory is a multiple of 2M, at least 2M; %llu bytes are not",
			    name, (unsigned long long)d->memory);
	if (d->firmware && d->memory < FIRMWARE_MIN)
		return fail(-EINVAL, "vm %s: to boot from its disk it needs 32M of memory", name);
	return vm_share_check(&d->share, d->memory, d->cpus, name);
}

static const char *const watchdog_names[] = {
	[VMCTL_WATCHDOG_OFF] = "off",
	[VMCTL_WATCHDOG_RESET] = "reset",
	[VMCTL_WATCHDOG_REPORT] = "report",
};

const char *vm_watchdog_name(enum vmctl_watchdog watchdog)
{
	return watchdog_names[watchdog];
}

int vm_watchdog_parse(const char *text, enum vmctl_watchdog *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(watchdog_names); i++) {
		if (!strcmp(text, watchdog_names[i])) {
			*out = (enum vmctl_watchdog)i;
			return 0;
		}
	}
	return fail(-EINVAL, "--watchdog %s: off, reset or report", text);
}

/* A definition of before there were watchdogs gets the usual one. */
static void parse_machine(json_t *doc, struct vm_def *d)
{
	const char *boot = json_string_value(json_object_get(doc, "boot"));
	const char *watchdog = json_string_value(json_object_get(doc, "watchdog"));

	d->firmware = boot && !strcmp(boot, "disk");
	d->nested = json_is_true(json_object_get(doc, "nested"));
	d->watchdog = VMCTL_WATCHDOG_RESET;
	if (watchdog && vm_watchdog_parse(watchdog, &d->watchdog) < 0)
		err_clear();
}

static void take_text(json_t *doc, const char *key, char *dst, size_t size)
{
	const char *s = json_string_value(json_object_get(doc, key));

	(void)str_format(dst, size, "%s", s ? s : "");
}

static bool lun_used(const struct vm_def *d, unsigned lun)
{
	for (unsigned i = 0; i < d->disks; i++)
		if (d->disk[i].lun == lun)
			return true;
	return false;
}

static void parse_pass(json_t *doc, struct vm_def_disk *disk)
{
	const char *name = json_string_value(json_object_get(doc, "pass"));
	json_int_t isid = json_integer_value(json_object_get(doc, "isid"));
	json_int_t block = json_integer_value(json_object_get(doc, "block"));

	if (!name || str_format(disk->name, sizeof(disk->name), "%s", name) < 0)
		return;
	disk->pass = true;
	disk->shared = json_is_true(json_object_get(doc, "shared"));
	disk->unfiltered = json_is_true(json_object_get(doc, "unfiltered"));
	disk->drains = json_is_true(json_object_get(doc, "drains"));
	disk->isid = (uint32_t)isid & 0xffffff;
	disk->block = block == 4096 ? 4096 : 512;
}

/* A path, of one whose address is its place in the list; or an object. */
static int parse_disk(json_t *doc, const char *name, struct vm_def *d)
{
	struct vm_def_disk *disk = &d->disk[d->disks];
	const char *path = json_string_value(doc);
	json_int_t lun = d->disks;

	if (json_is_object(doc)) {
		parse_pass(doc, disk);
		path = json_string_value(json_object_get(doc, "path"));
		lun = json_integer_value(json_object_get(doc, "lun"));
		disk->pending = json_is_true(json_object_get(doc, "pending"));
	}
	if (!path || lun < 0 || lun >= VM_LUNS || lun_used(d, (unsigned)lun) ||
	    str_format(disk->path, sizeof(disk->path), "%s", path) < 0)
		return fail(-EUCLEAN, "vm %s: definition: wrong list of disks", name);
	disk->lun = (unsigned)lun;
	d->disks++;
	return 0;
}

static int parse_disks(json_t *doc, const char *name, struct vm_def *d)
{
	json_t *item;
	size_t i;
	int rc = 0;

	json_array_foreach(json_object_get(doc, "disks"), i, item)
	{
		if (d->disks == VM_DISKS_MAX)
			return fail(-EUCLEAN, "vm %s: definition: more than %d disks", name,
				    VM_DISKS_MAX);
		rc = parse_disk(item, name, d);
		if (rc < 0)
			return rc;
	}
	json_array_foreach(json_object_get(doc, "freed"), i, item)
	{
		json_int_t lun = json_integer_value(item);

		if (d->freed < VM_LUNS && lun >= 0 && lun < VM_LUNS)
			d->freed_lun[d->freed++] = (uint16_t)lun;
	}
	return 0;
}

int vm_def_parse(json_t *doc, const char *name, struct vm_def *d)
{
	int rc;

	memset(d, 0, sizeof(*d));
	if (json_integer_value(json_object_get(doc, "version")) != DEF_VERSION)
		return fail(-EPROTONOSUPPORT,
			    "vm %s: definition of version %lld; this release reads %d", name,
			    (long long)json_integer_value(json_object_get(doc, "version")),
			    DEF_VERSION);
	take_text(doc, "id", d->id, sizeof(d->id));
	take_text(doc, "append", d->append, sizeof(d->append));
	take_text(doc, "created", d->created, sizeof(d->created));
	d->memory = (uint64_t)json_integer_value(json_object_get(doc, "memory"));
	d->cpus = (unsigned)json_integer_value(json_object_get(doc, "cpus"));
	vm_share_parse(&d->share, d->memory, doc);
	d->has_kernel = json_is_true(json_object_get(doc, "kernel"));
	d->has_initrd = json_is_true(json_object_get(doc, "initrd"));
	parse_machine(doc, d);
	rc = vm_cpu_def_parse(doc, name, d);
	if (rc < 0)
		return rc;
	rc = parse_disks(doc, name, d);
	if (rc == 0)
		rc = vm_def_nets_parse(json_object_get(doc, "nets"), name, d);
	if (rc < 0)
		return rc;
	return vm_def_check(d, name) < 0 ? -EUCLEAN : 0;
}

/* --- on the volume ------------------------------------------------------------------------------ */

static int load_file(struct cfs *fs, const char *name, const char *path, struct vm_def *out)
{
	cleanup_fd int fd = memfd_create("definition", MFD_CLOEXEC);
	cleanup_free char *text = xmalloc(DEF_BYTES_MAX);
	json_t *doc;
	ssize_t n;
	int rc;

	if (fd < 0)
		return fail(-errno, "vm %s: %s", name, strerror(errno));
	rc = host_read_file(fs, path, fd, DEF_BYTES_MAX);
	if (rc < 0)
		return rc;
	n = pread(fd, text, DEF_BYTES_MAX, 0); /* json_loadfd reads byte by byte */
	doc = n > 0 ? json_loadb(text, (size_t)n, 0, NULL) : NULL;
	if (!doc)
		return fail(-EUCLEAN, "vm %s: %s is no JSON", name, path);
	rc = vm_def_parse(doc, name, out);
	json_decref(doc);
	return rc;
}

/*
 * A definition is replaced in two steps: the old one goes, the new one, which is whole by then, takes its
 * name. In between the new one counts; one beside the old one is nothing, and may be cut off.
 */
int vm_def_load(struct cfs *fs, const char *name, struct vm_def *out)
{
	cleanup_free char *path = vm_path(name, "definition.json"),
			  *fresh = vm_path(name, "definition.new");
	int rc = load_file(fs, name, path, out);

	if (rc != -ENOENT)
		return rc;
	rc = load_file(fs, name, fresh, out);
	return rc == -ENOENT ? load_file(fs, name, path, out) : rc; /* it has just taken its name */
}

static json_t *disk_record(const struct vm_def_disk *disk, unsigned index)
{
	json_t *d;

	if (disk->lun == index && !disk->pending && !disk->pass)
		return json_string(disk->path);
	d = json_pack("{s:s, s:i}", "path", disk->path, "lun", (int)disk->lun);
	if (disk->pending)
		json_object_set_new(d, "pending", json_true());
	if (!disk->pass)
		return d;
	json_object_set_new(d, "pass", json_string(disk->name));
	json_object_set_new(d, "isid", json_integer(disk->isid));
	json_object_set_new(d, "block", json_integer(disk->block));
	json_object_set_new(d, "shared", json_boolean(disk->shared));
	json_object_set_new(d, "unfiltered", json_boolean(disk->unfiltered));
	json_object_set_new(d, "drains", json_boolean(disk->drains));
	return d;
}

json_t *vm_def_record(const struct vm_def *d)
{
	json_t *disks = json_array(), *freed = json_array(), *doc;

	for (unsigned i = 0; i < d->disks; i++)
		json_array_append_new(disks, disk_record(&d->disk[i], i));
	for (unsigned i = 0; i < d->freed; i++)
		json_array_append_new(freed, json_integer(d->freed_lun[i]));
	doc = json_pack("{s:i, s:s, s:I, s:i, s:o, s:s, s:b, s:b, s:s}", "version", DEF_VERSION,
			"id", d->id, "memory", (json_int_t)d->memory, "cpus", (int)d->cpus, "disks",
			disks, "append", d->append, "kernel", d->has_kernel, "initrd",
			d->has_initrd, "created", d->created);
	if (d->firmware)
		json_object_set_new(doc, "boot", json_string("disk"));
	vm_cpu_record(d, doc);
	json_object_set_new(doc, "nested", json_boolean(d->nested));
	json_object_set_new(doc, "watchdog", json_string(vm_watchdog_name(d->watchdog)));
	vm_share_record(&d->share, d->memory, doc);
	if (d->freed)
		json_object_set(doc, "freed", freed);
	if (d->nets)
		json_object_set_new(doc, "nets", vm_def_nets_record(d));
	json_decref(freed);
	return doc;
}

int vm_def_store(struct cfs *fs, const char *path, const struct vm_def *d)
{
	cleanup_fd int fd = memfd_create("definition", MFD_CLOEXEC);
	json_t *doc = vm_def_record(d);
	int rc = fd < 0 || !doc ? -EIO : json_dumpfd(doc, fd, JSON_INDENT(2));

	json_decref(doc);
	if (rc < 0)
		return fail(-EIO, "%s: cannot write the definition", path);
	(void)lseek(fd, 0, SEEK_SET);
	return host_write_file(fs, path, CFS_FILE, fd);
}

/* As vm_def_store, but durable only with what is made durable next. */
static int write_soon(struct cfs *fs, const char *path, const struct vm_def *d)
{
	json_t *doc = vm_def_record(d);
	cleanup_free char *text = json_dumps(doc, JSON_INDENT(2));
	struct cfs_file *file;
	int64_t n;
	int rc = text ? cfs_create(fs, path, CFS_FILE, 0)
		      : fail(-EIO, "%s: cannot write the definition", path);

	json_decref(doc);
	if (rc == 0)
		rc = cfs_open(fs, path, CFS_OPEN_WRITE, 0, &file);
	if (rc < 0)
		return rc;
	n = cfs_pwrite(file, text, strlen(text), 0);
	rc = cfs_close(file);
	return n < 0 ? (int)n : rc;
}

/* Somebody may look at the old one just now. */
static int remove_file(struct cfs *fs, const char *path)
{
	uint64_t until = clock_boot_ms() + BUSY_MS;
	int rc;

	while ((rc = cfs_unlink(fs, path)) == -EBUSY && clock_boot_ms() < until)
		sleep_ms(BUSY_POLL_MS);
	if (rc == -ENOENT) {
		err_clear();
		rc = 0;
	}
	return rc;
}

int vm_def_replace(struct cfs *fs, const char *name, const struct vm_def *d)
{
	cleanup_free char *path = vm_path(name, "definition.json"),
			  *fresh = vm_path(name, "definition.new");
	struct cfs_stat st;
	int rc = cfs_stat(fs, path, &st);

	/*
	 * What a crash left: the new one first takes its name, or goes. All that follows lies in one journal,
	 * in this order, so one commit at the end will do: any part of it that a crash leaves is one from its
	 * beginning (INV-FS-2: a file's bytes before its records).
	 */
	if (rc == -ENOENT)
		rc = cfs_rename(fs, fresh, path);
	else if (rc == 0)
		rc = remove_file(fs, fresh);
	if (rc == 0)
		rc = write_soon(fs, fresh, d);
	if (rc == 0)
		rc = remove_file(fs, path);
	if (rc == 0)
		rc = cfs_rename(fs, fresh, path);
	if (rc == 0)
		rc = cfs_sync(fs);
	return rc < 0 ? fail_prefix(rc, "vm %s: its definition", name) : 0;
}

/* --- disks -------------------------------------------------------------------------------------- */

void vm_def_take_disks(struct vm_def *d, const struct vm_def *from)
{
	memcpy(d->disk, from->disk, sizeof(d->disk));
	memcpy(d->freed_lun, from->freed_lun, sizeof(d->freed_lun));
	d->disks = from->disks;
	d->freed = from->freed;
}

int vm_def_find(const struct vm_def *d, const char *path)
{
	for (unsigned i = 0; i < d->disks; i++)
		if (!strcmp(d->disk[i].path, path))
			return (int)i;
	return -ENOENT;
}

static bool rests(const struct vm_def *d, unsigned lun)
{
	for (unsigned i = 0; i < d->freed; i++)
		if (d->freed_lun[i] == lun)
			return true;
	return false;
}

int vm_def_pick_lun(const struct vm_def *d, const char *name, int want, unsigned *lun)
{
	if (want >= 0) {
		*lun = (unsigned)want;
		if (want >= VM_LUNS)
			return fail(-EINVAL, "vm %s: LUN %d; 0 to %d can be", name, want,
				    VM_LUNS - 1);
		if (lun_used(d, *lun))
			return fail(-EBUSY, "vm %s: LUN %d is taken", name, want);
		if (rests(d, *lun))
			return fail(
				-EPERM,
				"vm %s: LUN %d was freed while the guest runs, which may not have"
				" noticed; take another one, or let it be chosen",
				name, want);
		return 0;
	}
	for (*lun = 0; *lun < VM_LUNS; (*lun)++)
		if (!lun_used(d, *lun) && !rests(d, *lun))
			return 0;
	for (unsigned i = 0; i < d->freed; i++) {
		*lun = d->freed_lun[i];
		if (!lun_used(d, *lun))
			return 0;
	}
	return fail(-EBUSY, "vm %s: has no address left for a disk", name);
}

static void wake_lun(struct vm_def *d, unsigned lun)
{
	unsigned n = 0;

	for (unsigned i = 0; i < d->freed; i++)
		if (d->freed_lun[i] != lun)
			d->freed_lun[n++] = d->freed_lun[i];
	d->freed = n;
}

int vm_def_add(struct vm_def *d, const char *name, const char *path, unsigned lun)
{
	struct vm_def_disk *disk = &d->disk[d->disks];

	if (d->disks == VM_DISKS_MAX)
		return fail(-EINVAL, "vm %s: has %d disks, more cannot be", name, VM_DISKS_MAX);
	memset(disk, 0, sizeof(*disk));
	if (str_format(disk->path, sizeof(disk->path), "%s", path) < 0)
		return fail(-EINVAL, "%s: a disk's path has at most %zu bytes", path,
			    sizeof(disk->path) - 1);
	disk->lun = lun;
	wake_lun(d, lun);
	d->disks++;
	return 0;
}

void vm_def_remove(struct vm_def *d, unsigned index, bool rest)
{
	unsigned lun = d->disk[index].lun;

	d->disks--;
	memmove(&d->disk[index], &d->disk[index + 1], (d->disks - index) * sizeof(d->disk[0]));
	memset(&d->disk[d->disks], 0, sizeof(d->disk[0]));
	wake_lun(d, lun);
	if (rest && d->freed < VM_LUNS)
		d->freed_lun[d->freed++] = (uint16_t)lun;
}

char *vm_def_disk_name(const struct vm_def_disk *disk, const char *volume)
{
	return disk->pass ? xstrdup(disk->name) : xasprintf("%s:%s", volume, disk->path);
}

void vm_def_initiator(const struct vm_def *def, char name[VM_IQN_BYTES])
{
	(void)str_format(name, VM_IQN_BYTES, "iqn.2026-01.org.perilune:vm.%s", def->id);
}

json_t *vm_def_json(const struct vm_def *d, const char *volume)
{
	json_t *disks = json_array(), *attached = json_array(), *doc;
	char initiator[VM_IQN_BYTES];

	for (unsigned i = 0; i < d->disks; i++) {
		const struct vm_def_disk *disk = &d->disk[i];
		cleanup_free char *name = vm_def_disk_name(disk, volume);
		json_t *one;

		if (disk->pending)
			continue;
		json_array_append_new(disks, json_string(name));
		one = json_pack("{s:s, s:i, s:s}", "disk", name, "lun", (int)disk->lun, "kind",
				disk->pass ? "lun" : "disk");
		if (disk->pass) {
			json_object_set_new(one, "id", json_string(disk->path));
			json_object_set_new(one, "shared", json_boolean(disk->shared));
			json_object_set_new(one, "unfiltered", json_boolean(disk->unfiltered));
		}
		json_array_append_new(attached, one);
	}
	doc = json_pack("{s:s, s:I, s:i, s:o, s:o, s:o, s:s, s:s, s:s, s:s, s:b, s:s}", "id", d->id,
			"memory", (json_int_t)d->memory, "cpus", (int)d->cpus, "disks", disks,
			"attached", attached, "nets", vm_def_nets_json(d, NULL), "append",
			d->append, "created", d->created, "policy", "manual", "boot",
			d->firmware	? "disk"
			: d->has_kernel ? "kernel"
					: "none",
			"nested", d->nested, "watchdog", vm_watchdog_name(d->watchdog));
	vm_def_initiator(d, initiator);
	json_object_set_new(doc, "initiator", json_string(initiator));
	json_object_set_new(doc, "cpu", json_string(d->cpu[0] ? d->cpu : "host"));
	vm_share_json(&d->share, d->memory, doc);
	return doc;
}
