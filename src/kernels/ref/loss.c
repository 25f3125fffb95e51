/* ref/loss.c — softmax, cross-entropy and its gradient over rows of logits, in the contract's order. */
#include "kernels/ref/real.h"

static void ref_softmax_loss(tl_ctx *ctx, real *logp, real *logits, const int32_t *target, real grad_scale, int R,
                             int V) {
    for (int64_t r = 0; r < R; r++) {
        real *z = logits + r * V;
        const int32_t t = target[r];
        if (t < 0) {
            logp[r] = 0;
            if (grad_scale != 0)
                for (int64_t v = 0; v < V; v++) z[v] = 0;
            continue;
        }
        real m = z[0], lane[TL_LANES] = {0};
        for (int64_t v = 1; v < V; v++) m = z[v] > m ? z[v] : m;
        for (int64_t v = 0; v < V; v++) lane[v % TL_LANES] += EXP(z[v] - m);
        const real sum = tree_sum(lane);
        logp[r] = z[t] - (m + LOG(sum));
        if (grad_scale == 0) continue;
        const real k = grad_scale / sum;
        for (int64_t v = 0; v < V; v++) {
            const real e = EXP(z[v] - m);
            z[v] = v == t ? FMA(e, k, -grad_scale) : e * k;
        }
    }
}

#ifndef TL_REF_DOUBLE
void tl__ops_loss_ref(tl_ops *ops) {
    ops->softmax_loss = ref_softmax_loss;
}
#endif
