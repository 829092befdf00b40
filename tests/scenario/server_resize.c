/*
 * Pools that grow and shrink while clients have them: SIGHUP after a change of
 * the config file. For every backing; the bare protocol shows where the memory
 * is.
 */
#include "server_kit.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)

static struct ferryt_server server;
static char dir[] = "/tmp/ferryt-resize-XXXXXX";
static char config_path[64], file_path[64];

/* A kind of pool, and the fabric that lends it. */
struct kind {
	const char *keys, *fabric;
};

static void write_config(const struct kind *kind, unsigned size_mib)
{
	FILE *f = fopen(config_path, "w");

	assert_non_null(f);
	fprintf(f, "[server]\nlog-level = info\n[pool hot]\nsize = %uM\n", size_mib);
	if (strstr(kind->keys, "fs_dax"))
		fprintf(f, "path = %s\n", file_path);
	fprintf(f, "%s\n", kind->keys);
	assert_int_equal(fclose(f), 0);
}

/* The server reads the file again and says this. */
static void reload(const struct kind *kind, unsigned size_mib, const char *words)
{
	write_config(kind, size_mib);
	kill(server.pid, SIGHUP);
	if (!ferryt_server_says(&server, words))
		fail_msg("no '%s' in:\n%s", words, ferryt_server_words(&server));
}

static void start(const struct kind *kind, unsigned size_mib)
{
	/* Connections of the kit send no keep-alives while something else is waited for. */
	const char *const args[] = {"--config", config_path, "--fabric", "local,tcp", "--timeout", "600s", NULL};

	write_config(kind, size_mib);
	ferryt_server_start(&server, args);
}

static void expect_size(struct ferryt_conn *conn, uint64_t size_mib)
{
	Farferry__PoolInfo info;

	ferryt_pool_info(conn, 0, &info);
	assert_int_equal(info.size_bytes, size_mib * MIB);
}

static bool is_beyond(const struct ferryt_lease *lease, uint64_t off)
{
	for (unsigned i = 0; i < lease->nextents; i++) {
		if (lease->extents[i].pool_off + lease->extents[i].remote.len_bytes > off)
			return true;
	}
	return false;
}

/* From the middle of one section into the next, and back, with a lease that lives through all of it. */
static void grow_and_shrink(const struct kind *kind)
{
	struct ferryt_conn conn, second;
	struct ferryt_lease low, high;
	struct ferryt_data low_data, high_data;
	char text[512];

	start(kind, 20);
	ferryt_conn_login(&conn, &server);
	ferryt_conn_login(&second, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", kind->fabric, 20 * MIB, &low, NULL, 0), 0);
	ferryt_data_open(&low_data, &server, &low);
	ferryt_data_fill(&low_data, &low, 1);
	assert_int_equal(ferryt_attach(&second, "hot", kind->fabric, 2 * MIB, &high, text, sizeof(text)),
			 FARFERRY__CODE__CODE_FULL);

	reload(kind, 150, "reload: pool hot: size is 150M now");
	expect_size(&conn, 150);
	assert_int_equal(ferryt_attach(&second, "hot", kind->fabric, 130 * MIB, &high, NULL, 0), 0);
	assert_int_equal(high.pool_size, 150 * MIB);
	assert_true(is_beyond(&high, 128 * MIB));
	ferryt_data_open(&high_data, &server, &high);
	ferryt_data_expect_zero(&high_data, &high);
	ferryt_data_fill(&high_data, &high, 2);
	ferryt_data_expect(&low_data, &low, 1);

	/* Nothing goes while it is lent. */
	reload(kind, 22, "pool hot: cannot shrink to 22M: 128M beyond it is leased, between 22M and 150M");
	expect_size(&conn, 150);
	ferryt_data_expect(&high_data, &high, 2);
	ferryt_data_close(&high_data);
	assert_int_equal(ferryt_detach(&second, high.id, high.epoch), 0);

	/* What is being zeroed is waited for. */
	reload(kind, 22, "reload: pool hot: size is 22M now");
	expect_size(&conn, 22);
	ferryt_data_expect(&low_data, &low, 1);
	assert_int_equal(ferryt_attach(&second, "hot", kind->fabric, 4 * MIB, &high, text, sizeof(text)),
			 FARFERRY__CODE__CODE_FULL);

	/* And again, to a section that was given back; it is zero. */
	reload(kind, 140, "reload: pool hot: size is 140M now");
	assert_int_equal(ferryt_attach(&second, "hot", kind->fabric, 120 * MIB, &high, NULL, 0), 0);
	ferryt_data_open(&high_data, &server, &high);
	ferryt_data_expect_zero(&high_data, &high);
	ferryt_data_close(&high_data);
	ferryt_data_expect(&low_data, &low, 1);
	ferryt_data_close(&low_data);
	ferryt_conn_close(&second);
	ferryt_conn_close(&conn);
	ferryt_server_end(&server);
}

static void resize__anon__grows_and_shrinks_under_leases(void **state)
{
	(void)state;
	grow_and_shrink(&(struct kind){"backing = anon", "tcp"});
}

static void resize__anon_not_reserved__grows_and_shrinks_under_leases(void **state)
{
	(void)state;
	grow_and_shrink(&(struct kind){"backing = anon\nreserve = no", "tcp"});
}

static void resize__memfd__grows_and_shrinks_under_leases(void **state)
{
	(void)state;
	grow_and_shrink(&(struct kind){"backing = memfd", "local"});
}

static void resize__memfd_not_reserved__grows_and_shrinks_under_leases(void **state)
{
	(void)state;
	grow_and_shrink(&(struct kind){"backing = memfd\nreserve = no", "local"});
}

/* /dev/zero stands in for a device; unlike a /dev/dax it does not say where it ends. */
static void resize__device__shrinks_and_grows_only_with_a_known_end(void **state)
{
	const struct kind kind = {"type = generic\npath = /dev/zero", "tcp"};
	struct ferryt_conn conn;
	struct ferryt_lease low;
	struct ferryt_data data;

	(void)state;
	start(&kind, 300);
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", kind.fabric, 20 * MIB, &low, NULL, 0), 0);
	ferryt_data_open(&data, &server, &low);
	ferryt_data_fill(&data, &low, 1);
	reload(&kind, 22, "reload: pool hot: size is 22M now");
	expect_size(&conn, 22);
	reload(&kind, 300, "does not say what it has, so the pool cannot grow");
	expect_size(&conn, 22);
	ferryt_data_expect(&data, &low, 1);
	ferryt_data_close(&data);
	ferryt_conn_close(&conn);
	ferryt_server_end(&server);
}

static void resize__file__grows_and_shrinks_with_the_pool(void **state)
{
	const struct kind kind = {"type = fs_dax", "tcp"};
	struct stat st;

	(void)state;
	grow_and_shrink(&kind);
	assert_int_equal(stat(file_path, &st), 0);
	assert_int_equal(st.st_size, 140 * MIB);
	/* So that it can be served again at the size that the config file has now. */
	start(&kind, 140);
	ferryt_server_end(&server);
	unlink(file_path);
}

static void resize__anything_else__needs_a_restart(void **state)
{
	const struct kind kind = {"backing = anon", "tcp"};
	struct ferryt_conn conn;
	FILE *f;

	(void)state;
	start(&kind, 4);
	ferryt_conn_login(&conn, &server);
	reload(&(struct kind){"backing = memfd", "tcp"}, 8, "pool hot: only its size can change");
	expect_size(&conn, 4);
	f = fopen(config_path, "w");
	assert_non_null(f);
	fputs("[pool cold]\nsize = 4M\n", f);
	fclose(f);
	kill(server.pid, SIGHUP);
	assert_true(ferryt_server_says(&server, "pool hot is not there any more"));
	expect_size(&conn, 4);
	reload(&kind, 1 << 20, "does not fit in memory");
	expect_size(&conn, 4);
	reload(&kind, 6, "size is 6M now");
	ferryt_conn_close(&conn);
	ferryt_server_end(&server);
}

static int make_dir(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(config_path, sizeof(config_path), "%s/ferryd.conf", dir);
	snprintf(file_path, sizeof(file_path), "%s/pool", dir);
	ferryi_fabric_setup();
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	unlink(config_path);
	unlink(file_path);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(resize__anon__grows_and_shrinks_under_leases),
		cmocka_unit_test(resize__anon_not_reserved__grows_and_shrinks_under_leases),
		cmocka_unit_test(resize__memfd__grows_and_shrinks_under_leases),
		cmocka_unit_test(resize__memfd_not_reserved__grows_and_shrinks_under_leases),
		cmocka_unit_test(resize__device__shrinks_and_grows_only_with_a_known_end),
		cmocka_unit_test(resize__file__grows_and_shrinks_with_the_pool),
		cmocka_unit_test(resize__anything_else__needs_a_restart),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
