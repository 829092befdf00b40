/*
 * Streams that read with strides: one, or several in turn, each in a part of
 * the area of its own. What is counted does not depend on the machine's speed.
 * Main thread.
 */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>

#include "bench.h"
#include "clock.h"
#include "ferry.h"

#define SETTLE_MS 1000u /* figures that are still moving then are taken as they are */
#define STEADY_MS 5	/* not moving for so long */

int ferryi_bench_strides_parse(const char *text, struct ferryi_bench_strides *out)
{
	out->n = 0;
	for (const char *at = text;; at++) {
		char *end;

		errno = 0;
		long stride = strtol(at, &end, 10);

		if (end == at || errno != 0 || stride == 0 || labs(stride) > FERRYI_BENCH_STRIDE_MAX ||
		    (*end != ',' && *end != '\0') || out->n == FERRYI_BENCH_STREAMS_MAX)
			return -EINVAL;
		out->stride[out->n++] = stride;
		if (*end == '\0')
			return 0;
		at = end;
	}
}

/* One stream: its pages are first, first + stride, ...: `left` more. */
struct walk {
	size_t page;
	long stride;
	size_t left;
};

static void walk_init(struct walk *w, size_t part, size_t part_pages, long stride)
{
	w->stride = stride;
	w->page = part * part_pages + (stride > 0 ? 0 : part_pages - 1);
	w->left = (part_pages - 1) / (size_t)labs(stride) + 1;
}

/* The figures once nothing is under way: a fault is counted after its thread has been woken, read-ahead goes
 * on after it. */
static void settled(const struct ferryi_bench *bench, struct ferry_stats *now)
{
	uint64_t deadline = ferryi_deadline_ms(SETTLE_MS);
	uint64_t pages, faults;

	*now = (struct ferry_stats){.size = sizeof(*now)};
	ferry_stats(bench->ferry, now);
	do {
		pages = now->pages_in;
		faults = now->faults;
		poll(NULL, 0, STEADY_MS);
		ferry_stats(bench->ferry, now);
	} while ((now->pages_in != pages || now->faults != faults) && ferryi_now_ns() < deadline);
}

/*
 * Every page visited is away at first, and visited once. So a visit that made no
 * read of its own (faults_major) has found what one page of read-ahead had
 * brought, or was bringing; the other pages of read-ahead were of no use: left
 * again, or never visited.
 */
static void count_use(struct ferryi_bench_figures *out, uint64_t visits, const struct ferry_stats *before,
		      const struct ferry_stats *after)
{
	double misses = (double)(after->faults_major - before->faults_major);
	double ahead = (double)(after->pages_readahead - before->pages_readahead);
	double in = (double)(after->pages_in - before->pages_in), hits = (double)visits - misses;

	out->hit_rate = hits / (double)visits;
	out->useless_rate = in > 0 && ahead > hits ? (ahead - hits) / in : 0;
}

static int visit(struct ferryi_bench *bench, struct walk *w, uint64_t *now)
{
	const volatile uint64_t *word = ferryi_bench_page(bench, w->page);
	uint64_t t0 = ferryi_now_ns(), mark = word[0];

	*now = ferryi_now_ns();
	ferryi_samples_add(&bench->samples, *now - t0);
	if (mark != ferryi_bench_mark(bench, w->page))
		return ferryi_bench_corrupt(bench, w->page);
	w->page += (size_t)w->stride; /* modulo 2^64: also down; not used once nothing is left */
	w->left--;
	return 0;
}

static int stride_run(struct ferryi_bench *bench, struct ferryi_bench_figures *out)
{
	struct walk walks[FERRYI_BENCH_STREAMS_MAX];
	unsigned nr_streams = bench->strides.streams, left = nr_streams;
	struct ferry_stats before, after;

	for (unsigned i = 0; i < nr_streams; i++)
		walk_init(&walks[i], i, ferryi_bench_pages(bench) / nr_streams,
			  bench->strides.stride[i % bench->strides.n]);
	if (ferryi_bench_send_away(bench) != 0)
		return -1;
	settled(bench, &before);

	uint64_t start = ferryi_now_ns(), now = start, visits = 0;
	uint64_t deadline =
		bench->options.seconds == 0 ? UINT64_MAX : ferryi_deadline_ms(bench->options.seconds * 1000);

	bench->samples.n = 0;
	while (left > 0 && visits < out->count && now <= deadline) {
		for (unsigned i = 0; i < nr_streams && visits < out->count; i++) {
			if (walks[i].left == 0)
				continue;
			if (visit(bench, &walks[i], &now) != 0)
				return -1;
			visits++;
			left -= walks[i].left == 0;
		}
	}
	uint64_t took = now - start;

	settled(bench, &after);
	out->count = visits;
	out->faults_per_s = (double)(after.faults - before.faults) * 1e9 / (double)took;
	count_use(out, visits, &before, &after);
	out->mbps = (double)(visits * 4096) * 1e3 / (double)took;
	out->us_p50 = ferryi_samples_us(&bench->samples, 0.5);
	out->us_p99 = ferryi_samples_us(&bench->samples, 0.99);
	return 0;
}

#define ROW(strides_, streams_)                                                                              \
	{                                                                                                    \
		.name = "stride", .strides = strides_, .streams = streams_,                                  \
		.text = "one word of every Nth page, one stream or several in turn; how often the page was " \
			"there, or on "                                                                      \
			"its way",                                                                           \
		.by_throughput = true, .budget_percent = 25, .run = stride_run,                              \
	}

const struct ferryi_bench_kind ferryi_bench_stride[FERRYI_BENCH_STRIDE_ROWS] = {
	ROW("1", 1),
	ROW("2", 1),
	ROW("3", 1),
	ROW("17", 1),
	ROW("-1", 1),
	ROW("1,2,3,17,-1", 4),
	ROW("1,2,3,17,-1", 16),
};
