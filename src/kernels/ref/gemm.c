/* ref/gemm.c — the product, defined: for each output one fmaf chain within each TL_KB of k, block sums in order, bias
 * last. */
#include <math.h>
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

void tl__ops_gemm_ref(tl_ops *ops) {
    ops->gemm = gemm;
}
