// SPDX-License-Identifier: Apache-2.0
/* vm_cpu.c: the processor a guest sees. */
#include "host/vm_cpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "host/vm_run.h"

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
