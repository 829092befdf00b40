/*
 * `ferry doctor`: a list of checks, each adding findings to a report. A check
 * only looks; it changes nothing on the node. Main thread.
 */
#ifndef FERRYI_DOCTOR_H
#define FERRYI_DOCTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "bare_uffd.h"

enum ferryi_doctor_grade {
	FERRYI_DOCTOR_OK,
	FERRYI_DOCTOR_NOTE, /* worth knowing, nothing to mend */
	FERRYI_DOCTOR_WARN, /* works, but less well or not everything */
	FERRYI_DOCTOR_FAIL, /* the main job cannot run */
};

struct ferryi_finding {
	enum ferryi_doctor_grade grade;
	char name[40];
	char text[480];
	char fix[480]; /* "" when there is nothing to mend */
};

struct ferryi_report {
	struct ferryi_finding finding[96];
	unsigned n;
	/* options */
	const char *servers, *token_file;
	uint64_t timeout_ms;
	/* found by one check, used by later ones */
	struct ferryi_uffd_rights uffd;
	bool rdma_device; /* an active RDMA port */
};

/* fix may be NULL. Findings beyond the table are dropped: it is larger than all checks together need. */
void ferryi_doctor_add(struct ferryi_report *report, enum ferryi_doctor_grade grade, const char *name,
		       const char *fix, const char *fmt, ...) __attribute__((format(printf, 5, 6)));

void ferryi_doctor_kernel(struct ferryi_report *report); /* release, userfaultfd features and rights */
void ferryi_doctor_fabric(struct ferryi_report *report); /* rows, RDMA devices */
void ferryi_doctor_system(struct ferryi_report *report); /* memlock, THP, swap, overcommit, memory cgroup */
void ferryi_doctor_server(struct ferryi_report *report); /* servers, or the embedded one */
void ferryi_doctor_trial(struct ferryi_report *report);	 /* the main job, small */

#endif
