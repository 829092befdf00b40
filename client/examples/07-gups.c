/*
 * Random updates of a table, as HPCC's RandomAccess: the worst case of any
 * memory that is far, for nothing can be known before and hardly anything is
 * touched again. Verifies as HPCC does: the same updates again put back what
 * was there, and here not one may be wrong, for the updates are atomic.
 */
#include <errno.h>
#include <ferry.h>
#include <getopt.h>
#include <inttypes.h>
#include <omp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct table {
	uint64_t n; /* words, a power of two */
	uint64_t *word;
	size_t bytes;
};

/* The k-th random number: by counting, so that threads may share the work as they like. */
static uint64_t nth(uint64_t k)
{
	uint64_t v = (k + 1) * 0x9e3779b97f4a7c15u;

	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
	v = (v ^ v >> 27) * 0x94d049bb133111ebu;
	return v ^ v >> 31;
}

static void fill(const struct table *t)
{
#pragma omp parallel for schedule(static)
	for (uint64_t i = 0; i < t->n; i++)
		t->word[i] = i;
}

static void update(const struct table *t, uint64_t updates)
{
#pragma omp parallel for schedule(static)
	for (uint64_t k = 0; k < updates; k++) {
		uint64_t v = nth(k);

#pragma omp atomic
		t->word[v & (t->n - 1)] ^= v;
	}
}

static uint64_t wrong(const struct table *t)
{
	uint64_t n = 0;

#pragma omp parallel for schedule(static) reduction(+ : n)
	for (uint64_t i = 0; i < t->n; i++)
		n += t->word[i] != i;
	return n;
}

static int fail(const char *what)
{
	fprintf(stderr, "07-gups: %s: %s\n", what, ferry_last_error());
	return 1;
}

static int usage(FILE *out, int code)
{
	fputs("usage: 07-gups [--words N] [--updates N] [--local SIZE] [--all-local]\n"
	      "  --words N      a table of 2^N words of 8 bytes, 10 to 40 (default 21: 16 MiB)\n"
	      "  --updates N    random updates (default 50000; HPCC makes four times the words)\n"
	      "  --local SIZE   budget of local RAM, as FERRY_LOCAL\n"
	      "  --all-local    the same program on plain memory, without ferry\n"
	      "servers come from FERRY_SERVERS; none: an embedded one\n",
	      out);
	return code;
}

static int run(struct ferry *ferry, const struct table *t, uint64_t updates)
{
	struct ferry_stats stats = {.size = sizeof stats};

	fill(t);
	double start = omp_get_wtime();
	update(t, updates);
	double seconds = omp_get_wtime() - start;

	if (ferry != NULL)
		ferry_stats(ferry, &stats);
	uint64_t changed = wrong(t);
	update(t, updates);
	uint64_t errors = wrong(t);

	printf("%s: %" PRIu64 " words, %.1f MiB, %.4f s; %" PRIu64 " updates, %.6f GUPS; %" PRIu64
	       " words changed, %" PRIu64 " wrong after the same updates again\n",
	       ferry != NULL ? "ferry" : "all local", t->n, (double)t->bytes / 1048576.0, seconds, updates,
	       (double)updates / seconds / 1e9, changed, errors);
	if (ferry != NULL)
		printf("budget %" PRIu64 " MiB, at most %" PRIu64 " MiB resident, %" PRIu64
		       " faults (p50 %.1f us, p99 %.1f us), %" PRIu64 " MiB in, %" PRIu64 " MiB out\n",
		       stats.budget_bytes >> 20, stats.peak_resident_bytes >> 20, stats.faults,
		       (double)stats.fault.p50_ns / 1e3, (double)stats.fault.p99_ns / 1e3,
		       stats.bytes_in >> 20, stats.bytes_out >> 20);
	return errors != 0 || (changed == 0 && updates > 0);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"words", required_argument, NULL, 'w'}, {"updates", required_argument, NULL, 'u'},
		{"local", required_argument, NULL, 'l'}, {"all-local", no_argument, NULL, 'a'},
		{"help", no_argument, NULL, 'h'},	 {NULL, 0, NULL, 0},
	};
	struct ferry *ferry = NULL;
	struct table t;
	long words = 21;
	long long updates = 50000;
	bool all_local = false;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'w':
			words = strtol(optarg, NULL, 10);
			break;
		case 'u':
			updates = strtoll(optarg, NULL, 10);
			break;
		case 'l':
			setenv("FERRY_LOCAL", optarg, 1);
			break;
		case 'a':
			all_local = true;
			break;
		case 'h':
			return usage(stdout, 0);
		default:
			return usage(stderr, 2);
		}
	}
	if (words < 10 || words > 40 || updates < 1 || optind != argc)
		return usage(stderr, 2);
	t.n = (uint64_t)1 << words;
	t.bytes = t.n * sizeof *t.word;
	if (all_local) {
		t.word = mmap(NULL, t.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (t.word == MAP_FAILED) {
			fprintf(stderr, "07-gups: no memory for %zu MiB: %s\n", t.bytes >> 20,
				strerror(errno));
			return 1;
		}
		return run(NULL, &t, (uint64_t)updates);
	}
	if (ferry_open(NULL, &ferry) != 0)
		return fail("open");
	t.word = ferry_mmap(ferry, NULL, t.bytes, PROT_READ | PROT_WRITE, 0);
	if (t.word == MAP_FAILED)
		return fail("mmap");
	int status = run(ferry, &t, (uint64_t)updates);

	/* Unmapped first: closing would bring it all home. */
	if (ferry_munmap(ferry, t.word, t.bytes) != 0)
		return fail("munmap");
	if (ferry_close(ferry) != 0)
		return fail("close");
	return status;
}
