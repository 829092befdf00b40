/* See discover.h. */
#include "discover.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "etcd.h"
#include "srv.h"
#include "url.h"

bool ferryi_is_discovery(const char *url)
{
	return strncmp(url, "etcd://", 7) == 0 || strncmp(url, "ferry+srv://", 12) == 0;
}

bool ferryi_servers_add(struct ferryi_servers *servers, const char *host, uint16_t port, const char *fabric)
{
	char *url = servers->url[servers->nr], why[256];
	struct ferryi_url parsed;
	int n;

	if (servers->nr == FERRYI_DISCOVER_MAX)
		return false;
	n = snprintf(url, sizeof(servers->url[0]), strchr(host, ':') ? "ferry://[%s]:%u%s%s" : "ferry://%s:%u%s%s", host, port,
		     fabric[0] ? "?fabric=" : "", fabric);
	/* Commas and spaces part the servers of a list: what is read from the net may not add some. */
	if (n >= (int)sizeof(servers->url[0]) || strpbrk(url, ", \t\r\n") || ferryi_url_parse(url, &parsed, why, sizeof(why)))
		return false;
	for (unsigned i = 0; i < servers->nr; i++) {
		if (strcmp(servers->url[i], url) == 0)
			return true;
	}
	servers->nr++;
	return true;
}

static int list_etcd(const char *url, uint64_t deadline_ns, int stop_fd, struct ferryi_servers *out, char *err, size_t err_len)
{
	struct ferryi_etcd etcd;
	int64_t revision;
	int rc = ferryi_etcd_parse(url, &etcd, err, err_len);

	if (!rc)
		rc = ferryi_etcd_list(&etcd, deadline_ns, stop_fd, out, &revision, err, err_len);
	if (!rc && !out->nr) {
		snprintf(err, err_len, "no server is registered there (ferryd --register)");
		rc = -ENOENT;
	}
	return rc;
}

static int list_srv(const char *url, struct ferryi_servers *out, char *err, size_t err_len)
{
	struct ferryi_srv srv;
	int rc = ferryi_srv_parse(url, &srv, err, err_len);

	return rc ? rc : ferryi_srv_list(&srv, out, err, err_len);
}

int ferryi_discover(const char *url, uint64_t deadline_ns, int stop_fd, struct ferryi_servers *out, char *err, size_t err_len)
{
	char why[FERRYI_DISCOVER_ERR_LEN] = "";

	out->nr = out->nr_bad = 0;
	int rc = strncmp(url, "etcd://", 7) == 0 ? list_etcd(url, deadline_ns, stop_fd, out, why, sizeof(why)) :
						   list_srv(url, out, why, sizeof(why));

	if (rc)
		snprintf(err, err_len, "%s: %s", url, why);
	return rc;
}
