/* trace.h — spans as a Chrome/Perfetto trace (JSON object form: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU),
 * timestamps in microseconds, args carrying step, layer, shape, FLOPs, bytes. */
#ifndef TL_OBSERVE_TRACE_H
#define TL_OBSERVE_TRACE_H

#include "base/span.h"

int tl__trace_write(const char *path, const tl_span *spans, int n, int rank, const char *process_name, tl_error *err);

#endif
