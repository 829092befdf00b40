/* common/base/lock: the order is kept, conditions time out. Broken order is tried in child processes. */
#include "unit.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "lock.h"

static void lock__rising_ranks__taken(void **state)
{
	struct ferryi_mutex outer = FERRYI_MUTEX_INIT(FERRYI_RANK_FERRY);
	struct ferryi_mutex inner;

	(void)state;
	ferryi_mutex_init(&inner, FERRYI_RANK_LEAF);
	for (int i = 0; i < 3; i++) {
		ferryi_mutex_lock(&outer);
		ferryi_mutex_lock(&inner);
		ferryi_assert_held(&outer);
		ferryi_assert_held(&inner);
		/* Released in any order. */
		ferryi_mutex_unlock(i % 2 ? &inner : &outer);
		ferryi_mutex_unlock(i % 2 ? &outer : &inner);
	}
	ferryi_mutex_fini(&inner);
	ferryi_mutex_fini(&outer);
}

static void *try_it(void *arg)
{
	struct ferryi_mutex *mutex = arg;
	bool taken = ferryi_mutex_trylock(mutex);

	if (taken)
		ferryi_mutex_unlock(mutex);
	return taken ? mutex : NULL;
}

static void *trylock_elsewhere(struct ferryi_mutex *mutex)
{
	pthread_t thread;
	void *result;

	assert_int_equal(pthread_create(&thread, NULL, try_it, mutex), 0);
	assert_int_equal(pthread_join(thread, &result), 0);
	return result;
}

static void trylock__held_by_another__false_then_true(void **state)
{
	struct ferryi_mutex mutex = FERRYI_MUTEX_INIT(FERRYI_RANK_POOL);

	(void)state;
	ferryi_mutex_lock(&mutex);
	assert_null(trylock_elsewhere(&mutex));
	ferryi_mutex_unlock(&mutex);
	assert_non_null(trylock_elsewhere(&mutex));
	ferryi_mutex_fini(&mutex);
}

static void cond__nobody_signals__times_out_with_mutex_held(void **state)
{
	struct ferryi_mutex mutex = FERRYI_MUTEX_INIT(FERRYI_RANK_LEAF);
	pthread_cond_t cond;
	uint64_t deadline = ferryi_deadline_ms(20);
	int rc = 0;

	(void)state;
	ferryi_cond_init(&cond);
	ferryi_mutex_lock(&mutex);
	while (rc == 0)
		rc = ferryi_cond_wait_until(&cond, &mutex, deadline);
	assert_int_equal(rc, -ETIMEDOUT);
	assert_true(ferryi_now_ns() >= deadline);
	ferryi_assert_held(&mutex);
	assert_null(trylock_elsewhere(&mutex));
	assert_int_equal(ferryi_cond_wait_until(&cond, &mutex, 0), -ETIMEDOUT);
	ferryi_mutex_unlock(&mutex);
	pthread_cond_destroy(&cond);
	ferryi_mutex_fini(&mutex);
}

struct handoff {
	struct ferryi_mutex mutex;
	pthread_cond_t cond;
	bool ready; /* protected by mutex */
};

static void *signaller(void *arg)
{
	struct handoff *h = arg;

	ferryi_mutex_lock(&h->mutex);
	h->ready = true;
	pthread_cond_signal(&h->cond);
	ferryi_mutex_unlock(&h->mutex);
	return NULL;
}

static void cond__signalled__returns_before_deadline(void **state)
{
	struct handoff h = {.mutex = FERRYI_MUTEX_INIT(FERRYI_RANK_LEAF)};
	uint64_t deadline = ferryi_deadline_ms(60000);
	pthread_t thread;

	(void)state;
	ferryi_cond_init(&h.cond);
	ferryi_mutex_lock(&h.mutex);
	assert_int_equal(pthread_create(&thread, NULL, signaller, &h), 0);
	while (!h.ready)
		assert_int_equal(ferryi_cond_wait_until(&h.cond, &h.mutex, deadline), 0);
	ferryi_mutex_unlock(&h.mutex);
	assert_int_equal(pthread_join(thread, NULL), 0);
	pthread_cond_destroy(&h.cond);
	ferryi_mutex_fini(&h.mutex);
}

static void remaining__past_near_and_far_deadlines__clamped(void **state)
{
	(void)state;
	assert_int_equal(ferryi_remaining_ms(0), 0);
	assert_int_equal(ferryi_remaining_ms(ferryi_now_ns()), 0);
	assert_in_range(ferryi_remaining_ms(ferryi_deadline_ms(60000)), 1, 60000);
	assert_int_equal(ferryi_remaining_ms(UINT64_MAX), 1000000);
}

#ifdef FERRYI_LOCK_DEBUG

static struct ferryi_mutex low = FERRYI_MUTEX_INIT(FERRYI_RANK_FERRY);
static struct ferryi_mutex high = FERRYI_MUTEX_INIT(FERRYI_RANK_LEAF);
static struct ferryi_mutex high_too = FERRYI_MUTEX_INIT(FERRYI_RANK_LEAF);

static void falling_rank(void)
{
	ferryi_mutex_lock(&high);
	ferryi_mutex_lock(&low);
}

static void equal_rank(void)
{
	ferryi_mutex_lock(&high);
	ferryi_mutex_lock(&high_too);
}

static void own_lock_again(void)
{
	ferryi_mutex_lock(&low);
	ferryi_mutex_lock(&low);
}

static void below_a_tried_lock(void)
{
	if (ferryi_mutex_trylock(&high))
		ferryi_mutex_lock(&low);
}

static void unlock_of_free_lock(void)
{
	ferryi_mutex_unlock(&low);
}

static void assert_held_of_free_lock(void)
{
	ferryi_assert_held(&low);
}

/* Runs fn in a child, which must abort and say `word` on one line. */
static void expect_abort(void (*fn)(void), const char *word)
{
	char text[512];
	int fds[2];
	int status;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		const struct rlimit no_core = {0, 0};

		setrlimit(RLIMIT_CORE, &no_core);
		signal(SIGABRT, SIG_DFL);
		dup2(fds[1], STDERR_FILENO);
		fn();
		_exit(0);
	}
	close(fds[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	n = read(fds[0], text, sizeof(text) - 1);
	close(fds[0]);
	assert_true(n > 0);
	text[n] = '\0';
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
	assert_non_null(strstr(text, word));
}

static void lock__order_broken__aborts_with_both_ranks(void **state)
{
	(void)state;
	expect_abort(falling_rank, "of rank 1: taken while");
	expect_abort(equal_rank, "is held");
	expect_abort(own_lock_again, "is held");
	expect_abort(below_a_tried_lock, "is held");
}

static void unlock_and_assert__not_held__abort(void **state)
{
	(void)state;
	expect_abort(unlock_of_free_lock, "not held");
	expect_abort(assert_held_of_free_lock, "not held");
}

static void trylock__falling_rank__allowed(void **state)
{
	(void)state;
	ferryi_mutex_lock(&high);
	assert_true(ferryi_mutex_trylock(&low));
	ferryi_mutex_unlock(&low);
	ferryi_mutex_unlock(&high);
}

#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lock__rising_ranks__taken),
		cmocka_unit_test(trylock__held_by_another__false_then_true),
		cmocka_unit_test(cond__nobody_signals__times_out_with_mutex_held),
		cmocka_unit_test(cond__signalled__returns_before_deadline),
		cmocka_unit_test(remaining__past_near_and_far_deadlines__clamped),
#ifdef FERRYI_LOCK_DEBUG
		cmocka_unit_test(lock__order_broken__aborts_with_both_ranks),
		cmocka_unit_test(unlock_and_assert__not_held__abort),
		cmocka_unit_test(trylock__falling_rank__allowed),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
