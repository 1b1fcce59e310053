// SPDX-License-Identifier: Apache-2.0
/*
 * log.h: talk for people, on standard error. One line a call, lower case, with the time since
 * boot, the level and the calling module:
 *
 *	   12.345678 warn  cfs: volume v1: slot 3 is silent for 4 beats
 *
 * Safe from any thread; a line is written with one write(2). Debug lines cost one load when off.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* The most talkative level that is written; LOG_INFO at start. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
void log_write(enum log_level level, const char *module, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define log_error(module, ...) log_write(LOG_ERROR, module, __VA_ARGS__)
#define log_warn(module, ...)  log_write(LOG_WARN, module, __VA_ARGS__)
#define log_info(module, ...)  log_write(LOG_INFO, module, __VA_ARGS__)
#define log_debug(module, ...)                                     \
	do {                                                       \
		if (log_get_level() >= LOG_DEBUG)                  \
			log_write(LOG_DEBUG, module, __VA_ARGS__); \
	} while (0)

#endif
