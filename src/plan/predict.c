/* predict.c — a step's time before it is run: the model's own code, called with a table of operators that do nothing,
 * leaves a list of spans with their FLOPs and bytes; the roofline turns it into seconds. No second description of the
 * model exists that could go stale. */
#include <math.h>
#include <stdlib.h>

#include "plan/traffic.h"

/* ---- a table that computes nothing ---- */

static void no_gemm(tl_ctx *ctx, float *c, int64_t ldc, int M, int N, int K, const float *a, int64_t a_row,
                    int64_t a_col, const float *b, int64_t b_row, int64_t b_col, const float *bias, bool accumulate) {}
static void no_bias_backward(tl_ctx *ctx, float *db, const float *dy, int64_t ld, int R, int N) {}
static void no_embed(tl_ctx *ctx, float *x, const float *E, const float *P, const int32_t *token, const int32_t *pos,
                     float scale, int R, int C) {}
static void no_embed_backward(tl_ctx *ctx, float *dE, const int32_t *slot, const int32_t *id, const float *dx,
                              float scale, int R, int C) {}
static void no_rmsnorm(tl_ctx *ctx, float *out, float *sum, float *rstd, const float *x, const float *y,
                       const float *gain, float gain_add, float eps, int R, int C) {}
static void no_rmsnorm_backward(tl_ctx *ctx, float *dx, float *dgain, const float *dout, const float *s,
                                const float *rstd, const float *gain, float gain_add, int R, int C) {}
static void no_layernorm(tl_ctx *ctx, float *out, float *sum, float *mean, float *rstd, const float *x, const float *y,
                         const float *gain, const float *bias, float eps, int R, int C) {}
static void no_layernorm_backward(tl_ctx *ctx, float *dx, float *dgain, float *dbias, const float *dout, const float *s,
                                  const float *mean, const float *rstd, const float *gain, int R, int C) {}
static void no_head_norm(tl_ctx *ctx, float *out, int64_t ldo, float *rstd, const float *x, int64_t ldx,
                         const float *gain, float gain_add, float eps, int R, int heads, int D) {}
static void no_head_norm_backward(tl_ctx *ctx, float *dx, int64_t lddx, float *dgain, const float *dout, int64_t lddout,
                                  const float *x, int64_t ldx, const float *rstd, const float *gain, float gain_add,
                                  int R, int heads, int D) {}
static void no_linear_stored(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R) {}
static void no_embed_stored(tl_ctx *ctx, float *x, const tl_stored *E, const float *P, const int32_t *token,
                            const int32_t *pos, float scale, int R) {}
static void no_rope(tl_ctx *ctx, float *x, int64_t ld, const float *cos_sin, const int32_t *pos, int direction, int R,
                    int heads, int D) {}
static void no_kv_store(tl_ctx *ctx, tl_kv kv, const float *k, int64_t ldk, const float *v, int64_t ldv,
                        const tl_rows *rows, int Hkv, int D) {}
static void no_attention(tl_ctx *ctx, float *out, int64_t ldo, float *max_sum, const float *q, int64_t ldq, tl_kv kv,
                         const tl_rows *rows, const tl_attention_form *form) {}
static void no_attention_backward(tl_ctx *ctx, float *dq, float *dk, float *dv, int64_t ld, const float *dout,
                                  const float *out, int64_t ldo, const float *max_sum, const float *q, int64_t ldq,
                                  tl_kv kv, const tl_rows *rows, const tl_attention_form *form) {}
static void no_gelu(tl_ctx *ctx, float *y, const float *x, int64_t n) {}
static void no_gelu_backward(tl_ctx *ctx, float *dx, const float *dy, const float *x, int64_t n) {}
static void no_swiglu(tl_ctx *ctx, float *y, const float *gu, int R, int F) {}
static void no_swiglu_backward(tl_ctx *ctx, float *dgu, const float *dy, const float *gu, int R, int F) {}
static void no_geglu(tl_ctx *ctx, float *y, const float *gu, int R, int F) {}
static void no_geglu_backward(tl_ctx *ctx, float *dgu, const float *dy, const float *gu, int R, int F) {}
static void no_softcap(tl_ctx *ctx, float *x, float cap, int64_t n) {}
static void no_add(tl_ctx *ctx, float *out, const float *x, const float *y, int64_t n) {}
static void no_route(tl_ctx *ctx, int32_t *choice, float *weight, float *logz, float *prob, int R, int E, int k,
                     bool renormalise) {}
static void no_route_backward(tl_ctx *ctx, float *dlogits, const float *dweight, const int32_t *choice,
                              const float *weight, const float *logz, const float *prob, const float *balance,
                              float z_scale, int R, int E, int k, bool renormalise) {}
/* An even load: where rows will really go is not known before they are routed. */
static void even_dispatch(tl_ctx *ctx, int32_t *first, int32_t *slot, int32_t *at, const int32_t *choice, int R, int E,
                          int k) {
    for (int e = 0; e <= E; e++) first[e] = (int32_t)((int64_t)R * k * e / E);
}
static void no_gather(tl_ctx *ctx, float *out, const float *x, const int32_t *slot, int n, int k, int C) {}
static void no_combine(tl_ctx *ctx, float *out, const float *x, const int32_t *at, int R, int k, int C) {}
static void no_expert_swiglu(tl_ctx *ctx, float *y, const float *gu, const float *weight, const int32_t *slot, int n,
                             int F) {}
static void no_expert_swiglu_backward(tl_ctx *ctx, float *dgu, float *dweight, const float *dy, const float *gu,
                                      const float *weight, const int32_t *slot, int n, int F) {}
static void no_softmax_loss(tl_ctx *ctx, float *logp, float *logz, float *logits, const int32_t *target,
                            const tl_loss_form *form, int R, int V) {}
static double no_sum_squares(tl_ctx *ctx, const float *x, int64_t n) {
    return 0;
}
static void no_adamw(tl_ctx *ctx, float *w, float *m, float *v, const float *g, int64_t n, const tl_adamw *hyper) {}
static void no_blend(tl_ctx *ctx, float *y, int64_t ldy, float t, const float *x, int64_t ldx, float s, int64_t R,
                     int64_t C) {}

static const tl_ops counting = {
    .isa = "none",
    .gemm = no_gemm,
    .gemm_bf16 = no_gemm,
    .linear_f32 = no_linear_stored,
    .linear_f16 = no_linear_stored,
    .linear_bf16 = no_linear_stored,
    .linear_quantised = no_linear_stored,
    .embed_stored = no_embed_stored,
    .bias_backward = no_bias_backward,
    .embed = no_embed,
    .embed_backward = no_embed_backward,
    .rmsnorm = no_rmsnorm,
    .rmsnorm_backward = no_rmsnorm_backward,
    .layernorm = no_layernorm,
    .layernorm_backward = no_layernorm_backward,
    .head_norm = no_head_norm,
    .head_norm_backward = no_head_norm_backward,
    .rope = no_rope,
    .kv_store = no_kv_store,
    .attention = no_attention,
    .attention_backward = no_attention_backward,
    .gelu = no_gelu,
    .gelu_backward = no_gelu_backward,
    .swiglu = no_swiglu,
    .swiglu_backward = no_swiglu_backward,
    .geglu = no_geglu,
    .geglu_backward = no_geglu_backward,
    .add = no_add,
    .softcap = no_softcap,
    .route = no_route,
    .route_backward = no_route_backward,
    .dispatch = even_dispatch,
    .gather = no_gather,
    .combine = no_combine,
    .expert_swiglu = no_expert_swiglu,
    .expert_swiglu_backward = no_expert_swiglu_backward,
    .softmax_loss = no_softmax_loss,
    .sum_squares = no_sum_squares,
    .adamw = no_adamw,
    .blend = no_blend,
};

/* ---- roofline ---- */

static double roofline_seconds(const tl_span *span, const tl_machine *machine) {
    const double flops = span->flops;
    const double compute = tl__machine_seconds(machine, flops, span->bf16 ? flops : 0, span->int8 ? flops : 0);
    double memory = span->bytes / machine->read_bytes_per_second, pace = machine->pace[span->backward][span->bucket];
    return (compute > memory ? compute : memory) * (pace > 0 ? pace : 1);
}

static void add_spans(tl_totals *out, tl_spans *spans, double times, const tl_machine *machine) {
    const tl_span *span;
    int n = tl__spans_list(spans, &span);
    for (int i = 0; i < n; i++) {
        double seconds = times * roofline_seconds(&span[i], machine);
        int b = span[i].bucket;
        out->seconds[b] += seconds;
        if (span[i].backward) out->backward_seconds[b] += seconds;
        out->wall_seconds += seconds;
        out->flops[b] += times * span[i].flops;
        if (span[i].bf16) out->bf16_flops[b] += times * span[i].flops;
        if (span[i].int8) out->int8_flops[b] += times * span[i].flops;
        out->bytes[b] += times * span[i].bytes;
    }
}

/* The same list by block of parameters: a pass begins outside the layers, goes through them and ends outside. */
static void add_blocks(double *block, int first, int last, tl_spans *spans, const tl_machine *machine) {
    const tl_span *span;
    int n = tl__spans_list(spans, &span), outside = first;
    for (int i = 0; i < n; i++) {
        if (span[i].layer >= 0) outside = last;
        block[span[i].layer >= 0 ? span[i].layer + 1 : outside] += roofline_seconds(&span[i], machine);
    }
}

typedef struct counting_for { /* what is the same for all that is counted of one step */
    const tl_machine *machine;
    tl_contract contract;
    int spans_room;
} counting_for;

/* Count one call of `run` and add it `times` times; and once by block, where block is not NULL. */
static int count(tl_totals *out, double *block, int first, int last, void (*run)(tl_ctx *ctx, void *user), void *user,
                 const counting_for *c, double times, tl_error *err) {
    tl_spans *spans;
    int status = tl__spans_open(&spans, c->spans_room, err);
    if (status) return status;
    tl__spans_keep(spans, true);
    tl_ctx ctx = {.ops = &counting, .spans = spans, .contract = c->contract};
    run(&ctx, user);
    add_spans(out, spans, times, c->machine);
    if (block) add_blocks(block, first, last, spans, c->machine);
    tl__spans_close(spans);
    return 0;
}

typedef struct micro_batch {
    const tl_train_shape *shape;
    tl_model model;
    tl_acts acts;
    tl_rows rows;
} micro_batch;

/* No operator touches its operands, so a gradient buffer is any address that is not NULL ("with gradients"). */
static float *const anywhere = (float *)(uintptr_t)TL_ARENA_ALIGN_BYTES;

static void run_forward(tl_ctx *ctx, void *user) {
    micro_batch *m = user;
    tl__model_forward(ctx, &m->model, &m->acts, &m->rows);
    tl__model_loss(ctx, &m->model, &m->acts, m->rows.token, m->rows.R, NULL, anywhere, 1.0f);
}

static void run_backward(tl_ctx *ctx, void *user) {
    micro_batch *m = user;
    tl__model_backward(ctx, &m->model, &m->acts, &m->rows, anywhere, NULL, NULL);
}

static void run_update(tl_ctx *ctx, void *user) {
    const micro_batch *m = user;
    const tl_params *params = &m->model.params;
    int64_t adamw = 0;
    tl__sum_squares(ctx, NULL, params->count);
    for (int i = 0; i < params->n; i++) {
        tl_matrix matrix[TL_MAX_FUSED];
        int n =
            m->shape->optimizer == TL_OPTIMIZER_MUON ? tl__param_matrices(matrix, &params->list[i], &m->model.arch) : 0;
        for (int k = 0; k < n; k++)
            tl__muon(ctx, NULL, NULL, NULL, matrix[k].rows, matrix[k].cols, matrix[k].ld, &(tl_muon_scratch){0},
                     &(tl_muon){0});
        if (!n) adamw += params->list[i].count;
    }
    tl__adamw(ctx, NULL, NULL, NULL, NULL, adamw, &(tl_adamw){0});
    if (m->shape->average) tl__blend(ctx, NULL, 0, 0, NULL, 0, 0, 1, params->count);
}

/* Everything but what ranks exchange; pace: by block, zeroed by the caller. */
static int predict_alone(tl_totals *out, tl_train_pace *pace, const tl_arch *arch, const tl_train_shape *s,
                         const tl_machine *machine, tl_error *err) {
    static const float present = 0; /* never read: says only that the parameter exists */
    int R = s->micro_batch * s->T, S = s->micro_batch;
    double sequences = (double)s->batch / s->leaves * tl__train_leaves(s); /* of this rank */
    micro_batch m = {.shape = s,
                     .model.arch = *arch,
                     .acts = {.R = R, .training = true, .recompute = s->recompute, .loss_rows = R < TL_LOSS_ROWS ? R : TL_LOSS_ROWS}};
    int32_t *numbers = calloc((size_t)R + (size_t)S + 1, sizeof *numbers); /* pos[R], seq_row[S+1] */
    m.acts.layer = calloc((size_t)arch->L, sizeof *m.acts.layer);
    int status = tl__params_make(&m.model.params, arch, err);
    m.model.weight = status ? NULL : calloc((size_t)m.model.params.n, sizeof *m.model.weight);
    if (!status && (!numbers || !m.acts.layer || !m.model.weight))
        status = tl__fail(err, TL_ENOMEM, "no memory to predict a step's time");
    if (!status) {
        for (int i = 0; i < m.model.params.n; i++) m.model.weight[i] = &present;
        for (int r = 0; r < R; r++) numbers[r] = r % s->T;
        for (int i = 0; i <= S; i++) numbers[R + i] = i * s->T;
        m.rows = (tl_rows){.R = R,
                           .S = S,
                           .token = numbers,
                           .pos = numbers,
                           .seq_row = numbers + R,
                           .seq_block = numbers,
                           .block = numbers};
        int last = arch->L + 1; /* block: what comes after the layers */
        counting_for c = {.machine = machine,
                          .contract = s->contract,
                          .spans_room = 128 * (arch->L + 1) + 8 * (R / TL_KB + 1) +
                                        12 * arch->E * tl__moe_layers(arch)}; /* an expert's products */
        double times = sequences / s->micro_batch;
        status = count(out, pace->forward, 0, last, run_forward, &m, &c, times, err);
        if (!status) status = count(out, pace->backward, last, 0, run_backward, &m, &c, times, err);
        double before = out->wall_seconds;
        c.spans_room = TL_MAX_FUSED * m.model.params.n + 4;
        if (!status)
            status = count(out, NULL, 0, 0, run_update, &m, &c, s->shard == TL_SHARD_NONE ? 1 : 1.0 / s->ranks, err);
        pace->update = (out->wall_seconds - before) * (s->shard == TL_SHARD_NONE ? 1 : s->ranks);
    }
    tl__params_free(&m.model.params);
    free(m.model.weight);
    free(m.acts.layer);
    free(numbers);
    return status;
}

int tl__train_predict_ranks(tl_totals *out, tl_train_traffic *traffic, const tl_arch *arch, const tl_train_shape *s,
                            const tl_machine *machine, tl_error *err) {
    size_t blocks = (size_t)arch->L + 2;
    double *seconds = calloc(2 * blocks, sizeof *seconds);
    tl_train_pace pace = {.forward = seconds, .backward = seconds + blocks};
    *out = (tl_totals){0};
    *traffic = (tl_train_traffic){0};
    if (!seconds) return tl__fail(err, TL_ENOMEM, "no memory to predict a step's time");
    int status = predict_alone(out, &pace, arch, s, machine, err);
    if (!status) status = tl__traffic_predict(traffic, arch, s, machine, &pace, err);
    free(seconds);
    out->seconds[TL_BUCKET_COMM] += traffic->exposed_seconds;
    out->wall_seconds += traffic->exposed_seconds;
    return status;
}

/* ---- what a step teaches ---- */

static const double LEAST_BESIDE = 0.05; /* a step that waits for ranks that come late is no measure of the link */

static void learn_paces(tl_machine *m, const tl_totals *predicted, const tl_totals *seen) {
    for (int b = 0; b <= TL_BUCKET_OPTIMIZER; b++)
        for (int backward = 0; backward < 2; backward++) {
            double *pace = &m->pace[backward][b], was = *pace > 0 ? *pace : 1;
            double p =
                backward ? predicted->backward_seconds[b] : predicted->seconds[b] - predicted->backward_seconds[b];
            double s = backward ? seen->backward_seconds[b] : seen->seconds[b] - seen->backward_seconds[b];
            if (p > 0 && s > 0) *pace = was * s / p;
        }
}

int tl__machine_learn(tl_machine *m, const tl_arch *arch, const tl_train_shape *shape, const tl_totals *predicted,
                      const tl_train_traffic *traffic, const tl_totals *seen, const tl_comm_traffic *seen_traffic,
                      tl_error *err) {
    double exposed = fmin(seen->seconds[TL_BUCKET_COMM], seen_traffic->seconds),
           hidden = seen_traffic->seconds - exposed;
    double beside = m->link_beside_computing > 0 ? m->link_beside_computing : 1, rate = m->link_bytes_per_second;
    double alone = traffic->exposed_seconds + beside * (traffic->seconds - traffic->exposed_seconds);
    learn_paces(m, predicted, seen);
    if (!(alone > 0 && seen_traffic->seconds > 0)) return 0;
    /* All that went over the link went at its own pace while the engine waited and at a part of it beside computing.
     * The smaller that part, the faster the link and the less is exposed: so much that it is what was seen, and the
     * link no faster than it was measured. */
    double most = 1, least = hidden > 0 ? fmin(fmax((alone - exposed) / hidden, LEAST_BESIDE), most) : most;
    for (int i = 0; i < 12; i++) {
        tl_totals step;
        tl_train_traffic again;
        m->link_beside_computing = (least + most) / 2;
        m->link_bytes_per_second = rate * alone / (exposed + m->link_beside_computing * hidden);
        TRY(tl__train_predict_ranks(&step, &again, arch, shape, m, err));
        if (again.exposed_seconds > exposed) most = m->link_beside_computing;
        else least = m->link_beside_computing;
    }
    return 0;
}

int tl__train_predict(tl_totals *out, const tl_arch *arch, const tl_train_shape *s, const tl_machine *machine,
                      tl_error *err) {
    tl_train_traffic traffic;
    return tl__train_predict_ranks(out, &traffic, arch, s, machine, err);
}
