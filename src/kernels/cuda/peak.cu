/* peak.cu — what the device can do: multiply-adds of f32 in registers, and bytes read of its memory, each the best of
 * several short trials by the host's clock, a trial being long against a launch. */
#include "kernels/cuda/cuda.h"

#include <time.h>

enum { THREADS = 256, CHAINS = 8, BLOCKS = 1024, TRIALS = 5 };

#ifdef TL_CUDA_EMULATED
enum { ROUNDS = 2, READ_BYTES = 1 << 16 };
#else
enum { ROUNDS = 4096, READ_BYTES = 1 << 30 };
#endif

/* Towards a/(1 - m) = 1: neither denormal nor infinite, however long it runs. */
__global__ void multiply_add(float *out, float m, float a, int rounds) {
    float x[CHAINS];
    for (int i = 0; i < CHAINS; i++) x[i] = (float)(threadIdx.x + i);
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < CHAINS; i++) x[i] = fmaf(x[i], m, a);
    float sum = 0;
    for (int i = 0; i < CHAINS; i++) sum += x[i];
    out[(int64_t)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

__global__ void read_all(float *out, const float4 *from, int64_t n) {
    float4 sum = make_float4(0, 0, 0, 0);
    const int64_t step = (int64_t)gridDim.x * blockDim.x, first = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (int64_t i = first; i < n; i += step) {
        const float4 x = from[i];
        sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
    }
    out[first] = sum.x + sum.y + sum.z + sum.w;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The least time that one call of `work` takes, within about so many seconds. */
template <class F> static double least_seconds(double seconds, F work) {
    double least = 1e30;
    const double begun = now();
    for (int i = 0; i < TRIALS || now() < begun + seconds; i++) {
        const double from = now();
        work();
        const double took = now() - from;
        if (i > 0 && took < least) least = took; /* the first brings memory and clocks up */
    }
    return least;
}

void tl__cuda_measure(double seconds, double *f32_flops, double *read_bytes_per_second) {
    *f32_flops = *read_bytes_per_second = 0;
    float *out = (float *)tl__cuda_take(sizeof(float) * BLOCKS * THREADS);
    float4 *from = (float4 *)tl__cuda_take(READ_BYTES);
    if (out) {
        const double took = least_seconds(seconds / 2, [=] {
            TL_LAUNCH(multiply_add, BLOCKS, THREADS, 0, out, 0.5f, 0.5f, (int)ROUNDS);
            tl__cuda_wait("multiply_add");
        });
        *f32_flops = 2.0 * BLOCKS * THREADS * CHAINS * ROUNDS / took;
    }
    if (out && from) {
        const double took = least_seconds(seconds / 2, [=] {
            TL_LAUNCH(read_all, BLOCKS, THREADS, 0, out, from, (int64_t)(READ_BYTES / sizeof(float4)));
            tl__cuda_wait("read_all");
        });
        *read_bytes_per_second = READ_BYTES / took;
    }
    tl__cuda_give(out), tl__cuda_give(from);
}
