// SPDX-License-Identifier: Apache-2.0
/*
 * holder.c: from a lock's owner to a VM's name. Locks know hosts and blocks; which VM has a disk
 * stands in the VMs' definitions, so those are read: on the way of an error only.
 */
#include "host/holder.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/vm_def.h"
#include "host/volume.h"

struct vm_found {
	char name[VM_NAME_MAX + 1], host[80];
	bool saved;
};

static int add_dir(void *arg, const char *name, const struct cfs_stat *st)
{
	if (st->kind == CFS_DIR && strlen(name) <= VM_NAME_MAX)
		json_array_append_new(arg, json_string(name));
	return 0;
}

static bool has_disk(struct cfs *fs, const char *name, const char *path)
{
	struct vm_def *def = xcalloc(1, sizeof(*def));
	bool yes = false;

	if (vm_def_load(fs, name, def) == 0)
		for (unsigned i = 0; i < def->disks; i++)
			yes = yes || (!def->disk[i].pending && !strcmp(def->disk[i].path, path));
	free(def);
	return yes;
}

static bool has_its_disks(struct cfs *fs, const char *object, struct vm_found *out)
{
	struct cfs_vm_where where;

	if (cfs_vm_where(fs, object, &where) < 0 || where.state == CFS_VM_STOPPED)
		return false;
	out->saved = where.state == CFS_VM_SAVED;
	(void)str_format(out->host, sizeof(out->host), "%s", where.host);
	return true;
}

/* The VM that has the disk `path`: it runs, or is saved. */
static bool find_vm(struct host_volume *v, const char *path, struct vm_found *out)
{
	struct cfs *fs = host_volume_fs(v);
	json_t *names = json_array(), *item;
	bool found = false;
	size_t i;

	(void)cfs_readdir(fs, VM_DIR, add_dir, names);
	json_array_foreach(names, i, item)
	{
		const char *name = json_string_value(item);
		cleanup_free char *object = vm_path(name, "vm");

		if (found || !has_its_disks(fs, object, out) || !has_disk(fs, name, path))
			continue;
		(void)str_format(out->name, sizeof(out->name), "%s", name);
		found = true;
	}
	json_decref(names);
	err_clear();
	return found;
}

json_t *host_holder_json(struct host_volume *v, const char *path, const char *holder)
{
	struct vm_found vm;
	char name[128];
	json_t *d;

	if (find_vm(v, path, &vm)) {
		d = json_pack("{s:s, s:s, s:s?}", "kind", "vm", "name", vm.name, "host",
			      vm.saved ? NULL : vm.host);
		return d ? d : json_null();
	}
	/* "host NAME (slot 3, epoch 1)" */
	if (!strncmp(holder, "host ", 5))
		holder += 5;
	(void)str_format(name, sizeof(name), "%.*s", (int)strcspn(holder, "("), holder);
	while (*name && name[strlen(name) - 1] == ' ')
		name[strlen(name) - 1] = 0;
	d = json_pack("{s:s, s:s, s:s}", "kind", "host", "name", name, "host", name);
	return d ? d : json_null();
}

int host_name_holder(struct host_volume *v, const char *path, int rc)
{
	struct err_info why;
	struct vm_found vm;

	if (rc != -EBUSY)
		return rc;
	err_save(&why, rc);
	if (find_vm(v, path, &vm)) {
		if (vm.saved)
			(void)str_format(why.message, sizeof(why.message),
					 "%s:%s: is VM %s's, which is saved and needs it as it is; "
					 "start and stop it first",
					 host_volume_name(v), path, vm.name);
		else
			(void)str_format(why.message, sizeof(why.message),
					 "%s:%s: in use by VM %s on host %s; stop it first",
					 host_volume_name(v), path, vm.name, vm.host);
		(void)str_format(why.holder, sizeof(why.holder), "vm %s", vm.name);
	}
	return err_restore(&why);
}
