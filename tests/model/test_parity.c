/* test_parity.c — whole models against transformers: a tiny random configuration of each family, opened from the folder
 * that it saved. T crosses attention's chunk of 64, every window and every scaled RoPE's original positions.
 *
 * Promises, as max|Δ| / max|reference|: logits, the gradient of each parameter, and the losses of 50 AdamW steps
 * (clipping, decay on matrices only) all within 1e-5. The project promises 1e-5, 1e-4 and 1e-4; both sides compute in
 * f32 by different orders of summation, and models this small (at most 160 terms a product, three layers) leave no
 * honest difference beyond 160 roundings of 2^-24 = 1e-5. Models made afresh (tools/interop.py) are held to the
 * promise: one in some dozens amplifies a rounding within 50 steps (PyTorch against itself in double: 3e-6). */
#include "vectors.h"
#include "model/model.h"

enum { BATCHES = 4, B = 2, T = 70, R = B * T, STEPS = 50, BLOCKS = (T + TL_KV_BLOCK - 1) / TL_KV_BLOCK };

#define NEAR 1e-5

/* Of gradients and of losses. */
static double near_enough(void) {
    return getenv("TRILITH_VECTORS") ? 1e-4 : NEAR;
}

typedef struct run {
    tl_safetensors *expected;
    tl_model model;
    tl_acts acts;
    tl_arena arena;
    float *grad, *embed_grad, *m, *v, *logp;
    int32_t *tokens; /* [BATCHES][B][T+1] */
    int32_t input[R], target[R], pos[R], seq_row[B + 1], seq_block[B], block[B * BLOCKS];
    tl_rows rows;
    tl_ctx ctx;
} run;

static void place(run *r) {
    tl__acts_place(&r->acts, &r->arena, &r->model.arch, R, B * BLOCKS, true, TL_RECOMPUTE_NONE);
    r->grad = TL_TAKE(&r->arena, float, r->model.params.count);
    r->m = TL_TAKE(&r->arena, float, r->model.params.count);
    r->v = TL_TAKE(&r->arena, float, r->model.params.count);
    r->embed_grad = TL_TAKE(&r->arena, float, (int64_t)r->model.arch.V * r->model.arch.C);
    r->logp = TL_TAKE(&r->arena, float, R);
}

static void set_batch(run *r, int batch) {
    for (int i = 0; i < R; i++) {
        const int32_t *window = r->tokens + ((int64_t)batch * B + i / T) * (T + 1) + i % T;
        r->input[i] = window[0];
        r->target[i] = window[1];
    }
}

static run *run_open(const char *folder, const char *isa) {
    char path[1024];
    run *r = calloc(1, sizeof *r);
    tl_error err = {0};
    tl_arch arch;
    snprintf(path, sizeof path, "%s/expected.safetensors", folder);
    r->expected = vectors_open(path);
    snprintf(path, sizeof path, "%s/%s", vectors_folder(), folder);
    if (tl__arch_open(&arch, path, &err) || tl__model_create(&r->model, &arch, 0, &err) ||
        tl__model_load_into(&r->model, path, &err))
        fail_msg("%s", err.text);
    if (arch.E > 0) { /* what no config.json holds */
        float *router = vectors_read(r->expected, "router", TL_F32, NULL);
        r->model.arch.router_z_coef = (double)router[0];
        free(router);
    }
    r->arena = tl__arena_dry();
    place(r);
    size_t size = r->arena.used_bytes;
    if (tl__arena_open(&r->arena, size, &err)) fail_msg("%s", err.text);
    place(r);
    r->tokens = vectors_read(r->expected, "tokens", TL_I32, NULL);
    for (int i = 0; i < R; i++) r->pos[i] = i % T;
    for (int s = 0; s <= B; s++) r->seq_row[s] = s * T;
    for (int s = 0; s < B; s++) r->seq_block[s] = s * BLOCKS;
    for (int b = 0; b < B * BLOCKS; b++) r->block[b] = B * BLOCKS - 1 - b;
    r->rows = (tl_rows){R, B, r->input, r->pos, r->seq_row, r->seq_block, r->block};
    if (tl__ctx_open(&r->ctx, 2, isa, &err)) fail_msg("%s", err.text);
    return r;
}

static void run_close(run *r) {
    tl__ctx_close(&r->ctx);
    tl__arena_close(&r->arena);
    tl__model_close(&r->model);
    tl__safetensors_close(r->expected);
    free(r->tokens);
    free(r);
}

/* Forward, loss and backward of a batch: the mean loss; gradients of that mean in grad. */
static double gradients(run *r, int batch) {
    const tl_params *params = &r->model.params;
    set_batch(r, batch);
    memset(r->grad, 0, sizeof(float) * (size_t)params->count);
    tl__model_forward(&r->ctx, &r->model, &r->acts, &r->rows);
    tl__model_loss(&r->ctx, &r->model, &r->acts, r->target, R, r->logp, r->grad, 1.0f / R);
    int64_t n = (int64_t)r->model.arch.V * r->model.arch.C;
    memset(r->embed_grad, 0, sizeof(float) * (size_t)n);
    tl__model_backward(&r->ctx, &r->model, &r->acts, &r->rows, r->grad, r->embed_grad, NULL);
    if (r->model.arch.tied) {
        float *g = r->grad + params->list[tl__params_find(params, &r->model.arch, -1, TL_ROLE_EMBED)].offset;
        tl__add(&r->ctx, g, g, r->embed_grad, n);
    }
    double loss = 0;
    for (int i = 0; i < R; i++) loss -= r->logp[i];
    return loss / R;
}

static void check_logits(const char *folder, const char *isa) {
    run *r = run_open(folder, isa);
    set_batch(r, 0);
    tl__model_forward(&r->ctx, &r->model, &r->acts, &r->rows);
    int64_t n = (int64_t)R * r->model.arch.V, count;
    float *logits = malloc(sizeof(float) * (size_t)n), *want = vectors_read(r->expected, "logits", TL_F32, &count);
    assert_int_equal(count, n);
    tl__model_logits(&r->ctx, &r->model, logits, r->acts.hidden, R);
    vectors_near("logits", logits, want, n, NEAR);
    free(logits), free(want);
    run_close(r);
}

static void check_gradients(const char *folder, const char *isa) {
    run *r = run_open(folder, isa);
    float *loss = vectors_read(r->expected, "loss", TL_F32, NULL), got = (float)gradients(r, 0);
    vectors_near("loss", &got, loss, 1, NEAR);
    const tl_params *params = &r->model.params;
    for (int i = 0; i < params->n; i++) {
        const tl_param *p = &params->list[i];
        char name[160];
        int64_t n;
        snprintf(name, sizeof name, "grad.%s", p->name);
        float *want = vectors_read(r->expected, name, TL_F32, &n);
        assert_int_equal(n, p->count);
        vectors_near(name, r->grad + p->offset, want, n, near_enough());
        free(want);
    }
    /* And no parameter of theirs is missing among ours: the rest are tokens, logits, loss, losses, hyper. */
    const int experts = r->model.arch.E > 0;
    assert_int_equal(tl__safetensors_count(r->expected), params->n + 5 + experts);
    if (experts) {
        float *router = vectors_read(r->expected, "router", TL_F32, NULL);
        double balance, z;
        tl__moe_losses(&r->model, &r->acts, R, &balance, &z);
        float losses[2] = {(float)balance, (float)z};
        vectors_near("balance loss", &losses[0], &router[1], 1, NEAR);
        vectors_near("router z-loss", &losses[1], &router[2], 1, NEAR);
        free(router);
    }
    free(loss);
    run_close(r);
}

static void check_losses(const char *folder, const char *isa) {
    run *r = run_open(folder, isa);
    int64_t n;
    float *want = vectors_read(r->expected, "losses", TL_F32, &n),
          *hyper = vectors_read(r->expected, "hyper", TL_F32, NULL);
    float losses[STEPS];
    assert_int_equal(n, STEPS);
    for (int t = 1; t <= STEPS; t++) {
        losses[t - 1] = (float)gradients(r, (t - 1) % BATCHES);
        double norm = sqrt(tl__sum_squares(&r->ctx, r->grad, r->model.params.count));
        tl_adamw h = {.lr = hyper[0], .beta1 = hyper[1], .beta2 = hyper[2], .eps = hyper[3]};
        h.grad_scale = (float)fmin(1.0, hyper[5] / (norm + 1e-6)); /* as torch.nn.utils.clip_grad_norm_ */
        h.step_size = (float)(hyper[0] / (1 - pow(hyper[1], t)));
        h.inv_sqrt_correction2 = (float)(1 / sqrt(1 - pow(hyper[2], t)));
        for (int i = 0; i < r->model.params.n; i++) {
            const tl_param *p = &r->model.params.list[i];
            h.weight_decay = p->decay ? hyper[4] : 0;
            tl__adamw(&r->ctx, r->model.flat + p->offset, r->m + p->offset, r->v + p->offset, r->grad + p->offset,
                      p->count, &h);
        }
    }
    vectors_near("losses", losses, want, STEPS, near_enough());
    assert_true(losses[STEPS - 1] <
                0.8f * losses[0]); /* it learnt: equal losses of a model that stands still would prove little */
    free(want), free(hyper);
    run_close(r);
}

/* The fast table on every model; ref, which it equals to the bit, once. */
#define MODEL(id, folder)                                                                                              \
    static void test_logits_##id(void **state) {                                                                       \
        check_logits(folder, NULL);                                                                                    \
    }                                                                                                                  \
    static void test_gradients_##id(void **state) {                                                                    \
        check_gradients(folder, NULL);                                                                                 \
    }                                                                                                                  \
    static void test_losses_##id(void **state) {                                                                       \
        check_losses(folder, NULL);                                                                                    \
    }
MODEL(gpt2_tied, "gpt2-tied")
MODEL(gpt2_untied, "gpt2-untied")
MODEL(llama_tied, "llama-tied")
MODEL(llama_gqa, "llama-gqa")
MODEL(llama3, "llama3")
MODEL(smollm3, "smollm3")
MODEL(mistral, "mistral")
MODEL(qwen2, "qwen2")
MODEL(qwen3, "qwen3")
MODEL(gemma2, "gemma2")
MODEL(gemma3, "gemma3")
MODEL(mixtral, "mixtral")
MODEL(qwen3_moe, "qwen3-moe")
MODEL(olmoe, "olmoe")
static void test_logits_ref(void **state) {
    check_logits("llama-gqa", "ref");
}
static void test_gradients_ref(void **state) {
    check_gradients("gpt2-tied", "ref");
}
static void test_gradients_ref_sandwich(void **state) {
    check_gradients("gemma3", "ref");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_mixtral),
        cmocka_unit_test(test_gradients_mixtral),
        cmocka_unit_test(test_losses_mixtral),
        cmocka_unit_test(test_logits_qwen3_moe),
        cmocka_unit_test(test_gradients_qwen3_moe),
        cmocka_unit_test(test_losses_qwen3_moe),
        cmocka_unit_test(test_logits_olmoe),
        cmocka_unit_test(test_gradients_olmoe),
        cmocka_unit_test(test_losses_olmoe),
        cmocka_unit_test(test_logits_gpt2_tied),
        cmocka_unit_test(test_gradients_gpt2_tied),
        cmocka_unit_test(test_losses_gpt2_tied),
        cmocka_unit_test(test_logits_gpt2_untied),
        cmocka_unit_test(test_gradients_gpt2_untied),
        cmocka_unit_test(test_losses_gpt2_untied),
        cmocka_unit_test(test_logits_llama_tied),
        cmocka_unit_test(test_gradients_llama_tied),
        cmocka_unit_test(test_losses_llama_tied),
        cmocka_unit_test(test_logits_llama_gqa),
        cmocka_unit_test(test_gradients_llama_gqa),
        cmocka_unit_test(test_losses_llama_gqa),
        cmocka_unit_test(test_logits_llama3),
        cmocka_unit_test(test_gradients_llama3),
        cmocka_unit_test(test_losses_llama3),
        cmocka_unit_test(test_logits_smollm3),
        cmocka_unit_test(test_gradients_smollm3),
        cmocka_unit_test(test_losses_smollm3),
        cmocka_unit_test(test_logits_mistral),
        cmocka_unit_test(test_gradients_mistral),
        cmocka_unit_test(test_losses_mistral),
        cmocka_unit_test(test_logits_qwen2),
        cmocka_unit_test(test_gradients_qwen2),
        cmocka_unit_test(test_losses_qwen2),
        cmocka_unit_test(test_logits_qwen3),
        cmocka_unit_test(test_gradients_qwen3),
        cmocka_unit_test(test_losses_qwen3),
        cmocka_unit_test(test_logits_gemma2),
        cmocka_unit_test(test_gradients_gemma2),
        cmocka_unit_test(test_losses_gemma2),
        cmocka_unit_test(test_logits_gemma3),
        cmocka_unit_test(test_gradients_gemma3),
        cmocka_unit_test(test_losses_gemma3),
        cmocka_unit_test(test_logits_ref),
        cmocka_unit_test(test_gradients_ref),
        cmocka_unit_test(test_gradients_ref_sandwich),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
