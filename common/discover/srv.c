/* See srv.h. */
#include "srv.h"

#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "url.h"

#define SCHEME	 "ferry+srv://"
#define ATTEMPTS 2
#define WAIT_S	 2

struct record {
	unsigned priority, weight;
	uint16_t port;
	char host[256];
};

/* One key=value of the query. */
static int set_option(struct ferryi_srv *srv, const char *option, char *err, size_t err_len)
{
	struct in_addr addr;
	char why[160];

	if (strncmp(option, "dns=", 4) == 0) {
		srv->dns_port = NAMESERVER_PORT;
		if (strchr(option + 4, ':') ?
			    ferryi_hostport_parse(option + 4, srv->dns, sizeof(srv->dns), &srv->dns_port, why, sizeof(why)) :
			    snprintf(srv->dns, sizeof(srv->dns), "%s", option + 4) >= (int)sizeof(srv->dns))
			srv->dns[0] = '\0';
		if (inet_pton(AF_INET, srv->dns, &addr) == 1 && srv->dns_port)
			return 0;
		snprintf(err, err_len, "dns= wants the IPv4 address of a name server, with :PORT or not");
		return -EINVAL;
	}
	if (strncmp(option, "fabric=", 7) == 0 && option[7] && strlen(option + 7) < sizeof(srv->fabric)) {
		strcpy(srv->fabric, option + 7);
		return 0;
	}
	snprintf(err, err_len, "\"%s\" is unknown; there are dns=IPV4[:PORT] and fabric=NAME", option);
	return -EINVAL;
}

int ferryi_srv_parse(const char *text, struct ferryi_srv *out, char *err, size_t err_len)
{
	char query[128], *rest = query, *option;
	size_t len;
	int rc = 0;

	*out = (struct ferryi_srv){ 0 };
	if (strncmp(text, SCHEME, strlen(SCHEME)) != 0) {
		snprintf(err, err_len, "no " SCHEME "NAME");
		return -EINVAL;
	}
	text += strlen(SCHEME);
	len = strcspn(text, "?");
	if (!len || len >= sizeof(out->name) || memchr(text, '/', len) || memchr(text, ':', len)) {
		snprintf(err, err_len, "a name is wanted, as in " SCHEME "_ferry._tcp.example.org");
		return -EINVAL;
	}
	memcpy(out->name, text, len);
	if (!text[len])
		return 0;
	if (snprintf(query, sizeof(query), "%s", text + len + 1) >= (int)sizeof(query)) {
		snprintf(err, err_len, "what follows the ? is too long");
		return -EINVAL;
	}
	while (!rc && (option = strsep(&rest, "&")))
		rc = set_option(out, option, err, err_len);
	return rc;
}

static int compare(const void *a, const void *b)
{
	const struct record *x = a, *y = b;

	if (x->priority != y->priority)
		return x->priority < y->priority ? -1 : 1;
	if (x->weight != y->weight)
		return x->weight > y->weight ? -1 : 1;
	return strcmp(x->host, y->host);
}

/* false: it is no SRV record, or says that there is no such service (target "."). */
static bool read_record(ns_msg *msg, int i, struct record *out)
{
	const unsigned fixed = 3 * NS_INT16SZ;
	ns_rr rr;

	if (ns_parserr(msg, ns_s_an, i, &rr) || ns_rr_type(rr) != ns_t_srv || ns_rr_rdlen(rr) <= fixed)
		return false;
	out->priority = ns_get16(ns_rr_rdata(rr));
	out->weight = ns_get16(ns_rr_rdata(rr) + NS_INT16SZ);
	out->port = (uint16_t)ns_get16(ns_rr_rdata(rr) + 2 * NS_INT16SZ);
	return dn_expand(ns_msg_base(*msg), ns_msg_end(*msg), ns_rr_rdata(rr) + fixed, out->host, sizeof(out->host)) > 0 &&
	       out->host[0] && strcmp(out->host, ".") != 0 && out->port;
}

int ferryi_srv_parse_answer(const uint8_t *answer, size_t len, const char *fabric, struct ferryi_servers *out)
{
	struct record records[FERRYI_DISCOVER_MAX];
	unsigned nr = 0;
	ns_msg msg;

	out->nr = out->nr_bad = 0;
	if (len > NS_MAXMSG || ns_initparse(answer, (int)len, &msg))
		return -EPROTO;
	for (int i = 0; i < ns_msg_count(msg, ns_s_an) && nr < FERRYI_DISCOVER_MAX; i++)
		nr += read_record(&msg, i, &records[nr]);
	qsort(records, nr, sizeof(records[0]), compare);
	for (unsigned i = 0; i < nr; i++)
		out->nr_bad += !ferryi_servers_add(out, records[i].host, records[i].port, fabric);
	return 0;
}

static int why_none(int herr, const struct ferryi_srv *srv, char *err, size_t err_len)
{
	switch (herr) {
	case HOST_NOT_FOUND:
		snprintf(err, err_len, "no such name: %s", srv->name);
		return -ENOENT;
	case NO_DATA:
		snprintf(err, err_len, "the name has no SRV record");
		return -ENOENT;
	case TRY_AGAIN:
		snprintf(err, err_len, "no name server answers");
		return -ETIMEDOUT;
	default:
		snprintf(err, err_len, "the name server refuses");
		return -EPROTO;
	}
}

int ferryi_srv_list(const struct ferryi_srv *srv, struct ferryi_servers *out, char *err, size_t err_len)
{
	uint8_t *answer = malloc(NS_MAXMSG);
	struct __res_state state = { 0 };
	int n, rc;

	out->nr = out->nr_bad = 0;
	if (!answer || res_ninit(&state)) {
		free(answer);
		snprintf(err, err_len, "out of memory");
		return -ENOMEM;
	}
	state.retry = ATTEMPTS;
	state.retrans = WAIT_S;
	if (srv->dns[0]) {
		state.nscount = 1;
		state.nsaddr_list[0] = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(srv->dns_port) };
		inet_pton(AF_INET, srv->dns, &state.nsaddr_list[0].sin_addr);
	}
	n = res_nquery(&state, srv->name, ns_c_in, ns_t_srv, answer, NS_MAXMSG);
	rc = n < 0 ? why_none(state.res_h_errno, srv, err, err_len) :
		     ferryi_srv_parse_answer(answer, (size_t)n, srv->fabric, out);
	if (n >= 0 && rc)
		snprintf(err, err_len, "the name server's answer is broken");
	if (!rc && !out->nr) {
		snprintf(err, err_len, "the name has no SRV record of a server");
		rc = -ENOENT;
	}
	res_nclose(&state);
	free(answer);
	return rc;
}
