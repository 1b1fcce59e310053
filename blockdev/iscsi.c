// SPDX-License-Identifier: Apache-2.0
/* iscsi.c: iscsi. */
#include "blockdev/node.h"

#include <errno.h>

#include "base/err.h"

int blk_iscsi_open(const char *name, const struct blk_options *options, struct blk **out)
{
	(void)options;
	(void)out;
	return fail(-EOPNOTSUPP, "LUN %s: iscsi comes later", name);
}
