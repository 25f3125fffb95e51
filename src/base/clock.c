/* clock.c — the only place that asks the operating system for the time. */
#include "base/clock.h"

#include <time.h>

int64_t tl__now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void tl__utc_iso8601(char *out, size_t size) {
    struct tm tm;
    time_t now = time(NULL);
    gmtime_r(&now, &tm);
    if (!strftime(out, size, "%Y-%m-%dT%H:%M:%SZ", &tm) && size) out[0] = 0;
}
