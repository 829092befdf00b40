/*
 * What servers and clients want of etcd, by the JSON gateway of its v3 API.
 * Every call blocks up to its deadline, in the caller's thread, and fails as
 * ferryi_http_post, or with -EPROTO where an answer is not etcd's; err gets one line.
 */
#ifndef FERRYI_DISCOVER_ETCD_H
#define FERRYI_DISCOVER_ETCD_H

#include "discover.h"

#define FERRYI_ETCD_PORT 2379u

struct ferryi_etcd {
	char host[256];
	uint16_t port;
	char prefix[256]; /* of the keys, "" allowed; no slash at its ends */
	char fabric[16];  /* that clients use; "": as the server's own URL says */
};

/* etcd://HOST[:PORT][/PREFIX][?fabric=NAME]. 0 or -EINVAL. */
int ferryi_etcd_parse(const char *text, struct ferryi_etcd *out, char *err, size_t err_len);

/* The servers that are registered now, by their keys' order; *revision: of the store, to watch from. */
int ferryi_etcd_list(const struct ferryi_etcd *etcd, uint64_t deadline_ns, int stop_fd, struct ferryi_servers *out,
		     int64_t *revision, char *err, size_t err_len);
/*
 * Waits until something under the prefix has changed after `revision`: 0 then, and also when the watch has ended
 * for a reason of etcd's: list again. -ETIMEDOUT: nothing has until the deadline. -ECANCELED: by stop_fd.
 */
int ferryi_etcd_watch(const struct ferryi_etcd *etcd, int64_t revision, uint64_t deadline_ns, int stop_fd, char *err,
		      size_t err_len);

/* A lease that ends ttl_s seconds after it was renewed last. *lease != 0. */
int ferryi_etcd_grant(const struct ferryi_etcd *etcd, unsigned ttl_s, uint64_t deadline_ns, int stop_fd, int64_t *lease,
		      char *err, size_t err_len);
/* -ENOENT: it has ended. */
int ferryi_etcd_renew(const struct ferryi_etcd *etcd, int64_t lease, uint64_t deadline_ns, int stop_fd, char *err,
		      size_t err_len);
/* The key PREFIX/name, as long as the lease. */
int ferryi_etcd_put(const struct ferryi_etcd *etcd, const char *name, const char *value, int64_t lease, uint64_t deadline_ns,
		    int stop_fd, char *err, size_t err_len);
/* The lease ends, and its keys go. */
int ferryi_etcd_revoke(const struct ferryi_etcd *etcd, int64_t lease, uint64_t deadline_ns, char *err, size_t err_len);

/* ---- of the answers; for the above, and for tests ---- */

/* 0, -EPROTO. */
int ferryi_etcd_parse_list(const char *text, size_t len, const char *fabric, struct ferryi_servers *out, int64_t *revision);
/* One line of a watch: 0: it is on; 1: something has changed, or the watch has ended; -EPROTO. */
int ferryi_etcd_parse_watch(const char *text, size_t len);
/* Of a grant; of a renewal, where the lease that has ended is 0. -EPROTO. */
int ferryi_etcd_parse_lease(const char *text, size_t len, int64_t *lease);

#endif
