/* One line a kind: a table row, or one JSON object. Main thread. */
#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "bench.h"
#include "ferry.h"

#define STRIDES_LEN 2048u

const char *const ferryi_bench_fabrics[] = {"auto", "local", "tcp", "verbs", "rdm", NULL};
const char *const ferryi_bench_modes[] = {"handler", "inline", NULL};

static double median_of(const struct ferryi_bench_figures *runs, size_t n, size_t offset)
{
	double v[n];

	for (size_t i = 0; i < n; i++)
		memcpy(&v[i], (const char *)&runs[i] + offset, sizeof(double));
	return ferryi_median(v, n);
}

#define MEDIAN(member) median_of(runs, nruns, offsetof(struct ferryi_bench_figures, member))

static void add_number(struct json_object *o, const char *name, double value, int decimals)
{
	char text[48];

	if (isnan(value) || isinf(value)) {
		json_object_object_add(o, name, NULL);
		return;
	}
	snprintf(text, sizeof(text), "%.*f", decimals, value);
	json_object_object_add(o, name, json_object_new_double_s(value, text));
}

static void add_count(struct json_object *o, const char *name, uint64_t value)
{
	json_object_object_add(o, name, json_object_new_uint64(value));
}

static void add_text(struct json_object *o, const char *name, const char *value)
{
	json_object_object_add(o, name, json_object_new_string(value));
}

/* As --stride takes them; cut where they are many. */
static const char *strides_text(const struct ferryi_bench *bench, char text[STRIDES_LEN])
{
	size_t len = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < bench->strides.n && len < STRIDES_LEN; i++)
		len += (size_t)snprintf(text + len, STRIDES_LEN - len, "%s%ld", i == 0 ? "" : ",",
					bench->strides.stride[i]);
	return text;
}

static void print_json(const struct ferryi_bench *bench, const struct ferryi_bench_kind *kind,
		       const struct ferryi_bench_figures *f, double ratio, size_t nruns)
{
	struct json_object *o = json_object_new_object();
	struct utsname name;

	add_text(o, "bench", kind->name);
	add_text(o, "fabric", ferryi_raw_fabric(bench->raw));
	add_text(o, "mode", ferryi_bench_modes[bench->options.mode]);
	add_number(o, "raw_us_p50", f->raw_us_p50, 2);
	add_number(o, "uffd_us_p50", f->uffd_us_p50, 2);
	add_number(o, "us_p50", f->us_p50, 2);
	add_number(o, "us_p99", f->us_p99, 2);
	add_number(o, "mbps", f->mbps, 1);
	add_number(o, "raw_mbps", f->raw_mbps, 1);
	add_number(o, "ratio", ratio, 3);
	add_number(o, "raw_us_p99", f->raw_us_p99, 2);
	add_number(o, "faults_per_s", f->faults_per_s, 0);
	add_number(o, "hit_rate", f->hit_rate, 5);
	add_number(o, "useless_rate", f->useless_rate, 5);
	if (kind->strides != NULL) {
		char text[STRIDES_LEN];

		add_text(o, "stride", strides_text(bench, text));
		add_count(o, "streams", bench->strides.streams);
	}
	for (unsigned i = 0; i < f->nr_more; i++)
		add_number(o, f->more[i].name, f->more[i].value, 3);
	add_count(o, "count", f->count);
	add_count(o, "runs", nruns);
	add_count(o, "seed", bench->options.seed);
	add_count(o, "size_bytes", kind == &ferryi_bench_raw ? ferryi_raw_len_bytes(bench->raw) : bench->options.size_bytes);
	add_count(o, "budget_bytes", bench->budget_bytes);
	add_text(o, "server", ferryi_raw_server(bench->raw));
	add_text(o, "version", ferry_version());
	if (uname(&name) == 0)
		add_text(o, "kernel", name.release);
	printf("%s\n",
	       json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
}

/* A figure, right-aligned, or a dash. */
static void print_cell(int width, int decimals, double value)
{
	if (isnan(value))
		printf(" %*s", width, "-");
	else
		printf(" %*.*f", width, decimals, value);
}

static void print_row(const struct ferryi_bench *bench, const struct ferryi_bench_kind *kind,
		      const struct ferryi_bench_figures *f, double ratio)
{
	static bool header;

	if (!header)
		printf("%-7s %-7s %-8s %9s %9s %9s %9s %9s %9s %7s %9s %7s %8s\n", "BENCH", "FABRIC", "MODE",
		       "RAW-P50us", "UFFD-P50", "P50us", "P99us", "MB/s", "RAW-MB/s", "RATIO", "FAULTS/s",
		       "HITS%", "USELESS%");
	header = true;
	printf("%-7s %-7s %-8s", kind->name, ferryi_raw_fabric(bench->raw),
	       ferryi_bench_modes[bench->options.mode]);
	print_cell(9, 2, f->raw_us_p50);
	print_cell(9, 2, f->uffd_us_p50);
	print_cell(9, 2, f->us_p50);
	print_cell(9, 2, f->us_p99);
	print_cell(9, 0, f->mbps);
	print_cell(9, 0, f->raw_mbps);
	print_cell(7, 3, ratio);
	print_cell(9, 0, f->faults_per_s);
	print_cell(7, 2, f->hit_rate * 100);
	print_cell(8, 2, f->useless_rate * 100);
	if (kind->strides != NULL) {
		char text[STRIDES_LEN];

		printf("  %s x%u", strides_text(bench, text), bench->strides.streams);
	}
	for (unsigned i = 0; i < f->nr_more; i++)
		printf("  %s=%.5g", f->more[i].name, f->more[i].value);
	putchar('\n');
}

void ferryi_bench_print(const struct ferryi_bench *bench, const struct ferryi_bench_kind *kind,
			const struct ferryi_bench_figures *runs, size_t nruns)
{
	struct ferryi_bench_figures f = {
		.raw_us_p50 = MEDIAN(raw_us_p50),
		.raw_us_p99 = MEDIAN(raw_us_p99),
		.raw_mbps = MEDIAN(raw_mbps),
		.uffd_us_p50 = MEDIAN(uffd_us_p50),
		.us_p50 = MEDIAN(us_p50),
		.us_p99 = MEDIAN(us_p99),
		.mbps = MEDIAN(mbps),
		.faults_per_s = MEDIAN(faults_per_s),
		.hit_rate = MEDIAN(hit_rate),
		.ratio = MEDIAN(ratio),
		.useless_rate = MEDIAN(useless_rate),
		.count = runs[nruns - 1].count,
		.nr_more = runs[0].nr_more,
	};
	for (unsigned i = 0; i < f.nr_more; i++) {
		f.more[i].name = runs[0].more[i].name;
		f.more[i].value = MEDIAN(more[i].value);
	}
	double ratio = kind->has_ratio	     ? f.ratio
		       : kind->by_throughput ? f.mbps / f.raw_mbps
					     : f.us_p50 / (f.raw_us_p50 + f.uffd_us_p50);

	if (bench->options.json)
		print_json(bench, kind, &f, ratio, nruns);
	else
		print_row(bench, kind, &f, ratio);
	fflush(stdout);
}
