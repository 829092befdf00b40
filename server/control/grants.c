/*
 * Leases of one session. See grants.h.
 * Order of revocation, everywhere: ferryi_region_revoke (or _tenant_close) has
 * returned before ferryi_pool_give_back gets the extent.
 */
#include "grants_priv.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "clock.h"
#include "log.h"

#define SCRUB_WAIT_MS 3000 /* how long a request waits for memory that is being zeroed */

int ferryi_grants_refuse(struct refusal *why, Farferry__Code code, const char *fmt, ...)
{
	va_list args;

	why->code = code;
	va_start(args, fmt);
	vsnprintf(why->text, sizeof(why->text), fmt, args);
	va_end(args);
	return ferryi_code_to_errno(code);
}

/* ---- tenants ---- */

static struct tenancy *tenancy_of(struct ferryi_grants *grants, const struct ferryi_hub_fabric *fabric)
{
	return &grants->tenancies[fabric - grants->hub->fabrics];
}

int ferryi_grants_tenancy_get(struct ferryi_grants *grants, struct ferryi_hub_fabric *fabric,
			      struct refusal *why)
{
	struct tenancy *tenancy = tenancy_of(grants, fabric);
	int rc;

	if (!tenancy->tenant) {
		rc = ferryi_random(tenancy->token, sizeof(tenancy->token));
		if (!rc)
			rc = ferryi_tenant_open(fabric->listener, tenancy->token, grants->label,
						&tenancy->tenant);
		if (rc) {
			ferryi_error("%s: opening a tenant over %s failed: %s", grants->label,
				     fabric->row->name, ferryi_strerror(rc));
			return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL,
						    "the %s fabric cannot take this session: %s",
						    fabric->row->name, ferryi_strerror(rc));
		}
	}
	tenancy->nleases++;
	return 0;
}

/* The last lease takes the tenant with it: no connection outlives what it was opened for. */
static void tenancy_put(struct ferryi_grants *grants, const struct ferryi_hub_fabric *fabric)
{
	struct tenancy *tenancy = tenancy_of(grants, fabric);

	assert(tenancy->nleases > 0);
	if (--tenancy->nleases == 0)
		ferryi_tenant_close(&tenancy->tenant);
}

/* ---- extents ---- */

static void revoke(struct ferryi_grants *grants, struct extent *extent)
{
	uint64_t begin = ferryi_now_ns();

	if (!extent->region)
		return;
	ferryi_region_revoke(&extent->region);
	ferryi_count(&grants->hub->status.c_revocations_total, 1);
	ferryi_count(&grants->hub->status.c_revocation_ns_total, ferryi_now_ns() - begin);
}

/* Extents [from, nextents) leave the lease, without their keys. */
static struct ferryi_pool_extent *cut_from(struct ferryi_grants *grants, struct lease *lease, size_t from)
{
	struct ferryi_status *status = &grants->hub->status;
	struct ferryi_pool_extent *list = NULL;

	for (size_t i = from; i < lease->nextents; i++) {
		ferryi_grants_views_revoke(grants, lease->extents[i].id);
		revoke(grants, &lease->extents[i]);
	}
	for (size_t i = lease->nextents; i-- > from;) {
		struct extent *extent = &lease->extents[i];

		ferryi_uncount(&status->g_extents, 1);
		ferryi_uncount(&status->g_leased_bytes, extent->memory->memory.len_bytes);
		extent->memory->next = list;
		list = extent->memory;
	}
	grants->nextents -= lease->nextents - from;
	lease->nextents = from;
	return list;
}

/* Extents [from, nextents) of the lease: keys, then memory. */
static void release_from(struct ferryi_grants *grants, struct lease *lease, size_t from)
{
	ferryi_pool_give_back(lease->pool, cut_from(grants, lease, from));
}

static int region_open(struct ferryi_grants *grants, struct lease *lease, struct extent *extent,
		       struct refusal *why)
{
	struct ferryi_status *status = &grants->hub->status;
	uint64_t begin = ferryi_now_ns();
	int rc;

	rc = ferryi_region_open(tenancy_of(grants, lease->fabric)->tenant, &extent->memory->memory,
				FERRYI_ACCESS_READ | (lease->is_inherited ? 0 : FERRYI_ACCESS_WRITE),
				&extent->region);
	ferryi_count(&status->c_registrations_total, 1);
	ferryi_count(&status->c_registration_ns_total, ferryi_now_ns() - begin);
	if (!rc)
		return 0;
	ferryi_error("%s: registering %zu bytes of pool %s over %s failed: %s", grants->label,
		     extent->memory->memory.len_bytes, ferryi_pool_spec(lease->pool)->name,
		     lease->fabric->row->name, ferryi_strerror(rc));
	return ferryi_grants_refuse(
		why, rc == -ENOMEM ? FARFERRY__CODE__CODE_FULL : FARFERRY__CODE__CODE_INTERNAL,
		"the server could not register the memory with the %s fabric: %s%s", lease->fabric->row->name,
		ferryi_strerror(rc),
		rc == -ENOMEM ? " (its limit of locked memory is too small; raise LimitMEMLOCK or ulimit -l)"
			      : "");
}

static int refuse_take(struct ferryi_grants *grants, const struct lease *lease, int rc, uint64_t size_bytes,
		       uint64_t free_bytes, unsigned max_extents, struct refusal *why)
{
	const char *pool = ferryi_pool_spec(lease->pool)->name;

	if (rc == -ENOMEM)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_FULL,
					    "pool %s cannot give %" PRIu64 " bytes: %" PRIu64
					    " bytes are free",
					    pool, size_bytes, free_bytes);
	if (rc == -E2BIG)
		return ferryi_grants_refuse(
			why, FARFERRY__CODE__CODE_LIMIT,
			"%" PRIu64
			" bytes of pool %s would take more than %u extents; ask for less at a time",
			size_bytes, pool, max_extents);
	ferryi_error("%s: pool %s: allocating %" PRIu64 " bytes failed: %s", grants->label, pool, size_bytes,
		     ferryi_strerror(rc));
	return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL,
				    "pool %s could not allocate %" PRIu64 " bytes: %s", pool, size_bytes,
				    ferryi_strerror(rc));
}

int ferryi_grants_add_extents(struct ferryi_grants *grants, struct lease *lease,
			      struct ferryi_pool_extent **list, unsigned count, struct refusal *why)
{
	struct ferryi_status *status = &grants->hub->status;
	const size_t before = lease->nextents;
	struct extent *grown = realloc(lease->extents, (before + count) * sizeof(*grown));
	int rc = 0;

	if (!grown && count)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL,
					    "the server is out of memory");
	if (grown)
		lease->extents = grown;
	while (*list) {
		struct ferryi_pool_extent *memory = *list;

		*list = memory->next;
		memory->next = NULL;
		lease->extents[lease->nextents++] =
			(struct extent){.id = atomic_fetch_add(&grants->hub->next_id, 1), .memory = memory};
		grants->nextents++;
		ferryi_count(&status->g_extents, 1);
		ferryi_count(&status->g_leased_bytes, memory->memory.len_bytes);
	}
	for (size_t i = before; i < lease->nextents && !rc; i++)
		rc = region_open(grants, lease, &lease->extents[i], why);
	if (rc)
		*list = cut_from(grants, lease, before);
	return rc;
}

/* Adds size_bytes to the lease, all or nothing. */
static int extend(struct ferryi_grants *grants, struct lease *lease, uint64_t size_bytes, struct refusal *why)
{
	uint64_t left =
		grants->hub->limits.extents - ferryi_min_u64(grants->hub->limits.extents, grants->nextents);
	unsigned max_extents = (unsigned)ferryi_min_u64(left, FERRYI_MAX_EXTENTS);
	struct ferryi_pool_extent *list;
	uint64_t free_bytes;
	unsigned count;
	int rc = ferryi_grants_bytes_charge(grants, size_bytes, why);

	if (rc)
		return rc;
	rc = ferryi_pool_take(lease->pool, size_bytes, max_extents, ferryi_deadline_ms(SCRUB_WAIT_MS), &list,
			      &count, &free_bytes);
	if (rc) {
		ferryi_user_refund(grants->user, FERRYI_QUOTA_BYTES, size_bytes);
		return refuse_take(grants, lease, rc, size_bytes, free_bytes, max_extents, why);
	}
	ferryi_grants_bytes_settle(grants, list);
	rc = ferryi_grants_add_extents(grants, lease, &list, count, why);
	if (rc)
		ferryi_pool_give_back(lease->pool, list);
	return rc;
}

static uint64_t bytes_of(const struct lease *lease)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < lease->nextents; i++)
		bytes += lease->extents[i].memory->memory.len_bytes;
	return bytes;
}

/* First memory of a lease: what its name has, and new memory up to the size that is asked for. */
static int fill(struct ferryi_grants *grants, struct lease *lease, const Farferry__AttachRequest *request,
		size_t *nold, struct refusal *why)
{
	int rc = request->name[0] ? ferryi_grants_hold(grants, lease, request->name, why) : 0;
	uint64_t have = bytes_of(lease);

	*nold = lease->nextents;
	if (!rc && request->size_bytes > have)
		rc = extend(grants, lease, request->size_bytes - have, why);
	/* Also an empty one: the name is there from now on. */
	return rc || !lease->name[0] ? rc : ferryi_grants_record(lease, lease->nextents, why);
}

/* ---- replies ---- */

struct lease_message {
	Farferry__Extent extent;
	Farferry__Location location;
	Farferry__Location *locations[1];
};

int ferryi_grants_reply_lease(struct ferryi_grants *grants, const struct lease *lease, size_t from,
			      size_t nold, uint64_t request_id, struct ferryi_reply *reply,
			      struct refusal *why)
{
	struct tenancy *tenancy = tenancy_of(grants, lease->fabric);
	const size_t n = lease->nextents - from;
	Farferry__LeaseReply message = FARFERRY__LEASE_REPLY__INIT;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	char addr[FERRYI_FABRIC_ADDR_LEN];
	struct lease_message *parts;
	Farferry__Extent **extents;
	int rc;

	rc = ferryi_tenant_addr(tenancy->tenant, addr, sizeof(addr));
	if (rc)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL,
					    "the %s fabric has no address to give: %s",
					    lease->fabric->row->name, ferryi_strerror(rc));
	parts = calloc(n + 1, sizeof(*parts));
	extents = calloc(n + 1, sizeof(Farferry__Extent *));
	if (!parts || !extents) {
		rc = ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL, "the server is out of memory");
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		const struct extent *extent = &lease->extents[from + i];
		struct lease_message *part = &parts[i];
		struct ferryi_remote remote;

		ferryi_region_remote(extent->region, &remote);
		farferry__location__init(&part->location);
		part->location.server_id = grants->hub->server_id;
		part->location.key = remote.key;
		part->location.addr = remote.addr;
		part->locations[0] = &part->location;
		farferry__extent__init(&part->extent);
		part->extent.id = extent->id;
		part->extent.pool_off = extent->memory->pool_off;
		part->extent.len_bytes = extent->memory->memory.len_bytes;
		part->extent.n_locations = 1;
		part->extent.locations = part->locations;
		extents[i] = &part->extent;
	}
	message.lease_id = lease->id;
	message.epoch = grants->epoch;
	message.fabric = (char *)lease->fabric->row->name;
	message.fabric_addr = addr;
	message.data_token.data = tenancy->token;
	message.data_token.len = sizeof(tenancy->token);
	message.n_extents = n;
	message.extents = extents;
	message.pool_size_bytes = ferryi_pool_size(lease->pool);
	message.kept_extents = (uint32_t)nold;
	message.name = (char *)lease->name;
	if (lease->name[0] && !ferryi_pool_keeps_for_good(lease->pool))
		message.keep_ms = (uint32_t)ferryi_max_u64(grants->hub->limits.keep_ms, 1); /* 0: for good */
	message.takes_heir = lease->has_secret;
	message.pool_type = (char *)ferryi_pool_type_name(ferryi_pool_spec(lease->pool)->type);
	envelope.request_id = request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_LEASE_REPLY;
	envelope.lease_reply = &message;
	rc = ferryi_frame_encode(&envelope, &reply->bytes, &reply->len);
	if (rc)
		rc = ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL,
					  "the server could not encode its reply: %s", ferryi_strerror(rc));
out:
	free(extents);
	free(parts);
	return rc;
}

/* ---- leases ---- */

static void log_grant(const struct ferryi_grants *grants, const struct lease *lease, const char *verb,
		      size_t from, uint64_t begin_ns, uint64_t registration_ns)
{
	const uint64_t all_us = (ferryi_now_ns() - begin_ns) / FERRYI_NS_PER_US;
	const uint64_t registration_us = registration_ns / FERRYI_NS_PER_US;
	char text[16];
	uint64_t bytes = 0;

	for (size_t i = from; i < lease->nextents; i++)
		bytes += lease->extents[i].memory->memory.len_bytes;
	ferryi_info("%s: %s lease %" PRIu64 " of pool %s over %s: %s in %zu extents, %" PRIu64
		    " us of which %" PRIu64 " us for registration",
		    grants->label, verb, lease->id, ferryi_pool_spec(lease->pool)->name,
		    lease->fabric->row->name, ferryi_format_size(bytes, text, sizeof(text)),
		    lease->nextents - from, all_us, registration_us);
}

/* Its tenant was closed, and the keys with it. */
static void forget_regions(struct ferryi_grants *grants, struct lease *lease)
{
	for (size_t i = 0; i < lease->nextents; i++) {
		if (lease->extents[i].region)
			ferryi_count(&grants->hub->status.c_revocations_total, 1);
		lease->extents[i].region = NULL;
	}
}

void ferryi_grants_lease_destroy(struct ferryi_grants *grants, struct lease *lease)
{
	struct tenancy *tenancy = tenancy_of(grants, lease->fabric);

	ferryi_grants_save_kept(grants, lease);
	/* One closing of the tenant is cheaper than revoking key by key, and as safe. */
	if (tenancy->nleases == 1 && tenancy->tenant) {
		ferryi_tenant_close(&tenancy->tenant);
		forget_regions(grants, lease);
	}
	release_from(grants, lease, lease->nkept);
	if (lease->name[0])
		ferryi_pool_keep(lease->pool, lease->key, cut_from(grants, lease, 0),
				 ferryi_grants_keep_until(grants));
	if (lease->has_secret)
		ferryi_pool_leave(lease->pool, lease->secret, cut_from(grants, lease, 0),
				  ferryi_grants_keep_until(grants));
	if (lease->name[0] && ferryi_pool_keeps_for_good(lease->pool))
		ferryi_grants_booked(grants);
	tenancy_put(grants, lease->fabric);
	ferryi_grants_lease_refund(grants);
	free(lease->extents);
	free(lease);
}

static struct lease **lease_find(struct ferryi_grants *grants, uint64_t id, uint64_t epoch,
				 struct refusal *why)
{
	struct lease **at = &grants->leases;

	if (epoch != grants->epoch) {
		ferryi_grants_refuse(why, FARFERRY__CODE__CODE_EPOCH,
				     "epoch %" PRIu64 " is not this session's (%" PRIu64 ")", epoch,
				     grants->epoch);
		return NULL;
	}
	while (*at && (*at)->id != id)
		at = &(*at)->next;
	if (!*at) {
		ferryi_grants_refuse(why, FARFERRY__CODE__CODE_NO_LEASE, "this session has no lease %" PRIu64,
				     id);
		return NULL;
	}
	return at;
}

static int check_granting(struct ferryi_grants *grants, struct refusal *why)
{
	if (atomic_load(&grants->hub->draining))
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_DRAINING,
					    "the server is shutting down and grants nothing any more");
	return 0;
}

static int check_size(uint64_t size_bytes, struct refusal *why)
{
	if (!ferryi_is_aligned(size_bytes, FERRYI_SUBSECTION_SIZE))
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INVALID,
					    "size %" PRIu64 " is not a multiple of 2 MiB", size_bytes);
	return 0;
}

/* Both sides named, the pool able to be lent that way. */
static int find_parts(struct ferryi_grants *grants, const Farferry__AttachRequest *request,
		      struct lease *lease, struct refusal *why)
{
	char names[512];

	lease->pool = ferryi_hub_pool(grants->hub, request->pool, request->type);
	if (!lease->pool && request->type[0])
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_NO_POOL,
					    "there is no pool '%s' of type %s; this server has: %.300s",
					    request->pool, request->type,
					    ferryi_hub_pool_names(grants->hub, names, sizeof(names)));
	if (!lease->pool)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_NO_POOL,
					    "there is no pool '%s'; this server has: %.300s", request->pool,
					    ferryi_hub_pool_names(grants->hub, names, sizeof(names)));
	lease->fabric = ferryi_hub_fabric(grants->hub, request->fabric);
	if (!lease->fabric)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_FABRIC,
					    "fabric '%s' is not served; this server has: %s", request->fabric,
					    ferryi_hub_fabric_names(grants->hub, names, sizeof(names)));
	if ((lease->fabric->row->flags & FERRYI_FABRIC_SAME_HOST) && !ferryi_pool_gives_fd(lease->pool))
		return ferryi_grants_refuse(
			why, FARFERRY__CODE__CODE_FABRIC,
			"pool %s is %s memory, which the %s fabric cannot lend; start the server with "
			"backing=memfd, or use another fabric (ferry://...?fabric=tcp)",
			ferryi_pool_spec(lease->pool)->name, ferryi_pool_backing_name(lease->pool),
			lease->fabric->row->name);
	if (ferryi_pool_spec(lease->pool)->type == FERRYI_POOL_COHERENT &&
	    !(lease->fabric->row->flags & FERRYI_FABRIC_SAME_HOST))
		return ferryi_grants_refuse(
			why, FARFERRY__CODE__CODE_FABRIC,
			"pool %s is coherent, which the %s fabric cannot be: it is for clients of the "
			"server's host, with ferry://...?fabric=local",
			ferryi_pool_spec(lease->pool)->name, lease->fabric->row->name);
	if (request->name[0] && ferryi_pool_spec(lease->pool)->type == FERRYI_POOL_COHERENT)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INVALID,
					    "pool %s is coherent: it keeps no leases",
					    ferryi_pool_spec(lease->pool)->name);
	return 0;
}

static int attach(struct ferryi_grants *grants, uint64_t request_id, const Farferry__AttachRequest *request,
		  struct ferryi_reply *reply, struct ferryi_grants_change *change, struct refusal *why)
{
	struct ferryi_status *status = &grants->hub->status;
	uint64_t begin = ferryi_now_ns(),
		 registration = ferryi_counter_read(&status->c_registration_ns_total);
	struct lease *lease, found = {0};
	size_t nold;
	int rc;

	if ((rc = check_granting(grants, why)) || (rc = check_size(request->size_bytes, why)) ||
	    (rc = find_parts(grants, request, &found, why)))
		return rc;
	lease = calloc(1, sizeof(*lease));
	if (!lease)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL,
					    "the server is out of memory");
	*lease = found;
	lease->id = atomic_fetch_add(&grants->hub->next_id, 1);
	rc = ferryi_grants_lease_charge(grants, why);
	if (!rc) {
		rc = ferryi_grants_tenancy_get(grants, lease->fabric, why);
		if (rc)
			ferryi_grants_lease_refund(grants);
	}
	if (rc) {
		free(lease);
		return rc;
	}
	ferryi_grants_bequeath(grants, lease, &request->heir_secret);
	rc = fill(grants, lease, request, &nold, why);
	if (!rc)
		rc = ferryi_grants_reply_lease(grants, lease, 0, nold, request_id, reply, why);
	if (rc) {
		ferryi_grants_lease_destroy(grants, lease);
		return rc;
	}
	lease->next = grants->leases;
	grants->leases = lease;
	change->lease_added = lease->id;
	log_grant(grants, lease, "granted", 0, begin,
		  ferryi_counter_read(&status->c_registration_ns_total) - registration);
	return 0;
}

/* What was written down as the name's stays the name's, if that cannot be undone. */
static void undo_grow(struct ferryi_grants *grants, struct lease *lease, size_t before)
{
	struct refusal why;

	if (lease->nkept > before && ferryi_grants_record(lease, before, &why))
		ferryi_error("%s: %s", grants->label, why.text);
	else
		release_from(grants, lease, before);
}

static int grow(struct ferryi_grants *grants, uint64_t request_id, const Farferry__GrowRequest *request,
		struct ferryi_reply *reply, struct refusal *why)
{
	struct ferryi_status *status = &grants->hub->status;
	uint64_t begin = ferryi_now_ns(),
		 registration = ferryi_counter_read(&status->c_registration_ns_total);
	struct lease **at = lease_find(grants, request->lease_id, request->epoch, why);
	size_t before;
	int rc;

	if (!at)
		return ferryi_code_to_errno(why->code);
	if ((rc = check_granting(grants, why)) || (rc = check_size(request->size_bytes, why)))
		return rc;
	before = (*at)->nextents;
	rc = request->size_bytes ? extend(grants, *at, request->size_bytes, why) : 0;
	if (rc)
		return rc;
	if ((*at)->name[0])
		rc = ferryi_grants_record(*at, (*at)->nextents, why);
	if (!rc)
		rc = ferryi_grants_reply_lease(grants, *at, before, 0, request_id, reply, why);
	if (rc) {
		undo_grow(grants, *at, before);
		return rc;
	}
	log_grant(grants, *at, "grew", before, begin,
		  ferryi_counter_read(&status->c_registration_ns_total) - registration);
	return 0;
}

static struct extent *extent_find(struct lease *lease, uint64_t id)
{
	for (size_t i = 0; i < lease->nextents; i++) {
		if (lease->extents[i].id == id)
			return &lease->extents[i];
	}
	return NULL;
}

static int shrink(struct ferryi_grants *grants, const Farferry__ShrinkRequest *request, struct refusal *why)
{
	struct lease **at = lease_find(grants, request->lease_id, request->epoch, why);
	struct lease *lease;
	size_t keep = 0;
	int rc = 0;

	if (!at)
		return ferryi_code_to_errno(why->code);
	lease = *at;
	for (size_t i = 0; i < request->n_extent_ids && !rc; i++) {
		struct extent *extent = extent_find(lease, request->extent_ids[i]);

		if (!extent)
			rc = ferryi_grants_refuse(why, FARFERRY__CODE__CODE_NO_LEASE,
						  "lease %" PRIu64 " has no extent %" PRIu64, lease->id,
						  request->extent_ids[i]);
		else
			extent->leaving = true;
	}
	if (!rc && lease->name[0])
		rc = ferryi_grants_record(lease, lease->nextents, why);
	if (rc) {
		for (size_t i = 0; i < lease->nextents; i++)
			lease->extents[i].leaving = false;
		return rc;
	}
	/* Those that stay to the front, those that leave to the end; then the end is cut off. */
	for (size_t i = 0; i < lease->nextents; i++) {
		struct extent extent = lease->extents[i];

		if (extent.leaving)
			continue;
		lease->extents[i] = lease->extents[keep];
		lease->extents[keep++] = extent;
	}
	ferryi_info("%s: shrunk lease %" PRIu64 " by %zu extents", grants->label, lease->id,
		    lease->nextents - keep);
	release_from(grants, lease, keep);
	return 0;
}

/* ---- memory that fails: grants_failure.c, and for tests ---- */

static int inject(struct ferryi_grants *grants, const Farferry__InjectRequest *request, struct refusal *why)
{
	struct lease **at = lease_find(grants, request->lease_id, request->epoch, why);
	struct extent *extent;
	int rc;

	if (!grants->hub->inject_failures)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INVALID,
					    "this server lets nobody inject failures (--inject-failures)");
	if (!at)
		return ferryi_code_to_errno(why->code);
	extent = extent_find(*at, request->extent_id);
	if (!extent || request->off >= extent->memory->memory.len_bytes)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_NO_LEASE,
					    "lease %" PRIu64 " has no byte %" PRIu64 " of an extent %" PRIu64,
					    request->lease_id, request->off, request->extent_id);
	rc = ferryi_mce_inject((char *)extent->memory->memory.base + request->off, false);
	return rc ? ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL,
					 "the kernel does not take it: %s", ferryi_strerror(rc))
		  : 0;
}

/* ---- giving up ---- */

/* The name goes, and its memory becomes the lease's own: it ends with it. */
static int forget(struct lease *lease, struct refusal *why)
{
	int rc;

	if (!lease->name[0])
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INVALID,
					    "lease %" PRIu64 " has no name to forget", lease->id);
	rc = ferryi_pool_forget(lease->pool, lease->key);
	if (rc)
		return ferryi_grants_refuse(
			why, FARFERRY__CODE__CODE_INTERNAL, "pool %s could not forget lease '%s': %s",
			ferryi_pool_spec(lease->pool)->name, lease->name, ferryi_strerror(rc));
	lease->name[0] = '\0';
	lease->nkept = 0;
	return 0;
}

static int detach(struct ferryi_grants *grants, const Farferry__DetachRequest *request,
		  struct ferryi_grants_change *change, struct refusal *why)
{
	struct lease **at = lease_find(grants, request->lease_id, request->epoch, why);
	struct lease *lease;

	if (!at)
		return ferryi_code_to_errno(why->code);
	lease = *at;
	if (request->forget) {
		int rc = forget(lease, why);

		if (rc)
			return rc;
	}
	*at = lease->next;
	change->lease_removed = lease->id;
	ferryi_info("%s: ended lease %" PRIu64 " of %zu extents", grants->label, lease->id, lease->nextents);
	ferryi_grants_lease_destroy(grants, lease);
	return 0;
}

/* ---- interface ---- */

int ferryi_grants_open(struct ferryi_hub *hub, struct ferryi_user *user, uint64_t epoch, const char *label,
		       struct ferryi_grants **out)
{
	struct ferryi_grants *grants = calloc(1, sizeof(*grants));

	*out = grants;
	if (!grants)
		return -ENOMEM;
	grants->hub = hub;
	grants->user = user;
	grants->epoch = epoch;
	snprintf(grants->label, sizeof(grants->label), "%s", label);
	return 0;
}

void ferryi_grants_close(struct ferryi_grants **grantsp)
{
	struct ferryi_grants *grants = *grantsp;

	if (!grants)
		return;
	*grantsp = NULL;
	ferryi_grants_renounce(grants);
	for (struct lease *lease = grants->leases; lease; lease = lease->next) {
		ferryi_grants_heir_gets(grants, lease);
		ferryi_grants_save_kept(grants, lease);
	}
	/* Connections first, all at once: revoking key by key would close them one after another. */
	ferryi_grants_views_close(grants);
	for (unsigned i = 0; i < grants->hub->nfabrics; i++) {
		struct tenancy *tenancy = &grants->tenancies[i];

		if (tenancy->tenant)
			ferryi_tenant_close(&tenancy->tenant);
	}
	for (struct lease *lease = grants->leases; lease; lease = lease->next)
		forget_regions(grants, lease);
	while (grants->leases) {
		struct lease *lease = grants->leases;

		grants->leases = lease->next;
		ferryi_grants_lease_destroy(grants, lease);
	}
	free(grants);
}

void ferryi_grants_request(struct ferryi_grants *grants, const Farferry__Envelope *request,
			   struct ferryi_reply *reply, struct ferryi_grants_change *change)
{
	struct ferryi_status *status = &grants->hub->status;
	const bool is_grant = request->body_case == FARFERRY__ENVELOPE__BODY_ATTACH ||
			      request->body_case == FARFERRY__ENVELOPE__BODY_GROW ||
			      request->body_case == FARFERRY__ENVELOPE__BODY_CLAIM;
	struct refusal why = {.code = FARFERRY__CODE__CODE_INTERNAL};
	uint64_t begin = ferryi_now_ns();
	int rc;

	switch (request->body_case) {
	case FARFERRY__ENVELOPE__BODY_ATTACH:
		rc = attach(grants, request->request_id, request->attach, reply, change, &why);
		break;
	case FARFERRY__ENVELOPE__BODY_GROW:
		rc = grow(grants, request->request_id, request->grow, reply, &why);
		break;
	case FARFERRY__ENVELOPE__BODY_SHRINK:
		rc = shrink(grants, request->shrink, &why);
		break;
	case FARFERRY__ENVELOPE__BODY_HEIR:
		rc = ferryi_grants_heir(grants, request->heir, &why);
		break;
	case FARFERRY__ENVELOPE__BODY_CLAIM:
		rc = ferryi_grants_claim(grants, request->request_id, request->claim, reply, change, &why);
		break;
	case FARFERRY__ENVELOPE__BODY_INJECT:
		rc = inject(grants, request->inject, &why);
		break;
	default:
		assert(request->body_case == FARFERRY__ENVELOPE__BODY_DETACH);
		rc = detach(grants, request->detach, change, &why);
		break;
	}
	if (is_grant) {
		ferryi_count(rc ? &status->c_grants_refused_total : &status->c_grants_total, 1);
		ferryi_count(&status->c_grant_ns_total, ferryi_now_ns() - begin);
	}
	if (rc) {
		ferryi_info("%s: refused %s: %s", grants->label, ferryi_body_name(request->body_case),
			    why.text);
		ferryi_reply_error(reply, request->request_id, why.code, "%s", why.text);
	} else if (!is_grant) {
		ferryi_reply_done(reply, request->request_id);
	}
}
