// SPDX-License-Identifier: Apache-2.0
/*
 * vm_spawn.c: the VMM as a process: made with descriptors only, in a session, namespaces and cgroup
 * of its own so that it outlives this daemon; found again by the next one by pid, start time and
 * boot.
 *
 * The inventory knows of a VM before its lock is taken, and of its VMM before that may run anything:
 * a daemon that dies anywhere in between leaves at most a VMM without a guest, which its command
 * line names.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "host/cgroup.h"
#include "host/daemon.h"
#include "host/db.h"
#include "host/vm_net.h"
#include "host/vm_process.h"
#include "host/vm_run.h"
#include "host/volume.h"

#define MEMORY_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) /* INV-HV-1 */
#define FILE_HASH    0xffffffffffffULL
#define DYING_MS     500  /* from the sockets' end to the process's */
#define DIE_MS	     5000 /* a killed process whose kernel work hangs is not waited for longer */

/* FNV-1a: files of a VM are named by it, a socket's path is short. */
static uint64_t hash_of(const char *text)
{
	uint64_t h = 0xcbf29ce484222325ULL;

	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 0x100000001b3ULL;
	return h;
}

char *vm_console_path(const struct host *host, const char *volume_id, const char *name)
{
	cleanup_free char *key = xasprintf("%s/%s", volume_id, name);

	return xasprintf("%s/vm/%012llx.console", host->state.dir,
			 (unsigned long long)(hash_of(key) & FILE_HASH));
}

void vm_name_files(struct host_vm *vm, const char *volume_id)
{
	const char *state = vm->all->host->state.dir;

	(void)str_format(vm->key, sizeof(vm->key), "%s/%s", volume_id, vm->name);
	(void)str_format(vm->id, sizeof(vm->id), "%s:%s:%s", state, host_volume_name(vm->volume),
			 vm->name);
	(void)str_format(vm->base, sizeof(vm->base), "%s/vm/%012llx", state,
			 (unsigned long long)(hash_of(vm->key) & FILE_HASH));
}

static void remove_files(struct host_vm *vm)
{
	static const char *const suffixes[] = {"lease", "sock"};

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		cleanup_free char *path = xasprintf("%s.%s", vm->base, suffixes[i]);

		(void)unlink(path);
	}
}

/* --- the inventory ------------------------------------------------------------------------------ */

static int remember(struct host_vm *vm, bool arrival)
{
	json_t *record = json_pack("{s:s, s:s, s:i, s:I, s:i, s:I, s:I}", "name", vm->name,
				   "volume", host_volume_name(vm->volume), "pid", (int)vm->pid,
				   "start", (json_int_t)vm->pid_start, "memory_number",
				   vm->memory_number, "memory_ino", (json_int_t)vm->memory_ino,
				   "started_ns", (json_int_t)vm->started_ns);
	char boot[40];
	int rc;

	process_boot(boot);
	json_object_set_new(record, "boot", json_string(boot));
	json_object_set_new(record, "held", json_boolean(vm->held));
	json_object_set_new(record, "definition", vm_def_record(&vm->def));
	if (vm->def.nets)
		json_object_set_new(record, "nets", vm_nets_record(vm));
	if (vm->loaded)
		json_object_set_new(record, "loaded", json_true());
	if (arrival)
		json_object_set_new(record, "arriving", json_true());
	if (atomic_load(&vm->incomplete))
		json_object_set_new(record, "incomplete", json_true());
	rc = host_db_put(vm->all->host->db, HOST_VMS, vm->key, record);
	json_decref(record);
	return rc;
}

int vm_remember(struct host_vm *vm)
{
	return remember(vm, false);
}

int vm_remember_arrival(struct host_vm *vm)
{
	return remember(vm, true);
}

void vm_forget(struct host_vm *vm)
{
	int rc = host_db_put(vm->all->host->db, HOST_VMS, vm->key, NULL);

	if (rc < 0)
		log_warn("host", "vm %s: still in the inventory: %s", vm->name, err_message(rc));
}

/* --- making one --------------------------------------------------------------------------------- */

static int make_memory(struct host_vm *vm)
{
	struct stat st;
	int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return fail(-errno, "vm %s: no memory: %s", vm->name, strerror(errno));
	if (ftruncate(fd, (off_t)vm->def.memory) < 0 || fcntl(fd, F_ADD_SEALS, MEMORY_SEALS) < 0 ||
	    fstat(fd, &st) < 0) {
		int rc = fail(-errno, "vm %s: its memory: %s", vm->name, strerror(errno));

		close(fd);
		return rc;
	}
	vm->memory_fd = fd;
	vm->memory_ino = st.st_ino;
	return 0;
}

static int make_socket(struct host_vm *vm, int *out)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (str_format(addr.sun_path, sizeof(addr.sun_path), "%s.sock", vm->base) < 0) {
		close(fd);
		return fail(-ENAMETOOLONG, "%s.sock: too long for a socket", vm->base);
	}
	(void)unlink(addr.sun_path);
	/* The mode is set before bind makes the file: nobody else gets in in between. */
	if (fd < 0 || fchmod(fd, 0600) < 0 ||
	    bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 16) < 0) {
		int rc = fail(-errno, "%s: %s", addr.sun_path, strerror(errno));

		if (fd >= 0)
			close(fd);
		return rc;
	}
	*out = fd;
	return 0;
}

static int start_process(struct host_vm *vm, int kvm, int lease, int listener)
{
	(void)str_format(vm->pool, sizeof(vm->pool), "%s", vm->def.share.pool);
	cleanup_free char *log = xasprintf("%s.log", vm->base);
	const struct process_options o = {
		.program = vm->all->host->vmm,
		.id = vm->id,
		.pool = vm->pool,
		.name = vm->name,
		.log = log,
		.uid_hash = hash_of(vm->id),
		.postcopy = vm->arriving,
		.kvm = kvm,
		.memory = vm->memory_fd,
		.lease = lease,
		.listener = listener,
	};
	int rc = process_start(&o, &vm->pid, &vm->pid_fd);

	if (rc < 0)
		return fail_prefix(rc, "vm %s", vm->name);
	vm->memory_number = vm->memory_fd;
	vm_try_cpus(vm); /* its group may be left over */
	return process_start_time(vm->pid, &vm->pid_start);
}

int vm_spawn(struct host_vm *vm)
{
	const char *path = vm->all->host->kvm;
	cleanup_fd int kvm = open(path, O_RDWR | O_CLOEXEC), listener = -1, lease = -1;
	int rc;

	if (kvm < 0)
		return fail(-errno, "%s: %s; see perilune host check", path, strerror(errno));
	rc = make_memory(vm);
	if (rc == 0)
		rc = vm_lease_map(vm, true, &lease);
	if (rc == 0)
		rc = make_socket(vm, &listener);
	return rc < 0 ? rc : start_process(vm, kvm, lease, listener);
}

/* --- taking one up ------------------------------------------------------------------------------ */

static uint64_t number(json_t *record, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(record, key));
}

/* Nothing of a VMM is believed: the memory must be the one that was given, sealed as it was. */
static int take_memory(struct host_vm *vm, json_t *record)
{
	int want = (int)number(record, "memory_number"), seals;
	cleanup_free char *path = xasprintf("/proc/%d/fd/%d", (int)vm->pid, want);
	struct stat st;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return fail(-errno, "vm %s: the memory of its VMM: %s", vm->name, strerror(errno));
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & MEMORY_SEALS) != MEMORY_SEALS || fstat(fd, &st) < 0 ||
	    st.st_ino != number(record, "memory_ino") || (uint64_t)st.st_size != vm->def.memory) {
		close(fd);
		return fail(-EPROTO, "vm %s: the memory of its VMM is another one", vm->name);
	}
	vm->memory_fd = fd;
	vm->memory_number = want;
	vm->memory_ino = st.st_ino;
	return 0;
}

int vm_take_up(struct host_vm *vm, json_t *record)
{
	const char *boot = json_string_value(json_object_get(record, "boot"));
	uint64_t start = 0;
	char now[40];
	int rc;

	vm->started_ns = number(record, "started_ns");
	vm->loaded = json_is_true(json_object_get(record, "loaded"));
	vm->held = json_is_true(json_object_get(record, "held"));
	vm_nets_recall(vm, json_object_get(record, "nets"));
	process_boot(now);
	if (!boot || strcmp(boot, now) || !number(record, "pid"))
		return fail(-ESRCH, "vm %s: its VMM is gone", vm->name);
	vm->pid = (pid_t)number(record, "pid");
	vm->pid_fd = (int)syscall(SYS_pidfd_open, vm->pid, 0);
	rc = vm->pid_fd < 0 ? -ESRCH : process_start_time(vm->pid, &start);
	if (rc < 0 || start != number(record, "start") || vm_process_ended(vm)) {
		util_close(&vm->pid_fd);
		vm->pid_fd = -1;
		vm->pid = 0;
		return fail(-ESRCH, "vm %s: its VMM ended while no daemon ran", vm->name);
	}
	vm->pid_start = start;
	(void)str_format(vm->pool, sizeof(vm->pool), "%s", vm->def.share.pool);
	/* The daemon before may have ended in the middle of a migration that slowed it down. */
	vm_try_cpus(vm);
	rc = take_memory(vm, record);
	return rc < 0 ? rc : vm_lease_map(vm, false, NULL);
}

void vm_end_strays(const char *id)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;

	while (proc && (e = readdir(proc))) {
		pid_t pid = (pid_t)atoi(e->d_name);
		int fd;

		if (pid <= 0 || !process_is_vmm(pid, id))
			continue;
		fd = (int)syscall(SYS_pidfd_open, pid, 0);
		if (fd >= 0 && process_is_vmm(pid, id)) {
			log_info("host", "a VMM without a guest is ended: %s, pid %d", id,
				 (int)pid);
			(void)syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
		}
		if (fd >= 0)
			close(fd);
	}
	if (proc)
		closedir(proc);
}

/* --- its end ------------------------------------------------------------------------------------ */

static bool ended_within(struct host_vm *vm, int ms)
{
	struct pollfd p = {.fd = vm->pid_fd, .events = POLLIN};

	return poll(&p, 1, ms) == 1;
}

bool vm_process_ended(struct host_vm *vm)
{
	return vm->pid_fd < 0 || ended_within(vm, 0);
}

bool vm_process_dying(struct host_vm *vm)
{
	return vm->pid_fd < 0 || ended_within(vm, DYING_MS);
}

int vm_died(const char *name)
{
	return fail(-EHOSTDOWN, "vm %s: its monitor died", name);
}

void vm_let_go(struct host_vm *vm)
{
	vm_disconnect(vm);
	vm_lease_unmap(vm);
	if (vm->memory_fd >= 0)
		close(vm->memory_fd);
	if (vm->pid_fd >= 0)
		close(vm->pid_fd);
	vm->memory_fd = vm->pid_fd = -1;
}

void vm_kill_process(struct host_vm *vm)
{
	if (!vm_process_ended(vm))
		(void)syscall(SYS_pidfd_send_signal, vm->pid_fd, SIGKILL, NULL, 0);
}

void vm_end_process(struct host_vm *vm)
{
	siginfo_t info;

	if (vm->pid_fd >= 0 && !vm_process_ended(vm)) {
		vm_kill_process(vm);
		if (!ended_within(vm, DIE_MS))
			log_warn("host", "vm %s: its VMM, pid %d, does not die", vm->name,
				 (int)vm->pid);
	}
	if (vm->pid_fd >= 0) /* ours, or of a daemon before us: then init has it */
		(void)waitid(P_PIDFD, (id_t)vm->pid_fd, &info, WEXITED | WNOHANG);
	vm_let_go(vm);
	vm->pid = 0;
	remove_files(vm);
	cgroup_forget(&(struct cgroup){vm->pool, vm->id});
}
