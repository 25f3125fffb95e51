/* test_attention.c — kv_store, attention and attention_backward: the fast forms against the definition, bit for bit,
 * over ragged rows; the row law; and the definition itself against plain softmax and finite differences in double.
 *
 * Every KV store here starts as NaN, so a lane or block that should not be read shows in the result. */
#define TL_REF_DOUBLE
#include "../../src/kernels/ref/attention.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/rng.h"
#include "io/gguf.h"
#include "sanitized.h"

enum { MAX_SEQS = 40 };

static const char *const isas[] = {"ref", "avx2", "avx512", "cuda"};
enum { ISAS = sizeof isas / sizeof *isas, CUDA = 3 };
static tl_ctx contexts[ISAS][5]; /* [isa][threads]; ops NULL where the CPU cannot */

static int open_contexts(void **state) {
    for (int isa = 0; isa < ISAS; isa++)
        for (int threads = 1; threads <= 4; threads++)
            if (tl__ctx_open(&contexts[isa][threads], threads, isas[isa], NULL)) contexts[isa][threads].ops = NULL;
    return contexts[0][1].ops ? 0 : -1;
}

static int close_contexts(void **state) {
    for (int isa = 0; isa < ISAS; isa++)
        for (int threads = 1; threads <= 4; threads++)
            if (contexts[isa][threads].ops) tl__ctx_close(&contexts[isa][threads]);
    return 0;
}

/* Sequences of given pasts and new rows over one KV store whose blocks are dealt out in a keyed order. */
typedef struct world {
    int H, Hkv, D, S;
    int past[MAX_SEQS], fresh[MAX_SEQS];
    tl_rows rows; /* the fresh ones */
    int32_t *pos, *seq_row, *seq_block, *block;
    int blocks;
    int64_t kv_bytes;       /* of all K, and of all V */
    int64_t ldq, ldkv, ldo; /* leading dimensions wider than the heads, as in a fused QKV product */
    tl_kv kv;
    float *q, *k, *v, *dout; /* of the fresh rows */
    float *past_k, *past_v;  /* [all positions of all sequences][Hkv·D] */
    int32_t *past_at;        /* [S] first row of a sequence in past_k */
    tl_attention_form form;
} world;

static uint64_t world_seed = 1;

static float *random_floats(size_t n) {
    float *x = malloc(n * sizeof(float));
    assert_non_null(x);
    tl__normal_fill(x, n, 0, 1, world_seed++, 0, 0);
    return x;
}

static void *nan_bytes(size_t n) {
    void *x = malloc(n);
    assert_true(x || n == 0);
    memset(x, 0xff, n); /* no number in any type */
    return x;
}

static float *nan_floats(size_t n) {
    return nan_bytes(n * sizeof(float));
}

static void world_open(world *w, tl_type type, int H, int Hkv, int D, int S, const int *past, const int *fresh) {
    *w = (world){.H = H, .Hkv = Hkv, .D = D, .S = S, .form = {H, Hkv, D, 1 / sqrtf((float)D), 0, 0}};
    int R = 0, all = 0;
    w->seq_row = malloc((size_t)(S + 1) * sizeof(int32_t));
    w->seq_block = malloc((size_t)S * sizeof(int32_t));
    w->past_at = malloc((size_t)S * sizeof(int32_t));
    for (int s = 0; s < S; s++) {
        w->past[s] = past[s], w->fresh[s] = fresh[s];
        w->seq_row[s] = R, w->seq_block[s] = w->blocks, w->past_at[s] = all;
        R += fresh[s], all += past[s] + fresh[s];
        w->blocks += (past[s] + fresh[s] + TL_KV_BLOCK - 1) / TL_KV_BLOCK;
    }
    w->seq_row[S] = R;
    w->pos = malloc((size_t)(R + 1) * sizeof(int32_t));
    w->block = malloc((size_t)(w->blocks + 1) * sizeof(int32_t));
    for (int s = 0; s < S; s++)
        for (int i = 0; i < fresh[s]; i++) w->pos[w->seq_row[s] + i] = past[s] + i;
    for (int b = 0; b < w->blocks; b++)
        w->block[b] = (int32_t)tl__permute((uint64_t)b, (uint64_t)w->blocks, world_seed, 0);
    w->rows = (tl_rows){R, S, NULL, w->pos, w->seq_row, w->seq_block, w->block};
    w->ldq = (int64_t)H * D + 3, w->ldkv = (int64_t)Hkv * D + 5, w->ldo = (int64_t)H * D + 1;
    w->kv_bytes = w->blocks * Hkv * tl_kv_part_bytes(type, D);
    w->kv = (tl_kv){nan_bytes((size_t)w->kv_bytes), nan_bytes((size_t)w->kv_bytes), type};
    w->q = random_floats((size_t)(R * w->ldq)), w->dout = random_floats((size_t)(R * w->ldo));
    w->k = random_floats((size_t)(R * w->ldkv)), w->v = random_floats((size_t)(R * w->ldkv));
    w->past_k = random_floats((size_t)((int64_t)all * Hkv * D)),
    w->past_v = random_floats((size_t)((int64_t)all * Hkv * D));
    /* The pasts, one row at a time by the definition. */
    for (int s = 0; s < S; s++)
        for (int32_t p = 0; p < past[s]; p++) {
            int32_t span[2] = {0, 1};
            tl_rows one = {1, 1, NULL, &p, span, w->seq_block + s, w->block};
            int64_t at = (w->past_at[s] + p) * (int64_t)Hkv * D;
            contexts[0][1].ops->kv_store(&contexts[0][1], w->kv, w->past_k + at, 0, w->past_v + at, 0, &one, Hkv, D);
        }
}

static void world_close(world *w) {
    free(w->seq_row), free(w->seq_block), free(w->past_at), free(w->pos), free(w->block);
    free(w->kv.k), free(w->kv.v), free(w->q), free(w->k), free(w->v), free(w->dout), free(w->past_k), free(w->past_v);
}

static tl_kv kv_copy(const world *w) {
    tl_kv kv = {nan_bytes((size_t)w->kv_bytes), nan_bytes((size_t)w->kv_bytes), w->kv.type};
    memcpy(kv.k, w->kv.k, (size_t)w->kv_bytes);
    memcpy(kv.v, w->kv.v, (size_t)w->kv_bytes);
    return kv;
}

/* What the operators give; unwritten places stay NaN. */
typedef struct result {
    tl_kv kv;
    float *out, *max_sum, *dq, *dk, *dv;
    size_t out_floats, sum_floats, grad_floats;
    int64_t ld;
} result;

static result compute(tl_ctx *ctx, const world *w, bool backward) {
    result r = {.kv = kv_copy(w), .ld = (int64_t)w->H * w->D + 7};
    r.out_floats = (size_t)(w->rows.R * w->ldo), r.sum_floats = (size_t)w->rows.R * (size_t)w->H * 2;
    r.grad_floats = backward ? (size_t)(w->rows.R * r.ld) : 0;
    r.out = nan_floats(r.out_floats), r.max_sum = nan_floats(r.sum_floats);
    r.dq = nan_floats(r.grad_floats), r.dk = nan_floats(r.grad_floats), r.dv = nan_floats(r.grad_floats);
    ctx->ops->kv_store(ctx, r.kv, w->k, w->ldkv, w->v, w->ldkv, &w->rows, w->Hkv, w->D);
    ctx->ops->attention(ctx, r.out, w->ldo, r.max_sum, w->q, w->ldq, r.kv, &w->rows, &w->form);
    if (backward)
        ctx->ops->attention_backward(ctx, r.dq, r.dk, r.dv, r.ld, w->dout, r.out, w->ldo, r.max_sum, w->q, w->ldq, r.kv,
                                     &w->rows, &w->form);
    return r;
}

static void result_close(result *r) {
    free(r->kv.k), free(r->kv.v), free(r->out), free(r->max_sum), free(r->dq), free(r->dk), free(r->dv);
}

static void assert_same(const char *what, const world *w, const float *a, const float *b, size_t n) {
    if (memcmp(a, b, n * sizeof(float)) == 0) return;
    size_t i = 0;
    while (memcmp(a + i, b + i, sizeof(float)) == 0) i++;
    print_error("%s[%zu]: %a, by the definition %a (H %d, Hkv %d, D %d, S %d, first past %d, fresh %d, window "
                "%d, cap %g, %s)\n",
                what, i, (double)a[i], (double)b[i], w->H, w->Hkv, w->D, w->S, w->past[0], w->fresh[0], w->form.window,
                (double)w->form.softcap, tl__type_name(w->kv.type));
    fail();
}

static void assert_result(const world *w, const result *a, const result *b) {
    assert_memory_equal(a->kv.k, b->kv.k, (size_t)w->kv_bytes);
    assert_memory_equal(a->kv.v, b->kv.v, (size_t)w->kv_bytes);
    assert_same("out", w, a->out, b->out, a->out_floats);
    assert_same("max_sum", w, a->max_sum, b->max_sum, a->sum_floats);
    assert_same("dq", w, a->dq, b->dq, a->grad_floats);
    assert_same("dv", w, a->dv, b->dv, a->grad_floats);
    assert_same("dk", w, a->dk, b->dk, a->grad_floats);
}

/* A device that one thread plays takes its time: of the worlds in which all are compared it is given the small, and of the
 * others every eleventh; or, by TL_EXHAUSTIVE, all. */
static bool device_takes_part(const world *w) {
    static int worlds;
    return w->H * w->rows.R <= 150 || getenv("TL_EXHAUSTIVE") || worlds++ % 11 == 0;
}

static void assert_all_isas(const world *w, bool backward, int most_threads) {
    result ref = compute(&contexts[0][1], w, backward);
    for (int64_t r = 0; r < w->rows.R; r++)
        for (int i = 0; i < w->H * w->D; i++) {
            assert_false(isnan(ref.out[r * w->ldo + i]));
            if (backward) assert_false(isnan(ref.dq[r * ref.ld + i]));
            if (backward && i < w->Hkv * w->D)
                assert_false(isnan(ref.dk[r * ref.ld + i]) || isnan(ref.dv[r * ref.ld + i]));
        }
    for (int isa = 1; isa < ISAS; isa++) {
        const int most = isa != CUDA ? most_threads : device_takes_part(w); /* a device uses no thread */
        for (int threads = 1 + RACES_ALONE; threads <= most && contexts[isa][threads].ops; threads++) {
            result fast = compute(&contexts[isa][threads], w, backward);
            assert_result(w, &fast, &ref);
            result_close(&fast);
        }
    }
    result_close(&ref);
}

/* Windows that end within a block, a chunk and a tile of rows, at a chunk, across chunks, and beyond every key;
 * soft-caps that bend the scores. The first is plain. */
static const struct {
    int window;
    float softcap;
} forms[] = {{0, 0}, {1, 0}, {7, 0}, {64, 0}, {65, 0}, {100, 0}, {INT32_MAX, 0}, {0, 2}, {30, 0.7f}, {130, 5}};
enum { FORMS = sizeof forms / sizeof *forms };
static const tl_type types[] = {TL_F32, TL_F16, TL_BF16, TL_Q8_0}; /* of K and V */
enum { TYPES = sizeof types / sizeof *types };
enum { LAW_FORMS = 3 };
static const int law_form[LAW_FORMS] = {0, 5, 8}; /* in which the laws are tested */

static void set_form(world *w, int i) {
    w->form.window = forms[i].window, w->form.softcap = forms[i].softcap;
}

static void fast_equals_ref_forward(void **state) {
    static const struct {
        int H, Hkv, D, S, past[6], fresh[6];
    } cases[] = {
        {1, 1, 1, 1, {0}, {1}},
        {1, 1, 4, 1, {0}, {17}},
        {2, 1, 10, 2, {0, 5}, {65, 3}},
        {4, 2, 8, 3, {63, 64, 65}, {2, 1, 70}},
        {3, 3, 64, 2, {0, 0}, {64, 70}},
        {6, 6, 64, 1, {0}, {200}},
        {8, 2, 64, 6, {300, 1, 0, 127, 128, 15}, {1, 1, 1, 1, 1, 1}}, /* decode */
        {9, 3, 64, 4, {100, 0, 250, 64}, {1, 30, 7, 130}},            /* mixed */
        {2, 2, 128, 2, {10, 0}, {75, 20}},
        {4, 1, 80, 2, {0, 48}, {33, 100}},
        {2, 1, 96, 1, {77}, {50}},
        {2, 2, 20, 1, {0}, {100}},
        {1, 1, 256, 1, {60}, {12}},
        {1, 1, 255, 1, {3}, {20}},
        {16, 1, 16, 2, {0, 90}, {9, 1}},
        {40, 1, 33, 1, {30}, {4}},
        {2, 1, 64, 5, {0, 0, 0, 0, 9}, {0, 3, 0, 5, 0}}, /* empty sequences */
        {3, 1, 16, 2, {2300, 1}, {1, 2}},                /* many chunks */
        {1, 1, 12, 1, {62}, {66}},                       /* the first row misses the last key of a chunk */
        {2, 1, 64, 4, {14, 62, 29, 191}, {3, 3, 3, 3}},  /* a few rows that end in different blocks and chunks */
    };
    for (size_t i = 0; i < TYPES * (sizeof cases / sizeof *cases); i++) {
        const size_t c = i / TYPES;
        world w;
        world_open(&w, types[i % TYPES], cases[c].H, cases[c].Hkv, cases[c].D, cases[c].S, cases[c].past,
                   cases[c].fresh);
        for (int f = 0; f < FORMS; f += f ? 3 : 1 + (int)c % 3) {        /* plain, and a third of the others */
            if (i % TYPES && f && f / 3 != (int)i % TYPES - 1) continue; /* of a narrow type, one */
            set_form(&w, f);
            assert_all_isas(&w, false, f || i % TYPES ? 2 : 4);
        }
        world_close(&w);
    }
}

static void fast_equals_ref_forward_random(void **state) {
    for (uint64_t t = 0; t < 60; t++) {
        tl_u32x4 x = tl__philox(7, TL_RNG_TEST, 0, t), y = tl__philox(7, TL_RNG_TEST, 1, t);
        int Hkv = 1 + (int)(x.v[0] % 3), G = 1 + (int)(x.v[1] % 4), D = 1 + (int)(x.v[2] % 100),
            S = 1 + (int)(x.v[3] % 5);
        int past[MAX_SEQS], fresh[MAX_SEQS];
        for (int s = 0; s < S; s++)
            past[s] = (int)((y.v[s % 4] >> s) % 140), fresh[s] = (int)((y.v[(s + 1) % 4] >> s) % 90);
        world w;
        world_open(&w, types[x.v[0] >> 8 & 3], Hkv * G, Hkv, D, S, past, fresh);
        w.form.window = (int)(t % 3 ? x.v[1] >> 8 & 127 : 0);
        w.form.softcap = t % 4 == 1 ? 0.5f + (float)t : 0;
        if (w.rows.R > 0) assert_all_isas(&w, false, 2);
        world_close(&w);
    }
}

static void fast_equals_ref_backward(void **state) {
    static const struct {
        int H, Hkv, D, S, fresh[6];
    } cases[] = {
        {1, 1, 1, 1, {1}},
        {1, 1, 4, 1, {17}},
        {2, 1, 10, 2, {65, 3}},
        {4, 2, 8, 3, {130, 1, 70}},
        {1, 1, 64, 1, {300}}, /* one task when whole: split from two threads on */
        {3, 3, 64, 3, {64, 70, 128}},
        {4, 2, 64, 6, {5, 20, 0, 33, 64, 63}}, /* packed documents */
        {2, 2, 128, 1, {140}},
        {4, 1, 80, 2, {33, 100}},
        {2, 1, 96, 1, {66}},
        {1, 1, 255, 1, {70}},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        world w;
        static const int none[6];
        world_open(&w, TL_F32, cases[c].H, cases[c].Hkv, cases[c].D, cases[c].S, none, cases[c].fresh);
        for (int f = 0; f < FORMS; f += f ? 3 : 1 + (int)c % 3) { /* plain, and a third of the others */
            set_form(&w, f);
            assert_all_isas(&w, true, f ? 2 : 4);
        }
        world_close(&w);
    }
    for (uint64_t t = 0; t < 20; t++) {
        tl_u32x4 x = tl__philox(8, TL_RNG_TEST, 0, t), y = tl__philox(8, TL_RNG_TEST, 1, t);
        int Hkv = 1 + (int)(x.v[0] % 2), G = 1 + (int)(x.v[1] % 3), D = 1 + (int)(x.v[2] % 70),
            S = 1 + (int)(x.v[3] % 8);
        int past[MAX_SEQS] = {0}, fresh[MAX_SEQS];
        for (int s = 0; s < S; s++) fresh[s] = 1 + (int)((y.v[s % 4] >> s) % 100);
        world w;
        world_open(&w, TL_F32, Hkv * G, Hkv, D, S, past, fresh);
        w.form.window = (int)(t % 3 ? x.v[1] >> 8 & 127 : 0);
        w.form.softcap = t % 4 == 1 ? 0.5f + (float)t : 0;
        assert_all_isas(&w, true, 3);
        world_close(&w);
    }
}

/* Windows of which the last query of a chunk misses the first key of one, or just sees it. */
static void fast_equals_ref_where_windows_end(void **state) {
    static const int none[1], fresh[1] = {130}, windows[] = {63, 64, 126, 127, 128};
    world w;
    world_open(&w, TL_F32, 1, 1, 12, 1, none, fresh);
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        w.form.window = windows[i];
        assert_all_isas(&w, true, 2);
    }
    world_close(&w);
}

/* Whether a law is tested: of a narrow type in the plain form alone, on a played device in one form of two types. */
static bool law_is_tested(int isa, tl_type type, int form) {
    if (!contexts[isa][1].ops || (type != TL_F32 && form)) return false;
    return isa != CUDA || getenv("TL_EXHAUSTIVE") || (type == TL_F32 ? form == 2 : type == TL_Q8_0);
}

/* Law L1: a prompt in chunks, and one token at a time, gives the bits of the whole. */
static void check_chunked_prefill(tl_type type) {
    static const int none[1], whole[1] = {150};
    static const int cuts[][8] = {{150}, {1, 15, 17, 31, 64, 22}, {64, 64, 22}, {100, 50}, {5, 145}};
    world w;
    world_open(&w, type, 4, 2, 64, 1, none, whole);
    for (int run = 0; run < ISAS * LAW_FORMS; run++) {
        const int isa = run / LAW_FORMS;
        tl_ctx *ctx = &contexts[isa][isa == 0 ? 1 : 2];
        if (!law_is_tested(isa, type, run % LAW_FORMS)) continue;
        set_form(&w, law_form[run % LAW_FORMS]);
        result all = compute(ctx, &w, false);
        for (int c = 0; c <= (int)(sizeof cuts / sizeof *cuts); c++) {
            tl_kv kv = kv_copy(&w);
            float *out = nan_floats(all.out_floats), *max_sum = nan_floats(all.sum_floats);
            for (int from = 0, i = 0, n; from < 150; from += n, i++) {
                n = c < (int)(sizeof cuts / sizeof *cuts) ? cuts[c][i] : 1;
                int32_t span[2] = {0, n};
                tl_rows rows = {n, 1, NULL, w.pos + from, span, w.seq_block, w.block};
                ctx->ops->kv_store(ctx, kv, w.k + from * w.ldkv, w.ldkv, w.v + from * w.ldkv, w.ldkv, &rows, 2, 64);
                ctx->ops->attention(ctx, out + from * w.ldo, w.ldo, max_sum + from * 8, w.q + from * w.ldq, w.ldq, kv,
                                    &rows, &w.form);
            }
            /* The gap between rows stays as it was. */
            assert_same("out", &w, out, all.out, all.out_floats);
            assert_same("max_sum", &w, max_sum, all.max_sum, all.sum_floats);
            free(kv.k), free(kv.v), free(out), free(max_sum);
        }
        result_close(&all);
    }
    world_close(&w);
}

static void law1_chunked_prefill_equals_whole(void **state) {
    for (int i = 0; i < TYPES; i++) check_chunked_prefill(types[i]);
}

/* Law L1: each row alone gives the bits it has in the batch. */
static void check_row_alone(tl_type type) {
    static const int past[5] = {0, 100, 63, 7, 0}, fresh[5] = {70, 1, 20, 1, 9};
    world w;
    world_open(&w, type, 6, 3, 80, 5, past, fresh);
    for (int run = 0; run < ISAS * LAW_FORMS; run++) {
        const int isa = run / LAW_FORMS;
        tl_ctx *ctx = &contexts[isa][isa == 0 ? 1 : 3];
        if (!law_is_tested(isa, type, run % LAW_FORMS)) continue;
        set_form(&w, law_form[run % LAW_FORMS]);
        result all = compute(ctx, &w, false);
        for (int s = 0; s < w.S; s++)
            for (int r = w.seq_row[s]; r < w.seq_row[s + 1]; r++) {
                float out[6 * 80], max_sum[12];
                int32_t span[2] = {0, 1};
                tl_rows one = {1, 1, NULL, w.pos + r, span, w.seq_block + s, w.block};
                ctx->ops->attention(ctx, out, 0, max_sum, w.q + r * w.ldq, 0, all.kv, &one, &w.form);
                assert_same("out", &w, out, all.out + r * w.ldo, 6 * 80);
                assert_same("max_sum", &w, max_sum, all.max_sum + r * 12, 12);
                /* Without max_sum. */
                memset(out, 0xff, sizeof out);
                ctx->ops->attention(ctx, out, 0, NULL, w.q + r * w.ldq, 0, all.kv, &one, &w.form);
                assert_same("out", &w, out, all.out + r * w.ldo, 6 * 80);
            }
        result_close(&all);
    }
    world_close(&w);
}

static void law1_row_alone_equals_batch(void **state) {
    for (int i = 0; i < TYPES; i++) check_row_alone(types[i]);
}

/* Law L3: sequences apart (micro-batches) give the gradients that they have together. */
static void law3_backward_by_micro_batch(void **state) {
    static const int none[4], fresh[4] = {70, 128, 9, 40};
    world w;
    world_open(&w, TL_F32, 4, 2, 64, 4, none, fresh);
    for (int run = 0; run < ISAS * LAW_FORMS; run++) {
        const int isa = run / LAW_FORMS;
        tl_ctx *ctx = &contexts[isa][isa == 0 ? 1 : 2];
        if (!law_is_tested(isa, TL_F32, run % LAW_FORMS)) continue;
        set_form(&w, law_form[run % LAW_FORMS]);
        result all = compute(ctx, &w, true);
        result part = compute(&contexts[0][1], &w, true); /* for its buffers */
        memset(part.dq, 0xff, part.grad_floats * sizeof(float));
        memset(part.dk, 0xff, part.grad_floats * sizeof(float));
        memset(part.dv, 0xff, part.grad_floats * sizeof(float));
        for (int s = 0; s < w.S; s++) {
            int64_t r = w.seq_row[s];
            int32_t span[2] = {0, w.fresh[s]};
            tl_rows rows = {w.fresh[s], 1, NULL, w.pos + r, span, w.seq_block + s, w.block};
            ctx->ops->attention_backward(ctx, part.dq + r * part.ld, part.dk + r * part.ld, part.dv + r * part.ld,
                                         part.ld, w.dout + r * w.ldo, all.out + r * w.ldo, w.ldo, all.max_sum + r * 8,
                                         w.q + r * w.ldq, w.ldq, all.kv, &rows, &w.form);
        }
        assert_result(&w, &part, &all);
        result_close(&all), result_close(&part);
    }
    world_close(&w);
}

/* Row i of the new ones of sequence s, head h, by softmax in double over the keys that it sees. One key head, D = 64.
 */
static void check_textbook_row(const world *w, const result *r, int s, int i, int h) {
    const int past = w->past[s], last = past + i, row = w->seq_row[s] + i;
    const int first = w->form.window && last >= w->form.window ? last - w->form.window + 1 : 0;
    const double cap = w->form.softcap;
    double p[200], top = -INFINITY, sum = 0, o[64] = {0};
    const float *q = w->q + row * w->ldq + h * 64;
    for (int j = first; j <= last; j++) {
        const float *k = j < past ? w->past_k + (w->past_at[s] + j) * 64 : w->k + (w->seq_row[s] + j - past) * w->ldkv;
        p[j] = 0;
        for (int d = 0; d < 64; d++) p[j] += (double)q[d] * k[d];
        p[j] /= 8;
        if (cap != 0) p[j] = cap * tanh(p[j] / cap);
        if (p[j] > top) top = p[j];
    }
    for (int j = first; j <= last; j++) sum += p[j] = exp(p[j] - top);
    for (int j = first; j <= last; j++) {
        const float *v = j < past ? w->past_v + (w->past_at[s] + j) * 64 : w->v + (w->seq_row[s] + j - past) * w->ldkv;
        for (int d = 0; d < 64; d++) o[d] += p[j] / sum * v[d];
    }
    for (int d = 0; d < 64; d++) assert_true(fabs(r->out[row * w->ldo + h * 64 + d] - o[d]) < 2e-5);
    assert_true(fabs(r->max_sum[(row * 2 + h) * 2] - top) < 2e-5 * (1 + fabs(top)));
}

/* A score's error is at most (D + 1)·2^-24·Σ|q·k|·scale; with |q·k| sums near D·0.64 that is (65)·2^-24·41/8 < 2.0e-5,
 * and p's relative error is the same size; v is of order 1 and 150 further chained terms add 150·2^-24 = 9e-6. Random
 * signs leave far less: 2e-5 on values below 4. A soft-cap's slope is at most 1 and its own error 1.5 ulp of the cap.
 */
static void ref_equals_textbook(void **state) {
    static const int past[2] = {0, 80}, fresh[2] = {100, 70};
    world w;
    world_open(&w, TL_F32, 2, 1, 64, 2, past, fresh);
    for (int f = 0; f < FORMS; f++) {
        set_form(&w, f);
        result r = compute(&contexts[0][1], &w, false);
        for (int s = 0; s < 2; s++)
            for (int i = 0; i < fresh[s]; i++)
                for (int h = 0; h < 2; h++) check_textbook_row(&w, &r, s, i, h);
        result_close(&r);
    }
    world_close(&w);
}

/* Keys that a window hides may be anything, and blocks of which all are hidden need not be there. */
static void check_hidden_keys(tl_type type) {
    static const int past[5] = {300, 64, 127, 40, 200}, fresh[5] = {1, 1, 1, 1, 3};
    static const int windows[] = {1, 15, 30, 64, 100};
    world w;
    world_open(&w, type, 4, 2, 40, 5, past, fresh);
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        w.form.window = windows[i];
        result want = compute(&contexts[0][1], &w, false);
        tl_kv kv = kv_copy(&w); /* the fresh keys are stored below */
        float none[2 * 40];
        memset(none, 0xff, sizeof none);
        int32_t *block = malloc((size_t)w.blocks * sizeof *block);
        memcpy(block, w.block, (size_t)w.blocks * sizeof *block);
        for (int s = 0; s < w.S; s++) {
            const int first =
                past[s] + 1 > windows[i] ? past[s] + 1 - windows[i] : 0; /* of the sequence's first new row */
            for (int32_t p = 0; p < first; p++) {
                int32_t span[2] = {0, 1};
                tl_rows one = {1, 1, NULL, &p, span, w.seq_block + s, w.block};
                contexts[0][1].ops->kv_store(&contexts[0][1], kv, none, 0, none, 0, &one, 2, 40);
            }
            for (int b = 0; b < first / TL_KV_BLOCK; b++) block[w.seq_block[s] + b] = INT32_MAX;
        }
        tl_rows rows = w.rows;
        rows.block = block;
        for (int isa = 0; isa < ISAS; isa++) {
            tl_ctx *ctx = &contexts[isa][1];
            if (!ctx->ops) continue;
            ctx->ops->kv_store(ctx, kv, w.k, w.ldkv, w.v, w.ldkv, &w.rows, 2, 40);
            float *out = nan_floats(want.out_floats), *max_sum = nan_floats(want.sum_floats);
            ctx->ops->attention(ctx, out, w.ldo, max_sum, w.q, w.ldq, kv, &rows, &w.form);
            assert_same("out", &w, out, want.out, want.out_floats);
            assert_same("max_sum", &w, max_sum, want.max_sum, want.sum_floats);
            free(out), free(max_sum);
        }
        free(block), free(kv.k), free(kv.v);
        result_close(&want);
    }
    world_close(&w);
}

static void hidden_keys_are_not_read(void **state) {
    for (int i = 0; i < TYPES; i++) check_hidden_keys(types[i]);
}

/* ---- keys and values in fewer bits ---- */

/* The number at component d of key `key` of part `part`, read here as ops.h says it lies. */
static float number_at(const void *base, tl_type type, bool value, int64_t part, int key, int d, int D) {
    const unsigned char *at = (const unsigned char *)base + part * tl_kv_part_bytes(type, D);
    const int i = value ? key * D + d : d * 16 + key;
    uint16_t half;
    float x;
    if (type == TL_F32) memcpy(&x, at + 4 * i, 4);
    else if (type == TL_Q8_0) {
        memcpy(&half, at + 16 * D + 2 * (d / 32 * 16 + key), 2);
        x = (float)(int8_t)at[i] * tl__f16_to_f32(half);
    } else {
        memcpy(&half, at + 2 * i, 2);
        const uint32_t bits = (uint32_t)half << 16;
        memcpy(&x, &bits, 4);
        if (type == TL_F16) x = tl__f16_to_f32(half);
    }
    return x;
}

/* Attention over narrow keys and values is, to the bit, attention over f32 ones that are what was kept. */
static void narrow_is_f32_of_what_is_kept(void **state) {
    static const int past[3] = {70, 0, 140}, fresh[3] = {1, 80, 3}, widths[] = {64, 33};
    for (int i = 0; i < 2 * (TYPES - 1); i++) {
        const int D = widths[i / (TYPES - 1)];
        world w;
        world_open(&w, types[1 + i % (TYPES - 1)], 4, 2, D, 3, past, fresh);
        result narrow = compute(&contexts[0][1], &w, false), wide = compute(&contexts[0][1], &w, false);
        const size_t bytes = (size_t)w.blocks * 2 * (size_t)tl_kv_part_bytes(TL_F32, D);
        tl_kv kv = {nan_bytes(bytes), nan_bytes(bytes), TL_F32};
        for (int64_t part = 0; part < w.blocks * 2; part++)
            for (int key = 0; key < 16; key++)
                for (int d = 0; d < D; d++) {
                    ((float *)kv.k)[(part * D + d) * 16 + key] =
                        number_at(narrow.kv.k, w.kv.type, false, part, key, d, D);
                    ((float *)kv.v)[(part * 16 + key) * D + d] =
                        number_at(narrow.kv.v, w.kv.type, true, part, key, d, D);
                }
        for (int isa = 0; isa < ISAS; isa++) {
            if (!contexts[isa][2].ops) continue;
            contexts[isa][2].ops->attention(&contexts[isa][2], wide.out, w.ldo, wide.max_sum, w.q, w.ldq, kv, &w.rows,
                                            &w.form);
            assert_same("out", &w, narrow.out, wide.out, wide.out_floats);
            assert_same("max_sum", &w, narrow.max_sum, wide.max_sum, wide.sum_floats);
        }
        free(kv.k), free(kv.v), result_close(&narrow), result_close(&wide);
        world_close(&w);
    }
}

/* x[16][D] as the keys and as the values of one block of one head. */
static tl_kv store_block_of(tl_ctx *ctx, tl_type type, const float *x, int D, int at_once) {
    const size_t bytes = (size_t)tl_kv_part_bytes(type, D);
    tl_kv kv = {nan_bytes(bytes), nan_bytes(bytes), type};
    static const int32_t pos[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, first[1] = {0};
    for (int r = 0; r < 16; r += at_once) {
        const int32_t span[2] = {0, at_once};
        const tl_rows rows = {at_once, 1, NULL, pos + r, span, first, first};
        ctx->ops->kv_store(ctx, kv, x + r * D, D, x + r * D, D, &rows, 1, D);
    }
    return kv;
}

/* Numbers of every size, halfway between two that can be kept, too small and too large: each instruction set stores the
 * bytes of the definition, and each number kept is the nearest. */
static void rows_are_narrowed_as_defined(void **state) {
    enum { MOST = 256 };
    static const int widths[] = {256, 40, 17, 1};
    static float x[16 * MOST];
    for (int i = 0; i < 60 * (TYPES - 1); i++) {
        const tl_type type = types[1 + i % (TYPES - 1)];
        const int D = widths[i / (TYPES - 1) % 4], kind = i / (TYPES - 1) / 4 % 5;
        for (int j = 0; j < 16 * D; j++) {
            const tl_u32x4 u = tl__philox(12, TL_RNG_TEST, (uint32_t)i, (uint64_t)j);
            uint32_t bits = u.v[0];
            if (kind == 1) bits = (bits & 0xffffe000) | 0x1000;        /* ties of f16 */
            if (kind == 2) bits = (bits & 0xffff0000) | 0x8000;        /* ties of bf16 */
            if (kind == 3) bits = (bits & 0x8fffffff) | 0x30000000;    /* around f16's least */
            if ((bits & 0x7f800000) == 0x7f800000) bits &= 0xbfffffff; /* finite */
            memcpy(&x[j], &bits, 4);
            if (kind == 4) x[j] = j % 32 == 0 ? 127 : (float)(u.v[0] % 254) - 126.5f; /* ties of q8_0 */
        }
        tl_kv want = store_block_of(&contexts[0][1], type, x, D, 16);
        const size_t bytes = (size_t)tl_kv_part_bytes(type, D);
        for (int isa = 0; isa < ISAS; isa++)
            for (int one = 0; one < 2 && contexts[isa][1].ops; one++) {
                tl_kv got = store_block_of(&contexts[isa][1], type, x, D, one ? 1 : 16);
                assert_memory_equal(got.k, want.k, bytes);
                assert_memory_equal(got.v, want.v, bytes);
                free(got.k), free(got.v);
            }
        for (int j = 0; j < 16 * D; j++) {
            const float k = number_at(want.k, type, false, 0, j / D, j % D, D);
            const float v = number_at(want.v, type, true, 0, j / D, j % D, D);
            assert_memory_equal(&k, &v, 4);
            float largest = 0; /* of its group */
            for (int d = j % D / 32 * 32; d < D && d < j % D / 32 * 32 + 32; d++)
                largest = fabsf(x[j / D * D + d]) > largest ? fabsf(x[j / D * D + d]) : largest;
            const double size = fabs((double)x[j]);
            /* Half of a unit in the last place. Of q8_0 half a step of d, and the scale's own rounding: half a unit of
             * 2⁻¹¹ of it, or of 2⁻²⁴ where it is below the normal halves, taken up to 127 times; and x·(1/d) in f32. */
            const double step = largest / 127.0, scale = fmax(step * 0x1p-11, 0x1p-25);
            const double bound = type == TL_F16    ? fmax(size * 0x1p-11, 0x1p-25)
                                 : type == TL_BF16 ? fmax(size * 0x1p-8, 0x1p-134)
                                                   : step / 2 + 127 * scale + step * 127 * 0x1p-22;
            const bool beyond = type == TL_F16 ? size >= 65520 : type == TL_BF16 ? size >= 0x1.ffp127 : step >= 65520;
            if (!(fabs((double)k - x[j]) <= bound) && !beyond)
                fail_msg("%s: %a is kept as %a, more than %a away", tl__type_name(type), (double)x[j], (double)k,
                         bound);
            if (beyond && type != TL_Q8_0) assert_true(isinf(k) && (k > 0) == (x[j] > 0));
        }
        free(want.k), free(want.v);
    }
}

/* The rows of which tests/vectors holds what ggml's own quantiser makes. */
static void rows_are_narrowed_as_ggml(void **state) {
    tl_gguf *g;
    assert_int_equal(tl__gguf_open(&g, TL_SOURCE_DIR "/tests/vectors/gguf/blocks.gguf", NULL), 0);
    const tl_tensor_info *rows = tl__gguf_tensor(g, "rows"), *kept = tl__gguf_tensor(g, "rows.Q8_0");
    enum { D = 256, BYTES = D / 32 * 34 };
    const int n = (int)(rows->size_bytes / D / 4) / 16 * 16;
    assert_true(n == 16 && kept->size_bytes >= n * BYTES);
    const float *x = tl__gguf_data(g, rows);
    const unsigned char *blocks = tl__gguf_data(g, kept);
    for (int last = 0; last < 2; last++) { /* the first sixteen and the last */
        const int from = last ? (int)(rows->size_bytes / D / 4) - n : 0;
        for (int isa = 0; isa < ISAS; isa++) {
            if (!contexts[isa][1].ops) continue;
            tl_kv kv = store_block_of(&contexts[isa][1], TL_Q8_0, x + (int64_t)from * D, D, 16);
            for (int key = 0; key < 16; key++)
                for (int d = 0; d < D; d++) {
                    const unsigned char *b = blocks + (from + key) * BYTES + d / 32 * 34, *k = kv.k, *v = kv.v;
                    assert_int_equal(k[d * 16 + key], b[2 + d % 32]);
                    assert_int_equal(v[key * D + d], b[2 + d % 32]);
                    assert_memory_equal(k + 16 * D + 2 * (d / 32 * 16 + key), b, 2);
                    assert_memory_equal(v + 16 * D + 2 * (d / 32 * 16 + key), b, 2);
                }
            free(kv.k), free(kv.v);
        }
    }
    tl__gguf_close(g);
}

/* What is no number stays none: the group in q8_0, the number itself in the others. */
static void no_number_is_kept_as_one(void **state) {
    static float x[16 * 64];
    for (int i = 0; i < 2 * (TYPES - 1); i++) {
        const tl_type type = types[1 + i / 2];
        for (int j = 0; j < 16 * 64; j++) x[j] = (float)(j % 7);
        x[5 * 64 + 40] = i % 2 ? INFINITY : NAN;
        for (int isa = 0; isa < ISAS; isa++) {
            if (!contexts[isa][1].ops) continue;
            tl_kv kv = store_block_of(&contexts[isa][1], type, x, 64, 16);
            for (int j = 0; j < 16 * 64; j++) {
                const float k = number_at(kv.k, type, false, 0, j / 64, j % 64, 64);
                if (type == TL_Q8_0 && j / 32 == 5 * 2 + 1) assert_true(isnan(k));
                else if (j != 5 * 64 + 40) assert_true(fabsf(k - x[j]) < 0.1f);
                else assert_true(i % 2 ? isinf(k) : isnan(k));
            }
            free(kv.k), free(kv.v);
        }
    }
}

/* The definition in double: Σ dout∘attention(q, k, v) moved by ±h along every coordinate. The central difference's
 * error is h²/6·f''' + 2^-53·|f|/h: with h = 1e-4 and values near 1, about 1e-8. */
static void check_finite_differences(int window, float softcap) {
    enum { S = 2, H = 4, HKV = 2, D = 5, R = 70 + 6, BLOCKS = 6 };
    static int32_t pos[R], seq_row[S + 1] = {0, 70, R}, seq_block[S] = {0, 5}, block[BLOCKS] = {3, 0, 5, 1, 4, 2};
    for (int i = 0; i < R; i++) pos[i] = i < 70 ? i : i - 70;
    tl_rows rows = {R, S, NULL, pos, seq_row, seq_block, block};
    static double x[3][R * H * D], g[3][R * H * D], dout[R * H * D], out[R * H * D], max_sum[R * H * 2];
    static double kv_k[BLOCKS * HKV * D * TL_KV_BLOCK], kv_v[BLOCKS * HKV * D * TL_KV_BLOCK];
    tl_kv kv = {kv_k, kv_v, TL_F32};
    memset(kv_k, 0xff, sizeof kv_k), memset(kv_v, 0xff, sizeof kv_v);
    for (int i = 0; i < R * H * D; i++) {
        tl_u32x4 u = tl__philox(9, TL_RNG_TEST, 0, (uint64_t)i);
        for (int a = 0; a < 3; a++) x[a][i] = u.v[a] * 0x1p-31 - 1;
        dout[i] = u.v[3] * 0x1p-31 - 1;
    }
    const tl_attention_form form = {H, HKV, D, 0.7f, softcap, window};
    const double step = 1e-4;
    ref_kv_store(NULL, kv, x[1], H * D, x[2], H * D, &rows, HKV, D);
    ref_attention(NULL, out, H * D, max_sum, x[0], H * D, kv, &rows, &form);
    ref_attention_backward(NULL, g[0], g[1], g[2], H * D, dout, out, H * D, max_sum, x[0], H * D, kv, &rows, &form);
    double worst = 0;
    for (int a = 0; a < 3; a++)
        for (int i = 0; i < R * H * D; i += 7) { /* 7 and H·D = 20 share no factor: every column is met */
            if (a > 0 && i % (H * D) >= HKV * D) continue;
            double f[2];
            for (int side = 0; side < 2; side++) {
                double kept = x[a][i];
                x[a][i] += side ? step : -step;
                ref_kv_store(NULL, kv, x[1], H * D, x[2], H * D, &rows, HKV, D);
                ref_attention(NULL, out, H * D, NULL, x[0], H * D, kv, &rows, &form);
                x[a][i] = kept;
                f[side] = 0;
                for (int k = 0; k < R * H * D; k++) f[side] += dout[k] * out[k];
            }
            double error = fabs((f[1] - f[0]) / (2 * step) - g[a][i]);
            if (error > worst) worst = error;
        }
    if (!(worst < 2e-7)) print_error("window %d, soft-cap %g: worst difference %g\n", window, (double)softcap, worst);
    assert_true(worst < 2e-7);
}

static void ref_backward_equals_finite_differences(void **state) {
    check_finite_differences(0, 0);
    check_finite_differences(20, 0);
    check_finite_differences(66, 1.5f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_equals_textbook),          cmocka_unit_test(ref_backward_equals_finite_differences),
        cmocka_unit_test(fast_equals_ref_forward),      cmocka_unit_test(fast_equals_ref_forward_random),
        cmocka_unit_test(fast_equals_ref_where_windows_end),
        cmocka_unit_test(fast_equals_ref_backward),     cmocka_unit_test(law1_chunked_prefill_equals_whole),
        cmocka_unit_test(law1_row_alone_equals_batch),  cmocka_unit_test(law3_backward_by_micro_batch),
        cmocka_unit_test(hidden_keys_are_not_read),     cmocka_unit_test(narrow_is_f32_of_what_is_kept),
        cmocka_unit_test(rows_are_narrowed_as_defined), cmocka_unit_test(rows_are_narrowed_as_ggml),
        cmocka_unit_test(no_number_is_kept_as_one),
    };
    return cmocka_run_group_tests(tests, open_contexts, close_contexts);
}
