/*
 * Listening over libfabric. For FI_EP_MSG one event thread takes connection
 * requests, checks the token that comes with each, and closes what has ended.
 * An endpoint is closed by exactly one of the event thread and
 * ferryi_ofi_listener_drop(): whoever takes its conn off the list under the
 * listener's lock. The event thread alone makes endpoints, so an event that it
 * holds can never name a younger endpoint at the same address.
 */
#include "ofi.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <netdb.h>
#include <unistd.h>

#include "log.h"

/* ---- connections ---- */

static void conn_unlink_locked(struct ferryi_ofi_conn *conn)
{
	*conn->pprev = conn->next;
	if (conn->next)
		conn->next->pprev = conn->pprev;
}

/* On return the endpoint touches no memory any more. */
static void conn_destroy_locked(struct ferryi_ofi_listener *listener, struct ferryi_ofi_conn *conn)
{
	struct ferryi_ofi_worker *worker = conn->home->source.worker;

	conn_unlink_locked(conn);
	if (conn->home != &listener->lobby)
		ferryi_uncount(&listener->base.stats.g_connections, 1);
	ferryi_ofi_worker_lock(worker);
	(void)fi_shutdown(conn->ep, 0);
	fi_close(&conn->ep->fid);
	ferryi_ofi_worker_unlock(worker);
	free(conn);
}

void ferryi_ofi_listener_drop(struct ferryi_ofi_listener *listener, struct ferryi_ofi_tenant *tenant,
			      bool watches)
{
	struct ferryi_ofi_conn *conn, *next;

	ferryi_mutex_lock(&listener->base.lock);
	for (conn = listener->conns; conn; conn = next) {
		next = conn->next;
		if (conn->tenant == tenant && (watches || conn->home == tenant))
			conn_destroy_locked(listener, conn);
	}
	ferryi_mutex_unlock(&listener->base.lock);
}

/* On failure the request has been answered too: the endpoint owned it, or it is rejected here. */
static int accept_in(struct ferryi_ofi_listener *listener, struct ferryi_ofi_tenant *home,
		     struct fi_info *info, struct ferryi_ofi_conn *conn)
{
	int rc;

	if (!listener->kind->target_cpu) {
		/* This side posts nothing: no need for the provider's default queues, some 100 KiB a
		 * connection. */
		info->tx_attr->size = 1;
		info->rx_attr->size = 1;
	}
	ferryi_ofi_worker_lock(home->source.worker);
	rc = fi_endpoint(home->domain, info, &conn->ep, conn);
	if (rc) {
		(void)fi_reject(listener->pep, info->handle, NULL, 0);
		ferryi_ofi_worker_unlock(home->source.worker);
		return rc;
	}
	rc = fi_ep_bind(conn->ep, &listener->eq->fid, 0);
	if (!rc)
		rc = fi_ep_bind(conn->ep, &home->cq->fid, FI_TRANSMIT | FI_RECV);
	if (!rc)
		rc = fi_enable(conn->ep);
	if (!rc)
		rc = fi_accept(conn->ep, NULL, 0);
	if (rc)
		FERRYI_OFI_CLOSE(conn->ep);
	ferryi_ofi_worker_unlock(home->source.worker);
	return rc;
}

static void reject(struct ferryi_ofi_listener *listener, struct fi_info *info, const char *why)
{
	ferryi_count(&listener->base.stats.c_refused_total, 1);
	ferryi_warn("%s: data connection refused: %s", listener->base.label, why);
	(void)fi_reject(listener->pep, info->handle, FERRYI_OFI_REFUSE, strlen(FERRYI_OFI_REFUSE));
}

static void handle_connreq(struct ferryi_ofi_listener *listener, struct fi_info *info, const uint8_t *data,
			   size_t len)
{
	struct ferryi_ofi_tenant *tenant, *home;
	struct ferryi_ofi_hello hello;
	struct ferryi_ofi_conn *conn;
	int rc;

	if (len < sizeof(hello) || memcmp(data, FERRYI_OFI_MAGIC, sizeof(hello.magic))) {
		reject(listener, info, "not a farferry client");
		return;
	}
	memcpy(&hello, data, sizeof(hello));
	if (hello.purpose != FERRYI_OFI_DATA && hello.purpose != FERRYI_OFI_WATCH) {
		reject(listener, info, "unknown purpose; the client is newer than this server");
		return;
	}
	conn = calloc(1, sizeof(*conn));
	if (!conn) {
		reject(listener, info, "out of memory");
		return;
	}
	ferryi_mutex_lock(&listener->base.lock);
	tenant = (struct ferryi_ofi_tenant *)ferryi_listener_match_locked(&listener->base, hello.token);
	explicit_bzero(&hello.token, sizeof(hello.token));
	if (!tenant) {
		ferryi_mutex_unlock(&listener->base.lock);
		free(conn);
		reject(listener, info, "its token belongs to no session");
		return;
	}
	home = hello.purpose == FERRYI_OFI_WATCH ? &listener->lobby : tenant;
	rc = accept_in(listener, home, info, conn);
	if (rc) {
		ferryi_mutex_unlock(&listener->base.lock);
		free(conn);
		/* Most often a client that has given up meanwhile. */
		ferryi_info("%s: accept connection: %s", listener->base.label, fi_strerror(-rc));
		return;
	}
	conn->tenant = tenant;
	conn->home = home;
	conn->next = listener->conns;
	conn->pprev = &listener->conns;
	if (conn->next)
		conn->next->pprev = &conn->next;
	listener->conns = conn;
	if (home == tenant) {
		ferryi_count(&listener->base.stats.c_connections_total, 1);
		ferryi_count(&listener->base.stats.g_connections, 1);
	}
	ferryi_mutex_unlock(&listener->base.lock);
}

/* The connection behind an endpoint has ended; news of one that is closed already is stale and ignored. */
static void handle_end(struct ferryi_ofi_listener *listener, const struct fid *ep)
{
	ferryi_mutex_lock(&listener->base.lock);
	for (struct ferryi_ofi_conn *conn = listener->conns; conn; conn = conn->next) {
		if (&conn->ep->fid == ep) {
			conn_destroy_locked(listener, conn);
			break;
		}
	}
	ferryi_mutex_unlock(&listener->base.lock);
}

/* ---- the event thread ---- */

/* One event; false when there is none now. */
static bool handle_event(struct ferryi_ofi_listener *listener)
{
	union {
		struct fi_eq_cm_entry entry;
		uint8_t room[sizeof(struct fi_eq_cm_entry) + 256];
	} buf;
	struct fi_eq_err_entry err = {0};
	uint32_t event = 0;
	ssize_t n = fi_eq_read(listener->eq, &event, &buf, sizeof(buf), 0);

	if (n == -FI_EAVAIL) {
		if (fi_eq_readerr(listener->eq, &err, 0) <= 0)
			return false;
		ferryi_debug("%s: connection: %s", listener->base.label, fi_strerror(err.err));
		if (err.fid)
			handle_end(listener, err.fid);
		return true;
	}
	if (n < 0) {
		if (n != -FI_EAGAIN && n != -FI_EINTR)
			ferryi_ofi_log(listener->base.label, "read connection events", n);
		return false;
	}
	if (n < (ssize_t)sizeof(buf.entry))
		return n > 0;
	if (event == FI_CONNREQ) {
		handle_connreq(listener, buf.entry.info, buf.room + sizeof(buf.entry),
			       (size_t)n - sizeof(buf.entry));
		fi_freeinfo(buf.entry.info);
	} else if (event == FI_SHUTDOWN) {
		handle_end(listener, buf.entry.fid);
	}
	return true;
}

static void *event_main(void *arg)
{
	struct ferryi_ofi_listener *listener = arg;
	struct fid *fids[1] = {&listener->eq->fid};

	for (;;) {
		struct epoll_event events[2];
		int n;

		while (handle_event(listener))
			;
		if (fi_trywait(listener->fabric, fids, 1))
			continue;
		n = epoll_wait(listener->event_epfd, events, 2, -1);
		for (int i = 0; i < n; i++)
			if (events[i].data.fd == listener->stop_fd)
				return NULL;
	}
}

static int start_events(struct ferryi_ofi_listener *listener)
{
	struct epoll_event eq_event = {.events = EPOLLIN, .data.fd = listener->eq_fd};
	struct epoll_event stop_event = {.events = EPOLLIN};
	int rc;

	listener->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	listener->event_epfd = epoll_create1(EPOLL_CLOEXEC);
	stop_event.data.fd = listener->stop_fd;
	if (listener->stop_fd < 0 || listener->event_epfd < 0 || listener->eq_fd < 0 ||
	    epoll_ctl(listener->event_epfd, EPOLL_CTL_ADD, listener->eq_fd, &eq_event) ||
	    epoll_ctl(listener->event_epfd, EPOLL_CTL_ADD, listener->stop_fd, &stop_event))
		return errno ? -errno : -EINVAL;
	rc = -pthread_create(&listener->event_thread, NULL, event_main, listener);
	if (!rc)
		pthread_setname_np(listener->event_thread, "ferry-connect");
	return rc;
}

static void stop_events(struct ferryi_ofi_listener *listener)
{
	uint64_t one = 1;

	while (write(listener->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	pthread_join(listener->event_thread, NULL);
}

/* ---- open and close ---- */

static int open_pep(struct ferryi_ofi_listener *listener)
{
	struct fi_eq_attr eq_attr = {.wait_obj = FI_WAIT_FD};
	struct sockaddr_storage addr = {0};
	size_t addr_len = sizeof(addr);
	int rc;

	rc = fi_eq_open(listener->fabric, &eq_attr, &listener->eq, NULL);
	if (rc)
		return ferryi_ofi_log(listener->base.label, "open event queue", rc);
	listener->eq_fd = ferryi_ofi_wait_fd(&listener->eq->fid);
	rc = fi_passive_ep(listener->fabric, listener->info, &listener->pep, NULL);
	if (!rc)
		rc = fi_pep_bind(listener->pep, &listener->eq->fid, 0);
	if (!rc)
		rc = fi_listen(listener->pep);
	if (!rc)
		rc = fi_getname(&listener->pep->fid, &addr, &addr_len);
	if (rc)
		return ferryi_ofi_log(listener->base.label, "listen", rc);
	if (getnameinfo((struct sockaddr *)&addr, (socklen_t)addr_len, NULL, 0, listener->port,
			sizeof(listener->port), NI_NUMERICSERV)) {
		ferryi_error("%s: the provider's address is not an IP address", listener->base.label);
		return -EADDRNOTAVAIL;
	}
	return 0;
}

static int start_workers(struct ferryi_ofi_listener *listener)
{
	unsigned n = listener->base.threads;
	int rc = 0;

	if (!listener->kind->target_cpu)
		return 0;
	if (n > FERRYI_OFI_WORKERS_MAX)
		n = FERRYI_OFI_WORKERS_MAX;
	while (!rc && listener->nworkers < n) {
		rc = ferryi_ofi_worker_create(listener->base.spin_us, listener->base.label,
					      &listener->workers[listener->nworkers]);
		listener->nworkers += !rc;
	}
	return rc;
}

/* What open() may have done up to any point; also the whole of close() after the event thread. */
static void listener_undo(struct ferryi_ofi_listener *listener)
{
	ferryi_ofi_home_close(&listener->lobby);
	for (unsigned i = 0; i < listener->nworkers; i++)
		ferryi_ofi_worker_destroy(&listener->workers[i]);
	FERRYI_OFI_CLOSE(listener->pep);
	FERRYI_OFI_CLOSE(listener->eq);
	FERRYI_OFI_CLOSE(listener->fabric);
	if (listener->info)
		fi_freeinfo(listener->info);
	if (listener->event_epfd >= 0)
		close(listener->event_epfd);
	if (listener->stop_fd >= 0)
		close(listener->stop_fd);
}

int ferryi_ofi_listener_open(struct ferryi_listener *base)
{
	struct ferryi_ofi_listener *listener = (struct ferryi_ofi_listener *)base;
	int rc;

	listener->kind = ferryi_ofi_kind_of(base->row);
	listener->eq_fd = listener->event_epfd = listener->stop_fd = -1;
	listener->lobby.source.fd = -1;
	rc = ferryi_ofi_info(listener->kind, NULL, base->host, "0", true, false, &listener->info);
	if (rc)
		return rc;
	rc = fi_fabric(listener->info->fabric_attr, &listener->fabric, NULL);
	if (rc)
		rc = ferryi_ofi_log(base->label, "open fabric", rc);
	if (!rc)
		rc = start_workers(listener);
	if (!rc && listener->kind->ep_type == FI_EP_MSG) {
		rc = open_pep(listener);
		if (!rc)
			rc = ferryi_ofi_home_open(listener, &listener->lobby);
		if (!rc)
			rc = start_events(listener);
	}
	if (rc)
		listener_undo(listener);
	return rc;
}

void ferryi_ofi_listener_close(struct ferryi_listener *base)
{
	struct ferryi_ofi_listener *listener = (struct ferryi_ofi_listener *)base;

	if (listener->kind->ep_type == FI_EP_MSG)
		stop_events(listener);
	listener_undo(listener);
}
