/*
 * What a lease asks of its server, one request each, and over which fabric.
 * Runs in the caller's thread; no lock held. Errors: as ferryi_request_call,
 * and the server's own; the error line is set.
 */
#ifndef FERRYI_CONTROL_GRANT_H
#define FERRYI_CONTROL_GRANT_H

#include "lease.h"
#include "proto.h"

/* The row that the session's URL and both sides allow; NULL with the error line of -ENODEV. */
const struct ferryi_fabric_row *ferryi_grant_row(const struct ferryi_session *session);

/* *reply holds a lease_reply; free it with ferryi_envelope_free. secret: FERRYI_LEASE_SECRET_LEN bytes, for
 * its heir. */
int ferryi_grant_attach(struct ferryi_session *session, const struct ferryi_lease_want *want,
			const struct ferryi_fabric_row *row, uint8_t *secret, uint64_t deadline_ns,
			Farferry__Envelope **reply);
int ferryi_grant_stand_by(struct ferryi_session *session, uint8_t *secret, bool renounce,
			  uint64_t deadline_ns);
/* As attach. */
int ferryi_grant_claim(struct ferryi_session *session, uint8_t *secret, const struct ferryi_fabric_row *row,
		       uint64_t deadline_ns, Farferry__Envelope **reply);
int ferryi_grant_grow(struct ferryi_lease *lease, uint64_t size_bytes, uint64_t deadline_ns,
		      Farferry__Envelope **reply);
int ferryi_grant_shrink(struct ferryi_lease *lease, uint64_t *ids, size_t n, uint64_t deadline_ns);
/* The server treats that page of the extent as failed; tests. */
int ferryi_grant_inject(struct ferryi_lease *lease, uint64_t extent_id, uint64_t off, uint64_t deadline_ns);
/* forget: its name too. */
int ferryi_grant_detach(struct ferryi_session *session, uint64_t lease_id, uint64_t epoch, bool forget,
			uint64_t deadline_ns);

#endif
