/* blocks.h — stored numbers to f32 and back: what the bytes of each type mean.
 *
 * Widening is exact where the type is a float; of a quantised type it is ggml's definition, one f32 operation after the
 * other in its order, so that the result has the bits of its reference. */
#ifndef TL_BASE_BLOCKS_H
#define TL_BASE_BLOCKS_H

#include "base/half.h"
#include "base/type.h"

/* F32, F16, BF16, F8_* and every quantised type. */
bool tl__can_widen(tl_type type);
/* out[n] of n elements, whole blocks. `in` needs no alignment. */
void tl__widen(float *out, tl_type type, const void *in, int64_t n);

/* F32, F16, BF16 (nearest, ties to even), Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K. */
bool tl__can_narrow(tl_type type);
/* n finite elements, whole blocks; the bytes of ggml's reference quantiser without importance weights. */
void tl__narrow(void *out, tl_type type, const float *in, int64_t n);

#endif
