/* common/base/arith: overflow, text of sizes and numbers. One thread. */
#include "unit.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "arith.h"

static void range_ok__edges_and_overflow__judged(void **state)
{
	(void)state;
	assert_true(ferryi_range_ok(0, 0, 0));
	assert_true(ferryi_range_ok(10, 0, 10));
	assert_false(ferryi_range_ok(11, 0, 10));
	assert_true(ferryi_range_ok(4, 6, 10));
	assert_false(ferryi_range_ok(4, 7, 10));
	assert_false(ferryi_range_ok(UINT64_MAX, 2, 10));
	assert_false(ferryi_range_ok(1, UINT64_MAX, 10));
	assert_true(ferryi_range_ok(1, UINT64_MAX - 1, UINT64_MAX));
}

static void range_ok__random__equals_wide_arithmetic(void **state)
{
	struct ferryt_rand r = {1};

	(void)state;
	for (int i = 0; i < 200000; i++) {
		/* Shifted, so that all magnitudes meet. */
		uint64_t off = ferryt_rand_next(&r) >> ferryt_rand_below(&r, 64);
		uint64_t len = ferryt_rand_next(&r) >> ferryt_rand_below(&r, 64);
		uint64_t size = ferryt_rand_next(&r) >> ferryt_rand_below(&r, 64);
		bool want = (unsigned __int128)off + len <= size;

		assert_int_equal(ferryi_range_ok(off, len, size), want);
	}
}

static void align__random__is_nearest_multiple(void **state)
{
	struct ferryt_rand r = {2};

	(void)state;
	for (int i = 0; i < 100000; i++) {
		uint64_t align = 1ULL << ferryt_rand_below(&r, 40);
		uint64_t value = ferryt_rand_next(&r) >> 8;
		uint64_t up = ferryi_align_up(value, align);
		uint64_t down = ferryi_align_down(value, align);

		assert_true(up % align == 0 && down % align == 0);
		assert_true(down <= value && value <= up && up - down <= align);
		assert_int_equal(ferryi_is_aligned(value, align), up == down);
	}
}

static void u32__too_large__erange_and_untouched(void **state)
{
	uint32_t out = 7;

	(void)state;
	assert_int_equal(ferryi_u32(UINT32_MAX, &out), 0);
	assert_int_equal(out, UINT32_MAX);
	out = 7;
	assert_int_equal(ferryi_u32((uint64_t)UINT32_MAX + 1, &out), -ERANGE);
	assert_int_equal(out, 7);
}

static void parse_size__valid__bytes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} rows[] = {
		{"0", 0},
		{"4096", 4096},
		{"64K", 64ULL << 10},
		{"64k", 64ULL << 10},
		{"3M", 3ULL << 20},
		{"2G", 2ULL << 30},
		{"2g", 2ULL << 30},
		{"1T", 1ULL << 40},
		{"007", 7},
		{"18446744073709551615", UINT64_MAX},
		{"16777215T", 16777215ULL << 40},
		{"0T", 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t out = 1;

		assert_int_equal(ferryi_parse_size(rows[i].text, &out), 0);
		assert_int_equal(out, rows[i].bytes);
	}
}

static void parse_size__invalid__einval_and_untouched(void **state)
{
	static const char *const rows[] = {"",
					   "K",
					   " 1",
					   "1 ",
					   "1 K",
					   "+1",
					   "-1",
					   "1KB",
					   "1KiB",
					   "x",
					   "1.5G",
					   "1X",
					   "0x10",
					   "1\n",
					   "1P",
					   "G1",
					   "9999999999999999999999x"};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t out = 99;

		assert_int_equal(ferryi_parse_size(rows[i], &out), -EINVAL);
		assert_int_equal(out, 99);
	}
	assert_int_equal(ferryi_parse_size(NULL, &(uint64_t){0}), -EINVAL);
}

static void parse_size__too_large__erange_and_untouched(void **state)
{
	static const char *const rows[] = {"18446744073709551616", "16777216T", "99999999999999999999999",
					   "18014398509481984K"};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t out = 99;

		assert_int_equal(ferryi_parse_size(rows[i], &out), -ERANGE);
		assert_int_equal(out, 99);
	}
}

static void parse_u64__decimal_and_hexadecimal__value(void **state)
{
	uint64_t out;

	(void)state;
	assert_int_equal(ferryi_parse_u64("0", &out), 0);
	assert_int_equal(out, 0);
	assert_int_equal(ferryi_parse_u64("18446744073709551615", &out), 0);
	assert_int_equal(out, UINT64_MAX);
	assert_int_equal(ferryi_parse_u64("0xFFffFFffFFffFFff", &out), 0);
	assert_int_equal(out, UINT64_MAX);
	assert_int_equal(ferryi_parse_u64("0X10", &out), 0);
	assert_int_equal(out, 16);
}

static void parse_u64__invalid__einval_or_erange(void **state)
{
	static const char *const bad[] = {
		"", "0x", "x", "1x", "-1", "+1", " 1", "1 ", "0xg", "1K", "99999999999999999999z"};
	static const char *const large[] = {"18446744073709551616", "0x10000000000000000"};
	uint64_t out = 5;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(ferryi_parse_u64(bad[i], &out), -EINVAL);
	for (size_t i = 0; i < sizeof(large) / sizeof(large[0]); i++)
		assert_int_equal(ferryi_parse_u64(large[i], &out), -ERANGE);
	assert_int_equal(ferryi_parse_u64(NULL, &out), -EINVAL);
	assert_int_equal(out, 5);
}

static void format_size__table__shortest_text(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} rows[] = {
		{0, "0"},
		{1000, "1000"},
		{1023, "1023"},
		{1024, "1K"},
		{4096, "4K"},
		{1536ULL << 10, "1.5M"},
		{2ULL << 30, "2G"},
		{2050ULL << 20, "2050M"},
		{(2ULL << 30) + 4096, "2.0G"},
		{1500, "1500"},
		{1234567, "1.2M"},
		{UINT64_MAX, "16777216.0T"},
	};
	char buf[16];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_string_equal(ferryi_format_size(rows[i].bytes, buf, sizeof(buf)), rows[i].text);
}

static void format_size__random__fits_and_is_near(void **state)
{
	struct ferryt_rand r = {3};

	(void)state;
	for (int i = 0; i < 100000; i++) {
		uint64_t bytes = ferryt_rand_next(&r) >> ferryt_rand_below(&r, 64);
		char buf[16];
		double number;
		char unit = 0;

		if (i % 3 == 0)
			bytes &= ~((1ULL << ferryt_rand_below(&r, 50)) - 1);
		ferryi_format_size(bytes, buf, sizeof(buf));
		assert_true(strlen(buf) < sizeof(buf) - 1);
		assert_true(sscanf(buf, "%lf%c", &number, &unit) >= 1);
		if (unit)
			number *= (double)(1ULL << (unit == 'K'	  ? 10
						    : unit == 'M' ? 20
						    : unit == 'G' ? 30
								  : 40));
		assert_true(number >= 0.95 * (double)bytes && number <= 1.05 * (double)bytes);

		/* Without a point the text is exact. */
		uint64_t back = 0;

		if (!strchr(buf, '.')) {
			assert_int_equal(ferryi_parse_size(buf, &back), 0);
			assert_int_equal(back, bytes);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(range_ok__edges_and_overflow__judged),
		cmocka_unit_test(range_ok__random__equals_wide_arithmetic),
		cmocka_unit_test(align__random__is_nearest_multiple),
		cmocka_unit_test(u32__too_large__erange_and_untouched),
		cmocka_unit_test(parse_size__valid__bytes),
		cmocka_unit_test(parse_size__invalid__einval_and_untouched),
		cmocka_unit_test(parse_size__too_large__erange_and_untouched),
		cmocka_unit_test(parse_u64__decimal_and_hexadecimal__value),
		cmocka_unit_test(parse_u64__invalid__einval_or_erange),
		cmocka_unit_test(format_size__table__shortest_text),
		cmocka_unit_test(format_size__random__fits_and_is_near),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
