// SPDX-License-Identifier: Apache-2.0
/*
 * The main loop: poll(2) over a handful of descriptors (io_uring would be one more thing that a
 * broken-out guest could use). Nothing here waits for anybody.
 */
#include "hv/control.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#define WAITING_MAX 8		   /* accepted, HELLO not yet come */
#define HELLO_NS    (5 * NS_PER_S) /* and how long they may take */

struct hv_control {
	int listen_fd;
	struct hv_vmm *vmm;
	struct vmctl_conn *conn; /* the daemon, or NULL */
	struct {
		struct vmctl_conn *conn;
		uint64_t deadline_ns;
	} waiting[WAITING_MAX];
	uint32_t start_tag, save_tag; /* of a START, a SAVE that waits */
	bool killed;
};

struct hv_control *hv_control_create(int listen_fd)
{
	struct hv_control *c = xcalloc(1, sizeof(*c));

	c->listen_fd = listen_fd;
	return c;
}

/* --- to the daemon ----------------------------------------------------------------------------- */

static void lose_daemon(struct hv_control *c)
{
	vmctl_conn_destroy(c->conn);
	c->conn = NULL;
	hv_vmm_forget(c->vmm);
}

/* A daemon that does not read what it is told is as good as gone. */
static void say(struct hv_control *c, const struct vmctl_msg *msg)
{
	if (c->conn && vmctl_conn_send(c->conn, msg))
		lose_daemon(c);
}

static void reply_value(struct hv_control *c, uint32_t tag, int rc, uint32_t value)
{
	struct vmctl_msg msg = {.type = VMCTL_REPLY, .tag = tag, .reply = {.err = rc}};

	msg.reply.value = value;

	if (rc)
		(void)str_format(msg.reply.text, sizeof(msg.reply.text), "%s", err_message(rc));
	say(c, &msg);
}

static void reply(struct hv_control *c, uint32_t tag, int rc)
{
	reply_value(c, tag, rc, 0);
}

static void say_status(struct hv_control *c, enum vmctl_type type, uint32_t tag)
{
	struct vmctl_msg msg = {.type = type, .tag = tag};

	hv_vmm_status(c->vmm, &msg.status);
	say(c, &msg);
}

/* Only while the socket takes it: what does not go stays in the console's ring. */
static void say_console(struct hv_control *c)
{
	struct vmctl_msg msg = {.type = VMCTL_CONSOLE_OUTPUT};

	while (c->conn && !vmctl_conn_pending(c->conn)) {
		size_t n = hv_vmm_console_take(c->vmm, msg.console.data, VMCTL_CONSOLE_CHUNK);
		if (!n)
			return;
		msg.console.bytes = (uint32_t)n;
		say(c, &msg);
	}
}

static void vmm_event(void *opaque, const struct vmctl_event *event)
{
	struct vmctl_msg msg = {.type = VMCTL_EVENT, .event = *event};

	say_console(opaque); /* what was said before it happened comes before it */
	say(opaque, &msg);
}

static void vmm_started(void *opaque, int rc)
{
	struct hv_control *c = opaque;

	reply(c, c->start_tag, rc);
}

static void vmm_saved(void *opaque, int rc, uint32_t bytes)
{
	struct hv_control *c = opaque;

	reply_value(c, c->save_tag, rc, bytes);
}

const struct hv_vmm_ops hv_control_vmm_ops = {
	.event = vmm_event, .started = vmm_started, .saved = vmm_saved};

/* --- from the daemon --------------------------------------------------------------------------- */

static void start(struct hv_control *c, uint32_t tag)
{
	int rc = hv_vmm_start(c->vmm);

	if (rc == 1)
		c->start_tag = tag;
	else
		reply(c, tag, rc);
}

static void save(struct hv_control *c, struct vmctl_msg *msg)
{
	uint32_t bytes;
	int fd = msg->fds[0];

	msg->fds[0] = -1; /* it is the VM's now */
	int rc = hv_vmm_save(c->vmm, fd, &bytes);
	if (rc == 1)
		c->save_tag = msg->tag;
	else
		reply_value(c, msg->tag, rc, bytes);
}

static void say_cpu(struct hv_control *c, uint32_t tag)
{
	static struct vmctl_msg msg; /* large; the main thread's alone */

	msg = (struct vmctl_msg){.type = VMCTL_CPU, .tag = tag};
	int rc = hv_vmm_get_cpu(c->vmm, &msg.cpu);
	if (rc)
		reply(c, tag, rc);
	else
		say(c, &msg);
}

static void say_faults(struct hv_control *c, uint32_t tag)
{
	static struct vmctl_msg msg; /* large; the main thread's alone */
	int uffd = -1;

	msg = (struct vmctl_msg){.type = VMCTL_FAULTS, .tag = tag};
	int rc = hv_vmm_postcopy(c->vmm, &uffd, &msg.faults.base);
	msg.fds[0] = uffd;
	msg.fds_n = 1;
	if (rc)
		reply(c, tag, rc);
	else
		say(c, &msg);
}

/* What migration asks for. */
static void obey_migration(struct hv_control *c, struct vmctl_msg *msg)
{
	bool takes_fd = msg->type == VMCTL_LOG_START || msg->type == VMCTL_SAVE ||
			msg->type == VMCTL_LOAD;

	if (takes_fd && msg->fds_n != 1) {
		reply(c, msg->tag,
		      fail(-EINVAL, "vmm: a descriptor is to come with message %u",
			   (unsigned)msg->type));
		return;
	}
	if (msg->type == VMCTL_LOG_START)
		reply(c, msg->tag, hv_vmm_log_start(c->vmm, msg->fds[0]));
	else if (msg->type == VMCTL_LOG_SYNC)
		reply(c, msg->tag, hv_vmm_log_sync(c->vmm));
	else if (msg->type == VMCTL_LOG_STOP)
		reply(c, msg->tag, hv_vmm_log_stop(c->vmm));
	else if (msg->type == VMCTL_SAVE)
		save(c, msg);
	else if (msg->type == VMCTL_LOAD)
		reply(c, msg->tag, hv_vmm_load(c->vmm, msg->fds[0], &msg->load));
	else if (msg->type == VMCTL_SET_CPU)
		reply(c, msg->tag, hv_vmm_set_cpu(c->vmm, &msg->cpu));
	else
		say_cpu(c, msg->tag);
}

static void say_balloon(struct hv_control *c, uint32_t tag)
{
	struct vmctl_balloon balloon;
	int rc = hv_vmm_get_balloon(c->vmm, &balloon);
	static struct vmctl_msg msg;

	if (rc) {
		reply(c, tag, rc);
		return;
	}
	msg = (struct vmctl_msg){.type = VMCTL_BALLOON, .tag = tag, .balloon = balloon};
	say(c, &msg);
}

static void net(struct hv_control *c, struct vmctl_msg *msg)
{
	unsigned n = msg->fds_n;

	msg->fds_n = 0; /* they are the VM's now */
	if (msg->type == VMCTL_NET)
		reply(c, msg->tag, hv_vmm_net(c->vmm, &msg->net, msg->fds, n));
	else
		reply(c, msg->tag, hv_vmm_net_vhost(c->vmm, msg->net.device, msg->fds, n));
}

static void net_take(struct hv_control *c, const struct vmctl_msg *msg)
{
	struct vmctl_msg answer = {.type = VMCTL_NET_TAPS, .tag = msg->tag};
	int n = hv_vmm_net_take(c->vmm, msg->net.device, answer.fds);

	if (n < 0) {
		reply(c, msg->tag, n);
		return;
	}
	answer.fds_n = (unsigned)n;
	say(c, &answer);
}

static void obey(struct hv_control *c, struct vmctl_msg *msg)
{
	switch (msg->type) {
	case VMCTL_CONFIG:
		reply(c, msg->tag, hv_vmm_configure(c->vmm, &msg->config));
		break;
	case VMCTL_START:
		start(c, msg->tag);
		break;
	case VMCTL_PAUSE:
		reply(c, msg->tag, hv_vmm_pause(c->vmm));
		break;
	case VMCTL_RESUME:
		reply(c, msg->tag, hv_vmm_resume(c->vmm));
		break;
	case VMCTL_POWER_BUTTON:
		reply(c, msg->tag, hv_vmm_power_button(c->vmm));
		break;
	case VMCTL_RESET:
		reply(c, msg->tag, hv_vmm_reset(c->vmm));
		break;
	case VMCTL_KILL:
		c->killed = true;
		reply(c, msg->tag, 0);
		break;
	case VMCTL_CONSOLE_INPUT:
		hv_vmm_console_input(c->vmm, &msg->console);
		break;
	case VMCTL_GET_STATUS:
		say_status(c, VMCTL_STATUS, msg->tag);
		break;
	case VMCTL_SET_MACHINE:
		reply(c, msg->tag, hv_vmm_set_machine(c->vmm, &msg->machine));
		break;
	case VMCTL_CAN_SAVE:
		reply(c, msg->tag, hv_vmm_can_save(c->vmm));
		break;
	case VMCTL_LOG_START:
	case VMCTL_LOG_SYNC:
	case VMCTL_LOG_STOP:
	case VMCTL_SAVE:
	case VMCTL_LOAD:
	case VMCTL_GET_CPU:
	case VMCTL_SET_CPU:
		obey_migration(c, msg);
		break;
	case VMCTL_SET_BALLOON:
		reply(c, msg->tag, hv_vmm_set_balloon(c->vmm, msg->balloon.target));
		break;
	case VMCTL_GET_BALLOON:
		say_balloon(c, msg->tag);
		break;
	case VMCTL_NET:
	case VMCTL_NET_VHOST:
		net(c, msg);
		break;
	case VMCTL_NET_TAKE:
		net_take(c, msg);
		break;
	case VMCTL_POSTCOPY:
		say_faults(c, msg->tag);
		break;
	case VMCTL_POSTCOPY_END:
		reply(c, msg->tag, hv_vmm_postcopy_end(c->vmm));
		break;
	case VMCTL_HELLO:
	case VMCTL_READY:
	case VMCTL_STATUS:
	case VMCTL_CPU:
	case VMCTL_FAULTS:
	case VMCTL_BALLOON:
	case VMCTL_NET_TAPS:
	case VMCTL_EVENT:
	case VMCTL_CONSOLE_OUTPUT:
	case VMCTL_REPLY:
		log_warn("control", "the daemon sent a message of type %u; dropped it",
			 (unsigned)msg->type);
		lose_daemon(c);
		break;
	}
}

static void hear_daemon(struct hv_control *c)
{
	static struct vmctl_msg msg; /* large; the main thread's alone */

	while (c->conn && !c->killed) {
		int rc = vmctl_conn_receive(c->conn, &msg);
		if (rc == 0)
			return;
		if (rc < 0) {
			log_info("control", "%s", err_message(rc));
			lose_daemon(c);
			return;
		}
		obey(c, &msg);
		for (unsigned i = 0; i < msg.fds_n; i++)
			util_close(&msg.fds[i]); /* what the request did not take */
	}
}

/* --- new connections --------------------------------------------------------------------------- */

static void accept_all(struct hv_control *c)
{
	for (;;) {
		int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0)
			return;
		unsigned i = 0;
		while (i < WAITING_MAX && c->waiting[i].conn)
			i++;
		if (i == WAITING_MAX) {
			close(fd);
			continue;
		}
		if (!vmctl_conn_create(&c->waiting[i].conn, fd))
			c->waiting[i].deadline_ns = clock_boot_ns() + HELLO_NS;
	}
}

static void welcome_daemon(struct hv_control *c, struct vmctl_conn *conn)
{
	lose_daemon(c);
	c->conn = conn;
	say_status(c, VMCTL_READY, 0);
	hear_daemon(c);
}

static void welcome_backend(struct hv_control *c, struct vmctl_conn *conn,
			    const struct vmctl_hello *hello)
{
	int fd = vmctl_conn_detach(conn), rc;

	if (fd < 0) {
		vmctl_conn_destroy(conn);
		return;
	}
	if (hello->kind == VMCTL_KIND_AGENT)
		rc = hv_vmm_connect_agent(c->vmm, hello->device, fd,
					  hello->features & VMCTL_HELLO_THAWS);
	else
		rc = hv_vmm_connect(c->vmm, hello->device, fd);
	if (rc)
		log_warn("control", "%s", err_message(rc));
}

static void refuse(struct vmctl_conn *conn, uint32_t tag, int rc)
{
	struct vmctl_msg msg = {.type = VMCTL_REPLY, .tag = tag, .reply = {.err = rc}};

	(void)str_format(msg.reply.text, sizeof(msg.reply.text), "%s", err_message(rc));
	vmctl_conn_send(conn, &msg);
	vmctl_conn_destroy(conn);
}

static void hear_hello(struct hv_control *c, unsigned i)
{
	static struct vmctl_msg msg;
	struct vmctl_conn *conn = c->waiting[i].conn;
	int rc = vmctl_conn_receive(conn, &msg);

	if (rc == 0)
		return;
	c->waiting[i].conn = NULL;
	for (unsigned k = 0; rc > 0 && k < msg.fds_n; k++)
		close(msg.fds[k]);
	if (rc < 0)
		vmctl_conn_destroy(conn);
	else if (msg.type != VMCTL_HELLO)
		refuse(conn, msg.tag, fail(-EPROTO, "vmm: the first message is to be HELLO"));
	else if (msg.hello.version != VMCTL_VERSION)
		refuse(conn, msg.tag,
		       fail(-EPROTONOSUPPORT, "vmm: it speaks version %d of the control protocol",
			    VMCTL_VERSION));
	else if (msg.hello.kind == VMCTL_KIND_CONTROL)
		welcome_daemon(c, conn);
	else
		welcome_backend(c, conn, &msg.hello);
}

static void drop_silent(struct hv_control *c)
{
	uint64_t now = clock_boot_ns();

	for (unsigned i = 0; i < WAITING_MAX; i++) {
		if (!c->waiting[i].conn || now < c->waiting[i].deadline_ns)
			continue;
		vmctl_conn_destroy(c->waiting[i].conn);
		c->waiting[i].conn = NULL;
	}
}

/* --- the loop ---------------------------------------------------------------------------------- */

enum { P_WAKE, P_LISTEN, P_DAEMON, P_WAITING, P_MACHINE = P_WAITING + WAITING_MAX };

static unsigned fill(struct hv_control *c, struct pollfd *p, int *timeout)
{
	bool full = c->conn && vmctl_conn_pending(c->conn);

	*timeout = -1;
	p[P_WAKE] = (struct pollfd){.fd = hv_vmm_wake_fd(c->vmm), .events = POLLIN};
	p[P_LISTEN] = (struct pollfd){.fd = c->listen_fd, .events = POLLIN};
	p[P_DAEMON] = (struct pollfd){
		.fd = c->conn ? vmctl_conn_fd(c->conn) : -1,
		.events = (short)(POLLIN | (full ? POLLOUT : 0)),
	};
	for (unsigned i = 0; i < WAITING_MAX; i++) {
		struct vmctl_conn *conn = c->waiting[i].conn;
		p[P_WAITING + i] = (struct pollfd){.fd = conn ? vmctl_conn_fd(conn) : -1,
						   .events = POLLIN};
		if (conn)
			*timeout = 1000;
	}
	return P_MACHINE + hv_vmm_polls(c->vmm, p + P_MACHINE);
}

static void serve(struct hv_control *c, const struct pollfd *p, unsigned n)
{
	/* First of all: a turn may take the machine apart, and with it these descriptors. */
	for (unsigned i = P_MACHINE; i < n; i++) {
		if (p[i].revents)
			hv_vmm_serve(c->vmm, &p[i]);
	}
	if (p[P_WAKE].revents)
		hv_vmm_turn(c->vmm);
	if (p[P_DAEMON].revents && c->conn && vmctl_conn_fd(c->conn) == p[P_DAEMON].fd) {
		if (vmctl_conn_flush(c->conn) == -EPIPE)
			lose_daemon(c);
		hear_daemon(c);
	}
	for (unsigned i = 0; i < WAITING_MAX; i++) {
		if (p[P_WAITING + i].revents && c->waiting[i].conn)
			hear_hello(c, i);
	}
	if (p[P_LISTEN].revents)
		accept_all(c);
	drop_silent(c);
	say_console(c);
}

int hv_control_run(struct hv_control *c, struct hv_vmm *vmm)
{
	struct pollfd p[P_MACHINE + HV_VMM_POLLS];
	int timeout;

	c->vmm = vmm;
	while (!c->killed) {
		unsigned n = fill(c, p, &timeout);
		if (poll(p, n, timeout) < 0 && errno != EINTR)
			return fail(-errno, "vmm: poll: %s", strerror(errno));
		serve(c, p, n);
	}
	/* The daemon hears that we obeyed, if it listens. */
	if (c->conn)
		vmctl_conn_flush(c->conn);
	return 0;
}
