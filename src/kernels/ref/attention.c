/* attention.c — causal attention over a blocked KV store, and its backward: the definition.
 *
 * Plain loops in the order of the contract (ops.h); the fast forms equal these to the bit. A key that a row does
 * not see is never read, so what lies in the unused lanes of a block cannot matter. Nothing here is parallel. A chain
 * has the terms of what is seen alone. */
#include <assert.h>
#include <string.h>
#include "base/blocks.h"
#include "kernels/ref/real.h"

enum { CHUNK = TL_ATT_CHUNK, LANES = TL_LANES, BLOCK = TL_KV_BLOCK };

/* A key or a value where it is stored: component d is number first + d·step of its part. */
typedef struct place {
    unsigned char *part;
    tl_type type;
    int key, first, step; /* key: of the block's 16 */
} place;

/* Of position p of sequence s, key head kh. */
static place place_of(void *base, tl_type type, const tl_rows *rows, int s, int p, int kh, int Hkv, int D) {
    const int64_t block = rows->block[rows->seq_block[s] + p / BLOCK];
    const int64_t bytes = sizeof(real) == 4 ? tl_kv_part_bytes(type, D) : (int64_t)sizeof(real) * BLOCK * D;
    return (place){.part = (unsigned char *)base + (block * Hkv + kh) * bytes, .type = type, .key = p % BLOCK};
}

static place key_at(tl_kv kv, const tl_rows *rows, int s, int p, int kh, int Hkv, int D) {
    place at = place_of(kv.k, kv.type, rows, s, p, kh, Hkv, D);
    at.first = at.key, at.step = BLOCK;
    return at;
}

static place value_at(tl_kv kv, const tl_rows *rows, int s, int p, int kh, int Hkv, int D) {
    place at = place_of(kv.v, kv.type, rows, s, p, kh, Hkv, D);
    at.first = at.key * D, at.step = 1;
    return at;
}

#ifdef TL_REF_DOUBLE
static void put_narrow(place to, const real *x, int D) {
    assert(!"in double nothing is rounded");
}

static void take_narrow(real *x, place from, int D) {
    assert(!"in double nothing is rounded");
}
#else
enum { GROUP = TL_KV_GROUP };

static unsigned char *scale_at(place at, int group, int D) {
    return at.part + BLOCK * D + (group * BLOCK + at.key) * 2;
}

static void put_q8_0(place to, const real *x, int D) {
    for (int d0 = 0; d0 < D; d0 += GROUP) {
        const int n = D - d0 < GROUP ? D - d0 : GROUP;
        real group[GROUP] = {0};
        unsigned char block[2 + GROUP] = {0x00, 0x7e}; /* ggml's; its scale is no number */
        bool finite = true;
        for (int d = 0; d < n; d++) group[d] = x[d0 + d], finite = finite && isfinite(x[d0 + d]);
        if (finite) tl__narrow(block, TL_Q8_0, group, GROUP);
        memcpy(scale_at(to, d0 / GROUP, D), block, 2);
        for (int d = 0; d < n; d++) to.part[to.first + (d0 + d) * to.step] = block[2 + d];
    }
}

static void put_narrow(place to, const real *x, int D) {
    if (to.type == TL_Q8_0) put_q8_0(to, x, D);
    else
        for (int d = 0; d < D; d++) tl__narrow(to.part + 2 * (to.first + d * to.step), to.type, x + d, 1);
}

static void take_narrow(real *x, place from, int D) {
    real scale = 0;
    for (int d = 0; d < D; d++) {
        const int i = from.first + d * from.step;
        if (from.type != TL_Q8_0) tl__widen(x + d, from.type, from.part + 2 * i, 1);
        else {
            if (d % GROUP == 0) tl__widen(&scale, TL_F16, scale_at(from, d / GROUP, D), 1);
            x[d] = (real)(int8_t)from.part[i] * scale;
        }
    }
}
#endif

/* x[D] to where it is stored, and back. */
static void put(place to, const real *x, int D) {
    if (to.type != TL_F32) put_narrow(to, x, D);
    else
        for (int d = 0; d < D; d++) ((real *)(void *)to.part)[to.first + d * to.step] = x[d];
}

static void take(real *x, place from, int D) {
    if (from.type != TL_F32) take_narrow(x, from, D);
    else
        for (int d = 0; d < D; d++) x[d] = ((const real *)(const void *)from.part)[from.first + d * from.step];
}

/* The same tree of the larger; lane[] is used up. */
static real lanes_max(real lane[LANES]) {
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++) lane[j] = lane[j] > lane[j + half] ? lane[j] : lane[j + half];
    return lane[0];
}

/* The score before any soft-cap. */
static real score(const real *q, const real *k, const tl_attention_form *form) {
    real s = 0;
    for (int d = 0; d < form->D; d++) s = FMA(q[d], k[d], s);
    return s * (real)form->scale;
}

/* The score, and how fast it follows the uncapped one: 1 − tanh². */
static real cap_score(real s, real cap, real *slope) {
    const real t = TANH(s * (REAL(1) / cap));
    *slope = FMA(-t, t, REAL(1));
    return cap * t;
}

/* The first key that position pos sees. */
static int first_key(int pos, const tl_attention_form *form) {
    return form->window && pos >= form->window ? pos - form->window + 1 : 0;
}

static void ref_kv_store(tl_ctx *ctx, tl_kv kv, const real *k, int64_t ldk, const real *v, int64_t ldv,
                         const tl_rows *rows, int Hkv, int D) {
    for (int s = 0; s < rows->S; s++)
        for (int r = rows->seq_row[s]; r < rows->seq_row[s + 1]; r++)
            for (int kh = 0; kh < Hkv; kh++) {
                put(key_at(kv, rows, s, rows->pos[r], kh, Hkv, D), k + r * ldk + (int64_t)kh * D, D);
                put(value_at(kv, rows, s, rows->pos[r], kh, Hkv, D), v + r * ldv + (int64_t)kh * D, D);
            }
}

/* One row, one head: out[D] and (M, L). */
static void attend(real *out, real *max_sum, const real *q, tl_kv kv, const tl_rows *rows, int s, int pos, int kh,
                   const tl_attention_form *form) {
    const int D = form->D, sees = first_key(pos, form);
    real M = 0, L = 0, O[TL_MAX_HEAD_DIM];
    for (int first = sees / CHUNK * CHUNK; first <= pos; first += CHUNK) {
        int begin = sees > first ? sees - first : 0, n = pos + 1 - first < CHUNK ? pos + 1 - first : CHUNK;
        real p[CHUNK], lane[LANES], o[TL_MAX_HEAD_DIM], stored[TL_MAX_HEAD_DIM], slope;
        for (int j = 0; j < LANES; j++) lane[j] = -INFINITY;
        for (int j = begin; j < n; j++) {
            take(stored, key_at(kv, rows, s, first + j, kh, form->Hkv, D), D);
            p[j] = score(q, stored, form);
            if (form->softcap != 0) p[j] = cap_score(p[j], form->softcap, &slope);
            lane[j % LANES] = lane[j % LANES] > p[j] ? lane[j % LANES] : p[j];
        }
        real m = lanes_max(lane);
        for (int j = 0; j < LANES; j++) lane[j] = 0;
        for (int j = begin; j < n; j++) {
            p[j] = EXP(p[j] - m);
            lane[j % LANES] += p[j];
        }
        real l = tree_sum(lane);
        for (int d = 0; d < D; d++) o[d] = 0;
        for (int j = begin; j < n; j++) {
            take(stored, value_at(kv, rows, s, first + j, kh, form->Hkv, D), D);
            for (int d = 0; d < D; d++) o[d] = FMA(p[j], stored[d], o[d]);
        }
        if (first <= sees) {
            M = m, L = l;
            for (int d = 0; d < D; d++) O[d] = o[d];
        } else {
            real top = M > m ? M : m, alpha = EXP(M - top), beta = EXP(m - top);
            M = top, L = FMA(L, alpha, l * beta);
            for (int d = 0; d < D; d++) O[d] = FMA(O[d], alpha, o[d] * beta);
        }
    }
    real inverse = 1 / L;
    for (int d = 0; d < D; d++) out[d] = O[d] * inverse;
    if (max_sum) max_sum[0] = M, max_sum[1] = L;
}

static void ref_attention(tl_ctx *ctx, real *out, int64_t ldo, real *max_sum, const real *q, int64_t ldq, tl_kv kv,
                          const tl_rows *rows, const tl_attention_form *form) {
    const int H = form->H, Hkv = form->Hkv, D = form->D;
    assert(D >= 1 && D <= TL_MAX_HEAD_DIM && Hkv >= 1 && H % Hkv == 0 && form->window >= 0);
    for (int s = 0; s < rows->S; s++)
        for (int64_t r = rows->seq_row[s]; r < rows->seq_row[s + 1]; r++)
            for (int h = 0; h < H; h++)
                attend(out + r * ldo + (int64_t)h * D, max_sum ? max_sum + (r * H + h) * 2 : NULL,
                       q + r * ldq + (int64_t)h * D, kv, rows, s, rows->pos[r], h / (H / Hkv), form);
}

/* dst (+)= the chunk's sum: the first is written. */
static void join(real *dst, const real *sum, int D, bool first) {
    for (int d = 0; d < D; d++) dst[d] = first ? sum[d] : dst[d] + sum[d];
}

static void ref_attention_backward(tl_ctx *ctx, real *dq, real *dk, real *dv, int64_t ld, const real *dout,
                                   const real *out, int64_t ldo, const real *max_sum, const real *q, int64_t ldq,
                                   tl_kv kv, const tl_rows *rows, const tl_attention_form *form) {
    const int H = form->H, Hkv = form->Hkv, D = form->D, G = H / Hkv;
    assert(D >= 1 && D <= TL_MAX_HEAD_DIM && Hkv >= 1 && H % Hkv == 0 && form->window >= 0 && kv.type == TL_F32);
    for (int s = 0; s < rows->S; s++) {
        int64_t row0 = rows->seq_row[s];
        int T = (int)(rows->seq_row[s + 1] - row0);
        if (T == 0) continue;
        assert(rows->pos[row0] == 0); /* whole sequences: row row0 + i is position i */
        for (int h = 0; h < H; h++) {
            int kh = h / G;
            for (int i0 = 0; i0 < T; i0 += CHUNK)
                for (int first = first_key(i0, form) / CHUNK * CHUNK, j0 = first; j0 <= i0; j0 += CHUNK) {
                    int ni = T - i0 < CHUNK ? T - i0 : CHUNK, nj = T - j0 < CHUNK ? T - j0 : CHUNK;
                    real p[CHUNK][CHUNK], ds[CHUNK][CHUNK], sum[TL_MAX_HEAD_DIM], sum2[TL_MAX_HEAD_DIM];
                    for (int i = 0; i < ni; i++) {
                        int64_t r = row0 + i0 + i;
                        const real *qi = q + r * ldq + (int64_t)h * D, *ms = max_sum + (r * H + h) * 2;
                        const real *gi = dout + r * ldo + (int64_t)h * D, *oi = out + r * ldo + (int64_t)h * D;
                        real lane[LANES] = {0}, inverse = 1 / ms[1];
                        for (int d = 0; d < D; d++) lane[d % LANES] = FMA(gi[d], oi[d], lane[d % LANES]);
                        real delta = tree_sum(lane);
                        for (int d = 0; d < D; d++) sum[d] = 0;
                        for (int j = 0; j < nj && j0 + j <= i0 + i; j++) {
                            if (j0 + j < first_key(i0 + i, form)) continue;
                            real k[TL_MAX_HEAD_DIM], v[TL_MAX_HEAD_DIM];
                            take(k, key_at(kv, rows, s, j0 + j, kh, Hkv, D), D);
                            take(v, value_at(kv, rows, s, j0 + j, kh, Hkv, D), D);
                            real dp = 0, z = score(qi, k, form), slope = 1;
                            for (int d = 0; d < D; d++) dp = FMA(gi[d], v[d], dp);
                            if (form->softcap != 0) z = cap_score(z, form->softcap, &slope);
                            p[i][j] = EXP(z - ms[0]) * inverse;
                            ds[i][j] = p[i][j] * (dp - delta) * slope * (real)form->scale;
                            for (int d = 0; d < D; d++) sum[d] = FMA(ds[i][j], k[d], sum[d]);
                        }
                        join(dq + r * ld + (int64_t)h * D, sum, D, j0 == first);
                    }
                    for (int j = 0; j < nj; j++) {
                        int64_t r = row0 + j0 + j;
                        for (int d = 0; d < D; d++) sum[d] = sum2[d] = 0;
                        for (int i = j0 + j > i0 ? j0 + j - i0 : 0; i < ni && first_key(i0 + i, form) <= j0 + j; i++) {
                            const real *qi = q + (row0 + i0 + i) * ldq + (int64_t)h * D;
                            const real *gi = dout + (row0 + i0 + i) * ldo + (int64_t)h * D;
                            for (int d = 0; d < D; d++) {
                                sum[d] = FMA(ds[i][j], qi[d], sum[d]);
                                sum2[d] = FMA(p[i][j], gi[d], sum2[d]);
                            }
                        }
                        join(dk + r * ld + (int64_t)kh * D, sum, D, i0 == j0 && h % G == 0);
                        join(dv + r * ld + (int64_t)kh * D, sum2, D, i0 == j0 && h % G == 0);
                    }
                }
        }
    }
}

#ifndef TL_REF_DOUBLE
void tl__ops_attention_ref(tl_ops *ops) {
    ops->kv_store = ref_kv_store;
    ops->attention = ref_attention;
    ops->attention_backward = ref_attention_backward;
}
#endif
