// SPDX-License-Identifier: Apache-2.0
/* main_perilund.c: the host daemon: options, signals, run until told to stop. */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/crash.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "host/host.h"

#define SYSTEM_STATE "/var/lib/perilune"
#define SYSTEM_RUN   "/run/perilune"

#define MALLOC_MMAP_BYTES (128 * 1024)
#define STACK_BYTES	  (1024 * 1024)

static const char usage[] =
	"usage: perilund [--state DIR] [options]\n"
	"\n"
	"Runs a host of Perilune in the foreground: mounts volumes, serves disks, runs VMs.\n"
	"Several on one machine, each with a state directory of its own, are several hosts.\n"
	"\n"
	"  --state DIR        what this host keeps (default " SYSTEM_STATE ")\n"
	"  --name NAME        the host's name, for people (default: the machine's)\n"
	"  --listen ADDR:PORT where other hosts reach this one: numbers, port 7700 if\n"
	"                     none is said, 0 any; \"none\": nowhere (default: nowhere with\n"
	"                     --state, else every address)\n"
	"  --api SOCKET       the API's socket (default DIR/api.sock; without --state\n"
	"                     " SYSTEM_RUN "/api.sock, for root and group perilune)\n"
	"  --vmm FILE         perilune-vmm, if it lies elsewhere\n"
	"  --kvm FILE         what it gets as /dev/kvm, for a monitor that needs none\n"
	"  --firmware FILE    for VMs that boot from their disk (default Debian's seabios)\n"
	"  -v, -q             more talk, less talk\n"
	"  --help, --version\n"
	"\n"
	"example: perilund --state /tmp/h1 --name h1 &\n"
	"         perilune --connect /tmp/h1 status\n";

enum {
	OPT_STATE = 256,
	OPT_NAME,
	OPT_LISTEN,
	OPT_API,
	OPT_VMM,
	OPT_KVM,
	OPT_FIRMWARE,
	OPT_HELP,
	OPT_VERSION
};

static const struct option long_options[] = {
	{"state", required_argument, NULL, OPT_STATE},
	{"name", required_argument, NULL, OPT_NAME},
	{"listen", required_argument, NULL, OPT_LISTEN},
	{"api", required_argument, NULL, OPT_API},
	{"vmm", required_argument, NULL, OPT_VMM},
	{"kvm", required_argument, NULL, OPT_KVM},
	{"firmware", required_argument, NULL, OPT_FIRMWARE},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{NULL, 0, NULL, 0},
};

/* -1: go on; else the exit code. */
static int parse(int argc, char **argv, struct host_options *o)
{
	int c;

	while ((c = getopt_long(argc, argv, "vq", long_options, NULL)) != -1) {
		switch (c) {
		case OPT_STATE:
			o->state_dir = optarg;
			break;
		case OPT_NAME:
			o->name = optarg;
			break;
		case OPT_LISTEN:
			o->listen = optarg;
			break;
		case OPT_API:
			o->api = optarg;
			break;
		case OPT_VMM:
			o->vmm = optarg;
			break;
		case OPT_KVM:
			o->kvm = optarg;
			break;
		case OPT_FIRMWARE:
			o->firmware = optarg;
			break;
		case 'v':
			log_set_level(LOG_DEBUG);
			break;
		case 'q':
			log_set_level(LOG_WARN);
			break;
		case OPT_HELP:
			fputs(usage, stdout);
			return 0;
		case OPT_VERSION:
			puts("perilund " PERILUNE_VERSION);
			return 0;
		default:
			fputs("perilund: see perilund --help\n", stderr);
			return 2;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "perilund: %s: unexpected; see perilund --help\n", argv[optind]);
		return 2;
	}
	return -1;
}

/* Many VMs, LUNs and clients: the soft limit is for programs that use select(2). */
static void raise_limits(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
	limit.rlim_cur = limit.rlim_max = RLIM_INFINITY;
	(void)setrlimit(RLIMIT_MEMLOCK, &limit);
}

/*
 * Freed buffers go back to the system, and a stack is too small for a huge page: else each VM would
 * cost megabytes that nobody uses.
 */
static void stay_lean(void)
{
	pthread_attr_t attr;

	(void)mallopt(M_MMAP_THRESHOLD, MALLOC_MMAP_BYTES);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	(void)pthread_setattr_default_np(&attr);
	pthread_attr_destroy(&attr);
}

int main(int argc, char **argv)
{
	struct host_options options = {0};
	struct host *host;
	sigset_t set;
	int rc = parse(argc, argv, &options), sig;

	if (rc >= 0)
		return rc;
	crash_tell();
	/* Threads inherit the mask: signals come to sigwait below and nowhere else. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	umask(0077);
	raise_limits();
	stay_lean();
	if (!options.state_dir) {
		options.state_dir = SYSTEM_STATE;
		options.group = "perilune";
		if (!options.listen)
			options.listen = "0.0.0.0";
		if (!options.api) {
			(void)mkdir(SYSTEM_RUN, 0755);
			(void)chmod(SYSTEM_RUN, 0755);
			options.api = SYSTEM_RUN "/api.sock";
		}
	}
	if (options.listen && !strcmp(options.listen, "none"))
		options.listen = NULL;
	rc = host_start(&options, &host);
	if (rc < 0) {
		fprintf(stderr, "perilund: %s\n", err_message(rc));
		return err_exit_code(rc);
	}
	log_info("host", "ready");
	sigwait(&set, &sig);
	log_info("host", "stopping: %s", strsignal(sig));
	host_stop(host);
	return 0;
}
