/* span.c — owns the recorder of spans: an open stack, totals by bucket in whole nanoseconds, and a ring of what was
 * kept.
 *
 * Promises: memory is taken once, at opening; begin and end are one clock reading each and touch no lock; every
 * nanosecond between two takes lands in exactly one bucket, so the buckets and OTHER add up to the wall without
 * rounding.
 *
 * Invariants
 *   S1  0 ≤ depth ≤ MAX_DEPTH, and the open spans are open[0 … depth−1], outermost first.
 *   S2  a span's children lie within it, so child_ns ≤ its duration.
 *   S3  0 ≤ held ≤ capacity; when held < capacity the oldest kept span is ring[0], else ring[next]. */
#include "base/span.h"

#include <assert.h>
#include <stdlib.h>
#include "base/clock.h"

#define MAX_DEPTH 16

typedef struct open_span {
    const char *name;
    int64_t start_ns, child_ns;
    int32_t bucket, step, layer;
    bool bf16;
} open_span;

struct tl_spans {
    tl_span *ring;
    int capacity, held, next;
    bool keep, backward;
    int depth;
    int32_t step, layer;
    int64_t since_ns;             /* when the running totals began */
    int64_t spent_ns[TL_BUCKETS]; /* exclusive */
    int64_t backward_ns[TL_BUCKETS];
    double flops[TL_BUCKETS], bf16_flops[TL_BUCKETS], bytes[TL_BUCKETS];
    open_span open[MAX_DEPTH];
};

const char *tl__bucket_name(tl_bucket bucket) {
    static const char *const names[TL_BUCKETS] = {
        [TL_BUCKET_MATMUL] = "matmul",
        [TL_BUCKET_ATTENTION] = "attention",
        [TL_BUCKET_NORM] = "norm",
        [TL_BUCKET_ELEMENTWISE] = "elementwise",
        [TL_BUCKET_EMBED] = "embed",
        [TL_BUCKET_LOSS] = "loss",
        [TL_BUCKET_SAMPLE] = "sample",
        [TL_BUCKET_OPTIMIZER] = "optimizer",
        [TL_BUCKET_COMM] = "comm",
        [TL_BUCKET_DATA] = "data",
        [TL_BUCKET_EVAL] = "eval",
        [TL_BUCKET_CHECKPOINT] = "checkpoint",
        [TL_BUCKET_LOG] = "log",
        [TL_BUCKET_OTHER] = "other",
    };
    assert(bucket >= 0 && bucket < TL_BUCKETS);
    return names[bucket];
}

int tl__spans_open(tl_spans **spans, int capacity, tl_error *err) {
    *spans = NULL;
    if (capacity < 1)
        return tl__fail(err, TL_EINVALID, "A span recorder needs room for at least one span, not %d; ask for more.",
                        capacity);
    tl_spans *s = calloc(1, sizeof *s);
    tl_span *ring = calloc((size_t)capacity, sizeof *ring);
    if (!s || !ring) {
        free(s);
        free(ring);
        return tl__fail(err, TL_ENOMEM, "No memory for %d spans of %zu bytes; record fewer.", capacity, sizeof *ring);
    }
    s->ring = ring;
    s->capacity = capacity;
    s->layer = -1;
    s->since_ns = tl__now_ns();
    *spans = s;
    return 0;
}

void tl__spans_close(tl_spans *spans) {
    if (!spans) return;
    free(spans->ring);
    free(spans);
}

void tl__span_begin(tl_spans *spans, const char *name, tl_bucket bucket) {
    if (!spans) return;
    assert(spans->depth < MAX_DEPTH);                /* S1 */
    assert(bucket >= 0 && bucket < TL_BUCKET_OTHER); /* OTHER is what no span claims */
    spans->open[spans->depth++] = (open_span){
        .name = name, .start_ns = tl__now_ns(), .bucket = bucket, .step = spans->step, .layer = spans->layer};
}

void tl__span_bf16(tl_spans *spans) {
    if (!spans) return;
    assert(spans->depth > 0); /* S1 */
    spans->open[spans->depth - 1].bf16 = true;
}

void tl__span_end(tl_spans *spans, double flops, double bytes, int64_t s0, int64_t s1, int64_t s2) {
    if (!spans) return;
    assert(spans->depth > 0); /* S1 */
    const open_span *o = &spans->open[--spans->depth];
    int64_t duration_ns = tl__now_ns() - o->start_ns;
    assert(o->child_ns <= duration_ns); /* S2 */
    if (spans->depth > 0) spans->open[spans->depth - 1].child_ns += duration_ns;
    spans->spent_ns[o->bucket] += duration_ns - o->child_ns;
    if (spans->backward) spans->backward_ns[o->bucket] += duration_ns - o->child_ns;
    spans->flops[o->bucket] += flops;
    if (o->bf16) spans->bf16_flops[o->bucket] += flops;
    spans->bytes[o->bucket] += bytes;
    if (!spans->keep) return;
    spans->ring[spans->next] = (tl_span){.name = o->name,
                                         .start_ns = o->start_ns,
                                         .duration_ns = duration_ns,
                                         .bucket = o->bucket,
                                         .depth = spans->depth,
                                         .step = o->step,
                                         .layer = o->layer,
                                         .shape = {s0, s1, s2},
                                         .flops = flops,
                                         .bytes = bytes,
                                         .bf16 = o->bf16,
                                         .backward = spans->backward};
    spans->next = spans->next + 1 == spans->capacity ? 0 : spans->next + 1;
    if (spans->held < spans->capacity) spans->held++; /* S3 */
}

void tl__spans_set(tl_spans *spans, int step, int layer) {
    if (!spans) return;
    if (step >= 0) spans->step = step;
    spans->layer = layer;
}

void tl__spans_backward(tl_spans *spans, bool backward) {
    if (spans) spans->backward = backward;
}

void tl__spans_keep(tl_spans *spans, bool keep) {
    if (spans) spans->keep = keep;
}

tl_totals tl__spans_take(tl_spans *spans) {
    tl_totals totals = {0};
    if (!spans) return totals;
    assert(spans->depth == 0); /* a span across two takes would be counted in the wrong one */
    int64_t now_ns = tl__now_ns();
    int64_t wall_ns = now_ns - spans->since_ns, rest_ns = wall_ns;
    for (int b = 0; b < TL_BUCKET_OTHER; b++) {
        rest_ns -= spans->spent_ns[b];
        totals.seconds[b] = (double)spans->spent_ns[b] * 1e-9;
        totals.flops[b] = spans->flops[b];
        totals.bf16_flops[b] = spans->bf16_flops[b];
        totals.bytes[b] = spans->bytes[b];
        totals.backward_seconds[b] = (double)spans->backward_ns[b] * 1e-9;
        spans->spent_ns[b] = spans->backward_ns[b] = 0;
        spans->flops[b] = spans->bf16_flops[b] = spans->bytes[b] = 0;
    }
    assert(rest_ns >= 0);
    totals.seconds[TL_BUCKET_OTHER] = (double)rest_ns * 1e-9;
    totals.wall_seconds = (double)wall_ns * 1e-9;
    spans->since_ns = now_ns;
    return totals;
}

void tl__totals_add(tl_totals *sum, const tl_totals *more) {
    for (int b = 0; b < TL_BUCKETS; b++) {
        sum->seconds[b] += more->seconds[b];
        sum->flops[b] += more->flops[b];
        sum->bf16_flops[b] += more->bf16_flops[b];
        sum->bytes[b] += more->bytes[b];
        sum->backward_seconds[b] += more->backward_seconds[b];
    }
    sum->wall_seconds += more->wall_seconds;
}

static void reverse(tl_span *a, int n) {
    for (int i = 0, j = n - 1; i < j; i++, j--) {
        tl_span t = a[i];
        a[i] = a[j];
        a[j] = t;
    }
}

int tl__spans_list(tl_spans *spans, const tl_span **first) {
    *first = NULL;
    if (!spans) return 0;
    if (spans->held == spans->capacity && spans->next != 0) { /* rotate left by next: three reversals, no copy */
        reverse(spans->ring, spans->next);
        reverse(spans->ring + spans->next, spans->capacity - spans->next);
        reverse(spans->ring, spans->capacity);
        spans->next = 0;
    }
    *first = spans->ring;
    return spans->held;
}
