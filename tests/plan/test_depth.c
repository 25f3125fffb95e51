/* test_depth.c — the dial: shapes of known depths, the laws against their formulas in plain double, and that what is
 * settled stays settled. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "plan/depth.h"

static tl_arch arch_of(int64_t depth, int64_t aspect, int V) {
    tl_arch arch;
    tl_error err = {0};
    if (tl__depth_arch(&arch, depth, aspect, 256, &err)) fail_msg("depth %d: %s", (int)depth, err.text);
    arch.V = V;
    return arch;
}

static int64_t params_of(const tl_arch *arch) {
    tl_params params;
    assert_int_equal(tl__params_make(&params, arch, NULL), 0);
    int64_t count = params.count;
    tl__params_free(&params);
    return count;
}

static void test_shapes(void **state) {
    static const struct {
        int depth, aspect, C, H, D, F;
    } known[] = {
        {1, 0, 64, 4, 16, 192},        {2, 0, 128, 4, 32, 384},      {4, 0, 256, 4, 64, 704},
        {6, 0, 384, 6, 64, 1024},      {12, 0, 768, 12, 64, 2048},   {24, 0, 1536, 24, 64, 4096},
        {32, 64, 2048, 16, 128, 5504}, {33, 0, 2176, 17, 128, 5824}, {2, 16, 32, 2, 16, 128},
        {6, 16, 96, 6, 16, 256},       {8, 16, 128, 4, 32, 384},     {1, 1, 16, 1, 16, 64},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        tl_arch a = arch_of(known[i].depth, known[i].aspect, 257);
        if (a.L != known[i].depth || a.C != known[i].C || a.H != known[i].H || a.D != known[i].D || a.F != known[i].F)
            fail_msg("depth %d, aspect %d: %d wide, %d heads of %d, feed-forward %d", known[i].depth, known[i].aspect,
                     a.C, a.H, a.D, a.F);
        assert_int_equal(a.Hkv, a.H);
        assert_int_equal(a.C, a.H * a.D);
        assert_true(a.tied && a.max_positions >= 2048 && a.norm == TL_NORM_RMS && a.act == TL_ACT_SWIGLU);
        int64_t layer = 4 * (int64_t)a.C * a.C + 3 * (int64_t)a.C * a.F + 2 * a.C;
        assert_int_equal(params_of(&a), a.L * layer + a.C + (int64_t)a.V * a.C);
    }
    tl_arch far;
    assert_int_equal(tl__depth_arch(&far, 2, 0, 8192, NULL), 0);
    assert_int_equal(far.max_positions, 8192);
}

static void test_refusals(void **state) {
    static const int bad[][2] = {{0, 64}, {-3, 64}, {TL_MOST_DEPTH + 1, 64}, {4, -1}, {4, TL_MOST_ASPECT + 1}};
    tl_arch a;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tl_error err = {0};
        assert_int_equal(tl__depth_arch(&a, bad[i][0], bad[i][1], 256, &err), TL_EINVALID);
        assert_non_null(strstr(err.text, i < 3 ? "--depth" : "--aspect"));
    }
}

/* Rates are rounded to three digits: half a unit of the last is 0.5 %. */
static void assert_near(double x, double law) {
    if (!(fabs(x / law - 1) <= 0.005)) fail_msg("%.6g, but the law says %.6g", x, law);
}

static double law_rate(double C) {
    return 0.3118 * pow(fmax(C, 1e17), -0.125); /* not beyond its fit */
}

static double law_batch(double C) {
    return 0.2920 * pow(C, 0.3271);
}

static double law_decay(double lr, double steps, double ratio) {
    return fmin(1, 1 / (lr * steps * 1.084 * pow(ratio, -0.527)));
}

static void test_the_laws(void **state) {
    double before_lr = INFINITY;
    int64_t before_batch = 0;
    enum { T = 256, V = 4096 };
    for (int depth = 2; depth <= 32; depth += 2) {
        tl_arch a = arch_of(depth, 0, V);
        int64_t N = params_of(&a);
        /* M = 72·L·C² + 12·L·C·T (Bi et al. 2024, eq. 2) has a feed-forward of 8C² in it; ours is that, rounded up to
         * 64, and norms. */
        double M = tl__arch_model_flops_per_token(&a, T) - 6.0 * V * a.C;
        double paper = 72.0 * a.L * a.C * a.C + 12.0 * a.L * a.C * T;
        assert_true(M >= paper && M < 1.1 * paper);
        tl_depth_plan p = {.lr = -1, .weight_decay = -1};
        tl__depth_plan(&p, &a, N, T, 1);
        assert_true(p.tokens == ceil(20.0 * (double)N));
        double C = M * p.tokens, B = law_batch(C), used = (double)p.batch * T;
        assert_true(fabs(used - B) <= T / 2.0 * 1.001);
        assert_near(p.lr, law_rate(C) * sqrt(used / B));
        assert_near(p.weight_decay, law_decay(p.lr, p.tokens / used, p.tokens / (double)N));
        assert_true(p.batch >= before_batch && (C < 1e17 || p.lr < before_lr));
        before_batch = p.batch, before_lr = p.lr;
    }
}

static void test_what_is_settled_stays(void **state) {
    enum { T = 128 };
    tl_arch a = arch_of(6, 0, 300);
    int64_t N = params_of(&a);
    double M = tl__arch_model_flops_per_token(&a, T) - 6.0 * a.V * a.C;
    tl_depth_plan p = {.batch = 10, .lr = 2e-3, .weight_decay = 0.07, .tokens = 5e6};
    tl__depth_plan(&p, &a, N, T, 1);
    assert_true(p.batch == 10 && p.lr == 2e-3 && p.weight_decay == 0.07 && p.tokens == 5e6);
    p = (tl_depth_plan){.batch = 10, .lr = -1, .weight_decay = -1, .tokens = 5e6}; /* the rate follows the batch */
    tl__depth_plan(&p, &a, N, T, 1);
    assert_near(p.lr, law_rate(M * 5e6) * sqrt(10 * T / law_batch(M * 5e6)));
    p = (tl_depth_plan){.batch = 10, .lr = 0, .weight_decay = -1, .tokens = 5e6};
    tl__depth_plan(&p, &a, N, T, 1);
    assert_true(p.lr == 0 && p.weight_decay == 0);
    p = (tl_depth_plan){.lr = -1, .weight_decay = -1}; /* batches of leaves */
    tl__depth_plan(&p, &a, N, T, 8);
    assert_true(p.batch % 8 == 0 && fabs((double)p.batch * T - law_batch(M * p.tokens)) <= 8 * T / 2 * 1.001);
}

/* Steps given: the batch is the law's for the tokens that it makes. */
static void test_a_horizon_in_steps(void **state) {
    enum { T = 128 };
    static const int64_t steps[] = {1, 50, 2000, 300000};
    tl_arch a = arch_of(4, 0, 1024);
    double M = tl__arch_model_flops_per_token(&a, T) - 6.0 * a.V * a.C;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        tl_depth_plan p = {.lr = -1, .weight_decay = -1, .steps = steps[i]};
        tl__depth_plan(&p, &a, params_of(&a), T, 1);
        assert_true(p.tokens == (double)(steps[i] * p.batch * T));
        /* half a sequence of rounding, and what that does to the law: less than itself again */
        if (p.batch > 1) assert_true(fabs((double)(p.batch * T) - law_batch(M * p.tokens)) <= T);
        assert_true(p.lr > 0 && p.weight_decay > 0 && p.weight_decay <= 1);
    }
}

static void test_no_value_is_out_of_range(void **state) {
    static const double tokens[] = {1, 1e30, 1e300};
    tl_arch a = arch_of(TL_MOST_DEPTH, TL_MOST_ASPECT, 1 << 20);
    int64_t N = params_of(&a);
    for (size_t i = 0; i < 3; i++) {
        tl_depth_plan p = {.lr = -1, .weight_decay = -1, .tokens = tokens[i]};
        tl__depth_plan(&p, &a, N, 2048, 4);
        assert_true(p.batch >= 4 && p.batch % 4 == 0 && p.batch * 2048 <= INT32_MAX / 4);
        assert_true(isfinite(p.lr) && p.lr >= 0 && p.weight_decay >= 0 && p.weight_decay <= 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_the_laws),
        cmocka_unit_test(test_what_is_settled_stays),
        cmocka_unit_test(test_a_horizon_in_steps),
        cmocka_unit_test(test_no_value_is_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
