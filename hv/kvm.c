// SPDX-License-Identifier: Apache-2.0
/*
 * The kernel's side of a machine. All interrupt chips live in the kernel (LAPIC, IOAPIC, 8259, PIT):
 * an interrupt from a back-end reaches the guest without waking this process.
 */
#include "hv/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "base/vmctl.h"
#include "hv/gmem.h"

#define GSI_LINES    24	  /* IOAPIC pins: what lies above is for MSI */
#define GSI_MAX	     1024 /* more than 24 devices of 18 vectors take; KVM has 4096 */
#define ROM_SLOT     8	  /* above those of the banks */
#define IDENTITY_MAP 0xfffbc000ULL
#define TSS_ADDRESS  0xfffbd000ULL

struct hv_kvm {
	int kvm_fd, vm_fd;
	unsigned run_bytes;
	unsigned gsi_used; /* first GSI not given out */
	/* Index is the GSI; kvm wants the whole table at each change. */
	struct {
		bool set;
		uint64_t address;
		uint32_t data;
	} msi[GSI_MAX];
};

static const struct {
	int cap;
	const char *name;
} needed[] = {
	{KVM_CAP_IRQCHIP, "an in-kernel interrupt controller"},
	{KVM_CAP_USER_MEMORY, "user memory"},
	{KVM_CAP_PIT2, "an in-kernel timer"},
	{KVM_CAP_IRQ_ROUTING, "interrupt routing"},
	{KVM_CAP_IRQFD, "irqfd"},
	{KVM_CAP_IOEVENTFD, "ioeventfd"},
	{KVM_CAP_EXT_CPUID, "CPUID"},
	{KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
};

static int check(int kvm_fd)
{
	int version = ioctl(kvm_fd, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_VERSION)
		return fail(-ENOTSUP, "kvm: API version %d, %d is needed", version,
			    KVM_API_VERSION);
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
		if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
			return fail(-ENOTSUP, "kvm: this kernel's KVM has no %s", needed[i].name);
	}
	return 0;
}

/* What KVM sets up by itself, and what KVM_SET_GSI_ROUTING would otherwise forget. */
static unsigned line_routes(struct kvm_irq_routing_entry *e)
{
	unsigned n = 0;

	for (unsigned i = 0; i < 16; i++)
		e[n++] = (struct kvm_irq_routing_entry){
			.gsi = i,
			.type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = {.irqchip = i < 8 ? KVM_IRQCHIP_PIC_MASTER
						       : KVM_IRQCHIP_PIC_SLAVE,
				      .pin = i % 8},
		};
	/* The timer, IRQ 0, is wired to the IOAPIC's pin 2; the MADT says so. */
	for (unsigned i = 0; i < GSI_LINES; i++) {
		if (i == 2)
			continue;
		e[n++] = (struct kvm_irq_routing_entry){
			.gsi = i,
			.type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = {.irqchip = KVM_IRQCHIP_IOAPIC, .pin = i ? i : 2},
		};
	}
	return n;
}

static int set_routes(struct hv_kvm *kvm)
{
	cleanup_free struct kvm_irq_routing *r = xcalloc(
		1, sizeof(*r) + (16 + GSI_LINES + GSI_MAX) * sizeof(struct kvm_irq_routing_entry));
	unsigned n = line_routes(r->entries);

	for (unsigned gsi = GSI_LINES; gsi < kvm->gsi_used; gsi++) {
		if (!kvm->msi[gsi].set)
			continue;
		r->entries[n++] = (struct kvm_irq_routing_entry){
			.gsi = gsi,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = {.address_lo = (uint32_t)kvm->msi[gsi].address,
				  .address_hi = (uint32_t)(kvm->msi[gsi].address >> 32),
				  .data = kvm->msi[gsi].data},
		};
	}
	r->nr = n;
	if (ioctl(kvm->vm_fd, KVM_SET_GSI_ROUTING, r) < 0)
		return fail(-errno, "kvm: KVM_SET_GSI_ROUTING: %s", strerror(errno));
	return 0;
}

static int set_memory(struct hv_kvm *kvm, const struct hv_gmem *gmem, uint32_t flags)
{
	const struct guest_mem *banks = hv_gmem_banks(gmem);

	for (unsigned i = 0; i < banks->count; i++) {
		struct kvm_userspace_memory_region r = {
			.slot = i,
			.flags = flags,
			.guest_phys_addr = banks->region[i].gpa,
			.memory_size = banks->region[i].size,
			.userspace_addr = (uintptr_t)banks->region[i].host,
		};
		if (ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &r) < 0)
			return fail(-errno, "kvm: KVM_SET_USER_MEMORY_REGION: %s", strerror(errno));
	}
	return 0;
}

int hv_kvm_map_rom(struct hv_kvm *kvm, const struct hv_gmem *gmem, uint64_t from, uint64_t bytes)
{
	const void *host = hv_gmem_at(gmem, from, bytes);
	struct kvm_userspace_memory_region r = {
		.slot = ROM_SLOT,
		.flags = KVM_MEM_READONLY,
		.guest_phys_addr = (1ULL << 32) - bytes,
		.memory_size = bytes,
		.userspace_addr = (uintptr_t)host,
	};

	if (!host)
		return fail(-EINVAL, "kvm: the firmware lies outside of guest memory");
	if (ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_READONLY_MEM) <= 0)
		return fail(-ENOTSUP, "kvm: this kernel's KVM has no read-only memory, which "
				      "firmware needs; boot a kernel directly");
	if (ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &r) < 0)
		return fail(-errno, "kvm: no place for the firmware: %s", strerror(errno));
	return 0;
}

static int create_chips(struct hv_kvm *kvm)
{
	uint64_t identity = IDENTITY_MAP;
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};

	/* Two pages that VMX needs somewhere in the guest's addresses, above all devices. */
	ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, TSS_ADDRESS);
	if (ioctl(kvm->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return fail(-errno, "kvm: KVM_CREATE_IRQCHIP: %s", strerror(errno));
	if (ioctl(kvm->vm_fd, KVM_CREATE_PIT2, &pit) < 0)
		return fail(-errno, "kvm: KVM_CREATE_PIT2: %s", strerror(errno));
	return set_routes(kvm);
}

int hv_kvm_create(struct hv_kvm **out, int kvm_fd, const struct hv_gmem *gmem)
{
	int rc = check(kvm_fd);

	if (rc)
		return rc;
	struct hv_kvm *kvm = xcalloc(1, sizeof(*kvm));
	kvm->kvm_fd = kvm_fd;
	kvm->gsi_used = GSI_LINES;
	kvm->vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (kvm->vm_fd < 0) {
		rc = fail(-errno, "kvm: KVM_CREATE_VM: %s", strerror(errno));
		free(kvm);
		return rc;
	}
	kvm->run_bytes = (unsigned)ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	rc = set_memory(kvm, gmem, 0);
	if (!rc)
		rc = create_chips(kvm);
	if (rc) {
		hv_kvm_destroy(kvm);
		return rc;
	}
	*out = kvm;
	return 0;
}

void hv_kvm_destroy(struct hv_kvm *kvm)
{
	if (!kvm)
		return;
	close(kvm->vm_fd);
	free(kvm);
}

int hv_kvm_fd(const struct hv_kvm *kvm)
{
	return kvm->kvm_fd;
}

int hv_kvm_vm_fd(const struct hv_kvm *kvm)
{
	return kvm->vm_fd;
}

unsigned hv_kvm_run_bytes(const struct hv_kvm *kvm)
{
	return kvm->run_bytes;
}

void hv_kvm_irq_line(struct hv_kvm *kvm, unsigned gsi, bool level)
{
	struct kvm_irq_level line = {.irq = gsi, .level = level};

	MUST(gsi < GSI_LINES);
	ioctl(kvm->vm_fd, KVM_IRQ_LINE, &line);
}

int hv_kvm_gsi_alloc(struct hv_kvm *kvm)
{
	if (kvm->gsi_used == GSI_MAX)
		return fail(-ENOSPC, "kvm: no interrupt route is left; give the vm fewer queues");
	return (int)kvm->gsi_used++;
}

int hv_kvm_msi_route(struct hv_kvm *kvm, unsigned gsi, uint64_t address, uint32_t data)
{
	MUST(gsi >= GSI_LINES && gsi < kvm->gsi_used);
	if (kvm->msi[gsi].set && kvm->msi[gsi].address == address && kvm->msi[gsi].data == data)
		return 0;
	kvm->msi[gsi].set = true;
	kvm->msi[gsi].address = address;
	kvm->msi[gsi].data = data;
	return set_routes(kvm);
}

int hv_kvm_irqfd(struct hv_kvm *kvm, int fd, unsigned gsi, bool on)
{
	struct kvm_irqfd irqfd = {
		.fd = (uint32_t)fd,
		.gsi = gsi,
		.flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
	};

	if (ioctl(kvm->vm_fd, KVM_IRQFD, &irqfd) < 0)
		return fail(-errno, "kvm: KVM_IRQFD: %s", strerror(errno));
	return 0;
}

int hv_kvm_ioeventfd(struct hv_kvm *kvm, int fd, bool pio, uint64_t address, int match, bool on)
{
	struct kvm_ioeventfd io = {
		.datamatch = match < 0 ? 0 : (uint64_t)match,
		.addr = address,
		.len = 2,
		.fd = fd,
		.flags = (pio ? KVM_IOEVENTFD_FLAG_PIO : 0) |
			 (match >= 0 ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
			 (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};

	if (ioctl(kvm->vm_fd, KVM_IOEVENTFD, &io) < 0)
		return fail(-errno, "kvm: KVM_IOEVENTFD at %#llx: %s", (unsigned long long)address,
			    strerror(errno));
	return 0;
}

/* --- the log of written pages ------------------------------------------------------------------ */

int hv_kvm_log(struct hv_kvm *kvm, const struct hv_gmem *gmem, bool on)
{
	return set_memory(kvm, gmem, on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
}

/*
 * Taking it clears it, pages that were in it are protected anew. To clear it by a call of its own (manual protect)
 * would need KVM_ENABLE_CAP, whose argument no filter sees, and all of it is cleared at once here anyway.
 */
static int sync_slot(struct hv_kvm *kvm, struct hv_gmem *gmem, unsigned slot, uint64_t offset,
		     uint64_t bytes)
{
	uint64_t words = bytes / VMCTL_LOG_PAGE / 64;
	cleanup_free uint64_t *bitmap = xcalloc(words, sizeof(*bitmap));
	struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bitmap};

	if (ioctl(kvm->vm_fd, KVM_GET_DIRTY_LOG, &log) < 0)
		return fail(-errno, "kvm: KVM_GET_DIRTY_LOG: %s", strerror(errno));
	hv_gmem_dirty_words(gmem, offset, bitmap, words);
	return 0;
}

int hv_kvm_log_sync(struct hv_kvm *kvm, struct hv_gmem *gmem)
{
	const struct guest_mem *banks = hv_gmem_banks(gmem);
	uint64_t offset = 0;
	int rc = 0;

	for (unsigned i = 0; i < banks->count && !rc; i++) {
		rc = sync_slot(kvm, gmem, i, offset, banks->region[i].size);
		offset += banks->region[i].size;
	}
	return rc;
}
