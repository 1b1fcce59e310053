// SPDX-License-Identifier: Apache-2.0
/*
 * vmm_stub.c: stands for perilune-vmm where there is no KVM, or where a thousand VMs are to be killed:
 * the same command line, the same messages (base/vmctl.h), a guest that is a program (stub_guest.h).
 *
 * With PERILUNE_STUB=DIR in the environment (a daemon hands its own on): DIR/NAME.run is locked while the
 * guest runs, so that a second one on whatever "host" of this machine is seen; what must never be is
 * written to DIR/violations. DIR/NAME.log tells when it ran. DIR/NAME.book: what its disk must hold (stub_book.h);
 * DIR/NAME.lost-HOST: what was answered there need not be there when it boots, what was flushed must; gone then. DIR/weak-cpu-HOST: a processor that lacks something;
 * DIR/no-resume-HOST: as one whose lease is over, RESUME is refused; DIR/no-whole-HOST: so is POSTCOPY_END.
 * DIR/hangs-up-HOST: "pause" or "resume", which is obeyed, "no pause" or "no resume", which is not: once, it is not
 * answered, the connection is closed, and none taken until DIR/hung-up-HOST is gone, or for 2 s.
 * DIR/reads-all-HOST: in post-copy RESUME waits for all pages.
 * DIR/NAME.available: bytes that its guest says it could do without (a half of what it has).
 *
 * The guest obeys its console: r reboots, o powers off, c crashes, 0 to 9 pages a second (times 10^n).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <linux/virtio_balloon.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "base/vmctl.h"
#include "migrate/memory.h"
#include "tests/lib/stub_guest.h"

#define CONNS	    8
#define STATE_MAGIC 0x3162757453ull

struct stub {
	int memory_fd, listen_fd, wake_fd;
	uint64_t bytes;
	const _Atomic uint64_t *lease;
	const char *name;
	char host[64], dir[256];
	int run_fd;
	struct vmctl_conn *conn, *waiting[CONNS];
	struct vmctl_status status;
	struct stub_guest guest;
	bool configured, killed, backend, rings, resumed;
	struct cpu_table *baseline;
	uint64_t *log; /* the shared one */
	uint64_t *private_log;
	struct {
		int fd[VMCTL_FDS_MAX];
		unsigned n;
	} tap[VMCTL_DEVICES_MAX]; /* held, no more; what waits in them is the daemon's to read */
	uint64_t target;	  /* of its balloon, which is obeyed at once */
	int uffd;
	bool lazy;

	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool want, runs, frozen;
	char said[VMCTL_CONSOLE_KEPT];
	size_t said_bytes;
};

static struct vmctl_msg msg; /* large; the main thread's alone */

/* --- what must never be --------------------------------------------------------------------------- */

static void note(struct stub *s, const char *file, const char *what)
{
	cleanup_free char *path = xasprintf("%s/%s", s->dir, file);
	cleanup_free char *text = xasprintf("%llu %d %s %s\n", (unsigned long long)clock_boot_ms(),
					    (int)getpid(), s->name, what);
	cleanup_fd int fd = -1;

	if (!s->dir[0])
		return;
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (fd >= 0 && write(fd, text, strlen(text)) < 0)
		perror(path);
}

static void note_life(struct stub *s, const char *what)
{
	cleanup_free char *file = xasprintf("%s.log", s->name);

	note(s, file, what);
}

/* Once; not any more when it runs there again. */
static bool lost_on(const struct stub *s, const char *host)
{
	cleanup_free char *path = xasprintf("%s/%s.lost-%s", s->dir, s->name, host);

	return s->dir[0] && unlink(path) == 0;
}

static void begin_running(struct stub *s)
{
	cleanup_free char *path = xasprintf("%s/%s.run", s->dir, s->name);

	if (!s->dir[0])
		return;
	s->run_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (s->run_fd < 0 || flock(s->run_fd, LOCK_EX | LOCK_NB) < 0) {
		note(s, "violations", "runs twice");
		abort();
	}
	(void)lost_on(s, s->host);
	stub_book_runs(s->guest.book, s->host);
	note_life(s, "runs");
}

static void end_running(struct stub *s)
{
	if (s->run_fd >= 0)
		close(s->run_fd);
	s->run_fd = -1;
	note_life(s, "stands still");
}

static struct stub_book *open_book(const struct stub *s)
{
	cleanup_free char *path = xasprintf("%s/%s.book", s->dir, s->name);

	return stub_book_open(s->dir[0] ? path : NULL);
}

/* --- the guest's thread --------------------------------------------------------------------------- */

static void say(void *arg, const char *text)
{
	struct stub *s = arg;
	size_t n = strlen(text);

	pthread_mutex_lock(&s->lock);
	if (s->said_bytes + n <= sizeof(s->said)) {
		memcpy(s->said + s->said_bytes, text, n);
		s->said_bytes += n;
	}
	pthread_mutex_unlock(&s->lock);
	if (!strncmp(text, "bad", 3))
		note(s, "violations", text);
	(void)eventfd_write(s->wake_fd, 1);
}

static void *guest_main(void *arg)
{
	struct stub *s = arg;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		unsigned us;

		if (s->want && clock_boot_ns() >= atomic_load(s->lease)) {
			s->want = false;
			s->frozen = true;
			(void)eventfd_write(s->wake_fd, 1);
		}
		if (s->runs != s->want) {
			if (s->want)
				begin_running(s);
			else
				end_running(s);
			s->runs = s->want;
			pthread_cond_broadcast(&s->changed);
		}
		if (!s->want) {
			pthread_cond_wait(&s->changed, &s->lock);
			continue;
		}
		pthread_mutex_unlock(&s->lock);
		us = stub_guest_step(&s->guest);
		usleep(us);
		pthread_mutex_lock(&s->lock);
	}
	return NULL;
}

static void let_run(struct stub *s, bool run)
{
	pthread_mutex_lock(&s->lock);
	s->want = run;
	pthread_cond_broadcast(&s->changed);
	while (s->runs != run && !(run && s->frozen))
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
	if (run)
		s->status.state = VMCTL_STATE_RUNNING;
}

/* --- messages -------------------------------------------------------------------------------------- */

static void lose_daemon(struct stub *s)
{
	vmctl_conn_destroy(s->conn);
	s->conn = NULL;
}

static bool hangs_up(struct stub *s, const char *when)
{
	cleanup_free char *path = xasprintf("%s/hangs-up-%s", s->dir, s->host);
	cleanup_free char *done = xasprintf("%s/hung-up-%s", s->dir, s->host);
	cleanup_fd int fd = s->dir[0] ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	char text[16] = "";

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0 || strcmp(text, when) ||
	    rename(path, done) < 0)
		return false;
	lose_daemon(s);
	for (unsigned i = 0; i < 40 && access(done, F_OK) == 0; i++)
		sleep_ms(50);
	return true;
}

static void send_msg(struct stub *s, const struct vmctl_msg *m)
{
	if (s->conn && vmctl_conn_send(s->conn, m) < 0)
		lose_daemon(s);
}

static void event(struct stub *s, enum vmctl_event_kind kind, const char *text)
{
	struct vmctl_msg *m = xcalloc(1, sizeof(*m));

	m->type = VMCTL_EVENT;
	m->event.kind = kind;
	(void)str_format(m->event.text, sizeof(m->event.text), "%s", text);
	send_msg(s, m);
	free(m);
}

static void reply(struct stub *s, uint32_t tag, int rc, uint32_t value)
{
	struct vmctl_msg *m = xcalloc(1, sizeof(*m));

	m->type = VMCTL_REPLY;
	m->tag = tag;
	m->reply.err = rc;
	m->reply.value = value;
	if (rc)
		(void)str_format(m->reply.text, sizeof(m->reply.text), "%s", err_message(rc));
	send_msg(s, m);
	free(m);
}

static void say_console(struct stub *s)
{
	struct vmctl_msg *m = xcalloc(1, sizeof(*m));

	m->type = VMCTL_CONSOLE_OUTPUT;
	pthread_mutex_lock(&s->lock);
	while (s->conn && s->said_bytes && !vmctl_conn_pending(s->conn)) {
		m->console.bytes = (uint32_t)MIN(s->said_bytes, VMCTL_CONSOLE_CHUNK);
		memcpy(m->console.data, s->said, m->console.bytes);
		s->said_bytes -= m->console.bytes;
		memmove(s->said, s->said + m->console.bytes, s->said_bytes);
		pthread_mutex_unlock(&s->lock);
		send_msg(s, m);
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	free(m);
}

/* --- its disks ------------------------------------------------------------------------------------- */

static void drop_backend(struct stub *s)
{
	front_disconnect(&s->guest.front);
	s->backend = s->rings = false;
	s->status.devices_connected = 0;
}

/* A back-end's own mapping would show zeroes where the rings are to come. */
static void await_rings(struct stub *s)
{
	const volatile uint8_t *p = s->guest.mem;

	for (uint64_t at = 0; s->lazy && at < s->guest.front.data_offset - STUB_RINGS_AT;
	     at += 4096)
		(void)p[STUB_RINGS_AT + at];
}

static int give_rings(struct stub *s)
{
	int rc = 0;

	if (s->backend && !s->rings) {
		await_rings(s);
		rc = front_start_rings(&s->guest.front);
		s->rings = rc == 0;
		for (unsigned i = 0; i < STUB_QUEUES && s->rings; i++)
			front_kick_always(&s->guest.front, i);
	}
	if (rc < 0)
		drop_backend(s);
	return rc;
}

static int take_rings(struct stub *s)
{
	int rc = 0;

	for (unsigned i = 0; s->rings && rc >= 0 && i < STUB_QUEUES; i++)
		rc = front_stop_ring(&s->guest.front, i);
	s->rings = false;
	if (rc < 0)
		drop_backend(s);
	return rc < 0 ? rc : 0;
}

static bool at_work(const struct stub *s)
{
	return s->status.state == VMCTL_STATE_RUNNING || s->status.state == VMCTL_STATE_PAUSED ||
	       s->status.state == VMCTL_STATE_FROZEN;
}

static void take_backend(struct stub *s, int fd)
{
	bool ran = s->runs;
	int rc;

	if (ran) /* the driver's memory and the front's state are its thread's */
		let_run(s, false);
	drop_backend(s);
	rc = front_negotiate(&s->guest.front, fd);
	s->backend = rc == 0;
	s->status.devices_connected = s->backend;
	if (rc == 0 && at_work(s))
		rc = give_rings(s);
	if (rc < 0) {
		drop_backend(s);
		event(s, VMCTL_EVENT_DEVICE, err_message(rc));
	}
	if (ran)
		let_run(s, true);
}

/* --- its life -------------------------------------------------------------------------------------- */

static int wrong_state(struct stub *s, const char *what)
{
	return fail(-EINVAL, "%s: the machine is %s", what, vmctl_state_name(s->status.state));
}

static int start(struct stub *s)
{
	int rc;

	if (s->status.state != VMCTL_STATE_CONFIGURED && s->status.state != VMCTL_STATE_RESET)
		return wrong_state(s, "start");
	stub_book_boots(s->guest.book, s->host, lost_on(s, s->guest.book->host));
	stub_guest_boot(&s->guest);
	s->status.boots++;
	s->status.start_ns = clock_boot_ns();
	rc = give_rings(s);
	if (rc == 0)
		let_run(s, true);
	return rc;
}

static int pause_it(struct stub *s)
{
	if (s->status.state == VMCTL_STATE_PAUSED)
		return 0;
	if (s->status.state != VMCTL_STATE_RUNNING)
		return wrong_state(s, "pause");
	let_run(s, false);
	s->status.state = VMCTL_STATE_PAUSED;
	return 0;
}

static void await_all(struct stub *s)
{
	cleanup_free char *reads = xasprintf("%s/reads-all-%s", s->dir, s->host);
	const volatile uint8_t *p = s->guest.mem;

	if (s->lazy && s->dir[0] && access(reads, F_OK) == 0)
		for (uint64_t at = 0; at < s->bytes; at += 4096)
			(void)p[at];
}

static int resume(struct stub *s)
{
	cleanup_free char *late = xasprintf("%s/no-resume-%s", s->dir, s->host);
	int rc;

	if (s->status.state == VMCTL_STATE_RUNNING)
		return 0;
	if (s->status.state != VMCTL_STATE_PAUSED && s->status.state != VMCTL_STATE_FROZEN)
		return wrong_state(s, "resume");
	if (clock_boot_ns() >= atomic_load(s->lease))
		return fail(-ESTALE, "resume: the lease is over");
	if (s->dir[0] && access(late, F_OK) == 0)
		return fail(-EPERM, "resume: refused, as the test wants it");
	await_all(s);
	rc = give_rings(s);
	if (rc == 0) {
		s->frozen = false;
		let_run(s, true);
	}
	return rc;
}

static int end_of_guest(struct stub *s, enum vmctl_state state, enum vmctl_event_kind kind,
			const char *text)
{
	let_run(s, false);
	(void)take_rings(s);
	s->status.state = state;
	(void)str_format(s->status.text, sizeof(s->status.text), "%s", text);
	event(s, kind, text);
	return 0;
}

static void typed(struct stub *s, const struct vmctl_console *c)
{
	for (uint32_t i = 0; i < c->bytes; i++) {
		const char key = (char)c->data[i], said[] = {'k', 'e', 'y', ' ', key, '\n', 0};

		if (!at_work(s))
			return;
		say(s, said);
		say_console(s);
		if (key == 'r')
			(void)end_of_guest(s, VMCTL_STATE_RESET, VMCTL_EVENT_RESET, "");
		else if (key == 'o')
			(void)end_of_guest(s, VMCTL_STATE_POWERED_OFF, VMCTL_EVENT_POWERED_OFF, "");
		else if (key == 'c')
			(void)end_of_guest(s, VMCTL_STATE_CRASHED, VMCTL_EVENT_CRASHED,
					   "a triple fault");
		else if (key >= '0' && key <= '6') {
			unsigned rate = 1;

			for (char k = '1'; k < key; k++)
				rate *= 10;
			let_run(s, false);
			stub_guest_rate(&s->guest, key == '0' ? 0 : rate);
			let_run(s, true);
		}
	}
}

/* --- migration ------------------------------------------------------------------------------------- */

static int log_start(struct stub *s, int fd)
{
	uint64_t bytes = vmctl_log_bytes(s->bytes);
	struct stat st;
	bool ran = s->runs;
	void *map;

	if (s->log || fd < 0 || fstat(fd, &st) < 0 || (uint64_t)st.st_size < bytes)
		return fail(-EINVAL, "log: there is one, or it is too small");
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return fail(-errno, "log: %s", strerror(errno));
	if (ran)
		let_run(s, false);
	s->log = map;
	s->private_log = xcalloc(1, bytes);
	s->guest.written = s->private_log;
	if (ran)
		let_run(s, true);
	return 0;
}

static int log_sync(struct stub *s)
{
	bool ran = s->runs;

	if (!s->log)
		return fail(-EINVAL, "log: there is none");
	if (ran)
		let_run(s, false);
	for (uint64_t i = 0; i < vmctl_log_bytes(s->bytes) / 8; i++) {
		if (s->private_log[i])
			__atomic_fetch_or(&s->log[i], s->private_log[i], __ATOMIC_RELEASE);
		s->private_log[i] = 0;
	}
	if (ran)
		let_run(s, true);
	return 0;
}

static int log_stop(struct stub *s)
{
	bool ran = s->runs;

	if (!s->log)
		return 0;
	if (ran)
		let_run(s, false);
	s->guest.written = NULL;
	munmap(s->log, vmctl_log_bytes(s->bytes));
	free(s->private_log);
	s->log = s->private_log = NULL;
	if (ran)
		let_run(s, true);
	return 0;
}

/* --- post-copy ------------------------------------------------------------------------------------- */

static int postcopy(struct stub *s, uint32_t tag)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM};
	struct uffdio_register reg = {
		.range = {.start = (uintptr_t)s->guest.mem, .len = s->bytes},
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct vmctl_msg *m;

	if (s->status.state != VMCTL_STATE_CONFIGURED)
		return wrong_state(s, "postcopy");
	madvise(s->guest.mem, s->bytes, MADV_NOHUGEPAGE);
	if (ioctl(s->uffd, UFFDIO_API, &api) < 0 || ioctl(s->uffd, UFFDIO_REGISTER, &reg) < 0)
		return fail(-errno, "postcopy: %s", strerror(errno));
	s->lazy = true;
	m = xcalloc(1, sizeof(*m));
	m->type = VMCTL_FAULTS;
	m->tag = tag;
	m->faults.base = (uintptr_t)s->guest.mem;
	m->fds[0] = s->uffd;
	m->fds_n = 1;
	send_msg(s, m);
	free(m);
	note_life(s, "waits for pages");
	return 0;
}

static int end_postcopy(struct stub *s)
{
	cleanup_free char *refused = xasprintf("%s/no-whole-%s", s->dir, s->host);

	if (s->dir[0] && access(refused, F_OK) == 0)
		return fail(-EIO, "postcopy: refused, as the test wants it");
	s->lazy = false;
	note_life(s, "has all pages");
	return 0;
}

struct saved {
	uint64_t magic, memory_bytes, checksum, boots;
	uint8_t driver[STUB_DRIVER_BYTES];
};

static int save(struct stub *s, int fd, uint32_t *value)
{
	struct saved state = {
		.magic = STATE_MAGIC, .memory_bytes = s->bytes, .boots = s->status.boots};
	int rc;

	if (s->status.state != VMCTL_STATE_PAUSED)
		return wrong_state(s, "save");
	rc = take_rings(s);
	if (rc < 0)
		return rc;
	stub_guest_touch(&s->guest);
	rc = mig_memory_checksum(s->memory_fd, s->bytes, &state.checksum);
	if (rc < 0)
		return rc;
	stub_guest_save(&s->guest, state.driver);
	if (pwrite(fd, &state, sizeof(state), 0) != (ssize_t)sizeof(state))
		return fail(-errno, "save: %s", strerror(errno));
	*value = sizeof(state);
	return 0;
}

static int load(struct stub *s, int fd, uint64_t bytes)
{
	struct saved state;
	uint64_t sum;
	int rc;

	if (s->status.state != VMCTL_STATE_CONFIGURED)
		return wrong_state(s, "load");
	if (bytes != sizeof(state) || pread(fd, &state, bytes, 0) != (ssize_t)bytes ||
	    state.magic != STATE_MAGIC || state.memory_bytes != s->bytes)
		return fail(-EUCLEAN, "load: no state of this machine");
	rc = mig_memory_checksum(s->memory_fd, s->bytes, &sum);
	if (rc == 0 && !s->lazy && sum != state.checksum) {
		note(s, "violations", "other memory than was saved");
		rc = fail(-EUCLEAN, "load: other memory than was saved");
	}
	if (rc == 0)
		rc = stub_guest_load(&s->guest, state.driver);
	if (rc < 0)
		return rc;
	s->status.boots = (uint32_t)state.boots;
	s->status.state = VMCTL_STATE_PAUSED;
	note_life(s, "loaded");
	return 0;
}

/* x86-64-v2, and AVX (but in weak ones). */
static void make_cpu(struct stub *s, struct cpu_table *out)
{
	cleanup_free char *weak = xasprintf("%s/weak-cpu-%s", s->dir, s->host);
	const uint32_t v2 = 1u << 0 | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 23;
	const struct cpu_leaf leaves[] = {
		{.reg = {1, 0x68747541, 0x444d4163, 0x69746e65}},
		{.function = 0x80000001,
		 .reg = {[CPU_ECX] = 1, [CPU_EDX] = 1u << 11 | 1u << 20 | 1u << 29}},
	};
	struct cpu_leaf one = {.function = 1, .reg = {0, 0, v2 | 1u << 28, 0x078bfbff}};

	if (s->dir[0] && access(weak, F_OK) == 0)
		one.reg[CPU_ECX] = v2;
	(void)cpu_table_set_leaf(out, &leaves[0]);
	(void)cpu_table_set_leaf(out, &one);
	(void)cpu_table_set_leaf(out, &leaves[1]);
	if (s->baseline)
		cpu_table_common(out, s->baseline);
}

static void tell_cpu(struct stub *s, uint32_t tag)
{
	struct vmctl_msg *m = xcalloc(1, sizeof(*m));

	m->type = VMCTL_CPU;
	m->tag = tag;
	make_cpu(s, &m->cpu);
	send_msg(s, m);
	free(m);
}

static void set_cpu(struct stub *s, const struct cpu_table *baseline)
{
	if (!s->baseline)
		s->baseline = xcalloc(1, sizeof(*s->baseline));
	*s->baseline = *baseline;
}

/* perilune-vmm --cpu */
static int print_cpu(struct stub *s)
{
	struct cpu_table table = {0};
	uint8_t bytes[1024];
	int n;

	make_cpu(s, &table);
	n = cpu_table_encode(&table, bytes, sizeof(bytes));
	for (int i = 0; i < n; i++)
		printf("%02x", bytes[i]);
	return puts("") < 0;
}

/* --- its balloon ------------------------------------------------------------------------------------- */

static int set_balloon(struct stub *s, uint64_t target)
{
	if (target < VMCTL_MEMORY_MIN || target > s->bytes)
		return fail(-EINVAL, "balloon: %llu bytes", (unsigned long long)target);
	s->target = target;
	return 0;
}

static void tell_balloon(struct stub *s, uint32_t tag)
{
	cleanup_free char *path = xasprintf("%s/%s.available", s->dir, s->name);
	struct vmctl_msg *m = xcalloc(1, sizeof(*m));
	FILE *f = s->dir[0] ? fopen(path, "re") : NULL;
	unsigned long long available = s->target / 2;

	if (f && fscanf(f, "%llu", &available) != 1)
		available = 0;
	if (f)
		fclose(f);
	m->type = VMCTL_BALLOON;
	m->tag = tag;
	m->balloon.ready = true;
	m->balloon.target = s->target;
	m->balloon.taken = s->bytes - s->target;
	memset(m->balloon.stat, 0xff, sizeof(m->balloon.stat));
	m->balloon.stat[VIRTIO_BALLOON_S_MEMTOT] = s->target;
	m->balloon.stat[VIRTIO_BALLOON_S_AVAIL] = available;
	send_msg(s, m);
	free(m);
}

/* --- the main loop ----------------------------------------------------------------------------------- */

static int configure(struct stub *s, const struct vmctl_config *c)
{
	if (s->status.state != VMCTL_STATE_NEW && s->status.state != VMCTL_STATE_RESET)
		return wrong_state(s, "config");
	if (c->memory_bytes != s->bytes || !c->devices_n || c->devices[0].kind != VMCTL_DEVICE_SCSI)
		return fail(-EINVAL, "config: not a machine that can be played");
	if (s->status.state == VMCTL_STATE_NEW)
		s->status.state = VMCTL_STATE_CONFIGURED;
	return 0;
}

static void keep_taps(struct stub *s, const struct vmctl_msg *m)
{
	for (unsigned i = 0; i < s->tap[m->net.device].n; i++)
		close(s->tap[m->net.device].fd[i]);
	for (unsigned i = 0; i < m->fds_n; i++)
		s->tap[m->net.device].fd[i] = dup(m->fds[i]);
	s->tap[m->net.device].n = m->fds_n;
}

static void give_taps(struct stub *s, const struct vmctl_msg *m)
{
	struct vmctl_msg *answer = xcalloc(1, sizeof(*answer));

	answer->type = VMCTL_NET_TAPS;
	answer->tag = m->tag;
	answer->fds_n = s->tap[m->net.device].n;
	memcpy(answer->fds, s->tap[m->net.device].fd, sizeof(answer->fds));
	send_msg(s, answer);
	free(answer);
}

static void obey(struct stub *s, const struct vmctl_msg *m)
{
	int fd = m->fds_n ? m->fds[0] : -1, rc = 0;
	uint32_t value = 0;

	switch ((unsigned)m->type) {
	case VMCTL_CONFIG:
		rc = configure(s, &m->config);
		break;
	case VMCTL_START:
		rc = start(s);
		break;
	case VMCTL_PAUSE:
		if (hangs_up(s, "no pause"))
			return;
		rc = pause_it(s);
		if (rc == 0 && hangs_up(s, "pause"))
			return;
		break;
	case VMCTL_RESUME:
		if (hangs_up(s, "no resume"))
			return;
		rc = resume(s);
		if (rc == 0 && hangs_up(s, "resume"))
			return;
		break;
	case VMCTL_RESET:
		rc = at_work(s) ? 0 : wrong_state(s, "reset");
		break;
	case VMCTL_POWER_BUTTON:
	case VMCTL_KILL:
		break;
	case VMCTL_LOG_START:
		rc = log_start(s, fd);
		break;
	case VMCTL_LOG_SYNC:
		rc = log_sync(s);
		break;
	case VMCTL_LOG_STOP:
		rc = log_stop(s);
		break;
	case VMCTL_SAVE:
		rc = save(s, fd, &value);
		break;
	case VMCTL_LOAD:
		rc = load(s, fd, m->load.bytes);
		break;
	case VMCTL_SET_CPU:
		set_cpu(s, &m->cpu);
		break;
	case VMCTL_POSTCOPY:
		rc = postcopy(s, m->tag);
		if (rc == 0)
			return;
		break;
	case VMCTL_POSTCOPY_END:
		rc = end_postcopy(s);
		break;
	case VMCTL_GET_CPU:
		tell_cpu(s, m->tag);
		return;
	case VMCTL_NET:
		keep_taps(s, m);
		break;
	case VMCTL_NET_VHOST:
		break;
	case VMCTL_NET_TAKE:
		give_taps(s, m);
		return;
	case VMCTL_SET_BALLOON:
		rc = set_balloon(s, m->balloon.target);
		break;
	case VMCTL_GET_BALLOON:
		tell_balloon(s, m->tag);
		return;
	case VMCTL_CONSOLE_INPUT:
		typed(s, &m->console);
		return;
	case VMCTL_GET_STATUS: {
		struct vmctl_msg *status = xcalloc(1, sizeof(*status));

		status->type = VMCTL_STATUS;
		status->tag = m->tag;
		status->status = s->status;
		send_msg(s, status);
		free(status);
		return;
	}
	default:
		rc = fail(-EPROTO, "a message of type %u", (unsigned)m->type);
	}
	reply(s, m->tag, rc, value);
	if (rc == 0 && m->type == VMCTL_POWER_BUTTON && at_work(s))
		(void)end_of_guest(s, VMCTL_STATE_POWERED_OFF, VMCTL_EVENT_POWERED_OFF, "");
	if (rc == 0 && m->type == VMCTL_RESET)
		(void)end_of_guest(s, VMCTL_STATE_RESET, VMCTL_EVENT_RESET, "");
	s->killed |= m->type == VMCTL_KILL;
}

static void hear_daemon(struct stub *s)
{
	while (s->conn && !s->killed) {
		int rc = vmctl_conn_receive(s->conn, &msg);

		if (rc == 0)
			return;
		if (rc < 0) {
			lose_daemon(s);
			return;
		}
		obey(s, &msg);
		for (unsigned i = 0; i < msg.fds_n; i++)
			close(msg.fds[i]);
	}
}

static void welcome(struct stub *s, struct vmctl_conn *conn)
{
	struct vmctl_msg *ready = xcalloc(1, sizeof(*ready));

	lose_daemon(s);
	s->conn = conn;
	ready->type = VMCTL_READY;
	ready->status = s->status;
	send_msg(s, ready);
	free(ready);
	hear_daemon(s);
}

static void hear_hello(struct stub *s, unsigned i)
{
	struct vmctl_conn *conn = s->waiting[i];
	int rc = vmctl_conn_receive(conn, &msg), fd;

	if (rc == 0)
		return;
	s->waiting[i] = NULL;
	if (rc < 0 || msg.type != VMCTL_HELLO || msg.hello.version != VMCTL_VERSION) {
		vmctl_conn_destroy(conn);
	} else if (msg.hello.kind == VMCTL_KIND_CONTROL) {
		welcome(s, conn);
	} else if ((fd = vmctl_conn_detach(conn)) >= 0) {
		take_backend(s, fd);
	} else {
		vmctl_conn_destroy(conn);
	}
}

static void accept_one(struct stub *s)
{
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	for (unsigned i = 0; fd >= 0 && i < CONNS; i++)
		if (!s->waiting[i]) {
			(void)vmctl_conn_create(&s->waiting[i], fd);
			return;
		}
	if (fd >= 0)
		close(fd);
}

static void look_at_guest(struct stub *s)
{
	eventfd_t n;

	(void)eventfd_read(s->wake_fd, &n);
	if (s->frozen && s->status.state == VMCTL_STATE_RUNNING) {
		s->status.state = VMCTL_STATE_FROZEN;
		event(s, VMCTL_EVENT_FROZEN, "");
	}
}

enum { P_WAKE, P_LISTEN, P_DAEMON, P_BACKEND, P_WAITING, POLLS = P_WAITING + CONNS };

static void turn(struct stub *s)
{
	struct pollfd p[POLLS] = {{.fd = s->wake_fd, .events = POLLIN},
				  {.fd = s->listen_fd, .events = POLLIN},
				  {.fd = s->conn ? vmctl_conn_fd(s->conn) : -1, .events = POLLIN},
				  {.fd = s->backend ? s->guest.front.fd : -1, .events = POLLIN}};

	for (unsigned i = 0; i < CONNS; i++)
		p[P_WAITING + i] = (struct pollfd){
			.fd = s->waiting[i] ? vmctl_conn_fd(s->waiting[i]) : -1, .events = POLLIN};
	(void)poll(p, POLLS, 100);
	look_at_guest(s);
	if (p[P_BACKEND].revents && s->backend && s->guest.front.fd == p[P_BACKEND].fd)
		drop_backend(s); /* a daemon that ended; the next one connects */
	if (p[P_DAEMON].revents && s->conn && vmctl_conn_fd(s->conn) == p[P_DAEMON].fd)
		hear_daemon(s);
	for (unsigned i = 0; i < CONNS; i++)
		if (p[P_WAITING + i].revents && s->waiting[i])
			hear_hello(s, i);
	if (p[P_LISTEN].revents)
		accept_one(s);
	if (s->conn && vmctl_conn_flush(s->conn) == -EPIPE)
		lose_daemon(s);
	say_console(s);
}

static int fd_option(int argc, char **argv, const char *name)
{
	for (int i = 1; i + 1 < argc; i++)
		if (!strcmp(argv[i], name))
			return atoi(argv[i + 1]);
	return -1;
}

static const char *name_of(int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i++)
		if (!strcmp(argv[i], "--id"))
			return strrchr(argv[i + 1], ':') ? strrchr(argv[i + 1], ':') + 1
							 : argv[i + 1];
	return "vm";
}

/* The state directory's last part: "STATE:VOLUME:NAME". */
static void name_host(struct stub *s, int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i++) {
		const char *id = argv[i + 1], *end = strchr(id, ':'), *at = end;

		if (strcmp(argv[i], "--id") || !end)
			continue;
		while (at > id && at[-1] != '/')
			at--;
		(void)str_format(s->host, sizeof(s->host), "%.*s", (int)(end - at), at);
	}
}

int main(int argc, char **argv)
{
	static struct stub s;
	const char *dir = getenv("PERILUNE_STUB");
	struct stat st;
	void *mem;

	signal(SIGPIPE, SIG_IGN);
	s.run_fd = -1;
	s.memory_fd = fd_option(argc, argv, "--memory");
	s.listen_fd = fd_option(argc, argv, "--listen");
	s.name = name_of(argc, argv);
	name_host(&s, argc, argv);
	(void)str_format(s.dir, sizeof(s.dir), "%s", dir ? dir : "");
	s.uffd = -1;
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--cpu"))
			return print_cpu(&s);
		if (!strcmp(argv[i], "--postcopy"))
			s.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	}
	if (fstat(s.memory_fd, &st) < 0 || (uint64_t)st.st_size < STUB_MEMORY_MIN) {
		fputs("vmm_stub: --memory: at least 16 MiB\n", stderr);
		return 2;
	}
	s.bytes = s.target = (uint64_t)st.st_size;
	mem = mmap(NULL, s.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s.memory_fd, 0);
	s.lease = mmap(NULL, VMCTL_LEASE_BYTES, PROT_READ, MAP_SHARED,
		       fd_option(argc, argv, "--lease"), 0);
	MUST(mem != MAP_FAILED && s.lease != MAP_FAILED);
	s.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s.status = (struct vmctl_status){.version = VMCTL_VERSION,
					 .features = VMCTL_F_STATE | VMCTL_F_NET | VMCTL_F_BALLOON |
						     (s.uffd >= 0 ? VMCTL_F_POSTCOPY : 0),
					 .state = VMCTL_STATE_NEW,
					 .pid = (uint32_t)getpid()};
	pthread_mutex_init(&s.lock, NULL);
	pthread_cond_init(&s.changed, NULL);
	s.guest.say = say;
	s.guest.arg = &s;
	stub_guest_init(&s.guest, s.memory_fd, mem, s.bytes);
	s.guest.book = open_book(&s);
	MUST(pthread_create(&s.thread, NULL, guest_main, &s) == 0);
	note_life(&s, "is there");
	while (!s.killed)
		turn(&s);
	if (s.conn)
		(void)vmctl_conn_flush(s.conn);
	return 0;
}
