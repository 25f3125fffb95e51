/* traffic.c — owns the course of a step between engine and link: which exchanges begin when, and what is left of them
 * when the engine has nothing else to do. The walk is that of train/step.c, without its arithmetic. What an update
 * sends is waited for in the step after it: two steps are walked, and the second is told of. */
#include "plan/traffic.h"

#include <math.h>
#include <stdlib.h>

#include "comm/cost.h"

/* Where blocks pass through: what lies in a slot, and when its exchange is over. */
typedef struct slot {
    int block, round; /* block −1: nothing */
    bool sent;
    double over;
} slot;

/* Times are the link's: seconds in which it carries at its measured pace, as it does while the engine waits. While the
 * engine computes it may carry less, and this clock goes slower. Exchanges of different owners overlap: each rank has
 * its own way in and way out, a half of the measured bandwidth each, since that was measured while every rank did both.
 */
typedef struct course {
    const tl_train_shape *shape;
    const tl_machine *machine;
    const tl_train_pace *pace;
    const struct places *places;
    tl_train_traffic *sum;
    double now;
    double beside;         /* seconds of the link in one of computing */
    double *way;           /* [2 · ranks] free from here on: out of rank r, into rank r */
    double last;           /* when all that was started is over */
    double *spread;        /* [L + 2] when the weights that the last update sent of a block are here */
    double counted;        /* when the step's tokens are */
    int round;             /* of the rank's leaves */
    bool gathers, streams; /* weights (zero3), gradients (exchange.h) */
    slot weight[TL_SLOTS], gradient[TL_SLOTS];
} course;

static void compute(course *c, double seconds) {
    double passes = seconds * c->beside;
    c->sum->seconds += fmin(passes, fmax(0, c->last - c->now)) / c->beside;
    c->now += passes;
}

/* When it will be over. */
static double start(course *c, tl_collective kind, int64_t n, int root) {
    int ranks = c->shape->ranks;
    double rate = c->machine->link_bytes_per_second / 2;
    double ready = c->now + c->machine->link_latency_seconds, over = ready;
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
    if (!(rate > 0)) return c->now;
    c->last = fmax(c->last, over);
    return over;
}

static void wait_until(course *c, double over) {
    if (over <= c->now) return;
    c->sum->exposed_seconds += over - c->now;
    c->sum->seconds += over - c->now;
    c->now = over;
}

static void sum_f64(course *c, int64_t n) {
    wait_until(c, start(c, TL_COLLECTIVE_SUM_F64, n, 0));
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

/* Exchange each run of a block's neighbours that have one owner; when the last is over. */
static double start_runs(course *c, tl_collective kind, int block) {
    const places *p = c->places;
    int64_t unit = kind == TL_COLLECTIVE_BROADCAST ? (int64_t)sizeof(float) : 1;
    double over = c->now;
    int i, end;
    tl__param_block(&i, &end, &p->params, p->L, block);
    for (int j; i < end; i = j) {
        j = run_end(p, i, end);
        over = fmax(over, start(c, kind, elements(p, i, j) * unit, p->owner[i]));
    }
    return over;
}

/* ---- as exchange.c has them ---- */

static void gather(course *c, int block) {
    slot *s = &c->weight[tl__block_slot(block, c->places->L)];
    wait_until(c, s->over);
    s->block = block;
    s->over = start_runs(c, TL_COLLECTIVE_BROADCAST, block);
}

static void need(course *c, int block, int next) {
    int L = c->places->L;
    wait_until(c, c->spread[block]); /* 0 but under zero1 and zero2 */
    if (!c->gathers) return;
    slot *s = &c->weight[tl__block_slot(block, L)];
    if (s->block != block) gather(c, block);
    wait_until(c, s->over);
    if (next >= 0 && c->weight[tl__block_slot(next, L)].block != next) gather(c, next);
}

static void collect(course *c, slot *s) {
    if (!s->sent) return;
    wait_until(c, s->over);
    *s = (slot){.block = -1};
}

/* Room for a block's gradient. */
static void room(course *c, int block) {
    if (!c->streams) return;
    slot *s = &c->gradient[tl__block_slot(block, c->places->L)];
    if (s->block == block && s->round == c->round && !s->sent) return;
    collect(c, s);
    *s = (slot){.block = block, .round = c->round};
}

/* A block's gradient is complete: to all, or to its owners. */
static void finish_block(course *c, int block) {
    const places *p = c->places;
    int i, end;
    if (c->streams) {
        slot *s = &c->gradient[tl__block_slot(block, p->L)];
        s->over = start_runs(c, TL_COLLECTIVE_REDUCE, block);
        s->sent = true;
        return;
    }
    tl__param_block(&i, &end, &p->params, p->L, block);
    if (c->shape->shard != TL_SHARD_NONE) start_runs(c, TL_COLLECTIVE_REDUCE, block);
    else if (i < end) start(c, TL_COLLECTIVE_SUM, elements(p, i, end), 0);
}

/* ---- as model.c and step.c have them ---- */

/* One micro-batch, or where `idle` only what it asks for. send: its leaf's blocks are complete with it. */
static void pass(course *c, bool idle, bool send, int head_block) {
    const tl_train_pace *pace = c->pace;
    int L = c->places->L;
    for (int b = 0; b <= L + 1; b++) {
        need(c, b, b <= L ? b + 1 : -1);
        if (!idle && b > L) wait_until(c, c->counted); /* before the loss */
        if (!idle) compute(c, pace->forward[b]);
    }
    need(c, head_block, -1);
    if (!idle) room(c, head_block);
    for (int b = L + 1; b >= 1; b--) {
        need(c, b, b > 1 ? b - 1 : -1);
        if (idle) continue;
        room(c, b);
        compute(c, pace->backward[b]);
        if (send) finish_block(c, b);
    }
    if (idle) return;
    room(c, 0);
    compute(c, pace->backward[0]);
    if (send) finish_block(c, 0);
}

static void walk_gradient(course *c, const tl_arch *arch) {
    const tl_train_shape *s = c->shape;
    tl_train_shape most = *s;
    most.rank = 0;
    int leaves = tl__train_leaves(s), leaf = s->batch / s->leaves, head_block = arch->tied ? 0 : arch->L + 1;
    for (int i = leaves; c->gathers && i < tl__train_leaves(&most); i++)
        for (int at = 0; at < leaf; at += s->micro_batch) pass(c, true, false, head_block);
    for (c->round = 0; c->round < leaves; c->round++)
        for (int at = 0; at < leaf; at += s->micro_batch)
            pass(c, false, at + s->micro_batch >= leaf && (c->streams || c->round + 1 == leaves), head_block);
    wait_until(c, c->last);
}

/* Owners update, block by block, and each run goes to all as soon as it is done: a rank has its part of the update. */
static void update(course *c) {
    const places *p = c->places;
    bool spreads = c->shape->shard == TL_SHARD_ZERO1 || c->shape->shard == TL_SHARD_ZERO2;
    double a_parameter = c->pace->update / (double)p->params.count;
    if (c->shape->shard != TL_SHARD_NONE) a_parameter /= c->shape->ranks;
    for (int b = 0, i, end; b < p->L + 2; b++) {
        tl__param_block(&i, &end, &p->params, p->L, b);
        if (i == end) continue;
        compute(c, a_parameter * (double)elements(p, i, end));
        if (spreads) c->spread[b] = start_runs(c, TL_COLLECTIVE_BROADCAST, b);
    }
}

static void walk(course *c, const tl_arch *arch) {
    const tl_train_shape *s = c->shape;
    for (int i = 0; i < TL_SLOTS; i++) c->weight[i] = c->gradient[i] = (slot){.block = -1};
    start(c, TL_COLLECTIVE_SUM_F64, 2, 0); /* whether to stop, and whose checkpoint is written; waited for at the end */
    c->counted = start(c, TL_COLLECTIVE_SUM_F64, 1, 0);
    walk_gradient(c, arch);
    sum_f64(c, (int64_t)s->leaves * (TL_LEAF_LOAD + tl__moe_layers(arch)));
    sum_f64(c, c->places->params.n); /* of the gradient's norm */
    update(c);
}

int tl__traffic_predict(tl_train_traffic *out, const tl_arch *arch, const tl_train_shape *shape,
                        const tl_machine *machine, const tl_train_pace *pace, tl_error *err) {
    *out = (tl_train_traffic){0};
    if (shape->ranks < 2) return 0;
    places p = {.L = arch->L};
    course c = {.shape = shape,
                .machine = machine,
                .pace = pace,
                .places = &p,
                .sum = out,
                .beside = machine->link_beside_computing > 0 ? machine->link_beside_computing : 1,
                .gathers = shape->shard == TL_SHARD_ZERO3,
                .streams = tl__train_streams(shape)};
    TRY(tl__params_make(&p.params, arch, err));
    p.owner = calloc((size_t)p.params.n, sizeof *p.owner);
    c.way = calloc(2 * (size_t)shape->ranks, sizeof *c.way);
    c.spread = calloc((size_t)arch->L + 2, sizeof *c.spread);
    int status =
        p.owner && c.way && c.spread ? 0 : tl__fail(err, TL_ENOMEM, "no memory to predict what ranks exchange");
    if (!status) {
        tl__shard_owners(p.owner, &p.params, arch->L, shape->ranks);
        walk(&c, arch);
        *out = (tl_train_traffic){0};
        walk(&c, arch);
    }
    free(p.owner), free(c.way), free(c.spread);
    tl__params_free(&p.params);
    return status;
}
