// SPDX-License-Identifier: Apache-2.0
/*
 * util.h: the small things every module uses: MUST, container_of, sizes, scope clean-up,
 * an intrusive list, little-endian types. Inlines only.
 */
#ifndef BASE_UTIL_H
#define BASE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <endian.h>

#define ARRAY_SIZE(a)	   (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)	   ((a) < (b) ? (a) : (b))
#define MAX(a, b)	   ((a) > (b) ? (a) : (b))
#define ROUND_UP(x, a)	   ((((x) + (a)-1) / (a)) * (a))
#define ROUND_DOWN(x, a)   (((x) / (a)) * (a))
#define DIV_ROUND_UP(x, a) (((x) + (a)-1) / (a))

#define KiB (1024ULL)
#define MiB (1024ULL * KiB)
#define GiB (1024ULL * MiB)
#define TiB (1024ULL * GiB)

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/*
 * What only a bug of our own can break. Always on: a wrong write is worse than a dead daemon
 * (guests outlive it, what was answered is in the tail file).
 */
#define MUST(cond) ((cond) ? (void)0 : must_failed(#cond, __FILE__, __LINE__))
void must_failed(const char *cond, const char *file, int line) __attribute__((noreturn));

/* Scope attributes: `cleanup_free char *p`, `cleanup_fd int fd = -1`. */
#define cleanup_free __attribute__((cleanup(util_free)))
#define cleanup_fd   __attribute__((cleanup(util_close)))
void util_free(void *pp);
void util_close(int *fd);

/* malloc and friends that never return NULL: out of memory ends the process with a message. */
void *xmalloc(size_t size);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Zeroed memory aligned for O_DIRECT (`align` a power of two); release with free(). */
void *xaligned(size_t align, size_t size);

/* snprintf that must fit; returns the length, or -ENAMETOOLONG with `dst` cut but terminated. */
int str_format(char *dst, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* "64K", "10G", "1048576" to bytes (powers of two); -EINVAL when it is none. */
int parse_size(const char *s, uint64_t *bytes);
/* Unbiased random bytes from the kernel; never fails. */
void random_bytes(void *dst, size_t n);

/* Little-endian as stored: plain bytes, so that no one reads them by accident. */
typedef struct {
	uint8_t b[2];
} le16;
typedef struct {
	uint8_t b[4];
} le32;
typedef struct {
	uint8_t b[8];
} le64;

static inline uint16_t le16_get(le16 v)
{
	return (uint16_t)(v.b[0] | v.b[1] << 8);
}
static inline uint32_t le32_get(le32 v)
{
	uint32_t x;
	__builtin_memcpy(&x, v.b, 4);
	return le32toh(x);
}
static inline uint64_t le64_get(le64 v)
{
	uint64_t x;
	__builtin_memcpy(&x, v.b, 8);
	return le64toh(x);
}
static inline le16 le16_of(uint16_t x)
{
	return (le16){{(uint8_t)x, (uint8_t)(x >> 8)}};
}
static inline le32 le32_of(uint32_t x)
{
	le32 v;
	x = htole32(x);
	__builtin_memcpy(v.b, &x, 4);
	return v;
}
static inline le64 le64_of(uint64_t x)
{
	le64 v;
	x = htole64(x);
	__builtin_memcpy(v.b, &x, 8);
	return v;
}

/* Big-endian, for SCSI. */
static inline uint16_t be16_get(const void *p)
{
	const uint8_t *b = p;
	return (uint16_t)(b[0] << 8 | b[1]);
}
static inline uint32_t be32_get(const void *p)
{
	uint32_t x;
	__builtin_memcpy(&x, p, 4);
	return be32toh(x);
}
static inline uint64_t be64_get(const void *p)
{
	uint64_t x;
	__builtin_memcpy(&x, p, 8);
	return be64toh(x);
}
static inline void be16_put(void *p, uint16_t x)
{
	x = htobe16(x);
	__builtin_memcpy(p, &x, 2);
}
static inline void be32_put(void *p, uint32_t x)
{
	x = htobe32(x);
	__builtin_memcpy(p, &x, 4);
}
static inline void be64_put(void *p, uint64_t x)
{
	x = htobe64(x);
	__builtin_memcpy(p, &x, 8);
}

/* Intrusive, circular, doubly linked. A zeroed node is not a valid list: list_init first. */
struct list {
	struct list *next, *prev;
};

#define LIST_INIT(name)          \
	{                        \
		&(name), &(name) \
	}
#define list_entry(ptr, type, member)  container_of(ptr, type, member)
#define list_first(head, type, member) list_entry((head)->next, type, member)
#define list_for_each(pos, head, member)                                                       \
	for (pos = list_entry((head)->next, __typeof__(*pos), member); &pos->member != (head); \
	     pos = list_entry(pos->member.next, __typeof__(*pos), member))
#define list_for_each_safe(pos, tmp, head, member)                        \
	for (pos = list_entry((head)->next, __typeof__(*pos), member),    \
	    tmp = list_entry(pos->member.next, __typeof__(*pos), member); \
	     &pos->member != (head);                                      \
	     pos = tmp, tmp = list_entry(tmp->member.next, __typeof__(*pos), member))

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}
static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}
static inline void list_insert(struct list *prev, struct list *n)
{
	n->prev = prev;
	n->next = prev->next;
	prev->next->prev = n;
	prev->next = n;
}
static inline void list_add(struct list *head, struct list *n)
{
	list_insert(head, n);
}
static inline void list_add_tail(struct list *head, struct list *n)
{
	list_insert(head->prev, n);
}
/* Unlinks and leaves `n` a valid empty list, so that a second list_del is harmless. */
static inline void list_del(struct list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	list_init(n);
}
/* Moves all of `from` to the tail of `to`; `from` is empty afterwards. */
static inline void list_splice_tail(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#endif
