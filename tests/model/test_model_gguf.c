/* test_model_gguf.c — a GGUF file becomes the model that it was made from: architecture, tensors and every bit of what
 * is computed with them, in each type; and what cannot be so is refused by name.
 *
 * tests/vectors/gguf-models holds files that llama.cpp's own converter wrote (tools/make_gguf_models.py). Files of
 * other types and families are written here by the same table as they are read by, which those files hold to the
 * convention.
 */
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "vectors.h"
#include "base/blocks.h"
#include "base/rng.h"
#include "families.h"
#include "files.h"
#include "infer/session.h"
#include "model/gguf_model.h"
#include "sanitized.h"

enum { T = 70, MAX_V = 4096 };

static tl_ctx ctx; /* of one thread */

static int begin(void **state) {
    tl_error err = {0};
    if (tl__ctx_open(&ctx, 1, NULL, &err)) return fprintf(stderr, "%s\n", err.text), -1;
    return make_folder(state);
}

static int finish(void **state) {
    tl__ctx_close(&ctx);
    return remove_folder(state);
}

/* ---- writing ---- */

static bool is_matrix(const tl_param *p) {
    return p->dims == 2 && p->role != TL_ROLE_ROUTER && p->role != TL_ROLE_POSITION;
}

/* Matrices in `type` where their rows are whole blocks of it, the rest F32, as converters have it. */
static tl_type type_of(const tl_param *p, tl_type type, int64_t cols) {
    return is_matrix(p) && cols % tl__type_block(type) == 0 ? type : TL_F32;
}

/* The parameter as its tensor has it: rows by head, turned, with what is added. */
static float *as_tensor(const tl_model *m, int i, const tl_gguf_place *g, int64_t *rows, int64_t *cols) {
    const tl_param *p = &m->params.list[i];
    const float *w = m->flat + p->offset;
    float *out = malloc(sizeof *out * (size_t)p->count);
    *rows = p->dims == 2 ? p->shape[g->transposed ? 1 : 0] : g->heads ? p->count : 1, *cols = p->count / *rows;
    for (int64_t r = 0; r < *rows; r++)
        for (int64_t c = 0; c < *cols; c++) {
            int64_t from = tl__gguf_param_row(r, *rows, g->heads);
            out[r * *cols + c] = (g->transposed ? w[c * *rows + r] : w[from * *cols + c]) + g->add;
        }
    return out;
}

/* skip: this tensor is left out; NULL: none. Any number of extra keys can be put by `more`. */
static void write_gguf(const char *path, const tl_model *m, tl_type type, const char *skip,
                       void (*more)(tl_gguf_out *out)) {
    tl_gguf_out *out;
    tl_error err = {0};
    const tl_arch *a = &m->arch;
    float factors[TL_MAX_HEAD_DIM / 2];
    bool freqs = tl__gguf_rope_factors(factors, a);
    int64_t half = a->D / 2;
    if (tl__gguf_create(&out, path, &err) || tl__arch_to_gguf(out, a, &err)) fail_msg("%s", err.text);
    if (more) more(out);
    for (int pass = 0; pass < 2; pass++) {
        if (freqs && pass == 0) assert_int_equal(tl__gguf_declare(out, "rope_freqs.weight", TL_F32, 1, &half, &err), 0);
        if (freqs && pass == 1) assert_int_equal(tl__gguf_write(out, factors, sizeof *factors * (size_t)half, &err), 0);
        for (int i = 0; i < m->params.n; i++) {
            const tl_param *p = &m->params.list[i];
            tl_gguf_place g;
            assert_true(tl__gguf_place(&g, a, &m->params, i));
            if (g.expert > 0 || (skip && strcmp(skip, g.name) == 0)) continue;
            for (int e = 0; e < (g.expert < 0 ? 1 : a->E); e++) {
                int64_t rows, cols;
                float *w = as_tensor(m, i + e * TL_EXPERT_STRIDE, &g, &rows, &cols);
                const tl_type t = type_of(p, type, cols);
                int64_t flat = p->count, two[] = {rows, cols}, three[] = {a->E, rows, cols};
                int dims = g.expert < 0 ? p->dims : 3;
                const int64_t *shape = dims == 1 ? &flat : dims == 2 ? two : three;
                if (pass == 0 && e == 0 && tl__gguf_declare(out, g.name, t, dims, shape, &err))
                    fail_msg("%s", err.text);
                size_t bytes = (size_t)tl__type_size(t, p->count);
                unsigned char *narrow = malloc(bytes);
                tl__narrow(narrow, t, w, p->count);
                if (pass == 1 && tl__gguf_write(out, narrow, bytes, &err)) fail_msg("%s", err.text);
                free(narrow);
                free(w);
            }
        }
    }
    if (tl__gguf_publish(out, &err)) fail_msg("%s", err.text);
}

/* A random trainer's model. */
static tl_model make(const char *config) {
    tl_arch arch;
    tl_model m;
    tl_error err = {0};
    if (tl__arch_parse(&arch, config, strlen(config), "config", &err) || tl__model_create(&m, &arch, 0, &err))
        fail_msg("%s", err.text);
    tl__model_init(&m, 5, ctx.pool);
    for (int i = 0; i < m.params.n; i++) /* ones and zeros would hide a mistake */
        if (m.params.list[i].dims == 1)
            tl__normal_fill(m.flat + m.params.list[i].offset, (size_t)m.params.list[i].count, 0.5f, 0.2f, 6,
                            (uint32_t)i, 0);
    return m;
}

/* Its matrices as `type` holds them: what a reader that computes in f32 has. */
static void round_to(tl_model *m, tl_type type) {
    for (int i = 0; i < m->params.n; i++) {
        const tl_param *p = &m->params.list[i];
        tl_gguf_place g;
        int64_t rows, cols;
        tl__gguf_place(&g, &m->arch, &m->params, i);
        float *w = as_tensor(m, i, &g, &rows, &cols), *to = m->flat + p->offset;
        const tl_type t = type_of(p, type, cols);
        unsigned char *narrow = malloc((size_t)tl__type_size(t, p->count));
        tl__narrow(narrow, t, w, p->count);
        tl__widen(w, t, narrow, p->count);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < cols; c++) {
                float x = w[r * cols + c] - g.add;
                if (g.transposed) to[c * rows + r] = x;
                else to[tl__gguf_param_row(r, rows, g.heads) * cols + c] = x;
            }
        free(narrow);
        free(w);
    }
}

/* ---- opening and computing ---- */

static tl_model open_as(const char *path, tl_dtype dtype) {
    tl_weight_source *source;
    tl_arch arch;
    tl_model m;
    tl_error err = {0};
    if (tl__source_open(&source, path, &err) || tl__source_arch(&arch, source, &err) ||
        tl__model_open(&m, source, &arch, 0, dtype, ctx.pool, NULL, NULL, &err))
        fail_msg("%s", err.text);
    return m;
}

static int32_t token(const tl_model *m, int i) {
    return (int32_t)(tl__philox(9, TL_RNG_TEST, 0, (uint64_t)i).v[0] % (uint32_t)m->arch.V);
}

/* log-probabilities and the last row of logits: [T − 1 + V] */
static float *compute(const tl_model *m, tl_ctx *with, int chunk) {
    tl_session *s;
    tl_error err = {0};
    int32_t ids[T];
    float *out = malloc(sizeof *out * (size_t)(T - 1 + m->arch.V));
    for (int i = 0; i < T; i++) ids[i] = token(m, i);
    if (tl__session_open(&s, m, with, T, chunk, &err) || tl__session_score(s, ids, T, -1, out, &err))
        fail_msg("%s", err.text);
    tl__session_rewind(s, T - 1);
    if (tl__session_append(s, ids + T - 1, 1, out + T - 1, &err)) fail_msg("%s", err.text);
    tl__session_close(s);
    return out;
}

static void same(const char *what, const float *got, const float *want, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (memcmp(got + i, want + i, sizeof *got))
            fail_msg("%s: number %lld is %.9g, not %.9g", what, (long long)i, (double)got[i], (double)want[i]);
}

/* ---- what llama.cpp's converter wrote ---- */

typedef struct kept {
    const char *folder, *name; /* below tests/vectors; NAME.gguf is that of the file */
    const char *changed; /* fields of config.json that the converter leaves out, as a reader of the file has them */
} kept;

static const kept files[] = {
    {"llama3", "llama3", NULL},
    {"mixtral", "mixtral", NULL},
    {"qwen2", "qwen2", "{\"use_sliding_window\":false,\"sliding_window\":null,\"layer_types\":null}"},
    {"gemma3", "gemma3",
     "{\"layer_types\":[\"sliding_attention\",\"sliding_attention\",\"sliding_attention\"]}"}, /* one full in six */
    {"gpt2-tied", "gpt2-tied", NULL},
    {"qwen3", "qwen3", NULL},
    {"olmoe", "olmoe", NULL},
    {"gguf-models/gemma2", "gemma2", NULL},
    {"gguf-models/smollm3", "smollm3", NULL},
    {"gguf-models/mistral", "mistral", "{\"model_type\":\"llama\"}"}, /* as which its file is read */
    {"gguf-models/qwen3-moe", "qwen3-moe", NULL},
};

/* The folder's configuration with what is changed. */
static tl_arch arch_of(const kept *k) {
    char path[1024], *text;
    tl_arch arch;
    tl_error err = {0};
    snprintf(path, sizeof path, TL_SOURCE_DIR "/tests/vectors/%s/config.json", k->folder);
    json_t *config = json_load_file(path, 0, NULL), *changed = k->changed ? json_loads(k->changed, 0, NULL) : NULL;
    assert_non_null(config);
    if (changed) json_object_update(config, changed);
    text = json_dumps(config, JSON_REAL_PRECISION(17));
    if (tl__arch_parse(&arch, text, strlen(text), path, &err)) fail_msg("%s", err.text);
    json_decref(config), json_decref(changed);
    free(text);
    return arch;
}

static void compare_configs(const kept *k, const tl_arch *got, const tl_arch *want) {
    static const char *const others[] = {"initializer_range", "router_aux_loss_coef", "bos_token_id",
                                         "eos_token_id",      "pad_token_id",         "architectures"};
    char *a = tl__arch_config_json(got), *b = tl__arch_config_json(want);
    json_t *x = json_loads(a, 0, NULL), *y = json_loads(b, 0, NULL), *value;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) json_object_del(y, others[i]);
    const char *key;
    json_object_foreach(y, key, value) {
        if (json_equal(value, json_object_get(x, key))) continue;
        fail_msg("%s: '%s' came back otherwise:\n%s\n%s", k->name, key, a, b);
    }
    json_decref(x), json_decref(y);
    free(a), free(b);
}

static void test_converted_files_are_their_models(void **state) {
    (void)state;
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        char path[1024], from[1024];
        tl_arch arch = arch_of(&files[f]), read;
        tl_model want, got;
        tl_error err = {0};
        snprintf(from, sizeof from, TL_SOURCE_DIR "/tests/vectors/%s", files[f].folder);
        snprintf(path, sizeof path, TL_SOURCE_DIR "/tests/vectors/gguf-models/%s.gguf", files[f].name);
        if (tl__arch_open(&read, path, &err)) fail_msg("%s", err.text);
        compare_configs(&files[f], &read, &arch);
        if (tl__model_create(&want, &arch, 0, &err) || tl__model_load_into(&want, from, &err) ||
            tl__model_create(&got, &arch, 0, &err) || tl__model_load_into(&got, path, &err))
            fail_msg("%s", err.text);
        round_to(&want, TL_F16);
        same(files[f].name, got.flat, want.flat, want.params.count);
        /* And used as it lies in the file: the f32 contract of the same numbers. */
        tl_model used = open_as(path, TL_DTYPE_AUTO);
        float *a = compute(&used, &ctx, 0), *b = compute(&want, &ctx, 0);
        same(files[f].name, a, b, T - 1 + want.arch.V);
        free(a), free(b);
        tl__model_close(&used), tl__model_close(&want), tl__model_close(&got);
    }
}

/* ---- every family and type that GGUF can say ---- */

static void test_what_gguf_cannot_say_is_refused(void **state) {
    (void)state;
    static const char *const refused[][2] = {
        {"smollm3", "'sliding_window' is 20"}, {"mistral", "'sliding_window' is 24"},
        {"qwen2", "'sliding_window' is 65"},   {"gemma2", "'query_pre_attn_scalar' is 24"},
        {"qwen3_moe", "'mlp_only_layers' is"}, {NULL, NULL}};
    for (int i = 0; i < TEST_FAMILIES; i++) {
        tl_arch arch;
        tl_gguf_out *out;
        tl_error err = {0};
        const char *config = test_families[i].config, *path = in_folder("said.gguf");
        assert_int_equal(tl__arch_parse(&arch, config, strlen(config), "config", &err), 0);
        assert_int_equal(tl__gguf_create(&out, path, &err), 0);
        int r = 0, status = tl__arch_to_gguf(out, &arch, &err);
        tl__gguf_abandon(out);
        while (refused[r][0] && strcmp(refused[r][0], test_families[i].name)) r++;
        if (!refused[r][0] && status) fail_msg("%s", err.text);
        if (refused[r][0] && (!status || !strstr(err.text, refused[r][1])))
            fail_msg("%s: %s", test_families[i].name, status ? err.text : "was not refused");
    }
}

/* The fields of models on the hub, as their config.json has them: all can be said but a window on every layer. */
static void test_published_models_can_be_said(void **state) {
    (void)state;
    static const struct {
        const char *name, *config;
    } published[] = {
        {"gpt2",
         "{\"model_type\":\"gpt2\",\"vocab_size\":50257,\"n_ctx\":1024,\"n_embd\":768,\"n_head\":12,\"n_layer\":12,"
         "\"n_positions\":1024,\"activation_function\":\"gelu_new\",\"layer_norm_epsilon\":1e-05,"
         "\"summary_type\":\"cls_index\",\"summary_use_proj\":true}"},
        {"Llama-3.2-1B",
         "{\"model_type\":\"llama\",\"vocab_size\":128256,\"hidden_size\":2048,\"intermediate_size\":8192,\"num_hidden_"
         "layers\":16,"
         "\"num_attention_heads\":32,\"num_key_value_heads\":8,\"head_dim\":64,\"max_position_embeddings\":131072,"
         "\"rms_norm_eps\":"
         "1e-05,\"rope_theta\":500000.0,\"attention_bias\":false,\"mlp_bias\":false,\"pretraining_tp\":1,\"tie_word_"
         "embeddings\":"
         "true,\"rope_scaling\":{\"factor\":32.0,\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"
         "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"},\"hidden_act\":\"silu\"}"},
        {"Mistral-7B-v0.3",
         "{\"model_type\":\"mistral\",\"vocab_size\":32768,\"hidden_size\":4096,\"intermediate_size\":14336,\"num_"
         "hidden_layers\":32,"
         "\"num_attention_heads\":32,\"num_key_value_heads\":8,\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-"
         "05,"
         "\"rope_theta\":1000000.0,\"sliding_window\":null,\"tie_word_embeddings\":false,\"hidden_act\":\"silu\"}"},
        {"Mistral-7B-v0.1",
         "{\"model_type\":\"mistral\",\"vocab_size\":32000,\"hidden_size\":4096,\"intermediate_size\":14336,\"num_"
         "hidden_layers\":32,"
         "\"num_attention_heads\":32,\"num_key_value_heads\":8,\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-"
         "05,"
         "\"rope_theta\":10000.0,\"sliding_window\":4096,\"tie_word_embeddings\":false,\"hidden_act\":\"silu\"}"},
        {"Mixtral-8x7B-v0.1",
         "{\"model_type\":\"mixtral\",\"vocab_size\":32000,\"hidden_size\":4096,\"intermediate_size\":14336,\"num_"
         "hidden_layers\":32,"
         "\"num_attention_heads\":32,\"num_key_value_heads\":8,\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-"
         "05,"
         "\"rope_theta\":1000000.0,\"sliding_window\":null,\"num_local_experts\":8,\"num_experts_per_tok\":2,\"output_"
         "router_logits\":"
         "false,\"router_aux_loss_coef\":0.02,\"tie_word_embeddings\":false,\"hidden_act\":\"silu\"}"},
        {"Qwen2.5-0.5B", "{\"model_type\":\"qwen2\",\"vocab_size\":151936,\"hidden_size\":896,\"intermediate_size\":"
                         "4864,\"num_hidden_layers\":24,"
                         "\"num_attention_heads\":14,\"num_key_value_heads\":2,\"max_position_embeddings\":32768,\"max_"
                         "window_layers\":24,"
                         "\"rms_norm_eps\":1e-06,\"rope_theta\":1000000.0,\"sliding_window\":32768,\"use_sliding_"
                         "window\":false,\"use_mrope\":false,"
                         "\"tie_word_embeddings\":true,\"hidden_act\":\"silu\"}"},
        {"Qwen3-0.6B",
         "{\"model_type\":\"qwen3\",\"vocab_size\":151936,\"hidden_size\":1024,\"intermediate_size\":3072,\"num_hidden_"
         "layers\":28,"
         "\"num_attention_heads\":16,\"num_key_value_heads\":8,\"head_dim\":128,\"max_position_embeddings\":40960,"
         "\"max_window_layers\":28,\"rms_norm_eps\":1e-06,\"rope_theta\":1000000,\"rope_scaling\":null,\"sliding_"
         "window\":null,"
         "\"use_sliding_window\":false,\"attention_bias\":false,\"tie_word_embeddings\":true,\"hidden_act\":\"silu\"}"},
        {"Qwen3-30B-A3B",
         "{\"model_type\":\"qwen3_moe\",\"vocab_size\":151936,\"hidden_size\":2048,\"intermediate_size\":6144,\"num_"
         "hidden_layers\":48,"
         "\"num_attention_heads\":32,\"num_key_value_heads\":4,\"head_dim\":128,\"max_position_embeddings\":40960,"
         "\"max_window_layers\":48,\"rms_norm_eps\":1e-06,\"rope_theta\":1000000.0,\"rope_scaling\":null,\"sliding_"
         "window\":null,"
         "\"use_sliding_window\":false,\"attention_bias\":false,\"decoder_sparse_step\":1,\"mlp_only_layers\":[],"
         "\"moe_intermediate_size\":768,\"norm_topk_prob\":true,\"num_experts\":128,\"num_experts_per_tok\":8,"
         "\"output_router_logits\":false,\"router_aux_loss_coef\":0.001,\"tie_word_embeddings\":false,\"hidden_act\":"
         "\"silu\"}"},
        {"OLMoE-1B-7B-0924",
         "{\"model_type\":\"olmoe\",\"vocab_size\":50304,\"hidden_size\":2048,\"intermediate_size\":1024,\"num_hidden_"
         "layers\":16,"
         "\"num_attention_heads\":16,\"num_key_value_heads\":16,\"max_position_embeddings\":4096,\"rms_norm_eps\":1e-"
         "05,"
         "\"rope_theta\":10000.0,\"rope_scaling\":null,\"attention_bias\":false,\"clip_qkv\":null,\"norm_topk_prob\":"
         "false,"
         "\"num_experts\":64,\"num_experts_per_tok\":8,\"output_router_logits\":false,\"router_aux_loss_coef\":0.01,"
         "\"tie_word_embeddings\":false,\"hidden_act\":\"silu\"}"},
        {"SmolLM3-3B", "{\"model_type\":\"smollm3\",\"vocab_size\":128256,\"hidden_size\":2048,\"intermediate_size\":"
                       "11008,\"num_hidden_layers\":8,"
                       "\"num_attention_heads\":16,\"num_key_value_heads\":4,\"max_position_embeddings\":65536,\"max_"
                       "window_layers\":28,"
                       "\"rms_norm_eps\":1e-06,\"rope_theta\":5000000.0,\"rope_scaling\":null,\"sliding_window\":null,"
                       "\"use_sliding_window\":false,"
                       "\"attention_bias\":false,\"mlp_bias\":false,\"no_rope_layer_interval\":4,\"no_rope_layers\":[1,"
                       "1,1,0,1,1,1,0],"
                       "\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\","
                       "\"full_attention\","
                       "\"full_attention\",\"full_attention\",\"full_attention\"],\"tie_word_embeddings\":true,"
                       "\"hidden_act\":\"silu\"}"},
        {"gemma-2-2b", "{\"model_type\":\"gemma2\",\"vocab_size\":256000,\"hidden_size\":2304,\"intermediate_size\":"
                       "9216,\"num_hidden_layers\":26,"
                       "\"num_attention_heads\":8,\"num_key_value_heads\":4,\"head_dim\":256,\"max_position_"
                       "embeddings\":8192,\"rms_norm_eps\":1e-06,"
                       "\"rope_theta\":10000.0,\"attention_bias\":false,\"attn_logit_softcapping\":50.0,\"final_logit_"
                       "softcapping\":30.0,"
                       "\"cache_implementation\":\"hybrid\",\"query_pre_attn_scalar\":256,\"sliding_window\":4096,"
                       "\"hidden_act\":\"gelu_pytorch_tanh\",\"hidden_activation\":\"gelu_pytorch_tanh\"}"},
        {"gemma-2-27b",
         "{\"model_type\":\"gemma2\",\"vocab_size\":256000,\"hidden_size\":4608,\"intermediate_size\":36864,\"num_"
         "hidden_layers\":46,"
         "\"num_attention_heads\":32,\"num_key_value_heads\":16,\"head_dim\":128,\"max_position_embeddings\":8192,"
         "\"rms_norm_eps\":1e-06,\"rope_theta\":10000.0,\"attention_bias\":false,\"attn_logit_softcapping\":50.0,"
         "\"final_logit_softcapping\":30.0,\"query_pre_attn_scalar\":144,\"sliding_window\":4096,"
         "\"hidden_activation\":\"gelu_pytorch_tanh\"}"},
        {"gemma-3-1b",
         "{\"model_type\":\"gemma3_text\",\"vocab_size\":262144,\"hidden_size\":1152,\"intermediate_size\":6912,\"num_"
         "hidden_layers\":"
         "26,\"num_attention_heads\":4,\"num_key_value_heads\":1,\"head_dim\":256,\"max_position_embeddings\":32768,"
         "\"rms_norm_eps\":"
         "1e-06,\"rope_theta\":1000000,\"rope_local_base_freq\":10000,\"rope_scaling\":null,\"attention_bias\":false,"
         "\"attn_logit_softcapping\":null,\"final_logit_softcapping\":null,\"query_pre_attn_scalar\":256,\"sliding_"
         "window\":512,"
         "\"sliding_window_pattern\":6,\"cache_implementation\":\"hybrid\",\"hidden_activation\":\"gelu_pytorch_"
         "tanh\"}"},
    };
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        tl_arch arch;
        tl_gguf_out *out;
        tl_error err = {0};
        const char *config = published[i].config;
        if (tl__arch_parse(&arch, config, strlen(config), published[i].name, &err)) fail_msg("%s", err.text);
        assert_int_equal(tl__gguf_create(&out, in_folder("said.gguf"), &err), 0);
        const int status = tl__arch_to_gguf(out, &arch, &err);
        tl__gguf_abandon(out);
        if (!status != (strcmp(published[i].name, "Mistral-7B-v0.1") != 0) ||
            (status && !strstr(err.text, "'sliding_window' is 4096")))
            fail_msg("%s: %s", published[i].name, status ? err.text : "was not refused");
    }
}

/* Those of families.h say what GGUF cannot; these do not. */
static const test_family said_families[] = {
    {"smollm3", "{\"model_type\":\"smollm3\"," FAMILY_SIZES "\"num_hidden_layers\":5}"},
    {"mistral", "{\"model_type\":\"mistral\"," FAMILY_SIZES "\"num_hidden_layers\":2,\"head_dim\":12,"
                "\"sliding_window\":null}"},
    {"qwen2", "{\"model_type\":\"qwen2\"," FAMILY_SIZES "\"num_hidden_layers\":2,\"tie_word_embeddings\":true,"
              "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":24}}"},
    {"gemma2", "{\"model_type\":\"gemma2\"," FAMILY_SIZES "\"num_hidden_layers\":3,\"head_dim\":16,"
               "\"query_pre_attn_scalar\":16,\"sliding_window\":33,\"attn_logit_softcapping\":5,"
               "\"final_logit_softcapping\":12}"},
    {"qwen3_moe", "{\"model_type\":\"qwen3_moe\"," FAMILY_SIZES "\"num_hidden_layers\":2,\"head_dim\":12,"
                  "\"num_experts\":20,\"num_experts_per_tok\":4,\"moe_intermediate_size\":24,"
                  "\"norm_topk_prob\":true}"},
    {"olmoe", "{\"model_type\":\"olmoe\"," FAMILY_SIZES "\"num_hidden_layers\":2,\"num_experts\":9,"
              "\"num_experts_per_tok\":3}"},
};

static void check_types(const char *name, const char *config) {
    static const struct {
        tl_type type;
        tl_dtype dtype;
        tl_contract contract;
    } exact[] = {{TL_F32, TL_DTYPE_AUTO, TL_CONTRACT_F32},   {TL_F16, TL_DTYPE_AUTO, TL_CONTRACT_F32},
                 {TL_BF16, TL_DTYPE_AUTO, TL_CONTRACT_BF16}, {TL_BF16, TL_DTYPE_F32, TL_CONTRACT_F32},
                 {TL_Q8_0, TL_DTYPE_F32, TL_CONTRACT_F32},   {TL_Q8_0, TL_DTYPE_BF16, TL_CONTRACT_BF16}};
    for (size_t k = 0; k < sizeof exact / sizeof *exact; k++) {
        char what[128];
        const char *path = in_folder("model.gguf");
        tl_model m = make(config);
        tl_ctx with = ctx;
        write_gguf(path, &m, exact[k].type, NULL, NULL);
        round_to(&m, exact[k].type);
        snprintf(what, sizeof what, "%s in %s, dtype %d", name, tl__type_name(exact[k].type), exact[k].dtype);
        tl_model read = open_as(path, exact[k].dtype);
        with.contract = exact[k].contract;
        float *want = compute(&m, &with, 0);
        with.contract = exact[k].dtype == TL_DTYPE_BF16 ? TL_CONTRACT_BF16 : TL_CONTRACT_F32;
        float *got = compute(&read, &with, 0);
        same(what, got, want, T - 1 + m.arch.V);
        tl__model_close(&read);
        setenv("TRILITH_MMAP", "0", 1); /* read, not mapped */
        read = open_as(path, exact[k].dtype);
        unsetenv("TRILITH_MMAP");
        free(got);
        got = compute(&read, &with, 0);
        same(what, got, want, T - 1 + m.arch.V);
        free(got), free(want);
        tl__model_close(&read), tl__model_close(&m);
    }
}

static void test_every_type_computes_what_it_holds(void **state) {
    (void)state;
    int n = 0;
    for (int i = 0; i < TEST_FAMILIES; i++) {
        tl_arch arch;
        tl_gguf_out *out;
        tl_error err = {0};
        const char *config = test_families[i].config;
        assert_int_equal(tl__arch_parse(&arch, config, strlen(config), "config", &err), 0);
        assert_int_equal(tl__gguf_create(&out, in_folder("said.gguf"), &err), 0);
        bool can = tl__arch_to_gguf(out, &arch, &err) == 0;
        tl__gguf_abandon(out);
        if (can) check_types(test_families[i].name, config), n++;
    }
    for (size_t i = 0; i < sizeof said_families / sizeof *said_families; i++)
        check_types(said_families[i].name, said_families[i].config), n++;
    assert_true(n >= 6 + (int)(sizeof said_families / sizeof *said_families));
}

/* ---- L1 in each type ---- */

static const char wide[] =
    "{\"model_type\":\"llama\",\"vocab_size\":331,\"hidden_size\":256,\"intermediate_size\":512,\"num_hidden_layers\":"
    "2,"
    "\"num_attention_heads\":8,\"num_key_value_heads\":2,\"max_position_embeddings\":96,\"rms_norm_eps\":1e-5,"
    "\"initializer_range\":0.05,\"tie_word_embeddings\":true}";

static void test_bits_do_not_depend_on_chunks_threads_or_cpu(void **state) {
    (void)state;
    static const tl_type types[] = {TL_F32, TL_F16, TL_BF16, TL_Q8_0, TL_Q4_0, TL_Q4_K, TL_Q6_K};
    const tl_ops *best = ctx.ops;
    for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
        const char *path = in_folder("wide.gguf");
        tl_model m = make(wide), plain = make(wide);
        tl_error err = {0};
        tl_ctx pair;
        write_gguf(path, &m, types[k], NULL, NULL);
        tl_model read = open_as(path, TL_DTYPE_AUTO);
        const int64_t n = T - 1 + m.arch.V;
        float *want = compute(&read, &ctx, 0);
        assert_int_equal(tl__ctx_open(&pair, 2, NULL, &err), 0);
        for (int chunk = 1; chunk < T; chunk += 22) {
            float *got = compute(&read, chunk % 2 ? &pair : &ctx, chunk);
            same(tl__type_name(types[k]), got, want, n);
            free(got);
        }
        if (k < 3 || k == 4) { /* ref is slow, and each kind of product once is enough here */
            assert_int_equal(tl__ops_select(&ctx.ops, "ref", &err), 0);
            float *got = compute(&read, &ctx, 0);
            same(tl__type_name(types[k]), got, want, n);
            free(got);
            ctx.ops = best;
        }
        /* Near what its numbers give in f32: inputs of 8 bits by 32 move a logit by some 2^-8 of the largest. */
        round_to(&plain, types[k]);
        float *close = compute(&plain, &ctx, 0);
        vectors_near(tl__type_name(types[k]), want + T - 1, close + T - 1, m.arch.V,
                     tl__type_quantised(types[k]) ? 0x1p-5
                     : types[k] == TL_BF16        ? 0x1p-6
                                                  : 0x1p-20);
        free(want), free(close);
        tl__ctx_close(&pair);
        tl__model_close(&read), tl__model_close(&m), tl__model_close(&plain);
    }
}

/* ---- what is refused ---- */

static void put_unknown(tl_gguf_out *out) {
    float x = 2;
    assert_int_equal(tl__gguf_put(out, "llama.attention.scale", TL_GGUF_F32, false, &x, NULL, 1, NULL), 0);
}

static void refuse(const char *path, const char *with) {
    tl_weight_source *source = NULL;
    tl_arch arch;
    tl_model m;
    tl_error err = {0};
    int status = tl__source_open(&source, path, &err);
    if (!status && (status = tl__source_arch(&arch, source, &err))) tl__source_close(source);
    else if (!status && !(status = tl__model_open(&m, source, &arch, 0, TL_DTYPE_AUTO, NULL, NULL, NULL, &err)))
        tl__model_close(&m);
    if (!status || !strstr(err.text, with)) fail_msg("wanted '%s', got: %s", with, status ? err.text : "no refusal");
}

static void test_a_wrong_file_is_refused_by_name(void **state) {
    (void)state;
    tl_model m = make(wide);
    const char *path = in_folder("wrong.gguf");
    write_gguf(path, &m, TL_F16, NULL, put_unknown);
    refuse(path, "'llama.attention.scale' is not a key of a llama model");
    write_gguf(path, &m, TL_F16, "blk.1.ffn_up.weight", NULL);
    refuse(path, "lack tensor 'blk.1.ffn_up.weight'");
    m.arch.Hkv = 4; /* the metadata say more key heads than the tensors have */
    write_gguf(path, &m, TL_F16, NULL, NULL);
    refuse(path,
           "tensor 'blk.0.attn_k.weight' should have shape [128, 256] by the metadata, but the file's is [64, 256]");
    m.arch.Hkv = 2, m.arch.tied = false;
    write_gguf(path, &m, TL_F16, NULL, NULL);
    m.arch.L = 1; /* one layer too many */
    tl__model_close(&m);
    tl_model two = make(wide);
    two.arch.L = 1;
    write_gguf(path, &two, TL_F16, NULL, NULL);
    refuse(path, "tensor 'blk.1.attn_norm.weight' belongs to no part of a llama model");
    two.arch.L = 2;
    assert_int_equal(tl__folder_make(in_folder("several"), NULL), 0);
    write_gguf(in_folder("several/b.gguf"), &two, TL_F16, NULL, NULL);
    tl_model one = open_as(in_folder("several"), TL_DTYPE_AUTO);
    tl__model_close(&one);
    write_gguf(in_folder("several/a.gguf"), &two, TL_F16, NULL, NULL);
    refuse(in_folder("several"), "holds 2 .gguf files and no config.json");
    tl__model_close(&two);
}

/* ---- memory ---- */

static const char large[] =
    "{\"model_type\":\"llama\",\"vocab_size\":4096,\"hidden_size\":768,\"intermediate_size\":2048,\"num_hidden_"
    "layers\":6,"
    "\"num_attention_heads\":12,\"num_key_value_heads\":6,\"max_position_embeddings\":512,\"rms_norm_eps\":1e-5,"
    "\"tie_word_embeddings\":true}";

/* What a process that opens the model and computes with it holds at most, in bytes; what it held before in *before. */
static int64_t peak_of(const char *path, tl_dtype dtype, int64_t *predicted) {
    int ends[2];
    int64_t numbers[2] = {0};
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        struct rusage use;
        tl_error err = {0};
        tl_weight_source *source;
        tl_arch arch;
        tl_model m;
        tl_model_size size;
        tl_ctx own;
        tl_session *s;
        static int32_t ids[512];
        getrusage(RUSAGE_SELF, &use);
        int64_t before = use.ru_maxrss * 1024;
        int status = tl__source_open(&source, path, &err) || tl__source_arch(&arch, source, &err) ||
                     tl__model_size(&size, source, &arch, 0, dtype, &err) || tl__ctx_open(&own, 1, NULL, &err) ||
                     tl__model_open(&m, source, &arch, 0, dtype, own.pool, NULL, NULL, &err) ||
                     tl__session_open(&s, &m, &own, 512, 256, &err) || tl__session_append(s, ids, 300, NULL, &err);
        getrusage(RUSAGE_SELF, &use);
        numbers[0] = use.ru_maxrss * 1024;
        numbers[1] = before + size.total_bytes + (int64_t)tl__session_bytes(&arch, 512, 256) -
                     (int64_t)tl__session_scoring_bytes(&arch, 512, 256) + (int64_t)tl__ops_workspace_bytes(1);
        if (status) fprintf(stderr, "%s\n", err.text);
        ssize_t n = write(ends[1], numbers, sizeof numbers);
        _exit(status || n != sizeof numbers);
    }
    int how;
    close(ends[1]);
    assert_int_equal(read(ends[0], numbers, sizeof numbers), sizeof numbers);
    close(ends[0]);
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_int_equal(how, 0);
    *predicted = numbers[1];
    return numbers[0];
}

static void test_memory_is_what_was_said(void **state) {
    (void)state;
    if (SANITIZED) skip();
    static const tl_type types[] = {TL_Q8_0, TL_F16, TL_F32};
    for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
        int64_t predicted;
        tl_model m = make(large);
        write_gguf(in_folder("large.gguf"), &m, types[k], NULL, NULL);
        tl__model_close(&m);
        int64_t peak = peak_of(in_folder("large.gguf"), TL_DTYPE_AUTO, &predicted);
        if (getenv("TRILITH_TEST_SHOW"))
            printf("  %s: %.1f MB of %.1f predicted\n", tl__type_name(types[k]), (double)peak * 1e-6,
                   (double)predicted * 1e-6);
        if (peak > predicted * 11 / 10 || peak < predicted * 9 / 10)
            fail_msg("%s: the peak was %lld bytes, predicted %lld", tl__type_name(types[k]), (long long)peak,
                     (long long)predicted);
    }
}

/* The file is cut off behind its header, so that reading would fail otherwise. */
static void test_what_is_no_longer_wanted_is_not_read(void **state) {
    (void)state;
    const char *path = in_folder("unwanted.gguf");
    tl_weight_source *source;
    tl_arch arch;
    tl_error err = {0};
    tl_model m = make(large);
    write_gguf(path, &m, TL_Q8_0, NULL, NULL);
    tl__model_close(&m);
    setenv("TRILITH_MMAP", "0", 1);
    for (int wanted = 0; wanted < 2; wanted++) {
        const atomic_bool stop = !wanted;
        if (tl__source_open(&source, path, &err) || tl__source_arch(&arch, source, &err)) fail_msg("%s", err.text);
        if (wanted == 0) assert_int_equal(truncate(path, 100), 0);
        const int status = tl__model_open(&m, source, &arch, 0, TL_DTYPE_AUTO, ctx.pool, NULL, &stop, &err);
        if (status != (wanted ? 0 : TL_ESTOPPED)) fail_msg("%d: %s", status, err.text);
        if (!wanted) {
            m = make(large);
            write_gguf(path, &m, TL_Q8_0, NULL, NULL);
        }
        tl__model_close(&m);
    }
    unsetenv("TRILITH_MMAP");
}

typedef struct guest {
    int status, runs;
} guest;
static int visit(void *user, tl_error *err) {
    guest *g = user;
    g->runs++;
    return g->status ? tl__fail(err, g->status, "the guest fell") : 0;
}

/* By any number of threads; where either fails, or nothing is wanted any more, there is no model and the reason is
 * told. */
static void test_what_is_beside_is_done_once(void **state) {
    (void)state;
    const char *path = in_folder("beside.gguf");
    tl_model m = make(large);
    write_gguf(path, &m, TL_Q8_0, NULL, NULL);
    tl__model_close(&m);
    enum { FINE, GUEST_FALLS, FILE_IS_SHORT, UNWANTED, CASES };
    static const int want[CASES] = {0, TL_EBUSY, TL_EDAMAGED, TL_ESTOPPED};
    static const char *const says[CASES] = {"", "the guest fell", "was cut short", "no longer wanted"};
    setenv("TRILITH_MMAP", "0", 1);
    for (int threads = 0; threads < 4; threads++) /* 0: no pool */
        for (int k = 0; k < CASES; k++) {
            guest g = {.status = k == GUEST_FALLS ? TL_EBUSY : 0};
            const tl_beside beside = {visit, &g};
            const atomic_bool stop = k == UNWANTED;
            tl_weight_source *source;
            tl_arch arch;
            tl_error err = {0};
            tl_pool *pool = NULL;
            if (threads && tl__pool_open(&pool, threads, &err)) fail_msg("%s", err.text);
            if (tl__source_open(&source, path, &err) || tl__source_arch(&arch, source, &err)) fail_msg("%s", err.text);
            struct stat whole;
            assert_int_equal(stat(path, &whole), 0);
            if (k == FILE_IS_SHORT) assert_int_equal(truncate(path, whole.st_size / 2), 0);
            const int status = tl__model_open(&m, source, &arch, 0, TL_DTYPE_AUTO, pool, &beside, &stop, &err);
            if (status != want[k] || (status && !strstr(err.text, says[k])))
                fail_msg("case %d, %d threads: %d, %s", k, threads, status, err.text);
            if (g.runs != (k != UNWANTED) && !(k == FILE_IS_SHORT && g.runs == 0)) /* its end may come first */
                fail_msg("case %d, %d threads: the guest came %d times", k, threads, g.runs);
            assert_true(!m.weight == (status != 0));
            if (!status) tl__model_close(&m);
            if (k == FILE_IS_SHORT) {
                m = make(large);
                write_gguf(path, &m, TL_Q8_0, NULL, NULL);
                tl__model_close(&m);
            }
            tl__pool_close(pool);
        }
    unsetenv("TRILITH_MMAP");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_is_what_was_said),
        cmocka_unit_test(test_converted_files_are_their_models),
        cmocka_unit_test(test_what_gguf_cannot_say_is_refused),
        cmocka_unit_test(test_published_models_can_be_said),
        cmocka_unit_test(test_every_type_computes_what_it_holds),
        cmocka_unit_test(test_bits_do_not_depend_on_chunks_threads_or_cpu),
        cmocka_unit_test(test_a_wrong_file_is_refused_by_name),
        cmocka_unit_test(test_what_is_no_longer_wanted_is_not_read),
        cmocka_unit_test(test_what_is_beside_is_done_once),
    };
    return cmocka_run_group_tests(tests, begin, finish);
}
