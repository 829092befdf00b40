/* common/discover: the URLs, what etcd and name servers answer, and what they should not. */
#include "unit.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "etcd.h"
#include "srv.h"

static char err[FERRYI_DISCOVER_ERR_LEN];
static struct ferryi_servers servers;

static void etcd_url__forms__parts(void **state)
{
	struct ferryi_etcd e;

	(void)state;
	assert_int_equal(ferryi_etcd_parse("etcd://host:4001/a/b/?fabric=tcp", &e, err, sizeof(err)), 0);
	assert_string_equal(e.host, "host");
	assert_int_equal(e.port, 4001);
	assert_string_equal(e.prefix, "a/b");
	assert_string_equal(e.fabric, "tcp");
	assert_int_equal(ferryi_etcd_parse("etcd://h", &e, err, sizeof(err)), 0);
	assert_int_equal(e.port, FERRYI_ETCD_PORT);
	assert_string_equal(e.prefix, "");
	assert_int_equal(ferryi_etcd_parse("etcd://[fe80::1]/p", &e, err, sizeof(err)), 0);
	assert_string_equal(e.host, "fe80::1");
	assert_int_equal(e.port, FERRYI_ETCD_PORT);
	assert_int_equal(ferryi_etcd_parse("etcd://[::1]:1//p", &e, err, sizeof(err)), 0);
	assert_int_equal(e.port, 1);
	assert_string_equal(e.prefix, "p");
}

static void etcd_url__wrong__one_line(void **state)
{
	static const char *const wrong[] = { "etcd://", "etcd:///p", "etcd://h:0/p", "etcd://:1/p", "etcd://h:99999", "http://h/p",
					     "etcd://h/p?x=1", "etcd://h/p?fabric=", "etcd://a b/p",
					     "etcd://h/p?fabric=aaaaaaaaaaaaaaaaaaaaaaaaa" };
	struct ferryi_etcd e;
	char longer[400] = "etcd://h/";

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		err[0] = '\0';
		assert_int_equal(ferryi_etcd_parse(wrong[i], &e, err, sizeof(err)), -EINVAL);
		assert_true(err[0] && !strchr(err, '\n'));
	}
	memset(longer + 9, 'a', 300);
	assert_int_equal(ferryi_etcd_parse(longer, &e, err, sizeof(err)), -EINVAL);
}

static int list(const char *text, const char *fabric)
{
	int64_t revision;

	return ferryi_etcd_parse_list(text, strlen(text), fabric, &servers, &revision);
}

static void etcd_list__two_servers__urls_and_revision(void **state)
{
	/* ferry://a:1 and ferry://b:2?fabric=tcp */
	static const char text[] = "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"9007199254740993\"},\"kvs\":["
				   "{\"key\":\"cA==\",\"value\":\"ZmVycnk6Ly9hOjE=\"},"
				   "{\"key\":\"cQ==\",\"value\":\"ZmVycnk6Ly9iOjI/ZmFicmljPXRjcA==\"}],\"count\":\"2\"}";
	int64_t revision;

	(void)state;
	assert_int_equal(ferryi_etcd_parse_list(text, strlen(text), "", &servers, &revision), 0);
	assert_true(revision == 9007199254740993); /* not by way of a double */
	assert_int_equal(servers.nr, 2);
	assert_int_equal(servers.nr_bad, 0);
	assert_string_equal(servers.url[0], "ferry://a:1");
	assert_string_equal(servers.url[1], "ferry://b:2?fabric=tcp");
	assert_int_equal(list(text, "local"), 0);
	assert_string_equal(servers.url[0], "ferry://a:1?fabric=local");
	assert_string_equal(servers.url[1], "ferry://b:2?fabric=local");
	assert_int_equal(list("{\"header\":{\"revision\":\"5\"}}", ""), 0); /* nothing under the prefix */
	assert_int_equal(servers.nr, 0);
}

static void etcd_list__hostile__refused_or_passed_over(void **state)
{
	static const char *const broken[] = { "", "null", "[]", "7", "{", "{\"header\":7}", "{\"kvs\":[]}", "\xff\xfe",
					      "{\"header\":{}", "[[[[[[[[[[[[[[[[" };
	/* No value, a number, no base64, of a wrong length, a NUL in it, two servers in one, another scheme, port 0, not an object. */
	static const char *const values[] = {
		"{}", "{\"value\":7}", "{\"value\":\"****\"}", "{\"value\":\"ZmVycnk6Ly9hOjE\"}", "{\"value\":\"ZmVycnk6Ly9hAGI6MQ==\"}",
		"{\"value\":\"ZmVycnk6Ly9hOjEsZmVycnk6Ly9iOjI=\"}", "{\"value\":\"aHR0cDovL2E6MQ==\"}",
		"{\"value\":\"ZmVycnk6Ly9hOjA=\"}", "7", "null", "{\"value\":\"\"}", "{\"value\":\"====\"}", "{\"value\":{}}",
	};
	char text[512];

	(void)state;
	for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++)
		assert_int_equal(list(broken[i], ""), -EPROTO);
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		snprintf(text, sizeof(text), "{\"header\":{},\"kvs\":[%s,{\"value\":\"ZmVycnk6Ly9hOjE=\"}]}", values[i]);
		assert_int_equal(list(text, ""), 0);
		assert_int_equal(servers.nr_bad, 1);
		assert_int_equal(servers.nr, 1); /* and the good one is there all the same */
	}
}

static void etcd_list__more_than_there_is_room_for__bounded(void **state)
{
	static char text[100000];
	size_t len = (size_t)sprintf(text, "{\"header\":{},\"kvs\":[");

	(void)state;
	for (unsigned i = 0; i < 200; i++) {
		char url[32];
		unsigned char value[64];
		int n = snprintf(url, sizeof(url), "ferry://a%u:1", i);

		EVP_EncodeBlock(value, (const unsigned char *)url, n);
		len += (size_t)sprintf(text + len, "%s{\"value\":\"%s\"}", i ? "," : "", (char *)value);
	}
	sprintf(text + len, "]}");
	assert_int_equal(list(text, ""), 0);
	assert_int_equal(servers.nr, FERRYI_DISCOVER_MAX);
	assert_string_equal(servers.url[FERRYI_DISCOVER_MAX - 1], "ferry://a63:1");
}

static int watch(const char *text)
{
	return ferryi_etcd_parse_watch(text, strlen(text));
}

static void etcd_watch__lines__begun_changed_ended_broken(void **state)
{
	(void)state;
	assert_int_equal(watch("{\"result\":{\"header\":{\"revision\":\"3\"},\"created\":true}}"), 0);
	assert_int_equal(watch("{\"result\":{\"header\":{},\"events\":[{\"kv\":{}}]}}"), 1);
	assert_int_equal(watch("{\"result\":{\"created\":true,\"canceled\":true,\"compact_revision\":\"9\"}}"), 1);
	assert_int_equal(watch("{\"result\":{\"created\":true,\"events\":[]}}"), 1);
	assert_int_equal(watch("{\"error\":{\"grpc_code\":14}}"), 1);
	assert_int_equal(watch("{}"), 1);
	assert_int_equal(watch(""), -EPROTO);
	assert_int_equal(watch("HTTP/1.1 400"), -EPROTO);
}

static void etcd_lease__grant_renewal_end__number(void **state)
{
	static const char grant[] = "{\"header\":{},\"ID\":\"7587862094236224518\",\"TTL\":\"10\"}";
	static const char renewal[] = "{\"result\":{\"header\":{},\"ID\":\"5\",\"TTL\":\"10\"}}";
	static const char ended[] = "{\"result\":{\"header\":{},\"ID\":\"5\"}}";
	int64_t lease;

	(void)state;
	assert_int_equal(ferryi_etcd_parse_lease(grant, strlen(grant), &lease), 0);
	assert_true(lease == 7587862094236224518);
	assert_int_equal(ferryi_etcd_parse_lease(renewal, strlen(renewal), &lease), 0);
	assert_true(lease == 5);
	assert_int_equal(ferryi_etcd_parse_lease(ended, strlen(ended), &lease), 0);
	assert_true(lease == 0);
	assert_int_equal(ferryi_etcd_parse_lease("{}", 2, &lease), -EPROTO);
}

static void srv_url__forms_and_wrong_ones(void **state)
{
	static const char *const wrong[] = { "ferry+srv://", "ferry+srv://a/b", "ferry+srv://a:1", "ferry+srv://a?dns=host", "ferry+srv://a?dns=",
					     "ferry+srv://a?fabric=", "ferry+srv://a?x=y", "ferry+srv://a?dns=1.2.3.4:0", "ferry://a" };
	struct ferryi_srv s;

	(void)state;
	assert_int_equal(ferryi_srv_parse("ferry+srv://_f._tcp.x.org?dns=127.0.0.1:5353&fabric=tcp", &s, err, sizeof(err)), 0);
	assert_string_equal(s.name, "_f._tcp.x.org");
	assert_string_equal(s.dns, "127.0.0.1");
	assert_int_equal(s.dns_port, 5353);
	assert_string_equal(s.fabric, "tcp");
	assert_int_equal(ferryi_srv_parse("ferry+srv://a?dns=10.0.0.1", &s, err, sizeof(err)), 0);
	assert_int_equal(s.dns_port, 53);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_int_equal(ferryi_srv_parse(wrong[i], &s, err, sizeof(err)), -EINVAL);
}

/* One question "x", and the records: x SRV priority weight port target. */
#define HEADER(n)  0, 1, 0x84, 0x80, 0, 1, 0, n, 0, 0, 0, 0
#define QUESTION   1, 'x', 0, 0, 33, 0, 1
#define SRV(p, w, port, len) 0xc0, 0x0c, 0, 33, 0, 1, 0, 0, 0, 60, 0, len, 0, p, 0, w, 0, port

static int srv(const uint8_t *text, size_t len)
{
	return ferryi_srv_parse_answer(text, len, "", &servers);
}

static void srv_answer__records__by_priority_and_weight(void **state)
{
	static const uint8_t text[] = { HEADER(4), QUESTION,
					SRV(2, 0, 1, 9), 1, 'a', 0, SRV(1, 5, 2, 9), 1, 'b', 0,
					SRV(1, 9, 3, 9), 1, 'c', 0, SRV(0, 0, 4, 7), 0 /* target ".": no service */ };

	(void)state;
	assert_int_equal(srv(text, sizeof(text)), 0);
	assert_int_equal(servers.nr, 3);
	assert_string_equal(servers.url[0], "ferry://c:3");
	assert_string_equal(servers.url[1], "ferry://b:2");
	assert_string_equal(servers.url[2], "ferry://a:1");
	for (size_t len = 0; len < sizeof(text); len++) { /* cut anywhere: no more than was whole */
		if (srv(text, len) == 0)
			assert_true(servers.nr <= 3);
	}
}

static void srv_answer__hostile__nothing_of_it(void **state)
{
	static const uint8_t loop[] = { HEADER(1), QUESTION, SRV(1, 1, 1, 8), 0xc0, 37 }; /* a name that points to itself */
	static const uint8_t comma[] = { HEADER(1), QUESTION, SRV(1, 1, 1, 11), 3, 'a', ',', 'b', 0 };
	static const uint8_t port0[] = { HEADER(1), QUESTION, SRV(1, 1, 0, 9), 1, 'a', 0 };
	static const uint8_t brief[] = { HEADER(1), QUESTION, 0xc0, 0x0c, 0, 33, 0, 1, 0, 0, 0, 60, 0, 4, 0, 1, 0, 1 };

	(void)state;
	srv(loop, sizeof(loop));
	assert_int_equal(servers.nr, 0);
	srv(comma, sizeof(comma));
	assert_int_equal(servers.nr, 0);
	srv(port0, sizeof(port0));
	assert_int_equal(servers.nr, 0);
	srv(brief, sizeof(brief));
	assert_int_equal(servers.nr, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(etcd_url__forms__parts),
		cmocka_unit_test(etcd_url__wrong__one_line),
		cmocka_unit_test(etcd_list__two_servers__urls_and_revision),
		cmocka_unit_test(etcd_list__hostile__refused_or_passed_over),
		cmocka_unit_test(etcd_list__more_than_there_is_room_for__bounded),
		cmocka_unit_test(etcd_watch__lines__begun_changed_ended_broken),
		cmocka_unit_test(etcd_lease__grant_renewal_end__number),
		cmocka_unit_test(srv_url__forms_and_wrong_ones),
		cmocka_unit_test(srv_answer__records__by_priority_and_weight),
		cmocka_unit_test(srv_answer__hostile__nothing_of_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
