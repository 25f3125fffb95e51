/* ref/norm.c — RMSNorm (of rows and of heads), LayerNorm and the sum of a bias gradient, in the contract's order.
 *
 * Three orders of ops.h appear here: a row's sums are vector sums (sixteen lanes, then the tree); gains' and biases'
 * gradients are rows sums (a chain from +0 within TL_KB rows, block sums added to the destination in order); the rest
 * is element by element. */
#include "kernels/ref/real.h"

static int ref_least(int a, int b) {
    return a < b ? a : b;
}

static void ref_bias_backward(tl_ctx *ctx, real *db, const real *dy, int64_t ld, int R, int N) {
    for (int n = 0; n < N; n++)
        for (int r0 = 0; r0 < R; r0 += TL_KB) {
            real s = 0;
            for (int r = r0; r < ref_least(r0 + TL_KB, R); r++) s += dy[r * ld + n];
            db[n] += s;
        }
}

static void ref_rmsnorm(tl_ctx *ctx, real *out, real *sum, real *rstd, const real *x, const real *y, const real *gain,
                        real gain_add, real eps, int R, int C) {
    for (int64_t r = 0; r < R; r++) {
        const int64_t row = r * C;
        real lane[TL_LANES] = {0};
        for (int c = 0; c < C; c++) {
            real s = y ? x[row + c] + y[row + c] : x[row + c];
            lane[c % TL_LANES] = FMA(s, s, lane[c % TL_LANES]);
        }
        const real scale = REAL(1) / SQRT(tree_sum(lane) / (real)C + eps);
        if (rstd) rstd[r] = scale;
        for (int c = 0; c < C; c++) {
            real s = y ? x[row + c] + y[row + c] : x[row + c];
            if (sum) sum[row + c] = s;
            out[row + c] = (s * scale) * (gain[c] + gain_add);
        }
    }
}

static void ref_rmsnorm_backward(tl_ctx *ctx, real *dx, real *dgain, const real *dout, const real *s, const real *rstd,
                                 const real *gain, real gain_add, int R, int C) {
    for (int64_t r = 0; r < R; r++) {
        const int64_t row = r * C;
        real lane[TL_LANES] = {0};
        for (int c = 0; c < C; c++) {
            real a = (gain[c] + gain_add) * dout[row + c], xhat = s[row + c] * rstd[r];
            lane[c % TL_LANES] = FMA(a, xhat, lane[c % TL_LANES]);
        }
        const real mean_ax = tree_sum(lane) / (real)C;
        for (int c = 0; c < C; c++) {
            real a = (gain[c] + gain_add) * dout[row + c], xhat = s[row + c] * rstd[r];
            dx[row + c] = FMA(rstd[r], FMA(-xhat, mean_ax, a), dx[row + c]);
        }
    }
    for (int c = 0; c < C; c++)
        for (int r0 = 0; r0 < R; r0 += TL_KB) {
            real t = 0;
            for (int64_t r = r0; r < ref_least(r0 + TL_KB, R); r++) t = FMA(dout[r * C + c], s[r * C + c] * rstd[r], t);
            dgain[c] += t;
        }
}

static void ref_layernorm(tl_ctx *ctx, real *out, real *sum, real *mean, real *rstd, const real *x, const real *y,
                          const real *gain, const real *bias, real eps, int R, int C) {
    for (int64_t r = 0; r < R; r++) {
        const int64_t row = r * C;
        real lane[TL_LANES] = {0}, lane2[TL_LANES] = {0};
        for (int c = 0; c < C; c++) lane[c % TL_LANES] += y ? x[row + c] + y[row + c] : x[row + c];
        const real m = tree_sum(lane) / (real)C;
        for (int c = 0; c < C; c++) {
            real d = (y ? x[row + c] + y[row + c] : x[row + c]) - m;
            lane2[c % TL_LANES] = FMA(d, d, lane2[c % TL_LANES]);
        }
        const real scale = REAL(1) / SQRT(tree_sum(lane2) / (real)C + eps);
        if (mean) mean[r] = m;
        if (rstd) rstd[r] = scale;
        for (int c = 0; c < C; c++) {
            real s = y ? x[row + c] + y[row + c] : x[row + c];
            if (sum) sum[row + c] = s;
            out[row + c] = FMA((s - m) * scale, gain[c], bias[c]);
        }
    }
}

static void ref_layernorm_backward(tl_ctx *ctx, real *dx, real *dgain, real *dbias, const real *dout, const real *s,
                                   const real *mean, const real *rstd, const real *gain, int R, int C) {
    for (int64_t r = 0; r < R; r++) {
        const int64_t row = r * C;
        real lane[TL_LANES] = {0}, lane2[TL_LANES] = {0};
        for (int c = 0; c < C; c++) {
            real a = gain[c] * dout[row + c], xhat = (s[row + c] - mean[r]) * rstd[r];
            lane[c % TL_LANES] += a;
            lane2[c % TL_LANES] = FMA(a, xhat, lane2[c % TL_LANES]);
        }
        const real mean_a = tree_sum(lane) / (real)C, mean_ax = tree_sum(lane2) / (real)C;
        for (int c = 0; c < C; c++) {
            real a = gain[c] * dout[row + c], xhat = (s[row + c] - mean[r]) * rstd[r];
            dx[row + c] = FMA(rstd[r], FMA(-xhat, mean_ax, a - mean_a), dx[row + c]);
        }
    }
    for (int c = 0; c < C; c++)
        for (int r0 = 0; r0 < R; r0 += TL_KB) {
            real t = 0, u = 0;
            for (int64_t r = r0; r < ref_least(r0 + TL_KB, R); r++) {
                t = FMA(dout[r * C + c], (s[r * C + c] - mean[r]) * rstd[r], t);
                u += dout[r * C + c];
            }
            dgain[c] += t;
            dbias[c] += u;
        }
}

static void ref_head_norm(tl_ctx *ctx, real *out, int64_t ldo, real *rstd, const real *x, int64_t ldx, const real *gain,
                          real gain_add, real eps, int R, int heads, int D) {
    for (int64_t r = 0; r < R; r++)
        for (int64_t h = 0; h < heads; h++) {
            const real *s = x + r * ldx + h * D;
            real *o = out + r * ldo + h * D, lane[TL_LANES] = {0};
            for (int d = 0; d < D; d++) lane[d % TL_LANES] = FMA(s[d], s[d], lane[d % TL_LANES]);
            const real scale = REAL(1) / SQRT(tree_sum(lane) / (real)D + eps);
            if (rstd) rstd[r * heads + h] = scale;
            for (int d = 0; d < D; d++) o[d] = (s[d] * scale) * (gain[d] + gain_add);
        }
}

/* The gain's gradient comes first: dx may be where dout is. */
static void ref_head_norm_backward(tl_ctx *ctx, real *dx, int64_t lddx, real *dgain, const real *dout, int64_t lddout,
                                   const real *x, int64_t ldx, const real *rstd, const real *gain, real gain_add, int R,
                                   int heads, int D) {
    const int64_t slices = (int64_t)R * heads;
    for (int d = 0; d < D; d++)
        for (int64_t k0 = 0; k0 < slices; k0 += TL_KB) {
            real t = 0;
            for (int64_t k = k0; k < slices && k < k0 + TL_KB; k++) {
                const int64_t r = k / heads, h = k % heads;
                t = FMA(dout[r * lddout + h * D + d], x[r * ldx + h * D + d] * rstd[k], t);
            }
            dgain[d] += t;
        }
    for (int64_t k = 0; k < slices; k++) {
        const int64_t r = k / heads, h = k % heads;
        const real *g = dout + r * lddout + h * D, *s = x + r * ldx + h * D;
        real *to = dx + r * lddx + h * D, lane[TL_LANES] = {0};
        for (int d = 0; d < D; d++)
            lane[d % TL_LANES] = FMA((gain[d] + gain_add) * g[d], s[d] * rstd[k], lane[d % TL_LANES]);
        const real mean_ax = tree_sum(lane) / (real)D;
        for (int d = 0; d < D; d++) to[d] = rstd[k] * FMA(-(s[d] * rstd[k]), mean_ax, (gain[d] + gain_add) * g[d]);
    }
}

#ifndef TL_REF_DOUBLE
void tl__ops_rows_ref(tl_ops *ops) {
    ops->bias_backward = ref_bias_backward;
    ops->rmsnorm = ref_rmsnorm;
    ops->rmsnorm_backward = ref_rmsnorm_backward;
    ops->layernorm = ref_layernorm;
    ops->layernorm_backward = ref_layernorm_backward;
    ops->head_norm = ref_head_norm;
    ops->head_norm_backward = ref_head_norm_backward;
    tl__ops_embed_ref(ops);
    tl__ops_activation_ref(ops);
    tl__ops_loss_ref(ops);
    tl__ops_optimizer_ref(ops);
    tl__ops_moe_ref(ops);
}
#endif
