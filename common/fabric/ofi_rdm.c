/*
 * The client's half of the rdm row: a channel greets the tenant's endpoint with
 * the session's token and its own address, and waits for the answer.
 *
 * Datagram endpoints have no connection that a server could refuse, so the
 * greeting tells an honest client early that its token is wrong; what keeps
 * others out is that each tenant has an endpoint and a domain of its own and
 * that keys are 64 random bits (where the provider lets us choose them).
 */
#include "ofi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"

#define BYE_NS (2 * FERRYI_NS_PER_MS)

struct talk {
	struct fi_context2 send_ctx, recv_ctx;
	struct ferryi_ofi_greeting greeting;
	struct ferryi_ofi_answer answer;
	struct fid_mr *mr;
	void *desc;
	bool sent, answered;
};

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "#HEX/..." to bytes; the number of bytes, or -EINVAL. */
static int parse_raw(const char *text, uint8_t *out, size_t out_len)
{
	size_t n = 0;

	for (text++; *text && *text != '/'; text += 2) {
		int high = hex_digit(text[0]), low = high < 0 ? -1 : hex_digit(text[1]);

		if (low < 0 || n == out_len)
			return -EINVAL;
		out[n++] = (uint8_t)(high << 4 | low);
	}
	return n ? (int)n : -EINVAL;
}

static int insert_dest(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link)
{
	uint8_t raw[FERRYI_OFI_NAME_MAX] = {0};
	const void *addr = peer->info->dest_addr;

	if (peer->base.addr[0] == '#') {
		if (parse_raw(peer->base.addr, raw, sizeof(raw)) < 0)
			return -EINVAL;
		addr = raw;
	}
	if (!addr)
		return -EINVAL;
	return fi_av_insert(link->av, addr, 1, &link->dest, 0, NULL) == 1 ? 0 : -EHOSTUNREACH;
}

/*
 * ofi_rxm tries for ever to connect to a port on which nobody listens, and says
 * "again" all the while. A plain connect tells at once.
 */
static int probe(struct ferryi_ofi_peer *peer, uint64_t deadline_ns)
{
	const struct sockaddr *addr = peer->info->dest_addr;
	int error = 0, fd, rc;
	socklen_t len = sizeof(error);
	struct pollfd pfd;

	if (!addr || !peer->is_emulated)
		return 0;
	fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return 0;
	rc = connect(fd, addr, (socklen_t)peer->info->dest_addrlen) ? errno : 0;
	if (rc == EINPROGRESS) {
		pfd = (struct pollfd){.fd = fd, .events = POLLOUT};
		rc = ETIMEDOUT;
		if (poll(&pfd, 1, ferryi_remaining_ms(deadline_ns)) > 0)
			rc = getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) ? errno : error;
	}
	close(fd);
	if (!rc)
		return 0;
	ferryi_info("%s: %s: connect: %s", peer->base.label, peer->base.addr, ferryi_strerror(rc));
	return rc == ECONNREFUSED || rc == ETIMEDOUT ? -rc : -EHOSTUNREACH;
}

/* Reads what has happened: 0, or the error that ended it. */
static int talk_progress(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link, struct talk *talk)
{
	struct fi_cq_err_entry err = {0};
	struct fi_cq_msg_entry entries[4];
	ssize_t n = fi_cq_read(link->cq, entries, 4);

	for (ssize_t i = 0; i < n; i++) {
		talk->sent |= entries[i].op_context == &talk->send_ctx;
		talk->answered |= entries[i].op_context == &talk->recv_ctx;
	}
	if (n == -FI_EAVAIL && fi_cq_readerr(link->cq, &err, 0) > 0) {
		ferryi_info("%s: %s: greet: %s", peer->base.label, peer->base.addr, fi_strerror(err.err));
		return -ECONNREFUSED;
	}
	return n < 0 && n != -FI_EAGAIN && n != -FI_EINTR && n != -FI_EAVAIL ? -ECONNREFUSED : 0;
}

static void talk_wait(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link, uint64_t deadline_ns)
{
	int left_ms = ferryi_remaining_ms(deadline_ns);
	struct pollfd pfd = {.fd = link->cq_fd, .events = POLLIN};

	/* A connection that ofi_rxm makes in the background may need more progress than its descriptor tells
	 * of. */
	if (link->cq_fd < 0 || ferryi_ofi_link_trywait(peer, link))
		poll(&pfd, 1, left_ms < 5 ? left_ms : 5);
}

static int talk_run(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link, struct talk *talk,
		    uint64_t deadline_ns)
{
	bool received = false, posted = false;
	ssize_t n;
	int rc;

	while (!talk->sent || !talk->answered) {
		if (!received) {
			n = fi_recv(link->ep, &talk->answer, sizeof(talk->answer), talk->desc, FI_ADDR_UNSPEC,
				    &talk->recv_ctx);
			if (n && n != -FI_EAGAIN)
				return ferryi_ofi_log(peer->base.label, "post receive", n);
			received = !n;
		}
		if (received && !posted) {
			n = fi_send(link->ep, &talk->greeting, sizeof(talk->greeting), talk->desc, link->dest,
				    &talk->send_ctx);
			if (n && n != -FI_EAGAIN)
				return n == -FI_ECONNREFUSED ? -ECONNREFUSED : -EHOSTUNREACH;
			posted = !n;
		}
		rc = talk_progress(peer, link, talk);
		if (rc)
			return rc;
		if (ferryi_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		if (!talk->answered)
			talk_wait(peer, link, deadline_ns);
	}
	if (memcmp(talk->answer.magic, FERRYI_OFI_MAGIC, sizeof(talk->answer.magic))) {
		ferryi_error("%s: %s: the server refused this session's data token", peer->base.label,
			     peer->base.addr);
		return -EACCES;
	}
	return 0;
}

int ferryi_ofi_rdm_hello(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link, uint64_t deadline_ns)
{
	struct talk *talk = calloc(1, sizeof(*talk));
	size_t name_len = sizeof(talk->greeting.name);
	int rc;

	if (!talk)
		return -ENOMEM;
	rc = probe(peer, deadline_ns);
	if (!rc)
		rc = insert_dest(peer, link);
	if (rc)
		goto out;
	ferryi_ofi_hello_fill(&talk->greeting.hello, FERRYI_OFI_DATA, peer->base.token);
	rc = fi_getname(&link->ep->fid, talk->greeting.name, &name_len);
	if (rc) {
		rc = ferryi_ofi_log(peer->base.label, "own address", rc);
		goto out;
	}
	talk->greeting.name_len = (uint32_t)name_len;
	if (peer->info->domain_attr->mr_mode & FI_MR_LOCAL) {
		rc = ferryi_ofi_mr(peer->base.label, peer->info, link->domain, link->ep, talk, sizeof(*talk),
				   FI_SEND | FI_RECV, false, &talk->mr);
		if (rc)
			goto out;
		talk->desc = fi_mr_desc(talk->mr);
	}
	rc = talk_run(peer, link, talk, deadline_ns);
	if (rc)
		/* The provider may still hold the buffers. */
		FERRYI_OFI_CLOSE(link->ep);
	FERRYI_OFI_CLOSE(talk->mr);
out:
	explicit_bzero(talk, sizeof(*talk));
	free(talk);
	return rc;
}

void ferryi_ofi_rdm_bye(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link)
{
	uint64_t until_ns = ferryi_now_ns() + BYE_NS;
	struct ferryi_ofi_greeting bye = {0};
	struct fi_cq_msg_entry entry;
	ssize_t rc;

	/* Politeness only: the server counts connections by it. */
	if (!link->ep || peer->info->tx_attr->inject_size < sizeof(bye.hello))
		return;
	ferryi_ofi_hello_fill(&bye.hello, FERRYI_OFI_BYE, peer->base.token);
	do {
		rc = fi_inject(link->ep, &bye.hello, sizeof(bye.hello), link->dest);
		(void)fi_cq_read(link->cq, &entry, 1);
	} while (rc == -FI_EAGAIN && ferryi_now_ns() < until_ns);
	explicit_bzero(&bye, sizeof(bye));
}
