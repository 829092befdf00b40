/*
 * MUNGE: a daemon on each host of a cluster vouches for whose process asks. The
 * credential's payload binds it to one handshake: both nonces, and the address
 * that the client has connected to, so that a server cannot use it elsewhere.
 * munged itself refuses one that it has seen. Any thread; blocks on munged.
 */
#include "proto.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#ifdef FERRYI_HAVE_MUNGE
#include <munge.h>
#endif

#include "err.h"

#define ADDRESS_MAX 63u

#ifdef FERRYI_HAVE_MUNGE

#define TEXT_LEN 17u /* of both */

struct payload {
	uint8_t bytes[TEXT_LEN + 2 * FERRYI_NONCE_LEN + ADDRESS_MAX];
	size_t len, address; /* offset of the address */
};

/* Different texts for the two sides, as for the token. */
static void payload_make(struct payload *payload, enum ferryi_role signer,
			 const struct ferryi_munge_binding *binding)
{
	bool client = signer == FERRYI_ROLE_CLIENT;
	size_t address_len = strnlen(binding->address, ADDRESS_MAX);
	uint8_t *at = payload->bytes;

	memcpy(at, client ? "farferry-client-1" : "farferry-server-1", TEXT_LEN);
	memcpy(at + TEXT_LEN, client ? binding->server_nonce : binding->client_nonce, FERRYI_NONCE_LEN);
	memcpy(at + TEXT_LEN + FERRYI_NONCE_LEN, client ? binding->client_nonce : binding->server_nonce,
	       FERRYI_NONCE_LEN);
	payload->address = TEXT_LEN + 2 * FERRYI_NONCE_LEN;
	memcpy(at + payload->address, binding->address, address_len);
	payload->len = payload->address + address_len;
}

static int fail(munge_err_t err, munge_ctx_t ctx, char *why, size_t why_len)
{
	const char *text = ctx ? munge_ctx_strerror(ctx) : NULL;

	if (!text)
		text = munge_strerror(err);
	switch (err) {
	case EMUNGE_NO_MEMORY:
		return ferryi_err(-ENOMEM, why, why_len, "MUNGE: out of memory");
	case EMUNGE_SOCKET:
	case EMUNGE_TIMEOUT:
		return ferryi_err(-ECONNREFUSED, why, why_len,
				  "munged does not answer (%s): start the munge service on this host", text);
	case EMUNGE_CRED_EXPIRED:
	case EMUNGE_CRED_REWOUND:
		return ferryi_err(-EACCES, why, why_len, "MUNGE: %s: set the clocks of both hosts", text);
	case EMUNGE_CRED_INVALID:
		return ferryi_err(-EACCES, why, why_len,
				  "MUNGE: %s: both hosts need the same /etc/munge/munge.key", text);
	case EMUNGE_BAD_CRED:
	case EMUNGE_BAD_VERSION:
	case EMUNGE_BAD_CIPHER:
	case EMUNGE_BAD_MAC:
	case EMUNGE_BAD_ZIP:
	case EMUNGE_BAD_REALM:
	case EMUNGE_CRED_REPLAYED:
	case EMUNGE_CRED_UNAUTHORIZED:
		return ferryi_err(-EACCES, why, why_len, "MUNGE: %s", text);
	default:
		return ferryi_err(-EIO, why, why_len, "MUNGE: %s", text);
	}
}

static munge_ctx_t context_open(const char *socket)
{
	munge_ctx_t ctx = munge_ctx_create();

	if (ctx && socket && socket[0] && munge_ctx_set(ctx, MUNGE_OPT_SOCKET, socket) != EMUNGE_SUCCESS) {
		munge_ctx_destroy(ctx);
		return NULL;
	}
	return ctx;
}

int ferryi_munge_encode(const char *socket, enum ferryi_role signer,
			const struct ferryi_munge_binding *binding, uid_t reader, char **credential,
			char *why, size_t why_len)
{
	munge_ctx_t ctx = context_open(socket);
	munge_err_t err = ctx ? EMUNGE_SUCCESS : EMUNGE_NO_MEMORY;
	struct payload payload;
	int rc = 0;

	*credential = NULL;
	payload_make(&payload, signer, binding);
	if (!err && reader != FERRYI_MUNGE_ANYBODY)
		err = munge_ctx_set(ctx, MUNGE_OPT_UID_RESTRICTION, reader);
	if (!err)
		err = munge_encode(credential, ctx, payload.bytes, (int)payload.len);
	if (err)
		rc = fail(err, ctx, why, why_len);
	if (!rc && strlen(*credential) > FERRYI_CREDENTIAL_MAX)
		rc = ferryi_err(-EIO, why, why_len, "MUNGE: its credential is longer than %u bytes",
				FERRYI_CREDENTIAL_MAX);
	if (rc) {
		free(*credential);
		*credential = NULL;
	}
	if (ctx)
		munge_ctx_destroy(ctx);
	return rc;
}

static int check_payload(const struct payload *want, const uint8_t *have, int len, char *why, size_t why_len)
{
	if (len < (int)want->address || memcmp(have, want->bytes, want->address) != 0)
		return ferryi_err(-EACCES, why, why_len,
				  "MUNGE: the credential was made for another connection");
	if ((size_t)len != want->len || memcmp(have, want->bytes, want->len) != 0)
		return ferryi_err(
			-EACCES, why, why_len,
			"MUNGE: the credential is for a server at %.*s, this one is %.*s: connect without "
			"address translation or a proxy between",
			len - (int)want->address, (const char *)have + want->address,
			(int)(want->len - want->address), (const char *)want->bytes + want->address);
	return 0;
}

int ferryi_munge_decode(const char *socket, enum ferryi_role signer,
			const struct ferryi_munge_binding *binding, const char *credential, uid_t *uid,
			gid_t *gid, char *why, size_t why_len)
{
	munge_ctx_t ctx = context_open(socket);
	struct payload payload;
	void *have = NULL;
	munge_err_t err;
	int len = 0, rc;

	payload_make(&payload, signer, binding);
	err = ctx ? munge_decode(credential, ctx, &have, &len, uid, gid) : EMUNGE_NO_MEMORY;
	/* An expired or replayed one has a payload, too: it is none of ours. */
	rc = err ? fail(err, ctx, why, why_len) : check_payload(&payload, have, len, why, why_len);
	free(have);
	if (ctx)
		munge_ctx_destroy(ctx);
	return rc;
}

#else

int ferryi_munge_encode(const char *socket, enum ferryi_role signer,
			const struct ferryi_munge_binding *binding, uid_t reader, char **credential,
			char *why, size_t why_len)
{
	(void)socket;
	(void)signer;
	(void)binding;
	(void)reader;
	*credential = NULL;
	return ferryi_err(-EOPNOTSUPP, why, why_len,
			  "this farferry was built without MUNGE (libmunge-dev): use another method");
}

int ferryi_munge_decode(const char *socket, enum ferryi_role signer,
			const struct ferryi_munge_binding *binding, const char *credential, uid_t *uid,
			gid_t *gid, char *why, size_t why_len)
{
	(void)credential;
	(void)uid;
	(void)gid;
	(void)socket;
	(void)signer;
	(void)binding;
	return ferryi_err(-EOPNOTSUPP, why, why_len,
			  "this farferry was built without MUNGE (libmunge-dev): use another method");
}

#endif

void ferryi_socket_address(int fd, bool peer, char *buf, size_t buf_len)
{
	static const char mapped[] = "::ffff:";
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);
	char host[48], port[8];
	const char *shown = host;

	buf[0] = '\0';
	if (peer ? getpeername(fd, (struct sockaddr *)&addr, &len)
		 : getsockname(fd, (struct sockaddr *)&addr, &len))
		return;
	if (getnameinfo((struct sockaddr *)&addr, len, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV))
		return;
	if (strncmp(host, mapped, sizeof(mapped) - 1) == 0 && strchr(host, '.'))
		shown = host + sizeof(mapped) - 1;
	/* A scope is the other end's own name of its interface. */
	snprintf(buf, buf_len, strchr(shown, ':') ? "[%.*s]:%s" : "%.*s:%s", (int)strcspn(shown, "%"), shown,
		 port);
}
