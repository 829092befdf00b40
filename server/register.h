/*
 * Tells etcd that this server is there: a key with its URL, under a lease that
 * a thread of its own renews, until the server drains. An etcd that does not
 * answer costs a line in the log, and is tried again.
 */
#ifndef FERRYI_SERVER_REGISTER_H
#define FERRYI_SERVER_REGISTER_H

#include <stddef.h>
#include <stdint.h>

struct ferryi_register;

struct ferryi_register_attr {
	const char *etcd;      /* etcd://HOST:PORT/PREFIX; borrowed, as these, during the call */
	const char *server_id; /* the key's name */
	const char *url;       /* ferry://HOST:PORT, the key's value */
	uint64_t ttl_ms;       /* so long the key stays when the server dies */
};

/* --register and --advertise are good: 0, or -EINVAL with one line. advertise may be NULL. */
int ferryi_register_check(const char *etcd, const char *advertise, char *err, size_t err_len);
/*
 * "ferry://HOST:PORT" that others reach this server by: advertise, HOST or HOST:PORT, or else what it listens at (host, port;
 * where that is every address, the name of this host).
 */
void ferryi_register_url(const char *advertise, const char *host, uint16_t port, char *buf, size_t buf_len);

/* -EINVAL, -ENOMEM, -EAGAIN (no thread), with one line. */
int ferryi_register_start(const struct ferryi_register_attr *attr, struct ferryi_register **out, char *err, size_t err_len);
/* No new client is to come: the key goes, soon. Does not block. NULL is allowed. */
void ferryi_register_end(struct ferryi_register *reg);
/* Waits for the thread, which takes a few seconds at most for its farewell. Nulls *reg. */
void ferryi_register_stop(struct ferryi_register **reg);

#endif
