/* The keeper's thread and the owner's side of the hand-over; see link.h. */
#include "link.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "thread.h"

#define MAX_LINES       128u
#define CONNECT_MS      2000u
#define RETRY_FIRST_MS  20u
#define RETRY_MAX_MS    1000u
#define IDLE_MS         1000

struct ferryi_keeper {
	/* immutable */
	struct ferryi_arena *arena;
	void (*work)(void *ctx);
	void *ctx;
	struct ferryi_counters *counters;
	pthread_t thread;
	int kick_fd;

	/* atomic: set once */
	_Atomic bool stopping;

	/* protected by lock */
	struct ferryi_mutex lock;
	pthread_cond_t changed; /* some link changed its state */
	unsigned nr_lines;
	struct ferryi_lines *lines[MAX_LINES];
};

static int link_state(struct ferryi_link *link)
{
	return atomic_load_explicit(&link->state, memory_order_acquire);
}

static void set_state(struct ferryi_keeper *keeper, struct ferryi_link *link, enum ferryi_link_state state)
{
	atomic_store_explicit(&link->state, (int)state, memory_order_release);
	ferryi_mutex_lock(&keeper->lock);
	pthread_cond_broadcast(&keeper->changed);
	ferryi_mutex_unlock(&keeper->lock);
}

static void wake_owner(struct ferryi_lines *lines)
{
	uint64_t one = 1;

	if (lines->wake_fd >= 0 && write(lines->wake_fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: it has a wake-up waiting already */
}

static int open_channel(struct ferryi_lines *lines, struct ferryi_link *link)
{
	struct ferryi_peer *peer = ferryi_lease_peer(link->lender->lease);
	struct ferryi_channel *channel;
	int rc = ferryi_channel_open(peer, lines->depth, ferryi_deadline_ms(CONNECT_MS), &channel);

	if (rc)
		return rc;
	rc = ferryi_channel_register(channel, lines->buf, lines->buf_len);
	if (!rc && ferryi_lines_reach_staging(lines, channel))
		rc = ferryi_channel_register(channel, lines->staging, lines->staging_len);
	if (rc) {
		ferryi_channel_close(&channel);
		return rc;
	}
	link->mail = channel;
	return 0;
}

/* One link that is the keeper's now. */
static void tend_link(struct ferryi_keeper *keeper, struct ferryi_lines *lines, struct ferryi_link *link)
{
	int state = link_state(link);

	if (state == FERRYI_LINK_BROKEN || state == FERRYI_LINK_CLOSING) {
		ferryi_channel_close(&link->mail);
		if (state == FERRYI_LINK_CLOSING || atomic_load(&keeper->stopping)) {
			set_state(keeper, link, FERRYI_LINK_CLOSED);
			return;
		}
		ferryi_count(&keeper->counters->c_channels_reopened, 1);
		atomic_store_explicit(&link->state, FERRYI_LINK_WANTED, memory_order_release);
	} else if (state != FERRYI_LINK_WANTED) {
		return;
	}
	if (atomic_load(&link->close_wanted)) {
		set_state(keeper, link, FERRYI_LINK_CLOSED);
		return;
	}
	if (ferryi_now_ns() < link->retry_ns)
		return;

	int rc = ferryi_lender_is_lost(link->lender) ? -ENOTCONN : open_channel(lines, link);

	if (!rc) {
		link->failures = 0;
		set_state(keeper, link, FERRYI_LINK_READY);
		wake_owner(lines);
	} else if (ferryi_lender_is_lost(link->lender)) {
		set_state(keeper, link, FERRYI_LINK_LOST);
		wake_owner(lines);
	} else {
		uint64_t back_off = ferryi_min_u64(RETRY_FIRST_MS << ferryi_min_u64(link->failures, 10), RETRY_MAX_MS);

		if (link->failures++ == 0)
			ferryi_warn("link to %s: cannot connect (%s), will keep trying",
				    ferryi_session_name(ferryi_lease_session(link->lender->lease)),
				    ferryi_strerror(rc));
		link->retry_ns = ferryi_deadline_ms(back_off);
	}
}

/* Milliseconds until the keeper has to look again. */
static int tend_all(struct ferryi_keeper *keeper)
{
	int wait_ms = IDLE_MS;

	ferryi_mutex_lock(&keeper->lock);
	unsigned n = keeper->nr_lines;

	ferryi_mutex_unlock(&keeper->lock);
	for (unsigned i = 0; i < n; i++) {
		struct ferryi_lines *lines = keeper->lines[i];

		for (unsigned p = 0; p < FERRYI_MAX_POOLS_ATTACHED; p++) {
			struct ferryi_link *link = &lines->link[p];

			tend_link(keeper, lines, link);
			if (link_state(link) == FERRYI_LINK_WANTED) {
				int ms = ferryi_remaining_ms(link->retry_ns);

				wait_ms = ms < wait_ms ? ms : wait_ms;
			}
		}
	}
	return wait_ms;
}

static void *keeper_main(void *arg)
{
	struct ferryi_keeper *keeper = arg;

	pthread_setname_np(pthread_self(), "ferry-keeper");
	while (!atomic_load(&keeper->stopping)) {
		uint64_t kicks;
		int wait_ms = tend_all(keeper);

		if (keeper->work)
			keeper->work(keeper->ctx);
		struct pollfd pfd = { .fd = keeper->kick_fd, .events = POLLIN };

		if (poll(&pfd, 1, wait_ms) > 0 && read(keeper->kick_fd, &kicks, sizeof(kicks)) < 0)
			continue; /* EAGAIN: nothing was there after all */
	}
	return NULL;
}

int ferryi_keeper_start(struct ferryi_arena *arena, void (*work)(void *ctx), void *ctx, struct ferryi_counters *counters,
			struct ferryi_keeper **out)
{
	struct ferryi_keeper *keeper = ferryi_arena_alloc(arena, sizeof(*keeper));
	int rc;

	if (!keeper)
		return -ENOMEM;
	keeper->arena = arena;
	keeper->work = work;
	keeper->ctx = ctx;
	keeper->counters = counters;
	ferryi_mutex_init(&keeper->lock, FERRYI_RANK_LEAF);
	ferryi_cond_init(&keeper->changed);
	keeper->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (keeper->kick_fd < 0) {
		rc = -errno;
		goto err_free;
	}
	rc = ferryi_thread_start(&keeper->thread, keeper_main, keeper);
	if (rc)
		goto err_fd;
	*out = keeper;
	return 0;

err_fd:
	close(keeper->kick_fd);
err_free:
	ferryi_mutex_fini(&keeper->lock);
	ferryi_arena_free(arena, keeper, sizeof(*keeper));
	return rc;
}

/* Every channel of stopped owners is closed here, whatever the link's state. */
static void close_lines(struct ferryi_lines *lines)
{
	for (unsigned p = 0; p < FERRYI_MAX_POOLS_ATTACHED; p++) {
		struct ferryi_link *link = &lines->link[p];

		ferryi_channel_close(&link->channel);
		ferryi_channel_close(&link->mail);
		atomic_store(&link->state, FERRYI_LINK_NONE);
	}
}

void ferryi_keeper_stop(struct ferryi_keeper **keeper_p)
{
	struct ferryi_keeper *keeper = *keeper_p;

	if (!keeper)
		return;
	*keeper_p = NULL;
	atomic_store(&keeper->stopping, true);
	ferryi_keeper_kick(keeper);
	pthread_join(keeper->thread, NULL);
	for (unsigned i = 0; i < keeper->nr_lines; i++)
		close_lines(keeper->lines[i]);
	close(keeper->kick_fd);
	pthread_cond_destroy(&keeper->changed);
	ferryi_mutex_fini(&keeper->lock);
	ferryi_arena_free(keeper->arena, keeper, sizeof(*keeper));
}

void ferryi_keeper_kick(struct ferryi_keeper *keeper)
{
	uint64_t one = 1;

	if (write(keeper->kick_fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: kicked already */
}

int ferryi_lines_init(struct ferryi_lines *lines, struct ferryi_keeper *keeper, void *buf, size_t buf_len, unsigned depth,
		      int wake_fd)
{
	int rc = -ENOSPC;

	lines->keeper = keeper;
	lines->buf = buf;
	lines->buf_len = buf_len;
	lines->depth = depth;
	lines->wake_fd = wake_fd;
	ferryi_mutex_lock(&keeper->lock);
	if (keeper->nr_lines < MAX_LINES) {
		keeper->lines[keeper->nr_lines++] = lines;
		rc = 0;
	}
	ferryi_mutex_unlock(&keeper->lock);
	return rc;
}

void ferryi_lines_want(struct ferryi_lines *lines, const struct ferryi_lender *lender)
{
	struct ferryi_link *link = &lines->link[lender->index];

	link->lender = lender;
	link->retry_ns = 0;
	link->failures = 0;
	atomic_store(&link->close_wanted, false);
	atomic_store_explicit(&link->state, FERRYI_LINK_WANTED, memory_order_release);
	ferryi_keeper_kick(lines->keeper);
}

static int wait_state(struct ferryi_lines *lines, struct ferryi_link *link, bool (*reached)(int state),
		      uint64_t deadline_ns)
{
	struct ferryi_keeper *keeper = lines->keeper;
	int rc = 0;

	ferryi_mutex_lock(&keeper->lock);
	while (!reached(link_state(link)) && !rc)
		rc = ferryi_cond_wait_until(&keeper->changed, &keeper->lock, deadline_ns);
	if (reached(link_state(link)))
		rc = 0;
	ferryi_mutex_unlock(&keeper->lock);
	return rc;
}

static bool is_settled(int state)
{
	return state == FERRYI_LINK_READY || state == FERRYI_LINK_UP || state == FERRYI_LINK_LOST;
}

static bool is_closed(int state)
{
	return state == FERRYI_LINK_CLOSED || state == FERRYI_LINK_NONE || state == FERRYI_LINK_LOST;
}

int ferryi_lines_wait(struct ferryi_lines *lines, unsigned pool_index, uint64_t deadline_ns)
{
	struct ferryi_link *link = &lines->link[pool_index];
	int rc = wait_state(lines, link, is_settled, deadline_ns);

	return rc ? rc : link_state(link) == FERRYI_LINK_LOST ? -ENOTCONN : 0;
}

struct ferryi_channel *ferryi_lines_channel(struct ferryi_lines *lines, unsigned pool_index)
{
	struct ferryi_link *link = &lines->link[pool_index];

	if (link->channel)
		return ferryi_channel_is_dead(link->channel) ? NULL : link->channel;
	if (link_state(link) != FERRYI_LINK_READY)
		return NULL;
	link->channel = link->mail;
	link->mail = NULL;
	atomic_store_explicit(&link->state, FERRYI_LINK_UP, memory_order_release);
	return link->channel;
}

static void hand_over(struct ferryi_lines *lines, struct ferryi_link *link, enum ferryi_link_state state)
{
	link->mail = link->channel;
	link->channel = NULL;
	atomic_store_explicit(&link->state, (int)state, memory_order_release);
	ferryi_keeper_kick(lines->keeper);
}

void ferryi_lines_broken(struct ferryi_lines *lines, unsigned pool_index)
{
	struct ferryi_link *link = &lines->link[pool_index];

	if (link->channel)
		hand_over(lines, link, FERRYI_LINK_BROKEN);
}

struct ferryi_channel *ferryi_lines_need(struct ferryi_lines *lines, const struct ferryi_lender *lender)
{
	struct ferryi_link *link = &lines->link[lender->index];
	struct ferryi_channel *old = link->channel;
	int state = link_state(link);
	struct ferryi_op *op;

	if (old && ferryi_channel_is_dead(old) && ferryi_channel_poll(old, &op, 1) < 0)
		ferryi_lines_broken(lines, lender->index);
	if (state == FERRYI_LINK_NONE || state == FERRYI_LINK_CLOSED)
		ferryi_lines_want(lines, lender);
	return ferryi_lines_channel(lines, lender->index);
}

/*
 * A pool's index is used again, so what is closed must be what was to be closed:
 *
 *   owner                                  detach, then attach of another pool
 *   ------------------------------------   --------------------------------------
 *   close_wanted? yes                      (the old link is closed)
 *                                          close_wanted = false; WANTED ... READY
 *   takes the channel from the mail
 *   close_wanted? no: it stays
 */
void ferryi_lines_tend(struct ferryi_lines *lines)
{
	for (unsigned p = 0; p < FERRYI_MAX_POOLS_ATTACHED; p++) {
		struct ferryi_link *link = &lines->link[p];

		if (!atomic_load_explicit(&link->close_wanted, memory_order_relaxed))
			continue;
		if (!link->channel)
			ferryi_lines_channel(lines, p); /* one may have come by mail */
		if (link->channel && atomic_load(&link->close_wanted) && !ferryi_channel_outstanding(link->channel))
			hand_over(lines, link, FERRYI_LINK_CLOSING);
	}
}

int ferryi_lines_close_pool(struct ferryi_lines *lines, unsigned pool_index, bool owner_stopped, uint64_t deadline_ns)
{
	struct ferryi_link *link = &lines->link[pool_index];

	atomic_store(&link->close_wanted, true);
	if (owner_stopped)
		ferryi_lines_tend(lines);
	else
		wake_owner(lines);
	ferryi_keeper_kick(lines->keeper);
	int rc = wait_state(lines, link, is_closed, deadline_ns);

	if (!rc)
		atomic_store(&link->state, FERRYI_LINK_NONE);
	return rc;
}
