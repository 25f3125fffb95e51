/* optimizer.cu — the sum of squares for the gradient's norm, AdamW and the blend: ref/optimizer.c to the bit. All are
 * bound by memory; a sum's chunks are a block's each, and their sums are added in order by one thread. */
#include "kernels/cuda/rows.h"

enum { CHUNK = 4096, MOST_CHUNKS = TL_PIECE(1 << 16, 4) };

static __device__ double chunk_sums[MOST_CHUNKS];
static __device__ __managed__ double sum_of_chunks;
static std::mutex sums_taken;

__global__ void square_chunks(const float *x, int64_t n) {
    __shared__ tl_row_memory<float, double> memory;
    const int64_t first = (int64_t)blockIdx.x * CHUNK, rest = n - first;
    const double sum = tl__row_sum(
        memory, rest < CHUNK ? rest : (int64_t)CHUNK, [&](int64_t i) { return x[first + i]; }, [](int64_t, float) {},
        [](double lane, float v) { return fma((double)v, (double)v, lane); });
    if (threadIdx.x == 0) chunk_sums[blockIdx.x] = sum;
}

/* One block: all fetch, one adds. */
__global__ void add_chunks(int count) {
    __shared__ double tile[TL_ROW_THREADS];
    double sum = sum_of_chunks;
    for (int first = 0; first < count; first += TL_ROW_THREADS) {
        const int n = count - first < TL_ROW_THREADS ? count - first : TL_ROW_THREADS;
        if ((int)threadIdx.x < n) tile[threadIdx.x] = chunk_sums[first + (int)threadIdx.x];
        __syncthreads();
        if (threadIdx.x == 0)
            for (int i = 0; i < n; i++) sum += tile[i];
        __syncthreads();
    }
    if (threadIdx.x == 0) sum_of_chunks = sum;
}

static double cuda_sum_squares(tl_ctx *ctx, const float *x, int64_t n) {
    const int64_t most = (int64_t)MOST_CHUNKS * CHUNK;
    const tl_alone alone(sums_taken);
    sum_of_chunks = 0;
    for (int64_t i = 0; i < n; i += most) {
        const int64_t here = n - i < most ? n - i : most;
        TL_LAUNCH(square_chunks, tl__blocks(here, CHUNK), TL_ROW_THREADS, 0, x + i, here);
        TL_LAUNCH(add_chunks, 1, TL_ROW_THREADS, 0, (int)tl__blocks(here, CHUNK));
    }
    tl__cuda_wait("sum_squares");
    return sum_of_chunks;
}

/* AdamW's scalars as PyTorch forms them: in double, rounded once. */
struct adamw_scalars {
    float keep, to_m, to_v, beta2, grad_scale, step_size, inv_sqrt_correction2, eps;
};

static __device__ inline void adamw_one(float *w, float *m, float *v, float g, const adamw_scalars &h) {
    const float d = g * h.grad_scale, decayed = *w * h.keep;
    *m = fmaf(h.to_m, d - *m, *m);
    *v = fmaf(h.to_v * d, d, h.beta2 * *v);
    const float denom = fmaf(sqrtf(*v), h.inv_sqrt_correction2, h.eps);
    *w = decayed - h.step_size * *m / denom;
}

__global__ void adamw_all(float *w, float *m, float *v, const float *g, int64_t n, adamw_scalars h) {
    const int64_t fours = tl__fours(n, w, m, v, g);
    TL_SWEEP(i, 0, fours) {
        float4 a = tl__four(w, i), b = tl__four(m, i), c = tl__four(v, i);
        const float4 d = tl__four(g, i);
        adamw_one(&a.x, &b.x, &c.x, d.x, h), adamw_one(&a.y, &b.y, &c.y, d.y, h);
        adamw_one(&a.z, &b.z, &c.z, d.z, h), adamw_one(&a.w, &b.w, &c.w, d.w, h);
        tl__put_four(w, i, a), tl__put_four(m, i, b), tl__put_four(v, i, c);
    }
    TL_SWEEP(i, 4 * fours, n) adamw_one(w + i, m + i, v + i, g[i], h);
}

static void cuda_adamw(tl_ctx *ctx, float *w, float *m, float *v, const float *g, int64_t n, const tl_adamw *hyper) {
    if (n <= 0) return;
    const adamw_scalars h = {(float)(1.0 - (double)hyper->lr * hyper->weight_decay),
                             (float)(1.0 - hyper->beta1),
                             (float)(1.0 - hyper->beta2),
                             (float)hyper->beta2,
                             hyper->grad_scale,
                             hyper->step_size,
                             hyper->inv_sqrt_correction2,
                             hyper->eps};
    TL_LAUNCH(adamw_all, tl__sweep_grid(1, n), TL_ROW_THREADS, 0, w, m, v, g, n, h);
    tl__cuda_wait("adamw");
}

__global__ void blend_rows(float *y, int64_t ldy, float t, const float *x, int64_t ldx, float s, int64_t R, int64_t C) {
    TL_SWEEP_ROWS(r, R) {
        const float *from = x + r * ldx;
        float *to = y + r * ldy;
        const int64_t fours = tl__fours(C, to, from);
        TL_SWEEP(i, 0, fours) {
            const float4 a = tl__four(from, i);
            float4 b = make_float4(s * a.x, s * a.y, s * a.z, s * a.w);
            if (t != 0) {
                b = tl__four(to, i);
                b = make_float4(fmaf(s, a.x, t * b.x), fmaf(s, a.y, t * b.y), fmaf(s, a.z, t * b.z), fmaf(s, a.w, t * b.w));
            }
            tl__put_four(to, i, b);
        }
        TL_SWEEP(i, 4 * fours, C) to[i] = t == 0 ? s * from[i] : fmaf(s, from[i], t * to[i]);
    }
}
static void cuda_blend(tl_ctx *ctx, float *y, int64_t ldy, float t, const float *x, int64_t ldx, float s, int64_t R, int64_t C) {
    if (R <= 0 || C <= 0) return;
    if (ldy == C && ldx == C) C *= R, R = 1; /* one long row */
    TL_LAUNCH(blend_rows, tl__sweep_grid(R, C), TL_ROW_THREADS, 0, y, ldy, t, x, ldx, s, R, C);
    tl__cuda_wait("blend");
}

void tl__cuda_optimizer(tl_ops *ops) {
    ops->sum_squares = cuda_sum_squares;
    ops->adamw = cuda_adamw;
    ops->blend = cuda_blend;
}
