/* `ferry bench`: options, the server, the runs. See bench.h. */
#include "bench.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "bare_uffd.h"

#define RAW_STREAM_MS 200u
#define RAW_READS     2000u
#define UFFD_FAULTS   2000u
#define MAX_RUNS      101u

static const struct ferryi_bench_kind *const kinds[] = {
	&ferryi_bench_raw,	 &ferryi_bench_fault,	  &ferryi_bench_seq,	   &ferryi_bench_random,
	&ferryi_bench_evict,	 &ferryi_bench_stride[0], &ferryi_bench_stride[1], &ferryi_bench_stride[2],
	&ferryi_bench_stride[3], &ferryi_bench_stride[4], &ferryi_bench_stride[5], &ferryi_bench_stride[6],
	&ferryi_bench_todev,	 &ferryi_bench_toram,	  &ferryi_bench_threads,   &ferryi_bench_map,
	&ferryi_bench_idle,	 &ferryi_bench_long,
};

#define NKINDS	   (sizeof(kinds) / sizeof(kinds[0]))
#define AT(member) offsetof(struct ferryi_bench_options, member)

static const struct ferryi_param params[] = {
	{.name = "servers",
	 .short_opt = 's',
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(servers),
	 .env = "FERRY_SERVERS",
	 .metavar = "URL",
	 .text = "Server to measure, ferry://HOST:PORT; none: a ferryd of its own on this machine."},
	{.name = "token-file",
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(token_file),
	 .env = "FERRY_TOKEN_FILE",
	 .metavar = "FILE",
	 .text = "File with the server's token."},
	{.name = "pool",
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(pool),
	 .env = "FERRY_POOL",
	 .metavar = "NAME",
	 .text = "Pool of the server; none: its first."},
	{.name = "fabric",
	 .type = FERRYI_PARAM_ENUM,
	 .offset = AT(fabric),
	 .deflt = "auto",
	 .values = ferryi_bench_fabrics,
	 .metavar = "NAME",
	 .text = "Transport to use."},
	{.name = "mode",
	 .type = FERRYI_PARAM_ENUM,
	 .offset = AT(mode),
	 .deflt = "handler",
	 .values = ferryi_bench_modes,
	 .metavar = "NAME",
	 .text = "Who serves a fault: a thread of the library, or the faulting one."},
	{.name = "size",
	 .type = FERRYI_PARAM_SIZE,
	 .offset = AT(size_bytes),
	 .min = 16 << 20,
	 .max = 1ull << 44,
	 .deflt = "256M",
	 .metavar = "SIZE",
	 .unit = "bytes",
	 .text = "Managed memory to work on."},
	{.name = "local",
	 .type = FERRYI_PARAM_SIZE,
	 .offset = AT(local_bytes),
	 .min = 4 << 20,
	 .max = 1ull << 44,
	 .metavar = "SIZE",
	 .unit = "bytes",
	 .text = "Budget of seq, stride and random; none: a quarter of the size, or half of it (random)."},
	{.name = "seconds",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(seconds),
	 .max = 3600,
	 .deflt = "0",
	 .metavar = "N",
	 .text = "End a run after this time; 0: by its count alone."},
	{.name = "count",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(count),
	 .max = 100000000,
	 .deflt = "0",
	 .metavar = "N",
	 .text = "Accesses of a run; 0: what suits the kind."},
	{.name = "stride",
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(strides),
	 .metavar = "N,...",
	 .unit = "pages",
	 .text = "Strides of the streams of stride, which take them in turn; negative: downwards. None, nor "
		 "--streams: "
		 "a table of them."},
	{.name = "streams",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(streams),
	 .max = FERRYI_BENCH_STREAMS_MAX,
	 .deflt = "0",
	 .metavar = "N",
	 .text = "Streams of stride; 0: 1 with --stride."},
	{.name = "runs",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(runs),
	 .min = 1,
	 .max = MAX_RUNS,
	 .deflt = "5",
	 .metavar = "N",
	 .text = "Runs; their medians are printed."},
	{.name = "seed",
	 .type = FERRYI_PARAM_U64,
	 .offset = AT(seed),
	 .min = 1,
	 .deflt = "1",
	 .metavar = "N",
	 .text = "Seed of the random places and contents."},
	{.name = "json", .type = FERRYI_PARAM_FLAG, .offset = AT(json), .text = "One JSON object a line."},
	{.name = NULL},
};

int ferryi_bench_fail(const struct ferryi_bench *bench, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	ferryi_tool_fail(bench->command, FERRYI_TOOL_FAILED, "%s", text);
	return -1;
}

/* The two yardsticks, right before what they are compared with. */
static int yardsticks(struct ferryi_bench *bench, const struct ferryi_bench_kind *kind,
		      struct ferryi_bench_figures *out)
{
	unsigned reads = kind == &ferryi_bench_raw ? (unsigned)out->count : RAW_READS;
	int rc;

	bench->samples.n = 0;
	rc = ferryi_raw_latency(bench->raw, reads, &bench->random, &bench->samples);
	out->raw_us_p50 = ferryi_samples_us(&bench->samples, 0.5);
	out->raw_us_p99 = ferryi_samples_us(&bench->samples, 0.99);
	if (rc == 0)
		rc = ferryi_raw_stream(bench->raw, kind->writes ? FERRYI_OP_WRITE : FERRYI_OP_READ,
				       RAW_STREAM_MS, &out->raw_mbps);
	if (rc != 0)
		return ferryi_bench_fail(bench, "%s: raw %s transfer failed: %s",
					 ferryi_raw_server(bench->raw), ferryi_raw_fabric(bench->raw),
					 strerror(-rc));
	bench->samples.n = 0;
	rc = ferryi_uffd_measure(UFFD_FAULTS, ferryi_raw_len_bytes(bench->raw), bench->options.mode == FERRYI_BENCH_INLINE,
				 &bench->random, &bench->samples);
	if (rc != 0)
		return ferryi_bench_fail(bench, "userfaultfd: %s; \"ferry doctor\" says how to get it",
					 strerror(-rc));
	out->uffd_us_p50 = ferryi_samples_us(&bench->samples, 0.5);
	return 0;
}

/* As the options say, or else the kind. -EINVAL. */
static int take_strides(const struct ferryi_bench_options *o, const struct ferryi_bench_kind *kind,
			struct ferryi_bench_strides *out)
{
	bool own = o->strides != NULL || o->streams != 0;

	out->streams = o->streams != 0 ? (unsigned)o->streams : own ? 1 : kind->streams;
	return ferryi_bench_strides_parse(o->strides != NULL ? o->strides : kind->strides, out);
}

static int bench_kind(struct ferryi_bench *bench, const struct ferryi_bench_kind *kind)
{
	const struct ferryi_bench_options *o = &bench->options;
	uint64_t count = o->count != 0	    ? o->count
			 : kind->count != 0 ? kind->count
					    : ferryi_bench_pages(bench);
	struct ferryi_bench_figures runs[MAX_RUNS];
	size_t room = count > ferryi_bench_pages(bench) ? count : ferryi_bench_pages(bench);
	int rc = -1;

	bench->random = o->seed;
	bench->budget_bytes = 0;
	if (kind->strides != NULL)
		take_strides(o, kind, &bench->strides); /* looked at by check */
	if (ferryi_samples_init(&bench->samples, room > RAW_READS ? room : RAW_READS) != 0)
		return ferryi_bench_fail(bench, "no memory for %zu samples; take a smaller --count", room);
	if (kind->budget_percent != 0 && ferryi_bench_area_open(bench, kind) != 0)
		goto out;
	if (kind->prepare != NULL && kind->prepare(bench) != 0)
		goto out;
	for (size_t run = 0; run < o->runs; run++) {
		runs[run] = (struct ferryi_bench_figures){.raw_us_p50 = NAN,
							  .raw_us_p99 = NAN,
							  .raw_mbps = NAN,
							  .uffd_us_p50 = NAN,
							  .us_p50 = NAN,
							  .us_p99 = NAN,
							  .mbps = NAN,
							  .faults_per_s = NAN,
							  .hit_rate = NAN,
							  .useless_rate = NAN,
							  .ratio = NAN,
							  .count = count};
		if (yardsticks(bench, kind, &runs[run]) != 0 || kind->run(bench, &runs[run]) != 0)
			goto out;
	}
	ferryi_bench_print(bench, kind, runs, o->runs);
	rc = 0;
out:
	ferryi_bench_area_close(bench);
	ferryi_samples_fini(&bench->samples);
	return rc;
}

static bool wanted(const struct ferryi_bench_options *o, const char *name,
		   const struct ferryi_bench_kind *kind)
{
	/* Strides of one's own: they stand for the whole table. */
	if (kind->strides != NULL && kind != &ferryi_bench_stride[0] &&
	    (o->strides != NULL || o->streams != 0))
		return false;
	return (strcmp(name, "all") == 0 && !kind->by_name_only) || strcmp(name, kind->name) == 0;
}

static bool strides_fit(const struct ferryi_bench_options *o)
{
	struct ferryi_bench_strides strides;

	if (take_strides(o, &ferryi_bench_stride[0], &strides) != 0)
		return false;
	for (unsigned i = 0; i < strides.n; i++) {
		if ((uint64_t)labs(strides.stride[i]) >= o->size_bytes / 4096 / strides.streams)
			return false;
	}
	return true;
}

/* Status to exit with, or -1: the options make sense. */
static int check(const struct ferryi_tool_command *command, const struct ferryi_bench_options *o,
		 const char *name)
{
	bool known = false;

	for (size_t i = 0; i < NKINDS; i++)
		known |= wanted(o, name, kinds[i]);
	if (!known)
		return ferryi_tool_fail(command, FERRYI_TOOL_USAGE, "no benchmark \"%s\"; \"ferry bench --help\" lists them",
					name);
	if (o->size_bytes % FERRYI_SUBSECTION_SIZE != 0)
		return ferryi_tool_fail(command, FERRYI_TOOL_USAGE, "--size must be a multiple of 2M");
	if (!strides_fit(o))
		return ferryi_tool_fail(command, FERRYI_TOOL_USAGE,
					"--stride takes numbers of pages other than 0, as in 1,17,-1, each "
					"less than --size / --streams");
	if (o->servers != NULL && strchr(o->servers, ',') != NULL)
		return ferryi_tool_fail(command, FERRYI_TOOL_USAGE,
					"one server at a time; give --servers with a single URL");
	return -1;
}

static void usage_kinds(void)
{
	puts("\nkinds:");
	for (size_t i = 0; i < NKINDS; i++) {
		if (i == 0 || strcmp(kinds[i]->name, kinds[i - 1]->name) != 0)
			printf("  %-7s %s\n", kinds[i]->name, kinds[i]->text);
	}
	puts("  all     all of them but long, one after another");
}

static int measure(struct ferryi_bench *bench, const char *name)
{
	struct ferryi_bench_options *o = &bench->options;
	struct ferryi_bench_server server = {.pid = -1};
	char url[FERRYI_TOOL_URL_LEN], why[512] = "";
	int status = FERRYI_TOOL_FAILED;
	uint64_t raw_bytes = ferryi_min_u64(o->size_bytes, FERRYI_RAW_MAX);

	bench->token_file = o->token_file;
	bench->server_pid = -1;
	if (o->servers == NULL || o->servers[0] == '\0') {
		/* Own server: as much as the area and the yardstick need, and room for rounding. */
		uint64_t bytes = o->size_bytes + raw_bytes + 4 * FERRYI_SUBSECTION_SIZE;
		const char *fabric = o->fabric == 0 ? "local" : ferryi_bench_fabrics[o->fabric];

		if (ferryi_bench_server_start(fabric, bytes, &server, why, sizeof(why)) != 0)
			return ferryi_tool_fail(bench->command, FERRYI_TOOL_FAILED, "%s", why);
		snprintf(url, sizeof(url), "%s", server.url);
		bench->token_file = server.token_file;
		bench->server_pid = server.pid;
	} else if (o->fabric == 0 || strchr(o->servers, '?') != NULL) {
		snprintf(url, sizeof(url), "%s", o->servers);
	} else {
		snprintf(url, sizeof(url), "%s?fabric=%s", o->servers, ferryi_bench_fabrics[o->fabric]);
	}
	bench->url = url;
	if (ferryi_raw_open(url, bench->token_file, o->pool, raw_bytes, &bench->raw, why, sizeof(why)) != 0) {
		ferryi_tool_fail(bench->command, status, "%s", why);
		goto out;
	}
	status = FERRYI_TOOL_OK;
	for (size_t i = 0; i < NKINDS && status == FERRYI_TOOL_OK; i++) {
		if (wanted(o, name, kinds[i]) && bench_kind(bench, kinds[i]) != 0)
			status = FERRYI_TOOL_FAILED;
	}
	ferryi_raw_close(&bench->raw);
out:
	ferryi_bench_server_stop(&server);
	return status;
}

static int bench_run(const struct ferryi_tool_command *command, int argc, char **argv)
{
	struct ferryi_bench bench = {.command = command};
	const char *name = NULL;
	unsigned n = 0;
	int status = ferryi_tool_options(command, &bench.options, argc, argv, &name, 1, &n);

	if (status < 0 && n == 0)
		status = ferryi_tool_fail(command, FERRYI_TOOL_USAGE,
					  "say what to measure: raw, fault, seq, ... or all; \"ferry bench --help\" lists them");
	if (status < 0)
		status = check(command, &bench.options, name);
	if (status < 0)
		status = measure(&bench, name);
	ferryi_params_fini(params, &bench.options);
	return status;
}

const struct ferryi_tool_command ferryi_tool_bench = {
	.name = "bench",
	.usage = "ferry bench KIND|all [OPTIONS]",
	.text = "Measures faults and transfers, beside the raw transport and the bare userfaultfd.",
	.params = params,
	.more = usage_kinds,
	.run = bench_run,
};
