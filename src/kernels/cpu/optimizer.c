/* cpu/optimizer.c — the sum of squares, AdamW and the blend: ref/optimizer.c to the bit. Each number is read once, and
 * w, m and v are written once: the limit is memory. */
#include <math.h>
#include "kernels/cpu/cut.h"
#include "kernels/simd.h"

#define CHUNK 4096                      /* elements that the contract sums by lanes */
#define PIECE_CHUNKS (TL_PIECE / CHUNK) /* chunks of a task */

typedef struct squares_job {
    const float *x;
    double *chunk; /* [chunks] in the workspace */
    int64_t n;
} squares_job;

/* Four chunks side by side would hide more latency; one already keeps up with memory. */
static double chunk_squares(const float *x, int64_t n) {
    d16 lane = d16_zero();
    int64_t k = 0;
    for (; k + 16 <= n; k += 16) {
        d16 d = d16_from(v16_load(x + k));
        lane = d16_fma(d, d, lane);
    }
    if (k < n) { /* absent elements are +0, and their squares change no lane */
        d16 d = d16_from(v16_load_n(x + k, (int)(n - k)));
        lane = d16_fma(d, d, lane);
    }
    return d16_sum(lane);
}

static void squares_piece(void *user, int64_t i, int worker) {
    const squares_job *a = user;
    for (int64_t c = i * PIECE_CHUNKS; c < (i + 1) * PIECE_CHUNKS && c * CHUNK < a->n; c++)
        a->chunk[c] = chunk_squares(a->x + c * CHUNK, tl_least(CHUNK, a->n - c * CHUNK));
}

static double sum_squares(tl_ctx *ctx, const float *x, int64_t n) {
    const int64_t group = (int64_t)(TL_WORKSPACE_PER_WORKER_BYTES / sizeof(double)) * CHUNK;
    double total = 0;
    for (int64_t k = 0; k < n; k += group) {
        squares_job job = {x + k, (double *)ctx->workspace, tl_least(group, n - k)};
        tl__parallel_for(ctx->pool, tl_pieces(job.n, TL_PIECE), squares_piece, &job);
        for (int64_t c = 0; c < tl_pieces(job.n, CHUNK); c++) total += job.chunk[c];
    }
    return total;
}

typedef struct adamw_job {
    float *w, *m, *v;
    const float *g;
    int64_t n;
    float grad_scale, keep, to_m, to_v, beta2, step_size, inv_sqrt_correction2, eps;
} adamw_job;

/* Scalars are broadcast here: in registers across the loop, once this is inlined. */
TL_INLINE void adamw16(const adamw_job *a, v16 *w, v16 *m, v16 *v, v16 g) {
    const v16 d = v16_mul(g, v16_set1(a->grad_scale));
    const v16 decayed = v16_mul(*w, v16_set1(a->keep));
    *m = v16_fma(v16_set1(a->to_m), v16_sub(d, *m), *m);
    *v = v16_fma(v16_mul(v16_set1(a->to_v), d), d, v16_mul(v16_set1(a->beta2), *v));
    const v16 denom = v16_fma(v16_sqrt(*v), v16_set1(a->inv_sqrt_correction2), v16_set1(a->eps));
    *w = v16_sub(decayed, v16_div(v16_mul(v16_set1(a->step_size), *m), denom));
}

static void adamw_piece(void *user, int64_t i, int worker) {
    const adamw_job job = *(const adamw_job *)user, *a = &job;
    int64_t k = i * TL_PIECE;
    const int64_t end = tl_least(k + TL_PIECE, a->n);
    for (; k + 16 <= end; k += 16) {
        v16 w = v16_load(a->w + k), m = v16_load(a->m + k), v = v16_load(a->v + k);
        adamw16(a, &w, &m, &v, v16_load(a->g + k));
        v16_store(a->w + k, w);
        v16_store(a->m + k, m);
        v16_store(a->v + k, v);
    }
    if (k < end) {
        const int n = (int)(end - k);
        v16 w = v16_load_n(a->w + k, n), m = v16_load_n(a->m + k, n), v = v16_load_n(a->v + k, n);
        adamw16(a, &w, &m, &v, v16_load_n(a->g + k, n));
        v16_store_n(a->w + k, w, n);
        v16_store_n(a->m + k, m, n);
        v16_store_n(a->v + k, v, n);
    }
}

static void adamw(tl_ctx *ctx, float *w, float *m, float *v, const float *g, int64_t n, const tl_adamw *hyper) {
    adamw_job job = {.w = w,
                     .m = m,
                     .v = v,
                     .g = g,
                     .n = n,
                     .grad_scale = hyper->grad_scale,
                     .keep = (float)(1.0 - (double)hyper->lr * hyper->weight_decay),
                     .to_m = (float)(1.0 - hyper->beta1),
                     .to_v = (float)(1.0 - hyper->beta2),
                     .beta2 = (float)hyper->beta2,
                     .step_size = hyper->step_size,
                     .inv_sqrt_correction2 = hyper->inv_sqrt_correction2,
                     .eps = hyper->eps};
    tl__parallel_for(ctx->pool, tl_pieces(n, TL_PIECE), adamw_piece, &job);
}

typedef struct blend_job {
    float *y;
    const float *x;
    int64_t ldy, ldx, R, C;
    float s, t;
} blend_job;

static void blend_run(float *y, const float *x, float s, float t, int64_t n) {
    const v16 s16 = v16_set1(s), t16 = v16_set1(t);
    int64_t k = 0;
    if (t == 0) {
        for (; k + 16 <= n; k += 16) v16_store(y + k, v16_mul(s16, v16_load(x + k)));
        if (k < n) v16_store_n(y + k, v16_mul(s16, v16_load_n(x + k, (int)(n - k))), (int)(n - k));
        return;
    }
    for (; k + 16 <= n; k += 16) v16_store(y + k, v16_fma(s16, v16_load(x + k), v16_mul(t16, v16_load(y + k))));
    if (k < n) {
        const int rest = (int)(n - k);
        const v16 scaled = v16_mul(t16, v16_load_n(y + k, rest));
        v16_store_n(y + k, v16_fma(s16, v16_load_n(x + k, rest), scaled), rest);
    }
}

/* Whole rows, or pieces of a long one. */
static void blend_piece(void *user, int64_t i, int worker) {
    const blend_job *a = user;
    if (a->C > TL_PIECE) {
        const int64_t pieces = tl_pieces(a->C, TL_PIECE), r = i / pieces, k = i % pieces * TL_PIECE;
        blend_run(a->y + r * a->ldy + k, a->x + r * a->ldx + k, a->s, a->t, tl_least(TL_PIECE, a->C - k));
        return;
    }
    const int64_t rows = tl_piece_rows(a->C), end = tl_least((i + 1) * rows, a->R);
    for (int64_t r = i * rows; r < end; r++) blend_run(a->y + r * a->ldy, a->x + r * a->ldx, a->s, a->t, a->C);
}

static void blend(tl_ctx *ctx, float *y, int64_t ldy, float t, const float *x, int64_t ldx, float s, int64_t R,
                  int64_t C) {
    blend_job job = {y, x, ldy, ldx, R, C, s, t};
    if (ldy == C && ldx == C) job.R = 1, job.C = R * C; /* one long row */
    const int64_t tasks =
        job.C > TL_PIECE ? job.R * tl_pieces(job.C, TL_PIECE) : tl_pieces(job.R, tl_piece_rows(job.C));
    tl__parallel_for(ctx->pool, tasks, blend_piece, &job);
}

void TL_NAME(ops_optimizer)(tl_ops *ops) {
    ops->sum_squares = sum_squares;
    ops->adamw = adamw;
    ops->blend = blend;
}
