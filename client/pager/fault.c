/*
 * Fault threads: read events from the userfaultfd, hand faults to the fetcher,
 * apply the application's own changes. Spins while reads are under way, then
 * sleeps on the descriptors.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "pager_priv.h"
#include "spin.h"
#include "uapi.h"
#include "uffd.h"

#define EVENT_BATCH 16u

static void on_pagefault(struct ferryi_handler *h, const struct uffd_msg *msg, uint64_t now)
{
	struct ferryi_fault fault = {
		.va = (uintptr_t)msg->arg.pagefault.address & ~(uintptr_t)(FERRYI_PAGE_SIZE - 1),
		.write = msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE,
		.minor = msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR,
		.tid = (int)msg->arg.pagefault.feat.ptid,
		.start_ns = now,
		.deadline_ns = now + h->pager->attr.fault_timeout_ms * FERRYI_NS_PER_MS,
	};

	if (msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) {
		/* Only holes are marked: a mark on a present page is left over from a lost race. */
		ferryi_uffd_mark(h->pager->uffd, (void *)fault.va, FERRYI_PAGE_SIZE, false);
		ferryi_uffd_wake(h->pager->uffd, (void *)fault.va, FERRYI_PAGE_SIZE);
		return;
	}
	ferryi_fetch_fault(&h->fetcher, &fault);
}

struct ferryi_change {
	uintptr_t start;
	size_t len;
	enum ferry_update_event event;
};

/* What a mirror is told of an event: for mremap, the old addresses. */
static struct ferryi_change change_of(const struct uffd_msg *msg)
{
	if (msg->event == UFFD_EVENT_REMAP)
		return (struct ferryi_change){ (uintptr_t)msg->arg.remap.from, (size_t)msg->arg.remap.len,
					       FERRY_UPDATE_REMAP };
	return (struct ferryi_change){ (uintptr_t)msg->arg.remove.start,
				       (size_t)(msg->arg.remove.end - msg->arg.remove.start),
				       msg->event == UFFD_EVENT_REMOVE ? FERRY_UPDATE_REMOVE : FERRY_UPDATE_UNMAP };
}

/* The library's own: a mapping that it has replaced. */
static bool is_own_change_locked(struct ferryi_pager *pager, const struct uffd_msg *msg)
{
	return msg->event == UFFD_EVENT_REMAP ?
		       ferryi_coherent_own_remap_locked(pager, (uintptr_t)msg->arg.remap.from) :
		       msg->event == UFFD_EVENT_UNMAP &&
			       ferryi_coherent_own_unmap_locked(pager, (uintptr_t)msg->arg.remove.start,
								(uintptr_t)msg->arg.remove.end);
}

static void on_change_locked(struct ferryi_pager *pager, const struct uffd_msg *msg)
{
	struct ferryi_notice notice;
	const struct ferryi_change change = change_of(msg);

	if (is_own_change_locked(pager, msg))
		return;

	if (atomic_load_explicit(&pager->forking, memory_order_relaxed)) {
		ferryi_fork_note_locked(pager, change.start, change.start + change.len, change.event == FERRY_UPDATE_REMOVE);
		if (change.event == FERRY_UPDATE_REMAP)
			ferryi_fork_note_locked(pager, (uintptr_t)msg->arg.remap.to,
						(uintptr_t)msg->arg.remap.to + change.len, false);
	}
	ferryi_notify_begin(pager->attr.notifier, &notice, change.start, change.len, change.event, NULL);
	switch (msg->event) {
	case UFFD_EVENT_REMOVE:
		ferryi_event_remove_locked(pager, (uintptr_t)msg->arg.remove.start, (uintptr_t)msg->arg.remove.end);
		break;
	case UFFD_EVENT_UNMAP:
		ferryi_event_unmap_locked(pager, (uintptr_t)msg->arg.remove.start, (uintptr_t)msg->arg.remove.end);
		break;
	case UFFD_EVENT_REMAP:
		ferryi_event_remap_locked(pager, (uintptr_t)msg->arg.remap.from, (uintptr_t)msg->arg.remap.to,
					  msg->arg.remap.len);
		break;
	default:
		break;
	}
	ferryi_notify_end(&notice);
}

/* Nothing can be had back any more, nor any fault answered: nobody is to go on with that. */
_Noreturn static void lost_descriptor(int uffd)
{
	ferryi_error("descriptor %d, the userfaultfd, was closed by the application: it cannot go on without its away pages",
		     uffd);
	abort();
}

/* The application's changes that are among these, while no lane looks (inline.h). */
static void apply_changes_locked(struct ferryi_pager *pager, const struct uffd_msg *msgs, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (msgs[i].event != UFFD_EVENT_PAGEFAULT)
			on_change_locked(pager, &msgs[i]);
	}
}

static unsigned read_msgs_locked(int uffd, struct uffd_msg *msgs)
{
	ssize_t len = read(uffd, msgs, EVENT_BATCH * sizeof(*msgs));

	if (len < 0 && errno == EBADF)
		lost_descriptor(uffd);
	return len > 0 ? (unsigned)((size_t)len / sizeof(*msgs)) : 0;
}

/* Of inline memory there are changes only, and few: lanes are kept out from before they are read until they are applied. */
static unsigned read_inline_locked(struct ferryi_pager *pager)
{
	struct pollfd pfd = { .fd = pager->inline_mode.uffd, .events = POLLIN };
	struct uffd_msg msgs[EVENT_BATCH];

	if (poll(&pfd, 1, 0) <= 0)
		return 0;
	ferryi_inline_close_gate_locked(pager);
	unsigned n = read_msgs_locked(pager->inline_mode.uffd, msgs);

	apply_changes_locked(pager, msgs, n);
	ferryi_inline_open_gate_locked(pager);
	return n;
}

static bool any_change(const struct uffd_msg *msgs, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (msgs[i].event != UFFD_EVENT_PAGEFAULT)
			return true;
	}
	return false;
}

/*
 * Changes are applied before anybody can read a later event, so that a fault
 * which follows a MADV_DONTNEED is never served with the data it dropped.
 */
static unsigned read_events(struct ferryi_handler *h)
{
	struct uffd_msg msgs[EVENT_BATCH];
	struct ferryi_pager *pager = h->pager;

	if (!ferryi_mutex_trylock(&pager->events_lock))
		return 0;
	bool has_inline = ferryi_inline_is_on(&pager->inline_mode);
	unsigned n = read_msgs_locked(pager->uffd, msgs), nr_inline = 0;
	bool has_late = atomic_load_explicit(&pager->nr_late_moves, memory_order_relaxed);

	if (has_late || any_change(msgs, n)) {
		if (has_inline)
			ferryi_inline_close_gate_locked(pager); /* lanes look at late moves */
		apply_changes_locked(pager, msgs, n);
		if (atomic_load_explicit(&pager->nr_late_moves, memory_order_relaxed))
			ferryi_event_late_locked(pager);
		if (has_inline)
			ferryi_inline_open_gate_locked(pager);
	}
	if (has_inline)
		nr_inline = read_inline_locked(pager);
	ferryi_mutex_unlock(&pager->events_lock);

	uint64_t now = n ? ferryi_now_ns() : 0;

	for (unsigned i = 0; i < n; i++) {
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			on_pagefault(h, &msgs[i], now);
	}
	return n + nr_inline;
}

/* Sleeps until an event, a completion, a wake-up, or a millisecond while something waits. */
static void rest(struct ferryi_handler *h)
{
	struct pollfd pfd[3 + FERRYI_MAX_POOLS_ATTACHED] = {
		{ .fd = h->pager->uffd, .events = POLLIN },
		{ .fd = h->wake_fd, .events = POLLIN },
	};
	nfds_t n = 2;
	struct ferryi_inline *inl = &h->pager->inline_mode;
	bool waits = h->fetcher.nr_waiting || h->fetcher.landed || atomic_load_explicit(&h->pager->nr_late_moves, memory_order_relaxed);
	int timeout_ms = waits ? 1 : ferryi_fetch_is_idle(&h->fetcher) ? -1 : 10;

	if (ferryi_inline_is_on(inl))
		pfd[n++] = (struct pollfd){ .fd = inl->uffd, .events = POLLIN };
	if (h->fetcher.nr_outstanding) {
		for (unsigned p = 0; p < FERRYI_MAX_POOLS_ATTACHED; p++) {
			struct ferryi_channel *channel = h->fetcher.lines.link[p].channel;

			if (!channel || !ferryi_channel_outstanding(channel))
				continue;
			if (ferryi_channel_arm(channel))
				return; /* something is there, or there is nothing to sleep on */
			pfd[n++] = (struct pollfd){ .fd = ferryi_channel_wait_fd(channel), .events = POLLIN };
		}
	}
	atomic_store(&h->is_asleep, true);
	if (h == h->pager->handlers && atomic_load(&inl->is_ahead_wanted))
		timeout_ms = 0;
	int ready = poll(pfd, n, timeout_ms);

	atomic_store(&h->is_asleep, false);
	if (ready > 0 && (pfd[1].revents & POLLIN)) {
		uint64_t count;

		if (read(h->wake_fd, &count, sizeof(count)) < 0)
			return; /* EAGAIN: another round took it */
	}
}

/*
 * Spins on while reads are under way, and for the next fault of a run of them:
 * waking this thread can cost more than the whole fault. Faults that come
 * further apart than the spin end it, so that an idle program costs nothing.
 */
void *ferryi_handler_main(void *arg)
{
	struct ferryi_handler *h = arg;
	bool may_spin = sysconf(_SC_NPROCESSORS_ONLN) > 1;
	uint64_t idle_since = 0;
	bool in_a_run = false;
	struct ferryi_spin spin = { 0 };

	pthread_setname_np(pthread_self(), "ferry-fault");
	while (!atomic_load_explicit(&h->pager->stopping, memory_order_relaxed) || !ferryi_fetch_is_idle(&h->fetcher)) {
		unsigned done = ferryi_fetch_poll(&h->fetcher);

		done += read_events(h);
		if (h == h->pager->handlers)
			done += ferryi_inline_read_ahead(&h->fetcher);
		if (done) {
			ferryi_spin_end(&spin, true);
			idle_since = 0;
			in_a_run = true;
			continue;
		}
		if (may_spin && (h->fetcher.nr_outstanding || in_a_run)) {
			uint64_t now = ferryi_now_ns();

			if (!idle_since) {
				idle_since = now;
				ferryi_spin_begin(&spin, h->fetcher.nr_outstanding > 0);
			}
			if (now - idle_since < spin.limit_ns) {
				ferryi_cpu_relax();
				continue;
			}
			ferryi_spin_end(&spin, false);
		}
		in_a_run = false;
		rest(h);
		idle_since = 0;
	}
	return NULL;
}

void ferryi_pager_wake_handlers(struct ferryi_pager *pager)
{
	uint64_t one = 1;

	if (ferryi_inline_is_on(&pager->inline_mode))
		ferryi_inline_wake(&pager->inline_mode);
	for (unsigned i = 0; i < pager->nr_handlers; i++) {
		if (write(pager->handlers[i].wake_fd, &one, sizeof(one)) < 0)
			continue; /* EAGAIN: it is awake */
	}
}
