/* traffic.c — owns the course of a step between engine and link: which exchanges begin when, and what is left of them
 * when the engine has nothing else to do. The walk is that of train/step.c, without its arithmetic. */
#include "plan/traffic.h"

#include <math.h>
#include <stdlib.h>

#include "comm/cost.h"

/* Times are seconds since the step began. Exchanges of different owners overlap: each rank has its own way in and way
 * out, a half of the measured bandwidth each, since that was measured while every rank did both. */
typedef struct course {
    const tl_train_shape *shape;
    const tl_machine *machine;
    tl_train_traffic *sum;
    double engine;    /* the engine is here */
    double *way;      /* [2 · ranks] free from here on: out of rank r, into rank r */
    double last;      /* when all that was started is over */
    double under_way; /* until here the seconds of exchanges are counted */
} course;

static void compute(course *c, double seconds) {
    c->engine += seconds;
}

static void start(course *c, tl_collective kind, int64_t n, int root) {
    int ranks = c->shape->ranks;
    double rate = c->machine->link_bytes_per_second / 2;
    double ready = c->engine + c->machine->link_latency_seconds, over = ready;
    c->sum->exchanges++;
    for (int r = 0; r < ranks; r++) {
        tl_comm_cost cost = tl__comm_cost(kind, n, ranks, r, root);
        if (r == c->shape->rank) c->sum->bytes += cost.sent_bytes + cost.received_bytes;
        if (!(rate > 0)) continue;
        double *out = &c->way[2 * r], *in = &c->way[2 * r + 1];
        *out = fmax(*out, ready) + cost.sent_bytes / rate;
        *in = fmax(*in, ready) + cost.received_bytes / rate;
        over = fmax(over, fmax(*out, *in));
    }
    if (!(rate > 0)) return;
    c->sum->seconds += fmax(0, over - fmax(c->under_way, c->engine));
    c->under_way = fmax(c->under_way, over);
    c->last = fmax(c->last, over);
}

static void wait_all(course *c) {
    if (c->last > c->engine) {
        c->sum->exposed_seconds += c->last - c->engine;
        c->engine = c->last;
    }
}

static void sum_f64(course *c, int64_t n) {
    start(c, TL_COLLECTIVE_SUM_F64, n, 0);
    wait_all(c);
}

typedef struct places {
    tl_params params;
    int *owner;
    int L;
} places;

static int64_t elements(const places *p, int first, int end) {
    return p->params.list[end - 1].offset + p->params.list[end - 1].count - p->params.list[first].offset;
}

static int run_end(const places *p, int i, int end) {
    int j = i + 1;
    while (j < end && p->owner[j] == p->owner[i]) j++;
    return j;
}

/* A block's gradient is complete: to all, or to its owners. */
static void send_gradient(course *c, const places *p, int block) {
    int i, end;
    tl__param_block(&i, &end, &p->params, p->L, block);
    if (i == end) return;
    if (c->shape->shard == TL_SHARD_NONE) {
        start(c, TL_COLLECTIVE_SUM, elements(p, i, end), 0);
        return;
    }
    for (int j; i < end; i = j) {
        j = run_end(p, i, end);
        start(c, TL_COLLECTIVE_REDUCE, elements(p, i, j), p->owner[i]);
    }
}

/* Owners update, block by block, and each run goes to all as soon as it is done: a rank has its part of the update. */
static void spread_weights(course *c, const places *p, double update) {
    double a_parameter = update / (double)p->params.count / c->shape->ranks;
    for (int b = 0, i, end; b < p->L + 2; b++) {
        tl__param_block(&i, &end, &p->params, p->L, b);
        for (int j; i < end; i = j) {
            j = run_end(p, i, end);
            compute(c, a_parameter * (double)elements(p, i, j));
            start(c, TL_COLLECTIVE_BROADCAST, elements(p, i, j) * (int64_t)sizeof(float), p->owner[i]);
        }
    }
    wait_all(c);
}

static void walk(course *c, const places *p, const tl_arch *arch, const tl_train_pace *pace) {
    const tl_train_shape *s = c->shape;
    int leaves = tl__train_leaves(s);
    double passes = ceil((double)(s->batch / s->leaves) / s->micro_batch) * leaves, forward = 0, backward = 0;
    for (int b = 0; b < p->L + 2; b++) forward += pace->forward[b], backward += pace->backward[b];
    start(c, TL_COLLECTIVE_SUM_F64, 1, 0); /* whether to stop; waited for at the end */
    sum_f64(c, 1);                         /* the step's tokens */
    compute(c, passes * forward + (passes - 1) * backward);
    for (int b = p->L + 1; b >= 0; b--) {
        compute(c, pace->backward[b]);
        send_gradient(c, p, b);
    }
    wait_all(c);
    sum_f64(c, (int64_t)s->leaves * (TL_LEAF_LOAD + tl__moe_layers(arch)));
    sum_f64(c, p->params.n); /* of the gradient's norm */
    if (s->shard != TL_SHARD_NONE) spread_weights(c, p, pace->update);
}

int tl__traffic_predict(tl_train_traffic *out, const tl_arch *arch, const tl_train_shape *shape,
                        const tl_machine *machine, const tl_train_pace *pace, tl_error *err) {
    *out = (tl_train_traffic){0};
    if (shape->ranks < 2) return 0;
    places p = {.L = arch->L};
    course c = {.shape = shape, .machine = machine, .sum = out};
    TRY(tl__params_make(&p.params, arch, err));
    p.owner = calloc((size_t)p.params.n, sizeof *p.owner);
    c.way = calloc(2 * (size_t)shape->ranks, sizeof *c.way);
    int status = p.owner && c.way ? 0 : tl__fail(err, TL_ENOMEM, "no memory to predict what ranks exchange");
    if (!status) {
        tl__shard_owners(p.owner, &p.params, arch->L, shape->ranks);
        walk(&c, &p, arch, pace);
    }
    free(p.owner), free(c.way);
    tl__params_free(&p.params);
    return status;
}
