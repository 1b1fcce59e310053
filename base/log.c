// SPDX-License-Identifier: Apache-2.0
/* log.c: one line to standard error, written whole. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"

static _Atomic enum log_level level_now = LOG_INFO;

void log_set_level(enum log_level level)
{
	level_now = level;
}

enum log_level log_get_level(void)
{
	return level_now;
}

void log_write(enum log_level level, const char *module, const char *fmt, ...)
{
	static const char *const names[] = {"error", "warn ", "info ", "debug"};
	uint64_t now = clock_boot_ns();
	char line[1024];
	va_list ap;
	int n;

	if (level > level_now)
		return;
	n = snprintf(line, sizeof(line),
		     "%6llu.%06llu %s %s: ", (unsigned long long)(now / NS_PER_S),
		     (unsigned long long)(now % NS_PER_S / 1000), names[level], module);
	va_start(ap, fmt);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n, fmt, ap);
	va_end(ap);
	if ((size_t)n > sizeof(line) - 1)
		n = sizeof(line) - 1;
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return; /* nobody is left to tell */
}
