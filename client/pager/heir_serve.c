/*
 * The heir's side. One thread; the control thread of client/control keeps the
 * sessions alive meanwhile. See heir.h.
 */
#include "heir.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "child.h"
#include "clock.h"
#include "log.h"
#include "uffd.h"

#define CONNECT_MS  2000u
#define CLAIM_WAIT_MS 2 /* between two tries */

/* One of the parent's pools, by its index there. */
struct pool {
	char url[sizeof(((struct ferryi_lease_will *)0)->url)];
	uint8_t secret[FERRYI_LEASE_SECRET_LEN];
	struct ferryi_session *session; /* NULL: none yet */
	bool stands_by;
	struct ferryi_lease *lease;     /* once it is claimed */
	struct ferryi_channel *channel;
};

struct member {
	int memfd, uffd, sock;
	size_t bytes;
	struct ferryi_child *child; /* once we serve it */
};

/* All members: owned by the one thread. */
struct inheritance {
	uint32_t timeout_ms;
	struct ferryi_control *control; /* NULL until the first lease */
	struct pool pools[FERRYI_MAX_POOLS_ATTACHED];
	unsigned nr;
	struct member members[FERRYI_MAX_CHILDREN];
	struct ferryi_child_giver giver;
};

/* ---- children ---- */

static void close_member(struct member *m)
{
	if (m->child)
		munmap(m->child, m->bytes);
	close(m->memfd);
	close(m->uffd);
	close(m->sock); /* the child sees it */
}

static void remove_member(struct inheritance *in, unsigned i)
{
	close_member(&in->members[i]);
	in->members[i] = in->members[--in->nr];
}

static bool has_ended(const struct member *m)
{
	struct pollfd pfd = { .fd = m->sock, .events = POLLIN };

	return poll(&pfd, 1, 0) > 0;
}

static void drop_ended(struct inheritance *in)
{
	for (unsigned i = 0; i < in->nr;) {
		if (has_ended(&in->members[i]))
			remove_member(in, i);
		else
			i++;
	}
}

static void add_member(struct inheritance *in, const struct ferryi_heir_message *message, const int fds[3])
{
	struct member m = { .memfd = fds[0], .uffd = fds[1], .sock = fds[2], .bytes = (size_t)message->bytes };

	drop_ended(in); /* the parent counts the living only */
	if (in->nr == FERRYI_MAX_CHILDREN)
		close_member(&m);
	else
		in->members[in->nr++] = m;
	in->timeout_ms = message->timeout_ms;
}

/* ---- leases ---- */

/* One session a server: it is limited in those. */
static struct ferryi_session *session_to(struct inheritance *in, const struct ferryi_lease_will *will, int *rc)
{
	struct ferryi_session *session = NULL;
	const struct ferryi_control_attr attr = { .token = will->has_token ? will->token : NULL,
						  .connect_ms = in->timeout_ms,
						  .request_ms = in->timeout_ms };

	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct pool *pool = &in->pools[i];

		if (pool->session && strcmp(pool->url, will->url) == 0 &&
		    ferryi_session_state(pool->session) != FERRYI_SESSION_LOST)
			return pool->session;
	}
	*rc = in->control ? 0 : ferryi_control_open(&attr, &in->control);
	if (!*rc)
		*rc = ferryi_session_open(in->control, will->url, &session);
	return *rc ? NULL : session;
}

/* A session that no pool needs any more. NULL allowed. */
static void put_session(struct inheritance *in, struct ferryi_session *session)
{
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		if (in->pools[i].session == session)
			return;
	}
	if (session)
		ferryi_session_close(&session);
}

static int stand_by(struct inheritance *in, const struct ferryi_heir_message *message)
{
	struct ferryi_session *old;
	struct pool *pool;
	int rc = 0;

	if (message->pool >= FERRYI_MAX_POOLS_ATTACHED)
		return -EINVAL;
	in->timeout_ms = message->timeout_ms;
	ferryi_log_set_level((enum ferryi_log_level)message->log_level);
	struct ferryi_session *session = session_to(in, &message->will, &rc);

	if (!rc)
		rc = ferryi_session_stand_by(session, message->will.secret);
	if (rc) {
		put_session(in, session);
		return rc;
	}
	pool = &in->pools[message->pool];
	old = pool->session;
	memcpy(pool->url, message->will.url, sizeof(pool->url));
	memcpy(pool->secret, message->will.secret, sizeof(pool->secret));
	pool->session = session;
	pool->stands_by = true;
	put_session(in, old);
	return 0;
}

/* A server that is gone has nothing to renounce. */
static void stand_down(struct inheritance *in)
{
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct pool *pool = &in->pools[i];

		if (pool->stands_by)
			ferryi_session_renounce(pool->session, pool->secret);
		pool->stands_by = false;
		explicit_bzero(pool->secret, sizeof(pool->secret));
	}
}

static void close_leases(struct inheritance *in)
{
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct pool *pool = &in->pools[i];
		struct ferryi_session *session = pool->session;

		ferryi_channel_close(&pool->channel);
		if (pool->lease)
			ferryi_lease_close(&pool->lease);
		pool->session = NULL;
		put_session(in, session);
	}
	if (in->control)
		ferryi_control_close(&in->control);
}

/* The server ends the parent's session when it sees its connection end, and may have memory to copy then. */
static void claim(struct inheritance *in, struct pool *pool, uint64_t deadline_ns)
{
	int rc;

	while ((rc = ferryi_lease_claim(pool->session, pool->secret, &pool->lease)) == -EBUSY &&
	       ferryi_now_ns() < deadline_ns) {
		drop_ended(in);
		poll(NULL, 0, CLAIM_WAIT_MS);
	}
	explicit_bzero(pool->secret, sizeof(pool->secret));
	if (rc) {
		if (in->nr)
			ferryi_warn("pages of children of a dead process cannot be had: %s", ferryi_control_last_error());
		pool->lease = NULL;
	}
}

/* ---- reading ---- */

/* The remote place of a page; NULL: nowhere. */
static struct pool *find_place(struct inheritance *in, const struct ferryi_child_object *copy, size_t index,
			       struct ferryi_op *op)
{
	uint64_t place = copy->place[index / FERRYI_PAGES_PER_BLOCK];
	uint64_t off = (place & ((1ull << 48) - 1)) << FERRYI_SUBSECTION_SHIFT;
	unsigned nr = (unsigned)(place >> 48);
	struct pool *pool = nr && nr <= FERRYI_MAX_POOLS_ATTACHED ? &in->pools[nr - 1] : NULL;

	if (!pool || !pool->lease)
		return NULL;
	for (unsigned i = 0; i < ferryi_lease_extent_count(pool->lease); i++) {
		const struct ferryi_extent *extent = ferryi_lease_extent(pool->lease, i);

		if (off < extent->pool_off || off - extent->pool_off >= extent->len_bytes)
			continue;
		op->remote = extent->remote;
		op->remote_off = off - extent->pool_off + (index % FERRYI_PAGES_PER_BLOCK) * FERRYI_PAGE_SIZE;
		return pool;
	}
	return NULL;
}

static int open_channel(struct inheritance *in, struct pool *pool)
{
	int rc = ferryi_channel_open(ferryi_lease_peer(pool->lease), 1, ferryi_deadline_ms(CONNECT_MS), &pool->channel);

	if (!rc)
		rc = ferryi_channel_register(pool->channel, in->giver.buf, FERRYI_CHILD_RUN * FERRYI_PAGE_SIZE);
	if (rc)
		ferryi_channel_close(&pool->channel);
	return rc;
}

/* 0, or why it failed; a channel that is dead is closed. */
static int read_once(struct inheritance *in, struct pool *pool, struct ferryi_op *op)
{
	struct ferryi_op *p = op;
	int rc = pool->channel ? 0 : open_channel(in, pool), n;

	if (rc)
		return rc;
	if (ferryi_channel_submit(pool->channel, &p, 1) == 1) {
		while ((n = ferryi_channel_poll(pool->channel, &p, 1)) == 0)
			ferryi_cpu_relax();
		rc = n < 0 ? n : op->status;
	} else {
		rc = -EAGAIN;
	}
	if (rc) {
		ferryi_channel_shutdown(pool->channel);
		while (ferryi_channel_poll(pool->channel, &p, 1) >= 0)
			;
		ferryi_channel_close(&pool->channel);
	}
	return rc;
}

/* As ferryi_child_giver.read. */
static int read_places(void *ctx, const struct ferryi_child_object *copy, size_t index, size_t nr)
{
	struct inheritance *in = ctx;
	struct ferryi_op op = { .kind = FERRYI_OP_READ,
				.local = in->giver.buf,
				.len_bytes = nr * FERRYI_PAGE_SIZE,
				.deadline_ns = ferryi_deadline_ms(in->timeout_ms) };
	struct pool *pool = find_place(in, copy, index, &op);
	uint64_t deadline_ns = op.deadline_ns;
	int rc;

	if (!pool)
		return -ENOENT;
	do {
		if (ferryi_session_state(pool->session) == FERRYI_SESSION_LOST)
			return -ENOTCONN;
		rc = read_once(in, pool, &op);
		if (rc)
			poll(NULL, 0, 1);
	} while (rc && ferryi_now_ns() < deadline_ns);
	return rc;
}

/* ---- serving ---- */

/* The record as the parent has left it. */
static bool take_up(struct member *m)
{
	void *at = mmap(NULL, m->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->memfd, 0);

	if (at == MAP_FAILED)
		return false;
	m->child = at;
	if (!ferryi_child_moved(m->child, m->bytes))
		return false;
	m->child->uffd = m->uffd;
	m->child->sock = m->sock;
	if (!ferryi_child_resume(m->child))
		ferryi_warn("a child's memory was being changed as its parent died: what it had away raises SIGBUS");
	/* Faults that the parent had read, and did not come to answer: woken, they come again, to us. */
	for (unsigned i = 0; i < m->child->areas.nr_areas; i++) {
		const struct ferryi_area *area = &m->child->areas.areas[i];

		ferryi_uffd_wake(m->uffd, (void *)area->start, area->end - area->start);
	}
	return true;
}

/* false: it is gone, or needs nobody any more. */
static bool serve(struct inheritance *in, struct member *m)
{
	ferryi_child_serve(&in->giver, m->child);
	if (m->child->gone || has_ended(m))
		return false;
	return m->child->nr_needed || !ferryi_child_disarm(&in->giver, m->child);
}

static void serve_all(struct inheritance *in)
{
	struct pollfd pfd[2 * FERRYI_MAX_CHILDREN];

	for (unsigned i = 0; i < in->nr;) {
		if (take_up(&in->members[i]))
			i++;
		else
			remove_member(in, i);
	}
	while (in->nr) {
		for (unsigned i = 0; i < in->nr;) {
			if (serve(in, &in->members[i]))
				i++;
			else
				remove_member(in, i);
		}
		for (unsigned i = 0; i < in->nr; i++) {
			pfd[2 * i] = (struct pollfd){ .fd = in->members[i].uffd, .events = POLLIN };
			pfd[2 * i + 1] = (struct pollfd){ .fd = in->members[i].sock, .events = POLLIN };
		}
		if (in->nr)
			poll(pfd, 2 * in->nr, -1);
	}
}

static void inherit(struct inheritance *in)
{
	uint64_t deadline_ns = ferryi_deadline_ms(in->timeout_ms);

	drop_ended(in);
	ferryi_notice("a process with %u children of fork has ended: what they need of its pools comes from here", in->nr);
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		if (in->pools[i].stands_by)
			claim(in, &in->pools[i], deadline_ns);
	}
	serve_all(in);
}

/* ---- standing by ---- */

enum heard { HEARD_NOTHING, HEARD_MESSAGE, HEARD_BYE, HEARD_END };

static enum heard hear(struct inheritance *in)
{
	struct ferryi_heir_message message;
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(3 * sizeof(int))];
	} control;
	struct iovec iov = { &message, sizeof(message) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf,
			      .msg_controllen = sizeof(control.buf) };
	ssize_t n = recvmsg(FERRYI_HEIR_SOCK, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	int answer, fds[3];

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? HEARD_NOTHING : HEARD_END;
	if (n != sizeof(message))
		return HEARD_END;
	const struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	switch (message.kind) {
	case FERRYI_HEIR_LEASE:
		answer = stand_by(in, &message);
		explicit_bzero(&message.will, sizeof(message.will));
		send(FERRYI_HEIR_SOCK, &answer, sizeof(answer), MSG_NOSIGNAL | MSG_DONTWAIT); /* a parent that died hears nothing */
		return HEARD_MESSAGE;
	case FERRYI_HEIR_REST:
		stand_down(in);
		answer = 0;
		send(FERRYI_HEIR_SOCK, &answer, sizeof(answer), MSG_NOSIGNAL | MSG_DONTWAIT);
		return HEARD_MESSAGE;
	case FERRYI_HEIR_CHILD:
		if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(fds)))
			return HEARD_END;
		memcpy(fds, CMSG_DATA(c), sizeof(fds));
		add_member(in, &message, fds);
		return HEARD_MESSAGE;
	default:
		return HEARD_BYE;
	}
}

/* false: the parent has no need of us. */
static bool stand_by_until_death(struct inheritance *in)
{
	for (;;) {
		struct pollfd pfd[2] = { { .fd = FERRYI_HEIR_SOCK, .events = POLLIN },
					 { .fd = FERRYI_HEIR_PARENT, .events = POLLIN } };
		enum heard heard = HEARD_NOTHING;

		poll(pfd, 2, -1);
		/* The parent's last words come before its end. */
		if (pfd[0].revents)
			heard = hear(in);
		if (heard == HEARD_BYE)
			return false;
		if (heard == HEARD_END || (heard == HEARD_NOTHING && pfd[1].revents))
			return true;
	}
}

int ferryi_heir_main(void)
{
	struct inheritance *in = calloc(1, sizeof(*in));
	sigset_t none;

	ferryi_log_set_ident("ferry-heir");
	prctl(PR_SET_DUMPABLE, 0); /* secrets */
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	fcntl(FERRYI_HEIR_SOCK, F_SETFD, FD_CLOEXEC);
	fcntl(FERRYI_HEIR_PARENT, F_SETFD, FD_CLOEXEC);
	if (!in || chdir("/"))
		return 1;
	in->giver = (struct ferryi_child_giver){ .buf = mmap(NULL, FERRYI_CHILD_RUN * FERRYI_PAGE_SIZE,
							     PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
						 .ctx = in,
						 .read = read_places };
	if (in->giver.buf == MAP_FAILED)
		return 1;
	if (stand_by_until_death(in)) {
		in->giver.timeout_ms = in->timeout_ms;
		inherit(in);
	}
	close_leases(in); /* what they hold is free now */
	munmap(in->giver.buf, FERRYI_CHILD_RUN * FERRYI_PAGE_SIZE);
	free(in);
	return 0;
}
