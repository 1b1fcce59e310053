// SPDX-License-Identifier: Apache-2.0
/*
 * crash.h: a program that dies of its own fault says where, on standard error, before it does:
 *
 *	perilund: signal 11 at address 0x18
 *	build/bin/perilund(+0x1c2a4)[0x55...]
 *	...
 *
 * The offsets are for addr2line -e. A core is written, or the signal seen by the parent, as without.
 */
#ifndef BASE_CRASH_H
#define BASE_CRASH_H

/* Once, when the program begins. */
void crash_tell(void);

#endif
