/* exchange.c — the collectives of a step: which, of what, in which order. */
#include "train/exchange.h"

#include <assert.h>
#include <string.h>

int tl__exchange_run(const tl_train_memory *memory, int i, int end) {
    int j = i + 1;
    while (j < end && memory->owner[j] == memory->owner[i]) j++;
    return j;
}

/* The next ticket's place; only where nothing has failed. */
static tl_ticket *next_ticket(tl_exchange *x) {
    assert(x->tickets < x->memory->tickets);
    return &x->memory->ticket[x->tickets++];
}

/* Of parameters [first, end), which are neighbours. */
static int64_t elements(const tl_params *params, int first, int end) {
    return params->list[end - 1].offset + params->list[end - 1].count - params->list[first].offset;
}

/* ---- weights that an update sends ---- */

void tl__exchange_weights(tl_exchange *x, int block, int first, int end) {
    const tl_params *params = &x->model->params;
    tl_train_memory *memory = x->memory;
    int64_t bytes = elements(params, first, end) * (int64_t)sizeof(float);
    if (x->status) return;
    assert(memory->spread_n < memory->tickets);
    tl_spread *spread = &memory->spread[memory->spread_n++];
    spread->block = block;
    x->status = tl__comm_broadcast_start(x->comm, TL_AXIS_DP, x->model->flat + params->list[first].offset, bytes,
                                         memory->owner[first], &spread->ticket, &x->error);
}

/* Wait for those of blocks up to this one. A pass asks for them in the order in which they come. */
static void arrive(void *user, int block, int next) {
    tl_exchange *x = user;
    tl_train_memory *m = x->memory;
    (void)next;
    if (m->spread_arrived == m->spread_n || m->spread[m->spread_arrived].block > block) return;
    tl__span_begin(x->ctx->spans, "spread_weights", TL_BUCKET_COMM);
    for (; m->spread_arrived < m->spread_n && m->spread[m->spread_arrived].block <= block; m->spread_arrived++)
        if (!x->status)
            x->status =
                tl__comm_wait(x->comm, m->spread[m->spread_arrived].ticket, tl__comm_patience(x->comm), &x->error);
    tl__span_end(x->ctx->spans, 0, 0, block, 0, 0);
    if (m->spread_arrived == m->spread_n) m->spread_arrived = m->spread_n = 0;
}

int tl__exchange_settle(tl_ctx *ctx, tl_comm *comm, const tl_model *model, tl_train_memory *memory,
                        const tl_train_shape *shape, tl_error *err) {
    tl_exchange x;
    tl__exchange_open(&x, ctx, comm, model, memory, shape);
    arrive(&x, model->arch.L + 1, -1);
    if (x.status && err) *err = x.error;
    return x.status;
}

/* ---- blocks in slots ---- */

static int64_t offset_of(const tl_exchange *x, int i) {
    return x->model->params.list[i].offset;
}

static int block_range(const tl_exchange *x, int block, int *end) {
    int first;
    tl__param_block(&first, end, &x->model->params, x->model->arch.L, block);
    return first;
}

/* Where parameter i lies in a buffer that holds the block that begins with parameter `first`. */
static int64_t within(const tl_exchange *x, int first, int i) {
    return offset_of(x, i) - offset_of(x, first);
}

/* Tickets of slot s: gradients' places lie before the weights'. */
static tl_ticket *slot_ticket(const tl_exchange *x, const tl_slot *slot) {
    bool weight = slot >= x->weight && slot < x->weight + TL_SLOTS;
    int64_t s = weight ? TL_SLOTS + (slot - x->weight) : slot - x->gradient;
    return x->memory->ticket + s * x->memory->slot_tickets;
}

static void wait_slot(tl_exchange *x, tl_slot *slot, const char *span) {
    if (slot->tickets == 0) return;
    tl__span_begin(x->ctx->spans, span, TL_BUCKET_COMM);
    for (int i = 0; !x->status && i < slot->tickets; i++)
        x->status = tl__comm_wait(x->comm, slot_ticket(x, slot)[i], tl__comm_patience(x->comm), &x->error);
    tl__span_end(x->ctx->spans, 0, 0, slot->block, 0, 0);
    slot->tickets = 0;
}

/* ---- gradients that stream ---- */

/* What is this rank's of a block whose round is summed, into the tree's stack: as in binary counting, round i is added
 * to the partial sums before it, one addition for each trailing one bit of i; round 0, 2, … begin a sum of their own.
 */
static void keep_owned(tl_exchange *x, const tl_slot *slot, const float *buffer) {
    const tl_train_memory *memory = x->memory;
    int end, first = block_range(x, slot->block, &end);
    for (int i = first, j; i < end; i = j) {
        j = tl__exchange_run(memory, i, end);
        if (memory->owner[i] != x->shape->rank) continue;
        int64_t at = memory->grad_at[i], n = elements(&x->model->params, i, j);
        int d = __builtin_popcount((unsigned)slot->round);
        if (slot->round % 2 == 0) {
            tl__span_begin(x->ctx->spans, "keep_gradient", TL_BUCKET_OPTIMIZER);
            memcpy(memory->grad[d] + at, buffer + within(x, first, i), sizeof(float) * (size_t)n);
            tl__span_end(x->ctx->spans, 0, 8.0 * (double)n, n, 0, 0);
            continue;
        }
        tl__add(x->ctx, memory->grad[d - 1] + at, memory->grad[d - 1] + at, buffer + within(x, first, i), n);
        for (int ones = slot->round >> 1; ones & 1; ones >>= 1, d--)
            tl__add(x->ctx, memory->grad[d - 2] + at, memory->grad[d - 2] + at, memory->grad[d - 1] + at, n);
    }
}

/* The slot is free again. */
static void collect(tl_exchange *x, int s) {
    tl_slot *slot = &x->gradient[s];
    if (slot->tickets == 0) return;
    wait_slot(x, slot, "sum_gradients");
    if (!x->status) keep_owned(x, slot, x->memory->block_grad[s]);
    slot->block = -1;
}

static float *stream_gradient(void *user, int block) {
    tl_exchange *x = user;
    int s = tl__block_slot(block, x->model->arch.L), end, first = block_range(x, block, &end);
    float *flat = x->memory->block_grad[s] - offset_of(x, first); /* as the model asks for it */
    tl_slot *slot = &x->gradient[s];
    if (slot->block == block && slot->round == x->round && slot->tickets == 0) return flat;
    collect(x, s);
    *slot = (tl_slot){.block = block, .round = x->round};
    tl__model_clear_gradient(x->ctx, x->model, flat, first, end);
    return flat;
}

static void stream_block(tl_exchange *x, int block) {
    int s = tl__block_slot(block, x->model->arch.L), end, first = block_range(x, block, &end);
    tl_slot *slot = &x->gradient[s];
    float *buffer = x->memory->block_grad[s];
    assert(slot->block == block && slot->tickets == 0);
    tl__span_begin(x->ctx->spans, "send_gradient", TL_BUCKET_COMM);
    for (int i = first, j; !x->status && i < end; i = j) {
        j = tl__exchange_run(x->memory, i, end);
        x->status =
            tl__comm_reduce_start(x->comm, TL_AXIS_DP, buffer + within(x, first, i), elements(&x->model->params, i, j),
                                  x->memory->owner[i], slot_ticket(x, slot) + slot->tickets++, &x->error);
    }
    tl__span_end(x->ctx->spans, 0, 0, block, 0, 0);
}

/* ---- gradients on their way ---- */

void tl__exchange_gradient(tl_exchange *x, int block) {
    const tl_params *params = &x->model->params;
    bool all = x->shape->shard == TL_SHARD_NONE;
    int first, end;
    if (x->blocks.gradient) {
        stream_block(x, block);
        return;
    }
    tl__param_block(&first, &end, params, x->model->arch.L, block);
    tl__span_begin(x->ctx->spans, "send_gradient", TL_BUCKET_COMM);
    for (int i = first, j; !x->status && i < end; i = j) {
        j = all ? end : tl__exchange_run(x->memory, i, end);
        float *at = x->memory->grad[0] + params->list[i].offset;
        int64_t n = elements(params, i, j);
        x->status =
            all ? tl__comm_sum_start(x->comm, TL_AXIS_DP, at, n, next_ticket(x), &x->error)
                : tl__comm_reduce_start(x->comm, TL_AXIS_DP, at, n, x->memory->owner[i], next_ticket(x), &x->error);
    }
    tl__span_end(x->ctx->spans, 0, 0, block, 0, 0);
}

/* ---- weights that are gathered ---- */

static void gather(tl_exchange *x, int block) {
    int s = tl__block_slot(block, x->model->arch.L), end, first = block_range(x, block, &end);
    tl_slot *slot = &x->weight[s];
    float *buffer = x->memory->block_weight[s];
    const int64_t *own = x->model->at;
    wait_slot(x, slot, "gather_weights"); /* a prefetch that nobody came for */
    *slot = (tl_slot){.block = block};
    tl__span_begin(x->ctx->spans, "send_weights", TL_BUCKET_COMM);
    for (int i = first, j; i < end; i = j) {
        j = tl__exchange_run(x->memory, i, end);
        int64_t bytes = elements(&x->model->params, i, j) * (int64_t)sizeof(float);
        float *at = own[i] >= 0 ? x->model->flat + own[i] : buffer + within(x, first, i);
        for (int k = i; k < j; k++) x->model->weight[k] = at + within(x, i, k);
        if (!x->status)
            x->status = tl__comm_broadcast_start(x->comm, TL_AXIS_DP, at, bytes, x->memory->owner[i],
                                                 slot_ticket(x, slot) + slot->tickets++, &x->error);
    }
    tl__span_end(x->ctx->spans, 0, 0, block, 0, 0);
}

/* After a failure the pass goes on, on numbers that nobody will use, to its end, where the failure is told. */
static void need(void *user, int block, int next) {
    tl_exchange *x = user;
    int L = x->model->arch.L, s = tl__block_slot(block, L);
    if (x->weight[s].block != block) gather(x, block);
    wait_slot(x, &x->weight[s], "gather_weights");
    if (next >= 0 && x->weight[tl__block_slot(next, L)].block != next) gather(x, next);
}

/* ---- a step's passes ---- */

void tl__exchange_open(tl_exchange *x, tl_ctx *ctx, tl_comm *comm, const tl_model *model, tl_train_memory *memory,
                       const tl_train_shape *shape) {
    *x = (tl_exchange){.ctx = ctx, .comm = comm, .model = (tl_model *)model, .memory = memory, .shape = shape};
    for (int s = 0; s < TL_SLOTS; s++) x->gradient[s].block = x->weight[s].block = -1;
    x->blocks.user = x;
    if (shape->shard != TL_SHARD_NONE) x->blocks.need = shape->shard == TL_SHARD_ZERO3 ? need : arrive;
    if (tl__train_streams(shape)) x->blocks.gradient = stream_gradient;
}

static int wait_all(tl_exchange *x, tl_error *err) {
    tl__span_begin(x->ctx->spans, "sum_gradients", TL_BUCKET_COMM);
    for (int i = 0; !x->status && i < x->tickets; i++)
        x->status = tl__comm_wait(x->comm, x->memory->ticket[i], tl__comm_patience(x->comm), &x->error);
    tl__span_end(x->ctx->spans, 0, 0, x->tickets, 0, 0);
    x->tickets = 0;
    if (x->status && err) *err = x->error;
    return x->status;
}

int tl__exchange_close(tl_exchange *x, tl_error *err) {
    for (int s = 0; s < TL_SLOTS; s++) {
        collect(x, s);
        wait_slot(x, &x->weight[s], "gather_weights");
    }
    for (int i = 0; x->blocks.need && i < x->model->params.n; i++) /* lent no longer */
        if (x->model->at[i] < 0) x->model->weight[i] = NULL;
    return wait_all(x, err);
}

/* ---- sums of a few numbers ---- */

int tl__exchange_sum(tl_exchange *x, double *values, int64_t n, tl_error *err) {
    tl_ticket ticket;
    tl__span_begin(x->ctx->spans, "sum_over_ranks", TL_BUCKET_COMM);
    int status = tl__comm_sum_f64_start(x->comm, TL_AXIS_DP, values, n, &ticket, err);
    if (!status) status = tl__comm_wait(x->comm, ticket, tl__comm_patience(x->comm), err);
    tl__span_end(x->ctx->spans, 0, 0, n, 0, 0);
    return status;
}

void tl__exchange_count(tl_exchange *x, double tokens) {
    x->tokens = tokens;
    x->status = tl__comm_sum_f64_start(x->comm, TL_AXIS_DP, &x->tokens, 1, &x->counting, &x->error);
}

double tl__exchange_tokens(tl_exchange *x) {
    if (x->counting.sequence == 0) return x->tokens;
    tl__span_begin(x->ctx->spans, "count_tokens", TL_BUCKET_COMM);
    if (!x->status) x->status = tl__comm_wait(x->comm, x->counting, tl__comm_patience(x->comm), &x->error);
    tl__span_end(x->ctx->spans, 0, 0, 1, 0, 0);
    x->counting.sequence = 0;
    return x->tokens;
}
