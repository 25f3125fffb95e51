/* gemm.cu — products of floats: gemm and gemm_bf16, and those with stored weights of F32, F16 and BF16, which are the same.
 *
 * C[M,N] (+)= A[M,K]·B[K,N] + bias. An output is one thread's chain at a time, so that neither form nor tile decides a bit.
 *
 *   many rows  bound by multiply-adds. 256 threads make a square of 128 by 128 outputs, 8 by 8 each; where that leaves processors
 *              idle, and in bf16, of 64 by 64, 4 by 4 each. A and B come 8 (or 16) of k at a time through registers into one of two
 *              tiles each, [k][outputs + 4], 17 KB in all: while one is used the next is on its way, and one barrier parts them. 16
 *              reads of shared memory serve 64 multiply-adds. Rounding to bf16 happens once, on the way into the tile.
 *   few rows   bound by B's bytes. A warp brings 32 of k for its 16 outputs and two blocks of k, 4 KB ahead of what it computes, each
 *              row in whole lines, and turns them in shared memory, so that a thread reads its own output's in order.
 *
 * A bf16 step is a multiply-add, a comparison and a branch that is hardly ever taken. Tensor cores are no use here: the order in which they
 * add is not the contract's. */
#include "kernels/cuda/product.h"

#include "base/half.h"

/* ---- numbers as they are stored ---- */

struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};
/* ---- the contracts: a block's sum of one output ---- */

struct f32_sum {
    enum { FILL = 1 }; /* of k, to whose multiples zeros are added */
    float chain;
    static __device__ __forceinline__ float operand(float x) { return x; }
    static __device__ __forceinline__ float operand(f16 x) { return tl__f16_to_f32(x.bits); }
    __device__ __forceinline__ void clear() { chain = 0; }
    __device__ __forceinline__ void step(int k, float a, float b) { chain = fmaf(a, b, chain); }
    __device__ __forceinline__ void close() {} /* after TL_BF16_K steps */
    __device__ __forceinline__ float value() const { return chain; }
};

static __device__ __forceinline__ float flushed(float x) {
    return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x;
}

struct bf16_sum {
    enum { FILL = TL_BF16_K };
    float total, chain[2];
    /* ref's rounded. */
    static __device__ __forceinline__ float operand(float x) {
        const uint32_t bits = tl__f32_to_bits(x), size = bits & 0x7fffffff;
        const uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
        const uint32_t quiet = (bits | 0x00400000) & 0xffff0000;
        return tl__f32_from_bits(size < 0x00800000 ? bits & 0x80000000 : size > 0x7f800000 ? quiet : nearest);
    }
    static __device__ __forceinline__ float operand(bf16 x) { /* nothing to round but denormals */
        return tl__bf16_to_f32(x.bits & 0x7f80 ? x.bits : x.bits & 0x8000);
    }
    __device__ __forceinline__ void clear() { total = chain[0] = chain[1] = 0; }
    /* ref's fma_flushed: at 2⁻¹²⁶ the double says on which side of it the sum was. */
    __device__ __forceinline__ void step(int k, float a, float b) {
        float x = fmaf(a, b, chain[k % 2]);
        if (fabsf(x) <= 0x1p-126f)
            if (fabsf(x) < 0x1p-126f || fabs((double)a * b + chain[k % 2]) < 0x1p-126 - 0x1p-151) x = copysignf(0, x);
        chain[k % 2] = x;
    }
    __device__ __forceinline__ void close() {
        total = flushed(total + flushed(chain[0] + chain[1]));
        chain[0] = chain[1] = 0;
    }
    __device__ __forceinline__ float value() const { return total; }
};

template <class sum> static __device__ __forceinline__ int filled(int K) {
    return (K + sum::FILL - 1) / sum::FILL * sum::FILL;
}

/* ---- operands: `extent` of x by K, one of the strides 1, the other `stride` ---- */

template <class T> struct operand {
    const T *p;
    int64_t stride;
    int extent;
    bool fours;
};
TL_POINTS_TO(operand<float>, x.p)
TL_POINTS_TO(operand<f16>, x.p)
TL_POINTS_TO(operand<bf16>, x.p)
template <class T> static operand<T> operand_make(const T *p, int64_t stride, int extent) {
    return operand<T>{p, stride, extent, in_fours(p, stride)};
}

/* ---- many rows ---- */

/* A thread's four of a tile of X by DEEP that begins at x, k: along k, or along x. */
template <bool ALONG_K, int X, int DEEP, class T>
static __device__ __forceinline__ four<T> fetch(const operand<T> &o, int x, int k, int K) {
    static_assert(X * DEEP == 4 * SQUARE_THREADS, "four for each thread");
    const int t = (int)threadIdx.x;
    if (ALONG_K) {
        x += t / (DEEP / 4), k += t % (DEEP / 4) * 4;
        return take4(o.p + x * o.stride + k, x < o.extent ? K - k : 0, o.fours);
    }
    x += t % (X / 4) * 4, k += t / (X / 4);
    return take4(o.p + k * o.stride + x, k < K ? o.extent - x : 0, o.fours);
}
template <bool ALONG_K, int X, int DEEP, class sum, class T>
static __device__ __forceinline__ void put(float tile[DEEP][X + 4], const four<T> &v) {
    const int t = (int)threadIdx.x;
    float f[4];
    UNROLL for (int i = 0; i < 4; i++) f[i] = sum::operand(v.at[i]);
    if (ALONG_K) {
        UNROLL for (int i = 0; i < 4; i++) tile[t % (DEEP / 4) * 4 + i][t / (DEEP / 4)] = f[i];
    } else {
        *(float4 *)&tile[t / (X / 4)][t % (X / 4) * 4] = make_float4(f[0], f[1], f[2], f[3]);
    }
}

/* A line of each tile, by what a thread has of it. */
template <class sum, int H, int X>
static __device__ __forceinline__ void multiply_line(sum acc[4 * H][4 * H], const float a[X + 4], const float b[X + 4], spot at, int k) {
    float x[4 * H], y[4 * H];
    UNROLL for (int h = 0; h < H; h++) {
        const float4 u = *(const float4 *)&a[at.row + 16 * h], v = *(const float4 *)&b[at.col + 32 * h];
        x[4 * h] = u.x, x[4 * h + 1] = u.y, x[4 * h + 2] = u.z, x[4 * h + 3] = u.w;
        y[4 * h] = v.x, y[4 * h + 1] = v.y, y[4 * h + 2] = v.z, y[4 * h + 3] = v.w;
    }
    UNROLL for (int i = 0; i < 4 * H; i++)
        UNROLL for (int j = 0; j < 4 * H; j++) acc[i][j].step(k, x[i], y[j]);
}

template <class sum, int H, bool A_ALONG_K, bool B_ALONG_K, class T>
__global__ void __launch_bounds__(SQUARE_THREADS, 2) many_rows(operand<float> a, operand<T> b, output c, int K) {
    enum { X = 64 * H, DEEP = 16 / H, PER = 4 * H };
    __shared__ __align__(16) float as[2][DEEP][X + 4], bs[2][DEEP][X + 4];
    const int squares = (c.M + X - 1) / X, m0 = (int)blockIdx.x % squares * X, n0 = (int)blockIdx.x / squares * X;
    const int end = filled<sum>(K);
    const spot at = spot_of_thread<H>();
    sum acc[PER][PER];
    UNROLL for (int i = 0; i < PER; i++)
        UNROLL for (int j = 0; j < PER; j++) acc[i][j].clear();
    four<float> next_a = fetch<A_ALONG_K, X, DEEP>(a, m0, 0, K);
    four<T> next_b = fetch<B_ALONG_K, X, DEEP>(b, n0, 0, K);
    for (int k0 = 0, turn = 0; k0 < end; k0 += DEEP, turn ^= 1) {
        put<A_ALONG_K, X, DEEP, sum>(as[turn], next_a), put<B_ALONG_K, X, DEEP, sum>(bs[turn], next_b);
        __syncthreads(); /* who writes this tile again has passed the next one: all have used it then */
        next_a = fetch<A_ALONG_K, X, DEEP>(a, m0, k0 + DEEP, K);
        next_b = fetch<B_ALONG_K, X, DEEP>(b, n0, k0 + DEEP, K);
        const int next = k0 + DEEP, deep = min((int)DEEP, end - k0);
        for (int k = 0; k < deep; k += 2) { /* no further unrolled: two blocks of threads on a processor hide what a line's reads take, if registers suffice */
            multiply_line<sum, H, X>(acc, as[turn][k], bs[turn][k], at, 0);
            if (k + 1 < deep) multiply_line<sum, H, X>(acc, as[turn][k + 1], bs[turn][k + 1], at, 1);
        }
        if (next % TL_BF16_K == 0)
            UNROLL for (int i = 0; i < PER; i++)
                UNROLL for (int j = 0; j < PER; j++) acc[i][j].close();
        if (next % TL_KB && next < end) continue;
        UNROLL for (int i = 0; i < PER; i++)
            UNROLL for (int h = 0; h < H; h++) {
                float sums[4];
                UNROLL for (int j = 0; j < 4; j++) sums[j] = acc[i][4 * h + j].value(), acc[i][4 * h + j].clear();
                settle(c, m0 + at.row + i / 4 * 16 + i % 4, n0 + at.col + 32 * h, sums, c.accumulate || next > TL_KB, next >= end);
            }
    }
}

/* ---- few rows ---- */

enum { DEEP_FEW = 32 }; /* of k at a time */

template <class sum, bool B_ALONG_K, int ROWS, class T>
__global__ void __launch_bounds__(OUTS *SLOTS, ROWS == 1 ? 4 : 2) few_rows(const float *a, int64_t a_row, int64_t a_col, operand<T> b, output c, int K) {
    enum { X = DEEP_FEW, FOURS = DEEP_FEW / 4 };
    __shared__ __align__(16) float ws[SLOTS * OUTS][X + 4], xs[SLOTS][ROWS * X + 4];
    __shared__ few_sums<ROWS> sums;
    const int groups = (c.M + ROWS - 1) / ROWS, m0 = (int)blockIdx.x % groups * ROWS, n0 = (int)blockIdx.x / groups * OUTS;
    const int rows = min(ROWS, c.M - m0), blocks = (K + TL_KB - 1) / TL_KB, slots = (int)blockDim.x / OUTS;
    const int t = (int)threadIdx.x, lane = t % 32, slot = t / OUTS, out = t % OUTS;
    few_begin(sums, c, m0, n0);
    for (int first = 0; first < blocks; first += slots) {
        const int k0 = (first + slot) * TL_KB, kc = min(TL_KB, K - k0);             /* of this chain; it may have none */
        const int warp_k0 = (first + t / 32 * 2) * TL_KB, warp_kc = min(TL_KB, K - warp_k0); /* of the warp's first */
        four<T> next[FOURS];
        float next_x[ROWS][2];
        sum acc[ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) acc[r].clear();
        /* From k = `from` of each block on: along k eight threads bring a line of an output and a block, else a thread its own column. */
        auto bring = [&](int from) {
            const int n = n0 + (B_ALONG_K ? lane / 8 : out), k = from + (B_ALONG_K ? warp_k0 + lane % 8 * 4 : k0);
            const T *p = b.p + (B_ALONG_K ? n * b.stride + k : k * b.stride + n);
            UNROLL for (int i = 0; i < FOURS; i++)
                if (B_ALONG_K) {
                    const int on = 4 * i / OUTS * TL_KB;
                    next[i] = take4(p + on, n + 4 * i % OUTS < b.extent ? K - k - on : 0, b.fours);
                    p += (4 * i + 4) % OUTS ? 4 * b.stride : (4 - OUTS) * b.stride;
                } else {
                    next[i] = {};
                    UNROLL for (int j = 0; j < 4; j++, p += b.stride)
                        if (n < b.extent && from + 4 * i + j < kc) next[i].at[j] = *p;
                }
            UNROLL for (int r = 0; r < ROWS; r++)
                UNROLL for (int i = 0; i < 2; i++) {
                    const int at = from + OUTS * i + out;
                    next_x[r][i] = r < rows && at < kc ? a[(m0 + r) * a_row + (k0 + at) * a_col] : 0;
                }
        };
        if (warp_kc > 0) bring(0);
        for (int from = 0; from < warp_kc; from += X) {
            UNROLL for (int i = 0; i < FOURS; i++) {
                float f[4];
                UNROLL for (int j = 0; j < 4; j++) f[j] = sum::operand(next[i].at[j]);
                float *line = B_ALONG_K ? &ws[t / 32 * 32 + 4 * i + lane / 8][lane % 8 * 4] : &ws[t][4 * i];
                *(float4 *)line = make_float4(f[0], f[1], f[2], f[3]);
            }
            UNROLL for (int r = 0; r < ROWS; r++)
                UNROLL for (int i = 0; i < 2; i++) xs[slot][X * r + OUTS * i + out] = sum::operand(next_x[r][i]);
            __syncwarp();
            if (from + X < warp_kc) bring(from + X);
            if (from + X <= kc || (sum::FILL > 1 && from < kc)) {
                UNROLL for (int i = 0; i < FOURS; i++) {
                    const float4 w = *(const float4 *)&ws[t][4 * i];
                    UNROLL for (int r = 0; r < ROWS; r++)
                        if (r < rows) {
                            const float4 x = *(const float4 *)&xs[slot][X * r + 4 * i];
                            acc[r].step(0, x.x, w.x), acc[r].step(1, x.y, w.y), acc[r].step(2, x.z, w.z), acc[r].step(3, x.w, w.w);
                        }
                }
                UNROLL for (int r = 0; r < ROWS; r++) acc[r].close();
            } else if constexpr (sum::FILL == 1) {
                for (int k = 0; k < kc - from; k++)
                    UNROLL for (int r = 0; r < ROWS; r++) acc[r].step(k, xs[slot][X * r + k], ws[t][k]);
            }
            __syncwarp();
        }
        UNROLL for (int r = 0; r < ROWS; r++) sums.block[slot][r][out] = acc[r].value();
        few_add(sums, c, first, blocks);
    }
    few_end(sums, c, m0, n0);
}

/* ---- which form ---- */

template <class sum, bool B_ALONG_K, class T>
static void few(output c, int K, const float *a, int64_t a_row, int64_t a_col, operand<T> b) {
    const unsigned threads = (unsigned)(OUTS * slots_for(K));
    if (c.M == 1) TL_LAUNCH((few_rows<sum, B_ALONG_K, 1, T>), few_grid(c.M, c.N, 1), threads, 0, a, a_row, a_col, b, c, K);
    else TL_LAUNCH((few_rows<sum, B_ALONG_K, 8, T>), few_grid(c.M, c.N, 8), threads, 0, a, a_row, a_col, b, c, K);
}

template <class sum, bool A_ALONG_K, bool B_ALONG_K, class T> static void many(output c, int K, operand<float> a, operand<T> b) {
    const unsigned large = tl__blocks(c.M, 128) * tl__blocks(c.N, 128), small = tl__blocks(c.M, 64) * tl__blocks(c.N, 64);
    if constexpr (sum::FILL == 1)
        if (large >= MANY_SQUARES) {
            TL_LAUNCH((many_rows<sum, 2, A_ALONG_K, B_ALONG_K, T>), large, SQUARE_THREADS, 0, a, b, c, K);
            return;
        }
    TL_LAUNCH((many_rows<sum, 1, A_ALONG_K, B_ALONG_K, T>), small, SQUARE_THREADS, 0, a, b, c, K);
}

/* Stored weights lie along k. */
template <class sum, class T> static void multiply_stored(output c, int K, const float *x, int64_t ldx, const T *w) {
    if (c.M <= 0 || c.N <= 0) return;
    const operand<T> b = operand_make(w, K, c.N);
    if (c.M <= FEW_ROWS || K == 0) few<sum, true>(c, K, x, ldx, 1, b);
    else many<sum, true, true>(c, K, operand_make(x, ldx, c.M), b);
}

template <class sum>
static void multiply(output c, int K, const float *a, int64_t a_row, int64_t a_col, const float *b, int64_t b_row, int64_t b_col) {
    const bool a_along = a_col == 1, b_along = b_row == 1;
    if (c.M <= 0 || c.N <= 0) return;
    const operand<float> B = operand_make(b, b_along ? b_col : b_row, c.N);
    if (c.M <= FEW_ROWS || K == 0) {
        if (b_along) few<sum, true>(c, K, a, a_row, a_col, B);
        else few<sum, false>(c, K, a, a_row, a_col, B);
        return;
    }
    const operand<float> A = operand_make(a, a_along ? a_row : a_col, c.M);
    if (a_along && b_along) many<sum, true, true>(c, K, A, B);
    else if (a_along) many<sum, true, false>(c, K, A, B);
    else if (b_along) many<sum, false, true>(c, K, A, B);
    else many<sum, false, false>(c, K, A, B);
}

/* ---- the table's entries ---- */

static void cuda_gemm(tl_ctx *ctx, float *c, int64_t ldc, int M, int N, int K, const float *a, int64_t a_row, int64_t a_col, const float *b,
                      int64_t b_row, int64_t b_col, const float *bias, bool accumulate) {
    multiply<f32_sum>(output_make(c, ldc, M, N, bias, accumulate), K, a, a_row, a_col, b, b_row, b_col);
    tl__cuda_wait("gemm");
}
static void cuda_gemm_bf16(tl_ctx *ctx, float *c, int64_t ldc, int M, int N, int K, const float *a, int64_t a_row, int64_t a_col, const float *b,
                           int64_t b_row, int64_t b_col, const float *bias, bool accumulate) {
    multiply<bf16_sum>(output_make(c, ldc, M, N, bias, accumulate), K, a, a_row, a_col, b, b_row, b_col);
    tl__cuda_wait("gemm_bf16");
}

template <class sum, class T> static void linear(const tl_product *products, int count, const float *x, int64_t ldx, int R, const char *name) {
    for (const tl_product *p = products; p < products + count; p++)
        multiply_stored<sum>(output_make(p->y, p->ldy, R, p->w->N, p->bias, false), p->w->K, x, ldx, (const T *)p->w->data);
    tl__cuda_wait(name);
}
static void cuda_linear_f32(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R) {
    linear<f32_sum, float>(products, count, x, ldx, R, "linear_f32");
}
static void cuda_linear_f16(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R) {
    linear<f32_sum, f16>(products, count, x, ldx, R, "linear_f16");
}
static void cuda_linear_bf16(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R) {
    linear<bf16_sum, bf16>(products, count, x, ldx, R, "linear_bf16");
}

void tl__cuda_gemm(tl_ops *ops) {
    ops->gemm = cuda_gemm;
    ops->gemm_bf16 = cuda_gemm_bf16;
    ops->linear_f32 = cuda_linear_f32;
    ops->linear_f16 = cuda_linear_f16;
    ops->linear_bf16 = cuda_linear_bf16;
}
