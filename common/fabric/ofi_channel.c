/*
 * Channels over libfabric: posting, completions, and a death after which the
 * provider touches local memory no more. Owner thread only. Hot path: submit
 * and poll; they allocate nothing, take no lock of ours, and make no system
 * call beyond the provider's.
 *
 * One operation is one message or, past msg_max, several, each with a slot that
 * was set aside at open. What cannot be posted at once waits as `partial`, and
 * later operations wait behind it, so order is kept and a provider that answers
 * -FI_EAGAIN for ever is met by the operation's deadline or the stall limit.
 *
 * op->priv: [1] bytes posted, [2] messages under way, [3] first error.
 */
#include "ofi.h"

#include <errno.h>
#include <infiniband/verbs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "arith.h"
#include "clock.h"
#include "log.h"

#define POSTED(op)   ((op)->priv[1])
#define MESSAGES(op) ((op)->priv[2])
#define FAILURE(op)  ((op)->priv[3]) /* a negative errno, stored as uint64_t */

/* Longest message even where a provider has no limit: one transfer must not keep a target thread from the
 * others. */
#define MSG_MAX ((size_t)8 << 20)
/* Without a deadline of its own, an operation that cannot even be posted ends here. */
#define STALL_NS (10 * FERRYI_NS_PER_S)
/* A dying queue pair returns what it holds within about a millisecond; past this it is destroyed instead. */
#define DRAIN_NS (250 * FERRYI_NS_PER_MS)
/* An idle poll looks at the connection every millisecond, and at the clock once in so many polls. */
#define EVENTS_NS	   FERRYI_NS_PER_MS
#define POLLS_PER_CLOCK	   256
#define COMPLETIONS_A_READ 16

static struct ferryi_ofi_channel *of(struct ferryi_channel *channel)
{
	return (struct ferryi_ofi_channel *)channel;
}

/* ---- open, register, close ---- */

static int open_wait_fd(struct ferryi_ofi_channel *channel)
{
	struct epoll_event event = {.events = EPOLLIN};

	if (channel->link.cq_fd < 0)
		return 0;
	channel->wait_fd = epoll_create1(EPOLL_CLOEXEC);
	if (channel->wait_fd < 0)
		return -errno;
	if (epoll_ctl(channel->wait_fd, EPOLL_CTL_ADD, channel->link.cq_fd, &event) ||
	    (channel->link.eq_fd >= 0 &&
	     epoll_ctl(channel->wait_fd, EPOLL_CTL_ADD, channel->link.eq_fd, &event)) ||
	    epoll_ctl(channel->wait_fd, EPOLL_CTL_ADD, channel->base.peer->fail_fd, &event)) {
		close(channel->wait_fd);
		channel->wait_fd = -1;
		return -errno;
	}
	return 0;
}

int ferryi_ofi_channel_open(struct ferryi_channel *base, uint64_t deadline_ns)
{
	struct ferryi_ofi_peer *peer = (struct ferryi_ofi_peer *)base->peer;
	struct ferryi_ofi_channel *channel = of(base);
	const struct fi_info *info = peer->info;
	int rc;

	channel->wait_fd = -1;
	channel->is_rdm = peer->kind->ep_type == FI_EP_RDM;
	channel->msg_max = ferryi_min_u64(MSG_MAX, info->ep_attr->max_msg_size);
	channel->reads_max = peer->reads_max;
	channel->nslots = FERRYI_OFI_SLOTS_MAX;
	if (info->tx_attr->size && info->tx_attr->size < channel->nslots)
		channel->nslots = (unsigned)info->tx_attr->size;
	for (unsigned i = channel->nslots; i-- > 0;) {
		channel->slots[i].next_free = channel->free_slot;
		channel->free_slot = &channel->slots[i];
	}
	rc = ferryi_ofi_link_open(peer, channel->nslots, &channel->link);
	if (rc)
		return rc;
	rc = channel->is_rdm ? ferryi_ofi_rdm_hello(peer, &channel->link, deadline_ns)
			     : ferryi_ofi_link_connect(peer, &channel->link, FERRYI_OFI_DATA, deadline_ns);
	if (!rc)
		rc = open_wait_fd(channel);
	if (rc)
		ferryi_ofi_link_close(&channel->link);
	return rc;
}

int ferryi_ofi_channel_register(struct ferryi_channel *base, struct ferryi_local_range *range)
{
	struct ferryi_ofi_peer *peer = (struct ferryi_ofi_peer *)base->peer;
	struct ferryi_ofi_channel *channel = of(base);
	struct fid_mr *mr = NULL;
	int rc;

	if (!(peer->info->domain_attr->mr_mode & FI_MR_LOCAL))
		return 0;
	rc = ferryi_ofi_mr(base->peer->label, peer->info, channel->link.domain, channel->link.ep, range->base,
			   range->len_bytes, FI_READ | FI_WRITE, false, &mr);
	if (rc)
		return rc;
	range->priv = mr;
	range->desc = fi_mr_desc(mr);
	return 0;
}

void ferryi_ofi_channel_close(struct ferryi_channel *base)
{
	struct ferryi_ofi_channel *channel = of(base);

	for (unsigned i = 0; i < base->nranges; i++)
		if (base->ranges[i].priv)
			fi_close(&((struct fid_mr *)base->ranges[i].priv)->fid);
	if (channel->wait_fd >= 0)
		close(channel->wait_fd);
	ferryi_ofi_link_close(&channel->link);
}

/* ---- posting ---- */

static ssize_t post_message(struct ferryi_ofi_channel *channel, struct ferryi_op *op, void *desc, size_t len,
			    struct ferryi_ofi_slot *slot)
{
	char *local = (char *)op->local + POSTED(op);
	uint64_t addr = op->remote.addr + op->remote_off + POSTED(op);

	if (op->kind == FERRYI_OP_READ)
		return fi_read(channel->link.ep, local, len, desc, channel->link.dest, addr, op->remote.key,
			       &slot->ctx);

	struct iovec iov = {.iov_base = local, .iov_len = len};
	struct fi_rma_iov rma_iov = {.addr = addr, .len = len, .key = op->remote.key};
	struct fi_msg_rma msg = {
		.msg_iov = &iov,
		.desc = &desc,
		.iov_count = 1,
		.addr = channel->link.dest,
		.rma_iov = &rma_iov,
		.rma_iov_count = 1,
		.context = &slot->ctx,
	};

	/* Plain fi_write() on tcp completes when the bytes are on the wire, even if the target then refuses
	 * them. */
	return fi_writemsg(channel->link.ep, &msg, FI_DELIVERY_COMPLETE | FI_COMPLETION);
}

/* 0: all of it is under way; -EAGAIN: the rest later; other: the connection is gone. */
static int post(struct ferryi_ofi_channel *channel, struct ferryi_op *op, void *desc)
{
	bool is_read = op->kind == FERRYI_OP_READ;

	while (POSTED(op) < op->len_bytes) {
		struct ferryi_ofi_slot *slot = channel->free_slot;
		size_t len = ferryi_min_u64(channel->msg_max, op->len_bytes - POSTED(op));
		ssize_t rc;

		if (!slot || (is_read && channel->reads_max && channel->nreads >= channel->reads_max))
			return -EAGAIN;
		rc = post_message(channel, op, desc, len, slot);
		if (rc == -FI_EAGAIN)
			return -EAGAIN;
		if (rc) {
			if (!channel->is_logged)
				ferryi_info("%s: connection lost: %s", channel->base.peer->label,
					    fi_strerror((int)-rc));
			channel->is_logged = true;
			channel->is_broken = true;
			return -ENOTCONN;
		}
		channel->free_slot = slot->next_free;
		slot->op = op;
		POSTED(op) += len;
		MESSAGES(op)++;
		channel->ninflight++;
		channel->nreads += is_read;
	}
	return 0;
}

static int post_partial(struct ferryi_ofi_channel *channel)
{
	uint64_t before = POSTED(channel->partial);
	int rc = post(channel, channel->partial, channel->partial_desc);

	if (!rc) {
		channel->partial = NULL;
		channel->stalled_since_ns = 0;
	} else if (POSTED(channel->partial) != before || channel->ninflight) {
		channel->stalled_since_ns = 0;
	}
	return rc;
}

int ferryi_ofi_channel_submit(struct ferryi_channel *base, struct ferryi_op *op,
			      const struct ferryi_local_range *range)
{
	struct ferryi_ofi_channel *channel = of(base);
	int rc;

	if (channel->partial) {
		rc = post_partial(channel);
		if (rc)
			return rc;
	}
	POSTED(op) = MESSAGES(op) = FAILURE(op) = 0;
	rc = post(channel, op, range->desc);
	if (rc == -EAGAIN || (rc && MESSAGES(op))) {
		/* Taken: the rest follows from poll(), or poll() finds the channel broken and ends it
		 * properly. */
		channel->partial = op;
		channel->partial_desc = range->desc;
		rc = 0;
	}
	return rc;
}

/* ---- completions ---- */

static void finish(struct ferryi_ofi_channel *channel, struct ferryi_ofi_slot *slot, int status)
{
	struct ferryi_op *op = slot->op;

	slot->op = NULL;
	slot->next_free = channel->free_slot;
	channel->free_slot = slot;
	channel->ninflight--;
	channel->nreads -= op->kind == FERRYI_OP_READ;
	if (status && !FAILURE(op))
		FAILURE(op) = (uint64_t)(int64_t)status;
	if (--MESSAGES(op) == 0 && POSTED(op) == op->len_bytes)
		ferryi_channel_complete(&channel->base, op, (int)(int64_t)FAILURE(op));
}

static int error_status(const struct ferryi_ofi_channel *channel, const struct fi_cq_err_entry *err)
{
	bool is_verbs = !((const struct ferryi_ofi_peer *)channel->base.peer)->kind->target_cpu;

	if (err->err == FI_EACCES || err->err == FI_EPERM)
		return -EACCES;
	/* The verbs provider says EIO for all, and the reason beside it. */
	if (is_verbs && err->err == FI_EIO && err->prov_errno == IBV_WC_REM_ACCESS_ERR)
		return -EACCES;
	return -ECANCELED;
}

/* One error entry: true when there was one. */
static bool read_error(struct ferryi_ofi_channel *channel)
{
	char data[64];
	struct fi_cq_err_entry err = {.err_data = data, .err_data_size = sizeof(data)};
	struct ferryi_ofi_slot *slot;

	if (fi_cq_readerr(channel->link.cq, &err, 0) <= 0)
		return false;
	if (err.err != FI_ECANCELED && !channel->is_logged) {
		char text[96];

		ferryi_warn(
			"%s: transfer failed: %s (%s)", channel->base.peer->label, fi_strerror(err.err),
			fi_cq_strerror(channel->link.cq, err.prov_errno, err.err_data, text, sizeof(text)));
		channel->is_logged = true;
	}
	slot = err.op_context;
	if (slot && slot->op)
		finish(channel, slot, error_status(channel, &err));
	return true;
}

static ssize_t read_completions(struct ferryi_ofi_channel *channel)
{
	struct fi_cq_msg_entry entries[COMPLETIONS_A_READ];
	ssize_t n = fi_cq_read(channel->link.cq, entries, COMPLETIONS_A_READ);

	for (ssize_t i = 0; i < n; i++) {
		struct ferryi_ofi_slot *slot = entries[i].op_context;

		if (slot && slot->op)
			finish(channel, slot, 0);
	}
	return n;
}

/* Nothing has completed: now and then, is the connection still there, and does `partial` get anywhere? */
static int poll_idle(struct ferryi_ofi_channel *channel)
{
	uint64_t now;

	if (++channel->nidle % POLLS_PER_CLOCK && !channel->partial)
		return 0;
	now = ferryi_now_ns();
	if (channel->partial && !channel->ninflight) {
		if (!channel->stalled_since_ns)
			channel->stalled_since_ns = now;
		if (now - channel->stalled_since_ns > STALL_NS) {
			ferryi_warn("%s: the provider takes no operation; channel closed",
				    channel->base.peer->label);
			return -ENOTCONN;
		}
	}
	if (now < channel->next_events_ns)
		return 0;
	channel->next_events_ns = now + EVENTS_NS;
	return ferryi_ofi_link_events(&channel->link);
}

int ferryi_ofi_channel_poll(struct ferryi_channel *base)
{
	struct ferryi_ofi_channel *channel = of(base);
	ssize_t n;

	if (channel->is_broken)
		return -ENOTCONN;
	n = read_completions(channel);
	if (n == -FI_EAVAIL) {
		/* On every provider an error ends the connection; shutdown() collects the rest. */
		(void)read_error(channel);
		return -ENOTCONN;
	}
	if (n < 0 && n != -FI_EAGAIN && n != -FI_EINTR)
		return ferryi_ofi_log(base->peer->label, "read completions", n);
	if (channel->partial) {
		int rc = post_partial(channel);

		if (rc && rc != -EAGAIN)
			return rc;
	}
	return n > 0 ? 0 : poll_idle(channel);
}

/* ---- sleeping ---- */

int ferryi_ofi_channel_wait_fd(struct ferryi_channel *base)
{
	struct ferryi_ofi_channel *channel = of(base);

	return channel->wait_fd >= 0 ? channel->wait_fd : -ENOTSUP;
}

int ferryi_ofi_channel_arm(struct ferryi_channel *base)
{
	struct ferryi_ofi_channel *channel = of(base);

	if (channel->wait_fd < 0)
		return -ENOTSUP;
	if (channel->is_broken || ferryi_ofi_link_events(&channel->link)) {
		channel->is_broken = true;
		return -EAGAIN;
	}
	/* With nothing under way no completion would tell that there is room again. */
	if (channel->partial && !channel->ninflight)
		return -EAGAIN;
	return ferryi_ofi_link_trywait((struct ferryi_ofi_peer *)base->peer, &channel->link) ? 0 : -EAGAIN;
}

/* ---- death ---- */

static void drain(struct ferryi_ofi_channel *channel)
{
	uint64_t deadline_ns = ferryi_now_ns() + DRAIN_NS;

	while (channel->ninflight) {
		ssize_t n = read_completions(channel);

		if (n == -FI_EAVAIL && read_error(channel))
			continue;
		if (n > 0)
			continue;
		if (ferryi_now_ns() >= deadline_ns)
			break;
		ferryi_cpu_relax();
	}
}

/*
 * ofi_rxm over tcp crashes now and then in the close of an endpoint with
 * operations under way (seen with 1.17: its own completion handler meets a
 * context that is gone). It moves bytes only while somebody reads its queue,
 * so an endpoint that is left alone for ever is as good as closed; the price is
 * its memory and descriptors, once for each channel that dies in this way.
 */
static void abandon(struct ferryi_ofi_channel *channel)
{
	ferryi_debug("%s: endpoint abandoned with %u messages under way", channel->base.peer->label,
		     channel->ninflight);
	if (channel->wait_fd >= 0)
		close(channel->wait_fd);
	channel->wait_fd = -1;
	channel->link = (struct ferryi_ofi_link){.cq_fd = -1, .eq_fd = -1};
	atomic_store(&((struct ferryi_ofi_peer *)channel->base.peer)->has_abandoned, true);
}

void ferryi_ofi_channel_shutdown(struct ferryi_channel *base)
{
	struct ferryi_ofi_peer *peer = (struct ferryi_ofi_peer *)base->peer;
	struct ferryi_ofi_channel *channel = of(base);
	struct ferryi_op *op, *next;

	channel->partial = NULL;
	if (channel->is_rdm) {
		if (!channel->ninflight && !channel->is_broken && !ferryi_peer_is_failed(base->peer))
			ferryi_ofi_rdm_bye(peer, &channel->link);
		drain(channel);
		if (channel->ninflight && peer->is_emulated) {
			abandon(channel);
			return;
		}
	} else {
		/* verbs returns outstanding reads of a dead peer only after this. */
		(void)fi_shutdown(channel->link.ep, 0);
		drain(channel);
	}
	/* Past this nothing can write to local memory: the queue pair is destroyed, the socket is closed. */
	FERRYI_OFI_CLOSE(channel->link.ep);
	for (op = base->posted; op; op = next) {
		next = op->next;
		ferryi_channel_complete(base, op, FAILURE(op) ? (int)(int64_t)FAILURE(op) : -ECANCELED);
	}
}
