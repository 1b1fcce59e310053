// SPDX-License-Identifier: Apache-2.0
/*
 * vm_control.c: the control connection to a VMM (base/vmctl.h), and its device's connection to the
 * controller. The VMM is not trusted: what it says is decoded with bounds, time-outs everywhere.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "host/vm_net.h"
#include "host/vm_run.h"
#include "vfs/controller.h"

#define HELLO_MS 5000 /* a VMM answers at once; it may have to wait for a CPU */

/* CONFIG's list, for every VM: its devices but the nets, which come after them. */
enum device { DEVICE_SCSI, DEVICE_RNG, DEVICE_BALLOON, DEVICE_AGENT, DEVICES };

static int connect_socket(struct host_vm *vm, const struct vmctl_hello *how,
			  struct vmctl_conn **out)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct vmctl_msg hello = {.type = VMCTL_HELLO, .hello = *how};
	/* One whose list of connections is full would have us wait for as long as it likes. */
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), rc;

	(void)str_format(addr.sun_path, sizeof(addr.sun_path), "%s.sock", vm->base);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		rc = fail(-ECONNREFUSED, "vm %s: its VMM does not listen: %s", vm->name,
			  strerror(errno));
		if (fd >= 0)
			close(fd);
		return rc;
	}
	rc = vmctl_conn_create(out, fd);
	if (rc < 0)
		return rc;
	hello.hello.version = VMCTL_VERSION;
	rc = vmctl_conn_send(*out, &hello);
	if (rc < 0)
		vmctl_conn_destroy(*out);
	return rc;
}

void vm_disconnect(struct host_vm *vm)
{
	vmctl_conn_destroy(vm->conn);
	vm->conn = NULL;
}

static void take_event(struct host_vm *vm, const struct vmctl_event *e)
{
	vm->events |= 1u << e->kind;
	if (e->text[0])
		(void)str_format(vm->event_text, sizeof(vm->event_text), "%s", e->text);
	log_info("host", "vm %s: %s%s%s", vm->name, vmctl_event_name(e->kind),
		 e->text[0] ? ": " : "", e->text);
}

/* Any message that is no REPLY; -EPROTO for what a VMM has no business to say. */
static int take(struct host_vm *vm, struct vmctl_msg *msg)
{
	for (unsigned i = 0; i < msg->fds_n; i++)
		close(msg->fds[i]);
	switch (msg->type) {
	case VMCTL_EVENT:
		take_event(vm, &msg->event);
		return 0;
	case VMCTL_CONSOLE_OUTPUT:
		vm_console_output(vm->console, msg->console.data, msg->console.bytes);
		return 0;
	case VMCTL_REPLY: /* of a request that was given up waiting for */
	case VMCTL_READY:
	case VMCTL_STATUS:
	case VMCTL_CPU:
	case VMCTL_NET_TAPS:
		return 0;
	case VMCTL_BALLOON:
		vm_usage_balloon(vm, &msg->balloon);
		return 0;
	case VMCTL_FAULTS:
		return 0;
	case VMCTL_HELLO:
	case VMCTL_CONFIG:
	case VMCTL_START:
	case VMCTL_PAUSE:
	case VMCTL_RESUME:
	case VMCTL_POWER_BUTTON:
	case VMCTL_RESET:
	case VMCTL_KILL:
	case VMCTL_CONSOLE_INPUT:
	case VMCTL_GET_STATUS:
	case VMCTL_LOG_START:
	case VMCTL_LOG_SYNC:
	case VMCTL_LOG_STOP:
	case VMCTL_SAVE:
	case VMCTL_LOAD:
	case VMCTL_GET_CPU:
	case VMCTL_SET_CPU:
	case VMCTL_SET_BALLOON:
	case VMCTL_GET_BALLOON:
	case VMCTL_NET:
	case VMCTL_NET_TAKE:
	case VMCTL_NET_VHOST:
	case VMCTL_SET_MACHINE:
	case VMCTL_CAN_SAVE:
	case VMCTL_POSTCOPY:
	case VMCTL_POSTCOPY_END:
		break;
	}
	return fail(-EPROTO, "vm %s: its VMM sends message %u", vm->name, (unsigned)msg->type);
}

int vm_call_plain(struct host_vm *vm, enum vmctl_type type, unsigned timeout_ms)
{
	struct vmctl_msg *msg = xcalloc(1, sizeof(*msg));
	int rc;

	msg->type = type;
	rc = vm_call(vm, msg, timeout_ms);
	free(msg);
	return rc;
}

int vm_hear(struct host_vm *vm)
{
	struct vmctl_msg *msg = xcalloc(1, sizeof(*msg));
	int rc = vm->conn ? 1 : -ECONNRESET;

	while (rc == 1) {
		rc = vmctl_conn_receive(vm->conn, msg);
		if (rc == 1 && take(vm, msg) < 0)
			rc = -EPROTO;
	}
	if (rc == 0 && vmctl_conn_pending(vm->conn) && vmctl_conn_flush(vm->conn) == -EPIPE)
		rc = -ECONNRESET;
	if (rc < 0)
		vm_disconnect(vm);
	free(msg);
	return rc;
}

static int await_ready(struct host_vm *vm, struct vmctl_status *status)
{
	struct vmctl_msg *msg = xcalloc(1, sizeof(*msg));
	uint64_t deadline = clock_boot_ns() + HELLO_MS * NS_PER_MS;
	int rc = vmctl_conn_wait(vm->conn, msg, deadline);

	if (rc == 1 && msg->type == VMCTL_REPLY)
		rc = fail(-EPROTO, "vm %s: its VMM refuses: %s", vm->name, msg->reply.text);
	else if (rc == 1 && msg->type != VMCTL_READY)
		rc = fail(-EPROTO, "vm %s: its VMM sends message %u first", vm->name,
			  (unsigned)msg->type);
	if (rc == 1) {
		vm->features = msg->status.features;
		vm_usage_begin(vm);
		if (status)
			*status = msg->status;
	}
	free(msg);
	return rc < 0 ? rc : 0;
}

int vm_connect(struct host_vm *vm, struct vmctl_status *status)
{
	int rc;

	vm_disconnect(vm);
	rc = connect_socket(vm, &(struct vmctl_hello){.kind = VMCTL_KIND_CONTROL}, &vm->conn);
	if (rc < 0) {
		vm->conn = NULL;
		return rc;
	}
	rc = await_ready(vm, status);
	if (rc < 0)
		vm_disconnect(vm);
	return rc;
}

static int reply_of(struct host_vm *vm, const struct vmctl_reply *reply)
{
	if (!reply->err)
		return 0;
	if (reply->err > 0 || reply->err < -4095)
		return fail(-EPROTO, "vm %s: its VMM answers %d", vm->name, reply->err);
	return fail(reply->err, "vm %s: %s", vm->name, reply->text);
}

static int answer_of(struct host_vm *vm, struct vmctl_msg *in, enum vmctl_type want,
		     struct vmctl_msg *answer)
{
	if (in->type == VMCTL_REPLY && (in->reply.err || want == VMCTL_REPLY)) {
		if (answer)
			*answer = *in;
		return reply_of(vm, &in->reply);
	}
	if (in->type != want)
		return fail(-EPROTO, "vm %s: its VMM answers with message %u", vm->name,
			    (unsigned)in->type);
	if (answer)
		*answer = *in;
	return 0;
}

/*
 * In the middle of a call. What came before is taken still; what became of the call is seen when it is connected
 * anew: vm_turn.c, hear.
 */
static int lose(struct host_vm *vm)
{
	(void)vm_hear(vm);
	vm_disconnect(vm);
	return fail(-ECONNRESET, "vm %s: the connection to its monitor is lost", vm->name);
}

int vm_call_for(struct host_vm *vm, struct vmctl_msg *msg, enum vmctl_type want,
		struct vmctl_msg *answer, unsigned timeout_ms)
{
	uint64_t deadline = clock_boot_ns() + timeout_ms * NS_PER_MS;
	struct vmctl_msg *in;
	int rc;

	if (!vm->conn)
		return fail(-ENOTCONN, "vm %s: no connection to its VMM", vm->name);
	msg->tag = ++vm->tag;
	rc = vmctl_conn_send(vm->conn, msg);
	if (rc == -EPIPE)
		return lose(vm);
	if (rc < 0)
		return fail(rc, "vm %s: its VMM does not listen", vm->name);
	in = xcalloc(1, sizeof(*in));
	for (;;) {
		rc = vmctl_conn_wait(vm->conn, in, deadline);
		if (rc < 0) {
			rc = rc == -ETIMEDOUT
				     ? fail(rc, "vm %s: its VMM did not answer within %u ms",
					    vm->name, timeout_ms)
				     : lose(vm);
			break;
		}
		if ((in->type == VMCTL_REPLY || in->type == want) && in->tag == msg->tag) {
			/* Of taps, and of faults, they are what was asked for. */
			bool keep = want == VMCTL_NET_TAPS ||
				    (want == VMCTL_FAULTS && in->type == want && answer);

			for (unsigned i = 0; !keep && i < in->fds_n; i++)
				close(in->fds[i]);
			rc = answer_of(vm, in, want, answer);
			break;
		}
		rc = take(vm, in);
		if (rc < 0) {
			vm_disconnect(vm);
			break;
		}
	}
	free(in);
	return rc;
}

int vm_call(struct host_vm *vm, struct vmctl_msg *msg, unsigned timeout_ms)
{
	return vm_call_for(vm, msg, VMCTL_REPLY, NULL, timeout_ms);
}

void vm_say_console(struct host_vm *vm, const uint8_t *data, size_t n)
{
	struct vmctl_msg *msg = xcalloc(1, sizeof(*msg));

	msg->type = VMCTL_CONSOLE_INPUT;
	while (n > 0 && vm->conn) {
		msg->console.bytes = (uint32_t)MIN(n, VMCTL_CONSOLE_CHUNK);
		memcpy(msg->console.data, data, msg->console.bytes);
		if (vmctl_conn_send(vm->conn, msg) < 0)
			break; /* a VMM that is that far behind reads no keys */
		data += msg->console.bytes;
		n -= msg->console.bytes;
	}
	free(msg);
}

/* A connection that is for something else after its HELLO; its socket, or -errno. */
static int connect_raw(struct host_vm *vm, const struct vmctl_hello *how)
{
	struct vmctl_conn *conn;
	int rc = connect_socket(vm, how, &conn), fd;

	if (rc < 0)
		return rc;
	fd = vmctl_conn_detach(conn);
	if (fd < 0)
		vmctl_conn_destroy(conn);
	return fd;
}

int vm_connect_disks(struct host_vm *vm)
{
	int fd = connect_raw(
		vm, &(struct vmctl_hello){.kind = VMCTL_KIND_VHOST_USER, .device = DEVICE_SCSI});

	return fd < 0 ? fd
		      : controller_serve(vm->controller, fd); /* takes it, also when it fails */
}

int vm_connect_agent(struct host_vm *vm, bool thaws)
{
	return connect_raw(vm, &(struct vmctl_hello){.kind = VMCTL_KIND_AGENT,
						     .device = DEVICE_AGENT,
						     .features = thaws ? VMCTL_HELLO_THAWS : 0});
}

/* A VMM that does not know of it is an older release's, adopted with its guest: then it has to do without. */
static int set_machine(struct host_vm *vm)
{
	struct vmctl_msg *msg;
	int rc;

	if (!(vm->features & VMCTL_F_FIRMWARE))
		return 0;
	msg = xcalloc(1, sizeof(*msg));
	msg->type = VMCTL_SET_MACHINE;
	msg->machine.nested = vm->def.nested;
	msg->machine.watchdog = vm->def.watchdog;
	rc = vm_call(vm, msg, HELLO_MS);
	free(msg);
	return rc;
}

/* Which disk firmware boots: the first that was given to the VM, on the controller in PCI slot 3. */
static void set_boot_order(const struct host_vm *vm, char *dst, size_t size)
{
	unsigned lun = vm->def.disk[0].lun;

	if (vm->def.disks) /* in SAM's flat space from 256 on */
		(void)str_format(dst, size, "/pci@i0cf8/scsi@3/channel@0/disk@0,%x\n",
				 lun < 256 ? lun : lun | 0x4000);
}

int vm_configure(struct host_vm *vm, struct vmctl_config *config)
{
	struct vmctl_msg *msg = xcalloc(1, sizeof(*msg));
	int rc;

	msg->type = VMCTL_CONFIG;
	msg->config = *config;
	msg->config.cpus = vm->def.cpus;
	msg->config.memory_bytes = vm->def.memory;
	msg->config.devices_n = DEVICES;
	msg->config.devices[DEVICE_SCSI] = (struct vmctl_device){
		.kind = VMCTL_DEVICE_SCSI,
		.queues = (uint16_t)MIN(vm->def.cpus, VM_QUEUES_MAX),
		.queue_size = VM_QUEUE_SIZE,
	};
	msg->config.devices[DEVICE_RNG] =
		(struct vmctl_device){.kind = VMCTL_DEVICE_RNG, .queues = 1, .queue_size = 64};
	msg->config.devices[DEVICE_BALLOON] =
		(struct vmctl_device){.kind = VMCTL_DEVICE_BALLOON, .queues = 1, .queue_size = 128};
	msg->config.devices[DEVICE_AGENT] =
		(struct vmctl_device){.kind = VMCTL_DEVICE_AGENT, .queues = 1, .queue_size = 64};
	vm_nets_configure(vm, &msg->config);
	if (config->boot == VMCTL_BOOT_FIRMWARE)
		set_boot_order(vm, msg->config.cmdline, sizeof(msg->config.cmdline));
	else
		(void)str_format(msg->config.cmdline, sizeof(msg->config.cmdline), "%s",
				 vm->def.append);
	rc = vm_call(vm, msg, HELLO_MS);
	free(msg);
	return rc < 0 ? rc : set_machine(vm);
}
