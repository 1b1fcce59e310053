// SPDX-License-Identifier: Apache-2.0
/* fault_table.h: what the filter asks the table of faults; private to blockdev. Any thread. */
#ifndef BLOCKDEV_FAULT_TABLE_H
#define BLOCKDEV_FAULT_TABLE_H

#include "base/util.h"
#include "blockdev/fault.h"

/* A filter, as the table knows it. */
struct fault_node {
	struct list link;
	const char *name, *id;
	int (*forget_keys)(struct fault_node *node);
	int (*power_loss)(struct fault_node *node);
	void (*hide)(struct fault_node *node, bool hidden);
};

struct fault_strike {
	unsigned id;
	enum fault_kind kind;
	unsigned value;
	uint64_t random;
};

/* Whether there is any fault at all: one load. */
bool fault_table_any(void);
/* The first fault that strikes a request, if one does. `op` is a FAULT_ bit. */
bool fault_table_strike(const struct fault_node *node, unsigned op, uint64_t offset,
			uint64_t length, struct fault_strike *out);
/* Whether the fault is still in force. */
bool fault_table_stands(unsigned id);
bool fault_table_hides_reservations(const struct fault_node *node);
void fault_table_join(struct fault_node *node);
void fault_table_leave(struct fault_node *node);

#endif
