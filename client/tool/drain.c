/* `ferry drain`: has one server drained, and watches it until it has gone. Main thread. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "arith.h"
#include "clock.h"
#include "control.h"
#include "log.h"
#include "tool.h"

#define LOOK_MS	  500
#define MAX_STATS 256
#define MAX_POOLS 64

struct drain_options {
	const char *token_file;
	uint64_t timeout_ms, deadline_ms;
};

#define AT(member) offsetof(struct drain_options, member)

static const struct ferryi_param params[] = {
	{.name = "deadline",
	 .short_opt = 'd',
	 .type = FERRYI_PARAM_MS,
	 .offset = AT(deadline_ms),
	 .max = 86400000,
	 .deflt = "0",
	 .metavar = "TIME",
	 .unit = "ms",
	 .text = "How long clients have to move what they have there; then it is lost to them. 0: --drain-timeout of ferryd."},
	{.name = "token-file",
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(token_file),
	 .env = "FERRY_TOKEN_FILE",
	 .metavar = "FILE",
	 .text = "File with the server's token."},
	{.name = "timeout",
	 .type = FERRYI_PARAM_MS,
	 .offset = AT(timeout_ms),
	 .min = 1,
	 .max = 600000,
	 .deflt = "5s",
	 .metavar = "TIME",
	 .unit = "ms",
	 .text = "How long to wait for the server's answer."},
	{.name = NULL},
};

/* What clients hold still; false: the server does not answer, so it has gone. */
static bool look(struct ferryi_session *session, uint64_t *leases, uint64_t *bytes)
{
	static struct ferryi_session_stat stats[MAX_STATS];
	static struct ferryi_pool_info pools[MAX_POOLS];
	int nstats = ferryi_session_stats(session, stats, MAX_STATS);
	int npools = nstats < 0 ? nstats : ferryi_session_pools(session, pools, MAX_POOLS);

	if (npools < 0)
		return false;
	*leases = *bytes = 0;
	for (int i = 0; i < nstats && i < MAX_STATS; i++) {
		if (strcmp(stats[i].name, "g_leases") == 0)
			*leases = stats[i].value;
	}
	for (int i = 0; i < npools && i < MAX_POOLS; i++)
		*bytes += pools[i].leased_bytes;
	return true;
}

/* One line whenever there is news. *leases: those that there were last. */
static void watch(struct ferryi_session *session, uint64_t *leases)
{
	uint64_t bytes, told_leases = UINT64_MAX, told_bytes = UINT64_MAX;
	char text[32];

	while (look(session, leases, &bytes)) {
		if (*leases != told_leases || bytes != told_bytes) {
			printf("%s: %llu leases, %s\n", ferryi_session_name(session), (unsigned long long)*leases,
			       ferryi_format_size(bytes, text, sizeof(text)));
			fflush(stdout);
		}
		told_leases = *leases;
		told_bytes = bytes;
		poll(NULL, 0, LOOK_MS);
	}
}

static int drain(const struct ferryi_tool_command *command, struct ferryi_control *control, const char *url,
		 const struct drain_options *options)
{
	struct ferryi_session *session;
	uint64_t leases = 0, start = ferryi_now_ns();
	int status = FERRYI_TOOL_OK;

	if (ferryi_session_open(control, url, &session) != 0)
		return ferryi_tool_fail(command, FERRYI_TOOL_FAILED, "%s", ferryi_control_last_error());
	ferryi_log_set_level(FERRYI_LOG_ERROR); /* that the session is lost is what is waited for */
	if (ferryi_session_drain(session, (uint32_t)options->deadline_ms) != 0) {
		status = ferryi_tool_fail(command, FERRYI_TOOL_FAILED, "%s", ferryi_control_last_error());
	} else {
		watch(session, &leases);
		/* At its deadline it takes back what is left, and says so to whose that was. */
		if (options->deadline_ms != 0 && leases > 0 &&
		    ferryi_now_ns() - start >= options->deadline_ms * FERRYI_NS_PER_MS)
			status = ferryi_tool_fail(command, FERRYI_TOOL_FAILED,
						  "%s: has ended at the deadline with %llu leases not given back",
						  ferryi_session_name(session), (unsigned long long)leases);
		else
			printf("%s: drained, and ended\n", ferryi_session_name(session));
	}
	ferryi_session_close(&session);
	return status;
}

static int drain_run(const struct ferryi_tool_command *command, int argc, char **argv)
{
	struct drain_options options = {0};
	struct ferryi_control *control = NULL;
	const char *url = NULL;
	unsigned n = 0;
	int status = ferryi_tool_options(command, &options, argc, argv, &url, 1, &n);

	if (status < 0 && n == 0)
		status = ferryi_tool_fail(command, FERRYI_TOOL_USAGE, "say which server: ferry drain ferry://HOST:PORT");
	if (status >= 0)
		goto out;
	struct ferryi_control_attr attr = {.token_file = options.token_file,
					   .connect_ms = options.timeout_ms,
					   .request_ms = options.timeout_ms};

	if (ferryi_control_open(&attr, &control) != 0)
		status = ferryi_tool_fail(command, FERRYI_TOOL_FAILED, "%s", ferryi_control_last_error());
	else
		status = drain(command, control, url, &options);
	ferryi_control_close(&control);
out:
	ferryi_params_fini(params, &options);
	return status;
}

const struct ferryi_tool_command ferryi_tool_drain = {
	.name = "drain",
	.usage = "ferry drain SERVER [--deadline TIME] [--token-file FILE]",
	.text = "Has a server give up its leases, and watches it until it has ended.",
	.params = params,
	.run = drain_run,
};
