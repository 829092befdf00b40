/*
 * A pool: sections, backing and scrubber tied together. See pool.h.
 * Threads: any thread takes and gives back; the scrubber thread zeroes. The
 * lock covers the map and the counts only: memory is mapped, allocated and
 * zeroed without it.
 */
#include "pool.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "arith.h"
#include "backing.h"
#include "book.h"
#include "clock.h"
#include "heir.h"
#include "lock.h"
#include "log.h"
#include "mce.h"
#include "sections.h"

#define SCRUB_RETRY_MS 1000

struct ferryi_pool {
	/* immutable */
	struct ferryi_pool_spec spec;
	const struct ferryi_backing *backing;
	void *handle;
	struct ferryi_book *book; /* of a file: leases with a name outlive the server; else NULL */
	pthread_t scrubber;

	struct ferryi_mutex lock; /* FERRYI_RANK_SERVER_POOL */
	/* protected by lock */
	uint64_t size_bytes;
	struct ferryi_sections sections;
	struct ferryi_pool_extent *dirty_head, **dirty_tail; /* to be scrubbed, oldest first */
	uint64_t leased_bytes, scrub_bytes;
	uint64_t kept_bytes;	 /* of leased_bytes: a name's that nobody holds */
	struct ferryi_kept kept; /* without a book: the names */
	uint64_t scrubbed_bytes_total, scrub_ns_total;
	bool stop;
	pthread_cond_t work;  /* dirty list or kept grew, or stop */
	pthread_cond_t clean; /* scrub_bytes shrank */
};

struct scrub {
	struct ferryi_pool *pool;
	struct ferryi_pool_extent *extent;
};

static int scrub_work(void *ctx)
{
	const struct scrub *scrub = ctx;

	return scrub->pool->backing->scrub(scrub->pool->handle, scrub->extent);
}

/* One attempt. An extent that turns out to have failed is replaced by the next. */
static int try_scrub(struct ferryi_pool *pool, struct ferryi_pool_extent *extent)
{
	struct scrub scrub = {.pool = pool, .extent = extent};
	int rc = ferryi_mce_guard(scrub_work, &scrub);

	if (rc != -EHWPOISON || extent->failed)
		return rc;
	extent->failed = true;
	return ferryi_mce_guard(scrub_work, &scrub);
}

/* Until it is zero: memory that others took meanwhile stays out of use until it can be had again. 0,
 * -EHWPOISON: it never will be, -ECANCELED: stop. */
static int scrub_until_clean(struct ferryi_pool *pool, struct ferryi_pool_extent *extent)
{
	bool warned = false, stop = false;
	int rc;

	while ((rc = try_scrub(pool, extent)) && rc != -EHWPOISON && !stop) {
		if (!warned)
			ferryi_warn(
				"pool %s: %zu bytes cannot be taken back yet: %s; trying again every second",
				pool->spec.name, extent->memory.len_bytes, ferryi_strerror(rc));
		warned = true;
		ferryi_mutex_lock(&pool->lock);
		if (!pool->stop)
			ferryi_cond_wait_until(&pool->work, &pool->lock, ferryi_deadline_ms(SCRUB_RETRY_MS));
		stop = pool->stop;
		ferryi_mutex_unlock(&pool->lock);
	}
	return stop ? -ECANCELED : rc;
}

static void scrub_one(struct ferryi_pool *pool, struct ferryi_pool_extent *extent)
{
	const size_t len_bytes = extent->memory.len_bytes;
	uint64_t begin = ferryi_now_ns();
	int rc = scrub_until_clean(pool, extent);

	if (rc == -EHWPOISON)
		ferryi_error(
			"pool %s: %zu bytes at %llu have failed: out of use until the memory is replaced",
			pool->spec.name, len_bytes, (unsigned long long)extent->pool_off);
	ferryi_mutex_lock(&pool->lock);
	pool->scrub_bytes -= len_bytes;
	if (rc != -EHWPOISON) {
		pool->scrubbed_bytes_total += len_bytes;
		pool->scrub_ns_total += ferryi_now_ns() - begin;
		ferryi_sections_release(&pool->sections, extent->pool_off >> FERRYI_SUBSECTION_SHIFT,
					len_bytes >> FERRYI_SUBSECTION_SHIFT);
	}
	pthread_cond_broadcast(&pool->clean);
	ferryi_mutex_unlock(&pool->lock);
	free(extent);
}

static uint64_t bytes_of(const struct ferryi_pool_extent *list)
{
	uint64_t bytes = 0;

	for (; list; list = list->next)
		bytes += list->memory.len_bytes;
	return bytes;
}

static void give_back_locked(struct ferryi_pool *pool, struct ferryi_pool_extent *list)
{
	ferryi_assert_held(&pool->lock);
	*pool->dirty_tail = list;
	for (; list; list = list->next) {
		ferryi_pool_refund(list);
		pool->leased_bytes -= list->memory.len_bytes;
		pool->scrub_bytes += list->memory.len_bytes;
		pool->dirty_tail = &list->next;
	}
	pthread_cond_signal(&pool->work);
}

/* Kept memory that nobody has come for is to be scrubbed; when to look again. */
static uint64_t expire_locked(struct ferryi_pool *pool)
{
	struct ferryi_pool_extent *list;
	uint64_t now_ns = pool->stop ? UINT64_MAX : ferryi_now_ns(), next_ns;

	ferryi_assert_held(&pool->lock);
	while ((list = ferryi_kept_expire(&pool->kept, now_ns, &next_ns))) {
		uint64_t bytes = bytes_of(list);

		ferryi_info("pool %s: nobody came for a kept lease of %llu bytes: it is given up",
			    pool->spec.name, (unsigned long long)bytes);
		pool->kept_bytes -= bytes;
		give_back_locked(pool, list);
	}
	return next_ns;
}

static void *scrubber_main(void *arg)
{
	struct ferryi_pool *pool = arg;

	pthread_setname_np(pthread_self(), "ferry-scrub");
	ferryi_mutex_lock(&pool->lock);
	for (;;) {
		uint64_t next_ns = expire_locked(pool);
		struct ferryi_pool_extent *extent = pool->dirty_head;

		if (!extent) {
			if (pool->stop)
				break;
			/* Bounded only because every wait is; nothing is missed. */
			next_ns = ferryi_min_u64(next_ns, ferryi_deadline_ms(60 * 1000));
			ferryi_cond_wait_until(&pool->work, &pool->lock, next_ns);
			continue;
		}
		pool->dirty_head = extent->next;
		if (!pool->dirty_head)
			pool->dirty_tail = &pool->dirty_head;
		ferryi_mutex_unlock(&pool->lock);
		scrub_one(pool, extent);
		ferryi_mutex_lock(&pool->lock);
	}
	ferryi_mutex_unlock(&pool->lock);
	return NULL;
}

static int start_scrubber(struct ferryi_pool *pool)
{
	sigset_t all, before;
	int rc;

	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&pool->scrubber, NULL, scrubber_main, pool);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -rc;
}

static void take_span(void *ctx, const struct ferryi_span *span)
{
	struct ferryi_pool *pool = ctx;

	ferryi_sections_take_at(&pool->sections, (size_t)(span->off >> FERRYI_SUBSECTION_SHIFT),
				(size_t)(span->len_bytes >> FERRYI_SUBSECTION_SHIFT));
	pool->leased_bytes += span->len_bytes;
	pool->kept_bytes += span->len_bytes;
}

/* The names of the pool's file, and what they have. The file is there and locked. */
static int open_book(struct ferryi_pool *pool, char *err, size_t err_len)
{
	int rc = ferryi_book_open(pool->spec.path, pool->spec.size_bytes, &pool->book, err, err_len);

	if (rc)
		return rc;
	ferryi_book_each(pool->book, take_span, pool);
	if (!pool->kept_bytes || pool->backing->is_dirty(pool->handle))
		return 0;
	snprintf(err, err_len,
		 "pool %s: path=%s is new, but %s.leases has leases in it; give both files, or none",
		 pool->spec.name, pool->spec.path, pool->spec.path);
	return -EBADMSG;
}

/* What is free may hold what somebody left there: lent for a moment to nobody, it comes back by the scrubber.
 */
static int scrub_all(struct ferryi_pool *pool)
{
	const uint64_t all = (uint64_t)pool->sections.nfree << FERRYI_SUBSECTION_SHIFT;
	struct ferryi_pool_extent *list;
	uint64_t free_bytes;
	unsigned count;
	int rc = ferryi_pool_take(pool, all, UINT_MAX, 0, &list, &count, &free_bytes);

	if (!rc)
		ferryi_pool_give_back(pool, list);
	return rc;
}

int ferryi_pool_open(const struct ferryi_pool_spec *spec, struct ferryi_pool **out, char *err, size_t err_len)
{
	struct ferryi_pool *pool;
	int rc;

	assert(spec->backing && spec->size_bytes);
	*out = NULL;
	rc = ferryi_pool_spec_fits(spec, 0, err, err_len);
	if (rc)
		return rc;
	snprintf(err, err_len, "pool %s: out of memory", spec->name);
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return -ENOMEM;
	pool->spec = *spec;
	pool->backing = spec->backing;
	pool->dirty_tail = &pool->dirty_head;
	ferryi_mutex_init(&pool->lock, FERRYI_RANK_SERVER_POOL);
	ferryi_cond_init(&pool->work);
	ferryi_cond_init(&pool->clean);
	pool->size_bytes = spec->size_bytes;
	rc = ferryi_sections_init(&pool->sections, spec->size_bytes >> FERRYI_SUBSECTION_SHIFT);
	if (rc)
		goto err_free;
	rc = pool->backing->open(spec, &pool->handle, err, err_len);
	if (rc)
		goto err_sections;
	if (spec->type == FERRYI_POOL_FS_DAX)
		rc = open_book(pool, err, err_len);
	if (rc)
		goto err_backing;
	if (pool->backing->is_dirty && pool->backing->is_dirty(pool->handle))
		rc = scrub_all(pool);
	if (!rc)
		rc = start_scrubber(pool);
	if (rc) {
		snprintf(err, err_len, "pool %s: starting its scrubber failed: %s", spec->name,
			 ferryi_strerror(rc));
		goto err_backing;
	}
	err[0] = '\0';
	*out = pool;
	return 0;

err_backing:
	while (pool->dirty_head) {
		struct ferryi_pool_extent *extent = pool->dirty_head;

		pool->dirty_head = extent->next;
		free(extent);
	}
	ferryi_book_close(&pool->book);
	pool->backing->close(pool->handle);
err_sections:
	ferryi_sections_fini(&pool->sections);
err_free:
	pthread_cond_destroy(&pool->work);
	pthread_cond_destroy(&pool->clean);
	ferryi_mutex_fini(&pool->lock);
	free(pool);
	return rc;
}

void ferryi_pool_close(struct ferryi_pool **poolp)
{
	struct ferryi_pool *pool = *poolp;

	if (!pool)
		return;
	*poolp = NULL;
	ferryi_mutex_lock(&pool->lock);
	assert(pool->leased_bytes == pool->kept_bytes);
	pool->stop = true;
	pthread_cond_broadcast(&pool->work);
	ferryi_mutex_unlock(&pool->lock);
	pthread_join(pool->scrubber, NULL);
	ferryi_book_close(&pool->book);
	pool->backing->close(pool->handle);
	ferryi_sections_fini(&pool->sections);
	pthread_cond_destroy(&pool->work);
	pthread_cond_destroy(&pool->clean);
	ferryi_mutex_fini(&pool->lock);
	free(pool);
}

const struct ferryi_pool_spec *ferryi_pool_spec(const struct ferryi_pool *pool)
{
	return &pool->spec;
}

const char *ferryi_pool_backing_name(const struct ferryi_pool *pool)
{
	return pool->backing->name;
}

bool ferryi_pool_gives_fd(const struct ferryi_pool *pool)
{
	return pool->backing->gives_fd;
}

/* Undoes a take that did not succeed: nobody has seen the memory, so it goes back unscrubbed. */
static void put_back_locked(struct ferryi_pool *pool, struct ferryi_pool_extent *list)
{
	ferryi_assert_held(&pool->lock);
	while (list) {
		struct ferryi_pool_extent *extent = list;

		list = extent->next;
		ferryi_sections_release(&pool->sections, extent->pool_off >> FERRYI_SUBSECTION_SHIFT,
					extent->memory.len_bytes >> FERRYI_SUBSECTION_SHIFT);
		free(extent);
	}
}

/* Takes the sub-sections; the memory comes later. 0, -ENOMEM (not that much is free), -E2BIG. */
static int take_locked(struct ferryi_pool *pool, size_t want, unsigned max_extents,
		       struct ferryi_pool_extent **list, unsigned *count)
{
	struct ferryi_pool_extent **tail = list;

	ferryi_assert_held(&pool->lock);
	*list = NULL;
	*count = 0;
	if (want > pool->sections.nfree)
		return -ENOMEM;
	while (want) {
		struct ferryi_pool_extent *extent;
		size_t first, n;

		if (*count == max_extents)
			goto err_many;
		extent = calloc(1, sizeof(*extent));
		if (!extent)
			goto err_many;
		n = ferryi_sections_take(&pool->sections, want, &first);
		assert(n > 0);
		extent->pool_off = (uint64_t)first << FERRYI_SUBSECTION_SHIFT;
		extent->memory = (struct ferryi_memory){.len_bytes = n << FERRYI_SUBSECTION_SHIFT, .fd = -1};
		*tail = extent;
		tail = &extent->next;
		++*count;
		want -= n;
	}
	return 0;

err_many:
	put_back_locked(pool, *list);
	*list = NULL;
	*count = 0;
	return -E2BIG;
}

struct grant {
	struct ferryi_pool *pool;
	struct ferryi_pool_extent **extents;
};

static int grant_one(void *ctx, size_t i)
{
	const struct grant *grant = ctx;

	return grant->pool->backing->grant(grant->pool->handle, grant->extents[i]);
}

/* Gives the extents of a list their memory; those that got it have a base. 0 or the first error. */
static int grant_all(struct ferryi_pool *pool, struct ferryi_pool_extent *list, unsigned count)
{
	struct grant grant = {.pool = pool,
			      .extents = calloc(count + 1, sizeof(struct ferryi_pool_extent *))};
	int rc;

	if (!grant.extents)
		return -ENOMEM;
	for (unsigned i = 0; i < count; i++, list = list->next)
		grant.extents[i] = list;
	rc = ferryi_backing_parallel(count, grant_one, &grant);
	free(grant.extents);
	return rc;
}

/* After a grant that failed: what has memory goes through the scrubber, the rest was never touched. */
static void grant_undo(struct ferryi_pool *pool, struct ferryi_pool_extent *list)
{
	struct ferryi_pool_extent *granted = NULL, *bare = NULL;

	while (list) {
		struct ferryi_pool_extent *extent = list;
		struct ferryi_pool_extent **to = extent->memory.base ? &granted : &bare;

		list = extent->next;
		extent->next = *to;
		*to = extent;
	}
	ferryi_mutex_lock(&pool->lock);
	for (const struct ferryi_pool_extent *e = bare; e; e = e->next)
		pool->leased_bytes -= e->memory.len_bytes;
	put_back_locked(pool, bare);
	ferryi_mutex_unlock(&pool->lock);
	ferryi_pool_give_back(pool, granted);
}

int ferryi_pool_take(struct ferryi_pool *pool, uint64_t size_bytes, unsigned max_extents,
		     uint64_t deadline_ns, struct ferryi_pool_extent **list, unsigned *count,
		     uint64_t *free_bytes)
{
	const size_t want = size_bytes >> FERRYI_SUBSECTION_SHIFT;
	int rc;

	assert(ferryi_is_aligned(size_bytes, FERRYI_SUBSECTION_SIZE));
	ferryi_mutex_lock(&pool->lock);
	while (want > pool->sections.nfree &&
	       size_bytes <=
		       ((uint64_t)pool->sections.nfree << FERRYI_SUBSECTION_SHIFT) + pool->scrub_bytes) {
		if (ferryi_cond_wait_until(&pool->clean, &pool->lock, deadline_ns) == -ETIMEDOUT)
			break;
	}
	rc = take_locked(pool, want, max_extents, list, count);
	if (!rc)
		pool->leased_bytes += size_bytes;
	*free_bytes = (uint64_t)pool->sections.nfree << FERRYI_SUBSECTION_SHIFT;
	ferryi_mutex_unlock(&pool->lock);
	if (rc)
		return rc;
	rc = grant_all(pool, *list, *count);
	if (rc) {
		grant_undo(pool, *list);
		*list = NULL;
		*count = 0;
	}
	return rc;
}

void ferryi_pool_give_back(struct ferryi_pool *pool, struct ferryi_pool_extent *list)
{
	if (!list)
		return;
	ferryi_mutex_lock(&pool->lock);
	give_back_locked(pool, list);
	ferryi_mutex_unlock(&pool->lock);
}

/* ---- memory that fails ---- */

/* The sub-section, if it is free: lent to nobody, so that the scrubber replaces what has failed. */
static struct ferryi_pool_extent *take_failed(struct ferryi_pool *pool, size_t nr)
{
	struct ferryi_pool_extent *extent = NULL;

	ferryi_mutex_lock(&pool->lock);
	if (nr < pool->sections.nsubsections && ferryi_sections_next_used(&pool->sections, nr) != nr) {
		ferryi_sections_take_at(&pool->sections, nr, 1);
		extent = calloc(1, sizeof(*extent));
		if (extent)
			pool->leased_bytes += FERRYI_SUBSECTION_SIZE;
	}
	ferryi_mutex_unlock(&pool->lock);
	return extent; /* NULL, out of memory: it stays out of use */
}

void ferryi_pool_failed(struct ferryi_pool *pool, uintptr_t addr)
{
	struct ferryi_pool_extent *extent;
	uint64_t off;

	if (!pool->backing->find || !pool->backing->find(pool->handle, addr, &off))
		return;
	ferryi_mutex_lock(&pool->lock);
	ferryi_kept_failed(&pool->kept, off);
	pthread_cond_signal(&pool->work);
	ferryi_mutex_unlock(&pool->lock);
	extent = take_failed(pool, (size_t)(off >> FERRYI_SUBSECTION_SHIFT));
	if (!extent)
		return;
	extent->pool_off = off & ~((uint64_t)FERRYI_SUBSECTION_SIZE - 1);
	extent->memory = (struct ferryi_memory){.len_bytes = FERRYI_SUBSECTION_SIZE, .fd = -1};
	extent->failed = true;
	pool->backing->grant(pool->handle, extent); /* of a row with find: an address, which does not fail */
	ferryi_pool_give_back(pool, extent);
}

/* ---- more and less memory ---- */

uint64_t ferryi_pool_size(struct ferryi_pool *pool)
{
	ferryi_mutex_lock(&pool->lock);
	uint64_t size = pool->size_bytes;

	ferryi_mutex_unlock(&pool->lock);
	return size;
}

static int set_size_locked(struct ferryi_pool *pool, uint64_t to)
{
	int rc = ferryi_sections_resize(&pool->sections, (size_t)(to >> FERRYI_SUBSECTION_SHIFT));

	ferryi_assert_held(&pool->lock);
	if (!rc)
		pool->size_bytes = to;
	return rc;
}

static int grow(struct ferryi_pool *pool, uint64_t from, uint64_t to, char *err, size_t err_len)
{
	struct ferryi_pool_spec more = pool->spec;
	int rc = 0;

	more.size_bytes = to - from;
	if (!pool->spec.path[0])
		rc = ferryi_pool_spec_fits(&more, 0, err, err_len);
	if (!rc)
		rc = pool->backing->resize(pool->handle, &pool->spec, from, to, err, err_len);
	if (rc)
		return rc;
	ferryi_mutex_lock(&pool->lock);
	rc = set_size_locked(pool, to);
	ferryi_mutex_unlock(&pool->lock);
	if (rc) {
		pool->backing->resize(pool->handle, &pool->spec, to, from, err, err_len);
		snprintf(err, err_len, "pool %s: out of memory", pool->spec.name);
	}
	return rc;
}

/* What of [to, end) is not free, in words. */
static int refuse_shrink_locked(struct ferryi_pool *pool, uint64_t to, char *err, size_t err_len)
{
	const size_t end = pool->sections.nsubsections;
	size_t first = ferryi_sections_next_used(&pool->sections, (size_t)(to >> FERRYI_SUBSECTION_SHIFT)),
	       n = 0;
	size_t last = first;
	char want[16], much[16], from[16], until[16];

	ferryi_assert_held(&pool->lock);
	for (size_t at = first; at < end; at = ferryi_sections_next_used(&pool->sections, at + 1)) {
		last = at;
		n++;
	}
	snprintf(err, err_len,
		 "pool %s: cannot shrink to %s: %s beyond it is leased, between %s and %s; it stays as it is",
		 pool->spec.name, ferryi_format_size(to, want, sizeof(want)),
		 ferryi_format_size((uint64_t)n << FERRYI_SUBSECTION_SHIFT, much, sizeof(much)),
		 ferryi_format_size((uint64_t)first << FERRYI_SUBSECTION_SHIFT, from, sizeof(from)),
		 ferryi_format_size((uint64_t)(last + 1) << FERRYI_SUBSECTION_SHIFT, until, sizeof(until)));
	return -EBUSY;
}

static int shrink(struct ferryi_pool *pool, uint64_t from, uint64_t to, uint64_t deadline_ns, char *err,
		  size_t err_len)
{
	const size_t first = (size_t)(to >> FERRYI_SUBSECTION_SHIFT);
	int rc = 0;

	ferryi_mutex_lock(&pool->lock);
	while (ferryi_sections_next_used(&pool->sections, first) < pool->sections.nsubsections &&
	       pool->scrub_bytes && !rc)
		rc = ferryi_cond_wait_until(&pool->clean, &pool->lock, deadline_ns);
	if (ferryi_sections_next_used(&pool->sections, first) < pool->sections.nsubsections)
		rc = refuse_shrink_locked(pool, to, err, err_len);
	else
		rc = set_size_locked(pool, to); /* does not fail: it is less */
	ferryi_mutex_unlock(&pool->lock);
	/* Nobody is lent it any more. */
	return rc ? rc : pool->backing->resize(pool->handle, &pool->spec, from, to, err, err_len);
}

int ferryi_pool_resize(struct ferryi_pool *pool, uint64_t to_bytes, uint64_t deadline_ns, char *err,
		       size_t err_len)
{
	uint64_t from = ferryi_pool_size(pool);

	assert(to_bytes && ferryi_is_aligned(to_bytes, FERRYI_SUBSECTION_SIZE));
	if (to_bytes > from)
		return grow(pool, from, to_bytes, err, err_len);
	return to_bytes < from ? shrink(pool, from, to_bytes, deadline_ns, err, err_len) : 0;
}

/* ---- leases with a name ---- */

bool ferryi_pool_keeps_for_good(const struct ferryi_pool *pool)
{
	return pool->book != NULL;
}

static void free_list(struct ferryi_pool_extent *list)
{
	while (list) {
		struct ferryi_pool_extent *extent = list;

		list = extent->next;
		ferryi_pool_refund(extent);
		free(extent);
	}
}

uint64_t ferryi_pool_booked(const struct ferryi_pool *pool, const char *scope)
{
	return pool->book ? ferryi_book_unheld(pool->book, scope) : 0;
}

/* Extents of memory that is taken already. 0, -ENOMEM, or what the backing met; *list is NULL then. */
static int extents_of(struct ferryi_pool *pool, const struct ferryi_span *spans, size_t n,
		      struct ferryi_pool_extent **list)
{
	struct ferryi_pool_extent **tail = list;
	int rc = 0;

	*list = NULL;
	for (size_t i = 0; i < n && !rc; i++) {
		struct ferryi_pool_extent *extent = calloc(1, sizeof(*extent));

		if (!extent) {
			rc = -ENOMEM;
			break;
		}
		extent->pool_off = spans[i].off;
		extent->memory = (struct ferryi_memory){.len_bytes = (size_t)spans[i].len_bytes, .fd = -1};
		*tail = extent;
		tail = &extent->next;
		rc = pool->backing->grant(pool->handle, extent);
	}
	if (rc) {
		free_list(*list);
		*list = NULL;
	}
	return rc;
}

static int hold_in_book(struct ferryi_pool *pool, const char *name, struct ferryi_pool_extent **list)
{
	struct ferryi_span *spans;
	size_t n;
	int rc = ferryi_book_hold(pool->book, name, &spans, &n);

	if (rc)
		return rc;
	rc = extents_of(pool, spans, n, list);
	free(spans);
	if (rc)
		ferryi_book_put(pool->book, name);
	return rc;
}

int ferryi_pool_hold(struct ferryi_pool *pool, const char *name, struct ferryi_pool_extent **list,
		     unsigned *count)
{
	int rc = 0;

	*list = NULL;
	*count = 0;
	if (pool->book)
		rc = hold_in_book(pool, name, list);
	if (rc)
		return rc;
	ferryi_mutex_lock(&pool->lock);
	if (!pool->book)
		rc = ferryi_kept_hold(&pool->kept, name, list);
	pool->kept_bytes -= bytes_of(*list);
	ferryi_mutex_unlock(&pool->lock);
	for (const struct ferryi_pool_extent *extent = *list; extent; extent = extent->next)
		++*count;
	return rc;
}

int ferryi_pool_record(struct ferryi_pool *pool, const char *name, struct ferryi_pool_extent *const *extents,
		       size_t n)
{
	struct ferryi_span *spans;
	int rc;

	if (!pool->book)
		return 0; /* it is written nowhere: what it has is known when it is kept */
	spans = calloc(n + 1, sizeof(*spans));
	if (!spans)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		spans[i] = (struct ferryi_span){.off = extents[i]->pool_off,
						.len_bytes = extents[i]->memory.len_bytes};
	rc = ferryi_book_write(pool->book, name, spans, n);
	free(spans);
	return rc;
}

int ferryi_pool_save(struct ferryi_pool *pool, struct ferryi_pool_extent *extent)
{
	return pool->backing->save ? pool->backing->save(pool->handle, extent) : 0;
}

void ferryi_pool_use_saved(struct ferryi_pool *pool, struct ferryi_pool_extent *list)
{
	for (; list; list = list->next) {
		if (list->saved.base)
			pool->backing->use_saved(pool->handle, list);
	}
}

struct ferryi_kept *ferryi_pool_lock_kept(struct ferryi_pool *pool)
{
	ferryi_mutex_lock(&pool->lock);
	return &pool->kept;
}

void ferryi_pool_unlock_kept(struct ferryi_pool *pool, uint64_t more, uint64_t less)
{
	pool->kept_bytes += more - less;
	pthread_cond_signal(&pool->work);
	ferryi_mutex_unlock(&pool->lock);
}

void ferryi_pool_keep(struct ferryi_pool *pool, const char *name, struct ferryi_pool_extent *list,
		      uint64_t until_ns)
{
	ferryi_pool_use_saved(pool, list);
	ferryi_mutex_lock(&pool->lock);
	pool->kept_bytes += bytes_of(list);
	if (!pool->book)
		ferryi_kept_keep(&pool->kept, name, list, until_ns);
	pthread_cond_signal(&pool->work);
	ferryi_mutex_unlock(&pool->lock);
	if (pool->book) {
		free_list(list);
		ferryi_book_put(pool->book, name);
	}
}

int ferryi_pool_forget(struct ferryi_pool *pool, const char *name)
{
	if (pool->book)
		return ferryi_book_erase(pool->book, name);
	ferryi_mutex_lock(&pool->lock);
	ferryi_kept_forget(&pool->kept, name);
	ferryi_mutex_unlock(&pool->lock);
	return 0;
}

void ferryi_pool_usage(struct ferryi_pool *pool, struct ferryi_pool_usage *out)
{
	ferryi_mutex_lock(&pool->lock);
	*out = (struct ferryi_pool_usage){
		.size_bytes = pool->size_bytes,
		.free_bytes = (uint64_t)pool->sections.nfree << FERRYI_SUBSECTION_SHIFT,
		.leased_bytes = pool->leased_bytes,
		.kept_bytes = pool->kept_bytes,
		.scrub_bytes = pool->scrub_bytes,
		.scrubbed_bytes_total = pool->scrubbed_bytes_total,
		.scrub_ns_total = pool->scrub_ns_total,
	};
	ferryi_mutex_unlock(&pool->lock);
}
