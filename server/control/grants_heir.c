/*
 * Leases that another session inherits: a child of fork needs what its parent
 * left in a pool, and somebody stands by to take it over. The secret says who
 * may; between two sessions the memory waits in its pool (server/pool/heir.c).
 * See grants.h for the context.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "grants_priv.h"
#include "log.h"

/* A lease that this session stands by for. */
struct heirship {
	struct heirship *next;
	struct ferryi_pool *pool;
	uint8_t secret[FERRYI_HEIR_SECRET_LEN];
};

_Static_assert(FERRYI_HEIR_SECRET_LEN == FERRYI_POOL_SECRET_LEN, "");

/* ---- who leaves something ---- */

void ferryi_grants_bequeath(struct ferryi_grants *grants, struct lease *lease,
			    const ProtobufCBinaryData *secret)
{
	int rc;

	/* A coherent pool's memory is mapped by its client, which has no life without it. */
	if (!secret->len || !grants->hub->limits.keep_ms ||
	    ferryi_pool_spec(lease->pool)->type == FERRYI_POOL_COHERENT)
		return;
	memcpy(lease->secret, secret->data, sizeof(lease->secret));
	rc = ferryi_pool_bequeath(lease->pool, lease->secret);
	lease->has_secret = !rc;
	if (rc)
		ferryi_warn("%s: lease %" PRIu64 " can have no heir: %s", grants->label, lease->id,
			    ferryi_strerror(rc));
}

void ferryi_grants_heir_gets(struct ferryi_grants *grants, struct lease *lease)
{
	if (!lease->has_secret || !ferryi_pool_has_heir(lease->pool, lease->secret))
		return;
	ferryi_info("%s: lease %" PRIu64 " of pool %s waits for its heir", grants->label, lease->id,
		    ferryi_pool_spec(lease->pool)->name);
	/* What has failed would be taken for data by one who was not told of it. */
	for (size_t i = 0; i < lease->nextents; i++) {
		struct extent extent = lease->extents[i];

		if (extent.memory->failed)
			continue;
		lease->extents[i] = lease->extents[lease->nkept];
		lease->extents[lease->nkept++] = extent;
	}
}

/* ---- who gets it ---- */

static struct heirship **find(struct ferryi_grants *grants, const uint8_t secret[FERRYI_HEIR_SECRET_LEN])
{
	struct heirship **at = &grants->heirships;

	while (*at && memcmp((*at)->secret, secret, sizeof((*at)->secret)) != 0)
		at = &(*at)->next;
	return at;
}

static void end(struct ferryi_grants *grants, struct heirship **at)
{
	struct heirship *heirship = *at;

	*at = heirship->next;
	ferryi_pool_renounce(heirship->pool, heirship->secret, grants->epoch);
	grants->nheirships--;
	explicit_bzero(heirship->secret, sizeof(heirship->secret));
	free(heirship);
}

void ferryi_grants_renounce(struct ferryi_grants *grants)
{
	while (grants->heirships)
		end(grants, &grants->heirships);
}

/* Leases that were given back need no heir any more. */
static void forget_stale(struct ferryi_grants *grants)
{
	for (struct heirship **at = &grants->heirships; *at;) {
		if (ferryi_pool_has_heir((*at)->pool, (*at)->secret))
			at = &(*at)->next;
		else
			end(grants, at);
	}
}

/* The pool where somebody holds a lease with that secret, for which this session stands by from now on. */
static int stand_by(struct ferryi_grants *grants, const uint8_t secret[FERRYI_HEIR_SECRET_LEN],
		    struct ferryi_pool **pool)
{
	int rc = -ENOENT;

	for (unsigned i = 0; i < grants->hub->npools && rc == -ENOENT; i++) {
		*pool = grants->hub->pools[i];
		rc = ferryi_pool_stand_by(*pool, secret, grants->epoch);
	}
	return rc;
}

int ferryi_grants_heir(struct ferryi_grants *grants, const Farferry__HeirRequest *request,
		       struct refusal *why)
{
	struct heirship **old = find(grants, request->secret.data), *heirship;
	int rc;

	if (request->renounce && *old) {
		end(grants, old);
		return 0;
	}
	if (request->renounce)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_NO_LEASE,
					    "this session stands by for no lease with that secret");
	if (grants->nheirships >= grants->hub->limits.leases)
		forget_stale(grants);
	if (grants->nheirships >= grants->hub->limits.leases)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_LIMIT,
					    "this session stands by for %zu leases already, the limit "
					    "(--max-leases) of this server",
					    grants->nheirships);
	heirship = calloc(1, sizeof(*heirship));
	if (!heirship)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL,
					    "the server is out of memory");
	memcpy(heirship->secret, request->secret.data, sizeof(heirship->secret));
	rc = stand_by(grants, heirship->secret, &heirship->pool);
	if (rc) {
		free(heirship);
		return rc == -EBUSY ? ferryi_grants_refuse(why, FARFERRY__CODE__CODE_BUSY,
							   "that lease has an heir already")
				    : ferryi_grants_refuse(why, FARFERRY__CODE__CODE_NO_LEASE,
							   "no lease has that secret");
	}
	heirship->next = grants->heirships;
	grants->heirships = heirship;
	grants->nheirships++;
	ferryi_info("%s: stands by for a lease of pool %s", grants->label,
		    ferryi_pool_spec(heirship->pool)->name);
	return 0;
}

/* The lease itself, without memory yet. */
static struct lease *open_lease(struct ferryi_grants *grants, struct ferryi_pool *pool, const char *fabric,
				struct refusal *why)
{
	char names[512];
	struct lease *lease;

	lease = calloc(1, sizeof(*lease));
	if (!lease) {
		ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL, "the server is out of memory");
		return NULL;
	}
	lease->pool = pool;
	lease->is_inherited = true;
	lease->fabric = ferryi_hub_fabric(grants->hub, fabric);
	if (!lease->fabric ||
	    ((lease->fabric->row->flags & FERRYI_FABRIC_SAME_HOST) && !ferryi_pool_gives_fd(pool))) {
		ferryi_grants_refuse(why, FARFERRY__CODE__CODE_FABRIC,
				     "pool %s cannot be lent over fabric '%s'; this server has: %s",
				     ferryi_pool_spec(pool)->name, fabric,
				     ferryi_hub_fabric_names(grants->hub, names, sizeof(names)));
		free(lease);
		return NULL;
	}
	if (ferryi_grants_lease_charge(grants, why)) {
		free(lease);
		return NULL;
	}
	if (ferryi_grants_tenancy_get(grants, lease->fabric, why)) {
		ferryi_grants_lease_refund(grants);
		free(lease);
		return NULL;
	}
	lease->id = atomic_fetch_add(&grants->hub->next_id, 1);
	return lease;
}

/* What has waited becomes the lease's. */
static int take_over(struct ferryi_grants *grants, struct lease *lease, struct ferryi_pool_extent **list,
		     unsigned count, struct refusal *why)
{
	if (count > FERRYI_MAX_EXTENTS ||
	    count > grants->hub->limits.extents -
			    ferryi_min_u64(grants->hub->limits.extents, grants->nextents))
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_LIMIT,
					    "the lease has %u extents, more than one session may hold",
					    count);
	return ferryi_grants_add_extents(grants, lease, list, count, why);
}

/* What waits for this session. */
static int claim(struct ferryi_grants *grants, struct heirship **at, struct ferryi_pool_extent **list,
		 unsigned *count, struct refusal *why)
{
	int rc = ferryi_pool_claim((*at)->pool, (*at)->secret, grants->epoch, list, count);

	if (rc == -EBUSY)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_BUSY,
					    "the lease is another session's until that has ended; try again");
	end(grants, at); /* once, whatever comes of it */
	return rc ? ferryi_grants_refuse(why, FARFERRY__CODE__CODE_NO_LEASE,
					 "the lease was given back, or has waited for too long (--keep)")
		  : 0;
}

int ferryi_grants_claim(struct ferryi_grants *grants, uint64_t request_id,
			const Farferry__ClaimRequest *request, struct ferryi_reply *reply,
			struct ferryi_grants_change *change, struct refusal *why)
{
	struct heirship **at = find(grants, request->secret.data);
	struct ferryi_pool *pool = *at ? (*at)->pool : NULL;
	struct ferryi_pool_extent *list;
	struct lease *lease;
	unsigned count;
	int rc;

	if (!pool)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_NO_LEASE,
					    "this session stands by for no lease with that secret");
	rc = claim(grants, at, &list, &count, why);
	if (rc)
		return rc;
	lease = open_lease(grants, pool, request->fabric, why);
	rc = lease ? take_over(grants, lease, &list, count, why) : ferryi_code_to_errno(why->code);
	if (list)
		ferryi_pool_give_back(pool, list);
	if (!rc)
		rc = ferryi_grants_reply_lease(grants, lease, 0, lease->nextents, request_id, reply, why);
	if (rc) {
		if (lease)
			ferryi_grants_lease_destroy(grants, lease);
		return rc;
	}
	lease->next = grants->leases;
	grants->leases = lease;
	change->lease_added = lease->id;
	ferryi_info("%s: inherited lease %" PRIu64 " of pool %s over %s, %zu extents", grants->label,
		    lease->id, ferryi_pool_spec(lease->pool)->name, lease->fabric->row->name,
		    lease->nextents);
	return 0;
}
