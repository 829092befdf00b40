/*
 * The table of rows, and what every row's client side and addresses have in
 * common. A row is a line here and files of its own; nothing else names rows.
 * Any thread; no lock is held while a row is called.
 */
#include "fabric.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "fabric_ops.h"
#include "log.h"

/* In order of preference for `auto`. */
static const struct ferryi_fabric_row rows[] = {
	{"verbs", FERRYI_FABRIC_DATA_OUTLIVES_STOP,
	 "RDMA (InfiniBand, RoCE, soft-RoCE) through libfabric's verbs provider", &ferryi_ops_verbs},
	{"local",
	 FERRYI_FABRIC_SAME_HOST | FERRYI_FABRIC_EXACT_ERRORS | FERRYI_FABRIC_DATA_OUTLIVES_STOP | FERRYI_FABRIC_UNPINNED,
	 "shared memory with a server on the same host, extent by extent", &ferryi_ops_local},
	/* Its provider asks for no FI_MR_LOCAL: it hands local addresses to readv and writev. */
	{"tcp", FERRYI_FABRIC_TARGET_CPU | FERRYI_FABRIC_UNPINNED, "any network, through libfabric's tcp provider; costs server CPU",
	 &ferryi_ops_tcp},
	/* Some of its providers pin without asking for FI_MR_LOCAL, and ofi_rxm's end points may outlive their channel. */
	{"rdm", FERRYI_FABRIC_TARGET_CPU,
	 "libfabric reliable datagrams: cxi, efa, psm3, opx (untested), else tcp;ofi_rxm", &ferryi_ops_rdm},
	{"fake", FERRYI_FABRIC_EXACT_ERRORS | FERRYI_FABRIC_TEST_ONLY | FERRYI_FABRIC_UNPINNED,
	 "inside one process, with fault injection", &ferryi_ops_fake},
};

#define NROWS (sizeof(rows) / sizeof(rows[0]))

const struct ferryi_fabric_row *ferryi_fabric_find(const char *name)
{
	if (!strcmp(name, "shm"))
		name = "local";
	for (size_t i = 0; i < NROWS; i++)
		if (!strcmp(rows[i].name, name))
			return &rows[i];
	return NULL;
}

const struct ferryi_fabric_row *ferryi_fabric_at(unsigned index)
{
	return index < NROWS ? &rows[index] : NULL;
}

int ferryi_fabric_usable(const struct ferryi_fabric_row *row, char *why, size_t why_len)
{
	if (why_len)
		why[0] = '\0';
	return row->ops->usable(why, why_len);
}

/* ---- helpers for rows ---- */

uint64_t ferryi_random_key(void)
{
	uint64_t key = 0;

	while (key == 0 || key == UINT64_MAX) {
		/* Eight bytes never come short once the pool is initialised; EINTR and early boot just
		 * repeat. */
		if (getrandom(&key, sizeof(key), 0) != (ssize_t)sizeof(key))
			key = 0;
	}
	return key;
}

int ferryi_addr_split(const char *addr, char *host, size_t host_len, char *port, size_t port_len)
{
	const char *colon = strrchr(addr, ':');
	const char *start = addr;
	size_t len;

	if (!colon || !colon[1])
		return -EINVAL;
	len = (size_t)(colon - addr);
	if (len >= 2 && addr[0] == '[' && colon[-1] == ']') {
		start++;
		len -= 2;
	}
	if (len >= host_len || strlen(colon + 1) >= port_len)
		return -EINVAL;
	memcpy(host, start, len);
	host[len] = '\0';
	strcpy(port, colon + 1);
	return 0;
}

/* ---- peers ---- */

/* "row:rest" to rest; an empty host (":PORT...") becomes the host of the control connection. */
static int peer_take_addr(struct ferryi_peer *peer, const struct ferryi_peer_attr *attr)
{
	size_t name_len = strlen(attr->row->name);
	const char *rest, *host = "", *before = "", *after = "";
	int len;

	if (!attr->addr || strncmp(attr->addr, attr->row->name, name_len) || attr->addr[name_len] != ':') {
		ferryi_error("fabric %s: \"%s\" is not an address of this row", attr->row->name,
			     attr->addr ? attr->addr : "");
		return -EINVAL;
	}
	rest = attr->addr + name_len + 1;
	if (rest[0] == ':') {
		host = attr->control_host ? attr->control_host : "";
		if (!host[0]) {
			ferryi_error("fabric %s: address \"%s\" names no host and no control host is known",
				     attr->row->name, attr->addr);
			return -EINVAL;
		}
		if (strchr(host, ':') && host[0] != '[') {
			before = "[";
			after = "]";
		}
	}
	len = snprintf(peer->addr, sizeof(peer->addr), "%s%s%s%s", before, host, after, rest);
	if (len < 0 || (size_t)len >= sizeof(peer->addr))
		return -EINVAL;
	return 0;
}

int ferryi_peer_open(const struct ferryi_peer_attr *attr, uint64_t deadline_ns, struct ferryi_peer **out)
{
	struct ferryi_peer *peer;
	int rc;

	if (!attr || !attr->row || !out)
		return -EINVAL;
	peer = calloc(1, attr->row->ops->peer_size);
	if (!peer)
		return -ENOMEM;
	peer->row = attr->row;
	memcpy(peer->token, attr->token, sizeof(peer->token));
	snprintf(peer->label, sizeof(peer->label), "%s", attr->label ? attr->label : "peer");
	ferryi_mutex_init(&peer->lock, FERRYI_RANK_PEER);
	rc = peer_take_addr(peer, attr);
	if (rc)
		goto err_free;
	peer->fail_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (peer->fail_fd < 0) {
		rc = -errno;
		goto err_free;
	}
	rc = peer->row->ops->peer_open(peer, deadline_ns);
	if (rc)
		goto err_fd;
	*out = peer;
	return 0;

err_fd:
	close(peer->fail_fd);
err_free:
	ferryi_mutex_fini(&peer->lock);
	explicit_bzero(peer->token, sizeof(peer->token));
	free(peer);
	return rc;
}

void ferryi_peer_close(struct ferryi_peer **peerp)
{
	struct ferryi_peer *peer = *peerp;

	if (!peer)
		return;
	*peerp = NULL;
	assert(atomic_load(&peer->nchannels) == 0);
	peer->row->ops->peer_close(peer);
	close(peer->fail_fd);
	ferryi_mutex_fini(&peer->lock);
	explicit_bzero(peer->token, sizeof(peer->token));
	free(peer);
}

int ferryi_peer_import(struct ferryi_peer *peer, const struct ferryi_remote *remote, uint64_t deadline_ns)
{
	if (ferryi_peer_is_failed(peer))
		return -ENOTCONN;
	if (!peer->row->ops->peer_import)
		return 0;
	return peer->row->ops->peer_import(peer, remote, deadline_ns);
}

void ferryi_peer_forget(struct ferryi_peer *peer, const struct ferryi_remote *remote)
{
	if (peer->row->ops->peer_forget)
		peer->row->ops->peer_forget(peer, remote);
}

int ferryi_peer_memfd(struct ferryi_peer *peer, const struct ferryi_remote *remote)
{
	return peer->row->ops->peer_memfd ? peer->row->ops->peer_memfd(peer, remote) : -ENOTSUP;
}

int ferryi_peer_event_fd(struct ferryi_peer *peer)
{
	return peer->row->ops->peer_event_fd ? peer->row->ops->peer_event_fd(peer) : -ENOTSUP;
}

int ferryi_peer_events(struct ferryi_peer *peer)
{
	int rc;

	if (ferryi_peer_is_failed(peer))
		return -ENOTCONN;
	rc = peer->row->ops->peer_events ? peer->row->ops->peer_events(peer) : 0;
	if (rc == -ENOTCONN)
		ferryi_peer_fail(peer);
	return rc;
}

void ferryi_peer_fail(struct ferryi_peer *peer)
{
	uint64_t one = 1;

	if (atomic_exchange(&peer->failed, true))
		return;
	/* Wakes the owners that sleep on a channel; the counter cannot overflow, so this cannot fail. */
	if (write(peer->fail_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
		ferryi_debug("%s: cannot signal failure", peer->label);
}

bool ferryi_peer_is_failed(const struct ferryi_peer *peer)
{
	return atomic_load_explicit(&peer->failed, memory_order_acquire);
}
