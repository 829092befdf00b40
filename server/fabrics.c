/* The transport rows that the server offers. See fabrics.h. */
#include "fabrics.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "arith.h"
#include "clock.h"
#include "log.h"

#define SELF_TEST_MS 60000 /* a slow machine is no reason to refuse a row */
#define IPC_LOCK_BIT 14 /* CAP_IPC_LOCK */

int ferryi_fabrics_choose(const struct ferryi_config *config, struct ferryi_fabric_choice *choice, char *err,
			  size_t err_len)
{
	char why[256] = "";

	*choice = (struct ferryi_fabric_choice){.named = config->nrows > 0};
	for (unsigned i = 0; i < config->nrows; i++) {
		int rc = ferryi_fabric_usable(config->rows[i], why, sizeof(why));

		if (rc) {
			snprintf(err, err_len, "--fabric %s cannot be served here: %s", config->rows[i]->name,
				 why);
			return rc;
		}
		choice->rows[choice->nrows++] = config->rows[i];
	}
	if (choice->named)
		return 0;
	for (unsigned i = 0; ferryi_fabric_at(i) && choice->nrows < FERRYI_HUB_FABRICS_MAX; i++) {
		const struct ferryi_fabric_row *row = ferryi_fabric_at(i);

		if (row->flags & FERRYI_FABRIC_TEST_ONLY)
			continue;
		if (ferryi_fabric_usable(row, why, sizeof(why)))
			ferryi_notice("fabric %s: not served: %s", row->name, why);
		else
			choice->rows[choice->nrows++] = row;
	}
	if (choice->nrows)
		return 0;
	snprintf(err, err_len,
		 "no fabric can be served on this machine; 'ferry doctor' says what is missing");
	return -ENODEV;
}

bool ferryi_fabrics_have_local(const struct ferryi_fabric_choice *choice)
{
	for (unsigned i = 0; i < choice->nrows; i++) {
		if (choice->rows[i]->flags & FERRYI_FABRIC_SAME_HOST)
			return true;
	}
	return false;
}

static bool may_lock_all(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long long caps = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "CapEff: %llx", &caps) == 1)
			break;
	}
	if (f)
		fclose(f);
	return (caps >> IPC_LOCK_BIT) & 1;
}

/* Fabrics whose hardware reads memory by itself pin what they register. */
static int check_memlock(const struct ferryi_config *config, const struct ferryi_fabric_row *row, char *why,
			 size_t why_len)
{
	struct rlimit limit;
	uint64_t sum = 0;
	char have[16], want[16];

	if ((row->flags & (FERRYI_FABRIC_TARGET_CPU | FERRYI_FABRIC_SAME_HOST)) || may_lock_all() ||
	    getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur == RLIM_INFINITY)
		return 0;
	for (unsigned i = 0; i < config->npools; i++)
		sum += config->pools[i].size_bytes;
	if (sum <= limit.rlim_cur)
		return 0;
	snprintf(why, why_len,
		 "the limit of locked memory is %s and the pools need %s: set LimitMEMLOCK=infinity "
		 "(systemd) or 'ulimit -l "
		 "unlimited'",
		 ferryi_format_size(limit.rlim_cur, have, sizeof(have)),
		 ferryi_format_size(sum, want, sizeof(want)));
	return -ENOMEM;
}

static int open_one(const struct ferryi_config *config, const struct ferryi_fabric_row *row, const char *host,
		    struct ferryi_listener **out, char *why, size_t why_len)
{
	const struct ferryi_listener_attr attr = {
		.row = row,
		.host = host,
		.spin_us = config->spin_us,
		.threads = (unsigned)config->threads,
		.label = row->name,
	};
	int rc = check_memlock(config, row, why, why_len);

	if (rc)
		return rc;
	rc = ferryi_listener_open(&attr, out);
	if (rc) {
		snprintf(why, why_len, "listening at '%s' failed: %s", host[0] ? host : "*",
			 ferryi_strerror(rc));
		return rc;
	}
	rc = ferryi_listener_self_test(*out, ferryi_deadline_ms(SELF_TEST_MS));
	if (!rc)
		return 0;
	if (rc == -EACCES)
		snprintf(why, why_len,
			 "it does not keep access rights: a write to read-only or revoked memory succeeded");
	else
		snprintf(why, why_len, "its self-test failed: %s", ferryi_strerror(rc));
	ferryi_listener_close(out);
	return rc;
}

int ferryi_fabrics_open(const struct ferryi_config *config, const struct ferryi_fabric_choice *choice,
			const char *host, struct ferryi_hub *hub, char *err, size_t err_len)
{
	for (unsigned i = 0; i < choice->nrows; i++) {
		struct ferryi_listener *listener = NULL;
		char why[256] = "";
		int rc = open_one(config, choice->rows[i], host, &listener, why, sizeof(why));

		if (rc && choice->named) {
			snprintf(err, err_len, "--fabric %s cannot be served: %s", choice->rows[i]->name,
				 why);
			ferryi_fabrics_close(hub);
			return rc;
		}
		if (rc) {
			ferryi_warn("fabric %s: not served: %s", choice->rows[i]->name, why);
			continue;
		}
		hub->fabrics[hub->nfabrics++] =
			(struct ferryi_hub_fabric){.row = choice->rows[i], .listener = listener};
	}
	if (hub->nfabrics)
		return 0;
	snprintf(err, err_len, "no fabric is left to serve; see the warnings above");
	return -ENODEV;
}

void ferryi_fabrics_close(struct ferryi_hub *hub)
{
	while (hub->nfabrics)
		ferryi_listener_close(&hub->fabrics[--hub->nfabrics].listener);
}
