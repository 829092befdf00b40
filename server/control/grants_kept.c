/* Leases with a name that outlive their session. See grants_priv.h. */
#include "clock.h"
#include "grants_priv.h"
#include "log.h"

uint64_t ferryi_grants_keep_until(const struct ferryi_grants *grants)
{
	return ferryi_deadline_ms(grants->hub->limits.keep_ms);
}

void ferryi_grants_save_kept(struct ferryi_grants *grants, struct lease *lease)
{
	if (atomic_load(&grants->hub->draining) && !ferryi_pool_keeps_for_good(lease->pool))
		lease->nkept = 0;
	/* On other rows a revoked key is enough; and until it is, the transport writes for its client. */
	if (!(lease->fabric->row->flags & FERRYI_FABRIC_SAME_HOST))
		return;
	for (size_t i = 0; i < lease->nkept; i++) {
		struct ferryi_pool_extent *extent = lease->extents[i].memory;
		int rc = extent->saved.base ? 0 : ferryi_pool_save(lease->pool, extent);

		if (!rc)
			continue;
		ferryi_error("%s: lease '%s' of pool %s cannot be kept: %s", grants->label, lease->name,
			     ferryi_pool_spec(lease->pool)->name, ferryi_strerror(rc));
		lease->nkept = 0;
	}
}
