/* test_moe.c — the operators of mixtures of experts: the fast forms equal ref to the bit on ragged shapes, for every
 * instruction set of this machine and 1 … 4 threads; a row alone is that row in a batch (law L1); the choice is a total
 * order; lists are permutations; backward operators against finite differences of ref's source, compiled in double.
 *
 * Finite differences: as in test_rows_gradient.c, h = 1e-5 and 1e-6 of max(1, |gradient|). The choice of experts is
 * discrete: the drawn logits lie at least 0.01 apart where it is decided, a thousand times what h moves them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TL_REF_DOUBLE
#include "kernels/ref/moe.c"

/* splitmix64 (Steele et al. 2014), uniform in [−1, 1). */
static uint64_t random_state;
static double uniform(void) {
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)(int64_t)(z ^ (z >> 31)) * 0x1p-63;
}

/* ---- bits ---- */

typedef struct shape {
    int R, E, k, C, F;
    bool renormalise;
} shape;

static const shape shapes[] = {
    {1, 1, 1, 1, 1, true},       {1, 2, 1, 5, 3, false},    {7, 8, 2, 17, 33, true},     {300, 8, 2, 48, 40, true},
    {129, 60, 4, 19, 16, false}, {65, 64, 8, 33, 31, true}, {40, 128, 8, 16, 50, false}, {33, 17, 17, 9, 15, true},
    {100, 512, 3, 3, 2, true},   {5, 1024, 2, 700, 600, false},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

typedef struct results {
    int32_t *choice, *first, *slot, *at;
    float *weight, *logz, *prob, *dlogits, *rows, *sum, *act, *dgu, *dweight;
} results;

static float *floats(int64_t n, double scale) {
    float *p = malloc(sizeof(float) * (size_t)(n + 16));
    assert_non_null(p);
    for (int64_t i = 0; i < n + 16; i++) p[i] = (float)(uniform() * scale);
    return p;
}
static int32_t *ints(int64_t n) {
    return calloc((size_t)n + 1, sizeof(int32_t));
}

/* Every operator on numbers that depend on the shape alone. Rows from `from` on, `R` of them, of a batch of d.R. */
static results run(tl_ctx *ctx, shape d, int from, int R) {
    const int E = d.E, k = d.k, C = d.C, F = d.F;
    const int64_t n = (int64_t)R * k;
    random_state = 17;
    float *logits = floats((int64_t)d.R * E, 4), *x = floats((int64_t)d.R * C, 1), *balance = floats(E, 0.1);
    float *W = floats((int64_t)2 * F * C, 1), *dw = floats((int64_t)d.R * k, 1);
    for (int r = 0; r < d.R; r += 3) /* ties, among them of zeros of both signs */
        for (int e = 0; e < E; e++)
            logits[(int64_t)r * E + e] = (float)((e * 5 + r) % 4 < 2 ? 0.0 : e % 2 ? -0.0 : 1.0);
    results o = {.choice = ints(n), .first = ints(E + 1), .slot = ints(n), .at = ints(n)};
    o.weight = floats(n, 1), o.logz = floats(R, 1), o.prob = floats((int64_t)R * E, 1);
    o.dlogits = floats((int64_t)R * E, 1), o.rows = floats(n * C, 1), o.sum = floats((int64_t)R * C, 1);
    o.act = floats(n * F, 1), o.dgu = floats(n * 2 * F, 1), o.dweight = floats(n, 1);
    memcpy(o.prob, logits + (int64_t)from * E, sizeof(float) * (size_t)R * (size_t)E);
    tl__route(ctx, o.choice, o.weight, o.logz, o.prob, R, E, k, d.renormalise);
    tl__dispatch(ctx, o.first, o.slot, o.at, o.choice, R, E, k);
    tl__gather(ctx, o.rows, x + (int64_t)from * C, o.slot, (int)n, k, C);
    /* Each place gets gates that depend on its row and its expert, as an expert's product would give. */
    float *gu = floats(n * 2 * F, 1), *dy = floats(n * F, 1);
    for (int64_t i = 0; i < n; i++)
        for (int f = 0; f < 2 * F; f++) {
            const int expert = o.choice[o.slot[i]];
            gu[i * 2 * F + f] = o.rows[i * C + f % C] * W[(f * 7 + expert) % (2 * F * C)] * 3;
            if (f < F) dy[i * F + f] = o.rows[i * C + (f + 1) % C] * W[(f * 11 + expert) % (2 * F * C)];
        }
    tl__expert_swiglu(ctx, o.act, gu, o.weight, o.slot, (int)n, F);
    tl__expert_swiglu_backward(ctx, o.dgu, o.dweight, dy, gu, o.weight, o.slot, (int)n, F);
    tl__combine(ctx, o.sum, o.rows, o.at, R, k, C);
    tl__route_backward(ctx, o.dlogits, dw + (int64_t)from * k, o.choice, o.weight, o.logz, o.prob, balance, 0.03f, R, E,
                       k, d.renormalise);
    free(logits), free(x), free(balance), free(W), free(dw), free(gu), free(dy);
    return o;
}

static void results_free(results *o) {
    free(o->choice), free(o->first), free(o->slot), free(o->at), free(o->weight), free(o->logz), free(o->prob);
    free(o->dlogits), free(o->rows), free(o->sum), free(o->act), free(o->dgu), free(o->dweight);
}

static void same(const char *what, const void *a, const void *b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (memcmp((const char *)a + i * 4, (const char *)b + i * 4, 4)) {
            float p, q;
            memcpy(&p, (const char *)a + i * 4, 4), memcpy(&q, (const char *)b + i * 4, 4);
            fail_msg("%s: element %lld is %.9g, expected %.9g", what, (long long)i, (double)p, (double)q);
        }
}

static void test_fast_forms_equal_ref(void **state) {
    static const char *const isas[] = {"avx2", "avx512", "cuda"};
    tl_ctx ref, fast;
    assert_int_equal(tl__ctx_open(&ref, 1, "ref", NULL), 0);
    for (int i = 0; i < 3; i++)
        for (int threads = 1; threads <= (i == 2 ? 1 : 4); threads++) { /* a device has none of the CPU's */
            if (tl__ctx_open(&fast, threads, isas[i], NULL)) continue;  /* not on this machine */
            for (int s = 0; s < SHAPES; s++) {
                const shape d = shapes[s];
                const int64_t n = (int64_t)d.R * d.k;
                results a = run(&ref, d, 0, d.R), b = run(&fast, d, 0, d.R);
                same("choice", b.choice, a.choice, n), same("first", b.first, a.first, d.E + 1);
                same("slot", b.slot, a.slot, n), same("at", b.at, a.at, n);
                same("prob", b.prob, a.prob, (int64_t)d.R * d.E), same("logz", b.logz, a.logz, d.R);
                same("weight", b.weight, a.weight, n), same("rows", b.rows, a.rows, n * d.C);
                same("sum", b.sum, a.sum, (int64_t)d.R * d.C), same("act", b.act, a.act, n * d.F);
                same("dgu", b.dgu, a.dgu, n * 2 * d.F), same("dweight", b.dweight, a.dweight, n);
                same("dlogits", b.dlogits, a.dlogits, (int64_t)d.R * d.E);
                results_free(&a), results_free(&b);
            }
            tl__ctx_close(&fast);
        }
    tl__ctx_close(&ref);
}

static void check_a_row_alone(const char *isa) {
    tl_ctx ctx;
    if (tl__ctx_open(&ctx, 2, isa, NULL)) return;
    for (int s = 0; s < SHAPES; s++) {
        const shape d = shapes[s];
        const int k = d.k;
        results all = run(&ctx, d, 0, d.R);
        for (int r = 0; r < d.R; r += 1 + d.R / 5) {
            results one = run(&ctx, d, r, 1);
            same("choice alone", one.choice, all.choice + r * k, k);
            same("weight alone", one.weight, all.weight + r * k, k);
            same("prob alone", one.prob, all.prob + (int64_t)r * d.E, d.E);
            same("sum alone", one.sum, all.sum + (int64_t)r * d.C, d.C);
            same("dlogits alone", one.dlogits, all.dlogits + (int64_t)r * d.E, d.E);
            same("dweight alone", one.dweight, all.dweight + r * k, k);
            for (int j = 0; j < k; j++)
                same("act alone", one.act + (int64_t)one.at[j] * d.F, all.act + (int64_t)all.at[r * k + j] * d.F, d.F);
            results_free(&one);
        }
        results_free(&all);
    }
    tl__ctx_close(&ctx);
}

static void test_L1_a_row_alone(void **state) {
    check_a_row_alone(NULL);
    check_a_row_alone("cuda");
}

/* Probability descending, then id ascending; ids stand in ascending order; NaN leaves the first k. */
static void test_the_choice_is_a_total_order(void **state) {
    static const char *const isas[] = {"ref", "avx2", "avx512", "cuda"};
    for (int i = 0; i < 4; i++) {
        tl_ctx ctx;
        if (tl__ctx_open(&ctx, 1, isas[i], NULL)) continue;
        float prob[3][5] = {{1, 3, 1, 3, 1}, {0, 0, 0, 0, 0}, {1, 2, NAN, 3, 4}}, weight[9], logz[3];
        int32_t choice[9];
        tl__route(&ctx, choice, weight, logz, prob[0], 3, 5, 3, true);
        static const int32_t want[9] = {0, 1, 3, 0, 1, 2, 0, 1, 2};
        assert_memory_equal(choice, want, sizeof want);
        assert_true(fabsf(weight[3] - 1.0f / 3) < 1e-6f && isnan(weight[6]) && isnan(logz[2]));
        assert_true(fabsf(weight[0] + weight[1] + weight[2] - 1) < 1e-6f && weight[1] == weight[2]);
        tl__ctx_close(&ctx);
    }
}

static void test_lists_are_permutations_in_row_order(void **state) {
    tl_ctx ctx;
    assert_int_equal(tl__ctx_open(&ctx, 1, NULL, NULL), 0);
    for (int s = 0; s < SHAPES; s++) {
        const shape d = shapes[s];
        const int n = d.R * d.k;
        results o = run(&ctx, d, 0, d.R);
        assert_int_equal(o.first[0], 0);
        assert_int_equal(o.first[d.E], n);
        for (int i = 0; i < n; i++) assert_int_equal(o.at[o.slot[i]], i);
        for (int e = 0; e < d.E; e++)
            for (int i = o.first[e]; i < o.first[e + 1]; i++) {
                assert_int_equal(o.choice[o.slot[i]], e);
                assert_true(i == o.first[e] || o.slot[i] / d.k > o.slot[i - 1] / d.k);
            }
        results_free(&o);
    }
    tl__ctx_close(&ctx);
}

/* ---- finite differences, in double ---- */

enum { R = 40, E = 19, K = 3, F = 7, N = R * K };
static double logits[R * E], prob[R * E], weight[N], logz[R], out_weight[N], balance[E], gu[N * 2 * F], act[N * F],
    act_weight[N * F];
static int32_t choice[N], fixed_choice[N], slot[N];
static bool renormalise;
static double z_coef;

/* Σ out_weight·weight + Σ balance·p + z_coef/2·Σ logz²: each output that has a gradient. */
static double route_loss(void) {
    memcpy(prob, logits, sizeof prob);
    ref_route(NULL, choice, weight, logz, prob, R, E, K, renormalise);
    if (memcmp(choice, fixed_choice, sizeof choice)) fail_msg("a difference crossed a choice");
    double l = 0;
    for (int i = 0; i < N; i++) l += out_weight[i] * weight[i];
    for (int i = 0; i < R * E; i++) l += balance[i % E] * prob[i];
    for (int r = 0; r < R; r++) l += z_coef / 2 * logz[r] * logz[r];
    return l;
}

static void check(const char *name, double *p, int n, const double *gradient, double (*loss)(void)) {
    const double h = 1e-5;
    for (int i = 0; i < n; i++) {
        const double keep = p[i];
        p[i] = keep + h;
        const double above = loss();
        p[i] = keep - h;
        const double below = loss();
        p[i] = keep;
        const double want = (above - below) / (2 * h), tolerance = 1e-6 * fmax(1, fabs(want));
        if (!(fabs(gradient[i] - want) <= tolerance))
            fail_msg("%s[%d]: gradient %.12g, difference %.12g", name, i, gradient[i], want);
    }
}

static void test_route_backward(void **state) {
    static double dlogits[R * E];
    for (int with = 0; with < 4; with++) {
        random_state = 5 + (uint64_t)with;
        renormalise = with & 1, z_coef = with & 2 ? 0.7 : 0;
        for (int r = 0; r < R; r++) /* multiples of 0.01, in an order that changes by row: gaps of 0.01 at least */
            for (int e = 0; e < E; e++) logits[r * E + e] = 0.01 * ((e * 7 + r * 3) % E) * (1 + r % 20);
        for (int i = 0; i < N; i++) out_weight[i] = uniform();
        for (int e = 0; e < E; e++) balance[e] = with & 2 ? uniform() : 0;
        memcpy(prob, logits, sizeof prob);
        ref_route(NULL, fixed_choice, weight, logz, prob, R, E, K, renormalise);
        route_loss();
        ref_route_backward(NULL, dlogits, out_weight, choice, weight, logz, prob, with & 2 ? balance : NULL, z_coef, R,
                           E, K, renormalise);
        check("dlogits", logits, R * E, dlogits, route_loss);
    }
}

static double expert_loss(void) {
    ref_expert_swiglu(NULL, act, gu, weight, slot, N, F);
    double l = 0;
    for (int i = 0; i < N * F; i++) l += act_weight[i] * act[i];
    return l;
}

static void test_expert_swiglu_backward(void **state) {
    static double dgu[N * 2 * F], dweight[N];
    random_state = 9;
    for (int i = 0; i < N; i++) weight[i] = uniform(), slot[i] = (i * 7 + 3) % N;
    for (int i = 0; i < N * 2 * F; i++) gu[i] = 3 * uniform();
    for (int i = 0; i < N * F; i++) act_weight[i] = uniform();
    ref_expert_swiglu_backward(NULL, dgu, dweight, act_weight, gu, weight, slot, N, F);
    check("dgu", gu, N * 2 * F, dgu, expert_loss);
    check("dweight", weight, N, dweight, expert_loss);
}

/* gather and combine are each other's transpose: ⟨combine(x), y⟩ = ⟨x, gather(y)⟩. */
static void test_combine_is_the_transpose_of_gather(void **state) {
    enum { C = 11 };
    static double x[N * C], y[R * C], sum[R * C], rows[N * C];
    int32_t first[E + 1], list[N], at[N];
    random_state = 3;
    for (int i = 0; i < R; i++)
        for (int j = 0; j < K; j++) choice[i * K + j] = (i % 5 + j * 6) % E;
    for (int i = 0; i < N * C; i++) x[i] = uniform();
    for (int i = 0; i < R * C; i++) y[i] = uniform();
    ref_dispatch(NULL, first, list, at, choice, R, E, K);
    ref_combine(NULL, sum, x, at, R, K, C);
    ref_gather(NULL, rows, y, list, N, K, C);
    double left = 0, right = 0;
    for (int i = 0; i < R * C; i++) left += sum[i] * y[i];
    for (int i = 0; i < N * C; i++) right += x[i] * rows[i];
    assert_true(fabs(left - right) < 1e-12 * N * C);
    assert_true(fabs(left) > 0.1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fast_forms_equal_ref),
        cmocka_unit_test(test_L1_a_row_alone),
        cmocka_unit_test(test_the_choice_is_a_total_order),
        cmocka_unit_test(test_lists_are_permutations_in_row_order),
        cmocka_unit_test(test_route_backward),
        cmocka_unit_test(test_expert_swiglu_backward),
        cmocka_unit_test(test_combine_is_the_transpose_of_gather),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
