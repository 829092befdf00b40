/*
 * Breadth-first search of a Kronecker graph, as Graph500: a few vertices have
 * most of the edges, and the lists of neighbours, most of the memory, are read
 * in an order that nobody knows before. Validates the tree as Graph500 does.
 *
 * The graph is made in CSR without a list of its edges: they are numbered, and
 * made again whenever they are needed, for one block of vertices at a time, so
 * that the lists that are written meanwhile lie together.
 */
#include <errno.h>
#include <ferry.h>
#include <getopt.h>
#include <inttypes.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define NONE   UINT32_MAX
#define BLOCKS 8
#define ARRAYS 6

struct graph {
	struct ferry *ferry; /* NULL: --all-local */
	struct {
		void *p;
		size_t len; /* whole pages */
	} array[ARRAYS];
	int narrays;
	size_t bytes; /* of all arrays */
	int scale;
	uint64_t n, edges;
	/* CSR: neighbours of v are next_to[row[v]] up to row[v + 1], each edge at both its ends */
	_Atomic uint64_t *row;
	uint32_t *next_to;
	/* a search */
	_Atomic uint32_t *parent; /* the root's is itself; NONE: not reached */
	uint32_t *frontier, *found;
	uint32_t *level; /* the validation's */
};

static uint64_t mix(uint64_t v)
{
	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
	v = (v ^ v >> 27) * 0x94d049bb133111ebu;
	return v ^ v >> 31;
}

/* A permutation of [0, n): by its recipe a vertex of low number has many edges, and that should not show. */
static uint32_t scramble(const struct graph *g, uint64_t v)
{
	for (int i = 0; i < 2; i++) {
		v = v * 0x9e3779b97f4a7c15u & (g->n - 1);
		v ^= v >> (g->scale / 2);
	}
	return (uint32_t)v;
}

/* Edge e: at each of scale steps into one quarter of the adjacency matrix, with Graph500's chances. */
static void edge(const struct graph *g, uint64_t e, uint32_t *out_u, uint32_t *out_v)
{
	uint64_t u = 0, v = 0, random = 0;

	for (int i = 0; i < g->scale; i++) {
		if (i % 4 == 0)
			random = mix(e * 16 + (uint64_t)(i / 4) + 1);
		unsigned draw = (unsigned)(random & 0xffff); /* of 65536: .57, .19, .19, .05 */

		random >>= 16;
		u = u << 1 | (draw >= 49807);
		v = v << 1 | (draw >= 62259 || (draw >= 37356 && draw < 49807));
	}
	*out_u = scramble(g, u);
	*out_v = scramble(g, v);
}

static void put(const struct graph *g, uint32_t at, uint32_t neighbour, uint32_t first, uint32_t end)
{
	if (at >= first && at < end)
		g->next_to[atomic_fetch_add_explicit(&g->row[at], 1, memory_order_relaxed)] = neighbour;
}

static void make(const struct graph *g)
{
#pragma omp parallel for schedule(static)
	for (uint64_t e = 0; e < g->edges; e++) {
		uint32_t u, v;

		edge(g, e, &u, &v);
		if (u == v)
			continue;
		atomic_fetch_add_explicit(&g->row[u], 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&g->row[v], 1, memory_order_relaxed);
	}
	/* From how many there are to where each list begins. */
	uint64_t sum = 0;

	for (uint64_t v = 0; v <= g->n; v++) {
		uint64_t degree = g->row[v];

		g->row[v] = sum;
		sum += degree;
	}
	/* Each list is written from its begin; row[v] is then its end, which is where the next one begins. */
	uint64_t share = sum / BLOCKS + 1;

	for (uint64_t first = 0, end; first < g->n; first = end) {
		uint64_t begin = g->row[first];

		for (end = first + 1; end < g->n && g->row[end] - begin < share;)
			end++;
#pragma omp parallel for schedule(static)
		for (uint64_t e = 0; e < g->edges; e++) {
			uint32_t u, v;

			edge(g, e, &u, &v);
			if (u == v)
				continue;
			put(g, u, v, (uint32_t)first, (uint32_t)end);
			put(g, v, u, (uint32_t)first, (uint32_t)end);
		}
	}
	for (uint64_t v = g->n; v > 0; v--)
		g->row[v] = g->row[v - 1];
	g->row[0] = 0;
}

/* Level by level, from the top down. */
static void search(struct graph *g, uint32_t root)
{
	uint64_t n = 1;

#pragma omp parallel for schedule(static)
	for (uint64_t v = 0; v < g->n; v++)
		g->parent[v] = NONE;
	g->parent[root] = root;
	g->frontier[0] = root;
	while (n > 0) {
		_Atomic uint64_t nfound = 0;

#pragma omp parallel for schedule(dynamic, 64)
		for (uint64_t i = 0; i < n; i++) {
			uint32_t u = g->frontier[i];

			for (uint64_t k = g->row[u]; k < g->row[u + 1]; k++) {
				uint32_t v = g->next_to[k], none = NONE;

				if (g->parent[v] == NONE &&
				    atomic_compare_exchange_strong(&g->parent[v], &none, u))
					g->found[atomic_fetch_add(&nfound, 1)] = v;
			}
		}
		uint32_t *swap = g->frontier;

		g->frontier = g->found;
		g->found = swap;
		n = nfound;
	}
}

/* How far from the root each vertex is by its parents. False: one of them does not lead there. */
static bool levels(const struct graph *g, uint32_t root)
{
	uint64_t rest = 0, placed = 1;

#pragma omp parallel for schedule(static) reduction(+ : rest)
	for (uint64_t v = 0; v < g->n; v++) {
		g->level[v] = NONE;
		rest += g->parent[v] != NONE && v != root;
	}
	g->level[root] = 0;
	for (uint32_t depth = 0; rest > 0 && placed > 0; depth++) {
		placed = 0;
#pragma omp parallel for schedule(static) reduction(+ : placed)
		for (uint64_t v = 0; v < g->n; v++) {
			uint32_t up = g->parent[v];

			/* Placed one level a sweep: those of this sweep are at depth + 1. */
			if (up != NONE && g->level[v] == NONE &&
			    __atomic_load_n(&g->level[up], __ATOMIC_RELAXED) == depth) {
				__atomic_store_n(&g->level[v], depth + 1, __ATOMIC_RELAXED);
				placed++;
			}
		}
		rest -= placed;
	}
	return rest == 0 && g->parent[root] == root;
}

/*
 * The parents are a tree; each parent is a neighbour, one level up; both ends of
 * every edge were reached, or neither, and are a level apart at most. Counts the
 * edges that the search went over.
 */
static bool validate(const struct graph *g, uint32_t root, uint64_t *out_edges)
{
	uint64_t bad = 0, ends = 0;

	if (!levels(g, root))
		return false;
#pragma omp parallel for schedule(static) reduction(+ : bad, ends)
	for (uint64_t v = 0; v < g->n; v++) {
		uint32_t up = g->parent[v], level = g->level[v];
		bool is_neighbour = up == NONE || v == root;

		for (uint64_t k = g->row[v]; k < g->row[v + 1]; k++) {
			uint32_t w = g->next_to[k], other = g->level[w];

			is_neighbour |= w == up;
			bad += level == NONE ? other != NONE
					     : other == NONE || other + 1 < level || other > level + 1;
		}
		bad += !is_neighbour;
		ends += level == NONE ? 0 : g->row[v + 1] - g->row[v];
	}
	*out_edges = ends / 2;
	return bad == 0;
}

/* What the recipe says of degrees, against the lists: each edge was put at both its ends. */
static bool whole(const struct graph *g)
{
	uint64_t loops = 0, sum = 0, stored = 0;

#pragma omp parallel for schedule(static) reduction(+ : loops, sum)
	for (uint64_t e = 0; e < g->edges; e++) {
		uint32_t u, v;

		edge(g, e, &u, &v);
		loops += u == v;
		sum += u == v ? 0 : mix(u) * v + mix(v) * u;
	}
#pragma omp parallel for schedule(static) reduction(+ : stored)
	for (uint64_t v = 0; v < g->n; v++)
		for (uint64_t k = g->row[v]; k < g->row[v + 1]; k++)
			stored += mix(v) * g->next_to[k];
	return g->row[g->n] == 2 * (g->edges - loops) && sum == stored;
}

/* ---- the program ---- */

/* Whole pages of zeros. */
static void *map(struct graph *g, size_t len)
{
	void *p;

	len = (len + FERRY_PAGE_SIZE - 1) & ~((size_t)FERRY_PAGE_SIZE - 1);
	if (g->ferry != NULL)
		p = ferry_mmap(g->ferry, NULL, len, PROT_READ | PROT_WRITE, 0);
	else
		p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		fprintf(stderr, "08-bfs: no memory for %zu MiB: %s\n", len >> 20,
			g->ferry != NULL ? ferry_last_error() : strerror(errno));
		exit(1);
	}
	g->array[g->narrays].p = p;
	g->array[g->narrays++].len = len;
	g->bytes += len;
	return p;
}

static int fail(const char *what)
{
	fprintf(stderr, "08-bfs: %s: %s\n", what, ferry_last_error());
	return 1;
}

static int usage(FILE *out, int code)
{
	fputs("usage: 08-bfs [--scale N] [--edges N] [--searches N] [--local SIZE] [--all-local]\n"
	      "  --scale N      2^N vertices, 4 to 30 (default 15)\n"
	      "  --edges N      edges for each vertex, 1 to 64 (default 16: 5 MiB in all)\n"
	      "  --searches N   from different roots (default 4)\n"
	      "  --local SIZE   budget of local RAM, as FERRY_LOCAL\n"
	      "  --all-local    the same program on plain memory, without ferry\n"
	      "servers come from FERRY_SERVERS; none: an embedded one\n",
	      out);
	return code;
}

static int run(struct graph *g, long searches)
{
	struct ferry_stats stats = {.size = sizeof stats};
	double start = omp_get_wtime(), searched = 0.0;
	uint64_t edges = 0;
	bool good;

	make(g);
	double made = omp_get_wtime() - start;

	good = whole(g);
	for (long s = 0; s < searches; s++) {
		uint32_t root = (uint32_t)(mix((uint64_t)s) & (g->n - 1));
		uint64_t n = 0;

		while (g->row[root] == g->row[root + 1]) /* alone */
			root = (root + 1) & (uint32_t)(g->n - 1);
		start = omp_get_wtime();
		search(g, root);
		searched += omp_get_wtime() - start;
		good &= validate(g, root, &n);
		edges += n;
	}
	printf("%s: 2^%d vertices, %" PRIu64
	       " edges, %.1f MiB, %.3f s; %ld searches, %.1f million edges a second; "
	       "made in %.3f s; %s\n",
	       g->ferry != NULL ? "ferry" : "all local", g->scale, g->edges, (double)g->bytes / 1048576.0,
	       searched, searches, (double)edges / searched / 1e6, made,
	       good ? "the trees are right" : "the trees are WRONG");
	if (g->ferry != NULL) {
		ferry_stats(g->ferry, &stats);
		printf("budget %" PRIu64 " MiB, at most %" PRIu64 " MiB resident, %" PRIu64
		       " faults (p50 %.1f us, p99 %.1f us), %" PRIu64 " MiB in, %" PRIu64 " MiB out\n",
		       stats.budget_bytes >> 20, stats.peak_resident_bytes >> 20, stats.faults,
		       (double)stats.fault.p50_ns / 1e3, (double)stats.fault.p99_ns / 1e3,
		       stats.bytes_in >> 20, stats.bytes_out >> 20);
	}
	return !good;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"scale", required_argument, NULL, 's'},
		{"edges", required_argument, NULL, 'e'},
		{"searches", required_argument, NULL, 'n'},
		{"local", required_argument, NULL, 'l'},
		{"all-local", no_argument, NULL, 'a'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	struct graph g = {0};
	long scale = 15, edges = 16, searches = 4;
	bool all_local = false;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 's':
			scale = strtol(optarg, NULL, 10);
			break;
		case 'e':
			edges = strtol(optarg, NULL, 10);
			break;
		case 'n':
			searches = strtol(optarg, NULL, 10);
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
	if (scale < 4 || scale > 30 || edges < 1 || edges > 64 || searches < 1 || optind != argc)
		return usage(stderr, 2);
	if (!all_local && ferry_open(NULL, &g.ferry) != 0)
		return fail("open");
	g.scale = (int)scale;
	g.n = (uint64_t)1 << scale;
	g.edges = g.n * (uint64_t)edges;
	g.row = map(&g, (g.n + 1) * sizeof *g.row);
	g.next_to = map(&g, 2 * g.edges * sizeof *g.next_to);
	g.parent = map(&g, g.n * sizeof *g.parent);
	g.frontier = map(&g, g.n * sizeof *g.frontier);
	g.found = map(&g, g.n * sizeof *g.found);
	g.level = map(&g, g.n * sizeof *g.level);

	int status = run(&g, searches);

	if (all_local)
		return status;
	/* Unmapped first: closing would bring it all home. */
	for (int i = 0; i < g.narrays; i++) {
		if (ferry_munmap(g.ferry, g.array[i].p, g.array[i].len) != 0)
			return fail("munmap");
	}
	if (ferry_close(g.ferry) != 0)
		return fail("close");
	return status;
}
