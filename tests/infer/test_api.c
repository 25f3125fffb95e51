/* test_api.c — the public calls: what they give equals, bit for bit, what the program prints and what the engine
 * computes; everything that a caller can get wrong is refused in a sentence and harms nothing. */
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <jansson.h>

#include "base/rng.h"
#include "files.h"
#include "infer/engine.h"
#include "infer/sampler.h"
#include "infer/session.h"
#include "io/manifest.h"
#include "open_model.h"

enum { V = 300, POSITIONS = 96, T = 80 };

static const char config[] =
    "{\"model_type\":\"llama\",\"vocab_size\":300,\"hidden_size\":32,\"intermediate_size\":80,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"max_position_embeddings\":96,\"rms_norm_eps\":1e-5,"
    "\"rope_theta\":10000,\"initializer_range\":0.2,\"tie_word_embeddings\":false,\"bos_token_id\":256,"
    "\"eos_token_id\":256}";

static char no_tokenizer[256];
static int32_t ids[T];

static void in(char out[512], const char *where, const char *name) {
    snprintf(out, 512, "%s/%s", where, name);
}

/* ---- a model folder as a checkpoint is: config, weights, tokenizer, manifest ---- */

static int write_model(const char *where, bool tokenizer, bool manifest) {
    char path[512];
    tl_error err = {0};
    tl_arch arch;
    tl_model m;
    int status = tl__folder_make(where, &err);
    in(path, where, "config.json");
    if (!status) status = tl__file_publish(path, config, sizeof config - 1, &err);
    if (!status) status = tl__arch_parse(&arch, config, sizeof config - 1, "config", &err);
    if (!status) status = tl__model_create(&m, &arch, 0, &err);
    if (status) goto end;
    tl__model_init(&m, 3, NULL);
    tl_tensor_out *tensors = calloc((size_t)m.params.n, sizeof *tensors);
    tl_hash *hashes = calloc((size_t)m.params.n, sizeof *hashes);
    for (int i = 0; i < m.params.n; i++) {
        const tl_param *p = &m.params.list[i];
        tensors[i] = (tl_tensor_out){.name = p->name, .type = TL_F32, .dims = p->dims, .data = m.flat + p->offset};
        for (int d = 0; d < p->dims; d++) tensors[i].shape[d] = p->shape[d];
    }
    in(path, where, TL_WEIGHTS_NAME);
    status = tl__safetensors_write(path, tensors, m.params.n, hashes, &err);
    if (!status && manifest) {
        json_t *list = json_object();
        for (int i = 0; i < m.params.n; i++) json_object_set_new(list, tensors[i].name, json_string(hashes[i].hex));
        json_t *whole = json_pack("{s:s,s:i,s:{s:o}}", "format", TL_MANIFEST_FORMAT, "version", TL_MANIFEST_VERSION,
                                  "tensors", TL_WEIGHTS_NAME, list);
        in(path, where, TL_MANIFEST_NAME);
        status = json_dump_file(whole, path, 0);
        json_decref(whole);
    }
    free(tensors), free(hashes);
    tl__model_close(&m);
    tl_tokenizer *tok;
    if (!status && tokenizer && !(status = tl__tokenizer_open(&tok, "bytes", &err))) {
        status = tl__tokenizer_save(tok, where, &err);
        tl__tokenizer_close(tok);
    }
end:
    if (status) fprintf(stderr, "%s\n", err.text);
    return status;
}

static int make_model_folders(void **state) {
    if (make_folder(state)) return -1;
    snprintf(no_tokenizer, sizeof no_tokenizer, "%.200s/bare", folder);
    for (int i = 0; i < T; i++) ids[i] = (int32_t)(tl__philox(9, TL_RNG_TEST, 0, (uint64_t)i).v[0] % 256);
    return write_model(folder, true, true) || write_model(no_tokenizer, false, false);
}

static tl_engine *open_engine_as(int threads, tl_dtype dtype) {
    tl_engine *e;
    tl_error err = {0};
    tl_engine_options options = {.threads = threads, .dtype = dtype};
    if (tl_engine_open(&e, folder, &options, &err)) fail_msg("%s", err.text);
    return e;
}

static tl_engine *open_engine(int threads) {
    return open_engine_as(threads, TL_DTYPE_F32);
}

static tl_session *open_session(tl_engine *e, int capacity) {
    tl_session *s;
    tl_error err = {0};
    if (tl_session_open(&s, e, capacity, &err)) fail_msg("%s", err.text);
    return s;
}

static void assert_same_bits(const float *a, const float *b, int n, const char *what) {
    for (int i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a))
            fail_msg("%s: element %d is %.9g, expected %.9g", what, i, (double)a[i], (double)b[i]);
}

/* ---- what is right ---- */

static void facts_are_the_folders(void **state) {
    (void)state;
    tl_engine *e = open_engine(2);
    tl_engine_facts f;
    assert_int_equal(tl_engine_describe(e, &f, NULL), 0);
    assert_int_equal(f.vocabulary, V);
    assert_int_equal(f.positions, POSITIONS);
    assert_int_equal(f.tokenizer_ids, 257);
    assert_int_equal(f.begin_id, 256);
    assert_int_equal(f.parameters, 2 * V * 32 + 2 * (2 * 32 + 32 * (32 + 16 + 16 + 32) + 3 * 32 * 80) + 32);
    assert_int_equal(tl_engine_ends_text(e, 256), 1);
    assert_int_equal(tl_engine_ends_text(e, 255), 0);
    assert_int_equal(tl_engine_ends_text(e, -1), 0);
    tl_engine_close(e);

    tl_engine_options few = {.positions = 40};
    assert_int_equal(tl_engine_open(&e, no_tokenizer, &few, NULL), 0);
    assert_int_equal(tl_engine_describe(e, &f, NULL), 0);
    assert_int_equal(f.positions, 40);
    assert_int_equal(f.tokenizer_ids, 0);
    tl_engine_close(e);
}

static void text_to_ids_and_back(void **state) {
    (void)state;
    static const char text[] = "A stone<|endoftext|>stands.";
    tl_engine *e = open_engine(1);
    int32_t got[64];
    char back[64];
    size_t n, bytes;
    assert_int_equal(tl_engine_encode(e, text, sizeof text - 1, false, NULL, 0, &n, NULL), 0);
    assert_int_equal(n, sizeof text - 1);
    got[5] = -7;
    assert_int_equal(tl_engine_encode(e, text, sizeof text - 1, false, got, 5, &n, NULL), 0);
    assert_int_equal(n, sizeof text - 1);
    assert_int_equal(got[4], 'o');
    assert_int_equal(got[5], -7); /* no room, not written */
    assert_int_equal(tl_engine_encode(e, text, sizeof text - 1, true, got, 64, &n, NULL), 0);
    assert_int_equal(n, sizeof text - 1 - 12);
    assert_int_equal(got[7], 256);

    assert_int_equal(tl_engine_decode(e, got, n, true, back, sizeof back, &bytes, NULL), 0);
    assert_string_equal(back, text);
    assert_int_equal(tl_engine_decode(e, got, n, false, back, sizeof back, &bytes, NULL), 0);
    assert_string_equal(back, "A stonestands.");
    memset(back, '#', sizeof back);
    assert_int_equal(tl_engine_decode(e, got, n, false, back, 4, &bytes, NULL), 0);
    assert_int_equal(bytes, 14);
    assert_memory_equal(back, "A st#", 5);
    assert_int_equal(tl_engine_decode(e, got, n, false, NULL, 0, &bytes, NULL), 0);
    assert_int_equal(bytes, 14);

    assert_int_equal(tl_engine_encode(e, "a\377b", 3, false, got, 64, &n, NULL), 0);
    assert_int_equal(n, 5);                 /* U+FFFD is three bytes */
    int32_t cut[] = {'x', 0xE2, 0x82, 299}; /* half a character; an id beyond the tokenizer's has no text */
    assert_int_equal(tl_engine_decode(e, cut, 4, false, back, sizeof back, &bytes, NULL), 0);
    assert_string_equal(back, "x\xEF\xBF\xBD");
    assert_int_equal(tl_engine_encode(e, NULL, 0, false, NULL, 0, &n, NULL), 0);
    assert_int_equal(n, 0);
    tl_engine_close(e);
}

static void the_same_bits_as_inside(void **state) {
    (void)state;
    tl_ctx ctx;
    tl_model m;
    tl_session *inside;
    float expected[T], logits[V], logp[T], row[V], picked, chosen;
    assert_int_equal(tl__ctx_open(&ctx, 1, "ref", NULL), 0);
    assert_int_equal(open_model(&m, folder, NULL), 0);
    assert_int_equal(tl__session_open(&inside, &m, &ctx, POSITIONS, 7, NULL), 0);
    assert_int_equal(tl__session_score(inside, ids, T, -1, expected, NULL), 0);
    tl__session_rewind(inside, 0);
    assert_int_equal(tl__session_append(inside, ids, T, logits, NULL), 0);

    for (int read = 0; read < 2; read++) {
        if (read) setenv("TRILITH_MMAP", "0", 1);
        tl_engine *e = open_engine(1 + 2 * read);
        tl_session *s = open_session(e, 0);
        assert_int_equal(tl_session_score(s, ids, T, logp, NULL), 0);
        assert_same_bits(logp, expected, T - 1, "score");
        assert_int_equal(tl_session_length(s), T);
        assert_int_equal(tl_session_rewind(s, 30, NULL), 0);
        for (int at = 30, n = 1; at < T; at += n, n = n * 3 % 11 + 1)
            assert_int_equal(tl_session_append(s, ids + at, (size_t)(n < T - at ? n : T - at), row, NULL), 0);
        assert_same_bits(row, logits, V, "logits");
        for (int k = 0; k < 50; k++) {
            tl_sampling how = {.temperature = 0.9f, .top_k = k % 40, .min_p = 0.01f, .seed = (uint64_t)k};
            tl_sampling same = how;
            int32_t id, scratch[4 * V];
            same.top_p = 1;
            assert_int_equal(tl_engine_sample(e, &how, row, T, &id, &picked, NULL), 0);
            assert_int_equal(id, tl__sample(&ctx, &same, NULL, logits, V, T, scratch, &chosen));
            assert_same_bits(&picked, &chosen, 1, "log-probability of the pick");
        }
        tl_session_close(s);
        tl_engine_close(e);
        unsetenv("TRILITH_MMAP");
    }

    /* The other contract is an option, and has bits of its own. */
    tl_engine *e;
    tl_engine_options bf16 = {.dtype = TL_DTYPE_BF16};
    assert_int_equal(tl_engine_open(&e, folder, &bf16, NULL), 0);
    tl_session *s = open_session(e, 0);
    assert_int_equal(tl_session_score(s, ids, T, logp, NULL), 0);
    assert_memory_not_equal(logp, expected, (T - 1) * sizeof *logp);
    ctx.contract = TL_CONTRACT_BF16;
    tl__session_rewind(inside, 0);
    assert_int_equal(tl__session_score(inside, ids, T, -1, expected, NULL), 0);
    assert_same_bits(logp, expected, T - 1, "score in bf16");
    tl_session_close(s);
    tl_engine_close(e);
    tl__session_close(inside);
    tl__model_close(&m);
    tl__ctx_close(&ctx);
}

/* A sequence longer than the session: each window begins half a window before what it adds. */
static void windows_overlap_by_half(void **state) {
    (void)state;
    tl_engine *e = open_engine(2);
    for (int W = 2; W <= 33; W += W < 6 ? 1 : 9) {
        tl_session *s = open_session(e, W), *whole = open_session(e, POSITIONS);
        float logp[T], part[T];
        assert_int_equal(tl_session_score(s, ids, T, logp, NULL), 0);
        for (int start = 0, scored = 1; scored < T; start = scored - W / 2) {
            int end = T - start < W ? T : start + W;
            assert_int_equal(tl_session_score(whole, ids + start, (size_t)(end - start), part, NULL), 0);
            assert_same_bits(logp + scored - 1, part + scored - 1 - start, end - scored, "window");
            scored = end;
        }
        tl_session_close(s), tl_session_close(whole);
    }
    tl_engine_close(e);
}

/* One line of JSON from the program. */
static json_t *from_program(const char *arguments) {
    char command[2048], line[1 << 16];
    snprintf(command, sizeof command, TL_BUILD_DIR "/trilith %s --model %s --json", arguments, folder);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t n = fread(line, 1, sizeof line, f);
    assert_int_equal(pclose(f), 0);
    json_t *value = json_loadb(line, n, JSON_ALLOW_NUL, NULL); /* a model may write any character */
    assert_non_null(value);
    return value;
}

static void assert_logprobs(const json_t *said, const float *logp, size_t n) {
    const json_t *list = json_object_get(said, "logprobs");
    assert_int_equal(json_array_size(list), n);
    for (size_t i = 0; i < n; i++) {
        float x = (float)json_real_value(json_array_get(list, i));
        assert_same_bits(&x, logp + i, 1, "log-probability that the program prints");
    }
}

static void the_same_bits_as_the_program(void **state) {
    (void)state;
    char path[512], arguments[1024];
    float logp[T], logits[V];
    in(path, folder, "ids.txt");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < T; i++) fprintf(f, "%d\n", ids[i]);
    fclose(f);
    float other[T] = {0};
    tl_engine *e;
    for (int i = 0; i < 4; i++) {
        int window = i % 2 ? T : 20;
        e = open_engine_as(2, i < 2 ? TL_DTYPE_F32 : TL_DTYPE_BF16);
        tl_session *s = open_session(e, window);
        snprintf(arguments, sizeof arguments, "score --tokens %s --window %d --dtype %s", path, window,
                 i < 2 ? "f32" : "bf16");
        json_t *said = from_program(arguments);
        assert_int_equal(tl_session_score(s, ids, T, logp, NULL), 0);
        assert_logprobs(said, logp, T - 1);
        assert_memory_not_equal(logp, other, (T - 1) * sizeof *logp); /* each way has bits of its own */
        memcpy(other, logp, sizeof other);
        json_decref(said);
        tl_session_close(s);
        tl_engine_close(e);
    }
    e = open_engine(2);

    json_t *said = from_program("generate --prompt 'A stone' --max-tokens 40 --seed 11 --top-p 0.9 --no-stop-at-eos");
    const json_t *list = json_object_get(said, "ids");
    assert_int_equal(json_array_size(list), 40);
    tl_sampling how = {.temperature = 0.8f, .top_p = 0.9f, .seed = 11};
    tl_session *s = open_session(e, 0);
    int32_t made[64];
    size_t n, bytes;
    assert_int_equal(tl_engine_encode(e, "A stone", 7, false, made, 64, &n, NULL), 0);
    assert_int_equal(tl_session_append(s, made, n, logits, NULL), 0);
    for (size_t i = 0; i < 40; i++) {
        assert_int_equal(tl_engine_sample(e, &how, logits, tl_session_length(s), &made[i], &logp[i], NULL), 0);
        assert_int_equal(made[i], json_integer_value(json_array_get(list, i)));
        assert_int_equal(tl_session_append(s, &made[i], 1, logits, NULL), 0);
    }
    assert_logprobs(said, logp, 40);
    char text[1024];
    assert_int_equal(tl_engine_decode(e, made, 40, false, text, sizeof text, &bytes, NULL), 0);
    assert_int_equal(json_string_length(json_object_get(said, "text")), bytes);
    assert_memory_equal(json_string_value(json_object_get(said, "text")), text, bytes);
    json_decref(said);
    tl_session_close(s);
    tl_engine_close(e);
}

/* ---- what is wrong ---- */

static tl_error err;

/* The call was refused with this status, in a sentence that has this word. */
#define refused(call, status_, word)                                                                                   \
    do {                                                                                                               \
        err = (tl_error){0};                                                                                           \
        assert_int_equal(call, status_);                                                                               \
        assert_int_equal(err.status, status_);                                                                         \
        if (!strstr(err.text, word)) fail_msg("'%s' does not mention '%s'", err.text, word);                           \
    } while (0)

static void folders_that_cannot_be_opened(void **state) {
    (void)state;
    tl_engine *e = (tl_engine *)&err;
    tl_engine_options o = {.positions = -1};
    refused(tl_engine_open(NULL, folder, NULL, &err), TL_EINVALID, "engine is NULL");
    refused(tl_engine_open(&e, NULL, NULL, &err), TL_EINVALID, "model is NULL");
    assert_null(e);
    refused(tl_engine_open(&e, folder, &o, &err), TL_EINVALID, "-1");
    o = (tl_engine_options){.threads = -3};
    refused(tl_engine_open(&e, folder, &o, &err), TL_EINVALID, "-3 threads");
    o.threads = INT_MAX;
    refused(tl_engine_open(&e, folder, &o, &err), TL_EINVALID, "2147483647 threads");
    o = (tl_engine_options){.dtype = (tl_dtype)3};
    refused(tl_engine_open(&e, folder, &o, &err), TL_EINVALID, "options.dtype is 3");
    refused(tl_engine_open(&e, "/nonexistent", NULL, &err), TL_ENOTFOUND, "/nonexistent");
    refused(tl_engine_open(&e, "", NULL, &err), TL_ENOTFOUND, "''");
    refused(tl_engine_open(&e, "/dev/null", NULL, &err), TL_EINVALID, "/dev/null");
    char empty[512];
    in(empty, folder, "empty");
    assert_int_equal(tl__folder_make(empty, NULL), 0);
    refused(tl_engine_open(&e, empty, NULL, &err), TL_ENOTFOUND, "config.json");
    assert_int_equal(tl_engine_open(&e, "/nonexistent", NULL, NULL), TL_ENOTFOUND);
    assert_null(e);
    tl_engine_close(NULL), tl_session_close(NULL);
}

static void every_null_is_refused(void **state) {
    (void)state;
    tl_engine *e = open_engine(1), *bare;
    tl_session *s = open_session(e, 0), *none = s;
    tl_sampling greedy = {0};
    int32_t id = 1;
    float row[V] = {0};
    char text[8];
    size_t n;
    assert_int_equal(tl_engine_open(&bare, no_tokenizer, NULL, NULL), 0);
    tl_engine_facts facts;
    refused(tl_engine_describe(NULL, &facts, &err), TL_EINVALID, "engine");
    refused(tl_engine_describe(e, NULL, &err), TL_EINVALID, "facts");
    assert_int_equal(tl_engine_ends_text(NULL, 0), TL_EINVALID);
    refused(tl_engine_encode(NULL, "a", 1, false, &id, 1, &n, &err), TL_EINVALID, "engine");
    refused(tl_engine_encode(e, NULL, 1, false, &id, 1, &n, &err), TL_EINVALID, "text");
    refused(tl_engine_encode(e, "a", 1, false, NULL, 1, &n, &err), TL_EINVALID, "ids");
    refused(tl_engine_encode(e, "a", 1, false, &id, 1, NULL, &err), TL_EINVALID, "count");
    refused(tl_engine_encode(bare, "a", 1, false, &id, 1, &n, &err), TL_ENOTFOUND, "tokenizer.json");
    refused(tl_engine_decode(NULL, &id, 1, false, text, 8, &n, &err), TL_EINVALID, "engine");
    refused(tl_engine_decode(e, NULL, 1, false, text, 8, &n, &err), TL_EINVALID, "ids");
    refused(tl_engine_decode(e, &id, 1, false, NULL, 8, &n, &err), TL_EINVALID, "text");
    refused(tl_engine_decode(e, &id, 1, false, text, 8, NULL, &err), TL_EINVALID, "text_bytes");
    refused(tl_engine_decode(bare, &id, 1, false, text, 8, &n, &err), TL_ENOTFOUND, "tokenizer.json");
    refused(tl_engine_sample(NULL, &greedy, row, 0, &id, NULL, &err), TL_EINVALID, "engine");
    refused(tl_engine_sample(e, NULL, row, 0, &id, NULL, &err), TL_EINVALID, "sampling");
    refused(tl_engine_sample(e, &greedy, NULL, 0, &id, NULL, &err), TL_EINVALID, "logits");
    refused(tl_engine_sample(e, &greedy, row, 0, NULL, NULL, &err), TL_EINVALID, "id");
    refused(tl_session_open(NULL, e, 0, &err), TL_EINVALID, "session");
    refused(tl_session_open(&none, NULL, 0, &err), TL_EINVALID, "engine");
    assert_null(none);
    assert_int_equal(tl_session_length(NULL), TL_EINVALID);
    refused(tl_session_rewind(NULL, 0, &err), TL_EINVALID, "session");
    refused(tl_session_append(NULL, &id, 1, row, &err), TL_EINVALID, "session");
    refused(tl_session_append(s, NULL, 1, row, &err), TL_EINVALID, "ids");
    refused(tl_session_score(NULL, &id, 2, row, &err), TL_EINVALID, "session");
    refused(tl_session_score(s, NULL, 2, row, &err), TL_EINVALID, "ids");
    refused(tl_session_score(s, &id, 2, NULL, &err), TL_EINVALID, "logprobs");
    tl_session_close(s);
    tl_engine_close(e), tl_engine_close(bare);
}

/* After each refusal the session goes on as if it had not been made. */
static void refusals_change_nothing(void **state) {
    (void)state;
    tl_engine *e = open_engine(2);
    tl_session *s = open_session(e, 60), *none;
    float expected[V], row[V], logp[T];
    static const int capacities[] = {-1, POSITIONS + 1, INT_MAX, INT_MIN};
    for (int i = 0; i < 4; i++) refused(tl_session_open(&none, e, capacities[i], &err), TL_EINVALID, "96");
    assert_int_equal(tl_session_append(s, ids, 50, expected, NULL), 0);
    assert_int_equal(tl_session_rewind(s, 40, NULL), 0);

    static const int32_t bad[] = {-1, V, INT_MAX, INT_MIN};
    for (int i = 0; i < 4; i++) {
        int32_t few[3] = {1, 2, bad[i]};
        char text[8];
        size_t n;
        refused(tl_session_append(s, few, 3, row, &err), TL_EINVALID, "0 to 299");
        refused(tl_session_score(s, few, 3, logp, &err), TL_EINVALID, "0 to 299");
        refused(tl_engine_decode(e, few, 3, false, text, 8, &n, &err), TL_EINVALID, "0 to 299");
        assert_int_equal(tl_session_append(s, few, 3, row, NULL), TL_EINVALID);
    }
    refused(tl_session_append(s, ids, 21, row, &err), TL_EINVALID, "60");
    refused(tl_session_append(s, ids, SIZE_MAX, row, &err), TL_EINVALID, "60");
    refused(tl_session_append(s, ids, 0, row, &err), TL_EINVALID, "logits");
    refused(tl_session_score(s, ids, 1, logp, &err), TL_EINVALID, "at least two");
    refused(tl_session_score(s, ids, 0, logp, &err), TL_EINVALID, "at least two");
    refused(tl_session_rewind(s, -1, &err), TL_EINVALID, "-1");
    refused(tl_session_rewind(s, 41, &err), TL_EINVALID, "40");
    static const struct {
        tl_sampling s;
        const char *word;
    } samplings[] = {{{.temperature = -1}, "temperature"},
                     {{.temperature = NAN}, "temperature"},
                     {{.top_k = -1}, "top-k"},
                     {{.top_p = 1.5f}, "top-p"},
                     {{.top_p = NAN}, "top-p"},
                     {{.min_p = -1}, "min-p"},
                     {{.typical_p = 2}, "typical-p"},
                     {{.presence_penalty = 1}, "tl_engine_sample_after"}};
    int32_t id = 77;
    for (size_t i = 0; i < sizeof samplings / sizeof *samplings; i++)
        refused(tl_engine_sample(e, &samplings[i].s, expected, 0, &id, NULL, &err), TL_EINVALID, samplings[i].word);
    refused(tl_engine_sample(e, &(tl_sampling){0}, expected, -1, &id, NULL, &err), TL_EINVALID, "position");
    tl_sampling again = {.temperature = 0.7f, .seed = 3}, once = {.repetition_penalty = 100, .frequency_penalty = 2};
    refused(tl_engine_sample_after(e, &again, expected, ids, 3, 4, &id, NULL, &err), TL_EINVALID, "n_prompt");
    refused(tl_engine_sample_after(e, &again, expected, NULL, 3, 1, &id, NULL, &err), TL_EINVALID, "ids");
    refused(tl_engine_sample_after(e, &again, expected, (int32_t[]){-1}, 1, 1, &id, NULL, &err), TL_EINVALID, "-1");
    assert_int_equal(id, 77);
    int32_t alone = 0;
    assert_int_equal(tl_engine_sample(e, &again, expected, 9, &alone, NULL, NULL), 0);
    assert_int_equal(tl_engine_sample_after(e, &again, expected, ids, 9, 2, &id, NULL, NULL), 0);
    assert_int_equal(id, alone);
    assert_int_equal(tl_engine_sample(e, &(tl_sampling){0}, expected, 9, &alone, NULL, NULL), 0);
    assert_int_equal(tl_engine_sample_after(e, &once, expected, &alone, 1, 0, &id, NULL, NULL), 0);
    assert_int_not_equal(id, alone);

    assert_int_equal(tl_session_append(s, ids, 0, NULL, NULL), 0);
    assert_int_equal(tl_session_length(s), 40);
    assert_int_equal(tl_session_append(s, ids + 40, 10, row, NULL), 0);
    assert_same_bits(row, expected, V, "after refusals");
    tl_session_close(s);

    s = open_session(e, 1); /* holds one token: enough to begin, too little to score */
    assert_int_equal(tl_session_append(s, ids, 1, row, NULL), 0);
    refused(tl_session_score(s, ids, 2, logp, &err), TL_EINVALID, "capacity");
    tl_session_close(s);
    tl_engine_close(e);
}

/* It is read while weights are; what is wrong with it is told as if it had been alone. */
static void a_wrong_tokenizer_is_told(void **state) {
    (void)state;
    static const struct {
        const char *json, *says;
    } wrong[] = {
        {"", "tokenizer.json"},
        {"{\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}",
         "is given to two tokens"},
        {"{\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":300},\"merges\":[]}}",
         "do not belong together"},
    };
    char path[512];
    tl_engine *e;
    in(path, no_tokenizer, "tokenizer.json");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        for (int threads = 1; threads <= 3; threads++) {
            const tl_engine_options options = {.threads = threads};
            assert_int_equal(tl__file_publish(path, wrong[i].json, strlen(wrong[i].json), NULL), 0);
            refused(tl_engine_open(&e, no_tokenizer, &options, &err), TL_EFORMAT, wrong[i].says);
            assert_null(e);
        }
    assert_int_equal(unlink(path), 0);
}

static void damage_is_found_by_tensor(void **state) {
    (void)state;
    char path[512];
    tl_engine *e;
    tl_engine_options verify = {.verify = true};
    assert_int_equal(tl_engine_open(&e, folder, &verify, NULL), 0);
    tl_engine_close(e);
    refused(tl_engine_open(&e, no_tokenizer, &verify, &err), TL_ENOTFOUND, "nothing to verify");

    tl_safetensors *file;
    assert_int_equal(tl__safetensors_open(&file, folder, NULL), 0);
    const char *name = "model.layers.1.mlp.down_proj.weight";
    int64_t at = tl__safetensors_find(file, name)->offset_bytes + 100;
    tl__safetensors_close(file);
    in(path, folder, TL_WEIGHTS_NAME);
    for (int round = 0; round < 2; round++) { /* one bit, and back */
        FILE *f = fopen(path, "r+b");
        assert_non_null(f);
        fseek(f, at, SEEK_SET);
        int byte = fgetc(f);
        fseek(f, at, SEEK_SET);
        fputc(byte ^ 1, f);
        fclose(f);
        if (round == 0) {
            refused(tl_engine_open(&e, folder, &verify, &err), TL_EDAMAGED, name);
            assert_null(e);
            assert_int_equal(tl_engine_open(&e, folder, NULL, NULL), 0); /* not asked: not read */
        } else assert_int_equal(tl_engine_open(&e, folder, &verify, NULL), 0);
        tl_engine_close(e);
    }
    assert_int_equal(truncate(path, at), 0);
    refused(tl_engine_open(&e, folder, NULL, &err), TL_EFORMAT, "cut short");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(facts_are_the_folders),        cmocka_unit_test(text_to_ids_and_back),
        cmocka_unit_test(the_same_bits_as_inside),      cmocka_unit_test(windows_overlap_by_half),
        cmocka_unit_test(the_same_bits_as_the_program), cmocka_unit_test(folders_that_cannot_be_opened),
        cmocka_unit_test(every_null_is_refused),        cmocka_unit_test(refusals_change_nothing),
        cmocka_unit_test(a_wrong_tokenizer_is_told),
        cmocka_unit_test(damage_is_found_by_tensor), /* last: it leaves the folder damaged */
    };
    return cmocka_run_group_tests(tests, make_model_folders, remove_folder);
}
