/* cpu/head_norm.c — RMSNorm of each head's slice of a row, and its backward: ref/norm.c to the bit.
 *
 * A slice lies in L1 between its passes. The backward's task is a block of TL_KB slices: it makes their dx and, while
 * they are at hand, its part of the gain's gradient; the parts are added in order when all are there. */
#include <assert.h>
#include <math.h>
#include <string.h>
#include "kernels/cpu/cut.h"
#include "kernels/simd.h"

typedef struct head_job {
    float *out, *rstd;
    const float *x, *gain;
    int64_t ldo, ldx, R, rows;
    float gain_add, eps;
    int heads, D;
} head_job;

static void head_norm_rows(void *user, int64_t i, int worker) {
    const head_job *a = user;
    const int D = a->D, tail = D % 16, whole = D - tail;
    const v16 more = v16_set1(a->gain_add);
    for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->R); r++)
        for (int64_t h = 0; h < a->heads; h++) {
            const float *x = a->x + r * a->ldx + h * D;
            float *out = a->out + r * a->ldo + h * D;
            v16 lane = v16_zero();
            for (int d = 0; d < whole; d += 16) {
                const v16 s = v16_load(x + d);
                lane = v16_fma(s, s, lane);
            }
            if (tail) { /* absent elements add nothing */
                const v16 s = v16_load_n(x + whole, tail);
                lane = v16_select(m16_first(tail), v16_fma(s, s, lane), lane);
            }
            const float rstd = 1.0f / sqrtf(v16_sum(lane) / (float)D + a->eps);
            if (a->rstd) a->rstd[r * a->heads + h] = rstd;
            const v16 scale = v16_set1(rstd);
            for (int d = 0; d < whole; d += 16)
                v16_store(out + d, v16_mul(v16_mul(v16_load(x + d), scale), v16_add(v16_load(a->gain + d), more)));
            if (tail) {
                const v16 gain = v16_add(v16_load_n(a->gain + whole, tail), more);
                v16_store_n(out + whole, v16_mul(v16_mul(v16_load_n(x + whole, tail), scale), gain), tail);
            }
        }
}

static void head_norm(tl_ctx *ctx, float *out, int64_t ldo, float *rstd, const float *x, int64_t ldx, const float *gain,
                      float gain_add, float eps, int R, int heads, int D) {
    head_job job = {.out = out,
                    .rstd = rstd,
                    .x = x,
                    .gain = gain,
                    .ldo = ldo,
                    .ldx = ldx,
                    .R = R,
                    .rows = tl_piece_rows((int64_t)heads * D),
                    .gain_add = gain_add,
                    .eps = eps,
                    .heads = heads,
                    .D = D};
    tl__parallel_for(ctx->pool, tl_pieces(R, job.rows), head_norm_rows, &job);
}

typedef struct backward_job {
    float *dx, *part; /* part[block][D] of dgain */
    const float *dout, *x, *rstd, *gain;
    int64_t lddx, lddout, ldx, slices, block0;
    float gain_add;
    int heads, D;
} backward_job;

/* One slice: dx written, its addends put on dgain. */
TL_INLINE void backward_slice(const backward_job *a, float *dx, float *dgain, const float *dout, const float *x,
                              float rstd1) {
    const int D = a->D, tail = D % 16, whole = D - tail;
    const v16 rstd = v16_set1(rstd1), more = v16_set1(a->gain_add);
    v16 lane = v16_zero();
    for (int d = 0; d < whole; d += 16) {
        const v16 u = v16_mul(v16_add(v16_load(a->gain + d), more), v16_load(dout + d));
        lane = v16_fma(u, v16_mul(v16_load(x + d), rstd), lane);
    }
    if (tail) {
        const v16 u = v16_mul(v16_add(v16_load_n(a->gain + whole, tail), more), v16_load_n(dout + whole, tail));
        lane = v16_select(m16_first(tail), v16_fma(u, v16_mul(v16_load_n(x + whole, tail), rstd), lane), lane);
    }
    const v16 mean = v16_set1(v16_sum(lane) / (float)D);
    for (int d = 0; d < whole; d += 16) {
        const v16 g = v16_load(dout + d), u = v16_mul(v16_add(v16_load(a->gain + d), more), g);
        const v16 xhat = v16_mul(v16_load(x + d), rstd);
        v16_store(dx + d, v16_mul(rstd, v16_fnma(xhat, mean, u)));
        v16_store(dgain + d, v16_fma(g, xhat, v16_load(dgain + d)));
    }
    if (tail) {
        const v16 g = v16_load_n(dout + whole, tail), xhat = v16_mul(v16_load_n(x + whole, tail), rstd);
        const v16 u = v16_mul(v16_add(v16_load_n(a->gain + whole, tail), more), g);
        v16_store_n(dx + whole, v16_mul(rstd, v16_fnma(xhat, mean, u)), tail);
        v16_store_n(dgain + whole, v16_fma(g, xhat, v16_load_n(dgain + whole, tail)), tail);
    }
}

static void backward_block(void *user, int64_t i, int worker) {
    const backward_job *a = user;
    const int64_t k0 = (a->block0 + i) * TL_KB, k1 = tl_least(k0 + TL_KB, a->slices);
    float *dgain = a->part + i * a->D;
    memset(dgain, 0, (size_t)a->D * sizeof *dgain);
    int64_t r = k0 / a->heads, h = k0 % a->heads;
    for (int64_t k = k0; k < k1; k++) {
        backward_slice(a, a->dx + r * a->lddx + h * a->D, dgain, a->dout + r * a->lddout + h * a->D,
                       a->x + r * a->ldx + h * a->D, a->rstd[k]);
        if (++h == a->heads) h = 0, r++;
    }
}

static void head_norm_backward(tl_ctx *ctx, float *dx, int64_t lddx, float *dgain, const float *dout, int64_t lddout,
                               const float *x, int64_t ldx, const float *rstd, const float *gain, float gain_add, int R,
                               int heads, int D) {
    backward_job job = {.dx = dx,
                        .part = (float *)ctx->workspace,
                        .dout = dout,
                        .x = x,
                        .rstd = rstd,
                        .gain = gain,
                        .lddx = lddx,
                        .lddout = lddout,
                        .ldx = ldx,
                        .slices = (int64_t)R * heads,
                        .gain_add = gain_add,
                        .heads = heads,
                        .D = D};
    const int64_t blocks = tl_pieces(job.slices, TL_KB);
    const int64_t group = (int64_t)(TL_WORKSPACE_PER_WORKER_BYTES / sizeof(float)) / D;
    assert(group >= 1); /* a million wide: its matrices would not fit any memory */
    for (; job.block0 < blocks; job.block0 += group) {
        const int64_t count = tl_least(group, blocks - job.block0);
        tl__parallel_for(ctx->pool, count, backward_block, &job);
        for (int64_t i = 0; i < count; i++)
            for (int d = 0; d < D; d++) dgain[d] += job.part[i * D + d];
    }
}

void TL_NAME(ops_head_norm)(tl_ops *ops) {
    ops->head_norm = head_norm;
    ops->head_norm_backward = head_norm_backward;
}
