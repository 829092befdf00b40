/* fork with pages away: parent and child each see their own, right data (FERRY_FORK=copy, the default). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fork_kit.h"

#define NOBODY 65534

#ifdef __SANITIZE_THREAD__ /* threads that a test starts in a child get ids that ThreadSanitizer thinks are taken */
#define SKIP_THREADS_IN_CHILD() skip()
#else
#define SKIP_THREADS_IN_CHILD() (void)0
#endif

/* ---- data ---- */

static void body_both_verify(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN + FERRYT_MIB);

	ferryt_fill(p, PAGES, 1);
	CHECK(ferryt_present(p, PAGES) < PAGES / 2);
	pid_t pid = fork();

	if (pid == 0) {
		struct ferry_stats s = {.size = sizeof(s)};

		ferryt_verify(p, 0, PAGES, 1);
		ferryt_verify_zero(p + LEN, FERRYT_MIB / FERRYT_PAGE); /* never touched by the parent */
		CHECK_FAILS(ferry_stats(ferry, &s), -EINVAL, "parent");
		_exit(0);
	}
	CHECK(pid > 0);
	ferryt_verify(p, 0, PAGES, 1);
	end_well(pid);
	ferryt_verify(p, 0, PAGES, 1);
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, PAGES, 1);
}

static void fork_copy__four_budgets__both_see_all(void **state)
{
	(void)state;
	RUN(body_both_verify);
}

static void check_parent_overwrites(struct ferry *ferry)
{
	uint8_t *p = ferryt_mmap(ferry, LEN);
	struct talk t = talk_open();

	ferryt_fill(p, PAGES, 2);
	pid_t pid = fork();

	if (pid == 0) {
		hear(t.to_child);
		ferryt_verify(p, 0, PAGES, 2);
		_exit(0);
	}
	/* Every page twice, so that each is written back over what the child needs, by eviction that goes on. */
	uint64_t evicted = ferryt_stats(ferry).pages_evicted;

	ferryt_fill(p, PAGES, 3);
	ferryt_fill_away(ferry, p, PAGES, 4);
	struct ferry_stats s = ferryt_stats(ferry);

	CHECK(s.pages_evicted - evicted > PAGES + PAGES / 2);
	CHECK(s.peak_resident_bytes <= FERRYT_BUDGET);
	say(t.to_child);
	end_well(pid);
	ferryt_verify(p, 0, PAGES, 4);
	CHECK_INT(ferry_close(ferry), 0);
}

static void body_parent_overwrites(void)
{
	check_parent_overwrites(ferryt_open(FERRYT_BUDGET));
}

static void fork_copy__parent_overwrites_and_evicts__child_sees_the_old(void **state)
{
	(void)state;
	RUN(body_parent_overwrites);
}

/* What the parent only reads stays shared with the child: it leaves all the same. */
static void body_parent_reads(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	struct talk t = talk_open();

	ferryt_fill(p, PAGES, 2);
	pid_t pid = fork();

	if (pid == 0) {
		hear(t.to_child);
		ferryt_verify(p, 0, PAGES, 2);
		_exit(0);
	}
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_COLD), 0);
	CHECK_INT(ferryt_present(p, PAGES), 0);
	ferryt_verify(p, 0, PAGES, 2);
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRYT_BUDGET);
	say(t.to_child);
	end_well(pid);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_copy__parent_reads__shared_pages_leave(void **state)
{
	(void)state;
	RUN(body_parent_reads);
}

static void body_parent_gives_up(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN), *q = ferryt_mmap(ferry, LEN), *r;
	struct talk t = talk_open();

	ferryt_fill_away(ferry, p, PAGES, 5);
	ferryt_fill_away(ferry, q, PAGES, 6);
	pid_t pid = fork();

	if (pid == 0) {
		hear(t.to_child);
		ferryt_verify(p, 0, PAGES, 5);
		ferryt_verify(q, 0, PAGES, 6);
		_exit(0);
	}
	CHECK_INT(ferry_munmap(ferry, p, LEN), 0);
	CHECK_INT(madvise(q, LEN, MADV_DONTNEED), 0);
	ferryt_verify_zero(q, 10);
	ferryt_fill_away(ferry, q, PAGES, 7);
	r = ferryt_mmap(ferry, LEN);
	ferryt_fill_away(ferry, r, PAGES, 8);
	say(t.to_child);
	end_well(pid);
	ferryt_verify(q, 0, PAGES, 7);
	ferryt_verify(r, 0, PAGES, 8);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_copy__parent_unmaps_and_drops__child_sees_the_old(void **state)
{
	(void)state;
	RUN(body_parent_gives_up);
}

static void body_child_overwrites(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill(p, PAGES, 9);
	pid_t pid = fork();

	if (pid == 0) {
		ferryt_fill(p, PAGES, 10);
		ferryt_verify(p, 0, PAGES, 10);
		_exit(0);
	}
	ferryt_verify(p, 0, PAGES, 9);
	end_well(pid);
	ferryt_verify(p, 0, PAGES, 9);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_copy__child_overwrites__parent_sees_its_own(void **state)
{
	(void)state;
	RUN(body_child_overwrites);
}

/* The child's own munmap, mremap, MADV_DONTNEED, with pages away. */
static void change_in_child(uint8_t *p)
{
	const size_t part = PART * FERRYT_PAGE;

	CHECK_INT(madvise(p, part, MADV_DONTNEED), 0);
	ferryt_verify_zero(p, PART);
	CHECK_INT(munmap(p + part, part), 0);
	uint8_t *q = mremap(p + 2 * part, part, 2 * part, MREMAP_MAYMOVE);

	CHECK(q != MAP_FAILED);
	ferryt_verify(q, 2 * PART, PART, 11);
	ferryt_verify_zero(q + part, PART);
	ferryt_verify(p + 3 * part, 3 * PART, PAGES - 3 * PART, 11);
}

static void body_child_changes(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill_away(ferry, p, PAGES, 11);
	pid_t pid = fork();

	if (pid == 0) {
		change_in_child(p);
		_exit(0);
	}
	end_well(pid);
	ferryt_verify(p, 0, PAGES, 11);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_copy__child_unmaps_moves_drops__as_in_plain_memory(void **state)
{
	(void)state;
	RUN(body_child_changes);
}

static int on_invalidate(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	(void)mirror;
	(void)update;
	return 0;
}

static void body_own_mirror(void)
{
	static const struct ferry_mirror_ops ops = {.invalidate = on_invalidate};
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	struct talk t = talk_open();

	ferryt_fill_away(ferry, p, PAGES, 31);
	pid_t pid = fork();

	if (pid == 0) {
		struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
		struct ferry_mirror mirror = {.ops = &ops};
		struct ferry *mine;
		uint8_t page[FERRYT_PAGE];

		hear(t.to_child); /* the parent has other data there by now */
		CHECK_INT(ferry_open(&cfg, &mine), 0);
		uint8_t *q = ferryt_mmap(mine, LEN);

		ferryt_fill_away(mine, q, PAGES, 32);
		CHECK_INT(ferry_mirror_register(&mirror, mine), 0);
		for (size_t i = 0; i < PAGES; i++) {
			CHECK_INT(ferry_mirror_read(&mirror, (uintptr_t)q + i * FERRYT_PAGE, page, sizeof(page), NULL), 0);
			ferryt_verify(page, i, 1, 32);
			/* What is inherited is no range of its own, and is read as any memory. */
			CHECK_INT(ferry_mirror_read(&mirror, (uintptr_t)p + i * FERRYT_PAGE, page, sizeof(page), NULL), 0);
			ferryt_verify(page, i, 1, 31);
		}
		CHECK_INT(ferry_mirror_unregister(&mirror), 0);
		CHECK_INT(ferry_close(mine), 0);
		ferryt_verify(q, 0, PAGES, 32);
		ferryt_verify(p, 0, PAGES, 31);
		_exit(0);
	}
	ferryt_fill(p, PAGES, 33);
	say(t.to_child);
	end_well(pid);
	ferryt_verify(p, 0, PAGES, 33);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_copy__child_opens_its_own_mirror__sees_its_and_the_inherited(void **state)
{
	(void)state;
	SKIP_THREADS_IN_CHILD();
	RUN(body_own_mirror);
}

static void body_close_and_adopt(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	struct talk t = talk_open();
	void *heap = NULL;

	CHECK_INT(posix_memalign(&heap, FERRYT_PAGE, LEN), 0);
	ferryt_fill(heap, PAGES, 12);
	CHECK_INT(ferry_adopt(ferry, heap, LEN, 0), 0);
	ferryt_fill_away(ferry, p, PAGES, 13);
	pid_t pid = fork();

	if (pid == 0) {
		hear(t.to_child);
		ferryt_verify(heap, 0, PAGES, 12);
		ferryt_verify(p, 0, PAGES, 13);
		_exit(0);
	}
	CHECK_INT(ferry_close(ferry), 0); /* the child is given everything */
	ferryt_fill(p, PAGES, 14);
	say(t.to_child);
	end_well(pid);
	ferryt_verify(heap, 0, PAGES, 12);
}

static void fork_copy__parent_closes__child_has_everything(void **state)
{
	(void)state;
	RUN(body_close_and_adopt);
}

/* ---- threads on both sides ---- */

struct worker {
	uint8_t *p;
	uint64_t seed;
	unsigned salt;
};

/* Pages at random: found as they were, and written anew. */
static void *work(void *arg)
{
	struct worker *w = arg;
	uint8_t *fresh = calloc(PART, 1);
	unsigned x = w->salt;

	for (unsigned i = 0; i < 4 * PART; i++) {
		x = x * 1103515245u + 12345u;
		unsigned k = (x >> 8) % PART;
		uint8_t *page = w->p + k * FERRYT_PAGE;

		ferryt_verify(page, k, 1, w->seed + fresh[k]);
		fresh[k] = (uint8_t)(fresh[k] + 1 + w->salt % 7);
		ferryt_fill_page(page, w->seed + fresh[k], k);
	}
	for (unsigned k = 0; k < PART; k++)
		ferryt_verify(w->p + k * FERRYT_PAGE, k, 1, w->seed + fresh[k]);
	free(fresh);
	return NULL;
}

static void work_in_threads(uint8_t *p, unsigned salt)
{
	enum { THREADS = 4 };
	pthread_t thread[THREADS];
	struct worker w[THREADS];

	for (unsigned i = 0; i < THREADS; i++) {
		w[i] = (struct worker){p + i * PART * FERRYT_PAGE, 1000 * i, salt + i};
		CHECK_INT(pthread_create(&thread[i], NULL, work, &w[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_INT(pthread_join(thread[i], NULL), 0);
}

static void body_random(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, 4 * PART * FERRYT_PAGE);

	for (unsigned i = 0; i < 4; i++)
		ferryt_fill(p + i * PART * FERRYT_PAGE, PART, 1000 * i);
	pid_t pid = fork();

	work_in_threads(p, pid ? 1 : 50);
	if (pid == 0)
		_exit(0);
	end_well(pid);
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferryt_stats(ferry).faults_poisoned, 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_copy__four_threads_on_both_sides__each_its_own(void **state)
{
	(void)state;
	SKIP_THREADS_IN_CHILD();
	RUN(body_random);
}

/* ---- at the fork, and several ---- */

/* The application's own handlers, on all three sides, find managed memory in order. */
static struct {
	uint8_t *p;
	unsigned prepared, in_parent, in_child;
} handlers;

static void on_prepare(void)
{
	if (handlers.p)
		ferryt_verify(handlers.p, 0, ++handlers.prepared, 19);
}

static void on_parent(void)
{
	if (handlers.p)
		ferryt_verify(handlers.p + LEN / 4, PAGES / 4, ++handlers.in_parent, 19);
}

static void on_child(void)
{
	if (handlers.p)
		ferryt_verify(handlers.p + LEN / 2, PAGES / 2, ++handlers.in_child, 19);
}

static void body_handlers(void)
{
	CHECK_INT(pthread_atfork(on_prepare, on_parent, on_child), 0); /* before ferry_open */
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill_away(ferry, p, PAGES, 19);
	handlers.p = p;
	pid_t pid = fork();

	if (pid == 0) {
		CHECK_INT(handlers.in_child, 1);
		ferryt_verify(p, 0, PAGES, 19);
		_exit(0);
	}
	CHECK(handlers.prepared == 1 && handlers.in_parent == 1);
	end_well(pid);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_copy__applications_handlers__find_their_memory(void **state)
{
	(void)state;
	RUN(body_handlers);
}

/* Several at once: a child of each content; and one opens the library anew. */
static void body_siblings(void)
{
	enum { CHILDREN = 4 };
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	struct talk t = talk_open();
	pid_t pid[CHILDREN];

	for (unsigned i = 0; i < CHILDREN; i++) {
		ferryt_fill(p, PAGES, 20 + i);
		pid[i] = fork();
		if (pid[i])
			continue;
		hear(t.to_child);
		ferryt_verify(p, 0, PAGES, 20 + i);
		if (i == 2) {
			struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
			struct ferry *mine = NULL;

			CHECK_INT(ferry_open(&cfg, &mine), 0);
			uint8_t *q = ferryt_mmap(mine, LEN);

			ferryt_fill(q, PAGES, 30);
			ferryt_verify(q, 0, PAGES, 30);
			ferryt_verify(p, 0, PAGES, 20 + i);
			CHECK_INT(ferry_close(mine), 0);
		}
		_exit(0);
	}
	ferryt_fill_away(ferry, p, PAGES, 40);
	for (unsigned i = 0; i < CHILDREN; i++)
		say(t.to_child);
	for (unsigned i = 0; i < CHILDREN; i++)
		end_well(pid[i]);
	ferryt_verify(p, 0, PAGES, 40);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_copy__four_children__each_sees_its_time(void **state)
{
	(void)state;
	SKIP_THREADS_IN_CHILD();
	RUN(body_siblings);
}

/* ---- beside a migration in three steps ---- */

#define STEP_PAGES 100u

static struct ferry_pool *first_pool;
static _Atomic bool enough;

/* Takes pages out of RAM and gives them back, again and again. */
static void *migrate(void *arg)
{
	uint64_t src[STEP_PAGES], dst[STEP_PAGES];
	const void *data[STEP_PAGES];

	while (!atomic_load(&enough)) {
		struct ferry_migrate m = { .size = sizeof(m), .pool = first_pool, .start = (uintptr_t)arg, .src = src,
					   .dst = dst, .data = data };

		m.end = m.start + STEP_PAGES * FERRYT_PAGE;
		CHECK_INT(ferry_migrate_setup(&m), 0);
		CHECK_INT(ferry_migrate_finalize(&m), 0);
	}
	return NULL;
}

/* What was in the device's hands at the fork raises SIGBUS in the child; all else has its data. */
static void body_beside_steps(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, STEP_PAGES * FERRYT_PAGE), *away = ferryt_mmap(ferry, FERRYT_PAGE);
	pthread_t thread;

	first_pool = ferry_pool_at(ferry, 0);
	ferryt_fill(p, STEP_PAGES, 12);
	ferryt_fill_away(ferry, away, 1, 13);
	CHECK_INT(pthread_create(&thread, NULL, migrate, p), 0);
	for (unsigned i = 0; i < 40; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			for (size_t k = 0; k < STEP_PAGES; k++) {
				uint8_t byte;
				int sig = ferryt_touch(p + k * FERRYT_PAGE, &byte);

				CHECK(sig == 0 || sig == SIGBUS);
				if (!sig)
					ferryt_verify(p + k * FERRYT_PAGE, k, 1, 12);
			}
			ferryt_verify(away, 0, 1, 13);
			_exit(0);
		}
		CHECK(pid > 0);
		end_well(pid);
	}
	atomic_store(&enough, true);
	CHECK_INT(pthread_join(thread, NULL), 0);
	ferryt_verify(p, 0, STEP_PAGES, 12);
	ferry_pool_put(first_pool);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_copy__beside_a_migration_in_three_steps__no_page_is_zeros(void **state)
{
	(void)state;
	RUN(body_beside_steps);
}

/* ---- without rights ---- */

static const char *row;
static char nobody_token[64];

/* A copy of the token that nobody can read. */
static int copy_token(void)
{
	char text[256];
	int from = open(ferryt_token_file(), O_RDONLY | O_CLOEXEC), to;

	snprintf(nobody_token, sizeof(nobody_token), "/tmp/ferryt-nobody-XXXXXX");
	to = mkostemp(nobody_token, O_CLOEXEC);
	ssize_t n = read(from, text, sizeof(text));
	bool ok = from >= 0 && to >= 0 && n > 0 && write(to, text, (size_t)n) == n && fchown(to, NOBODY, NOBODY) == 0;

	close(from);
	close(to);
	return ok ? 0 : -1;
}

static void body_nobody(void)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	struct ferry *ferry;

	CHECK_INT(setgroups(0, NULL), 0);
	CHECK_INT(setresgid(NOBODY, NOBODY, NOBODY), 0);
	CHECK_INT(setresuid(NOBODY, NOBODY, NOBODY), 0);
	CHECK_INT(prctl(PR_SET_DUMPABLE, 1), 0);
	cfg.token_file = nobody_token;
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	check_parent_overwrites(ferry);
}

static void fork_copy__as_nobody__the_same(void **state)
{
	(void)state;
	if (geteuid() != 0 || strcmp(row, "embedded") == 0)
		skip();
	assert_int_equal(copy_token(), 0);
	int rc = ferryt_in_child(body_nobody);

	unlink(nobody_token);
	assert_int_equal(rc, 0);
}

static int group_setup(void **state)
{
	(void)state;
	ferryt_server_start(row);
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	ferryt_server_end();
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fork_copy__four_budgets__both_see_all),
		cmocka_unit_test(fork_copy__parent_overwrites_and_evicts__child_sees_the_old),
		cmocka_unit_test(fork_copy__parent_reads__shared_pages_leave),
		cmocka_unit_test(fork_copy__parent_unmaps_and_drops__child_sees_the_old),
		cmocka_unit_test(fork_copy__child_overwrites__parent_sees_its_own),
		cmocka_unit_test(fork_copy__child_unmaps_moves_drops__as_in_plain_memory),
		cmocka_unit_test(fork_copy__child_opens_its_own_mirror__sees_its_and_the_inherited),
		cmocka_unit_test(fork_copy__parent_closes__child_has_everything),
		cmocka_unit_test(fork_copy__four_threads_on_both_sides__each_its_own),
		cmocka_unit_test(fork_copy__applications_handlers__find_their_memory),
		cmocka_unit_test(fork_copy__four_children__each_sees_its_time),
		cmocka_unit_test(fork_copy__beside_a_migration_in_three_steps__no_page_is_zeros),
		cmocka_unit_test(fork_copy__as_nobody__the_same),
	};
	int rc = ferryt_needs_uffd();

	if (rc)
		return rc;
	row = argc > 1 ? argv[1] : "local";
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
