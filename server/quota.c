/* See quota.h. */
#include "quota.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include "arith.h"
#include "err.h"
#include "param.h"
#include "url.h"

struct reader {
	struct ferryi_quota quota;
	bool has_who, has_limit;
};

/* As authentication names him: see users.h. */
static int set_user(char who[FERRYI_MAX_USER + 1], const char *name, char *err, size_t err_len)
{
	struct passwd pw, *found = NULL;
	char buf[4096];
	uint64_t uid;

	if (strcmp(name, ferryi_auth_name(FERRYI_AUTH_TOKEN)) == 0 ||
	    strcmp(name, ferryi_auth_name(FERRYI_AUTH_ANONYMOUS)) == 0) {
		snprintf(who, FERRYI_MAX_USER + 1, "%s", name);
		return 0;
	}
	if (strchr(name, '=')) {
		int n = snprintf(who, FERRYI_MAX_USER + 1, "tls:%s", name);

		return n > (int)FERRYI_MAX_USER
			       ? ferryi_err(-EINVAL, err, err_len, "the user's name is too long")
			       : 0;
	}
	if (name[0] && strspn(name, "0123456789") == strlen(name) && !ferryi_parse_u64(name, &uid) &&
	    uid < UINT32_MAX) {
		snprintf(who, FERRYI_MAX_USER + 1, "uid:%u", (unsigned)uid);
		return 0;
	}
	if (getpwnam_r(name, &pw, buf, sizeof(buf), &found) || !found)
		return ferryi_err(
			-EINVAL, err, err_len,
			"this machine has no user '%.60s': give a name, a uid, token, anonymous, or a "
			"certificate's subject as in CN=alice",
			name);
	snprintf(who, FERRYI_MAX_USER + 1, "uid:%u", (unsigned)pw.pw_uid);
	return 0;
}

static int set_who(struct reader *reader, const char *key, const char *value, char *err, size_t err_len)
{
	if (reader->has_who)
		return ferryi_err(-EINVAL, err, err_len, "one of user=NAME, default and server, once");
	reader->has_who = true;
	if (strcmp(key, "user") == 0)
		return set_user(reader->quota.who, value ? value : "", err, err_len);
	if (strcmp(key, "server") == 0)
		snprintf(reader->quota.who, sizeof(reader->quota.who), "server");
	return 0;
}

static int set_limit(struct reader *reader, enum ferryi_quota_kind kind, const char *value, char *err,
		     size_t err_len)
{
	uint64_t limit;
	int rc = kind == FERRYI_QUOTA_BYTES ? ferryi_parse_size(value, &limit)
					    : ferryi_parse_u64(value, &limit);

	if (rc || limit == FERRYI_QUOTA_NONE)
		return ferryi_err(-EINVAL, err, err_len, "%s=%.40s: %s", ferryi_quota_name(kind), value,
				  kind == FERRYI_QUOTA_BYTES ? "a number with an optional K, M, G or T"
							     : "a whole number");
	reader->quota.limit[kind] = limit;
	reader->has_limit = true;
	return 0;
}

static int set(void *ctx, const char *key, const char *value, char *err, size_t err_len)
{
	struct reader *reader = ctx;

	if (strcmp(key, "user") == 0 ||
	    (!value && (strcmp(key, "default") == 0 || strcmp(key, "server") == 0)))
		return set_who(reader, key, value, err, err_len);
	for (unsigned i = 0; value && i < FERRYI_QUOTA_KINDS; i++) {
		if (strcmp(key, ferryi_quota_name((enum ferryi_quota_kind)i)) == 0)
			return set_limit(reader, (enum ferryi_quota_kind)i, value, err, err_len);
	}
	return ferryi_err(
		-EINVAL, err, err_len,
		"unknown key '%.40s': there are user=NAME, default, server; and bytes, leases, sessions, "
		"rate, exports, views, each with a value",
		key);
}

int ferryi_quota_add(struct ferryi_quotas *quotas, const char *text, char *err, size_t err_len)
{
	struct reader reader = {.has_who = false};
	unsigned at = 0;
	int rc;

	for (unsigned i = 0; i < FERRYI_QUOTA_KINDS; i++)
		reader.quota.limit[i] = FERRYI_QUOTA_NONE;
	rc = ferryi_keyvals_parse(text, set, &reader, err, err_len);
	if (rc)
		return rc;
	if (!reader.has_who)
		return ferryi_err(-EINVAL, err, err_len, "whose: give user=NAME, default or server");
	if (!reader.has_limit)
		return ferryi_err(-EINVAL, err, err_len,
				  "how much: give bytes=SIZE, leases=N, sessions=N, rate=N, "
				  "exports=N or views=N");
	while (at < quotas->n && strcmp(quotas->list[at].who, reader.quota.who) != 0)
		at++;
	if (at == FERRYI_MAX_QUOTAS)
		return ferryi_err(-EINVAL, err, err_len, "more than %u quotas", FERRYI_MAX_QUOTAS);
	quotas->list[at] = reader.quota;
	if (at == quotas->n)
		quotas->n++;
	return 0;
}
