/* See placement.h. */
#include "placement.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "life.h"
#include "migrate.h"

#define AGAIN_MS	 1000
#define SERVER_POOLS	 64
#define READS		 8   /* the fastest of them counts */
#define LOCAL_DISTANCE	 10  /* of a NUMA node from itself */
#define REMOTE_DISTANCE	 20  /* from another, where the kernel does not say */
#define OTHER_HOST	 256 /* farther than any NUMA node */

/* This pool as its server sees it; false: it does not answer, or has no such pool any more. */
static bool ask(struct ferry *ferry, unsigned index, struct ferry_pool *pool, struct ferryi_pool_info *out)
{
	static struct ferryi_pool_info infos[SERVER_POOLS]; /* protected by the ferry lock: of one process there is one */
	const struct ferryi_lease *lease = ferryi_pool_lease(pool);
	const char *name = ferry->placement.pool[index].name;
	int n = ferryi_session_pools(ferryi_lease_session(lease), infos, SERVER_POOLS);

	ferryi_assert_held(&ferry->lock);
	for (int i = 0; i < n && i < (int)SERVER_POOLS; i++) {
		if (name[0] ? !strcmp(infos[i].name, name) : !strcmp(infos[i].type, ferryi_lease_pool_type(lease))) {
			*out = infos[i];
			return true;
		}
	}
	return false;
}

static void ask_room(struct ferry *ferry, unsigned index, struct ferry_pool *pool)
{
	struct ferryi_pool_info info;

	if (ask(ferry, index, pool, &info))
		ferry->placement.pool[index].capacity_bytes =
			info.free_bytes + info.scrub_bytes + ferryi_pool_leased_bytes(pool);
}

/* As /sys has it, from the node of this thread; a pool of no node (-1) is as near as one of this. */
static uint32_t numa_distance(int node)
{
	unsigned cpu, mine, distance = 0;
	char path[64];
	FILE *f;

	if (node < 0 || getcpu(&cpu, &mine) || mine == (unsigned)node)
		return LOCAL_DISTANCE;
	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/distance", node);
	f = fopen(path, "re");
	for (unsigned i = 0; f && i <= mine; i++) {
		if (fscanf(f, "%u", &distance) != 1)
			distance = 0;
	}
	if (f)
		fclose(f);
	return distance && distance < OTHER_HOST ? distance : REMOTE_DISTANCE;
}

/* Nanoseconds of the fastest of a few reads of one page. */
static uint32_t latency(struct ferry *ferry, struct ferry_pool *pool)
{
	uint64_t pfn = ferryi_pool_pfn_first(pool), best = FERRYI_DISTANCE_UNKNOWN;
	uint8_t page[FERRYI_PAGE_SIZE];

	if (!ferryi_pool_leased_bytes(pool) && ferryi_pool_reserve(pool, 1))
		return FERRYI_DISTANCE_UNKNOWN;
	while (pfn < ferryi_pool_pfn_last(pool) && !ferryi_subsection_of(ferry->model, pfn))
		pfn += FERRYI_PAGES_PER_SUBSECTION; /* what is set aside at its head is no page */
	for (unsigned i = 0; i < READS; i++) {
		uint64_t begin = ferryi_now_ns();

		if (ferryi_pager_device_io(ferry->pager, pfn, page, NULL, sizeof(page)))
			return FERRYI_DISTANCE_UNKNOWN;
		best = ferryi_min_u64(best, OTHER_HOST + ferryi_now_ns() - begin);
	}
	return (uint32_t)best;
}

static void measure(struct ferry *ferry, unsigned index, struct ferry_pool *pool)
{
	struct ferryi_pool_info info;

	if (!(ferryi_lease_row(ferryi_pool_lease(pool))->flags & FERRYI_FABRIC_SAME_HOST))
		ferry->placement.pool[index].distance = latency(ferry, pool);
	else if (ask(ferry, index, pool, &info))
		ferry->placement.pool[index].distance = numa_distance(info.numa_node);
	ferry->placement.pool[index].is_measured = true;
}

static void look_locked(struct ferry *ferry, enum ferryi_policy policy)
{
	bool ask_now = policy == FERRYI_POLICY_WEIGHTED &&
		       (!ferry->placement.asked_ns ||
			ferryi_now_ns() - ferry->placement.asked_ns >= AGAIN_MS * FERRYI_NS_PER_MS);

	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = atomic_load(&ferry->pools[i]);

		if (!pool || !ferryi_pool_is_paged_to(pool) || ferryi_pool_lost(pool) || ferryi_pool_is_killed(pool))
			continue;
		if (ask_now)
			ask_room(ferry, i, pool);
		if (policy == FERRYI_POLICY_NEAREST && !ferry->placement.pool[i].is_measured)
			measure(ferry, i, pool);
		ferryi_pager_pool_tell(ferry->pager, i, ferry->placement.pool[i].capacity_bytes,
				       ferry->placement.pool[i].distance);
	}
	if (ask_now)
		ferry->placement.asked_ns = ferryi_now_ns();
}

void ferryi_placement_add(struct ferry *ferry, unsigned index, const char *pool_name)
{
	memset(&ferry->placement.pool[index], 0, sizeof(ferry->placement.pool[index]));
	ferry->placement.pool[index].distance = FERRYI_DISTANCE_UNKNOWN;
	snprintf(ferry->placement.pool[index].name, sizeof(ferry->placement.pool[index].name), "%s",
		 pool_name ? pool_name : "");
	ferry->placement.asked_ns = 0;
}

void ferryi_placement_look(struct ferry *ferry, unsigned flags)
{
	enum ferryi_policy policy = flags & FERRY_MAP_WEIGHTED ? FERRYI_POLICY_WEIGHTED :
				    flags & FERRY_MAP_NEAREST  ? FERRYI_POLICY_NEAREST :
				    flags & (FERRY_MAP_ROUND_ROBIN | FERRY_MAP_FILL) ?
								 FERRYI_POLICY_FILL :
								 (enum ferryi_policy)ferry->config.policy;

	if (policy != FERRYI_POLICY_WEIGHTED && policy != FERRYI_POLICY_NEAREST)
		return; /* they go by the order of the pools alone */
	ferryi_mutex_lock(&ferry->lock);
	look_locked(ferry, policy);
	ferryi_mutex_unlock(&ferry->lock);
}
