/* test_optimizer.c — which optimizer takes which parameter, a fused weight as the matrices that it is, what state is
 * placed for it; and the average of the weights. */
#include <math.h>

#include "base/rng.h"
#include "step_bench.h"

static const char *const llama =
    "{\"model_type\":\"llama\",\"vocab_size\":97,\"hidden_size\":40,\"intermediate_size\":72,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":10,"
    "\"max_position_embeddings\":64,\"tie_word_embeddings\":true}";
static const char *const gpt2 = "{\"model_type\":\"gpt2\",\"vocab_size\":97,\"n_embd\":36,\"n_layer\":2,\"n_head\":3,"
                                "\"n_positions\":64}";

/* A model with random weights, gradients and first moments. */
static void open_bench(bench *b, const char *config, tl_optimizer optimizer, bool average, int threads) {
    const tl_train_shape shape = {.batch = 2,
                                  .T = 8,
                                  .micro_batch = 2,
                                  .leaves = 1,
                                  .max_documents = 1,
                                  .threads = threads,
                                  .optimizer = optimizer,
                                  .average = average};
    bench_open_config(b, config, &shape);
    size_t n = (size_t)b->model.params.count;
    tl__normal_fill(b->memory.grad[0], n, 0, 0.01f, 1, 0, 0);
    tl__normal_fill(b->memory.exp_avg, n, 0, 0.01f, 1, 1, 0);
}

static const tl_adamw_settings adamw = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 0};
static const tl_muon_settings muon = {.momentum = 0.95, .rate_ratio = 3};

static bool same(const float *a, const float *b, int64_t n) {
    return memcmp(a, b, sizeof *a * (size_t)n) == 0;
}

/* Muon takes every matrix of the layers; all else is updated as AdamW alone would, to the bit. */
static void check_groups(const char *config, int matrices_a_layer) {
    bench with, without;
    int taken = 0;
    int64_t left = 0;
    open_bench(&with, config, TL_OPTIMIZER_MUON, false, 2);
    open_bench(&without, config, TL_OPTIMIZER_ADAMW, false, 2);
    bench_update(&with, &adamw, &muon, 1e-2, 1, 1);
    bench_update(&without, &adamw, NULL, 1e-2, 1, 1);
    const tl_params *params = &with.model.params;
    for (int i = 0; i < params->n; i++) {
        const tl_param *p = &params->list[i];
        bool mine = p->layer >= 0 && p->dims == 2;
        assert_int_equal(with.memory.sq_offset[i] < 0, mine);
        assert_true(without.memory.sq_offset[i] == p->offset);
        assert_true(same(with.model.flat + p->offset, without.model.flat + p->offset, p->count) == !mine);
        if (mine) {
            tl_matrix m[TL_MAX_FUSED];
            taken += tl__param_matrices(m, p, &with.model.arch);
            continue;
        }
        assert_true(with.memory.sq_offset[i] == left);
        assert_true(same(with.memory.exp_avg_sq + left, without.memory.exp_avg_sq + p->offset, p->count));
        left += p->count;
    }
    assert_int_equal(taken, 2 * matrices_a_layer);
    assert_true(with.memory.sq_count == left && without.memory.sq_count == params->count);
    bench_close(&with), bench_close(&without);
}

static void test_muon_takes_the_matrices_of_the_layers(void **state) {
    (void)state;
    check_groups(llama, 7); /* q, k, v, o, gate, up, down */
    check_groups(gpt2, 6);  /* q, k, v of one weight, o, up, down */
}

/* GPT-2's c_attn [C, 3C] is updated as its three parts would be, each on its own. */
static void test_a_fused_weight_is_three_matrices(void **state) {
    enum { C = 36 };
    bench b;
    static float part[3][3][C * C]; /* of w, m and g */
    (void)state;
    open_bench(&b, gpt2, TL_OPTIMIZER_MUON, false, 1);
    const tl_param *p = &b.model.params.list[tl__params_find(&b.model.params, &b.model.arch, 1, TL_ROLE_QKV)];
    assert_true(p->shape[0] == C && p->shape[1] == 3 * C);
    const float *const from[3] = {b.model.flat + p->offset, b.memory.exp_avg + p->offset, b.memory.grad[0] + p->offset};
    for (int k = 0; k < 3; k++)
        for (int what = 0; what < 3; what++)
            for (int r = 0; r < C; r++)
                memcpy(part[k][what] + r * C, from[what] + r * 3 * C + k * C, sizeof(float) * C);
    bench_update(&b, &adamw, &muon, 1e-2, 1, 1);
    tl_muon h = {.lr = 3e-2f, .weight_decay = 0.1f, .grad_scale = 1, .momentum = 0.95};
    for (int k = 0; k < 3; k++) {
        tl__muon(&b.ctx, part[k][0], part[k][1], part[k][2], C, C, C, &b.memory.muon, &h);
        for (int r = 0; r < C; r++) {
            assert_true(same(part[k][0] + r * C, from[0] + r * 3 * C + k * C, C));
            assert_true(same(part[k][1] + r * C, from[1] + r * 3 * C + k * C, C));
        }
    }
    bench_close(&b);
}

static void test_threads_change_no_bit(void **state) {
    bench one, three;
    (void)state;
    open_bench(&one, gpt2, TL_OPTIMIZER_MUON, false, 1);
    open_bench(&three, gpt2, TL_OPTIMIZER_MUON, false, 3);
    bench_update(&one, &adamw, &muon, 1e-2, 1, 1);
    bench_update(&three, &adamw, &muon, 1e-2, 1, 1);
    assert_true(same(one.model.flat, three.model.flat, one.model.params.count));
    bench_close(&one), bench_close(&three);
}

/* Against the recurrence in double: an update rounds twice, relative to the average, and forgets by the decay: at most
 * 2·2^−24/(1 − 0.9) of the largest weight, and the decay itself, 0.9, is 2^−25 off when it is an f32. */
static void test_average(void **state) {
    bench b;
    const double decay = 0.9;
    (void)state;
    open_bench(&b, llama, TL_OPTIMIZER_ADAMW, true, 2);
    int64_t n = b.model.params.count;
    double *want = malloc(sizeof *want * (size_t)n), largest = 0, worst = 0;
    for (int64_t i = 0; i < n; i++) b.memory.average[i] = NAN; /* the first update begins anew */
    for (int update = 1; update <= 40; update++) {
        for (int64_t i = 0; i < n; i++) b.model.flat[i] += b.memory.grad[0][i];
        tl__step_average(&b.ctx, &b.model, &b.memory, decay, update);
        for (int64_t i = 0; i < n; i++)
            want[i] = update == 1 ? b.model.flat[i] : decay * want[i] + (1 - decay) * b.model.flat[i];
    }
    for (int64_t i = 0; i < n; i++) {
        largest = fmax(largest, fabs(want[i]));
        worst = fmax(worst, fabs(want[i] - b.memory.average[i]));
    }
    double tolerance = (2 * 0x1p-24 / (1 - decay) + 40 * 0x1p-25) * largest;
    assert_true(worst <= tolerance);
    /* What stands still is its own average, but for those roundings. */
    for (int update = 41; update < 400; update++) tl__step_average(&b.ctx, &b.model, &b.memory, decay, update);
    for (int64_t i = 0; i < n; i++)
        assert_true(fabs((double)b.memory.average[i] - b.model.flat[i]) <= 2 * 0x1p-24 / (1 - decay) * largest);
    free(want);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_muon_takes_the_matrices_of_the_layers),
        cmocka_unit_test(test_a_fused_weight_is_three_matrices),
        cmocka_unit_test(test_threads_change_no_bit),
        cmocka_unit_test(test_average),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
