/* sampler.c — one token from one row of logits.
 *
 * Candidates come in bands of probability, likeliest first: a band is gathered from the row when the one before is used
 * up, into a heap ordered by (probability descending, id ascending). A peaked distribution over V ids costs V
 * exponentials, two or three passes of comparisons and a handful of steps of a small heap, not a sort. Sums run in
 * double: over the whole vocabulary as `weigh` (ops.h) says, in the order of the heap where candidates were taken out.
 */
#include "infer/sampler.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include "base/elementary.h"
#include "base/error.h"
#include "base/rng.h"

int tl__sampling_check(const tl_sampling *s, tl_error *err) {
    if (!(s->temperature >= 0 && s->temperature <= 1000))
        return tl__fail(err, TL_EINVALID, "temperature is from 0 (always the likeliest token) to 1000, not %g",
                        (double)s->temperature);
    if (s->top_k < 0) return tl__fail(err, TL_EINVALID, "top-k is 0 (off) or a number of tokens, not %d", s->top_k);
    if (!(s->top_p >= 0 && s->top_p <= 1))
        return tl__fail(err, TL_EINVALID, "top-p is above 0 and at most 1 (off), not %g", (double)s->top_p);
    if (!(s->min_p >= 0 && s->min_p <= 1))
        return tl__fail(err, TL_EINVALID, "min-p is from 0 (off) to 1, not %g", (double)s->min_p);
    if (!(s->typical_p >= 0 && s->typical_p <= 1))
        return tl__fail(err, TL_EINVALID, "typical-p is above 0 and at most 1 (off), not %g", (double)s->typical_p);
    if (!(s->repetition_penalty >= 0 && s->repetition_penalty <= 100))
        return tl__fail(err, TL_EINVALID, "the repetition penalty is above 0 and at most 100, 1 being off, not %g",
                        (double)s->repetition_penalty);
    if (!(fabsf(s->presence_penalty) <= 2))
        return tl__fail(err, TL_EINVALID, "the presence penalty is from -2 to 2, 0 being off, not %g",
                        (double)s->presence_penalty);
    if (!(fabsf(s->frequency_penalty) <= 2))
        return tl__fail(err, TL_EINVALID, "the frequency penalty is from -2 to 2, 0 being off, not %g",
                        (double)s->frequency_penalty);
    return 0;
}

static bool repeats_matter(const tl_sampling *s) {
    return s->repetition_penalty != 0 && s->repetition_penalty != 1;
}

bool tl__sampling_penalises(const tl_sampling *s) {
    return repeats_matter(s) || s->presence_penalty != 0 || s->frequency_penalty != 0;
}

/* ---- bias and penalties ---- */

/* z[id] for an id that the answer holds `times` (0: only the prompt does). */
static float penalised(float z, const tl_sampling *s, int32_t times) {
    if (repeats_matter(s)) z = z > 0 ? z / s->repetition_penalty : z * s->repetition_penalty;
    if (times) z -= s->presence_penalty + (float)times * s->frequency_penalty;
    return z;
}

/* In place on z[V]; count[V] need hold nothing. A walk over the ids that were seen, whatever V is. */
static void steer(float *z, int32_t *count, const tl_sampling *s, const tl_steering *t, int V) {
    enum { DONE = -1 };
    for (int i = 0; i < t->n_bias; i++) {
        assert(t->bias[i].id >= 0 && t->bias[i].id < V);
        z[t->bias[i].id] += t->bias[i].bias;
    }
    if (!tl__sampling_penalises(s)) return;
    const int prompt = repeats_matter(s) ? t->n_prompt : 0;
    for (int i = 0; i < prompt; i++) count[t->prompt[i]] = 0;
    for (int i = 0; i < t->n_made; i++) count[t->made[i]] = 0;
    for (int i = 0; i < t->n_made; i++) count[t->made[i]]++;
    for (int pass = 0; pass < 2; pass++) {
        const int32_t *id = pass ? t->prompt : t->made;
        for (int i = 0, n = pass ? prompt : t->n_made; i < n; i++) {
            int32_t *times = &count[id[i]];
            if (*times == DONE) continue;
            z[id[i]] = penalised(z[id[i]], s, *times);
            *times = DONE;
        }
    }
}

/* ---- the likeliest ---- */

enum { STRETCH = 1024, SIDE = 8 };

/* The largest of n ≤ STRETCH, NaNs being none: eight maxima side by side, which no comparison waits for. */
static float stretch_max(const float *z, int n) {
    float top[SIDE];
    for (int k = 0; k < SIDE; k++) top[k] = -INFINITY;
    int at = 0;
    for (; at + SIDE <= n; at += SIDE)
        for (int k = 0; k < SIDE; k++) top[k] = z[at + k] > top[k] ? z[at + k] : top[k];
    for (; at < n; at++) top[0] = z[at] > top[0] ? z[at] : top[0];
    for (int k = 1; k < SIDE; k++) top[0] = top[k] > top[0] ? top[k] : top[0];
    return top[0];
}

static int stretch_of(int i, int V) {
    return V - i < STRETCH ? V - i : STRETCH;
}

/* Where the largest logit is, the first of equals; NaNs are none. A stretch that has a larger one is gone through
 * again.
 */
static int32_t largest(const float *logits, int V) {
    int32_t best = -1;
    for (int i = 0; i < V; i += STRETCH) {
        const int n = stretch_of(i, V);
        const float *z = logits + i;
        if (best >= 0 && !(stretch_max(z, n) > logits[best])) continue;
        for (int k = 0; k < n; k++)
            if (z[k] == z[k] && (best < 0 || z[k] > logits[best])) best = i + k;
    }
    return best < 0 ? 0 : best;
}

/* A short sorted list; most stretches hold nothing above its end. */
int tl__top_logprobs(tl_candidate *top, int k, const float *logits, int V, float log_z) {
    assert(k >= 0 && k <= TL_MOST_ALTERNATIVES);
    int n = 0;
    for (int i = 0; i < V && k > 0; i += STRETCH) {
        const int length = stretch_of(i, V);
        const float *z = logits + i;
        if (n == k && !(stretch_max(z, length) > top[n - 1].logp)) continue;
        for (int j = 0; j < length; j++) {
            if (!(n < k ? z[j] == z[j] : z[j] > top[n - 1].logp)) continue;
            int at = n < k ? n++ : n - 1;
            for (; at > 0 && z[j] > top[at - 1].logp; at--) top[at] = top[at - 1];
            top[at] = (tl_candidate){i + j, z[j]};
        }
    }
    for (int i = 0; i < n; i++) top[i].logp -= log_z;
    return n;
}

/* ---- candidates: a binary heap of ids, the first in order at the top ---- */

typedef struct heap {
    const float *key; /* [V] larger comes first, of equals the smaller id */
    int32_t *id;      /* [n] */
    int n;
} heap;

static bool comes_before(const heap *h, int32_t a, int32_t b) {
    return h->key[a] > h->key[b] || (h->key[a] == h->key[b] && a < b);
}

static void sift_down(heap *h, int i) {
    int32_t moved = h->id[i];
    for (int child; (child = 2 * i + 1) < h->n; i = child) {
        if (child + 1 < h->n && comes_before(h, h->id[child + 1], h->id[child])) child++;
        if (!comes_before(h, h->id[child], moved)) break;
        h->id[i] = h->id[child];
    }
    h->id[i] = moved;
}

static void heapify(heap *h) {
    for (int i = h->n / 2; i-- > 0;) sift_down(h, i);
}

static int32_t take_first(heap *h) {
    int32_t first = h->id[0];
    h->id[0] = h->id[--h->n];
    if (h->n > 1) sift_down(h, 0);
    return first;
}

/* All ids whose p is above 0, in order and as far as asked for. */
typedef struct line {
    const float *p; /* [V] unnormalised probability of an id, the likeliest's being 1 */
    int V;
    float above;    /* what is left has p below it; begins above 1 */
    heap band;      /* the next of them */
    int32_t *order; /* [taken] */
    int taken;
} line;

/* The next band: p in [above/256, above), a lower one where that is empty. */
static void gather(line *l) {
    heap *h = &l->band;
    while (h->n == 0 && l->above > 0) {
        const float below = l->above, from = below > 0x1p-140f ? below * 0x1p-8f : 0x1p-149f;
        for (int i = 0; i < l->V; i += STRETCH) {
            const int n = stretch_of(i, l->V);
            if (!(stretch_max(l->p + i, n) >= from)) continue;
            for (int k = i; k < i + n; k++)
                if (l->p[k] >= from && l->p[k] < below) h->id[h->n++] = k;
        }
        l->above = from > 0x1p-149f ? from : 0;
    }
    heapify(h);
}

/* The i-th candidate, where all before it have been asked for; −1: there are only i. */
static int32_t nth(line *l, int i) {
    if (i < l->taken) return l->order[i];
    if (l->band.n == 0) gather(l);
    if (l->band.n == 0) return -1;
    return l->order[l->taken++] = take_first(&l->band);
}

/* ---- the draw ---- */

/* Of the candidates id[n] those nearest the entropy: −log P_i = log S − l_i with l = (z − max)/T, the entropy is log S
 * − Σ p·l/S, so that their distance is |l_i − Σ p·l/S|. Returns how many are kept; near[V] and id[] are used up.
 * Meister et al. 2023, eq. 6–7. */
static int most_typical(int32_t *kept, const float *p, float *near, int32_t *id, int n, float share, double *total) {
    double sum = 0, mean = 0;
    for (int i = 0; i < n; i++) {
        near[id[i]] = tl__log(p[id[i]]);
        sum += (double)p[id[i]];
        mean += (double)p[id[i]] * (double)near[id[i]];
    }
    mean /= sum;
    for (int i = 0; i < n; i++) near[id[i]] = (float)-fabs((double)near[id[i]] - mean);
    heap h = {near, id, n};
    heapify(&h);
    const double wanted = (double)share * sum;
    int k = 0;
    for (*total = 0; h.n && *total < wanted; k++) {
        kept[k] = take_first(&h);
        *total += (double)p[kept[k]];
    }
    return k;
}

static int32_t draw(const tl_sampling *s, line *l, float *near, double total, int64_t position) {
    /* Each cut keeps a beginning of the line: at most `kept` candidates, those before a share of the sum, those above a
     * floor. */
    const float *p = l->p;
    int kept = l->V;
    int32_t id;
    if (s->top_k > 0 && s->top_k < kept) {
        double sum = 0;
        int n = 0;
        for (; n < s->top_k && (id = nth(l, n)) >= 0; n++) sum += (double)p[id];
        if (n == s->top_k) kept = n, total = sum;
    }
    if (s->top_p > 0 && s->top_p < 1) {
        const double share = (double)s->top_p * total;
        double sum = 0;
        int n = 0;
        for (; n < kept && sum < share && (id = nth(l, n)) >= 0; n++) sum += (double)p[id];
        kept = n, total = sum;
    }
    if (s->min_p > 0) {
        double sum = 0;
        int n = 0;
        for (; n < kept && (id = nth(l, n)) >= 0 && p[id] >= s->min_p; n++) sum += (double)p[id];
        kept = n, total = sum; /* at least one: the first weighs 1 and min_p is at most 1 */
    }
    if (s->typical_p > 0 && s->typical_p < 1) {
        int n = 0;
        if (kept == l->V) /* no cut: in id order, without sorting them all */
            for (int32_t i = 0; i < l->V; i++) l->order[n] = i, n += p[i] > 0;
        else
            while (n < kept && nth(l, n) >= 0) n++;
        l->band.n = n ? most_typical(l->band.id, p, near, l->order, n, s->typical_p, &total) : 0;
        /* These alone are the line now. */
        kept = l->band.n, l->taken = 0, l->above = 0;
        heapify(&l->band);
    }

    double mark = (double)tl__uniform_f32(s->seed, TL_RNG_SAMPLE, 0, (uint64_t)position) * total, sum = 0;
    int32_t last = 0; /* nothing in the row is a number */
    for (int n = 0; n < kept && (id = nth(l, n)) >= 0; n++) {
        last = id;
        if ((sum += (double)p[id]) > mark) break;
    }
    return last; /* the sums of two orders may differ in the last bit: the mark lies at the end of the last candidate */
}

/* ---- what is called ---- */

size_t tl__sampler_bytes(int V) {
    return 4 * (size_t)V * sizeof(int32_t);
}

/* The largest is looked for; weights are made, and gone through once for a band of candidates, likely the only one. */
tl_cost tl__sample_cost(const tl_sampling *s, bool told, int V) {
    const double pass = (double)V * sizeof(float); /* a comparison for each */
    const tl_cost weigh = tl__op_cost(TL_OP_WEIGH, V, 0, 0), loss = tl__op_cost(TL_OP_SOFTMAX_LOSS, 1, V, 0);
    tl_cost cost = {V, pass};
    if (tl__sampling_penalises(s)) cost.bytes += 2 * pass;
    if (s->temperature > 0) cost.flops += weigh.flops + V, cost.bytes += weigh.bytes + pass;
    if (told) cost.flops += loss.flops, cost.bytes += loss.bytes;
    return cost;
}

/* Tokens are drawn by the CPU, which looks at the logits, whatever computes the model. */
static tl_ctx on_cpu(const tl_ctx *ctx) {
    tl_ctx cpu = *ctx;
    if (ctx->device) cpu.ops = ctx->cpu_ops;
    return cpu;
}

int32_t tl__sample(tl_ctx *ctx, const tl_sampling *s, const tl_steering *steering, const float *logits, int V,
                   int64_t position, void *scratch, float *logp) {
    tl_ctx cpu = on_cpu(ctx);
    float *p = scratch, *near = p + V;
    int32_t *order = (int32_t *)(near + V), *band = order + V;
    const float *z = logits;
    if (steering && (steering->n_bias || tl__sampling_penalises(s))) {
        memcpy(p, logits, (size_t)V * sizeof *p);
        steer(p, band, s, steering, V);
        z = p;
    }
    int32_t pick = largest(z, V);
    if (s->temperature > 0) {
        const double total = tl__weigh(&cpu, p, z, z[pick], s->temperature, V);
        line l = {.p = p, .V = V, .above = 2, .band = {p, band, 0}, .order = order};
        pick = draw(s, &l, near, total, position);
    }
    /* With a gradient scale of zero the operator only reads its logits. */
    const tl_loss_form form = {0};
    if (logp) tl__softmax_loss(&cpu, logp, NULL, (float *)(uintptr_t)logits, &pick, &form, 1, V);
    return pick;
}

float tl__log_z(tl_ctx *ctx, const float *logits, int V) {
    const tl_loss_form form = {0};
    const int32_t any = 0;
    tl_ctx cpu = on_cpu(ctx);
    float logp, log_z;
    tl__softmax_loss(&cpu, &logp, &log_z, (float *)(uintptr_t)logits, &any, &form, 1, V);
    return log_z;
}
