/*
 * Who uses the server, as authentication says it: "uid:1000" (MUNGE), "tls:CN=..."
 * (the subject of a certificate), "token" (all who know it), "anonymous".
 * A user is there from his first session to the end of the server.
 */
#ifndef FERRYI_CONTROL_USERS_H
#define FERRYI_CONTROL_USERS_H

#include "proto.h"

#define FERRYI_USER_SCOPE_LEN 48u /* with its NUL */

struct ferryi_user {
	/* owned by the control thread */
	struct ferryi_user *next;
	/* immutable */
	char name[FERRYI_MAX_USER + 1];
	/*
	 * Before the names of his leases, so that nobody else's lease has one of them: "uid:1000/". Empty for
	 * those who know the token: what a pool in a file has from servers of 0.1 is theirs.
	 */
	char scope[FERRYI_USER_SCOPE_LEN];
};

struct ferryi_users {
	/* owned by the control thread */
	struct ferryi_user *list;
	/* immutable: nobody but anonymous ones comes (--no-auth), so that theirs is what a pool has */
	bool only_anonymous;
};

/* The user of that name, made if need be. NULL: out of memory. Context: control thread. */
struct ferryi_user *ferryi_users_get(struct ferryi_users *users, const char *name);
/* All of them; nobody may use one any more. */
void ferryi_users_fini(struct ferryi_users *users);

#endif
