/* See handshake.h. */
#include "handshake.h"

#include <errno.h>
#include <stdio.h>
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

static int check_hello(struct ferryi_session *session, const Farferry__HelloReply *hello,
		       const struct ferryi_token *token)
{
	if (hello->version < FERRYI_PROTO_VERSION_MIN || hello->version > FERRYI_PROTO_VERSION_MAX)
		return ferryi_control_fail(-EPROTONOSUPPORT,
					   "ferryd at %s speaks protocol version %u, this client %u to %u: "
					   "upgrade the older one",
					   session->name, hello->version, FERRYI_PROTO_VERSION_MIN,
					   FERRYI_PROTO_VERSION_MAX);
	if (hello->auth_required && !token->known)
		return ferryi_control_fail(-EACCES,
					   "ferryd at %s wants a token and there is none: set "
					   "FERRY_TOKEN_FILE to a copy of the server's token file",
					   session->name);
	snprintf(session->server_id, sizeof(session->server_id), "%s", hello->server_id);
	return 0;
}

/* Who calls and who answers both show that they know the token. */
static int prove(struct ferryi_session *session, const Farferry__HelloReply *hello,
		 const struct ferryi_token *token, uint64_t deadline_ns, Farferry__Envelope **reply)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__Auth auth = FARFERRY__AUTH__INIT;
	uint8_t nonce[FERRYI_NONCE_LEN], mac[FERRYI_MAC_LEN], expected[FERRYI_MAC_LEN];
	const uint8_t *server_nonce = hello->server_nonce.data;
	static const uint8_t no_token[FERRYI_AUTH_TOKEN_LEN];
	/* Without the check, anybody on the path could answer "no token needed" and get our pages. */
	bool check = hello->auth_required || token->named;
	const uint8_t *secret = check ? token->bytes : no_token;

	if (ferryi_random(nonce, sizeof(nonce)) < 0 ||
	    ferryi_auth_mac(FERRYI_ROLE_CLIENT, secret, server_nonce, nonce, mac) < 0 ||
	    ferryi_auth_mac(FERRYI_ROLE_SERVER, secret, server_nonce, nonce, expected) < 0)
		return ferryi_control_fail(-EIO, "no random numbers or no HMAC-SHA256 on this system");
	auth.client_nonce = (ProtobufCBinaryData){.len = sizeof(nonce), .data = nonce};
	auth.mac = (ProtobufCBinaryData){.len = sizeof(mac), .data = mac};
	envelope.body_case = FARFERRY__ENVELOPE__BODY_AUTH;
	envelope.auth = &auth;
	int rc = ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_AUTH_REPLY, deadline_ns,
				     reply);

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

int ferryi_handshake(struct ferryi_session *session, const struct ferryi_token *token, uint64_t deadline_ns)
{
	Farferry__Envelope *hello = NULL, *terms = NULL;
	int rc = say_hello(session, deadline_ns, &hello);

	if (rc == 0)
		rc = check_hello(session, hello->hello_reply, token);
	if (rc == 0)
		rc = prove(session, hello->hello_reply, token, deadline_ns, &terms);
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
