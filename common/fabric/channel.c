/*
 * Channels: what holds on every row. An operation that was taken is returned
 * by poll exactly once, whatever happens; a deadline kills the channel; a dead
 * channel gives back all it holds and then answers -ENOTCONN.
 *
 * One owner thread a channel, no lock; after open nothing here allocates.
 * An operation is on exactly one of two lists: `posted` (the row has it) or
 * `done` (poll will return it); noutstanding counts both.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "clock.h"
#include "fabric_ops.h"
#include "log.h"

#define PREV(op) ((op)->priv[0])

/* Deadlines are looked at on every empty poll, and on every so many full ones. */
#define POLLS_PER_DEADLINE_CHECK 64

int ferryi_channel_open(struct ferryi_peer *peer, unsigned depth, uint64_t deadline_ns,
			struct ferryi_channel **out)
{
	const struct ferryi_fabric_ops *ops = peer->row->ops;
	struct ferryi_channel *channel;
	int rc;

	if (!depth || depth > FERRYI_CHANNEL_DEPTH_MAX)
		return -EINVAL;
	if (ferryi_peer_is_failed(peer))
		return -ENOTCONN;
	channel = calloc(1, ops->channel_size);
	if (!channel)
		return -ENOMEM;
	channel->peer = peer;
	channel->ops = ops;
	channel->depth = depth;
	channel->done_tail = &channel->done_head;
	rc = ops->channel_open(channel, deadline_ns);
	if (rc) {
		free(channel);
		return rc;
	}
	atomic_fetch_add(&peer->nchannels, 1);
	*out = channel;
	return 0;
}

/* ---- the two lists ---- */

static void posted_add(struct ferryi_channel *channel, struct ferryi_op *op)
{
	op->next = channel->posted;
	PREV(op) = 0;
	if (op->next)
		PREV(op->next) = (uintptr_t)op;
	channel->posted = op;
}

static void posted_del(struct ferryi_channel *channel, struct ferryi_op *op)
{
	struct ferryi_op *prev = (struct ferryi_op *)(uintptr_t)PREV(op);

	if (prev)
		prev->next = op->next;
	else
		channel->posted = op->next;
	if (op->next)
		PREV(op->next) = PREV(op);
}

static void done_add(struct ferryi_channel *channel, struct ferryi_op *op, int status)
{
	op->status = status;
	op->next = NULL;
	*channel->done_tail = op;
	channel->done_tail = &op->next;
}

void ferryi_channel_complete(struct ferryi_channel *channel, struct ferryi_op *op, int status)
{
	/* Flushed because this very operation was late: say so. */
	if (status == -ECANCELED && channel->expired_at_ns && op->deadline_ns &&
	    op->deadline_ns <= channel->expired_at_ns)
		status = -ETIMEDOUT;
	posted_del(channel, op);
	done_add(channel, op, status);
}

/* ---- death ---- */

static void channel_kill(struct ferryi_channel *channel)
{
	if (atomic_load_explicit(&channel->dead, memory_order_relaxed))
		return;
	atomic_store_explicit(&channel->dead, true, memory_order_release);
	channel->ops->channel_shutdown(channel);
	while (channel->posted)
		ferryi_channel_complete(channel, channel->posted, -ECANCELED);
}

static bool channel_is_alive(struct ferryi_channel *channel)
{
	if (ferryi_peer_is_failed(channel->peer))
		channel_kill(channel);
	return !atomic_load_explicit(&channel->dead, memory_order_relaxed);
}

/* next_deadline_ns is only a lower bound (completions do not raise it): look closer once it has passed. */
static bool channel_has_expired(struct ferryi_channel *channel)
{
	uint64_t now, earliest = 0;

	if (!channel->next_deadline_ns)
		return false;
	now = ferryi_now_ns();
	if (now < channel->next_deadline_ns)
		return false;
	for (struct ferryi_op *op = channel->posted; op; op = op->next)
		if (op->deadline_ns && (!earliest || op->deadline_ns < earliest))
			earliest = op->deadline_ns;
	channel->next_deadline_ns = earliest;
	if (!earliest || now < earliest)
		return false;
	channel->expired_at_ns = now;
	ferryi_warn("%s: an operation passed its deadline; channel closed", channel->peer->label);
	return true;
}

/* ---- operations ---- */

static const struct ferryi_local_range *find_range(const struct ferryi_channel *channel, const void *base,
						   size_t len)
{
	uintptr_t start = (uintptr_t)base;

	for (unsigned i = 0; i < channel->nranges; i++) {
		const struct ferryi_local_range *range = &channel->ranges[i];
		uintptr_t range_start = (uintptr_t)range->base;

		if (start >= range_start && ferryi_range_ok(start - range_start, len, range->len_bytes))
			return range;
	}
	return NULL;
}

/* 0: post it; 1: finished already with *status. */
static int check_op(const struct ferryi_channel *channel, const struct ferryi_op *op,
		    const struct ferryi_local_range **range, int *status)
{
	if (op->kind != FERRYI_OP_READ && op->kind != FERRYI_OP_WRITE) {
		*status = -EINVAL;
		return 1;
	}
	if (!ferryi_range_ok(op->remote_off, op->len_bytes, op->remote.len_bytes)) {
		*status = -ERANGE;
		return 1;
	}
	if (!op->len_bytes) {
		*status = 0;
		return 1;
	}
	*range = find_range(channel, op->local, op->len_bytes);
	if (!*range) {
		*status = -EINVAL;
		return 1;
	}
	return 0;
}

int ferryi_channel_submit(struct ferryi_channel *channel, struct ferryi_op *const *ops, unsigned n)
{
	unsigned taken = 0;

	if (!channel_is_alive(channel))
		return -ENOTCONN;
	for (; taken < n && channel->noutstanding < channel->depth; taken++) {
		const struct ferryi_local_range *range = NULL;
		struct ferryi_op *op = ops[taken];
		int rc, status = 0;

		if (check_op(channel, op, &range, &status)) {
			channel->noutstanding++;
			done_add(channel, op, status);
			continue;
		}
		posted_add(channel, op);
		rc = channel->ops->channel_submit(channel, op, range);
		if (rc) {
			posted_del(channel, op);
			if (rc == -EAGAIN)
				break;
			channel_kill(channel);
			return taken ? (int)taken : -ENOTCONN;
		}
		channel->noutstanding++;
		if (op->deadline_ns &&
		    (!channel->next_deadline_ns || op->deadline_ns < channel->next_deadline_ns))
			channel->next_deadline_ns = op->deadline_ns;
	}
	return (int)taken;
}

int ferryi_channel_poll(struct ferryi_channel *channel, struct ferryi_op **done, unsigned max)
{
	unsigned n = 0;

	if (channel_is_alive(channel) && !channel->done_head) {
		if (channel->ops->channel_poll(channel))
			channel_kill(channel);
		else if ((!channel->done_head || ++channel->npolls % POLLS_PER_DEADLINE_CHECK == 0) &&
			 channel_has_expired(channel))
			channel_kill(channel);
	}
	while (n < max && channel->done_head) {
		struct ferryi_op *op = channel->done_head;

		channel->done_head = op->next;
		if (!channel->done_head)
			channel->done_tail = &channel->done_head;
		op->next = NULL;
		done[n++] = op;
	}
	channel->noutstanding -= n;
	if (!n && !channel->noutstanding && atomic_load_explicit(&channel->dead, memory_order_relaxed))
		return -ENOTCONN;
	return (int)n;
}

int ferryi_channel_register(struct ferryi_channel *channel, void *base, size_t len_bytes)
{
	struct ferryi_local_range *range = &channel->ranges[channel->nranges];
	int rc;

	if (!base || !len_bytes || (uintptr_t)base > UINTPTR_MAX - len_bytes)
		return -EINVAL;
	if (channel->nranges == FERRYI_CHANNEL_RANGES_MAX)
		return -ENOSPC;
	if (!channel_is_alive(channel))
		return -ENOTCONN;
	*range = (struct ferryi_local_range){.base = base, .len_bytes = len_bytes};
	rc = channel->ops->channel_register(channel, range);
	if (rc)
		return rc;
	channel->nranges++;
	return 0;
}

bool ferryi_channel_is_unpinned(const struct ferryi_channel *channel)
{
	return channel->peer->row->flags & FERRYI_FABRIC_UNPINNED;
}

int ferryi_channel_wait_fd(struct ferryi_channel *channel)
{
	return channel->ops->channel_wait_fd ? channel->ops->channel_wait_fd(channel) : -ENOTSUP;
}

int ferryi_channel_arm(struct ferryi_channel *channel)
{
	if (!channel_is_alive(channel) || channel->done_head)
		return -EAGAIN;
	return channel->ops->channel_arm ? channel->ops->channel_arm(channel) : -ENOTSUP;
}

void ferryi_channel_shutdown(struct ferryi_channel *channel)
{
	channel_kill(channel);
}

bool ferryi_channel_is_dead(const struct ferryi_channel *channel)
{
	return atomic_load_explicit(&channel->dead, memory_order_acquire) ||
	       ferryi_peer_is_failed(channel->peer);
}

unsigned ferryi_channel_outstanding(const struct ferryi_channel *channel)
{
	return channel->noutstanding;
}

void ferryi_channel_close(struct ferryi_channel **channelp)
{
	struct ferryi_channel *channel = *channelp;

	if (!channel)
		return;
	*channelp = NULL;
	channel_kill(channel);
	assert(channel->noutstanding == 0);
	channel->ops->channel_close(channel);
	atomic_fetch_sub(&channel->peer->nchannels, 1);
	free(channel);
}
