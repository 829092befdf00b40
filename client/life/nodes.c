/*
 * Servers as memory nodes: FLATMEM's and DISCONTIGMEM's view of the one table of
 * descriptors. A node's number is its server's place in the table of sessions:
 * it stays as long as the struct ferry does.
 */
#include <errno.h>
#include <string.h>

#include "error.h"
#include "life.h"

/* ASSUMPTION: ferry->lock held: no pool comes or goes. */
static void span_locked(struct ferry *ferry, unsigned nid, struct ferry_node *node)
{
	uint64_t start_pfn = UINT64_MAX, end_pfn = 0;

	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		const struct ferry_pool *pool = atomic_load(&ferry->pools[i]);

		if (!pool || atomic_load(&ferry->nid_of[i]) != nid)
			continue;
		start_pfn = ferryi_min_u64(start_pfn, ferryi_pool_pfn_first(pool));
		end_pfn = ferryi_max_u64(end_pfn, ferryi_pool_pfn_last(pool) + 1);
	}
	if (!end_pfn)
		return;
	node->start_pfn = start_pfn;
	node->spanned_pages = end_pfn - start_pfn;
	node->mem_map = ferryi_memory_model_map(ferry->model) + start_pfn;
}

unsigned ferry_nr_nodes(struct ferry *ferry)
{
	return ferryi_ferry_check(ferry, "nr_nodes") ? 0 : atomic_load(&ferry->nr_sessions);
}

int ferry_node_data(struct ferry *ferry, unsigned nid, struct ferry_node *node)
{
	struct ferry_node all = { 0 };
	int rc = ferryi_ferry_check(ferry, "node_data");

	if (!rc && (!node || node->size < sizeof(node->size)))
		rc = ferryi_control_fail(-EINVAL, "node_data: set size to sizeof(struct ferry_node)");
	if (rc)
		return rc;
	ferryi_mutex_lock(&ferry->lock);
	if (nid < ferry->nr_sessions)
		span_locked(ferry, nid, &all);
	else
		rc = -EINVAL;
	ferryi_mutex_unlock(&ferry->lock);
	if (rc)
		return ferryi_control_fail(rc, "node_data: %u is no server of this process", nid);
	all.size = node->size;
	memcpy(node, &all, ferryi_min_u64(node->size, sizeof(all)));
	return 0;
}

int ferry_pfn_to_nid(struct ferry *ferry, uint64_t pfn)
{
	int rc = ferryi_ferry_check(ferry, "pfn_to_nid");

	if (rc)
		return rc;
	const struct ferryi_subsection *sub = ferryi_subsection_of(ferry->model, pfn);
	const struct ferry_pool *pool = sub ? ferryi_subsection_pool(sub) : NULL;

	if (!pool)
		return ferryi_control_fail(-EINVAL, "pfn_to_nid: %#llx is not a page of a pool", (unsigned long long)pfn);
	return (int)atomic_load(&ferry->nid_of[ferryi_pool_index(pool)]);
}

int ferry_page_to_nid(struct ferry *ferry, const struct ferry_page *page)
{
	int rc = ferryi_ferry_check(ferry, "page_to_nid");

	if (!rc && !page)
		rc = ferryi_control_fail(-EINVAL, "page_to_nid: page is NULL");
	return rc ? rc : ferry_pfn_to_nid(ferry, ferryi_page_to_pfn(ferry->model, page));
}

struct ferry_page *ferry_page_at(struct ferry_page *mem_map, uint64_t nr)
{
	return mem_map + nr;
}
