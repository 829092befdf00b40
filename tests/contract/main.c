/*
 * contract ROW [GROUP]: runs the suite on one row, or one group of it.
 * contract --serve ROW: the server half; requests on standard input.
 * Exit status 0, 1 (failures), 2 (usage), 77 (the row cannot be used here; the
 * reason is printed).
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "harness.h"
#include "log.h"
#include "server.h"

static const struct {
	const char *name;
	int (*run)(void);
	bool fake_only;
} groups[] = {
	{"data", ferryt_group_data, false},	  {"rights", ferryt_group_rights, false},
	{"failure", ferryt_group_failure, false}, {"load", ferryt_group_load, false},
	{"wait", ferryt_group_wait, false},	  {"hostile", ferryt_group_hostile, false},
	{"fault", ferryt_group_fault, true},	  {"host", ferryt_group_host, false},
};

#define NGROUPS (sizeof(groups) / sizeof(groups[0]))

static bool is_rdm;

static int run_groups(const char *only)
{
	int failed = 0;
	bool found = false;

	for (size_t i = 0; i < NGROUPS; i++) {
		if (only && strcmp(only, groups[i].name))
			continue;
		found = true;
		if (groups[i].fake_only && !ferryt_row_has(FERRYI_FABRIC_TEST_ONLY))
			continue;
		failed += groups[i].run() != 0;
	}
	if (!found) {
		fprintf(stderr, "contract: no group called %s\n", only);
		return 2;
	}
	return failed ? 1 : 0;
}

/*
 * Asked by the leak sanitizer at exit. The rdm row gives up endpoints that
 * ofi_rxm cannot close safely (common/fabric/README.md), so only its leaks are
 * not ours to report.
 */
__attribute__((visibility("default"))) int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
	return is_rdm;
}

int main(int argc, char **argv)
{
	char why[256] = "";
	int status;

	is_rdm = argc > 1 && !strcmp(argv[argc > 2 && !strcmp(argv[1], "--serve") ? 2 : 1], "rdm");
	if (argc == 3 && !strcmp(argv[1], "--serve"))
		return ferryt_serve(argv[2], STDIN_FILENO, STDOUT_FILENO);
	if (argc < 2 || argc > 4) {
		fprintf(stderr, "usage: %s verbs|tcp|rdm|local|fake [GROUP [TEST]]\n", argv[0]);
		return 2;
	}
	ferryt_host_remember();
	signal(SIGPIPE, SIG_IGN);
	ferryi_log_set_ident("contract");
	ferryi_log_set_level(FERRYI_LOG_ERROR);
	ferryt_row = ferryi_fabric_find(argv[1]);
	if (!ferryt_row) {
		fprintf(stderr, "contract: no row called %s\n", argv[1]);
		return 2;
	}
	if (ferryi_fabric_usable(ferryt_row, why, sizeof(why))) {
		printf("skipped: %s: %s\n", ferryt_row->name, why);
		return 77;
	}
	if (argc == 4)
		cmocka_set_test_filter(argv[3]);
	status = run_groups(argc > 2 ? argv[2] : NULL);
	ferryt_node_end(&ferryt_node);
	return status;
}
