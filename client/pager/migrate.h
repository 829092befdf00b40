/*
 * Migration between RAM and pools at the caller's word: migrate_vma. In the
 * caller's thread, may block. Pages leave as in eviction (evict.h) and come
 * home as by ferry_advise; what is new here is the choice of the pool.
 *
 * All pages of a 2 MiB block live in one pool. To move a block to another one,
 * its pages come home, it is taken off its sub-section (bind.c has the race
 * diagram) and bound to one of the other pool. Only one block of the process
 * does this at a time: its 2 MiB, which may not leave meanwhile, may fill a
 * small budget.
 */
#ifndef FERRYI_PAGER_MIGRATE_H
#define FERRYI_PAGER_MIGRATE_H

#include "pager.h"

/* As the public calls; ranges are page aligned and not empty. */
int ferryi_pager_migrate_to_device(struct ferryi_pager *pager, struct ferry_pool *pool, uintptr_t start, uintptr_t end,
				   unsigned flags, struct ferry_migrate_stats *stats);
int ferryi_pager_migrate_to_ram(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, const void *owner,
				unsigned flags, struct ferry_migrate_stats *stats);
int ferryi_pager_migrate_setup(struct ferryi_pager *pager, struct ferry_migrate *migrate);
int ferryi_pager_migrate_pages(struct ferryi_pager *pager, struct ferry_migrate *migrate);
int ferryi_pager_migrate_finalize(struct ferryi_pager *pager, struct ferry_migrate *migrate);
/* One-sided access to a device page; len at most one page. */
int ferryi_pager_device_io(struct ferryi_pager *pager, uint64_t pfn, void *read_to, const void *write_from, size_t len);
int ferryi_pager_recover(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, const uint8_t *data);

#endif
