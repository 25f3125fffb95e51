/* pick.c — from hidden rows to tokens: the rows that matter are gathered, the head multiplies them in one product, and
 * each row of logits gives its token as a function of (its own settings, seed and position) and of nothing else. */
#include <math.h>
#include <string.h>

#include "infer/batcher_parts.h"

bool tl__ends(const tl_batcher *b, const tl_request *r, int32_t id) {
    if (!r->ignore_eos && tl__engine_ends_text(b->engine, id)) return true;
    for (int i = 0; i < r->n_stop_id; i++)
        if (r->stop_id[i] == id) return true;
    return false;
}

/* What was thought before a place, the tokens proposed before it included. */
static tl_thought thought_at(const tl_sequence *s, int place) {
    tl_thought so_far = s->thought;
    for (int i = s->n; i < place; i++) tl__thinking_read(&s->copy->asked.thinking, &so_far, s->token[i]);
    return so_far;
}

/* What may not be drawn here. */
static void mask(const tl_batcher *b, const tl_request *r, const tl_thought *thought, const int32_t *made, int n_made,
                 float *logits) {
    const int32_t barred = tl__thinking_barred(&r->thinking, thought);
    if (barred >= 0) logits[barred] = -INFINITY;
    if (n_made < r->min_tokens || tl__thinking_goes_on(&r->thinking, thought)) {
        int32_t end[2];
        for (int i = r->ignore_eos ? 0 : tl__engine_ends(b->engine, end); i-- > 0;) logits[end[i]] = -INFINITY;
        for (int i = 0; i < r->n_stop_id; i++) logits[r->stop_id[i]] = -INFINITY;
    }
    if (r->constrain) r->constrain(r->user, made, n_made, logits);
}

typedef struct pick_work {
    tl_batcher *b;
    const tl_head *head;
    bool guess;
    int first; /* pick of the first row of logits */
} pick_work;

/* Whether log-probabilities are told of a pick. */
static bool is_told(const tl_pick *p, bool guess) {
    return !guess && (p->sequence->copy->asked.logprobs || p->target >= 0);
}

static void pick_one(void *user, int64_t i, int worker) {
    const pick_work *w = user;
    tl_batcher *b = w->b;
    tl_pick *p = &b->pick[w->first + i];
    const tl_request *r = &p->sequence->copy->asked;
    const int V = b->model->arch.V;
    float *logits = w->head->acts->logits + i * V;
    tl_ctx alone = *w->head->ctx; /* operators inside a task: this thread, its own scratch */
    alone.pool = NULL;
    alone.spans = NULL;
    alone.workspace = tl__workspace(b->ctx, worker);
    alone.workspace_bytes = TL_WORKSPACE_PER_WORKER_BYTES;
    /* What the model says comes first: a masked row is no longer its own. */
    const bool told = is_told(p, w->guess);
    const float log_z = told ? tl__log_z(&alone, logits, V) : 0;
    p->n_top = told ? tl__top_logprobs(p->top, r->alternatives, logits, V, log_z) : 0;
    p->id = p->target;
    const tl_thought thought = thought_at(p->sequence, p->place);
    if (p->id < 0) p->id = tl__thinking_forced(&r->thinking, &thought);
    if (p->id < 0) {
        const int prompt = p->sequence->usage.prompt_tokens;
        const int32_t *token = p->sequence->token;
        const tl_steering steering = {r->bias, r->n_bias, prompt, p->place - prompt, token, token + prompt};
        mask(b, r, &thought, steering.made, steering.n_made, logits);
        p->id = tl__sample(&alone, &p->sequence->sampling, &steering, logits, V, p->place,
                           b->scratch + (size_t)worker * tl__sampler_bytes(V), NULL);
    }
    p->logp = told ? logits[p->id] - log_z : 0;
}

void tl__pick(tl_batcher *b, const tl_head *h, bool guess) {
    const int C = h->model->arch.C, most = h->acts->loss_rows;
    for (int first = 0; first < b->n_picks; first += most) {
        const int n = b->n_picks - first < most ? b->n_picks - first : most;
        for (int i = 0; i < n; i++)
            memcpy(h->gathered + (int64_t)i * C, h->acts->hidden + (int64_t)b->pick[first + i].row * C,
                   (size_t)C * sizeof(float));
        tl__model_logits(h->ctx, h->model, h->acts->logits, h->gathered, n);
        tl__span_begin(h->ctx->spans, "sample", TL_BUCKET_SAMPLE);
        tl__parallel_for(h->ctx->pool, n, pick_one, &(pick_work){b, h, guess, first});
        tl_cost cost = {0, 0};
        for (int i = 0; h->ctx->spans && i < n; i++) {
            const tl_pick *p = &b->pick[first + i];
            const tl_cost one = tl__sample_cost(&p->sequence->sampling, is_told(p, guess), h->model->arch.V);
            cost.flops += one.flops, cost.bytes += one.bytes;
        }
        tl__span_end(h->ctx->spans, cost.flops, cost.bytes, n, h->model->arch.V, 0);
    }
}
