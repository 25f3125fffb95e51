/* norm.cu — RMSNorm (of rows and of heads), LayerNorm and the sums over rows of their gains' and of biases' gradients:
 * ref/norm.c to the bit.
 *
 * Rows of heads are rows too: slice k is head k % heads of row k / heads, and a whole row is the one head of its width.
 * Everything is bound by memory. A row's later passes find it in the L1 or L2 cache. A sum over rows has a chain for
 * each column and TL_KB rows and no more parallelism than that: its warps take 32 columns each, eight rows ahead; where
 * there are several blocks of rows, their sums lie in `parts` until a second kernel adds them in order. */
#include "kernels/cuda/rows.h"

/* ---- forward ---- */

/* y, sum, mean, rstd may be NULL; y and sum lie as x does. LAYER: LayerNorm, without which there are no mean and bias. */
template <bool LAYER>
__global__ void norm_rows(float *out, int64_t ldo, float *sum, float *mean, float *rstd, const float *x, int64_t ldx, const float *y,
                          const float *gain, const float *bias, float gain_add, float eps, int64_t slices, int heads, int C) {
    __shared__ tl_row_memory<float, float> memory;
    const int64_t k = tl__row(), from = k / heads * ldx + k % heads * C, to = k / heads * ldo + k % heads * C;
    const int n = k < slices ? C : 0;
    const auto s = [&](int64_t c) { return y ? x[from + c] + y[from + c] : x[from + c]; };
    const auto nothing = [](int64_t, float) {};
    float m = 0;
    if (LAYER) m = tl__row_sum(memory, n, s, nothing, [](float lane, float v) { return lane + v; }) / (float)C;
    const float squares = tl__row_sum(
        memory, n, [&](int64_t c) { return LAYER ? s(c) - m : s(c); }, nothing, [](float lane, float v) { return fmaf(v, v, lane); });
    const float scale = 1.0f / sqrtf(squares / (float)C + eps);
    if (n && threadIdx.x == 0) {
        if (mean) mean[k] = m;
        if (rstd) rstd[k] = scale;
    }
    struct element {
        float s, gain, bias;
    };
    tl__row_each(
        n, [&](int64_t c) { return element{s(c), LAYER ? gain[c] : gain[c] + gain_add, LAYER ? bias[c] : 0.0f}; },
        [&](int64_t c, element e) {
            if (sum) sum[from + c] = e.s;
            out[to + c] = LAYER ? fmaf((e.s - m) * scale, e.gain, e.bias) : (e.s * scale) * e.gain;
        });
}

static void cuda_rmsnorm(tl_ctx *ctx, float *out, float *sum, float *rstd, const float *x, const float *y, const float *gain,
                         float gain_add, float eps, int R, int C) {
    if (R <= 0) return;
    TL_LAUNCH((norm_rows<false>), tl__row_grid(R, C), tl__row_block(C), 0, out, C, sum, (float *)NULL, rstd, x, C, y, gain,
              (const float *)NULL, gain_add, eps, R, 1, C);
    tl__cuda_wait("rmsnorm");
}

static void cuda_layernorm(tl_ctx *ctx, float *out, float *sum, float *mean, float *rstd, const float *x, const float *y,
                           const float *gain, const float *bias, float eps, int R, int C) {
    if (R <= 0) return;
    TL_LAUNCH((norm_rows<true>), tl__row_grid(R, C), tl__row_block(C), 0, out, C, sum, mean, rstd, x, C, y, gain, bias, 0.0f, eps, R, 1, C);
    tl__cuda_wait("layernorm");
}

static void cuda_head_norm(tl_ctx *ctx, float *out, int64_t ldo, float *rstd, const float *x, int64_t ldx, const float *gain,
                           float gain_add, float eps, int R, int heads, int D) {
    const int64_t slices = (int64_t)R * heads;
    if (slices <= 0) return;
    TL_LAUNCH((norm_rows<false>), tl__row_grid(slices, D), tl__row_block(D), 0, out, ldo, (float *)NULL, (float *)NULL, rstd, x, ldx,
              (const float *)NULL, gain, (const float *)NULL, gain_add, eps, slices, heads, D);
    tl__cuda_wait("head_norm");
}

/* ---- sums over rows ---- */

enum { MOST_PARTS = TL_PIECE(1 << 20, 512) }; /* floats */
static __device__ float parts[MOST_PARTS];
static std::mutex parts_taken;

enum { OF_BIAS, OF_RMS, OF_LAYER };

/* Column c of the blocks of TL_KB slices from block0 to block1: Σ dout∘xhat into `to`, and of OF_LAYER Σ dout into `too`; of OF_BIAS Σ dout into
 * `to` alone. `apart`: a block's sums are left in parts[block − block0]; else they are added to the destination, block after block. */
template <int KIND>
__global__ void sum_columns(float *to, float *too, const float *dout, int64_t lddout, const float *s, int64_t lds, const float *mean,
                            const float *rstd, int64_t slices, int heads, int C, int64_t block0, int64_t block1, bool apart) {
    enum { AHEAD = 8 };
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x), width = KIND == OF_LAYER ? 2 : 1;
    if (c >= C) return;
    for (int64_t b = block0 + blockIdx.y * blockDim.y + threadIdx.y; b < block1; b += gridDim.y * blockDim.y) {
        const int64_t k0 = b * TL_KB, rest = slices - k0;
        const int count = rest < TL_KB ? (int)rest : TL_KB;
        int64_t row = k0 / heads;
        int head = (int)(k0 % heads);
        float t = 0, u = 0;
        for (int i0 = 0; i0 < count; i0 += AHEAD) {
            float d[AHEAD], xhat[AHEAD];
            for (int i = 0; i < AHEAD; i++) {
                if (i0 + i >= count) continue;
                const int64_t k = k0 + i0 + i, column = (int64_t)head * C + c;
                d[i] = dout[row * lddout + column];
                if (KIND == OF_RMS) xhat[i] = s[row * lds + column] * rstd[k];
                if (KIND == OF_LAYER) xhat[i] = (s[row * lds + column] - mean[k]) * rstd[k];
                if (++head == heads) head = 0, row++;
            }
            for (int i = 0; i < AHEAD; i++) {
                if (i0 + i >= count) continue;
                if (KIND != OF_BIAS) t = fmaf(d[i], xhat[i], t);
                if (KIND != OF_RMS) u += d[i];
            }
        }
        const float first = KIND == OF_BIAS ? u : t;
        if (apart) {
            float *part = parts + (b - block0) * width * C + c;
            part[0] = first;
            if (KIND == OF_LAYER) part[C] = u;
        } else {
            to[c] += first;
            if (KIND == OF_LAYER) too[c] += u;
        }
    }
}

/* The parts of `count` blocks added to the destinations in order; n = C, or 2C with a second destination. */
__global__ void add_parts(float *to, float *too, int64_t count, int C, int n) {
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    float *at = i < C ? to + i : too + (i - C), sum = *at;
    for (int64_t b = 0; b < count; b++) sum += parts[b * n + i];
    *at = sum;
}

template <int KIND>
static void sum_over_rows(float *to, float *too, const float *dout, int64_t lddout, const float *s, int64_t lds, const float *mean,
                          const float *rstd, int64_t slices, int heads, int C) {
    enum { WARPS = 8 };
    const tl_alone alone(parts_taken);
    const int64_t blocks = (slices + TL_KB - 1) / TL_KB, n = (KIND == OF_LAYER ? 2 : 1) * (int64_t)C, most = MOST_PARTS / n;
    if (blocks == 1 || most == 0) {
        TL_LAUNCH((sum_columns<KIND>), tl__blocks(C, 32), dim3(32, 1), 0, to, too, dout, lddout, s, lds, mean, rstd, slices, heads, C, 0,
                  blocks, false);
        return;
    }
    for (int64_t b = 0; b < blocks; b += most) {
        const int64_t count = blocks - b < most ? blocks - b : most;
        const unsigned down = tl__blocks(count, WARPS);
        TL_LAUNCH((sum_columns<KIND>), dim3(tl__blocks(C, 32), down < 65535 ? down : 65535), dim3(32, WARPS), 0, to, too, dout, lddout, s, lds,
                  mean, rstd, slices, heads, C, b, b + count, true);
        TL_LAUNCH(add_parts, tl__blocks(n, 128), 128, 0, to, too, count, C, (int)n);
    }
}

static void cuda_bias_backward(tl_ctx *ctx, float *db, const float *dy, int64_t ld, int R, int N) {
    if (R <= 0 || N <= 0) return;
    sum_over_rows<OF_BIAS>(db, NULL, dy, ld, NULL, 0, NULL, NULL, R, 1, N);
    tl__cuda_wait("bias_backward");
}

/* ---- backward ---- */

/* ADD: to what dx holds; else dx is written, and may be dout. */
template <bool LAYER, bool ADD>
__global__ void norm_backward_rows(float *dx, int64_t lddx, const float *dout, int64_t lddout, const float *s, int64_t lds, const float *mean,
                                   const float *rstd, const float *gain, float gain_add, int64_t slices, int heads, int C) {
    __shared__ tl_row_memory<float2, float2> memory;
    const int64_t k = tl__row(), row = k / heads, column = k % heads * C;
    const int n = k < slices ? C : 0;
    const float *d = dout + row * lddout + column, *x = s + row * lds + column;
    float *to = dx + row * lddx + column;
    const float m = LAYER && n ? mean[k] : 0.0f, scale = n ? rstd[k] : 0.0f;
    const auto a_and_xhat = [&](int64_t c) {
        return make_float2((LAYER ? gain[c] : gain[c] + gain_add) * d[c], (LAYER ? x[c] - m : x[c]) * scale);
    };
    const float2 sums = tl__row_sum(
        memory, n, a_and_xhat, [](int64_t, float2) {},
        [](float2 lane, float2 v) { return make_float2(LAYER ? lane.x + v.x : 0.0f, fmaf(v.x, v.y, lane.y)); });
    const float mean_a = sums.x / (float)C, mean_ax = sums.y / (float)C;
    struct element {
        float a, xhat, dx;
    };
    tl__row_each(
        n,
        [&](int64_t c) {
            const float2 v = a_and_xhat(c);
            return element{v.x, v.y, ADD ? to[c] : 0.0f};
        },
        [&](int64_t c, element e) {
            const float inner = fmaf(-e.xhat, mean_ax, LAYER ? e.a - mean_a : e.a);
            to[c] = ADD ? fmaf(scale, inner, e.dx) : scale * inner;
        });
}

static void cuda_rmsnorm_backward(tl_ctx *ctx, float *dx, float *dgain, const float *dout, const float *s, const float *rstd,
                                  const float *gain, float gain_add, int R, int C) {
    if (R <= 0 || C <= 0) return;
    sum_over_rows<OF_RMS>(dgain, NULL, dout, C, s, C, NULL, rstd, R, 1, C);
    TL_LAUNCH((norm_backward_rows<false, true>), tl__row_grid(R, C), tl__row_block(C), 0, dx, C, dout, C, s, C, (const float *)NULL, rstd, gain,
              gain_add, R, 1, C);
    tl__cuda_wait("rmsnorm_backward");
}

static void cuda_layernorm_backward(tl_ctx *ctx, float *dx, float *dgain, float *dbias, const float *dout, const float *s,
                                    const float *mean, const float *rstd, const float *gain, int R, int C) {
    if (R <= 0 || C <= 0) return;
    sum_over_rows<OF_LAYER>(dgain, dbias, dout, C, s, C, mean, rstd, R, 1, C);
    TL_LAUNCH((norm_backward_rows<true, true>), tl__row_grid(R, C), tl__row_block(C), 0, dx, C, dout, C, s, C, mean, rstd, gain, 0.0f, R, 1, C);
    tl__cuda_wait("layernorm_backward");
}

/* The gain's gradient comes first: dx may be where dout is. */
static void cuda_head_norm_backward(tl_ctx *ctx, float *dx, int64_t lddx, float *dgain, const float *dout, int64_t lddout, const float *x,
                                    int64_t ldx, const float *rstd, const float *gain, float gain_add, int R, int heads, int D) {
    const int64_t slices = (int64_t)R * heads;
    if (slices <= 0 || D <= 0) return;
    sum_over_rows<OF_RMS>(dgain, NULL, dout, lddout, x, ldx, NULL, rstd, slices, heads, D);
    TL_LAUNCH((norm_backward_rows<false, false>), tl__row_grid(slices, D), tl__row_block(D), 0, dx, lddx, dout, lddout, x, ldx,
              (const float *)NULL, rstd, gain, gain_add, slices, heads, D);
    tl__cuda_wait("head_norm_backward");
}

void tl__cuda_norm(tl_ops *ops) {
    ops->bias_backward = cuda_bias_backward;
    ops->rmsnorm = cuda_rmsnorm;
    ops->rmsnorm_backward = cuda_rmsnorm_backward;
    ops->layernorm = cuda_layernorm;
    ops->layernorm_backward = cuda_layernorm_backward;
    ops->head_norm = cuda_head_norm;
    ops->head_norm_backward = cuda_head_norm_backward;
}
