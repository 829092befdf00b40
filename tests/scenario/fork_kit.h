/* For the tests of fork: children with a copy of managed memory, and a word between them and their parent. */
#ifndef FERRYT_FORK_KIT_H
#define FERRYT_FORK_KIT_H

#include <poll.h>
#include <unistd.h>

#include "pager_kit.h"

#define LEN   (4 * FERRYT_BUDGET)
#define PAGES (LEN / FERRYT_PAGE)
#define PART  2048u /* pages */

/* Two pipes: each waits for the other's word. */
struct talk {
	int to_child[2], to_parent[2];
};

static inline struct talk talk_open(void)
{
	struct talk t;

	CHECK_INT(pipe(t.to_child), 0);
	CHECK_INT(pipe(t.to_parent), 0);
	return t;
}

static inline void say(int fd[2])
{
	CHECK_INT(write(fd[1], "x", 1), 1);
}

static inline void hear(int fd[2])
{
	struct pollfd pfd = {.fd = fd[0], .events = POLLIN};
	char c;

	CHECK_INT(poll(&pfd, 1, FERRYT_BODY_MS / 2), 1);
	CHECK_INT(read(fd[0], &c, 1), 1);
}

static inline void end_well(pid_t pid)
{
	CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS / 2), 0);
}

#endif
