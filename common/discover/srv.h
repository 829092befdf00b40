/* SRV records (RFC 2782) by the C library's resolver. Blocks, without more of a limit than the resolver's: some 10 s. */
#ifndef FERRYI_DISCOVER_SRV_H
#define FERRYI_DISCOVER_SRV_H

#include "discover.h"

struct ferryi_srv {
	char name[256];	 /* _ferry._tcp.example.org */
	char dns[64];	 /* IPv4 address of the name server to ask; "": as resolv.conf says */
	uint16_t dns_port;
	char fabric[16]; /* "": none named */
};

/* ferry+srv://NAME[?dns=IPV4[:PORT]][&fabric=NAME]. 0 or -EINVAL. */
int ferryi_srv_parse(const char *text, struct ferryi_srv *out, char *err, size_t err_len);
/* By priority, then by weight. 0, -ENOENT (no such name, or no record), -ETIMEDOUT (no answer), -EPROTO; one line. */
int ferryi_srv_list(const struct ferryi_srv *srv, struct ferryi_servers *out, char *err, size_t err_len);
/* Of a DNS answer. 0, also when there is no record in it; -EPROTO. */
int ferryi_srv_parse_answer(const uint8_t *answer, size_t len, const char *fabric, struct ferryi_servers *out);

#endif
