/*
 * Fuzz target: what etcd and name servers answer, and the URLs that lead to
 * them. The input is any of these: all parsers get it.
 */
#include <stdlib.h>
#include <string.h>

#include "etcd.h"
#include "replay.h"
#include "srv.h"
#include "url.h"

static struct ferryi_servers servers;

/* Whatever was read, it is a list of servers that can be named in FERRY_SERVERS. */
static void check_servers(void)
{
	char why[256];
	struct ferryi_url url;

	FERRYT_MUST(servers.nr <= FERRYI_DISCOVER_MAX);
	for (unsigned i = 0; i < servers.nr; i++) {
		FERRYT_MUST(ferryi_url_parse(servers.url[i], &url, why, sizeof(why)) == 0);
		FERRYT_MUST(!strpbrk(servers.url[i], ", \t\r\n"));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char err[FERRYI_DISCOVER_ERR_LEN], *text = malloc(size + 1);
	struct ferryi_etcd etcd;
	struct ferryi_srv srv;
	int64_t number;

	if (!text)
		return 0;
	if (size)
		memcpy(text, data, size);
	text[size] = '\0';
	if (ferryi_etcd_parse_list(text, size, "", &servers, &number) == 0)
		check_servers();
	FERRYT_MUST(ferryi_etcd_parse_watch(text, size) <= 1);
	ferryi_etcd_parse_lease(text, size, &number);
	if (ferryi_srv_parse_answer(data, size, "tcp", &servers) == 0)
		check_servers();
	if (ferryi_etcd_parse(text, &etcd, err, sizeof(err)) == 0)
		FERRYT_MUST(etcd.host[0] && etcd.port);
	if (ferryi_srv_parse(text, &srv, err, sizeof(err)) == 0)
		FERRYT_MUST(srv.name[0]);
	free(text);
	return 0;
}
