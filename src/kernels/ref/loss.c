/* ref/loss.c — softmax, cross-entropy, z-loss and their gradient over rows of logits, and the weights of a draw, in the
 * contract's order. */
#include "kernels/ref/real.h"

static void ref_softmax_loss(tl_ctx *ctx, real *logp, real *logz, real *logits, const int32_t *target,
                             const tl_loss_form *form, int R, int V) {
    const real cap = form->softcap, inverse = cap != 0 ? REAL(1) / cap : 0;
    for (int64_t r = 0; r < R; r++) {
        real *x = logits + r * V;
        const int32_t t = target[r];
        if (t < 0) {
            logp[r] = 0;
            if (logz) logz[r] = 0;
            if (form->grad_scale != 0)
                for (int64_t v = 0; v < V; v++) x[v] = 0;
            continue;
        }
#define Z(v) (cap != 0 ? cap * TANH(x[v] * inverse) : x[v])
        real m = Z(0), lane[TL_LANES] = {0};
        for (int64_t v = 1; v < V; v++) {
            const real z = Z(v);
            m = z > m ? z : m;
        }
        for (int64_t v = 0; v < V; v++) lane[v % TL_LANES] += EXP(Z(v) - m);
        const real sum = tree_sum(lane), log_z = m + LOG(sum);
        logp[r] = Z(t) - log_z;
        if (logz) logz[r] = log_z;
        if (form->grad_scale == 0) continue;
        const real k = form->grad_scale * FMA(REAL(2) * form->z_coef, log_z, REAL(1)) / sum;
        for (int64_t v = 0; v < V; v++) {
            const real e = EXP(Z(v) - m), capped = cap != 0 ? TANH(x[v] * inverse) : 0;
            const real d = v == t ? FMA(e, k, -form->grad_scale) : e * k;
            x[v] = cap != 0 ? d * FMA(-capped, capped, REAL(1)) : d;
        }
#undef Z
    }
}

#ifndef TL_REF_DOUBLE
static double ref_weigh(tl_ctx *ctx, real *p, const real *z, real m, real temperature, int n) {
    double lane[TL_LANES] = {0};
    for (int i = 0; i < n; i++) {
        p[i] = z[i] == m ? REAL(1) : z[i] < m ? EXP((z[i] - m) / temperature) : 0;
        lane[i % TL_LANES] += (double)p[i];
    }
    for (int half = TL_LANES / 2; half; half /= 2)
        for (int j = 0; j < half; j++) lane[j] += lane[j + half];
    return lane[0];
}

void tl__ops_loss_ref(tl_ops *ops) {
    ops->softmax_loss = ref_softmax_loss;
    ops->weigh = ref_weigh;
}
#endif
