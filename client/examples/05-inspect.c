/*
 * Looking into a running job from another process, or another node: the job,
 * a heat stencil as 04-stencil, exports a mirror of itself; the watcher opens
 * it by name and reads the job's array by the job's own addresses, wherever
 * each page is. Nothing is copied beforehand, and the job does nothing for it.
 */
#include <ferry.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MAGIC 0x7461656820797266u /* "fry heat" */

/* Where a watcher finds the rest: one page of the job's, whose address the job prints. */
struct board {
	uint64_t magic;
	uint64_t n;	   /* points an edge */
	uint64_t array[2]; /* addresses; [step % 2] is this step's, and not written while it lasts */
	_Atomic uint64_t step;
	_Atomic uint64_t stop; /* a watcher may write 1 */
};

struct grid {
	size_t n, bytes;
	double *now, *next;
};

static int fail(const char *what)
{
	fprintf(stderr, "05-inspect: %s: %s\n", what, ferry_last_error());
	return 1;
}

/* ---- the computation ---- */

static void heat_init(const struct grid *g)
{
	for (size_t i = 0; i < g->n * g->n * g->n; i++)
		g->now[i] = g->next[i] = i < g->n * g->n ? 100.0 : (double)(i * 7 % 17);
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
				size_t i = (z * n + y) * n + x;

				b[i] = a[i] + 0.1 * (a[i - 1] + a[i + 1] + a[i - n] + a[i + n] +
						     a[i - n * n] + a[i + n * n] - 6.0 * a[i]);
			}
	g->next = g->now;
	g->now = b;
}

static void pause_ms(long ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

/* ---- the job ---- */

/* A device's view of the process is told of changes; this one keeps no copy of anything, so there is nothing
 * to do. */
static int invalidate(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	(void)mirror;
	(void)update;
	return 0;
}

static int job(const char *name, long n, long steps, long pace)
{
	static const struct ferry_mirror_ops ops = {.invalidate = invalidate};
	struct ferry_mirror mirror = {.ops = &ops};
	struct grid g = {.n = (size_t)n, .bytes = (size_t)n * (size_t)n * (size_t)n * sizeof(double)};
	struct board *board;
	struct ferry *ferry;

	g.bytes = (g.bytes + FERRY_PAGE_SIZE - 1) & ~((size_t)FERRY_PAGE_SIZE - 1);
	if (ferry_open(NULL, &ferry) != 0)
		return fail("open");
	board = ferry_mmap(ferry, NULL, FERRY_PAGE_SIZE, PROT_READ | PROT_WRITE, 0);
	g.now = ferry_mmap(ferry, NULL, g.bytes, PROT_READ | PROT_WRITE, 0);
	g.next = ferry_mmap(ferry, NULL, g.bytes, PROT_READ | PROT_WRITE, 0);
	if (board == MAP_FAILED || g.now == MAP_FAILED || g.next == MAP_FAILED)
		return fail("mmap");
	heat_init(&g);
	board->n = g.n;
	board->array[0] = (uint64_t)(uintptr_t)g.now;
	board->array[1] = (uint64_t)(uintptr_t)g.next;
	board->magic = MAGIC;

	/* Writing is for `stop`. It lets whoever has the server's token write all of this process's memory.
	 */
	if (ferry_mirror_register(&mirror, ferry) != 0)
		return fail("mirror");
	if (ferry_mirror_export(&mirror, name, FERRY_EXPORT_READ | FERRY_EXPORT_WRITE) != 0)
		return fail("export");
	printf("watch it with: 05-inspect watch %s %p\n", name, (void *)board);
	fflush(stdout);
	for (long s = 0; s < steps && !board->stop; s++) {
		heat_step(&g);
		board->step++;
		pause_ms(pace);
	}
	printf("%s after %" PRIu64 " steps\n", board->stop ? "stopped" : "done", board->step);
	if (ferry_mirror_unregister(&mirror) != 0) /* which withdraws it too */
		return fail("unregister");
	if (ferry_munmap(ferry, board, FERRY_PAGE_SIZE) != 0 || ferry_munmap(ferry, g.now, g.bytes) != 0 ||
	    ferry_munmap(ferry, g.next, g.bytes) != 0)
		return fail("munmap");
	return ferry_close(ferry) != 0 ? fail("close") : 0;
}

/* ---- the watcher ---- */

#define TRIES 1000

static int read_step(struct ferry_mirror_view *view, uintptr_t at, uint64_t *step)
{
	int rc = ferry_view_read(view, at + offsetof(struct board, step), step, sizeof *step, NULL);

	return rc != 0 ? fail("read") : 0;
}

/*
 * The middle plane of another step than *step, whole. Each page is old or new, but the job goes on between
 * one page and the next: what is read belongs together only if the step is the same before and after, as in
 * read_begin and read_retry of a mirror.
 */
static int read_plane(struct ferry_mirror_view *view, uintptr_t at, const struct board *board, double *plane,
		      uint64_t *step, struct ferry_mirror_stats *stats)
{
	size_t plane_bytes = board->n * board->n * sizeof *plane;
	uint64_t before, after;

	for (int try = 0; try < TRIES; try++) {
		for (;;) {
			if (read_step(view, at, &before) != 0)
				return 1;
			if (before != *step)
				break;
			pause_ms(1);
		}
		if (ferry_view_read(view, board->array[before % 2] + board->n / 2 * plane_bytes, plane,
				    plane_bytes, stats) != 0)
			return fail("read");
		if (read_step(view, at, &after) != 0)
			return 1;
		*step = before;
		if (after == before)
			return 0;
	}
	fprintf(stderr,
		"05-inspect: the job is too fast: no step lasted as long as a read of it; give it --pace\n");
	return 1;
}

/* The same computation here, up to the step that was seen. */
static int differs(struct grid *own, uint64_t *own_step, uint64_t step, const double *plane)
{
	size_t points = own->n * own->n;

	for (; *own_step < step; ++*own_step)
		heat_step(own);
	return memcmp(plane, own->now + own->n / 2 * points, points * sizeof *plane) != 0;
}

static int grid_alloc(struct grid *g, uint64_t n)
{
	g->n = n;
	g->bytes = n * n * n * sizeof(double);
	g->now = malloc(g->bytes);
	g->next = malloc(g->bytes);
	if (!g->now || !g->next)
		return -1;
	heat_init(g);
	return 0;
}

static int watch_view(struct ferry_mirror_view *view, uintptr_t at, long looks, int check)
{
	struct ferry_mirror_stats stats = {.size = sizeof stats};
	struct grid own = {0};
	uint64_t own_step = 0, step = UINT64_MAX;
	struct board board;
	double *plane;
	int rc = 0;

	if (ferry_view_read(view, at, &board, sizeof board, NULL) != 0)
		return fail("read");
	if (board.magic != MAGIC || board.n < 3 || board.n > 4096) {
		fprintf(stderr,
			"05-inspect: no board of a job at %#" PRIxPTR
			": take the address that it has printed\n",
			at);
		return 1;
	}
	plane = malloc(board.n * board.n * sizeof *plane);
	if (!plane || (check && grid_alloc(&own, board.n) != 0)) {
		fputs("05-inspect: no memory for the plane\n", stderr);
		rc = 1;
	}
	for (long i = 0; i < looks && rc == 0; i++) {
		double sum = 0, most = 0;

		rc = read_plane(view, at, &board, plane, &step, &stats);
		for (size_t k = 0; rc == 0 && k < board.n * board.n; k++) {
			sum += plane[k];
			most = plane[k] > most ? plane[k] : most;
		}
		if (rc == 0)
			printf("step %" PRIu64 ": middle plane: mean %.4f, most %.4f\n", step,
			       sum / (double)(board.n * board.n), most);
		if (rc == 0 && check && differs(&own, &own_step, step, plane)) {
			printf("step %" PRIu64 " DIFFERS from the same computation here\n", step);
			rc = 1;
		}
	}
	printf("pages read: %" PRIu64 " in the job's RAM, %" PRIu64 " in the pool, of which %" PRIu64
	       " past the job\n",
	       stats.pages_ram, stats.pages_pool, stats.pages_rma);
	free(plane);
	free(own.now);
	free(own.next);
	return rc;
}

static int watch(const char *name, uintptr_t at, long looks, int check, int stop)
{
	const uint64_t one = 1;
	struct ferry_mirror_view *view;
	struct ferry *ferry;
	int rc;

	if (ferry_open(NULL, &ferry) != 0)
		return fail("open");
	if (ferry_mirror_open(ferry, name, &view) != 0)
		return fail(name);
	rc = watch_view(view, at, looks, check);
	if (rc == 0 && stop &&
	    ferry_view_write(view, at + offsetof(struct board, stop), &one, sizeof one, NULL) != 0)
		rc = fail("stop");
	if (ferry_view_close(view) != 0 || ferry_close(ferry) != 0)
		return fail("close");
	return rc;
}

static int usage(FILE *out, int code)
{
	fputs("usage: 05-inspect job NAME [--grid N] [--steps N] [--pace MS] [--local SIZE]\n"
	      "       05-inspect watch NAME ADDRESS [--looks N] [--check] [--stop]\n"
	      "  --grid N      points an edge, 3 to 4096 (default 128: two arrays of 16 MiB)\n"
	      "  --steps N     time steps (default 1000)\n"
	      "  --pace MS     pause after each step (default 0)\n"
	      "  --local SIZE  budget of local RAM, as FERRY_LOCAL\n"
	      "  --looks N     of how many steps to read the middle plane (default 1)\n"
	      "  --check       compute it here too, and compare bit for bit\n"
	      "  --stop        have the job stop, by writing to its memory\n"
	      "both need one server that they share: FERRY_SERVERS\n",
	      out);
	return code;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"grid", required_argument, NULL, 'g'},
		{"steps", required_argument, NULL, 's'},
		{"pace", required_argument, NULL, 'p'},
		{"local", required_argument, NULL, 'l'},
		{"looks", required_argument, NULL, 'n'},
		{"check", no_argument, NULL, 'c'},
		{"stop", no_argument, NULL, 'x'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	long n = 128, steps = 1000, pace = 0, looks = 1;
	int check = 0, stop = 0, opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'g':
			n = strtol(optarg, NULL, 10);
			break;
		case 's':
			steps = strtol(optarg, NULL, 10);
			break;
		case 'p':
			pace = strtol(optarg, NULL, 10);
			break;
		case 'l':
			setenv("FERRY_LOCAL", optarg, 1);
			break;
		case 'n':
			looks = strtol(optarg, NULL, 10);
			break;
		case 'c':
			check = 1;
			break;
		case 'x':
			stop = 1;
			break;
		case 'h':
			return usage(stdout, 0);
		default:
			return usage(stderr, 2);
		}
	}
	if (n < 3 || n > 4096 || steps < 0 || pace < 0 || looks < 0)
		return usage(stderr, 2);
	if (argc - optind == 2 && strcmp(argv[optind], "job") == 0)
		return job(argv[optind + 1], n, steps, pace);
	if (argc - optind == 3 && strcmp(argv[optind], "watch") == 0)
		return watch(argv[optind + 1], (uintptr_t)strtoull(argv[optind + 2], NULL, 0), looks, check,
			     stop);
	return usage(stderr, 2);
}
