/*
 * Kind `long`: random reads and writes for as long as one likes, to see whether
 * memory grows: the library's bookkeeping, this process and the server's. Main
 * thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "arith.h"
#include "bench.h"
#include "clock.h"

#define SECONDS 60u /* where none are given */
#define LOOK_NS (100 * FERRYI_NS_PER_MS)
#define SAMPLES 100000u
#define PARTS	10u /* of the time; the first two are the warm-up */

uint64_t ferryi_bench_rss(pid_t pid)
{
	unsigned long size = 0, resident = 0;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	FILE *file = fopen(path, "r");

	if (file == NULL)
		return 0;
	if (fscanf(file, "%lu %lu", &size, &resident) != 2)
		resident = 0;
	fclose(file);
	return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* The most that was seen in each part. */
struct peaks {
	uint64_t client[PARTS], server[PARTS];
};

static void look(const struct ferryi_bench *bench, struct peaks *peaks, unsigned part)
{
	peaks->client[part] = ferryi_max_u64(peaks->client[part], ferryi_bench_rss(getpid()));
	if (bench->server_pid > 0)
		peaks->server[part] =
			ferryi_max_u64(peaks->server[part], ferryi_bench_rss(bench->server_pid));
}

/* The end of the run beside the end of the warm-up. */
static double growth(const uint64_t *peak)
{
	return (double)peak[PARTS - 1] - (double)peak[1];
}

static int long_run(struct ferryi_bench *bench, struct ferryi_bench_figures *out)
{
	uint64_t seconds = bench->options.seconds != 0 ? bench->options.seconds : SECONDS, waited_ns, i = 0;
	uint64_t start = ferryi_now_ns(), last_look = 0, now = start,
		 took = seconds * 1000 * FERRYI_NS_PER_MS;
	uint64_t faults = ferryi_bench_stats(bench).faults;
	struct peaks peaks = {0};

	bench->samples.max = ferryi_min_u64(bench->samples.max, SAMPLES);
	for (bench->samples.n = 0; bench->samples.n < bench->samples.max;)
		ferryi_samples_add(&bench->samples, 1); /* its memory is not to come while it is looked at */
	bench->samples.n = 0;
	for (; now - start < took; i++, now = ferryi_now_ns()) {
		if (ferryi_bench_touch_random(bench, &waited_ns) != 0)
			return -1;
		if (waited_ns != 0 && now - start >= took / PARTS * 2) /* warm */
			ferryi_samples_add(&bench->samples, waited_ns);
		if (now - last_look >= LOOK_NS) {
			look(bench, &peaks, (unsigned)((now - start) * PARTS / took));
			last_look = now;
		}
	}
	const struct ferry_stats stats = ferryi_bench_stats(bench);

	out->count = i;
	out->faults_per_s = (double)(stats.faults - faults) / (double)seconds;
	out->us_p50 = ferryi_samples_us(&bench->samples, 0.5);
	out->us_p99 = ferryi_samples_us(&bench->samples, 0.99);
	out->mbps = ferryi_bench_mbps(i * FERRYI_PAGE_SIZE, ferryi_now_ns() - start);
	ferryi_bench_add(out, "rss_growth_bytes", growth(peaks.client));
	ferryi_bench_add(out, "server_rss_growth_bytes", growth(peaks.server));
	ferryi_bench_add(out, "rss_bytes", (double)peaks.client[PARTS - 1]);
	ferryi_bench_add(out, "bookkeeping_percent",
			 100.0 * (double)stats.bookkeeping_bytes / (double)bench->options.size_bytes);
	return 0;
}

const struct ferryi_bench_kind ferryi_bench_long = {
	.name = "long",
	.text = "random reads and writes for --seconds (60), with a budget of an eighth of the size: what "
		"memory has grown "
		"since the first fifth",
	.has_ratio = true,
	.by_name_only = true,
	.budget_percent = 12,
	.prepare = ferryi_bench_count_writes,
	.run = long_run,
};
