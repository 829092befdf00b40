/* See munge_kit.h. */
#include "munge_kit.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

extern char **environ;

static char dir[64], socket_path[96];
static pid_t pid;

static const char *in_dir(const char *option, const char *file, char buf[160])
{
	snprintf(buf, 160, "%s%s/%s", option, dir, file);
	return buf;
}

static void make_key(void)
{
	uint8_t bytes[64];
	char path[160];
	int fd = open(in_dir("", "key", path), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ferryi_random(bytes, sizeof(bytes)), 0);
	assert_int_equal(write(fd, bytes, sizeof(bytes)), sizeof(bytes));
	close(fd);
}

/* It takes the first credential once it listens. */
static bool is_up(void)
{
	static const uint8_t nonce[FERRYI_NONCE_LEN];
	const struct ferryi_munge_binding binding = {nonce, nonce, ""};
	char *credential, why[256];
	struct stat st;
	int rc;

	if (stat(socket_path, &st))
		return false;
	rc = ferryi_munge_encode(socket_path, FERRYI_ROLE_CLIENT, &binding, FERRYI_MUNGE_ANYBODY, &credential,
				 why, sizeof(why));
	free(credential);
	return rc == 0;
}

void ferryt_munge_start(void)
{
	uint64_t deadline = ferryi_deadline_ms(FERRYT_WAIT_MS);
	char key[160], log[160], pid_file[160], seed[160], socket_option[160];
	posix_spawn_file_actions_t actions;

	snprintf(dir, sizeof(dir), "/tmp/ferryt-munge-XXXXXX");
	assert_non_null(mkdtemp(dir));
	chmod(dir, 0755); /* other users' processes connect, and munged wants to be sure that they can */
	snprintf(socket_path, sizeof(socket_path), "%s/socket", dir);
	make_key();

	char *argv[] = {(char *)"munged",
			(char *)"--foreground",
			(char *)"--force",
			(char *)"--num-threads=1",
			(char *)"--origin=127.0.0.1",
			(char *)in_dir("--socket=", "socket", socket_option),
			(char *)in_dir("--key-file=", "key", key),
			(char *)in_dir("--log-file=", "log", log),
			(char *)in_dir("--pid-file=", "pid", pid_file),
			(char *)in_dir("--seed-file=", "seed", seed),
			NULL};

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 2, in_dir("", "words", log), O_WRONLY | O_CREAT, 0600);
	in_dir("--log-file=", "log", log);
	argv[7] = log;
	if (posix_spawn(&pid, FERRYT_MUNGED, &actions, NULL, argv, environ) != 0) {
		pid = 0;
		ferryt_munge_end();
		printf("skipped: munged is missing: run deploy/install-deps.sh\n");
		exit(77);
	}
	posix_spawn_file_actions_destroy(&actions);
	while (!is_up() && ferryi_remaining_ms(deadline) && waitpid(pid, NULL, WNOHANG) == 0)
		poll(NULL, 0, 5);
	assert_true(is_up());
	setenv("FERRY_MUNGE_SOCKET", socket_path, 1);
}

void ferryt_munge_end(void)
{
	static const char *const files[] = {"key", "log", "pid", "seed", "socket", "socket.lock", "words"};
	char path[160];

	if (pid) {
		kill(pid, SIGTERM);
		waitpid(pid, NULL, 0);
	}
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		unlink(in_dir("", files[i], path));
	rmdir(dir);
}

const char *ferryt_munge_socket(void)
{
	return socket_path;
}

/* In a child, which alone becomes that user. */
static void child_credential(int fd, uid_t uid, const struct ferryi_munge_binding *binding)
{
	char *credential, why[256];

	if (setgid(uid) || setuid(uid) ||
	    ferryi_munge_encode(socket_path, FERRYI_ROLE_CLIENT, binding, FERRYI_MUNGE_ANYBODY, &credential,
				why, sizeof(why)))
		_exit(1);
	_exit(write(fd, credential, strlen(credential)) == (ssize_t)strlen(credential) ? 0 : 1);
}

char *ferryt_munge_credential(uid_t uid, const struct ferryi_munge_binding *binding)
{
	char why[256] = "", *credential = NULL;
	int fds[2], status;
	ssize_t n;
	pid_t child;

	if (uid == geteuid()) {
		assert_int_equal(ferryi_munge_encode(socket_path, FERRYI_ROLE_CLIENT, binding,
						     FERRYI_MUNGE_ANYBODY, &credential, why, sizeof(why)),
				 0);
		return credential;
	}
	credential = calloc(1, FERRYI_CREDENTIAL_MAX + 1);
	assert_non_null(credential);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0)
		child_credential(fds[1], uid, binding);
	close(fds[1]);
	n = read(fds[0], credential, FERRYI_CREDENTIAL_MAX);
	close(fds[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_true(n > 0);
	return credential;
}

Farferry__Envelope *ferryt_munge_auth(struct ferryt_conn *conn,
				      char *(*credential)(void *ctx,
							  const struct ferryi_munge_binding *binding),
				      void *ctx)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *hello, *reply;
	Farferry__Auth auth = FARFERRY__AUTH__INIT;
	uint8_t nonce[FERRYI_NONCE_LEN], mac[FERRYI_MAC_LEN] = {0};
	char address[64], *made;
	struct ferryi_munge_binding binding = {NULL, nonce, address};

	hello = ferryt_conn_hello(conn, FERRYI_PROTO_VERSION_MIN, FERRYI_PROTO_VERSION_MAX);
	assert_non_null(hello);
	assert_int_equal(hello->body_case, FARFERRY__ENVELOPE__BODY_HELLO_REPLY);
	assert_int_equal(ferryi_random(nonce, sizeof(nonce)), 0);
	ferryi_socket_address(conn->fd, true, address, sizeof(address));
	binding.server_nonce = hello->hello_reply->server_nonce.data;
	made = credential(ctx, &binding);
	auth.client_nonce = (ProtobufCBinaryData){sizeof(nonce), nonce};
	auth.mac = (ProtobufCBinaryData){sizeof(mac), mac};
	auth.credential = (ProtobufCBinaryData){strlen(made), (uint8_t *)made};
	envelope.body_case = FARFERRY__ENVELOPE__BODY_AUTH;
	envelope.auth = &auth;
	reply = ferryt_conn_call(conn, &envelope);
	if (reply && reply->body_case == FARFERRY__ENVELOPE__BODY_AUTH_REPLY) {
		conn->epoch = reply->auth_reply->epoch;
		conn->session_id = reply->auth_reply->session_id;
	}
	free(made);
	ferryi_envelope_free(&hello);
	return reply;
}

static char *credential_of(void *ctx, const struct ferryi_munge_binding *binding)
{
	return ferryt_munge_credential(*(const uid_t *)ctx, binding);
}

void ferryt_munge_login(struct ferryt_conn *conn, const struct ferryt_server *server, uid_t uid)
{
	Farferry__Envelope *reply;
	char user[32];

	ferryt_conn_open(conn, server);
	reply = ferryt_munge_auth(conn, credential_of, &uid);
	assert_non_null(reply);
	if (reply->body_case == FARFERRY__ENVELOPE__BODY_ERROR)
		print_error("the server says: %s\n", reply->error->text);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_AUTH_REPLY);
	snprintf(user, sizeof(user), "uid:%u", (unsigned)uid);
	assert_string_equal(reply->auth_reply->user, user);
	ferryi_envelope_free(&reply);
}
