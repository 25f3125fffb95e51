/* cpu/gemm_bf16.c — the bf16 product, equal to ref/gemm.c's to the bit: operands are rounded as they are packed, and
 * the frame of product.h does the rest, or that of product_tiles.h.
 *
 * With tiles (AMX) the chains of 32 of k are the instruction's own.
 * By instruction (AVX512-BF16): a word holds a pair of k of one chain, neighbours in it: the instruction adds the
 * product of the upper one first. Elsewhere: a word holds one k as the f32 that its bf16 is, and the chains are f32
 * ones with denormals flushed by mode: the same operations, one by one, that the instructions do. */
#include "kernels/simd.h"

#if defined(TL_ISA_avx512_bf16) || defined(TL_ISA_amx)

/* Thirty-two floats side by side, rounded. */
TL_INLINE v16 halves(const float *p, int n) {
    if (n == 32) return (v16)_mm512_cvtne2ps_pbh(v16_load(p + 16), v16_load(p));
    const v16 high = n > 16 ? v16_load_n(p + 16, n - 16) : v16_zero();
    return (v16)_mm512_cvtne2ps_pbh(high, v16_load_n(p, n < 16 ? n : 16));
}
/* Word j: low[j] below, high[j] above, rounded. */
TL_INLINE v16 pair(v16 low, v16 high) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (v16)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

#endif

#if defined(TL_ISA_amx)

#include "kernels/cpu/product_tiles.h"

#elif defined(TL_ISA_avx512_bf16)

enum { UNIT = 2, CHAINS = 2, FLUSHES = 1, COPIES = 1 };

static inline int words(int kc) {
    return (kc + 31) / 32 * 16;
}
TL_INLINE v16 dot(v16 x, v16 b, v16 s) {
    return _mm512_dpbf16_ps(s, (__m512bh)x, (__m512bh)b);
}
/* Of each four k the words are 0 over 2 and 1 over 3. */
TL_INLINE v16 stored(v16 x) {
    return (v16)_mm512_shuffle_epi8((__m512i)x, _mm512_set4_epi32(0x0b0a0f0e, 0x09080d0c, 0x03020706, 0x01000504));
}
/* A word is what is wanted. */
TL_INLINE void spread(v16 word, v16 w[2]) {
    w[0] = word;
}
TL_INLINE v16 along(const float *p, int n) {
    return stored(halves(p, n));
}
#define across(load, p, step, u, kc, n)                                                                                \
    pair(FIRST_OF(u) + 2 < (kc) ? load((p) + (FIRST_OF(u) + 2) * (step), n) : v16_zero(),                              \
         FIRST_OF(u) < (kc) ? load((p) + FIRST_OF(u) * (step), n) : v16_zero())
#define FIRST_OF(u) (((u) & ~1) * 2 + ((u)&1))

static const double cost_b_place = 1, cost_b_copy = 0.4, cost_b_turn = 0.65, cost_a_by_row = 0.14, cost_a_by_k = 0.24,
                    cost_start = 4;

#else

enum { UNIT = 1, CHAINS = 2, FLUSHES = 1, COPIES = 1 };

static inline int words(int kc) {
    return (kc + 31) & ~31;
}
TL_INLINE v16 dot(v16 x, v16 b, v16 s) {
    return v16_fma(x, b, s);
}
/* The nearest bf16, ties to even, as vcvtneps2bf16 rounds: a denormal becomes a zero of its sign, a NaN a quiet one. */
TL_INLINE v16 rounded(v16 x) {
    const i16 bits = v16_as_int(x), size = i16_and(bits, i16_set1(0x7fffffff));
    const i16 tie = i16_and(i16_shr(bits, 16), i16_set1(1));
    i16 r = i16_add(bits, i16_add(i16_set1(0x7fff), tie));
    r = i16_select(i16_gt(size, i16_set1(0x7f800000)), i16_or(bits, i16_set1(0x00400000)), r);
    r = i16_select(i16_gt(i16_set1(0x00800000), size), i16_and(bits, i16_set1((int32_t)0x80000000u)), r);
    return i16_as_float(i16_and(r, i16_set1((int32_t)0xffff0000u)));
}
TL_INLINE v16 along(const float *p, int n) {
    return rounded(n == 16 ? v16_load(p) : v16_load_n(p, n));
}
TL_INLINE v16 stored(v16 x) {
    return x;
}
/* A pair of stored bf16, the even one below; DAZ makes zeros of denormals. */
TL_INLINE void spread(v16 pair, v16 w[2]) {
    w[0] = i16_as_float(i16_shl(v16_as_int(pair), 16));
    w[1] = i16_as_float(i16_and(v16_as_int(pair), i16_set1((int32_t)0xffff0000u)));
}
#define across(load, p, step, u, kc, n) ((u) < (kc) ? rounded(load((p) + (u) * (step), n)) : v16_zero())

#if defined(TL_ISA_avx512)
static const double cost_b_place = 1, cost_b_copy = 0.35, cost_b_turn = 0.5, cost_a_by_row = 0.12, cost_a_by_k = 0.25,
                    cost_start = 2;
#else
static const double cost_b_place = 1, cost_b_copy = 0.6, cost_b_turn = 0.9, cost_a_by_row = 0.2, cost_a_by_k = 0.4,
                    cost_start = 2;
#endif

#endif

#if !defined(TL_ISA_amx)
#include "kernels/cpu/product.h"
#endif

void TL_NAME(ops_gemm_bf16)(tl_ops *ops) {
    ops->gemm_bf16 = product;
    ops->linear_bf16 = linear;
}
