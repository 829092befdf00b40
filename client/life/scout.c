/* See scout.h. */
#include "scout.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "discover.h"
#include "error.h"
#include "etcd.h"
#include "life.h"
#include "log.h"
#include "thread.h"

#define LOOK_MS	     10000 /* between two looks, where nobody tells of changes ... */
#define LOOK_MIN_MS  500   /* ... the first, after something was amiss */
#define WATCH_MS     30000 /* a watch is begun anew: who knows whether the other end still lives */
#define WATCH_GAP_MS 500   /* after a change: others may follow */
#define CALL_MS	     5000

/* len_bytes: what it must have at once. */
static int attach_url(struct ferry *ferry, const char *url, uint64_t len_bytes, struct ferry_pool **pool)
{
	/* Any type that pages can go to. */
	struct ferry_pool_attr attr = { .size = sizeof(attr), .pool = ferry->config.pool, .len_bytes = len_bytes };
	struct ferryi_session *session;
	int rc = ferryi_session_for(ferry, url, &session);

	return rc ? rc : ferryi_attach(ferry, session, &attr, pool);
}

/* ---- at open ---- */

/* A server that is only away: a wrong URL, secret or pool is an error all the same. */
static bool is_away(int rc)
{
	return rc == -EHOSTUNREACH || rc == -ECONNREFUSED || rc == -ETIMEDOUT || rc == -ENOTCONN || rc == -ESHUTDOWN;
}

struct attached {
	unsigned nr;
	int rc; /* of the last that was left out */
};

/* Each server's part of what is reserved: of those that are named, one by one. 0, or -EINVAL with a line. */
static int reserve_each(const struct ferry *ferry, uint64_t *each_bytes)
{
	const char *at = ferry->config.servers;
	uint64_t n = 0, each;

	*each_bytes = 0;
	if (!ferry->config.reserve_bytes)
		return 0;
	if (ferry->config.servers_optional)
		return ferryi_control_fail(-EINVAL, "reserve: one of the servers may be missing (FERRY_SERVERS_OPTIONAL), and its part "
					   "with it: give one of the two");
	for (at += strspn(at, ", "); *at; at += strspn(at, ", ")) {
		if (ferryi_is_discovery(at))
			return ferryi_control_fail(-EINVAL, "reserve: is divided among servers that are named one by one, not found: "
						   "name them in FERRY_SERVERS, or leave FERRY_RESERVE out");
		at += strcspn(at, ", ");
		n++;
	}
	each = ferry->config.reserve_bytes / ferryi_max_u64(n, 1);
	/* No size is that large, and rounding up would wrap. */
	*each_bytes = each > UINT64_MAX / 2 ? ferryi_align_down(each, FERRY_SUBSECTION) : ferryi_align_up(each, FERRY_SUBSECTION);
	return 0;
}

/* One that may be away is left out, with a warning. */
static int attach_one(struct ferry *ferry, const char *url, uint64_t len_bytes, bool may_be_away, struct attached *sum)
{
	struct ferry_pool *pool;
	int rc = attach_url(ferry, url, len_bytes, &pool);

	sum->nr += !rc;
	if (!rc || !may_be_away || !is_away(rc))
		return rc;
	ferryi_warn("servers: %s is left out: %s", url, ferryi_control_last_error());
	sum->rc = rc;
	return 0;
}

/* What is found may have gone meanwhile; so many as this process can use. */
static int attach_found(struct ferry *ferry, const char *source, struct attached *sum)
{
	struct ferryi_servers *found = ferryi_arena_alloc(ferry->arena, sizeof(*found));
	char err[FERRYI_DISCOVER_ERR_LEN];
	int rc;

	if (!found)
		return ferryi_control_fail(-ENOMEM, "servers: no memory for a list of them");
	rc = ferryi_discover(source, ferryi_deadline_ms(ferry->config.request_timeout_ms), -1, found, err, sizeof(err));
	if (rc)
		rc = ferryi_control_fail(rc == -ENOENT ? -EHOSTUNREACH : rc, "servers: %s", err);
	if (is_away(rc) && ferry->config.servers_optional) {
		ferryi_warn("%s", err);
		sum->rc = rc;
		rc = 0;
	}
	for (unsigned i = 0; i < found->nr && !rc && sum->nr < FERRYI_MAX_SERVERS; i++)
		rc = attach_one(ferry, found->url[i], 0, true, sum);
	if (found->nr_bad)
		ferryi_warn("servers: %s: %u entries hold no server's address; they are passed over", source, found->nr_bad);
	if (found->nr > FERRYI_MAX_SERVERS)
		ferryi_warn("servers: %s has %u of them, a process uses %u at most", source, found->nr, FERRYI_MAX_SERVERS);
	ferryi_arena_free(ferry->arena, found, sizeof(*found));
	return rc;
}

static int copy_list(const struct ferry *ferry, char *list, size_t len)
{
	if (strlen(ferry->config.servers) >= len)
		return ferryi_control_fail(-EINVAL, "servers: the list is longer than %zu characters", len - 1);
	strcpy(list, ferry->config.servers);
	return 0;
}

/* An embedded server is one. */
static int attach_embedded(struct ferry *ferry)
{
	struct ferry_pool *pool;

	if (ferry->config.replicas > 1)
		return ferryi_control_fail(-EINVAL, "replicas: %llu copies of each page need as many servers, and none is "
					   "named (an embedded one is one)", (unsigned long long)ferry->config.replicas);
	return attach_url(ferry, ferryi_embedded_url(ferry->embedded), 0, &pool);
}

static int replicate_all(struct ferry *ferry)
{
	int rc = 0;

	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED && !rc; i++) {
		struct ferry_pool *pool = atomic_load(&ferry->pools[i]);

		if (pool)
			rc = ferryi_replicate(ferry, pool);
	}
	return rc;
}

int ferryi_scout_attach(struct ferry *ferry)
{
	struct attached sum = { 0 };
	char list[4096], *save = NULL;
	uint64_t each = 0;
	int rc;

	if (ferry->embedded)
		return attach_embedded(ferry);
	rc = copy_list(ferry, list, sizeof(list));
	if (!rc)
		rc = reserve_each(ferry, &each);
	for (char *url = rc ? NULL : strtok_r(list, ", ", &save); url && !rc; url = strtok_r(NULL, ", ", &save))
		rc = ferryi_is_discovery(url) ? attach_found(ferry, url, &sum) :
						attach_one(ferry, url, each, ferry->config.servers_optional, &sum);
	if (!rc && !sum.nr && sum.rc) {
		char line[512];

		snprintf(line, sizeof(line), "%s", ferryi_control_last_error());
		return ferryi_control_fail(sum.rc, "servers: none of \"%s\" can be reached: %s", ferry->config.servers, line);
	}
	if (!rc && !sum.nr)
		rc = ferryi_control_fail(-EINVAL, "servers: \"%s\" names no server", ferry->config.servers);
	return rc ? rc : replicate_all(ferry);
}

/* ---- afterwards ---- */

/*
 * There is a session; or was, and with copies that one is reopened elsewhere (servers.c). Whether it has a pool, or the
 * application has detached that, is no news.
 */
static bool is_known_locked(struct ferry *ferry, const char *url)
{
	for (unsigned i = 0; i < ferry->nr_sessions; i++) {
		if (strcmp(ferry->urls[i], url) == 0 &&
		    (ferry->config.replicas > 1 || ferryi_session_state(ferry->sessions[i]) != FERRYI_SESSION_LOST))
			return true;
	}
	return false;
}

/* The first time that it is said of this server, as far as that can be remembered. */
static bool is_told(struct ferryi_scout *scout, const char *url)
{
	const unsigned max = sizeof(scout->told) / sizeof(scout->told[0]);

	for (unsigned i = 0; i < scout->nr_told && i < max; i++) {
		if (strcmp(scout->told[i], url) == 0)
			return true;
	}
	snprintf(scout->told[scout->nr_told++ % max], sizeof(scout->told[0]), "%s", url);
	return false;
}

/* Its copies (FERRY_REPLICAS) are elsewhere; they are looked for later too, where some are missing. */
static int attach_whole_locked(struct ferry *ferry, const char *url)
{
	struct ferry_pool *pool;
	int rc = attach_url(ferry, url, 0, &pool);

	return rc ? rc : ferryi_replicate(ferry, pool);
}

static void attach_new(struct ferry *ferry, const char *url)
{
	ferryi_mutex_lock(&ferry->lock);
	bool is_new = !is_known_locked(ferry, url) && ferry->nr_sessions < FERRYI_MAX_SERVERS;
	int rc = is_new ? attach_whole_locked(ferry, url) : 0;

	ferryi_mutex_unlock(&ferry->lock);
	if (is_new && !rc)
		ferryi_info("servers: %s has come and is attached", url);
	ferry->scout.is_amiss |= rc != 0;
	if (rc && !is_told(&ferry->scout, url))
		ferryi_warn("servers: %s cannot be attached (now): %s", url, ferryi_control_last_error());
}

static bool is_stopping(const struct ferryi_scout *scout, int wait_ms)
{
	struct pollfd pfd = { .fd = scout->stop_fd, .events = POLLIN };

	return poll(&pfd, 1, wait_ms) > 0;
}

static void look_at(struct ferry *ferry, const char *source, struct ferryi_servers *found)
{
	struct ferryi_scout *scout = &ferry->scout;
	char err[FERRYI_DISCOVER_ERR_LEN];
	int rc = 0;

	if (ferryi_is_discovery(source)) {
		rc = ferryi_discover(source, ferryi_deadline_ms(CALL_MS), scout->stop_fd, found, err, sizeof(err));
		if (rc == -ECANCELED)
			return;
		if (rc && !scout->list_failed)
			ferryi_warn("servers: %s; the servers that are attached stay", err);
		scout->list_failed = rc != 0;
		scout->is_amiss |= scout->list_failed;
		for (unsigned i = 0; i < found->nr && !is_stopping(scout, 0); i++)
			attach_new(ferry, found->url[i]);
	} else {
		attach_new(ferry, source);
	}
}

/* Until the first etcd of the list tells of a change, or it is time to look again. */
static void wait_for_news(struct ferry *ferry, const char *etcd_url, struct ferryi_servers *found)
{
	struct ferryi_scout *scout = &ferry->scout;
	char err[FERRYI_DISCOVER_ERR_LEN];
	struct ferryi_etcd etcd;
	int64_t revision;
	int rc = -EINVAL;

	if (etcd_url && !ferryi_etcd_parse(etcd_url, &etcd, err, sizeof(err)))
		rc = ferryi_etcd_list(&etcd, ferryi_deadline_ms(CALL_MS), scout->stop_fd, found, &revision, err, sizeof(err));
	for (unsigned i = 0; !rc && i < found->nr && !is_stopping(scout, 0); i++)
		attach_new(ferry, found->url[i]); /* what has come since the look is in this list, or in the watch */
	if (!rc)
		rc = ferryi_etcd_watch(&etcd, revision, ferryi_deadline_ms(scout->is_amiss ? LOOK_MS : WATCH_MS), scout->stop_fd, err, sizeof(err));
	if (!rc) {
		is_stopping(scout, WATCH_GAP_MS);
	} else if (rc != -ETIMEDOUT && rc != -ECANCELED) {
		is_stopping(scout, scout->wait_ms);
		scout->wait_ms = scout->wait_ms < LOOK_MS / 2 ? 2 * scout->wait_ms : LOOK_MS;
	}
}

static void *scout_main(void *arg)
{
	struct ferry *ferry = arg;
	struct ferryi_servers *found = ferryi_arena_alloc(ferry->arena, sizeof(*found));
	char list[4096], etcd[320];

	pthread_setname_np(pthread_self(), "ferry-scout");
	ferry->scout.wait_ms = LOOK_MIN_MS;
	while (found && !is_stopping(&ferry->scout, 0) && !copy_list(ferry, list, sizeof(list))) {
		char *save = NULL;

		ferry->scout.is_amiss = false;
		etcd[0] = '\0';
		for (char *url = strtok_r(list, ", ", &save); url; url = strtok_r(NULL, ", ", &save)) {
			bool is_etcd = strncmp(url, "etcd://", 7) == 0;

			if (is_etcd && !etcd[0])
				snprintf(etcd, sizeof(etcd), "%s", url);
			else
				look_at(ferry, url, found);
			if (is_stopping(&ferry->scout, 0))
				break;
		}
		wait_for_news(ferry, etcd[0] ? etcd : NULL, found);
	}
	if (found)
		ferryi_arena_free(ferry->arena, found, sizeof(*found));
	return NULL;
}

/* Servers may appear later: a source of them is named, or one that is named may be away. */
static bool is_worth_scouting(const struct ferry *ferry)
{
	const char *servers = ferry->config.servers;

	return !ferry->embedded && (ferry->config.servers_optional || strstr(servers, "etcd://") || strstr(servers, "ferry+srv://"));
}

void ferryi_scout_start(struct ferry *ferry)
{
	struct ferryi_scout *scout = &ferry->scout;

	if (!is_worth_scouting(ferry))
		return;
	scout->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (scout->stop_fd >= 0 && ferryi_thread_start(&scout->thread, scout_main, ferry) == 0) {
		scout->is_running = true;
		return;
	}
	ferryi_warn("servers: no thread to look for more of them; those that are attached will do");
	if (scout->stop_fd >= 0)
		close(scout->stop_fd);
}

void ferryi_scout_stop(struct ferry *ferry)
{
	struct ferryi_scout *scout = &ferry->scout;
	uint64_t one = 1;

	if (!scout->is_running)
		return;
	scout->is_running = false;
	while (write(scout->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	pthread_join(scout->thread, NULL);
	close(scout->stop_fd);
}
