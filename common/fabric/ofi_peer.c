/*
 * The data plane of one server over libfabric. Beside the channels, a peer on
 * an FI_EP_MSG row keeps one connection that carries no data, the watch: its
 * end is how a process whose channels are all idle learns that the server is
 * gone. The server keeps watches apart from memory, so a revocation that has
 * to close data connections leaves them open.
 */
#include "ofi.h"

#include <errno.h>
#include <infiniband/verbs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "log.h"

/* Outstanding reads that the device behind `info` takes per queue pair; 0 when there is no such device. */
static unsigned device_reads_max(const struct fi_info *info)
{
	struct ibv_device **list;
	unsigned reads_max = 0;
	int n = 0;

	list = ibv_get_device_list(&n);
	if (!list)
		return 0;
	for (int i = 0; i < n; i++) {
		struct ibv_device_attr attr;
		struct ibv_context *device;

		if (strcmp(ibv_get_device_name(list[i]), info->domain_attr->name))
			continue;
		device = ibv_open_device(list[i]);
		if (device && !ibv_query_device(device, &attr) && attr.max_qp_init_rd_atom > 0)
			reads_max = (unsigned)attr.max_qp_init_rd_atom;
		if (device)
			ibv_close_device(device);
	}
	ibv_free_device_list(list);
	return reads_max;
}

/* "HOST:PORT" or, for rdm, "HOST:PORT/PROVIDER" and "#HEX/PROVIDER". */
static int resolve(struct ferryi_ofi_peer *peer)
{
	char where[FERRYI_FABRIC_ADDR_LEN], host[FERRYI_FABRIC_ADDR_LEN], port[16];
	const char *provider = NULL;
	char *slash;

	memcpy(where, peer->base.addr, sizeof(where));
	if (peer->kind->ep_type == FI_EP_RDM) {
		slash = strchr(where, '/');
		if (!slash || !slash[1])
			return -EINVAL;
		*slash = '\0';
		provider = slash + 1;
	}
	/* A raw address is put into the address vector when a channel is opened. */
	if (provider && where[0] == '#')
		return ferryi_ofi_info(peer->kind, provider, NULL, NULL, false, true, &peer->info);
	if (ferryi_addr_split(where, host, sizeof(host), port, sizeof(port))) {
		ferryi_error("%s: \"%s\" is not HOST:PORT", peer->base.label, where);
		return -EINVAL;
	}
	return ferryi_ofi_info(peer->kind, provider, host, port, false, true, &peer->info);
}

static int open_watch(struct ferryi_ofi_peer *peer, uint64_t deadline_ns)
{
	struct epoll_event event = {.events = EPOLLIN};
	int rc;

	rc = ferryi_ofi_link_open(peer, 16, &peer->watch);
	if (rc)
		return rc;
	rc = ferryi_ofi_link_connect(peer, &peer->watch, FERRYI_OFI_WATCH, deadline_ns);
	if (rc)
		goto err_link;
	peer->event_fd = epoll_create1(EPOLL_CLOEXEC);
	if (peer->event_fd < 0) {
		rc = -errno;
		goto err_link;
	}
	/* tcp notices the end of a connection only while its CQ makes progress, so that is watched too. */
	if ((peer->watch.cq_fd >= 0 && epoll_ctl(peer->event_fd, EPOLL_CTL_ADD, peer->watch.cq_fd, &event)) ||
	    (peer->watch.eq_fd >= 0 && epoll_ctl(peer->event_fd, EPOLL_CTL_ADD, peer->watch.eq_fd, &event))) {
		rc = -errno;
		goto err_fd;
	}
	(void)ferryi_ofi_link_trywait(peer, &peer->watch);
	return 0;

err_fd:
	close(peer->event_fd);
	peer->event_fd = -1;
err_link:
	ferryi_ofi_link_close(&peer->watch);
	return rc;
}

int ferryi_ofi_peer_open(struct ferryi_peer *base, uint64_t deadline_ns)
{
	struct ferryi_ofi_peer *peer = (struct ferryi_ofi_peer *)base;
	int rc;

	peer->kind = ferryi_ofi_kind_of(base->row);
	peer->event_fd = -1;
	rc = resolve(peer);
	if (rc)
		return rc;
	if (!peer->kind->target_cpu) {
		/* Nothing is ever received on a client's queue pair. */
		peer->info->rx_attr->size = 1;
		peer->reads_max = device_reads_max(peer->info);
	}
	peer->is_emulated = !strncmp(peer->info->fabric_attr->prov_name, "tcp", 3);
	rc = fi_fabric(peer->info->fabric_attr, &peer->fabric, NULL);
	if (rc) {
		rc = ferryi_ofi_log(base->label, "open fabric", rc);
		goto err_info;
	}
	if (peer->kind->ep_type == FI_EP_MSG) {
		rc = open_watch(peer, deadline_ns);
		if (rc)
			goto err_fabric;
	}
	return 0;

err_fabric:
	FERRYI_OFI_CLOSE(peer->fabric);
err_info:
	fi_freeinfo(peer->info);
	return rc;
}

void ferryi_ofi_peer_close(struct ferryi_peer *base)
{
	struct ferryi_ofi_peer *peer = (struct ferryi_ofi_peer *)base;

	if (peer->event_fd >= 0)
		close(peer->event_fd);
	if (peer->watch.ep)
		(void)fi_shutdown(peer->watch.ep, 0);
	ferryi_ofi_link_close(&peer->watch);
	if (!atomic_load(&peer->has_abandoned))
		FERRYI_OFI_CLOSE(peer->fabric);
	fi_freeinfo(peer->info);
}

int ferryi_ofi_peer_event_fd(struct ferryi_peer *base)
{
	struct ferryi_ofi_peer *peer = (struct ferryi_ofi_peer *)base;

	return peer->event_fd >= 0 ? peer->event_fd : -ENOTSUP;
}

int ferryi_ofi_peer_events(struct ferryi_peer *base)
{
	struct ferryi_ofi_peer *peer = (struct ferryi_ofi_peer *)base;
	struct fi_cq_msg_entry entry;
	int rc;

	if (!peer->watch.ep)
		return 0;
	/* Until poll(2) may sleep again: nothing is posted, so this ends at once. */
	for (int i = 0; i < 8; i++) {
		(void)fi_cq_read(peer->watch.cq, &entry, 1);
		rc = ferryi_ofi_link_events(&peer->watch);
		if (rc)
			return rc;
		if (ferryi_ofi_link_trywait(peer, &peer->watch))
			break;
	}
	return 0;
}

/* ---- the rows ---- */

static int usable_verbs(char *why, size_t why_len)
{
	return ferryi_ofi_usable(ferryi_ofi_kind_of(ferryi_fabric_find("verbs")), why, why_len);
}

static int usable_tcp(char *why, size_t why_len)
{
	return ferryi_ofi_usable(ferryi_ofi_kind_of(ferryi_fabric_find("tcp")), why, why_len);
}

static int usable_rdm(char *why, size_t why_len)
{
	return ferryi_ofi_usable(ferryi_ofi_kind_of(ferryi_fabric_find("rdm")), why, why_len);
}

#define OFI_OPS(usable_)                                                                                    \
	{                                                                                                   \
		.peer_size = sizeof(struct ferryi_ofi_peer),                                                \
		.channel_size = sizeof(struct ferryi_ofi_channel),                                          \
		.listener_size = sizeof(struct ferryi_ofi_listener),                                        \
		.tenant_size = sizeof(struct ferryi_ofi_tenant),                                            \
		.region_size = sizeof(struct ferryi_ofi_region), .usable = usable_,                         \
		.peer_open = ferryi_ofi_peer_open, .peer_close = ferryi_ofi_peer_close,                     \
		.peer_event_fd = ferryi_ofi_peer_event_fd, .peer_events = ferryi_ofi_peer_events,           \
		.channel_open = ferryi_ofi_channel_open, .channel_close = ferryi_ofi_channel_close,         \
		.channel_register = ferryi_ofi_channel_register,                                            \
		.channel_submit = ferryi_ofi_channel_submit, .channel_poll = ferryi_ofi_channel_poll,       \
		.channel_wait_fd = ferryi_ofi_channel_wait_fd, .channel_arm = ferryi_ofi_channel_arm,       \
		.channel_shutdown = ferryi_ofi_channel_shutdown, .listener_open = ferryi_ofi_listener_open, \
		.listener_close = ferryi_ofi_listener_close, .tenant_open = ferryi_ofi_tenant_open,         \
		.tenant_shutdown = ferryi_ofi_tenant_shutdown, .tenant_close = ferryi_ofi_tenant_close,     \
		.tenant_addr = ferryi_ofi_tenant_addr, .region_open = ferryi_ofi_region_open,               \
		.region_revoke = ferryi_ofi_region_revoke,                                                  \
	}

const struct ferryi_fabric_ops ferryi_ops_verbs = OFI_OPS(usable_verbs);
const struct ferryi_fabric_ops ferryi_ops_tcp = OFI_OPS(usable_tcp);
const struct ferryi_fabric_ops ferryi_ops_rdm = OFI_OPS(usable_rdm);
