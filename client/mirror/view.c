/* See view.h. */
#include "view.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "arith.h"
#include "clock.h"
#include "error.h"
#include "log.h"
#include "view_pool.h"

#define VIEW_MAGIC 0x56494557u /* "VIEW" */
#define TRIES	   3u	       /* to read pages in the pool while they move; then the exporter reads them */
#define PAUSE_MS   16	       /* at most, while the exporter has too many accesses under way */
#define HOLD_MS	   1000u       /* the first time that the pool cannot be read; doubled each time */
#define HOLD_MAX_MS 600000u

struct ferry_mirror_view {
	/* immutable */
	uint32_t magic;
	struct ferryi_mirrors *mirrors;
	struct ferryi_arena *arena;
	struct ferryi_session *session;
	uint64_t id;
	unsigned perms;
	/* protected by lock: one access at a time */
	struct ferryi_mutex lock;
	struct ferryi_view_pool pool;
	/* The pool could not be read from here, for want of a way: not tried again before this. */
	uint64_t by_exporter_until_ns;
	uint64_t hold_ms; /* 0: it could the last time */
	uint8_t data[FERRYI_ACCESS_MAX]; /* what goes to the exporter or comes from it: never the caller's memory, which may be managed */
	uint8_t pages[FERRYI_ACCESS_PAGES * FERRYI_PAGE_SIZE] __attribute__((aligned(FERRYI_PAGE_SIZE)));
};

/* ---- life ---- */

int ferryi_view_check(const struct ferry_mirror_view *view, const char *call)
{
	if (!view || view->magic != VIEW_MAGIC)
		return ferryi_control_fail(-EINVAL, "%s: not an open view", call);
	return 0;
}

struct ferry *ferryi_view_ferry(const struct ferry_mirror_view *view)
{
	return view->mirrors->ferry;
}

static void count_views(struct ferryi_mirrors *mirrors, int step)
{
	ferryi_mutex_lock(&mirrors->lock);
	mirrors->nr_views += (unsigned)step;
	ferryi_mutex_unlock(&mirrors->lock);
}

int ferryi_view_open(struct ferryi_mirrors *mirrors, struct ferryi_arena *arena, struct ferryi_session *session,
		     const char *name, struct ferry_mirror_view **out)
{
	struct ferry_mirror_view *view;
	uint64_t id;
	unsigned perms;
	int rc;

	if (!name || !name[0] || !out)
		return ferryi_control_fail(-EINVAL, "mirror_open: no name, or no place for the view");
	rc = ferryi_session_view_open(session, name, &id, &perms);
	if (rc)
		return rc;
	view = ferryi_arena_alloc(arena, sizeof(*view));
	if (!view) {
		ferryi_session_view_close(session, id);
		return ferryi_control_fail(-ENOMEM, "mirror_open: no memory for the library's own tables");
	}
	view->magic = VIEW_MAGIC;
	view->mirrors = mirrors;
	view->arena = arena;
	view->session = session;
	view->id = id;
	view->perms = perms;
	ferryi_mutex_init(&view->lock, FERRYI_RANK_VIEW);
	view->pool.session = session;
	view->pool.view_id = id;
	view->pool.pages = view->pages;
	count_views(mirrors, 1);
	*out = view;
	return 0;
}

int ferryi_view_close(struct ferry_mirror_view *view)
{
	int rc = ferryi_view_check(view, "view_close");

	if (rc)
		return rc;
	view->magic = 0;
	ferryi_view_pool_close(&view->pool);
	/* A session that is lost has ended it; one that does not answer will. */
	if (ferryi_session_state(view->session) != FERRYI_SESSION_LOST && ferryi_session_view_close(view->session, view->id))
		ferryi_warn("view_close: the server was not told: %s", ferryi_control_last_error());
	count_views(view->mirrors, -1);
	ferryi_mutex_fini(&view->lock);
	ferryi_arena_free(view->arena, view, sizeof(*view));
	return 0;
}

/* ---- one piece of an access ---- */

struct piece {
	uintptr_t va;
	size_t len;
	uint8_t *read_to; /* NULL: a write, whose bytes are in the view's data */
	uint64_t deadline_ns;
	struct ferry_mirror_stats *stats;
};

static void count(struct ferry_mirror_stats *stats, const struct ferryi_access_result *result, unsigned by_rma)
{
	if (!stats)
		return;
	stats->rounds += result->rounds;
	stats->pages_ram += result->pages_ram;
	stats->pages_pool += result->pages_pool;
	stats->pages_populated += result->pages_populated;
	stats->pages_home += result->pages_home;
	stats->pages_rma += by_rma;
}

/* Asks the exporter; again while it is busy. */
static int ask_locked(struct ferry_mirror_view *view, const struct piece *p, bool places, struct ferryi_access_result *result)
{
	int pause_ms = 1, rc;

	do {
		result->data = view->data;
		rc = ferryi_session_view_access(view->session, view->id, p->va, p->len, p->read_to ? NULL : view->data, places,
						p->deadline_ns, result);
		if (rc == -EBUSY) {
			poll(NULL, 0, pause_ms);
			pause_ms = pause_ms < PAUSE_MS ? 2 * pause_ms : PAUSE_MS;
		}
	} while (rc == -EBUSY && ferryi_now_ns() < p->deadline_ns);
	return rc == -EBUSY ? ferryi_control_fail(-ETIMEDOUT, "view: the exporter had too many accesses under way all the time") : rc;
}

/* The pages to the caller, from the answer's bytes and from what was read. ASSUMPTION: the answer was checked (is_whole). */
static void deliver_locked(const struct ferry_mirror_view *view, const struct piece *p, const struct ferryi_access_result *result)
{
	const uint8_t *data = view->data;

	for (size_t done = 0, i = 0; done < p->len; i++) {
		size_t off = (p->va + done) % FERRYI_PAGE_SIZE;
		size_t n = ferryi_min_u64(FERRYI_PAGE_SIZE - off, p->len - done);

		if (result->page[i].extent_id) {
			memcpy(p->read_to + done, view->pages + i * FERRYI_PAGE_SIZE + off, n);
		} else {
			memcpy(p->read_to + done, data, n);
			data += n;
		}
		done += n;
	}
}

static void hold_locked(struct ferry_mirror_view *view)
{
	if (!view->hold_ms)
		ferryi_notice("view: pages in the pool are read through the exporter for now: %s", ferryi_control_last_error());
	view->hold_ms = view->hold_ms ? ferryi_min_u64(2 * view->hold_ms, HOLD_MAX_MS) : HOLD_MS;
	view->by_exporter_until_ns = ferryi_deadline_ms(view->hold_ms);
}

/*
 * The pages of the answer that are in a pool. 0: *all says whether each was had; if not, the exporter is asked again, and
 * says what there is to say: that it has withdrawn the mirror, that it is gone. It has half of the time left for that.
 * -EPROTO: it is no use to ask.
 */
static int fetch_locked(struct ferry_mirror_view *view, const struct piece *p, const struct ferryi_access_result *result,
			unsigned *by_rma, bool *all)
{
	uint64_t now_ns = ferryi_now_ns(), left_ns = p->deadline_ns > now_ns ? p->deadline_ns - now_ns : 0;
	uint32_t want = 0, good = 0;
	int rc;

	for (unsigned i = 0; i < result->npages; i++)
		want |= result->page[i].extent_id ? 1u << i : 0;
	*by_rma = (unsigned)__builtin_popcount(want);
	*all = true;
	if (!want)
		return 0;
	rc = ferryi_view_pool_read(&view->pool, result->page, result->npages, now_ns + left_ns / 2, &good);
	*all = !rc && good == want;
	if (rc == -EPROTO)
		return rc;
	if (!rc)
		view->hold_ms = 0;
	else if (rc != -EBUSY && rc != -ESHUTDOWN)
		hold_locked(view);
	return 0;
}

static int read_piece_locked(struct ferry_mirror_view *view, const struct piece *p)
{
	for (unsigned attempt = 0;; attempt++) {
		bool places = attempt < TRIES && ferryi_now_ns() >= view->by_exporter_until_ns, all;
		struct ferryi_access_result result;
		unsigned by_rma;
		int rc = ask_locked(view, p, places, &result);

		if (!rc && !places)
			for (unsigned i = 0; i < result.npages; i++)
				if (result.page[i].extent_id)
					rc = ferryi_control_fail(-EPROTO, "view: the exporter named places unasked");
		if (!rc)
			rc = fetch_locked(view, p, &result, &by_rma, &all);
		if (rc)
			return rc;
		if (all) {
			count(p->stats, &result, by_rma);
			deliver_locked(view, p, &result);
			return 0;
		}
	}
}

static int write_piece_locked(struct ferry_mirror_view *view, const struct piece *p)
{
	struct ferryi_access_result result;
	int rc = ask_locked(view, p, false, &result);

	if (!rc)
		count(p->stats, &result, 0);
	return rc;
}

/* ---- an access ---- */

static int check_args(const struct ferry_mirror_view *view, const char *call, uintptr_t va, const void *buf, size_t len,
		      unsigned need, const struct ferry_mirror_stats *stats)
{
	int rc = ferryi_view_check(view, call);

	if (rc)
		return rc;
	if ((len && !buf) || va + len < va)
		return ferryi_control_fail(-EINVAL, "%s: no buffer, or the range wraps round", call);
	if (stats && stats->size < sizeof(*stats))
		return ferryi_control_fail(-EINVAL, "%s: set stats.size to sizeof(struct ferry_mirror_stats)", call);
	if (!(view->perms & need))
		return ferryi_control_fail(-EPERM, "%s: the mirror is not exported for %s", call,
					   need == FERRYI_EXPORT_WRITE ? "writing" : "reading");
	return 0;
}

static int access_view(struct ferry_mirror_view *view, uintptr_t va, uint8_t *read_to, const uint8_t *write_from, size_t len,
		       struct ferry_mirror_stats *stats)
{
	int rc = 0;

	for (size_t done = 0; done < len && !rc;) {
		struct piece p = { .va = va + done,
				   .len = ferryi_min_u64(len - done, FERRYI_ACCESS_MAX),
				   .read_to = read_to ? read_to + done : NULL,
				   .deadline_ns = ferryi_deadline_ms(ferryi_session_request_ms(view->session)),
				   .stats = stats };

		ferryi_mutex_lock(&view->lock);
		if (write_from) {
			memcpy(view->data, write_from + done, p.len);
			rc = write_piece_locked(view, &p);
		} else {
			rc = read_piece_locked(view, &p);
		}
		ferryi_mutex_unlock(&view->lock);
		if (!rc && stats)
			stats->bytes += p.len;
		done += p.len;
	}
	return rc;
}

int ferryi_view_read(struct ferry_mirror_view *view, uintptr_t va, void *buf, size_t len, struct ferry_mirror_stats *stats)
{
	int rc = check_args(view, "view_read", va, buf, len, FERRYI_EXPORT_READ, stats);

	return rc ? rc : access_view(view, va, buf, NULL, len, stats);
}

int ferryi_view_write(struct ferry_mirror_view *view, uintptr_t va, const void *buf, size_t len,
		      struct ferry_mirror_stats *stats)
{
	int rc = check_args(view, "view_write", va, buf, len, FERRYI_EXPORT_WRITE, stats);

	return rc ? rc : access_view(view, va, NULL, buf, len, stats);
}
