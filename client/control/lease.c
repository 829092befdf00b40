/* See lease.h. */
#include "lease.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "clock.h"
#include "connection.h"
#include "control_priv.h"
#include "error.h"
#include "grant.h"
#include "log.h"
#include "loop.h"

/* As proto takes them; anything else would cost the session. */
#define POOL_NAME_CHARS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:;-"

/* ---- watching the peer (control thread) ---- */

static void on_peer_event(evutil_socket_t fd, short what, void *arg)
{
	struct ferryi_lease *lease = arg;
	struct ferryi_session *session = lease->session;

	(void)fd;
	(void)what;
	if (ferryi_peer_events(lease->peer) != -ENOTCONN)
		return;
	ferryi_lease_unwatch(lease); /* it stays readable */
	ferryi_connection_data_ended(session);
}

static void watch_peer(void *arg)
{
	struct ferryi_lease *lease = arg;
	int fd = ferryi_peer_event_fd(lease->peer);

	if (fd < 0 || lease->session->bev == NULL)
		return; /* nothing to watch, or lost already */
	lease->watch = event_new(ferryi_loop_base(lease->session->control->loop), fd, EV_READ | EV_PERSIST,
				 on_peer_event, lease);
	if (lease->watch != NULL && event_add(lease->watch, NULL) == 0)
		return;
	ferryi_lease_unwatch(lease);
	/* The control connection says the same, if later. */
	ferryi_warn("session %s: its data connection is not watched", lease->session->name);
}

void ferryi_lease_unwatch(struct ferryi_lease *lease)
{
	if (lease->watch == NULL)
		return;
	event_free(lease->watch);
	lease->watch = NULL;
}

static void unwatch_peer(void *arg)
{
	ferryi_lease_unwatch(arg);
}

/* ---- extents ---- */

static struct ferryi_extent *extent_at(const struct ferryi_lease *lease, unsigned index)
{
	return &lease->chunks[index / FERRYI_LEASE_CHUNK][index % FERRYI_LEASE_CHUNK];
}

/* One location each until there are replicas; proto has checked alignment and counts. */
static void extent_from(struct ferryi_extent *to, const Farferry__Extent *from)
{
	*to = (struct ferryi_extent){
		.id = from->id,
		.pool_off = from->pool_off,
		.len_bytes = from->len_bytes,
		.remote = {.key = from->locations[0]->key,
			   .addr = from->locations[0]->addr,
			   .len_bytes = from->len_bytes},
	};
}

/* A name may have more than is asked for, and an heir asks for nothing. */
static bool is_of_unknown_size(const struct ferryi_lease *lease)
{
	return lease->name[0] || lease->is_claimed;
}

static int check_grant(const struct ferryi_lease *lease, const Farferry__LeaseReply *reply,
		       uint64_t size_bytes)
{
	const struct ferryi_session *session = lease->session;
	uint64_t sum = 0;

	for (size_t i = 0; i < reply->n_extents; i++) {
		const Farferry__Extent *extent = reply->extents[i];

		if (extent->n_locations == 0 || extent->len_bytes == 0 ||
		    (!is_of_unknown_size(lease) && extent->len_bytes > size_bytes - sum) ||
		    !ferryi_range_ok(extent->pool_off, extent->len_bytes, reply->pool_size_bytes))
			return ferryi_control_fail(
				-EPROTO, "ferryd at %s granted an extent that makes no sense", session->name);
		sum += extent->len_bytes;
	}
	if (is_of_unknown_size(lease) ? sum < size_bytes : sum != size_bytes)
		return ferryi_control_fail(
			-EPROTO, "ferryd at %s granted %llu bytes where %llu were asked for", session->name,
			(unsigned long long)sum, (unsigned long long)size_bytes);
	return 0;
}

static int make_room_locked(struct ferryi_lease *lease, unsigned count, size_t more)
{
	if (more > (size_t)FERRYI_LEASE_CHUNKS * FERRYI_LEASE_CHUNK - count)
		return -EDQUOT;
	for (size_t chunk = count / FERRYI_LEASE_CHUNK; chunk * FERRYI_LEASE_CHUNK < count + more; chunk++) {
		if (lease->chunks[chunk] != NULL)
			continue;
		lease->chunks[chunk] = calloc(FERRYI_LEASE_CHUNK, sizeof(struct ferryi_extent));
		if (lease->chunks[chunk] == NULL)
			return -ENOMEM;
	}
	return 0;
}

static int publish(struct ferryi_lease *lease, const Farferry__LeaseReply *reply, unsigned *first)
{
	ferryi_mutex_lock(&lease->session->lock);
	unsigned count = atomic_load(&lease->count);
	int rc = make_room_locked(lease, count, reply->n_extents);

	if (rc == 0) {
		*first = count;
		for (size_t i = 0; i < reply->n_extents; i++)
			extent_from(extent_at(lease, count + (unsigned)i), reply->extents[i]);
		atomic_store_explicit(&lease->count, count + (unsigned)reply->n_extents,
				      memory_order_release);
	}
	ferryi_mutex_unlock(&lease->session->lock);
	if (rc == -EDQUOT)
		return ferryi_control_fail(
			rc, "lease %llu of %s has used up its extent numbers: close it and open another",
			(unsigned long long)lease->id, lease->session->name);
	return rc < 0 ? ferryi_control_fail(rc, "out of memory") : 0;
}

static int import_fail(const struct ferryi_lease *lease, int rc)
{
	return ferryi_control_fail(rc, "memory that ferryd at %s granted cannot be reached over %s: %s",
				   lease->session->name, lease->row->name, ferryi_strerror(rc));
}

/* Every extent usable and in the table, or none. */
static int take_extents(struct ferryi_lease *lease, const Farferry__LeaseReply *reply, uint64_t size_bytes,
			uint64_t deadline_ns, unsigned *first)
{
	struct ferryi_extent extent;
	size_t imported = 0;
	int rc = check_grant(lease, reply, size_bytes);

	if (rc < 0)
		return rc;
	for (; imported < reply->n_extents; imported++) {
		extent_from(&extent, reply->extents[imported]);
		rc = ferryi_peer_import(lease->peer, &extent.remote, deadline_ns);
		if (rc < 0) {
			import_fail(lease, rc);
			break;
		}
	}
	if (rc == 0)
		rc = publish(lease, reply, first);
	if (rc == 0)
		return 0;
	while (imported > 0) {
		extent_from(&extent, reply->extents[--imported]);
		ferryi_peer_forget(lease->peer, &extent.remote);
	}
	return rc;
}

static uint64_t request_deadline(const struct ferryi_session *session)
{
	return ferryi_deadline_ms(session->request_ms);
}

/* What needs no question to the server. */
static int check_size(const struct ferryi_session *session, uint64_t size_bytes)
{
	switch (ferryi_session_state(session)) {
	case FERRYI_SESSION_LOST:
		return ferryi_session_fail_lost((struct ferryi_session *)session);
	case FERRYI_SESSION_DRAINING:
		return ferryi_control_fail(
			-ESHUTDOWN, "ferryd at %s is draining and grants nothing more: use another server",
			session->name);
	case FERRYI_SESSION_LIVE:
		break;
	}
	if (!ferryi_is_aligned(size_bytes, FERRYI_SUBSECTION_SIZE))
		return ferryi_control_fail(-EINVAL, "%llu bytes cannot be leased: not a multiple of 2 MiB",
					   (unsigned long long)size_bytes);
	return 0;
}

/* ---- life ---- */

static int open_peer(struct ferryi_lease *lease, const Farferry__LeaseReply *reply, uint64_t deadline_ns)
{
	struct ferryi_session *session = lease->session;
	struct ferryi_peer_attr attr = {
		.row = lease->row,
		.addr = reply->fabric_addr,
		.control_host = session->url.host,
		.label = session->name,
	};

	if (strcmp(reply->fabric, lease->row->name) != 0 || reply->data_token.len != sizeof(attr.token))
		return ferryi_control_fail(-EPROTO, "ferryd at %s granted fabric %s where %s was asked for",
					   session->name, reply->fabric, lease->row->name);
	memcpy(attr.token, reply->data_token.data, sizeof(attr.token));
	int rc = ferryi_peer_open(&attr, deadline_ns, &lease->peer);

	explicit_bzero(attr.token, sizeof(attr.token));
	if (rc < 0)
		return ferryi_control_fail(rc, "ferryd at %s cannot be reached over %s (%s): %s",
					   session->name, lease->row->name, reply->fabric_addr,
					   ferryi_strerror(rc));
	return 0;
}

static void free_lease(struct ferryi_lease *lease)
{
	for (size_t i = 0; i < FERRYI_LEASE_CHUNKS; i++)
		free(lease->chunks[i]);
	ferryi_session_put(lease->session);
	lease->magic = 0;
	free(lease);
}

/* From here on a loss of the session fails the peer; one that came before is seen here. */
static int enlist(struct ferryi_lease *lease)
{
	struct ferryi_session *session = lease->session;

	ferryi_mutex_lock(&session->lock);
	bool lost = atomic_load(&session->state) == FERRYI_SESSION_LOST;

	if (!lost)
		TAILQ_INSERT_TAIL(&session->leases, lease, link);
	ferryi_mutex_unlock(&session->lock);
	return lost ? ferryi_session_fail_lost(session) : 0;
}

static void count_attaching(struct ferryi_session *session, int step)
{
	ferryi_mutex_lock(&session->lock);
	session->attaching += (unsigned)step;
	ferryi_mutex_unlock(&session->lock);
}

/* A server of 0.1 has looked at neither type nor name: all that it has is private, and ends with the session.
 */
static int check_type(struct ferryi_lease *lease, const Farferry__LeaseReply *reply,
		      const struct ferryi_lease_want *want)
{
	const char *type = reply->pool_type[0] ? reply->pool_type : "private";

	snprintf(lease->pool_type, sizeof(lease->pool_type), "%s", type);
	snprintf(lease->name, sizeof(lease->name), "%s", reply->name);
	lease->nkept = reply->kept_extents;
	lease->keep_ms = reply->keep_ms;
	lease->takes_heir = reply->takes_heir;
	if (strcmp(want->name != NULL ? want->name : "", lease->name) != 0)
		return ferryi_control_fail(-EOPNOTSUPP,
					   "ferryd at %s knows no leases with a name: upgrade it",
					   lease->session->name);
	if (want->type == NULL || !want->type[0] || strcmp(want->type, type) == 0)
		return 0;
	return ferryi_control_fail(-ENXIO, "ferryd at %s has no pool of type %s there, but one of type %s",
				   lease->session->name, want->type, type);
}

static int build_lease(struct ferryi_lease *lease, const struct ferryi_lease_want *want)
{
	struct ferryi_session *session = lease->session;
	uint64_t deadline_ns = request_deadline(session);
	Farferry__Envelope *envelope;
	unsigned first;
	int rc = lease->is_claimed
			 ? ferryi_grant_claim(session, lease->secret, lease->row, deadline_ns, &envelope)
			 : ferryi_grant_attach(session, want, lease->row, lease->secret, deadline_ns,
					       &envelope);

	if (rc < 0)
		return rc;
	const Farferry__LeaseReply *reply = envelope->lease_reply;

	lease->id = reply->lease_id;
	lease->epoch = reply->epoch;
	atomic_store(&lease->pool_size_bytes, reply->pool_size_bytes);
	rc = check_type(lease, reply, want);
	if (rc == 0)
		rc = open_peer(lease, reply, deadline_ns);
	if (rc < 0)
		goto err_detach;
	rc = take_extents(lease, reply, want->size_bytes, deadline_ns, &first);
	if (rc < 0)
		goto err_peer;
	rc = enlist(lease);
	if (rc < 0)
		goto err_peer;
	ferryi_envelope_free(&envelope);
	return 0;

err_peer:
	ferryi_peer_close(&lease->peer);
err_detach:
	ferryi_envelope_free(&envelope);
	if (ferryi_session_state(session) != FERRYI_SESSION_LOST) {
		char line[1024];

		/* The line is of the first failure, whatever becomes of this. */
		snprintf(line, sizeof(line), "%s", ferryi_control_last_error());
		ferryi_grant_detach(session, lease->id, lease->epoch, false, request_deadline(session));
		ferryi_control_fail(rc, "%s", line);
	}
	return rc;
}

/* secret: of the lease that is to be claimed; NULL: a new one as wanted. */
static int open_lease(struct ferryi_session *session, const struct ferryi_lease_want *want,
		      const uint8_t *secret, struct ferryi_lease **out)
{
	const struct ferryi_fabric_row *row = ferryi_grant_row(session);

	if (row == NULL)
		return -ENODEV;
	struct ferryi_lease *lease = calloc(1, sizeof(*lease));
	int rc = 0;

	if (lease == NULL)
		return ferryi_control_fail(-ENOMEM, "out of memory");
	lease->magic = FERRYI_LEASE_MAGIC;
	ferryi_session_get(session);
	lease->session = session;
	lease->row = row;
	lease->is_claimed = secret != NULL;
	if (secret != NULL)
		memcpy(lease->secret, secret, sizeof(lease->secret));
	else if (ferryi_random(lease->secret, sizeof(lease->secret)) < 0)
		rc = ferryi_control_fail(-EIO, "no random numbers");
	count_attaching(session, 1);
	rc = rc < 0 ? rc : build_lease(lease, want);
	count_attaching(session, -1);
	if (rc < 0) {
		free_lease(lease);
		return rc;
	}
	if (ferryi_loop_call(session->control->loop, watch_peer, lease, request_deadline(session)) < 0)
		ferryi_warn("session %s: its data connection is not watched: the control thread is busy",
			    session->name);
	ferryi_info("session %s: lease %llu open over %s, %llu bytes in %u extents", session->name,
		    (unsigned long long)lease->id, row->name, (unsigned long long)want->size_bytes,
		    ferryi_lease_extent_count(lease));
	*out = lease;
	return 0;
}

int ferryi_lease_open(struct ferryi_session *session, const char *pool, uint64_t size_bytes,
		      struct ferryi_lease **out)
{
	const struct ferryi_lease_want want = {.pool = pool, .size_bytes = size_bytes};

	return ferryi_lease_open_as(session, &want, out);
}

int ferryi_lease_open_as(struct ferryi_session *session, const struct ferryi_lease_want *want,
			 struct ferryi_lease **out)
{
	const char *pool = want->pool;
	int rc = check_size(session, want->size_bytes);

	if (rc < 0)
		return rc;
	if (pool != NULL && (strlen(pool) > FERRYI_MAX_NAME || pool[strspn(pool, POOL_NAME_CHARS)] != '\0'))
		return ferryi_control_fail(
			-ENXIO, "no pool can be named \"%.80s\": see ferry pools for those there are", pool);
	if (want->name != NULL &&
	    (strlen(want->name) > FERRYI_MAX_NAME || want->name[strspn(want->name, POOL_NAME_CHARS)] != '\0'))
		return ferryi_control_fail(
			-EINVAL,
			"no lease can be named \"%.80s\": 1 to 63 letters, digits and . _ : ; - are wanted",
			want->name);
	return open_lease(session, want, NULL, out);
}

static int heir_request(struct ferryi_session *session, const uint8_t secret[FERRYI_LEASE_SECRET_LEN],
			bool renounce)
{
	uint8_t copy[FERRYI_LEASE_SECRET_LEN];

	memcpy(copy, secret, sizeof(copy));
	int rc = ferryi_grant_stand_by(session, copy, renounce, request_deadline(session));

	explicit_bzero(copy, sizeof(copy));
	return rc;
}

int ferryi_session_stand_by(struct ferryi_session *session, const uint8_t secret[FERRYI_LEASE_SECRET_LEN])
{
	return heir_request(session, secret, false);
}

int ferryi_session_renounce(struct ferryi_session *session, const uint8_t secret[FERRYI_LEASE_SECRET_LEN])
{
	return heir_request(session, secret, true);
}

int ferryi_lease_claim(struct ferryi_session *session, const uint8_t secret[FERRYI_LEASE_SECRET_LEN],
		       struct ferryi_lease **out)
{
	const struct ferryi_lease_want want = {0};
	int rc = check_size(session, 0);

	return rc < 0 ? rc : open_lease(session, &want, secret, out);
}

bool ferryi_lease_bequest(const struct ferryi_lease *lease, struct ferryi_lease_will *out)
{
	const struct ferryi_session *session = lease->session;
	const struct ferryi_url *url = &session->url;
	const struct ferryi_token *token;

	if (!lease->takes_heir || lease->is_claimed || atomic_load(&session->state) == FERRYI_SESSION_LOST)
		return false;
	token = &session->control->trust.token;
	snprintf(out->url, sizeof(out->url),
		 strchr(url->host, ':') ? "ferry://[%s]:%u?fabric=%s%s%s" : "ferry://%s:%u?fabric=%s%s%s",
		 url->host, url->port, lease->row->name, session->auth_named ? "&auth=" : "",
		 session->auth_named ? ferryi_auth_name(session->auth) : "");
	out->has_token = token->known;
	memcpy(out->token, token->bytes, sizeof(out->token));
	memcpy(out->secret, lease->secret, sizeof(out->secret));
	return true;
}

int ferryi_lease_grow(struct ferryi_lease *lease, uint64_t size_bytes, unsigned *first, unsigned *count)
{
	uint64_t deadline_ns = request_deadline(lease->session);
	Farferry__Envelope *envelope;
	int rc = check_size(lease->session, size_bytes);

	if (rc < 0)
		return rc;
	if (size_bytes == 0)
		return ferryi_control_fail(-EINVAL, "a lease cannot grow by 0 bytes");
	rc = ferryi_grant_grow(lease, size_bytes, deadline_ns, &envelope);
	if (rc < 0)
		return rc;
	const Farferry__LeaseReply *reply = envelope->lease_reply;

	atomic_store(&lease->pool_size_bytes, reply->pool_size_bytes);
	rc = take_extents(lease, reply, size_bytes, deadline_ns, first);
	if (rc == 0) {
		*count = (unsigned)reply->n_extents;
		ferryi_failure_deliver(lease->session);
	} else if (reply->n_extents > 0) {
		char line[1024];
		uint64_t *ids = calloc(reply->n_extents, sizeof(*ids));

		snprintf(line, sizeof(line), "%s", ferryi_control_last_error());
		for (size_t i = 0; ids != NULL && i < reply->n_extents; i++)
			ids[i] = reply->extents[i]->id;
		if (ids != NULL)
			ferryi_grant_shrink(lease, ids, reply->n_extents, request_deadline(lease->session));
		free(ids);
		ferryi_control_fail(rc, "%s", line);
	}
	ferryi_envelope_free(&envelope);
	return rc;
}

int ferryi_lease_inject(struct ferryi_lease *lease, unsigned extent_index, uint64_t off_bytes)
{
	if (extent_index >= ferryi_lease_extent_count(lease))
		return ferryi_control_fail(-EINVAL, "lease %llu has no extent %u",
					   (unsigned long long)lease->id, extent_index);
	return ferryi_grant_inject(lease, ferryi_lease_extent(lease, extent_index)->id, off_bytes,
				   request_deadline(lease->session));
}

int ferryi_lease_shrink(struct ferryi_lease *lease, unsigned extent_index)
{
	struct ferryi_session *session = lease->session;

	if (extent_index >= ferryi_lease_extent_count(lease))
		return ferryi_control_fail(-EINVAL, "lease %llu has no extent %u",
					   (unsigned long long)lease->id, extent_index);
	ferryi_mutex_lock(&session->lock);
	struct ferryi_extent *extent = extent_at(lease, extent_index);
	struct ferryi_remote remote = extent->remote;
	uint64_t id = extent->id, len_bytes = extent->len_bytes;

	extent->len_bytes = 0;
	ferryi_mutex_unlock(&session->lock);
	if (len_bytes == 0)
		return ferryi_control_fail(-EINVAL, "extent %u of lease %llu was given back before",
					   extent_index, (unsigned long long)lease->id);
	/* Nobody here reaches it any more before the server may give it to another; so it is gone even if the
	 * request fails. */
	ferryi_peer_forget(lease->peer, &remote);
	return ferryi_grant_shrink(lease, &id, 1, request_deadline(session));
}

/* Nobody looks at the lease from the control thread any more. *attached: its session is there. 0, -ETIMEDOUT. */
static int withdraw(struct ferryi_lease *lease, bool *attached)
{
	struct ferryi_session *session = lease->session;

	/* Off the list first: a loss from now on does not reach the peer. The loop is there while attached.
	 */
	ferryi_failure_leave(lease);
	ferryi_mutex_lock(&session->lock);
	*attached = session->attached;
	ferryi_mutex_unlock(&session->lock);
	if (!*attached || ferryi_loop_call(session->control->loop, unwatch_peer, lease,
					   ferryi_deadline_ms(FERRYI_CONTROL_CALL_MS)) == 0)
		return 0;
	ferryi_error("session %s: the control thread does not answer; lease %llu left behind", session->name,
		     (unsigned long long)lease->id);
	return ferryi_control_fail(-ETIMEDOUT, "the control thread does not answer");
}

int ferryi_lease_give_back(struct ferryi_lease *lease)
{
	bool attached;
	int rc = lease->is_given_back ? 0 : withdraw(lease, &attached);

	if (rc < 0 || lease->is_given_back)
		return rc;
	lease->is_given_back = true;
	ferryi_peer_fail(lease->peer);
	if (!attached || ferryi_session_state(lease->session) == FERRYI_SESSION_LOST)
		return 0;
	return ferryi_grant_detach(lease->session, lease->id, lease->epoch, false,
				   request_deadline(lease->session));
}

/* Why the lease may still be there at the server, or 0. */
static int close_lease(struct ferryi_lease **lease_ptr, bool forget)
{
	struct ferryi_lease *lease = *lease_ptr;
	struct ferryi_session *session = lease->session;
	bool attached = false;
	int rc = lease->is_given_back ? 0 : withdraw(lease, &attached);

	*lease_ptr = NULL;
	if (rc < 0)
		return rc;
	ferryi_peer_close(&lease->peer);
	if (lease->is_given_back) {
		free_lease(lease);
		return 0;
	}
	if (!attached || ferryi_session_state(session) == FERRYI_SESSION_LOST) {
		rc = -ENOTCONN;
	} else {
		rc = ferryi_grant_detach(session, lease->id, lease->epoch, forget, request_deadline(session));
		if (rc < 0)
			ferryi_warn("lease %llu: giving it back: %s", (unsigned long long)lease->id,
				    ferryi_control_last_error());
	}
	if (rc == -ENOTCONN)
		ferryi_session_fail_lost(session);
	free_lease(lease);
	return rc;
}

void ferryi_lease_close(struct ferryi_lease **lease)
{
	if (*lease != NULL)
		close_lease(lease, false);
}

int ferryi_lease_forget(struct ferryi_lease **lease)
{
	return close_lease(lease, true);
}

/* ---- what is there ---- */

unsigned ferryi_lease_extent_count(const struct ferryi_lease *lease)
{
	return atomic_load_explicit(&lease->count, memory_order_acquire);
}

const struct ferryi_extent *ferryi_lease_extent(const struct ferryi_lease *lease, unsigned index)
{
	return index < ferryi_lease_extent_count(lease) ? extent_at(lease, index) : NULL;
}

struct ferryi_peer *ferryi_lease_peer(const struct ferryi_lease *lease)
{
	return lease->peer;
}

struct ferryi_session *ferryi_lease_session(const struct ferryi_lease *lease)
{
	return lease->session;
}

const struct ferryi_fabric_row *ferryi_lease_row(const struct ferryi_lease *lease)
{
	return lease->row;
}

const char *ferryi_lease_name(const struct ferryi_lease *lease)
{
	return lease->name;
}

unsigned ferryi_lease_kept_extents(const struct ferryi_lease *lease)
{
	return lease->nkept;
}

uint32_t ferryi_lease_keep_ms(const struct ferryi_lease *lease)
{
	return lease->keep_ms;
}

const char *ferryi_lease_pool_type(const struct ferryi_lease *lease)
{
	return lease->pool_type;
}

uint64_t ferryi_lease_pool_size(const struct ferryi_lease *lease)
{
	return atomic_load(&lease->pool_size_bytes);
}
