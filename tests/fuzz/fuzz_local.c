/*
 * Fuzz target: the Unix socket of the same-host fabric, which any process of
 * the host can connect to. The input is a script of packets, in records of
 *   byte 0      bits 0-2: what is made right: token, key, the rest of a valid
 *               request; bit 3: import, not hello; bit 4: the length is byte
 *               1's; bit 5: the key of another tenant; bit 6: connect anew
 *   byte 1      length of the packet (with bit 4), else where byte 3 goes
 *   byte 2      how many bytes of the record follow, to be put over the packet
 *   then        these bytes
 * Every packet has one answer or ends the connection, and a descriptor comes
 * only to a peer that knows a tenant's token and a key of that tenant.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "local.h"
#include "log.h"
#include "replay.h"

#define REGION_BYTES ((size_t)1 << 21)
#define WAIT_MS	     60000
#define RECORDS_MAX  12

enum {
	RIGHT_TOKEN = 1,
	RIGHT_KEY = 2,
	RIGHT_REST = 4,
	IMPORT = 8,
	ODD_LENGTH = 16,
	OTHER_KEY = 32,
	ANEW = 64
};

static const uint8_t token[FERRYI_TOKEN_LEN] = "the token of this one";
static const uint8_t other_token[FERRYI_TOKEN_LEN] = "the token of the other";
static struct ferryi_remote mine;
static struct ferryi_remote other;
static struct sockaddr_un address;
static socklen_t address_len;

static void lend(struct ferryi_listener *listener, const uint8_t *secret, unsigned access,
		 struct ferryi_remote *remote, char *addr, size_t addr_len)
{
	struct ferryi_memory memory = {.len_bytes = REGION_BYTES};
	struct ferryi_tenant *tenant = NULL;
	struct ferryi_region *region = NULL;

	FERRYT_MUST(ferryi_local_memfd("fuzz", REGION_BYTES, &memory.fd) == 0);
	memory.base = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory.fd, 0);
	FERRYT_MUST(memory.base != MAP_FAILED);
	FERRYT_MUST(ferryi_tenant_open(listener, secret, "fuzz", &tenant) == 0);
	FERRYT_MUST(ferryi_region_open(tenant, &memory, access, &region) == 0);
	ferryi_region_remote(region, remote);
	FERRYT_MUST(ferryi_tenant_addr(tenant, addr, addr_len) == 0);
}

static void start(void)
{
	const struct ferryi_listener_attr attr = {
		.row = ferryi_fabric_find("local"), .host = "", .label = "fuzz"};
	static struct ferryi_listener *listener;
	char addr[FERRYI_FABRIC_ADDR_LEN];
	const char *name;

	ferryi_log_set_level(FERRYI_LOG_ERROR);
	FERRYT_MUST(ferryi_listener_open(&attr, &listener) == 0);
	lend(listener, other_token, FERRYI_ACCESS_READ | FERRYI_ACCESS_WRITE, &other, addr, sizeof(addr));
	lend(listener, token, FERRYI_ACCESS_READ, &mine, addr, sizeof(addr));
	name = strchr(addr, '@');
	FERRYT_MUST(name);
	address.sun_family = AF_UNIX;
	memcpy(address.sun_path + 1, name + 1, strlen(name) - 1);
	address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
}

static int connect_anew(void)
{
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	FERRYT_MUST(sock >= 0);
	FERRYT_MUST(connect(sock, (const struct sockaddr *)&address, address_len) == 0);
	return sock;
}

/* The descriptor of a read-only region, and nothing more. */
static void check_descriptor(int fd, const struct ferryi_local_reply *reply)
{
	struct stat st;
	char byte = 1;

	FERRYT_MUST(fstat(fd, &st) == 0 && (size_t)st.st_size == REGION_BYTES);
	FERRYT_MUST(reply->len_bytes == REGION_BYTES);
	FERRYT_MUST((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY);
	FERRYT_MUST(pwrite(fd, &byte, 1, 0) < 0);
}

/* Waits for the answer; false: the server closed the connection. *fd is a descriptor that came with it, or
 * -1. */
static bool answer(int sock, struct ferryi_local_reply *reply, int *fd)
{
	union {
		char bytes[CMSG_SPACE(4 * sizeof(int))];
		struct cmsghdr align;
	} control = {.bytes = {0}};
	struct iovec iov = {.iov_base = reply, .iov_len = sizeof(*reply)};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct pollfd p = {.fd = sock, .events = POLLIN};
	struct cmsghdr *c;
	ssize_t n;

	*fd = -1;
	FERRYT_MUST(poll(&p, 1, WAIT_MS) == 1);
	n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	if (n <= 0)
		return false;
	FERRYT_MUST(n == (ssize_t)sizeof(*reply) && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)));
	FERRYT_MUST(reply->magic == FERRYI_LOCAL_MAGIC && reply->version == FERRYI_LOCAL_VERSION);
	FERRYT_MUST(reply->status <= 0);
	c = CMSG_FIRSTHDR(&msg);
	if (c) {
		FERRYT_MUST(c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)));
		memcpy(fd, CMSG_DATA(c), sizeof(*fd));
	}
	return true;
}

/* One packet and its answer; false: the connection is at its end. */
static bool exchange(int sock, const uint8_t *packet, size_t len, bool *greeted)
{
	struct ferryi_local_request request;
	struct ferryi_local_reply reply;
	bool whole = len == sizeof(request);
	bool knows_key;
	int fd;

	memset(&request, 0, sizeof(request));
	memcpy(&request, packet, len < sizeof(request) ? len : sizeof(request));
	if (send(sock, packet, len, MSG_NOSIGNAL) < 0)
		return false;
	if (!answer(sock, &reply, &fd))
		return false;

	/* What is not a request has no answer. */
	FERRYT_MUST(whole && request.magic == FERRYI_LOCAL_MAGIC);
	knows_key = *greeted && request.kind == FERRYI_LOCAL_IMPORT && request.key == mine.key;
	FERRYT_MUST(fd < 0 || (knows_key && reply.status == 0));
	if (reply.status == 0 && request.kind == FERRYI_LOCAL_HELLO) {
		FERRYT_MUST(memcmp(request.token, token, sizeof(token)) == 0);
		*greeted = true;
	} else if (reply.status == 0) {
		FERRYT_MUST(fd >= 0);
		check_descriptor(fd, &reply);
		close(fd);
	}
	return true;
}

/* Makes the packet of a record; returns its length. */
static size_t make_packet(uint8_t flags, uint8_t spot, const uint8_t *over, size_t n, uint8_t *packet,
			  size_t size)
{
	struct ferryi_local_request request = {0};
	size_t len = flags & ODD_LENGTH ? spot : sizeof(request);

	memset(packet, 0, size);
	if (flags & RIGHT_REST) {
		request.magic = FERRYI_LOCAL_MAGIC;
		request.version = FERRYI_LOCAL_VERSION;
		request.kind = flags & IMPORT ? FERRYI_LOCAL_IMPORT : FERRYI_LOCAL_HELLO;
	}
	if (flags & RIGHT_TOKEN)
		memcpy(request.token, token, sizeof(token));
	if (flags & RIGHT_KEY)
		request.key = mine.key;
	if (flags & OTHER_KEY)
		request.key = other.key;
	memcpy(packet, &request, sizeof(request));
	for (size_t i = 0; i < n; i++)
		packet[(spot + i) % sizeof(request)] = over[i];
	/* The other tenant's token is another's secret: no input may happen to name it. */
	if (memcmp(packet + offsetof(struct ferryi_local_request, token), other_token, sizeof(other_token)) ==
	    0)
		packet[offsetof(struct ferryi_local_request, token)] ^= 1;
	return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	bool greeted = false;
	int sock;

	if (!address_len)
		start();
	sock = connect_anew();
	for (unsigned records = 0; size >= 3 && records < RECORDS_MAX; records++) {
		uint8_t packet[256];
		uint8_t flags = data[0];
		size_t n = data[2] < size - 3 ? data[2] : size - 3;
		size_t len = make_packet(flags, data[1], data + 3, n, packet, sizeof(packet));

		data += 3 + n;
		size -= 3 + n;
		if (flags & ANEW) {
			close(sock);
			sock = connect_anew();
			greeted = false;
		}
		if (!exchange(sock, packet, len, &greeted))
			break;
	}
	close(sock);
	return 0;
}
