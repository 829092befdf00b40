/* See migrate.h. */
#include "migrate.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <xxhash.h>

#include "clock.h"
#include "error.h"
#include "fetch_priv.h"
#include "folio_move.h"
#include "log.h"
#include "service.h"
#include "uffd.h"

#define PAUSE_MS    1
#define MOVE_ROUNDS 4u /* of a block, when pages are busy for the moment */

static struct ferry_pool *pool_of(struct ferryi_pager *pager, const struct ferryi_page_ref *ref)
{
	struct ferryi_remote remote;
	uint64_t off;

	return ferryi_locate(pager, ferryi_object_pfn(ref->object, ref->index), &remote, &off);
}

/* The managed pages at va, at most to `end` and to the end of their block: how many, 0: not managed. */
static size_t find_piece(struct ferryi_pager *pager, uintptr_t va, uintptr_t end, struct ferryi_page_ref *ref)
{
	ferryi_areas_read_lock(&pager->areas);
	bool found = ferryi_areas_find_locked(&pager->areas, va, ref);

	ferryi_areas_read_unlock(&pager->areas);
	if (!found)
		return 0;
	size_t in_block = FERRYI_PAGES_PER_BLOCK - ref->index % FERRYI_PAGES_PER_BLOCK;

	return ferryi_min_u64(ferryi_min_u64(ref->area_pages_left, in_block), (end - va) >> FERRYI_PAGE_SHIFT);
}

/* ---- what is selected ---- */

/* The pool of the page's block is one of these kinds (0: any), and this owner's (NULL: anybody's). */
static bool is_selected(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, const void *owner, unsigned flags)
{
	struct ferry_pool *pool = pool_of(pager, ref);
	unsigned kind = pool && ferryi_pool_is_coherent(pool) ? FERRY_MIGRATE_SELECT_DEVICE_COHERENT :
								FERRY_MIGRATE_SELECT_DEVICE_PRIVATE;

	return pool && (!owner || ferryi_pool_owner(pool) == owner) && (!flags || (flags & kind));
}

/*
 * Which of the pages go to `pool`: with SELECT_SYSTEM all that can; else those alone that are in another pool, of a
 * kind that is selected and of this owner (NULL: the pool's). How many. The rest is counted.
 */
static size_t select_pages(struct ferryi_pager *pager, const struct ferry_pool *pool, const struct ferryi_page_ref *ref,
			   size_t nr, const void *owner, unsigned flags, bool *go, struct ferry_migrate_stats *stats)
{
	bool system = !flags || (flags & FERRY_MIGRATE_SELECT_SYSTEM), there = pool_of(pager, ref) == pool;
	bool others = !there && !system && is_selected(pager, ref, owner ? owner : ferryi_pool_owner(pool), flags);
	size_t n = 0;

	for (size_t i = 0; i < nr; i++) {
		enum ferryi_page_state state = ferryi_page_state(ferryi_page_load(&ref->object->words[ref->index + i]));
		bool is_away = state == FERRYI_PAGE_AWAY || state == FERRYI_PAGE_COHERENT;

		go[i] = system || (others && is_away);
		n += go[i];
		if (go[i])
			continue;
		stats->zero += state == FERRYI_PAGE_ABSENT;
		stats->skipped_lost += state == FERRYI_PAGE_POISONED;
		stats->there += is_away && there;
		stats->skipped_owner += state != FERRYI_PAGE_ABSENT && state != FERRYI_PAGE_POISONED && !(is_away && there);
	}
	return n;
}

/* ---- choosing the pool of a block ---- */

static bool is_away(const struct ferryi_object *object, size_t i)
{
	return ferryi_page_state(ferryi_page_load(&object->words[i])) == FERRYI_PAGE_AWAY;
}

/* Brings home what of the whole block is away, wherever it is mapped. */
static int bring_block(struct ferryi_pager *pager, const struct ferryi_page_ref *ref)
{
	size_t first = ref->index / FERRYI_PAGES_PER_BLOCK * FERRYI_PAGES_PER_BLOCK;
	size_t nr = ferryi_min_u64(ref->object->nr_pages - first, FERRYI_PAGES_PER_BLOCK);
	int rc = 0;

	for (size_t i = first, run; i < first + nr && !rc; i += run) {
		uintptr_t va;

		for (run = 0; i + run < first + nr && is_away(ref->object, i + run); run++)
			;
		if (!run) {
			run = 1;
			continue;
		}
		ferryi_areas_read_lock(&pager->areas);
		bool mapped = ferryi_areas_va_locked(&pager->areas, ref->object, i, &va);

		ferryi_areas_read_unlock(&pager->areas);
		/* Cut by a partial munmap, the rest of the run lies elsewhere: the next round finds it. */
		if (mapped)
			rc = ferryi_service_bring(pager, va, va + run * FERRYI_PAGE_SIZE, false);
	}
	return rc;
}

/* Brings the block home and takes it off its sub-section. 0, -EIO, -ETIMEDOUT. ASSUMPTION: leave_lock held. */
static int leave_locked(struct ferryi_pager *pager, const struct ferryi_page_ref *ref)
{
	/* A part of a fault's time: rather this fails than that a fault finds no memory, because no page may leave. */
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms / 4);
	struct ferryi_block *block = ferryi_ref_block(ref);
	size_t nr = ref->index / FERRYI_PAGES_PER_BLOCK;
	int rc;

	if (!ferryi_block_leave_begin(block))
		return atomic_load(&block->subsection) ? -EAGAIN : 0;
	while ((rc = ferryi_block_leave_commit(pager, ref->object, nr)) == -EBUSY || rc == -EAGAIN) {
		if (rc == -EAGAIN)
			poll(NULL, 0, PAUSE_MS); /* what is on its way settles by itself */
		rc = ferryi_coherent_leave(pager, &(struct ferryi_coherent_part){ .end = UINTPTR_MAX, .object = ref->object,
										    .block = nr });
		if (rc)
			break;
		rc = ferryi_now_ns() < deadline_ns ? bring_block(pager, ref) : -ETIMEDOUT;
		if (rc)
			break;
	}
	if (rc)
		ferryi_block_leave_abort(block);
	return rc;
}

/*
 * Another device's pages are not ours to move. A pool that is nobody's is the pager's own choice: to a coherent pool,
 * which the pager never chooses, pages come from there too.
 */
static bool is_anothers(const struct ferry_pool *now, const struct ferry_pool *pool)
{
	const void *owner = ferryi_pool_owner(now);

	return owner != ferryi_pool_owner(pool) && (owner || !ferryi_pool_is_coherent(pool));
}

/* The block's pages go to `pool` from now on. 0, -EXDEV (its pages are another owner's), -ENOMEM, -EIO, -ETIMEDOUT. */
static int choose_pool(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, struct ferry_pool *pool)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	struct ferry_pool *now;
	int rc = 0;

	/* Eviction may bind the block to the next best pool between the two steps: then once more. */
	while ((now = pool_of(pager, ref)) != pool && (!rc || rc == -EAGAIN) && ferryi_now_ns() < deadline_ns) {
		if (now && is_anothers(now, pool))
			return -EXDEV;
		ferryi_mutex_lock(&pager->leave_lock);
		rc = now ? leave_locked(pager, ref) : 0;
		if (!rc)
			rc = ferryi_bind_block_to(pager, ferryi_ref_block(ref), pool, true);
		ferryi_mutex_unlock(&pager->leave_lock);
	}
	return now == pool ? 0 : rc == 0 || rc == -EAGAIN ? -ETIMEDOUT : rc;
}

/* ---- to a device ---- */

static void count_place(const struct ferryi_object *object, size_t first, size_t nr, const bool *go, uint8_t *was,
			struct ferry_migrate_stats *stats)
{
	for (size_t i = 0; i < nr; i++) {
		uint64_t word = ferryi_page_load(&object->words[first + i]);

		was[i] = (uint8_t)(go[i] ? ferryi_page_state(word) : FERRYI_PAGE_ABSENT);
		if (!go[i])
			continue;
		switch (ferryi_page_state(word)) {
		case FERRYI_PAGE_ABSENT:
			stats->zero++;
			break;
		case FERRYI_PAGE_AWAY:
		case FERRYI_PAGE_COHERENT:
			stats->there++;
			break;
		case FERRYI_PAGE_POISONED:
			stats->skipped_lost++;
			break;
		default: /* resident, or on its way: what comes of it is seen afterwards */
			was[i] = FERRYI_PAGE_RESIDENT;
			stats->cpages++;
		}
	}
}

/* true: some page stayed that may leave yet. With `last`, the verdict is counted. */
static bool count_moved(const struct ferryi_object *object, size_t first, size_t nr, const uint8_t *was, bool last,
			struct ferry_migrate_stats *stats)
{
	bool again = false;

	for (size_t i = 0; i < nr; i++) {
		uint64_t word = ferryi_page_load(&object->words[first + i]);
		enum ferryi_page_state state = ferryi_page_state(word);
		bool stayed = state != FERRYI_PAGE_AWAY && state != FERRYI_PAGE_ABSENT;

		if (was[i] != FERRYI_PAGE_RESIDENT)
			continue;
		again |= stayed && !ferryi_page_pins(word);
		if (!last)
			continue;
		stats->migrated += state == FERRYI_PAGE_AWAY;
		stats->zero += state == FERRYI_PAGE_ABSENT;
		stats->skipped_pinned += stayed && ferryi_page_pins(word);
		stats->skipped_raced += stayed && !ferryi_page_pins(word);
	}
	return again;
}

/* As one, if it is a huge page. */
static void send_huge(struct ferryi_pager *pager, struct ferry_pool *pool, const struct ferryi_page_ref *ref, size_t nr,
		      struct ferry_migrate_stats *stats)
{
	int rc = -EAGAIN;

	if (!ferryi_folio_move_can(pager, ref, nr))
		return;
	for (unsigned round = 0; round < MOVE_ROUNDS && rc == -EAGAIN; round++) {
		if (round)
			poll(NULL, 0, PAUSE_MS);
		ferryi_mutex_lock(&pager->service_lock);
		pager->service_evictor->owner = ferryi_pool_owner(pool);
		rc = ferryi_folio_move_send(pager, ref, &stats->bytes);
		pager->service_evictor->owner = NULL;
		ferryi_mutex_unlock(&pager->service_lock);
	}
	stats->folios += rc == 0;
	stats->folios_split += rc != 0;
}

static void send_once_locked(struct ferryi_pager *pager, struct ferry_pool *pool, const struct ferryi_page_ref *ref,
			     size_t nr, const bool *go, struct ferry_migrate_stats *stats)
{
	struct ferryi_evictor *ev = pager->service_evictor;
	uint64_t before = ev->bytes_written;

	ev->owner = ferryi_pool_owner(pool);
	ev->takes_readonly = true;
	for (size_t i = 0, end; i < nr; i = end) {
		for (end = i; end < nr && go[end] == go[i]; end++)
			;
		uintptr_t va = ref->va + i * FERRYI_PAGE_SIZE, stop = ref->va + end * FERRYI_PAGE_SIZE;

		while (go[i] && va < stop) {
			if (!ferryi_evict_range(ev, &va, stop) && va < stop)
				break;
			ferryi_evict_poll(ev);
		}
	}
	ferryi_evict_drain(ev);
	ev->owner = NULL;
	ev->takes_readonly = false;
	stats->bytes += ev->bytes_written - before;
}

/* 0; of a coherent pool as ferryi_coherent_enter_locked: what was not mapped is away in it. */
static int send_pages(struct ferryi_pager *pager, struct ferry_pool *pool, const struct ferryi_page_ref *ref, size_t nr,
		      const bool *go, bool all, struct ferry_migrate_stats *stats)
{
	uint8_t was[FERRYI_PAGES_PER_BLOCK];
	bool again = true;
	int rc = 0;

	count_place(ref->object, ref->index, nr, go, was, stats);
	if (all && !ferryi_pool_is_coherent(pool))
		send_huge(pager, pool, ref, nr, stats);
	for (unsigned round = 1; again; round++) {
		ferryi_mutex_lock(&pager->service_lock);
		send_once_locked(pager, pool, ref, nr, go, stats);
		again = round < MOVE_ROUNDS && count_moved(ref->object, ref->index, nr, was, false, stats);
		if (!again)
			count_moved(ref->object, ref->index, nr, was, true, stats);
		if (!again && ferryi_pool_is_coherent(pool))
			rc = ferryi_coherent_enter_locked(pager, pool, ref, nr);
		ferryi_mutex_unlock(&pager->service_lock);
		if (again)
			poll(NULL, 0, PAUSE_MS);
	}
	return rc;
}

static int send_piece(struct ferryi_pager *pager, struct ferry_pool *pool, const struct ferryi_page_ref *ref, size_t nr,
		      unsigned flags, struct ferry_migrate_stats *stats)
{
	bool go[FERRYI_PAGES_PER_BLOCK];
	size_t nr_go = select_pages(pager, pool, ref, nr, NULL, flags, go, stats);

	if (!nr_go)
		return 0;
	int rc = choose_pool(pager, ref, pool);

	if (rc == -EXDEV) {
		stats->skipped_owner += nr_go;
		return 0;
	}
	if (rc)
		return ferryi_control_fail(rc, "migrate_to_device: no place in the pool for %#lx (%s)", (unsigned long)ref->va,
					   ferryi_strerror(rc));
	rc = send_pages(pager, pool, ref, nr, go, nr_go == nr, stats);
	return rc ? ferryi_control_fail(rc, "migrate_to_device: pages of %#lx are in the pool, but cannot be mapped there (%s)",
					(unsigned long)ref->va, ferryi_strerror(rc)) : 0;
}

/* Memory of [start, end) that is not managed yet is, afterwards. */
static int adopt_gaps(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	struct ferryi_page_ref ref;

	ferryi_events_settle(pager);
	for (uintptr_t va = start, gap; va < end;) {
		size_t nr = find_piece(pager, va, end, &ref);

		if (nr) {
			va += nr * FERRYI_PAGE_SIZE;
			continue;
		}
		for (gap = va; va < end && !find_piece(pager, va, end, &ref); va += FERRYI_PAGE_SIZE)
			;
		int rc = ferryi_pager_adopt(pager, gap, va, FERRY_MAP_NORESERVE);

		if (rc)
			return rc == -EFAULT ? -EINVAL : rc; /* the line says what is not mapped */
	}
	return 0;
}

/*
 * On the way to a coherent pool pages cannot be had back by a touch: who moves them must not stand on them. And faults on
 * its mappings are a fault thread's.
 */
static int check_coherent(struct ferryi_pager *pager, const struct ferry_pool *pool, uintptr_t start, uintptr_t end,
			  const char *call)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);
	bool any_inline = false;

	if (!ferryi_pool_is_coherent(pool))
		return 0;
	if (here >= start && here < end)
		return ferryi_control_fail(-EINVAL, "%s: the caller's own stack cannot go to a coherent pool", call);
	ferryi_areas_read_lock(&pager->areas);
	for (unsigned i = 0; i < pager->areas.nr_areas; i++) {
		const struct ferryi_area *area = &pager->areas.areas[i];

		any_inline |= area->start < end && area->end > start && area->object->is_inline;
	}
	ferryi_areas_read_unlock(&pager->areas);
	return any_inline ? ferryi_control_fail(-EINVAL, "%s: inline memory cannot go to a coherent pool", call) : 0;
}

int ferryi_pager_migrate_to_device(struct ferryi_pager *pager, struct ferry_pool *pool, uintptr_t start, uintptr_t end,
				   unsigned flags, struct ferry_migrate_stats *stats)
{
	struct ferryi_page_ref ref;
	int rc = check_coherent(pager, pool, start, end, "migrate_to_device");

	rc = rc ? rc : adopt_gaps(pager, start, end);
	if (rc)
		return rc;
	for (uintptr_t va = start; va < end;) {
		size_t nr = find_piece(pager, va, end, &ref);

		if (!nr)
			return ferryi_control_fail(-EINVAL, "migrate_to_device: %#lx was unmapped meanwhile", (unsigned long)va);
		if (ferryi_pool_lost(pool))
			return ferryi_control_fail(-ENOTCONN, "migrate_to_device: the pool's server is gone");
		if (ferryi_pool_is_coherent(pool) && ferryi_pool_is_killed(pool))
			return ferryi_control_fail(-ESHUTDOWN, "migrate_to_device: the pool is killed");
		if (ferryi_pool_is_coherent(pool))
			ferryi_coherent_entry_begin(ferryi_ref_block(&ref));
		rc = send_piece(pager, pool, &ref, nr, flags, stats);
		if (ferryi_pool_is_coherent(pool))
			ferryi_coherent_entry_end(pager, ferryi_ref_block(&ref));
		if (rc)
			return rc;
		va += nr * FERRYI_PAGE_SIZE;
	}
	return 0;
}

/* ---- to RAM ---- */

static bool is_in_folio(struct ferryi_pager *pager, const struct ferryi_page_ref *ref)
{
	uint64_t pfn = ferryi_object_pfn(ref->object, ref->index - ref->index % FERRYI_FOLIO_PAGES);
	const struct ferry_page *head = ferryi_pfn_to_page(pager->model, pfn);

	return head && ferryi_folio_order(head);
}

/* Pages from va that are all in a pool (to be brought), or all not: how many; counts the latter. */
static size_t find_run(const struct ferryi_page_ref *ref, size_t nr, bool *away, struct ferry_migrate_stats *stats)
{
	size_t n = 0;

	for (; n < nr; n++) {
		enum ferryi_page_state state = ferryi_page_state(ferryi_page_load(&ref->object->words[ref->index + n]));
		bool is_away = state == FERRYI_PAGE_AWAY || state == FERRYI_PAGE_STAGED || state == FERRYI_PAGE_COHERENT;

		if (n == 0)
			*away = is_away;
		else if (is_away != *away)
			break;
		if (is_away)
			continue;
		stats->zero += state == FERRYI_PAGE_ABSENT;
		stats->skipped_lost += state == FERRYI_PAGE_POISONED;
		stats->there += state != FERRYI_PAGE_ABSENT && state != FERRYI_PAGE_POISONED;
	}
	return n;
}

int ferryi_pager_migrate_to_ram(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, const void *owner,
				unsigned flags, struct ferry_migrate_stats *stats)
{
	uint64_t lost_before = stats->skipped_lost;
	struct ferryi_page_ref ref;

	if (!ferryi_pager_covers(pager, start, end))
		return ferryi_control_fail(-EINVAL, "migrate_to_ram: the range is not all managed");
	for (uintptr_t va = start; va < end;) {
		size_t nr = find_piece(pager, va, end, &ref);
		bool away = false;

		if (!nr)
			return ferryi_control_fail(-EINVAL, "migrate_to_ram: %#lx was unmapped meanwhile", (unsigned long)va);
		nr = find_run(&ref, nr, &away, stats);
		uintptr_t stop = va + nr * FERRYI_PAGE_SIZE;

		if (away && !is_selected(pager, &ref, owner, flags)) {
			stats->skipped_owner += nr;
		} else if (away) {
			stats->folios_split += is_in_folio(pager, &ref);
			int rc = ferryi_service_bring(pager, va, stop, false);

			if (rc)
				return ferryi_control_fail(rc, "migrate_to_ram: a page of %#lx-%#lx is lost or did not come in time",
							   (unsigned long)va, (unsigned long)stop);
			stats->cpages += nr;
			stats->migrated += nr;
			stats->bytes += nr * FERRYI_PAGE_SIZE;
		}
		va = stop;
	}
	if (stats->skipped_lost > lost_before)
		return ferryi_control_fail(-EIO, "migrate_to_ram: %llu pages are lost",
					   (unsigned long long)(stats->skipped_lost - lost_before));
	return 0;
}

/* ---- in three steps ---- */

/* go: of each page, that it is selected. */
static int bind_all(struct ferryi_pager *pager, struct ferry_migrate *m, bool *go)
{
	struct ferry_migrate_stats unused = { 0 };
	struct ferryi_page_ref ref;
	size_t nr;

	for (uintptr_t va = m->start; va < m->end; va += nr * FERRYI_PAGE_SIZE) {
		nr = find_piece(pager, va, m->end, &ref);
		if (!nr)
			return ferryi_control_fail(-EINVAL, "migrate_setup: %#lx is not managed", (unsigned long)va);
		size_t nr_go = select_pages(pager, m->pool, &ref, nr, m->pgmap_owner,
					    m->flags & ~(unsigned)FERRY_MIGRATE_SELECT_COMPOUND,
					    go + ((va - m->start) >> FERRYI_PAGE_SHIFT), &unused);
		int rc = nr_go ? choose_pool(pager, &ref, m->pool) : 0;

		if (rc && rc != -EXDEV)
			return ferryi_control_fail(rc, "migrate_setup: no place in the pool for %#lx (%s)",
						   (unsigned long)va, ferryi_strerror(rc));
	}
	return 0;
}

static void nothing(struct ferry_migrate *m)
{
	memset(m->src, 0, m->npages * sizeof(*m->src));
	memset(m->dst, 0, m->npages * sizeof(*m->dst));
	memset(m->data, 0, m->npages * sizeof(*m->data));
}

/* What is not in RAM: a hole needs no copy and is zero at the other end too; all else is not ours to move. */
static void describe_others(struct ferryi_pager *pager, struct ferry_migrate *m)
{
	struct ferryi_page_ref ref;
	uint64_t word;

	nothing(m);
	for (size_t i = 0; i < m->npages; i++) {
		if (ferryi_service_look(pager, m->start + i * FERRYI_PAGE_SIZE, &ref, &word) &&
		    ferryi_page_state(word) == FERRYI_PAGE_ABSENT) {
			m->src[i] = FERRY_MIGRATE_PFN_MIGRATE | FERRY_MIGRATE_PFN_WRITE;
			m->cpages++;
		}
	}
}

/* Each page that leaves may come back from its slot and be in RAM twice until finalize. */
static int reserve_room(struct ferryi_pager *pager, uint64_t nr)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);

	while (!ferryi_budget_charge(&pager->budget, nr)) {
		if (ferryi_now_ns() >= deadline_ns)
			return ferryi_control_fail(-ENOMEM, "migrate_setup: the budget has no room for %llu pages",
						   (unsigned long long)nr);
		ferryi_pager_need_memory(pager);
		poll(NULL, 0, PAUSE_MS);
	}
	return 0;
}

static bool is_compound(const struct ferry_migrate *m)
{
	return m->flags & FERRY_MIGRATE_SELECT_COMPOUND;
}

/* The huge page, all of it or nothing. ASSUMPTION: service lock held. */
static void collect_huge_locked(struct ferryi_pager *pager, struct ferry_migrate *m)
{
	struct ferryi_page_ref ref;
	size_t nr = find_piece(pager, m->start, m->end, &ref);

	if (!nr || pool_of(pager, &ref) != m->pool || !ferryi_folio_move_can(pager, &ref, nr) ||
	    ferryi_folio_move_begin(pager, &ref, pager->migrator))
		return;
	ferryi_children_save(pager, ref.object, ref.index, nr);
	m->src[0] = FERRY_MIGRATE_PFN_VALID | FERRY_MIGRATE_PFN_MIGRATE | FERRY_MIGRATE_PFN_WRITE | FERRY_MIGRATE_PFN_COMPOUND;
	m->dst[0] = pager->folio_move->pfn << FERRY_MIGRATE_PFN_SHIFT | FERRY_MIGRATE_PFN_VALID | FERRY_MIGRATE_PFN_COMPOUND;
	m->data[0] = ferryi_folio_move_data(pager);
	m->cpages = nr;
}

static void collect_small(struct ferryi_pager *pager, struct ferry_migrate *m, const bool *go,
			  const struct ferryi_evict_batch *batch)
{
	for (unsigned k = 0; k < batch->nr_pages; k++) {
		const struct ferryi_evict_page *page = &batch->page[k];
		struct ferryi_page_ref ref = { .object = page->object, .index = page->index };
		size_t i = (page->va - m->start) >> FERRYI_PAGE_SHIFT;

		if (!page->staged || !go[i] || pool_of(pager, &ref) != m->pool)
			continue; /* finalize puts it back */
		ferryi_children_save(pager, page->object, page->index, 1); /* the caller writes to the place by his own means */
		m->src[i] = FERRY_MIGRATE_PFN_VALID | FERRY_MIGRATE_PFN_MIGRATE | FERRY_MIGRATE_PFN_WRITE;
		m->dst[i] = ferryi_object_pfn(page->object, page->index) << FERRY_MIGRATE_PFN_SHIFT | FERRY_MIGRATE_PFN_VALID;
		m->data[i] = batch->staging + (size_t)k * FERRYI_PAGE_SIZE;
		m->cpages++;
	}
}

int ferryi_pager_migrate_setup(struct ferryi_pager *pager, struct ferry_migrate *m)
{
	const struct ferryi_evict_batch *batch = NULL;
	bool idle = false, go[FERRYI_PAGES_PER_BLOCK];

	if (!atomic_compare_exchange_strong(&pager->migrating, &idle, true))
		return ferryi_control_fail(-EBUSY, "migrate_setup: another migration is under way");
	ferryi_events_settle(pager);
	m->npages = (m->end - m->start) >> FERRYI_PAGE_SHIFT;
	int rc = check_coherent(pager, m->pool, m->start, m->end, "migrate_setup");

	rc = rc ? rc : bind_all(pager, m, go);

	if (!rc && !is_compound(m))
		rc = reserve_room(pager, m->npages);
	if (rc) {
		atomic_store(&pager->migrating, false);
		return rc;
	}
	m->cpages = 0;
	pager->migrator->owner = ferryi_pool_owner(m->pool);
	pager->migrator->takes_readonly = true;
	if (is_compound(m))
		nothing(m);
	else
		describe_others(pager, m);
	/* Not in the window of a fork: a page that left RAM after it was sampled would be zeros in the child. */
	ferryi_mutex_lock(&pager->service_lock);
	if (is_compound(m))
		collect_huge_locked(pager, m);
	else
		batch = ferryi_evict_collect(pager->migrator, m->start, m->end);
	ferryi_mutex_unlock(&pager->service_lock);
	if (batch)
		collect_small(pager, m, go, batch);
	m->private_[0] = 1;
	return 0;
}

/* As one, or not as one: then what was not touched is in the pool all the same, and src says that it has parted. */
static void commit_huge(struct ferryi_pager *pager, struct ferry_migrate *m)
{
	struct ferryi_page_ref ref = { .object = pager->folio_move->page[0].object, .index = pager->folio_move->page[0].index };
	bool wanted = (m->src[0] & FERRY_MIGRATE_PFN_VALID) && (m->dst[0] & FERRY_MIGRATE_PFN_VALID);

	ferryi_mutex_lock(&pager->service_lock);
	if (!wanted)
		m->src[0] &= ~FERRY_MIGRATE_PFN_MIGRATE;
	else if (ferryi_folio_move_commit(pager, &ref))
		m->src[0] &= ~FERRY_MIGRATE_PFN_COMPOUND;
	ferryi_mutex_unlock(&pager->service_lock);
}

int ferryi_pager_migrate_pages(struct ferryi_pager *pager, struct ferry_migrate *m)
{
	struct ferryi_evictor *ev = pager->migrator;

	if (m->private_[0] != 1)
		return ferryi_control_fail(-EINVAL, "migrate_pages: follows migrate_setup");
	m->private_[0] = 2;
	if (is_compound(m)) {
		if (m->cpages)
			commit_huge(pager, m);
		return 0;
	}
	for (unsigned k = 0; k < ev->batch[0].nr_pages; k++) {
		size_t i = (ev->batch[0].page[k].va - m->start) >> FERRYI_PAGE_SHIFT;

		if (!(m->src[i] & FERRY_MIGRATE_PFN_VALID) || !(m->dst[i] & FERRY_MIGRATE_PFN_VALID) ||
		    !ferryi_evict_commit(ev, k))
			m->src[i] &= ~FERRY_MIGRATE_PFN_MIGRATE;
	}
	return 0;
}

/* What has been committed to a coherent pool is mapped there; what is not is away, and comes home by touch. */
static void enter_all(struct ferryi_pager *pager, const struct ferry_migrate *m)
{
	struct ferryi_page_ref ref;
	size_t nr;

	ferryi_mutex_lock(&pager->service_lock);
	for (uintptr_t va = m->start; va < m->end && (nr = find_piece(pager, va, m->end, &ref)); va += nr * FERRYI_PAGE_SIZE) {
		if (pool_of(pager, &ref) == m->pool)
			ferryi_coherent_enter_locked(pager, m->pool, &ref, nr);
	}
	ferryi_mutex_unlock(&pager->service_lock);
}

int ferryi_pager_migrate_finalize(struct ferryi_pager *pager, struct ferry_migrate *m)
{
	if (m->private_[0] != 1 && m->private_[0] != 2)
		return ferryi_control_fail(-EINVAL, "migrate_finalize: follows migrate_setup");
	if (!is_compound(m)) {
		ferryi_evict_put_back(pager->migrator);
		ferryi_budget_uncharge(&pager->budget, m->npages);
	} else if (m->cpages) {
		ferryi_mutex_lock(&pager->service_lock);
		ferryi_folio_move_end(pager);
		ferryi_mutex_unlock(&pager->service_lock);
	}
	if (m->private_[0] == 2 && ferryi_pool_is_coherent(m->pool))
		enter_all(pager, m);
	m->private_[0] = 0;
	atomic_store(&pager->migrating, false);
	return 0;
}

int ferryi_pager_device_io(struct ferryi_pager *pager, uint64_t pfn, void *read_to, const void *write_from, size_t len)
{
	uint8_t *bounce = pager->service_evictor->batch[0].bounce;

	ferryi_mutex_lock(&pager->service_lock);
	if (write_from)
		memcpy(bounce, write_from, len);
	int rc = ferryi_service_io_pfn(pager, pfn, read_to ? FERRYI_OP_READ : FERRYI_OP_WRITE, bounce, len);

	if (!rc && read_to)
		memcpy(read_to, bounce, len);
	ferryi_mutex_unlock(&pager->service_lock);
	if (rc == -EINVAL)
		return ferryi_control_fail(rc, "device access: %#llx is no valid PFN", (unsigned long long)pfn);
	if (rc == -ENOLINK)
		return ferryi_control_fail(-ENOTCONN, "device access: the pool's server is gone, or cannot be reached");
	return rc ? ferryi_control_fail(rc, "device access: %s", ferryi_strerror(rc)) : 0;
}

/* ---- recover ---- */

static int recover_page(struct ferryi_pager *pager, uintptr_t va, const uint8_t *data)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	struct ferryi_page_ref ref;
	struct ferryi_notice notice;
	uint64_t word;
	long rc;

	while (!ferryi_budget_charge(&pager->budget, 1)) {
		if (ferryi_now_ns() >= deadline_ns)
			return -ENOMEM;
		ferryi_pager_need_memory(pager);
		poll(NULL, 0, PAUSE_MS);
	}
	do {
		ferryi_mutex_lock(&pager->events_lock);
		ferryi_areas_read_lock(&pager->areas);
		rc = -EINVAL;
		if (ferryi_areas_find_locked(&pager->areas, va, &ref)) {
			word = ferryi_page_load(ferryi_ref_word(&ref));
			if (ferryi_page_state(word) == FERRYI_PAGE_POISONED &&
			    ferryi_page_cas(ferryi_ref_word(&ref), &word, FERRYI_PAGE_FETCHING)) {
				ferryi_notify_begin(pager->attr.notifier, &notice, va, FERRYI_PAGE_SIZE,
						    FERRY_UPDATE_MIGRATE, NULL);
				rc = ferryi_uffd_copy(ferryi_uffd_of(pager, ref.object), (void *)va, data, FERRYI_PAGE_SIZE);
				ferryi_notify_end(&notice);
				if (rc > 0)
					ferryi_place_finish(ref.object, ref.index,
							    FERRYI_PAGE_DIRTY | FERRYI_PAGE_REFERENCED);
				else
					ferryi_page_release(ferryi_ref_word(&ref), word);
			}
		}
		ferryi_areas_read_unlock(&pager->areas);
		ferryi_mutex_unlock(&pager->events_lock);
	} while (rc == -EAGAIN && ferryi_now_ns() < deadline_ns);
	if (rc > 0)
		return 0;
	ferryi_budget_uncharge(&pager->budget, 1);
	return (int)rc;
}

int ferryi_pager_recover(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, const uint8_t *data)
{
	struct ferryi_page_ref ref;
	uint64_t word;

	ferryi_events_settle(pager);
	for (uintptr_t va = start; va < end; va += FERRYI_PAGE_SIZE) {
		if (!ferryi_service_look(pager, va, &ref, &word) || ferryi_page_state(word) != FERRYI_PAGE_POISONED)
			return ferryi_control_fail(-EINVAL, "recover: page %#lx is not poisoned; nothing was changed",
						   (unsigned long)va);
	}
	for (uintptr_t va = start; va < end; va += FERRYI_PAGE_SIZE) {
		int rc = recover_page(pager, va, data + (va - start));

		if (rc)
			return ferryi_control_fail(rc, "recover: page %#lx: %s", (unsigned long)va, ferryi_strerror(rc));
	}
	return 0;
}
