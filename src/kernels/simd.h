/* simd.h — sixteen f32 lanes, whatever the register width: one __m512 or two __m256.
 *
 * Every fast kernel is written once against this header and compiled per instruction set (TL_ISA_avx2, TL_ISA_avx512,
 * set by CMake on those objects only). Each operation is exactly rounded and works lane by lane, so both forms give the
 * same bits as the scalar code beside its name; there are no estimates here. TL_NAME(gemm) is tl__gemm_avx2 or
 * tl__gemm_avx512.
 *
 *   v16  f32 lanes      i16  int32 lanes      m16  one truth per lane      d16  f64 lanes (exact sums of squares)
 *
 * Comparisons are ordered and quiet: false if either side is NaN. min and max are `a < b ? a : b` and `a > b ? a : b`:
 * the second operand if either is NaN. Names ending in _n touch only the first n of 16 lanes in memory, 0 ≤ n ≤ 16. */
#ifndef TL_KERNELS_SIMD_H
#define TL_KERNELS_SIMD_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define TL_NAME_JOIN2(x, isa) tl__##x##_##isa
#define TL_NAME_JOIN(x, isa) TL_NAME_JOIN2(x, isa)
#define TL_NAME(x) TL_NAME_JOIN(x, TL_ISA)

#define TL_INLINE static inline __attribute__((always_inline, unused))

/* Into all caches; never faults, so an address past the end is harmless. */
TL_INLINE void tl_prefetch(const void *p) {
    _mm_prefetch((const char *)p, _MM_HINT_T0);
}
TL_INLINE void tl_prefetch_l2(const void *p) {
    _mm_prefetch((const char *)p, _MM_HINT_T1);
}

#if defined(TL_ISA_avx512)

typedef __m512 v16;
typedef __m512i i16;
typedef __mmask16 m16;
typedef struct d16 {
    __m512d a, b;
} d16; /* lanes 0–7, 8–15 */

TL_INLINE m16 m16_first(int n) {
    return (m16)((1u << n) - 1);
} /* lanes 0 … n−1 */
TL_INLINE m16 m16_and(m16 a, m16 b) {
    return (m16)(a & b);
}
TL_INLINE m16 m16_or(m16 a, m16 b) {
    return (m16)(a | b);
}
TL_INLINE m16 m16_not(m16 a) {
    return (m16)~a;
}
TL_INLINE unsigned m16_bits(m16 a) {
    return a;
} /* bit j: lane j */

TL_INLINE v16 v16_zero(void) {
    return _mm512_setzero_ps();
}
TL_INLINE v16 v16_set1(float x) {
    return _mm512_set1_ps(x);
}
TL_INLINE v16 v16_load(const float *p) {
    return _mm512_loadu_ps(p);
}
TL_INLINE v16 v16_load_aligned(const float *p) {
    return _mm512_load_ps(p);
}
TL_INLINE void v16_store(float *p, v16 a) {
    _mm512_storeu_ps(p, a);
}
TL_INLINE void v16_store_aligned(float *p, v16 a) {
    _mm512_store_ps(p, a);
}
TL_INLINE void v16_stream(float *p, v16 a) {
    _mm512_stream_ps(p, a);
}
TL_INLINE v16 v16_load_n(const float *p, int n) {
    return _mm512_maskz_loadu_ps(m16_first(n), p);
}
TL_INLINE void v16_store_n(float *p, v16 a, int n) {
    _mm512_mask_storeu_ps(p, m16_first(n), a);
}

TL_INLINE v16 v16_add(v16 a, v16 b) {
    return _mm512_add_ps(a, b);
}
TL_INLINE v16 v16_sub(v16 a, v16 b) {
    return _mm512_sub_ps(a, b);
}
TL_INLINE v16 v16_mul(v16 a, v16 b) {
    return _mm512_mul_ps(a, b);
}
TL_INLINE v16 v16_div(v16 a, v16 b) {
    return _mm512_div_ps(a, b);
}
TL_INLINE v16 v16_sqrt(v16 a) {
    return _mm512_sqrt_ps(a);
}
TL_INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
    return _mm512_fmadd_ps(a, b, c);
}
TL_INLINE v16 v16_fnma(v16 a, v16 b, v16 c) {
    return _mm512_fnmadd_ps(a, b, c);
}
TL_INLINE v16 v16_fms(v16 a, v16 b, v16 c) {
    return _mm512_fmsub_ps(a, b, c);
}
TL_INLINE v16 v16_min(v16 a, v16 b) {
    return _mm512_min_ps(a, b);
}
TL_INLINE v16 v16_max(v16 a, v16 b) {
    return _mm512_max_ps(a, b);
}
TL_INLINE v16 v16_floor(v16 a) {
    return _mm512_roundscale_ps(a, 0x09);
}
TL_INLINE v16 v16_round(v16 a) {
    return _mm512_roundscale_ps(a, 0x08);
}

TL_INLINE m16 v16_lt(v16 a, v16 b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
TL_INLINE m16 v16_le(v16 a, v16 b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
}
TL_INLINE m16 v16_eq(v16 a, v16 b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
TL_INLINE m16 v16_isnan(v16 a) {
    return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
}
TL_INLINE v16 v16_select(m16 m, v16 a, v16 b) {
    return _mm512_mask_blend_ps(m, b, a);
}

TL_INLINE i16 v16_as_int(v16 a) {
    return _mm512_castps_si512(a);
}
TL_INLINE v16 i16_as_float(i16 a) {
    return _mm512_castsi512_ps(a);
}
TL_INLINE i16 v16_to_int(v16 a) {
    return _mm512_cvtps_epi32(a);
}
TL_INLINE i16 v16_trunc_to_int(v16 a) {
    return _mm512_cvttps_epi32(a);
}
TL_INLINE v16 i16_to_float(i16 a) {
    return _mm512_cvtepi32_ps(a);
}

TL_INLINE i16 i16_set1(int32_t x) {
    return _mm512_set1_epi32(x);
}
TL_INLINE i16 i16_load(const int32_t *p) {
    return _mm512_loadu_si512(p);
}
TL_INLINE void i16_store(int32_t *p, i16 a) {
    _mm512_storeu_si512(p, a);
}
TL_INLINE i16 i16_iota(void) {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
TL_INLINE i16 i16_add(i16 a, i16 b) {
    return _mm512_add_epi32(a, b);
}
TL_INLINE i16 i16_sub(i16 a, i16 b) {
    return _mm512_sub_epi32(a, b);
}
TL_INLINE i16 i16_mul(i16 a, i16 b) {
    return _mm512_mullo_epi32(a, b);
}
TL_INLINE i16 i16_and(i16 a, i16 b) {
    return _mm512_and_si512(a, b);
}
TL_INLINE i16 i16_or(i16 a, i16 b) {
    return _mm512_or_si512(a, b);
}
TL_INLINE i16 i16_xor(i16 a, i16 b) {
    return _mm512_xor_si512(a, b);
}
TL_INLINE i16 i16_min(i16 a, i16 b) {
    return _mm512_min_epi32(a, b);
}
TL_INLINE i16 i16_max(i16 a, i16 b) {
    return _mm512_max_epi32(a, b);
}
#define i16_shl(a, n) _mm512_slli_epi32((a), (n)) /* n: a constant */
#define i16_shr(a, n) _mm512_srli_epi32((a), (n)) /* zeros come in */
#define i16_sar(a, n) _mm512_srai_epi32((a), (n)) /* the sign comes in */
TL_INLINE m16 i16_gt(i16 a, i16 b) {
    return _mm512_cmpgt_epi32_mask(a, b);
}
TL_INLINE m16 i16_eq(i16 a, i16 b) {
    return _mm512_cmpeq_epi32_mask(a, b);
}
TL_INLINE i16 i16_select(m16 m, i16 a, i16 b) {
    return _mm512_mask_blend_epi32(m, b, a);
}

TL_INLINE __m256 v16_low(v16 a) {
    return _mm512_castps512_ps256(a);
}
TL_INLINE __m256 v16_high(v16 a) {
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
}

TL_INLINE d16 d16_zero(void) {
    return (d16){_mm512_setzero_pd(), _mm512_setzero_pd()};
}
TL_INLINE d16 d16_from(v16 a) {
    return (d16){_mm512_cvtps_pd(v16_low(a)), _mm512_cvtps_pd(v16_high(a))};
}
TL_INLINE d16 d16_add(d16 x, d16 y) {
    return (d16){_mm512_add_pd(x.a, y.a), _mm512_add_pd(x.b, y.b)};
}
TL_INLINE d16 d16_mul(d16 x, d16 y) {
    return (d16){_mm512_mul_pd(x.a, y.a), _mm512_mul_pd(x.b, y.b)};
}
TL_INLINE d16 d16_fma(d16 x, d16 y, d16 z) {
    return (d16){_mm512_fmadd_pd(x.a, y.a, z.a), _mm512_fmadd_pd(x.b, y.b, z.b)};
}
/* The fixed tree: l[j]+l[j+8], then +4, +2, +1. */
TL_INLINE double d16_sum(d16 x) {
    __m512d s = _mm512_add_pd(x.a, x.b);
    __m256d h = _mm256_add_pd(_mm512_castpd512_pd256(s), _mm512_extractf64x4_pd(s, 1));
    __m128d q = _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
    return _mm_cvtsd_f64(_mm_add_sd(q, _mm_unpackhi_pd(q, q)));
}

/* Sixteen pairs of 16-bit numbers, the even one below; n < 32 of them, zeros beyond. */
TL_INLINE v16 v16_load_halves(const uint16_t *p) {
    return _mm512_loadu_ps(p);
}
TL_INLINE v16 v16_load_halves_n(const uint16_t *p, int n) {
    return (v16)_mm512_maskz_loadu_epi16(n < 32 ? (1u << n) - 1 : ~0u, p);
}
/* f16 to f32, exact. */
TL_INLINE void v16_from_f16_pairs(v16 pairs, v16 *even, v16 *odd) {
    const __m512i order = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 30, 28, 26, 24, 22,
                                           20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    /* Through memory: widening what is loaded needs no shuffle, of which the unit is short. */
    __m512i apart = _mm512_permutexvar_epi16(order, (__m512i)pairs);
    __asm__("" : "+m"(apart));
    *even = _mm512_cvtph_ps(((const __m256i *)&apart)[0]);
    *odd = _mm512_cvtph_ps(((const __m256i *)&apart)[1]);
}

/* Sixteen stored numbers, widened: exact. */
TL_INLINE v16 v16_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
TL_INLINE v16 v16_load_bf16(const uint16_t *p) {
    const __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}
TL_INLINE v16 v16_load_int8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
/* And narrowed: to the nearest f16, ties to even; the low half or byte of each integer. */
TL_INLINE void v16_store_f16(uint16_t *p, v16 a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
TL_INLINE void i16_store_int16(uint16_t *p, i16 a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(a));
}
TL_INLINE void i16_store_int8(int8_t *p, i16 a) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a));
}

/* r[i] lane j ↔ r[j] lane i, in registers. */
TL_INLINE void v16_transpose(v16 r[16]) {
    v16 t[16];
    /* Pairs of rows, then quads: within each 128-bit quarter q, t holds columns 4q … 4q+3 of four rows. */
    for (int i = 0; i < 16; i += 4) {
        v16 a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
        v16 c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(c)));
        t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(c)));
        t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b), _mm512_castps_pd(d)));
        t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b), _mm512_castps_pd(d)));
    }
    /* Then the 4×4 matrix of quarters. */
    for (int i = 0; i < 4; i++) {
        v16 a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
        v16 c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88), d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
        r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

#elif defined(TL_ISA_avx2)

typedef struct v16 {
    __m256 a, b;
} v16; /* lanes 0–7, 8–15 */
typedef struct i16 {
    __m256i a, b;
} i16;
typedef struct m16 {
    __m256i a, b;
} m16; /* all ones or all zeros per lane */
typedef struct d16 {
    __m256d q[4];
} d16; /* lanes 4i … 4i+3 */

TL_INLINE m16 m16_first(int n) {
    const __m256i i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (m16){_mm256_cmpgt_epi32(_mm256_set1_epi32(n), i), _mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), i)};
}
TL_INLINE m16 m16_and(m16 x, m16 y) {
    return (m16){_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
TL_INLINE m16 m16_or(m16 x, m16 y) {
    return (m16){_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
TL_INLINE m16 m16_not(m16 x) {
    const __m256i ones = _mm256_set1_epi32(-1);
    return (m16){_mm256_xor_si256(x.a, ones), _mm256_xor_si256(x.b, ones)};
}
TL_INLINE unsigned m16_bits(m16 x) { /* bit j: lane j */
    return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(x.a)) |
           (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(x.b)) << 8;
}

TL_INLINE v16 v16_zero(void) {
    return (v16){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
TL_INLINE v16 v16_set1(float x) {
    return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
TL_INLINE v16 v16_load(const float *p) {
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
TL_INLINE v16 v16_load_aligned(const float *p) {
    return (v16){_mm256_load_ps(p), _mm256_load_ps(p + 8)};
}
TL_INLINE void v16_store(float *p, v16 x) {
    _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b);
}
TL_INLINE void v16_store_aligned(float *p, v16 x) {
    _mm256_store_ps(p, x.a), _mm256_store_ps(p + 8, x.b);
}
TL_INLINE void v16_stream(float *p, v16 x) {
    _mm256_stream_ps(p, x.a), _mm256_stream_ps(p + 8, x.b);
}
TL_INLINE v16 v16_load_n(const float *p, int n) {
    m16 m = m16_first(n);
    return (v16){_mm256_maskload_ps(p, m.a), _mm256_maskload_ps(p + 8, m.b)};
}
TL_INLINE void v16_store_n(float *p, v16 x, int n) {
    m16 m = m16_first(n);
    _mm256_maskstore_ps(p, m.a, x.a), _mm256_maskstore_ps(p + 8, m.b, x.b);
}

TL_INLINE v16 v16_add(v16 x, v16 y) {
    return (v16){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
TL_INLINE v16 v16_sub(v16 x, v16 y) {
    return (v16){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
TL_INLINE v16 v16_mul(v16 x, v16 y) {
    return (v16){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
TL_INLINE v16 v16_div(v16 x, v16 y) {
    return (v16){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
TL_INLINE v16 v16_sqrt(v16 x) {
    return (v16){_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)};
}
TL_INLINE v16 v16_fma(v16 x, v16 y, v16 z) {
    return (v16){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
TL_INLINE v16 v16_fnma(v16 x, v16 y, v16 z) {
    return (v16){_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}
TL_INLINE v16 v16_fms(v16 x, v16 y, v16 z) {
    return (v16){_mm256_fmsub_ps(x.a, y.a, z.a), _mm256_fmsub_ps(x.b, y.b, z.b)};
}
TL_INLINE v16 v16_min(v16 x, v16 y) {
    return (v16){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
TL_INLINE v16 v16_max(v16 x, v16 y) {
    return (v16){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
TL_INLINE v16 v16_floor(v16 x) {
    return (v16){_mm256_round_ps(x.a, 0x09), _mm256_round_ps(x.b, 0x09)};
}
TL_INLINE v16 v16_round(v16 x) {
    return (v16){_mm256_round_ps(x.a, 0x08), _mm256_round_ps(x.b, 0x08)};
}

#define TL_CMP2(x, y, how)                                                                                             \
    ((m16){_mm256_castps_si256(_mm256_cmp_ps((x).a, (y).a, how)),                                                      \
           _mm256_castps_si256(_mm256_cmp_ps((x).b, (y).b, how))})
TL_INLINE m16 v16_lt(v16 x, v16 y) {
    return TL_CMP2(x, y, _CMP_LT_OQ);
}
TL_INLINE m16 v16_le(v16 x, v16 y) {
    return TL_CMP2(x, y, _CMP_LE_OQ);
}
TL_INLINE m16 v16_eq(v16 x, v16 y) {
    return TL_CMP2(x, y, _CMP_EQ_OQ);
}
TL_INLINE m16 v16_isnan(v16 x) {
    return TL_CMP2(x, x, _CMP_UNORD_Q);
}
TL_INLINE v16 v16_select(m16 m, v16 x, v16 y) {
    return (v16){_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(m.a)),
                 _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(m.b))};
}

TL_INLINE i16 v16_as_int(v16 x) {
    return (i16){_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)};
}
TL_INLINE v16 i16_as_float(i16 x) {
    return (v16){_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}
TL_INLINE i16 v16_to_int(v16 x) {
    return (i16){_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
}
TL_INLINE i16 v16_trunc_to_int(v16 x) {
    return (i16){_mm256_cvttps_epi32(x.a), _mm256_cvttps_epi32(x.b)};
}
TL_INLINE v16 i16_to_float(i16 x) {
    return (v16){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}

TL_INLINE i16 i16_set1(int32_t x) {
    return (i16){_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
TL_INLINE i16 i16_load(const int32_t *p) {
    return (i16){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 8))};
}
TL_INLINE void i16_store(int32_t *p, i16 x) {
    _mm256_storeu_si256((__m256i *)p, x.a), _mm256_storeu_si256((__m256i *)(p + 8), x.b);
}
TL_INLINE i16 i16_iota(void) {
    return (i16){_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
}
TL_INLINE i16 i16_add(i16 x, i16 y) {
    return (i16){_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
TL_INLINE i16 i16_sub(i16 x, i16 y) {
    return (i16){_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
}
TL_INLINE i16 i16_mul(i16 x, i16 y) {
    return (i16){_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)};
}
TL_INLINE i16 i16_and(i16 x, i16 y) {
    return (i16){_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
TL_INLINE i16 i16_or(i16 x, i16 y) {
    return (i16){_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
TL_INLINE i16 i16_xor(i16 x, i16 y) {
    return (i16){_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)};
}
TL_INLINE i16 i16_min(i16 x, i16 y) {
    return (i16){_mm256_min_epi32(x.a, y.a), _mm256_min_epi32(x.b, y.b)};
}
TL_INLINE i16 i16_max(i16 x, i16 y) {
    return (i16){_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)};
}
#define i16_shl(x, n) ((i16){_mm256_slli_epi32((x).a, (n)), _mm256_slli_epi32((x).b, (n))}) /* n: a constant */
#define i16_shr(x, n) ((i16){_mm256_srli_epi32((x).a, (n)), _mm256_srli_epi32((x).b, (n))}) /* zeros come in */
#define i16_sar(x, n) ((i16){_mm256_srai_epi32((x).a, (n)), _mm256_srai_epi32((x).b, (n))}) /* the sign comes in */
TL_INLINE m16 i16_gt(i16 x, i16 y) {
    return (m16){_mm256_cmpgt_epi32(x.a, y.a), _mm256_cmpgt_epi32(x.b, y.b)};
}
TL_INLINE m16 i16_eq(i16 x, i16 y) {
    return (m16){_mm256_cmpeq_epi32(x.a, y.a), _mm256_cmpeq_epi32(x.b, y.b)};
}
TL_INLINE i16 i16_select(m16 m, i16 x, i16 y) {
    return (i16){_mm256_blendv_epi8(y.a, x.a, m.a), _mm256_blendv_epi8(y.b, x.b, m.b)};
}

TL_INLINE __m256 v16_low(v16 x) {
    return x.a;
}
TL_INLINE __m256 v16_high(v16 x) {
    return x.b;
}

TL_INLINE d16 d16_zero(void) {
    const __m256d z = _mm256_setzero_pd();
    return (d16){{z, z, z, z}};
}
TL_INLINE d16 d16_from(v16 x) {
    return (d16){{_mm256_cvtps_pd(_mm256_castps256_ps128(x.a)), _mm256_cvtps_pd(_mm256_extractf128_ps(x.a, 1)),
                  _mm256_cvtps_pd(_mm256_castps256_ps128(x.b)), _mm256_cvtps_pd(_mm256_extractf128_ps(x.b, 1))}};
}
TL_INLINE d16 d16_add(d16 x, d16 y) {
    for (int i = 0; i < 4; i++) x.q[i] = _mm256_add_pd(x.q[i], y.q[i]);
    return x;
}
TL_INLINE d16 d16_mul(d16 x, d16 y) {
    for (int i = 0; i < 4; i++) x.q[i] = _mm256_mul_pd(x.q[i], y.q[i]);
    return x;
}
TL_INLINE d16 d16_fma(d16 x, d16 y, d16 z) {
    for (int i = 0; i < 4; i++) z.q[i] = _mm256_fmadd_pd(x.q[i], y.q[i], z.q[i]);
    return z;
}
/* The fixed tree: l[j]+l[j+8], then +4, +2, +1. */
TL_INLINE double d16_sum(d16 x) {
    __m256d h = _mm256_add_pd(_mm256_add_pd(x.q[0], x.q[2]), _mm256_add_pd(x.q[1], x.q[3]));
    __m128d q = _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
    return _mm_cvtsd_f64(_mm_add_sd(q, _mm_unpackhi_pd(q, q)));
}

/* Sixteen pairs of 16-bit numbers, the even one below; n < 32 of them, zeros beyond. */
TL_INLINE v16 v16_load_halves(const uint16_t *p) {
    return v16_load((const float *)(const void *)p);
}
TL_INLINE v16 v16_load_halves_n(const uint16_t *p, int n) {
    uint16_t h[32] = {0};
    memcpy(h, p, (size_t)n * sizeof *h);
    return v16_load_halves(h);
}
/* f16 to f32, exact. */
TL_INLINE void v16_from_f16_pairs(v16 pairs, v16 *even, v16 *odd) {
    const i16 x = v16_as_int(pairs), low = i16_and(x, i16_set1(0xffff)), high = i16_shr(x, 16);
    const __m256i a = _mm256_permute4x64_epi64(_mm256_packus_epi32(low.a, high.a), 0xd8);
    const __m256i b = _mm256_permute4x64_epi64(_mm256_packus_epi32(low.b, high.b), 0xd8);
    *even = (v16){_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_castsi256_si128(b))};
    *odd = (v16){_mm256_cvtph_ps(_mm256_extracti128_si256(a, 1)), _mm256_cvtph_ps(_mm256_extracti128_si256(b, 1))};
}

/* Sixteen stored numbers, widened: exact. */
TL_INLINE v16 v16_load_f16(const uint16_t *p) {
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
TL_INLINE v16 v16_load_bf16(const uint16_t *p) {
    const i16 x = {_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)),
                   _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 8)))};
    return i16_as_float(i16_shl(x, 16));
}
TL_INLINE v16 v16_load_int8(const int8_t *p) {
    return i16_to_float((i16){_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)),
                              _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8)))});
}
/* And narrowed: to the nearest f16, ties to even; the low half or byte of each integer. */
TL_INLINE void v16_store_f16(uint16_t *p, v16 x) {
    enum { HOW = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, HOW));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, HOW));
}
TL_INLINE void i16_store_int16(uint16_t *p, i16 x) {
    const i16 low = i16_and(x, i16_set1(0xffff)); /* packing saturates; it works half by half of a register */
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(_mm256_packus_epi32(low.a, low.b), 0xd8));
}
TL_INLINE void i16_store_int8(int8_t *p, i16 x) {
    uint16_t words[16];
    i16_store_int16(words, i16_and(x, i16_set1(0xff)));
    const __m256i w = _mm256_loadu_si256((const __m256i *)words);
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}

/* Eight rows of eight lanes. */
TL_INLINE void m256_transpose(__m256 r[8]) {
    __m256 t[8];
    for (int i = 0; i < 8; i += 4) {
        __m256 a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
        __m256 c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = _mm256_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
    }
}
/* r[i] lane j ↔ r[j] lane i: four 8×8 blocks, the off-diagonal two exchanged. */
TL_INLINE void v16_transpose(v16 r[16]) {
    __m256 p[8], q[8];
    for (int i = 0; i < 8; i++) p[i] = r[i].a;
    m256_transpose(p);
    for (int i = 0; i < 8; i++) r[i].a = p[i];
    for (int i = 0; i < 8; i++) p[i] = r[i].b, q[i] = r[i + 8].a;
    m256_transpose(p);
    m256_transpose(q);
    for (int i = 0; i < 8; i++) r[i].b = q[i], r[i + 8].a = p[i];
    for (int i = 0; i < 8; i++) p[i] = r[i + 8].b;
    m256_transpose(p);
    for (int i = 0; i < 8; i++) r[i + 8].b = p[i];
}

#else
#error "simd.h is for objects compiled with TL_ISA_avx2 or TL_ISA_avx512"
#endif

TL_INLINE bool m16_any(m16 m) {
    return m16_bits(m) != 0;
}
TL_INLINE bool m16_all(m16 m) {
    return m16_bits(m) == 0xffff;
}
TL_INLINE m16 v16_gt(v16 a, v16 b) {
    return v16_lt(b, a);
}
TL_INLINE m16 v16_ge(v16 a, v16 b) {
    return v16_le(b, a);
}
TL_INLINE v16 v16_and(v16 a, v16 b) {
    return i16_as_float(i16_and(v16_as_int(a), v16_as_int(b)));
}
TL_INLINE v16 v16_or(v16 a, v16 b) {
    return i16_as_float(i16_or(v16_as_int(a), v16_as_int(b)));
}
TL_INLINE v16 v16_xor(v16 a, v16 b) {
    return i16_as_float(i16_xor(v16_as_int(a), v16_as_int(b)));
}
TL_INLINE v16 v16_abs(v16 a) {
    return i16_as_float(i16_and(v16_as_int(a), i16_set1(0x7fffffff)));
}
TL_INLINE v16 v16_neg(v16 a) {
    return i16_as_float(i16_xor(v16_as_int(a), i16_set1((int32_t)0x80000000u)));
}
/* Lanes where m holds, +0 elsewhere. */
TL_INLINE v16 v16_keep(m16 m, v16 a) {
    return v16_select(m, a, v16_zero());
}
/* To the nearest bf16, ties to even. */
TL_INLINE void v16_store_bf16(uint16_t *p, v16 a) {
    const i16 x = v16_as_int(a), high = i16_shr(x, 16);
    const i16 rounded = i16_shr(i16_add(x, i16_add(i16_set1(0x7fff), i16_and(high, i16_set1(1)))), 16);
    i16_store_int16(p, i16_select(v16_isnan(a), i16_or(high, i16_set1(64)), rounded));
}

/* The fixed tree of ops.h: l[j]+l[j+8], then +4, +2, +1. */
TL_INLINE float v16_sum(v16 x) {
    __m256 h = _mm256_add_ps(v16_low(x), v16_high(x));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
/* The same tree of `a > b ? a : b`. */
TL_INLINE float v16_max_reduce(v16 x) {
    __m256 h = _mm256_max_ps(v16_low(x), v16_high(x));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

#endif
