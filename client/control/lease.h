/*
 * One lease: extents of a server's pool, the peer that reaches them, and the
 * watch on that peer's event descriptor. Calls come from any thread; the watch
 * is the control thread's.
 */
#ifndef FERRYI_CONTROL_LEASE_H
#define FERRYI_CONTROL_LEASE_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "control.h"
#include "session.h"

struct event;

#define FERRYI_LEASE_MAGIC  0x1ea5e011u
#define FERRYI_LEASE_CHUNK  256u  /* extents */
#define FERRYI_LEASE_CHUNKS 1024u /* 262144 extents in a lease's life: 512 GiB were each the smallest */

struct ferryi_lease {
	unsigned magic;
	/* immutable */
	struct ferryi_session *session; /* a reference */
	const struct ferryi_fabric_row *row;
	struct ferryi_peer *peer;
	uint64_t id;
	uint64_t epoch;
	char pool_type[16];
	char name[FERRYI_MAX_NAME + 1];
	unsigned nkept; /* extents that came with the name */
	uint32_t keep_ms;
	bool is_claimed; /* taken over from another session */
	bool takes_heir;
	bool is_given_back; /* but for the handle; set by who may close it */
	uint8_t secret[FERRYI_LEASE_SECRET_LEN];
	/* atomic: published (release) after the extents below it were written */
	_Atomic unsigned count;
	/* atomic: as the server's last reply says */
	_Atomic uint64_t pool_size_bytes;
	/* protected by the session's lock; chunks, once there, stay where they are */
	struct ferryi_extent *chunks[FERRYI_LEASE_CHUNKS];
	TAILQ_ENTRY(ferryi_lease) link;
	/* protected by the session's failure_lock */
	ferryi_lease_failed *failed; /* NULL: nobody has asked yet */
	void *failed_ctx;
	/* owned by the control thread */
	struct event *watch; /* NULL: nothing to watch */
};

/* Control thread, when the session is lost or detached. */
void ferryi_lease_unwatch(struct ferryi_lease *lease);

/*
 * Delivers what can be delivered of the session's failures; the rest waits.
 * Called with what changed: a report came, a receiver, extents. failure.c; takes failure_lock.
 */
void ferryi_failure_deliver(struct ferryi_session *session);
/* Control thread: a report. 0; -ENOSPC: more wait than can be kept. */
int ferryi_failure_add(struct ferryi_session *session, const struct ferryi_failure *failure);
/* The lease leaves the session's list: nothing of it is delivered any more once this returns. */
void ferryi_failure_leave(struct ferryi_lease *lease);

#endif
