/* elementary.h — exp, log, tanh, erf, sin, cos for the f32 contract: our own polynomials, in fmaf and exactly rounded
 * operations only, so that they give the same bits on every CPU and in every vector width (law L1: no libm).
 *
 * Beside each: its largest error in ulp over all floats of its range, against libm in double (every bit pattern
 * visited: TL_EXHAUSTIVE=1 tests/base/test_elementary.c; the test suite visits a sample). The vector forms
 * (kernels/cpu/elementary16.h) run the same operations in the same order and are compared bit for bit. */
#ifndef TL_BASE_ELEMENTARY_H
#define TL_BASE_ELEMENTARY_H

/* Before each function: nothing; for a device, which compiles elementary.c for itself (kernels/cuda/cuda.h), what makes
 * it the device's. */
#ifndef TL_DEVICE
#define TL_DEVICE
#endif

TL_DEVICE float tl__exp(float x);  /* 0.8914 ulp. 0 below −104, +inf above 88.7…; NaN in, NaN out, here and below */
TL_DEVICE float tl__log(float x);  /* 0.5001 ulp. Natural logarithm; log(0) = −inf, negative → NaN */
TL_DEVICE float tl__tanh(float x); /* 1.4985 ulp */
TL_DEVICE float tl__erf(float x);  /* 1.0638 ulp */
TL_DEVICE float tl__sin(float x);  /* 0.5001 ulp for |x| up to 2^20: enough for RoPE angles of a million positions; */
TL_DEVICE float tl__cos(float x);  /* 0.5001 ulp likewise; NaN beyond 2^30, both */
TL_DEVICE float tl__sigmoid(float x); /* 2.4020 ulp. 1 / (1 + exp(−x)) */

/* For tables made once (schedules, RoPE frequencies): double, own polynomials too; errors in ulp of double, sampled. */
double tl__cos_f64(double x);                     /* 1.6 ulp for |x| up to 2^20; NaN beyond 2^30 */
double tl__pow_f64(double base, double exponent); /* 1.1 ulp; base > 0 and both finite, else NaN */

#endif
