/*
 * For a program whose body calls exit(3) with ferry open, in one file of it.
 * LeakSanitizer looks at exit, and does not see that the library's own tables,
 * which are no heap, hold its heap.
 */
#ifndef FERRYT_EXITS_OPEN_H
#define FERRYT_EXITS_OPEN_H

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#include <stdbool.h>

static bool ferryt_exits_open;

__attribute__((visibility("default"))) int __lsan_is_turned_off(void)
{
	return ferryt_exits_open;
}
#define FERRYT_EXITS_OPEN() (ferryt_exits_open = true)
#else
#define FERRYT_EXITS_OPEN() (void)0
#endif

#endif
