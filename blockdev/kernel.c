// SPDX-License-Identifier: Apache-2.0
/* kernel.c: block devices. */
#include "blockdev/node.h"

#include <errno.h>

#include "base/err.h"

int blk_kernel_open(const char *name, const struct blk_options *options, struct blk **out)
{
	(void)options;
	(void)out;
	return fail(-EOPNOTSUPP, "LUN %s: block devices come later", name);
}
