// SPDX-License-Identifier: Apache-2.0
/*
 * What comes for a guest that moved: a monitor that hands over what is no tap, and a neighbour who never ends. /dev/zero
 * plays the tap: frames for a guest whose address is all zeroes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#undef fail

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/peer_stream.h"
#include "host/vm_frames.h"
#include "host/vm_run.h"
#include "tests/lib/streams.h"

#define LIMIT_S 100

static bool is_zero_device(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_rdev == makedev(1, 5);
}

/* In the place of ioctl(2): what is a tap. */
int ioctl(int fd, unsigned long request, ...)
{
	struct ifreq *r;
	va_list list;
	void *arg;

	va_start(list, request);
	arg = va_arg(list, void *);
	va_end(list);
	if (request != TUNGETIFF || !is_zero_device(fd))
		return (int)syscall(SYS_ioctl, fd, request, arg);
	r = arg;
	memcpy(r->ifr_name, "tap7", 5);
	return 0;
}

struct monitor {
	struct vmctl_conn *conn;
	int fds[2];
};

/* Asked for its taps it hands over a pipe that nobody writes to, and the tap. */
static void *monitor_main(void *arg)
{
	struct monitor *m = arg;
	struct vmctl_msg *msg = xcalloc(2, sizeof(*msg));

	assert_int_equal(vmctl_conn_wait(m->conn, msg, clock_boot_ns() + LIMIT_S * NS_PER_S), 1);
	assert_int_equal(msg->type, VMCTL_NET_TAKE);
	msg[1].type = VMCTL_NET_TAPS;
	msg[1].tag = msg->tag;
	msg[1].net = msg->net;
	msg[1].fds_n = 2;
	memcpy(msg[1].fds, m->fds, sizeof(m->fds));
	assert_int_equal(vmctl_conn_send(m->conn, msg + 1), 0);
	close(m->fds[0]);
	close(m->fds[1]);
	free(msg);
	return NULL;
}

/* The target takes all that comes. */
static void *target_main(void *arg)
{
	uint64_t *frames = xcalloc(1, sizeof(*frames));
	struct frame f;

	while (peer_stream_receive(arg, &f, LIMIT_S * 1000) == 0)
		*frames += f.type == FRAME_MIG_FRAME;
	return frames;
}

static void test_nothing_that_it_is_handed_holds_it(void **state)
{
	struct host_vm *vm = xcalloc(1, sizeof(*vm));
	struct peer_stream *here, *there;
	pthread_t monitor, target;
	int sockets[2], ends[2];
	struct monitor m;
	void *frames;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	m.fds[0] = ends[0];
	m.fds[1] = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	assert_int_equal(vmctl_conn_create(&vm->conn, sockets[0]), 0);
	assert_int_equal(vmctl_conn_create(&m.conn, sockets[1]), 0);
	memcpy(vm->tap[0], "tap7", 5);
	vm->def.nets = 1;
	streams_pair(&here, &there);
	assert_int_equal(pthread_create(&monitor, NULL, monitor_main, &m), 0);
	assert_int_equal(pthread_create(&target, NULL, target_main, there), 0);
	alarm(LIMIT_S);
	vm_frames_send(vm, here);
	alarm(0);
	pthread_join(monitor, NULL);
	assert_int_equal(write(ends[1], "", 1), -1); /* nobody kept the other end */
	assert_int_equal(errno, EPIPE);
	peer_stream_end(here, 0);
	pthread_join(target, &frames);
	assert_true(*(uint64_t *)frames > 0);
	free(frames);
	peer_stream_end(there, 0);
	vmctl_conn_destroy(m.conn);
	vmctl_conn_destroy(vm->conn);
	close(ends[1]);
	free(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_that_it_is_handed_holds_it),
	};

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
