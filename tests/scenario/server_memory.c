/* What ferryd costs: memory beyond its pools, CPU when idle; and that its pools are really there. */
#include "server_kit.h"

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arith.h"
#include "clock.h"

#define MIB  ((uint64_t)1 << 20)
#define POOL (1024 * MIB)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static struct ferryt_server server;

static uint64_t status_kib(const char *key)
{
	char path[64], line[256];
	uint64_t value = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", server.pid);
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, strlen(key)) == 0)
			value = strtoull(line + strlen(key), NULL, 10);
	}
	fclose(f);
	return value;
}

static void skip_if_small(void)
{
	FILE *f = fopen("/proc/meminfo", "r");
	char line[256];
	uint64_t kib = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		sscanf(line, "MemAvailable: %" SCNu64, &kib);
	fclose(f);
	if (SANITIZED || kib * 1024 < 3 * POOL) {
		print_message(SANITIZED ? "a sanitizer has memory of its own\n"
					: "less than 3 GiB of memory are free\n");
		skip();
	}
}

/* Resident memory and page tables, less the pool's own. */
static void expect_small(const char *pool, uint64_t resident_pool)
{
	const char *const args[] = {"--pool", pool, "--fabric", "tcp,local", NULL};
	struct ferryt_conn conn;
	struct ferryt_lease lease;
	uint64_t used;

	ferryt_server_start(&server, args);
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "", "tcp", POOL, &lease, NULL, 0), 0);
	used = (status_kib("VmRSS:") + status_kib("VmPTE:")) * 1024;
	print_message("%s: %" PRIu64 " MiB beside the pool\n", pool,
		      (used - ferryi_min_u64(used, resident_pool)) / MIB);
	assert_true(used <= resident_pool + POOL / 100 + 64 * MIB);
	ferryt_conn_close(&conn);
	ferryt_server_end(&server);
}

static void memory__anon_pool__little_beside_it(void **state)
{
	(void)state;
	skip_if_small();
	expect_small("name=big,size=1G,backing=anon", POOL);
	assert_true(true);
}

static void memory__memfd_pool__little_beside_it(void **state)
{
	(void)state;
	skip_if_small();
	/* Memfds count as resident where they were touched only, and here nobody has. */
	expect_small("name=big,size=1G,backing=memfd", 0);
}

static void memory__not_reserved__is_taken_on_use_and_given_back(void **state)
{
	const char *const args[] = {"--pool", "name=big,size=1T,reserve=no,backing=anon", "--fabric", "tcp",
				    NULL};
	struct ferryt_conn conn;
	struct ferryt_lease lease;
	struct ferryt_data data;

	(void)state;
	if (SANITIZED)
		skip();
	ferryt_server_start(&server, args);
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "", "tcp", 64 * MIB, &lease, NULL, 0), 0);
	ferryt_data_open(&data, &server, &lease);
	ferryt_data_fill(&data, &lease, 1);
	assert_true(status_kib("VmRSS:") * 1024 >= 64 * MIB);
	ferryt_data_close(&data);
	assert_int_equal(ferryt_detach(&conn, lease.id, lease.epoch), 0);
	assert_true(ferryt_wait_free(&conn, (uint64_t)1 << 40));
	assert_true(status_kib("VmRSS:") * 1024 < 64 * MIB);
	ferryt_conn_close(&conn);
	ferryt_server_end(&server);
}

static uint64_t cpu_ticks(void)
{
	char path[64], text[1024];
	unsigned long long user = 0, system = 0;
	const char *at;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", server.pid);
	f = fopen(path, "r");
	assert_non_null(f);
	text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
	fclose(f);
	at = strrchr(text, ')');
	assert_non_null(at);
	assert_int_equal(
		sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system), 2);
	return user + system;
}

/* With a session, a lease and a data connection open, and nothing asked of it. */
static void cpu__idle__under_1_percent(void **state)
{
	const char *const args[] = {"--pool", "name=hot,size=64M", "--keepalive", "20s", "--timeout", "60s",
				    NULL};
	const uint64_t tick_ms = 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
	struct ferryt_conn conn;
	struct ferryt_lease lease;
	struct ferryt_data data;
	uint64_t before, used_ms;

	(void)state;
	ferryt_server_start(&server, args);
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "", "tcp", 4 * MIB, &lease, NULL, 0), 0);
	ferryt_data_open(&data, &server, &lease);
	ferryt_data_fill(&data, &lease, 1);
	before = cpu_ticks();
	/* Nothing is expected of the process but to stay: its end would wake us. */
	struct pollfd pfd = {.fd = server.pid_fd, .events = POLLIN};
	assert_int_equal(poll(&pfd, 1, 5000), 0);
	used_ms = (cpu_ticks() - before) * tick_ms;
	print_message("idle: %" PRIu64 " ms of CPU in 5000 ms\n", used_ms);
	assert_true(used_ms <= 50);
	assert_true(ferryt_keepalive(&conn));
	ferryt_data_close(&data);
	ferryt_conn_close(&conn);
	ferryt_server_end(&server);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory__anon_pool__little_beside_it),
		cmocka_unit_test(memory__memfd_pool__little_beside_it),
		cmocka_unit_test(memory__not_reserved__is_taken_on_use_and_given_back),
		cmocka_unit_test(cpu__idle__under_1_percent),
	};

	ferryi_fabric_setup();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
