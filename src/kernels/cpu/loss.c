/* cpu/loss.c — softmax, cross-entropy, z-loss and their gradient, and the weights of a draw: ref/loss.c to the bit. A
 * row comes from memory once, for its maximum; the passes after it find it in L2. With a gradient wanted, the sum's
 * pass leaves the exponentials in place of the logits, so that each is computed once; under a soft-cap the first pass
 * leaves the tanh, which every later one needs. */
#include <math.h>
#include <string.h>
#include "base/elementary.h"
#include "kernels/cpu/cut.h"
#include "kernels/cpu/elementary16.h"

typedef struct loss_job {
    float *logp, *logz, *logits;
    const int32_t *target;
    tl_loss_form form;
    float inverse_cap;
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

/* The same under a soft-cap: z = cap·t, t = tanh(x/cap). x holds t already, or still the logits (`raw`). */
TL_INLINE v16 capped(v16 x, const loss_job *a, bool raw) {
    return v16_mul(v16_set1(a->form.softcap), raw ? v16_tanh(v16_mul(x, v16_set1(a->inverse_cap))) : x);
}

/* Maximum of z; `keep`: t is left in place of the logits. */
TL_INLINE float row_max_capped(const loss_job *a, float *x, bool keep) {
    const v16 inverse = v16_set1(a->inverse_cap), cap = v16_set1(a->form.softcap);
    v16 m = v16_set1(-INFINITY);
    for (int64_t v = 0; v < a->V; v += 16) {
        const int n = (int)tl_least(16, a->V - v);
        const v16 t = v16_tanh(v16_mul(v16_load_n(x + v, n), inverse));
        if (keep) v16_store_n(x + v, t, n);
        m = v16_select(m16_first(n), v16_max(v16_mul(cap, t), m), m);
    }
    return v16_max_reduce(m);
}

TL_INLINE float row_exp_sum_capped(const loss_job *a, const float *x, float m, bool raw) {
    v16 lane = v16_zero();
    for (int64_t v = 0; v < a->V; v += 16) {
        const int n = (int)tl_least(16, a->V - v);
        const v16 e = v16_exp_below(v16_sub(capped(v16_load_n(x + v, n), a, raw), v16_set1(m)));
        lane = v16_select(m16_first(n), v16_add(lane, e), lane);
    }
    return v16_sum(lane);
}

/* t in x → the gradient. k: what an exponential is multiplied by. */
static void row_gradient_capped(const loss_job *a, float *x, float m, float k, int32_t target) {
    const v16 one = v16_set1(1.0f), k16 = v16_set1(k), top = v16_set1(m);
    const float t = x[target];
    for (int64_t v = 0; v < a->V; v += 16) {
        const int n = (int)tl_least(16, a->V - v);
        const v16 y = v16_load_n(x + v, n), e = v16_exp_below(v16_sub(capped(y, a, false), top));
        v16_store_n(x + v, v16_mul(v16_mul(e, k16), v16_fnma(y, y, one)), n);
    }
    const float e = tl__exp(a->form.softcap * t - m);
    x[target] = __builtin_fmaf(e, k, -a->form.grad_scale) * __builtin_fmaf(-t, t, 1.0f);
}

static void softmax_loss_row(void *user, int64_t r, int worker) {
    const loss_job *a = user;
    const int64_t V = a->V;
    const int32_t t = a->target[r];
    float *z = a->logits + r * V;
    const bool grad = a->form.grad_scale != 0, cap = a->form.softcap != 0;
    if (t < 0) {
        a->logp[r] = 0;
        if (a->logz) a->logz[r] = 0;
        if (grad) memset(z, 0, (size_t)V * sizeof *z);
        return;
    }
    const float x_target = z[t];
    float m, sum, z_target = x_target;
    if (cap) {
        z_target = a->form.softcap * tl__tanh(x_target * a->inverse_cap);
        m = grad ? row_max_capped(a, z, true) : row_max_capped(a, z, false);
        sum = grad ? row_exp_sum_capped(a, z, m, false) : row_exp_sum_capped(a, z, m, true);
    } else {
        m = row_max(z, V);
        sum = grad ? row_exp_sum(z, V, m, true) : row_exp_sum(z, V, m, false);
    }
    const float log_z = m + tl__log(sum);
    a->logp[r] = z_target - log_z;
    if (a->logz) a->logz[r] = log_z;
    if (!grad) return;
    const float k = a->form.grad_scale * __builtin_fmaf(2.0f * a->form.z_coef, log_z, 1.0f) / sum;
    if (cap) {
        row_gradient_capped(a, z, m, k, t);
        return;
    }
    const float e_target = z[t];
    const v16 k16 = v16_set1(k);
    int64_t v = 0;
    for (; v + 16 <= V; v += 16) v16_store(z + v, v16_mul(v16_load(z + v), k16));
    if (v < V) v16_store_n(z + v, v16_mul(v16_load_n(z + v, (int)(V - v)), k16), (int)(V - v));
    z[t] = __builtin_fmaf(e_target, k, -a->form.grad_scale);
}

static void softmax_loss(tl_ctx *ctx, float *logp, float *logz, float *logits, const int32_t *target,
                         const tl_loss_form *form, int R, int V) {
    loss_job job = {logp, logz, logits, target, *form, form->softcap != 0 ? 1.0f / form->softcap : 0, V};
    tl__parallel_for(ctx->pool, R, softmax_loss_row, &job);
}

TL_INLINE v16 weight(v16 z, v16 m, v16 temperature) {
    const v16 e = v16_exp_below(v16_div(v16_sub(z, m), temperature));
    return v16_select(v16_eq(z, m), v16_set1(1.0f), v16_keep(v16_lt(z, m), e));
}

static double weigh(tl_ctx *ctx, float *p, const float *z, float m, float temperature, int n) {
    const v16 top = v16_set1(m), t = v16_set1(temperature);
    d16 lane = d16_zero();
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        const v16 w = weight(v16_load(z + i), top, t);
        v16_store(p + i, w);
        lane = d16_add(lane, d16_from(w));
    }
    if (i < n) {
        const v16 w = v16_keep(m16_first(n - i), weight(v16_load_n(z + i, n - i), top, t));
        v16_store_n(p + i, w, n - i);
        lane = d16_add(lane, d16_from(w));
    }
    return d16_sum(lane);
}

void TL_NAME(ops_loss)(tl_ops *ops) {
    ops->softmax_loss = softmax_loss;
    ops->weigh = weigh;
}
