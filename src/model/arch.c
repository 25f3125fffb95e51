/* arch.c — reads config.json into an architecture record, and writes one back.
 *
 * Each family is a table of the keys it knows: read, harmless, or required to have one value. A key that is in no table
 * is refused by name, because it might change the result. */
#include "model/arch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"

enum { CONFIG_LIMIT_BYTES = 1 << 20 };

/* ---- keys ---- */

/* Change nothing that is computed here: bookkeeping, generation defaults, and dropout, which Trilith does not apply. */
static const char *const harmless_keys[] = {"_name_or_path",
                                            "architectures",
                                            "attention_dropout",
                                            "attn_pdrop",
                                            "auto_map",
                                            "bad_words_ids",
                                            "begin_suppress_tokens",
                                            "chunk_size_feed_forward",
                                            "diversity_penalty",
                                            "do_sample",
                                            "dtype",
                                            "early_stopping",
                                            "embd_pdrop",
                                            "encoder_no_repeat_ngram_size",
                                            "finetuning_task",
                                            "forced_bos_token_id",
                                            "forced_eos_token_id",
                                            "id2label",
                                            "initializer_range",
                                            "is_decoder",
                                            "label2id",
                                            "length_penalty",
                                            "max_length",
                                            "min_length",
                                            "model_type",
                                            "n_ctx",
                                            "no_repeat_ngram_size",
                                            "num_beam_groups",
                                            "num_beams",
                                            "num_return_sequences",
                                            "output_attentions",
                                            "output_hidden_states",
                                            "output_scores",
                                            "pad_token_id",
                                            "prefix",
                                            "problem_type",
                                            "remove_invalid_values",
                                            "repetition_penalty",
                                            "resid_pdrop",
                                            "return_dict",
                                            "return_dict_in_generate",
                                            "sep_token_id",
                                            "summary_activation",
                                            "summary_first_dropout",
                                            "summary_proj_to_labels",
                                            "summary_type",
                                            "summary_use_proj",
                                            "suppress_tokens",
                                            "task_specific_params",
                                            "temperature",
                                            "tokenizer_class",
                                            "top_k",
                                            "top_p",
                                            "torch_dtype",
                                            "torchscript",
                                            "transformers_version",
                                            "typical_p",
                                            "use_bfloat16",
                                            "use_cache",
                                            "decoder_start_token_id",
                                            "tie_encoder_decoder",
                                            "unk_token_id",
                                            NULL};

static const char *const shared_keys[] = {"bos_token_id", "eos_token_id", "tie_word_embeddings", "vocab_size", NULL};

static const char *const llama_keys[] = {"attention_bias",    "head_dim",
                                         "hidden_act",        "hidden_size",
                                         "intermediate_size", "max_position_embeddings",
                                         "mlp_bias",          "num_attention_heads",
                                         "num_hidden_layers", "num_key_value_heads",
                                         "pretraining_tp",    "rms_norm_eps",
                                         "rope_parameters",   "rope_scaling",
                                         "rope_theta",        NULL};

static const char *const gpt2_keys[] = {"activation_function",
                                        "add_cross_attention",
                                        "layer_norm_epsilon",
                                        "n_embd",
                                        "n_head",
                                        "n_inner",
                                        "n_layer",
                                        "n_positions",
                                        "reorder_and_upcast_attn",
                                        "scale_attn_by_inverse_layer_idx",
                                        "scale_attn_weights",
                                        NULL};

static bool listed(const char *const *keys, const char *key) {
    for (; *keys; keys++)
        if (strcmp(*keys, key) == 0) return true;
    return false;
}

static int refuse_unknown_keys(const json_t *config, const char *const *family_keys, const char *family,
                               const char *where, tl_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)config, key, value) {
        if (listed(harmless_keys, key) || listed(shared_keys, key) || listed(family_keys, key)) continue;
        if (json_is_null(value)) continue;
        return tl__fail(
            err, TL_EUNSUPPORTED,
            "%s: '%s' is not a field of a %s model that this version knows, and it may change the result; remove it if "
            "it does not matter",
            where, key, family);
    }
    return 0;
}

/* A boolean field that is only supported with one value. */
static int require_bool(const json_t *config, const char *key, bool wanted, const char *where, tl_error *err) {
    bool value;
    int status = tl__json_bool_or(config, key, wanted, &value, where, err);
    if (status) return status;
    if (value != wanted)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: '%s' is %s; only %s is supported", where, key,
                        value ? "true" : "false", wanted ? "true" : "false");
    return 0;
}

static int require_string(const json_t *config, const char *key, const char *fallback, const char *const *wanted,
                          const char *where, tl_error *err) {
    const char *value;
    int status = tl__json_string_or(config, key, fallback, &value, where, err);
    if (status) return status;
    if (!listed(wanted, value))
        return tl__fail(err, TL_EUNSUPPORTED, "%s: '%s' is '%s'; only '%s' is supported", where, key, value, wanted[0]);
    return 0;
}

static int read_int(const json_t *config, const char *key, int64_t least, int64_t most, int64_t fallback, int *out,
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

/* ---- families ---- */

enum { MOST_WIDTH = 1 << 20, MOST_LAYERS = 1 << 12, MOST_VOCAB = 1 << 24, MOST_POSITIONS = 1 << 24 };

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        int try_status = (call);                                                                                       \
        if (try_status) return try_status;                                                                             \
    } while (0)

static int parse_llama_rope(tl_arch *a, const json_t *config, const char *where, tl_error *err) {
    const json_t *scaling = json_object_get(config, "rope_scaling");
    if (scaling && !json_is_null(scaling))
        return tl__fail(err, TL_EUNSUPPORTED, "%s: 'rope_scaling' is set; only plain RoPE is supported", where);
    TRY(tl__json_real_or(config, "rope_theta", 1.0, 1e12, 10000.0, &a->rope_theta, where, err));
    const json_t *rope = json_object_get(config, "rope_parameters");
    if (!rope || json_is_null(rope)) return 0;
    if (!json_is_object(rope)) return tl__fail(err, TL_EFORMAT, "%s: 'rope_parameters' should be an object", where);
    static const char *const plain[] = {"default", NULL};
    TRY(require_string(rope, "rope_type", "default", plain, where, err));
    TRY(tl__json_real_or(rope, "rope_theta", 1.0, 1e12, a->rope_theta, &a->rope_theta, where, err));
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)rope, key, value) {
        if (strcmp(key, "rope_type") && strcmp(key, "rope_theta") && strcmp(key, "type") && !json_is_null(value))
            return tl__fail(err, TL_EUNSUPPORTED, "%s: 'rope_parameters.%s' is not supported", where, key);
    }
    return 0;
}

static int parse_llama(tl_arch *a, const json_t *config, const char *where, tl_error *err) {
    static const char *const silu[] = {"silu", "swish", NULL};
    int64_t pretraining_tp;
    double eps;
    TRY(refuse_unknown_keys(config, llama_keys, "llama", where, err));
    TRY(read_int(config, "hidden_size", 1, MOST_WIDTH, 0, &a->C, where, err));
    TRY(read_int(config, "intermediate_size", 1, MOST_WIDTH, 0, &a->F, where, err));
    TRY(read_int(config, "num_hidden_layers", 1, MOST_LAYERS, 0, &a->L, where, err));
    TRY(read_int(config, "num_attention_heads", 1, MOST_WIDTH, 0, &a->H, where, err));
    TRY(read_int(config, "num_key_value_heads", 1, MOST_WIDTH, a->H, &a->Hkv, where, err));
    if (!json_is_integer(json_object_get(config, "head_dim")) && a->C % a->H)
        return tl__fail(err, TL_EINVALID, "%s: hidden_size %d cannot be divided into %d attention heads", where, a->C,
                        a->H);
    TRY(read_int(config, "head_dim", 1, TL_MAX_HEAD_DIM, a->C / a->H, &a->D, where, err));
    TRY(read_int(config, "max_position_embeddings", 1, MOST_POSITIONS, 2048, &a->max_positions, where, err));
    TRY(require_string(config, "hidden_act", "silu", silu, where, err));
    TRY(tl__json_real_or(config, "rms_norm_eps", 0.0, 1.0, 1e-6, &eps, where, err));
    TRY(tl__json_int_or(config, "pretraining_tp", 1, 1, 1, &pretraining_tp, where, err));
    TRY(tl__json_bool_or(config, "attention_bias", false, &a->attention_bias, where, err));
    TRY(tl__json_bool_or(config, "mlp_bias", false, &a->mlp_bias, where, err));
    TRY(tl__json_bool_or(config, "tie_word_embeddings", false, &a->tied, where, err));
    TRY(parse_llama_rope(a, config, where, err));
    a->norm = TL_NORM_RMS, a->norm_eps = (float)eps;
    a->positions = TL_POS_ROPE, a->act = TL_ACT_SWIGLU, a->layout = TL_OUT_IN;
    return 0;
}

static int parse_gpt2(tl_arch *a, const json_t *config, const char *where, tl_error *err) {
    static const char *const gelu_new[] = {"gelu_new", "gelu_pytorch_tanh", NULL};
    double eps;
    TRY(refuse_unknown_keys(config, gpt2_keys, "gpt2", where, err));
    TRY(read_int(config, "n_embd", 1, MOST_WIDTH, 768, &a->C, where, err));
    TRY(read_int(config, "n_layer", 1, MOST_LAYERS, 12, &a->L, where, err));
    TRY(read_int(config, "n_head", 1, MOST_WIDTH, 12, &a->H, where, err));
    TRY(read_int(config, "n_positions", 1, MOST_POSITIONS, 1024, &a->max_positions, where, err));
    if (a->C % a->H)
        return tl__fail(err, TL_EINVALID, "%s: n_embd %d cannot be divided into %d attention heads", where, a->C, a->H);
    TRY(read_int(config, "n_inner", 1, MOST_WIDTH, 4 * (int64_t)a->C, &a->F, where, err));
    TRY(require_string(config, "activation_function", "gelu_new", gelu_new, where, err));
    TRY(tl__json_real_or(config, "layer_norm_epsilon", 0.0, 1.0, 1e-5, &eps, where, err));
    TRY(require_bool(config, "scale_attn_weights", true, where, err));
    TRY(require_bool(config, "scale_attn_by_inverse_layer_idx", false, where, err));
    TRY(require_bool(config, "reorder_and_upcast_attn", false, where, err));
    TRY(require_bool(config, "add_cross_attention", false, where, err));
    TRY(tl__json_bool_or(config, "tie_word_embeddings", true, &a->tied, where, err));
    a->Hkv = a->H, a->D = a->C / a->H;
    a->norm = TL_NORM_LAYER, a->norm_eps = (float)eps;
    a->positions = TL_POS_LEARNED, a->act = TL_ACT_GELU_TANH, a->layout = TL_IN_OUT;
    a->attention_bias = a->mlp_bias = true;
    a->init_scaled_residual = true;
    return 0;
}

int tl__arch_check(const tl_arch *a, const char *where, tl_error *err) {
    if (a->H % a->Hkv)
        return tl__fail(err, TL_EINVALID,
                        "%s: %d attention heads cannot share %d key/value heads evenly; choose a divisor of %d", where,
                        a->H, a->Hkv, a->H);
    if (a->D > TL_MAX_HEAD_DIM)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: a head is %d wide; at most %d is supported", where, a->D,
                        TL_MAX_HEAD_DIM);
    if (a->positions == TL_POS_ROPE && a->D % 2)
        return tl__fail(err, TL_EINVALID, "%s: a head is %d wide, but rotary positions need an even width", where,
                        a->D);
    if ((int64_t)a->H * a->D > MOST_WIDTH || (int64_t)a->V * a->C > INT64_C(1) << 40)
        return tl__fail(err, TL_EINVALID, "%s: the model is larger than this version can address", where);
    return 0;
}

int tl__arch_parse(tl_arch *arch, const char *bytes, size_t size, const char *where, tl_error *err) {
    json_t *config = tl__json_parse(bytes, size, where, err);
    if (!config) return err ? err->status : TL_EFORMAT;
    tl_arch a = {.bos = -1, .eos = -1};
    const char *type = NULL;
    int status = 0;
    if (!json_is_object(config)) status = tl__fail(err, TL_EFORMAT, "%s: should hold a JSON object", where);
    if (!status) status = tl__json_string_or(config, "model_type", "", &type, where, err);
    if (!status) status = read_int(config, "vocab_size", 1, MOST_VOCAB, 0, &a.V, where, err);
    if (!status) status = tl__json_real_or(config, "initializer_range", 0.0, 100.0, 0.02, &a.init_std, where, err);
    if (!status) status = read_token_id(config, "bos_token_id", &a.bos, where, err);
    if (!status) status = read_token_id(config, "eos_token_id", &a.eos, where, err);
    if (!status) {
        if (strcmp(type, "llama") == 0) status = parse_llama(&a, config, where, err);
        else if (strcmp(type, "gpt2") == 0) status = parse_gpt2(&a, config, where, err);
        else
            status = tl__fail(err, TL_EUNSUPPORTED,
                              "%s: model_type '%s' is not supported; this version knows llama and gpt2", where, type);
    }
    if (!status) {
        snprintf(a.family, sizeof a.family, "%s", type);
        status = tl__arch_check(&a, where, err);
    }
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

int tl__arch_open(tl_arch *arch, const char *spec, tl_error *err) {
    for (int i = 0; i < PRESETS; i++)
        if (strcmp(spec, presets[i].name) == 0)
            return tl__arch_parse(arch, presets[i].config, strlen(presets[i].config), presets[i].name, err);
    char path[4096];
    if (!tl__path_exists(spec)) {
        const char *names[PRESETS];
        for (int i = 0; i < PRESETS; i++) names[i] = presets[i].name;
        const char *near = tl__nearest_name(spec, names, PRESETS);
        return tl__fail(err, TL_ENOTFOUND,
                        "model '%.200s' is neither a preset nor a config.json nor a model folder%s%s%s", spec,
                        near ? "; did you mean '" : "; presets are demo, tiny, nano, gpt2-124m, smollm2-135m",
                        near ? near : "", near ? "'?" : "");
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

char *tl__arch_config_json(const tl_arch *a) {
    json_t *c = json_object();
    bool gpt2 = strcmp(a->family, "gpt2") == 0;
    json_object_set_new(c, "architectures", json_pack("[s]", gpt2 ? "GPT2LMHeadModel" : "LlamaForCausalLM"));
    json_object_set_new(c, "model_type", json_string(a->family));
    json_object_set_new(c, "dtype", json_string("float32"));
    json_object_set_new(c, "vocab_size", json_integer(a->V));
    json_object_set_new(c, "tie_word_embeddings", json_boolean(a->tied));
    json_object_set_new(c, "initializer_range", json_real(a->init_std));
    json_object_set_new(c, "bos_token_id", token_id(a->bos));
    json_object_set_new(c, "eos_token_id", token_id(a->eos));
    /* The eps was read as a double and kept as f32: print the shortest decimal that gives the same f32 back. */
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)a->norm_eps);
        if (strtof(text, NULL) == a->norm_eps) break;
    }
    json_t *eps = json_real(strtod(text, NULL));
    if (gpt2) {
        json_object_set_new(c, "n_embd", json_integer(a->C));
        json_object_set_new(c, "n_layer", json_integer(a->L));
        json_object_set_new(c, "n_head", json_integer(a->H));
        json_object_set_new(c, "n_inner", json_integer(a->F));
        json_object_set_new(c, "n_positions", json_integer(a->max_positions));
        json_object_set_new(c, "activation_function", json_string("gelu_new"));
        json_object_set_new(c, "layer_norm_epsilon", eps);
        json_object_set_new(c, "resid_pdrop", json_real(0.0));
        json_object_set_new(c, "embd_pdrop", json_real(0.0));
        json_object_set_new(c, "attn_pdrop", json_real(0.0));
    } else {
        json_object_set_new(c, "hidden_size", json_integer(a->C));
        json_object_set_new(c, "intermediate_size", json_integer(a->F));
        json_object_set_new(c, "num_hidden_layers", json_integer(a->L));
        json_object_set_new(c, "num_attention_heads", json_integer(a->H));
        json_object_set_new(c, "num_key_value_heads", json_integer(a->Hkv));
        json_object_set_new(c, "head_dim", json_integer(a->D));
        json_object_set_new(c, "max_position_embeddings", json_integer(a->max_positions));
        json_object_set_new(c, "hidden_act", json_string("silu"));
        json_object_set_new(c, "rms_norm_eps", eps);
        json_object_set_new(c, "attention_bias", json_boolean(a->attention_bias));
        json_object_set_new(c, "mlp_bias", json_boolean(a->mlp_bias));
        json_object_set_new(c, "rope_theta", json_real(a->rope_theta));
        json_object_set_new(c, "rope_parameters",
                            json_pack("{s:s,s:f}", "rope_type", "default", "rope_theta", a->rope_theta));
    }
    char *out = json_dumps(c, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    json_decref(c);
    return out;
}

double tl__arch_model_flops_per_token(const tl_arch *a, int T) {
    tl_params params;
    if (tl__params_make(&params, a, NULL)) return 0;
    double n = 0;
    for (int i = 0; i < params.n; i++) {
        tl_role role = params.list[i].role;
        bool look_up_only = role == TL_ROLE_POSITION || (role == TL_ROLE_EMBED && !a->tied);
        if (!look_up_only) n += (double)params.list[i].count;
    }
    tl__params_free(&params);
    return 6.0 * n + 12.0 * a->L * a->H * (double)a->D * T;
}
