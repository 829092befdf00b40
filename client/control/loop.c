/* See loop.h. */
#include "loop.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>

#include "clock.h"
#include "lock.h"
#include "log.h"

#define STOP_MS 10000

struct call {
	STAILQ_ENTRY(call) link;
	void (*fn)(void *arg);
	void *arg;
	enum { CALL_QUEUED, CALL_RUNNING, CALL_DONE } state;
};

struct ferryi_loop {
	/* immutable */
	void (*on_wake)(void *ctx);
	void *ctx;
	int wake_fd; /* eventfd */
	pthread_t thread;
	/* owned by the control thread */
	struct event_base *base;
	struct event *wake_event;
	/* protected by lock */
	struct ferryi_mutex lock;
	pthread_cond_t changed; /* a call ended, or the thread did */
	STAILQ_HEAD(, call) calls;
	bool stopping;
	bool ended;
};

static void run_calls(struct ferryi_loop *loop)
{
	ferryi_mutex_lock(&loop->lock);
	for (;;) {
		struct call *call = STAILQ_FIRST(&loop->calls);

		if (call == NULL)
			break;
		STAILQ_REMOVE_HEAD(&loop->calls, link);
		call->state = CALL_RUNNING;
		ferryi_mutex_unlock(&loop->lock);
		call->fn(call->arg);
		ferryi_mutex_lock(&loop->lock);
		call->state = CALL_DONE;
		pthread_cond_broadcast(&loop->changed);
	}
	if (loop->stopping)
		event_base_loopbreak(loop->base);
	ferryi_mutex_unlock(&loop->lock);
}

static void on_wake_event(evutil_socket_t fd, short what, void *arg)
{
	struct ferryi_loop *loop = arg;
	uint64_t count;

	(void)what;
	/* Drained before the work is looked at: a wake from now on gives another event. */
	if (read(fd, &count, sizeof(count)) < 0 && errno != EAGAIN && errno != EINTR)
		ferryi_error("control: reading the wake descriptor: %s", ferryi_strerror(errno));
	run_calls(loop);
	loop->on_wake(loop->ctx);
}

static void *loop_main(void *arg)
{
	struct ferryi_loop *loop = arg;

	pthread_setname_np(pthread_self(), "ferry-control");
	if (event_base_loop(loop->base, EVLOOP_NO_EXIT_ON_EMPTY) < 0)
		ferryi_error("control: the event loop failed; sessions are not watched any more");
	ferryi_mutex_lock(&loop->lock);
	loop->ended = true;
	pthread_cond_broadcast(&loop->changed);
	ferryi_mutex_unlock(&loop->lock);
	return NULL;
}

static struct event_base *new_base(void)
{
	struct event_config *config = event_config_new();
	struct event_base *base = NULL;

	if (config == NULL)
		return NULL;
	if (event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_IGNORE_ENV) == 0)
		base = event_base_new_with_config(config);
	event_config_free(config);
	return base;
}

int ferryi_loop_start(void (*on_wake)(void *ctx), void *ctx, struct ferryi_loop **out)
{
	struct ferryi_loop *loop = calloc(1, sizeof(*loop));
	sigset_t all, old;
	int rc = -ENOMEM;

	if (loop == NULL)
		return -ENOMEM;
	loop->on_wake = on_wake;
	loop->ctx = ctx;
	ferryi_mutex_init(&loop->lock, FERRYI_RANK_LEAF);
	ferryi_cond_init(&loop->changed);
	STAILQ_INIT(&loop->calls);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd < 0) {
		rc = -errno;
		goto err_free;
	}
	loop->base = new_base();
	if (loop->base == NULL)
		goto err_close;
	loop->wake_event = event_new(loop->base, loop->wake_fd, EV_READ | EV_PERSIST, on_wake_event, loop);
	if (loop->wake_event == NULL)
		goto err_base;
	if (event_add(loop->wake_event, NULL) < 0)
		goto err_event;
	/* The new thread inherits the mask: no handler of the application ever runs in it, and SIGPIPE stays
	 * away. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = -pthread_create(&loop->thread, NULL, loop_main, loop);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc < 0)
		goto err_event;
	*out = loop;
	return 0;

err_event:
	event_free(loop->wake_event);
err_base:
	event_base_free(loop->base);
err_close:
	close(loop->wake_fd);
err_free:
	pthread_cond_destroy(&loop->changed);
	ferryi_mutex_fini(&loop->lock);
	free(loop);
	return rc;
}

void ferryi_loop_stop(struct ferryi_loop **loop_ptr)
{
	struct ferryi_loop *loop = *loop_ptr;
	uint64_t deadline_ns = ferryi_deadline_ms(STOP_MS);

	*loop_ptr = NULL;
	if (loop == NULL)
		return;
	ferryi_mutex_lock(&loop->lock);
	loop->stopping = true;
	ferryi_mutex_unlock(&loop->lock);
	ferryi_loop_wake(loop);
	ferryi_mutex_lock(&loop->lock);
	int rc = 0;

	while (!loop->ended && rc == 0)
		rc = ferryi_cond_wait_until(&loop->changed, &loop->lock, deadline_ns);
	bool ended = loop->ended;

	ferryi_mutex_unlock(&loop->lock);
	if (!ended) {
		/* A callback of ours does not return: better a leak than a hang or a use after free. */
		ferryi_error("control: the control thread did not end within %d ms; left behind", STOP_MS);
		return;
	}
	pthread_join(loop->thread, NULL);
	event_free(loop->wake_event);
	event_base_free(loop->base);
	close(loop->wake_fd);
	pthread_cond_destroy(&loop->changed);
	ferryi_mutex_fini(&loop->lock);
	free(loop);
}

void ferryi_loop_wake(struct ferryi_loop *loop)
{
	uint64_t one = 1;

	/* EAGAIN means that the counter is at its limit: a wake is due anyway. */
	while (write(loop->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

int ferryi_loop_call(struct ferryi_loop *loop, void (*fn)(void *arg), void *arg, uint64_t deadline_ns)
{
	struct call call = {.fn = fn, .arg = arg, .state = CALL_QUEUED};
	int rc = 0;

	if (pthread_equal(pthread_self(), loop->thread)) {
		fn(arg);
		return 0;
	}
	ferryi_mutex_lock(&loop->lock);
	STAILQ_INSERT_TAIL(&loop->calls, &call, link);
	ferryi_mutex_unlock(&loop->lock);
	ferryi_loop_wake(loop);
	ferryi_mutex_lock(&loop->lock);
	while (call.state != CALL_DONE) {
		if (rc != 0 && call.state == CALL_QUEUED) {
			STAILQ_REMOVE(&loop->calls, &call, call, link);
			break;
		}
		/* Once it runs it ends soon (our functions do not block), and it uses this stack until then.
		 */
		rc = ferryi_cond_wait_until(&loop->changed, &loop->lock,
					    rc == 0 ? deadline_ns : ferryi_deadline_ms(1000));
	}
	rc = call.state == CALL_DONE ? 0 : -ETIMEDOUT;
	ferryi_mutex_unlock(&loop->lock);
	return rc;
}

struct event_base *ferryi_loop_base(struct ferryi_loop *loop)
{
	return loop->base;
}
