/* ops.c — what callers use: the table's operator inside a span that carries its shape and cost. */
#include <assert.h>

#include "kernels/ops.h"

const char *const tl__contract_names[TL_CONTRACTS + 1] = {"f32", "bf16", NULL};

size_t tl__ops_workspace_bytes(int threads) {
    return (size_t)(threads > 0 ? threads : 1) * TL_WORKSPACE_PER_WORKER_BYTES;
}

static void begin(tl_ctx *ctx, const char *name, tl_op op) {
    tl__span_begin(ctx->spans, name, tl__op_bucket(op));
}
/* `capped`: of so many elements a soft-cap is taken on the way. */
static void end_capped(tl_ctx *ctx, tl_op op, int64_t d0, int64_t d1, int64_t d2, int64_t capped) {
    if (!ctx->spans) return;
    const tl_cost cost = tl__op_cost(op, d0, d1, d2);
    const double more = capped ? tl__op_cost(TL_OP_SOFTCAP, capped, 0, 0).flops : 0;
    if (tl__op_type(op) == TL_CONTRACT_BF16) tl__span_bf16(ctx->spans);
    tl__span_end(ctx->spans, cost.flops + more, cost.bytes, d0, d1, d2);
}
static void end(tl_ctx *ctx, tl_op op, int64_t d0, int64_t d1, int64_t d2) {
    end_capped(ctx, op, d0, d1, d2, 0);
}

/* ---- products with a weight ---- */

static void product(tl_ctx *ctx, const char *name, float *c, int64_t ldc, int M, int N, int K, const float *a,
                    int64_t a_row, int64_t a_col, const float *b, int64_t b_row, int64_t b_col, const float *bias,
                    bool accumulate) {
    const bool bf16 = ctx->contract == TL_CONTRACT_BF16;
    const tl_op op = bf16 ? TL_OP_GEMM_BF16 : TL_OP_GEMM;
    begin(ctx, name, op);
    (bf16 ? ctx->ops->gemm_bf16 : ctx->ops->gemm)(ctx, c, ldc, M, N, K, a, a_row, a_col, b, b_row, b_col, bias,
                                                  accumulate);
    end(ctx, op, M, N, K);
}

void tl__linear(tl_ctx *ctx, float *y, int64_t ldy, const float *x, int64_t ldx, const float *W, tl_layout layout,
                const float *bias, int R, int N, int K) {
    const bool out_in = layout == TL_OUT_IN;
    product(ctx, "linear", y, ldy, R, N, K, x, ldx, 1, W, out_in ? 1 : N, out_in ? K : 1, bias, false);
}

void tl__linear_dx(tl_ctx *ctx, float *dx, int64_t lddx, const float *dy, int64_t lddy, const float *W,
                   tl_layout layout, int R, int N, int K, bool accumulate) {
    const bool out_in = layout == TL_OUT_IN;
    product(ctx, "linear_dx", dx, lddx, R, K, N, dy, lddy, 1, W, out_in ? K : 1, out_in ? 1 : N, NULL, accumulate);
}

void tl__linear_dw(tl_ctx *ctx, float *dW, float *dbias, const float *dy, int64_t lddy, const float *x, int64_t ldx,
                   tl_layout layout, int R, int N, int K, bool accumulate) {
    if (layout == TL_OUT_IN) product(ctx, "linear_dw", dW, K, N, K, R, dy, 1, lddy, x, ldx, 1, NULL, accumulate);
    else product(ctx, "linear_dw", dW, N, K, N, R, x, 1, ldx, dy, lddy, 1, NULL, accumulate);
    if (dbias) tl__bias_backward(ctx, dbias, dy, lddy, R, N);
}

/* ---- products with stored weights ---- */

/* Which entry computes a type. */
typedef enum kind { KIND_QUANTISED, KIND_F16, KIND_BF16, KIND_F32, KINDS } kind;
static kind kind_of(tl_type type) {
    return tl__type_quantised(type) ? KIND_QUANTISED
           : type == TL_F16         ? KIND_F16
           : type == TL_BF16        ? KIND_BF16
                                    : KIND_F32;
}

void tl__linear_stored(tl_ctx *ctx, const tl_product *products, int n, const float *x, int64_t ldx, int R) {
    static const char *const names[KINDS] = {"linear_quantised", "linear_f16", "linear_bf16", "linear"};
    assert(n >= 0 && n <= TL_MAX_PRODUCTS);
    for (kind k = 0; k < KINDS; k++) {
        tl_product of[TL_MAX_PRODUCTS];
        int count = 0;
        int64_t N = 0;
        for (int i = 0; i < n; i++) {
            assert(products[i].w->K == products[0].w->K);
            if (kind_of(products[i].w->type) == k) of[count++] = products[i], N += products[i].w->N;
        }
        if (!count) continue;
        const int K = of->w->K;
        begin(ctx, names[k], TL_OP_GEMM);
        (k == KIND_QUANTISED ? ctx->ops->linear_quantised
         : k == KIND_F16     ? ctx->ops->linear_f16
         : k == KIND_BF16    ? ctx->ops->linear_bf16
                             : ctx->ops->linear_f32)(ctx, of, count, x, ldx, R);
        if (!ctx->spans) continue;
        const tl_cost cost = tl__stored_cost(of, count, R);
        if (k == KIND_BF16) tl__span_bf16(ctx->spans);
        tl__span_end(ctx->spans, cost.flops, cost.bytes, R, N, K);
    }
}

/* ---- the others, as they stand in the table ---- */

void tl__bias_backward(tl_ctx *ctx, float *db, const float *dy, int64_t ld, int R, int N) {
    begin(ctx, "bias_backward", TL_OP_BIAS_BACKWARD);
    ctx->ops->bias_backward(ctx, db, dy, ld, R, N);
    end(ctx, TL_OP_BIAS_BACKWARD, R, N, 0);
}

void tl__embed(tl_ctx *ctx, float *x, const float *E, const float *P, const int32_t *token, const int32_t *pos,
               float scale, int R, int C) {
    begin(ctx, "embed", TL_OP_EMBED);
    ctx->ops->embed(ctx, x, E, P, token, pos, scale, R, C);
    end(ctx, TL_OP_EMBED, R, C, 0);
}
void tl__embed_stored(tl_ctx *ctx, float *x, const tl_stored *E, const float *P, const int32_t *token,
                      const int32_t *pos, float scale, int R) {
    begin(ctx, "embed_stored", TL_OP_EMBED);
    ctx->ops->embed_stored(ctx, x, E, P, token, pos, scale, R);
    end(ctx, TL_OP_EMBED, R, E->K, 0);
}
void tl__embed_backward(tl_ctx *ctx, float *dE, const int32_t *slot, const int32_t *id, const float *dx, float scale,
                        int R, int C) {
    begin(ctx, "embed_backward", TL_OP_EMBED_BACKWARD);
    ctx->ops->embed_backward(ctx, dE, slot, id, dx, scale, R, C);
    end(ctx, TL_OP_EMBED_BACKWARD, R, C, 0);
}

void tl__rmsnorm(tl_ctx *ctx, float *out, float *sum, float *rstd, const float *x, const float *y, const float *gain,
                 float gain_add, float eps, int R, int C) {
    begin(ctx, "rmsnorm", TL_OP_NORM);
    ctx->ops->rmsnorm(ctx, out, sum, rstd, x, y, gain, gain_add, eps, R, C);
    end(ctx, TL_OP_NORM, R, C, 0);
}
void tl__rmsnorm_backward(tl_ctx *ctx, float *dx, float *dgain, const float *dout, const float *s, const float *rstd,
                          const float *gain, float gain_add, int R, int C) {
    begin(ctx, "rmsnorm_backward", TL_OP_NORM_BACKWARD);
    ctx->ops->rmsnorm_backward(ctx, dx, dgain, dout, s, rstd, gain, gain_add, R, C);
    end(ctx, TL_OP_NORM_BACKWARD, R, C, 0);
}
void tl__layernorm(tl_ctx *ctx, float *out, float *sum, float *mean, float *rstd, const float *x, const float *y,
                   const float *gain, const float *bias, float eps, int R, int C) {
    begin(ctx, "layernorm", TL_OP_NORM);
    ctx->ops->layernorm(ctx, out, sum, mean, rstd, x, y, gain, bias, eps, R, C);
    end(ctx, TL_OP_NORM, R, C, 0);
}
void tl__layernorm_backward(tl_ctx *ctx, float *dx, float *dgain, float *dbias, const float *dout, const float *s,
                            const float *mean, const float *rstd, const float *gain, int R, int C) {
    begin(ctx, "layernorm_backward", TL_OP_NORM_BACKWARD);
    ctx->ops->layernorm_backward(ctx, dx, dgain, dbias, dout, s, mean, rstd, gain, R, C);
    end(ctx, TL_OP_NORM_BACKWARD, R, C, 0);
}
void tl__head_norm(tl_ctx *ctx, float *out, int64_t ldo, float *rstd, const float *x, int64_t ldx, const float *gain,
                   float gain_add, float eps, int R, int heads, int D) {
    begin(ctx, "head_norm", TL_OP_HEAD_NORM);
    ctx->ops->head_norm(ctx, out, ldo, rstd, x, ldx, gain, gain_add, eps, R, heads, D);
    end(ctx, TL_OP_HEAD_NORM, R, (int64_t)heads * D, 0);
}
void tl__head_norm_backward(tl_ctx *ctx, float *dx, int64_t lddx, float *dgain, const float *dout, int64_t lddout,
                            const float *x, int64_t ldx, const float *rstd, const float *gain, float gain_add, int R,
                            int heads, int D) {
    begin(ctx, "head_norm_backward", TL_OP_HEAD_NORM_BACKWARD);
    ctx->ops->head_norm_backward(ctx, dx, lddx, dgain, dout, lddout, x, ldx, rstd, gain, gain_add, R, heads, D);
    end(ctx, TL_OP_HEAD_NORM_BACKWARD, R, (int64_t)heads * D, 0);
}

void tl__rope(tl_ctx *ctx, float *x, int64_t ld, const float *cos_sin, const int32_t *pos, int direction, int R,
              int heads, int D) {
    begin(ctx, direction < 0 ? "rope_backward" : "rope", TL_OP_ROPE);
    ctx->ops->rope(ctx, x, ld, cos_sin, pos, direction, R, heads, D);
    end(ctx, TL_OP_ROPE, R, (int64_t)heads * D, 0);
}

void tl__kv_store(tl_ctx *ctx, tl_kv kv, const float *k, int64_t ldk, const float *v, int64_t ldv, const tl_rows *rows,
                  int Hkv, int D) {
    begin(ctx, "kv_store", TL_OP_KV_STORE);
    ctx->ops->kv_store(ctx, kv, k, ldk, v, ldv, rows, Hkv, D);
    end(ctx, TL_OP_KV_STORE, rows->R, (int64_t)Hkv * D, kv.type);
}

static void end_attention(tl_ctx *ctx, tl_op op, tl_type kv_type, const tl_rows *rows, const tl_attention_form *form) {
    if (!ctx->spans) return;
    const tl_cost cost = tl__attention_cost(op, rows, form, kv_type);
    tl__span_end(ctx->spans, cost.flops, cost.bytes, tl__attention_pairs(rows, form->window), form->H, form->D);
}
void tl__attention(tl_ctx *ctx, float *out, int64_t ldo, float *max_sum, const float *q, int64_t ldq, tl_kv kv,
                   const tl_rows *rows, const tl_attention_form *form) {
    begin(ctx, "attention", TL_OP_ATTENTION);
    ctx->ops->attention(ctx, out, ldo, max_sum, q, ldq, kv, rows, form);
    end_attention(ctx, TL_OP_ATTENTION, kv.type, rows, form);
}
void tl__attention_backward(tl_ctx *ctx, float *dq, float *dk, float *dv, int64_t ld, const float *dout,
                            const float *out, int64_t ldo, const float *max_sum, const float *q, int64_t ldq, tl_kv kv,
                            const tl_rows *rows, const tl_attention_form *form) {
    begin(ctx, "attention_backward", TL_OP_ATTENTION_BACKWARD);
    ctx->ops->attention_backward(ctx, dq, dk, dv, ld, dout, out, ldo, max_sum, q, ldq, kv, rows, form);
    end_attention(ctx, TL_OP_ATTENTION_BACKWARD, kv.type, rows, form);
}

void tl__gelu(tl_ctx *ctx, float *y, const float *x, int64_t n) {
    begin(ctx, "gelu", TL_OP_ACT);
    ctx->ops->gelu(ctx, y, x, n);
    end(ctx, TL_OP_ACT, n, 0, 0);
}
void tl__gelu_backward(tl_ctx *ctx, float *dx, const float *dy, const float *x, int64_t n) {
    begin(ctx, "gelu_backward", TL_OP_ACT_BACKWARD);
    ctx->ops->gelu_backward(ctx, dx, dy, x, n);
    end(ctx, TL_OP_ACT_BACKWARD, n, 0, 0);
}
void tl__swiglu(tl_ctx *ctx, float *y, const float *gu, int R, int F) {
    begin(ctx, "swiglu", TL_OP_ACT);
    ctx->ops->swiglu(ctx, y, gu, R, F);
    end(ctx, TL_OP_ACT, (int64_t)R * F, 0, 0);
}
void tl__swiglu_backward(tl_ctx *ctx, float *dgu, const float *dy, const float *gu, int R, int F) {
    begin(ctx, "swiglu_backward", TL_OP_ACT_BACKWARD);
    ctx->ops->swiglu_backward(ctx, dgu, dy, gu, R, F);
    end(ctx, TL_OP_ACT_BACKWARD, (int64_t)R * F * 2, 0, 0);
}
void tl__geglu(tl_ctx *ctx, float *y, const float *gu, int R, int F) {
    begin(ctx, "geglu", TL_OP_ACT);
    ctx->ops->geglu(ctx, y, gu, R, F);
    end(ctx, TL_OP_ACT, (int64_t)R * F, 0, 0);
}
void tl__geglu_backward(tl_ctx *ctx, float *dgu, const float *dy, const float *gu, int R, int F) {
    begin(ctx, "geglu_backward", TL_OP_ACT_BACKWARD);
    ctx->ops->geglu_backward(ctx, dgu, dy, gu, R, F);
    end(ctx, TL_OP_ACT_BACKWARD, (int64_t)R * F * 2, 0, 0);
}
void tl__add(tl_ctx *ctx, float *out, const float *x, const float *y, int64_t n) {
    begin(ctx, "add", TL_OP_ADD);
    ctx->ops->add(ctx, out, x, y, n);
    end(ctx, TL_OP_ADD, n, 0, 0);
}
void tl__softcap(tl_ctx *ctx, float *x, float cap, int64_t n) {
    begin(ctx, "softcap", TL_OP_SOFTCAP);
    ctx->ops->softcap(ctx, x, cap, n);
    end(ctx, TL_OP_SOFTCAP, n, 0, 0);
}

void tl__route(tl_ctx *ctx, int32_t *choice, float *weight, float *logz, float *prob, int R, int E, int k,
               bool renormalise) {
    begin(ctx, "route", TL_OP_ROUTE);
    ctx->ops->route(ctx, choice, weight, logz, prob, R, E, k, renormalise);
    end(ctx, TL_OP_ROUTE, R, E, k);
}
void tl__route_backward(tl_ctx *ctx, float *dlogits, const float *dweight, const int32_t *choice, const float *weight,
                        const float *logz, const float *prob, const float *balance, float z_scale, int R, int E, int k,
                        bool renormalise) {
    begin(ctx, "route_backward", TL_OP_ROUTE_BACKWARD);
    ctx->ops->route_backward(ctx, dlogits, dweight, choice, weight, logz, prob, balance, z_scale, R, E, k, renormalise);
    end(ctx, TL_OP_ROUTE_BACKWARD, R, E, k);
}
void tl__dispatch(tl_ctx *ctx, int32_t *first, int32_t *slot, int32_t *at, const int32_t *choice, int R, int E, int k) {
    begin(ctx, "dispatch", TL_OP_DISPATCH);
    ctx->ops->dispatch(ctx, first, slot, at, choice, R, E, k);
    end(ctx, TL_OP_DISPATCH, R, E, k);
}
void tl__gather(tl_ctx *ctx, float *out, const float *x, const int32_t *slot, int n, int k, int C) {
    begin(ctx, "gather", TL_OP_GATHER);
    ctx->ops->gather(ctx, out, x, slot, n, k, C);
    end(ctx, TL_OP_GATHER, n, C, 0);
}
void tl__combine(tl_ctx *ctx, float *out, const float *x, const int32_t *at, int R, int k, int C) {
    begin(ctx, "combine", TL_OP_COMBINE);
    ctx->ops->combine(ctx, out, x, at, R, k, C);
    end(ctx, TL_OP_COMBINE, R, C, k);
}
void tl__expert_swiglu(tl_ctx *ctx, float *y, const float *gu, const float *weight, const int32_t *slot, int n, int F) {
    begin(ctx, "expert_swiglu", TL_OP_ACT);
    ctx->ops->expert_swiglu(ctx, y, gu, weight, slot, n, F);
    end(ctx, TL_OP_ACT, (int64_t)n * F, 0, 0);
}
void tl__expert_swiglu_backward(tl_ctx *ctx, float *dgu, float *dweight, const float *dy, const float *gu,
                                const float *weight, const int32_t *slot, int n, int F) {
    begin(ctx, "expert_swiglu_backward", TL_OP_ACT_BACKWARD);
    ctx->ops->expert_swiglu_backward(ctx, dgu, dweight, dy, gu, weight, slot, n, F);
    end(ctx, TL_OP_ACT_BACKWARD, (int64_t)n * F * 2, 0, 0);
}

void tl__softmax_loss(tl_ctx *ctx, float *logp, float *logz, float *logits, const int32_t *target,
                      const tl_loss_form *form, int R, int V) {
    begin(ctx, "softmax_loss", TL_OP_SOFTMAX_LOSS);
    ctx->ops->softmax_loss(ctx, logp, logz, logits, target, form, R, V);
    end_capped(ctx, TL_OP_SOFTMAX_LOSS, R, V, 0, form->softcap != 0 ? (int64_t)R * V : 0);
}

double tl__weigh(tl_ctx *ctx, float *p, const float *z, float m, float temperature, int n) {
    begin(ctx, "weigh", TL_OP_WEIGH);
    const double sum = ctx->ops->weigh(ctx, p, z, m, temperature, n);
    end(ctx, TL_OP_WEIGH, n, 0, 0);
    return sum;
}

double tl__sum_squares(tl_ctx *ctx, const float *x, int64_t n) {
    begin(ctx, "sum_squares", TL_OP_SUM_SQUARES);
    const double sum = ctx->ops->sum_squares(ctx, x, n);
    end(ctx, TL_OP_SUM_SQUARES, n, 0, 0);
    return sum;
}
void tl__adamw(tl_ctx *ctx, float *w, float *m, float *v, const float *g, int64_t n, const tl_adamw *hyper) {
    begin(ctx, "adamw", TL_OP_ADAMW);
    ctx->ops->adamw(ctx, w, m, v, g, n, hyper);
    end(ctx, TL_OP_ADAMW, n, 0, 0);
}
void tl__blend(tl_ctx *ctx, float *y, int64_t ldy, float t, const float *x, int64_t ldx, float s, int64_t R,
               int64_t C) {
    begin(ctx, "blend", TL_OP_BLEND);
    ctx->ops->blend(ctx, y, ldy, t, x, ldx, s, R, C);
    end(ctx, TL_OP_BLEND, R * C, 0, 0);
}
