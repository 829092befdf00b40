/* Kernel release, userfaultfd's features, and the rights to it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "doctor.h"
#include "uapi.h"

static const struct feature {
	uint64_t bit;
	const char *name;
	enum ferryi_doctor_grade missing; /* how bad its lack is */
	const char *since;
	const char *lack; /* what does not work without it */
} features[] = {
	{FERRYI_UFFD_FEATURE_PAGEFAULT_FLAG_WP, "uffd.WP", FERRYI_DOCTOR_FAIL, "5.7",
	 "pages cannot be marked as away"},
	{FERRYI_UFFD_FEATURE_WP_UNPOPULATED, "uffd.WP_UNPOPULATED", FERRYI_DOCTOR_FAIL, "6.4",
	 "a page that is away cannot be told from one that was dropped"},
	{FERRYI_UFFD_FEATURE_MOVE, "uffd.MOVE", FERRYI_DOCTOR_WARN, "6.8",
	 "eviction takes a write-protect step and is slower"},
	{FERRYI_UFFD_FEATURE_POISON, "uffd.POISON", FERRYI_DOCTOR_WARN, "6.6",
	 "a lost page can end the program instead of raising SIGBUS"},
	{FERRYI_UFFD_FEATURE_WP_ASYNC, "uffd.WP_ASYNC", FERRYI_DOCTOR_WARN, "6.7",
	 "a first write to a clean page is slower"},
	{FERRYI_UFFD_FEATURE_THREAD_ID, "uffd.THREAD_ID", FERRYI_DOCTOR_WARN, "4.14",
	 "read-ahead cannot follow threads one by one"},
	{FERRYI_UFFD_FEATURE_SIGBUS, "uffd.SIGBUS", FERRYI_DOCTOR_NOTE, "4.14",
	 "inline mode is not to be had"},
	{FERRYI_UFFD_FEATURE_EVENT_REMOVE, "uffd.EVENT_REMOVE", FERRYI_DOCTOR_NOTE, "4.11",
	 "pool memory of dropped pages is freed late"},
	{FERRYI_UFFD_FEATURE_EVENT_FORK, "uffd.EVENT_FORK", FERRYI_DOCTOR_NOTE, "4.11",
	 "fork is seen by pthread_atfork only"},
};

static void check_features(struct ferryi_report *report)
{
	for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
		const struct feature *f = &features[i];
		char fix[96];

		if (report->uffd.features & f->bit) {
			ferryi_doctor_add(report, FERRYI_DOCTOR_OK, f->name, NULL, "there");
			continue;
		}
		snprintf(fix, sizeof(fix), "boot a kernel of %s or later (6.11 is first class)", f->since);
		ferryi_doctor_add(report, f->missing, f->name, fix, "missing: %s", f->lack);
	}
}

static void check_rights(struct ferryi_report *report)
{
	const struct ferryi_uffd_rights *u = &report->uffd;
	static const char fix[] = "give the user /dev/userfaultfd (group ferry, by the udev rule "
				  "70-ferry-userfaultfd.rules), or set vm.unprivileged_userfaultfd=1, or run "
				  "with CAP_SYS_PTRACE";

	if (u->by_syscall)
		ferryi_doctor_add(report, FERRYI_DOCTOR_OK, "uffd.rights", NULL,
				  "userfaultfd(2) with kernel-mode faults%s",
				  geteuid() == 0 ? " (root)"
						 : " (CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1)");
	else if (u->by_device)
		ferryi_doctor_add(report, FERRYI_DOCTOR_OK, "uffd.rights", NULL,
				  "/dev/userfaultfd with kernel-mode faults");
	else
		ferryi_doctor_add(
			report, FERRYI_DOCTOR_WARN, "uffd.rights", fix,
			"user-mode faults only: a system call given memory that is away fails with EFAULT "
			"(userfaultfd(2): %s; /dev/userfaultfd: %s)",
			strerror(u->syscall_errno), strerror(u->device_errno));
}

static void check_sysctl(struct ferryi_report *report)
{
	FILE *f = fopen("/proc/sys/vm/unprivileged_userfaultfd", "r");
	int value = -1;

	if (f == NULL)
		return;
	if (fscanf(f, "%d", &value) == 1)
		ferryi_doctor_add(
			report, FERRYI_DOCTOR_NOTE, "uffd.sysctl", NULL, "vm.unprivileged_userfaultfd=%d: %s",
			value,
			value != 0 ? "every user has kernel-mode faults"
				   : "plain users have user-mode faults, unless /dev/userfaultfd is theirs");
	fclose(f);
}

void ferryi_doctor_kernel(struct ferryi_report *report)
{
	struct utsname name;
	unsigned major = 0, minor = 0;
	int rc;

	if (uname(&name) == 0 && sscanf(name.release, "%u.%u", &major, &minor) == 2) {
		bool first_class = major > 6 || (major == 6 && minor >= 11);

		ferryi_doctor_add(
			report, first_class ? FERRYI_DOCTOR_OK : FERRYI_DOCTOR_WARN, "kernel",
			first_class ? NULL
				    : "use Linux 6.11 or later; the lines below say what this one lacks",
			"Linux %s, %s", name.release, name.machine);
	}
	if (sysconf(_SC_PAGESIZE) != 4096)
		ferryi_doctor_add(report, FERRYI_DOCTOR_FAIL, "page-size", "boot a kernel with 4 KiB pages",
				  "%ld bytes; ferry works on pages of 4096", sysconf(_SC_PAGESIZE));
	rc = ferryi_uffd_probe(&report->uffd);
	if (rc == 0) {
		check_features(report);
		check_rights(report);
	} else if (rc == -ENOSYS) {
		ferryi_doctor_add(report, FERRYI_DOCTOR_FAIL, "uffd",
				  "boot a kernel built with CONFIG_USERFAULTFD (Debian's is)",
				  "no userfaultfd in this kernel");
	} else {
		ferryi_doctor_add(report, FERRYI_DOCTOR_FAIL, "uffd",
				  "allow userfaultfd in the container's seccomp profile, or give the user "
				  "/dev/userfaultfd",
				  "userfaultfd is refused: %s", strerror(-rc));
	}
	check_sysctl(report);
}
