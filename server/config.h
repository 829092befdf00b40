/* Parameters of ferryd: one table for command line, config file, --help and the man page. Start-up code. */
#ifndef FERRYI_SERVER_CONFIG_H
#define FERRYI_SERVER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "hub.h"
#include "pool.h"
#include "url.h"

#define FERRYI_CONFIG_ERR_LEN 512

#define FERRYI_MAX_LISTENERS 8u

struct ferryi_listen {
	char host[256]; /* "": everywhere */
	uint16_t port;
	enum ferryi_auth auth;
	bool has_auth; /* it was named; else the default */
};

struct ferryi_config {
	struct ferryi_pool_spec pools[FERRYI_MAX_POOLS];
	unsigned npools;
	struct ferryi_hub_limits limits;
	struct ferryi_quotas quotas;
	struct ferryi_listen listens[FERRYI_MAX_LISTENERS];
	unsigned nlistens;
	bool listens_replaced; /* those there are of the config file, and the command line's first replaces
				  them */
	const char *data_host, *fabric, *file, *token_file, *munge_socket, *tls_cert, *tls_key, *tls_ca;
	const char *register_at, *advertise; /* etcd://..., HOST[:PORT]; NULL */
	uint64_t register_ttl_ms;
	uint64_t token_fd, lifeline_fd, ready_fd; /* 0: none */
	bool no_auth, check, inject_failures;
	int log_level; /* enum ferryi_log_level */
	uint64_t drain_timeout_ms, spin_us, threads, workers;
	/* rows named with --fabric; 0: every one that can be used */
	const struct ferryi_fabric_row *rows[FERRYI_HUB_FABRICS_MAX];
	unsigned nrows;
};

/*
 * Defaults, then the config file (--config), then the command line; then the
 * checks between parameters. 0, -EINVAL with one line in err, -ENODATA (--help), -ENOTSUP (--version).
 */
int ferryi_config_load(struct ferryi_config *config, int argc, char **argv, char *err, size_t err_len);
/* Some listener wants that of its clients. */
bool ferryi_config_wants(const struct ferryi_config *config, enum ferryi_auth auth);
void ferryi_config_fini(struct ferryi_config *config);

void ferryi_config_help(FILE *out);

#endif
