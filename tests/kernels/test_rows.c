/* test_rows.c — every operator over rows and elements: the fast forms equal ref to the bit on ragged shapes, for every
 * instruction set of this machine and 1 … 4 threads; a row alone equals that row in a batch (law L1); sums over rows do
 * not see where micro-batches were cut, if at multiples of TL_KB. Equality is of bits: there is no tolerance here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kernels/ops.h"

/* splitmix64 (Steele et al. 2014): a fixed stream of numbers. */
static uint64_t random_state;
static uint64_t random_bits(void) {
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
/* Around zero, mostly about 1, now and then much smaller or larger; zeros of both signs occur. */
static float random_number(void) {
    uint64_t b = random_bits();
    float x = (float)((double)(int64_t)b * 0x1p-62);
    switch (b & 63) {
    case 0:
        return x * 1e-12f;
    case 1:
        return x * 40;
    case 2:
        return 0.0f;
    case 3:
        return -0.0f;
    default:
        return x;
    }
}

#define GUARD 16 /* floats past the end that must stay as they were */
static float *floats(int64_t n) {
    float *p = malloc((size_t)(n + GUARD) * sizeof *p);
    assert_non_null(p);
    for (int64_t i = 0; i < n; i++) p[i] = random_number();
    for (int i = 0; i < GUARD; i++) p[n + i] = 12345.0f;
    return p;
}
static void guard_check(const char *name, const float *p, int64_t n) {
    for (int i = 0; i < GUARD; i++)
        if (p[n + i] != 12345.0f) fail_msg("%s wrote past its end, at +%d", name, i);
}

typedef struct shape {
    int R, C, H, D, F, V;
} shape;

enum { TOKENS = 23, POSITIONS = 40, N_IN = 12 };

typedef struct inputs {
    shape d;
    float *x, *y, *gain, *bias, *dout, *gu, *dy, *logits, *E, *P, *cos_sin, *qk;
    float *rstd, *mean, *head_rstd, *head_gain, *dqk;
    int32_t *token, *pos, *target, *slot;
} inputs;

static inputs inputs_make(shape d) {
    inputs in = {.d = d};
    in.x = floats((int64_t)d.R * d.C), in.y = floats((int64_t)d.R * d.C), in.dout = floats((int64_t)d.R * d.C);
    in.gain = floats(d.C), in.bias = floats(d.C);
    in.gu = floats((int64_t)d.R * 2 * d.F), in.dy = floats((int64_t)d.R * d.F);
    in.logits = floats((int64_t)d.R * d.V);
    in.E = floats((int64_t)TOKENS * d.C), in.P = floats((int64_t)POSITIONS * d.C);
    in.cos_sin = floats((int64_t)POSITIONS * d.D), in.qk = floats((int64_t)d.R * (d.H * d.D + 3));
    in.rstd = floats(d.R), in.mean = floats(d.R), in.head_rstd = floats((int64_t)d.R * d.H);
    in.head_gain = floats(d.D), in.dqk = floats((int64_t)d.R * (d.H * d.D + 3));
    in.token = malloc(sizeof(int32_t) * (size_t)(d.R + 1)), in.pos = malloc(sizeof(int32_t) * (size_t)(d.R + 1));
    in.target = malloc(sizeof(int32_t) * (size_t)(d.R + 1)), in.slot = malloc(sizeof(int32_t) * TOKENS);
    for (int r = 0; r < d.R; r++) {
        in.token[r] = (int32_t)(random_bits() % TOKENS), in.pos[r] = (int32_t)(random_bits() % POSITIONS);
        in.target[r] = random_bits() % 7 == 0 ? -1 : (int32_t)(random_bits() % (uint64_t)d.V);
    }
    for (int i = 0; i < TOKENS; i++) in.slot[i] = (i * 7) % TOKENS;
    return in;
}
static void inputs_free(inputs *in) {
    float *f[] = {in->x, in->y,       in->gain, in->bias, in->dout, in->gu,        in->dy,        in->logits, in->E,
                  in->P, in->cos_sin, in->qk,   in->rstd, in->mean, in->head_rstd, in->head_gain, in->dqk};
    int32_t *i[] = {in->token, in->pos, in->target, in->slot};
    for (size_t k = 0; k < sizeof f / sizeof *f; k++) free(f[k]);
    for (size_t k = 0; k < sizeof i / sizeof *i; k++) free(i[k]);
}

/* What comes out by row, and what is summed over rows. */
#define BY_ROW(X)                                                                                                      \
    X(EMBED, C)                                                                                                        \
    X(EMBED_ALONE, C)                                                                                                  \
    X(EMBED_SCALED, C)                                                                                                 \
    X(RMS, C)                                                                                                          \
    X(RMS_SUM, C) X(RMS_RSTD, one) X(RMS_ALONE, C) X(RMS_NO_SUM, C) X(RMS_COPY, C) X(RMS_COPY_SUM, C) X(RMS_DX, C)     \
        X(LN, C) X(LN_SUM, C) X(LN_MEAN, one) X(LN_RSTD, one) X(LN_ALONE, C) X(LN_NO_SUM, C) X(LN_DX, C)               \
            X(IN_PLACE, C) X(IN_PLACE_NORM, C) X(ROPE, qk) X(ROPE_BACK, qk) X(GELU, C) X(GELU_BACK, C) X(SWIGLU, F)    \
                X(SWIGLU_BACK, gu) X(ADD, C) X(ADD_IN_PLACE, C) X(LOGP, one) X(DLOGITS, V) X(LOGP_ALONE, one)          \
                    X(HEAD, qk) X(HEAD_RSTD, H) X(HEAD_IN_PLACE, qk) X(HEAD_DX, qk) X(HEAD_DX_IN_PLACE, qk)            \
                        X(WHOLE, C) X(WHOLE_RSTD, one) X(WHOLE_DX, C) X(GEGLU, F) X(GEGLU_BACK, gu) X(SOFTCAP, C)      \
                            X(LOGZ, one) X(LOGP_Z, one) X(DLOGITS_Z, V) X(LOGP_CAP, one) X(LOGZ_CAP, one)              \
                                X(DLOGITS_CAP, V) X(LOGP_CAP_ALONE, one)
#define SUMMED(X)                                                                                                      \
    X(DBIAS, C)                                                                                                        \
    X(RMS_DGAIN, C)                                                                                                    \
    X(LN_DGAIN, C) X(LN_DBIAS, C) X(DE, E) X(DE_SLOT, E) X(HEAD_DGAIN, D) X(HEAD_DGAIN_IN_PLACE, D) X(WHOLE_DGAIN, C)

#define NAME_ROW(name, width) ROW_##name,
#define NAME_SUM(name, width) SUM_##name,
enum { BY_ROW(NAME_ROW) ROWS };
enum { SUMMED(NAME_SUM) SUMS };
#define TEXT(name, width) #name,
static const char *const row_name[] = {BY_ROW(TEXT)}, *const sum_name[] = {SUMMED(TEXT)};

typedef struct outputs {
    shape d;
    float *row[ROWS], *sum[SUMS];
    int64_t row_width[ROWS], sum_width[SUMS];
} outputs;

/* The same start for every run: outputs that are added to, or written in place, begin with the same numbers. */
static outputs outputs_make(const inputs *in) {
    const shape d = in->d;
    outputs o = {.d = d};
    const int64_t C = d.C, F = d.F, V = d.V, gu = 2 * (int64_t)d.F, one = 1, qk = d.H * d.D + 3, H = d.H, D = d.D,
                  E = (int64_t)TOKENS * C;
#define WIDTH_ROW(name, width) o.row_width[ROW_##name] = width;
#define WIDTH_SUM(name, width) o.sum_width[SUM_##name] = width;
    BY_ROW(WIDTH_ROW)
    SUMMED(WIDTH_SUM)
    random_state = 99;
    for (int k = 0; k < ROWS; k++) o.row[k] = floats(d.R * o.row_width[k]);
    for (int k = 0; k < SUMS; k++) o.sum[k] = floats(o.sum_width[k]);
    memcpy(o.row[ROW_ROPE], in->qk, sizeof(float) * (size_t)(d.R * qk));
    memcpy(o.row[ROW_ROPE_BACK], in->qk, sizeof(float) * (size_t)(d.R * qk));
    memcpy(o.row[ROW_GELU_BACK], in->dout, sizeof(float) * (size_t)(d.R * C));
    memcpy(o.row[ROW_ADD_IN_PLACE], in->x, sizeof(float) * (size_t)(d.R * C));
    memcpy(o.row[ROW_IN_PLACE], in->x, sizeof(float) * (size_t)(d.R * C));
    memcpy(o.row[ROW_DLOGITS], in->logits, sizeof(float) * (size_t)(d.R * V));
    memcpy(o.row[ROW_DLOGITS_Z], in->logits, sizeof(float) * (size_t)(d.R * V));
    memcpy(o.row[ROW_DLOGITS_CAP], in->logits, sizeof(float) * (size_t)(d.R * V));
    memcpy(o.row[ROW_HEAD_IN_PLACE], in->qk, sizeof(float) * (size_t)(d.R * qk));
    memcpy(o.row[ROW_HEAD_DX_IN_PLACE], in->dqk, sizeof(float) * (size_t)(d.R * qk));
    memcpy(o.row[ROW_SOFTCAP], in->x, sizeof(float) * (size_t)(d.R * C));
    return o;
}
static void outputs_free(outputs *o) {
    for (int k = 0; k < ROWS; k++) free(o->row[k]);
    for (int k = 0; k < SUMS; k++) free(o->sum[k]);
}

/* Every operator on rows r0 … r0 + R − 1. */
static void run(tl_ctx *ctx, const inputs *in, outputs *o, int r0, int R) {
    const tl_ops *f = ctx->ops;
    const int C = in->d.C, F = in->d.F, V = in->d.V, H = in->d.H, D = in->d.D;
    const int64_t c0 = (int64_t)r0 * C, n = (int64_t)R * C;
    const float *x = in->x + c0, *y = in->y + c0, *dout = in->dout + c0;
    const float eps = 1e-5f;
    float *out[ROWS];
    for (int k = 0; k < ROWS; k++) out[k] = o->row[k] + r0 * o->row_width[k];
#define OUT(name) out[ROW_##name]
    f->embed(ctx, OUT(EMBED), in->E, in->P, in->token + r0, in->pos + r0, 1, R, C);
    f->embed(ctx, OUT(EMBED_ALONE), in->E, NULL, in->token + r0, NULL, 27.7f, R, C);
    f->embed(ctx, OUT(EMBED_SCALED), in->E, in->P, in->token + r0, in->pos + r0, 0.3f, R, C);
    f->embed_backward(ctx, o->sum[SUM_DE], NULL, in->token + r0, dout, 1, R, C);
    f->embed_backward(ctx, o->sum[SUM_DE_SLOT], in->slot, in->token + r0, dout, 27.7f, R, C);
    f->bias_backward(ctx, o->sum[SUM_DBIAS], dout, C, R, C);

    f->rmsnorm(ctx, OUT(RMS), OUT(RMS_SUM), OUT(RMS_RSTD), x, y, in->gain, 0, eps, R, C);
    f->rmsnorm(ctx, OUT(RMS_ALONE), NULL, NULL, x, NULL, in->gain, 1, eps, R, C);
    f->rmsnorm(ctx, OUT(RMS_NO_SUM), NULL, NULL, x, y, in->gain, 0, eps, R, C);
    f->rmsnorm(ctx, OUT(RMS_COPY), OUT(RMS_COPY_SUM), NULL, x, NULL, in->gain, 0, eps, R, C);
    f->rmsnorm_backward(ctx, OUT(RMS_DX), o->sum[SUM_RMS_DGAIN], dout, x, in->rstd + r0, in->gain, 1, R, C);
    f->layernorm(ctx, OUT(LN), OUT(LN_SUM), OUT(LN_MEAN), OUT(LN_RSTD), x, y, in->gain, in->bias, eps, R, C);
    f->layernorm(ctx, OUT(LN_ALONE), NULL, NULL, NULL, x, NULL, in->gain, in->bias, eps, R, C);
    f->layernorm(ctx, OUT(LN_NO_SUM), NULL, NULL, NULL, x, y, in->gain, in->bias, eps, R, C);
    f->layernorm_backward(ctx, OUT(LN_DX), o->sum[SUM_LN_DGAIN], o->sum[SUM_LN_DBIAS], dout, x, in->mean + r0,
                          in->rstd + r0, in->gain, R, C);
    /* The residual stream added to where it lies. */
    f->rmsnorm(ctx, OUT(IN_PLACE_NORM), OUT(IN_PLACE), NULL, OUT(IN_PLACE), y, in->gain, 0, eps, R, C);

    const int64_t ld = H * D + 3;
    const float *qk = in->qk + r0 * ld, *dqk = in->dqk + r0 * ld, *head_rstd = in->head_rstd + (int64_t)r0 * H;
    f->head_norm(ctx, OUT(HEAD), ld, OUT(HEAD_RSTD), qk, ld, in->head_gain, 1, eps, R, H, D);
    f->head_norm(ctx, OUT(HEAD_IN_PLACE), ld, NULL, OUT(HEAD_IN_PLACE), ld, in->head_gain, 0, eps, R, H, D);
    f->head_norm_backward(ctx, OUT(HEAD_DX), ld, o->sum[SUM_HEAD_DGAIN], dqk, ld, qk, ld, head_rstd, in->head_gain, 1,
                          R, H, D);
    f->head_norm_backward(ctx, OUT(HEAD_DX_IN_PLACE), ld, o->sum[SUM_HEAD_DGAIN_IN_PLACE], OUT(HEAD_DX_IN_PLACE), ld,
                          qk, ld, head_rstd, in->head_gain, 0, R, H, D);
    f->head_norm(ctx, OUT(WHOLE), C, OUT(WHOLE_RSTD), x, C, in->gain, 0, eps, R, 1, C);
    f->head_norm_backward(ctx, OUT(WHOLE_DX), C, o->sum[SUM_WHOLE_DGAIN], dout, C, x, C, in->rstd + r0, in->gain, 0, R,
                          1, C);

    f->rope(ctx, OUT(ROPE), H * D + 3, in->cos_sin, in->pos + r0, 1, R, H, D);
    f->rope(ctx, OUT(ROPE_BACK), H * D + 3, in->cos_sin, in->pos + r0, -1, R, H, D);
    f->gelu(ctx, OUT(GELU), x, n);
    f->gelu_backward(ctx, OUT(GELU_BACK), OUT(GELU_BACK), x, n);
    f->swiglu(ctx, OUT(SWIGLU), in->gu + (int64_t)r0 * 2 * F, R, F);
    f->swiglu_backward(ctx, OUT(SWIGLU_BACK), in->dy + (int64_t)r0 * F, in->gu + (int64_t)r0 * 2 * F, R, F);
    f->geglu(ctx, OUT(GEGLU), in->gu + (int64_t)r0 * 2 * F, R, F);
    f->geglu_backward(ctx, OUT(GEGLU_BACK), in->dy + (int64_t)r0 * F, in->gu + (int64_t)r0 * 2 * F, R, F);
    f->softcap(ctx, OUT(SOFTCAP), 1.7f, n);
    f->add(ctx, OUT(ADD), x, y, n);
    f->add(ctx, OUT(ADD_IN_PLACE), OUT(ADD_IN_PLACE), y, n);
    const int32_t *target = in->target + r0;
    float *logits = in->logits + (int64_t)r0 * V; /* only read where no gradient is asked for */
    f->softmax_loss(ctx, OUT(LOGP), NULL, OUT(DLOGITS), target, &(tl_loss_form){0.037f, 0, 0}, R, V);
    f->softmax_loss(ctx, OUT(LOGP_ALONE), OUT(LOGZ), logits, target, &(tl_loss_form){0}, R, V);
    f->softmax_loss(ctx, OUT(LOGP_Z), NULL, OUT(DLOGITS_Z), target, &(tl_loss_form){0.037f, 1e-2f, 0}, R, V);
    f->softmax_loss(ctx, OUT(LOGP_CAP), OUT(LOGZ_CAP), OUT(DLOGITS_CAP), target, &(tl_loss_form){2, 1e-3f, 3}, R, V);
    f->softmax_loss(ctx, OUT(LOGP_CAP_ALONE), NULL, logits, target, &(tl_loss_form){0, 0, 3}, R, V);
}

static void same(const char *what, const char *name, const float *a, const float *b, int64_t n) {
    guard_check(name, a, n);
    for (int64_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a))
            fail_msg("%s: %s differs at %lld of %lld: %a, expected %a", what, name, (long long)i, (long long)n, a[i],
                     b[i]);
}
static void outputs_same(const char *what, const outputs *a, const outputs *b) {
    for (int k = 0; k < ROWS; k++) same(what, row_name[k], a->row[k], b->row[k], a->d.R * a->row_width[k]);
    for (int k = 0; k < SUMS; k++) same(what, sum_name[k], a->sum[k], b->sum[k], a->sum_width[k]);
}

static const char *const isas[] = {"ref", "avx2", "avx512", "cuda"};

/* A device has no threads of the CPU. */
static int most_threads(const char *isa) {
    return strcmp(isa, "cuda") ? 4 : 1;
}

/* 0 if this machine has it; ref always. */
static int open_isa(tl_ctx *ctx, int threads, const char *isa) {
    tl_error err;
    int status = tl__ctx_open(ctx, threads, isa, &err);
    if (status && status != TL_EUNSUPPORTED) fail_msg("%s", err.text);
    return status;
}

static void test_fast_equals_ref(void **state) {
    const shape shapes[] = {
        {1, 1, 1, 2, 1, 1},         {3, 15, 1, 6, 17, 31},      {2, 16, 2, 8, 16, 16},
        {5, 17, 3, 32, 33, 100},    {33, 384, 6, 64, 100, 257}, {257, 63, 2, 48, 31, 65},
        {300, 129, 4, 34, 129, 47}, {2100, 70, 2, 16, 40, 33},  {9, 2000, 5, 128, 3001, 5003},
        {0, 20, 1, 4, 8, 9},        {4, 512, 3, 10, 513, 512},  {3, 513, 1, 1026, 1024, 1025},
        {2, 1024, 2, 6, 1025, 2049},
    };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        random_state = s + 1;
        inputs in = inputs_make(shapes[s]);
        outputs want = outputs_make(&in);
        tl_ctx ctx;
        assert_int_equal(open_isa(&ctx, 1, "ref"), 0);
        run(&ctx, &in, &want, 0, in.d.R);
        tl__ctx_close(&ctx);
        for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
            for (int threads = 1; threads <= most_threads(isas[i]); threads++) {
                if (open_isa(&ctx, threads, isas[i])) continue;
                outputs got = outputs_make(&in);
                run(&ctx, &in, &got, 0, in.d.R);
                char what[80];
                snprintf(what, sizeof what, "%s, %d threads, R %d C %d", isas[i], threads, in.d.R, in.d.C);
                outputs_same(what, &got, &want);
                outputs_free(&got);
                tl__ctx_close(&ctx);
            }
        outputs_free(&want);
        inputs_free(&in);
    }
}

/* A bias's gradient, of rows that lie apart, by the definition of the rows order. */
static void test_sums_over_rows(void **state) {
    static const int heights[] = {1, 255, 256, 257, 700, 1300}, widths[] = {1, 31, 33, 600};
    for (size_t h = 0; h < sizeof heights / sizeof *heights; h++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
            const int R = heights[h], N = widths[w];
            const int64_t ld = N + 3;
            random_state = 8;
            float *dy = floats(R * ld), *start = floats(N), *want = floats(N), *got = floats(N);
            for (int n = 0; n < N; n++) {
                want[n] = start[n];
                for (int r0 = 0; r0 < R; r0 += TL_KB) {
                    float s = 0;
                    for (int r = r0; r < R && r < r0 + TL_KB; r++) s += dy[r * ld + n];
                    want[n] += s;
                }
            }
            for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
                tl_ctx ctx;
                if (open_isa(&ctx, 2, isas[i])) continue;
                memcpy(got, start, (size_t)N * sizeof *got);
                ctx.ops->bias_backward(&ctx, got, dy, ld, R, N);
                same(isas[i], "bias_backward", got, want, N);
                tl__ctx_close(&ctx);
            }
            free(dy), free(start), free(want), free(got);
        }
}

/* L1 for operators over rows: batches of 1, 2, 3, 61, 256 and 1000 rows (a played device takes its time: 530) give the same
 * rows. Sums over rows are the same too, when the batches are multiples of TL_KB. */
static void test_row_alone_equals_row_in_batch(void **state) {
    const int cuts[] = {1, 2, 3, 61, 256, 512};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        tl_ctx ctx;
        if (open_isa(&ctx, 2, isas[i])) continue;
        const shape d = {strcmp(isas[i], "cuda") ? 1000 : 530, 83, 3, 24, 45, 211};
        random_state = 5;
        inputs in = inputs_make(d);
        outputs want = outputs_make(&in);
        run(&ctx, &in, &want, 0, d.R);
        for (size_t k = 0; k < sizeof cuts / sizeof *cuts; k++) {
            outputs got = outputs_make(&in);
            for (int r = 0; r < d.R; r += cuts[k]) run(&ctx, &in, &got, r, r + cuts[k] < d.R ? cuts[k] : d.R - r);
            char what[80];
            snprintf(what, sizeof what, "%s, batches of %d", isas[i], cuts[k]);
            for (int j = 0; j < ROWS; j++) same(what, row_name[j], got.row[j], want.row[j], d.R * got.row_width[j]);
            for (int j = 0; j < SUMS; j++)
                if (cuts[k] % TL_KB == 0 || j == SUM_DE || j == SUM_DE_SLOT)
                    same(what, sum_name[j], got.sum[j], want.sum[j], got.sum_width[j]);
            outputs_free(&got);
        }
        outputs_free(&want);
        inputs_free(&in);
        tl__ctx_close(&ctx);
    }
}

/* The exponentials and sigmoids inside the operators over every kind of float, infinities and NaN included. */
static void test_all_kinds_of_floats(void **state) {
    const int64_t n = 1 << 16;
    float *x = floats(n), *gu = floats(2 * n), *want = floats(2 * n), *got = floats(2 * n);
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)i << 16 | (uint32_t)(random_bits() & 0xffff);
        memcpy(&x[i], &bits, sizeof bits);
        gu[i] = x[i], gu[n + i] = 1;
    }
    tl_ctx ref;
    assert_int_equal(open_isa(&ref, 1, "ref"), 0);
    for (size_t i = 1; i < sizeof isas / sizeof *isas; i++) {
        tl_ctx ctx;
        if (open_isa(&ctx, 2, isas[i])) continue;
        for (int op = 0; op < 7; op++) {
            tl_ctx *both[] = {&ref, &ctx};
            for (int k = 0; k < 2; k++) {
                float *out = k ? got : want;
                if (op == 0) both[k]->ops->gelu(both[k], out, x, n);
                if (op == 1) both[k]->ops->gelu_backward(both[k], out, gu + n, x, n);
                if (op == 2) both[k]->ops->swiglu(both[k], out, gu, 1, (int)n);
                if (op == 3) both[k]->ops->swiglu_backward(both[k], out, gu + n, gu, 1, (int)n);
                if (op == 4) both[k]->ops->geglu(both[k], out, gu, 1, (int)n);
                if (op == 5) both[k]->ops->geglu_backward(both[k], out, gu + n, gu, 1, (int)n);
                if (op == 6) memcpy(out, x, (size_t)n * sizeof *x), both[k]->ops->softcap(both[k], out, 50, n);
            }
            for (int64_t e = 0; e < (op == 3 || op == 5 ? 2 * n : n); e++)
                if (memcmp(&want[e], &got[e], sizeof *got) && !(isnan(want[e]) && isnan(got[e])))
                    fail_msg("%s operator %d at x = %a: %a, expected %a", isas[i], op, gu[e % n], got[e], want[e]);
        }
        tl__ctx_close(&ctx);
    }
    tl__ctx_close(&ref);
    free(x), free(gu), free(want), free(got);
}

static void test_softmax_loss_values(void **state) {
    tl_ctx ctx;
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (open_isa(&ctx, 1, isas[i])) continue;
        enum { V = 50 };
        float logits[3 * V], logp[3];
        int32_t target[3] = {7, -1, 49};
        for (int v = 0; v < 3 * V; v++) logits[v] = v % V == 3 ? 80.0f : 0.0f; /* far above: p underflows nowhere */
        logits[2 * V + 49] = NAN;
        ctx.ops->softmax_loss(&ctx, logp, NULL, logits, target, &(tl_loss_form){.grad_scale = 2}, 3, V);
        assert_true(fabsf(logp[0] + 80.0f) < 1e-5f); /* 80 + log(1 + 49·e^−80), rounded once: within ulp(80) = 7.6e-6 */
        assert_true(logits[3] == 2.0f && fabsf(logits[7] + 2.0f) < 1e-6f);
        assert_true(logp[1] == 0 && logits[V] == 0 && logits[V + 3] == 0);
        assert_true(isnan(logp[2]) && isnan(logits[2 * V])); /* a logit that is not a number is not hidden */
        tl__ctx_close(&ctx);
    }
}

/* exp of (z − m)/T, which is rounded twice before: of |x| ≤ 90 a relative error of e^(90·2^−23) − 1, beside 0.9 ulp. */
static void test_weigh(void **state) {
    enum { N = 1003 };
    static const int lengths[] = {0, 1, 15, 16, 17, 31, N};
    tl_ctx ref, ctx;
    assert_int_equal(open_isa(&ref, 1, "ref"), 0);
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        const int n = lengths[k];
        float *z = floats(n), *want = floats(n), *got = floats(n);
        if (n > 9) z[3] = NAN, z[5] = -INFINITY, z[9] = 50;
        if (n > 701) z[700] = 50, z[701] = -1e30f;
        const float m = n > 9 ? 50 : 41, T = 0.7f;
        const double sum = ref.ops->weigh(&ref, want, z, m, T, n);
        double plain = 0;
        for (int i = 0; i < n; i++) {
            const double w = z[i] < m ? exp(((double)z[i] - (double)m) / (double)T) : z[i] == m;
            assert_true(fabs((double)want[i] - w) <= w * (90 * 0x1p-23 + 0x1p-23) + 0x1p-149);
            plain += (double)want[i];
        }
        assert_true(fabs(sum - plain) <= plain * N * 0x1p-53);
        for (size_t i = 1; i < sizeof isas / sizeof *isas; i++) {
            if (open_isa(&ctx, 1, isas[i])) continue;
            const double fast = ctx.ops->weigh(&ctx, got, z, m, T, n);
            assert_memory_equal(&fast, &sum, sizeof sum);
            same(isas[i], "weigh", got, want, n);
            memcpy(got, z, (size_t)n * sizeof *z);
            ctx.ops->weigh(&ctx, got, got, m, T, n);
            same(isas[i], "weigh in place", got, want, n);
            tl__ctx_close(&ctx);
        }
        free(z), free(want), free(got);
    }
    tl__ctx_close(&ref);
}

static const int64_t lengths[] = {0, 1, 15, 16, 17, 4095, 4096, 4097, 16384, 16389, 100003};

static void test_sum_squares(void **state) {
    float *x = floats(100003);
    tl_ctx ref, ctx;
    assert_int_equal(open_isa(&ref, 1, "ref"), 0);
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        const int64_t n = lengths[k];
        const double want = ref.ops->sum_squares(&ref, x, n);
        long double plain = 0;
        for (int64_t i = 0; i < n; i++) plain += (long double)x[i] * x[i];
        assert_true(fabsl(want - plain) <= plain * 300 * 0x1p-53L); /* 256 + 4 + 25 additions, half an ulp each */
        for (size_t i = 1; i < sizeof isas / sizeof *isas; i++)
            for (int threads = 1; threads <= most_threads(isas[i]); threads++) {
                if (open_isa(&ctx, threads, isas[i])) continue;
                const double got = ctx.ops->sum_squares(&ctx, x, n);
                if (memcmp(&got, &want, sizeof got))
                    fail_msg("%s n %lld: %a, expected %a", isas[i], (long long)n, got, want);
                tl__ctx_close(&ctx);
            }
    }
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (open_isa(&ctx, 1, isas[i])) continue;
        float bad[40] = {0};
        bad[37] = INFINITY;
        assert_true(isinf(ctx.ops->sum_squares(&ctx, bad, 40)));
        bad[37] = NAN;
        assert_true(isnan(ctx.ops->sum_squares(&ctx, bad, 40)));
        bad[37] = 3e38f; /* its square is no f32 */
        assert_true(ctx.ops->sum_squares(&ctx, bad, 40) == (double)3e38f * (double)3e38f);
        tl__ctx_close(&ctx);
    }
    tl__ctx_close(&ref);
    free(x);
}

static tl_adamw hyper_at(int t) {
    const double b1 = 0.9, b2 = 0.999, lr = 1e-3;
    return (tl_adamw){.lr = (float)lr,
                      .beta1 = b1,
                      .beta2 = b2,
                      .eps = 1e-8f,
                      .weight_decay = 0.1f,
                      .grad_scale = 0.7f,
                      .step_size = (float)(lr / (1 - pow(b1, t))),
                      .inv_sqrt_correction2 = (float)(1 / sqrt(1 - pow(b2, t)))};
}

static void test_adamw_fast_equals_ref(void **state) {
    const int64_t most = 100003;
    float *g = floats(most), *start = floats(3 * most), *want = floats(3 * most), *got = floats(3 * most);
    for (int64_t i = 2 * most; i < 3 * most; i++) start[i] = fabsf(start[i]); /* v ≥ 0 */
    tl_ctx ref, ctx;
    assert_int_equal(open_isa(&ref, 1, "ref"), 0);
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        const int64_t n = lengths[k];
        const size_t bytes = (size_t)(3 * most) * sizeof(float);
        const tl_adamw h = hyper_at(3);
        memcpy(want, start, bytes);
        ref.ops->adamw(&ref, want, want + most, want + 2 * most, g, n, &h);
        for (size_t i = 1; i < sizeof isas / sizeof *isas; i++)
            for (int threads = 1; threads <= most_threads(isas[i]); threads++) {
                if (open_isa(&ctx, threads, isas[i])) continue;
                memcpy(got, start, bytes);
                ctx.ops->adamw(&ctx, got, got + most, got + 2 * most, g, n, &h);
                same(isas[i], "adamw", got, want, 3 * most); /* what lies past n included */
                tl__ctx_close(&ctx);
            }
    }
    tl__ctx_close(&ref);
    free(g), free(start), free(want), free(got);
}

/* Thirty steps against algorithm 2 of the paper in double. Per step, w is rounded twice (|w| < 2: 2·2^−24 each) and the
 * update, at most a few lr, carries about 8 rounding errors of 2^−24: 30·(4 + 8·4·lr)·2^−24 < 7.3e-6. A gradient taken
 * without its scale, or a decay left out, is 1e-3 off. */
static void test_adamw_follows_the_paper(void **state) {
    enum { N = 50, STEPS = 30 };
    tl_ctx ctx;
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (open_isa(&ctx, 1, isas[i])) continue;
        float w[N], m[N] = {0}, v[N] = {0}, g[N];
        double W[N], M[N] = {0}, S[N] = {0};
        random_state = 4;
        for (int k = 0; k < N; k++) W[k] = w[k] = (float)((double)(random_bits() >> 11) * 0x1p-52 - 1);
        for (int t = 1; t <= STEPS; t++) {
            const tl_adamw h = hyper_at(t);
            for (int k = 0; k < N; k++) g[k] = (float)((double)(random_bits() >> 11) * 0x1p-52 - 0.9);
            ctx.ops->adamw(&ctx, w, m, v, g, N, &h);
            for (int k = 0; k < N; k++) {
                const double d = (double)g[k] * 0.7;
                M[k] = 0.9 * M[k] + 0.1 * d;
                S[k] = 0.999 * S[k] + 0.001 * d * d;
                W[k] -= 1e-3 * 0.1 * W[k];
                W[k] -= 1e-3 * (M[k] / (1 - pow(0.9, t))) / (sqrt(S[k] / (1 - pow(0.999, t))) + 1e-8);
            }
        }
        for (int k = 0; k < N; k++)
            if (!(fabs(w[k] - W[k]) < 7.3e-6)) fail_msg("%s: w[%d] = %.9g, expected %.9g", isas[i], k, w[k], W[k]);
        tl__ctx_close(&ctx);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fast_equals_ref),
        cmocka_unit_test(test_sums_over_rows),
        cmocka_unit_test(test_row_alone_equals_row_in_batch),
        cmocka_unit_test(test_all_kinds_of_floats),
        cmocka_unit_test(test_softmax_loss_values),
        cmocka_unit_test(test_weigh),
        cmocka_unit_test(test_sum_squares),
        cmocka_unit_test(test_adamw_fast_equals_ref),
        cmocka_unit_test(test_adamw_follows_the_paper),
    };
    return cmocka_run_group_tests_name("rows", tests, NULL, NULL);
}
