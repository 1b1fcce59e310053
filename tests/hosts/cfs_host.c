// SPDX-License-Identifier: Apache-2.0
/*
 * cfs_host.c: a host that does what its standard input says: one command a line, one answer a line,
 * "ok ..." or "err ERRNO WORDS". For tests that kill, stop and race real mounts.
 *
 *	cfs_host LUN[,LUN...] STATE_DIR NAME [INITIATOR ISID]
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "blockdev/blk.h"
#include "blockdev/fault.h"
#include "clusterfs/lock.h"
#include "clusterfs/slot.h"

struct host {
	struct blk *blk[CFS_MAX_EXTENTS];
	unsigned n;
	const char *state_dir, *name, *initiator;
	uint32_t isid;
	struct cfs *fs;
	struct cfs_vm_lock *vm;
	pthread_t hammer;
	const char *hammer_log;
	uint64_t hammer_at;
	_Atomic bool hammering;
};

static int answer(int rc, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int answer(int rc, const char *fmt, ...)
{
	va_list ap;

	if (rc < 0) {
		printf("err %d %s\n", -rc, err_message(rc));
	} else {
		va_start(ap, fmt);
		printf("ok ");
		vprintf(fmt, ap);
		printf("\n");
		va_end(ap);
	}
	fflush(stdout);
	return rc;
}

static void on_event(void *arg, const char *kind, const char *text)
{
	(void)arg;
	fprintf(stderr, "event %s %s\n", kind, text);
}

static void do_mount(struct host *h)
{
	struct cfs_options o = {.host_name = h->name,
				.state_dir = h->state_dir,
				.address = "",
				.initiator = h->initiator ? h->initiator : "",
				.isid = h->isid,
				.event = on_event};
	int rc = cfs_mount(h->blk, h->n, &o, &h->fs);

	answer(rc, "%u %u", rc < 0 ? 0 : h->fs->slot, rc < 0 ? 0 : h->fs->epoch);
}

static void do_format(struct host *h, const char *words)
{
	struct cfs_format_options o = {.name = "v1"};
	unsigned overwrite = 0;

	sscanf(words, "%u %u %u %u %u", &o.beat_ms, &o.silence_beats, &o.lease_ms, &o.flight_ms,
	       &overwrite);
	o.overwrite = overwrite;
	answer(cfs_format(h->blk, h->n, &o), "formatted");
}

static int add_once(struct host *h, const char *path, uint64_t *value)
{
	struct cfs_file *file;
	uint64_t n = 0;
	int rc = cfs_open(h->fs, path, CFS_OPEN_WRITE, 0, &file);

	if (rc < 0)
		return rc;
	rc = (int)cfs_pread(file, &n, sizeof(n), 0);
	n++;
	if (rc >= 0)
		rc = (int)cfs_pwrite(file, &n, sizeof(n), 0);
	if (rc >= 0)
		rc = cfs_fsync(file);
	if (rc >= 0)
		*value = n;
	(void)cfs_close(file);
	return rc < 0 ? rc : 0;
}

/* "PATH MS LOG": counts in the file for so long; each count that is durable goes to the log first. */
static void do_add(struct host *h, const char *words)
{
	char path[256], log[256];
	unsigned ms, done = 0;
	uint64_t end, value;
	int rc = 0, fd;

	if (sscanf(words, "%255s %u %255s", path, &ms, log) != 3) {
		answer(fail(-EINVAL, "add PATH MS LOG"), "-");
		return;
	}
	fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	end = clock_boot_ms() + ms;
	do {
		char line[32];
		int n;

		rc = add_once(h, path, &value);
		if (rc < 0)
			break;
		n = snprintf(line, sizeof(line), "%llu\n", (unsigned long long)value);
		if (write(fd, line, (size_t)n) != n)
			abort();
		done++;
		if (done % 4 == 0)
			sleep_ms(3);
	} while (clock_boot_ms() < end);
	close(fd);
	answer(rc, "%u", done);
}

static void do_value(struct host *h, const char *path)
{
	struct cfs_file *file;
	uint64_t n = 0;
	int rc = cfs_open(h->fs, path, 0, 0, &file);

	if (rc == 0) {
		rc = (int)cfs_pread(file, &n, sizeof(n), 0);
		(void)cfs_close(file);
	}
	answer(rc < 0 ? rc : 0, "%llu", (unsigned long long)n);
}

/*
 * Writes the time into one block, over and over, as the data path does: past the gate, plainly. Each
 * answer is logged: "SUBMITTED_NS RESULT".
 */
static void *hammer_main(void *arg)
{
	struct host *h = arg;
	FILE *log = fopen(h->hammer_log, "a");
	uint8_t *buf = xaligned(CFS_BLOCK, CFS_BLOCK);

	while (h->hammering) {
		uint64_t now = clock_boot_ns();
		int rc;

		memcpy(buf, &now, sizeof(now));
		rc = blk_write(h->blk[0], h->hammer_at, buf, CFS_BLOCK, 0);
		fprintf(log, "%llu %d\n", (unsigned long long)now, rc);
		fflush(log);
		sleep_ms(1);
	}
	fclose(log);
	free(buf);
	return NULL;
}

/* "MS FROM-TO": writes to these bytes of the LUN take so much longer. */
static void do_delay(struct host *h, const char *words)
{
	char kind[32], range[64];
	struct fault fault;
	unsigned ms;
	int rc;

	if (sscanf(words, "%u %63s", &ms, range) != 2) {
		answer(fail(-EINVAL, "delay MS FROM-TO"), "-");
		return;
	}
	(void)str_format(kind, sizeof(kind), "delay=%u", ms);
	rc = fault_parse(&fault, blk_info(h->blk[0])->name, kind, "write", range, NULL);
	answer(rc < 0 ? rc : fault_add(&fault, NULL), "delayed");
}

static void do_hammer(struct host *h, const char *words)
{
	static char log[256];
	unsigned long long at;

	if (sscanf(words, "%llu %255s", &at, log) != 2) {
		answer(fail(-EINVAL, "hammer OFFSET LOG"), "-");
		return;
	}
	h->hammer_at = at;
	h->hammer_log = log;
	h->hammering = true;
	answer(-pthread_create(&h->hammer, NULL, hammer_main, h), "hammering");
}

static void do_peek(struct host *h, const char *words)
{
	uint8_t *buf = xaligned(CFS_BLOCK, CFS_BLOCK);
	int rc = blk_read(h->blk[0], strtoull(words, NULL, 10), buf, CFS_BLOCK);
	uint64_t n;

	memcpy(&n, buf, sizeof(n));
	answer(rc, "%llu", (unsigned long long)n);
	free(buf);
}

static void do_life(struct host *h, const char *words)
{
	static const char *const names[] = {"alive", "recovering", "dead"};
	unsigned slot = 0, epoch = 0;

	sscanf(words, "%u %u", &slot, &epoch);
	answer(0, "%s", names[cfs_slot_life(h->fs, slot, epoch)]);
}

static void do_vm(struct host *h, const char *verb, const char *words)
{
	char path[256] = "", who[80] = "";
	unsigned wait_ms = 0;
	uint64_t start = clock_boot_ms();
	int rc;

	sscanf(words, "%255s %u", path, &wait_ms);
	if (strcmp(verb, "vmlock") == 0)
		rc = cfs_vm_lock(h->fs, path, wait_ms, &h->vm);
	else if (strcmp(verb, "vmadopt") == 0)
		rc = cfs_vm_adopt(h->fs, path, &h->vm);
	else if (strcmp(verb, "vmunlock") == 0)
		rc = cfs_vm_unlock(h->vm);
	else
		rc = cfs_vm_owner(h->fs, path, who, sizeof(who));
	answer(rc, "%llu %s", (unsigned long long)(clock_boot_ms() - start), who);
}

static void on_finding(void *arg, const char *object, const char *text, bool mended)
{
	(void)arg;
	(void)mended;
	fprintf(stderr, "finding %s: %s\n", object, text);
}

static void do_check(struct host *h)
{
	struct cfs_check_options o = {.host_name = h->name, .finding = on_finding};
	struct cfs_check_result r = {0};
	int rc = cfs_check(h->blk, h->n, &o, &r);

	answer(rc, "%llu", (unsigned long long)r.findings);
}

static void do_unmount(struct host *h)
{
	if (h->hammering) {
		h->hammering = false;
		pthread_join(h->hammer, NULL);
	}
	answer(cfs_unmount(h->fs), "unmounted");
}

static void obey(struct host *h, char *line)
{
	char *words = strchr(line, ' ');

	if (words)
		*words++ = 0;
	else
		words = line + strlen(line);
	if (strcmp(line, "format") == 0)
		do_format(h, words);
	else if (strcmp(line, "mount") == 0)
		do_mount(h);
	else if (strcmp(line, "unmount") == 0)
		do_unmount(h);
	else if (strcmp(line, "check") == 0)
		do_check(h);
	else if (strcmp(line, "create") == 0)
		answer(cfs_create(h->fs, words, CFS_FILE, 0), "created");
	else if (strcmp(line, "createvm") == 0)
		answer(cfs_create(h->fs, words, CFS_VM, 0), "created");
	else if (strcmp(line, "add") == 0)
		do_add(h, words);
	else if (strcmp(line, "value") == 0)
		do_value(h, words);
	else if (strcmp(line, "delay") == 0)
		do_delay(h, words);
	else if (strcmp(line, "hammer") == 0)
		do_hammer(h, words);
	else if (strcmp(line, "peek") == 0)
		do_peek(h, words);
	else if (strcmp(line, "life") == 0)
		do_life(h, words);
	else if (strncmp(line, "vm", 2) == 0)
		do_vm(h, line, words);
	else
		answer(fail(-EINVAL, "%s: no such command", line), "-");
}

int main(int argc, char **argv)
{
	struct blk_options o = {.timeout_ms = 1000};
	struct host h = {0};
	char line[1024], *save = NULL;

	signal(SIGPIPE, SIG_IGN); /* blk.h */
	if (argc != 4 && argc != 6) {
		fprintf(stderr, "usage: cfs_host LUN[,LUN...] STATE_DIR NAME [INITIATOR ISID]\n");
		return 2;
	}
	if (argc == 6) {
		h.initiator = o.initiator = argv[4];
		h.isid = o.isid = (uint32_t)strtoul(argv[5], NULL, 0);
	}
	for (char *lun = strtok_r(argv[1], ",", &save); lun; lun = strtok_r(NULL, ",", &save)) {
		struct blk *plain;
		int rc = blk_open(lun, &o, &plain);

		if (rc == 0)
			rc = blk_fault_wrap(plain, &h.blk[h.n++]);
		if (rc < 0) {
			fprintf(stderr, "%s\n", err_message(rc));
			return 1;
		}
	}
	h.state_dir = argv[2];
	h.name = argv[3];
	if (mkdir(h.state_dir, 0700) < 0 && errno != EEXIST)
		return 1;
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		obey(&h, line);
	}
	return 0;
}
