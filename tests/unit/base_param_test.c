/* common/base/param: one table through every source of values. One thread. */
#include "unit.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "param.h"

struct config {
	bool verbose;
	uint64_t threads;
	uint64_t size;
	uint64_t any;
	uint64_t deadline_ms;
	const char *name;
	int colour;
	unsigned calls;
	char last_call[64];
};

static int on_pool(void *cfg, const char *value, char *err, size_t err_len)
{
	struct config *c = cfg;

	if (strcmp(value, "bad") == 0) {
		snprintf(err, err_len, "pool is bad: use a good one");
		return -EINVAL;
	}
	if (strcmp(value, "mute") == 0)
		return -EIO;
	c->calls++;
	snprintf(c->last_call, sizeof(c->last_call), "%s", value);
	return 0;
}

static const char *const colours[] = {"red", "green", "blue", NULL};

#define ROW(type_, member) .type = FERRYI_PARAM_##type_, .offset = offsetof(struct config, member)

static const struct ferryi_param table[] = {
	{.name = "verbose", .short_opt = 'v', ROW(FLAG, verbose), .text = "Say more."},
	{.name = "threads",
	 .short_opt = 't',
	 ROW(U64, threads),
	 .min = 1,
	 .max = 64,
	 .deflt = "4",
	 .env = "FERRYT_THREADS",
	 .metavar = "N",
	 .text = "Threads that work."},
	{.name = "size",
	 ROW(SIZE, size),
	 .min = 2 << 20,
	 .max = 1ULL << 40,
	 .deflt = "1G",
	 .env = "FERRYT_SIZE",
	 .metavar = "SIZE",
	 .unit = "bytes",
	 .text = "Size of it all."},
	{.name = "any", ROW(U64, any), .text = "Any number."},
	{.name = "deadline",
	 ROW(MS, deadline_ms),
	 .min = 10,
	 .max = 60000,
	 .deflt = "10s",
	 .unit = "ms",
	 .text = "How long a fault may take."},
	{.name = "name",
	 .short_opt = 'n',
	 ROW(STRING, name),
	 .deflt = "hot",
	 .env = "FERRYT_NAME",
	 .text = "Name."},
	{.name = "colour", ROW(ENUM, colour), .values = colours, .deflt = "green", .text = "Colour."},
	{.name = "pool",
	 .type = FERRYI_PARAM_CALL,
	 .call = on_pool,
	 .metavar = "SPEC",
	 .text = "A pool; may repeat."},
	{.name = NULL},
};

static struct config cfg;
static char err[FERRYI_PARAM_ERR_LEN];

static int fresh(void **state)
{
	(void)state;
	memset(&cfg, 0, sizeof(cfg));
	memset(err, 0, sizeof(err));
	unsetenv("FERRYT_THREADS");
	unsetenv("FERRYT_SIZE");
	unsetenv("FERRYT_NAME");
	return ferryi_params_init(table, &cfg, err, sizeof(err));
}

static int done(void **state)
{
	(void)state;
	ferryi_params_fini(table, &cfg);
	return cfg.name != NULL;
}

static void says(const char *word)
{
	if (!strstr(err, word))
		fail_msg("'%s' is not in: %s", word, err);
	assert_null(strchr(err, '\n'));
}

static int set(const char *name, const char *value)
{
	err[0] = '\0';
	return ferryi_params_set(table, &cfg, name, value, err, sizeof(err));
}

/* Parses the words up to NULL as a command line; *first gets the index of the first operand. */
static int args(int *first, ...)
{
	char *argv[16] = {(char[]){"prog"}};
	int argc = 1;
	va_list list;

	err[0] = '\0';
	va_start(list, first);
	while ((argv[argc] = va_arg(list, char *)) != NULL)
		argc++;
	va_end(list);
	return ferryi_params_args(table, &cfg, argc, argv, first, err, sizeof(err));
}

static void init__defaults__applied(void **state)
{
	(void)state;
	assert_false(cfg.verbose);
	assert_int_equal(cfg.threads, 4);
	assert_int_equal(cfg.size, 1ULL << 30);
	assert_int_equal(cfg.any, 0);
	assert_int_equal(cfg.deadline_ms, 10000);
	assert_string_equal(cfg.name, "hot");
	assert_int_equal(cfg.colour, 1);
	assert_int_equal(cfg.calls, 0);
}

static void init__bad_default__refused_with_name(void **state)
{
	const struct ferryi_param bad[] = {
		{.name = "level", ROW(U64, any), .max = 5, .deflt = "9", .text = ""},
		{.name = NULL},
	};

	(void)state;
	assert_int_equal(ferryi_params_init(bad, &cfg, err, sizeof(err)), -EINVAL);
	says("level: '9' is out of range: give from 0 to 5");
}

static void set__each_type__stored(void **state)
{
	(void)state;
	assert_int_equal(set("verbose", NULL), 0);
	assert_true(cfg.verbose);
	assert_int_equal(set("verbose", "no"), 0);
	assert_false(cfg.verbose);
	assert_int_equal(set("verbose", "true"), 0);
	assert_true(cfg.verbose);
	assert_int_equal(set("verbose", "0"), 0);
	assert_false(cfg.verbose);
	assert_int_equal(set("threads", "64"), 0);
	assert_int_equal(cfg.threads, 64);
	assert_int_equal(set("size", "2M"), 0);
	assert_int_equal(cfg.size, 2 << 20);
	assert_int_equal(set("any", "18446744073709551615"), 0);
	assert_true(cfg.any == UINT64_MAX);
	assert_int_equal(set("deadline", "250"), 0);
	assert_int_equal(cfg.deadline_ms, 250);
	assert_int_equal(set("deadline", "300ms"), 0);
	assert_int_equal(cfg.deadline_ms, 300);
	assert_int_equal(set("deadline", "60s"), 0);
	assert_int_equal(cfg.deadline_ms, 60000);
	assert_int_equal(set("name", "cold"), 0);
	assert_int_equal(set("name", "colder"), 0);
	assert_string_equal(cfg.name, "colder");
	assert_int_equal(set("colour", "blue"), 0);
	assert_int_equal(cfg.colour, 2);
	assert_int_equal(set("pool", "name=a"), 0);
	assert_int_equal(set("pool", "name=b"), 0);
	assert_int_equal(cfg.calls, 2);
	assert_string_equal(cfg.last_call, "name=b");
}

static void set__unknown_name__nearest_named(void **state)
{
	(void)state;
	assert_int_equal(set("thread", "1"), -EINVAL);
	says("unknown parameter 'thread': did you mean 'threads'?");
	assert_int_equal(set("frobnicate", "1"), -EINVAL);
	says("unknown parameter 'frobnicate': see --help");
	assert_int_equal(set("", "1"), -EINVAL);
	assert_int_equal(set("a-name-that-is-longer-than-any-row-of-any-table-could-ever-be", "1"), -EINVAL);
}

static void set__out_of_range__range_in_message_and_untouched(void **state)
{
	(void)state;
	assert_int_equal(set("threads", "0"), -EINVAL);
	says("threads: '0' is out of range: give from 1 to 64");
	assert_int_equal(set("threads", "65"), -EINVAL);
	says("from 1 to 64");
	assert_int_equal(set("threads", "99999999999999999999999"), -EINVAL);
	says("from 1 to 64");
	assert_int_equal(cfg.threads, 4);
	assert_int_equal(set("size", "2T"), -EINVAL);
	says("give from 2M to 1T");
	assert_int_equal(set("size", "99999999T"), -EINVAL);
	says("from 2M to 1T");
	assert_int_equal(cfg.size, 1ULL << 30);
	assert_int_equal(set("deadline", "61s"), -EINVAL);
	says("from 10 to 60000 ms");
	assert_int_equal(set("deadline", "5"), -EINVAL);
	assert_int_equal(set("deadline", "18446744073709551615s"), -EINVAL);
	says("out of range");
	assert_int_equal(set("deadline", "111111111111111111111111111111111111"), -EINVAL);
	says("out of range");
	assert_int_equal(cfg.deadline_ms, 10000);
	assert_int_equal(set("any", "18446744073709551616"), -EINVAL);
	says("0 or more");
}

static void set__size_without_unit__message_says_bytes(void **state)
{
	(void)state;
	assert_int_equal(set("size", "2"), -EINVAL);
	says("'2' is out of range: give from 2M to 1T (a number without K, M, G or T is bytes)");
}

static void set__wrong_text__message_says_what_is_wanted(void **state)
{
	(void)state;
	assert_int_equal(set("threads", "many"), -EINVAL);
	says("threads: 'many' is not a whole number");
	assert_int_equal(set("size", "2GB"), -EINVAL);
	says("such as 512M");
	assert_int_equal(set("deadline", "5h"), -EINVAL);
	says("such as 500ms or 10s");
	assert_int_equal(set("deadline", "ms"), -EINVAL);
	assert_int_equal(set("deadline", ""), -EINVAL);
	assert_int_equal(set("deadline", "-5"), -EINVAL);
	assert_int_equal(set("colour", "mauve"), -EINVAL);
	says("colour: 'mauve' is not one of: red, green, blue");
	assert_int_equal(cfg.colour, 1);
	assert_int_equal(set("verbose", "maybe"), -EINVAL);
	says("neither yes nor no");
	assert_int_equal(set("pool", "bad"), -EINVAL);
	says("pool: pool is bad: use a good one");
	assert_int_equal(set("pool", "mute"), -EINVAL);
	says("pool: not accepted");
	assert_int_equal(set("size", NULL), -EINVAL);
	says("size: needs a value: size=SIZE");
}

static void env__set_empty_and_bad__used_ignored_refused(void **state)
{
	(void)state;
	setenv("FERRYT_THREADS", "9", 1);
	setenv("FERRYT_NAME", "", 1);
	assert_int_equal(ferryi_params_env(table, &cfg, err, sizeof(err)), 0);
	assert_int_equal(cfg.threads, 9);
	assert_string_equal(cfg.name, "hot");
	setenv("FERRYT_SIZE", "lots", 1);
	assert_int_equal(ferryi_params_env(table, &cfg, err, sizeof(err)), -EINVAL);
	says("FERRYT_SIZE: 'lots' is not a size");
}

static void args__options_and_operands__stops_at_first_operand(void **state)
{
	int first = -1;

	(void)state;
	assert_int_equal(args(&first, "--threads=8", "--size", "4M", "-v", "-nfoo", "--pool=name=a", "run",
			      "--size=1", NULL),
			 0);
	assert_int_equal(first, 7);
	assert_int_equal(cfg.threads, 8);
	assert_int_equal(cfg.size, 4 << 20);
	assert_true(cfg.verbose);
	assert_string_equal(cfg.name, "foo");
	assert_string_equal(cfg.last_call, "name=a");
}

static void args__double_dash__rest_is_operands(void **state)
{
	int first = -1;

	(void)state;
	assert_int_equal(args(&first, "-vt2", "--", "--threads=9", NULL), 0);
	assert_int_equal(first, 3);
	assert_int_equal(cfg.threads, 2);
	assert_int_equal(args(&first, NULL), 0);
	assert_int_equal(first, 1);
}

static void args__flag_with_value__stored(void **state)
{
	int first;

	(void)state;
	assert_int_equal(args(&first, "--verbose=no", NULL), 0);
	assert_false(cfg.verbose);
	assert_int_equal(args(&first, "--verbose=dunno", NULL), -EINVAL);
	says("--verbose: 'dunno' is neither yes nor no");
}

static void args__unknown_option__named_with_advice(void **state)
{
	int first = 42;

	(void)state;
	assert_int_equal(args(&first, "--pol=x", NULL), -EINVAL);
	says("unknown option '--pol': did you mean '--pool'?");
	assert_int_equal(args(&first, "-v", "--frobnicate", NULL), -EINVAL);
	says("unknown option '--frobnicate': see --help");
	assert_int_equal(args(&first, "-x", NULL), -EINVAL);
	says("unknown option '-x'");
	assert_int_equal(args(&first, "-vx", NULL), -EINVAL);
	says("unknown option '-x'");
	assert_int_equal(args(&first, "--help=now", NULL), -EINVAL);
	says("--help: takes no value");
	assert_int_equal(first, 42);
}

static void args__ambiguous_abbreviation__refused(void **state)
{
	static const struct ferryi_param two[] = {
		{.name = "listen", ROW(U64, any)},
		{.name = "limit", ROW(U64, any)},
		{.name = NULL},
	};
	char *argv[] = {(char[]){"prog"}, (char[]){"--li=3"}, NULL};
	int first;

	(void)state;
	assert_int_equal(ferryi_params_args(two, &cfg, 2, argv, &first, err, sizeof(err)), -EINVAL);
	says("'--li=3' may be several");
}

static void args__value_missing__says_form(void **state)
{
	int first;

	(void)state;
	assert_int_equal(args(&first, "--size", NULL), -EINVAL);
	says("--size: needs a value: --size=SIZE");
	assert_int_equal(args(&first, "-t", NULL), -EINVAL);
	says("--threads: needs a value: --threads=N");
	assert_int_equal(args(&first, "--threads=0", NULL), -EINVAL);
	says("--threads: '0' is out of range: give from 1 to 64");
}

static void args__help_and_version__told_apart(void **state)
{
	int first;

	(void)state;
	assert_int_equal(args(&first, "--help", NULL), -ENODATA);
	assert_int_equal(args(&first, "-h", NULL), -ENODATA);
	assert_int_equal(args(&first, "--version", NULL), -ENOTSUP);
	assert_int_equal(args(&first, "-V", NULL), -ENOTSUP);
	assert_int_equal(args(&first, "prog", "--help", NULL), 0);
}

static void help__every_row__unit_range_default(void **state)
{
	static const char *const words[] = {
		"usage: prog [OPTIONS]",
		"Does things.",
		"-t, --threads=N",
		"from 1 to 64",
		"default: 4",
		"environment: FERRYT_THREADS",
		"--size=SIZE",
		"from 2M to 1T",
		"unit: bytes",
		"from 10 to 60000 ms",
		"red, green, blue",
		"--pool=SPEC",
		"-v, --verbose Say more.",
		"-h, --help",
		"-V, --version",
	};
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	(void)state;
	assert_non_null(out);
	ferryi_params_help(out, "prog [OPTIONS]", "Does things.", table);
	fclose(out);
	/* Lines are wrapped: no line is too long, and the words are there once white space is folded. */
	char *folded = calloc(1, len + 1);
	size_t column = 0;
	size_t n = 0;

	assert_non_null(folded);
	for (size_t i = 0; i < len; i++) {
		bool space = text[i] == ' ' || text[i] == '\n';

		column = text[i] == '\n' ? 0 : column + 1;
		assert_true(column <= 80);
		if (!space || (n && folded[n - 1] != ' '))
			folded[n++] = space ? ' ' : text[i];
	}
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (!strstr(folded, words[i]))
			fail_msg("'%s' is not in:\n%s", words[i], text);
	}
	free(folded);
	free(text);
}

/* ---- key=value lists ---- */

struct pairs {
	char text[128];
	int fail_at; /* number of the call that fails; 0: none */
	int calls;
};

static int on_pair(void *ctx, const char *key, const char *value, char *why, size_t why_len)
{
	struct pairs *p = ctx;
	size_t len = strlen(p->text);

	if (++p->calls == p->fail_at) {
		snprintf(why, why_len, "no '%s'", key);
		return -ENOTDIR;
	}
	snprintf(p->text + len, sizeof(p->text) - len, "[%s>%s]", key, value ? value : "(null)");
	return 0;
}

static void keyvals__pairs__each_passed_on(void **state)
{
	struct pairs p = {.text = ""};

	(void)state;
	assert_int_equal(
		ferryi_keyvals_parse("name=hot,size=4G,private,x=,y=a=b", on_pair, &p, err, sizeof(err)), 0);
	assert_string_equal(p.text, "[name>hot][size>4G][private>(null)][x>][y>a=b]");
}

static void keyvals__malformed__einval(void **state)
{
	static const char *const rows[] = {"", ",", "a=1,", ",a=1", "a=1,,b=2", "=1", "a,=2"};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct pairs p = {.text = ""};

		err[0] = '\0';
		assert_int_equal(ferryi_keyvals_parse(rows[i], on_pair, &p, err, sizeof(err)), -EINVAL);
		says("KEY=VALUE");
	}
}

static void keyvals__setter_fails__first_error_returned(void **state)
{
	struct pairs p = {.fail_at = 2};

	(void)state;
	assert_int_equal(ferryi_keyvals_parse("a=1,b=2,c=3", on_pair, &p, err, sizeof(err)), -ENOTDIR);
	says("no 'b'");
	assert_int_equal(p.calls, 2);
}

#define PARAM_TEST(fn) cmocka_unit_test_setup_teardown(fn, fresh, done)

int main(void)
{
	const struct CMUnitTest tests[] = {
		PARAM_TEST(init__defaults__applied),
		PARAM_TEST(init__bad_default__refused_with_name),
		PARAM_TEST(set__each_type__stored),
		PARAM_TEST(set__unknown_name__nearest_named),
		PARAM_TEST(set__out_of_range__range_in_message_and_untouched),
		PARAM_TEST(set__size_without_unit__message_says_bytes),
		PARAM_TEST(set__wrong_text__message_says_what_is_wanted),
		PARAM_TEST(env__set_empty_and_bad__used_ignored_refused),
		PARAM_TEST(args__options_and_operands__stops_at_first_operand),
		PARAM_TEST(args__double_dash__rest_is_operands),
		PARAM_TEST(args__flag_with_value__stored),
		PARAM_TEST(args__unknown_option__named_with_advice),
		PARAM_TEST(args__ambiguous_abbreviation__refused),
		PARAM_TEST(args__value_missing__says_form),
		PARAM_TEST(args__help_and_version__told_apart),
		PARAM_TEST(help__every_row__unit_range_default),
		PARAM_TEST(keyvals__pairs__each_passed_on),
		PARAM_TEST(keyvals__malformed__einval),
		PARAM_TEST(keyvals__setter_fails__first_error_returned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
