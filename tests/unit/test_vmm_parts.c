// SPDX-License-Identifier: Apache-2.0
/* Parts of the VMM that need no KVM: guest memory, buses, ACPI tables, console ring, lease. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"
#include "base/vmctl.h"
#include "hv/acpi.h"
#include "hv/bus.h"
#include "hv/console.h"
#include "hv/gmem.h"
#include "hv/lease.h"

#include <cmocka.h>

static int memory(uint64_t bytes, bool sealed)
{
	int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	if (sealed)
		assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
	return fd;
}

static void memory_ends_where_it_ends(void **state)
{
	(void)state;
	struct hv_gmem *g;
	cleanup_fd int fd = memory(4 * GiB, true); /* sparse: 3 GiB low, 1 GiB high */
	const uint64_t hole = VMCTL_HOLE_START, high = VMCTL_HOLE_END;

	assert_int_equal(hv_gmem_create(&g, fd), 0);
	assert_non_null(hv_gmem_at(g, 0, 1));
	assert_non_null(hv_gmem_at(g, hole - 1, 1));
	assert_null(hv_gmem_at(g, hole - 1, 2)); /* though the memfd goes on there */
	assert_null(hv_gmem_at(g, hole, 1));
	assert_null(hv_gmem_at(g, high - 1, 2));
	assert_non_null(hv_gmem_at(g, high, GiB));
	assert_null(hv_gmem_at(g, high, GiB + 1));
	assert_null(hv_gmem_at(g, UINT64_MAX, 2));
	assert_null(hv_gmem_at(g, 16, UINT64_MAX));
	assert_null(hv_gmem_at(g, 0, 0));
	assert_int_equal((uint64_t)hv_gmem_at(g, 0, 1) % (2 * MiB), 0);
	assert_int_equal(hv_gmem_write(g, high, "high", 4), 0);
	char text[4];
	assert_int_equal(pread(fd, text, 4, (off_t)hole), 4);
	assert_memory_equal(text, "high", 4);
	assert_int_equal(hv_gmem_read(g, hole - 2, text, 4), -EFAULT);
	hv_gmem_destroy(g);
}

static void memory_that_could_shrink_is_refused(void **state)
{
	(void)state;
	struct hv_gmem *g;
	cleanup_fd int open_fd = memory(2 * MiB, false), odd = memory(3 * MiB, true);

	assert_int_equal(hv_gmem_create(&g, open_fd), -EINVAL);
	assert_int_equal(hv_gmem_create(&g, odd), -EINVAL);
}

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t s = 0;

	for (size_t i = 0; i < n; i++)
		s += p[i];
	return s;
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static const uint8_t *table(struct hv_gmem *g, uint64_t gpa, const char *signature)
{
	const uint8_t *t = hv_gmem_at(g, gpa, 36);

	assert_non_null(t);
	assert_memory_equal(t, signature, 4);
	assert_int_equal(sum(t, get32(t + 4)), 0);
	return t;
}

static void acpi_tables_lead_to_each_other(void **state)
{
	(void)state;
	struct hv_gmem *g;
	cleanup_fd int fd = memory(2 * MiB, true);

	assert_int_equal(hv_gmem_create(&g, fd), 0);
	cleanup_free struct hv_acpi *acpi = xmalloc(sizeof(*acpi));
	hv_acpi_build(acpi, VMCTL_CPUS_MAX, true);
	assert_int_equal(hv_acpi_write(g, acpi), 0);
	const uint8_t *rsdp = hv_gmem_at(g, HV_ACPI_GPA, 36);
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, 36), 0);
	const uint8_t *xsdt = table(g, get32(rsdp + 24), "XSDT");
	assert_int_equal(get32(xsdt + 4), 36 + 3 * 8);
	const uint8_t *fadt = table(g, get32(xsdt + 36), "FACP");
	const uint8_t *dsdt = table(g, get32(fadt + 40), "DSDT");
	assert_int_equal(get32(fadt + 140), get32(fadt + 40)); /* X_DSDT is the same */
	/* The bytecode begins right behind the head: Scope(\_SB), and all of it is there. */
	assert_int_equal(dsdt[36], 0x10);
	assert_memory_equal(dsdt + 39, "\\_SB_", 5);
	size_t scope = (dsdt[37] & 0xf) | (size_t)dsdt[38] << 4;
	const uint8_t *s5 = dsdt + 37 + scope;
	assert_memory_equal(s5, "\x08_S5_\x12", 6);
	assert_int_equal(s5 + 6 + ((s5[6] & 0xf) | s5[7] << 4) - dsdt, get32(dsdt + 4));
	const uint8_t *madt = table(g, get32(xsdt + 44), "APIC");
	assert_int_equal(get32(madt + 4), 44 + 8 * VMCTL_CPUS_MAX + 12 + 10 + 10 + 6);
	const uint8_t *wdat = table(g, get32(xsdt + 52), "WDAT");
	assert_int_equal(get32(wdat + 4), 68 + 9 * 24);
	assert_int_equal(get32(wdat + 64), 9);
	hv_gmem_destroy(g);
}

static uint64_t reg_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)size;
	return *(uint64_t *)opaque + offset;
}

static void reg_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	(void)size;
	*(uint64_t *)opaque = value + offset;
}

static void buses_find_and_forget_regions(void **state)
{
	(void)state;
	static const struct hv_region_ops ops = {.read = reg_read, .write = reg_write};
	uint64_t a = 0x10, b = 0x20;
	struct hv_region ra = {.ops = &ops, .opaque = &a}, rb = {.ops = &ops, .opaque = &b};
	struct hv_bus bus;

	hv_bus_init(&bus);
	assert_int_equal(hv_bus_read(&bus, 0x100, 2), 0xffff);
	hv_bus_map(&bus, &ra, 0x100, 8);
	hv_bus_map(&bus, &rb, 0x104, 1);
	assert_int_equal(hv_bus_read(&bus, 0x103, 1), 0x13);
	assert_int_equal(hv_bus_read(&bus, 0x104, 1), 0x20); /* the newer one */
	assert_int_equal(hv_bus_read(&bus, 0x104, 2), 0x14); /* does not fit into it */
	assert_int_equal(hv_bus_read(&bus, 0x106, 4), 0xffffffff);
	assert_int_equal(hv_bus_read(&bus, UINT64_MAX, 8), UINT64_MAX);
	hv_bus_write(&bus, 0x104, 1, 0x40);
	assert_int_equal(b, 0x40);
	hv_bus_unmap(&rb);
	hv_bus_unmap(&rb);
	assert_int_equal(hv_bus_read(&bus, 0x104, 1), 0x14);
}

static void console_keeps_the_newest(void **state)
{
	(void)state;
	struct hv_console *c = xcalloc(1, sizeof(*c));
	uint8_t byte;

	for (unsigned i = 0; i < VMCTL_CONSOLE_KEPT + 3; i++)
		hv_console_put(c, (uint8_t)i);
	assert_int_equal(c->lost, 3);
	for (unsigned i = 3; i < VMCTL_CONSOLE_KEPT + 3; i++) {
		assert_int_equal(hv_console_take(c, &byte, 1), 1);
		assert_int_equal(byte, (uint8_t)i);
	}
	assert_int_equal(hv_console_take(c, &byte, 1), 0);
	free(c);
}

static void count(void *opaque)
{
	__atomic_fetch_add((int *)opaque, 1, __ATOMIC_SEQ_CST);
}

static void lease_is_told_once_and_again_after_a_renewal(void **state)
{
	(void)state;
	cleanup_fd int fd = memfd_create("lease", MFD_CLOEXEC);
	struct hv_lease *lease;
	int ended = 0;

	assert_int_equal(ftruncate(fd, VMCTL_LEASE_BYTES), 0);
	uint64_t *end = mmap(NULL, VMCTL_LEASE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(end, MAP_FAILED);
	*end = VMCTL_LEASE_NONE;
	assert_int_equal(hv_lease_create(&lease, fd, count, &ended), 0);
	assert_int_equal(hv_lease_watch(lease), 0);
	sleep_ms(150);
	assert_true(hv_lease_runs(lease));
	assert_int_equal(__atomic_load_n(&ended, __ATOMIC_SEQ_CST), 0);
	for (int round = 1; round <= 2; round++) {
		__atomic_store_n(end, clock_boot_ns() + 30 * NS_PER_MS, __ATOMIC_SEQ_CST);
		assert_true(hv_lease_runs(lease));
		sleep_ms(400);
		assert_false(hv_lease_runs(lease));
		assert_int_equal(__atomic_load_n(&ended, __ATOMIC_SEQ_CST), round);
		__atomic_store_n(end, VMCTL_LEASE_NONE, __ATOMIC_SEQ_CST);
		sleep_ms(200);
	}
	hv_lease_destroy(lease);
	munmap(end, VMCTL_LEASE_BYTES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_ends_where_it_ends),
		cmocka_unit_test(memory_that_could_shrink_is_refused),
		cmocka_unit_test(acpi_tables_lead_to_each_other),
		cmocka_unit_test(buses_find_and_forget_regions),
		cmocka_unit_test(console_keeps_the_newest),
		cmocka_unit_test(lease_is_told_once_and_again_after_a_renewal),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
