// SPDX-License-Identifier: Apache-2.0
/*
 * The sandbox. The list of system calls is what this program and its C library really do after
 * start; ioctl is limited to those of KVM's that are used (KVM_ENABLE_CAP is not: what it enables stands in a struct,
 * which no filter sees) and those of a tap and of vhost-net that are needed, clone to threads, mmap and mprotect to memory that
 * is not executable, prctl to naming a thread, fcntl to flags.
 */
#include "hv/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <linux/vhost.h>
#include <sched.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

static const int free_calls[] = {
	SCMP_SYS(read),
	SCMP_SYS(write),
	SCMP_SYS(writev),
	SCMP_SYS(recvmsg),
	SCMP_SYS(recvfrom),
	SCMP_SYS(sendmsg),
	SCMP_SYS(sendto),
	SCMP_SYS(accept4),
	SCMP_SYS(shutdown),
	SCMP_SYS(setsockopt),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(close),
	SCMP_SYS(lseek),
	SCMP_SYS(eventfd2),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	SCMP_SYS(brk),
	SCMP_SYS(futex),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(rseq),
	SCMP_SYS(sched_yield),
	SCMP_SYS(sched_getaffinity),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(getpid),
	SCMP_SYS(gettid),
	SCMP_SYS(getrandom),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(nanosleep),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(timer_create),
	SCMP_SYS(timer_settime),
	SCMP_SYS(timer_delete),
	SCMP_SYS(timerfd_create), /* the watchdog */
	SCMP_SYS(timerfd_settime),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
};

static const uint32_t ioctls[] = {
	KVM_RUN,
	KVM_IRQ_LINE,
	KVM_KVMCLOCK_CTRL,
	KVM_SET_GSI_ROUTING,
	KVM_IRQFD,
	KVM_IOEVENTFD,
	KVM_GET_API_VERSION,
	KVM_CHECK_EXTENSION,
	KVM_CREATE_VM,
	KVM_GET_VCPU_MMAP_SIZE,
	KVM_GET_SUPPORTED_CPUID,
	KVM_SET_USER_MEMORY_REGION,
	KVM_SET_IDENTITY_MAP_ADDR,
	KVM_SET_TSS_ADDR,
	KVM_CREATE_IRQCHIP,
	KVM_CREATE_PIT2,
	KVM_CREATE_VCPU,
	KVM_SET_CPUID2,
	KVM_SET_MSRS,
	KVM_GET_REGS,
	KVM_SET_REGS,
	KVM_GET_SREGS,
	KVM_SET_SREGS,
	/* saving, loading */
	KVM_GET_DIRTY_LOG,
	KVM_GET_IRQCHIP,
	KVM_SET_IRQCHIP,
	KVM_GET_PIT2,
	KVM_SET_PIT2,
	KVM_GET_CLOCK,
	KVM_SET_CLOCK,
	KVM_GET_MSR_INDEX_LIST,
	KVM_GET_MSRS,
	KVM_GET_MP_STATE,
	KVM_SET_MP_STATE,
	KVM_GET_XSAVE,
	KVM_GET_XSAVE2,
	KVM_SET_XSAVE,
	KVM_GET_XCRS,
	KVM_SET_XCRS,
	KVM_GET_DEBUGREGS,
	KVM_SET_DEBUGREGS,
	KVM_GET_LAPIC,
	KVM_SET_LAPIC,
	KVM_GET_TSC_KHZ,
	KVM_SET_TSC_KHZ,
	KVM_GET_VCPU_EVENTS,
	KVM_SET_VCPU_EVENTS,
	KVM_GET_NESTED_STATE,
	/* a tap that the daemon made: what the guest's driver understands, which queues it serves */
	TUNSETOFFLOAD,
	TUNSETQUEUE,
	/* vhost-net */
	VHOST_SET_OWNER,
	VHOST_GET_FEATURES,
	VHOST_SET_FEATURES,
	VHOST_SET_MEM_TABLE,
	VHOST_SET_VRING_NUM,
	VHOST_SET_VRING_BASE,
	VHOST_GET_VRING_BASE,
	VHOST_SET_VRING_ADDR,
	VHOST_SET_VRING_KICK,
	VHOST_SET_VRING_CALL,
	VHOST_NET_SET_BACKEND,
	/* post-copy */
	UFFDIO_API,
	UFFDIO_REGISTER,
	UFFDIO_UNREGISTER,
};

/* --- the filter -------------------------------------------------------------------------------- */

static int allow_limited(scmp_filter_ctx ctx)
{
	const uint64_t low = UINT32_MAX;
	int rc = 0;

	for (size_t i = 0; i < ARRAY_SIZE(ioctls) && !rc; i++)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				      SCMP_A1(SCMP_CMP_MASKED_EQ, low, ioctls[i]));
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
				      SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				      SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
				      SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME, 0));
	for (int command = F_GETFD; command <= F_SETFL && !rc; command++)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
				      SCMP_A1(SCMP_CMP_MASKED_EQ, low, (uint64_t)command));
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
				      SCMP_A1(SCMP_CMP_MASKED_EQ, low, F_GET_SEALS));
	/* Signals to threads of this process only. */
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
				      SCMP_A0(SCMP_CMP_EQ, (uint64_t)getpid(), 0));
	/* Threads only. clone3's flags cannot be looked at: "not there", and libc uses clone. */
	if (!rc)
		rc = seccomp_rule_add(
			ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
			SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD | CLONE_NEWUSER, CLONE_THREAD));
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	return rc;
}

static int load_filter(void)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int rc = ctx ? 0 : -ENOMEM;

	for (size_t i = 0; i < ARRAY_SIZE(free_calls) && !rc; i++)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, free_calls[i], 0);
	if (!rc)
		rc = allow_limited(ctx);
	if (!rc)
		rc = seccomp_syscall_priority(ctx, SCMP_SYS(ioctl), 255); /* KVM_RUN */
	if (!rc)
		rc = seccomp_load(ctx);
	if (ctx)
		seccomp_release(ctx);
	return rc ? fail(rc, "sandbox: seccomp: %s", strerror(-rc)) : 0;
}

/* --- descriptors and privileges ---------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static int close_others(const struct hv_sandbox *s)
{
	cleanup_free int *keep = xmalloc((s->keep_n + 1) * sizeof(int));
	unsigned from = STDERR_FILENO + 1;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
		return fail(-errno, "sandbox: /dev/null: %s", strerror(errno));
	memcpy(keep, s->keep, s->keep_n * sizeof(int));
	qsort(keep, s->keep_n, sizeof(int), compare);
	for (unsigned i = 0; i < s->keep_n; i++) {
		unsigned fd = (unsigned)keep[i];
		if (fd > from)
			close_range(from, fd - 1, 0);
		from = MAX(from, fd + 1);
	}
	close_range(from, ~0U, 0);
	return 0;
}

static int drop_capabilities(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {0};

	if (syscall(SYS_capset, &head, none) < 0)
		return fail(-errno, "sandbox: capset: %s", strerror(errno));
	return 0;
}

static int drop_privileges(const struct hv_sandbox *s)
{
	const struct rlimit no_core = {0, 0};

	setrlimit(RLIMIT_CORE, &no_core);
	/* Of its own where that is allowed; without, the filter still lets nothing through. */
	unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS);
	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	if (s->change_user && (setgroups(0, NULL) < 0 || setresgid(s->gid, s->gid, s->gid) < 0 ||
			       setresuid(s->uid, s->uid, s->uid) < 0))
		return fail(-errno, "sandbox: cannot become user %u, group %u: %s", s->uid, s->gid,
			    strerror(errno));
	int rc = drop_capabilities();
	if (rc)
		return rc;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return fail(-errno, "sandbox: no_new_privs: %s", strerror(errno));
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	return 0;
}

int hv_sandbox_enter(const struct hv_sandbox *sandbox)
{
	int rc = close_others(sandbox);

	if (!rc)
		rc = drop_privileges(sandbox);
	return rc ? rc : load_filter();
}
