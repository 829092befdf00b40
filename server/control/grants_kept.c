/* Leases with a name that outlive their session. See grants_priv.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "arith.h"
#include "clock.h"
#include "grants_priv.h"
#include "log.h"

uint64_t ferryi_grants_keep_until(const struct ferryi_grants *grants)
{
	return ferryi_deadline_ms(grants->hub->limits.keep_ms);
}

void ferryi_grants_save_kept(struct ferryi_grants *grants, struct lease *lease)
{
	if (atomic_load(&grants->hub->draining) &&
	    (lease->has_secret || !ferryi_pool_keeps_for_good(lease->pool)))
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

/* A hold that came to nothing: the memory stays the name's, unless keys that it has had meanwhile cost its
 * content. */
static void unhold(struct lease *lease, struct ferryi_pool_extent *list, uint64_t until_ns)
{
	if (!ferryi_pool_gives_fd(lease->pool)) {
		ferryi_pool_keep(lease->pool, lease->key, list, until_ns);
		return;
	}
	ferryi_pool_forget(lease->pool, lease->key);
	ferryi_pool_give_back(lease->pool, list);
}

int ferryi_grants_hold(struct ferryi_grants *grants, struct lease *lease, const char *name,
		       struct refusal *why)
{
	const char *pool = ferryi_pool_spec(lease->pool)->name;
	struct ferryi_pool_extent *list;
	unsigned count;
	int rc;

	/* Another user's lease of that name is another lease. */
	snprintf(lease->key, sizeof(lease->key), "%s%s", grants->user->scope, name);
	rc = ferryi_pool_hold(lease->pool, lease->key, &list, &count);

	if (rc == -EBUSY)
		return ferryi_grants_refuse(
			why, FARFERRY__CODE__CODE_BUSY,
			"lease '%s' of pool %s is another session's; it is free once that has ended", name,
			pool);
	if (rc == -EDQUOT)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_LIMIT,
					    "pool %s has as many leases with a name as it can", pool);
	if (rc)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL,
					    "lease '%s' of pool %s cannot be had: %s", name, pool,
					    ferryi_strerror(rc));
	ferryi_grants_bytes_held(grants, list);
	ferryi_grants_booked(grants);
	if (count > FERRYI_MAX_EXTENTS ||
	    count > grants->hub->limits.extents -
			    ferryi_min_u64(grants->hub->limits.extents, grants->nextents))
		rc = ferryi_grants_refuse(
			why, FARFERRY__CODE__CODE_LIMIT,
			"lease '%s' of pool %s has %u extents, more than one session may hold", name, pool,
			count);
	else
		rc = ferryi_grants_add_extents(grants, lease, &list, count, why);
	if (rc) {
		unhold(lease, list, ferryi_grants_keep_until(grants));
		return rc;
	}
	snprintf(lease->name, sizeof(lease->name), "%s", name);
	lease->nkept = lease->nextents;
	return 0;
}

int ferryi_grants_record(struct lease *lease, size_t n, struct refusal *why)
{
	struct ferryi_pool_extent **extents = calloc(n + 1, sizeof(struct ferryi_pool_extent *));
	size_t nstay = 0;
	int rc = extents ? 0 : -ENOMEM;

	for (size_t i = 0; i < n && !rc; i++) {
		if (!lease->extents[i].leaving)
			extents[nstay++] = lease->extents[i].memory;
	}
	if (!rc)
		rc = ferryi_pool_record(lease->pool, lease->key, extents, nstay);
	free(extents);
	if (rc)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL,
					    "pool %s could not write down what lease '%s' has: %s",
					    ferryi_pool_spec(lease->pool)->name, lease->name,
					    ferryi_strerror(rc));
	lease->nkept = nstay;
	return 0;
}
