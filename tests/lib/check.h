// SPDX-License-Identifier: Apache-2.0
/* check.h: cmocka as our tests want it: what fails says why. */
#ifndef TESTS_LIB_CHECK_H
#define TESTS_LIB_CHECK_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include "base/err.h"

/* The call returns no error. */
#define ok(call)                                                          \
	do {                                                              \
		int rc_ = (int)(call);                                    \
		if (rc_ < 0)                                              \
			print_error("%s: %s\n", #call, err_message(rc_)); \
		assert_true(rc_ >= 0);                                    \
	} while (0)

#endif
