/* loss.cu — softmax, cross-entropy, z-loss and their gradient over rows of logits: ref/loss.c to the bit. The weights of
 * a draw stay the CPU's, where tokens are drawn.
 *
 * Bound by memory for many rows: a row of a large vocabulary is longer than what a multiprocessor keeps, and passes by
 * three times (its maximum, its sum, its gradient), 20 bytes a logit, or 8 without the gradient. With one, the sum's
 * pass leaves the exponentials in place of the logits, so that each is computed once; under a soft-cap the first pass
 * leaves the tanh, which every later one needs. */
#include "kernels/cuda/rows.h"

template <bool CAP>
__global__ void __launch_bounds__(TL_ROW_THREADS, 4) loss_rows(float *logp, float *logz, float *logits, const int32_t *target, float grad_scale, float z_coef, float cap, int R,
                          int V) {
    __shared__ tl_row_memory<float, float> memory;
    __shared__ float warps[TL_ROW_THREADS / 32];
    const int64_t r = tl__row();
    const bool grad = grad_scale != 0;
    const int32_t t = r < R ? target[r] : -1;
    float *x = logits + r * V;
    const int n = t < 0 ? 0 : V;
    const float inverse = CAP ? 1.0f / cap : 0.0f;
    const auto tanh_of = [&](float v) { return tl__tanh(v * inverse); };
    if (r < R && t < 0) { /* ignored */
        if (threadIdx.x == 0) {
            logp[r] = 0;
            if (logz) logz[r] = 0;
        }
        if (grad)
            for (int v = (int)threadIdx.x; v < V; v += (int)blockDim.x) x[v] = 0;
    }
    const float of_target = !n ? 0.0f : CAP ? cap * tanh_of(x[t]) : x[t];
    __syncthreads(); /* the target is read: logits may be written */

    float top = -INFINITY; /* no NaN: it shows in the sum */
    tl__row_each(
        n, [&](int64_t v) { return CAP ? tanh_of(x[v]) : x[v]; },
        [&](int64_t v, float at) {
            if (CAP && grad) x[v] = at;
            const float z = CAP ? cap * at : at;
            top = z > top ? z : top;
        });
    top = tl__row_max(warps, top);
    const float sum = tl__row_sum(
        memory, n, [&](int64_t v) { return tl__exp((CAP ? cap * (grad ? x[v] : tanh_of(x[v])) : x[v]) - top); },
        [&](int64_t v, float e) {
            if (!CAP && grad) x[v] = e;
        },
        [](float lane, float e) { return lane + e; });
    if (!n) return;

    const float log_z = top + tl__log(sum);
    if (threadIdx.x == 0) {
        logp[r] = of_target - log_z;
        if (logz) logz[r] = log_z;
    }
    if (!grad) return;
    const float k = grad_scale * fmaf(2.0f * z_coef, log_z, 1.0f) / sum;
    tl__row_each(
        n, [&](int64_t v) { return x[v]; },
        [&](int64_t v, float at) {
            const float e = CAP ? tl__exp(cap * at - top) : at, d = v == t ? fmaf(e, k, -grad_scale) : e * k;
            x[v] = CAP ? d * fmaf(-at, at, 1.0f) : d;
        });
}

static void cuda_softmax_loss(tl_ctx *ctx, float *logp, float *logz, float *logits, const int32_t *target, const tl_loss_form *form, int R,
                              int V) {
    if (R <= 0) return;
    if (form->softcap != 0)
        TL_LAUNCH((loss_rows<true>), tl__row_grid(R, V), tl__row_block(V), 0, logp, logz, logits, target, form->grad_scale, form->z_coef,
                  form->softcap, R, V);
    else
        TL_LAUNCH((loss_rows<false>), tl__row_grid(R, V), tl__row_block(V), 0, logp, logz, logits, target, form->grad_scale, form->z_coef, 0.0f,
                  R, V);
    tl__cuda_wait("softmax_loss");
}

void tl__cuda_loss(tl_ops *ops) {
    ops->softmax_loss = cuda_softmax_loss;
}
