// SPDX-License-Identifier: Apache-2.0
/* Control messages: what is sent arrives, garbage is refused, a full socket loses nothing. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/vmctl.h"

#include <cmocka.h>

static struct vmctl_msg config_msg(void)
{
	struct vmctl_msg m = {.type = VMCTL_CONFIG, .tag = 7};

	m.config = (struct vmctl_config){
		.cpus = 2,
		.memory_bytes = 256 * MiB,
		.boot = VMCTL_BOOT_LINUX,
		.setup_gpa = 0x10000,
		.setup_bytes = 0x4000,
		.kernel_gpa = 0x1000000,
		.kernel_bytes = 7 * MiB + 3,
		.initrd_gpa = 0xf000000,
		.initrd_bytes = 5 * MiB,
		.devices_n = 2,
		.devices = {{VMCTL_DEVICE_SCSI, 1, 256}, {VMCTL_DEVICE_RNG, 1, 64}},
		.cmdline = "console=ttyS0 root=/dev/sda",
	};
	return m;
}

static void pair(struct vmctl_conn **a, struct vmctl_conn **b)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(vmctl_conn_create(a, fds[0]), 0);
	assert_int_equal(vmctl_conn_create(b, fds[1]), 0);
}

static void each_field_arrives(void **state)
{
	(void)state;
	uint8_t buf[VMCTL_HEADER_BYTES + VMCTL_PAYLOAD_MAX];
	struct vmctl_msg m = config_msg(), got;
	int n = vmctl_encode(&m, buf, sizeof(buf));

	assert_true(n > 0);
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), n);
	assert_int_equal(got.type, VMCTL_CONFIG);
	assert_int_equal(got.tag, 7);
	assert_int_equal(got.config.kernel_bytes, m.config.kernel_bytes);
	assert_int_equal(got.config.initrd_gpa, m.config.initrd_gpa);
	assert_int_equal(got.config.devices_n, 2);
	assert_int_equal(got.config.devices[1].kind, VMCTL_DEVICE_RNG);
	assert_string_equal(got.config.cmdline, m.config.cmdline);

	struct vmctl_msg s = {.type = VMCTL_READY,
			      .status = {.version = 1,
					 .state = VMCTL_STATE_CRASHED,
					 .pid = 9,
					 .boots = 3,
					 .panicked = true,
					 .devices_ready = 5,
					 .console_lost = 1ULL << 40,
					 .text = "vcpu 0: triple fault"}};
	n = vmctl_encode(&s, buf, sizeof(buf));
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), n);
	assert_true(got.status.panicked);
	assert_int_equal(got.status.console_lost, 1ULL << 40);
	assert_string_equal(got.status.text, s.status.text);

	struct vmctl_msg r = {.type = VMCTL_REPLY, .reply = {.err = -EBUSY, .text = "no"}};
	n = vmctl_encode(&r, buf, sizeof(buf));
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), n);
	assert_int_equal(got.reply.err, -EBUSY);
}

static void the_messages_of_migration_arrive(void **state)
{
	(void)state;
	uint8_t buf[VMCTL_HEADER_BYTES + VMCTL_PAYLOAD_MAX];
	static struct vmctl_msg m, got;
	const enum vmctl_type bare[] = {VMCTL_LOG_START, VMCTL_LOG_SYNC, VMCTL_LOG_STOP, VMCTL_SAVE,
					VMCTL_GET_CPU};
	int n;

	for (size_t i = 0; i < ARRAY_SIZE(bare); i++) {
		m = (struct vmctl_msg){.type = bare[i], .tag = (uint32_t)i};
		assert_int_equal(vmctl_encode(&m, buf, sizeof(buf)), VMCTL_HEADER_BYTES);
		assert_int_equal(vmctl_decode(buf, VMCTL_HEADER_BYTES, &got), VMCTL_HEADER_BYTES);
		assert_int_equal(got.type, bare[i]);
	}
	m = (struct vmctl_msg){.type = VMCTL_NET,
			       .net = {.device = 3, .mtu = 9000, .mac = {2, 0, 0, 0, 0, 7}}};
	n = vmctl_encode(&m, buf, sizeof(buf));
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), n);
	assert_memory_equal(&got.net, &m.net, sizeof(m.net));
	buf[VMCTL_HEADER_BYTES] = VMCTL_DEVICES_MAX;
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), -EPROTO);
	m = (struct vmctl_msg){.type = VMCTL_LOAD,
			       .load = {.bytes = VMCTL_STATE_MAX, .elapsed_ns = 12345}};
	n = vmctl_encode(&m, buf, sizeof(buf));
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), n);
	assert_int_equal(got.load.bytes, VMCTL_STATE_MAX);
	assert_int_equal(got.load.elapsed_ns, 12345);
	buf[VMCTL_HEADER_BYTES] = 1; /* one more than the most */
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), -EPROTO);
	m.load.bytes = 0;
	assert_int_equal(vmctl_encode(&m, buf, sizeof(buf)), -EINVAL);

	m = (struct vmctl_msg){.type = VMCTL_REPLY, .reply = {.value = 123456}};
	n = vmctl_encode(&m, buf, sizeof(buf));
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), n);
	assert_int_equal(got.reply.value, 123456);

	m = (struct vmctl_msg){.type = VMCTL_SET_CPU};
	for (uint32_t i = 0; i < CPU_LEAVES_MAX; i++)
		cpu_table_set_leaf(&m.cpu, &(struct cpu_leaf){.function = i, .reg = {i}});
	for (uint32_t i = 0; i < CPU_MSRS_MAX; i++)
		cpu_table_set_msr(&m.cpu, i, i);
	n = vmctl_encode(&m, buf, sizeof(buf)); /* the largest there can be has room */
	assert_true(n > 0);
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), n);
	assert_int_equal(cpu_table_get(&got.cpu, 200, 0, CPU_EAX), 200);
	assert_int_equal(vmctl_log_bytes(2 * MiB), 64);
}

static void the_messages_of_the_balloon_arrive(void **state)
{
	(void)state;
	uint8_t buf[VMCTL_HEADER_BYTES + VMCTL_PAYLOAD_MAX];
	static struct vmctl_msg m, got;
	int n;

	m = (struct vmctl_msg){.type = VMCTL_GET_BALLOON, .tag = 3};
	assert_int_equal(vmctl_encode(&m, buf, sizeof(buf)), VMCTL_HEADER_BYTES);
	m = (struct vmctl_msg){.type = VMCTL_SET_BALLOON, .balloon = {.target = 5 * MiB}};
	n = vmctl_encode(&m, buf, sizeof(buf));
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), n);
	assert_int_equal(got.balloon.target, 5 * MiB);
	m = (struct vmctl_msg){.type = VMCTL_BALLOON,
			       .balloon = {.ready = true,
					   .target = 1,
					   .taken = 2,
					   .inflated = 3,
					   .reported = 4,
					   .age_ns = UINT64_MAX,
					   .stat = {[0] = 10, [9] = 19}}};
	n = vmctl_encode(&m, buf, sizeof(buf));
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), n);
	assert_memory_equal(&got.balloon, &m.balloon, sizeof(m.balloon));
	buf[8]--; /* a shorter payload is none */
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), -EPROTO);
}

static void a_vm_to_be_loaded_needs_no_kernel(void **state)
{
	(void)state;
	uint8_t buf[VMCTL_HEADER_BYTES + VMCTL_PAYLOAD_MAX];
	struct vmctl_msg m = {.type = VMCTL_CONFIG, .config = {.cpus = 1, .memory_bytes = 2 * MiB}},
			 got;
	int n = vmctl_encode(&m, buf, sizeof(buf));

	assert_true(n > 0);
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), n);
	assert_int_equal(got.config.boot, VMCTL_BOOT_NONE);
}

static void a_part_is_no_message(void **state)
{
	(void)state;
	uint8_t buf[VMCTL_HEADER_BYTES + VMCTL_PAYLOAD_MAX];
	struct vmctl_msg m = config_msg(), got;
	int n = vmctl_encode(&m, buf, sizeof(buf));

	for (int i = 0; i < n; i++)
		assert_int_equal(vmctl_decode(buf, (size_t)i, &got), 0);
}

static void bad_configurations_are_refused(void **state)
{
	(void)state;
	uint8_t buf[VMCTL_HEADER_BYTES + VMCTL_PAYLOAD_MAX];
	struct vmctl_msg m[8], got;

	for (size_t i = 0; i < ARRAY_SIZE(m); i++)
		m[i] = config_msg();
	m[0].config.cpus = 0;
	m[1].config.cpus = VMCTL_CPUS_MAX + 1;
	m[2].config.memory_bytes += 4096;
	m[3].config.kernel_gpa = 256 * MiB;
	m[4].config.initrd_bytes = UINT64_MAX;
	m[5].config.devices[0].queues = 0;
	m[6].config.devices[0].queue_size = 100;
	m[7].config.devices[1].kind = 77;
	for (size_t i = 0; i < ARRAY_SIZE(m); i++)
		assert_int_equal(vmctl_encode(&m[i], buf, sizeof(buf)), -EINVAL);
	/* The same on the receiving side: a byte of a good one changed. */
	struct vmctl_msg good = config_msg();
	int n = vmctl_encode(&good, buf, sizeof(buf));
	buf[VMCTL_HEADER_BYTES] = 0xff; /* cpus */
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), -EPROTO);
	buf[0] ^= 1; /* magic */
	assert_int_equal(vmctl_decode(buf, (size_t)n, &got), -EPROTO);
}

static void a_full_socket_loses_nothing(void **state)
{
	(void)state;
	struct vmctl_conn *a, *b;
	struct vmctl_msg m = {.type = VMCTL_CONSOLE_OUTPUT}, got;
	unsigned sent = 0, seen = 0;

	pair(&a, &b);
	m.console.bytes = 3000;
	for (;;) {
		memset(m.console.data, (int)sent, sizeof(m.console.data));
		int rc = vmctl_conn_send(a, &m);
		if (rc == -EAGAIN)
			break;
		assert_int_equal(rc, 0);
		sent++;
	}
	assert_true(vmctl_conn_pending(a));
	while (seen < sent) {
		assert_int_equal(vmctl_conn_wait(b, &got, clock_boot_ns() + NS_PER_S), 1);
		assert_int_equal(got.console.bytes, 3000);
		assert_int_equal(got.console.data[2999], (uint8_t)seen);
		seen++;
		vmctl_conn_flush(a);
	}
	assert_false(vmctl_conn_pending(a));
	assert_int_equal(vmctl_conn_receive(b, &got), 0);
	vmctl_conn_destroy(a);
	assert_int_equal(vmctl_conn_receive(b, &got), -ECONNRESET);
	vmctl_conn_destroy(b);
}

static void descriptors_come_along_and_detach_takes_nothing_more(void **state)
{
	(void)state;
	struct vmctl_conn *a, *b;
	struct vmctl_msg m = {.type = VMCTL_HELLO}, got;

	pair(&a, &b);
	m.hello = (struct vmctl_hello){.version = 1, .kind = VMCTL_KIND_VHOST_USER, .device = 3};
	m.fds_n = 1;
	m.fds[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(vmctl_conn_send(a, &m), 0);
	close(m.fds[0]);
	assert_int_equal(write(vmctl_conn_fd(a), "other protocol", 14), 14);
	assert_int_equal(vmctl_conn_wait(b, &got, clock_boot_ns() + NS_PER_S), 1);
	assert_int_equal(got.hello.device, 3);
	assert_int_equal(got.fds_n, 1);
	close(got.fds[0]);
	int fd = vmctl_conn_detach(b);
	assert_true(fd >= 0);
	char text[32];
	assert_int_equal(read(fd, text, sizeof(text)), 14);
	close(fd);
	vmctl_conn_destroy(a);
}

static void the_hole_is_no_memory(void **state)
{
	(void)state;
	assert_int_equal(vmctl_memory_offset(8 * GiB, 0), 0);
	assert_int_equal(vmctl_memory_offset(8 * GiB, 3 * GiB - 1), 3 * GiB - 1);
	assert_true(vmctl_memory_offset(8 * GiB, 3 * GiB) == UINT64_MAX);
	assert_int_equal(vmctl_memory_offset(8 * GiB, 4 * GiB), 3 * GiB);
	assert_true(vmctl_memory_offset(8 * GiB, 9 * GiB) == UINT64_MAX);
	assert_true(vmctl_memory_offset(2 * MiB, 2 * MiB) == UINT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_field_arrives),
		cmocka_unit_test(the_messages_of_migration_arrive),
		cmocka_unit_test(the_messages_of_the_balloon_arrive),
		cmocka_unit_test(a_vm_to_be_loaded_needs_no_kernel),
		cmocka_unit_test(a_part_is_no_message),
		cmocka_unit_test(bad_configurations_are_refused),
		cmocka_unit_test(a_full_socket_loses_nothing),
		cmocka_unit_test(descriptors_come_along_and_detach_takes_nothing_more),
		cmocka_unit_test(the_hole_is_no_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
