/* product.h — what the products of gemm.cu and stored.cu share: four numbers at a time, outputs, and the two ways in which block sums
 * of TL_KB come to them in order.
 *
 * Many rows are made in squares of outputs; a thread adds the sums of a block of k to outputs of its own where they lie, once in
 * TL_KB of k, as the contract reads: C + s0, then + s1. That is a byte of C for two of the operands, which the L2 has, and spares a
 * second register for each output.
 *
 * Few rows wait for the weights' bytes. Sixteen outputs are a block's, and its threads are outputs by SLOTS blocks of k, which are chains of
 * their own; they leave their sums to each other, which are then added in order. */
#ifndef TL_KERNELS_CUDA_PRODUCT_H
#define TL_KERNELS_CUDA_PRODUCT_H

#include "kernels/cuda/cuda.h"

/* Of rows, that are few: beyond, the squares of many are filled well enough. */
enum { FEW_ROWS = 32 };

/* ---- four at a time ---- */

template <class T> struct alignas(4 * sizeof(T)) four {
    T at[4];
};

/* The `have` of them that there are, from p; zeros for the others. fours: p is aligned for all at once. */
template <class T> static __device__ __forceinline__ four<T> take4(const T *p, int have, bool fours) {
    if (fours && have >= 4) return *(const four<T> *)p;
    four<T> x = {};
    UNROLL for (int i = 0; i < 4; i++)
        if (i < have) x.at[i] = p[i];
    return x;
}

/* Whether rows at p, `stride` elements apart, begin where four can be taken. */
template <class T> static bool in_fours(const T *p, int64_t stride) {
    return (uintptr_t)p % (4 * sizeof(T)) == 0 && stride % 4 == 0;
}

/* ---- outputs ---- */

struct output {
    float *p; /* [M, N] */
    int64_t ld;
    int M, N;
    const float *bias; /* [N], or NULL */
    bool accumulate, fours;
};
TL_POINTS_TO(output, x.p, x.bias)

static inline output output_make(float *p, int64_t ld, int M, int N, const float *bias, bool accumulate) {
    return output{p, ld, M, N, bias, accumulate, in_fours(p, ld)};
}

/* A block's sums of outputs n … n + 3 of row m: added to what is there, or written; with the bias where the block is the last. */
static __device__ __forceinline__ void settle(const output &c, int m, int n, const float sum[4], bool added, bool last) {
    const int have = c.N - n;
    if (m >= c.M || have <= 0) return;
    float *at = c.p + m * c.ld + n;
    four<float> y = take4(at, added ? have : 0, c.fours);
    UNROLL for (int i = 0; i < 4; i++) {
        y.at[i] = added ? y.at[i] + sum[i] : sum[i];
        if (last && c.bias && i < have) y.at[i] += c.bias[n + i];
    }
    if (c.fours && have >= 4) *(four<float> *)at = y;
    else
        UNROLL for (int i = 0; i < 4; i++)
            if (i < have) at[i] = y.at[i];
}

/* ---- many rows: where a thread's outputs lie in a square of 64·H, in H·H fours by four ---- */

enum { SQUARE_THREADS = 256 };
#ifdef TL_CUDA_EMULATED
enum { MANY_SQUARES = 4 };
#else
enum { MANY_SQUARES = 128 }; /* as many as keep the processors of a device busy */
#endif

/* A warp has 16·H rows and 32·H outputs, as four by eight threads: what they read of a tile's line is 64 bytes of rows and 128 of outputs at
 * a time, no two of them in one bank. */
struct spot {
    int row, col; /* and 16 rows on, 32 outputs on, for each further four */
};
template <int H> static __device__ __forceinline__ spot spot_of_thread() {
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    return spot{warp / 2 * (16 * H) + lane / 8 * 4, warp % 2 * (32 * H) + lane % 8 * 4};
}

/* ---- few rows ---- */

enum { OUTS = 16, SLOTS = 8 };

/* Blocks of k side by side, so many that a warp is whole. */
static inline int slots_for(int K) {
    const int blocks = (K + TL_KB - 1) / TL_KB;
    return blocks >= SLOTS ? SLOTS : blocks < 2 ? 2 : (blocks + 1) / 2 * 2;
}
/* Those who share weights run beside each other: rows first. */
static inline unsigned few_grid(int M, int N, int rows) {
    return tl__blocks(M, rows) * tl__blocks(N, OUTS);
}

/* Sums of ROWS by OUTS outputs. A total is always the same thread's. */
template <int ROWS> struct few_sums {
    float block[SLOTS][ROWS][OUTS], total[ROWS * OUTS];
};
template <int ROWS> static __device__ void few_begin(few_sums<ROWS> &s, const output &c, int m0, int n0) {
    for (int i = (int)threadIdx.x; i < ROWS * OUTS; i += (int)blockDim.x) {
        const int m = m0 + i / OUTS, n = n0 + i % OUTS;
        s.total[i] = c.accumulate && m < c.M && n < c.N ? c.p[m * c.ld + n] : 0;
    }
}
/* Blocks first … first + slots − 1, as far as there are: all threads of the block call it. */
template <int ROWS> static __device__ void few_add(few_sums<ROWS> &s, const output &c, int first, int blocks) {
    const int slots = min((int)blockDim.x / OUTS, blocks - first);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < ROWS * OUTS; i += (int)blockDim.x) {
        float total = s.total[i];
        for (int k = 0; k < slots; k++) {
            const float sum = s.block[k][i / OUTS][i % OUTS];
            total = first + k || c.accumulate ? total + sum : sum;
        }
        s.total[i] = total;
    }
    __syncthreads();
}
template <int ROWS> static __device__ void few_end(const few_sums<ROWS> &s, const output &c, int m0, int n0) {
    for (int i = (int)threadIdx.x; i < ROWS * OUTS; i += (int)blockDim.x) {
        const int m = m0 + i / OUTS, n = n0 + i % OUTS;
        if (m < c.M && n < c.N) c.p[m * c.ld + n] = c.bias ? s.total[i] + c.bias[n] : s.total[i];
    }
}

#endif
