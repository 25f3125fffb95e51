/* moe.c — routing, the experts and their losses; directly below the forward its backward.
 *
 * R rows, C width, E experts, each row in k of them, F an expert's width; n = R·k places in a list that is sorted by
 * expert, so that each expert's product is the ordinary one over the rows that came to it. */
#include "model/moe.h"

#include <assert.h>
#include <string.h>

#include "model/model.h"

/* ---- places ---- */

void tl__moe_place(tl_experts *x, tl_arena *arena, const tl_arch *a, int R, bool training) {
    const int64_t n = (int64_t)R * a->top_k, stats = (int64_t)a->L * a->E;
    *x = (tl_experts){.leaf_part = 1};
    x->rows = TL_TAKE(arena, float, n * a->C);
    x->slot = TL_TAKE(arena, int32_t, n);
    x->at = TL_TAKE(arena, int32_t, n);
    if (!training) return;
    x->d_logits = TL_TAKE(arena, float, (int64_t)R * a->E);
    x->d_weight = TL_TAKE(arena, float, n);
    x->load = TL_TAKE(arena, int32_t, stats);
    x->prob_sum = TL_TAKE(arena, float, stats);
    x->z_sum = TL_TAKE(arena, double, a->L);
    x->balance = TL_TAKE(arena, float, a->E);
}

void tl__moe_place_layer(tl_layer_experts *p, tl_arena *arena, const tl_arch *a, int R) {
    p->prob = TL_TAKE(arena, float, (int64_t)R * a->E);
    p->logz = TL_TAKE(arena, float, R);
    p->weight = TL_TAKE(arena, float, (int64_t)R * a->top_k);
    p->choice = TL_TAKE(arena, int32_t, (int64_t)R * a->top_k);
}

/* ---- parameters ---- */

/* Index of the router, or of expert e's matrix. */
static int index_of(const tl_model *m, int layer, tl_role role, int e) {
    return tl__params_find(&m->params, &m->arch, layer, role) + e * TL_EXPERT_STRIDE;
}
static const float *weight(const tl_model *m, int layer, tl_role role, int e) {
    return m->weight[index_of(m, layer, role, e)];
}
/* y[R,N] = x[R,K]·W for each of n matrices of expert e, which share x. */
typedef struct term {
    float *y;
    int64_t ldy;
    tl_role w;
} term;
static void products(tl_ctx *ctx, const tl_model *m, const term *terms, int n, const float *x, int layer, int e, int R,
                     int N, int K) {
    tl_product together[TL_MAX_PRODUCTS];
    int k = 0;
    for (int i = 0; i < n; i++) {
        const term *t = &terms[i];
        const int at = index_of(m, layer, t->w, e);
        if (m->stored && m->stored[at].data) together[k++] = (tl_product){&m->stored[at], t->y, t->ldy, NULL};
        else tl__linear(ctx, t->y, t->ldy, x, K, m->weight[at], TL_OUT_IN, NULL, R, N, K);
    }
    if (k) tl__linear_stored(ctx, together, k, x, K, R);
}
static float *gradient(const tl_model *m, float *grad, int layer, tl_role role, int e) {
    return grad + m->params.list[index_of(m, layer, role, e)].offset;
}

/* The router's products are f32 under every contract: a choice between experts should not hang on bf16's eight bits. */
static tl_ctx in_f32(const tl_ctx *ctx) {
    tl_ctx exact = *ctx;
    exact.contract = TL_CONTRACT_F32;
    return exact;
}

/* ---- forward ---- */

static void keep_statistics(tl_ctx *ctx, const tl_arch *a, tl_experts *x, const tl_layer_experts *p,
                            const int32_t *first, int R, int l) {
    const int E = a->E;
    float *prob_sum = x->prob_sum ? x->prob_sum + (int64_t)l * E : NULL; /* NULL where the planner only counts */
    if (prob_sum) memset(prob_sum, 0, sizeof *prob_sum * (size_t)E);
    tl__bias_backward(ctx, prob_sum, p->prob, E, R, E);
    const double z = tl__sum_squares(ctx, p->logz, R);
    if (!x->load) return;
    x->z_sum[l] = z;
    for (int e = 0; e < E; e++) x->load[(int64_t)l * E + e] = first[e + 1] - first[e];
}

void tl__moe_forward(tl_ctx *ctx, const tl_model *m, tl_acts *acts, tl_layer_acts *layer, int R, int l, bool again) {
    const tl_arch *a = &m->arch;
    const int E = a->E, k = a->top_k, C = a->C, F = a->expert_F, n = R * k;
    tl_experts *x = &acts->experts;
    tl_layer_experts *p = &layer->experts;
    int32_t first[TL_MAX_EXPERTS + 1];
    tl_ctx exact = in_f32(ctx);
    tl__linear(&exact, p->prob, E, acts->normed, C, weight(m, l, TL_ROLE_ROUTER, 0), TL_OUT_IN, NULL, R, E, C);
    tl__route(ctx, p->choice, p->weight, p->logz, p->prob, R, E, k, a->norm_topk);
    tl__dispatch(ctx, first, x->slot, x->at, p->choice, R, E, k);
    if (acts->training && !again) keep_statistics(ctx, a, x, p, first, R, l);
    tl__gather(ctx, x->rows, acts->normed, x->slot, n, k, C);
    for (int e = 0; e < E; e++) {
        const int rows = first[e + 1] - first[e];
        const float *in = x->rows + (int64_t)first[e] * C;
        float *up = layer->up + (int64_t)first[e] * 2 * F;
        if (rows == 0) continue;
        const term terms[] = {{up, 2 * F, TL_ROLE_EXPERT_GATE}, {up + F, 2 * F, TL_ROLE_EXPERT_UP}};
        products(ctx, m, terms, 2, in, l, e, rows, F, C);
    }
    if (again) return;
    tl__expert_swiglu(ctx, acts->act, layer->up, p->weight, x->slot, n, F);
    for (int e = 0; e < E; e++) {
        const int rows = first[e + 1] - first[e];
        if (rows == 0) continue;
        products(ctx, m, &(term){x->rows + (int64_t)first[e] * C, C, TL_ROLE_EXPERT_DOWN}, 1,
                 acts->act + (int64_t)first[e] * F, l, e, rows, C, F);
    }
    tl__combine(ctx, acts->branch, x->rows, x->at, R, k, C);
}

/* ---- losses ---- */

int tl__moe_layers(const tl_arch *a) {
    int n = 0;
    for (int l = 0; l < a->L; l++) n += a->layer[l].moe;
    return n;
}

/* With N = R·layers rows in all, f_e = (Σ load_e)/N and P_e = (Σ p_e)/N: loss = E·Σ_e f_e·P_e. f is a count and has no
 * gradient. */
void tl__moe_losses(const tl_model *m, const tl_acts *acts, int R, double *balance, double *z) {
    const tl_arch *a = &m->arch;
    const tl_experts *x = &acts->experts;
    const double N = (double)R * tl__moe_layers(a);
    *balance = *z = 0;
    for (int e = 0; e < a->E; e++) {
        double load = 0, prob = 0;
        for (int l = 0; l < a->L; l++) {
            load += x->load[(int64_t)l * a->E + e];
            prob += (double)x->prob_sum[(int64_t)l * a->E + e];
        }
        *balance += a->E * (load / N) * (prob / N);
    }
    for (int l = 0; l < a->L; l++) *z += x->z_sum[l] / N;
}

double tl__moe_peak_load(const tl_model *m, const tl_acts *acts, int R, int l) {
    const tl_arch *a = &m->arch;
    const int32_t *load = acts->experts.load + (int64_t)l * a->E;
    int32_t largest = 0;
    for (int e = 0; e < a->E; e++) largest = load[e] > largest ? load[e] : largest;
    return (double)largest * a->E / ((double)R * a->top_k);
}

void tl__moe_begin_backward(const tl_model *m, tl_acts *acts, int R) {
    const tl_arch *a = &m->arch;
    tl_experts *x = &acts->experts;
    const double N = (double)R * tl__moe_layers(a), part = (double)x->leaf_part;
    x->z_scale = (float)(2 * a->router_z_coef * part / N);
    if (!x->balance) return; /* the planner only counts */
    for (int e = 0; e < a->E; e++) {
        double load = 0;
        for (int l = 0; l < a->L; l++) load += x->load[(int64_t)l * a->E + e];
        x->balance[e] = (float)(a->router_aux_coef * part * a->E * (load / N) / N);
    }
}

/* ---- backward ---- */

/* The activation is computed again rather than kept. One buffer of n rows serves three times: the gradient of what the
 * experts gave, their input again, and its gradient, which an expert writes over the rows that it has read. */
void tl__moe_backward(tl_ctx *ctx, const tl_model *m, tl_acts *acts, tl_layer_acts *layer, const float *dout, int R,
                      int l, float *grad) {
    const tl_arch *a = &m->arch;
    const int E = a->E, k = a->top_k, C = a->C, F = a->expert_F, n = R * k;
    const bool add = !acts->first;
    tl_experts *x = &acts->experts;
    const tl_layer_experts *p = &layer->experts;
    int32_t first[TL_MAX_EXPERTS + 1];
    tl__dispatch(ctx, first, x->slot, x->at, p->choice, R, E, k);

    tl__gather(ctx, x->rows, dout, x->slot, n, k, C);
    tl__expert_swiglu(ctx, acts->act, layer->up, p->weight, x->slot, n, F);
    for (int e = 0; e < E; e++) { /* an expert without rows has a gradient too: zero */
        const int rows = first[e + 1] - first[e];
        const float *dy = x->rows + (int64_t)first[e] * C;
        tl__linear_dw(ctx, gradient(m, grad, l, TL_ROLE_EXPERT_DOWN, e), NULL, dy, C, acts->act + (int64_t)first[e] * F,
                      F, TL_OUT_IN, rows, C, F, add);
        if (rows == 0) continue;
        tl__linear_dx(ctx, acts->d_act + (int64_t)first[e] * F, F, dy, C, weight(m, l, TL_ROLE_EXPERT_DOWN, e),
                      TL_OUT_IN, rows, C, F, false);
    }
    tl__expert_swiglu_backward(ctx, acts->d_up, x->d_weight, acts->d_act, layer->up, p->weight, x->slot, n, F);

    tl__gather(ctx, x->rows, acts->normed, x->slot, n, k, C);
    for (int e = 0; e < E; e++) {
        const int rows = first[e + 1] - first[e];
        const float *d_gate = acts->d_up + (int64_t)first[e] * 2 * F, *d_up = d_gate + F;
        float *in = x->rows + (int64_t)first[e] * C;
        tl__linear_dw(ctx, gradient(m, grad, l, TL_ROLE_EXPERT_GATE, e), NULL, d_gate, 2 * F, in, C, TL_OUT_IN, rows, F,
                      C, add);
        tl__linear_dw(ctx, gradient(m, grad, l, TL_ROLE_EXPERT_UP, e), NULL, d_up, 2 * F, in, C, TL_OUT_IN, rows, F, C,
                      add);
        if (rows == 0) continue;
        tl__linear_dx(ctx, in, C, d_gate, 2 * F, weight(m, l, TL_ROLE_EXPERT_GATE, e), TL_OUT_IN, rows, F, C, false);
        tl__linear_dx(ctx, in, C, d_up, 2 * F, weight(m, l, TL_ROLE_EXPERT_UP, e), TL_OUT_IN, rows, F, C, true);
    }
    tl__combine(ctx, acts->d_normed, x->rows, x->at, R, k, C);

    tl__route_backward(ctx, x->d_logits, x->d_weight, p->choice, p->weight, p->logz, p->prob,
                       a->router_aux_coef > 0 ? x->balance : NULL, x->z_scale, R, E, k, a->norm_topk);
    tl_ctx exact = in_f32(ctx);
    tl__linear_dw(&exact, gradient(m, grad, l, TL_ROLE_ROUTER, 0), NULL, x->d_logits, E, acts->normed, C, TL_OUT_IN, R,
                  E, C, add);
    tl__linear_dx(&exact, acts->d_normed, C, x->d_logits, E, weight(m, l, TL_ROLE_ROUTER, 0), TL_OUT_IN, R, E, C, true);
}
