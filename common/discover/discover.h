/*
 * Servers that are found, not named: ferry+srv://NAME (DNS SRV records) and
 * etcd://HOST:PORT/PREFIX (where ferryd --register has put them). Blocks in the
 * caller's thread; allocates while it does.
 */
#ifndef FERRYI_DISCOVER_H
#define FERRYI_DISCOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FERRYI_DISCOVER_MAX 64u
#define FERRYI_DISCOVER_ERR_LEN 512

struct ferryi_servers {
	unsigned nr;
	unsigned nr_bad; /* entries that hold no server's address: passed over */
	char url[FERRYI_DISCOVER_MAX][320]; /* ferry://host:port[?fabric=NAME] */
};

/* Begins as one of the two. */
bool ferryi_is_discovery(const char *url);
/*
 * Whom it names now, at least one. -EINVAL (no such URL), -ENOENT (no servers there), -EHOSTUNREACH, -ETIMEDOUT, -EPROTO,
 * -ECANCELED (by stop_fd, -1: none), -ENOMEM, each with one line that begins with the URL.
 */
int ferryi_discover(const char *url, uint64_t deadline_ns, int stop_fd, struct ferryi_servers *out, char *err, size_t err_len);

/* Appends host:port with the fabric ("": none named) to the list; false: it is no server's address, or the list is full. */
bool ferryi_servers_add(struct ferryi_servers *servers, const char *host, uint16_t port, const char *fabric);

#endif
