/* Address space of a pool. See window.h. */
#include "window.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "arith.h"
#include "backing.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

void ferryi_window_init(struct ferryi_window *window)
{
	*window = (struct ferryi_window){.sections = NULL};
	ferryi_mutex_init(&window->lock, FERRYI_RANK_LEAF);
}

void ferryi_window_fini(struct ferryi_window *window)
{
	for (size_t i = 0; i < window->nsections; i++)
		munmap(window->sections[i], FERRYI_SECTION_SIZE);
	free(window->sections);
	ferryi_mutex_fini(&window->lock);
}

/* Addresses for n sections in a row, at a multiple of 2 MiB (huge pages want that); NULL: none. */
static char *reserve(size_t n)
{
	size_t len_bytes = n << FERRYI_SECTION_SHIFT, head;
	char *base = mmap(NULL, len_bytes + FERRYI_SUBSECTION_SIZE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (base == MAP_FAILED)
		return NULL;
	head = ferryi_align_up((uintptr_t)base, FERRYI_SUBSECTION_SIZE) - (uintptr_t)base;
	if (head)
		munmap(base, head);
	munmap(base + head + len_bytes, FERRYI_SUBSECTION_SIZE - head);
	return base + head;
}

/* Spans for every section below `to`. 0 or -ENOMEM. */
static int add_sections(struct ferryi_window *window, uint64_t to)
{
	size_t want = (size_t)((to + FERRYI_SECTION_SIZE - 1) >> FERRYI_SECTION_SHIFT);
	size_t have = window->nsections; /* only this thread changes it */
	char **sections, *base;

	if (want <= have)
		return 0;
	base = reserve(want - have);
	if (!base)
		return -ENOMEM;
	ferryi_mutex_lock(&window->lock);
	sections = realloc(window->sections, want * sizeof(*sections));
	if (sections) {
		window->sections = sections;
		for (size_t i = have; i < want; i++)
			sections[i] = base + ((i - have) << FERRYI_SECTION_SHIFT);
		window->nsections = want;
	}
	ferryi_mutex_unlock(&window->lock);
	if (!sections)
		munmap(base, (want - have) << FERRYI_SECTION_SHIFT);
	return sections ? 0 : -ENOMEM;
}

void *ferryi_window_at(struct ferryi_window *window, uint64_t off)
{
	char *base;

	ferryi_mutex_lock(&window->lock);
	base = window->sections[off >> FERRYI_SECTION_SHIFT] + (off & (FERRYI_SECTION_SIZE - 1));
	ferryi_mutex_unlock(&window->lock);
	return base;
}

bool ferryi_window_find(struct ferryi_window *window, uintptr_t addr, uint64_t *off)
{
	bool found = false;

	ferryi_mutex_lock(&window->lock);
	for (size_t i = 0; i < window->nsections && !found; i++) {
		uintptr_t base = (uintptr_t)window->sections[i];

		found = addr >= base && addr - base < FERRYI_SECTION_SIZE;
		if (found)
			*off = ((uint64_t)i << FERRYI_SECTION_SHIFT) + (addr - base);
	}
	ferryi_mutex_unlock(&window->lock);
	return found;
}

/* The first part of [from, to) whose addresses are in a row: its length, and its base in *base. */
static size_t piece_at(struct ferryi_window *window, uint64_t from, uint64_t to, char **base)
{
	size_t i = (size_t)(from >> FERRYI_SECTION_SHIFT);
	uint64_t end = (uint64_t)(i + 1) << FERRYI_SECTION_SHIFT;

	*base = ferryi_window_at(window, from);
	for (; end < to && window->sections[i + 1] == window->sections[i] + FERRYI_SECTION_SIZE; i++)
		end += FERRYI_SECTION_SIZE;
	return (size_t)(ferryi_min_u64(end, to) - from);
}

void ferryi_window_unmap(struct ferryi_window *window, uint64_t from, uint64_t to)
{
	char *base;

	to = ferryi_min_u64(to, (uint64_t)window->nsections << FERRYI_SECTION_SHIFT);
	while (from < to) {
		size_t len_bytes = piece_at(window, from, to, &base);

		mmap(base, len_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
		     0);
		from += len_bytes;
	}
}

int ferryi_window_map(struct ferryi_window *window, uint64_t from, uint64_t to, int flags, int fd)
{
	int rc = add_sections(window, to);
	uint64_t at = from;
	char *base;

	while (!rc && at < to) {
		size_t len_bytes = piece_at(window, at, to, &base);

		if (mmap(base, len_bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd,
			 fd < 0 ? 0 : (off_t)at) == MAP_FAILED) {
			rc = -errno;
			ferryi_window_unmap(window, from, at + len_bytes);
			break;
		}
		/* A pool must not end up in a core file, nor be seen by a forked child. */
		madvise(base, len_bytes, MADV_DONTDUMP);
		madvise(base, len_bytes, MADV_DONTFORK);
		at += len_bytes;
	}
	return rc;
}

int ferryi_window_bind(struct ferryi_window *window, uint64_t from, uint64_t to, int numa_node)
{
	int rc = 0;
	char *base;

	while (!rc && from < to) {
		size_t len_bytes = piece_at(window, from, to, &base);

		rc = ferryi_backing_bind(base, len_bytes, numa_node);
		from += len_bytes;
	}
	return rc;
}

/* ---- populating ---- */

struct populate {
	struct ferryi_window *window;
	uint64_t from, to;
};

static int populate_memory(char *base, size_t len_bytes)
{
	while (madvise(base, len_bytes, MADV_POPULATE_WRITE)) {
		if (errno == EINTR || errno == EAGAIN)
			continue;
		if (errno != EINVAL)
			return -errno;
		/* Kernel older than 5.14: touch every page (a huge one is touched more than once, which does
		 * no harm). */
		for (size_t at = 0; at < len_bytes; at += FERRYI_PAGE_SIZE)
			((volatile char *)base)[at] = 0;
		return 0;
	}
	return 0;
}

static int populate_section(void *ctx, size_t i)
{
	const struct populate *populate = ctx;
	uint64_t section = (populate->from >> FERRYI_SECTION_SHIFT) + i;
	uint64_t from = ferryi_max_u64(populate->from, section << FERRYI_SECTION_SHIFT);
	uint64_t to = ferryi_min_u64(populate->to, (section + 1) << FERRYI_SECTION_SHIFT);

	return populate_memory(ferryi_window_at(populate->window, from), (size_t)(to - from));
}

int ferryi_window_populate(struct ferryi_window *window, uint64_t from, uint64_t to)
{
	struct populate populate = {.window = window, .from = from, .to = to};

	if (from == to)
		return 0;
	return ferryi_backing_parallel(
		(size_t)(((to - 1) >> FERRYI_SECTION_SHIFT) - (from >> FERRYI_SECTION_SHIFT) + 1),
		populate_section, &populate);
}
