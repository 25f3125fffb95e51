/* cpu/product_tiles.h — every product in bf16 with AMX's tiles: what gemm_bf16.c is on CPUs that have them.
 *
 * TDPBF16PS multiplies a tile of sixteen rows by 32 of k with one of 32 of k by sixteen columns, and adds to sixteen by
 * sixteen sums: the contract's chains of 32 of k are its own. So the left factor is wanted in rows, 32 numbers each,
 * the right one in words, pairs of k of sixteen columns side by side. Which factor is left is free, since only numbers
 * of one output are added: weights stored in bf16 are, and their tiles are loaded where they lie.
 *
 *   task    a block of outputs; it owns them for all of k
 *     pass of k    the right strips are packed, and stay in L2
 *       two left strips, in place or packed, as many at a time as lie side by side in memory
 *         two right strips: four tiles of sums, which every TL_KB are put down in L1 and added there
 *
 * A strip is sixteen rows, or columns, over the k of a pass; a tile of it 1 KB. What a strip lacks is zeros. */
#ifndef TL_KERNELS_CPU_PRODUCT_TILES_H
#define TL_KERNELS_CPU_PRODUCT_TILES_H

#include <assert.h>
#include <limits.h>
#include <string.h>
#include "kernels/cpu/amx.h"
#include "kernels/simd.h"
#include "kernels/table.h"

enum {
    SIDE = 16, /* of a tile of sums */
    TILE_BYTES = 1024,
    PASS_K = 2048,         /* at most */
    RIGHT_BYTES = 1 << 20, /* of right strips a task: half of L2 */
    LEFT_BYTES = 256 << 10,
    FEW_BYTES = 192 << 10, /* of weights a task, where rows are few */
    AHEAD = 384,           /* bytes between asking for a row of weights and using it */
    BLOCK_GROUPS = TL_KB / TL_BF16_K,
};
_Static_assert(LEFT_BYTES >= 2 * (PASS_K / TL_BF16_K) * TILE_BYTES, "two strips of a pass");
_Static_assert(RIGHT_BYTES + LEFT_BYTES <= TL_WORKSPACE_PER_WORKER_BYTES, "scratch");

#define UNROLL _Pragma("GCC unroll 16")

static inline int least(int x, int y) {
    return x < y ? x : y;
}

/* ---- a factor ---- */

/* Element (i, k) is at p[i·step + k·k_step], floats or halves; one of the steps is 1, halves' k_step. */
typedef struct factor {
    const char *p;
    int64_t step, k_step;
    int n;
    bool half;
} factor;

/* Tiles of a factor: (i, group) begins at p + i·row + group·next. */
typedef struct strip {
    const char *p;
    int64_t row, next; /* bytes */
} strip;

/* A tile, of one side: rows, or words; sixteen of the factor from `first` on and ks ≤ 32 of k. Where rows run across
 * strips, what lies `ahead` elements further is asked for. */
TL_INLINE void pack_tile(char *to, const factor *f, bool words, int first, int k, int ks, int64_t ahead) {
    const int n = least(f->n - first, SIDE);
    const bool lies_in_rows = f->k_step == 1;
    v16 r[SIDE];
    if (f->half) {
        const uint16_t *at = (const uint16_t *)(const void *)f->p + first * f->step + k;
        for (int i = 0; i < SIDE; i++)
            r[i] = i >= n            ? v16_zero()
                   : ks == TL_BF16_K ? v16_load_halves(at + i * f->step)
                                     : v16_load_halves_n(at + i * f->step, ks);
    } else if (lies_in_rows) {
        const float *at = (const float *)(const void *)f->p + first * f->step + k;
        if (n == SIDE && ks == TL_BF16_K) UNROLL for (int i = 0; i < SIDE; i++) r[i] = halves(at + i * f->step, 32);
        else
            for (int i = 0; i < SIDE; i++) r[i] = i < n ? halves(at + i * f->step, ks) : v16_zero();
    } else {
        const float *at = (const float *)(const void *)f->p + first + k * f->k_step;
        if (n == SIDE && ks == TL_BF16_K) UNROLL for (int i = 0; i < SIDE; i++) {
                const float *low = at + 2 * i * f->k_step, *high = low + f->k_step;
                r[i] = pair(v16_load(low), v16_load(high));
                tl_prefetch(low + ahead), tl_prefetch(high + ahead);
            }
        else
            for (int i = 0; i < SIDE; i++) {
                const float *low = at + 2 * i * f->k_step;
                r[i] = pair(2 * i < ks ? v16_load_n(low, n) : v16_zero(),
                            2 * i + 1 < ks ? v16_load_n(low + f->k_step, n) : v16_zero());
            }
    }
    if (lies_in_rows == words) v16_transpose(r);
    UNROLL for (int i = 0; i < SIDE; i++) v16_store_aligned((float *)(void *)(to + 64 * i), r[i]);
}

/* Strips of the factor from `first` to `end`, `stride` bytes apart, and kc of k. Memory is read along its rows: where
 * these run across strips, all strips' tiles of 32 of k come before the next. */
static void pack(char *to, int64_t stride, const factor *f, bool words, int first, int end, int k0, int kc) {
    enum { FAR = AHEAD / (int)sizeof(float) };
    if (f->k_step == 1)
        for (; first < end; first += SIDE, to += stride)
            for (int k = 0; k < kc; k += TL_BF16_K)
                pack_tile(to + k / TL_BF16_K * TILE_BYTES, f, words, first, k0 + k, least(kc - k, TL_BF16_K), 0);
    else
        for (int k = 0; k < kc; k += TL_BF16_K, to += TILE_BYTES)
            for (int at = first; at < end; at += SIDE)
                pack_tile(to + (at - first) / SIDE * stride, f, words, at, k0 + k, least(kc - k, TL_BF16_K),
                          FAR + (at + FAR < end ? 0 : TL_BF16_K * f->k_step - (end - first)));
}

/* One row of floats as words of one column, four bytes each. */
static void pack_alone(char *to, const factor *f, int k0, int kc) {
    const float *at = (const float *)(const void *)f->p + k0;
    for (int k = 0; k < kc; k += TL_BF16_K, to += 64)
        v16_store_aligned((float *)(void *)to, halves(at + k, least(kc - k, TL_BF16_K)));
}

/* ---- tiles ---- */

/* 0 to 3: sums of (left 0, right 0), (0, 1), (1, 0), (1, 1). 4, 5: left. 6, 7: right. */
static void tiles_open(int columns) {
    tile_config config = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        config.row_bytes[t] = (uint16_t)(t == 4 || t == 5 ? 64 : 4 * columns);
        config.rows[t] = SIDE;
    }
    tiles_configure(&config);
}
#define TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t ::)
#define TILE_LOAD(t, at, row) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(at), "r"(row) : "memory")
#define TILE_STORE(t, at, row) __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(at), "r"(row) : "memory")
#define TILE_DOTS(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

/* Sums over `groups` of k of two left and nr right strips, to at[left][right][SIDE][columns]. With each tile of a left
 * strip those AHEAD bytes further are asked for, past the row_bytes of a row those where the next two strips begin
 * (0: nothing is), and c's 32 rows, ldc apart, a few with each group (NULL: none). */
TL_INLINE void dots(const int nr, const strip *left, const strip *right, int group, int groups, float *at, int columns,
                    int64_t row_bytes, const float *c, int64_t ldc) {
    const int64_t row = 4 * columns;
    const char *l0 = left[0].p + group * left[0].next, *l1 = left[1].p + group * left[1].next;
    const char *r0 = right[0].p + group * right[0].next, *r1 = right[1].p + group * right[1].next;
    TILE_ZERO(0);
    TILE_ZERO(2);
    if (nr == 2) TILE_ZERO(1);
    if (nr == 2) TILE_ZERO(3);
    for (int g = 0; g < groups; g++) {
        TILE_LOAD(6, r0, right[0].row);
        TILE_LOAD(4, l0, left[0].row);
        TILE_DOTS(0, 4, 6);
        if (nr == 2) TILE_LOAD(7, r1, right[1].row);
        if (nr == 2) TILE_DOTS(1, 4, 7);
        TILE_LOAD(5, l1, left[1].row);
        TILE_DOTS(2, 5, 6);
        if (nr == 2) TILE_DOTS(3, 5, 7);
        if (row_bytes > 0) {
            const bool ends = (group + g) * left[0].next + AHEAD >= row_bytes;
            const char *ask = l0 + AHEAD + (ends ? 2 * SIDE * left[0].row - row_bytes : 0);
            UNROLL for (int i = 0; i < 2 * SIDE; i++) tl_prefetch(ask + i * left[0].row);
        }
        if (c) UNROLL for (int i = 0; i < 2 * SIDE / BLOCK_GROUPS; i++, c += ldc) tl_prefetch(c), tl_prefetch(c + SIDE);
        l0 += left[0].next, l1 += left[1].next, r0 += right[0].next, r1 += right[1].next;
    }
    TILE_STORE(0, at, row);
    if (nr == 2) TILE_STORE(1, at + SIDE * columns, row);
    TILE_STORE(2, at + nr * SIDE * columns, row);
    if (nr == 2) TILE_STORE(3, at + 3 * SIDE * columns, row);
}

/* ---- one product ---- */

typedef struct job {
    tl_ctx *ctx;
    float *c;
    const float *bias;
    int64_t ldc;
    factor left, right;
    int K;
    bool turned; /* left's are C's columns, right's its rows; else the other way */
    bool accumulate;
    int columns;  /* of a tile of sums: 16, or 1 where the right factor is a row alone */
    int pass;     /* k at a time, a multiple of TL_KB */
    int lb, rb;   /* strips a task */
    int l_blocks; /* tasks along left of lb strips; what follows them is done two strips a task */
    int r_blocks; /* tasks along right */
} job;

/* Left tiles can be loaded where they lie. */
static bool left_in_place(const job *j) {
    return j->left.half && j->K % TL_BF16_K == 0;
}

/* The tile of C whose left begins at l, its right at r: from or to sums[SIDE][columns]. */
static void c_load(const job *j, float *sums, int l, int r) {
    const int nl = least(j->left.n - l, SIDE), nr = least(j->right.n - r, SIDE);
    v16 x[SIDE];
    if (j->columns == 1) {
        v16_store_aligned(sums, v16_load_n(j->c + l, nl));
        return;
    }
    for (int i = 0; i < SIDE; i++)
        x[i] = j->turned ? i < nr ? v16_load_n(j->c + (r + i) * j->ldc + l, nl) : v16_zero()
               : i < nl ? v16_load_n(j->c + (l + i) * j->ldc + r, nr)
                         : v16_zero();
    if (j->turned) v16_transpose(x);
    for (int i = 0; i < SIDE; i++) v16_store_aligned(sums + i * SIDE, x[i]);
}
static void c_store(const job *j, const float *sums, int l, int r, const float *bias) {
    const int nl = least(j->left.n - l, SIDE), nr = least(j->right.n - r, SIDE);
    const int n = j->turned ? l : r, width = j->turned ? nl : nr, rows = j->turned ? nr : nl;
    const v16 last = bias ? v16_load_n(bias + n, width) : v16_zero();
    float *c = j->c + (int64_t)(j->turned ? r : l) * j->ldc + n;
    v16 x[SIDE];
    if (j->columns == 1) x[0] = v16_load_aligned(sums);
    else {
        UNROLL for (int i = 0; i < SIDE; i++) x[i] = v16_load_aligned(sums + i * SIDE);
        if (j->turned) v16_transpose(x);
    }
    for (int i = 0; i < rows; i++) v16_store_n(c + i * j->ldc, bias ? v16_add(x[i], last) : x[i], width);
}

/* Two left strips and nr right ones over a pass. */
static void block(const job *j, const strip *left, const strip *right, int l, int r, int nr, int k0, int kc,
                  int64_t row_bytes) {
    enum { TILE_FLOATS = SIDE * SIDE };
    _Alignas(64) float sums[4 * TILE_FLOATS], more[4 * TILE_FLOATS];
    const int groups = (kc + TL_BF16_K - 1) / TL_BF16_K, floats = SIDE * j->columns, nl = l + SIDE < j->left.n ? 2 : 1;
    const bool add = k0 > 0 || j->accumulate;
    const int rows = j->turned ? j->right.n - r : j->left.n - l; /* where they are few, C lies in the caches */
    const float *c = rows < 2 * SIDE ? NULL : j->c + (int64_t)(j->turned ? r : l) * j->ldc + (j->turned ? l : r);
    for (int g = 0; g < groups; g += BLOCK_GROUPS, c = NULL) {
        const int n = least(groups - g, BLOCK_GROUPS);
        float *to = g == 0 && !add ? sums : more;
        if (nr == 2) dots(2, left, right, g, n, to, j->columns, row_bytes, c, j->ldc);
        else dots(1, left, right, g, n, to, j->columns, row_bytes, c, j->ldc);
        if (g == 0 && add)
            for (int i = 0; i < nl * nr; i++) c_load(j, sums + i * floats, l + i / nr * SIDE, r + i % nr * SIDE);
        if (to == more)
            for (int i = 0; i < nl * nr * floats; i += TL_LANES)
                v16_store_aligned(sums + i, v16_add(v16_load_aligned(sums + i), v16_load_aligned(more + i)));
    }
    const float *bias = k0 + kc == j->K ? j->bias : NULL;
    for (int i = 0; i < nl * nr; i++) c_store(j, sums + i * floats, l + i / nr * SIDE, r + i % nr * SIDE, bias);
}

static void task(const job *j, int64_t index, int worker) {
    const int along = (int)(index / j->r_blocks), small = along > j->l_blocks ? along - j->l_blocks : 0;
    const int l_first = ((along - small) * j->lb + 2 * small) * SIDE,
              l_end = least(j->left.n, l_first + (along < j->l_blocks ? j->lb : 2) * SIDE);
    const int r_first = (int)(index % j->r_blocks) * j->rb * SIDE, r_end = least(j->right.n, r_first + j->rb * SIDE);
    char *right_pack = tl__workspace(j->ctx, worker), *left_pack = right_pack + RIGHT_BYTES;
    const bool in_place = left_in_place(j), alone = j->columns == 1;
    tiles_open(j->columns);
    for (int k0 = 0; k0 < j->K; k0 += j->pass) {
        const int kc = least(j->K - k0, j->pass);
        const int64_t groups = (kc + TL_BF16_K - 1) / TL_BF16_K, left_bytes = groups * TILE_BYTES,
                      right_bytes = groups * (alone ? 64 : TILE_BYTES);
        const int at_once = j->left.k_step == 1 ? 2 : LEFT_BYTES / (int)left_bytes & ~1;
        if (alone) pack_alone(right_pack, &j->right, k0, kc);
        else pack(right_pack, right_bytes, &j->right, true, r_first, r_end, k0, kc);
        for (int l = l_first, i = 0; l < l_end; l += 2 * SIDE, i = (i + 2) % at_once) {
            strip left[2], right[2];
            int64_t row_bytes = in_place ? 2 * kc : 0; /* asked for once */
            if (!in_place && i == 0)
                pack(left_pack, left_bytes, &j->left, false, l, least(l_end, l + at_once * SIDE), k0, kc);
            for (int n = 0; n < 2; n++) {
                const int at = l + n * SIDE;
                left[n] = (strip){left_pack + (i + n) * left_bytes, 64, TILE_BYTES};
                if (at >= l_end) left[n] = left[0]; /* alone, it is computed twice and kept once */
                else if (in_place && j->left.n - at >= SIDE)
                    left[n] = (strip){j->left.p + (at * j->left.step + k0) * 2, j->left.step * 2, 2 * TL_BF16_K};
                else if (in_place) pack(left_pack + n * left_bytes, left_bytes, &j->left, false, at, at + SIDE, k0, kc);
            }
            for (int r = r_first; r < r_end; r += 2 * SIDE) {
                const int nr = r + SIDE < r_end ? 2 : 1;
                for (int n = 0; n < nr; n++)
                    right[n] = (strip){right_pack + ((r - r_first) / SIDE + n) * right_bytes, 4 * j->columns,
                                       alone ? 64 : TILE_BYTES};
                if (nr == 1) right[1] = right[0];
                block(j, left, right, l, r, nr, k0, kc, row_bytes);
                row_bytes = 0;
            }
        }
    }
    tiles_close();
}

/* Cut C into tasks, and k into passes: the cut that should end first on this many workers, packing included. The unit
 * is a tile's product with what it takes to load its factors, about 12 ns; what a tile's packing takes, or that of sums
 * loaded from C and stored there, is in that unit. No bit depends on the cut. */
static int64_t cut(job *j) {
    const int lp = (j->left.n + SIDE - 1) / SIDE, rp = (j->right.n + SIDE - 1) / SIDE;
    const int workers = tl__pool_threads(j->ctx->pool);
    const double groups = (double)((j->K + TL_BF16_K - 1) / TL_BF16_K), start = 200;
    const double pack_left = left_in_place(j) ? 0.5 : 10, pack_right = 20, put_down = 10;
    double best = 0;
    j->pass = PASS_K;
    if (j->columns == 1) {
        const int64_t strip_bytes = (int64_t)j->K * SIDE * 2;
        j->rb = j->r_blocks = 1;
        j->lb = strip_bytes < FEW_BYTES ? (int)(FEW_BYTES / strip_bytes + 1) / 2 * 2 : 2;
        /* The last are small, so that no worker waits long for another. */
        j->l_blocks = lp > j->lb ? lp / j->lb - 1 : 0;
        return j->l_blocks + (lp - j->l_blocks * j->lb + 1) / 2;
    }
    /* A shorter pass is worth a thought where fewer parts of the right factor then fill L2. */
    for (int pass = PASS_K, fewest = INT_MAX; pass >= TL_KB && fewest > 1; pass /= 2) {
        const int passes = (j->K + pass - 1) / pass;
        const int most_right = RIGHT_BYTES / (least((int)groups, pass / TL_BF16_K) * TILE_BYTES);
        const int parts = (rp + most_right - 1) / most_right;
        if (parts == fewest) continue;
        fewest = parts;
        for (int r_parts = parts, tries = 0; r_parts <= rp && tries < 16; tries++, r_parts++)
            for (int l_parts = 1; l_parts <= (lp + 1) / 2 && l_parts <= 64; l_parts++) {
                const int rb = (rp + r_parts - 1) / r_parts, lb = ((lp + l_parts - 1) / l_parts + 1) / 2 * 2;
                const int64_t tasks = (int64_t)((rp + rb - 1) / rb) * ((lp + lb - 1) / lb);
                const double one = start + groups * (rb * pack_right + lb * (pack_left + (rb > 1 ? rb : 2))) +
                                   (double)passes * lb * rb * put_down;
                /* Of the last task a half is waited for: no two workers are equally fast. */
                const double all = ((double)((tasks + workers - 1) / workers) + (workers > 1 ? 0.5 : 0)) * one;
                if (best == 0 || all < best) best = all, j->lb = lb, j->rb = rb, j->pass = pass;
            }
    }
    j->l_blocks = (lp + j->lb - 1) / j->lb;
    j->r_blocks = (rp + j->rb - 1) / j->rb;
    return (int64_t)j->r_blocks * j->l_blocks;
}

static int rows_of(const job *j) {
    return j->turned ? j->right.n : j->left.n;
}
static int columns_of(const job *j) {
    return j->turned ? j->left.n : j->right.n;
}
static int64_t tasks_of(job *j) {
    j->columns = j->turned && j->right.n == 1 ? 1 : SIDE;
    return cut(j);
}
#define do_task task

#include "kernels/cpu/batch.h"

/* The table's entries. */
static void product(tl_ctx *ctx, float *c, int64_t ldc, int M, int N, int K, const float *a, int64_t a_row,
                    int64_t a_col, const float *b, int64_t b_row, int64_t b_col, const float *bias, bool accumulate) {
    assert(M >= 0 && N >= 0 && K >= 0 && (a_row == 1 || a_col == 1) && (b_row == 1 || b_col == 1));
    const factor rows = {(const char *)a, a_row, a_col, M, false}, columns = {(const char *)b, b_col, b_row, N, false};
    batch all = {0};
    batch_add(&all, &(job){ctx, c, bias, ldc, rows, columns, K, false, accumulate, 0, 0, 0, 0, 0, 0});
    tl__parallel_for(ctx->pool, all.first[all.n], batch_task, &all);
}

static void linear(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R) {
    batch all = {0};
    for (const tl_product *p = products; p < products + count; p++) {
        const int N = p->w->N, K = p->w->K;
        const factor rows = {(const char *)x, ldx, 1, R, false}, outputs = {p->w->data, K, 1, N, true};
        batch_add(&all, &(job){ctx, p->y, p->bias, p->ldy, outputs, rows, K, true, false, 0, 0, 0, 0, 0, 0});
    }
    tl__parallel_for(ctx->pool, all.first[all.n], batch_task, &all);
}

#endif
