// SPDX-License-Identifier: Apache-2.0
/*
 * vm_console.h (private to host): a VM's serial console: its last words in a log file under the
 * state directory, and clients that are attached. The supervisor's thread only.
 *
 * What was said while nobody was attached is said to the next one who comes, the last
 * CONSOLE_UNSEEN bytes of it.
 */
#ifndef HOST_VM_CONSOLE_H
#define HOST_VM_CONSOLE_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>

#define CONSOLE_CLIENTS 8
#define CONSOLE_UNSEEN	(64 * 1024)
#define CONSOLE_LOG_MAX (1024 * 1024) /* two files of that */

struct vm_console;

struct vm_console *vm_console_create(const char *log_path);
void vm_console_destroy(struct vm_console *console);
void vm_console_output(struct vm_console *console, const void *data, size_t n);
/* Takes a connected socket; a ninth client is hung up on. */
void vm_console_attach(struct vm_console *console, int fd);
/* Fills at most CONSOLE_CLIENTS; the count. */
unsigned vm_console_polls(struct vm_console *console, struct pollfd *fds);
/* After poll: sends what waits, reads input; returns bytes of input in `dst`. */
size_t vm_console_serve(struct vm_console *console, const struct pollfd *fds, unsigned n,
			uint8_t *dst, size_t max);

#endif
