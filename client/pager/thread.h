/* The library's threads: all signals blocked, so that none of the application's handlers runs on them. */
#ifndef FERRYI_PAGER_THREAD_H
#define FERRYI_PAGER_THREAD_H

#include <pthread.h>
#include <stddef.h>

/* 0 or negative errno. */
int ferryi_thread_start(pthread_t *thread, void *(*main)(void *arg), void *arg);

/* The same on a stack of the caller's, page aligned, which must live as long as the thread. */
int ferryi_thread_start_on(pthread_t *thread, void *stack, size_t stack_len, void *(*main)(void *arg),
			   void *arg);

#endif
