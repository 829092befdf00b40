/* The first program: memory that may live on a memory server. No set-up needed: with no FERRY_SERVERS it
 * brings its own. */
#include <ferry.h>
#include <stdio.h>
#include <sys/mman.h>

int main(void)
{
	size_t n = (64u << 20) / sizeof(long); /* 64 MiB of longs ... */
	struct ferry *ferry;
	long *v, bad = 0;

	if (ferry_open(NULL, &ferry) != 0 ||
	    (v = ferry_mmap(ferry, NULL, n * sizeof *v, PROT_READ | PROT_WRITE, 0)) == MAP_FAILED) {
		fprintf(stderr, "01-hello: %s\n", ferry_last_error());
		return 1;
	}
	for (size_t i = 0; i < n; i++)
		v[i] = (long)i;
	ferry_advise(ferry, v, n * sizeof *v, FERRY_ADVICE_COLD); /* ... moved out to the server now ... */
	for (size_t i = 0; i < n; i++)
		bad += v[i] != (long)i; /* ... and back, page by page, by touching them */
	printf("hello: %zu MiB there and back, %ld wrong\n", n * sizeof *v >> 20, bad);
	ferry_munmap(ferry, v, n * sizeof *v);
	return ferry_close(ferry) != 0 || bad != 0;
}
