/*
 * The rules of every message, one function each, and one table that says who
 * takes which body. A message that passes holds no surprise: sizes are whole
 * sub-sections, sums do not overflow, texts are one line, lists are bounded.
 * Pure functions; control threads.
 */
#include "validate.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"

#define MAX_HOST      127u /* "hostname/boot-id" */
#define MAX_ADDR      255u /* FERRYI_FABRIC_ADDR_LEN of the transport */
#define MAX_FABRICS   16u
#define MAX_NUMA_NODE 4095
#define MAX_MS	      86400000u /* a day: longer is a mistake */
#define SERVER_ID_LEN 32u

struct why {
	char *text;
	size_t len;
};

static int invalid(struct why *why, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int invalid(struct why *why, const char *fmt, ...)
{
	va_list args;

	if (why->text && why->len) {
		va_start(args, fmt);
		vsnprintf(why->text, why->len, fmt, args);
		va_end(args);
	}
	return -EINVAL;
}

/* ---- fields ---- */

/* One line of at most max bytes, without control characters. */
static int check_text(struct why *why, const char *field, const char *text, size_t max)
{
	size_t len = strlen(text);

	if (len > max)
		return invalid(why, "%s is %zu characters long: at most %zu", field, len, max);
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c < 0x20 || c == 0x7f)
			return invalid(why, "%s holds a control character at %zu", field, i);
	}
	return 0;
}

/* Letters, digits and ._:;- of at most FERRYI_MAX_NAME; not empty. */
static int check_name(struct why *why, const char *field, const char *name)
{
	size_t len = strlen(name);

	if (len == 0)
		return invalid(why, "%s is empty", field);
	if (len > FERRYI_MAX_NAME)
		return invalid(why, "%s is %zu characters long: at most %u", field, len, FERRYI_MAX_NAME);
	for (size_t i = 0; i < len; i++) {
		if (!isalnum((unsigned char)name[i]) && !strchr("._:;-", name[i]))
			return invalid(why, "%s holds a character that is not allowed at %zu", field, i);
	}
	return 0;
}

static int check_server_id(struct why *why, const char *id)
{
	if (strlen(id) != SERVER_ID_LEN || strspn(id, "0123456789abcdef") != SERVER_ID_LEN)
		return invalid(why, "server_id is not %u lower-case hexadecimal digits", SERVER_ID_LEN);
	return 0;
}

static int check_bytes(struct why *why, const char *field, const ProtobufCBinaryData *bytes, size_t want)
{
	if (bytes->len != want)
		return invalid(why, "%s is %zu bytes long: %zu are needed", field, bytes->len, want);
	return 0;
}

static int check_nonzero(struct why *why, const char *field, uint64_t value)
{
	return value ? 0 : invalid(why, "%s is 0 or missing", field);
}

static int check_count(struct why *why, const char *field, size_t n, size_t max)
{
	return n <= max ? 0 : invalid(why, "%zu %s: at most %zu", n, field, max);
}

/* A multiple of the unit of lease. */
static int check_granules(struct why *why, const char *field, uint64_t bytes)
{
	if (!ferryi_is_aligned(bytes, FERRYI_SUBSECTION_SIZE))
		return invalid(why, "%s of %llu is not a multiple of 2 MiB (%zu)", field,
			       (unsigned long long)bytes, FERRYI_SUBSECTION_SIZE);
	return 0;
}

static int check_lease(struct why *why, uint64_t lease_id, uint64_t epoch)
{
	int rc = check_nonzero(why, "lease_id", lease_id);

	return rc ? rc : check_nonzero(why, "epoch", epoch);
}

/* ---- lists ---- */

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Sorts values. */
static int check_distinct(struct why *why, const char *field, uint64_t *values, size_t n)
{
	qsort(values, n, sizeof(*values), compare_u64);
	for (size_t i = 1; i < n; i++) {
		if (values[i] == values[i - 1])
			return invalid(why, "%s %llu is there twice", field, (unsigned long long)values[i]);
	}
	return 0;
}

struct span {
	uint64_t start;
	uint64_t end;
};

static int compare_span(const void *a, const void *b)
{
	return compare_u64(&((const struct span *)a)->start, &((const struct span *)b)->start);
}

/* Two extents over the same bytes would be two pages in one place. */
static int check_disjoint(struct why *why, const Farferry__LeaseReply *m)
{
	struct span *spans = calloc(m->n_extents, sizeof(*spans));
	int rc = 0;

	if (!spans)
		return -ENOMEM;
	for (size_t i = 0; i < m->n_extents; i++) {
		spans[i].start = m->extents[i]->pool_off;
		spans[i].end = m->extents[i]->pool_off + m->extents[i]->len_bytes;
	}
	qsort(spans, m->n_extents, sizeof(*spans), compare_span);
	for (size_t i = 1; i < m->n_extents && rc == 0; i++) {
		if (spans[i].start < spans[i - 1].end)
			rc = invalid(why, "two extents hold pool offset %llu",
				     (unsigned long long)spans[i].start);
	}
	free(spans);
	return rc;
}

static int check_extent_ids(struct why *why, const Farferry__LeaseReply *m)
{
	uint64_t *ids = calloc(m->n_extents, sizeof(*ids));
	int rc;

	if (!ids)
		return -ENOMEM;
	for (size_t i = 0; i < m->n_extents; i++)
		ids[i] = m->extents[i]->id;
	rc = check_distinct(why, "extent id", ids, m->n_extents);
	free(ids);
	return rc;
}

static int check_location(struct why *why, const Farferry__Location *location, uint64_t len_bytes)
{
	int rc = check_server_id(why, location->server_id);

	if (rc)
		return rc;
	if (!ferryi_range_ok(location->addr, len_bytes, UINT64_MAX))
		return invalid(why, "addr of a location wraps past the end of memory");
	return 0;
}

static int check_extent(struct why *why, const Farferry__Extent *extent, uint64_t pool_size_bytes)
{
	int rc;

	if ((rc = check_granules(why, "pool_off", extent->pool_off)) ||
	    (rc = check_nonzero(why, "len_bytes", extent->len_bytes)) ||
	    (rc = check_granules(why, "len_bytes", extent->len_bytes)))
		return rc;
	if (!ferryi_range_ok(extent->pool_off, extent->len_bytes, pool_size_bytes))
		return invalid(why, "extent %llu lies outside its pool", (unsigned long long)extent->id);
	if (extent->n_locations == 0)
		return invalid(why, "extent %llu has no location", (unsigned long long)extent->id);
	rc = check_count(why, "locations", extent->n_locations, FERRYI_MAX_LOCATIONS);
	for (size_t i = 0; i < extent->n_locations && rc == 0; i++)
		rc = check_location(why, extent->locations[i], extent->len_bytes);
	return rc;
}

/* ---- messages, in the order of the envelope ---- */

static int check_error(const Farferry__Envelope *e, struct why *why)
{
	/* Codes of a later minor version are let through: ferryi_code_to_errno makes them -EIO. */
	if (e->error->code == FARFERRY__CODE__CODE_OK)
		return invalid(why, "error without a code");
	return check_text(why, "text", e->error->text, FERRYI_MAX_TEXT);
}

static int check_hello(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__Hello *m = e->hello;
	int rc;

	if (m->version_min == 0 || m->version_min > m->version_max)
		return invalid(why, "versions %u to %u are no range", m->version_min, m->version_max);
	rc = check_text(why, "client", m->client, FERRYI_MAX_NAME);
	return rc ? rc : check_text(why, "host", m->host, MAX_HOST);
}

static int check_hello_reply(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__HelloReply *m = e->hello_reply;
	int rc;

	if ((rc = check_nonzero(why, "version", m->version)) ||
	    (rc = check_bytes(why, "server_nonce", &m->server_nonce, FERRYI_NONCE_LEN)) ||
	    (rc = check_server_id(why, m->server_id)) ||
	    /* Methods of a later minor version are let through: the client says that it knows none such. */
	    (rc = m->auth[0] ? check_name(why, "auth", m->auth) : 0))
		return rc;
	return check_text(why, "host", m->host, MAX_HOST);
}

/* None, or one line of printable characters. */
static int check_credential(struct why *why, const ProtobufCBinaryData *credential)
{
	if (credential->len > FERRYI_CREDENTIAL_MAX)
		return invalid(why, "credential is %zu bytes long: at most %u", credential->len,
			       FERRYI_CREDENTIAL_MAX);
	for (size_t i = 0; i < credential->len; i++) {
		if (credential->data[i] <= 0x20 || credential->data[i] >= 0x7f)
			return invalid(why, "credential holds a character that is not allowed at %zu", i);
	}
	return 0;
}

static int check_auth(const Farferry__Envelope *e, struct why *why)
{
	int rc = check_bytes(why, "client_nonce", &e->auth->client_nonce, FERRYI_NONCE_LEN);

	rc = rc ? rc : check_bytes(why, "mac", &e->auth->mac, FERRYI_MAC_LEN);
	return rc ? rc : check_credential(why, &e->auth->credential);
}

static int check_auth_reply(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__AuthReply *m = e->auth_reply;
	int rc;

	if ((rc = check_bytes(why, "mac", &m->mac, FERRYI_MAC_LEN)) ||
	    (rc = check_nonzero(why, "session_id", m->session_id)) ||
	    (rc = check_nonzero(why, "epoch", m->epoch)) || (rc = check_credential(why, &m->credential)) ||
	    (rc = check_text(why, "user", m->user, FERRYI_MAX_USER)))
		return rc;
	if (m->keepalive_ms == 0 || m->keepalive_ms >= m->timeout_ms || m->timeout_ms > MAX_MS)
		return invalid(why, "keepalive_ms %u and timeout_ms %u: 0 < keepalive_ms < timeout_ms <= %u",
			       m->keepalive_ms, m->timeout_ms, MAX_MS);
	if (m->n_fabrics == 0)
		return invalid(why, "no fabric is offered");
	rc = check_count(why, "fabrics", m->n_fabrics, MAX_FABRICS);
	for (size_t i = 0; i < m->n_fabrics && rc == 0; i++)
		rc = check_name(why, "fabric", m->fabrics[i]);
	return rc;
}

static int check_nothing(const Farferry__Envelope *e, struct why *why)
{
	(void)e;
	(void)why;
	return 0;
}

static int check_pool_info(struct why *why, const Farferry__PoolInfo *m)
{
	int rc;

	if ((rc = check_name(why, "pool name", m->name)) || (rc = check_name(why, "pool type", m->type)) ||
	    (rc = check_name(why, "pool backing", m->backing)) ||
	    (rc = check_nonzero(why, "size_bytes", m->size_bytes)) ||
	    (rc = check_granules(why, "size_bytes", m->size_bytes)))
		return rc;
	if (m->free_bytes > m->size_bytes || m->leased_bytes > m->size_bytes - m->free_bytes ||
	    m->scrub_bytes > m->size_bytes - m->free_bytes - m->leased_bytes)
		return invalid(why, "parts of pool '%s' exceed its size", m->name);
	if (m->numa_node < -1 || m->numa_node > MAX_NUMA_NODE)
		return invalid(why, "numa_node %d: from -1 to %d", m->numa_node, MAX_NUMA_NODE);
	if (m->huge_page_bytes &&
	    (m->huge_page_bytes <= FERRYI_PAGE_SIZE || (m->huge_page_bytes & (m->huge_page_bytes - 1))))
		return invalid(why, "huge_page_bytes %llu is no page size",
			       (unsigned long long)m->huge_page_bytes);
	return 0;
}

static int check_pools_reply(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__PoolsReply *m = e->pools_reply;
	int rc = check_count(why, "pools", m->n_pools, FERRYI_MAX_POOLS);

	for (size_t i = 0; i < m->n_pools && rc == 0; i++)
		rc = check_pool_info(why, m->pools[i]);
	rc = rc ? rc : check_text(why, "user", m->user, FERRYI_MAX_USER);
	rc = rc ? rc : check_count(why, "quotas", m->n_quotas, FERRYI_MAX_QUOTA_KINDS);
	for (size_t i = 0; i < m->n_quotas && rc == 0; i++)
		rc = check_name(why, "quota", m->quotas[i]->name);
	return rc;
}

static int check_attach(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__AttachRequest *m = e->attach;
	int rc = m->pool[0] ? check_name(why, "pool", m->pool) : 0;

	if (rc || (rc = check_name(why, "fabric", m->fabric)) ||
	    (rc = m->type[0] ? check_name(why, "type", m->type) : 0) ||
	    (rc = m->name[0] ? check_name(why, "lease name", m->name) : 0) ||
	    (rc = m->heir_secret.len
			  ? check_bytes(why, "heir_secret", &m->heir_secret, FERRYI_HEIR_SECRET_LEN)
			  : 0))
		return rc;
	if (m->name[0] && m->heir_secret.len)
		return invalid(why, "a lease with a name has no heir");
	return check_granules(why, "size_bytes", m->size_bytes);
}

static int check_heir(const Farferry__Envelope *e, struct why *why)
{
	return check_bytes(why, "secret", &e->heir->secret, FERRYI_HEIR_SECRET_LEN);
}

static int check_claim(const Farferry__Envelope *e, struct why *why)
{
	int rc = check_bytes(why, "secret", &e->claim->secret, FERRYI_HEIR_SECRET_LEN);

	return rc ? rc : check_name(why, "fabric", e->claim->fabric);
}

static int check_lease_reply(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__LeaseReply *m = e->lease_reply;
	int rc;

	if ((rc = check_lease(why, m->lease_id, m->epoch)) || (rc = check_name(why, "fabric", m->fabric)) ||
	    (rc = check_text(why, "fabric_addr", m->fabric_addr, MAX_ADDR)) ||
	    (rc = check_bytes(why, "data_token", &m->data_token, FERRYI_AUTH_TOKEN_LEN)) ||
	    (rc = check_nonzero(why, "pool_size_bytes", m->pool_size_bytes)) ||
	    (rc = check_granules(why, "pool_size_bytes", m->pool_size_bytes)) ||
	    (rc = m->pool_type[0] ? check_name(why, "pool_type", m->pool_type) : 0) ||
	    (rc = m->name[0] ? check_name(why, "lease name", m->name) : 0) ||
	    (rc = check_count(why, "extents", m->n_extents, FERRYI_MAX_EXTENTS)))
		return rc;
	if (!m->fabric_addr[0])
		return invalid(why, "fabric_addr is empty");
	if (m->keep_ms && !m->name[0])
		return invalid(why, "keep_ms of a lease without a name");
	if (m->takes_heir && m->name[0])
		return invalid(why, "takes_heir of a lease with a name");
	if (m->kept_extents > m->n_extents)
		return invalid(why, "kept_extents %u of %zu extents", m->kept_extents, m->n_extents);
	for (size_t i = 0; i < m->n_extents; i++) {
		rc = check_extent(why, m->extents[i], m->pool_size_bytes);
		if (rc)
			return rc;
	}
	if (m->n_extents < 2)
		return 0;
	rc = check_disjoint(why, m);
	return rc ? rc : check_extent_ids(why, m);
}

static int check_grow(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__GrowRequest *m = e->grow;
	int rc;

	if ((rc = check_lease(why, m->lease_id, m->epoch)) ||
	    (rc = check_nonzero(why, "size_bytes", m->size_bytes)))
		return rc;
	return check_granules(why, "size_bytes", m->size_bytes);
}

static int check_shrink(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__ShrinkRequest *m = e->shrink;
	int rc = check_lease(why, m->lease_id, m->epoch);

	if (rc || (rc = check_count(why, "extent ids", m->n_extent_ids, FERRYI_MAX_EXTENTS)))
		return rc;
	if (m->n_extent_ids == 0)
		return invalid(why, "no extent is named");

	size_t size = m->n_extent_ids * sizeof(uint64_t);
	uint64_t *ids = malloc(size);

	if (!ids)
		return -ENOMEM;
	memcpy(ids, m->extent_ids, size);
	rc = check_distinct(why, "extent id", ids, m->n_extent_ids);
	free(ids);
	return rc;
}

static int check_detach(const Farferry__Envelope *e, struct why *why)
{
	return check_lease(why, e->detach->lease_id, e->detach->epoch);
}

static int check_keepalive(const Farferry__Envelope *e, struct why *why)
{
	return check_nonzero(why, "epoch", e->keepalive->epoch);
}

static int check_stats_reply(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__StatsReply *m = e->stats_reply;
	int rc = check_count(why, "statistics", m->n_stats, FERRYI_MAX_STATS);

	for (size_t i = 0; i < m->n_stats && rc == 0; i++) {
		rc = check_name(why, "statistic name", m->stats[i]->name);
		if (rc == 0)
			rc = check_text(why, "statistic text", m->stats[i]->text, FERRYI_MAX_TEXT);
	}
	return rc;
}

static int check_revoked(const Farferry__Envelope *e, struct why *why)
{
	int rc = check_nonzero(why, "lease_id", e->revoked->lease_id);

	return rc ? rc : check_text(why, "reason", e->revoked->reason, FERRYI_MAX_TEXT);
}

static int check_place(struct why *why, uint64_t extent_id, uint64_t off, uint64_t len_bytes)
{
	int rc = check_nonzero(why, "extent_id", extent_id);

	if (rc)
		return rc;
	if (!ferryi_is_aligned(off | len_bytes, FERRYI_PAGE_SIZE) || !len_bytes ||
	    !ferryi_range_ok(off, len_bytes, FERRYI_SECTION_SIZE))
		return invalid(why, "%llu bytes at %llu: not whole pages of an extent",
			       (unsigned long long)len_bytes, (unsigned long long)off);
	return 0;
}

static int check_failed(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__FailedNotice *m = e->failed;
	int rc = check_nonzero(why, "lease_id", m->lease_id);

	return rc ? rc : check_place(why, m->extent_id, m->off, m->len_bytes);
}

static int check_inject(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__InjectRequest *m = e->inject;
	int rc = check_lease(why, m->lease_id, m->epoch);

	return rc ? rc : check_place(why, m->extent_id, m->off, FERRYI_PAGE_SIZE);
}

static int check_drain(const Farferry__Envelope *e, struct why *why)
{
	if (e->drain->deadline_ms > MAX_MS)
		return invalid(why, "deadline_ms %u: at most %u", e->drain->deadline_ms, MAX_MS);
	return check_text(why, "reason", e->drain->reason, FERRYI_MAX_TEXT);
}

/* ---- views ---- */

/* Letters, digits and ._- of at most FERRYI_MAX_NAME; not empty. */
static int check_export_name(struct why *why, const char *name)
{
	int rc = check_name(why, "name", name);

	if (rc == 0 && strpbrk(name, ":;"))
		return invalid(why,
			       "name holds a character that is not allowed: letters, digits and ._- are");
	return rc;
}

static int check_perms(struct why *why, uint32_t perms)
{
	if (perms == 0 || (perms & ~(FERRYI_PERM_READ | FERRYI_PERM_WRITE)) != 0)
		return invalid(why, "perms %u: 1 is read, 2 write", perms);
	return 0;
}

static int check_export_request(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__ExportRequest *m = e->export_request;
	int rc;

	if ((rc = check_nonzero(why, "export_id", m->export_id)) || (rc = check_export_name(why, m->name)))
		return rc;
	return check_perms(why, m->perms);
}

static int check_unexport(const Farferry__Envelope *e, struct why *why)
{
	return check_nonzero(why, "export_id", e->unexport->export_id);
}

static int check_view_open(const Farferry__Envelope *e, struct why *why)
{
	return check_export_name(why, e->view_open->name);
}

static int check_view_reply(const Farferry__Envelope *e, struct why *why)
{
	int rc = check_nonzero(why, "view_id", e->view_reply->view_id);

	return rc ? rc : check_perms(why, e->view_reply->perms);
}

static int check_view_close(const Farferry__Envelope *e, struct why *why)
{
	return check_nonzero(why, "view_id", e->view_close->view_id);
}

static int check_one_access(struct why *why, const Farferry__ViewAccessRequest *m)
{
	int rc = check_nonzero(why, "view_id", m->view_id);

	if (rc)
		return rc;
	if (m->len_bytes == 0 || m->len_bytes > FERRYI_MAX_ACCESS)
		return invalid(why, "len_bytes %u: from 1 to %u", m->len_bytes, FERRYI_MAX_ACCESS);
	if (!ferryi_range_ok(m->va, m->len_bytes, UINT64_MAX))
		return invalid(why, "va wraps past the end of memory");
	if (m->data.len != 0 && m->data.len != m->len_bytes)
		return invalid(why, "data of %zu bytes for an access of %u", m->data.len, m->len_bytes);
	if (m->data.len != 0 && m->places)
		return invalid(why, "places are asked for by a write");
	if (m->timeout_ms == 0 || m->timeout_ms > MAX_MS)
		return invalid(why, "timeout_ms %u: from 1 to %u", m->timeout_ms, MAX_MS);
	return 0;
}

static int check_view_access(const Farferry__Envelope *e, struct why *why)
{
	return check_one_access(why, e->view_access);
}

static int check_one_reply(struct why *why, const Farferry__ViewAccessReply *m)
{
	int rc = check_count(why, "pages", m->n_pages, FERRYI_MAX_ACCESS_PAGES);

	if (rc)
		return rc;
	if (m->data.len > FERRYI_MAX_ACCESS)
		return invalid(why, "data of %zu bytes: at most %u", m->data.len, FERRYI_MAX_ACCESS);
	for (size_t i = 0; i < m->n_pages; i++) {
		const Farferry__ViewPage *page = m->pages[i];

		if (!ferryi_is_aligned(page->off, FERRYI_PAGE_SIZE) ||
		    !ferryi_range_ok(page->off, FERRYI_PAGE_SIZE, UINT64_MAX))
			return invalid(why, "off of page %zu is not that of a page", i);
		if (page->extent_id == 0 && (page->off != 0 || page->hash != 0))
			return invalid(why, "page %zu has a place, but no extent", i);
	}
	if (m->pages_ram > FERRYI_MAX_ACCESS_PAGES || m->pages_pool > FERRYI_MAX_ACCESS_PAGES ||
	    m->pages_populated > FERRYI_MAX_ACCESS_PAGES || m->pages_home > FERRYI_MAX_ACCESS_PAGES)
		return invalid(why, "it counts more than %u pages", FERRYI_MAX_ACCESS_PAGES);
	return 0;
}

static int check_view_access_reply(const Farferry__Envelope *e, struct why *why)
{
	return check_one_reply(why, e->view_access_reply);
}

static int check_view_extent(const Farferry__Envelope *e, struct why *why)
{
	int rc = check_nonzero(why, "view_id", e->view_extent->view_id);

	return rc ? rc : check_nonzero(why, "extent_id", e->view_extent->extent_id);
}

static int check_view_extent_reply(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__ViewExtentReply *m = e->view_extent_reply;
	int rc;

	if ((rc = check_name(why, "fabric", m->fabric)) ||
	    (rc = check_text(why, "fabric_addr", m->fabric_addr, MAX_ADDR)) ||
	    (rc = check_bytes(why, "data_token", &m->data_token, FERRYI_AUTH_TOKEN_LEN)) ||
	    (rc = check_nonzero(why, "len_bytes", m->len_bytes)) ||
	    (rc = check_granules(why, "len_bytes", m->len_bytes)) ||
	    (rc = check_count(why, "locations", m->n_locations, FERRYI_MAX_LOCATIONS)))
		return rc;
	if (!m->fabric_addr[0])
		return invalid(why, "fabric_addr is empty");
	if (m->n_locations == 0)
		return invalid(why, "the extent has no location");
	for (size_t i = 0; i < m->n_locations && rc == 0; i++)
		rc = check_location(why, m->locations[i], m->len_bytes);
	return rc;
}

static int check_access(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__AccessNotice *m = e->access;
	int rc;

	if ((rc = check_nonzero(why, "access_id", m->access_id)) ||
	    (rc = check_nonzero(why, "export_id", m->export_id)))
		return rc;
	return m->access ? check_one_access(why, m->access) : invalid(why, "access is missing");
}

static int check_access_answer(const Farferry__Envelope *e, struct why *why)
{
	const Farferry__AccessAnswer *m = e->access_answer;
	int rc = check_nonzero(why, "access_id", m->access_id);

	if (rc)
		return rc;
	if (!m->error == !m->reply)
		return invalid(why, "either error or reply");
	if (m->reply)
		return check_one_reply(why, m->reply);
	if (m->error->code == FARFERRY__CODE__CODE_OK)
		return invalid(why, "error without a code");
	return check_text(why, "text", m->error->text, FERRYI_MAX_TEXT);
}

static int check_drain_request(const Farferry__Envelope *e, struct why *why)
{
	uint32_t ms = e->drain_request->deadline_ms;

	return ms > MAX_MS ? invalid(why, "deadline_ms %u: at most %u", ms, MAX_MS) : 0;
}

/* ---- bodies ---- */

enum { TO_SERVER = 1 << FERRYI_ROLE_SERVER, TO_CLIENT = 1 << FERRYI_ROLE_CLIENT };
enum id_rule { ID_SET, ID_ZERO, ID_ANY };

static const struct body {
	const char *name;
	unsigned receivers;
	enum id_rule id;
	int (*check)(const Farferry__Envelope *e, struct why *why);
} bodies[] = {
	[FARFERRY__ENVELOPE__BODY_ERROR] = {"error", TO_CLIENT, ID_ANY, check_error},
	[FARFERRY__ENVELOPE__BODY_HELLO] = {"hello", TO_SERVER, ID_SET, check_hello},
	[FARFERRY__ENVELOPE__BODY_HELLO_REPLY] = {"hello_reply", TO_CLIENT, ID_SET, check_hello_reply},
	[FARFERRY__ENVELOPE__BODY_AUTH] = {"auth", TO_SERVER, ID_SET, check_auth},
	[FARFERRY__ENVELOPE__BODY_AUTH_REPLY] = {"auth_reply", TO_CLIENT, ID_SET, check_auth_reply},
	[FARFERRY__ENVELOPE__BODY_POOLS] = {"pools", TO_SERVER, ID_SET, check_nothing},
	[FARFERRY__ENVELOPE__BODY_POOLS_REPLY] = {"pools_reply", TO_CLIENT, ID_SET, check_pools_reply},
	[FARFERRY__ENVELOPE__BODY_ATTACH] = {"attach", TO_SERVER, ID_SET, check_attach},
	[FARFERRY__ENVELOPE__BODY_LEASE_REPLY] = {"lease_reply", TO_CLIENT, ID_SET, check_lease_reply},
	[FARFERRY__ENVELOPE__BODY_GROW] = {"grow", TO_SERVER, ID_SET, check_grow},
	[FARFERRY__ENVELOPE__BODY_SHRINK] = {"shrink", TO_SERVER, ID_SET, check_shrink},
	[FARFERRY__ENVELOPE__BODY_DETACH] = {"detach", TO_SERVER, ID_SET, check_detach},
	[FARFERRY__ENVELOPE__BODY_DONE] = {"done", TO_CLIENT, ID_SET, check_nothing},
	[FARFERRY__ENVELOPE__BODY_KEEPALIVE] = {"keepalive", TO_SERVER | TO_CLIENT, ID_SET, check_keepalive},
	[FARFERRY__ENVELOPE__BODY_STATS] = {"stats", TO_SERVER, ID_SET, check_nothing},
	[FARFERRY__ENVELOPE__BODY_STATS_REPLY] = {"stats_reply", TO_CLIENT, ID_SET, check_stats_reply},
	[FARFERRY__ENVELOPE__BODY_REVOKED] = {"revoked", TO_CLIENT, ID_ZERO, check_revoked},
	[FARFERRY__ENVELOPE__BODY_DRAIN] = {"drain", TO_CLIENT, ID_ZERO, check_drain},
	[FARFERRY__ENVELOPE__BODY_DRAIN_REQUEST] = {"drain_request", TO_SERVER, ID_SET, check_drain_request},
	[FARFERRY__ENVELOPE__BODY_FAILED] = {"failed", TO_CLIENT, ID_ZERO, check_failed},
	[FARFERRY__ENVELOPE__BODY_INJECT] = {"inject", TO_SERVER, ID_SET, check_inject},
	[FARFERRY__ENVELOPE__BODY_HEIR] = {"heir", TO_SERVER, ID_SET, check_heir},
	[FARFERRY__ENVELOPE__BODY_CLAIM] = {"claim", TO_SERVER, ID_SET, check_claim},
	[FARFERRY__ENVELOPE__BODY_EXPORT_REQUEST] = {"export", TO_SERVER, ID_SET, check_export_request},
	[FARFERRY__ENVELOPE__BODY_UNEXPORT] = {"unexport", TO_SERVER, ID_SET, check_unexport},
	[FARFERRY__ENVELOPE__BODY_VIEW_OPEN] = {"view_open", TO_SERVER, ID_SET, check_view_open},
	[FARFERRY__ENVELOPE__BODY_VIEW_REPLY] = {"view_reply", TO_CLIENT, ID_SET, check_view_reply},
	[FARFERRY__ENVELOPE__BODY_VIEW_CLOSE] = {"view_close", TO_SERVER, ID_SET, check_view_close},
	[FARFERRY__ENVELOPE__BODY_VIEW_ACCESS] = {"view_access", TO_SERVER, ID_SET, check_view_access},
	[FARFERRY__ENVELOPE__BODY_VIEW_ACCESS_REPLY] = {"view_access_reply", TO_CLIENT, ID_SET,
							check_view_access_reply},
	[FARFERRY__ENVELOPE__BODY_VIEW_EXTENT] = {"view_extent", TO_SERVER, ID_SET, check_view_extent},
	[FARFERRY__ENVELOPE__BODY_VIEW_EXTENT_REPLY] = {"view_extent_reply", TO_CLIENT, ID_SET,
							check_view_extent_reply},
	[FARFERRY__ENVELOPE__BODY_ACCESS] = {"access", TO_CLIENT, ID_ZERO, check_access},
	[FARFERRY__ENVELOPE__BODY_ACCESS_ANSWER] = {"access_answer", TO_SERVER, ID_ZERO, check_access_answer},
};

#define NBODIES (sizeof(bodies) / sizeof(bodies[0]))

static const struct body *body_of(Farferry__Envelope__BodyCase body)
{
	if ((size_t)body >= NBODIES || !bodies[body].name)
		return NULL;
	return &bodies[body];
}

const char *ferryi_body_name(Farferry__Envelope__BodyCase body)
{
	const struct body *row = body_of(body);

	return row ? row->name : "unknown";
}

int ferryi_validate(enum ferryi_role receiver, const Farferry__Envelope *envelope, char *why_text,
		    size_t why_len)
{
	const struct body *row = body_of(envelope->body_case);
	char detail[256] = "";
	struct why why = {detail, sizeof(detail)};
	struct why whole = {why_text, why_len};
	int rc;

	if (!row) {
		invalid(&whole, "envelope has no body that this version knows");
		return -EPROTO;
	}
	if (!(row->receivers & (1u << receiver)))
		return invalid(&whole, "a %s takes no '%s' message",
			       receiver == FERRYI_ROLE_SERVER ? "server" : "client", row->name);
	if (row->id == ID_SET && envelope->request_id == 0)
		return invalid(&whole, "%s: request_id is 0, which is for notices", row->name);
	if (row->id == ID_ZERO && envelope->request_id != 0)
		return invalid(&whole, "%s: a notice has request_id 0", row->name);

	rc = row->check(envelope, &why);
	if (rc == -ENOMEM)
		invalid(&whole, "%s: out of memory", row->name);
	else if (rc)
		invalid(&whole, "%s: %s", row->name, detail);
	return rc;
}
