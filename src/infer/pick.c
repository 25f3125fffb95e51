/* pick.c — from hidden rows to tokens: the rows that matter are gathered, the head multiplies them in one product, and
 * each row of logits gives its token as a function of (its own settings, seed and position) and of nothing else. */
#include <math.h>
#include <string.h>

#include "infer/batcher_parts.h"

/* Whether an id may not come before min_tokens. */
static bool is_end(const tl_batcher *b, const tl_request *r, int32_t id) {
    if (!r->ignore_eos && tl__engine_ends_text(b->engine, id)) return true;
    for (int i = 0; i < r->n_stop_id; i++)
        if (r->stop_id[i] == id) return true;
    return false;
}

/* The logits that are drawn from, where they are not the model's own: a copy in `changed`. */
static const float *change(const tl_batcher *b, const tl_sequence *s, const float *logits, float *changed) {
    const tl_request *r = &s->copy->asked;
    const int V = b->model->arch.V, made = s->usage.completion_tokens;
    if (r->n_bias == 0 && !r->constrain && made >= r->min_tokens) return logits;
    memcpy(changed, logits, (size_t)V * sizeof *changed);
    for (int i = 0; i < r->n_bias; i++) changed[r->bias[i].id] += r->bias[i].bias;
    if (made < r->min_tokens)
        for (int32_t id = 0; id < V; id++)
            if (is_end(b, r, id)) changed[id] = -INFINITY;
    if (r->constrain) r->constrain(r->user, s->token + s->usage.prompt_tokens, made, changed);
    return changed;
}

static float log_probability(tl_ctx *ctx, const float *logits, int32_t id, int V) {
    /* With a gradient scale of zero the operator only reads its logits. */
    const tl_loss_form form = {0};
    float logp;
    tl__softmax_loss(ctx, &logp, NULL, (float *)(uintptr_t)logits, &id, &form, 1, V);
    return logp;
}

/* Whether logit a comes before b: larger, or equal with the smaller id. NaNs come last. */
static bool comes_before(const float *logits, int32_t a, int32_t b) {
    const float x = logits[a], y = logits[b];
    if (x != x || y != y) return x == x || (y != y && a < b);
    return x > y || (x == y && a < b);
}

static void find_alternatives(tl_ctx *ctx, tl_pick *p, const float *logits, int V, int n) {
    p->n_top = 0;
    for (int32_t id = 0; id < V; id++) {
        if (p->n_top == n && !comes_before(logits, id, p->top[n - 1].id)) continue;
        int at = p->n_top < n ? p->n_top++ : n - 1;
        for (; at > 0 && comes_before(logits, id, p->top[at - 1].id); at--) p->top[at] = p->top[at - 1];
        p->top[at].id = id;
    }
    for (int i = 0; i < p->n_top; i++) p->top[i].logp = log_probability(ctx, logits, p->top[i].id, V);
}

typedef struct pick_work {
    tl_batcher *b;
    int first; /* pick of the first row of logits */
} pick_work;

static void pick_one(void *user, int64_t i, int worker) {
    const pick_work *w = user;
    tl_batcher *b = w->b;
    tl_pick *p = &b->pick[w->first + i];
    const tl_request *r = &p->sequence->copy->asked;
    const int V = b->model->arch.V;
    const float *logits = b->acts.logits + i * V;
    int32_t *scratch = (int32_t *)b->scratch + worker * tl_pick_words(V);
    tl_ctx alone = *b->ctx; /* operators inside a task: this thread, its own scratch */
    alone.pool = NULL;
    alone.spans = NULL;
    alone.workspace = tl__workspace(b->ctx, worker);
    alone.workspace_bytes = TL_WORKSPACE_PER_WORKER_BYTES;
    if (p->target >= 0) {
        p->id = p->target;
    } else {
        const float *from = change(b, p->sequence, logits, (float *)(scratch + 2 * (int64_t)V));
        p->id = tl__sample(&alone, &p->sequence->sampling, from, V, p->place, scratch, NULL);
    }
    p->logp = 0;
    p->n_top = 0;
    if (!r->logprobs && p->target < 0) return;
    p->logp = log_probability(&alone, logits, p->id, V);
    if (r->alternatives > 0) find_alternatives(&alone, p, logits, V, r->alternatives);
}

void tl__pick(tl_batcher *b) {
    const int C = b->model->arch.C, most = b->acts.loss_rows;
    for (int first = 0; first < b->n_picks; first += most) {
        const int n = b->n_picks - first < most ? b->n_picks - first : most;
        for (int i = 0; i < n; i++)
            memcpy(b->gathered + (int64_t)i * C, b->acts.hidden + (int64_t)b->pick[first + i].row * C,
                   (size_t)C * sizeof(float));
        tl__model_logits(b->ctx, b->model, b->acts.logits, b->gathered, n);
        tl__parallel_for(b->ctx->pool, n, pick_one, &(pick_work){b, first});
    }
}
