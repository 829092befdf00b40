/* What a service manager or a parent process sees of the server. Control thread. */
#ifndef FERRYI_SERVER_SUPERVISOR_H
#define FERRYI_SERVER_SUPERVISOR_H

#include <stddef.h>
#include <stdint.h>

/* sd_notify(3): one datagram ("READY=1") to $NOTIFY_SOCKET, if there is one. */
void ferryi_supervisor_notify(const char *state);
/* "ferry://HOST:PORT" of a numeric host; returns buf. */
const char *ferryi_supervisor_url(const char *host, uint16_t port, char *buf, size_t buf_len);
/* Writes the URL and a newline to an inherited descriptor and closes it. 0 or negative errno. */
int ferryi_supervisor_ready(int fd, const char *url);

#endif
