/* stored.cu */
#include "kernels/cuda/cuda.h"

void tl__cuda_stored(tl_ops *ops) {
}
