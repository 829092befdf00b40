/* Server URLs: ferry://host:port[?fabric=verbs|shm|local|tcp|rdm|auto]; "shm" is another name of "local". */
#ifndef FERRYI_BASE_URL_H
#define FERRYI_BASE_URL_H

#include <stddef.h>
#include <stdint.h>

#define FERRYI_DEFAULT_PORT 7470

struct ferryi_url {
	char host[256]; /* name, IPv4, or IPv6 without its brackets */
	uint16_t port;
	char fabric[16]; /* "auto" when the URL names none */
};

/* 0 or -EINVAL with one clear line in err. The scheme may be left out: "host", "host:port". */
int ferryi_url_parse(const char *text, struct ferryi_url *out, char *err, size_t err_len);
/* "HOST:PORT", "[v6]:PORT", "HOST" (default port) or ":PORT" (host empty); same errors. Port 0 (any) is taken. */
int ferryi_hostport_parse(const char *text, char *host, size_t host_len, uint16_t *port, char *err, size_t err_len);

#endif
