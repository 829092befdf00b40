/* See member.h. */
#include "member.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "chaos.h"
#include "clock.h"

#define START_MS 30000u

/* Runs `ip` with these words; in the namespace of pid, if it is not 0. false: it failed. */
__attribute__((format(printf, 2, 3)))
static bool ip(pid_t pid, const char *fmt, ...)
{
	char words[256], *argv[24] = {"ip"}, *save = NULL;
	unsigned n = 1;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(words, sizeof(words), fmt, ap);
	va_end(ap);
	for (char *word = strtok_r(words, " ", &save); word && n < 23; word = strtok_r(NULL, " ", &save))
		argv[n++] = word;

	int ns = pid ? (int)syscall(SYS_pidfd_open, pid, 0) : -1, status;
	pid_t child = vfork(); /* without the handlers of fork: the caller may be a client, whose memory is away */

	MUST(child >= 0);
	if (!child) {
		if (pid && setns(ns, CLONE_NEWNET))
			_exit(126);
		execvp("ip", argv);
		_exit(127);
	}
	if (ns >= 0)
		close(ns);
	MUST(waitpid(child, &status, 0) == child);
	return status == 0;
}

void ferryt_net_open(struct ferryt_net *net)
{
	net->has_cables = !strcmp(net->fabric, "tcp") && unshare(CLONE_NEWNET) == 0 &&
			  ip(0, "link set lo up") && ip(0, "link add name probe type veth peer name eborp") &&
			  ip(0, "link del probe");
}

/* Ends with whoever started it. */
static void end_with_parent(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static pid_t start_keeper(void)
{
	int ready[2];
	char byte;

	MUST(!pipe2(ready, O_CLOEXEC));
	pid_t pid = fork();

	MUST(pid >= 0);
	if (!pid) {
		end_with_parent();
		if (unshare(CLONE_NEWNET) || write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	MUST(read(ready[0], &byte, 1) == 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static uint16_t free_port(void)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	MUST(fd >= 0 && !bind(fd, (struct sockaddr *)&addr, len) &&
	     !getsockname(fd, (struct sockaddr *)&addr, &len));
	close(fd);
	return ntohs(addr.sin_port);
}

static void open_cable(struct ferryt_member *member)
{
	unsigned n = member->number;

	member->keeper = start_keeper();
	MUST(ip(0, "link add name near%u type veth peer name far%u netns %d", n, n, (int)member->keeper));
	MUST(ip(0, "addr add 10.71.%u.1/24 dev near%u", n, n));
	MUST(ip(0, "link set near%u up", n));
	MUST(ip(member->keeper, "addr add 10.71.%u.2/24 dev far%u", n, n));
	MUST(ip(member->keeper, "link set lo up"));
	MUST(ip(member->keeper, "link set far%u up", n));
}

void ferryt_member_open(struct ferryt_member *member, const struct ferryt_net *net, unsigned number)
{
	*member = (struct ferryt_member){.number = number};
	if (net->has_cables) {
		open_cable(member);
		snprintf(member->url, sizeof(member->url), "ferry://10.71.%u.2:7470?fabric=%s", number,
			 net->fabric);
	} else {
		snprintf(member->url, sizeof(member->url), "ferry://127.0.0.1:%u?fabric=%s",
			 (unsigned)free_port(), net->fabric);
	}
}

/* The child's side: in its namespace, and then another program. */
_Noreturn static void become_ferryd(const struct ferryt_member *member, const struct ferryt_net *net,
				    int ready_fd)
{
	char pool[96], listen[64], ready[12], keepalive[16], timeout[16];

	end_with_parent();
	if (member->keeper && setns((int)syscall(SYS_pidfd_open, member->keeper, 0), CLONE_NEWNET))
		_exit(126);
	fcntl(ready_fd, F_SETFD, 0);
	snprintf(pool, sizeof(pool), "name=chaos,size=%lluM,backing=memfd,reserve=no",
		 (unsigned long long)net->pool_bytes >> 20);
	snprintf(listen, sizeof(listen), "%.*s", (int)strcspn(member->url + strlen("ferry://"), "?"),
		 member->url + strlen("ferry://"));
	snprintf(ready, sizeof(ready), "%d", ready_fd);
	snprintf(keepalive, sizeof(keepalive), "%ums", net->detect_ms / 4);
	snprintf(timeout, sizeof(timeout), "%ums", net->detect_ms);
	execl(FERRYT_FERRYD, "ferryd", "--pool", pool, "--listen", listen, "--fabric", net->fabric,
	      "--token-file", net->token_file, "--ready-fd", ready, "--keepalive", keepalive, "--timeout",
	      timeout, "--log-level", "error", (char *)NULL);
	_exit(127);
}

void ferryt_member_start(struct ferryt_member *member, const struct ferryt_net *net)
{
	uint64_t deadline_ns = ferryi_deadline_ms(START_MS);
	char byte = 0;
	int ready[2];

	MUST(!pipe2(ready, O_CLOEXEC));
	member->pid = fork();
	MUST(member->pid >= 0);
	if (!member->pid)
		become_ferryd(member, net, ready[1]);
	close(ready[1]);
	while (byte != '\n') {
		struct pollfd pfd = {.fd = ready[0], .events = POLLIN};

		if (poll(&pfd, 1, ferryi_remaining_ms(deadline_ns)) < 0 && errno == EINTR)
			continue;
		MUST(read(ready[0], &byte, 1) == 1); /* else ferryd said why */
	}
	close(ready[0]);
}

void ferryt_member_signal(const struct ferryt_member *member, int sig)
{
	MUST(member->pid > 0 && !kill(member->pid, sig));
}

bool ferryt_member_wait(struct ferryt_member *member, unsigned timeout_ms)
{
	struct pollfd pfd = {.fd = (int)syscall(SYS_pidfd_open, member->pid, 0), .events = POLLIN};
	uint64_t deadline_ns = ferryi_deadline_ms(timeout_ms);
	int n;

	MUST(pfd.fd >= 0);
	do
		n = poll(&pfd, 1, ferryi_remaining_ms(deadline_ns));
	while (n < 0 && errno == EINTR);
	close(pfd.fd);
	if (n <= 0)
		return false;
	waitpid(member->pid, NULL, 0);
	member->pid = 0;
	return true;
}

static void set_way(pid_t where, const char *to, bool is_cut)
{
	MUST(ip(where, "route %s blackhole %s", is_cut ? "add" : "del", to));
}

void ferryt_member_cut(struct ferryt_member *member, enum ferryt_cut cut)
{
	char near[32], far[32];
	enum ferryt_cut before = member->cut;

	/* More specific than the network's own route. */
	snprintf(near, sizeof(near), "10.71.%u.1/32", member->number);
	snprintf(far, sizeof(far), "10.71.%u.2/32", member->number);
	if ((before == FERRYT_CUT_BOTH) != (cut == FERRYT_CUT_BOTH))
		MUST(ip(0, "link set near%u %s", member->number, cut == FERRYT_CUT_BOTH ? "down" : "up"));
	if ((before == FERRYT_CUT_ANSWERS) != (cut == FERRYT_CUT_ANSWERS))
		set_way(member->keeper, near, cut == FERRYT_CUT_ANSWERS);
	if ((before == FERRYT_CUT_REQUESTS) != (cut == FERRYT_CUT_REQUESTS))
		set_way(0, far, cut == FERRYT_CUT_REQUESTS);
	member->cut = cut;
}

/* Rules are looked at in order: what goes to the control port is let through before what is cut, or is what is cut. */
void ferryt_member_cut_service(const struct ferryt_member *member, bool data, bool is_cut)
{
	const char *verb = is_cut ? "add" : "del";
	unsigned n = member->number;

	if (data) {
		MUST(ip(0, "rule %s priority 100 to 10.71.%u.2 ipproto tcp dport 7470 lookup main", verb, n));
		MUST(ip(0, "rule %s priority 101 to 10.71.%u.2 ipproto tcp blackhole", verb, n));
	} else {
		MUST(ip(0, "rule %s priority 100 to 10.71.%u.2 ipproto tcp dport 7470 blackhole", verb, n));
	}
}

void ferryt_member_close(struct ferryt_member *member)
{
	if (member->pid > 0) {
		kill(member->pid, SIGKILL);
		waitpid(member->pid, NULL, 0);
	}
	if (member->keeper > 0) {
		ip(0, "link del near%u", member->number); /* the kernel takes it away with the namespace, but later */
		kill(member->keeper, SIGKILL);
		waitpid(member->keeper, NULL, 0);
	}
	*member = (struct ferryt_member){0};
}
