/* See trust.h. */
#include "trust.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"

#define SERVER_USER "ferryd" /* of the service that deploy/ installs */

static void copy_env(const char *name, char *buf, size_t buf_len)
{
	const char *value = secure_getenv(name);

	snprintf(buf, buf_len, "%s", value ? value : "");
}

int ferryi_trust_find(const uint8_t *token, const char *token_file, struct ferryi_trust *out)
{
	const char *auth = secure_getenv("FERRY_AUTH");
	int rc;

	memset(out, 0, sizeof(*out));
	out->auth = FERRYI_AUTH_TOKEN;
	if (auth && auth[0] && !token) {
		out->has_auth = true;
		if (ferryi_auth_find(auth, &out->auth))
			return ferryi_control_fail(-EINVAL,
						   "FERRY_AUTH=%.40s: there is no such way to authenticate: "
						   "use " FERRYI_AUTH_NAMES,
						   auth);
	}
	copy_env("FERRY_TLS_CERT", out->tls_cert, sizeof(out->tls_cert));
	copy_env("FERRY_TLS_KEY", out->tls_key, sizeof(out->tls_key));
	copy_env("FERRY_TLS_CA", out->tls_ca, sizeof(out->tls_ca));
	copy_env("FERRY_MUNGE_SOCKET", out->munge_socket, sizeof(out->munge_socket));
	copy_env("FERRY_SERVER_USER", out->server_user, sizeof(out->server_user));
	if (!out->server_user[0])
		snprintf(out->server_user, sizeof(out->server_user), SERVER_USER);
	rc = ferryi_token_find(token, token_file, &out->token);
	return rc;
}

void ferryi_trust_wipe(struct ferryi_trust *trust)
{
	explicit_bzero(&trust->token, sizeof(trust->token));
}

enum ferryi_auth ferryi_trust_auth(const struct ferryi_trust *trust, const struct ferryi_url *url,
				   bool *named)
{
	*named = url->has_auth || trust->has_auth;
	return url->has_auth ? url->auth : trust->auth;
}

int ferryi_trust_tls(const struct ferryi_trust *trust, const char *host, struct ssl_st **out)
{
	const struct ferryi_tls_files files = {trust->tls_cert, trust->tls_key, trust->tls_ca};
	struct ssl_ctx_st *ctx;
	char why[512];
	int rc;

	*out = NULL;
	if (!files.cert[0] || !files.key[0] || !files.ca[0])
		return ferryi_control_fail(
			-EINVAL,
			"auth=tls: %s is not set: FERRY_TLS_CERT, FERRY_TLS_KEY and FERRY_TLS_CA "
			"name this client's certificate, its key, and the servers' authority",
			!files.cert[0]	? "FERRY_TLS_CERT"
			: !files.key[0] ? "FERRY_TLS_KEY"
					: "FERRY_TLS_CA");
	rc = ferryi_tls_context_open(FERRYI_ROLE_CLIENT, &files, &ctx, why, sizeof(why));
	if (rc)
		return ferryi_control_fail(rc, "%s", why);
	*out = ferryi_tls_open(ctx, host);
	ferryi_tls_context_close(&ctx);
	return *out ? 0 : ferryi_control_fail(-ENOMEM, "out of memory");
}

int ferryi_trust_server_uid(const struct ferryi_trust *trust, const char *server, uid_t uid)
{
	struct passwd pw, *found = NULL;
	char buf[4096];

	if (uid == 0 || uid == geteuid())
		return 0;
	if (getpwnam_r(trust->server_user, &pw, buf, sizeof(buf), &found) == 0 && found && pw.pw_uid == uid)
		return 0;
	return ferryi_control_fail(
		-EACCES,
		"the server at %s is a process of uid %u, neither root's, nor %s's, nor your own: "
		"set FERRY_SERVER_USER to the user that runs ferryd, if that is the one",
		server, (unsigned)uid, trust->server_user);
}
