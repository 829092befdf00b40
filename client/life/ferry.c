/*
 * ferry_open and ferry_close: puts the rooms together, and takes them apart in
 * reverse. One struct ferry a process.
 */
#include "life.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "log.h"
#include "param.h"

#define ARENA_WANT  ((size_t)256 << 30) /* address space only: page words of 128 TiB, at 8 bytes a page */
#define ARENA_LEAST ((size_t)1 << 30)
#define EMBEDDED_START_MS 10000

static struct ferryi_mutex open_lock = FERRYI_MUTEX_INIT(FERRYI_RANK_FERRY);
static _Atomic(struct ferry *) the_ferry;

struct ferry *ferryi_the_ferry(void)
{
	return atomic_load_explicit(&the_ferry, memory_order_acquire);
}

int ferryi_ferry_check(const struct ferry *ferry, const char *call)
{
	if (!ferry || ferry != ferryi_the_ferry() || ferry->magic != FERRYI_FERRY_MAGIC)
		return ferryi_control_fail(-EINVAL, "%s: not an open struct ferry", call);
	if (ferryi_pager_is_forked(ferry->pager))
		return ferryi_control_fail(-EINVAL, "%s: this struct ferry is the parent's; open one in the child", call);
	return 0;
}

const char *ferry_version(void)
{
	return FERRYI_VERSION;
}

const char *ferry_last_error(void)
{
	return ferryi_control_last_error();
}

static void on_access(void *ctx, struct ferryi_access_call *call)
{
	struct ferry *ferry = ctx;

	ferryi_exports_on_access(&ferry->exports, call);
}

static int start_control(struct ferry *ferry)
{
	struct ferryi_control_attr attr = {
		.token_file = ferry->config.token_file,
		.connect_ms = ferry->config.request_timeout_ms,
		.request_ms = ferry->config.request_timeout_ms,
		.on_state = ferryi_on_session_state,
		.on_access = on_access,
		.ctx = ferry,
	};

	if (!ferry->config.servers || !ferry->config.servers[0]) {
		int rc = ferryi_embedded_start(ferry->config.embedded_bytes, ferryi_deadline_ms(EMBEDDED_START_MS),
					       &ferry->embedded);

		if (rc)
			return rc;
		attr.token = ferryi_embedded_token(ferry->embedded);
		attr.token_file = NULL;
	}
	return ferryi_control_open(&attr, &ferry->control);
}

/* Everything but the pager, which must be closed or never opened. */
static void dismantle(struct ferry *ferry)
{
	struct ferryi_arena *arena = ferry->arena;

	ferryi_exports_stop(&ferry->exports);
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = ferryi_take_pool_off(ferry, i);

		if (pool)
			ferryi_end_pool(&pool, false);
	}
	for (unsigned i = 0; i < ferry->nr_sessions; i++)
		ferryi_session_close(&ferry->sessions[i]);
	ferryi_close_lost_sessions(ferry);
	ferryi_control_close(&ferry->control);
	ferryi_exports_close(&ferry->exports);
	ferryi_embedded_stop(&ferry->embedded);
	ferryi_memory_model_close(&ferry->model);
	ferryi_config_fini(&ferry->config);
	ferryi_mutex_fini(&ferry->loss_lock);
	ferryi_mutex_fini(&ferry->lock);
	ferry->magic = 0;
	ferryi_arena_close(&arena); /* holds struct ferry too */
}

/* 0, or as ferryi_pager_release: it is as it was. */
static int close_pager(struct ferry *ferry)
{
	int rc = ferryi_pager_release(ferry->pager);

	if (rc)
		return rc;
	ferryi_pager_rebuild_stop(ferry->pager);
	ferryi_mutex_lock(&ferry->loss_lock);
	struct ferryi_pager *pager = ferry->pager;

	ferry->pager = NULL;
	ferryi_mutex_unlock(&ferry->loss_lock);
	ferryi_pager_close(&pager);
	return 0;
}

static int build(const struct ferry_config *cfg, struct ferry **out)
{
	char err[FERRYI_PARAM_ERR_LEN];
	struct ferryi_config config;
	struct ferryi_arena *arena;
	int rc = ferryi_config_init(&config, cfg, err, sizeof(err));

	if (rc)
		return ferryi_control_fail(rc, "%s", err);
	ferryi_log_set_ident("ferry"); /* looks at the environment now, not on the fault path */
	ferryi_log_set_level((enum ferryi_log_level)config.log_level);
	ferryi_fabric_setup();
	if (ferryi_arena_open(ARENA_WANT, ARENA_LEAST, &arena)) {
		ferryi_config_fini(&config);
		return ferryi_control_fail(-ENOMEM, "cannot reserve %zu GiB of address space: raise RLIMIT_AS (ulimit -v)",
					   ARENA_LEAST >> 30);
	}
	struct ferry *ferry = ferryi_arena_alloc(arena, sizeof(*ferry));

	if (!ferry) {
		ferryi_config_fini(&config);
		ferryi_arena_close(&arena);
		return ferryi_control_fail(-ENOMEM, "no memory for the library's own tables");
	}
	ferry->magic = FERRYI_FERRY_MAGIC;
	ferry->arena = arena;
	ferry->config = config;
	ferryi_mutex_init(&ferry->lock, FERRYI_RANK_FERRY);
	ferryi_mutex_init(&ferry->loss_lock, FERRYI_RANK_LOSS);
	ferryi_exports_open(&ferry->exports, &ferry->mirrors, arena);

	struct ferryi_pager_attr pager_attr = {
		.arena = arena,
		.budget_bytes = config.local_bytes,
		.fault_timeout_ms = (uint32_t)config.fault_timeout_ms,
		.oom = (enum ferryi_oom)config.oom,
		.fault_threads = (uint32_t)config.fault_threads,
		.evict_threads = (uint32_t)config.evict_threads,
		.readahead_pages = (uint32_t)config.readahead_pages,
		.fork_copies = config.fork == FERRYI_FORK_COPY,
		.rebuild_rate = config.rebuild_rate,
		.find_servers = ferryi_find_servers,
		.find_ctx = ferry,
		.policy = (enum ferryi_policy)config.policy,
		.stripe_bytes = config.stripe_bytes,
	};

	rc = ferryi_mirrors_open(&ferry->mirrors, ferry);
	if (rc)
		goto err_mirrors;
	pager_attr.notifier = &ferry->mirrors.notifier;
	rc = ferryi_memory_model_open(arena, &ferry->model);
	if (rc) {
		ferryi_control_fail(rc, "cannot reserve address space for page descriptors: raise RLIMIT_AS (ulimit -v)");
		goto err_ferry;
	}
	pager_attr.model = ferry->model;
	rc = ferryi_pager_open(&pager_attr, &ferry->pager);
	if (rc)
		goto err_ferry;
	ferry->mirrors.pager = ferry->pager;
	rc = start_control(ferry);
	if (!rc)
		rc = ferryi_scout_attach(ferry);
	if (!rc && config.replicas > 1) {
		rc = ferryi_pager_rebuild_start(ferry->pager);
		if (rc)
			ferryi_control_fail(rc, "replicas: no thread to make lost copies anew (%s)", ferryi_strerror(rc));
	}
	if (rc)
		goto err_pager;
	*out = ferry;
	return 0;

err_pager:
	close_pager(ferry); /* nothing is managed yet: cannot fail */
err_ferry:
	ferryi_mirrors_close(&ferry->mirrors);
err_mirrors:
	dismantle(ferry);
	return rc;
}

/* exit(3), by whoever; not _exit, nor a signal: what a server lent it knows by the connection's end. */
static void on_exit_of_process(void)
{
	struct ferry *ferry = ferryi_the_ferry();

	if (!ferry || ferryi_pager_is_forked(ferry->pager))
		return;
	ferryi_mirrors_exit(&ferry->mirrors);
	ferryi_mutex_lock(&open_lock); /* not beside a ferry_close, which does the same */
	if (ferry == ferryi_the_ferry())
		ferryi_pager_exit(ferry->pager);
	ferryi_mutex_unlock(&open_lock);
}

static void register_exit(void)
{
	if (atexit(on_exit_of_process))
		ferryi_warn("no exit handler can be registered: mirrors are not released at exit, and children of fork lose what is away then");
}

int ferry_open(const struct ferry_config *cfg, struct ferry **out)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	struct ferry *ferry;
	int rc;

	if (!out)
		return ferryi_control_fail(-EINVAL, "open: out is NULL");
	ferryi_mutex_lock(&open_lock);
	struct ferry *inherited = ferryi_the_ferry();

	/* In a child of fork the parent's is only replaced: its ranges go on as they are. */
	if (inherited && !ferryi_pager_is_forked(inherited->pager)) {
		rc = ferryi_control_fail(-EBUSY, "open: this process has an open struct ferry already");
	} else {
		rc = build(cfg, &ferry);
		if (!rc) {
			atomic_store_explicit(&the_ferry, ferry, memory_order_release);
			ferryi_move_leaving(ferry); /* of what began to drain meanwhile */
			pthread_once(&once, register_exit);
			ferryi_scout_start(ferry);
			*out = ferry;
		}
	}
	ferryi_mutex_unlock(&open_lock);
	return rc;
}

int ferry_close(struct ferry *ferry)
{
	ferryi_mutex_lock(&open_lock);
	int rc = ferryi_ferry_check(ferry, "close");

	if (!rc)
		rc = ferryi_mirrors_begin_close(&ferry->mirrors);
	if (!rc) {
		ferryi_exports_pause(&ferry->exports);
		ferryi_scout_stop(ferry); /* it attaches to the pager */
		rc = close_pager(ferry);
		if (rc) {
			ferryi_scout_start(ferry);
			ferryi_exports_resume(&ferry->exports);
			ferryi_mirrors_undo_close(&ferry->mirrors);
		}
	}
	if (!rc) {
		atomic_store_explicit(&the_ferry, NULL, memory_order_release);
		ferryi_mirrors_close(&ferry->mirrors);
		dismantle(ferry);
	}
	ferryi_mutex_unlock(&open_lock);
	return rc;
}

uint64_t ferry_caps(struct ferry *ferry)
{
	return ferryi_ferry_check(ferry, "caps") ? 0 : ferryi_pager_caps(ferry->pager);
}
