/* cpu/moe.c — mixtures of experts: ref/moe.c to the bit, sixteen elements at a time. The lists of rows (dispatch) stay
 * ref's: a counting sort of a few thousand numbers takes microseconds. */
#include <stdbool.h>
#include <string.h>
#include "base/elementary.h"
#include "kernels/cpu/cut.h"
#include "kernels/cpu/elementary16.h"

/* ---- routing ---- */

typedef struct route_job {
    int32_t *choice;
    float *weight, *logz, *prob;
    int64_t R, rows;
    int E, k;
    bool renormalise;
} route_job;

/* logits → probabilities, in place; returns log Σ exp. */
static float softmax_row(float *z, int E) {
    const int tail = E % 16, whole = E - tail;
    v16 top = v16_set1(z[0]);
    for (int e = 0; e < whole; e += 16) top = v16_max(v16_load(z + e), top);
    if (tail) top = v16_select(m16_first(tail), v16_max(v16_load_n(z + whole, tail), top), top);
    const float m = v16_max_reduce(top);
    const v16 below = v16_set1(m);
    v16 lane = v16_zero();
    for (int e = 0; e < whole; e += 16) {
        const v16 x = v16_exp_below(v16_sub(v16_load(z + e), below));
        v16_store(z + e, x);
        lane = v16_add(lane, x);
    }
    if (tail) {
        const v16 x = v16_exp_below(v16_sub(v16_load_n(z + whole, tail), below));
        v16_store_n(z + whole, x, tail);
        lane = v16_select(m16_first(tail), v16_add(lane, x), lane);
    }
    const float sum = v16_sum(lane);
    const v16 sum16 = v16_set1(sum);
    for (int e = 0; e < whole; e += 16) v16_store(z + e, v16_div(v16_load(z + e), sum16));
    if (tail) v16_store_n(z + whole, v16_div(v16_load_n(z + whole, tail), sum16), tail);
    return m + tl__log(sum);
}

/* The k largest of p, as ids in ascending order: a list kept sorted by value, which most experts do not get into. Ties
 * go to the lower id, because a later one must be larger to pass. */
static void top_k(int32_t *choice, const float *p, int E, int k) {
    int n = 0;
    for (int e = 0; e < E; e++) {
        if (n == k && !(p[e] > p[choice[k - 1]])) continue;
        int j = n < k ? n++ : k - 1;
        for (; j > 0 && p[e] > p[choice[j - 1]]; j--) choice[j] = choice[j - 1];
        choice[j] = e;
    }
    for (int i = 1; i < k; i++) {
        const int32_t id = choice[i];
        int j = i;
        for (; j > 0 && choice[j - 1] > id; j--) choice[j] = choice[j - 1];
        choice[j] = id;
    }
}

static void route_rows(void *user, int64_t i, int worker) {
    const route_job *a = user;
    for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->R); r++) {
        float *p = a->prob + r * a->E, *w = a->weight + r * a->k, total = 0;
        int32_t *c = a->choice + r * a->k;
        const float logz = softmax_row(p, a->E);
        if (a->logz) a->logz[r] = logz;
        top_k(c, p, a->E, a->k);
        for (int j = 0; j < a->k; j++) total += p[c[j]];
        for (int j = 0; j < a->k; j++) w[j] = a->renormalise ? p[c[j]] / total : p[c[j]];
    }
}

static void route(tl_ctx *ctx, int32_t *choice, float *weight, float *logz, float *prob, int R, int E, int k,
                  bool renormalise) {
    /* A row costs some tens of operations an expert: pieces smaller than where rows are only moved. */
    route_job job = {choice, weight, logz, prob, R, (tl_piece_rows(E) + 15) / 16, E, k, renormalise};
    tl__parallel_for(ctx->pool, tl_pieces(R, job.rows), route_rows, &job);
}

typedef struct route_backward_job {
    float *dlogits;
    const float *dweight, *weight, *logz, *prob, *balance;
    const int32_t *choice;
    float z_scale;
    int64_t R, rows;
    int E, k;
    bool renormalise;
} route_backward_job;

static void route_backward_rows(void *user, int64_t i, int worker) {
    const route_backward_job *a = user;
    const int E = a->E, k = a->k, tail = E % 16, whole = E - tail;
    float dp[TL_MAX_EXPERTS];
    for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->R); r++) {
        const int32_t *c = a->choice + r * k;
        const float *p = a->prob + r * E, *w = a->weight + r * k, *dw = a->dweight + r * k;
        float *dz = a->dlogits + r * E, total = 0, mean = 0;
        if (a->balance) memcpy(dp, a->balance, (size_t)E * sizeof *dp);
        else memset(dp, 0, (size_t)E * sizeof *dp);
        for (int j = 0; j < k; j++) {
            total += p[c[j]];
            mean = __builtin_fmaf(dw[j], w[j], mean);
        }
        for (int j = 0; j < k; j++) dp[c[j]] += a->renormalise ? (dw[j] - mean) / total : dw[j];
        v16 lane = v16_zero();
        for (int e = 0; e < whole; e += 16) lane = v16_fma(v16_load(dp + e), v16_load(p + e), lane);
        if (tail)
            lane = v16_select(m16_first(tail), v16_fma(v16_load_n(dp + whole, tail), v16_load_n(p + whole, tail), lane),
                              lane);
        const v16 inner = v16_set1(v16_sum(lane)), from_z = v16_set1(a->z_scale * a->logz[r]);
        for (int e = 0; e < whole; e += 16)
            v16_store(dz + e, v16_mul(v16_load(p + e), v16_add(v16_sub(v16_load(dp + e), inner), from_z)));
        if (tail)
            v16_store_n(
                dz + whole,
                v16_mul(v16_load_n(p + whole, tail), v16_add(v16_sub(v16_load_n(dp + whole, tail), inner), from_z)),
                tail);
    }
}

static void route_backward(tl_ctx *ctx, float *dlogits, const float *dweight, const int32_t *choice,
                           const float *weight, const float *logz, const float *prob, const float *balance,
                           float z_scale, int R, int E, int k, bool renormalise) {
    route_backward_job job = {dlogits, dweight, weight,     logz, prob,
                              balance, choice,  z_scale,    R,    (tl_piece_rows(E) + 15) / 16,
                              E,       k,       renormalise};
    tl__parallel_for(ctx->pool, tl_pieces(R, job.rows), route_backward_rows, &job);
}

/* ---- rows to their experts and back ---- */

typedef struct move_job {
    float *out;
    const float *x;
    const int32_t *index;
    int64_t n, rows, C;
    int k;
} move_job;

static void gather_rows(void *user, int64_t i, int worker) {
    const move_job *a = user;
    for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->n); r++)
        memcpy(a->out + r * a->C, a->x + a->index[r] / a->k * a->C, (size_t)a->C * sizeof(float));
}

static void gather(tl_ctx *ctx, float *out, const float *x, const int32_t *slot, int n, int k, int C) {
    move_job job = {out, x, slot, n, tl_piece_rows(C), C, k};
    tl__parallel_for(ctx->pool, tl_pieces(n, job.rows), gather_rows, &job);
}

static void combine_rows(void *user, int64_t i, int worker) {
    const move_job *a = user;
    const int64_t C = a->C;
    for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->n); r++) {
        const int32_t *at = a->index + r * a->k;
        float *out = a->out + r * C;
        for (int64_t c = 0; c < C; c += 16) {
            const int n = (int)tl_least(16, C - c);
            v16 s = v16_load_n(a->x + at[0] * C + c, n);
            for (int j = 1; j < a->k; j++) s = v16_add(s, v16_load_n(a->x + at[j] * C + c, n));
            v16_store_n(out + c, s, n);
        }
    }
}

static void combine(tl_ctx *ctx, float *out, const float *x, const int32_t *at, int R, int k, int C) {
    move_job job = {out, x, at, R, tl_piece_rows((int64_t)C * k), C, k};
    tl__parallel_for(ctx->pool, tl_pieces(R, job.rows), combine_rows, &job);
}

/* ---- the experts' activation ---- */

typedef struct expert_job {
    float *out, *dweight;
    const float *dy, *gu, *weight;
    const int32_t *slot;
    int64_t n, F, rows;
} expert_job;

TL_INLINE v16 expert16(v16 g, v16 u, v16 w) {
    return v16_mul(v16_mul(v16_mul(g, v16_sigmoid(g)), u), w);
}

static void expert_rows(void *user, int64_t i, int worker) {
    const expert_job *a = user;
    const int64_t F = a->F;
    for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->n); r++) {
        const float *g = a->gu + r * 2 * F, *u = g + F;
        const v16 w = v16_set1(a->weight[a->slot[r]]);
        float *y = a->out + r * F;
        int64_t f = 0;
        for (; f + 16 <= F; f += 16) v16_store(y + f, expert16(v16_load(g + f), v16_load(u + f), w));
        if (f < F) {
            const int n = (int)(F - f);
            v16_store_n(y + f, expert16(v16_load_n(g + f, n), v16_load_n(u + f, n), w), n);
        }
    }
}

static void expert_swiglu(tl_ctx *ctx, float *y, const float *gu, const float *weight, const int32_t *slot, int n,
                          int F) {
    expert_job job = {y, NULL, NULL, gu, weight, slot, n, F, tl_piece_rows(F)};
    tl__parallel_for(ctx->pool, tl_pieces(n, job.rows), expert_rows, &job);
}

/* Returns d·h, the element's part of the weight's gradient, before it is summed. */
TL_INLINE v16 expert_backward16(v16 *dg, v16 *du, v16 d, v16 g, v16 u, v16 w, v16 lane) {
    const v16 s = v16_sigmoid(g), silu = v16_mul(g, s), dh = v16_mul(d, w);
    *dg = v16_mul(v16_mul(dh, u), v16_fma(silu, v16_sub(v16_set1(1.0f), s), s));
    *du = v16_mul(dh, silu);
    return v16_fma(d, v16_mul(silu, u), lane);
}

static void expert_backward_rows(void *user, int64_t i, int worker) {
    const expert_job *a = user;
    const int64_t F = a->F;
    for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->n); r++) {
        const float *g = a->gu + r * 2 * F, *u = g + F, *dy = a->dy + r * F;
        const v16 w = v16_set1(a->weight[a->slot[r]]);
        float *dg = a->out + r * 2 * F, *du = dg + F;
        v16 lane = v16_zero(), to_g, to_u;
        int64_t f = 0;
        for (; f + 16 <= F; f += 16) {
            lane = expert_backward16(&to_g, &to_u, v16_load(dy + f), v16_load(g + f), v16_load(u + f), w, lane);
            v16_store(dg + f, to_g);
            v16_store(du + f, to_u);
        }
        if (f < F) {
            const int n = (int)(F - f);
            const v16 next = expert_backward16(&to_g, &to_u, v16_load_n(dy + f, n), v16_load_n(g + f, n),
                                               v16_load_n(u + f, n), w, lane);
            lane = v16_select(m16_first(n), next, lane);
            v16_store_n(dg + f, to_g, n);
            v16_store_n(du + f, to_u, n);
        }
        a->dweight[a->slot[r]] = v16_sum(lane);
    }
}

static void expert_swiglu_backward(tl_ctx *ctx, float *dgu, float *dweight, const float *dy, const float *gu,
                                   const float *weight, const int32_t *slot, int n, int F) {
    expert_job job = {dgu, dweight, dy, gu, weight, slot, n, F, tl_piece_rows(F)};
    tl__parallel_for(ctx->pool, tl_pieces(n, job.rows), expert_backward_rows, &job);
}

void TL_NAME(ops_moe)(tl_ops *ops) {
    ops->route = route;
    ops->route_backward = route_backward;
    ops->gather = gather;
    ops->combine = combine;
    ops->expert_swiglu = expert_swiglu;
    ops->expert_swiglu_backward = expert_swiglu_backward;
}
