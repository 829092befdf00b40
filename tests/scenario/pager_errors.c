/* Every documented error of the public API: its code, one line that says why, and that nothing is lost by it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <netinet/in.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pager_kit.h"
#include "uapi.h"

#define LEN (4 * FERRYT_MIB)

/* ---- open ---- */

static int open_with(struct ferry_config *cfg)
{
	struct ferry *ferry = (struct ferry *)cfg; /* any value: it must stay */
	int rc = ferry_open(cfg, &ferry);

	CHECK(rc == 0 || ferry == (struct ferry *)cfg);
	if (rc == 0)
		CHECK_INT(ferry_close(ferry), 0);
	return rc;
}

static void body_open_arguments(void)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	struct ferry *ferry, *second = NULL;

	CHECK_FAILS(ferry_open(&cfg, NULL), -EINVAL, "out");
	cfg.size = 0;
	CHECK_FAILS(open_with(&cfg), -EINVAL, "size");
	cfg = ferryt_config(FERRY_BUDGET_MIN - FERRYT_PAGE);
	CHECK_FAILS(open_with(&cfg), -EINVAL, "local");
	cfg = ferryt_config(FERRY_BUDGET_MIN);
	CHECK_INT(open_with(&cfg), 0);
	cfg.evict_threads = 16; /* this many need more than the smallest budget */
	CHECK_FAILS(open_with(&cfg), -EINVAL, "budget");
	cfg = ferryt_config(FERRYT_BUDGET);
	cfg.fault_threads = 17;
	CHECK_FAILS(open_with(&cfg), -EINVAL, "fault-threads");
	cfg = ferryt_config(FERRYT_BUDGET);
	cfg.log_level = "loud";
	CHECK_FAILS(open_with(&cfg), -EINVAL, "loud");
	cfg = ferryt_config(FERRYT_BUDGET);
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	CHECK_FAILS(ferry_open(&cfg, &second), -EBUSY, "open");
	CHECK(second == NULL);
	CHECK_INT(ferry_close(ferry), 0);
	CHECK_FAILS(ferry_close(NULL), -EINVAL, "close");
}

static void open__bad_arguments__einval_or_ebusy(void **state)
{
	(void)state;
	RUN(body_open_arguments);
}

static void write_file(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && fchmod(fd, mode) == 0);
	close(fd);
}

/* A port of the loopback that nothing listens at: bound, and never listened on. */
static int dead_port(char *url, size_t len)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t addr_len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	CHECK(getsockname(fd, (struct sockaddr *)&addr, &addr_len) == 0);
	snprintf(url, len, "ferry://127.0.0.1:%u", ntohs(addr.sin_port));
	return fd;
}

static void body_open_servers(void)
{
	char path[] = "/tmp/ferryt-wrong-XXXXXX", token[66], url[256];
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	int fd = mkstemp(path);

	CHECK(fd >= 0);
	close(fd);
	memset(token, 'a', 64);
	strcpy(token + 64, "\n");
	write_file(path, token, 0600);
	cfg.token_file = path;
	CHECK_FAILS(open_with(&cfg), -EACCES, "token");
	write_file(path, "no token\n", 0600);
	CHECK_FAILS(open_with(&cfg), -EINVAL, path);
	unlink(path);
	CHECK_FAILS(open_with(&cfg), -ENOENT, path);

	cfg = ferryt_config(FERRYT_BUDGET);
	cfg.pool = "nosuch";
	CHECK_FAILS(open_with(&cfg), -ENXIO, "nosuch");
	cfg = ferryt_config(FERRYT_BUDGET);
	fd = dead_port(url, sizeof(url));
	cfg.servers = url;
	CHECK_FAILS(open_with(&cfg), -ECONNREFUSED, "127.0.0.1");
	/* one good server does not make up for a dead one */
	snprintf(url, sizeof(url), "%s,ferry://127.0.0.1:1", ferryt_server_url());
	CHECK_FAILS(open_with(&cfg), -ECONNREFUSED, "127.0.0.1:1");
	close(fd);
	cfg.servers = "http://127.0.0.1:7470";
	CHECK_FAILS(open_with(&cfg), -EINVAL, "http");
	cfg.servers = ",";
	CHECK_FAILS(open_with(&cfg), -EINVAL, "server");
	snprintf(url, sizeof(url), "%s", ferryt_server_url());
	strcpy(strstr(url, "fabric="), "fabric=smoke");
	cfg.servers = url;
	CHECK_FAILS(open_with(&cfg), -EINVAL, "smoke");
	/* more than the server has is not to be had */
	cfg = ferryt_config(FERRYT_BUDGET);
	cfg.reserve_bytes = 4096ull << 20;
	CHECK_FAILS(open_with(&cfg), -ENOMEM, "free");
	/* and after all that it works; what is reserved is leased from the beginning */
	cfg.reserve_bytes = (9u << 20) + 1;
	struct ferry *ferry;

	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	CHECK_INT(ferryt_stats(ferry).leased_bytes, 10u << 20);
	CHECK_INT(ferry_close(ferry), 0);
}

static void open__servers_tokens_pools__own_code_each(void **state)
{
	(void)state;
	RUN(body_open_servers);
}

static void body_open_silent(void)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	char url[64];
	int fd = dead_port(url, sizeof(url));

	/* Takes the connection and says nothing. */
	CHECK_INT(listen(fd, 5), 0);
	cfg.servers = url;
	cfg.request_timeout_ms = 200;
	CHECK_FAILS(open_with(&cfg), -ETIMEDOUT, "127.0.0.1");
	close(fd);
}

static void open__silent_server__etimedout(void **state)
{
	(void)state;
	RUN(body_open_silent);
}

static void check_env(const char *name, const char *value, const char *word)
{
	CHECK_INT(setenv(name, value, 1), 0);
	CHECK_FAILS(open_with(NULL), -EINVAL, word);
	CHECK(strstr(ferry_last_error(), name) != NULL);
	CHECK_INT(unsetenv(name), 0);
}

static void body_environment(void)
{
	struct ferry *ferry;

	CHECK_INT(setenv("FERRY_SERVERS", ferryt_server_url(), 1), 0);
	CHECK_INT(setenv("FERRY_TOKEN_FILE", ferryt_token_file(), 1), 0);
	check_env("FERRY_LOCAL", "12Q", "12Q");
	check_env("FERRY_LOCAL", "1M", "1M");
	check_env("FERRY_LOCAL", "-5", "-5");
	check_env("FERRY_FAULT_TIMEOUT", "soon", "soon");
	check_env("FERRY_REQUEST_TIMEOUT", "1", "1");
	check_env("FERRY_FAULT_THREADS", "0", "0");
	check_env("FERRY_EVICT_THREADS", "99", "99");
	check_env("FERRY_READAHEAD", "4000000", "4000000");
	check_env("FERRY_LOG_LEVEL", "shout", "shout");
	check_env("FERRY_FORK", "spoon", "spoon");
	check_env("FERRY_EMBEDDED_SIZE", "lots", "lots");
	check_env("FERRY_RESERVE", "enough", "enough");
	CHECK_INT(setenv("FERRY_LOCAL", "16M", 1), 0);
	CHECK_INT(setenv("FERRY_POOL", "big", 1), 0);
	CHECK_INT(ferry_open(NULL, &ferry), 0);
	CHECK_INT(ferryt_stats(ferry).budget_bytes, 16 * FERRYT_MIB);
	CHECK_INT(ferry_close(ferry), 0);
}

static void open__environment__bad_values_named(void **state)
{
	(void)state;
	RUN(body_environment);
}

/* ---- map, unmap ---- */

static void check_mmap_fails(struct ferry *ferry, size_t len, int prot, unsigned flags, int err,
			     const char *word)
{
	errno = 0;
	CHECK(ferry_mmap(ferry, NULL, len, prot, flags) == MAP_FAILED);
	int got = errno;

	CHECK_FAILS(got, err, word);
}

static void body_mmap(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t byte;

	check_mmap_fails(ferry, 0, PROT_READ | PROT_WRITE, 0, EINVAL, "length");
	check_mmap_fails(ferry, SIZE_MAX, PROT_READ | PROT_WRITE, 0, EINVAL, "length");
	check_mmap_fails(ferry, LEN, PROT_READ, 0, EINVAL, "PROT_WRITE");
	check_mmap_fails(ferry, LEN, PROT_NONE, 0, EINVAL, "PROT_WRITE");
	check_mmap_fails(ferry, LEN, PROT_READ | PROT_WRITE, 1u << 20, EINVAL, "flags");
	check_mmap_fails(NULL, LEN, PROT_READ | PROT_WRITE, 0, EINVAL, "open");
	/* rounded up to pages */
	uint8_t *p = ferryt_mmap(ferry, FERRYT_PAGE + 1);

	CHECK_INT(ferryt_stats(ferry).managed_bytes, 2 * FERRYT_PAGE);
	p[2 * FERRYT_PAGE - 1] = 1;
	CHECK_FAILS(ferry_munmap(ferry, p + 1, FERRYT_PAGE), -EINVAL, "4096");
	CHECK_FAILS(ferry_munmap(ferry, p, 0), -EINVAL, "length");
	CHECK_FAILS(ferry_munmap(ferry, p, 3 * FERRYT_PAGE), -EINVAL, "managed");
	CHECK_FAILS(ferry_munmap(ferry, (void *)-FERRYT_PAGE, 2 * FERRYT_PAGE), -EINVAL, "range");
	CHECK_INT(ferry_pin(ferry, p, FERRYT_PAGE), 0);
	CHECK_FAILS(ferry_munmap(ferry, p, 2 * FERRYT_PAGE), -EBUSY, "pin");
	CHECK_INT(p[2 * FERRYT_PAGE - 1], 1);
	CHECK_INT(ferry_unpin(ferry, p, FERRYT_PAGE), 0);
	CHECK_INT(ferry_munmap(ferry, p, 2 * FERRYT_PAGE), 0);
	CHECK(ferryt_touch(p, &byte) != 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void mmap_munmap__bad_arguments__einval_and_ebusy(void **state)
{
	(void)state;
	RUN(body_mmap);
}

static void body_pool_full(void)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	struct ferry *ferry;

	cfg.pool = "test";
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	check_mmap_fails(ferry, 128 * FERRYT_MIB, PROT_READ | PROT_WRITE, 0, ENOMEM, "64");
	/* the number that it gave does fit */
	uint8_t *p = ferryt_mmap(ferry, 64 * FERRYT_MIB);

	check_mmap_fails(ferry, 2 * FERRYT_MIB, PROT_READ | PROT_WRITE, 0, ENOMEM, "0");
	CHECK_FAILS(ferry_adopt(ferry,
				mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
				LEN, 0),
		    -ENOMEM, "");
	uint8_t *q = ferry_mmap(ferry, NULL, 64 * FERRYT_MIB, PROT_READ | PROT_WRITE, FERRY_MAP_NORESERVE);

	CHECK(q != MAP_FAILED);
	ferryt_fill(q, 256, 1); /* fits the budget, need not leave */
	ferryt_verify(q, 0, 256, 1);
	ferryt_fill(p, 64 * FERRYT_MIB / FERRYT_PAGE, 2);
	ferryt_verify(p, 0, 64 * FERRYT_MIB / FERRYT_PAGE, 2);
	ferryt_verify(q, 0, 256, 1);
	CHECK_INT(ferry_munmap(ferry, p, 64 * FERRYT_MIB), 0);
	/* room again: what has no pool memory yet gets it as it leaves */
	ferryt_fill(q, 32 * FERRYT_MIB / FERRYT_PAGE, 3);
	ferryt_verify(q, 0, 32 * FERRYT_MIB / FERRYT_PAGE, 3);
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferry_close(ferry), 0);
}

static void mmap__pool_full__enomem_with_what_fits(void **state)
{
	(void)state;
	RUN(body_pool_full);
}

/* ---- adopt, unadopt ---- */

static uint8_t *map(int prot, int flags, int fd)
{
	void *p = mmap(NULL, LEN, prot, flags, fd, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

static void body_adopt(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	char path[] = "/tmp/ferryt-file-XXXXXX";
	int fd = mkstemp(path);

	CHECK(fd >= 0 && ftruncate(fd, (off_t)LEN) == 0 && unlink(path) == 0);
	ferryt_fill(p, LEN / FERRYT_PAGE, 5);
	CHECK_FAILS(ferry_adopt(ferry, p + 8, FERRYT_PAGE, 0), -EINVAL, "4096");
	CHECK_FAILS(ferry_adopt(ferry, p, FERRYT_PAGE + 8, 0), -EINVAL, "4096");
	CHECK_FAILS(ferry_adopt(ferry, p, 0, 0), -EINVAL, "length");
	CHECK_FAILS(ferry_adopt(ferry, p, LEN, 0x80), -EINVAL, "flags");
	CHECK_FAILS(ferry_adopt(NULL, p, LEN, 0), -EINVAL, "open");
	CHECK_INT(ferry_adopt(ferry, p, LEN / 2, 0), 0);
	CHECK_FAILS(ferry_adopt(ferry, p, LEN, 0), -EINVAL, "overlap");
	CHECK_FAILS(ferry_adopt(ferry, p, LEN / 2, 0), -EINVAL, "overlap");
	CHECK_FAILS(ferry_unadopt(ferry, p, LEN), -EINVAL, "managed");
	CHECK_FAILS(ferry_unadopt(ferry, p + 1, FERRYT_PAGE), -EINVAL, "4096");
	CHECK_INT(ferry_pin(ferry, p, FERRYT_PAGE), 0);
	CHECK_FAILS(ferry_unadopt(ferry, p, LEN / 2), -EBUSY, "pin");
	CHECK_INT(ferry_unpin(ferry, p, FERRYT_PAGE), 0);
	CHECK_INT(ferry_unadopt(ferry, p, LEN / 2), 0);
	ferryt_verify(p, 0, LEN / FERRYT_PAGE, 5);

	CHECK_FAILS(ferry_adopt(ferry, map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE, fd), LEN, 0), -EOPNOTSUPP,
		    "file");
	CHECK_FAILS(ferry_adopt(ferry, map(PROT_READ | PROT_WRITE, MAP_SHARED, fd), LEN, 0), -EOPNOTSUPP,
		    "file");
	CHECK_FAILS(ferry_adopt(ferry, map(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1), LEN, 0),
		    -EOPNOTSUPP, "shared");
	CHECK_FAILS(ferry_adopt(ferry, map(PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1), LEN, 0), -EACCES,
		    "not readable and writable");
	CHECK_FAILS(ferry_adopt(ferry, map(PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1), LEN, 0), -EACCES,
		    "not readable and writable");
	/* a hole in the middle, and past the end */
	CHECK_INT(munmap(p + LEN / 2, FERRYT_PAGE), 0);
	CHECK_FAILS(ferry_adopt(ferry, p, LEN, 0), -EFAULT, "not mapped");
	CHECK_FAILS(ferry_adopt(ferry, p + LEN / 2, FERRYT_PAGE, 0), -EFAULT, "not mapped");
	ferryt_verify(p, 0, LEN / FERRYT_PAGE / 2, 5);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, 0);
	CHECK_INT(ferryt_stats(ferry).resident_bytes, 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void adopt_unadopt__unfit_memory__own_code_each(void **state)
{
	(void)state;
	RUN(body_adopt);
}

static void body_adopt_foreign(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | FERRYI_UFFD_USER_MODE_ONLY);
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.range = {(uintptr_t)p, LEN}, .mode = UFFDIO_REGISTER_MODE_MISSING};

	CHECK(fd >= 0);
	CHECK_INT(ioctl(fd, UFFDIO_API, &api), 0);
	ferryt_fill(p, LEN / FERRYT_PAGE, 6);
	CHECK_INT(ioctl(fd, UFFDIO_REGISTER, &reg), 0);
	CHECK_FAILS(ferry_adopt(ferry, p, LEN, 0), -EBUSY, "userfaultfd");
	CHECK_INT(ferryt_stats(ferry).managed_bytes, 0);
	ferryt_verify(p, 0, LEN / FERRYT_PAGE, 6);
	close(fd);
	CHECK_INT(ferry_adopt(ferry, p, LEN, 0), 0);
	ferryt_verify(p, 0, LEN / FERRYT_PAGE, 6);
	CHECK_INT(ferry_close(ferry), 0);
}

static void adopt__memory_of_another_userfaultfd__ebusy(void **state)
{
	(void)state;
	RUN(body_adopt_foreign);
}

/* ---- advice, pins, flush, budget, figures ---- */

static void body_ranges(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, 32 * FERRYT_MIB);
	uint8_t *end = p + 32 * FERRYT_MIB - FERRYT_PAGE;

	ferryt_fill(p, 100, 7);
	CHECK_FAILS(ferry_advise(ferry, p + 1, FERRYT_PAGE, FERRY_ADVICE_COLD), -EINVAL, "4096");
	CHECK_FAILS(ferry_advise(ferry, end, 2 * FERRYT_PAGE, FERRY_ADVICE_COLD), -EINVAL, "managed");
	CHECK_FAILS(ferry_advise(ferry, p, FERRYT_PAGE, (enum ferry_advice)99), -EINVAL, "99");
	CHECK_INT(ferry_pin(ferry, p, 2 * FERRYT_PAGE), 0);
	CHECK_FAILS(ferry_advise(ferry, p, LEN, FERRY_ADVICE_DONTNEED), -EBUSY, "pin");
	ferryt_verify(p, 0, 100, 7);
	CHECK_FAILS(ferry_unpin(ferry, p, 3 * FERRYT_PAGE), -EINVAL, "not pinned");
	CHECK_INT(ferryt_stats(ferry).pinned_bytes, 2 * FERRYT_PAGE); /* nothing was unpinned */
	CHECK_FAILS(ferry_pin(ferry, p + 1, FERRYT_PAGE), -EINVAL, "4096");
	CHECK_FAILS(ferry_pin(ferry, end, 2 * FERRYT_PAGE), -EINVAL, "managed");
	CHECK_FAILS(ferry_pin(ferry, p, 5 * FERRYT_MIB), -ENOMEM, "budget");
	CHECK_INT(ferryt_stats(ferry).pinned_bytes, 2 * FERRYT_PAGE);
	CHECK_FAILS(ferry_flush(ferry, p + 1, FERRYT_PAGE), -EINVAL, "4096");
	CHECK_FAILS(ferry_flush(ferry, end, 2 * FERRYT_PAGE), -EINVAL, "managed");
	CHECK_FAILS(ferry_set_budget(ferry, FERRY_BUDGET_MIN - 1), -EINVAL, "budget");
	CHECK_INT(ferry_pin(ferry, p + FERRYT_MIB, 2 * FERRYT_MIB), 0);
	CHECK_FAILS(ferry_set_budget(ferry, 5 * FERRYT_MIB), -ENOMEM, "pinned");
	CHECK_INT(ferryt_stats(ferry).budget_bytes, FERRYT_BUDGET);
	CHECK_INT(ferry_unpin(ferry, p + FERRYT_MIB, 2 * FERRYT_MIB), 0);
	CHECK_INT(ferry_unpin(ferry, p, 2 * FERRYT_PAGE), 0);
	CHECK_FAILS(ferry_unpin(ferry, p, FERRYT_PAGE), -EINVAL, "not pinned");
	ferryt_verify(p, 0, 100, 7);
	CHECK_INT(ferry_close(ferry), 0);
}

static void advise_pin_flush_budget__bad_arguments__nothing_changed(void **state)
{
	(void)state;
	RUN(body_ranges);
}

static void body_figures(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_stats stats = {.size = 0};
	struct ferry_fault_info info = {.size = 0};
	uint8_t *p = ferryt_mmap(ferry, LEN);

	CHECK_FAILS(ferry_stats(ferry, &stats), -EINVAL, "size");
	CHECK_FAILS(ferry_stats(ferry, NULL), -EINVAL, "size");
	CHECK_FAILS(ferry_stats(NULL, &stats), -EINVAL, "open");
	/* a shorter struct of an older program */
	memset(&stats, 0xee, sizeof(stats));
	stats.size = offsetof(struct ferry_stats, resident_bytes);
	CHECK_INT(ferry_stats(ferry, &stats), 0);
	CHECK_INT(stats.managed_bytes, LEN);
	CHECK_INT(stats.resident_bytes, 0xeeeeeeeeeeeeeeee);
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p, &info), -EINVAL);
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p, NULL), -EINVAL);
	info.size = sizeof(info);
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p + 5000, &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_NONE);
	CHECK_INT(info.va, (uintptr_t)p + FERRYT_PAGE);
	CHECK_INT(ferry_fault_query(NULL, (uintptr_t)&info, &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_NOT_MANAGED);
	for (int r = FERRY_FAULT_NONE; r <= FERRY_FAULT_FORKED; r++)
		CHECK(strcmp(ferry_fault_reason_text((enum ferry_fault_reason)r), "unknown") != 0);
	CHECK(strcmp(ferry_fault_reason_text((enum ferry_fault_reason)99), "unknown") == 0);
	CHECK_INT(ferry_caps(NULL), 0);
	CHECK_INT(ferry_close(ferry), 0);
	CHECK_INT(ferry_fault_query(NULL, (uintptr_t)p, &info), -EINVAL);
	CHECK_FAILS(ferry_close(ferry), -EINVAL, "open"); /* a stale handle */
	CHECK(strcmp(ferry_version(), "0.1.0") == 0);
}

static void stats_and_query__sizes_and_handles__checked(void **state)
{
	(void)state;
	RUN(body_figures);
}

/* ---- pools ---- */

static void body_attach_errors(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool_attr attr = {.size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .pool = "test"};
	struct ferry_pool *pool = NULL;
	char url[64];
	int fd = dead_port(url, sizeof(url));

	CHECK_FAILS(ferry_pool_attach(ferry, NULL, &pool), -EINVAL, "size");
	attr.size = 4;
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -EINVAL, "size");
	attr.size = sizeof(attr);
	attr.type = 0;
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -EINVAL, "type");
	attr.type = (enum ferry_mem_type)77;
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -EINVAL, "type");
	attr.type = FERRY_MEM_COHERENT;
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -EINVAL, "owner");
	attr.type = FERRY_MEM_PRIVATE;
	attr.len_bytes = FERRYT_MIB;
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -EINVAL, "2");
	attr.len_bytes = 1024 * FERRYT_MIB;
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -ENOMEM, "");
	attr.len_bytes = 0;
	attr.pool = "nosuch";
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -ENXIO, "nosuch");
	attr.pool = "test";
	attr.server = url;
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -ECONNREFUSED, "127.0.0.1");
	CHECK(pool == NULL);
	CHECK_FAILS(ferry_pool_detach(NULL), -EINVAL, "pool");
	close(fd);
	CHECK_INT(ferry_close(ferry), 0);
}

static void pool_attach__bad_arguments__own_code_each(void **state)
{
	(void)state;
	RUN(body_attach_errors);
}

static struct ferry_pool_info info_of(struct ferry_pool *pool)
{
	struct ferry_pool_info info = {.size = sizeof(info)};

	CHECK_INT(ferry_pool_info(pool, &info), 0);
	return info;
}

static void body_pools(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool_attr attr = {
		.size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .pool = "test", .len_bytes = 8 * FERRYT_MIB};
	struct ferry_pool *pool;

	CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0);
	struct ferry_pool_info info = info_of(pool);

	CHECK_INT(info.leased_bytes, 8 * FERRYT_MIB);
	CHECK_INT(info.used_bytes, 0);
	CHECK_INT(info.type, FERRY_MEM_PRIVATE);
	CHECK_INT((info.pfn_last - info.pfn_first + 1) * FERRYT_PAGE, 64 * FERRYT_MIB);
	CHECK(strcmp(info.fabric, ferryt_row()) == 0);
	CHECK(strstr(ferryt_server_url(), info.server) != NULL);
	/* leased sub-sections are valid, the window's rest is not */
	for (uint64_t pfn = info.pfn_first; pfn < info.pfn_first + 2048; pfn++) {
		struct ferry_page *page = ferry_pfn_to_page(ferry, pfn);

		CHECK(page != NULL && ferry_pfn_valid(ferry, pfn));
		CHECK_INT(ferry_page_to_pfn(ferry, page), pfn);
	}
	CHECK(!ferry_pfn_valid(ferry, info.pfn_first + 2048));
	CHECK(!ferry_pfn_valid(ferry, info.pfn_last));
	CHECK(!ferry_pfn_valid(ferry, info.pfn_first - 1));
	CHECK(!ferry_pfn_valid(ferry, 0) && !ferry_pfn_valid(ferry, UINT64_MAX));
	CHECK(ferry_pfn_to_page(ferry, UINT64_MAX) == NULL);
	/* references, as of get_dev_pagemap */
	CHECK(ferry_pool_get(ferry, info.pfn_first + 9, NULL) == pool);
	CHECK(ferry_pool_get(ferry, info.pfn_first + 10, pool) ==
	      pool); /* the hint, with its own reference */
	CHECK_FAILS(ferry_pool_detach(pool), -EBUSY, "reference");
	CHECK(ferry_pool_get(ferry, 0, pool) == NULL); /* puts the hint */
	CHECK(ferry_pool_get(ferry, UINT64_MAX, NULL) == NULL);
	/* by index: the one of open, this one, no more */
	struct ferry_pool *first = ferry_pool_at(ferry, 0);

	CHECK(first != NULL && first != pool);
	CHECK(ferry_pool_at(ferry, 1) == pool);
	CHECK(ferry_pool_at(ferry, 2) == NULL);
	ferry_pool_put(first);
	ferry_pool_put(pool);
	ferry_pool_put(NULL);
	struct ferry_pool_info bad = {.size = 0};

	CHECK_FAILS(ferry_pool_info(pool, &bad), -EINVAL, "size");
	CHECK_FAILS(ferry_pool_info(NULL, &info), -EINVAL, "size");
	CHECK_INT(ferry_pool_detach(pool), 0);
	CHECK(!ferry_pfn_valid(ferry, info.pfn_first));
	CHECK(ferry_pool_at(ferry, 1) == NULL);
	/* a pool that pages live in stays */
	first = ferry_pool_at(ferry, 0);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferry_pool_put(first);
	CHECK_FAILS(ferry_pool_detach(first), -EBUSY, "pages");
	ferryt_fill_away(ferry, p, LEN / FERRYT_PAGE, 8);
	ferryt_verify(p, 0, LEN / FERRYT_PAGE, 8);
	CHECK_INT(ferry_munmap(ferry, p, LEN), 0);
	CHECK_INT(ferry_pool_detach(first), 0);
	check_mmap_fails(ferry, LEN, PROT_READ | PROT_WRITE, 0, ENOMEM, "");
	/* attached while running, it takes pages */
	attr.len_bytes = 0;
	CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0);
	p = ferryt_mmap(ferry, 32 * FERRYT_MIB);
	ferryt_fill(p, 8192, 9);
	ferryt_verify(p, 0, 8192, 9);
	CHECK(info_of(pool).used_bytes >= 32 * FERRYT_MIB);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, 8192, 9);
}

static void pools__attached_and_detached__pfns_and_references(void **state)
{
	(void)state;
	RUN(body_pools);
}

static const char *row;

static int group_setup(void **state)
{
	(void)state;
	ferryt_server_start(row);
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	ferryt_server_end();
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(open__bad_arguments__einval_or_ebusy),
		cmocka_unit_test(open__servers_tokens_pools__own_code_each),
		cmocka_unit_test(open__silent_server__etimedout),
		cmocka_unit_test(open__environment__bad_values_named),
		cmocka_unit_test(mmap_munmap__bad_arguments__einval_and_ebusy),
		cmocka_unit_test(mmap__pool_full__enomem_with_what_fits),
		cmocka_unit_test(adopt_unadopt__unfit_memory__own_code_each),
		cmocka_unit_test(adopt__memory_of_another_userfaultfd__ebusy),
		cmocka_unit_test(advise_pin_flush_budget__bad_arguments__nothing_changed),
		cmocka_unit_test(stats_and_query__sizes_and_handles__checked),
		cmocka_unit_test(pool_attach__bad_arguments__own_code_each),
		cmocka_unit_test(pools__attached_and_detached__pfns_and_references),
	};
	int rc = ferryt_needs_uffd();

	if (rc)
		return rc;
	row = argc > 1 ? argv[1] : "local";
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
