/* attention_backward.cu */
#include "kernels/cuda/cuda.h"

void tl__cuda_attention_backward(tl_ops *ops) {
}
