/*
 * Does this row, on this machine, with these settings, keep what a lease
 * promises? A loop-back client writes to a read-only region and reads a revoked
 * one. Providers exist where either succeeds: verbs with libfabric's
 * registration cache on, shm always. Public functions only, so every row is
 * tested the same way. Start-up; blocks up to its deadline.
 */
#include <errno.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "arith.h"
#include "clock.h"
#include "fabric_ops.h"
#include "log.h"

#define MAX_DEVICES 16

struct self_test {
	struct ferryi_listener *listener;
	uint64_t deadline_ns;
	struct ferryi_memory memory;
	uint8_t *buffer; /* the client's side, one page */
	struct ferryi_tenant *tenant;
	struct ferryi_peer *peer;
	struct ferryi_region *region;
	struct ferryi_remote remote;
};

/* An address of this host by which the row reaches itself when it listens everywhere. */
static void loop_back_host(const struct ferryi_listener *listener, char *host, size_t host_len)
{
	struct ferryi_device devices[MAX_DEVICES];
	struct ifaddrs *all, *ifa;
	int n;

	snprintf(host, host_len, "%s", listener->host[0] ? listener->host : "127.0.0.1");
	if (listener->host[0] || listener->row->ops != &ferryi_ops_verbs)
		return;
	n = ferryi_device_list(devices, MAX_DEVICES);
	if (n <= 0 || getifaddrs(&all))
		return;
	for (ifa = all; ifa; ifa = ifa->ifa_next) {
		for (int i = 0; i < n; i++) {
			if (!ifa->ifa_addr || ifa->ifa_addr->sa_family != AF_INET ||
			    strcmp(devices[i].netdev, ifa->ifa_name) || strcmp(devices[i].state, "active"))
				continue;
			getnameinfo(ifa->ifa_addr, sizeof(struct sockaddr_in), host, (socklen_t)host_len,
				    NULL, 0, NI_NUMERICHOST);
			freeifaddrs(all);
			return;
		}
	}
	freeifaddrs(all);
}

/* One operation on a channel of its own: its status, or why there was no channel. */
static int try_op(struct self_test *test, enum ferryi_op_kind kind)
{
	struct ferryi_op op = {
		.kind = kind,
		.local = test->buffer,
		.len_bytes = FERRYI_PAGE_SIZE,
		.remote = test->remote,
		.deadline_ns = test->deadline_ns,
	};
	struct ferryi_op *posted = &op, *done = NULL;
	struct ferryi_channel *channel;
	int rc;

	rc = ferryi_channel_open(test->peer, 1, test->deadline_ns, &channel);
	if (rc)
		return rc;
	rc = ferryi_channel_register(channel, test->buffer, FERRYI_PAGE_SIZE);
	if (rc)
		goto out;
	for (;;) {
		rc = ferryi_channel_submit(channel, &posted, 1);
		if (rc)
			break;
		(void)ferryi_channel_poll(channel, &done, 1);
		if (ferryi_now_ns() >= test->deadline_ns) {
			rc = -ETIMEDOUT;
			goto out;
		}
	}
	if (rc < 0)
		goto out;
	while (!(rc = ferryi_channel_poll(channel, &done, 1)))
		ferryi_cpu_relax();
	rc = rc == 1 ? op.status : rc;
out:
	ferryi_channel_close(&channel);
	return rc;
}

static int open_region(struct self_test *test, unsigned access)
{
	int rc = ferryi_region_open(test->tenant, &test->memory, access, &test->region);

	if (rc)
		return rc;
	ferryi_region_remote(test->region, &test->remote);
	return ferryi_peer_import(test->peer, &test->remote, test->deadline_ns);
}

/* An operation that must fail: 0 when it did so for want of a right (or with its connection), else why not.
 */
static int expect_refusal(struct self_test *test, int status, const char *what)
{
	if (!status) {
		ferryi_error("%s: self-test: %s succeeded; this row does not keep leases apart here and is "
			     "not served "
			     "(is libfabric's FI_MR_CACHE_MAX_COUNT=0 in force?)",
			     test->listener->label, what);
		return -EACCES;
	}
	return status == -ETIMEDOUT ? -ETIMEDOUT : 0;
}

static int run(struct self_test *test)
{
	uint8_t *memory = test->memory.base;
	int rc;

	memset(memory, 0x5a, FERRYI_PAGE_SIZE);
	rc = open_region(test, FERRYI_ACCESS_READ);
	if (rc)
		return rc;
	/* That a right which was given works is half of the proof that one which was not does not. */
	memset(test->buffer, 0, FERRYI_PAGE_SIZE);
	rc = try_op(test, FERRYI_OP_READ);
	if (!rc && memcmp(test->buffer, memory, FERRYI_PAGE_SIZE))
		rc = -EIO;
	if (rc) {
		ferryi_error("%s: self-test: a plain read failed: %s", test->listener->label,
			     ferryi_strerror(rc));
		return rc;
	}
	memset(test->buffer, 0xa5, FERRYI_PAGE_SIZE);
	rc = expect_refusal(test, try_op(test, FERRYI_OP_WRITE), "a write to read-only memory");
	if (rc)
		return rc;
	for (size_t i = 0; i < FERRYI_PAGE_SIZE; i++)
		if (memory[i] != 0x5a)
			return expect_refusal(test, 0, "a refused write");
	ferryi_region_revoke(&test->region);
	rc = expect_refusal(test, try_op(test, FERRYI_OP_READ), "a read of revoked memory");
	ferryi_peer_forget(test->peer, &test->remote);
	return rc;
}

static int prepare(struct self_test *test)
{
	uint8_t token[FERRYI_TOKEN_LEN];
	char addr[FERRYI_FABRIC_ADDR_LEN], host[NI_MAXHOST];
	struct ferryi_peer_attr attr = {
		.row = test->listener->row, .control_host = host, .label = "self-test"};
	int rc;

	/* Sealed as the local row wants it; the others do not mind. */
	rc = ferryi_local_memfd("ferry-self-test", FERRYI_PAGE_SIZE, &test->memory.fd);
	if (rc)
		return rc;
	test->memory.len_bytes = FERRYI_PAGE_SIZE;
	test->memory.base =
		mmap(NULL, FERRYI_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, test->memory.fd, 0);
	test->buffer =
		mmap(NULL, FERRYI_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (test->memory.base == MAP_FAILED || test->buffer == MAP_FAILED)
		return -ENOMEM;
	if (getrandom(token, sizeof(token), 0) != (ssize_t)sizeof(token))
		return -EAGAIN;
	rc = ferryi_tenant_open(test->listener, token, "self-test", &test->tenant);
	if (rc)
		return rc;
	rc = ferryi_tenant_addr(test->tenant, addr, sizeof(addr));
	if (rc)
		return rc;
	loop_back_host(test->listener, host, sizeof(host));
	attr.addr = addr;
	memcpy(attr.token, token, sizeof(token));
	return ferryi_peer_open(&attr, test->deadline_ns, &test->peer);
}

int ferryi_listener_self_test(struct ferryi_listener *listener, uint64_t deadline_ns)
{
	struct self_test test = {
		.listener = listener,
		.deadline_ns = deadline_ns,
		.memory = {.base = MAP_FAILED, .fd = -1},
		.buffer = MAP_FAILED,
	};
	int rc = prepare(&test);

	if (!rc)
		rc = run(&test);
	ferryi_peer_close(&test.peer);
	ferryi_tenant_close(&test.tenant);
	if (test.memory.base != MAP_FAILED)
		munmap(test.memory.base, FERRYI_PAGE_SIZE);
	if (test.buffer != MAP_FAILED)
		munmap(test.buffer, FERRYI_PAGE_SIZE);
	if (test.memory.fd >= 0)
		close(test.memory.fd);
	return rc;
}
