/* cuda.h — what the device's operators are written with: CUDA C++ by nvcc, or the same source by a C++ compiler over
 * tests/kernels/cuda_emulated.h, where one thread plays the device.
 *
 * The operators hold the contracts of ops.h, to the bit as on the CPU: a chain of fused multiply-adds is one thread's,
 * sums across threads go in the fixed trees, and no result depends on how many blocks there are or when they run. So: no
 * atomics, no fast intrinsics (compiled with -fmad=false, IEEE division and square root, denormals kept), and the
 * elementary functions are those of base/elementary.c. */
#ifndef TL_KERNELS_CUDA_CUDA_H
#define TL_KERNELS_CUDA_CUDA_H

#ifdef TL_CUDA_EMULATED
#include "kernels/cuda_emulated.h"
#else
#include <cuda_runtime.h>
/* kernel<<<grid, block, bytes>>>(…) and wait. A kernel with commas in its template's arguments goes in parentheses. */
#define TL_LAUNCH(kernel, grid, block, bytes, ...)                                                                     \
    do {                                                                                                               \
        (kernel)<<<(grid), (block), (bytes), tl__cuda_stream>>>(__VA_ARGS__);                                          \
        tl__cuda_launched(#kernel);                                                                                    \
    } while (0)
/* Memory of a block that is sized at the launch: `type *name`. */
#define TL_BLOCK_MEMORY(type, name)                                                                                    \
    extern __shared__ __align__(16) unsigned char tl__block_memory[];                                                  \
    type *name = (type *)tl__block_memory
extern cudaStream_t tl__cuda_stream;
#endif

#ifdef TL_CUDA_EMULATED
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL _Pragma("unroll")
#endif

extern "C" {
#include "kernels/ops.h"
}
#include <math.h>
#include <stdint.h>
#include <string.h>

/* The memory that a structure x points to which kernels are passed: the played device looks at it, too, before a launch. */
#ifdef TL_CUDA_EMULATED
#define TL_POINTS_TO(structure, ...)                                                                                   \
    static inline void check_argument(const structure &x) {                                                            \
        for (const void *at : std::initializer_list<const void *>{__VA_ARGS__}) emulated::check_memory(at);            \
    }
#else
#define TL_POINTS_TO(structure, ...)
#endif
TL_POINTS_TO(tl_kv, x.k, x.v)
TL_POINTS_TO(tl_rows, x.token, x.pos, x.seq_row, x.seq_block, x.block)

/* The elementary functions, compiled for the device from their one source. */
#define TL_DEVICE __device__ inline
#define TL_F32_ALONE
#include "base/elementary.c"

/* module.cu: a launch is checked. What fails on the device cannot be gone on from: the program says what and ends. */
void tl__cuda_launched(const char *kernel);
/* Waits for all that was launched. Every operator ends with it. */
void tl__cuda_wait(const char *what);

/* Memory that the CPU shares, zeroed; NULL: there is none. */
void *tl__cuda_take(size_t bytes);
void tl__cuda_give(void *memory);
/* The device's own, for what an operator hands from one kernel to the next: holds nothing until it is written, and is the next call's. It
 * grows to the largest that was asked for, and stays. */
void *tl__cuda_scratch(size_t bytes);

/* Blocks of `per` for n. */
static inline unsigned tl__blocks(int64_t n, int64_t per) {
    return (unsigned)((n + per - 1) / per);
}

/* The vector order's tree over 16 lanes, l[j]+l[j+8], then +4, +2, +1, lane j being held by thread j of each 16 of a warp: all of
 * the warp call it, and all of the 16 get the sum. Addition commutes, so the partners' order does not matter. */
static __device__ inline float tl__tree_sum(float lane) {
    for (int half = TL_LANES / 2; half; half /= 2) lane += __shfl_xor_sync(0xffffffffu, lane, half);
    return lane;
}

/* peak.cu */
void tl__cuda_measure(double seconds, double *f32_flops, double *read_bytes_per_second);

/* What each file puts into a table. */
void tl__cuda_gemm(tl_ops *ops);
void tl__cuda_stored(tl_ops *ops);
void tl__cuda_attention(tl_ops *ops);
void tl__cuda_attention_backward(tl_ops *ops);
void tl__cuda_norm(tl_ops *ops);
void tl__cuda_elements(tl_ops *ops);
void tl__cuda_embed(tl_ops *ops);
void tl__cuda_loss(tl_ops *ops);
void tl__cuda_optimizer(tl_ops *ops);
void tl__cuda_moe(tl_ops *ops);

#endif
