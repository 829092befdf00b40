/* See client.h. Two threads: the one that checks, and `figures`, which tells how the copies are. */
#include "client.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "chaos.h"
#include "clock.h"
#include "ferry.h"

#define WORDS	  (FERRY_PAGE_SIZE / sizeof(uint64_t))
#define RUN_PAGES 16u /* of an access that goes on */

struct client {
	const struct ferryt_client_attr *attr;
	struct ferry *ferry;
	uint64_t *area;
	uint32_t *version; /* of each page */
	size_t nr_pages;
	unsigned long long random;
};

/* For the SIGBUS handler. */
static struct ferry *the_ferry;

static uint64_t word_of(const struct client *c, size_t page, size_t k)
{
	uint64_t x = (c->attr->seed << 40) + ((uint64_t)page << 20) + c->version[page];

	return (x + k) * 0x9e3779b97f4a7c15ull;
}

static uint64_t *page_of(const struct client *c, size_t page)
{
	return c->area + page * WORDS;
}

static void fill(struct client *c, size_t page)
{
	for (size_t k = 0; k < WORDS; k++)
		page_of(c, page)[k] = word_of(c, page, k);
}

static bool is_right(const struct client *c, size_t page)
{
	for (size_t k = 0; k < WORDS; k++) {
		if (page_of(c, page)[k] == word_of(c, page, k))
			continue;
		fprintf(stderr, "chaos: client %llu: page %zu, word %zu: %#llx, not %#llx\n", c->attr->seed,
			page, k, (unsigned long long)page_of(c, page)[k],
			(unsigned long long)word_of(c, page, k));
		return false;
	}
	return true;
}

/* Its first touch is what the pause is taken of. */
static bool check(struct client *c, size_t page, bool rewrites)
{
	struct ferryt_board *board = c->attr->board;
	uint64_t began = ferryi_now_ns();

	atomic_store(&board->began_ns, began);
	(void)*(volatile uint64_t *)page_of(c, page);

	uint64_t took = ferryi_now_ns() - began, worst = atomic_load(&board->worst_ns);

	while (took > worst && !atomic_compare_exchange_weak(&board->worst_ns, &worst, took))
		;
	atomic_store(&board->began_ns, 0);
	if (!is_right(c, page))
		return false;
	if (rewrites) {
		c->version[page]++;
		fill(c, page);
	}
	atomic_fetch_add(&board->nr_checked, 1);
	return true;
}

static bool check_some(struct client *c)
{
	size_t page = (size_t)(ferryt_random(&c->random) % c->nr_pages);
	unsigned nr = ferryt_random(&c->random) % 4 ? 1 : RUN_PAGES;

	for (unsigned i = 0; i < nr; i++) {
		if (!check(c, (page + i) % c->nr_pages, ferryt_random(&c->random) % 2))
			return false;
	}
	return true;
}

static void *figures(void *arg)
{
	struct client *c = arg;
	struct ferryt_board *board = c->attr->board;

	while (!atomic_load(&board->stop)) {
		struct ferry_stats stats = {.size = sizeof(stats)};

		ferry_stats(c->ferry, &stats);
		atomic_store(&board->copies_missing, stats.replicas_missing);
		atomic_store(&board->copies_lost, stats.copies_lost);
		atomic_store(&board->copies_rebuilt, stats.copies_rebuilt);
		poll(NULL, 0, 10);
	}
	return NULL;
}

/* A page was lost: says why, and ends. */
static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	struct ferry_fault_info why = {.size = sizeof(why)};
	static const char line[] = "chaos: a page was lost: ";

	(void)sig;
	(void)context;
	ferry_fault_query(the_ferry, (uintptr_t)info->si_addr, &why);
	const char *text = ferry_fault_reason_text(why.reason);

	if (write(STDERR_FILENO, line, sizeof(line) - 1) < 0 ||
	    write(STDERR_FILENO, text, strlen(text)) < 0 || write(STDERR_FILENO, "\n", 1) < 0)
		_exit(3);
	_exit(3);
}

static int failed(const char *what)
{
	fprintf(stderr, "chaos: %s: %s\n", what, ferry_last_error());
	return 2;
}

static int run(struct client *c)
{
	struct ferryt_board *board = c->attr->board;
	pthread_t thread;
	bool ok = true;

	for (size_t page = 0; page < c->nr_pages; page++)
		fill(c, page);
	MUST(!pthread_create(&thread, NULL, figures, c));
	atomic_store(&board->is_ready, true);
	while (ok && !atomic_load(&board->stop))
		ok = check_some(c);
	for (size_t page = 0; ok && page < c->nr_pages; page++)
		ok = check(c, page, false);
	atomic_store(&board->stop, true);
	pthread_join(thread, NULL);
	return ok ? 0 : 1;
}

int ferryt_client_main(const struct ferryt_client_attr *attr)
{
	struct client c = {
		.attr = attr, .nr_pages = attr->size_bytes / FERRY_PAGE_SIZE, .random = attr->seed};
	struct ferry_config config = {.size = sizeof(config),
				      .servers = attr->servers,
				      .token_file = attr->token_file,
				      .local_bytes = attr->budget_bytes,
				      .replicas = attr->replicas};
	struct sigaction act = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

	if (ferry_open(&config, &c.ferry))
		return failed("ferry_open");
	the_ferry = c.ferry;
	sigaction(SIGBUS, &act, NULL);
	c.version = calloc(c.nr_pages, sizeof(*c.version));
	c.area = ferry_mmap(c.ferry, NULL, attr->size_bytes, PROT_READ | PROT_WRITE, 0);
	MUST(c.version);
	if (c.area == MAP_FAILED)
		return failed("ferry_mmap");
	int status = run(&c);

	if (!status && (ferry_munmap(c.ferry, c.area, attr->size_bytes) || ferry_close(c.ferry)))
		status = failed("ferry_munmap, ferry_close");
	free(c.version);
	return status;
}
