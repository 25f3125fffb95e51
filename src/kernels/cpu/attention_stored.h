/* attention_stored.h — keys and values that are kept in fewer bits than f32: widened where they are read, narrowed into
 * their blocks.
 *
 * A chunk that many items see is widened once for them all, and from there on is as if it had been stored in f32. One
 * tile of items, as in decoding, has numbers widened in registers on their way into the sums. Either way they are the
 * same numbers in the same order. While a part is read the same part of the next chunk is asked for. */
#ifndef TL_KERNELS_CPU_ATTENTION_STORED_H
#define TL_KERNELS_CPU_ATTENTION_STORED_H

#include <math.h>
#include "kernels/cpu/attention_tiles.h"

/* ---- a chunk at a time ---- */

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

/* ---- items that see the same keys, from the chunk's first on: numbers are widened in registers; D is a multiple of
 * STRIPE ---- */

enum { STRIPE = 64 };

/* Numbers 16·i … of a part. */
TL_INLINE v16 load_scaled(tl_type type, const unsigned char *part, int64_t i, v16 scale) {
    const v16 x = load_stored(type, part, i);
    return type == TL_Q8_0 ? v16_mul(x, scale) : x;
}

/* s[r·CHUNK + 16v + lane] = Σ_d a[r·ROW + d]·(number 16d + lane of k[v]). */
TL_INLINE void stored_dots_tile(int rows, int vecs, tl_type type, float *s, const float *a,
                                const unsigned char *const *k, const unsigned char *const *ahead, int D) {
    enum { MOST = 4 };
    const int bytes = type == TL_Q8_0 ? 1 : 2, line = MOST / bytes; /* d of 64 bytes */
    v16 sum[TILE][MOST], scale[MOST];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++) sum[r][v] = v16_zero();
    for (int64_t d0 = 0; d0 < D; d0 += TL_KV_GROUP) {
        UNROLL for (int v = 0; v < vecs; v++) scale[v] =
            type == TL_Q8_0
                ? v16_load_f16((const uint16_t *)(const void *)(k[v] + D * BLOCK) + d0 / TL_KV_GROUP * BLOCK)
                : v16_zero();
        for (int64_t d1 = d0; d1 < d0 + TL_KV_GROUP; d1 += line) {
            UNROLL for (int v = 0; v < vecs; v++) tl_prefetch_l2(ahead[v] + d1 * BLOCK * bytes);
            UNROLL for (int64_t d = d1; d < d1 + line; d++) {
                v16 y[MOST];
                UNROLL for (int v = 0; v < vecs; v++) y[v] = load_scaled(type, k[v], d * BLOCK, scale[v]);
                UNROLL for (int r = 0; r < rows; r++) {
                    const v16 x = v16_set1(a[r * ROW + d]);
                    UNROLL for (int v = 0; v < vecs; v++) sum[r][v] = v16_fma(x, y[v], sum[r][v]);
                }
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++)
        v16_store(s + r * CHUNK + v * BLOCK, sum[r][v]);
}

/* c[r·ROW + …] ← Σ_j p[r·CHUNK + j]·v_j over the first `keys` values of a chunk, columns col … of each. */
TL_INLINE void stored_mix_tile(int rows, int vecs, tl_type type, float *c, const float *p,
                               const unsigned char *const *value, const unsigned char *const *ahead, int D, int keys,
                               int col, mix_end how, const mix_merge *merge) {
    const int bytes = type == TL_Q8_0 ? 1 : 2;
    v16 sum[TILE][4];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++) sum[r][v] = v16_zero();
    for (int b = 0; b * BLOCK < keys; b++) {
        float scale[4][BLOCK];
        if (type == TL_Q8_0)
            UNROLL for (int v = 0; v < vecs; v++)
                v16_store(scale[v], v16_load_f16((const uint16_t *)(const void *)(value[b] + D * BLOCK) +
                                                 (col / 16 + v) / 2 * BLOCK));
        for (int k = 0, end = min_int(keys - b * BLOCK, BLOCK); k < end; k++) {
            const int64_t at = (int64_t)k * D + col;
            v16 y[4];
            UNROLL for (int v = 0; v < vecs; v++) y[v] =
                load_scaled(type, value[b], at + v * 16, v16_set1(type == TL_Q8_0 ? scale[v][k] : 0));
            UNROLL for (int v = 0; v < vecs * bytes; v += 4) tl_prefetch_l2(ahead[b] + (at + v * 16 / bytes) * bytes);
            UNROLL for (int r = 0; r < rows; r++) {
                const v16 w = v16_set1(p[r * CHUNK + b * BLOCK + k]);
                UNROLL for (int v = 0; v < vecs; v++) sum[r][v] = v16_fma(w, y[v], sum[r][v]);
            }
        }
    }
    mix_finish(rows, vecs, c + col, ROW, sum, how, merge);
}

TL_INLINE void stored_dots_rows(int rows, tl_type type, float *s, const float *a, const unsigned char *const *k,
                                const unsigned char *const *ahead, int blocks, int D) {
    int v = 0;
    for (; v + VECS(rows) <= blocks; v += VECS(rows))
        stored_dots_tile(rows, VECS(rows), type, s + v * BLOCK, a, k + v, ahead + v, D);
    for (; v < blocks; v++) stored_dots_tile(rows, 1, type, s + v * BLOCK, a, k + v, ahead + v, D);
}

TL_INLINE void stored_mix_rows(int rows, tl_type type, float *c, const float *p, const unsigned char *const *value,
                               const unsigned char *const *ahead, int keys, int D, mix_end how,
                               const mix_merge *merge) {
    for (int col = 0; col < D; col += VECS(rows) * 16)
        stored_mix_tile(rows, VECS(rows), type, c, p, value, ahead, D, keys, col, how, merge);
}

static void stored_dots(int rows, tl_type type, float *s, const float *a, const unsigned char *const *k,
                        const unsigned char *const *ahead, int blocks, int D) {
    if (type == TL_F16) FOR_ROWS(rows, stored_dots_rows, TL_F16, s, a, k, ahead, blocks, D)
    else if (type == TL_BF16) FOR_ROWS(rows, stored_dots_rows, TL_BF16, s, a, k, ahead, blocks, D)
    else FOR_ROWS(rows, stored_dots_rows, TL_Q8_0, s, a, k, ahead, blocks, D)
}

static void stored_mix(int rows, tl_type type, float *c, const float *p, const unsigned char *const *value,
                       const unsigned char *const *ahead, int keys, int D, mix_end how, const mix_merge *merge) {
    if (type == TL_F16) FOR_ROWS(rows, stored_mix_rows, TL_F16, c, p, value, ahead, keys, D, how, merge)
    else if (type == TL_BF16) FOR_ROWS(rows, stored_mix_rows, TL_BF16, c, p, value, ahead, keys, D, how, merge)
    else FOR_ROWS(rows, stored_mix_rows, TL_Q8_0, c, p, value, ahead, keys, D, how, merge)
}

/* ---- narrowing ---- */

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
        i16_store_int8(q + 16 * h,
                       v16_to_int(inverse < INFINITY ? round_away(v16_mul(a[h], v16_set1(inverse))) : v16_zero()));
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
