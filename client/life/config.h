/* ferry_open's configuration: defaults, environment, the caller's struct, in that order. Start-up code. */
#ifndef FERRYI_LIFE_CONFIG_H
#define FERRYI_LIFE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "ferry.h"

enum ferryi_fork { FERRYI_FORK_COPY, FERRYI_FORK_GUARD };
enum ferryi_mode { FERRYI_MODE_HANDLER, FERRYI_MODE_INLINE };

struct ferryi_config {
	const char *servers, *pool, *token_file;
	uint64_t local_bytes, embedded_bytes, reserve_bytes;
	uint64_t fault_timeout_ms, request_timeout_ms;
	uint64_t fault_threads, evict_threads, readahead_pages;
	uint64_t replicas, rebuild_rate; /* copies of each page; bytes/s */
	int oom;       /* enum ferryi_oom */
	int log_level; /* enum ferryi_log_level */
	int fork;      /* enum ferryi_fork */
	int mode;      /* enum ferryi_mode */
	int policy;    /* enum ferryi_policy */
	uint64_t stripe_bytes;
	bool servers_optional;
};

/* cfg NULL: from the environment. 0 or -EINVAL with one line in err. fini frees what init took. */
int ferryi_config_init(struct ferryi_config *config, const struct ferry_config *cfg, char *err, size_t err_len);
void ferryi_config_fini(struct ferryi_config *config);

#endif
