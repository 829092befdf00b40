/*
 * Local row, client: one connection to the server, over which regions are
 * imported, and the table of their descriptors, shared by all channels.
 * Imports come from any thread, one at a time (base.lock); lookups come from
 * the channels' owners (table_lock, never held across a system call).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"
#include "local.h"
#include "log.h"

#define MIN_SLOTS 64u

static struct ferryi_local_peer *to_local(struct ferryi_peer *peer)
{
	return (struct ferryi_local_peer *)peer;
}

/* ---- the conversation ---- */

static int timeout_set(int sock, int which, uint64_t deadline_ns)
{
	int ms = ferryi_remaining_ms(deadline_ns);
	/* 0 would mean for ever */
	struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms > 0 ? (ms % 1000) * 1000 : 1};

	return setsockopt(sock, SOL_SOCKET, which, &tv, sizeof(tv)) ? -errno : 0;
}

static int connect_to(const char *name, uint64_t deadline_ns, int *out)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	size_t len = strlen(name);
	int err;

	if (name[0] != '@' || len < 2 || len > sizeof(sun.sun_path))
		return -EINVAL;
	memcpy(sun.sun_path + 1, name + 1, len - 1);

	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (sock < 0)
		return -errno;
	/* a full backlog makes connect wait: bound it */
	err = timeout_set(sock, SO_SNDTIMEO, deadline_ns);
	if (err)
		goto err_close;
	while (connect(sock, (struct sockaddr *)&sun,
		       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len))) {
		if (errno == EINTR && ferryi_now_ns() < deadline_ns)
			continue;
		err = errno == EAGAIN || errno == EINTR ? -ETIMEDOUT : -errno;
		goto err_close;
	}
	*out = sock;
	return 0;

err_close:
	close(sock);
	return err;
}

static int send_request(struct ferryi_local_peer *peer, const struct ferryi_local_request *request,
			uint64_t deadline_ns)
{
	int err = timeout_set(peer->sock, SO_SNDTIMEO, deadline_ns);

	if (err)
		return err;
	while (send(peer->sock, request, sizeof(*request), MSG_NOSIGNAL) < 0) {
		if (errno == EINTR && ferryi_now_ns() < deadline_ns)
			continue;
		if (errno == EAGAIN || errno == EINTR)
			return -ETIMEDOUT;
		return errno == EPIPE || errno == ECONNRESET ? -ENOTCONN : -errno;
	}
	return 0;
}

/* One packet, and the descriptor it carries or -1. -EMFILE when there was one but this process may open no
 * more. */
static int recv_reply(struct ferryi_local_peer *peer, struct ferryi_local_reply *reply, int *fd,
		      uint64_t deadline_ns)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {.iov_base = reply, .iov_len = sizeof(*reply)};
	struct pollfd pfd = {.fd = peer->sock, .events = POLLIN};
	ssize_t n;

	*fd = -1;
	for (;;) {
		struct msghdr msg = {
			.msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = &control,
			.msg_controllen = sizeof(control),
		};
		int ready = poll(&pfd, 1, ferryi_remaining_ms(deadline_ns));

		if (ready == 0)
			return -ETIMEDOUT;
		if (ready < 0 && errno != EINTR)
			return -errno;
		n = recvmsg(peer->sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
			if (ferryi_now_ns() >= deadline_ns)
				return -ETIMEDOUT;
			continue;
		}
		if (n == 0 || (n < 0 && errno == ECONNRESET))
			return -ENOTCONN;
		if (n < 0)
			return -errno;

		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

		if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
		    c->cmsg_len == CMSG_LEN(sizeof(int)))
			memcpy(fd, CMSG_DATA(c), sizeof(*fd));
		if (n != (ssize_t)sizeof(*reply) || (msg.msg_flags & MSG_TRUNC) ||
		    reply->magic != FERRYI_LOCAL_MAGIC || reply->version != FERRYI_LOCAL_VERSION) {
			if (*fd >= 0)
				close(*fd);
			*fd = -1;
			return -EPROTO;
		}
		return *fd < 0 && (msg.msg_flags & MSG_CTRUNC) ? -EMFILE : 0;
	}
}

/*
 * Asks and waits for the answer. An answer to an earlier question, whose asker
 * ran out of time, is dropped.
 * ASSUMPTION: caller holds base.lock, or nobody else has the peer yet.
 */
static int converse(struct ferryi_local_peer *peer, const struct ferryi_local_request *request,
		    struct ferryi_local_reply *reply, int *fd, uint64_t deadline_ns)
{
	int err = send_request(peer, request, deadline_ns);

	while (!err) {
		err = recv_reply(peer, reply, fd, deadline_ns);
		if ((err && err != -EMFILE) || (reply->kind == request->kind && reply->key == request->key))
			break;
		if (*fd >= 0)
			close(*fd);
		*fd = -1;
		err = 0;
	}
	return err;
}

static int epoll_on(int fd, uint32_t events)
{
	struct epoll_event event = {.events = events};
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC);

	if (epoll_fd < 0)
		return -errno;
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) {
		int err = -errno;

		close(epoll_fd);
		return err;
	}
	return epoll_fd;
}

static int watch_end(struct ferryi_local_peer *peer)
{
	struct epoll_event event = {.events = EPOLLIN};
	int err;

	peer->hangup_fd = epoll_on(peer->sock, EPOLLRDHUP);
	if (peer->hangup_fd < 0)
		return peer->hangup_fd;
	peer->wait_fd = epoll_on(peer->base.fail_fd, EPOLLIN);
	if (peer->wait_fd < 0) {
		err = peer->wait_fd;
		goto err_hangup;
	}
	if (epoll_ctl(peer->wait_fd, EPOLL_CTL_ADD, peer->hangup_fd, &event)) {
		err = -errno;
		goto err_wait;
	}
	return 0;

err_wait:
	close(peer->wait_fd);
err_hangup:
	close(peer->hangup_fd);
	return err;
}

int ferryi_local_peer_open(struct ferryi_peer *base, uint64_t deadline_ns)
{
	struct ferryi_local_peer *peer = to_local(base);
	struct ferryi_local_request hello = {
		.magic = FERRYI_LOCAL_MAGIC,
		.version = FERRYI_LOCAL_VERSION,
		.kind = FERRYI_LOCAL_HELLO,
	};
	struct ferryi_local_reply reply;
	int fd;
	int err = connect_to(base->addr, deadline_ns, &peer->sock);

	if (err) {
		ferryi_warn("peer %s: cannot connect to %s: %s%s", base->label, base->addr,
			    ferryi_strerror(err),
			    err == -ECONNREFUSED ? " (server gone, or in another network name space)" : "");
		return err;
	}
	memcpy(hello.token, base->token, sizeof(hello.token));
	err = converse(peer, &hello, &reply, &fd, deadline_ns);
	explicit_bzero(&hello, sizeof(hello));
	if (!err) {
		if (fd >= 0)
			close(fd);
		err = reply.status;
	}
	if (err) {
		ferryi_warn("peer %s: hello to %s failed: %s", base->label, base->addr, ferryi_strerror(err));
		if (err == -ENOTCONN || err > 0)
			err = -ECONNREFUSED;
		goto err_sock;
	}

	err = watch_end(peer);
	if (err)
		goto err_sock;
	peer->table = calloc(MIN_SLOTS, sizeof(*peer->table));
	if (!peer->table) {
		err = -ENOMEM;
		goto err_watch;
	}
	peer->nslots = MIN_SLOTS;
	ferryi_mutex_init(&peer->table_lock, FERRYI_RANK_LEAF);
	/* never the generation of a zeroed cache entry */
	atomic_init(&peer->generation, 1);
	return 0;

err_watch:
	close(peer->wait_fd);
	close(peer->hangup_fd);
err_sock:
	close(peer->sock);
	return err;
}

void ferryi_local_peer_close(struct ferryi_peer *base)
{
	struct ferryi_local_peer *peer = to_local(base);

	for (size_t i = 0; i < peer->nslots; i++) {
		if (peer->table[i].key)
			close(peer->table[i].fd);
	}
	free(peer->table);
	ferryi_mutex_fini(&peer->table_lock);
	close(peer->wait_fd);
	close(peer->hangup_fd);
	close(peer->sock);
}

/* ---- the table ---- */

/* The key's slot, or the free one where it belongs. ASSUMPTION: one slot at least is free. */
static size_t slot_of(const struct ferryi_local_import *table, size_t nslots, uint64_t key)
{
	size_t i = (size_t)((key * 0x9e3779b97f4a7c15ULL) >> 32) & (nslots - 1);

	while (table[i].key && table[i].key != key)
		i = (i + 1) & (nslots - 1);
	return i;
}

int ferryi_local_peer_find(struct ferryi_local_peer *peer, uint64_t key)
{
	if (key == 0)
		return -1;
	ferryi_mutex_lock(&peer->table_lock);
	size_t i = slot_of(peer->table, peer->nslots, key);
	int fd = peer->table[i].key ? peer->table[i].fd : -1;

	ferryi_mutex_unlock(&peer->table_lock);
	return fd;
}

int ferryi_local_peer_memfd(struct ferryi_peer *base, const struct ferryi_remote *remote)
{
	int fd = ferryi_local_peer_find(to_local(base), remote->key);

	return fd < 0 ? -ENOENT : fd;
}

/*
 * Half full at most, so that probes stay short. Allocated outside the leaf
 * lock: only importers grow the table, and they hold base.lock.
 */
static int table_reserve(struct ferryi_local_peer *peer)
{
	ferryi_mutex_lock(&peer->table_lock);
	size_t nslots = peer->nslots;
	bool roomy = (peer->nused + 1) * 2 <= nslots;

	ferryi_mutex_unlock(&peer->table_lock);
	if (roomy)
		return 0;

	struct ferryi_local_import *bigger = calloc(nslots * 2, sizeof(*bigger));

	if (!bigger)
		return -ENOMEM;
	ferryi_mutex_lock(&peer->table_lock);
	struct ferryi_local_import *old = peer->table;

	for (size_t i = 0; i < nslots; i++) {
		if (old[i].key)
			bigger[slot_of(bigger, nslots * 2, old[i].key)] = old[i];
	}
	peer->table = bigger;
	peer->nslots = nslots * 2;
	ferryi_mutex_unlock(&peer->table_lock);
	free(old);
	return 0;
}

static int check_import(const struct ferryi_local_peer *peer, const struct ferryi_remote *remote, int fd)
{
	struct rlimit limit;
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return -EPROTO;
	/* a write beyond this limit would raise SIGXFSZ in the application */
	if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
	    limit.rlim_cur < remote->len_bytes) {
		ferryi_error("peer %s: the file size limit of %llu bytes is below a region's size: raise it "
			     "(ulimit -f unlimited)",
			     peer->base.label, (unsigned long long)limit.rlim_cur);
		return -EFBIG;
	}
	/* shorter: revoked in the meantime */
	if (!S_ISREG(st.st_mode) || st.st_size < 0 || (uint64_t)st.st_size < remote->len_bytes)
		return -EACCES;
	return 0;
}

static int import_locked(struct ferryi_local_peer *peer, const struct ferryi_remote *remote,
			 uint64_t deadline_ns)
{
	struct ferryi_local_request request = {
		.magic = FERRYI_LOCAL_MAGIC,
		.version = FERRYI_LOCAL_VERSION,
		.kind = FERRYI_LOCAL_IMPORT,
		.key = remote->key,
	};
	struct ferryi_local_reply reply;
	int fd = -1;
	int err;

	ferryi_assert_held(&peer->base.lock);
	if (ferryi_local_peer_find(peer, remote->key) >= 0)
		return 0;
	err = table_reserve(peer);
	if (err)
		return err;
	err = converse(peer, &request, &reply, &fd, deadline_ns);
	if (err == -EMFILE)
		ferryi_error(
			"peer %s: no descriptor left for a region: raise the open files limit (ulimit -n)",
			peer->base.label);
	if (err)
		return err;
	err = reply.status > 0 ? -EPROTO : reply.status;
	if (!err)
		err = check_import(peer, remote, fd);
	if (err) {
		if (fd >= 0)
			close(fd);
		return err;
	}

	ferryi_mutex_lock(&peer->table_lock);
	peer->table[slot_of(peer->table, peer->nslots, remote->key)] =
		(struct ferryi_local_import){.key = remote->key, .fd = fd};
	peer->nused++;
	ferryi_mutex_unlock(&peer->table_lock);
	return 0;
}

int ferryi_local_peer_import(struct ferryi_peer *base, const struct ferryi_remote *remote,
			     uint64_t deadline_ns)
{
	struct ferryi_local_peer *peer = to_local(base);
	int err;

	if (remote->key == 0)
		return -EINVAL;
	ferryi_mutex_lock(&base->lock);
	err = import_locked(peer, remote, deadline_ns);
	ferryi_mutex_unlock(&base->lock);
	if (err)
		ferryi_info("peer %s: import of a region of %llu bytes failed: %s", base->label,
			    (unsigned long long)remote->len_bytes, ferryi_strerror(err));
	return err;
}

/* Takes the slot out and moves up what had probed past it. */
static void table_remove_locked(struct ferryi_local_peer *peer, size_t hole)
{
	peer->table[hole].key = 0;
	peer->nused--;
	for (size_t i = (hole + 1) & (peer->nslots - 1); peer->table[i].key;
	     i = (i + 1) & (peer->nslots - 1)) {
		struct ferryi_local_import entry = peer->table[i];

		peer->table[i].key = 0;
		peer->table[slot_of(peer->table, peer->nslots, entry.key)] = entry;
	}
}

void ferryi_local_peer_forget(struct ferryi_peer *base, const struct ferryi_remote *remote)
{
	struct ferryi_local_peer *peer = to_local(base);
	int fd = -1;

	if (remote->key == 0)
		return;
	ferryi_mutex_lock(&peer->table_lock);
	size_t i = slot_of(peer->table, peer->nslots, remote->key);

	if (peer->table[i].key) {
		fd = peer->table[i].fd;
		table_remove_locked(peer, i);
	}
	/* before the descriptor's number can come to mean something else */
	atomic_fetch_add_explicit(&peer->generation, 1, memory_order_release);
	ferryi_mutex_unlock(&peer->table_lock);
	if (fd >= 0)
		close(fd);
}

/* ---- news ---- */

int ferryi_local_peer_event_fd(struct ferryi_peer *peer)
{
	return to_local(peer)->hangup_fd;
}

/*
 * Imported memfds outlive the server, and their data with them. The lease does
 * not: nobody else would ever see another write, so a hang-up is the end.
 */
int ferryi_local_peer_events(struct ferryi_peer *peer)
{
	struct epoll_event event;

	return epoll_wait(to_local(peer)->hangup_fd, &event, 1, 0) > 0 ? -ENOTCONN : 0;
}
