/*
 * What one session holds: a tenant for each fabric that it uses, leases, their
 * extents and keys. Owned by the session's worker (jobs.h) from open to close:
 * no lock. Every request ends in one reply frame.
 */
#ifndef FERRYI_CONTROL_GRANTS_H
#define FERRYI_CONTROL_GRANTS_H

#include "hub.h"
#include "mce.h"
#include "reply.h"

struct ferryi_grants;

/* What a request changed, for the session's own books. 0: nothing. */
struct ferryi_grants_change {
	uint64_t lease_added;
	uint64_t lease_removed;
};

/* label names the session in log lines ("session 3 (sort, 10.0.0.7)"); copied. 0 or -ENOMEM. Any thread. */
int ferryi_grants_open(struct ferryi_hub *hub, struct ferryi_user *user, uint64_t epoch, const char *label,
		       struct ferryi_grants **out);
/*
 * Revokes everything: keys first, then the memory goes to the scrubber. On
 * return no peer reaches any of it. NULL allowed; nulls *grants.
 */
void ferryi_grants_close(struct ferryi_grants **grants);

/* Serves one attach, grow, shrink, detach, heir or claim request. Context: the session's worker; blocks. */
void ferryi_grants_request(struct ferryi_grants *grants, const Farferry__Envelope *request,
			   struct ferryi_reply *reply, struct ferryi_grants_change *change);

/*
 * A view of this session's process may read one of its extents: read-only, by a tenant of the view's own.
 * Answers with the place (view_extent_reply), or an error: no such extent (it was given back: NO_LEASE), or a
 * fabric that cannot lend it (FABRIC). Asked for again, the same. Context: the worker of the session that
 * holds the extent; blocks.
 */
void ferryi_grants_view_extent(struct ferryi_grants *grants, uint64_t view_id, uint64_t extent_id,
			       uint64_t request_id, struct ferryi_reply *reply);
/* Ends all that the view was given. On return its reader reaches none of it. The same context. */
void ferryi_grants_view_drop(struct ferryi_grants *grants, uint64_t view_id);

/* Where failed memory was lent: whole pages of an extent. */
struct ferryi_grants_failure {
	uint64_t lease_id, extent_id;
	uint64_t off, len_bytes;
};

/* Whether the memory is this session's; then where. The extent is replaced when it comes back. Context: the
 * session's worker. */
bool ferryi_grants_failed(struct ferryi_grants *grants, const struct ferryi_mce *mce,
			  struct ferryi_grants_failure *out);

#endif
