/* Parameter tables: the text of --help. Start-up code: single-threaded. */
#include <stdbool.h>
#include <string.h>

#include "param.h"
#include "param_priv.h"

#define WIDTH  80
#define INDENT 8

/* Words in lines of WIDTH, each line after `indent` blanks; a newline of the text begins one too. */
static void print_wrapped(FILE *out, const char *text, size_t indent)
{
	size_t column = 0;

	while (*text) {
		size_t len = strcspn(text, " \n");

		if (column && column + 1 + len > WIDTH) {
			fputc('\n', out);
			column = 0;
		}
		if (len) {
			column +=
				(size_t)fprintf(out, "%*s%.*s", column ? 1 : (int)indent, "", (int)len, text);
			text += len;
		}
		if (*text == '\n') {
			fputc('\n', out);
			column = 0;
		}
		text += *text != '\0';
	}
	fputc('\n', out);
}

static void print_row(FILE *out, const struct ferryi_param *p)
{
	char facts[320] = "";
	char text[1536];
	char list[128];
	size_t len = 0;
	bool number =
		p->type == FERRYI_PARAM_U64 || p->type == FERRYI_PARAM_SIZE || p->type == FERRYI_PARAM_MS;

	if (p->short_opt)
		fprintf(out, "  -%c, --%s", p->short_opt, p->name);
	else
		fprintf(out, "      --%s", p->name);
	if (p->type != FERRYI_PARAM_FLAG)
		fprintf(out, "=%s", p->metavar ? p->metavar : "VALUE");
	fputc('\n', out);

	if (p->type == FERRYI_PARAM_ENUM) {
		ferryi_param_list_values(p, list, sizeof(list));
		len += (size_t)snprintf(facts + len, sizeof(facts) - len, "; one of: %s", list);
	}
	if (number && (p->min || p->max)) {
		ferryi_param_format_range(p, list, sizeof(list));
		len += (size_t)snprintf(facts + len, sizeof(facts) - len, "; %s", list);
	}
	if (p->unit)
		len += (size_t)snprintf(facts + len, sizeof(facts) - len, "; unit: %s", p->unit);
	if (p->deflt)
		len += (size_t)snprintf(facts + len, sizeof(facts) - len, "; default: %s", p->deflt);
	if (p->env && len < sizeof(facts))
		snprintf(facts + len, sizeof(facts) - len, "; environment: %s", p->env);

	if (facts[0])
		snprintf(text, sizeof(text), "%s (%s)", p->text ? p->text : "", facts + 2);
	else
		snprintf(text, sizeof(text), "%s", p->text ? p->text : "");
	print_wrapped(out, text, INDENT);
}

void ferryi_params_help(FILE *out, const char *usage, const char *intro, const struct ferryi_param *table)
{
	fprintf(out, "usage: %s\n\n", usage);
	print_wrapped(out, intro, 0);
	fputs("\noptions:\n", out);
	for (const struct ferryi_param *p = table; p->name; p++)
		print_row(out, p);
	if (!ferryi_param_find(table, "help"))
		fprintf(out, "%s --help\n        Print this text and exit.\n",
			ferryi_param_find_short(table, 'h') ? "     " : "  -h,");
	if (!ferryi_param_find(table, "version"))
		fprintf(out, "%s --version\n        Print the version and exit.\n",
			ferryi_param_find_short(table, 'V') ? "     " : "  -V,");
}
