/* Memory of a session's leases that fails. See grants.h. Owned by the session's worker, as all of it. */
#include <inttypes.h>

#include "arith.h"
#include "grants_priv.h"
#include "log.h"

static bool failed_in(struct extent *extent, const struct ferryi_mce *mce, struct ferryi_grants_failure *out)
{
	struct ferryi_memory *memory = &extent->memory->memory;
	const uintptr_t base = (uintptr_t)memory->base;
	uint64_t from = ferryi_max_u64(mce->addr, base), to;

	if (mce->addr >= base + memory->len_bytes || base >= mce->addr + mce->len_bytes)
		return false;
	to = ferryi_min_u64(mce->addr + mce->len_bytes, base + memory->len_bytes);
	extent->memory->failed = true;
	out->extent_id = extent->id;
	out->off = from - base;
	out->len_bytes = to - from;
	return true;
}

bool ferryi_grants_failed(struct ferryi_grants *grants, const struct ferryi_mce *mce,
			  struct ferryi_grants_failure *out)
{
	for (struct lease *lease = grants->leases; lease; lease = lease->next) {
		for (size_t i = 0; i < lease->nextents; i++) {
			if (!failed_in(&lease->extents[i], mce, out))
				continue;
			out->lease_id = lease->id;
			ferryi_error("%s: lease %" PRIu64 " of pool %s: %" PRIu64 " bytes at %" PRIu64
				     " of an extent have failed: telling the client",
				     grants->label, lease->id, ferryi_pool_spec(lease->pool)->name,
				     out->len_bytes, out->off);
			return true;
		}
	}
	return false;
}
