/* See etcd.h. Keys and values travel in base64, 64-bit numbers as text (protobuf's JSON mapping). */
#include "etcd.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http.h"
#include "url.h"

#define SCHEME	  "etcd://"
#define KEY_MAX	  (sizeof(((struct ferryi_etcd *)0)->prefix) + 80)
#define VALUE_MAX 320
#define DEPTH	  8 /* of an answer */
#define WATCH_LINE ((size_t)64 << 10) /* bytes of one line of a watch */

/* ---- the URL ---- */

static int set_prefix(struct ferryi_etcd *etcd, const char *path, size_t len, char *err, size_t err_len)
{
	while (len && *path == '/') {
		path++;
		len--;
	}
	while (len && path[len - 1] == '/')
		len--;
	if (len >= sizeof(etcd->prefix)) {
		snprintf(err, err_len, "the prefix is longer than %zu characters", sizeof(etcd->prefix) - 1);
		return -EINVAL;
	}
	memcpy(etcd->prefix, path, len);
	etcd->prefix[len] = '\0';
	return 0;
}

int ferryi_etcd_parse(const char *text, struct ferryi_etcd *out, char *err, size_t err_len)
{
	char address[300];
	const char *rest, *query;
	size_t len;
	int rc;

	*out = (struct ferryi_etcd){ 0 };
	if (strncmp(text, SCHEME, strlen(SCHEME)) != 0) {
		snprintf(err, err_len, "no " SCHEME "HOST:PORT/PREFIX");
		return -EINVAL;
	}
	text += strlen(SCHEME);
	len = strcspn(text, "/?");
	if (!len || len >= sizeof(address)) {
		snprintf(err, err_len, "a host is wanted: " SCHEME "HOST:PORT/PREFIX");
		return -EINVAL;
	}
	/* The port's default is a server's, not etcd's: it is found out whether one is named. */
	bool has_port = text[0] == '[' ? text[len - 1] != ']' : memchr(text, ':', len) != NULL;

	snprintf(address, sizeof(address), "%.*s%s", (int)len, text, has_port ? "" : ":2379");
	rc = ferryi_hostport_parse(address, out->host, sizeof(out->host), &out->port, err, err_len);
	if (!rc && (!out->host[0] || !out->port)) {
		snprintf(err, err_len, "a host and a port other than 0 are wanted: " SCHEME "HOST:PORT/PREFIX");
		rc = -EINVAL;
	}
	if (rc)
		return rc;
	rest = text + len;
	query = strchr(rest, '?');
	if (query && (strncmp(query, "?fabric=", 8) != 0 || !query[8] || strlen(query + 8) >= sizeof(out->fabric))) {
		snprintf(err, err_len, "\"%s\" is unknown; only ?fabric=NAME may follow the prefix", query);
		return -EINVAL;
	}
	if (query)
		strcpy(out->fabric, query + 8);
	return set_prefix(out, rest, query ? (size_t)(query - rest) : strlen(rest), err, err_len);
}

/* ---- requests ---- */

#define BASE64_MAX(bytes) (((bytes) + 2) / 3 * 4 + 1)

static struct json_object *base64(const char *text, size_t len)
{
	unsigned char out[BASE64_MAX(KEY_MAX > VALUE_MAX ? KEY_MAX : VALUE_MAX)];

	EVP_EncodeBlock(out, (const unsigned char *)text, (int)len);
	return json_object_new_string((const char *)out);
}

static struct json_object *number(int64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRId64, value);
	return json_object_new_string(text);
}

/* All keys PREFIX/... : from "PREFIX/" to before "PREFIX0", '0' being what follows '/'. */
static void add_range(struct json_object *o, const struct ferryi_etcd *etcd)
{
	char key[KEY_MAX];
	size_t len = (size_t)snprintf(key, sizeof(key), "%s/", etcd->prefix);

	json_object_object_add(o, "key", base64(key, len));
	key[len - 1]++;
	json_object_object_add(o, "range_end", base64(key, len));
}

struct call {
	const struct ferryi_etcd *etcd;
	const char *path;
	struct json_object *body; /* put at the end */
	uint64_t deadline_ns;
	int stop_fd;
};

static int post(const struct call *call, char **answer, size_t *len, char *err, size_t err_len)
{
	const char *body = call->body ? json_object_to_json_string_ext(call->body, JSON_C_TO_STRING_PLAIN) : NULL;
	struct ferryi_http_call http = { .host = call->etcd->host,
					 .port = call->etcd->port,
					 .path = call->path,
					 .body = body,
					 .deadline_ns = call->deadline_ns,
					 .stop_fd = call->stop_fd };
	int rc = -ENOMEM;

	*answer = NULL;
	snprintf(err, err_len, "out of memory");
	if (body)
		rc = ferryi_http_post(&http, answer, len, err, err_len);
	json_object_put(call->body);
	return rc;
}

/* ---- answers ---- */

static struct json_object *parse(const char *text, size_t len)
{
	struct json_tokener *tokener = len <= INT32_MAX ? json_tokener_new_ex(DEPTH) : NULL;
	struct json_object *o = NULL;

	if (!tokener)
		return NULL;
	o = json_tokener_parse_ex(tokener, text, (int)len);
	/* An object alone is an answer; one that is not at its end is none. */
	if (json_tokener_get_error(tokener) != json_tokener_success || !json_object_is_type(o, json_type_object)) {
		json_object_put(o);
		o = NULL;
	}
	json_tokener_free(tokener);
	return o;
}

static struct json_object *member(const struct json_object *o, const char *name, enum json_type type)
{
	struct json_object *m = NULL;

	if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, name, &m) || !json_object_is_type(m, type))
		return NULL;
	return m;
}

/* A 64-bit number, which is text; 0 where there is none, as zeros are left out. */
static int64_t number_of(const struct json_object *o, const char *name)
{
	struct json_object *m = member(o, name, json_type_string);
	int64_t value = 0;

	return m && json_parse_int64(json_object_get_string(m), &value) == 0 ? value : 0;
}

/* The text of a base64 member; false: it is none, or too long for it. */
static bool text_of(const struct json_object *o, const char *name, char *out, size_t out_len)
{
	struct json_object *m = member(o, name, json_type_string);
	size_t len = m ? (size_t)json_object_get_string_len(m) : 0;
	unsigned char raw[BASE64_MAX(VALUE_MAX)];

	if (!len || len % 4 || len > sizeof(raw) - 1)
		return false;
	const char *text = json_object_get_string(m);
	int n = EVP_DecodeBlock(raw, (const unsigned char *)text, (int)len);

	n -= text[len - 1] == '=' ? (text[len - 2] == '=' ? 2 : 1) : 0;
	if (n <= 0 || (size_t)n >= out_len || memchr(raw, '\0', (size_t)n))
		return false;
	memcpy(out, raw, (size_t)n);
	out[n] = '\0';
	return true;
}

static bool add_server(const struct json_object *kv, const char *fabric, struct ferryi_servers *out)
{
	char value[VALUE_MAX], why[256];
	struct ferryi_url url;

	if (!text_of(kv, "value", value, sizeof(value)) || ferryi_url_parse(value, &url, why, sizeof(why)))
		return false;
	if (!fabric[0] && strcmp(url.fabric, "auto") != 0)
		fabric = url.fabric;
	return ferryi_servers_add(out, url.host, url.port, fabric);
}

int ferryi_etcd_parse_list(const char *text, size_t len, const char *fabric, struct ferryi_servers *out, int64_t *revision)
{
	struct json_object *answer = parse(text, len);
	struct json_object *header = answer ? member(answer, "header", json_type_object) : NULL;
	struct json_object *kvs = answer ? member(answer, "kvs", json_type_array) : NULL;
	int rc = header ? 0 : -EPROTO;

	out->nr = 0;
	out->nr_bad = 0;
	*revision = header ? number_of(header, "revision") : 0;
	for (size_t i = 0; !rc && kvs && i < json_object_array_length(kvs); i++)
		out->nr_bad += !add_server(json_object_array_get_idx(kvs, i), fabric, out);
	json_object_put(answer);
	return rc;
}

int ferryi_etcd_parse_watch(const char *text, size_t len)
{
	struct json_object *answer = parse(text, len);
	struct json_object *result = answer ? member(answer, "result", json_type_object) : NULL;
	int rc = !answer ? -EPROTO : 1;

	/* Created, and no more: the watch has begun. Events, an end, an error: look again. */
	if (result && member(result, "created", json_type_boolean) && !json_object_object_get_ex(result, "events", NULL) &&
	    !json_object_object_get_ex(result, "canceled", NULL))
		rc = 0;
	json_object_put(answer);
	return rc;
}

int ferryi_etcd_parse_lease(const char *text, size_t len, int64_t *lease)
{
	struct json_object *answer = parse(text, len);
	struct json_object *result = answer ? member(answer, "result", json_type_object) : NULL;
	const struct json_object *of = result ? result : answer;
	int rc = answer && member(of, "header", json_type_object) ? 0 : -EPROTO;

	*lease = rc ? 0 : number_of(of, "ID");
	if (!rc && number_of(of, "TTL") <= 0)
		*lease = 0;
	json_object_put(answer);
	return rc;
}

/* ---- calls ---- */

static int no_etcd(const struct ferryi_etcd *etcd, char *err, size_t err_len)
{
	snprintf(err, err_len, "%s:%u does not answer as an etcd (v3, with its JSON gateway) does", etcd->host, etcd->port);
	return -EPROTO;
}

int ferryi_etcd_list(const struct ferryi_etcd *etcd, uint64_t deadline_ns, int stop_fd, struct ferryi_servers *out,
		     int64_t *revision, char *err, size_t err_len)
{
	struct call call = { .etcd = etcd, .path = "/v3/kv/range", .body = json_object_new_object(),
			     .deadline_ns = deadline_ns, .stop_fd = stop_fd };
	char *answer;
	size_t len;

	out->nr = out->nr_bad = 0;
	add_range(call.body, etcd);
	json_object_object_add(call.body, "limit", number(FERRYI_DISCOVER_MAX));
	int rc = post(&call, &answer, &len, err, err_len);

	if (!rc && ferryi_etcd_parse_list(answer, len, etcd->fabric, out, revision))
		rc = no_etcd(etcd, err, err_len);
	free(answer);
	return rc;
}

/* Lines of a watch, as they come. */
struct lines {
	char buf[WATCH_LINE];
	size_t len;
	int rc;
};

static bool on_watch(void *ctx, const char *data, size_t len)
{
	struct lines *lines = ctx;

	for (size_t i = 0; i < len; i++) {
		if (data[i] != '\n' && lines->len < sizeof(lines->buf)) {
			lines->buf[lines->len++] = data[i];
			continue;
		}
		/* A line that is too long is an answer with many changes. */
		lines->rc = lines->len == sizeof(lines->buf) ? 1 : ferryi_etcd_parse_watch(lines->buf, lines->len);
		lines->len = 0;
		if (lines->rc)
			return true;
	}
	return false;
}

int ferryi_etcd_watch(const struct ferryi_etcd *etcd, int64_t revision, uint64_t deadline_ns, int stop_fd, char *err,
		      size_t err_len)
{
	struct json_object *body = json_object_new_object(), *create = json_object_new_object();
	struct lines *lines = calloc(1, sizeof(*lines));
	int rc = -ENOMEM;
	char *answer;
	size_t len;

	snprintf(err, err_len, "out of memory");
	if (body && create && lines) {
		add_range(create, etcd);
		json_object_object_add(create, "start_revision", number(revision + 1));
		json_object_object_add(body, "create_request", create);
		create = NULL;
		struct ferryi_http_call http = { .host = etcd->host,
						 .port = etcd->port,
						 .path = "/v3/watch",
						 .body = json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN),
						 .deadline_ns = deadline_ns,
						 .stop_fd = stop_fd,
						 .on_data = on_watch,
						 .ctx = lines };

		rc = ferryi_http_post(&http, &answer, &len, err, err_len);
		if (!rc && lines->rc < 0)
			rc = no_etcd(etcd, err, err_len);
	}
	free(lines);
	json_object_put(create);
	json_object_put(body);
	return rc;
}

/* A call whose answer tells of a lease. */
static int lease_call(struct call *call, int64_t *lease, char *err, size_t err_len)
{
	char *answer;
	size_t len;
	int rc = post(call, &answer, &len, err, err_len);

	if (!rc && ferryi_etcd_parse_lease(answer, len, lease))
		rc = no_etcd(call->etcd, err, err_len);
	free(answer);
	return rc;
}

int ferryi_etcd_grant(const struct ferryi_etcd *etcd, unsigned ttl_s, uint64_t deadline_ns, int stop_fd, int64_t *lease,
		      char *err, size_t err_len)
{
	struct call call = { .etcd = etcd, .path = "/v3/lease/grant", .body = json_object_new_object(),
			     .deadline_ns = deadline_ns, .stop_fd = stop_fd };

	json_object_object_add(call.body, "TTL", number(ttl_s));
	int rc = lease_call(&call, lease, err, err_len);

	return !rc && !*lease ? no_etcd(etcd, err, err_len) : rc;
}

int ferryi_etcd_renew(const struct ferryi_etcd *etcd, int64_t lease, uint64_t deadline_ns, int stop_fd, char *err,
		      size_t err_len)
{
	struct call call = { .etcd = etcd, .path = "/v3/lease/keepalive", .body = json_object_new_object(),
			     .deadline_ns = deadline_ns, .stop_fd = stop_fd };
	int64_t renewed;

	json_object_object_add(call.body, "ID", number(lease));
	int rc = lease_call(&call, &renewed, err, err_len);

	if (!rc && !renewed) {
		snprintf(err, err_len, "the lease has ended");
		rc = -ENOENT;
	}
	return rc;
}

int ferryi_etcd_put(const struct ferryi_etcd *etcd, const char *name, const char *value, int64_t lease, uint64_t deadline_ns,
		    int stop_fd, char *err, size_t err_len)
{
	struct call call = { .etcd = etcd, .path = "/v3/kv/put", .body = json_object_new_object(),
			     .deadline_ns = deadline_ns, .stop_fd = stop_fd };
	char key[KEY_MAX], *answer;
	size_t len = (size_t)snprintf(key, sizeof(key), "%s/%s", etcd->prefix, name);

	if (len >= sizeof(key) || strlen(value) >= VALUE_MAX) {
		json_object_put(call.body);
		snprintf(err, err_len, "the name or the address is too long");
		return -EINVAL;
	}
	json_object_object_add(call.body, "key", base64(key, len));
	json_object_object_add(call.body, "value", base64(value, strlen(value)));
	json_object_object_add(call.body, "lease", number(lease));
	int rc = post(&call, &answer, &len, err, err_len);

	free(answer);
	return rc;
}

int ferryi_etcd_revoke(const struct ferryi_etcd *etcd, int64_t lease, uint64_t deadline_ns, char *err, size_t err_len)
{
	struct call call = { .etcd = etcd, .path = "/v3/lease/revoke", .body = json_object_new_object(),
			     .deadline_ns = deadline_ns, .stop_fd = -1 };
	char *answer;
	size_t len;

	json_object_object_add(call.body, "ID", number(lease));
	int rc = post(&call, &answer, &len, err, err_len);

	free(answer);
	return rc;
}
