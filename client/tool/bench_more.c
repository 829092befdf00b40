/*
 * Kinds that are about more than one access at a time: migration, two threads,
 * a huge mapping, and doing nothing. Main thread, but for the touchers of
 * `threads`.
 */
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bench.h"
#include "clock.h"
#include "ferry.h"

#define MAP_BYTES    ((size_t)1 << 40)
#define IDLE_SECONDS 2u

/* ---- todev, toram: ferry_migrate_* of all of it ---- */

static int migrate_to_device(struct ferryi_bench *bench)
{
	struct ferry_pool *pool = ferry_pool_at(bench->ferry, 0);
	int rc = ferry_migrate_to_device(pool, bench->area, bench->options.size_bytes, 0, NULL);

	ferry_pool_put(pool);
	return rc == 0 ? 0 : ferryi_bench_fail(bench, "%s", ferry_last_error());
}

static int todev_run(struct ferryi_bench *bench, struct ferryi_bench_figures *out)
{
	if (ferryi_bench_make_dirty(bench) != 0)
		return -1;
	uint64_t start = ferryi_now_ns();

	if (migrate_to_device(bench) != 0)
		return -1;
	out->mbps = ferryi_bench_mbps(bench->options.size_bytes, ferryi_now_ns() - start);
	return 0;
}

const struct ferryi_bench_kind ferryi_bench_todev = {
	.name = "todev",
	.text = "ferry_migrate_to_device of dirty memory",
	.by_throughput = true,
	.writes = true,
	.budget_percent = 200,
	.run = todev_run,
};

static int toram_run(struct ferryi_bench *bench, struct ferryi_bench_figures *out)
{
	if (migrate_to_device(bench) != 0)
		return -1;
	uint64_t start = ferryi_now_ns();

	if (ferry_migrate_to_ram(bench->ferry, bench->area, bench->options.size_bytes, NULL, 0, NULL) != 0)
		return ferryi_bench_fail(bench, "%s", ferry_last_error());
	out->mbps = ferryi_bench_mbps(bench->options.size_bytes, ferryi_now_ns() - start);
	return ferryi_bench_make_dirty(bench); /* looks at every page */
}

const struct ferryi_bench_kind ferryi_bench_toram = {
	.name = "toram",
	.text = "ferry_migrate_to_ram of all of it",
	.by_throughput = true,
	.budget_percent = 200,
	.run = toram_run,
};

/* ---- threads: two that fault, against one ---- */

struct toucher {
	struct ferryi_bench *bench;
	pthread_barrier_t *begin;
	size_t first, nr; /* pages */
	uint64_t end_ns;
	size_t wrong; /* page + 1 */
};

/* Each page once, in an order without streams. */
static void *touch(void *arg)
{
	struct toucher *t = arg;
	size_t step = t->nr / 2 | 1;

	while (t->nr % step == 0 && step > 1)
		step += 2; /* prime to a power of two, and then to most */
	pthread_barrier_wait(t->begin);
	for (size_t i = 0, at = 0; i < t->nr; i++, at = (at + step) % t->nr) {
		size_t page = t->first + at;

		if (*(volatile uint64_t *)ferryi_bench_page(t->bench, page) != ferryi_bench_mark(t->bench, page))
			t->wrong = page + 1;
	}
	t->end_ns = ferryi_now_ns();
	return NULL;
}

/* Faults a second of nr threads, each with its own pages [first, ...) of the area. */
static int touch_by(struct ferryi_bench *bench, unsigned nr, size_t first, size_t pages_each, double *per_s)
{
	pthread_barrier_t begin;
	pthread_t thread[2];
	struct toucher t[2];
	uint64_t end = 0;

	pthread_barrier_init(&begin, NULL, nr + 1);
	for (unsigned i = 0; i < nr; i++) {
		t[i] = (struct toucher){.bench = bench, .begin = &begin, .first = first + i * pages_each, .nr = pages_each};
		if (pthread_create(&thread[i], NULL, touch, &t[i]) != 0)
			return ferryi_bench_fail(bench, "no thread to touch with");
	}
	pthread_barrier_wait(&begin);
	uint64_t start = ferryi_now_ns();

	for (unsigned i = 0; i < nr; i++) {
		pthread_join(thread[i], NULL);
		end = t[i].end_ns > end ? t[i].end_ns : end;
		if (t[i].wrong != 0)
			return ferryi_bench_corrupt(bench, t[i].wrong - 1);
	}
	pthread_barrier_destroy(&begin);
	*per_s = (double)(nr * pages_each) * 1e9 / (double)(end - start);
	return 0;
}

static int threads_run(struct ferryi_bench *bench, struct ferryi_bench_figures *out)
{
	size_t each = out->count / 2 < ferryi_bench_pages(bench) / 3 ? out->count / 2 : ferryi_bench_pages(bench) / 3;
	double one, two;

	if (ferry_advise(bench->ferry, bench->area, bench->options.size_bytes, FERRY_ADVICE_RANDOM) != 0)
		return ferryi_bench_fail(bench, "%s", ferry_last_error());
	if (ferryi_bench_send_away(bench) != 0 || touch_by(bench, 1, 0, each, &one) != 0 ||
	    touch_by(bench, 2, each, each, &two) != 0)
		return -1;
	out->count = 2 * each;
	out->faults_per_s = two;
	out->ratio = two / one;
	ferryi_bench_add(out, "one_thread_faults_per_s", one);
	return 0;
}

const struct ferryi_bench_kind ferryi_bench_threads = {
	.name = "threads",
	.text = "two threads that fault, each on its own pages; the ratio is to one thread's faults a second",
	.budget_percent = 200,
	.has_ratio = true,
	.count = 20000,
	.run = threads_run,
};

/* ---- map: 1 TiB, untouched ---- */

static int map_run(struct ferryi_bench *bench, struct ferryi_bench_figures *out)
{
	uint64_t before = ferryi_bench_rss(getpid()), start = ferryi_now_ns();
	void *p = ferry_mmap(bench->ferry, NULL, MAP_BYTES, PROT_READ | PROT_WRITE, FERRY_MAP_NORESERVE);
	uint64_t took = ferryi_now_ns() - start, after = ferryi_bench_rss(getpid());

	if (p == MAP_FAILED)
		return ferryi_bench_fail(bench, "%s", ferry_last_error());
	if (ferry_munmap(bench->ferry, p, MAP_BYTES) != 0)
		return ferryi_bench_fail(bench, "%s", ferry_last_error());
	out->count = 1;
	out->us_p50 = (double)took / 1e3;
	out->ratio = NAN;
	ferryi_bench_add(out, "untouched_rss_bytes", after > before ? (double)(after - before) : 0);
	ferryi_bench_add(out, "bookkeeping_percent", 100.0 * (double)ferryi_bench_stats(bench).bookkeeping_bytes / (double)bench->options.size_bytes);
	return 0;
}

const struct ferryi_bench_kind ferryi_bench_map = {
	.name = "map",
	.text = "ferry_mmap of 1 TiB: its time, and RAM taken while it is untouched; bookkeeping_percent: of --size",
	.budget_percent = 25,
	.has_ratio = true,
	.run = map_run,
};

/* ---- idle: nothing to do ---- */

static double cpu_of_self(void)
{
	struct rusage use;

	getrusage(RUSAGE_SELF, &use);
	return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
	       (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

/* Seconds of CPU of the server that this command has started; NaN when it has started none. */
static double cpu_of_server(const struct ferryi_bench *bench)
{
	unsigned long user, sys;
	char name[64], text[512];

	if (bench->server_pid < 0)
		return NAN;
	snprintf(name, sizeof(name), "/proc/%d/stat", (int)bench->server_pid);
	FILE *file = fopen(name, "r");

	if (file == NULL)
		return NAN;
	size_t n = fread(text, 1, sizeof(text) - 1, file);

	fclose(file);
	text[n] = '\0';
	/* proc(5): the fields after the command's name, which ends with the last bracket; utime is the 14th of all */
	const char *rest = strrchr(text, ')');

	if (rest == NULL ||
	    sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &sys) != 2)
		return NAN;
	return (double)(user + sys) / (double)sysconf(_SC_CLK_TCK);
}

static int idle_run(struct ferryi_bench *bench, struct ferryi_bench_figures *out)
{
	uint64_t seconds = bench->options.seconds != 0 ? bench->options.seconds : IDLE_SECONDS;

	if (ferryi_bench_send_away(bench) != 0)
		return -1;
	poll(NULL, 0, 200); /* what was under way has ended */
	double client = cpu_of_self(), server = cpu_of_server(bench);

	poll(NULL, 0, (int)seconds * 1000);
	out->count = seconds;
	out->ratio = NAN;
	ferryi_bench_add(out, "client_cpu_percent", (cpu_of_self() - client) * 100 / (double)seconds);
	ferryi_bench_add(out, "server_cpu_percent", (cpu_of_server(bench) - server) * 100 / (double)seconds);
	return 0;
}

const struct ferryi_bench_kind ferryi_bench_idle = {
	.name = "idle",
	.text = "CPU of a client and a server that have nothing to do, in percent of a core, for --seconds (2)",
	.budget_percent = 25,
	.has_ratio = true,
	.run = idle_run,
};
