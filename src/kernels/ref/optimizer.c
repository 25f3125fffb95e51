/* ref/optimizer.c — the sum of squares for the gradient's norm, AdamW and the blend, in the contract's order. Not
 * compiled in double: nothing here has a backward. */
#include "kernels/ref/real.h"

#define CHUNK 4096

static double ref_sum_squares(tl_ctx *ctx, const float *x, int64_t n) {
    double total = 0;
    for (int64_t i0 = 0; i0 < n; i0 += CHUNK) {
        double lane[TL_LANES] = {0};
        for (int64_t i = i0; i < n && i < i0 + CHUNK; i++) /* the product is exact: this fma is a sum */
            lane[i % TL_LANES] = fma((double)x[i], (double)x[i], lane[i % TL_LANES]);
        for (int half = TL_LANES / 2; half; half /= 2)
            for (int j = 0; j < half; j++) lane[j] += lane[j + half];
        total += lane[0];
    }
    return total;
}

static void ref_adamw(tl_ctx *ctx, float *w, float *m, float *v, const float *g, int64_t n, const tl_adamw *hyper) {
    /* Scalars as PyTorch forms them: in double, rounded once. */
    const float keep = (float)(1.0 - (double)hyper->lr * hyper->weight_decay);
    const float to_m = (float)(1.0 - hyper->beta1), to_v = (float)(1.0 - hyper->beta2), beta2 = (float)hyper->beta2;
    for (int64_t i = 0; i < n; i++) {
        const float d = g[i] * hyper->grad_scale;
        const float decayed = w[i] * keep;
        m[i] = fmaf(to_m, d - m[i], m[i]);
        v[i] = fmaf(to_v * d, d, beta2 * v[i]);
        const float denom = fmaf(sqrtf(v[i]), hyper->inv_sqrt_correction2, hyper->eps);
        w[i] = decayed - hyper->step_size * m[i] / denom;
    }
}

static void ref_blend(tl_ctx *ctx, float *y, int64_t ldy, float t, const float *x, int64_t ldx, float s, int64_t R,
                      int64_t C) {
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < C; c++) {
            const float in = x[r * ldx + c];
            y[r * ldy + c] = t == 0 ? s * in : fmaf(s, in, t * y[r * ldy + c]);
        }
}

void tl__ops_optimizer_ref(tl_ops *ops) {
    ops->sum_squares = ref_sum_squares;
    ops->adamw = ref_adamw;
    ops->blend = ref_blend;
}
