// SPDX-License-Identifier: Apache-2.0
/* perilune_vm.c: virtual machines; the console is the one verb here that needs code. */
#include "tools/perilune_cli.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

#define ESCAPE	   0x1d /* ^] */
#define LAST_WORDS 300	/* ms of silence after the end of input, before the console is left */

/* --- console -------------------------------------------------------------------------------------- */

static int write_all(int fd, const char *data, size_t n)
{
	while (n > 0) {
		ssize_t w = write(fd, data, n);

		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return -errno;
		data += w;
		n -= (size_t)w;
	}
	return 0;
}

/* Raw, so that every key is the guest's; false when standard input is no terminal. */
static bool make_raw(struct termios *before)
{
	struct termios raw;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, before) < 0)
		return false;
	raw = *before;
	cfmakeraw(&raw);
	(void)tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	return true;
}

enum flow { GO_ON, INPUT_ENDED, LEAVE };

static enum flow from_input(int fd, bool terminal)
{
	char buf[4096];
	ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
	char *escape;

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return GO_ON;
	if (n <= 0)
		return INPUT_ENDED;
	escape = terminal ? memchr(buf, ESCAPE, (size_t)n) : NULL;
	if (write_all(fd, buf, escape ? (size_t)(escape - buf) : (size_t)n) < 0)
		return LEAVE;
	return escape ? LEAVE : GO_ON;
}

static enum flow from_guest(int fd, int *err)
{
	char buf[16384];
	ssize_t n = read(fd, buf, sizeof(buf));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return GO_ON;
	if (n <= 0)
		return LEAVE; /* the VM ended, or its daemon */
	*err = write_all(STDOUT_FILENO, buf, (size_t)n);
	return *err < 0 ? LEAVE : GO_ON;
}

static int copy(int fd, bool terminal, bool follow)
{
	struct pollfd p[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
	enum flow flow = GO_ON;
	int err = 0;

	while (flow != LEAVE) {
		int n = poll(p, 2, p[0].fd < 0 && !follow ? LAST_WORDS : -1);

		if (n < 0 && errno != EINTR)
			return fail(-errno, "console: %s", strerror(errno));
		if (n == 0)
			break;
		if (n < 0)
			continue;
		if (p[1].revents)
			flow = from_guest(fd, &err);
		if (flow == GO_ON && p[0].revents) {
			flow = from_input(fd, terminal);
			if (flow == INPUT_ENDED)
				p[0].fd = -1;
		}
	}
	return err < 0 ? fail(err, "console: cannot write what the guest says: %s", strerror(-err))
		       : 0;
}

static int console_run(struct cli_call *call)
{
	struct cli *cli = call->cli;
	struct termios before;
	bool terminal, follow = json_is_true(json_object_get(call->local, "follow"));
	int fd, rc;

	if (json_is_true(json_object_get(call->local, "log")))
		return cli_http_download(cli, "vm", "console-log", call->args, STDOUT_FILENO);
	fd = cli_http_stream(cli, "vm", "console", call->args);
	if (fd < 0)
		return fd;
	terminal = make_raw(&before);
	if (terminal && !cli->quiet)
		fprintf(stderr, "connected; leave with ^]\r\n");
	rc = copy(fd, terminal, follow);
	if (terminal) {
		(void)tcsetattr(STDIN_FILENO, TCSANOW, &before);
		fputc('\n', stderr);
	}
	close(fd);
	return rc;
}

/* --- detach --------------------------------------------------------------------------------------- */

static int detach_run(struct cli_call *call)
{
	json_t *result = NULL;
	int rc = cli_request(call->cli, "vm", "detach", call->args, &result);
	const char *note = json_string_value(json_object_get(result, "note"));

	if (rc == 0 && note && !call->cli->quiet && !call->cli->json)
		fprintf(stderr, "perilune: %s\n", note);
	if (rc == 0)
		cli_show(call, result);
	json_decref(result);
	return rc;
}

/* --- create --------------------------------------------------------------------------------------- */

/*
 * --cpu baseline=HOST,HOST...: each of them is asked what it can show, and the daemon that makes the definition takes
 * what they have in common. A level is no host: names like that are not asked.
 */
static int ask_hosts(struct cli_call *call, const char *names)
{
	json_t *tables = json_array();
	int rc = 0;

	while (rc == 0 && *names) {
		size_t n = strcspn(names, ",");
		json_t *args = json_object(), *result = NULL;

		json_object_set_new(args, "on", json_stringn(names, n));
		rc = cli_request(call->cli, "host", "cpu", args, &result);
		if (rc == 0)
			json_array_append(tables, json_object_get(result, "table"));
		json_decref(result);
		json_decref(args);
		names += n + (names[n] == ',');
	}
	json_object_set_new(call->args, "cpu_tables", tables);
	return rc;
}

static int create_run(struct cli_call *call)
{
	static const char prefix[] = "baseline=", level[] = "x86-64-v";
	const char *cpu = json_string_value(json_object_get(call->args, "cpu"));
	int rc = 0;

	if (cpu && !strncmp(cpu, prefix, sizeof(prefix) - 1) &&
	    strncmp(cpu + sizeof(prefix) - 1, level, sizeof(level) - 1) != 0)
		rc = ask_hosts(call, cpu + sizeof(prefix) - 1);
	return rc < 0 ? rc : cli_run_default(call);
}

/* --- start ---------------------------------------------------------------------------------------- */

/* To throw a saved state away destroys what the guest had in memory, so it asks. */
static int start_run(struct cli_call *call)
{
	struct cli_verb asking = *call->verb;
	struct cli_call with = *call;

	if (json_is_true(json_object_get(call->args, "discard_state")))
		asking.flags |= CLI_ASKS;
	with.verb = &asking;
	return cli_run_default(&with);
}

/* --- the table ------------------------------------------------------------------------------------ */

static const struct cli_option create_options[] = {
	{"volume", CLI_TEXT, "V", "the volume it lies on", true},
	{"memory", CLI_SIZE, "S", "the guest's memory, a multiple of 2M", true},
	{"memory-max", CLI_SIZE, "S", "what `vm set --memory` can give it later, while it runs",
	 false},
	{"memory-reservation", CLI_SIZE, "S",
	 "what is never taken from it when the host lacks memory (all)", false},
	{"memory-shares", CLI_SIZE, "N", "1 to 10000: who has few gives memory first (100)", false},
	{"cpus", CLI_SIZE, "N", "virtual CPUs (1)", false},
	{"cpu", CLI_TEXT, "WHAT",
	 "the processor it sees: host, all that its host can (host); baseline=x86-64-v2 (or v1, v3,"
	 " v4), that level; baseline=HOST,HOST..., what these have in common: so that it can move"
	 " between unlike hosts",
	 false},
	{"disk", CLI_LIST, "V:/p", "a disk on the same volume; several, in the guest's order",
	 false},
	{"net", CLI_LIST, "bridge=BR or tap=T",
	 "a network device in this bridge of the host that runs it, or on this tap; then, if "
	 "wanted:"
	 " ,vlan=N ,queues=N ,mac=A:B:C:D:E:F; several",
	 false},
	{"kernel", CLI_FILE, "F", "a Linux kernel (bzImage), copied beside the VM", false},
	{"initrd", CLI_FILE, "F", "its initial RAM disk, copied too", false},
	{"append", CLI_TEXT, "STR", "the kernel's command line", false},
	{"boot", CLI_TEXT, "HOW",
	 "disk: from its first disk, by the boot loader that is on it; kernel: by --kernel", false},
	{"nested", CLI_TEXT, "on|off", "its guest may run guests of its own (off)", false},
	{"watchdog", CLI_TEXT, "WHAT",
	 "what happens when the guest's watchdog runs out: reset, report, or off: it has none"
	 " (reset)",
	 false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option start_options[] = {
	{"discard-state", CLI_FLAG, NULL,
	 "of a saved VM: begin anew; what it had in memory is thrown away", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option delete_options[] = {
	{"discard-state", CLI_FLAG, NULL, "also one that is saved, with its state", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option set_options[] = {
	{"memory", CLI_SIZE, "S", "the guest's memory, a multiple of 2M, at most its maximum",
	 false},
	{"memory-max", CLI_SIZE, "S", "its maximum; the VM must be off", false},
	{"cpu", CLI_TEXT, "WHAT", "the processor it sees, as in vm create; the VM must be off",
	 false},
	{"memory-reservation", CLI_SIZE, "S",
	 "what is never taken from it when the host lacks memory", false},
	{"memory-shares", CLI_SIZE, "N", "1 to 10000: who has few gives memory first", false},
	{"cpu-weight", CLI_SIZE, "N",
	 "1 to 10000: its part of busy processors, beside others (100)", false},
	{"cpu-limit", CLI_SIZE, "PCT", "percent of one processor at most; 0: no limit", false},
	{"cpu-reservation", CLI_SIZE, "PCT",
	 "percent of one processor that the host must have for it", false},
	{"cpu-affinity", CLI_TEXT, "LIST", "the host's processors it may use, as 0-3,8; or all",
	 false},
	{"pool", CLI_TEXT, "P", "the pool it shares with others; none: no pool", false},
	{"boot", CLI_TEXT, "HOW", "disk or kernel, see vm create; the VM must be off", false},
	{"nested", CLI_TEXT, "on|off", "its guest may run guests; the VM must be off", false},
	{"watchdog", CLI_TEXT, "WHAT", "reset, report or off; the VM must be off", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option stop_options[] = {
	{"timeout", CLI_SIZE, "S", "seconds the guest may take (60)", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option freeze_options[] = {
	{"for", CLI_SIZE, "S", "seconds, the freezing included, after which it is thawed (30)",
	 false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option reboot_options[] = {
	{"timeout", CLI_SIZE, "S", "seconds the guest may take to shut down (60)", false},
	{"force", CLI_FLAG, NULL, "the reset button: the guest is not asked", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option migrate_options[] = {
	{"to", CLI_TEXT, "HOST", "the host that is to run it, a member of its volume", true},
	{"max-downtime", CLI_SIZE, "MS",
	 "how long the guest may stand still, in ms (300, but 1500 on storage that stays slow)",
	 false},
	{"bandwidth", CLI_SIZE, "B", "bytes a second at most while it runs (as fast as it goes)",
	 false},
	{"streams", CLI_SIZE, "N", "connections for its memory, 1 to 14 (2)", false},
	{"postcopy", CLI_FLAG, NULL,
	 "after one round, let it run there before the rest of its memory has come: however fast "
	 "it writes; a "
	 "link or host that"
	 " dies meanwhile ends it, as a power cut would",
	 false},
	{"no-postcopy", CLI_FLAG, NULL,
	 "leave it where it is if it writes faster than can be sent, instead of beginning anew "
	 "with "
	 "--postcopy",
	 false},
	{"quick", CLI_FLAG, NULL,
	 "it stands still first, then all of it moves: for a guest that writes too fast", false},
	{"verify", CLI_FLAG, NULL, "compare all memory once more while it stands still", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option console_options[] = {
	{"follow", CLI_LOCAL, NULL, "go on after the end of input, until the VM stops", false},
	{"log", CLI_LOCAL, NULL, "what it has said on this host, also when it is off", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option attach_options[] = {
	{"disk", CLI_TEXT, "V:/p", "a disk on the VM's own volume", false},
	{"lun", CLI_TEXT, "LUN",
	 "instead: a whole LUN, passed through: an iscsi:// URL, a SCSI device, or the id of one"
	 " that is known here",
	 false},
	{"shared", CLI_FLAG, NULL, "other VMs that say so may have the LUN too", false},
	{"unfiltered", CLI_FLAG, NULL,
	 "let FORMAT UNIT, WRITE BUFFER and EXTENDED COPY through to the LUN", false},
	{"lun-number", CLI_SIZE, "N",
	 "its address in the guest, 0 to 1023 (the lowest that is free and was not freed under"
	 " the guest that runs)",
	 false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option detach_options[] = {
	{"force", CLI_FLAG, NULL,
	 "also from a guest that uses it, stands still, or does not let go of it within 5 s",
	 false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

const struct cli_verb cli_vm_verbs[] = {
	{"vm", "create", "name=NAME", "define a VM; any host of its volume can start it",
	 "perilune vm create web1 --volume v1 --memory 1G --kernel /boot/vmlinuz", create_options,
	 0, "", create_run},
	{"vm", "start", "name=VM", "start it on this host; one that is saved goes on where it was",
	 "perilune vm start web1", start_options, 0, "", start_run},
	{"vm", "set", "name=VM", "change what it gets of its host, also while it runs",
	 "perilune vm set web1 --memory 512M", set_options, 0, "", create_run},
	{"vm", "stop", "name=VM",
	 "have it shut down, by the agent in its guest or its power button, and wait",
	 "perilune vm stop web1 --timeout 120", stop_options, 0, "", NULL},
	{"vm", "kill", "name=VM", "end it at once, as a power cut would", "perilune vm kill web1",
	 NULL, 0, "", NULL},
	{"vm", "reboot", "name=VM", "shut the guest down and start it again",
	 "perilune vm reboot web1", reboot_options, 0, "", NULL},
	{"vm", "migrate", "name=VM",
	 "move it to another host while it runs; what its guest has reserved on a LUN moves along"
	 " over iSCSI only, not from a SCSI device of the host",
	 "perilune vm migrate web1 --to host2", migrate_options, 0, "", NULL},
	{"vm", "save", "name=VM",
	 "its memory and state go to its volume, then it is off, and needs no host; `vm start` or"
	 " `vm restore` on any host lets it go on",
	 "perilune vm save web1", NULL, 0, "", NULL},
	{"vm", "restore", "name=VM",
	 "let a saved VM go on, on this host or with --on HOST on another; a state is used once",
	 "perilune vm restore web1 --on host2", NULL, 0, "", NULL},
	{"vm", "pause", "name=VM",
	 "it stands still until `vm resume`, also across a restart of the daemon; its memory stays"
	 " where it is",
	 "perilune vm pause web1", NULL, 0, "", NULL},
	{"vm", "resume", "name=VM", "let it go on after `vm pause`", "perilune vm resume web1",
	 NULL, 0, "", NULL},
	{"vm", "freeze", "name=VM",
	 "have the agent in its guest flush and freeze all file systems, for a snapshot by the"
	 " array; `vm thaw` ends it, or the time does",
	 "perilune vm freeze web1 --for 20", freeze_options, 0, "", NULL},
	{"vm", "thaw", "name=VM",
	 "its file systems go on; fails if they have not been frozen until now",
	 "perilune vm thaw web1", NULL, 0, "", NULL},
	{"vm", "top", "", "what the VMs that run here use, now", "perilune vm top", NULL, 0,
	 "name=NAME,state=STATE,cpu=CPU%,cpu_seconds=SECONDS,memory%=MEMORY,memory_used%=USED,read%"
	 "=READ/S,write%=WRITE/S",
	 NULL},
	{"vm", "list", "", "the VMs of all mounted volumes, and where they run", "perilune vm list",
	 NULL, 0, "name=NAME,volume=VOLUME,state=STATE,host=HOST,memory%=MEMORY,cpus=CPUS", NULL},
	{"vm", "show", "name=VM", "one VM: definition and state", "perilune vm show web1", NULL, 0,
	 NULL, NULL},
	{"vm", "console", "name=VM",
	 "its serial console; ^] leaves it. Without a terminal: input to the guest, the guest's"
	 " output to standard output, until input ends",
	 "perilune vm console web1", console_options, 0, NULL, console_run},
	{"vm", "attach", "name=VM",
	 "give it another disk, now and at each start; a guest that runs sees it by itself",
	 "perilune vm attach web1 --disk v1:/logs", attach_options, 0, "", NULL},
	{"vm", "detach", "name=VM disk=DISK",
	 "take a disk from it; a guest that runs is told and waited for, one that uses the disk,"
	 " or whose agent says that it is mounted, keeps it. Unmount it there first: without an "
	 "agent"
	 " that cannot be seen from here",
	 "perilune vm detach web1 v1:/logs", detach_options, 0, "", detach_run},
	{"vm", "rename", "name=VM to=NAME", "another name; the VM must be off",
	 "perilune vm rename web1 www", NULL, 0, "", NULL},
	{"vm", "delete", "name=VM", "delete its definition, kernel and initrd; its disks stay",
	 "perilune vm delete web1", delete_options, CLI_ASKS, "", NULL},
	{NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL},
};

/* --- pools ---------------------------------------------------------------------------------------- */

static const struct cli_option pool_options[] = {
	{"cpu-weight", CLI_SIZE, "N",
	 "1 to 10000: its part of busy processors, beside others (100)", false},
	{"cpu-limit", CLI_SIZE, "PCT",
	 "percent of one processor at most, all its VMs together; 0: none", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

const struct cli_verb cli_pool_verbs[] = {
	{"pool", "set", "name=POOL", "what a pool of VMs gets of this host's processors",
	 "perilune pool set web --cpu-limit 200", pool_options, 0, "", NULL},
	{"pool", "list", "", "the pools of this host, and who is in them", "perilune pool list",
	 NULL, 0, "name=NAME,cpu_weight=WEIGHT,cpu_limit=LIMIT,vms=VMS", NULL},
	{NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL},
};
