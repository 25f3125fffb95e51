/* widen.c — stored numbers to f32.
 *
 * The layouts of quantised blocks are ggml's (ggml-common.h), little-endian: scales are halves, levels lie in nibbles,
 * pairs of bits or bytes. A level times its scales is exact in f32 (at most 24 bits of product), so that only the
 * subtraction of a minimum rounds. */
#include <assert.h>
#include <string.h>

#include "base/blocks.h"

static float half_at(const uint8_t *p) {
    return tl__f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

/* sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity: all ones are NaN. Subnormals are m·2^−9. */
static float e4m3_to_f32(uint8_t b) {
    const uint32_t sign = (uint32_t)(b & 0x80) << 24, magnitude = b & 0x7f;
    const uint32_t tiny = tl__f32_to_bits((float)(int)magnitude * 0x1p-9f), moved = (magnitude << 20) + (120u << 23);
    const uint32_t small = tl__bits_below(magnitude, 8), special = tl__bits_below(0x7e, magnitude);
    return tl__f32_from_bits(sign | (small & tiny) | (~small & (moved | (special & 0x7fc00000))));
}

/* ---- blocks of 32: one scale (and a minimum); element i and i + 16 share a byte of nibbles ---- */

static void q4_0(float *out, const uint8_t *b) { /* d, 16 bytes: d·(q − 8) */
    const float d = half_at(b);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((b[2 + i] & 15) - 8);
        out[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

static void q4_1(float *out, const uint8_t *b) { /* d, m, 16 bytes: d·q + m */
    const float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(b[4 + i] & 15) + m;
        out[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

static uint32_t word_at(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void q5_0(float *out, const uint8_t *b) { /* d, the 32 high bits, 16 bytes: d·(q − 16) */
    const float d = half_at(b);
    const uint32_t high = word_at(b + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((int)((b[6 + i] & 15) | (high >> i & 1) << 4) - 16);
        out[i + 16] = d * (float)((int)(b[6 + i] >> 4 | (high >> (i + 16) & 1) << 4) - 16);
    }
}

static void q5_1(float *out, const uint8_t *b) { /* d, m, the 32 high bits, 16 bytes: d·q + m */
    const float d = half_at(b), m = half_at(b + 2);
    const uint32_t high = word_at(b + 4);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(int)((b[8 + i] & 15) | (high >> i & 1) << 4) + m;
        out[i + 16] = d * (float)(int)(b[8 + i] >> 4 | (high >> (i + 16) & 1) << 4) + m;
    }
}

static void q8_0(float *out, const uint8_t *b) { /* d, 32 signed bytes: d·q */
    const float d = half_at(b);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(int8_t)b[2 + i];
}

static const int8_t iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static void iq4_nl(float *out, const uint8_t *b) { /* d, 16 bytes: d·level[q] */
    const float d = half_at(b);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)iq4_levels[b[2 + i] & 15];
        out[i + 16] = d * (float)iq4_levels[b[2 + i] >> 4];
    }
}

/* ---- blocks of 256, in groups of 16 or 32 with small integer scales of their own ---- */

/* 16 bytes (scale in the low nibble, minimum in the high one, of 16 groups of 16), 64 bytes of pairs of bits, d, dmin.
 * A half block of 128 has 32 bytes; pair j of them are elements 32j … 32j + 31. */
static void q2_k(float *out, const uint8_t *b) {
    const float d = half_at(b + 80), least = half_at(b + 82);
    for (int g = 0; g < 16; g++) {
        const uint8_t *q = b + 16 + g / 8 * 32 + g % 2 * 16;
        const int shift = g % 8 / 2 * 2;
        const float scale = d * (float)(b[g] & 15), m = least * (float)(b[g] >> 4);
        for (int i = 0; i < 16; i++) out[16 * g + i] = scale * (float)(q[i] >> shift & 3) - m;
    }
}

/* 32 bytes of third bits (bit j of byte i: element 32j + i), 64 bytes of pairs of bits as in Q2_K, 12 bytes of 16
 * scales of 6 bits less 32 (low nibbles in 8 bytes, then pairs of high bits in 4), d. */
static void q3_k(float *out, const uint8_t *b) {
    const uint8_t *scales = b + 96;
    const float d = half_at(b + 108);
    for (int g = 0; g < 16; g++) {
        const int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4, high = scales[8 + g % 4] >> g / 4 * 2 & 3;
        const float scale = d * (float)((low | high << 4) - 32);
        const uint8_t *q = b + 32 + g / 8 * 32 + g % 2 * 16, *third = b + g % 2 * 16;
        const int shift = g % 8 / 2 * 2, bit = g / 2;
        for (int i = 0; i < 16; i++)
            out[16 * g + i] = scale * (float)((q[i] >> shift & 3) - (third[i] >> bit & 1 ? 0 : 4));
    }
}

/* Scale and minimum of group g of 8, 6 bits each, from 12 bytes: of the first four groups whole, of the last four a
 * byte of low nibbles, whose high pairs lie above the first four's. */
static void scale_and_minimum(const uint8_t *s, int g, int *scale, int *minimum) {
    if (g < 4) *scale = s[g] & 63, *minimum = s[g + 4] & 63;
    else *scale = (s[g + 4] & 15) | s[g - 4] >> 6 << 4, *minimum = s[g + 4] >> 4 | s[g] >> 6 << 4;
}

/* d, dmin, 12 bytes of scales, 128 bytes: groups 2j and 2j + 1 are the low and the high nibbles of 32 bytes. */
static void q4_k(float *out, const uint8_t *b) {
    const float d = half_at(b), least = half_at(b + 2);
    for (int g = 0; g < 8; g++) {
        int s, m;
        scale_and_minimum(b + 4, g, &s, &m);
        const uint8_t *q = b + 16 + g / 2 * 32;
        const int shift = g % 2 * 4;
        const float scale = d * (float)s, minimum = least * (float)m;
        for (int i = 0; i < 32; i++) out[32 * g + i] = scale * (float)(q[i] >> shift & 15) - minimum;
    }
}

/* The same with 32 bytes of fifth bits (bit g of byte i: element 32g + i) before the nibbles. */
static void q5_k(float *out, const uint8_t *b) {
    const float d = half_at(b), least = half_at(b + 2);
    const uint8_t *fifth = b + 16;
    for (int g = 0; g < 8; g++) {
        int s, m;
        scale_and_minimum(b + 4, g, &s, &m);
        const uint8_t *q = b + 48 + g / 2 * 32;
        const int shift = g % 2 * 4;
        const float scale = d * (float)s, minimum = least * (float)m;
        for (int i = 0; i < 32; i++)
            out[32 * g + i] = scale * (float)((q[i] >> shift & 15) | (fifth[i] >> g & 1) << 4) - minimum;
    }
}

/* 128 bytes of nibbles, 64 of pairs of high bits, 16 signed scales, d. A half block of 128 has 64 + 32 bytes: its
 * quarter j takes nibbles j / 2 of bytes 32(j % 2) …, and pair j. */
static void q6_k(float *out, const uint8_t *b) {
    const float d = half_at(b + 208);
    for (int g = 0; g < 16; g++) {
        const int half = g / 8, quarter = g % 8 / 2, at = g % 2 * 16;
        const uint8_t *low = b + 64 * half + quarter % 2 * 32 + at, *high = b + 128 + 32 * half + at;
        const int nibble = quarter / 2 * 4, pair = quarter * 2;
        const float scale = d * (float)(int8_t)b[192 + g];
        for (int i = 0; i < 16; i++)
            out[16 * g + i] = scale * (float)(((low[i] >> nibble & 15) | (high[i] >> pair & 3) << 4) - 32);
    }
}

/* d, 2 bytes of pairs of high bits, 4 bytes of nibbles: 8 scales of 6 bits less 32; then 8 groups as in IQ4_NL. */
static void iq4_xs(float *out, const uint8_t *b) {
    const float d = half_at(b);
    const int high = b[2] | b[3] << 8;
    for (int g = 0; g < 8; g++) {
        const float scale = d * (float)(((b[4 + g / 2] >> g % 2 * 4 & 15) | (high >> 2 * g & 3) << 4) - 32);
        const uint8_t *q = b + 8 + 16 * g;
        for (int i = 0; i < 16; i++) {
            out[32 * g + i] = scale * (float)iq4_levels[q[i] & 15];
            out[32 * g + i + 16] = scale * (float)iq4_levels[q[i] >> 4];
        }
    }
}

static void (*const block_of[TL_TYPES])(float *out, const uint8_t *block) = {
    [TL_Q4_0] = q4_0, [TL_Q4_1] = q4_1, [TL_Q5_0] = q5_0, [TL_Q5_1] = q5_1, [TL_Q8_0] = q8_0,     [TL_Q2_K] = q2_k,
    [TL_Q3_K] = q3_k, [TL_Q4_K] = q4_k, [TL_Q5_K] = q5_k, [TL_Q6_K] = q6_k, [TL_IQ4_NL] = iq4_nl, [TL_IQ4_XS] = iq4_xs,
};

bool tl__can_widen(tl_type type) {
    return type == TL_F32 || type == TL_F16 || type == TL_BF16 || type == TL_F8_E4M3 || type == TL_F8_E5M2 ||
           block_of[type];
}

void tl__widen(float *out, tl_type type, const void *in, int64_t n) {
    const uint8_t *bytes = in;
    assert(tl__can_widen(type));
    switch (type) {
    case TL_F32:
        memcpy(out, in, (size_t)n * sizeof *out);
        return;
    case TL_F16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t half;
            memcpy(&half, bytes + 2 * i, 2);
            out[i] = tl__f16_to_f32(half);
        }
        return;
    case TL_BF16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t half;
            memcpy(&half, bytes + 2 * i, 2);
            out[i] = tl__bf16_to_f32(half);
        }
        return;
    case TL_F8_E4M3:
        for (int64_t i = 0; i < n; i++) out[i] = e4m3_to_f32(bytes[i]);
        return;
    case TL_F8_E5M2: /* the upper byte of a half */
        for (int64_t i = 0; i < n; i++) out[i] = tl__f16_to_f32((uint16_t)(bytes[i] << 8));
        return;
    default:
        break;
    }
    const int64_t block = tl__type_block(type), size = (int64_t)tl__type_bytes(type);
    assert(n % block == 0);
    for (int64_t i = 0; i < n / block; i++) block_of[type](out + i * block, bytes + i * size);
}
