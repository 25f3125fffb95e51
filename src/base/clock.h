/* clock.h — monotonic nanoseconds, and the date for file headers. */
#ifndef TL_BASE_CLOCK_H
#define TL_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

int64_t tl__now_ns(void);                     /* CLOCK_MONOTONIC */
void tl__utc_iso8601(char *out, size_t size); /* "2026-01-31T12:34:56Z" */

#endif
