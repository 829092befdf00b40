/* See view_pool.h. */
#include "view_pool.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <xxhash.h>

#include "arith.h"
#include "clock.h"
#include "error.h"
#include "log.h"

#define SPIN_US 50u /* before a read is slept for: most take less */
#define NAP_MS	50  /* where sleeping could miss a deadline's check */

/* ---- peers ---- */

static void channel_end(struct ferryi_view_peer *peer)
{
	struct ferryi_op *done[FERRYI_ACCESS_PAGES];

	if (!peer->channel)
		return;
	ferryi_channel_shutdown(peer->channel);
	while (ferryi_channel_poll(peer->channel, done, FERRYI_ACCESS_PAGES) >= 0 && ferryi_channel_outstanding(peer->channel))
		ferryi_cpu_relax();
	ferryi_channel_close(&peer->channel);
}

static void peer_end(struct ferryi_view_pool *pool, struct ferryi_view_peer *peer)
{
	for (unsigned i = 0; i < FERRYI_VIEW_EXTENTS; i++) {
		if (pool->right[i].peer == peer)
			pool->right[i] = (struct ferryi_view_right){ 0 };
	}
	channel_end(peer);
	ferryi_peer_close(&peer->peer);
}

static bool is_same(const struct ferryi_view_extent *a, const struct ferryi_view_extent *b)
{
	return a->row == b->row && strcmp(a->addr, b->addr) == 0 && memcmp(a->token, b->token, sizeof(a->token)) == 0;
}

static int peer_get(struct ferryi_view_pool *pool, const struct ferryi_view_extent *extent, uint64_t deadline_ns,
		    struct ferryi_view_peer **out)
{
	struct ferryi_view_peer *peer = NULL;

	for (unsigned i = 0; i < FERRYI_VIEW_PEERS; i++) {
		if (pool->peer[i].peer && is_same(&pool->peer[i].as, extent)) {
			*out = &pool->peer[i];
			return 0;
		}
		if (!pool->peer[i].peer)
			peer = &pool->peer[i];
	}
	if (!peer) { /* an exporter with as many leases over different fabrics: the first has to go */
		peer = &pool->peer[0];
		peer_end(pool, peer);
	}
	peer->as = *extent;
	*out = peer;
	return ferryi_session_view_peer(pool->session, extent, deadline_ns, &peer->peer);
}

static int channel_get(struct ferryi_view_pool *pool, struct ferryi_view_peer *peer, uint64_t deadline_ns)
{
	int rc;

	if (peer->channel && !ferryi_channel_is_dead(peer->channel))
		return 0;
	channel_end(peer);
	rc = ferryi_channel_open(peer->peer, FERRYI_ACCESS_PAGES, deadline_ns, &peer->channel);
	if (!rc) {
		rc = ferryi_channel_register(peer->channel, pool->pages, FERRYI_ACCESS_PAGES * FERRYI_PAGE_SIZE);
		if (rc)
			ferryi_channel_close(&peer->channel);
	}
	if (rc)
		return ferryi_control_fail(rc, "view: no channel to its pages in the pool: %s", ferryi_strerror(rc));
	return 0;
}

/* ---- rights ---- */

static void right_end(struct ferryi_view_right *right)
{
	if (right->extent_id)
		ferryi_peer_forget(right->peer->peer, &right->remote);
	*right = (struct ferryi_view_right){ 0 };
}

static int right_get(struct ferryi_view_pool *pool, uint64_t extent_id, uint64_t deadline_ns, struct ferryi_view_right **out)
{
	struct ferryi_view_right *right = &pool->right[extent_id % FERRYI_VIEW_EXTENTS];
	struct ferryi_view_extent extent;
	struct ferryi_view_peer *peer;
	int rc;

	*out = right;
	if (right->extent_id == extent_id)
		return 0;
	right_end(right);
	rc = ferryi_session_view_extent(pool->session, pool->view_id, extent_id, deadline_ns, &extent);
	if (!rc)
		rc = peer_get(pool, &extent, deadline_ns, &peer);
	if (!rc)
		rc = ferryi_peer_import(peer->peer, &extent.remote, deadline_ns);
	explicit_bzero(extent.token, sizeof(extent.token));
	if (rc)
		return rc;
	*right = (struct ferryi_view_right){ .extent_id = extent_id, .peer = peer, .remote = extent.remote };
	return 0;
}

/* ---- reading ---- */

struct batch {
	struct ferryi_op op[FERRYI_ACCESS_PAGES];
	struct ferryi_view_right *right[FERRYI_ACCESS_PAGES]; /* NULL: not of this batch, or bad */
};

/* Waits for something to complete, or a while. */
static void nap(struct ferryi_channel *channel, uint64_t spin_until_ns)
{
	struct pollfd pfd = { .fd = ferryi_channel_wait_fd(channel), .events = POLLIN };

	if (ferryi_now_ns() < spin_until_ns || pfd.fd < 0 || ferryi_channel_arm(channel))
		ferryi_cpu_relax();
	else
		poll(&pfd, 1, NAP_MS);
}

/* Posts the pages of one peer and waits for them: each has its deadline. */
static void read_peer(struct ferryi_view_peer *peer, struct batch *b, unsigned npages)
{
	uint64_t spin_until_ns = ferryi_now_ns() + SPIN_US * FERRYI_NS_PER_US;
	struct ferryi_op *ops[FERRYI_ACCESS_PAGES];
	unsigned n = 0, left;
	int rc;

	for (unsigned i = 0; i < npages; i++) {
		if (b->right[i] && b->right[i]->peer == peer)
			ops[n++] = &b->op[i];
	}
	if (!n)
		return;
	for (unsigned i = 0; i < n; i++)
		ops[i]->status = -ECANCELED;
	rc = ferryi_channel_submit(peer->channel, ops, n); /* the channel's depth is the most there can be */
	for (left = rc < 0 ? 0 : (unsigned)rc; left;) {
		rc = ferryi_channel_poll(peer->channel, ops, left);
		if (rc < 0)
			break; /* dead, and all have been returned */
		left -= (unsigned)rc;
		if (!rc)
			nap(peer->channel, spin_until_ns);
	}
	if (ferryi_channel_is_dead(peer->channel))
		channel_end(peer);
}

static bool is_right(const struct ferryi_view_pool *pool, const struct ferryi_access_page *page, const struct ferryi_op *op,
		     unsigned i)
{
	return op->status == 0 && XXH3_64bits(pool->pages + i * FERRYI_PAGE_SIZE, FERRYI_PAGE_SIZE) == page->hash;
}

/* A right to each page's extent. -ENOENT of one: given back meanwhile, its pages are asked for again. */
static int prepare(struct ferryi_view_pool *pool, const struct ferryi_access_page *page, unsigned npages, uint64_t deadline_ns,
		   struct batch *b)
{
	for (unsigned i = 0; i < npages; i++) {
		struct ferryi_view_right *right;
		int rc;

		if (!page[i].extent_id)
			continue;
		rc = right_get(pool, page[i].extent_id, deadline_ns, &right);
		if (rc == -ENOENT)
			continue;
		if (rc)
			return rc;
		if (!ferryi_range_ok(page[i].off, FERRYI_PAGE_SIZE, right->remote.len_bytes))
			return ferryi_control_fail(-EPROTO, "view: the exporter named a page outside its extent");
		b->op[i] = (struct ferryi_op){ .kind = FERRYI_OP_READ,
					       .local = pool->pages + i * FERRYI_PAGE_SIZE,
					       .len_bytes = FERRYI_PAGE_SIZE,
					       .remote = right->remote,
					       .remote_off = page[i].off,
					       .deadline_ns = deadline_ns };
		b->right[i] = right;
	}
	/* Two extents of one access may want the same place: the later one has it. */
	for (unsigned i = 0; i < npages; i++) {
		if (b->right[i] && b->right[i]->extent_id != page[i].extent_id)
			b->right[i] = NULL;
	}
	return 0;
}

int ferryi_view_pool_read(struct ferryi_view_pool *pool, const struct ferryi_access_page *page, unsigned npages,
			  uint64_t deadline_ns, uint32_t *good)
{
	struct batch b = { 0 };
	int rc = prepare(pool, page, npages, deadline_ns, &b);

	*good = 0;
	for (unsigned k = 0; !rc && k < FERRYI_VIEW_PEERS; k++) {
		struct ferryi_view_peer *peer = &pool->peer[k];
		bool any = false;

		for (unsigned i = 0; i < npages; i++)
			any |= b.right[i] && b.right[i]->peer == peer;
		if (!any)
			continue;
		rc = channel_get(pool, peer, deadline_ns);
		if (rc)
			peer_end(pool, peer);
		else
			read_peer(peer, &b, npages);
	}
	if (rc)
		return rc;
	for (unsigned i = 0; i < npages; i++) {
		if (!b.right[i])
			continue;
		if (is_right(pool, &page[i], &b.op[i], i))
			*good |= 1u << i;
		else if (b.op[i].status && b.right[i]->extent_id)
			right_end(b.right[i]); /* revoked, it may be: the server is asked again */
	}
	return 0;
}

void ferryi_view_pool_close(struct ferryi_view_pool *pool)
{
	for (unsigned i = 0; i < FERRYI_VIEW_PEERS; i++) {
		if (pool->peer[i].peer)
			peer_end(pool, &pool->peer[i]);
		explicit_bzero(pool->peer[i].as.token, sizeof(pool->peer[i].as.token));
	}
}
