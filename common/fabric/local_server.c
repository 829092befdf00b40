/*
 * Local row, server: a Unix socket in the abstract name space and one service
 * thread on it. Peers present their session's token and are then given the
 * memfds of that tenant's regions, by key. Revocation truncates the memfd,
 * which reaches every descriptor that was ever given out.
 * The service thread alone adds, frees and reads connections; it looks at
 * tenants and regions under base.lock, and so is quiet for a tenant once
 * tenant_shutdown has held that lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"
#include "local.h"
#include "log.h"

#define BACKLOG	      128
#define CONNS_MAX     4096 /* peers: one a client process and session */
#define STRANGERS_MAX 64   /* connections that have not said hello; the oldest makes room */
#define HELLO_MS      5000
#define BATCH	      16

struct ferryi_local_conn {
	/* owned by the service thread */
	struct ferryi_local_conn *next, **pprev; /* newest first */
	uint64_t hello_deadline_ns;
	int sock;
	bool closing;
	/* protected by listener->base.lock */
	struct ferryi_tenant *tenant; /* NULL: has not said hello, or its tenant is gone */
	bool greeted;
};

static struct ferryi_local_listener *to_local(struct ferryi_listener *listener)
{
	return (struct ferryi_local_listener *)listener;
}

/* ---- connections: service thread, base.lock held ---- */

static void conn_free_locked(struct ferryi_local_listener *listener, struct ferryi_local_conn *conn)
{
	if (conn->greeted) {
		listener->nconns--;
		ferryi_uncount(&listener->base.stats.g_connections, 1);
	} else {
		listener->nstrangers--;
	}
	*conn->pprev = conn->next;
	if (conn->next)
		conn->next->pprev = conn->pprev;
	close(conn->sock);
	free(conn);
}

static void drop_oldest_stranger_locked(struct ferryi_local_listener *listener)
{
	struct ferryi_local_conn *oldest = NULL;

	for (struct ferryi_local_conn *c = listener->conns; c; c = c->next) {
		if (!c->greeted && !c->closing)
			oldest = c;
	}
	if (!oldest)
		return;
	/* freed by the event that this makes: it may be later in the batch at hand */
	oldest->closing = true;
	oldest->hello_deadline_ns = 0;
	shutdown(oldest->sock, SHUT_RDWR);
}

/*
 * Out of descriptors, a connection cannot even be refused, and would wake the
 * thread for ever: the spare one is given up for that moment.
 */
static void refuse_one(struct ferryi_local_listener *listener)
{
	if (listener->spare_fd < 0)
		return;
	close(listener->spare_fd);
	int sock = accept4(listener->sock, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (sock >= 0)
		close(sock);
	listener->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	ferryi_warn("listener %s: out of descriptors, a connection was refused: raise the open files limit "
		    "(LimitNOFILE)",
		    listener->base.label);
}

static void conn_accept(struct ferryi_local_listener *listener)
{
	int sock = accept4(listener->sock, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (sock < 0) {
		if (errno == EMFILE || errno == ENFILE)
			refuse_one(listener);
		return;
	}

	struct ferryi_local_conn *conn = calloc(1, sizeof(*conn));
	struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = conn};

	if (!conn || listener->nconns >= CONNS_MAX ||
	    epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, sock, &event)) {
		free(conn);
		close(sock);
		return;
	}
	conn->sock = sock;
	conn->hello_deadline_ns = ferryi_deadline_ms(HELLO_MS);

	ferryi_mutex_lock(&listener->base.lock);
	if (listener->nstrangers >= STRANGERS_MAX)
		drop_oldest_stranger_locked(listener);
	conn->next = listener->conns;
	conn->pprev = &listener->conns;
	if (conn->next)
		conn->next->pprev = &conn->next;
	listener->conns = conn;
	listener->nstrangers++;
	ferryi_mutex_unlock(&listener->base.lock);
}

/* A peer that does not read its answers is cut off rather than waited for. */
static int reply_send(struct ferryi_local_conn *conn, const struct ferryi_local_reply *reply, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {.iov_base = (void *)reply, .iov_len = sizeof(*reply)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	return sendmsg(conn->sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(*reply) ? 0 : -EPIPE;
}

static int hello_locked(struct ferryi_local_listener *listener, struct ferryi_local_conn *conn,
			const struct ferryi_local_request *request)
{
	struct ferryi_tenant *tenant = ferryi_listener_match_locked(&listener->base, request->token);

	if (!tenant) {
		ferryi_count(&listener->base.stats.c_refused_total, 1);
		return -EACCES;
	}
	conn->tenant = tenant;
	conn->greeted = true;
	listener->nstrangers--;
	listener->nconns++;
	ferryi_count(&listener->base.stats.c_connections_total, 1);
	ferryi_count(&listener->base.stats.g_connections, 1);
	return 0;
}

/*
 * A descriptor of its own for the peer: flags such as O_APPEND belong to the
 * open file, and a read-only region must not be writable through it.
 */
static int reopen(const struct ferryi_region *region)
{
	char path[32];
	int mode = region->access & FERRYI_ACCESS_WRITE ? O_RDWR : O_RDONLY;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", region->memory.fd);
	int fd = open(path, mode | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* Keys are random 64-bit numbers and only this tenant's regions are looked at. */
static int import_locked(struct ferryi_local_conn *conn, struct ferryi_local_reply *reply, int *fd)
{
	for (struct ferryi_region *r = conn->tenant->regions; r; r = r->next) {
		if (r->remote.key != reply->key)
			continue;
		*fd = reopen(r);
		if (*fd < 0) {
			ferryi_error("listener %s: cannot open a region for a peer: %s", conn->tenant->label,
				     ferryi_strerror(*fd));
			return *fd;
		}
		reply->len_bytes = r->memory.len_bytes;
		return 0;
	}
	return -EACCES;
}

/* Serves one request; negative: the connection is to be closed. */
static int conn_serve_locked(struct ferryi_local_listener *listener, struct ferryi_local_conn *conn)
{
	/* one byte more than a request, so that a longer packet shows; descriptors sent to us are dropped by
	 * the kernel */
	struct {
		struct ferryi_local_request request;
		char beyond;
	} in;
	ssize_t n = recv(conn->sock, &in, sizeof(in), MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n != (ssize_t)sizeof(in.request) || in.request.magic != FERRYI_LOCAL_MAGIC)
		return -EPROTO;

	struct ferryi_local_reply reply = {
		.magic = FERRYI_LOCAL_MAGIC,
		.version = FERRYI_LOCAL_VERSION,
		.kind = in.request.kind,
		.key = in.request.key,
	};
	int fd = -1;
	bool fatal = false;
	int err;

	if (in.request.version != FERRYI_LOCAL_VERSION) {
		reply.status = -EPROTONOSUPPORT;
		fatal = true;
	} else if (in.request.kind == FERRYI_LOCAL_HELLO && !conn->greeted) {
		reply.status = hello_locked(listener, conn, &in.request);
		fatal = reply.status != 0;
	} else if (in.request.kind == FERRYI_LOCAL_IMPORT && conn->tenant) {
		reply.status = import_locked(conn, &reply, &fd);
	} else {
		return -EPROTO;
	}
	explicit_bzero(&in, sizeof(in));
	err = reply_send(conn, &reply, fd);
	if (fd >= 0)
		close(fd);
	return fatal ? -EACCES : err;
}

/* ---- the service thread ---- */

/* Closes strangers that let their time pass; returns how long until the next one's ends, -1 if there is none.
 */
static int sweep(struct ferryi_local_listener *listener)
{
	uint64_t now = ferryi_now_ns();
	uint64_t next = 0;

	ferryi_mutex_lock(&listener->base.lock);
	for (struct ferryi_local_conn *c = listener->conns, *after; c; c = after) {
		after = c->next;
		if (c->greeted)
			continue;
		if (c->hello_deadline_ns <= now)
			conn_free_locked(listener, c);
		else
			next = c->hello_deadline_ns; /* newest first: the last one seen is the earliest */
	}
	ferryi_mutex_unlock(&listener->base.lock);
	return next ? ferryi_remaining_ms(next) : -1;
}

static void *service_main(void *arg)
{
	struct ferryi_local_listener *listener = arg;
	struct epoll_event events[BATCH];

	pthread_setname_np(pthread_self(), "ferry-local");
	for (;;) {
		/* after a batch, never inside: it frees connections */
		int n = epoll_wait(listener->epoll_fd, events, BATCH, sweep(listener));

		for (int i = 0; i < n; i++) {
			struct ferryi_local_conn *conn = events[i].data.ptr;
			bool gone;

			if (events[i].data.ptr == &listener->stop_fd)
				return NULL;
			if (events[i].data.ptr == &listener->sock) {
				conn_accept(listener);
				continue;
			}
			ferryi_mutex_lock(&listener->base.lock);
			gone = (events[i].events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0;
			if (!gone)
				gone = conn_serve_locked(listener, conn) != 0;
			if (gone)
				conn_free_locked(listener, conn);
			ferryi_mutex_unlock(&listener->base.lock);
		}
	}
}

static int bind_random(struct ferryi_local_listener *listener)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	uint8_t random[16];
	size_t len;

	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return -EIO;
	len = (size_t)snprintf(listener->name, sizeof(listener->name), "@farferry-");
	for (size_t i = 0; i < sizeof(random); i++)
		len += (size_t)snprintf(listener->name + len, sizeof(listener->name) - len, "%02x",
					random[i]);
	memcpy(sun.sun_path + 1, listener->name + 1, len - 1);
	if (bind(listener->sock, (struct sockaddr *)&sun,
		 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)))
		return -errno;
	return listen(listener->sock, BACKLOG) ? -errno : 0;
}

static int watch(struct ferryi_local_listener *listener, int *fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = fd};

	return epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, *fd, &event) ? -errno : 0;
}

int ferryi_local_listener_open(struct ferryi_listener *base)
{
	struct ferryi_local_listener *listener = to_local(base);
	int err;

	listener->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener->sock < 0)
		return -errno;
	listener->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (listener->epoll_fd < 0) {
		err = -errno;
		goto err_sock;
	}
	listener->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (listener->stop_fd < 0) {
		err = -errno;
		goto err_epoll;
	}
	/* refuse_one() does without it if need be */
	listener->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	err = bind_random(listener);
	if (!err)
		err = watch(listener, &listener->sock);
	if (!err)
		err = watch(listener, &listener->stop_fd);
	if (!err)
		err = -pthread_create(&listener->thread, NULL, service_main, listener);
	if (err)
		goto err_stop;
	return 0;

err_stop:
	if (listener->spare_fd >= 0)
		close(listener->spare_fd);
	close(listener->stop_fd);
err_epoll:
	close(listener->epoll_fd);
err_sock:
	close(listener->sock);
	return err;
}

void ferryi_local_listener_close(struct ferryi_listener *base)
{
	struct ferryi_local_listener *listener = to_local(base);

	eventfd_write(listener->stop_fd, 1);
	pthread_join(listener->thread, NULL);
	ferryi_mutex_lock(&base->lock);
	while (listener->conns)
		conn_free_locked(listener, listener->conns);
	ferryi_mutex_unlock(&base->lock);
	if (listener->spare_fd >= 0)
		close(listener->spare_fd);
	close(listener->stop_fd);
	close(listener->epoll_fd);
	close(listener->sock);
}

/* ---- tenants and regions ---- */

int ferryi_local_tenant_open(struct ferryi_tenant *tenant)
{
	(void)tenant;
	return 0;
}

void ferryi_local_tenant_shutdown(struct ferryi_tenant *tenant)
{
	struct ferryi_local_listener *listener = to_local(tenant->listener);

	ferryi_mutex_lock(&listener->base.lock);
	for (struct ferryi_local_conn *c = listener->conns; c; c = c->next) {
		if (c->tenant != tenant)
			continue;
		c->tenant = NULL;
		/* the service thread frees it when it sees this */
		shutdown(c->sock, SHUT_RDWR);
	}
	ferryi_mutex_unlock(&listener->base.lock);
}

void ferryi_local_tenant_close(struct ferryi_tenant *tenant)
{
	(void)tenant;
}

int ferryi_local_tenant_addr(struct ferryi_tenant *tenant, char *buf, size_t buf_len)
{
	int n = snprintf(buf, buf_len, "%s", to_local(tenant->listener)->name);

	return n < 0 || (size_t)n >= buf_len ? -ENOSPC : 0;
}

int ferryi_local_region_open(struct ferryi_region *region)
{
	char why[128];

	if (region->memory.fd_off != 0 ||
	    ferryi_local_memfd_check(region->memory.fd, region->memory.len_bytes, why, sizeof(why))) {
		ferryi_error("tenant %s: cannot lend memory to this host's clients: %s",
			     region->tenant->label,
			     region->memory.fd_off != 0 ? "it must begin where its memfd begins" : why);
		return -EINVAL;
	}
	region->remote.key = ferryi_random_key();
	region->remote.addr = 0;
	region->remote.len_bytes = region->memory.len_bytes;
	return 0;
}

/*
 * Truncation takes the pages out of the file under the lock that writes take,
 * so a write is wholly before it (its page is gone now) or fails. A read that
 * was copying a page keeps that page, not what the memory is used for next.
 */
void ferryi_local_region_revoke(struct ferryi_region *region)
{
	while (ftruncate(region->memory.fd, 0)) {
		if (errno == EINTR)
			continue;
		/* cannot be: the seals were checked. Say it, for the memory must not be lent again. */
		ferryi_error("tenant %s: a region could not be revoked: ftruncate: %s", region->tenant->label,
			     ferryi_strerror(errno));
		return;
	}
}
