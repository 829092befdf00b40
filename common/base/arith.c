/* Sizes and numbers as text, with every overflow caught. Pure functions: any thread. */
#include "arith.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
	char letter;
	unsigned shift;
} units[] = {{'T', 40}, {'G', 30}, {'M', 20}, {'K', 10}};

#define NUNITS (sizeof(units) / sizeof(units[0]))

int ferryi_u32(uint64_t value, uint32_t *out)
{
	if (value > UINT32_MAX)
		return -ERANGE;
	*out = (uint32_t)value;
	return 0;
}

static int digit_of(char c, unsigned base)
{
	int d = -1;

	if (c >= '0' && c <= '9')
		d = c - '0';
	else if (c >= 'a' && c <= 'f')
		d = c - 'a' + 10;
	else if (c >= 'A' && c <= 'F')
		d = c - 'A' + 10;
	return d >= 0 && (unsigned)d < base ? d : -1;
}

/*
 * The digits at *text; *text is left after the last of them. Unlike strtoull:
 * no white space, no sign. All digits are consumed even past an overflow, so
 * that trailing text is told from a number too large.
 */
static int parse_digits(const char **text, unsigned base, uint64_t *out)
{
	const char *p = *text;
	uint64_t value = 0;
	int rc = 0;

	if (digit_of(*p, base) < 0)
		return -EINVAL;
	for (int d; (d = digit_of(*p, base)) >= 0; p++) {
		if (rc == 0 && (__builtin_mul_overflow(value, (uint64_t)base, &value) ||
				__builtin_add_overflow(value, (uint64_t)d, &value)))
			rc = -ERANGE;
	}
	*text = p;
	*out = value;
	return rc;
}

int ferryi_parse_size(const char *text, uint64_t *out_bytes)
{
	uint64_t value = 0;

	if (!text)
		return -EINVAL;

	int rc = parse_digits(&text, 10, &value);

	if (rc == -EINVAL)
		return rc;
	if (*text) {
		size_t i = 0;

		while (i < NUNITS && units[i].letter != *text && units[i].letter + ('a' - 'A') != *text)
			i++;
		if (i == NUNITS || text[1])
			return -EINVAL;
		if (value > UINT64_MAX >> units[i].shift)
			rc = -ERANGE;
		value <<= units[i].shift;
	}
	if (rc == 0)
		*out_bytes = value;
	return rc;
}

const char *ferryi_format_size(uint64_t bytes, char *buf, size_t buf_len)
{
	size_t top = 0;

	while (top < NUNITS && bytes >> units[top].shift == 0)
		top++;
	if (top == NUNITS) {
		snprintf(buf, buf_len, "%llu", (unsigned long long)bytes);
		return buf;
	}

	/* Exact in the largest unit, if need be with one decimal: 2G, 1.5M. */
	uint64_t unit = 1ULL << units[top].shift;
	uint64_t whole = bytes / unit;
	uint64_t rest10 = bytes % unit * 10; /* below 10 T: no overflow */

	if (rest10 == 0) {
		snprintf(buf, buf_len, "%llu%c", (unsigned long long)whole, units[top].letter);
		return buf;
	}
	if (rest10 % unit == 0) {
		snprintf(buf, buf_len, "%llu.%llu%c", (unsigned long long)whole,
			 (unsigned long long)(rest10 / unit), units[top].letter);
		return buf;
	}
	/* Exact and still short in a smaller one: 2050M. */
	for (size_t i = top + 1; i < NUNITS; i++) {
		uint64_t n = bytes >> units[i].shift;

		if (n << units[i].shift == bytes && n < 10000) {
			snprintf(buf, buf_len, "%llu%c", (unsigned long long)n, units[i].letter);
			return buf;
		}
	}
	if (bytes < 10000) {
		snprintf(buf, buf_len, "%llu", (unsigned long long)bytes);
		return buf;
	}

	uint64_t tenths = (rest10 + unit / 2) / unit;

	snprintf(buf, buf_len, "%llu.%llu%c", (unsigned long long)(whole + tenths / 10),
		 (unsigned long long)(tenths % 10), units[top].letter);
	return buf;
}

int ferryi_parse_u64(const char *text, uint64_t *out)
{
	unsigned base = 10;
	uint64_t value = 0;

	if (!text)
		return -EINVAL;
	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
		base = 16;
		text += 2;
	}

	int rc = parse_digits(&text, base, &value);

	if (*text)
		return -EINVAL;
	if (rc == 0)
		*out = value;
	return rc;
}
