/*
 * Parameter tables: one assignment function for every source of values
 * (defaults, environment, config file; the command line is in param_args.c).
 * Start-up code: single-threaded, uses malloc. The config struct is zeroed by
 * its owner before ferryi_params_init, which sets only what has a default.
 */
#include "param.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "err.h"
#include "param_priv.h"

static void *target_of(const struct ferryi_param *p, void *cfg)
{
	return (char *)cfg + p->offset;
}

const struct ferryi_param *ferryi_param_find(const struct ferryi_param *table, const char *name)
{
	for (const struct ferryi_param *p = table; p->name; p++) {
		if (strcmp(p->name, name) == 0)
			return p;
	}
	return NULL;
}

const struct ferryi_param *ferryi_param_find_short(const struct ferryi_param *table, int c)
{
	for (const struct ferryi_param *p = table; c > 0 && p->name; p++) {
		if (p->short_opt == c)
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

void ferryi_param_format_range(const struct ferryi_param *p, char *buf, size_t buf_len)
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
		return ferryi_err(-EINVAL, err, err_len, "%s: '%s' is not %s", label, value, want);

	ferryi_param_format_range(p, range, sizeof(range));
	if (rc == -ERANGE || number < p->min || (p->max && number > p->max)) {
		/* "--size 2" where 2G was meant. */
		bool bare = p->type == FERRYI_PARAM_SIZE && rc == 0 && number < p->min &&
			    value[strspn(value, "0123456789")] == '\0';

		return ferryi_err(-EINVAL, err, err_len, "%s: '%s' is out of range: give %s%s", label, value,
				  range, bare ? " (a number without K, M, G or T is bytes)" : "");
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
	return ferryi_err(-EINVAL, err, err_len, "%s: '%s' is neither yes nor no", label, value);
}

void ferryi_param_list_values(const struct ferryi_param *p, char *buf, size_t buf_len)
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
	ferryi_param_list_values(p, list, sizeof(list));
	return ferryi_err(-EINVAL, err, err_len, "%s: '%s' is not one of: %s", label, value, list);
}

static int set_string(const struct ferryi_param *p, void *cfg, const char *label, const char *value,
		      char *err, size_t err_len)
{
	char **target = target_of(p, cfg);
	char *copy = strdup(value);

	if (!copy)
		return ferryi_err(-EINVAL, err, err_len, "%s: out of memory", label);
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
	return ferryi_err(-EINVAL, err, err_len, "%s: %s", label, why[0] ? why : "not accepted");
}

/* `label` is how the user named the row: "--size", "FERRY_LOCAL", "size". */
int ferryi_param_assign(const struct ferryi_param *p, void *cfg, const char *label, const char *value,
			char *err, size_t err_len)
{
	if (p->type == FERRYI_PARAM_FLAG)
		return set_flag(p, cfg, label, value, err, err_len);
	if (!value)
		return ferryi_err(-EINVAL, err, err_len, "%s: needs a value: %s=%s", label, label,
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
	return ferryi_err(-EINVAL, err, err_len, "%s: row of an unknown type", label);
}

int ferryi_params_init(const struct ferryi_param *table, void *cfg, char *err, size_t err_len)
{
	for (const struct ferryi_param *p = table; p->name; p++) {
		if (!p->deflt)
			continue;

		int rc = ferryi_param_assign(p, cfg, p->name, p->deflt, err, err_len);

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

		int rc = ferryi_param_assign(p, cfg, p->env, value, err, err_len);

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

int ferryi_param_unknown(const struct ferryi_param *table, const char *kind, const char *dashes,
			 const char *name, char *err, size_t err_len)
{
	const struct ferryi_param *near = nearest(table, name);

	if (near)
		return ferryi_err(-EINVAL, err, err_len, "unknown %s '%s%s': did you mean '%s%s'?", kind,
				  dashes, name, dashes, near->name);
	return ferryi_err(-EINVAL, err, err_len, "unknown %s '%s%s': see --help", kind, dashes, name);
}

int ferryi_params_set(const struct ferryi_param *table, void *cfg, const char *name, const char *value,
		      char *err, size_t err_len)
{
	const struct ferryi_param *p = ferryi_param_find(table, name);

	if (!p)
		return ferryi_param_unknown(table, "parameter", "", name, err, err_len);
	return ferryi_param_assign(p, cfg, name, value, err, err_len);
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
		return ferryi_err(-EINVAL, err, err_len, "empty list: give KEY=VALUE[,KEY=VALUE...]");
	copy = strdup(text);
	if (!copy)
		return ferryi_err(-EINVAL, err, err_len, "out of memory");
	rest = copy;
	while (rc == 0 && (item = strsep(&rest, ",")) != NULL) {
		char *value = strchr(item, '=');

		if (value)
			*value++ = '\0';
		if (!*item)
			rc = ferryi_err(-EINVAL, err, err_len,
					"'%s': nothing before %s: give KEY=VALUE[,KEY=VALUE...]", text,
					value ? "'='" : "or after ','");
		else
			rc = set(ctx, item, value, err, err_len);
	}
	free(copy);
	return rc;
}
