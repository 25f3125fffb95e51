/* optimizer.cu */
#include "kernels/cuda/cuda.h"

void tl__cuda_optimizer(tl_ops *ops) {
}
