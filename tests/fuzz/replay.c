/*
 * Stands in for libFuzzer where the compiler has none: runs a target on every
 * file of its corpus, then on mutations of them from a seeded generator, so
 * that each run is the same. usage: TARGET CORPUS [RUNS [SEED]]
 * An input that breaks the target is left in ./crash-TARGET. One thread.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "replay.h"

#define INPUT_MAX  65536u
#define CORPUS_MAX 1024u
#define RUNS	   300000u
#define TIME_MS	   10000u /* no new input after that, on a slow machine */

struct input {
	uint8_t *data;
	size_t size;
};

static struct input corpus[CORPUS_MAX];
static size_t ncorpus;
static uint64_t state;

/* What the target runs on now; the signal handler writes it out. */
static uint8_t current[INPUT_MAX];
static volatile size_t current_size;
static char crash_name[128];

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static uint64_t next_random(void)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 0x2545F4914F6CDD1DULL;
}

/* Below limit, which is not 0. */
static size_t below(size_t limit)
{
	return (size_t)(next_random() >> 16) % limit;
}

static void keep_input(void)
{
	int fd = open(crash_name, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, current, current_size) != (ssize_t)current_size)
		return;
	close(fd);
}

static void on_signal(int number)
{
	static const char text[] = "the input is in ./crash-*: give its directory as the corpus to repeat\n";

	keep_input();
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
		/* Nothing more can be said. */
	}
	signal(number, SIG_DFL);
	raise(number);
}

static bool load(const char *dir, const char *name)
{
	char path[4096];
	struct input *in = &corpus[ncorpus];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	in->data = malloc(INPUT_MAX);
	n = in->data ? read(fd, in->data, INPUT_MAX) : -1;
	close(fd);
	if (n < 0) {
		free(in->data);
		return false;
	}
	in->size = (size_t)n;
	ncorpus++;
	return true;
}

static int compare_names(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

/* In the order of names: the file system's own differs between machines. */
static bool load_all(const char *dir)
{
	struct dirent **names;
	int n = scandir(dir, &names, is_visible, compare_names);
	bool ok = true;

	if (n < 0) {
		fprintf(stderr, "corpus '%s': %s\n", dir, strerror(errno));
		return false;
	}
	for (int i = 0; i < n; i++) {
		if (ok && ncorpus < CORPUS_MAX && !load(dir, names[i]->d_name)) {
			fprintf(stderr, "corpus file '%s/%s' cannot be read\n", dir, names[i]->d_name);
			ok = false;
		}
		free(names[i]);
	}
	free(names);
	return ok;
}

static void run_one(void)
{
	/* A copy of exactly that size: a read past the end is a sanitizer's to see. */
	uint8_t *exact = malloc(current_size ? current_size : 1);

	FERRYT_MUST(exact);
	memcpy(exact, current, current_size);
	LLVMFuzzerTestOneInput(exact, current_size);
	free(exact);
}

static void insert(size_t at, const uint8_t *bytes, size_t n)
{
	if (n > INPUT_MAX - current_size)
		n = INPUT_MAX - current_size;
	memmove(current + at + n, current + at, current_size - at);
	memcpy(current + at, bytes, n);
	current_size += n;
}

static void mutate_once(void)
{
	static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff, 0xfe, ' ', '\n', ',', '=', ':', '0'};
	const struct input *other = &corpus[ncorpus ? below(ncorpus) : 0];
	uint8_t bytes[16];
	size_t at = current_size ? below(current_size) : 0;
	size_t n;

	switch (below(current_size ? 8 : 1)) {
	case 0: /* noise comes in */
		n = 1 + below(sizeof(bytes));
		for (size_t i = 0; i < n; i++)
			bytes[i] = (uint8_t)next_random();
		insert(at, bytes, n);
		break;
	case 1:
		current[at] ^= (uint8_t)(1u << below(8));
		break;
	case 2:
		current[at] = (uint8_t)next_random();
		break;
	case 3:
		current[at] = edges[below(sizeof(edges))];
		break;
	case 4: /* a piece goes */
		n = 1 + below(current_size - at);
		memmove(current + at, current + at + n, current_size - at - n);
		current_size -= n;
		break;
	case 5: /* cut short */
		current_size = at;
		break;
	case 6: /* a piece twice */
		n = 1 + below(current_size - at < sizeof(bytes) ? current_size - at : sizeof(bytes));
		memcpy(bytes, current + at, n);
		insert(at, bytes, n);
		break;
	default: /* a piece of another input */
		if (other->size) {
			size_t from = below(other->size);

			insert(at, other->data + from, 1 + below(other->size - from));
		}
		break;
	}
}

static void mutate(void)
{
	current_size = 0;
	if (ncorpus && below(50)) {
		const struct input *in = &corpus[below(ncorpus)];

		memcpy(current, in->data, in->size);
		current_size = in->size;
	}
	for (size_t n = 1 + below(6); n; n--)
		mutate_once();
}

int main(int argc, char **argv)
{
	static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
	uint64_t runs = argc > 2 ? strtoull(argv[2], NULL, 10) : RUNS;
	uint64_t deadline = ferryi_deadline_ms(TIME_MS);
	const char *name = strrchr(argv[0], '/');
	uint64_t i = 0;

	if (argc < 2) {
		fprintf(stderr, "usage: %s CORPUS [RUNS [SEED]]\n", argv[0]);
		return 2;
	}
	state = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
	if (state == 0)
		state = 1;
	snprintf(crash_name, sizeof(crash_name), "crash-%s", name ? name + 1 : argv[0]);
	if (__sanitizer_set_death_callback)
		__sanitizer_set_death_callback(keep_input);
	for (size_t s = 0; s < sizeof(signals) / sizeof(signals[0]); s++)
		signal(signals[s], on_signal);

	if (!load_all(argv[1]))
		return 1;
	for (size_t c = 0; c < ncorpus; c++) {
		memcpy(current, corpus[c].data, corpus[c].size);
		current_size = corpus[c].size;
		run_one();
	}
	for (; i < runs; i++) {
		/* A given number of runs is done in full, however long it takes. */
		if (argc <= 2 && i % 64 == 0 && ferryi_now_ns() > deadline)
			break;
		mutate();
		run_one();
	}
	printf("%zu corpus files, %llu mutations\n", ncorpus, (unsigned long long)i);
	for (size_t c = 0; c < ncorpus; c++)
		free(corpus[c].data);
	return 0;
}
