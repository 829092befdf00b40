/*
 * Listening socket and connections. See door.h. Control thread only.
 * A connection that ends lingers: its session is gone at once, but what was
 * written to it goes out, and what still comes in is read and dropped, so that
 * the peer sees the reason and not a reset.
 */
#include "door.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#ifdef FERRYI_HAVE_TLS
#include <event2/bufferevent_ssl.h>
#endif
#include <event2/event.h>
#include <event2/listener.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "reply.h"
#include "session.h"

#define READ_CHUNK	65536u
#define LINGER_MS	1000
#define ACCEPT_PAUSE_MS 100 /* after accept(2) failed, for want of descriptors say */

struct conn {
	struct conn *next, **pprev;
	struct ferryi_door *door;
	struct ferryi_server_session *session; /* NULL: lingering */
	struct bufferevent *bev;
	struct event *timer; /* the session's next look at the clock; end of lingering */
	bool authenticated, overflowed;
};

struct ferryi_door {
	/* immutable */
	struct ferryi_hub *hub;
	struct event_base *base;
	void (*on_quiet)(void *ctx);
	void *ctx;
	enum ferryi_auth auth;
	struct ssl_ctx_st *tls; /* NULL: plain connections */
	char host[64];
	uint16_t port;
	/* owned by the control thread */
	int fd; /* until serve() */
	struct evconnlistener *listener;
	struct event *resume;
	struct conn *conns;
	unsigned nstrangers; /* not authenticated */
	bool paused, shut;
};

/* ---- who may come in ---- */

static void admit(struct ferryi_door *door)
{
	bool full = door->nstrangers >= door->hub->limits.unauthenticated;

	if (!door->listener || door->shut || full == door->paused)
		return;
	/* More wait in the kernel's queue, where they cost nothing; each stranger leaves within the
	 * handshake's deadline. */
	door->paused = full;
	if (full)
		evconnlistener_disable(door->listener);
	else
		evconnlistener_enable(door->listener);
}

static void arm(struct conn *conn, uint64_t at_ns)
{
	uint64_t now = ferryi_now_ns();
	uint64_t wait = at_ns > now ? at_ns - now : 0;
	struct timeval tv = {
		.tv_sec = (time_t)(wait / FERRYI_NS_PER_S),
		.tv_usec = (suseconds_t)(wait % FERRYI_NS_PER_S / FERRYI_NS_PER_US),
	};

	event_add(conn->timer, &tv);
}

static void conn_free(struct conn *conn)
{
	struct ferryi_door *door = conn->door;

	*conn->pprev = conn->next;
	if (conn->next)
		conn->next->pprev = conn->pprev;
	if (!conn->authenticated)
		door->nstrangers--;
	event_free(conn->timer);
	bufferevent_free(conn->bev);
	free(conn);
	ferryi_uncount(&door->hub->status.g_connections, 1);
	admit(door);
	if (door->shut && !door->conns && door->on_quiet)
		door->on_quiet(door->ctx);
}

static void last_bytes_out(struct conn *conn)
{
	shutdown(bufferevent_getfd(conn->bev), SHUT_WR);
}

/* Ends the session now and the connection a little later. */
static void conn_end(struct conn *conn, const char *reason)
{
	if (!conn->session)
		return;
	ferryi_server_session_close(&conn->session, reason);
	arm(conn, ferryi_deadline_ms(LINGER_MS));
	if (evbuffer_get_length(bufferevent_get_output(conn->bev)) == 0)
		last_bytes_out(conn);
}

/* ---- the session's side ---- */

static void on_output(void *ctx, const uint8_t *bytes, size_t len)
{
	struct conn *conn = ctx;

	if (bufferevent_write(conn->bev, bytes, len) ||
	    evbuffer_get_length(bufferevent_get_output(conn->bev)) > conn->door->hub->limits.output_bytes) {
		/* The session is in the middle of something: the timer ends it. */
		conn->overflowed = true;
		arm(conn, 0);
	}
}

static void on_authenticated(void *ctx)
{
	struct conn *conn = ctx;

	conn->authenticated = true;
	conn->door->nstrangers--;
	admit(conn->door);
}

static void on_refused(void *ctx)
{
	arm(ctx, 0);
}

/* ---- libevent's side ---- */

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
	struct conn *conn = ctx;
	uint64_t next_ns;

	(void)fd;
	(void)what;
	if (!conn->session) {
		conn_free(conn);
		return;
	}
	if (conn->overflowed) {
		ferryi_count(&conn->door->hub->status.c_slow_readers_total, 1);
		/* Nothing more will go out, and its buffer is large: no lingering. */
		ferryi_server_session_close(&conn->session, "it does not read its replies");
		conn_free(conn);
		return;
	}
	if (ferryi_server_session_tick(conn->session, ferryi_now_ns(), &next_ns))
		conn_end(conn, "silent for too long");
	else
		arm(conn, next_ns);
}

static void on_read(struct bufferevent *bev, void *ctx)
{
	struct conn *conn = ctx;
	struct evbuffer *input = bufferevent_get_input(bev);

	while (conn->session) {
		struct evbuffer_iovec piece;

		if (evbuffer_peek(input, -1, NULL, &piece, 1) < 1 || !piece.iov_len)
			return;
		if (ferryi_server_session_input(conn->session, piece.iov_base, piece.iov_len))
			conn_end(conn, "bad input");
		evbuffer_drain(input, piece.iov_len);
	}
	evbuffer_drain(input, evbuffer_get_length(input));
}

static void on_write(struct bufferevent *bev, void *ctx)
{
	struct conn *conn = ctx;

	(void)bev;
	if (!conn->session)
		last_bytes_out(conn);
}

/* The handshake of TLS is over: whose certificate it is. */
static void on_secured(struct conn *conn)
{
#ifdef FERRYI_HAVE_TLS
	char user[FERRYI_MAX_USER + 1];

	if (!conn->session)
		return;
	if (ferryi_tls_user(bufferevent_openssl_get_ssl(conn->bev), user)) {
		ferryi_count(&conn->door->hub->status.c_auth_failures_total, 1);
		conn_end(conn, "its certificate has no subject, or one that is too long");
		return;
	}
	ferryi_server_session_identify(conn->session, user);
#else
	(void)conn;
#endif
}

#ifdef FERRYI_HAVE_TLS
/* To one that does not speak TLS, in its own words. */
static void say_plainly(struct conn *conn)
{
	int fd = (int)bufferevent_getfd(conn->bev);
	struct ferryi_reply reply = {0};

	ferryi_reply_error(
		&reply, 0, FARFERRY__CODE__CODE_AUTH,
		"this server wants TLS: set FERRY_AUTH=tls, or write ?auth=tls behind its address");
	if (reply.bytes && send(fd, reply.bytes, reply.len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		ferryi_debug("%s: it cannot be told", ferryi_server_session_label(conn->session));
	free(reply.bytes);
}
#endif

static const char *tls_reason(struct conn *conn, char *buf, size_t buf_len)
{
#ifdef FERRYI_HAVE_TLS
	unsigned long error = bufferevent_get_openssl_error(conn->bev);
	char why[192];

	if (conn->session && ferryi_tls_is_plain(error))
		say_plainly(conn);
	ferryi_tls_why(bufferevent_openssl_get_ssl(conn->bev), error, why, sizeof(why));
	snprintf(buf, buf_len, "TLS: %s", why);
	if (conn->session && !conn->authenticated) {
		ferryi_count(&conn->door->hub->status.c_auth_failures_total, 1);
		ferryi_warn("%s: closed: %s", ferryi_server_session_label(conn->session), buf);
	}
#else
	(void)conn;
	snprintf(buf, buf_len, "error");
#endif
	return buf;
}

static void on_event(struct bufferevent *bev, short what, void *ctx)
{
	struct conn *conn = ctx;
	const char *reason = "connection closed by the client";
	int err = EVUTIL_SOCKET_ERROR();
	char buf[256];

	(void)bev;
	if (what & BEV_EVENT_CONNECTED)
		on_secured(conn);
	if (!(what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)))
		return;
	if (what & BEV_EVENT_ERROR)
		reason = conn->door->tls ? tls_reason(conn, buf, sizeof(buf)) : ferryi_strerror(err);
	if (conn->session && conn->door->tls && (what & BEV_EVENT_ERROR)) {
		/* Why is on its way, and what the peer has sent is unread: closed now, it would see a reset.
		 */
		conn_end(conn, reason);
		last_bytes_out(conn);
		return;
	}
	if (conn->session)
		ferryi_server_session_close(&conn->session, reason);
	conn_free(conn);
}

/* The bufferevent of an accepted connection, which closes it when it is freed; NULL: fd is still the
 * caller's. */
static struct bufferevent *bev_new(struct ferryi_door *door, evutil_socket_t fd)
{
#ifdef FERRYI_HAVE_TLS
	if (door->tls) {
		struct ssl_st *ssl = ferryi_tls_open(door->tls, NULL);
		struct bufferevent *bev = NULL;

		if (ssl)
			bev = bufferevent_openssl_socket_new(door->base, fd, ssl, BUFFEREVENT_SSL_ACCEPTING,
							     BEV_OPT_CLOSE_ON_FREE);
		if (bev)
			bufferevent_openssl_set_allow_dirty_shutdown(bev, 1);
		else
			ferryi_tls_close(&ssl);
		return bev;
	}
#endif
	return bufferevent_socket_new(door->base, fd, BEV_OPT_CLOSE_ON_FREE);
}

/* Takes fd, also on failure. */
static int conn_new(struct ferryi_door *door, evutil_socket_t fd, const char *peer)
{
	struct ferryi_server_session_io io = {.output = on_output,
					      .authenticated = on_authenticated,
					      .refused = on_refused,
					      .auth = door->auth};
	struct conn *conn;
	int one = 1;

	conn = calloc(1, sizeof(*conn));
	if (conn)
		conn->bev = bev_new(door, fd);
	if (!conn || !conn->bev) {
		free(conn);
		close(fd);
		return -ENOMEM;
	}
	conn->door = door;
	conn->timer = evtimer_new(door->base, on_timer, conn);
	io.ctx = conn;
	ferryi_socket_address(fd, false, io.address, sizeof(io.address));
	if (!conn->timer || ferryi_server_session_open(door->hub, &io, peer, &conn->session)) {
		if (conn->timer)
			event_free(conn->timer);
		bufferevent_free(conn->bev);
		free(conn);
		return -ENOMEM;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	conn->next = door->conns;
	conn->pprev = &door->conns;
	if (conn->next)
		conn->next->pprev = &conn->next;
	door->conns = conn;
	door->nstrangers++;
	ferryi_count(&door->hub->status.c_connections_total, 1);
	ferryi_count(&door->hub->status.g_connections, 1);
	bufferevent_setwatermark(conn->bev, EV_READ, 0, READ_CHUNK);
	bufferevent_setcb(conn->bev, on_read, on_write, on_event, conn);
	bufferevent_enable(conn->bev, EV_READ | EV_WRITE);
	arm(conn, ferryi_deadline_ms(door->hub->limits.handshake_ms));
	return 0;
}

static void peer_name(const struct sockaddr *addr, socklen_t len, char *buf, size_t buf_len)
{
	char host[48], port[8];

	if (getnameinfo(addr, len, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(buf, buf_len, "unknown");
	else
		snprintf(buf, buf_len, addr->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *addr,
		      int addr_len, void *ctx)
{
	struct ferryi_door *door = ctx;
	char peer[64];

	(void)listener;
	peer_name(addr, (socklen_t)addr_len, peer, sizeof(peer));
	if (conn_new(door, fd, peer)) {
		ferryi_error("%s: refused: the server is out of memory", peer);
		return;
	}
	admit(door);
}

static void on_resume(evutil_socket_t fd, short what, void *ctx)
{
	struct ferryi_door *door = ctx;

	(void)fd;
	(void)what;
	if (!door->paused && !door->shut)
		evconnlistener_enable(door->listener);
}

static void on_accept_error(struct evconnlistener *listener, void *ctx)
{
	struct ferryi_door *door = ctx;
	struct timeval pause = {.tv_usec = ACCEPT_PAUSE_MS * 1000};
	int err = EVUTIL_SOCKET_ERROR();

	ferryi_warn("accepting a connection failed: %s%s", ferryi_strerror(err),
		    err == EMFILE ? " (raise LimitNOFILE or ulimit -n)" : "");
	/* The connection stays in the queue and would come right back. */
	evconnlistener_disable(listener);
	event_add(door->resume, &pause);
}

/* ---- interface ---- */

static int bind_one(struct ferryi_door *door, const struct addrinfo *ai)
{
	struct sockaddr_storage bound;
	socklen_t len = sizeof(bound);
	char port[8];
	int one = 1, rc;

	door->fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);
	if (door->fd < 0)
		return -errno;
	if (setsockopt(door->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(door->fd, ai->ai_addr, ai->ai_addrlen) || listen(door->fd, 1024) ||
	    getsockname(door->fd, (struct sockaddr *)&bound, &len) ||
	    getnameinfo((struct sockaddr *)&bound, len, door->host, sizeof(door->host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV)) {
		rc = errno ? -errno : -EADDRNOTAVAIL;
		close(door->fd);
		door->fd = -1;
		return rc;
	}
	door->port = (uint16_t)strtoul(port, NULL, 10);
	return 0;
}

static int bind_any(struct ferryi_door *door, const char *host, uint16_t port, char *err, size_t err_len)
{
	const struct addrinfo hints = {
		.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
	struct addrinfo *list;
	char service[8];
	const char *shown = host[0] ? host : "*";
	int rc;

	snprintf(service, sizeof(service), "%u", port);
	rc = getaddrinfo(host[0] ? host : NULL, service, &hints, &list);
	if (rc) {
		snprintf(err, err_len, "--listen %s:%u: %s", shown, port, gai_strerror(rc));
		return -EADDRNOTAVAIL;
	}
	rc = -EADDRNOTAVAIL;
	for (const struct addrinfo *ai = list; ai; ai = ai->ai_next) {
		rc = bind_one(door, ai);
		if (!rc)
			break;
	}
	freeaddrinfo(list);
	if (rc == -EADDRINUSE)
		snprintf(err, err_len,
			 "--listen %s:%u: the port is in use; stop what listens there, or choose another",
			 shown, port);
	else if (rc == -EADDRNOTAVAIL)
		snprintf(err, err_len, "--listen %s:%u: this machine has no such address", shown, port);
	else if (rc)
		snprintf(err, err_len, "--listen %s:%u: %s", shown, port, ferryi_strerror(rc));
	return rc;
}

int ferryi_door_open(const struct ferryi_door_attr *attr, struct ferryi_door **out, char *err, size_t err_len)
{
	struct ferryi_door *door = calloc(1, sizeof(*door));
	int rc;

	*out = NULL;
	if (!door) {
		snprintf(err, err_len, "out of memory");
		return -ENOMEM;
	}
	door->hub = attr->hub;
	door->base = attr->base;
	door->auth = attr->auth;
	door->tls = attr->tls;
	door->on_quiet = attr->on_quiet;
	door->ctx = attr->ctx;
	rc = bind_any(door, attr->host, attr->port, err, err_len);
	if (rc) {
		free(door);
		return rc;
	}
	*out = door;
	return 0;
}

const char *ferryi_door_host(const struct ferryi_door *door)
{
	return door->host;
}

uint16_t ferryi_door_port(const struct ferryi_door *door)
{
	return door->port;
}

int ferryi_door_serve(struct ferryi_door *door)
{
	door->resume = evtimer_new(door->base, on_resume, door);
	if (!door->resume)
		return -ENOMEM;
	/* Backlog 0: the socket listens already. */
	door->listener = evconnlistener_new(door->base, on_accept, door,
					    LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, door->fd);
	if (!door->listener)
		return -ENOMEM;
	door->fd = -1;
	evconnlistener_set_error_cb(door->listener, on_accept_error);
	return 0;
}

void ferryi_door_shut(struct ferryi_door *door, const char *reason)
{
	struct conn *next;

	door->shut = true;
	if (door->listener)
		evconnlistener_disable(door->listener);
	for (struct conn *conn = door->conns; conn; conn = next) {
		next = conn->next;
		conn_end(conn, reason);
	}
	if (!door->conns && door->on_quiet)
		door->on_quiet(door->ctx);
}

void ferryi_door_close(struct ferryi_door **doorp)
{
	struct ferryi_door *door = *doorp;

	if (!door)
		return;
	*doorp = NULL;
	door->on_quiet = NULL;
	while (door->conns) {
		if (door->conns->session)
			ferryi_server_session_close(&door->conns->session, "the server stops");
		conn_free(door->conns);
	}
	if (door->listener)
		evconnlistener_free(door->listener);
	if (door->resume)
		event_free(door->resume);
	if (door->fd >= 0)
		close(door->fd);
	free(door);
}
