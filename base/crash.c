// SPDX-License-Identifier: Apache-2.0
/* crash.c: only calls that a signal handler may make; backtrace(3) has loaded what it needs by then. */
#include "base/crash.h"

#include <errno.h>
#include <execinfo.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"

#define FRAMES 48

static void put(const char *text)
{
	(void)!write(STDERR_FILENO, text, strlen(text));
}

static void put_number(uint64_t n, unsigned base)
{
	char text[32], *p = text + sizeof(text) - 1;

	*p = 0;
	do
		*--p = "0123456789abcdef"[n % base];
	while (n /= base);
	put(p);
}

static void tell(int sig, siginfo_t *info, void *context)
{
	void *frame[FRAMES];

	(void)context;
	put(program_invocation_short_name);
	put(": signal ");
	put_number((uint64_t)sig, 10);
	put(" at address 0x");
	put_number((uintptr_t)info->si_addr, 16);
	put("\n");
	backtrace_symbols_fd(frame, backtrace(frame, FRAMES), STDERR_FILENO);
	(void)raise(sig); /* SA_RESETHAND: this one ends it */
}

void crash_tell(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
	struct sigaction action = {.sa_sigaction = tell, .sa_flags = SA_SIGINFO | SA_RESETHAND};
	void *frame[1];

	(void)backtrace(frame, 1);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		(void)sigaction(signals[i], &action, NULL);
}
