/* test_gemm.c — the f32 product: every instruction set equal to ref to the bit, for ragged shapes, all strides, threads
 * and batches (product_check.h). The comparison has teeth: another order of summation is shown to be told apart. */
#define ENTRY gemm
#define ISA_NAMES "avx2", "avx512", "cuda"
#include "product_check.h"

/* The teeth: on these numbers other orders of summation give other bits. */
static float other_order(const float *a, const float *b, int K, int how) {
    float sum = 0, lane[4] = {0};
    for (int k = 0; k < K; k++) {
        if (how == 0) sum = fmaf(a[k], b[k], sum);                      /* never cut at TL_KB */
        else if (how == 1) lane[k % 4] = fmaf(a[k], b[k], lane[k % 4]); /* vectorised across k */
        else if (how == 2) sum = fmaf(a[K - 1 - k], b[K - 1 - k], sum); /* from the end */
        else {
            volatile float p = a[k] * b[k]; /* product rounded */
            sum += p;
        }
    }
    return how == 1 ? (lane[0] + lane[1]) + (lane[2] + lane[3]) : sum;
}
static void test_another_order_is_told_apart(void **unused) {
    (void)unused;
    enum { N = 64, K = 600 };
    matrix a = matrix_make(1, K, false, 0), b = matrix_make(K, N, true, 0);
    for (int i = 0; i <= ISAS; i++) {
        if (i < ISAS && !has[i]) continue;
        float c[N];
        product(&contexts[i][0], c, N, 1, N, K, &a, &b, NULL, false);
        for (int how = 0; how < 4; how++) {
            int differ = 0;
            for (int n = 0; n < N; n++) {
                const float other = other_order(a.g.p, b.g.p + n * b.col, K, how);
                differ += other != c[n];
                assert_true(fabsf(other - c[n]) <= 1e-4f * K); /* yet the same number */
            }
            assert_true(differ > N / 4);
        }
    }
    guarded_give(&a.g), guarded_give(&b.g);
}

/* linear, dx and dw in both layouts are the products they claim to be. */
static void test_linear_and_its_backward(void **unused) {
    (void)unused;
    enum { R = 19, N = 35, K = 41 };
    for (int i = 0; i <= ISAS; i++) {
        if (i < ISAS && !has[i]) continue;
        tl_ctx *ctx = &contexts[i][0];
        for (int layout = TL_OUT_IN; layout <= TL_IN_OUT; layout++) {
            matrix x = matrix_make(R, K, false, 0), dy = matrix_make(R, N, false, 0),
                   w = matrix_make(N, K, layout == TL_IN_OUT, 0);
            matrix bias = matrix_make(1, N, false, 0);
            float y[R * N], dx[R * K], dw[N * K], before[N * K];
            tl__linear(ctx, y, N, x.g.p, K, w.g.p, layout, bias.g.p, R, N, K);
            for (int n = 0; n < N * K; n++) dw[n] = before[n] = number();
            tl__linear_dx(ctx, dx, K, dy.g.p, N, w.g.p, layout, R, N, K, false);
            tl__linear_dw(ctx, dw, NULL, dy.g.p, N, x.g.p, K, layout, R, N, K, true);
            for (int r = 0; r < R; r++)
                for (int n = 0; n < N; n++) {
                    float s = 0;
                    for (int k = 0; k < K; k++) s = fmaf(x.g.p[r * K + k], w.g.p[n * w.row + k * w.col], s);
                    assert_true(y[r * N + n] == s + bias.g.p[n]);
                }
            for (int r = 0; r < R; r++)
                for (int k = 0; k < K; k++) {
                    float s = 0;
                    for (int n = 0; n < N; n++) s = fmaf(dy.g.p[r * N + n], w.g.p[n * w.row + k * w.col], s);
                    assert_true(dx[r * K + k] == s);
                }
            for (int n = 0; n < N; n++)
                for (int k = 0; k < K; k++) {
                    float s = 0;
                    for (int r = 0; r < R; r++) s = fmaf(dy.g.p[r * N + n], x.g.p[r * K + k], s);
                    assert_true(dw[n * w.row + k * w.col] == before[n * w.row + k * w.col] + s);
                }
            guarded_give(&x.g), guarded_give(&dy.g), guarded_give(&w.g), guarded_give(&bias.g);
        }
    }
}

static void test_costs_and_pairs(void **unused) {
    (void)unused;
    assert_true(tl__op_cost(TL_OP_GEMM, 3, 5, 7).flops == 2 * 3 * 5 * 7);
    assert_true(tl__op_cost(TL_OP_GEMM, 3, 5, 7).bytes == 4 * (3 * 7 + 7 * 5 + 3 * 5));
    for (int op = 0; op < TL_OPS; op++) {
        const tl_cost one = tl__op_cost(op, 10, 10, 10), two = tl__op_cost(op, 20, 10, 10);
        assert_true(two.flops >= one.flops && two.bytes >= one.bytes && one.flops + one.bytes > 0);
        assert_non_null(tl__op_name(op));
        assert_true(tl__op_bucket(op) < TL_BUCKETS);
    }
    const int32_t pos[] = {0, 1, 2, 5};
    assert_int_equal(tl__attention_pairs(&(tl_rows){.R = 4, .pos = pos}, 0), 1 + 2 + 3 + 6);
    assert_int_equal(tl__attention_pairs(&(tl_rows){.R = 4, .pos = pos}, 2), 1 + 2 + 2 + 2);
    /* Three rows of one sequence, none of another, a row of a third: keys 0 … 2, and 0 … 5. */
    const int32_t seq_row[] = {0, 3, 3, 4};
    const tl_rows rows = {.R = 4, .S = 3, .pos = pos, .seq_row = seq_row};
    assert_int_equal(tl__attention_keys(&rows, 0), 3 + 6);
    assert_int_equal(tl__attention_keys(&rows, 2), 3 + 2); /* row 0 sees key 0, row 2 keys 1 and 2 */
    tl_attention_form form = {.H = 6, .Hkv = 2, .D = 40, .scale = 1};
    const tl_cost plain = tl__op_cost(TL_OP_ATTENTION, 12, 6, 40);
    for (int op = TL_OP_ATTENTION; op <= TL_OP_ATTENTION_BACKWARD; op++) {
        assert_true(tl__attention_cost(op, &rows, &form, TL_F32).flops == tl__op_cost(op, 12, 6, 40).flops);
        assert_true(tl__attention_cost(op, &rows, &form, TL_F32).bytes == 9 * 2 * 2 * 40 * 4);
        assert_true(tl__attention_cost(op, &rows, &form, TL_BF16).bytes == 9 * 2 * 2 * 40 * 2);
        assert_true(tl__attention_cost(op, &rows, &form, TL_Q8_0).bytes == 9 * 2 * 2 * (40 + 2 * 2)); /* two scales */
    }
    form.softcap = 20, form.window = 2;
    const tl_cost capped = tl__attention_cost(TL_OP_ATTENTION, &rows, &form, TL_F32);
    assert_true(capped.flops == plain.flops * 7 / 12 + tl__op_cost(TL_OP_SOFTCAP, 7 * 6, 0, 0).flops);
    assert_true(capped.bytes == 5 * 2 * 2 * 40 * 4);
}

static void test_a_table_that_cannot_be_had_is_refused_in_words(void **unused) {
    (void)unused;
    const tl_ops *ops = NULL;
    tl_error err = {0};
    assert_int_equal(tl__ops_select(&ops, "sse9", &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "sse9"));
    assert_non_null(strstr(err.text, "avx2"));
    for (int i = 0; i < ISAS; i++)
        assert_int_equal(tl__ops_select(&ops, isas[i], &err), has[i] ? TL_OK : TL_EUNSUPPORTED);
    setenv("TRILITH_ISA", "ref", 1);
    assert_int_equal(tl__ops_select(&ops, NULL, &err), TL_OK);
    assert_string_equal(ops->isa, "ref");
    unsetenv("TRILITH_ISA");
    char features[256];
    tl__cpu_features(features, sizeof features);
    assert_int_equal(has[0], strstr(features, "avx2") && strstr(features, "fma"));
    tl__cpu_features(features, 3);
    assert_true(strlen(features) < 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PRODUCT_CHECKS,
        cmocka_unit_test(test_another_order_is_told_apart),
        cmocka_unit_test(test_linear_and_its_backward),
        cmocka_unit_test(test_costs_and_pairs),
        cmocka_unit_test(test_a_table_that_cannot_be_had_is_refused_in_words),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
