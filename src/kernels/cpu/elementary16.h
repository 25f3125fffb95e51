/* elementary16.h — exp, tanh, erf and sigmoid of base/elementary.c, sixteen at a time: the same operations in the same
 * order, so the same bits. tests/kernels/test_elementary16.c compares them. */
#ifndef TL_KERNELS_CPU_ELEMENTARY16_H
#define TL_KERNELS_CPU_ELEMENTARY16_H

#include "kernels/simd.h"

TL_INLINE v16 v16_copysign(v16 size, v16 sign) {
    const v16 top = i16_as_float(i16_set1((int32_t)0x80000000u));
    return v16_or(size, v16_and(sign, top));
}

/* Round to nearest even by adding 1.5·2^23: *shifted holds n in its low bits. */
TL_INLINE v16 v16_reduce_ln2(v16 x, v16 *shifted) {
    const v16 magic = v16_set1(0x1.8p23f);
    *shifted = v16_fma(x, v16_set1(0x1.715476p+0f), magic);
    v16 n = v16_sub(*shifted, magic);
    return v16_fma(n, v16_set1(-0x1.7f7d1cp-20f), v16_fma(n, v16_set1(-0x1.62e400p-1f), x));
}

TL_INLINE v16 v16_exp_tail(v16 r) {
    v16 p = v16_set1(0x1.6ac74cp-10f);
    p = v16_fma(p, r, v16_set1(0x1.123de0p-7f));
    p = v16_fma(p, r, v16_set1(0x1.555858p-5f));
    p = v16_fma(p, r, v16_set1(0x1.55548cp-3f));
    return v16_fma(p, r, v16_set1(0x1.fffffcp-2f));
}

/* p·2^n, n in shifted's low bits. The scalar form multiplies by two powers of two, the first product exact: one
 * rounding, which is what vscalefps does. */
TL_INLINE v16 v16_scale2(v16 p, v16 shifted) {
#if defined(TL_ISA_avx512)
    return _mm512_scalef_ps(p, _mm512_sub_ps(shifted, _mm512_set1_ps(0x1.8p23f)));
#else
    const i16 bias = i16_set1(127);
    i16 i = i16_sub(v16_as_int(shifted), i16_set1(0x4b400000));
    i16 half = i16_sar(i, 1), rest = i16_sub(i, half);
    v16 s1 = i16_as_float(i16_shl(i16_add(half, bias), 23)), s2 = i16_as_float(i16_shl(i16_add(rest, bias), 23));
    return v16_mul(v16_mul(p, s1), s2);
#endif
}

/* e^x for x below 89 (or NaN): v16_exp without its upper end, which softmax and sigmoid never reach. */
TL_INLINE v16 v16_exp_below(v16 x) {
    x = v16_max(v16_set1(-104.0f), x);
    v16 shifted, r = v16_reduce_ln2(x, &shifted);
    const v16 one = v16_set1(1.0f);
    return v16_scale2(v16_fma(v16_fma(v16_exp_tail(r), r, one), r, one), shifted);
}

TL_INLINE v16 v16_exp(v16 x) {
    x = v16_min(v16_set1(89.0f), x);
    return v16_exp_below(x);
}

TL_INLINE v16 v16_sigmoid(v16 x) {
    const v16 one = v16_set1(1.0f), sign = v16_neg(v16_zero());
    v16 e = v16_exp_below(v16_or(x, sign)); /* e^−|x| */
    return v16_div(v16_select(v16_lt(x, v16_zero()), e, one), v16_add(e, one));
}

TL_INLINE v16 v16_tanh(v16 x) {
    v16 a = v16_abs(x), z = v16_mul(a, a);
    v16 p = v16_set1(-0x1.9c94b8p-8f);
    p = v16_fma(p, z, v16_set1(0x1.598278p-6f));
    p = v16_fma(p, z, v16_set1(-0x1.b931fcp-5f));
    p = v16_fma(p, z, v16_set1(0x1.110d6ap-3f));
    p = v16_fma(p, z, v16_set1(-0x1.55554cp-2f));
    v16 low = v16_fma(v16_mul(p, z), a, a);

    v16 y = v16_min(v16_set1(10.0f), a);
    y = v16_add(y, y);
    v16 shifted, r = v16_reduce_ln2(y, &shifted);
    const v16 one = v16_set1(1.0f);
    v16 scale = i16_as_float(i16_add(i16_shl(v16_as_int(shifted), 23), i16_set1(127 << 23)));
    v16 m = v16_fma(scale, v16_fma(v16_mul(r, r), v16_exp_tail(r), r), v16_sub(scale, one));
    v16 high = v16_div(m, v16_add(m, v16_set1(2.0f)));
    return v16_copysign(v16_select(v16_lt(a, v16_set1(0.55f)), low, high), x);
}

TL_INLINE v16 v16_erf(v16 x) {
    v16 a = v16_abs(x);
    a = v16_min(v16_set1(3.9375f), a);
    v16 z = v16_mul(a, a);
    v16 p = v16_set1(0x1.4f562ep-14f);
    p = v16_fma(p, z, v16_set1(-0x1.a606c2p-11f));
    p = v16_fma(p, z, v16_set1(0x1.5449e4p-8f));
    p = v16_fma(p, z, v16_set1(-0x1.b80118p-6f));
    p = v16_fma(p, z, v16_set1(0x1.ce2d64p-4f));
    p = v16_fma(p, z, v16_set1(-0x1.812740p-2f));
    p = v16_fma(p, z, v16_set1(0x1.06eba8p-3f));
    v16 q = v16_set1(0x1.624268p-16f);
    q = v16_fma(q, a, v16_set1(-0x1.c7d306p-12f));
    q = v16_fma(q, a, v16_set1(0x1.116f4ap-8f));
    q = v16_fma(q, a, v16_set1(-0x1.9b9c44p-6f));
    q = v16_fma(q, a, v16_set1(0x1.bb8950p-4f));
    q = v16_fma(q, a, v16_set1(0x1.44456cp-1f));
    q = v16_fma(q, a, v16_set1(0x1.21280cp+0f));
    q = v16_fma(q, a, v16_set1(-0x1.6f6492p-13f));
    v16 low = v16_fma(a, p, a), high = v16_sub(v16_set1(1.0f), v16_exp(v16_neg(q)));
    return v16_copysign(v16_select(v16_lt(a, v16_set1(0.921875f)), low, high), x);
}

#endif
