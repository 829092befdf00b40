/* `ferry doctor`: options, the order of the checks, the printed report. */
#include "doctor.h"

#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ferry.h"

struct doctor_options {
	const char *servers, *token_file;
	uint64_t timeout_ms;
	bool no_trial, json;
};

#define AT(member) offsetof(struct doctor_options, member)

static const struct ferryi_param params[] = {
	{.name = "servers",
	 .short_opt = 's',
	 .type = FERRYI_PARAM_STRING,
	 .offset = AT(servers),
	 .env = "FERRY_SERVERS",
	 .metavar = "URL,...",
	 .text = "Servers to reach; none: the embedded server is tried."},
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
	 .text = "How long to wait for a server."},
	{.name = "no-trial",
	 .type = FERRYI_PARAM_FLAG,
	 .offset = AT(no_trial),
	 .text = "Do not run the main job in small (16 MiB through a budget of 4 MiB)."},
	{.name = "json", .type = FERRYI_PARAM_FLAG, .offset = AT(json), .text = "One JSON object."},
	{.name = NULL},
};

static const char *const grade_name[] = {"ok", "note", "warn", "fail"};

void ferryi_doctor_add(struct ferryi_report *report, enum ferryi_doctor_grade grade, const char *name,
		       const char *fix, const char *fmt, ...)
{
	struct ferryi_finding *f;
	va_list ap;

	if (report->n == sizeof(report->finding) / sizeof(report->finding[0]))
		return;
	f = &report->finding[report->n++];
	*f = (struct ferryi_finding){.grade = grade};
	snprintf(f->name, sizeof(f->name), "%s", name);
	snprintf(f->fix, sizeof(f->fix), "%s", fix != NULL ? fix : "");
	va_start(ap, fmt);
	vsnprintf(f->text, sizeof(f->text), fmt, ap);
	va_end(ap);
}

static unsigned count(const struct ferryi_report *report, enum ferryi_doctor_grade grade)
{
	unsigned n = 0;

	for (unsigned i = 0; i < report->n; i++)
		n += report->finding[i].grade == grade;
	return n;
}

static void print_text(const struct ferryi_report *report)
{
	unsigned failed = count(report, FERRYI_DOCTOR_FAIL), warned = count(report, FERRYI_DOCTOR_WARN);

	for (unsigned i = 0; i < report->n; i++) {
		const struct ferryi_finding *f = &report->finding[i];

		printf("%-4s  %-22s %s\n", grade_name[f->grade], f->name, f->text);
		if (f->fix[0] != '\0')
			printf("      %-22s fix: %s\n", "", f->fix);
	}
	if (failed > 0)
		printf("\nThe main job cannot run here: %u to fix, %u warning%s.\n", failed, warned,
		       warned == 1 ? "" : "s");
	else
		printf("\nThe main job can run here, with %u warning%s.\n", warned, warned == 1 ? "" : "s");
}

static void print_json(const struct ferryi_report *report)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();

	json_object_object_add(o, "ok", json_object_new_boolean(count(report, FERRYI_DOCTOR_FAIL) == 0));
	json_object_object_add(o, "version", json_object_new_string(ferry_version()));
	json_object_object_add(o, "failed", json_object_new_int((int)count(report, FERRYI_DOCTOR_FAIL)));
	json_object_object_add(o, "warnings", json_object_new_int((int)count(report, FERRYI_DOCTOR_WARN)));
	for (unsigned i = 0; i < report->n; i++) {
		const struct ferryi_finding *f = &report->finding[i];
		struct json_object *item = json_object_new_object();

		json_object_object_add(item, "check", json_object_new_string(f->name));
		json_object_object_add(item, "grade", json_object_new_string(grade_name[f->grade]));
		json_object_object_add(item, "text", json_object_new_string(f->text));
		json_object_object_add(item, "fix",
				       f->fix[0] != '\0' ? json_object_new_string(f->fix) : NULL);
		json_object_array_add(list, item);
	}
	json_object_object_add(o, "checks", list);
	printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
								 JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
}

static int doctor_run(const struct ferryi_tool_command *command, int argc, char **argv)
{
	struct doctor_options options = {0};
	static struct ferryi_report report;
	unsigned noperands;
	int status = ferryi_tool_options(command, &options, argc, argv, NULL, 0, &noperands);

	if (status >= 0)
		goto out;
	report.servers = options.servers;
	report.token_file = options.token_file;
	report.timeout_ms = options.timeout_ms;
	ferryi_doctor_kernel(&report);
	ferryi_doctor_fabric(&report);
	ferryi_doctor_system(&report);
	ferryi_doctor_server(&report);
	if (!options.no_trial)
		ferryi_doctor_trial(&report);
	if (options.json)
		print_json(&report);
	else
		print_text(&report);
	status = count(&report, FERRYI_DOCTOR_FAIL) == 0 ? FERRYI_TOOL_OK : FERRYI_TOOL_FAILED;
out:
	ferryi_params_fini(params, &options);
	return status;
}

const struct ferryi_tool_command ferryi_tool_doctor = {
	.name = "doctor",
	.usage = "ferry doctor [--servers URL,...] [--token-file FILE] [--no-trial] [--json]",
	.text = "Checks what this node has and lacks for far memory; each problem comes with its fix.",
	.params = params,
	.run = doctor_run,
};
