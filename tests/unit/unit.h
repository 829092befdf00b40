/* What every unit test needs: cmocka with its own needs, and repeatable random numbers. */
#ifndef FERRYT_UNIT_H
#define FERRYT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct ferryt_rand {
	uint64_t state; /* never 0 */
};

/* xorshift64* */
static inline uint64_t ferryt_rand_next(struct ferryt_rand *r)
{
	r->state ^= r->state >> 12;
	r->state ^= r->state << 25;
	r->state ^= r->state >> 27;
	return r->state * 0x2545F4914F6CDD1DULL;
}

/* Below limit, which is not 0. */
static inline uint64_t ferryt_rand_below(struct ferryt_rand *r, uint64_t limit)
{
	return (ferryt_rand_next(r) >> 16) % limit;
}

#endif
