/*
 * At the limit of a memory cgroup, which the test makes and joins: pages give
 * way to the application's own memory, as far as mirrors let them, and come in
 * without a new frame. And what a fault that finds no memory ends with
 * (FERRY_OOM). argv[1]: the row.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
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
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "pager_kit.h"

#define BUDGET	 (64 * FERRYT_MIB)
#define PAGES	 (96 * FERRYT_MIB / FERRYT_PAGE)
#define FEW_PAGES (16 * FERRYT_MIB / FERRYT_PAGE)
#define HOG	 (72 * FERRYT_MIB)
#define STEP	 (FERRYT_MIB / 4)
#define WAIT_MS	 60000

/* ---- a cgroup of the test's own ---- */

static char cgroup[128];
static const char *no_cgroup; /* why there is none */
static bool is_v2;

static bool put(const char *name, uint64_t value)
{
	char path[256], text[24];
	int fd, len = snprintf(text, sizeof(text), "%llu", (unsigned long long)value);

	snprintf(path, sizeof(path), "%s/%s", cgroup, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, (size_t)len) == len;

	if (fd >= 0)
		close(fd);
	return ok;
}

static uint64_t get(const char *name)
{
	char path[256], text[32] = "";
	int fd;

	snprintf(path, sizeof(path), "%s/%s", cgroup, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	return strtoull(text, NULL, 10);
}

static void set_limit(uint64_t bytes)
{
	CHECK(put(is_v2 ? "memory.max" : "memory.limit_in_bytes", bytes));
}

static uint64_t usage(void)
{
	return get(is_v2 ? "memory.current" : "memory.usage_in_bytes");
}

static uint64_t room(void)
{
	uint64_t limit = get(is_v2 ? "memory.max" : "memory.limit_in_bytes"), used = usage();

	return limit > used ? limit - used : 0;
}

/* Why none can be made, or NULL. */
static const char *make_cgroup(void)
{
	static const char *const at[] = {"/sys/fs/cgroup/memory", "/sys/fs/cgroup"};

#ifdef __SANITIZE_THREAD__
	return "ThreadSanitizer's shadow of every page counts in the cgroup";
#endif
	if (geteuid() != 0)
		return "making a memory cgroup takes root";
	for (unsigned i = 0; i < 2; i++) {
		char all[64];

		is_v2 = i == 1;
		snprintf(all, sizeof(all), "%s/cgroup.procs", at[i]);
		if (access(all, W_OK))
			continue;
		snprintf(cgroup, sizeof(cgroup), "%s/ferryt-%d", at[i], (int)getpid());
		if (!mkdir(cgroup, 0755) && put(is_v2 ? "memory.max" : "memory.limit_in_bytes", 1ULL << 32))
			return NULL;
		rmdir(cgroup);
	}
	return "no memory cgroup can be made here";
}

static void end_cgroup(void)
{
	uint64_t deadline_ns = ferryi_deadline_ms(WAIT_MS);

	while (rmdir(cgroup) && errno == EBUSY && ferryi_now_ns() < deadline_ns) /* until its last process is reaped */
		poll(NULL, 0, 1);
}

static struct ferry *open_in_cgroup(void)
{
	CHECK(put("cgroup.procs", (uint64_t)getpid()));
	return ferryt_open(BUDGET);
}

/* ---- giving way ---- */

/* Memory of the application's own, piece by piece, each once there is room for it: that is the library's to make. */
static uint8_t *hog(size_t len, uint64_t keep)
{
	uint8_t *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	CHECK(madvise(p, len, MADV_NOHUGEPAGE) == 0);
	for (size_t at = 0; at < len; at += STEP) {
		uint64_t deadline_ns = ferryi_deadline_ms(WAIT_MS);

		while (room() < keep && ferryi_now_ns() < deadline_ns)
			poll(NULL, 0, 1);
		CHECK(room() >= keep);
		memset(p + at, 1, STEP);
	}
	return p;
}

static void gives_way_body(void)
{
	struct ferry *ferry = open_in_cgroup();
	uint8_t *p = ferryt_mmap(ferry, PAGES * FERRYT_PAGE);

	ferryt_fill(p, PAGES, 1);
	uint64_t before = ferryt_stats(ferry).resident_bytes;

	CHECK(before > BUDGET / 2);
	set_limit(usage() + 40 * FERRYT_MIB);
	hog(HOG, 4 * FERRYT_MIB);
	CHECK(ferryt_stats(ferry).resident_bytes + 32 * FERRYT_MIB <= before);
	ferryt_verify(p, 0, PAGES, 1);
	ferryt_fill(p, PAGES, 2);
	ferryt_verify(p, 0, PAGES, 2);
	CHECK_INT(ferryt_stats(ferry).faults_poisoned, 0);
}

static void memcg_limit__application_grows__pages_give_way(void **state)
{
	(void)state;
	if (no_cgroup)
		skip();
	RUN(gives_way_body);
}

/* No frame more than there are: every page that comes in takes one that has been kept. */
static void reserve_body(void)
{
	struct ferry *ferry = open_in_cgroup();
	uint8_t *p = ferryt_mmap(ferry, FEW_PAGES * FERRYT_PAGE);
	uint64_t deadline_ns = ferryi_deadline_ms(WAIT_MS);

	ferryt_fill(p, FEW_PAGES, 3);
	/* Lower and lower, but with room to evict. */
	while (ferryt_stats(ferry).resident_bytes > FERRY_BUDGET_MIN && ferryi_now_ns() < deadline_ns) {
		set_limit(usage() + 12 * FERRYT_MIB);
		poll(NULL, 0, 1);
	}
	set_limit(usage() + FERRYT_MIB);
	uint64_t reserve = ferryt_stats(ferry).pages_reserve;

	ferryt_verify(p, 0, FEW_PAGES, 3);
	ferryt_fill(p, FEW_PAGES, 4);
	ferryt_verify(p, 0, FEW_PAGES, 4);
	struct ferry_stats stats = ferryt_stats(ferry);

	CHECK(stats.pages_reserve - reserve >= FEW_PAGES);
	CHECK_INT(stats.faults_poisoned, 0);
}

static void memcg_limit__no_room_at_all__pages_come_by_the_reserve(void **state)
{
	(void)state;
	if (no_cgroup)
		skip();
	RUN(reserve_body);
}

/* ---- mirrors that are asked, near the limit ---- */

#define KEPT_PAGES 16u

static struct asked {
	struct ferry_mirror mirror; /* must be first */
	uintptr_t start, end;       /* what it does not let go of, as long as it is asked */
	_Atomic bool refuses;
	_Atomic unsigned nr_refused, nr_told; /* nr_told: MIGRATE, with blockable */
} asked;

static int on_ask(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	struct asked *a = (struct asked *)mirror;

	if (update->blockable) {
		atomic_fetch_add(&a->nr_told, update->event == FERRY_UPDATE_MIGRATE);
		return 0;
	}
	if (!atomic_load(&a->refuses) || update->end <= a->start || update->start >= a->end)
		return 0;
	atomic_fetch_add(&a->nr_refused, 1);
	return -EAGAIN;
}

static const struct ferry_mirror_ops ask_ops = { .invalidate = on_ask };

/* All in RAM, far below the budget; the mirror keeps the first `kept` pages. */
static uint8_t *fill_with_mirror(struct ferry *ferry, size_t kept, uint64_t seed)
{
	uint8_t *p = ferryt_mmap(ferry, FEW_PAGES * FERRYT_PAGE);

	ferryt_fill(p, FEW_PAGES, seed);
	CHECK_INT(ferryt_present(p, FEW_PAGES), FEW_PAGES);
	asked.mirror.ops = &ask_ops;
	asked.start = (uintptr_t)p;
	asked.end = asked.start + kept * FERRYT_PAGE;
	atomic_store(&asked.refuses, true);
	CHECK_INT(ferry_mirror_register(&asked.mirror, ferry), 0);
	return p;
}

/* The limit comes near until pages have given way as far as they do. */
static void press(struct ferry *ferry)
{
	uint64_t deadline_ns = ferryi_deadline_ms(WAIT_MS);

	while (ferryt_stats(ferry).resident_bytes > FERRY_BUDGET_MIN) {
		CHECK(ferryi_now_ns() < deadline_ns);
		set_limit(usage() + 12 * FERRYT_MIB);
		poll(NULL, 0, 1);
	}
}

static void refused_body(void)
{
	struct ferry *ferry = open_in_cgroup();
	uint8_t *p = fill_with_mirror(ferry, KEPT_PAGES, 6);
	uint64_t deadline_ns = ferryi_deadline_ms(WAIT_MS);

	press(ferry);
	CHECK(atomic_load(&asked.nr_refused) > 0);
	CHECK_INT(atomic_load(&asked.nr_told), 0); /* others went: nothing had to be forced */
	CHECK_INT(ferryt_present(p, KEPT_PAGES), KEPT_PAGES);
	atomic_store(&asked.refuses, false);
	while (ferryt_present(p, KEPT_PAGES)) {
		CHECK(ferryi_now_ns() < deadline_ns);
		ferryt_verify(p + KEPT_PAGES * FERRYT_PAGE, KEPT_PAGES, FEW_PAGES - KEPT_PAGES, 6);
		press(ferry);
	}
	ferryt_verify(p, 0, FEW_PAGES, 6);
	CHECK_INT(ferryt_stats(ferry).faults_poisoned, 0);
	CHECK_INT(ferry_mirror_unregister(&asked.mirror), 0);
}

static void invalidate__not_blockable_refused__page_stays_and_leaves_later(void **state)
{
	(void)state;
	if (no_cgroup)
		skip();
	RUN(refused_body);
}

static void all_refused_body(void)
{
	struct ferry *ferry = open_in_cgroup();
	uint8_t *p = fill_with_mirror(ferry, FEW_PAGES, 7);

	press(ferry);
	CHECK(atomic_load(&asked.nr_refused) > 0);
	CHECK(atomic_load(&asked.nr_told) > 0);
	set_limit(usage() + FERRYT_MIB); /* now faults wait for pages to leave */
	ferryt_verify(p, 0, FEW_PAGES, 7);
	ferryt_fill(p, FEW_PAGES, 8);
	ferryt_verify(p, 0, FEW_PAGES, 8);
	CHECK_INT(ferryt_stats(ferry).faults_poisoned, 0);
	CHECK_INT(ferry_mirror_unregister(&asked.mirror), 0);
}

static void invalidate__not_blockable_all_refused__told_with_blockable(void **state)
{
	(void)state;
	if (no_cgroup)
		skip();
	RUN(all_refused_body);
}

/* ---- FERRY_OOM ---- */

#define LOCKED_PAGES (2 * FERRYT_BUDGET / FERRYT_PAGE)

/* More read-only pages, which cannot leave, than the budget holds. */
static uint8_t *open_locked(const char *oom, struct ferry **ferry)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);

	cfg.fault_timeout_ms = 1000;
	cfg.oom = oom;
	CHECK_INT(ferry_open(&cfg, ferry), 0);
	uint8_t *p = ferryt_mmap(*ferry, LOCKED_PAGES * FERRYT_PAGE);

	ferryt_fill(p, LOCKED_PAGES, 5);
	CHECK(mprotect(p, LOCKED_PAGES * FERRYT_PAGE, PROT_READ) == 0);
	return p;
}

static void poison_body(void)
{
	struct ferry_fault_info info = { .size = sizeof(info) };
	struct ferry *ferry;
	uint8_t *p = open_locked(NULL, &ferry), byte;
	size_t i = 0;
	int sig = 0;

	while (i < LOCKED_PAGES && !(sig = ferryt_touch(p + i * FERRYT_PAGE, &byte)))
		i++;
	CHECK_INT(sig, SIGBUS);
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p + i * FERRYT_PAGE, &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_NO_MEMORY);
}

static void abort_body(void)
{
	struct ferry *ferry;
	uint8_t *p = open_locked("abort", &ferry);

	ferryt_verify(p, 0, LOCKED_PAGES, 5);
}

static void *verify_locked(void *p)
{
	ferryt_verify(p, 0, LOCKED_PAGES, 5);
	return NULL;
}

static void wait_body(void)
{
	struct ferry *ferry;
	uint8_t *p = open_locked("wait", &ferry);
	uint64_t deadline_ns = ferryi_deadline_ms(WAIT_MS), came;
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, verify_locked, p) == 0);
	do { /* until no page has come for three times the fault timeout */
		came = ferryt_stats(ferry).faults;
		poll(NULL, 0, 3000);
	} while (ferryt_stats(ferry).faults != came && ferryi_now_ns() < deadline_ns);
	CHECK(ferryt_present(p, LOCKED_PAGES) < LOCKED_PAGES);
	CHECK(mprotect(p, LOCKED_PAGES * FERRYT_PAGE, PROT_READ | PROT_WRITE) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK_INT(ferryt_stats(ferry).faults_poisoned, 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void bad_body(void)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	struct ferry *ferry;

	cfg.oom = "panic";
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EINVAL, "oom");
}

static void oom__poison_wait_abort__as_chosen(void **state)
{
	(void)state;
	RUN(poison_body);
	RUN(wait_body);
	assert_int_equal(ferryt_in_child(abort_body), 128 + SIGABRT);
	RUN(bad_body);
}

/* The server takes its memory at start: otherwise a client of the same host takes it, in its own cgroup, as pages leave. */
static int setup(void **state)
{
	static const char *const args[] = { "--pool", "name=big,size=160M,backing=memfd", NULL };

	ferryt_server_start_with(*state, args);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ferryt_server_end();
	return 0;
}

static int cgroup_setup(void **state)
{
	no_cgroup = make_cgroup();
	if (no_cgroup)
		printf("# %s\n", no_cgroup);
	return setup(state);
}

static int cgroup_teardown(void **state)
{
	if (!no_cgroup)
		end_cgroup();
	return teardown(state);
}

#define ROW_TEST(f)    cmocka_unit_test_prestate_setup_teardown(f, setup, teardown, row)
#define CGROUP_TEST(f) cmocka_unit_test_prestate_setup_teardown(f, cgroup_setup, cgroup_teardown, row)

int main(int argc, char **argv)
{
	char *row = argc > 1 ? argv[1] : "local";
	const struct CMUnitTest tests[] = {
		CGROUP_TEST(memcg_limit__application_grows__pages_give_way),
		CGROUP_TEST(memcg_limit__no_room_at_all__pages_come_by_the_reserve),
		CGROUP_TEST(invalidate__not_blockable_refused__page_stays_and_leaves_later),
		CGROUP_TEST(invalidate__not_blockable_all_refused__told_with_blockable),
		ROW_TEST(oom__poison_wait_abort__as_chosen),
	};
	int no_uffd = ferryt_needs_uffd();

	return no_uffd ? no_uffd : cmocka_run_group_tests(tests, NULL, NULL);
}
