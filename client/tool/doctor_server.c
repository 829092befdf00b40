/* The servers: reached, token accepted, pools there. And the main job itself, in small. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "arith.h"
#include "clock.h"
#include "control.h"
#include "doctor.h"
#include "ferry.h"

#define TRIAL_BYTES  ((size_t)16 << 20)
#define TRIAL_BUDGET ((uint64_t)4 << 20)

static const char *fix_of(int rc)
{
	switch (rc) {
	case -EACCES:
	case -EPERM:
		return "copy the server's token file here (mode 0600) and name it with FERRY_TOKEN_FILE or "
		       "--token-file";
	case -ENOENT:
		return "name the server's token file with FERRY_TOKEN_FILE or --token-file";
	case -ECONNREFUSED:
		return "start ferryd there, or correct the port";
	case -EHOSTUNREACH:
		return "correct the host name, or mend the route to it";
	case -ETIMEDOUT:
		return "is the host up, and does its firewall let the port through?";
	case -EPROTONOSUPPORT:
		return "use the same release of ferry and ferryd";
	case -EINVAL:
		return "write it as ferry://HOST:PORT[?fabric=NAME]";
	default:
		return "see the server's log";
	}
}

static void check_server(struct ferryi_report *report, struct ferryi_control *control, const char *url)
{
	struct ferryi_pool_info pools[16];
	struct ferryi_session *session;
	uint64_t avail = 0, start = ferryi_now_ns();
	char size[32];
	int rc = ferryi_session_open(control, url, &session);

	if (rc != 0) {
		ferryi_doctor_add(report, FERRYI_DOCTOR_FAIL, "server", fix_of(rc), "%s",
				  ferryi_control_last_error());
		return;
	}
	double ms = (double)(ferryi_now_ns() - start) / 1e6;
	int n = ferryi_session_pools(session, pools, 16);

	for (int i = 0; i < n && i < 16; i++)
		avail += pools[i].free_bytes;
	ferryi_format_size(avail, size, sizeof(size));
	if (n < 0)
		ferryi_doctor_add(report, FERRYI_DOCTOR_FAIL, "server", fix_of(n), "%s: %s", url,
				  ferryi_control_last_error());
	else if (avail < FERRYI_SUBSECTION_SIZE)
		ferryi_doctor_add(report, FERRYI_DOCTOR_WARN, "server",
				  "start ferryd with a larger pool, or end other clients",
				  "%s: reached, token accepted, but nothing is free in its %d pool%s",
				  ferryi_session_name(session), n, n == 1 ? "" : "s");
	else
		ferryi_doctor_add(report, FERRYI_DOCTOR_OK, "server", NULL,
				  "%s: reached in %.1f ms, token accepted, %d pool%s, %s free",
				  ferryi_session_name(session), ms, n, n == 1 ? "" : "s", size);
	ferryi_session_close(&session);
}

static void check_named(struct ferryi_report *report)
{
	struct ferryi_control_attr attr = {.token_file = report->token_file,
					   .connect_ms = report->timeout_ms,
					   .request_ms = report->timeout_ms};
	struct ferryi_control *control;
	const char *list = report->servers;
	char url[FERRYI_TOOL_URL_LEN];
	int rc = ferryi_control_open(&attr, &control);

	if (rc != 0) {
		ferryi_doctor_add(report, FERRYI_DOCTOR_FAIL, "server", fix_of(rc), "%s",
				  ferryi_control_last_error());
		return;
	}
	while (ferryi_tool_next_server(&list, url))
		check_server(report, control, url);
	ferryi_control_close(&control);
}

static bool named(const struct ferryi_report *report)
{
	return report->servers != NULL && report->servers[strspn(report->servers, ", ")] != '\0';
}

void ferryi_doctor_server(struct ferryi_report *report)
{
	struct ferryi_embedded *embedded;
	int rc;

	if (named(report)) {
		check_named(report);
		return;
	}
	rc = ferryi_embedded_start(FERRYI_SECTION_SIZE, ferryi_deadline_ms(report->timeout_ms), &embedded);
	if (rc != 0) {
		ferryi_doctor_add(report, FERRYI_DOCTOR_FAIL, "server",
				  rc == -ENOENT ? "install ferryd beside ferry, put it into $PATH, or name "
						  "it with FERRY_FERRYD"
						: "start a ferryd by hand to see its words, or name a server "
						  "with FERRY_SERVERS",
				  "no server is named, and the embedded one does not start: %s",
				  ferryi_control_last_error());
		return;
	}
	ferryi_embedded_stop(&embedded);
	ferryi_doctor_add(report, FERRYI_DOCTOR_OK, "server", NULL,
			  "none named (FERRY_SERVERS): programs bring an embedded one, and it starts");
}

/* Writes and reads back more than the budget holds. NULL, or what went wrong. */
static const char *trial(struct ferry *ferry, char *buf, size_t len)
{
	uint64_t *v = ferry_mmap(ferry, NULL, TRIAL_BYTES, PROT_READ | PROT_WRITE, 0);
	struct ferry_stats stats = {.size = sizeof(stats)};
	size_t n = TRIAL_BYTES / sizeof(*v), wrong = 0;

	if (v == MAP_FAILED)
		return ferry_last_error();
	for (size_t i = 0; i < n; i++)
		v[i] = i * 0x9e3779b97f4a7c15ull;
	for (size_t i = 0; i < n; i++)
		wrong += v[i] != i * 0x9e3779b97f4a7c15ull;
	ferry_stats(ferry, &stats);
	ferry_munmap(ferry, v, TRIAL_BYTES);
	if (wrong > 0)
		snprintf(buf, len, "%zu words came back wrong", wrong);
	else if (stats.peak_resident_bytes > TRIAL_BUDGET)
		snprintf(buf, len, "%llu bytes were resident", (unsigned long long)stats.peak_resident_bytes);
	else
		return NULL;
	return buf;
}

void ferryi_doctor_trial(struct ferryi_report *report)
{
	struct ferry_config config = {.size = sizeof(config),
				      .servers = named(report) ? report->servers : NULL,
				      .token_file = report->token_file,
				      .embedded_bytes = FERRYI_SECTION_SIZE,
				      .local_bytes = TRIAL_BUDGET};
	static const char fix[] = "mend what is said above; if all is well there, please report this line";
	struct ferry *ferry;
	const char *wrong;
	char buf[128];
	uint64_t start = ferryi_now_ns();
	int rc = ferry_open(&config, &ferry);

	if (rc != 0) {
		ferryi_doctor_add(report, FERRYI_DOCTOR_FAIL, "trial", fix, "the library does not start: %s",
				  ferry_last_error());
		return;
	}
	wrong = trial(ferry, buf, sizeof(buf));
	if (wrong != NULL)
		ferryi_doctor_add(report, FERRYI_DOCTOR_FAIL, "trial", fix, "16M through a budget of 4M: %s",
				  wrong);
	rc = ferry_close(ferry);
	if (rc != 0)
		ferryi_doctor_add(report, FERRYI_DOCTOR_FAIL, "trial", fix, "the library does not close: %s",
				  ferry_last_error());
	else if (wrong == NULL)
		ferryi_doctor_add(report, FERRYI_DOCTOR_OK, "trial", NULL,
				  "16M written and read back through a budget of 4M in %.0f ms",
				  (double)(ferryi_now_ns() - start) / 1e6);
}
