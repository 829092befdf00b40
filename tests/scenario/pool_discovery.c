/*
 * Servers that are found: by etcd, where ferryd --register puts them, and by
 * DNS SRV records. argv[1]: the fabric row. A real etcd, in a folder of the
 * test's own and on free ports of the loopback; a name server of the test's own.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "etcd.h"
#include "pager_kit.h"

#define MIB(n)	 ((n) * FERRYT_MIB)
#define PAGES(n) (MIB(n) / FERRYT_PAGE)
#define WAIT_MS	 60000
#define CALL_MS	 5000

extern char **environ;

/* ---- etcd ---- */

static char etcd_dir[] = "/tmp/ferryt-etcd-XXXXXX";
static uint16_t etcd_port, peer_port;
static pid_t etcd_pid;
static struct ferryt_child more[2]; /* of one token with the kit's, which is registered nowhere */

static uint16_t free_port(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
	close(fd);
	return ntohs(addr.sin_port);
}

static struct ferryi_etcd etcd_of(const char *prefix)
{
	struct ferryi_etcd etcd = { .host = "127.0.0.1", .port = etcd_port };

	snprintf(etcd.prefix, sizeof(etcd.prefix), "%s", prefix);
	return etcd;
}

/* How many servers are registered under the prefix; -1: it does not answer. */
static int nr_registered(const char *prefix)
{
	static struct ferryi_servers servers;
	struct ferryi_etcd etcd = etcd_of(prefix);
	char err[FERRYI_DISCOVER_ERR_LEN];
	int64_t revision;

	return ferryi_etcd_list(&etcd, ferryi_deadline_ms(CALL_MS), -1, &servers, &revision, err, sizeof(err)) ? -1 :
															 (int)servers.nr;
}

static bool wait_registered(const char *prefix, int nr)
{
	uint64_t deadline_ns = ferryi_deadline_ms(WAIT_MS);

	while (nr_registered(prefix) != nr) {
		if (ferryi_now_ns() >= deadline_ns)
			return false;
		poll(NULL, 0, 10);
	}
	return true;
}

/* false: there is no etcd on this machine. */
static bool etcd_start(void)
{
	char client[64], peer[64], cluster[80], data[64];
	const char *const argv[] = { "etcd", "--name", "t", "--data-dir", data, "--listen-client-urls", client,
			       "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls",
			       peer, "--initial-cluster", cluster, "--logger", "zap", "--log-level", "error", NULL };

	snprintf(client, sizeof(client), "http://127.0.0.1:%u", etcd_port);
	snprintf(peer, sizeof(peer), "http://127.0.0.1:%u", peer_port);
	snprintf(cluster, sizeof(cluster), "t=%s", peer);
	snprintf(data, sizeof(data), "%s/data", etcd_dir);
	if (posix_spawnp(&etcd_pid, argv[0], NULL, NULL, (char *const *)argv, environ))
		return false;
	assert_true(wait_registered("nothing", 0));
	return true;
}

static void etcd_end(bool forget)
{
	char command[96];

	kill(etcd_pid, SIGKILL);
	waitpid(etcd_pid, NULL, 0);
	snprintf(command, sizeof(command), "rm -rf %s/*", etcd_dir);
	if (forget)
		assert_int_equal(system(command), 0);
}

static const char *etcd_url(const char *prefix)
{
	static char url[160];

	snprintf(url, sizeof(url), "etcd://127.0.0.1:%u/%s?fabric=%s", etcd_port, prefix, ferryt_row());
	return url;
}

static void start_registered(struct ferryt_child *child, const char *prefix)
{
	char at[128];
	const char *args[] = { "--register", at, "--register-ttl", "2s", NULL };

	snprintf(at, sizeof(at), "etcd://127.0.0.1:%u/%s/", etcd_port, prefix);
	ferryt_child_start_beside_with(child, ferryt_server(), args);
}

/* ---- clients ---- */

static struct ferry_config config_of(const char *servers)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);

	cfg.servers = servers;
	cfg.pool = "test";
	cfg.policy = "round-robin";
	return cfg;
}

static size_t used_mib(struct ferry *ferry, unsigned i)
{
	struct ferry_pool_info info = { .size = sizeof(info) };
	struct ferry_pool *pool = ferry_pool_at(ferry, i);

	CHECK(pool);
	CHECK_INT(ferry_pool_info(pool, &info), 0);
	ferry_pool_put(pool);
	return info.used_bytes / FERRYT_MIB;
}

static void wait_pool(struct ferry *ferry, unsigned i)
{
	uint64_t deadline_ns = ferryi_deadline_ms(WAIT_MS);
	struct ferry_pool *pool;

	while (!(pool = ferry_pool_at(ferry, i)))
		CHECK(poll(NULL, 0, 5) == 0 && ferryi_now_ns() < deadline_ns);
	ferry_pool_put(pool);
}

static uint8_t *map(struct ferry *ferry, size_t mib)
{
	uint8_t *p = ferry_mmap(ferry, NULL, MIB(mib), PROT_READ | PROT_WRITE, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

/* ---- by etcd ---- */

static int go_on[2]; /* the test lets its client's next part begin; and is told that one is over */
static int is_over[2];

static void step_over(void)
{
	char byte;

	CHECK_INT(write(is_over[1], "x", 1), 1);
	CHECK_INT(read(go_on[0], &byte, 1), 1);
}

static void watch_body(void)
{
	struct ferry_config cfg = config_of(etcd_url("watch"));
	struct ferry *ferry = NULL;

	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	uint8_t *p = map(ferry, 16);

	CHECK_INT(used_mib(ferry, 0), 16);
	ferryt_fill_away(ferry, p, PAGES(16), 1);
	step_over();
	wait_pool(ferry, 1); /* one more has registered */
	uint8_t *q = map(ferry, 16);

	CHECK_INT(used_mib(ferry, 0), 24);
	CHECK_INT(used_mib(ferry, 1), 8);
	ferryt_fill_away(ferry, q, PAGES(16), 2);
	step_over(); /* that one is out of the list now, but holds pages: it stays */
	ferryt_verify(p, 0, PAGES(16), 1);
	ferryt_verify(q, 0, PAGES(16), 2);
	CHECK_INT(used_mib(ferry, 1), 8);
	CHECK_INT(ferry_close(ferry), 0);
}

static void etcd__server_registers_later_and_leaves__attached_and_kept(void **state)
{
	struct ferryi_etcd etcd = etcd_of("watch");
	char byte, err[FERRYI_DISCOVER_ERR_LEN];
	int64_t lease;
	int status;

	(void)state;
	start_registered(&more[0], "watch");
	assert_true(wait_registered("watch", 1));
	assert_int_equal(pipe(go_on) | pipe(is_over), 0);
	pid_t pid = fork();

	if (pid == 0) {
		watch_body();
		_exit(0);
	}
	assert_int_equal(read(is_over[0], &byte, 1), 1);
	/* What is no server's address does not disturb. */
	assert_int_equal(ferryi_etcd_grant(&etcd, 60, ferryi_deadline_ms(CALL_MS), -1, &lease, err, sizeof(err)), 0);
	assert_int_equal(ferryi_etcd_put(&etcd, "bad", "ferry://x:1,ferry://y:2", lease, ferryi_deadline_ms(CALL_MS), -1, err,
					 sizeof(err)), 0);
	start_registered(&more[1], "watch");
	assert_int_equal(write(go_on[1], "x", 1), 1);
	assert_int_equal(read(is_over[0], &byte, 1), 1);
	ferryt_child_signal(&more[1], SIGTERM); /* it drains: until its lease is given back it serves */
	assert_true(wait_registered("watch", 1));
	assert_int_equal(write(go_on[1], "x", 1), 1);
	status = ferryt_wait_child(pid, WAIT_MS);
	assert_int_equal(status, 0);
	assert_int_equal(ferryt_child_wait(&more[1]), 0);
	/* One that dies is out of it when its lease ends. */
	ferryt_child_end(&more[0]);
	assert_true(wait_registered("watch", 0));
}

static void etcd__restarts_with_nothing__server_registers_anew(void **state)
{
	(void)state;
	start_registered(&more[0], "again");
	assert_true(wait_registered("again", 1));
	etcd_end(true);
	assert_true(etcd_start());
	assert_true(wait_registered("again", 1));
	ferryt_child_end(&more[0]);
}

static void wrong_body(void)
{
	char nowhere[64];
	struct ferry_config cfg = config_of(etcd_url("nobody"));
	struct ferry *ferry = NULL;

	cfg.log_level = "error";
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EHOSTUNREACH, "no server is registered there");
	snprintf(nowhere, sizeof(nowhere), "etcd://127.0.0.1:9/ferry");
	cfg.servers = nowhere;
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EHOSTUNREACH, "127.0.0.1:9 cannot be reached");
	cfg.servers = "etcd:///ferry";
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EINVAL, "a host is wanted");
	/* A ferryd is no etcd. */
	snprintf(nowhere, sizeof(nowhere), "etcd%s/ferry", strchr(ferryt_server()->url, ':'));
	cfg.servers = nowhere;
	CHECK(ferry_open(&cfg, &ferry) < 0);
	CHECK(strstr(ferry_last_error(), "127.0.0.1"));
	/* With a list that may have gaps: the others do. */
	char list[256];

	snprintf(list, sizeof(list), "etcd://127.0.0.1:9/ferry,%s", ferryt_server_url());
	cfg.servers = list;
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EHOSTUNREACH, "127.0.0.1:9");
	cfg.servers_optional = "yes";
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	map(ferry, 2);
	CHECK_INT(ferry_close(ferry), 0);
}

static void open__no_etcd_or_nobody_there__one_line(void **state)
{
	(void)state;
	RUN(wrong_body);
}

/* A server of the list that was away comes: the same thread finds it. */
static void later_body(void)
{
	char list[256] = "", listen[32];
	uint16_t port = free_port();
	const char *args[] = { "--listen", listen, NULL };
	struct ferry_config cfg = config_of(list);
	struct ferry *ferry = NULL;
	struct ferryt_child late;

	snprintf(listen, sizeof(listen), "127.0.0.1:%u", port);
	snprintf(list, sizeof(list), "%s,ferry://%s?fabric=%s,etcd://127.0.0.1:9/none", ferryt_server_url(), listen, ferryt_row());
	cfg.servers_optional = "yes";
	cfg.log_level = "error";
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	CHECK(ferry_pool_at(ferry, 1) == NULL);
	ferryt_child_start_beside_with(&late, ferryt_server(), args);
	wait_pool(ferry, 1);
	map(ferry, 8);
	CHECK_INT(used_mib(ferry, 1), 4);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_child_end(&late);
}

static void server_of_list__away_at_open__attached_when_it_comes(void **state)
{
	(void)state;
	RUN(later_body);
}

/* ---- by DNS ---- */

static int dns_fd;
static uint16_t dns_port;
static uint16_t srv_port[2]; /* of the servers that the records name */

static size_t put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
	return 2;
}

/* One SRV record for the question's name (a pointer to it), target "localhost". */
static size_t put_srv(uint8_t *at, unsigned priority, unsigned weight, unsigned port)
{
	static const uint8_t target[] = "\tlocalhost";
	uint8_t *p = at;

	p += put16(p, 0xc00c);
	p += put16(p, 33);
	p += put16(p, 1);
	p += put16(p, 0);
	p += put16(p, 60);
	p += put16(p, 6 + sizeof(target));
	p += put16(p, priority);
	p += put16(p, weight);
	p += put16(p, port);
	memcpy(p, target, sizeof(target));
	return (size_t)(p - at) + sizeof(target);
}

/* The first label decides: _ferry has two servers, _empty no record, all others do not exist. */
static size_t answer(uint8_t *msg, size_t len)
{
	bool is_ferry = len > 13 && memcmp(msg + 12, "\x06_ferry", 7) == 0, is_empty = memcmp(msg + 12, "\x06_empty", 7) == 0;

	msg[2] = 0x84; /* an answer, with authority */
	msg[3] = is_ferry || is_empty ? 0x80 : 0x83;
	put16(msg + 6, is_ferry ? 2 : 0);
	put16(msg + 8, 0);
	put16(msg + 10, 0);
	for (size_t at = 12; at < len; at += msg[at] + 1u) { /* what follows the question goes: EDNS */
		if (!msg[at]) {
			len = at + 5;
			break;
		}
	}
	if (is_ferry)
		len += put_srv(msg + len, 20, 0, srv_port[1]);
	if (is_ferry)
		len += put_srv(msg + len, 10, 0, srv_port[0]);
	return len;
}

static void *dns_main(void *arg)
{
	uint8_t msg[1024];
	struct sockaddr_in from;

	(void)arg;
	for (;;) {
		socklen_t from_len = sizeof(from);
		ssize_t n = recvfrom(dns_fd, msg, 512, 0, (struct sockaddr *)&from, &from_len);

		if (n < 20)
			return NULL; /* shut down */
		sendto(dns_fd, msg, answer(msg, (size_t)n), 0, (struct sockaddr *)&from, from_len);
	}
}

static void dns_start(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(addr);
	pthread_t thread;

	dns_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(dns_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(getsockname(dns_fd, (struct sockaddr *)&addr, &len), 0);
	dns_port = ntohs(addr.sin_port);
	assert_int_equal(pthread_create(&thread, NULL, dns_main, NULL), 0);
	pthread_detach(thread);
}

static void srv_body(void)
{
	char url[160] = "", first[16];
	struct ferry_config cfg = config_of(url);
	struct ferry_pool_info info = { .size = sizeof(info) };
	struct ferry *ferry = NULL;

	srv_port[0] = (uint16_t)atoi(strrchr(more[0].url, ':') + 1);
	srv_port[1] = (uint16_t)atoi(strrchr(more[1].url, ':') + 1);
	dns_start();
	snprintf(url, sizeof(url), "ferry+srv://_ferry._tcp.example.org?dns=127.0.0.1:%u&fabric=%s", dns_port, ferryt_row());
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	uint8_t *p = map(ferry, 16);

	CHECK_INT(used_mib(ferry, 0), 8);
	CHECK_INT(used_mib(ferry, 1), 8);
	ferryt_fill_away(ferry, p, PAGES(16), 3);
	ferryt_verify(p, 0, PAGES(16), 3);
	/* The lower priority first. */
	struct ferry_pool *pool = ferry_pool_at(ferry, 0);

	CHECK_INT(ferry_pool_info(pool, &info), 0);
	ferry_pool_put(pool);
	snprintf(first, sizeof(first), ":%u", srv_port[0]);
	CHECK(strstr(info.server, first));
	CHECK_INT(ferry_close(ferry), 0);

	snprintf(url, sizeof(url), "ferry+srv://_empty._tcp.example.org?dns=127.0.0.1:%u", dns_port);
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EHOSTUNREACH, "no SRV record");
	snprintf(url, sizeof(url), "ferry+srv://_none._tcp.example.org?dns=127.0.0.1:%u", dns_port);
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EHOSTUNREACH, "no such name: _none._tcp.example.org");
	snprintf(url, sizeof(url), "ferry+srv://_ferry._tcp.example.org?dns=here");
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EINVAL, "IPv4");
}

static void srv__two_records__both_and_in_order(void **state)
{
	(void)state;
	ferryt_child_start_beside(&more[0], ferryt_server());
	ferryt_child_start_beside(&more[1], ferryt_server());
	RUN(srv_body);
	ferryt_child_end(&more[0]);
	ferryt_child_end(&more[1]);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(srv__two_records__both_and_in_order),
		cmocka_unit_test(etcd__server_registers_later_and_leaves__attached_and_kept),
		cmocka_unit_test(etcd__restarts_with_nothing__server_registers_anew),
		cmocka_unit_test(open__no_etcd_or_nobody_there__one_line),
		cmocka_unit_test(server_of_list__away_at_open__attached_when_it_comes),
	};
	int rc = ferryt_needs_uffd();

	if (rc)
		return rc;
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	if (!mkdtemp(etcd_dir))
		return 1;
	etcd_port = free_port();
	peer_port = free_port();
	if (!etcd_start()) {
		puts("SKIP: etcd is not installed (Debian: etcd-server)");
		rmdir(etcd_dir);
		return 77;
	}
	ferryt_server_start_with(argc > 1 ? argv[1] : "local", NULL);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	ferryt_server_end();
	etcd_end(true);
	rmdir(etcd_dir);
	return rc;
}
