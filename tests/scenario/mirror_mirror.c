/*
 * Mirrors by the public API: who is told, when, and of what; a device's own
 * reads and writes, wherever the page is. argv[1]: the fabric row.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
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

#include "clock.h"
#include "exits_open.h"
#include "pager_kit.h"

#define PAGES 256u
#define LEN   (PAGES * FERRYT_PAGE)

/* ---- a mirror that looks at the page table while it is told ---- */

#define MAX_EVENTS 4096u

struct seen {
	enum ferry_update_event event;
	uintptr_t start, end;
	size_t present; /* pages of it that the CPU had at that moment */
};

struct watcher {
	struct ferry_mirror mirror; /* must be first */
	uintptr_t from, to;         /* what it cares for */
	pthread_mutex_t lock;       /* the two below: callbacks run in several threads */
	unsigned nr;
	struct seen seen[MAX_EVENTS];
	_Atomic unsigned released;
	_Atomic int unregister_rc;  /* what unregister said from within the callback */
	_Atomic bool tries_unregister;
	_Atomic bool hold;          /* stays in the callback while set */
	_Atomic bool inside;
	_Atomic bool left;          /* its last act */
};

static int watch(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	struct watcher *w = (struct watcher *)mirror;

	if (update->end <= w->from || update->start >= w->to)
		return 0;
	size_t present = ferryt_present((void *)update->start, (update->end - update->start) / FERRYT_PAGE);

	pthread_mutex_lock(&w->lock);
	if (w->nr < MAX_EVENTS)
		w->seen[w->nr++] = (struct seen){ update->event, update->start, update->end, present };
	pthread_mutex_unlock(&w->lock);
	if (atomic_load(&w->tries_unregister))
		atomic_store(&w->unregister_rc, ferry_mirror_unregister(mirror));
	atomic_store(&w->inside, true);
	while (atomic_load(&w->hold))
		;
	atomic_store(&w->left, true);
	return 0;
}

static void release(struct ferry_mirror *mirror)
{
	atomic_fetch_add(&((struct watcher *)mirror)->released, 1);
}

static const struct ferry_mirror_ops watch_ops = { .release = release, .invalidate = watch };

static struct watcher *watcher_new(struct ferry *ferry, const void *addr, size_t len)
{
	struct watcher *w = calloc(1, sizeof(*w));

	CHECK(w);
	w->mirror.ops = &watch_ops;
	w->from = (uintptr_t)addr;
	w->to = w->from + len;
	pthread_mutex_init(&w->lock, NULL);
	CHECK_INT(ferry_mirror_register(&w->mirror, ferry), 0);
	return w;
}

/* How many there are; what callbacks have written of them is seen from here on. */
static unsigned nr_seen(struct watcher *w)
{
	pthread_mutex_lock(&w->lock);
	unsigned nr = w->nr;

	pthread_mutex_unlock(&w->lock);
	return nr;
}

static void forget(struct watcher *w)
{
	pthread_mutex_lock(&w->lock);
	w->nr = 0;
	pthread_mutex_unlock(&w->lock);
}

/* Every event is of this kind, and together they name each page of [p, p + pages) at least once. */
static void check_events(struct watcher *w, enum ferry_update_event event, const uint8_t *p, size_t pages)
{
	for (size_t i = 0; i < pages; i++) {
		uintptr_t va = (uintptr_t)p + i * FERRYT_PAGE;
		bool named = false;

		for (unsigned k = 0; k < nr_seen(w); k++)
			named |= w->seen[k].start <= va && va < w->seen[k].end;
		CHECK(named);
	}
	for (unsigned k = 0; k < nr_seen(w); k++)
		CHECK_INT(w->seen[k].event, event);
}

static void body_fault_order(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill_away(ferry, p, PAGES, 1);
	struct watcher *w = watcher_new(ferry, p, LEN);

	ferryt_verify(p, 0, PAGES, 1);
	check_events(w, FERRY_UPDATE_MIGRATE, p, PAGES);
	for (unsigned k = 0; k < nr_seen(w); k++)
		CHECK_INT(w->seen[k].present, 0); /* not one of them before it was told */
	CHECK_INT(ferry_mirror_unregister(&w->mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
	CHECK_INT(atomic_load(&w->released), 0);
}

static void mirror__invalidate__comes_before_the_new_page(void **state)
{
	(void)state;
	RUN(body_fault_order);
}

static void body_evict_order(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill(p, PAGES, 2);
	struct watcher *w = watcher_new(ferry, p, LEN);

	uint64_t deadline_ns = ferryi_now_ns() + 20000000000ULL;

	while (ferryt_present(p, PAGES)) { /* a page that the kernel holds just then stays */
		CHECK(ferryi_now_ns() < deadline_ns);
		CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_COLD), 0);
	}
	check_events(w, FERRY_UPDATE_MIGRATE, p, PAGES);
	for (unsigned k = 0; k < nr_seen(w); k++)
		CHECK_INT(w->seen[k].present, (w->seen[k].end - w->seen[k].start) / FERRYT_PAGE);

	forget(w);
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_WILLNEED), 0);
	check_events(w, FERRY_UPDATE_MIGRATE, p, ferryt_present(p, PAGES));
	for (unsigned k = 0; k < nr_seen(w); k++)
		CHECK_INT(w->seen[k].present, 0);
	CHECK_INT(ferry_mirror_unregister(&w->mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void mirror__invalidate__comes_before_the_page_leaves(void **state)
{
	(void)state;
	RUN(body_evict_order);
}

static void wait_events(struct watcher *w, enum ferry_update_event event)
{
	uint64_t deadline_ns = ferryi_now_ns() + 20000000000ULL;

	for (;;) {
		for (unsigned k = 0; k < nr_seen(w); k++) {
			if (w->seen[k].event == event)
				return;
		}
		CHECK(ferryi_now_ns() < deadline_ns);
	}
}

static _Atomic int answer;

static int answers(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	(void)mirror;
	CHECK(update->blockable); /* no memory cgroup is near its limit */
	return atomic_load(&answer);
}

static const struct ferry_mirror_ops answer_ops = { .invalidate = answers };

static void check_answer(int rc, uint64_t seed)
{
	FILE *log = tmpfile();
	char line[512];
	int fd = dup(STDERR_FILENO);
	unsigned nr = 0;

	CHECK(log && fd >= 0);
	fflush(stderr);
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_mirror mirror = { .ops = &answer_ops };
	uint8_t *p = ferryt_mmap(ferry, LEN);

	atomic_store(&answer, rc);
	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	CHECK(dup2(fileno(log), STDERR_FILENO) >= 0);
	ferryt_fill_away(ferry, p, PAGES, seed);
	ferryt_verify(p, 0, PAGES, seed);
	CHECK(dup2(fd, STDERR_FILENO) >= 0);
	rewind(log);
	while (fgets(line, sizeof(line), log))
		nr += strstr(line, "taken for 0") != NULL;
	CHECK_INT(nr, rc != 0);
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
	close(fd);
	fclose(log);
}

static void body_wrong_answer(void)
{
	check_answer(0, 21);
	check_answer(-EIO, 22);
	check_answer(-EAGAIN, 23); /* only where it may not sleep */
	check_answer(1, 24);
}

static void invalidate__wrong_answer__taken_for_0_and_logged_once(void **state)
{
	(void)state;
	RUN(body_wrong_answer);
}

static void body_application(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, 4 * LEN);
	uint8_t *to = mmap(NULL, LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(to != MAP_FAILED);
	ferryt_fill(p, 4 * PAGES, 3);
	struct watcher *w = watcher_new(ferry, p, 4 * LEN);

	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_DONTNEED), 0);
	CHECK(nr_seen(w) > 0);
	CHECK_INT(w->seen[0].event, FERRY_UPDATE_REMOVE);
	CHECK_INT(w->seen[0].present, PAGES); /* the library's own call tells before */
	CHECK_INT(ferry_munmap(ferry, p, LEN), 0);
	wait_events(w, FERRY_UPDATE_UNMAP);

	forget(w);
	CHECK_INT(madvise(p + LEN, LEN, MADV_DONTNEED), 0);
	wait_events(w, FERRY_UPDATE_REMOVE);
	CHECK(mremap(p + 2 * LEN, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	wait_events(w, FERRY_UPDATE_REMAP);
	forget(w);
	CHECK_INT(madvise(p + 3 * LEN, LEN, MADV_FREE), 0);
	wait_events(w, FERRY_UPDATE_REMOVE);
	CHECK_INT(munmap(p + 3 * LEN, LEN), 0);
	wait_events(w, FERRY_UPDATE_UNMAP);
	CHECK_INT(ferry_mirror_unregister(&w->mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void mirror__application_changes__are_told(void **state)
{
	(void)state;
	RUN(body_application);
}

static void body_registration(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	struct ferry_mirror one_more = { .ops = &watch_ops }, empty = { 0 };

	CHECK_FAILS(ferry_mirror_register(&empty, ferry), -EINVAL, "invalidate");
	CHECK_FAILS(ferry_mirror_unregister(&empty), -EINVAL, "not registered");
	struct watcher *w = watcher_new(ferry, p, LEN);

	CHECK_FAILS(ferry_mirror_register(&w->mirror, ferry), -EINVAL, "already");
	atomic_store(&w->tries_unregister, true);
	ferryt_fill(p, PAGES, 4);
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_COLD), 0);
	CHECK_INT(atomic_load(&w->unregister_rc), -EDEADLK);
	CHECK_INT(ferry_mirror_unregister(&w->mirror), 0);

	struct watcher *all[FERRY_MAX_MIRRORS];

	for (unsigned i = 0; i < FERRY_MAX_MIRRORS; i++)
		all[i] = watcher_new(ferry, p, LEN);
	CHECK_FAILS(ferry_mirror_register(&one_more, ferry), -ENOMEM, "16");
	CHECK_INT(ferry_mirror_unregister(&all[3]->mirror), 0);
	ferryt_verify(p, 0, PAGES, 4);
	for (unsigned i = 0; i < FERRY_MAX_MIRRORS; i++)
		CHECK(i == 3 ? !nr_seen(all[i]) : nr_seen(all[i]) > 0);
	CHECK_INT(ferry_close(ferry), 0);
	for (unsigned i = 0; i < FERRY_MAX_MIRRORS; i++)
		CHECK_INT(atomic_load(&all[i]->released), i == 3 ? 0 : 1);
}

static void mirror__register_unregister__every_error_and_release(void **state)
{
	(void)state;
	RUN(body_registration);
}

static _Atomic unsigned *nr_released; /* shared with the parent: what an exiting process has done */

static void count_release(struct ferry_mirror *mirror)
{
	(void)mirror;
	atomic_fetch_add(nr_released, 1);
}

static void body_exit(void)
{
	static const struct ferry_mirror_ops ops = { .release = count_release, .invalidate = watch };
	static struct watcher kept, gone;
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);

	kept.mirror.ops = gone.mirror.ops = &ops;
	CHECK_INT(ferry_mirror_register(&kept.mirror, ferry), 0);
	CHECK_INT(ferry_mirror_register(&gone.mirror, ferry), 0);
	CHECK_INT(ferry_mirror_unregister(&gone.mirror), 0);
	fflush(NULL);
	FERRYT_EXITS_OPEN();
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid)
		exit(3); /* has no mirror */
	CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS), 3);
	CHECK_INT(atomic_load(nr_released), 0);
	exit(4);
}

static void mirror__exit__released_once_and_not_by_a_child(void **state)
{
	(void)state;
	nr_released = mmap(NULL, FERRYT_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(nr_released != MAP_FAILED);
	assert_int_equal(ferryt_in_child(body_exit), 4);
	assert_int_equal(atomic_load(nr_released), 1);
	munmap(nr_released, FERRYT_PAGE);
}

static void *unregister(void *arg)
{
	struct watcher *w = arg;

	CHECK_INT(ferry_mirror_unregister(&w->mirror), 0);
	CHECK(atomic_load(&w->left)); /* the callback that was running has returned */
	return NULL;
}

static void *touch_all(void *arg)
{
	ferryt_verify(arg, 0, PAGES, 5);
	return NULL;
}

static void body_unregister_waits(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	pthread_t leaver, toucher;

	ferryt_fill_away(ferry, p, PAGES, 5);
	struct watcher *w = watcher_new(ferry, p, LEN);

	atomic_store(&w->hold, true);
	CHECK_INT(pthread_create(&toucher, NULL, touch_all, p), 0);
	while (!atomic_load(&w->inside))
		;
	CHECK_INT(pthread_create(&leaver, NULL, unregister, w), 0);
	for (int i = 0; i < 1000; i++) /* time enough for one that does not wait to come back and be found out */
		sched_yield();
	atomic_store(&w->hold, false);
	CHECK_INT(pthread_join(leaver, NULL), 0);
	free(w);
	CHECK_INT(pthread_join(toucher, NULL), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void mirror__unregister__waits_for_a_running_callback(void **state)
{
	(void)state;
	RUN(body_unregister_waits);
}

/* ---- the device's own access ---- */

static int ignore(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	(void)mirror;
	(void)update;
	return 0;
}

static const struct ferry_mirror_ops quiet_ops = { .invalidate = ignore };

static void body_read(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_mirror mirror = { .ops = &quiet_ops };
	struct ferry_mirror_stats stats = { .size = sizeof(stats) };
	uint8_t *p = ferryt_mmap(ferry, LEN), *got = malloc(LEN + 1), *plain = malloc(LEN);
	struct ferry_stats before, after;

	CHECK(got && plain);
	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);

	/* away: read in the pool, and nothing has moved */
	ferryt_fill_away(ferry, p, PAGES, 6);
	before = ferryt_stats(ferry);
	CHECK_INT(ferry_mirror_read(&mirror, (uintptr_t)p, got, LEN, &stats), 0);
	ferryt_verify(got, 0, PAGES, 6);
	after = ferryt_stats(ferry);
	CHECK_INT(ferryt_present(p, PAGES), 0);
	CHECK_INT(after.faults, before.faults);
	CHECK_INT(stats.pages_pool, PAGES);
	CHECK_INT(stats.bytes, LEN);
	CHECK_INT(stats.pages_ram + stats.pages_home + stats.pages_populated, 0);
	CHECK(stats.rounds >= PAGES);
	CHECK_INT(ferry_mirror_peek(&mirror, (uintptr_t)p, got, LEN), 0);
	ferryt_verify(got, 0, PAGES, 6);

	/* odd ends, and a page in RAM between pages in the pool */
	ferryt_verify(p + 3 * FERRYT_PAGE, 3, 1, 6);
	memset(&stats, 0, sizeof(stats));
	stats.size = sizeof(stats);
	CHECK_INT(ferry_mirror_read(&mirror, (uintptr_t)p + 100, got + 100, 5 * FERRYT_PAGE, &stats), 0);
	memcpy(got, p, 100);
	memcpy(got + 5 * FERRYT_PAGE + 100, p + 5 * FERRYT_PAGE + 100, FERRYT_PAGE - 100);
	ferryt_verify(got, 0, 6, 6);
	CHECK(stats.pages_ram >= 1 && stats.pages_pool >= 1);
	CHECK_FAILS(ferry_mirror_peek(&mirror, (uintptr_t)p, got, LEN), -ENOENT, "not in a pool");

	/* never touched: made to be zeros */
	uint8_t *fresh = ferryt_mmap(ferry, LEN);

	memset(got, 1, LEN);
	memset(&stats, 0, sizeof(stats));
	stats.size = sizeof(stats);
	CHECK_INT(ferry_mirror_read(&mirror, (uintptr_t)fresh, got, LEN, &stats), 0);
	ferryt_verify_zero(got, PAGES);
	CHECK_INT(stats.pages_populated, PAGES);
	/* dropped */
	CHECK_INT(madvise(p, LEN, MADV_DONTNEED), 0);
	CHECK_INT(ferry_mirror_read(&mirror, (uintptr_t)p, got, LEN, NULL), 0);
	ferryt_verify_zero(got, PAGES);
	/* not managed */
	ferryt_fill(plain, PAGES, 7);
	CHECK_INT(ferry_mirror_read(&mirror, (uintptr_t)plain, got, LEN, NULL), 0);
	ferryt_verify(got, 0, PAGES, 7);
	CHECK_INT(ferry_close(ferry), 0);
	CHECK_FAILS(ferry_mirror_read(&mirror, (uintptr_t)p, got, LEN, NULL), -EINVAL, "not registered");
}

static void mirror_read__each_page_where_it_is__nothing_moves(void **state)
{
	(void)state;
	RUN(body_read);
}

static void body_write(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_mirror mirror = { .ops = &quiet_ops };
	struct ferry_mirror_stats stats = { .size = sizeof(stats) };
	uint8_t *p = ferryt_mmap(ferry, LEN), *mine = malloc(LEN);

	CHECK(mine);
	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	ferryt_fill_away(ferry, p, PAGES, 8);
	ferryt_fill(mine, PAGES, 9);
	CHECK_INT(ferry_mirror_write(&mirror, (uintptr_t)p, mine, LEN, &stats), 0);
	CHECK_INT(ferryt_present(p, PAGES), 0);
	CHECK_INT(stats.pages_pool, PAGES);
	ferryt_verify(p, 0, PAGES, 9);

	/* parts of pages: what is beside stays; in the pool and in RAM */
	CHECK_INT(ferry_advise(ferry, p, LEN / 2, FERRY_ADVICE_COLD), 0);
	for (size_t i = 0; i < PAGES; i++) {
		uint64_t tag = i * 77;

		CHECK_INT(ferry_mirror_write(&mirror, (uintptr_t)p + i * FERRYT_PAGE + 123, &tag, sizeof(tag), NULL), 0);
		memcpy(mine + i * FERRYT_PAGE + 123, &tag, sizeof(tag));
	}
	CHECK_INT(memcmp(p, mine, LEN), 0);
	/* what the device wrote leaves and comes back like anything else */
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_COLD), 0);
	CHECK_INT(memcmp(p, mine, LEN), 0);
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
	CHECK_INT(memcmp(p, mine, LEN), 0);
}

static void mirror_write__each_page_where_it_is__seen_by_the_cpu(void **state)
{
	(void)state;
	RUN(body_write);
}

static void body_rights(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_mirror mirror = { .ops = &quiet_ops };
	uint8_t *p = ferryt_mmap(ferry, LEN), *got = malloc(LEN);

	CHECK(got);
	memset(got, 0x5a, LEN);
	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	ferryt_fill_away(ferry, p, PAGES, 10);
	CHECK_INT(mprotect(p + LEN / 2, LEN / 2, PROT_READ), 0);
	CHECK_FAILS(ferry_mirror_write(&mirror, (uintptr_t)p, got, LEN, NULL), -EPERM, "not writable");
	CHECK_INT(ferry_mirror_read(&mirror, (uintptr_t)p, got, LEN, NULL), 0);
	ferryt_verify(got, 0, PAGES, 10); /* nothing of the refused write has landed */

	memset(got, 0x5a, LEN);
	CHECK_INT(mprotect(p + LEN / 2, LEN / 2, PROT_NONE), 0);
	CHECK_FAILS(ferry_mirror_read(&mirror, (uintptr_t)p, got, LEN, NULL), -EPERM, "not readable");
	CHECK(got[0] == 0x5a && memcmp(got, got + 1, LEN - 1) == 0);
	CHECK_INT(munmap(p + LEN / 2, LEN / 2), 0);
	CHECK_FAILS(ferry_mirror_read(&mirror, (uintptr_t)p, got, LEN, NULL), -EFAULT, "not mapped");
	CHECK_FAILS(ferry_mirror_write(&mirror, (uintptr_t)p, got, LEN, NULL), -EFAULT, "not mapped");
	CHECK(got[0] == 0x5a && memcmp(got, got + 1, LEN - 1) == 0);
	ferryt_verify(p, 0, PAGES / 2, 10);
	CHECK_FAILS(ferry_mirror_read(&mirror, (uintptr_t)p, NULL, 8, NULL), -EINVAL, "no buffer");
	CHECK_FAILS(ferry_mirror_read(&mirror, UINTPTR_MAX - 4, got, 8, NULL), -EINVAL, "wraps");
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void mirror_access__no_right__buffer_and_memory_untouched(void **state)
{
	(void)state;
	RUN(body_rights);
}

static void body_other_owner(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_mirror mirror = { .ops = &quiet_ops, .owner = "another device" };
	struct ferry_mirror_stats stats = { .size = sizeof(stats) };
	uint8_t *p = ferryt_mmap(ferry, LEN), *got = malloc(LEN);

	CHECK(got);
	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	ferryt_fill_away(ferry, p, PAGES, 11);
	CHECK_FAILS(ferry_mirror_peek(&mirror, (uintptr_t)p, got, LEN), -ENOENT, "pool of this owner");
	CHECK_INT(ferry_mirror_read(&mirror, (uintptr_t)p, got, LEN, &stats), 0);
	ferryt_verify(got, 0, PAGES, 11);
	CHECK_INT(stats.pages_home, PAGES);
	CHECK_INT(stats.pages_pool, 0);
	CHECK_INT(ferryt_present(p, PAGES), PAGES);
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void mirror_read__page_of_another_owner__comes_home_first(void **state)
{
	(void)state;
	RUN(body_other_owner);
}

/* ---- without a server; comes last, for it ends the test's own ---- */

static void body_server_gone(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_mirror mirror = { .ops = &quiet_ops };
	struct ferry_fault_info info = { .size = sizeof(info) };
	uint8_t *p = ferryt_mmap(ferry, LEN), *probe = ferryt_mmap(ferry, LEN), byte;
	uint64_t deadline_ns = ferryi_now_ns() + 30000000000ULL, word = 1;

	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	CHECK_INT(ferry_advise(ferry, probe, LEN, FERRY_ADVICE_RANDOM), 0);
	ferryt_fill_away(ferry, probe, PAGES, 12);
	ferryt_fill_away(ferry, p, PAGES, 13);
	/* Over the local fabric the data outlives the server, until the library has noticed. */
	ferryt_child_signal(ferryt_server(), SIGKILL);
	while (!ferry_mirror_peek(&mirror, (uintptr_t)probe, &byte, 1)) /* brings nothing home, which could be read for ever */
		CHECK(ferryi_now_ns() < deadline_ns && sched_yield() == 0);
	/* Nothing was sent, so nothing is torn: the page is not poisoned for it. */
	CHECK_FAILS(ferry_mirror_write(&mirror, (uintptr_t)p + 8, &word, sizeof(word), NULL), -ENOTCONN, "could not be had");
	CHECK_FAILS(ferry_mirror_read(&mirror, (uintptr_t)p, &word, sizeof(word), NULL), -ENOTCONN, "could not be had");
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p, &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_NONE);

	/* A touch poisons it, and the mirror is told before. */
	struct watcher *w = watcher_new(ferry, p, LEN);

	CHECK_INT(ferryt_touch(p, &byte), SIGBUS);
	wait_events(w, FERRY_UPDATE_POISON);
	CHECK_FAILS(ferry_mirror_read(&mirror, (uintptr_t)p, &word, sizeof(word), NULL), -EIO, "lost");
}

static void mirror_access__server_gone__page_not_torn_and_poison_is_told(void **state)
{
	(void)state;
	RUN(body_server_gone);
}

/* ---- a device beside a writing CPU and eviction ---- */

#define BUSY_PAGES 64u
#define BUSY_WORDS (FERRYT_PAGE / sizeof(uint64_t))
#define BUSY_MS    3000

static struct ferry *busy_ferry;
static uint64_t *busy;
static _Atomic uint64_t finished[BUSY_PAGES]; /* last number that is in every word of the page */
static _Atomic bool busy_stop;

/* Word: page number and a number that grows. */
__attribute__((no_sanitize("thread"))) static void *busy_writer(void *arg)
{
	(void)arg;
	for (uint64_t n = 1; !atomic_load(&busy_stop); n++) {
		for (uint64_t i = 0; i < BUSY_PAGES; i++) {
			volatile uint64_t *words = busy + i * BUSY_WORDS;

			for (size_t k = 0; k < BUSY_WORDS; k++)
				words[k] = i << 40 | n;
			atomic_store(&finished[i], n);
		}
	}
	return NULL;
}

static void *busy_evictor(void *arg)
{
	(void)arg;
	while (!atomic_load(&busy_stop))
		CHECK_INT(ferry_advise(busy_ferry, busy, BUSY_PAGES * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	return NULL;
}

static void body_busy(void)
{
	struct ferry_mirror mirror = { .ops = &quiet_ops };
	struct ferry_mirror_stats stats = { .size = sizeof(stats) };
	uint64_t got[BUSY_WORDS], end_ns;
	pthread_t writer, evictor;

	busy_ferry = ferryt_open(FERRYT_BUDGET);
	busy = (uint64_t *)ferryt_mmap(busy_ferry, BUSY_PAGES * FERRYT_PAGE);
	for (uint64_t i = 0; i < BUSY_PAGES * BUSY_WORDS; i++)
		busy[i] = i / BUSY_WORDS << 40;
	CHECK_INT(ferry_mirror_register(&mirror, busy_ferry), 0);
	CHECK_INT(pthread_create(&writer, NULL, busy_writer, NULL), 0);
	CHECK_INT(pthread_create(&evictor, NULL, busy_evictor, NULL), 0);
	end_ns = ferryi_now_ns() + BUSY_MS * 1000000ULL;
	for (uint64_t at = 0; ferryi_now_ns() < end_ns; at = (at * 5 + 1) % BUSY_PAGES) {
		uint64_t least = atomic_load(&finished[at]);

		CHECK_INT(ferry_mirror_read(&mirror, (uintptr_t)(busy + at * BUSY_WORDS), got, sizeof(got), &stats), 0);
		for (size_t k = 0; k < BUSY_WORDS; k++) {
			CHECK_INT(got[k] >> 40, at);               /* this page's words only */
			CHECK((got[k] & 0xffffffffffULL) >= least); /* nothing older than what was there */
		}
	}
	atomic_store(&busy_stop, true);
	CHECK_INT(pthread_join(writer, NULL), 0);
	CHECK_INT(pthread_join(evictor, NULL), 0);
	printf("# %llu pages read in RAM, %llu in the pool\n", (unsigned long long)stats.pages_ram,
	       (unsigned long long)stats.pages_pool);
	CHECK(stats.pages_ram > 0 && stats.pages_pool > 0);
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(ferry_close(busy_ferry), 0);
}

static void mirror_read__beside_writer_and_evictor__never_old_nor_another_page(void **state)
{
	(void)state;
	RUN(body_busy);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mirror__invalidate__comes_before_the_new_page),
		cmocka_unit_test(mirror__invalidate__comes_before_the_page_leaves),
		cmocka_unit_test(mirror__application_changes__are_told),
		cmocka_unit_test(invalidate__wrong_answer__taken_for_0_and_logged_once),
		cmocka_unit_test(mirror__register_unregister__every_error_and_release),
		cmocka_unit_test(mirror__exit__released_once_and_not_by_a_child),
		cmocka_unit_test(mirror__unregister__waits_for_a_running_callback),
		cmocka_unit_test(mirror_read__each_page_where_it_is__nothing_moves),
		cmocka_unit_test(mirror_write__each_page_where_it_is__seen_by_the_cpu),
		cmocka_unit_test(mirror_access__no_right__buffer_and_memory_untouched),
		cmocka_unit_test(mirror_read__page_of_another_owner__comes_home_first),
		cmocka_unit_test(mirror_read__beside_writer_and_evictor__never_old_nor_another_page),
		cmocka_unit_test(mirror_access__server_gone__page_not_torn_and_poison_is_told),
	};
	int skip = ferryt_needs_uffd();

	if (skip)
		return skip;
	ferryt_server_start(argc > 1 ? argv[1] : "local");
	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	ferryt_server_end();
	return rc;
}
