/* attention.c — storing keys and values, and causal attention forward, tiled in registers: the bits of ref/attention.c.
 *
 * A task is a run of rows and one key head. Its items are (row, query head of the group), in row order, so that heads
 * that share a key head share its loads, and a decoding row fills a tile with its group. Items go through the chunks of
 * keys together: scores of a tile of items, softmax row by row, weighted values, merge. How rows are cut into tasks and
 * tiles cannot show in the result, since every item's sums are its own. */
#include "kernels/cpu/attention_stored.h"
#include "kernels/cpu/elementary16.h"
#include <math.h>

enum { ITEMS = 96 }; /* a group: 16 whole tiles */

typedef struct scratch { /* of one worker */
    float q[ITEMS][ROW], o[ITEMS][ROW];
    float k[CHUNK][TL_MAX_HEAD_DIM]; /* a chunk's keys, widened */
    float v[CHUNK][TL_MAX_HEAD_DIM]; /* its values, widened; or padded to whole vectors, for head widths that are not */
    float p[TILE][CHUNK];
    float M[ITEMS + 16], L[ITEMS + 16];
    int64_t row[ITEMS], head[ITEMS];
    int start[ITEMS], limit[ITEMS]; /* keys that the item sees: start … limit−1 */
} scratch;
_Static_assert(sizeof(scratch) <= TL_WORKSPACE_PER_WORKER_BYTES, "a worker's slice holds the scratch");

typedef struct job {
    const tl_ctx *ctx;
    float *out, *max_sum;
    const float *q;
    int64_t ldo, ldq;
    tl_kv kv;
    int64_t part_bytes;
    const tl_rows *rows;
    int H, Hkv, D, step; /* step: rows a task */
    int window;
    int64_t tasks;
    float scale, softcap, inverse_cap;
} job;

DEFINE_MIX(mix_values, CHUNK, 1)

/* Products of q and k, up to key n and from the block of key `begin` on → scores under the soft-cap, in place. */
static void cap_row(float *p, int begin, int n, const job *j) {
    const v16 scale = v16_set1(j->scale), inverse = v16_set1(j->inverse_cap), cap = v16_set1(j->softcap);
    for (int k = begin / 16 * 16; k < n; k += 16)
        v16_store(p + k, v16_mul(cap, v16_tanh(v16_mul(v16_mul(v16_load(p + k), scale), inverse))));
}

/* Scores of one row, in `vecs` vectors of which the last has `last` keys → weights, in place; returns their sum. Absent
 * keys take no part. */
TL_INLINE float softmax_vecs(float *p, int vecs, int last, bool whole, float scale, float *max) {
    const v16 scales = v16_set1(scale);
    const m16 present = m16_first(last);
    v16 x[BLOCKS];
    UNROLL for (int b = 0; b < vecs; b++) x[b] = v16_mul(v16_load(p + b * 16), scales);
    v16 top = vecs == 1 ? v16_set1(-INFINITY) : x[0], sum = v16_zero();
    UNROLL for (int b = 1; b < vecs - 1; b++) top = v16_max(top, x[b]);
    v16 with_last = v16_max(top, x[vecs - 1]);
    *max = v16_max_reduce(whole ? with_last : v16_select(present, with_last, top));
    top = v16_set1(*max);
    UNROLL for (int b = 0; b < vecs; b++) x[b] = v16_exp(v16_sub(x[b], top));
    if (!whole) x[vecs - 1] = v16_keep(present, x[vecs - 1]);
    UNROLL for (int b = 0; b < vecs; b++) v16_store(p + b * 16, x[b]), sum = b ? v16_add(sum, x[b]) : x[0];
    return v16_sum(sum);
}

TL_INLINE float softmax_row(float *p, int n, float scale, float *max) {
    if (n == CHUNK) return softmax_vecs(p, BLOCKS, 16, true, scale, max);
    switch ((n - 1) / 16) {
    case 0:
        return softmax_vecs(p, 1, n, false, scale, max);
    case 1:
        return softmax_vecs(p, 2, n - 16, false, scale, max);
    case 2:
        return softmax_vecs(p, 3, n - 32, false, scale, max);
    default:
        return softmax_vecs(p, 4, n - 48, false, scale, max);
    }
}

/* The same of a row whose keys begin within the chunk, or with a window end there too: keys begin … n−1. */
static float softmax_part(float *p, int begin, int n, float scale, float *max) {
    const v16 scales = v16_set1(scale);
    const int k0 = begin / 16 * 16;
    v16 top = v16_set1(-INFINITY), sum = v16_zero();
#define PRESENT(k) m16_and(m16_first(min_int(n - (k), 16)), m16_not(m16_first(max_int(begin - (k), 0))))
    for (int k = k0; k < n; k += 16) top = v16_select(PRESENT(k), v16_max(top, v16_mul(v16_load(p + k), scales)), top);
    *max = v16_max_reduce(top);
    top = v16_set1(*max);
    for (int k = k0; k < n; k += 16) {
        const v16 x = v16_keep(PRESENT(k), v16_exp(v16_sub(v16_mul(v16_load(p + k), scales), top)));
        v16_store(p + k, x);
        sum = v16_add(sum, x);
    }
#undef PRESENT
    return v16_sum(sum);
}

/* (M, L) of a tile with the chunk's (m, l): the merged pair, and the factors of the old and the new rows. */
static void merge_sums(float *M, float *L, mix_merge *factors, const float *m, const float *l, int rows) {
    v16 M0 = v16_load(M), m0 = v16_load(m), top = v16_max(M0, m0);
    v16 alpha = v16_exp(v16_sub(M0, top)), beta = v16_exp(v16_sub(m0, top));
    v16_store(factors->old, alpha);
    v16_store(factors->new, beta);
    v16_store_n(M, top, rows);
    v16_store_n(L, v16_fma(v16_load(L), alpha, v16_mul(v16_load(l), beta)), rows);
}

static void copy_row(float *to, const float *from, int D) {
    int d = 0;
    for (; d + 16 <= D; d += 16) v16_store(to + d, v16_load(from + d));
    if (d < D) v16_store(to + d, v16_load_n(from + d, D - d));
}

/* Items of a run of rows of sequence s for key head kh: item x of the run is row row0 + x/G, query head kh·G + x%G. */
typedef struct group {
    int s, kh, n;
    int64_t row0, first;
} group;

/* Bring the query and the place of the output nearer, two tiles before they are needed: rows lie far apart. */
static void foresee(const job *j, const scratch *w, int t, int n) {
    if (t >= n) return;
    const float *q = j->q + w->row[t] * j->ldq + w->head[t] * j->D;
    const float *out = j->out + w->row[t] * j->ldo + w->head[t] * j->D;
    for (int d = 0; d < j->D; d += 16) tl_prefetch(q + d), __builtin_prefetch(out + d, 1);
}

/* The group's key head in block b of its sequence. */
static const unsigned char *part_of(const job *j, const group *g, const void *base, int b) {
    const int64_t block = j->rows->block[j->rows->seq_block[g->s] + b];
    return (const unsigned char *)base + (block * j->Hkv + g->kh) * j->part_bytes;
}

static void attend(const job *j, scratch *w, const group *g) {
    const bool narrow = j->kv.type != TL_F32;
    const int D = j->D, Dv = (D + 15) / 16, n = g->n;
    const int G = j->H / j->Hkv;
    int64_t row = g->row0 + g->first / G, head = g->first % G;
    for (int t = 0; t < n; t++) {
        w->row[t] = row, w->head[t] = g->kh * G + head;
        w->limit[t] = j->rows->pos[row] + 1, w->start[t] = first_key(j->window, j->rows->pos[row]);
        if (++head == G) head = 0, row++;
    }
    for (int t = 0; t < 2 * TILE; t++) foresee(j, w, t, n);
    /* The chunk's items are [first, last); those from `opened` on see none before it. */
    for (int key0 = w->start[0] / CHUNK * CHUNK, first = 0, last = 0; key0 < w->limit[n - 1]; key0 += CHUNK) {
        const int opened = last;
        while (w->limit[first] <= key0) first++;
        while (last < n && w->start[last] < key0 + CHUNK) last++;
        const int keys = min_int(w->limit[last - 1] - key0, CHUNK), blocks = (keys + BLOCK - 1) / BLOCK;
        const int low = max_int(w->start[first] - key0, 0); /* no item sees a key of the chunk before it */
        const int at = key0 / BLOCK;                        /* its first block */
        /* The next chunk's blocks are asked for while this one is worked on: as it is widened; by the only tile, as it
         * reads; or some before each of many tiles. */
        const int more = max_int(w->limit[n - 1] - key0 - CHUNK, 0),
                  next_blocks = min_int((more + BLOCK - 1) / BLOCK, BLOCKS);
        /* A tile's worth of items that see the same keys, from the chunk's first on, widens in registers. */
        const bool alike = w->start[last - 1] <= key0 && min_int(w->limit[first] - key0, CHUNK) == keys;
        const bool in_registers = narrow && D % STRIPE == 0 && last - first <= TILE && alike;
        const float *kb[BLOCKS], *vb[BLOCKS];
        const unsigned char *parts[4][BLOCKS]; /* K, V, the next chunk's K and V */
        int64_t ldv = narrow ? Dv * 16 : D;
        for (int b = low / BLOCK; b < blocks; b++) {
            const bool ahead = b < next_blocks;
            parts[0][b] = part_of(j, g, j->kv.k, at + b);
            parts[1][b] = part_of(j, g, j->kv.v, at + b);
            parts[2][b] = ahead ? part_of(j, g, j->kv.k, at + BLOCKS + b) : parts[0][b];
            parts[3][b] = ahead ? part_of(j, g, j->kv.v, at + BLOCKS + b) : parts[1][b];
            kb[b] = (const float *)(const void *)parts[0][b];
            vb[b] = (const float *)(const void *)parts[1][b];
            if (!narrow || in_registers) continue;
            widen_keys(w->k[0] + (int64_t)b * BLOCK * D, j->kv.type, parts[0][b], ahead ? parts[2][b] : NULL, D);
            widen_values(w->v[0] + b * BLOCK * ldv, j->kv.type, parts[1][b], ahead ? parts[3][b] : NULL, D);
            kb[b] = w->k[0] + (int64_t)b * BLOCK * D;
            vb[b] = w->v[0] + b * BLOCK * ldv;
        }
        if (D % 16 && !narrow) {
            ldv = Dv * 16;
            for (int k = low; k < keys; k++) copy_row(w->v[0] + k * ldv, vb[k / BLOCK] + (k % BLOCK) * (int64_t)D, D);
            for (int b = low / BLOCK; b < blocks; b++) vb[b] = w->v[0] + b * BLOCK * ldv;
        }
        const float *next[2][BLOCKS]; /* K, V */
        for (int b = 0; b < BLOCKS; b++) {
            const bool ahead = b < next_blocks && !narrow;
            next[0][b] = ahead ? (const float *)(const void *)part_of(j, g, j->kv.k, at + BLOCKS + b) : kb[blocks - 1];
            next[1][b] = ahead ? (const float *)(const void *)part_of(j, g, j->kv.v, at + BLOCKS + b) : vb[blocks - 1];
        }
        const int tiles = (last - first + TILE - 1) / TILE,
                  asks = (tiles == 1 && last - first <= FEW) || narrow ? 0 : (2 * next_blocks + tiles - 1) / tiles;
        for (int t = first, rows, asked = 0; t < last; t += rows) {
            const bool opens = t >= opened;
            rows = tile_rows((opens ? last : opened) - t);
            for (int a = 0; a < asks && asked < 2 * next_blocks; a++, asked++)
                for (int d = 0; d < D; d++) tl_prefetch_l2(next[asked / next_blocks][asked % next_blocks] + d * 16);
            int begin[TILE], end[TILE];
            for (int r = 0; r < rows; r++) {
                begin[r] = max_int(w->start[t + r] - key0, 0);
                end[r] = min_int(w->limit[t + r] - key0, CHUNK);
            }
            if (opens)
                for (int r = 0; r < rows; r++) {
                    foresee(j, w, t + r + 2 * TILE, n);
                    copy_row(w->q[t + r], j->q + w->row[t + r] * j->ldq + w->head[t + r] * D, D);
                }
            const int b = begin[0] / BLOCK;
            if (in_registers) stored_dots(rows, j->kv.type, w->p[0], w->q[t], parts[0], parts[2], blocks, D);
            else
                dots(rows, w->p[0] + b * BLOCK, w->q[t], kb + b, next[0] + b, (end[rows - 1] + BLOCK - 1) / BLOCK - b,
                     D);
            float m[16] = {0}, l[16] = {0}, scale = j->scale;
            if (j->softcap != 0) {
                for (int r = 0; r < rows; r++) cap_row(w->p[r], begin[r], end[r], j);
                scale = 1;
            }
            if (begin[rows - 1] == 0)
                for (int r = 0; r < rows; r++) l[r] = softmax_row(w->p[r], end[r], scale, &m[r]);
            else
                for (int r = 0; r < rows; r++) l[r] = softmax_part(w->p[r], begin[r], end[r], scale, &m[r]);
            mix_merge factors;
            if (opens)
                for (int r = 0; r < rows; r++) w->M[t + r] = m[r], w->L[t + r] = l[r];
            else merge_sums(w->M + t, w->L + t, &factors, m, l, rows);
            const mix_end how = opens ? MIX_WRITE : MIX_MERGE;
            if (in_registers)
                stored_mix(rows, j->kv.type, w->o[t], w->p[0], parts[1], parts[3], keys, D, how, &factors);
            else mix_values(rows, w->o[t], ROW, w->p[0], vb, next[1], ldv, Dv, begin, end, how, &factors);
        }
    }
    for (int t = 0; t < n; t++) {
        const int64_t r = w->row[t], h = w->head[t];
        float *to = j->out + r * j->ldo + h * D;
        const v16 inverse = v16_set1(1 / w->L[t]);
        int d = 0;
        for (; d + 16 <= D; d += 16) v16_store(to + d, v16_mul(v16_load(w->o[t] + d), inverse));
        if (d < D) v16_store_n(to + d, v16_mul(v16_load(w->o[t] + d), inverse), D - d);
        if (j->max_sum) j->max_sum[(r * j->H + h) * 2] = w->M[t], j->max_sum[(r * j->H + h) * 2 + 1] = w->L[t];
    }
}

static void forward_task(void *user, int64_t i, int worker) {
    const job *j = user;
    const tl_rows *rows = j->rows;
    const int64_t runs = j->tasks / j->Hkv;
    const int G = j->H / j->Hkv, kh = (int)(i / runs);
    /* A head's tasks follow each other, while its keys and values are near. Late rows see the most keys: they go first,
     * and the short tasks fill up the end. */
    const int64_t from = (runs - 1 - i % runs) * j->step, to = from + j->step < rows->R ? from + j->step : rows->R;
    for (int s = sequence_of(rows, (int)from); s < rows->S && rows->seq_row[s] < to; s++) {
        int64_t row0 = max_int((int)from, rows->seq_row[s]), row1 = min_int((int)to, rows->seq_row[s + 1]);
        int64_t items = (row1 - row0) * G;
        for (int64_t x = 0; x < items; x += ITEMS)
            attend(j, tl__workspace(j->ctx, worker),
                   &(group){s, kh, (int)(items - x < ITEMS ? items - x : ITEMS), row0, x});
    }
}

/* Rows a task: about a sequence's, so that decoding many sequences spreads out; not so few that thousands of tasks cost
 * more than their work, nor so many that a single sequence gives too few tasks. */
static int task_rows(const tl_rows *rows, int Hkv) {
    int64_t per_sequence = (rows->R + rows->S - 1) / rows->S, work = (int64_t)rows->R * Hkv;
    int64_t step = per_sequence > work / 1024 ? per_sequence : work / 1024;
    int64_t most = work / 32 > 16 ? work / 32 : 16;
    if (step > most) step = most;
    return step < 1 ? 1 : step > TASK_ROWS ? TASK_ROWS : (int)step;
}

static void attention(tl_ctx *ctx, float *out, int64_t ldo, float *max_sum, const float *q, int64_t ldq, tl_kv kv,
                      const tl_rows *rows, const tl_attention_form *form) {
    const int H = form->H, Hkv = form->Hkv, D = form->D;
    assert(D >= 1 && D <= TL_MAX_HEAD_DIM && Hkv >= 1 && H % Hkv == 0 && tl_kv_can_be(kv.type));
    if (rows->R == 0) return;
    job j = {.ctx = ctx,
             .out = out,
             .max_sum = max_sum,
             .q = q,
             .ldo = ldo,
             .ldq = ldq,
             .kv = kv,
             .part_bytes = tl_kv_part_bytes(kv.type, D),
             .rows = rows,
             .H = H,
             .Hkv = Hkv,
             .D = D,
             .step = task_rows(rows, Hkv),
             .window = window_of(form),
             .scale = form->scale,
             .softcap = form->softcap,
             .inverse_cap = form->softcap != 0 ? 1 / form->softcap : 0};
    j.tasks = (int64_t)((rows->R + j.step - 1) / j.step) * Hkv;
    tl__parallel_for(ctx->pool, j.tasks, forward_task, &j);
}

typedef struct store_job {
    tl_kv kv;
    const float *k, *v;
    int64_t ldk, ldv;
    const tl_rows *rows;
    int Hkv, D;
} store_job;

/* Sixteen rows that fill a block: K turned in registers. */
static void store_block(const store_job *j, int64_t block, int64_t r) {
    const int D = j->D;
    for (int kh = 0; kh < j->Hkv; kh++) {
        float *to = (float *)j->kv.k + (block * j->Hkv + kh) * (int64_t)D * BLOCK;
        const float *from = j->k + r * j->ldk + (int64_t)kh * D;
        for (int d0 = 0; d0 < D; d0 += 16) {
            int n = min_int(D - d0, 16);
            v16 x[16];
            for (int i = 0; i < 16; i++)
                x[i] = n == 16 ? v16_load(from + i * j->ldk + d0) : v16_load_n(from + i * j->ldk + d0, n);
            v16_transpose(x);
            for (int d = 0; d < n; d++) v16_store(to + (d0 + d) * BLOCK, x[d]);
        }
    }
}

/* Row r as key `at` of a block, in f32; its K only if asked for. */
static void store_row(const store_job *j, int64_t block, int at, int64_t r, bool keys) {
    const int D = j->D;
    for (int kh = 0; kh < j->Hkv; kh++) {
        float *to_k = (float *)j->kv.k + (block * j->Hkv + kh) * (int64_t)D * BLOCK + at;
        float *to_v = (float *)j->kv.v + ((block * j->Hkv + kh) * BLOCK + at) * (int64_t)D;
        const float *k = j->k + r * j->ldk + (int64_t)kh * D, *v = j->v + r * j->ldv + (int64_t)kh * D;
        if (keys)
            for (int d = 0; d < D; d++) to_k[d * BLOCK] = k[d];
        for (int d = 0; d < D; d++) to_v[d] = v[d];
    }
}

/* The same in fewer bits. */
static void store_narrow(const store_job *j, int64_t block, int at, int64_t r) {
    const int D = j->D;
    const int64_t bytes = tl_kv_part_bytes(j->kv.type, D);
    for (int kh = 0; kh < j->Hkv; kh++) {
        const int64_t part = (block * j->Hkv + kh) * bytes;
        narrow_row((unsigned char *)j->kv.k + part, j->kv.type, at, at, BLOCK, j->k + r * j->ldk + (int64_t)kh * D, D);
        narrow_row((unsigned char *)j->kv.v + part, j->kv.type, at, at * D, 1, j->v + r * j->ldv + (int64_t)kh * D, D);
    }
}

static void store_task(void *user, int64_t task, int worker) {
    const store_job *j = user;
    const tl_rows *rows = j->rows;
    const int from = (int)task * TASK_ROWS, to = min_int(from + TASK_ROWS, rows->R);
    for (int s = sequence_of(rows, from); s < rows->S && rows->seq_row[s] < to; s++) {
        const int end = min_int(to, rows->seq_row[s + 1]);
        const int32_t *table = rows->block + rows->seq_block[s];
        for (int r = max_int(from, rows->seq_row[s]), n; r < end; r += n) {
            const int at = rows->pos[r] % BLOCK;
            const int64_t block = table[rows->pos[r] / BLOCK];
            n = min_int(BLOCK - at, end - r);
            if (j->kv.type != TL_F32)
                for (int i = 0; i < n; i++) store_narrow(j, block, at + i, r + i);
            else
                for (int i = 0; i < n; i++) store_row(j, block, at + i, r + i, n < BLOCK);
            if (n == BLOCK && j->kv.type == TL_F32) store_block(j, block, r);
        }
    }
}

static void kv_store(tl_ctx *ctx, tl_kv kv, const float *k, int64_t ldk, const float *v, int64_t ldv,
                     const tl_rows *rows, int Hkv, int D) {
    store_job j = {kv, k, v, ldk, ldv, rows, Hkv, D};
    tl__parallel_for(ctx->pool, (rows->R + TASK_ROWS - 1) / TASK_ROWS, store_task, &j);
}

void TL_NAME(ops_attention)(tl_ops *ops) {
    ops->kv_store = kv_store;
    ops->attention = attention;
    ops->attention_backward = TL_NAME(attention_backward);
}
