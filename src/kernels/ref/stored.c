/* ref/stored.c — products with quantised weights and look-ups in stored ones, defined. */
#include <math.h>
#include <string.h>
#include "base/blocks.h"
#include "kernels/stored.h"
#include "kernels/table.h"

/* 32 of x: q and s with x ≈ s·q. */
static float quantise(int8_t q[TL_GROUP], const float *x) {
    float largest = 0;
    bool finite = true;
    for (int k = 0; k < TL_GROUP; k++) {
        largest = fabsf(x[k]) > largest ? fabsf(x[k]) : largest;
        finite = finite && isfinite(x[k]);
    }
    memset(q, 0, TL_GROUP);
    if (!finite) return NAN;
    if (largest < TL_LEAST_AMAX) return 0;
    const float s = largest / 127, inverse = 1 / s;
    for (int k = 0; k < TL_GROUP; k++) q[k] = (int8_t)rintf(x[k] * inverse);
    return s;
}

static void linear_quantised(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R) {
    enum { GROUPS = TL_KB / TL_GROUP };
    (void)ctx;
    for (const tl_product *p = products; p < products + count; p++) {
        const tl_stored *w = p->w;
        const int sub = tl__forms[w->type].sub;
        const bool offset = tl__forms[w->type].o != TL_O_NONE;
        for (int r = 0; r < R; r++)
            for (int k0 = 0; k0 < w->K || k0 == 0; k0 += TL_KB) {
                int8_t a[GROUPS][TL_GROUP];
                float s[GROUPS];
                const int end = w->K - k0 < TL_KB ? w->K : k0 + TL_KB, groups = (end - k0) / TL_GROUP;
                for (int g = 0; g < groups; g++) s[g] = quantise(a[g], x + r * ldx + k0 + g * TL_GROUP);
                for (int n = 0; n < w->N; n++) {
                    float acc = 0;
                    for (int g = 0; g < groups; g++) {
                        int16_t q[TL_GROUP];
                        float d[2], o[2];
                        tl__unpack_group(q, d, o, w, n, k0 / TL_GROUP + g);
                        for (int h = 0; h < TL_GROUP / sub; h++) {
                            int32_t dot = 0, sum = 0;
                            for (int k = h * sub; k < h * sub + sub; k++) dot += q[k] * a[g][k], sum += a[g][k];
                            acc = fmaf(isfinite(d[h]) ? d[h] * (float)dot : NAN, s[g], acc);
                            if (offset) acc = fmaf(o[h], s[g] * (float)sum, acc);
                        }
                    }
                    float *y = &p->y[r * p->ldy + n];
                    *y = k0 ? *y + acc : acc;
                    if (p->bias && end == w->K) *y += p->bias[n];
                }
            }
    }
}

static void embed_stored(tl_ctx *ctx, float *x, const tl_stored *E, const float *P, const int32_t *token,
                         const int32_t *pos, float scale, int R) {
    const int C = E->K;
    (void)ctx;
    for (int64_t r = 0; r < R; r++) tl__embed_row(x + r * C, E, token[r], P ? P + (int64_t)pos[r] * C : NULL, scale);
}

void tl__ops_stored_ref(tl_ops *ops) {
    ops->linear_quantised = linear_quantised;
    ops->embed_stored = embed_stored;
}
