/* test_step.c — law L3 inside a step: the gradient's bits depend on the batch and the leaves, on nothing else; and
 * training learns. */
#include <math.h>

#include "base/rng.h"
#include "sanitized.h"
#include "step_bench.h"

static const char *const llama =
    "{\"model_type\":\"llama\",\"vocab_size\":97,\"hidden_size\":40,\"intermediate_size\":72,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":10,"
    "\"max_position_embeddings\":64,\"tie_word_embeddings\":true}";
static const char *const gpt2 = "{\"model_type\":\"gpt2\",\"vocab_size\":97,\"n_embd\":36,\"n_layer\":2,\"n_head\":3,"
                                "\"n_positions\":64}";

enum { B = 16, T = 64 };
static tl_contract contract; /* of the contexts that follow */
static tl_shard shard;

static void open_bench(bench *b, const char *config, int micro_batch, int leaves, int threads) {
    const tl_train_shape shape = {.batch = B,
                                  .T = T,
                                  .micro_batch = micro_batch,
                                  .leaves = leaves,
                                  .max_documents = 4,
                                  .threads = threads,
                                  .contract = contract,
                                  .shard = shard};
    bench_open_config(b, config, &shape);
    for (int i = 0; i < B * T; i++) { /* three documents a sequence, of unequal length */
        int t = i % T, start = t < 11 ? 0 : t < 30 ? 11 : 30;
        b->memory.input[i] = (int32_t)(tl__philox(3, TL_RNG_TEST, 0, (uint64_t)i).v[0] % 97);
        b->memory.target[i] = t == 10 || t == 29 ? -1 : (int32_t)(tl__philox(3, TL_RNG_TEST, 1, (uint64_t)i).v[0] % 97);
        b->memory.pos[i] = t - start;
    }
}

/* The gradient of the same batch; malloc'd. */
static float *gradient(const char *config, int micro_batch, int leaves, int threads, tl_step_result *result,
                       int64_t *n) {
    bench b;
    tl_error err = {0};
    open_bench(&b, config, micro_batch, leaves, threads);
    assert_int_equal(tl__step_gradient(&b.ctx, b.comm, &b.model, &b.memory, &b.shape, result, &err), 0);
    *n = b.model.params.count;
    float *copy = malloc(sizeof(float) * (size_t)*n);
    memcpy(copy, b.memory.grad[0], sizeof(float) * (size_t)*n);
    bench_close(&b);
    return copy;
}

static void test_L3_micro_batch_changes_no_bit(void **state) {
    const char *const configs[] = {llama, gpt2};
    (void)state;
    for (int c = 0; c < 2; c++) {
        tl_step_result whole, part;
        int64_t n;
        float *want = gradient(configs[c], B, 1, 1, &whole, &n);
        assert_int_equal(whole.tokens, B * (T - 2));
        const int micros[] = {4, 8, 12};
        for (int i = 0; i < 3; i++) {
            float *got = gradient(configs[c], micros[i], 1, 1 + i, &part, &n);
            assert_memory_equal(got, want, sizeof(float) * (size_t)n);
            assert_true(part.loss == whole.loss && part.grad_norm == whole.grad_norm);
            free(got);
        }
        /* The law has teeth: a micro-batch that cuts inside a block of rows does change bits. */
        float *cut = gradient(configs[c], 3, 1, 1, &part, &n);
        assert_memory_not_equal(cut, want, sizeof(float) * (size_t)n);
        free(cut);
        free(want);
    }
}

static int use_bf16(void **state) {
    (void)state;
    contract = TL_CONTRACT_BF16;
    return 0;
}
static int use_f32(void **state) {
    (void)state;
    contract = TL_CONTRACT_F32;
    return 0;
}

/* bf16 reaches the gradient, and leaves it near f32's. */
static void test_bf16_gradient_is_near(void **state) {
    tl_step_result f32, bf16;
    int64_t n;
    float *want = gradient(gpt2, 4, 1, 2, &f32, &n);
    use_bf16(state);
    float *got = gradient(gpt2, 4, 1, 2, &bf16, &n);
    use_f32(state);
    double error = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)got[i] - (double)want[i];
        error += d * d, size += (double)want[i] * (double)want[i];
    }
    /* A gradient passes some twenty products; each rounds two factors by at most 2⁻⁸, on average by a third of it, at
     * random: √40·2⁻⁸/3 = 0.008 of its size. Three times that. */
    assert_true(error > 0 && sqrt(error / size) < 0.025);
    assert_true(bf16.loss != f32.loss && fabs(bf16.loss - f32.loss) < 0.01 * f32.loss);
    free(want), free(got);
}

static void test_L3_leaves_are_a_tree(void **state) {
    (void)state;
    tl_step_result one, four, again;
    int64_t n;
    float *flat = gradient(llama, 4, 1, 1, &one, &n), *tree = gradient(llama, 4, 4, 1, &four, &n),
          *wide = gradient(llama, 4, 4, 3, &again, &n);
    assert_memory_equal(tree, wide, sizeof(float) * (size_t)n);
    assert_memory_not_equal(tree, flat,
                            sizeof(float) * (size_t)n); /* R is a recorded setting because it is seen in the bits */
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)tree[i] - (double)flat[i]));
        largest = fmax(largest, fabs((double)flat[i]));
    }
    /* Two orders of one sum of R = 1,024 rows: error at most about √R·2⁻²⁴ of the sum of magnitudes, here within
     * 32·6e-8·4. */
    assert_true(worst < 8e-6 * largest);
    assert_true(fabs(one.loss - four.loss) < 1e-9);
    free(flat), free(tree), free(wide);
}

/* Where gradients stream the tree's stack is kept block by block, from leaves that were summed over the ranks; where
 * weights are gathered they come from the owner's. Both with the one rank that there is here. */
static void test_L3_streaming_changes_no_bit(void **state) {
    const char *const configs[] = {llama, gpt2};
    (void)state;
    for (int c = 0; c < 2; c++)
        for (int leaves = 1; leaves <= 16; leaves *= 2) {
            tl_step_result whole, part;
            int64_t n;
            float *want = gradient(configs[c], 16, leaves, 1, &whole, &n);
            for (shard = TL_SHARD_ZERO1; shard < TL_SHARDS; shard++) {
                float *got = gradient(configs[c], 16, leaves, 2, &part, &n);
                assert_memory_equal(got, want, sizeof(float) * (size_t)n);
                assert_true(part.loss == whole.loss && part.grad_norm == whole.grad_norm);
                free(got);
            }
            shard = TL_SHARD_NONE;
            free(want);
        }
}

/* Law L4 for every rank of some: what is placed is what was sized, and sharding more never takes more. */
static void test_L4_shards_are_placed_as_sized(void **state) {
    (void)state;
    tl_error err = {0};
    tl_arch arch;
    assert_int_equal(tl__arch_open(&arch, "smollm2-135m", &err), 0);
    arch.L = 12, arch.V = 2048;
    for (int ranks = 1; ranks <= 8; ranks++) {
        int64_t total[TL_SHARDS] = {0}, moments[TL_SHARDS] = {0}, params = 0;
        for (int r = 0; r < ranks; r++)
            for (int i = 0; i < TL_SHARDS; i++) {
                const tl_train_shape shape = {.batch = 8,
                                              .T = 16,
                                              .micro_batch = 1,
                                              .leaves = 8,
                                              .max_documents = 1,
                                              .threads = 1,
                                              .ranks = ranks,
                                              .rank = r,
                                              .shard = (tl_shard)i};
                tl_train_memory memory;
                tl_train_bytes bytes;
                tl_arena dry = tl__arena_dry(), arena;
                tl__train_place(&memory, &dry, &arch, &shape);
                assert_int_equal(tl__arena_open(&arena, dry.used_bytes, &err), 0);
                tl__train_place(&memory, &arena, &arch, &shape);
                assert_int_equal(arena.used_bytes, dry.used_bytes);
                tl__train_bytes(&bytes, &arch, &shape, 0);
                total[i] += bytes.total, moments[i] += bytes.moments;
                if (i == TL_SHARD_NONE) params = memory.grad_count;
                if (i == TL_SHARD_ZERO3) assert_true(memory.weight_count < (ranks > 1 ? params : params + 1));
                tl__arena_close(&arena);
            }
        assert_int_equal(moments[TL_SHARD_ZERO1], 8 * params); /* once in all: two numbers of four bytes */
        assert_int_equal(moments[TL_SHARD_NONE], 8 * params * ranks);
        if (ranks > 1) assert_true(total[TL_SHARD_ZERO1] < total[TL_SHARD_NONE]);
        if (ranks == 4 || ranks == 8)
            assert_true(total[TL_SHARD_ZERO3] < total[TL_SHARD_ZERO2] && total[TL_SHARD_ZERO2] < total[TL_SHARD_ZERO1]);
    }
}

static void test_micro_batch_rule(void **state) {
    static const tl_arch dense;
    (void)state;
    tl_error err = {0};
    int m;
    assert_int_equal(tl__micro_batch(&m, &dense, 0, 64, 1, 256, &err), 0);
    assert_int_equal(m, 8);
    assert_int_equal(tl__micro_batch(&m, &dense, 0, 4, 1, 64, &err), 0);
    assert_int_equal(m, 4);
    assert_int_equal(tl__micro_batch(&m, &dense, 4, 16, 1, 64, &err), 0);
    assert_int_equal(m, 4);
    assert_int_equal(tl__micro_batch(&m, &dense, 3, 16, 1, 64, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "use 4"));
    assert_int_equal(tl__micro_batch(&m, &dense, 99, 16, 2, 64, &err), 0);
    assert_int_equal(m, 8);
}

static void test_training_learns(void **state) {
    const char *const configs[] = {llama, gpt2};
    tl_adamw_settings adamw = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0, .clip = 1};
    (void)state;
    if (SANITIZED) skip();
    for (int c = 0; c < 2; c++) {
        bench b;
        tl_error err = {0};
        tl_step_result r = {0};
        double first = 0;
        open_bench(&b, configs[c], B, 1, 2);
        for (int i = 0; i < B * T; i++)
            b.memory.input[i] = b.memory.input[i % T],
            b.memory.target[i] = i % T == T - 1 ? -1 : b.memory.input[(i + 1) % T];
        for (int i = 0; i < B * T; i++) b.memory.pos[i] = i % T;
        for (int update = 1; update <= 150; update++) {
            assert_int_equal(tl__step_gradient(&b.ctx, b.comm, &b.model, &b.memory, &b.shape, &r, &err), 0);
            if (update == 1) first = r.loss;
            bench_update(&b, &adamw, NULL, 1e-2, r.grad_norm, update);
        }
        assert_true(fabs(first - log(97.0)) < 0.3); /* a fresh model knows nothing: uniform over the vocabulary */
        assert_true(r.loss < 0.1);
        bench_close(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_L3_micro_batch_changes_no_bit),
        cmocka_unit_test_setup_teardown(test_L3_micro_batch_changes_no_bit, use_bf16, use_f32),
        cmocka_unit_test(test_bf16_gradient_is_near),
        cmocka_unit_test(test_L3_leaves_are_a_tree),
        cmocka_unit_test(test_L3_streaming_changes_no_bit),
        cmocka_unit_test(test_L4_shards_are_placed_as_sized),
        cmocka_unit_test(test_micro_batch_rule),
        cmocka_unit_test(test_training_learns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
