/*
 * Conjugate gradient on a random sparse matrix, as NAS CG: most of its memory
 * is the matrix, which each iteration reads once from end to end; a little of
 * it, the vector that the matrix is multiplied with, is read all over. Checks
 * itself: the residual that the iteration believes in is computed anew, by the
 * recipe of the matrix and not by what was stored of it.
 *
 * The matrix is symmetric and positive definite by its making. Row i has an
 * entry -w in column partner(i, l) for each layer l, and partner is its own
 * inverse, so that row has the same entry in column i; the diagonal is the sum
 * of the row's weights and a shift.
 */
#include <errno.h>
#include <ferry.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SHIFT 0.02 /* the smaller, the harder the system */

#define ARRAYS 8

struct system {
	struct ferry *ferry; /* NULL: --all-local */
	struct {
		void *p;
		size_t len; /* whole pages */
	} array[ARRAYS];
	int narrays;
	size_t bytes;	 /* of all arrays */
	uint64_t n;	 /* rows, a power of two */
	uint64_t layers; /* entries of a row beside the diagonal */
	/* the matrix, in CSR */
	uint64_t *row; /* n + 1 */
	uint32_t *column;
	double *value;
	/* vectors */
	double *x, *b, *r, *p, *q;
};

static uint64_t mix(uint64_t v)
{
	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
	v = (v ^ v >> 27) * 0x94d049bb133111ebu;
	return v ^ v >> 31;
}

/* Scattered, and its own inverse: an odd factor modulo 2^k has one too, and so has the exclusive or between.
 */
static uint64_t partner(const struct system *s, uint64_t i, uint64_t layer)
{
	uint64_t factor = mix(2 * layer) | 1, inverse = factor;

	for (int k = 0; k < 5; k++) /* Newton: twice as many right bits each time */
		inverse *= 2 - factor * inverse;
	return (i * factor ^ mix(2 * layer + 1)) * inverse & (s->n - 1);
}

/* In (0, 1], the same for (i, j) and (j, i). */
static double weight(uint64_t i, uint64_t j, uint64_t layer)
{
	return (double)((mix(i ^ j ^ layer << 40) ^ mix(i + j)) >> 11 | 1) * 0x1p-53;
}

static double right_side(uint64_t i)
{
	return (double)(mix(i + 1) >> 11) * 0x1p-53 - 0.5;
}

static void matrix_init(const struct system *s)
{
	uint64_t width = s->layers + 1;

#pragma omp parallel for schedule(static)
	for (uint64_t i = 0; i < s->n; i++) {
		uint64_t at = s->row[i] = i * width;
		double sum = SHIFT;

		for (uint64_t l = 0; l < s->layers; l++) {
			uint64_t j = partner(s, i, l);
			double w = weight(i, j, l);

			s->column[at] = (uint32_t)j;
			s->value[at++] = -w;
			sum += w;
		}
		s->column[at] = (uint32_t)i;
		s->value[at] = sum;
		s->b[i] = right_side(i);
		s->x[i] = 0.0;
	}
	s->row[s->n] = s->n * width;
}

/* y = A v */
static void multiply(const struct system *s, const double *v, double *y)
{
#pragma omp parallel for schedule(static)
	for (uint64_t i = 0; i < s->n; i++) {
		double sum = 0.0;

		for (uint64_t k = s->row[i]; k < s->row[i + 1]; k++)
			sum += s->value[k] * v[s->column[k]];
		y[i] = sum;
	}
}

static double dot(const struct system *s, const double *u, const double *v)
{
	double sum = 0.0;

#pragma omp parallel for schedule(static) reduction(+ : sum)
	for (uint64_t i = 0; i < s->n; i++)
		sum += u[i] * v[i];
	return sum;
}

/* From x = 0. Returns |r| / |b| as the recurrence has it. */
static double solve(const struct system *s, long iterations)
{
	double rho = dot(s, s->b, s->b), norm = sqrt(rho);

#pragma omp parallel for schedule(static)
	for (uint64_t i = 0; i < s->n; i++)
		s->r[i] = s->p[i] = s->b[i];
	for (long it = 0; it < iterations; it++) {
		multiply(s, s->p, s->q);
		double alpha = rho / dot(s, s->p, s->q), before = rho;

#pragma omp parallel for schedule(static)
		for (uint64_t i = 0; i < s->n; i++) {
			s->x[i] += alpha * s->p[i];
			s->r[i] -= alpha * s->q[i];
		}
		rho = dot(s, s->r, s->r);
#pragma omp parallel for schedule(static)
		for (uint64_t i = 0; i < s->n; i++)
			s->p[i] = s->r[i] + rho / before * s->p[i];
	}
	return sqrt(rho) / norm;
}

/* |b - A x| / |b|, from the solution and the recipe alone. */
static double true_residual(const struct system *s)
{
	double rest = 0.0, norm = 0.0;

#pragma omp parallel for schedule(static) reduction(+ : rest, norm)
	for (uint64_t i = 0; i < s->n; i++) {
		double b = right_side(i), r = b - SHIFT * s->x[i];

		for (uint64_t l = 0; l < s->layers; l++) {
			uint64_t j = partner(s, i, l);

			r -= weight(i, j, l) * (s->x[i] - s->x[j]);
		}
		rest += r * r;
		norm += b * b;
	}
	return sqrt(rest / norm);
}

/* Whole pages of zeros. Advice is only that: a run without it is slower, not wrong. */
static void *map(struct system *s, size_t len, enum ferry_advice advice)
{
	void *p;

	len = (len + FERRY_PAGE_SIZE - 1) & ~((size_t)FERRY_PAGE_SIZE - 1);
	if (s->ferry != NULL)
		p = ferry_mmap(s->ferry, NULL, len, PROT_READ | PROT_WRITE, 0);
	else
		p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		fprintf(stderr, "06-cg: no memory for %zu MiB: %s\n", len >> 20,
			s->ferry != NULL ? ferry_last_error() : strerror(errno));
		exit(1);
	}
	if (s->ferry != NULL)
		ferry_advise(s->ferry, p, len, advice);
	else if (advice == FERRY_ADVICE_SEQUENTIAL)
		madvise(p, len, MADV_SEQUENTIAL);
	s->array[s->narrays].p = p;
	s->array[s->narrays++].len = len;
	s->bytes += len;
	return p;
}

static void map_all(struct system *s)
{
	uint64_t entries = s->n * (s->layers + 1);

	s->row = map(s, (s->n + 1) * sizeof *s->row, FERRY_ADVICE_SEQUENTIAL);
	s->column = map(s, entries * sizeof *s->column, FERRY_ADVICE_SEQUENTIAL);
	s->value = map(s, entries * sizeof *s->value, FERRY_ADVICE_SEQUENTIAL);
	s->x = map(s, s->n * sizeof *s->x, FERRY_ADVICE_NORMAL);
	s->b = map(s, s->n * sizeof *s->b, FERRY_ADVICE_NORMAL);
	s->r = map(s, s->n * sizeof *s->r, FERRY_ADVICE_NORMAL);
	s->p = map(s, s->n * sizeof *s->p, FERRY_ADVICE_NORMAL);
	s->q = map(s, s->n * sizeof *s->q, FERRY_ADVICE_NORMAL);
}

static int fail(const char *what)
{
	fprintf(stderr, "06-cg: %s: %s\n", what, ferry_last_error());
	return 1;
}

static int usage(FILE *out, int code)
{
	fputs("usage: 06-cg [--rows N] [--layers N] [--iterations N] [--local SIZE] [--all-local]\n"
	      "  --rows N        2^N rows, 4 to 30 (default 16)\n"
	      "  --layers N      entries of a row beside the diagonal, 1 to 256 (default 32: 28 MiB in all)\n"
	      "  --iterations N  of the conjugate gradient (default 25)\n"
	      "  --local SIZE    budget of local RAM, as FERRY_LOCAL\n"
	      "  --all-local     the same program on plain memory, without ferry\n"
	      "servers come from FERRY_SERVERS; none: an embedded one\n",
	      out);
	return code;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"rows", required_argument, NULL, 'r'},
		{"layers", required_argument, NULL, 'y'},
		{"iterations", required_argument, NULL, 'i'},
		{"local", required_argument, NULL, 'l'},
		{"all-local", no_argument, NULL, 'a'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	struct ferry_stats stats = {.size = sizeof stats};
	struct system s = {0};
	long rows = 16, layers = 32, iterations = 25;
	bool all_local = false;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'r':
			rows = strtol(optarg, NULL, 10);
			break;
		case 'y':
			layers = strtol(optarg, NULL, 10);
			break;
		case 'i':
			iterations = strtol(optarg, NULL, 10);
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
	if (rows < 4 || rows > 30 || layers < 1 || layers > 256 || iterations < 1 || optind != argc)
		return usage(stderr, 2);
	if (!all_local && ferry_open(NULL, &s.ferry) != 0)
		return fail("open");
	s.n = (uint64_t)1 << rows;
	s.layers = (uint64_t)layers;
	map_all(&s);

	double start = omp_get_wtime();

	matrix_init(&s);
	double made = omp_get_wtime();
	double believed = solve(&s, iterations);
	double solved = omp_get_wtime();
	double residual = true_residual(&s);

	/* Rounding parts the two a little; a page that came back wrong parts them by far more. */
	bool good =
		isfinite(residual) && residual < 1.0 && fabs(residual - believed) <= 1e-10 + 1e-6 * believed;

	printf("%s: 2^%ld rows, %" PRIu64
	       " entries, %.1f MiB, %.3f s; %ld iterations in %.3f s; residual %.3e, "
	       "%s\n",
	       all_local ? "all local" : "ferry", rows, s.row[s.n], (double)s.bytes / 1048576.0,
	       solved - start, iterations, solved - made, residual,
	       good ? "as the iteration has it" : "WRONG");
	if (all_local)
		return !good;
	ferry_stats(s.ferry, &stats);
	printf("budget %" PRIu64 " MiB, at most %" PRIu64 " MiB resident, %" PRIu64
	       " faults (p50 %.1f us, p99 %.1f us), %" PRIu64 " MiB in, %" PRIu64 " MiB out\n",
	       stats.budget_bytes >> 20, stats.peak_resident_bytes >> 20, stats.faults,
	       (double)stats.fault.p50_ns / 1e3, (double)stats.fault.p99_ns / 1e3, stats.bytes_in >> 20,
	       stats.bytes_out >> 20);
	/* Unmapped first: closing would bring it all home. */
	for (int i = 0; i < s.narrays; i++) {
		if (ferry_munmap(s.ferry, s.array[i].p, s.array[i].len) != 0)
			return fail("munmap");
	}
	if (ferry_close(s.ferry) != 0)
		return fail("close");
	return !good;
}
