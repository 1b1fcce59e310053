// SPDX-License-Identifier: Apache-2.0
/*
 * iothread.h: an I/O thread: a thread that does nothing but run one loop. The daemon has a few;
 * a controller with all its rings and disks belongs to one of them, so nothing on the way of a
 * request takes a lock.
 */
#ifndef VFS_IOTHREAD_H
#define VFS_IOTHREAD_H

struct iothread;
struct loop;

/* Starts a thread named `name` (at most 15 characters are seen) with a loop of `entries`. */
int iothread_create(struct iothread **out, const char *name, unsigned entries);
/* Everything bound to it must be closed. Joins the thread. */
void iothread_destroy(struct iothread *thread);
struct loop *iothread_loop(struct iothread *thread);
/*
 * Runs fn(arg) in the thread and waits for its return; called from the thread itself it just
 * calls. Never while holding what `fn` waits for.
 */
int iothread_call(struct iothread *thread, int (*fn)(void *arg), void *arg);

#endif
