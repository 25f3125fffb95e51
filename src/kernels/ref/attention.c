/* attention.c — causal attention over a blocked KV store, and its backward: the definition.
 *
 * Plain loops in the order of the contract (ops.h); the fast forms equal these to the bit. A key that a row does
 * not see is never read, so what lies in the unused lanes of a block cannot matter. Nothing here is parallel. A chain
 * has the terms of what is seen alone. */
#include <assert.h>
#include "kernels/ref/real.h"

enum { CHUNK = TL_ATT_CHUNK, LANES = TL_LANES, BLOCK = TL_KV_BLOCK };

/* Where position p of sequence s keeps key head kh: component d of its key at [d·BLOCK], of its value at [d]. */
static real *key_at(real_kv kv, const tl_rows *rows, int s, int p, int kh, int Hkv, int D) {
    int64_t block = rows->block[rows->seq_block[s] + p / BLOCK];
    return kv.k + (block * Hkv + kh) * (int64_t)D * BLOCK + p % BLOCK;
}

static real *value_at(real_kv kv, const tl_rows *rows, int s, int p, int kh, int Hkv, int D) {
    int64_t block = rows->block[rows->seq_block[s] + p / BLOCK];
    return kv.v + ((block * Hkv + kh) * BLOCK + p % BLOCK) * (int64_t)D;
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
    for (int d = 0; d < form->D; d++) s = FMA(q[d], k[d * BLOCK], s);
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

static void ref_kv_store(tl_ctx *ctx, real_kv kv, const real *k, int64_t ldk, const real *v, int64_t ldv,
                         const tl_rows *rows, int Hkv, int D) {
    for (int s = 0; s < rows->S; s++)
        for (int r = rows->seq_row[s]; r < rows->seq_row[s + 1]; r++)
            for (int kh = 0; kh < Hkv; kh++) {
                real *to_k = key_at(kv, rows, s, rows->pos[r], kh, Hkv, D);
                real *to_v = value_at(kv, rows, s, rows->pos[r], kh, Hkv, D);
                for (int d = 0; d < D; d++) {
                    to_k[d * BLOCK] = k[r * ldk + (int64_t)kh * D + d];
                    to_v[d] = v[r * ldv + (int64_t)kh * D + d];
                }
            }
}

/* One row, one head: out[D] and (M, L). */
static void attend(real *out, real *max_sum, const real *q, real_kv kv, const tl_rows *rows, int s, int pos, int kh,
                   const tl_attention_form *form) {
    const int D = form->D, sees = first_key(pos, form);
    real M = 0, L = 0, O[TL_MAX_HEAD_DIM];
    for (int first = sees / CHUNK * CHUNK; first <= pos; first += CHUNK) {
        int begin = sees > first ? sees - first : 0, n = pos + 1 - first < CHUNK ? pos + 1 - first : CHUNK;
        real p[CHUNK], lane[LANES], o[TL_MAX_HEAD_DIM], slope;
        for (int j = 0; j < LANES; j++) lane[j] = -INFINITY;
        for (int j = begin; j < n; j++) {
            p[j] = score(q, key_at(kv, rows, s, first + j, kh, form->Hkv, D), form);
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
            const real *v = value_at(kv, rows, s, first + j, kh, form->Hkv, D);
            for (int d = 0; d < D; d++) o[d] = FMA(p[j], v[d], o[d]);
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

static void ref_attention(tl_ctx *ctx, real *out, int64_t ldo, real *max_sum, const real *q, int64_t ldq, real_kv kv,
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
                                   real_kv kv, const tl_rows *rows, const tl_attention_form *form) {
    const int H = form->H, Hkv = form->Hkv, D = form->D, G = H / Hkv;
    assert(D >= 1 && D <= TL_MAX_HEAD_DIM && Hkv >= 1 && H % Hkv == 0 && form->window >= 0);
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
                            const real *k = key_at(kv, rows, s, j0 + j, kh, Hkv, D);
                            const real *v = value_at(kv, rows, s, j0 + j, kh, Hkv, D);
                            real dp = 0, z = score(qi, k, form), slope = 1;
                            for (int d = 0; d < D; d++) dp = FMA(gi[d], v[d], dp);
                            if (form->softcap != 0) z = cap_score(z, form->softcap, &slope);
                            p[i][j] = EXP(z - ms[0]) * inverse;
                            ds[i][j] = p[i][j] * (dp - delta) * slope * (real)form->scale;
                            for (int d = 0; d < D; d++) sum[d] = FMA(ds[i][j], k[d * BLOCK], sum[d]);
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
