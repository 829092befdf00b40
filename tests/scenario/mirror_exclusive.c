/*
 * Exclusive device access: pages that a mirror alone holds, until a CPU's touch
 * or anything else takes them back. argv[1]: the fabric row.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "pager_kit.h"

#define PAGES 64u
#define LEN   (PAGES * FERRYT_PAGE)

struct device {
	struct ferry_mirror mirror; /* must be first */
	_Atomic unsigned nr_own;     /* EXCLUSIVE, by this device */
	_Atomic unsigned nr_cpu;     /* EXCLUSIVE, by a CPU */
	_Atomic unsigned nr_too_late; /* ... that had the page already */
	_Atomic unsigned nr_fork;
};

static int invalidate(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	struct device *d = (struct device *)mirror;

	if (update->event == FERRY_UPDATE_FORK)
		atomic_fetch_add(&d->nr_fork, 1);
	if (update->event != FERRY_UPDATE_EXCLUSIVE)
		return 0;
	if (update->owner == mirror->owner) {
		atomic_fetch_add(&d->nr_own, 1);
	} else {
		atomic_fetch_add(&d->nr_cpu, 1);
		if (ferryt_present((void *)update->start, 1))
			atomic_fetch_add(&d->nr_too_late, 1);
	}
	return 0;
}

static const struct ferry_mirror_ops ops = { .invalidate = invalidate };

static struct device *device_new(struct ferry *ferry)
{
	struct device *d = calloc(1, sizeof(*d));

	CHECK(d);
	d->mirror.ops = &ops;
	d->mirror.owner = d;
	CHECK_INT(ferry_mirror_register(&d->mirror, ferry), 0);
	return d;
}

static void device_end(struct device *d)
{
	CHECK_INT(ferry_mirror_unregister(&d->mirror), 0);
	free(d);
}

/* ---- held, reached, taken back ---- */

static void body_held(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN), page[FERRYT_PAGE], want[FERRYT_PAGE];
	struct device *d = device_new(ferry);

	ferryt_fill_away(ferry, p, PAGES, 1);
	ferryt_verify(p, 0, 8, 1); /* these, and what is read ahead, are in RAM */
	CHECK_INT(ferry_exclusive_acquire(&d->mirror, p, 16 * FERRYT_PAGE), 0);
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), 16);
	CHECK_INT(ferryt_present(p, 16), 0);
	CHECK_INT(atomic_load(&d->nr_own), 16);
	CHECK_INT(atomic_load(&d->nr_cpu), 0);

	/* The holder's way to them, which takes nothing back. */
	for (unsigned i = 0; i < 16; i++) {
		ferryt_fill_page(want, 1, i);
		CHECK_INT(ferry_mirror_read(&d->mirror, (uintptr_t)p + i * FERRYT_PAGE, page, FERRYT_PAGE, NULL), 0);
		CHECK(memcmp(page, want, FERRYT_PAGE) == 0);
		ferryt_fill_page(page, 2, i);
		CHECK_INT(ferry_mirror_write(&d->mirror, (uintptr_t)p + i * FERRYT_PAGE, page, FERRYT_PAGE, NULL), 0);
	}
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), 16);

	/* A CPU's touch: told first, then it sees what the device wrote. */
	ferryt_verify(p, 0, 4, 2);
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), 12);
	CHECK_INT(atomic_load(&d->nr_cpu), 4);
	CHECK_INT(ferry_exclusive_release(&d->mirror, p, LEN), 0);
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), 0);
	CHECK_INT(atomic_load(&d->nr_own), 16 + 12);
	CHECK_INT(atomic_load(&d->nr_cpu), 4);
	CHECK_INT(atomic_load(&d->nr_too_late), 0);
	ferryt_verify(p, 0, 16, 2);
	ferryt_verify(p + 16 * FERRYT_PAGE, 16, PAGES - 16, 1);
	device_end(d);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, 16, 2);
}

static void make_device_exclusive__held_until_a_cpu_touches__told_before(void **state)
{
	(void)state;
	RUN(body_held);
}

/* ---- errors ---- */

static void body_errors(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, 2 * FERRY_EXCLUSIVE_MAX), *plain = malloc(3 * FERRYT_PAGE);
	struct device *d = device_new(ferry), *e = device_new(ferry);
	struct ferry_mirror stranger = { .ops = &ops };
	uint8_t *aligned = (uint8_t *)(((uintptr_t)plain + FERRYT_PAGE) & ~(FERRYT_PAGE - 1));

	ferryt_fill(p, PAGES, 3);
	CHECK_FAILS(ferry_exclusive_acquire(&d->mirror, p + 1, FERRYT_PAGE), -EINVAL, "multiple");
	CHECK_FAILS(ferry_exclusive_acquire(&d->mirror, p, 0), -EINVAL, "multiple");
	CHECK_FAILS(ferry_exclusive_query(&d->mirror, p, 1), -EINVAL, "multiple");
	CHECK_FAILS(ferry_exclusive_release(&d->mirror, p, 1), -EINVAL, "multiple");
	CHECK_FAILS(ferry_exclusive_acquire(&stranger, p, FERRYT_PAGE), -EINVAL, "registered");
	CHECK_FAILS(ferry_exclusive_acquire(&d->mirror, aligned, FERRYT_PAGE), -EINVAL, "managed");
	CHECK_FAILS(ferry_exclusive_acquire(&d->mirror, p, FERRY_EXCLUSIVE_MAX + FERRYT_PAGE), -ENOMEM, "4 MiB");
	CHECK_FAILS(ferry_exclusive_update(&d->mirror, p + FERRYT_PAGE - 1, 2, NULL, NULL), -EINVAL, "one page");

	/* All or nothing: the last page is pinned; not writable; another's; lost. */
	CHECK_INT(ferry_pin(ferry, p + 7 * FERRYT_PAGE, FERRYT_PAGE), 0);
	CHECK_FAILS(ferry_exclusive_acquire(&d->mirror, p, 8 * FERRYT_PAGE), -EBUSY, "pinned");
	CHECK_INT(ferry_unpin(ferry, p + 7 * FERRYT_PAGE, FERRYT_PAGE), 0);
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), 0);
	CHECK_INT(mprotect(p + 7 * FERRYT_PAGE, FERRYT_PAGE, PROT_READ), 0);
	CHECK_FAILS(ferry_exclusive_acquire(&d->mirror, p, 8 * FERRYT_PAGE), -EPERM, "writable");
	CHECK_INT(mprotect(p + 7 * FERRYT_PAGE, FERRYT_PAGE, PROT_READ | PROT_WRITE), 0);
	CHECK_INT(ferry_exclusive_acquire(&e->mirror, p + 7 * FERRYT_PAGE, FERRYT_PAGE), 0);
	CHECK_FAILS(ferry_exclusive_acquire(&d->mirror, p, 8 * FERRYT_PAGE), -EBUSY, "held");
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), 0);
	CHECK_INT(ferry_exclusive_query(&e->mirror, p, LEN), 1);
	CHECK_FAILS(ferry_exclusive_acquire(&e->mirror, p, 8 * FERRYT_PAGE), -EBUSY, "held");
	CHECK_INT(ferry_exclusive_query(&e->mirror, p, LEN), 1); /* what it had it has */
	CHECK_INT(ferry_exclusive_release(&d->mirror, p, LEN), 0);
	CHECK_INT(ferry_exclusive_query(&e->mirror, p, LEN), 1);

	/* The limit of the process. */
	CHECK_FAILS(ferry_exclusive_acquire(&d->mirror, p + FERRY_EXCLUSIVE_MAX, FERRY_EXCLUSIVE_MAX), -ENOMEM, "4 MiB");
	CHECK_INT(ferry_exclusive_release(&e->mirror, p, LEN), 0);
	CHECK_INT(ferry_exclusive_acquire(&d->mirror, p + FERRY_EXCLUSIVE_MAX, FERRY_EXCLUSIVE_MAX), 0);
	CHECK_INT(ferry_exclusive_query(&d->mirror, p + FERRY_EXCLUSIVE_MAX, FERRY_EXCLUSIVE_MAX), 1024);
	ferryt_verify(p, 0, PAGES, 3);
	device_end(d); /* holds them all: they go home */
	ferryt_verify_zero(p + FERRY_EXCLUSIVE_MAX, 1024);
	device_end(e);
	CHECK_INT(ferry_close(ferry), 0);
	free(plain);
}

static void make_device_exclusive__bad_or_busy__own_code_and_nothing_held(void **state)
{
	(void)state;
	RUN(body_errors);
}

/* ---- what else takes them back ---- */

static void body_taken(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN), page[FERRYT_PAGE];
	struct device *d = device_new(ferry), *e = device_new(ferry);
	struct ferry_migrate_stats stats = { .size = sizeof(stats) };
	struct ferry_pool *pool = ferry_pool_at(ferry, 0);

	CHECK(pool);
	ferry_pool_put(pool);

	ferryt_fill(p, PAGES, 4);
	CHECK_INT(ferry_exclusive_acquire(&d->mirror, p, LEN), 0);
	CHECK_INT(ferry_mirror_read(&e->mirror, (uintptr_t)p, page, FERRYT_PAGE, NULL), 0); /* another mirror */
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), PAGES - 1);
	CHECK_INT(ferry_pin(ferry, p + FERRYT_PAGE, FERRYT_PAGE), 0);
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), PAGES - 2);
	CHECK_INT(ferry_unpin(ferry, p + FERRYT_PAGE, FERRYT_PAGE), 0);
	CHECK_INT(ferry_flush(ferry, p + 2 * FERRYT_PAGE, FERRYT_PAGE), 0);
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), PAGES - 3);

	/* It does not leave for a pool, by any way. */
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_COLD), 0);
	CHECK_INT(ferry_migrate_to_device(pool, p, LEN, 0, &stats), 0);
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), PAGES - 3);
	ferryt_verify(p, 0, 8, 4);
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), PAGES - 8);

	/* Rights taken away meanwhile: the page comes home all the same, with them. */
	CHECK_INT(mprotect(p + 8 * FERRYT_PAGE, 4 * FERRYT_PAGE, PROT_READ), 0);
	ferryt_verify(p + 8 * FERRYT_PAGE, 8, 4, 4);
	CHECK_INT(mprotect(p + 8 * FERRYT_PAGE, 4 * FERRYT_PAGE, PROT_READ | PROT_WRITE), 0);
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), PAGES - 12);

	/* Moved: the page goes along, still held. */
	uint8_t *q = mmap(NULL, LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(mremap(p, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, q) == q);
	CHECK_INT(ferry_exclusive_query(&d->mirror, q, LEN), PAGES - 12);
	ferryt_verify(q, 0, 16, 4);
	CHECK_INT(ferry_exclusive_query(&d->mirror, q, LEN), PAGES - 16);

	/* Dropped, and given up. */
	CHECK_INT(madvise(q + 16 * FERRYT_PAGE, 4 * FERRYT_PAGE, MADV_DONTNEED), 0);
	CHECK_INT(ferry_exclusive_query(&d->mirror, q, LEN), PAGES - 20);
	ferryt_verify_zero(q + 16 * FERRYT_PAGE, 4);
	CHECK_INT(munmap(q + 20 * FERRYT_PAGE, 4 * FERRYT_PAGE), 0);
	CHECK_INT(ferry_exclusive_query(&d->mirror, q + 24 * FERRYT_PAGE, LEN - 24 * FERRYT_PAGE), PAGES - 24);
	CHECK_INT(ferry_unadopt(ferry, q + 24 * FERRYT_PAGE, 8 * FERRYT_PAGE), 0);
	ferryt_verify(q + 24 * FERRYT_PAGE, 24, 8, 4);
	device_end(e);
	CHECK_INT(ferry_close(ferry), 0); /* with the rest held */
	ferryt_verify(q + 32 * FERRYT_PAGE, 32, PAGES - 32, 4);
	ferryt_verify(q, 0, 16, 4);
}

static void make_device_exclusive__pin_mprotect_mremap_drop_close__content_right(void **state)
{
	(void)state;
	RUN(body_taken);
}

static void body_protect(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	struct device *d = device_new(ferry), *e = device_new(ferry);

	ferryt_fill(p, PAGES, 14);
	CHECK_INT(ferry_exclusive_acquire(&d->mirror, p, 8 * FERRYT_PAGE), 0);
	CHECK_INT(ferry_exclusive_acquire(&e->mirror, p + 8 * FERRYT_PAGE, 8 * FERRYT_PAGE), 0);
	CHECK_INT(ferry_mprotect(ferry, p + 4 * FERRYT_PAGE, 8 * FERRYT_PAGE, PROT_READ), 0);
	CHECK_INT(ferryt_present(p + 4 * FERRYT_PAGE, 8), 8); /* home, whoever held them */
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), 4);
	CHECK_INT(ferry_exclusive_query(&e->mirror, p, LEN), 4);
	CHECK_FAILS(ferry_exclusive_acquire(&d->mirror, p + 4 * FERRYT_PAGE, FERRYT_PAGE), -EPERM, "writable");
	ferryt_verify(p, 0, PAGES, 14);
	device_end(d);
	device_end(e);
	CHECK_INT(ferry_mprotect(ferry, p, LEN, PROT_READ | PROT_WRITE), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void make_device_exclusive__ferry_mprotect__revoked(void **state)
{
	(void)state;
	RUN(body_protect);
}

/* Slots and charge of what was dropped come back. */
static void body_cycles(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct device *d = device_new(ferry);
	const size_t len = FERRY_EXCLUSIVE_MAX / 2;

	for (unsigned round = 0; round < 12; round++) {
		uint8_t *p = ferryt_mmap(ferry, len);

		ferryt_fill(p, len / FERRYT_PAGE, round);
		CHECK_INT(ferry_exclusive_acquire(&d->mirror, p, len), 0);
		if (round % 3 == 0)
			CHECK_INT(madvise(p, len, MADV_DONTNEED), 0);
		else if (round % 3 == 1)
			ferryt_verify(p, 0, len / FERRYT_PAGE, round);
		CHECK_INT(ferry_munmap(ferry, p, len), 0);
	}
	CHECK_INT(ferryt_stats(ferry).resident_bytes, 0);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, 0);
	device_end(d);
	CHECK_INT(ferry_close(ferry), 0);
}

static void make_device_exclusive__dropped_again_and_again__nothing_leaks(void **state)
{
	(void)state;
	RUN(body_cycles);
}

/* ---- fork ---- */

/* A child has its own copy of what the device wrote; the parent's device takes pages again, shared or not. */
static void body_forked(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN), page[FERRYT_PAGE];
	struct device *d = device_new(ferry);
	int go[2];

	CHECK_INT(pipe(go), 0);
	ferryt_fill_away(ferry, p, PAGES, 1);
	CHECK_INT(ferry_exclusive_acquire(&d->mirror, p, 16 * FERRYT_PAGE), 0);
	for (unsigned i = 0; i < 16; i++) {
		ferryt_fill_page(page, 2, i);
		CHECK_INT(ferry_mirror_write(&d->mirror, (uintptr_t)p + i * FERRYT_PAGE, page, FERRYT_PAGE, NULL), 0);
	}
	pid_t pid = fork();

	if (pid == 0) {
		CHECK_INT(read(go[0], page, 1), 1);
		ferryt_verify(p, 0, 16, 2);
		ferryt_verify(p + 16 * FERRYT_PAGE, 16, PAGES - 16, 1);
		_exit(0);
	}
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), 0);
	CHECK_INT(atomic_load(&d->nr_cpu), 16);
	CHECK_INT(atomic_load(&d->nr_too_late), 0);
	CHECK_INT(atomic_load(&d->nr_fork), 1);
	CHECK_INT(ferry_exclusive_acquire(&d->mirror, p, 32 * FERRYT_PAGE), 0);
	for (unsigned i = 0; i < 32; i++) {
		ferryt_fill_page(page, 3, i);
		CHECK_INT(ferry_mirror_write(&d->mirror, (uintptr_t)p + i * FERRYT_PAGE, page, FERRYT_PAGE, NULL), 0);
	}
	CHECK_INT(write(go[1], "x", 1), 1);
	CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS / 2), 0);
	CHECK_INT(ferry_exclusive_query(&d->mirror, p, LEN), 32);
	ferryt_verify(p, 0, 32, 3);
	ferryt_verify(p + 32 * FERRYT_PAGE, 32, PAGES - 32, 1);
	device_end(d);
	CHECK_INT(ferry_close(ferry), 0);
}

static void make_device_exclusive__fork__taken_back_and_the_child_has_its_own(void **state)
{
	(void)state;
	RUN(body_forked);
}

/* Forks while threads take pages and touch them: whoever is where, each child has a page's content of one moment. */
struct forks {
	struct device *device;
	uint8_t *p;
	_Atomic bool stop;
	_Atomic unsigned taken;
};

static void *take_and_touch(void *arg)
{
	struct forks *f = arg;

	for (unsigned i = 0; !atomic_load(&f->stop); i++) {
		uint8_t *at = f->p + i % 8 * (LEN / 8);
		int rc = ferry_exclusive_acquire(&f->device->mirror, at, LEN / 8);

		CHECK(rc == 0 || rc == -EBUSY);
		atomic_fetch_add(&f->taken, rc == 0);
		ferryt_verify(at, i % 8 * (PAGES / 8), 1, 7); /* and the rest stays the device's */
	}
	return NULL;
}

static void body_forks(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct forks f = { .device = device_new(ferry), .p = ferryt_mmap(ferry, LEN) };
	pthread_t thread;

	ferryt_fill_away(ferry, f.p, PAGES, 7);
	CHECK_INT(pthread_create(&thread, NULL, take_and_touch, &f), 0);
	for (unsigned i = 0; i < 20 || atomic_load(&f.taken) < 20; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			ferryt_verify(f.p, 0, PAGES, 7);
			_exit(0);
		}
		CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS / 2), 0);
	}
	atomic_store(&f.stop, true);
	CHECK_INT(pthread_join(thread, NULL), 0);
	ferryt_verify(f.p, 0, PAGES, 7);
	device_end(f.device);
	CHECK_INT(ferry_close(ferry), 0);
}

static void make_device_exclusive__twenty_forks_meanwhile__every_child_has_all(void **state)
{
	(void)state;
	RUN(body_forks);
}

/* ---- atomic operations of the device beside the CPU's ---- */

#define COUNTERS    8u /* one a page */
#define CPU_THREADS 3u
#define DEV_THREADS 2u
#define ADDS        4000u

struct race {
	struct ferry *ferry;
	struct device *device;
	uint8_t *p;
	_Atomic bool stop;
	_Atomic unsigned by_device;
};

static uint64_t *counter(const struct race *r, unsigned i)
{
	return (uint64_t *)(void *)(r->p + (i % COUNTERS) * FERRYT_PAGE);
}

static void *cpu(void *arg)
{
	struct race *r = arg;

	for (unsigned i = 0; i < ADDS; i++)
		__atomic_fetch_add(counter(r, i), 1, __ATOMIC_RELAXED);
	return NULL;
}

/* Not atomic by itself: what the page's state does for it. The frame is not the CPU's page: no atomic needed. */
static void add_one(void *arg, void *bytes, size_t len)
{
	uint64_t value;

	(void)arg;
	memcpy(&value, bytes, len);
	for (volatile unsigned i = 0; i < 50; i++)
		;
	value++;
	memcpy(bytes, &value, len);
}

static void *device(void *arg)
{
	struct race *r = arg;

	for (unsigned i = 0; i < ADDS; i++) {
		int rc;

		while ((rc = ferry_exclusive_update(&r->device->mirror, counter(r, i), sizeof(uint64_t), add_one, NULL)) ==
		       -ENOENT) {
			rc = ferry_exclusive_acquire(&r->device->mirror, counter(r, i), FERRYT_PAGE);
			CHECK(rc == 0 || rc == -EBUSY); /* the other thread's, or the kernel's for the moment */
		}
		CHECK_INT(rc, 0);
		atomic_fetch_add(&r->by_device, 1);
	}
	return NULL;
}

static void *evict(void *arg)
{
	struct race *r = arg;

	while (!atomic_load(&r->stop))
		CHECK_INT(ferry_advise(r->ferry, r->p, COUNTERS * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	return NULL;
}

static void body_atomic(void)
{
	struct race r = { .ferry = ferryt_open(FERRYT_BUDGET) };
	pthread_t thread[CPU_THREADS + DEV_THREADS], evictor;
	uint64_t sum = 0;

	r.p = ferryt_mmap(r.ferry, COUNTERS * FERRYT_PAGE);
	r.device = device_new(r.ferry);
	CHECK_INT(pthread_create(&evictor, NULL, evict, &r), 0);
	for (unsigned i = 0; i < CPU_THREADS + DEV_THREADS; i++)
		CHECK_INT(pthread_create(&thread[i], NULL, i < CPU_THREADS ? cpu : device, &r), 0);
	for (unsigned i = 0; i < CPU_THREADS + DEV_THREADS; i++)
		CHECK_INT(pthread_join(thread[i], NULL), 0);
	atomic_store(&r.stop, true);
	CHECK_INT(pthread_join(evictor, NULL), 0);
	for (unsigned i = 0; i < COUNTERS; i++)
		sum += *counter(&r, i);
	CHECK_INT(sum, (CPU_THREADS + DEV_THREADS) * ADDS);
	CHECK_INT(atomic_load(&r.by_device), DEV_THREADS * ADDS);
	device_end(r.device);
	CHECK_INT(ferry_close(r.ferry), 0);
}

static void exclusive_update__beside_cpu_threads_and_eviction__no_add_is_lost(void **state)
{
	(void)state;
	RUN(body_atomic);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(make_device_exclusive__held_until_a_cpu_touches__told_before),
		cmocka_unit_test(make_device_exclusive__bad_or_busy__own_code_and_nothing_held),
		cmocka_unit_test(make_device_exclusive__pin_mprotect_mremap_drop_close__content_right),
		cmocka_unit_test(make_device_exclusive__ferry_mprotect__revoked),
		cmocka_unit_test(make_device_exclusive__dropped_again_and_again__nothing_leaks),
		cmocka_unit_test(make_device_exclusive__fork__taken_back_and_the_child_has_its_own),
		cmocka_unit_test(make_device_exclusive__twenty_forks_meanwhile__every_child_has_all),
		cmocka_unit_test(exclusive_update__beside_cpu_threads_and_eviction__no_add_is_lost),
	};
	int skip = ferryt_needs_uffd();

	if (skip)
		return skip;
	ferryt_server_start(argc > 1 ? argv[1] : "local");
	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	ferryt_server_end();
	return rc;
}
