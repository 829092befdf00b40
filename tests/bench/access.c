/*
 * One access pattern on one kind of memory, and one JSON line about it: what
 * an access costs when its page is not in RAM. The memory is plain and swapped
 * by the kernel (the caller sets a cgroup's limit), or farferry's (the caller
 * sets FERRY_LOCAL). All else is the same: the same accesses to the same
 * content, which no compressor makes smaller, no advice to either, one thread.
 *
 * Each run checks what it reads; it ends with status 1 if that is wrong.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "ferry.h"

#define PAGE	 4096u
#define WORDS	 (PAGE / sizeof(uint64_t))
#define SUB_BITS 6 /* buckets of a histogram: 64 for each power of two, so 1.6 % wide */
#define BUCKETS	 (64u << SUB_BITS)

/* Times of those accesses that waited: at least wait_ns. */
struct waits {
	uint64_t wait_ns, count;
	uint32_t bucket[BUCKETS];
};

struct figures {
	uint64_t count;	   /* accesses, of which waits.count waited */
	uint64_t bytes;	   /* that the pattern went over; 0: it is told by its seconds alone */
	uint64_t checksum; /* of the content afterwards; 0 if the time ran out */
	double seconds; /* without what checks the content afterwards */
	bool wrong;
};

struct bench {
	const char *system, *pattern; /* names for the line */
	struct ferry *ferry;	      /* NULL: plain memory */
	uint64_t *memory;
	size_t size; /* bytes, whole pages */
	uint64_t seed, accesses, steps;
	double limit_s;	   /* of the pattern; 0: none */
	uint64_t fill_sum; /* of all words */
	struct waits waits;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static double seconds_since(uint64_t start_ns)
{
	return (double)(now_ns() - start_ns) / 1e9;
}

static uint64_t random_next(uint64_t *state) /* xorshift64* */
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1du;
}

static uint64_t page_mark(const struct bench *b, size_t page)
{
	uint64_t v = (b->seed << 40) + page + 1;

	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
	v = (v ^ v >> 27) * 0x94d049bb133111ebu;
	return v ^ v >> 31;
}

/* ---- waits ---- */

static void waits_add(struct waits *w, uint64_t ns)
{
	if (ns < w->wait_ns)
		return;
	unsigned top = 63u - (unsigned)__builtin_clzll(ns | 1u << SUB_BITS);
	size_t at = ((size_t)(top - SUB_BITS) << SUB_BITS) + (size_t)(ns >> (top - SUB_BITS));

	w->count++;
	w->bucket[at < BUCKETS ? at : BUCKETS - 1]++;
}

/* The least time of the bucket, in us; NaN if nothing waited. */
static double waits_us(const struct waits *w, double quantile)
{
	uint64_t want = (uint64_t)(quantile * (double)w->count), seen = 0;

	for (size_t at = 0; at < BUCKETS; at++) {
		seen += w->bucket[at];
		if (seen > want) {
			size_t octave = at >> SUB_BITS, sub = at & ((1u << SUB_BITS) - 1);

			if (octave == 0)
				return (double)sub / 1e3;
			return ldexp((double)(sub + (1u << SUB_BITS)), (int)octave - 1) / 1e3;
		}
	}
	return (double)NAN;
}

/* ---- the patterns; each begins with memory that was filled in order ---- */

static uint64_t sum_page(const uint64_t *word)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < WORDS; i++)
		sum += word[i];
	return sum;
}

static void fill(struct bench *b)
{
	for (size_t page = 0; page < b->size / PAGE; page++) {
		uint64_t *word = b->memory + page * WORDS, state = page_mark(b, page);

		word[0] = state;
		for (size_t i = 1; i < WORDS; i++)
			word[i] = random_next(&state);
		b->fill_sum += sum_page(word);
	}
}

/* Reads all of it in order. */
static void pattern_seq(struct bench *b, uint64_t deadline, struct figures *out)
{
	size_t page = 0, n = b->size / PAGE;
	uint64_t sum = 0, start = now_ns(), now = 0;

	for (; page < n && now < deadline; page++) {
		const uint64_t *word = b->memory + page * WORDS;
		uint64_t t0 = now_ns(), mark = *(const volatile uint64_t *)word;

		now = now_ns();
		waits_add(&b->waits, now - t0);
		out->wrong |= mark != page_mark(b, page);
		sum += sum_page(word);
	}
	out->seconds = seconds_since(start);
	out->count = page;
	out->bytes = page * PAGE;
	if (page == n) {
		out->checksum = sum;
		out->wrong |= sum != b->fill_sum;
	}
}

/* Reads (70 %) and writes anywhere, a word of a page at a time. */
static void pattern_random(struct bench *b, uint64_t deadline, struct figures *out)
{
	size_t n = b->size / PAGE;
	uint16_t *writes = calloc(n, sizeof(*writes));
	uint64_t state = page_mark(b, n), start = now_ns(), now = 0, i = 0, sum = 0;

	if (writes == NULL) {
		perror("access: calloc");
		exit(1);
	}
	for (; i < b->accesses && now < deadline; i++) {
		uint64_t r = random_next(&state);
		size_t page = (r >> 20) % n;
		volatile uint64_t *word = b->memory + page * WORDS;
		bool write = r % 100 < 30;
		uint64_t t0 = now_ns(), was = word[0];

		if (write)
			word[0] = was + 1;
		now = now_ns();
		waits_add(&b->waits, now - t0);
		out->wrong |= was != page_mark(b, page) + writes[page];
		writes[page] = (uint16_t)(writes[page] + write);
		sum = (sum << 1 | sum >> 63) ^ was;
	}
	out->seconds = seconds_since(start);
	out->count = i;
	out->bytes = i * PAGE;
	if (i == b->accesses)
		out->checksum = sum;
	free(writes);
}

/* A 3-D heat stencil on two arrays; an access is a row of the result, out of five rows. */
static void pattern_stencil(struct bench *b, uint64_t deadline, struct figures *out)
{
	size_t n = (size_t)cbrt((double)(b->size / 2 / sizeof(double)));
	double *from = (double *)(void *)b->memory, *to = from + b->size / 2 / sizeof(double);
	uint64_t step = 0, start = now_ns(), now = 0;

	for (size_t i = 0; i < n * n * n; i++) /* numbers between 0 and 1, all bits of them at random */
		from[i] = to[i] = (double)(b->memory[i] >> 11) * 0x1p-53;
	for (; step < b->steps && now < deadline; step++) {
		for (size_t row = n * n + n; row < n * n * (n - 1); row += n) {
			uint64_t t0 = now_ns();

			if (row % (n * n) == 0 || row % (n * n) == n * (n - 1))
				continue;
			for (size_t i = row + 1; i < row + n - 1; i++)
				to[i] = from[i] +
					0.1 * (from[i - 1] + from[i + 1] + from[i - n] + from[i + n] +
					       from[i - n * n] + from[i + n * n] - 6.0 * from[i]);
			now = now_ns();
			waits_add(&b->waits, now - t0);
			out->count++;
		}
		double *swap = from;

		from = to;
		to = swap;
	}
	out->seconds = seconds_since(start);
	if (step < b->steps)
		return;
	for (size_t i = 0; i < n * n * n; i++) {
		uint64_t bits;

		memcpy(&bits, &from[i], sizeof(bits));
		out->checksum = (out->checksum << 1 | out->checksum >> 63) ^ bits;
		out->wrong |= !isfinite(from[i]);
	}
}

/* Quicksort, in place: the parts that fit into RAM are sorted there once they are reached. */
static void sort_words(uint64_t *word, size_t n)
{
	while (n > 16) {
		uint64_t a = word[0], m = word[n / 2], z = word[n - 1];
		uint64_t pivot = a < m ? (m < z ? m : (a < z ? z : a)) : (a < z ? a : (m < z ? z : m));
		size_t i = 0, j = n - 1;

		for (;; i++, j--) {
			while (word[i] < pivot)
				i++;
			while (word[j] > pivot)
				j--;
			if (i >= j)
				break;
			uint64_t swap = word[i];

			word[i] = word[j];
			word[j] = swap;
		}
		/* [0, j] and [j + 1, n): the smaller by recursion, so that the stack stays small. */
		size_t left = j + 1;

		if (left < n - left) {
			sort_words(word, left);
			word += left;
			n -= left;
		} else {
			sort_words(word + left, n - left);
			n = left;
		}
	}
	for (size_t i = 1; i < n; i++) {
		uint64_t v = word[i];
		size_t j = i;

		for (; j > 0 && word[j - 1] > v; j--)
			word[j] = word[j - 1];
		word[j] = v;
	}
}

static void pattern_sort(struct bench *b, uint64_t deadline, struct figures *out)
{
	size_t n = b->size / sizeof(*b->memory);
	uint64_t sum, start = now_ns();

	(void)deadline; /* to the end: half a sort tells nothing */
	sort_words(b->memory, n);
	out->seconds = seconds_since(start);
	out->checksum = sum = b->memory[0];
	for (size_t i = 1; i < n; i++) {
		out->wrong |= b->memory[i - 1] > b->memory[i];
		sum += b->memory[i];
		out->checksum = (out->checksum << 1 | out->checksum >> 63) ^ b->memory[i];
	}
	out->wrong |= sum != b->fill_sum;
	out->count = n;
}

static const struct {
	const char *name;
	void (*run)(struct bench *b, uint64_t deadline, struct figures *out);
} patterns[] = {
	{"seq", pattern_seq},
	{"random", pattern_random},
	{"stencil", pattern_stencil},
	{"sort", pattern_sort},
};

#define NPATTERNS (sizeof(patterns) / sizeof(patterns[0]))

/* ---- the line ---- */

static void print_number(const char *name, double value)
{
	if (isfinite(value))
		printf(", \"%s\": %.3f", name, value);
	else
		printf(", \"%s\": null", name);
}

static void print_line(const struct bench *b, const struct figures *f, double fill_s)
{
	struct ferry_stats stats = {.size = sizeof(stats)};
	struct rusage usage;
	double mbps = f->bytes == 0 ? (double)NAN : (double)f->bytes / 1e6 / f->seconds;

	getrusage(RUSAGE_SELF, &usage);
	if (b->ferry != NULL)
		ferry_stats(b->ferry, &stats);
	printf("{\"access\": \"%s\", \"system\": \"%s\", \"size_bytes\": %zu, \"count\": %" PRIu64
	       ", \"waits\": %" PRIu64,
	       b->pattern, b->system, b->size, f->count, b->waits.count);
	print_number("us_p50", waits_us(&b->waits, 0.5));
	print_number("us_p99", waits_us(&b->waits, 0.99));
	print_number("mbps", mbps);
	print_number("seconds", f->seconds);
	print_number("fill_mbps", (double)b->size / 1e6 / fill_s);
	printf(", \"major_faults\": %ld, \"faults\": %" PRIu64 ", \"budget_bytes\": %" PRIu64
	       ", \"peak_resident_bytes\": %" PRIu64 ", \"bytes_in\": %" PRIu64 ", \"bytes_out\": %" PRIu64
	       ", \"checksum\": \"%016" PRIx64 "\"}\n",
	       usage.ru_majflt, stats.faults, stats.budget_bytes, stats.peak_resident_bytes, stats.bytes_in,
	       stats.bytes_out, f->checksum);
}

/* ---- options ---- */

static int usage(FILE *out, int code)
{
	fputs("usage: bench_access [OPTIONS] seq|random|stencil|sort\n"
	      "  --plain          plain memory, for the kernel to swap (default: farferry's, by FERRY_*)\n"
	      "  --inline         faults served in the faulting thread\n"
	      "  --system NAME    what the line calls it (default: plain, ferry)\n"
	      "  --size MIB       of the memory (default 64)\n"
	      "  --accesses N     of random (default 20000)\n"
	      "  --steps N        of stencil (default 3)\n"
	      "  --seconds N      end seq, random and stencil after this time (default: none)\n"
	      "  --wait-us N      an access that takes longer has waited (default 2)\n"
	      "  --seed N         of the content and the places (default 1)\n",
	      out);
	return code;
}

static uint64_t number(const char *text, const char *option)
{
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || n == 0 || n > (uint64_t)1 << 40) {
		fprintf(stderr, "access: --%s=%s is no number from 1 on\n", option, text);
		exit(2);
	}
	return n;
}

static int memory_get(struct bench *b, bool plain, unsigned flags)
{
	if (plain) {
		b->memory = mmap(NULL, b->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (b->memory == MAP_FAILED)
			perror("access: mmap");
		return b->memory == MAP_FAILED ? -1 : 0;
	}
	if (ferry_open(NULL, &b->ferry) == 0) {
		b->memory = ferry_mmap(b->ferry, NULL, b->size, PROT_READ | PROT_WRITE, flags);
		if (b->memory != MAP_FAILED)
			return 0;
	}
	fprintf(stderr, "access: %s\n", ferry_last_error());
	return -1;
}

/* 0, or a status to exit with. */
static int memory_put(struct bench *b)
{
	if (b->ferry == NULL)
		return 0;
	if (ferry_munmap(b->ferry, b->memory, b->size) == 0 && ferry_close(b->ferry) == 0)
		return 0;
	fprintf(stderr, "access: %s\n", ferry_last_error());
	return 1;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"plain", no_argument, NULL, 'p'},
		{"inline", no_argument, NULL, 'i'},
		{"system", required_argument, NULL, 'n'},
		{"size", required_argument, NULL, 's'},
		{"accesses", required_argument, NULL, 'a'},
		{"steps", required_argument, NULL, 't'},
		{"seconds", required_argument, NULL, 'd'},
		{"wait-us", required_argument, NULL, 'w'},
		{"seed", required_argument, NULL, 'r'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	static struct bench b = {.size = (size_t)64 << 20, .seed = 1, .accesses = 20000, .steps = 3};
	struct figures f = {0};
	bool plain = false;
	unsigned flags = 0;
	size_t pattern = 0;
	int opt, at = 0;

	b.waits.wait_ns = 2000;
	while ((opt = getopt_long(argc, argv, "", options, &at)) != -1) {
		const char *name = opt == '?' ? "" : options[at].name;

		switch (opt) {
		case 'p':
			plain = true;
			break;
		case 'i':
#ifdef FERRY_MAP_INLINE
			flags |= FERRY_MAP_INLINE;
			break;
#else
			fputs("access: --inline is not built yet\n", stderr);
			return 2;
#endif
		case 'n':
			b.system = optarg;
			break;
		case 's':
			b.size = (size_t)number(optarg, name) << 20;
			break;
		case 'a':
			b.accesses = number(optarg, name);
			break;
		case 't':
			b.steps = number(optarg, name);
			break;
		case 'd':
			b.limit_s = (double)number(optarg, name);
			break;
		case 'w':
			b.waits.wait_ns = number(optarg, name) * 1000;
			break;
		case 'r':
			b.seed = number(optarg, name);
			break;
		case 'h':
			return usage(stdout, 0);
		default:
			return usage(stderr, 2);
		}
	}
	if (optind != argc - 1)
		return usage(stderr, 2);
	b.pattern = argv[optind];
	while (pattern < NPATTERNS && strcmp(patterns[pattern].name, b.pattern) != 0)
		pattern++;
	if (pattern == NPATTERNS)
		return usage(stderr, 2);
	if (b.system == NULL)
		b.system = plain ? "plain" : "ferry";
	if (memory_get(&b, plain, flags) != 0)
		return 1;

	uint64_t start = now_ns();

	fill(&b);
	uint64_t filled = now_ns();

	patterns[pattern].run(&b, b.limit_s > 0 ? filled + (uint64_t)(b.limit_s * 1e9) : UINT64_MAX, &f);
	print_line(&b, &f, (double)(filled - start) / 1e9);
	if (f.wrong)
		fprintf(stderr, "access: %s on %s: the content is WRONG\n", b.pattern, b.system);
	return memory_put(&b) != 0 || f.wrong;
}
