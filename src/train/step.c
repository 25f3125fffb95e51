/* step.c — leaves, micro-batches, the tree, clipping, the update and the average of the weights. */
#include "train/step.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/elementary.h"

static const int64_t COMM_TIMEOUT_NS = INT64_C(600) * 1000000000;

/* ---- the look-up gradient of a tied embedding ---- */

/* Number the different tokens of a leaf in order of appearance, and zero their rows. */
static void open_slots(tl_train_memory *memory, const tl_arch *a, const int32_t *input, int64_t n) {
    memset(memory->slot, 0xff, sizeof *memory->slot * (size_t)a->V);
    int used = 0;
    for (int64_t i = 0; i < n; i++)
        if (memory->slot[input[i]] < 0) memory->slot[input[i]] = used++;
    assert(used <= memory->slots);
    memset(memory->embed_grad, 0, sizeof(float) * (size_t)used * (size_t)a->C);
}

/* Add them to the embedding's gradient, which by now holds the head's part of the whole leaf: this order does not
 * depend on the micro-batch. */
static void close_slots(tl_ctx *ctx, tl_train_memory *memory, const tl_model *model, float *grad) {
    const tl_arch *a = &model->arch;
    float *dE = grad + model->params.list[tl__params_find(&model->params, a, -1, TL_ROLE_EMBED)].offset;
    tl__span_begin(ctx->spans, "embed_tied", TL_BUCKET_EMBED);
    int64_t used = 0;
    for (int v = 0; v < a->V; v++) {
        if (memory->slot[v] < 0) continue;
        float *out = dE + (int64_t)v * a->C;
        const float *in = memory->embed_grad + (int64_t)memory->slot[v] * a->C;
        for (int c = 0; c < a->C; c++) out[c] += in[c];
        used++;
    }
    tl__span_end(ctx->spans, (double)used * a->C, 12.0 * (double)used * a->C, used, a->C, 0);
}

/* ---- experts ---- */

/* A leaf's part of what the step reports of its experts. */
static void add_expert_statistics(const tl_model *model, tl_train_memory *memory, int R, double part,
                                  tl_step_result *result) {
    const tl_arch *a = &model->arch;
    double balance, z;
    tl__moe_losses(model, &memory->acts, R, &balance, &z);
    result->balance_loss += part * balance;
    result->router_z_loss += part * z;
    float *load = memory->expert_load;
    for (int l = 0; l < a->L; l++)
        if (a->layer[l].moe) *load++ += (float)(part * tl__moe_peak_load(model, &memory->acts, R, l));
}

/* ---- a leaf ---- */

static void leaf_gradient(tl_ctx *ctx, const tl_model *model, tl_train_memory *memory, const tl_train_shape *shape,
                          int first, int n, float *grad, float grad_scale, double *z_sum, tl_step_result *result) {
    int T = shape->T;
    *z_sum = 0;
    tl__model_clear_gradient(ctx, model, grad);
    if (memory->slot) open_slots(memory, &model->arch, memory->input + (int64_t)first * T, (int64_t)n * T);
    for (int i = 0; i < n; i += shape->micro_batch) {
        int count = n - i < shape->micro_batch ? n - i : shape->micro_batch;
        int64_t at = (int64_t)(first + i) * T;
        tl_rows rows;
        tl__train_rows(&rows, memory, memory->input + at, memory->pos + at, count, T);
        assert(model->arch.E == 0 || count == n); /* tl__micro_batch saw to it */
        memory->acts.first = i == 0;
        memory->acts.experts.leaf_part = 1.0f / (float)shape->leaves;
        tl__model_forward(ctx, model, &memory->acts, &rows);
        tl__model_loss(ctx, model, &memory->acts, memory->target + at, rows.R, memory->logp + at, grad, grad_scale);
        if (shape->z_coef > 0) /* row after row, wherever micro-batches are cut */
            for (int r = 0; r < rows.R; r++) *z_sum += (double)memory->acts.logz[r] * (double)memory->acts.logz[r];
        tl__model_backward(ctx, model, &memory->acts, &rows, grad, memory->embed_grad, memory->slot);
        if (model->arch.E > 0) add_expert_statistics(model, memory, rows.R, 1.0 / shape->leaves, result);
    }
    if (memory->slot) close_slots(ctx, memory, model, grad);
}

/* ---- the tree over leaves ---- */

int tl__step_gradient(tl_ctx *ctx, tl_comm *comm, const tl_model *model, tl_train_memory *memory,
                      const tl_train_shape *shape, tl_step_result *result, tl_error *err) {
    int64_t n = (int64_t)shape->batch * shape->T, tokens = 0;
    for (int64_t i = 0; i < n; i++) tokens += memory->target[i] >= 0;
    float grad_scale = 1.0f / (float)(tokens > 0 ? tokens : 1);
    int leaf = shape->batch / shape->leaves;
    *result = (tl_step_result){0};
    if (memory->expert_load) memset(memory->expert_load, 0, sizeof(float) * (size_t)model->arch.L);

    /* A stack of partial sums, as in binary counting: after leaf i, one addition for each trailing one bit of i. */
    double loss[32], z_sum[32];
    int depth = 0;
    for (int i = 0; i < shape->leaves; i++) {
        assert(depth < memory->grads);
        leaf_gradient(ctx, model, memory, shape, i * leaf, leaf, memory->grad[depth], grad_scale, &z_sum[depth],
                      result);
        loss[depth] = 0;
        for (int64_t r = (int64_t)i * leaf * shape->T; r < (int64_t)(i + 1) * leaf * shape->T; r++)
            loss[depth] -= (double)memory->logp[r];
        depth++;
        for (int ones = i; ones & 1; ones >>= 1, depth--) {
            tl__add(ctx, memory->grad[depth - 2], memory->grad[depth - 2], memory->grad[depth - 1],
                    model->params.count);
            loss[depth - 2] += loss[depth - 1];
            z_sum[depth - 2] += z_sum[depth - 1];
        }
    }
    assert(depth == 1);

    double shared[5] = {loss[0], (double)tokens, z_sum[0], result->balance_loss, result->router_z_loss};
    tl_ticket gradient_ticket, loss_ticket;
    tl__span_begin(ctx->spans, "sum_over_ranks", TL_BUCKET_COMM);
    int status = tl__comm_sum_start(comm, TL_AXIS_DP, memory->grad[0], model->params.count, &gradient_ticket, err);
    if (!status) status = tl__comm_sum_f64_start(comm, TL_AXIS_DP, shared, 5, &loss_ticket, err);
    if (!status) status = tl__comm_wait(comm, gradient_ticket, COMM_TIMEOUT_NS, err);
    if (!status) status = tl__comm_wait(comm, loss_ticket, COMM_TIMEOUT_NS, err);
    tl__span_end(ctx->spans, 0, 0, model->params.count, 0, 0);
    if (status) return status;

    result->tokens = (int64_t)shared[1];
    result->balance_loss = shared[3], result->router_z_loss = shared[4];
    result->loss = shared[1] > 0 ? shared[0] / shared[1] : 0;
    result->z_loss = shared[1] > 0 ? shape->z_coef * shared[2] / shared[1] : 0;
    result->grad_norm = sqrt(tl__sum_squares(ctx, memory->grad[0], model->params.count));
    return 0;
}

/* ---- the update ---- */

/* The matrices of one parameter by Muon. */
static void update_matrices(tl_ctx *ctx, tl_model *model, tl_train_memory *memory, const tl_param *p,
                            const tl_muon *hyper) {
    tl_matrix matrix[TL_MAX_FUSED];
    int n = tl__param_matrices(matrix, p, &model->arch);
    for (int k = 0; k < n; k++) {
        int64_t at = matrix[k].offset;
        tl__muon(ctx, model->flat + at, memory->exp_avg + at, memory->grad[0] + at, matrix[k].rows, matrix[k].cols,
                 matrix[k].ld, &memory->muon, hyper);
    }
}

void tl__step_update(tl_ctx *ctx, tl_model *model, tl_train_memory *memory, const tl_adamw_settings *s,
                     const tl_muon_settings *m, double rate, double grad_norm, int64_t update) {
    double correction1 = 1.0 - tl__pow_f64(s->beta1, (double)update),
           correction2 = 1.0 - tl__pow_f64(s->beta2, (double)update);
    double clip = s->clip > 0 ? s->clip / (grad_norm + 1e-6) : 1.0; /* as torch.nn.utils.clip_grad_norm_ */
    tl_adamw hyper = {.lr = (float)rate,
                      .beta1 = s->beta1,
                      .beta2 = s->beta2,
                      .eps = (float)s->eps,
                      .grad_scale = clip < 1.0 ? (float)clip : 1.0f,
                      .step_size = (float)(rate / correction1),
                      .inv_sqrt_correction2 = (float)(1.0 / sqrt(correction2))};
    tl_muon muon = {.lr = m ? (float)(rate * m->rate_ratio) : 0,
                    .weight_decay = (float)s->weight_decay,
                    .grad_scale = hyper.grad_scale,
                    .momentum = m ? m->momentum : 0};
    const tl_params *p = &model->params;
    const int64_t *sq = memory->sq_offset;
    for (int i = 0, j; i < p->n;
         i = j) { /* one call for each run of neighbours that AdamW updates and that decay alike */
        if (sq[i] < 0) {
            assert(m);
            update_matrices(ctx, model, memory, &p->list[i], &muon);
            j = i + 1;
            continue;
        }
        int64_t count = 0;
        for (j = i; j < p->n && sq[j] >= 0 && p->list[j].decay == p->list[i].decay; j++) count += p->list[j].count;
        int64_t at = p->list[i].offset;
        hyper.weight_decay = p->list[i].decay ? (float)s->weight_decay : 0.0f;
        tl__adamw(ctx, model->flat + at, memory->exp_avg + at, memory->exp_avg_sq + sq[i], memory->grad[0] + at, count,
                  &hyper);
    }
}

void tl__step_average(tl_ctx *ctx, const tl_model *model, tl_train_memory *memory, double decay, int64_t update) {
    /* 1 − t is exact in f32 for t ≥ 1/2, so that weights that stand still are their own average. */
    float t = update > 1 ? (float)decay : 0.0f;
    int64_t n = model->params.count;
    tl__blend(ctx, memory->average, n, t, model->flat, n, 1.0f - t, 1, n);
}

/* ---- validation ---- */

double tl__step_evaluate(tl_ctx *ctx, const tl_model *model, tl_train_memory *memory, int n, int T, int64_t *tokens) {
    tl_rows rows;
    double sum = 0;
    int64_t counted = 0;
    tl__train_rows(&rows, memory, memory->input, memory->pos, n, T);
    tl__model_forward(ctx, model, &memory->acts, &rows);
    tl__model_loss(ctx, model, &memory->acts, memory->target, rows.R, memory->logp, NULL, 0);
    for (int r = 0; r < rows.R; r++) {
        sum -= (double)memory->logp[r];
        counted += memory->target[r] >= 0;
    }
    *tokens = counted;
    return sum;
}
