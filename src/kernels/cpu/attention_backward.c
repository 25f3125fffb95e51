/* attention_backward.c — gradients of causal attention, tiled in registers: the bits of ref/attention.c.
 *
 * The unit of work is a pair of (64 queries of one head, 64 keys): scores and their gradients from two dots, then dq,
 * dv and dk as mixes. For a chunk of keys the heads of its group come one after the other and, within each, the chunks
 * of queries in order: so dk and dv stay in scratch until done, and each dq receives its key chunks in order. A task is
 * a sequence and a key head; if these are too few for the threads, the keys' gradients and the queries' are made by
 * separate tasks of one chunk each, which computes the scores twice. Either way every sum has the same terms in the
 * same order. */
#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/elementary16.h"

enum { AHEAD = 2 * TILE }; /* rows that loads are foreseen by */

typedef struct scratch {                          /* of one worker */
    float k[CHUNK][ROW];                          /* a chunk's keys as rows */
    float v[BLOCKS][TL_MAX_HEAD_DIM * BLOCK];     /* its values interleaved as keys are stored: [D][16] a block */
    float q[CHUNK][ROW], g[CHUNK][ROW];           /* a chunk's queries of one head, and dout */
    float dk[CHUNK][ROW], dv[CHUNK][ROW];         /* sums so far */
    float dq[TILE][ROW];                          /* a tile's, where head widths are not whole vectors */
    float p[CHUNK][CHUNK], ds[CHUNK][CHUNK];      /* p_ij and ds_ij by query, of the keys that it sees */
    float M[CHUNK], inverse[CHUNK], delta[CHUNK]; /* by query: M_i, 1/L_i, δ_i */
    const float *kb[BLOCKS];                      /* the chunk's keys as stored */
} scratch;
_Static_assert(sizeof(scratch) <= TL_WORKSPACE_PER_WORKER_BYTES, "a worker's slice holds the scratch");

typedef struct job {
    const tl_ctx *ctx;
    float *dq, *dk, *dv;
    const float *dout, *out, *max_sum, *q;
    int64_t ld, ldo, ldq;
    tl_kv kv;
    const tl_rows *rows;
    int H, Hkv, D, window;
    float scale, softcap, inverse_cap;
    bool split;
    int64_t blocks; /* runs of TASK_ROWS rows */
} job;

DEFINE_MIX(mix_keys, CHUNK, 1)    /* dq: a query's coefficients lie in its row, about its position */
DEFINE_MIX(mix_queries, 1, CHUNK) /* dk, dv: a key's lie in its column, from its position on */

/* The chunks of keys that queries of chunk I see are first_chunk … I; of queries that see keys of chunk J, J …
 * last_chunk. */
static int first_chunk(const job *j, int I) {
    return first_key(j->window, I * CHUNK) / CHUNK;
}
static int last_chunk(const job *j, int J, int chunks) {
    return j->window ? min_int(((J * CHUNK) + (CHUNK - 2) + j->window) / CHUNK, chunks - 1) : chunks - 1;
}

/* Keys key0 … of sequence s: as stored, as rows, and the values interleaved. Lanes of absent keys hold anything. */
static void load_keys(const job *j, scratch *w, int s, int kh, int key0, int keys) {
    const int D = j->D;
    const int32_t *table = j->rows->block + j->rows->seq_block[s] + key0 / BLOCK;
    for (int b = 0; b * BLOCK < keys; b++) {
        const float *kb = block_of(j->kv.k, table[b], kh, j->Hkv, D), *vb = block_of(j->kv.v, table[b], kh, j->Hkv, D);
        w->kb[b] = kb;
        for (int d0 = 0; d0 < D; d0 += 16) {
            const int n = min_int(D - d0, 16);
            v16 x[16];
            for (int d = 0; d < 16; d++) x[d] = d < n ? v16_load(kb + (d0 + d) * BLOCK) : v16_zero();
            v16_transpose(x);
            for (int i = 0; i < 16; i++) v16_store(w->k[b * BLOCK + i] + d0, x[i]);
            for (int i = 0; i < 16; i++) x[i] = v16_load_n(vb + (int64_t)i * D + d0, n);
            v16_transpose(x);
            for (int d = 0; d < n; d++) v16_store(w->v[b] + (d0 + d) * BLOCK, x[d]);
        }
    }
}

/* Query i of a chunk, row r, head h: q and dout as padded rows, M, 1/L and δ. */
TL_INLINE void load_query(const job *j, scratch *w, int64_t r, int h, int i) {
    const int D = j->D;
    const float *q = j->q + r * j->ldq + (int64_t)h * D, *ms = j->max_sum + (r * j->H + h) * 2;
    const float *g = j->dout + r * j->ldo + (int64_t)h * D, *o = j->out + r * j->ldo + (int64_t)h * D;
    v16 lane = v16_zero();
    int d = 0;
    for (; d + 16 <= D; d += 16) {
        v16 x = v16_load(g + d);
        v16_store(w->q[i] + d, v16_load(q + d));
        v16_store(w->g[i] + d, x);
        lane = v16_fma(x, v16_load(o + d), lane);
    }
    if (d < D) {
        v16 x = v16_load_n(g + d, D - d);
        v16_store(w->q[i] + d, v16_load_n(q + d, D - d));
        v16_store(w->g[i] + d, x);
        lane = v16_select(m16_first(D - d), v16_fma(x, v16_load_n(o + d, D - d), lane), lane);
    }
    w->M[i] = ms[0], w->inverse[i] = 1 / ms[1], w->delta[i] = v16_sum(lane);
}

/* Bring a row of q, dout and out nearer before it is loaded: rows lie far apart. */
TL_INLINE void foresee(const job *j, int64_t r, int h) {
    const int64_t at = r * j->ldo + (int64_t)h * j->D;
    const float *q = j->q + r * j->ldq + (int64_t)h * j->D, *g = j->dout + at, *o = j->out + at;
    for (int d = 0; d < j->D; d += 16) tl_prefetch(q + d), tl_prefetch(g + d), tl_prefetch(o + d);
}

/* Scores and dp of a query's keys begin … n−1 → p and ds, in place. */
TL_INLINE void weigh_row(scratch *w, int i, int begin, int n, float scale) {
    const v16 scales = v16_set1(scale), M = v16_set1(w->M[i]), inverse = v16_set1(w->inverse[i]);
    const v16 delta = v16_set1(w->delta[i]);
    for (int k = begin / 16 * 16; k < n; k += 16) {
        v16 p = v16_mul(v16_exp(v16_sub(v16_mul(v16_load(w->p[i] + k), scales), M)), inverse);
        v16 ds = v16_mul(v16_mul(p, v16_sub(v16_load(w->ds[i] + k), delta)), scales);
        v16_store(w->p[i] + k, p);
        v16_store(w->ds[i] + k, ds);
    }
}

/* The same under a soft-cap. */
static void weigh_row_capped(scratch *w, int i, int begin, int n, const job *j) {
    const v16 scale = v16_set1(j->scale), cap = v16_set1(j->softcap), inverse_cap = v16_set1(j->inverse_cap);
    const v16 M = v16_set1(w->M[i]), inverse = v16_set1(w->inverse[i]), delta = v16_set1(w->delta[i]);
    for (int k = begin / 16 * 16; k < n; k += 16) {
        const v16 t = v16_tanh(v16_mul(v16_mul(v16_load(w->p[i] + k), scale), inverse_cap));
        const v16 p = v16_mul(v16_exp(v16_sub(v16_mul(cap, t), M)), inverse);
        const v16 slope = v16_fnma(t, t, v16_set1(1.0f));
        v16_store(w->ds[i] + k, v16_mul(v16_mul(v16_mul(p, v16_sub(v16_load(w->ds[i] + k), delta)), slope), scale));
        v16_store(w->p[i] + k, p);
    }
}

/* dst (+)= the tile's dq, for a head width that is not whole vectors. */
static void join_rows(float *dst, int64_t ld, const scratch *w, int rows, int D, bool first) {
    for (int r = 0; r < rows; r++)
        for (int d = 0; d < D; d++) dst[r * ld + d] = first ? w->dq[r][d] : dst[r * ld + d] + w->dq[r][d];
}

/* One pair: queries i0 … i0+ni−1 of head h, whose first row is r0, and keys j0 … j0+nj−1, both in scratch. `first_q`:
 * dq begins here; `first_k`: dk and dv do. */
static void pair(const job *j, scratch *w, int h, int64_t r0, int i0, int ni, int j0, int nj, bool want_q, bool want_k,
                 bool first_q, bool first_k) {
    const int D = j->D, Dv = (D + 15) / 16;
    const float *vb[BLOCKS], *kr[BLOCKS], *qr[BLOCKS], *gr[BLOCKS];
    for (int b = 0; b < BLOCKS; b++) {
        vb[b] = w->v[b], kr[b] = w->k[b * BLOCK];
        qr[b] = w->q[b * BLOCK], gr[b] = w->g[b * BLOCK];
    }
    for (int i = 0; i < min_int(ni, AHEAD); i++) foresee(j, r0 + i, h);
    for (int i = 0, rows; i < ni; i += rows) {
        rows = tile_rows(ni - i);
        int begin[TILE], end[TILE];
        for (int r = 0; r < rows; r++) {
            end[r] = min_int(i0 + i + r + 1 - j0, nj);
            begin[r] = min_int(max_int(first_key(j->window, i0 + i + r) - j0, 0), end[r]);
            load_query(j, w, r0 + i + r, h, i + r);
            if (i + r + AHEAD < ni) foresee(j, r0 + i + r + AHEAD, h);
        }
        const int b = begin[0] / BLOCK, blocks = (end[rows - 1] + BLOCK - 1) / BLOCK - b;
        dots(rows, w->p[i] + b * BLOCK, w->q[i], w->kb + b, w->kb + b, blocks, D);
        dots(rows, w->ds[i] + b * BLOCK, w->g[i], vb + b, vb + b, blocks, D);
        if (j->softcap != 0)
            for (int r = 0; r < rows; r++) weigh_row_capped(w, i + r, begin[r], end[r], j);
        else
            for (int r = 0; r < rows; r++) weigh_row(w, i + r, begin[r], end[r], j->scale);
        if (!want_q) continue;
        float *dq = j->dq + (r0 + i) * j->ld + (int64_t)h * D;
        if (D % 16 == 0)
            mix_keys(rows, dq, j->ld, w->ds[i], kr, NULL, ROW, Dv, begin, end, first_q ? MIX_WRITE : MIX_ADD, NULL);
        else {
            mix_keys(rows, w->dq[0], ROW, w->ds[i], kr, NULL, ROW, Dv, begin, end, MIX_WRITE, NULL);
            join_rows(dq, j->ld, w, rows, D, first_q);
        }
    }
    if (!want_k) return;
    const mix_end how = first_k ? MIX_WRITE : MIX_ADD;
    for (int k = 0, rows; k < nj; k += rows) {
        rows = tile_rows(nj - k);
        int begin[TILE], end[TILE];
        for (int r = 0; r < rows; r++) {
            const int at = j0 + k + r - i0; /* the key's position among the queries */
            begin[r] = max_int(at, 0);
            end[r] = j->window ? max_int(min_int(at + j->window, ni), 0) : ni;
        }
        mix_queries(rows, w->dv[k], ROW, w->p[0] + k, gr, NULL, ROW, Dv, begin, end, how, NULL);
        mix_queries(rows, w->dk[k], ROW, w->ds[0] + k, qr, NULL, ROW, Dv, begin, end, how, NULL);
    }
}

/* Key chunks [j_from, j_to) of sequence s with the query chunks among [i_from, i_to) that see them, for a key head's
 * group. */
static void pairs(const job *j, scratch *w, int s, int kh, int j_from, int j_to, int i_from, int i_to, bool want_q,
                  bool want_k) {
    const int D = j->D, G = j->H / j->Hkv;
    const int64_t row0 = j->rows->seq_row[s];
    const int T = (int)(j->rows->seq_row[s + 1] - row0);
    for (int J = j_from; J < j_to; J++) {
        const int j0 = J * CHUNK, nj = min_int(T - j0, CHUNK), last = last_chunk(j, J, i_to);
        load_keys(j, w, s, kh, j0, nj);
        for (int h = kh * G; h < (kh + 1) * G; h++)
            for (int I = max_int(i_from, J); I <= last; I++) {
                const int i0 = I * CHUNK, ni = min_int(T - i0, CHUNK);
                pair(j, w, h, row0 + i0, i0, ni, j0, nj, want_q, want_k, J == first_chunk(j, I), h == kh * G && I == J);
            }
        if (!want_k) continue;
        for (int k = 0; k < nj; k++) {
            float *dk = j->dk + (row0 + j0 + k) * j->ld + (int64_t)kh * D;
            float *dv = j->dv + (row0 + j0 + k) * j->ld + (int64_t)kh * D;
            for (int d = 0; d < D; d += 16) {
                v16_store_n(dk + d, v16_load(w->dk[k] + d), min_int(D - d, 16));
                v16_store_n(dv + d, v16_load(w->dv[k] + d), min_int(D - d, 16));
            }
        }
    }
}

/* Tasks are runs of TASK_ROWS rows by key heads: the sequences, or the chunks, whose first row lies in the run. Of
 * split tasks the keys' come first, longest first; then the queries', longest first. */
static void backward_task(void *user, int64_t i, int worker) {
    const job *j = user;
    const tl_rows *rows = j->rows;
    scratch *w = tl__workspace(j->ctx, worker);
    const int kh = (int)(i % j->Hkv);
    const bool queries = j->split && i >= j->blocks * j->Hkv;
    const int64_t run = queries ? j->blocks * 2 - 1 - i / j->Hkv : i / j->Hkv;
    const int from = (int)(run * TASK_ROWS), to = min_int(from + TASK_ROWS, rows->R);
    for (int s = sequence_of(rows, from); s < rows->S && rows->seq_row[s] < to; s++) {
        const int start = rows->seq_row[s], end = rows->seq_row[s + 1], chunks = (end - start + CHUNK - 1) / CHUNK;
        if (!j->split) {
            if (start >= from) pairs(j, w, s, kh, 0, chunks, 0, chunks, true, true);
            continue;
        }
        for (int c = (max_int(from - start, 0) + CHUNK - 1) / CHUNK; c < chunks && start + c * CHUNK < to; c++) {
            if (queries) pairs(j, w, s, kh, first_chunk(j, c), c + 1, c, c + 1, true, false);
            else pairs(j, w, s, kh, c, c + 1, c, chunks, false, true);
        }
    }
}

/* Whether whole sequences would leave threads idle for longer than computing the scores twice takes (7 products for 5).
 */
static bool too_few(const tl_rows *rows, int Hkv, int window, int threads) {
    double total = 0, most = 0;
    for (int s = 0; s < rows->S; s++) {
        const double T = rows->seq_row[s + 1] - rows->seq_row[s], keys = window && window < T ? 2 * window : T,
                     work = T * (keys + CHUNK);
        total += work * Hkv;
        if (work > most) most = work;
    }
    if (threads == 1 || total == 0) return false;
    double tasks = total / most; /* as many as if all were the largest */
    int64_t rounds = (int64_t)(tasks / threads);
    if ((double)rounds * threads < tasks) rounds++;
    return (double)rounds * threads > 1.4 * tasks;
}

void TL_NAME(attention_backward)(tl_ctx *ctx, float *dq, float *dk, float *dv, int64_t ld, const float *dout,
                                 const float *out, int64_t ldo, const float *max_sum, const float *q, int64_t ldq,
                                 tl_kv kv, const tl_rows *rows, const tl_attention_form *form) {
    const int H = form->H, Hkv = form->Hkv, D = form->D;
    assert(D >= 1 && D <= TL_MAX_HEAD_DIM && Hkv >= 1 && H % Hkv == 0 && kv.type == TL_F32);
    if (rows->R == 0) return;
    job j = {.ctx = ctx,
             .dq = dq,
             .dk = dk,
             .dv = dv,
             .dout = dout,
             .out = out,
             .max_sum = max_sum,
             .q = q,
             .ld = ld,
             .ldo = ldo,
             .ldq = ldq,
             .kv = kv,
             .rows = rows,
             .H = H,
             .Hkv = Hkv,
             .D = D,
             .window = window_of(form),
             .scale = form->scale,
             .softcap = form->softcap,
             .inverse_cap = form->softcap != 0 ? 1 / form->softcap : 0,
             .blocks = (rows->R + TASK_ROWS - 1) / TASK_ROWS};
    j.split = too_few(rows, Hkv, j.window, tl__pool_threads(ctx->pool));
    tl__parallel_for(ctx->pool, j.blocks * Hkv * (j.split ? 2 : 1), backward_task, &j);
}
