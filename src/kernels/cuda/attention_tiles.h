/* attention_tiles.h — what attention and its backward share on the device: which rows a block has, how their operands
 * come into a block's memory, and the product that both are made of.
 *
 * A block of 256 threads makes tiles of 64 by 64 sums: thread (y, x) of 16 by 16 has rows 4y … 4y+3, columns 4x … 4x+3,
 * each sum one chain. Left operands lie in rows [64][lda], four terms a load, right ones by term [32][64], four columns
 * a load: eight loads for 64 multiply-adds. Without padding, four terms of row r lie where their number, exclusive-or
 * r/4's, says: the rows that a warp reads, or writes, at a time fall on different banks.
 *
 * Operands are staged 32 terms at a time in two buffers: while one is used the other is filled, with one barrier a
 * stage. Where terms end before a stage does, left operands are filled up with −0 and right ones with +0: −0 is added,
 * which changes no sum. */
#ifndef TL_KERNELS_CUDA_ATTENTION_TILES_H
#define TL_KERNELS_CUDA_ATTENTION_TILES_H

#include <assert.h>
#include "kernels/cuda/cuda.h"
#include "base/half.h"

enum {
    SIDE = 64,          /* of a tile: rows, and columns */
    STEP = 32,          /* terms a stage */
    THREADS = 256,      /* of a block that makes tiles */
    SLICE = 64,         /* columns of an output that are summed at a time */
    LEFT = SIDE * STEP, /* floats of a stage's left operand */
    RIGHT = STEP * SIDE,
};
static_assert(SIDE == TL_ATT_CHUNK && STEP == TL_KV_GROUP, "a tile has a chunk of keys, a stage has one scale a key");

#ifdef __CUDACC__
#define UNROLL_1 _Pragma("unroll 1")
#define UNROLL_8 _Pragma("unroll 8")
#else
#define UNROLL_1
#define UNROLL_8 UNROLL
#endif

/* What a block's memory is sized at; beyond 48 KiB it has to be asked for. */
template <class F> static void allow_memory(F kernel, size_t bytes) {
#ifndef TL_CUDA_EMULATED
    /* A failure shows at the launch. */
    cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
#endif
}

/* ---- which rows ---- */

/* The last sequence s with seq_row[s]/per + s·apart ≤ number. */
static __device__ inline int sequence_at(const tl_rows &rows, int number, int per, int apart) {
    int low = 0, high = rows.S;
    while (high - low > 1) {
        const int middle = low + (high - low) / 2;
        if (rows.seq_row[middle] / per + middle * apart <= number) low = middle;
        else high = middle;
    }
    return low;
}

/* Rows row … row+n−1 of sequence s, which has `all`; the first is its row `from`. */
struct run {
    int s, row, n, from, all;
};

/* Each sequence is cut in runs of `per` rows from its first on. The i-th of sequence s has number seq_row[s]/per + s +
 * i, so that a block finds its run: the next sequence's numbers begin beyond, for (a + T)/per + 1 ≥ a/per + ⌈T/per⌉.
 * Some numbers have no run: false. */
static __device__ inline bool find_run(run *found, const tl_rows &rows, int number, int per) {
    const int s = sequence_at(rows, number, per, 1), begin = rows.seq_row[s], end = rows.seq_row[s + 1];
    const int from = (number - begin / per - s) * per;
    *found = run{s, begin + from, min(per, end - begin - from), from, end - begin};
    return from < end - begin;
}
static inline unsigned run_numbers(const tl_rows *rows, int per) {
    return (unsigned)rows->R / (unsigned)per + (unsigned)rows->S;
}

/* The first key that position pos sees. A query sees the keys that are less than `reach` behind it, itself included;
 * one ahead is, unsigned, beyond every reach. */
static __device__ inline int first_key(int pos, int window) {
    return window && pos >= window ? pos - window + 1 : 0;
}

static __device__ inline unsigned reach_of(int window) {
    return window ? (unsigned)window : 0x80000000u;
}

/* ---- where numbers come from ---- */

/* Four numbers of a row of D from d on: together where rows allow it (quads), and `none` beyond the end. */
static __device__ inline float4 four(const float *x, int d, int D, bool quads, float none) {
    if (quads && d < D) return *(const float4 *)(x + d);
    return make_float4(d < D ? x[d] : none, d + 1 < D ? x[d + 1] : none, d + 2 < D ? x[d + 2] : none,
                       d + 3 < D ? x[d + 3] : none);
}
static __device__ inline void write_four(float *to, float a, float b, float c, float d) {
    *(float4 *)to = make_float4(a, b, c, d);
}
static __device__ inline void put_four(float *x, int d, int D, bool quads, const float (&y)[4]) {
    if (quads && d < D) write_four(x + d, y[0], y[1], y[2], y[3]);
    else
        for (int e = 0; e < 4; e++)
            if (d + e < D) x[d + e] = y[e];
}
/* Whether rows of heads can be read, and written, four numbers at a time. */
static inline bool in_quads(const float *x, int64_t ld, int D) {
    return (uintptr_t)x % 16 == 0 && ld % 4 == 0 && D % 4 == 0;
}

/* tl_kv_part_bytes, which asks the engine for a type's size. */
static inline int64_t part_bytes_of(tl_type type, int D) {
    const int bytes = type == TL_F32 ? 4 : type == TL_Q8_0 ? 1 : 2;
    const int scales = type == TL_Q8_0 ? (D + TL_KV_GROUP - 1) / TL_KV_GROUP : 0;
    return TL_KV_BLOCK * (bytes * D + (int64_t)sizeof(uint16_t) * scales);
}

/* What attention and its backward are both told; for rows, keys and values are stored. */
struct attended {
    tl_kv kv;
    int64_t part_bytes; /* a multiple of 16, as are the addresses of kv */
    tl_rows rows;
    tl_attention_form form;
    float inverse_cap;
};
static inline attended attended_of(tl_kv kv, const tl_rows *rows, const tl_attention_form *form) {
    assert(form->D >= 1 && form->D <= TL_MAX_HEAD_DIM && form->Hkv >= 1 && form->H % form->Hkv == 0);
    assert(form->window >= 0 && ((uintptr_t)kv.k | (uintptr_t)kv.v) % 16 == 0);
    return attended{kv, part_bytes_of(kv.type, form->D), *rows, *form, form->softcap != 0 ? 1 / form->softcap : 0};
}
#ifdef TL_CUDA_EMULATED
static inline void check_argument(const attended &of) {
    check_argument(of.kv), check_argument(of.rows);
}
#endif

/* One key head of a sequence in its blocks. */
struct keys {
    tl_kv kv;
    int64_t part_bytes;
    const int32_t *block; /* of the sequence */
    int kh, Hkv, D;
};
static __device__ inline keys keys_of(const attended &of, int s, int kh) {
    return keys{of.kv, of.part_bytes, of.rows.block + of.rows.seq_block[s], kh, of.form.Hkv, of.form.D};
}
static __device__ inline const unsigned char *part_at(const keys &from, const void *base, int position) {
    return (const unsigned char *)base +
           ((int64_t)from.block[position / TL_KV_BLOCK] * from.Hkv + from.kh) * from.part_bytes;
}

/* Number i of a part, of Q8_0 without its scale; `type` is often a constant where this is compiled. */
static __device__ inline float number(tl_type type, const unsigned char *part, int i) {
    if (type == TL_F32) return ((const float *)part)[i];
    if (type == TL_F16) return tl__f16_to_f32(((const uint16_t *)part)[i]);
    if (type == TL_BF16) return tl__bf16_to_f32(((const uint16_t *)part)[i]);
    return (float)((const int8_t *)part)[i];
}
/* The scale in Q8_0 of component d of a key of the block. */
static __device__ inline float scale_at(const unsigned char *part, int d, int key, int D) {
    return tl__f16_to_f32(((const uint16_t *)(part + TL_KV_BLOCK * D))[d / TL_KV_GROUP * TL_KV_BLOCK + key]);
}

/* Numbers i … i+3, i being a multiple of four. */
static __device__ inline float4 numbers4(tl_type type, const unsigned char *part, int i) {
    if (type == TL_F32) return ((const float4 *)part)[i / 4];
    if (type == TL_Q8_0) {
        const int x = ((const int *)part)[i / 4];
        return make_float4((float)(int8_t)x, (float)(int8_t)(x >> 8), (float)(int8_t)(x >> 16),
                           (float)(int8_t)(x >> 24));
    }
    const int2 x = ((const int2 *)part)[i / 4];
    const uint16_t h[4] = {(uint16_t)x.x, (uint16_t)((unsigned)x.x >> 16), (uint16_t)x.y,
                           (uint16_t)((unsigned)x.y >> 16)};
    if (type == TL_F16)
        return make_float4(tl__f16_to_f32(h[0]), tl__f16_to_f32(h[1]), tl__f16_to_f32(h[2]), tl__f16_to_f32(h[3]));
    return make_float4(tl__bf16_to_f32(h[0]), tl__bf16_to_f32(h[1]), tl__bf16_to_f32(h[2]), tl__bf16_to_f32(h[3]));
}
/* Component d of four keys of a block from `key` on. */
static __device__ inline float4 keys4(tl_type type, const unsigned char *part, int d, int key, int D) {
    float4 x = numbers4(type, part, d * TL_KV_BLOCK + key);
    if (type == TL_Q8_0) {
        x.x *= scale_at(part, d, key, D), x.y *= scale_at(part, d, key + 1, D);
        x.z *= scale_at(part, d, key + 2, D), x.w *= scale_at(part, d, key + 3, D);
    }
    return x;
}
/* Components d … d+3, d being a multiple of four, of the value of a key of the block; zeros beyond the end. */
static __device__ inline float4 values4(tl_type type, const unsigned char *part, int key, int d, int D) {
    if (d >= D) return make_float4(0, 0, 0, 0);
    float x[4] = {0, 0, 0, 0};
    if (D % 4 == 0) {
        const float4 y = numbers4(type, part, key * D + d);
        x[0] = y.x, x[1] = y.y, x[2] = y.z, x[3] = y.w;
    } else
        for (int e = 0; e < 4; e++)
            if (d + e < D) x[e] = number(type, part, key * D + d + e);
    if (type == TL_Q8_0) {
        const float scale = scale_at(part, d, key, D); /* of all four: a group is a multiple of four */
        for (int e = 0; e < 4; e++) x[e] *= scale;
    }
    return make_float4(x[0], x[1], x[2], x[3]);
}

/* ---- stages ---- */

/* Where term k of a left operand's row lies is row·lda + (k ^ mixing(row)). */
static __device__ inline int mixing(int row) {
    return 4 * (row / 4 % 8);
}

/* The keys begin … end−1 of the chunk are seen by some row. A block of 16 of which none is need not be there, and is
 * not read: zeros. */
static __device__ inline bool some_seen(int key, int begin, int end) {
    return (key | (TL_KV_BLOCK - 1)) >= begin && key / TL_KV_BLOCK * TL_KV_BLOCK < end;
}

/* to[d][key]: components d0 … of the chunk's keys. */
static __device__ inline void stage_keys(float *to, tl_type type, const keys &from, int first, int begin, int end,
                                         int d0) {
    UNROLL_1 for (int u = 0; u < RIGHT / 4 / THREADS; u++) {
        const int i = (int)threadIdx.x + u * THREADS, d = i / 16, key = i % 16 * 4;
        float4 x = make_float4(0, 0, 0, 0);
        if (d0 + d < from.D && some_seen(key, begin, end))
            x = keys4(type, part_at(from, from.kv.k, first + key), d0 + d, key % TL_KV_BLOCK, from.D);
        *(float4 *)(to + d * SIDE + key) = x;
    }
}

/* to[key][column]: of keys key0 … of the chunk the values' components c0 …. */
static __device__ inline void stage_values(float *to, tl_type type, const keys &from, int first, int begin, int end,
                                           int key0, int c0) {
    UNROLL_1 for (int u = 0; u < RIGHT / 4 / THREADS; u++) {
        const int i = (int)threadIdx.x + u * THREADS, key = key0 + i / 16, c = i % 16 * 4;
        float4 x = make_float4(0, 0, 0, 0);
        if (some_seen(key, begin, end))
            x = values4(type, part_at(from, from.kv.v, first + key), key % TL_KV_BLOCK, c0 + c, from.D);
        *(float4 *)(to + i / 16 * SIDE + c) = x;
    }
}

/* sum[r][c] = fmaf(left of row r, right of column c, sum[r][c]) over a stage's terms in order, `left` and `right` being
 * the thread's. KEYS: terms are keys and rows queries, or the other way round; of row r those count alone of which the
 * query sees the key, behind[r] being how far term 0 is the key behind the query, and of n terms. */
enum counted { ALL, KEYS, QUERIES };
template <counted COUNTED>
static __device__ inline void multiply(float (&sum)[4][4], const float *left, int lda, int mix, const float *right,
                                       const int (&behind)[4], unsigned reach, int n) {
    UNROLL_1 for (int k = 0; k < STEP; k += 4) {
        float a[4][4];
        UNROLL for (int r = 0; r < 4; r++) {
            const float4 x = *(const float4 *)(left + r * lda + (k ^ mix));
            a[r][0] = x.x, a[r][1] = x.y, a[r][2] = x.z, a[r][3] = x.w;
        }
        UNROLL for (int e = 0; e < 4; e++) {
            const float4 b = *(const float4 *)(right + (k + e) * SIDE);
            UNROLL for (int r = 0; r < 4; r++) {
                if (COUNTED == KEYS && (unsigned)(behind[r] - (k + e)) >= reach) continue;
                if (COUNTED == QUERIES && ((unsigned)(behind[r] + (k + e)) >= reach || k + e >= n)) continue;
                sum[r][0] = fmaf(a[r][e], b.x, sum[r][0]);
                sum[r][1] = fmaf(a[r][e], b.y, sum[r][1]);
                sum[r][2] = fmaf(a[r][e], b.z, sum[r][2]);
                sum[r][3] = fmaf(a[r][e], b.w, sum[r][3]);
            }
        }
    }
}
static __device__ inline void multiply_all(float (&sum)[4][4], const float *left, int lda, int mix,
                                           const float *right) {
    const int none[4] = {0, 0, 0, 0};
    multiply<ALL>(sum, left, lda, mix, right, none, 0, 0);
}
static __device__ inline void clear(float (&sum)[4][4]) {
    UNROLL for (int r = 0; r < 4; r++) UNROLL for (int c = 0; c < 4; c++) sum[r][c] = 0;
}

#endif
