// SPDX-License-Identifier: Apache-2.0
/* stub_book.c: what the disk of a stub's guest must hold. stub_guest.c writes it. */
#include "tests/lib/stub_book.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

/* In the order of the program: what a SIGKILL leaves is a state between two of them. */
static void set(uint32_t *where, uint32_t value)
{
	__atomic_store_n(where, value, __ATOMIC_SEQ_CST);
}

struct stub_book *stub_book_open(const char *path)
{
	cleanup_fd int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666) : -1;
	struct stub_book *book;

	if (!path)
		return xcalloc(1, sizeof(*book));
	MUST(fd >= 0 && ftruncate(fd, sizeof(*book)) == 0);
	book = mmap(NULL, sizeof(*book), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	MUST(book != MAP_FAILED);
	return book;
}

void stub_book_boots(struct stub_book *book, const char *host, bool lost)
{
	for (unsigned i = 0; lost && i < STUB_BLOCKS; i++)
		set(&book->answered[i], book->flushed[i]);
	(void)str_format(book->host, sizeof(book->host), "%s", host);
}

void stub_book_runs(struct stub_book *book, const char *host)
{
	for (unsigned i = 0; strcmp(book->host, host) && i < STUB_BLOCKS; i++)
		set(&book->flushed[i], book->answered[i]);
	(void)str_format(book->host, sizeof(book->host), "%s", host);
}

void stub_book_begins(struct stub_book *book, uint32_t block, uint32_t count)
{
	set(&book->begun[block], count);
}

void stub_book_answered(struct stub_book *book, uint32_t block, uint32_t count, bool durable)
{
	set(&book->answered[block], count);
	if (durable)
		set(&book->flushed[block], count);
}

void stub_book_found(struct stub_book *book, uint32_t block, uint32_t count)
{
	set(&book->answered[block], count);
	set(&book->begun[block], count);
}

void stub_book_flushed(struct stub_book *book, const uint32_t answered[STUB_BLOCKS])
{
	for (unsigned i = 0; i < STUB_BLOCKS; i++)
		if (book->flushed[i] < answered[i])
			set(&book->flushed[i], answered[i]);
}
