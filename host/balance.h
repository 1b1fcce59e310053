// SPDX-License-Identifier: Apache-2.0
/*
 * balance.h (private to host): how much memory each VM is to have when the host lacks some. Pure: numbers in,
 * numbers out.
 *
 * Below `low` of available memory VMs give what is missing to `high`, each in proportion to what it has beyond its
 * reservation divided by its shares; never what is reserved. Above `high` they get back, by shares. In between nothing
 * moves. What was asked for and is on its way counts as there, so that no guest is asked twice for the same need.
 */
#ifndef HOST_BALANCE_H
#define HOST_BALANCE_H

#include <stdbool.h>
#include <stdint.h>

struct balance_vm {
	uint64_t memory;   /* what it is to have when there is enough */
	uint64_t reserved; /* at most `memory` */
	uint64_t target;   /* what it is to have now */
	uint64_t used;	   /* of the host */
	unsigned shares;   /* 1 and more */
	bool obeys;	   /* its guest has a driver for its balloon */
	bool asked;	   /* a short while ago: what it has beyond its target comes back soon */
	bool stays;	   /* it can't be saved just now */
	uint64_t want;	   /* out: what it is to have from now on */
};

struct balance_host {
	uint64_t available, low, high; /* bytes */
};

/* Watermarks of a machine with so much memory. */
void balance_marks(uint64_t total, struct balance_host *host);
/* Fills `want` of each. Returns how many bytes to `high` nobody can give; 0 unless it is below `low`. */
uint64_t balance(const struct balance_host *host, struct balance_vm *vm, unsigned n);

/* Of those that can be saved and are not all reserved the one with the least shares, of several the largest; -1: none. */
int balance_last_resort(const struct balance_vm *vm, unsigned n);

#endif
