/*
 * Every allocation of base and proto fails once: the call says that memory ran
 * out, and leaves nothing behind (leaks are the sanitizer's to see). The linker
 * puts these functions in place of the C library's. One thread.
 */
#include "unit.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "messages.h"
#include "param.h"

/* Allocations until one fails; 0: none does. */
static unsigned fail_in;
static bool failed;

static bool fails_now(void)
{
	if (fail_in == 0 || --fail_in > 0)
		return false;
	failed = true;
	return true;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
char *__wrap_strdup(const char *text);

void *__wrap_malloc(size_t size)
{
	return fails_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails_now() ? NULL : __real_calloc(n, size);
}

char *__wrap_strdup(const char *text)
{
	return fails_now() ? NULL : __real_strdup(text);
}

/* Calls fn with its first, second, ... allocation failing, until it makes no more. */
static void each_failure(int (*fn)(char *why, size_t why_len), int want)
{
	for (unsigned n = 1;; n++) {
		char why[FERRYI_PARAM_ERR_LEN] = "";
		int rc;

		fail_in = n;
		failed = false;
		rc = fn(why, sizeof(why));
		fail_in = 0;
		if (!failed) {
			assert_int_equal(rc, 0);
			assert_true(n > 1);
			return;
		}
		assert_int_equal(rc, want);
		assert_non_null(strstr(why, "out of memory"));
	}
}

/* ---- proto ---- */

static uint8_t *frame;
static size_t frame_len;
static enum ferryi_role receiver;

static int decode(char *why, size_t why_len)
{
	Farferry__Envelope *envelope = NULL;
	int rc = ferryi_frame_decode(receiver, frame, frame_len, &envelope, why, why_len);

	assert_int_equal(rc == 0, envelope != NULL);
	ferryi_envelope_free(&envelope);
	return rc;
}

static void decode__each_allocation_fails__enomem(void **state)
{
	(void)state;
	for (Farferry__Envelope__BodyCase body = FERRYT_BODY_FIRST; body <= FERRYT_BODY_LAST; body++) {
		Farferry__Envelope *envelope = ferryt_message(body);

		assert_int_equal(ferryi_frame_encode(envelope, &frame, &frame_len), 0);
		receiver = ferryt_receiver(body);
		each_failure(decode, -ENOMEM);
		free(frame);
		ferryi_envelope_free(&envelope);
	}
}

static void encode__allocation_fails__enomem(void **state)
{
	Farferry__Envelope *envelope = ferryt_message(FARFERRY__ENVELOPE__BODY_HELLO);
	uint8_t *bytes = NULL;
	size_t len = 7;

	(void)state;
	fail_in = 1;
	assert_int_equal(ferryi_frame_encode(envelope, &bytes, &len), -ENOMEM);
	fail_in = 0;
	assert_null(bytes);
	assert_int_equal(len, 7);
	ferryi_envelope_free(&envelope);
}

/* ---- parameters ---- */

struct config {
	const char *name;
	uint64_t number;
};

static const struct ferryi_param table[] = {
	{.name = "name", .type = FERRYI_PARAM_STRING, .offset = offsetof(struct config, name), .deflt = "x"},
	{.name = "number", .type = FERRYI_PARAM_U64, .offset = offsetof(struct config, number), .deflt = "1"},
	{.name = NULL},
};

static int params(char *why, size_t why_len)
{
	struct config cfg = {0};
	char words[][16] = {"prog", "--name=longer", "--number=2"};
	char *argv[] = {words[0], words[1], words[2], NULL};
	int first = 0;
	int rc = ferryi_params_init(table, &cfg, why, why_len);

	if (rc == 0)
		rc = ferryi_params_args(table, &cfg, 3, argv, &first, why, why_len);
	if (rc == 0)
		assert_string_equal(cfg.name, "longer");
	ferryi_params_fini(table, &cfg);
	return rc;
}

static void params__each_allocation_fails__einval_says_memory(void **state)
{
	(void)state;
	each_failure(params, -EINVAL);
}

static int ignore_pair(void *ctx, const char *key, const char *value, char *err, size_t err_len)
{
	(void)ctx;
	(void)key;
	(void)value;
	(void)err;
	(void)err_len;
	return 0;
}

static int keyvals(char *why, size_t why_len)
{
	return ferryi_keyvals_parse("a=1,b=2", ignore_pair, NULL, why, why_len);
}

static void keyvals__allocation_fails__einval_says_memory(void **state)
{
	(void)state;
	each_failure(keyvals, -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decode__each_allocation_fails__enomem),
		cmocka_unit_test(encode__allocation_fails__enomem),
		cmocka_unit_test(params__each_allocation_fails__einval_says_memory),
		cmocka_unit_test(keyvals__allocation_fails__einval_says_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
