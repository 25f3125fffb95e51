/* cpu/norm.c — RMSNorm, LayerNorm and the sum of a bias gradient: ref/norm.c to the bit, at the speed of memory.
 *
 * A row is read once from memory; its later passes find it in L1 or L2. The gradient of a gain sums over rows: with
 * many blocks of TL_KB rows, a task is a block and sums gains while the row is at hand; with few, rows and then strips
 * of columns are the tasks, and the second reading comes from cache. Both add in the same order. */
#include <math.h>
#include <string.h>
#include "kernels/cpu/cut.h"
#include "kernels/simd.h"

#define STRIP 64      /* columns of a task that sums over rows: four registers of sixteen lanes */
#define MANY_BLOCKS 8 /* blocks of TL_KB rows from which blocks are the tasks */

/* lane, with the first n lanes replaced by `next`: absent elements add nothing. */
TL_INLINE v16 first_n(v16 lane, v16 next, int n) {
    return v16_select(m16_first(n), next, lane);
}

typedef struct columns_job {
    float *db;
    const float *dy;
    float *part; /* [blocks][N] while blocks are the tasks */
    int64_t ld, block0;
    int R, N;
} columns_job;

/* s[n] += Σ over rows of dy, one after the other: one stream, which the hardware foresees (four rows side by side read
 * at two thirds of its speed). */
TL_INLINE void columns_sum(float *s, const float *dy, int64_t ld, int rows, int n) {
    const int tail = n % 16, whole = n - tail;
    for (int r = 0; r < rows; r++, dy += ld) {
        for (int c = 0; c < whole; c += 16) v16_store(s + c, v16_add(v16_load(s + c), v16_load(dy + c)));
        if (tail) v16_store_n(s + whole, v16_add(v16_load_n(s + whole, tail), v16_load_n(dy + whole, tail)), tail);
    }
}

static void bias_backward_strip(void *user, int64_t i, int worker) {
    const columns_job *a = user;
    const int n0 = (int)i * STRIP, n = (int)tl_least(STRIP, a->N - n0);
    for (int r0 = 0; r0 < a->R; r0 += TL_KB) {
        float s[STRIP] = {0};
        columns_sum(s, a->dy + r0 * a->ld + n0, a->ld, (int)tl_least(TL_KB, a->R - r0), n);
        for (int c = 0; c < n; c++) a->db[n0 + c] += s[c];
    }
}
static void bias_backward_block(void *user, int64_t i, int worker) {
    const columns_job *a = user;
    const int64_t r0 = (a->block0 + i) * TL_KB;
    float *s = a->part + i * a->N;
    memset(s, 0, (size_t)a->N * sizeof *s);
    columns_sum(s, a->dy + r0 * a->ld, a->ld, (int)tl_least(TL_KB, a->R - r0), a->N);
}

static void bias_backward(tl_ctx *ctx, float *db, const float *dy, int64_t ld, int R, int N) {
    columns_job job = {.db = db, .dy = dy, .ld = ld, .R = R, .N = N};
    const int64_t blocks = tl_pieces(R, TL_KB);
    const int64_t group = (int64_t)(TL_WORKSPACE_PER_WORKER_BYTES / sizeof(float)) / (N ? N : 1);
    if (blocks < MANY_BLOCKS || group < MANY_BLOCKS) {
        tl__parallel_for(ctx->pool, tl_pieces(N, STRIP), bias_backward_strip, &job);
        return;
    }
    job.part = (float *)ctx->workspace;
    for (; job.block0 < blocks; job.block0 += group) {
        const int64_t count = tl_least(group, blocks - job.block0);
        tl__parallel_for(ctx->pool, count, bias_backward_block, &job);
        for (int64_t i = 0; i < count; i++)
            for (int n = 0; n < N; n++) db[n] += job.part[i * N + n];
    }
}

typedef struct norm_job {
    float *out, *sum, *mean, *rstd;
    const float *x, *y, *gain, *bias;
    float gain_add, eps;
    int64_t R, rows;
    int C;
} norm_job;

/* x + y (y may be NULL), put into `keep` unless it is NULL; *lane receives what the caller sums: squares or values. */
TL_INLINE v16 row_sum(float *keep, const float *x, const float *y, int C, bool squares) {
    v16 lane = v16_zero();
    int c = 0;
    for (; c + 16 <= C; c += 16) {
        v16 s = v16_load(x + c);
        if (y) s = v16_add(s, v16_load(y + c));
        if (keep) v16_store(keep + c, s);
        lane = squares ? v16_fma(s, s, lane) : v16_add(lane, s);
    }
    if (c < C) {
        const int n = C - c;
        v16 s = v16_load_n(x + c, n);
        if (y) s = v16_add(s, v16_load_n(y + c, n));
        if (keep) v16_store_n(keep + c, s, n);
        lane = first_n(lane, squares ? v16_fma(s, s, lane) : v16_add(lane, s), n);
    }
    return lane;
}

static void rmsnorm_rows(void *user, int64_t i, int worker) {
    const norm_job *a = user;
    const int C = a->C;
    for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->R); r++) {
        const float *x = a->x + r * C, *y = a->y ? a->y + r * C : NULL;
        float *out = a->out + r * C, *sum = a->sum ? a->sum + r * C : NULL;
        float *keep = sum ? sum : y ? out : NULL; /* without a sum, out holds x + y until it is normed in place */
        const float *s = keep ? keep : x;
        v16 lane = y      ? row_sum(keep, x, y, C, true)
                   : keep ? row_sum(keep, x, NULL, C, true)
                          : row_sum(NULL, x, NULL, C, true);
        const float scale = 1.0f / sqrtf(v16_sum(lane) / (float)C + a->eps);
        if (a->rstd) a->rstd[r] = scale;
        const v16 scale16 = v16_set1(scale), more = v16_set1(a->gain_add);
        int c = 0;
        for (; c + 16 <= C; c += 16)
            v16_store(out + c, v16_mul(v16_mul(v16_load(s + c), scale16), v16_add(v16_load(a->gain + c), more)));
        if (c < C) {
            const int n = C - c;
            const v16 gain = v16_add(v16_load_n(a->gain + c, n), more);
            v16_store_n(out + c, v16_mul(v16_mul(v16_load_n(s + c, n), scale16), gain), n);
        }
    }
}

static void rmsnorm(tl_ctx *ctx, float *out, float *sum, float *rstd, const float *x, const float *y, const float *gain,
                    float gain_add, float eps, int R, int C) {
    norm_job job = {.out = out,
                    .sum = sum,
                    .rstd = rstd,
                    .x = x,
                    .y = y,
                    .gain = gain,
                    .gain_add = gain_add,
                    .eps = eps,
                    .R = R,
                    .rows = tl_piece_rows(C),
                    .C = C};
    tl__parallel_for(ctx->pool, tl_pieces(R, job.rows), rmsnorm_rows, &job);
}

static void layernorm_rows(void *user, int64_t i, int worker) {
    const norm_job *a = user;
    const int C = a->C, tail = C % 16, whole = C - tail;
    for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->R); r++) {
        const float *x = a->x + r * C, *y = a->y ? a->y + r * C : NULL;
        float *out = a->out + r * C, *sum = a->sum ? a->sum + r * C : NULL;
        float *keep = sum ? sum : y ? out : NULL;
        const float *s = keep ? keep : x;
        v16 lane = y      ? row_sum(keep, x, y, C, false)
                   : keep ? row_sum(keep, x, NULL, C, false)
                          : row_sum(NULL, x, NULL, C, false);
        const float mean = v16_sum(lane) / (float)C;
        const v16 mean16 = v16_set1(mean);
        lane = v16_zero();
        for (int c = 0; c < whole; c += 16) {
            v16 d = v16_sub(v16_load(s + c), mean16);
            lane = v16_fma(d, d, lane);
        }
        if (tail) {
            v16 d = v16_sub(v16_load_n(s + whole, tail), mean16);
            lane = first_n(lane, v16_fma(d, d, lane), tail);
        }
        const float scale = 1.0f / sqrtf(v16_sum(lane) / (float)C + a->eps);
        if (a->mean) a->mean[r] = mean;
        if (a->rstd) a->rstd[r] = scale;
        const v16 scale16 = v16_set1(scale);
        for (int c = 0; c < whole; c += 16) {
            v16 xhat = v16_mul(v16_sub(v16_load(s + c), mean16), scale16);
            v16_store(out + c, v16_fma(xhat, v16_load(a->gain + c), v16_load(a->bias + c)));
        }
        if (tail) {
            v16 xhat = v16_mul(v16_sub(v16_load_n(s + whole, tail), mean16), scale16);
            v16_store_n(out + whole,
                        v16_fma(xhat, v16_load_n(a->gain + whole, tail), v16_load_n(a->bias + whole, tail)), tail);
        }
    }
}

static void layernorm(tl_ctx *ctx, float *out, float *sum, float *mean, float *rstd, const float *x, const float *y,
                      const float *gain, const float *bias, float eps, int R, int C) {
    norm_job job = {.out = out,
                    .sum = sum,
                    .mean = mean,
                    .rstd = rstd,
                    .x = x,
                    .y = y,
                    .gain = gain,
                    .bias = bias,
                    .eps = eps,
                    .R = R,
                    .rows = tl_piece_rows(C),
                    .C = C};
    tl__parallel_for(ctx->pool, tl_pieces(R, job.rows), layernorm_rows, &job);
}

/* Both backwards: mean is NULL for RMSNorm, which then has neither dbias nor the mean of gain∘dout. */
typedef struct backward_job {
    float *dx, *dgain, *dbias;
    const float *dout, *s, *mean, *rstd, *gain;
    float gain_add; /* 0 for LayerNorm */
    float *part;    /* [blocks][2][C] while blocks are the tasks */
    int64_t R, rows, block0;
    int C;
} backward_job;

/* The gain used: RMSNorm adds to the parameter. */
TL_INLINE v16 gain_at(const float *gain, v16 more, bool layer) {
    return layer ? v16_load(gain) : v16_add(v16_load(gain), more);
}
TL_INLINE v16 gain_at_n(const float *gain, v16 more, bool layer, int n) {
    return layer ? v16_load_n(gain, n) : v16_add(v16_load_n(gain, n), more);
}

/* One row: dx, and into dgain and dbias (may be NULL) this row's addends. */
TL_INLINE void backward_row(const backward_job *a, int64_t r, float *dgain, float *dbias, bool layer) {
    const int C = a->C, tail = C % 16, whole = C - tail;
    const float *dout = a->dout + r * C, *s = a->s + r * C, *gain = a->gain;
    float *dx = a->dx + r * C;
    const v16 rstd = v16_set1(a->rstd[r]), mean = layer ? v16_set1(a->mean[r]) : v16_zero();
    const v16 more = v16_set1(layer ? 0 : a->gain_add);
    v16 lane_a = v16_zero(), lane_ax = v16_zero();
    for (int c = 0; c < whole; c += 16) {
        v16 u = v16_mul(gain_at(gain + c, more, layer), v16_load(dout + c)), x = v16_load(s + c);
        v16 xhat = v16_mul(layer ? v16_sub(x, mean) : x, rstd);
        if (layer) lane_a = v16_add(lane_a, u);
        lane_ax = v16_fma(u, xhat, lane_ax);
    }
    if (tail) {
        v16 u = v16_mul(gain_at_n(gain + whole, more, layer, tail), v16_load_n(dout + whole, tail)),
            x = v16_load_n(s + whole, tail);
        v16 xhat = v16_mul(layer ? v16_sub(x, mean) : x, rstd);
        if (layer) lane_a = first_n(lane_a, v16_add(lane_a, u), tail);
        lane_ax = first_n(lane_ax, v16_fma(u, xhat, lane_ax), tail);
    }
    const v16 mean_a = v16_set1(layer ? v16_sum(lane_a) / (float)C : 0),
              mean_ax = v16_set1(v16_sum(lane_ax) / (float)C);
    for (int c = 0; c < whole; c += 16) {
        v16 d = v16_load(dout + c), u = v16_mul(gain_at(gain + c, more, layer), d), x = v16_load(s + c);
        v16 xhat = v16_mul(layer ? v16_sub(x, mean) : x, rstd);
        if (layer) u = v16_sub(u, mean_a);
        v16_store(dx + c, v16_fma(rstd, v16_fnma(xhat, mean_ax, u), v16_load(dx + c)));
        if (dgain) v16_store(dgain + c, v16_fma(d, xhat, v16_load(dgain + c)));
        if (dbias) v16_store(dbias + c, v16_add(v16_load(dbias + c), d));
    }
    if (tail) {
        const int c = whole;
        v16 d = v16_load_n(dout + c, tail), u = v16_mul(gain_at_n(gain + c, more, layer, tail), d),
            x = v16_load_n(s + c, tail);
        v16 xhat = v16_mul(layer ? v16_sub(x, mean) : x, rstd);
        if (layer) u = v16_sub(u, mean_a);
        v16_store_n(dx + c, v16_fma(rstd, v16_fnma(xhat, mean_ax, u), v16_load_n(dx + c, tail)), tail);
        if (dgain) v16_store_n(dgain + c, v16_fma(d, xhat, v16_load_n(dgain + c, tail)), tail);
        if (dbias) v16_store_n(dbias + c, v16_add(v16_load_n(dbias + c, tail), d), tail);
    }
}

static void rmsnorm_backward_block(void *user, int64_t i, int worker) {
    const backward_job *a = user;
    float *dgain = a->part + i * 2 * a->C;
    memset(dgain, 0, (size_t)a->C * sizeof *dgain);
    for (int64_t r = (a->block0 + i) * TL_KB; r < tl_least((a->block0 + i + 1) * TL_KB, a->R); r++)
        backward_row(a, r, dgain, NULL, false);
}
static void layernorm_backward_block(void *user, int64_t i, int worker) {
    const backward_job *a = user;
    float *dgain = a->part + i * 2 * a->C, *dbias = dgain + a->C;
    memset(dgain, 0, 2 * (size_t)a->C * sizeof *dgain);
    for (int64_t r = (a->block0 + i) * TL_KB; r < tl_least((a->block0 + i + 1) * TL_KB, a->R); r++)
        backward_row(a, r, dgain, dbias, true);
}

static void rmsnorm_backward_rows(void *user, int64_t i, int worker) {
    const backward_job *a = user;
    for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->R); r++) backward_row(a, r, NULL, NULL, false);
}
static void layernorm_backward_rows(void *user, int64_t i, int worker) {
    const backward_job *a = user;
    for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->R); r++) backward_row(a, r, NULL, NULL, true);
}

/* Sixteen columns × `width` registers of dgain and dbias over all rows; n: how many columns the last register has. */
TL_INLINE void gain_columns(const backward_job *a, int c0, int width, int n, bool layer) {
    for (int64_t r0 = 0; r0 < a->R; r0 += TL_KB) {
        v16 gain[4] = {v16_zero(), v16_zero(), v16_zero(), v16_zero()};
        v16 bias[4] = {v16_zero(), v16_zero(), v16_zero(), v16_zero()};
        const int64_t end = tl_least(r0 + TL_KB, a->R);
        for (int64_t r = r0; r < end; r++) {
            const float *dout = a->dout + r * a->C + c0, *s = a->s + r * a->C + c0;
            const v16 rstd = v16_set1(a->rstd[r]), mean = layer ? v16_set1(a->mean[r]) : v16_zero();
            for (int j = 0; j < width; j++) {
                v16 d = n < 16 ? v16_load_n(dout + 16 * j, n) : v16_load(dout + 16 * j);
                v16 x = n < 16 ? v16_load_n(s + 16 * j, n) : v16_load(s + 16 * j);
                gain[j] = v16_fma(d, v16_mul(layer ? v16_sub(x, mean) : x, rstd), gain[j]);
                if (layer) bias[j] = v16_add(bias[j], d);
            }
        }
        for (int j = 0; j < width; j++) {
            float *dgain = a->dgain + c0 + 16 * j, *dbias = layer ? a->dbias + c0 + 16 * j : NULL;
            v16_store_n(dgain, v16_add(v16_load_n(dgain, n), gain[j]), n);
            if (layer) v16_store_n(dbias, v16_add(v16_load_n(dbias, n), bias[j]), n);
        }
    }
}
TL_INLINE void gain_strip(const backward_job *a, int64_t i, bool layer) {
    const int c0 = (int)i * STRIP, n = (int)tl_least(STRIP, a->C - c0);
    if (n == STRIP) {
        gain_columns(a, c0, 4, 16, layer);
    } else {
        for (int c = 0; c < n; c += 16) gain_columns(a, c0 + c, 1, (int)tl_least(16, n - c), layer);
    }
}
static void rmsnorm_backward_strip(void *user, int64_t i, int worker) {
    gain_strip(user, i, false);
}
static void layernorm_backward_strip(void *user, int64_t i, int worker) {
    gain_strip(user, i, true);
}

typedef void task_fn(void *user, int64_t i, int worker);

static void norm_backward(tl_ctx *ctx, backward_job *a, task_fn *block, task_fn *rows, task_fn *strip) {
    const int64_t blocks = tl_pieces(a->R, TL_KB);
    const int64_t part_bytes = 2 * (int64_t)a->C * (int64_t)sizeof(float);
    const int64_t group = (int64_t)TL_WORKSPACE_PER_WORKER_BYTES / (part_bytes ? part_bytes : 1);
    if (blocks < MANY_BLOCKS || group < MANY_BLOCKS) {
        a->rows = tl_piece_rows(a->C);
        tl__parallel_for(ctx->pool, tl_pieces(a->R, a->rows), rows, a);
        tl__parallel_for(ctx->pool, tl_pieces(a->C, STRIP), strip, a);
        return;
    }
    a->part = (float *)ctx->workspace;
    for (a->block0 = 0; a->block0 < blocks; a->block0 += group) {
        const int64_t count = tl_least(group, blocks - a->block0);
        tl__parallel_for(ctx->pool, count, block, a);
        for (int64_t i = 0; i < count; i++) {
            const float *part = a->part + i * 2 * a->C;
            for (int c = 0; c < a->C; c++) a->dgain[c] += part[c];
            if (a->dbias)
                for (int c = 0; c < a->C; c++) a->dbias[c] += part[a->C + c];
        }
    }
}

static void rmsnorm_backward(tl_ctx *ctx, float *dx, float *dgain, const float *dout, const float *s, const float *rstd,
                             const float *gain, float gain_add, int R, int C) {
    backward_job job = {.dx = dx,
                        .dgain = dgain,
                        .dout = dout,
                        .s = s,
                        .rstd = rstd,
                        .gain = gain,
                        .gain_add = gain_add,
                        .R = R,
                        .C = C};
    norm_backward(ctx, &job, rmsnorm_backward_block, rmsnorm_backward_rows, rmsnorm_backward_strip);
}

static void layernorm_backward(tl_ctx *ctx, float *dx, float *dgain, float *dbias, const float *dout, const float *s,
                               const float *mean, const float *rstd, const float *gain, int R, int C) {
    backward_job job = {.dx = dx,
                        .dgain = dgain,
                        .dbias = dbias,
                        .dout = dout,
                        .s = s,
                        .mean = mean,
                        .rstd = rstd,
                        .gain = gain,
                        .R = R,
                        .C = C};
    norm_backward(ctx, &job, layernorm_backward_block, layernorm_backward_rows, layernorm_backward_strip);
}

void TL_NAME(ops_rows)(tl_ops *ops) {
    ops->bias_backward = bias_backward;
    ops->rmsnorm = rmsnorm;
    ops->rmsnorm_backward = rmsnorm_backward;
    ops->layernorm = layernorm;
    ops->layernorm_backward = layernorm_backward;
    TL_NAME(ops_head_norm)(ops);
    TL_NAME(ops_embed)(ops);
    TL_NAME(ops_activation)(ops);
    TL_NAME(ops_loss)(ops);
    TL_NAME(ops_optimizer)(ops);
    TL_NAME(ops_moe)(ops);
}
