// SPDX-License-Identifier: Apache-2.0
/* perilune_print.c: answers for people (tables, fields, bars) and for scripts (JSON). */
#include "tools/perilune_cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "host/host.h"

#define COLUMNS_MAX 16
#define CELL_MAX    256

const char *cli_size(uint64_t bytes, char dst[16])
{
	static const char units[] = "BKMGTPE";
	double v = (double)bytes;
	unsigned u = 0;

	while (v >= 1024 && units[u + 1]) {
		v /= 1024;
		u++;
	}
	if (u == 0)
		snprintf(dst, 16, "%llu", (unsigned long long)bytes);
	else
		snprintf(dst, 16, v < 10 && v != (double)(int)v ? "%.1f%c" : "%.0f%c", v, units[u]);
	return dst;
}

void cli_show_json(json_t *doc)
{
	json_dumpf(doc, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
	putchar('\n');
}

/* One value in words; `mark` as in cli_verb.columns. */
static void cell(json_t *v, char mark, char *dst, size_t size)
{
	char text[16];
	json_t *item;
	size_t i, n = 0;

	dst[0] = 0;
	if (!v || json_is_null(v)) {
		(void)str_format(dst, size, "-");
	} else if (json_is_string(v)) {
		const char *s = json_string_value(v);

		(void)str_format(dst, size, "%s", *s ? s : "-");
	} else if (json_is_boolean(v)) {
		(void)str_format(dst, size, "%s", json_is_true(v) ? "yes" : "no");
	} else if (json_is_integer(v) && mark == '%') {
		(void)str_format(dst, size, "%s", cli_size((uint64_t)json_integer_value(v), text));
	} else if (json_is_integer(v)) {
		(void)str_format(dst, size, "%lld", (long long)json_integer_value(v));
	} else if (json_is_real(v)) {
		(void)str_format(dst, size, "%.2f", json_real_value(v));
	} else if (json_is_array(v)) {
		json_array_foreach(v, i, item)
		{
			char one[CELL_MAX];
			int w;

			cell(json_is_object(item) && json_object_get(item, "name")
				     ? json_object_get(item, "name")
				     : item,
			     mark, one, sizeof(one));
			w = snprintf(dst + n, size - n, "%s%s", i ? "," : "", one);
			n = MIN(size - 1, n + (size_t)w);
		}
		if (!n)
			(void)str_format(dst, size, "-");
	} else {
		cleanup_free char *s = json_dumps(v, JSON_COMPACT);

		(void)str_format(dst, size, "%s", s ? s : "?");
	}
	/* A name from a disk may hold anything but must not drive the terminal. */
	for (char *p = dst; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
}

struct column {
	char key[40], title[24], mark;
	size_t width;
};

static unsigned parse_columns(const char *spec, struct column *c)
{
	unsigned n = 0;

	while (*spec && n < COLUMNS_MAX) {
		size_t k = strcspn(spec, "=%");
		size_t t;

		MUST(k < sizeof(c->key));
		memset(&c[n], 0, sizeof(c[n]));
		memcpy(c[n].key, spec, k);
		c[n].mark = spec[k] == '%' ? '%' : 0;
		spec += k + (spec[k] == '%' ? 2 : 1);
		t = strcspn(spec, ",");
		MUST(t < sizeof(c->title));
		memcpy(c[n].title, spec, t);
		c[n].width = t;
		spec += t + (spec[t] == ',');
		n++;
	}
	return n;
}

static void show_table(json_t *list, const char *spec)
{
	struct column c[COLUMNS_MAX];
	unsigned n = parse_columns(spec, c);
	char text[CELL_MAX];
	json_t *row;
	size_t i;

	json_array_foreach(list, i, row)
	{
		for (unsigned k = 0; k < n; k++) {
			cell(json_object_get(row, c[k].key), c[k].mark, text, sizeof(text));
			c[k].width = MAX(c[k].width, strlen(text));
		}
	}
	for (unsigned k = 0; k + 1 < n; k++)
		printf("%-*s  ", (int)c[k].width, c[k].title);
	puts(c[n - 1].title);
	json_array_foreach(list, i, row)
	{
		for (unsigned k = 0; k < n; k++) {
			cell(json_object_get(row, c[k].key), c[k].mark, text, sizeof(text));
			if (k + 1 < n)
				printf("%-*s  ", (int)c[k].width, text);
			else
				puts(text);
		}
	}
}

static bool is_size(const char *key)
{
	static const char *const keys[] = {"size",	"free",	  "promised", "reclaim_pending",
					   "allocated", "memory", "bytes",    "reclaimed"};

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (!strcmp(key, keys[i]))
			return true;
	return false;
}

static void show_fields(json_t *object, int indent)
{
	char text[CELL_MAX];
	const char *key;
	json_t *v, *item;
	size_t i;

	json_object_foreach(object, key, v)
	{
		if (json_is_array(v) && json_is_object(json_array_get(v, 0))) {
			printf("%*s%s:\n", indent, "", key);
			json_array_foreach(v, i, item)
			{
				show_fields(item, indent + 4);
				if (i + 1 < json_array_size(v))
					putchar('\n');
			}
			continue;
		}
		if (json_is_object(v)) {
			printf("%*s%s:\n", indent, "", key);
			show_fields(v, indent + 4);
			continue;
		}
		cell(v, is_size(key) ? '%' : 0, text, sizeof(text));
		printf("%*s%-*s %s\n", indent, "", 22 - MIN(indent, 12), key, text);
	}
}

void cli_show(struct cli_call *call, json_t *result)
{
	const char *columns = call->verb->columns;
	json_t *item;
	size_t i;

	if (call->cli->json) {
		cli_show_json(result);
		return;
	}
	if (call->cli->quiet || (columns && !*columns))
		return;
	if (json_is_array(result) && columns) {
		show_table(result, columns);
	} else if (json_is_array(result)) {
		json_array_foreach(result, i, item)
		{
			if (i)
				putchar('\n');
			show_fields(item, 0);
		}
	} else {
		show_fields(result, 0);
	}
}

void cli_show_progress(struct cli *cli, uint64_t id, uint64_t done, uint64_t total,
		       const char *what, uint64_t since_ms)
{
	char bar[41], a[16], b[16];
	unsigned filled = total ? (unsigned)(40 * MIN(done, total) / total) : 0;

	if (cli->progress == CLI_PROGRESS_JSON) {
		fprintf(stderr,
			"{\"task\": %llu, \"done\": %llu, \"total\": %llu, \"seconds\": %.1f}\n",
			(unsigned long long)id, (unsigned long long)done, (unsigned long long)total,
			(double)since_ms / 1000);
		return;
	}
	if (cli->progress == CLI_PROGRESS_NONE || cli->quiet || since_ms < 2000 ||
	    !isatty(STDERR_FILENO))
		return;
	memset(bar, '#', filled);
	memset(bar + filled, '.', 40 - filled);
	bar[40] = 0;
	if (total)
		fprintf(stderr, "\r[%s] %3u%% %s of %s  %.20s\033[K", bar,
			(unsigned)(100 * MIN(done, total) / total), cli_size(done, a),
			cli_size(total, b), what);
	else
		fprintf(stderr, "\r%llu s  %.60s\033[K", (unsigned long long)since_ms / 1000, what);
}

void cli_end_progress(struct cli *cli)
{
	if (cli->progress == CLI_PROGRESS_AUTO && isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);
}

int cli_show_error(struct cli *cli, int err)
{
	if (cli->json) {
		json_t *doc = json_pack("{s:o}", "error", host_error_json(err));

		json_dumpf(doc, stderr, 0);
		fputc('\n', stderr);
		json_decref(doc);
	} else {
		fprintf(stderr, "perilune: %s\n", err_message(err));
	}
	return err_exit_code(err);
}
