/* attention_tiles.h — the two register-tiled products that attention and its backward are made of.
 *
 * dots: a tile of rows against blocks of 16 keys, summed over the head width, vectorised across keys.
 * mix:  a tile of rows, each a sum of vectors weighted by its coefficients, summed over keys (or queries), vectorised
 * across the head width; which terms count may differ from row to row (the edges of causality and of a window), and no
 * other term is read.
 * Both are one chain of fused multiply-adds per output from +0. Scratch rows lie ROW floats apart, scores CHUNK apart,
 * so that every address in a tile is one register plus a constant. */
#ifndef TL_KERNELS_CPU_ATTENTION_TILES_H
#define TL_KERNELS_CPU_ATTENTION_TILES_H

#include <assert.h>
#include "kernels/simd.h"
#include "kernels/table.h"

enum {
    CHUNK = TL_ATT_CHUNK,
    BLOCK = TL_KV_BLOCK,
    BLOCKS = CHUNK / BLOCK,     /* KV blocks a chunk */
    ROW = TL_MAX_HEAD_DIM + 16, /* 16 more: rows do not fall on the same cache sets */
    TILE = 6,                   /* rows: 6×4 sums fill 24 of 32 registers, 6×1 of two halves 12 of 16 */
    FEW = 4,                    /* rows of a tile that waits for memory more than for sums */
    TASK_ROWS = 64,             /* rows a parallel task, at most */
};

static inline int min_int(int a, int b) {
    return a < b ? a : b;
}

static inline int max_int(int a, int b) {
    return a > b ? a : b;
}

/* Vectors wide that a tile of so many rows may be. */
#if defined(TL_ISA_avx512)
#define VECS(rows) 4
#else
#define VECS(rows) ((rows) == 1 ? 4 : (rows) == 2 ? 2 : 1)
#endif

/* A tile's rows and vectors are constants wherever its loops are compiled, so that the loops vanish and the sums are
 * registers: FOR_ROWS and FOR_VECS call f(…) with the constant that the variable is. Under a sanitizer they stay loops
 * over variables: each access carries its checks there, and so many copies of them take minutes to compile. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNROLL
#define FOR_ROWS(rows, f, ...) f(rows, __VA_ARGS__);
#define FOR_VECS(rows, vecs, f, ...) f(rows, vecs, __VA_ARGS__);
#else
#define UNROLL _Pragma("GCC unroll 8")
#define ROWS_CASE(r, f, ...)                                                                                           \
    case r:                                                                                                            \
        f(r, __VA_ARGS__);                                                                                             \
        break;
#define FOR_ROWS(rows, f, ...)                                                                                         \
    switch (rows) {                                                                                                    \
        ROWS_CASE(1, f, __VA_ARGS__)                                                                                   \
        ROWS_CASE(2, f, __VA_ARGS__)                                                                                   \
        ROWS_CASE(3, f, __VA_ARGS__)                                                                                   \
        ROWS_CASE(4, f, __VA_ARGS__)                                                                                   \
        ROWS_CASE(5, f, __VA_ARGS__)                                                                                   \
        ROWS_CASE(6, f, __VA_ARGS__)                                                                                   \
    default:                                                                                                           \
        assert(!"1 to TILE rows");                                                                                     \
    }
#define VECS_CASE(rows, v, f, ...)                                                                                     \
    case v:                                                                                                            \
        if (v <= VECS(rows)) f(rows, v, __VA_ARGS__);                                                                  \
        break;
#define FOR_VECS(rows, vecs, f, ...)                                                                                   \
    switch (vecs) {                                                                                                    \
        VECS_CASE(rows, 1, f, __VA_ARGS__)                                                                             \
        VECS_CASE(rows, 2, f, __VA_ARGS__)                                                                             \
        VECS_CASE(rows, 3, f, __VA_ARGS__)                                                                             \
        VECS_CASE(rows, 4, f, __VA_ARGS__)                                                                             \
    }
#endif
_Static_assert(TILE == 6, "FOR_ROWS lists every height");

/* s[r·CHUNK + 16v + lane] = Σ_d a[r·ROW + d]·b[v][16d + lane]. Few rows wait for memory, so they ask for ahead[v][16d]
 * too. */
TL_INLINE void dots_tile(int rows, int vecs, float *s, const float *a, const float *const *b, const float *const *ahead,
                         int D) {
    v16 sum[TILE][4];
    const float *b0 = b[0], *b1 = vecs > 1 ? b[1] : b0, *b2 = vecs > 2 ? b[2] : b0, *b3 = vecs > 3 ? b[3] : b0;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++) sum[r][v] = v16_zero();
    for (int64_t d = 0; d < D; d++) {
        v16 y[4];
        y[0] = v16_load(b0 + d * BLOCK);
        if (vecs > 1) y[1] = v16_load(b1 + d * BLOCK);
        if (vecs > 2) y[2] = v16_load(b2 + d * BLOCK);
        if (vecs > 3) y[3] = v16_load(b3 + d * BLOCK);
        if (rows <= FEW) UNROLL for (int v = 0; v < vecs; v++) tl_prefetch_l2(ahead[v] + d * BLOCK);
        UNROLL for (int r = 0; r < rows; r++) {
            v16 x = v16_set1(a[r * ROW + d]);
            UNROLL for (int v = 0; v < vecs; v++) sum[r][v] = v16_fma(x, y[v], sum[r][v]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++)
        v16_store(s + r * CHUNK + v * BLOCK, sum[r][v]);
}

TL_INLINE void dots_rows(int rows, float *s, const float *a, const float *const *b, const float *const *ahead,
                         int blocks, int D) {
    for (int v = 0, vecs; v < blocks; v += vecs) {
        vecs = min_int(blocks - v, VECS(rows));
        FOR_VECS(rows, vecs, dots_tile, s + v * BLOCK, a, b + v, ahead + v, D)
    }
}

/* Scores of 1 … TILE rows against the first `blocks` blocks of a chunk. */
static void dots(int rows, float *s, const float *a, const float *const *b, const float *const *ahead, int blocks,
                 int D) {
    FOR_ROWS(rows, dots_rows, s, a, b, ahead, blocks, D)
}

/* What becomes of a mixed row: written, added to what is there, or merged with it as c·old[r] + sum·new[r]. */
typedef enum mix_end { MIX_WRITE, MIX_ADD, MIX_MERGE } mix_end;

typedef struct mix_merge {
    float old[16], new[16];
} mix_merge;

TL_INLINE void mix_step(int rows, int vecs, v16 sum[TILE][4], const float *x, int x_row, const float *b) {
    v16 y[4];
    UNROLL for (int v = 0; v < vecs; v++) y[v] = v16_load(b + v * 16);
    UNROLL for (int r = 0; r < rows; r++) {
        v16 w = v16_set1(x[r * x_row]);
        UNROLL for (int v = 0; v < vecs; v++) sum[r][v] = v16_fma(w, y[v], sum[r][v]);
    }
}

/* The same for the rows that see term k. */
TL_INLINE void mix_edge_step(int rows, int vecs, v16 sum[TILE][4], const float *x, int x_row, const float *b, int k,
                             const int *begin, const int *end) {
    v16 y[4];
    UNROLL for (int v = 0; v < vecs; v++) y[v] = v16_load(b + v * 16);
    UNROLL for (int r = 0; r < rows; r++) {
        if (k < begin[r] || k >= end[r]) continue;
        v16 w = v16_set1(x[r * x_row]);
        UNROLL for (int v = 0; v < vecs; v++) sum[r][v] = v16_fma(w, y[v], sum[r][v]);
    }
}

TL_INLINE void mix_finish(int rows, int vecs, float *c, int64_t ldc, v16 sum[TILE][4], mix_end how,
                          const mix_merge *merge) {
    UNROLL for (int r = 0; r < rows; r++) {
        float *to = c + r * ldc;
        UNROLL for (int v = 0; v < vecs; v++) {
            v16 t = sum[r][v];
            if (how == MIX_ADD) t = v16_add(v16_load(to + v * 16), t);
            if (how == MIX_MERGE)
                t = v16_fma(v16_load(to + v * 16), v16_set1(merge->old[r]), v16_mul(t, v16_set1(merge->new[r])));
            v16_store(to + v * 16, t);
        }
    }
}

/* c[r·ldc + …] ← Σ_k x[r·x_row + k·x_k] · b_k over k = begin[r] … end[r]−1, where b_k = b[k/16] + (k%16)·ldb; ahead, if
 * not NULL, is asked for as b is read. Neither begin nor end falls from row to row. */
TL_INLINE void mix_tile(int rows, int vecs, float *c, int64_t ldc, const float *x, int x_row, int x_k,
                        const float *const *b, const float *const *ahead, int64_t ldb, int64_t b_col, const int *begin,
                        const int *end, mix_end how, const mix_merge *merge) {
    v16 sum[TILE][4];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++) sum[r][v] = v16_zero();
    /* Terms of every row: [from, to), which may be none; the ragged ones lie before and after. */
    const int from = begin[rows - 1], to = max_int(end[0], from);
    for (int k = begin[0]; k < from; k++)
        mix_edge_step(rows, vecs, sum, x + k * x_k, x_row, b[k / BLOCK] + (k % BLOCK) * ldb + b_col, k, begin, end);
    for (int k = from; k < to;) {
        const float *y = b[k / BLOCK] + (k % BLOCK) * ldb + b_col, *w = x + k * x_k;
        int stop = (k / BLOCK + 1) * BLOCK < to ? (k / BLOCK + 1) * BLOCK : to;
        const float *z = ahead ? ahead[k / BLOCK] + (k % BLOCK) * ldb + b_col : NULL;
        for (; k < stop; k++, y += ldb, w += x_k) {
            mix_step(rows, vecs, sum, w, x_row, y);
            if (!ahead || rows > FEW) continue;
            UNROLL for (int v = 0; v < vecs; v++) tl_prefetch_l2(z + v * 16);
            z += ldb;
        }
    }
    for (int k = to; k < end[rows - 1]; k++)
        mix_edge_step(rows, vecs, sum, x + k * x_k, x_row, b[k / BLOCK] + (k % BLOCK) * ldb + b_col, k, begin, end);
    mix_finish(rows, vecs, c + b_col, ldc, sum, how, merge);
}

/* All columns of a tile: Dv vectors, in groups as even as they can be. */
TL_INLINE void mix_rows(int rows, float *c, int64_t ldc, const float *x, int x_row, int x_k, const float *const *b,
                        const float *const *ahead, int64_t ldb, int Dv, const int *begin, const int *end, mix_end how,
                        const mix_merge *merge) {
    for (int groups = (Dv + VECS(rows) - 1) / VECS(rows), col = 0; groups > 0; groups--) {
        int vecs = (Dv - col + groups - 1) / groups;
        int64_t at = (int64_t)col * 16;
        FOR_VECS(rows, vecs, mix_tile, c, ldc, x, x_row, x_k, b, ahead, ldb, at, begin, end, how, merge)
        col += vecs;
    }
}

/* A mix of 1 … TILE rows for one use: name and coefficient strides are fixed, the end may vary. */
#define DEFINE_MIX(name, x_row, x_k)                                                                                   \
    static void name(int rows, float *c, int64_t ldc, const float *x, const float *const *b,                           \
                     const float *const *ahead, int64_t ldb, int Dv, const int *begin, const int *end, mix_end how,    \
                     const mix_merge *merge) {                                                                         \
        FOR_ROWS(rows, mix_rows, c, ldc, x, x_row, x_k, b, ahead, ldb, Dv, begin, end, how, merge)                     \
    }

/* The first of `left` rows' tiles, cut as evenly as can be. */
static inline int tile_rows(int left) {
    int tiles = (left + TILE - 1) / TILE;
    return (left + tiles - 1) / tiles;
}

/* Key head kh of a KV block: K as [D][16], V as [16][D]. */
static inline const float *block_of(const float *base, int64_t block, int kh, int Hkv, int D) {
    return base + (block * Hkv + kh) * (int64_t)D * BLOCK;
}

/* The window, 0 if none; one longer than any sequence is cut, so that no sum with it overflows. */
static inline int window_of(const tl_attention_form *form) {
    assert(form->window >= 0);
    return min_int(form->window, 1 << 30);
}

/* The first key that a row at position pos sees. */
static inline int first_key(int window, int pos) {
    return window ? max_int(pos + 1 - window, 0) : 0;
}

/* The last sequence that starts at or before row r. */
static inline int sequence_of(const tl_rows *rows, int r) {
    int low = 0, high = rows->S;
    while (high - low > 1) {
        int mid = low + (high - low) / 2;
        if (rows->seq_row[mid] <= r) low = mid;
        else high = mid;
    }
    return low;
}

void TL_NAME(attention_backward)(tl_ctx *ctx, float *dq, float *dk, float *dv, int64_t ld, const float *dout,
                                 const float *out, int64_t ldo, const float *max_sum, const float *q, int64_t ldq,
                                 tl_kv kv, const tl_rows *rows, const tl_attention_form *form);

#endif
