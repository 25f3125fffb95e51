/* widen.c — stored numbers to f32. */
#include <assert.h>
#include <string.h>

#include "base/blocks.h"

/* Exact: every half is a float. A subnormal half is m·2^−24; the others move their exponent from bias 15 to 127. */
float tl__f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023, bits;
    if (exponent == 0) {
        float tiny = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &tiny, 4);
    } else {
        bits = (exponent == 31 ? 255 : exponent + 112) << 23 | mantissa << 13;
    }
    bits |= sign;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

bool tl__can_widen(tl_type type) {
    return type == TL_F32 || type == TL_F16 || type == TL_BF16;
}

void tl__widen(float *out, tl_type type, const void *in, int64_t n) {
    const uint8_t *bytes = in;
    assert(tl__can_widen(type));
    if (type == TL_F32) {
        memcpy(out, in, (size_t)n * sizeof *out);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, bytes + 2 * i, 2);
        if (type == TL_F16) out[i] = tl__f16_to_f32(half);
        else {
            const uint32_t bits = (uint32_t)half << 16;
            memcpy(out + i, &bits, 4);
        }
    }
}
