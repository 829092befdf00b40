/* proto/frame: every message there and back, and all ways in which a frame is not one. One thread. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "messages.h"

#define EACH_BODY(body) \
	for (Farferry__Envelope__BodyCase body = FERRYT_BODY_FIRST; body <= FERRYT_BODY_LAST; body++)

static uint8_t *encode(Farferry__Envelope__BodyCase body, size_t *len)
{
	Farferry__Envelope *e = ferryt_message(body);
	uint8_t *frame = NULL;

	assert_int_equal(ferryi_frame_encode(e, &frame, len), 0);
	ferryi_envelope_free(&e);
	assert_null(e);
	return frame;
}

/* A frame around any payload. */
static uint8_t *wrap(const void *payload, size_t len, size_t *frame_len)
{
	uint8_t *frame = malloc(FERRYI_FRAME_HEADER + len);

	assert_non_null(frame);
	memcpy(frame, "FFRY", 4);
	frame[4] = (uint8_t)(len >> 24);
	frame[5] = (uint8_t)(len >> 16);
	frame[6] = (uint8_t)(len >> 8);
	frame[7] = (uint8_t)len;
	memcpy(frame + FERRYI_FRAME_HEADER, payload, len);
	*frame_len = FERRYI_FRAME_HEADER + len;
	return frame;
}

static void encode_decode__every_message__same_bytes_again(void **state)
{
	(void)state;
	EACH_BODY(body)
	{
		Farferry__Envelope *e = NULL;
		uint8_t *again = NULL;
		size_t len = 0;
		size_t again_len = 0;
		uint8_t *frame = encode(body, &len);
		char why[256] = "";

		assert_int_equal(ferryi_frame_peek(frame, len), len);
		if (ferryi_frame_decode(ferryt_receiver(body), frame, len, &e, why, sizeof(why)) != 0)
			fail_msg("%s: %s", ferryi_body_name(body), why);
		assert_int_equal(e->body_case, body);
		assert_int_equal(ferryi_frame_encode(e, &again, &again_len), 0);
		assert_int_equal(again_len, len);
		assert_memory_equal(again, frame, len);
		ferryi_envelope_free(&e);
		free(again);
		free(frame);
	}
}

static void decode__message_of_the_other_side__einval(void **state)
{
	(void)state;
	EACH_BODY(body)
	{
		enum ferryi_role other =
			ferryt_receiver(body) == FERRYI_ROLE_SERVER ? FERRYI_ROLE_CLIENT : FERRYI_ROLE_SERVER;
		Farferry__Envelope *e = NULL;
		size_t len = 0;
		uint8_t *frame = encode(body, &len);
		char why[256] = "";
		int rc = ferryi_frame_decode(other, frame, len, &e, why, sizeof(why));

		if (body == FARFERRY__ENVELOPE__BODY_KEEPALIVE) {
			assert_int_equal(rc, 0);
		} else {
			assert_int_equal(rc, -EINVAL);
			assert_null(e);
			assert_non_null(strstr(why, "takes no"));
			assert_non_null(strstr(why, ferryi_body_name(body)));
		}
		ferryi_envelope_free(&e);
		free(frame);
	}
}

static void peek__prefix__asks_for_more_until_told(void **state)
{
	size_t len = 0;
	uint8_t *frame = encode(FARFERRY__ENVELOPE__BODY_HELLO, &len);

	(void)state;
	for (size_t have = 0; have <= len; have++)
		assert_int_equal(ferryi_frame_peek(frame, have), have < FERRYI_FRAME_HEADER ? 0 : (long)len);
	free(frame);
}

static void peek__wrong_magic__eproto_at_the_first_wrong_byte(void **state)
{
	(void)state;
	assert_int_equal(ferryi_frame_peek((const uint8_t *)"G", 1), -EPROTO);
	assert_int_equal(ferryi_frame_peek((const uint8_t *)"GET / HTTP/1.1", 14), -EPROTO);
	assert_int_equal(ferryi_frame_peek((const uint8_t *)"FFRX", 4), -EPROTO);
	assert_int_equal(ferryi_frame_peek((const uint8_t *)"FFR", 3), 0);
}

static void peek__length_at_the_edges__judged(void **state)
{
	(void)state;
	assert_int_equal(ferryi_frame_peek((const uint8_t *)"FFRY\0\0\0\0", 8), -EPROTO);
	assert_int_equal(ferryi_frame_peek((const uint8_t *)"FFRY\0\0\0\1", 8), 9);
	assert_int_equal(ferryi_frame_peek((const uint8_t *)"FFRY\0\x10\0\0", 8), 8 + (1 << 20));
	assert_int_equal(ferryi_frame_peek((const uint8_t *)"FFRY\0\x10\0\1", 8), -EMSGSIZE);
	assert_int_equal(ferryi_frame_peek((const uint8_t *)"FFRY\xff\xff\xff\xff", 8), -EMSGSIZE);
}

static void decode__truncated_or_with_tail__eproto(void **state)
{
	size_t len = 0;
	uint8_t *frame = encode(FARFERRY__ENVELOPE__BODY_HELLO, &len);
	char why[256];

	(void)state;
	frame = realloc(frame, len + 1);
	assert_non_null(frame);
	frame[len] = 0;
	for (size_t n = 0; n <= len + 1; n++) {
		Farferry__Envelope *e = NULL;

		why[0] = '\0';
		if (n == len)
			continue;
		assert_int_equal(ferryi_frame_decode(FERRYI_ROLE_SERVER, frame, n, &e, why, sizeof(why)),
				 -EPROTO);
		assert_null(e);
		assert_non_null(
			strstr(why, n < FERRYI_FRAME_HEADER ? "shorter than its header" : "bytes, but has"));
	}
	free(frame);
}

static void decode__payload_cut_inside_its_frame__never_accepted_as_whole(void **state)
{
	(void)state;
	EACH_BODY(body)
	{
		size_t len = 0;
		uint8_t *frame = encode(body, &len);

		for (size_t n = 0; n < len - FERRYI_FRAME_HEADER; n++) {
			Farferry__Envelope *e = NULL;
			size_t cut_len = 0;
			uint8_t *cut = wrap(frame + FERRYI_FRAME_HEADER, n, &cut_len);
			int rc = ferryi_frame_decode(ferryt_receiver(body), cut, cut_len, &e, NULL, 0);

			assert_true(rc == -EPROTO || rc == -EINVAL);
			assert_null(e);
			free(cut);
		}
		free(frame);
	}
}

static void decode__oversized_or_zero_length_or_magic__eproto_says_which(void **state)
{
	Farferry__Envelope *e = NULL;
	char why[256] = "";

	(void)state;
	assert_int_equal(ferryi_frame_decode(FERRYI_ROLE_SERVER, (const uint8_t *)"FFRY\x7f\0\0\0", 8, &e,
					     why, sizeof(why)),
			 -EPROTO);
	assert_non_null(strstr(why, "longer than the limit"));
	assert_int_equal(ferryi_frame_decode(FERRYI_ROLE_SERVER, (const uint8_t *)"FFRY\0\0\0\0", 8, &e, why,
					     sizeof(why)),
			 -EPROTO);
	assert_non_null(strstr(why, "length 0"));
	assert_int_equal(
		ferryi_frame_decode(FERRYI_ROLE_SERVER, (const uint8_t *)"HTTP/1.1", 8, &e, why, sizeof(why)),
		-EPROTO);
	assert_non_null(strstr(why, "magic"));
	assert_int_equal(ferryi_frame_decode(FERRYI_ROLE_SERVER, (const uint8_t *)"", 0, &e, NULL, 0),
			 -EPROTO);
	assert_null(e);
}

static void decode__garbage_payload__eproto(void **state)
{
	static const char *const payloads[] = {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x1a\x05zz",
					       "\x0b", "\x07"};

	(void)state;
	for (size_t i = 0; i < sizeof(payloads) / sizeof(payloads[0]); i++) {
		Farferry__Envelope *e = NULL;
		size_t len = 0;
		uint8_t *frame = wrap(payloads[i], strlen(payloads[i]), &len);
		char why[256] = "";

		assert_int_equal(ferryi_frame_decode(FERRYI_ROLE_SERVER, frame, len, &e, why, sizeof(why)),
				 -EPROTO);
		assert_non_null(strstr(why, "not an envelope"));
		assert_null(e);
		free(frame);
	}
}

static void decode__no_body_or_unknown_body__eproto(void **state)
{
	/* request_id 5; request_id 5 and field 200 of a later version. */
	static const char *const payloads[] = {"\x08\x05", "\x08\x05\xc2\x0c\x01x"};

	(void)state;
	for (size_t i = 0; i < sizeof(payloads) / sizeof(payloads[0]); i++) {
		Farferry__Envelope *e = NULL;
		size_t len = 0;
		uint8_t *frame = wrap(payloads[i], strlen(payloads[i]), &len);
		char why[256] = "";

		assert_int_equal(ferryi_frame_decode(FERRYI_ROLE_SERVER, frame, len, &e, why, sizeof(why)),
				 -EPROTO);
		assert_non_null(strstr(why, "no body"));
		free(frame);
	}
}

static void decode__unknown_field_beside_body__ignored(void **state)
{
	Farferry__Envelope *e = NULL;
	size_t len = 0;
	/* request_id 5, empty pools request (field 7), field 200. */
	uint8_t *frame = wrap("\x08\x05\x3a\x00\xc2\x0c\x01x", 8, &len);

	(void)state;
	assert_int_equal(ferryi_frame_decode(FERRYI_ROLE_SERVER, frame, len, &e, NULL, 0), 0);
	assert_int_equal(e->body_case, FARFERRY__ENVELOPE__BODY_POOLS);
	ferryi_envelope_free(&e);
	free(frame);
}

static void decode__body_twice__last_counts(void **state)
{
	Farferry__Envelope *e = NULL;
	size_t len = 0;
	/* Pools request, then statistics request: both are of the one body. */
	uint8_t *frame = wrap("\x08\x05\x3a\x00\x82\x01\x00", 7, &len);

	(void)state;
	assert_int_equal(ferryi_frame_decode(FERRYI_ROLE_SERVER, frame, len, &e, NULL, 0), 0);
	assert_int_equal(e->body_case, FARFERRY__ENVELOPE__BODY_STATS);
	ferryi_envelope_free(&e);
	free(frame);
}

/* A megabyte of what costs most when decoded: lists of empty messages, unknown fields. */
static void decode__small_bytes_large_heap__refused_within_bound(void **state)
{
	static uint8_t payload[FERRYI_FRAME_MAX];
	/* In a lease reply (field 10): an empty extent (field 6); unknown field 100. */
	static const struct {
		uint8_t item[3];
		size_t item_len;
	} rows[] = {{{0x32, 0x00}, 2}, {{0xa0, 0x06, 0x00}, 3}};

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		size_t n = (FERRYI_FRAME_MAX - 8) / rows[i].item_len * rows[i].item_len;
		Farferry__Envelope *e = NULL;
		size_t len = 0;
		char why[256] = "";

		payload[0] = 0x08;
		payload[1] = 0x05;
		payload[2] = 0x52; /* field 10, length n in three bytes */
		payload[3] = (uint8_t)(0x80 | (n & 0x7f));
		payload[4] = (uint8_t)(0x80 | ((n >> 7) & 0x7f));
		payload[5] = (uint8_t)(n >> 14);
		for (size_t at = 0; at < n; at += rows[i].item_len)
			memcpy(payload + 6 + at, rows[i].item, rows[i].item_len);

		uint8_t *frame = wrap(payload, 6 + n, &len);

		assert_int_equal(ferryi_frame_decode(FERRYI_ROLE_CLIENT, frame, len, &e, why, sizeof(why)),
				 -EPROTO);
		assert_non_null(strstr(why, "more fields"));
		assert_null(e);
		free(frame);
	}
}

static void decode__largest_valid_lease__accepted(void **state)
{
	Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_LEASE_REPLY);
	Farferry__LeaseReply *m = e->lease_reply;
	Farferry__Extent *model = m->extents[0];
	Farferry__Extent **old = m->extents;
	size_t old_n = m->n_extents;
	Farferry__Extent *many = calloc(FERRYI_MAX_EXTENTS + 1, sizeof(*many));
	Farferry__Extent **list = calloc(FERRYI_MAX_EXTENTS + 1, sizeof(*list));
	char why[256] = "";

	(void)state;
	assert_non_null(many);
	assert_non_null(list);
	for (size_t i = 0; i <= FERRYI_MAX_EXTENTS; i++) {
		many[i] = *model;
		many[i].id = i;
		many[i].pool_off = (uint64_t)i << 21;
		many[i].len_bytes = 1 << 21;
		list[i] = &many[i];
	}
	m->pool_size_bytes = 1ULL << 40;
	m->extents = list;
	for (size_t n = FERRYI_MAX_EXTENTS; n <= FERRYI_MAX_EXTENTS + 1; n++) {
		Farferry__Envelope *back = NULL;
		uint8_t *frame = NULL;
		size_t len = 0;
		int want = n > FERRYI_MAX_EXTENTS ? -EINVAL : 0;

		m->n_extents = n;
		assert_int_equal(ferryi_frame_encode(e, &frame, &len), 0);
		assert_int_equal(ferryi_frame_decode(FERRYI_ROLE_CLIENT, frame, len, &back, why, sizeof(why)),
				 want);
		ferryi_envelope_free(&back);
		free(frame);
	}
	assert_non_null(strstr(why, "at most 8192"));
	m->extents = old;
	m->n_extents = old_n;
	ferryi_envelope_free(&e);
	free(list);
	free(many);
}

static void encode__too_large_or_empty__emsgsize_or_einval(void **state)
{
	Farferry__Envelope empty = FARFERRY__ENVELOPE__INIT;
	Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_ERROR);
	char *huge = malloc(FERRYI_FRAME_MAX + 1);
	uint8_t *frame = NULL;
	size_t len = 7;

	(void)state;
	assert_non_null(huge);
	memset(huge, 'x', FERRYI_FRAME_MAX);
	huge[FERRYI_FRAME_MAX] = '\0';
	ferryt_set_text(&e->error->text, huge);
	assert_int_equal(ferryi_frame_encode(e, &frame, &len), -EMSGSIZE);
	assert_int_equal(ferryi_frame_encode(&empty, &frame, &len), -EINVAL);
	assert_null(frame);
	assert_int_equal(len, 7);
	ferryi_envelope_free(&e);
	ferryi_envelope_free(&e); /* nothing left: nothing done */
	free(huge);
}

static void decode__flipped_bytes__never_worse_than_an_error(void **state)
{
	struct ferryt_rand r = {31};

	(void)state;
	EACH_BODY(body)
	{
		size_t len = 0;
		uint8_t *frame = encode(body, &len);
		uint8_t *bent = malloc(len);

		assert_non_null(bent);
		for (int i = 0; i < 2000; i++) {
			Farferry__Envelope *e = NULL;
			char why[256] = "";

			memcpy(bent, frame, len);
			for (uint64_t k = 1 + ferryt_rand_below(&r, 3); k; k--)
				bent[ferryt_rand_below(&r, len)] = (uint8_t)ferryt_rand_next(&r);

			int rc = ferryi_frame_decode(ferryt_receiver(body), bent, len, &e, why, sizeof(why));

			assert_true(rc == 0 || rc == -EPROTO || rc == -EINVAL);
			assert_int_equal(rc == 0, e != NULL);
			assert_int_equal(rc != 0, why[0] != '\0');
			ferryi_envelope_free(&e);
		}
		free(bent);
		free(frame);
	}
}

static void codes__each__there_and_back(void **state)
{
	static const int errs[] = {0,	   EINVAL, EPROTONOSUPPORT, EACCES, ENXIO,  ENOMEM, ESHUTDOWN,
				   ENOENT, ENODEV, EDQUOT,	    EIO,    ESTALE, EBUSY};

	(void)state;
	for (int code = 0; code < (int)(sizeof(errs) / sizeof(errs[0])); code++) {
		assert_int_equal(ferryi_code_to_errno((Farferry__Code)code), -errs[code]);
		assert_int_equal(ferryi_code_from_errno(-errs[code]), code);
		assert_int_equal(ferryi_code_from_errno(errs[code]), code);
	}
	assert_int_equal(ferryi_code_to_errno((Farferry__Code)99), -EIO);
	assert_int_equal(ferryi_code_from_errno(-EXDEV), FARFERRY__CODE__CODE_INTERNAL);
}

static void body_name__known_and_unknown__text(void **state)
{
	(void)state;
	assert_string_equal(ferryi_body_name(FARFERRY__ENVELOPE__BODY_ATTACH), "attach");
	assert_string_equal(ferryi_body_name(FARFERRY__ENVELOPE__BODY__NOT_SET), "unknown");
	assert_string_equal(ferryi_body_name((Farferry__Envelope__BodyCase)1), "unknown");
	assert_string_equal(ferryi_body_name((Farferry__Envelope__BodyCase)1000), "unknown");
	EACH_BODY(body)
	assert_string_not_equal(ferryi_body_name(body), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(encode_decode__every_message__same_bytes_again),
		cmocka_unit_test(decode__message_of_the_other_side__einval),
		cmocka_unit_test(peek__prefix__asks_for_more_until_told),
		cmocka_unit_test(peek__wrong_magic__eproto_at_the_first_wrong_byte),
		cmocka_unit_test(peek__length_at_the_edges__judged),
		cmocka_unit_test(decode__truncated_or_with_tail__eproto),
		cmocka_unit_test(decode__payload_cut_inside_its_frame__never_accepted_as_whole),
		cmocka_unit_test(decode__oversized_or_zero_length_or_magic__eproto_says_which),
		cmocka_unit_test(decode__garbage_payload__eproto),
		cmocka_unit_test(decode__no_body_or_unknown_body__eproto),
		cmocka_unit_test(decode__unknown_field_beside_body__ignored),
		cmocka_unit_test(decode__body_twice__last_counts),
		cmocka_unit_test(decode__small_bytes_large_heap__refused_within_bound),
		cmocka_unit_test(decode__largest_valid_lease__accepted),
		cmocka_unit_test(encode__too_large_or_empty__emsgsize_or_einval),
		cmocka_unit_test(decode__flipped_bytes__never_worse_than_an_error),
		cmocka_unit_test(codes__each__there_and_back),
		cmocka_unit_test(body_name__known_and_unknown__text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
