/*
 * `ferry bench`: each kind of measurement is one row of a table; every row is
 * measured in runs, and each run takes the raw transport and the bare
 * userfaultfd figures first, against the same server. What is printed are the
 * medians over the runs.
 * The bare userfaultfd is measured in the mode that the run is: by a handler
 * thread that spins, or by SIGBUS in the faulting thread.
 *
 * Threads: everything here runs in the main thread, but for the handler of
 * bare_uffd.c and the library's own threads.
 */
#ifndef FERRYI_BENCH_H
#define FERRYI_BENCH_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "bench_raw.h"
#include "bench_server.h"
#include "ferry.h"
#include "tool.h"

enum ferryi_bench_mode { FERRYI_BENCH_HANDLER, FERRYI_BENCH_INLINE };

struct ferryi_bench_options {
	const char *servers, *token_file, *pool;
	int fabric;			  /* index into ferryi_bench_fabrics */
	int mode;			  /* enum ferryi_bench_mode */
	uint64_t size_bytes, local_bytes; /* local 0: what the kind asks for */
	uint64_t seconds, count;	  /* of one run; 0: the kind's */
	const char *strides;		  /* stride: a list; NULL: the table's */
	uint64_t streams;		  /* stride: 0: the table's */
	uint64_t runs, seed;
	bool json;
};

#define FERRYI_BENCH_MORE 4u

/* Figures of one run; NaN where a kind has none. */
struct ferryi_bench_figures {
	double raw_us_p50, raw_us_p99, raw_mbps; /* raw_mbps: reads, or writes for a kind that writes */
	double uffd_us_p50;
	double us_p50, us_p99, mbps;
	double faults_per_s;
	double hit_rate;     /* accesses that did not wait for a read of their own */
	double useless_rate; /* of the pages read: by read-ahead, and not touched before they left, or the end
			      */
	double ratio;	     /* of a kind that has one of its own */
	uint64_t count;	     /* accesses (or pages) measured */
	unsigned nr_more;
	struct {
		const char *name;
		double value;
	} more[FERRYI_BENCH_MORE]; /* the same ones in each run */
};

#define FERRYI_BENCH_STRIDE_ROWS 7u
#define FERRYI_BENCH_STRIDE_MAX	 65536 /* pages */
#define FERRYI_BENCH_STREAMS_MAX 256u

/* What the streams of kind stride do: stream i takes stride[i % n], in pages, not 0. */
struct ferryi_bench_strides {
	unsigned streams, n;
	long stride[FERRYI_BENCH_STREAMS_MAX];
};

struct ferryi_bench {
	const struct ferryi_tool_command *command; /* for error lines */
	struct ferryi_bench_options options;
	const char *url; /* of the one server */
	const char *token_file;
	pid_t server_pid; /* of the ferryd started for this; -1: none */
	struct ferryi_raw *raw;
	/* of the kind under way */
	struct ferry *ferry;
	unsigned char *area;
	uint64_t budget_bytes;
	uint64_t random;  /* state of the generator */
	uint32_t *order;  /* fault: a permutation of the pages */
	uint32_t *writes; /* random, long: how often each page was written */
	struct ferryi_bench_strides strides;
	struct ferryi_samples samples;
};

struct ferryi_bench_kind {
	const char *name;
	const char *text;
	bool by_throughput;	 /* ratio = mbps / raw_mbps, else us_p50 / (raw_us_p50 + uffd_us_p50) */
	bool has_ratio;		 /* its runs set the ratio themselves, or it has none */
	bool writes;		 /* its raw throughput is that of writes */
	bool by_name_only;	 /* not of `all`: it takes as long as it is told to */
	unsigned budget_percent; /* of the size; over 100: nothing is evicted */
	uint64_t count;		 /* default accesses of a run; 0: every page */
	const char *strides;	 /* stride: a list for ferryi_bench_strides_parse; else NULL */
	unsigned streams;
	/* All return 0, or -1 with a line already on stderr. NULL: nothing to do. */
	int (*prepare)(struct ferryi_bench *bench);
	int (*run)(struct ferryi_bench *bench, struct ferryi_bench_figures *out);
};

extern const struct ferryi_bench_kind ferryi_bench_raw, ferryi_bench_fault, ferryi_bench_seq,
	ferryi_bench_random, ferryi_bench_evict, ferryi_bench_todev, ferryi_bench_toram, ferryi_bench_threads,
	ferryi_bench_map, ferryi_bench_idle, ferryi_bench_long;
extern const struct ferryi_bench_kind ferryi_bench_stride[FERRYI_BENCH_STRIDE_ROWS];

/* Memory of a process as /proc has it, bytes; 0: not to be read. */
uint64_t ferryi_bench_rss(pid_t pid);

/* "1,2,-1": what is there, and how many (out->streams is the caller's). -EINVAL. */
int ferryi_bench_strides_parse(const char *text, struct ferryi_bench_strides *out);

/* One figure more of a run, by its name in JSON. */
static inline void ferryi_bench_add(struct ferryi_bench_figures *out, const char *name, double value)
{
	out->more[out->nr_more].name = name;
	out->more[out->nr_more++].value = value;
}

static inline double ferryi_bench_mbps(uint64_t bytes, uint64_t ns)
{
	return ns == 0 ? NAN : (double)bytes * 1e3 / (double)ns;
}

/* "ferry bench: ..." on stderr; returns -1. */
int ferryi_bench_fail(const struct ferryi_bench *bench, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* ---- the managed area (bench_area.c) ---- */

/* ferry_open with the kind's budget, ferry_mmap, fill every page. 0 or -1. */
int ferryi_bench_area_open(struct ferryi_bench *bench, const struct ferryi_bench_kind *kind);
void ferryi_bench_area_close(struct ferryi_bench *bench);
static inline size_t ferryi_bench_pages(const struct ferryi_bench *bench)
{
	return bench->options.size_bytes / 4096;
}
static inline uint64_t *ferryi_bench_page(const struct ferryi_bench *bench, size_t page)
{
	return (uint64_t *)(void *)(bench->area + page * 4096);
}
/* ferry_stats, now. */
struct ferry_stats ferryi_bench_stats(const struct ferryi_bench *bench);
/* Room for `writes`, zeroed. 0 or -1. */
int ferryi_bench_count_writes(struct ferryi_bench *bench);
/* A read, or a write (30 %), of a random page, checked. *waited_ns: of the access that found its page away,
 * else 0. 0 or -1. */
int ferryi_bench_touch_random(struct ferryi_bench *bench, uint64_t *waited_ns);
/* What word 0 of a page holds for as long as it lives. */
uint64_t ferryi_bench_mark(const struct ferryi_bench *bench, size_t page);
/* Every page leaves and its pool copy is current. 0 or -1. */
int ferryi_bench_send_away(struct ferryi_bench *bench);
/* All home, looked at, and dirty, so that each page has to be sent. 0 or -1. */
int ferryi_bench_make_dirty(struct ferryi_bench *bench);
/* Wrong content found: says so; returns -1. */
int ferryi_bench_corrupt(const struct ferryi_bench *bench, size_t page);

/* ---- output (bench_line.c) ---- */

extern const char *const ferryi_bench_fabrics[];
extern const char *const ferryi_bench_modes[]; /* by enum ferryi_bench_mode */

void ferryi_bench_print(const struct ferryi_bench *bench, const struct ferryi_bench_kind *kind,
			const struct ferryi_bench_figures *runs, size_t nruns);

#endif
