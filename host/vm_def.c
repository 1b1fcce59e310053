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

#include "base/err.h"
#include "base/util.h"
#include "base/vmctl.h"
#include "host/names.h"

#define DEF_BYTES_MAX (64 * KiB)
#define DEF_VERSION   1
#define MEMORY_MAX    (4 * TiB)

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
	return 0;
}

static void take_text(json_t *doc, const char *key, char *dst, size_t size)
{
	const char *s = json_string_value(json_object_get(doc, key));

	(void)str_format(dst, size, "%s", s ? s : "");
}

int vm_def_parse(json_t *doc, const char *name, struct vm_def *d)
{
	json_t *disk;
	size_t i;

	memset(d, 0, sizeof(*d));
	if (json_integer_value(json_object_get(doc, "version")) != DEF_VERSION)
		return fail(-EUCLEAN, "vm %s: definition of version %lld; this release reads %d",
			    name, (long long)json_integer_value(json_object_get(doc, "version")),
			    DEF_VERSION);
	take_text(doc, "id", d->id, sizeof(d->id));
	take_text(doc, "append", d->append, sizeof(d->append));
	take_text(doc, "created", d->created, sizeof(d->created));
	d->memory = (uint64_t)json_integer_value(json_object_get(doc, "memory"));
	d->cpus = (unsigned)json_integer_value(json_object_get(doc, "cpus"));
	d->has_kernel = json_is_true(json_object_get(doc, "kernel"));
	d->has_initrd = json_is_true(json_object_get(doc, "initrd"));
	json_array_foreach(json_object_get(doc, "disks"), i, disk)
	{
		if (d->disks == VM_DISKS_MAX || !json_is_string(disk))
			return fail(-EUCLEAN, "vm %s: definition: wrong list of disks", name);
		(void)str_format(d->disk[d->disks++], sizeof(d->disk[0]), "%s",
				 json_string_value(disk));
	}
	return vm_def_check(d, name) < 0 ? -EUCLEAN : 0;
}

int vm_def_load(struct cfs *fs, const char *name, struct vm_def *out)
{
	cleanup_free char *path = vm_path(name, "definition.json");
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

json_t *vm_def_record(const struct vm_def *d)
{
	json_t *disks = json_array();

	for (unsigned i = 0; i < d->disks; i++)
		json_array_append_new(disks, json_string(d->disk[i]));
	return json_pack("{s:i, s:s, s:I, s:i, s:o, s:s, s:b, s:b, s:s}", "version", DEF_VERSION,
			 "id", d->id, "memory", (json_int_t)d->memory, "cpus", (int)d->cpus,
			 "disks", disks, "append", d->append, "kernel", d->has_kernel, "initrd",
			 d->has_initrd, "created", d->created);
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

json_t *vm_def_json(const struct vm_def *d, const char *volume)
{
	json_t *disks = json_array();

	for (unsigned i = 0; i < d->disks; i++) {
		cleanup_free char *name = xasprintf("%s:%s", volume, d->disk[i]);

		json_array_append_new(disks, json_string(name));
	}
	return json_pack("{s:s, s:I, s:i, s:o, s:[], s:s, s:s, s:s}", "id", d->id, "memory",
			 (json_int_t)d->memory, "cpus", (int)d->cpus, "disks", disks, "nets",
			 "append", d->append, "created", d->created, "policy", "manual");
}
