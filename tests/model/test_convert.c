/* test_convert.c — a converted model is the model: llama.cpp's converter's bytes from a folder, the folder's own on the
 * way back, ggml's blocks where the type changes; and what would not be kept is refused by tensor. */
#include "vectors.h"
#include <dirent.h>
#include "base/blocks.h"
#include "base/rng.h"
#include "files.h"
#include "model/convert.h"
#include "model/gguf_model.h"
#include "model/source.h"

static tl_pool *pool;

static int begin(void **state) {
    tl_error err = {0};
    return tl__pool_open(&pool, 2, &err) ? -1 : make_folder(state);
}

static int finish(void **state) {
    tl__pool_close(pool);
    return remove_folder(state);
}

static int convert(const char *in, const char *out, tl_type type, int64_t shard_bytes, tl_error *err) {
    const tl_convert job = {in, out, type, shard_bytes, true, pool};
    tl_converted done;
    return tl__convert(&job, &done, err);
}

static void converted(const char *in, const char *out, tl_type type, int64_t shard_bytes) {
    tl_error err = {0};
    if (convert(in, out, type, shard_bytes, &err)) fail_msg("%s to %s: %s", in, out, err.text);
}

static tl_gguf *gguf(const char *path) {
    tl_gguf *g;
    tl_error err = {0};
    if (tl__gguf_open(&g, path, &err)) fail_msg("%s", err.text);
    return g;
}

static tl_hash hash_of(const char *path) {
    tl_safetensors *st;
    tl_error err = {0};
    tl_hash hash;
    if (tl__safetensors_open(&st, path, &err) || tl__safetensors_hash(st, &hash, &err)) fail_msg("%s", err.text);
    tl__safetensors_close(st);
    return hash;
}

/* ---- between the forms ---- */

static void as_llama_cpp_converts(void **state) {
    (void)state;
    static const char *const names[] = {"llama3", "mixtral", "qwen2",   "gemma3",    "gpt2-tied", "qwen3",
                                        "olmoe",  "gemma2",  "smollm3", "qwen3-moe", "mistral"};
    int same = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char from[1024], theirs[1024];
        tl_error err = {0};
        snprintf(from, sizeof from, TL_SOURCE_DIR "/tests/vectors/gguf-models/%s", names[i]);
        if (!tl__path_exists(from)) snprintf(from, sizeof from, TL_SOURCE_DIR "/tests/vectors/%s", names[i]);
        snprintf(theirs, sizeof theirs, TL_SOURCE_DIR "/tests/vectors/gguf-models/%s.gguf", names[i]);
        int rc = convert(from, in_folder("ours.gguf"), TL_F16, 0, &err);
        if (rc == TL_EUNSUPPORTED && strstr(err.text, "sliding_window")) continue; /* their converter drops it */
        if (rc) fail_msg("%s", err.text);
        tl_gguf *a = gguf(in_folder("ours.gguf")), *b = gguf(theirs);
        assert_int_equal(tl__gguf_count(a), tl__gguf_count(b));
        for (int k = 0; k < tl__gguf_count(b); k++) {
            const tl_tensor_info *want = tl__gguf_tensor_at(b, k), *got = tl__gguf_tensor(a, want->name);
            if (!got || got->type != want->type || got->dims != want->dims ||
                memcmp(got->shape, want->shape, sizeof *got->shape * (size_t)got->dims))
                fail_msg("%s: %s is another tensor", names[i], want->name);
            const void *x = tl__gguf_data(a, got), *y = tl__gguf_data(b, want);
            if (strcmp(want->name, "rope_freqs.weight") == 0) { /* computed, there in f32 */
                for (int64_t e = 0; e < want->size_bytes / 4; e++)
                    assert_true(fabsf(((const float *)x)[e] - ((const float *)y)[e]) <= 1e-6f * ((const float *)y)[e]);
            } else if (memcmp(x, y, (size_t)want->size_bytes)) {
                fail_msg("%s: %s has other bytes", names[i], want->name);
            }
        }
        same++;
        tl__gguf_close(a), tl__gguf_close(b);
    }
    assert_int_equal(same, 10);
}

/* A folder, a GGUF file of it, and a folder of that: the same bits, but for Gemma's gains, which lose what adding 1 and
 * taking it away loses. */
static int back_from_all_of(const char *home) {
    DIR *all = opendir(home);
    int n = 0;
    assert_non_null(all);
    for (struct dirent *e; (e = readdir(all));) {
        char from[1024];
        tl_error err = {0};
        snprintf(from, sizeof from, "%s/%s/config.json", home, e->d_name);
        if (!tl__path_exists(from)) continue;
        *strrchr(from, '/') = 0;
        int rc = convert(from, in_folder("there.gguf"), TL_TYPES, 0, &err);
        if (rc == TL_EUNSUPPORTED && strstr(err.text, "'")) continue; /* a field that GGUF cannot say, by name */
        if (rc) fail_msg("%s", err.text);
        converted(in_folder("there.gguf"), in_folder("back"), TL_TYPES, 0);
        tl_arch arch, again;
        if (tl__arch_open(&arch, from, &err) || tl__arch_open(&again, in_folder("back"), &err))
            fail_msg("%s", err.text);
        assert_true(arch.L == again.L && arch.V == again.V && arch.tied == again.tied && arch.layout == again.layout);
        assert_memory_equal(arch.layer, again.layer, sizeof arch.layer);
        if (arch.gain_add == 0) {
            assert_string_equal(hash_of(from).hex, hash_of(in_folder("back")).hex);
        } else {
            tl_safetensors *a, *b;
            assert_int_equal(tl__safetensors_open(&a, from, NULL), 0);
            assert_int_equal(tl__safetensors_open(&b, in_folder("back"), NULL), 0);
            for (int i = 0; i < tl__safetensors_count(a); i++) {
                const tl_tensor_info *x = tl__safetensors_at(a, i), *y = tl__safetensors_find(b, x->name);
                assert_non_null(y);
                const float *p = tl__safetensors_data(a, x), *q = tl__safetensors_data(b, y);
                for (int64_t k = 0; k < x->size_bytes / 4; k++)
                    if (strstr(x->name, "norm") ? q[k] != (p[k] + 1) - 1 : q[k] != p[k])
                        fail_msg("%s differs", x->name);
            }
            tl__safetensors_close(a), tl__safetensors_close(b);
        }
        n++;
    }
    closedir(all);
    return n;
}

static void there_and_back(void **state) {
    (void)state;
    assert_true(back_from_all_of(TL_SOURCE_DIR "/tests/vectors") >= 8);
    assert_int_equal(back_from_all_of(TL_SOURCE_DIR "/tests/vectors/gguf-models"), 4);
}

/* ---- within a form ---- */

static void folders_keep_their_bits(void **state) {
    (void)state;
    static const char from[] = TL_SOURCE_DIR "/tests/vectors/llama-gqa";
    const tl_hash want = hash_of(from);
    char *a, *b;
    size_t n, m;
    converted(from, in_folder("parts"), TL_TYPES, 20000);
    assert_true(tl__path_exists(in_folder("parts/model-00002-of-00003.safetensors")) ||
                tl__path_exists(in_folder("parts/model.safetensors.index.json")));
    assert_string_equal(hash_of(in_folder("parts")).hex, want.hex);
    converted(in_folder("parts"), in_folder("whole"), TL_TYPES, 0);
    assert_true(tl__path_exists(in_folder("whole/model.safetensors")));
    assert_string_equal(hash_of(in_folder("whole")).hex, want.hex);
    assert_int_equal(tl__file_slurp(&a, &n, TL_SOURCE_DIR "/tests/vectors/llama-gqa/config.json", 1 << 20, NULL), 0);
    assert_int_equal(tl__file_slurp(&b, &m, in_folder("whole/config.json"), 1 << 20, NULL), 0);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    free(a), free(b);

    converted(from, in_folder("half"), TL_BF16, 0);
    tl_safetensors *x, *y;
    assert_int_equal(tl__safetensors_open(&x, from, NULL), 0);
    assert_int_equal(tl__safetensors_open(&y, in_folder("half"), NULL), 0);
    for (int i = 0; i < tl__safetensors_count(x); i++) {
        const tl_tensor_info *t = tl__safetensors_at(x, i), *u = tl__safetensors_at(y, i);
        uint16_t *rounded = malloc((size_t)t->size_bytes / 2);
        tl__narrow(rounded, TL_BF16, tl__safetensors_data(x, t), t->size_bytes / 4);
        assert_int_equal(u->type, TL_BF16);
        assert_memory_equal(rounded, tl__safetensors_data(y, u), (size_t)u->size_bytes);
        free(rounded);
    }
    tl__safetensors_close(x), tl__safetensors_close(y);
    assert_int_equal(tl__file_slurp(&b, &m, in_folder("half/config.json"), 1 << 20, NULL), 0);
    assert_non_null(strstr(b, "\"bfloat16\""));
    free(b);
}

/* A file of a family that nobody knows, its matrices of several widths. */
static const struct {
    const char *name;
    int dims;
    int64_t shape[3];
    tl_type q4_k; /* what asking for Q4_K makes of it */
} parts[] = {
    {"blk.0.ffn_up.weight", 2, {5, 512}, TL_Q4_K},
    {"blk.0.ffn_up_exps.weight", 3, {2, 3, 256}, TL_Q4_K},
    {"blk.0.attn_norm.weight", 1, {512}, TL_F32},
    {"blk.0.ffn_gate_inp.weight", 2, {3, 256}, TL_F32},
    {"narrow.weight", 2, {3, 96}, TL_Q5_0},
    {"odd.weight", 2, {2, 48}, TL_F16},
    {"blk.0.attn_q_norm.weight", 2, {2, 256}, TL_F32},
    {"something.bias", 2, {2, 256}, TL_F32},
};
enum { PARTS = sizeof parts / sizeof *parts, MOST = 4096 };

static void make_unknown(const char *path, float at_odds) {
    tl_gguf_out *out;
    tl_error err = {0};
    static float x[MOST];
    const tl_gguf_text name = {"nobody", 6};
    assert_int_equal(tl__gguf_create(&out, path, &err), 0);
    tl__gguf_put(out, "general.architecture", TL_GGUF_STRING, false, NULL, &name, 1, &err);
    tl__gguf_put(out, "general.file_type", TL_GGUF_U32, false, &(uint32_t){0}, NULL, 1, &err);
    tl__gguf_put(out, "nobody.key", TL_GGUF_F64, false, &(double){0.1}, NULL, 1, &err);
    for (int i = 0; i < PARTS; i++) tl__gguf_declare(out, parts[i].name, TL_F32, parts[i].dims, parts[i].shape, &err);
    for (int i = 0; i < PARTS; i++) {
        int64_t n = 1;
        for (int d = 0; d < parts[i].dims; d++) n *= parts[i].shape[d];
        for (int64_t k = 0; k < n; k++) x[k] = (float)((k * 7919 + i * 104729) % 2003 - 1001) / 512;
        if (i == 0) x[700] = at_odds;
        assert_int_equal(tl__gguf_write(out, x, (size_t)n * 4, &err), 0);
    }
    if (tl__gguf_publish(out, &err)) fail_msg("%s", err.text);
}

static void requantises_any_gguf(void **state) {
    (void)state;
    make_unknown(in_folder("in.gguf"), 0.5f);
    converted(in_folder("in.gguf"), in_folder("q.gguf"), TL_Q4_K, 0);
    converted(in_folder("q.gguf"), in_folder("same.gguf"), TL_TYPES, 0);
    tl_gguf *a = gguf(in_folder("in.gguf")), *b = gguf(in_folder("q.gguf")), *c = gguf(in_folder("same.gguf"));
    assert_int_equal(tl__gguf_count(b), PARTS);
    for (int i = 0; i < PARTS; i++) {
        const tl_tensor_info *x = tl__gguf_tensor_at(a, i), *y = tl__gguf_tensor_at(b, i),
                             *z = tl__gguf_tensor_at(c, i);
        unsigned char want[MOST * 4];
        assert_string_equal(x->name, y->name);
        assert_int_equal(y->type, parts[i].q4_k);
        tl__narrow(want, y->type, tl__gguf_data(a, x), x->size_bytes / 4);
        assert_memory_equal(want, tl__gguf_data(b, y), (size_t)y->size_bytes);
        assert_true(z->type == y->type && z->size_bytes == y->size_bytes);
        assert_memory_equal(want, tl__gguf_data(c, z), (size_t)z->size_bytes);
    }
    int64_t type;
    double real;
    assert_true(tl__gguf_int(tl__gguf_find(b, "general.file_type"), 0, &type) && type == 14);
    assert_true(tl__gguf_real(tl__gguf_find(b, "nobody.key"), 0, &real) && real == 0.1);
    tl__gguf_close(a), tl__gguf_close(b), tl__gguf_close(c);
}

/* ---- what is refused ---- */

static void refused(const char *in, const char *out, tl_type type, bool overwrite, const char *word,
                    const char *other) {
    const tl_convert job = {in, out, type, 0, overwrite, pool};
    tl_converted done;
    tl_error err = {0};
    int rc = tl__convert(&job, &done, &err);
    if (!rc || !strstr(err.text, word) || !strstr(err.text, other))
        fail_msg("%d \"%s\", where \"%s\" and \"%s\" were expected", rc, err.text, word, other);
}

static void what_would_be_lost_is_refused(void **state) {
    (void)state;
    const char *in = in_folder("lossy.gguf"), *out = in_folder("none.gguf");
    static const char from[] = TL_SOURCE_DIR "/tests/vectors/llama-gqa";
    make_unknown(in, NAN);
    refused(in, out, TL_Q4_K, false, "'blk.0.ffn_up.weight'", "nan");
    converted(in, in_folder("kept.gguf"), TL_BF16, 0); /* keeps it */
    make_unknown(in, 70000);
    refused(in, out, TL_F16, false, "70000", "F16");
    refused(in, out, TL_Q2_K, false, "Q2_K", "Q4_K");
    assert_false(tl__path_exists(out));
    refused(from, in_folder("quantised"), TL_Q8_0, false, "Q8_0", ".gguf");
    refused(in, in_folder("kept.gguf"), TL_F32, false, "kept.gguf", "--overwrite");
    converted(from, in_folder("there"), TL_TYPES, 0);
    refused(from, in_folder("there"), TL_TYPES, false, "config.json", "--overwrite");
    refused(in, in_folder("unknown"), TL_F32, false, "lossy.gguf", "nobody"); /* to a folder: no family is called so */
    refused(in_folder("nowhere"), out, TL_F32, false, "nowhere", "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_llama_cpp_converts),         cmocka_unit_test(there_and_back),
        cmocka_unit_test(folders_keep_their_bits),       cmocka_unit_test(requantises_any_gguf),
        cmocka_unit_test(what_would_be_lost_is_refused),
    };
    return cmocka_run_group_tests(tests, begin, finish);
}
