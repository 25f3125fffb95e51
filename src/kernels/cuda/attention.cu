/* attention.cu */
#include "kernels/cuda/cuda.h"

void tl__cuda_attention(tl_ops *ops) {
}
