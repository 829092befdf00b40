/* Transports that this machine can use, and its RDMA devices. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "doctor.h"
#include "fabric.h"

#define MAX_DEVICES 32

static void check_devices(struct ferryi_report *report)
{
	struct ferryi_device dev[MAX_DEVICES];
	int n = ferryi_device_list(dev, MAX_DEVICES);

	if (n == -ENOSYS || n == 0) {
		ferryi_doctor_add(report, FERRYI_DOCTOR_NOTE, "rdma", NULL,
				  "no RDMA device%s: tcp and local do the work (a laptop can try soft-RoCE: "
				  "deploy/softroce/up.sh)",
				  n == 0 ? "" : ", no verbs in this kernel");
		return;
	}
	if (n < 0) {
		ferryi_doctor_add(report, FERRYI_DOCTOR_WARN, "rdma",
				  "load ib_uverbs, and let the user open /dev/infiniband/uverbs*",
				  "RDMA devices cannot be listed: %s", strerror(-n));
		return;
	}
	for (int i = 0; i < n && i < MAX_DEVICES; i++) {
		char name[40];
		bool active = strcmp(dev[i].state, "active") == 0;

		snprintf(name, sizeof(name), "rdma.%.20s.%u", dev[i].name, dev[i].port);
		report->rdma_device |= active;
		ferryi_doctor_add(report, active ? FERRYI_DOCTOR_OK : FERRYI_DOCTOR_WARN, name,
				  active ? NULL : "bring the link up (ip link set DEV up; rdma link show)",
				  "%s, %s, netdev %s, GID %s, MTU %u, %s, NUMA node %d", dev[i].state,
				  dev[i].link_layer, dev[i].netdev[0] != '\0' ? dev[i].netdev : "-",
				  dev[i].gid[0] != '\0' ? dev[i].gid : "-", dev[i].active_mtu,
				  dev[i].odp ? "ODP" : "no ODP", dev[i].numa_node);
		if (active && dev[i].gid[0] == '\0')
			ferryi_doctor_add(report, FERRYI_DOCTOR_WARN, name, "give the netdev an IP address",
					  "active, but without a usable GID");
		if (active && dev[i].active_mtu > 0 && dev[i].active_mtu < 4096)
			ferryi_doctor_add(
				report, FERRYI_DOCTOR_NOTE, name, NULL,
				"a page takes %u packets; with jumbo frames (MTU 4200 or more) it takes one",
				(4096 + dev[i].active_mtu - 1) / dev[i].active_mtu);
	}
}

void ferryi_doctor_fabric(struct ferryi_report *report)
{
	const struct ferryi_fabric_row *row;
	unsigned usable = 0;

	check_devices(report);
	for (unsigned i = 0; (row = ferryi_fabric_at(i)) != NULL; i++) {
		char name[40], why[256] = "";

		if (row->flags & FERRYI_FABRIC_TEST_ONLY)
			continue;
		snprintf(name, sizeof(name), "fabric.%s", row->name);
		if (ferryi_fabric_usable(row, why, sizeof(why)) == 0) {
			usable++;
			ferryi_doctor_add(report, FERRYI_DOCTOR_OK, name, NULL, "%s", row->text);
		} else {
			/* Any other row will do, so the lack of one is no failure; with a device there it is
			 * a pity. */
			bool pity = strcmp(row->name, "verbs") == 0 && report->rdma_device;

			ferryi_doctor_add(
				report, pity ? FERRYI_DOCTOR_WARN : FERRYI_DOCTOR_NOTE, name,
				pity ? "install ibverbs-providers and libfabric1, and let the user open "
				       "/dev/infiniband/uverbs*"
				     : NULL,
				"not usable: %s", why);
		}
	}
	if (usable == 0)
		ferryi_doctor_add(report, FERRYI_DOCTOR_FAIL, "fabric",
				  "install libfabric1 (apt install libfabric1)", "no transport can be used");
}
