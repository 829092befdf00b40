/* ferryd's options, config file, token file and start-up errors: each wrong one ends in one clear line. */
#include "server_kit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define POOL	  "--pool", "name=hot,size=4M"
#define ANY_PORT  "--listen", "127.0.0.1:0"
#define USAGE	  2
#define RUNTIME	  1

static char dir[] = "/tmp/ferryd-test-XXXXXX";
static char token_path[64], config_path[64];

static int make_dir(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(token_path, sizeof(token_path), "%s/token", dir);
	snprintf(config_path, sizeof(config_path), "%s/ferryd.conf", dir);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	unlink(token_path);
	unlink(config_path);
	return rmdir(dir);
}

static unsigned lines_of(const char *text)
{
	unsigned n = 0;

	while ((text = strchr(text, '\n'))) {
		n++;
		text++;
	}
	return n;
}

/* Ends with that status and one line on stderr that holds the text. */
static void expect_line(const char *const *args, int status, const char *text)
{
	char out[8192], err[8192];
	int rc = ferryt_server_run(args, out, sizeof(out), err, sizeof(err));

	if (rc != status || lines_of(err) != 1 || !strstr(err, text) ||
	    strncmp(err, "ferryd: error: ", 15) != 0) {
		print_error("wanted status %d and one line with '%s'; got %d and:\n%s", status, text, rc,
			    err);
		fail();
	}
}

static void options__wrong__one_line_each(void **state)
{
	(void)state;
	expect_line(ARGS("--log-level", "info"), USAGE, "no pool: give --pool");
	expect_line(ARGS("--pol", "x"), USAGE, "did you mean '--pool'?");
	expect_line(ARGS("--frobnicate"), USAGE, "unknown option '--frobnicate'");
	expect_line(ARGS("-x"), USAGE, "unknown option '-x'");
	expect_line(ARGS("--pool"), USAGE, "needs a value");
	expect_line(ARGS(POOL, "hot"), USAGE, "'hot': ferryd takes options only");
	expect_line(ARGS(POOL, "--log-level", "loud"), USAGE, "not one of: error, warn, notice, info, debug");
	expect_line(ARGS(POOL, "--keepalive", "2m"), USAGE, "500ms or 10s");
	expect_line(ARGS(POOL, "--spin-us", "lots"), USAGE, "not a whole number");
	expect_line(ARGS(POOL, "--max-output", "1"), USAGE, "out of range: give from 2M to 1G");
	expect_line(ARGS(POOL, "--max-sessions", "0"), USAGE, "out of range");
	expect_line(ARGS(POOL, "--lifeline-fd", "0"), USAGE, "out of range: give from 3");
	expect_line(ARGS(POOL, "--timeout", "3s"), USAGE, "less than twice --keepalive");
	expect_line(ARGS(POOL, "--listen", "host:port:7"), USAGE, "--listen");
	expect_line(ARGS(POOL, "--listen", "127.0.0.1:99999"), USAGE, "--listen");
	expect_line(ARGS(POOL, "--listen", ":0,auth=kerberos"), USAGE,
		    "auth=kerberos: there is no such method; use token, munge, tls or anonymous");
	expect_line(ARGS(POOL, "--listen", ":0,auth"), USAGE, "only auth=METHOD may follow the address");
	expect_line(ARGS(POOL, "--listen", ":0,colour=red"), USAGE, "unknown key 'colour'");
	expect_line(ARGS(POOL, "--listen", ":0,"), USAGE, "--listen");
	expect_line(ARGS(POOL, "--munge-socket", "/x"), USAGE, "no --listen has auth=munge");
	expect_line(ARGS(POOL, "--quota", "bytes=4M"), USAGE, "whose: give user=NAME, default or server");
	expect_line(ARGS(POOL, "--quota", "default"), USAGE, "how much: give bytes=SIZE");
	expect_line(ARGS(POOL, "--quota", "default,bytes=lots"), USAGE,
		    "bytes=lots: a number with an optional K");
	expect_line(ARGS(POOL, "--quota", "default,leases=4M"), USAGE, "leases=4M: a whole number");
	expect_line(ARGS(POOL, "--quota", "default,files=4"), USAGE, "unknown key 'files'");
	expect_line(ARGS(POOL, "--quota", "default,user=1000,leases=4"), USAGE, "once");
	expect_line(ARGS(POOL, "--quota", "user=no-such-user,leases=4"), USAGE, "no user 'no-such-user'");
	expect_line(ARGS(POOL, "--fabric", "warp"), USAGE,
		    "'warp' is no fabric; there are verbs, local (or shm), tcp and rdm");
	expect_line(ARGS(POOL, "--fabric", "fake"), USAGE, "'fake' is no fabric");
	expect_line(ARGS(POOL, "--fabric", "tcp,tcp"), USAGE, "named twice");
	expect_line(ARGS(POOL, "--fabric", ""), USAGE, "'' is no fabric");
	expect_line(ARGS(POOL, "--no-auth", "--token-file", "x"), USAGE, "contradict each other");
	expect_line(ARGS(POOL, "--token-fd", "9", "--token-file", "x"), USAGE, "give one of them");
}

static void pool__wrong__one_line_each(void **state)
{
	(void)state;
	expect_line(ARGS("--pool", ""), USAGE, "empty");
	expect_line(ARGS("--pool", "hot"), USAGE, "unknown key 'hot'");
	expect_line(ARGS("--pool", "name=hot"), USAGE, "size is missing");
	expect_line(ARGS("--pool", "size=2M"), USAGE, "name is missing");
	expect_line(ARGS("--pool", "name=,size=2M"), USAGE, "'name' has no value");
	expect_line(ARGS("--pool", "name=a b,size=2M"), USAGE, "letters, digits");
	expect_line(ARGS("--pool", "name=hot,size=2X"), USAGE,
		    "size=2X: a number with an optional K, M, G or T");
	expect_line(ARGS("--pool", "name=hot,size=4GB"), USAGE, "size=4GB");
	expect_line(ARGS("--pool", "name=hot,size=-2M"), USAGE, "size=-2M");
	expect_line(ARGS("--pool", "name=hot,size=0"), USAGE, "not a multiple of 2M; 2M would be");
	expect_line(ARGS("--pool", "name=hot,size=5M"), USAGE, "not a multiple of 2M; 4M or 6M would be");
	expect_line(ARGS("--pool", "name=hot,size=2"), USAGE, "not a multiple of 2M");
	expect_line(ARGS("--pool", "name=hot,size=4096T"), USAGE, "more than 1024T");
	expect_line(ARGS("--pool", "name=hot,size=2M,size=4M"), USAGE, "'size' is given twice");
	expect_line(ARGS("--pool", "name=hot,size=2M,colour=red"), USAGE, "unknown key 'colour'");
	expect_line(ARGS("--pool", "name=hot,size=2M,type=coherent,backing=anon"), USAGE, "so it is backing=memfd");
	expect_line(ARGS("--pool", "name=hot,size=2M,type=coherent", "--fabric", "tcp"), USAGE, "serve the local fabric too");
	expect_line(ARGS("--pool", "name=hot,size=2M,type=coherent,hugepages=2M"), USAGE, "leave hugepages out");
	expect_line(ARGS("--pool", "name=hot,size=2M,type=magic"), USAGE, "no such type");
	expect_line(ARGS("--pool", "name=hot,size=2M,numa=left"), USAGE, "a node number");
	expect_line(ARGS("--pool", "name=hot,size=2M,hugepages=1G"), USAGE, "2M is the only huge page size");
	expect_line(ARGS("--pool", "name=hot,size=2M,backing=tape"), USAGE, "anon or memfd");
	expect_line(ARGS("--pool", "name=hot,size=2M,reserve=maybe"), USAGE, "yes or no");
	expect_line(ARGS("--pool", "name=hot,size=2M,file=/x"), USAGE,
		    "only for type=fs_dax and type=generic");
	expect_line(ARGS("--pool", "name=hot,size=2M,type=fs_dax"), USAGE, "path is missing");
	expect_line(ARGS("--pool", "name=hot,size=2M,type=fs_dax,path=x"), USAGE, "begins with '/'");
	expect_line(ARGS("--pool", "name=hot,size=2M,type=fs_dax,path=/x,reserve=no"), USAGE,
		    "leave out numa");
	expect_line(ARGS("--pool", "name=hot,size=2M,type=fs_dax,path=/tmp,file=/tmp"), USAGE, "given twice");
	expect_line(ARGS("--pool", "name=hot,size=2M,type=generic"), USAGE,
		    "path=/dev/daxX.Y, or hugepages=2M");
	expect_line(ARGS("--pool", "name=hot,size=2M,type=generic,hugepages=2M,backing=memfd"), USAGE,
		    "backing=anon");
	expect_line(ARGS("--pool", "name=hot,size=2M,backing=file"), USAGE, "anon or memfd");
	expect_line(ARGS("--pool", "name=hot,size=2M,type=p2pdma", "--fabric", "tcp"), RUNTIME,
		    "no device of this machine has memory");
	expect_line(ARGS("--pool", "name=hot,size=2M,type=fs_dax,path=/tmp", "--fabric", "tcp", "--check"),
		    USAGE, "path=/tmp: not a file");
	expect_line(ARGS(POOL, "--pool", "name=hot,size=2M"), USAGE, "name is taken");
}

static void start__cannot__one_line_each(void **state)
{
	struct sockaddr_in addr = {.sin_family = AF_INET};
	socklen_t len = sizeof(addr);
	char listen_text[32];
	int fd;

	(void)state;
	expect_line(ARGS("--pool", "name=hot,size=1000T", "--fabric", "local", "--token-file", token_path,
			 ANY_PORT, "--log-level", "error"),
		    RUNTIME, "does not fit in memory: ");
	expect_line(ARGS("--pool", "name=hot,size=2M,hugepages=2M", "--fabric", "local", "--token-file",
			 token_path, ANY_PORT, "--log-level", "error"),
		    USAGE, "huge pages cannot be lent to clients of the same host");
	expect_line(ARGS("--pool", "name=hot,size=2M,backing=memfd,hugepages=2M", "--fabric", "tcp",
			 "--token-file", token_path, ANY_PORT, "--log-level", "error"),
		    USAGE, "leave hugepages out");
	expect_line(ARGS("--pool", "name=hot,size=1T,hugepages=2M", "--fabric", "tcp", "--token-file",
			 token_path, ANY_PORT, "--log-level", "error"),
		    RUNTIME, "sysctl vm.nr_hugepages=");
	expect_line(ARGS(POOL, "--fabric", "local", "--token-file", "/proc/nowhere/token", ANY_PORT,
			 "--log-level", "error"),
		    RUNTIME, "/proc/nowhere/token");
	expect_line(ARGS(POOL, "--fabric", "local", "--token-fd", "200", ANY_PORT, "--log-level", "error"),
		    RUNTIME, "--token-fd 200");
	expect_line(ARGS(POOL, "--fabric", "local", "--token-file", token_path, "--listen", "192.0.2.1:0",
			 "--log-level", "error"),
		    RUNTIME, "no such address");

	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
	snprintf(listen_text, sizeof(listen_text), "127.0.0.1:%u", ntohs(addr.sin_port));
	expect_line(ARGS(POOL, "--fabric", "local", "--token-file", token_path, "--listen", listen_text,
			 "--log-level", "error"),
		    RUNTIME, "the port is in use");
	close(fd);
}

/* A full disk is met at the start, not by a client. In a mount namespace, which this process then has. */
static void pool_in_a_file__disk_full__one_line_at_start(void **state)
{
	(void)state;
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", "/mnt", "tmpfs", 0, "size=16M")) {
		print_message("skipped: a small file system to fill needs root (%s)\n", strerror(errno));
		skip();
	}
	expect_line(ARGS("--pool", "name=hot,size=64M,type=fs_dax,path=/mnt/pool", "--fabric", "tcp", "--token-file", token_path,
			 ANY_PORT, "--log-level", "error"),
		    RUNTIME, "No space left on device");
	assert_int_equal(umount("/mnt"), 0);
}

static void verbs__memlock_too_small__one_line(void **state)
{
	const struct ferryi_fabric_row *verbs = ferryi_fabric_find("verbs");
	struct rlimit small = {64 << 10, 64 << 10}, before;
	char why[256];

	(void)state;
	if (!verbs || ferryi_fabric_usable(verbs, why, sizeof(why))) {
		print_message("no verbs device here: %s\n", why);
		skip();
	}
	if (geteuid() == 0) {
		print_message("root may lock any amount of memory\n");
		skip();
	}
	assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &before), 0);
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &small), 0);
	expect_line(
		ARGS(POOL, "--fabric", "verbs", "--token-file", token_path, ANY_PORT, "--log-level", "error"),
		RUNTIME, "LimitMEMLOCK=infinity");
}

static void verbs__named_and_missing__one_line(void **state)
{
	const struct ferryi_fabric_row *verbs = ferryi_fabric_find("verbs");
	char why[256];

	(void)state;
	if (verbs && ferryi_fabric_usable(verbs, why, sizeof(why)) == 0)
		skip(); /* this machine has it */
	expect_line(
		ARGS(POOL, "--fabric", "verbs", "--token-file", token_path, ANY_PORT, "--log-level", "error"),
		RUNTIME, "--fabric verbs cannot be served here");
}

/* ---- config file ---- */

static void write_config(const char *text)
{
	FILE *f = fopen(config_path, "w");

	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static void expect_config_error(const char *config, unsigned line, const char *text)
{
	char want[128];

	write_config(config);
	snprintf(want, sizeof(want), "%s:%u: ", config_path, line);
	expect_line(ARGS("--config", config_path), USAGE, want);
	expect_line(ARGS("--config", config_path), USAGE, text);
}

static void config__wrong__names_file_and_line(void **state)
{
	char longest[3000];

	(void)state;
	expect_line(ARGS("--config", "/nowhere.conf"), USAGE, "/nowhere.conf: No such file");
	expect_config_error("[server]\nlisten = 127.0.0.1:0\nspeed = 9\n", 3, "unknown parameter 'speed'");
	expect_config_error("# comment\n\n[server]\nkeepalive = soon\n", 4, "soon");
	expect_config_error("[pool hot]\nsize = 4M\n\n[pool cold]\nsize = 5M\n", 5, "not a multiple of 2M");
	expect_config_error("[pool hot]\nsize = 4M\n[pool hot]\nsize = 4M\n", 3, "name is taken");
	expect_config_error("[pool hot]\nnuma = 0\n[server]\nworkers = 2\n", 1, "size is missing");
	expect_config_error("[pool hot]\nsize = 4M\nsize = 4M\n", 3, "given twice");
	expect_config_error("[pool]\nsize = 4M\n", 2, "section [pool] is unknown");
	expect_config_error("[client]\nx = 1\n", 2, "section [client] is unknown");
	expect_config_error("[pool hot]\nsize = 4M\nnonsense\n", 3, "nor KEY = VALUE");
	expect_config_error("[server]\npool = name=hot,size=4M\n", 2, "write a [pool NAME] section");
	memset(longest, 'x', sizeof(longest) - 1);
	memcpy(longest, "[server]\nlisten = ", 18);
	longest[sizeof(longest) - 2] = '\n';
	longest[sizeof(longest) - 1] = '\0';
	expect_config_error(longest, 2, "too long");
}

static void config__good__passes_check_and_command_line_wins(void **state)
{
	char out[1024], err[1024];

	(void)state;
	write_config(
		"; ferryd\n[server]\nlisten = 127.0.0.1:0\nfabric = local\nlog-level = error\ntimeout = 20s\n"
		"keepalive = 5s\n\n[pool hot]\nsize = 4M\nbacking = memfd\n\n[pool cold]\nsize = 2M\nreserve "
		"= no\n");
	assert_int_equal(
		ferryt_server_run(ARGS("--config", config_path, "--token-file", token_path, "--check"), out,
				  sizeof(out), err, sizeof(err)),
		0);
	assert_string_equal(err, "");
	assert_string_equal(out, "ferryd: the configuration is good\n");
	expect_line(ARGS("--config", config_path, "--keepalive", "11s"), USAGE,
		    "less than twice --keepalive 11000ms");
	expect_line(ARGS("--config", config_path, "--pool", "name=cold,size=2M"), USAGE, "name is taken");
}

static void config__served__reloads_log_level(void **state)
{
	struct ferryt_server server;
	struct ferryt_conn conn;

	(void)state;
	write_config("[server]\nfabric = local\nlog-level = notice\n[pool hot]\nsize = 4M\n");
	ferryt_server_start(&server, ARGS("--config", config_path));
	ferryt_conn_login(&conn, &server);
	assert_null(strstr(ferryt_server_words(&server), "authenticated"));
	write_config("[server]\nfabric = local\nlog-level = info\n[pool hot]\nsize = 4M\n");
	kill(server.pid, SIGHUP);
	assert_true(ferryt_server_says(&server, "reload: log level is taken over, quotas, and the sizes"));
	ferryt_conn_close(&conn);
	ferryt_conn_login(&conn, &server);
	assert_true(ferryt_server_says(&server, "authenticated"));
	/* A file that went bad changes nothing. */
	write_config("[server]\nfabric = warp\n");
	kill(server.pid, SIGHUP);
	assert_true(ferryt_server_says(&server, "reload: nothing changed"));
	assert_true(ferryt_keepalive(&conn));
	ferryt_conn_close(&conn);
	ferryt_server_end(&server);
}

/* ---- token file ---- */

/* A server that says so once it serves, on a datagram socket as systemd's; then it is told to stop. */
static void run_until_ready(const char *const *args)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	char words[64] = "", *argv[FERRYT_ARGS_MAX] = {(char *)FERRYT_FERRYD};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int n = 1, status;
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	extern char **environ;
	pid_t pid;

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/notify", dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	setenv("NOTIFY_SOCKET", addr.sun_path, 1);
	while (*args)
		argv[n++] = (char *)*args++;
	assert_int_equal(posix_spawn(&pid, FERRYT_FERRYD, NULL, NULL, argv, environ), 0);
	unsetenv("NOTIFY_SOCKET");
	assert_int_equal(poll(&pfd, 1, FERRYT_WAIT_MS), 1);
	assert_true(recv(fd, words, sizeof(words) - 1, 0) > 0);
	assert_string_equal(words, "READY=1");
	kill(pid, SIGTERM);
	memset(words, 0, sizeof(words));
	assert_int_equal(poll(&pfd, 1, FERRYT_WAIT_MS), 1);
	assert_true(recv(fd, words, sizeof(words) - 1, 0) > 0);
	assert_string_equal(words, "STOPPING=1");
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	unlink(addr.sun_path);
	close(fd);
}

static void token_file__first_start__is_made_for_its_owner_only(void **state)
{
	const char *const *args = ARGS(POOL, "--fabric", "local", "--listen", "127.0.0.1:0", "--token-file",
				       token_path, "--log-level", "warn");
	uint8_t first[FERRYI_AUTH_TOKEN_LEN], second[FERRYI_AUTH_TOKEN_LEN];
	mode_t before = umask(0);
	char why[256];
	struct stat st;

	(void)state;
	unlink(token_path);
	run_until_ready(args);
	umask(before);
	assert_int_equal(stat(token_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(ferryi_token_load(token_path, first, why, sizeof(why)), 0);
	/* The next start keeps it. */
	run_until_ready(args);
	assert_int_equal(ferryi_token_load(token_path, second, why, sizeof(why)), 0);
	assert_memory_equal(first, second, sizeof(first));
}

static void token_file__wrong__one_line_each(void **state)
{
	const char *const *args =
		ARGS(POOL, "--fabric", "local", "--token-file", token_path, "--log-level", "error");
	FILE *f;

	(void)state;
	unlink(token_path);
	f = fopen(token_path, "w");
	assert_non_null(f);
	fputs("not a token\n", f);
	fclose(f);
	assert_int_equal(chmod(token_path, 0644), 0);
	expect_line(args, RUNTIME, "chmod 600");
	assert_int_equal(chmod(token_path, 0600), 0);
	expect_line(args, RUNTIME, "does not hold a token");
	assert_int_equal(unlink(token_path), 0);
}

static void token_file__default__is_in_the_state_folder(void **state)
{
	char path[128];
	struct stat st;

	(void)state;
	setenv("STATE_DIRECTORY", dir, 1);
	run_until_ready(ARGS(POOL, "--fabric", "local", "--listen", "127.0.0.1:0", "--log-level", "warn"));
	unsetenv("STATE_DIRECTORY");
	assert_int_equal(stat(token_path, &st), 0);
	assert_int_equal(unlink(token_path), 0);

	if (geteuid() == 0)
		return; /* root's is /var/lib/farferry, which is not the test's to write */
	setenv("XDG_STATE_HOME", dir, 1);
	run_until_ready(ARGS(POOL, "--fabric", "local", "--listen", "127.0.0.1:0", "--log-level", "warn"));
	unsetenv("XDG_STATE_HOME");
	snprintf(path, sizeof(path), "%s/farferry/token", dir);
	assert_int_equal(stat(path, &st), 0);
	unlink(path);
	snprintf(path, sizeof(path), "%s/farferry", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	rmdir(path);
}

/* ---- what it says of itself ---- */

/* The page without troff's escapes of hyphens. */
static const char *man_page(void)
{
	static char page[65536];
	FILE *f = fopen(FERRYT_MAN_PAGE, "r");
	char *to = page;

	assert_non_null(f);
	page[fread(page, 1, sizeof(page) - 1, f)] = '\0';
	fclose(f);
	for (const char *from = page; *from; from++) {
		if (from[0] != '\\' || from[1] != '-')
			*to++ = *from;
	}
	*to = '\0';
	return page;
}

static void help__printed__names_every_option_and_so_does_the_man_page(void **state)
{
	static char out[32768], err[1024];
	const char *page = man_page();
	unsigned n = 0;

	(void)state;
	assert_int_equal(ferryt_server_run(ARGS("--help"), out, sizeof(out), err, sizeof(err)), 0);
	assert_string_equal(err, "");
	for (const char *at = strstr(out, "--"); at; at = strstr(at + 2, "--")) {
		char word[64];
		size_t len = 2 + strspn(at + 2, "abcdefghijklmnopqrstuvwxyz-");
		const char *found;

		assert_true(len > 2 && len < sizeof(word));
		snprintf(word, sizeof(word), "%.*s", (int)len, at);
		/* The whole word: --fabric is not found in --fabrics. */
		found = strstr(page, word);
		while (found && strspn(found + len, "abcdefghijklmnopqrstuvwxyz-"))
			found = strstr(found + len, word);
		if (!found) {
			print_error("%s is in --help and not in the man page\n", word);
			fail();
		}
		n++;
	}
	assert_true(n > 20);
}

static void version__printed__exits_0(void **state)
{
	char out[256], err[256];

	(void)state;
	assert_int_equal(ferryt_server_run(ARGS("--version"), out, sizeof(out), err, sizeof(err)), 0);
	assert_memory_equal(out, "ferryd ", 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options__wrong__one_line_each),
		cmocka_unit_test(pool__wrong__one_line_each),
		cmocka_unit_test(start__cannot__one_line_each),
		cmocka_unit_test(pool_in_a_file__disk_full__one_line_at_start),
		cmocka_unit_test(verbs__memlock_too_small__one_line),
		cmocka_unit_test(verbs__named_and_missing__one_line),
		cmocka_unit_test(config__wrong__names_file_and_line),
		cmocka_unit_test(config__good__passes_check_and_command_line_wins),
		cmocka_unit_test(config__served__reloads_log_level),
		cmocka_unit_test(token_file__first_start__is_made_for_its_owner_only),
		cmocka_unit_test(token_file__wrong__one_line_each),
		cmocka_unit_test(token_file__default__is_in_the_state_folder),
		cmocka_unit_test(help__printed__names_every_option_and_so_does_the_man_page),
		cmocka_unit_test(version__printed__exits_0),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
