/* span.h — what the engine thread spends its time on: a flat list of (what, when, how long, shape, FLOPs, bytes).
 *
 * One recorder per engine thread, memory fixed at opening, cheap enough to be always on. Each span belongs to a ledger
 * bucket; exclusive seconds, FLOPs and bytes are added up per bucket as spans close (a child's time is taken from its
 * parent), so a step's buckets plus the unattributed rest equal the wall. The list itself is a ring for trace.json. */
#ifndef TL_BASE_SPAN_H
#define TL_BASE_SPAN_H

#include <stdbool.h>
#include "base/error.h"

typedef enum tl_bucket {                   /* the ledger's rows, in the order they are shown */
                         TL_BUCKET_MATMUL, /* every product with a weight, forward and backward */
                         TL_BUCKET_ATTENTION,
                         TL_BUCKET_NORM,
                         TL_BUCKET_ELEMENTWISE, /* activations, RoPE, residual sums, K/V store */
                         TL_BUCKET_EMBED,
                         TL_BUCKET_LOSS,       /* softmax and cross-entropy, without the vocabulary product */
                         TL_BUCKET_SAMPLE,     /* drawing tokens, and the log-probabilities that are told of them */
                         TL_BUCKET_OPTIMIZER,  /* norm, clipping, AdamW */
                         TL_BUCKET_COMM,       /* exposed communication */
                         TL_BUCKET_DATA,       /* waiting for a batch */
                         TL_BUCKET_EVAL,       /* validation */
                         TL_BUCKET_CHECKPOINT, /* stalls for the checkpoint writer */
                         TL_BUCKET_LOG,        /* metrics, progress line */
                         TL_BUCKET_OTHER,      /* the unattributed rest; never given to a span */
                         TL_BUCKETS
} tl_bucket;

const char *tl__bucket_name(tl_bucket bucket); /* "matmul", "attention", … */

typedef struct tl_span {
    const char *name; /* static string: "linear", "attention_backward", … */
    int64_t start_ns, duration_ns;
    int32_t bucket, depth, step, layer; /* layer −1: none */
    int64_t shape[3];                   /* as the operator names them; 0 = unused */
    double flops, bytes;
    bool bf16;     /* the FLOPs are bf16's */
    bool backward; /* between two tl__spans_backward */
} tl_span;

typedef struct tl_totals { /* since the last tl__spans_take */
    double seconds[TL_BUCKETS], flops[TL_BUCKETS], bytes[TL_BUCKETS];
    double bf16_flops[TL_BUCKETS];       /* part of flops */
    double backward_seconds[TL_BUCKETS]; /* part of seconds: in backward passes, behind which ranks exchange */
    double wall_seconds;
} tl_totals;

typedef struct tl_spans tl_spans;

int tl__spans_open(tl_spans **spans, int capacity, tl_error *err);
void tl__spans_close(tl_spans *spans);
/* NULL spans: no-ops. Depth at most 16. Whether spans are kept for the trace (totals are always added up). */
void tl__span_begin(tl_spans *spans, const char *name, tl_bucket bucket);
/* The FLOPs of the innermost open span are bf16's. */
void tl__span_bf16(tl_spans *spans);
/* Closes the innermost open span. */
void tl__span_end(tl_spans *spans, double flops, double bytes, int64_t s0, int64_t s1, int64_t s2);
void tl__spans_set(tl_spans *spans, int step, int layer); /* stamped on the spans that follow; step −1: as it was */
void tl__spans_backward(tl_spans *spans, bool backward); /* a backward pass begins, or is over */
void tl__spans_keep(tl_spans *spans, bool keep);
/* Totals since the last take, OTHER = wall − everything else; starts anew. Asserts that no span is open. */
tl_totals tl__spans_take(tl_spans *spans);
/* sum += more, every member. */
void tl__totals_add(tl_totals *sum, const tl_totals *more);
/* The kept spans, oldest first: count returned; *first set to a malloc-free view (ring unrolled in place when full). */
int tl__spans_list(tl_spans *spans, const tl_span **first);

#endif
