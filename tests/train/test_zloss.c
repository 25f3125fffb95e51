/* test_zloss.c — the z-loss of a whole step: gradients of two models against PyTorch (one caps its logits), the same
 * bits whatever the micro-batch, and a loss that is reported without it. */
#include "base/rng.h"
#include "step_bench.h"
#include "vectors.h"

/* As in tests/model/test_parity.c, and for its reasons. */
#define NEAR 1e-5

static void open_bench(bench *b, const char *name, const tl_train_shape *shape) {
    char folder[1024];
    tl_error err = {0};
    tl_arch arch;
    snprintf(folder, sizeof folder, "%s/%s", vectors_folder(), name);
    if (tl__arch_open(&arch, folder, &err)) fail_msg("%s", err.text);
    bench_open(b, &arch, folder, shape);
}

static tl_step_result step(bench *b) {
    tl_error err = {0};
    tl_step_result result;
    assert_int_equal(tl__step_gradient(&b->ctx, b->comm, &b->model, &b->memory, &b->shape, &result, &err), 0);
    return result;
}

/* The first batch of the model's vectors: [2, 70 + 1] tokens. */
static void load_batch(bench *b, const char *name) {
    enum { B = 2, T = 70 };
    char file[256];
    snprintf(file, sizeof file, "%s/expected.safetensors", name);
    tl_safetensors *expected = vectors_open(file);
    int32_t *tokens = vectors_read(expected, "tokens", TL_I32, NULL);
    for (int i = 0; i < B * T; i++) {
        const int32_t *at = tokens + i / T * (T + 1) + i % T;
        b->memory.input[i] = at[0], b->memory.target[i] = at[1], b->memory.pos[i] = i % T;
    }
    free(tokens);
    tl__safetensors_close(expected);
}

static void check_gradients(const tl_safetensors *file, const char *name) {
    char key[192];
    snprintf(key, sizeof key, "%s.coefficient", name);
    float *coefficient = vectors_read(file, key, TL_F32, NULL);
    tl_train_shape shape = {.batch = 2, .T = 70, .micro_batch = 2, .leaves = 1, .max_documents = 1, .threads = 2};
    bench plain, with;
    open_bench(&plain, name, &shape);
    shape.z_coef = coefficient[0];
    open_bench(&with, name, &shape);
    load_batch(&plain, name), load_batch(&with, name);
    const tl_step_result without = step(&plain), result = step(&with);
    assert_true(without.loss == result.loss); /* the loss is the loss */
    assert_true(without.z_loss == 0);
    snprintf(key, sizeof key, "%s.z_loss", name);
    float *z_loss = vectors_read(file, key, TL_F32, NULL), got = (float)result.z_loss;
    vectors_near(key, &got, z_loss, 1, NEAR);
    const tl_params *params = &with.model.params;
    for (int i = 0; i < params->n; i++) {
        const tl_param *p = &params->list[i];
        int64_t n;
        snprintf(key, sizeof key, "%s.grad.%s", name, p->name);
        float *want = vectors_read(file, key, TL_F32, &n);
        assert_int_equal(n, p->count);
        vectors_near(key, with.memory.grad[0] + p->offset, want, n, NEAR);
        int64_t at; /* and without the z-loss it is another gradient */
        assert_true(vectors_distance(plain.memory.grad[0] + p->offset, want, n, &at) > 100 * NEAR);
        free(want);
    }
    free(coefficient), free(z_loss);
    bench_close(&plain), bench_close(&with);
}

static void test_gradients_are_PyTorchs(void **state) {
    tl_safetensors *file = vectors_open("zloss.safetensors");
    (void)state;
    check_gradients(file, "llama-tied");
    check_gradients(file, "gemma2");
    tl__safetensors_close(file);
}

/* Sixteen sequences of 64 tokens, of which some have no target. */
static tl_step_result random_step(bench *b, int micro_batch, int leaves, int threads) {
    tl_train_shape shape = {.batch = 16,
                            .T = 64,
                            .micro_batch = micro_batch,
                            .leaves = leaves,
                            .max_documents = 1,
                            .threads = threads,
                            .z_coef = 1e-3};
    open_bench(b, "llama-tied", &shape);
    uint32_t V = (uint32_t)b->model.arch.V;
    for (int i = 0; i < 16 * 64; i++) {
        b->memory.input[i] = (int32_t)(tl__philox(3, TL_RNG_TEST, 0, (uint64_t)i).v[0] % V);
        b->memory.target[i] = i % 9 == 0 ? -1 : (int32_t)(tl__philox(3, TL_RNG_TEST, 1, (uint64_t)i).v[0] % V);
        b->memory.pos[i] = i % 64;
    }
    return step(b);
}

static void test_micro_batches_change_no_bit(void **state) {
    bench whole, cut, tree;
    (void)state;
    const double whole_z = random_step(&whole, 16, 1, 1).z_loss, cut_z = random_step(&cut, 4, 1, 3).z_loss;
    const double tree_z = random_step(&tree, 4, 4, 1).z_loss;
    size_t bytes = sizeof(float) * (size_t)whole.model.params.count;
    assert_true(whole_z > 0 && whole_z == cut_z);
    assert_memory_equal(whole.memory.grad[0], cut.memory.grad[0], bytes);
    assert_true(fabs(whole_z - tree_z) < 1e-12); /* another order of one sum in double */
    bench_close(&whole), bench_close(&cut), bench_close(&tree);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients_are_PyTorchs),
        cmocka_unit_test(test_micro_batches_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
