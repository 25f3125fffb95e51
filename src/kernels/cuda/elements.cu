/* elements.cu — what is done element by element: activations, the gated units, sums and the soft-cap. */
#include "kernels/cuda/cuda.h"

enum { THREADS = 256 };

/* Every element by one thread; a thread takes those that are a grid apart. */
#define FOR_EACH(i, n)                                                                                                 \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (int64_t)gridDim.x * blockDim.x)

static unsigned grid_for(int64_t n) {
    const unsigned blocks = tl__blocks(n, THREADS);
    return blocks < 65535 ? blocks : 65535;
}

__global__ void add(float *out, const float *x, const float *y, int64_t n) {
    FOR_EACH(i, n) out[i] = x[i] + y[i];
}
static void cuda_add(tl_ctx *ctx, float *out, const float *x, const float *y, int64_t n) {
    if (n <= 0) return;
    TL_LAUNCH(add, grid_for(n), THREADS, 0, out, x, y, n);
    tl__cuda_wait("add");
}

void tl__cuda_elements(tl_ops *ops) {
    ops->add = cuda_add;
}
