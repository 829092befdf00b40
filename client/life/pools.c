/* Pools of the process: attach and detach, PFNs and pages. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "error.h"
#include "life.h"
#include "log.h"

void ferryi_on_session_state(void *ctx, struct ferryi_session *session, enum ferryi_session_state state)
{
	struct ferry *ferry = ctx;
	bool any = false;

	if (state != FERRYI_SESSION_LOST)
		return;
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = atomic_load(&ferry->pools[i]);

		if (!pool || ferryi_lease_session(ferryi_pool_lease(pool)) != session)
			continue;
		ferryi_pool_set_lost(pool, ferryi_session_lost_reason(session));
		any = true;
	}
	if (any)
		ferryi_pager_pool_lost(ferry->pager);
}

int ferryi_session_for(struct ferry *ferry, const char *url, struct ferryi_session **out)
{
	struct ferryi_session *session;

	for (unsigned i = 0; i < ferry->nr_sessions; i++) {
		if (strcmp(ferry->urls[i], url) == 0 && ferryi_session_state(ferry->sessions[i]) != FERRYI_SESSION_LOST) {
			*out = ferry->sessions[i];
			return 0;
		}
	}
	if (ferry->nr_sessions == FERRYI_MAX_SERVERS || strlen(url) >= sizeof(ferry->urls[0]))
		return ferryi_control_fail(-EINVAL, "servers: more than %u of them, or a URL of more than %zu characters",
					   FERRYI_MAX_SERVERS, sizeof(ferry->urls[0]) - 1);
	int rc = ferryi_session_open(ferry->control, url, &session);

	if (rc)
		return rc;
	strcpy(ferry->urls[ferry->nr_sessions], url);
	ferry->sessions[ferry->nr_sessions++] = session;
	*out = session;
	return 0;
}

static int free_index(struct ferry *ferry)
{
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		if (!ferry->busy[i])
			return (int)i;
	}
	return -1;
}

int ferryi_attach(struct ferry *ferry, struct ferryi_session *session, const struct ferry_pool_attr *attr,
		  struct ferry_pool **out)
{
	struct ferryi_lease *lease;
	struct ferry_pool *pool;
	int index = free_index(ferry);

	if (index < 0)
		return ferryi_control_fail(-ENOMEM, "attach: %u pools are attached already", FERRYI_MAX_POOLS_ATTACHED);
	int rc = ferryi_lease_open(session, attr->pool, attr->len_bytes, &lease);

	if (rc)
		return rc;
	struct ferryi_pool_attr inner = { .lease = lease, .index = (unsigned)index, .owner = attr->owner, .data = attr->data };

	rc = ferryi_pool_open(ferry->model, ferry->arena, &inner, &pool);
	if (rc) {
		ferryi_control_fail(rc, "attach: no address space for the pool's tables");
		ferryi_lease_close(&lease);
		return rc;
	}
	ferry->busy[index] = true;
	/* From here on a loss of the session reaches the pool; one that came before is looked for below. */
	atomic_store(&ferry->pools[index], pool);
	if (ferryi_session_state(session) == FERRYI_SESSION_LOST)
		ferryi_pool_set_lost(pool, ferryi_session_lost_reason(session));
	rc = ferryi_pager_add_pool(ferry->pager, pool);
	if (rc) {
		atomic_store(&ferry->pools[index], NULL);
		ferry->busy[index] = false;
		ferryi_pool_close(&pool);
		return rc;
	}
	*out = pool;
	return 0;
}

int ferry_pool_attach(struct ferry *ferry, const struct ferry_pool_attr *attr, struct ferry_pool **out)
{
	struct ferryi_session *session;
	struct ferry_pool_attr a = { 0 };
	int rc = ferryi_ferry_check(ferry, "attach");

	if (rc)
		return rc;
	if (!attr || !out || attr->size < sizeof(a))
		return ferryi_control_fail(-EINVAL, "attach: set size to sizeof(struct ferry_pool_attr)");
	memcpy(&a, attr, sizeof(a));
	if (a.type == 0 || a.type > FERRY_MEM_P2PDMA)
		return ferryi_control_fail(-EINVAL, "attach: type %d is none; FERRY_MEM_PRIVATE is 1", (int)a.type);
	if (a.type != FERRY_MEM_PRIVATE)
		return ferryi_control_fail(-ENXIO, "attach: memory types other than FERRY_MEM_PRIVATE are not built yet");
	if (!ferryi_is_aligned(a.len_bytes, FERRYI_SUBSECTION_SIZE))
		return ferryi_control_fail(-EINVAL, "attach: %llu bytes is not a multiple of 2 MiB",
					   (unsigned long long)a.len_bytes);
	ferryi_mutex_lock(&ferry->lock);
	if (a.server) {
		rc = ferryi_session_for(ferry, a.server, &session);
	} else {
		session = ferry->sessions[0];
		a.pool = a.pool ? a.pool : ferry->config.pool;
	}
	if (!rc)
		rc = ferryi_attach(ferry, session, &a, out);
	ferryi_mutex_unlock(&ferry->lock);
	return rc;
}

int ferry_pool_detach(struct ferry_pool *pool)
{
	struct ferry *ferry = ferryi_the_ferry();

	if (!pool || !ferry)
		return ferryi_control_fail(-EINVAL, "detach: no such pool");
	ferryi_mutex_lock(&ferry->lock);
	unsigned index = ferryi_pool_index(pool);
	int rc;

	if (ferryi_pool_refs(pool) != 1) {
		rc = ferryi_control_fail(-EBUSY, "detach: %u references are held; put them first", ferryi_pool_refs(pool) - 1);
	} else {
		rc = ferryi_pager_remove_pool(ferry->pager, pool);
		if (!rc) {
			atomic_store(&ferry->pools[index], NULL);
			ferry->busy[index] = false;
			ferryi_pool_close(&pool);
		}
	}
	ferryi_mutex_unlock(&ferry->lock);
	return rc;
}

struct ferry_pool *ferry_pool_get(struct ferry *ferry, uint64_t pfn, struct ferry_pool *hint)
{
	if (ferryi_ferry_check(ferry, "pool_get"))
		return NULL;
	if (hint) {
		if (pfn >= ferryi_pool_pfn_first(hint) && pfn <= ferryi_pool_pfn_last(hint))
			return hint;
		ferryi_pool_put_ref(hint);
	}
	return ferryi_pool_get_of(ferry->model, pfn);
}

void ferry_pool_put(struct ferry_pool *pool)
{
	if (pool)
		ferryi_pool_put_ref(pool);
}

struct ferry_pool *ferry_pool_at(struct ferry *ferry, unsigned index)
{
	struct ferry_pool *found = NULL;

	if (ferryi_ferry_check(ferry, "pool_at"))
		return NULL;
	ferryi_mutex_lock(&ferry->lock);
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED && !found; i++) {
		struct ferry_pool *pool = atomic_load(&ferry->pools[i]);

		if (pool && index-- == 0)
			found = ferryi_pool_try_get(pool) ? pool : NULL;
	}
	ferryi_mutex_unlock(&ferry->lock);
	return found;
}

int ferry_pool_info(struct ferry_pool *pool, struct ferry_pool_info *info)
{
	struct ferry_pool_info all = { 0 };

	if (!pool || !info || info->size < sizeof(info->size))
		return ferryi_control_fail(-EINVAL, "pool_info: set size to sizeof(struct ferry_pool_info)");
	struct ferryi_lease *lease = ferryi_pool_lease(pool);

	all.size = info->size;
	all.pfn_first = ferryi_pool_pfn_first(pool);
	all.pfn_last = ferryi_pool_pfn_last(pool);
	all.leased_bytes = ferryi_pool_leased_bytes(pool);
	all.used_bytes = ferryi_pool_used_bytes(pool);
	all.type = FERRY_MEM_PRIVATE;
	snprintf(all.fabric, sizeof(all.fabric), "%s", ferryi_lease_row(lease)->name);
	snprintf(all.server, sizeof(all.server), "%s", ferryi_session_name(ferryi_lease_session(lease)));
	memcpy(info, &all, info->size < sizeof(all) ? info->size : sizeof(all));
	return 0;
}

struct ferry_page *ferry_pfn_to_page(struct ferry *ferry, uint64_t pfn)
{
	return ferryi_ferry_check(ferry, "pfn_to_page") ? NULL : ferryi_pfn_to_page(ferry->model, pfn);
}

uint64_t ferry_page_to_pfn(struct ferry *ferry, const struct ferry_page *page)
{
	return ferryi_page_to_pfn(ferry->model, page);
}

bool ferry_pfn_valid(struct ferry *ferry, uint64_t pfn)
{
	return ferry_pfn_to_page(ferry, pfn) != NULL;
}
