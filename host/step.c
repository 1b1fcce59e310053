// SPDX-License-Identifier: Apache-2.0
/* step.c: named places where a migration can be stopped, and others, for tests of what happens when something dies there. */
#include <fcntl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "host/daemon.h"
#include "host/vm_move.h"

#define STOP_MS 120000u
#define LOOK_MS 2u

void host_step(struct host *host, const char *name)
{
	cleanup_free char *path = xasprintf("%s/steps/%s", host->state.dir, name);
	cleanup_free char *reached = NULL;
	uint64_t until = clock_boot_ms() + STOP_MS;
	int fd;

	if (access(path, F_OK) < 0)
		return;
	reached = xasprintf("%s.reached", path);
	fd = open(reached, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	log_info("migrate", "stopped at step %s", name);
	while (access(path, F_OK) == 0 && clock_boot_ms() < until)
		sleep_ms(LOOK_MS);
}
