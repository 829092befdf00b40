/* Replicas of pools: at which servers, when a pool is attached and when one was lost. */
#include <errno.h>
#include <stdio.h>

#include "error.h"
#include "life.h"
#include "log.h"

unsigned ferryi_copies_of(const struct ferry *ferry, const struct ferry_pool_attr *attr)
{
	bool is_plain = !attr->name && !attr->ops && !attr->altmap && attr->type != FERRY_MEM_COHERENT;

	return is_plain ? (unsigned)ferry->config.replicas : 0;
}

/* Memory of the pool's type at that server: in the pool that the configuration names, or another. */
static int open_lease(struct ferry *ferry, struct ferry_pool *pool, struct ferryi_session *session, struct ferryi_lease **out)
{
	struct ferryi_lease_want want = { .pool = ferry->config.pool,
					  .type = ferryi_lease_pool_type(ferryi_pool_lease(pool)) };
	int rc = ferryi_lease_open_as(session, &want, out);

	if (rc == -ENXIO && want.pool) {
		want.pool = NULL;
		rc = ferryi_lease_open_as(session, &want, out);
	}
	return rc;
}

static int add_at(struct ferry *ferry, struct ferry_pool *pool, struct ferryi_session *session, bool is_new)
{
	struct ferryi_replica *replica;
	struct ferryi_lease *lease;
	char line[1024];
	int index = ferryi_free_index(ferry);

	if (index < 0)
		return ferryi_control_fail(-ENOMEM, "replicas: %u pools and replicas of pools are there already",
					   FERRYI_MAX_POOLS_ATTACHED);
	int rc = open_lease(ferry, pool, session, &lease);

	if (rc)
		return rc;
	rc = ferryi_replica_open(pool, lease, (unsigned)index, &replica);
	if (rc) {
		ferryi_lease_close(&lease);
		return ferryi_control_fail(rc, "replicas: no address space for a replica's table");
	}
	rc = ferryi_pager_add_replica(ferry->pager, replica, is_new);
	if (rc) {
		snprintf(line, sizeof(line), "%s", ferryi_control_last_error());
		ferryi_replica_close(&replica);
		return ferryi_control_fail(rc, "%s", line);
	}
	ferry->busy[index] = true;
	/* From here on a loss of the session reaches the replica; one that came before is seen here. */
	if (ferryi_session_state(session) == FERRYI_SESSION_LOST)
		ferryi_pool_session_lost(pool, session, ferryi_session_lost_reason(session));
	if (ferryi_session_state(session) == FERRYI_SESSION_DRAINING)
		ferryi_pool_session_leaves(pool, session);
	return 0;
}

/* The servers after the pool's own, in turn, so that replicas are spread as pools are. */
static int add_somewhere(struct ferry *ferry, struct ferry_pool *pool, bool is_new)
{
	unsigned nr = atomic_load(&ferry->nr_sessions), own = atomic_load(&ferry->nid_of[ferryi_pool_index(pool)]);
	int rc = -ENXIO;

	for (unsigned i = 1; i <= nr; i++) { /* its own, too: it may be lost there, and the server be back */
		struct ferryi_session *session = ferry->sessions[(own + i) % nr];

		if (ferryi_session_state(session) != FERRYI_SESSION_LIVE ||
		    ferryi_pool_is_at(pool, ferryi_session_server_id(session)))
			continue;
		rc = add_at(ferry, pool, session, is_new);
		if (!rc)
			return 0;
	}
	return rc == -ENXIO ? ferryi_control_fail(rc, "no server more is there for it") : rc;
}

int ferryi_replicate(struct ferry *ferry, struct ferry_pool *pool)
{
	char line[1024];

	for (unsigned missing; ferryi_pool_is_replicated(pool) && (missing = ferryi_pool_missing(pool)) > 0;) {
		int rc = add_somewhere(ferry, pool, true);

		if (rc == -ENXIO)
			return ferryi_control_fail(-EINVAL, "replicas: %llu copies of each page need as many servers, and %llu "
						   "can be had: name more of them, or FERRY_REPLICAS=%llu",
						   (unsigned long long)ferry->config.replicas,
						   (unsigned long long)ferry->config.replicas - missing,
						   (unsigned long long)ferry->config.replicas - missing);
		if (rc) {
			snprintf(line, sizeof(line), "%.900s", ferryi_control_last_error());
			return ferryi_control_fail(rc, "replicas: copy %llu of each page: %s",
						   (unsigned long long)ferry->config.replicas - missing + 1, line);
		}
	}
	return 0;
}

void ferryi_free_replica_indices(struct ferry *ferry, struct ferry_pool *pool)
{
	for (unsigned k = 0; k < FERRYI_MAX_REPLICAS; k++) {
		const struct ferryi_replica *replica = ferryi_pool_replica(pool, k);

		if (replica)
			ferry->busy[replica->lender.index] = false;
	}
}

/* ---- after a loss ---- */

static void drop_lost(struct ferry *ferry, struct ferry_pool *pool)
{
	struct ferryi_replica *replica;

	while ((replica = ferryi_replica_take_off(pool))) {
		unsigned index = replica->lender.index;

		if (ferryi_pager_remove_replica(ferry->pager, replica)) {
			/* Its index stays taken. */
			ferryi_error("replicas: a connection did not close in time, and is left behind");
			continue;
		}
		ferryi_replica_close(&replica);
		ferry->busy[index] = false;
	}
}

/* The pool goes on by its replicas; the handle stays, for its name and its close. */
static void give_back_own(struct ferry_pool *pool)
{
	const char *name = ferryi_session_name(ferryi_lease_session(ferryi_pool_lease(pool)));

	if (ferryi_lease_give_back(ferryi_pool_lease(pool)))
		ferryi_warn("lease at %s: giving it back: %s", name, ferryi_control_last_error());
	else
		ferryi_notice("%s drains: what this process had there has moved elsewhere", name);
}

static void drop_what_went(struct ferry *ferry, struct ferry_pool *pool)
{
	if (ferryi_pool_drop_leaving(pool))
		give_back_own(pool);
	drop_lost(ferry, pool);
}

static void tell(struct ferry *ferry, unsigned nr_missing)
{
	if (nr_missing && !ferry->is_degraded_told)
		ferryi_warn("replicas: %u copies of pools are missing, and there is no server for them (%s): data has fewer copies "
			    "than the %llu asked for, or stays at a server that drains, until there is one",
			    nr_missing, ferryi_control_last_error(), (unsigned long long)ferry->config.replicas);
	ferry->is_degraded_told = nr_missing != 0;
}

/* Copies where there are servers for them; how many are missing still. *is_whole: none is being filled either. */
static unsigned replicate_lost(struct ferry *ferry, bool *is_whole)
{
	unsigned nr_missing = 0;

	*is_whole = true;
	ferryi_mutex_lock(&ferry->lock);
	/* Of all pools first: there are few indices. */
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = atomic_load(&ferry->pools[i]);

		if (pool && ferryi_pool_is_replicated(pool))
			drop_what_went(ferry, pool);
	}
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = atomic_load(&ferry->pools[i]);

		if (!pool || !ferryi_pool_is_replicated(pool))
			continue;
		unsigned missing = ferryi_pool_missing(pool);

		while (missing && add_somewhere(ferry, pool, false) == 0)
			missing--;
		nr_missing += missing;
		*is_whole = *is_whole && !ferryi_pool_incomplete(pool);
	}
	ferryi_mutex_unlock(&ferry->lock);
	return nr_missing;
}

void ferryi_find_servers(void *ctx)
{
	struct ferry *ferry = ctx;
	bool is_whole;
	unsigned nr_missing = replicate_lost(ferry, &is_whole);

	/* Servers that may be out of reach only when nothing else is to be done. */
	if ((nr_missing || is_whole) && ferryi_reopen_servers(ferry) && nr_missing)
		nr_missing = replicate_lost(ferry, &is_whole);
	tell(ferry, nr_missing);
}
