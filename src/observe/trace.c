/* trace.c — owns the writing of trace.json: spans as complete events ("ph":"X") of the Chrome trace format, which
 * Perfetto opens. One process a rank. The file appears whole or not at all. */
#include "observe/trace.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include "base/json.h"
#include "io/file.h"

/* The longest event: names are our own short strings, numbers have a largest length. */
#define EVENT_BYTES 1024

static int put(tl_sink *sink, const char *bytes, int n, tl_error *err) {
    assert(n >= 0 && n < EVENT_BYTES);
    return tl__sink_write(sink, bytes, (size_t)n, err);
}

static int write_span(tl_sink *sink, const tl_span *s, int rank, tl_error *err) {
    char out[EVENT_BYTES];
    int n = snprintf(out, sizeof out,
                     ",\n{\"name\":\"%.64s\",\"cat\":\"%s\",\"ph\":\"X\",\"ts\":%lld.%03d,\"dur\":%lld.%03d,\"pid\":%d,"
                     "\"tid\":0,\"args\":{\"step\":%d",
                     s->name, tl__bucket_name(s->bucket), (long long)(s->start_ns / 1000), (int)(s->start_ns % 1000),
                     (long long)(s->duration_ns / 1000), (int)(s->duration_ns % 1000), rank, s->step);
    if (s->layer >= 0) n += snprintf(out + n, sizeof out - (size_t)n, ",\"layer\":%d", s->layer);
    int dims = s->shape[2] ? 3 : s->shape[1] ? 2 : s->shape[0] ? 1 : 0;
    for (int i = 0; i < dims; i++)
        n += snprintf(out + n, sizeof out - (size_t)n, "%s%lld%s", i ? "," : ",\"shape\":[", (long long)s->shape[i],
                      i == dims - 1 ? "]" : "");
    if (s->flops > 0 && isfinite(s->flops))
        n += snprintf(out + n, sizeof out - (size_t)n, ",\"flops\":%.15g", s->flops);
    if (s->bytes > 0 && isfinite(s->bytes))
        n += snprintf(out + n, sizeof out - (size_t)n, ",\"bytes\":%.15g", s->bytes);
    if (s->duration_ns > 0 && s->flops > 0 && isfinite(s->flops))
        n +=
            snprintf(out + n, sizeof out - (size_t)n, ",\"gflops_per_second\":%.4g", s->flops / (double)s->duration_ns);
    if (s->int8) n += snprintf(out + n, sizeof out - (size_t)n, ",\"dtype\":\"int8\"");
    if (s->bf16) n += snprintf(out + n, sizeof out - (size_t)n, ",\"dtype\":\"bf16\"");
    n += snprintf(out + n, sizeof out - (size_t)n, "}}");
    return put(sink, out, n, err);
}

static int write_all(tl_sink *sink, const tl_span *spans, int n, int rank, const char *process_name, tl_error *err) {
    char out[EVENT_BYTES], name[512];
    if (tl__json_quote(name, sizeof name, process_name, __builtin_strlen(process_name)) < 0)
        snprintf(name, sizeof name, "\"trilith\"");
    int len =
        snprintf(out, sizeof out,
                 "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%d,"
                 "\"tid\":0,\"args\":{\"name\":%.*s}},\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":0,"
                 "\"args\":{\"name\":\"engine\"}}",
                 rank, (int)sizeof name, name, rank);
    int rc = put(sink, out, len, err);
    for (int i = 0; i < n && rc == 0; i++) rc = write_span(sink, &spans[i], rank, err);
    return rc ? rc : put(sink, "\n]}\n", 4, err);
}

int tl__trace_write(const char *path, const tl_span *spans, int n, int rank, const char *process_name, tl_error *err) {
    tl_sink *sink;
    int rc = tl__sink_open(&sink, path, err);
    if (rc) return rc;
    rc = write_all(sink, spans, n, rank, process_name ? process_name : "trilith", err);
    if (rc) {
        tl__sink_abandon(sink);
        return rc;
    }
    return tl__sink_publish(sink, err);
}
