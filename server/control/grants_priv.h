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
	char key[FERRYI_USER_SCOPE_LEN + FERRYI_MAX_NAME +
		 1]; /* the name as the pool has it, with its user's scope */
	size_t nkept;
	/* One that may have an heir: the same is so, when its session ends, for the heir. */
	bool has_secret;
	uint8_t secret[FERRYI_HEIR_SECRET_LEN];
	bool is_inherited; /* from another session: to be read only */
};

/* This session's protection domain on one fabric. */
struct tenancy {
	struct ferryi_tenant *tenant; /* NULL: not in use */
	uint8_t token[FERRYI_TOKEN_LEN];
	unsigned nleases;
};

struct view_tenancy;
struct heirship;

struct ferryi_grants {
	/* immutable */
	struct ferryi_hub *hub;
	struct ferryi_user *user;
	uint64_t epoch;
	char label[96];
	/* owned by the session's worker */
	struct tenancy tenancies[FERRYI_HUB_FABRICS_MAX]; /* one to one with hub->fabrics */
	struct lease *leases;
	size_t nleases, nextents;
	struct view_tenancy *views; /* grants_view.c */
	struct heirship *heirships; /* grants_heir.c */
	size_t nheirships;
};

/* Why a request was refused; becomes the error reply. */
struct refusal {
	Farferry__Code code;
	char text[512];
};

/* Notes why; the errno of the code. */
int ferryi_grants_refuse(struct refusal *why, Farferry__Code code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- grants.c; 0, or negative with *why set ---- */

/* One lease more on that fabric. */
int ferryi_grants_tenancy_get(struct ferryi_grants *grants, struct ferryi_hub_fabric *fabric,
			      struct refusal *why);
/* Takes extents that are the lease's now into its table, and gives them keys. On failure none of them is
 * left. */
int ferryi_grants_add_extents(struct ferryi_grants *grants, struct lease *lease,
			      struct ferryi_pool_extent **list, unsigned count, struct refusal *why);
/* The lease reply with extents [from, nextents), nold of which are not new. */
int ferryi_grants_reply_lease(struct ferryi_grants *grants, const struct lease *lease, size_t from,
			      size_t nold, uint64_t request_id, struct ferryi_reply *reply,
			      struct refusal *why);
/* Ends a lease that is on the list no more. */
void ferryi_grants_lease_destroy(struct ferryi_grants *grants, struct lease *lease);

/* ---- grants_quota.c: what the user is charged for ---- */

/* One lease more, of this session (--max-leases) and of its user; or not. */
int ferryi_grants_lease_charge(struct ferryi_grants *grants, struct refusal *why);
void ferryi_grants_lease_refund(struct ferryi_grants *grants);
/* What the user's names have for good and nobody holds: looked up, and noted for him. */
uint64_t ferryi_grants_booked(struct ferryi_grants *grants);
/* Bytes that are about to be taken; or not. Then _settle makes the extents answer for them; they are refunded
 * as they are given back. Where none were taken, ferryi_user_refund. */
int ferryi_grants_bytes_charge(struct ferryi_grants *grants, uint64_t bytes, struct refusal *why);
void ferryi_grants_bytes_settle(struct ferryi_grants *grants, struct ferryi_pool_extent *list);
/* What a name had: his already, unless a file has had it since before this server. */
void ferryi_grants_bytes_held(struct ferryi_grants *grants, struct ferryi_pool_extent *list);

/* ---- grants_heir.c ---- */

/* A new lease may have an heir, who knows the secret (empty: none). Where nothing would be kept it has none:
 * no error. */
void ferryi_grants_bequeath(struct ferryi_grants *grants, struct lease *lease,
			    const ProtobufCBinaryData *secret);
/* The session ends: all that the lease has is for its heir, if one stands by. Before _save_kept. */
void ferryi_grants_heir_gets(struct ferryi_grants *grants, struct lease *lease);
/* This session stands by, until it ends or has claimed. 0, or negative with *why set. */
int ferryi_grants_heir(struct ferryi_grants *grants, const Farferry__HeirRequest *request,
		       struct refusal *why);
int ferryi_grants_claim(struct ferryi_grants *grants, uint64_t request_id,
			const Farferry__ClaimRequest *request, struct ferryi_reply *reply,
			struct ferryi_grants_change *change, struct refusal *why);
/* It stands by for nothing any more. */
void ferryi_grants_renounce(struct ferryi_grants *grants);

/* ---- grants_kept.c ---- */

/* What the name has becomes the lease's. */
int ferryi_grants_hold(struct ferryi_grants *grants, struct lease *lease, const char *name,
		       struct refusal *why);
/* The name has the lease's first n extents that do not leave, and no other, from now on. */
int ferryi_grants_record(struct lease *lease, size_t n, struct refusal *why);
/* Until when memory waits for its name's next client, unless it does for good, or for the heir. */
uint64_t ferryi_grants_keep_until(const struct ferryi_grants *grants);
/*
 * The first extents of a lease with a name, or for an heir, get over the loss of their keys; if
 * one does not, none is kept. Nor when the server is about to end, but for good.
 * Before any of its keys is revoked.
 */
void ferryi_grants_save_kept(struct ferryi_grants *grants, struct lease *lease);

/* grants_view.c: nobody reads the extent by a view any more. Before its memory goes. */
void ferryi_grants_views_revoke(struct ferryi_grants *grants, uint64_t extent_id);
/* The same for all of them, and no view has a tenant any more. */
void ferryi_grants_views_close(struct ferryi_grants *grants);

#endif
