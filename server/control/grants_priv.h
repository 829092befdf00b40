/* What the files of grants share. All of it is owned by the session's worker. */
#ifndef FERRYI_CONTROL_GRANTS_PRIV_H
#define FERRYI_CONTROL_GRANTS_PRIV_H

#include "grants.h"

struct extent {
	uint64_t id;
	struct ferryi_pool_extent *memory;
	struct ferryi_region *region;
	bool leaving; /* marked by a shrink request under way */
};

struct lease {
	struct lease *next;
	uint64_t id;
	struct ferryi_pool *pool;
	struct ferryi_hub_fabric *fabric;
	struct extent *extents;
	size_t nextents;
	/* A lease with a name: its first nkept extents are the name's, and stay when it ends. */
	char name[FERRYI_MAX_NAME + 1]; /* "": none */
	size_t nkept;
};

/* This session's protection domain on one fabric. */
struct tenancy {
	struct ferryi_tenant *tenant; /* NULL: not in use */
	uint8_t token[FERRYI_TOKEN_LEN];
	unsigned nleases;
};

struct view_tenancy;

struct ferryi_grants {
	/* immutable */
	struct ferryi_hub *hub;
	uint64_t epoch;
	char label[96];
	/* owned by the session's worker */
	struct tenancy tenancies[FERRYI_HUB_FABRICS_MAX]; /* one to one with hub->fabrics */
	struct lease *leases;
	size_t nleases, nextents;
	struct view_tenancy *views; /* grants_view.c */
};

/* Why a request was refused; becomes the error reply. */
struct refusal {
	Farferry__Code code;
	char text[512];
};

/* grants_kept.c: until when a name's memory waits for its client, unless it does for good. */
uint64_t ferryi_grants_keep_until(const struct ferryi_grants *grants);
/*
 * The first extents of a lease with a name get over the loss of their keys; if
 * one does not, none is kept. Nor when the server is about to end, but for good.
 * Before any of its keys is revoked.
 */
void ferryi_grants_save_kept(struct ferryi_grants *grants, struct lease *lease);

/* grants_view.c: nobody reads the extent by a view any more. Before its memory goes. */
void ferryi_grants_views_revoke(struct ferryi_grants *grants, uint64_t extent_id);
/* The same for all of them, and no view has a tenant any more. */
void ferryi_grants_views_close(struct ferryi_grants *grants);

#endif
