/*
 * 3-D heat stencil with OpenMP: an array job as HPC codes have them, on two
 * managed arrays that need not fit the budget. --check runs the same loop on
 * plain memory and compares every bit.
 */
#include <ferry.h>
#include <getopt.h>
#include <inttypes.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct grid {
	size_t n; /* points an edge */
	size_t bytes;
	double *now, *next;
};

#define AT(g, x, y, z) (((z) * (g)->n + (y)) * (g)->n + (x))

static void heat_init(const struct grid *g)
{
#pragma omp parallel for schedule(static)
	for (size_t z = 0; z < g->n; z++)
		for (size_t y = 0; y < g->n; y++)
			for (size_t x = 0; x < g->n; x++) {
				double v = z == 0 ? 100.0 : (double)((x * 7 + y * 13 + z * 29) % 17);

				g->now[AT(g, x, y, z)] = v;
				g->next[AT(g, x, y, z)] = v; /* the faces keep this value */
			}
}

static void heat_step(struct grid *g)
{
	const double *restrict a = g->now;
	double *restrict b = g->next;
	size_t n = g->n;

#pragma omp parallel for schedule(static)
	for (size_t z = 1; z < n - 1; z++)
		for (size_t y = 1; y < n - 1; y++)
			for (size_t x = 1; x < n - 1; x++) {
				size_t i = AT(g, x, y, z);

				b[i] = a[i] + 0.1 * (a[i - 1] + a[i + 1] + a[i - n] + a[i + n] +
						     a[i - n * n] + a[i + n * n] - 6.0 * a[i]);
			}
	g->next = g->now;
	g->now = b;
}

static double heat_run(struct grid *g, long steps)
{
	double start = omp_get_wtime();

	heat_init(g);
	for (long s = 0; s < steps; s++)
		heat_step(g);
	return omp_get_wtime() - start;
}

static int fail(const char *what)
{
	fprintf(stderr, "04-stencil: %s: %s\n", what, ferry_last_error());
	return 1;
}

/* Both arrays, of whole pages; no ferry: plain memory. */
static int map(struct ferry *ferry, struct grid *g)
{
	/* ferry_munmap wants whole pages, as ferry_mmap gives them. */
	g->bytes = (g->bytes + FERRY_PAGE_SIZE - 1) & ~((size_t)FERRY_PAGE_SIZE - 1);
	for (int i = 0; i < 2; i++) {
		double **array = i == 0 ? &g->now : &g->next;

		if (ferry != NULL)
			*array = ferry_mmap(ferry, NULL, g->bytes, PROT_READ | PROT_WRITE, 0);
		else
			*array = mmap(NULL, g->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
				      0);
		if (*array == MAP_FAILED)
			return -1;
	}
	return 0;
}

/* The same program on plain memory, for comparison. */
static int all_local(struct grid *g, long steps)
{
	if (map(NULL, g) != 0) {
		perror("04-stencil: mmap");
		return 1;
	}
	printf("all local: grid %zu^3, %ld steps, %.1f MiB in two arrays, %.3f s\n", g->n, steps,
	       2.0 * (double)g->bytes / 1048576.0, heat_run(g, steps));
	return 0;
}

static int usage(FILE *out, int code)
{
	fputs("usage: 04-stencil [--grid N] [--steps N] [--local SIZE] [--all-local] [--check]\n"
	      "  --grid N      points an edge, 3 or more (default 128: two arrays of 16 MiB)\n"
	      "  --steps N     time steps (default 10)\n"
	      "  --local SIZE  budget of local RAM, as FERRY_LOCAL\n"
	      "  --all-local   the same program on plain memory, without ferry\n"
	      "  --check       run again on plain memory and compare bit for bit\n"
	      "servers come from FERRY_SERVERS; none: an embedded one\n",
	      out);
	return code;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"grid", required_argument, NULL, 'g'},
		{"steps", required_argument, NULL, 's'},
		{"local", required_argument, NULL, 'l'},
		{"all-local", no_argument, NULL, 'a'},
		{"check", no_argument, NULL, 'c'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	long n = 128, steps = 10;
	int check = 0, plainly = 0, opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'g':
			n = strtol(optarg, NULL, 10);
			break;
		case 's':
			steps = strtol(optarg, NULL, 10);
			break;
		case 'l':
			setenv("FERRY_LOCAL", optarg, 1);
			break;
		case 'a':
			plainly = 1;
			break;
		case 'c':
			check = 1;
			break;
		case 'h':
			return usage(stdout, 0);
		default:
			return usage(stderr, 2);
		}
	}
	if (n < 3 || n > 4096 || steps < 0 || optind != argc)
		return usage(stderr, 2);

	struct grid far = {.n = (size_t)n, .bytes = (size_t)n * (size_t)n * (size_t)n * sizeof(double)};
	struct grid near = far;
	struct ferry_stats stats = {.size = sizeof stats};
	struct ferry *ferry;

	if (plainly)
		return all_local(&far, steps);
	if (ferry_open(NULL, &ferry) != 0)
		return fail("open");
	if (map(ferry, &far) != 0)
		return fail("mmap");

	double seconds = heat_run(&far, steps);

	ferry_stats(ferry, &stats);
	printf("ferry: grid %ld^3, %ld steps, %.1f MiB in two arrays, %.3f s; budget %" PRIu64
	       " MiB, at most %" PRIu64 " MiB resident, %" PRIu64
	       " faults (p50 %.1f us, p99 %.1f us), %" PRIu64 " MiB in, %" PRIu64 " MiB out\n",
	       n, steps, 2.0 * (double)far.bytes / 1048576.0, seconds, stats.budget_bytes >> 20,
	       stats.peak_resident_bytes >> 20, stats.faults, (double)stats.fault.p50_ns / 1e3,
	       (double)stats.fault.p99_ns / 1e3, stats.bytes_in >> 20, stats.bytes_out >> 20);

	int differs = 0;

	if (check) {
		near.now = malloc(near.bytes);
		near.next = malloc(near.bytes);
		if (near.now == NULL || near.next == NULL) {
			fputs("04-stencil: no memory for the plain run of --check; take a smaller --grid\n",
			      stderr);
			return 1;
		}
		double plain = heat_run(&near, steps);

		differs = memcmp(far.now, near.now, near.bytes) != 0;
		printf("plain run %.2f s; results %s\n", plain, differs ? "DIFFER" : "equal bit for bit");
		free(near.now);
		free(near.next);
	}
	if (ferry_munmap(ferry, far.now, far.bytes) != 0 || ferry_munmap(ferry, far.next, far.bytes) != 0)
		return fail("munmap");
	if (ferry_close(ferry) != 0)
		return fail("close");
	return differs;
}
