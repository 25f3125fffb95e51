/* rows.h — what the operators over rows and elements share: how a row is spread over threads, its sum in the vector
 * order, and sweeps over elements, four at a time where they are aligned.
 *
 * A vector sum is sixteen chains and no more. A long row is a block's: 256 threads read it, coalesced, and hand it to the
 * first warp through tiles of block memory; while that adds one tile, all read the next. A short row is sixteen
 * threads', each of which reads its own lane's elements; a block has sixteen of them. Two tiles of 1,024 are 8 KiB, or 16
 * where a sum takes two numbers of an element: with 64 registers a thread, four blocks fit a multiprocessor by either. */
#ifndef TL_KERNELS_CUDA_ROWS_H
#define TL_KERNELS_CUDA_ROWS_H

#include <mutex>
#include "kernels/cuda/cuda.h"

/* Held by an operator whose launches hand something on in a file's device memory: several threads may call it. */
typedef std::lock_guard<std::mutex> tl_alone;

enum {
    TL_ROW_THREADS = 256, /* of a block, whether it has one row or sixteen */
    TL_SHORT_ROW = 512,   /* elements, up to which sixteen threads have a row */
    TL_ROW_TILE = 1024,   /* elements */
    TL_AHEAD = 4          /* elements that a thread reads before it uses the first */
};

/* How much is done at once of what may be any size: on a device, and where one is played so little that tests see several pieces. */
#ifdef TL_CUDA_EMULATED
#define TL_PIECE(device, played) (played)
#else
#define TL_PIECE(device, played) (device)
#endif

/* ---- rows ---- */

static inline dim3 tl__row_block(int64_t width) {
    return width <= TL_SHORT_ROW ? dim3(TL_LANES, TL_ROW_THREADS / TL_LANES) : dim3(TL_ROW_THREADS);
}
static inline unsigned tl__row_grid(int64_t rows, int64_t width) {
    return tl__blocks(rows, width <= TL_SHORT_ROW ? TL_ROW_THREADS / TL_LANES : 1);
}
/* This thread's row, which may lie past the last: such a row takes part with a width of 0, since all of a warp exchange sums. */
static __device__ inline int64_t tl__row(void) {
    return (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
}

/* This thread's elements of a row of n: of the row's T threads, thread x has x, x + T, …: always the same, so that what one pass wrote the
 * next may read. `read` of a few, then `use` of each: a store between would hold the loads up. */
template <class Read, class Use> static __device__ inline void tl__row_each(int64_t n, Read read, Use use) {
    const int64_t step = blockDim.x;
    for (int64_t c = threadIdx.x; c < n; c += TL_AHEAD * step) {
        decltype(read(c)) v[TL_AHEAD];
        for (int i = 0; i < TL_AHEAD; i++)
            if (c + i * step < n) v[i] = read(c + i * step);
        for (int i = 0; i < TL_AHEAD; i++)
            if (c + i * step < n) use(c + i * step, v[i]);
    }
}

static __device__ inline double tl__tree_sum(double lane) {
    for (int half = TL_LANES / 2; half; half /= 2) lane += __shfl_xor_sync(0xffffffffu, lane, half);
    return lane;
}
static __device__ inline float2 tl__tree_sum(float2 lane) {
    return make_float2(tl__tree_sum(lane.x), tl__tree_sum(lane.y));
}

/* V: what is read of an element; L: what a lane holds. */
template <class V, class L> struct tl_row_memory {
    V tile[2][TL_ROW_TILE];
    L total;
};

/* Σ over a row of n in the vector order: lane = fold(lane, read(c)) from zeros, then the tree; `use` may keep what was read. All of the
 * row's threads get it. All of the block call it. */
template <class V, class L, class Read, class Use, class Fold>
static __device__ inline L tl__row_sum(tl_row_memory<V, L> &memory, int64_t n, Read read, Use use, Fold fold) {
    L lane = {};
    if (blockDim.x == TL_LANES) {
        tl__row_each(n, read, [&](int64_t c, V v) {
            use(c, v);
            lane = fold(lane, v);
        });
        return tl__tree_sum(lane);
    }
    const bool adds = threadIdx.x < 32; /* both halves of the warp have the lanes, for the tree */
    int turn = 0;
    for (int64_t first = 0; first < n; first += TL_ROW_TILE, turn ^= 1) {
        V *const tile = memory.tile[turn];
        const int count = n - first < TL_ROW_TILE ? (int)(n - first) : TL_ROW_TILE;
        tl__row_each(count, [&](int64_t i) { return read(first + i); },
                     [&](int64_t i, V v) {
                         use(first + i, v);
                         tile[i] = v;
                     });
        __syncthreads(); /* and who comes here again has added the other tile */
        if (adds)
            for (int i = threadIdx.x % TL_LANES; i < count; i += TL_LANES) lane = fold(lane, tile[i]);
    }
    if (adds) lane = tl__tree_sum(lane);
    if (threadIdx.x == 0) memory.total = lane;
    __syncthreads();
    return memory.total;
}

/* The largest of the row's threads' numbers; what is no number is passed over. `warps` is block memory, used once. */
static __device__ inline float tl__row_max(float *warps, float most) {
    for (int half = blockDim.x == TL_LANES ? TL_LANES / 2 : 16; half; half /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, most, half);
        most = other > most ? other : most;
    }
    if (blockDim.x == TL_LANES) return most;
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = most;
    __syncthreads();
    for (int w = 0; w < TL_ROW_THREADS / 32; w++) most = warps[w] > most ? warps[w] : most;
    return most;
}

/* ---- sweeps over R rows of n elements, in blocks of TL_ROW_THREADS ---- */

#define TL_SWEEP_ROWS(r, R) for (int64_t r = blockIdx.y; r < (R); r += gridDim.y)
#define TL_SWEEP(i, from, to)                                                                                          \
    for (int64_t i = (from) + (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (to); i += (int64_t)gridDim.x * blockDim.x)

static inline dim3 tl__sweep_grid(int64_t R, int64_t n) {
    const int64_t across = (n + 4 * TL_ROW_THREADS - 1) / (4 * TL_ROW_THREADS);
    return dim3((unsigned)(across < 65535 ? across : 65535), (unsigned)(R < 65535 ? R : 65535));
}

/* n elements as fours, where all the pointers allow it; else none. */
static __device__ inline bool tl__aligned(const void *p) {
    return ((uintptr_t)p & 15) == 0;
}
template <class... P> static __device__ inline int64_t tl__fours(int64_t n, const P *...p) {
    return (tl__aligned(p) && ...) ? n / 4 : 0;
}
static __device__ inline float4 tl__four(const float *x, int64_t i) {
    return reinterpret_cast<const float4 *>(x)[i];
}
static __device__ inline void tl__put_four(float *x, int64_t i, float4 four) {
    reinterpret_cast<float4 *>(x)[i] = four;
}

#endif
