/* cpu/activation.c — GELU, SwiGLU, GeGLU, the residual sum and the soft-cap: ref/activation.c to the bit, sixteen
 * elements at a time. */
#include "kernels/cpu/cut.h"
#include "kernels/cpu/elementary16.h"

#define GELU_1 v16_set1(1.5957691216057308f)
#define GELU_3 v16_set1(0.07135481627260025f)
#define GELU_3X3 v16_set1(0.21406444881780075f)

typedef struct elements_job {
    float *out;
    const float *x, *y;
    int64_t n;
} elements_job;

/* One task: piece i of out = BODY(x, y), where BODY is an expression of v16 x and y. */
#define ELEMENTS(NAME, USES_Y, BODY)                                                                                   \
    static void NAME(void *user, int64_t i, int worker) {                                                              \
        const elements_job *a = user;                                                                                  \
        int64_t k = i * TL_PIECE;                                                                                      \
        const int64_t end = tl_least(k + TL_PIECE, a->n);                                                              \
        for (; k + 16 <= end; k += 16) {                                                                               \
            const v16 x = v16_load(a->x + k), y = USES_Y ? v16_load(a->y + k) : x;                                     \
            (void)y;                                                                                                   \
            v16_store(a->out + k, BODY);                                                                               \
        }                                                                                                              \
        if (k < end) {                                                                                                 \
            const int n = (int)(end - k);                                                                              \
            const v16 x = v16_load_n(a->x + k, n), y = USES_Y ? v16_load_n(a->y + k, n) : x;                           \
            (void)y;                                                                                                   \
            v16_store_n(a->out + k, BODY, n);                                                                          \
        }                                                                                                              \
    }

TL_INLINE v16 gelu16(v16 x) {
    return v16_mul(x, v16_sigmoid(v16_mul(x, v16_fma(v16_mul(x, x), GELU_3, GELU_1))));
}
/* gelu = x·s, and its slope. */
TL_INLINE void gelu_parts16(v16 *s, v16 *slope, v16 x) {
    const v16 one = v16_set1(1.0f), sign = v16_neg(v16_zero());
    const v16 z = v16_mul(x, x), v = v16_mul(x, v16_fma(z, GELU_3, GELU_1));
    const v16 e = v16_exp_below(v16_or(v, sign)), q = v16_div(one, v16_add(e, one)), eq = v16_mul(e, q); /* e^−|v| */
    *s = v16_select(v16_lt(v, v16_zero()), eq, q);
    *slope = v16_fma(v16_mul(x, v16_fma(z, GELU_3X3, GELU_1)), v16_mul(eq, q), *s);
}
TL_INLINE v16 gelu_backward16(v16 dy, v16 x) {
    v16 s, slope;
    gelu_parts16(&s, &slope, x);
    return v16_mul(dy, slope);
}

ELEMENTS(gelu_piece, false, gelu16(x))
ELEMENTS(gelu_backward_piece, true, gelu_backward16(x, y))
ELEMENTS(add_piece, true, v16_add(x, y))

static void gelu(tl_ctx *ctx, float *y, const float *x, int64_t n) {
    elements_job job = {y, x, NULL, n};
    tl__parallel_for(ctx->pool, tl_pieces(n, TL_PIECE), gelu_piece, &job);
}
static void gelu_backward(tl_ctx *ctx, float *dx, const float *dy, const float *x, int64_t n) {
    elements_job job = {dx, dy, x, n};
    tl__parallel_for(ctx->pool, tl_pieces(n, TL_PIECE), gelu_backward_piece, &job);
}
static void add(tl_ctx *ctx, float *out, const float *x, const float *y, int64_t n) {
    elements_job job = {out, x, y, n};
    tl__parallel_for(ctx->pool, tl_pieces(n, TL_PIECE), add_piece, &job);
}

typedef struct glu_job {
    float *out;
    const float *dy, *gu;
    int64_t R, F, rows;
} glu_job;

TL_INLINE v16 swiglu16(v16 g, v16 u) {
    return v16_mul(v16_mul(g, v16_sigmoid(g)), u);
}
TL_INLINE void swiglu_backward16(v16 *dg, v16 *du, v16 d, v16 g, v16 u) {
    const v16 s = v16_sigmoid(g), silu = v16_mul(g, s);
    *du = v16_mul(d, silu);
    *dg = v16_mul(v16_mul(d, u), v16_fma(silu, v16_sub(v16_set1(1.0f), s), s));
}

TL_INLINE v16 geglu16(v16 g, v16 u) {
    return v16_mul(gelu16(g), u);
}
TL_INLINE void geglu_backward16(v16 *dg, v16 *du, v16 d, v16 g, v16 u) {
    v16 s, slope;
    gelu_parts16(&s, &slope, g);
    *du = v16_mul(d, v16_mul(g, s));
    *dg = v16_mul(v16_mul(d, u), slope);
}

/* Tasks of a gated unit and of its backward: rows of y = FORWARD(g, u), and of (dg, du) by BACKWARD. */
#define GATED(NAME, FORWARD, BACKWARD)                                                                                 \
    static void NAME##_rows(void *user, int64_t i, int worker) {                                                       \
        const glu_job *a = user;                                                                                       \
        for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->R); r++) {                                    \
            const float *g = a->gu + r * 2 * a->F, *u = g + a->F;                                                      \
            float *y = a->out + r * a->F;                                                                              \
            int64_t f = 0;                                                                                             \
            for (; f + 16 <= a->F; f += 16) v16_store(y + f, FORWARD(v16_load(g + f), v16_load(u + f)));               \
            if (f < a->F) {                                                                                            \
                const int n = (int)(a->F - f);                                                                         \
                v16_store_n(y + f, FORWARD(v16_load_n(g + f, n), v16_load_n(u + f, n)), n);                            \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void NAME##_backward_rows(void *user, int64_t i, int worker) {                                              \
        const glu_job *a = user;                                                                                       \
        for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->R); r++) {                                    \
            const float *g = a->gu + r * 2 * a->F, *u = g + a->F, *dy = a->dy + r * a->F;                              \
            float *dg = a->out + r * 2 * a->F, *du = dg + a->F;                                                        \
            int64_t f = 0;                                                                                             \
            v16 to_g, to_u;                                                                                            \
            for (; f + 16 <= a->F; f += 16) {                                                                          \
                BACKWARD(&to_g, &to_u, v16_load(dy + f), v16_load(g + f), v16_load(u + f));                            \
                v16_store(dg + f, to_g);                                                                               \
                v16_store(du + f, to_u);                                                                               \
            }                                                                                                          \
            if (f < a->F) {                                                                                            \
                const int n = (int)(a->F - f);                                                                         \
                BACKWARD(&to_g, &to_u, v16_load_n(dy + f, n), v16_load_n(g + f, n), v16_load_n(u + f, n));             \
                v16_store_n(dg + f, to_g, n);                                                                          \
                v16_store_n(du + f, to_u, n);                                                                          \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void NAME(tl_ctx *ctx, float *y, const float *gu, int R, int F) {                                           \
        glu_job job = {y, NULL, gu, R, F, tl_piece_rows(F)};                                                           \
        tl__parallel_for(ctx->pool, tl_pieces(R, job.rows), NAME##_rows, &job);                                        \
    }                                                                                                                  \
    static void NAME##_backward(tl_ctx *ctx, float *dgu, const float *dy, const float *gu, int R, int F) {             \
        glu_job job = {dgu, dy, gu, R, F, tl_piece_rows(F)};                                                           \
        tl__parallel_for(ctx->pool, tl_pieces(R, job.rows), NAME##_backward_rows, &job);                               \
    }

GATED(swiglu, swiglu16, swiglu_backward16)
GATED(geglu, geglu16, geglu_backward16)

typedef struct cap_job {
    float *x;
    float cap, inverse;
    int64_t n;
} cap_job;

static void softcap_piece(void *user, int64_t i, int worker) {
    const cap_job *a = user;
    const v16 cap = v16_set1(a->cap), inverse = v16_set1(a->inverse);
    int64_t k = i * TL_PIECE;
    const int64_t end = tl_least(k + TL_PIECE, a->n);
    for (; k + 16 <= end; k += 16) v16_store(a->x + k, v16_mul(cap, v16_tanh(v16_mul(v16_load(a->x + k), inverse))));
    if (k < end) {
        const int n = (int)(end - k);
        v16_store_n(a->x + k, v16_mul(cap, v16_tanh(v16_mul(v16_load_n(a->x + k, n), inverse))), n);
    }
}
static void softcap(tl_ctx *ctx, float *x, float cap, int64_t n) {
    cap_job job = {x, cap, 1.0f / cap, n};
    tl__parallel_for(ctx->pool, tl_pieces(n, TL_PIECE), softcap_piece, &job);
}

void TL_NAME(ops_activation)(tl_ops *ops) {
    ops->gelu = gelu;
    ops->gelu_backward = gelu_backward;
    ops->swiglu = swiglu;
    ops->swiglu_backward = swiglu_backward;
    ops->geglu = geglu;
    ops->geglu_backward = geglu_backward;
    ops->add = add;
    ops->softcap = softcap;
}
