/* attention_stored.h — keys and values that are kept in fewer bits than f32: read as a chunk widened to f32, written as
 * rows narrowed into their blocks.
 *
 * A chunk is widened once for all the items that see it, and from there on is as if it had been stored in f32. While a
 * part is read the same part of the next chunk is asked for. */
#ifndef TL_KERNELS_CPU_ATTENTION_STORED_H
#define TL_KERNELS_CPU_ATTENTION_STORED_H

#include <math.h>
#include "kernels/cpu/attention_tiles.h"

enum { GROUPS = TL_MAX_HEAD_DIM / TL_KV_GROUP };

/* Sixteen numbers; `type` is a constant where this is compiled. */
TL_INLINE v16 load_stored(tl_type type, const unsigned char *at, int64_t i) {
    if (type == TL_F16) return v16_load_f16((const uint16_t *)(const void *)at + i);
    if (type == TL_BF16) return v16_load_bf16((const uint16_t *)(const void *)at + i);
    return v16_load_int8((const int8_t *)at + i);
}

TL_INLINE void ask_lines(const unsigned char *part, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) tl_prefetch_l2(part + i);
}

/* to[D][16] of a part of keys. */
TL_INLINE void widen_keys_as(tl_type type, float *to, const unsigned char *part, int D) {
    const uint16_t *scales = (const uint16_t *)(const void *)(part + D * BLOCK);
    for (int d0 = 0; d0 < D; d0 += TL_KV_GROUP) {
        const int end = min_int(d0 + TL_KV_GROUP, D);
        const v16 scale = type == TL_Q8_0 ? v16_load_f16(scales + d0 / TL_KV_GROUP * BLOCK) : v16_zero();
        for (int d = d0; d < end; d++) {
            const v16 x = load_stored(type, part, (int64_t)d * BLOCK);
            v16_store(to + d * BLOCK, type == TL_Q8_0 ? v16_mul(x, scale) : x);
        }
    }
}

/* to[16][Dv·16] of a part of values, zeros behind each row. */
TL_INLINE void widen_values_as(tl_type type, float *to, const unsigned char *part, int D) {
    const int rest = D % 16, bytes = type == TL_Q8_0 ? 1 : 2;
    const uint16_t *scales = (const uint16_t *)(const void *)(part + D * BLOCK);
    float scale[GROUPS][BLOCK];
    if (type == TL_Q8_0)
        for (int g = 0; g * TL_KV_GROUP < D; g++) v16_store(scale[g], v16_load_f16(scales + g * BLOCK));
    for (int k = 0; k < BLOCK; k++) {
        const unsigned char *row = part + (int64_t)k * D * bytes;
        for (int d = 0; d < D; d += 16, to += 16) {
            unsigned char last[32] = {0};
            if (D - d < 16) memcpy(last, row + d * bytes, (size_t)(rest * bytes));
            const v16 x = D - d < 16 ? load_stored(type, last, 0) : load_stored(type, row, d);
            v16_store(to, type == TL_Q8_0 ? v16_mul(x, v16_set1(scale[d / TL_KV_GROUP][k])) : x);
        }
    }
}

#define DEFINE_WIDEN(name)                                                                                             \
    static void name(float *to, tl_type type, const unsigned char *part, const unsigned char *next, int D) {           \
        if (next) ask_lines(next, tl_kv_part_bytes(type, D));                                                          \
        if (type == TL_F16) name##_as(TL_F16, to, part, D);                                                            \
        else if (type == TL_BF16) name##_as(TL_BF16, to, part, D);                                                     \
        else name##_as(TL_Q8_0, to, part, D);                                                                          \
    }
DEFINE_WIDEN(widen_keys)
DEFINE_WIDEN(widen_values)

/* The nearest integer, ties away from 0. */
TL_INLINE v16 round_away(v16 x) {
    const v16 size = v16_abs(x), down = v16_floor(size);
    const v16 up = v16_add(down, v16_keep(v16_ge(v16_sub(size, down), v16_set1(0.5f)), v16_set1(1)));
    return v16_or(up, v16_and(x, v16_set1(-0.0f)));
}

/* Up to 32 numbers x[n] → q[n] and their scale. */
static uint16_t quantise_group(int8_t *q, const float *x, int n) {
    v16 a[2] = {v16_load_n(x, min_int(n, 16)), v16_load_n(x + 16, max_int(n - 16, 0))};
    const v16 size[2] = {v16_abs(a[0]), v16_abs(a[1])}, infinity = v16_set1(INFINITY);
    uint16_t scale[16];
    if (!m16_all(m16_and(v16_lt(size[0], infinity), v16_lt(size[1], infinity)))) {
        memset(q, 0, TL_KV_GROUP);
        return 0x7e00;
    }
    const float d = v16_max_reduce(v16_max(size[0], size[1])) / 127, inverse = d != 0 ? 1 / d : 0;
    for (int h = 0; h < 2; h++)
        i16_store_int8(q + 16 * h, v16_to_int(inverse < INFINITY ? round_away(v16_mul(a[h], v16_set1(inverse))) : v16_zero()));
    v16_store_f16(scale, v16_set1(d));
    return scale[0];
}

/* One key or value x[D] into its part: number d to first + d·step. */
static void narrow_row(unsigned char *part, tl_type type, int key, int first, int step, const float *x, int D) {
    if (type == TL_Q8_0) {
        for (int d0 = 0; d0 < D; d0 += TL_KV_GROUP) {
            const int n = min_int(D - d0, TL_KV_GROUP);
            int8_t q[TL_KV_GROUP];
            const uint16_t scale = quantise_group(q, x + d0, n);
            memcpy(part + D * BLOCK + 2 * (d0 / TL_KV_GROUP * BLOCK + key), &scale, 2);
            for (int d = 0; d < n; d++) part[first + (d0 + d) * step] = (unsigned char)q[d];
        }
        return;
    }
    for (int d0 = 0; d0 < D; d0 += 16) {
        const int n = min_int(D - d0, 16);
        const v16 a = n == 16 ? v16_load(x + d0) : v16_load_n(x + d0, n);
        uint16_t half[16], *to = (uint16_t *)(void *)part + first + d0 * step;
        if (type == TL_F16) v16_store_f16(half, a);
        else v16_store_bf16(half, a);
        for (int d = 0; d < n; d++) to[d * step] = half[d];
    }
}

#endif
