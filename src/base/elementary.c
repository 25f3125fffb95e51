/* elementary.c — exp, log, tanh, erf, sigmoid, sin and cos of the f32 contract, and the double forms that tables are
 * made with. It promises the same bits on every CPU: only + − × ÷, fma and exactly rounded conversions appear (law L1).
 *
 * exp, tanh, erf and sigmoid are in f32 and free of branches, because kernels/cpu/elementary16.h runs the very same
 * operations sixteen at a time. log, sin and cos are needed once a row or once a table: they are evaluated in double
 * and rounded once, which leaves them within a hair of half an ulp. Coefficients of the f32 polynomials are our own
 * minimax fits (Remez exchange, coefficients rounded to f32 from the lowest power up, the rest refitted each time);
 * those of the double ones are the Taylor coefficients.
 *
 * Selections are written `c < x ? c : x` with the constant first: like minps, they hand a NaN in x on. */
#include "base/elementary.h"
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "base/half.h"

/* 1.5·2^23: adding it leaves round-to-nearest-even of the addend in the low bits of the sum. */
#define ROUND_MAGIC 0x1.8p23f
#define LOG2_E 0x1.715476p+0f
#define LN2_HIGH 0x1.62e400p-1f /* 15 bits: n·LN2_HIGH is exact for |n| < 2^9 */
#define LN2_LOW 0x1.7f7d1cp-20f

/* (e^r − 1 − r) / r² for |r| ≤ ln2/2. */
static TL_DEVICE float exp_tail(float r) {
    float p = 0x1.6ac74cp-10f;
    p = fmaf(p, r, 0x1.123de0p-7f);
    p = fmaf(p, r, 0x1.555858p-5f);
    p = fmaf(p, r, 0x1.55548cp-3f);
    return fmaf(p, r, 0x1.fffffcp-2f);
}

TL_DEVICE float tl__exp(float x) {
    x = 89.0f < x ? 89.0f : x;
    x = -104.0f > x ? -104.0f : x;
    float shifted = fmaf(x, LOG2_E, ROUND_MAGIC);
    float n = shifted - ROUND_MAGIC;
    float r = fmaf(n, -LN2_LOW, fmaf(n, -LN2_HIGH, x));
    float p = fmaf(fmaf(exp_tail(r), r, 1.0f), r, 1.0f);
    /* 2^n as two factors, so that n = 128 and results below 2^−126 come out with one rounding. */
    int32_t i = (int32_t)(tl__f32_to_bits(shifted) - tl__f32_to_bits(ROUND_MAGIC)), half = i >> 1;
    return p * tl__f32_from_bits((uint32_t)(half + 127) << 23) * tl__f32_from_bits((uint32_t)(i - half + 127) << 23);
}

TL_DEVICE float tl__sigmoid(float x) {
    float e = tl__exp(-fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (e + 1.0f);
}

/* Below 0.55: x + x³·P(x²). Above: m/(m + 2) with m = e^2x − 1 = 2^n·(e^r − 1) + (2^n − 1). */
TL_DEVICE float tl__tanh(float x) {
    float a = fabsf(x), z = a * a;
    float p = -0x1.9c94b8p-8f;
    p = fmaf(p, z, 0x1.598278p-6f);
    p = fmaf(p, z, -0x1.b931fcp-5f);
    p = fmaf(p, z, 0x1.110d6ap-3f);
    p = fmaf(p, z, -0x1.55554cp-2f);
    float low = fmaf(p * z, a, a);

    float y = 10.0f < a ? 10.0f : a; /* tanh rounds to 1 from 9.02 on */
    y = y + y;
    float shifted = fmaf(y, LOG2_E, ROUND_MAGIC);
    float n = shifted - ROUND_MAGIC;
    float r = fmaf(n, -LN2_LOW, fmaf(n, -LN2_HIGH, y));
    float scale = tl__f32_from_bits((tl__f32_to_bits(shifted) << 23) + (127u << 23));
    float m = fmaf(scale, fmaf(r * r, exp_tail(r), r), scale - 1.0f);
    float high = m / (m + 2.0f);
    return copysignf(a < 0.55f ? low : high, x);
}

/* Below 0.921875: x + x·P(x²). Above: 1 − exp(−Q(x)), Q fitted to −log(erfc x). */
TL_DEVICE float tl__erf(float x) {
    float a = fabsf(x);
    a = 3.9375f < a ? 3.9375f : a; /* erf rounds to 1 from 3.919 on */
    float z = a * a;
    float p = 0x1.4f562ep-14f;
    p = fmaf(p, z, -0x1.a606c2p-11f);
    p = fmaf(p, z, 0x1.5449e4p-8f);
    p = fmaf(p, z, -0x1.b80118p-6f);
    p = fmaf(p, z, 0x1.ce2d64p-4f);
    p = fmaf(p, z, -0x1.812740p-2f);
    p = fmaf(p, z, 0x1.06eba8p-3f);
    float q = 0x1.624268p-16f;
    q = fmaf(q, a, -0x1.c7d306p-12f);
    q = fmaf(q, a, 0x1.116f4ap-8f);
    q = fmaf(q, a, -0x1.9b9c44p-6f);
    q = fmaf(q, a, 0x1.bb8950p-4f);
    q = fmaf(q, a, 0x1.44456cp-1f);
    q = fmaf(q, a, 0x1.21280cp+0f);
    q = fmaf(q, a, -0x1.6f6492p-13f);
    float low = fmaf(a, p, a), high = 1.0f - tl__exp(-q);
    return copysignf(a < 0.921875f ? low : high, x);
}

/* x = 2^k·m with m in [√½, √2); log m = 2·atanh(s), s = (m − 1)/(m + 1). Doubles hold every f32, denormals too, as
 * normals. */
TL_DEVICE float tl__log(float x) {
    if (!(x > 0.0f)) return x == 0.0f ? -HUGE_VALF : tl__f32_from_bits(0x7fc00000u);
    if (tl__f32_to_bits(x) == 0x7f800000u) return x;
    double d = x;
    uint64_t bits;
    memcpy(&bits, &d, sizeof bits);
    int64_t k = (int64_t)((bits - 0x3fe6a09e667f3bcdull) >> 52 << 52) >> 52;
    bits -= (uint64_t)k << 52;
    memcpy(&d, &bits, sizeof d);
    double s = (d - 1.0) / (d + 1.0), z = s * s;
    double p = 2.0 / 17;
    p = fma(p, z, 2.0 / 15);
    p = fma(p, z, 2.0 / 13);
    p = fma(p, z, 2.0 / 11);
    p = fma(p, z, 2.0 / 9);
    p = fma(p, z, 2.0 / 7);
    p = fma(p, z, 2.0 / 5);
    p = fma(p, z, 2.0 / 3);
    p = fma(p * z, s, 2.0 * s);
    return (float)fma((double)k, 0x1.62e42fefa39efp-1, p);
}

/* sin(x + quarter·π/2): x − n·π/2 is exact in its first step (both are multiples of 2^−52 and cancel below 1). */
static TL_DEVICE double sin_quarter(double x, int quarter) {
    double shifted = fma(x, 0x1.45f306dc9c883p-1, 0x1.8p52);
    double n = shifted - 0x1.8p52;
    double r = fma(n, -0x1.1a62633145c07p-54, fma(n, -0x1.921fb54442d18p+0, x));
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    int octant = (int)((bits + (uint64_t)quarter) & 3);
    double z = r * r, p;
    if (octant & 1) {
        p = 1.0 / 2432902008176640000.0;
        p = fma(p, z, -1.0 / 6402373705728000.0);
        p = fma(p, z, 1.0 / 20922789888000.0);
        p = fma(p, z, -1.0 / 87178291200.0);
        p = fma(p, z, 1.0 / 479001600.0);
        p = fma(p, z, -1.0 / 3628800.0);
        p = fma(p, z, 1.0 / 40320.0);
        p = fma(p, z, -1.0 / 720.0);
        p = fma(p, z, 1.0 / 24.0);
        p = fma(p, z, -0.5);
        p = fma(p, z, 1.0);
    } else {
        p = 1.0 / 51090942171709440000.0;
        p = fma(p, z, -1.0 / 121645100408832000.0);
        p = fma(p, z, 1.0 / 355687428096000.0);
        p = fma(p, z, -1.0 / 1307674368000.0);
        p = fma(p, z, 1.0 / 6227020800.0);
        p = fma(p, z, -1.0 / 39916800.0);
        p = fma(p, z, 1.0 / 362880.0);
        p = fma(p, z, -1.0 / 5040.0);
        p = fma(p, z, 1.0 / 120.0);
        p = fma(p, z, -1.0 / 6.0);
        p = fma(p * z, r, r);
    }
    return octant & 2 ? -p : p;
}

#define TRIG_LIMIT 0x1p30 /* beyond it the reduction would lose bits: NaN rather than a wrong number */

TL_DEVICE float tl__sin(float x) {
    if (!(fabsf(x) <= (float)TRIG_LIMIT)) return tl__f32_from_bits(0x7fc00000u);
    return x == 0.0f ? x : (float)sin_quarter(x, 0);
}
TL_DEVICE float tl__cos(float x) {
    if (!(fabsf(x) <= (float)TRIG_LIMIT)) return tl__f32_from_bits(0x7fc00000u);
    return (float)sin_quarter(x, 1);
}

#ifndef TL_F32_ALONE /* what tables are made with */
double tl__cos_f64(double x) {
    if (!(fabs(x) <= TRIG_LIMIT)) return (double)tl__f32_from_bits(0x7fc00000u);
    return sin_quarter(x, 1);
}

/* Pairs of doubles: value high + low, |low| ≤ ulp(high)/2 (Dekker 1971, with fma for the product's error). */
typedef struct pair {
    double high, low;
} pair;
static pair pair_sum(double a, double b) { /* exact; any magnitudes (Knuth) */
    double s = a + b, t = s - a;
    return (pair){s, (a - (s - t)) + (b - t)};
}
static pair pair_add(pair a, pair b) {
    pair s = pair_sum(a.high, b.high);
    return pair_sum(s.high, s.low + (a.low + b.low));
}
static pair pair_mul(pair a, pair b) {
    double p = a.high * b.high;
    return pair_sum(p, fma(a.high, b.high, -p) + fma(a.high, b.low, a.low * b.high));
}
static pair pair_div(double a, double b) {
    double q = a / b;
    return pair_sum(q, fma(-q, b, a) / b);
}

/* base^exponent = e^(exponent·log base), the logarithm to about 2^−70 so that 700 times it still has 53 good bits. */
double tl__pow_f64(double base, double exponent) {
    if (exponent == 0.0 || base == 1.0) return 1.0;
    if (!(base > 0.0) || !(base <= 0x1.fffffffffffffp1023) || !(fabs(exponent) <= 0x1.fffffffffffffp1023))
        return (double)tl__f32_from_bits(0x7fc00000u);
    double m = base;
    int64_t k = 0;
    if (m < 0x1p-1022) m *= 0x1p54, k = -54;
    uint64_t bits;
    memcpy(&bits, &m, sizeof bits);
    int64_t e = (int64_t)((bits - 0x3fe6a09e667f3bcdull) >> 52 << 52) >> 52;
    bits -= (uint64_t)e << 52;
    memcpy(&m, &bits, sizeof m);
    k += e;

    /* (m − 1) is exact; m + 1 is a pair whose low part enters the quotient to first order. */
    pair below = pair_sum(m, 1.0), s = pair_div(m - 1.0, below.high);
    s = pair_sum(s.high, s.low - s.high * below.low / below.high);
    pair z = pair_mul(s, s);
    double t = 2.0 / 25;
    for (int odd = 23; odd >= 7; odd -= 2) t = fma(t, z.high, 2.0 / odd);
    pair p = pair_add(pair_mul((pair){t, 0.0}, z), (pair){0x1.999999999999ap-2, -0x1.999999999999ap-56});
    p = pair_add(pair_mul(p, z), (pair){0x1.5555555555555p-1, 0x1.5555555555555p-55});
    p = pair_mul(pair_mul(p, z), s);
    p = pair_add((pair){2.0 * s.high, 2.0 * s.low}, p);
    pair ln2 = {0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56};
    pair y = pair_add(pair_mul((pair){(double)k, 0.0}, ln2), p);

    double top = y.high * exponent; /* first alone: an overflow here must not turn into inf − inf */
    if (top > 710.0) return HUGE_VAL;
    if (top < -746.0) return 0.0;
    y = pair_mul(y, (pair){exponent, 0.0});
    double shifted = fma(y.high, 0x1.71547652b82fep+0, 0x1.8p52), n = shifted - 0x1.8p52;
    pair r = pair_add(y, pair_mul((pair){-n, 0.0}, ln2));
    double q = 1.0 / 6227020800.0;
    q = fma(q, r.high, 1.0 / 479001600.0);
    q = fma(q, r.high, 1.0 / 39916800.0);
    q = fma(q, r.high, 1.0 / 3628800.0);
    q = fma(q, r.high, 1.0 / 362880.0);
    q = fma(q, r.high, 1.0 / 40320.0);
    q = fma(q, r.high, 1.0 / 5040.0);
    q = fma(q, r.high, 1.0 / 720.0);
    q = fma(q, r.high, 1.0 / 120.0);
    q = fma(q, r.high, 1.0 / 24.0);
    q = fma(q, r.high, 1.0 / 6.0);
    q = fma(q, r.high, 0.5);
    q = fma(r.high * r.high, q, r.high) + fma(r.low, r.high, r.low) + 1.0;
    int64_t i = (int64_t)n, half = i >> 1;
    uint64_t one = (uint64_t)(half + 1023) << 52, two = (uint64_t)(i - half + 1023) << 52;
    double scale1, scale2;
    memcpy(&scale1, &one, sizeof scale1);
    memcpy(&scale2, &two, sizeof scale2);
    return q * scale1 * scale2;
}
#endif
