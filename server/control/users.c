/* See users.h. */
#include "users.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "url.h"

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
