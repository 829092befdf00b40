/* The transport rows that the server offers. Start-up and shut-down code. */
#ifndef FERRYI_SERVER_FABRICS_H
#define FERRYI_SERVER_FABRICS_H

#include "config.h"

/* What is to be served: rows in order of preference. */
struct ferryi_fabric_choice {
	const struct ferryi_fabric_row *rows[FERRYI_HUB_FABRICS_MAX];
	unsigned nrows;
	bool named; /* by the operator: then each must work */
};

/*
 * The rows named, or every usable one. 0, or negative errno with one line in
 * err: one that was named cannot be used, or none is left.
 */
int ferryi_fabrics_choose(const struct ferryi_config *config, struct ferryi_fabric_choice *choice, char *err,
			  size_t err_len);
bool ferryi_fabrics_have_local(const struct ferryi_fabric_choice *choice);

/*
 * Opens a listener for each row at `host` (numeric; "" everywhere) and tests
 * that it keeps access rights. A row that fails is left out with a warning, or,
 * when named, is an error. Fills hub->fabrics. 0, or negative errno with one
 * line in err and nothing left open.
 */
int ferryi_fabrics_open(const struct ferryi_config *config, const struct ferryi_fabric_choice *choice,
			const char *host, struct ferryi_hub *hub, char *err, size_t err_len);
void ferryi_fabrics_close(struct ferryi_hub *hub);

#endif
