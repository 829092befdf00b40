/* ferry-heir: see client/pager/heir.h. Nothing for people to start. */
#include <fcntl.h>
#include <stdio.h>

#include "heir.h"

int main(void)
{
	if (fcntl(FERRYI_HEIR_SOCK, F_GETFD) < 0 || fcntl(FERRYI_HEIR_PARENT, F_GETFD) < 0) {
		fprintf(stderr,
			"ferry-heir: libferry starts this program, for children of a process that forks\n");
		return 2;
	}
	return ferryi_heir_main();
}
