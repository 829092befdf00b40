/* What the files of the chaos run share. */
#ifndef FERRYT_CHAOS_H
#define FERRYT_CHAOS_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The machine is at fault, or the test: not what is tested. */
#define MUST(cond)                                                                           \
	do {                                                                                 \
		if (!(cond)) {                                                               \
			fprintf(stderr, "chaos: %s:%d: %s: %s\n", __FILE__, __LINE__, #cond, \
				strerror(errno));                                            \
			exit(2);                                                             \
		}                                                                            \
	} while (0)

/* xorshift64*; state may not be 0. */
static inline unsigned long long ferryt_random(unsigned long long *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}

#endif
