/*
 * Local row, data path: pread and pwrite on imported memfds, done by the
 * channel's owner inside poll. Not inside submit, so that the first operation
 * of a batch returns before the later ones are copied (faulting page first),
 * and a shutdown finds operations that have touched nothing yet.
 * Fault path: no allocation; table_lock only when the cache misses.
 */
#include <errno.h>
#include <unistd.h>

#include "arith.h"
#include "local.h"

#define POLL_BYTES ((size_t)256 << 10) /* copied by one poll before it returns what is done */
#define POLL_OPS   16

/* op->priv[]: [1] next in the queue, [2] bytes copied so far */

static struct ferryi_local_channel *to_local(struct ferryi_channel *channel)
{
	return (struct ferryi_local_channel *)channel;
}

int ferryi_local_channel_open(struct ferryi_channel *channel, uint64_t deadline_ns)
{
	(void)channel;
	(void)deadline_ns;
	return 0;
}

void ferryi_local_channel_close(struct ferryi_channel *channel)
{
	(void)channel;
}

int ferryi_local_channel_register(struct ferryi_channel *channel, struct ferryi_local_range *range)
{
	(void)channel;
	(void)range;
	return 0;
}

int ferryi_local_channel_submit(struct ferryi_channel *base, struct ferryi_op *op,
				const struct ferryi_local_range *range)
{
	struct ferryi_local_channel *channel = to_local(base);

	(void)range;
	op->priv[1] = 0;
	op->priv[2] = 0;
	if (channel->queue_head)
		channel->queue_tail->priv[1] = (uintptr_t)op;
	else
		channel->queue_head = op;
	channel->queue_tail = op;
	return 0;
}

/*
 * A hit costs no lock: the descriptor was open when the generation was read
 * before it was looked up, and every forget moves the generation first.
 */
static int find_fd(struct ferryi_local_channel *channel, uint64_t key)
{
	struct ferryi_local_peer *peer = (struct ferryi_local_peer *)channel->base.peer;
	size_t slot = (size_t)(key % FERRYI_LOCAL_CACHE);
	uint64_t generation = atomic_load_explicit(&peer->generation, memory_order_acquire);

	if (channel->cache[slot].key == key && channel->cache[slot].generation == generation)
		return channel->cache[slot].fd;

	int fd = ferryi_local_peer_find(peer, key);

	if (fd >= 0) {
		channel->cache[slot].key = key;
		channel->cache[slot].generation = generation;
		channel->cache[slot].fd = fd;
	}
	return fd;
}

/*
 * What the kernel says, in the fabric's words. A short read is the end of the
 * file: the region was truncated, that is revoked, as is a write that the GROW
 * seal refuses (EPERM). EBADF is a write through a read-only descriptor.
 */
static int translate(ssize_t n)
{
	if (n == 0 || errno == EPERM || errno == EBADF)
		return -EACCES;
	return -errno;
}

/* Copies at most *budget bytes of the operation: 1 more to do, 0 done, negative its error. */
static int advance(struct ferryi_local_channel *channel, struct ferryi_op *op, size_t *budget)
{
	int fd = find_fd(channel, op->remote.key);

	if (fd < 0)
		return -EACCES;
	while (op->priv[2] < op->len_bytes) {
		size_t done = (size_t)op->priv[2];
		size_t len = (size_t)ferryi_min_u64(op->len_bytes - done, *budget);
		char *local = (char *)op->local + done;
		off_t off = (off_t)(op->remote_off + done);

		if (len == 0)
			return 1;
		ssize_t n =
			op->kind == FERRYI_OP_READ ? pread(fd, local, len, off) : pwrite(fd, local, len, off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return translate(n);
		op->priv[2] += (uint64_t)n;
		*budget -= (size_t)n;
	}
	return 0;
}

int ferryi_local_channel_poll(struct ferryi_channel *base)
{
	struct ferryi_local_channel *channel = to_local(base);
	size_t budget = POLL_BYTES;

	/* the copies themselves would go on without the server: see ferryi_local_peer_events() */
	if (!channel->queue_head)
		return ferryi_local_peer_events(base->peer);

	for (unsigned i = 0; i < POLL_OPS && channel->queue_head; i++) {
		struct ferryi_op *op = channel->queue_head;
		int state = advance(channel, op, &budget);

		if (state > 0)
			break;
		channel->queue_head = (struct ferryi_op *)(uintptr_t)op->priv[1];
		ferryi_channel_complete(base, op, state);
	}
	return 0;
}

/* Nothing completes behind the owner's back: what is queued waits for poll(), and only the end of the peer
 * wakes. */
int ferryi_local_channel_wait_fd(struct ferryi_channel *channel)
{
	return ((struct ferryi_local_peer *)channel->peer)->wait_fd;
}

int ferryi_local_channel_arm(struct ferryi_channel *channel)
{
	return to_local(channel)->queue_head ? -EAGAIN : 0;
}

/* The copies are the owner's own: none is under way now. The common code ends what was queued. */
void ferryi_local_channel_shutdown(struct ferryi_channel *channel)
{
	to_local(channel)->queue_head = NULL;
}
