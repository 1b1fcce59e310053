// SPDX-License-Identifier: Apache-2.0
/*
 * vCPU threads. How one is stopped, whatever it is doing:
 *
 *	who stops                          the vCPU's thread
 *	sets the reason bit                looks at the reasons, none: goes on to
 *	run->immediate_exit = 1            ioctl(KVM_RUN): returns EINTR at once, or
 *	pthread_kill(SIGUSR1)              is in the guest: the signal ends KVM_RUN with EINTR
 *	                                   looks at the reasons: parks
 *
 * The flag is cleared by the parked thread itself, before it looks at the reasons once more.
 */
#include "hv/vcpu.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "hv/cpuid.h"
#include "hv/kvm.h"
#include "hv/msrs.h"
#include "hv/state.h"
#include "hv/vcpu_state.h"

#define KICK_SIGNAL SIGUSR1
#define STACK_BYTES (128 * 1024)

struct vcpu {
	struct hv_vcpus *all;
	unsigned index;
	int fd;
	struct kvm_run *run;
	struct hv_cpuid *cpuid; /* as it was set */
	pthread_t thread;
	bool started;
	timer_t timer; /* kicks this thread when it may run no longer */
	bool has_timer;
	uint64_t armed_ns; /* what the timer is set to, UINT64_MAX: off */
	bool incomplete;   /* an exit was answered, KVM has not taken the answer yet */
};

struct hv_vcpus {
	struct hv_kvm *kvm;
	const struct hv_vcpu_ops *ops;
	void *opaque;
	atomic_uint stop;
	pthread_mutex_t lock; /* parked, ending; a leaf: nothing else is taken under it */
	pthread_cond_t changed;
	unsigned parked;
	bool ending;
	bool nested;	       /* guests may run guests */
	uint64_t capabilities; /* ARCH_CAPABILITIES, 0: none; see read_capabilities() */
	unsigned n;
	struct vcpu vcpu[];
};

static void kicked(int sig)
{
	(void)sig; /* its arrival is all: KVM_RUN returns */
}

/* --- exits ------------------------------------------------------------------------------------- */

static void exit_io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	bool write = run->io.direction == KVM_EXIT_IO_OUT;

	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size)
		vcpu->all->ops->pio(vcpu->all->opaque, write, run->io.port, data, run->io.size);
}

static void fail_vcpu(struct vcpu *vcpu, const char *what, uint64_t a, uint64_t b)
{
	struct hv_vcpus *all = vcpu->all;
	struct kvm_regs regs = {0};
	char why[200];

	ioctl(vcpu->fd, KVM_GET_REGS, &regs);
	snprintf(why, sizeof(why), "vcpu %u: %s (%#llx, %#llx) at rip %#llx", vcpu->index, what,
		 (unsigned long long)a, (unsigned long long)b, (unsigned long long)regs.rip);
	hv_vcpus_stop(all, HV_STOP_END);
	all->ops->failed(all->opaque, why);
}

static void handle_exit(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct hv_vcpus *all = vcpu->all;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		exit_io(vcpu);
		vcpu->incomplete = true;
		break;
	case KVM_EXIT_MMIO:
		all->ops->mmio(all->opaque, run->mmio.is_write, run->mmio.phys_addr, run->mmio.data,
			       MIN(run->mmio.len, 8u));
		vcpu->incomplete = true;
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_HLT:
		break;
	case KVM_EXIT_SHUTDOWN:
		hv_vcpus_stop(all, HV_STOP_END);
		all->ops->shutdown(all->opaque);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		fail_vcpu(vcpu, "the processor refused to enter the guest",
			  run->fail_entry.hardware_entry_failure_reason, run->fail_entry.cpu);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		fail_vcpu(vcpu, "kvm failed inside", run->internal.suberror,
			  run->internal.ndata ? run->internal.data[0] : 0);
		break;
	default:
		fail_vcpu(vcpu, "unknown exit from kvm", run->exit_reason, 0);
		break;
	}
}

/* --- the thread -------------------------------------------------------------------------------- */

/* KVM takes the answer to an exit only when it is entered again; so enter, without the guest. */
static void complete_exit(struct vcpu *vcpu)
{
	while (vcpu->incomplete) {
		vcpu->incomplete = false;
		vcpu->run->immediate_exit = 1;
		if (ioctl(vcpu->fd, KVM_RUN, 0) == 0)
			handle_exit(vcpu); /* the rest of a split access */
	}
}

/* Nothing is to be kicked while it stands still: may_run sets the timer anew. */
static void disarm(struct vcpu *vcpu)
{
	const struct itimerspec never = {0};

	if (vcpu->has_timer && vcpu->armed_ns != UINT64_MAX)
		timer_settime(vcpu->timer, 0, &never, NULL);
	vcpu->armed_ns = UINT64_MAX;
}

/* Stands still while there is a reason to. False: the thread is to end. */
static bool park(struct vcpu *vcpu)
{
	struct hv_vcpus *all = vcpu->all;

	if (!atomic_load(&all->stop))
		return true;
	complete_exit(vcpu);
	disarm(vcpu);
	pthread_mutex_lock(&all->lock);
	all->parked++;
	pthread_cond_broadcast(&all->changed);
	for (;;) {
		/* Cleared before looking: a stop that comes after the look sets it again. */
		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		if (!atomic_load(&all->stop) || all->ending)
			break;
		pthread_cond_wait(&all->changed, &all->lock);
	}
	all->parked--;
	bool go_on = !all->ending;
	pthread_mutex_unlock(&all->lock);
	/* Tells a guest with kvmclock that it was stopped: no soft lockup then. EINVAL: has none. */
	if (go_on)
		ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0);
	return go_on;
}

static bool create_timer(struct vcpu *vcpu)
{
	struct sigevent event = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = KICK_SIGNAL,
		._sigev_un._tid = gettid(),
	};

	vcpu->armed_ns = UINT64_MAX;
	vcpu->has_timer = timer_create(CLOCK_BOOTTIME, &event, &vcpu->timer) == 0;
	return vcpu->has_timer;
}

/*
 * False: the time is over. The timer may fire between here and KVM_RUN, unseen: so it goes on
 * firing, each few milliseconds, until it is set anew.
 */
static bool may_run(struct vcpu *vcpu)
{
	uint64_t end = vcpu->all->ops->runs_until(vcpu->all->opaque);
	struct itimerspec when = {.it_interval = {.tv_nsec = 5 * (long)NS_PER_MS}};

	if (end != UINT64_MAX && clock_boot_ns() >= end)
		return false;
	if (end == vcpu->armed_ns)
		return true;
	vcpu->armed_ns = end;
	if (end == UINT64_MAX)
		when.it_interval.tv_nsec = 0;
	else
		when.it_value = clock_timespec(end);
	return timer_settime(vcpu->timer, TIMER_ABSTIME, &when, NULL) == 0;
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *vcpu = arg;
	struct hv_vcpus *all = vcpu->all;
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
	prctl(PR_SET_NAME, name);
	if (!create_timer(vcpu))
		fail_vcpu(vcpu, "no timer", (uint64_t)errno, 0);
	while (park(vcpu)) {
		if (!may_run(vcpu)) {
			hv_vcpus_stop(all, HV_STOP_LEASE);
			all->ops->frozen(all->opaque);
			continue;
		}
		vcpu->incomplete = false;
		if (ioctl(vcpu->fd, KVM_RUN, 0) == 0)
			handle_exit(vcpu);
		else if (errno != EINTR && errno != EAGAIN)
			fail_vcpu(vcpu, "KVM_RUN failed", (uint64_t)errno, 0);
	}
	if (vcpu->has_timer)
		timer_delete(vcpu->timer);
	return NULL;
}

/* --- creation ---------------------------------------------------------------------------------- */

/* The memory type that the kernel's boot code expects: write-back by default, MTRRs on. */
static int set_boot_msrs(struct vcpu *vcpu)
{
	static const struct kvm_msr_entry boot[] = {
		{.index = 0x2ff, .data = 1 << 11 | 6}, /* MTRRdefType */
		{.index = 0x1a0, .data = 1},	       /* MISC_ENABLE: fast strings */
	};
	cleanup_free struct kvm_msrs *m = xcalloc(1, sizeof(*m) + sizeof(boot));

	m->nmsrs = ARRAY_SIZE(boot);
	memcpy(m->entries, boot, sizeof(boot));
	if (ioctl(vcpu->fd, KVM_SET_MSRS, m) < 1)
		return fail(-errno, "kvm: KVM_SET_MSRS: %s", strerror(errno));
	return 0;
}

/* As far as the baseline says less than this host would. */
static int set_feature_msrs(struct vcpu *vcpu, const struct cpu_table *baseline)
{
	uint64_t value;

	if (!baseline || hv_msr_get(vcpu->fd, HV_MSR_ARCH_CAPABILITIES, &value) || !value)
		return 0;
	struct cpu_table t = {.msrs_n = 1, .msrs = {{HV_MSR_ARCH_CAPABILITIES, value}}};
	cpu_table_common(&t, baseline);
	if (t.msrs[0].value == value)
		return 0;
	int rc = hv_msr_set(vcpu->fd, HV_MSR_ARCH_CAPABILITIES, t.msrs[0].value);
	return rc ? fail(rc, "kvm: cannot set the guest's ARCH_CAPABILITIES") : 0;
}

static int create_vcpu(struct vcpu *vcpu, const struct hv_cpuid *host,
		       const struct cpu_table *baseline)
{
	struct hv_kvm *kvm = vcpu->all->kvm;
	cleanup_free struct hv_cpuid *cpuid = xmalloc(sizeof(*cpuid));

	vcpu->fd = ioctl(hv_kvm_vm_fd(kvm), KVM_CREATE_VCPU, vcpu->index);
	if (vcpu->fd < 0)
		return fail(-errno, "kvm: KVM_CREATE_VCPU %u: %s", vcpu->index, strerror(errno));
	void *run = mmap(NULL, hv_kvm_run_bytes(kvm), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd,
			 0);
	if (run == MAP_FAILED)
		return fail(-errno, "kvm: mmap of vcpu %u: %s", vcpu->index, strerror(errno));
	vcpu->run = run;
	hv_cpuid_for(host, cpuid, vcpu->index, vcpu->all->n, vcpu->all->nested);
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0)
		return fail(-errno, "kvm: KVM_SET_CPUID2: %s", strerror(errno));
	vcpu->cpuid = hv_cpuid_copy(cpuid);
	int rc = set_feature_msrs(vcpu, baseline);
	return rc ? rc : set_boot_msrs(vcpu);
}

static int read_host(struct hv_cpuid *host, int kvm_fd, const struct cpu_table *baseline)
{
	int rc = hv_cpuid_read(host, kvm_fd);

	return rc || !baseline ? rc : hv_cpuid_mask(host, baseline);
}

static int start_thread(struct vcpu *vcpu)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	int err = pthread_create(&vcpu->thread, &attr, vcpu_thread, vcpu);
	pthread_attr_destroy(&attr);
	if (err)
		return fail(-err, "vcpu %u: no thread: %s", vcpu->index, strerror(err));
	vcpu->started = true;
	return 0;
}

/* While they stand still: of one that runs, KVM tells between two exits only, in an idle guest late. */
static void read_capabilities(struct hv_vcpus *all)
{
	if (hv_msr_get(all->vcpu[0].fd, HV_MSR_ARCH_CAPABILITIES, &all->capabilities))
		all->capabilities = 0;
}

int hv_vcpus_create(struct hv_vcpus **out, struct hv_kvm *kvm, unsigned cpus,
		    const struct cpu_table *baseline, bool nested, const struct hv_vcpu_ops *ops,
		    void *opaque)
{
	struct sigaction action = {.sa_handler = kicked};
	cleanup_free struct hv_cpuid *host = xmalloc(sizeof(*host));
	int rc = read_host(host, hv_kvm_fd(kvm), baseline);

	if (rc)
		return rc;
	sigaction(KICK_SIGNAL, &action, NULL);
	struct hv_vcpus *all = xcalloc(1, sizeof(*all) + cpus * sizeof(all->vcpu[0]));
	*all = (struct hv_vcpus){.kvm = kvm, .ops = ops, .opaque = opaque, .n = cpus};
	all->nested = nested;
	atomic_init(&all->stop, HV_STOP_PAUSE);
	pthread_mutex_init(&all->lock, NULL);
	pthread_cond_init(&all->changed, NULL);
	for (unsigned i = 0; i < cpus; i++)
		all->vcpu[i] = (struct vcpu){.all = all, .index = i, .fd = -1};
	for (unsigned i = 0; i < cpus && !rc; i++)
		rc = create_vcpu(&all->vcpu[i], host, baseline);
	if (!rc)
		read_capabilities(all);
	for (unsigned i = 0; i < cpus && !rc; i++)
		rc = start_thread(&all->vcpu[i]);
	if (rc) {
		hv_vcpus_destroy(all);
		return rc;
	}
	*out = all;
	return 0;
}

void hv_vcpus_destroy(struct hv_vcpus *vcpus)
{
	if (!vcpus)
		return;
	hv_vcpus_stop(vcpus, HV_STOP_END);
	pthread_mutex_lock(&vcpus->lock);
	vcpus->ending = true;
	pthread_cond_broadcast(&vcpus->changed);
	pthread_mutex_unlock(&vcpus->lock);
	for (unsigned i = 0; i < vcpus->n; i++) {
		struct vcpu *vcpu = &vcpus->vcpu[i];
		if (vcpu->started)
			pthread_join(vcpu->thread, NULL);
		if (vcpu->run)
			munmap(vcpu->run, hv_kvm_run_bytes(vcpus->kvm));
		if (vcpu->fd >= 0)
			close(vcpu->fd);
		free(vcpu->cpuid);
	}
	pthread_cond_destroy(&vcpus->changed);
	pthread_mutex_destroy(&vcpus->lock);
	free(vcpus);
}

/* Of 64 bits or of 32. */
static struct kvm_segment flat(uint16_t selector, bool wide)
{
	return (struct kvm_segment){
		.base = 0,
		.limit = 0xffffffff,
		.selector = selector,
		.type = 3,
		.present = 1,
		.s = 1,
		.l = wide,
		.db = !wide,
		.g = 1,
	};
}

int hv_vcpus_set_entry(struct hv_vcpus *vcpus, const struct hv_entry *entry)
{
	int fd = vcpus->vcpu[0].fd;
	struct kvm_sregs s;
	struct kvm_regs r = {
		.rip = entry->rip,
		.rsi = entry->rsi,
		.rsp = entry->rsp,
		.rflags = 2,
	};

	if (ioctl(fd, KVM_GET_SREGS, &s) < 0)
		return fail(-errno, "kvm: KVM_GET_SREGS: %s", strerror(errno));
	s.cs = flat(0x10, !entry->bits32);
	s.cs.type = 11;
	s.ds = s.es = s.fs = s.gs = s.ss = flat(0x18, false);
	s.gdt.base = entry->gdt_gpa;
	s.gdt.limit = (uint16_t)(entry->gdt_bytes - 1);
	s.cr0 = 0x11; /* ET, PE */
	if (!entry->bits32) {
		s.cr0 |= 0x80000000; /* PG */
		s.cr3 = entry->cr3;
		s.cr4 = 0x20;	/* PAE */
		s.efer = 0x500; /* LMA, LME */
	}
	if (ioctl(fd, KVM_SET_SREGS, &s) < 0)
		return fail(-errno, "kvm: KVM_SET_SREGS: %s", strerror(errno));
	if (ioctl(fd, KVM_SET_REGS, &r) < 0)
		return fail(-errno, "kvm: KVM_SET_REGS: %s", strerror(errno));
	return 0;
}

/* --- tables and saved state -------------------------------------------------------------------- */

int hv_vcpus_offered(int kvm_fd, unsigned cpus, const struct cpu_table *baseline, bool nested,
		     struct cpu_table *out)
{
	cleanup_free struct hv_cpuid *host = xmalloc(sizeof(*host)),
				     *shown = xmalloc(sizeof(*shown));
	int rc = read_host(host, kvm_fd, baseline);
	uint64_t value;

	memset(out, 0, sizeof(*out));
	if (rc)
		return rc;
	hv_cpuid_for(host, shown, 0, cpus, nested);
	rc = hv_cpuid_table(shown, out);
	if (!rc && !hv_msr_get(kvm_fd, HV_MSR_ARCH_CAPABILITIES, &value) && value)
		rc = cpu_table_set_msr(out, HV_MSR_ARCH_CAPABILITIES, value);
	if (!rc && baseline)
		cpu_table_common(out, baseline);
	return rc;
}

int hv_vcpus_table(struct hv_vcpus *vcpus, struct cpu_table *out)
{
	memset(out, 0, sizeof(*out));
	int rc = hv_cpuid_table(vcpus->vcpu[0].cpuid, out);
	if (!rc && vcpus->capabilities)
		rc = cpu_table_set_msr(out, HV_MSR_ARCH_CAPABILITIES, vcpus->capabilities);
	return rc;
}

static struct hv_vcpu_state state_of(const struct vcpu *vcpu)
{
	return (struct hv_vcpu_state){
		.kvm = vcpu->all->kvm,
		.fd = vcpu->fd,
		.index = vcpu->index,
		.cpuid = vcpu->cpuid,
	};
}

int hv_vcpus_can_save(struct hv_vcpus *vcpus)
{
	int rc = 0;

	for (unsigned i = 0; i < vcpus->n && !rc; i++) {
		struct hv_vcpu_state v = state_of(&vcpus->vcpu[i]);
		rc = hv_vcpu_can_save(&v);
	}
	return rc;
}

int hv_vcpus_save(struct hv_vcpus *vcpus, struct hv_state_writer *w)
{
	int rc = 0;

	for (unsigned i = 0; i < vcpus->n && !rc; i++) {
		struct hv_vcpu_state v = state_of(&vcpus->vcpu[i]);
		rc = hv_vcpu_save(&v, w);
	}
	return rc;
}

int hv_vcpus_load(struct hv_vcpus *vcpus, struct hv_state_reader *r, uint64_t elapsed_ns)
{
	cleanup_free struct hv_cpuid *host = xmalloc(sizeof(*host)),
				     *shown = xmalloc(sizeof(*shown));
	int rc = hv_cpuid_read(host, hv_kvm_fd(vcpus->kvm));

	for (unsigned i = 0; i < vcpus->n && !rc; i++) {
		struct hv_vcpu_state v = state_of(&vcpus->vcpu[i]);
		hv_cpuid_for(host, shown, i, vcpus->n, vcpus->nested);
		rc = hv_vcpu_load(&v, r, shown, elapsed_ns);
		vcpus->vcpu[i].cpuid = v.cpuid;
	}
	read_capabilities(vcpus);
	return rc;
}

/* --- the brake --------------------------------------------------------------------------------- */

void hv_vcpus_stop(struct hv_vcpus *vcpus, enum hv_stop reason)
{
	atomic_fetch_or(&vcpus->stop, reason);
	for (unsigned i = 0; i < vcpus->n; i++) {
		struct vcpu *vcpu = &vcpus->vcpu[i];
		if (!vcpu->started)
			continue;
		__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		pthread_kill(vcpu->thread, KICK_SIGNAL);
	}
}

void hv_vcpus_wait(struct hv_vcpus *vcpus)
{
	pthread_mutex_lock(&vcpus->lock);
	while (vcpus->parked < vcpus->n && atomic_load(&vcpus->stop))
		pthread_cond_wait(&vcpus->changed, &vcpus->lock);
	pthread_mutex_unlock(&vcpus->lock);
}

void hv_vcpus_allow(struct hv_vcpus *vcpus, enum hv_stop reason)
{
	pthread_mutex_lock(&vcpus->lock);
	if (!(atomic_load(&vcpus->stop) & HV_STOP_END))
		atomic_fetch_and(&vcpus->stop, ~(unsigned)reason);
	pthread_cond_broadcast(&vcpus->changed);
	pthread_mutex_unlock(&vcpus->lock);
}

unsigned hv_vcpus_stopped(struct hv_vcpus *vcpus)
{
	return atomic_load(&vcpus->stop);
}
