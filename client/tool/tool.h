/*
 * What the subcommands of `ferry` share: the command table, one way to parse
 * options and to fail, the list of servers, sample statistics. One thread
 * unless a file says otherwise; start-up style code that may use malloc.
 */
#ifndef FERRYI_TOOL_H
#define FERRYI_TOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "param.h"

#define FERRYI_TOOL_OK	   0
#define FERRYI_TOOL_FAILED 1 /* the work could not be done */
#define FERRYI_TOOL_USAGE  2 /* the command line is wrong */

struct ferryi_tool_command {
	const char *name;
	const char *usage;
	const char *text; /* one sentence */
	const struct ferryi_param *params;
	void (*more)(void); /* prints what else --help has to say; or NULL */
	/* argv[0] is the command's name. Returns the exit status. */
	int (*run)(const struct ferryi_tool_command *command, int argc, char **argv);
};

extern const struct ferryi_tool_command ferryi_tool_bench;
extern const struct ferryi_tool_command ferryi_tool_doctor;
extern const struct ferryi_tool_command ferryi_tool_drain;
extern const struct ferryi_tool_command ferryi_tool_pools;
extern const struct ferryi_tool_command ferryi_tool_top;

/* "ferry COMMAND: ..." on stderr, one line; returns status. */
int ferryi_tool_fail(const struct ferryi_tool_command *command, int status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Defaults, environment, then the command line into cfg (zeroed by the
 * caller). Operands are gathered, in order, in operands[0 .. *noperands).
 * Returns -1 to go on, else the exit status (help, version, or wrong use).
 */
int ferryi_tool_options(const struct ferryi_tool_command *command, void *cfg, int argc, char **argv,
			const char **operands, unsigned max_operands, unsigned *noperands);

/* ---- servers ---- */

#define FERRYI_TOOL_URL_LEN	512
#define FERRYI_TOOL_MAX_SERVERS 64

/* Takes the next URL off a comma list; false when none is left. A URL too long is cut (and then refused by
 * its parser). */
bool ferryi_tool_next_server(const char **list, char url[FERRYI_TOOL_URL_LEN]);

/*
 * The list with those that are found (etcd://, ferry+srv://) in place of where they are found. The caller frees it. NULL: it
 * names no server, or these cannot be found: *status is the exit status, and a line has been written.
 */
char *ferryi_tool_expand_servers(const struct ferryi_tool_command *command, const char *list, uint64_t timeout_ms,
				 int *status);

/* ---- samples ---- */

/* Latencies in ns, kept whole so that quantiles are exact. */
struct ferryi_samples {
	uint64_t *ns;
	size_t n, max;
};

int ferryi_samples_init(struct ferryi_samples *samples, size_t max); /* 0 or -ENOMEM */
void ferryi_samples_fini(struct ferryi_samples *samples);
/* Beyond max samples are dropped. */
static inline void ferryi_samples_add(struct ferryi_samples *samples, uint64_t ns)
{
	if (samples->n < samples->max)
		samples->ns[samples->n++] = ns;
}
/* Sorts them; microseconds at quantile q of 0..1, NaN when there are none. */
double ferryi_samples_us(struct ferryi_samples *samples, double q);

/* Middle value of v[0..n), reorders it; NaNs are left out; NaN when nothing is left. */
double ferryi_median(double *v, size_t n);

/* xorshift64*: the same numbers for the same seed on every machine. state may not be 0. */
static inline uint64_t ferryi_tool_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}

#endif
