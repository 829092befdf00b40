/*
 * The thread `ferry-fork`: answers the faults of children of fork, follows
 * their own changes to inherited ranges, and sees them end. See child.h.
 */
#include "child.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "copies.h"
#include "log.h"
#include "orphan.h"
#include "pager_priv.h"
#include "thread.h"

#define PAUSE_MS    1

/* ---- reading ---- */

/* One read into the buffer, from the first location that has a channel. 0, -EAGAIN (none has now), or why it failed. */
static int read_once_locked(struct ferryi_pager *pager, struct ferry_pool *pool, uint64_t pfn, struct ferryi_op *op)
{
	const struct ferryi_subsection *sub = ferryi_subsection_of(pager->model, pfn);
	struct ferryi_lines *lines = &pager->children.lines;
	struct ferryi_location from;
	struct ferryi_op *p = op;
	bool is_there;
	int n;

	ferryi_pool_locations_begin(pool);
	for (unsigned k = 0; k < FERRYI_POOL_LOCATIONS; k++) {
		if (ferryi_pool_location(pool, sub, pfn, k, &from))
			ferryi_lines_need(lines, from.lender); /* opened when a child first needs it */
	}
	struct ferryi_channel *channel = ferryi_copies_source(lines, pool, sub, pfn, &from, &is_there);

	if (channel) {
		op->remote = from.remote;
		op->remote_off = from.off;
		op->deadline_ns = ferryi_copies_deadline(pager, pool, sub, pfn, &from, op->deadline_ns);
	}
	bool is_posted = channel && ferryi_channel_submit(channel, &p, 1) == 1;

	ferryi_pool_locations_end(pool);
	if (!is_posted) {
		poll(NULL, 0, PAUSE_MS);
		return -EAGAIN;
	}
	while ((n = ferryi_channel_poll(channel, &p, 1)) == 0)
		ferryi_cpu_relax();
	if (n < 0 || op->status)
		ferryi_copies_avoid(pool, from.lender->index);
	return n < 0 ? n : op->status;
}

/* As ferryi_child_giver.read. */
static int read_places(void *ctx, const struct ferryi_child_object *copy, size_t index, size_t nr)
{
	struct ferryi_pager *pager = ctx;
	uint64_t pfn = ferryi_child_pfn(copy, index);
	struct ferryi_op op = { .kind = FERRYI_OP_READ,
				.local = pager->children.giver.buf,
				.len_bytes = nr * FERRYI_PAGE_SIZE,
				.deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms) };
	struct ferry_pool *pool = ferryi_locate(pager, pfn, &op.remote, &op.remote_off);
	const uint64_t deadline_ns = op.deadline_ns;
	int rc;

	ferryi_assert_held(&pager->children.lock);
	do {
		if (!pool || ferryi_pool_lost(pool))
			return -ENOTCONN;
		for (size_t i = 0; ferryi_pool_any_failed(pool) && i < nr; i++) { /* of its own memory; others are not asked */
			if (ferryi_pool_page_failed(pool, pfn + i))
				return -EHWPOISON;
		}
		op.deadline_ns = deadline_ns;
		rc = read_once_locked(pager, pool, pfn, &op);
	} while (rc && ferryi_now_ns() < deadline_ns);
	return rc;
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
					ferryi_child_give_pages(&pager->children.giver, child, copy, index, index + 1);
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
				ferryi_child_give_pages(&pager->children.giver, child, copy, index, index + nr);
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
	ferryi_child_give_pages(&pager->children.giver, child, copy, first,
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

static void serve_locked(struct ferryi_pager *pager)
{
	struct ferryi_children *children = &pager->children;

	for (unsigned c = 0; c < children->nr;) {
		struct ferryi_child *child = children->child[c];

		ferryi_child_serve(&children->giver, child);
		if (child->gone || ferryi_child_has_ended(child))
			remove_locked(pager, c);
		else
			c++;
	}
	ferryi_heir_rest_locked(pager);
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

	children->giver = (struct ferryi_child_giver){ .buf = ferryi_arena_alloc(pager->arena, bytes),
						      .timeout_ms = (uint32_t)pager->attr.fault_timeout_ms,
						      .ctx = pager,
						      .read = read_places };
	children->orphan_stack = ferryi_arena_alloc(pager->arena, FERRYI_ORPHAN_STACK_BYTES);
	if (!children->giver.buf || !children->orphan_stack)
		return -ENOMEM;
	ferryi_heir_open(pager);
	children->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (children->kick_fd < 0)
		return -errno;
	int rc = ferryi_lines_init(&children->lines, pager->keeper, children->giver.buf, bytes, 1, children->kick_fd);

	if (!rc)
		rc = ferryi_thread_start(&children->thread, children_main, pager);
	children->started = !rc;
	return rc;
}

static void release_locked(struct ferryi_pager *pager, struct ferryi_child *child)
{
	leave_pool_locked(pager, child, NULL);
	ferryi_child_disarm(&pager->children.giver, child); /* what it leaves armed, orphan.c answers with SIGBUS */
}

void ferryi_children_give_all(struct ferryi_pager *pager)
{
	ferryi_mutex_lock(&pager->children.lock);
	for (unsigned c = 0; c < pager->children.nr; c++)
		release_locked(pager, pager->children.child[c]);
	ferryi_heir_rest_locked(pager);
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
	ferryi_heir_close_locked(pager);
	ferryi_mutex_unlock(&children->lock);
}
