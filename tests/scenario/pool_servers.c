/*
 * One process, several servers: policies, stripes, full pools, servers that come,
 * go and are not there. argv[1]: the fabric row. Three ferryds, whose pools "big"
 * are of different sizes.
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
#include <sys/prctl.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "pager_kit.h"

#define N	 3u
#define MIB(n)	 ((n) * FERRYT_MIB)
#define PAGES(n) (MIB(n) / FERRYT_PAGE)
#define TOTAL	 (32u + 64u + 96u)
#define WAIT_MS	 60000

static const unsigned size_mib[N] = { 32, 64, 96 };
static struct ferryt_child more[N - 1];
static char nowhere[] = "ferry://127.0.0.1:9"; /* discard: nobody listens there */

static const char *url_of(unsigned i)
{
	static char urls[N][400];

	snprintf(urls[i], sizeof(urls[i]), "%s?fabric=%s", i ? more[i - 1].url : ferryt_server()->url, ferryt_row());
	return urls[i];
}

static struct ferry_config config_of(const char *policy)
{
	static char list[1400];
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);

	snprintf(list, sizeof(list), "%s,%s, %s", url_of(0), url_of(1), url_of(2));
	cfg.servers = list;
	cfg.policy = policy;
	return cfg;
}

static struct ferry *open_three(const char *policy)
{
	struct ferry_config cfg = config_of(policy);
	struct ferry *ferry = NULL;

	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	return ferry;
}

static struct ferry_pool_info info_at(struct ferry *ferry, unsigned i)
{
	struct ferry_pool_info info = { .size = sizeof(info) };
	struct ferry_pool *pool = ferry_pool_at(ferry, i);

	CHECK(pool);
	CHECK_INT(ferry_pool_info(pool, &info), 0);
	ferry_pool_put(pool);
	return info;
}

static size_t used_mib(struct ferry *ferry, unsigned i)
{
	return info_at(ferry, i).used_bytes / FERRYT_MIB;
}

static uint8_t *map(struct ferry *ferry, size_t mib, unsigned flags)
{
	uint8_t *p = ferry_mmap(ferry, NULL, MIB(mib), PROT_READ | PROT_WRITE, flags);

	CHECK(p != MAP_FAILED);
	return p;
}

/* ---- policies ---- */

static void round_robin_body(void)
{
	struct ferry *ferry = open_three(NULL); /* it is the default */
	uint8_t *p = map(ferry, 48, 0);

	for (unsigned i = 0; i < N; i++)
		CHECK_INT(used_mib(ferry, i), 16);
	ferryt_fill_away(ferry, p, PAGES(48), 1);
	ferryt_verify(p, 0, PAGES(48), 1);
	CHECK_INT(ferry_munmap(ferry, p, MIB(48)), 0);
	/* Mappings of one stripe do not all begin at the first server. */
	for (unsigned i = 0; i < 2 * N; i++)
		map(ferry, 2, 0);
	for (unsigned i = 0; i < N; i++)
		CHECK_INT(used_mib(ferry, i), 4);
	CHECK_INT(ferry_close(ferry), 0);
}

static void round_robin__three_servers__a_third_each(void **state)
{
	(void)state;
	RUN(round_robin_body);
}

/* Where page `page` of what is away is: the name of its server. */
static void server_of(struct ferry *ferry, struct ferry_range *range, size_t page, char name[64])
{
	CHECK_INT(ferry_pfn_to_server(ferry, ferry_entry_to_pfn(range, range->pfns[page]), name, 64), 0);
}

static int no_device(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	(void)mirror;
	(void)update;
	return 0;
}

static void stripes_body(void)
{
	static const struct ferry_mirror_ops none = { .invalidate = no_device };
	static uint64_t pfns[PAGES(24)];
	struct ferry_config cfg = config_of("round-robin");
	struct ferry_mirror mirror = { .ops = &none };
	struct ferry_range range = { .pfns = pfns };
	char name[64], last[64] = "", first[64] = "";
	struct ferry *ferry = NULL;

	cfg.stripe_bytes = MIB(4);
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	uint8_t *p = map(ferry, 24, FERRY_MAP_STRIPE(23)); /* three of 8 MiB */

	for (unsigned i = 0; i < N; i++)
		CHECK_INT(used_mib(ferry, i), 8);
	ferryt_fill_away(ferry, p, PAGES(24), 2);
	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	CHECK_INT(ferry_range_register(&range, &mirror, (uintptr_t)p, (uintptr_t)p + MIB(24), 12), 0);
	CHECK(ferry_range_snapshot(&range) > 0);
	for (size_t i = 0; i < PAGES(24); i++) {
		server_of(ferry, &range, i, name);
		CHECK(i % PAGES(8) ? strcmp(name, last) == 0 : strcmp(name, last) != 0);
		strcpy(last, name);
		if (i == 0)
			strcpy(first, name);
		CHECK(i < PAGES(8) || strcmp(name, first) != 0);
	}
	ferry_range_unregister(&range);
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(ferry_munmap(ferry, p, MIB(24)), 0);
	/* Without a flag: the process's 4 MiB. */
	map(ferry, 8, 0);
	CHECK_INT((used_mib(ferry, 0) == 4) + (used_mib(ferry, 1) == 4) + (used_mib(ferry, 2) == 4), 2);
	CHECK_INT(ferry_close(ferry), 0);
}

static void stripe__of_flag_and_config__consecutive_on_one_server(void **state)
{
	(void)state;
	RUN(stripes_body);
}

static void weighted_body(void)
{
	struct ferry *ferry = open_three("weighted");
	uint8_t *p = map(ferry, 96, 0);

	for (unsigned i = 0; i < N; i++) /* halves of 32, 64, 96 */
		CHECK(used_mib(ferry, i) + 4 >= size_mib[i] / 2 && used_mib(ferry, i) <= size_mib[i] / 2 + 4);
	CHECK_INT(ferry_munmap(ferry, p, MIB(96)), 0);
	p = map(ferry, 24, FERRY_MAP_ROUND_ROBIN);
	CHECK_INT(used_mib(ferry, 0), 8);
	CHECK_INT(ferry_close(ferry), 0);
}

/* What another process holds there is not free. */
static void weighted_beside_body(void)
{
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .pool = "big",
					.server = url_of(2), .len_bytes = MIB(80) };
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	struct ferry *ferry = NULL;
	struct ferry_pool *pool;
	int ready[2];

	CHECK_INT(pipe(ready), 0);
	pid_t pid = fork();

	if (pid == 0) { /* holds 80 of 96 MiB until it is killed, or this process fails */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		CHECK_INT(ferry_open(&cfg, &ferry), 0);
		CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0);
		CHECK_INT(write(ready[1], "r", 1), 1);
		for (;;)
			pause();
	}
	char byte;

	close(ready[1]);
	CHECK_INT(read(ready[0], &byte, 1), 1);
	ferry = open_three("fill");
	map(ferry, 56, FERRY_MAP_WEIGHTED); /* of 32 + 64 + 16 */
	CHECK(used_mib(ferry, 0) >= 12 && used_mib(ferry, 0) <= 20);
	CHECK(used_mib(ferry, 1) >= 28 && used_mib(ferry, 1) <= 36);
	CHECK(used_mib(ferry, 2) >= 4 && used_mib(ferry, 2) <= 12);
	kill(pid, SIGKILL);
	ferryt_wait_child(pid, WAIT_MS);
	CHECK_INT(ferry_close(ferry), 0);
}

static void weighted__servers_of_different_room__fill_evenly(void **state)
{
	(void)state;
	RUN(weighted_body);
	RUN(weighted_beside_body);
}

static void nearest_body(void)
{
	char list[1400];
	struct ferry_config cfg = config_of("nearest");
	struct ferry *ferry = NULL;

	/* The first is reached by tcp, however near it is; the others' memory is this host's. */
	snprintf(list, sizeof(list), "%s?fabric=tcp,%s?fabric=local,%s?fabric=local", ferryt_server()->url, more[0].url,
		 more[1].url);
	cfg.servers = list;
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	uint8_t *p = map(ferry, 80, 0);

	CHECK_INT(used_mib(ferry, 0), 0);
	CHECK_INT(used_mib(ferry, 1), 40);
	CHECK_INT(used_mib(ferry, 2), 40);
	map(ferry, 90, 0); /* more than they have: the far one takes the rest */
	CHECK_INT(used_mib(ferry, 0), 10);
	ferryt_fill_away(ferry, p, PAGES(80), 3);
	ferryt_verify(p, 0, PAGES(80), 3);
	CHECK_INT(ferry_close(ferry), 0);
}

static void nearest__one_by_network__takes_what_the_others_cannot(void **state)
{
	(void)state;
	RUN(nearest_body);
}

static void fill_body(void)
{
	struct ferry *ferry = open_three("fill");

	map(ferry, 40, 0);
	CHECK_INT(used_mib(ferry, 0), 32);
	CHECK_INT(used_mib(ferry, 1), 8);
	CHECK_INT(used_mib(ferry, 2), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fill__first_full__next(void **state)
{
	(void)state;
	RUN(fill_body);
}

static void wrong_body(void)
{
	struct ferry_config cfg = config_of("striped");
	struct ferry *ferry = NULL;

	CHECK_FAILS(ferry_open(&cfg, &ferry), -EINVAL, "round-robin");
	cfg = config_of(NULL);
	cfg.stripe_bytes = MIB(3);
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EINVAL, "multiple of 2 MiB");
	cfg.stripe_bytes = MIB(1);
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EINVAL, "stripe");
	ferry = open_three(NULL);
	CHECK(ferry_mmap(ferry, NULL, MIB(2), PROT_READ | PROT_WRITE, FERRY_MAP_STRIPE(20)) == MAP_FAILED);
	CHECK_INT(errno, EINVAL);
	CHECK(strstr(ferry_last_error(), "1 << 21"));
	CHECK(ferry_mmap(ferry, NULL, MIB(2), PROT_READ | PROT_WRITE, FERRY_MAP_FILL | FERRY_MAP_NEAREST) == MAP_FAILED);
	CHECK(strstr(ferry_last_error(), "more than one policy"));
	CHECK_INT(ferry_close(ferry), 0);
}

static void policy_and_stripe__wrong__one_line(void **state)
{
	(void)state;
	RUN(wrong_body);
}

/* ---- full ---- */

static void spill_body(void)
{
	struct ferry *ferry = open_three("round-robin");
	uint8_t *p = map(ferry, 180, 0);

	CHECK_INT(used_mib(ferry, 0), 32);
	CHECK_INT(used_mib(ferry, 1), 64);
	CHECK_INT(used_mib(ferry, 2), 84);
	CHECK(ferry_mmap(ferry, NULL, MIB(20), PROT_READ | PROT_WRITE, 0) == MAP_FAILED);
	CHECK_INT(errno, ENOMEM);
	CHECK(strstr(ferry_last_error(), "20 MiB asked for, 12 MiB would fit"));
	CHECK(strstr(ferry_last_error(), "84 of 96 MiB"));
	CHECK_INT(used_mib(ferry, 2), 84); /* nothing is kept of what failed */
	map(ferry, 12, 0);
	ferryt_fill_away(ferry, p, PAGES(180), 4);
	ferryt_verify(p, 0, PAGES(180), 4);
	CHECK_INT(ferry_close(ferry), 0);
}

static void mmap__one_server_full__others_take_it_and_then_one_line(void **state)
{
	(void)state;
	RUN(spill_body);
}

struct writer {
	uint8_t *p;
	size_t pages;
	_Atomic size_t done;
};

static void *write_all(void *arg)
{
	struct writer *w = arg;

	for (size_t i = 0; i < w->pages; i++) {
		ferryt_fill_page(w->p + i * FERRYT_PAGE, 5, i);
		atomic_store(&w->done, i + 1);
	}
	return NULL;
}

static size_t count_lines(const char *path, const char *what)
{
	char line[2048];
	size_t n = 0;
	FILE *f = fopen(path, "r");

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		n += strstr(line, what) != NULL;
	fclose(f);
	return n;
}

static void starved_body(void)
{
	char words[] = "/tmp/ferryt-words-XXXXXX";
	int fd = mkstemp(words);
	struct ferry *ferry = open_three("round-robin");
	uint8_t *held = map(ferry, 60, 0);
	struct writer w = { .pages = PAGES(160) };
	uint64_t deadline_ns = ferryi_deadline_ms(WAIT_MS);
	pthread_t thread;

	CHECK(fd >= 0 && dup2(fd, STDERR_FILENO) >= 0);
	w.p = map(ferry, 160, FERRY_MAP_NORESERVE);
	CHECK_INT(pthread_create(&thread, NULL, write_all, &w), 0);
	/* It gets no farther than what the pools (192 - 60 MiB) and the budget hold; then it waits, and a line says so. */
	while (!count_lines(words, "the pools are full"))
		CHECK(poll(NULL, 0, 5) == 0 && ferryi_now_ns() < deadline_ns);
	CHECK_INT(used_mib(ferry, 0) + used_mib(ferry, 1) + used_mib(ferry, 2), TOTAL);
	CHECK(atomic_load(&w.done) < w.pages);
	CHECK_INT(count_lines(words, "96 of 96 MiB"), 1);
	CHECK_INT(ferry_munmap(ferry, held, MIB(60)), 0);
	CHECK_INT(pthread_join(thread, NULL), 0);
	ferryt_verify(w.p, 0, w.pages, 5);
	CHECK_INT(count_lines(words, "the pools are full"), 1);
	unlink(words);
	CHECK_INT(ferry_munmap(ferry, w.p, MIB(160)), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

/* And if no room comes: as any fault that finds no memory, by its deadline. */
static void never_body(void)
{
	struct ferry_config cfg = config_of("round-robin");
	struct ferry_fault_info why = { .size = sizeof(why) };
	struct ferry *ferry = NULL;
	size_t i = 0;
	uint8_t byte;

	cfg.fault_timeout_ms = 400;
	cfg.log_level = "error";
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	map(ferry, 180, 0);
	uint8_t *p = map(ferry, 64, FERRY_MAP_NORESERVE);

	while (i < PAGES(64) && ferryt_touch(p + i * FERRYT_PAGE, &byte) == 0) {
		*(volatile uint8_t *)(p + i * FERRYT_PAGE) = 1;
		i++;
	}
	CHECK(i < PAGES(64));
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p + i * FERRYT_PAGE, &why), 0);
	CHECK_INT(why.reason, FERRY_FAULT_NO_MEMORY);
	_exit(0);
}

static void noreserve__all_full__faults_wait_for_room(void **state)
{
	(void)state;
	RUN(starved_body);
	RUN(never_body);
}

static void late_body(void)
{
	struct ferry *ferry = open_three("round-robin");
	uint8_t *p = map(ferry, 96, FERRY_MAP_NORESERVE | FERRY_MAP_STRIPE(22));

	ferryt_fill(p, PAGES(96), 6);
	CHECK_INT(ferry_advise(ferry, p, MIB(96), FERRY_ADVICE_COLD), 0);
	CHECK_INT(used_mib(ferry, 0) + used_mib(ferry, 1) + used_mib(ferry, 2), 96);
	for (unsigned i = 0; i < N; i++) /* one that was short for a moment may have passed some on */
		CHECK(used_mib(ferry, i) >= 24 && used_mib(ferry, i) <= 48);
	ferryt_verify(p, 0, PAGES(96), 6);
	CHECK_INT(ferry_close(ferry), 0);
}

static void noreserve__leaves_ram__in_stripes_too(void **state)
{
	(void)state;
	RUN(late_body);
}

/* ---- servers that come and go ---- */

static void come_and_go_body(void)
{
	struct ferry_config cfg = config_of("round-robin");
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .pool = "big" };
	struct ferry_pool *second = NULL, *first;
	struct ferry *ferry = NULL;

	cfg.servers = url_of(1);
	attr.server = url_of(2);
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	uint8_t *p = map(ferry, 24, 0);

	CHECK_INT(used_mib(ferry, 0), 24);
	CHECK_INT(ferry_pool_attach(ferry, &attr, &second), 0);
	uint8_t *q = map(ferry, 24, 0);

	CHECK_INT(used_mib(ferry, 0), 36);
	CHECK_INT(used_mib(ferry, 1), 12);
	ferryt_fill_away(ferry, p, PAGES(24), 7);
	ferryt_fill_away(ferry, q, PAGES(24), 8);
	/* The first goes, with all that is there. */
	first = ferry_pool_at(ferry, 0);
	ferry_pool_put(first);
	CHECK_INT(ferry_pool_kill(first), 0);
	CHECK_INT(ferry_pool_evict(first), 0);
	CHECK_INT(ferry_pool_detach(first), 0);
	CHECK(ferry_pool_at(ferry, 1) == NULL);
	CHECK_INT(used_mib(ferry, 0), 48);
	ferryt_verify(p, 0, PAGES(24), 7);
	ferryt_verify(q, 0, PAGES(24), 8);
	CHECK_INT(ferry_close(ferry), 0);
}

static void pool__attached_and_detached_at_run_time__takes_its_share(void **state)
{
	(void)state;
	RUN(come_and_go_body);
}

static void lost_body(void)
{
	struct ferryt_child fourth;
	static const char *const args[] = { "--pool", "name=big,size=32M,backing=memfd", NULL };
	struct ferry_config cfg = config_of("round-robin");
	struct ferry *ferry = NULL;
	char list[1400];

	ferryt_child_start_beside_with(&fourth, ferryt_server(), args);
	snprintf(list, sizeof(list), "%s,%s?fabric=%s", url_of(0), fourth.url, ferryt_row());
	cfg.servers = list;
	cfg.log_level = "error";
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	map(ferry, 8, 0);
	CHECK_INT(used_mib(ferry, 1), 4);
	ferryt_child_end(&fourth);

	uint64_t deadline_ns = ferryi_deadline_ms(WAIT_MS);
	size_t before;

	do { /* until the loss is known, its turn comes still */
		before = used_mib(ferry, 1);
		uint8_t *p = ferry_mmap(ferry, NULL, MIB(4), PROT_READ | PROT_WRITE, 0);

		CHECK(p != MAP_FAILED || errno == ENOMEM);
		if (p != MAP_FAILED && used_mib(ferry, 1) == before)
			break;
		if (p != MAP_FAILED)
			CHECK_INT(ferry_munmap(ferry, p, MIB(4)), 0);
		CHECK(ferryi_now_ns() < deadline_ns);
	} while (poll(NULL, 0, 1) == 0);
	uint8_t *q = map(ferry, 16, 0);

	CHECK_INT(used_mib(ferry, 1), 4);
	ferryt_fill_away(ferry, q, PAGES(16), 9);
	ferryt_verify(q, 0, PAGES(16), 9);
	_exit(0); /* what is there is lost: not to be closed */
}

static void server__lost__new_memory_goes_to_the_others(void **state)
{
	(void)state;
	RUN(lost_body);
}

static void unreachable_body(void)
{
	struct ferry_config cfg = config_of(NULL);
	struct ferry *ferry = NULL;
	char list[1400];

	snprintf(list, sizeof(list), "%s,%s,%s", url_of(0), nowhere, url_of(1));
	cfg.servers = list;
	cfg.log_level = "error";
	CHECK_FAILS(ferry_open(&cfg, &ferry), -ECONNREFUSED, "127.0.0.1:9");
	cfg.servers_optional = "maybe";
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EINVAL, "servers-optional");
	cfg.servers_optional = "yes";
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	map(ferry, 8, 0);
	CHECK_INT(used_mib(ferry, 0), 4);
	CHECK_INT(used_mib(ferry, 1), 4);
	CHECK_INT(ferry_close(ferry), 0);
	cfg.servers = nowhere;
	CHECK_FAILS(ferry_open(&cfg, &ferry), -ECONNREFUSED, "127.0.0.1:9");
	/* One that is there, but wrong, is no matter of reach. */
	snprintf(list, sizeof(list), "%s,%s", url_of(0), "ferry://");
	cfg.servers = list;
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EINVAL, "");
}

static void open__one_server_unreachable__fails_unless_optional(void **state)
{
	(void)state;
	RUN(unreachable_body);
}

static int start_three(const char *row)
{
	static char pool[N][64];
	const char *args[N][3];

	for (unsigned i = 0; i < N; i++) {
		snprintf(pool[i], sizeof(pool[i]), "name=big,size=%uM,backing=memfd", size_mib[i]);
		args[i][0] = "--pool";
		args[i][1] = pool[i];
		args[i][2] = NULL;
	}
	ferryt_server_start_with(row, args[0]);
	for (unsigned i = 1; i < N; i++)
		ferryt_child_start_beside_with(&more[i - 1], ferryt_server(), args[i]);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_robin__three_servers__a_third_each),
		cmocka_unit_test(stripe__of_flag_and_config__consecutive_on_one_server),
		cmocka_unit_test(weighted__servers_of_different_room__fill_evenly),
		cmocka_unit_test(nearest__one_by_network__takes_what_the_others_cannot),
		cmocka_unit_test(fill__first_full__next),
		cmocka_unit_test(policy_and_stripe__wrong__one_line),
		cmocka_unit_test(mmap__one_server_full__others_take_it_and_then_one_line),
		cmocka_unit_test(noreserve__all_full__faults_wait_for_room),
		cmocka_unit_test(noreserve__leaves_ram__in_stripes_too),
		cmocka_unit_test(pool__attached_and_detached_at_run_time__takes_its_share),
		cmocka_unit_test(server__lost__new_memory_goes_to_the_others),
		cmocka_unit_test(open__one_server_unreachable__fails_unless_optional),
	};
	int rc = ferryt_needs_uffd();

	if (rc)
		return rc;
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	start_three(argc > 1 ? argv[1] : "local");
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	for (unsigned i = 0; i < N - 1; i++)
		ferryt_child_end(&more[i]);
	ferryt_server_end();
	return rc;
}
