/* See connect.h. */
#include "connect.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "lock.h"
#include "log.h"

/* One look-up, shared by its thread and the waiting caller: whoever leaves last frees it. */
struct lookup {
	/* immutable */
	char host[256];
	char port[8];
	/* protected by lock */
	struct ferryi_mutex lock;
	pthread_cond_t answered;
	unsigned refs;
	bool done;
	int gai;
	struct addrinfo *list;
};

static struct addrinfo hints_for(int flags)
{
	return (struct addrinfo){.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
}

static void lookup_put(struct lookup *lookup)
{
	ferryi_mutex_lock(&lookup->lock);
	unsigned left = --lookup->refs;

	ferryi_mutex_unlock(&lookup->lock);
	if (left > 0)
		return;
	if (lookup->list != NULL)
		freeaddrinfo(lookup->list);
	pthread_cond_destroy(&lookup->answered);
	ferryi_mutex_fini(&lookup->lock);
	free(lookup);
}

static void *lookup_main(void *arg)
{
	struct lookup *lookup = arg;
	struct addrinfo hints = hints_for(AI_NUMERICSERV), *list = NULL;
	int gai = getaddrinfo(lookup->host, lookup->port, &hints, &list);

	ferryi_mutex_lock(&lookup->lock);
	lookup->gai = gai;
	lookup->list = gai == 0 ? list : NULL;
	lookup->done = true;
	pthread_cond_signal(&lookup->answered);
	ferryi_mutex_unlock(&lookup->lock);
	lookup_put(lookup);
	return NULL;
}

static int lookup_start(struct lookup *lookup)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, old;
	int rc = pthread_attr_init(&attr);

	if (rc != 0)
		return -rc;
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&thread, &attr, lookup_main, lookup);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return -rc;
}

static int gai_fail(const char *host, int gai)
{
	return ferryi_control_fail(
		gai == EAI_MEMORY ? -ENOMEM : -EHOSTUNREACH,
		"host name %s does not resolve (%s): check the server's URL, or use its address", host,
		gai_strerror(gai));
}

static int resolve(const char *host, uint16_t port, uint64_t deadline_ns, struct addrinfo **out)
{
	struct addrinfo hints = hints_for(AI_NUMERICHOST | AI_NUMERICSERV);
	char port_text[8];

	snprintf(port_text, sizeof(port_text), "%u", (unsigned)port);
	if (getaddrinfo(host, port_text, &hints, out) == 0)
		return 0;

	struct lookup *lookup = calloc(1, sizeof(*lookup));

	if (lookup == NULL)
		return ferryi_control_fail(-ENOMEM, "out of memory while resolving %s", host);
	snprintf(lookup->host, sizeof(lookup->host), "%s", host);
	memcpy(lookup->port, port_text, sizeof(lookup->port));
	ferryi_mutex_init(&lookup->lock, FERRYI_RANK_LEAF);
	ferryi_cond_init(&lookup->answered);
	lookup->refs = 2;
	int rc = lookup_start(lookup);

	if (rc < 0) {
		lookup->refs = 1;
		lookup_put(lookup);
		return ferryi_control_fail(rc, "resolving %s: no thread for it: %s", host,
					   ferryi_strerror(rc));
	}
	ferryi_mutex_lock(&lookup->lock);
	while (!lookup->done && rc == 0)
		rc = ferryi_cond_wait_until(&lookup->answered, &lookup->lock, deadline_ns);
	bool done = lookup->done;
	int gai = lookup->gai;

	*out = lookup->list;
	lookup->list = NULL;
	ferryi_mutex_unlock(&lookup->lock);
	lookup_put(lookup);
	if (!done)
		return ferryi_control_fail(
			-ETIMEDOUT,
			"the name service did not resolve %s in time: check it, or use the address", host);
	return gai == 0 ? 0 : gai_fail(host, gai);
}

/* A connected descriptor or -errno. */
static int connect_one(const struct addrinfo *ai, uint64_t deadline_ns)
{
	int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);
	int one = 1, err = 0;

	if (fd < 0)
		return -errno;
	/* Small requests wait for nothing. Without it they are only slower. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0 && errno != EINPROGRESS && errno != EINTR) {
		err = -errno;
		close(fd);
		return err;
	}
	for (;;) {
		struct pollfd pfd = {.fd = fd, .events = POLLOUT};
		int n = poll(&pfd, 1, ferryi_remaining_ms(deadline_ns));
		socklen_t len = sizeof(err);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			err = errno;
		else if (n == 0)
			err = ETIMEDOUT;
		else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
			err = errno;
		if (err == 0)
			return fd;
		close(fd);
		return -err;
	}
}

static int connect_fail(int rc, const char *name)
{
	switch (rc) {
	case -ECONNREFUSED:
		return ferryi_control_fail(
			rc, "nothing listens at %s: start ferryd there, or check the server's URL", name);
	case -ETIMEDOUT:
		return ferryi_control_fail(
			rc, "no answer from %s: check that the host is up and no firewall drops the port",
			name);
	case -EHOSTUNREACH:
	case -ENETUNREACH:
	case -EADDRNOTAVAIL:
		return ferryi_control_fail(-EHOSTUNREACH,
					   "%s cannot be reached (%s): check the address and the routes",
					   name, ferryi_strerror(rc));
	default:
		return ferryi_control_fail(rc, "connecting to %s: %s", name, ferryi_strerror(rc));
	}
}

int ferryi_connect(const char *host, uint16_t port, const char *name, uint64_t deadline_ns)
{
	struct addrinfo *list = NULL;
	unsigned left = 0;
	int rc = resolve(host, port, deadline_ns, &list);

	if (rc < 0)
		return rc;
	for (struct addrinfo *ai = list; ai != NULL; ai = ai->ai_next)
		left++;
	rc = -EHOSTUNREACH;
	for (struct addrinfo *ai = list; ai != NULL; ai = ai->ai_next, left--) {
		uint64_t now = ferryi_now_ns();
		/* A silent address may not use up the time of those after it. */
		uint64_t share = now >= deadline_ns ? 0 : (deadline_ns - now) / left;
		int fd = connect_one(ai, now + share);

		if (fd >= 0) {
			freeaddrinfo(list);
			return fd;
		}
		/* "Refused" says most: keep it over what the other addresses say. */
		if (rc != -ECONNREFUSED)
			rc = fd;
	}
	freeaddrinfo(list);
	return connect_fail(rc, name);
}
