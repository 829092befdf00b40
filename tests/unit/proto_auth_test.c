/*
 * proto/auth: known answers (made with another HMAC implementation), token
 * texts, token files in a directory of their own. One thread, but for the race
 * of two creators.
 */
#include "unit.h"

#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto.h"

static const char digits[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

static char dir[] = "/tmp/ferryt-auth-XXXXXX";
static char path[64];
static char why[256];

static int group_setup(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/token", dir);
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	return rmdir(dir);
}

static int each_teardown(void **state)
{
	(void)state;
	unlink(path);
	rmdir(path);
	return 0;
}

static void put_file(const char *text, mode_t mode)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static int load(uint8_t *token)
{
	why[0] = '\0';
	return ferryi_token_load(path, token, why, sizeof(why));
}

static void mac__known_inputs__known_answer(void **state)
{
	static const char client_answer[] =
		"0c1eb84dcbd41094d43ef7bf6a4b92bd5fe0e52c40a8fe7fc0c1675aa224d432";
	static const char server_answer[] =
		"637d9ddbfca433b0b3624b77ca5ed8de402e16754217a1db8649d62547149a04";
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];
	uint8_t server_nonce[FERRYI_NONCE_LEN];
	uint8_t client_nonce[FERRYI_NONCE_LEN];
	uint8_t mac[FERRYI_MAC_LEN];
	char text[2 * FERRYI_MAC_LEN + 1];

	(void)state;
	for (unsigned i = 0; i < 32; i++) {
		token[i] = (uint8_t)i;
		server_nonce[i] = (uint8_t)(0xa0 + i);
		client_nonce[i] = (uint8_t)(0x50 + i);
	}
	assert_int_equal(ferryi_auth_mac(FERRYI_ROLE_CLIENT, token, server_nonce, client_nonce, mac), 0);
	ferryi_token_format(mac, text);
	assert_string_equal(text, client_answer);
	assert_int_equal(ferryi_auth_mac(FERRYI_ROLE_SERVER, token, server_nonce, client_nonce, mac), 0);
	ferryi_token_format(mac, text);
	assert_string_equal(text, server_answer);
}

static void mac__any_input_changed__differs(void **state)
{
	uint8_t in[3][32] = {{0}};
	uint8_t base[FERRYI_MAC_LEN];
	uint8_t mac[FERRYI_MAC_LEN];

	(void)state;
	assert_int_equal(ferryi_auth_mac(FERRYI_ROLE_CLIENT, in[0], in[1], in[2], base), 0);
	assert_int_equal(ferryi_auth_mac(FERRYI_ROLE_SERVER, in[0], in[1], in[2], mac), 0);
	assert_false(ferryi_mac_equal(base, mac));
	for (size_t i = 0; i < 3; i++) {
		in[i][31] ^= 1;
		assert_int_equal(ferryi_auth_mac(FERRYI_ROLE_CLIENT, in[0], in[1], in[2], mac), 0);
		assert_false(ferryi_mac_equal(base, mac));
		in[i][31] ^= 1;
	}
	assert_int_equal(ferryi_auth_mac(FERRYI_ROLE_CLIENT, in[0], in[1], in[2], mac), 0);
	assert_true(ferryi_mac_equal(base, mac));
}

static void mac_equal__each_bit__told(void **state)
{
	uint8_t a[FERRYI_MAC_LEN] = {0};
	uint8_t b[FERRYI_MAC_LEN] = {0};

	(void)state;
	assert_true(ferryi_mac_equal(a, b));
	for (unsigned bit = 0; bit < 8 * FERRYI_MAC_LEN; bit++) {
		b[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_false(ferryi_mac_equal(a, b));
		b[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
}

static void random__two_draws__differ(void **state)
{
	uint8_t a[32] = {0};
	uint8_t b[32] = {0};

	(void)state;
	assert_int_equal(ferryi_random(a, sizeof(a)), 0);
	assert_int_equal(ferryi_random(b, sizeof(b)), 0);
	assert_memory_not_equal(a, b, sizeof(a));
	assert_int_equal(ferryi_random(a, 0), 0);
}

static void token_text__valid_forms__parsed_and_back(void **state)
{
	uint8_t token[FERRYI_AUTH_TOKEN_LEN] = {0};
	char text[2 * FERRYI_AUTH_TOKEN_LEN + 1];
	char spaced[128];
	char upper[sizeof(digits)];

	(void)state;
	assert_int_equal(ferryi_token_parse(digits, token), 0);
	for (unsigned i = 0; i < sizeof(token); i++)
		assert_int_equal(token[i], i);
	ferryi_token_format(token, text);
	assert_string_equal(text, digits);
	snprintf(spaced, sizeof(spaced), " \t\n%s\r\n ", digits);
	assert_int_equal(ferryi_token_parse(spaced, token), 0);
	for (size_t i = 0; i < sizeof(digits); i++)
		upper[i] = (char)(digits[i] >= 'a' ? digits[i] - 'a' + 'A' : digits[i]);
	assert_int_equal(ferryi_token_parse(upper, token), 0);
}

static void token_text__invalid__einval_and_untouched(void **state)
{
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];
	uint8_t before[FERRYI_AUTH_TOKEN_LEN];
	char text[sizeof(digits) + 2];

	(void)state;
	memset(token, 0x77, sizeof(token));
	memcpy(before, token, sizeof(token));
	/* Every shorter text, one digit more, a wrong digit anywhere, a gap. */
	for (size_t n = 0; n < sizeof(digits) - 1; n++) {
		snprintf(text, sizeof(text), "%.*s", (int)n, digits);
		assert_int_equal(ferryi_token_parse(text, token), -EINVAL);
		snprintf(text, sizeof(text), "%s", digits);
		text[n] = n % 2 ? 'g' : ' ';
		if (n > 0)
			assert_int_equal(ferryi_token_parse(text, token), -EINVAL);
	}
	snprintf(text, sizeof(text), "%s0", digits);
	assert_int_equal(ferryi_token_parse(text, token), -EINVAL);
	assert_int_equal(ferryi_token_parse("0x00", token), -EINVAL);
	assert_memory_equal(token, before, sizeof(token));
}

static void token_load__good_file__token(void **state)
{
	uint8_t token[FERRYI_AUTH_TOKEN_LEN] = {0};
	char text[80];

	(void)state;
	snprintf(text, sizeof(text), "%s\n", digits);
	put_file(text, 0600);
	assert_int_equal(load(token), 0);
	assert_int_equal(token[31], 31);
	put_file(digits, 0400);
	assert_int_equal(load(token), 0);
}

static void token_load__open_to_others__eperm_with_the_remedy(void **state)
{
	static const mode_t modes[] = {0640, 0604, 0660, 0606, 0644, 0620, 0602, 0666};
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];

	(void)state;
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		put_file(digits, modes[i]);
		assert_int_equal(load(token), -EPERM);
		assert_non_null(strstr(why, "chmod 600"));
		unlink(path);
	}
}

static void token_load__missing__enoent(void **state)
{
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];

	(void)state;
	assert_int_equal(load(token), -ENOENT);
	assert_non_null(strstr(why, path));
	assert_int_equal(ferryi_token_load(path, token, NULL, 0), -ENOENT);
}

static void token_load__not_readable__eacces(void **state)
{
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];

	(void)state;
	if (geteuid() == 0) {
		/* Root reads everything. */
		skip();
	}
	put_file(digits, 0);
	assert_int_equal(load(token), -EACCES);
}

static void token_load__wrong_content__einval(void **state)
{
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];
	char text[1024];

	(void)state;
	put_file("", 0600);
	assert_int_equal(load(token), -EINVAL);
	assert_non_null(strstr(why, "64 hexadecimal digits"));
	put_file("secret\n", 0600);
	assert_int_equal(load(token), -EINVAL);
	assert_null(strstr(why, "secret"));
	/* A token, and then more than a token file holds. */
	memset(text, ' ', sizeof(text));
	memcpy(text, digits, sizeof(digits) - 1);
	text[sizeof(text) - 1] = '\0';
	put_file(text, 0600);
	assert_int_equal(load(token), -EINVAL);
}

static void token_load__directory_or_fifo__einval_without_hanging(void **state)
{
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];

	(void)state;
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(load(token), -EINVAL);
	assert_non_null(strstr(why, "regular file"));
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(load(token), -EINVAL);
}

static unsigned count_files(void)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d)) != NULL;)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static void token_create__new__private_file_that_loads(void **state)
{
	uint8_t made[FERRYI_AUTH_TOKEN_LEN] = {0};
	uint8_t loaded[FERRYI_AUTH_TOKEN_LEN] = {0};
	mode_t old = umask(0);
	struct stat st;

	(void)state;
	assert_int_equal(ferryi_token_create(path, made, why, sizeof(why)), 0);
	umask(old);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(st.st_nlink, 1);
	assert_int_equal(load(loaded), 0);
	assert_memory_equal(made, loaded, sizeof(made));
	assert_int_equal(count_files(), 1);
}

static void token_create__there_already__eexist_and_kept(void **state)
{
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];

	(void)state;
	put_file(digits, 0600);
	assert_int_equal(ferryi_token_create(path, token, why, sizeof(why)), -EEXIST);
	assert_non_null(strstr(why, path));
	assert_int_equal(load(token), 0);
	assert_int_equal(token[31], 31);
	assert_int_equal(count_files(), 1);
}

static void token_create__no_directory_or_path_too_long__refused(void **state)
{
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];
	char missing[128];
	char *deep = malloc(PATH_MAX + 10);

	(void)state;
	snprintf(missing, sizeof(missing), "%s/none/token", dir);
	assert_int_equal(ferryi_token_create(missing, token, why, sizeof(why)), -ENOENT);
	assert_non_null(deep);
	memset(deep, 'x', PATH_MAX + 9);
	deep[PATH_MAX + 9] = '\0';
	assert_int_equal(ferryi_token_create(deep, token, why, sizeof(why)), -ENAMETOOLONG);
	free(deep);
}

static void token_create__cannot_be_written__error_and_no_file(void **state)
{
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];
	struct rlimit old;
	int rc;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	signal(SIGXFSZ, SIG_IGN);
	if (setrlimit(RLIMIT_FSIZE, &(struct rlimit){0, old.rlim_max}) != 0)
		skip();
	rc = ferryi_token_create(path, token, why, sizeof(why));
	setrlimit(RLIMIT_FSIZE, &old);
	signal(SIGXFSZ, SIG_DFL);
	assert_int_equal(rc, -EFBIG);
	assert_non_null(strstr(why, "File too large"));
	assert_int_equal(count_files(), 0);
}

struct creator {
	pthread_barrier_t *barrier;
	int rc;
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];
};

/* As a server does at its first start: create, else load. */
static void *create_or_load(void *arg)
{
	struct creator *c = arg;

	pthread_barrier_wait(c->barrier);
	c->rc = ferryi_token_create(path, c->token, NULL, 0);
	if (c->rc == -EEXIST && ferryi_token_load(path, c->token, NULL, 0) != 0)
		c->rc = -EIO;
	return NULL;
}

static void token_create__two_at_once__one_token(void **state)
{
	pthread_barrier_t barrier;

	(void)state;
	assert_int_equal(pthread_barrier_init(&barrier, NULL, 2), 0);
	for (int round = 0; round < 50; round++) {
		struct creator c[2] = {{.barrier = &barrier}, {.barrier = &barrier}};
		pthread_t threads[2];

		for (size_t i = 0; i < 2; i++)
			assert_int_equal(pthread_create(&threads[i], NULL, create_or_load, &c[i]), 0);
		for (size_t i = 0; i < 2; i++)
			assert_int_equal(pthread_join(threads[i], NULL), 0);
		assert_int_equal((c[0].rc == 0) + (c[1].rc == 0), 1);
		assert_int_equal((c[0].rc == -EEXIST) + (c[1].rc == -EEXIST), 1);
		assert_memory_equal(c[0].token, c[1].token, sizeof(c[0].token));
		assert_int_equal(unlink(path), 0);
	}
	pthread_barrier_destroy(&barrier);
}

static void host_identity__twice__same_one_line(void **state)
{
	char a[128];
	char b[128];
	char small[8];

	(void)state;
	ferryi_host_identity(a, sizeof(a));
	ferryi_host_identity(b, sizeof(b));
	assert_string_equal(a, b);
	assert_non_null(strchr(a, '/'));
	assert_true(strlen(strchr(a, '/')) == 1 + 36);
	assert_null(strchr(a, '\n'));
	ferryi_host_identity(small, sizeof(small));
	assert_true(strlen(small) < sizeof(small));
}

#define FILE_TEST(fn) cmocka_unit_test_setup_teardown(fn, NULL, each_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mac__known_inputs__known_answer),
		cmocka_unit_test(mac__any_input_changed__differs),
		cmocka_unit_test(mac_equal__each_bit__told),
		cmocka_unit_test(random__two_draws__differ),
		cmocka_unit_test(token_text__valid_forms__parsed_and_back),
		cmocka_unit_test(token_text__invalid__einval_and_untouched),
		FILE_TEST(token_load__good_file__token),
		FILE_TEST(token_load__open_to_others__eperm_with_the_remedy),
		FILE_TEST(token_load__missing__enoent),
		FILE_TEST(token_load__not_readable__eacces),
		FILE_TEST(token_load__wrong_content__einval),
		FILE_TEST(token_load__directory_or_fifo__einval_without_hanging),
		FILE_TEST(token_create__new__private_file_that_loads),
		FILE_TEST(token_create__there_already__eexist_and_kept),
		FILE_TEST(token_create__no_directory_or_path_too_long__refused),
		FILE_TEST(token_create__cannot_be_written__error_and_no_file),
		FILE_TEST(token_create__two_at_once__one_token),
		cmocka_unit_test(host_identity__twice__same_one_line),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
