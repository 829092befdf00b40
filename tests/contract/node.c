/*
 * Server half's process: see node.h. The child is spawned by exec, never by a
 * bare fork: a fork would inherit the state of libfabric.
 * FERRY_CONTRACT_PROG is put before the child's command line, so that it can
 * run elsewhere ("ip netns exec NAME"); it must exec, not fork.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "node.h"
#include "server.h"

#define ANSWER_MS 60000
#define MAX_WORDS 16

extern char **environ;

const char *ferryt_host(void)
{
	const char *host = getenv("FERRY_CONTRACT_HOST");

	return host && *host ? host : "127.0.0.1";
}

static int child_spawn(struct ferryt_node *node, int in, int out)
{
	char prefix[512];
	char *argv[MAX_WORDS + 4];
	char *save = NULL;
	int n = 0;
	posix_spawn_file_actions_t actions;
	int err;

	snprintf(prefix, sizeof(prefix), "%s",
		 getenv("FERRY_CONTRACT_PROG") ? getenv("FERRY_CONTRACT_PROG") : "");
	for (char *w = strtok_r(prefix, " ", &save); w && n < MAX_WORDS; w = strtok_r(NULL, " ", &save))
		argv[n++] = w;

	char self[4096];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (len < 0)
		return -errno;
	self[len] = '\0';
	argv[n++] = self;
	argv[n++] = "--serve";
	argv[n++] = (char *)node->row->name;
	argv[n] = NULL;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	err = -posix_spawnp(&node->pid, argv[0], &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	return err;
}

static int child_start(struct ferryt_node *node)
{
	int there[2], back[2];
	int err;

	if (pipe2(there, O_CLOEXEC))
		return -errno;
	if (pipe2(back, O_CLOEXEC)) {
		err = -errno;
		close(there[0]);
		close(there[1]);
		return err;
	}
	err = child_spawn(node, there[0], back[1]);
	close(there[0]);
	close(back[1]);
	if (err) {
		close(there[1]);
		close(back[0]);
		return err;
	}
	node->to = there[1];
	node->from = back[0];
	return 0;
}

int ferryt_node_start(struct ferryt_node *node, const struct ferryi_fabric_row *row)
{
	struct ferryt_req req = {.cmd = FERRYT_LISTEN, .arg = {50}};
	struct ferryt_rep rep;
	int err = 0;

	*node = (struct ferryt_node){.row = row, .to = -1, .from = -1};
	if (row->flags & FERRYI_FABRIC_TEST_ONLY) {
		node->server = ferryt_server_create(row);
		err = node->server ? 0 : -ENOMEM;
	} else {
		err = child_start(node);
	}
	if (err)
		return err;
	node->running = true;
	snprintf(req.text, sizeof(req.text), "%s", ferryt_host());
	err = ferryt_node_ask(node, &req, &rep);
	if (err)
		ferryt_node_end(node);
	return err;
}

static int read_reply(struct ferryt_node *node, struct ferryt_rep *rep)
{
	uint64_t deadline = ferryi_deadline_ms(ANSWER_MS);

	for (size_t got = 0; got < sizeof(*rep);) {
		struct pollfd pfd = {.fd = node->from, .events = POLLIN};
		int ready = poll(&pfd, 1, ferryi_remaining_ms(deadline));

		if (ready == 0)
			return -ETIMEDOUT;
		if (ready < 0 && errno == EINTR)
			continue;
		ssize_t n = read(node->from, (char *)rep + got, sizeof(*rep) - got);

		if (n <= 0)
			return -EPIPE;
		got += (size_t)n;
	}
	return rep->status;
}

int ferryt_node_ask(struct ferryt_node *node, const struct ferryt_req *req, struct ferryt_rep *rep)
{
	if (!node->running)
		return -EPIPE;
	if (node->server) {
		ferryt_server_exec(node->server, req, rep);
		return rep->status;
	}
	if (write(node->to, req, sizeof(*req)) != (ssize_t)sizeof(*req))
		return -EPIPE;
	return read_reply(node, rep);
}

static void reap(struct ferryt_node *node)
{
	int status;

	close(node->to);
	close(node->from);
	while (waitpid(node->pid, &status, 0) < 0 && errno == EINTR)
		;
	node->pid = 0;
}

void ferryt_node_end(struct ferryt_node *node)
{
	struct ferryt_req req = {.cmd = FERRYT_EXIT};
	struct ferryt_rep rep;

	if (!node->running)
		return;
	if (node->stopped)
		ferryt_node_cont(node);
	if (node->server) {
		ferryt_server_destroy(&node->server);
	} else {
		/* one that does not answer is killed, or the wait for it would have no end */
		if (ferryt_node_ask(node, &req, &rep))
			kill(node->pid, SIGKILL);
		reap(node);
	}
	node->running = false;
}

void ferryt_node_kill(struct ferryt_node *node)
{
	if (node->server) {
		ferryt_server_destroy(&node->server);
	} else {
		kill(node->pid, SIGKILL);
		reap(node);
	}
	node->running = false;
	node->stopped = false;
}

void ferryt_node_stop(struct ferryt_node *node)
{
	int status;

	node->stopped = true;
	if (node->server) {
		ferryi_fake_stop(true);
		return;
	}
	kill(node->pid, SIGSTOP);
	while (waitpid(node->pid, &status, WUNTRACED) < 0 && errno == EINTR)
		;
}

void ferryt_node_cont(struct ferryt_node *node)
{
	node->stopped = false;
	if (node->server)
		ferryi_fake_stop(false);
	else
		kill(node->pid, SIGCONT);
}
