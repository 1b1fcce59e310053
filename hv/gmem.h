// SPDX-License-Identifier: Apache-2.0
/*
 * gmem.h: the guest's memory, and the one way to touch it.
 *
 * A memfd of the daemon's (sealed, INV-HV-1), mapped once, shared, aligned to 2 MiB, with huge
 * pages advised and left out of core dumps (INV-HV-2). Guest addresses come from the guest: each
 * use goes through hv_gmem_at(), which answers NULL for whatever is not wholly inside one bank
 * (below the hole, or from 4 GiB up). The bytes behind the pointer may change at any time.
 */
#ifndef HV_GMEM_H
#define HV_GMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/guest_mem.h"

struct hv_gmem;

/* Borrows `fd` for as long as the mapping lives. All of it is mapped; its seals must be right. */
int hv_gmem_create(struct hv_gmem **out, int fd);
void hv_gmem_destroy(struct hv_gmem *gmem);

/* Valid for `len` bytes until hv_gmem_destroy; NULL when that is no memory (len 0 is none). */
void *hv_gmem_at(const struct hv_gmem *gmem, uint64_t gpa, uint64_t len);
/* -EFAULT when the range is not wholly memory; nothing was copied then. */
int hv_gmem_read(const struct hv_gmem *gmem, uint64_t gpa, void *dst, size_t len);
int hv_gmem_write(struct hv_gmem *gmem, uint64_t gpa, const void *src, size_t len);

/*
 * The log of written pages (base/vmctl.h, LOG_START). Who writes through hv_gmem_at's pointer says so
 * afterwards with hv_gmem_dirty; hv_gmem_write does by itself. Calls under the machine's lock, but for
 * hv_gmem_dirty, which any thread may call: what it wrote before LOG_START was answered is in memory then,
 * what it writes later is in the log.
 */
/* Maps the log of `fd` (borrowed). -EINVAL: not sealed, or not of the right size. */
int hv_gmem_log_start(struct hv_gmem *gmem, int fd);
void hv_gmem_log_stop(struct hv_gmem *gmem);
bool hv_gmem_logs(const struct hv_gmem *gmem);
/* `host` points into the mapping. Nothing happens while there is no log. */
void hv_gmem_dirty(struct hv_gmem *gmem, const void *host, uint64_t len);
/* Ors `n` words (host order, bit 0 of the first: the page at byte `offset` of the memfd, a multiple of
 * 64 pages) into the log. */
void hv_gmem_dirty_words(struct hv_gmem *gmem, uint64_t offset, const uint64_t *words, uint64_t n);

/*
 * Whole pages go back to the host: they are zeroes, and absent from the memfd, until they are touched
 * again. They count as written. 0, or -errno: they stay as they are.
 */
int hv_gmem_punch(struct hv_gmem *gmem, void *host, uint64_t len);

/*
 * From here until the end whoever touches a page that is not there waits for whoever serves `uffd` (borrowed, a
 * userfaultfd(2) of this process), and nothing is punched (-EAGAIN). *base: where the mapping begins.
 */
int hv_gmem_lazy_start(struct hv_gmem *gmem, int uffd, uint64_t *base);
int hv_gmem_lazy_end(struct hv_gmem *gmem, int uffd);
/* Waits until all of the range is there; a back-end that touches it will find it. */
void hv_gmem_await(const struct hv_gmem *gmem, uint64_t gpa, uint64_t len);

uint64_t hv_gmem_bytes(const struct hv_gmem *gmem);

/*
 * The banks, one or two: for KVM's memory slots, for SET_MEM_TABLE, and for rings. A front-end's
 * "user address" in them is the guest's own address: back-ends learn nothing of this process.
 */
const struct guest_mem *hv_gmem_banks(const struct hv_gmem *gmem);
int hv_gmem_fd(const struct hv_gmem *gmem);

#endif
