/*
 * In-process fake: client and server are one process and a region is plain
 * memory. An operation is carried out when its channel is polled, so until
 * then it is observably outstanding; keys, rights, bounds and revocation are
 * checked exactly, at that moment. Tests stop it and inject faults.
 * One lock (a leaf) guards everything and is held while bytes are copied: a
 * revocation that has returned is seen by every later copy. Any thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "arith.h"
#include "fabric_ops.h"

#define POLL_OPS 16 /* carried out by one poll */

/* All of these are immutable after open, or protected by fake.lock. */
struct fake_listener {
	struct ferryi_listener base;
	uint64_t id;
};

struct fake_tenant {
	struct ferryi_tenant base;
	uint64_t id, listener_id;
	struct fake_tenant *next;
};

struct fake_region {
	struct ferryi_region base;
	uint64_t tenant_id;
	struct fake_region *next;
};

struct fake_peer {
	struct ferryi_peer base;
	uint64_t listener_id;
	uint64_t tenant_id; /* 0: no channel was opened yet */
	int event_fd;
	bool gone; /* the tenant is */
	struct fake_peer *next;
};

struct fake_channel {
	struct ferryi_channel base;
	uint64_t tenant_id;
	int event_fd; /* the row's own news */
	int wait_fd;  /* epoll on event_fd and the peer's fail_fd */
	bool gone;
	bool counted;		      /* in the listener's g_connections */
	struct ferryi_op *queue_head; /* FIFO through priv[1] */
	struct ferryi_op *queue_tail;
	struct fake_channel *next;
};

static struct {
	struct ferryi_mutex lock;
	/* protected by lock */
	bool ready; /* changed is initialised */
	pthread_cond_t changed;
	bool stopped;
	enum ferryi_fake_fault fault;
	unsigned fault_skip, fault_count;
	uint64_t last_id;
	struct fake_tenant *tenants;
	struct fake_region *regions;
	struct fake_peer *peers;
	struct fake_channel *channels;
} fake = {.lock = FERRYI_MUTEX_INIT(FERRYI_RANK_LEAF)};

static void fake_lock(void)
{
	ferryi_mutex_lock(&fake.lock);
	if (!fake.ready) {
		ferryi_cond_init(&fake.changed);
		fake.ready = true;
	}
}

static void fake_unlock(void)
{
	ferryi_mutex_unlock(&fake.lock);
}

#define FAKE_LIST_REMOVE(head, item)             \
	do {                                     \
		__typeof__(item) *link = (head); \
		while (*link && *link != (item)) \
			link = &(*link)->next;   \
		if (*link)                       \
			*link = (item)->next;    \
	} while (0)

/* ---- tests' handles ---- */

void ferryi_fake_inject(enum ferryi_fake_fault what, unsigned skip, unsigned count)
{
	fake_lock();
	fake.fault = what;
	fake.fault_skip = skip;
	fake.fault_count = count;
	fake_unlock();
}

void ferryi_fake_stop(bool stopped)
{
	fake_lock();
	fake.stopped = stopped;
	for (struct fake_channel *c = fake.channels; c; c = c->next)
		eventfd_write(c->event_fd, 1);
	pthread_cond_broadcast(&fake.changed);
	fake_unlock();
}

static int fake_usable(char *why, size_t why_len)
{
	(void)why;
	(void)why_len;
	return 0;
}

/* ---- server ---- */

static int fake_listener_open(struct ferryi_listener *base)
{
	fake_lock();
	((struct fake_listener *)base)->id = ++fake.last_id;
	fake_unlock();
	return 0;
}

static void fake_listener_close(struct ferryi_listener *base)
{
	(void)base;
}

static int fake_tenant_open(struct ferryi_tenant *base)
{
	struct fake_tenant *tenant = (struct fake_tenant *)base;

	fake_lock();
	tenant->id = ++fake.last_id;
	tenant->listener_id = ((struct fake_listener *)base->listener)->id;
	tenant->next = fake.tenants;
	fake.tenants = tenant;
	fake_unlock();
	return 0;
}

static void fake_tenant_shutdown(struct ferryi_tenant *base)
{
	struct fake_tenant *tenant = (struct fake_tenant *)base;

	fake_lock();
	FAKE_LIST_REMOVE(&fake.tenants, tenant);
	for (struct fake_channel *c = fake.channels; c; c = c->next) {
		if (c->tenant_id != tenant->id)
			continue;
		if (c->counted)
			ferryi_uncount(&base->listener->stats.g_connections, 1);
		c->counted = false;
		c->gone = true;
		eventfd_write(c->event_fd, 1);
	}
	for (struct fake_peer *p = fake.peers; p; p = p->next) {
		if (p->tenant_id != tenant->id)
			continue;
		p->gone = true;
		eventfd_write(p->event_fd, 1);
	}
	fake_unlock();
}

static void fake_tenant_close(struct ferryi_tenant *base)
{
	fake_lock();
	FAKE_LIST_REMOVE(&fake.tenants, (struct fake_tenant *)base);
	fake_unlock();
}

static int fake_tenant_addr(struct ferryi_tenant *base, char *buf, size_t buf_len)
{
	int n = snprintf(buf, buf_len, "%llu", (unsigned long long)((struct fake_tenant *)base)->listener_id);

	return n < 0 || (size_t)n >= buf_len ? -ENOSPC : 0;
}

static int fake_region_open(struct ferryi_region *base)
{
	struct fake_region *region = (struct fake_region *)base;

	base->remote.key = ferryi_random_key();
	base->remote.addr = 0;
	base->remote.len_bytes = base->memory.len_bytes;
	fake_lock();
	region->tenant_id = ((struct fake_tenant *)base->tenant)->id;
	region->next = fake.regions;
	fake.regions = region;
	fake_unlock();
	return 0;
}

static void fake_region_revoke(struct ferryi_region *base)
{
	fake_lock();
	FAKE_LIST_REMOVE(&fake.regions, (struct fake_region *)base);
	fake_unlock();
}

/* ---- client ---- */

static int fake_peer_open(struct ferryi_peer *base, uint64_t deadline_ns)
{
	struct fake_peer *peer = (struct fake_peer *)base;
	char *end;

	(void)deadline_ns;
	errno = 0;
	peer->listener_id = strtoull(base->addr, &end, 10);
	if (errno || end == base->addr || *end || peer->listener_id == 0)
		return -EINVAL;
	peer->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (peer->event_fd < 0)
		return -errno;
	fake_lock();
	peer->next = fake.peers;
	fake.peers = peer;
	fake_unlock();
	return 0;
}

static void fake_peer_close(struct ferryi_peer *base)
{
	struct fake_peer *peer = (struct fake_peer *)base;

	fake_lock();
	FAKE_LIST_REMOVE(&fake.peers, peer);
	fake_unlock();
	close(peer->event_fd);
}

static int fake_peer_event_fd(struct ferryi_peer *base)
{
	return ((struct fake_peer *)base)->event_fd;
}

static int fake_peer_events(struct ferryi_peer *base)
{
	bool gone;

	fake_lock();
	gone = ((struct fake_peer *)base)->gone;
	fake_unlock();
	return gone ? -ENOTCONN : 0;
}

/* A stopped server accepts nobody: waits as a connecting client would. */
static int join_tenant(struct fake_channel *channel, struct fake_peer *peer, uint64_t deadline_ns)
{
	int err = 0;

	fake_lock();
	while (fake.stopped && !err)
		err = ferryi_cond_wait_until(&fake.changed, &fake.lock, deadline_ns);
	if (err)
		goto out;

	bool listening = false;
	struct fake_tenant *t;

	for (t = fake.tenants; t; t = t->next) {
		if (t->listener_id != peer->listener_id)
			continue;
		listening = true;
		if (memcmp(t->base.token, peer->base.token, FERRYI_TOKEN_LEN) == 0)
			break;
		ferryi_count(&t->base.listener->stats.c_refused_total, 1);
	}
	if (!t) {
		err = listening ? -EACCES : -ECONNREFUSED;
		goto out;
	}
	ferryi_count(&t->base.listener->stats.c_connections_total, 1);
	ferryi_count(&t->base.listener->stats.g_connections, 1);
	channel->counted = true;
	channel->tenant_id = t->id;
	peer->tenant_id = t->id;
	channel->next = fake.channels;
	fake.channels = channel;
out:
	fake_unlock();
	return err;
}

static int fake_channel_open(struct ferryi_channel *base, uint64_t deadline_ns)
{
	struct fake_channel *channel = (struct fake_channel *)base;
	struct epoll_event event = {.events = EPOLLIN};
	int err;

	channel->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (channel->event_fd < 0)
		return -errno;
	channel->wait_fd = epoll_create1(EPOLL_CLOEXEC);
	if (channel->wait_fd < 0) {
		err = -errno;
		goto err_event;
	}
	if (epoll_ctl(channel->wait_fd, EPOLL_CTL_ADD, channel->event_fd, &event) ||
	    epoll_ctl(channel->wait_fd, EPOLL_CTL_ADD, base->peer->fail_fd, &event)) {
		err = -errno;
		goto err_wait;
	}
	err = join_tenant(channel, (struct fake_peer *)base->peer, deadline_ns);
	if (err)
		goto err_wait;
	return 0;

err_wait:
	close(channel->wait_fd);
err_event:
	close(channel->event_fd);
	return err;
}

static void fake_channel_close(struct ferryi_channel *base)
{
	struct fake_channel *channel = (struct fake_channel *)base;

	fake_lock();
	FAKE_LIST_REMOVE(&fake.channels, channel);
	for (struct fake_tenant *t = fake.tenants; t && channel->counted; t = t->next) {
		if (t->id == channel->tenant_id)
			ferryi_uncount(&t->base.listener->stats.g_connections, 1);
	}
	fake_unlock();
	close(channel->wait_fd);
	close(channel->event_fd);
}

static int fake_channel_register(struct ferryi_channel *channel, struct ferryi_local_range *range)
{
	(void)channel;
	(void)range;
	return 0;
}

static int fake_channel_submit(struct ferryi_channel *base, struct ferryi_op *op,
			       const struct ferryi_local_range *range)
{
	struct fake_channel *channel = (struct fake_channel *)base;

	(void)range;
	op->priv[1] = 0;
	if (channel->queue_head)
		channel->queue_tail->priv[1] = (uintptr_t)op;
	else
		channel->queue_head = op;
	channel->queue_tail = op;
	return 0;
}

/* Rights as a server would check them. ASSUMPTION: caller holds fake.lock. */
static int copy_locked(const struct fake_channel *channel, const struct ferryi_op *op)
{
	unsigned need = op->kind == FERRYI_OP_READ ? FERRYI_ACCESS_READ : FERRYI_ACCESS_WRITE;
	const struct fake_region *r = fake.regions;

	while (r && !(r->base.remote.key == op->remote.key && r->tenant_id == channel->tenant_id))
		r = r->next;
	if (!r || !(r->base.access & need))
		return -EACCES;
	/* a client may lie about the region's length */
	if (!ferryi_range_ok(op->remote_off, op->len_bytes, r->base.memory.len_bytes))
		return -EACCES;

	char *remote = (char *)r->base.memory.base + op->remote_off;

	if (op->kind == FERRYI_OP_READ)
		memcpy(op->local, remote, op->len_bytes);
	else
		memcpy(remote, op->local, op->len_bytes);
	return 0;
}

static enum ferryi_fake_fault take_fault_locked(void)
{
	if (fake.fault_skip) {
		fake.fault_skip--;
		return FERRYI_FAKE_NONE;
	}
	if (!fake.fault_count)
		return FERRYI_FAKE_NONE;
	fake.fault_count--;
	return fake.fault;
}

/* Carries out the first operation. 1: it ended with *status; 0: it was dropped; negative: the connection
 * died. */
static int execute_locked(struct fake_channel *channel, struct ferryi_op *op, int *status)
{
	enum ferryi_fake_fault fault = take_fault_locked();

	switch (fault) {
	case FERRYI_FAKE_DIE:
		channel->gone = true;
		return -ENOTCONN;
	case FERRYI_FAKE_DROP:
		return 0;
	case FERRYI_FAKE_ERROR:
		*status = -EIO;
		return 1;
	default:
		break;
	}
	*status = copy_locked(channel, op);
	if (fault == FERRYI_FAKE_CORRUPT && *status == 0 && op->kind == FERRYI_OP_READ) {
		for (uint64_t i = 0; i < op->len_bytes; i++)
			((char *)op->local)[i] ^= (char)0xff;
	}
	return 1;
}

static int fake_channel_poll(struct ferryi_channel *base)
{
	struct fake_channel *channel = (struct fake_channel *)base;

	for (unsigned i = 0; i < POLL_OPS; i++) {
		struct ferryi_op *op = channel->queue_head;
		int status = 0;
		int ended = 0;

		fake_lock();
		if (channel->gone)
			ended = -ENOTCONN;
		else if (op && !fake.stopped)
			ended = execute_locked(channel, op, &status);
		else
			op = NULL;
		fake_unlock();
		if (ended < 0)
			return ended;
		if (!op)
			return 0;
		channel->queue_head = (struct ferryi_op *)(uintptr_t)op->priv[1];
		if (ended)
			ferryi_channel_complete(base, op, status);
	}
	return 0;
}

static int fake_channel_wait_fd(struct ferryi_channel *base)
{
	return ((struct fake_channel *)base)->wait_fd;
}

/*
 *  owner: arm                        other thread: stop(false), tenant_shutdown
 *    drain the eventfd                 change the state (lock)
 *    look at the state (lock)          write the eventfd
 *    sleep on the eventfd
 * A change before the look is seen by it; one after it leaves the eventfd readable.
 */
static int fake_channel_arm(struct ferryi_channel *base)
{
	struct fake_channel *channel = (struct fake_channel *)base;
	eventfd_t value;
	bool busy;

	(void)eventfd_read(channel->event_fd, &value);
	fake_lock();
	busy = channel->gone || (channel->queue_head && !fake.stopped);
	fake_unlock();
	return busy ? -EAGAIN : 0;
}

/* Copies happen in the owner's own poll: none is under way now. The common code ends what was queued. */
static void fake_channel_shutdown(struct ferryi_channel *base)
{
	((struct fake_channel *)base)->queue_head = NULL;
}

const struct ferryi_fabric_ops ferryi_ops_fake = {
	.peer_size = sizeof(struct fake_peer),
	.channel_size = sizeof(struct fake_channel),
	.listener_size = sizeof(struct fake_listener),
	.tenant_size = sizeof(struct fake_tenant),
	.region_size = sizeof(struct fake_region),
	.usable = fake_usable,
	.peer_open = fake_peer_open,
	.peer_close = fake_peer_close,
	.peer_event_fd = fake_peer_event_fd,
	.peer_events = fake_peer_events,
	.channel_open = fake_channel_open,
	.channel_close = fake_channel_close,
	.channel_register = fake_channel_register,
	.channel_submit = fake_channel_submit,
	.channel_poll = fake_channel_poll,
	.channel_wait_fd = fake_channel_wait_fd,
	.channel_arm = fake_channel_arm,
	.channel_shutdown = fake_channel_shutdown,
	.listener_open = fake_listener_open,
	.listener_close = fake_listener_close,
	.tenant_open = fake_tenant_open,
	.tenant_shutdown = fake_tenant_shutdown,
	.tenant_close = fake_tenant_close,
	.tenant_addr = fake_tenant_addr,
	.region_open = fake_region_open,
	.region_revoke = fake_region_revoke,
};
