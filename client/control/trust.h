/*
 * How this process shows servers who it is, and whom it takes for a server:
 * from the environment, at ferryi_control_open. Immutable from then on.
 */
#ifndef FERRYI_CONTROL_TRUST_H
#define FERRYI_CONTROL_TRUST_H

#include <stdbool.h>

#include "token.h"
#include "url.h"

struct ferryi_trust {
	bool has_auth; /* a method was named; else it is the token, or nothing where a server wants nothing */
	enum ferryi_auth auth;
	struct ferryi_token token;
	char tls_cert[256], tls_key[256], tls_ca[256]; /* $FERRY_TLS_CERT, _KEY, _CA; "": not set */
	char munge_socket[256]; /* $FERRY_MUNGE_SOCKET; "": the library's default */
	char server_user[64]; /* $FERRY_SERVER_USER: whose process a server may be, beside root's and our own
			       */
};

/*
 * $FERRY_AUTH and what belongs to it; the token as ferryi_token_find has it, and
 * with bytes of one nothing else counts but what a URL names.
 * -EINVAL: no such method; the token's errors; with the error line.
 */
int ferryi_trust_find(const uint8_t *token, const char *token_file, struct ferryi_trust *out);
/* Its secrets are wiped. */
void ferryi_trust_wipe(struct ferryi_trust *trust);

/* The method for that server. *named: somebody named it. */
enum ferryi_auth ferryi_trust_auth(const struct ferryi_trust *trust, const struct ferryi_url *url,
				   bool *named);
/* A connection that is to be TLS, to that host. 0; or negative errno (see ferryi_tls_context_open) and the
 * error line. */
int ferryi_trust_tls(const struct ferryi_trust *trust, const char *host, struct ssl_st **out);
/* A server whose process that uid runs. 0 or -EACCES and the error line. Start-up code: asks the name
 * service. */
int ferryi_trust_server_uid(const struct ferryi_trust *trust, const char *server, uid_t uid);

#endif
