/*
 * Fuzz target: everything that reads text from a user, a file or the
 * environment: sizes, numbers, URLs, addresses, key=value lists, parameter
 * values, tokens. The input is one NUL-terminated text.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "arith.h"
#include "log.h"
#include "param.h"
#include "proto.h"
#include "replay.h"
#include "url.h"

static void numbers(const char *text)
{
	uint64_t value = 77;
	int rc = ferryi_parse_u64(text, &value);

	FERRYT_MUST(rc == 0 || ((rc == -EINVAL || rc == -ERANGE) && value == 77));
	value = 77;
	rc = ferryi_parse_size(text, &value);
	FERRYT_MUST(rc == 0 || ((rc == -EINVAL || rc == -ERANGE) && value == 77));
	if (rc == 0) {
		char buf[16];
		uint64_t back = 0;

		ferryi_format_size(value, buf, sizeof(buf));
		FERRYT_MUST(strlen(buf) < sizeof(buf) - 1);
		if (!strchr(buf, '.'))
			FERRYT_MUST(ferryi_parse_size(buf, &back) == 0 && back == value);
	}
}

static void addresses(const char *text)
{
	struct ferryi_url url = {.port = 7};
	char err[FERRYI_PARAM_ERR_LEN] = "";
	char small[8];
	uint16_t port = 0;
	int rc = ferryi_url_parse(text, &url, err, sizeof(err));

	FERRYT_MUST(rc == 0 || rc == -EINVAL);
	FERRYT_MUST((rc == 0) == (err[0] == '\0'));
	if (rc == 0) {
		char again[sizeof(url.host) + 64];
		struct ferryi_url second;

		FERRYT_MUST(url.host[0] && strlen(url.host) < sizeof(url.host) && url.port);
		snprintf(again, sizeof(again),
			 strchr(url.host, ':') ? "ferry://[%s]:%u?fabric=%s" : "ferry://%s:%u?fabric=%s",
			 url.host, url.port, url.fabric);
		/* A scope without a colon ("[x%y]") has no form but the bracketed one. */
		if (!strchr(url.host, '%') || strchr(url.host, ':')) {
			FERRYT_MUST(ferryi_url_parse(again, &second, err, sizeof(err)) == 0);
			FERRYT_MUST(strcmp(url.host, second.host) == 0 && url.port == second.port);
			FERRYT_MUST(strcmp(url.fabric, second.fabric) == 0);
		}
	} else {
		FERRYT_MUST(url.port == 7);
	}
	rc = ferryi_hostport_parse(text, small, sizeof(small), &port, err, sizeof(err));
	FERRYT_MUST(rc == 0 || rc == -EINVAL);
	FERRYT_MUST(rc != 0 || strlen(small) < sizeof(small));
}

struct config {
	bool flag;
	uint64_t number;
	uint64_t size;
	uint64_t time_ms;
	const char *string;
	int choice;
};

static const char *const choices[] = {"one", "two", NULL};

#define ROW(type_, member) .type = FERRYI_PARAM_##type_, .offset = offsetof(struct config, member)

static const struct ferryi_param table[] = {
	{.name = "flag", .short_opt = 'f', ROW(FLAG, flag)},
	{.name = "number", .short_opt = 'n', ROW(U64, number), .min = 3, .max = 1000},
	{.name = "size", ROW(SIZE, size), .min = 4096},
	{.name = "time", ROW(MS, time_ms), .max = 60000},
	{.name = "string", ROW(STRING, string)},
	{.name = "choice", ROW(ENUM, choice), .values = choices},
	{.name = NULL},
};

static int on_pair(void *ctx, const char *key, const char *value, char *err, size_t err_len)
{
	return ferryi_params_set(table, ctx, key, value, err, err_len);
}

static void parameters(const char *text, size_t size)
{
	struct config config = {.number = 3, .size = 4096};
	char err[FERRYI_PARAM_ERR_LEN] = "";
	char prog[] = "prog";
	char *words = strdup(text);
	char *rest = words;
	char *argv[34] = {prog};
	int argc = 1;
	int first = 0;
	int rc;

	FERRYT_MUST(words);
	rc = ferryi_keyvals_parse(text, on_pair, &config, err, sizeof(err));
	FERRYT_MUST((rc == 0) == (err[0] == '\0'));

	/* Words as a command line; what the kernel hands over may hold anything but NUL. */
	while (argc < 33 && (argv[argc] = strsep(&rest, " ")) != NULL)
		argc++;
	argv[argc] = NULL;
	err[0] = '\0';
	rc = ferryi_params_args(table, &config, argc, argv, &first, err, sizeof(err));
	FERRYT_MUST(rc == 0 || rc == -EINVAL || rc == -ENODATA || rc == -ENOTSUP);
	FERRYT_MUST((rc == -EINVAL) == (err[0] != '\0'));
	FERRYT_MUST(rc != 0 || (first >= 1 && first <= argc));

	for (const struct ferryi_param *p = table; p->name; p++)
		(void)ferryi_params_set(table, &config, p->name, text, err, sizeof(err));
	FERRYT_MUST(config.number >= 3 && config.number <= 1000 && config.size >= 4096 &&
		    config.time_ms <= 60000);
	FERRYT_MUST(config.choice == 0 || config.choice == 1);
	FERRYT_MUST(config.string && strlen(config.string) <= size);
	ferryi_params_fini(table, &config);
	free(words);
}

static void tokens(const char *text)
{
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];
	uint8_t back[FERRYI_AUTH_TOKEN_LEN];
	char digits[2 * FERRYI_AUTH_TOKEN_LEN + 1];
	enum ferryi_log_level level;

	if (ferryi_token_parse(text, token) == 0) {
		ferryi_token_format(token, digits);
		FERRYT_MUST(ferryi_token_parse(digits, back) == 0 && ferryi_mac_equal(token, back));
	}
	(void)ferryi_log_level_parse(text, &level);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	FERRYT_MUST(text);
	memcpy(text, data, size);
	text[size] = '\0';
	numbers(text);
	addresses(text);
	parameters(text, size);
	tokens(text);
	free(text);
	return 0;
}
