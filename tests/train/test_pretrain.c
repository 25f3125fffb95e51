/* test_pretrain.c — a whole run in this process: law L4 (memory predicted, no heap call between steps, buckets add up
 * to the wall), stopping and resuming, refusals, non-finite steps, a disk that fills. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "heap_calls.h"
#include "io/file.h"
#include "train/pretrain.h"
#include "open_model.h"
#include "sanitized.h"

/* ---- a run ---- */

static char folder[256];

static const char *in_folder(const char *name) {
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void write_text(const char *path, int lines) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < lines; i++)
        fprintf(f, "line %d of a text in which every number, even %d, is written down once.\n", i, i * i % 1009);
    fclose(f);
}

/* Every activation that a family may add: two tables, norms of queries and keys, norms after each branch. */
static void write_model(const char *path) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("{\"model_type\":\"gemma3_text\",\"vocab_size\":1,\"hidden_size\":192,\"intermediate_size\":512,"
          "\"num_hidden_layers\":6,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":64,"
          "\"max_position_embeddings\":4096,\"sliding_window\":32}",
          f);
    fclose(f);
}

static tl_train_config config(const char *out) {
    static const char *data[1];
    static char path[512];
    snprintf(path, sizeof path, "%s", in_folder("text.txt"));
    data[0] = path;
    return (tl_train_config){.data = data,
                             .n_data = 1,
                             .out = out,
                             .model = "tiny",
                             .tokenizer = "bytes",
                             .steps = 12,
                             .batch = 8,
                             .seq = 64,
                             .leaves = 1,
                             .threads = 2,
                             .lr = 1e-3,
                             .min_lr_ratio = 0.1,
                             .warmup = 2,
                             .decay_fraction = 0.2,
                             .adamw = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1},
                             .muon_momentum = 0.95,
                             .seed = 1,
                             .document_mask = true,
                             .val_fraction = 0.05,
                             .val_every = 5,
                             .val_samples = 4,
                             .keep = 2,
                             .max_skipped = 3};
}

typedef struct watch {
    long heap_before, heap_between; /* calls seen between the ends of consecutive steps */
    int64_t predicted_bytes, steps;
    double worst_sum, least_data, other[4096];
} watch;

static void on_start(void *user, const tl_train_start *start) {
    watch *w = user;
    w->predicted_bytes = start->memory->total;
}

static void on_step(void *user, const tl_step_metrics *m, int64_t steps, double seconds_left) {
    watch *w = user;
    (void)steps, (void)seconds_left;
    if (w->steps > 0) w->heap_between += atomic_load(&heap_calls) - w->heap_before;
    double sum = 0;
    for (int b = 0; b < TL_BUCKETS; b++) sum += m->totals.seconds[b];
    w->worst_sum = fmax(w->worst_sum, fabs(sum - m->totals.wall_seconds));
    double waited = m->totals.seconds[TL_BUCKET_DATA];
    w->least_data = w->steps ? fmin(w->least_data, waited) : waited;
    w->other[w->steps++ % 4096] = m->totals.seconds[TL_BUCKET_OTHER] / m->totals.wall_seconds;
    w->heap_before = atomic_load(&heap_calls);
}

static int train(const tl_train_config *c, watch *w, tl_train_outcome *outcome, tl_error *err) {
    watch unused = {0};
    tl_train_observer observer = {.user = w ? w : &unused, .started = on_start, .step = on_step};
    *err = (tl_error){0};
    return tl__pretrain(c, &observer, outcome, err);
}

static void slurp(const char *run, const char *name, char **bytes, size_t *n) {
    char path[1024];
    snprintf(path, sizeof path, "%s/checkpoints/latest/%s", run, name);
    assert_int_equal(tl__file_slurp(bytes, n, path, 1 << 30, NULL), 0);
}

static void assert_same_file(const char *a, const char *b, const char *name) {
    char *x, *y;
    size_t nx, ny;
    slurp(a, name, &x, &nx), slurp(b, name, &y, &ny);
    assert_int_equal(nx, ny);
    assert_memory_equal(x, y, nx);
    free(x), free(y);
}

static void assert_same_weights(const char *a, const char *b) {
    assert_same_file(a, b, "model.safetensors");
}

static void flip_byte(const char *path) {
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, -5, SEEK_END);
    int byte = fgetc(f);
    fseek(f, -5, SEEK_END);
    fputc(byte ^ 1, f);
    fclose(f);
}

/* ---- law L4 ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void test_L4_no_heap_call_between_steps(void **state) {
    (void)state;
    for (int more = 0; more < 2; more++) {
        tl_train_config c = config(in_folder(more ? "heap-more" : "heap"));
        tl_train_outcome outcome;
        tl_error err;
        watch w = {0};
        if (more) c.optimizer = TL_OPTIMIZER_MUON, c.ema = 0.9, c.z_loss = 1e-4, c.recompute = TL_RECOMPUTE_FULL;
        assert_int_equal(train(&c, &w, &outcome, &err), 0);
        assert_int_equal(w.steps, 12);
        if (COUNTS_HEAP) {
            assert_true(atomic_load(&heap_calls) > 100); /* the counter counts */
            assert_int_equal(w.heap_between, 0);
        }
    }
}

static void test_L4_buckets_and_rest_are_the_wall(void **state) {
    tl_train_config c = config(in_folder("ledger"));
    tl_train_outcome outcome;
    tl_error err;
    watch w = {0};
    (void)state;
    c.steps = 30;
    assert_int_equal(train(&c, &w, &outcome, &err), 0);
    assert_true(w.worst_sum < 1e-6);
    assert_true(w.least_data > 0); /* every step's wait for its batch has its own bucket */
    qsort(w.other, (size_t)w.steps, sizeof *w.other, by_value);
    assert_true(w.other[w.steps / 2] <= 0.03); /* the median step: one may have been preempted between two spans */
}

static void test_L4_memory_is_known_before(void **state) {
    (void)state;
    if (!COUNTS_HEAP) skip(); /* sanitizers keep shadow memory that is no part of the run */
    static const struct {
        const char *model;
        int batch, seq, leaves;
        tl_recompute recompute;
        tl_optimizer optimizer;
        double ema;
    } runs[] = {{"demo", 8, 256, 1, TL_RECOMPUTE_NONE, TL_OPTIMIZER_ADAMW, 0},
                {"demo", 8, 128, 4, TL_RECOMPUTE_NONE, TL_OPTIMIZER_MUON, 0.99},
                {"nano", 16, 256, 1, TL_RECOMPUTE_NONE, TL_OPTIMIZER_ADAMW, 0},
                {"demo", 8, 256, 1, TL_RECOMPUTE_ATTENTION, TL_OPTIMIZER_ADAMW, 0},
                {"demo", 8, 256, 1, TL_RECOMPUTE_FULL, TL_OPTIMIZER_MUON, 0},
                {"gemma3.json", 8, 128, 1, TL_RECOMPUTE_NONE, TL_OPTIMIZER_ADAMW, 0},
                {"gemma3.json", 8, 128, 1, TL_RECOMPUTE_FULL, TL_OPTIMIZER_ADAMW, 0}};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        int pipes[2];
        char name[32];
        int64_t got[2] = {0};
        assert_int_equal(pipe(pipes), 0);
        pid_t child = fork(); /* a process of its own: RssAnon is the process's */
        if (child == 0) {
            snprintf(name, sizeof name, "memory-%zu", i);
            tl_train_config c = config(in_folder(name));
            tl_train_outcome outcome;
            tl_error err;
            watch w = {0};
            c.model = strchr(runs[i].model, '.') ? in_folder(runs[i].model) : runs[i].model, c.batch = runs[i].batch,
            c.seq = runs[i].seq, c.leaves = runs[i].leaves, c.steps = 2, c.sample_tokens = 16,
            c.recompute = runs[i].recompute, c.optimizer = runs[i].optimizer, c.ema = runs[i].ema;
            int status = train(&c, &w, &outcome, &err);
            int64_t found[2] = {w.predicted_bytes, status ? -1 : outcome.peak_bytes};
            _exit(write(pipes[1], found, sizeof found) == (ssize_t)sizeof found ? 0 : 1);
        }
        assert_int_equal(read(pipes[0], got, sizeof got), sizeof got);
        waitpid(child, NULL, 0);
        close(pipes[0]), close(pipes[1]);
        double slack = fmax(0.02 * (double)got[0], 16 << 20);
        print_message("%s: predicted %.1f MB, seen %.1f MB\n", runs[i].model, (double)got[0] * 1e-6,
                      (double)got[1] * 1e-6);
        assert_true(fabs((double)got[0] - (double)got[1]) <= slack);
    }
}

/* ---- stopping, resuming, refusing ---- */

static void test_stop_and_resume_give_the_same_bits(void **state) {
    (void)state;
    const char *whole = in_folder("whole"), *halves = in_folder("halves");
    tl_train_config c = config(whole);
    tl_train_outcome outcome;
    tl_error err;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    c = config(halves);
    c.stop_after = 7, c.micro_batch = 4;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    assert_true(outcome.stopped);
    assert_int_equal(outcome.steps, 7);
    c.stop_after = 5, c.resume = true; /* where it already is */
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    assert_true(outcome.stopped);
    assert_int_equal(outcome.steps, 7);
    c.stop_after = 0, c.threads = 1;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    assert_int_equal(outcome.steps, 12);
    assert_same_weights(whole, halves);

    c.lr = 2e-3; /* another setting that determines bits: refused, by name */
    assert_int_equal(train(&c, NULL, &outcome, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "'lr' was 0.001"));
}

/* ---- budgets, and the dial ---- */

typedef struct seen_start {
    tl_train_config config;
    int64_t params, steps;
    double flops;
    int width;
} seen_start;

static void see_start(void *user, const tl_train_start *s) {
    *(seen_start *)user = (seen_start){*s->config, s->params, s->steps, s->flops, s->arch->C};
}

static seen_start start_of(const tl_train_config *c) {
    seen_start seen = {0};
    tl_train_observer observer = {.user = &seen, .started = see_start};
    tl_train_outcome outcome;
    tl_error err = {0};
    if (tl__pretrain(c, &observer, &outcome, &err)) fail_msg("%s", err.text);
    return seen;
}

/* A budget of FLOPs is used up to a step, and never overrun; tokens a parameter come out to within a step. */
static void test_budgets_of_flops_and_of_tokens_per_parameter(void **state) {
    (void)state;
    tl_train_config c = config(in_folder("flops"));
    tl_arch arch;
    assert_int_equal(tl__arch_open(&arch, "tiny", NULL), 0);
    arch.V = 257; /* bytes and the end of a text */
    double per_step = tl__arch_model_flops_per_token(&arch, 64) * 8 * 64;
    c.steps = 0, c.flops = 5.99 * per_step;
    seen_start s = start_of(&c);
    assert_int_equal(s.steps, 5);
    assert_true(fabs(s.flops / (5 * per_step) - 1) < 1e-12);
    c = config(in_folder("ratio"));
    c.steps = 0, c.tokens_per_param = 0.03;
    s = start_of(&c);
    double wanted = 0.03 * (double)s.params;
    assert_true((double)(s.steps * 512) >= wanted && (double)((s.steps - 1) * 512) < wanted);
}

static char *name_settings(void *user, const tl_train_config *c) {
    char *text = malloc(256);
    if (text)
        snprintf(text, 256, "%lld %lld %.17g %.17g", (long long)c->batch, (long long)c->tokens, c->lr,
                 c->adamw.weight_decay);
    return text;
}

/* What the dial chooses is written down; what is given wins; and a run resumed with what was written down goes on with
 * the same bits. */
static void test_a_depth_is_a_whole_run(void **state) {
    (void)state;
    char path[512], *text, resolved[256];
    size_t size;
    tl_error err;
    tl_train_outcome outcome;
    const char *whole = in_folder("dialled"), *halves = in_folder("dialled-halves");
    tl_train_config c = config(whole);
    c.model = NULL, c.depth = 2, c.aspect = 16, c.steps = 0, c.tokens_per_param = 0.2;
    c.dialled = TL_DIAL_BATCH | TL_DIAL_LR | TL_DIAL_WEIGHT_DECAY, c.yaml = name_settings;
    seen_start s = start_of(&c);
    assert_int_equal(s.width, 32);
    assert_true(s.config.batch >= 1 && s.config.lr > 1e-3 && s.config.adamw.weight_decay != 0.1);
    assert_int_equal(s.config.tokens, 0); /* the length stays as it was told */
    snprintf(path, sizeof path, "%s/config.yaml", whole);
    assert_int_equal(tl__file_slurp(&text, &size, path, 4096, NULL), 0);
    snprintf(resolved, sizeof resolved, "%lld %lld %.17g %.17g", (long long)s.config.batch, 0LL, s.config.lr,
             s.config.adamw.weight_decay);
    assert_string_equal(text, resolved);
    free(text);

    c.out = halves, c.stop_after = 3;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    assert_true(outcome.stopped);
    c.stop_after = 0, c.resume = true, c.dialled = 0;
    c.batch = s.config.batch, c.lr = s.config.lr, c.adamw.weight_decay = s.config.adamw.weight_decay;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    assert_same_weights(whole, halves);

    c = config(in_folder("dialled-in-part"));
    c.model = NULL, c.depth = 1, c.aspect = 16, c.steps = 0, c.dialled = TL_DIAL_LR;
    c.stop_after = 1;
    s = start_of(&c);
    assert_int_equal(s.config.batch, 8); /* given */
    assert_true(s.config.adamw.weight_decay == 0.1 && s.config.lr != 1e-3);
    assert_int_equal(s.config.tokens, 20 * s.params);
}

/* Muon's momentum and the average are state like any other. */
static void test_stop_and_resume_with_muon_and_average(void **state) {
    const char *whole = in_folder("muon-whole"), *halves = in_folder("muon-halves");
    tl_train_config c = config(whole);
    tl_train_outcome outcome;
    tl_error err;
    (void)state;
    c.optimizer = TL_OPTIMIZER_MUON, c.ema = 0.8, c.z_loss = 1e-3, c.keep = 0;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    c.out = halves, c.stop_after = 7, c.recompute = TL_RECOMPUTE_FULL;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    c.stop_after = 0, c.resume = true, c.threads = 1, c.recompute = TL_RECOMPUTE_ATTENTION;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    assert_int_equal(outcome.steps, 12);
    assert_same_weights(whole, halves);
    assert_same_file(whole, halves, "optimizer.safetensors");
    assert_same_file(whole, halves, "ema/model.safetensors");

    /* The average is a model folder, and not the weights. */
    char path[1024], *average, *weights;
    size_t n, m;
    tl_model model;
    snprintf(path, sizeof path, "%s/checkpoints/latest/ema", whole);
    assert_int_equal(open_model(&model, path, &err), 0);
    tl__model_close(&model);
    slurp(whole, "ema/model.safetensors", &average, &n), slurp(whole, "model.safetensors", &weights, &m);
    assert_int_equal(n, m);
    assert_memory_not_equal(average, weights, n);
    free(average), free(weights);
    slurp(whole, "ema/tokenizer.json", &average, &n), free(average);
    slurp(whole, "../../metrics.jsonl", &average, &n); /* beside checkpoints */
    assert_non_null(strstr(average, "\"z_loss\":"));
    assert_non_null(strstr(average, "\"ema_validation_loss\":"));
    free(average);

    /* Muon's matrices have a momentum and no second moment; the others both. */
    tl_safetensors *file;
    snprintf(path, sizeof path, "%s/checkpoints/latest/optimizer.safetensors", whole);
    assert_int_equal(tl__safetensors_open(&file, path, &err), 0);
    assert_non_null(tl__safetensors_find(file, "momentum_buffer.model.layers.0.mlp.up_proj.weight"));
    assert_null(tl__safetensors_find(file, "exp_avg_sq.model.layers.0.mlp.up_proj.weight"));
    assert_non_null(tl__safetensors_find(file, "exp_avg_sq.model.layers.0.input_layernorm.weight"));
    assert_non_null(tl__safetensors_find(file, "exp_avg.model.embed_tokens.weight"));
    tl__safetensors_close(file);

    c.optimizer = TL_OPTIMIZER_ADAMW; /* another optimizer has no use for this state */
    assert_int_equal(train(&c, NULL, &outcome, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "muon"));
}

/* One bit of one averaged weight: the checkpoint is damaged. */
static void test_a_damaged_average_is_noticed(void **state) {
    const char *out = in_folder("average-damaged");
    char path[1024];
    tl_train_config c = config(out);
    tl_train_outcome outcome;
    tl_error err;
    (void)state;
    c.ema = 0.9, c.stop_after = 6;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    snprintf(path, sizeof path, "%s/checkpoints/step-6/ema/model.safetensors", out);
    flip_byte(path);
    c.stop_after = 0, c.resume = true;
    assert_int_equal(train(&c, NULL, &outcome, &err), TL_EDAMAGED);
}

/* The same laws in bf16: its bits do not depend on who computes them, and the contract is a setting of the run. */
static void test_bf16_stop_and_resume_give_the_same_bits(void **state) {
    (void)state;
    const char *whole = in_folder("bf16-whole"), *halves = in_folder("bf16-halves");
    tl_train_config c = config(whole);
    tl_train_outcome outcome;
    tl_error err;
    c.contract = TL_CONTRACT_BF16;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    c = config(halves);
    c.contract = TL_CONTRACT_BF16, c.stop_after = 7, c.micro_batch = 4;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    c.stop_after = 0, c.resume = true, c.threads = 1;
    const tl_ops *ops;
    if (!tl__ops_select(&ops, "avx2", NULL))
        setenv("TRILITH_ISA", "avx2", 1); /* an emulation ends what the best began */
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    unsetenv("TRILITH_ISA");
    assert_same_weights(whole, halves);

    c.contract = TL_CONTRACT_F32;
    assert_int_equal(train(&c, NULL, &outcome, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "'contract' was \"bf16\""));
}

/* 300 steps from the same weights on the same data: the losses end within 1 % of each other. */
static void test_bf16_learns_as_f32_does(void **state) {
    (void)state;
    if (SANITIZED) skip();
    double loss[2], validation[2];
    for (int contract = TL_CONTRACT_F32; contract <= TL_CONTRACT_BF16; contract++) {
        tl_train_config c = config(in_folder(contract == TL_CONTRACT_BF16 ? "learns-bf16" : "learns-f32"));
        tl_train_outcome outcome;
        tl_error err;
        c.contract = (tl_contract)contract, c.steps = 300, c.val_every = 300, c.val_samples = 64, c.lr = 3e-3;
        assert_int_equal(train(&c, NULL, &outcome, &err), 0);
        loss[contract] = outcome.loss, validation[contract] = outcome.validation_loss;
    }
    print_message("loss %.5f in f32, %.5f in bf16; validation %.5f, %.5f\n", loss[0], loss[1], validation[0],
                  validation[1]);
    assert_true(loss[0] < 2.5); /* something was learnt */
    assert_true(loss[0] != loss[1] && fabs(loss[1] / loss[0] - 1) < 0.01);
    assert_true(fabs(validation[1] / validation[0] - 1) < 0.01);
}

static void test_a_run_folder_is_not_written_over(void **state) {
    (void)state;
    tl_train_config c = config(in_folder("once"));
    tl_train_outcome outcome;
    tl_error err;
    c.steps = 2;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    assert_int_equal(train(&c, NULL, &outcome, &err), TL_EEXISTS);
    assert_non_null(strstr(err.text, "--resume"));
}

static void test_a_damaged_checkpoint_is_passed_over(void **state) {
    (void)state;
    const char *out = in_folder("damaged"), *whole = in_folder("undamaged");
    char path[1024];
    tl_train_config c = config(whole);
    tl_train_outcome outcome;
    tl_error err;
    c.steps = 9;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    c.out = out, c.checkpoint_every = 3, c.stop_after = 6;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0);
    snprintf(path, sizeof path, "%s/checkpoints/step-6/model.safetensors", out);
    flip_byte(path); /* one bit of one weight */
    c.stop_after = 0, c.resume = true;
    assert_int_equal(train(&c, NULL, &outcome, &err), 0); /* from step 3 */
    assert_same_weights(whole, out);
}

static void test_refusals_are_sentences(void **state) {
    (void)state;
    tl_train_outcome outcome;
    tl_error err;
    static const char *missing[] = {"/nonexistent/text.txt"};
    struct {
        tl_train_config c;
        const char *says;
    } cases[11];
    int n = 0;
    tl_train_config base = config(in_folder("refused"));
    cases[n].c = base, cases[n].c.data = missing, cases[n++].says = "/nonexistent/text.txt";
    cases[n].c = base, cases[n].c.seq = 100000, cases[n++].says = "100000";
    cases[n].c = base, cases[n].c.leaves = 3, cases[n++].says = "power of two";
    cases[n].c = base, cases[n].c.leaves = 16, cases[n++].says = "16 leaves";
    cases[n].c = base, cases[n].c.micro_batch = 3, cases[n++].says = "use 4";
    cases[n].c = base, cases[n].c.model = "tinny", cases[n++].says = "did you mean 'tiny'";
    cases[n].c = base, cases[n].c.tokenizer = "bpe:12", cases[n++].says = "bpe:N";
    cases[n].c = base, cases[n].c.tokens = 5, cases[n++].says = "one of --steps, --tokens";
    cases[n].c = base, cases[n].c.flops = 1e12, cases[n++].says = "--flops and --tokens-per-param, not 2";
    cases[n].c = base, cases[n].c.steps = 0, cases[n].c.flops = 1e6, cases[n++].says = "less than one step";
    cases[n].c = base, cases[n].c.depth = 1000, cases[n++].says = "--depth 1000";
    for (int i = 0; i < n; i++) {
        assert_true(train(&cases[i].c, NULL, &outcome, &err) < 0);
        if (!strstr(err.text, cases[i].says)) fail_msg("'%s' does not mention '%s'", err.text, cases[i].says);
        tl__folder_remove(in_folder("refused"), NULL);
    }
}

static void test_steps_that_are_not_finite(void **state) {
    (void)state;
    tl_train_config c = config(in_folder("infinite"));
    tl_train_outcome outcome;
    tl_error err;
    c.lr = 90, c.adamw.clip = 0, c.warmup = 0, c.steps = 400, c.schedule = TL_SCHEDULE_CONSTANT;
    c.adamw.eps = 0, c.adamw.weight_decay = 90; /* w ← w·(1 − 8100): overflows within a dozen steps */
    assert_int_equal(train(&c, NULL, &outcome, &err), TL_ENONFINITE);
    assert_true(outcome.skipped >= 3);
    assert_non_null(strstr(err.text, "3 steps in a row"));
}

/* A file system of 1 MiB: the text is elsewhere, the checkpoint does not fit. */
static void test_a_full_disk_costs_no_checkpoint(void **state) {
    (void)state;
    const char *disk = in_folder("disk");
    tl_error err;
    assert_int_equal(tl__folder_make(disk, &err), 0);
    if (mount("tmpfs", disk, "tmpfs", 0, "size=3500k")) skip(); /* not root */
    char out[512], path[1024];
    snprintf(out, sizeof out, "%s/run", disk);
    tl_train_config c = config(out);
    tl_train_outcome outcome;
    c.checkpoint_every = 4, c.keep = 0,
    c.cache = in_folder("cache"); /* step-4 fits (1.3 MB), step-8 too, step-12 does not */
    int status = train(&c, NULL, &outcome, &err);
    assert_int_equal(status, TL_ENOSPACE);
    assert_non_null(strstr(err.text, "earlier ones are intact"));
    snprintf(path, sizeof path, "%s/checkpoints/step-4/manifest.json", out);
    assert_true(tl__path_exists(path));
    snprintf(path, sizeof path, "%s/checkpoints/.step-12.partial", out);
    assert_false(tl__path_exists(path));
    umount(disk);
}

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/trilith-pretrain-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    write_text(in_folder("text.txt"), 3000);
    write_model(in_folder("gemma3.json"));
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    return tl__folder_remove(folder, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_L4_memory_is_known_before),
        cmocka_unit_test(test_L4_no_heap_call_between_steps),
        cmocka_unit_test(test_L4_buckets_and_rest_are_the_wall),
        cmocka_unit_test(test_stop_and_resume_give_the_same_bits),
        cmocka_unit_test(test_budgets_of_flops_and_of_tokens_per_parameter),
        cmocka_unit_test(test_a_depth_is_a_whole_run),
        cmocka_unit_test(test_stop_and_resume_with_muon_and_average),
        cmocka_unit_test(test_a_damaged_average_is_noticed),
        cmocka_unit_test(test_bf16_stop_and_resume_give_the_same_bits),
        cmocka_unit_test(test_bf16_learns_as_f32_does),
        cmocka_unit_test(test_a_run_folder_is_not_written_over),
        cmocka_unit_test(test_a_damaged_checkpoint_is_passed_over),
        cmocka_unit_test(test_refusals_are_sentences),
        cmocka_unit_test(test_steps_that_are_not_finite),
        cmocka_unit_test(test_a_full_disk_costs_no_checkpoint),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
