/*
 * The thread `ferry-fork`: answers the faults of children of fork, follows
 * their own changes to inherited ranges, and sees them end. See child.h.
 */
#include "child.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bitmap.h"
#include "clock.h"
#include "log.h"
#include "orphan.h"
#include "pager_priv.h"
#include "thread.h"
#include "uapi.h"
#include "uffd.h"

#define EVENT_BATCH 16u
#define PAUSE_MS    1

static struct ferryi_child_object *copy_of(const struct ferryi_page_ref *ref)
{
	return (struct ferryi_child_object *)ref->object;
}

/* ---- pages ---- */

static void not_needed(struct ferryi_child *child, struct ferryi_child_object *copy, size_t index)
{
	if (ferryi_bitmap_test(copy->needed, index))
		child->nr_needed--;
	ferryi_bitmap_clear(copy->needed, index);
}

static void set_lost(struct ferryi_child *child, struct ferryi_child_object *copy, size_t index)
{
	not_needed(child, copy, index);
	if (!ferryi_bitmap_test(copy->lost, index))
		child->nr_lost++;
	ferryi_bitmap_set(copy->lost, index);
}

static uint64_t place_of(const struct ferryi_child_object *copy, size_t index)
{
	return (uint64_t)(copy->subsection[index / FERRYI_PAGES_PER_BLOCK] - 1) * FERRYI_PAGES_PER_SUBSECTION +
	       index % FERRYI_PAGES_PER_BLOCK;
}

/* Needed pages from index on: neighbours in one block, at most FERRYI_CHILD_RUN. */
static size_t run_of(const struct ferryi_child_object *copy, size_t index, size_t max)
{
	size_t n = 0;

	max = ferryi_min_u64(max, FERRYI_PAGES_PER_BLOCK - index % FERRYI_PAGES_PER_BLOCK);
	max = ferryi_min_u64(ferryi_min_u64(max, FERRYI_CHILD_RUN), copy->as_object.nr_pages - index);
	while (n < max && ferryi_bitmap_test(copy->needed, index + n))
		n++;
	return n;
}

/* ---- reading ---- */

/* The channel to the pool, opened when a child first needs it; NULL: not now. */
static struct ferryi_channel *channel_to(struct ferryi_lines *lines, struct ferry_pool *pool)
{
	unsigned index = ferryi_pool_index(pool);
	struct ferryi_channel *old = lines->link[index].channel;
	int state = atomic_load(&lines->link[index].state);
	struct ferryi_op *op;

	if (old && ferryi_channel_is_dead(old) && ferryi_channel_poll(old, &op, 1) < 0)
		ferryi_lines_broken(lines, index);
	if (state == FERRYI_LINK_NONE || state == FERRYI_LINK_CLOSED)
		ferryi_lines_want(lines, pool);
	return ferryi_lines_channel(lines, index);
}

/* One read into the buffer. 0, -EAGAIN (no channel now), or why it failed. */
static int read_once_locked(struct ferryi_pager *pager, struct ferry_pool *pool, struct ferryi_op *op)
{
	struct ferryi_channel *channel = channel_to(&pager->children.lines, pool);
	struct ferryi_op *p = op;
	int n;

	if (!channel || ferryi_channel_submit(channel, &p, 1) != 1) {
		poll(NULL, 0, PAUSE_MS);
		return -EAGAIN;
	}
	while ((n = ferryi_channel_poll(channel, &p, 1)) == 0)
		ferryi_cpu_relax();
	return n < 0 ? n : op->status;
}

/* The old content of nr places into the buffer. 0, or: it is not to be had. Blocks, within the fault timeout. */
static int read_places_locked(struct ferryi_pager *pager, uint64_t pfn, size_t nr)
{
	struct ferryi_op op = { .kind = FERRYI_OP_READ,
				.local = pager->children.buf,
				.len_bytes = nr * FERRYI_PAGE_SIZE,
				.deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms) };
	struct ferry_pool *pool = ferryi_locate(pager, pfn, &op.remote, &op.remote_off);
	uint64_t deadline_ns = op.deadline_ns;
	int rc;

	ferryi_assert_held(&pager->children.lock);
	do {
		if (!pool || ferryi_pool_lost(pool))
			return -ENOTCONN;
		for (size_t i = 0; ferryi_pool_any_failed(pool) && i < nr; i++) {
			if (ferryi_pool_page_failed(pool, pfn + i))
				return -EHWPOISON;
		}
		rc = read_once_locked(pager, pool, &op);
	} while (rc && ferryi_now_ns() < deadline_ns);
	return rc;
}

/* ---- into the child ---- */

static void read_events_locked(struct ferryi_pager *pager, struct ferryi_child *child, bool answer);

/* One page; what cannot be given is lost. `from` NULL: poison. false: it could not be, and is a hole still. */
static bool put_page_locked(struct ferryi_pager *pager, struct ferryi_child *child, struct ferryi_child_object *copy,
			    size_t index, const uint8_t *from)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	uintptr_t va;
	long rc = -EAGAIN;

	/* The child's own munmap or mremap moves the page under way: its events say where it is now. */
	while ((rc == -EAGAIN || rc == -ENOMEM) && !child->gone && ferryi_now_ns() < deadline_ns) {
		if (!ferryi_areas_va_locked(&child->areas, &copy->as_object, index, &va) ||
		    (from && !ferryi_bitmap_test(copy->needed, index)))
			return true; /* unmapped or dropped by the child: who waits for it is woken by on_fault_locked */
		rc = from ? ferryi_uffd_copy(child->uffd, (void *)va, from, FERRYI_PAGE_SIZE) :
			    ferryi_uffd_poison(child->uffd, (void *)va);
		if (rc == -EAGAIN || rc == -ENOMEM) {
			read_events_locked(pager, child, false);
			poll(NULL, 0, rc == -ENOMEM ? PAUSE_MS : 0);
		}
	}
	if (rc == -ESRCH)
		child->gone = true;
	if (from && (rc > 0 || rc == -EEXIST))
		not_needed(child, copy, index);
	else if (from)
		set_lost(child, copy, index);
	if (rc == -EEXIST)
		ferryi_uffd_wake(child->uffd, (void *)va, FERRYI_PAGE_SIZE);
	return rc >= 0 || rc == -EEXIST;
}

/* Gives the child pages [index, index + nr), all needed, all of one block. */
static void give_run_locked(struct ferryi_pager *pager, struct ferryi_child *child, struct ferryi_child_object *copy,
			    size_t index, size_t nr)
{
	int rc = read_places_locked(pager, place_of(copy, index), nr);

	if (rc == -EHWPOISON && nr > 1) { /* one bad page is not to spoil its neighbours */
		for (size_t i = 0; i < nr; i++)
			give_run_locked(pager, child, copy, index + i, 1);
		return;
	}
	if (rc && !child->nr_lost)
		ferryi_warn("fork: pages that a child needs cannot be had (%s)", ferryi_strerror(rc));
	for (size_t i = 0; i < nr; i++) {
		if (rc)
			set_lost(child, copy, index + i);
		put_page_locked(pager, child, copy, index + i,
				rc ? NULL : pager->children.buf + i * FERRYI_PAGE_SIZE);
	}
}

/* All that the child needs of pages [index, end) of one of its objects. */
static void give_pages_locked(struct ferryi_pager *pager, struct ferryi_child *child, struct ferryi_child_object *copy,
			      size_t index, size_t end)
{
	while (index < end && !child->gone) {
		index = ferryi_bitmap_next_set(copy->needed, end, index);
		if (index < end)
			give_run_locked(pager, child, copy, index, run_of(copy, index, end - index));
	}
}

/* ---- the child's events ---- */

static void on_fault_locked(struct ferryi_pager *pager, struct ferryi_child *child, uintptr_t va)
{
	struct ferryi_page_ref ref;

	if (!ferryi_areas_find_locked(&child->areas, va, &ref)) {
		ref.object = NULL; /* the old end of an mremap, or growth in place: zeros */
	} else if (ferryi_bitmap_test(copy_of(&ref)->needed, ref.index)) {
		size_t nr = run_of(copy_of(&ref), ref.index, ref.area_pages_left);

		give_run_locked(pager, child, copy_of(&ref), ref.index, nr);
		ferryi_uffd_wake(child->uffd, (void *)va, FERRYI_PAGE_SIZE); /* it may have been moved meanwhile */
		return;
	} else if (ferryi_bitmap_test(copy_of(&ref)->lost, ref.index)) {
		put_page_locked(pager, child, copy_of(&ref), ref.index, NULL);
		return;
	}
	/* EAGAIN, EEXIST, ...: let it fault again, the answer is another one then. */
	if (ferryi_uffd_zero(child->uffd, (void *)va, FERRYI_PAGE_SIZE))
		ferryi_uffd_wake(child->uffd, (void *)va, FERRYI_PAGE_SIZE);
}

static void cut(struct ferryi_child *child, uintptr_t start, uintptr_t end)
{
	struct ferryi_area piece;

	ferryi_child_drop(child, start, end);
	while (ferryi_areas_cut_first_locked(&child->areas, start, end, &piece) == 1)
		;
}

static void move(struct ferryi_child *child, uintptr_t from, uintptr_t to, size_t len)
{
	struct ferryi_area piece;

	cut(child, to, to + len); /* what was there is unmapped: its event may come late, and then finds this */
	while (ferryi_areas_cut_first_locked(&child->areas, from, from + len, &piece) == 1) {
		piece.start = piece.start - from + to;
		piece.end = piece.end - from + to;
		if (ferryi_areas_insert_locked(&child->areas, &piece))
			ferryi_error("fork: a child has more than %u separate ranges", FERRYI_MAX_AREAS);
	}
}

static void on_event_locked(struct ferryi_pager *pager, struct ferryi_child *child, const struct uffd_msg *msg, bool answer)
{
	uintptr_t va = (uintptr_t)msg->arg.pagefault.address & ~(uintptr_t)(FERRYI_PAGE_SIZE - 1);

	switch (msg->event) {
	case UFFD_EVENT_PAGEFAULT:
		if (answer)
			on_fault_locked(pager, child, va);
		else /* in the middle of an answer: this one comes again */
			ferryi_uffd_wake(child->uffd, (void *)va, FERRYI_PAGE_SIZE);
		break;
	case UFFD_EVENT_REMOVE:
		ferryi_child_drop(child, (uintptr_t)msg->arg.remove.start, (uintptr_t)msg->arg.remove.end);
		break;
	case UFFD_EVENT_UNMAP:
		cut(child, (uintptr_t)msg->arg.remove.start, (uintptr_t)msg->arg.remove.end);
		break;
	case UFFD_EVENT_REMAP:
		move(child, (uintptr_t)msg->arg.remap.from, (uintptr_t)msg->arg.remap.to, (size_t)msg->arg.remap.len);
		break;
	default:
		break;
	}
}

static void read_events_locked(struct ferryi_pager *pager, struct ferryi_child *child, bool answer)
{
	struct uffd_msg msgs[EVENT_BATCH];
	ssize_t len = read(child->uffd, msgs, sizeof(msgs));
	unsigned n = len > 0 ? (unsigned)((size_t)len / sizeof(msgs[0])) : 0;

	/* Changes first: a fault that follows a MADV_DONTNEED must not find what that dropped. */
	for (unsigned i = 0; i < n; i++) {
		if (msgs[i].event != UFFD_EVENT_PAGEFAULT)
			on_event_locked(pager, child, &msgs[i], answer);
	}
	for (unsigned i = 0; i < n && !child->gone; i++) {
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			on_event_locked(pager, child, &msgs[i], answer);
	}
}

/* ---- before a place is overwritten ---- */

static bool is_held(struct ferryi_pager *pager, uint64_t pfn)
{
	const struct ferryi_subsection *sub = pfn ? ferryi_subsection_of(pager->model, pfn) : NULL;

	return sub && ferryi_pool_is_held(ferryi_subsection_pool(sub), (uint32_t)(pfn / FERRYI_PAGES_PER_SUBSECTION));
}

void ferryi_children_save_pfn(struct ferryi_pager *pager, uint64_t pfn)
{
	uint32_t sub = (uint32_t)(pfn / FERRYI_PAGES_PER_SUBSECTION) + 1;

	if (!is_held(pager, pfn))
		return;
	ferryi_mutex_lock(&pager->children.lock);
	for (unsigned c = 0; c < pager->children.nr; c++) {
		struct ferryi_child *child = pager->children.child[c];

		for (unsigned o = 0; o < child->nr_objects; o++) {
			struct ferryi_child_object *copy = &child->objects[o];

			for (size_t b = 0; b < copy->as_object.nr_blocks; b++) {
				size_t index = b * FERRYI_PAGES_PER_BLOCK + pfn % FERRYI_PAGES_PER_BLOCK;

				if (copy->subsection[b] == sub && index < copy->as_object.nr_pages)
					give_pages_locked(pager, child, copy, index, index + 1);
			}
		}
	}
	ferryi_mutex_unlock(&pager->children.lock);
}

void ferryi_children_save(struct ferryi_pager *pager, const struct ferryi_object *object, size_t index, size_t nr)
{
	size_t block = index / FERRYI_PAGES_PER_BLOCK;
	uint64_t pfn = ferryi_object_pfn(object, index);

	if (!is_held(pager, pfn))
		return;
	ferryi_mutex_lock(&pager->children.lock);
	for (unsigned c = 0; c < pager->children.nr; c++) {
		struct ferryi_child *child = pager->children.child[c];

		for (unsigned o = 0; o < child->nr_objects; o++) {
			struct ferryi_child_object *copy = &child->objects[o];

			/* The address may be another object's by now: the sub-section tells. */
			if (copy->of == object && block < copy->as_object.nr_blocks &&
			    copy->subsection[block] == pfn / FERRYI_PAGES_PER_SUBSECTION + 1)
				give_pages_locked(pager, child, copy, index, index + nr);
		}
	}
	ferryi_mutex_unlock(&pager->children.lock);
}

static void leave_block_locked(struct ferryi_pager *pager, struct ferryi_child *child, struct ferryi_child_object *copy,
			       size_t b, const struct ferry_pool *pool)
{
	uint64_t first = b * FERRYI_PAGES_PER_BLOCK;
	uint32_t sub = copy->subsection[b];
	const struct ferryi_subsection *info =
		sub ? ferryi_subsection_of(pager->model, (uint64_t)(sub - 1) * FERRYI_PAGES_PER_SUBSECTION) : NULL;

	if (!info || (pool && ferryi_subsection_pool(info) != pool))
		return;
	give_pages_locked(pager, child, copy, first,
			  ferryi_min_u64(first + FERRYI_PAGES_PER_BLOCK, copy->as_object.nr_pages));
	if (child->gone)
		return; /* given with its record */
	copy->subsection[b] = 0;
	ferryi_bind_give(pager, sub - 1);
}

static void leave_pool_locked(struct ferryi_pager *pager, struct ferryi_child *child, const struct ferry_pool *pool)
{
	for (unsigned o = 0; o < child->nr_objects; o++) {
		for (size_t b = 0; b < child->objects[o].as_object.nr_blocks && !child->gone; b++)
			leave_block_locked(pager, child, &child->objects[o], b, pool);
	}
}

void ferryi_children_leave_pool(struct ferryi_pager *pager, const struct ferry_pool *pool)
{
	ferryi_mutex_lock(&pager->children.lock);
	for (unsigned c = 0; c < pager->children.nr; c++)
		leave_pool_locked(pager, pager->children.child[c], pool);
	ferryi_mutex_unlock(&pager->children.lock);
}

/* ---- the thread ---- */

static void remove_locked(struct ferryi_pager *pager, unsigned c)
{
	struct ferryi_children *children = &pager->children;

	ferryi_child_destroy(pager, &children->child[c]);
	children->child[c] = children->child[--children->nr];
}

/* Its end of the socket is closed: it has exited, or execs. It never writes. */
static bool has_ended(const struct ferryi_child *child)
{
	struct pollfd pfd = { .fd = child->sock, .events = POLLIN };

	return poll(&pfd, 1, 0) > 0;
}

static void serve_locked(struct ferryi_pager *pager)
{
	struct ferryi_children *children = &pager->children;

	for (unsigned c = 0; c < children->nr;) {
		struct ferryi_child *child = children->child[c];

		read_events_locked(pager, child, true);
		if (child->gone || has_ended(child))
			remove_locked(pager, c);
		else
			c++;
	}
	ferryi_lines_tend(&children->lines);
}

/* Sleeps until a child wants something, or a new one is there. Only this thread removes children. */
static void rest(struct ferryi_children *children)
{
	struct pollfd pfd[1 + 2 * FERRYI_MAX_CHILDREN] = { { .fd = children->kick_fd, .events = POLLIN } };
	nfds_t n = 1;
	uint64_t count;

	ferryi_mutex_lock(&children->lock);
	for (unsigned c = 0; c < children->nr; c++) {
		pfd[n++] = (struct pollfd){ .fd = children->child[c]->uffd, .events = POLLIN };
		pfd[n++] = (struct pollfd){ .fd = children->child[c]->sock, .events = POLLIN };
	}
	ferryi_mutex_unlock(&children->lock);
	if (poll(pfd, n, -1) > 0 && pfd[0].revents && read(children->kick_fd, &count, sizeof(count)) < 0)
		return; /* EAGAIN: nothing was there after all */
}

static void *children_main(void *arg)
{
	struct ferryi_pager *pager = arg;
	struct ferryi_children *children = &pager->children;

	pthread_setname_np(pthread_self(), "ferry-fork");
	while (!atomic_load(&children->stopping)) {
		ferryi_mutex_lock(&children->lock);
		serve_locked(pager);
		ferryi_mutex_unlock(&children->lock);
		rest(children);
	}
	return NULL;
}

static void kick(struct ferryi_children *children)
{
	uint64_t one = 1;

	if (write(children->kick_fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: kicked already */
}

void ferryi_children_add_locked(struct ferryi_pager *pager, struct ferryi_child *child)
{
	struct ferryi_children *children = &pager->children;

	ferryi_assert_held(&children->lock);
	children->child[children->nr++] = child;
	kick(children);
}

int ferryi_children_open(struct ferryi_pager *pager)
{
	struct ferryi_children *children = &pager->children;
	const size_t bytes = FERRYI_CHILD_RUN * FERRYI_PAGE_SIZE;

	children->buf = ferryi_arena_alloc(pager->arena, bytes);
	children->orphan_stack = ferryi_arena_alloc(pager->arena, FERRYI_ORPHAN_STACK_BYTES);
	if (!children->buf || !children->orphan_stack)
		return -ENOMEM;
	children->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (children->kick_fd < 0)
		return -errno;
	int rc = ferryi_lines_init(&children->lines, pager->keeper, children->buf, bytes, 1, children->kick_fd);

	if (!rc)
		rc = ferryi_thread_start(&children->thread, children_main, pager);
	children->started = !rc;
	return rc;
}

/*
 * Holes of the child read as zeros from now on: there is nothing left that they could hide. If there is, they stay
 * armed, and orphan.c gives SIGBUS.
 */
static void release_locked(struct ferryi_pager *pager, struct ferryi_child *child)
{
	bool all = true;

	leave_pool_locked(pager, child, NULL);
	for (unsigned o = 0; o < child->nr_objects && child->nr_lost; o++) {
		struct ferryi_child_object *copy = &child->objects[o];
		size_t nr = copy->as_object.nr_pages;

		for (size_t i = 0; (i = ferryi_bitmap_next_set(copy->lost, nr, i)) < nr; i++)
			all = put_page_locked(pager, child, copy, i, NULL) && all;
	}
	for (unsigned i = 0; i < child->areas.nr_areas && all && !child->gone; i++) {
		const struct ferryi_area *area = &child->areas.areas[i];

		ferryi_uffd_unregister(child->uffd, (void *)area->start, area->end - area->start);
	}
}

void ferryi_children_give_all(struct ferryi_pager *pager)
{
	ferryi_mutex_lock(&pager->children.lock);
	for (unsigned c = 0; c < pager->children.nr; c++)
		release_locked(pager, pager->children.child[c]);
	ferryi_mutex_unlock(&pager->children.lock);
}

void ferryi_children_close(struct ferryi_pager *pager)
{
	struct ferryi_children *children = &pager->children;

	if (children->started) {
		atomic_store(&children->stopping, true);
		kick(children);
		pthread_join(children->thread, NULL);
	}
	ferryi_children_give_all(pager);
	ferryi_mutex_lock(&children->lock);
	while (children->nr)
		remove_locked(pager, 0);
	ferryi_mutex_unlock(&children->lock);
}
