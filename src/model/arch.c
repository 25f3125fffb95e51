/* arch.c — owns the architecture record: opened from a preset, a file or a folder, checked, and written back.
 *
 * The keys of each family are in arch_families.c, RoPE's parameters in arch_rope.c; here is what all have in common. */
#include "model/arch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "model/arch_parts.h"
#include "model/gguf_model.h"
#include "model/source.h"

enum { CONFIG_LIMIT_BYTES = 1 << 20, MOST_EXPERTS = 1 << 16 };

/* ---- asking for fields ---- */

bool tl__arch_listed(const char *const *keys, const char *key) {
    for (; *keys; keys++)
        if (strcmp(*keys, key) == 0) return true;
    return false;
}

int tl__arch_require_bool(const json_t *config, const char *key, bool wanted, const char *where, tl_error *err) {
    bool value;
    TRY(tl__json_bool_or(config, key, wanted, &value, where, err));
    if (value != wanted)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: '%s' is %s; only %s is supported", where, key,
                        value ? "true" : "false", wanted ? "true" : "false");
    return 0;
}

int tl__arch_require_string(const json_t *config, const char *key, const char *fallback, const char *const *wanted,
                            const char *where, tl_error *err) {
    const char *value;
    TRY(tl__json_string_or(config, key, fallback, &value, where, err));
    if (!tl__arch_listed(wanted, value))
        return tl__fail(err, TL_EUNSUPPORTED, "%s: '%s' is '%s'; only '%s' is supported", where, key, value, wanted[0]);
    return 0;
}

int tl__arch_int(const json_t *config, const char *key, int64_t least, int64_t most, int64_t fallback, int *out,
                 const char *where, tl_error *err) {
    int64_t value;
    int status = fallback < least ? tl__json_int(config, key, least, most, &value, where, err)
                                  : tl__json_int_or(config, key, least, most, fallback, &value, where, err);
    if (status == 0) *out = (int)value;
    return status;
}

/* bos_token_id and eos_token_id may be a number, a list (the first counts) or null. */
static int read_token_id(const json_t *config, const char *key, int *out, const char *where, tl_error *err) {
    const json_t *value = json_object_get(config, key);
    if (json_is_array(value)) value = json_array_get(value, 0);
    *out = -1;
    if (!value || json_is_null(value)) return 0;
    if (!json_is_integer(value) || json_integer_value(value) < -1 || json_integer_value(value) > INT32_MAX)
        return tl__fail(err, TL_EFORMAT, "%s: '%s' should be a token id", where, key);
    *out = (int)json_integer_value(value);
    return 0;
}

/* ---- the record ---- */

int tl__arch_check(const tl_arch *a, const char *where, tl_error *err) {
    if (a->H % a->Hkv)
        return tl__fail(err, TL_EINVALID,
                        "%s: %d attention heads cannot share %d key/value heads evenly; choose a divisor of %d", where,
                        a->H, a->Hkv, a->H);
    if (a->L > TL_MAX_LAYERS)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: %d layers; at most %d are supported", where, a->L, TL_MAX_LAYERS);
    if (a->D > TL_MAX_HEAD_DIM)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: a head is %d wide; at most %d is supported", where, a->D,
                        TL_MAX_HEAD_DIM);
    if (a->positions == TL_POS_ROPE && a->D % 2)
        return tl__fail(err, TL_EINVALID, "%s: a head is %d wide, but rotary positions need an even width", where,
                        a->D);
    if (a->top_k > a->E)
        return tl__fail(err, TL_EINVALID, "%s: a row cannot go to %d of %d experts", where, a->top_k, a->E);
    if ((int64_t)a->E * a->L > MOST_EXPERTS)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: %d experts in %d layers; at most %d in all are supported", where,
                        a->E, a->L, MOST_EXPERTS);
    if ((int64_t)a->H * a->D > TL_MOST_WIDTH || (int64_t)a->V * a->C > INT64_C(1) << 40)
        return tl__fail(err, TL_EINVALID,
                        "%s: 'vocab_size' %d of width %d, or %d heads of %d, are more than this version can address",
                        where, a->V, a->C, a->H, a->D);
    return 0;
}

int tl__arch_window(const tl_arch *a, int layer) {
    return a->layer[layer].sliding ? a->window : 0;
}

bool tl__arch_gated(const tl_arch *a) {
    return a->act != TL_ACT_GELU_TANH;
}

static int parse(tl_arch *a, const json_t *config, const char *where, tl_error *err) {
    const char *type;
    if (!json_is_object(config)) return tl__fail(err, TL_EFORMAT, "%s: should hold a JSON object", where);
    TRY(tl__json_string_or(config, "model_type", "", &type, where, err));
    snprintf(a->family, sizeof a->family, "%s", type);
    TRY(tl__arch_int(config, "vocab_size", 1, TL_MOST_VOCAB, 0, &a->V, where, err));
    TRY(tl__json_real_or(config, "initializer_range", 0.0, 100.0, 0.02, &a->init_std, where, err));
    TRY(read_token_id(config, "bos_token_id", &a->bos, where, err));
    TRY(read_token_id(config, "eos_token_id", &a->eos, where, err));
    TRY(read_token_id(config, "pad_token_id", &a->pad, where, err));
    TRY(tl__family_parse(a, config, where, err));
    return tl__arch_check(a, where, err);
}

int tl__arch_parse(tl_arch *arch, const char *bytes, size_t size, const char *where, tl_error *err) {
    json_t *config = tl__json_parse(bytes, size, where, err);
    if (!config) return err ? err->status : TL_EFORMAT;
    tl_arch a = {.embed_scale = 1};
    int status = parse(&a, config, where, err);
    if (!status) *arch = a;
    json_decref(config);
    return status;
}

/* ---- presets ---- */

typedef struct preset {
    const char *name, *about, *config;
} preset;

/* vocab_size 1 stands for "the tokenizer's". */
static const preset presets[] = {
    {"demo", "llama, 4 layers, 256 wide: five minutes on two cores",
     "{\"model_type\":\"llama\",\"vocab_size\":1,\"hidden_size\":256,\"intermediate_size\":688,\"num_hidden_layers\":4,"
     "\"num_attention_heads\":4,\"num_key_value_heads\":4,\"max_position_embeddings\":1024,\"rms_norm_eps\":1e-5,"
     "\"tie_word_embeddings\":true}"},
    {"tiny", "llama, 2 layers, 64 wide: for trying things out",
     "{\"model_type\":\"llama\",\"vocab_size\":1,\"hidden_size\":64,\"intermediate_size\":176,\"num_hidden_layers\":2,"
     "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"max_position_embeddings\":512,\"rms_norm_eps\":1e-5,"
     "\"tie_word_embeddings\":true}"},
    {"nano", "gpt2, 6 layers, 384 wide, 256 positions: nanoGPT's small model",
     "{\"model_type\":\"gpt2\",\"vocab_size\":1,\"n_embd\":384,\"n_layer\":6,\"n_head\":6,\"n_positions\":256}"},
    {"gpt2-124m", "gpt2, 12 layers, 768 wide, 50257 tokens: GPT-2 small",
     "{\"model_type\":\"gpt2\",\"vocab_size\":50257,\"n_embd\":768,\"n_layer\":12,\"n_head\":12,\"n_positions\":1024}"},
    {"smollm2-135m", "llama, 30 layers, 576 wide, 49152 tokens, 9 heads on 3",
     "{\"model_type\":\"llama\",\"vocab_size\":49152,\"hidden_size\":576,\"intermediate_size\":1536,"
     "\"num_hidden_layers\":30,\"num_attention_heads\":9,\"num_key_value_heads\":3,\"max_position_embeddings\":8192,"
     "\"rms_norm_eps\":1e-5,\"rope_theta\":100000,\"initializer_range\":0.041666666666666664,"
     "\"tie_word_embeddings\":true}"},
    {"qwen3-0.6b", "qwen3, 28 layers, 1024 wide, 151936 tokens, 16 heads on 8",
     "{\"model_type\":\"qwen3\",\"vocab_size\":151936,\"hidden_size\":1024,\"intermediate_size\":3072,"
     "\"num_hidden_layers\":28,\"num_attention_heads\":16,\"num_key_value_heads\":8,\"head_dim\":128,"
     "\"max_position_embeddings\":40960,\"rms_norm_eps\":1e-6,\"rope_theta\":1000000,\"tie_word_embeddings\":true}"},
    {"llama-3.2-1b", "llama, 16 layers, 2048 wide, 128256 tokens, 32 heads on 8",
     "{\"model_type\":\"llama\",\"vocab_size\":128256,\"hidden_size\":2048,\"intermediate_size\":8192,"
     "\"num_hidden_layers\":16,\"num_attention_heads\":32,\"num_key_value_heads\":8,\"head_dim\":64,"
     "\"max_position_embeddings\":131072,\"rms_norm_eps\":1e-5,\"rope_theta\":500000,"
     "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32,\"low_freq_factor\":1,\"high_freq_factor\":4,"
     "\"original_max_position_embeddings\":8192},\"tie_word_embeddings\":true}"},
    {"moe-50m", "mixtral, 6 layers, 384 wide, 8 experts of which 2 a token",
     "{\"model_type\":\"mixtral\",\"vocab_size\":1,\"hidden_size\":384,\"intermediate_size\":832,\"num_hidden_layers\":"
     "6,"
     "\"num_attention_heads\":6,\"num_key_value_heads\":6,\"num_local_experts\":8,\"num_experts_per_tok\":2,"
     "\"router_aux_loss_coef\":0.01,\"max_position_embeddings\":1024,\"rms_norm_eps\":1e-5,\"rope_theta\":10000,"
     "\"tie_word_embeddings\":true}"},
    {"gemma3-270m", "gemma3, 18 layers, 640 wide, 262144 tokens, windows of 512",
     "{\"model_type\":\"gemma3_text\",\"vocab_size\":262144,\"hidden_size\":640,\"intermediate_size\":2048,"
     "\"num_hidden_layers\":18,\"num_attention_heads\":4,\"num_key_value_heads\":1,\"head_dim\":256,"
     "\"max_position_embeddings\":32768,\"sliding_window\":512,\"query_pre_attn_scalar\":256}"},
};
enum { PRESETS = sizeof presets / sizeof presets[0] };

const char *const *tl__arch_presets(void) {
    static char lines[PRESETS][96];
    static const char *list[PRESETS + 1];
    for (int i = 0; i < PRESETS; i++) {
        snprintf(lines[i], sizeof lines[i], "%-13s %s", presets[i].name, presets[i].about);
        list[i] = lines[i];
    }
    return list;
}

bool tl__arch_is_preset(const char *name) {
    for (int i = 0; i < PRESETS; i++)
        if (strcmp(name, presets[i].name) == 0) return true;
    return false;
}

int tl__arch_open(tl_arch *arch, const char *spec, tl_error *err) {
    for (int i = 0; i < PRESETS; i++)
        if (strcmp(spec, presets[i].name) == 0)
            return tl__arch_parse(arch, presets[i].config, strlen(presets[i].config), presets[i].name, err);
    char path[4096];
    if (!tl__path_exists(spec)) {
        const char *names[PRESETS];
        for (int i = 0; i < PRESETS; i++) names[i] = presets[i].name;
        const char *near = tl__nearest_name(spec, names, PRESETS);
        char all[PRESETS * 16] = "";
        for (int i = 0; i < PRESETS; i++) {
            size_t used = strlen(all);
            snprintf(all + used, sizeof all - used, "%s%s", i ? ", " : "", names[i]);
        }
        return tl__fail(err, TL_ENOTFOUND,
                        "model '%.200s' is neither a preset nor a config.json, a GGUF file or a model folder; %s%s%s",
                        spec, near ? "did you mean '" : "presets are ", near ? near : all, near ? "'?" : "");
    }
    tl_gguf *gguf;
    TRY(tl__source_gguf_path(path, sizeof path, spec, err));
    if (path[0]) {
        TRY(tl__gguf_open(&gguf, path, err));
        int status = tl__arch_from_gguf(arch, gguf, err);
        tl__gguf_close(gguf);
        return status;
    }
    if (tl__path_is_folder(spec)) tl__path_join(path, sizeof path, spec, "config.json");
    else snprintf(path, sizeof path, "%s", spec);
    char *bytes;
    size_t size;
    int status = tl__file_slurp(&bytes, &size, path, CONFIG_LIMIT_BYTES, err);
    if (status) return status;
    status = tl__arch_parse(arch, bytes, size, path, err);
    free(bytes);
    return status;
}

/* ---- writing ---- */

static json_t *token_id(int id) {
    return id < 0 ? json_null() : json_integer(id);
}

json_t *tl__arch_real(float x) {
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x) break;
    }
    return json_real(strtod(text, NULL));
}

char *tl__arch_config_json(const tl_arch *a) {
    json_t *c = json_object();
    json_object_set_new(c, "model_type", json_string(a->family));
    json_object_set_new(c, "dtype", json_string("float32"));
    json_object_set_new(c, "vocab_size", json_integer(a->V));
    json_object_set_new(c, "tie_word_embeddings", json_boolean(a->tied));
    json_object_set_new(c, "initializer_range", json_real(a->init_std));
    json_object_set_new(c, "bos_token_id", token_id(a->bos));
    json_object_set_new(c, "eos_token_id", token_id(a->eos));
    json_object_set_new(c, "pad_token_id", token_id(a->pad < a->V ? a->pad : -1));
    tl__family_write(c, a);
    char *out = json_dumps(c, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    json_decref(c);
    return out;
}

/* ---- cost ---- */

double tl__arch_model_flops_per_token(const tl_arch *a, int T) {
    tl_params params;
    if (tl__params_make(&params, a, NULL)) return 0;
    double n = 0, keys = 0;
    for (int i = 0; i < params.n; i++) {
        tl_role role = params.list[i].role;
        bool look_up_only = role == TL_ROLE_POSITION || (role == TL_ROLE_EMBED && !a->tied);
        bool expert = role == TL_ROLE_EXPERT_GATE || role == TL_ROLE_EXPERT_UP || role == TL_ROLE_EXPERT_DOWN;
        if (!look_up_only) n += (double)params.list[i].count * (expert ? (double)a->top_k / a->E : 1);
    }
    tl__params_free(&params);
    for (int l = 0; l < a->L; l++) {
        int window = tl__arch_window(a, l);
        keys += window > 0 && window < T ? window : T;
    }
    return 6.0 * n + 12.0 * a->H * (double)a->D * keys;
}
