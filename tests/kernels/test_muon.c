/* test_muon.c — the blend against its definition, bit for bit; Muon's update against torch.optim.Muon in f64, its bits
 * over instruction sets and threads, and its halved symmetric products against whole ones. */
#include "kernels/ops.h"
#include "vectors.h"

static const char *const isas[] = {"ref", "avx2", "avx512", "cuda"};
enum { ISAS = 4, CUDA = 3 };

static uint64_t random_state = 1;
static float random_number(void) { /* splitmix64 (Steele et al. 2014), in (−1, 1) */
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (float)((double)(int64_t)(z ^ (z >> 31)) * 0x1p-63);
}

static float *floats(int64_t n) {
    float *p = malloc(sizeof *p * (size_t)(n + 1));
    for (int64_t i = 0; i < n; i++) p[i] = random_number();
    return p;
}

/* ---- blend ---- */

static void test_blend_fast_equals_ref(void **state) {
    static const struct {
        int64_t R, C, ldy, ldx;
    } shapes[] = {{1, 1, 1, 1},      {1, 100003, 100003, 100003}, {7, 17, 17, 17},         {7, 17, 20, 17},
                  {300, 70, 91, 70}, {3, 16389, 16400, 16389},    {2, 20000, 20000, 20001}};
    (void)state;
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (int with = 0; with < 2; with++) {
            int64_t R = shapes[k].R, C = shapes[k].C, ldy = shapes[k].ldy, ldx = shapes[k].ldx, n = R * ldy;
            float s = -0.7f, t = with ? 0.95f : 0.0f, *x = floats(R * ldx), *start = floats(n);
            float *want = malloc(sizeof *want * (size_t)n), *got = malloc(sizeof *got * (size_t)n);
            memcpy(want, start, sizeof *want * (size_t)n);
            for (int64_t r = 0; r < R; r++)
                for (int64_t c = 0; c < C; c++) {
                    float *y = want + r * ldy + c;
                    *y = with ? fmaf(s, x[r * ldx + c], t * *y) : s * x[r * ldx + c];
                }
            if (!with) start[0] = NAN; /* t = 0: y is not read */
            for (int i = 0; i < ISAS; i++)
                for (int threads = 1; threads <= 3; threads++) {
                    tl_ctx ctx;
                    if (i == CUDA && threads > 1) continue; /* a device has none of the CPU's */
                    if (tl__ctx_open(&ctx, threads, isas[i], NULL)) continue;
                    memcpy(got, start, sizeof *got * (size_t)n);
                    tl__blend(&ctx, got, ldy, t, x, ldx, s, R, C);
                    assert_memory_equal(got, want, sizeof *got * (size_t)n); /* what lies between the rows included */
                    tl__ctx_close(&ctx);
                }
            free(x), free(start), free(want), free(got);
        }
}

/* ---- Muon ---- */

static tl_muon_scratch scratch_for(int rows, int cols) {
    int side = rows < cols ? rows : cols;
    return (tl_muon_scratch){floats((int64_t)rows * cols), floats((int64_t)rows * cols), floats((int64_t)side * side),
                             floats((int64_t)side * side)};
}

static void scratch_free(tl_muon_scratch *s) {
    free(s->update), free(s->next), free(s->gram), free(s->square);
}

/* Three updates from PyTorch's start and gradients.
 *
 * The tolerance of w: each iteration's three products of normalised matrices leave an error of at most about 4·2^−24 in
 * the spectral norm (γ over at most two blocks of 256, times |a|+|b|+|c| = 10 for a part of a norm that is at most 1);
 * what follows enlarges it by at most a = 3.4445 an iteration: 4·2^−24·(a⁵ + a⁴ + … + 1) = 4·2^−24·686 = 1.6e-4. An
 * update is lr·0.2·√max(rows, cols) = 0.066 of that at most (270 columns), three updates 3.3e-5, and max|w| is
 * 0.3: 1.1e-4 at the very worst. But roundings are independent, so that their matrix has a spectral norm about √side
 * smaller than its bound, and only what belongs to singular values near 0 is enlarged 3.4445 times five times over: a
 * twentieth of the bound is allowed. A coefficient that is wrong in its fourth digit is not. m: three times two
 * roundings of numbers no larger than the largest. */
#define W_NEAR 5e-6
#define M_NEAR (8 * UNIT)

static void check_case(const tl_ctx *open, const tl_safetensors *file, const char *name) {
    char key[64];
    tl_ctx ctx = *open;
    snprintf(key, sizeof key, "muon.%s.w", name);
    const tl_tensor_info *info = tl__safetensors_find(file, key);
    assert_non_null(info);
    int rows = (int)info->shape[0], cols = (int)info->shape[1], ld = cols + 3;
    float *start = vectors_read(file, key, TL_F32, NULL), *hyper = vectors_read(file, "muon.hyper", TL_F32, NULL);
    snprintf(key, sizeof key, "muon.%s.g", name);
    float *given = vectors_read(file, key, TL_F32, NULL);
    float *w = calloc((size_t)rows * (size_t)ld, sizeof *w), *m = calloc((size_t)rows * (size_t)ld, sizeof *m),
          *g = calloc((size_t)rows * (size_t)ld, sizeof *g); /* in rows with a leading dimension of their own */
    tl_muon_scratch scratch = scratch_for(rows, cols);
    tl_muon h = {.lr = hyper[0], .weight_decay = hyper[1], .momentum = (double)hyper[2], .grad_scale = hyper[3]};
    for (int r = 0; r < rows; r++) memcpy(w + r * ld, start + r * cols, sizeof *w * (size_t)cols);
    for (int step = 0; step < 3; step++) {
        for (int r = 0; r < rows; r++) memcpy(g + r * ld, given + (step * rows + r) * cols, sizeof *g * (size_t)cols);
        tl__muon(&ctx, w, m, g, rows, cols, ld, &scratch, &h);
    }
    for (int r = 0; r < rows; r++) {
        assert_true(w[r * ld + cols] == 0 && m[r * ld + cols + 2] == 0); /* nothing beside the matrix was written */
        memmove(w + r * cols, w + r * ld, sizeof *w * (size_t)cols);
        memmove(m + r * cols, m + r * ld, sizeof *m * (size_t)cols);
    }
    snprintf(key, sizeof key, "muon.%s.w_after", name);
    int64_t n;
    float *want = vectors_read(file, key, TL_F32, &n);
    vectors_near(key, w, want, n, W_NEAR);
    free(want);
    snprintf(key, sizeof key, "muon.%s.m_after", name);
    want = vectors_read(file, key, TL_F32, &n);
    vectors_near(key, m, want, n, M_NEAR);
    free(want), free(start), free(hyper), free(given), free(w), free(m), free(g);
    scratch_free(&scratch);
}

static void test_muon_is_PyTorchs(void **state) {
    tl_safetensors *file = vectors_open("optimizer.safetensors");
    (void)state;
    for (int i = 0; i < ISAS; i++) {
        tl_ctx ctx;
        if (tl__ctx_open(&ctx, 2, isas[i], NULL)) continue;
        check_case(&ctx, file, "wide");
        check_case(&ctx, file, "tall");
        check_case(&ctx, file, "square");
        tl__ctx_close(&ctx);
    }
    tl__safetensors_close(file);
}

/* The same update with whole products and one leading dimension, as the comment in ops.h has it. */
static void plain_muon(tl_ctx *ctx, float *w, float *m, const float *g, int rows, int cols, const tl_muon *h) {
    int64_t n = (int64_t)rows * cols;
    int side = rows <= cols ? rows : cols, other = rows <= cols ? cols : rows;
    tl_muon_scratch s = scratch_for(rows, cols);
    float fresh = (float)((1.0 - h->momentum) * h->grad_scale), mu = (float)h->momentum, *x = s.update, *y = s.next;
    for (int64_t i = 0; i < n; i++) m[i] = fmaf(fresh, g[i], mu * m[i]);
    for (int64_t i = 0; i < n; i++) x[i] = fmaf(fresh, g[i], mu * m[i]);
    float scale = (float)(1.0 / fmax(sqrt(ctx->ops->sum_squares(ctx, x, n)), 1e-7));
    for (int64_t i = 0; i < n; i++) x[i] = scale * x[i];
    int64_t row = rows <= cols ? cols : 1, col = rows <= cols ? 1 : cols;
    for (int step = 0; step < 5; step++) {
        ctx->ops->gemm(ctx, s.gram, side, side, side, other, x, row, col, x, col, row, NULL, false);
        ctx->ops->gemm(ctx, s.square, side, side, side, side, s.gram, side, 1, s.gram, 1, side, NULL, false);
        for (int64_t i = 0; i < (int64_t)side * side; i++)
            s.square[i] = fmaf(-4.775f, s.gram[i], 2.0315f * s.square[i]);
        for (int64_t i = 0; i < side; i++) s.square[i * side + i] += 3.4445f;
        if (rows <= cols) ctx->ops->gemm(ctx, y, cols, rows, cols, rows, s.square, rows, 1, x, cols, 1, NULL, false);
        else ctx->ops->gemm(ctx, y, cols, rows, cols, cols, x, cols, 1, s.square, cols, 1, NULL, false);
        float *swap = x;
        x = y, y = swap;
    }
    float keep = (float)(1.0 - (double)h->lr * h->weight_decay), rate = (float)(-0.2 * h->lr * sqrt(other));
    for (int64_t i = 0; i < n; i++) w[i] = fmaf(rate, x[i], keep * w[i]);
    s.update = x, s.next = y;
    scratch_free(&s);
}

/* Sides below, on and over the panel of 256 that symmetric products are cut in. */
static void test_muon_bits(void **state) {
    static const int shapes[][2] = {{5, 9}, {9, 5}, {1, 40}, {256, 300}, {530, 260}, {270, 270}};
    tl_muon h = {.lr = 0.01f, .weight_decay = 0.1f, .grad_scale = 0.5f, .momentum = 0.95};
    (void)state;
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        int rows = shapes[k][0], cols = shapes[k][1];
        size_t bytes = sizeof(float) * (size_t)rows * (size_t)cols;
        float *start = floats((int64_t)rows * cols), *g = floats((int64_t)rows * cols);
        float *w = malloc(bytes), *m = calloc(1, bytes), *w2 = malloc(bytes), *m2 = malloc(bytes);
        tl_muon_scratch scratch = scratch_for(rows, cols);
        tl_ctx ctx;
        memcpy(w, start, bytes);
        assert_int_equal(tl__ctx_open(&ctx, 2, NULL, NULL), 0);
        plain_muon(&ctx, w, m, g, rows, cols, &h);
        tl__ctx_close(&ctx);
        for (int i = 0; i < ISAS; i++)
            for (int threads = 1; threads <= 3; threads++) {
                if ((i == 0 || i == CUDA) && (threads > 1 || rows > 300)) continue; /* these take their time */
                if (tl__ctx_open(&ctx, threads, isas[i], NULL)) continue;
                memcpy(w2, start, bytes), memset(m2, 0, bytes);
                tl__muon(&ctx, w2, m2, g, rows, cols, cols, &scratch, &h);
                assert_memory_equal(w2, w, bytes);
                assert_memory_equal(m2, m, bytes);
                tl__ctx_close(&ctx);
            }
        scratch_free(&scratch);
        free(start), free(g), free(w), free(m), free(w2), free(m2);
    }
}

/* No gradient, no update but the decay: the norm is bounded away from 0. */
static void test_muon_of_nothing(void **state) {
    enum { N = 6 };
    float w[N * N], m[N * N] = {0}, g[N * N] = {0};
    tl_muon h = {.lr = 0.5f, .weight_decay = 0.5f, .grad_scale = 1, .momentum = 0.95};
    tl_muon_scratch scratch = scratch_for(N, N);
    tl_ctx ctx;
    (void)state;
    for (int i = 0; i < N * N; i++) w[i] = (float)i;
    assert_int_equal(tl__ctx_open(&ctx, 1, NULL, NULL), 0);
    tl__muon(&ctx, w, m, g, N, N, N, &scratch, &h);
    for (int i = 0; i < N * N; i++) assert_true(w[i] == 0.75f * (float)i && m[i] == 0);
    tl__ctx_close(&ctx);
    scratch_free(&scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blend_fast_equals_ref),
        cmocka_unit_test(test_muon_is_PyTorchs),
        cmocka_unit_test(test_muon_bits),
        cmocka_unit_test(test_muon_of_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
