/* moe.cu */
#include "kernels/cuda/cuda.h"

void tl__cuda_moe(tl_ops *ops) {
}
