/* See pager_kit.h. */
#include "pager_kit.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "uapi.h"

static struct {
	struct ferryt_child child;
	const char *row;
	char url[192];
	char token_file[64];
} server;

/* ---- checks ---- */

void ferryt_die(const char *file, int line, const char *what)
{
	int err = errno;

	fprintf(stderr, "%s:%d: not true: %s (errno %d, %s; last error \"%s\")\n", file, line, what, err,
		strerror(err), ferry_last_error());
	fflush(NULL);
	_exit(1);
}

void ferryt_check_int(const char *file, int line, const char *what, long long got, long long want)
{
	if (got == want)
		return;
	fprintf(stderr, "%s:%d: %s is %lld, not %lld (last error \"%s\")\n", file, line, what, got, want,
		ferry_last_error());
	fflush(NULL);
	_exit(1);
}

void ferryt_check_fails(const char *file, int line, const char *what, long long got, long long want,
			const char *word)
{
	const char *text = ferry_last_error();

	ferryt_check_int(file, line, what, got, want);
	if (strlen(text) > 10 && !strchr(text, '\n') && strstr(text, word))
		return;
	fprintf(stderr, "%s:%d: %s: its line is \"%s\", which should have \"%s\"\n", file, line, what, text,
		word);
	fflush(NULL);
	_exit(1);
}

/* ---- the parent ---- */

int ferryt_needs_uffd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | FERRYI_UFFD_USER_MODE_ONLY);
	struct uffdio_api api = {.api = UFFD_API};

	if (fd < 0) {
		printf("skipped: no userfaultfd (%s)\n", strerror(errno));
		return 77;
	}
	int rc = ioctl(fd, UFFDIO_API, &api);

	close(fd);
	if (rc != 0 || !(api.features & FERRYI_UFFD_FEATURE_MOVE)) {
		printf("skipped: this kernel's userfaultfd lacks UFFDIO_MOVE (Linux 6.8)\n");
		return 77;
	}
	return 0;
}

static void write_token(void)
{
	char text[2 * FERRYI_AUTH_TOKEN_LEN + 2];
	int fd;

	for (unsigned i = 0; i < FERRYI_AUTH_TOKEN_LEN; i++)
		snprintf(text + 2 * i, 3, "%02x", server.child.token[i]);
	strcat(text, "\n");
	snprintf(server.token_file, sizeof(server.token_file), "/tmp/ferryt-token-XXXXXX");
	fd = mkostemp(server.token_file, O_CLOEXEC);
	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	if (getenv("FERRYT_AS_NOBODY") && geteuid() == 0)
		CHECK_INT(fchown(fd, NOBODY, NOBODY), 0);
	close(fd);
}

void ferryt_server_start(const char *row)
{
	static const char *const args[] = {"--pool", "name=big,size=640M,backing=memfd,reserve=no", NULL};

	ferryt_server_start_with(row, args);
}

void ferryt_server_start_with(const char *row, const char *const *args)
{
	server.row = row;
	if (strcmp(row, "embedded") == 0) {
		setenv("FERRY_FERRYD", FERRYT_FERRYD, 1);
		return;
	}
	ferryt_child_start(&server.child, args);
	snprintf(server.url, sizeof(server.url), "%s?fabric=%s", server.child.url, row);
	write_token();
}

void ferryt_server_end(void)
{
	ferryt_child_end(&server.child);
	if (server.token_file[0])
		unlink(server.token_file);
}

struct ferryt_child *ferryt_server(void)
{
	return &server.child;
}

const char *ferryt_row(void)
{
	return server.row;
}

const char *ferryt_server_url(void)
{
	return server.url;
}

const char *ferryt_token_file(void)
{
	return server.token_file;
}

int ferryt_wait_child(pid_t pid, int timeout_ms)
{
	struct pollfd pfd = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
	uint64_t deadline_ns = ferryi_deadline_ms((uint64_t)timeout_ms);
	bool late = false;
	int status, n;

	do
		n = poll(&pfd, 1, ferryi_remaining_ms(deadline_ns));
	while (n < 0 && errno == EINTR);
	if (n <= 0) {
		fprintf(stderr, "child %d is not done in time\n", (int)pid);
		kill(pid, SIGKILL);
		late = true;
	}
	waitpid(pid, &status, __WALL);
	close(pfd.fd);
	if (late)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void ferryt_become_nobody(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct caps[2] = {{.effective = 1U << CAP_KILL, .permitted = 1U << CAP_KILL}};

	CHECK_INT(prctl(PR_SET_KEEPCAPS, 1), 0);
	CHECK_INT(setgroups(0, NULL), 0);
	CHECK_INT(setresgid(NOBODY, NOBODY, NOBODY), 0);
	CHECK_INT(setresuid(NOBODY, NOBODY, NOBODY), 0);
	CHECK_INT(syscall(SYS_capset, &header, caps), 0);
	/* As any user's process: its own /proc files are its own. */
	CHECK_INT(prctl(PR_SET_DUMPABLE, 1), 0);
}

int ferryt_in_child(void (*body)(void))
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS};

	fflush(NULL);
	pid_t pid = fork();

	if (pid == 0) {
		/* cmocka's own handlers would run the remaining tests here. */
		for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
			signal(signals[i], SIG_DFL);
		if (getenv("FERRYT_AS_NOBODY") && geteuid() == 0)
			ferryt_become_nobody();
		body();
		fflush(NULL);
		_exit(0);
	}
	return pid < 0 ? -1 : ferryt_wait_child(pid, FERRYT_BODY_MS);
}

/* ---- in the child ---- */

struct ferry_config ferryt_config(size_t budget)
{
	struct ferry_config cfg = {.size = sizeof(cfg), .local_bytes = budget, .mode = getenv("FERRYT_MODE"),
				  .policy = "fill" /* into "big", whatever a test attaches */};

	if (strcmp(server.row, "embedded") == 0) {
		cfg.embedded_bytes = FERRYT_BIG_POOL;
	} else {
		cfg.servers = server.url;
		cfg.token_file = server.token_file;
		cfg.pool = "big";
	}
	/* A machine under load is slow, not broken. */
	cfg.fault_timeout_ms = cfg.request_timeout_ms = 60000;
	return cfg;
}

struct ferry *ferryt_open(size_t budget)
{
	struct ferry_config cfg = ferryt_config(budget);
	struct ferry *ferry = NULL;

	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	return ferry;
}

struct ferry_stats ferryt_stats(struct ferry *ferry)
{
	struct ferry_stats now = {.size = sizeof(now)}, last;
	uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_BODY_MS);

	CHECK_INT(ferry_stats(ferry, &now), 0);
	do {
		last = now;
		poll(NULL, 0, 1); /* a fault is counted after its thread has been woken */
		CHECK_INT(ferry_stats(ferry, &now), 0);
	} while (memcmp(&now, &last, sizeof(now)) != 0 && ferryi_now_ns() < deadline_ns);
	return now;
}

uint8_t *ferryt_mmap(struct ferry *ferry, size_t len)
{
	void *p = ferry_mmap(ferry, NULL, len, PROT_READ | PROT_WRITE, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

#define SEED_SHIFT 32

/* splitmix64: any word of any page without the ones before it */
static uint64_t word_of(uint64_t seed, size_t page, size_t i)
{
	uint64_t x = (seed << SEED_SHIFT) + (uint64_t)page * (FERRYT_PAGE / 8) + i + 1;

	x *= 0x9E3779B97F4A7C15ULL;
	x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
	return x ^ (x >> 27);
}

/* word_of, backwards: by the inverses of its factors. */
bool ferryt_is_word(uint64_t word, size_t i, size_t k, uint64_t *seed)
{
	uint64_t x = word ^ (word >> 27) ^ (word >> 54);

	x *= 0x96de1b173f119089ULL;
	x = (x ^ (x >> 30) ^ (x >> 60)) * 0xf1de83e19937733dULL;
	*seed = x >> SEED_SHIFT;
	return word_of(*seed, i, k) == word;
}

void ferryt_fill_page(void *page, uint64_t seed, size_t i)
{
	uint64_t *word = page;

	for (size_t k = 0; k < FERRYT_PAGE / 8; k++)
		word[k] = word_of(seed, i, k);
}

void ferryt_fill(void *p, size_t pages, uint64_t seed)
{
	for (size_t i = 0; i < pages; i++)
		ferryt_fill_page((uint8_t *)p + i * FERRYT_PAGE, seed, i);
}

void ferryt_verify(const void *p, size_t first, size_t pages, uint64_t seed)
{
	for (size_t i = 0; i < pages; i++) {
		const uint64_t *word = (const uint64_t *)((const uint8_t *)p + i * FERRYT_PAGE);

		for (size_t k = 0; k < FERRYT_PAGE / 8; k++) {
			if (word[k] == word_of(seed, first + i, k))
				continue;
			fprintf(stderr, "page %zu of %zu, word %zu: %#llx, not %#llx\n", i, pages, k,
				(unsigned long long)word[k], (unsigned long long)word_of(seed, first + i, k));
			ferryt_die(__FILE__, __LINE__, "data is as it was written");
		}
	}
}

void ferryt_verify_zero(const void *p, size_t pages)
{
	const uint64_t *word = p;

	for (size_t i = 0; i < pages * FERRYT_PAGE / 8; i++) {
		if (word[i] != 0) {
			fprintf(stderr, "page %zu of %zu\n", i / (FERRYT_PAGE / 8), pages);
			ferryt_die(__FILE__, __LINE__, "page reads as zeros");
		}
	}
}

void ferryt_fill_away(struct ferry *ferry, void *p, size_t pages, uint64_t seed)
{
	ferryt_fill(p, pages, seed);
	CHECK_INT(ferry_advise(ferry, p, pages * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	/* A batch of an eviction thread may still be on its way, and gives its pages' RAM back at its end. */
	uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_BODY_MS);

	while (ferryt_present(p, pages) > 0 && ferryi_now_ns() < deadline_ns)
		CHECK_INT(ferry_advise(ferry, p, pages * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	CHECK_INT(ferryt_present(p, pages), 0);
}

size_t ferryt_present(const void *p, size_t pages)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t present = 0;

	CHECK(fd >= 0);
	for (size_t i = 0; i < pages; i++) {
		uint64_t entry;

		CHECK(pread(fd, &entry, 8, (off_t)(((uintptr_t)p / FERRYT_PAGE + i) * 8)) == 8);
		present += entry >> 63;
	}
	close(fd);
	return present;
}

static _Thread_local sigjmp_buf touch_jmp;
static _Thread_local volatile sig_atomic_t touching;

static void on_signal(int sig)
{
	if (touching)
		siglongjmp(touch_jmp, sig);
	_exit(128 + sig);
}

int ferryt_touch(const void *p, uint8_t *out)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_NODEFER}, old_bus, old_segv;
	int sig;

	sigemptyset(&action.sa_mask);
	sigaction(SIGBUS, &action, &old_bus);
	sigaction(SIGSEGV, &action, &old_segv);
	sig = sigsetjmp(touch_jmp, 1);
	if (sig == 0) {
		touching = 1;
		*out = *(const volatile uint8_t *)p;
	}
	touching = 0;
	sigaction(SIGBUS, &old_bus, NULL);
	sigaction(SIGSEGV, &old_segv, NULL);
	return sig;
}
