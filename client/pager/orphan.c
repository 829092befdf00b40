/* See orphan.h. One record: a process has one parent. */
#include "orphan.h"

#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pager_priv.h"
#include "thread.h"
#include "uapi.h"
#include "uffd.h"

#define EVENT_BATCH 16u

/* Immutable once the thread runs. */
static struct {
	bool active;
	int uffd, sock;
	int heir_sock; /* -1: none */
	int parent_fd; /* pidfd; -1: the socket alone tells */
	int guard_fd;
	const struct ferryi_child *child;
} orphan;

static void on_fault(uintptr_t va)
{
	int rc = ferryi_uffd_poison(orphan.uffd, (void *)va);

	if (rc) /* EAGAIN: the address space is changing, it faults again; EEXIST: the parent gave it with its last breath */
		ferryi_uffd_wake(orphan.uffd, (void *)va, FERRYI_PAGE_SIZE);
}

/* Other events are only to be read: their callers wait for that. */
static void answer_faults(void)
{
	struct uffd_msg msgs[EVENT_BATCH];
	struct pollfd pfd = { .fd = orphan.uffd, .events = POLLIN };

	for (;;) {
		if (poll(&pfd, 1, -1) < 0)
			continue;
		ssize_t len = read(orphan.uffd, msgs, sizeof(msgs));
		unsigned n = len > 0 ? (unsigned)((size_t)len / sizeof(msgs[0])) : 0;

		for (unsigned i = 0; i < n; i++) {
			if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
				on_fault((uintptr_t)msgs[i].arg.pagefault.address & ~(uintptr_t)(FERRYI_PAGE_SIZE - 1));
		}
	}
}

static void *orphan_main(void *arg)
{
	/* A socket's other end may live on in a process that the parent made by a raw clone: the pidfd tells, too. */
	struct pollfd pfd[2] = { { .fd = orphan.sock, .events = POLLIN }, { .fd = orphan.parent_fd, .events = POLLIN } };

	(void)arg;
	pthread_setname_np(pthread_self(), "ferry-orphan");
	while (poll(pfd, 2, -1) < 0)
		;
	pfd[0].fd = orphan.heir_sock;
	while (orphan.heir_sock >= 0 && poll(pfd, 1, -1) < 0)
		;
	/* Faults that they had read, and did not come to answer: woken, they come again, to us. */
	for (unsigned i = 0; i < orphan.child->areas.nr_areas; i++) {
		const struct ferryi_area *area = &orphan.child->areas.areas[i];

		ferryi_uffd_wake(orphan.uffd, (void *)area->start, area->end - area->start);
	}
	answer_faults();
	return NULL;
}

int ferryi_orphan_start(struct ferryi_pager *pager, const struct ferryi_child *child, int uffd, int sock, int heir_sock,
			pid_t parent)
{
	pthread_t thread;

	orphan.uffd = uffd;
	orphan.sock = sock;
	orphan.heir_sock = heir_sock;
	orphan.guard_fd = pager->fork_guard_fd;
	orphan.child = child;
	orphan.parent_fd = (int)syscall(SYS_pidfd_open, parent, 0);
	if (orphan.parent_fd >= 0 && getppid() != parent) { /* dead already, the number may be somebody else's */
		close(orphan.parent_fd);
		orphan.parent_fd = -1;
	}
	int rc = ferryi_thread_start_on(&thread, pager->children.orphan_stack, FERRYI_ORPHAN_STACK_BYTES, orphan_main,
					NULL);

	if (rc)
		return rc;
	pthread_detach(thread);
	orphan.active = true;
	return 0;
}

void ferryi_orphan_forked(void)
{
	if (!orphan.active)
		return;
	orphan.active = false;
	close(orphan.uffd);
	close(orphan.sock);
	if (orphan.heir_sock >= 0)
		close(orphan.heir_sock);
	if (orphan.parent_fd >= 0)
		close(orphan.parent_fd);
	/* Where the child has put something of its own since, that stays. */
	for (unsigned i = 0; i < orphan.child->areas.nr_areas; i++) {
		const struct ferryi_area *area = &orphan.child->areas.areas[i];

		mmap((void *)area->start, area->end - area->start, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_FIXED_NOREPLACE | MAP_NORESERVE, orphan.guard_fd, 0);
	}
}
