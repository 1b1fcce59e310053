// SPDX-License-Identifier: Apache-2.0
/* State of the in-kernel chips and of the clock. */
#include "hv/chips.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "hv/kvm.h"
#include "hv/state.h"

static const struct {
	const char *name;
	uint32_t instance, chip;
} chips[] = {
	{"pic", 0, KVM_IRQCHIP_PIC_MASTER},
	{"pic", 1, KVM_IRQCHIP_PIC_SLAVE},
	{"ioapic", 0, KVM_IRQCHIP_IOAPIC},
};

static int save_irqchips(int fd, struct hv_state_writer *w)
{
	for (size_t i = 0; i < ARRAY_SIZE(chips); i++) {
		struct kvm_irqchip chip = {.chip_id = chips[i].chip};
		if (ioctl(fd, KVM_GET_IRQCHIP, &chip) < 0)
			return fail(-errno, "kvm: KVM_GET_IRQCHIP: %s", strerror(errno));
		hv_state_begin(w, chips[i].name, chips[i].instance, 1);
		hv_state_put(w, &chip.chip, sizeof(chip.chip));
	}
	return 0;
}

static int load_irqchips(int fd, struct hv_state_reader *r)
{
	for (size_t i = 0; i < ARRAY_SIZE(chips); i++) {
		struct kvm_irqchip chip = {.chip_id = chips[i].chip};
		int rc = hv_state_section(r, chips[i].name, chips[i].instance, 1);
		if (rc < 0)
			return rc;
		hv_state_get(r, &chip.chip, sizeof(chip.chip));
		rc = hv_state_done(r);
		if (rc)
			return rc;
		if (ioctl(fd, KVM_SET_IRQCHIP, &chip) < 0)
			return fail(-EINVAL, "saved state: KVM refuses %s %u: %s", chips[i].name,
				    chips[i].instance, strerror(errno));
	}
	return 0;
}

static int load_pit(int fd, struct hv_state_reader *r)
{
	struct kvm_pit_state2 pit;
	int rc = hv_state_section(r, "pit", 0, 1);

	if (rc < 0)
		return rc;
	hv_state_get(r, &pit, sizeof(pit));
	rc = hv_state_done(r);
	if (!rc && ioctl(fd, KVM_SET_PIT2, &pit) < 0)
		rc = fail(-EINVAL, "saved state: KVM refuses the timer: %s", strerror(errno));
	return rc;
}

static int load_clock(int fd, struct hv_state_reader *r, uint64_t elapsed_ns)
{
	int rc = hv_state_section(r, "clock", 0, 1);

	if (rc < 0)
		return rc;
	struct kvm_clock_data clock = {.clock = hv_state_get64(r)};
	(void)hv_state_get64(r); /* the wall clock there: no two hosts' agree */
	rc = hv_state_done(r);
	if (rc)
		return rc;
	clock.clock += elapsed_ns;
	if (ioctl(fd, KVM_SET_CLOCK, &clock) < 0)
		rc = fail(-EINVAL, "saved state: KVM refuses the clock: %s", strerror(errno));
	return rc;
}

int hv_chips_save(struct hv_kvm *kvm, struct hv_state_writer *w)
{
	int fd = hv_kvm_vm_fd(kvm);
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock = {0};
	int rc = save_irqchips(fd, w);

	if (rc)
		return rc;
	if (ioctl(fd, KVM_GET_PIT2, &pit) < 0)
		return fail(-errno, "kvm: KVM_GET_PIT2: %s", strerror(errno));
	hv_state_begin(w, "pit", 0, 1);
	hv_state_put(w, &pit, sizeof(pit));
	if (ioctl(fd, KVM_GET_CLOCK, &clock) < 0)
		return fail(-errno, "kvm: KVM_GET_CLOCK: %s", strerror(errno));
	hv_state_begin(w, "clock", 0, 1);
	hv_state_put64(w, clock.clock);
	hv_state_put64(w, clock_wall_ns());
	return 0;
}

int hv_chips_load(struct hv_kvm *kvm, struct hv_state_reader *r, uint64_t elapsed_ns)
{
	int fd = hv_kvm_vm_fd(kvm);
	int rc = load_irqchips(fd, r);

	if (!rc)
		rc = load_pit(fd, r);
	return rc ? rc : load_clock(fd, r, elapsed_ns);
}
