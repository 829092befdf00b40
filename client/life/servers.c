/*
 * Servers that were lost and are there again: a new session each, in place of
 * the lost one. What their leases held is gone, or fenced, so they are as new
 * servers: for copies, and for memory to come. Leases of the lost session name
 * it as long as they last, and so may others: it is kept until the end.
 */
#include <errno.h>
#include <stdlib.h>

#include "clock.h"
#include "error.h"
#include "life.h"
#include "log.h"

#define FIRST_RETRY_NS (1000 * FERRYI_NS_PER_MS)
#define MAX_RETRY_NS   (30 * FIRST_RETRY_NS)

/* The session that was there, and where the next one is tried. Owned by the thread `ferry-rebuild`; freed at
 * close. */
struct ferryi_lost_session {
	struct ferryi_session *session;
	struct ferryi_lost_session *next;
};

/*
 * Is there an index for one pool more, and for its copies, when each of them may be under way to another server? A pool whose
 * own lease is lost keeps its index, so a server that comes and goes could take them all.
 */
static bool has_room_locked(const struct ferry *ferry)
{
	unsigned each = (unsigned)ferry->config.replicas + 1, need = each;

	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		const struct ferry_pool *pool = atomic_load(&ferry->pools[i]);

		if (pool)
			need += ferryi_pool_is_replicated(pool) ? each : 1;
	}
	return need <= FERRYI_MAX_POOLS_ATTACHED;
}

/* For memory to come. What cannot be had now is not needed either: copies come first. */
static void attach_again_locked(struct ferry *ferry, struct ferryi_session *session)
{
	struct ferry_pool_attr attr = {.size = sizeof(attr), .pool = ferry->config.pool};
	struct ferry_pool *pool;

	if (!has_room_locked(ferry))
		return;
	if (ferryi_attach(ferry, session, &attr, &pool) || ferryi_replicate(ferry, pool))
		ferryi_warn("%s: is there again, but lends no memory: %s", ferryi_session_name(session),
			    ferryi_control_last_error());
}

static bool reopen(struct ferry *ferry, unsigned nid)
{
	struct ferryi_server *server = &ferry->servers[nid];
	struct ferryi_lost_session *lost = malloc(sizeof(*lost));
	struct ferryi_session *session;

	if (!lost)
		return false;
	/* With no lock: a server that is out of reach takes its time. */
	if (ferryi_session_open(ferry->control, ferry->urls[nid], &session)) {
		free(lost);
		server->wait_ns =
			server->wait_ns ? ferryi_min_u64(2 * server->wait_ns, MAX_RETRY_NS) : FIRST_RETRY_NS;
		server->retry_ns = ferryi_now_ns() + server->wait_ns;
		return false;
	}
	ferryi_notice("%s: is there again, as a new server", ferryi_session_name(session));
	server->wait_ns = server->retry_ns = 0;
	ferryi_mutex_lock(&ferry->lock);
	lost->session = ferry->sessions[nid];
	lost->next = ferry->lost_sessions;
	ferry->lost_sessions = lost;
	ferry->sessions[nid] = session;
	attach_again_locked(ferry, session);
	ferryi_mutex_unlock(&ferry->lock);
	return true;
}

bool ferryi_reopen_servers(struct ferry *ferry)
{
	unsigned nr = atomic_load(&ferry->nr_sessions);
	bool any = false;

	for (unsigned nid = 0; nid < nr; nid++) {
		ferryi_mutex_lock(&ferry->lock);
		bool is_lost = ferryi_session_state(ferry->sessions[nid]) == FERRYI_SESSION_LOST;

		ferryi_mutex_unlock(&ferry->lock);
		if (is_lost && ferryi_now_ns() >= ferry->servers[nid].retry_ns)
			any |= reopen(ferry, nid);
	}
	return any;
}

void ferryi_close_lost_sessions(struct ferry *ferry)
{
	struct ferryi_lost_session *lost;

	while ((lost = ferry->lost_sessions)) {
		ferry->lost_sessions = lost->next;
		ferryi_session_close(&lost->session);
		free(lost);
	}
}
