/* common/base/err and counter. One thread. */
#include "unit.h"

#include <errno.h>
#include <string.h>

#include "counter.h"
#include "err.h"

static void err__room__sentence_and_code(void **state)
{
	char err[32] = "";

	(void)state;
	assert_int_equal(ferryi_err(-ENXIO, err, sizeof(err), "no pool '%s'", "hot"), -ENXIO);
	assert_string_equal(err, "no pool 'hot'");
}

static void err__little_or_no_room__cut_or_left_alone(void **state)
{
	char err[6] = "abcde";

	(void)state;
	assert_int_equal(ferryi_err(-EIO, err, 4, "%d", 123456), -EIO);
	assert_string_equal(err, "123");
	assert_int_equal(ferryi_err(-EIO, err, 0, "x"), -EIO);
	assert_string_equal(err, "123");
	assert_int_equal(ferryi_err(-EIO, NULL, 9, "x"), -EIO);
}

static void counter__up_and_down__sum(void **state)
{
	ferryi_counter_t gauge = 0;

	(void)state;
	ferryi_count(&gauge, 5);
	ferryi_count(&gauge, 2);
	ferryi_uncount(&gauge, 6);
	assert_int_equal(ferryi_counter_read(&gauge), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(err__room__sentence_and_code),
		cmocka_unit_test(err__little_or_no_room__cut_or_left_alone),
		cmocka_unit_test(counter__up_and_down__sum),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
