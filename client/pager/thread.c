/* See thread.h. */
#include "thread.h"

#include <signal.h>

int ferryi_thread_start(pthread_t *thread, void *(*main)(void *arg), void *arg)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int rc = pthread_create(thread, NULL, main, arg);

	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -rc;
}
