/* ref/embed.c — token and position embeddings, and rotary positions, in the contract's order. */
#include "kernels/ref/real.h"

static void ref_embed(tl_ctx *ctx, real *x, const real *E, const real *P, const int32_t *token, const int32_t *pos,
                      real scale, int R, int C) {
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < C; c++) {
            const real e = E[(int64_t)token[r] * C + c];
            x[r * C + c] = P ? FMA(e, scale, P[(int64_t)pos[r] * C + c]) : e * scale;
        }
}

static void ref_embed_backward(tl_ctx *ctx, real *dE, const int32_t *slot, const int32_t *id, const real *dx,
                               real scale, int R, int C) {
    for (int64_t r = 0; r < R; r++) {
        const int64_t to = slot ? slot[id[r]] : id[r];
        for (int64_t c = 0; c < C; c++) dE[to * C + c] = FMA(dx[r * C + c], scale, dE[to * C + c]);
    }
}

/* (a, b) → (a·cos − b·sin, b·cos + a·sin); the backward turns the other way. */
static void ref_rope(tl_ctx *ctx, real *x, int64_t ld, const real *cos_sin, const int32_t *pos, int direction, int R,
                     int heads, int D) {
    const int half = D / 2;
    for (int64_t r = 0; r < R; r++) {
        const real *turn = cos_sin + (int64_t)pos[r] * D;
        for (int64_t h = 0; h < heads; h++)
            for (int i = 0; i < half; i++) {
                real *a = &x[r * ld + h * D + i], *b = a + half;
                const real c = turn[i], s = direction < 0 ? -turn[half + i] : turn[half + i];
                const real turned = FMA(*a, c, -(*b * s));
                *b = FMA(*b, c, *a * s);
                *a = turned;
            }
    }
}

#ifndef TL_REF_DOUBLE
void tl__ops_embed_ref(tl_ops *ops) {
    ops->embed = ref_embed;
    ops->embed_backward = ref_embed_backward;
    ops->rope = ref_rope;
}
#endif
