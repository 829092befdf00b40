/*
 * Memory that the program already has: an ordinary malloc'ed array is adopted
 * in place, computed on within a budget smaller than it, and given back.
 */
#include <ferry.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE ((uintptr_t)FERRY_PAGE_SIZE)

static int fail(const char *what)
{
	fprintf(stderr, "02-adopt: %s: %s\n", what, ferry_last_error());
	return 1;
}

int main(int argc, char **argv)
{
	size_t mib = argc > 1 ? strtoul(argv[1], NULL, 10) : 64;
	size_t n = (mib << 20) / sizeof(uint32_t);
	uint32_t *array = malloc(n * sizeof *array);
	struct ferry_stats stats = {.size = sizeof stats};
	struct ferry *ferry;
	size_t wrong = 0;

	if (array == NULL || n == 0) {
		fprintf(stderr, "usage: 02-adopt [MIB]   (no memory for %zu MiB)\n", mib);
		return 1;
	}
	for (size_t i = 0; i < n; i++)
		array[i] = (uint32_t)i * 2654435761u;

	/* The size of the budget comes from FERRY_LOCAL; a quarter of the array when that is not set. */
	char local[32];

	snprintf(local, sizeof local, "%zuM", mib / 4 < 8 ? 8 : mib / 4);
	setenv("FERRY_LOCAL", local, 0);
	if (ferry_open(NULL, &ferry) != 0)
		return fail("open");

	/* Whole pages only: malloc's own header in front of the array stays out of it. */
	uintptr_t start = ((uintptr_t)array + PAGE - 1) & ~(PAGE - 1);
	uintptr_t end = (uintptr_t)(array + n) & ~(PAGE - 1);

	if (ferry_adopt(ferry, (void *)start, end - start, 0) != 0)
		return fail("adopt");

	for (size_t i = 0; i < n; i++)
		array[i] += 1;
	for (size_t i = 0; i < n; i++)
		wrong += array[i] != (uint32_t)i * 2654435761u + 1;

	ferry_stats(ferry, &stats);
	printf("adopted %zu MiB, budget %" PRIu64 " MiB, at most %" PRIu64 " MiB resident, %" PRIu64
	       " faults, %zu wrong\n",
	       (end - start) >> 20, stats.budget_bytes >> 20, stats.peak_resident_bytes >> 20, stats.faults,
	       wrong);

	/* Everything comes home; from here on it is plain malloc'ed memory again. */
	if (ferry_unadopt(ferry, (void *)start, end - start) != 0)
		return fail("unadopt");
	if (ferry_close(ferry) != 0)
		return fail("close");
	free(array);
	return wrong != 0;
}
