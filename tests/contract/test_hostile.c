/*
 * Strangers: garbage, half a handshake, floods. The clients that have a lease
 * must not notice.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "harness.h"

static bool is_local(void)
{
	return !strcmp(ferryt_row->name, "local");
}

/* The Unix socket of the local row: its address is "local:@name". */
static int connect_unix(const char *addr, int type)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	const char *name = strchr(addr, '@');
	int sock = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	assert_non_null(name);
	assert_true(sock >= 0);
	memcpy(sun.sun_path + 1, name + 1, strlen(name + 1));
	if (connect(sock, (struct sockaddr *)&sun,
		    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name)))) {
		close(sock);
		return -errno;
	}
	return sock;
}

/* The first port number in "row:host:port...", or 0. */
static int port_of(const char *addr)
{
	const char *colon = strrchr(addr, ':');

	return colon ? atoi(colon + 1) : 0;
}

static int connect_tcp(int port)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(sock >= 0);
	if (inet_pton(AF_INET, ferryt_host(), &sin.sin_addr) != 1 ||
	    connect(sock, (struct sockaddr *)&sin, sizeof(sin))) {
		close(sock);
		return -1;
	}
	return sock;
}

/* A stranger's socket to the server under test, or -1 where a stranger cannot even connect (verbs). */
static int stranger(const struct ferryt_world *w)
{
	if (is_local())
		return connect_unix(w->tenant.addr, SOCK_SEQPACKET);
	if (!strcmp(ferryt_row->name, "tcp") || !strcmp(ferryt_row->name, "rdm"))
		return connect_tcp(port_of(w->tenant.addr));
	return -1;
}

static void assert_undisturbed(struct ferryt_world *w)
{
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
	assert_int_equal(ferryt_pattern_check(w->buf, 1, 0, 4096), 4096);
	ferryt_world_reconnect(w);
	struct ferryi_peer *peer = ferryt_peer_open(&w->tenant);

	ferryt_import(peer, &w->region);
	struct ferryi_channel *channel = ferryt_channel_open(peer, 4, w->buf, MIB);

	assert_int_equal(ferryt_read(channel, &w->region, 0, w->buf, 4096), 0);
	ferryt_channel_end(&channel);
	ferryi_peer_close(&peer);
}

static void stranger__sends_garbage__nobody_notices(void **state)
{
	static const size_t lens[] = {1, 4, 16, 47, 48, 49, 64, 100, 512, 4096, 60000};
	struct ferryt_world *w = *state;

	for (unsigned round = 0; round < 4; round++) {
		for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
			int sock = stranger(w);

			if (sock < 0)
				skip();
			if (round == 0)
				memset(w->buf, 0, lens[i]);
			else if (round == 1)
				memset(w->buf, 0xff, lens[i]);
			else
				ferryt_pattern_fill(w->buf, 1000 * round + i, 0, lens[i]);
			(void)send(sock, w->buf, lens[i], MSG_NOSIGNAL);
			/* half of them wait for what the server makes of it */
			if (i % 2) {
				struct pollfd pfd = {.fd = sock, .events = POLLIN};

				(void)poll(&pfd, 1, 20);
			}
			close(sock);
		}
	}
	assert_undisturbed(w);
}

static void stranger__says_nothing__others_get_in(void **state)
{
	enum { N = 200 };
	struct ferryt_world *w = *state;
	int sock[N];
	unsigned n = 0;

	for (; n < N; n++) {
		sock[n] = stranger(w);
		if (sock[n] < 0)
			break;
		/* every third begins to speak and stops in the middle */
		if (n % 3 == 0)
			(void)send(sock[n], "FRYL", 3, MSG_NOSIGNAL);
	}
	if (n == 0)
		skip();
	assert_undisturbed(w);
	while (n > 0)
		close(sock[--n]);
	assert_undisturbed(w);
}

/* ---- the local row's own conversation ---- */

/* As common/fabric/local.h lays it out; written down again so that a change of it is noticed here. */
struct request {
	uint32_t magic;
	uint16_t version, kind;
	uint64_t key;
	uint8_t token[FERRYI_TOKEN_LEN];
};

#define MAGIC 0x4c595246u

/* True when the server closed the connection, after at most one answer. */
static bool is_cut_off(int sock)
{
	uint64_t until = ferryi_deadline_ms(FERRYT_PATIENCE_MS);
	char answer[256];

	for (int i = 0; i < 3; i++) {
		struct pollfd pfd = {.fd = sock, .events = POLLIN};

		if (poll(&pfd, 1, ferryi_remaining_ms(until)) <= 0)
			return false;
		if (recv(sock, answer, sizeof(answer), MSG_DONTWAIT) <= 0)
			return true;
	}
	return false;
}

static void local__import_without_hello__is_cut_off(void **state)
{
	struct ferryt_world *w = *state;

	if (!is_local())
		skip();
	struct request import = {.magic = MAGIC, .version = 1, .kind = 2, .key = w->region.remote.key};
	int sock = stranger(w);

	assert_true(sock >= 0);
	assert_int_equal(send(sock, &import, sizeof(import), MSG_NOSIGNAL), sizeof(import));
	assert_true(is_cut_off(sock));
	close(sock);
	assert_undisturbed(w);
}

static void local__wrong_version_or_token__is_cut_off(void **state)
{
	struct ferryt_world *w = *state;

	if (!is_local())
		skip();
	for (int i = 0; i < 3; i++) {
		struct request hello = {.magic = MAGIC, .version = 1, .kind = 1};
		int sock = stranger(w);

		memcpy(hello.token, w->tenant.token, sizeof(hello.token));
		if (i == 0)
			hello.version = 2;
		else if (i == 1)
			hello.token[0] ^= 0x80;
		else
			hello.kind = 77;
		assert_int_equal(send(sock, &hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
		assert_true(is_cut_off(sock));
		close(sock);
	}
	assert_undisturbed(w);
}

static void local__second_hello__is_cut_off(void **state)
{
	struct ferryt_world *w = *state;

	if (!is_local())
		skip();
	struct request hello = {.magic = MAGIC, .version = 1, .kind = 1};
	int sock = stranger(w);

	memcpy(hello.token, w->tenant.token, sizeof(hello.token));
	assert_int_equal(send(sock, &hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
	assert_int_equal(send(sock, &hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
	assert_true(is_cut_off(sock));
	close(sock);
	assert_undisturbed(w);
}

/* Asks and never reads: the server must not wait for it, nor gather descriptors for it without end. */
static void local__client_that_does_not_read__is_cut_off(void **state)
{
	struct ferryt_world *w = *state;

	if (!is_local())
		skip();
	struct request hello = {.magic = MAGIC, .version = 1, .kind = 1};
	struct request import = {.magic = MAGIC, .version = 1, .kind = 2, .key = w->region.remote.key};
	uint64_t until = ferryi_deadline_ms(FERRYT_PATIENCE_MS);
	int sock = stranger(w);
	bool cut = false;

	memcpy(hello.token, w->tenant.token, sizeof(hello.token));
	assert_int_equal(send(sock, &hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
	while (!cut && ferryi_now_ns() < until) {
		ssize_t n = send(sock, &import, sizeof(import), MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno != EAGAIN)
			cut = true;
		if (n < 0 && errno == EAGAIN) {
			struct pollfd pfd = {.fd = sock, .events = POLLOUT};

			(void)poll(&pfd, 1, 100);
		}
	}
	assert_true(cut);
	close(sock);
	assert_undisturbed(w);
}

/* What a client was given it cannot use to keep the server from taking it back. */
static void local__lent_memfd__cannot_be_sealed_or_grown(void **state)
{
	struct ferryt_world *w = *state;
	char path[64];
	int fd = -1;

	if (!is_local())
		skip();
	for (int i = 3; i < 1024 && fd < 0; i++) {
		char link[64] = "";

		snprintf(path, sizeof(path), "/proc/self/fd/%d", i);
		if (readlink(path, link, sizeof(link) - 1) > 0 && strstr(link, "memfd:ferry-contract"))
			fd = i;
	}
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), -1);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	assert_int_equal(ftruncate(fd, 2 * FERRYT_WORLD_LEN), -1);
	ferryt_region_reuse(&w->region, 2);
	assert_int_equal(lseek(fd, 0, SEEK_END), 0);
	assert_int_equal(ftruncate(fd, 4096), -1);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(pread(fd, path, 1, 0), 0);
}

/* ---- the local row at the limits of the two processes ---- */

static unsigned highest_descriptor(pid_t pid)
{
	char path[64];
	unsigned highest = 0;
	struct dirent *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	DIR *dir = opendir(path);

	assert_non_null(dir);
	while ((d = readdir(dir))) {
		unsigned n = (unsigned)atoi(d->d_name);

		highest = n > highest ? n : highest;
	}
	closedir(dir);
	return highest;
}

/* Sets the soft limit and returns the old one. */
static rlim_t limit_set(pid_t pid, __rlimit_resource_t what, rlim_t soft)
{
	struct rlimit limit, old;

	assert_int_equal(prlimit(pid, what, NULL, &old), 0);
	limit = old;
	limit.rlim_cur = soft;
	assert_int_equal(prlimit(pid, what, &limit, NULL), 0);
	return old.rlim_cur;
}

static void local__server_out_of_descriptors__refuses_and_recovers(void **state)
{
	struct ferryt_world *w = *state;
	int sock[16];

	if (!is_local())
		skip();
	rlim_t old = limit_set(ferryt_node.pid, RLIMIT_NOFILE, highest_descriptor(ferryt_node.pid) + 2);
	uint64_t cpu = ferryt_server_cpu_us();

	for (int i = 0; i < 16; i++)
		sock[i] = stranger(w);
	/* those beyond the limit are closed, and do not wake the server for ever */
	assert_true(is_cut_off(sock[15]));
	poll(NULL, 0, 300);
	cpu = ferryt_server_cpu_us() - cpu;
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
	limit_set(ferryt_node.pid, RLIMIT_NOFILE, old);
	for (int i = 0; i < 16; i++)
		close(sock[i]);
	if (cpu > 100000)
		fail_msg("a server out of descriptors used %llu us of CPU in 0.3 s", (unsigned long long)cpu);
	assert_undisturbed(w);
}

static void local__client_out_of_descriptors__import_says_so(void **state)
{
	struct ferryt_world *w = *state;

	if (!is_local())
		skip();
	struct ferryt_region region = ferryt_region_open(&w->tenant, 4096, FERRYT_RW, 5);
	rlim_t old = limit_set(getpid(), RLIMIT_NOFILE, 3);
	int err = ferryi_peer_import(w->peer, &region.remote, ferryi_deadline_ms(FERRYT_PATIENCE_MS));

	limit_set(getpid(), RLIMIT_NOFILE, old);
	assert_int_equal(err, -EMFILE);
	ferryt_import(w->peer, &region);
	assert_int_equal(ferryt_read(w->channel, &region, 0, w->buf, 4096), 0);
	ferryt_region_drop(&region);
}

/* Beyond this limit the kernel would kill the application with SIGXFSZ. */
static void local__client_with_file_size_limit__import_says_so(void **state)
{
	struct ferryt_world *w = *state;

	if (!is_local())
		skip();
	/* as if a lease were that long: a limit as low as a real one's would hit this program's own log */
	struct ferryt_region region = ferryt_region_open(&w->tenant, MIB, FERRYT_RW, 5);

	region.remote.len_bytes = (uint64_t)1 << 40;
	rlim_t old = limit_set(getpid(), RLIMIT_FSIZE, (rlim_t)1 << 39);
	int err = ferryi_peer_import(w->peer, &region.remote, ferryi_deadline_ms(FERRYT_PATIENCE_MS));

	limit_set(getpid(), RLIMIT_FSIZE, old);
	assert_int_equal(err, -EFBIG);
	ferryt_region_drop(&region);
}

static void peer__bad_address__is_refused_with_einval(void **state)
{
	static const char *const bad[] = {"", ":", "nonsense", "nosuchrow:1", "@", "127.0.0.1:1"};
	char longer[600];

	(void)state;
	for (size_t i = 0; i <= sizeof(bad) / sizeof(bad[0]); i++) {
		struct ferryi_peer_attr attr = {
			.row = ferryt_row, .addr = longer, .control_host = ferryt_host()};
		struct ferryi_peer *peer = NULL;

		if (i < sizeof(bad) / sizeof(bad[0])) {
			attr.addr = bad[i];
		} else {
			memset(longer, 'a', sizeof(longer) - 1);
			longer[sizeof(longer) - 1] = '\0';
			memcpy(longer, ferryt_row->name, strlen(ferryt_row->name));
			longer[strlen(ferryt_row->name)] = ':';
		}
		assert_int_equal(ferryi_peer_open(&attr, ferryi_deadline_ms(5000), &peer), -EINVAL);
		assert_null(peer);
	}
}

int ferryt_group_hostile(void)
{
	const struct CMUnitTest tests[] = {
		FERRYT_TEST(stranger__sends_garbage__nobody_notices),
		FERRYT_TEST(stranger__says_nothing__others_get_in),
		FERRYT_TEST(local__import_without_hello__is_cut_off),
		FERRYT_TEST(local__wrong_version_or_token__is_cut_off),
		FERRYT_TEST(local__second_hello__is_cut_off),
		FERRYT_TEST(local__client_that_does_not_read__is_cut_off),
		FERRYT_TEST(local__lent_memfd__cannot_be_sealed_or_grown),
		FERRYT_TEST(local__server_out_of_descriptors__refuses_and_recovers),
		FERRYT_TEST(local__client_out_of_descriptors__import_says_so),
		FERRYT_TEST(local__client_with_file_size_limit__import_says_so),
		FERRYT_TEST(peer__bad_address__is_refused_with_einval),
	};

	return cmocka_run_group_tests_name("hostile", tests, NULL, NULL);
}
