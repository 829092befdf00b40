/*
 * A client program for the two-host scenarios: memory larger than its budget,
 * used at random, every page's content known at any time. With --lost it says
 * "ready", waits for a line on stdin (meanwhile the script takes the server
 * away), then touches every page: each is right, or raises SIGBUS with a reason
 * within the deadline; a page of zeros or of older content is a failure.
 * One thread.
 */
#include <errno.h>
#include <ferry.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define WORDS (FERRY_PAGE_SIZE / sizeof(uint64_t))

static struct ferry *ferry;
static uint64_t *memory;
static uint32_t *version; /* plain memory: what each page must hold */
static size_t npages;

static sigjmp_buf on_sigbus;
static volatile sig_atomic_t in_touch;
static struct ferry_fault_info lost_info; /* of the last SIGBUS */

static void fail(const char *what)
{
	printf("FAILED: %s: %s\n", what, ferry_last_error());
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static uint64_t word(size_t page, size_t i)
{
	return (page + 1) * 0x9e3779b97f4a7c15u + version[page] * 0xbf58476d1ce4e5b9u + i;
}

static void page_write(size_t page)
{
	version[page]++;
	for (size_t i = 0; i < WORDS; i++)
		memory[page * WORDS + i] = word(page, i);
}

static int page_is_right(size_t page)
{
	for (size_t i = 0; i < WORDS; i++) {
		if (memory[page * WORDS + i] != word(page, i)) {
			printf("page %zu word %zu: 0x%" PRIx64 ", not 0x%" PRIx64 "\n", page, i,
			       memory[page * WORDS + i], word(page, i));
			return 0;
		}
	}
	return 1;
}

static uint64_t rng = 88172645463325252u;

static uint64_t next_random(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

static void use_at_random(size_t ops)
{
	for (size_t page = 0; page < npages; page++)
		page_write(page);
	for (size_t n = 0; n < ops; n++) {
		size_t page = next_random() % npages;

		if (!page_is_right(page))
			fail("content");
		if (next_random() % 2)
			page_write(page);
	}
}

static void report(void)
{
	struct ferry_stats s = { .size = sizeof s };

	if (ferry_stats(ferry, &s) != 0)
		fail("ferry_stats");
	printf("%zu pages verified; faults %" PRIu64 " (%" PRIu64 " major), p50 %.0f us, p99 %.0f us; %" PRIu64
	       " MiB in, %" PRIu64 " MiB out; peak %.1f of %.1f MiB\n",
	       npages, s.faults, s.faults_major, (double)s.fault.p50_ns / 1e3, (double)s.fault.p99_ns / 1e3,
	       s.bytes_in >> 20, s.bytes_out >> 20, (double)s.peak_resident_bytes / 1048576.0,
	       (double)s.budget_bytes / 1048576.0);
	if (s.peak_resident_bytes > s.budget_bytes)
		fail("peak resident is over the budget");
	if (s.bytes_in == 0 || s.bytes_out == 0)
		fail("nothing went to the server and back");
}

static void sigbus(int sig, siginfo_t *info, void *context)
{
	(void)context;
	if (!in_touch) {
		signal(sig, SIG_DFL);
		raise(sig);
		return;
	}
	in_touch = 0;
	lost_info = (struct ferry_fault_info){ .size = sizeof lost_info };
	ferry_fault_query(NULL, (uintptr_t)info->si_addr, &lost_info);
	siglongjmp(on_sigbus, 1);
}

static void touch_all(double deadline)
{
	struct sigaction sa = { .sa_sigaction = sigbus, .sa_flags = SA_SIGINFO };
	volatile size_t right = 0, lost = 0, longest_page = 0;
	volatile double longest = 0;

	sigaction(SIGBUS, &sa, NULL);
	for (volatile size_t page = 0; page < npages; page++) {
		volatile double begin = now();

		if (sigsetjmp(on_sigbus, 1) == 0) {
			in_touch = 1;
			if (!page_is_right(page))
				fail("content after the server went");
			in_touch = 0;
			right++;
		} else {
			if (lost++ == 0)
				printf("first lost page: %s, server %s, error %d\n",
				       ferry_fault_reason_text(lost_info.reason), lost_info.server, lost_info.error);
			/* REVOKED: of a wire cut one way, the server's last word may still come through. */
			if (lost_info.reason != FERRY_FAULT_SERVER_LOST && lost_info.reason != FERRY_FAULT_TIMEOUT &&
			    lost_info.reason != FERRY_FAULT_IO && lost_info.reason != FERRY_FAULT_REVOKED)
				fail("the reason of a lost page");
		}
		if (now() - begin > longest) {
			longest = now() - begin;
			longest_page = page;
		}
	}
	printf("%zu pages right, %zu lost, none wrong; longest touch %.2f s (page %zu)\n", right, lost, longest,
	       longest_page);
	if (lost == 0)
		fail("no page was lost: the server was not away");
	if (longest > deadline)
		fail("a touch took longer than the deadline");
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fputs("usage: far MIB OPERATIONS [--lost DEADLINE_S]\n", stderr);
		return 2;
	}
	size_t len = (size_t)strtoul(argv[1], NULL, 10) << 20;
	char line[16];

	setvbuf(stdout, NULL, _IOLBF, 0);
	npages = len / FERRY_PAGE_SIZE;
	version = calloc(npages, sizeof *version);
	if (version == NULL || npages == 0)
		return 2;
	if (ferry_open(NULL, &ferry) != 0)
		fail("ferry_open");
	memory = ferry_mmap(ferry, NULL, len, PROT_READ | PROT_WRITE, 0);
	if (memory == MAP_FAILED)
		fail("ferry_mmap");
	use_at_random(strtoul(argv[2], NULL, 10));
	report();
	if (argc > 4) {
		puts("ready");
		if (fgets(line, sizeof line, stdin) == NULL)
			return 2;
		touch_all(strtod(argv[4], NULL));
		puts("ok");
		_exit(0); /* lost pages cannot come home: ferry_close would say so */
	}
	if (ferry_munmap(ferry, memory, len) != 0)
		fail("ferry_munmap");
	if (ferry_close(ferry) != 0)
		fail("ferry_close");
	puts("ok");
	return 0;
}
