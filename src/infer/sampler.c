/* sampler.c — one token from one row of logits, as a function of (settings, logits, position) and of nothing else.
 *
 * The candidates lie in a heap ordered by (probability descending, id ascending) and are taken out only as far as a cut
 * or the draw needs: a peaked distribution over V ids costs V exponentials and a handful of steps of a heap, not a
 * sort. Sums run in double: in id order over the whole vocabulary, in the order of the heap where candidates were taken
 * out. */
#include "infer/sampler.h"

#include <math.h>
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
    return 0;
}

/* ---- candidates: a binary heap of ids, the first in order at the top ---- */

typedef struct heap {
    const float *p; /* [V] unnormalised probability of an id */
    int32_t *id;    /* [n] */
    int n;
} heap;

static bool comes_before(const heap *h, int32_t a, int32_t b) {
    return h->p[a] > h->p[b] || (h->p[a] == h->p[b] && a < b);
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

static int32_t take_first(heap *h) {
    int32_t first = h->id[0];
    h->id[0] = h->id[--h->n];
    h->id[h->n] = first; /* what was taken out lies behind the heap, first taken last */
    if (h->n > 1) sift_down(h, 0);
    return first;
}

/* ---- the pick ---- */

/* Where the largest logit is, the first of equals; NaNs are none. Eight maxima side by side, which no comparison waits
 * for, over a stretch; a stretch that has a larger one is gone through again. */
static int32_t largest(const float *logits, int V) {
    enum { STRETCH = 1024, SIDE = 8 };
    int32_t best = -1;
    for (int i = 0; i < V; i += STRETCH) {
        const int n = V - i < STRETCH ? V - i : STRETCH;
        const float *z = logits + i;
        float top[SIDE];
        for (int k = 0; k < SIDE; k++) top[k] = -INFINITY;
        int at = 0;
        for (; at + SIDE <= n; at += SIDE)
            for (int k = 0; k < SIDE; k++) top[k] = z[at + k] > top[k] ? z[at + k] : top[k];
        for (; at < n; at++) top[0] = z[at] > top[0] ? z[at] : top[0];
        for (int k = 1; k < SIDE; k++) top[0] = top[k] > top[0] ? top[k] : top[0];
        if (best >= 0 && !(top[0] > logits[best])) continue;
        for (int k = 0; k < n; k++)
            if (z[k] == z[k] && (best < 0 || z[k] > logits[best])) best = i + k;
    }
    return best < 0 ? 0 : best;
}

/* p[i] = exp((z_i − max)/temperature): the first candidate's is exactly 1. Returns Σ p in id order. */
static double weigh(float *p, const float *logits, int V, float max, float temperature) {
    double total = 0;
    for (int i = 0; i < V; i++) {
        float z = logits[i];
        p[i] = z == max ? 1.0f : z < max ? tl__exp((z - max) / temperature) : 0.0f;
        total += (double)p[i];
    }
    return total;
}

static int32_t draw(const tl_sampling *s, const float *logits, int V, int64_t position, void *scratch) {
    int32_t *id = scratch;
    float *p = (float *)(id + V);
    double total = weigh(p, logits, V, logits[largest(logits, V)], s->temperature);
    heap h = {p, id, 0};
    for (int32_t i = 0; i < V; i++)
        if (p[i] > 0) id[h.n++] = i;
    if (h.n == 0) return 0; /* nothing in the row is a number */
    for (int i = h.n / 2; i-- > 0;) sift_down(&h, i);

    /* Each cut keeps a beginning of the order: at most `kept` candidates, those before a share of the sum, those above
     * a floor. */
    int candidates = h.n, taken = 0;
    bool cut = false;
    if (s->top_k > 0 && s->top_k < candidates) {
        cut = true;
        total = 0;
        while (taken < s->top_k) total += (double)p[take_first(&h)], taken++;
    }
    const int32_t *order = id + candidates - 1; /* order[−i]: the i-th taken out */
    int kept = cut ? taken : candidates;
    if (s->top_p > 0 && s->top_p < 1) {
        double share = (double)s->top_p * total, sum = 0;
        int n = 0;
        while (n < kept && sum < share) {
            if (n == taken) take_first(&h), taken++;
            sum += (double)p[order[-n]];
            n++;
        }
        kept = n;
        total = sum;
    }
    if (s->min_p > 0) {
        double sum = 0;
        int n = 0;
        while (n < kept) {
            if (n == taken) take_first(&h), taken++;
            if (p[order[-n]] < s->min_p) break;
            sum += (double)p[order[-n]];
            n++;
        }
        kept = n; /* at least one: the first weighs 1 and min_p is at most 1 */
        total = sum;
    }

    double mark = (double)tl__uniform_f32(s->seed, TL_RNG_SAMPLE, 0, (uint64_t)position) * total, sum = 0;
    for (int n = 0; n < kept; n++) {
        if (n == taken) take_first(&h), taken++;
        sum += (double)p[order[-n]];
        if (sum > mark) return order[-n];
    }
    /* The sums of two orders may differ in the last bit: the mark lies at the end of the last candidate. */
    return order[-(kept - 1)];
}

int32_t tl__sample(tl_ctx *ctx, const tl_sampling *s, const float *logits, int V, int64_t position, void *scratch,
                   float *logp) {
    int32_t pick = s->temperature == 0 ? largest(logits, V) : draw(s, logits, V, position, scratch);
    /* With a gradient scale of zero the operator only reads its logits. */
    const tl_loss_form form = {0};
    if (logp) tl__softmax_loss(ctx, logp, NULL, (float *)(uintptr_t)logits, &pick, &form, 1, V);
    return pick;
}
