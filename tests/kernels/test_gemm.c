/* test_gemm.c — the product: every instruction set equal to ref to the bit, for ragged shapes, all strides, threads and
 * batches.
 *
 * Operands end where an unreadable page begins and the gaps of a leading dimension hold NaN, so a read or write outside
 * a matrix shows. The comparison has teeth: another order of summation is shown to be told apart. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>
#include "kernels/ops.h"

static const char *const isas[] = {"avx2", "avx512"};
enum { ISAS = 2 };

/* `floats` f32 whose end lies on a guard page. */
typedef struct guarded {
    unsigned char *map;
    size_t map_bytes;
    float *p;
    size_t n;
} guarded;

static guarded guarded_take(size_t floats) {
    guarded g = {.n = floats};
    const size_t page = 4096, bytes = (floats * 4 + page - 1) / page * page;
    g.map_bytes = bytes + page;
    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    assert_int_equal(mprotect(g.map + bytes, page, PROT_NONE), 0);
    g.p = (float *)(g.map + bytes) - floats;
    for (size_t i = 0; i < floats; i++) g.p[i] = NAN;
    return g;
}
static void guarded_give(guarded *g) {
    munmap(g->map, g->map_bytes);
}

static uint64_t state = 1;
static float uniform(void) { /* splitmix64 (Steele et al. 2014), 24 bits */
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (float)((z ^ z >> 31) >> 40) * 0x1p-24f;
}
static float number(void) { /* exponents differ, so that the order of a sum shows in its bits */
    const float u = uniform() - 0.5f, s = uniform();
    return u * (s < 0.1f ? 64.f : s < 0.12f ? 1e-38f : s < 0.14f ? 0.f : 1.f);
}
static int integer(int low, int high) {
    return low + (int)(uniform() * (float)(high - low + 1));
}

/* rows × columns with unit stride along columns (or along rows if turned) and `gap` NaNs between. */
typedef struct matrix {
    guarded g;
    int64_t row, col;
} matrix;
static matrix matrix_make(int rows, int columns, bool turned, int gap) {
    matrix m = {.row = turned ? 1 : columns + gap, .col = turned ? rows + gap : 1};
    const int64_t last = (rows ? (rows - 1) * m.row : 0) + (columns ? (columns - 1) * m.col : 0);
    m.g = guarded_take(rows && columns ? (size_t)last + 1 : 0);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) m.g.p[r * m.row + c * m.col] = number();
    return m;
}

static tl_ctx contexts[ISAS + 1][4]; /* [isa, the last is ref][threads − 1] */
static bool has[ISAS];

static int setup(void **unused) {
    (void)unused;
    tl_error err = {0};
    for (int i = 0; i < ISAS; i++)
        for (int t = 0; t < 4; t++) has[i] = !tl__ctx_open(&contexts[i][t], t + 1, isas[i], &err);
    return tl__ctx_open(&contexts[ISAS][0], 1, "ref", &err);
}
static int teardown(void **unused) {
    (void)unused;
    for (int i = 0; i < ISAS; i++)
        for (int t = 0; t < 4 && has[i]; t++) tl__ctx_close(&contexts[i][t]);
    tl__ctx_close(&contexts[ISAS][0]);
    return 0;
}

static void product(tl_ctx *ctx, float *c, int64_t ldc, int M, int N, int K, const matrix *a, const matrix *b,
                    const float *bias, bool accumulate) {
    ctx->ops->gemm(ctx, c, ldc, M, N, K, a->g.p, a->row, a->col, b->g.p, b->row, b->col, bias, accumulate);
}

/* One shape: ref, then every instruction set and thread count, then some rows alone. */
static void check(int M, int N, int K, bool turn_a, bool turn_b, int gap, bool with_bias, bool accumulate) {
    matrix a = matrix_make(M, K, turn_a, gap), b = matrix_make(K, N, turn_b, gap),
           start = matrix_make(M, N, false, gap);
    matrix bias = matrix_make(1, with_bias ? N : 0, false, 0);
    const float *bias_p = with_bias ? bias.g.p : NULL;
    guarded want = guarded_take(start.g.n), got = guarded_take(start.g.n);
    memcpy(want.p, start.g.p, want.n * 4);
    product(&contexts[ISAS][0], want.p, start.row, M, N, K, &a, &b, bias_p, accumulate);
    for (int i = 0; i < ISAS; i++) {
        if (!has[i]) continue;
        for (int t = 0; t < 4; t++) {
            memcpy(got.p, start.g.p, got.n * 4);
            product(&contexts[i][t], got.p, start.row, M, N, K, &a, &b, bias_p, accumulate);
            if (memcmp(got.p, want.p, got.n * 4)) {
                size_t n = 0;
                while (!memcmp(got.p + n, want.p + n, 4)) n++;
                fail_msg(
                    "%s, %d threads: M %d N %d K %d turned %d %d bias %d accumulate %d gap %d: C[%d,%d] is %a, not %a",
                    isas[i], t + 1, M, N, K, turn_a, turn_b, with_bias, accumulate, gap, (int)(n / start.row),
                    (int)(n % start.row), got.p[n], want.p[n]);
            }
        }
        for (int tries = 0; tries < 3 && M > 1; tries++) { /* a row, or a few, alone */
            const int first = integer(0, M - 1), rows = integer(1, M - first < 17 ? M - first : 17);
            const matrix part = {{.p = a.g.p + first * a.row}, a.row, a.col};
            memcpy(got.p, start.g.p, got.n * 4);
            product(&contexts[i][0], got.p + first * start.row, start.row, rows, N, K, &part, &b, bias_p, accumulate);
            for (int r = first; r < first + rows; r++)
                assert_memory_equal(got.p + r * start.row, want.p + r * start.row, (size_t)N * 4);
        }
    }
    guarded_give(&a.g), guarded_give(&b.g), guarded_give(&bias.g), guarded_give(&start.g);
    guarded_give(&want), guarded_give(&got);
}

static void test_ragged_shapes_equal_ref(void **unused) {
    (void)unused;
    const int ks[] = {1, 15, 16, 17, 255, 256, 257, 300, 512, 700};
    for (int n = 0; n < 120; n++) {
        const int K = n % 2 ? ks[integer(0, 9)] : integer(1, 400);
        const int M = n % 3 ? integer(1, 30) : integer(1, 4), N = n % 5 ? integer(1, 70) : integer(1, 400);
        check(M, N, K, n & 1, n >> 1 & 1, n % 7 == 0 ? 0 : integer(0, 5), n >> 2 & 1, n >> 3 & 1);
    }
}

static void test_edges_of_the_tiles_equal_ref(void **unused) {
    (void)unused;
    const int ms[] = {1, 2, 5, 6, 7, 11, 12, 13, 24, 25, 47, 48, 49}, ns[] = {1, 15, 16, 17, 31, 32, 33, 48, 64};
    int n = 0;
    for (size_t m = 0; m < sizeof ms / sizeof *ms; m++)
        for (size_t k = 0; k < sizeof ns / sizeof *ns; k++, n++)
            check(ms[m], ns[k], n % 4 == 0 ? 256 : 20 + n % 40, n & 1, n >> 1 & 1, n % 3, n % 5 == 0, n % 7 < 3);
}

static void test_every_row_count_of_decoding_equals_ref(void **unused) {
    (void)unused;
    for (int M = 1; M <= 20; M++)
        for (int turn = 0; turn < 2; turn++) check(M, integer(60, 140), 259 + M, false, turn, M % 3, M & 1, false);
}

/* Large enough to be cut into many tasks and several blocks of k; ref computes rows of it. */
static void test_large_shapes_equal_ref_in_sampled_rows(void **unused) {
    (void)unused;
    const int shapes[][3] = {{331, 1237, 519}, {1000, 97, 300}, {40, 5003, 257},
                             {29, 61, 9001},   {12, 3001, 600}, {3, 4999, 515}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int turn = 0; turn < 4; turn++) {
            const int M = shapes[s][0], N = shapes[s][1], K = shapes[s][2];
            matrix a = matrix_make(M, K, turn & 1, turn), b = matrix_make(K, N, turn >> 1, 3);
            matrix start = matrix_make(M, N, false, 0);
            float *want = malloc((size_t)N * 4), *got = malloc((size_t)M * N * 4);
            for (int i = 0; i < ISAS; i++)
                for (int t = 0; t < 4 && has[i]; t++) {
                    memcpy(got, start.g.p, (size_t)M * N * 4);
                    product(&contexts[i][t], got, N, M, N, K, &a, &b, NULL, turn == 3);
                    for (int tries = 0; tries < 2; tries++) { /* another row for each, so that all are seen in time */
                        const int r = integer(0, M - 1);
                        const matrix part = {{.p = a.g.p + r * a.row}, a.row, a.col};
                        memcpy(want, start.g.p + (size_t)r * N, (size_t)N * 4);
                        product(&contexts[ISAS][0], want, N, 1, N, K, &part, &b, NULL, turn == 3);
                        assert_memory_equal(got + (size_t)r * N, want, (size_t)N * 4);
                    }
                    if (t) continue;
                    float *alone = malloc((size_t)M * N * 4); /* all threads agree everywhere */
                    memcpy(alone, start.g.p, (size_t)M * N * 4);
                    product(&contexts[i][3], alone, N, M, N, K, &a, &b, NULL, turn == 3);
                    assert_memory_equal(got, alone, (size_t)M * N * 4);
                    free(alone);
                }
            guarded_give(&a.g), guarded_give(&b.g), guarded_give(&start.g);
            free(want), free(got);
        }
}

static void test_no_inputs_leave_bias_or_what_was(void **unused) {
    (void)unused;
    const float bias[3] = {1, 2, 3}, a[1] = {0}, b[1] = {0};
    for (int i = 0; i <= ISAS; i++) {
        if (i < ISAS && !has[i]) continue;
        tl_ctx *ctx = &contexts[i][0];
        float c[6] = {7, 7, 7, 7, 7, 7};
        ctx->ops->gemm(ctx, c, 3, 2, 3, 0, a, 1, 1, b, 3, 1, bias, true);
        for (int n = 0; n < 6; n++) assert_true(c[n] == 7 + bias[n % 3]);
        ctx->ops->gemm(ctx, c, 3, 2, 3, 0, a, 1, 1, b, 3, 1, bias, false);
        for (int n = 0; n < 6; n++) assert_true(c[n] == bias[n % 3]);
        ctx->ops->gemm(ctx, c, 3, 2, 3, 0, a, 1, 1, b, 3, 1, NULL, false);
        for (int n = 0; n < 6; n++) assert_true(c[n] == 0 && !signbit(c[n]));
        ctx->ops->gemm(ctx, c, 3, 0, 3, 5, a, 5, 1, b, 3, 1, NULL, false);
        ctx->ops->gemm(ctx, c, 3, 2, 0, 5, a, 5, 1, b, 3, 1, NULL, false);
    }
}

/* NaN and infinity come out where they must, and nowhere else. */
static void test_not_finite_stays_in_its_row_and_column(void **unused) {
    (void)unused;
    enum { M = 15, N = 37, K = 270 };
    matrix a = matrix_make(M, K, false, 0), b = matrix_make(K, N, true, 0);
    a.g.p[4 * a.row + 100] = NAN;
    b.g.p[260 * b.row + 36 * b.col] = INFINITY;
    for (int i = 0; i <= ISAS; i++) {
        if (i < ISAS && !has[i]) continue;
        float c[M * N];
        product(&contexts[i][0], c, N, M, N, K, &a, &b, NULL, false);
        for (int m = 0; m < M; m++)
            for (int n = 0; n < N; n++) assert_int_equal(!isfinite(c[m * N + n]), m == 4 || n == 36);
    }
    guarded_give(&a.g), guarded_give(&b.g);
}

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
        cmocka_unit_test(test_ragged_shapes_equal_ref),
        cmocka_unit_test(test_edges_of_the_tiles_equal_ref),
        cmocka_unit_test(test_every_row_count_of_decoding_equals_ref),
        cmocka_unit_test(test_large_shapes_equal_ref_in_sampled_rows),
        cmocka_unit_test(test_no_inputs_leave_bias_or_what_was),
        cmocka_unit_test(test_not_finite_stays_in_its_row_and_column),
        cmocka_unit_test(test_another_order_is_told_apart),
        cmocka_unit_test(test_linear_and_its_backward),
        cmocka_unit_test(test_costs_and_pairs),
        cmocka_unit_test(test_a_table_that_cannot_be_had_is_refused_in_words),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
