/* SIGHUP. See reload.h. */
#include "reload.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "clock.h"
#include "config.h"
#include "jobs.h"
#include "log.h"

#define SCRUB_WAIT_MS 30000 /* how long a pool that shrinks waits for memory that is being zeroed */

struct ferryi_reload {
	/* immutable */
	struct ferryi_hub *hub;
	int argc;
	char **argv;
	/* owned by the control thread */
	struct ferryi_jobs *jobs; /* not the hub's: populating lasts, and no client should wait for it */
	struct event *on_jobs;
};

/* ---- one pool ---- */

struct resize_job {
	struct ferryi_job job;
	struct ferryi_pool *pool;
	uint64_t to_bytes;
	bool changes;
	int rc;
	char err[FERRYI_CONFIG_ERR_LEN];
};

static void resize_run(struct ferryi_job *job)
{
	struct resize_job *r = (struct resize_job *)job;

	r->changes = r->to_bytes != ferryi_pool_size(r->pool);
	r->rc = ferryi_pool_resize(r->pool, r->to_bytes, ferryi_deadline_ms(SCRUB_WAIT_MS), r->err,
				   sizeof(r->err));
}

static void resize_done(struct ferryi_job *job)
{
	struct resize_job *r = (struct resize_job *)job;
	char text[16];

	if (r->rc)
		ferryi_error("reload: %s", r->err);
	else if (r->changes)
		ferryi_notice("reload: pool %s: size is %s now", ferryi_pool_spec(r->pool)->name,
			      ferryi_format_size(r->to_bytes, text, sizeof(text)));
	free(r);
}

static void resize(struct ferryi_reload *reload, struct ferryi_pool *pool, uint64_t to_bytes)
{
	struct resize_job *r = calloc(1, sizeof(*r));

	if (!r) {
		ferryi_error("reload: pool %s: out of memory", ferryi_pool_spec(pool)->name);
		return;
	}
	r->job.run = resize_run;
	r->job.done = resize_done;
	r->pool = pool;
	r->to_bytes = to_bytes;
	ferryi_jobs_submit(reload->jobs, 0, &r->job);
}

/* ---- all pools ---- */

static const struct ferryi_pool_spec *find_spec(const struct ferryi_config *config, const char *name)
{
	for (unsigned i = 0; i < config->npools; i++) {
		if (strcmp(config->pools[i].name, name) == 0)
			return &config->pools[i];
	}
	return NULL;
}

/* All but the size is as it was. */
static bool is_same_memory(const struct ferryi_pool_spec *is, const struct ferryi_pool_spec *again)
{
	return is->type == again->type && strcmp(is->path, again->path) == 0 &&
	       is->numa_node == again->numa_node && is->huge_page_bytes == again->huge_page_bytes &&
	       is->reserve == again->reserve && (!again->backing || is->backing == again->backing);
}

static void reload_pools(struct ferryi_reload *reload, const struct ferryi_config *config)
{
	const struct ferryi_hub *hub = reload->hub;
	unsigned found = 0;

	for (unsigned i = 0; i < hub->npools; i++) {
		const struct ferryi_pool_spec *is = ferryi_pool_spec(hub->pools[i]);
		const struct ferryi_pool_spec *again = find_spec(config, is->name);

		found += again != NULL;
		if (!again)
			ferryi_warn("reload: pool %s is not there any more: it is served until a restart",
				    is->name);
		else if (!is_same_memory(is, again))
			ferryi_warn("reload: pool %s: only its size can change without a restart", is->name);
		else
			resize(reload, hub->pools[i], again->size_bytes);
	}
	if (found < config->npools)
		ferryi_warn("reload: new pools need a restart");
}

void ferryi_reload_run(struct ferryi_reload *reload)
{
	struct ferryi_config *config = malloc(sizeof(*config)); /* large */
	char err[FERRYI_CONFIG_ERR_LEN] = "out of memory";

	if (!config || ferryi_config_load(config, reload->argc, reload->argv, err, sizeof(err))) {
		ferryi_error("reload: nothing changed: %s", err);
		free(config);
		return;
	}
	ferryi_log_set_level((enum ferryi_log_level)config->log_level);
	ferryi_users_limit(&reload->hub->users, &config->quotas);
	ferryi_notice("reload: log level is taken over, quotas, and the sizes of pools; addresses, fabrics, "
		      "limits and "
		      "secrets need a restart");
	if (!atomic_load(&reload->hub->draining))
		reload_pools(reload, config);
	ferryi_config_fini(config);
	free(config);
}

/* ---- life ---- */

static void on_finished_jobs(evutil_socket_t fd, short what, void *ctx)
{
	struct ferryi_reload *reload = ctx;

	(void)fd;
	(void)what;
	ferryi_jobs_reap(reload->jobs);
}

int ferryi_reload_create(struct ferryi_hub *hub, struct event_base *base, int argc, char **argv,
			 struct ferryi_reload **out)
{
	struct ferryi_reload *reload = calloc(1, sizeof(*reload));
	int rc;

	*out = NULL;
	if (!reload)
		return -ENOMEM;
	reload->hub = hub;
	reload->argc = argc;
	reload->argv = argv;
	rc = ferryi_jobs_create(1, &reload->jobs);
	if (!rc) {
		reload->on_jobs = event_new(base, ferryi_jobs_fd(reload->jobs), EV_READ | EV_PERSIST,
					    on_finished_jobs, reload);
		rc = reload->on_jobs && !event_add(reload->on_jobs, NULL) ? 0 : -ENOMEM;
	}
	if (rc) {
		ferryi_reload_destroy(&reload);
		return rc;
	}
	*out = reload;
	return 0;
}

void ferryi_reload_destroy(struct ferryi_reload **reloadp)
{
	struct ferryi_reload *reload = *reloadp;

	*reloadp = NULL;
	if (!reload)
		return;
	if (reload->on_jobs)
		event_free(reload->on_jobs);
	ferryi_jobs_destroy(&reload->jobs);
	free(reload);
}
