/* elementary.h — exp, log, tanh, erf, sin, cos for the f32 contract: our own polynomials, in fmaf and exactly rounded
 * operations only, so that they give the same bits on every CPU and in every vector width (law L1: no libm).
 *
 * Each states its largest error in ulp, measured over all floats of its range in tests/base/test_elementary.c. The vector
 * forms (kernels/cpu/elementary16.h) run the same operations in the same order and are compared bit for bit. */
#ifndef TL_BASE_ELEMENTARY_H
#define TL_BASE_ELEMENTARY_H

float tl__exp(float x);   /* e^x; 0 below −104, +inf above 88.7…; NaN in, NaN out */
float tl__log(float x);   /* natural logarithm; log(0) = −inf, negative → NaN */
float tl__tanh(float x);
float tl__erf(float x);
float tl__sin(float x);   /* |x| up to 2^20: enough for RoPE angles of a million positions */
float tl__cos(float x);
float tl__sigmoid(float x); /* 1 / (1 + exp(−x)) */

/* For tables made once (schedules, RoPE frequencies): double, own polynomials too, error under 4 ulp of double. */
double tl__cos_f64(double x);
double tl__pow_f64(double base, double exponent); /* base > 0 */

#endif
