/*
 * The control protocol: framing, validation, authentication digests. The only
 * room that includes protobuf-c; messages are used through their generated
 * structs (Farferry__*), which this header exposes to server and client.
 *
 * Frame: 4 bytes magic "FFRY", 4 bytes big-endian payload length (1 ..
 * FERRYI_FRAME_MAX), then the payload, one serialized Envelope. All functions
 * here are pure (no I/O, no threads; but for token files and MUNGE) and allocate with malloc: control threads
 * only.
 */
#ifndef FERRYI_PROTO_H
#define FERRYI_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sys/types.h>

#include "ferry.pb-c.h"

#define FERRYI_PROTO_VERSION_MIN 1u
#define FERRYI_PROTO_VERSION_MAX 1u

#define FERRYI_FRAME_HEADER 8u
#define FERRYI_FRAME_MAX    (1u << 20) /* bytes of payload */
#define FERRYI_NONCE_LEN    32u
#define FERRYI_MAC_LEN      32u
#define FERRYI_AUTH_TOKEN_LEN 32u /* bytes of the shared secret */
#define FERRYI_HEIR_SECRET_LEN 16u /* bytes */
#define FERRYI_CREDENTIAL_MAX  2048u /* bytes of a MUNGE credential */
#define FERRYI_MAX_USER	       191u  /* name of a user: "uid:1000", "tls:CN=..." */

/* Limits that validation keeps; a message outside them never reaches a caller. */
#define FERRYI_MAX_NAME     63u   /* pool, fabric, client names */
#define FERRYI_MAX_TEXT     1023u /* error texts and reasons */
#define FERRYI_MAX_EXTENTS  8192u /* in one message */
#define FERRYI_MAX_LOCATIONS 8u
#define FERRYI_MAX_POOLS    256u
#define FERRYI_MAX_STATS    1024u
#define FERRYI_MAX_QUOTA_KINDS	32u
#define FERRYI_MAX_ACCESS   65536u /* bytes of one access to a view */
#define FERRYI_MAX_ACCESS_PAGES 17u /* that many bytes, unaligned */

/* Bits of an export's perms. */
#define FERRYI_PERM_READ  1u
#define FERRYI_PERM_WRITE 2u

enum ferryi_role { FERRYI_ROLE_SERVER, FERRYI_ROLE_CLIENT };

/*
 * Looks at the first bytes of a stream. Returns the whole frame's length
 * (header included) when `have` bytes tell it, 0 when more are needed,
 * -EPROTO (bad magic, length 0) or -EMSGSIZE (over FERRYI_FRAME_MAX).
 */
long ferryi_frame_peek(const uint8_t *bytes, size_t have);

/*
 * Decodes and validates one whole frame that `receiver` got. On success *out
 * is to be freed with ferryi_envelope_free. -EPROTO: not a frame, not an
 * Envelope, no body; -EINVAL: a field is out of range or the body is not one
 * that this receiver takes; -ENOMEM. why (may be NULL) gets one sentence.
 * Requests and their replies have a request_id other than 0, notices have 0,
 * an Error may have either.
 */
int ferryi_frame_decode(enum ferryi_role receiver, const uint8_t *frame, size_t len, Farferry__Envelope **out, char *why,
			size_t why_len);
void ferryi_envelope_free(Farferry__Envelope **envelope);

/* Serializes into a malloc'ed frame (free(3) it). 0, -ENOMEM, -EMSGSIZE, -EINVAL (no body). */
int ferryi_frame_encode(const Farferry__Envelope *envelope, uint8_t **out, size_t *out_len);

/* Error code <-> errno. Unknown codes give -EIO. */
int ferryi_code_to_errno(Farferry__Code code);
Farferry__Code ferryi_code_from_errno(int err);

/* Name of the body ("attach", ...) for log lines. */
const char *ferryi_body_name(Farferry__Envelope__BodyCase body);

/* ---- authentication (HMAC-SHA256 by OpenSSL) ---- */

int ferryi_random(void *buf, size_t len); /* getrandom(2); 0 or -EIO */
/* MAC of the given role over both nonces; see ferry.proto. 0 or -EIO. */
int ferryi_auth_mac(enum ferryi_role signer, const uint8_t token[FERRYI_AUTH_TOKEN_LEN],
		    const uint8_t server_nonce[FERRYI_NONCE_LEN], const uint8_t client_nonce[FERRYI_NONCE_LEN],
		    uint8_t mac[FERRYI_MAC_LEN]);
#define FERRYI_DIGEST_LEN 32u
int ferryi_digest(const void *data, size_t len, uint8_t digest[FERRYI_DIGEST_LEN]); /* SHA-256; 0 or -EIO */
/* Constant-time comparison. */
bool ferryi_mac_equal(const uint8_t a[FERRYI_MAC_LEN], const uint8_t b[FERRYI_MAC_LEN]);
/* 64 hexadecimal digits, white space around them allowed. 0 or -EINVAL. */
int ferryi_token_parse(const char *text, uint8_t token[FERRYI_AUTH_TOKEN_LEN]);
void ferryi_token_format(const uint8_t token[FERRYI_AUTH_TOKEN_LEN], char out[2 * FERRYI_AUTH_TOKEN_LEN + 1]);
/*
 * Reads a token file: refused (-EPERM) when group or others may read it;
 * -ENOENT, -EACCES, -EINVAL (not a token). why gets one sentence.
 */
int ferryi_token_load(const char *path, uint8_t token[FERRYI_AUTH_TOKEN_LEN], char *why, size_t why_len);
/*
 * Creates it (mode 0600, parents not made) with a new random token; -EEXIST if
 * it is there (then load it: it is whole), else the negative errno of the cause.
 */
int ferryi_token_create(const char *path, uint8_t token[FERRYI_AUTH_TOKEN_LEN], char *why, size_t why_len);

/* ---- authentication by MUNGE (libmunge) ---- */

/* What a credential is good for: one handshake on one connection. */
struct ferryi_munge_binding {
	const uint8_t *server_nonce, *client_nonce; /* FERRYI_NONCE_LEN each */
	const char *
		address; /* of the server, as the connection has it: "10.0.0.5:7470". At most 63 characters */
};

#define FERRYI_MUNGE_ANYBODY ((uid_t)-1)

/*
 * A credential of this process for the binding, to be read by reader only
 * (FERRYI_MUNGE_ANYBODY: by anybody): malloc'ed, a string, the caller's.
 * socket: munged's; NULL or "": the library's default.
 * -EOPNOTSUPP (built without MUNGE), -ECONNREFUSED (no munged), -EIO, -ENOMEM, with one line in why.
 * Context: blocks while munged does, some seconds at most.
 */
int ferryi_munge_encode(const char *socket, enum ferryi_role signer,
			const struct ferryi_munge_binding *binding, uid_t reader, char **credential,
			char *why, size_t why_len);
/*
 * Whose process made it: only if it was made for this binding. The same errors;
 * -EACCES: not a good credential, or used before, or for another connection. As _encode.
 */
int ferryi_munge_decode(const char *socket, enum ferryi_role signer,
			const struct ferryi_munge_binding *binding, const char *credential, uid_t *uid,
			gid_t *gid, char *why, size_t why_len);

/* ---- authentication by TLS (OpenSSL, 1.3 only): both sides have a certificate of one authority ---- */

struct ssl_st;	   /* OpenSSL's SSL */
struct ssl_ctx_st; /* its SSL_CTX */

/* PEM files. */
struct ferryi_tls_files {
	const char *cert, *key,
		*ca; /* own certificate (and what leads to the authority), its key, the authority */
};

/*
 * Reads and checks them. A key that others may read is refused.
 * -EOPNOTSUPP (built without TLS), -ENOENT, -EACCES, -EPERM, -EINVAL, -ENOMEM, with one line in why.
 */
int ferryi_tls_context_open(enum ferryi_role self, const struct ferryi_tls_files *files,
			    struct ssl_ctx_st **out, char *why, size_t why_len);
void ferryi_tls_context_close(struct ssl_ctx_st **ctx);
/*
 * For one connection, which does not need the context any more. host: the name
 * or address that the server's certificate must be for; NULL at the server.
 * NULL: out of memory. The bufferevent that gets it frees it; else ferryi_tls_close.
 */
struct ssl_st *ferryi_tls_open(struct ssl_ctx_st *ctx, const char *host);
void ferryi_tls_close(struct ssl_st **ssl);
/* Whose certificate the peer has shown, after the handshake: "tls:CN=alice". 0, or -EINVAL (too long, or
 * none). */
int ferryi_tls_user(struct ssl_st *ssl, char user[FERRYI_MAX_USER + 1]);
/* Why the connection failed, as words behind "TLS: ". error: what bufferevent_get_openssl_error gave. */
void ferryi_tls_why(struct ssl_st *ssl, unsigned long error, char *why, size_t why_len);
/* That error: the peer's bytes were no TLS. */
bool ferryi_tls_is_plain(unsigned long error);

/* Numeric "HOST:PORT" of one end of a TCP connection, IPv4 without the prefix of IPv6; "" where it has none.
 */
void ferryi_socket_address(int fd, bool peer, char *buf, size_t buf_len);

/* "hostname/boot-id" of this machine: equal texts mean the same host. */
void ferryi_host_identity(char *buf, size_t buf_len);

#endif
