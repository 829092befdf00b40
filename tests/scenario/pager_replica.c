/*
 * Pages with several copies (FERRY_REPLICAS): what is away survives the loss of
 * a server, faults go on from another one, lost copies are made anew; with the
 * last copy it is as without any.
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
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "fabric.h"
#include "pager_kit.h"

#define PAGES       (24 * FERRYT_MIB / FERRYT_PAGE)
#define TIMEOUT_MS  8000u
#define SLACK_MS    60000u
#define MAX_SERVERS 3u

static const char *row_arg;
static struct ferryt_child servers[MAX_SERVERS];
static char urls[MAX_SERVERS * 192], token_file[64];

/* ---- servers ---- */

static void write_token(void)
{
	int fd;

	snprintf(token_file, sizeof(token_file), "/tmp/ferryt-token-XXXXXX");
	fd = mkostemp(token_file, O_CLOEXEC);
	assert_true(fd >= 0);
	for (unsigned i = 0; i < FERRYI_AUTH_TOKEN_LEN; i++)
		dprintf(fd, "%02x", servers[0].token[i]);
	dprintf(fd, "\n");
	close(fd);
}

static void start(unsigned nr)
{
	urls[0] = '\0';
	for (unsigned i = 0; i < nr; i++) {
		size_t len = strlen(urls);

		if (i == 0)
			ferryt_child_start(&servers[i], NULL);
		else
			ferryt_child_start_beside(&servers[i], &servers[0]);
		snprintf(urls + len, sizeof(urls) - len, "%s%s?fabric=%s", i ? "," : "", servers[i].url, row_arg);
	}
	write_token();
}

static void end(unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		ferryt_child_end(&servers[i]);
	unlink(token_file);
}

/* ---- bodies ---- */

static struct ferry_config config(uint32_t replicas)
{
	return (struct ferry_config){ .size = sizeof(struct ferry_config),
				      .servers = urls,
				      .token_file = token_file,
				      .local_bytes = FERRYT_BUDGET,
				      .fault_timeout_ms = TIMEOUT_MS,
				      .request_timeout_ms = SLACK_MS,
				      .log_level = getenv("FERRY_LOG_LEVEL"),
				      .mode = getenv("FERRYT_MODE"),
				      .policy = "fill", /* servers are small: each pool leases 64 MiB at a time */
				      .replicas = replicas };
}

static struct ferry *open_with(uint32_t replicas)
{
	struct ferry_config cfg = config(replicas);
	struct ferry *ferry = NULL;

	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	return ferry;
}

static struct ferry_stats stats_of(struct ferry *ferry)
{
	struct ferry_stats stats = { .size = sizeof(stats) };

	CHECK_INT(ferry_stats(ferry, &stats), 0);
	return stats;
}

/* Until so many copies are missing and so many were lost since the beginning. */
static void wait_for_copies(struct ferry *ferry, uint64_t missing, uint64_t lost)
{
	uint64_t deadline_ns = ferryi_deadline_ms(SLACK_MS);

	for (struct ferry_stats s = stats_of(ferry); s.replicas_missing != missing || s.copies_lost != lost;
	     s = stats_of(ferry)) {
		if (ferryi_now_ns() >= deadline_ns)
			fprintf(stderr, "missing %llu, lost %llu\n", (unsigned long long)s.replicas_missing,
				(unsigned long long)s.copies_lost);
		CHECK(ferryi_now_ns() < deadline_ns);
		poll(NULL, 0, 1);
	}
}

/* For tests/reliability.md. */
static void tell(const char *what, uint64_t ns)
{
	printf("%s: %s: %.1f ms\n", row_arg, what, (double)ns / FERRYI_NS_PER_MS);
}

static void kill_server(unsigned i)
{
	ferryt_child_signal(&servers[i], SIGKILL);
}

/* Writes pages anew all the time, each as a whole and by itself; what it has written last is in seeds[]. */
struct load {
	uint8_t *p;
	uint64_t seeds[PAGES];
	_Atomic bool stop;
	_Atomic uint64_t rounds; /* pages written */
	_Atomic uint64_t worst_ns; /* of one of these */
	pthread_t thread;
};

static struct load load;

static void *load_main(void *arg)
{
	uint64_t x = 1;

	(void)arg;
	while (!atomic_load(&load.stop)) {
		x = x * 6364136223846793005ULL + 1442695040888963407ULL;
		size_t i = (x >> 33) % PAGES;
		uint64_t since = ferryi_now_ns();

		ferryt_verify(load.p + i * FERRYT_PAGE, i, 1, load.seeds[i]);
		load.seeds[i] = 1 + (x >> 40);
		ferryt_fill_page(load.p + i * FERRYT_PAGE, load.seeds[i], i);
		since = ferryi_now_ns() - since;
		if (since > atomic_load(&load.worst_ns))
			atomic_store(&load.worst_ns, since);
		atomic_fetch_add(&load.rounds, 1);
	}
	return NULL;
}

static void load_start(struct ferry *ferry)
{
	load.p = ferryt_mmap(ferry, PAGES * FERRYT_PAGE);
	for (size_t i = 0; i < PAGES; i++) {
		load.seeds[i] = 1;
		ferryt_fill_page(load.p + i * FERRYT_PAGE, 1, i);
	}
	CHECK_INT(pthread_create(&load.thread, NULL, load_main, NULL), 0);
}

static void load_run(uint64_t pages)
{
	uint64_t deadline_ns = ferryi_deadline_ms(SLACK_MS), until = atomic_load(&load.rounds) + pages;

	while (atomic_load(&load.rounds) < until) {
		CHECK(ferryi_now_ns() < deadline_ns);
		poll(NULL, 0, 1);
	}
}

static void load_verify(void)
{
	atomic_store(&load.stop, true);
	CHECK_INT(pthread_join(load.thread, NULL), 0);
	for (size_t i = 0; i < PAGES; i++)
		ferryt_verify(load.p + i * FERRYT_PAGE, i, 1, load.seeds[i]);
}

static unsigned victim;

static void killed_under_load_body(void)
{
	struct ferry *ferry = open_with(2);

	CHECK_INT(stats_of(ferry).replicas_missing, 0);
	load_start(ferry);
	load_run(2000);
	uint64_t since = ferryi_now_ns(), worst = atomic_exchange(&load.worst_ns, 0);

	kill_server(victim);
	/* A copy of each server's pool was there. */
	wait_for_copies(ferry, 2, 2);
	tell("server killed under load, noticed", ferryi_now_ns() - since);
	load_run(2000);
	load_verify();
	tell("slowest page before that", worst);
	tell("slowest page from then on", atomic_load(&load.worst_ns));
	struct ferry_stats stats = stats_of(ferry);

	CHECK_INT(stats.faults_poisoned, 0);
	CHECK(stats.bytes_replicated > 0 && stats.bytes_replicated <= stats.bytes_out + PAGES * FERRYT_PAGE);
	CHECK(stats.peak_resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferry_close(ferry), 0); /* all comes home */
	ferryt_verify(load.p, 0, 1, load.seeds[0]);
}

static void load__first_or_second_server_killed__data_survives(void **state)
{
	(void)state;
	for (victim = 0; victim < 2; victim++) {
		start(2);
		RUN(killed_under_load_body);
		end(2);
	}
}

static void stopped_body(void)
{
	const struct ferryi_fabric_row *row = ferryi_fabric_find(row_arg);
	struct ferry *ferry = open_with(2);
	uint8_t *p = ferryt_mmap(ferry, PAGES * FERRYT_PAGE);

	ferryt_fill_away(ferry, p, PAGES, 3);
	ferryt_child_stop(&servers[0]);
	uint64_t start_ns = ferryi_now_ns();

	ferryt_verify(p, 0, 1, 3);
	tell("server stopped, first page", ferryi_now_ns() - start_ns);
	if (!(row->flags & FERRYI_FABRIC_DATA_OUTLIVES_STOP))
		CHECK(stats_of(ferry).reads_retried > 0);
	CHECK(ferryi_now_ns() - start_ns < TIMEOUT_MS * FERRYI_NS_PER_MS);
	/* For a while the other one is asked first. */
	uint64_t retried = stats_of(ferry).reads_retried;

	ferryt_verify(p + PAGES / 2 * FERRYT_PAGE, PAGES / 2, 1, 3);
	CHECK_INT(stats_of(ferry).reads_retried, retried);
	kill_server(0);
	wait_for_copies(ferry, 2, 2);
	ferryt_verify(p, 0, PAGES, 3);
	CHECK_INT(stats_of(ferry).faults_poisoned, 0);
}

static void fault__server_stopped__answered_by_the_other(void **state)
{
	(void)state;
	start(2);
	RUN(stopped_body);
	end(2);
}

static void rebuilt_body(void)
{
	struct ferry *ferry = open_with(2);

	load_start(ferry);
	load_run(500);
	uint64_t since = ferryi_now_ns();

	kill_server(0);
	wait_for_copies(ferry, 0, 2); /* made anew on the two that are left, while pages are written */
	tell("server killed under load, copies made anew", ferryi_now_ns() - since);
	struct ferry_stats stats = stats_of(ferry);

	CHECK_INT(stats.copies_rebuilt, 2);
	CHECK(stats.bytes_rebuilt >= PAGES * FERRYT_PAGE);
	CHECK_INT(stats.rebuild_left_bytes, 0);
	load_run(500);
	kill_server(1);
	wait_for_copies(ferry, 3, 5); /* of three pools that had copies on two servers, one is left of each */
	load_run(500);
	load_verify();
	CHECK_INT(stats_of(ferry).faults_poisoned, 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void copies__lost_and_rebuilt_and_lost_again__data_survives(void **state)
{
	(void)state;
	start(3);
	RUN(rebuilt_body);
	end(3);
}

static void all_lost_body(void)
{
	struct ferry *ferry = open_with(2);
	uint8_t *p = ferryt_mmap(ferry, PAGES * FERRYT_PAGE), *hot = ferryt_mmap(ferry, FERRYT_MIB);
	struct ferry_fault_info info = { .size = sizeof(info) };
	uint8_t byte;

	ferryt_fill_away(ferry, p, PAGES, 1);
	ferryt_fill(hot, FERRYT_MIB / FERRYT_PAGE, 2);
	kill_server(0);
	wait_for_copies(ferry, 2, 2);
	kill_server(1);
	wait_for_copies(ferry, 0, 4); /* nothing is missing where nothing is left */
	uint64_t since = ferryi_now_ns();

	CHECK_INT(ferryt_touch(p, &byte), SIGBUS);
	tell("last copy lost, SIGBUS", ferryi_now_ns() - since);
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p, &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_SERVER_LOST);
	CHECK(info.server[0] != '\0');
	CHECK_INT(ferryt_touch(p + (PAGES - 1) * FERRYT_PAGE, &byte), SIGBUS);
	ferryt_verify(hot, 0, FERRYT_MIB / FERRYT_PAGE, 2);
	CHECK_FAILS(ferry_close(ferry), -EIO, "close");
}

static void copies__all_lost__sigbus_with_a_reason(void **state)
{
	(void)state;
	start(2);
	RUN(all_lost_body);
	end(2);
}

/* Copies that are written by other hands than eviction's: flush, and what a child of fork needs. */
static void other_paths_body(void)
{
	struct ferry *ferry = open_with(2);
	const size_t nr = 32; /* flushed one by one */
	uint8_t *flushed = ferryt_mmap(ferry, nr * FERRYT_PAGE), *away = ferryt_mmap(ferry, PAGES * FERRYT_PAGE);
	int to_child[2];
	char go = 0;

	ferryt_fill_away(ferry, away, PAGES / 4, 1);
	ferryt_fill(flushed, nr, 2);
	CHECK_INT(ferry_flush(ferry, flushed, nr * FERRYT_PAGE), 0);
	uint64_t written = stats_of(ferry).pages_written;

	CHECK_INT(ferry_advise(ferry, flushed, nr * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	CHECK_INT(stats_of(ferry).pages_written, written); /* they were clean */
	CHECK_INT(pipe(to_child), 0);
	pid_t pid = fork();

	if (!pid) {
		CHECK_INT(read(to_child[0], &go, 1), 1);
		ferryt_verify(away, 0, PAGES / 4, 1);
		ferryt_verify(flushed, 0, nr, 2);
		_exit(0);
	}
	kill_server(0);
	wait_for_copies(ferry, 2, 2);
	CHECK_INT(write(to_child[1], &go, 1), 1);
	CHECK_INT(ferryt_wait_child(pid, SLACK_MS), 0);
	ferryt_verify(away, 0, PAGES / 4, 1);
	ferryt_verify(flushed, 0, nr, 2);
}

static void flush_and_fork__server_killed__data_survives(void **state)
{
	(void)state;
	start(2);
	RUN(other_paths_body);
	end(2);
}

/* Leases so much of a server's 64 MiB as it is, in one copy. */
static int take_memory(struct ferry *ferry, unsigned i, const char *name, size_t len)
{
	char url[192];
	struct ferry_pool *pool;
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .server = url, .pool = "test",
					.len_bytes = len, .name = name };

	snprintf(url, sizeof(url), "%s?fabric=%s", servers[i].url, row_arg);
	return ferry_pool_attach(ferry, &attr, &pool);
}

/* What the pool's own server could give, the other cannot: they grow by what both can, and none keeps the rest. */
static void full_replica_body(void)
{
	struct ferry *ferry = open_with(2);

	CHECK_INT(take_memory(ferry, 1, "filler", 48 * FERRYT_MIB), 0);
	ferryt_fill_away(ferry, ferryt_mmap(ferry, 12 * FERRYT_MIB), FERRYT_MIB / FERRYT_PAGE, 1);
	CHECK_INT(take_memory(ferry, 0, "rest", 40 * FERRYT_MIB), 0);
	CHECK_INT(stats_of(ferry).replicas_missing, 0);
}

static void growth__other_server_nearly_full__none_leases_in_vain(void **state)
{
	(void)state;
	start(2);
	RUN(full_replica_body);
	end(2);
}

static uint32_t nr_copies;

/* Under load, from the server that has the pool's own lease; it can be stopped with nothing lost. */
static void drained_body(void)
{
	struct ferry *ferry = open_with(nr_copies);
	uint64_t deadline_ns = ferryi_deadline_ms(SLACK_MS), pfn = 0;
	char server[64];

	load_start(ferry);
	load_run(500);
	uint64_t since = ferryi_now_ns();

	ferryt_child_signal(&servers[0], SIGTERM);
	struct pollfd ended = { .fd = servers[0].pidfd, .events = POLLIN };

	CHECK_INT(poll(&ended, 1, ferryi_remaining_ms(deadline_ns)), 1);
	tell("server drained under load, exited", ferryi_now_ns() - since);
	load_run(500);
	load_verify();
	struct ferry_stats stats = stats_of(ferry);

	CHECK_INT(stats.faults_poisoned, 0);
	CHECK_INT(stats.copies_lost, 0);
	CHECK_INT(stats.replicas_missing, 0);
	CHECK(stats.copies_rebuilt > 0 && stats.bytes_rebuilt >= PAGES * FERRYT_PAGE);
	/* Pages are where they were by their PFN, and elsewhere by server. */
	struct ferry_pool_info info = { .size = sizeof(info) };
	struct ferry_pool *pool = ferry_pool_at(ferry, 0);

	CHECK(pool);
	CHECK_INT(ferry_pool_info(pool, &info), 0);
	pfn = info.pfn_first;
	CHECK_INT(ferry_pfn_to_server(ferry, pfn, server, sizeof(server)), 0);
	CHECK(strcmp(server, info.server) != 0);
	ferry_pool_put(pool);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(load.p, 0, 1, load.seeds[0]);
}

static void drain__another_server__pages_move_and_it_exits(void **state)
{
	(void)state;
	for (nr_copies = 1; nr_copies <= 2; nr_copies++) {
		start(nr_copies + 1);
		RUN(drained_body);
		assert_int_equal(ferryt_child_wait(&servers[0]), 0); /* its exit status */
		end(nr_copies + 1);
	}
}

static void too_few_body(void)
{
	struct ferry_config cfg = config(2);
	struct ferry *ferry = NULL;
	char twice[2 * sizeof(urls)];

	CHECK_FAILS(ferry_open(&cfg, &ferry), -EINVAL, "replicas");
	/* One server by two URLs is one server. */
	snprintf(twice, sizeof(twice), "%s,%s?fabric=%s", urls, servers[0].url, strcmp(row_arg, "tcp") ? "tcp" : "local");
	cfg.servers = twice;
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EINVAL, "replicas");
	cfg.replicas = 4;
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EINVAL, "replicas");
	cfg.replicas = 1;
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	CHECK_INT(stats_of(ferry).replicas_missing, 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void open__fewer_servers_than_copies__one_clear_line(void **state)
{
	(void)state;
	start(1);
	RUN(too_few_body);
	end(1);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(load__first_or_second_server_killed__data_survives),
		cmocka_unit_test(fault__server_stopped__answered_by_the_other),
		cmocka_unit_test(copies__lost_and_rebuilt_and_lost_again__data_survives),
		cmocka_unit_test(copies__all_lost__sigbus_with_a_reason),
		cmocka_unit_test(flush_and_fork__server_killed__data_survives),
		cmocka_unit_test(growth__other_server_nearly_full__none_leases_in_vain),
		cmocka_unit_test(drain__another_server__pages_move_and_it_exits),
		cmocka_unit_test(open__fewer_servers_than_copies__one_clear_line),
	};
	int skip = ferryt_needs_uffd();

	if (skip)
		return skip;
	row_arg = argc > 1 ? argv[1] : "local";
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
