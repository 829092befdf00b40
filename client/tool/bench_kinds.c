/*
 * The kinds of measurement. Latencies are what the touching thread sees. Every
 * page that comes back is checked. Main thread.
 */
#include <math.h>
#include <stdlib.h>

#include "bench.h"
#include "clock.h"
#include "ferry.h"

/* An access this slow did not find its page in RAM: a hit takes a tenth of it, a fault at least twice. */
#define WAITED_NS 2000u
#define WRITES_PERCENT 30u

struct ferry_stats ferryi_bench_stats(const struct ferryi_bench *bench)
{
	struct ferry_stats stats = {.size = sizeof(stats)};

	ferry_stats(bench->ferry, &stats);
	return stats;
}

static uint64_t faults_of(const struct ferryi_bench *bench)
{
	return ferryi_bench_stats(bench).faults;
}

/*
 * At most: what was read ahead, less what the library knows to be used (a
 * stream went on past it). A page that was read ahead and found by chance counts
 * as useless, as nothing tells of a touch without a fault.
 */
static double useless_at_most(const struct ferry_stats *before, const struct ferry_stats *after)
{
	double ahead = (double)(after->pages_readahead - before->pages_readahead);
	double hits = (double)(after->readahead_hits - before->readahead_hits);
	double in = (double)(after->pages_in - before->pages_in);

	return in > 0 && ahead > hits ? (ahead - hits) / in : 0;
}

/* When a run must end although its count is not reached. */
static uint64_t run_deadline(const struct ferryi_bench *bench)
{
	return bench->options.seconds == 0 ? UINT64_MAX : ferryi_deadline_ms(bench->options.seconds * 1000);
}

/* ---- fault: one 4 KiB page at a time, away, read-ahead and eviction off ---- */

static int fault_prepare(struct ferryi_bench *bench)
{
	size_t n = ferryi_bench_pages(bench);

	bench->order = malloc(n * sizeof(*bench->order));
	if (bench->order == NULL)
		return ferryi_bench_fail(bench, "no memory for %zu page numbers", n);
	for (size_t i = 0; i < n; i++)
		bench->order[i] = (uint32_t)i;
	if (ferry_advise(bench->ferry, bench->area, bench->options.size_bytes, FERRY_ADVICE_RANDOM) != 0)
		return ferryi_bench_fail(bench, "%s", ferry_last_error());
	return 0;
}

static int fault_run(struct ferryi_bench *bench, struct ferryi_bench_figures *out)
{
	size_t n = ferryi_bench_pages(bench);
	uint64_t before, start, deadline = run_deadline(bench);

	if (ferryi_bench_send_away(bench) != 0)
		return -1;
	before = faults_of(bench);
	start = ferryi_now_ns();
	bench->samples.n = 0;
	for (size_t i = 0; i < out->count && i < n; i++) {
		/* One step of a shuffle: every page once, in random order. */
		size_t j = i + ferryi_tool_random(&bench->random) % (n - i);
		uint32_t page = bench->order[j];

		bench->order[j] = bench->order[i];
		bench->order[i] = page;

		const volatile uint64_t *word = ferryi_bench_page(bench, page);
		uint64_t t0 = ferryi_now_ns();
		uint64_t mark = word[0];
		uint64_t t1 = ferryi_now_ns();

		ferryi_samples_add(&bench->samples, t1 - t0);
		if (mark != ferryi_bench_mark(bench, page))
			return ferryi_bench_corrupt(bench, page);
		if (t1 > deadline)
			break;
	}
	uint64_t took = ferryi_now_ns() - start;

	out->count = bench->samples.n;
	out->faults_per_s = (double)(faults_of(bench) - before) * 1e9 / (double)took;
	out->hit_rate = 1.0 - (double)(faults_of(bench) - before) / (double)out->count;
	out->mbps = ferryi_bench_mbps(out->count * 4096, took);
	out->us_p50 = ferryi_samples_us(&bench->samples, 0.5);
	out->us_p99 = ferryi_samples_us(&bench->samples, 0.99);
	return 0;
}

const struct ferryi_bench_kind ferryi_bench_fault = {
	.name = "fault",
	.text = "random touches of pages that are away, without read-ahead or eviction",
	.budget_percent = 200,
	.count = 10000,
	.prepare = fault_prepare,
	.run = fault_run,
};

/* ---- seq: read it all, in order, with a small budget ---- */

static int seq_prepare(struct ferryi_bench *bench)
{
	return ferryi_bench_send_away(bench);
}

static int seq_run(struct ferryi_bench *bench, struct ferryi_bench_figures *out)
{
	size_t n = ferryi_bench_pages(bench);
	uint64_t before = faults_of(bench), start = ferryi_now_ns(), deadline = run_deadline(bench),
		 now = start;
	size_t page = 0;

	bench->samples.n = 0;
	for (; page < n && now <= deadline; page++) {
		const uint64_t *word = ferryi_bench_page(bench, page);
		uint64_t t0 = ferryi_now_ns(), mark, sum = 0;

		mark = *(const volatile uint64_t *)word;
		now = ferryi_now_ns();
		ferryi_samples_add(&bench->samples, now - t0);
		for (size_t i = 2; i < 512; i++)
			sum += word[i];
		/* sum of (mark + i) for i = 2 .. 511 */
		if (mark != ferryi_bench_mark(bench, page) || sum != mark * 510 + 130815)
			return ferryi_bench_corrupt(bench, page);
	}
	uint64_t took = ferryi_now_ns() - start;

	out->count = page;
	out->faults_per_s = (double)(faults_of(bench) - before) * 1e9 / (double)took;
	out->hit_rate = 1.0 - (double)(faults_of(bench) - before) / (double)page;
	out->mbps = ferryi_bench_mbps(page * 4096, took);
	out->us_p50 = ferryi_samples_us(&bench->samples, 0.5);
	out->us_p99 = ferryi_samples_us(&bench->samples, 0.99);
	return 0;
}

const struct ferryi_bench_kind ferryi_bench_seq = {
	.name = "seq",
	.text = "reading in order, with a budget of a quarter of the size",
	.by_throughput = true,
	.budget_percent = 25,
	.prepare = seq_prepare,
	.run = seq_run,
};

/* ---- random: reads and writes all over, with a budget of a half ---- */

int ferryi_bench_count_writes(struct ferryi_bench *bench)
{
	bench->writes = calloc(ferryi_bench_pages(bench), sizeof(*bench->writes));
	if (bench->writes == NULL)
		return ferryi_bench_fail(bench, "no memory for %zu counters", ferryi_bench_pages(bench));
	return 0;
}

int ferryi_bench_touch_random(struct ferryi_bench *bench, uint64_t *waited_ns)
{
	uint64_t r = ferryi_tool_random(&bench->random), mark;
	size_t page = (r >> 8) % ferryi_bench_pages(bench);
	volatile uint64_t *word = ferryi_bench_page(bench, page);
	bool writes = r % 100 < WRITES_PERCENT;
	uint64_t start = ferryi_now_ns();

	if (writes)
		word[1]++;
	mark = word[0];

	uint64_t took = ferryi_now_ns() - start;

	bench->writes[page] += writes;
	if (mark != ferryi_bench_mark(bench, page) || word[1] != bench->writes[page])
		return ferryi_bench_corrupt(bench, page);
	*waited_ns = took >= WAITED_NS ? took : 0;
	return 0;
}

static int random_run(struct ferryi_bench *bench, struct ferryi_bench_figures *out)
{
	struct ferry_stats before = ferryi_bench_stats(bench), after;
	uint64_t start = ferryi_now_ns(), deadline = run_deadline(bench), i = 0, waited_ns;

	bench->samples.n = 0;
	for (; i < out->count && ferryi_now_ns() <= deadline; i++) {
		if (ferryi_bench_touch_random(bench, &waited_ns) != 0)
			return -1;
		if (waited_ns != 0)
			ferryi_samples_add(&bench->samples, waited_ns);
	}
	uint64_t took = ferryi_now_ns() - start;

	after = ferryi_bench_stats(bench);
	out->count = i;
	out->faults_per_s = (double)(after.faults - before.faults) * 1e9 / (double)took;
	out->useless_rate = useless_at_most(&before, &after);
	out->hit_rate = 1.0 - (double)bench->samples.n / (double)i;
	out->mbps = ferryi_bench_mbps(i * 4096, took);
	out->us_p50 = ferryi_samples_us(&bench->samples, 0.5);
	out->us_p99 = ferryi_samples_us(&bench->samples, 0.99);
	return 0;
}

const struct ferryi_bench_kind ferryi_bench_random = {
	.name = "random",
	.text = "random reads and writes (30 %), with a budget of half the size; latencies are those of "
		"accesses that waited",
	.budget_percent = 50,
	.count = 50000,
	.prepare = ferryi_bench_count_writes,
	.run = random_run,
};

/* ---- evict: write back everything, all dirty ---- */

static int evict_run(struct ferryi_bench *bench, struct ferryi_bench_figures *out)
{
	size_t n = ferryi_bench_pages(bench);

	if (ferryi_bench_make_dirty(bench) != 0) /* home again first; the first run finds them so */
		return -1;
	uint64_t start = ferryi_now_ns();

	if (ferryi_bench_send_away(bench) != 0)
		return -1;
	out->count = n;
	out->mbps = ferryi_bench_mbps(n * 4096, ferryi_now_ns() - start);
	return 0;
}

const struct ferryi_bench_kind ferryi_bench_evict = {
	.name = "evict",
	.text = "sending away dirty memory, until the server has all of it",
	.by_throughput = true,
	.writes = true,
	.budget_percent = 200,
	.run = evict_run,
};

/* ---- raw: the yardstick by itself ---- */

static int raw_run(struct ferryi_bench *bench, struct ferryi_bench_figures *out)
{
	(void)bench;
	out->us_p50 = out->raw_us_p50;
	out->us_p99 = out->raw_us_p99;
	out->mbps = out->raw_mbps;
	return 0;
}

const struct ferryi_bench_kind ferryi_bench_raw = {
	.name = "raw",
	.text = "the transport alone: 4 KiB reads one by one, 64 KiB reads 16 at a time",
	.by_throughput = true,
	.count = 4000,
	.run = raw_run,
};
