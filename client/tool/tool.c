/* Helpers of every subcommand; see tool.h. */
#include "tool.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "discover.h"
#include "ferry.h"

int ferryi_tool_fail(const struct ferryi_tool_command *command, int status, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "ferry %s: ", command->name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return status;
}

int ferryi_tool_options(const struct ferryi_tool_command *command, void *cfg, int argc, char **argv,
			const char **operands, unsigned max_operands, unsigned *noperands)
{
	char err[FERRYI_PARAM_ERR_LEN] = "";
	int at = 0, first = 0, rc;

	*noperands = 0;
	if (ferryi_params_init(command->params, cfg, err, sizeof(err)) != 0 ||
	    ferryi_params_env(command->params, cfg, err, sizeof(err)) != 0)
		return ferryi_tool_fail(command, FERRYI_TOOL_USAGE, "%s", err);
	/* Options may stand before, between and behind the operands: parse on behind each. */
	for (;;) {
		rc = ferryi_params_args(command->params, cfg, argc - at, argv + at, &first, err, sizeof(err));
		if (rc == -ENODATA) {
			ferryi_params_help(stdout, command->usage, command->text, command->params);
			if (command->more != NULL)
				command->more();
			return FERRYI_TOOL_OK;
		}
		if (rc == -ENOTSUP) {
			printf("ferry %s\n", ferry_version());
			return FERRYI_TOOL_OK;
		}
		if (rc != 0)
			return ferryi_tool_fail(command, FERRYI_TOOL_USAGE, "%s", err);
		at += first;
		if (at >= argc)
			return -1;
		if (*noperands == max_operands)
			return ferryi_tool_fail(command, FERRYI_TOOL_USAGE,
						"\"%s\" is one word too many; usage: %s", argv[at],
						command->usage);
		operands[(*noperands)++] = argv[at];
	}
}

bool ferryi_tool_next_server(const char **list, char url[FERRYI_TOOL_URL_LEN])
{
	size_t len;

	if (*list == NULL)
		return false;
	*list += strspn(*list, ", ");
	len = strcspn(*list, ", ");
	if (len == 0)
		return false;
	snprintf(url, FERRYI_TOOL_URL_LEN, "%.*s",
		 (int)(len < FERRYI_TOOL_URL_LEN ? len : FERRYI_TOOL_URL_LEN), *list);
	*list += len;
	return true;
}

/* Adds one URL to a comma list on the heap; false: no memory. */
static bool append(char **list, const char *url)
{
	size_t len = *list ? strlen(*list) : 0;
	char *longer = realloc(*list, len + strlen(url) + 2);

	if (!longer)
		return false;
	sprintf(longer + len, "%s%s", len ? "," : "", url);
	*list = longer;
	return true;
}

char *ferryi_tool_expand_servers(const struct ferryi_tool_command *command, const char *list, uint64_t timeout_ms,
				 int *status)
{
	static struct ferryi_servers found;
	char url[FERRYI_TOOL_URL_LEN], err[FERRYI_DISCOVER_ERR_LEN], *out = NULL;
	bool good = true;

	while (good && ferryi_tool_next_server(&list, url)) {
		if (!ferryi_is_discovery(url)) {
			good = append(&out, url);
			continue;
		}
		int rc = ferryi_discover(url, ferryi_deadline_ms(timeout_ms), -1, &found, err, sizeof(err));

		if (rc) {
			*status = ferryi_tool_fail(command, rc == -EINVAL ? FERRYI_TOOL_USAGE : FERRYI_TOOL_FAILED, "%s", err);
			free(out);
			return NULL;
		}
		for (unsigned i = 0; i < found.nr && good; i++)
			good = append(&out, found.url[i]);
	}
	if (good && out)
		return out;
	free(out);
	*status = good ? ferryi_tool_fail(command, FERRYI_TOOL_USAGE,
					  "no server named; give --servers ferry://HOST:PORT or set FERRY_SERVERS") :
			 ferryi_tool_fail(command, FERRYI_TOOL_FAILED, "out of memory");
	return NULL;
}

int ferryi_samples_init(struct ferryi_samples *samples, size_t max)
{
	*samples = (struct ferryi_samples){.ns = calloc(max, sizeof(*samples->ns)), .max = max};
	return samples->ns != NULL ? 0 : -ENOMEM;
}

void ferryi_samples_fini(struct ferryi_samples *samples)
{
	free(samples->ns);
	*samples = (struct ferryi_samples){0};
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

double ferryi_samples_us(struct ferryi_samples *samples, double q)
{
	if (samples->n == 0)
		return NAN;
	qsort(samples->ns, samples->n, sizeof(*samples->ns), compare_u64);
	size_t at = (size_t)(q * (double)(samples->n - 1) + 0.5);

	return (double)samples->ns[at] / 1e3;
}

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double ferryi_median(double *v, size_t n)
{
	size_t kept = 0;

	for (size_t i = 0; i < n; i++) {
		if (!isnan(v[i]))
			v[kept++] = v[i];
	}
	if (kept == 0)
		return NAN;
	qsort(v, kept, sizeof(*v), compare_double);
	return kept % 2 ? v[kept / 2] : (v[kept / 2 - 1] + v[kept / 2]) / 2;
}
