/* --quota WHO,KEY=VALUE...: parsing. Start-up code; asks the name service for users. */
#ifndef FERRYI_SERVER_QUOTA_H
#define FERRYI_SERVER_QUOTA_H

#include <stddef.h>

#include "users.h"

/* Adds it, or puts it in the place of one of the same user. 0 or -EINVAL with one line in err. */
int ferryi_quota_add(struct ferryi_quotas *quotas, const char *text, char *err, size_t err_len);

#endif
