/* half.h — numbers of sixteen bits to f32 and back, by integers alone: one source for the CPU and for a device, which compiles it
 * for itself as it does elementary.c (kernels/cuda/cuda.h). Widening is exact; narrowing is to the nearest, ties to even. */
#ifndef TL_BASE_HALF_H
#define TL_BASE_HALF_H

#include <stdint.h>
#include <string.h>

#ifdef __cplusplus /* a device's compiler: nothing else here is C++ */
#define HALF static TL_DEVICE
#else
#define HALF static inline
#endif

HALF uint32_t tl__f32_to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}
HALF float tl__f32_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* All ones where a < b, else 0; without a comparison, so that the compiler sees no branch in a loop of them. */
HALF uint32_t tl__bits_below(uint32_t a, uint32_t b) {
    return (uint32_t)((int32_t)(a - b) >> 31);
}

/* A subnormal half is m·2^−24: what 2^−14 + m·2^−24, whose mantissa it is, has over 2^−14. The others move their exponent from bias
 * 15 to 127. */
HALF float tl__f16_to_f32(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7fff;
    const uint32_t moved = (magnitude << 13) + (112u << 23);
    const uint32_t tiny = tl__f32_to_bits(tl__f32_from_bits(moved + (1u << 23)) - 0x1p-14f);
    const uint32_t small = tl__bits_below(magnitude, 0x400), special = tl__bits_below(0x7bff, magnitude);
    return tl__f32_from_bits(sign | (small & tiny) | (~small & (moved + (special & 112u << 23))));
}

/* Below 2^−14 the sum with 0.5, whose unit is 2^−24, rounds; above, an addition to the bits does. NaN stays one. */
HALF uint16_t tl__f16_from_f32(float x) {
    const uint32_t bits = tl__f32_to_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000)
        return (uint16_t)(sign | (tl__f32_to_bits(tl__f32_from_bits(magnitude) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

HALF float tl__bf16_to_f32(uint16_t half) {
    return tl__f32_from_bits((uint32_t)half << 16);
}
/* NaN is made quiet. */
HALF uint16_t tl__bf16_from_f32(float x) {
    const uint32_t bits = tl__f32_to_bits(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#undef HALF
#endif
