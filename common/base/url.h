/*
 * Server URLs: ferry://host:port[?fabric=verbs|shm|local|tcp|rdm|auto][&auth=token|munge|tls|anonymous], in
 * any order; "shm" is another name of "local".
 */
#ifndef FERRYI_BASE_URL_H
#define FERRYI_BASE_URL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FERRYI_DEFAULT_PORT 7470

/* How the clients of one listener show who they are. */
enum ferryi_auth {
	FERRYI_AUTH_TOKEN, /* both sides prove that they know one secret */
	FERRYI_AUTH_MUNGE, /* a credential of munged, which says whose process it is */
	FERRYI_AUTH_TLS,   /* certificates of both sides */
	FERRYI_AUTH_ANONYMOUS,
};
#define FERRYI_AUTH_NAMES "token, munge, tls or anonymous" /* for error lines */

const char *ferryi_auth_name(enum ferryi_auth auth);
/* 0 or -EINVAL: no such method. */
int ferryi_auth_find(const char *name, enum ferryi_auth *out);

struct ferryi_url {
	char host[256]; /* name, IPv4, or IPv6 without its brackets */
	uint16_t port;
	char fabric[16]; /* "auto" when the URL names none */
	bool has_auth;	 /* the URL names a method */
	enum ferryi_auth auth;
};

/* 0 or -EINVAL with one clear line in err. The scheme may be left out: "host", "host:port". */
int ferryi_url_parse(const char *text, struct ferryi_url *out, char *err, size_t err_len);
/* "HOST:PORT", "[v6]:PORT", "HOST" (default port) or ":PORT" (host empty); same errors. Port 0 (any) is taken. */
int ferryi_hostport_parse(const char *text, char *host, size_t host_len, uint16_t *port, char *err, size_t err_len);

#endif
