/*
 * Sorts a text file by lines, as LC_ALL=C sort does, in memory that need not
 * fit: the input, the index of its lines and the sorted runs are all managed.
 * Chunks that fit the budget are sorted one after another into runs; the runs
 * are merged over the input's own pages.
 *
 * Files are read and written through a small buffer of plain memory: without
 * FERRY_CAP_KERNEL_FAULT a system call that meets a page that is away gets
 * EFAULT, so managed memory is left to the program's own loads and stores.
 */
#include <errno.h>
#include <fcntl.h>
#include <ferry.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "03-sort-lines.h"

#define BOUNCE ((size_t)1 << 20)

enum phase { LOAD, SORT, MERGE, STORE, PHASES };
static const char *const phase_name[PHASES] = {"load", "sort", "merge", "store"};

struct run {
	size_t start, end; /* bytes of `runs` */
};

struct job {
	struct ferry *ferry; /* NULL: --all-local */
	size_t budget;
	size_t in_len;	      /* bytes of the input */
	size_t out_len;	      /* the same, and a newline that was missing at the end */
	unsigned char *input; /* later the output; out_len bytes */
	unsigned char *runs;  /* out_len bytes */
	struct line *index;
	size_t index_max;
	struct run *run; /* small and plain: one entry a chunk */
	size_t nruns;
	uint64_t nlines;
	uint64_t visits; /* managed pages that the passes swept, for the hit rate */
	int progress;
	unsigned shown; /* percent */
	double t0, took[PHASES];
	char *bounce;
};

static void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

static void die(const char *fmt, ...)
{
	va_list ap;

	fputs("sort: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static size_t pages(size_t bytes)
{
	return (bytes + FERRY_PAGE_SIZE - 1) / FERRY_PAGE_SIZE;
}

static struct ferry_stats stats_of(const struct job *job)
{
	struct ferry_stats stats = {.size = sizeof stats};

	if (job->ferry != NULL)
		ferry_stats(job->ferry, &stats);
	return stats;
}

/* A line every five percent: phase, percent, faults, resident. */
static void progress(struct job *job, enum phase phase, size_t done, size_t total)
{
	unsigned percent = total == 0 ? 100 : (unsigned)((double)done * 100.0 / (double)total);

	if (!job->progress || (percent < job->shown + 5 && !(percent == 100 && job->shown < 100)))
		return;
	struct ferry_stats stats = stats_of(job);

	job->shown = percent;
	fprintf(stderr, "%-5s %3u %%  faults %" PRIu64 "  resident %" PRIu64 " MiB\n", phase_name[phase],
		percent, stats.faults, stats.resident_bytes >> 20);
}

static void phase_begin(struct job *job)
{
	job->shown = 0;
	job->t0 = now();
}

static void phase_end(struct job *job, enum phase phase)
{
	progress(job, phase, 1, 1);
	job->took[phase] = now() - job->t0;
}

static void *map(struct job *job, size_t len, const char *what)
{
	void *p;

	if (job->ferry != NULL)
		p = ferry_mmap(job->ferry, NULL, len, PROT_READ | PROT_WRITE, 0);
	else
		p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		die("no memory for %s (%zu MiB): %s", what, len >> 20,
		    job->ferry != NULL ? ferry_last_error() : strerror(errno));
	return p;
}

/* Advice is only that: a run without it is slower, not wrong. */
static void advise(struct job *job, void *p, size_t len, enum ferry_advice advice)
{
	if (job->ferry != NULL)
		ferry_advise(job->ferry, p, pages(len) * FERRY_PAGE_SIZE, advice);
}

/*
 * The input up to `end` is done with: dropped pages take no room in RAM, need
 * not be written to the server, nor come back to be written over.
 */
static void drop_input(struct job *job, size_t start, size_t end)
{
	start -= start % FERRY_PAGE_SIZE; /* what came before it is done with as well */
	end -= end % FERRY_PAGE_SIZE;
	if (end > start)
		advise(job, job->input + start, end - start, FERRY_ADVICE_DONTNEED);
}

static void load(struct job *job, int fd, const char *path)
{
	phase_begin(job);
	for (size_t at = 0; at < job->in_len;) {
		ssize_t n = read(fd, job->bounce, BOUNCE < job->in_len - at ? BOUNCE : job->in_len - at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			die("%s: %s", path, n < 0 ? strerror(errno) : "shorter than it was a moment ago");
		memcpy(job->input + at, job->bounce, (size_t)n);
		at += (size_t)n;
		progress(job, LOAD, at, job->in_len);
	}
	if (job->out_len > 0)
		job->input[job->out_len - 1] = '\n'; /* there already, or missing at the end of the file */
	job->visits += pages(job->out_len);
	phase_end(job, LOAD);
}

/* Whole lines from `at`, as many as a chunk of `want` bytes and the index hold; at least one. */
static size_t chunk_take(struct job *job, size_t at, size_t want, size_t *out_n)
{
	struct line_cursor cursor = {.next = job->input + at, .end = job->input + job->out_len};
	size_t n = 0;

	while (n < job->index_max && (n == 0 || (size_t)(cursor.next - job->input) - at < want) &&
	       line_cursor_next(&cursor))
		job->index[n++] = cursor.line;
	*out_n = n;
	return (size_t)(cursor.next - job->input);
}

static void sort_chunks(struct job *job)
{
	size_t want = job->budget / 4, at = 0, out = 0, room = 0;

	phase_begin(job);
	while (at < job->out_len) {
		size_t n, end = chunk_take(job, at, want, &n), start = out;

		lines_sort(job->index, n);
		for (size_t i = 0; i < n; i++) {
			memcpy(job->runs + out, job->index[i].text, job->index[i].len);
			out += job->index[i].len;
			job->runs[out++] = '\n';
		}
		if (job->nruns == room) {
			room = room == 0 ? 64 : 2 * room;
			job->run = realloc(job->run, room * sizeof *job->run);
			if (job->run == NULL)
				die("no memory for %zu runs", room);
		}
		job->run[job->nruns++] = (struct run){start, out};
		job->nlines += n;
		job->visits += pages(end - at) + pages(n * sizeof *job->index) + pages(out - start);
		drop_input(job, at, end);
		at = end;
		progress(job, SORT, at, job->out_len);
	}
	phase_end(job, SORT);
}

static void merge_runs(struct job *job)
{
	size_t k = job->nruns, out = 0;
	struct line_cursor *heap = calloc(k > 0 ? k : 1, sizeof *heap);

	if (heap == NULL)
		die("no memory to merge %zu runs", k);
	phase_begin(job);
	advise(job, job->runs, job->out_len, FERRY_ADVICE_SEQUENTIAL);
	for (size_t i = 0; i < k; i++) {
		heap[i].next = job->runs + job->run[i].start;
		heap[i].end = job->runs + job->run[i].end;
		line_cursor_next(&heap[i]); /* a run has at least one line */
	}
	merge_init(heap, k);
	while (k > 0) {
		memcpy(job->input + out, heap[0].line.text, heap[0].line.len);
		out += heap[0].line.len;
		job->input[out++] = '\n';
		if (!line_cursor_next(&heap[0]))
			heap[0] = heap[--k];
		merge_sift(heap, k);
		progress(job, MERGE, out, job->out_len);
	}
	job->visits += 2 * pages(job->out_len);
	free(heap);
	phase_end(job, MERGE);
}

static void store(struct job *job, int fd, const char *path)
{
	phase_begin(job);
	advise(job, job->input, job->out_len, FERRY_ADVICE_SEQUENTIAL);
	if (ftruncate(fd, 0) != 0 && errno != EINVAL) /* EINVAL: a pipe or a device, nothing to cut */
		die("%s: %s", path, strerror(errno));
	for (size_t at = 0; at < job->out_len;) {
		size_t n = BOUNCE < job->out_len - at ? BOUNCE : job->out_len - at;

		memcpy(job->bounce, job->input + at, n);
		for (size_t done = 0; done < n;) {
			ssize_t w = write(fd, job->bounce + done, n - done);

			if (w < 0 && errno == EINTR)
				continue;
			if (w < 0)
				die("%s: %s", path, strerror(errno));
			done += (size_t)w;
		}
		at += n;
		progress(job, STORE, at, job->out_len);
	}
	if (close(fd) != 0)
		die("%s: %s", path, strerror(errno));
	job->visits += pages(job->out_len);
	phase_end(job, STORE);
}

/*
 * The figures. hit_rate = 1 - faults_major / page_visits: of the managed pages
 * that the four passes swept (each page once a pass), how many needed no wait
 * for a read from the server.
 */
static void report(const struct job *job, const char *path, double seconds)
{
	struct ferry_stats stats = stats_of(job);
	size_t working = 2 * job->out_len + job->index_max * sizeof *job->index;
	double hits = job->visits == 0 ? 1.0 : 1.0 - (double)stats.faults_major / (double)job->visits;
	uint64_t peak = stats.peak_resident_bytes;
	FILE *out = stdout;

	if (job->ferry == NULL) {
		struct rusage usage;

		getrusage(RUSAGE_SELF, &usage);
		peak = (uint64_t)usage.ru_maxrss * 1024;
	}
	printf("%s: %" PRIu64
	       " lines, %zu MiB in %zu runs, %.2f s (load %.2f, sort %.2f, merge %.2f, store %.2f)\n",
	       job->ferry != NULL ? "ferry" : "all local", job->nlines, job->in_len >> 20, job->nruns,
	       seconds, job->took[LOAD], job->took[SORT], job->took[MERGE], job->took[STORE]);
	printf("working memory %.1f MiB, budget %.1f MiB, peak resident %.1f MiB\n",
	       (double)working / 1048576.0, (double)job->budget / 1048576.0, (double)peak / 1048576.0);
	if (job->ferry != NULL)
		printf("faults %" PRIu64 " (p50 %.1f us, p99 %.1f us), %" PRIu64
		       " of them waited for a read; %" PRIu64 " MiB in, %" PRIu64
		       " MiB out; hit rate %.2f %% of %" PRIu64 " page visits\n",
		       stats.faults, (double)stats.fault.p50_ns / 1e3, (double)stats.fault.p99_ns / 1e3,
		       stats.faults_major, stats.bytes_in >> 20, stats.bytes_out >> 20, hits * 100.0,
		       job->visits);
	if (path == NULL)
		return;
	out = fopen(path, "w");
	if (out == NULL)
		die("%s: %s", path, strerror(errno));
	fprintf(out,
		"{\"mode\": \"%s\", \"input_bytes\": %zu, \"lines\": %" PRIu64
		", \"runs\": %zu, \"working_bytes\": %zu, "
		"\"budget_bytes\": %zu, \"peak_resident_bytes\": %" PRIu64 ", \"faults\": %" PRIu64
		", \"faults_major\": %" PRIu64
		", \"fault_us_p50\": %.2f, \"fault_us_p99\": %.2f, \"bytes_in\": %" PRIu64
		", \"bytes_out\": %" PRIu64 ", \"page_visits\": %" PRIu64
		", \"hit_rate\": %.5f, \"seconds\": %.3f, "
		"\"seconds_load\": %.3f, \"seconds_sort\": %.3f, \"seconds_merge\": %.3f, \"seconds_store\": "
		"%.3f}\n",
		job->ferry != NULL ? "ferry" : "local", job->in_len, job->nlines, job->nruns, working,
		job->budget, peak, stats.faults, stats.faults_major, (double)stats.fault.p50_ns / 1e3,
		(double)stats.fault.p99_ns / 1e3, stats.bytes_in, stats.bytes_out, job->visits, hits, seconds,
		job->took[LOAD], job->took[SORT], job->took[MERGE], job->took[STORE]);
	if (fclose(out) != 0)
		die("%s: %s", path, strerror(errno));
}

/* FERRY_LOCAL for --all-local, where no library reads it: the chunks are the same size as with it. */
static size_t local_budget(void)
{
	const char *text = getenv("FERRY_LOCAL");
	char *unit;

	if (text == NULL)
		return (size_t)256 << 20;
	errno = 0;
	unsigned long long n = strtoull(text, &unit, 10);
	const char *units = "KMGT", *found = *unit != '\0' ? strchr(units, *unit & ~0x20) : NULL;
	unsigned shift = found != NULL ? 10 * (unsigned)(found - units + 1) : 0;

	if (errno != 0 || unit == text || (*unit != '\0' && (found == NULL || unit[1] != '\0')) ||
	    n > SIZE_MAX >> shift || n << shift < FERRY_BUDGET_MIN)
		die("budget %s: give a size of at least 4M, with K, M, G or T", text);
	return (size_t)n << shift;
}

static int usage(FILE *out, int code)
{
	fputs("usage: 03-sort [--local SIZE] [--all-local] [--progress] [--report FILE] INPUT OUTPUT\n"
	      "  --local SIZE   budget of local RAM, as FERRY_LOCAL (default 256M)\n"
	      "  --all-local    the same program on plain memory, without ferry\n"
	      "  --progress     a line on stderr every five percent\n"
	      "  --report FILE  the figures as JSON\n"
	      "servers come from FERRY_SERVERS; none: an embedded one\n",
	      out);
	return code;
}

/* The size of the input, which must be known before memory is mapped; whether its last newline is missing. */
static void measure(struct job *job, int fd, const char *path)
{
	struct stat st;
	char last = '\n';

	if (fstat(fd, &st) != 0)
		die("%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		die("%s: not a regular file; give a file whose size is known", path);
	job->in_len = (size_t)st.st_size;
	if (job->in_len > 0 && pread(fd, &last, 1, st.st_size - 1) != 1)
		die("%s: %s", path, strerror(errno));
	job->out_len = job->in_len + (last != '\n');
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"local", required_argument, NULL, 'l'}, {"all-local", no_argument, NULL, 'a'},
		{"progress", no_argument, NULL, 'p'},	 {"report", required_argument, NULL, 'r'},
		{"help", no_argument, NULL, 'h'},	 {NULL, 0, NULL, 0},
	};
	struct job job = {0};
	const char *report_path = NULL;
	int all_local = 0, opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'l':
			setenv("FERRY_LOCAL", optarg, 1);
			break;
		case 'a':
			all_local = 1;
			break;
		case 'p':
			job.progress = 1;
			break;
		case 'r':
			report_path = optarg;
			break;
		case 'h':
			return usage(stdout, 0);
		default:
			return usage(stderr, 2);
		}
	}
	if (argc - optind != 2)
		return usage(stderr, 2);

	const char *in_path = argv[optind], *out_path = argv[optind + 1];
	int in = open(in_path, O_RDONLY | O_CLOEXEC);

	if (in < 0)
		die("%s: %s", in_path, strerror(errno));
	measure(&job, in, in_path);
	/* Not cut yet: it may be the input. */
	int out = open(out_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);

	if (out < 0)
		die("%s: %s", out_path, strerror(errno));
	if (all_local)
		job.budget = local_budget();
	else if (ferry_open(NULL, &job.ferry) != 0)
		die("%s", ferry_last_error());
	else
		job.budget = stats_of(&job).budget_bytes;

	double start = now();

	job.bounce = malloc(BOUNCE);
	if (job.bounce == NULL)
		die("no memory");
	if (job.out_len > 0) {
		/* Sized so that a chunk, its index and its run fit the budget together. */
		job.index_max = job.budget / 4 / sizeof *job.index;
		job.input = map(&job, job.out_len, "the input");
		job.runs = map(&job, job.out_len, "the runs");
		job.index = map(&job, job.index_max * sizeof *job.index, "the index");
	}
	load(&job, in, in_path);
	close(in);
	sort_chunks(&job);
	if (job.out_len > 0)
		merge_runs(&job);
	store(&job, out, out_path);
	report(&job, report_path, now() - start);

	if (job.ferry != NULL) {
		if (job.out_len > 0) {
			ferry_munmap(job.ferry, job.input, pages(job.out_len) * FERRY_PAGE_SIZE);
			ferry_munmap(job.ferry, job.runs, pages(job.out_len) * FERRY_PAGE_SIZE);
			ferry_munmap(job.ferry, job.index,
				     pages(job.index_max * sizeof *job.index) * FERRY_PAGE_SIZE);
		}
		if (ferry_close(job.ferry) != 0)
			die("%s", ferry_last_error());
	}
	free(job.run);
	free(job.bounce);
	return 0;
}
