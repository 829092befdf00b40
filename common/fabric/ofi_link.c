/*
 * One client connection: domain, completion queue, endpoint, and for FI_EP_MSG
 * the event queue on which its fate is told. A connection shares nothing with
 * others, so its owner thread meets no lock that another thread holds.
 */
#include "ofi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "log.h"

/* How long one look at a connecting endpoint may sleep; providers exist whose EQ descriptor misses a step. */
#define CONNECT_SLICE_MS 50

static int open_cq(struct ferryi_ofi_peer *peer, size_t depth, struct ferryi_ofi_link *link)
{
	struct fi_cq_attr attr = {
		/* Room for the receive queue too: verbs reserves it even where nothing is posted. */
		.size = depth + peer->info->rx_attr->size,
		.format = FI_CQ_FORMAT_MSG,
		.wait_obj = FI_WAIT_FD,
	};
	int rc = fi_cq_open(link->domain, &attr, &link->cq, NULL);

	if (rc == -FI_ENOSYS) {
		attr.wait_obj = FI_WAIT_NONE;
		rc = fi_cq_open(link->domain, &attr, &link->cq, NULL);
	}
	if (rc)
		return rc;
	link->cq_fd = attr.wait_obj == FI_WAIT_FD ? ferryi_ofi_wait_fd(&link->cq->fid) : -1;
	return 0;
}

static int open_ep(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link)
{
	int rc = fi_endpoint(link->domain, peer->info, &link->ep, NULL);

	if (rc)
		return rc;
	if (peer->kind->ep_type == FI_EP_MSG) {
		struct fi_eq_attr attr = {.wait_obj = FI_WAIT_FD};

		rc = fi_eq_open(peer->fabric, &attr, &link->eq, NULL);
		if (rc)
			return rc;
		link->eq_fd = ferryi_ofi_wait_fd(&link->eq->fid);
		rc = fi_ep_bind(link->ep, &link->eq->fid, 0);
	} else {
		struct fi_av_attr attr = {.type = FI_AV_TABLE, .count = 1};

		rc = fi_av_open(link->domain, &attr, &link->av, NULL);
		if (!rc)
			rc = fi_ep_bind(link->ep, &link->av->fid, 0);
	}
	if (!rc)
		rc = fi_ep_bind(link->ep, &link->cq->fid, FI_TRANSMIT | FI_RECV);
	if (!rc)
		rc = fi_enable(link->ep);
	return rc;
}

int ferryi_ofi_link_open(struct ferryi_ofi_peer *peer, size_t depth, struct ferryi_ofi_link *link)
{
	int rc;

	*link = (struct ferryi_ofi_link){.cq_fd = -1, .eq_fd = -1, .dest = FI_ADDR_UNSPEC};
	rc = fi_domain(peer->fabric, peer->info, &link->domain, NULL);
	if (!rc)
		rc = open_cq(peer, depth, link);
	if (!rc)
		rc = open_ep(peer, link);
	if (rc) {
		ferryi_ofi_link_close(link);
		return ferryi_ofi_log(peer->base.label, "open endpoint", rc);
	}
	return 0;
}

void ferryi_ofi_link_close(struct ferryi_ofi_link *link)
{
	FERRYI_OFI_CLOSE(link->ep);
	FERRYI_OFI_CLOSE(link->av);
	FERRYI_OFI_CLOSE(link->eq);
	FERRYI_OFI_CLOSE(link->cq);
	FERRYI_OFI_CLOSE(link->domain);
	link->cq_fd = link->eq_fd = -1;
}

/* The server says in the rejection that it was the token; without a word nobody listens there. */
static int connect_error(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link)
{
	char data[64] = "";
	struct fi_eq_err_entry err = {.err_data = data, .err_data_size = sizeof(data)};
	size_t magic_len = strlen(FERRYI_OFI_REFUSE);
	ssize_t n = fi_eq_readerr(link->eq, &err, 0);

	if (n < 0)
		return n == -FI_EAGAIN ? -EAGAIN : ferryi_ofi_log(peer->base.label, "connect", n);
	if (err.err_data && err.err_data_size >= magic_len &&
	    !memcmp(err.err_data, FERRYI_OFI_REFUSE, magic_len)) {
		ferryi_error("%s: %s: the server refused this session's data token", peer->base.label,
			     peer->base.addr);
		return -EACCES;
	}
	ferryi_info("%s: %s: connect: %s", peer->base.label, peer->base.addr, fi_strerror(err.err));
	switch (err.err) {
	case ECONNREFUSED:
	case ECONNRESET:
	case ECONNABORTED:
		return -ECONNREFUSED;
	case ETIMEDOUT:
		return -ETIMEDOUT;
	default:
		return -EHOSTUNREACH;
	}
}

static int wait_connected(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link, uint64_t deadline_ns)
{
	struct fid *fids[1] = {&link->eq->fid};
	union {
		struct fi_eq_cm_entry entry;
		char room[sizeof(struct fi_eq_cm_entry) + 256];
	} buf;

	for (;;) {
		uint32_t event = 0;
		ssize_t n = fi_eq_read(link->eq, &event, &buf, sizeof(buf), 0);
		int left_ms, rc;

		if (n > 0 && event == FI_CONNECTED)
			return 0;
		if (n > 0 && event == FI_SHUTDOWN)
			return -ECONNREFUSED;
		if (n == -FI_EAVAIL) {
			rc = connect_error(peer, link);
			if (rc != -EAGAIN)
				return rc;
		} else if (n < 0 && n != -FI_EAGAIN && n != -FI_EINTR) {
			return ferryi_ofi_log(peer->base.label, "wait for connection", n);
		}
		if (n >= 0)
			continue;
		left_ms = ferryi_remaining_ms(deadline_ns);
		if (!left_ms)
			return -ETIMEDOUT;
		if (link->eq_fd < 0 || !fi_trywait(peer->fabric, fids, 1)) {
			struct pollfd pfd = {.fd = link->eq_fd, .events = POLLIN};

			poll(&pfd, 1, left_ms < CONNECT_SLICE_MS ? left_ms : CONNECT_SLICE_MS);
		}
	}
}

int ferryi_ofi_link_connect(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link,
			    enum ferryi_ofi_purpose purpose, uint64_t deadline_ns)
{
	struct ferryi_ofi_hello hello;
	size_t room = 0, room_len = sizeof(room);
	int rc;

	if (!fi_getopt(&link->ep->fid, FI_OPT_ENDPOINT, FI_OPT_CM_DATA_SIZE, &room, &room_len) &&
	    room < sizeof(hello)) {
		ferryi_error(
			"%s: this provider carries only %zu bytes with a connection request, %zu are needed",
			peer->base.label, room, sizeof(hello));
		return -ENODEV;
	}
	ferryi_ofi_hello_fill(&hello, purpose, peer->base.token);
	rc = fi_connect(link->ep, peer->info->dest_addr, &hello, sizeof(hello));
	explicit_bzero(&hello, sizeof(hello));
	if (rc == -FI_ECONNREFUSED)
		return -ECONNREFUSED;
	if (rc) {
		ferryi_ofi_log(peer->base.label, "connect", rc);
		return -EHOSTUNREACH;
	}
	rc = wait_connected(peer, link, deadline_ns);
	if (rc == -ETIMEDOUT)
		ferryi_info("%s: %s: no answer to the connection request", peer->base.label, peer->base.addr);
	return rc;
}

int ferryi_ofi_link_events(struct ferryi_ofi_link *link)
{
	char buf[sizeof(struct fi_eq_cm_entry) + 256];
	struct fi_eq_err_entry err = {0};
	uint32_t event;

	if (!link->eq)
		return 0;
	for (;;) {
		ssize_t n = fi_eq_read(link->eq, &event, buf, sizeof(buf), 0);

		if (n == -FI_EAVAIL) {
			/* Whatever it was, this connection will not recover. */
			(void)fi_eq_readerr(link->eq, &err, 0);
			return -ENOTCONN;
		}
		if (n < 0)
			return 0;
		if (n > 0 && event == FI_SHUTDOWN)
			return -ENOTCONN;
	}
}

bool ferryi_ofi_link_trywait(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link)
{
	struct fid *fids[2] = {&link->cq->fid, link->eq ? &link->eq->fid : NULL};

	return fi_trywait(peer->fabric, fids, link->eq ? 2 : 1) == 0;
}
