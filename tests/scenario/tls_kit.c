/* See tls_kit.h. */
#include "tls_kit.h"

#include "server_kit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[64];

static void run(const char *command)
{
	if (system(command) != 0) {
		print_error("failed: %s\n", command);
		fail();
	}
}

void ferryt_tls_begin(void)
{
	if (system("command -v openssl >/dev/null") != 0) {
		printf("skipped: openssl is missing: run deploy/install-deps.sh\n");
		exit(77);
	}
	snprintf(dir, sizeof(dir), "/tmp/ferryt-tls-XXXXXX");
	assert_non_null(mkdtemp(dir));
}

void ferryt_tls_end(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	run(command);
}

const char *ferryt_tls_file(const char *name)
{
	static char paths[8][128];
	static unsigned next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof(paths[0]), "%s/%s", dir, name);
	return path;
}

#define NEW_KEY "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"

void ferryt_tls_authority(const char *name)
{
	char command[512];

	snprintf(command, sizeof(command),
		 "cd '%s' && openssl req -x509 " NEW_KEY
		 " -subj '/CN=%s' -keyout %s.key -out %s.pem 2>openssl.log",
		 dir, name, name, name);
	run(command);
}

void ferryt_tls_certificate(const char *name, const char *authority, const char *subject, const char *alt)
{
	char command[768];

	snprintf(command, sizeof(command),
		 "cd '%s' && openssl req -x509 " NEW_KEY " -CA %s.pem -CAkey %s.key -subj '%s' "
		 "-addext basicConstraints=critical,CA:FALSE %s%s -keyout %s.key -out %s.pem 2>openssl.log",
		 dir, authority, authority, subject, alt ? "-addext subjectAltName=" : "", alt ? alt : "",
		 name, name);
	run(command);
}

void ferryt_tls_use(const char *name, const char *authority)
{
	char file[64];

	snprintf(file, sizeof(file), "%s.pem", name);
	setenv("FERRY_TLS_CERT", ferryt_tls_file(file), 1);
	snprintf(file, sizeof(file), "%s.key", name);
	setenv("FERRY_TLS_KEY", ferryt_tls_file(file), 1);
	snprintf(file, sizeof(file), "%s.pem", authority);
	setenv("FERRY_TLS_CA", ferryt_tls_file(file), 1);
}
