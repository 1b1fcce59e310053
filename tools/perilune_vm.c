// SPDX-License-Identifier: Apache-2.0
/* perilune_vm.c: VMs and their consoles. */
#include "tools/perilune_cli.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#define ESCAPE 0x1d /* Ctrl-] */

static const struct cli_option create_options[] = {
	{"volume", CLI_TEXT, "V", "where its definition, kernel and disks lie", true},
	{"memory", CLI_SIZE, "S", "a multiple of 2M (256M)", false},
	{"cpus", CLI_SIZE, "N", "virtual CPUs (1)", false},
	{"disk", CLI_LIST, "V:/p", "a disk; the first is the first the guest sees", false},
	{"kernel", CLI_FILE, "F", "a Linux kernel (bzImage), copied beside the VM", true},
	{"initrd", CLI_FILE, "F", "its initrd, copied too", false},
	{"append", CLI_TEXT, "STR", "the kernel's command line (console=ttyS0)", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option stop_options[] = {
	{"timeout", CLI_SIZE, "S", "seconds to wait for the guest (60); then it runs on, exit 9",
	 false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option console_options[] = {
	{"log", CLI_LOCAL, NULL, "print what it has said on this host, and end", false},
	{"for", CLI_VALUE, "S", "end after so many seconds", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

/* Raw keys to the guest, while standard input is a terminal. */
static bool raw_terminal(struct termios *old)
{
	struct termios raw;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, old) < 0)
		return false;
	raw = *old;
	cfmakeraw(&raw);
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	fputs("attached; Ctrl-] ends\r\n", stderr);
	return true;
}

static int write_all(int fd, const char *buf, size_t n)
{
	while (n) {
		ssize_t w = write(fd, buf, n);

		if (w < 0)
			return -errno;
		buf += w;
		n -= (size_t)w;
	}
	return 0;
}

/* Until the VM ends, Ctrl-], or the time is up. The end of standard input only ends what is typed. */
static int console_loop(int fd, bool terminal, uint64_t until_ms)
{
	struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
	char buf[4096];

	for (;;) {
		uint64_t now = clock_boot_ms();
		ssize_t n;

		if (until_ms && now >= until_ms)
			return 0;
		if (poll(p, 2, until_ms ? (int)MIN(until_ms - now, 1000) : -1) < 0 &&
		    errno != EINTR)
			return -errno;
		if (p[0].revents) {
			n = read(fd, buf, sizeof(buf));
			if (n <= 0)
				return 0;
			if (write_all(STDOUT_FILENO, buf, (size_t)n) < 0)
				return -EPIPE;
		}
		if (p[1].revents) {
			n = read(STDIN_FILENO, buf, sizeof(buf));
			if (n <= 0)
				p[1].fd = -1;
			else if (terminal && memchr(buf, ESCAPE, (size_t)n))
				return 0;
			else if (write_all(fd, buf, (size_t)n) < 0)
				return 0;
		}
	}
}

static int console_run(struct cli_call *call)
{
	const char *seconds = json_string_value(json_object_get(call->local, "for"));
	uint64_t s = 0;
	struct termios old;
	bool terminal;
	int fd, rc;

	if (json_is_true(json_object_get(call->local, "log")))
		return cli_http_download(call->cli, "vm", "console-log", call->args, STDOUT_FILENO);
	if (seconds && (parse_size(seconds, &s) < 0 || s == 0))
		return fail(-EINVAL, "--for %s: wants seconds", seconds);
	fd = cli_http_stream(call->cli, "vm", "console", call->args);
	if (fd < 0)
		return fd;
	terminal = raw_terminal(&old);
	rc = console_loop(fd, terminal, s ? clock_boot_ms() + 1000 * s : 0);
	if (terminal)
		tcsetattr(STDIN_FILENO, TCSANOW, &old);
	close(fd);
	return rc == -EPIPE ? 0 : rc;
}

const struct cli_verb cli_vm_verbs[] = {
	{"vm", "create", "name=NAME", "define a VM on a volume; any of its hosts can start it",
	 "perilune vm create web1 --volume v1 --disk v1:/web1 --kernel vmlinuz", create_options, 0,
	 NULL, NULL},
	{"vm", "start", "name=NAME", "run it here; a dead host's VM too, once that is taken over",
	 "perilune vm start web1", NULL, 0, "", NULL},
	{"vm", "stop", "name=NAME", "press its power button and wait", "perilune vm stop web1",
	 stop_options, 0, "", NULL},
	{"vm", "kill", "name=NAME", "end it at once, as pulling the plug", "perilune vm kill web1",
	 NULL, 0, "", NULL},
	{"vm", "reboot", "name=NAME", "press its reset button", "perilune vm reboot web1", NULL, 0,
	 "", NULL},
	{"vm", "list", "", "the VMs of all mounted volumes", "perilune vm list", NULL, 0,
	 "name=NAME,volume=VOLUME,state=STATE,host=HOST,memory%=MEMORY,cpus=CPUS,disks=DISKS",
	 NULL},
	{"vm", "show", "name=NAME", "one VM", "perilune vm show web1 --json", NULL, 0, NULL, NULL},
	{"vm", "console", "name=NAME", "its serial console; Ctrl-] ends",
	 "perilune vm console web1", console_options, 0, "", console_run},
	{"vm", "rename", "name=NAME to=NEW", "give a stopped VM another name",
	 "perilune vm rename web1 web2", NULL, 0, "", NULL},
	{"vm", "delete", "name=NAME", "delete a stopped VM's definition; its disks stay",
	 "perilune vm delete web1 --yes", NULL, CLI_ASKS, "", NULL},
	{NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL},
};
