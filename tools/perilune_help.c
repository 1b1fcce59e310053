// SPDX-License-Identifier: Apache-2.0
/* perilune_help.c: help, within 80 columns, from the tables of verbs. */
#include "tools/perilune_cli.h"

#include <stdio.h>
#include <string.h>

#include "base/util.h"

#define WIDTH 79

/* Prints words, breaking lines before WIDTH; `column` is where the text stands. */
static void flow(const char *text, size_t column, size_t indent)
{
	bool first = true;

	while (*text) {
		size_t n = strcspn(text, " ");

		if (!first && column + 1 + n > WIDTH) {
			printf("\n%*s", (int)indent, "");
			column = indent;
		} else if (!first) {
			putchar(' ');
			column++;
		}
		printf("%.*s", (int)n, text);
		column += n;
		text += n + (text[n] == ' ');
		first = false;
	}
	putchar('\n');
}

/* "key=LABEL..." as people read it. */
static void operands_text(const char *spec, char *dst, size_t size)
{
	size_t n = 0;

	dst[0] = 0;
	while (*spec) {
		size_t len = strcspn(spec, " ");
		const char *label = memchr(spec, '=', len);
		bool optional = spec[0] == '[';
		int w;

		MUST(label);
		label++;
		w = snprintf(dst + n, size - n, " %s%.*s", optional ? "[" : "",
			     (int)(len - (size_t)(label - spec)), label);
		n = MIN(size - 1, n + (size_t)w);
		spec += len + (spec[len] == ' ');
	}
}

static void synopsis(const struct cli_verb *v, char *dst, size_t size)
{
	char operands[200];
	size_t n;

	operands_text(v->operands, operands, sizeof(operands));
	n = (size_t)snprintf(dst, size, "perilune %s%s%s%s", v->noun, *v->verb ? " " : "", v->verb,
			     operands);
	for (const struct cli_option *o = v->options; o && o->name; o++)
		n += (size_t)snprintf(dst + MIN(n, size - 1), size - MIN(n, size - 1),
				      " %s--%s%s%s%s%s", o->required ? "" : "[", o->name,
				      o->arg ? "\x01" : "", o->arg ? o->arg : "",
				      o->required ? "" : "]", o->kind == CLI_LIST ? "..." : "");
}

/* An option and its value, joined by \x01, stay on one line. */
static void print_synopsis(const struct cli_verb *v)
{
	char text[1024], *p = text;
	size_t column = 7;

	synopsis(v, text, sizeof(text));
	fputs("usage: ", stdout);
	while (*p) {
		size_t n = strcspn(p, " ");

		if (column + n + 1 > WIDTH) {
			printf("\n         ");
			column = 9;
		}
		for (size_t i = 0; i < n; i++)
			putchar(p[i] == '\x01' ? ' ' : p[i]);
		column += n + 1;
		p += n + (p[n] == ' ');
		if (*p)
			putchar(' ');
	}
	putchar('\n');
}

void cli_help_verb(const struct cli_verb *v)
{
	print_synopsis(v);
	putchar('\n');
	flow(v->about, 0, 0);
	if (v->options && v->options->name)
		puts("\noptions:");
	for (const struct cli_option *o = v->options; o && o->name; o++) {
		int n = printf("  --%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");

		if (n < 23)
			printf("%*s", 24 - n, "");
		else
			printf("\n%24s", "");
		flow(o->help, 24, 24);
	}
	printf("\nexample: %s\n", v->example);
	puts("global options (--json, --yes, --progress ...): see perilune --help");
}

static void list_verbs(const char *noun)
{
	const char *last = "";

	for (const struct cli_verb *const *t = cli_tables; *t; t++) {
		for (const struct cli_verb *v = *t; v->noun; v++) {
			int n;

			if (noun && strcmp(noun, v->noun))
				continue;
			n = printf("  %-7s %s", strcmp(last, v->noun) ? v->noun : "", v->verb);
			last = v->noun;
			printf("%*s", n < 24 ? 25 - n : 1, "");
			flow(v->about, 25, 25);
		}
	}
}

void cli_help(const char *noun)
{
	if (noun) {
		printf("usage: perilune %s VERB [OPTIONS] [OBJECTS]\n\n", noun);
		list_verbs(noun);
		printf("\nexample: perilune %s --help\n", noun);
		return;
	}
	puts("usage: perilune [GLOBAL OPTIONS] NOUN VERB [OPTIONS] [OBJECTS]\n"
	     "\n"
	     "Drives this host's perilund: shared LUNs, volumes on them, disks, VMs.\n"
	     "`perilune NOUN VERB --help` tells all of one verb.\n");
	list_verbs(NULL);
	puts("\nglobal options:\n"
	     "  --connect DIR|SOCKET   which daemon (or PERILUNE_CONNECT); default\n"
	     "                         /run/perilune/api.sock\n"
	     "  --on HOST              let that host do it (see host list)\n"
	     "  --json                 one JSON document on standard output\n"
	     "  --progress=auto|none|json\n"
	     "  --yes                  yes to the question of what destroys\n"
	     "  --dry-run              say what would be done, do nothing\n"
	     "  -q, -v                 less talk, more talk\n"
	     "  --help, --version\n"
	     "\n"
	     "exit: 0 ok, 1 failed, 2 usage, 3 not found, 4 busy, 5 refused for safety,\n"
	     "      6 no space, 7 integrity, 8 unreachable, 9 timed out\n"
	     "\n"
	     "example: perilune lun probe /srv/lun0.img");
}

void cli_help_markdown(void)
{
	char text[1024];

	for (const struct cli_verb *const *t = cli_tables; *t; t++)
		for (const struct cli_verb *v = *t; v->noun; v++) {
			synopsis(v, text, sizeof(text));
			for (char *p = text; (p = strchr(p, '\x01')); p++)
				*p = ' ';
			printf("`%s`\n: %s\n\n", text, v->about);
		}
}
