/* elements.cu — what is done element by element: activations and gated units with their backwards, sums, the soft-cap and
 * rotary positions: ref/activation.c and ref_rope to the bit.
 *
 * All of it is bound by memory: some forty instructions an element, where a device has a hundred in the time of its
 * bytes. Elements are read and written four at a time where they are aligned. An element's thread reads all of it
 * before it writes, so that operators may be in place. */
#include "kernels/cuda/rows.h"

template <class F> __global__ void map_one(float *y, const float *x, int64_t n, F f) {
    const int64_t fours = tl__fours(n, y, x);
    TL_SWEEP(i, 0, fours) {
        const float4 a = tl__four(x, i);
        tl__put_four(y, i, make_float4(f(a.x), f(a.y), f(a.z), f(a.w)));
    }
    TL_SWEEP(i, 4 * fours, n) y[i] = f(x[i]);
}

template <class F> __global__ void map_two(float *out, const float *x, const float *y, int64_t n, F f) {
    const int64_t fours = tl__fours(n, out, x, y);
    TL_SWEEP(i, 0, fours) {
        const float4 a = tl__four(x, i), b = tl__four(y, i);
        tl__put_four(out, i, make_float4(f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w)));
    }
    TL_SWEEP(i, 4 * fours, n) out[i] = f(x[i], y[i]);
}

/* y = f(g, u) of gu[R, 2F]. */
template <class F> __global__ void gated(float *y, const float *gu, int R, int width, F f) {
    TL_SWEEP_ROWS(r, R) {
        const float *g = gu + r * 2 * width, *u = g + width;
        float *to = y + r * width;
        const int64_t fours = tl__fours(width, to, g, u);
        TL_SWEEP(i, 0, fours) {
            const float4 a = tl__four(g, i), b = tl__four(u, i);
            tl__put_four(to, i, make_float4(f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w)));
        }
        TL_SWEEP(i, 4 * fours, width) to[i] = f(g[i], u[i]);
    }
}

/* (dg, du) = f(dy, g, u). */
template <class F>
__global__ void gated_backward(float *dgu, const float *dy, const float *gu, int R, int width, F f) {
    TL_SWEEP_ROWS(r, R) {
        const float *g = gu + r * 2 * width, *u = g + width, *from = dy + r * width;
        float *dg = dgu + r * 2 * width, *du = dg + width;
        const int64_t fours = tl__fours(width, dg, du, from, g, u);
        TL_SWEEP(i, 0, fours) {
            const float4 d = tl__four(from, i), a = tl__four(g, i), b = tl__four(u, i);
            const float2 x = f(d.x, a.x, b.x), y = f(d.y, a.y, b.y), z = f(d.z, a.z, b.z), w = f(d.w, a.w, b.w);
            tl__put_four(dg, i, make_float4(x.x, y.x, z.x, w.x));
            tl__put_four(du, i, make_float4(x.y, y.y, z.y, w.y));
        }
        TL_SWEEP(i, 4 * fours, width) {
            const float2 x = f(from[i], g[i], u[i]);
            dg[i] = x.x, du[i] = x.y;
        }
    }
}

/* ---- GELU ---- */

#define GELU_1 ((float)1.5957691216057308)    /* 2·√(2/π) */
#define GELU_3 ((float)0.07135481627260025)   /* 2·√(2/π)·0.044715 */
#define GELU_3X3 ((float)0.21406444881780075) /* three times that: d(2u)/dx = GELU_1 + GELU_3X3·x² */

struct gelu_of {
    __device__ float operator()(float x) const { return x * tl__sigmoid(x * fmaf(x * x, GELU_3, GELU_1)); }
};
static void cuda_gelu(tl_ctx *ctx, float *y, const float *x, int64_t n) {
    if (n <= 0) return;
    TL_LAUNCH(map_one, tl__sweep_grid(1, n), TL_ROW_THREADS, 0, y, x, n, gelu_of());
    tl__cuda_wait("gelu");
}

/* gelu' = s + x·(2u)'·s·(1 − s) and s = sigmoid(2u), as ref_gelu_backward has them. */
static __device__ inline float gelu_slope(float x, float *sigmoid) {
    const float z = x * x, v = x * fmaf(z, GELU_3, GELU_1);
    const float e = tl__exp(-fabsf(v)), q = 1.0f / (e + 1.0f), eq = e * q, s = v < 0 ? eq : q;
    *sigmoid = s;
    return fmaf(x * fmaf(z, GELU_3X3, GELU_1), eq * q, s);
}
struct gelu_backward_of {
    __device__ float operator()(float dy, float x) const {
        float s;
        return dy * gelu_slope(x, &s);
    }
};
static void cuda_gelu_backward(tl_ctx *ctx, float *dx, const float *dy, const float *x, int64_t n) {
    if (n <= 0) return;
    TL_LAUNCH(map_two, tl__sweep_grid(1, n), TL_ROW_THREADS, 0, dx, dy, x, n, gelu_backward_of());
    tl__cuda_wait("gelu_backward");
}

/* ---- gated units ---- */

struct swiglu_of {
    __device__ float operator()(float g, float u) const { return g * tl__sigmoid(g) * u; }
};
static void cuda_swiglu(tl_ctx *ctx, float *y, const float *gu, int R, int F) {
    if (R <= 0 || F <= 0) return;
    TL_LAUNCH(gated, tl__sweep_grid(R, F), TL_ROW_THREADS, 0, y, gu, R, F, swiglu_of());
    tl__cuda_wait("swiglu");
}

struct swiglu_backward_of {
    __device__ float2 operator()(float d, float g, float u) const {
        const float s = tl__sigmoid(g), silu = g * s;
        return make_float2(d * u * fmaf(silu, 1.0f - s, s), d * silu);
    }
};
static void cuda_swiglu_backward(tl_ctx *ctx, float *dgu, const float *dy, const float *gu, int R, int F) {
    if (R <= 0 || F <= 0) return;
    TL_LAUNCH(gated_backward, tl__sweep_grid(R, F), TL_ROW_THREADS, 0, dgu, dy, gu, R, F, swiglu_backward_of());
    tl__cuda_wait("swiglu_backward");
}

struct geglu_of {
    __device__ float operator()(float g, float u) const { return gelu_of()(g) * u; }
};
static void cuda_geglu(tl_ctx *ctx, float *y, const float *gu, int R, int F) {
    if (R <= 0 || F <= 0) return;
    TL_LAUNCH(gated, tl__sweep_grid(R, F), TL_ROW_THREADS, 0, y, gu, R, F, geglu_of());
    tl__cuda_wait("geglu");
}

struct geglu_backward_of {
    __device__ float2 operator()(float d, float g, float u) const {
        float s;
        const float slope = gelu_slope(g, &s);
        return make_float2(d * u * slope, d * (g * s));
    }
};
static void cuda_geglu_backward(tl_ctx *ctx, float *dgu, const float *dy, const float *gu, int R, int F) {
    if (R <= 0 || F <= 0) return;
    TL_LAUNCH(gated_backward, tl__sweep_grid(R, F), TL_ROW_THREADS, 0, dgu, dy, gu, R, F, geglu_backward_of());
    tl__cuda_wait("geglu_backward");
}

/* ---- sums and the soft-cap ---- */

struct sum_of {
    __device__ float operator()(float x, float y) const { return x + y; }
};
static void cuda_add(tl_ctx *ctx, float *out, const float *x, const float *y, int64_t n) {
    if (n <= 0) return;
    TL_LAUNCH(map_two, tl__sweep_grid(1, n), TL_ROW_THREADS, 0, out, x, y, n, sum_of());
    tl__cuda_wait("add");
}

struct capped_of {
    float cap, inverse;
    __device__ float operator()(float x) const { return cap * tl__tanh(x * inverse); }
};
static void cuda_softcap(tl_ctx *ctx, float *x, float cap, int64_t n) {
    if (n <= 0) return;
    const capped_of capped = {cap, 1.0f / cap};
    TL_LAUNCH(map_one, tl__sweep_grid(1, n), TL_ROW_THREADS, 0, x, x, n, capped);
    tl__cuda_wait("softcap");
}

/* ---- rotary positions ---- */

/* A pair (i, i + D/2) of a head by one thread. */
__global__ void rotate(float *x, int64_t ld, const float *cos_sin, const int32_t *pos, bool back, int R, int heads, int D) {
    const int half = D / 2;
    TL_SWEEP_ROWS(r, R) {
        const float *turn = cos_sin + (int64_t)pos[r] * D;
        TL_SWEEP(k, 0, (int64_t)heads * half) {
            const int h = (int)k / half, i = (int)k % half;
            float *at = x + r * ld + (int64_t)h * D + i;
            const float a = at[0], b = at[half], c = turn[i], s = back ? -turn[half + i] : turn[half + i];
            at[0] = fmaf(a, c, -(b * s));
            at[half] = fmaf(b, c, a * s);
        }
    }
}
static void cuda_rope(tl_ctx *ctx, float *x, int64_t ld, const float *cos_sin, const int32_t *pos, int direction, int R, int heads, int D) {
    if (R <= 0 || heads <= 0 || D < 2) return;
    TL_LAUNCH(rotate, dim3(tl__blocks((int64_t)heads * (D / 2), TL_ROW_THREADS), R < 65535 ? R : 65535), TL_ROW_THREADS, 0, x, ld, cos_sin, pos,
              direction < 0, R, heads, D);
    tl__cuda_wait("rope");
}

void tl__cuda_elements(tl_ops *ops) {
    ops->gelu = cuda_gelu;
    ops->gelu_backward = cuda_gelu_backward;
    ops->swiglu = cuda_swiglu;
    ops->swiglu_backward = cuda_swiglu_backward;
    ops->geglu = cuda_geglu;
    ops->geglu_backward = cuda_geglu_backward;
    ops->add = cuda_add;
    ops->softcap = cuda_softcap;
    ops->rope = cuda_rope;
}
