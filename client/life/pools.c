/* Pools of the process: attach and detach, PFNs and pages. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "altmap.h"
#include "error.h"
#include "folio.h"
#include "life.h"
#include "log.h"
#include "recover.h"

/* What is there moves elsewhere, if there is room. */
static void on_drain(struct ferry *ferry, const struct ferryi_session *session)
{
	ferryi_mutex_lock(&ferry->loss_lock);
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = atomic_load(&ferry->pools[i]);

		if (pool)
			ferryi_pool_session_leaves(pool, session);
	}
	ferryi_mutex_unlock(&ferry->loss_lock);
	if (ferry == ferryi_the_ferry()) /* else ferry_open looks for it at its end */
		ferryi_move_leaving(ferry);
}

void ferryi_move_leaving(struct ferry *ferry)
{
	bool any = false;
	int rc = 0;

	ferryi_mutex_lock(&ferry->loss_lock);
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = atomic_load(&ferry->pools[i]);

		any = any || (pool && ferryi_pool_is_replicated(pool) && ferryi_pool_missing(pool));
	}
	if (any && ferry->pager)
		rc = ferryi_pager_rebuild_start(ferry->pager);
	ferryi_mutex_unlock(&ferry->loss_lock);
	if (rc)
		ferryi_warn("a server drains, and no page can move elsewhere (%s)", ferryi_strerror(rc));
}

void ferryi_on_session_state(void *ctx, struct ferryi_session *session, enum ferryi_session_state state)
{
	struct ferry *ferry = ctx;
	unsigned nr_lost = 0, nr_copies = 0;

	if (state == FERRYI_SESSION_DRAINING)
		on_drain(ferry, session);
	if (state != FERRYI_SESSION_LOST)
		return;
	ferryi_mutex_lock(&ferry->loss_lock);
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = atomic_load(&ferry->pools[i]);

		unsigned nr = pool ? ferryi_pool_session_lost(pool, session, ferryi_session_lost_reason(session)) : 0;

		nr_lost += nr;
		nr_copies += pool && ferryi_pool_is_replicated(pool) ? nr : 0;
	}
	if (nr_lost && ferry->pager) {
		ferryi_pager_copies_lost(ferry->pager, nr_copies);
		ferryi_pager_pool_lost(ferry->pager);
	}
	ferryi_mutex_unlock(&ferry->loss_lock);
}

struct ferry_pool *ferryi_take_pool_off(struct ferry *ferry, unsigned index)
{
	ferryi_mutex_lock(&ferry->loss_lock);
	struct ferry_pool *pool = atomic_exchange(&ferry->pools[index], NULL);

	ferryi_mutex_unlock(&ferry->loss_lock);
	return pool;
}

int ferryi_end_pool(struct ferry_pool **pool, bool forget)
{
	bool for_a_time = ferryi_pool_is_named(*pool) && ferryi_pool_type(*pool) != FERRY_MEM_FS_DAX;

	if (forget)
		return ferryi_pool_forget(pool);
	if (for_a_time) /* nobody is to come for it: free at once */
		ferryi_pool_forget(pool);
	else
		ferryi_pool_close(pool);
	return 0;
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
	ferry->sessions[ferry->nr_sessions] = session;
	ferry->nr_sessions++;
	*out = session;
	return 0;
}

int ferryi_free_index(const struct ferry *ferry)
{
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		if (!ferry->busy[i])
			return (int)i;
	}
	return -1;
}

/* As ferryd calls them (type=). */
static const char *const type_names[] = {
	[FERRY_MEM_PRIVATE] = "private", [FERRY_MEM_COHERENT] = "coherent", [FERRY_MEM_FS_DAX] = "fs_dax",
	[FERRY_MEM_GENERIC] = "generic", [FERRY_MEM_P2PDMA] = "p2pdma",
};

/* 0: none that this library knows. */
static unsigned type_of(const struct ferryi_lease *lease)
{
	for (unsigned i = FERRY_MEM_PRIVATE; i <= FERRY_MEM_P2PDMA; i++) {
		if (strcmp(type_names[i], ferryi_lease_pool_type(lease)) == 0)
			return i;
	}
	return 0;
}

/* Those whose pages the CPU reaches by migration only. */
static bool is_migrated(unsigned type)
{
	return type == FERRY_MEM_PRIVATE || type == FERRY_MEM_FS_DAX || type == FERRY_MEM_GENERIC;
}

/* After an attach that failed, whose line stays: a name that is new is not to be there, one that has something keeps it. */
static void undo_lease(struct ferryi_lease **lease)
{
	char line[1024];

	snprintf(line, sizeof(line), "%s", ferryi_control_last_error());
	if (ferryi_lease_name(*lease)[0] && !ferryi_lease_kept_extents(*lease))
		ferryi_lease_forget(lease);
	else
		ferryi_lease_close(lease);
	ferryi_control_fail(-EIO, "%s", line);
}

/*
 * Coherent memory is mapped by this process. Any memory that a server of this
 * host lends as a memfd can be: that of its coherent pools, and, where it has
 * none of that name (an embedded one), of private ones.
 */
static int open_coherent(struct ferryi_session *session, const struct ferry_pool_attr *attr, struct ferryi_lease **out)
{
	struct ferryi_lease_want want = { .pool = attr->pool,
					  .type = type_names[FERRY_MEM_COHERENT],
					  .size_bytes = attr->len_bytes };
	int rc = ferryi_lease_open_as(session, &want, out);

	if (rc == -ENXIO) {
		want.type = type_names[FERRY_MEM_PRIVATE];
		rc = ferryi_lease_open_as(session, &want, out);
	}
	if (rc == -ENXIO)
		return ferryi_control_fail(rc, "attach: the server has no pool%s%s that is coherent or private",
					   attr->pool ? " " : "", attr->pool ? attr->pool : "");
	if (rc || (ferryi_lease_row(*out)->flags & FERRYI_FABRIC_SAME_HOST))
		return rc;
	rc = ferryi_control_fail(-ENODEV, "attach: coherent memory is shared with a server of this host, and fabric %s is "
				 "not; use ferry://...?fabric=local", ferryi_lease_row(*out)->name);
	ferryi_lease_close(out);
	return rc;
}

static int open_lease(struct ferryi_session *session, const struct ferry_pool_attr *attr, struct ferryi_lease **out)
{
	/* Descriptors at its head are there from the beginning. */
	uint64_t aside = attr->name ? ferry_altmap_offset(attr->altmap) << FERRYI_PAGE_SHIFT : 0;
	struct ferryi_lease_want want = { .pool = attr->pool,
					  .type = attr->type ? type_names[attr->type] : NULL,
					  .name = attr->name,
					  .size_bytes = ferryi_max_u64(attr->len_bytes,
								       ferryi_align_up(aside, FERRYI_SUBSECTION_SIZE)) };

	if (attr->type == FERRY_MEM_COHERENT)
		return open_coherent(session, attr, out);
	int rc = ferryi_lease_open_as(session, &want, out);

	if (!rc && !is_migrated(type_of(*out))) {
		rc = ferryi_control_fail(-ENXIO, "attach: the pool is of type %s, which this library cannot use",
					 ferryi_lease_pool_type(*out));
		undo_lease(out);
	}
	return rc;
}

static void undo_pool(struct ferry_pool **pool)
{
	char line[1024];

	snprintf(line, sizeof(line), "%s", ferryi_control_last_error());
	if (ferryi_pool_is_named(*pool) && !ferryi_pool_kept_bytes(*pool))
		ferryi_pool_forget(pool);
	else
		ferryi_pool_close(pool);
	ferryi_control_fail(-EIO, "%s", line);
}

/* ASSUMPTION: ferry->lock held, or nobody else has the struct ferry; the session is one of its. */
static unsigned nid_of(const struct ferry *ferry, const struct ferryi_session *session)
{
	unsigned nid = 0;

	while (ferry->sessions[nid] != session)
		nid++;
	return nid;
}

int ferryi_attach(struct ferry *ferry, struct ferryi_session *session, const struct ferry_pool_attr *attr,
		  struct ferry_pool **out)
{
	struct ferryi_lease *lease;
	struct ferry_pool *pool;
	int index = ferryi_free_index(ferry);

	if (index < 0)
		return ferryi_control_fail(-ENOMEM, "attach: %u pools and replicas of pools are there already", FERRYI_MAX_POOLS_ATTACHED);
	int rc = open_lease(session, attr, &lease);

	if (rc)
		return rc;
	struct ferryi_pool_attr inner = { .lease = lease,
					 .index = (unsigned)index,
					 .type = attr->type == FERRY_MEM_COHERENT ? attr->type : type_of(lease),
					 .owner = attr->owner,
					 .data = attr->data,
					 .ops = attr->ops,
					 .altmap = attr->altmap,
					 .copies = ferryi_copies_of(ferry, attr) };

	rc = ferryi_pool_open(ferry->model, ferry->arena, &inner, &pool);
	if (rc) {
		ferryi_control_fail(rc, rc == -EINVAL ? "attach: the altmap leaves no page of the pool" :
							"attach: no address space for the pool's tables");
		undo_lease(&lease);
		return rc;
	}
	ferry->busy[index] = true;
	atomic_store(&ferry->nid_of[index], nid_of(ferry, session));
	/* From here on a loss of the session reaches the pool; one that came before is looked for below. */
	atomic_store(&ferry->pools[index], pool);
	if (ferryi_session_state(session) == FERRYI_SESSION_LOST)
		ferryi_pool_session_lost(pool, session, ferryi_session_lost_reason(session));
	rc = ferryi_pager_add_pool(ferry->pager, pool);
	if (rc) {
		ferryi_take_pool_off(ferry, (unsigned)index);
		ferry->busy[index] = false;
		undo_pool(&pool);
		return rc;
	}
	ferryi_placement_add(ferry, (unsigned)index, attr->pool);
	*out = pool;
	return 0;
}

/* Nothing has been put there yet. */
static void undo_attach(struct ferry *ferry, struct ferry_pool *pool)
{
	unsigned index = ferryi_pool_index(pool);
	char line[1024];

	snprintf(line, sizeof(line), "%s", ferryi_control_last_error());
	if (ferryi_pager_remove_pool(ferry->pager, pool) == 0) {
		ferryi_take_pool_off(ferry, index);
		ferryi_free_replica_indices(ferry, pool);
		ferry->busy[index] = false;
		ferryi_pool_close(&pool);
	}
	ferryi_control_fail(-EIO, "%s", line);
}

int ferry_pool_attach(struct ferry *ferry, const struct ferry_pool_attr *attr, struct ferry_pool **out)
{
	struct ferryi_session *session;
	struct ferry_pool_attr a = { 0 };
	int rc = ferryi_ferry_check(ferry, "attach");

	if (rc)
		return rc;
	/* 0.1.0 had no ops: a shorter struct is good, its later members are 0. */
	if (!attr || !out || attr->size < offsetof(struct ferry_pool_attr, ops))
		return ferryi_control_fail(-EINVAL, "attach: set size to sizeof(struct ferry_pool_attr)");
	memcpy(&a, attr, ferryi_min_u64(attr->size, sizeof(a)));
	if (a.type == 0 || a.type > FERRY_MEM_P2PDMA)
		return ferryi_control_fail(-EINVAL, "attach: type %d is none; FERRY_MEM_PRIVATE is 1", (int)a.type);
	if (a.type == FERRY_MEM_COHERENT && !a.owner)
		return ferryi_control_fail(-EINVAL, "attach: a coherent pool needs an owner (ferry_device_new makes one)");
	if (a.type == FERRY_MEM_COHERENT && a.name)
		return ferryi_control_fail(-EINVAL, "attach: a coherent pool keeps no leases: it has no name");
	if (a.name && a.altmap && a.ops && (a.ops->page_free || a.ops->migrate_to_ram))
		return ferryi_control_fail(-EINVAL, "attach: a pool whose pages are the driver's (page_free, migrate_to_ram) keeps no "
						    "descriptors: no altmap with a name for it");
	if (!ferryi_is_aligned(a.len_bytes, FERRYI_SUBSECTION_SIZE))
		return ferryi_control_fail(-EINVAL, "attach: %llu bytes is not a multiple of 2 MiB",
					   (unsigned long long)a.len_bytes);
	ferryi_mutex_lock(&ferry->lock);
	if (a.server) {
		rc = ferryi_session_for(ferry, a.server, &session);
	} else {
		session = ferry->sessions[0];
		if (a.type == FERRY_MEM_PRIVATE && !a.pool)
			a.pool = ferry->config.pool;
	}
	if (!rc)
		rc = ferryi_attach(ferry, session, &a, out);
	if (!rc) {
		rc = ferryi_replicate(ferry, *out);
		if (rc)
			undo_attach(ferry, *out);
	}
	ferryi_mutex_unlock(&ferry->lock);
	return rc;
}

/* forget: its lease's name is given up, too. */
static int detach(struct ferry_pool *pool, bool forget)
{
	struct ferry *ferry = ferryi_the_ferry();

	if (!pool || !ferry)
		return ferryi_control_fail(-EINVAL, "detach: no such pool");
	ferryi_mutex_lock(&ferry->lock);
	unsigned index = ferryi_pool_index(pool);
	int rc;

	if (forget && !ferryi_pool_is_named(pool)) {
		rc = ferryi_control_fail(-EINVAL, "pool_forget: the pool was attached without a name");
	} else if (ferryi_pool_refs(pool) != 1) {
		rc = ferryi_control_fail(-EBUSY, "detach: %u references are held; put them first", ferryi_pool_refs(pool) - 1);
	} else {
		rc = ferryi_pager_remove_pool(ferry->pager, pool);
		if (!rc) {
			ferryi_take_pool_off(ferry, index);
			ferryi_free_replica_indices(ferry, pool);
			ferry->busy[index] = false;
			rc = ferryi_end_pool(&pool, forget);
		}
	}
	ferryi_mutex_unlock(&ferry->lock);
	return rc;
}

int ferry_pool_detach(struct ferry_pool *pool)
{
	return detach(pool, false);
}

int ferry_pool_forget(struct ferry_pool *pool)
{
	return detach(pool, true);
}

/* ---- what an earlier process has left ---- */

static int check_kept(const struct ferry_pool *pool, const char *call)
{
	if (!pool || !ferryi_the_ferry())
		return ferryi_control_fail(-EINVAL, "%s: no such pool", call);
	if (!ferryi_pool_altmap(pool))
		return ferryi_control_fail(-EINVAL, "%s: the pool was attached without a name or without an altmap", call);
	return 0;
}

long ferry_pool_kept(struct ferry_pool *pool, struct ferry_kept_page *pages, size_t max, uint64_t *cursor)
{
	int rc = check_kept(pool, "pool_kept");

	if (!rc && (!pages || !max || !cursor))
		rc = ferryi_control_fail(-EINVAL, "pool_kept: room for pages, and a cursor, are wanted");
	return rc ? rc : ferryi_pager_kept(ferryi_the_ferry()->pager, pool, pages, max, cursor);
}

int ferry_pool_recover(struct ferry_pool *pool, uintptr_t old_va, void *addr, size_t len,
		       struct ferry_recover_stats *stats)
{
	const size_t sums = offsetof(struct ferry_recover_stats, which);
	struct ferry_recover_stats all = { .size = sizeof(all) };
	int rc = check_kept(pool, "pool_recover");

	if (rc)
		return rc;
	if (!len || !ferryi_is_aligned((uintptr_t)addr | old_va | len, FERRYI_PAGE_SIZE) || (uintptr_t)addr > UINTPTR_MAX - len ||
	    old_va > UINTPTR_MAX - len)
		return ferryi_control_fail(-EINVAL, "pool_recover: addresses and length are multiples of %zu, the length not 0",
					   FERRYI_PAGE_SIZE);
	if (stats && (stats->size < sums || stats->size > sizeof(all)))
		return ferryi_control_fail(-EINVAL, "pool_recover: set size to sizeof(struct ferry_recover_stats)");
	if (stats)
		memcpy(&all, stats, stats->size);
	rc = ferryi_pager_recover_kept(ferryi_the_ferry()->pager, pool, old_va, (uintptr_t)addr, len >> FERRYI_PAGE_SHIFT, &all);
	if (stats)
		memcpy(stats, &all, stats->size);
	return rc;
}

long ferry_pool_drop_kept(struct ferry_pool *pool)
{
	int rc = check_kept(pool, "pool_drop_kept");

	return rc ? rc : ferryi_pager_drop_kept(ferryi_the_ferry()->pager, pool);
}

/* ---- a pool's end ---- */

static int check_killed(const struct ferry_pool *pool, const char *call)
{
	if (!pool || !ferryi_the_ferry())
		return ferryi_control_fail(-EINVAL, "%s: no such pool", call);
	if (!ferryi_pool_is_killed(pool))
		return ferryi_control_fail(-EINVAL, "%s: kill the pool first (ferry_pool_kill)", call);
	return 0;
}

int ferry_pool_kill(struct ferry_pool *pool)
{
	if (!pool || !ferryi_the_ferry())
		return ferryi_control_fail(-EINVAL, "pool_kill: no such pool");
	ferryi_pool_kill(pool);
	return 0;
}

int ferry_pool_evict(struct ferry_pool *pool)
{
	int rc = check_killed(pool, "pool_evict");

	if (rc)
		return rc;
	rc = ferryi_pager_evict_pool(ferryi_the_ferry()->pager, pool);
	switch (rc) {
	case 0:
		return 0;
	case -ENOMEM:
		return ferryi_control_fail(rc, "pool_evict: neither the budget nor the other pools can hold its pages; raise "
					       "the budget or attach another pool");
	case -EIO:
		return ferryi_control_fail(rc, "pool_evict: pages of the pool are lost (ferry_pool_poison gives them up)");
	default:
		return ferryi_control_fail(rc, "pool_evict: a page did not come to rest in time");
	}
}

int ferry_pool_drain(struct ferry_pool *pool, int timeout_ms)
{
	int rc = check_killed(pool, "pool_drain");

	if (rc)
		return rc;
	if (timeout_ms < 0)
		return ferryi_control_fail(-EINVAL, "pool_drain: a timeout of %d ms", timeout_ms);
	rc = ferryi_pager_drain_pool(ferryi_the_ferry()->pager, pool, timeout_ms);
	if (rc)
		ferryi_control_fail(rc, "pool_drain: %llu KiB are in use and %u references held after %d ms",
				    (unsigned long long)ferryi_pool_used_bytes(pool) >> 10, ferryi_pool_refs(pool) - 1,
				    timeout_ms);
	return rc;
}

long ferry_pool_poison(struct ferry_pool *pool)
{
	int rc = check_killed(pool, "pool_poison");

	return rc ? rc : ferryi_pager_poison_pool(ferryi_the_ferry()->pager, pool);
}

/* ---- look-up ---- */

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
	all.kept_bytes = ferryi_pool_kept_bytes(pool);
	all.keep_ms = ferryi_lease_keep_ms(lease);
	all.type = (enum ferry_mem_type)ferryi_pool_type(pool);
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

bool ferry_pool_pfn_valid(struct ferry_pool *pool, uint64_t pfn)
{
	struct ferry *ferry = ferryi_the_ferry();
	const struct ferryi_subsection *sub;

	if (!pool || ferryi_ferry_check(ferry, "pool_pfn_valid"))
		return false;
	sub = ferryi_subsection_of(ferry->model, pfn);
	return sub && ferryi_subsection_pool(sub) == pool;
}

bool ferry_pool_has_memory_failure(const struct ferry_pool *pool)
{
	const struct ferry_pool_ops *ops = pool ? ferryi_pool_ops(pool) : NULL;

	return ops && ops->memory_failure;
}

enum ferry_mem_type ferry_page_type(struct ferry *ferry, const struct ferry_page *page)
{
	const enum ferry_mem_type none = (enum ferry_mem_type)0;

	if (!page || ferryi_ferry_check(ferry, "page_type"))
		return none;
	const struct ferryi_subsection *sub = ferryi_subsection_of(ferry->model, ferryi_page_to_pfn(ferry->model, page));
	const struct ferry_pool *pool = sub ? ferryi_subsection_pool(sub) : NULL;

	return pool ? (enum ferry_mem_type)ferryi_pool_type(pool) : none;
}

void ferry_page_set_drvdata(struct ferry_page *page, uint64_t data)
{
	struct ferry *ferry = ferryi_the_ferry();

	atomic_store(&page->drvdata, data);
	if (ferry)
		ferryi_page_changed(ferry->model, page);
}

uint64_t ferry_page_get_drvdata(const struct ferry_page *page)
{
	return atomic_load(&page->drvdata);
}

unsigned ferry_page_order(const struct ferry_page *page)
{
	return ferryi_folio_order(page);
}

int ferry_pfn_to_server(struct ferry *ferry, uint64_t pfn, char *name, size_t name_len)
{
	int rc = ferryi_ferry_check(ferry, "pfn_to_server");

	if (rc)
		return rc;
	const struct ferryi_subsection *sub = ferryi_subsection_of(ferry->model, pfn);

	if (!sub || !name || !name_len)
		return ferryi_control_fail(-EINVAL, "pfn_to_server: %#llx is not a page of a pool, or no room for the name",
					   (unsigned long long)pfn);
	const struct ferryi_lender *lender = ferryi_pool_lender(sub->pool);
	struct ferryi_location at;

	ferryi_pool_locations_begin(sub->pool);
	for (unsigned k = FERRYI_POOL_LOCATIONS; k-- > 0;) {
		if (ferryi_pool_location(sub->pool, sub, pfn, k, &at) && at.is_read_from)
			lender = at.lender;
	}
	snprintf(name, name_len, "%s", ferryi_session_name(ferryi_lease_session(lender->lease)));
	ferryi_pool_locations_end(sub->pool);
	return 0;
}

uint64_t ferry_altmap_offset(const struct ferry_altmap *altmap)
{
	return altmap ? altmap->reserve + altmap->free : 0;
}

void ferry_altmap_free(struct ferry_altmap *altmap, uint64_t n)
{
	altmap->alloc -= n;
}

/* ---- owners ---- */

struct ferry_device {
	_Atomic unsigned refs; /* atomic: 0 is free */
	char name[64];
};

/* An owner is its address, so that devices need no memory of the process's struct ferry. */
static struct ferry_device devices[FERRY_MAX_DEVICES];

struct ferry_device *ferry_device_new(struct ferry *ferry, const char *name)
{
	if (ferryi_ferry_check(ferry, "device_new"))
		return NULL;
	if (!name || !*name || strlen(name) >= sizeof(devices[0].name)) {
		ferryi_control_fail(-EINVAL, "device_new: a name has 1 to %zu characters", sizeof(devices[0].name) - 1);
		return NULL;
	}
	for (unsigned i = 0; i < FERRY_MAX_DEVICES; i++) {
		unsigned none = 0;

		if (atomic_compare_exchange_strong(&devices[i].refs, &none, 1)) {
			strcpy(devices[i].name, name);
			return &devices[i];
		}
	}
	ferryi_control_fail(-ENOMEM, "device_new: %u devices are there already", FERRY_MAX_DEVICES);
	return NULL;
}

void ferry_device_put(struct ferry_device *device)
{
	if (device)
		atomic_fetch_sub(&device->refs, 1);
}
