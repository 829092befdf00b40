/*
 * A TCP connection by name, with one deadline over everything. Runs in the
 * caller's thread; names (not numeric addresses) are resolved in a short-lived
 * thread of their own, since getaddrinfo(3) has no deadline.
 */
#ifndef FERRYI_CONTROL_CONNECT_H
#define FERRYI_CONTROL_CONNECT_H

#include <stdint.h>

/*
 * Tries every address of the host in turn. Returns a connected descriptor
 * (non-blocking, CLOEXEC, no delay), or -EHOSTUNREACH, -ECONNREFUSED,
 * -ETIMEDOUT, -ENOMEM, -EMFILE, with the thread's error line set.
 */
int ferryi_connect(const char *host, uint16_t port, const char *name, uint64_t deadline_ns);

#endif
