/*
 * RDMA devices as libibverbs and sysfs tell of them, and the choice of a row
 * for a server. Start-up and `ferry doctor`; any thread.
 */
#include <errno.h>
#include <ifaddrs.h>
#include <infiniband/verbs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fabric.h"
#include "fabric_ops.h"

#define MAX_GIDS    256
#define MAX_DEVICES 64

/* First line of a sysfs file, without its newline; "" when there is none. */
static void read_line(const char *path, char *buf, size_t buf_len)
{
	FILE *file = fopen(path, "re");

	buf[0] = '\0';
	if (!file)
		return;
	if (!fgets(buf, (int)buf_len, file))
		buf[0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	fclose(file);
}

static const char *state_name(enum ibv_port_state state)
{
	switch (state) {
	case IBV_PORT_DOWN:
		return "down";
	case IBV_PORT_INIT:
		return "init";
	case IBV_PORT_ARMED:
		return "armed";
	case IBV_PORT_ACTIVE:
		return "active";
	default:
		return "unknown";
	}
}

static unsigned mtu_bytes(enum ibv_mtu mtu)
{
	return mtu >= IBV_MTU_256 && mtu <= IBV_MTU_4096 ? 128u << mtu : 0;
}

/* The first GID that carries an address: RoCE v2's IPv4 ones come after link-local ones, and are what people
 * know. */
static void find_gid(struct ibv_context *context, struct ferryi_device *device, int n)
{
	static const uint8_t v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	static const union ibv_gid none;

	for (int i = 0; i < n && i < MAX_GIDS; i++) {
		union ibv_gid gid;
		bool is_v4;

		if (ibv_query_gid(context, (uint8_t)device->port, i, &gid) ||
		    !memcmp(&gid, &none, sizeof(gid)))
			continue;
		is_v4 = !memcmp(gid.raw, v4_prefix, sizeof(v4_prefix));
		if (device->gid[0] && !is_v4)
			continue;
		inet_ntop(AF_INET6, gid.raw, device->gid, sizeof(device->gid));
		if (is_v4)
			break;
	}
}

static void find_netdev(struct ferryi_device *device, int n)
{
	for (int i = 0; i < n && i < MAX_GIDS && !device->netdev[0]; i++) {
		char path[256];

		snprintf(path, sizeof(path), "/sys/class/infiniband/%s/ports/%u/gid_attrs/ndevs/%d",
			 device->name, device->port, i);
		read_line(path, device->netdev, sizeof(device->netdev));
	}
}

static int find_numa_node(const char *name)
{
	char path[256], text[16];

	snprintf(path, sizeof(path), "/sys/class/infiniband/%s/device/numa_node", name);
	read_line(path, text, sizeof(text));
	return text[0] ? atoi(text) : -1;
}

/* One entry a port; returns how many were filled. */
static unsigned fill_ports(struct ibv_device *ibv_device, struct ferryi_device *out, unsigned max)
{
	struct ibv_context *context = ibv_open_device(ibv_device);
	struct ibv_device_attr_ex attr;
	unsigned n = 0;

	if (!context)
		return 0;
	if (ibv_query_device_ex(context, NULL, &attr))
		goto out;
	for (unsigned port = 1; port <= attr.orig_attr.phys_port_cnt && n < max; port++) {
		struct ferryi_device *device = &out[n];
		struct ibv_port_attr port_attr;

		if (ibv_query_port(context, (uint8_t)port, &port_attr))
			continue;
		memset(device, 0, sizeof(*device));
		snprintf(device->name, sizeof(device->name), "%s", ibv_get_device_name(ibv_device));
		device->port = port;
		snprintf(device->state, sizeof(device->state), "%s", state_name(port_attr.state));
		snprintf(device->link_layer, sizeof(device->link_layer), "%s",
			 port_attr.link_layer == IBV_LINK_LAYER_ETHERNET ? "Ethernet" : "InfiniBand");
		device->active_mtu = mtu_bytes(port_attr.active_mtu);
		device->odp = attr.odp_caps.general_caps & IBV_ODP_SUPPORT;
		device->numa_node = find_numa_node(device->name);
		find_gid(context, device, port_attr.gid_tbl_len);
		find_netdev(device, port_attr.gid_tbl_len);
		n++;
	}
out:
	ibv_close_device(context);
	return n;
}

int ferryi_device_list(struct ferryi_device *out, unsigned max)
{
	struct ibv_device **list;
	unsigned n = 0;
	int count = 0;

	errno = 0;
	list = ibv_get_device_list(&count);
	if (!list)
		return errno == ENOSYS || errno == ENOENT || !errno ? -ENOSYS : -errno;
	for (int i = 0; i < count && n < max; i++)
		n += fill_ports(list[i], out + n, max - n);
	ibv_free_device_list(list);
	return (int)n;
}

/* ---- which way does a host lie? ---- */

static bool same_address(const struct sockaddr *a, const struct sockaddr *b)
{
	if (!a || a->sa_family != b->sa_family)
		return false;
	if (a->sa_family == AF_INET)
		return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
		       ((const struct sockaddr_in *)b)->sin_addr.s_addr;
	return a->sa_family == AF_INET6 && !memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
						   &((const struct sockaddr_in6 *)b)->sin6_addr, 16);
}

static bool interface_of(const struct sockaddr *addr, char *name, size_t name_len)
{
	struct ifaddrs *all, *ifa;
	bool found = false;

	if (getifaddrs(&all))
		return false;
	for (ifa = all; ifa && !found; ifa = ifa->ifa_next) {
		if (same_address(ifa->ifa_addr, addr)) {
			snprintf(name, name_len, "%s", ifa->ifa_name);
			found = true;
		}
	}
	freeifaddrs(all);
	return found;
}

/* The interface that packets to `host` would leave by: a connected UDP socket sends nothing but has a source
 * address. */
static bool route_interface(const char *host, char *name, size_t name_len)
{
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *all = NULL;
	bool found = false;

	if (getaddrinfo(host, "9", &hints, &all))
		return false;
	for (struct addrinfo *ai = all; ai && !found; ai = ai->ai_next) {
		struct sockaddr_storage local = {0};
		socklen_t len = sizeof(local);
		int fd = socket(ai->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

		if (fd < 0)
			continue;
		/* To an address of this very host the kernel answers with that address, whose interface is
		 * the one meant. */
		if (!connect(fd, ai->ai_addr, ai->ai_addrlen) &&
		    !getsockname(fd, (struct sockaddr *)&local, &len))
			found = interface_of((struct sockaddr *)&local, name, name_len);
		close(fd);
	}
	freeaddrinfo(all);
	return found;
}

static bool verbs_reaches(const char *host)
{
	struct ferryi_device *devices;
	char netdev[IF_NAMESIZE];
	bool found = false;
	int n;

	if (!route_interface(host, netdev, sizeof(netdev)))
		return false;
	devices = calloc(MAX_DEVICES, sizeof(*devices));
	if (!devices)
		return false;
	n = ferryi_device_list(devices, MAX_DEVICES);
	for (int i = 0; i < n && !found; i++)
		found = !strcmp(devices[i].state, "active") && !strcmp(devices[i].netdev, netdev);
	free(devices);
	return found;
}

static bool is_offered(const char *offered, const char *name)
{
	size_t len = strlen(name);

	while (*offered) {
		size_t item = strcspn(offered, ",");

		if (item == len && !strncmp(offered, name, len))
			return true;
		offered += item + (offered[item] == ',');
	}
	return false;
}

const struct ferryi_fabric_row *ferryi_fabric_auto(const char *host, bool same_host, const char *offered)
{
	const struct ferryi_fabric_row *row;
	char why[256];

	for (unsigned i = 0; (row = ferryi_fabric_at(i)); i++) {
		if (row->flags & FERRYI_FABRIC_TEST_ONLY)
			continue;
		if (!is_offered(offered, row->name) &&
		    !((row->flags & FERRYI_FABRIC_SAME_HOST) && is_offered(offered, "shm")))
			continue;
		if ((row->flags & FERRYI_FABRIC_SAME_HOST) && !same_host)
			continue;
		if (row->ops == &ferryi_ops_verbs && !verbs_reaches(host))
			continue;
		if (!ferryi_fabric_usable(row, why, sizeof(why)))
			return row;
	}
	return NULL;
}
