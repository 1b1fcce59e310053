// SPDX-License-Identifier: Apache-2.0
/*
 * A processor's state. Saved in this order: KVM_GET_MP_STATE first, because it takes in events that
 * change registers; the events themselves last. Loaded in this order:
 *
 *	CPUID        before all that KVM checks against it
 *	MP_STATE
 *	REGS         drops pending exceptions, so before VCPU_EVENTS
 *	SREGS        sets the APIC's base, so before LAPIC
 *	XSAVE, XCRS, DEBUGREGS
 *	LAPIC        before MSRs: TSC_DEADLINE arms the APIC's timer
 *	TSC_KHZ      before the counter
 *	MSRs         TSC first, TSC_DEADLINE last
 *	VCPU_EVENTS
 */
#include "hv/vcpu_state.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "hv/cpuid.h"
#include "hv/kvm.h"
#include "hv/msrs.h"
#include "hv/state.h"

#define EFER_SVME	  (1u << 12)
#define XSAVE_MIN	  4096
#define XSAVE_MAX	  (64 * KiB)
#define LVT_TIMER	  0x320 /* in the APIC's page */
#define LVT_MASKED	  (1u << 16)
#define LVT_MODE	  (3u << 17)
#define LVT_MODE_DEADLINE (2u << 17)
#define TSC_TOLERANCE_PPM 250	/* frequencies nearer than this are the same */
#define TSC_UNSCALED_PPM  20000 /* the most that a guest has to bear where KVM cannot scale */

/* What KVM keeps as one fixed structure, in the order of saving. */
struct parts {
	struct kvm_mp_state mp_state;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
};

#define PART(part, get, set)                                                                     \
	{                                                                                        \
#part, offsetof(struct parts, part), sizeof(((struct parts *)0)->part), get, set \
	}
enum { MP_STATE, REGS, SREGS, XCRS, DEBUGREGS, LAPIC, EVENTS };
static const struct {
	const char *name;
	size_t at, bytes;
	unsigned long get, set;
} fixed[] = {
	[MP_STATE] = PART(mp_state, KVM_GET_MP_STATE, KVM_SET_MP_STATE),
	[REGS] = PART(regs, KVM_GET_REGS, KVM_SET_REGS),
	[SREGS] = PART(sregs, KVM_GET_SREGS, KVM_SET_SREGS),
	[XCRS] = PART(xcrs, KVM_GET_XCRS, KVM_SET_XCRS),
	[DEBUGREGS] = PART(debugregs, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS),
	[LAPIC] = PART(lapic, KVM_GET_LAPIC, KVM_SET_LAPIC),
	[EVENTS] = PART(events, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS),
};

static int get_part(const struct hv_vcpu_state *v, struct parts *p, unsigned part)
{
	if (ioctl(v->fd, fixed[part].get, (char *)p + fixed[part].at) < 0)
		return fail(-errno, "kvm: vcpu %u: cannot read %s: %s", v->index, fixed[part].name,
			    strerror(errno));
	return 0;
}

static int set_part(const struct hv_vcpu_state *v, struct parts *p, unsigned part)
{
	if (ioctl(v->fd, fixed[part].set, (char *)p + fixed[part].at) < 0)
		return fail(-EINVAL, "saved state: vcpu %u: KVM refuses %s: %s", v->index,
			    fixed[part].name, strerror(errno));
	return 0;
}

static unsigned xsave_bytes(const struct hv_vcpu_state *v)
{
	int n = ioctl(hv_kvm_vm_fd(v->kvm), KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

	return (unsigned)MIN(MAX(n, XSAVE_MIN), (int)XSAVE_MAX);
}

/*
 * A guest that has guests of its own is not moved. On AMD Linux says that it must not be once it has
 * started one (Documentation/virt/kvm/x86/running-nested-guests.rst); elsewhere their state is in none
 * of our sections. A Linux guest switches SVM or VMX on with its first guest, and off with the last.
 */
int hv_vcpu_can_save(const struct hv_vcpu_state *v)
{
	int n = ioctl(hv_kvm_vm_fd(v->kvm), KVM_CHECK_EXTENSION, KVM_CAP_NESTED_STATE);
	struct kvm_sregs sregs;

	if (n < (int)sizeof(struct kvm_nested_state))
		return 0;
	cleanup_free struct kvm_nested_state *nested = xcalloc(1, (size_t)n);
	nested->size = (uint32_t)n;
	if (ioctl(v->fd, KVM_GET_NESTED_STATE, nested) < 0 ||
	    ioctl(v->fd, KVM_GET_SREGS, &sregs) < 0)
		return fail(-errno, "kvm: vcpu %u: its nested state: %s", v->index,
			    strerror(errno));
	if (nested->flags & KVM_STATE_NESTED_GUEST_MODE || sregs.efer & EFER_SVME ||
	    (nested->format == KVM_STATE_NESTED_FORMAT_VMX &&
	     nested->hdr.vmx.vmxon_pa != UINT64_MAX))
		return fail(-EBUSY,
			    "vcpu %u: the guest runs virtual machines of its own, which cannot be "
			    "moved or saved with it%s; stop them first, or stop the vm and start "
			    "it elsewhere",
			    v->index,
			    nested->format == KVM_STATE_NESTED_FORMAT_SVM
				    ? " (on AMD no Linux kernel can do that safely)"
				    : "");
	return 0;
}

/* --- saving ------------------------------------------------------------------------------------ */

/* As they were set; not every KVM tells them again as it was told (KVM_GET_CPUID2). */
static void save_cpuid(const struct hv_vcpu_state *v, struct hv_state_writer *w)
{
	hv_state_put32(w, v->cpuid->nent);
	hv_state_put(w, v->cpuid->entries, v->cpuid->nent * sizeof(v->cpuid->entries[0]));
}

static int save_xsave(const struct hv_vcpu_state *v, struct hv_state_writer *w)
{
	unsigned n = xsave_bytes(v);
	cleanup_free void *area = xcalloc(1, n);

	if (ioctl(v->fd, n > XSAVE_MIN ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, area) < 0)
		return fail(-errno, "kvm: vcpu %u: cannot read xsave: %s", v->index,
			    strerror(errno));
	hv_state_put32(w, n);
	hv_state_put(w, area, n);
	return 0;
}

/*
 * A deadline of 0 is one that is off, or one that has just passed and whose interrupt may be on its
 * way; nobody can tell. So it passes now: an interrupt too many, which every kernel looks through.
 */
static uint64_t saved_deadline(const struct parts *p, uint64_t deadline, uint64_t tsc)
{
	uint32_t lvt;

	memcpy(&lvt, p->lapic.regs + LVT_TIMER, sizeof(lvt));
	if (deadline || lvt & LVT_MASKED || (lvt & LVT_MODE) != LVT_MODE_DEADLINE)
		return deadline;
	return tsc;
}

static int save_msrs(const struct hv_vcpu_state *v, const struct parts *p,
		     struct hv_state_writer *w)
{
	cleanup_free struct hv_msrs *list = xmalloc(sizeof(*list));
	cleanup_free struct kvm_msr_entry *e = xcalloc(HV_MSRS_MAX, sizeof(*e));
	int rc = hv_msrs_list(list, hv_kvm_fd(v->kvm));
	uint64_t tsc = 0;
	uint32_t n = 0;

	if (rc)
		return rc;
	for (unsigned i = 0; i < list->n; i++) {
		uint64_t value;
		/* One that this guest's processor has not is in the list all the same. */
		if (hv_msr_get(v->fd, list->index[i], &value))
			continue;
		if (list->index[i] == HV_MSR_TSC)
			tsc = value;
		if (list->index[i] == HV_MSR_TSC_DEADLINE)
			value = saved_deadline(p, value, tsc);
		e[n++] = (struct kvm_msr_entry){.index = list->index[i], .data = value};
	}
	hv_state_put32(w, n);
	for (uint32_t i = 0; i < n; i++) {
		hv_state_put32(w, e[i].index);
		hv_state_put64(w, e[i].data);
	}
	return 0;
}

int hv_vcpu_save(const struct hv_vcpu_state *v, struct hv_state_writer *w)
{
	cleanup_free struct parts *p = xcalloc(1, sizeof(*p));
	int rc = hv_vcpu_can_save(v);

	for (unsigned i = MP_STATE; i <= LAPIC && !rc; i++)
		rc = get_part(v, p, i);
	if (rc)
		return rc;
	hv_state_begin(w, "vcpu", v->index, 1);
	save_cpuid(v, w);
	rc = save_xsave(v, w);
	if (!rc) {
		int khz = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);
		hv_state_put32(w, khz > 0 ? (uint32_t)khz : 0);
		rc = save_msrs(v, p, w);
	}
	if (!rc)
		rc = get_part(v, p, EVENTS);
	if (!rc)
		hv_state_put(w, p, sizeof(*p));
	return rc;
}

/* --- loading ----------------------------------------------------------------------------------- */

static int load_cpuid(struct hv_vcpu_state *v, struct hv_state_reader *r,
		      const struct hv_cpuid *host)
{
	cleanup_free struct hv_cpuid *cpuid = xcalloc(1, sizeof(*cpuid));
	cleanup_free struct cpu_table *need = xcalloc(1, sizeof(*need));
	cleanup_free struct cpu_table *have = xcalloc(1, sizeof(*have));

	cpuid->nent = hv_state_get32(r);
	if (cpuid->nent > HV_CPUID_MAX)
		return hv_state_refuse(r, "more CPUID leaves than there are");
	hv_state_get(r, cpuid->entries, cpuid->nent * sizeof(cpuid->entries[0]));
	if (r->bad)
		return hv_state_done(r);
	int rc = hv_cpuid_table(cpuid, need);
	if (!rc)
		rc = hv_cpuid_table(host, have);
	if (!rc)
		rc = cpu_table_check(need, have);
	if (!rc && ioctl(v->fd, KVM_SET_CPUID2, cpuid) < 0)
		rc = fail(-EINVAL, "saved state: vcpu %u: KVM refuses cpuid: %s", v->index,
			  strerror(errno));
	if (rc)
		return rc;
	free(v->cpuid);
	v->cpuid = hv_cpuid_copy(cpuid);
	return 0;
}

/* Loaded later, in its place in the order. NULL: none that fits. */
static uint8_t *read_xsave(const struct hv_vcpu_state *v, struct hv_state_reader *r)
{
	uint32_t n = hv_state_get32(r), here = xsave_bytes(v);

	if (n < XSAVE_MIN || n > here) {
		hv_state_refuse(r, "its xsave area has no room here");
		return NULL;
	}
	uint8_t *area = xcalloc(1, here);
	hv_state_get(r, area, n);
	return area;
}

/* The counter's frequency, where it is another one here. */
static int load_tsc_khz(const struct hv_vcpu_state *v, uint32_t khz)
{
	int here = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);

	if (!khz || here <= 0)
		return 0;
	uint64_t apart = (uint64_t)llabs((int64_t)khz - here) * 1000000 / (uint32_t)here;
	if (apart <= TSC_TOLERANCE_PPM)
		return 0;
	if (ioctl(hv_kvm_fd(v->kvm), KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0 &&
	    ioctl(v->fd, KVM_SET_TSC_KHZ, (unsigned long)khz) == 0)
		return 0;
	if (apart > TSC_UNSCALED_PPM)
		return fail(-ENOTSUP,
			    "processor: its clock runs at %d kHz, the guest's at %u, and it cannot "
			    "scale",
			    here, khz);
	log_warn("vcpu", "the guest's TSC ran at %u kHz, this host's runs at %d", khz, here);
	return 0;
}

static uint64_t ticks(uint32_t khz, uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * khz / NS_PER_MS);
}

/* KVM may refuse to have written what it has anyway; what a guest never used is no loss either. */
static int load_msr(const struct hv_vcpu_state *v, uint32_t index, uint64_t value)
{
	uint64_t now;

	if (!hv_msr_set(v->fd, index, value) || !value)
		return 0;
	if (!hv_msr_get(v->fd, index, &now) && now == value)
		return 0;
	return fail(-EINVAL, "saved state: vcpu %u: KVM refuses %#llx in msr %#x", v->index,
		    (unsigned long long)value, index);
}

struct saved_msrs {
	uint32_t n;
	struct {
		uint32_t index;
		uint64_t value;
	} msr[HV_MSRS_MAX];
};

static int read_msrs(struct hv_state_reader *r, struct saved_msrs *m)
{
	m->n = hv_state_get32(r);
	if (m->n > HV_MSRS_MAX)
		return hv_state_refuse(r, "more MSRs than there are");
	for (uint32_t i = 0; i < m->n; i++) {
		m->msr[i].index = hv_state_get32(r);
		m->msr[i].value = hv_state_get64(r);
		if (!r->bad && !hv_msrs_known(m->msr[i].index))
			return hv_state_refuse(r, "an MSR that is no state of a guest");
	}
	return 0;
}

static int load_msrs(const struct hv_vcpu_state *v, const struct saved_msrs *m, uint64_t tsc_ticks)
{
	int rc = 0;

	for (uint32_t i = 0; i < m->n && !rc; i++) {
		uint64_t value = m->msr[i].value;
		if (m->msr[i].index == HV_MSR_TSC)
			value += tsc_ticks;
		rc = load_msr(v, m->msr[i].index, value);
	}
	return rc;
}

static int load_parts(const struct hv_vcpu_state *v, struct parts *p, void *xsave)
{
	int rc = set_part(v, p, MP_STATE);

	if (!rc)
		rc = set_part(v, p, REGS);
	if (!rc)
		rc = set_part(v, p, SREGS);
	if (!rc && ioctl(v->fd, KVM_SET_XSAVE, xsave) < 0)
		rc = fail(-EINVAL, "saved state: vcpu %u: KVM refuses xsave: %s", v->index,
			  strerror(errno));
	if (!rc && p->xcrs.nr_xcrs)
		rc = set_part(v, p, XCRS);
	if (!rc)
		rc = set_part(v, p, DEBUGREGS);
	return rc ? rc : set_part(v, p, LAPIC);
}

int hv_vcpu_load(struct hv_vcpu_state *v, struct hv_state_reader *r, const struct hv_cpuid *host,
		 uint64_t elapsed_ns)
{
	cleanup_free struct parts *p = xcalloc(1, sizeof(*p));
	cleanup_free struct saved_msrs *msrs = xcalloc(1, sizeof(*msrs));
	cleanup_free uint8_t *xsave = NULL;
	int rc = hv_state_section(r, "vcpu", v->index, 1);

	if (rc < 0)
		return rc;
	rc = load_cpuid(v, r, host);
	if (rc)
		return rc;
	xsave = read_xsave(v, r);
	if (!xsave)
		return -EINVAL;
	uint32_t khz = hv_state_get32(r);
	rc = read_msrs(r, msrs);
	hv_state_get(r, p, sizeof(*p));
	if (!rc)
		rc = hv_state_done(r);
	if (!rc)
		rc = load_parts(v, p, xsave);
	if (!rc)
		rc = load_tsc_khz(v, khz);
	if (!rc)
		rc = load_msrs(v, msrs, ticks(khz, elapsed_ns));
	return rc ? rc : set_part(v, p, EVENTS);
}
