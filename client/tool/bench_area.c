/* The managed memory that the kinds of bench.c work on. Main thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"
#include "ferry.h"

/* Above the area, so that the library evicts nothing by itself. */
#define SLACK ((uint64_t)64 << 20)

uint64_t ferryi_bench_mark(const struct ferryi_bench *bench, size_t page)
{
	uint64_t x = bench->options.seed + 0x9e3779b97f4a7c15ull * (page + 1);

	x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9ull;
	return x ^ (x >> 29);
}

int ferryi_bench_corrupt(const struct ferryi_bench *bench, size_t page)
{
	return ferryi_bench_fail(bench, "page %zu came back with wrong content: please report this", page);
}

int ferryi_bench_send_away(struct ferryi_bench *bench)
{
	if (ferry_advise(bench->ferry, bench->area, bench->options.size_bytes, FERRY_ADVICE_COLD) != 0 ||
	    ferry_flush(bench->ferry, bench->area, bench->options.size_bytes) != 0)
		return ferryi_bench_fail(bench, "pages could not be sent away: %s", ferry_last_error());
	return 0;
}

int ferryi_bench_make_dirty(struct ferryi_bench *bench)
{
	size_t n = ferryi_bench_pages(bench);

	if (ferry_advise(bench->ferry, bench->area, bench->options.size_bytes, FERRY_ADVICE_WILLNEED) != 0)
		return ferryi_bench_fail(bench, "%s", ferry_last_error());
	for (size_t page = 0; page < n; page++) {
		uint64_t *word = ferryi_bench_page(bench, page);

		if (word[0] != ferryi_bench_mark(bench, page))
			return ferryi_bench_corrupt(bench, page);
		word[1]++;
	}
	return 0;
}

/* Word 0 is the page's mark, word 1 counts writes, the rest is neither zero nor equal from page to page. */
static void fill(struct ferryi_bench *bench)
{
	for (size_t page = 0; page < ferryi_bench_pages(bench); page++) {
		uint64_t *word = ferryi_bench_page(bench, page), mark = ferryi_bench_mark(bench, page);

		word[0] = mark;
		word[1] = 0;
		for (size_t i = 2; i < 512; i++)
			word[i] = mark + i;
	}
}

int ferryi_bench_area_open(struct ferryi_bench *bench, const struct ferryi_bench_kind *kind)
{
	const struct ferryi_bench_options *o = &bench->options;
	uint64_t budget = o->local_bytes;
	int rc;

	if (kind->budget_percent > 100)
		budget = o->size_bytes + SLACK;
	else if (budget == 0)
		budget = o->size_bytes * kind->budget_percent / 100;
	struct ferry_config config = {.size = sizeof(config),
				      .servers = bench->url,
				      .token_file = bench->token_file,
				      .pool = o->pool,
				      .local_bytes = budget & ~(uint64_t)4095};

	rc = ferry_open(&config, &bench->ferry);
	if (rc != 0) {
		bench->ferry = NULL;
		return ferryi_bench_fail(bench, "%s", ferry_last_error());
	}
	bench->budget_bytes = config.local_bytes;
	bench->area = ferry_mmap(bench->ferry, NULL, o->size_bytes, PROT_READ | PROT_WRITE,
				 o->mode == FERRYI_BENCH_INLINE ? FERRY_MAP_INLINE : FERRY_MAP_HANDLER);
	if (bench->area == MAP_FAILED) {
		bench->area = NULL;
		return ferryi_bench_fail(bench, "%s", ferry_last_error());
	}
	fill(bench);
	return 0;
}

void ferryi_bench_area_close(struct ferryi_bench *bench)
{
	if (bench->area != NULL)
		ferry_munmap(bench->ferry, bench->area, bench->options.size_bytes);
	if (bench->ferry != NULL && ferry_close(bench->ferry) != 0)
		ferryi_bench_fail(bench, "close: %s", ferry_last_error());
	bench->area = NULL;
	bench->ferry = NULL;
	free(bench->order);
	bench->order = NULL;
	free(bench->writes);
	bench->writes = NULL;
}
