/* See users.h. */
#include "users.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "clock.h"
#include "err.h"
#include "url.h"

static const char *const kinds[] = {
	[FERRYI_QUOTA_BYTES] = "bytes",	      [FERRYI_QUOTA_LEASES] = "leases",
	[FERRYI_QUOTA_SESSIONS] = "sessions", [FERRYI_QUOTA_RATE] = "rate",
	[FERRYI_QUOTA_EXPORTS] = "exports",   [FERRYI_QUOTA_VIEWS] = "views",
};

const char *ferryi_quota_name(enum ferryi_quota_kind kind)
{
	return kinds[kind];
}

/* ---- limits ---- */

static const struct ferryi_quota *quota_of(const struct ferryi_quotas *quotas, const char *who)
{
	for (unsigned i = 0; i < quotas->n; i++) {
		if (strcmp(quotas->list[i].who, who) == 0)
			return &quotas->list[i];
	}
	return NULL;
}

static void limit(struct ferryi_user *user, const struct ferryi_quota *quota)
{
	for (unsigned i = 0; i < FERRYI_QUOTA_KINDS; i++)
		atomic_store(&user->limit[i], quota ? quota->limit[i] : FERRYI_QUOTA_NONE);
}

/* His own, else that of everybody. */
static void limit_user(const struct ferryi_users *users, struct ferryi_user *user)
{
	const struct ferryi_quota *own = quota_of(&users->quotas, user->name);

	limit(user, own ? own : quota_of(&users->quotas, ""));
}

void ferryi_users_limit(struct ferryi_users *users, const struct ferryi_quotas *quotas)
{
	users->quotas = *quotas;
	snprintf(users->all.name, sizeof(users->all.name), "server");
	limit(&users->all, quota_of(quotas, "server"));
	for (struct ferryi_user *user = users->list; user; user = user->next)
		limit_user(users, user);
}

/* ---- what is used ---- */

static _Atomic uint64_t *counter(struct ferryi_user *user, enum ferryi_quota_kind kind)
{
	return kind == FERRYI_QUOTA_BYTES ? &user->payer.bytes : &user->used[kind];
}

uint64_t ferryi_user_used(const struct ferryi_user *user, enum ferryi_quota_kind kind)
{
	return atomic_load(kind == FERRYI_QUOTA_BYTES ? &user->payer.bytes : &user->used[kind]);
}

static const char *amount_text(enum ferryi_quota_kind kind, uint64_t amount, char *buf, size_t buf_len)
{
	if (kind == FERRYI_QUOTA_BYTES)
		return ferryi_format_size(amount, buf, buf_len);
	snprintf(buf, buf_len, "%" PRIu64, amount);
	return buf;
}

static int refuse(const struct ferryi_user *user, enum ferryi_quota_kind kind, uint64_t amount, uint64_t used,
		  uint64_t most, char *why, size_t why_len)
{
	char more[24], has[24], limit_text[24];

	return ferryi_err(-EDQUOT, why, why_len, "quota of %s%.120s: %s=%s, %s used, %s more asked for",
			  user->all ? "user " : "the ", user->name, kinds[kind],
			  amount_text(kind, most, limit_text, sizeof(limit_text)),
			  amount_text(kind, used, has, sizeof(has)),
			  amount_text(kind, amount, more, sizeof(more)));
}

static int charge_one(struct ferryi_user *user, enum ferryi_quota_kind kind, uint64_t amount,
		      uint64_t elsewhere, char *why, size_t why_len)
{
	const uint64_t most = atomic_load(&user->limit[kind]);
	_Atomic uint64_t *at = counter(user, kind);
	uint64_t used = atomic_load(at);

	do {
		uint64_t all = used + elsewhere;

		if (most != FERRYI_QUOTA_NONE && (all > most || amount > most - all))
			return refuse(user, kind, amount, all, most, why, why_len);
	} while (!atomic_compare_exchange_weak(at, &used, used + amount));
	return 0;
}

int ferryi_user_charge(struct ferryi_user *user, enum ferryi_quota_kind kind, uint64_t amount,
		       uint64_t elsewhere, char *why, size_t why_len)
{
	int rc = charge_one(user, kind, amount, elsewhere, why, why_len);

	if (rc)
		return rc;
	rc = charge_one(user->all, kind, amount, 0, why, why_len);
	if (rc)
		atomic_fetch_sub(counter(user, kind), amount);
	return rc;
}

void ferryi_user_charge_always(struct ferryi_user *user, enum ferryi_quota_kind kind, uint64_t amount)
{
	atomic_fetch_add(counter(user, kind), amount);
	atomic_fetch_add(counter(user->all, kind), amount);
}

void ferryi_user_refund(struct ferryi_user *user, enum ferryi_quota_kind kind, uint64_t amount)
{
	atomic_fetch_sub(counter(user, kind), amount);
	atomic_fetch_sub(counter(user->all, kind), amount);
}

/* A second's requests may come at once; after that each has to wait for its share of time. */
static int request_one(struct ferryi_user *user, uint64_t now_ns, char *why, size_t why_len)
{
	const uint64_t most = atomic_load(&user->limit[FERRYI_QUOTA_RATE]);
	uint64_t cost_ns, ahead_ns;

	if (most == FERRYI_QUOTA_NONE)
		return 0;
	cost_ns = FERRYI_NS_PER_S / ferryi_max_u64(most, 1);
	user->rate_ns = ferryi_max_u64(user->rate_ns, now_ns);
	ahead_ns = user->rate_ns - now_ns;
	if (!most || ahead_ns + cost_ns > FERRYI_NS_PER_S)
		return ferryi_err(-EDQUOT, why, why_len,
				  "quota of %s%.120s: rate=%" PRIu64
				  " requests a second, all used; ask again later",
				  user->all ? "user " : "the ", user->name, most);
	user->rate_ns += cost_ns;
	return 0;
}

int ferryi_user_request(struct ferryi_user *user, uint64_t now_ns, char *why, size_t why_len)
{
	int rc = request_one(user, now_ns, why, why_len);

	return rc ? rc : request_one(user->all, now_ns, why, why_len);
}

/* ---- who there is ---- */

/* A subject may hold anything: its digest stands for it. */
static int set_scope(const struct ferryi_users *users, struct ferryi_user *user)
{
	static const char tls[] = "tls:";
	uint8_t digest[FERRYI_DIGEST_LEN];
	int n;

	if (strcmp(user->name, ferryi_auth_name(FERRYI_AUTH_TOKEN)) == 0 ||
	    (users->only_anonymous && strcmp(user->name, ferryi_auth_name(FERRYI_AUTH_ANONYMOUS)) == 0))
		return 0;
	if (strncmp(user->name, tls, sizeof(tls) - 1) != 0) {
		n = snprintf(user->scope, sizeof(user->scope), "%s/", user->name);
		return n > 0 && (size_t)n < sizeof(user->scope) ? 0 : -1;
	}
	if (ferryi_digest(user->name, strlen(user->name), digest))
		return -1;
	n = snprintf(user->scope, sizeof(user->scope), "%s", tls);
	for (unsigned i = 0; i < 16; i++)
		n += snprintf(user->scope + n, sizeof(user->scope) - (size_t)n, "%02x", digest[i]);
	snprintf(user->scope + n, sizeof(user->scope) - (size_t)n, "/");
	return 0;
}

struct ferryi_user *ferryi_users_get(struct ferryi_users *users, const char *name)
{
	struct ferryi_user *user = users->list;

	while (user && strcmp(user->name, name) != 0)
		user = user->next;
	if (user)
		return user;
	user = calloc(1, sizeof(*user));
	if (!user)
		return NULL;
	snprintf(user->name, sizeof(user->name), "%s", name);
	if (set_scope(users, user)) {
		free(user);
		return NULL;
	}
	user->all = &users->all;
	user->payer.next = &users->all.payer;
	limit_user(users, user);
	user->next = users->list;
	users->list = user;
	return user;
}

void ferryi_users_fini(struct ferryi_users *users)
{
	while (users->list) {
		struct ferryi_user *user = users->list;

		users->list = user->next;
		free(user);
	}
}
