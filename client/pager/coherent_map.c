/* Pages of coherent pools: the replacement of their mappings. See coherent.h for the order of things. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include "callback.h"
#include "clock.h"
#include "coherent.h"
#include "error.h"
#include "fetch_priv.h"
#include "log.h"
#include "pager_priv.h"
#include "uapi.h"
#include "uffd.h"
#include "vma.h"

#define BLOCK_BYTES ((size_t)FERRYI_PAGES_PER_BLOCK * FERRYI_PAGE_SIZE)
#define PAUSE_MS    1
#define OWN_BYTES   ((uintptr_t)8 * FERRYI_PAGE_SIZE)

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4 /* Linux 5.7; of shared memory 5.13 */
#endif

int ferryi_coherent_prepare(struct ferryi_pager *pager)
{
	struct ferryi_coherent *c = &pager->coherent;

	if (c->window)
		return 0;
	if (!(pager->features & FERRYI_UFFD_FEATURE_MINOR_SHMEM))
		return ferryi_control_fail(-ENXIO, "attach: this kernel's userfaultfd lacks faults on shared memory "
						   "(UFFD_FEATURE_MINOR_SHMEM), which coherent pools need");
	if (c->maps_fd < 0)
		c->maps_fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	if (c->maps_fd < 0)
		return ferryi_control_fail(-errno, "attach: cannot open /proc/self/maps: %s", ferryi_strerror(errno));
	atomic_store(&c->window, ferryi_arena_alloc(pager->arena, BLOCK_BYTES));
	return c->window ? 0 : ferryi_control_fail(-ENOMEM, "attach: no address space left for a coherent pool's window");
}

void ferryi_coherent_close(struct ferryi_pager *pager)
{
	if (pager->coherent.maps_fd >= 0)
		close(pager->coherent.maps_fd);
}

static size_t bytes_of(const struct ferryi_coherent_run *run)
{
	return run->nr * FERRYI_PAGE_SIZE;
}

/* ---- events of our own ---- */

/* FETCHING (ours) -> COHERENT; a drop that has come meanwhile is for the next look. */
static void settle_coherent(const struct ferryi_coherent_run *run)
{
	for (size_t i = 0; i < run->nr; i++) {
		ferryi_page_word *word = &run->object->words[run->index + i];
		uint64_t now = ferryi_page_load(word);

		while (!ferryi_page_cas(word, &now, FERRYI_PAGE_COHERENT | (now & FERRYI_PAGE_DROPPED)))
			;
	}
}

/* The mapping has been replaced. */
static void settle_replaced(struct ferryi_pager *pager, const struct ferryi_coherent_run *run, bool to_shared)
{
	if (to_shared) {
		ferryi_count(&pager->counters.g_coherent_pages, run->nr);
		settle_coherent(run);
		return;
	}
	ferryi_uncount(&pager->counters.g_coherent_pages, run->nr);
	for (size_t i = 0; i < run->nr; i++)
		ferryi_page_stays_away(pager, run->object, run->index + i);
}

bool ferryi_coherent_own_unmap_locked(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	struct ferryi_coherent *c = &pager->coherent;
	bool own = c->unmap_to_come && start == c->run.va && end == c->run.va + bytes_of(&c->run);

	ferryi_assert_held(&pager->events_lock);
	c->unmap_to_come = c->unmap_to_come && !own;
	return own;
}

bool ferryi_coherent_own_remap_locked(struct ferryi_pager *pager, uintptr_t from)
{
	struct ferryi_coherent *c = &pager->coherent;

	ferryi_assert_held(&pager->events_lock);
	if (!atomic_load(&c->remap_to_come) || from != (uintptr_t)atomic_load(&c->window))
		return false;
	settle_replaced(pager, &c->run, c->to_shared);
	c->unmap_to_come = false; /* it comes before this one, if at all */
	atomic_store(&c->remap_to_come, false);
	return true;
}

/* The mapping at the run, which is to be shared, or private: 0; -EAGAIN: it is something else, or ends within. */
static int look_at_mapping(const struct ferryi_pager *pager, uintptr_t va, size_t len, bool shared, struct ferryi_vma *vma)
{
	int rc = ferryi_vma_query(pager->coherent.maps_fd, va, vma);

	if (rc == -ENOENT || (!rc && (vma->start > va || vma->end < va + len || vma->shared != shared)))
		return -EAGAIN;
	return rc;
}

static int prot_of(const struct ferryi_vma *vma)
{
	return (vma->readable ? PROT_READ : 0) | (vma->writable ? PROT_WRITE : 0) | (vma->executable ? PROT_EXEC : 0);
}

/* The run is where and as it was seen, and no change of the address space is untold: its events are ours to come. */
static int begin_own(struct ferryi_pager *pager, const struct ferryi_coherent_run *run, bool to_shared,
		     const struct ferryi_vma *seen)
{
	struct ferryi_coherent *c = &pager->coherent;
	struct ferryi_page_ref ref;
	struct ferryi_vma vma;
	int rc = -EAGAIN;

	ferryi_mutex_lock(&pager->events_lock);
	ferryi_areas_read_lock(&pager->areas);
	if (!pager->nr_late_moves && !ferryi_events_to_come(pager) &&
	    ferryi_areas_find_locked(&pager->areas, run->va, &ref) && ref.object == run->object &&
	    ref.index == run->index && ref.area_pages_left >= run->nr)
		rc = look_at_mapping(pager, run->va, bytes_of(run), !to_shared, &vma);
	if (!rc && prot_of(&vma) != prot_of(seen))
		rc = -EAGAIN;
	if (!rc) {
		c->run = *run;
		c->to_shared = to_shared;
		c->unmap_to_come = true;
		atomic_store(&c->remap_to_come, true);
	}
	ferryi_areas_read_unlock(&pager->areas);
	ferryi_mutex_unlock(&pager->events_lock);
	return rc;
}

/* No mapping has been replaced. */
static void cancel_own(struct ferryi_pager *pager)
{
	ferryi_mutex_lock(&pager->events_lock);
	pager->coherent.unmap_to_come = false;
	atomic_store(&pager->coherent.remap_to_come, false);
	ferryi_mutex_unlock(&pager->events_lock);
}

/* Pages of the run around this address; what lies there is nobody's to judge, also for the sanitizers. */
__attribute__((no_sanitize("address", "thread"))) static void touch_around(const struct ferryi_coherent_run *run, uintptr_t at)
{
	uintptr_t page = at & ~(uintptr_t)(FERRYI_PAGE_SIZE - 1);
	uintptr_t from = ferryi_max_u64(run->va, page - OWN_BYTES), to = ferryi_min_u64(run->va + bytes_of(run), page + OWN_BYTES);

	for (uintptr_t va = from; va < to; va += FERRYI_PAGE_SIZE)
		(void)*(volatile char *)va;
}

/*
 * What this thread stands on may have been replaced: its stack, as deep as the calls to come go and as high as they
 * return, and its thread-local memory (errno), which lies at the stack's upper end. It comes back by touch; but a
 * touch with a lock held that fault threads take, too, would never end. So at once.
 */
static void touch_own(const struct ferryi_coherent_run *run)
{
	touch_around(run, (uintptr_t)__builtin_frame_address(0));
	touch_around(run, (uintptr_t)pthread_self());
}

/* The kernel has waited until the events were read; now until they are applied, too. No lock: see above. */
static void finish_own(struct ferryi_pager *pager, const struct ferryi_coherent_run *run, const struct ferryi_vma *vma)
{
	while (atomic_load(&pager->coherent.remap_to_come))
		sched_yield();
	if (vma->readable)
		touch_own(run);
}

/* ---- the window ---- */

/* What is in it by now is armed, and would send an event of its being unmapped. */
static void clear_window(struct ferryi_pager *pager, size_t len)
{
	ferryi_uffd_unregister(pager->uffd, pager->coherent.window, len);
	mmap(pager->coherent.window, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	madvise(pager->coherent.window, len, MADV_DONTDUMP); /* as the arena: the mappings merge */
}

static int fill_window_shared(struct ferryi_pager *pager, const struct ferryi_coherent_run *run, int prot)
{
	uint64_t pfn = ferryi_object_pfn(run->object, run->index);
	const struct ferryi_subsection *sub = ferryi_subsection_of(pager->model, pfn);
	off_t off = (off_t)(sub->remote_off + (pfn % FERRYI_PAGES_PER_SUBSECTION) * FERRYI_PAGE_SIZE);
	size_t len = bytes_of(run);

	if (mmap(pager->coherent.window, len, prot, MAP_SHARED | MAP_FIXED, sub->memfd, off) == MAP_FAILED)
		return -errno;
	madvise(pager->coherent.window, len, MADV_DONTFORK);
	return ferryi_uffd_register_shared(pager->uffd, pager->coherent.window, len);
}

static int fill_window_holes(struct ferryi_pager *pager, const struct ferryi_coherent_run *run, int prot)
{
	size_t len = bytes_of(run);

	if (mmap(pager->coherent.window, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
	    MAP_FAILED)
		return -errno;
	madvise(pager->coherent.window, len, MADV_DONTFORK);
	madvise(pager->coherent.window, len, MADV_NOHUGEPAGE);
	int rc = ferryi_uffd_register(pager->uffd, pager->coherent.window, len, true);

	return rc ? rc : ferryi_uffd_mark(pager->uffd, pager->coherent.window, len, true);
}

/*
 * The pool's pages come to the run's addresses, or marked holes do. 0, and the words are COHERENT, or AWAY; else they
 * are still ours: -EAGAIN (not as it was seen, look again), -ENOMEM.
 * ASSUMPTION: the words are FETCHING (ours), the mirrors told.
 */
static int replace(struct ferryi_pager *pager, const struct ferryi_coherent_run *run, bool to_shared)
{
	uint8_t *window = pager->coherent.window;
	size_t len = bytes_of(run);
	struct ferryi_vma vma;
	int rc = look_at_mapping(pager, run->va, len, !to_shared, &vma);

	if (rc)
		return rc;
	rc = to_shared ? fill_window_shared(pager, run, prot_of(&vma)) : fill_window_holes(pager, run, prot_of(&vma));
	rc = rc ? rc : begin_own(pager, run, to_shared, &vma);
	if (!rc) {
		if (mremap(window, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, (void *)run->va) == MAP_FAILED) {
			rc = -errno;
			cancel_own(pager);
		} else {
			finish_own(pager, run, &vma);
		}
	}
	clear_window(pager, len);
	if (rc && rc != -EAGAIN)
		ferryi_error("coherent pool: the mapping of %#lx cannot be replaced: %s%s", (unsigned long)run->va,
			     ferryi_strerror(rc), rc == -ENOMEM ? " (raise vm.max_map_count)" : "");
	return rc;
}

/* As many pages of the run as the mapping at its first one has. 0, -EAGAIN: none of the right kind. */
static int cut_to_mapping(const struct ferryi_pager *pager, struct ferryi_coherent_run *run, bool shared)
{
	struct ferryi_vma vma;
	int rc = look_at_mapping(pager, run->va, FERRYI_PAGE_SIZE, shared, &vma);

	if (!rc)
		run->nr = ferryi_min_u64(run->nr, (vma.end - run->va) >> FERRYI_PAGE_SHIFT);
	return rc;
}

/* ---- the way in ---- */

static bool may_enter(uint64_t word)
{
	return ferryi_page_state(word) == FERRYI_PAGE_AWAY || ferryi_page_state(word) == FERRYI_PAGE_ABSENT;
}

/*
 * Memory that is being adopted has pages whose words do not tell of them yet: such a hole is none. A marked one shows
 * as swapped and write-protected. What cannot be looked at (no right to pagemap) is taken for a page.
 */
#define PM_PRESENT (1ULL << 63)
#define PM_SWAPPED (1ULL << 62)
#define PM_UFFD_WP (1ULL << 57)

static bool is_hole(uint64_t pagemap_entry)
{
	return !(pagemap_entry & PM_PRESENT) && (!(pagemap_entry & PM_SWAPPED) || (pagemap_entry & PM_UFFD_WP));
}

/* AWAY and ABSENT -> FETCHING (ours); run->nr: how many. was: their states. */
static void claim_in(struct ferryi_pager *pager, struct ferryi_coherent_run *run, uint8_t *was)
{
	uint64_t entry[FERRYI_PAGES_PER_BLOCK];
	ssize_t len = pread(pager->pagemap_fd, entry, run->nr * sizeof(entry[0]),
			    (off_t)(run->va >> FERRYI_PAGE_SHIFT) * (off_t)sizeof(entry[0]));
	size_t n = 0;

	for (; n < run->nr; n++) {
		uint64_t old = ferryi_page_load(&run->object->words[run->index + n]);

		was[n] = (uint8_t)ferryi_page_state(old);
		if (!may_enter(old) ||
		    (was[n] == FERRYI_PAGE_ABSENT && (len < (ssize_t)((n + 1) * sizeof(entry[0])) || !is_hole(entry[n]))) ||
		    !ferryi_page_cas(&run->object->words[run->index + n], &old, FERRYI_PAGE_FETCHING))
			break;
		if (was[n] == FERRYI_PAGE_AWAY)
			ferryi_uncount(&pager->counters.g_away_pages, 1);
	}
	run->nr = n;
}

/* Holes get a place in the pool, and zeros there. */
static int take_places(struct ferryi_pager *pager, const struct ferryi_coherent_run *run, const uint8_t *was)
{
	int rc = 0;

	for (size_t i = 0; i < run->nr; i++) {
		uint64_t pfn = ferryi_object_pfn(run->object, run->index + i);

		if (was[i] != FERRYI_PAGE_ABSENT)
			continue;
		ferryi_page_store(pager, pfn);
		rc = rc ? rc : ferryi_coherent_io(pager, pfn, 0, NULL, pager->zeros, FERRYI_PAGE_SIZE);
	}
	return rc;
}

/* FETCHING (ours) -> what they were. */
static void unclaim_in(struct ferryi_pager *pager, const struct ferryi_coherent_run *run, const uint8_t *was, bool have_places)
{
	for (size_t i = 0; i < run->nr; i++) {
		size_t index = run->index + i;

		if (was[i] == FERRYI_PAGE_AWAY) {
			ferryi_page_stays_away(pager, run->object, index);
		} else {
			if (have_places)
				ferryi_page_store_undo(pager, ferryi_object_pfn(run->object, index));
			ferryi_page_release(&run->object->words[index], FERRYI_PAGE_ABSENT);
		}
	}
}

/* Under the locks: maps pages from i on; how many, 0: not this one, or -EAGAIN, .... */
static long map_some_locked(struct ferryi_pager *pager, const struct ferryi_coherent_run *run, size_t i)
{
	uintptr_t va = run->va + i * FERRYI_PAGE_SIZE;
	struct ferryi_page_ref ref;
	size_t n = 0;

	if (!ferryi_areas_find_locked(&pager->areas, va, &ref) || ref.object != run->object || ref.index != run->index + i)
		return 0;
	while (i + n < run->nr && n < ref.area_pages_left &&
	       ferryi_page_load(&run->object->words[ref.index + n]) == FERRYI_PAGE_COHERENT)
		n++;
	long rc = n ? ferryi_uffd_continue(pager->uffd, (void *)va, n * FERRYI_PAGE_SIZE) : 0;

	return rc == -EEXIST ? 0 : rc > 0 ? rc / (long)FERRYI_PAGE_SIZE : rc;
}

/* So that nobody has to fault; what cannot be mapped now, or was dropped, is by a fault. */
static void map_pages(struct ferryi_pager *pager, const struct ferryi_coherent_run *run, uint64_t deadline_ns)
{
	for (size_t i = 0; i < run->nr;) {
		ferryi_mutex_lock(&pager->events_lock);
		ferryi_areas_read_lock(&pager->areas);
		long rc = map_some_locked(pager, run, i);

		ferryi_areas_read_unlock(&pager->areas);
		ferryi_mutex_unlock(&pager->events_lock);
		if (rc == -EAGAIN && ferryi_now_ns() < deadline_ns)
			poll(NULL, 0, PAUSE_MS);
		else
			i += rc > 0 ? (size_t)rc : 1;
	}
}

/* The run's block is bound to the pool, and not on its way off it: for ferryi_block_is_still. */
static bool is_bound_to(struct ferryi_pager *pager, const struct ferryi_coherent_run *run, const struct ferry_pool *pool, uint32_t *bound)
{
	uint32_t sub = atomic_load(&run->object->blocks[run->index / FERRYI_PAGES_PER_BLOCK].subsection);
	const struct ferryi_subsection *info =
		sub ? ferryi_subsection_of(pager->model, (uint64_t)(sub - 1) * FERRYI_PAGES_PER_SUBSECTION) : NULL;

	*bound = sub;
	return !(sub & FERRYI_BLOCK_LEAVING) && info && ferryi_subsection_pool(info) == pool;
}

static int enter_run(struct ferryi_pager *pager, struct ferry_pool *pool, struct ferryi_coherent_run *run, uint64_t deadline_ns)
{
	struct ferryi_block *block = &run->object->blocks[run->index / FERRYI_PAGES_PER_BLOCK];
	struct ferryi_notice *notice = &pager->coherent.notice;
	uint8_t was[FERRYI_PAGES_PER_BLOCK];
	uint32_t bound;

	if (!is_bound_to(pager, run, pool, &bound))
		return 0; /* a call for the pool's end, or a migration elsewhere, has come between */
	int rc = cut_to_mapping(pager, run, false);

	if (rc)
		return rc;
	claim_in(pager, run, was);
	if (!run->nr)
		return 0;
	if (!ferryi_block_is_still(block, bound)) {
		unclaim_in(pager, run, was, false);
		ferryi_uffd_wake(pager->uffd, (void *)run->va, bytes_of(run));
		return 0;
	}
	ferryi_children_save(pager, run->object, run->index, run->nr); /* the CPU may write there from now on */
	rc = take_places(pager, run, was);
	ferryi_notify_begin(pager->attr.notifier, notice, run->va, bytes_of(run), FERRY_UPDATE_MIGRATE, ferryi_pool_owner(pool));
	rc = rc ? rc : replace(pager, run, true);
	if (rc)
		unclaim_in(pager, run, was, true);
	ferryi_notify_end(notice);
	if (!rc)
		map_pages(pager, run, deadline_ns);
	ferryi_uffd_wake(pager->uffd, (void *)run->va, bytes_of(run));
	return rc;
}

int ferryi_coherent_enter_locked(struct ferryi_pager *pager, struct ferry_pool *pool, const struct ferryi_page_ref *ref,
				 size_t nr)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms / 4);
	int rc = 0;

	ferryi_assert_held(&pager->service_lock);
	for (size_t i = 0; i < nr && !ferryi_pool_is_killed(pool);) {
		struct ferryi_coherent_run run = { ref->object, ref->index + i, ref->va + i * FERRYI_PAGE_SIZE, nr - i };

		if (!may_enter(ferryi_page_load(&ref->object->words[run.index]))) {
			i++;
			continue;
		}
		rc = enter_run(pager, pool, &run, deadline_ns);
		if (rc == -EAGAIN && ferryi_now_ns() < deadline_ns) {
			poll(NULL, 0, PAUSE_MS);
			continue;
		}
		if (rc)
			break;
		i += run.nr ? run.nr : 1; /* somebody has taken it meanwhile: it stays where it is */
	}
	return rc == -EAGAIN ? -ETIMEDOUT : rc;
}

/* ---- the way out ---- */

static bool belongs(struct ferryi_pager *pager, const struct ferryi_coherent_part *part, const struct ferryi_object *object,
		    size_t index)
{
	struct ferryi_remote remote;
	uint64_t off;

	if (part->object && (part->object != object || part->block != index / FERRYI_PAGES_PER_BLOCK))
		return false;
	struct ferry_pool *pool = ferryi_locate(pager, ferryi_object_pfn(object, index), &remote, &off);

	return pool && ferryi_pool_is_coherent(pool) && (!part->pool || part->pool == pool);
}

static bool is_coherent(const struct ferryi_object *object, size_t index, bool *moving)
{
	enum ferryi_page_state state = ferryi_page_state(ferryi_page_load(&object->words[index]));

	*moving |= state == FERRYI_PAGE_FETCHING;
	return state == FERRYI_PAGE_COHERENT;
}

/* The first run of the part in [va, end) of the area, within one block; *moving: a page may yet become coherent. */
static bool find_in_area(struct ferryi_pager *pager, const struct ferryi_coherent_part *part, const struct ferryi_area *area,
			 uintptr_t va, uintptr_t end, struct ferryi_coherent_run *run, bool *moving)
{
	for (uintptr_t stop; va < end; va = stop) {
		size_t index = area->first_page + ((va - area->start) >> FERRYI_PAGE_SHIFT);
		size_t left = FERRYI_PAGES_PER_BLOCK - index % FERRYI_PAGES_PER_BLOCK;
		size_t nr = ferryi_min_u64(left, (end - va) >> FERRYI_PAGE_SHIFT), i = 0, n = 0;

		stop = va + nr * FERRYI_PAGE_SIZE;
		if (!belongs(pager, part, area->object, index))
			continue;
		while (i < nr && !is_coherent(area->object, index + i, moving))
			i++;
		while (i + n < nr && is_coherent(area->object, index + i + n, moving))
			n++;
		if (n) {
			*run = (struct ferryi_coherent_run){ area->object, index + i, va + i * FERRYI_PAGE_SIZE, n };
			return true;
		}
	}
	return false;
}

/* The first run of the part at or after va; its pages are ours then (FETCHING), run->nr of them. */
static bool claim_out(struct ferryi_pager *pager, const struct ferryi_coherent_part *part, uintptr_t va, struct ferryi_coherent_run *run,
		      bool *moving)
{
	bool found = false;
	size_t n = 0;

	ferryi_areas_read_lock(&pager->areas);
	for (unsigned i = 0; i < pager->areas.nr_areas && !found; i++) {
		const struct ferryi_area *area = &pager->areas.areas[i];
		uintptr_t from = ferryi_max_u64(ferryi_max_u64(area->start, part->start), va);

		found = find_in_area(pager, part, area, from, ferryi_min_u64(area->end, part->end), run, moving);
	}
	if (found && cut_to_mapping(pager, run, true))
		run->nr = 0; /* an event of it is to come */
	for (; found && n < run->nr; n++) {
		uint64_t old = ferryi_page_load(&run->object->words[run->index + n]);

		if (ferryi_page_state(old) != FERRYI_PAGE_COHERENT ||
		    !ferryi_page_cas(&run->object->words[run->index + n], &old, ferryi_page_with(old, FERRYI_PAGE_FETCHING)))
			break;
	}
	run->nr = n;
	ferryi_areas_read_unlock(&pager->areas);
	return found;
}

static int leave_run(struct ferryi_pager *pager, const struct ferryi_coherent_run *run, const void *owner)
{
	struct ferryi_notice *notice = &pager->coherent.notice;

	ferryi_notify_begin(pager->attr.notifier, notice, run->va, bytes_of(run), FERRY_UPDATE_MIGRATE, owner);
	int rc = replace(pager, run, false);

	if (rc)
		settle_coherent(run);
	ferryi_notify_end(notice);
	ferryi_uffd_wake(pager->uffd, (void *)run->va, bytes_of(run));
	return rc;
}

int ferryi_coherent_leave_locked(struct ferryi_pager *pager, const struct ferryi_coherent_part *part, const void *owner)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	uintptr_t va = part->start;
	bool moving = false, any = false;

	ferryi_assert_held(&pager->service_lock);
	/* An mremap may take pages to where we have been: it is over when one look at all of the part finds none. */
	while (ferryi_counter_read(&pager->counters.g_coherent_pages)) {
		struct ferryi_coherent_run run = { 0 };
		int rc = 0;

		if (claim_out(pager, part, va, &run, &moving)) {
			any = true;
			rc = run.nr ? leave_run(pager, &run, owner) : -EAGAIN;
			va = rc ? va : run.va + run.nr * FERRYI_PAGE_SIZE;
		} else if (any || moving) {
			rc = moving ? -EAGAIN : 0;
			va = part->start;
			moving = any = false;
		} else {
			break;
		}
		if (rc == -EAGAIN && ferryi_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		if (rc == -EAGAIN)
			poll(NULL, 0, PAUSE_MS);
		else if (rc)
			return rc;
	}
	return 0;
}

int ferryi_coherent_leave(struct ferryi_pager *pager, const struct ferryi_coherent_part *part)
{
	if (!ferryi_counter_read(&pager->counters.g_coherent_pages))
		return 0;
	ferryi_mutex_lock(&pager->service_lock);
	int rc = ferryi_coherent_leave_locked(pager, part, NULL);

	ferryi_mutex_unlock(&pager->service_lock);
	return rc;
}
