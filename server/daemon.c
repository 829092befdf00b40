/*
 * The server as a whole. See daemon.h.
 * Threads: all of this is the control thread; before `serve` it may block.
 */
#include "daemon.h"

#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "arith.h"
#include "clock.h"
#include "door.h"
#include "fabrics.h"
#include "log.h"
#include "mce.h"
#include "register.h"
#include "reload.h"
#include "secret.h"
#include "session.h"
#include "supervisor.h"

#define FAREWELL_MS 3000 /* for last bytes and revocations once the drain is over */

enum phase { SERVING, DRAINING, LEAVING };

struct daemon {
	/* immutable */
	struct ferryi_config *config;
	int argc;
	char **argv;
	/* owned by the control thread */
	struct ferryi_hub hub;
	struct event_base *base;
	struct ferryi_reload *reload;
	struct ferryi_register *reg; /* NULL: not asked for */
	struct ssl_ctx_st *tls;				 /* NULL: no listener wants it */
	struct ferryi_door *doors[FERRYI_MAX_LISTENERS]; /* one to one with config->listens */
	unsigned ndoors, nquiet;			 /* quiet: their connections are gone */
	struct event *on_term, *on_int, *on_hup, *on_jobs, *on_logins, *on_lifeline, *on_mce, *deadline;
	enum phase phase;
	/* a drain: how long it may take, and who wants it (asked_by "": a signal) */
	struct event *on_drain;
	uint64_t drain_ms;
	char asked_by[128];
};

/* ---- leaving ---- */

/* Everything that was lent is back and everybody is told: stop. */
static void leave_when_done(struct daemon *daemon)
{
	if (daemon->phase == LEAVING && daemon->nquiet == daemon->ndoors &&
	    !ferryi_jobs_pending(daemon->hub.jobs))
		event_base_loopbreak(daemon->base);
}

static void set_deadline(struct daemon *daemon, uint64_t ms)
{
	struct timeval tv = {.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000 * 1000)};

	event_add(daemon->deadline, &tv);
}

static void leave(struct daemon *daemon, const char *reason)
{
	daemon->phase = LEAVING;
	set_deadline(daemon, FAREWELL_MS);
	ferryi_server_sessions_revoke(&daemon->hub, reason);
	for (unsigned i = 0; i < daemon->ndoors; i++)
		ferryi_door_shut(daemon->doors[i], reason);
	leave_when_done(daemon);
}

static void drain_check(struct daemon *daemon)
{
	if (daemon->phase == DRAINING && !ferryi_jobs_pending(daemon->hub.jobs) &&
	    !ferryi_counter_read(&daemon->hub.status.g_leases))
		leave(daemon, "the server has shut down");
}

static void on_quiet(void *ctx)
{
	struct daemon *daemon = ctx;

	daemon->nquiet++;
	leave_when_done(daemon);
}

static void on_deadline(evutil_socket_t fd, short what, void *ctx)
{
	struct daemon *daemon = ctx;
	uint64_t leases = ferryi_counter_read(&daemon->hub.status.g_leases);

	(void)fd;
	(void)what;
	if (daemon->phase == LEAVING) {
		ferryi_warn(
			"stopping with work under way: connections or revocations did not end within %d ms",
			FAREWELL_MS);
		event_base_loopbreak(daemon->base);
		return;
	}
	ferryi_warn("drain: %" PRIu64 " leases were not given back within %" PRIu64 " ms; revoking them",
		    leases, daemon->drain_ms);
	leave(daemon, "the server has shut down; its drain time is over");
}

/* ---- events ---- */

static void drain(struct daemon *daemon, uint64_t drain_ms, const char *who)
{
	struct ferryi_hub *hub = &daemon->hub;

	daemon->phase = DRAINING;
	daemon->drain_ms = drain_ms;
	ferryi_supervisor_notify("STOPPING=1");
	ferryi_register_end(daemon->reg);
	ferryi_notice("%s: draining: nothing is granted any more; waiting up to %" PRIu64 " ms for %" PRIu64 " leases", who,
		      drain_ms, ferryi_counter_read(&hub->status.g_leases));
	hub->drain_deadline_ns = ferryi_deadline_ms(drain_ms);
	atomic_store(&hub->draining, true);
	set_deadline(daemon, drain_ms);
	ferryi_server_sessions_drain(hub, drain_ms);
	drain_check(daemon);
}

static void on_stop_signal(evutil_socket_t signum, short what, void *ctx)
{
	struct daemon *daemon = ctx;
	char who[32];

	(void)what;
	/* After a request to drain (ferry drain) the first signal is a second one. */
	if (daemon->phase != SERVING) {
		ferryi_warn("second signal (%d): stopping at once", (int)signum);
		_exit(1);
	}
	snprintf(who, sizeof(who), "signal %d", (int)signum);
	drain(daemon, daemon->config->drain_timeout_ms, who);
}

static void on_asked_to_drain(evutil_socket_t fd, short what, void *ctx)
{
	struct daemon *daemon = ctx;

	(void)fd;
	(void)what;
	if (daemon->phase == SERVING)
		drain(daemon, daemon->drain_ms, daemon->asked_by);
}

/* From a session's own callback, which may not be closed in it. */
static void ask_to_drain(void *ctx, uint64_t deadline_ms, const char *who)
{
	struct daemon *daemon = ctx;

	if (daemon->phase != SERVING)
		return;
	daemon->drain_ms = deadline_ms ? deadline_ms : daemon->config->drain_timeout_ms;
	snprintf(daemon->asked_by, sizeof(daemon->asked_by), "%s", who);
	event_active(daemon->on_drain, 0, 0);
}

static void on_failed_memory(evutil_socket_t fd, short what, void *ctx)
{
	struct daemon *daemon = ctx;
	struct ferryi_mce mce;

	(void)fd;
	(void)what;
	while (ferryi_mce_take(&mce)) {
		ferryi_error("memory failure: %zu bytes at %#" PRIxPTR, mce.len_bytes, mce.addr);
		ferryi_server_sessions_failed(&daemon->hub, &mce);
	}
}

static void on_reload(evutil_socket_t signum, short what, void *ctx)
{
	struct daemon *daemon = ctx;

	(void)signum;
	(void)what;
	ferryi_reload_run(daemon->reload);
}

static void on_finished_jobs(evutil_socket_t fd, short what, void *ctx)
{
	struct daemon *daemon = ctx;

	(void)fd;
	(void)what;
	ferryi_jobs_reap(daemon->hub.jobs);
	drain_check(daemon);
	leave_when_done(daemon);
}

static void on_finished_logins(evutil_socket_t fd, short what, void *ctx)
{
	struct daemon *daemon = ctx;

	(void)fd;
	(void)what;
	ferryi_jobs_reap(daemon->hub.logins);
}

static void on_lifeline_end(evutil_socket_t fd, short what, void *ctx)
{
	char byte;
	ssize_t n = read((int)fd, &byte, 1);

	(void)what;
	(void)ctx;
	if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
		return;
	ferryi_info("life line ended: stopping at once");
	_exit(0);
}

/* ---- start and stop ---- */

static int prepare(struct ferryi_config *config, struct ferryi_fabric_choice *choice, char *err,
		   size_t err_len)
{
	bool have_local;
	int rc;

	ferryi_fabric_setup();
	rc = ferryi_fabrics_choose(config, choice, err, err_len);
	if (rc)
		return rc;
	have_local = ferryi_fabrics_have_local(choice);
	for (unsigned i = 0; i < config->npools; i++) {
		rc = ferryi_pool_spec_resolve(&config->pools[i], have_local, have_local && choice->named, err,
					      err_len);
		if (rc)
			return rc;
	}
	return 0;
}

/* munged is there, and takes this process's word. */
static int try_munge(const struct ferryi_config *config, char *err, size_t err_len)
{
	static const uint8_t nonce[FERRYI_NONCE_LEN];
	const struct ferryi_munge_binding binding = {nonce, nonce, ""};
	char why[FERRYI_CONFIG_ERR_LEN - 64], *credential;
	int rc;

	if (!ferryi_config_wants(config, FERRYI_AUTH_MUNGE))
		return 0;
	rc = ferryi_munge_encode(config->munge_socket, FERRYI_ROLE_SERVER, &binding, FERRYI_MUNGE_ANYBODY,
				 &credential, why, sizeof(why));
	free(credential);
	if (rc)
		snprintf(err, err_len, "--listen with auth=munge: %s", why);
	return rc;
}

/* *out: NULL where no listener wants it. */
static int open_tls(const struct ferryi_config *config, struct ssl_ctx_st **out, char *err, size_t err_len)
{
	const struct ferryi_tls_files files = {config->tls_cert, config->tls_key, config->tls_ca};

	*out = NULL;
	if (!ferryi_config_wants(config, FERRYI_AUTH_TLS))
		return 0;
	return ferryi_tls_context_open(FERRYI_ROLE_SERVER, &files, out, err, err_len);
}

int ferryi_daemon_check(struct ferryi_config *config, char *err, size_t err_len)
{
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];
	struct ferryi_fabric_choice choice;
	struct ssl_ctx_st *tls = NULL;
	uint64_t taken = 0;
	int rc;

	rc = prepare(config, &choice, err, err_len);
	if (rc)
		return rc;
	for (unsigned i = 0; i < config->npools; i++) {
		rc = ferryi_pool_spec_fits(&config->pools[i], taken, err, err_len);
		if (rc)
			return rc;
		if (config->pools[i].reserve && !config->pools[i].path[0])
			taken += config->pools[i].size_bytes;
	}
	rc = ferryi_secret_load(config, false, token, err, err_len);
	explicit_bzero(token, sizeof(token));
	rc = rc ? rc : try_munge(config, err, err_len);
	rc = rc ? rc : open_tls(config, &tls, err, err_len);
	ferryi_tls_context_close(&tls);
	return rc;
}

/* Memfd pools need a descriptor a section and an extent, sessions one each: take what the hard limit gives.
 */
static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur == limit.rlim_max)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		ferryi_warn("raising the limit of open files failed: %s", ferryi_strerror(errno));
}

static int open_pools(struct daemon *daemon, char *err, size_t err_len)
{
	struct ferryi_hub *hub = &daemon->hub;

	for (unsigned i = 0; i < daemon->config->npools; i++) {
		const struct ferryi_pool_spec *spec = &daemon->config->pools[i];
		uint64_t begin = ferryi_now_ns(), took_ms;
		char text[16];
		int rc = ferryi_pool_open(spec, &hub->pools[hub->npools], err, err_len);

		if (rc)
			return rc;
		hub->npools++;
		took_ms = (ferryi_now_ns() - begin) / FERRYI_NS_PER_MS;
		ferryi_notice("pool %s: %s of %s memory, %s in %" PRIu64 " ms", spec->name,
			      ferryi_format_size(spec->size_bytes, text, sizeof(text)),
			      ferryi_pool_backing_name(hub->pools[i]), spec->reserve ? "reserved" : "set up",
			      took_ms);
	}
	return 0;
}

static struct event *add_event(struct daemon *daemon, int fd, short what, event_callback_fn callback)
{
	struct event *event = event_new(daemon->base, fd, what | EV_PERSIST, callback, daemon);

	if (event && event_add(event, NULL)) {
		event_free(event);
		event = NULL;
	}
	return event;
}

static int add_events(struct daemon *daemon)
{
	const int lifeline = (int)daemon->config->lifeline_fd;
	const bool logins = daemon->hub.logins != NULL;
	int mce, rc = ferryi_mce_open(&mce);

	if (rc)
		return rc;

	daemon->on_term = add_event(daemon, SIGTERM, EV_SIGNAL, on_stop_signal);
	daemon->on_int = add_event(daemon, SIGINT, EV_SIGNAL, on_stop_signal);
	daemon->on_drain = event_new(daemon->base, -1, 0, on_asked_to_drain, daemon);
	daemon->hub.drain = ask_to_drain;
	daemon->hub.drain_ctx = daemon;
	daemon->on_hup = add_event(daemon, SIGHUP, EV_SIGNAL, on_reload);
	daemon->on_jobs = add_event(daemon, ferryi_jobs_fd(daemon->hub.jobs), EV_READ, on_finished_jobs);
	if (logins)
		daemon->on_logins =
			add_event(daemon, ferryi_jobs_fd(daemon->hub.logins), EV_READ, on_finished_logins);
	daemon->on_mce = add_event(daemon, mce, EV_READ, on_failed_memory);
	daemon->deadline = evtimer_new(daemon->base, on_deadline, daemon);
	if (lifeline)
		daemon->on_lifeline = add_event(daemon, lifeline, EV_READ, on_lifeline_end);
	return daemon->on_term && daemon->on_int && daemon->on_drain && daemon->on_hup && daemon->on_jobs && daemon->on_mce &&
			       daemon->deadline && (!logins || daemon->on_logins) &&
			       (!lifeline || daemon->on_lifeline)
		       ? 0
		       : -ENOMEM;
}

static void free_events(struct daemon *daemon)
{
	struct event *events[] = {daemon->on_term,   daemon->on_int,	  daemon->on_hup, daemon->on_jobs,
				  daemon->on_logins, daemon->on_lifeline, daemon->on_mce, daemon->on_drain,
				  daemon->deadline};

	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		if (events[i])
			event_free(events[i]);
	}
}

/* Once it serves: who finds it there comes at once. */
static int register_server(struct daemon *daemon, char *err, size_t err_len)
{
	char url[320];
	struct ferryi_register_attr attr = {.etcd = daemon->config->register_at,
					    .server_id = daemon->hub.server_id,
					    .url = url,
					    .ttl_ms = daemon->config->register_ttl_ms};

	if (!attr.etcd)
		return 0;
	ferryi_register_url(daemon->config->advertise, ferryi_door_host(daemon->doors[0]), ferryi_door_port(daemon->doors[0]),
			    url, sizeof(url));
	return ferryi_register_start(&attr, &daemon->reg, err, err_len);
}

static int open_doors(struct daemon *daemon, char *err, size_t err_len)
{
	const struct ferryi_config *config = daemon->config;
	int rc = 0;

	for (unsigned i = 0; i < config->nlistens && !rc; i++) {
		const struct ferryi_door_attr attr = {
			.hub = &daemon->hub,
			.base = daemon->base,
			.host = config->listens[i].host,
			.port = config->listens[i].port,
			.auth = config->listens[i].auth,
			.tls = config->listens[i].auth == FERRYI_AUTH_TLS ? daemon->tls : NULL,
			.on_quiet = on_quiet,
			.ctx = daemon,
		};

		rc = ferryi_door_open(&attr, &daemon->doors[i], err, err_len);
		daemon->ndoors += !rc;
	}
	return rc;
}

static int open_hub(struct daemon *daemon, char *err, size_t err_len)
{
	struct ferryi_config *config = daemon->config;
	struct ferryi_hub *hub = &daemon->hub;
	int rc = ferryi_secret_load(config, true, hub->token, err, err_len);

	if (!rc)
		rc = try_munge(config, err, err_len);
	if (!rc)
		rc = open_tls(config, &daemon->tls, err, err_len);
	ferryi_users_limit(&hub->users, &config->quotas);
	hub->inject_failures = config->inject_failures;
	hub->munge_socket = config->munge_socket;
	hub->users.only_anonymous = true;
	for (unsigned i = 0; i < config->nlistens; i++) {
		if (config->listens[i].auth != FERRYI_AUTH_ANONYMOUS)
			hub->users.only_anonymous = false;
	}
	return rc;
}

static int start_threads(struct daemon *daemon)
{
	struct ferryi_hub *hub = &daemon->hub;
	int rc = ferryi_jobs_create((unsigned)daemon->config->workers, &hub->jobs);

	if (!rc && ferryi_config_wants(daemon->config, FERRYI_AUTH_MUNGE))
		rc = ferryi_jobs_create(1, &hub->logins);
	return rc;
}

static int start(struct daemon *daemon, char *err, size_t err_len)
{
	struct ferryi_config *config = daemon->config;
	struct ferryi_hub *hub = &daemon->hub;
	struct ferryi_fabric_choice choice;
	const char *data_host;
	int rc;

	rc = prepare(config, &choice, err, err_len);
	if (!rc)
		rc = open_hub(daemon, err, err_len);
	if (rc)
		return rc;
	snprintf(err, err_len, "out of memory");
	daemon->base = event_base_new();
	if (!daemon->base)
		return -ENOMEM;
	/* The port first: it is what most often fails, and memory takes long. */
	rc = open_doors(daemon, err, err_len);
	if (!rc)
		rc = open_pools(daemon, err, err_len);
	if (rc)
		return rc;
	data_host = config->data_host		 ? config->data_host
		    : config->listens[0].host[0] ? ferryi_door_host(daemon->doors[0])
						 : "";
	rc = ferryi_fabrics_open(config, &choice, data_host, hub, err, err_len);
	if (rc)
		return rc;
	snprintf(err, err_len, "starting threads failed");
	rc = start_threads(daemon);
	if (!rc)
		rc = ferryi_reload_create(hub, daemon->base, daemon->argc, daemon->argv, &daemon->reload);
	if (!rc)
		rc = add_events(daemon);
	for (unsigned i = 0; i < daemon->ndoors && !rc; i++)
		rc = ferryi_door_serve(daemon->doors[i]);
	return rc ? rc : register_server(daemon, err, err_len);
}

/* How its clients show who they are, where that is not the token. */
static const char *method_text(const struct ferryi_listen *listen)
{
	switch (listen->auth) {
	case FERRYI_AUTH_MUNGE:
		return ", to users known to MUNGE";
	case FERRYI_AUTH_TLS:
		return ", to clients with a certificate";
	case FERRYI_AUTH_ANONYMOUS:
		return listen->has_auth ? ", to anybody (auth=anonymous)" : ", to anybody (--no-auth)";
	case FERRYI_AUTH_TOKEN:
		break;
	}
	return "";
}

static void announce(struct daemon *daemon)
{
	const struct ferryi_config *config = daemon->config;
	char url[96], fabrics[128];

	for (unsigned i = daemon->ndoors; i-- > 0;) {
		const struct ferryi_listen *listen = &config->listens[i];

		ferryi_supervisor_url(ferryi_door_host(daemon->doors[i]), ferryi_door_port(daemon->doors[i]),
				      url, sizeof(url));
		ferryi_notice("serving %u pool%s at %s over %s%s", daemon->hub.npools,
			      daemon->hub.npools == 1 ? "" : "s", url,
			      ferryi_hub_fabric_names(&daemon->hub, fabrics, sizeof(fabrics)),
			      method_text(listen));
	}
	/* That of the first listener: whoever started us named it. */
	if (config->ready_fd && ferryi_supervisor_ready((int)config->ready_fd, url))
		ferryi_warn("--ready-fd %" PRIu64 ": nobody reads it", config->ready_fd);
	ferryi_supervisor_notify("READY=1");
}

/* Pools are left to the end of the process: the kernel takes their memory back faster than it could be zeroed
 * here. */
static void stop(struct daemon *daemon)
{
	ferryi_register_stop(&daemon->reg);
	for (unsigned i = 0; i < daemon->ndoors; i++)
		ferryi_door_close(&daemon->doors[i]);
	ferryi_tls_context_close(&daemon->tls);
	ferryi_jobs_destroy(&daemon->hub.logins); /* before the sessions' own jobs end */
	ferryi_reload_destroy(&daemon->reload);
	ferryi_jobs_destroy(&daemon->hub.jobs);
	ferryi_fabrics_close(&daemon->hub);
	ferryi_users_fini(&daemon->hub.users);
	free_events(daemon);
	if (daemon->base)
		event_base_free(daemon->base);
	explicit_bzero(daemon->hub.token, sizeof(daemon->hub.token));
}

int ferryi_daemon_run(struct ferryi_config *config, int argc, char **argv, char *err, size_t err_len)
{
	static struct daemon daemon; /* large, and reachable for leak checkers when its pools are left */
	int rc;

	daemon = (struct daemon){.config = config, .argc = argc, .argv = argv};
	signal(SIGPIPE, SIG_IGN);
	raise_file_limit();
	rc = ferryi_hub_init(&daemon.hub, &config->limits);
	if (rc) {
		snprintf(err, err_len, "the kernel gives no random numbers");
		return rc;
	}
	rc = start(&daemon, err, err_len);
	if (!rc) {
		announce(&daemon);
		event_base_dispatch(daemon.base);
		ferryi_notice("stopped");
	}
	stop(&daemon);
	return rc;
}
