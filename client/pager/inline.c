/* See inline.h. Runs in the application's threads, but for start, stop and the fault thread's part. */
#include "inline.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "log.h"
#include "pager_priv.h"
#include "uapi.h"

#define PAUSE_MS    1
#define CONNECT_MS  10000u
#define LEAST_LANES 4u
#define CHECK_POLLS 1024u
#define SAME_FAULTS 1000u /* at one address in a row: something is wrong with it */

/* A mailbox: ferryi_lane.ahead */
#define AHEAD_VA_SHIFT 28
#define AHEAD_NR_SHIFT 16
#define AHEAD_MAX      0xfffu

#define FEATURES                                                                                             \
	(FERRYI_UFFD_FEATURE_SIGBUS | FERRYI_UFFD_FEATURE_EVENT_REMAP | FERRYI_UFFD_FEATURE_EVENT_REMOVE |   \
	 FERRYI_UFFD_FEATURE_EVENT_UNMAP | FERRYI_UFFD_FEATURE_WP_UNPOPULATED | FERRYI_UFFD_FEATURE_POISON | \
	 FERRYI_UFFD_FEATURE_MOVE)

/* The process's, as SIGBUS is. A seat is the right to the lane of its number, of whatever pager there is. */
static struct {
	_Alignas(64) _Atomic bool is_taken;
} seats[FERRYI_MAX_LANES];
static _Atomic unsigned nr_seats;
static _Atomic uint64_t timeout_ns; /* of a fault */
static _Atomic bool may_spin;	    /* there is another CPU that may end what is waited for */
static _Atomic unsigned next_seat;  /* threads begin at different ones */
static _Atomic(struct ferryi_pager *) the_pager;
static _Atomic bool is_installed;
static struct sigaction previous; /* immutable while is_installed */

/* No allocation at the first touch of these in a handler. */
#define HANDLER_LOCAL static _Thread_local __attribute__((tls_model("initial-exec")))

HANDLER_LOCAL unsigned my_seat; /* number + 1 of the last one; its lane knows the thread's streams */
HANDLER_LOCAL uintptr_t last_va, last_strange_va;
HANDLER_LOCAL unsigned nr_same;

/* ---- seats ---- */

static bool try_seat(unsigned i)
{
	return !atomic_load_explicit(&seats[i].is_taken, memory_order_relaxed) &&
	       !atomic_exchange(&seats[i].is_taken, true);
}

static void leave_seat(unsigned i)
{
	atomic_store_explicit(&seats[i].is_taken, false, memory_order_release);
}

/* A seat's number, or -ETIMEDOUT. */
static int take_seat(uint64_t deadline_ns)
{
	unsigned n = atomic_load_explicit(&nr_seats, memory_order_relaxed);

	if (!my_seat)
		my_seat = atomic_fetch_add_explicit(&next_seat, 1, memory_order_relaxed) % n + 1;
	for (;;) {
		for (unsigned k = 0; k < n; k++) {
			unsigned i = (my_seat - 1 + k) % n;

			if (try_seat(i)) {
				my_seat = i + 1;
				return (int)i;
			}
		}
		if (ferryi_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		sched_yield();
	}
}

void ferryi_inline_seat_lock(unsigned i)
{
	while (!try_seat(i))
		poll(NULL, 0, PAUSE_MS);
}

void ferryi_inline_seat_unlock(unsigned i)
{
	leave_seat(i);
}

/* ---- the gate ---- */

void ferryi_lane_enter(struct ferryi_lane *lane)
{
	struct ferryi_inline *inl = &lane->fetcher.pager->inline_mode;

	for (;;) {
		atomic_store(&lane->inside, true);
		if (!atomic_load(&inl->is_closed))
			return;
		atomic_store_explicit(&lane->inside, false, memory_order_release);
		while (atomic_load_explicit(&inl->is_closed, memory_order_relaxed))
			sched_yield();
	}
}

void ferryi_lane_leave(struct ferryi_lane *lane)
{
	atomic_store_explicit(&lane->inside, false, memory_order_release);
}

void ferryi_inline_close_gate_locked(struct ferryi_pager *pager)
{
	struct ferryi_inline *inl = &pager->inline_mode;

	ferryi_assert_held(&pager->events_lock);
	atomic_store(&inl->is_closed, true);
	for (unsigned i = 0; i < inl->nr_lanes; i++) {
		while (atomic_load(&inl->lanes[i].inside))
			sched_yield();
	}
}

void ferryi_inline_open_gate_locked(struct ferryi_pager *pager)
{
	ferryi_assert_held(&pager->events_lock);
	atomic_store_explicit(&pager->inline_mode.is_closed, false, memory_order_release);
}

/* ---- read-ahead ---- */

uint32_t ferryi_lane_want_ahead(struct ferryi_lane *lane, uintptr_t va, ptrdiff_t step, uint32_t nr)
{
	struct ferryi_pager *pager = lane->fetcher.pager;
	struct ferryi_handler *h = &pager->handlers[0];
	uint64_t one = 1;

	nr = (uint32_t)ferryi_min_u64(nr, AHEAD_MAX);
	if (!nr || step != (int16_t)step)
		return 0;
	atomic_store(&lane->ahead, (uint64_t)va >> FERRYI_PAGE_SHIFT << AHEAD_VA_SHIFT | (uint64_t)nr << AHEAD_NR_SHIFT |
					   (uint16_t)step);
	atomic_store(&pager->inline_mode.is_ahead_wanted, true);
	if (atomic_load(&h->is_asleep) && write(h->wake_fd, &one, sizeof(one)) < 0)
		return nr; /* EAGAIN: woken already */
	return nr;
}

unsigned ferryi_inline_read_ahead(struct ferryi_fetcher *f)
{
	struct ferryi_inline *inl = &f->pager->inline_mode;
	unsigned n = 0;

	if (!ferryi_inline_is_on(inl) || !atomic_load_explicit(&inl->is_ahead_wanted, memory_order_relaxed) ||
	    !atomic_exchange(&inl->is_ahead_wanted, false))
		return 0;
	for (unsigned i = 0; i < inl->nr_lanes; i++) {
		uint64_t ahead = atomic_exchange(&inl->lanes[i].ahead, 0);

		if (!ahead)
			continue;
		ferryi_fetch_steps(f, (uintptr_t)(ahead >> AHEAD_VA_SHIFT << FERRYI_PAGE_SHIFT), (int16_t)(uint16_t)ahead,
				   (uint32_t)(ahead >> AHEAD_NR_SHIFT) & AHEAD_MAX,
				   ferryi_deadline_ms(f->pager->attr.fault_timeout_ms));
		n++;
	}
	return n;
}

/* ---- one fault ---- */

/* By a bit of the fault's error code; where it is not to be had, all are reads: only a hint for the page
 * word. */
static bool is_write(const void *context)
{
#if defined(__x86_64__)
	return ((const ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] & 2;
#else
	(void)context;
	return false;
#endif
}

/* Nobody reads the descriptor, so none would notice: an application that has closed all it found gets no
 * zeros (guard.h). */
static void check_descriptor(const struct ferryi_pager *pager)
{
	if (fcntl(pager->inline_mode.uffd, F_GETFD) >= 0)
		return;
	ferryi_error("descriptor %d, the userfaultfd of inline memory, was closed by the application: it "
		     "cannot go on without "
		     "its away pages",
		     pager->inline_mode.uffd);
	abort();
}

static void sleep_until_placed(struct ferryi_fetcher *f)
{
	const struct timespec timeout = {.tv_nsec = PAUSE_MS * FERRYI_NS_PER_MS};
	struct ferryi_inline *inl = &f->pager->inline_mode;

	atomic_fetch_add(&inl->nr_sleepers, 1);
	uint32_t seen = atomic_load(&inl->nr_placed);

	if (!ferryi_fetch_poll(f))
		syscall(SYS_futex, &inl->nr_placed, FUTEX_WAIT_PRIVATE, seen, &timeout, NULL, 0);
	atomic_fetch_sub(&inl->nr_sleepers, 1);
}

void ferryi_inline_wake(struct ferryi_inline *inl)
{
	atomic_thread_fence(memory_order_seq_cst);
	if (!atomic_load(&inl->nr_sleepers))
		return;
	atomic_fetch_add(&inl->nr_placed, 1);
	syscall(SYS_futex, &inl->nr_placed, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* What is waited for takes longer than a spin. */
static void rest(struct ferryi_fetcher *f)
{
	struct pollfd pfd = {.events = POLLIN};

	for (unsigned p = 0; p < FERRYI_MAX_POOLS_ATTACHED && f->nr_outstanding && !f->landed; p++) {
		struct ferryi_channel *channel = f->lines.link[p].channel;

		if (!channel || !ferryi_channel_outstanding(channel))
			continue;
		int rc = ferryi_channel_arm(channel);

		if (rc == -EAGAIN)
			return;
		if (rc == 0) {
			pfd.fd = ferryi_channel_wait_fd(channel);
			poll(&pfd, 1, PAUSE_MS);
			return;
		}
	}
	/* Somebody else is at the page, or makes room, or has an event to read first. */
	sleep_until_placed(f);
}

/* Every read and every wait has a deadline. */
static void run(struct ferryi_lane *lane)
{
	struct ferryi_fetcher *f = &lane->fetcher;
	bool spins = atomic_load_explicit(&may_spin, memory_order_relaxed);
	uint64_t since = 0;

	for (unsigned n = 1; !ferryi_fetch_is_idle(f); n++) {
		if (n % CHECK_POLLS == 0)
			check_descriptor(f->pager);
		if (ferryi_fetch_poll(f)) {
			ferryi_spin_end(&lane->spin, true);
			since = 0;
			continue;
		}
		uint64_t now = ferryi_now_ns();

		if (!since) {
			since = now;
			ferryi_spin_begin(&lane->spin, true);
		}
		if (spins && now - since < lane->spin.limit_ns) {
			ferryi_cpu_relax();
		} else {
			ferryi_spin_end(&lane->spin, false);
			rest(f);
		}
	}
}

/* The same fault again and again: of what there may be, only a closed descriptor is for good. */
static void look_at_repetition(const struct ferryi_pager *pager, uintptr_t va)
{
	nr_same = va == last_va ? nr_same + 1 : 0;
	last_va = va;
	if (nr_same < SAME_FAULTS)
		return;
	nr_same = 0;
	check_descriptor(pager);
}

static enum ferryi_lane_verdict serve_by(struct ferryi_pager *pager, struct ferryi_lane *lane, uintptr_t va,
					 bool write, uint64_t now)
{
	lane->verdict = FERRYI_LANE_SERVED;
	ferryi_fetch_fault(&lane->fetcher,
			   &(struct ferryi_fault){
				   .va = va & ~(uintptr_t)(FERRYI_PAGE_SIZE - 1),
				   .write = write,
				   .is_first = va != last_va,
				   .start_ns = now,
				   .deadline_ns = now + pager->attr.fault_timeout_ms * FERRYI_NS_PER_MS,
			   });
	run(lane);
	if (lane->verdict == FERRYI_LANE_SERVED)
		look_at_repetition(pager, va);
	return lane->verdict;
}

/* true: the instruction may be tried again. */
static bool serve(uintptr_t va, bool write)
{
	uint64_t now = ferryi_now_ns();
	int seat = take_seat(now + atomic_load_explicit(&timeout_ns, memory_order_relaxed));

	if (seat < 0)
		return false;
	struct ferryi_pager *pager = atomic_load(&the_pager);
	enum ferryi_lane_verdict verdict =
		pager ? serve_by(pager, &pager->inline_mode.lanes[seat], va, write, now)
		      : FERRYI_LANE_STRANGE;

	leave_seat((unsigned)seat);
	if (verdict != FERRYI_LANE_STRANGE) {
		last_strange_va = 0;
		return verdict == FERRYI_LANE_SERVED;
	}
	/* It may have been given up (ferry_unadopt, ferry_close) since the fault: only a second one tells. */
	bool is_second = last_strange_va == va;

	last_strange_va = is_second ? 0 : va;
	return !is_second;
}

/* ---- the signal ---- */

/* To the application's handler, with the mask that it has asked for; or what is the default. */
static void pass_on(int sig, siginfo_t *info, void *context)
{
	sigset_t mask = ((ucontext_t *)context)->uc_sigmask;
	bool is_default = !(previous.sa_flags & SA_SIGINFO) && previous.sa_handler == SIG_DFL;
	bool is_ignored = !(previous.sa_flags & SA_SIGINFO) && previous.sa_handler == SIG_IGN;

	if (is_default || is_ignored) {
		if (info->si_code <= 0 &&
		    is_ignored) /* sent, not raised by an instruction: the kernel ignores no other */
			return;
		signal(sig, SIG_DFL);
		if (info->si_code <= 0)
			raise(sig);
		return; /* the instruction raises it again */
	}
	for (int s = 1; s < NSIG; s++) {
		if (sigismember(&previous.sa_mask, s) == 1)
			sigaddset(&mask, s);
	}
	if (!(previous.sa_flags & SA_NODEFER))
		sigaddset(&mask, sig);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	if (previous.sa_flags & SA_SIGINFO)
		previous.sa_sigaction(sig, info, context);
	else
		previous.sa_handler(sig);
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	int saved = errno;

	/* BUS_MCEERR_AR is poison for certain; kernels without CONFIG_MEMORY_FAILURE say BUS_ADRERR of it
	 * too. */
	if (info->si_code != BUS_ADRERR || !serve((uintptr_t)info->si_addr, is_write(context)))
		pass_on(sig, info, context);
	errno = saved;
}

static int install(void)
{
	struct sigaction act = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	static const int synchronous[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS};

	if (atomic_load(&is_installed))
		return 0;
	sigfillset(&act.sa_mask);
	for (unsigned i = 0; i < sizeof(synchronous) / sizeof(synchronous[0]); i++)
		sigdelset(&act.sa_mask, synchronous[i]);
	/* In two steps, as the first fault may need `previous`: there is no inline memory yet, so none is
	 * ours. */
	if (sigaction(SIGBUS, NULL, &previous) || sigaction(SIGBUS, &act, NULL))
		return -errno;
	atomic_store(&is_installed, true);
	return 0;
}

/* Unless the application's own is in place by now: it may know ours as the one before it. */
static void uninstall(void)
{
	struct sigaction now;

	if (!sigaction(SIGBUS, NULL, &now) && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_sigbus &&
	    !sigaction(SIGBUS, &previous, NULL))
		atomic_store(&is_installed, false);
}

/* ---- start, stop ---- */

static int open_lanes(struct ferryi_pager *pager)
{
	struct ferryi_inline *inl = &pager->inline_mode;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned nr = (unsigned)ferryi_min_u64(ferryi_max_u64(cpus > 0 ? (uint64_t)cpus : 1, LEAST_LANES),
					       FERRYI_MAX_LANES);

	if (atomic_load(&nr_seats)) /* an earlier pager's number: handlers may have a seat */
		nr = atomic_load(&nr_seats);
	inl->lanes = ferryi_arena_alloc(pager->arena, nr * sizeof(*inl->lanes));
	if (!inl->lanes)
		return -ENOMEM;
	for (unsigned i = 0; i < nr; i++) {
		int rc = ferryi_fetcher_init_lane(&inl->lanes[i].fetcher, pager, &inl->lanes[i]);

		if (rc)
			return rc;
	}
	atomic_store(&may_spin, cpus > 1);
	atomic_store(&timeout_ns, pager->attr.fault_timeout_ms * FERRYI_NS_PER_MS);
	atomic_store(&nr_seats, nr);
	inl->nr_lanes = nr;
	return 0;
}

static int connect_lender(struct ferryi_inline *inl, const struct ferryi_lender *lender, uint64_t deadline_ns)
{
	int rc = 0;

	for (unsigned i = 0; i < inl->nr_lanes; i++)
		ferryi_lines_want(&inl->lanes[i].fetcher.lines, lender);
	for (unsigned i = 0; !rc && i < inl->nr_lanes; i++)
		rc = ferryi_lines_wait(&inl->lanes[i].fetcher.lines, lender->index, deadline_ns);
	return rc == -ENOTCONN ? 0 : rc; /* its server is gone: faults there say so */
}

/* Each lane to each lender of each pool that is attached. */
static int connect_lanes(struct ferryi_pager *pager)
{
	struct ferryi_inline *inl = &pager->inline_mode;
	uint64_t deadline_ns = ferryi_deadline_ms(CONNECT_MS);
	int rc = 0;

	for (unsigned p = 0; p < FERRYI_MAX_POOLS_ATTACHED; p++) {
		struct ferry_pool *pool = ferryi_pager_pool_begin(pager, p);

		if (!pool)
			continue;
		rc = rc ? rc : connect_lender(inl, ferryi_pool_lender(pool), deadline_ns);
		for (unsigned k = 0; k < FERRYI_MAX_REPLICAS; k++) { /* the ferry lock is held: they stay */
			struct ferryi_replica *replica = ferryi_pool_replica(pool, k);

			if (replica && !rc)
				rc = connect_lender(inl, &replica->lender, deadline_ns);
		}
		ferryi_pager_pool_end(pager, p);
	}
	return rc;
}

static int open_uffd(struct ferryi_pager *pager)
{
	struct ferryi_inline *inl = &pager->inline_mode;
	bool kernel_faults;
	uint8_t *staging = ferryi_slot_addr(pager, ferryi_nr_slots(pager));

	if (inl->uffd >= 0)
		return 0;
	int fd = ferryi_uffd_open(FEATURES, &kernel_faults);

	if (fd < 0)
		return fd;
	int rc = ferryi_uffd_register(fd, staging, pager->staging_bytes, false);

	if (!rc)
		rc = ferryi_guard_start(&inl->guard, fd);
	if (rc) {
		close(fd);
		return rc;
	}
	inl->uffd = fd;
	return 0;
}

int ferryi_inline_start(struct ferryi_pager *pager)
{
	struct ferryi_inline *inl = &pager->inline_mode;
	int rc;

	if (ferryi_inline_is_on(inl))
		return 0;
	rc = open_uffd(pager);
	if (!rc && !inl->nr_lanes)
		rc = open_lanes(pager);
	if (!rc)
		rc = connect_lanes(pager);
	if (!rc)
		rc = install();
	if (rc)
		return ferryi_control_fail(rc, "inline memory: %s", ferryi_strerror(rc));
	atomic_store(&the_pager, pager);
	atomic_store_explicit(&inl->is_on, true, memory_order_release);
	ferryi_pager_wake_handlers(pager); /* to sleep on the new descriptor too */
	return 0;
}

void ferryi_inline_stop(struct ferryi_pager *pager)
{
	struct ferryi_inline *inl = &pager->inline_mode;

	if (ferryi_inline_is_on(inl)) {
		uninstall();
		atomic_store(&the_pager, NULL);
		for (unsigned i = 0; i < inl->nr_lanes; i++) {
			ferryi_inline_seat_lock(i);
			ferryi_inline_seat_unlock(i);
		}
	}
}

void ferryi_inline_forked(void)
{
	atomic_store(&the_pager, NULL);
	for (unsigned i = 0; i < FERRYI_MAX_LANES;
	     i++) /* those that were taken are threads' that are not here */
		atomic_store(&seats[i].is_taken, false);
}
