/* step.c — leaves, micro-batches, the tree, clipping, the update and the average of the weights. */
#include "train/step.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/elementary.h"

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

/* ---- a leaf ---- */

/* A leaf's part of what the step reports of its experts. */
static void note_experts(const tl_model *model, const tl_train_memory *memory, int R, double part, double *sums) {
    const tl_arch *a = &model->arch;
    double balance, z, *load = sums + TL_LEAF_LOAD;
    tl__moe_losses(model, &memory->acts, R, &balance, &z);
    sums[TL_LEAF_BALANCE] = part * balance;
    sums[TL_LEAF_ROUTER_Z] = part * z;
    for (int l = 0; l < a->L; l++)
        if (a->layer[l].moe) *load++ = part * tl__moe_peak_load(model, &memory->acts, R, l);
}

/* With the rank's last leaf, or where gradients stream with any, a block's gradient is complete here: add the stack up,
 * and send the block on its way while the blocks before it are computed. */
static void finish_block(void *user, int block) {
    tl_exchange *x = user;
    const tl_params *params = &x->model->params;
    tl_train_memory *memory = x->memory;
    int first, end;
    tl__param_block(&first, &end, params, x->model->arch.L, block);
    int64_t at = params->list[first].offset, n = params->list[end - 1].offset + params->list[end - 1].count - at;
    for (int d = x->blocks.gradient ? 0 : memory->grads - 1; d > 0; d--)
        tl__add(x->ctx, memory->grad[d - 1] + at, memory->grad[d - 1] + at, memory->grad[d] + at, n);
    tl__exchange_gradient(x, block);
}

/* n sequences from `first` of the rank's, into grad, or block by block where gradients stream; sums: the leaf's row of
 * leaf_sums; send: its blocks are complete with it. */
static void leaf_gradient(tl_exchange *x, int first, int n, float *grad, double *sums, bool send) {
    tl_ctx *ctx = x->ctx;
    const tl_model *model = x->model;
    const tl_train_shape *shape = x->shape;
    tl_train_memory *memory = x->memory;
    int T = shape->T;
    if (!x->blocks.gradient) tl__model_clear_gradient(ctx, model, grad, 0, model->params.n);
    if (memory->slot) open_slots(memory, &model->arch, memory->input + (int64_t)first * T, (int64_t)n * T);
    for (int i = 0; i < n; i += shape->micro_batch) {
        int count = n - i < shape->micro_batch ? n - i : shape->micro_batch;
        int64_t at = (int64_t)(first + i) * T;
        tl_rows rows;
        tl__train_rows(&rows, memory, memory->input + at, memory->pos + at, count, T);
        assert(model->arch.E == 0 || count == n); /* tl__micro_batch saw to it */
        memory->acts.first = i == 0;
        memory->acts.experts.leaf_part = 1.0f / (float)shape->leaves;
        x->blocks.finished = send && i + count == n ? finish_block : NULL;
        tl__model_forward(ctx, model, &memory->acts, &rows);
        double tokens = tl__exchange_tokens(x);
        tl__model_loss(ctx, model, &memory->acts, memory->target + at, rows.R, memory->logp + at, grad,
                       1.0f / (float)(tokens > 0 ? tokens : 1));
        if (shape->z_coef > 0) /* row after row, wherever micro-batches are cut */
            for (int r = 0; r < rows.R; r++)
                sums[TL_LEAF_Z] += (double)memory->acts.logz[r] * (double)memory->acts.logz[r];
        tl__model_backward(ctx, model, &memory->acts, &rows, grad, memory->embed_grad, memory->slot);
        if (model->arch.E > 0) note_experts(model, memory, rows.R, 1.0 / shape->leaves, sums);
    }
    if (memory->slot)
        close_slots(ctx, memory, model, x->blocks.gradient ? x->blocks.gradient(x->blocks.user, 0) : grad);
    if (send) finish_block(x, 0);
    for (int64_t r = (int64_t)first * T; r < (int64_t)(first + n) * T; r++)
        sums[TL_LEAF_LOSS] -= (double)memory->logp[r];
}

/* ---- the tree over leaves ---- */

/* Row 0 of sums[leaves][columns] becomes the binary tree over the leaves. */
static void add_leaves(double *sums, int leaves, int columns) {
    for (int width = 1; width < leaves; width *= 2)
        for (int i = 0; i < leaves; i += 2 * width)
            for (int c = 0; c < columns; c++) sums[i * columns + c] += sums[(i + width) * columns + c];
}

/* Each parameter's sum of squares where it is owned; the whole, in the parameters' order, everywhere. */
static int gradient_norm(tl_exchange *x, double *norm, tl_error *err) {
    const tl_params *params = &x->model->params;
    tl_train_memory *memory = x->memory;
    double sum = 0;
    for (int i = 0; i < params->n; i++) {
        const tl_param *p = &params->list[i];
        bool mine = memory->owner[i] == x->shape->rank;
        memory->norms[i] = mine ? tl__sum_squares(x->ctx, memory->grad[0] + memory->grad_at[i], p->count) : 0;
    }
    TRY(tl__exchange_sum(x, memory->norms, params->n, err));
    for (int i = 0; i < params->n; i++) sum += memory->norms[i];
    *norm = sqrt(sum);
    return 0;
}

/* Weights that are gathered are asked for by all ranks together: those with fewer leaves than rank 0 begin with passes
 * over nothing, so that the last leaves, whose gradients are sent, meet. */
static void keep_in_step(tl_exchange *x, int leaves) {
    tl_train_shape most = *x->shape;
    most.rank = 0;
    int leaf = x->shape->batch / x->shape->leaves;
    for (int i = leaves; i < tl__train_leaves(&most); i++)
        for (int at = 0; at < leaf; at += x->shape->micro_batch) tl__model_idle_pass(x->model, &x->memory->acts);
}

int tl__step_gradient(tl_ctx *ctx, tl_comm *comm, const tl_model *model, tl_train_memory *memory,
                      const tl_train_shape *shape, tl_step_result *result, tl_error *err) {
    tl_exchange x;
    int leaf = shape->batch / shape->leaves, leaves = tl__train_leaves(shape), columns = memory->leaf_columns;
    int64_t n = (int64_t)leaves * leaf * shape->T;
    double tokens = 0, *sums = memory->leaf_sums;
    tl__exchange_open(&x, ctx, comm, model, memory, shape);
    for (int64_t i = 0; i < n; i++) tokens += memory->target[i] >= 0;
    tl__exchange_count(&x, tokens);
    memset(sums, 0, sizeof *sums * (size_t)shape->leaves * (size_t)columns);

    /* A stack of partial sums, as in binary counting: after leaf i, one addition for each trailing one bit of i. The
     * rank's leaves are a complete subtree, so that after the last one bit after bit is one: finish_block's part. Where
     * gradients stream each leaf is summed over the ranks first, and the stack is exchange.c's. */
    bool streams = x.blocks.gradient != NULL;
    int depth = 0;
    memory->acts.blocks = &x.blocks;
    if (shape->shard == TL_SHARD_ZERO3) keep_in_step(&x, leaves);
    for (int i = 0; i < leaves; i++) {
        bool last = i + 1 == leaves;
        assert(depth < memory->grads && (!last || streams || depth == memory->grads - 1));
        x.round = i;
        leaf_gradient(&x, i * leaf, leaf, memory->grad[depth], sums + (int64_t)tl__train_leaf(shape, i) * columns,
                      last || streams);
        depth += !streams;
        for (int ones = i; !last && !streams && ones & 1; ones >>= 1, depth--)
            tl__add(ctx, memory->grad[depth - 2], memory->grad[depth - 2], memory->grad[depth - 1],
                    model->params.count);
    }
    memory->acts.blocks = NULL;
    TRY(tl__exchange_close(&x, err));
    TRY(tl__exchange_sum(&x, sums, (int64_t)shape->leaves * columns, err));
    add_leaves(sums, shape->leaves, columns);
    tokens = x.tokens;
    *result = (tl_step_result){.tokens = (int64_t)tokens,
                               .loss = tokens > 0 ? sums[TL_LEAF_LOSS] / tokens : 0,
                               .z_loss = tokens > 0 ? shape->z_coef * sums[TL_LEAF_Z] / tokens : 0,
                               .balance_loss = sums[TL_LEAF_BALANCE],
                               .router_z_loss = sums[TL_LEAF_ROUTER_Z]};
    for (int i = TL_LEAF_LOAD; i < columns; i++) memory->expert_load[i - TL_LEAF_LOAD] = (float)sums[i];
    return gradient_norm(&x, &result->grad_norm, err);
}

void tl__step_probe(tl_ctx *ctx, const tl_model *model, tl_train_memory *memory, const tl_train_shape *shape) {
    tl_spans *spans = ctx->spans;
    assert(shape->shard < TL_SHARD_ZERO2);
    memset(memory->leaf_sums, 0, sizeof *memory->leaf_sums * (size_t)memory->leaf_columns);
    ctx->spans = NULL;
    tl_exchange x;
    tl__exchange_open(&x, ctx, NULL, model, memory, shape);
    x.tokens = shape->T;
    leaf_gradient(&x, 0, 1, memory->grad[0], memory->leaf_sums, false);
    ctx->spans = spans;
}

/* ---- the update ---- */

/* The matrices of one parameter by Muon. */
static void update_matrices(tl_ctx *ctx, tl_model *model, tl_train_memory *memory, const tl_param *p,
                            const tl_muon *hyper) {
    tl_matrix matrix[TL_MAX_FUSED];
    int n = tl__param_matrices(matrix, p, &model->arch);
    for (int k = 0; k < n; k++) {
        int i = (int)(p - model->params.list);
        int64_t within = matrix[k].offset - p->offset;
        tl__muon(ctx, model->flat + model->at[i] + within, memory->exp_avg + memory->avg_offset[i] + within,
                 memory->grad[0] + memory->grad_at[i] + within, matrix[k].rows, matrix[k].cols, matrix[k].ld,
                 &memory->muon, hyper);
    }
}

/* Parameters [first, end), all kept here: one call of AdamW for each run of neighbours that decay alike. */
static void update_run(tl_ctx *ctx, tl_model *model, tl_train_memory *memory, int first, int end, tl_adamw *adamw,
                       float weight_decay, const tl_muon *muon) {
    const tl_param *p = model->params.list;
    const int64_t *sq = memory->sq_offset;
    for (int i = first, j; i < end; i = j) {
        if (sq[i] < 0) {
            update_matrices(ctx, model, memory, &p[i], muon);
            j = i + 1;
            continue;
        }
        int64_t count = 0;
        for (j = i; j < end && sq[j] >= 0 && p[j].decay == p[i].decay; j++) count += p[j].count;
        adamw->weight_decay = p[i].decay ? weight_decay : 0.0f;
        tl__adamw(ctx, model->flat + model->at[i], memory->exp_avg + memory->avg_offset[i], memory->exp_avg_sq + sq[i],
                  memory->grad[0] + memory->grad_at[i], count, adamw);
    }
}

int tl__step_update(tl_ctx *ctx, tl_comm *comm, tl_model *model, tl_train_memory *memory, const tl_train_shape *shape,
                    const tl_adamw_settings *s, const tl_muon_settings *m, double rate, double grad_norm,
                    int64_t update, tl_error *err) {
    double correction1 = 1.0 - tl__pow_f64(s->beta1, (double)update),
           correction2 = 1.0 - tl__pow_f64(s->beta2, (double)update);
    double clip = s->clip > 0 ? s->clip / (grad_norm + 1e-6) : 1.0; /* as torch.nn.utils.clip_grad_norm_ */
    tl_adamw adamw = {.lr = (float)rate,
                      .beta1 = s->beta1,
                      .beta2 = s->beta2,
                      .eps = (float)s->eps,
                      .grad_scale = clip < 1.0 ? (float)clip : 1.0f,
                      .step_size = (float)(rate / correction1),
                      .inv_sqrt_correction2 = (float)(1.0 / sqrt(correction2))};
    tl_muon muon = {.lr = m ? (float)(rate * m->rate_ratio) : 0,
                    .weight_decay = (float)s->weight_decay,
                    .grad_scale = adamw.grad_scale,
                    .momentum = m ? m->momentum : 0};
    tl_exchange x;
    int n = model->params.n;
    TRY(tl__exchange_settle(ctx, comm, model, memory, shape, err)); /* after a pass there is nothing to wait for */
    tl__exchange_open(&x, ctx, comm, model, memory, shape);
    if (shape->shard == TL_SHARD_NONE) {
        update_run(ctx, model, memory, 0, n, &adamw, (float)s->weight_decay, &muon);
        return 0;
    }
    for (int b = 0, i, end; b < model->arch.L + 2; b++) { /* block by block, as its pieces were counted */
        tl__param_block(&i, &end, &model->params, model->arch.L, b);
        for (int j; i < end; i = j) {
            j = tl__exchange_run(memory, i, end);
            if (memory->owner[i] == shape->rank)
                update_run(ctx, model, memory, i, j, &adamw, (float)s->weight_decay, &muon);
            if (shape->shard < TL_SHARD_ZERO3) tl__exchange_weights(&x, b, i, j);
        }
    }
    if (x.status && err) *err = x.error;
    return x.status;
}

void tl__step_average(tl_ctx *ctx, const tl_model *model, tl_train_memory *memory, double decay, int64_t update) {
    /* 1 − t is exact in f32 for t ≥ 1/2, so that weights that stand still are their own average. */
    float t = update > 1 ? (float)decay : 0.0f;
    int64_t n = model->flat_count;
    tl__blend(ctx, memory->average, n, t, model->flat, n, 1.0f - t, 1, n);
}

/* ---- validation ---- */

void tl__step_evaluate(tl_ctx *ctx, const tl_model *model, tl_train_memory *memory, int n, int T, double *sums) {
    tl_rows rows;
    tl__train_rows(&rows, memory, memory->input, memory->pos, n, T);
    tl__model_forward(ctx, model, &memory->acts, &rows);
    tl__model_loss(ctx, model, &memory->acts, memory->target, rows.R, memory->logp, NULL, 0);
    for (int i = 0; i < n; i++) {
        double loss = 0, counted = 0;
        for (int r = i * T; r < (i + 1) * T; r++) {
            loss -= (double)memory->logp[r];
            counted += memory->target[r] >= 0;
        }
        sums[2 * i] = loss, sums[2 * i + 1] = counted;
    }
}
