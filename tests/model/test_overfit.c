/* test_overfit.c — each family can learn: a tiny model of it, from its own random initialisation, fits 64 random tokens
 * to a loss under 0.1 nats. Random tokens hold nothing to generalise from, so only gradients that are right in every
 * parameter, over and over, get there. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "families.h"
#include "model/model.h"

enum { T = 64, MOST_STEPS = 400, BLOCKS = T / TL_KV_BLOCK };

typedef struct learner {
    tl_model model;
    tl_acts acts;
    tl_arena arena;
    tl_ctx ctx;
    float *grad, *embed_grad, *m, *v;
    int32_t token[T], target[T], pos[T], seq_row[2], seq_block[1], block[BLOCKS];
    float logp[T];
    tl_rows rows;
} learner;

static void place(learner *s) {
    int64_t n = s->model.params.count;
    tl__acts_place(&s->acts, &s->arena, &s->model.arch, T, BLOCKS, true, TL_RECOMPUTE_NONE);
    s->grad = TL_TAKE(&s->arena, float, n);
    s->m = TL_TAKE(&s->arena, float, n);
    s->v = TL_TAKE(&s->arena, float, n);
    s->embed_grad = TL_TAKE(&s->arena, float, (int64_t)s->model.arch.V * s->model.arch.C);
}

static learner *learner_open(const char *config) {
    learner *s = calloc(1, sizeof *s);
    tl_error err = {0};
    tl_arch arch;
    if (tl__arch_parse(&arch, config, strlen(config), "config", &err) || tl__model_create(&s->model, &arch, T, &err) ||
        tl__ctx_open(&s->ctx, 1, NULL, &err))
        fail_msg("%s", err.text);
    s->arena = tl__arena_dry();
    place(s);
    if (tl__arena_open(&s->arena, s->arena.used_bytes, &err)) fail_msg("%s", err.text);
    place(s);
    tl__model_init(&s->model, 7, NULL);
    for (int i = 0; i < T; i++) {
        s->token[i] = (int32_t)(tl__philox(3, TL_RNG_TEST, 0, (uint64_t)i).v[0] % (uint32_t)arch.V);
        s->pos[i] = i;
    }
    for (int i = 0; i < T; i++) s->target[i] = i + 1 < T ? s->token[i + 1] : -1;
    for (int b = 0; b < BLOCKS; b++) s->block[b] = b;
    s->seq_row[1] = T;
    s->rows = (tl_rows){T, 1, s->token, s->pos, s->seq_row, s->seq_block, s->block};
    return s;
}

static void learner_close(learner *s) {
    tl__ctx_close(&s->ctx);
    tl__arena_close(&s->arena);
    tl__model_close(&s->model);
    free(s);
}

/* One step of AdamW at a constant rate; the loss before it. */
static double step(learner *s, int t) {
    const tl_params *params = &s->model.params;
    int64_t looked_up = (int64_t)s->model.arch.V * s->model.arch.C;
    memset(s->grad, 0, sizeof(float) * (size_t)params->count);
    memset(s->embed_grad, 0, sizeof(float) * (size_t)looked_up);
    tl__model_forward(&s->ctx, &s->model, &s->acts, &s->rows);
    tl__model_loss(&s->ctx, &s->model, &s->acts, s->target, T, s->logp, s->grad, 1.0f / (T - 1));
    tl__model_backward(&s->ctx, &s->model, &s->acts, &s->rows, s->grad, s->embed_grad, NULL);
    if (s->model.arch.tied) {
        float *g = s->grad + params->list[tl__params_find(params, &s->model.arch, -1, TL_ROLE_EMBED)].offset;
        tl__add(&s->ctx, g, g, s->embed_grad, looked_up);
    }
    double norm = sqrt(tl__sum_squares(&s->ctx, s->grad, params->count)), loss = 0;
    tl_adamw h = {.lr = 5e-3f, .eps = 1e-8f, .beta1 = 0.9, .beta2 = 0.95, .grad_scale = (float)fmin(1, 1 / norm)};
    h.step_size = (float)(h.lr / (1 - pow(h.beta1, t)));
    h.inv_sqrt_correction2 = (float)(1 / sqrt(1 - pow(h.beta2, t)));
    tl__adamw(&s->ctx, s->model.flat, s->m, s->v, s->grad, params->count, &h);
    for (int i = 0; i < T - 1; i++) loss -= s->logp[i];
    return loss / (T - 1);
}

static void test_64_tokens_are_learnt_by_heart(void **state) {
    for (int k = 0; k < TEST_FAMILIES; k++) {
        learner *s = learner_open(test_families[k].config);
        double first = step(s, 1), loss = first;
        int t = 1;
        while (loss >= 0.1 && t < MOST_STEPS) loss = step(s, ++t);
        if (getenv("TRILITH_TEST_SHOW"))
            printf("  %-8s %.3f to %.3f in %d steps\n", test_families[k].name, first, loss, t);
        if (!(loss < 0.1))
            fail_msg("%s: a loss of %.3f after %d steps, from %.3f", test_families[k].name, loss, t, first);
        assert_true(first > 3); /* of ln 61 = 4.1: it knew nothing before */
        learner_close(s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_64_tokens_are_learnt_by_heart)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
