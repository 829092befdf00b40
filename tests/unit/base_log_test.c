/*
 * common/base/log: stderr is a packet socket here, so that a packet is exactly
 * one write(2). One thread, but for the last test.
 */
#include "unit.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"

static int reader = -1;
static int real_stderr = -1;

static int redirect(void **state)
{
	int fds[2];

	(void)state;
	unsetenv("JOURNAL_STREAM");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) != 0)
		return -1;
	real_stderr = dup(STDERR_FILENO);
	dup2(fds[1], STDERR_FILENO);
	close(fds[1]);
	reader = fds[0];
	ferryi_log_set_ident("unit");
	ferryi_log_set_level(FERRYI_LOG_NOTICE);
	return 0;
}

static int restore(void **state)
{
	(void)state;
	dup2(real_stderr, STDERR_FILENO);
	close(real_stderr);
	close(reader);
	return 0;
}

/* The next record, or "" if there is none. */
static const char *next_record(void)
{
	static char text[4096];
	ssize_t n = recv(reader, text, sizeof(text) - 1, MSG_DONTWAIT);

	text[n > 0 ? n : 0] = '\0';
	return text;
}

static void log__at_and_above_level__one_write_each(void **state)
{
	(void)state;
	ferryi_error("lease %d: refused: %s", 7, "pool full");
	assert_string_equal(next_record(), "unit: error: lease 7: refused: pool full\n");
	ferryi_notice("up");
	assert_string_equal(next_record(), "unit: notice: up\n");
	ferryi_info("unseen");
	ferryi_debug("unseen");
	assert_string_equal(next_record(), "");
	ferryi_log_set_level(FERRYI_LOG_DEBUG);
	assert_int_equal(ferryi_log_get_level(), FERRYI_LOG_DEBUG);
	ferryi_info("seen");
	assert_string_equal(next_record(), "unit: info: seen\n");
	ferryi_debug("seen");
	assert_string_equal(next_record(), "unit: debug: seen\n");
	ferryi_warn("seen");
	assert_string_equal(next_record(), "unit: warn: seen\n");
}

static void log__control_characters__stay_one_line(void **state)
{
	(void)state;
	ferryi_error("client '%s'", "a\nferryd: error: forged\r\x1b[2J\x7f");
	assert_string_equal(next_record(), "unit: error: client 'a?ferryd: error: forged??[2J?'\n");
}

static void log__too_long__cut_with_newline(void **state)
{
	char longer[3000];
	const char *text;

	(void)state;
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	ferryi_error("%s", longer);
	text = next_record();
	assert_int_equal(strlen(text), 1024);
	assert_int_equal(text[1023], '\n');
	assert_string_equal(next_record(), "");
}

static void log__errno_before__kept_and_printable(void **state)
{
	(void)state;
	errno = ENOSPC;
	ferryi_error("write: %m");
	assert_int_equal(errno, ENOSPC);
	assert_string_equal(next_record(), "unit: error: write: No space left on device\n");
}

static void log__stderr_is_journal__priority_prefix(void **state)
{
	struct stat st;
	char stream[64];

	(void)state;
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(stream, sizeof(stream), "%lu:%lu", (unsigned long)st.st_dev, (unsigned long)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
	ferryi_log_set_ident("unit");
	ferryi_log_set_level(FERRYI_LOG_DEBUG);
	ferryi_error("e");
	assert_string_equal(next_record(), "<3>unit: error: e\n");
	ferryi_warn("w");
	assert_string_equal(next_record(), "<4>unit: warn: w\n");
	ferryi_debug("d");
	assert_string_equal(next_record(), "<7>unit: debug: d\n");
}

static void log__journal_stream_of_another_file__no_prefix(void **state)
{
	(void)state;
	setenv("JOURNAL_STREAM", "1:1", 1);
	ferryi_log_set_ident("unit");
	ferryi_error("e");
	assert_string_equal(next_record(), "unit: error: e\n");
}

static void level_parse__names__levels(void **state)
{
	static const char *const names[] = {"error", "warn", "notice", "info", "debug"};
	enum ferryi_log_level level = FERRYI_LOG_INFO;

	(void)state;
	assert_int_equal(ferryi_log_level_parse("loud", &level), -EINVAL);
	assert_int_equal(ferryi_log_level_parse("", &level), -EINVAL);
	assert_int_equal(ferryi_log_level_parse(NULL, &level), -EINVAL);
	assert_int_equal(level, FERRYI_LOG_INFO);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(ferryi_log_level_parse(names[i], &level), 0);
		assert_int_equal(level, i);
	}
}

static void strerror__either_sign_and_unknown__static_text(void **state)
{
	(void)state;
	assert_string_equal(ferryi_strerror(ENOENT), "No such file or directory");
	assert_string_equal(ferryi_strerror(-ENOENT), "No such file or directory");
	assert_string_equal(ferryi_strerror(123456), "Unknown error");
	assert_string_equal(ferryi_strerror(INT_MIN), "Unknown error");
	assert_string_equal(ferryi_strerror(0), "Success");
}

enum { THREADS = 4, RECORDS = 20 };

static void *writer(void *arg)
{
	for (int i = 0; i < RECORDS; i++)
		ferryi_error("thread %s record %d", (const char *)arg, i);
	return NULL;
}

static void log__many_threads__records_whole(void **state)
{
	static char names[THREADS][2] = {"a", "b", "c", "d"};
	pthread_t threads[THREADS];

	(void)state;
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, writer, names[i]), 0);
	for (int i = 0; i < THREADS * RECORDS; i++) {
		struct pollfd p = {.fd = reader, .events = POLLIN};
		char name;
		int number;
		char end;

		assert_int_equal(poll(&p, 1, 60000), 1);
		assert_int_equal(
			sscanf(next_record(), "unit: error: thread %c record %d%c", &name, &number, &end), 3);
		assert_int_equal(end, '\n');
	}
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
}

#define LOG_TEST(fn) cmocka_unit_test_setup_teardown(fn, redirect, restore)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOG_TEST(log__at_and_above_level__one_write_each),
		LOG_TEST(log__control_characters__stay_one_line),
		LOG_TEST(log__too_long__cut_with_newline),
		LOG_TEST(log__errno_before__kept_and_printable),
		LOG_TEST(log__stderr_is_journal__priority_prefix),
		LOG_TEST(log__journal_stream_of_another_file__no_prefix),
		LOG_TEST(log__many_threads__records_whole),
		cmocka_unit_test(level_parse__names__levels),
		cmocka_unit_test(strerror__either_sign_and_unknown__static_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
