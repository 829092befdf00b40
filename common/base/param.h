/*
 * Parameters as tables: name, type, unit, range, default and text in one row.
 * Command-line parsing (on getopt_long), --help, environment and config-file
 * assignment and the man page's option list all come from the same table.
 * Start-up code only: single-threaded, uses malloc.
 */
#ifndef FERRYI_BASE_PARAM_H
#define FERRYI_BASE_PARAM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum ferryi_param_type {
	FERRYI_PARAM_FLAG,   /* bool; true when named, or "yes"/"no"/"true"/"false"/"1"/"0" as a value */
	FERRYI_PARAM_U64,    /* uint64_t, plain number */
	FERRYI_PARAM_SIZE,   /* uint64_t bytes; K/M/G/T */
	FERRYI_PARAM_MS,     /* uint64_t milliseconds; plain number, or with "ms" or "s" */
	FERRYI_PARAM_STRING, /* const char *, strdup'ed copy */
	FERRYI_PARAM_ENUM,   /* int: index into `values` */
	FERRYI_PARAM_CALL,   /* calls `call(cfg, value, err, err_len)`; may repeat */
};

#define FERRYI_PARAM_ERR_LEN 256

struct ferryi_param {
	const char *name; /* long option without "--"; key in a config file */
	char short_opt;   /* or 0 */
	enum ferryi_param_type type;
	size_t offset;             /* of the target inside the config struct */
	uint64_t min, max;         /* numbers; max 0: no upper bound */
	const char *deflt;         /* text of the default, applied by params_init; NULL: none */
	const char *const *values; /* ENUM: NULL-terminated */
	const char *env;           /* environment variable that sets it, or NULL */
	const char *metavar;       /* "SIZE", "HOST:PORT" */
	const char *unit;          /* "bytes", "ms", or NULL */
	const char *text;          /* one sentence */
	int (*call)(void *cfg, const char *value, char *err, size_t err_len);
};

/*
 * A table ends with a row whose name is NULL. Every function returns 0 or
 * -EINVAL with one clear line in err. cfg is zeroed by its owner before
 * params_init; an empty environment variable counts as not set. "--help"/-h
 * and "--version"/-V are there without a row.
 */
int ferryi_params_init(const struct ferryi_param *table, void *cfg, char *err, size_t err_len);
int ferryi_params_env(const struct ferryi_param *table, void *cfg, char *err, size_t err_len);
int ferryi_params_set(const struct ferryi_param *table, void *cfg, const char *name, const char *value,
		      char *err, size_t err_len);
/*
 * Parses options up to the first operand or "--"; *first_operand is its index
 * in argv. -ENODATA: --help was asked for (the caller prints and exits 0);
 * -ENOTSUP: --version.
 */
int ferryi_params_args(const struct ferryi_param *table, void *cfg, int argc, char **argv, int *first_operand,
		       char *err, size_t err_len);
void ferryi_params_help(FILE *out, const char *usage, const char *intro, const struct ferryi_param *table);
/* Frees the strings that the table put into cfg. */
void ferryi_params_fini(const struct ferryi_param *table, void *cfg);

/*
 * Splits "key=value,key=value" (a value may not hold a comma) and calls set()
 * for each; a bare "key" has value NULL. Returns the first non-zero of set(),
 * or -EINVAL.
 */
int ferryi_keyvals_parse(const char *text,
			 int (*set)(void *ctx, const char *key, const char *value, char *err, size_t err_len),
			 void *ctx, char *err, size_t err_len);

#endif
