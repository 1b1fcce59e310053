// SPDX-License-Identifier: Apache-2.0
/* vm_cpu.c: the processor a guest sees. */
#include "host/vm_cpu.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cpu_level.h"
#include "base/err.h"
#include "host/call.h"
#include "host/daemon.h"
#include "host/vm_run.h"

#define LEVEL_MEMORY (512 * GiB) /* what a level's 40 bits of address are enough for */
#define HOSTS_MAX    64
#define TELL_MS	     10000
#define TELL_BYTES   (2 * VMCTL_PAYLOAD_MAX + 2)

char *vm_cpu_text(const struct cpu_table *cpu)
{
	cleanup_free uint8_t *bytes = xmalloc(VMCTL_PAYLOAD_MAX);
	int n = MAX(cpu_table_encode(cpu, bytes, VMCTL_PAYLOAD_MAX), 0);
	char *text = xmalloc(2 * (size_t)n + 1), *at = text;

	for (int i = 0; i < n; i++)
		at += str_format(at, 3, "%02x", bytes[i]);
	*at = 0;
	return text;
}

int vm_cpu_parse(const char *text, struct cpu_table *out)
{
	size_t n = text ? strlen(text) / 2 : 0;
	cleanup_free uint8_t *bytes = xmalloc(n + 1);

	for (size_t i = 0; i < n; i++) {
		char two[3] = {text[2 * i], text[2 * i + 1], 0}, *end;

		bytes[i] = (uint8_t)strtoul(two, &end, 16);
		if (*end)
			return fail(-EBADMSG, "a processor that is not understood");
	}
	return cpu_table_decode(bytes, n, out) < 0 ? -EBADMSG : 0;
}

int vm_cpu_get(struct host_vm *vm, struct cpu_table *out)
{
	struct vmctl_msg *msg = xcalloc(2, sizeof(*msg));
	int rc;

	msg->type = VMCTL_GET_CPU;
	rc = vm_call_for(vm, msg, VMCTL_CPU, msg + 1, VM_CALL_MS);
	if (rc == 0)
		*out = msg[1].cpu;
	free(msg);
	return rc;
}

static int set(struct host_vm *vm, const struct cpu_table *cpu)
{
	struct vmctl_msg *msg = xcalloc(1, sizeof(*msg));
	int rc;

	msg->type = VMCTL_SET_CPU;
	msg->cpu = *cpu;
	rc = vm_call(vm, msg, VM_CALL_MS);
	free(msg);
	return rc;
}

int vm_cpu_take(struct host_vm *vm, const struct cpu_table *cpu)
{
	struct cpu_table *here = xcalloc(1, sizeof(*here));
	int rc = vm_cpu_get(vm, here);

	if (rc == 0)
		rc = cpu_table_check(cpu, here);
	if (rc == 0)
		rc = set(vm, cpu);
	free(here);
	return rc;
}

int vm_cpu_begin(struct host_vm *vm)
{
	struct cpu_table *t;
	int rc;

	if (!vm->def.cpu[0])
		return 0;
	if (vm->def.cpu_common.leaves_n) {
		t = xmalloc(sizeof(*t));
		*t = vm->def.cpu_common;
		if (!vm->def.nested)
			cpu_level_hide_nested(t);
		rc = vm_cpu_take(vm, t);
		free(t);
	} else if (vm->def.memory > LEVEL_MEMORY) {
		rc = fail(-EINVAL, "processor %s: has 40 bits of address, too few for its memory",
			  vm->def.cpu);
	} else {
		t = xcalloc(1, sizeof(*t));
		rc = vm_cpu_get(vm, t);
		if (rc == 0)
			rc = cpu_level_apply(t, vm->def.cpu, vm->def.nested);
		if (rc == 0)
			rc = set(vm, t);
		free(t);
	}
	return rc < 0 ? fail_prefix(rc, "vm %s: --cpu baseline=%s", vm->name, vm->def.cpu) : 0;
}

/* --- in definitions -------------------------------------------------------------------------------- */

void vm_cpu_record(const struct vm_def *d, json_t *doc)
{
	cleanup_free char *text = NULL;

	if (!d->cpu[0])
		return;
	json_object_set_new(doc, "cpu", json_string(d->cpu));
	if (!d->cpu_common.leaves_n)
		return;
	text = vm_cpu_text(&d->cpu_common);
	json_object_set_new(doc, "cpu_common", json_string(text));
}

int vm_cpu_def_parse(json_t *doc, const char *name, struct vm_def *d)
{
	const char *cpu = json_string_value(json_object_get(doc, "cpu"));
	const char *common = json_string_value(json_object_get(doc, "cpu_common"));
	int rc = 0;

	if (cpu && str_format(d->cpu, sizeof(d->cpu), "%s", cpu) < 0)
		rc = -EUCLEAN;
	if (rc == 0 && common)
		rc = vm_cpu_parse(common, &d->cpu_common);
	if (rc == 0 && cpu && !common && !cpu_level_known(cpu))
		rc = -EUCLEAN;
	return rc < 0 ? fail(-EUCLEAN, "vm %s: definition: wrong processor", name) : 0;
}

/* What all of them have. They may differ in what a guest does not mind; the maker must be one. */
static int common_of(struct host_call *call, unsigned hosts, struct cpu_table *out)
{
	const char *text[HOSTS_MAX];
	struct cpu_table *one = xcalloc(1, sizeof(*one));
	int n = host_arg_list(call, "cpu_tables", text, HOSTS_MAX), rc = n < 0 ? n : 0;

	if (rc == 0 && (unsigned)n != hosts)
		rc = fail(-EINVAL, "--cpu: no such level, and tables of %d hosts for %u", n, hosts);
	for (int i = 0; i < n && rc == 0; i++) {
		rc = vm_cpu_parse(text[i], i ? one : out);
		if (rc == 0 && i)
			cpu_table_common(out, one);
		if (rc == 0 && i)
			rc = cpu_table_check(out, one);
	}
	free(one);
	return rc == -EBADMSG ? fail(-EINVAL, "--cpu: a table that is none") : rc;
}

static unsigned count_names(const char *text)
{
	unsigned n = 1;

	for (; *text; text++)
		n += *text == ',';
	return n;
}

int vm_cpu_option(struct host_call *call, struct vm_def *d, const char *name)
{
	static const char prefix[] = "baseline=";
	const char *text = host_arg(call, "cpu");

	if (!text)
		return 0;
	memset(&d->cpu_common, 0, sizeof(d->cpu_common));
	d->cpu[0] = 0;
	if (!strcmp(text, "host"))
		return 0;
	if (strncmp(text, prefix, sizeof(prefix) - 1) != 0)
		return fail(-EINVAL,
			    "vm %s: --cpu %s: host, baseline=LEVEL (x86-64-v1 to x86-64-v4), or "
			    "baseline=HOST,HOST...",
			    name, text);
	text += sizeof(prefix) - 1;
	if (!*text || str_format(d->cpu, sizeof(d->cpu), "%s", text) < 0)
		return fail(-EINVAL, "vm %s: --cpu baseline=: of at most %zu bytes", name,
			    sizeof(d->cpu) - 1);
	if (cpu_level_known(text))
		return 0;
	return common_of(call, count_names(text), &d->cpu_common);
}

/* --- what this host can ---------------------------------------------------------------------------- */

/* All that comes until the other side closes; the bytes, or an error. */
static int read_words(int fd, char *dst, size_t size)
{
	uint64_t until = clock_boot_ms() + TELL_MS;
	size_t n = 0;

	while (n < size - 1) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t got;

		if (clock_boot_ms() >= until || poll(&p, 1, TELL_MS) <= 0)
			return -ETIMEDOUT;
		got = read(fd, dst + n, size - 1 - n);
		if (got < 0)
			return -errno;
		if (!got)
			break;
		n += (size_t)got;
	}
	dst[n] = 0;
	dst[strcspn(dst, "\n")] = 0;
	return 0;
}

/* The monitor knows: it asks KVM as it does for a guest. */
static int ask_monitor(struct host *host, char *dst, size_t size)
{
	cleanup_free char *id = xasprintf("%s:cpu:cpu", host->state.dir);
	char *argv[] = {host->vmm, "--kvm", "3", "--cpu", "--id", id, NULL};
	cleanup_fd int kvm = open(host->kvm, O_RDWR | O_CLOEXEC);
	posix_spawn_file_actions_t actions;
	int ends[2], rc;
	pid_t pid;

	if (kvm < 0)
		return fail(-errno, "%s: %s; see perilune host check", host->kvm, strerror(errno));
	if (pipe2(ends, O_CLOEXEC) < 0)
		return fail(-errno, "pipe: %s", strerror(errno));
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, kvm, 3);
	rc = -posix_spawn(&pid, host->vmm, &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	close(ends[1]);
	if (rc == 0) {
		rc = read_words(ends[0], dst, size);
		if (rc < 0)
			(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
	}
	close(ends[0]);
	return rc < 0 ? fail(rc, "%s: does not tell what processor guests see: %s", host->vmm,
			     strerror(-rc))
		      : 0;
}

int host_cpu(struct host_call *call)
{
	static const char *const names[] = {"x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4"};
	struct cpu_table *table = xcalloc(2, sizeof(*table));
	cleanup_free char *text = xmalloc(TELL_BYTES);
	json_t *levels = json_array();
	int rc = ask_monitor(call->host, text, TELL_BYTES);

	if (rc == 0 && vm_cpu_parse(text, table) < 0)
		rc = fail(-EPROTO, "%s: what it tells of the processor is not understood",
			  call->host->vmm);
	for (unsigned i = 0; i < ARRAY_SIZE(names) && rc == 0; i++) {
		table[1] = table[0];
		if (cpu_level_apply(&table[1], names[i], false) == 0)
			json_array_append_new(levels, json_string(names[i]));
	}
	if (rc == 0) {
		err_clear();
		call->result = json_pack("{s:s, s:O, s:s}", "host", call->host->name, "levels",
					 levels, "table", text);
	}
	json_decref(levels);
	free(table);
	return rc;
}
