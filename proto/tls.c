/*
 * TLS by OpenSSL: contexts of PEM files, the name behind a certificate, and why
 * a handshake failed. Nothing of the protocol is ours; libevent moves the bytes.
 * Any thread, each object by one at a time; files are read at start-up.
 */
#include "proto.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "err.h"

static int ssl_fail(const char *what, const char *path, char *why, size_t why_len)
{
	const char *reason = ERR_reason_error_string(ERR_peek_last_error());

	ERR_clear_error();
	return ferryi_err(-EINVAL, why, why_len, "TLS: %s '%s' cannot be used: %s", what, path,
			  reason ? reason : "no PEM file of that kind");
}

/* OpenSSL's own errors of a missing file say little. */
static int check_file(const char *what, const char *path, bool is_secret, char *why, size_t why_len)
{
	struct stat st;
	FILE *f;
	int rc;

	if (!path || !path[0])
		return ferryi_err(-EINVAL, why, why_len, "TLS: no %s is named", what);
	f = fopen(path, "re");
	if (!f || fstat(fileno(f), &st)) {
		rc = -errno;
		if (f)
			fclose(f);
		return ferryi_err(rc, why, why_len, "TLS: %s '%s': %s", what, path, strerror(-rc));
	}
	fclose(f);
	if (is_secret && (st.st_mode & (S_IROTH | S_IWOTH)))
		return ferryi_err(-EPERM, why, why_len,
				  "TLS: %s '%s' can be read by everybody: chmod o= '%s'", what, path, path);
	return 0;
}

static int load(SSL_CTX *ctx, const struct ferryi_tls_files *files, char *why, size_t why_len)
{
	int rc;

	if ((rc = check_file("certificate", files->cert, false, why, why_len)) ||
	    (rc = check_file("key", files->key, true, why, why_len)) ||
	    (rc = check_file("authority", files->ca, false, why, why_len)))
		return rc;
	if (SSL_CTX_use_certificate_chain_file(ctx, files->cert) != 1)
		return ssl_fail("certificate", files->cert, why, why_len);
	if (SSL_CTX_use_PrivateKey_file(ctx, files->key, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_check_private_key(ctx) != 1)
		return ssl_fail("key", files->key, why, why_len);
	if (SSL_CTX_load_verify_file(ctx, files->ca) != 1)
		return ssl_fail("authority", files->ca, why, why_len);
	return 0;
}

int ferryi_tls_context_open(enum ferryi_role self, const struct ferryi_tls_files *files,
			    struct ssl_ctx_st **out, char *why, size_t why_len)
{
#ifdef FERRYI_HAVE_TLS
	SSL_CTX *ctx = SSL_CTX_new(self == FERRYI_ROLE_SERVER ? TLS_server_method() : TLS_client_method());
	int rc;

	*out = NULL;
	if (!ctx || SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1) {
		SSL_CTX_free(ctx);
		return ferryi_err(-ENOMEM, why, why_len, "TLS: out of memory");
	}
	rc = load(ctx, files, why, why_len);
	if (rc) {
		SSL_CTX_free(ctx);
		return rc;
	}
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	/* Every session shows its certificate; a connection that breaks off is a lost session, however it
	 * ends. */
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(ctx, 0);
	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_IGNORE_UNEXPECTED_EOF);
	*out = ctx;
	return 0;
#else
	(void)self;
	(void)files;
	(void)load;
	*out = NULL;
	return ferryi_err(-EOPNOTSUPP, why, why_len,
			  "this farferry was built without TLS (libevent_openssl): use another method");
#endif
}

void ferryi_tls_context_close(struct ssl_ctx_st **ctx)
{
	SSL_CTX_free(*ctx);
	*ctx = NULL;
}

static bool set_host(SSL *ssl, const char *host)
{
	unsigned char addr[sizeof(struct in6_addr)];

	if (inet_pton(AF_INET, host, addr) == 1 || inet_pton(AF_INET6, host, addr) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
}

struct ssl_st *ferryi_tls_open(struct ssl_ctx_st *ctx, const char *host)
{
	SSL *ssl = SSL_new(ctx);

	if (ssl && host && !set_host(ssl, host))
		ferryi_tls_close(&ssl);
	return ssl;
}

void ferryi_tls_close(struct ssl_st **ssl)
{
	SSL_free(*ssl);
	*ssl = NULL;
}

int ferryi_tls_user(struct ssl_st *ssl, char user[FERRYI_MAX_USER + 1])
{
	/* As RFC 2253, which escapes what separates; but with "; " in between, which an option's list leaves
	 * alone. */
	const unsigned long flags =
		(XN_FLAG_RFC2253 & ~(unsigned long)XN_FLAG_SEP_MASK) | XN_FLAG_SEP_SPLUS_SPC;
	X509 *cert = SSL_get1_peer_certificate(ssl);
	BIO *text = BIO_new(BIO_s_mem());
	int rc = -EINVAL, n = 0;
	char *bytes;

	if (cert && text && SSL_get_verify_result(ssl) == X509_V_OK)
		n = X509_NAME_print_ex(text, X509_get_subject_name(cert), 0, flags);
	if (n > 0 && (n = (int)BIO_get_mem_data(text, &bytes)) + 4 <= (int)FERRYI_MAX_USER) {
		snprintf(user, FERRYI_MAX_USER + 1, "tls:%.*s", n, bytes);
		rc = 0;
	}
	BIO_free(text);
	X509_free(cert);
	return rc;
}

bool ferryi_tls_is_plain(unsigned long error)
{
	int reason = ERR_GET_REASON(error);

	return ERR_GET_LIB(error) == ERR_LIB_SSL &&
	       (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST);
}

void ferryi_tls_why(struct ssl_st *ssl, unsigned long error, char *why, size_t why_len)
{
	long verified = SSL_get_verify_result(ssl);
	const char *reason = ERR_reason_error_string(error);

	if (verified != X509_V_OK)
		snprintf(why, why_len, "the peer's certificate is refused: %s",
			 X509_verify_cert_error_string(verified));
	else if (reason && ERR_GET_REASON(error) > SSL_AD_REASON_OFFSET)
		snprintf(why, why_len, "the peer refuses our certificate, or all of it: %s", reason);
	else if (ferryi_tls_is_plain(error))
		snprintf(why, why_len, "the peer does not speak TLS (%s)", reason ? reason : "unknown");
	else
		snprintf(why, why_len, "%s", reason ? reason : "the peer closed the connection");
}
