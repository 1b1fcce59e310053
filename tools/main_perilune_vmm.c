// SPDX-License-Identifier: Apache-2.0
/*
 * perilune-vmm: one virtual machine. Started by perilund, which gives it everything as descriptors
 * and talks to it over the listening socket (base/vmctl.h). Not for people.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/kvm.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "hv/control.h"
#include "hv/sandbox.h"
#include "hv/vcpu.h"
#include "hv/vmm.h"

static const char usage[] =
	"usage: perilune-vmm --kvm FD --memory FD --lease FD --listen FD [--id NAME]\n"
	"                    [--uid N --gid N] [--postcopy] [--verbose]\n"
	"\n"
	"Runs one virtual machine for perilund, which starts it. Descriptors are inherited:\n"
	"\n"
	"  --kvm FD      /dev/kvm\n"
	"  --memory FD   the guest's memory, a memfd sealed against a change of its size\n"
	"  --lease FD    a memfd of 4096 bytes with the lease's end, read-only\n"
	"  --listen FD   a listening unix stream socket, for perilund to connect to\n"
	"  --id NAME     the vm's name, for messages\n"
	"  --uid, --gid  become this user and group\n"
	"  --postcopy    its memory may come while it runs: keeps a userfaultfd for that\n"
	"  --cpu         only tell what processor a guest could see, as bytes in hex; needs --kvm\n"
	"\n"
	"Example, as perilund does it:\n"
	"  perilune-vmm --kvm 3 --memory 4 --lease 5 --listen 6 --id web1 --uid 990 --gid 990\n";

struct options {
	int kvm, memory, lease, listen;
	const char *id;
	long uid, gid;
	bool tell_cpu, postcopy;
	int self_test; /* for the sandbox's test: breaks the rules on purpose: 'T' open, 'C' KVM_ENABLE_CAP */
};

static int parse_number(const char *text, long *out)
{
	char *end;

	errno = 0;
	*out = strtol(text, &end, 10);
	return errno || *end || end == text || *out < 0 ? -EINVAL : 0;
}

static int parse_fd(const char *name, const char *text, int *out)
{
	long fd;

	if (parse_number(text, &fd) || fd <= STDERR_FILENO || fcntl((int)fd, F_GETFD) < 0)
		return fail(-EINVAL, "--%s %s: no open descriptor", name, text);
	*out = (int)fd;
	return 0;
}

static const struct option long_options[] = {
	{"kvm", required_argument, NULL, 'k'},
	{"memory", required_argument, NULL, 'm'},
	{"lease", required_argument, NULL, 'l'},
	{"listen", required_argument, NULL, 's'},
	{"id", required_argument, NULL, 'i'},
	{"uid", required_argument, NULL, 'u'},
	{"gid", required_argument, NULL, 'g'},
	{"cpu", no_argument, NULL, 'c'},
	{"verbose", no_argument, NULL, 'v'},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{"self-test-open", no_argument, NULL, 'T'},
	{"self-test-cap", no_argument, NULL, 'C'},
	{"postcopy", no_argument, NULL, 'p'},
	{NULL, 0, NULL, 0},
};

static int parse_option(struct options *o, int c)
{
	switch (c) {
	case 'k':
		return parse_fd("kvm", optarg, &o->kvm);
	case 'm':
		return parse_fd("memory", optarg, &o->memory);
	case 'l':
		return parse_fd("lease", optarg, &o->lease);
	case 's':
		return parse_fd("listen", optarg, &o->listen);
	case 'i':
		o->id = optarg;
		return 0;
	case 'u':
		return parse_number(optarg, &o->uid);
	case 'g':
		return parse_number(optarg, &o->gid);
	case 'c':
		o->tell_cpu = true;
		return 0;
	case 'p':
		o->postcopy = true;
		return 0;
	case 'v':
		log_set_level(LOG_DEBUG);
		return 0;
	case 'T':
	case 'C':
		o->self_test = c;
		return 0;
	case 'h':
		fputs(usage, stdout);
		exit(0);
	case 'V':
		puts("perilune-vmm " PERILUNE_VERSION);
		exit(0);
	default:
		return fail(-EINVAL, "perilune-vmm: unknown option; see --help");
	}
}

static int parse_options(int argc, char **argv, struct options *o)
{
	int c, rc = 0;

	while (!rc && (c = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		rc = parse_option(o, c);
	if (rc)
		return rc;
	if (o->tell_cpu && o->kvm >= 0 && optind == argc)
		return 0;
	if (o->kvm < 0 || o->memory < 0 || o->lease < 0 || o->listen < 0 || optind < argc)
		return fail(-EINVAL, "perilune-vmm: --kvm, --memory, --lease and --listen are "
				     "needed; see --help");
	if ((o->uid < 0) != (o->gid < 0))
		return fail(-EINVAL, "perilune-vmm: --uid and --gid go together");
	return 0;
}

/* What the C library would open files for later on. */
static void settle_libc(void)
{
	setenv("TZ", "UTC0", 1);
	tzset();
	mallopt(M_ARENA_MAX, 1); /* few threads that allocate little: one heap is less memory */
	signal(SIGPIPE, SIG_IGN);
}

static int break_rules(const struct options *o)
{
	int rc = o->self_test == 'C' ? ioctl(o->kvm, KVM_ENABLE_CAP, NULL)
				     : open("/etc/hostname", O_RDONLY | O_CLOEXEC);

	return rc < 0 ? -EPERM : 0;
}

static int run(const struct options *o)
{
	/* As root still: the kernel's own accesses are to wait, too. Without one there is no post-copy. */
	const int uffd = o->postcopy ? (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK) : -1;
	const int keep[] = {o->kvm, o->memory, o->lease, o->listen, uffd};
	const struct hv_sandbox sandbox = {
		.keep = keep,
		.keep_n = ARRAY_SIZE(keep) - (uffd < 0),
		.change_user = o->uid >= 0,
		.uid = (uid_t)o->uid,
		.gid = (gid_t)o->gid,
	};
	struct hv_vmm *vmm;

	settle_libc();
	int rc = hv_sandbox_enter(&sandbox);
	if (rc)
		return rc;
	if (o->self_test)
		return break_rules(o);
	fcntl(o->listen, F_SETFL, O_NONBLOCK);
	struct hv_control *control = hv_control_create(o->listen);
	rc = hv_vmm_create(&vmm, o->kvm, o->memory, o->lease, uffd, &hv_control_vmm_ops, control);
	close(o->lease);
	if (!rc)
		rc = hv_vmm_watch(vmm);
	if (!rc)
		rc = hv_control_run(control, vmm);
	/* Killed: the kernel takes all of it apart, faster than we could. */
	return rc;
}

/* The table that GET_CPU would answer (base/cpu_table.h), for who compares hosts. */
static int tell_cpu(const struct options *o)
{
	cleanup_free struct cpu_table *table = xmalloc(sizeof(*table));
	cleanup_free uint8_t *bytes = xmalloc(VMCTL_PAYLOAD_MAX);
	int rc = hv_vcpus_offered(o->kvm, 1, NULL, true, table), n;

	if (rc)
		return rc;
	n = cpu_table_encode(table, bytes, VMCTL_PAYLOAD_MAX);
	for (int i = 0; i < n; i++)
		printf("%02x", bytes[i]);
	putchar('\n');
	return fflush(stdout) ? fail(-EIO, "perilune-vmm: cannot write") : 0;
}

int main(int argc, char **argv)
{
	struct options o = {
		.kvm = -1, .memory = -1, .lease = -1, .listen = -1, .uid = -1, .gid = -1};
	int rc = parse_options(argc, argv, &o);

	if (!rc)
		rc = o.tell_cpu ? tell_cpu(&o) : run(&o);
	if (rc)
		log_error("vmm", "%s%s%s", o.id ? o.id : "", o.id ? ": " : "", err_message(rc));
	_exit(err_exit_code(rc));
}
