/* test_elementary.c — the elementary functions stay within their stated error over their whole range, and are exact
 * where the header says so. Floats are visited 1499 apart by bit pattern (three million a function); TL_EXHAUSTIVE=1 in
 * the environment visits every one, which is where the figures in elementary.h come from. The yardstick is libm in
 * double. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/elementary.h"

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Distance in units of the last place that `want` would have as a float. */
static double ulp_f32(float got, double want) {
    if (isnan(want) || isnan(got)) return isnan(want) && isnan(got) ? 0 : HUGE_VAL;
    if (isinf((float)want)) return got == (float)want ? 0 : HUGE_VAL;
    if (isinf(got)) return fabs(want) > 0x1.fffffdp127 && signbit(got) == signbit(want) ? 1 : HUGE_VAL;
    int e;
    frexp(want, &e);
    return fabs(got - want) / ldexp(1, e - 24 < -149 ? -149 : e - 24);
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static void check_all(const char *name, float (*f)(float), double (*libm)(double), double limit, double bound) {
    const uint64_t stride = getenv("TL_EXHAUSTIVE") ? 1 : 1499;
    double worst = 0;
    float at = 0;
    for (uint64_t i = 0; i <= 0xffffffffu; i += stride) {
        float x = from_bits((uint32_t)i);
        if (isnan(x) || fabs(x) > limit) continue;
        double u = ulp_f32(f(x), libm(x));
        if (u > worst) worst = u, at = x;
    }
    if (worst > bound || getenv("TL_EXHAUSTIVE"))
        print_message("%s: %.4f ulp at %a (got %a, want %a)\n", name, worst, at, f(at), libm(at));
    assert_true(worst <= bound);
}

/* Bounds: the exhaustive figures of elementary.h. Libm's own error (< 1e-8 of an f32 ulp) is far below the last digit.
 */
static void test_exp(void **state) {
    check_all("exp", tl__exp, exp, HUGE_VAL, 0.8914);
}
static void test_log(void **state) {
    check_all("log", tl__log, log, HUGE_VAL, 0.5001);
}
static void test_tanh(void **state) {
    check_all("tanh", tl__tanh, tanh, HUGE_VAL, 1.4985);
}
static void test_erf(void **state) {
    check_all("erf", tl__erf, erf, HUGE_VAL, 1.0638);
}
static void test_sin(void **state) {
    check_all("sin", tl__sin, sin, 0x1p20, 0.5001);
}
static void test_cos(void **state) {
    check_all("cos", tl__cos, cos, 0x1p20, 0.5001);
}
static void test_sigmoid(void **state) {
    check_all("sigmoid", tl__sigmoid, sigmoid, HUGE_VAL, 2.402);
}

static void test_edges(void **state) {
    const float inf = HUGE_VALF, nan = from_bits(0x7fc00000u);
    assert_true(tl__exp(-inf) == 0 && tl__exp(inf) == inf && tl__exp(0) == 1 && isnan(tl__exp(nan)));
    assert_true(tl__exp(-104) == 0 && tl__exp(88.73f) == inf && tl__exp(-103.9f) > 0);
    assert_true(tl__log(0) == -inf && tl__log(-0.0f) == -inf && tl__log(inf) == inf && tl__log(1) == 0);
    assert_true(isnan(tl__log(-1)) && isnan(tl__log(nan)) && isnan(tl__log(-inf)));
    assert_true(tl__tanh(inf) == 1 && tl__tanh(-inf) == -1 && isnan(tl__tanh(nan)) && signbit(tl__tanh(-0.0f)));
    assert_true(tl__erf(inf) == 1 && tl__erf(-inf) == -1 && isnan(tl__erf(nan)) && signbit(tl__erf(-0.0f)));
    assert_true(tl__sigmoid(inf) == 1 && tl__sigmoid(-inf) == 0 && isnan(tl__sigmoid(nan)) && tl__sigmoid(0) == 0.5f);
    assert_true(isnan(tl__sin(inf)) && isnan(tl__cos(nan)) && tl__cos(0) == 1 && signbit(tl__sin(-0.0f)));
    assert_true(tl__cos_f64(0) == 1 && isnan(tl__cos_f64(HUGE_VAL)));
    assert_true(tl__pow_f64(2, -1074) == 0x1p-1074 && tl__pow_f64(2, 1024) == HUGE_VAL && tl__pow_f64(3, 0) == 1);
    assert_true(tl__pow_f64(0.5, 1e300) == 0 && isnan(tl__pow_f64(-1, 2)) && tl__pow_f64(2, 10) == 1024);
}

/* A fixed stream of uniform numbers in [0, 1): splitmix64 (Steele et al. 2014). */
static double uniform(uint64_t *s) {
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static double ulp_f64(double got, long double want) {
    int e;
    frexpl(want, &e);
    return (double)(fabsl(got - want) / ldexpl(1, e - 53));
}

static void test_double(void **state) {
    uint64_t s = 1;
    double worst_pow = 0, worst_cos = 0;
    for (int i = 0; i < 400000; i++) {
        double base = exp((uniform(&s) - 0.5) * (i & 1 ? 40 : 0.1)), y = (uniform(&s) - 0.5) * (i & 2 ? 60 : 2000);
        long double want = powl(base, y);
        if (want < 1e307L && want > 1e-300L) worst_pow = fmax(worst_pow, ulp_f64(tl__pow_f64(base, y), want));
        double x = (uniform(&s) - 0.5) * (i & 1 ? 10 : 0x1p21);
        worst_cos = fmax(worst_cos, ulp_f64(tl__cos_f64(x), cosl(x)));
    }
    if (worst_pow > 1.1 || worst_cos > 1.6) print_message("pow %.3f ulp, cos %.3f ulp\n", worst_pow, worst_cos);
    assert_true(worst_pow <= 1.1 && worst_cos <= 1.6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),     cmocka_unit_test(test_log),   cmocka_unit_test(test_tanh),
        cmocka_unit_test(test_erf),     cmocka_unit_test(test_sin),   cmocka_unit_test(test_cos),
        cmocka_unit_test(test_sigmoid), cmocka_unit_test(test_edges), cmocka_unit_test(test_double),
    };
    return cmocka_run_group_tests_name("elementary", tests, NULL, NULL);
}
