/* cpu/product.h — the frame of every product: tiles, packing, tasks, few rows. What a product multiplies is the
 * includer's: gemm.c (f32) and gemm_bf16.c (bf16, by instruction or emulated).
 *
 * C is computed in tiles of MR rows by NR columns held in registers: for each word of k one row of the packed B panel
 * (NR words) meets MR broadcast words of A, so every output is one chain in k order and the vector runs across outputs.
 * A word has four bytes and holds UNIT of k. The k loop is cut at TL_KB; at each cut the tile's sums are added to C.
 *
 *   task   a block of C, mb × nb panels, cut by shape alone; it owns its outputs for all of k
 *     k block        pack B: nb panels [word][NR] into the worker's scratch, which stay in L2 (rows of W[N,K] are
 *                    transposed 16×16)
 *       A panel      MR rows copied to scratch, L1: either by row [MR][AS] or by k [word][MR], whichever is A's unit
 *                    stride
 *         B panel    the tile
 *
 * Copying the A panel costs little (it is used nb times) and saves what long or power-of-two strides would cost in L1
 * sets and TLB. What the next A panel and the next k block of B will read is prefetched a few lines a tile.
 *
 * The includer defines, before this file:
 *   UNIT                    k in a word: 1 or 2
 *   CHAINS                  in a block of k: 1; or 2 in each TL_BF16_K of it, of the words in turn, then added
 *   FLUSHES                 1: all that runs with denormals flushed by mode (MXCSR)
 *   COPIES                  1: a word is not a float of the matrix: A and B are always packed
 *   words(kc)               words that kc of k take, zeros that fill up the last TL_BF16_K of two chains included
 *   dot(x, b, s)            s and the products of a word's k
 *   along(p, n)             sixteen words from n ≤ 16·UNIT floats side by side, zeros beyond
 *   stored(x)               32 halves side by side, so that words come out in their order
 *   spread(word, w)         UNIT 1: the two words w[0], w[1] that a pair of stored halves is, in the order of A's
 *   across(load, p, step, u, kc, n)   word u of sixteen columns side by side, k being `step` floats apart and kc there;
 *                           load(p, n) reads n of them
 *   cost_…                  what packing a panel costs, in tiles, as measured: see cut() */
#ifndef TL_KERNELS_CPU_PRODUCT_H
#define TL_KERNELS_CPU_PRODUCT_H

#include <assert.h>
#include <string.h>
#include "kernels/simd.h"
#include "kernels/table.h"

/* Accumulators take 24 of 32 zmm, 12 of 16 ymm. */
#if defined(TL_ISA_avx512)
enum { MR = 12, NV = 2 };
#else
enum { MR = 6, NV = 1 };
#endif
enum {
    NR = NV * TL_LANES,
    WORDS = TL_KB / UNIT,                           /* of a block of k */
    STEP = TL_LANES * UNIT,                         /* k in sixteen words */
    GROUP = CHAINS == 2 ? TL_BF16_K / UNIT : WORDS, /* words of two chains */
    AS = WORDS + 16, /* row of an A panel: an odd number of lines, so that MR rows spread over L1's sets */
    A_GROUP = 4, /* panels packed at a time when A's unit stride is m: whole lines of A are used, few pages touched */
    B_PANEL = WORDS * NR,
    NB_MAX = 384 / NR,        /* panels of B at a time: up to 384 KB of L2 */
    A_BY_K = MR * WORDS + 16, /* an A panel by k, with slack */
    A_FLOATS = MR * AS * A_GROUP,
};
_Static_assert((size_t)(A_FLOATS + NB_MAX * B_PANEL) * sizeof(float) <= TL_WORKSPACE_PER_WORKER_BYTES, "scratch");

#define UNROLL _Pragma("GCC unroll 16")

/* ---- denormals flushed, by mode ---- */

/* A register passes through here before and after the switch, so that no compiler moves arithmetic across it. */
TL_INLINE void pin(v16 *x) {
#if defined(TL_ISA_avx512)
    __asm__ volatile("" : "+v"(*x));
#else
    __asm__ volatile("" : "+x"(x->a), "+x"(x->b));
#endif
}

/* Denormals are zero when read and when written: MXCSR's DAZ and FTZ. Returns what was. */
TL_INLINE unsigned flush_enter(void) {
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);
    return mode;
}

/* ---- a tile ---- */

/* s ← s and the products of kw words, which are a_k and b_row apart. */
TL_INLINE void run(const int mr, const int a_m, const int a_k, int kw, const float *a, const float *b, int64_t b_row,
                   v16 s[MR][NV]) {
    for (int k = 0; k < kw; k++) {
        v16 bk[NV];
        UNROLL for (int v = 0; v < NV; v++) bk[v] = v16_load(b + v * TL_LANES);
        UNROLL for (int i = 0; i < mr; i++) {
            const v16 x = v16_set1(a[i * a_m]);
            UNROLL for (int v = 0; v < NV; v++) s[i][v] = dot(x, bk[v], s[i][v]);
        }
        a += a_k, b += b_row;
    }
}

/* One tile: C[mr, n ≤ NR] (+)= panel·panel (+ bias). kw words of k; B's rows are b_row apart (NR when packed). A's
 * element (m, word) is at a[m·a_m + word·a_k]; mr, a_m and a_k are constants where this is expanded. Of two chains the
 * one that rests, and their sum, lie in L1: all registers are the other's. */
TL_INLINE void tile(const int mr, const int a_m, const int a_k, int kw, const float *a, const float *b, int64_t b_row,
                    float *c, int64_t ldc, int n, bool add, const float *bias) {
    v16 s[MR][NV], zero = v16_zero();
    UNROLL for (int i = 0; i < mr; i++) {
        tl_prefetch(c + i * ldc);
        tl_prefetch(c + i * ldc + n - 1);
    }
    const unsigned mode = FLUSHES ? flush_enter() : 0;
    if (FLUSHES) pin(&zero);
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int v = 0; v < NV; v++) s[i][v] = zero;
    if (CHAINS == 1) run(mr, a_m, a_k, kw, a, b, b_row, s);
    else {
        _Alignas(64) float even[MR][NR], sum[MR][NR];
        UNROLL for (int i = 0; i < mr; i++) UNROLL for (int v = 0; v < NV; v++)
            v16_store_aligned(sum[i] + v * TL_LANES, zero);
        for (int k = 0; k < kw; k += GROUP) {
            const float *ak = a + k * a_k, *bk = b + k * b_row;
            run(mr, a_m, 2 * a_k, GROUP / 2, ak, bk, 2 * b_row, s);
            UNROLL for (int i = 0; i < mr; i++) UNROLL for (int v = 0; v < NV; v++)
                v16_store_aligned(even[i] + v * TL_LANES, s[i][v]),
                s[i][v] = zero;
            run(mr, a_m, 2 * a_k, GROUP / 2, ak + a_k, bk + b_row, 2 * b_row, s);
            UNROLL for (int i = 0; i < mr; i++) UNROLL for (int v = 0; v < NV; v++) {
                const v16 both = v16_add(v16_load_aligned(even[i] + v * TL_LANES), s[i][v]);
                s[i][v] = v16_add(v16_load_aligned(sum[i] + v * TL_LANES), both);
                if (k + GROUP < kw) v16_store_aligned(sum[i] + v * TL_LANES, s[i][v]), s[i][v] = zero;
            }
        }
    }
    if (FLUSHES) {
        UNROLL for (int i = 0; i < mr; i++) UNROLL for (int v = 0; v < NV; v++) pin(&s[i][v]);
        _mm_setcsr(mode);
        UNROLL for (int i = 0; i < mr; i++) UNROLL for (int v = 0; v < NV; v++) pin(&s[i][v]);
    }
    /* The addresses of C are made anew: kept from the prefetches, they would take vector registers from the sums. */
    __asm__("" : "+r"(c), "+r"(ldc));
    if (n == NR) {
        v16 last[NV];
        UNROLL for (int v = 0; v < NV; v++) last[v] = bias ? v16_load(bias + v * TL_LANES) : v16_zero();
        UNROLL for (int i = 0; i < mr; i++) {
            UNROLL for (int v = 0; v < NV; v++) {
                v16 x = s[i][v];
                if (add) x = v16_add(v16_load(c + i * ldc + v * TL_LANES), x);
                if (bias) x = v16_add(x, last[v]);
                v16_store(c + i * ldc + v * TL_LANES, x);
            }
        }
    } else {
        UNROLL for (int v = 0; v < NV; v++) {
            const int w = n - v * TL_LANES < 0 ? 0 : n - v * TL_LANES < TL_LANES ? n - v * TL_LANES : TL_LANES;
            if (!w) break;
            UNROLL for (int i = 0; i < mr; i++) {
                v16 x = s[i][v];
                if (add) x = v16_add(v16_load_n(c + i * ldc + v * TL_LANES, w), x);
                if (bias) x = v16_add(x, v16_load_n(bias + v * TL_LANES, w));
                v16_store_n(c + i * ldc + v * TL_LANES, x, w);
            }
        }
    }
}

typedef void tile_fn(int kw, const float *a, const float *b, int64_t b_row, float *c, int64_t ldc, int n, bool add,
                     const float *bias);
#define TILE(mr)                                                                                                       \
    static void tile_by_row_##mr(int kw, const float *a, const float *b, int64_t b_row, float *c, int64_t ldc, int n,  \
                                 bool add, const float *bias) {                                                        \
        tile(mr, AS, 1, kw, a, b, b_row, c, ldc, n, add, bias);                                                        \
    }                                                                                                                  \
    static void tile_by_k_##mr(int kw, const float *a, const float *b, int64_t b_row, float *c, int64_t ldc, int n,    \
                               bool add, const float *bias) {                                                          \
        tile(mr, 1, MR, kw, a, b, b_row, c, ldc, n, add, bias);                                                        \
    }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)
#if defined(TL_ISA_avx512)
TILE(7)
TILE(8)
TILE(9)
TILE(10)
TILE(11) TILE(12)
#endif

    static tile_fn *const tiles[2][MR + 1] = {
        {0, tile_by_row_1, tile_by_row_2, tile_by_row_3, tile_by_row_4, tile_by_row_5, tile_by_row_6,
#if defined(TL_ISA_avx512)
         tile_by_row_7, tile_by_row_8, tile_by_row_9, tile_by_row_10, tile_by_row_11, tile_by_row_12
#endif
        },
        {0, tile_by_k_1, tile_by_k_2, tile_by_k_3, tile_by_k_4, tile_by_k_5, tile_by_k_6,
#if defined(TL_ISA_avx512)
         tile_by_k_7, tile_by_k_8, tile_by_k_9, tile_by_k_10, tile_by_k_11, tile_by_k_12
#endif
        },
};

/* ---- packing ---- */

static inline int least(int x, int y) {
    return x < y ? x : y;
}
static inline int between(int low, int x, int high) {
    return x < low ? low : least(x, high);
}
/* k of the words. */
static inline int extent(int kc) {
    return words(kc) * UNIT;
}

/* What across() reads a row of k with. */
TL_INLINE v16 load_all(const float *p, int n) {
    (void)n;
    return v16_load(p);
}
TL_INLINE v16 load_some(const float *p, int n) {
    return v16_load_n(p, n);
}
/* At least MR of n ≤ 16. */
TL_INLINE v16 load_mr(const float *p, int n) {
    if (n == TL_LANES) return v16_load(p);
#if !defined(TL_ISA_avx512)
    if (n >= 8) return (v16){_mm256_loadu_ps(p), _mm256_setzero_ps()};
#endif
    return v16_load_n(p, n);
}

/* dst[word][NR] = B(k, n) for n < width, 0 beyond; B's unit stride is n. With every line that is read, the one `ahead`
 * floats further is asked for (0: nothing is). */
static void pack_b_copy(float *dst, const float *b, int64_t b_row, int kc, int width, int64_t ahead) {
    const int n = words(kc);
    if (width == NR) {
        for (int u = 0; u < n; u++) UNROLL for (int v = 0; v < NV; v++) {
                v16_store_aligned(dst + u * NR + v * TL_LANES,
                                  across(load_all, b + v * TL_LANES, b_row, u, kc, TL_LANES));
                if (ahead)
                    UNROLL for (int k = 0; k < UNIT; k++)
                        tl_prefetch_l2(b + (u * UNIT + k) * b_row + v * TL_LANES + ahead);
            }
        return;
    }
    for (int u = 0; u < n; u++)
        for (int v = 0; v < NV; v++) {
            const int left = width - v * TL_LANES, w = left < 0 ? 0 : least(left, TL_LANES);
            v16_store_aligned(dst + u * NR + v * TL_LANES,
                              across(load_some, b + (w ? v * TL_LANES : 0), b_row, u, kc, w));
        }
}

/* The same where B's unit stride is k: sixteen columns of sixteen words at a time, turned in registers. */
static void pack_b_turn(float *dst, const float *b, int64_t b_col, int kc, int width, int64_t ahead) {
    for (int n0 = 0; n0 < NR; n0 += TL_LANES) {
        const int columns = width - n0 < 0 ? 0 : least(width - n0, TL_LANES);
        const float *src = b + n0 * b_col;
        for (int k0 = 0; k0 < extent(kc); k0 += STEP) {
            const int ks = between(0, kc - k0, STEP), n_words = least(words(kc) - k0 / UNIT, TL_LANES);
            float *to = dst + k0 / UNIT * NR + n0;
            v16 r[TL_LANES];
            if (columns == TL_LANES && ks == STEP) {
                UNROLL for (int i = 0; i < TL_LANES; i++) {
                    r[i] = along(src + i * b_col + k0, STEP);
                    UNROLL for (int k = 0; k < UNIT; k++) tl_prefetch_l2(src + i * b_col + k0 + k * TL_LANES + ahead);
                }
                v16_transpose(r);
                UNROLL for (int i = 0; i < TL_LANES; i++) v16_store_aligned(to + i * NR, r[i]);
            } else {
                for (int i = 0; i < TL_LANES; i++) r[i] = i < columns ? along(src + i * b_col + k0, ks) : v16_zero();
                v16_transpose(r);
                for (int i = 0; i < n_words; i++) v16_store_aligned(to + i * NR, r[i]);
            }
        }
    }
}

/* The same of halves, as they are stored: pairs of k are turned, then widened. */
static void pack_b_half(float *dst, const uint16_t *b, int64_t b_col, int kc, int width) {
    for (int n0 = 0; n0 < NR; n0 += TL_LANES) {
        const int columns = width - n0 < 0 ? 0 : least(width - n0, TL_LANES);
        const uint16_t *src = b + n0 * b_col;
        for (int k0 = 0; k0 < kc; k0 += 2 * TL_LANES) {
            const int ks = least(kc - k0, 2 * TL_LANES);
            float *to = dst + k0 / UNIT * NR + n0;
            v16 r[TL_LANES];
            if (columns == TL_LANES && ks == 2 * TL_LANES)
                UNROLL for (int i = 0; i < TL_LANES; i++) r[i] = stored(v16_load_halves(src + i * b_col + k0));
            else
                for (int i = 0; i < TL_LANES; i++)
                    r[i] = i < columns ? stored(v16_load_halves_n(src + i * b_col + k0, ks)) : v16_zero();
            v16_transpose(r);
            const int n_words = words(ks), pairs = UNIT == 1 ? (n_words + 1) / 2 : n_words;
            for (int i = 0; i < pairs; i++) {
                v16 w[2] = {r[i]};
                if (UNIT == 1) spread(r[i], w);
                v16_store_aligned(to + 2 / UNIT * i * NR, w[0]);
                if (UNIT == 1 && 2 * i + 1 < n_words) v16_store_aligned(to + (2 * i + 1) * NR, w[1]);
            }
        }
    }
}

/* dst[m][AS] = A(m, k); A's unit stride is k. */
static void pack_a_by_row(float *dst, const float *a, int64_t a_row, int mr, int kc) {
    for (int m = 0; m < mr; m++, a += a_row, dst += AS) {
        int k = 0;
        for (; k + STEP <= kc; k += STEP) v16_store_aligned(dst + k / UNIT, along(a + k, STEP));
        for (; k < extent(kc); k += STEP)
            v16_store_n(dst + k / UNIT, along(a + k, between(0, kc - k, STEP)), least(words(kc) - k / UNIT, TL_LANES));
    }
}

/* MR words: a register is stored, more than MR. */
TL_INLINE void store_mr(float *dst, v16 x) {
#if defined(TL_ISA_avx512)
    v16_store(dst, x);
#else
    _mm256_storeu_ps(dst, v16_low(x));
#endif
}

/* dst[panel][word][MR] = A(m, k) for `rows` ≤ A_GROUP·MR rows; A's unit stride is m. What is stored beyond MR is
 * written again by the next word, or lies in the slack after the panel. */
static void pack_a_by_k(float *dst, const float *a, int64_t a_col, int rows, int kc) {
    const int n = words(kc);
    for (int u = 0; u < n; u++)
        for (int m = 0, p = 0; m < rows; m += MR, p++)
            store_mr(dst + p * A_BY_K + u * MR, across(load_mr, a + m, a_col, u, kc, least(rows - m, TL_LANES)));
}

/* ---- prefetching: a rectangle of memory, a few lines at a time ---- */

enum { LINE_BYTES = 64 };
typedef struct fetch {
    const char *at; /* next row */
    int64_t stride_bytes;
    int rows, lines; /* rows left; lines a row */
    int line;        /* next line of this row */
    int step;        /* lines a call */
} fetch;

/* rows × bytes at p, to be fetched in about `calls` calls. */
static fetch fetch_of(const void *p, int64_t stride_bytes, int rows, int64_t bytes, int calls) {
    fetch h = {p, stride_bytes, rows, (int)((bytes + LINE_BYTES - 1) / LINE_BYTES) + 1, 0, 0};
    h.step = (int)(((int64_t)h.rows * h.lines + calls - 1) / (calls > 0 ? calls : 1));
    return h;
}
TL_INLINE void fetch_go(fetch *h) {
    for (int i = 0; i < h->step && h->rows > 0; i++) {
        tl_prefetch_l2(h->at + h->line * LINE_BYTES);
        if (++h->line == h->lines) h->line = 0, h->rows--, h->at += h->stride_bytes;
    }
}

/* ---- one product ---- */

typedef struct job {
    tl_ctx *ctx;
    float *c;
    const float *a, *bias;
    const char *b;
    int64_t ldc, a_row, a_col, b_row, b_col;
    int M, N, K;
    bool half; /* b is halves, turned */
    bool accumulate;
    int mb, nb;   /* panels a task, rows and columns */
    int n_blocks; /* tasks along n; of few rows turned, those of nb panels: what follows them is done one panel a task
                   */
} job;

static int element_bytes(const job *j) {
    return j->half ? 2 : 4;
}
/* Sixteen outputs' k lie side by side in memory, and are turned in registers. */
static bool turns_b(const job *j) {
    return j->half || j->b_col != 1;
}
/* B(k, n). */
static const void *b_at(const job *j, int64_t k, int64_t n) {
    return j->b + (k * j->b_row + n * j->b_col) * element_bytes(j);
}

/* Full panels of B need no packing where its unit stride is n, unless its rows share the same sets of L1. The narrow
 * AVX2 tile reads B twice as often and does better from packed panels. */
static bool reads_b_in_place(const job *j) {
    return !COPIES && NV > 1 && !turns_b(j) && j->b_row % 1024 != 0;
}

static void task(const job *j, int64_t index, int worker) {
    const int m_first = (int)(index / j->n_blocks) * j->mb * MR, m_end = least(j->M, m_first + j->mb * MR);
    const int n_first = (int)(index % j->n_blocks) * j->nb * NR, n_end = least(j->N, n_first + j->nb * NR);
    const int panels_n = (n_end - n_first + NR - 1) / NR, panels_m = (m_end - m_first + MR - 1) / MR;
    float *a_pack = tl__workspace(j->ctx, worker), *b_pack = a_pack + A_FLOATS;
    const bool by_row = j->a_col == 1, turn = turns_b(j), in_place = reads_b_in_place(j);
    const int group = (by_row ? 1 : A_GROUP) * MR;

    for (int k0 = 0; k0 < j->K; k0 += TL_KB) {
        const int kc = least(j->K - k0, TL_KB), kw = words(kc);
        const bool add = k0 > 0 || j->accumulate;
        const bool last = k0 + kc == j->K;
        for (int p = 0; p < panels_n; p++) {
            const int n = n_first + p * NR, width = least(n_end - n, NR);
            const float *src = b_at(j, k0, n);
            if (j->half) pack_b_half(b_pack + p * B_PANEL, b_at(j, k0, n), j->b_col, kc, width);
            else if (turn) pack_b_turn(b_pack + p * B_PANEL, src, j->b_col, kc, width, TL_LANES * j->b_col);
            else if (!in_place || width < NR) pack_b_copy(b_pack + p * B_PANEL, src, j->b_row, kc, width, 0);
        }
        fetch next_b = {0};
        if (!last) {
            const int next_kc = least(j->K - k0 - kc, TL_KB), calls = panels_m * panels_n;
            const int size = element_bytes(j);
            const void *src = b_at(j, k0 + kc, n_first);
            next_b = turn ? fetch_of(src, j->b_col * size, n_end - n_first, next_kc * size, calls)
                          : fetch_of(src, j->b_row * size, next_kc, (n_end - n_first) * size, calls);
        }
        for (int m0 = m_first; m0 < m_end; m0 += group) {
            const int rows = least(m_end - m0, group);
            const float *src = j->a + m0 * j->a_row + k0 * j->a_col;
            if (by_row) pack_a_by_row(a_pack, src, j->a_row, rows, kc);
            else pack_a_by_k(a_pack, src, j->a_col, rows, kc);
            fetch next_a = {0};
            if (m0 + group < m_end) {
                const int next_rows = least(m_end - m0 - group, group);
                const int calls = panels_n * ((rows + MR - 1) / MR);
                next_a = by_row ? fetch_of(src + group * j->a_row, j->a_row * 4, next_rows, kc * 4, calls)
                                : fetch_of(src + group, j->a_col * 4, kc, next_rows * 4, calls);
            }
            for (int m = 0, q = 0; m < rows; m += MR, q++) {
                const int mr = least(rows - m, MR);
                tile_fn *fn = tiles[!by_row][mr];
                for (int p = 0; p < panels_n; p++) {
                    const int n = n_first + p * NR;
                    fetch_go(&next_a);
                    fetch_go(&next_b);
                    const int width = least(n_end - n, NR);
                    const bool placed = in_place && width == NR;
                    fn(kw, a_pack + q * A_BY_K, placed ? b_at(j, k0, n) : b_pack + p * B_PANEL, placed ? j->b_row : NR,
                       j->c + (m0 + m) * j->ldc + n, j->ldc, width, add, last && j->bias ? j->bias + n : NULL);
                }
            }
        }
    }
}

/* ---- few rows ---- */

enum {
    FEW = 16,                                   /* rows at most */
    FEW_PLACE_K = CHAINS == 2 ? TL_BF16_K : 16, /* k of a piece read in place, */
    FEW_PLACE = 128 / NR,                       /* panels wide */
    FEW_PLACE_AHEAD = 32,
    FEW_TURN_BYTES = 192 << 10,     /* of B a task */
    FEW_TURN_AHEAD = 384,           /* bytes between asking for a row's memory and using it */
    FEW_TURN_ROWS = NV > 1 ? 8 : 4, /* more are done sooner from a packed panel */
    FEW_TURN_K = 16 * TL_KB,        /* k at a time */
};
_Static_assert((FEW_TURN_K / TL_KB) * FEW_TURN_ROWS * AS * sizeof(float) <= TL_WORKSPACE_PER_WORKER_BYTES, "scratch");
_Static_assert(FEW_PLACE *FEW *NR + TL_KB * NR + FEW * AS <= A_FLOATS + NB_MAX * B_PANEL, "scratch");

/* sums[mr][NR] taken up, kw more steps, put down; two chains begin and end here. A by row with any stride: row i is at
 * the pointer i/3, offset i%3 strides, which addressing gives for free. */
TL_INLINE void chain(const int mr, int kw, const float *a, int64_t a_row, const float *b, int64_t b_row, int64_t ahead,
                     float *sums) {
    v16 s[MR][NV], zero = v16_zero();
    _Alignas(64) float even[MR][NR];
    const unsigned mode = FLUSHES ? flush_enter() : 0;
    if (FLUSHES) pin(&zero);
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int v = 0; v < NV; v++) s[i][v] =
        CHAINS == 1 ? v16_load_aligned(sums + i * NR + v * TL_LANES) : zero;
    for (int c = 0; c < CHAINS; c++) {
        const float *at[(MR + 2) / 3], *bk = b + c * b_row;
        UNROLL for (int i = 0; i < mr; i += 3) at[i / 3] = a + c + i * a_row;
        if (c)
            UNROLL for (int i = 0; i < mr; i++) UNROLL for (int v = 0; v < NV; v++)
                v16_store_aligned(even[i] + v * TL_LANES, s[i][v]),
                s[i][v] = zero;
        for (int k = c; k < kw; k += CHAINS, bk += CHAINS * b_row) {
            v16 w[NV];
            UNROLL for (int v = 0; v < NV; v++) w[v] = v16_load(bk + v * TL_LANES);
            UNROLL for (int i = 0; i < mr; i++) {
                const v16 x = v16_set1(at[i / 3][i % 3 * a_row]);
                UNROLL for (int v = 0; v < NV; v++) s[i][v] = dot(x, w[v], s[i][v]);
            }
            UNROLL for (int i = 0; i < mr; i += 3) at[i / 3] += CHAINS;
            UNROLL for (int v = 0; v < NV; v++) tl_prefetch(bk + ahead + v * TL_LANES);
        }
    }
    if (CHAINS == 2)
        UNROLL for (int i = 0; i < mr; i++) UNROLL for (int v = 0; v < NV; v++) s[i][v] = v16_add(
            v16_load_aligned(sums + i * NR + v * TL_LANES), v16_add(v16_load_aligned(even[i] + v * TL_LANES), s[i][v]));
    if (FLUSHES) {
        UNROLL for (int i = 0; i < mr; i++) UNROLL for (int v = 0; v < NV; v++) pin(&s[i][v]);
        _mm_setcsr(mode);
    }
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int v = 0; v < NV; v++)
        v16_store_aligned(sums + i * NR + v * TL_LANES, s[i][v]);
}

typedef void chain_fn(int kw, const float *a, int64_t a_row, const float *b, int64_t b_row, int64_t ahead, float *sums);
#define CHAIN(mr)                                                                                                      \
    static void chain_##mr(int kw, const float *a, int64_t a_row, const float *b, int64_t b_row, int64_t ahead,        \
                           float *sums) {                                                                              \
        chain(mr, kw, a, a_row, b, b_row, ahead, sums);                                                                \
    }
CHAIN(1)
CHAIN(2)
CHAIN(3)
CHAIN(4)
CHAIN(5)
CHAIN(6)
#if defined(TL_ISA_avx512)
CHAIN(7)
CHAIN(8)
CHAIN(9) CHAIN(10) CHAIN(11) CHAIN(12)
#endif
    static chain_fn *const chains[MR + 1] = {0,       chain_1, chain_2, chain_3,  chain_4,  chain_5, chain_6,
#if defined(TL_ISA_avx512)
                                             chain_7, chain_8, chain_9, chain_10, chain_11, chain_12
#endif
};

/* All rows against one piece of a panel. */
static void chain_rows(int M, int kw, const float *a, int64_t a_row, const float *b, int64_t b_row, int64_t ahead,
                       float *sums) {
    for (int m = 0; m < M; m += MR) chains[least(M - m, MR)](kw, a + m * a_row, a_row, b, b_row, ahead, sums + m * NR);
}

/* A block's sums go to C[M, n ≤ NR]. */
static void few_store(float *c, int64_t ldc, int M, int n, const float *sums, bool add, const float *bias) {
    for (int m = 0; m < M; m++)
        for (int i = 0; i < n; i += TL_LANES) {
            const int w = least(n - i, TL_LANES);
            v16 x = v16_load_aligned(sums + m * NR + i);
            if (add) x = v16_add(v16_load_n(c + m * ldc + i, w), x);
            if (bias) x = v16_add(x, v16_load_n(bias + i, w));
            v16_store_n(c + m * ldc + i, x, w);
        }
}

/* A task where B's unit stride is n: nb panels, each over all of k. */
static void few_place_task(const job *j, int64_t index, int worker) {
    float *sums = tl__workspace(j->ctx, worker), *buffer = sums + FEW_PLACE * FEW * NR, *a_pack = buffer + TL_KB * NR;
    const int64_t a_row = COPIES ? AS : j->a_row;
    const int n_first = (int)index * j->nb * NR, n_end = least(j->N, n_first + j->nb * NR);

    for (int n0 = n_first; n0 < n_end; n0 += FEW_PLACE * NR) {
        const int columns = least(n_end - n0, FEW_PLACE * NR);
        for (int k0 = 0; k0 < j->K; k0 += TL_KB) {
            const int kb = least(j->K - k0, TL_KB);
            memset(sums, 0, sizeof(float) * FEW_PLACE * FEW * NR);
            if (COPIES) pack_a_by_row(a_pack, j->a + k0, j->a_row, j->M, kb);
            for (int k = k0; k < k0 + kb; k += FEW_PLACE_K) {
                const int kc = least(k0 + kb - k, FEW_PLACE_K), kw = words(kc);
                const float *a = COPIES ? a_pack + (k - k0) / UNIT : j->a + k;
                const float *b = b_at(j, k, n0);
                /* Memory is asked for ahead in k; past the end of k, at the beginning of the columns that come next. */
                int64_t ahead = FEW_PLACE_AHEAD * j->b_row;
                if (k + FEW_PLACE_AHEAD >= j->K) ahead += FEW_PLACE * NR - j->K * j->b_row;
                for (int p = 0; p * NR < columns; p++) {
                    const int width = least(columns - p * NR, NR);
                    const bool in_place = !COPIES && width == NR;
                    if (!in_place) pack_b_copy(buffer, b + p * NR, j->b_row, kc, width, ahead);
                    chain_rows(j->M, kw, a, a_row, in_place ? b + p * NR : buffer, in_place ? j->b_row : NR,
                               in_place ? ahead : 0, sums + p * FEW * NR);
                }
            }
            for (int p = 0; p * NR < columns; p++)
                few_store(j->c + n0 + p * NR, j->ldc, j->M, least(columns - p * NR, NR), sums + p * FEW * NR,
                          k0 > 0 || j->accumulate, k0 + kb == j->K && j->bias ? j->bias + n0 + p * NR : NULL);
        }
    }
}

/* A piece of B: sixteen outputs, or fewer, over kc ≤ TL_KB of k, which lie side by side: turned in registers. */
typedef struct piece {
    const char *b;
    int64_t b_bytes; /* from output to output */
    int64_t left;    /* bytes of a row from b on, */
    int64_t next;    /* and from where they end to where the row sixteen further begins */
    int columns, kc;
} piece;

/* C[mr, columns] (+)= A·piece (+ bias), A packed by row. */
TL_INLINE void turned(const int mr, const bool half, const piece *of, const float *a, float *c, int64_t ldc, bool add,
                      const float *bias) {
    const int step = half ? 2 * TL_LANES : STEP, step_words = step / UNIT, step_bytes = half ? 64 : 4 * STEP;
    const bool widens = half && UNIT == 1;
    const char *b = of->b;
    v16 s[FEW_TURN_ROWS], chain[CHAINS][FEW_TURN_ROWS], zero = v16_zero();
    const unsigned mode = FLUSHES ? flush_enter() : 0;
    if (FLUSHES) pin(&zero);
    UNROLL for (int i = 0; i < mr; i++) {
        s[i] = zero;
        UNROLL for (int n = 0; n < CHAINS; n++) chain[n][i] = zero;
    }
    for (int k = 0; k < extent(of->kc); k += step, a += step_words, b += step_bytes) {
        const int ks = between(0, of->kc - k, step);
        v16 r[TL_LANES];
        const bool ends = of->left - (b - of->b) <= FEW_TURN_AHEAD;
        const char *ask = b + FEW_TURN_AHEAD + (ends ? of->next : 0);
        UNROLL for (int i = 0; i < TL_LANES; i++) for (int line = 0; line < step_bytes; line += LINE_BYTES)
            tl_prefetch(ask + i * of->b_bytes + line);
        if (ks == step && of->columns == TL_LANES) {
            const char *p = b;
            UNROLL for (int i = 0; i < TL_LANES; i++, p += of->b_bytes) {
                r[i] = half ? stored(v16_load_halves((const void *)p)) : along((const void *)p, STEP);
            }
            v16_transpose(r);
            UNROLL for (int w = 0; w < TL_LANES; w++) {
                v16 pair[2] = {r[w]};
                if (widens) spread(r[w], pair);
                UNROLL for (int i = 0; i < mr; i++) {
                    const float *x = a + i * AS + (widens ? 2 * w : w);
                    v16 *even = &chain[widens ? 0 : w % CHAINS][i], *odd = &chain[CHAINS - 1][i];
                    *even = dot(v16_set1(x[0]), pair[0], *even);
                    if (widens) *odd = dot(v16_set1(x[1]), pair[1], *odd);
                }
            }
        } else {
            _Alignas(64) float turned_words[2 * TL_LANES][TL_LANES];
            for (int i = 0; i < TL_LANES; i++) {
                const void *p = b + i * of->b_bytes;
                r[i] = i >= of->columns ? v16_zero() : half ? stored(v16_load_halves_n(p, ks)) : along(p, ks);
            }
            v16_transpose(r);
            for (int w = 0; w < TL_LANES; w++) {
                v16 pair[2] = {r[w]};
                if (widens) spread(r[w], pair), v16_store_aligned(turned_words[2 * w + 1], pair[1]);
                v16_store_aligned(turned_words[widens ? 2 * w : w], pair[0]);
            }
            for (int w = 0, n = least(words(of->kc) - k / UNIT, step_words); w < n; w++)
                UNROLL for (int i = 0; i < mr; i++) chain[w % CHAINS][i] =
                    dot(v16_set1(a[i * AS + w]), v16_load_aligned(turned_words[w]), chain[w % CHAINS][i]);
        }
        if (CHAINS == 2 && (k + step) % TL_BF16_K == 0) UNROLL for (int i = 0; i < mr; i++) {
                s[i] = v16_add(s[i], v16_add(chain[0][i], chain[CHAINS - 1][i]));
                chain[0][i] = zero, chain[CHAINS - 1][i] = zero;
            }
    }
    if (CHAINS == 1) UNROLL for (int i = 0; i < mr; i++) s[i] = chain[0][i];
    if (FLUSHES) {
        UNROLL for (int i = 0; i < mr; i++) pin(&s[i]);
        _mm_setcsr(mode);
        UNROLL for (int i = 0; i < mr; i++) pin(&s[i]);
    }
    UNROLL for (int i = 0; i < mr; i++) {
        const int n = of->columns;
        if (add) s[i] = v16_add(v16_load_n(c + i * ldc, n), s[i]);
        if (bias) s[i] = v16_add(s[i], v16_load_n(bias, n));
        v16_store_n(c + i * ldc, s[i], n);
    }
}

typedef void turned_fn(const piece *of, const float *a, float *c, int64_t ldc, bool add, const float *bias);
#define TURNED(mr)                                                                                                     \
    static void turned_float_##mr(const piece *of, const float *a, float *c, int64_t ldc, bool add,                    \
                                  const float *bias) {                                                                 \
        turned(mr, false, of, a, c, ldc, add, bias);                                                                   \
    }                                                                                                                  \
    static void turned_half_##mr(const piece *of, const float *a, float *c, int64_t ldc, bool add,                     \
                                 const float *bias) {                                                                  \
        turned(mr, true, of, a, c, ldc, add, bias);                                                                    \
    }
TURNED(1)
TURNED(2)
TURNED(3)
TURNED(4)
#if defined(TL_ISA_avx512)
TURNED(5)
TURNED(6)
TURNED(7)
TURNED(8)
#endif
static turned_fn *const turns[2][FEW_TURN_ROWS + 1] = {
    {0, turned_float_1, turned_float_2, turned_float_3, turned_float_4,
#if defined(TL_ISA_avx512)
     turned_float_5, turned_float_6, turned_float_7, turned_float_8
#endif
    },
    {0, turned_half_1, turned_half_2, turned_half_3, turned_half_4,
#if defined(TL_ISA_avx512)
     turned_half_5, turned_half_6, turned_half_7, turned_half_8
#endif
    },
};

/* A task where B's unit stride is k: nb times sixteen outputs over all of k. Sixteen rows side by side are as many
 * streams, of which a core follows most by itself; each is asked for a few lines ahead, past its end where the next
 * sixteen go on. */
static void few_turn_task(const job *j, int64_t index, int worker) {
    const int first = least((int)index, j->n_blocks) * j->nb + (index > j->n_blocks ? (int)index - j->n_blocks : 0);
    const int n_first = first * TL_LANES, n_end = least(j->N, n_first + (index < j->n_blocks ? j->nb : 1) * TL_LANES);
    const int size = element_bytes(j);
    float *a_pack = tl__workspace(j->ctx, worker);
    for (int s0 = 0; s0 < j->K; s0 += FEW_TURN_K) {
        const int end = least(j->K, s0 + FEW_TURN_K);
        for (int k0 = s0; k0 < end; k0 += TL_KB)
            pack_a_by_row(a_pack + (k0 - s0) / TL_KB * FEW_TURN_ROWS * AS, j->a + k0, j->a_row, j->M,
                          least(end - k0, TL_KB));
        for (int n0 = n_first; n0 < n_end; n0 += TL_LANES)
            for (int k0 = s0; k0 < end; k0 += TL_KB) {
                const piece of = {.b = b_at(j, k0, n0),
                                  .b_bytes = j->b_col * size,
                                  .left = (int64_t)(end - k0) * size,
                                  .next = (TL_LANES * j->b_col - (end - s0)) * size,
                                  .columns = least(n_end - n0, TL_LANES),
                                  .kc = least(end - k0, TL_KB)};
                turns[j->half][j->M](&of, a_pack + (k0 - s0) / TL_KB * FEW_TURN_ROWS * AS, j->c + n0, j->ldc,
                                     k0 > 0 || j->accumulate, k0 + TL_KB >= j->K && j->bias ? j->bias + n0 : NULL);
            }
    }
}

/* Cut C into tasks by shape alone: the cut that should end first on two, four and eight workers (two counting most),
 * what each task packs included. The unit is the time of a tile; a panel's packing is in that unit as measured on
 * Zen 4. */
static void cut(job *j) {
    const double pack_b = reads_b_in_place(j) ? cost_b_place : turns_b(j) ? cost_b_turn : cost_b_copy;
    const double pack_a = j->a_col == 1 ? cost_a_by_row : cost_a_by_k;
    const int np = (j->N + NR - 1) / NR, mp = (j->M + MR - 1) / MR;
    const double k_blocks = (double)j->K / TL_KB, start = cost_start; /* claiming a task and its first misses */
    double best = 0;
    for (int n_parts = (np + NB_MAX - 1) / NB_MAX, tries = 0; n_parts <= np && tries < 16; tries++, n_parts++)
        for (int m_parts = 1; m_parts <= mp && m_parts <= 16; m_parts++) {
            const int nb = (np + n_parts - 1) / n_parts, mb = (mp + m_parts - 1) / m_parts;
            const int64_t tasks = (int64_t)((np + nb - 1) / nb) * ((mp + mb - 1) / mb);
            const double one = start + k_blocks * (nb * pack_b + mb * (pack_a + nb));
            double sum = 0;
            for (int w = 2; w <= 8; w *= 2) sum += (double)((tasks + w - 1) / w) * one;
            if (best == 0 || sum < best) best = sum, j->mb = mb, j->nb = nb;
        }
    j->n_blocks = (np + j->nb - 1) / j->nb;
}

static bool has_few_rows(const job *j) {
    return j->M <= (turns_b(j) ? FEW_TURN_ROWS : FEW) && j->a_col == 1;
}

static void do_task(const job *j, int64_t index, int worker) {
    (!has_few_rows(j) ? task : turns_b(j) ? few_turn_task : few_place_task)(j, index, worker);
}

/* How many tasks a product is, having cut it. */
static int64_t tasks_of(job *j) {
    if (!has_few_rows(j)) {
        cut(j);
        return ((j->M + MR - 1) / MR + j->mb - 1) / j->mb * (int64_t)j->n_blocks;
    }
    if (turns_b(j)) {
        const int64_t panel_bytes = (int64_t)j->K * element_bytes(j) * TL_LANES;
        j->nb = panel_bytes < FEW_TURN_BYTES ? (int)(FEW_TURN_BYTES / panel_bytes) : 1;
        /* The last are small, so that no worker waits long for another. */
        const int panels = (j->N + TL_LANES - 1) / TL_LANES;
        j->n_blocks = panels > j->nb ? panels / j->nb - 1 : 0;
        return j->n_blocks + (panels - j->n_blocks * j->nb);
    }
    /* a task reads 256 KB of B, whole panels */
    j->nb = ((65536 / NR + j->K - 1) / j->K + FEW_PLACE - 1) / FEW_PLACE * FEW_PLACE;
    return ((int64_t)j->N + j->nb * NR - 1) / (j->nb * NR);
}

static int rows_of(const job *j) {
    return j->M;
}
static int columns_of(const job *j) {
    return j->N;
}

#include "kernels/cpu/batch.h"

/* The table's entries. */
static void product(tl_ctx *ctx, float *c, int64_t ldc, int M, int N, int K, const float *a, int64_t a_row,
                    int64_t a_col, const float *b, int64_t b_row, int64_t b_col, const float *bias, bool accumulate) {
    assert(M >= 0 && N >= 0 && K >= 0 && (a_row == 1 || a_col == 1) && (b_row == 1 || b_col == 1));
    batch all = {0};
    batch_add(&all, &(job){.ctx = ctx,
                           .c = c,
                           .ldc = ldc,
                           .M = M,
                           .N = N,
                           .K = K,
                           .a = a,
                           .a_row = a_row,
                           .a_col = a_col,
                           .b = (const char *)b,
                           .b_row = b_row,
                           .b_col = b_col,
                           .bias = bias,
                           .accumulate = accumulate});
    tl__parallel_for(ctx->pool, all.first[all.n], batch_task, &all);
}

static void linear(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R) {
    batch all = {0};
    for (const tl_product *p = products; p < products + count; p++)
        batch_add(&all, &(job){.ctx = ctx,
                               .c = p->y,
                               .ldc = p->ldy,
                               .M = R,
                               .N = p->w->N,
                               .K = p->w->K,
                               .a = x,
                               .a_row = ldx,
                               .a_col = 1,
                               .b = p->w->data,
                               .b_row = 1,
                               .b_col = p->w->K,
                               .bias = p->bias,
                               .half = p->w->type != TL_F32});
    tl__parallel_for(ctx->pool, all.first[all.n], batch_task, &all);
}

#endif
