/* Certificates of the test's own, by openssl(1), in a folder that goes with it. */
#ifndef FERRYT_TLS_KIT_H
#define FERRYT_TLS_KIT_H

/* Makes the folder. Exits with 77 and a reason where there is no openssl(1). */
void ferryt_tls_begin(void);
void ferryt_tls_end(void);
/* The path of a file in it; a buffer for each of the last eight calls. */
const char *ferryt_tls_file(const char *name);
/* NAME.pem and NAME.key: an authority. */
void ferryt_tls_authority(const char *name);
/* NAME.pem and NAME.key of that authority. alt: "IP:127.0.0.1", or NULL. */
void ferryt_tls_certificate(const char *name, const char *authority, const char *subject, const char *alt);
/* The environment's FERRY_TLS_CERT, _KEY and _CA. */
void ferryt_tls_use(const char *name, const char *authority);

#endif
