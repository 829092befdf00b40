/*
 * Extents that views may read: a view has a tenant of its own on each fabric that it needs, apart from the
 * exporter's, with read-only regions over the exporter's extents. They end with the view, and before the
 * extent's memory goes to anyone else. See grants.h for the context.
 */
#include "grants_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "log.h"

struct view_region {
	struct view_region *next;
	uint64_t extent_id;
	struct ferryi_region *region;
};

struct view_tenancy {
	struct view_tenancy *next;
	uint64_t view_id;
	struct ferryi_hub_fabric *fabric;
	struct ferryi_tenant *tenant;
	uint8_t token[FERRYI_TOKEN_LEN];
	struct view_region *regions;
};

/* ---- the end of them ---- */

static void region_end(struct ferryi_grants *grants, struct view_region **at)
{
	struct view_region *region = *at;

	*at = region->next;
	ferryi_region_revoke(&region->region);
	ferryi_count(&grants->hub->status.c_revocations_total, 1);
	free(region);
}

void ferryi_grants_views_revoke(struct ferryi_grants *grants, uint64_t extent_id)
{
	for (struct view_tenancy *view = grants->views; view; view = view->next) {
		for (struct view_region **at = &view->regions; *at; at = &(*at)->next) {
			if ((*at)->extent_id != extent_id)
				continue;
			region_end(grants, at);
			break; /* one a view */
		}
	}
}

/* The tenant takes its regions with it. */
static void tenancy_end(struct ferryi_grants *grants, struct view_tenancy **at)
{
	struct view_tenancy *view = *at;

	*at = view->next;
	ferryi_tenant_close(&view->tenant);
	while (view->regions) {
		struct view_region *region = view->regions;

		view->regions = region->next;
		ferryi_count(&grants->hub->status.c_revocations_total, 1);
		free(region);
	}
	free(view);
}

void ferryi_grants_views_close(struct ferryi_grants *grants)
{
	while (grants->views)
		tenancy_end(grants, &grants->views);
}

void ferryi_grants_view_drop(struct ferryi_grants *grants, uint64_t view_id)
{
	for (struct view_tenancy **at = &grants->views; *at;) {
		if ((*at)->view_id == view_id)
			tenancy_end(grants, at);
		else
			at = &(*at)->next;
	}
}

/* ---- giving them ---- */

static struct extent *extent_of(struct ferryi_grants *grants, uint64_t id, struct lease **lease)
{
	for (*lease = grants->leases; *lease; *lease = (*lease)->next) {
		for (size_t i = 0; i < (*lease)->nextents; i++) {
			if ((*lease)->extents[i].id == id)
				return &(*lease)->extents[i];
		}
	}
	return NULL;
}

static struct view_tenancy *tenancy_get(struct ferryi_grants *grants, uint64_t view_id,
					struct ferryi_hub_fabric *fabric, struct refusal *why)
{
	struct view_tenancy *view = grants->views;
	char label[128];
	int rc;

	while (view && (view->view_id != view_id || view->fabric != fabric))
		view = view->next;
	if (view)
		return view;
	view = calloc(1, sizeof(*view));
	if (!view) {
		ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL, "the server is out of memory");
		return NULL;
	}
	view->view_id = view_id;
	view->fabric = fabric;
	snprintf(label, sizeof(label), "view %" PRIu64 " of %.90s", view_id, grants->label);
	rc = ferryi_random(view->token, sizeof(view->token));
	if (!rc)
		rc = ferryi_tenant_open(fabric->listener, view->token, label, &view->tenant);
	if (rc) {
		ferryi_error("%s: opening a tenant over %s failed: %s", label, fabric->row->name,
			     ferryi_strerror(rc));
		ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL,
				     "the %s fabric cannot take this view: %s", fabric->row->name,
				     ferryi_strerror(rc));
		free(view);
		return NULL;
	}
	view->next = grants->views;
	grants->views = view;
	return view;
}

static struct view_region *region_get(struct ferryi_grants *grants, struct view_tenancy *view,
				      const struct extent *extent, struct refusal *why)
{
	struct ferryi_status *status = &grants->hub->status;
	struct view_region *region = view->regions;
	uint64_t begin = ferryi_now_ns();
	int rc;

	while (region && region->extent_id != extent->id)
		region = region->next;
	if (region)
		return region;
	region = calloc(1, sizeof(*region));
	if (!region) {
		ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL, "the server is out of memory");
		return NULL;
	}
	region->extent_id = extent->id;
	rc = ferryi_region_open(view->tenant, &extent->memory->memory, FERRYI_ACCESS_READ, &region->region);
	ferryi_count(&status->c_registrations_total, 1);
	ferryi_count(&status->c_registration_ns_total, ferryi_now_ns() - begin);
	if (rc) {
		ferryi_error("%s: registering extent %" PRIu64 " for a view over %s failed: %s",
			     grants->label, extent->id, view->fabric->row->name, ferryi_strerror(rc));
		ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL,
				     "the server could not register the extent for the view: %s",
				     ferryi_strerror(rc));
		free(region);
		return NULL;
	}
	region->next = view->regions;
	view->regions = region;
	return region;
}

static int answer(struct ferryi_grants *grants, struct view_tenancy *view, const struct view_region *region,
		  uint64_t request_id, struct ferryi_reply *reply, struct refusal *why)
{
	Farferry__ViewExtentReply message = FARFERRY__VIEW_EXTENT_REPLY__INIT;
	Farferry__Location location = FARFERRY__LOCATION__INIT, *locations[1] = {&location};
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	char addr[FERRYI_FABRIC_ADDR_LEN];
	struct ferryi_remote remote;
	int rc = ferryi_tenant_addr(view->tenant, addr, sizeof(addr));

	if (rc)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_INTERNAL,
					    "the %s fabric has no address to give: %s",
					    view->fabric->row->name, ferryi_strerror(rc));
	ferryi_region_remote(region->region, &remote);
	location.server_id = grants->hub->server_id;
	location.key = remote.key;
	location.addr = remote.addr;
	message.fabric = (char *)view->fabric->row->name;
	message.fabric_addr = addr;
	message.data_token.data = view->token;
	message.data_token.len = sizeof(view->token);
	message.len_bytes = remote.len_bytes;
	message.n_locations = 1;
	message.locations = locations;
	envelope.request_id = request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_VIEW_EXTENT_REPLY;
	envelope.view_extent_reply = &message;
	ferryi_reply_encode(reply, &envelope);
	return 0;
}

static int view_extent(struct ferryi_grants *grants, uint64_t view_id, uint64_t extent_id,
		       uint64_t request_id, struct ferryi_reply *reply, struct refusal *why)
{
	struct lease *lease;
	struct extent *extent = extent_of(grants, extent_id, &lease);
	struct view_tenancy *view;
	struct view_region *region;

	if (!extent)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_NO_LEASE,
					    "the exporter holds no extent %" PRIu64, extent_id);
	/* There the memory is handed over as a file, which two cannot have with different rights and ends. */
	if (lease->fabric->row->flags & FERRYI_FABRIC_SAME_HOST)
		return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_FABRIC,
					    "an extent lent over the %s fabric cannot be lent to a view",
					    lease->fabric->row->name);
	view = tenancy_get(grants, view_id, lease->fabric, why);
	region = view ? region_get(grants, view, extent, why) : NULL;
	return region ? answer(grants, view, region, request_id, reply, why)
		      : ferryi_code_to_errno(why->code);
}

void ferryi_grants_view_extent(struct ferryi_grants *grants, uint64_t view_id, uint64_t extent_id,
			       uint64_t request_id, struct ferryi_reply *reply)
{
	struct refusal why = {.code = FARFERRY__CODE__CODE_INTERNAL};

	if (view_extent(grants, view_id, extent_id, request_id, reply, &why) == 0)
		return;
	ferryi_info("%s: view %" PRIu64 ": refused extent %" PRIu64 ": %s", grants->label, view_id, extent_id,
		    why.text);
	ferryi_reply_error(reply, request_id, why.code, "%s", why.text);
}
