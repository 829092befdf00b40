/* Parameter tables: the command line, by getopt_long. Start-up code: single-threaded, uses malloc. */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "err.h"
#include "param.h"
#include "param_priv.h"

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
	if (!ferryi_param_find_short(table, 'h'))
		*s++ = 'h';
	if (!ferryi_param_find_short(table, 'V'))
		*s++ = 'V';
	if (!ferryi_param_find(table, "help"))
		set->longs[n++] = (struct option){.name = "help", .val = LONG_HELP};
	if (!ferryi_param_find(table, "version"))
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
		return ferryi_err(-EINVAL, err, err_len, "unknown option '-%c': see --help", optopt);
	if (optopt)
		return ferryi_err(-EINVAL, err, err_len, "%s: takes no value",
				  optopt == LONG_HELP ? "--help" : "--version");
	if (strncmp(arg, "--", 2) != 0)
		return ferryi_err(-EINVAL, err, err_len, "unknown option '%s': see --help", arg);
	if (count_prefix(set, arg) > 1)
		return ferryi_err(-EINVAL, err, err_len,
				  "option '%s' may be several: write it in full, see --help", arg);
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(arg + 2, "="), arg + 2);
	return ferryi_param_unknown(table, "option", "--", name, err, err_len);
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
		return ferryi_err(-EINVAL, err, err_len, "out of memory");
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
			p = ferryi_param_find_short(table, c == ':' || c == '?' ? optopt : c);

		if (c == LONG_HELP || (c == 'h' && !p)) {
			rc = -ENODATA;
		} else if (c == LONG_VERSION || (c == 'V' && !p)) {
			rc = -ENOTSUP;
		} else if (c == ':') {
			if (optopt >= LONG_BASE)
				p = &table[optopt - LONG_BASE];
			rc = ferryi_err(-EINVAL, err, err_len, "--%s: needs a value: --%s=%s",
					p ? p->name : "?", p ? p->name : "?",
					p && p->metavar ? p->metavar : "VALUE");
		} else if (c == '?') {
			rc = fail_option(table, &set, arg ? arg : "?", err, err_len);
		} else {
			snprintf(label, sizeof(label), "--%s", p->name);
			rc = ferryi_param_assign(p, cfg, label, optarg, err, err_len);
		}
		if (rc)
			break;
	}
	if (rc == 0)
		*first_operand = optind;
	optset_fini(&set);
	return rc;
}
