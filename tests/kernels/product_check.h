/* product_check.h — what test_gemm.c and test_gemm_bf16.c share: operands that end at an unreadable page, and the check
 * that every instruction set gives ref's bits for a shape, with any threads and for some rows alone.
 *
 * Operands end where an unreadable page begins and the gaps of a leading dimension hold NaN, so a read or write outside
 * a matrix shows. The includer defines ENTRY (the table's product) and ISA_NAMES. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>
#include "kernels/ops.h"
#include "sanitized.h"

static const char *const isas[] = {ISA_NAMES};
enum { ISAS = sizeof isas / sizeof *isas };

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

/* A device computes on threads of its own: contexts of more differ in nothing. */
static int contexts_of(int isa) {
    return !has[isa] ? 0 : strcmp(isas[isa], "cuda") ? 4 : 1;
}

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

#ifndef WITHOUT_SHAPES /* nor the one shape's check */

static void product(tl_ctx *ctx, float *c, int64_t ldc, int M, int N, int K, const matrix *a, const matrix *b,
                    const float *bias, bool accumulate) {
    ctx->ops->ENTRY(ctx, c, ldc, M, N, K, a->g.p, a->row, a->col, b->g.p, b->row, b->col, bias, accumulate);
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
        for (int t = contexts_of(i) > 1 ? RACES_ALONE : 0; t < contexts_of(i); t++) {
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

/* ---- shapes that both contracts are checked with ---- */


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

/* Edges of larger tiles, of 64 and of 128, in both directions, and of blocks of k. */
static void test_edges_of_large_tiles_equal_ref(void **unused) {
    (void)unused;
    const int shapes[][3] = {{33, 65, 40},    {63, 64, 256}, {65, 127, 257}, {128, 128, 31},
                             {129, 161, 265}, {256, 257, 33}, {257, 131, 23}, {385, 129, 8}};
    for (int s = 0; s < (int)(sizeof shapes / sizeof *shapes); s++)
        for (int turn = s; turn < s + 2; turn++) /* of the four, each twice for either size */
            check(shapes[s][0], shapes[s][1], shapes[s][2], turn & 1, turn >> 1 & 1, s % 2 * 4 + turn % 2, s & 1, turn == s);
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
            for (int i = 0; i < ISAS; i++) {
                const bool played = contexts_of(i) == 1; /* a thread that plays a device takes minutes for all of them */
                if (played && (s == 0 || turn != (int)s % 4)) continue;
                for (int t = 0; t < contexts_of(i); t++) {
                    memcpy(got, start.g.p, (size_t)M * N * 4);
                    product(&contexts[i][t], got, N, M, N, K, &a, &b, NULL, turn == 3);
                    for (int tries = 0; tries < 2; tries++) { /* another row for each, so that all are seen in time */
                        const int r = integer(0, M - 1);
                        const matrix part = {{.p = a.g.p + r * a.row}, a.row, a.col};
                        memcpy(want, start.g.p + (size_t)r * N, (size_t)N * 4);
                        product(&contexts[ISAS][0], want, N, 1, N, K, &part, &b, NULL, turn == 3);
                        assert_memory_equal(got + (size_t)r * N, want, (size_t)N * 4);
                    }
                    if (t || played) continue;
                    float *alone = malloc((size_t)M * N * 4); /* all threads agree everywhere */
                    memcpy(alone, start.g.p, (size_t)M * N * 4);
                    product(&contexts[i][3], alone, N, M, N, K, &a, &b, NULL, turn == 3);
                    assert_memory_equal(got, alone, (size_t)M * N * 4);
                    free(alone);
                }
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
        ctx->ops->ENTRY(ctx, c, 3, 2, 3, 0, a, 1, 1, b, 3, 1, bias, true);
        for (int n = 0; n < 6; n++) assert_true(c[n] == 7 + bias[n % 3]);
        ctx->ops->ENTRY(ctx, c, 3, 2, 3, 0, a, 1, 1, b, 3, 1, bias, false);
        for (int n = 0; n < 6; n++) assert_true(c[n] == bias[n % 3]);
        ctx->ops->ENTRY(ctx, c, 3, 2, 3, 0, a, 1, 1, b, 3, 1, NULL, false);
        for (int n = 0; n < 6; n++) assert_true(c[n] == 0 && !signbit(c[n]));
        ctx->ops->ENTRY(ctx, c, 3, 0, 3, 5, a, 5, 1, b, 3, 1, NULL, false);
        ctx->ops->ENTRY(ctx, c, 3, 2, 0, 5, a, 5, 1, b, 3, 1, NULL, false);
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

#define PRODUCT_CHECKS                                                                                                 \
    cmocka_unit_test(test_ragged_shapes_equal_ref), cmocka_unit_test(test_edges_of_the_tiles_equal_ref),               \
        cmocka_unit_test(test_every_row_count_of_decoding_equals_ref),                                                 \
        cmocka_unit_test(test_edges_of_large_tiles_equal_ref),                                                         \
        cmocka_unit_test(test_large_shapes_equal_ref_in_sampled_rows),                                                 \
        cmocka_unit_test(test_no_inputs_leave_bias_or_what_was),                                                       \
        cmocka_unit_test(test_not_finite_stays_in_its_row_and_column)

#endif
