/*
 * Pages that an earlier process has left in a pool (device/altmap.h): listed,
 * brought into the memory of this one, or given up. In the caller's thread; may
 * block, bounded by fault_timeout_ms a page.
 *
 * At each moment a page can be found again, should this process end, too:
 *
 *   its kept place    read; content has the hash that the descriptor says?
 *   the new page      written, in RAM, as a device would (access.h)
 *   its new place     flushed, and described: later than the kept one
 *   its kept place    void; free, once all pages of its 2 MiB are
 */
#ifndef FERRYI_PAGER_RECOVER_H
#define FERRYI_PAGER_RECOVER_H

#include "pager.h"

/* As the public calls of the same names; ranges are page aligned and not empty, and the pool has descriptors. */
long ferryi_pager_kept(struct ferryi_pager *pager, struct ferry_pool *pool, struct ferry_kept_page *pages, size_t max,
		       uint64_t *cursor);
int ferryi_pager_recover_kept(struct ferryi_pager *pager, struct ferry_pool *pool, uintptr_t old_va, uintptr_t start,
			      size_t nr_pages, struct ferry_recover_stats *stats);
long ferryi_pager_drop_kept(struct ferryi_pager *pager, struct ferry_pool *pool);

#endif
