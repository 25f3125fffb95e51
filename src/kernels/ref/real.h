/* real.h — the number type of ref/. The library compiles these files with real = float: the definition of the f32
 * contract. A test defines TL_REF_DOUBLE and includes the .c files themselves: the same source in double, for finite
 * differences. The operators are static (names ref_…, unlike in every file); only the f32 build has the fill function.
 */
#ifndef TL_KERNELS_REF_REAL_H
#define TL_KERNELS_REF_REAL_H

#include <math.h>
#include "base/elementary.h"
#include "kernels/table.h"

#ifdef TL_REF_DOUBLE
typedef double real;
#define FMA(a, b, c) fma(a, b, c)
#define SQRT(x) sqrt(x)
#define ABS(x) fabs(x)
#define EXP(x) exp(x)
#define LOG(x) log(x)
#define TANH(x) tanh(x)
#define SIGMOID(x) (1.0 / (1.0 + exp(-(x))))
#else
typedef float real;
#define FMA(a, b, c) fmaf(a, b, c)
#define SQRT(x) sqrtf(x)
#define ABS(x) fabsf(x)
#define EXP(x) tl__exp(x)
#define LOG(x) tl__log(x)
#define TANH(x) tl__tanh(x)
#define SIGMOID(x) tl__sigmoid(x)
#endif
#define REAL(x) ((real)(x)) /* constants, rounded once */

/* The fixed tree over 16 lanes: l[j]+l[j+8], then +4, +2, +1. */
static inline real tree_sum(const real lane[TL_LANES]) {
    real t[TL_LANES / 2];
    for (int j = 0; j < 8; j++) t[j] = lane[j] + lane[j + 8];
    for (int half = 4; half; half /= 2)
        for (int j = 0; j < half; j++) t[j] = t[j] + t[j + half];
    return t[0];
}

#endif
