/* cpu/gemm.c — the f32 product at the speed of the FMA units, equal to ref/gemm.c to the bit: the frame of product.h
 * with a word for each k. Weights of f16 are widened as they are turned. */
#include "kernels/simd.h"

enum { UNIT = 1, CHAINS = 1, FLUSHES = 0, COPIES = 0 };

static inline int words(int kc) {
    return kc;
}
TL_INLINE v16 dot(v16 x, v16 b, v16 s) {
    return v16_fma(x, b, s);
}
TL_INLINE v16 along(const float *p, int n) {
    return n == 16 ? v16_load(p) : v16_load_n(p, n);
}
TL_INLINE v16 stored(v16 x) {
    return x;
}
/* A pair of f16, its even one below: the floats that they are. */
TL_INLINE void spread(v16 pair, v16 w[2]) {
    v16_from_f16_pairs(pair, &w[0], &w[1]);
}
#define across(load, p, step, u, kc, n) load((p) + (u) * (step), n)

#if defined(TL_ISA_avx512)
static const double cost_b_place = 0.05, cost_b_copy = 0.31, cost_b_turn = 0.43, cost_a_by_row = 0.09,
                    cost_a_by_k = 0.17, cost_start = 2;
#else
static const double cost_b_place = 0.5, cost_b_copy = 0.5, cost_b_turn = 0.8, cost_a_by_row = 0.15, cost_a_by_k = 0.3,
                    cost_start = 2;
#endif

#include "kernels/cpu/product.h"

void TL_NAME(ops_gemm)(tl_ops *ops) {
    ops->gemm = product;
    ops->linear_f32 = linear;
    ops->linear_f16 = linear;
}
