/*
 * What one session holds: a tenant for each fabric that it uses, leases, their
 * extents and keys. Owned by the session's worker (jobs.h) from open to close:
 * no lock. Every request ends in one reply frame.
 */
#ifndef FERRYI_CONTROL_GRANTS_H
#define FERRYI_CONTROL_GRANTS_H

#include "hub.h"
#include "reply.h"

struct ferryi_grants;

/* What a request changed, for the session's own books. 0: nothing. */
struct ferryi_grants_change {
	uint64_t lease_added;
	uint64_t lease_removed;
};

/* label names the session in log lines ("session 3 (sort, 10.0.0.7)"); copied. 0 or -ENOMEM. Any thread. */
int ferryi_grants_open(struct ferryi_hub *hub, uint64_t epoch, const char *label, struct ferryi_grants **out);
/*
 * Revokes everything: keys first, then the memory goes to the scrubber. On
 * return no peer reaches any of it. NULL allowed; nulls *grants.
 */
void ferryi_grants_close(struct ferryi_grants **grants);

/* Serves one attach, grow, shrink or detach request. Context: the session's worker; blocks. */
void ferryi_grants_request(struct ferryi_grants *grants, const Farferry__Envelope *request,
			   struct ferryi_reply *reply, struct ferryi_grants_change *change);

#endif
