// SPDX-License-Identifier: Apache-2.0
/* The panic notifier. */
#include "hv/pvpanic.h"

#include <stdlib.h>

#include "base/util.h"
#include "hv/pci.h"
#include "hv/state.h"

#define PANICKED 1

struct hv_pvpanic {
	struct hv_pci_function function;
	void (*panicked)(void *opaque);
	void *opaque;
};

static uint64_t panic_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)opaque;
	(void)size;
	return offset == 0 ? PANICKED : 0;
}

static void panic_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct hv_pvpanic *p = opaque;

	(void)size;
	if (offset == 0 && value & PANICKED)
		p->panicked(p->opaque);
}

static const struct hv_region_ops panic_ops = {.read = panic_read, .write = panic_write};

void hv_pvpanic_create(struct hv_pvpanic **out, struct hv_pci *pci, unsigned slot,
		       void (*panicked)(void *opaque), void *opaque)
{
	static const struct hv_pci_identity id = {
		.vendor = 0x1b36,
		.device = 0x0011,
		.subsystem_vendor = 0x1af4,
		.subsystem = 0x1100,
		.class_code = 0x088000, /* system peripheral, other */
		.revision = 1,
	};
	struct hv_pvpanic *p = xcalloc(1, sizeof(*p));

	p->panicked = panicked;
	p->opaque = opaque;
	hv_pci_function_init(&p->function, &id);
	p->function.bars[0] = (struct hv_pci_bar){.bytes = 4096,
						  .region = {.ops = &panic_ops, .opaque = p}};
	hv_pci_add(pci, &p->function, slot);
	*out = p;
}

void hv_pvpanic_destroy(struct hv_pvpanic *p)
{
	if (!p)
		return;
	hv_pci_remove(&p->function);
	free(p);
}

void hv_pvpanic_save(const struct hv_pvpanic *p, struct hv_state_writer *w)
{
	hv_state_begin(w, "pvpanic", 0, 1);
	hv_pci_function_save(&p->function, w);
}

int hv_pvpanic_load(struct hv_pvpanic *p, struct hv_state_reader *r)
{
	int rc = hv_state_section(r, "pvpanic", 0, 1);

	if (rc < 0)
		return rc;
	rc = hv_pci_function_load(&p->function, r);
	return rc ? rc : hv_state_done(r);
}
