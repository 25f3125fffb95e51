/* model.c — the decoder: its activations' places, the forward, and directly below each part its backward.
 *
 * R rows, C width, H query heads, Hkv key/value heads, D head width, F feed-forward width, V vocabulary, L layers. One
 * forward serves training, scoring and generation (law L2); which parts run is configured by the architecture record
 * alone. */
#include "model/model.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { LOGITS_BYTES = 64 << 20 }; /* at once, outside training: enough rows for the head's product to run at speed */

/* ---- places ---- */

static int64_t width_q(const tl_arch *a) {
    return (int64_t)a->H * a->D;
}
static int64_t width_kv(const tl_arch *a) {
    return (int64_t)a->Hkv * a->D;
}
static int64_t width_qkv(const tl_arch *a) {
    return width_q(a) + 2 * width_kv(a);
}
/* Of the feed-forward activation, in layers with experts or without; of its input, gate and up. */
static int64_t width_act(const tl_arch *a, bool moe) {
    return moe ? (int64_t)a->top_k * a->expert_F : a->F;
}
static int64_t width_up(const tl_arch *a, bool moe) {
    return moe || tl__arch_gated(a) ? 2 * width_act(a, moe) : a->F;
}
/* The wider of the kinds that the model has: scratch serves both. */
static int64_t widest(const tl_arch *a, int64_t (*width)(const tl_arch *, bool)) {
    int64_t dense = width(a, false), moe = width(a, true);
    int with = tl__moe_layers(a);
    return with == 0 || (with < a->L && dense > moe) ? dense : moe;
}
/* Queries and keys before their norm. */
static int64_t width_qk(const tl_arch *a) {
    return width_q(a) + width_kv(a);
}
/* Norms of a row's queries and keys. */
static int q_norms(const tl_arch *a) {
    return a->qk_norm == TL_QK_NORM_WHOLE ? 1 : a->H;
}
static int k_norms(const tl_arch *a) {
    return a->qk_norm == TL_QK_NORM_WHOLE ? 1 : a->Hkv;
}

/* Attention's part of a layer. */
static void place_attention(tl_layer_acts *p, tl_arena *arena, const tl_arch *a, int R, int kv_blocks, bool training) {
    p->qkv = TL_TAKE(arena, float, R *width_qkv(a));
    p->att = TL_TAKE(arena, float, R *width_q(a));
    if (!training) return; /* a session brings its own keys and values */
    if (a->qk_norm != TL_QK_NORM_NONE) {
        p->qk = TL_TAKE(arena, float, R *width_qk(a));
        p->qk_rstd = TL_TAKE(arena, float, (int64_t)R *(q_norms(a) + k_norms(a)));
    }
    p->max_sum = TL_TAKE(arena, float, (int64_t)R * a->H * 2);
    p->kv.k = TL_TAKE(arena, float, kv_blocks *width_kv(a) * TL_KV_BLOCK);
    p->kv.v = TL_TAKE(arena, float, kv_blocks *width_kv(a) * TL_KV_BLOCK);
}

/* The rest of it, but for its input. */
static void place_rest(tl_layer_acts *p, tl_arena *arena, const tl_arch *a, int l, int R, bool training, bool full) {
    bool shared = !training || full; /* with layers of the other kind */
    p->x_mid = TL_TAKE(arena, float, (int64_t)R * a->C);
    p->up = TL_TAKE(arena, float, R *(shared ? widest(a, width_up) : width_up(a, a->layer[l].moe)));
    if (shared ? a->E > 0 : a->layer[l].moe) tl__moe_place_layer(&p->experts, arena, a, R);
    if (a->sandwich) {
        p->attended = TL_TAKE(arena, float, (int64_t)R * a->C);
        p->fed = TL_TAKE(arena, float, (int64_t)R * a->C);
    }
    if (!training) return;
    p->norm1_rstd = TL_TAKE(arena, float, R);
    p->norm2_rstd = TL_TAKE(arena, float, R);
    if (a->norm == TL_NORM_LAYER) {
        p->norm1_mean = TL_TAKE(arena, float, R);
        p->norm2_mean = TL_TAKE(arena, float, R);
    }
    if (a->sandwich) {
        p->post1_rstd = TL_TAKE(arena, float, R);
        p->post2_rstd = TL_TAKE(arena, float, R);
    }
}

const char *tl__recompute_name(tl_recompute recompute) {
    static const char *const names[TL_RECOMPUTES] = {"none", "attention", "full"};
    assert((unsigned)recompute < TL_RECOMPUTES);
    return names[recompute];
}

void tl__acts_place(tl_acts *acts, tl_arena *arena, const tl_arch *a, int R, int kv_blocks, bool training,
                    tl_recompute recompute) {
    *acts = (tl_acts){.R = R, .training = training, .recompute = recompute};
    acts->layer = TL_TAKE(arena, tl_layer_acts, a->L);
    tl_layer_acts unseen; /* a dry arena hands out no memory: placing must not write through it */
    for (int l = 0; l < a->L; l++) {
        tl_layer_acts *p = arena->dry ? &unseen : &acts->layer[l];
        if (l == 0) *p = (tl_layer_acts){0};
        else if (!arena->dry) *p = acts->layer[0]; /* what a layer has not of its own is the first one's */
        if (l == 0 || training) p->x = TL_TAKE(arena, float, (int64_t)R * a->C);
        if (l == 0 || (training && recompute == TL_RECOMPUTE_NONE))
            place_attention(p, arena, a, R, kv_blocks, training);
        if (l == 0 || (training && recompute != TL_RECOMPUTE_FULL))
            place_rest(p, arena, a, l, R, training, recompute == TL_RECOMPUTE_FULL);
    }
    acts->x_out = TL_TAKE(arena, float, (int64_t)R * a->C);
    acts->hidden = TL_TAKE(arena, float, (int64_t)R * a->C);
    acts->normed = TL_TAKE(arena, float, (int64_t)R * a->C);
    acts->branch = TL_TAKE(arena, float, (int64_t)R * a->C);
    acts->act = TL_TAKE(arena, float, R *widest(a, width_act));
    if (a->E > 0) tl__moe_place(&acts->experts, arena, a, R, training);
    acts->loss_rows = R < TL_LOSS_ROWS ? R : TL_LOSS_ROWS;
    if (!training) { /* any number gives the same bits */
        const int64_t fit = LOGITS_BYTES / ((int64_t)sizeof(float) * a->V);
        acts->loss_rows = fit >= acts->loss_rows ? acts->loss_rows : fit > 0 ? (int)fit : 1;
    }
    acts->logits = TL_TAKE(arena, float, (int64_t)acts->loss_rows * a->V);
    if (!training) return;
    acts->final_rstd = TL_TAKE(arena, float, R);
    acts->logz = TL_TAKE(arena, float, R);
    if (a->norm == TL_NORM_LAYER) acts->final_mean = TL_TAKE(arena, float, R);
    acts->d_x = TL_TAKE(arena, float, (int64_t)R * a->C);
    acts->d_normed = TL_TAKE(arena, float, (int64_t)R * a->C);
    acts->d_qkv = TL_TAKE(arena, float, R *width_qkv(a));
    acts->d_att = TL_TAKE(arena, float, R *width_q(a));
    acts->d_up = TL_TAKE(arena, float, R *widest(a, width_up));
    acts->d_act = TL_TAKE(arena, float, R *widest(a, width_act));
}

/* ---- parameters by role ---- */

static bool has(const tl_model *m, int layer, tl_role role) {
    return tl__params_find(&m->params, &m->arch, layer, role) >= 0;
}

/* A parameter's weights, or NULL where the architecture has none, or where they are stored in another type. */
static const float *weight(const tl_model *m, int layer, tl_role role) {
    int i = tl__params_find(&m->params, &m->arch, layer, role);
    return i < 0 ? NULL : m->weight[i];
}

/* A matrix in its file's type, or NULL where it is f32. */
static const tl_stored *stored(const tl_model *m, int layer, tl_role role) {
    int i = m->stored ? tl__params_find(&m->params, &m->arch, layer, role) : -1;
    return i >= 0 && m->stored[i].data ? &m->stored[i] : NULL;
}

/* Its gradient in the flat buffer, or NULL. */
static float *gradient(const tl_model *m, float *grad, int layer, tl_role role) {
    int i = tl__params_find(&m->params, &m->arch, layer, role);
    return i < 0 ? NULL : grad + m->params.list[i].offset;
}

/* The weights of a block are about to be read. */
static void need(const tl_acts *acts, int block, int next) {
    if (acts->blocks && acts->blocks->need) acts->blocks->need(acts->blocks->user, block, next);
}

/* The flat buffer in which a block's gradient is added up. */
static float *block_gradient(const tl_acts *acts, float *grad, int block) {
    return acts->blocks && acts->blocks->gradient ? acts->blocks->gradient(acts->blocks->user, block) : grad;
}

static void finished(const tl_acts *acts, int block) {
    if (acts->blocks && acts->blocks->finished) acts->blocks->finished(acts->blocks->user, block);
}

static int head_block(const tl_arch *a) {
    return a->tied ? 0 : a->L + 1;
}

static tl_role head_role(const tl_arch *a) {
    return a->tied ? TL_ROLE_EMBED : TL_ROLE_HEAD;
}

/* ---- norm ---- */

/* out = norm(x + y); sum, mean and rstd are kept where not NULL. */
static void norm(tl_ctx *ctx, const tl_model *m, float *out, float *sum, float *mean, float *rstd, const float *x,
                 const float *y, int layer, tl_role gain, tl_role bias, int R) {
    const tl_arch *a = &m->arch;
    if (a->norm == TL_NORM_RMS)
        tl__rmsnorm(ctx, out, sum, rstd, x, y, weight(m, layer, gain), a->gain_add, a->norm_eps, R, a->C);
    else
        tl__layernorm(ctx, out, sum, mean, rstd, x, y, weight(m, layer, gain), weight(m, layer, bias), a->norm_eps, R,
                      a->C);
}

/* dx += the norm's backward of dout at s; gain and bias gradients are added. */
static void norm_backward(tl_ctx *ctx, const tl_model *m, float *dx, float *grad, const float *dout, const float *s,
                          const float *mean, const float *rstd, int layer, tl_role gain, tl_role bias, int R) {
    const tl_arch *a = &m->arch;
    if (a->norm == TL_NORM_RMS)
        tl__rmsnorm_backward(ctx, dx, gradient(m, grad, layer, gain), dout, s, rstd, weight(m, layer, gain),
                             a->gain_add, R, a->C);
    else
        tl__layernorm_backward(ctx, dx, gradient(m, grad, layer, gain), gradient(m, grad, layer, bias), dout, s, mean,
                               rstd, weight(m, layer, gain), R, a->C);
}

/* ---- sandwich: a branch's own norm before it is added (Gemma 2) ---- */

/* branch = norm(raw), whatever the branch came from. A head_norm with one head a row. */
static void post_norm(tl_ctx *ctx, const tl_model *m, tl_acts *acts, const float *raw, float *rstd, int layer,
                      tl_role gain, int R) {
    const tl_arch *a = &m->arch;
    tl__head_norm(ctx, acts->branch, a->C, rstd, raw, a->C, weight(m, layer, gain), a->gain_add, a->norm_eps, R, 1,
                  a->C);
}

/* The gradient of the branch before its norm, in acts->branch; without such a norm the branch's own, d_x. */
static const float *post_norm_backward(tl_ctx *ctx, const tl_model *m, tl_acts *acts, const float *raw,
                                       const float *rstd, int layer, tl_role gain, float *grad, int R) {
    const tl_arch *a = &m->arch;
    if (!a->sandwich) return acts->d_x;
    tl__head_norm_backward(ctx, acts->branch, a->C, gradient(m, grad, layer, gain), acts->d_x, a->C, raw, a->C, rstd,
                           weight(m, layer, gain), a->gain_add, R, 1, a->C);
    return acts->branch;
}

/* ---- products with weights ---- */

/* y[R,N] = x[R,K]·W + b */
typedef struct term {
    float *y;
    int64_t ldy;
    tl_role w, b;
    int64_t N;
} term;

/* Products that share their x. Those with stored weights are one call: x is prepared for them once, and threads are
 * called together once. For use, plain f32 weights are stored ones too. */
static void products(tl_ctx *ctx, const tl_model *m, const term *terms, int n, const float *x, int layer, int R,
                     int64_t K) {
    const bool plain = m->stored && ctx->contract == TL_CONTRACT_F32 && m->arch.layout == TL_OUT_IN;
    tl_product together[TL_MAX_PRODUCTS];
    tl_stored f32[TL_MAX_PRODUCTS];
    int k = 0;
    assert(n <= TL_MAX_PRODUCTS);
    for (int i = 0; i < n; i++) {
        const term *t = &terms[i];
        const tl_stored *w = stored(m, layer, t->w);
        const float *bias = weight(m, layer, t->b);
        if (!w && plain) {
            f32[i] = (tl_stored){TL_F32, (int)t->N, (int)K, weight(m, layer, t->w)};
            w = &f32[i];
        }
        if (w) together[k++] = (tl_product){w, t->y, t->ldy, bias};
        else tl__linear(ctx, t->y, t->ldy, x, K, weight(m, layer, t->w), m->arch.layout, bias, R, (int)t->N, (int)K);
    }
    if (k) tl__linear_stored(ctx, together, k, x, K, R);
}

static void product(tl_ctx *ctx, const tl_model *m, float *y, int64_t ldy, const float *x, int layer, tl_role w,
                    tl_role b, int R, int64_t N, int64_t K) {
    products(ctx, m, &(term){y, ldy, w, b, N}, 1, x, layer, R, K);
}

/* dx[R,K] (+)= dy·Wᵀ; dW += dyᵀ·x (written in a leaf's first micro-batch), db += Σ dy. */
static void product_backward(tl_ctx *ctx, const tl_model *m, const tl_acts *acts, float *dx, float *grad,
                             const float *dy, int64_t lddy, const float *x, int layer, tl_role w, tl_role b, int R,
                             int64_t N, int64_t K, bool accumulate) {
    tl__linear_dw(ctx, gradient(m, grad, layer, w), gradient(m, grad, layer, b), dy, lddy, x, K, m->arch.layout, R,
                  (int)N, (int)K, !acts->first);
    tl__linear_dx(ctx, dx, K, dy, lddy, weight(m, layer, w), m->arch.layout, R, (int)N, (int)K, accumulate);
}

/* ---- attention block: normed → branch ---- */

static tl_attention_form attention_form(const tl_arch *a, int l) {
    return (tl_attention_form){.H = a->H,
                               .Hkv = a->Hkv,
                               .D = a->D,
                               .scale = 1.0f / sqrtf((float)(a->query_scalar ? a->query_scalar : a->D)),
                               .softcap = a->attention_softcap,
                               .window = tl__arch_window(a, l)};
}

/* q and k lie side by side: one call rotates both. */
static void rotate(tl_ctx *ctx, const tl_model *m, float *qk, const tl_rows *rows, int l, int direction) {
    const tl_arch *a = &m->arch;
    const float *table = a->layer[l].sliding && m->cos_sin_local ? m->cos_sin_local : m->cos_sin;
    if (a->positions != TL_POS_ROPE || a->layer[l].no_rope) return;
    tl__rope(ctx, qk, width_qkv(a), table, rows->pos, direction, rows->R, a->H + a->Hkv, a->D);
}

static void qk_norm(tl_ctx *ctx, const tl_model *m, tl_layer_acts *p, const float *q, const float *k, int64_t ld, int l,
                    int R) {
    const tl_arch *a = &m->arch;
    int nq = q_norms(a), nk = k_norms(a);
    int64_t Q = width_q(a), KV = width_kv(a), ldo = width_qkv(a);
    float *k_rstd = p->qk_rstd ? p->qk_rstd + (int64_t)R * nq : NULL;
    tl__head_norm(ctx, p->qkv, ldo, p->qk_rstd, q, ld, weight(m, l, TL_ROLE_Q_NORM), a->gain_add, a->norm_eps, R, nq,
                  (int)(Q / nq));
    tl__head_norm(ctx, p->qkv + Q, ldo, k_rstd, k, ld, weight(m, l, TL_ROLE_K_NORM), a->gain_add, a->norm_eps, R, nk,
                  (int)(KV / nk));
}

static void qk_norm_backward(tl_ctx *ctx, const tl_model *m, const tl_layer_acts *p, float *dq, float *dk, int l,
                             float *grad, int R) {
    const tl_arch *a = &m->arch;
    int nq = q_norms(a), nk = k_norms(a);
    int64_t Q = width_q(a), KV = width_kv(a), ldd = width_qkv(a), ld = width_qk(a);
    tl__head_norm_backward(ctx, dq, ldd, gradient(m, grad, l, TL_ROLE_Q_NORM), dq, ldd, p->qk, ld, p->qk_rstd,
                           weight(m, l, TL_ROLE_Q_NORM), a->gain_add, R, nq, (int)(Q / nq));
    tl__head_norm_backward(ctx, dk, ldd, gradient(m, grad, l, TL_ROLE_K_NORM), dk, ldd, p->qk + Q, ld,
                           p->qk_rstd + (int64_t)R * nq, weight(m, l, TL_ROLE_K_NORM), a->gain_add, R, nk,
                           (int)(KV / nk));
}

/* normed → att, with all that the backward needs on the way. */
static void attend(tl_ctx *ctx, const tl_model *m, tl_acts *acts, tl_layer_acts *p, const tl_rows *rows, int l) {
    const tl_arch *a = &m->arch;
    int R = rows->R;
    int64_t Q = width_q(a), KV = width_kv(a), ld = width_qkv(a);
    float *q = p->qkv, *k = q + Q, *v = k + KV;
    tl_attention_form form = attention_form(a, l);
    if (has(m, l, TL_ROLE_QKV)) {
        product(ctx, m, q, ld, acts->normed, l, TL_ROLE_QKV, TL_ROLE_QKV_BIAS, R, ld, a->C);
    } else {
        /* Training keeps q and k as they were before their norm; elsewhere they are normed in place. */
        int64_t ldr = p->qk ? width_qk(a) : ld;
        float *raw_q = p->qk ? p->qk : q, *raw_k = raw_q + Q;
        const term terms[] = {{raw_q, ldr, TL_ROLE_Q, TL_ROLE_Q_BIAS, Q},
                              {raw_k, ldr, TL_ROLE_K, TL_ROLE_K_BIAS, KV},
                              {v, ld, TL_ROLE_V, TL_ROLE_V_BIAS, KV}};
        products(ctx, m, terms, 3, acts->normed, l, R, a->C);
        if (a->qk_norm != TL_QK_NORM_NONE) qk_norm(ctx, m, p, raw_q, raw_k, ldr, l, R);
    }
    rotate(ctx, m, q, rows, l, 1);
    tl__kv_store(ctx, p->kv, k, ld, v, ld, rows, a->Hkv, a->D);
    tl__attention(ctx, p->att, Q, p->max_sum, q, ld, p->kv, rows, &form);
}

static void attention_block(tl_ctx *ctx, const tl_model *m, tl_acts *acts, tl_layer_acts *p, const tl_rows *rows,
                            int l) {
    const tl_arch *a = &m->arch;
    int R = rows->R;
    attend(ctx, m, acts, p, rows, l);
    product(ctx, m, a->sandwich ? p->attended : acts->branch, a->C, p->att, l, TL_ROLE_O, TL_ROLE_O_BIAS, R, a->C,
            width_q(a));
    if (a->sandwich) post_norm(ctx, m, acts, p->attended, p->post1_rstd, l, TL_ROLE_POST1_GAIN, R);
}

/* d_x (gradient of branch) → d_normed; acts->normed holds the block's input again. */
static void attention_block_backward(tl_ctx *ctx, const tl_model *m, tl_acts *acts, tl_layer_acts *p,
                                     const tl_rows *rows, int l, float *grad) {
    const tl_arch *a = &m->arch;
    int R = rows->R;
    int64_t Q = width_q(a), KV = width_kv(a), ld = width_qkv(a);
    float *dq = acts->d_qkv, *dk = dq + Q, *dv = dk + KV;
    tl_attention_form form = attention_form(a, l);
    const float *d_branch =
        post_norm_backward(ctx, m, acts, p->attended, p->post1_rstd, l, TL_ROLE_POST1_GAIN, grad, R);
    product_backward(ctx, m, acts, acts->d_att, grad, d_branch, a->C, p->att, l, TL_ROLE_O, TL_ROLE_O_BIAS, R, a->C, Q,
                     false);
    tl__attention_backward(ctx, dq, dk, dv, ld, acts->d_att, p->att, Q, p->max_sum, p->qkv, ld, p->kv, rows, &form);
    rotate(ctx, m, dq, rows, l, -1);
    if (a->qk_norm != TL_QK_NORM_NONE) qk_norm_backward(ctx, m, p, dq, dk, l, grad, R);
    if (has(m, l, TL_ROLE_QKV)) {
        product_backward(ctx, m, acts, acts->d_normed, grad, dq, ld, acts->normed, l, TL_ROLE_QKV, TL_ROLE_QKV_BIAS, R,
                         ld, a->C, false);
    } else {
        product_backward(ctx, m, acts, acts->d_normed, grad, dq, ld, acts->normed, l, TL_ROLE_Q, TL_ROLE_Q_BIAS, R, Q,
                         a->C, false);
        product_backward(ctx, m, acts, acts->d_normed, grad, dk, ld, acts->normed, l, TL_ROLE_K, TL_ROLE_K_BIAS, R, KV,
                         a->C, true);
        product_backward(ctx, m, acts, acts->d_normed, grad, dv, ld, acts->normed, l, TL_ROLE_V, TL_ROLE_V_BIAS, R, KV,
                         a->C, true);
    }
}

/* ---- feed-forward block: normed → branch ---- */

static void activate(tl_ctx *ctx, const tl_arch *a, float *act, const float *up, int R) {
    switch (a->act) {
    case TL_ACT_SWIGLU:
        tl__swiglu(ctx, act, up, R, a->F);
        break;
    case TL_ACT_GEGLU:
        tl__geglu(ctx, act, up, R, a->F);
        break;
    case TL_ACT_GELU_TANH:
        tl__gelu(ctx, act, up, (int64_t)R * a->F);
        break;
    }
}

static void activate_backward(tl_ctx *ctx, const tl_arch *a, float *d_up, const float *d_act, const float *up, int R) {
    switch (a->act) {
    case TL_ACT_SWIGLU:
        tl__swiglu_backward(ctx, d_up, d_act, up, R, a->F);
        break;
    case TL_ACT_GEGLU:
        tl__geglu_backward(ctx, d_up, d_act, up, R, a->F);
        break;
    case TL_ACT_GELU_TANH:
        tl__gelu_backward(ctx, d_up, d_act, up, (int64_t)R * a->F);
        break;
    }
}

/* normed → up */
static void widen(tl_ctx *ctx, const tl_model *m, tl_acts *acts, tl_layer_acts *p, int R, int l) {
    const tl_arch *a = &m->arch;
    int64_t ld = width_up(a, false);
    if (tl__arch_gated(a)) {
        const term terms[] = {{p->up, ld, TL_ROLE_GATE, TL_ROLE_GATE_BIAS, a->F},
                              {p->up + a->F, ld, TL_ROLE_UP, TL_ROLE_UP_BIAS, a->F}};
        products(ctx, m, terms, 2, acts->normed, l, R, a->C);
    } else {
        product(ctx, m, p->up, ld, acts->normed, l, TL_ROLE_UP, TL_ROLE_UP_BIAS, R, a->F, a->C);
    }
}

static void feed_forward_block(tl_ctx *ctx, const tl_model *m, tl_acts *acts, tl_layer_acts *p, int R, int l) {
    const tl_arch *a = &m->arch;
    widen(ctx, m, acts, p, R, l);
    activate(ctx, a, acts->act, p->up, R);
    product(ctx, m, a->sandwich ? p->fed : acts->branch, a->C, acts->act, l, TL_ROLE_DOWN, TL_ROLE_DOWN_BIAS, R, a->C,
            a->F);
    if (a->sandwich) post_norm(ctx, m, acts, p->fed, p->post2_rstd, l, TL_ROLE_POST2_GAIN, R);
}

/* d_x (gradient of branch) → d_normed. The activation is computed again rather than kept: it is bound by memory, and
 * keeping it would cost F floats a row in every layer. */
static void feed_forward_block_backward(tl_ctx *ctx, const tl_model *m, tl_acts *acts, tl_layer_acts *p, int R, int l,
                                        float *grad) {
    const tl_arch *a = &m->arch;
    int64_t ld = width_up(a, false);
    const float *d_branch = post_norm_backward(ctx, m, acts, p->fed, p->post2_rstd, l, TL_ROLE_POST2_GAIN, grad, R);
    activate(ctx, a, acts->act, p->up, R);
    product_backward(ctx, m, acts, acts->d_act, grad, d_branch, a->C, acts->act, l, TL_ROLE_DOWN, TL_ROLE_DOWN_BIAS, R,
                     a->C, a->F, false);
    activate_backward(ctx, a, acts->d_up, acts->d_act, p->up, R);
    if (tl__arch_gated(a)) {
        product_backward(ctx, m, acts, acts->d_normed, grad, acts->d_up, ld, acts->normed, l, TL_ROLE_GATE,
                         TL_ROLE_GATE_BIAS, R, a->F, a->C, false);
        product_backward(ctx, m, acts, acts->d_normed, grad, acts->d_up + a->F, ld, acts->normed, l, TL_ROLE_UP,
                         TL_ROLE_UP_BIAS, R, a->F, a->C, true);
    } else {
        product_backward(ctx, m, acts, acts->d_normed, grad, acts->d_up, ld, acts->normed, l, TL_ROLE_UP,
                         TL_ROLE_UP_BIAS, R, a->F, a->C, false);
    }
}

/* ---- one layer: x → x_mid and branch ---- */

/* The first time, x is the sum of what the layer before left; again, x is at hand, and the branch is wanted only as the
 * input of a norm of its own. */
static void layer_forward(tl_ctx *ctx, const tl_model *m, tl_acts *acts, const tl_rows *rows, int l, bool again) {
    tl_layer_acts *p = &acts->layer[l];
    int R = rows->R;
    tl__spans_set(ctx->spans, -1, l);
    /* Each norm first adds the branch that came before it to the residual stream: one pass over memory, not two. */
    if (l == 0 || again)
        norm(ctx, m, acts->normed, NULL, p->norm1_mean, p->norm1_rstd, p->x, NULL, l, TL_ROLE_NORM1_GAIN,
             TL_ROLE_NORM1_BIAS, R);
    else
        norm(ctx, m, acts->normed, p->x, p->norm1_mean, p->norm1_rstd, acts->layer[l - 1].x_mid, acts->branch, l,
             TL_ROLE_NORM1_GAIN, TL_ROLE_NORM1_BIAS, R);
    attention_block(ctx, m, acts, p, rows, l);
    norm(ctx, m, acts->normed, p->x_mid, p->norm2_mean, p->norm2_rstd, p->x, acts->branch, l, TL_ROLE_NORM2_GAIN,
         TL_ROLE_NORM2_BIAS, R);
    if (m->arch.layer[l].moe) tl__moe_forward(ctx, m, acts, p, R, l, again);
    else if (again && !m->arch.sandwich) widen(ctx, m, acts, p, R, l);
    else feed_forward_block(ctx, m, acts, p, R, l);
}

/* d_x of the layer's output → d_x of its input. What the layer shares with others is computed again first; the last
 * layer's is as the forward has just left it. */
static void layer_backward(tl_ctx *ctx, const tl_model *m, tl_acts *acts, const tl_rows *rows, int l, float *grad) {
    tl_layer_acts *p = &acts->layer[l];
    int R = rows->R;
    bool gone = l < m->arch.L - 1;
    tl__spans_set(ctx->spans, -1, l);
    if (gone && acts->recompute == TL_RECOMPUTE_FULL) layer_forward(ctx, m, acts, rows, l, true); /* normed too */
    else norm(ctx, m, acts->normed, NULL, NULL, NULL, p->x_mid, NULL, l, TL_ROLE_NORM2_GAIN, TL_ROLE_NORM2_BIAS, R);
    if (m->arch.layer[l].moe) tl__moe_backward(ctx, m, acts, p, acts->d_x, R, l, grad);
    else feed_forward_block_backward(ctx, m, acts, p, R, l, grad);
    norm_backward(ctx, m, acts->d_x, grad, acts->d_normed, p->x_mid, p->norm2_mean, p->norm2_rstd, l,
                  TL_ROLE_NORM2_GAIN, TL_ROLE_NORM2_BIAS, R);
    norm(ctx, m, acts->normed, NULL, NULL, NULL, p->x, NULL, l, TL_ROLE_NORM1_GAIN, TL_ROLE_NORM1_BIAS, R);
    if (gone && acts->recompute == TL_RECOMPUTE_ATTENTION) attend(ctx, m, acts, p, rows, l);
    attention_block_backward(ctx, m, acts, p, rows, l, grad);
    norm_backward(ctx, m, acts->d_x, grad, acts->d_normed, p->x, p->norm1_mean, p->norm1_rstd, l, TL_ROLE_NORM1_GAIN,
                  TL_ROLE_NORM1_BIAS, R);
}

/* ---- the whole ---- */

static void look_up(tl_ctx *ctx, const tl_model *m, float *x, const tl_rows *rows) {
    const tl_arch *a = &m->arch;
    const float *P = weight(m, -1, TL_ROLE_POSITION);
    const tl_stored *E = stored(m, -1, TL_ROLE_EMBED);
    if (E) tl__embed_stored(ctx, x, E, P, rows->token, rows->pos, a->embed_scale, rows->R);
    else tl__embed(ctx, x, weight(m, -1, TL_ROLE_EMBED), P, rows->token, rows->pos, a->embed_scale, rows->R, a->C);
}

enum { TURN_ROWS = 16, TURN_AHEAD = 64 }; /* of a task; filled in at once */

typedef struct turning {
    const tl_model *model;
    int first, end;
} turning;

static void turn_rows(void *user, int64_t task, int worker) {
    const turning *t = user;
    const tl_model *m = t->model;
    const int first = t->first + (int)task * TURN_ROWS, end = t->end - first < TURN_ROWS ? t->end : first + TURN_ROWS;
    (void)worker;
    tl__rope_fill(m->cos_sin, &m->arch, false, first, end);
    if (m->cos_sin_local) tl__rope_fill(m->cos_sin_local, &m->arch, true, first, end);
}

/* A model may have many more positions than anybody reaches, and their angles take long: they are worked out as far as
 * they are asked for. */
static void turn_as_far(tl_ctx *ctx, const tl_model *m, const tl_rows *rows) {
    int last = -1;
    for (int r = 0; r < rows->R; r++) last = rows->pos[r] > last ? rows->pos[r] : last;
    if (!m->cos_sin || last < *m->turned) return;
    turning t = {m, *m->turned, (last / TURN_AHEAD + 1) * TURN_AHEAD};
    if (t.end > m->positions) t.end = m->positions;
    assert(last < t.end);
    tl__span_begin(ctx->spans, "rope_table", TL_BUCKET_ELEMENTWISE);
    tl__parallel_for(ctx->pool, (t.end - t.first + TURN_ROWS - 1) / TURN_ROWS, turn_rows, &t);
    *m->turned = t.end;
    const int64_t floats = (int64_t)(t.end - t.first) * m->arch.D * tl__rope_tables(&m->arch);
    tl__span_end(ctx->spans, 0, 4.0 * (double)floats, t.end - t.first, m->arch.D, 0);
}

void tl__model_forward(tl_ctx *ctx, const tl_model *m, tl_acts *acts, const tl_rows *rows) {
    const tl_arch *a = &m->arch;
    int R = rows->R;
    assert(R > 0 && R <= acts->R);
    tl__spans_set(ctx->spans, -1, -1);
    turn_as_far(ctx, m, rows);
    need(acts, 0, 1);
    look_up(ctx, m, acts->layer[0].x, rows);
    for (int l = 0; l < a->L; l++) {
        need(acts, l + 1, l + 2);
        layer_forward(ctx, m, acts, rows, l, false);
    }
    tl__spans_set(ctx->spans, -1, -1);
    need(acts, a->L + 1, -1);
    norm(ctx, m, acts->hidden, acts->x_out, acts->final_mean, acts->final_rstd, acts->layer[a->L - 1].x_mid,
         acts->branch, -1, TL_ROLE_FINAL_GAIN, TL_ROLE_FINAL_BIAS, R);
}

/* A matrix's gradient is written by the leaf's first product; vectors and look-up tables are only ever added to. */
void tl__model_clear_gradient(tl_ctx *ctx, const tl_model *m, float *grad, int first, int end) {
    double bytes = 0;
    tl__span_begin(ctx->spans, "clear_gradient", TL_BUCKET_OPTIMIZER);
    for (int i = first; i < end; i++) {
        const tl_param *p = &m->params.list[i];
        bool looked_up = p->role == TL_ROLE_POSITION || (p->role == TL_ROLE_EMBED && !m->arch.tied);
        if (p->dims == 2 && !looked_up) continue;
        memset(grad + p->offset, 0, sizeof(float) * (size_t)p->count);
        bytes += 4.0 * (double)p->count;
    }
    tl__span_end(ctx->spans, 0, bytes, 0, 0, 0);
}

/* Embedding and head are [V, C] in every family. */
static void head_product(tl_ctx *ctx, const tl_model *m, float *logits, const float *hidden, int n) {
    const tl_arch *a = &m->arch;
    const tl_stored *W = stored(m, -1, head_role(a));
    if (W) tl__linear_stored(ctx, &(tl_product){W, logits, a->V, NULL}, 1, hidden, a->C, n);
    else tl__linear(ctx, logits, a->V, hidden, a->C, weight(m, -1, head_role(a)), TL_OUT_IN, NULL, n, a->V, a->C);
}

void tl__model_logits(tl_ctx *ctx, const tl_model *m, float *logits, const float *hidden, int n) {
    const tl_arch *a = &m->arch;
    head_product(ctx, m, logits, hidden, n);
    if (a->final_softcap > 0) tl__softcap(ctx, logits, a->final_softcap, (int64_t)n * a->V);
}

void tl__model_loss(tl_ctx *ctx, const tl_model *m, tl_acts *acts, const int32_t *target, int R, float *logp,
                    float *grad, float grad_scale) {
    const tl_arch *a = &m->arch;
    need(acts, head_block(a), -1);
    const float *W = weight(m, -1, head_role(a));
    if (grad) grad = block_gradient(acts, grad, head_block(a));
    bool z = grad && acts->z_coef > 0;
    tl_loss_form form = {
        .grad_scale = grad ? grad_scale : 0.0f, .z_coef = z ? acts->z_coef : 0.0f, .softcap = a->final_softcap};
    const int most = acts->loss_rows;
    for (int r = 0; r < R; r += most) {
        int n = R - r < most ? R - r : most;
        const float *hidden = acts->hidden + (int64_t)r * a->C;
        head_product(ctx, m, acts->logits, hidden, n);
        tl__softmax_loss(ctx, logp + r, z ? acts->logz + r : NULL, acts->logits, target + r, &form, n, a->V);
        if (!grad) continue;
        tl__linear_dw(ctx, gradient(m, grad, -1, head_role(a)), NULL, acts->logits, a->V, hidden, a->C, TL_OUT_IN, n,
                      a->V, a->C, !(acts->first && r == 0));
        tl__linear_dx(ctx, acts->d_normed + (int64_t)r * a->C, a->C, acts->logits, a->V, W, TL_OUT_IN, n, a->V, a->C,
                      false);
    }
}

void tl__model_backward(tl_ctx *ctx, const tl_model *m, tl_acts *acts, const tl_rows *rows, float *grad,
                        float *embed_grad, const int32_t *slot) {
    const tl_arch *a = &m->arch;
    int R = rows->R;
    assert(acts->training);
    if (a->E > 0) tl__moe_begin_backward(m, acts, R);
    if (acts->d_x) /* NULL where the planner only counts */
        memset(acts->d_x, 0, sizeof(float) * (size_t)R * (size_t)a->C);
    tl__spans_backward(ctx->spans, true);
    need(acts, a->L + 1, a->L);
    norm_backward(ctx, m, acts->d_x, block_gradient(acts, grad, a->L + 1), acts->d_normed, acts->x_out,
                  acts->final_mean, acts->final_rstd, -1, TL_ROLE_FINAL_GAIN, TL_ROLE_FINAL_BIAS, R);
    finished(acts, a->L + 1);
    for (int l = a->L - 1; l >= 0; l--) {
        need(acts, l + 1, l > 0 ? l : -1);
        layer_backward(ctx, m, acts, rows, l, block_gradient(acts, grad, l + 1));
        finished(acts, l + 1);
    }
    tl__spans_set(ctx->spans, -1, -1);
    grad = block_gradient(acts, grad, 0);
    if (a->tied) tl__embed_backward(ctx, embed_grad, slot, rows->token, acts->d_x, a->embed_scale, R, a->C);
    else
        tl__embed_backward(ctx, gradient(m, grad, -1, TL_ROLE_EMBED), NULL, rows->token, acts->d_x, a->embed_scale, R,
                           a->C);
    if (a->positions == TL_POS_LEARNED)
        tl__embed_backward(ctx, gradient(m, grad, -1, TL_ROLE_POSITION), NULL, rows->pos, acts->d_x, 1, R, a->C);
    tl__spans_backward(ctx->spans, false);
}

void tl__model_idle_pass(const tl_model *m, const tl_acts *acts) {
    const int L = m->arch.L;
    for (int block = 0; block <= L; block++) need(acts, block, block + 1);
    need(acts, L + 1, -1);
    need(acts, head_block(&m->arch), -1);
    for (int block = L + 1; block > 0; block--) need(acts, block, block > 1 ? block - 1 : -1);
}
