/* What heir.c needs of pool.c. Any thread. */
#ifndef FERRYI_POOL_HEIR_H
#define FERRYI_POOL_HEIR_H

#include "kept.h"

/* Takes the pool's lock. */
struct ferryi_kept *ferryi_pool_lock_kept(struct ferryi_pool *pool);
/* Lets it go; so many bytes are kept more, or less. */
void ferryi_pool_unlock_kept(struct ferryi_pool *pool, uint64_t more, uint64_t less);
/* Extents that were saved are where they were saved, from now on. */
void ferryi_pool_use_saved(struct ferryi_pool *pool, struct ferryi_pool_extent *list);

#endif
