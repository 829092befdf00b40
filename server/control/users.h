/*
 * Who uses the server, as authentication says it: "uid:1000" (MUNGE), "tls:CN=..."
 * (the subject of a certificate), "token" (all who know it), "anonymous".
 * A user is there from his first session to the end of the server, and has a
 * quota: what he may hold at once, all sessions together. The server as a whole
 * has one as well.
 */
#ifndef FERRYI_CONTROL_USERS_H
#define FERRYI_CONTROL_USERS_H

#include "pool.h"
#include "proto.h"

#define FERRYI_USER_SCOPE_LEN 48u /* with its NUL */

enum ferryi_quota_kind {
	FERRYI_QUOTA_BYTES, /* leased, or kept under a name or for an heir */
	FERRYI_QUOTA_LEASES,
	FERRYI_QUOTA_SESSIONS,
	FERRYI_QUOTA_RATE, /* requests a second; keep-alives do not count */
	FERRYI_QUOTA_EXPORTS,
	FERRYI_QUOTA_VIEWS,
	FERRYI_QUOTA_KINDS,
};

#define FERRYI_QUOTA_NONE UINT64_MAX
#define FERRYI_MAX_QUOTAS 64u

struct ferryi_quota {
	char who[FERRYI_MAX_USER +
		 1]; /* of a user; "": of each that has none of his own; "server": of all together */
	uint64_t limit[FERRYI_QUOTA_KINDS]; /* FERRYI_QUOTA_NONE: none */
};

struct ferryi_quotas {
	struct ferryi_quota list[FERRYI_MAX_QUOTAS];
	unsigned n;
};

/* "bytes", "leases", ... */
const char *ferryi_quota_name(enum ferryi_quota_kind kind);

struct ferryi_user {
	/* atomic: any thread charges and looks, the control thread sets limits */
	_Atomic uint64_t limit[FERRYI_QUOTA_KINDS];
	_Atomic uint64_t used[FERRYI_QUOTA_KINDS]; /* but for bytes, which payer has */
	struct ferryi_payer payer;		   /* what his extents cost; then the server's */
	_Atomic uint64_t
		booked; /* what his names have for good and nobody holds, when somebody looked last */
	/* owned by the control thread */
	struct ferryi_user *next;
	bool is_known;	  /* booked was looked up */
	uint64_t rate_ns; /* when the requests so far have been paid for by the rate */
	/* immutable */
	char name[FERRYI_MAX_USER + 1];
	/*
	 * Before the names of his leases, so that nobody else's lease has one of them: "uid:1000/". Empty for
	 * those who know the token: what a pool in a file has from servers of 0.1 is theirs.
	 */
	char scope[FERRYI_USER_SCOPE_LEN];
	struct ferryi_user *all; /* the server as a whole; its own is NULL */
};

struct ferryi_users {
	/* owned by the control thread */
	struct ferryi_user *list;
	struct ferryi_user all;	     /* the server as a whole */
	struct ferryi_quotas quotas; /* of users to come */
	/* immutable: nobody but anonymous ones comes (--no-auth), so that theirs is what a pool has */
	bool only_anonymous;
};

/* The user of that name, made if need be. NULL: out of memory. Context: control thread. */
struct ferryi_user *ferryi_users_get(struct ferryi_users *users, const char *name);
/* From now on; what is held already stays. Context: control thread. Once before anybody is let in. */
void ferryi_users_limit(struct ferryi_users *users, const struct ferryi_quotas *quotas);

/*
 * Takes so much of the user's quota, and of the server's. elsewhere: what he has
 * beside, of which nobody keeps count (bytes). 0; or -EDQUOT with one line in why,
 * and nothing taken. Any thread.
 */
int ferryi_user_charge(struct ferryi_user *user, enum ferryi_quota_kind kind, uint64_t amount,
		       uint64_t elsewhere, char *why, size_t why_len);
/* The same where he has it anyhow. */
void ferryi_user_charge_always(struct ferryi_user *user, enum ferryi_quota_kind kind, uint64_t amount);
void ferryi_user_refund(struct ferryi_user *user, enum ferryi_quota_kind kind, uint64_t amount);
/* One request. 0 or -EDQUOT with one line in why. Context: control thread. */
int ferryi_user_request(struct ferryi_user *user, uint64_t now_ns, char *why, size_t why_len);
uint64_t ferryi_user_used(const struct ferryi_user *user, enum ferryi_quota_kind kind);

/* All of them; nobody may use one any more. */
void ferryi_users_fini(struct ferryi_users *users);

#endif
