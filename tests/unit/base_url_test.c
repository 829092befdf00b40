/* common/base/url: every accepted form, every refusal with its sentence. One thread. */
#include "unit.h"

#include <errno.h>
#include <string.h>

#include "url.h"

static void url_parse__valid__parts(void **state)
{
	static const struct {
		const char *text;
		const char *host;
		unsigned port;
		const char *fabric;
	} rows[] = {
		{"ferry://node1:7000", "node1", 7000, "auto"},
		{"ferry://node1", "node1", 7470, "auto"},
		{"ferry://node1/", "node1", 7470, "auto"},
		{"node1", "node1", 7470, "auto"},
		{"node1.example.org:1", "node1.example.org", 1, "auto"},
		{"127.0.0.1:65535", "127.0.0.1", 65535, "auto"},
		{"ferry://[::1]:7471", "::1", 7471, "auto"},
		{"ferry://[fe80::1%eth0]", "fe80::1%eth0", 7470, "auto"},
		{"ferry://h:1?fabric=tcp", "h", 1, "tcp"},
		{"ferry://h:1/?fabric=tcp", "h", 1, "tcp"},
		{"h?fabric=verbs", "h", 7470, "verbs"},
		{"h?fabric=shm", "h", 7470, "local"},
		{"h?fabric=local", "h", 7470, "local"},
		{"h?fabric=rdm", "h", 7470, "rdm"},
		{"h?fabric=auto", "h", 7470, "auto"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct ferryi_url url;
		char err[256] = "";

		assert_int_equal(ferryi_url_parse(rows[i].text, &url, err, sizeof(err)), 0);
		assert_string_equal(url.host, rows[i].host);
		assert_int_equal(url.port, rows[i].port);
		assert_string_equal(url.fabric, rows[i].fabric);
	}
}

static void url_parse__auth__method_and_whether_it_was_named(void **state)
{
	struct ferryi_url url;
	char err[256] = "";

	(void)state;
	assert_int_equal(ferryi_url_parse("h?fabric=tcp&auth=munge", &url, err, sizeof(err)), 0);
	assert_true(url.has_auth);
	assert_int_equal(url.auth, FERRYI_AUTH_MUNGE);
	assert_string_equal(url.fabric, "tcp");
	assert_int_equal(ferryi_url_parse("h?auth=tls&fabric=shm", &url, err, sizeof(err)), 0);
	assert_int_equal(url.auth, FERRYI_AUTH_TLS);
	assert_string_equal(url.fabric, "local");
	assert_int_equal(ferryi_url_parse("h?fabric=tcp", &url, err, sizeof(err)), 0);
	assert_false(url.has_auth);
	for (int i = FERRYI_AUTH_TOKEN; i <= FERRYI_AUTH_ANONYMOUS; i++) {
		enum ferryi_auth auth;

		assert_int_equal(ferryi_auth_find(ferryi_auth_name((enum ferryi_auth)i), &auth), 0);
		assert_int_equal(auth, i);
	}
}

static void url_parse__invalid__one_line_says_why(void **state)
{
	static const struct {
		const char *text;
		const char *word;
	} rows[] = {
		{"", "empty"},
		{"ferry://", "empty"},
		{"http://h:1", "ferry://"},
		{"ferry://:7470", "no host"},
		{"ferry://h:", "not a port"},
		{"ferry://h:x", "not a port"},
		{"ferry://h:0x10", "not a port"},
		{"ferry://h:65536", "not a port"},
		{"ferry://h:-1", "not a port"},
		{"ferry://h:99999999999999999999999", "not a port"},
		{"ferry://h:0", "port 0"},
		{"ferry://::1", "[ADDRESS]"},
		{"ferry://[::1", "[ADDRESS]"},
		{"ferry://[]:1", "[ADDRESS]"},
		{"ferry://[::1]x", "may follow"},
		{"ferry://h h:1", "not allowed"},
		{"ferry://h\n:1", "not allowed"},
		{"ferry://h@x:1", "not allowed"},
		{"ferry://h:1/path", "no path"},
		{"ferry://h:1?fabric=", "no fabric"},
		{"ferry://h:1?fabric=ib", "no fabric 'ib'"},
		{"ferry://h:1?fabric=tcp&x=1", "unknown setting 'x=1'"},
		{"ferry://h:1?fabric=tcp&", "unknown setting ''"},
		{"ferry://h:1?auth=", "no way to authenticate ''"},
		{"ferry://h:1?auth=kerberos", "use token, munge, tls or anonymous"},
		{"ferry://h:1?auth=munge&fabric=ib", "no fabric 'ib'"},
		{"ferry://h:1?", "unknown setting"},
		{"ferry://h:1?speed=9", "unknown setting"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct ferryi_url url = {.port = 9};
		char err[256] = "";

		assert_int_equal(ferryi_url_parse(rows[i].text, &url, err, sizeof(err)), -EINVAL);
		assert_non_null(strstr(err, rows[i].word));
		assert_int_equal(url.port, 9);
	}
}

static void url_parse__host_too_long__refused(void **state)
{
	struct ferryi_url url;
	char text[600];
	char err[256] = "";

	(void)state;
	for (size_t len = 200; len < 500; len++) {
		memset(text, 'h', len);
		text[len] = '\0';
		assert_int_equal(ferryi_url_parse(text, &url, err, sizeof(err)),
				 len < sizeof(url.host) ? 0 : -EINVAL);
		if (len >= sizeof(url.host))
			assert_non_null(strstr(err, "too long"));
	}
}

static void hostport_parse__forms__parts(void **state)
{
	static const struct {
		const char *text;
		const char *host;
		unsigned port;
	} rows[] = {
		{"127.0.0.1:7470", "127.0.0.1", 7470},
		{"[::]:1", "::", 1},
		{"h", "h", 7470},
		{":7471", "", 7471},
		{"h:0", "h", 0},
	};
	uint16_t port;
	char host[64];
	char err[256];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(
			ferryi_hostport_parse(rows[i].text, host, sizeof(host), &port, err, sizeof(err)), 0);
		assert_string_equal(host, rows[i].host);
		assert_int_equal(port, rows[i].port);
	}
}

static void hostport_parse__invalid__untouched(void **state)
{
	uint16_t port = 5;
	char host[8] = "old";
	char err[256] = "";

	(void)state;
	assert_int_equal(ferryi_hostport_parse("", host, sizeof(host), &port, err, sizeof(err)), -EINVAL);
	assert_int_equal(ferryi_hostport_parse("12345678:1", host, sizeof(host), &port, err, sizeof(err)),
			 -EINVAL);
	assert_non_null(strstr(err, "at most 7"));
	assert_int_equal(ferryi_hostport_parse("h:1:2", host, sizeof(host), &port, err, sizeof(err)),
			 -EINVAL);
	assert_int_equal(ferryi_hostport_parse("h:1", host, sizeof(host), &port, NULL, 0), 0);
	assert_int_equal(ferryi_hostport_parse("h:x", host, sizeof(host), &port, NULL, 0), -EINVAL);
	assert_string_equal(host, "h");
	assert_int_equal(port, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(url_parse__valid__parts),
		cmocka_unit_test(url_parse__auth__method_and_whether_it_was_named),
		cmocka_unit_test(url_parse__invalid__one_line_says_why),
		cmocka_unit_test(url_parse__host_too_long__refused),
		cmocka_unit_test(hostport_parse__forms__parts),
		cmocka_unit_test(hostport_parse__invalid__untouched),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
