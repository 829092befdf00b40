/*
 * A pool's references and its end: get, put, kill, evict, drain, poison,
 * detach. argv[1]: the fabric row. The pool of ferry_open ("big") is the one
 * that ends; "test", of 64 MiB, is the one that its pages go to.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "clock.h"
#include "pager_kit.h"

#define PAGES	(16 * FERRYT_MIB / FERRYT_PAGE)
#define THREADS 4u

/* The pool of ferry_open, without a reference. */
static struct ferry_pool *first_pool(struct ferry *ferry)
{
	struct ferry_pool *pool = ferry_pool_at(ferry, 0);

	CHECK(pool);
	ferry_pool_put(pool);
	return pool;
}

static struct ferry_pool *attach_test(struct ferry *ferry)
{
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .pool = "test" };
	struct ferry_pool *pool = NULL;

	CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0);
	return pool;
}

static struct ferry_pool_info info_of(struct ferry_pool *pool)
{
	struct ferry_pool_info info = { .size = sizeof(info) };

	CHECK_INT(ferry_pool_info(pool, &info), 0);
	return info;
}

/* ---- references ---- */

static void references_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *a = first_pool(ferry), *b = attach_test(ferry);
	uint8_t *p = ferryt_mmap(ferry, PAGES * FERRYT_PAGE);
	struct ferry_pool_attr more = { .size = sizeof(more), .type = FERRY_MEM_PRIVATE, .pool = "test",
					.len_bytes = FERRY_SUBSECTION };
	uint64_t pfn_a = info_of(a).pfn_first, pfn_b;
	struct ferry_pool *c;

	ferryt_fill_away(ferry, p, 16, 1);
	CHECK_INT(ferry_pool_detach(b), 0);
	CHECK_INT(ferry_pool_attach(ferry, &more, &b), 0);
	pfn_b = info_of(b).pfn_first;
	/* No hint: looked up, one reference more. */
	c = ferry_pool_get(ferry, pfn_b, NULL);
	CHECK(c == b);
	CHECK_FAILS(ferry_pool_detach(b), -EBUSY, "1 references");
	/* A hint that covers the PFN is returned as it is: no reference more. */
	CHECK(ferry_pool_get(ferry, pfn_b + 5, c) == b);
	CHECK_FAILS(ferry_pool_detach(b), -EBUSY, "1 references");
	/* One that does not is put, and the other looked up. */
	c = ferry_pool_get(ferry, pfn_a, b);
	CHECK(c == a);
	/* ... also when there is none. */
	CHECK(ferry_pool_get(ferry, 1, a) == NULL);
	/* Dying: no new reference, but a hint is one that is held already. */
	c = ferry_pool_get(ferry, pfn_b, NULL);
	CHECK_INT(ferry_pool_kill(b), 0);
	CHECK_INT(ferry_pool_kill(b), 0);
	CHECK(ferry_pool_get(ferry, pfn_b, NULL) == NULL);
	CHECK(ferry_pool_get(ferry, pfn_b, c) == b);
	CHECK_FAILS(ferry_pool_detach(b), -EBUSY, "1 references");
	CHECK_FAILS(ferry_pool_drain(b, 30), -ETIMEDOUT, "1 references");
	ferry_pool_put(c);
	CHECK_INT(ferry_pool_drain(b, 0), 0);
	CHECK_INT(ferry_pool_detach(b), 0);
	CHECK(ferry_pool_get(ferry, pfn_b, NULL) == NULL);
	CHECK(!ferry_pfn_valid(ferry, pfn_b));
	CHECK_INT(ferry_close(ferry), 0);
}

static void get_dev_pagemap__hint_kill_put__references_are_exact(void **state)
{
	(void)state;
	RUN(references_body);
}

/* ---- the helpers of memremap.h ---- */

static int no_replica(struct ferry_pool *pool, uint64_t pfn, void *replica)
{
	(void)pool;
	(void)pfn;
	(void)replica;
	return -EOPNOTSUPP;
}

static void pgmap_body(void)
{
	static const struct ferry_pool_ops none = { 0 }, failure = { .memory_failure = no_replica };
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_altmap altmap = { .reserve = 3, .free = 400 };
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .pool = "test",
					.len_bytes = 3 * FERRY_SUBSECTION, .ops = &failure, .altmap = &altmap }; /* one set aside */
	const uint64_t per_sub = FERRY_COMPAT_ALIGN / FERRYT_PAGE;
	struct ferry_pool *a = first_pool(ferry), *b, *c;

	CHECK_INT(ferry_pool_attach(ferry, &attr, &b), 0);
	attr.altmap = NULL;
	attr.ops = &none;
	CHECK_INT(ferry_pool_attach(ferry, &attr, &c), 0);
	uint64_t first = info_of(b).pfn_first, begin = first + ferry_altmap_offset(&altmap) + altmap.align;

	/* From behind the altmap to the end of what is leased, whoever else's PFNs are valid. */
	CHECK(begin % per_sub == 0);
	CHECK(!ferry_pool_pfn_valid(b, first) && !ferry_pool_pfn_valid(b, begin - 1));
	for (uint64_t pfn = begin; pfn < begin + 2 * per_sub; pfn++)
		CHECK(ferry_pool_pfn_valid(b, pfn) && !ferry_pool_pfn_valid(a, pfn) && !ferry_pool_pfn_valid(c, pfn));
	CHECK(!ferry_pool_pfn_valid(b, begin + 2 * per_sub));
	CHECK(ferry_pool_pfn_valid(c, info_of(c).pfn_first) && !ferry_pool_pfn_valid(b, info_of(c).pfn_first));
	CHECK(!ferry_pool_pfn_valid(NULL, begin) && !ferry_pool_pfn_valid(b, 0) && !ferry_pool_pfn_valid(b, UINT64_MAX));

	CHECK(ferry_pool_has_memory_failure(b));
	CHECK(!ferry_pool_has_memory_failure(a) && !ferry_pool_has_memory_failure(c) && !ferry_pool_has_memory_failure(NULL));

	struct ferry_page *page = ferry_pfn_to_page(ferry, begin);

	CHECK_INT(ferry_page_type(ferry, page), FERRY_MEM_PRIVATE);
	CHECK_INT(ferry_page_type(ferry, NULL), 0); /* of an entry that is in RAM */
	CHECK_INT(ferry_pool_detach(b), 0);
	CHECK_INT(ferry_page_type(ferry, page), 0);
	CHECK(!ferry_pool_pfn_valid(c, begin));
	CHECK_INT(ferry_pool_detach(c), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void pgmap_pfn_valid_has_memory_failure__own_and_others__as_attached(void **state)
{
	(void)state;
	RUN(pgmap_body);
}

static void arguments_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *a = first_pool(ferry);

	CHECK_FAILS(ferry_pool_kill(NULL), -EINVAL, "pool");
	CHECK_FAILS(ferry_pool_evict(NULL), -EINVAL, "pool");
	CHECK_FAILS(ferry_pool_evict(a), -EINVAL, "kill");
	CHECK_FAILS(ferry_pool_drain(a, 1), -EINVAL, "kill");
	CHECK_FAILS(ferry_pool_poison(a), -EINVAL, "kill");
	CHECK_INT(ferry_pool_kill(a), 0);
	CHECK_FAILS(ferry_pool_drain(a, -1), -EINVAL, "-1");
	CHECK(ferry_mmap(ferry, NULL, FERRYT_PAGE, 3, 0) == (void *)-1 && errno == ENOMEM);
	CHECK_INT(ferry_close(ferry), 0);
}

static void pool_end__not_killed_or_bad__einval(void **state)
{
	(void)state;
	RUN(arguments_body);
}

/* ---- descriptors, owners ---- */

static void descriptors_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *a = first_pool(ferry);
	uint8_t *p = ferryt_mmap(ferry, 64 * FERRYT_PAGE);
	uint64_t pfn = info_of(a).pfn_first;
	char name[64] = "x", cut[4];

	CHECK_INT(info_of(a).type, FERRY_MEM_PRIVATE);
	CHECK(ferry_pfn_valid(ferry, pfn));
	CHECK_INT(ferry_page_get_drvdata(ferry_pfn_to_page(ferry, pfn)), 0);
	ferry_page_set_drvdata(ferry_pfn_to_page(ferry, pfn), 0xfedcba9876543210ull);
	ferryt_fill_away(ferry, p, 64, 3);
	ferryt_verify(p, 0, 64, 3);
	CHECK(ferry_page_get_drvdata(ferry_pfn_to_page(ferry, pfn)) == 0xfedcba9876543210ull);
	CHECK_INT(ferry_page_get_drvdata(ferry_pfn_to_page(ferry, pfn + 1)), 0);
	CHECK_INT(ferry_pfn_to_server(ferry, pfn, name, sizeof(name)), 0);
	CHECK(strcmp(name, info_of(a).server) == 0 && strstr(ferryt_server_url(), name));
	CHECK_INT(ferry_pfn_to_server(ferry, pfn, cut, sizeof(cut)), 0);
	CHECK(strlen(cut) == 3 && strncmp(name, cut, 3) == 0);
	CHECK_FAILS(ferry_pfn_to_server(ferry, 7, name, sizeof(name)), -EINVAL, "0x7");
	CHECK_FAILS(ferry_pfn_to_server(ferry, pfn, name, 0), -EINVAL, "room");
	CHECK_INT(ferry_close(ferry), 0);
}

static void page__drvdata_and_server__kept_and_named(void **state)
{
	(void)state;
	RUN(descriptors_body);
}

/* Every PFN of the span: descriptor and number belong together, in all models, or it is no page. How many are. */
static uint64_t check_node(struct ferry *ferry, unsigned nid, const struct ferry_node *node)
{
	uint64_t valid = 0;

	for (uint64_t i = 0; i < node->spanned_pages; i++) {
		uint64_t pfn = node->start_pfn + i;
		struct ferry_page *page = ferry_pfn_to_page(ferry, pfn);

		if (!page || ferry_page_to_nid(ferry, page) != (int)nid)
			continue; /* a hole, or another node's */
		CHECK(ferry_page_at(node->mem_map, i) == page);
		CHECK(ferry_page_to_pfn(ferry, page) == pfn);
		CHECK_INT(ferry_pfn_to_nid(ferry, pfn), nid);
		valid++;
	}
	return valid;
}

static struct ferry_node node_of(struct ferry *ferry, unsigned nid)
{
	struct ferry_node node = { .size = sizeof(node) };

	CHECK_INT(ferry_node_data(ferry, nid, &node), 0);
	return node;
}

static void flatmem_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *a = first_pool(ferry), *b = attach_test(ferry);
	struct ferry_node node = node_of(ferry, 0);

	CHECK_INT(ferry_nr_nodes(ferry), 1);
	CHECK(node.start_pfn == info_of(a).pfn_first && node.start_pfn + node.spanned_pages == info_of(b).pfn_last + 1);
	CHECK_INT(check_node(ferry, 0, &node), (info_of(a).leased_bytes + info_of(b).leased_bytes) / FERRYT_PAGE);
	/* the array has a hole between the two: what of a's window is not leased */
	CHECK(info_of(a).pfn_last - info_of(a).pfn_first + 1 > info_of(a).leased_bytes / FERRYT_PAGE);
	CHECK_INT(ferry_pool_detach(b), 0);
	CHECK(node_of(ferry, 0).spanned_pages == info_of(a).pfn_last - info_of(a).pfn_first + 1);
	CHECK_FAILS(ferry_node_data(ferry, 1, &node), -EINVAL, "no server");
	CHECK_FAILS(ferry_pfn_to_nid(ferry, 7), -EINVAL, "0x7");
	CHECK_FAILS(ferry_page_to_nid(ferry, NULL), -EINVAL, "NULL");
	node.size = 0;
	CHECK_FAILS(ferry_node_data(ferry, 0, &node), -EINVAL, "size");
	CHECK_INT(ferry_close(ferry), 0);
}

static void flatmem__one_server__index_is_pfn_less_offset(void **state)
{
	(void)state;
	RUN(flatmem_body);
}

static struct ferryt_child second; /* server */

static void discontigmem_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *a = first_pool(ferry), *b, *c = attach_test(ferry);
	char url[192];

	snprintf(url, sizeof(url), "%s?fabric=%s", second.url, ferryt_row());
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .server = url, .pool = "test",
					.len_bytes = 4 * FERRY_SUBSECTION };

	CHECK_INT(ferry_pool_attach(ferry, &attr, &b), 0);
	CHECK_INT(ferry_nr_nodes(ferry), 2);
	struct ferry_node node[2] = { node_of(ferry, 0), node_of(ferry, 1) };

	CHECK(node[1].start_pfn == info_of(b).pfn_first && node[1].mem_map == ferry_pfn_to_page(ferry, node[1].start_pfn));
	CHECK_INT(check_node(ferry, 0, &node[0]), (info_of(a).leased_bytes + info_of(c).leased_bytes) / FERRYT_PAGE);
	CHECK_INT(check_node(ferry, 1, &node[1]), info_of(b).leased_bytes / FERRYT_PAGE);
	CHECK_INT(ferry_pool_detach(b), 0);
	node[1] = node_of(ferry, 1); /* the server stays a node, without memory */
	CHECK(!node[1].spanned_pages && !node[1].mem_map);
	CHECK_INT(ferry_close(ferry), 0);
}

static void discontigmem__two_servers__each_page_in_its_nodes_map(void **state)
{
	(void)state;
	ferryt_child_start_beside(&second, ferryt_server());
	RUN(discontigmem_body);
	ferryt_child_end(&second);
}

static void devices_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_device *device[FERRY_MAX_DEVICES];

	for (unsigned i = 0; i < FERRY_MAX_DEVICES; i++) {
		device[i] = ferry_device_new(ferry, "gpu");
		CHECK(device[i] && (i == 0 || device[i] != device[i - 1]));
	}
	CHECK(!ferry_device_new(ferry, "gpu") && strstr(ferry_last_error(), "64"));
	ferry_device_put(device[7]);
	CHECK(ferry_device_new(ferry, "gpu") == device[7]);
	CHECK(!ferry_device_new(ferry, "") && strstr(ferry_last_error(), "name"));
	ferry_device_put(NULL);
	CHECK_INT(ferry_close(ferry), 0);
}

static void hmm_device_new_put__64_of_them__then_none_until_one_is_put(void **state)
{
	(void)state;
	RUN(devices_body);
}

/* ---- altmap ---- */

static void altmap_body(void)
{
	enum { RESERVE = 100, FREE = 500 }; /* 600 PFNs: two sub-sections with the padding; 125 sub-sections' descriptors */
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_altmap altmap = { .reserve = RESERVE, .free = FREE, .align = 99, .alloc = 99 };
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .pool = "test",
					.len_bytes = 4 * FERRY_SUBSECTION, .altmap = &altmap };
	struct ferry_pool *a = first_pool(ferry), *pool;

	CHECK_INT(ferry_altmap_offset(NULL), 0);
	CHECK_INT(ferry_altmap_offset(&altmap), RESERVE + FREE);
	CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0);
	struct ferry_pool_info info = info_of(pool);

	CHECK(altmap.base_pfn == info.pfn_first && altmap.end_pfn == info.pfn_last);
	CHECK_INT(altmap.align, 1024 - RESERVE - FREE);
	CHECK_INT(altmap.alloc, 2 * 4); /* of four leased sub-sections two hold pages */
	CHECK(!ferry_pfn_valid(ferry, info.pfn_first) && !ferry_pfn_valid(ferry, info.pfn_first + 1023));
	CHECK(ferry_pfn_valid(ferry, info.pfn_first + 1024) && ferry_pfn_valid(ferry, info.pfn_first + 2047));
	CHECK_INT(ferry_pool_kill(a), 0);
	uint8_t *p = ferryt_mmap(ferry, 4 * FERRY_SUBSECTION); /* grows by what is missing */

	CHECK(altmap.alloc >= 4 * 4 && altmap.alloc <= FREE && altmap.alloc % 4 == 0);
	ferryt_fill_away(ferry, p, 4 * FERRY_SUBSECTION / FERRYT_PAGE, 4);
	ferryt_verify(p, 0, 4 * FERRY_SUBSECTION / FERRYT_PAGE, 4);
	CHECK(info_of(pool).used_bytes == 4 * FERRY_SUBSECTION);
	CHECK_INT(ferry_munmap(ferry, p, 4 * FERRY_SUBSECTION), 0);
	CHECK_INT(ferry_pool_detach(pool), 0);
	CHECK_INT(altmap.alloc, 0);
	/* Descriptors of two sub-sections are all that it grants: so much can be had, and no more. */
	altmap = (struct ferry_altmap){ .free = 2 * 4 };
	CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0);
	CHECK_INT(altmap.alloc, 2 * 4);
	p = ferryt_mmap(ferry, 2 * FERRY_SUBSECTION);
	CHECK(ferry_mmap(ferry, NULL, FERRYT_PAGE, 3, 0) == (void *)-1 && errno == ENOMEM);
	CHECK_INT(ferry_munmap(ferry, p, 2 * FERRY_SUBSECTION), 0);
	CHECK_INT(ferry_pool_detach(pool), 0);
	altmap = (struct ferry_altmap){ .reserve = 1ull << 40 };
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -EINVAL, "altmap");
	altmap = (struct ferry_altmap){ .reserve = 5, .alloc = 9 };
	ferry_altmap_free(&altmap, 4);
	CHECK_INT(altmap.alloc, 5);
	CHECK_INT(ferry_close(ferry), 0);
}

static void vmem_altmap__reserve_free_align_alloc__obeyed_and_zero_after_detach(void **state)
{
	(void)state;
	RUN(altmap_body);
}

/* ---- the end, under load ---- */

struct toucher {
	pthread_t thread;
	uint8_t *p;
	size_t pages;
	uint64_t seed;
	_Atomic bool *stop;
	uint64_t rounds;
};

/* Rewrites its pages in turn, and looks at each before: what it wrote last is there. */
static void *touch_on(void *arg)
{
	struct toucher *t = arg;

	for (; !atomic_load(t->stop); t->rounds++) {
		size_t i = (size_t)(t->rounds * 7919) % t->pages;

		ferryt_verify(t->p + i * FERRYT_PAGE, i, 1, t->seed);
		ferryt_fill_page(t->p + i * FERRYT_PAGE, t->seed, i);
	}
	return NULL;
}

static void under_load(size_t budget, size_t pages)
{
	struct ferry *ferry = ferryt_open(budget);
	struct ferry_pool *a = first_pool(ferry);
	uint8_t *p = ferryt_mmap(ferry, pages * FERRYT_PAGE);
	struct toucher t[THREADS] = { 0 };
	_Atomic bool stop = false;

	CHECK(info_of(a).used_bytes == pages * FERRYT_PAGE);
	for (unsigned i = 0; i < THREADS; i++) {
		t[i] = (struct toucher){ .p = p + i * (pages / THREADS) * FERRYT_PAGE,
					 .pages = pages / THREADS,
					 .seed = 10 + i,
					 .stop = &stop };
		ferryt_fill(t[i].p, t[i].pages, t[i].seed);
	}
	struct ferry_pool *b = attach_test(ferry);

	for (unsigned i = 0; i < THREADS; i++)
		CHECK(pthread_create(&t[i].thread, NULL, touch_on, &t[i]) == 0);
	CHECK_INT(ferry_pool_kill(a), 0);
	CHECK_INT(ferry_pool_evict(a), 0);
	CHECK_INT(ferry_pool_drain(a, 60000), 0);
	CHECK_INT(info_of(a).used_bytes, 0);
	CHECK_INT(ferry_pool_detach(a), 0);
	CHECK(info_of(b).used_bytes == pages * FERRYT_PAGE);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < THREADS; i++) {
		CHECK(pthread_join(t[i].thread, NULL) == 0);
		CHECK(t[i].rounds > 0);
		ferryt_verify(t[i].p, 0, t[i].pages, t[i].seed);
	}
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= budget);
	CHECK_INT(ferryt_stats(ferry).faults_poisoned, 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void under_load_body(void)
{
	under_load(FERRYT_BUDGET, PAGES);
}

/* Less the slots of eviction it holds little more than one block. */
static void small_budget_body(void)
{
	under_load(FERRY_BUDGET_MIN + 2 * FERRYT_MIB, 3 * FERRY_SUBSECTION / FERRYT_PAGE);
}

static void kill_evict_drain_detach__small_budget__pages_move_all_the_same(void **state)
{
	(void)state;
	RUN(small_budget_body);
}

static void kill_evict_drain_detach__four_threads_touch__pages_move_to_the_other_pool(void **state)
{
	(void)state;
	RUN(under_load_body);
}

struct evict {
	pthread_t thread;
	struct ferry_pool *pool;
	int rc;
};

static void *evict_pool(void *arg)
{
	struct evict *e = arg;

	e->rc = ferry_pool_evict(e->pool);
	return NULL;
}

/*
 * Half of the block is home, and there is no room for the rest (read-only pages
 * cannot leave), when another block of the pool comes to its address.
 */
static void swapped_body(void)
{
	enum { BLOCK = FERRY_SUBSECTION / FERRYT_PAGE, LOCKED = 5 * 256 };
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct evict e = { .pool = first_pool(ferry) };
	uint8_t *x = ferryt_mmap(ferry, FERRY_SUBSECTION), *y = ferryt_mmap(ferry, FERRY_SUBSECTION);
	uint8_t *locked = ferryt_mmap(ferry, LOCKED * FERRYT_PAGE), *to;
	uint64_t deadline_ns = ferryi_deadline_ms(60000);

	ferryt_fill_away(ferry, x, BLOCK, 1);
	ferryt_fill_away(ferry, y, BLOCK, 2);
	ferryt_fill(locked, LOCKED, 3);
	CHECK(mprotect(locked, LOCKED * FERRYT_PAGE, PROT_READ) == 0);
	ferryt_verify(locked, 0, LOCKED, 3);
	attach_test(ferry);
	CHECK_INT(ferry_pool_kill(e.pool), 0);
	CHECK(pthread_create(&e.thread, NULL, evict_pool, &e) == 0);
	while (!ferryt_present(x, BLOCK) && !ferryt_present(y, BLOCK) && ferryi_now_ns() < deadline_ns)
		poll(NULL, 0, 1);
	bool x_first = ferryt_present(x, BLOCK);
	uint8_t *first = x_first ? x : y, *other = x_first ? y : x;

	CHECK(ferryt_present(first, BLOCK) < BLOCK && !ferryt_present(other, BLOCK));
	to = mmap(NULL, FERRY_SUBSECTION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(mremap(first, FERRY_SUBSECTION, FERRY_SUBSECTION, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	CHECK(mremap(other, FERRY_SUBSECTION, FERRY_SUBSECTION, MREMAP_MAYMOVE | MREMAP_FIXED, first) == first);
	CHECK(mprotect(locked, LOCKED * FERRYT_PAGE, PROT_READ | PROT_WRITE) == 0);
	CHECK(pthread_join(e.thread, NULL) == 0);
	CHECK_INT(e.rc, 0);
	CHECK_INT(ferry_pool_drain(e.pool, 60000), 0);
	CHECK_INT(ferry_pool_detach(e.pool), 0);
	ferryt_verify(to, 0, BLOCK, x_first ? 1 : 2);
	ferryt_verify(first, 0, BLOCK, x_first ? 2 : 1);
	ferryt_verify(locked, 0, LOCKED, 3);
	CHECK_INT(ferry_close(ferry), 0);
}

static void evict__mremap_puts_another_block_there__both_leave(void **state)
{
	(void)state;
	RUN(swapped_body);
}

/* More in the pool than the budget and the other pool hold together. */
static void evict_no_room_body(void)
{
	enum { MUCH = 96 * 256 };
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *a = first_pool(ferry);
	uint8_t *p = ferryt_mmap(ferry, MUCH * FERRYT_PAGE);
	struct ferry_pool *b;

	ferryt_fill(p, MUCH, 5);
	b = attach_test(ferry);
	CHECK_INT(ferry_pool_kill(a), 0);
	CHECK_FAILS(ferry_pool_evict(a), -ENOMEM, "budget");
	CHECK(info_of(b).used_bytes > 48 * FERRYT_MIB);
	CHECK(info_of(a).used_bytes <= 48 * FERRYT_MIB);
	CHECK_FAILS(ferry_pool_drain(a, 50), -ETIMEDOUT, "in use");
	CHECK_FAILS(ferry_pool_detach(a), -EBUSY, "pages");
	ferryt_verify(p, 0, MUCH, 5);
	CHECK_INT(ferry_munmap(ferry, p + MUCH / 4 * FERRYT_PAGE, MUCH / 2 * FERRYT_PAGE), 0);
	CHECK_INT(ferry_pool_evict(a), 0); /* what has left stays out: the rest fits now */
	CHECK_INT(ferry_pool_drain(a, 60000), 0);
	ferryt_verify(p, 0, MUCH / 4, 5);
	ferryt_verify(p + MUCH / 4 * 3 * FERRYT_PAGE, MUCH / 4 * 3, MUCH / 4, 5);
	CHECK_INT(ferry_pool_detach(a), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void evict__nowhere_to_go__enomem_and_goes_on_later(void **state)
{
	(void)state;
	RUN(evict_no_room_body);
}

/* Killed and nothing else: blocks leave by themselves once none of their pages is away. */
static void kill_alone_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *a = first_pool(ferry), *b = attach_test(ferry);
	uint8_t *p = ferryt_mmap(ferry, FERRY_SUBSECTION);
	size_t pages = FERRY_SUBSECTION / FERRYT_PAGE;

	ferryt_fill_away(ferry, p, pages, 6);
	CHECK_INT(ferry_pool_kill(a), 0);
	ferryt_verify(p, 0, pages, 6);
	ferryt_fill(p, pages, 7);
	uint64_t deadline_ns = ferryi_deadline_ms(60000);

	/* Not at once while a page is just settling, and until the keeper has leased memory of the other pool. */
	while (!info_of(b).used_bytes && ferryi_now_ns() < deadline_ns)
		CHECK_INT(ferry_advise(ferry, p, FERRY_SUBSECTION, FERRY_ADVICE_COLD), 0);
	CHECK_INT(info_of(a).used_bytes, 0);
	CHECK(info_of(b).used_bytes == FERRY_SUBSECTION);
	CHECK_INT(ferryt_present(p, pages), 0);
	ferryt_verify(p, 0, pages, 7);
	CHECK_INT(ferry_pool_detach(a), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void kill__no_page_away__next_eviction_goes_to_another_pool(void **state)
{
	(void)state;
	RUN(kill_alone_body);
}

static void poison_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *a = first_pool(ferry);
	uint8_t *p = ferryt_mmap(ferry, 64 * FERRYT_PAGE), byte;
	struct ferry_fault_info info = { .size = sizeof(info) };

	ferryt_fill_away(ferry, p, 32, 8);
	ferryt_fill(p + 32 * FERRYT_PAGE, 32, 9);
	CHECK_INT(ferry_pool_kill(a), 0);
	uint64_t before = ferryi_now_ns();

	CHECK_INT(ferry_pool_poison(a), 32);
	CHECK_INT(ferry_pool_poison(a), 0);
	for (unsigned i = 0; i < 32; i++) {
		CHECK_INT(ferryt_touch(p + i * FERRYT_PAGE, &byte), SIGBUS);
		CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p + i * FERRYT_PAGE, &info), 0);
		CHECK_INT(info.reason, FERRY_FAULT_REVOKED);
	}
	CHECK(ferryi_now_ns() - before < 30 * FERRYI_NS_PER_S);
	for (unsigned i = 0; i < 32; i++)
		CHECK_INT(ferryt_touch(p + (32 + i) * FERRYT_PAGE, &byte), 0);
	CHECK_INT(ferry_pool_drain(a, 60000), 0);
	CHECK_INT(ferry_pool_detach(a), 0);
}

static void poison__pages_away__sigbus_revoked_and_pool_can_go(void **state)
{
	(void)state;
	RUN(poison_body);
}

static void lost_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *a = first_pool(ferry);
	uint8_t *p = ferryt_mmap(ferry, 64 * FERRYT_PAGE), byte;
	struct ferry_fault_info info = { .size = sizeof(info) };

	ferryt_fill_away(ferry, p, 64, 11);
	ferryt_verify(p, 0, 8, 11); /* these, and what is read ahead, are in RAM */
	size_t home = ferryt_present(p, 64);

	CHECK(home >= 8 && home < 64);
	ferryt_child_signal(ferryt_server(), SIGKILL);
	uint64_t deadline_ns = ferryi_deadline_ms(60000), before;
	void *probe;

	/* Data of the same host can be read until the loss is known; then nothing can be mapped any more. */
	while ((probe = ferry_mmap(ferry, NULL, FERRYT_PAGE, 3, 0)) != (void *)-1 && ferryi_now_ns() < deadline_ns)
		CHECK_INT(ferry_munmap(ferry, probe, FERRYT_PAGE), 0);
	CHECK(probe == (void *)-1);
	CHECK_INT(ferryt_touch(p + 63 * FERRYT_PAGE, &byte), SIGBUS);
	CHECK_INT(ferry_pool_kill(a), 0);
	before = ferryi_now_ns();

	CHECK_FAILS(ferry_pool_evict(a), -EIO, "lost");
	CHECK(ferryi_now_ns() - before < 30 * FERRYI_NS_PER_S);
	CHECK_FAILS(ferry_pool_detach(a), -EBUSY, "pages");
	CHECK(ferry_pool_poison(a) > 0);
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p + 62 * FERRYT_PAGE, &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_REVOKED);
	ferryt_verify(p, 0, 8, 11);
	CHECK_INT(ferry_pool_drain(a, 60000), 0);
	CHECK_INT(ferry_pool_detach(a), 0);
	ferryt_verify(p, 0, 8, 11);
}

static void evict__server_lost__eio_then_poison_frees_the_pool(void **state)
{
	(void)state;
	RUN(lost_body);
}

static int setup(void **state)
{
	ferryt_server_start(*state);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ferryt_server_end();
	return 0;
}

#define ROW_TEST(f) cmocka_unit_test_prestate_setup_teardown(f, setup, teardown, row)

int main(int argc, char **argv)
{
	char *row = argc > 1 ? argv[1] : "local";
	const struct CMUnitTest tests[] = {
		ROW_TEST(get_dev_pagemap__hint_kill_put__references_are_exact),
		ROW_TEST(pgmap_pfn_valid_has_memory_failure__own_and_others__as_attached),
		ROW_TEST(pool_end__not_killed_or_bad__einval),
		ROW_TEST(page__drvdata_and_server__kept_and_named),
		ROW_TEST(flatmem__one_server__index_is_pfn_less_offset),
		ROW_TEST(discontigmem__two_servers__each_page_in_its_nodes_map),
		ROW_TEST(hmm_device_new_put__64_of_them__then_none_until_one_is_put),
		ROW_TEST(vmem_altmap__reserve_free_align_alloc__obeyed_and_zero_after_detach),
		ROW_TEST(kill_evict_drain_detach__four_threads_touch__pages_move_to_the_other_pool),
		ROW_TEST(kill_evict_drain_detach__small_budget__pages_move_all_the_same),
		ROW_TEST(evict__mremap_puts_another_block_there__both_leave),
		ROW_TEST(evict__nowhere_to_go__enomem_and_goes_on_later),
		ROW_TEST(kill__no_page_away__next_eviction_goes_to_another_pool),
		ROW_TEST(evict__server_lost__eio_then_poison_frees_the_pool),
		ROW_TEST(poison__pages_away__sigbus_revoked_and_pool_can_go),
	};
	int skip = ferryt_needs_uffd();

	return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
