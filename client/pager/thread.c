/* See thread.h. */
#include "thread.h"

#include <signal.h>

static int start(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *arg), void *arg)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int rc = pthread_create(thread, attr, main, arg);

	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -rc;
}

int ferryi_thread_start(pthread_t *thread, void *(*main)(void *arg), void *arg)
{
	return start(thread, NULL, main, arg);
}

int ferryi_thread_start_on(pthread_t *thread, void *stack, size_t stack_len, void *(*main)(void *arg),
			   void *arg)
{
	pthread_attr_t attr;
	int rc = -pthread_attr_init(&attr);

	if (rc)
		return rc;
	rc = -pthread_attr_setstack(&attr, stack, stack_len);
	if (!rc)
		rc = start(thread, &attr, main, arg);
	pthread_attr_destroy(&attr);
	return rc;
}
