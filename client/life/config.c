/* See config.h. One table says names, units, ranges, defaults and environment variables. */
#include "config.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "arith.h"
#include "log.h"
#include "param.h"
#include "replica.h"

static const char *const forks[] = { "copy", "guard", NULL }; /* enum ferryi_fork */
static const char *const oom_policies[] = { "poison", "wait", "abort", NULL }; /* as enum ferryi_oom */
static const char *const modes[] = { "handler", "inline", NULL }; /* enum ferryi_mode */
static const char *const policies[] = { "round-robin", "weighted", "nearest", "fill", NULL }; /* enum ferryi_policy */
static const char *const log_levels[] = { "error", "warn", "notice", "info", "debug", NULL };

#define AT(member) offsetof(struct ferryi_config, member)

static const struct ferryi_param table[] = {
	{ .name = "servers", .type = FERRYI_PARAM_STRING, .offset = AT(servers), .env = "FERRY_SERVERS", .metavar = "URL,...",
	  .text = "Memory servers; none: an embedded one." },
	{ .name = "pool", .type = FERRYI_PARAM_STRING, .offset = AT(pool), .env = "FERRY_POOL", .metavar = "NAME",
	  .text = "Pool at the servers; none: the first." },
	{ .name = "token-file", .type = FERRYI_PARAM_STRING, .offset = AT(token_file), .env = "FERRY_TOKEN_FILE",
	  .metavar = "FILE", .text = "Shared secret of the servers." },
	{ .name = "local", .type = FERRYI_PARAM_SIZE, .offset = AT(local_bytes), .env = "FERRY_LOCAL", .metavar = "SIZE",
	  .unit = "bytes", .min = FERRY_BUDGET_MIN, .deflt = "256M",
	  .text = "Budget: RAM that managed pages may hold." },
	{ .name = "embedded-size", .type = FERRYI_PARAM_SIZE, .offset = AT(embedded_bytes), .env = "FERRY_EMBEDDED_SIZE",
	  .metavar = "SIZE", .unit = "bytes", .deflt = "0", .text = "Pool of the embedded server; 0: half of available RAM." },
	{ .name = "reserve", .type = FERRYI_PARAM_SIZE, .offset = AT(reserve_bytes), .env = "FERRY_RESERVE", .metavar = "SIZE",
	  .unit = "bytes", .deflt = "0", .text = "What the servers must have for this process: leased at open." },
	{ .name = "fault-timeout", .type = FERRYI_PARAM_MS, .offset = AT(fault_timeout_ms), .env = "FERRY_FAULT_TIMEOUT",
	  .metavar = "MS", .unit = "ms", .min = 10, .max = 3600000, .deflt = "10000",
	  .text = "A fault older than this is poisoned." },
	{ .name = "oom", .type = FERRYI_PARAM_ENUM, .offset = AT(oom), .values = oom_policies, .env = "FERRY_OOM",
	  .metavar = "WHAT", .deflt = "poison",
	  .text = "A fault older than that for want of local memory: poison it, wait on, or abort the process." },
	{ .name = "request-timeout", .type = FERRYI_PARAM_MS, .offset = AT(request_timeout_ms),
	  .env = "FERRY_REQUEST_TIMEOUT", .metavar = "MS", .unit = "ms", .min = 10, .max = 3600000, .deflt = "10000",
	  .text = "Deadline of one control request." },
	{ .name = "fault-threads", .type = FERRYI_PARAM_U64, .offset = AT(fault_threads), .env = "FERRY_FAULT_THREADS",
	  .metavar = "N", .min = 1, .max = 16, .deflt = "1", .text = "Fault threads." },
	{ .name = "evict-threads", .type = FERRYI_PARAM_U64, .offset = AT(evict_threads), .env = "FERRY_EVICT_THREADS",
	  .metavar = "N", .min = 1, .max = 16, .deflt = "1", .text = "Eviction threads." },
	{ .name = "readahead", .type = FERRYI_PARAM_U64, .offset = AT(readahead_pages), .env = "FERRY_READAHEAD",
	  .metavar = "PAGES", .min = 1, .max = 512, .deflt = "256", .text = "Largest read-ahead window; 1: none." },
	{ .name = "replicas", .type = FERRYI_PARAM_U64, .offset = AT(replicas), .env = "FERRY_REPLICAS", .metavar = "N",
	  .min = 1, .max = FERRYI_MAX_COPIES, .deflt = "1", .text = "Copies of each page, on as many servers." },
	{ .name = "rebuild-rate", .type = FERRYI_PARAM_SIZE, .offset = AT(rebuild_rate), .env = "FERRY_REBUILD_RATE",
	  .metavar = "SIZE", .unit = "bytes", .min = 1 << 20, .deflt = "200M",
	  .text = "Lost copies are made anew at so many bytes a second." },
	{ .name = "log-level", .type = FERRYI_PARAM_ENUM, .offset = AT(log_level), .values = log_levels,
	  .env = "FERRY_LOG_LEVEL", .metavar = "LEVEL", .deflt = "warn", .text = "Least urgent level that is logged." },
	{ .name = "fork", .type = FERRYI_PARAM_ENUM, .offset = AT(fork), .values = forks, .env = "FERRY_FORK",
	  .metavar = "WAY", .deflt = "copy", .text = "Managed memory in the child of a fork: copy (its own), guard (SIGBUS)." },
	{ .name = "mode", .type = FERRYI_PARAM_ENUM, .offset = AT(mode), .values = modes, .env = "FERRY_MODE",
	  .metavar = "WHO", .deflt = "handler",
	  .text = "Who serves faults: handler (a thread of the library), inline (the faulting thread)." },
	{ .name = "policy", .type = FERRYI_PARAM_ENUM, .offset = AT(policy), .values = policies, .env = "FERRY_POLICY",
	  .metavar = "WHICH", .deflt = "round-robin",
	  .text = "How memory is spread over several pools: round-robin, weighted (by free space), nearest, fill (the first first)." },
	{ .name = "stripe", .type = FERRYI_PARAM_SIZE, .offset = AT(stripe_bytes), .env = "FERRY_STRIPE", .metavar = "SIZE",
	  .unit = "bytes", .min = FERRYI_SUBSECTION_SIZE, .max = 1ULL << 40, .deflt = "2M",
	  .text = "Consecutive bytes of a mapping that go to one pool." },
	{ .name = "servers-optional", .type = FERRYI_PARAM_FLAG, .offset = AT(servers_optional),
	  .env = "FERRY_SERVERS_OPTIONAL", .text = "Go on without a server that cannot be reached, if another can." },
	{ .name = NULL },
};

static uint64_t half_of_available_ram(void)
{
	long pages = sysconf(_SC_AVPHYS_PAGES);
	char line[128];
	unsigned long kib;
	uint64_t bytes = pages > 0 ? (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) : 1ULL << 30;
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "MemAvailable: %lu kB", &kib) == 1)
			bytes = (uint64_t)kib << 10;
	}
	if (f)
		fclose(f);
	return ferryi_max_u64(ferryi_align_down(bytes / 2, FERRYI_SUBSECTION_SIZE), FERRYI_SUBSECTION_SIZE);
}

static int set_number(struct ferryi_config *config, const char *name, uint64_t value, char *err, size_t err_len)
{
	char text[24];

	if (!value)
		return 0;
	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return ferryi_params_set(table, config, name, text, err, err_len);
}

static int set_text(struct ferryi_config *config, const char *name, const char *value, char *err, size_t err_len)
{
	return value ? ferryi_params_set(table, config, name, value, err, err_len) : 0;
}

/* The caller's struct may be older (shorter) than ours: what it lacks is zero. */
static int from_struct(struct ferryi_config *config, const struct ferry_config *cfg, char *err, size_t err_len)
{
	struct ferry_config c = { 0 };

	if (cfg->size < offsetof(struct ferry_config, servers) + sizeof(c.servers)) {
		snprintf(err, err_len, "ferry_config.size is %zu: set it to sizeof(struct ferry_config)", cfg->size);
		return -EINVAL;
	}
	memcpy(&c, cfg, cfg->size < sizeof(c) ? cfg->size : sizeof(c));

	int rc = set_text(config, "servers", c.servers, err, err_len);

	rc = rc ? rc : set_text(config, "pool", c.pool, err, err_len);
	rc = rc ? rc : set_text(config, "token-file", c.token_file, err, err_len);
	rc = rc ? rc : set_text(config, "log-level", c.log_level, err, err_len);
	rc = rc ? rc : set_text(config, "fork", c.fork, err, err_len);
	rc = rc ? rc : set_text(config, "oom", c.oom, err, err_len);
	rc = rc ? rc : set_text(config, "mode", c.mode, err, err_len);
	rc = rc ? rc : set_text(config, "policy", c.policy, err, err_len);
	rc = rc ? rc : set_text(config, "servers-optional", c.servers_optional, err, err_len);
	rc = rc ? rc : set_number(config, "stripe", c.stripe_bytes, err, err_len);
	rc = rc ? rc : set_number(config, "local", c.local_bytes, err, err_len);
	rc = rc ? rc : set_number(config, "embedded-size", c.embedded_bytes, err, err_len);
	rc = rc ? rc : set_number(config, "reserve", c.reserve_bytes, err, err_len);
	rc = rc ? rc : set_number(config, "fault-timeout", c.fault_timeout_ms, err, err_len);
	rc = rc ? rc : set_number(config, "request-timeout", c.request_timeout_ms, err, err_len);
	rc = rc ? rc : set_number(config, "fault-threads", c.fault_threads, err, err_len);
	rc = rc ? rc : set_number(config, "evict-threads", c.evict_threads, err, err_len);
	rc = rc ? rc : set_number(config, "replicas", c.replicas, err, err_len);
	rc = rc ? rc : set_number(config, "rebuild-rate", c.rebuild_rate, err, err_len);
	return rc ? rc : set_number(config, "readahead", c.readahead_pages, err, err_len);
}

int ferryi_config_init(struct ferryi_config *config, const struct ferry_config *cfg, char *err, size_t err_len)
{
	memset(config, 0, sizeof(*config));
	int rc = ferryi_params_init(table, config, err, err_len);

	if (!rc)
		rc = cfg ? from_struct(config, cfg, err, err_len) : ferryi_params_env(table, config, err, err_len);
	if (!rc && !ferryi_is_aligned(config->stripe_bytes, FERRYI_SUBSECTION_SIZE)) {
		snprintf(err, err_len, "stripe: %llu bytes is not a multiple of 2 MiB", (unsigned long long)config->stripe_bytes);
		rc = -EINVAL;
	}
	if (rc) {
		ferryi_config_fini(config);
		return rc;
	}
	config->local_bytes = ferryi_align_down(config->local_bytes, FERRYI_PAGE_SIZE);
	config->embedded_bytes = config->embedded_bytes ?
					 ferryi_align_up(config->embedded_bytes, FERRYI_SUBSECTION_SIZE) :
					 half_of_available_ram();
	return 0;
}

void ferryi_config_fini(struct ferryi_config *config)
{
	ferryi_params_fini(table, config);
}
