/* test_vectors.c — every operator of ops.h against PyTorch (tests/vectors/ops.safetensors), on each instruction set
 * that runs here.
 *
 * References were computed in f64 from f32 inputs and rounded once. Tolerances, relative to the largest reference
 * element, with u = 2^-24: a chain of k fused steps on zero-mean terms strays by about 0.15·√k·u (r.m.s.) and four
 * times that over a few hundred outputs; chain(k) = (2·√k + 4)·u leaves a factor of three and room for the roundings of
 * inputs' products and of the reference. Other factors are derived where they are used. */
#include "vectors.h"
#include "kernels/ops.h"

static tl_safetensors *st;
static tl_ctx ctx;
static const char *chosen;

static double chain(int k) {
    return (2 * sqrt(k) + 4) * UNIT;
}

static float *in(const char *name) {
    return vectors_read(st, name, TL_F32, NULL);
}
static int32_t *ints(const char *name) {
    return vectors_read(st, name, TL_I32, NULL);
}
static float *zeros(int64_t n) {
    return calloc((size_t)n, sizeof(float));
}

static void near(const char *name, float *got, double tolerance) {
    int64_t n;
    float *want = vectors_read(st, name, TL_F32, &n);
    char what[128];
    snprintf(what, sizeof what, "%s %s", ctx.ops->isa, name);
    vectors_near(what, got, want, n, tolerance);
    free(want);
}

static float *transposed(const float *w, int N, int K) {
    float *t = zeros((int64_t)N * K);
    for (int n = 0; n < N; n++)
        for (int k = 0; k < K; k++) t[k * N + n] = w[n * K + k];
    return t;
}

static void test_linear(void **state) {
    enum { R = 7, K = 300, N = 19 };
    float *x = in("linear.x"), *W = in("linear.W"), *b = in("linear.b"), *dy = in("linear.dy");
    float *T = transposed(W, N, K), *y = zeros(R * N), *dx = zeros(R * K), *dW = zeros(N * K), *db = zeros(N);
    for (int layout = TL_OUT_IN; layout <= TL_IN_OUT; layout++) {
        const float *w = layout == TL_OUT_IN ? W : T;
        tl__linear(&ctx, y, N, x, K, w, layout, b, R, N, K);
        near("linear.y", y, chain(K));
        tl__linear_dx(&ctx, dx, K, dy, N, w, layout, R, N, K, false);
        near("linear.dx", dx, chain(N));
        memset(dW, 0, sizeof(float) * N * K);
        memset(db, 0, sizeof(float) * N);
        tl__linear_dw(&ctx, dW, db, dy, N, x, K, layout, R, N, K,
                      layout == TL_OUT_IN); /* dW is clear: added or written, the same */
        float *back = layout == TL_OUT_IN ? NULL : transposed(dW, K, N);
        near("linear.dW", back ? back : dW, chain(R));
        near("linear.db", db, chain(R));
        free(back);
    }
    free(x), free(W), free(b), free(dy), free(T), free(y), free(dx), free(dW), free(db);
}

static void test_linear_tall(void **state) { /* the sum over rows crosses a block */
    enum { R = 270, K = 5, N = 9 };
    float *x = in("tall.x"), *dy = in("tall.dy"), *dW = zeros(N * K), *db = zeros(N);
    tl__linear_dw(&ctx, dW, db, dy, N, x, K, TL_OUT_IN, R, N, K, true);
    near("tall.dW", dW, chain(R));
    near("tall.db", db, chain(R));
    free(x), free(dy), free(dW), free(db);
}

static void test_embed(void **state) {
    enum { R = 6, C = 24, V = 11, P = 3 };
    float *E = in("embed.E"), *pos_E = in("embed.P"), *dx = in("embed.dx"), *x = zeros(R * C), *dE = zeros(V * C),
          *dP = zeros(P * C);
    int32_t *token = ints("embed.token"), *pos = ints("embed.pos");
    tl__embed(&ctx, x, E, pos_E, token, pos, 1, R, C);
    near("embed.x", x, chain(1));
    tl__embed_backward(&ctx, dE, NULL, token, dx, 1, R, C);
    near("embed.dE", dE, chain(3));
    tl__embed_backward(&ctx, dP, NULL, pos, dx, 1, R, C);
    near("embed.dP", dP, chain(2));
    float *scaled = in("scaled.E"), scale = sqrtf(C);
    memset(dE, 0, sizeof(float) * V * C);
    tl__embed(&ctx, x, scaled, NULL, token, NULL, scale, R, C);
    near("scaled.x", x, chain(1));
    tl__embed_backward(&ctx, dE, NULL, token, dx, scale, R, C);
    near("scaled.dE", dE, chain(3));
    free(scaled);
    free(E), free(pos_E), free(dx), free(x), free(dE), free(dP), free(token), free(pos);
}

/* The sum of squares and the variance are means of positive terms: relative error under (C/16 + 5)·u in lanes and tree,
 * halved by the square root; the rest is a handful of roundings. chain(C) covers it for C = 43; backward has two such
 * sums in a row. */
static void test_rmsnorm(void **state) {
    enum { R = 9, C = 43 };
    float *x = in("rmsnorm.x"), *y = in("rmsnorm.y"), *gain = in("rmsnorm.gain"), *dout = in("rmsnorm.dout");
    float *out = zeros(R * C), *sum = zeros(R * C), *rstd = zeros(R), *dx = zeros(R * C), *dgain = zeros(C);
    tl__rmsnorm(&ctx, out, sum, rstd, x, y, gain, 0, 1e-5f, R, C);
    near("rmsnorm.sum", sum, chain(1));
    near("rmsnorm.out", out, chain(C));
    tl__rmsnorm_backward(&ctx, dx, dgain, dout, sum, rstd, gain, 0, R, C);
    near("rmsnorm.dx", dx, 2 * chain(C));
    near("rmsnorm.dgain", dgain, chain(R) + chain(C));
    free(x), free(y), free(gain), free(dout), free(out), free(sum), free(rstd), free(dx), free(dgain);
}

static void test_rmsnorm_plus(void **state) { /* the gain is 1 + the parameter */
    enum { R = 9, C = 43 };
    float *x = in("plus.x"), *gain = in("plus.gain"), *dout = in("plus.dout");
    float *out = zeros(R * C), *rstd = zeros(R), *dx = zeros(R * C), *dgain = zeros(C);
    tl__rmsnorm(&ctx, out, NULL, rstd, x, NULL, gain, 1, 1e-5f, R, C);
    near("plus.out", out, chain(C));
    tl__rmsnorm_backward(&ctx, dx, dgain, dout, x, rstd, gain, 1, R, C);
    near("plus.dx", dx, 2 * chain(C));
    near("plus.dgain", dgain, chain(R) + chain(C));
    free(x), free(gain), free(dout), free(out), free(rstd), free(dx), free(dgain);
}

/* As RMSNorm, of D numbers at a time; the gain's gradient sums R·HEADS of them. */
static void test_head_norm(void **state) {
    enum { R = 90, HEADS = 3, D = 12, ROW = HEADS * D };
    float *x = in("head.x"), *gain = in("head.gain"), *dout = in("head.dout");
    float *out = zeros(R * ROW), *rstd = zeros(R * HEADS), *dgain = zeros(D);
    tl__head_norm(&ctx, out, ROW, rstd, x, ROW, gain, 1, 1e-6f, R, HEADS, D);
    near("head.out", out, chain(D));
    tl__head_norm_backward(&ctx, dout, ROW, dgain, dout, ROW, x, ROW, rstd, gain, 1, R, HEADS, D);
    near("head.dx", dout, 2 * chain(D));
    near("head.dgain", dgain, chain(R * HEADS) + chain(D));
    free(x), free(gain), free(dout), free(out), free(rstd), free(dgain);
}

static void test_layernorm(void **state) {
    enum { R = 9, C = 43 };
    float *x = in("layernorm.x"), *y = in("layernorm.y"), *gain = in("layernorm.gain"), *bias = in("layernorm.bias"),
          *dout = in("layernorm.dout");
    float *out = zeros(R * C), *sum = zeros(R * C), *mean = zeros(R), *rstd = zeros(R), *dx = zeros(R * C),
          *dgain = zeros(C), *dbias = zeros(C);
    tl__layernorm(&ctx, out, sum, mean, rstd, x, y, gain, bias, 1e-5f, R, C);
    near("layernorm.sum", sum, chain(1));
    near("layernorm.out", out, chain(C));
    tl__layernorm_backward(&ctx, dx, dgain, dbias, dout, sum, mean, rstd, gain, R, C);
    near("layernorm.dx", dx, 2 * chain(C));
    near("layernorm.dgain", dgain, chain(R) + chain(C));
    near("layernorm.dbias", dbias, chain(R));
    free(x), free(y), free(gain), free(bias), free(dout), free(out), free(sum), free(mean), free(rstd), free(dx),
        free(dgain), free(dbias);
}

static void test_rope(void **state) {
    enum { R = 6, HEADS = 3, D = 16, ROW = HEADS * D };
    float *x = in("rope.x"), *dx = in("rope.dy"), *rows = in("rope.cos_sin");
    int32_t *pos = ints("rope.pos");
    float *table = zeros(1001 * D); /* the vectors give the rows in use */
    for (int r = 0; r < R; r++) memcpy(table + pos[r] * D, rows + r * D, D * sizeof(float));
    tl__rope(&ctx, x, ROW, table, pos, 1, R, HEADS, D);
    near("rope.y", x, chain(2));
    tl__rope(&ctx, dx, ROW, table, pos, -1, R, HEADS, D);
    near("rope.dx", dx, chain(2));
    free(x), free(dx), free(rows), free(pos), free(table);
}

/* A score is a chain over D = 12 of unit-variance products, so its error is about chain(D)·max|s|/4 in absolute terms,
 * and exp turns it into a relative one of p, averaged over up to 150 keys; then a chain over those keys. Backward has
 * dp as another chain over D, then keys, or queries (150, times two heads of a group). */
static void test_attention(void **state) {
    enum { H = 4, HKV = 2, D = 12, ROW = (H + 2 * HKV) * D, BLOCKS = 11 };
    int32_t *lengths = ints("attention.lengths");
    enum { R = 155, LONGEST = 150 };
    assert_int_equal(lengths[0] + lengths[1], R);
    float *q = in("attention.q"), *k = in("attention.k"), *v = in("attention.v"), *dout = in("attention.dout");
    float *out = zeros(R * H * D), *max_sum = zeros(R * H * 2), *d = zeros(R * ROW);
    tl_kv kv = {zeros(BLOCKS * HKV * D * TL_KV_BLOCK), zeros(BLOCKS * HKV * D * TL_KV_BLOCK), TL_F32};
    int32_t pos[R], token[R], seq_row[3] = {0, lengths[0], R}, seq_block[2] = {0, 1};
    int32_t block[BLOCKS] = {7, 3, 0, 10, 2, 9, 1, 8, 4, 6, 5}; /* sequences' blocks lie anywhere */
    memset(token, 0, sizeof token);
    for (int r = 0; r < R; r++) pos[r] = r < lengths[0] ? r : r - lengths[0];
    tl_rows rows = {
        .R = R, .S = 2, .token = token, .pos = pos, .seq_row = seq_row, .seq_block = seq_block, .block = block};
    const tl_attention_form form = {H, HKV, D, 1 / sqrtf(D), 0, 0};
    tl__kv_store(&ctx, kv, k, HKV * D, v, HKV * D, &rows, HKV, D);
    tl__attention(&ctx, out, H * D, max_sum, q, H * D, kv, &rows, &form);
    near("attention.out", out, chain(D) + chain(LONGEST));
    tl__attention_backward(&ctx, d, d + H * D, d + (H + HKV) * D, ROW, dout, out, H * D, max_sum, q, H * D, kv, &rows,
                           &form);
    float *dq = zeros(R * H * D), *dk = zeros(R * HKV * D), *dv = zeros(R * HKV * D);
    for (int r = 0; r < R; r++) {
        memcpy(dq + r * H * D, d + r * ROW, sizeof(float) * H * D);
        memcpy(dk + r * HKV * D, d + r * ROW + H * D, sizeof(float) * HKV * D);
        memcpy(dv + r * HKV * D, d + r * ROW + (H + HKV) * D, sizeof(float) * HKV * D);
    }
    near("attention.dq", dq, 2 * chain(D) + chain(LONGEST));
    near("attention.dk", dk, 2 * chain(D) + chain(2 * LONGEST));
    near("attention.dv", dv, chain(D) + chain(2 * LONGEST));
    free(q), free(k), free(v), free(dout), free(out), free(max_sum), free(d), free(kv.k), free(kv.v), free(dq),
        free(dk), free(dv), free(lengths);
}

/* The same bounds; a soft-cap's slope is at most 1, so that it damps the error of a score, and adds a few roundings of
 * numbers no larger than the cap: chain(D) has room for them. */
static void test_attention_forms(void **state) {
    enum { H = 2, D = 8, ROW = (H + 2) * D, BLOCKS = 7, R = 95, LONGEST = 90 };
    static const struct {
        const char *name;
        int window;
        float softcap;
    } forms[] = {{"window", 20, 0}, {"wide", 70, 0}, {"cap", 0, 1.5f}, {"both", 33, 2}};
    int32_t *lengths = ints("form.lengths");
    assert_int_equal(lengths[0] + lengths[1], R);
    float *q = in("form.q"), *k = in("form.k"), *v = in("form.v"), *dout = in("form.dout");
    float *out = zeros(R * H * D), *max_sum = zeros(R * H * 2),
          *d[3] = {zeros(R * H * D), zeros(R * H * D), zeros(R * H * D)};
    tl_kv kv = {zeros(BLOCKS * D * TL_KV_BLOCK), zeros(BLOCKS * D * TL_KV_BLOCK), TL_F32};
    int32_t pos[R], seq_row[3] = {0, lengths[0], R}, seq_block[2] = {0, 1}, block[BLOCKS] = {5, 3, 0, 2, 6, 1, 4};
    for (int r = 0; r < R; r++) pos[r] = r < lengths[0] ? r : r - lengths[0];
    tl_rows rows = {.R = R, .S = 2, .pos = pos, .seq_row = seq_row, .seq_block = seq_block, .block = block};
    tl__kv_store(&ctx, kv, k, D, v, D, &rows, 1, D);
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        const tl_attention_form form = {H, 1, D, 1 / sqrtf(D), forms[f].softcap, forms[f].window};
        static const char *const parts[] = {"out", "dq", "dk", "dv"};
        char name[4][32];
        for (int i = 0; i < 4; i++) snprintf(name[i], sizeof name[i], "form.%s.%s", forms[f].name, parts[i]);
        tl__attention(&ctx, out, H * D, max_sum, q, H * D, kv, &rows, &form);
        near(name[0], out, chain(D) + chain(LONGEST));
        tl__attention_backward(&ctx, d[0], d[1], d[2], H * D, dout, out, H * D, max_sum, q, H * D, kv, &rows, &form);
        for (int i = 1; i < 3; i++) /* keys' rows closed up to their own width */
            for (int r = 0; r < R; r++) memmove(d[i] + r * D, d[i] + r * H * D, sizeof(float) * D);
        near(name[1], d[0], 2 * chain(D) + chain(LONGEST));
        near(name[2], d[1], 2 * chain(D) + chain(2 * LONGEST));
        near(name[3], d[2], chain(D) + chain(2 * LONGEST));
    }
    free(q), free(k), free(v), free(dout), free(out), free(max_sum), free(kv.k), free(kv.v), free(lengths);
    for (int i = 0; i < 3; i++) free(d[i]);
}

/* Keys and values in fewer bits: what is kept is the same numbers, so that the bound is that of attention over them. A
 * rounding of another kind would move a key by 2⁻¹² of itself at the least, which is a thousand times more. */
static void test_attention_kept(void **state) {
    enum { D = 40, R = 70, BLOCKS = 5 };
    static const tl_type types[] = {TL_F16, TL_BF16, TL_Q8_0};
    float *q = in("kept.q"), *k = in("kept.k"), *v = in("kept.v"), *out = zeros(R * D);
    int32_t pos[R], seq_row[2] = {0, R}, seq_block[1] = {0}, block[BLOCKS] = {3, 0, 2, 1, 4};
    for (int r = 0; r < R; r++) pos[r] = r;
    const tl_rows rows = {.R = R, .S = 1, .pos = pos, .seq_row = seq_row, .seq_block = seq_block, .block = block};
    const tl_attention_form form = {1, 1, D, 1 / sqrtf(D), 0, 0};
    for (int i = 0; i < 3; i++) {
        const size_t bytes = BLOCKS * (size_t)tl_kv_part_bytes(types[i], D);
        tl_kv kv = {calloc(1, bytes), calloc(1, bytes), types[i]};
        char name[32];
        snprintf(name, sizeof name, "kept.%s.out", tl__type_name(types[i]));
        tl__kv_store(&ctx, kv, k, D, v, D, &rows, 1, D);
        tl__attention(&ctx, out, D, NULL, q, D, kv, &rows, &form);
        near(name, out, chain(D) + chain(R));
        free(kv.k), free(kv.v);
    }
    free(q), free(k), free(v), free(out);
}

/* A handful of roundings around one elementary function of a few ulp: 16 u of the largest. */
static void test_activations(void **state) {
    enum { N = 211, R = 5, F = 37 };
    float *x = in("gelu.x"), *dy = in("gelu.dy"), *y = zeros(N);
    tl__gelu(&ctx, y, x, N);
    near("gelu.y", y, 16 * UNIT);
    tl__gelu_backward(&ctx, dy, dy, x, N);
    near("gelu.dx", dy, 16 * UNIT);
    float *gu = in("swiglu.gu"), *dz = in("swiglu.dy"), *z = zeros(R * F), *dgu = zeros(R * 2 * F);
    tl__swiglu(&ctx, z, gu, R, F);
    near("swiglu.y", z, 16 * UNIT);
    tl__swiglu_backward(&ctx, dgu, dz, gu, R, F);
    near("swiglu.dgu", dgu, 16 * UNIT);
    float *eu = in("geglu.gu"), *de = in("geglu.dy"), *cap = in("softcap.x");
    tl__geglu(&ctx, z, eu, R, F);
    near("geglu.y", z, 16 * UNIT);
    tl__geglu_backward(&ctx, dgu, de, eu, R, F);
    near("geglu.dgu", dgu, 16 * UNIT);
    tl__softcap(&ctx, cap, 3, N);
    near("softcap.y", cap, 16 * UNIT);
    free(eu), free(de), free(cap);
    free(x), free(dy), free(y), free(gu), free(dz), free(z), free(dgu);
}

/* log p = z_t − (m + log Σ): roundings of numbers no larger than twice the result's largest. The gradient's relative
 * error is that of exp of an argument below 40 in size, rounded: 40·u/2 and exp's own. */
static void test_softmax_loss(void **state) {
    enum { R = 6, V = 101 };
    float *logits = in("loss.logits"), logp[R];
    int32_t *target = ints("loss.target");
    tl__softmax_loss(&ctx, logp, NULL, logits, target, &(tl_loss_form){.grad_scale = 0.25f}, R, V);
    near("loss.logp", logp, 8 * UNIT);
    near("loss.dlogits", logits, 24 * UNIT);
    free(logits), free(target);
}

/* The same bounds: a soft-cap of 5 keeps the exponent below 10, and its slope costs a handful of roundings; with a
 * z-loss a probability is multiplied by a number near 1 of three roundings. */
static void test_loss_forms(void **state) {
    enum { R = 6, V = 101 };
    static const struct {
        const char *name;
        float z_coef, softcap;
    } forms[] = {{"plain", 0.01f, 0}, {"cap", 0, 5}, {"both", 0.02f, 5}};
    int32_t *target = ints("loss.target");
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        float *logits = in("zloss.logits"), logp[R], logz[R];
        const tl_loss_form form = {0.25f, forms[f].z_coef, forms[f].softcap};
        char name[3][32];
        snprintf(name[0], sizeof name[0], "zloss.%s.logp", forms[f].name);
        snprintf(name[1], sizeof name[1], "zloss.%s.logz", forms[f].name);
        snprintf(name[2], sizeof name[2], "zloss.%s.dlogits", forms[f].name);
        tl__softmax_loss(&ctx, logp, logz, logits, target, &form, R, V);
        near(name[0], logp, 8 * UNIT);
        near(name[1], logz, 8 * UNIT);
        near(name[2], logits, 24 * UNIT);
        free(logits);
    }
    free(target);
}

static void test_sum_squares(void **state) {
    int64_t n;
    float *x = vectors_read(st, "squares.x", TL_F32, &n);
    double *want = vectors_read(st, "squares.sum", TL_F64, NULL), got = tl__sum_squares(&ctx, x, n);
    /* Positive terms in f64: at most 256 + 4 + 3 roundings one after the other. */
    assert_true(fabs(got - *want) <= 263 * 0x1p-53 * *want);
    free(x), free(want);
}

/* Three updates of a dozen roundings each, of numbers no larger than the results. */
static void test_adamw(void **state) {
    enum { N = 67 };
    float *w = in("adamw.w"), *g = in("adamw.g"), m[N] = {0}, v[N] = {0};
    for (int t = 1; t <= 3; t++) {
        tl_adamw hyper = {
            .lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .grad_scale = 0.5f};
        hyper.step_size = (float)(1e-3 / (1 - pow(0.9, t)));
        hyper.inv_sqrt_correction2 = (float)(1 / sqrt(1 - pow(0.95, t)));
        tl__adamw(&ctx, w, m, v, g + (t - 1) * N, N, &hyper);
    }
    near("adamw.w_after", w, 8 * UNIT);
    near("adamw.m_after", m, 16 * UNIT);
    near("adamw.v_after", v, 16 * UNIT);
    free(w), free(g);
}

static int setup(void **state) {
    st = vectors_open("ops.safetensors");
    tl_error err = {0};
    if (tl__ctx_open(&ctx, 2, chosen, &err)) fail_msg("%s", err.text);
    return 0;
}

static int teardown(void **state) {
    tl__ctx_close(&ctx);
    tl__safetensors_close(st);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),       cmocka_unit_test(test_linear_tall),
        cmocka_unit_test(test_embed),        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_layernorm),    cmocka_unit_test(test_rope),
        cmocka_unit_test(test_attention),    cmocka_unit_test(test_activations),
        cmocka_unit_test(test_softmax_loss), cmocka_unit_test(test_sum_squares),
        cmocka_unit_test(test_adamw),        cmocka_unit_test(test_rmsnorm_plus),
        cmocka_unit_test(test_head_norm),    cmocka_unit_test(test_attention_forms),
        cmocka_unit_test(test_loss_forms),   cmocka_unit_test(test_attention_kept),
    };
    int failed = 0, ran = 0;
    for (const char *const *isa = (const char *const[]){"ref", "avx2", "avx512", NULL}; *isa; isa++) {
        const tl_ops *ops = NULL;
        if (tl__ops_select(&ops, *isa, NULL)) continue; /* this CPU has not got it */
        ran++;
        printf("%s\n", *isa);
        struct CMUnitTest run[sizeof tests / sizeof *tests];
        memcpy(run, tests, sizeof tests);
        chosen = *isa;
        failed += cmocka_run_group_tests_name(*isa, run, setup, teardown);
    }
    return failed || !ran;
}
