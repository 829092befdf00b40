/*
 * Authentication: random numbers, HMAC-SHA256 by OpenSSL, token files.
 * Control threads and start-up code; token files are read and written here only.
 * Copies of a secret are wiped before they go out of scope.
 */
#include "proto.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "err.h"
#include "log.h"

#define TOKEN_DIGITS   (2 * FERRYI_AUTH_TOKEN_LEN)
#define TOKEN_FILE_MAX 256 /* bytes: the digits, white space around them */

int ferryi_random(void *buf, size_t len)
{
	uint8_t *at = buf;

	while (len) {
		ssize_t n = getrandom(at, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			ferryi_error("random: getrandom failed: %s", ferryi_strerror(errno));
			return -EIO;
		}
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

int ferryi_auth_mac(enum ferryi_role signer, const uint8_t token[FERRYI_AUTH_TOKEN_LEN],
		    const uint8_t server_nonce[FERRYI_NONCE_LEN],
		    const uint8_t client_nonce[FERRYI_NONCE_LEN], uint8_t mac[FERRYI_MAC_LEN])
{
	/* Different texts for the two sides: a server's answer cannot be reflected as a client's. */
	static const char client_text[] = "farferry-client-1";
	static const char server_text[] = "farferry-server-1";
	enum { TEXT_LEN = sizeof(client_text) - 1 };
	bool client = signer == FERRYI_ROLE_CLIENT;
	uint8_t message[TEXT_LEN + 2 * FERRYI_NONCE_LEN];
	unsigned len = FERRYI_MAC_LEN;

	_Static_assert(sizeof(client_text) == sizeof(server_text), "one length for both");
	memcpy(message, client ? client_text : server_text, TEXT_LEN);
	memcpy(message + TEXT_LEN, client ? server_nonce : client_nonce, FERRYI_NONCE_LEN);
	memcpy(message + TEXT_LEN + FERRYI_NONCE_LEN, client ? client_nonce : server_nonce, FERRYI_NONCE_LEN);
	if (!HMAC(EVP_sha256(), token, (int)FERRYI_AUTH_TOKEN_LEN, message, sizeof(message), mac, &len) ||
	    len != FERRYI_MAC_LEN) {
		ferryi_error("authentication: the library gave no HMAC-SHA256");
		return -EIO;
	}
	return 0;
}

int ferryi_digest(const void *data, size_t len, uint8_t digest[FERRYI_DIGEST_LEN])
{
	return EVP_Digest(data, len, digest, NULL, EVP_sha256(), NULL) == 1 ? 0 : -EIO;
}

bool ferryi_mac_equal(const uint8_t a[FERRYI_MAC_LEN], const uint8_t b[FERRYI_MAC_LEN])
{
	return CRYPTO_memcmp(a, b, FERRYI_MAC_LEN) == 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int ferryi_token_parse(const char *text, uint8_t token[FERRYI_AUTH_TOKEN_LEN])
{
	uint8_t bytes[FERRYI_AUTH_TOKEN_LEN];
	int rc = -EINVAL;

	while (isspace((unsigned char)*text))
		text++;
	for (size_t i = 0; i < sizeof(bytes); i++, text += 2) {
		/* The low digit is looked at only if the high one is there: no read past the end. */
		int high = hex_digit(text[0]);
		int low = high < 0 ? -1 : hex_digit(text[1]);

		if (low < 0)
			goto out;
		bytes[i] = (uint8_t)(high << 4 | low);
	}
	while (isspace((unsigned char)*text))
		text++;
	if (*text == '\0') {
		memcpy(token, bytes, sizeof(bytes));
		rc = 0;
	}
out:
	OPENSSL_cleanse(bytes, sizeof(bytes));
	return rc;
}

void ferryi_token_format(const uint8_t token[FERRYI_AUTH_TOKEN_LEN], char out[2 * FERRYI_AUTH_TOKEN_LEN + 1])
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < FERRYI_AUTH_TOKEN_LEN; i++) {
		out[2 * i] = digits[token[i] >> 4];
		out[2 * i + 1] = digits[token[i] & 15];
	}
	out[TOKEN_DIGITS] = '\0';
}

/* The whole of a small file; bytes read, or negative errno. */
static ssize_t read_all(int fd, char *buf, size_t size)
{
	size_t have = 0;

	while (have < size) {
		ssize_t n = read(fd, buf + have, size - have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

static int write_all(int fd, const char *buf, size_t size)
{
	while (size) {
		ssize_t n = write(fd, buf, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		buf += n;
		size -= (size_t)n;
	}
	return 0;
}

int ferryi_token_load(const char *path, uint8_t token[FERRYI_AUTH_TOKEN_LEN], char *why, size_t why_len)
{
	char text[TOKEN_FILE_MAX + 1];
	struct stat st;
	ssize_t n;
	int rc;
	/* O_NONBLOCK: a FIFO put there must not hang us. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		rc = -errno;
		return ferryi_err(rc, why, why_len, "token file '%s': %s", path, ferryi_strerror(rc));
	}
	if (fstat(fd, &st) != 0) {
		rc = -errno;
		ferryi_err(rc, why, why_len, "token file '%s': %s", path, ferryi_strerror(rc));
		goto out_close;
	}
	if (!S_ISREG(st.st_mode)) {
		rc = ferryi_err(-EINVAL, why, why_len, "token file '%s' is not a regular file", path);
		goto out_close;
	}
	if (st.st_mode & (S_IRGRP | S_IWGRP | S_IROTH | S_IWOTH)) {
		rc = ferryi_err(-EPERM, why, why_len,
				"token file '%s' is open to group or others (mode %03o): run chmod 600 on it",
				path, (unsigned)st.st_mode & 0777);
		goto out_close;
	}
	n = read_all(fd, text, TOKEN_FILE_MAX);
	if (n < 0) {
		rc = ferryi_err((int)n, why, why_len, "token file '%s': %s", path, ferryi_strerror((int)n));
		goto out_close;
	}
	text[n] = '\0';
	rc = n < TOKEN_FILE_MAX ? ferryi_token_parse(text, token) : -EINVAL;
	if (rc)
		ferryi_err(rc, why, why_len, "token file '%s' does not hold a token of %u hexadecimal digits",
			   path, TOKEN_DIGITS);
	OPENSSL_cleanse(text, sizeof(text));
out_close:
	close(fd);
	return rc;
}

/* Fills an open, empty file with a new token. */
static int token_write(int fd, uint8_t token[FERRYI_AUTH_TOKEN_LEN])
{
	uint8_t bytes[FERRYI_AUTH_TOKEN_LEN];
	char text[TOKEN_DIGITS + 2];
	int rc = ferryi_random(bytes, sizeof(bytes));

	if (rc)
		return rc;
	ferryi_token_format(bytes, text);
	text[TOKEN_DIGITS] = '\n';
	rc = write_all(fd, text, TOKEN_DIGITS + 1);
	if (rc == 0 && fsync(fd) != 0)
		rc = -errno;
	if (rc == 0)
		memcpy(token, bytes, sizeof(bytes));
	OPENSSL_cleanse(bytes, sizeof(bytes));
	OPENSSL_cleanse(text, sizeof(text));
	return rc;
}

int ferryi_token_create(const char *path, uint8_t token[FERRYI_AUTH_TOKEN_LEN], char *why, size_t why_len)
{
	uint8_t bytes[FERRYI_AUTH_TOKEN_LEN];
	char temp[PATH_MAX];
	int rc;
	int fd;

	/*
	 * Written beside its name and linked in place: whoever finds the file
	 * finds a whole token, and of two creators one gets -EEXIST.
	 */
	if (snprintf(temp, sizeof(temp), "%s.XXXXXX", path) >= (int)sizeof(temp))
		return ferryi_err(-ENAMETOOLONG, why, why_len, "token file: path is too long");
	if (access(path, F_OK) == 0) {
		rc = -EEXIST;
		goto err;
	}
	fd = mkostemp(temp, O_CLOEXEC); /* mode 0600 */
	if (fd < 0) {
		rc = -errno;
		goto err;
	}
	rc = token_write(fd, bytes);
	if (close(fd) != 0 && rc == 0)
		rc = -errno;
	if (rc == 0 && link(temp, path) != 0)
		rc = -errno;
	unlink(temp);
	if (rc == 0)
		memcpy(token, bytes, sizeof(bytes));
	OPENSSL_cleanse(bytes, sizeof(bytes));
	if (rc == 0)
		return 0;
err:
	return ferryi_err(rc, why, why_len, "token file '%s' cannot be created: %s", path,
			  ferryi_strerror(rc));
}

void ferryi_host_identity(char *buf, size_t buf_len)
{
	char host[HOST_NAME_MAX + 1] = "";
	char boot[64] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		ssize_t n = read_all(fd, boot, sizeof(boot) - 1);

		boot[n > 0 ? n : 0] = '\0';
		boot[strcspn(boot, "\n")] = '\0';
		close(fd);
	}
	if (gethostname(host, sizeof(host) - 1) != 0)
		host[0] = '\0';
	/* The peer takes one line of text: see check_text. */
	for (char *c = host; *c; c++) {
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = '?';
	}
	snprintf(buf, buf_len, "%s/%s", host, boot);
}
