/* exchange.c — the collectives of a step: which, of what, in which order. */
#include "train/exchange.h"

#include <assert.h>

int64_t tl__exchange_timeout_ns = INT64_C(600) * 1000000000;

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

static int64_t elements(const tl_params *params, int first, int end) {
    return params->list[end - 1].offset + params->list[end - 1].count - params->list[first].offset;
}

void tl__exchange_gradient(tl_exchange *x, int block) {
    const tl_params *params = &x->model->params;
    bool all = x->shape->shard == TL_SHARD_NONE;
    int first, end;
    tl__param_block(&first, &end, params, x->model->arch.L, block);
    for (int i = first, j; !x->status && i < end; i = j) {
        j = all ? end : tl__exchange_run(x->memory, i, end);
        float *at = x->memory->grad[0] + params->list[i].offset;
        int64_t n = elements(params, i, j);
        x->status =
            all ? tl__comm_sum_start(x->comm, TL_AXIS_DP, at, n, next_ticket(x), &x->error)
                : tl__comm_reduce_start(x->comm, TL_AXIS_DP, at, n, x->memory->owner[i], next_ticket(x), &x->error);
    }
}

void tl__exchange_weights(tl_exchange *x, int first, int end) {
    const tl_params *params = &x->model->params;
    int64_t bytes = elements(params, first, end) * (int64_t)sizeof(float);
    if (!x->status)
        x->status = tl__comm_broadcast_start(x->comm, TL_AXIS_DP, x->model->flat + params->list[first].offset, bytes,
                                             x->memory->owner[first], next_ticket(x), &x->error);
}

int tl__exchange_wait(tl_exchange *x, const char *span, tl_error *err) {
    tl__span_begin(x->ctx->spans, span, TL_BUCKET_COMM);
    for (int i = 0; !x->status && i < x->tickets; i++)
        x->status = tl__comm_wait(x->comm, x->memory->ticket[i], tl__exchange_timeout_ns, &x->error);
    tl__span_end(x->ctx->spans, 0, 0, x->tickets, 0, 0);
    x->tickets = 0;
    if (x->status && err) *err = x->error;
    return x->status;
}

int tl__exchange_sum(tl_exchange *x, double *values, int64_t n, tl_error *err) {
    tl_ticket ticket;
    tl__span_begin(x->ctx->spans, "sum_over_ranks", TL_BUCKET_COMM);
    int status = tl__comm_sum_f64_start(x->comm, TL_AXIS_DP, values, n, &ticket, err);
    if (!status) status = tl__comm_wait(x->comm, ticket, tl__exchange_timeout_ns, err);
    tl__span_end(x->ctx->spans, 0, 0, n, 0, 0);
    return status;
}
