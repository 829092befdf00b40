/*
 * fork: managed ranges carry MADV_DONTFORK, so that the child of a raw
 * clone(2), which runs no handler, gets SIGSEGV there and never zeros. Around
 * fork(3) they are inherited, and the child is armed before it returns:
 *
 *   prepare (parent)                       other threads of the parent
 *   ------------------------------------   --------------------------------------
 *   service_lock: no call moves pages out  faults are answered all along: other
 *   eviction threads rest                    atfork handlers may touch pages away
 *   coherent pages are away (a shared
 *     mapping is not copied on write)
 *   children's lock
 *   areas copied, pages sampled: no page   pages may come home or be dropped; an
 *     leaves RAM after it was sampled        munmap, mremap, MADV_DONTNEED is noted
 *   MADV_DOFORK                              (events_lock)
 *   ---- the kernel copies the address space ----
 *   parent                                 child
 *   ------------------------------------   --------------------------------------
 *   MADV_DONTFORK                          own userfaultfd over the areas,
 *   events of before the fork are read       MADV_DONTFORK
 *   eviction goes on, service_lock is let go
 *   takes the descriptor            <----  sends it
 *   its heir (heir.h)
 *   serves it (child.h); verdict    ---->  ranges that changed meanwhile: SIGBUS
 *   children's lock is let go              a thread that outlives us (orphan.c)
 *
 * The noted changes are in the address space that is copied, too: how many the
 * child finds there were made before the copy. A MADV_DONTNEED of these dropped
 * the child's pages as well; of an munmap or mremap neither end is trusted.
 *
 * If anything fails, or FERRY_FORK=guard, an empty file is mapped over each
 * range in the child: SIGBUS, and ferry_fault_query says FORKED. No page away
 * at all: the child needs nothing of this.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "orphan.h"
#include "pager_priv.h"
#include "uapi.h"
#include "uffd.h"

#define PAUSE_MS 1
#define SPINS    1000u

#define CHILD_FEATURES                                                                                       \
	(FERRYI_UFFD_FEATURE_EVENT_REMAP | FERRYI_UFFD_FEATURE_EVENT_REMOVE | FERRYI_UFFD_FEATURE_EVENT_UNMAP | \
	 FERRYI_UFFD_FEATURE_POISON)

enum way {
	WAY_NONE = 0, /* no pager, or nothing managed */
	WAY_GUARD,    /* SIGBUS; the area table's read lock is held */
	WAY_PLAIN,    /* inherited, and no page is away; service_lock and the children's lock are held */
	WAY_COPY,     /* the same, with pages away */
};

/* The fork under way in this thread. */
struct fork_state {
	struct ferryi_pager *pager;
	enum way way;
	struct ferryi_child *child;
	int parent_sock, child_sock;
	pid_t parent;
	uint64_t deadline_ns;
};

/* What a child says first, with its userfaultfd. */
struct hello {
	uint32_t nr_changes; /* that it found noted */
};

struct verdict {
	uint32_t nr; /* of change, or more: trust nothing */
	struct ferryi_fork_change change[FERRYI_FORK_LOG];
};

/* One struct ferry a process (ferry_open keeps that), so one pager. */
static _Atomic(struct ferryi_pager *) the_pager;
static _Thread_local struct fork_state now;

/* ---- the window ---- */

void ferryi_fork_note_locked(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, bool is_drop)
{
	ferryi_assert_held(&pager->events_lock);
	if (pager->nr_changes < FERRYI_FORK_LOG)
		pager->change[pager->nr_changes] = (struct ferryi_fork_change){ start, end, is_drop };
	if (pager->nr_changes <= FERRYI_FORK_LOG)
		pager->nr_changes++;
}

static bool is_quiet(struct ferryi_pager *pager)
{
	for (unsigned i = 0; i < pager->nr_evict_threads; i++) {
		if (atomic_load(&pager->evict_threads[i].busy))
			return false;
	}
	ferryi_mutex_lock(&pager->zombies_lock);
	bool quiet = !pager->nr_reaping;

	ferryi_mutex_unlock(&pager->zombies_lock);
	return quiet;
}

static bool wait_until_quiet(struct ferryi_pager *pager, uint64_t deadline_ns)
{
	for (unsigned i = 0; !is_quiet(pager); i++) {
		if (ferryi_now_ns() >= deadline_ns)
			return false;
		if (i < SPINS)
			sched_yield();
		else
			poll(NULL, 0, PAUSE_MS);
	}
	return true;
}

/* events_lock, once every change that the kernel has made is in the area table. false: not held, not in time. */
static bool lock_settled_events(struct ferryi_pager *pager, uint64_t deadline_ns)
{
	for (;;) {
		ferryi_mutex_lock(&pager->events_lock);
		if (!pager->nr_late_moves && !ferryi_events_to_come(pager))
			return true;
		ferryi_mutex_unlock(&pager->events_lock);
		if (ferryi_now_ns() >= deadline_ns)
			return false;
		poll(NULL, 0, PAUSE_MS);
	}
}

static struct ferryi_child *snapshot(struct ferryi_pager *pager, uint64_t deadline_ns)
{
	if (!lock_settled_events(pager, deadline_ns))
		return NULL;
	ferryi_areas_read_lock(&pager->areas);
	pager->nr_changes = 0;
	struct ferryi_child *child = ferryi_child_create(pager);

	ferryi_areas_read_unlock(&pager->areas);
	ferryi_mutex_unlock(&pager->events_lock);
	if (child && !ferryi_child_sample(pager, child, deadline_ns))
		ferryi_child_destroy(pager, &child);
	return child;
}

/* ASSUMPTION: service lock held; until the window is closed. */
static void open_window(struct ferryi_pager *pager)
{
	ferryi_assert_held(&pager->service_lock);
	atomic_store(&pager->forking, true);
	atomic_store(&pager->forking_tid, (int)syscall(SYS_gettid));
	atomic_fetch_add(&pager->evict_paused, 1);
}

static void close_window(struct ferryi_pager *pager)
{
	atomic_fetch_sub(&pager->evict_paused, 1);
	atomic_store(&pager->forking_tid, 0);
	atomic_store(&pager->forking, false);
	ferryi_mutex_unlock(&pager->service_lock);
	ferryi_pager_need_memory(pager);
	ferryi_keeper_kick(pager->keeper);
}

static void set_inherited(const struct ferryi_area_table *areas, int advice)
{
	for (unsigned i = 0; i < areas->nr_areas; i++)
		madvise((void *)areas->areas[i].start, areas->areas[i].end - areas->areas[i].start, advice);
}

/* ---- prepare ---- */

static bool make_sockets(void)
{
	int sock[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock))
		return false;
	now.parent_sock = sock[0];
	now.child_sock = sock[1];
	return true;
}

/* WAY_GUARD: undone. */
static enum way prepare_copy(struct ferryi_pager *pager)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);

	ferryi_mutex_lock(&pager->service_lock);
	if (ferryi_coherent_leave_locked(pager, &(struct ferryi_coherent_part){ .end = UINTPTR_MAX }, NULL)) {
		ferryi_mutex_unlock(&pager->service_lock);
		ferryi_warn("fork: the child gets SIGBUS on managed memory: pages of a coherent pool could not be unmapped");
		return WAY_GUARD;
	}
	open_window(pager);
	bool quiet = wait_until_quiet(pager, deadline_ns); /* first: eviction may be waiting for the lock */

	ferryi_mutex_lock(&pager->children.lock);
	now.child = quiet ? snapshot(pager, deadline_ns) : NULL;
	bool needs_nothing = now.child && !now.child->nr_needed && !now.child->nr_lost;

	if (needs_nothing || (now.child && pager->children.nr < FERRYI_MAX_CHILDREN && make_sockets())) {
		set_inherited(&now.child->areas, MADV_DOFORK);
		return needs_nothing ? WAY_PLAIN : WAY_COPY;
	}
	ferryi_warn("fork: the child gets SIGBUS on managed memory: %s",
		    now.child ? "too many children, or no descriptor left" : "pages did not settle in time");
	ferryi_child_destroy(pager, &now.child);
	ferryi_mutex_unlock(&pager->children.lock);
	close_window(pager);
	return WAY_GUARD;
}

/* As the kernel's copy_page_range does; nothing moves, so there is nothing to wait for. */
static void tell_mirrors(struct ferryi_pager *pager)
{
	struct ferryi_notice notice;

	ferryi_areas_read_lock(&pager->areas);
	for (unsigned i = 0; i < pager->areas.nr_areas; i++) {
		const struct ferryi_area *area = &pager->areas.areas[i];

		ferryi_notify_begin(pager->attr.notifier, &notice, area->start, area->end - area->start, FERRY_UPDATE_FORK, NULL);
		ferryi_notify_end(&notice);
	}
	ferryi_areas_read_unlock(&pager->areas);
}

static void before_fork(void)
{
	struct ferryi_pager *pager = atomic_load(&the_pager);

	now = (struct fork_state){ .pager = pager, .parent_sock = -1, .child_sock = -1, .parent = getpid() };
	if (!pager || atomic_load(&pager->forked) || !atomic_load(&pager->areas.managed_pages))
		return;
	if (pager->attr.fork_copies)
		tell_mirrors(pager);
	now.way = pager->attr.fork_copies ? prepare_copy(pager) : WAY_GUARD;
	if (now.way == WAY_GUARD)
		ferryi_areas_read_lock(&pager->areas);
}

/* ---- parent ---- */

/* A packet, with a descriptor (-1: none), at once or not at all. 0 or negative errno. */
static int send_with_fd(int sock, const void *packet, size_t len, int fd)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)packet, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		msg.msg_control = control.buf;
		msg.msg_controllen = sizeof(control.buf);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	return sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len ? 0 : -errno;
}

/* A packet of that length, and the descriptor that comes with it, or -1. -ETIMEDOUT, -EPIPE. */
static int receive_with_fd(int sock, void *packet, size_t len, int *fd, uint64_t deadline_ns)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { packet, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf,
			      .msg_controllen = sizeof(control.buf) };
	struct pollfd pfd = { .fd = sock, .events = POLLIN };
	int n;

	*fd = -1;
	do {
		n = poll(&pfd, 1, ferryi_remaining_ms(deadline_ns));
	} while (n < 0 && errno == EINTR);
	if (n <= 0)
		return -ETIMEDOUT;
	if (recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) != (ssize_t)len)
		return -EPIPE;
	const struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(fd, CMSG_DATA(c), sizeof(int));
	return 0;
}

/* The child's hello and its userfaultfd: 0, or it is not to be had (the fork failed, the child is dead already, ...). */
static int receive_hello(struct ferryi_child *child, struct hello *hello, uint64_t deadline_ns)
{
	int rc = receive_with_fd(child->sock, hello, sizeof(*hello), &child->uffd, deadline_ns);

	return rc ? rc : child->uffd < 0 ? -EPROTO : 0;
}

/* Reads what the application changed until the fork, into *verdict. */
static void judge(struct ferryi_pager *pager, struct verdict *verdict, uint64_t deadline_ns)
{
	verdict->nr = FERRYI_FORK_LOG + 1;
	if (!lock_settled_events(pager, deadline_ns))
		return;
	verdict->nr = pager->nr_changes;
	memcpy(verdict->change, pager->change, sizeof(verdict->change));
	ferryi_mutex_unlock(&pager->events_lock);
}

static void adopt_child(struct ferryi_pager *pager, const struct verdict *verdict, uint64_t deadline_ns)
{
	struct hello hello = { 0 };

	now.child->sock = now.parent_sock;
	int rc = receive_hello(now.child, &hello, deadline_ns);

	if (rc == -ETIMEDOUT || rc == -EPROTO)
		ferryi_warn("fork: the child gets SIGBUS on managed memory: %s", ferryi_strerror(rc));
	for (unsigned i = 0; i < ferryi_min_u64(verdict->nr, FERRYI_FORK_LOG) && i < hello.nr_changes; i++) {
		if (verdict->change[i].is_drop)
			ferryi_child_drop(now.child, verdict->change[i].start, verdict->change[i].end);
	}
	int heir_sock = rc ? -1 : ferryi_heir_add_locked(pager, &now.child);

	if (rc || send_with_fd(now.child->sock, verdict, sizeof(*verdict), heir_sock))
		ferryi_child_destroy(pager, &now.child);
	else
		ferryi_children_add_locked(pager, now.child);
	if (heir_sock >= 0)
		close(heir_sock); /* it is the child's */
}

static void after_copy_in_parent(struct ferryi_pager *pager)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	struct verdict verdict;

	if (now.way == WAY_COPY)
		judge(pager, &verdict, deadline_ns);
	ferryi_areas_read_lock(&pager->areas);
	set_inherited(&pager->areas, MADV_DONTFORK);
	ferryi_areas_read_unlock(&pager->areas);
	atomic_store(&pager->has_forked, true);
	close_window(pager);
	if (now.way == WAY_COPY) {
		close(now.child_sock); /* the other end is the child's alone */
		adopt_child(pager, &verdict, deadline_ns);
	} else {
		ferryi_child_destroy(pager, &now.child);
	}
	ferryi_mutex_unlock(&pager->children.lock);
}

static void after_fork_in_parent(void)
{
	if (now.way == WAY_GUARD)
		ferryi_areas_read_unlock(&now.pager->areas);
	else if (now.way != WAY_NONE)
		after_copy_in_parent(now.pager);
}

/* ---- child: the only thread ---- */

static void guard(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	mmap((void *)start, end - start, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
	     pager->fork_guard_fd, 0);
}

static void guard_all(struct ferryi_pager *pager, const struct ferryi_area_table *areas)
{
	for (unsigned i = 0; i < areas->nr_areas; i++)
		guard(pager, areas->areas[i].start, areas->areas[i].end);
}

/* Its own userfaultfd over all areas; nothing is armed yet where this fails. */
static int arm(struct ferryi_pager *pager, const struct ferryi_area_table *areas)
{
	bool kernel_faults;
	int uffd = ferryi_uffd_open(CHILD_FEATURES, &kernel_faults);

	for (unsigned i = 0; uffd >= 0 && i < areas->nr_areas; i++) {
		uintptr_t start = areas->areas[i].start, end = areas->areas[i].end;

		if (ferryi_uffd_register(uffd, (void *)start, end - start, false))
			guard(pager, start, end); /* unmapped just before the fork, and something else there */
	}
	set_inherited(areas, MADV_DONTFORK); /* a child's child: SIGBUS (orphan.c) */
	return uffd;
}

/* Nobody would read the event of an unmapping: no part of the range may be armed when the guard is mapped over it. */
static void disarm_and_guard(struct ferryi_pager *pager, int uffd, uintptr_t start, uintptr_t end)
{
	ferryi_uffd_unregister(uffd, (void *)start, end - start);
	guard(pager, start, end);
}

static int come_up(struct ferryi_pager *pager, int uffd)
{
	/* More than the parent's: it may take all of its own before it looks here, and as much for each server of an heir. */
	uint64_t deadline_ns = ferryi_deadline_ms((2ull + FERRYI_MAX_POOLS_ATTACHED) * pager->attr.fault_timeout_ms);
	struct hello hello = { .nr_changes = pager->nr_changes };
	struct verdict verdict;
	int rc = uffd < 0 ? uffd : send_with_fd(now.child_sock, &hello, sizeof(hello), uffd), heir_sock = -1;

	if (!rc)
		rc = receive_with_fd(now.child_sock, &verdict, sizeof(verdict), &heir_sock, deadline_ns);
	if (!rc && verdict.nr > FERRYI_FORK_LOG)
		rc = -EOVERFLOW;
	for (unsigned i = 0; !rc && i < verdict.nr; i++) {
		if (!verdict.change[i].is_drop)
			disarm_and_guard(pager, uffd, verdict.change[i].start, verdict.change[i].end);
	}
	if (!rc)
		rc = ferryi_orphan_start(pager, now.child, uffd, now.child_sock, heir_sock, now.parent);
	if (rc && heir_sock >= 0)
		close(heir_sock);
	return rc;
}

static void come_up_or_guard(struct ferryi_pager *pager)
{
	const struct ferryi_area_table *areas = &now.child->areas;
	int uffd = arm(pager, areas);
	int rc = come_up(pager, uffd);

	if (!rc)
		return;
	ferryi_warn("fork: this child gets SIGBUS on managed memory: %s", ferryi_strerror(rc));
	for (unsigned i = 0; i < areas->nr_areas; i++)
		disarm_and_guard(pager, uffd, areas->areas[i].start, areas->areas[i].end);
	close(now.child_sock);
	if (uffd >= 0)
		close(uffd);
}

/* What other children's life and memory hang on is not ours. */
static void close_of_others(struct ferryi_pager *pager)
{
	for (unsigned i = 0; i < pager->children.nr; i++) {
		close(pager->children.child[i]->uffd);
		close(pager->children.child[i]->sock);
	}
	if (now.parent_sock >= 0)
		close(now.parent_sock);
	if (pager->children.heir.sock >= 0)
		close(pager->children.heir.sock);
}

/* ferry_fault_query reads this table; a writer may have been at work on it, so it is written anew. */
static void restore_areas(struct ferryi_pager *pager)
{
	for (unsigned i = 0; i < now.child->areas.nr_areas; i++) {
		struct ferryi_area *area = &pager->areas.areas[i];

		*area = now.child->areas.areas[i];
		area->object = ((struct ferryi_child_object *)area->object)->of;
	}
	pager->areas.nr_areas = now.child->areas.nr_areas;
	atomic_store(&pager->areas.seq, 0);
}

static void after_fork_in_child(void)
{
	struct ferryi_pager *pager = now.pager;

	ferryi_orphan_forked();
	if (!pager || atomic_load(&pager->forked))
		return;
	close_of_others(pager);
	if (now.way == WAY_GUARD)
		guard_all(pager, &pager->areas);
	if (now.way == WAY_COPY)
		come_up_or_guard(pager);
	if (now.way == WAY_COPY || now.way == WAY_PLAIN) {
		restore_areas(pager);
		ferryi_mutex_unlock(&pager->children.lock);
		ferryi_mutex_unlock(&pager->service_lock);
	}
	atomic_store(&pager->forked, true);
	/* The parent's userfaultfd would keep its faults readable here. */
	close(pager->uffd);
	if (ferryi_inline_is_on(&pager->inline_mode))
		close(pager->inline_mode.uffd);
	ferryi_inline_forked();
}

/*
 * As early as may be: who registers first is the last in prepare, and the first
 * in the child. Others' handlers there may touch managed memory, so it has to be
 * armed before them.
 */
__attribute__((constructor(101))) static void install_handlers(void)
{
	pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

int ferryi_fork_guard_open(struct ferryi_pager *pager)
{
	pager->fork_guard_fd = memfd_create("ferry-fork-guard", MFD_CLOEXEC);
	if (pager->fork_guard_fd < 0)
		return -errno;
	atomic_store(&the_pager, pager);
	return 0;
}

void ferryi_fork_guard_close(struct ferryi_pager *pager)
{
	atomic_store(&the_pager, NULL);
	close(pager->fork_guard_fd);
	pager->fork_guard_fd = -1;
}
