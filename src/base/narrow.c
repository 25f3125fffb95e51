/* narrow.c — f32 to stored numbers: the bytes of ggml's reference quantisers, without importance weights.
 *
 * A reference (ggml-quants.c) is a search in f32, so that equal bytes ask for its operations in its order: sums run
 * from the first element to the last, and a product of three is made from the left. Where it converts a float beyond an
 * integer's range, which C leaves open, x86's result is the definition: every caller refuses NaN and infinity, but the
 * inverse of a denormal scale is infinite. */
#include <assert.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include "base/blocks.h"

static float put_half(uint8_t *at, float x) { /* what is read back */
    const uint16_t half = tl__f16_from_f32(x);
    memcpy(at, &half, 2);
    return tl__f16_to_f32(half);
}

static int truncated(float x) {
    return x >= -0x1p31f && x < 0x1p31f ? (int)x : INT_MIN;
}

/* Ties to even, for |x| < 2^22; beyond, what the bits of the sum say. */
static int nearest(float x) {
    return (int)(tl__f32_to_bits(x + 0x1.8p23f) & 0x7fffff) - 0x400000;
}

static int clamp(int x, int least, int most) {
    return x < least ? least : x > most ? most : x;
}

/* ---- blocks of 32 ---- */

/* The element of the largest magnitude, the first of them. */
static float extreme(const float *x, int n) {
    float most = 0, found = 0;
    for (int i = 0; i < n; i++)
        if (most < fabsf(x[i])) most = fabsf(x[i]), found = x[i];
    return found;
}

static void q8_0(uint8_t *b, const float *x) {
    const float d = fabsf(extreme(x, 32)) / 127, inverse = d != 0 ? 1 / d : 0;
    put_half(b, d);
    for (int i = 0; i < 32; i++) b[2 + i] = (uint8_t)truncated(roundf(x[i] * inverse));
}

/* Levels of `bits` bits from 0 on, whose middle is zero; the extreme has the lowest. Their fifth bits go to *high. */
static void symmetric(uint8_t *b, const float *x, int bits, uint8_t *q, uint32_t *high) {
    const int middle = 1 << (bits - 1);
    const float d = extreme(x, 32) / (float)-middle, inverse = d != 0 ? 1 / d : 0, half = (float)middle + 0.5f;
    put_half(b, d);
    *high = 0;
    for (int i = 0; i < 16; i++) {
        const int low = (int8_t)truncated(x[i] * inverse + half), up = (int8_t)truncated(x[i + 16] * inverse + half);
        const uint8_t l = (uint8_t)(low < 2 * middle - 1 ? low : 2 * middle - 1);
        const uint8_t u = (uint8_t)(up < 2 * middle - 1 ? up : 2 * middle - 1);
        q[i] = bits == 4 ? (uint8_t)(l | u << 4) : (uint8_t)((l & 15) | u << 4);
        *high |= (uint32_t)(l >> 4 & 1) << i | (uint32_t)(u >> 4 & 1) << (i + 16);
    }
}

static void q4_0(uint8_t *b, const float *x) {
    uint32_t none;
    symmetric(b, x, 4, b + 2, &none);
}

static void q5_0(uint8_t *b, const float *x) {
    uint32_t high;
    symmetric(b, x, 5, b + 6, &high);
    memcpy(b + 2, &high, 4);
}

/* Levels from the least element to the greatest. */
static void ranged(uint8_t *b, const float *x, int bits, uint8_t *q, uint32_t *high) {
    float least = FLT_MAX, most = -FLT_MAX;
    for (int i = 0; i < 32; i++) {
        if (x[i] < least) least = x[i];
        if (x[i] > most) most = x[i];
    }
    const int top = (1 << bits) - 1;
    const float d = (most - least) / (float)top, inverse = d != 0 ? 1 / d : 0;
    put_half(b, d);
    put_half(b + 2, least);
    *high = 0;
    for (int i = 0; i < 16; i++) {
        const int low = truncated((x[i] - least) * inverse + 0.5f);
        const int up = truncated((x[i + 16] - least) * inverse + 0.5f);
        const uint8_t l = bits == 4 && (int8_t)low > top ? (uint8_t)top : (uint8_t)low;
        const uint8_t u = bits == 4 && (int8_t)up > top ? (uint8_t)top : (uint8_t)up;
        q[i] = bits == 4 ? (uint8_t)(l | u << 4) : (uint8_t)((l & 15) | u << 4);
        *high |= (uint32_t)(l >> 4 & 1) << i | (uint32_t)(u >> 4 & 1) << (i + 16);
    }
}

static void q4_1(uint8_t *b, const float *x) {
    uint32_t none;
    ranged(b, x, 4, b + 4, &none);
}

static void q5_1(uint8_t *b, const float *x) {
    uint32_t high;
    ranged(b, x, 5, b + 8, &high);
    memcpy(b + 4, &high, 4);
}

/* ---- Q4_K and Q5_K: eight groups of 32 with scale and minimum ---- */

/* The levels 0 … top, scale and minimum with the least weighted square error of those that a regression gives for
 * steps + 1 spreads of the range: x ≈ scale·level − *minimum. */
static float fit_range(uint8_t *levels, float *minimum, const float *x, const float *weights, int top, float first,
                       int steps) {
    uint8_t tried[32];
    float least = x[0], most = x[0], sum_w = weights[0], sum_x = sum_w * x[0];
    for (int i = 1; i < 32; i++) {
        if (x[i] < least) least = x[i];
        if (x[i] > most) most = x[i];
        sum_w += weights[i];
        sum_x += weights[i] * x[i];
    }
    if (least > 0) least = 0;
    *minimum = -least;
    if (most == least) {
        memset(levels, 0, 32);
        return 0;
    }
    float inverse = (float)top / (most - least), scale = 1 / inverse, best = 0;
    for (int i = 0; i < 32; i++) {
        levels[i] = (uint8_t)clamp(nearest(inverse * (x[i] - least)), 0, top);
        const float off = scale * (float)levels[i] + least - x[i];
        best += weights[i] * (off * off);
    }
    for (int s = 0; s <= steps; s++) {
        inverse = (first + 0.1f * (float)s + (float)top) / (most - least);
        float sum_l = 0, sum_l2 = 0, sum_xl = 0;
        for (int i = 0; i < 32; i++) {
            const int l = clamp(nearest(inverse * (x[i] - least)), 0, top);
            tried[i] = (uint8_t)l;
            const float wl = weights[i] * (float)l;
            sum_l += wl;
            sum_l2 += wl * (float)l;
            sum_xl += wl * x[i];
        }
        const float determinant = sum_w * sum_l2 - sum_l * sum_l;
        if (!(determinant > 0)) continue;
        float new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        float new_least = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        if (new_least > 0) {
            new_least = 0;
            new_scale = sum_xl / sum_l2;
        }
        float error = 0;
        for (int i = 0; i < 32; i++) {
            const float off = new_scale * (float)tried[i] + new_least - x[i];
            error += weights[i] * (off * off);
        }
        if (error < best) {
            memcpy(levels, tried, 32);
            best = error, scale = new_scale, least = new_least;
        }
    }
    *minimum = -least;
    return scale;
}

/* d, dmin and the 12 bytes of scales into b[16]; levels[256] of 0 … top. */
static void fit_block(uint8_t *b, uint8_t *levels, const float *x, int top, float first, int steps) {
    float scales[8], minima[8], most_scale = 0, most_minimum = 0;
    for (int g = 0; g < 8; g++) {
        float weights[32], squares = 0;
        for (int i = 0; i < 32; i++) squares += x[32 * g + i] * x[32 * g + i];
        const float level = sqrtf(squares / 32);
        for (int i = 0; i < 32; i++) weights[i] = level + fabsf(x[32 * g + i]);
        scales[g] = fit_range(levels + 32 * g, &minima[g], x + 32 * g, weights, top, first, steps);
        if (scales[g] > most_scale) most_scale = scales[g];
        if (minima[g] > most_minimum) most_minimum = minima[g];
    }
    const float inverse_scale = most_scale > 0 ? 63 / most_scale : 0;
    const float inverse_minimum = most_minimum > 0 ? 63 / most_minimum : 0;
    const float d = put_half(b, most_scale / 63), least = put_half(b + 2, most_minimum / 63);
    uint8_t *s = b + 4;
    for (int g = 0; g < 8; g++) {
        uint8_t scale = (uint8_t)nearest(inverse_scale * scales[g]);
        uint8_t minimum = (uint8_t)nearest(inverse_minimum * minima[g]);
        if (scale > 63) scale = 63;
        if (minimum > 63) minimum = 63;
        if (g < 4) {
            s[g] = scale, s[g + 4] = minimum;
        } else {
            s[g + 4] = (uint8_t)((scale & 15) | minimum << 4);
            s[g - 4] |= (uint8_t)(scale >> 4 << 6);
            s[g] |= (uint8_t)(minimum >> 4 << 6);
        }
        const float fine = d * (float)scale, under = least * (float)minimum;
        if (fine == 0) continue; /* the levels of the search stay */
        for (int i = 0; i < 32; i++)
            levels[32 * g + i] = (uint8_t)clamp(nearest((x[32 * g + i] + under) / fine), 0, top);
    }
}

static void q4_k(uint8_t *b, const float *x) {
    uint8_t levels[256];
    fit_block(b, levels, x, 15, -1, 20);
    for (int i = 0; i < 128; i++) {
        const uint8_t *l = levels + i / 32 * 64 + i % 32;
        b[16 + i] = (uint8_t)(l[0] | l[32] << 4);
    }
}

static void q5_k(uint8_t *b, const float *x) {
    uint8_t levels[256];
    fit_block(b, levels, x, 31, -0.5f, 15);
    memset(b + 16, 0, 32);
    for (int i = 0; i < 256; i++) b[16 + i % 32] |= (uint8_t)(levels[i] >> 4 << i / 32);
    for (int i = 0; i < 128; i++) {
        const uint8_t *l = levels + i / 32 * 64 + i % 32;
        b[48 + i] = (uint8_t)((l[0] & 15) | l[32] << 4);
    }
}

/* ---- Q6_K: sixteen groups of 16 with a signed scale ---- */

#define NOTHING 1e-15f /* a group below is zero */

/* The levels of the scale 1/inverse, 0 … 63 for −32 … 31, and the sums of its regression with weights x². */
static void sums_q6(const float *x, float inverse, float *sum_xl, float *sum_l2) {
    *sum_xl = *sum_l2 = 0;
    for (int i = 0; i < 16; i++) {
        const float l = (float)clamp(nearest(inverse * x[i]), -32, 31), w = x[i] * x[i];
        *sum_xl += w * x[i] * l;
        *sum_l2 += w * l * l;
    }
}

static float fit_scale(uint8_t *levels, const float *x) {
    const float most = extreme(x, 16);
    memset(levels, 0, 16);
    if (fabsf(most) < NOTHING) return 0;
    float sum_xl, sum_l2, found = -32 / most;
    sums_q6(x, found, &sum_xl, &sum_l2);
    float scale = sum_l2 != 0 ? sum_xl / sum_l2 : 0, best = scale * sum_xl;
    for (int s = -9; s <= 9; s++) {
        if (s == 0) continue;
        const float inverse = -(32 + 0.1f * (float)s) / most;
        sums_q6(x, inverse, &sum_xl, &sum_l2);
        if (sum_l2 > 0 && sum_xl * sum_xl > best * sum_l2)
            found = inverse, scale = sum_xl / sum_l2, best = scale * sum_xl;
    }
    for (int i = 0; i < 16; i++) levels[i] = (uint8_t)(clamp(nearest(found * x[i]), -32, 31) + 32);
    return scale;
}

static void q6_k(uint8_t *b, const float *x) {
    uint8_t levels[256];
    float scales[16];
    for (int g = 0; g < 16; g++) scales[g] = fit_scale(levels + 16 * g, x + 16 * g);
    const float most = extreme(scales, 16);
    memset(b, 0, 210);
    if (fabsf(most) < NOTHING) return;
    const float inverse = -128 / most, d = put_half(b + 208, 1 / inverse);
    for (int g = 0; g < 16; g++) {
        const int scale = nearest(inverse * scales[g]);
        b[192 + g] = (uint8_t)(scale < 127 ? scale : 127);
        const float fine = d * (float)(int8_t)b[192 + g];
        if (fine == 0) continue; /* the levels of the search stay */
        for (int i = 0; i < 16; i++) levels[16 * g + i] = (uint8_t)(clamp(nearest(x[16 * g + i] / fine), -32, 31) + 32);
    }
    for (int i = 0; i < 256; i++) { /* as widen.c's q6_k reads them */
        const int half = i / 128, quarter = i % 128 / 32, at = i % 32;
        b[64 * half + quarter % 2 * 32 + at] |= (uint8_t)((levels[i] & 15) << quarter / 2 * 4);
        b[128 + 32 * half + at] |= (uint8_t)(levels[i] >> 4 << quarter * 2);
    }
}

static void (*const block_of[TL_TYPES])(uint8_t *block, const float *x) = {
    [TL_Q4_0] = q4_0, [TL_Q4_1] = q4_1, [TL_Q5_0] = q5_0, [TL_Q5_1] = q5_1,
    [TL_Q8_0] = q8_0, [TL_Q4_K] = q4_k, [TL_Q5_K] = q5_k, [TL_Q6_K] = q6_k,
};

bool tl__can_narrow(tl_type type) {
    return type == TL_F32 || type == TL_F16 || type == TL_BF16 || block_of[type];
}

void tl__narrow(void *out, tl_type type, const float *in, int64_t n) {
    uint8_t *bytes = out;
    assert(tl__can_narrow(type));
    if (type == TL_F32) {
        memcpy(out, in, (size_t)n * sizeof *in);
        return;
    }
    if (!tl__type_quantised(type)) {
        for (int64_t i = 0; i < n; i++) {
            const uint16_t half = type == TL_F16 ? tl__f16_from_f32(in[i]) : tl__bf16_from_f32(in[i]);
            memcpy(bytes + 2 * i, &half, 2);
        }
        return;
    }
    const int64_t block = tl__type_block(type), size = (int64_t)tl__type_bytes(type);
    assert(n % block == 0);
    for (int64_t i = 0; i < n / block; i++) block_of[type](bytes + i * size, in + i * block);
}
