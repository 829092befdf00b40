/* Parameters of ferryd. See config.h. */
#include "config.h"

#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "log.h"
#include "param.h"
#include "quota.h"
#include "register.h"
#include "url.h"

static const char *const log_levels[] = {"error", "warn", "notice", "info", "debug", NULL};

static int add_pool(struct ferryi_config *config, const struct ferryi_pool_spec *spec, char *err,
		    size_t err_len)
{
	for (unsigned i = 0; i < config->npools; i++) {
		if (strcmp(config->pools[i].name, spec->name) == 0) {
			snprintf(err, err_len, "pool %s: the name is taken by another pool", spec->name);
			return -EINVAL;
		}
	}
	if (config->npools == FERRYI_MAX_POOLS) {
		snprintf(err, err_len, "pool %s: more than %u pools", spec->name, FERRYI_MAX_POOLS);
		return -EINVAL;
	}
	config->pools[config->npools++] = *spec;
	return 0;
}

static int call_pool(void *cfg, const char *value, char *err, size_t err_len)
{
	struct ferryi_pool_spec spec;
	int rc = ferryi_pool_spec_parse(&spec, value, err, err_len);

	return rc ? rc : add_pool(cfg, &spec, err, err_len);
}

static int set_listen(void *ctx, const char *key, const char *value, char *err, size_t err_len)
{
	struct ferryi_listen *listen = ctx;

	if (strcmp(key, "auth") != 0 || !value) {
		snprintf(err, err_len, "unknown key '%.40s': only auth=METHOD may follow the address", key);
		return -EINVAL;
	}
	listen->has_auth = true;
	if (!ferryi_auth_find(value, &listen->auth))
		return 0;
	snprintf(err, err_len, "auth=%.40s: there is no such method; use " FERRYI_AUTH_NAMES, value);
	return -EINVAL;
}

/* HOST:PORT[,auth=METHOD] */
static int call_listen(void *cfg, const char *value, char *err, size_t err_len)
{
	struct ferryi_config *config = cfg;
	size_t len = strcspn(value, ",");
	struct ferryi_listen listen = {.auth = FERRYI_AUTH_TOKEN};
	char address[288];
	int rc;

	snprintf(address, sizeof(address), "%.*s", (int)ferryi_min_u64(len, sizeof(address) - 1), value);
	rc = ferryi_hostport_parse(address, listen.host, sizeof(listen.host), &listen.port, err, err_len);
	if (!rc && value[len])
		rc = ferryi_keyvals_parse(value + len + 1, set_listen, &listen, err, err_len);
	if (rc)
		return rc;
	if (config->listens_replaced)
		config->nlistens = 0;
	config->listens_replaced = false;
	if (config->nlistens == FERRYI_MAX_LISTENERS) {
		snprintf(err, err_len, "more than %u addresses", FERRYI_MAX_LISTENERS);
		return -EINVAL;
	}
	config->listens[config->nlistens++] = listen;
	return 0;
}

static int call_quota(void *cfg, const char *value, char *err, size_t err_len)
{
	struct ferryi_config *config = cfg;

	return ferryi_quota_add(&config->quotas, value, err, err_len);
}

#define AT(member) offsetof(struct ferryi_config, member)

static const struct ferryi_param table[] = {
	{.name = "pool",
	 .short_opt = 'p',
	 .type = FERRYI_PARAM_CALL,
	 .call = call_pool,
	 .metavar = "name=NAME,size=SIZE[,KEY=VALUE...]",
	 .text = "A pool of memory to lend; may repeat. Keys: name; size (multiple of 2M); type "
		 "(private; coherent: mapped by clients of this host, lent over the local fabric alone; "
		 "fs_dax: a "
		 "file, whose leases with a name outlive the server; generic: a "
		 "character device, or huge pages; default private); path (of that file, made if it is not "
		 "there, or of that device); numa (node to take the memory from); hugepages (2M); backing "
		 "(anon, or memfd, which same-host clients need; default: memfd where the local fabric is "
		 "served, else anon); reserve (yes: take the memory at start; no: on first use; default "
		 "yes)."},
	{.name = "listen",
	 .short_opt = 'l',
	 .type = FERRYI_PARAM_CALL,
	 .call = call_listen,
	 .metavar = "HOST:PORT[,auth=METHOD]",
	 .text = "Where clients reach the control protocol; HOST alone takes port 7470, :PORT listens "
		 "everywhere, port 0 is any free one. METHOD is how they show who they are: token (they know "
		 "the secret), munge (a credential of munged, which says whose process it is), tls "
		 "(certificates of both sides) or anonymous (anybody); default: token. May repeat, each with "
		 "its own. Without this option: 127.0.0.1:7470."},
	{.name = "data-host",
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(data_host),
	 .metavar = "HOST",
	 .text = "Address that the fabrics listen on, where it is another than that of --listen."},
	{.name = "fabric",
	 .short_opt = 'f',
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(fabric),
	 .metavar = "LIST",
	 .text = "Fabrics to serve, from verbs, local (or shm), tcp, rdm, separated by commas. Each one "
		 "named must be usable. Without this option every usable one is served."},
	{.name = "config",
	 .short_opt = 'c',
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(file),
	 .metavar = "FILE",
	 .text = "Config file: a [server] section with these parameters by their long names, and a [pool "
		 "NAME] section with its keys for each pool. The command line wins."},
	{.name = "log-level",
	 .type = FERRYI_PARAM_ENUM,
	 .offset = AT(log_level),
	 .deflt = "notice",
	 .values = log_levels,
	 .metavar = "LEVEL",
	 .text = "Least urgent records that are written to stderr."},
	{.name = "token-file",
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(token_file),
	 .metavar = "PATH",
	 .text = "File of the secret that clients must know, made at the first start, readable by its "
		 "owner only. Default: $STATE_DIRECTORY/token; else, as root, /var/lib/farferry/token; "
		 "else $XDG_STATE_HOME/farferry/token or ~/.local/state/farferry/token."},
	{.name = "token-fd",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(token_fd),
	 .min = 3,
	 .max = 1048576,
	 .metavar = "FD",
	 .text = "Inherited descriptor to read the secret from, in place of a file: 32 bytes, or 64 "
		 "hexadecimal digits."},
	{.name = "no-auth",
	 .type = FERRYI_PARAM_FLAG,
	 .offset = AT(no_auth),
	 .text = "Serve anybody who can reach the port, without a secret: auth=anonymous for each --listen "
		 "that names no method."},
	{.name = "munge-socket",
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(munge_socket),
	 .metavar = "PATH",
	 .text = "Socket of munged, for --listen with auth=munge. Default: that of libmunge."},
	{.name = "tls-cert",
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(tls_cert),
	 .metavar = "FILE",
	 .text = "For --listen with auth=tls: the server's certificate (PEM), for the name or address that "
		 "clients connect to."},
	{.name = "tls-key",
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(tls_key),
	 .metavar = "FILE",
	 .text = "Its key (PEM), not readable by everybody."},
	{.name = "tls-ca",
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(tls_ca),
	 .metavar = "FILE",
	 .text = "Certificate (PEM) of the authority whose certificates clients must have."},
	{.name = "keepalive",
	 .type = FERRYI_PARAM_MS,
	 .offset = AT(limits.keepalive_ms),
	 .min = 10,
	 .max = 3600000,
	 .deflt = "2s",
	 .metavar = "TIME",
	 .text = "How often clients are told to show that they live."},
	{.name = "timeout",
	 .type = FERRYI_PARAM_MS,
	 .offset = AT(limits.timeout_ms),
	 .min = 20,
	 .max = 86400000,
	 .deflt = "10s",
	 .metavar = "TIME",
	 .text = "Silence after which a session is revoked; at least twice --keepalive."},
	{.name = "keep",
	 .type = FERRYI_PARAM_MS,
	 .offset = AT(limits.keep_ms),
	 .max = 86400000,
	 .deflt = "10s",
	 .metavar = "TIME",
	 .text = "How long the memory of a lease with a name waits, once its client is gone without giving "
		 "it back, for a client that takes it over; then it is zeroed and free. Pools of type fs_dax "
		 "keep theirs for good. Also how long that of a lease without a name waits for its heir, who "
		 "serves children of fork when their parent is killed. 0: nothing is kept in memory."},
	{.name = "handshake-timeout",
	 .type = FERRYI_PARAM_MS,
	 .offset = AT(limits.handshake_ms),
	 .min = 10,
	 .max = 3600000,
	 .deflt = "5s",
	 .metavar = "TIME",
	 .text = "Time that a new connection has to authenticate."},
	{.name = "drain-timeout",
	 .type = FERRYI_PARAM_MS,
	 .offset = AT(drain_timeout_ms),
	 .max = 86400000,
	 .deflt = "30s",
	 .metavar = "TIME",
	 .text = "After SIGTERM: how long to wait for clients to give their leases back."},
	{.name = "max-sessions",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(limits.sessions),
	 .min = 1,
	 .max = 1000000,
	 .deflt = "4096",
	 .metavar = "N",
	 .text = "Authenticated sessions at once."},
	{.name = "max-unauthenticated",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(limits.unauthenticated),
	 .min = 1,
	 .max = 100000,
	 .deflt = "64",
	 .metavar = "N",
	 .text = "Connections at once that have not authenticated yet; more wait in the listen queue."},
	{.name = "max-leases",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(limits.leases),
	 .min = 1,
	 .max = 100000,
	 .deflt = "64",
	 .metavar = "N",
	 .text = "Leases of one session."},
	{.name = "max-extents",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(limits.extents),
	 .min = 1,
	 .max = 10000000,
	 .deflt = "65536",
	 .metavar = "N",
	 .text = "Extents (of at most 128M each) of one session."},
	{.name = "max-exports",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(limits.exports),
	 .max = 100000,
	 .deflt = "16",
	 .metavar = "N",
	 .text = "Mirrors that one session may export; 0: none."},
	{.name = "max-views",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(limits.views),
	 .max = 100000,
	 .deflt = "64",
	 .metavar = "N",
	 .text = "Views of exported mirrors that one session may have open; 0: none."},
	{.name = "quota",
	 .type = FERRYI_PARAM_CALL,
	 .call = call_quota,
	 .metavar = "WHO,KEY=VALUE[,KEY=VALUE...]",
	 .text = "What users may hold at once, all their sessions together; may repeat. WHO: user=NAME (of "
		 "this machine), user=UID, user=token, user=anonymous, user=CN=... (the subject of a "
		 "certificate, "
		 "as in the log), default (each user that has none of his own) or server (all together). "
		 "Keys: "
		 "bytes (a size), leases, sessions, rate (requests a second), exports, views; what is left "
		 "out "
		 "has no limit."},
	{.name = "max-output",
	 .type = FERRYI_PARAM_SIZE,
	 .offset = AT(limits.output_bytes),
	 .min = 2 << 20,
	 .max = 1 << 30,
	 .deflt = "4M",
	 .metavar = "SIZE",
	 .unit = "bytes",
	 .text = "Replies that a client may leave unread before it is cut off."},
	{.name = "spin-us",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(spin_us),
	 .max = 10000000,
	 .deflt = "2000",
	 .metavar = "N",
	 .unit = "us",
	 .text = "How long the progress threads of the tcp and rdm fabrics look for work before they "
		 "sleep. Waking costs a read some 15 us; with 2000 that is under 1 % of the gap that let "
		 "them sleep."},
	{.name = "threads",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(threads),
	 .max = 256,
	 .deflt = "0",
	 .metavar = "N",
	 .text = "Progress threads of each such fabric; 0: as many as the fabric thinks right."},
	{.name = "workers",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(workers),
	 .min = 1,
	 .max = 64,
	 .deflt = "2",
	 .metavar = "N",
	 .text = "Threads that register and revoke memory."},
	{.name = "register",
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(register_at),
	 .metavar = "etcd://HOST:PORT/PREFIX",
	 .text = "Register in etcd (its v3 API over HTTP), under PREFIX, where clients with that URL in "
		 "FERRY_SERVERS find this server; as long as it lives, and until it drains."},
	{.name = "register-ttl",
	 .type = FERRYI_PARAM_MS,
	 .offset = AT(register_ttl_ms),
	 .min = 2000,
	 .max = 3600000,
	 .deflt = "10s",
	 .metavar = "TIME",
	 .text = "How long the entry stays there when this server dies; whole seconds, renewed three times in "
		 "that time."},
	{.name = "advertise",
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(advertise),
	 .metavar = "HOST[:PORT]",
	 .text = "Address that is registered, where clients reach this server by another than that of --listen. "
		 "Default: that; where it is every address, this host's name."},
	{.name = "lifeline-fd",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(lifeline_fd),
	 .min = 3,
	 .max = 1048576,
	 .metavar = "FD",
	 .text = "Inherited descriptor: exit at once when its other end closes."},
	{.name = "ready-fd",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(ready_fd),
	 .min = 3,
	 .max = 1048576,
	 .metavar = "FD",
	 .text = "Inherited descriptor: the URL of the server and a newline are written to it once it "
		 "serves."},
	{.name = "inject-failures",
	 .type = FERRYI_PARAM_FLAG,
	 .offset = AT(inject_failures),
	 .text = "For tests: a client may have memory of its own leases reported as failed."},
	{.name = "check",
	 .type = FERRYI_PARAM_FLAG,
	 .offset = AT(check),
	 .text = "Check options, config file, fabrics and memory, serve nothing, and exit."},
	{.name = NULL},
};

/* ---- config file ---- */

struct file_reader {
	struct ferryi_config *config;
	FILE *stream;
	const char *path;
	unsigned line, header_line;   /* of the line read last, of the section's header */
	struct ferryi_pool_spec pool; /* being read */
	unsigned pool_line;	      /* of its header; 0: none */
	char *err;
	size_t err_len;
	bool failed;
};

static void file_fail(struct file_reader *reader, unsigned line, const char *why)
{
	if (!reader->failed)
		snprintf(reader->err, reader->err_len, "%s:%u: %s", reader->path, line, why);
	reader->failed = true;
}

/* fgets for inih, which does not tell its line numbers. */
static char *read_line(char *buf, int size, void *ctx)
{
	struct file_reader *reader = ctx;
	char *line = fgets(buf, size, reader->stream);

	if (!line)
		return NULL;
	reader->line++;
	if (!strchr(line, '\n') && !feof(reader->stream))
		file_fail(reader, reader->line, "the line is too long");
	if (line[strspn(line, " \t")] == '[')
		reader->header_line = reader->line;
	return line;
}

static void end_pool(struct file_reader *reader)
{
	char why[FERRYI_PARAM_ERR_LEN];

	if (reader->pool_line && (ferryi_pool_spec_check(&reader->pool, why, sizeof(why)) ||
				  add_pool(reader->config, &reader->pool, why, sizeof(why))))
		file_fail(reader, reader->pool_line, why);
	reader->pool_line = 0;
}

/* inih's handler: 1 is success, 0 an error. */
static int on_pair(void *ctx, const char *section, const char *name, const char *value)
{
	struct file_reader *reader = ctx;
	char why[FERRYI_PARAM_ERR_LEN];
	int rc;

	if (reader->failed)
		return 0;
	if (reader->pool_line && reader->pool_line != reader->header_line)
		end_pool(reader);
	if (strcmp(section, "server") == 0) {
		if (strcmp(name, "config") == 0 || strcmp(name, "pool") == 0 || strcmp(name, "check") == 0) {
			snprintf(why, sizeof(why), "'%s' is for the command line only%s", name,
				 name[0] == 'p' ? "; write a [pool NAME] section" : "");
			rc = -EINVAL;
		} else {
			rc = ferryi_params_set(table, reader->config, name, value, why, sizeof(why));
		}
	} else if (strncmp(section, "pool ", 5) == 0) {
		rc = 0;
		if (!reader->pool_line) {
			ferryi_pool_spec_init(&reader->pool);
			reader->pool_line = reader->header_line;
			rc = ferryi_pool_spec_set(&reader->pool, "name",
						  section + 5 + strspn(section + 5, " \t"), why, sizeof(why));
		}
		if (!rc)
			rc = ferryi_pool_spec_set(&reader->pool, name, value, why, sizeof(why));
	} else {
		snprintf(why, sizeof(why), "section [%s] is unknown; there are [server] and [pool NAME]",
			 section);
		rc = -EINVAL;
	}
	if (rc)
		file_fail(reader, reader->line, why);
	return rc == 0;
}

static int load_file(struct ferryi_config *config, const char *path, char *err, size_t err_len)
{
	struct file_reader reader = {.config = config, .path = path, .err = err, .err_len = err_len};
	int rc;

	reader.stream = fopen(path, "re");
	if (!reader.stream) {
		snprintf(err, err_len, "--config %s: %s", path, ferryi_strerror(errno));
		return -EINVAL;
	}
	rc = ini_parse_stream(read_line, &reader, on_pair, &reader);
	end_pool(&reader);
	fclose(reader.stream);
	if (rc > 0)
		file_fail(&reader, (unsigned)rc, "neither a [section], nor KEY = VALUE, nor a comment");
	else if (rc < 0)
		file_fail(&reader, reader.line, "out of memory");
	return reader.failed ? -EINVAL : 0;
}

/* ---- checks between parameters ---- */

static int split_fabrics(struct ferryi_config *config, char *err, size_t err_len)
{
	char list[256], *rest = list, *name;

	config->nrows = 0;
	if (!config->fabric)
		return 0;
	snprintf(list, sizeof(list), "%s", config->fabric);
	while ((name = strsep(&rest, ","))) {
		const struct ferryi_fabric_row *row = ferryi_fabric_find(name);

		if (!row || (row->flags & FERRYI_FABRIC_TEST_ONLY)) {
			snprintf(err, err_len,
				 "--fabric: '%s' is no fabric; there are verbs, local (or shm), tcp and rdm",
				 name);
			return -EINVAL;
		}
		for (unsigned i = 0; i < config->nrows; i++) {
			if (config->rows[i] == row) {
				snprintf(err, err_len, "--fabric: '%s' is named twice", name);
				return -EINVAL;
			}
		}
		if (config->nrows == FERRYI_HUB_FABRICS_MAX) {
			snprintf(err, err_len, "--fabric: more than %u fabrics", FERRYI_HUB_FABRICS_MAX);
			return -EINVAL;
		}
		config->rows[config->nrows++] = row;
	}
	return 0;
}

bool ferryi_config_wants(const struct ferryi_config *config, enum ferryi_auth auth)
{
	for (unsigned i = 0; i < config->nlistens; i++) {
		if (config->listens[i].auth == auth)
			return true;
	}
	return false;
}

static int check_listens(struct ferryi_config *config, char *err, size_t err_len)
{
	if (!config->nlistens && call_listen(config, "127.0.0.1", err, err_len))
		return -EINVAL;
	for (unsigned i = 0; i < config->nlistens; i++) {
		struct ferryi_listen *listen = &config->listens[i];

		if (!listen->has_auth && config->no_auth)
			listen->auth = FERRYI_AUTH_ANONYMOUS;
	}
	const bool tls = ferryi_config_wants(config, FERRYI_AUTH_TLS);

	if (tls && !(config->tls_cert && config->tls_key && config->tls_ca)) {
		snprintf(err, err_len, "--listen with auth=tls needs --tls-cert, --tls-key and --tls-ca");
		return -EINVAL;
	}
	if (!tls && (config->tls_cert || config->tls_key || config->tls_ca)) {
		snprintf(err, err_len, "--tls-cert, --tls-key, --tls-ca: no --listen has auth=tls");
		return -EINVAL;
	}
	if (config->munge_socket && !ferryi_config_wants(config, FERRYI_AUTH_MUNGE)) {
		snprintf(err, err_len, "--munge-socket: no --listen has auth=munge");
		return -EINVAL;
	}
	return 0;
}

static int check(struct ferryi_config *config, char *err, size_t err_len)
{
	int rc;

	if (!config->npools) {
		snprintf(
			err, err_len,
			"no pool: give --pool name=NAME,size=SIZE, as in --pool name=hot,size=2G, or a [pool "
			"NAME] section in --config FILE");
		return -EINVAL;
	}
	if (config->limits.timeout_ms < 2 * config->limits.keepalive_ms) {
		snprintf(err, err_len,
			 "--timeout %llums is less than twice --keepalive %llums: one late packet would end "
			 "a session",
			 (unsigned long long)config->limits.timeout_ms,
			 (unsigned long long)config->limits.keepalive_ms);
		return -EINVAL;
	}
	if (config->no_auth && (config->token_file || config->token_fd)) {
		snprintf(err, err_len, "--no-auth and %s contradict each other",
			 config->token_fd ? "--token-fd" : "--token-file");
		return -EINVAL;
	}
	if (config->token_file && config->token_fd) {
		snprintf(err, err_len, "--token-file and --token-fd: give one of them");
		return -EINVAL;
	}
	rc = ferryi_register_check(config->register_at, config->advertise, err, err_len);
	if (!rc)
		rc = check_listens(config, err, err_len);
	return rc ? rc : split_fabrics(config, err, err_len);
}

/* ---- interface ---- */

static int load_once(struct ferryi_config *config, const char *file, int argc, char **argv, char *err,
		     size_t err_len)
{
	int first_operand = argc;
	int rc;

	memset(config, 0, sizeof(*config));
	rc = ferryi_params_init(table, config, err, err_len);
	if (!rc && file)
		rc = load_file(config, file, err, err_len);
	config->listens_replaced = true;
	if (!rc)
		rc = ferryi_params_args(table, config, argc, argv, &first_operand, err, err_len);
	if (!rc && first_operand < argc) {
		snprintf(err, err_len, "'%s': ferryd takes options only; see --help", argv[first_operand]);
		rc = -EINVAL;
	}
	return rc;
}

int ferryi_config_load(struct ferryi_config *config, int argc, char **argv, char *err, size_t err_len)
{
	char *file;
	int rc;

	/* The command line twice: it says where the file is, and it wins over the file. */
	rc = load_once(config, NULL, argc, argv, err, err_len);
	if (!rc && config->file) {
		file = strdup(config->file);
		ferryi_params_fini(table, config);
		if (!file) {
			snprintf(err, err_len, "out of memory");
			rc = -EINVAL;
		} else {
			rc = load_once(config, file, argc, argv, err, err_len);
		}
		free(file);
	}
	if (!rc)
		rc = check(config, err, err_len);
	if (rc)
		ferryi_params_fini(table, config);
	return rc;
}

void ferryi_config_fini(struct ferryi_config *config)
{
	ferryi_params_fini(table, config);
}

void ferryi_config_help(FILE *out)
{
	ferryi_params_help(out, "ferryd --pool name=NAME,size=SIZE [OPTION...]",
			   "Lends this machine's memory to programs on other machines (or on this one) over "
			   "RDMA or what stands "
			   "in for it.\nSizes take K, M, G, T (binary); times take ms (default) or s.",
			   table);
}
