// SPDX-License-Identifier: Apache-2.0
/*
 * daemon.c: a host comes up and goes down, in visible steps. The API opens last: who can talk to
 * it finds volumes mounted (or why not, in the events).
 */
#include "host/daemon.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "host/api.h"
#include "host/balancer.h"
#include "host/db.h"
#include "host/event.h"
#include "host/lun.h"
#include "host/migrations.h"
#include "host/peers.h"
#include "host/task.h"
#include "host/vm.h"
#include "host/volume.h"

/* The API waits for the first try to mount what is remembered, at most that long. */
#define FIRST_MOUNT_MS 10000

#define VMM_INSTALLED "/usr/lib/perilune/perilune-vmm"

struct host *host_offline(void)
{
	struct host *host = xcalloc(1, sizeof(*host));

	host->offline = true;
	host->state.lock_fd = -1;
	(void)gethostname(host->name, sizeof(host->name) - 1);
	MUST(host_luns_create(host, &host->luns) == 0);
	return host;
}

/* perilune-vmm lies beside perilund in a build tree, elsewhere once installed. */
static void find_vmm(struct host *host, const char *given)
{
	char self[200];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	(void)str_format(host->vmm, sizeof(host->vmm), "%s", given ? given : VMM_INSTALLED);
	if (given || n <= 0)
		return;
	self[n] = 0;
	slash = strrchr(self, '/');
	if (slash) {
		*slash = 0;
		(void)str_format(host->vmm, sizeof(host->vmm), "%s/perilune-vmm", self);
		if (access(host->vmm, X_OK) < 0)
			(void)str_format(host->vmm, sizeof(host->vmm), "%s", VMM_INSTALLED);
	}
}

static int set_names(struct host *host, const struct host_options *o)
{
	if (o->name && (!*o->name || str_format(host->name, sizeof(host->name), "%s", o->name) < 0))
		return fail(-EINVAL, "--name: a host's name has 1 to 63 bytes");
	if (!o->name)
		(void)gethostname(host->name, sizeof(host->name) - 1);
	find_vmm(host, o->vmm);
	if (str_format(host->kvm, sizeof(host->kvm), "%s", o->kvm ? o->kvm : "/dev/kvm") < 0)
		return fail(-EINVAL, "--kvm: too long a name");
	if (str_format(host->firmware, sizeof(host->firmware), "%s",
		       o->firmware ? o->firmware : HOST_FIRMWARE) < 0)
		return fail(-EINVAL, "--firmware: too long a name");
	return 0;
}

/* The kernel's out-of-memory killer would take the daemon first: it maps every guest's memory. */
static void protect(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "-1000", 5) != 5)
		log_warn("host", "cannot set oom_score_adj: the kernel may kill this daemon first");
	if (fd >= 0)
		close(fd);
	if (mlockall(MCL_CURRENT) < 0)
		log_warn("host", "cannot lock the daemon's memory: %s; raise ulimit -l",
			 strerror(errno));
}

static int bring_up(struct host *host, const struct host_options *o)
{
	cleanup_free char *api = NULL;
	int rc = set_names(host, o);

	if (rc == 0)
		rc = host_state_open(&host->state, o->state_dir);
	if (rc < 0)
		return rc;
	host_maintenance_load(host);
	protect();
	rc = host_db_open(host->state.dir, &host->db);
	if (rc == 0)
		rc = host_events_create(host->db, &host->events);
	if (rc == 0)
		rc = host_tasks_create(host->db, &host->tasks);
	if (rc == 0)
		rc = host_luns_create(host, &host->luns);
	if (rc == 0)
		rc = host_vms_create(host, &host->vms);
	if (rc == 0)
		rc = host_migrations_create(host, &host->migrations);
	if (rc == 0)
		rc = host_peers_create(host, o->listen, &host->peers);
	if (rc == 0)
		rc = host_volumes_create(host, &host->volumes);
	if (rc < 0)
		return rc;
	host_event(host->events, "daemon", host->name, "started, pid %d, version %s", (int)getpid(),
		   PERILUNE_VERSION);
	host_luns_restore(host->luns);
	host_volumes_restore(host->volumes, FIRST_MOUNT_MS);
	rc = host_balancer_start(host, &host->balancer);
	if (rc < 0)
		return rc;
	api = o->api ? xstrdup(o->api) : xasprintf("%s/api.sock", host->state.dir);
	return host_api_start(host, api, o->group, &host->api);
}

int host_start(const struct host_options *options, struct host **out)
{
	struct host *host = xcalloc(1, sizeof(*host));
	int rc;

	host->state.lock_fd = -1;
	host->started_ns = clock_wall_ns();
	rc = bring_up(host, options);
	if (rc < 0) {
		struct err_info why;

		err_save(&why, rc);
		host_stop(host);
		return err_restore(&why);
	}
	*out = host;
	return 0;
}

void host_stop(struct host *host)
{
	if (!host)
		return;
	atomic_store(&host->ending, true);
	host_peers_quiesce(host->peers);
	host_api_stop(host->api);
	host_balancer_stop(host->balancer);
	host_tasks_cancel_all(host->tasks);
	host_migrations_refuse(host->migrations);
	host_vms_await_memory(host->vms);
	host_tasks_destroy(host->tasks);
	host_vms_await_memory(host->vms); /* of a task that was past being cancelled */
	host_migrations_quiesce(host->migrations);
	host_volumes_quiesce(host->volumes);
	host_vms_destroy(host->vms);
	host_volumes_destroy(host->volumes);
	host_peers_destroy(host->peers);
	host_migrations_destroy(host->migrations);
	if (host->events)
		host_event(host->events, "daemon", host->name, "stopped");
	host_luns_destroy(host->luns);
	host_events_destroy(host->events);
	host_db_close(host->db);
	host_state_close(&host->state);
	free(host);
}
