// SPDX-License-Identifier: Apache-2.0
/*
 * raw_server: serves whole LUNs over vhost-user, for tests of the exports alone.
 *
 *	raw_server blk|scsi SOCKET LUN...	(blk: one LUN; --queues N first; --connect: connects
 *						 to SOCKET instead of listening)
 * Prints "ready" and serves until SIGTERM or SIGINT; then statistics on one line.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "blockdev/blk.h"
#include "vfs/controller.h"
#include "vfs/iothread.h"
#include "vfs/raw.h"

static int die(int rc)
{
	fprintf(stderr, "raw_server: %s\n", err_message(rc));
	return 1;
}

static void closed(void *arg)
{
	int *pipe_fd = arg;

	if (write(*pipe_fd, "x", 1) != 1)
		abort();
}

static int connect_to(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)str_format(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return fail(-errno, "%s: %s", path, strerror(errno));
	return fd;
}

static int attach(struct controller *ctl, struct iothread *t, struct blk *blk, unsigned lun)
{
	struct controller_lun o = {.lun = lun};
	struct vfs_disk *disk;
	int rc = vfs_raw_open(blk, iothread_loop(t), blk_info(blk)->name, &disk);

	return rc < 0 ? rc : controller_attach(ctl, disk, &o);
}

int main(int argc, char **argv)
{
	struct controller_options o = {.name = "raw", .queues = 1};
	struct controller_stats st;
	struct blk *blk[64];
	struct controller *ctl;
	struct iothread *t;
	struct rusage ru;
	bool connecting = false;
	unsigned n = 0;
	int rc, sig, done[2], i = 1;
	sigset_t set;
	char x;

	for (; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "--connect"))
			connecting = true;
		else if (!strcmp(argv[i], "--debug"))
			log_set_level(LOG_DEBUG);
		else if (!strcmp(argv[i], "--sealed"))
			o.sealed = true;
		else if (!strcmp(argv[i], "--queues") && i + 1 < argc)
			o.queues = (unsigned)atoi(argv[++i]);
	}
	if (argc - i < 3 || argc - i - 2 > 64) {
		fprintf(stderr, "usage: raw_server [--queues N] [--connect] blk|scsi SOCKET "
				"LUN...\n");
		return 2;
	}
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	o.kind = strcmp(argv[i], "scsi") ? CONTROLLER_BLK : CONTROLLER_SCSI;
	rc = iothread_create(&t, "io", 256);
	if (rc < 0)
		return die(rc);
	o.thread = t;
	rc = controller_create(&ctl, &o);
	if (rc < 0)
		return die(rc);
	for (int l = i + 2; l < argc; l++, n++) {
		rc = blk_open(argv[l], NULL, &blk[n]);
		/* Falls with the last request of a server that was killed before (INV-BLK-1). */
		while (rc == 0 && (rc = blk_host_lock(blk[n], 0)) == -EBUSY) {
			sleep_ms(1);
			rc = 0;
		}
		if (rc == 0)
			rc = attach(ctl, t, blk[n], n);
		if (rc < 0)
			return die(rc);
	}
	if (connecting) {
		rc = connect_to(argv[i + 1]);
		if (rc >= 0)
			rc = controller_serve(ctl, rc);
	} else {
		rc = controller_listen(ctl, argv[i + 1]);
	}
	if (rc < 0)
		return die(rc);
	printf("ready\n");
	fflush(stdout);
	sigwait(&set, &sig);
	controller_stats(ctl, &st);
	getrusage(RUSAGE_SELF, &ru);
	printf("reads %llu writes %llu flushes %llu discards %llu errors %llu cpu_us %llu\n",
	       (unsigned long long)st.reads, (unsigned long long)st.writes,
	       (unsigned long long)st.flushes, (unsigned long long)st.discards,
	       (unsigned long long)st.errors,
	       (unsigned long long)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000 +
		       (unsigned long long)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec));
	if (pipe(done) < 0)
		return 1;
	controller_close(ctl, closed, &done[1]);
	rc = read(done[0], &x, 1) == 1 ? 0 : 1;
	iothread_destroy(t);
	for (unsigned l = 0; l < n; l++)
		blk_close(blk[l]);
	return rc;
}
