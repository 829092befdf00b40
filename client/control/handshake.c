/* See handshake.h. */
#include "handshake.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "request.h"

static int say_hello(struct ferryi_session *session, uint64_t deadline_ns, Farferry__Envelope **reply)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__Hello hello = FARFERRY__HELLO__INIT;
	char client[FERRYI_MAX_NAME + 1], host[256];

	snprintf(client, sizeof(client), "%s", program_invocation_short_name);
	for (char *c = client; *c != '\0'; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	ferryi_host_identity(host, sizeof(host));
	hello.version_min = FERRYI_PROTO_VERSION_MIN;
	hello.version_max = FERRYI_PROTO_VERSION_MAX;
	hello.client = client;
	hello.host = host;
	hello.pid = (uint64_t)getpid();
	envelope.body_case = FARFERRY__ENVELOPE__BODY_HELLO;
	envelope.hello = &hello;
	int rc = ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_HELLO_REPLY, deadline_ns,
				     reply);

	if (rc < 0)
		return rc;
	session->same_host = strcmp((*reply)->hello_reply->host, host) == 0;
	return 0;
}

/* Ours is what the server wants. Nothing that we know is sent to one that wants something else. */
static int check_method(const struct ferryi_session *session, const Farferry__HelloReply *hello,
			const struct ferryi_token *token)
{
	const char *ours = ferryi_auth_name(session->auth);
	const char *wants = hello->auth[0]	   ? hello->auth
			    : hello->auth_required ? ferryi_auth_name(FERRYI_AUTH_TOKEN)
						   : ferryi_auth_name(FERRYI_AUTH_ANONYMOUS);
	bool anonymous = strcmp(wants, ferryi_auth_name(FERRYI_AUTH_ANONYMOUS)) == 0;
	enum ferryi_auth known;

	/* Nobody said that it has to be the token; one that was named is still proven, see prove_token. */
	if (anonymous && session->auth == FERRYI_AUTH_TOKEN && !session->auth_named)
		return 0;
	if (ferryi_auth_find(wants, &known))
		return ferryi_control_fail(
			-EPROTONOSUPPORT,
			"ferryd at %s wants '%s' of its clients, which this version does not "
			"know: upgrade it",
			session->name, wants);
	if (known != session->auth)
		return ferryi_control_fail(
			-EACCES,
			"ferryd at %s wants auth=%s, and this client is to use auth=%s: set "
			"FERRY_AUTH=%s, or write ?auth=%s behind the server's address",
			session->name, wants, ours, wants, wants);
	if (known == FERRYI_AUTH_TOKEN && !token->known)
		return ferryi_control_fail(-EACCES,
					   "ferryd at %s wants a token and there is none: set "
					   "FERRY_TOKEN_FILE to a copy of the server's token file",
					   session->name);
	return 0;
}

static int check_hello(struct ferryi_session *session, const Farferry__HelloReply *hello,
		       const struct ferryi_token *token)
{
	int rc;

	if (hello->version < FERRYI_PROTO_VERSION_MIN || hello->version > FERRYI_PROTO_VERSION_MAX)
		return ferryi_control_fail(-EPROTONOSUPPORT,
					   "ferryd at %s speaks protocol version %u, this client %u to %u: "
					   "upgrade the older one",
					   session->name, hello->version, FERRYI_PROTO_VERSION_MIN,
					   FERRYI_PROTO_VERSION_MAX);
	rc = check_method(session, hello, token);
	snprintf(session->server_id, sizeof(session->server_id), "%s", hello->server_id);
	return rc;
}

/* The Auth message with what proves us; credential "": none. */
static int send_auth(struct ferryi_session *session, uint8_t nonce[FERRYI_NONCE_LEN],
		     uint8_t mac[FERRYI_MAC_LEN], char *credential, uint64_t deadline_ns,
		     Farferry__Envelope **reply)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__Auth auth = FARFERRY__AUTH__INIT;

	auth.client_nonce = (ProtobufCBinaryData){.len = FERRYI_NONCE_LEN, .data = nonce};
	auth.mac = (ProtobufCBinaryData){.len = FERRYI_MAC_LEN, .data = mac};
	auth.credential = (ProtobufCBinaryData){.len = strlen(credential), .data = (uint8_t *)credential};
	envelope.body_case = FARFERRY__ENVELOPE__BODY_AUTH;
	envelope.auth = &auth;
	return ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_AUTH_REPLY, deadline_ns,
				   reply);
}

/* Who calls and who answers both show that they know the token. */
static int prove_token(struct ferryi_session *session, const Farferry__HelloReply *hello,
		       const struct ferryi_token *token, uint64_t deadline_ns, Farferry__Envelope **reply)
{
	uint8_t nonce[FERRYI_NONCE_LEN], mac[FERRYI_MAC_LEN], expected[FERRYI_MAC_LEN];
	const uint8_t *server_nonce = hello->server_nonce.data;
	static const uint8_t no_token[FERRYI_AUTH_TOKEN_LEN];
	char none[] = "";
	/* Without the check, anybody on the path could answer "no token needed" and get our pages. */
	bool check = session->auth == FERRYI_AUTH_TOKEN && (hello->auth_required || token->named);
	const uint8_t *secret = check ? token->bytes : no_token;

	if (ferryi_random(nonce, sizeof(nonce)) < 0 ||
	    ferryi_auth_mac(FERRYI_ROLE_CLIENT, secret, server_nonce, nonce, mac) < 0 ||
	    ferryi_auth_mac(FERRYI_ROLE_SERVER, secret, server_nonce, nonce, expected) < 0)
		return ferryi_control_fail(-EIO, "no random numbers or no HMAC-SHA256 on this system");
	int rc = send_auth(session, nonce, mac, none, deadline_ns, reply);

	if (rc == -EACCES && check)
		return ferryi_control_fail(-EACCES,
					   "ferryd at %s refused the token%s%s: set FERRY_TOKEN_FILE to a "
					   "copy of the server's token file",
					   session->name, token->source[0] != '\0' ? " of " : "",
					   token->source);
	if (rc < 0)
		return rc;
	if (check && !ferryi_mac_equal(expected, (*reply)->auth_reply->mac.data)) {
		ferryi_envelope_free(reply);
		return ferryi_control_fail(
			-EACCES, "%s did not prove that it knows the token%s%s: %s", session->name,
			token->source[0] != '\0' ? " of " : "", token->source,
			hello->auth_required
				? "it is not the ferryd that this token is of"
				: "it asks for none; unset FERRY_TOKEN_FILE to trust it all the same");
	}
	return 0;
}

/* munged vouches for the server as well: an ordinary user's process that took its port is not believed. */
static int check_server(const struct ferryi_session *session, const struct ferryi_trust *trust,
			const struct ferryi_munge_binding *binding, const Farferry__AuthReply *reply)
{
	char credential[FERRYI_CREDENTIAL_MAX + 1], why[512];
	uid_t uid;
	gid_t gid;
	int rc;

	snprintf(credential, sizeof(credential), "%.*s", (int)reply->credential.len,
		 reply->credential.len ? (const char *)reply->credential.data : "");
	rc = ferryi_munge_decode(trust->munge_socket, FERRYI_ROLE_SERVER, binding, credential, &uid, &gid,
				 why, sizeof(why));
	if (rc)
		return ferryi_control_fail(rc == -ENOMEM ? rc : -EACCES,
					   "%s did not prove to be a ferryd of this cluster: %s",
					   session->name, why);
	return ferryi_trust_server_uid(trust, session->name, uid);
}

static int prove_munge(struct ferryi_session *session, const Farferry__HelloReply *hello,
		       const struct ferryi_trust *trust, uint64_t deadline_ns, Farferry__Envelope **reply)
{
	uint8_t nonce[FERRYI_NONCE_LEN], mac[FERRYI_MAC_LEN] = {0};
	char address[64], why[512], *credential;
	const struct ferryi_munge_binding binding = {hello->server_nonce.data, nonce, address};
	int rc;

	if (ferryi_random(nonce, sizeof(nonce)) < 0)
		return ferryi_control_fail(-EIO, "no random numbers on this system");
	ferryi_socket_address(session->fd, true, address, sizeof(address));
	rc = ferryi_munge_encode(trust->munge_socket, FERRYI_ROLE_CLIENT, &binding, FERRYI_MUNGE_ANYBODY,
				 &credential, why, sizeof(why));
	if (rc)
		return ferryi_control_fail(rc == -ENOMEM ? rc : -EACCES, "no credential for ferryd at %s: %s",
					   session->name, why);
	rc = send_auth(session, nonce, mac, credential, deadline_ns, reply);
	free(credential);
	if (rc < 0)
		return rc;
	rc = check_server(session, trust, &binding, (*reply)->auth_reply);
	if (rc < 0)
		ferryi_envelope_free(reply);
	return rc;
}

static void keep_terms(struct ferryi_session *session, const Farferry__AuthReply *terms)
{
	size_t used = 0;

	session->epoch = terms->epoch;
	session->timeout_ms = terms->timeout_ms > 0 ? terms->timeout_ms : 1;
	/* At least two chances within the timeout, whatever the server proposes. */
	session->keepalive_ms = terms->keepalive_ms;
	if (session->keepalive_ms > session->timeout_ms / 2)
		session->keepalive_ms = session->timeout_ms / 2;
	if (session->keepalive_ms == 0)
		session->keepalive_ms = 1;
	for (size_t i = 0; i < terms->n_fabrics; i++) {
		int n = snprintf(session->offered + used, sizeof(session->offered) - used, "%s%s",
				 i > 0 ? "," : "", terms->fabrics[i]);

		if (n < 0 || (size_t)n >= sizeof(session->offered) - used) {
			session->offered[used] = '\0';
			break;
		}
		used += (size_t)n;
	}
}

/* A connection that ends during the handshake: the error code says what the server said, if it did. */
static int lost_early(struct ferryi_session *session)
{
	ferryi_mutex_lock(&session->lock);
	int err = session->server_err;

	ferryi_mutex_unlock(&session->lock);
	return err < 0 ? err : -EPROTO;
}

int ferryi_handshake(struct ferryi_session *session, const struct ferryi_trust *trust, uint64_t deadline_ns)
{
	Farferry__Envelope *hello = NULL, *terms = NULL;
	int rc = say_hello(session, deadline_ns, &hello);

	if (rc == 0)
		rc = check_hello(session, hello->hello_reply, &trust->token);
	if (rc == 0)
		rc = session->auth == FERRYI_AUTH_MUNGE
			     ? prove_munge(session, hello->hello_reply, trust, deadline_ns, &terms)
			     : prove_token(session, hello->hello_reply, &trust->token, deadline_ns, &terms);
	if (rc == 0)
		keep_terms(session, terms->auth_reply);
	if (rc == -ENOTCONN)
		rc = lost_early(session);
	if (terms != NULL)
		ferryi_envelope_free(&terms);
	if (hello != NULL)
		ferryi_envelope_free(&hello);
	return rc;
}
