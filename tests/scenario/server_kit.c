/* A real ferryd, and a bare client. See server_kit.h. */
#include "server_kit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arith.h"
#include "clock.h"
#include "url.h"

extern char **environ;

/* ---- the server process ---- */

enum { CHILD_TOKEN = 11, CHILD_LIFELINE, CHILD_READY };

static int words_new(void)
{
	int fd = memfd_create("ferryd-words", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

/* Into the range above what the child's descriptors are given. */
static int move_up(int fd)
{
	int up = fcntl(fd, F_DUPFD_CLOEXEC, 32);

	assert_true(up >= 0);
	close(fd);
	return up;
}

static pid_t spawn(const char *const *args, const int map[][2], size_t nmap)
{
	char *argv[FERRYT_ARGS_MAX + 2] = {(char *)FERRYT_FERRYD};
	posix_spawn_file_actions_t actions;
	pid_t pid;
	int n = 1;

	while (*args) {
		assert_true(n < FERRYT_ARGS_MAX);
		argv[n++] = (char *)*args++;
	}
	posix_spawn_file_actions_init(&actions);
	for (size_t i = 0; i < nmap; i++)
		posix_spawn_file_actions_adddup2(&actions, map[i][0], map[i][1]);
	assert_int_equal(posix_spawn(&pid, FERRYT_FERRYD, &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	return pid;
}

static int pid_open(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	assert_true(fd >= 0);
	return fd;
}

static bool wait_readable(int fd, uint64_t deadline_ns)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};

	for (;;) {
		int n = poll(&pfd, 1, ferryi_remaining_ms(deadline_ns));

		if (n >= 0 || errno != EINTR)
			return n == 1;
	}
}

static const char *read_words(int fd, char *buf, size_t size)
{
	ssize_t n = pread(fd, buf, size - 1, 0);

	buf[n > 0 ? n : 0] = '\0';
	return buf;
}

static void read_url(struct ferryt_server *server, int fd)
{
	struct ferryi_url url;
	char line[128], err[256];
	size_t len = 0;
	uint64_t deadline = ferryi_deadline_ms(FERRYT_WAIT_MS);

	while (len < sizeof(line) - 1 && wait_readable(fd, deadline)) {
		ssize_t n = read(fd, line + len, sizeof(line) - 1 - len);

		if (n <= 0)
			break;
		len += (size_t)n;
	}
	line[len] = '\0';
	close(fd);
	if (!len || line[len - 1] != '\n') {
		print_error("ferryd did not come up; it said:\n%s", ferryt_server_words(server));
		fail();
	}
	line[len - 1] = '\0';
	assert_int_equal(ferryi_url_parse(line, &url, err, sizeof(err)), 0);
	snprintf(server->host, sizeof(server->host), "%.60s", url.host);
	server->port = url.port;
}

void ferryt_server_start(struct ferryt_server *server, const char *const *args)
{
	const char *argv[FERRYT_ARGS_MAX] = {"--lifeline-fd", "12", "--ready-fd", "13"};
	int token[2], lifeline[2], ready[2], words[2], n = 4;
	bool no_auth = false, has_timeout = false, has_listen = false;

	while (*args) {
		assert_true(n < FERRYT_ARGS_MAX - 7);
		has_timeout = has_timeout || strcmp(*args, "--timeout") == 0 || strcmp(*args, "--config") == 0;
		has_listen = has_listen || strcmp(*args, "--listen") == 0;
		no_auth = no_auth || strcmp(*args, "--no-auth") == 0;
		argv[n++] = *args++;
	}
	if (!has_timeout) { /* connections of the tests send keep-alives only where that is the test */
		argv[n++] = "--timeout";
		argv[n++] = FERRYT_TIMEOUT;
	}
	if (!has_listen) {
		argv[n++] = "--listen";
		argv[n++] = "127.0.0.1:0";
	}
	if (!no_auth) {
		argv[n++] = "--token-fd";
		argv[n++] = "11";
	}
	*server = (struct ferryt_server){0};
	assert_int_equal(ferryi_random(server->token, sizeof(server->token)), 0);
	assert_int_equal(pipe2(token, O_CLOEXEC), 0);
	assert_int_equal(pipe2(lifeline, O_CLOEXEC), 0);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	assert_int_equal(pipe2(words, O_CLOEXEC), 0);
	assert_int_equal(write(token[1], server->token, sizeof(server->token)), sizeof(server->token));
	close(token[1]);
	token[0] = move_up(token[0]);
	lifeline[0] = move_up(lifeline[0]);
	ready[1] = move_up(ready[1]);
	server->words_fd = move_up(words[0]);
	words[1] = move_up(words[1]);
	server->lifeline_fd = move_up(lifeline[1]);
	ready[0] = move_up(ready[0]);

	const int map[][2] = {
		{words[1], 2},
		{token[0], CHILD_TOKEN},
		{lifeline[0], CHILD_LIFELINE},
		{ready[1], CHILD_READY},
	};

	server->pid = spawn(argv, map, sizeof(map) / sizeof(map[0]));
	server->pid_fd = pid_open(server->pid);
	close(token[0]);
	close(lifeline[0]);
	close(ready[1]);
	close(words[1]);
	/* Room for all that it says before it is asked, and no waiting for more. */
	fcntl(server->words_fd, F_SETPIPE_SZ, 1 << 20);
	fcntl(server->words_fd, F_SETFL, O_NONBLOCK);
	read_url(server, ready[0]);
}

int ferryt_server_wait(struct ferryt_server *server)
{
	int status;

	if (!wait_readable(server->pid_fd, ferryi_deadline_ms(FERRYT_WAIT_MS)))
		return -1;
	assert_int_equal(waitpid(server->pid, &status, 0), server->pid);
	server->pid = 0;
	return status;
}

void ferryt_server_end(struct ferryt_server *server)
{
	if (server->pid) {
		kill(server->pid, SIGKILL);
		waitpid(server->pid, NULL, 0);
		server->pid = 0;
	}
	close(server->pid_fd);
	close(server->lifeline_fd);
	close(server->words_fd);
}

const char *ferryt_server_words(struct ferryt_server *server)
{
	size_t room;

	while ((room = sizeof(server->words) - 1 - server->words_len)) {
		ssize_t n = read(server->words_fd, server->words + server->words_len, room);

		if (n <= 0)
			break;
		server->words_len += (size_t)n;
	}
	server->words[server->words_len] = '\0';
	return server->words;
}

static bool is_ended(const struct ferryt_server *server)
{
	return wait_readable(server->pid_fd, 0);
}

bool ferryt_server_says(struct ferryt_server *server, const char *text)
{
	uint64_t deadline = ferryi_deadline_ms(FERRYT_WAIT_MS);

	/* One that has ended stays readable and says no more. */
	while (!strstr(ferryt_server_words(server), text)) {
		if (is_ended(server) || !wait_readable(server->words_fd, deadline))
			return strstr(ferryt_server_words(server), text);
	}
	return true;
}

int ferryt_server_run(const char *const *args, char *out, size_t out_size, char *err, size_t err_size)
{
	int out_fd = move_up(words_new()), err_fd = move_up(words_new());
	const int map[][2] = {{out_fd, 1}, {err_fd, 2}};
	pid_t pid = spawn(args, map, 2);
	int pid_fd = pid_open(pid);
	int status = 0;

	if (!wait_readable(pid_fd, ferryi_deadline_ms(FERRYT_WAIT_MS)))
		kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(pid_fd);
	read_words(out_fd, out, out_size);
	read_words(err_fd, err, err_size);
	close(out_fd);
	close(err_fd);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* ---- a control connection ---- */

void ferryt_conn_open(struct ferryt_conn *conn, const struct ferryt_server *server)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(server->port)};

	*conn = (struct ferryt_conn){.next_id = 1};
	assert_int_equal(inet_pton(AF_INET, server->host, &addr.sin_addr), 1);
	conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(conn->fd >= 0);
	assert_int_equal(connect(conn->fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
}

void ferryt_conn_close(struct ferryt_conn *conn)
{
	close(conn->fd);
	free(conn->input);
	conn->fd = -1;
	conn->input = NULL;
}

void ferryt_conn_raw(struct ferryt_conn *conn, const void *bytes, size_t len)
{
	const char *at = bytes;

	while (len) {
		ssize_t n = send(conn->fd, at, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return; /* the server closed: the test sees it when it reads */
		at += n;
		len -= (size_t)n;
	}
}

uint64_t ferryt_conn_send(struct ferryt_conn *conn, Farferry__Envelope *envelope)
{
	uint8_t *frame;
	size_t len;

	envelope->request_id = conn->next_id++;
	assert_int_equal(ferryi_frame_encode(envelope, &frame, &len), 0);
	ferryt_conn_raw(conn, frame, len);
	free(frame);
	return envelope->request_id;
}

Farferry__Envelope *ferryt_conn_recv(struct ferryt_conn *conn)
{
	uint64_t deadline = ferryi_deadline_ms(FERRYT_WAIT_MS);
	Farferry__Envelope *envelope = NULL;
	char why[256] = "";

	for (;;) {
		long len = ferryi_frame_peek(conn->input, conn->input_len);
		ssize_t n;

		assert_true(len >= 0);
		if (len && (size_t)len <= conn->input_len) {
			if (ferryi_frame_decode(FERRYI_ROLE_CLIENT, conn->input, (size_t)len, &envelope, why,
						sizeof(why))) {
				print_error("the server sent a bad frame: %s\n", why);
				fail();
			}
			conn->input_len -= (size_t)len;
			memmove(conn->input, conn->input + len, conn->input_len);
			return envelope;
		}
		if (conn->input_len == conn->input_size) {
			conn->input_size = conn->input_size ? 2 * conn->input_size : 4096;
			conn->input = realloc(conn->input, conn->input_size);
			assert_non_null(conn->input);
		}
		assert_true(wait_readable(conn->fd, deadline));
		n = recv(conn->fd, conn->input + conn->input_len, conn->input_size - conn->input_len, 0);
		if (n <= 0)
			return NULL;
		conn->input_len += (size_t)n;
	}
}

Farferry__Envelope *ferryt_conn_call(struct ferryt_conn *conn, Farferry__Envelope *envelope)
{
	uint64_t id = ferryt_conn_send(conn, envelope);
	Farferry__Envelope *reply;

	while ((reply = ferryt_conn_recv(conn)) && reply->request_id == 0 &&
	       reply->body_case != FARFERRY__ENVELOPE__BODY_ERROR)
		ferryi_envelope_free(&reply);
	if (reply && reply->request_id)
		assert_int_equal(reply->request_id, id);
	return reply;
}

void ferryt_conn_expect_error(struct ferryt_conn *conn, Farferry__Code code, const char *text)
{
	Farferry__Envelope *reply = ferryt_conn_recv(conn);

	assert_non_null(reply);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_ERROR);
	assert_int_equal(reply->error->code, code);
	if (!strstr(reply->error->text, text)) {
		print_error("error text is: %s\n", reply->error->text);
		fail();
	}
	ferryi_envelope_free(&reply);
}

void ferryt_conn_expect_end(struct ferryt_conn *conn)
{
	Farferry__Envelope *reply;

	while ((reply = ferryt_conn_recv(conn)))
		ferryi_envelope_free(&reply);
}

Farferry__Envelope *ferryt_conn_hello(struct ferryt_conn *conn, uint32_t version_min, uint32_t version_max)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__Hello hello = FARFERRY__HELLO__INIT;

	hello.version_min = version_min;
	hello.version_max = version_max;
	hello.client = (char *)"server-test";
	hello.host = (char *)"test";
	hello.pid = (uint64_t)getpid();
	envelope.body_case = FARFERRY__ENVELOPE__BODY_HELLO;
	envelope.hello = &hello;
	return ferryt_conn_call(conn, &envelope);
}

Farferry__Envelope *ferryt_conn_auth(struct ferryt_conn *conn, const uint8_t token[FERRYI_AUTH_TOKEN_LEN])
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *hello, *reply;
	Farferry__Auth auth = FARFERRY__AUTH__INIT;
	uint8_t nonce[FERRYI_NONCE_LEN], mac[FERRYI_MAC_LEN], expected[FERRYI_MAC_LEN];

	hello = ferryt_conn_hello(conn, FERRYI_PROTO_VERSION_MIN, FERRYI_PROTO_VERSION_MAX);
	assert_non_null(hello);
	assert_int_equal(hello->body_case, FARFERRY__ENVELOPE__BODY_HELLO_REPLY);
	assert_int_equal(ferryi_random(nonce, sizeof(nonce)), 0);
	assert_int_equal(
		ferryi_auth_mac(FERRYI_ROLE_CLIENT, token, hello->hello_reply->server_nonce.data, nonce, mac),
		0);
	assert_int_equal(ferryi_auth_mac(FERRYI_ROLE_SERVER, token, hello->hello_reply->server_nonce.data,
					 nonce, expected),
			 0);
	auth.client_nonce.data = nonce;
	auth.client_nonce.len = sizeof(nonce);
	auth.mac.data = mac;
	auth.mac.len = sizeof(mac);
	envelope.body_case = FARFERRY__ENVELOPE__BODY_AUTH;
	envelope.auth = &auth;
	reply = ferryt_conn_call(conn, &envelope);
	if (reply && reply->body_case == FARFERRY__ENVELOPE__BODY_AUTH_REPLY) {
		conn->epoch = reply->auth_reply->epoch;
		conn->session_id = reply->auth_reply->session_id;
		conn->timeout_ms = reply->auth_reply->timeout_ms;
		conn->keepalive_ms = reply->auth_reply->keepalive_ms;
		if (hello->hello_reply->auth_required)
			assert_true(ferryi_mac_equal(expected, reply->auth_reply->mac.data));
	}
	ferryi_envelope_free(&hello);
	return reply;
}

void ferryt_conn_login(struct ferryt_conn *conn, const struct ferryt_server *server)
{
	Farferry__Envelope *reply;

	ferryt_conn_open(conn, server);
	reply = ferryt_conn_auth(conn, server->token);
	assert_non_null(reply);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_AUTH_REPLY);
	ferryi_envelope_free(&reply);
}

/* ---- leases ---- */

/* The error of a reply, or OK when it has the body that was wanted. Frees it unless OK. */
static Farferry__Code reply_code(Farferry__Envelope **reply, Farferry__Envelope__BodyCase want, char *text,
				 size_t text_size)
{
	Farferry__Code code;

	assert_non_null(*reply);
	if ((*reply)->body_case == want)
		return FARFERRY__CODE__CODE_OK;
	assert_int_equal((*reply)->body_case, FARFERRY__ENVELOPE__BODY_ERROR);
	code = (*reply)->error->code;
	if (text)
		snprintf(text, text_size, "%s", (*reply)->error->text);
	ferryi_envelope_free(reply);
	return code;
}

static void add_extents(struct ferryt_lease *lease, const Farferry__LeaseReply *reply)
{
	for (size_t i = 0; i < reply->n_extents; i++) {
		struct ferryt_extent *extent = &lease->extents[lease->nextents++];

		assert_true(lease->nextents <= FERRYT_EXTENTS_MAX);
		assert_int_equal(reply->extents[i]->n_locations, 1);
		extent->id = reply->extents[i]->id;
		extent->pool_off = reply->extents[i]->pool_off;
		extent->remote.key = reply->extents[i]->locations[0]->key;
		extent->remote.addr = reply->extents[i]->locations[0]->addr;
		extent->remote.len_bytes = reply->extents[i]->len_bytes;
	}
}

Farferry__Code ferryt_attach(struct ferryt_conn *conn, const char *pool, const char *fabric,
			     uint64_t size_bytes, struct ferryt_lease *lease, char *text, size_t text_size)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__AttachRequest attach = FARFERRY__ATTACH_REQUEST__INIT;
	Farferry__Code code;

	attach.pool = (char *)pool;
	attach.fabric = (char *)fabric;
	attach.size_bytes = size_bytes;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_ATTACH;
	envelope.attach = &attach;
	reply = ferryt_conn_call(conn, &envelope);
	code = reply_code(&reply, FARFERRY__ENVELOPE__BODY_LEASE_REPLY, text, text_size);
	if (code)
		return code;
	*lease = (struct ferryt_lease){
		.id = reply->lease_reply->lease_id,
		.epoch = reply->lease_reply->epoch,
		.pool_size = reply->lease_reply->pool_size_bytes,
	};
	snprintf(lease->fabric, sizeof(lease->fabric), "%s", reply->lease_reply->fabric);
	snprintf(lease->addr, sizeof(lease->addr), "%s", reply->lease_reply->fabric_addr);
	memcpy(lease->token, reply->lease_reply->data_token.data, sizeof(lease->token));
	add_extents(lease, reply->lease_reply);
	ferryi_envelope_free(&reply);
	return code;
}

Farferry__Code ferryt_grow(struct ferryt_conn *conn, struct ferryt_lease *lease, uint64_t size_bytes,
			   char *text, size_t text_size)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__GrowRequest grow = FARFERRY__GROW_REQUEST__INIT;
	Farferry__Code code;

	grow.lease_id = lease->id;
	grow.epoch = lease->epoch;
	grow.size_bytes = size_bytes;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_GROW;
	envelope.grow = &grow;
	reply = ferryt_conn_call(conn, &envelope);
	code = reply_code(&reply, FARFERRY__ENVELOPE__BODY_LEASE_REPLY, text, text_size);
	if (!code)
		add_extents(lease, reply->lease_reply);
	ferryi_envelope_free(&reply);
	return code;
}

Farferry__Code ferryt_shrink(struct ferryt_conn *conn, struct ferryt_lease *lease, unsigned extent)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__ShrinkRequest shrink = FARFERRY__SHRINK_REQUEST__INIT;
	Farferry__Code code;

	shrink.lease_id = lease->id;
	shrink.epoch = lease->epoch;
	shrink.n_extent_ids = 1;
	shrink.extent_ids = &lease->extents[extent].id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_SHRINK;
	envelope.shrink = &shrink;
	reply = ferryt_conn_call(conn, &envelope);
	code = reply_code(&reply, FARFERRY__ENVELOPE__BODY_DONE, NULL, 0);
	if (!code)
		lease->extents[extent] = lease->extents[--lease->nextents];
	ferryi_envelope_free(&reply);
	return code;
}

Farferry__Code ferryt_detach(struct ferryt_conn *conn, uint64_t lease_id, uint64_t epoch)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__DetachRequest detach = FARFERRY__DETACH_REQUEST__INIT;
	Farferry__Code code;

	detach.lease_id = lease_id;
	detach.epoch = epoch;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_DETACH;
	envelope.detach = &detach;
	reply = ferryt_conn_call(conn, &envelope);
	code = reply_code(&reply, FARFERRY__ENVELOPE__BODY_DONE, NULL, 0);
	ferryi_envelope_free(&reply);
	return code;
}

void ferryt_pool_info(struct ferryt_conn *conn, unsigned index, Farferry__PoolInfo *out)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__PoolsRequest pools = FARFERRY__POOLS_REQUEST__INIT;

	envelope.body_case = FARFERRY__ENVELOPE__BODY_POOLS;
	envelope.pools = &pools;
	reply = ferryt_conn_call(conn, &envelope);
	assert_int_equal(reply_code(&reply, FARFERRY__ENVELOPE__BODY_POOLS_REPLY, NULL, 0), 0);
	assert_true(index < reply->pools_reply->n_pools);
	*out = *reply->pools_reply->pools[index];
	out->name = out->type = out->backing = NULL; /* they go with the reply */
	ferryi_envelope_free(&reply);
}

bool ferryt_wait_free(struct ferryt_conn *conn, uint64_t free_bytes)
{
	uint64_t deadline = ferryi_deadline_ms(FERRYT_WAIT_MS);
	Farferry__PoolInfo info;

	do {
		ferryt_pool_info(conn, 0, &info);
		if (info.free_bytes == free_bytes)
			return true;
	} while (ferryi_remaining_ms(deadline));
	return false;
}

uint64_t ferryt_stat(struct ferryt_conn *conn, const char *name)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__StatsRequest stats = FARFERRY__STATS_REQUEST__INIT;
	uint64_t value = UINT64_MAX;

	envelope.body_case = FARFERRY__ENVELOPE__BODY_STATS;
	envelope.stats = &stats;
	reply = ferryt_conn_call(conn, &envelope);
	assert_int_equal(reply_code(&reply, FARFERRY__ENVELOPE__BODY_STATS_REPLY, NULL, 0), 0);
	for (size_t i = 0; i < reply->stats_reply->n_stats; i++) {
		if (strcmp(reply->stats_reply->stats[i]->name, name) == 0)
			value = reply->stats_reply->stats[i]->value;
	}
	ferryi_envelope_free(&reply);
	if (value == UINT64_MAX) {
		print_error("no statistic %s\n", name);
		fail();
	}
	return value;
}

bool ferryt_keepalive(struct ferryt_conn *conn)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__KeepAlive keepalive = FARFERRY__KEEP_ALIVE__INIT;
	bool ok;

	keepalive.epoch = conn->epoch;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_KEEPALIVE;
	envelope.keepalive = &keepalive;
	reply = ferryt_conn_call(conn, &envelope);
	ok = reply && reply->body_case == FARFERRY__ENVELOPE__BODY_KEEPALIVE &&
	     reply->keepalive->epoch == conn->epoch;
	ferryi_envelope_free(&reply);
	return ok;
}

/* ---- data ---- */

static void channel_open(struct ferryt_data *data)
{
	assert_int_equal(
		ferryi_channel_open(data->peer, 8, ferryi_deadline_ms(FERRYT_WAIT_MS), &data->channel), 0);
	assert_int_equal(ferryi_channel_register(data->channel, data->buffer, FERRYT_BUFFER_LEN), 0);
}

void ferryt_data_open(struct ferryt_data *data, const struct ferryt_server *server,
		      const struct ferryt_lease *lease)
{
	struct ferryi_peer_attr attr = {
		.row = ferryi_fabric_find(lease->fabric),
		.addr = lease->addr,
		.control_host = server->host,
		.label = "server-test",
	};

	*data = (struct ferryt_data){0};
	assert_non_null(attr.row);
	memcpy(attr.token, lease->token, sizeof(attr.token));
	data->buffer =
		mmap(NULL, FERRYT_BUFFER_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(data->buffer, MAP_FAILED);
	assert_int_equal(ferryi_peer_open(&attr, ferryi_deadline_ms(FERRYT_WAIT_MS), &data->peer), 0);
	channel_open(data);
	ferryt_data_import(data, lease);
}

void ferryt_data_close(struct ferryt_data *data)
{
	ferryi_channel_close(&data->channel);
	ferryi_peer_close(&data->peer);
	munmap(data->buffer, FERRYT_BUFFER_LEN);
}

void ferryt_data_reconnect(struct ferryt_data *data)
{
	ferryi_channel_close(&data->channel);
	channel_open(data);
}

void ferryt_data_import(struct ferryt_data *data, const struct ferryt_lease *lease)
{
	for (unsigned i = 0; i < lease->nextents; i++)
		assert_int_equal(ferryi_peer_import(data->peer, &lease->extents[i].remote,
						    ferryi_deadline_ms(FERRYT_WAIT_MS)),
				 0);
}

int ferryt_data_move(struct ferryt_data *data, enum ferryi_op_kind kind, const struct ferryi_remote *remote,
		     uint64_t off, size_t len)
{
	struct ferryi_op op = {
		.kind = kind,
		.local = data->buffer,
		.len_bytes = len,
		.remote = *remote,
		.remote_off = off,
		.deadline_ns = ferryi_deadline_ms(FERRYT_WAIT_MS),
	};
	struct ferryi_op *ops[1] = {&op}, *done[1];
	int n;

	if (ferryi_channel_is_dead(data->channel))
		ferryt_data_reconnect(data);
	n = ferryi_channel_submit(data->channel, ops, 1);
	if (n < 0)
		return n;
	assert_int_equal(n, 1);
	while ((n = ferryi_channel_poll(data->channel, done, 1)) == 0) {
		int fd = ferryi_channel_wait_fd(data->channel);

		if (fd >= 0 && ferryi_channel_arm(data->channel) == 0) {
			struct pollfd pfd = {.fd = fd, .events = POLLIN};

			poll(&pfd, 1, ferryi_remaining_ms(op.deadline_ns));
		}
	}
	assert_int_equal(n, 1);
	assert_ptr_equal(done[0], &op);
	return op.status;
}

/* Each 8 bytes hold their own place in the pool, so that a swapped extent shows. */
static uint64_t word_at(uint8_t seed, uint64_t pool_off)
{
	return (pool_off + 1) * 0x9e3779b97f4a7c15ULL ^ ((uint64_t)seed << 56);
}

void ferryt_data_fill(struct ferryt_data *data, const struct ferryt_lease *lease, uint8_t seed)
{
	uint64_t *words = (uint64_t *)data->buffer;

	for (unsigned i = 0; i < lease->nextents; i++) {
		const struct ferryt_extent *extent = &lease->extents[i];

		for (uint64_t off = 0; off < extent->remote.len_bytes; off += FERRYT_BUFFER_LEN) {
			for (size_t w = 0; w < FERRYT_BUFFER_LEN / 8; w++)
				words[w] = word_at(seed, extent->pool_off + off + 8 * w);
			assert_int_equal(ferryt_data_move(data, FERRYI_OP_WRITE, &extent->remote, off,
							  FERRYT_BUFFER_LEN),
					 0);
		}
	}
}

static void expect(struct ferryt_data *data, const struct ferryt_lease *lease, bool zero, uint8_t seed)
{
	const uint64_t *words = (const uint64_t *)data->buffer;

	for (unsigned i = 0; i < lease->nextents; i++) {
		const struct ferryt_extent *extent = &lease->extents[i];

		for (uint64_t off = 0; off < extent->remote.len_bytes; off += FERRYT_BUFFER_LEN) {
			memset(data->buffer, 0xa5, FERRYT_BUFFER_LEN);
			assert_int_equal(ferryt_data_move(data, FERRYI_OP_READ, &extent->remote, off,
							  FERRYT_BUFFER_LEN),
					 0);
			for (size_t w = 0; w < FERRYT_BUFFER_LEN / 8; w++) {
				uint64_t want = zero ? 0 : word_at(seed, extent->pool_off + off + 8 * w);

				if (words[w] != want) {
					print_error("pool offset %llu holds %016llx, not %016llx\n",
						    (unsigned long long)(extent->pool_off + off + 8 * w),
						    (unsigned long long)words[w], (unsigned long long)want);
					fail();
				}
			}
		}
	}
}

void ferryt_data_expect(struct ferryt_data *data, const struct ferryt_lease *lease, uint8_t seed)
{
	expect(data, lease, false, seed);
}

void ferryt_data_expect_zero(struct ferryt_data *data, const struct ferryt_lease *lease)
{
	expect(data, lease, true, 0);
}
