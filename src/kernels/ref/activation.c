/* ref/activation.c — GELU, the gated units SwiGLU and GeGLU, the residual sum and the soft-cap, element by element.
 *
 * gelu_new is evaluated as x·sigmoid(2u), u = √(2/π)·(x + 0.044715·x³): the same function as 0.5·x·(1 + tanh u), but
 * without the cancellation in 1 + tanh u for negative x, and cheaper by the tanh. */
#include "kernels/ref/real.h"

#define GELU_1 REAL(1.5957691216057308)    /* 2·√(2/π) */
#define GELU_3 REAL(0.07135481627260025)   /* 2·√(2/π)·0.044715 */
#define GELU_3X3 REAL(0.21406444881780075) /* three times that: d(2u)/dx = GELU_1 + GELU_3X3·x² */

static void ref_gelu(tl_ctx *ctx, real *y, const real *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * SIGMOID(x[i] * FMA(x[i] * x[i], GELU_3, GELU_1));
}

/* dx = dy·(s + x·(2u)'·s·(1 − s)), s = sigmoid(2u). With e = e^−|2u| and q = 1/(1 + e), s is q or e·q, and s·(1 − s) is
 * e·q·q either way: 1 − s itself would keep no digit of the difference where s nears 1, and x·(2u)' is 35 by then. */
static void ref_gelu_backward(tl_ctx *ctx, real *dx, const real *dy, const real *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const real z = x[i] * x[i], v = x[i] * FMA(z, GELU_3, GELU_1);
        const real e = EXP(-ABS(v)), q = REAL(1) / (e + REAL(1)), eq = e * q;
        dx[i] = dy[i] * FMA(x[i] * FMA(z, GELU_3X3, GELU_1), eq * q, v < 0 ? eq : q);
    }
}

static void ref_swiglu(tl_ctx *ctx, real *y, const real *gu, int R, int F) {
    for (int64_t r = 0; r < R; r++)
        for (int64_t f = 0; f < F; f++) {
            const real g = gu[r * 2 * F + f], u = gu[r * 2 * F + F + f];
            y[r * F + f] = g * SIGMOID(g) * u;
        }
}

/* silu = g·s; silu' = s + silu·(1 − s). */
static void ref_swiglu_backward(tl_ctx *ctx, real *dgu, const real *dy, const real *gu, int R, int F) {
    for (int64_t r = 0; r < R; r++)
        for (int64_t f = 0; f < F; f++) {
            const int64_t gate = r * 2 * F + f, up = gate + F;
            const real s = SIGMOID(gu[gate]), silu = gu[gate] * s, d = dy[r * F + f], du = d * silu;
            dgu[gate] = d * gu[up] * FMA(silu, REAL(1) - s, s);
            dgu[up] = du;
        }
}

static void ref_geglu(tl_ctx *ctx, real *y, const real *gu, int R, int F) {
    for (int64_t r = 0; r < R; r++)
        for (int64_t f = 0; f < F; f++) {
            const real g = gu[r * 2 * F + f], u = gu[r * 2 * F + F + f];
            y[r * F + f] = g * SIGMOID(g * FMA(g * g, GELU_3, GELU_1)) * u;
        }
}

/* gelu and gelu' as in gelu_backward. */
static void ref_geglu_backward(tl_ctx *ctx, real *dgu, const real *dy, const real *gu, int R, int F) {
    for (int64_t r = 0; r < R; r++)
        for (int64_t f = 0; f < F; f++) {
            const int64_t gate = r * 2 * F + f, up = gate + F;
            const real g = gu[gate], z = g * g, v = g * FMA(z, GELU_3, GELU_1);
            const real e = EXP(-ABS(v)), q = REAL(1) / (e + REAL(1)), eq = e * q, s = v < 0 ? eq : q;
            const real d = dy[r * F + f], du = d * (g * s);
            dgu[gate] = d * gu[up] * FMA(g * FMA(z, GELU_3X3, GELU_1), eq * q, s);
            dgu[up] = du;
        }
}

static void ref_add(tl_ctx *ctx, real *out, const real *x, const real *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = x[i] + y[i];
}

static void ref_softcap(tl_ctx *ctx, real *x, real cap, int64_t n) {
    const real inverse = REAL(1) / cap;
    for (int64_t i = 0; i < n; i++) x[i] = cap * TANH(x[i] * inverse);
}

#ifndef TL_REF_DOUBLE
void tl__ops_activation_ref(tl_ops *ops) {
    ops->gelu = ref_gelu;
    ops->gelu_backward = ref_gelu_backward;
    ops->swiglu = ref_swiglu;
    ops->swiglu_backward = ref_swiglu_backward;
    ops->geglu = ref_geglu;
    ops->geglu_backward = ref_geglu_backward;
    ops->add = ref_add;
    ops->softcap = ref_softcap;
}
#endif
