/* test_experts.c — training a mixture of experts: bits that do not depend on threads, a leaf that may not be cut,
 * memory that is known, the two losses of the routers as their definitions say, and a load that balances. Gradients are
 * compared with transformers' in tests/model/test_parity.c. */
#include <math.h>

#include "base/rng.h"
#include "step_bench.h"

enum { V = 67, MAX_T = 64 };

static const char *const mixtral =
    "{\"model_type\":\"mixtral\",\"vocab_size\":67,\"hidden_size\":40,\"intermediate_size\":36,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"max_position_embeddings\":64,\"num_local_experts\":6,"
    "\"num_experts_per_tok\":2,\"router_aux_loss_coef\":0.02,\"initializer_range\":0.1}";
static const char *const qwen3_moe =
    "{\"model_type\":\"qwen3_moe\",\"vocab_size\":67,\"hidden_size\":40,\"intermediate_size\":48,\"num_hidden_layers\":"
    "2,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":12,\"max_position_embeddings\":64,\"num_"
    "experts\":8,"
    "\"num_experts_per_tok\":3,\"moe_intermediate_size\":20,\"norm_topk_prob\":true,\"mlp_only_layers\":[0],"
    "\"router_aux_loss_coef\":0.02,\"tie_word_embeddings\":true,\"initializer_range\":0.1}";
static const char *const olmoe =
    "{\"model_type\":\"olmoe\",\"vocab_size\":67,\"hidden_size\":40,\"intermediate_size\":20,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":4,\"max_position_embeddings\":64,\"num_experts\":8,"
    "\"num_experts_per_tok\":2,\"router_aux_loss_coef\":0.02,\"initializer_range\":0.1}";
static const char *const families[] = {mixtral, qwen3_moe, olmoe};

static void open_bench_in(bench *b, tl_contract contract, const char *config, int batch, int T, int leaves,
                          int threads) {
    tl_error err = {0};
    tl_arch arch;
    if (tl__arch_parse(&arch, config, strlen(config), "test", &err)) fail_msg("%s", err.text);
    arch.router_z_coef = 0.001;
    const tl_train_shape shape = {.batch = batch,
                                  .T = T,
                                  .micro_batch = batch / leaves,
                                  .leaves = leaves,
                                  .max_documents = 1,
                                  .threads = threads,
                                  .contract = contract};
    bench_open(b, &arch, NULL, &shape);
    for (int i = 0; i < batch * T; i++) {
        b->memory.input[i] = (int32_t)(tl__philox(3, TL_RNG_TEST, 0, (uint64_t)i).v[0] % V);
        b->memory.target[i] = (int32_t)(tl__philox(3, TL_RNG_TEST, 0, (uint64_t)i + 1).v[0] % V);
        b->memory.pos[i] = i % T;
    }
}

static void open_bench(bench *b, const char *config, int batch, int T, int leaves, int threads) {
    open_bench_in(b, TL_CONTRACT_F32, config, batch, T, leaves, threads);
}

static tl_step_result step(bench *b) {
    tl_step_result result;
    tl_error err = {0};
    if (tl__step_gradient(&b->ctx, b->comm, &b->model, &b->memory, &b->shape, &result, &err)) fail_msg("%s", err.text);
    return result;
}

static void test_L3_threads_change_no_bit(void **state) {
    for (int f = 0; f < 3; f++) {
        bench one, many;
        open_bench(&one, families[f], 8, 64, 2, 1);
        open_bench(&many, families[f], 8, 64, 2, 3);
        tl_step_result a = step(&one), b = step(&many);
        assert_memory_equal(one.memory.grad[0], many.memory.grad[0], sizeof(float) * (size_t)one.model.params.count);
        assert_true(a.loss == b.loss && a.balance_loss == b.balance_loss && a.router_z_loss == b.router_z_loss);
        assert_true(a.grad_norm == b.grad_norm);
        /* The same step again: nothing is left over from the first. */
        tl_step_result again = step(&many);
        assert_memory_equal(one.memory.grad[0], many.memory.grad[0], sizeof(float) * (size_t)one.model.params.count);
        assert_true(again.balance_loss == a.balance_loss);
        bench_close(&one), bench_close(&many);
    }
}

/* bf16: the reference on one thread and the best instructions on three give the same bits, and they are not f32's.
 * Rounding a product's factors moves each by at most 2^-9 of itself; the loss of so small a model moves by less than a
 * hundredth. */
static void test_L1_bf16_is_the_same_on_any_instruction_set(void **state) {
    for (int f = 0; f < 3; f++) {
        bench plain, best, ref;
        open_bench(&plain, families[f], 4, 64, 2, 2);
        open_bench_in(&best, TL_CONTRACT_BF16, families[f], 4, 64, 2, 3);
        setenv("TRILITH_ISA", "ref", 1);
        open_bench_in(&ref, TL_CONTRACT_BF16, families[f], 4, 64, 2, 1);
        unsetenv("TRILITH_ISA");
        const tl_step_result full = step(&plain), a = step(&best), b = step(&ref);
        const size_t bytes = sizeof(float) * (size_t)plain.model.params.count;
        assert_memory_equal(best.memory.grad[0], ref.memory.grad[0], bytes);
        assert_true(a.loss == b.loss && a.balance_loss == b.balance_loss && a.router_z_loss == b.router_z_loss);
        assert_true(memcmp(best.memory.grad[0], plain.memory.grad[0], bytes) != 0);
        assert_true(a.loss != full.loss && fabs(a.loss - full.loss) < 0.01 * full.loss);
        bench_close(&plain), bench_close(&best), bench_close(&ref);
    }
}

/* The router is f32 under every contract: where both contracts give it the same input, they choose alike to the bit.
 * With the first layer's attention silenced its input is the embedding's norm. */
static void test_the_router_is_f32_in_bf16(void **state) {
    for (int f = 0; f < 3; f++) {
        bench plain, rounded;
        open_bench(&plain, families[f], 2, 64, 1, 2);
        open_bench_in(&rounded, TL_CONTRACT_BF16, families[f], 2, 64, 1, 2);
        bench *const both[] = {&plain, &rounded};
        for (int i = 0; i < 2; i++) {
            const tl_params *p = &both[i]->model.params;
            const tl_param *o = &p->list[tl__params_find(p, &both[i]->model.arch, 0, TL_ROLE_O)];
            memset(both[i]->model.flat + o->offset, 0, sizeof(float) * (size_t)o->count);
            (void)step(both[i]);
        }
        const int R = 2 * 64, E = plain.model.arch.E;
        assert_true(plain.model.arch.layer[0].moe || f == 1); /* Qwen 3's first layer here is dense */
        if (plain.model.arch.layer[0].moe)
            assert_memory_equal(plain.memory.acts.layer[0].experts.prob, rounded.memory.acts.layer[0].experts.prob,
                                sizeof(float) * (size_t)(R * E));
        bench_close(&plain), bench_close(&rounded);
    }
}

/* Two leaves of the same sequences are one of them: every sum is halved and doubled, which is exact. So the losses of
 * the routers are averaged over leaves, not added. */
static void test_two_equal_leaves_are_one(void **state) {
    for (int f = 0; f < 3; f++) {
        bench one, two;
        open_bench(&one, families[f], 2, 64, 1, 2);
        open_bench(&two, families[f], 4, 64, 2, 2);
        for (int i = 0; i < 4 * 64; i++) {
            two.memory.input[i] = one.memory.input[i % 128];
            two.memory.target[i] = one.memory.target[i % 128];
        }
        const tl_step_result a = step(&one), b = step(&two);
        assert_memory_equal(one.memory.grad[0], two.memory.grad[0], sizeof(float) * (size_t)one.model.params.count);
        assert_true(a.loss == b.loss && a.balance_loss == b.balance_loss && a.router_z_loss == b.router_z_loss);
        bench_close(&one), bench_close(&two);
    }
}

static void test_a_leaf_is_one_micro_batch(void **state) {
    tl_error err = {0};
    tl_arch arch;
    int m;
    assert_int_equal(tl__arch_parse(&arch, mixtral, strlen(mixtral), "test", &err), 0);
    assert_int_equal(tl__micro_batch(&m, &arch, 0, 64, 1, 256, &err), 0);
    assert_int_equal(m, 64);
    assert_int_equal(tl__micro_batch(&m, &arch, 0, 64, 4, 256, &err), 0);
    assert_int_equal(m, 16);
    assert_int_equal(tl__micro_batch(&m, &arch, 16, 64, 4, 256, &err), 0);
    assert_int_equal(tl__micro_batch(&m, &arch, 8, 64, 1, 256, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "--leaves"));
}

/* Both losses from the probabilities themselves, in double. */
static void test_losses_are_what_they_say(void **state) {
    for (int f = 0; f < 3; f++) {
        bench b;
        open_bench(&b, families[f], 4, 64, 1, 2);
        tl_step_result got = step(&b);
        const tl_arch *a = &b.model.arch;
        const int R = 4 * 64;
        double load[TL_MAX_EXPERTS] = {0}, prob[TL_MAX_EXPERTS] = {0}, z = 0, rows = 0, balance = 0;
        const float *peak = b.memory.expert_load;
        for (int l = 0; l < a->L; l++) {
            if (!a->layer[l].moe) continue;
            const tl_layer_experts *p = &b.memory.acts.layer[l].experts;
            double here[TL_MAX_EXPERTS] = {0}, most = 0;
            rows += R;
            for (int r = 0; r < R; r++) {
                double sum = 0, weights = 0;
                for (int e = 0; e < a->E; e++) {
                    prob[e] += (double)p->prob[r * a->E + e];
                    sum += (double)p->prob[r * a->E + e];
                }
                for (int j = 0; j < a->top_k; j++) {
                    here[p->choice[r * a->top_k + j]]++;
                    weights += (double)p->weight[r * a->top_k + j];
                }
                z += (double)p->logz[r] * (double)p->logz[r];
                assert_true(fabs(sum - 1) < 1e-5);
                assert_true(a->norm_topk ? fabs(weights - 1) < 1e-5 : weights < 1);
            }
            for (int e = 0; e < a->E; e++) {
                load[e] += here[e];
                most = fmax(most, here[e]);
            }
            assert_true(fabs((double)*peak++ - most * a->E / (R * a->top_k)) < 1e-5);
        }
        for (int e = 0; e < a->E; e++) balance += a->E * (load[e] / rows) * (prob[e] / rows);
        assert_true(fabs(got.balance_loss - balance) < 1e-5 * balance); /* sums of R f32: R·2^-24 */
        assert_true(fabs(got.router_z_loss - z / rows) < 1e-5 * z / rows);
        assert_true(got.balance_loss > 0.9 * a->top_k && got.balance_loss <= a->E);
        bench_close(&b);
    }
}

static void update(bench *b, double rate, int64_t t, double norm) {
    tl_adamw_settings adamw = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0, .clip = 1};
    bench_update(b, &adamw, NULL, rate, norm, t);
}

/* Routers that begin with a strong wish for the first two experts, or against them, which sends rows to the next two,
 * come to use the others. */
static void test_the_load_balances(void **state) {
    bench b;
    open_bench(&b, mixtral, 4, 64, 1, 2);
    b.model.arch.router_aux_coef = 1;
    for (int l = 0; l < 2; l++) {
        const tl_param *p = &b.model.params.list[tl__params_find(&b.model.params, &b.model.arch, l, TL_ROLE_ROUTER)];
        float *w = b.model.flat + p->offset;
        const int64_t C = p->shape[1];
        for (int64_t k = p->count - 1; k >= 0; k--) w[k] = k < 2 * C ? w[k % C] * 10 : 0;
    }
    tl_step_result first = step(&b), r = first;
    for (int t = 1; t <= 60; t++) {
        update(&b, 3e-3, t, r.grad_norm);
        r = step(&b);
    }
    assert_true(first.balance_loss > 2.02);
    assert_true(r.balance_loss - 2 < 0.5 * (first.balance_loss - 2));
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_L3_threads_change_no_bit),
        cmocka_unit_test(test_L1_bf16_is_the_same_on_any_instruction_set),
        cmocka_unit_test(test_the_router_is_f32_in_bf16),
        cmocka_unit_test(test_two_equal_leaves_are_one),
        cmocka_unit_test(test_a_leaf_is_one_micro_batch),
        cmocka_unit_test(test_losses_are_what_they_say),
        cmocka_unit_test(test_the_load_balances),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
