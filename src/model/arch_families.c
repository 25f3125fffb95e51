/* arch_families.c — the families of models as tables: which keys of config.json each knows, what a key that is missing
 * stands for, and which fields of the record follow from the family alone.
 *
 * A key that is in no table is refused by name, because it might change the result. Llama, SmolLM3, Mistral, Qwen and
 * Gemma are one decoder with other entries; GPT-2, whose keys have other names, is read beside them. What a family
 * means is what transformers computes for it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/arch_parts.h"
#include "model/moe.h"

/* ---- keys ---- */

/* Change nothing that is computed here: bookkeeping, generation defaults, and dropout, which Trilith does not apply. */
static const char *const harmless_keys[] = {"_name_or_path",
                                            "architectures",
                                            "attention_dropout",
                                            "attn_pdrop",
                                            "auto_map",
                                            "bad_words_ids",
                                            "begin_suppress_tokens",
                                            "cache_implementation",
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
                                            "is_llama_config",
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
                                            "transformers.js_config",
                                            "transformers_version",
                                            "typical_p",
                                            "use_bfloat16",
                                            "use_cache",
                                            "decoder_start_token_id",
                                            "tie_encoder_decoder",
                                            "unk_token_id",
                                            NULL};

static const char *const shared_keys[] = {"bos_token_id", "eos_token_id", "tie_word_embeddings", "vocab_size", NULL};

/* Of every decoder but GPT-2. */
static const char *const decoder_keys[] = {"head_dim",
                                           "hidden_size",
                                           "intermediate_size",
                                           "max_position_embeddings",
                                           "num_attention_heads",
                                           "num_hidden_layers",
                                           "num_key_value_heads",
                                           "rms_norm_eps",
                                           "rope_parameters",
                                           "rope_scaling",
                                           "rope_theta",
                                           NULL};

static const char *const llama_keys[] = {"attention_bias", "hidden_act",       "mlp_bias",
                                         "pretraining_tp", "rope_interleaved", NULL};
static const char *const smollm3_keys[] = {
    "attention_bias", "hidden_act",     "layer_types",    "max_window_layers",  "mlp_bias", "no_rope_layer_interval",
    "no_rope_layers", "pretraining_tp", "sliding_window", "use_sliding_window", NULL};
static const char *const mistral_keys[] = {"hidden_act", "sliding_window", NULL};
static const char *const qwen2_keys[] = {
    "hidden_act", "layer_types", "max_window_layers", "sliding_window", "use_mrope", "use_sliding_window", NULL};
static const char *const qwen3_keys[] = {"attention_bias", "hidden_act",         "layer_types", "max_window_layers",
                                         "sliding_window", "use_sliding_window", NULL};
/* hidden_act: left from Gemma 1; hidden_activation is what counts. */
static const char *const gemma2_keys[] = {"attention_bias",
                                          "attn_logit_softcapping",
                                          "final_logit_softcapping",
                                          "hidden_act",
                                          "hidden_activation",
                                          "layer_types",
                                          "query_pre_attn_scalar",
                                          "sliding_window",
                                          "use_bidirectional_attention",
                                          NULL};
static const char *const gemma3_keys[] = {"attention_bias",
                                          "attn_logit_softcapping",
                                          "final_logit_softcapping",
                                          "hidden_act",
                                          "hidden_activation",
                                          "layer_types",
                                          "query_pre_attn_scalar",
                                          "rope_local_base_freq",
                                          "sliding_window",
                                          "sliding_window_pattern",
                                          "_sliding_window_pattern", /* a copy that transformers leaves */
                                          "use_bidirectional_attention",
                                          NULL};
/* Of every mixture of experts; num_local_experts is another name that transformers has for num_experts. */
static const char *const expert_keys[] = {"num_experts",          "num_experts_per_tok",  "num_local_experts",
                                          "output_router_logits", "router_aux_loss_coef", NULL};
static const char *const mixtral_keys[] = {"hidden_act", "router_jitter_noise", "sliding_window", NULL};
static const char *const qwen3_moe_keys[] = {
    "attention_bias",        "decoder_sparse_step", "hidden_act",     "max_window_layers",  "mlp_only_layers",
    "moe_intermediate_size", "norm_topk_prob",      "sliding_window", "use_sliding_window", NULL};
/* clip_qkv, which would clip queries, keys and values, is refused unless it is null. */
static const char *const olmoe_keys[] = {"attention_bias", "hidden_act", "norm_topk_prob", NULL};
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

/* ---- families ---- */

typedef enum biases { BIAS_NONE, BIAS_SAID, BIAS_QKV } biases; /* SAID: attention_bias decides for q, k, v and o */
typedef enum windows {
    WINDOW_NONE,
    WINDOW_ALL,     /* on every layer if sliding_window is set */
    WINDOW_USED,    /* on every layer if use_sliding_window */
    WINDOW_UPPER,   /* if use_sliding_window: layers from max_window_layers on, unless layer_types says */
    WINDOW_NO_ROPE, /* if use_sliding_window: layers without RoPE, unless layer_types says */
    WINDOW_PATTERN  /* all but every pattern-th layer, unless layer_types says */
} windows;

enum { REFUSED = -1 };

typedef struct experts {
    double aux;            /* coefficient of the load-balance loss where the file gives none */
    const char *width_key; /* of an expert; dense layers have intermediate_size */
    bool norm_said;        /* norm_topk_prob decides; else weights are divided by their sum */
    bool layers_said;      /* mlp_only_layers and decoder_sparse_step decide; else every layer has experts */
    bool mixtral_names;
} experts;

typedef struct family {
    const char *name, *class_name;
    const char *const *keys, *const *common_keys;
    int (*parse)(tl_arch *a, const struct family *f, const json_t *config, const char *where, tl_error *err);
    void (*write)(json_t *config, const struct family *f, const tl_arch *a);
    bool tied;                 /* what a missing key stands for, here and in the three below */
    int head_dim;              /* 0: width ÷ heads */
    double theta, local_theta; /* local_theta > 0: sliding layers have their own table */
    int window;
    biases bias;
    bool mlp_bias; /* mlp_bias decides; else there is none */
    windows windows;
    int pattern;
    tl_qk_norm qk_norm;
    bool gemma; /* gains of 1 + g, sandwich norms, GeGLU, embeddings by √C, query_pre_attn_scalar */
    int attention_softcap, final_softcap; /* where the file has none; 0: no cap */
    double eps;                           /* of norms; 0: 1e-6 */
    const struct experts *experts;        /* NULL: none */
} family;

static int parse_decoder(tl_arch *a, const family *f, const json_t *config, const char *where, tl_error *err);
static void write_decoder(json_t *c, const family *f, const tl_arch *a);
static int parse_gpt2(tl_arch *a, const family *f, const json_t *config, const char *where, tl_error *err);
static void write_gpt2(json_t *c, const family *f, const tl_arch *a);

#define DECODER .parse = parse_decoder, .write = write_decoder, .common_keys = decoder_keys

static const experts mixtral_experts = {.aux = 0.001, .width_key = "intermediate_size", .mixtral_names = true};
static const experts qwen3_moe_experts = {
    .aux = 0.001, .width_key = "moe_intermediate_size", .norm_said = true, .layers_said = true};
static const experts olmoe_experts = {.aux = 0.01, .width_key = "intermediate_size", .norm_said = true};

static const family families[] = {
    {"llama", "LlamaForCausalLM", llama_keys, DECODER, .theta = 1e4, .bias = BIAS_SAID, .mlp_bias = true},
    {"smollm3", "SmolLM3ForCausalLM", smollm3_keys, DECODER, .tied = true, .theta = 2e6, .bias = BIAS_SAID,
     .mlp_bias = true, .windows = WINDOW_NO_ROPE},
    {"mistral", "MistralForCausalLM", mistral_keys, DECODER, .theta = 1e4, .windows = WINDOW_ALL, .window = 4096},
    {"qwen2", "Qwen2ForCausalLM", qwen2_keys, DECODER, .theta = 1e4, .bias = BIAS_QKV, .windows = WINDOW_UPPER,
     .window = 4096},
    {"qwen3", "Qwen3ForCausalLM", qwen3_keys, DECODER, .head_dim = 128, .theta = 1e4, .bias = BIAS_SAID,
     .windows = WINDOW_UPPER, .window = 4096, .qk_norm = TL_QK_NORM_HEAD},
    {"gemma2", "Gemma2ForCausalLM", gemma2_keys, DECODER, .tied = true, .head_dim = 256, .theta = 1e4,
     .bias = BIAS_SAID, .windows = WINDOW_PATTERN, .window = 4096, .pattern = 2, .gemma = true, .attention_softcap = 50,
     .final_softcap = 30},
    {"gemma3_text", "Gemma3ForCausalLM", gemma3_keys, DECODER, .tied = true, .head_dim = 256, .theta = 1e6,
     .local_theta = 1e4, .bias = BIAS_SAID, .windows = WINDOW_PATTERN, .window = 4096, .pattern = 6,
     .qk_norm = TL_QK_NORM_HEAD, .gemma = true,
     .attention_softcap = REFUSED}, /* transformers reads it and ignores it */
    {"mixtral", "MixtralForCausalLM", mixtral_keys, DECODER, .theta = 1e6, .windows = WINDOW_ALL, .eps = 1e-5,
     .experts = &mixtral_experts},
    {"qwen3_moe", "Qwen3MoeForCausalLM", qwen3_moe_keys, DECODER, .theta = 1e4, .bias = BIAS_SAID,
     .windows = WINDOW_USED, .window = 4096, .qk_norm = TL_QK_NORM_HEAD, .experts = &qwen3_moe_experts},
    {"olmoe", "OlmoeForCausalLM", olmoe_keys, DECODER, .theta = 1e4, .bias = BIAS_SAID, .qk_norm = TL_QK_NORM_WHOLE,
     .eps = 1e-5, .experts = &olmoe_experts},
    {"gpt2", "GPT2LMHeadModel", gpt2_keys, NULL, parse_gpt2, write_gpt2, .tied = true},
};
enum { FAMILIES = sizeof families / sizeof families[0] };

static const family *find_family(const char *name) {
    for (int i = 0; i < FAMILIES; i++)
        if (strcmp(families[i].name, name) == 0) return &families[i];
    return NULL;
}

static int refuse_unknown_keys(const json_t *config, const family *f, const char *where, tl_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)config, key, value) {
        if (json_is_null(value) || tl__arch_listed(harmless_keys, key) || tl__arch_listed(shared_keys, key) ||
            tl__arch_listed(f->keys, key) || (f->common_keys && tl__arch_listed(f->common_keys, key)) ||
            (f->experts && tl__arch_listed(expert_keys, key)))
            continue;
        return tl__fail(
            err, TL_EUNSUPPORTED,
            "%s: '%s' is not a field of a %s model that this version knows, and it may change the result; remove it if "
            "it does not matter",
            where, key, f->name);
    }
    return 0;
}

int tl__family_parse(tl_arch *a, const json_t *config, const char *where, tl_error *err) {
    const family *f = find_family(a->family);
    if (!f) {
        char known[256] = "";
        for (int i = 0; i < FAMILIES; i++) {
            size_t used = strlen(known);
            snprintf(known + used, sizeof known - used, "%s%s",
                     i == 0             ? ""
                     : i + 1 < FAMILIES ? ", "
                                        : " and ",
                     families[i].name);
        }
        return tl__fail(err, TL_EUNSUPPORTED, "%s: model_type '%s' is not supported; this version knows %s", where,
                        a->family, known);
    }
    TRY(refuse_unknown_keys(config, f, where, err));
    TRY(tl__json_bool_or(config, "tie_word_embeddings", f->tied, &a->tied, where, err));
    return f->parse(a, f, config, where, err);
}

void tl__family_write(json_t *config, const tl_arch *a) {
    const family *f = find_family(a->family);
    json_object_set_new(config, "architectures", json_pack("[s]", f->class_name));
    f->write(config, f, a);
}

/* ---- layers ---- */

/* A list with one entry a layer, or NULL where the file has none. */
static int layer_list(const json_t **list, const json_t *config, const char *key, int L, bool longer, const char *where,
                      tl_error *err) {
    *list = json_object_get(config, key);
    if (json_is_null(*list)) *list = NULL;
    if (!*list) return 0;
    if (!json_is_array(*list)) return tl__fail(err, TL_EFORMAT, "%s: '%s' should be a list", where, key);
    size_t n = json_array_size(*list);
    if (n == (size_t)L || (longer && n > (size_t)L)) return 0;
    return tl__fail(err, TL_EINVALID, "%s: '%s' has %zu entries for %d layers; give one for each", where, key, n, L);
}

/* SmolLM3: 1 where a layer rotates, 0 where it does not; a longer list is read as far as there are layers. */
static int read_no_rope(tl_arch *a, const json_t *config, const char *where, tl_error *err) {
    const json_t *list;
    int interval;
    TRY(layer_list(&list, config, "no_rope_layers", a->L, true, where, err));
    TRY(tl__arch_int(config, "no_rope_layer_interval", 1, TL_MOST_WIDTH, 4, &interval, where, err));
    for (int l = 0; l < a->L; l++) {
        const json_t *v = list ? json_array_get(list, (size_t)l) : NULL;
        json_int_t rotates = !list ? (l + 1) % interval != 0 : json_is_integer(v) ? json_integer_value(v) : -1;
        if (json_is_boolean(v)) rotates = json_is_true(v);
        if (rotates != 0 && rotates != 1)
            return tl__fail(err, TL_EFORMAT, "%s: 'no_rope_layers' has something other than 0 or 1 for layer %d", where,
                            l);
        a->layer[l].no_rope = rotates == 0;
    }
    return 0;
}

static bool slides_by_default(const tl_arch *a, const family *f, int l, int first, int pattern) {
    switch (f->windows) {
    case WINDOW_NONE:
        break;
    case WINDOW_ALL:
    case WINDOW_USED:
        return a->window > 0;
    case WINDOW_UPPER:
        return a->window > 0 && l >= first;
    case WINDOW_NO_ROPE:
        return a->window > 0 && a->layer[l].no_rope;
    case WINDOW_PATTERN:
        return (l + 1) % pattern != 0;
    }
    return false;
}

static int read_windows(tl_arch *a, const family *f, const json_t *config, const char *where, tl_error *err) {
    const json_t *list = NULL, *window = json_object_get(config, "sliding_window");
    bool used = f->windows == WINDOW_ALL || f->windows == WINDOW_PATTERN;
    int first = 0, pattern = 0;
    if (f->windows == WINDOW_NONE) return 0;
    if (!json_is_null(window)) /* null and missing differ: null is no window */
        TRY(tl__arch_int(config, "sliding_window", f->window || window ? 1 : 0, TL_MOST_POSITIONS, f->window,
                         &a->window, where, err));
    if (!used) TRY(tl__json_bool_or(config, "use_sliding_window", false, &used, where, err));
    if (!used) a->window = 0;
    if (f->windows == WINDOW_UPPER)
        TRY(tl__arch_int(config, "max_window_layers", 0, TL_MOST_WIDTH, 28, &first, where, err));
    if (f->windows == WINDOW_PATTERN)
        TRY(tl__arch_int(config, "sliding_window_pattern", 1, TL_MOST_WIDTH, f->pattern, &pattern, where, err));
    if (f->windows == WINDOW_PATTERN && a->window == 0)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: 'sliding_window' is null; a %s model needs one", where, f->name);
    if (f->windows != WINDOW_ALL && f->windows != WINDOW_USED)
        TRY(layer_list(&list, config, "layer_types", a->L, false, where, err));
    for (int l = 0; l < a->L; l++) {
        const char *type = list ? json_string_value(json_array_get(list, (size_t)l)) : NULL;
        bool full = type && strcmp(type, "full_attention") == 0;
        bool sliding = type && strcmp(type, "sliding_attention") == 0;
        if (list && !full && !sliding)
            return tl__fail(err, TL_EUNSUPPORTED,
                            "%s: 'layer_types' has '%s' for layer %d; full_attention and sliding_attention are known",
                            where, type ? type : "no name", l);
        a->layer[l].sliding = list ? sliding : slides_by_default(a, f, l, first, pattern);
        if (a->layer[l].sliding && a->window == 0)
            return tl__fail(err, TL_EINVALID,
                            "%s: 'layer_types' has sliding_attention for layer %d, but there is no window: give "
                            "'sliding_window' and 'use_sliding_window'",
                            where, l);
    }
    return 0;
}

static json_t *layer_types(const tl_arch *a) {
    json_t *list = json_array();
    for (int l = 0; l < a->L; l++)
        json_array_append_new(list, json_string(a->layer[l].sliding ? "sliding_attention" : "full_attention"));
    return list;
}

static void write_layers(json_t *c, const family *f, const tl_arch *a) {
    if (f->windows == WINDOW_NONE) return;
    json_object_set_new(c, "sliding_window", a->window ? json_integer(a->window) : json_null());
    if (f->windows == WINDOW_USED) json_object_set_new(c, "use_sliding_window", json_boolean(a->window > 0));
    if (f->windows == WINDOW_ALL || f->windows == WINDOW_USED) return;
    json_object_set_new(c, "layer_types", layer_types(a));
    if (f->windows == WINDOW_PATTERN) return;
    json_object_set_new(c, "use_sliding_window", json_boolean(a->window > 0));
    if (f->windows == WINDOW_UPPER) { /* for programs that know no layer_types */
        int first = 0;
        while (first < a->L && !a->layer[first].sliding) first++;
        json_object_set_new(c, "max_window_layers", json_integer(first));
    } else {
        json_t *list = json_array();
        for (int l = 0; l < a->L; l++) json_array_append_new(list, json_integer(!a->layer[l].no_rope));
        json_object_set_new(c, "no_rope_layers", list);
    }
}

/* ---- experts ---- */

/* Qwen3-MoE: every decoder_sparse_step-th layer has experts, but for those of mlp_only_layers. */
static int read_expert_layers(tl_arch *a, const json_t *config, const char *where, tl_error *err) {
    const json_t *list = json_object_get(config, "mlp_only_layers");
    int step;
    TRY(tl__arch_int(config, "decoder_sparse_step", 1, TL_MOST_WIDTH, 1, &step, where, err));
    for (int l = 0; l < a->L; l++) a->layer[l].moe = (l + 1) % step == 0;
    if (!list || json_is_null(list)) return 0;
    if (!json_is_array(list)) return tl__fail(err, TL_EFORMAT, "%s: 'mlp_only_layers' should be a list", where);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v))
            return tl__fail(err, TL_EFORMAT, "%s: 'mlp_only_layers' should hold layers' numbers", where);
        if (json_integer_value(v) >= 0 && json_integer_value(v) < a->L) a->layer[json_integer_value(v)].moe = false;
    }
    return 0;
}

static int read_experts(tl_arch *a, const experts *x, const json_t *config, const char *where, tl_error *err) {
    const char *key = json_object_get(config, "num_experts") ? "num_experts" : "num_local_experts";
    double jitter;
    TRY(tl__arch_int(config, key, 1, TL_MAX_EXPERTS, 0, &a->E, where, err));
    TRY(tl__arch_int(config, "num_experts_per_tok", 1, TL_MAX_EXPERTS, 0, &a->top_k, where, err));
    TRY(tl__arch_int(config, x->width_key, 1, TL_MOST_WIDTH, 0, &a->expert_F, where, err));
    TRY(tl__json_real_or(config, "router_aux_loss_coef", 0, 100, x->aux, &a->router_aux_coef, where, err));
    TRY(tl__json_real_or(config, "router_jitter_noise", 0, 1, 0, &jitter, where, err));
    if (jitter != 0)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: 'router_jitter_noise' is %g; only 0 is supported", where, jitter);
    a->norm_topk = true;
    if (x->norm_said) TRY(tl__json_bool_or(config, "norm_topk_prob", false, &a->norm_topk, where, err));
    a->mixtral_names = x->mixtral_names;
    for (int l = 0; l < a->L; l++) a->layer[l].moe = true;
    if (x->layers_said) TRY(read_expert_layers(a, config, where, err));
    if (tl__moe_layers(a) == 0)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: no layer has experts by 'decoder_sparse_step' and 'mlp_only_layers'",
                        where);
    return 0;
}

static void write_experts(json_t *c, const experts *x, const tl_arch *a) {
    json_object_set_new(c, x->mixtral_names ? "num_local_experts" : "num_experts", json_integer(a->E));
    json_object_set_new(c, "num_experts_per_tok", json_integer(a->top_k));
    json_object_set_new(c, x->width_key, json_integer(a->expert_F));
    json_object_set_new(c, "router_aux_loss_coef", json_real(a->router_aux_coef));
    if (x->norm_said) json_object_set_new(c, "norm_topk_prob", json_boolean(a->norm_topk));
    if (!x->layers_said) return;
    json_t *dense = json_array();
    for (int l = 0; l < a->L; l++)
        if (!a->layer[l].moe) json_array_append_new(dense, json_integer(l));
    json_object_set_new(c, "mlp_only_layers", dense);
    json_object_set_new(c, "decoder_sparse_step", json_integer(1));
}

/* ---- the decoder ---- */

/* A soft-cap: a number, null for none, or the family's where the key is missing. */
static int read_softcap(float *out, const json_t *config, const char *key, int fallback, const char *where,
                        tl_error *err) {
    const json_t *v = json_object_get(config, key);
    double cap = v || fallback == REFUSED ? 0 : fallback;
    if (v && !json_is_null(v)) {
        if (fallback == REFUSED)
            return tl__fail(err, TL_EUNSUPPORTED, "%s: '%s' is set, but transformers does not apply it; remove it",
                            where, key);
        TRY(tl__json_real_or(config, key, 1e-3, 1e6, 0, &cap, where, err));
    }
    *out = (float)cap;
    return 0;
}

static int read_gemma(tl_arch *a, const family *f, const json_t *config, const char *where, tl_error *err) {
    static const char *const gelu_tanh[] = {"gelu_pytorch_tanh", "gelu_new", NULL};
    TRY(tl__arch_require_string(config, "hidden_activation", "gelu_pytorch_tanh", gelu_tanh, where, err));
    TRY(tl__arch_require_bool(config, "use_bidirectional_attention", false, where, err));
    TRY(tl__arch_int(config, "query_pre_attn_scalar", 1, TL_MOST_WIDTH, 256, &a->query_scalar, where, err));
    TRY(read_softcap(&a->attention_softcap, config, "attn_logit_softcapping", f->attention_softcap, where, err));
    TRY(read_softcap(&a->final_softcap, config, "final_logit_softcapping", f->final_softcap, where, err));
    a->act = TL_ACT_GEGLU;
    a->sandwich = true;
    a->gain_add = 1;
    a->embed_scale = (float)sqrt((double)a->C);
    return 0;
}

static int read_silu(tl_arch *a, const family *f, const json_t *config, const char *where, tl_error *err) {
    static const char *const silu[] = {"silu", "swish", NULL};
    int tp;
    TRY(tl__arch_require_string(config, "hidden_act", "silu", silu, where, err));
    TRY(tl__arch_require_bool(config, "rope_interleaved", false, where, err));
    TRY(tl__arch_require_bool(config, "use_mrope", false, where, err));
    if (f->windows == WINDOW_NONE) TRY(tl__arch_int(config, "pretraining_tp", 1, 1, 1, &tp, where, err));
    a->act = TL_ACT_SWIGLU;
    return 0;
}

static int parse_decoder(tl_arch *a, const family *f, const json_t *config, const char *where, tl_error *err) {
    bool llama = f->windows == WINDOW_NONE, bias = false;
    double eps;
    TRY(tl__arch_int(config, "hidden_size", 1, TL_MOST_WIDTH, 0, &a->C, where, err));
    TRY(tl__arch_int(config, "intermediate_size", 1, TL_MOST_WIDTH, 0, &a->F, where, err));
    TRY(tl__arch_int(config, "num_hidden_layers", 1, TL_MAX_LAYERS, 0, &a->L, where, err));
    TRY(tl__arch_int(config, "num_attention_heads", 1, TL_MOST_WIDTH, 0, &a->H, where, err));
    /* Where a key is missing, transformers takes sizes of the family's best-known model; a file without them is wrong.
     */
    bool as_heads = llama || json_object_get(config, "num_key_value_heads"); /* null */
    TRY(tl__arch_int(config, "num_key_value_heads", 1, TL_MOST_WIDTH, as_heads ? a->H : 0, &a->Hkv, where, err));
    int head_dim = f->head_dim ? f->head_dim : a->C / a->H;
    if (!f->head_dim && !json_is_integer(json_object_get(config, "head_dim")) && a->C % a->H)
        return tl__fail(err, TL_EINVALID, "%s: hidden_size %d cannot be divided into %d attention heads", where, a->C,
                        a->H);
    TRY(tl__arch_int(config, "head_dim", 1, TL_MAX_HEAD_DIM, head_dim, &a->D, where, err));
    TRY(tl__arch_int(config, "max_position_embeddings", 1, TL_MOST_POSITIONS, llama ? 2048 : 0, &a->max_positions,
                     where, err));
    TRY(tl__json_real_or(config, "rms_norm_eps", 0.0, 1.0, f->eps > 0 ? f->eps : 1e-6, &eps, where, err));
    if (f->bias == BIAS_SAID) TRY(tl__json_bool_or(config, "attention_bias", false, &bias, where, err));
    if (f->mlp_bias) TRY(tl__json_bool_or(config, "mlp_bias", false, &a->mlp_bias, where, err));
    TRY(tl__rope_parse(a, config, f->theta, f->local_theta, where, err));
    if (f->experts) TRY(read_experts(a, f->experts, config, where, err));
    if (f->windows == WINDOW_NO_ROPE) TRY(read_no_rope(a, config, where, err));
    TRY(read_windows(a, f, config, where, err));
    TRY(f->gemma ? read_gemma(a, f, config, where, err) : read_silu(a, f, config, where, err));
    a->norm = TL_NORM_RMS, a->norm_eps = (float)eps;
    a->qk_norm = f->qk_norm;
    a->qkv_bias = bias || f->bias == BIAS_QKV, a->o_bias = bias;
    a->positions = TL_POS_ROPE, a->layout = TL_OUT_IN;
    return 0;
}

static void write_decoder(json_t *c, const family *f, const tl_arch *a) {
    json_object_set_new(c, "hidden_size", json_integer(a->C));
    json_object_set_new(c, "intermediate_size", json_integer(a->F));
    json_object_set_new(c, "num_hidden_layers", json_integer(a->L));
    json_object_set_new(c, "num_attention_heads", json_integer(a->H));
    json_object_set_new(c, "num_key_value_heads", json_integer(a->Hkv));
    json_object_set_new(c, "head_dim", json_integer(a->D));
    json_object_set_new(c, "max_position_embeddings", json_integer(a->max_positions));
    json_object_set_new(c, "rms_norm_eps", tl__arch_real(a->norm_eps));
    if (f->bias == BIAS_SAID) json_object_set_new(c, "attention_bias", json_boolean(a->qkv_bias));
    if (f->mlp_bias) json_object_set_new(c, "mlp_bias", json_boolean(a->mlp_bias));
    if (f->experts) write_experts(c, f->experts, a);
    write_layers(c, f, a);
    tl__rope_write(c, a);
    if (!f->gemma) {
        json_object_set_new(c, "hidden_act", json_string("silu"));
        return;
    }
    json_object_set_new(c, "hidden_activation", json_string("gelu_pytorch_tanh"));
    json_object_set_new(c, "query_pre_attn_scalar", json_integer(a->query_scalar));
    json_object_set_new(c, "attn_logit_softcapping",
                        a->attention_softcap > 0 ? tl__arch_real(a->attention_softcap) : json_null());
    json_object_set_new(c, "final_logit_softcapping",
                        a->final_softcap > 0 ? tl__arch_real(a->final_softcap) : json_null());
}

/* ---- GPT-2 ---- */

static int parse_gpt2(tl_arch *a, const family *f, const json_t *config, const char *where, tl_error *err) {
    static const char *const gelu_new[] = {"gelu_new", "gelu_pytorch_tanh", NULL};
    double eps;
    (void)f;
    TRY(tl__arch_int(config, "n_embd", 1, TL_MOST_WIDTH, 768, &a->C, where, err));
    TRY(tl__arch_int(config, "n_layer", 1, TL_MAX_LAYERS, 12, &a->L, where, err));
    TRY(tl__arch_int(config, "n_head", 1, TL_MOST_WIDTH, 12, &a->H, where, err));
    TRY(tl__arch_int(config, "n_positions", 1, TL_MOST_POSITIONS, 1024, &a->max_positions, where, err));
    if (a->C % a->H)
        return tl__fail(err, TL_EINVALID, "%s: n_embd %d cannot be divided into %d attention heads", where, a->C, a->H);
    TRY(tl__arch_int(config, "n_inner", 1, TL_MOST_WIDTH, 4 * (int64_t)a->C, &a->F, where, err));
    TRY(tl__arch_require_string(config, "activation_function", "gelu_new", gelu_new, where, err));
    TRY(tl__json_real_or(config, "layer_norm_epsilon", 0.0, 1.0, 1e-5, &eps, where, err));
    TRY(tl__arch_require_bool(config, "scale_attn_weights", true, where, err));
    TRY(tl__arch_require_bool(config, "scale_attn_by_inverse_layer_idx", false, where, err));
    TRY(tl__arch_require_bool(config, "reorder_and_upcast_attn", false, where, err));
    TRY(tl__arch_require_bool(config, "add_cross_attention", false, where, err));
    a->Hkv = a->H, a->D = a->C / a->H;
    a->norm = TL_NORM_LAYER, a->norm_eps = (float)eps;
    a->positions = TL_POS_LEARNED, a->act = TL_ACT_GELU_TANH, a->layout = TL_IN_OUT;
    a->qkv_bias = a->o_bias = a->mlp_bias = true;
    a->init_scaled_residual = true;
    return 0;
}

static void write_gpt2(json_t *c, const family *f, const tl_arch *a) {
    (void)f;
    json_object_set_new(c, "n_embd", json_integer(a->C));
    json_object_set_new(c, "n_layer", json_integer(a->L));
    json_object_set_new(c, "n_head", json_integer(a->H));
    json_object_set_new(c, "n_inner", json_integer(a->F));
    json_object_set_new(c, "n_positions", json_integer(a->max_positions));
    json_object_set_new(c, "activation_function", json_string("gelu_new"));
    json_object_set_new(c, "layer_norm_epsilon", tl__arch_real(a->norm_eps));
    json_object_set_new(c, "resid_pdrop", json_real(0.0));
    json_object_set_new(c, "embd_pdrop", json_real(0.0));
    json_object_set_new(c, "attn_pdrop", json_real(0.0));
}
