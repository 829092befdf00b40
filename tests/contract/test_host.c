/*
 * What the transport must leave alone in the process that it lives in: the
 * environment, the C library's code, userfaultfd. Runs last, so that all that
 * the row can start has been started.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"

#define CODE_LEN 16
#define ENV_MAX	 8192

extern char **environ;

/* What libfabric's memhooks would patch. */
static const char *const hooked[] = {"mmap", "munmap", "mremap", "madvise", "shmat", "shmdt", "brk"};

#define NHOOKED (sizeof(hooked) / sizeof(hooked[0]))

static uint8_t code_before[NHOOKED][CODE_LEN];
static char env_before[ENV_MAX];

static void env_text(char *out, size_t out_len)
{
	size_t len = 0;

	out[0] = '\0';
	for (char **e = environ; *e; e++) {
		if (!strncmp(*e, "FI_", 3) || !strncmp(*e, "RDMAV_", 6) || !strncmp(*e, "IBV_", 4))
			len += (size_t)snprintf(out + len, out_len - len, "%s\n", *e);
		if (len >= out_len)
			abort();
	}
}

static void code_text(uint8_t code[NHOOKED][CODE_LEN])
{
	for (size_t i = 0; i < NHOOKED; i++) {
		const void *f = dlsym(RTLD_DEFAULT, hooked[i]);

		if (f)
			memcpy(code[i], f, CODE_LEN);
	}
}

void ferryt_host_remember(void)
{
	/* an application that has its own ideas about libfabric */
	setenv("FI_MR_CACHE_MAX_COUNT", "777", 1);
	unsetenv("FI_MR_CACHE_MONITOR");
	unsetenv("FI_UNIVERSE_SIZE");
	env_text(env_before, sizeof(env_before));
	code_text(code_before);
}

static void environment__after_everything__is_the_applications(void **state)
{
	char now[ENV_MAX];

	(void)state;
	ferryi_fabric_setup();
	env_text(now, sizeof(now));
	assert_string_equal(now, env_before);
}

static void c_library__after_everything__is_not_patched(void **state)
{
	uint8_t now[NHOOKED][CODE_LEN] = {0};

	(void)state;
	code_text(now);
	for (size_t i = 0; i < NHOOKED; i++) {
		if (memcmp(now[i], code_before[i], CODE_LEN))
			fail_msg("the code of %s() was changed", hooked[i]);
	}
}

static void userfaultfd__after_everything__none_is_open(void **state)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *d;

	(void)state;
	assert_non_null(dir);
	while ((d = readdir(dir))) {
		char link[128] = "";

		if (readlinkat(dirfd(dir), d->d_name, link, sizeof(link) - 1) > 0)
			assert_null(strstr(link, "userfaultfd"));
	}
	closedir(dir);
}

static int uffd_open(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (fd < 0)
		return -1;
	struct uffdio_api api = {.api = UFFD_API};

	if (ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* A mapping belongs to one userfaultfd at most: EBUSY would mean that libfabric took it. */
static void userfaultfd__on_registered_memory__is_still_free(void **state)
{
	struct ferryt_world *w = *state;
	int fd = uffd_open();

	if (fd < 0)
		skip();
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);

	void *fresh = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(fresh != MAP_FAILED);
	void *const base[] = {w->buf, fresh};

	for (size_t i = 0; i < 2; i++) {
		struct uffdio_register reg = {
			.range = {.start = (uintptr_t)base[i], .len = MIB},
			.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
		};

		assert_int_equal(ioctl(fd, UFFDIO_REGISTER, &reg), 0);
		assert_int_equal(ioctl(fd, UFFDIO_UNREGISTER, &reg.range), 0);
	}
	munmap(fresh, MIB);
	close(fd);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
}

/* libfabric's packages bring libraries that take signals when they are loaded. */
static void signals__after_load__are_the_applications(void **state)
{
	static const int signals[] = { SIGINT, SIGBUS, SIGSEGV, SIGTERM };

	(void)state;
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		struct sigaction action;
		Dl_info where = { 0 };

		assert_int_equal(sigaction(signals[i], NULL, &action), 0);
		if (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN)
			continue;
		/* cmocka catches some itself */
		if (dladdr((void *)(uintptr_t)action.sa_handler, &where) && where.dli_fname)
			assert_null(strstr(where.dli_fname, "libinfinipath"));
	}
}

int ferryt_group_host(void)
{
	const struct CMUnitTest tests[] = {
		FERRYT_TEST(environment__after_everything__is_the_applications),
		FERRYT_TEST(signals__after_load__are_the_applications),
		FERRYT_TEST(c_library__after_everything__is_not_patched),
		FERRYT_TEST(userfaultfd__after_everything__none_is_open),
		FERRYT_TEST(userfaultfd__on_registered_memory__is_still_free),
	};

	return cmocka_run_group_tests_name("host", tests, NULL, NULL);
}
