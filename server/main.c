/* ferryd: command line to exit status. See server/README.md. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "config.h"
#include "daemon.h"
#include "log.h"

enum { EXIT_RUNTIME = 1, EXIT_USAGE = 2 };

int main(int argc, char **argv)
{
	static struct ferryi_config config; /* large */
	char err[FERRYI_CONFIG_ERR_LEN] = "";
	int rc;

	ferryi_log_set_ident("ferryd");
	rc = ferryi_config_load(&config, argc, argv, err, sizeof(err));
	if (rc == -ENODATA) {
		ferryi_config_help(stdout);
		return EXIT_SUCCESS;
	}
	if (rc == -ENOTSUP) {
		puts("ferryd " FERRYI_VERSION);
		return EXIT_SUCCESS;
	}
	if (rc) {
		ferryi_error("%s", err);
		return EXIT_USAGE;
	}
	ferryi_log_set_level((enum ferryi_log_level)config.log_level);
	rc = config.check ? ferryi_daemon_check(&config, err, sizeof(err))
			  : ferryi_daemon_run(&config, argc, argv, err, sizeof(err));
	if (rc)
		ferryi_error("%s", err);
	else if (config.check)
		puts("ferryd: the configuration is good");
	ferryi_config_fini(&config);
	if (rc)
		return rc == -EINVAL ? EXIT_USAGE : EXIT_RUNTIME;
	return EXIT_SUCCESS;
}
