// SPDX-License-Identifier: Apache-2.0
/* What a target's bytes mean: identity pages, sense, statuses; on a made-up target, PR and probing. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "blockdev/scsi.h"

static void test_identity(void **state)
{
	/* T10 text, a locally assigned NAA, a port's NAA (not the LUN's), a global NAA */
	static const uint8_t page[] = {
		0,    0x83, 0,	  4 + 8 + 4 + 8 + 4 + 8 + 4 + 16,
		2,    0x01, 0,	  8,
		'I',  'E',  'T',  ' ',
		'1',  '/',  ' ',  ' ',
		1,    0x03, 0,	  8,
		0x30, 1,    2,	  3,
		4,    5,    6,	  7,
		1,    0x13, 0,	  8,
		0x50, 9,    9,	  9,
		9,    9,    9,	  9,
		1,    0x03, 0,	  16,
		0x60, 1,    0x40, 0x5a,
		0xbc, 5,    6,	  7,
		8,    9,    10,	  11,
		12,   13,   14,	  15,
	};
	char id[80];

	(void)state;
	assert_int_equal(scsi_parse_identity(page, sizeof(page), id, sizeof(id)), 0);
	assert_string_equal(id, "naa.6001405abc05060708090a0b0c0d0e0f");
	/* cut off: the best of what is whole; the target's own text beats a local NAA */
	assert_int_equal(scsi_parse_identity(page, sizeof(page) - 1, id, sizeof(id)), 0);
	assert_string_equal(id, "t10.IET_1_");
	assert_int_equal(scsi_parse_identity(page, 15, id, sizeof(id)), -ENODATA);
	for (uint32_t n = 0; n < sizeof(page); n++) {
		uint8_t *copy = malloc(n ? n : 1); /* reads behind its end show under ASan */

		memcpy(copy, page, n);
		(void)scsi_parse_identity(copy, n, id, sizeof(id));
		free(copy);
	}
}

static void test_serial(void **state)
{
	static const uint8_t page[] = {0, 0x80, 0, 6, ' ', 'a', '1', '$', ' ', ' '};
	static const uint8_t empty[] = {0, 0x80, 0, 4, ' ', ' ', ' ', ' '};
	char id[80];

	(void)state;
	assert_int_equal(scsi_parse_serial(page, sizeof(page), id, sizeof(id)), 0);
	assert_string_equal(id, "serial.a1_");
	assert_int_equal(scsi_parse_serial(empty, sizeof(empty), id, sizeof(id)), -ENODATA);
	assert_int_equal(scsi_parse_serial(page, 3, id, sizeof(id)), -ENODATA);
}

static void test_sense(void **state)
{
	static const uint8_t fixed[18] = {0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 1};
	static const uint8_t descriptor[8] = {0x72, 0x0e, 0x1d, 0};
	struct scsi_sense_data s;

	(void)state;
	scsi_parse_sense(fixed, sizeof(fixed), &s);
	assert_true(s.key == 6 && s.asc == 0x29 && s.ascq == 1);
	assert_true(scsi_power_loss(SCSI_CHECK_CONDITION, &s));
	assert_int_equal(scsi_resend(SCSI_CHECK_CONDITION, &s), SCSI_RESEND);
	scsi_parse_sense(descriptor, sizeof(descriptor), &s);
	assert_true(s.key == 0xe && s.asc == 0x1d);
	assert_int_equal(scsi_errno(SCSI_CHECK_CONDITION, &s), -EILSEQ);
	scsi_parse_sense(fixed, 2, &s);
	assert_int_equal(s.key, 0);
}

static void test_statuses(void **state)
{
	struct scsi_sense_data none = {0}, full = {.key = 7, .asc = 0x27, .ascq = 7},
			       medium = {.key = 3, .asc = 0x11}, aborted = {.key = 0xb},
			       opcode = {.key = 5, .asc = 0x20}, range = {.key = 5, .asc = 0x21},
			       ready = {.key = 2, .asc = 4, .ascq = 1};

	(void)state;
	assert_int_equal(scsi_errno(SCSI_GOOD, &none), 0);
	assert_int_equal(scsi_errno(SCSI_RESERVATION_CONFLICT, &none), -EBADE);
	assert_int_equal(scsi_errno(SCSI_CHECK_CONDITION, &full), -ENOSPC);
	assert_int_equal(scsi_errno(SCSI_CHECK_CONDITION, &medium), -EIO);
	assert_int_equal(scsi_errno(SCSI_CHECK_CONDITION, &opcode), -EOPNOTSUPP);
	assert_int_equal(scsi_errno(SCSI_CHECK_CONDITION, &range), -EIO);
	/* INV-BLK-1: final is what the first copy may have done */
	assert_int_equal(scsi_resend(SCSI_RESERVATION_CONFLICT, &none), SCSI_FINAL);
	assert_int_equal(scsi_resend(SCSI_CHECK_CONDITION, &medium), SCSI_FINAL);
	assert_int_equal(scsi_resend(SCSI_CHECK_CONDITION, &full), SCSI_FINAL);
	assert_int_equal(scsi_resend(SCSI_BUSY, &none), SCSI_RESEND_LATER);
	assert_int_equal(scsi_resend(SCSI_TASK_SET_FULL, &none), SCSI_RESEND_LATER);
	assert_int_equal(scsi_resend(SCSI_CHECK_CONDITION, &ready), SCSI_RESEND_LATER);
	assert_int_equal(scsi_resend(SCSI_TASK_ABORTED, &none), SCSI_RESEND_ENDED);
	assert_int_equal(scsi_resend(SCSI_CHECK_CONDITION, &aborted), SCSI_RESEND_ENDED);
}

/* A target that answers attentions first, and then what the test wants. */
struct target {
	struct scsi_nexus nexus;
	_Atomic uint64_t power;
	unsigned attentions, commands;
	uint8_t answer[64];
	uint32_t answers;
};

static int target_exec(struct scsi_nexus *nexus, struct scsi_cmd *cmd)
{
	struct target *t = (struct target *)nexus;

	t->commands++;
	cmd->got = 0;
	cmd->sense = (struct scsi_sense_data){0};
	if (t->attentions) {
		t->attentions--;
		cmd->status = SCSI_CHECK_CONDITION;
		cmd->sense = (struct scsi_sense_data){.key = 6, .asc = 0x29};
		return 0;
	}
	cmd->status = SCSI_GOOD;
	if (cmd->dir == SCSI_IN) {
		cmd->got = MIN(t->answers, cmd->length);
		memcpy(cmd->data, t->answer, cmd->got);
	}
	return 0;
}

static void test_run(void **state)
{
	struct target t = {.nexus = {.exec = target_exec}, .attentions = 3};
	struct scsi_cmd cmd = {.cdb_length = 6};

	(void)state;
	t.nexus.power_count = &t.power;
	assert_int_equal(scsi_run(&t.nexus, &cmd), 0);
	assert_int_equal(t.commands, 4);
	assert_int_equal(t.power, 3);
	t.attentions = 1000000; /* for ever: bounded */
	assert_int_equal(scsi_run(&t.nexus, &cmd), -EIO);
	assert_true(t.commands < 1000);
}

static void test_keys(void **state)
{
	struct target t = {.nexus = {.exec = target_exec}, .answers = 24};
	struct blk_pr_state *st = malloc(sizeof(*st));

	(void)state;
	t.nexus.power_count = &t.power;
	be32_put(t.answer, 7);
	be32_put(t.answer + 4, 0xfffffff8); /* more than came */
	be64_put(t.answer + 8, 0x1234);
	assert_int_equal(scsi_pr_read(&t.nexus, st), 0);
	assert_int_equal(st->generation, 7);
	assert_int_equal(st->keys, 2);
	assert_true(scsi_pr_has(st, 0x1234) && !scsi_pr_has(st, 0x4321));
	t.answers = 4;
	assert_int_equal(scsi_pr_read(&t.nexus, st), -EIO);
	free(st);
}

static void test_full_status(void **state)
{
	static const uint8_t isid[6] = {0x80, 1, 2, 3, 0, 63};
	static const char name[] = "iqn.a:b,i,0x80010203003f";
	uint8_t data[8 + 2 * (24 + 32)] = {0};

	(void)state;
	be32_put(data + 4, sizeof(data) - 8);
	for (int i = 0; i < 2; i++) {
		uint8_t *d = data + 8 + i * 56;

		be64_put(d, 0x10 + (uint64_t)i);
		be32_put(d + 20, 32);
		d[24] = i ? 0x45 : 0x05;
		be16_put(d + 26, 28);
		memcpy(d + 28, name, sizeof(name));
	}
	assert_true(scsi_parse_full_status(data, sizeof(data), "iqn.a:b", isid, 0x11));
	assert_false(scsi_parse_full_status(data, sizeof(data), "iqn.a:b", isid, 0x10));
	assert_false(scsi_parse_full_status(data, sizeof(data), "iqn.a:c", isid, 0x11));
	for (uint32_t n = 0; n < sizeof(data); n++) {
		uint8_t *copy = malloc(n ? n : 1);

		memcpy(copy, data, n);
		assert_false(scsi_parse_full_status(copy, n, "iqn.a:b", isid, 0x11));
		free(copy);
	}
	be32_put(data + 8 + 20, UINT32_MAX);
	assert_false(scsi_parse_full_status(data, sizeof(data), "iqn.a:b", isid, 0x11));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_identity),    cmocka_unit_test(test_serial),
		cmocka_unit_test(test_sense),	    cmocka_unit_test(test_statuses),
		cmocka_unit_test(test_run),	    cmocka_unit_test(test_keys),
		cmocka_unit_test(test_full_status),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
