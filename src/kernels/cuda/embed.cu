/* embed.cu */
#include "kernels/cuda/cuda.h"

void tl__cuda_embed(tl_ops *ops) {
}
