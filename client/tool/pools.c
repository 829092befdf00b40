/* `ferry pools`: what the servers have to lend. One session a server, closed before the next. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "control.h"
#include "tool.h"

#define MAX_POOLS 256

struct pools_options {
	const char *servers;
	const char *token_file;
	uint64_t timeout_ms;
	bool json;
};

#define AT(member) offsetof(struct pools_options, member)

static const struct ferryi_param params[] = {
	{.name = "servers",
	 .short_opt = 's',
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(servers),
	 .env = "FERRY_SERVERS",
	 .metavar = "URL,...",
	 .text = "Servers to ask, each ferry://HOST:PORT."},
	{.name = "token-file",
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(token_file),
	 .env = "FERRY_TOKEN_FILE",
	 .metavar = "FILE",
	 .text = "File with the servers' token."},
	{.name = "timeout",
	 .type = FERRYI_PARAM_MS,
	 .offset = AT(timeout_ms),
	 .min = 1,
	 .max = 600000,
	 .deflt = "5s",
	 .metavar = "TIME",
	 .unit = "ms",
	 .text = "How long to wait for a server's answer."},
	{.name = "json", .type = FERRYI_PARAM_FLAG, .offset = AT(json), .text = "One JSON object a pool."},
	{.name = NULL},
};

static const char *size_text(uint64_t bytes, char buf[32])
{
	return ferryi_format_size(bytes, buf, 32);
}

static void print_pool(const char *server, const struct ferryi_pool_info *pool)
{
	char size[32], avail[32], leased[32], scrub[32], numa[16] = "-", huge[32] = "-";

	if (pool->numa_node >= 0)
		snprintf(numa, sizeof(numa), "%d", pool->numa_node);
	if (pool->huge_page_bytes > 0)
		size_text(pool->huge_page_bytes, huge);
	printf("%-24s %-16s %-8s %-8s %8s %8s %8s %8s %6s %5s\n", server, pool->name, pool->type,
	       pool->backing, size_text(pool->size_bytes, size), size_text(pool->free_bytes, avail),
	       size_text(pool->leased_bytes, leased), size_text(pool->scrub_bytes, scrub), huge, numa);
}

/* "user uid:1000 at node7:7470: bytes 2M of 4M, leases 1, sessions 1 of 8" */
static void print_user(const char *server, const struct ferryi_session_user *user)
{
	const char *sep = ":";

	if (user->name[0] == '\0')
		return;
	printf("user %s at %s", user->name, server);
	for (unsigned i = 0; i < user->nquotas; i++) {
		const struct ferryi_session_quota *quota = &user->quotas[i];
		bool bytes = strcmp(quota->name, "bytes") == 0, rate = strcmp(quota->name, "rate") == 0;
		char used[32], limit[32];

		if (!quota->limited && (rate || quota->used == 0))
			continue;
		snprintf(used, sizeof(used), "%llu", (unsigned long long)quota->used);
		snprintf(limit, sizeof(limit), "%llu", (unsigned long long)quota->limit);
		if (bytes) {
			size_text(quota->used, used);
			size_text(quota->limit, limit);
		}
		if (rate)
			printf("%s rate at most %s/s", sep, limit);
		else
			printf("%s %s %s%s%s", sep, quota->name, used, quota->limited ? " of " : "",
			       quota->limited ? limit : "");
		sep = ",";
	}
	printf("\n");
}

static void add_user_json(struct json_object *o, const struct ferryi_session_user *user)
{
	struct json_object *quotas = json_object_new_object();

	for (unsigned i = 0; i < user->nquotas; i++) {
		const struct ferryi_session_quota *quota = &user->quotas[i];
		struct json_object *q = json_object_new_object();

		json_object_object_add(q, "used", json_object_new_uint64(quota->used));
		json_object_object_add(q, "limit",
				       quota->limited ? json_object_new_uint64(quota->limit) : NULL);
		json_object_object_add(quotas, quota->name, q);
	}
	json_object_object_add(o, "user", user->name[0] ? json_object_new_string(user->name) : NULL);
	json_object_object_add(o, "quotas", quotas);
}

static void print_pool_json(const char *server, const char *id, const struct ferryi_session_user *user,
			    const struct ferryi_pool_info *pool)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "server", json_object_new_string(server));
	json_object_object_add(o, "server_id", json_object_new_string(id));
	json_object_object_add(o, "pool", json_object_new_string(pool->name));
	json_object_object_add(o, "type", json_object_new_string(pool->type));
	json_object_object_add(o, "backing", json_object_new_string(pool->backing));
	json_object_object_add(o, "size_bytes", json_object_new_uint64(pool->size_bytes));
	json_object_object_add(o, "free_bytes", json_object_new_uint64(pool->free_bytes));
	json_object_object_add(o, "leased_bytes", json_object_new_uint64(pool->leased_bytes));
	json_object_object_add(o, "scrub_bytes", json_object_new_uint64(pool->scrub_bytes));
	json_object_object_add(o, "huge_page_bytes", json_object_new_uint64(pool->huge_page_bytes));
	json_object_object_add(o, "numa_node", json_object_new_int(pool->numa_node));
	add_user_json(o, user);
	printf("%s\n",
	       json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
}

/* 0, or a negative errno with the reason in ferryi_control_last_error(). */
static int list_server(struct ferryi_control *control, const char *url, const struct pools_options *options,
		       bool *header)
{
	struct ferryi_pool_info *pools = calloc(MAX_POOLS, sizeof(*pools));
	struct ferryi_session *session = NULL;
	struct ferryi_session_user user;
	int n;

	if (pools == NULL)
		return -ENOMEM;
	n = ferryi_session_open(control, url, &session);
	if (n != 0)
		goto out;
	n = ferryi_session_user(session, &user);
	if (n >= 0)
		n = ferryi_session_pools(session, pools, MAX_POOLS);
	if (n >= 0 && !options->json && !*header) {
		printf("%-24s %-16s %-8s %-8s %8s %8s %8s %8s %6s %5s\n", "SERVER", "POOL", "TYPE", "BACKING",
		       "SIZE", "FREE", "LEASED", "SCRUB", "HUGE", "NUMA");
		*header = true;
	}
	for (int i = 0; i < n && i < MAX_POOLS; i++) {
		if (options->json)
			print_pool_json(ferryi_session_name(session), ferryi_session_server_id(session),
					&user, &pools[i]);
		else
			print_pool(ferryi_session_name(session), &pools[i]);
	}
	if (n >= 0 && !options->json)
		print_user(ferryi_session_name(session), &user);
	ferryi_session_close(&session);
out:
	free(pools);
	return n < 0 ? n : 0;
}

static int pools_run(const struct ferryi_tool_command *command, int argc, char **argv)
{
	struct pools_options options = {0};
	struct ferryi_control *control = NULL;
	char url[FERRYI_TOOL_URL_LEN], *servers = NULL;
	const char *list;
	bool header = false;
	unsigned noperands;
	int status = ferryi_tool_options(command, &options, argc, argv, NULL, 0, &noperands);

	if (status >= 0)
		goto out;
	servers = ferryi_tool_expand_servers(command, options.servers, options.timeout_ms, &status);
	if (servers == NULL)
		goto out;
	list = servers;
	struct ferryi_control_attr attr = {.token_file = options.token_file,
					   .connect_ms = options.timeout_ms,
					   .request_ms = options.timeout_ms};

	if (ferryi_control_open(&attr, &control) != 0) {
		status = ferryi_tool_fail(command, FERRYI_TOOL_FAILED, "%s", ferryi_control_last_error());
		goto out;
	}
	status = FERRYI_TOOL_OK;
	while (ferryi_tool_next_server(&list, url)) {
		if (list_server(control, url, &options, &header) != 0)
			status = ferryi_tool_fail(command, FERRYI_TOOL_FAILED, "%s",
						  ferryi_control_last_error());
	}
	ferryi_control_close(&control);
out:
	free(servers);
	ferryi_params_fini(params, &options);
	return status;
}

const struct ferryi_tool_command ferryi_tool_pools = {
	.name = "pools",
	.usage = "ferry pools [--servers URL,...] [--token-file FILE] [--json]",
	.text = "Lists the pools of the memory servers.",
	.params = params,
	.run = pools_run,
};
