/*
 * Parameter tables: one assignment function for every source (defaults,
 * environment, config file, command line), one help text.
 * Start-up code: single-threaded, uses malloc. The config struct is zeroed by
 * its owner before ferryi_params_init, which sets only what has a default.
 */
#include "param.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"

#define HELP_WIDTH  80
#define HELP_INDENT 8

static int fail(char *err, size_t err_len, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static int fail(char *err, size_t err_len, const char *fmt, ...)
{
	va_list args;

	if (err && err_len) {
		va_start(args, fmt);
		vsnprintf(err, err_len, fmt, args);
		va_end(args);
	}
	return -EINVAL;
}

static void *target_of(const struct ferryi_param *p, void *cfg)
{
	return (char *)cfg + p->offset;
}

static const struct ferryi_param *find_row(const struct ferryi_param *table, const char *name)
{
	for (const struct ferryi_param *p = table; p->name; p++) {
		if (strcmp(p->name, name) == 0)
			return p;
	}
	return NULL;
}

/* ---- values ---- */

static int parse_ms(const char *text, uint64_t *out)
{
	char digits[24];
	size_t len = strspn(text, "0123456789");
	uint64_t scale = 1;
	uint64_t value = 0;

	if (strcmp(text + len, "s") == 0)
		scale = 1000;
	else if (text[len] && strcmp(text + len, "ms") != 0)
		return -EINVAL;
	if (len == 0)
		return -EINVAL;
	if (len >= sizeof(digits))
		return -ERANGE;
	memcpy(digits, text, len);
	digits[len] = '\0';

	int rc = ferryi_parse_u64(digits, &value);

	if (rc)
		return rc;
	if (__builtin_mul_overflow(value, scale, &value))
		return -ERANGE;
	*out = value;
	return 0;
}

/* A bound of the row as its user would write it. */
static const char *format_value(const struct ferryi_param *p, uint64_t value, char *buf, size_t buf_len)
{
	if (p->type == FERRYI_PARAM_SIZE)
		return ferryi_format_size(value, buf, buf_len);
	snprintf(buf, buf_len, "%llu", (unsigned long long)value);
	return buf;
}

static const char *unit_of(const struct ferryi_param *p)
{
	if (p->type == FERRYI_PARAM_MS)
		return " ms";
	return "";
}

static void format_range(const struct ferryi_param *p, char *buf, size_t buf_len)
{
	char low[24];
	char high[24];

	format_value(p, p->min, low, sizeof(low));
	if (p->max)
		snprintf(buf, buf_len, "from %s to %s%s", low, format_value(p, p->max, high, sizeof(high)),
			 unit_of(p));
	else
		snprintf(buf, buf_len, "%s%s or more", low, unit_of(p));
}

static int set_number(const struct ferryi_param *p, void *cfg, const char *label, const char *value,
		      char *err, size_t err_len)
{
	char range[64];
	uint64_t number = 0;
	const char *want;
	int rc;

	switch (p->type) {
	case FERRYI_PARAM_SIZE:
		rc = ferryi_parse_size(value, &number);
		want = "a size in bytes, or with K, M, G or T, such as 512M";
		break;
	case FERRYI_PARAM_MS:
		rc = parse_ms(value, &number);
		want = "a time in milliseconds, or with ms or s, such as 500ms or 10s";
		break;
	default:
		rc = ferryi_parse_u64(value, &number);
		want = "a whole number";
		break;
	}
	if (rc == -EINVAL)
		return fail(err, err_len, "%s: '%s' is not %s", label, value, want);

	format_range(p, range, sizeof(range));
	if (rc == -ERANGE || number < p->min || (p->max && number > p->max)) {
		/* "--size 2" where 2G was meant. */
		bool bare = p->type == FERRYI_PARAM_SIZE && rc == 0 && number < p->min &&
			    value[strspn(value, "0123456789")] == '\0';

		return fail(err, err_len, "%s: '%s' is out of range: give %s%s", label, value, range,
			    bare ? " (a number without K, M, G or T is bytes)" : "");
	}
	*(uint64_t *)target_of(p, cfg) = number;
	return 0;
}

static int set_flag(const struct ferryi_param *p, void *cfg, const char *label, const char *value, char *err,
		    size_t err_len)
{
	static const char *const yes[] = {"yes", "true", "1", NULL};
	static const char *const no[] = {"no", "false", "0", NULL};
	bool *target = target_of(p, cfg);

	if (!value) {
		*target = true;
		return 0;
	}
	for (size_t i = 0; yes[i]; i++) {
		if (strcmp(value, yes[i]) == 0 || strcmp(value, no[i]) == 0) {
			*target = strcmp(value, yes[i]) == 0;
			return 0;
		}
	}
	return fail(err, err_len, "%s: '%s' is neither yes nor no", label, value);
}

static void list_values(const struct ferryi_param *p, char *buf, size_t buf_len)
{
	size_t len = 0;

	buf[0] = '\0';
	for (size_t i = 0; p->values[i] && len < buf_len; i++)
		len += (size_t)snprintf(buf + len, buf_len - len, "%s%s", i ? ", " : "", p->values[i]);
}

static int set_enum(const struct ferryi_param *p, void *cfg, const char *label, const char *value, char *err,
		    size_t err_len)
{
	char list[128];

	for (int i = 0; p->values[i]; i++) {
		if (strcmp(p->values[i], value) == 0) {
			*(int *)target_of(p, cfg) = i;
			return 0;
		}
	}
	list_values(p, list, sizeof(list));
	return fail(err, err_len, "%s: '%s' is not one of: %s", label, value, list);
}

static int set_string(const struct ferryi_param *p, void *cfg, const char *label, const char *value,
		      char *err, size_t err_len)
{
	char **target = target_of(p, cfg);
	char *copy = strdup(value);

	if (!copy)
		return fail(err, err_len, "%s: out of memory", label);
	free(*target);
	*target = copy;
	return 0;
}

static int set_call(const struct ferryi_param *p, void *cfg, const char *label, const char *value, char *err,
		    size_t err_len)
{
	char why[FERRYI_PARAM_ERR_LEN] = "";

	if (p->call(cfg, value, why, sizeof(why)) == 0)
		return 0;
	return fail(err, err_len, "%s: %s", label, why[0] ? why : "not accepted");
}

/* `label` is how the user named the row: "--size", "FERRY_LOCAL", "size". */
static int set_row(const struct ferryi_param *p, void *cfg, const char *label, const char *value, char *err,
		   size_t err_len)
{
	if (p->type == FERRYI_PARAM_FLAG)
		return set_flag(p, cfg, label, value, err, err_len);
	if (!value)
		return fail(err, err_len, "%s: needs a value: %s=%s", label, label,
			    p->metavar ? p->metavar : "VALUE");

	switch (p->type) {
	case FERRYI_PARAM_U64:
	case FERRYI_PARAM_SIZE:
	case FERRYI_PARAM_MS:
		return set_number(p, cfg, label, value, err, err_len);
	case FERRYI_PARAM_STRING:
		return set_string(p, cfg, label, value, err, err_len);
	case FERRYI_PARAM_ENUM:
		return set_enum(p, cfg, label, value, err, err_len);
	case FERRYI_PARAM_CALL:
		return set_call(p, cfg, label, value, err, err_len);
	case FERRYI_PARAM_FLAG:
		break;
	}
	return fail(err, err_len, "%s: row of an unknown type", label);
}

int ferryi_params_init(const struct ferryi_param *table, void *cfg, char *err, size_t err_len)
{
	for (const struct ferryi_param *p = table; p->name; p++) {
		if (!p->deflt)
			continue;

		int rc = set_row(p, cfg, p->name, p->deflt, err, err_len);

		if (rc)
			return rc;
	}
	return 0;
}

int ferryi_params_env(const struct ferryi_param *table, void *cfg, char *err, size_t err_len)
{
	for (const struct ferryi_param *p = table; p->name; p++) {
		const char *value = p->env ? getenv(p->env) : NULL;

		if (!value || !*value) /* an empty variable is the shell's way to unset one */
			continue;

		int rc = set_row(p, cfg, p->env, value, err, err_len);

		if (rc)
			return rc;
	}
	return 0;
}

/* ---- names ---- */

#define NAME_CMP_MAX 40

/* Edits (insert, delete, replace) from a to b. */
static size_t distance(const char *a, const char *b)
{
	size_t row[NAME_CMP_MAX + 1];
	size_t nb = strlen(b);

	if (nb > NAME_CMP_MAX)
		return NAME_CMP_MAX;
	for (size_t j = 0; j <= nb; j++)
		row[j] = j;
	for (size_t i = 0; a[i]; i++) {
		size_t diagonal = row[0];

		row[0] = i + 1;
		for (size_t j = 0; j < nb; j++) {
			size_t best = diagonal + (a[i] != b[j]);

			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j + 1] + 1 < best)
				best = row[j + 1] + 1;
			diagonal = row[j + 1];
			row[j + 1] = best;
		}
	}
	return row[nb];
}

/* The row that was likely meant, or NULL. */
static const struct ferryi_param *nearest(const struct ferryi_param *table, const char *name)
{
	const struct ferryi_param *found = NULL;
	size_t least = 3; /* more than two edits is another word */

	for (const struct ferryi_param *p = table; p->name; p++) {
		size_t d = distance(name, p->name);

		if (d < least && d < strlen(p->name)) {
			least = d;
			found = p;
		}
	}
	return found;
}

static int fail_unknown(const struct ferryi_param *table, const char *kind, const char *dashes,
			const char *name, char *err, size_t err_len)
{
	const struct ferryi_param *near = nearest(table, name);

	if (near)
		return fail(err, err_len, "unknown %s '%s%s': did you mean '%s%s'?", kind, dashes, name,
			    dashes, near->name);
	return fail(err, err_len, "unknown %s '%s%s': see --help", kind, dashes, name);
}

int ferryi_params_set(const struct ferryi_param *table, void *cfg, const char *name, const char *value,
		      char *err, size_t err_len)
{
	const struct ferryi_param *p = find_row(table, name);

	if (!p)
		return fail_unknown(table, "parameter", "", name, err, err_len);
	return set_row(p, cfg, name, value, err, err_len);
}

/* ---- command line ---- */

enum { LONG_BASE = 0x1000, LONG_HELP = 0x800, LONG_VERSION };

struct optset {
	struct option *longs; /* rows in table order, then help, version, end */
	char *shorts;
};

static size_t count_rows(const struct ferryi_param *table)
{
	size_t n = 0;

	while (table[n].name)
		n++;
	return n;
}

static const struct ferryi_param *find_short(const struct ferryi_param *table, int c)
{
	for (const struct ferryi_param *p = table; c > 0 && p->name; p++) {
		if (p->short_opt == c)
			return p;
	}
	return NULL;
}

static void optset_fini(struct optset *set)
{
	free(set->longs);
	free(set->shorts);
}

static int optset_init(struct optset *set, const struct ferryi_param *table)
{
	size_t n = count_rows(table);
	char *s;

	set->longs = calloc(n + 3, sizeof(*set->longs));
	set->shorts = calloc(2 * n + 8, 1);
	if (!set->longs || !set->shorts) {
		optset_fini(set);
		return -ENOMEM;
	}
	s = set->shorts;
	*s++ = '+'; /* stop at the first operand: it may be a program with options of its own */
	*s++ = ':'; /* tell a missing value from an unknown option */
	for (size_t i = 0; i < n; i++) {
		bool flag = table[i].type == FERRYI_PARAM_FLAG;

		set->longs[i] = (struct option){
			.name = table[i].name,
			.has_arg = flag ? optional_argument : required_argument,
			.val = LONG_BASE + (int)i,
		};
		if (table[i].short_opt) {
			*s++ = table[i].short_opt;
			if (!flag)
				*s++ = ':';
		}
	}
	if (!find_short(table, 'h'))
		*s++ = 'h';
	if (!find_short(table, 'V'))
		*s++ = 'V';
	if (!find_row(table, "help"))
		set->longs[n++] = (struct option){.name = "help", .val = LONG_HELP};
	if (!find_row(table, "version"))
		set->longs[n] = (struct option){.name = "version", .val = LONG_VERSION};
	return 0;
}

/* Long options that begin with what `arg` ("--po=x") names: 0, 1 or more. */
static size_t count_prefix(const struct optset *set, const char *arg)
{
	size_t len = strcspn(arg + 2, "=");
	size_t n = 0;

	for (const struct option *o = set->longs; o->name; o++)
		n += strncmp(o->name, arg + 2, len) == 0;
	return n;
}

static int fail_option(const struct ferryi_param *table, const struct optset *set, const char *arg, char *err,
		       size_t err_len)
{
	char name[64];

	if (optopt && optopt < LONG_HELP)
		return fail(err, err_len, "unknown option '-%c': see --help", optopt);
	if (optopt)
		return fail(err, err_len, "%s: takes no value", optopt == LONG_HELP ? "--help" : "--version");
	if (strncmp(arg, "--", 2) != 0)
		return fail(err, err_len, "unknown option '%s': see --help", arg);
	if (count_prefix(set, arg) > 1)
		return fail(err, err_len, "option '%s' may be several: write it in full, see --help", arg);
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(arg + 2, "="), arg + 2);
	return fail_unknown(table, "option", "--", name, err, err_len);
}

int ferryi_params_args(const struct ferryi_param *table, void *cfg, int argc, char **argv, int *first_operand,
		       char *err, size_t err_len)
{
	const struct ferryi_param *p;
	struct optset set;
	char label[80];
	int rc = 0;
	int c;

	if (optset_init(&set, table) != 0)
		return fail(err, err_len, "out of memory");
	opterr = 0;
	optind = 0; /* glibc: start anew, whatever an earlier call left */
	for (;;) {
		const char *arg = optind < argc ? argv[optind ? optind : 1] : NULL;

		optopt = 0;
		c = getopt_long(argc, argv, set.shorts, set.longs, NULL);
		if (c == -1)
			break;
		if (c >= LONG_BASE)
			p = &table[c - LONG_BASE];
		else
			p = find_short(table, c == ':' || c == '?' ? optopt : c);

		if (c == LONG_HELP || (c == 'h' && !p)) {
			rc = -ENODATA;
		} else if (c == LONG_VERSION || (c == 'V' && !p)) {
			rc = -ENOTSUP;
		} else if (c == ':') {
			if (optopt >= LONG_BASE)
				p = &table[optopt - LONG_BASE];
			rc = fail(err, err_len, "--%s: needs a value: --%s=%s", p ? p->name : "?",
				  p ? p->name : "?", p && p->metavar ? p->metavar : "VALUE");
		} else if (c == '?') {
			rc = fail_option(table, &set, arg ? arg : "?", err, err_len);
		} else {
			snprintf(label, sizeof(label), "--%s", p->name);
			rc = set_row(p, cfg, label, optarg, err, err_len);
		}
		if (rc)
			break;
	}
	if (rc == 0)
		*first_operand = optind;
	optset_fini(&set);
	return rc;
}

/* ---- help ---- */

static void print_wrapped(FILE *out, const char *text)
{
	size_t column = HELP_INDENT;

	fprintf(out, "%*s", HELP_INDENT, "");
	while (*text) {
		size_t len = strcspn(text, " ");

		if (column > HELP_INDENT && column + 1 + len > HELP_WIDTH) {
			fprintf(out, "\n%*s", HELP_INDENT, "");
			column = HELP_INDENT;
		} else if (column > HELP_INDENT) {
			fputc(' ', out);
			column++;
		}
		fprintf(out, "%.*s", (int)len, text);
		column += len;
		text += len;
		text += strspn(text, " ");
	}
	fputc('\n', out);
}

static void print_row(FILE *out, const struct ferryi_param *p)
{
	char facts[320] = "";
	char text[768];
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
		list_values(p, list, sizeof(list));
		len += (size_t)snprintf(facts + len, sizeof(facts) - len, "; one of: %s", list);
	}
	if (number && (p->min || p->max)) {
		format_range(p, list, sizeof(list));
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
	print_wrapped(out, text);
}

void ferryi_params_help(FILE *out, const char *usage, const char *intro, const struct ferryi_param *table)
{
	fprintf(out, "usage: %s\n\n%s\n\noptions:\n", usage, intro);
	for (const struct ferryi_param *p = table; p->name; p++)
		print_row(out, p);
	if (!find_row(table, "help"))
		fprintf(out, "%s --help\n        Print this text and exit.\n",
			find_short(table, 'h') ? "     " : "  -h,");
	if (!find_row(table, "version"))
		fprintf(out, "%s --version\n        Print the version and exit.\n",
			find_short(table, 'V') ? "     " : "  -V,");
}

void ferryi_params_fini(const struct ferryi_param *table, void *cfg)
{
	for (const struct ferryi_param *p = table; p->name; p++) {
		if (p->type != FERRYI_PARAM_STRING)
			continue;

		char **target = target_of(p, cfg);

		free(*target);
		*target = NULL;
	}
}

/* ---- key=value lists ---- */

int ferryi_keyvals_parse(const char *text,
			 int (*set)(void *ctx, const char *key, const char *value, char *err, size_t err_len),
			 void *ctx, char *err, size_t err_len)
{
	char *copy;
	char *rest;
	char *item;
	int rc = 0;

	if (!*text)
		return fail(err, err_len, "empty list: give KEY=VALUE[,KEY=VALUE...]");
	copy = strdup(text);
	if (!copy)
		return fail(err, err_len, "out of memory");
	rest = copy;
	while (rc == 0 && (item = strsep(&rest, ",")) != NULL) {
		char *value = strchr(item, '=');

		if (value)
			*value++ = '\0';
		if (!*item)
			rc = fail(err, err_len, "'%s': nothing before %s: give KEY=VALUE[,KEY=VALUE...]",
				  text, value ? "'='" : "or after ','");
		else
			rc = set(ctx, item, value, err, err_len);
	}
	free(copy);
	return rc;
}
