/* test_checkpoint.c — checkpoints written by several ranks, each played by a saver of its own in this process: what
 * they write together is read by any, is a model folder, and is there wholly or not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "base/json.h"
#include "base/log.h"
#include "base/rng.h"
#include "files.h"
#include "train/checkpoint_format.h"
#include "open_model.h"

enum { MOST_RANKS = 4 };

static const char config[] =
    "{\"model_type\":\"llama\",\"vocab_size\":300,\"hidden_size\":32,\"intermediate_size\":80,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"max_position_embeddings\":96,\"rms_norm_eps\":1e-5,"
    "\"rope_theta\":10000,\"tie_word_embeddings\":false,\"bos_token_id\":256,\"eos_token_id\":256}";

/* ---- a run's state, as each rank holds it ---- */

typedef struct rank_state {
    tl_model model;
    tl_arena arena;
    tl_train_memory memory;
} rank_state;

static void fill(float *x, int64_t n, uint64_t seed) {
    tl__normal_fill(x, (size_t)n, 0.0f, 1.0f, seed, 0, 0);
}

static void open_state(rank_state *r, tl_optimizer optimizer, tl_shard shard, int rank, int ranks) {
    tl_arch arch;
    tl_error err;
    tl_train_shape shape = {.batch = 4,
                            .T = 16,
                            .micro_batch = 1,
                            .leaves = 4,
                            .max_documents = 1,
                            .threads = 1,
                            .optimizer = optimizer,
                            .average = true,
                            .ranks = ranks,
                            .rank = rank,
                            .shard = shard};
    if (tl__arch_parse(&arch, config, sizeof config - 1, "config", &err)) fail_msg("%s", err.text);
    tl_arena dry = tl__arena_dry();
    tl__train_place(&r->memory, &dry, &arch, &shape);
    assert_int_equal(tl__arena_open(&r->arena, dry.used_bytes, &err), 0);
    tl__train_place(&r->memory, &r->arena, &arch, &shape);
    const int *owner = shard == TL_SHARD_ZERO3 ? r->memory.owner : NULL;
    assert_int_equal(tl__model_create_owned(&r->model, &arch, 16, owner, rank, &err), 0);
}

static void close_state(rank_state *r) {
    tl__arena_close(&r->arena);
    tl__model_close(&r->model);
}

/* The same numbers wherever a tensor is kept: a function of its name's place in the sets. */
static void write_state(rank_state *r, tl_optimizer optimizer, uint64_t seed) {
    tl_tensor_sets sets;
    assert_int_equal(tl__tensor_sets_open(&sets, &r->model, &r->memory, optimizer, NULL), 0);
    for (int k = 0; k < TL_SETS; k++)
        for (int i = 0; i < sets.set[k].n; i++) {
            const tl_tensor_out *t = &sets.set[k].tensors[i];
            if (t->data)
                fill((float *)(uintptr_t)t->data, tl__tensor_bytes(t) / 4, seed + 1000 * (uint64_t)k + (uint64_t)i);
        }
    tl__tensor_sets_close(&sets);
}

/* Tensors that both keep; adds how many those are. */
static void assert_same_state(rank_state *a, rank_state *b, tl_optimizer optimizer, int *all) {
    tl_tensor_sets x, y;
    int compared = 0;
    assert_int_equal(tl__tensor_sets_open(&x, &a->model, &a->memory, optimizer, NULL), 0);
    assert_int_equal(tl__tensor_sets_open(&y, &b->model, &b->memory, optimizer, NULL), 0);
    for (int k = 0; k < TL_SETS; k++) {
        assert_int_equal(x.set[k].n, y.set[k].n);
        for (int i = 0; i < x.set[k].n; i++) {
            const tl_tensor_out *t = &x.set[k].tensors[i], *u = &y.set[k].tensors[i];
            assert_string_equal(t->name, u->name);
            if (!t->data || !u->data) continue;
            assert_memory_equal(t->data, u->data, (size_t)tl__tensor_bytes(t));
            compared++;
        }
    }
    *all += compared;
    tl__tensor_sets_close(&x);
    tl__tensor_sets_close(&y);
}

/* ---- a job of several ranks ---- */

typedef struct job {
    int ranks;
    tl_optimizer optimizer;
    rank_state state[MOST_RANKS];
    tl_saver *saver[MOST_RANKS];
    unsigned char *parts;
} job;

static void open_job(job *j, const char *where, int ranks, tl_optimizer optimizer, tl_shard shard, uint64_t seed,
                     uint64_t run_id) {
    *j = (job){.ranks = ranks, .optimizer = optimizer};
    for (int r = 0; r < ranks; r++) {
        tl_error err;
        open_state(&j->state[r], optimizer, shard, r, ranks);
        write_state(&j->state[r], optimizer, seed);
        tl_saver_options o = {.folder = where,
                              .model = &j->state[r].model,
                              .memory = &j->state[r].memory,
                              .optimizer = optimizer,
                              .settings_json = "{\"seed\": 1}",
                              .keep = 2,
                              .rank = r,
                              .ranks = ranks,
                              .run_id = run_id};
        if (tl__saver_open(&j->saver[r], &o, &err)) fail_msg("%s", err.text);
    }
}

static void close_job(job *j) {
    for (int r = 0; r < j->ranks; r++) tl__saver_close(j->saver[r]);
    for (int r = 0; r < j->ranks; r++) close_state(&j->state[r]);
    free(j->parts);
}

static void start(job *j, int64_t step) {
    tl_train_state state = {.step = step, .samples = 10 * step};
    for (int r = 0; r < j->ranks; r++) tl__saver_start(j->saver[r], &state);
}

/* Carry every rank's part to every rank. Returns the status, which is the same for all. */
static int join(job *j, tl_error *err) {
    size_t bytes = 0;
    int status = 0;
    for (int r = 0; r < j->ranks; r++) {
        const void *part = tl__saver_part(j->saver[r], &bytes);
        if (!j->parts) j->parts = malloc(bytes * (size_t)j->ranks);
        memcpy(j->parts + bytes * (size_t)r, part, bytes);
    }
    for (int r = 0; r < j->ranks; r++) {
        tl_error its = {0};
        int got = tl__saver_join(j->saver[r], j->parts, &its);
        assert_true(r == 0 || got == status);
        assert_true(r == 0 || strcmp(its.text, err->text) == 0);
        status = got, *err = its;
    }
    return status;
}

static int published(job *j, tl_error *err) {
    int status = 0;
    for (int r = j->ranks - 1; r >= 0; r--) status = tl__saver_wait_published(j->saver[r], err);
    return status; /* rank 0's */
}

static void save(job *j, int64_t step) {
    tl_error err = {0};
    start(j, step);
    if (j->ranks > 1 && join(j, &err)) fail_msg("%s", err.text);
    if (published(j, &err)) fail_msg("%s", err.text);
}

/* The newest intact step, read into a fresh state of one of `ranks` ranks. */
static int64_t load(rank_state *into, const char *where, tl_optimizer optimizer, tl_shard shard, int rank, int ranks) {
    char path[512], *settings;
    tl_train_state state = {0};
    tl_error err = {0};
    if (tl__checkpoint_find(where, NULL, 0, path, sizeof path, &state, &settings, &err)) fail_msg("%s", err.text);
    assert_string_equal(settings, "{\"seed\":1}");
    free(settings);
    assert_int_equal(state.samples, 10 * state.step);
    open_state(into, optimizer, shard, rank, ranks);
    if (tl__checkpoint_load(path, NULL, 0, &into->model, &into->memory, optimizer, &err)) fail_msg("%s", err.text);
    return state.step;
}

static int entries(const char *where) {
    char command[600];
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", where);
    FILE *f = popen(command, "r");
    int n = -1;
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%d", &n), 1);
    pclose(f);
    return n;
}

/* ---- the tests ---- */

/* Written by P ranks in any way of sharding, read by Q in any other: the same state. */
static void any_ranks_read_what_any_wrote(void **state) {
    static const int counts[] = {1, 2, 3, 4};
    (void)state;
    for (int optimizer = 0; optimizer < TL_OPTIMIZERS; optimizer++)
        for (int p = 0; p < 4; p++) {
            char name[32];
            snprintf(name, sizeof name, "any-%d-%d", optimizer, p);
            const char *where = in_folder(name);
            job j;
            tl_shard wrote = (tl_shard)((p + optimizer) % TL_SHARDS);
            open_job(&j, where, counts[p], (tl_optimizer)optimizer, wrote, 7, 0xabc);
            save(&j, 5);
            for (int q = 0; q < 4; q++) {
                tl_shard reads = (tl_shard)(3 - q);
                int compared = 0, sets = optimizer == TL_OPTIMIZER_ADAMW ? 4 : 3; /* tensors a parameter, at least */
                for (int r = 0; r < counts[q]; r++) {
                    rank_state got;
                    assert_int_equal(load(&got, where, (tl_optimizer)optimizer, reads, r, counts[q]), 5);
                    for (int w = 0; w < counts[p]; w++)
                        assert_same_state(&j.state[w], &got, (tl_optimizer)optimizer, &compared);
                    close_state(&got);
                }
                assert_true(compared >= sets * j.state[0].model.params.n); /* all that is, at least once */
            }
            close_job(&j);
        }
}

/* A model folder to whoever opens one, with the same hash as the one that a single rank writes. */
static void shards_are_a_model_folder(void **state) {
    tl_hash hash[2][3];
    (void)state;
    for (int i = 0; i < 2; i++) {
        static const char *const sub[] = {"step-3", "step-3/ema"};
        const char *where = in_folder(i ? "folder-3" : "folder-1");
        char path[512];
        job j;
        tl_model model;
        tl_safetensors *file;
        tl_error err;
        open_job(&j, where, i ? 3 : 1, TL_OPTIMIZER_ADAMW, TL_SHARD_ZERO1, 7, 1);
        save(&j, 3);
        for (int k = 0; k < 2; k++) {
            tl__path_join(path, sizeof path, where, sub[k]);
            assert_int_equal(open_model(&model, path, &err), 0);
            tl__model_close(&model);
            assert_int_equal(tl__safetensors_open(&file, path, &err), 0);
            assert_int_equal(tl__safetensors_files(file), i ? 3 : 1);
            assert_int_equal(tl__safetensors_hash(file, &hash[i][k], &err), 0);
            tl__safetensors_close(file);
        }
        tl__path_join(path, sizeof path, where, "step-3");
        assert_int_equal(tl__safetensors_open_in(&file, path, TL_OPTIMIZER_NAME, &err), 0);
        assert_int_equal(tl__safetensors_hash(file, &hash[i][2], &err), 0);
        tl__safetensors_close(file);
        assert_int_equal(entries(where), 2); /* step-3, latest */
        close_job(&j);
    }
    for (int k = 0; k < 3; k++) assert_string_equal(hash[0][k].hex, hash[1][k].hex);
}

/* One bit of any one shard, or a shard that is gone: named, and the checkpoint before it is taken. */
static void a_damaged_shard_is_passed_over(void **state) {
    static const char *const shards[] = {"model-00002-of-00003.safetensors", "optimizer-00003-of-00003.safetensors",
                                         "ema/model-00001-of-00003.safetensors"};
    const char *where = in_folder("damaged");
    char path[512];
    job j;
    rank_state got;
    (void)state;
    open_job(&j, where, 3, TL_OPTIMIZER_ADAMW, TL_SHARD_ZERO1, 7, 1);
    save(&j, 1);
    for (int r = 0; r < 3; r++) write_state(&j.state[r], TL_OPTIMIZER_ADAMW, 70);
    save(&j, 2);
    assert_int_equal(load(&got, where, TL_OPTIMIZER_ADAMW, TL_SHARD_NONE, 0, 1), 2);
    close_state(&got);
    for (int i = 0; i < 3; i++)
        for (int way = 0; way < 3; way++) { /* a bit; the file cut short; the file gone; then as it was */
            char *bytes, step[600];
            size_t n;
            snprintf(step, sizeof step, "%s/step-2", where);
            tl__path_join(path, sizeof path, step, shards[i]);
            assert_int_equal(tl__file_slurp(&bytes, &n, path, 1 << 24, NULL), 0);
            bytes[n - 9] ^= 1;
            if (way == 2) assert_int_equal(remove(path), 0);
            else assert_int_equal(tl__file_publish(path, bytes, way == 1 ? n - 1 : n, NULL), 0);
            assert_int_equal(load(&got, where, TL_OPTIMIZER_ADAMW, TL_SHARD_NONE, 0, 1), 1);
            close_state(&got);
            bytes[n - 9] ^= 1;
            assert_int_equal(tl__file_publish(path, bytes, n, NULL), 0);
            free(bytes);
        }
    assert_int_equal(load(&got, where, TL_OPTIMIZER_ADAMW, TL_SHARD_NONE, 0, 1), 2);
    close_state(&got);

    /* Damage after it was found: loading holds against the manifest what it reads. */
    tl_error err = {0};
    tl__path_join(path, sizeof path, where, "step-2/optimizer-00002-of-00003.safetensors");
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, -3, SEEK_END);
    fputc(77, f);
    fclose(f);
    open_state(&got, TL_OPTIMIZER_ADAMW, TL_SHARD_NONE, 0, 1);
    tl__path_join(path, sizeof path, where, "step-2");
    assert_int_equal(tl__checkpoint_load(path, NULL, 0, &got.model, &got.memory, TL_OPTIMIZER_ADAMW, &err),
                     TL_EDAMAGED);
    assert_non_null(strstr(err.text, "optimizer-00002-of-00003.safetensors: tensor 'exp_avg"));
    close_state(&got);
    close_job(&j);
}

/* A rank that cannot write its part fails the save for all, with one sentence; what was there stays, and the next save
 * succeeds. */
static void one_rank_fails_all(void **state) {
    const char *where = in_folder("one-fails");
    char blocked[512];
    job j;
    rank_state got;
    tl_error err = {0};
    (void)state;
    open_job(&j, where, 3, TL_OPTIMIZER_ADAMW, TL_SHARD_ZERO1, 7, 0x2a);
    save(&j, 1);
    /* A folder where rank 2's file should go: its rename fails. */
    tl__path_join(blocked, sizeof blocked, where,
                  ".step-2.000000000000002a.partial/optimizer-00003-of-00003.safetensors/x");
    assert_int_equal(tl__folder_make(blocked, NULL), 0);
    start(&j, 2);
    assert_true(join(&j, &err) < 0);
    assert_non_null(strstr(err.text, "rank 2: "));
    assert_non_null(strstr(err.text, "optimizer-00003-of-00003.safetensors"));
    assert_int_equal(published(&j, &err), 0); /* said where they joined, and only there */
    assert_int_equal(entries(where), 2);      /* step-1, latest */
    assert_int_equal(load(&got, where, TL_OPTIMIZER_ADAMW, TL_SHARD_NONE, 0, 1), 1);
    close_state(&got);
    save(&j, 3);
    assert_int_equal(load(&got, where, TL_OPTIMIZER_ADAMW, TL_SHARD_NONE, 0, 1), 3);
    close_state(&got);

    /* Rank 0 cannot publish: the same. */
    tl__path_join(blocked, sizeof blocked, where, ".step-4.000000000000002a.partial/manifest.json/x");
    assert_int_equal(tl__folder_make(blocked, NULL), 0);
    start(&j, 4);
    assert_int_equal(join(&j, &err), 0);
    assert_true(published(&j, &err) < 0);
    assert_non_null(strstr(err.text, "manifest.json"));
    assert_int_equal(load(&got, where, TL_OPTIMIZER_ADAMW, TL_SHARD_NONE, 0, 1), 3);
    close_state(&got);
    assert_int_equal(entries(where), 3); /* step-1, step-3, latest */
    save(&j, 5);
    assert_int_equal(entries(where), 3); /* keep 2 */
    close_job(&j);
}

/* A job that ends while its ranks wait for each other leaves nothing, and another run's part is no part of this one. */
static void no_save_by_halves(void **state) {
    const char *where = in_folder("halves"), *elsewhere = in_folder("elsewhere");
    job j, other;
    tl_error err = {0};
    rank_state got;
    (void)state;
    open_job(&j, where, 2, TL_OPTIMIZER_MUON, TL_SHARD_ZERO1, 7, 1);
    save(&j, 1);
    start(&j, 2);
    size_t bytes;
    for (int r = 0; r < 2; r++) tl__saver_part(j.saver[r], &bytes);
    close_job(&j);
    assert_int_equal(entries(where), 2);
    assert_int_equal(load(&got, where, TL_OPTIMIZER_MUON, TL_SHARD_NONE, 0, 1), 1);
    close_state(&got);

    open_job(&j, where, 2, TL_OPTIMIZER_MUON, TL_SHARD_ZERO1, 7, 1);
    open_job(&other, elsewhere, 2, TL_OPTIMIZER_MUON, TL_SHARD_ZERO1, 7, 2);
    start(&j, 3), start(&other, 3);
    j.parts = malloc(2 * 1);
    const void *mine = tl__saver_part(j.saver[0], &bytes);
    j.parts = realloc(j.parts, 2 * bytes);
    memcpy(j.parts, mine, bytes);
    memcpy(j.parts + bytes, tl__saver_part(other.saver[1], &bytes), bytes);
    assert_int_equal(tl__saver_join(j.saver[0], j.parts, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "rank 1 wrote step 3 of run 0000000000000002 where"));
    assert_int_equal(tl__saver_wait_published(j.saver[0], &err), 0);
    close_job(&j);
    close_job(&other);
    assert_int_equal(load(&got, where, TL_OPTIMIZER_MUON, TL_SHARD_NONE, 0, 1), 1);
    close_state(&got);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_ranks_read_what_any_wrote),
        cmocka_unit_test(shards_are_a_model_folder),
        cmocka_unit_test(a_damaged_shard_is_passed_over),
        cmocka_unit_test(one_rank_fails_all),
        cmocka_unit_test(no_save_by_halves),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
