/* loss.cu */
#include "kernels/cuda/cuda.h"

void tl__cuda_loss(tl_ops *ops) {
}
