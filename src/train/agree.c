/* agree.c — the ranks' comparison: hashes of what all should have, and the verdict. */
#include "train/agree.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int tl__agree_open(tl_agree *agree, int ranks, const tl_params *params, int64_t agreed_step, int64_t interval,
                   tl_error *err) {
    *agree = (tl_agree){.agreed_step = agreed_step,
                        .notes = ranks == 2 && interval > 0 ? interval : 0,
                        .first = calloc((size_t)ranks, sizeof *agree->first),
                        .all = calloc((size_t)ranks, sizeof *agree->all),
                        .wrong = calloc((size_t)ranks, sizeof *agree->wrong),
                        .parameter = calloc((size_t)params->n, sizeof *agree->parameter)};
    if (agree->notes > 0) agree->note = calloc((size_t)agree->notes, sizeof *agree->note);
    if (agree->all && agree->wrong && agree->parameter && agree->first && (agree->note || !agree->notes)) return 0;
    return tl__fail(err, TL_ENOMEM, "no memory for comparing the ranks");
}

void tl__agree_close(tl_agree *agree) {
    free(agree->all), free(agree->wrong), free(agree->parameter), free(agree->note), free(agree->first);
    *agree = (tl_agree){0};
}

/* ---- looking ---- */

typedef struct look {
    const tl_params *params;
    const float *flat;
    tl_hash *out;
} look;

static void hash_one(void *user, int64_t i, int worker) {
    const look *l = user;
    const tl_param *p = &l->params->list[i];
    (void)worker;
    l->out[i] = tl__hash_bytes(l->flat + p->offset, sizeof(float) * (size_t)p->count);
}

static tl_hash hash_all(tl_agree *agree, tl_ctx *ctx, const tl_params *params, const float *flat) {
    look l = {params, flat, agree->parameter};
    tl__parallel_for(ctx->pool, params->n, hash_one, &l);
    return tl__hash_bytes(agree->parameter, sizeof *agree->parameter * (size_t)params->n);
}

/* What a rank computes from the common sequence: its gradient, or where ranks keep parts of gradients its
 * log-probabilities, for which all ranks gather the weights together. */
static int compute(tl_hash *out, tl_agree *agree, tl_ctx *ctx, tl_comm *comm, const tl_model *model,
                   tl_train_memory *memory, const tl_train_shape *shape, tl_error *err) {
    if (shape->shard < TL_SHARD_ZERO2) {
        tl__step_probe(ctx, model, memory, shape);
        *out = hash_all(agree, ctx, &model->params, memory->grad[0]);
        return 0;
    }
    tl_spans *spans = ctx->spans;
    tl_exchange x;
    double sums[2];
    ctx->spans = NULL;
    tl__exchange_open(&x, ctx, comm, model, memory, shape);
    memory->acts.blocks = &x.blocks;
    tl__step_evaluate(ctx, model, memory, 1, shape->T, sums);
    memory->acts.blocks = NULL;
    int status = tl__exchange_close(&x, err);
    ctx->spans = spans;
    *out = tl__hash_bytes(memory->logp, sizeof *memory->logp * (size_t)shape->T);
    return status;
}

/* ---- judging ---- */

static bool same(const void *a, const void *b, size_t n) {
    return memcmp(a, b, n) == 0;
}

static bool contradicts_itself(const tl_agree_record *r) {
    return r->again.hex[0] && !same(&r->gradient, &r->again, sizeof r->again);
}

int tl__agree_judge(bool *wrong, const tl_agree_record *all, int ranks) {
    int n = 0, differ = 0, best = 0, most = 0;
    for (int r = 0; r < ranks; r++) {
        wrong[r] = contradicts_itself(&all[r]);
        n += wrong[r];
        differ += !same(&all[r], &all[0], sizeof *all);
    }
    if (n || !differ) return n;
    for (int r = 0; r < ranks; r++) {
        int alike = 0;
        for (int k = 0; k < ranks; k++) alike += same(&all[r], &all[k], sizeof *all);
        if (alike > most) most = alike, best = r;
    }
    if (2 * most <= ranks) return -1;
    for (int r = 0; r < ranks; r++) n += wrong[r] = !same(&all[r], &all[best], sizeof *all);
    return n;
}

/* "rank 2 (node7), rank 5 (node9)", six at most. */
static void name_ranks(char *out, size_t size, const tl_comm *comm, const bool *wrong, int ranks, int last) {
    int named = 0;
    size_t used = 0;
    *out = 0;
    for (int r = 0; r < ranks; r++) {
        if (wrong && !wrong[r]) continue;
        if (++named > 6 || used >= size) continue;
        used += (size_t)snprintf(out + used, size - used, "%srank %d (%s)",
                                 named == 1      ? ""
                                 : named == last ? " and "
                                                 : ", ",
                                 r, tl__comm_host(comm, r));
    }
    if (named > 6 && used < size) snprintf(out + used, size - used, " and %d more", named - 6);
}

static int tell(tl_agree *agree, const tl_comm *comm, int n, int ranks, int64_t step, tl_error *err) {
    char who[512];
    int first = 0;
    name_ranks(who, sizeof who, comm, n > 0 ? agree->wrong : NULL, ranks, n > 0 ? n : ranks);
    agree->speaker = 0;
    if (n < 0)
        return tl__fail(
            err, TL_EDIVERGED,
            "at step %lld %s hold different weights or compute differently, and there are too "
            "few to tell who is wrong: something failed after step %lld; test the memory and the CPU of each before "
            "going on there",
            (long long)step, who, (long long)agree->agreed_step);
    while (!agree->wrong[first]) first++;
    const tl_agree_record *bad = &agree->all[first];
    int right = 0;
    while (right < ranks - 1 && agree->wrong[right]) right++;
    agree->speaker = right;
    const char *what = contradicts_itself(bad) ? "computes the same twice to different bits"
                       : same(&bad->weights, &agree->all[right].weights, sizeof(tl_hash))
                           ? "computes other bits from the same weights"
                           : "holds other weights than the rest";
    return tl__fail(
        err, TL_EDIVERGED,
        "at step %lld %s %s: its memory or CPU failed after step %lld; do not go on with %s before it is tested, and "
        "resume without it",
        (long long)step, who, what, (long long)agree->agreed_step, tl__comm_host(comm, first));
}

static int gather(tl_agree *agree, tl_comm *comm, tl_error *err) {
    tl_ticket ticket;
    TRY(tl__comm_gather_start(comm, TL_AXIS_DP, agree->all, &agree->mine, sizeof agree->mine, &ticket, err));
    return tl__comm_wait(comm, ticket, tl__comm_patience(comm), err);
}

int tl__agree(tl_agree *agree, tl_ctx *ctx, tl_comm *comm, const tl_model *model, tl_train_memory *memory,
              const tl_train_shape *shape, int64_t step, tl_error *err) {
    agree->mine = (tl_agree_record){0};
    if (shape->shard < TL_SHARD_ZERO3) agree->mine.weights = hash_all(agree, ctx, &model->params, model->flat);
    TRY(compute(&agree->mine.gradient, agree, ctx, comm, model, memory, shape, err));
    TRY(gather(agree, comm, err));
    if (tl__agree_judge(agree->wrong, agree->all, shape->ranks) == 0) {
        agree->agreed_step = step;
        return 0;
    }
    /* Every rank knows by now. Who computes the same thing twice to different bits is wrong, however few there are. */
    TRY(compute(&agree->mine.again, agree, ctx, comm, model, memory, shape, err));
    TRY(gather(agree, comm, err));
    int n = tl__agree_judge(agree->wrong, agree->all, shape->ranks);
    agree->undecided = false;
    for (int r = 1; n < 0 && agree->note && r < shape->ranks; r++)
        agree->undecided |= !same(&agree->all[r].weights, &agree->all[0].weights, sizeof(tl_hash));
    return tell(agree, comm, n, shape->ranks, step, err);
}

/* ---- two ranks' notes ---- */

void tl__agree_note(tl_agree *agree, tl_ctx *ctx, const tl_model *model, int64_t step) {
    const int64_t i = step - agree->agreed_step - 1;
    if (i < 0 || i >= agree->notes) return;
    tl__span_begin(ctx->spans, "note_weights", TL_BUCKET_EVAL);
    tl_hash now = hash_all(agree, ctx, &model->params, model->flat);
    tl__span_end(ctx->spans, 0, (double)model->params.count * sizeof(float), 0, 0, 0);
    if (!agree->replaying) agree->note[i] = now, agree->mine_first = 0;
    else if (!agree->mine_first && !same(&now, &agree->note[i], sizeof now)) agree->mine_first = step;
}

int tl__agree_replayed(tl_agree *agree, tl_comm *comm, int64_t from, int64_t step, tl_error *err) {
    int ranks = tl__comm_size(comm, TL_AXIS_DP), n = 0;
    int64_t earliest = INT64_MAX;
    char who[512];
    tl_ticket ticket;
    TRY(tl__comm_gather_start(comm, TL_AXIS_DP, agree->first, &agree->mine_first, sizeof *agree->first, &ticket, err));
    TRY(tl__comm_wait(comm, ticket, tl__comm_patience(comm), err));
    for (int r = 0; r < ranks; r++)
        if (agree->first[r] > 0 && agree->first[r] < earliest) earliest = agree->first[r];
    for (int r = 0; r < ranks; r++) n += agree->wrong[r] = agree->first[r] == earliest;
    if (n == 0 || n == ranks) return TL_EDIVERGED;
    int first = 0;
    while (!agree->wrong[first]) first++;
    for (agree->speaker = 0; agree->wrong[agree->speaker];) agree->speaker++;
    name_ranks(who, sizeof who, comm, agree->wrong, ranks, n);
    return tl__fail(err, TL_EDIVERGED,
                    "at step %lld %s held other weights than a replay from step %lld gives: its memory or CPU failed "
                    "at step %lld; do not go on with %s before it is tested, and resume without it",
                    (long long)step, who, (long long)from, (long long)earliest, tl__comm_host(comm, first));
}
