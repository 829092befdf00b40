/* Monotonic time and deadlines, in nanoseconds of CLOCK_MONOTONIC. Any thread; async-signal-safe. */
#ifndef FERRYI_BASE_CLOCK_H
#define FERRYI_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define FERRYI_NS_PER_US 1000ULL
#define FERRYI_NS_PER_MS 1000000ULL
#define FERRYI_NS_PER_S  1000000000ULL

static inline uint64_t ferryi_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * FERRYI_NS_PER_S + (uint64_t)ts.tv_nsec;
}

static inline uint64_t ferryi_deadline_ms(uint64_t ms)
{
	return ferryi_now_ns() + ms * FERRYI_NS_PER_MS;
}

/* Milliseconds until the deadline, rounded up, for poll(2): 0 when it has passed. */
static inline int ferryi_remaining_ms(uint64_t deadline_ns)
{
	uint64_t now = ferryi_now_ns();

	if (deadline_ns <= now)
		return 0;
	uint64_t ms = (deadline_ns - now + FERRYI_NS_PER_MS - 1) / FERRYI_NS_PER_MS;

	return ms > 1000000 ? 1000000 : (int)ms;
}

static inline void ferryi_cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#endif
