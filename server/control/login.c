/*
 * The beginning of a session: hello, and who the peer is, by the method of its
 * listener. See session.h. Control thread only, but for what login_run says.
 */
#include "session_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "clock.h"
#include "grants.h"
#include "log.h"

int ferryi_server_session_hello(struct ferryi_server_session *session, const Farferry__Envelope *request)
{
	const Farferry__Hello *hello = request->hello;
	Farferry__HelloReply reply = FARFERRY__HELLO_REPLY__INIT;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	char text[160];

	snprintf(session->label, sizeof(session->label), "session %" PRIu64 " (%.40s, %.40s)", session->id,
		 hello->client[0] ? hello->client : "unnamed", session->peer);
	if (hello->version_max < FERRYI_PROTO_VERSION_MIN || hello->version_min > FERRYI_PROTO_VERSION_MAX) {
		snprintf(text, sizeof(text),
			 "this server speaks protocol versions %u to %u, the client %u to %u; upgrade the "
			 "older one",
			 FERRYI_PROTO_VERSION_MIN, FERRYI_PROTO_VERSION_MAX, hello->version_min,
			 hello->version_max);
		return ferryi_server_session_fail(session, request->request_id, FARFERRY__CODE__CODE_VERSION,
						  -EPROTONOSUPPORT, text);
	}
	if (ferryi_random(session->nonce, sizeof(session->nonce)))
		return ferryi_server_session_fail(session, request->request_id, FARFERRY__CODE__CODE_INTERNAL,
						  -EIO, "the server has no random numbers");
	reply.version = (uint32_t)ferryi_min_u64(hello->version_max, FERRYI_PROTO_VERSION_MAX);
	reply.server_nonce.data = session->nonce;
	reply.server_nonce.len = sizeof(session->nonce);
	reply.server_id = session->hub->server_id;
	reply.host = session->hub->host;
	reply.auth_required = session->io.auth != FERRYI_AUTH_ANONYMOUS;
	reply.auth = (char *)ferryi_auth_name(session->io.auth);
	envelope.request_id = request->request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_HELLO_REPLY;
	envelope.hello_reply = &reply;
	ferryi_server_session_put_envelope(session, &envelope);
	session->state = AWAIT_AUTH;
	return 0;
}

static void put_auth_reply(struct ferryi_server_session *session, uint64_t request_id, uint8_t *mac,
			   const char *credential)
{
	struct ferryi_hub *hub = session->hub;
	Farferry__AuthReply reply = FARFERRY__AUTH_REPLY__INIT;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	char *names[FERRYI_HUB_FABRICS_MAX];

	for (unsigned i = 0; i < hub->nfabrics; i++)
		names[i] = (char *)hub->fabrics[i].row->name;
	reply.mac.data = mac;
	reply.mac.len = FERRYI_MAC_LEN;
	reply.credential.data = (uint8_t *)credential;
	reply.credential.len = strlen(credential);
	reply.user = session->user->name;
	reply.session_id = session->id;
	reply.epoch = session->epoch;
	reply.keepalive_ms = (uint32_t)hub->limits.keepalive_ms;
	reply.timeout_ms = (uint32_t)hub->limits.timeout_ms;
	reply.n_fabrics = hub->nfabrics;
	reply.fabrics = names;
	envelope.request_id = request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_AUTH_REPLY;
	envelope.auth_reply = &reply;
	ferryi_server_session_put_envelope(session, &envelope);
}

static void put_from_views(void *ctx, struct ferryi_reply *reply)
{
	ferryi_server_session_put(ctx, reply);
}

static int views_open(struct ferryi_server_session *session)
{
	const struct ferryi_views_attr attr = {
		.hub = session->hub,
		.session_id = session->id,
		.user = session->user,
		.grants = session->grants,
		.label = session->label,
		.put = put_from_views,
		.ctx = session,
	};

	return ferryi_views_open(&attr, &session->views);
}

/* The peer is who he says: he counts from now on. credential: the server's own ("": none). */
static int let_in(struct ferryi_server_session *session, uint64_t request_id, const char *user,
		  const uint8_t client_nonce[FERRYI_NONCE_LEN], const char *credential)
{
	struct ferryi_hub *hub = session->hub;
	/* Where the token is not what counts, zeros stand for it, and nobody looks at what comes of them. */
	static const uint8_t zeros[FERRYI_AUTH_TOKEN_LEN];
	uint8_t mac[FERRYI_MAC_LEN];
	char why[256];

	if (ferryi_counter_read(&hub->status.g_sessions) >= hub->limits.sessions)
		return ferryi_server_session_fail(
			session, request_id, FARFERRY__CODE__CODE_LIMIT, -EDQUOT,
			"the server has as many sessions as its limit (--max-sessions) allows");
	/* Counted until the session has ended, in close_done. */
	session->user = ferryi_users_get(&hub->users, user);
	if (!session->user)
		return ferryi_server_session_fail(session, request_id, FARFERRY__CODE__CODE_INTERNAL, -ENOMEM,
						  "the server is out of memory");
	/* Once: later the workers do, as a file's catalogue may be locked while it is written. */
	if (!session->user->is_known)
		atomic_store(&session->user->booked, ferryi_hub_booked(hub, session->user->scope));
	session->user->is_known = true;
	if (ferryi_user_charge(session->user, FERRYI_QUOTA_SESSIONS, 1, 0, why, sizeof(why)))
		return ferryi_server_session_fail(session, request_id, FARFERRY__CODE__CODE_LIMIT, -EDQUOT,
						  why);
	session->charged = true;
	if (ferryi_auth_mac(FERRYI_ROLE_SERVER, session->io.auth == FERRYI_AUTH_TOKEN ? hub->token : zeros,
			    session->nonce, client_nonce, mac))
		return ferryi_server_session_fail(session, request_id, FARFERRY__CODE__CODE_INTERNAL, -EIO,
						  "the server cannot compute digests");
	session->epoch = ++hub->epoch;
	if (ferryi_grants_open(hub, session->user, session->epoch, session->label, &session->grants) ||
	    views_open(session))
		return ferryi_server_session_fail(session, request_id, FARFERRY__CODE__CODE_INTERNAL, -ENOMEM,
						  "the server is out of memory");
	session->state = LIVE;
	session->counted = true;
	ferryi_count(&hub->status.g_sessions, 1);
	ferryi_count(&hub->status.c_sessions_total, 1);
	ferryi_info("%s: authenticated, user %s", session->label, session->user->name);
	put_auth_reply(session, request_id, mac, credential);
	if (session->io.authenticated)
		session->io.authenticated(session->io.ctx);
	if (atomic_load(&hub->draining))
		ferryi_server_session_put_drain(session,
						(uint64_t)ferryi_remaining_ms(hub->drain_deadline_ns));
	return 0;
}

static int refuse(struct ferryi_server_session *session, uint64_t request_id, const char *text)
{
	ferryi_count(&session->hub->status.c_auth_failures_total, 1);
	return ferryi_server_session_fail(session, request_id, FARFERRY__CODE__CODE_AUTH, -EACCES, text);
}

/* ---- MUNGE ---- */

/* munged may take its time, and the session may be gone meanwhile: all that is needed is here. */
struct login_job {
	struct ferryi_job job;
	struct ferryi_hub *hub;
	uint64_t session_id, request_id;
	char address[64];
	uint8_t server_nonce[FERRYI_NONCE_LEN], client_nonce[FERRYI_NONCE_LEN];
	char credential[FERRYI_CREDENTIAL_MAX + 1];
	/* what comes of it */
	int rc;
	uid_t uid;
	char *answer; /* the server's credential */
	char why[512];
};

/* Context: the thread of hub->logins. */
static void login_run(struct ferryi_job *job)
{
	struct login_job *l = (struct login_job *)job;
	const struct ferryi_munge_binding binding = {l->server_nonce, l->client_nonce, l->address};
	const char *socket = l->hub->munge_socket;
	gid_t gid;

	l->rc = ferryi_munge_decode(socket, FERRYI_ROLE_CLIENT, &binding, l->credential, &l->uid, &gid,
				    l->why, sizeof(l->why));
	if (!l->rc)
		l->rc = ferryi_munge_encode(socket, FERRYI_ROLE_SERVER, &binding, l->uid, &l->answer, l->why,
					    sizeof(l->why));
}

static struct ferryi_server_session *find(const struct ferryi_hub *hub, uint64_t id)
{
	struct ferryi_server_session *session = hub->sessions;

	while (session && session->id != id)
		session = session->next;
	return session;
}

static void login_done(struct ferryi_job *job)
{
	struct login_job *l = (struct login_job *)job;
	struct ferryi_server_session *session = find(l->hub, l->session_id);
	char user[32];
	int rc = 0;

	if (!session || session->refused)
		goto out;
	snprintf(user, sizeof(user), "uid:%u", (unsigned)l->uid);
	if (l->rc == -EACCES)
		rc = refuse(session, l->request_id, l->why);
	else if (l->rc)
		rc = ferryi_server_session_fail(session, l->request_id, FARFERRY__CODE__CODE_INTERNAL, l->rc,
						l->why);
	else
		rc = let_in(session, l->request_id, user, l->client_nonce, l->answer);
	if (!rc) {
		session->deadline_ns = ferryi_deadline_ms(session->hub->limits.timeout_ms);
	} else {
		session->refused = true;
		if (session->io.refused)
			session->io.refused(session->io.ctx);
	}
out:
	free(l->answer);
	free(l);
}

static int ask_munge(struct ferryi_server_session *session, const Farferry__Envelope *request)
{
	const Farferry__Auth *auth = request->auth;
	struct ferryi_hub *hub = session->hub;
	struct login_job *l;

	if (!auth->credential.len)
		return refuse(session, request->request_id,
			      "this server wants a MUNGE credential, the client sent a token: set "
			      "FERRY_AUTH=munge, "
			      "or write ?auth=munge in the server's URL");
	/* One that munged keeps waiting must not make the server collect what it cannot serve. */
	if (ferryi_jobs_pending(hub->logins) >= hub->limits.unauthenticated)
		return ferryi_server_session_fail(session, request->request_id, FARFERRY__CODE__CODE_LIMIT,
						  -EDQUOT,
						  "munged has more credentials to look at than the limit "
						  "(--max-unauthenticated) of this "
						  "server; try again");
	l = calloc(1, sizeof(*l));
	if (!l)
		return ferryi_server_session_fail(session, request->request_id, FARFERRY__CODE__CODE_INTERNAL,
						  -ENOMEM, "the server is out of memory");
	l->job.run = login_run;
	l->job.done = login_done;
	l->hub = hub;
	l->session_id = session->id;
	l->request_id = request->request_id;
	snprintf(l->address, sizeof(l->address), "%s", session->io.address);
	memcpy(l->server_nonce, session->nonce, sizeof(l->server_nonce));
	memcpy(l->client_nonce, auth->client_nonce.data, sizeof(l->client_nonce));
	memcpy(l->credential, auth->credential.data, auth->credential.len); /* validated */
	session->state = AUTHENTICATING;
	ferryi_jobs_submit(hub->logins, 0, &l->job);
	return 0;
}

/* ---- the others ---- */

static int check_token(struct ferryi_server_session *session, const Farferry__Envelope *request)
{
	uint8_t mac[FERRYI_MAC_LEN];

	if (request->auth->credential.len)
		return refuse(session, request->request_id,
			      "this server wants its token, the client sent a MUNGE credential: set "
			      "FERRY_AUTH=token and FERRY_TOKEN_FILE");
	if (ferryi_auth_mac(FERRYI_ROLE_CLIENT, session->hub->token, session->nonce,
			    request->auth->client_nonce.data, mac))
		return ferryi_server_session_fail(session, request->request_id, FARFERRY__CODE__CODE_INTERNAL,
						  -EIO, "the server cannot compute digests");
	if (!ferryi_mac_equal(mac, request->auth->mac.data))
		return refuse(session, request->request_id,
			      "wrong token: the client and the server must use the same token file");
	return 0;
}

int ferryi_server_session_auth(struct ferryi_server_session *session, const Farferry__Envelope *request)
{
	const uint8_t *client_nonce = request->auth->client_nonce.data;
	const char *user = ferryi_auth_name(session->io.auth);
	int rc = 0;

	switch (session->io.auth) {
	case FERRYI_AUTH_MUNGE:
		return ask_munge(session, request);
	case FERRYI_AUTH_TLS:
		user = session->certified;
		break;
	case FERRYI_AUTH_TOKEN:
		rc = check_token(session, request);
		break;
	case FERRYI_AUTH_ANONYMOUS:
		break;
	}
	return rc ? rc : let_in(session, request->request_id, user, client_nonce, "");
}
