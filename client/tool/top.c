/* `ferry top`: servers and their pools, again and again. One session a server, kept from one look to the next. */
#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arith.h"
#include "clock.h"
#include "control.h"
#include "tool.h"

#define MAX_POOLS 64
#define MAX_STATS 256

struct top_options {
	const char *servers;
	const char *token_file;
	uint64_t timeout_ms, interval_ms, count;
	bool json, once;
};

#define AT(member) offsetof(struct top_options, member)

static const struct ferryi_param params[] = {
	{.name = "servers",
	 .short_opt = 's',
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(servers),
	 .env = "FERRY_SERVERS",
	 .metavar = "URL,...",
	 .text = "Servers to watch, each ferry://HOST:PORT; or where they are found, etcd:// or ferry+srv://, as they "
		 "are at the start."},
	{.name = "token-file",
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(token_file),
	 .env = "FERRY_TOKEN_FILE",
	 .metavar = "FILE",
	 .text = "File with the servers' token."},
	{.name = "interval",
	 .short_opt = 'i',
	 .type = FERRYI_PARAM_MS,
	 .offset = AT(interval_ms),
	 .min = 100,
	 .max = 3600000,
	 .deflt = "2s",
	 .metavar = "TIME",
	 .unit = "ms",
	 .text = "From one look to the next."},
	{.name = "count",
	 .short_opt = 'n',
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(count),
	 .deflt = "0",
	 .metavar = "N",
	 .text = "So many looks; 0: until it is interrupted."},
	{.name = "once", .type = FERRYI_PARAM_FLAG, .offset = AT(once), .text = "One look, without rates."},
	{.name = "timeout",
	 .type = FERRYI_PARAM_MS,
	 .offset = AT(timeout_ms),
	 .min = 1,
	 .max = 600000,
	 .deflt = "5s",
	 .metavar = "TIME",
	 .unit = "ms",
	 .text = "How long to wait for a server's answer."},
	{.name = "json", .type = FERRYI_PARAM_FLAG, .offset = AT(json), .text = "One JSON object a server and look."},
	{.name = NULL},
};

/* What one look at a server has found. */
struct sample {
	uint64_t at_ns; /* 0: it did not answer */
	int npools, nstats;
	struct ferryi_pool_info pools[MAX_POOLS];
	struct ferryi_session_stat stats[MAX_STATS];
};

struct watched {
	char url[FERRYI_TOOL_URL_LEN];
	struct ferryi_session *session; /* NULL: to be opened */
	struct sample now, last;
	char why[256]; /* it does not answer */
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
	(void)sig;
	interrupted = 1;
}

/* ---- looking ---- */

static bool take_sample(struct watched *w)
{
	struct sample *now = &w->now;

	now->npools = ferryi_session_pools(w->session, now->pools, MAX_POOLS);
	if (now->npools < 0)
		return false;
	now->npools = now->npools < MAX_POOLS ? now->npools : MAX_POOLS;
	now->nstats = ferryi_session_stats(w->session, now->stats, MAX_STATS);
	if (now->nstats < 0)
		return false;
	now->nstats = now->nstats < MAX_STATS ? now->nstats : MAX_STATS;
	now->at_ns = ferryi_now_ns();
	return true;
}

static bool look(struct ferryi_control *control, struct watched *w)
{
	w->last = w->now;
	w->now.at_ns = 0;
	if (w->session == NULL && ferryi_session_open(control, w->url, &w->session) != 0)
		w->session = NULL;
	else if (take_sample(w))
		return true;
	snprintf(w->why, sizeof(w->why), "%s", ferryi_control_last_error());
	if (w->session != NULL)
		ferryi_session_close(&w->session); /* anew at the next look */
	return false;
}

static bool stat_of(const struct sample *s, const char *name, uint64_t *value)
{
	for (int i = 0; s->at_ns && i < s->nstats; i++) {
		if (strcmp(s->stats[i].name, name) == 0) {
			*value = s->stats[i].value;
			return true;
		}
	}
	return false;
}

static uint64_t value_of(const struct sample *s, const char *name)
{
	uint64_t value = 0;

	stat_of(s, name, &value);
	return value;
}

/* A second, between the last look and this one; false: there was none, or the server has started anew. */
static bool rate_of(const struct watched *w, const char *name, double *rate)
{
	uint64_t now, before;

	if (!stat_of(&w->now, name, &now) || !stat_of(&w->last, name, &before) || now < before)
		return false;
	*rate = (double)(now - before) * 1e9 / (double)(w->now.at_ns - w->last.at_ns);
	return true;
}

/* Bytes a second by which what is lent of the pool has grown, or shrunk. */
static bool growth_of(const struct watched *w, const struct ferryi_pool_info *pool, double *rate)
{
	for (int i = 0; w->last.at_ns && i < w->last.npools; i++) {
		const struct ferryi_pool_info *before = &w->last.pools[i];

		if (strcmp(before->name, pool->name) != 0)
			continue;
		*rate = ((double)pool->leased_bytes - (double)before->leased_bytes) * 1e9 /
			(double)(w->now.at_ns - w->last.at_ns);
		return true;
	}
	return false;
}

/* ---- showing ---- */

static const char *rate_text(bool known, double rate, char buf[32])
{
	snprintf(buf, 32, known ? "%.1f" : "-", rate);
	return buf;
}

static const char *growth_text(bool known, double rate, char buf[32])
{
	char size[32];

	if (!known)
		return "-";
	snprintf(buf, 32, "%s%.24s", rate < 0 ? "-" : rate > 0 ? "+" : "",
		 ferryi_format_size((uint64_t)(rate < 0 ? -rate : rate), size, sizeof(size)));
	return buf;
}

static const char *size_text(uint64_t bytes, char buf[32])
{
	return ferryi_format_size(bytes, buf, 32);
}

static void print_servers(const struct watched *servers, unsigned n)
{
	char requests[32], grants[32];

	printf("%-28s %8s %8s %8s %8s %8s %8s %8s\n", "SERVER", "SESSIONS", "LEASES", "EXTENTS", "REQ/S", "GRANTS/S",
	       "REFUSED", "FAILURES");
	for (unsigned i = 0; i < n; i++) {
		const struct watched *w = &servers[i];
		double r = 0, g = 0;

		if (!w->now.at_ns) {
			printf("%-28s %s\n", w->url, w->why);
			continue;
		}
		bool has_r = rate_of(w, "c_requests_total", &r), has_g = rate_of(w, "c_grants_total", &g);

		printf("%-28s %8llu %8llu %8llu %8s %8s %8llu %8llu\n", ferryi_session_name(w->session),
		       (unsigned long long)value_of(&w->now, "g_sessions"), (unsigned long long)value_of(&w->now, "g_leases"),
		       (unsigned long long)value_of(&w->now, "g_extents"), rate_text(has_r, r, requests),
		       rate_text(has_g, g, grants), (unsigned long long)value_of(&w->now, "c_grants_refused_total"),
		       (unsigned long long)value_of(&w->now, "c_memory_failures_total"));
	}
}

static void print_pools(const struct watched *servers, unsigned n)
{
	char size[32], avail[32], leased[32], scrub[32], growth[32];

	printf("\n%-28s %-16s %-8s %8s %8s %8s %8s %9s\n", "SERVER", "POOL", "TYPE", "SIZE", "FREE", "LEASED", "SCRUB",
	       "LEASED/S");
	for (unsigned i = 0; i < n; i++) {
		const struct watched *w = &servers[i];

		for (int k = 0; w->now.at_ns && k < w->now.npools; k++) {
			const struct ferryi_pool_info *pool = &w->now.pools[k];
			double rate = 0;
			bool known = growth_of(w, pool, &rate);

			printf("%-28s %-16s %-8s %8s %8s %8s %8s %9s\n", ferryi_session_name(w->session), pool->name,
			       pool->type, size_text(pool->size_bytes, size), size_text(pool->free_bytes, avail),
			       size_text(pool->leased_bytes, leased), size_text(pool->scrub_bytes, scrub),
			       growth_text(known, rate, growth));
		}
	}
}

static void add_rate(struct json_object *o, const char *name, bool known, double rate)
{
	char text[48];

	snprintf(text, sizeof(text), "%.1f", rate);
	json_object_object_add(o, name, known ? json_object_new_double_s(rate, text) : NULL);
}

static struct json_object *pools_json(const struct watched *w)
{
	struct json_object *list = json_object_new_array();

	for (int k = 0; k < w->now.npools; k++) {
		const struct ferryi_pool_info *pool = &w->now.pools[k];
		struct json_object *o = json_object_new_object();
		double rate = 0;
		bool known = growth_of(w, pool, &rate);

		json_object_object_add(o, "pool", json_object_new_string(pool->name));
		json_object_object_add(o, "type", json_object_new_string(pool->type));
		json_object_object_add(o, "size_bytes", json_object_new_uint64(pool->size_bytes));
		json_object_object_add(o, "free_bytes", json_object_new_uint64(pool->free_bytes));
		json_object_object_add(o, "leased_bytes", json_object_new_uint64(pool->leased_bytes));
		json_object_object_add(o, "scrub_bytes", json_object_new_uint64(pool->scrub_bytes));
		add_rate(o, "leased_bytes_per_s", known, rate);
		json_object_array_add(list, o);
	}
	return list;
}

/* Every figure of the server by its own name, so that what a newer one counts is there too. */
static void print_json(const struct watched *w)
{
	struct json_object *o = json_object_new_object();
	double rate = 0;

	json_object_object_add(o, "url", json_object_new_string(w->url));
	if (!w->now.at_ns) {
		json_object_object_add(o, "error", json_object_new_string(w->why));
	} else {
		struct json_object *stats = json_object_new_object();

		json_object_object_add(o, "server", json_object_new_string(ferryi_session_name(w->session)));
		json_object_object_add(o, "server_id", json_object_new_string(ferryi_session_server_id(w->session)));
		for (int i = 0; i < w->now.nstats; i++)
			json_object_object_add(stats, w->now.stats[i].name, json_object_new_uint64(w->now.stats[i].value));
		json_object_object_add(o, "stats", stats);
		bool known = rate_of(w, "c_requests_total", &rate);

		add_rate(o, "requests_per_s", known, rate);
		known = rate_of(w, "c_grants_total", &rate);
		add_rate(o, "grants_per_s", known, rate);
		json_object_object_add(o, "pools", pools_json(w));
	}
	printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
}

static void show(const struct watched *servers, unsigned n, const struct top_options *options)
{
	if (options->json) {
		for (unsigned i = 0; i < n; i++)
			print_json(&servers[i]);
	} else {
		if (!options->once && isatty(STDOUT_FILENO))
			fputs("\033[H\033[2J", stdout); /* home, clear */
		print_servers(servers, n);
		print_pools(servers, n);
		if (!options->once && !isatty(STDOUT_FILENO))
			putchar('\n');
	}
	fflush(stdout);
}

/* ---- the command ---- */

/* true: it is time; false: interrupted. */
static bool wait_until(uint64_t deadline_ns)
{
	while (!interrupted) {
		int ms = ferryi_remaining_ms(deadline_ns);

		if (!ms)
			return true;
		poll(NULL, 0, ms); /* a signal ends it */
	}
	return false;
}

/* How many do not answer at the last look. */
static unsigned watch(struct ferryi_control *control, struct watched *servers, unsigned n, const struct top_options *options)
{
	uint64_t next_ns = ferryi_now_ns(), left = options->once ? 1 : options->count;
	unsigned away;

	do {
		away = 0;
		for (unsigned i = 0; i < n && !interrupted; i++)
			away += !look(control, &servers[i]);
		if (interrupted)
			break;
		show(servers, n, options);
		next_ns += options->interval_ms * FERRYI_NS_PER_MS;
		if (next_ns < ferryi_now_ns())
			next_ns = ferryi_now_ns();
	} while ((!left || --left) && !ferror(stdout) && wait_until(next_ns));
	return away;
}

static unsigned split(const char *list, struct watched *servers)
{
	unsigned n = 0;

	while (n < FERRYI_TOOL_MAX_SERVERS && ferryi_tool_next_server(&list, servers[n].url))
		n++;
	return n;
}

static int top_run(const struct ferryi_tool_command *command, int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_interrupt};
	struct top_options options = {0};
	struct ferryi_control *control = NULL;
	struct watched *servers = NULL;
	char *list = NULL;
	unsigned noperands, n = 0, away;
	int status = ferryi_tool_options(command, &options, argc, argv, NULL, 0, &noperands);

	if (status >= 0)
		goto out;
	list = ferryi_tool_expand_servers(command, options.servers, options.timeout_ms, &status);
	if (list == NULL)
		goto out;
	servers = calloc(FERRYI_TOOL_MAX_SERVERS, sizeof(*servers));
	if (servers == NULL) {
		status = ferryi_tool_fail(command, FERRYI_TOOL_FAILED, "out of memory");
		goto out;
	}
	struct ferryi_control_attr attr = {.token_file = options.token_file,
					   .connect_ms = options.timeout_ms,
					   .request_ms = options.timeout_ms};

	if (ferryi_control_open(&attr, &control) != 0) {
		status = ferryi_tool_fail(command, FERRYI_TOOL_FAILED, "%s", ferryi_control_last_error());
		goto out;
	}
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	n = split(list, servers);
	away = watch(control, servers, n, &options);
	status = FERRYI_TOOL_OK;
	for (unsigned i = 0; i < n && away && !interrupted; i++) {
		if (!servers[i].now.at_ns)
			status = ferryi_tool_fail(command, FERRYI_TOOL_FAILED, "%s", servers[i].why);
	}
	for (unsigned i = 0; i < n; i++) {
		if (servers[i].session != NULL)
			ferryi_session_close(&servers[i].session);
	}
	ferryi_control_close(&control);
out:
	free(servers);
	free(list);
	ferryi_params_fini(params, &options);
	return status;
}

const struct ferryi_tool_command ferryi_tool_top = {
	.name = "top",
	.usage = "ferry top [--servers URL,...] [--interval TIME] [--once] [--json]",
	.text = "Watches memory servers and their pools.",
	.params = params,
	.run = top_run,
};
