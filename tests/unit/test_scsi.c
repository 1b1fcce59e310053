// SPDX-License-Identifier: Apache-2.0
/* The SCSI target on a disk in memory: what Linux and Windows ask, and what they should not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/memdisk.h"
#include "vfs/scsi.h"
#include "vfs/scsi_lun.h"

#define BLOCKS 2048u

struct world {
	struct scsi_target *t;
	struct memdisk *m;
	uint8_t in[65536], out[65536];
	uint8_t stored[CONTROLLER_PR_BYTES];
	size_t stored_bytes;
};

static struct world *w;

static void answered(struct scsi_cmd *cmd)
{
	cmd->tag++; /* counts answers */
}

static struct iovec in_iov, out_iov;

static void prepare(struct scsi_cmd *c, const uint8_t *cdb, size_t n, size_t out, size_t in)
{
	memset(c, 0, sizeof(*c));
	memcpy(c->cdb, cdb, n);
	in_iov = (struct iovec){w->in, in};
	out_iov = (struct iovec){w->out, out};
	c->in = &in_iov;
	c->out = &out_iov;
	c->in_count = in ? 1 : 0;
	c->out_count = out ? 1 : 0;
	c->in_bytes = in;
	c->out_bytes = out;
	c->done = answered;
}

/* Runs a command to its end; the sense as key << 16 | asc << 8 | ascq, 0 when GOOD. */
static unsigned run_on(unsigned lun, struct scsi_cmd *c, const uint8_t *cdb, size_t n, size_t out,
		       size_t in)
{
	prepare(c, cdb, n, out, in);
	scsi_execute(w->t, lun, c);
	assert_int_equal(c->tag, 1);
	if (c->status == SCSI_RESERVATION_CONFLICT)
		return 0x180000;
	return c->status == SCSI_GOOD
		       ? 0
		       : (unsigned)(c->sense[2] & 15) << 16 | be16_get(c->sense + 12);
}

#define CDB(...)  ((const uint8_t[]){__VA_ARGS__}), sizeof((const uint8_t[]){__VA_ARGS__})
#define RUN(...)  run_on(0, &c, __VA_ARGS__)
#define BAD_FIELD 0x052400u

static void store(struct vfs_disk *disk, const void *pr, size_t bytes,
		  void (*stored)(void *op, int res), void *op)
{
	assert_ptr_equal(disk, &w->m->disk);
	memcpy(w->stored, pr, bytes);
	w->stored_bytes = bytes;
	stored(op, 0);
}

static int detach(void)
{
	struct vfs_disk *disk = NULL;
	int rc = scsi_detach(w->t, 0, &disk);

	assert_ptr_equal(disk, rc ? NULL : &w->m->disk);
	return rc;
}

static int setup(void **state)
{
	struct controller_lun o = {.lun = 0, .pr_store = store};
	struct scsi_cmd c;

	(void)state;
	w = xcalloc(1, sizeof(*w));
	w->m = memdisk_new(NULL, BLOCKS * 512);
	w->t = scsi_target_new("test", false);
	assert_int_equal(scsi_attach(w->t, &w->m->disk, &o), 0);
	assert_int_equal(RUN(CDB(0, 0, 0, 0, 0, 0), 0, 0), 0x062900); /* power on, once */
	assert_int_equal(RUN(CDB(0, 0, 0, 0, 0, 0), 0, 0), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	detach();
	scsi_target_free(w->t);
	memdisk_free(w->m);
	free(w);
	return 0;
}

static void test_inquiry(void **state)
{
	struct scsi_cmd c;

	(void)state;
	assert_int_equal(RUN(CDB(0x12, 0, 0, 0, 36, 0), 0, 36), 0);
	assert_int_equal(c.moved, 36);
	assert_memory_equal(w->in + 8, "PERILUNEVIRTUAL DISK    0001", 28);
	assert_int_equal(RUN(CDB(0x12, 1, 0, 0, 255, 0), 0, 255), 0);
	assert_memory_equal(w->in, "\0\0\0\6\x00\x80\x83\xb0\xb1\xb2", 10);
	for (unsigned i = 1; i < 6; i++) {
		uint8_t page = w->in[4 + i], saved[10];

		memcpy(saved, w->in, 10);
		assert_int_equal(RUN(CDB(0x12, 1, page, 0, 255, 0), 0, 255), 0);
		assert_int_equal(w->in[1], page);
		assert_int_equal(be16_get(w->in + 2) + 4u, c.moved);
		memcpy(w->in, saved, 10);
	}
	assert_int_equal(RUN(CDB(0x12, 1, 0x83, 0, 255, 0), 0, 255), 0);
	assert_int_equal(w->in[8] >> 4, 3); /* NAA, locally assigned */
	assert_int_equal(RUN(CDB(0x12, 1, 0xb2, 0, 255, 0), 0, 255), 0);
	assert_int_equal(w->in[5], 0xe4);
	assert_int_equal(RUN(CDB(0x12, 1, 0x77, 0, 255, 0), 0, 255), BAD_FIELD);
	assert_int_equal(RUN(CDB(0x12, 0, 0x80, 0, 255, 0), 0, 255), BAD_FIELD);
	/* Allocation length and buffer both cut. */
	assert_int_equal(RUN(CDB(0x12, 0, 0, 0, 5, 0), 0, 100), 0);
	assert_int_equal(c.moved, 5);
	assert_int_equal(RUN(CDB(0x12, 0, 0, 0, 96, 0), 0, 7), 0);
	assert_int_equal(c.moved, 7);
}

static void test_capacity_and_luns(void **state)
{
	struct scsi_cmd c;

	(void)state;
	assert_int_equal(RUN(CDB(0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0, 8), 0);
	assert_int_equal(be32_get(w->in), BLOCKS - 1);
	assert_int_equal(be32_get(w->in + 4), 512);
	assert_int_equal(RUN(CDB(0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0), 0, 32), 0);
	assert_int_equal(be64_get(w->in), BLOCKS - 1);
	assert_int_equal(w->in[13], 3);
	assert_int_equal(w->in[14], 0xc0);
	assert_int_equal(RUN(CDB(0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0), 0, 256), 0);
	assert_int_equal(be32_get(w->in), 8);
	assert_int_equal(RUN(CDB(0xa0, 0, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0), 0, 256), BAD_FIELD);
	/* LUNs that are not there */
	assert_int_equal(run_on(7, &c, CDB(0x12, 0, 0, 0, 36, 0), 0, 36), 0);
	assert_int_equal(w->in[0], 0x7f);
	assert_int_equal(run_on(7, &c, CDB(0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0), 0, 256), 0);
	assert_int_equal(be32_get(w->in), 8);
	assert_int_equal(run_on(7, &c, CDB(0, 0, 0, 0, 0, 0), 0, 0), 0x052500);
	assert_int_equal(run_on(7, &c, CDB(3, 0, 0, 0, 18, 0), 0, 18), 0);
	assert_int_equal(be16_get(w->in + 12), 0x2500);
	assert_int_equal(run_on(70000, &c, CDB(0, 0, 0, 0, 0, 0), 0, 0), 0x052500);
}

static void test_read_and_write(void **state)
{
	struct scsi_cmd c;

	(void)state;
	memset(w->out, 0xa5, 4096);
	assert_int_equal(RUN(CDB(0x2a, 0, 0, 0, 0, 8, 0, 0, 8, 0), 4096, 0), 0);
	assert_int_equal(c.moved, 4096);
	assert_int_equal(w->m->fua, 0);
	assert_memory_equal(w->m->data + 4096, w->out, 4096);
	assert_int_equal(RUN(CDB(0x2a, 8, 0, 0, 0, 8, 0, 0, 8, 0), 4096, 0), 0);
	assert_int_equal(w->m->fua, 1);
	assert_int_equal(RUN(CDB(0x08, 0, 0, 8, 1, 0), 0, 512), 0);
	assert_memory_equal(w->in, w->out, 512);
	assert_int_equal(RUN(CDB(0x88, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0), 0, 8192), 0);
	assert_int_equal(c.moved, 4096); /* more room than data */
	assert_int_equal(RUN(CDB(0xa8, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0), 0, 512), 0);
	assert_true(c.overrun);
	assert_int_equal(RUN(CDB(0x28, 0, 0, 0, 8, 0, 0, 0, 1, 0), 0, 512), 0x052100);
	assert_int_equal(RUN(CDB(0x28, 0, 0, 0, 7, 0xff, 0, 0, 2, 0), 0, 1024), 0x052100);
	assert_int_equal(RUN(CDB(0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
				 0xff, 0xff, 0xff, 0, 0),
			     0, 512),
			 0x052100);
	assert_int_equal(RUN(CDB(0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0), 0, 512), BAD_FIELD);
	assert_int_equal(RUN(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0, 0), 0);
	assert_int_equal(RUN(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1, 4), 0, 512), BAD_FIELD); /* NACA */
	assert_int_equal(RUN(CDB(0xc0, 0, 0, 0, 0, 0), 0, 0), 0x052000);
	w->m->fail = -5;
	assert_int_equal(RUN(CDB(0x08, 0, 0, 8, 1, 0), 0, 512), 0x031100);
	assert_int_equal(RUN(CDB(0x2a, 0, 0, 0, 0, 8, 0, 0, 8, 0), 4096, 0), 0x030c00);
	assert_int_equal(c.moved, 0);
}

static void test_write_cache(void **state)
{
	struct scsi_cmd c;

	(void)state;
	assert_int_equal(RUN(CDB(0x1a, 0, 0x3f, 0, 255, 0), 0, 255), 0);
	assert_int_equal(w->in[0] + 1u, c.moved);
	assert_int_equal(RUN(CDB(0x1a, 8, 0x08, 0, 255, 0), 0, 255), 0);
	assert_int_equal(w->in[4 + 2] & 4, 4);
	memset(w->out, 0, 24);
	memcpy(w->out + 4, "\x08\x12", 2);
	assert_int_equal(RUN(CDB(0x15, 0x10, 0, 0, 24, 0), 24, 0), 0);
	assert_int_equal(w->m->flushes, 1);
	assert_false(scsi_write_cache(w->t, 0));
	assert_int_equal(RUN(CDB(0x2a, 0, 0, 0, 0, 8, 0, 0, 1, 0), 512, 0), 0);
	assert_int_equal(w->m->fua, 1);
	assert_int_equal(RUN(CDB(0x5a, 8, 0x08, 0, 0, 0, 0, 0, 255, 0), 0, 255), 0);
	assert_int_equal(w->in[8 + 2] & 4, 0);
	w->out[4 + 3] = 1; /* a bit that cannot be changed */
	assert_int_equal(RUN(CDB(0x15, 0x10, 0, 0, 24, 0), 24, 0), 0x052600);
	assert_int_equal(RUN(CDB(0x15, 0x10, 0, 0, 23, 0), 23, 0), 0x052600); /* cut */
	assert_int_equal(RUN(CDB(0x15, 0x10, 0, 0, 24, 0), 10, 0), 0x051a00);
	assert_int_equal(RUN(CDB(0x15, 0x11, 0, 0, 24, 0), 24, 0), BAD_FIELD);
	assert_int_equal(RUN(CDB(0x1a, 0, 0xc8, 0, 255, 0), 0, 255), 0x053900);
	assert_int_equal(RUN(CDB(0x1a, 0, 0x33, 0, 255, 0), 0, 255), BAD_FIELD);
	assert_int_equal(RUN(CDB(0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0, 0), 0);
	assert_int_equal(w->m->flushes, 2);
}

static void test_unmap_and_write_same(void **state)
{
	struct scsi_cmd c;

	(void)state;
	memset(w->m->data, 0xff, BLOCKS * 512);
	memset(w->out, 0, 64);
	be16_put(w->out, 6 + 32);
	be16_put(w->out + 2, 32);
	be64_put(w->out + 8, 8);
	be32_put(w->out + 16, 8);
	be64_put(w->out + 24, 100);
	be32_put(w->out + 32, 1);
	assert_int_equal(RUN(CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0), 40, 0), 0);
	assert_int_equal(w->m->discards, 2);
	assert_int_equal(w->m->data[8 * 512] + w->m->data[100 * 512], 0);
	assert_int_equal(w->m->data[101 * 512], 0xff);
	be64_put(w->out + 24, BLOCKS); /* beyond the end: nothing at all is done */
	assert_int_equal(RUN(CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0), 40, 0), 0x052100);
	assert_int_equal(w->m->discards, 2);
	assert_int_equal(RUN(CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0), 39, 0), 0x051a00);
	memset(w->out, 0, 512);
	assert_int_equal(RUN(CDB(0x41, 8, 0, 0, 0, 16, 0, 0, 4, 0), 512, 0), 0);
	assert_int_equal(w->m->zeroes, 1);
	assert_int_equal(RUN(CDB(0x93, 9, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 4, 0, 0), 0, 0), 0);
	assert_int_equal(w->m->zeroes, 2);
	memset(w->out, 0x3c, 512);
	assert_int_equal(RUN(CDB(0x41, 0, 0, 0, 0, 32, 0, 0, 40, 0), 512, 0), 0);
	assert_int_equal(w->m->data[32 * 512] + w->m->data[72 * 512 - 1], 2 * 0x3c);
	assert_int_equal(w->m->data[72 * 512], 0xff);
	assert_int_equal(RUN(CDB(0x41, 0, 0, 0, 0, 32, 0, 0, 0, 0), 512, 0), BAD_FIELD);
}

static void test_compare_and_write(void **state)
{
	struct scsi_cmd c;

	(void)state;
	memset(w->m->data, 7, 512);
	memset(w->out, 7, 512);
	memset(w->out + 512, 8, 512);
	assert_int_equal(RUN(CDB(0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0), 1024, 0), 0);
	assert_int_equal(w->m->data[511], 8);
	w->m->data[5] = 9;
	memset(w->out, 8, 512);
	assert_int_equal(RUN(CDB(0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0), 1024, 0),
			 0x0e1d00);
	assert_int_equal(be32_get(c.sense + 3), 5);
	assert_int_equal(RUN(CDB(0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 33, 0, 0), 65536, 0),
			 BAD_FIELD);
	w->out[5] = 9;
	assert_int_equal(RUN(CDB(0x2f, 2, 0, 0, 0, 0, 0, 0, 1, 0), 512, 0), 0);
	w->out[6] = 1;
	assert_int_equal(RUN(CDB(0x2f, 2, 0, 0, 0, 0, 0, 0, 1, 0), 512, 0), 0x0e1d00);
	assert_int_equal(RUN(CDB(0x2f, 0, 0, 0, 0, 0, 0, 0, 1, 0), 0, 0), 0);
}

/* A compare-and-write waits for what runs, and what comes later waits for it. */
static void test_turns(void **state)
{
	struct scsi_cmd a, b, c;

	(void)state;
	w->m->hold = true;
	prepare(&a, CDB(0x2a, 0, 0, 0, 0, 8, 0, 0, 1, 0), 512, 0);
	scsi_execute(w->t, 0, &a);
	prepare(&b, CDB(0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0), 1024, 0);
	scsi_execute(w->t, 0, &b);
	prepare(&c, CDB(0x28, 0, 0, 0, 0, 8, 0, 0, 1, 0), 0, 512);
	scsi_execute(w->t, 0, &c);
	assert_int_equal(w->m->held_count, 1);
	assert_true(scsi_busy(w->t, 0, scsi_sequence(w->t), NULL));
	assert_false(scsi_busy(w->t, 1, scsi_sequence(w->t), NULL));
	memset(w->out, 0, 1024);
	out_iov.iov_len = 1024;
	memdisk_release(w->m);
	assert_int_equal(a.tag + b.tag + c.tag, 3);
	assert_int_equal(a.status + b.status + c.status, 0);
	assert_false(scsi_busy(w->t, -1, scsi_sequence(w->t), NULL));
}

static void test_detach_waits(void **state)
{
	struct scsi_cmd a;

	(void)state;
	w->m->hold = true;
	prepare(&a, CDB(0x2a, 0, 0, 0, 0, 8, 0, 0, 1, 0), 512, 0);
	scsi_execute(w->t, 0, &a);
	assert_int_equal(detach(), 0);
	assert_int_equal(a.tag, 0);
	assert_true(scsi_busy(w->t, -1, scsi_sequence(w->t), NULL));
	memdisk_release(w->m);
	assert_int_equal(a.tag, 1);
	assert_false(scsi_busy(w->t, -1, scsi_sequence(w->t), NULL));
	assert_int_equal(detach(), -2);
}

static void test_attentions(void **state)
{
	struct scsi_cmd c;

	(void)state;
	scsi_attention(w->t, 0, ASC_CAPACITY_CHANGED);
	scsi_attention(w->t, 0, ASC_CAPACITY_CHANGED);
	scsi_attention(w->t, 0, ASC_LUNS_CHANGED);
	assert_int_equal(RUN(CDB(0x12, 0, 0, 0, 36, 0), 0, 36), 0); /* takes none */
	assert_int_equal(RUN(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0), 0, 512), 0x062a09);
	assert_int_equal(RUN(CDB(3, 0, 0, 0, 18, 0), 0, 18), 0);
	assert_int_equal(be16_get(w->in + 12), 0x3f0e);
	assert_int_equal(RUN(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0), 0, 512), 0);
	assert_int_equal(RUN(CDB(3, 1, 0, 0, 18, 0), 0, 18), BAD_FIELD);
}

static unsigned pr_out(unsigned action, unsigned type, uint64_t key, uint64_t other)
{
	struct scsi_cmd c;

	memset(w->out, 0, 24);
	be64_put(w->out, key);
	be64_put(w->out + 8, other);
	return RUN(CDB(0x5f, (uint8_t)action, (uint8_t)type, 0, 0, 0, 0, 0, 24, 0), 24, 0);
}

static void test_reservations(void **state)
{
	static const struct scsi_op write = {.flags = OP_WRITES}, read = {.flags = OP_READS};
	struct scsi_lun other = {0};
	struct scsi_cmd c;

	(void)state;
	assert_int_equal(pr_out(1, 5, 1, 0), 0x180000); /* not registered */
	assert_int_equal(pr_out(0, 0, 0, 0x11), 0);
	assert_int_equal(pr_out(0, 0, 0x12, 0x13), 0x180000);
	assert_int_equal(pr_out(1, 2, 0x11, 0), BAD_FIELD);
	assert_int_equal(pr_out(1, 5, 0x11, 0), 0);
	assert_int_equal(pr_out(1, 1, 0x11, 0), 0x180000);
	assert_int_equal(RUN(CDB(0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0), 0, 255), 0);
	assert_int_equal(be32_get(w->in + 4), 8);
	assert_int_equal(be64_get(w->in + 8), 0x11);
	assert_int_equal(RUN(CDB(0x5e, 1, 0, 0, 0, 0, 0, 0, 255, 0), 0, 255), 0);
	assert_int_equal(be64_get(w->in + 8), 0x11);
	assert_int_equal(w->in[21], 5);
	assert_int_equal(RUN(CDB(0x5e, 3, 0, 0, 0, 0, 0, 0, 255, 0), 0, 255), 0);
	assert_int_equal(be32_get(w->in + 4), 48);
	assert_int_equal(RUN(CDB(0x5e, 2, 0, 0, 0, 0, 0, 0, 255, 0), 0, 255), 0);
	assert_int_equal(be16_get(w->in), 8);
	/* What was stored keeps another nexus from writing. */
	assert_int_equal(scsi_pr_decode(&other.pr, w->stored, w->stored_bytes), 0);
	memset(other.nexus, 1, 16);
	assert_true(scsi_pr_conflict(&other, &write));
	assert_false(scsi_pr_conflict(&other, &read));
	assert_int_equal(RUN(CDB(0x2a, 0, 0, 0, 0, 8, 0, 0, 1, 0), 512, 0), 0); /* not us */
	assert_int_equal(pr_out(2, 6, 0x11, 0), 0x052604);
	assert_int_equal(pr_out(2, 5, 0x11, 0), 0);
	assert_int_equal(pr_out(4, 5, 0x11, 0x99), 0x180000);
	assert_int_equal(pr_out(3, 0, 0x11, 0), 0);
	assert_int_equal(RUN(CDB(0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0), 0, 255), 0);
	assert_int_equal(be32_get(w->in + 4), 0);
	assert_int_equal(pr_out(6, 0, 0x55, 0x22), 0);
	assert_int_equal(pr_out(6, 0, 0x55, 0), 0);
	assert_int_equal(pr_out(7, 0, 0x55, 0), 0x052000);
	w->stored[8] = 9;
	assert_true(scsi_pr_decode(&other.pr, w->stored, w->stored_bytes) < 0);
	assert_true(scsi_pr_decode(&other.pr, w->stored, 5) < 0);
}

static void test_report_opcodes(void **state)
{
	struct scsi_cmd c;
	unsigned count;

	(void)state;
	scsi_op_table(&count);
	assert_int_equal(RUN(CDB(0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0), 0, 32768), 0);
	assert_int_equal(be32_get(w->in), count * 8);
	assert_int_equal(RUN(CDB(0xa3, 0x0c, 1, 0x28, 0, 0, 0, 0, 0x80, 0, 0, 0), 0, 32768), 0);
	assert_memory_equal(w->in, "\0\3\0\12\x28", 5);
	assert_int_equal(RUN(CDB(0xa3, 0x0c, 2, 0x9e, 0, 0x10, 0, 0, 0x80, 0, 0, 0), 0, 999), 0);
	assert_int_equal(w->in[1], 3);
	assert_int_equal(RUN(CDB(0xa3, 0x0c, 1, 0x77, 0, 0, 0, 0, 0x80, 0, 0, 0), 0, 999), 0);
	assert_int_equal(w->in[1], 1);
	assert_int_equal(RUN(CDB(0xa3, 0x0c, 1, 0x9e, 0, 0, 0, 0, 1, 0, 0, 0), 0, 999), BAD_FIELD);
	assert_int_equal(RUN(CDB(0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0), 0, 999), 0);
	assert_int_equal(c.moved, 4);
	assert_true(scsi_repeatable((const uint8_t[16]){0x2a}));
	assert_false(scsi_repeatable((const uint8_t[16]){0x89}));
	assert_false(scsi_repeatable((const uint8_t[16]){0x5f, 1}));
	assert_true(scsi_repeatable((const uint8_t[16]){0x42}));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
/* --- a LUN that is passed through -------------------------------------------------------------- */

struct lun {
	struct vfs_disk disk;
	struct vfs_scsi *at; /* the last command */
	unsigned commands, requests;
};

static void lun_scsi(struct vfs_disk *disk, struct vfs_scsi *s)
{
	struct lun *lun = container_of(disk, struct lun, disk);

	lun->at = s;
	lun->commands++;
}

static void lun_submit(struct vfs_disk *disk, struct vfs_req *req)
{
	container_of(disk, struct lun, disk)->requests++;
	req->done(req, -EBADE);
}

static const struct vfs_disk_ops lun_ops = {.submit = lun_submit, .scsi = lun_scsi};

static void answer(struct lun *lun, int res, uint8_t status)
{
	lun->at->status = status;
	lun->at->moved = lun->at->bytes;
	lun->at->done(lun->at, res);
}

static void send(struct scsi_cmd *c, const uint8_t *cdb, size_t n, size_t out, size_t in)
{
	prepare(c, cdb, n, out, in);
	scsi_execute(w->t, 5, c);
}

static void test_passed_through(void **state)
{
	struct lun lun = {.disk = {.ops = &lun_ops,
				   .info = {.size = 1 << 20, .block_size = 512},
				   .pass = {.max_transfer = 65536}}};
	struct controller_lun o = {.lun = 5};
	struct vfs_disk *gone;
	struct scsi_cmd c;

	(void)state;
	assert_int_equal(scsi_attach(w->t, &lun.disk, &o), 0);
	/* Its attentions are its own; a vendor's command goes as it came, the answer too. */
	send(&c, CDB(0xc1, 1, 2, 3, 4, 5, 6, 7, 8, 9), 0, 512);
	assert_int_equal(lun.at->cdb_length, 16);
	assert_memory_equal(lun.at->cdb, ((uint8_t[]){0xc1, 1, 2, 3, 4, 5, 6, 7, 8, 9}), 10);
	assert_true(lun.at->to_guest && lun.at->bytes == 512 && lun.at->iov->iov_base == w->in);
	memset(lun.at->sense, 0x5a, SCSI_SENSE_MAX);
	lun.at->sense_bytes = SCSI_SENSE_MAX;
	answer(&lun, 0, 0x02);
	assert_int_equal(c.tag, 1);
	assert_int_equal(c.status, 2);
	assert_int_equal(c.sense_bytes, SCSI_SENSE_MAX);
	assert_int_equal(c.sense[95], 0x5a);
	/* BUSY is the guest's affair; a lost session is a nexus lost. */
	send(&c, CDB(0, 0, 0, 0, 0, 0), 0, 0);
	answer(&lun, 0, 0x08);
	assert_int_equal(c.status, 8);
	send(&c, CDB(0x2a, 0, 0, 0, 0, 1, 0, 0, 1, 0), 512, 0);
	answer(&lun, -ENOTCONN, 0);
	assert_int_equal((unsigned)(c.sense[2] & 15) << 16 | be16_get(c.sense + 12), 0x062907);
	/* What does not go: REPORT LUNS, three dangerous ones, long CDBs, both directions. */
	lun.commands = 0;
	send(&c, CDB(0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0), 0, 255);
	assert_int_equal(be32_get(w->in), 16);
	send(&c, CDB(4, 0, 0, 0, 0, 0), 0, 0);
	send(&c, CDB(0x3b, 2, 0, 0, 0, 0, 0, 0, 0, 0), 0, 0);
	send(&c, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0, 0);
	assert_int_equal(be16_get(c.sense + 12), ASC_INVALID_OPCODE);
	send(&c, CDB(0x7f, 0, 0, 0, 0, 0, 0, 24), 0, 0);
	send(&c, CDB(0x2a, 0, 0, 0, 0, 1, 0, 0, 1, 0), 512, 512);
	assert_int_equal(c.status, 2);
	assert_int_equal(lun.commands, 0);
	lun.disk.pass.unfiltered = true;
	send(&c, CDB(0x3b, 2, 0, 0, 0, 0, 0, 0, 0, 0), 0, 0);
	assert_int_equal(lun.commands, 1);
	answer(&lun, 0, 0);
	/* Block limits: no larger than what gets through, and not larger than they were. */
	send(&c, CDB(0x12, 1, 0xb0, 0, 64, 0), 0, 64);
	memset(lun.at->iov->iov_base, 0, 64);
	be32_put((uint8_t *)lun.at->iov->iov_base + 12, 1000);
	answer(&lun, 0, 0);
	assert_int_equal(be32_get(w->in + 8), 128);
	assert_int_equal(be32_get(w->in + 12), 128);
	send(&c, CDB(0x12, 1, 0xb0, 0, 64, 0), 0, 64);
	memset(lun.at->iov->iov_base, 0, 64);
	be32_put((uint8_t *)lun.at->iov->iov_base + 8, 64);
	answer(&lun, 0, 0);
	assert_int_equal(be32_get(w->in + 8), 64);
	assert_int_equal(be32_get(w->in + 12), 0);
	/* A kernel device: plain READ and WRITE are requests, whose -EBADE is a conflict. */
	lun.disk.pass.by_requests = true;
	lun.commands = 0;
	send(&c, CDB(0x2a, 8, 0, 0, 0, 1, 0, 0, 1, 0), 512, 0);
	assert_int_equal(lun.requests, 1);
	assert_int_equal(c.status, SCSI_RESERVATION_CONFLICT);
	send(&c, CDB(0x28, 0x20, 0, 0, 0, 1, 0, 0, 1, 0), 0, 520);
	assert_int_equal(lun.commands, 1);
	/* It goes while a command is under way. */
	assert_int_equal(scsi_detach(w->t, 5, &gone), 0);
	assert_ptr_equal(gone, &lun.disk);
	answer(&lun, -ENOTCONN, 0);
	assert_int_equal(be16_get(c.sense + 12), ASC_LUN_NOT_SUPPORTED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_inquiry),	T(test_capacity_and_luns),    T(test_read_and_write),
		T(test_write_cache),	T(test_unmap_and_write_same), T(test_compare_and_write),
		T(test_turns),		T(test_detach_waits),	      T(test_attentions),
		T(test_reservations),	T(test_report_opcodes),	      T(test_reservations),
		T(test_passed_through),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
