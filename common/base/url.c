/* Server addresses. Pure functions: any thread. */
#include "url.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "arith.h"
#include "err.h"

/* The name that is stored is the first; the second, if any, is an alias. */
static const char *const fabrics[][2] = {
	{"auto", NULL}, {"verbs", NULL}, {"local", "shm"}, {"tcp", NULL}, {"rdm", NULL},
};

#define NFABRICS (sizeof(fabrics) / sizeof(fabrics[0]))

static const char *const auths[] = {
	[FERRYI_AUTH_TOKEN] = "token",
	[FERRYI_AUTH_MUNGE] = "munge",
	[FERRYI_AUTH_TLS] = "tls",
	[FERRYI_AUTH_ANONYMOUS] = "anonymous",
};

const char *ferryi_auth_name(enum ferryi_auth auth)
{
	return auths[auth];
}

int ferryi_auth_find(const char *name, enum ferryi_auth *out)
{
	for (size_t i = 0; i < sizeof(auths) / sizeof(auths[0]); i++) {
		if (strcmp(name, auths[i]) == 0) {
			*out = (enum ferryi_auth)i;
			return 0;
		}
	}
	return -EINVAL;
}

static bool is_host_char(char c, bool v6)
{
	if (isalnum((unsigned char)c) || c == '.' || c == '-' || c == '_')
		return true;
	return v6 && (c == ':' || c == '%'); /* % begins a scope: fe80::1%eth0 */
}

static int port_parse(const char *text, const char *whole, uint16_t *port, char *err, size_t err_len)
{
	uint64_t value = 0;

	/* Digits only: parse_u64 would take hexadecimal too. */
	if (!*text || strspn(text, "0123456789") != strlen(text) || ferryi_parse_u64(text, &value) ||
	    value > 65535)
		return ferryi_err(-EINVAL, err, err_len,
				  "'%s': '%s' is not a port: give a number from 0 to 65535", whole, text);
	*port = (uint16_t)value;
	return 0;
}

int ferryi_hostport_parse(const char *text, char *host, size_t host_len, uint16_t *port, char *err,
			  size_t err_len)
{
	const char *host_start = text;
	const char *host_end;
	const char *after;
	bool v6 = text[0] == '[';

	if (!*text)
		return ferryi_err(-EINVAL, err, err_len, "address is empty: give HOST:PORT");
	if (v6) {
		host_start = text + 1;
		host_end = strchr(text, ']');
		if (!host_end || host_end == host_start)
			return ferryi_err(-EINVAL, err, err_len,
					  "'%s': give an IPv6 address as [ADDRESS]:PORT", text);
		after = host_end + 1;
		if (*after && *after != ':')
			return ferryi_err(-EINVAL, err, err_len, "'%s': only ':PORT' may follow ']'", text);
	} else {
		host_end = text + strcspn(text, ":");
		after = host_end;
		if (*after && strchr(after + 1, ':'))
			return ferryi_err(-EINVAL, err, err_len,
					  "'%s': more than one ':'; give an IPv6 address as [ADDRESS]:PORT",
					  text);
	}

	size_t len = (size_t)(host_end - host_start);

	if (len >= host_len)
		return ferryi_err(-EINVAL, err, err_len,
				  "host name of %zu characters is too long: at most %zu", len, host_len - 1);
	for (size_t i = 0; i < len; i++) {
		if (!is_host_char(host_start[i], v6))
			return ferryi_err(-EINVAL, err, err_len,
					  "'%s': character %zu of the host name is not allowed", text, i + 1);
	}

	uint16_t value = FERRYI_DEFAULT_PORT;

	if (*after) {
		int rc = port_parse(after + 1, text, &value, err, err_len);

		if (rc)
			return rc;
	}
	memcpy(host, host_start, len);
	host[len] = '\0';
	*port = value;
	return 0;
}

static int fabric_parse(const char *text, const char *whole, struct ferryi_url *out, char *err,
			size_t err_len)
{
	for (size_t i = 0; i < NFABRICS; i++) {
		if (strcmp(text, fabrics[i][0]) == 0 || (fabrics[i][1] && strcmp(text, fabrics[i][1]) == 0)) {
			snprintf(out->fabric, sizeof(out->fabric), "%s", fabrics[i][0]);
			return 0;
		}
	}
	return ferryi_err(-EINVAL, err, err_len,
			  "'%s': no fabric '%s': use auto, verbs, local (or shm), tcp or rdm", whole, text);
}

static int setting_parse(const char *text, const char *whole, struct ferryi_url *out, char *err,
			 size_t err_len)
{
	static const char fabric[] = "fabric=", auth[] = "auth=";

	if (strncmp(text, fabric, sizeof(fabric) - 1) == 0)
		return fabric_parse(text + sizeof(fabric) - 1, whole, out, err, err_len);
	if (strncmp(text, auth, sizeof(auth) - 1) != 0)
		return ferryi_err(-EINVAL, err, err_len,
				  "'%s': unknown setting '%s': only ?fabric=NAME and ?auth=METHOD may follow "
				  "the address",
				  whole, text);
	text += sizeof(auth) - 1;
	out->has_auth = true;
	if (ferryi_auth_find(text, &out->auth))
		return ferryi_err(-EINVAL, err, err_len,
				  "'%s': no way to authenticate '%s': use " FERRYI_AUTH_NAMES, whole, text);
	return 0;
}

/* "fabric=tcp&auth=munge" */
static int query_parse(const char *query, const char *whole, struct ferryi_url *out, char *err,
		       size_t err_len)
{
	char setting[64];
	int rc;

	for (;;) {
		size_t len = strcspn(query, "&");

		snprintf(setting, sizeof(setting), "%.*s", (int)ferryi_min_u64(len, sizeof(setting) - 1),
			 query);
		rc = setting_parse(setting, whole, out, err, err_len);
		if (rc || !query[len])
			return rc;
		query += len + 1;
	}
}

int ferryi_url_parse(const char *text, struct ferryi_url *out, char *err, size_t err_len)
{
	static const char scheme[] = "ferry://";
	struct ferryi_url url = {.fabric = "auto"};
	char address[sizeof(url.host) + 16]; /* brackets and port beside the host */
	const char *start = text;

	if (strncmp(text, scheme, sizeof(scheme) - 1) == 0)
		start = text + sizeof(scheme) - 1;
	else if (strstr(text, "://"))
		return ferryi_err(-EINVAL, err, err_len,
				  "'%s': unknown scheme: a server URL begins with ferry://", text);

	size_t len = strcspn(start, "/?");
	const char *rest = start + len;

	if (len >= sizeof(address))
		return ferryi_err(-EINVAL, err, err_len,
				  "server address of %zu characters is too long: at most %zu", len,
				  sizeof(address) - 1);
	memcpy(address, start, len);
	address[len] = '\0';

	int rc = ferryi_hostport_parse(address, url.host, sizeof(url.host), &url.port, err, err_len);

	if (rc)
		return rc;
	if (!url.host[0])
		return ferryi_err(-EINVAL, err, err_len, "'%s': no host: give ferry://HOST:PORT", text);
	if (url.port == 0)
		return ferryi_err(-EINVAL, err, err_len, "'%s': port 0 cannot be connected to", text);
	if (*rest == '/')
		rest++;
	if (*rest == '?') {
		rc = query_parse(rest + 1, text, &url, err, err_len);
		if (rc)
			return rc;
	} else if (*rest) {
		return ferryi_err(-EINVAL, err, err_len,
				  "'%s': a server URL has no path: give ferry://HOST:PORT[?fabric=NAME]",
				  text);
	}
	*out = url;
	return 0;
}
