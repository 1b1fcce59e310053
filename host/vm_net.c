// SPDX-License-Identifier: Apache-2.0
/* vm_net.c: the taps of a VM that runs here. */
#include "host/vm_net.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "host/tap.h"
#include "host/vm_run.h"

#define QUEUE_SIZE 256 /* descriptors */
#define VHOST	   "/dev/vhost-net"

struct tap_place vm_net_place(const struct vm_def_net *net)
{
	return (struct tap_place){.bridge = net->bridge[0] ? net->bridge : NULL,
				  .tap = net->tap[0] ? net->tap : NULL,
				  .vlan = net->vlan};
}

int vm_nets_check(const struct vm_def *d, const char *name)
{
	int rc = 0;

	for (unsigned i = 0; i < d->nets && rc == 0; i++) {
		const struct tap_place place = vm_net_place(&d->net[i]);

		rc = tap_check(&place);
	}
	return rc < 0 ? fail_prefix(rc, "vm %s", name) : 0;
}

void vm_nets_configure(struct host_vm *vm, struct vmctl_config *config)
{
	vm->net_device = config->devices_n;
	for (unsigned i = 0; i < vm->def.nets; i++)
		config->devices[config->devices_n++] =
			(struct vmctl_device){.kind = VMCTL_DEVICE_NET,
					      .queues = (uint16_t)vm->def.net[i].queues,
					      .queue_size = QUEUE_SIZE};
}

/* So that the kernel serves it. Where there is none the VMM does. */
static void give_vhost(struct host_vm *vm, unsigned i, unsigned queues)
{
	struct vmctl_msg *msg = xcalloc(1, sizeof(*msg));
	int rc = 0;

	msg->type = VMCTL_NET_VHOST;
	msg->net.device = vm->net_device + i;
	while (msg->fds_n < queues) {
		int fd = open(VHOST, O_RDWR | O_CLOEXEC);

		if (fd < 0)
			break;
		msg->fds[msg->fds_n++] = fd;
	}
	if (msg->fds_n == queues)
		rc = vm_call(vm, msg, VM_CALL_MS);
	if (rc < 0)
		log_info("host", "vm %s: without vhost-net: %s", vm->name, err_message(rc));
	for (unsigned k = 0; k < msg->fds_n; k++)
		close(msg->fds[k]);
	free(msg);
}

static int give(struct host_vm *vm, unsigned i, const struct tap *tap)
{
	struct vmctl_msg *msg = xcalloc(1, sizeof(*msg));
	int rc;

	msg->type = VMCTL_NET;
	msg->net.device = vm->net_device + i;
	msg->net.mtu = (uint16_t)MIN(tap->mtu, UINT16_MAX);
	memcpy(msg->net.mac, vm->def.net[i].mac, 6);
	memcpy(msg->fds, tap->fd, tap->queues * sizeof(tap->fd[0]));
	msg->fds_n = tap->queues;
	rc = vm_call(vm, msg, VM_CALL_MS);
	free(msg);
	return rc;
}

int vm_nets_open(struct host_vm *vm)
{
	int rc = 0;

	for (unsigned i = 0; i < vm->def.nets && rc == 0; i++) {
		const struct vm_def_net *net = &vm->def.net[i];
		const struct tap_place place = vm_net_place(net);
		struct tap tap;

		rc = tap_open(&place, net->mac, net->queues, &tap);
		if (rc < 0)
			return fail_prefix(rc, "vm %s", vm->name);
		rc = give(vm, i, &tap);
		if (rc == 0 && !net->no_vhost)
			give_vhost(vm, i, net->queues);
		pthread_mutex_lock(&vm->lock);
		memcpy(vm->tap[i], tap.name, sizeof(vm->tap[i]));
		pthread_mutex_unlock(&vm->lock);
		tap_close(&tap);
	}
	return rc;
}

json_t *vm_nets_record(const struct host_vm *vm)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < vm->def.nets; i++)
		json_array_append_new(list, json_string(vm->tap[i]));
	return json_pack("{s:i, s:o}", "device", (int)vm->net_device, "taps", list);
}

void vm_nets_recall(struct host_vm *vm, json_t *doc)
{
	json_t *list = json_object_get(doc, "taps");

	vm->net_device = (unsigned)json_integer_value(json_object_get(doc, "device"));
	for (unsigned i = 0; i < vm->def.nets; i++) {
		const char *name = json_string_value(json_array_get(list, i));

		(void)str_format(vm->tap[i], sizeof(vm->tap[i]), "%s", name ? name : "");
	}
}
