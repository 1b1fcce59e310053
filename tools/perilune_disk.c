// SPDX-License-Identifier: Apache-2.0
/* perilune_disk.c: disks and small files. */
#include "tools/perilune_cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

static const struct cli_option create_options[] = {
	{"size", CLI_SIZE, "S", "bytes, K M G T", true},
	{"thick", CLI_FLAG, NULL, "take all its space now", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option resize_options[] = {
	{"size", CLI_SIZE, "S", "the new size", true},
	{"shrink", CLI_FLAG, NULL, "insist on cutting off its end", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option export_options[] = {
	{"overwrite", CLI_FLAG, NULL, "replace a file that exists", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option bench_options[] = {
	{"op", CLI_TEXT, "read|write", "write destroys what the disk holds (read)", false},
	{"pattern", CLI_TEXT, "random|stride", "where requests go (random)", false},
	{"stride", CLI_SIZE, "S", "bytes from one request to the next (their size)", false},
	{"bs", CLI_SIZE, "S", "bytes of a request (4K)", false},
	{"depth", CLI_SIZE, "N", "requests in flight (32)", false},
	{"seconds", CLI_SIZE, "T", "how long (5)", false},
	{"requests", CLI_SIZE, "N", "or how many", false},
	{"seed", CLI_SIZE, "N", "of the random order (1)", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

/* Writing destroys. */
static int bench_run(struct cli_call *call)
{
	const char *op = json_string_value(json_object_get(call->args, "op"));
	struct cli_verb asking = *call->verb;
	struct cli_call with = *call;

	if (op && !strcmp(op, "write"))
		asking.flags |= CLI_ASKS;
	with.verb = &asking;
	return cli_run_default(&with);
}

/* --shrink destroys data, so it asks; growing does not. */
static int resize_run(struct cli_call *call)
{
	struct cli_verb asking = *call->verb;
	struct cli_call with = *call;

	if (json_is_true(json_object_get(call->args, "shrink")))
		asking.flags |= CLI_ASKS;
	with.verb = &asking;
	return cli_run_default(&with);
}

#define DISK_COLUMNS "path=PATH,size%=SIZE,allocated%=ALLOCATED,thin=THIN,created=CREATED"

const struct cli_verb cli_disk_verbs[] = {
	{"disk", "create", "path=VOLUME:/path", "a new disk, thin unless told otherwise",
	 "perilune disk create v1:/web1 --size 20G", create_options, 0, "", NULL},
	{"disk", "list", "[path=VOLUME[:/dir]]", "disks of a volume, a directory, or all",
	 "perilune disk list v1", NULL, 0, DISK_COLUMNS, NULL},
	{"disk", "show", "path=VOLUME:/path", "one disk, and who holds it",
	 "perilune disk show v1:/web1", NULL, 0, NULL, NULL},
	{"disk", "resize", "path=VOLUME:/path",
	 "make a disk larger, also under a guest of this host, or smaller",
	 "perilune disk resize v1:/web1 --size 40G", resize_options, 0, "", resize_run},
	{"disk", "rename", "path=VOLUME:/path to=/new", "another name on the same volume",
	 "perilune disk rename v1:/web1 /web2", NULL, 0, "", NULL},
	{"disk", "delete", "path=VOLUME:/path", "delete a disk; its space comes back bit by bit",
	 "perilune disk delete v1:/web1 --yes", NULL, CLI_ASKS, "", NULL},
	{"disk", "import", "file=FILE path=VOLUME:/path", "a new disk from a raw file or device",
	 "perilune disk import debian.raw v1:/web1", NULL, 0, NULL, NULL},
	{"disk", "export", "path=VOLUME:/path file=FILE", "a disk into a raw, sparse file",
	 "perilune disk export v1:/web1 web1.raw", export_options, 0, NULL, NULL},
	{"disk", "extents", "path=VOLUME:/path", "where a disk's data lies",
	 "perilune disk extents v1:/web1", NULL, 0,
	 "offset=OFFSET,length=LENGTH,extent=EXTENT,address=ADDRESS", NULL},
	{"disk", "bench", "path=VOLUME:/path", "requests a second, latency, CPU of a disk",
	 "perilune disk bench v1:/web1 --depth 32 --bs 4K", bench_options, 0, NULL, bench_run},
	{NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL},
};

/* --- files ------------------------------------------------------------------------------------------ */

static json_t *path_only(struct cli_call *call)
{
	return json_pack("{s:O}", "path", json_object_get(call->args, "path"));
}

static int file_cat(struct cli_call *call)
{
	json_t *query = path_only(call);
	int rc = cli_http_download(call->cli, "file", "get", query, STDOUT_FILENO);

	json_decref(query);
	return rc;
}

/* Into a new file beside the target, renamed when it is whole. */
static int file_get(struct cli_call *call)
{
	const char *to = json_string_value(json_object_get(call->args, "file"));
	cleanup_free char *fresh = NULL;
	cleanup_fd int fd = -1;
	json_t *query;
	int rc;

	if (!strcmp(to, "-"))
		return file_cat(call);
	fresh = xasprintf("%s.%d.part", to, (int)getpid());
	fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0)
		return fail(-errno, "%s: %s", fresh, strerror(errno));
	query = path_only(call);
	rc = cli_http_download(call->cli, "file", "get", query, fd);
	json_decref(query);
	if (rc == 0 && (fsync(fd) < 0 || rename(fresh, to) < 0))
		rc = fail(-errno, "%s: %s", to, strerror(errno));
	if (rc < 0)
		(void)unlink(fresh);
	return rc;
}

static int file_put(struct cli_call *call)
{
	const char *from = json_string_value(json_object_get(call->args, "file"));
	int fd = strcmp(from, "-") ? open(from, O_RDONLY | O_CLOEXEC) : STDIN_FILENO, rc;
	json_t *query;

	if (fd < 0)
		return fail(-errno, "%s: %s", from, strerror(errno));
	query = path_only(call);
	rc = cli_http_upload(call->cli, "file", "put", query, fd);
	json_decref(query);
	if (fd != STDIN_FILENO)
		close(fd);
	return rc;
}

const struct cli_verb cli_file_verbs[] = {
	{"file", "ls", "path=VOLUME:/path", "what a directory holds", "perilune file ls v1:/", NULL,
	 0, "name=NAME,kind=KIND,size%=SIZE,allocated%=ALLOCATED,modified=MODIFIED", NULL},
	{"file", "cat", "path=VOLUME:/path", "a file's bytes to standard output",
	 "perilune file cat v1:/notes", NULL, 0, "", file_cat},
	{"file", "put", "file=FILE path=VOLUME:/path", "a small file onto a volume; - is input",
	 "perilune file put notes v1:/notes", NULL, 0, "", file_put},
	{"file", "get", "path=VOLUME:/path file=FILE", "a file from a volume; - is output",
	 "perilune file get v1:/notes notes", NULL, 0, "", file_get},
	{"file", "rm", "path=VOLUME:/path", "delete a file or an empty directory",
	 "perilune file rm v1:/notes --yes", NULL, CLI_ASKS, "", NULL},
	{"file", "mkdir", "path=VOLUME:/path", "a new directory", "perilune file mkdir v1:/disks",
	 NULL, 0, "", NULL},
	{NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL},
};
