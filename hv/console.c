// SPDX-License-Identifier: Apache-2.0
#include "hv/console.h"

#include "base/util.h"

void hv_console_put(struct hv_console *c, uint8_t byte)
{
	c->ring[(c->head + c->n) % sizeof(c->ring)] = byte;
	if (c->n < sizeof(c->ring)) {
		c->n++;
		return;
	}
	c->head = (c->head + 1) % sizeof(c->ring);
	c->lost++;
}

size_t hv_console_take(struct hv_console *c, uint8_t *dst, size_t max)
{
	size_t n = MIN(max, c->n);

	for (size_t i = 0; i < n; i++)
		dst[i] = c->ring[(c->head + i) % sizeof(c->ring)];
	c->head = (c->head + n) % sizeof(c->ring);
	c->n -= n;
	return n;
}
