/* Leases that may have an heir. See pool.h. */
#include "heir.h"

#include <stdatomic.h>

static uint64_t bytes_of(const struct ferryi_pool_extent *list, unsigned *count)
{
	uint64_t bytes = 0;

	for (*count = 0; list; list = list->next, ++*count)
		bytes += list->memory.len_bytes;
	return bytes;
}

void ferryi_pool_refund(struct ferryi_pool_extent *extent)
{
	for (struct ferryi_payer *payer = extent->payer; payer; payer = payer->next)
		atomic_fetch_sub(&payer->bytes, extent->memory.len_bytes);
	extent->payer = NULL;
}

int ferryi_pool_bequeath(struct ferryi_pool *pool, const uint8_t secret[FERRYI_POOL_SECRET_LEN])
{
	int rc = ferryi_kept_bequeath(ferryi_pool_lock_kept(pool), secret);

	ferryi_pool_unlock_kept(pool, 0, 0);
	return rc;
}

int ferryi_pool_stand_by(struct ferryi_pool *pool, const uint8_t secret[FERRYI_POOL_SECRET_LEN],
			 uint64_t heir)
{
	int rc = ferryi_kept_stand_by(ferryi_pool_lock_kept(pool), secret, heir);

	ferryi_pool_unlock_kept(pool, 0, 0);
	return rc;
}

bool ferryi_pool_has_heir(struct ferryi_pool *pool, const uint8_t secret[FERRYI_POOL_SECRET_LEN])
{
	bool has = ferryi_kept_has_heir(ferryi_pool_lock_kept(pool), secret);

	ferryi_pool_unlock_kept(pool, 0, 0);
	return has;
}

void ferryi_pool_leave(struct ferryi_pool *pool, const uint8_t secret[FERRYI_POOL_SECRET_LEN],
		       struct ferryi_pool_extent *list, uint64_t until_ns)
{
	unsigned count;
	uint64_t bytes = bytes_of(list, &count);

	ferryi_pool_use_saved(pool, list);
	bool is_kept = ferryi_kept_leave(ferryi_pool_lock_kept(pool), secret, list, until_ns);

	ferryi_pool_unlock_kept(pool, is_kept ? bytes : 0, 0);
	if (!is_kept && list)
		ferryi_pool_give_back(pool, list);
}

int ferryi_pool_claim(struct ferryi_pool *pool, const uint8_t secret[FERRYI_POOL_SECRET_LEN], uint64_t heir,
		      struct ferryi_pool_extent **list, unsigned *count)
{
	int rc = ferryi_kept_claim(ferryi_pool_lock_kept(pool), secret, heir, list);

	ferryi_pool_unlock_kept(pool, 0, bytes_of(*list, count));
	return rc;
}

void ferryi_pool_renounce(struct ferryi_pool *pool, const uint8_t secret[FERRYI_POOL_SECRET_LEN],
			  uint64_t heir)
{
	struct ferryi_pool_extent *list = ferryi_kept_renounce(ferryi_pool_lock_kept(pool), secret, heir);
	unsigned count;

	ferryi_pool_unlock_kept(pool, 0, bytes_of(list, &count));
	if (list)
		ferryi_pool_give_back(pool, list);
}
