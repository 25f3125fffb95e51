/* test_recompute.c — activations given up and computed again, for every model of tests/vectors: the gradient's bits,
 * what is executed for it, what is saved by it, and the prediction of both. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>

#include "base/rng.h"
#include "io/file.h"
#include "step_bench.h"

enum { B = 4, T = 64 };

static void open_bench(bench *b, const char *folder, tl_recompute recompute, int threads) {
    tl_error err = {0};
    tl_arch arch;
    const tl_train_shape shape = {.batch = B,
                                  .T = T,
                                  .micro_batch = B,
                                  .leaves = 1,
                                  .max_documents = 1,
                                  .threads = threads,
                                  .recompute = recompute};
    if (tl__arch_open(&arch, folder, &err)) fail_msg("%s", err.text);
    bench_open(b, &arch, folder, &shape);
    assert_int_equal(tl__spans_open(&b->ctx.spans, 1 << 14, &err), 0);
    tl__spans_keep(b->ctx.spans, true);
    for (int i = 0; i < B * T; i++) {
        b->memory.input[i] = (int32_t)(tl__philox(3, TL_RNG_TEST, 0, (uint64_t)i).v[0] % (uint32_t)arch.V);
        b->memory.target[i] = (int32_t)(tl__philox(3, TL_RNG_TEST, 1, (uint64_t)i).v[0] % (uint32_t)arch.V);
        b->memory.pos[i] = i % T;
    }
}

/* FLOPs executed inside the layers since the last call. */
static double layer_flops(tl_spans *spans, int *seen) {
    const tl_span *span;
    double flops = 0;
    int n = tl__spans_list(spans, &span);
    for (int i = *seen; i < n; i++) flops += span[i].layer >= 0 ? span[i].flops : 0;
    *seen = n;
    return flops;
}

/* The gradient of one batch, malloc'd; FLOPs of it and, measured apart, of a forward. */
static float *gradient(const char *folder, tl_recompute recompute, int threads, tl_step_result *result, int64_t *n,
                       double *step_flops, double *forward_flops) {
    bench b;
    tl_error err = {0};
    int seen = 0;
    double sums[2 * B];
    open_bench(&b, folder, recompute, threads);
    int L = b.model.arch.L;
    const tl_layer_acts *layer = b.memory.acts.layer;
    for (int l = 1; l < L; l++) { /* memory is shared as promised: else equal bits would prove nothing */
        assert_true(layer[l].x != layer[0].x);
        assert_true((layer[l].qkv == layer[0].qkv) == (recompute != TL_RECOMPUTE_NONE));
        assert_true((layer[l].up == layer[0].up) == (recompute == TL_RECOMPUTE_FULL));
    }
    tl__step_evaluate(&b.ctx, &b.model, &b.memory, B, T, sums);
    *forward_flops = layer_flops(b.ctx.spans, &seen);
    assert_int_equal(tl__step_gradient(&b.ctx, b.comm, &b.model, &b.memory, &b.shape, result, &err), 0);
    *step_flops = layer_flops(b.ctx.spans, &seen);
    *n = b.model.params.count;
    float *copy = malloc(sizeof *copy * (size_t)*n);
    memcpy(copy, b.memory.grad[0], sizeof *copy * (size_t)*n);
    bench_close(&b);
    return copy;
}

/* Call check(folder) for every folder of tests/vectors that holds a model; returns how many. */
static int each_model(void (*check)(const char *folder)) {
    DIR *dir = opendir(TL_SOURCE_DIR "/tests/vectors");
    int n = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        char folder[512], config[600];
        if (e->d_name[0] == '.') continue;
        snprintf(folder, sizeof folder, TL_SOURCE_DIR "/tests/vectors/%.200s", e->d_name);
        snprintf(config, sizeof config, "%s/config.json", folder);
        if (!tl__path_exists(config)) continue;
        check(folder);
        n++;
    }
    closedir(dir);
    return n;
}

static void check_bits_and_cost(const char *folder) {
    tl_step_result want_result, result;
    int64_t n;
    double plain, flops[TL_RECOMPUTES], forward;
    float *want = gradient(folder, TL_RECOMPUTE_NONE, 1, &want_result, &n, &plain, &forward);
    tl_arch arch;
    assert_int_equal(tl__arch_open(&arch, folder, NULL), 0);
    for (int mode = 1; mode < TL_RECOMPUTES; mode++) {
        float *got = gradient(folder, (tl_recompute)mode, mode, &result, &n, &flops[mode], &forward);
        assert_true(result.loss == want_result.loss && result.grad_norm == want_result.grad_norm);
        assert_memory_equal(got, want, sizeof *got * (size_t)n);
        free(got);
        /* At most the forward of all layers but the last, which is still there. */
        double most = forward * (arch.L - 1) / arch.L;
        if (arch.L > 1) assert_true(flops[mode] > plain && flops[mode] - plain < most);
        else assert_true(flops[mode] == plain);
    }
    if (arch.L > 1) assert_true(flops[TL_RECOMPUTE_FULL] > flops[TL_RECOMPUTE_ATTENTION]);
    free(want);
}

static void test_recomputed_gradients_are_the_same_bits(void **state) {
    (void)state;
    assert_true(each_model(check_bits_and_cost) >= 4);
}

static double sum(const double by_bucket[TL_BUCKETS]) {
    double all = 0;
    for (int b = 0; b < TL_BUCKETS; b++) all += by_bucket[b];
    return all;
}

static void check_prediction(const char *folder) {
    const tl_machine machine = {.f32_flops = 1e12, .read_bytes_per_second = 1e11};
    tl_arch arch;
    int64_t bytes[TL_RECOMPUTES];
    double executed[TL_RECOMPUTES], forward;
    tl_error err = {0};
    assert_int_equal(tl__arch_open(&arch, folder, &err), 0);
    tl_totals none = {0}, predicted;
    for (int mode = 0; mode < TL_RECOMPUTES; mode++) {
        tl_step_result result;
        int64_t n;
        free(gradient(folder, (tl_recompute)mode, 2, &result, &n, &executed[mode], &forward));
        tl_train_shape shape = {.batch = B,
                                .T = T,
                                .micro_batch = B,
                                .leaves = 1,
                                .max_documents = 1,
                                .threads = 2,
                                .recompute = (tl_recompute)mode};
        assert_int_equal(tl__train_predict(&predicted, &arch, &shape, &machine, &err), 0);
        if (mode == 0) none = predicted;
        double whole = sum(predicted.flops), more = whole - sum(none.flops), want = executed[mode] - executed[0];
        assert_true(fabs(more - want) <= 1e-9 * whole); /* sums of the same numbers */
        if (mode == 0) tl__train_bytes_by_recompute(bytes, &arch, &shape, 0);
    }
    if (arch.L > 1)
        assert_true(bytes[TL_RECOMPUTE_NONE] > bytes[TL_RECOMPUTE_ATTENTION] &&
                    bytes[TL_RECOMPUTE_ATTENTION] > bytes[TL_RECOMPUTE_FULL]);
    else assert_true(bytes[TL_RECOMPUTE_NONE] == bytes[TL_RECOMPUTE_FULL]);
}

static void test_prediction_counts_what_is_repeated(void **state) {
    (void)state;
    assert_true(each_model(check_prediction) >= 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recomputed_gradients_are_the_same_bits),
        cmocka_unit_test(test_prediction_counts_what_is_repeated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
