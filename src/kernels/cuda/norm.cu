/* norm.cu */
#include "kernels/cuda/cuda.h"

void tl__cuda_norm(tl_ops *ops) {
}
