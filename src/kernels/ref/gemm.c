/* ref/gemm.c — the products, defined.
 *
 * f32: for each output one fmaf chain within each TL_KB of k, block sums in order, bias last.
 * bf16: the same cuts and sums, but operands are first rounded to bf16, and a block is summed 32 of k at a time, the
 * even and the odd in a chain each, flushing denormals: Intel's pseudo-code of TDPBF16PS (Intel SDM vol. 2), which
 * consults no mode. */
#include <math.h>
#include <string.h>
#include "base/blocks.h"
#include "kernels/table.h"

static void gemm(tl_ctx *ctx, float *c, int64_t ldc, int M, int N, int K, const float *a, int64_t a_row, int64_t a_col,
                 const float *b, int64_t b_row, int64_t b_col, const float *bias, bool accumulate) {
    (void)ctx;
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            float out = accumulate ? c[m * ldc + n] : 0;
            for (int k0 = 0; k0 < K; k0 += TL_KB) {
                const int end = K - k0 < TL_KB ? K : k0 + TL_KB;
                float sum = 0;
                for (int k = k0; k < end; k++) sum = fmaf(a[m * a_row + k * a_col], b[k * b_row + n * b_col], sum);
                out = k0 || accumulate ? out + sum : sum;
            }
            c[m * ldc + n] = bias ? out + bias[n] : out;
        }
}

/* ---- bf16 ---- */

/* The nearest bf16 as the f32 that it is, ties to even (VCVTNEPS2BF16): a denormal becomes a zero of its sign, a NaN a
 * quiet one. */
static float rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    const uint32_t size = bits & 0x7fffffff;
    if (size < 0x00800000) bits &= 0x80000000;
    else if (size > 0x7f800000) bits = (bits | 0x00400000) & 0xffff0000;
    else bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    memcpy(&x, &bits, 4);
    return x;
}

/* fmaf with a result below 2⁻¹²⁶ flushed to a zero of its sign. What is below is decided as x86 does, after rounding to
 * 24 bits as if the exponent had no bound: fmaf gives 2⁻¹²⁶ for some results that are still below then. The double is
 * exact where that matters: a·b has 16 bits, and sum is no denormal. */
static float fma_flushed(float a, float b, float sum) {
    const float least = 0x1p-126f, x = fmaf(a, b, sum);
    if (fabsf(x) > least || isnan(x)) return x;
    if (fabsf(x) == least && fabs((double)a * b + sum) >= 0x1p-126 - 0x1p-151) return x;
    return copysignf(0, x);
}
/* The same of a sum, which is exact where it is so small. */
static float add_flushed(float a, float b) {
    const float x = a + b;
    return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x;
}

static void gemm_bf16(tl_ctx *ctx, float *c, int64_t ldc, int M, int N, int K, const float *a, int64_t a_row,
                      int64_t a_col, const float *b, int64_t b_row, int64_t b_col, const float *bias, bool accumulate) {
    (void)ctx;
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            const float *am = a + m * a_row, *bn = b + n * b_col;
            float out = accumulate ? c[m * ldc + n] : 0;
            for (int k0 = 0; k0 < K; k0 += TL_KB) {
                const int end = K - k0 < TL_KB ? K : k0 + TL_KB;
                float sum = 0;
                for (int g = k0; g < end; g += TL_BF16_K) {
                    float chain[2] = {0, 0};
                    for (int k = g; k < g + TL_BF16_K; k++) { /* beyond the end, zeros: 0·0 turns −0 into +0 */
                        const float x = k < end ? rounded(am[k * a_col]) : 0, y = k < end ? rounded(bn[k * b_row]) : 0;
                        chain[k % 2] = fma_flushed(x, y, chain[k % 2]);
                    }
                    sum = add_flushed(sum, add_flushed(chain[0], chain[1]));
                }
                out = k0 || accumulate ? out + sum : sum;
            }
            c[m * ldc + n] = bias ? out + bias[n] : out;
        }
}

/* ---- stored weights: the products above on the weights that they are ---- */

static void linear(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R) {
    float w[TL_KB];
    for (const tl_product *p = products; p < products + count; p++) {
        const int N = p->w->N, K = p->w->K;
        const tl_type type = p->w->type;
        for (int n = 0; n < N; n++)
            for (int k0 = 0; k0 < K || k0 == 0; k0 += TL_KB) {
                const int kc = K - k0 < TL_KB ? K - k0 : TL_KB;
                tl__widen(w, type, (const char *)p->w->data + ((int64_t)n * K + k0) * (int64_t)tl__type_bytes(type),
                          kc);
                (type == TL_BF16 ? gemm_bf16 : gemm)(ctx, p->y + n, p->ldy, R, 1, kc, x + k0, ldx, 1, w, 1, kc,
                                                     p->bias && k0 + kc == K ? p->bias + n : NULL, k0 > 0);
            }
    }
}

void tl__ops_gemm_ref(tl_ops *ops) {
    ops->gemm = gemm;
    ops->gemm_bf16 = gemm_bf16;
    ops->linear_f32 = ops->linear_f16 = ops->linear_bf16 = linear;
}
