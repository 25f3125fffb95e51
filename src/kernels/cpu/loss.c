/* cpu/loss.c — softmax, cross-entropy and its gradient: ref/loss.c to the bit. A row comes from memory once, for its
 * maximum; the passes after it find it in L2. With a gradient wanted, the sum's pass leaves the exponentials in place
 * of the logits, so that each is computed once. */
#include <string.h>
#include "base/elementary.h"
#include "kernels/cpu/cut.h"
#include "kernels/cpu/elementary16.h"

typedef struct loss_job {
    float *logp, *logits;
    const int32_t *target;
    float grad_scale;
    int64_t V;
} loss_job;

/* Four maxima side by side: the order cannot be seen, for a NaN spoils the sum anyway and ±0 are the same to z − m. */
static float row_max(const float *z, int64_t V) {
    const v16 first = v16_set1(z[0]);
    v16 m[4] = {first, first, first, first};
    int64_t v = 0;
    for (; v + 64 <= V; v += 64)
        for (int j = 0; j < 4; j++) m[j] = v16_max(v16_load(z + v + 16 * j), m[j]);
    for (; v + 16 <= V; v += 16) m[0] = v16_max(v16_load(z + v), m[0]);
    if (v < V) {
        const int n = (int)(V - v);
        m[1] = v16_select(m16_first(n), v16_max(v16_load_n(z + v, n), m[1]), m[1]);
    }
    return v16_max_reduce(v16_max(v16_max(m[0], m[1]), v16_max(m[2], m[3])));
}

/* Σ exp(z − m), the exponentials stored over z if asked. */
TL_INLINE float row_exp_sum(float *z, int64_t V, float m, bool store) {
    const v16 top = v16_set1(m);
    v16 lane = v16_zero();
    int64_t v = 0;
    for (; v + 16 <= V; v += 16) {
        v16 e = v16_exp_below(v16_sub(v16_load(z + v), top));
        if (store) v16_store(z + v, e);
        lane = v16_add(lane, e);
    }
    if (v < V) {
        const int n = (int)(V - v);
        v16 e = v16_exp_below(v16_sub(v16_load_n(z + v, n), top));
        if (store) v16_store_n(z + v, e, n);
        lane = v16_select(m16_first(n), v16_add(lane, e), lane);
    }
    return v16_sum(lane);
}

static void softmax_loss_row(void *user, int64_t r, int worker) {
    const loss_job *a = user;
    const int64_t V = a->V;
    const int32_t t = a->target[r];
    float *z = a->logits + r * V;
    if (t < 0) {
        a->logp[r] = 0;
        if (a->grad_scale != 0) memset(z, 0, (size_t)V * sizeof *z);
        return;
    }
    const float m = row_max(z, V), at_target = z[t];
    const bool grad = a->grad_scale != 0;
    const float sum = grad ? row_exp_sum(z, V, m, true) : row_exp_sum(z, V, m, false);
    a->logp[r] = at_target - (m + tl__log(sum));
    if (!grad) return;
    const float k = a->grad_scale / sum, e_target = z[t];
    const v16 k16 = v16_set1(k);
    int64_t v = 0;
    for (; v + 16 <= V; v += 16) v16_store(z + v, v16_mul(v16_load(z + v), k16));
    if (v < V) v16_store_n(z + v, v16_mul(v16_load_n(z + v, (int)(V - v)), k16), (int)(V - v));
    z[t] = __builtin_fmaf(e_target, k, -a->grad_scale);
}

static void softmax_loss(tl_ctx *ctx, float *logp, float *logits, const int32_t *target, float grad_scale, int R,
                         int V) {
    loss_job job = {logp, logits, target, grad_scale, V};
    tl__parallel_for(ctx->pool, R, softmax_loss_row, &job);
}

void TL_NAME(ops_loss)(tl_ops *ops) {
    ops->softmax_loss = softmax_loss;
}
