/*
 * Memory of a server that has failed: from its notice to who uses the lease. A
 * notice may come before the lease or the extent that it names is known here,
 * and is kept until then:
 *
 *   control thread                          caller of open, grow
 *   -------------------------------------   -------------------------------------
 *   reply: request is answered
 *   notice: failures[] += it, deliver:
 *     lease, receiver, extent known? no
 *                                           extent published (or receiver set)
 *                                           deliver: yes, and it is taken off
 *
 * failure_lock makes one of them deliver it, and holds the lease in place: it
 * leaves the session's list with that lock held.
 */
#include <errno.h>
#include <string.h>

#include "control_priv.h"
#include "grant.h"
#include "lease.h"
#include "log.h"

/* NULL: there is none. *may_come: one is being opened, and may be it. */
static struct ferryi_lease *find_lease(struct ferryi_session *session, uint64_t id, bool *may_come)
{
	struct ferryi_lease *lease;

	ferryi_assert_held(&session->failure_lock);
	ferryi_mutex_lock(&session->lock);
	TAILQ_FOREACH(lease, &session->leases, link)
	{
		if (lease->id == id)
			break;
	}
	*may_come = session->attaching > 0;
	ferryi_mutex_unlock(&session->lock);
	return lease;
}

/* false: not known yet. */
static bool find_extent(const struct ferryi_lease *lease, uint64_t id, unsigned *index)
{
	unsigned n = ferryi_lease_extent_count(lease);

	for (unsigned i = 0; i < n; i++) {
		if (ferryi_lease_extent(lease, i)->id != id)
			continue;
		*index = i;
		return true;
	}
	return false;
}

/* true: done with. */
static bool deliver_locked(struct ferryi_session *session, const struct ferryi_failure *failure)
{
	bool may_come;
	struct ferryi_lease *lease = find_lease(session, failure->lease_id, &may_come);
	unsigned index;

	if (!lease)
		return !may_come;
	if (!lease->failed || !find_extent(lease, failure->extent_id, &index))
		return false;
	lease->failed(lease->failed_ctx, index, failure->off, failure->len_bytes);
	return true;
}

void ferryi_failure_deliver(struct ferryi_session *session)
{
	unsigned nleft = 0;

	ferryi_mutex_lock(&session->failure_lock);
	for (unsigned i = 0; i < session->nfailures; i++) {
		if (!deliver_locked(session, &session->failures[i]))
			session->failures[nleft++] = session->failures[i];
	}
	session->nfailures = nleft;
	ferryi_mutex_unlock(&session->failure_lock);
}

int ferryi_failure_add(struct ferryi_session *session, const struct ferryi_failure *failure)
{
	int rc = 0;

	ferryi_mutex_lock(&session->failure_lock);
	if (session->nfailures == FERRYI_SESSION_FAILURES)
		rc = -ENOSPC;
	else
		session->failures[session->nfailures++] = *failure;
	ferryi_mutex_unlock(&session->failure_lock);
	if (!rc)
		ferryi_failure_deliver(session);
	return rc;
}

void ferryi_failure_leave(struct ferryi_lease *lease)
{
	struct ferryi_session *session = lease->session;
	unsigned nleft = 0;

	ferryi_mutex_lock(&session->failure_lock);
	ferryi_mutex_lock(&session->lock);
	TAILQ_REMOVE(&session->leases, lease, link);
	ferryi_mutex_unlock(&session->lock);
	for (unsigned i = 0; i < session->nfailures; i++) {
		if (session->failures[i].lease_id != lease->id)
			session->failures[nleft++] = session->failures[i];
	}
	session->nfailures = nleft;
	ferryi_mutex_unlock(&session->failure_lock);
}

void ferryi_lease_on_failure(struct ferryi_lease *lease, ferryi_lease_failed *failed, void *ctx)
{
	ferryi_mutex_lock(&lease->session->failure_lock);
	lease->failed = failed;
	lease->failed_ctx = ctx;
	ferryi_mutex_unlock(&lease->session->failure_lock);
	ferryi_failure_deliver(lease->session);
}
