/* ref/moe.c — mixtures of experts: routing, the lists of rows, and what stands around the experts' products, in the
 * contract's order. */
#include <stdbool.h>
#include "kernels/ref/real.h"

static void ref_route(tl_ctx *ctx, int32_t *choice, real *weight, real *logz, real *prob, int R, int E, int k,
                      bool renormalise) {
    for (int64_t r = 0; r < R; r++) {
        real *z = prob + r * E, m = z[0], lane[TL_LANES] = {0};
        for (int e = 1; e < E; e++) m = z[e] > m ? z[e] : m;
        for (int e = 0; e < E; e++) {
            z[e] = EXP(z[e] - m);
            lane[e % TL_LANES] += z[e];
        }
        const real sum = tree_sum(lane);
        if (logz) logz[r] = m + LOG(sum);
        for (int e = 0; e < E; e++) z[e] = z[e] / sum;

        bool chosen[TL_MAX_EXPERTS] = {false};
        for (int j = 0; j < k; j++) { /* the largest that is left; of equals (NaN is equal to all) the first */
            int best = -1;
            for (int e = 0; e < E; e++)
                if (!chosen[e] && (best < 0 || z[e] > z[best])) best = e;
            chosen[best] = true;
        }
        int32_t *c = choice + r * k;
        for (int e = 0, j = 0; e < E; e++)
            if (chosen[e]) c[j++] = e;
        real total = 0;
        for (int j = 0; j < k; j++) total += z[c[j]];
        for (int j = 0; j < k; j++) weight[r * k + j] = renormalise ? z[c[j]] / total : z[c[j]];
    }
}

/* p = softmax(z); w_j = p_j, or p_j/S with S = Σ_chosen p, whose derivative is (dw_j − Σ_i dw_i·w_i)/S. */
static void ref_route_backward(tl_ctx *ctx, real *dlogits, const real *dweight, const int32_t *choice,
                               const real *weight, const real *logz, const real *prob, const real *balance,
                               real z_scale, int R, int E, int k, bool renormalise) {
    for (int64_t r = 0; r < R; r++) {
        const int32_t *c = choice + r * k;
        const real *p = prob + r * E, *w = weight + r * k, *dw = dweight + r * k;
        real dp[TL_MAX_EXPERTS], total = 0, mean = 0, lane[TL_LANES] = {0};
        for (int e = 0; e < E; e++) dp[e] = balance ? balance[e] : 0;
        for (int j = 0; j < k; j++) {
            total += p[c[j]];
            mean = FMA(dw[j], w[j], mean);
        }
        for (int j = 0; j < k; j++) dp[c[j]] += renormalise ? (dw[j] - mean) / total : dw[j];
        for (int e = 0; e < E; e++) lane[e % TL_LANES] = FMA(dp[e], p[e], lane[e % TL_LANES]);
        const real inner = tree_sum(lane), from_z = z_scale * logz[r];
        for (int e = 0; e < E; e++) dlogits[r * E + e] = p[e] * ((dp[e] - inner) + from_z);
    }
}

static void ref_dispatch(tl_ctx *ctx, int32_t *first, int32_t *slot, int32_t *at, const int32_t *choice, int R, int E,
                         int k) {
    const int64_t n = (int64_t)R * k;
    int32_t next[TL_MAX_EXPERTS] = {0};
    for (int64_t i = 0; i < n; i++) next[choice[i]]++;
    for (int e = 0, sum = 0; e <= E; e++) {
        first[e] = sum;
        if (e == E) break;
        sum += next[e];
        next[e] = first[e];
    }
    for (int64_t i = 0; i < n; i++) {
        at[i] = next[choice[i]]++;
        slot[at[i]] = (int32_t)i;
    }
}

static void ref_gather(tl_ctx *ctx, real *out, const real *x, const int32_t *slot, int n, int k, int C) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < C; c++) out[i * C + c] = x[slot[i] / k * (int64_t)C + c];
}

static void ref_combine(tl_ctx *ctx, real *out, const real *x, const int32_t *at, int R, int k, int C) {
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < C; c++) {
            real s = x[at[r * k] * (int64_t)C + c];
            for (int j = 1; j < k; j++) s += x[at[r * k + j] * (int64_t)C + c];
            out[r * C + c] = s;
        }
}

static void ref_expert_swiglu(tl_ctx *ctx, real *y, const real *gu, const real *weight, const int32_t *slot, int n,
                              int F) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t f = 0; f < F; f++) {
            const real g = gu[i * 2 * F + f], u = gu[i * 2 * F + F + f];
            y[i * F + f] = g * SIGMOID(g) * u * weight[slot[i]];
        }
}

/* silu = g·s; silu' = s + silu·(1 − s). */
static void ref_expert_swiglu_backward(tl_ctx *ctx, real *dgu, real *dweight, const real *dy, const real *gu,
                                       const real *weight, const int32_t *slot, int n, int F) {
    for (int64_t i = 0; i < n; i++) {
        real lane[TL_LANES] = {0};
        for (int64_t f = 0; f < F; f++) {
            const int64_t gate = i * 2 * F + f, up = gate + F;
            const real g = gu[gate], u = gu[up], s = SIGMOID(g), silu = g * s, d = dy[i * F + f];
            lane[f % TL_LANES] = FMA(d, silu * u, lane[f % TL_LANES]);
            const real dh = d * weight[slot[i]];
            dgu[gate] = dh * u * FMA(silu, REAL(1) - s, s);
            dgu[up] = dh * silu;
        }
        dweight[slot[i]] = tree_sum(lane);
    }
}

#ifndef TL_REF_DOUBLE
void tl__ops_moe_ref(tl_ops *ops) {
    ops->route = ref_route;
    ops->route_backward = ref_route_backward;
    ops->dispatch = ref_dispatch;
    ops->gather = ref_gather;
    ops->combine = ref_combine;
    ops->expert_swiglu = ref_expert_swiglu;
    ops->expert_swiglu_backward = ref_expert_swiglu_backward;
}
#endif
