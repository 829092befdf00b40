/* See register.h. */
#include "register.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "etcd.h"
#include "log.h"
#include "supervisor.h"
#include "url.h"

#define CALL_MS	     3000
#define FAREWELL_MS  1500
#define RETRY_MIN_MS 200
#define RETRY_MAX_MS 5000

struct ferryi_register {
	/* immutable */
	struct ferryi_etcd etcd;
	char where[320]; /* for the log */
	char server_id[80], url[320];
	unsigned ttl_s;
	int stop_fd; /* readable: the end */
	pthread_t thread;
	/* owned by the thread */
	int64_t lease; /* 0: none */
	bool told;     /* that it does not work */
};

int ferryi_register_check(const char *etcd, const char *advertise, char *err, size_t err_len)
{
	char host[256], why[FERRYI_DISCOVER_ERR_LEN];
	struct ferryi_etcd parsed;
	uint16_t port;

	if (etcd && ferryi_etcd_parse(etcd, &parsed, why, sizeof(why))) {
		snprintf(err, err_len, "--register %s: %s", etcd, why);
		return -EINVAL;
	}
	if (advertise && !etcd) {
		snprintf(err, err_len, "--advertise is for --register, which is not there");
		return -EINVAL;
	}
	if (advertise && ferryi_hostport_parse(advertise, host, sizeof(host), &port, why, sizeof(why))) {
		snprintf(err, err_len, "--advertise: %s", why);
		return -EINVAL;
	}
	if (advertise && !host[0]) {
		snprintf(err, err_len, "--advertise %s: a host is wanted", advertise);
		return -EINVAL;
	}
	return 0;
}

void ferryi_register_url(const char *advertise, const char *host, uint16_t port, char *buf, size_t buf_len)
{
	char name[256] = "", why[160];
	uint16_t advertised;

	if (advertise && !ferryi_hostport_parse(advertise, name, sizeof(name), &advertised, why, sizeof(why))) {
		const char *after = strrchr(advertise, ']') ? strrchr(advertise, ']') : advertise;

		port = strchr(after, ':') ? advertised : port; /* else the default, which nobody has named */
	} else if (!strcmp(host, "0.0.0.0") || !strcmp(host, "::") || !host[0]) {
		if (gethostname(name, sizeof(name) - 1))
			snprintf(name, sizeof(name), "localhost");
	} else {
		snprintf(name, sizeof(name), "%s", host);
	}
	ferryi_supervisor_url(name, port, buf, buf_len);
}

static bool is_stopping(const struct ferryi_register *reg)
{
	struct pollfd pfd = { .fd = reg->stop_fd, .events = POLLIN };

	return poll(&pfd, 1, 0) > 0;
}

/* true: time is up; false: it is to end. */
static bool pause_for(const struct ferryi_register *reg, uint64_t ms)
{
	struct pollfd pfd = { .fd = reg->stop_fd, .events = POLLIN };

	return poll(&pfd, 1, (int)ms) <= 0;
}

/* Registers, or renews. 0, or an error with its line. */
static int tell(struct ferryi_register *reg, char *err, size_t err_len)
{
	int64_t lease = 0;
	int rc;

	if (reg->lease) {
		rc = ferryi_etcd_renew(&reg->etcd, reg->lease, ferryi_deadline_ms(CALL_MS), reg->stop_fd, err, err_len);
		if (rc != -ENOENT)
			return rc;
		reg->lease = 0; /* it has ended: etcd was away for too long */
	}
	rc = ferryi_etcd_grant(&reg->etcd, reg->ttl_s, ferryi_deadline_ms(CALL_MS), reg->stop_fd, &lease, err, err_len);
	if (rc)
		return rc;
	reg->lease = lease; /* to be revoked, also when the key did not come */
	rc = ferryi_etcd_put(&reg->etcd, reg->server_id, reg->url, lease, ferryi_deadline_ms(CALL_MS), reg->stop_fd, err, err_len);
	if (rc)
		ferryi_etcd_revoke(&reg->etcd, lease, ferryi_deadline_ms(FAREWELL_MS), err, err_len);
	if (rc)
		reg->lease = 0;
	else
		ferryi_notice("registered as %s at %s", reg->url, reg->where);
	return rc;
}

static void *register_main(void *arg)
{
	struct ferryi_register *reg = arg;
	char err[FERRYI_DISCOVER_ERR_LEN];
	uint64_t retry_ms = RETRY_MIN_MS;

	pthread_setname_np(pthread_self(), "ferryd-register");
	while (!is_stopping(reg)) {
		int rc = tell(reg, err, sizeof(err));

		if (rc == -ECANCELED)
			break;
		if (rc && !reg->told)
			ferryi_warn("--register %s: %s; it is tried again, clients do not find this server there meanwhile", reg->where, err);
		reg->told = rc != 0;
		retry_ms = !rc ? RETRY_MIN_MS : retry_ms < RETRY_MAX_MS / 2 ? 2 * retry_ms : RETRY_MAX_MS;
		if (!pause_for(reg, rc ? retry_ms : reg->ttl_s * 1000 / 3))
			break;
	}
	if (reg->lease && ferryi_etcd_revoke(&reg->etcd, reg->lease, ferryi_deadline_ms(FAREWELL_MS), err, sizeof(err)))
		ferryi_warn("--register %s: %s; the entry stays for up to %u s", reg->where, err, reg->ttl_s);
	return NULL;
}

int ferryi_register_start(const struct ferryi_register_attr *attr, struct ferryi_register **out, char *err, size_t err_len)
{
	struct ferryi_register *reg = calloc(1, sizeof(*reg));
	sigset_t all, before;
	int rc;

	if (!reg) {
		snprintf(err, err_len, "out of memory");
		return -ENOMEM;
	}
	rc = ferryi_etcd_parse(attr->etcd, &reg->etcd, err, err_len);
	if (rc)
		goto err_free;
	snprintf(reg->where, sizeof(reg->where), "%s", attr->etcd);
	snprintf(reg->server_id, sizeof(reg->server_id), "%s", attr->server_id);
	snprintf(reg->url, sizeof(reg->url), "%s", attr->url);
	reg->ttl_s = (unsigned)((attr->ttl_ms + 999) / 1000);
	reg->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = reg->stop_fd < 0 ? -errno : 0;
	if (rc) {
		snprintf(err, err_len, "--register: no descriptor is left");
		goto err_free;
	}
	sigfillset(&all); /* signals are the control thread's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = -pthread_create(&reg->thread, NULL, register_main, reg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc) {
		snprintf(err, err_len, "--register: no thread can be started");
		goto err_fd;
	}
	*out = reg;
	return 0;

err_fd:
	close(reg->stop_fd);
err_free:
	free(reg);
	return rc;
}

void ferryi_register_end(struct ferryi_register *reg)
{
	uint64_t one = 1;

	if (reg && write(reg->stop_fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: it has been told */
}

void ferryi_register_stop(struct ferryi_register **reg_p)
{
	struct ferryi_register *reg = *reg_p;

	if (!reg)
		return;
	*reg_p = NULL;
	ferryi_register_end(reg);
	pthread_join(reg->thread, NULL);
	close(reg->stop_fd);
	free(reg);
}
