/* gguf_arch.c — an architecture as GGUF metadata: read by making the config.json that says the same, written from it.
 *
 * What a field means, its range and what a family does with it is decided where config.json is read
 * (arch_families.c); here is only which key is called what, and what GGUF leaves to its readers to know. Writing proves
 * itself: what was written is read back, and a field that would not come back is refused. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/elementary.h"
#include "model/arch_parts.h"
#include "model/gguf_model.h"

enum { KEY_BYTES = 128 };

/* ---- tables ---- */

enum {
    LLAMA = 1,
    MIXTRAL = 2,
    QWEN2 = 4,
    QWEN3 = 8,
    QWEN3_MOE = 16,
    GEMMA2 = 32,
    GEMMA3 = 64,
    OLMOE = 128,
    SMOLLM3 = 256,
    GPT2 = 512,
    GEMMA = GEMMA2 | GEMMA3,
    EXPERTS = MIXTRAL | QWEN3_MOE | OLMOE,
    ROTARY = GPT2 - 1,
    ALL = ROTARY | GPT2
};

typedef struct family {
    const char *gguf, *config; /* general.architecture, model_type */
    int bit;
    int pattern;   /* of sliding layers: all but every so many-th; 0: none slide */
    int large;     /* layers of the one size whose scores are scaled by width ÷ heads, not by the head's width */
    bool no_rope4; /* every fourth layer does not rotate */
    int norm_topk; /* of experts: 1 a token's weights are divided by their sum, 0 not; −1 config.json cannot say */
} family;

/* In this order a model_type that shares its GGUF name is found first by that name. */
static const family families[] = {
    {"llama", "llama", LLAMA, .norm_topk = -1},
    {"llama", "mixtral", MIXTRAL, .norm_topk = -1},
    {"llama", "mistral", LLAMA, .norm_topk = -1},
    {"qwen2", "qwen2", QWEN2, .norm_topk = -1},
    {"qwen3", "qwen3", QWEN3, .norm_topk = -1},
    {"qwen3moe", "qwen3_moe", QWEN3_MOE, .norm_topk = 1},
    {"gemma2", "gemma2", GEMMA2, .pattern = 2, .large = 46, .norm_topk = -1},
    {"gemma3", "gemma3_text", GEMMA3, .pattern = 6, .large = 62, .norm_topk = -1},
    {"olmoe", "olmoe", OLMOE, .norm_topk = 0},
    {"smollm3", "smollm3", SMOLLM3, .no_rope4 = true, .norm_topk = -1},
    {"gpt2", "gpt2", GPT2, .norm_topk = -1},
};
enum { FAMILIES = sizeof families / sizeof families[0] };

typedef enum kind { WHOLE, REAL, FLAG, TEXT, WHOLE_OR_FLAGS } kind;

typedef struct field {
    const char *key;    /* below "llama." */
    const char *config; /* of config.json; NULL: handled by name below */
    int families;
    kind kind;
    bool required;
} field;

static const field fields[] = {
    {"vocab_size", NULL, ALL, WHOLE, false},
    {"context_length", "max_position_embeddings", ROTARY, WHOLE, true},
    {"context_length", "n_positions", GPT2, WHOLE, true},
    {"embedding_length", "hidden_size", ROTARY, WHOLE, true},
    {"embedding_length", "n_embd", GPT2, WHOLE, true},
    {"block_count", "num_hidden_layers", ROTARY, WHOLE, true},
    {"block_count", "n_layer", GPT2, WHOLE, true},
    {"feed_forward_length", "intermediate_size", ROTARY, WHOLE, true},
    {"feed_forward_length", "n_inner", GPT2, WHOLE, true},
    {"attention.head_count", "num_attention_heads", ROTARY, WHOLE, true},
    {"attention.head_count", "n_head", GPT2, WHOLE, true},
    {"attention.head_count_kv", "num_key_value_heads", ROTARY, WHOLE, false},
    {"attention.key_length", "head_dim", ROTARY, WHOLE, false},
    {"attention.value_length", NULL, ROTARY, WHOLE, false},
    {"rope.dimension_count", NULL, ROTARY, WHOLE, false},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps", ROTARY, REAL, true},
    {"attention.layer_norm_epsilon", "layer_norm_epsilon", GPT2, REAL, true},
    {"rope.freq_base", "rope_theta", ROTARY, REAL, false},
    {"rope.freq_base_swa", "rope_local_base_freq", GEMMA3, REAL, false},
    {"rope.scaling.type", NULL, ROTARY, TEXT, false},
    {"rope.scaling.factor", NULL, ROTARY, REAL, false},
    {"rope.scaling.original_context_length", NULL, ROTARY, WHOLE, false},
    {"rope.scaling.yarn_beta_fast", NULL, ROTARY, REAL, false},
    {"rope.scaling.yarn_beta_slow", NULL, ROTARY, REAL, false},
    {"rope.scaling.finetuned", NULL, ROTARY, FLAG, false}, /* says where the scaling comes from */
    {"attention.sliding_window", "sliding_window", GEMMA, WHOLE, false},
    {"attention.sliding_window_pattern", NULL, GEMMA, WHOLE_OR_FLAGS, false},
    {"attn_logit_softcapping", "attn_logit_softcapping", GEMMA2, REAL, false},
    {"final_logit_softcapping", "final_logit_softcapping", GEMMA, REAL, false},
    {"expert_count", "num_local_experts", EXPERTS | LLAMA, WHOLE, false},
    {"expert_used_count", "num_experts_per_tok", EXPERTS | LLAMA, WHOLE, false},
    {"expert_feed_forward_length", "moe_intermediate_size", QWEN3_MOE, WHOLE, true},
    {"attention.causal", NULL, ALL, FLAG, false},
    {"tensor_data_layout", NULL, ALL, TEXT, false}, /* a remark */
};
enum { FIELDS = sizeof fields / sizeof fields[0] };

static const field *find_field(const family *f, const char *key) {
    for (int i = 0; i < FIELDS; i++)
        if ((fields[i].families & f->bit) && strcmp(fields[i].key, key) == 0) return &fields[i];
    return NULL;
}

/* What of a model its metadata leave to its tensors to say. */
typedef struct facts {
    int64_t vocab;
    bool qkv_bias, mlp_bias, tied;
    const float *rope_factors; /* [n_factors] or NULL */
    int64_t n_factors;
} facts;

static const char rope_freqs_name[] = "rope_freqs.weight";

/* ---- Llama 3's scaling as factors ---- */

/* As llama.cpp's converter makes them: 1 for short waves, the factor for long ones, between them a blend. */
static void make_factors(float *out, const tl_rope *r, int D) {
    const double two_pi = 6.283185307179586;
    for (int i = 0; i < D / 2; i++) {
        float frequency = 1.0f / (float)tl__pow_f64(r->theta, (double)((float)(2 * i) / (float)D));
        double wave = two_pi / (double)frequency;
        double smooth =
            (r->original_positions / wave - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
        if (wave < r->original_positions / r->high_freq_factor) out[i] = 1;
        else if (wave > r->original_positions / r->low_freq_factor) out[i] = (float)r->factor;
        else out[i] = (float)(1 / ((1 - smooth) / r->factor + smooth));
    }
}

bool tl__gguf_rope_factors(float *out, const tl_arch *a) {
    if (a->positions != TL_POS_ROPE || a->rope.scaling != TL_ROPE_LLAMA3) return false;
    make_factors(out, &a->rope, a->D);
    return true;
}

static bool gives(tl_rope *r, const float *factors, int D, double original) {
    float again[TL_MAX_HEAD_DIM / 2];
    if (!(original >= 1 && original <= TL_MOST_POSITIONS)) return false;
    r->original_positions = (int)original;
    make_factors(again, r, D);
    for (int i = 0; i < D / 2; i++)
        if (!(fabsf(again[i] - factors[i]) <= 1e-4f * again[i])) return false;
    return true;
}

/* The numbers of config.json that these factors come from. Low and high have been 1 and 4 in every model; with them a
 * blended factor tells the original positions. Where none is blended, several numbers give the same factors: the usual
 * one or a power of two. False: no numbers do. */
static bool find_factors(tl_rope *r, const float *factors, int D, double theta) {
    const double two_pi = 6.283185307179586;
    const int half = D / 2;
    *r = (tl_rope){.theta = theta, .low_freq_factor = 1, .high_freq_factor = 4};
    r->factor = (double)factors[half - 1];
    if (!(r->factor >= 1)) return false;
    for (int i = 0; i < half; i++) {
        const double blended = (double)factors[i];
        if (!(blended > 1.0001 && blended < r->factor * 0.9999)) continue;
        const double wave = two_pi * tl__pow_f64(theta, 2.0 * i / D);
        const double smooth = (1 / blended - 1 / r->factor) / (1 - 1 / r->factor);
        return gives(r, factors, D, floor((1 + 3 * smooth) * wave + 0.5));
    }
    for (double original = 8192; original >= 1; original /= 2)
        if (gives(r, factors, D, original)) return true;
    for (double original = 16384; original <= TL_MOST_POSITIONS; original *= 2)
        if (gives(r, factors, D, original)) return true;
    return false;
}

/* ---- metadata → config.json ---- */

/* meta holds the keys below the architecture's name; of those that may be missing, what readers of GGUF take instead.
 */
static int64_t whole_or(const json_t *meta, const char *key, int64_t fallback) {
    const json_t *v = json_object_get(meta, key);
    return v ? json_integer_value(v) : fallback;
}

static int rope_to_config(json_t *config, const family *f, const json_t *meta, const facts *t, int64_t D, double theta,
                          const char *where, tl_error *err) {
    const json_t *type = json_object_get(meta, "rope.scaling.type");
    const json_t *factor = json_object_get(meta, "rope.scaling.factor");
    const char *name = type ? json_string_value(type) : factor ? "linear" : "none";
    if (strcmp(name, "none") == 0 || (strcmp(name, "linear") == 0 && !factor)) name = NULL;
    if (t->rope_factors) {
        tl_rope r;
        if (name)
            return tl__fail(err, TL_EUNSUPPORTED,
                            "%s: both 'rope.scaling.type' (%s) and tensor '%s' scale RoPE; one can", where, name,
                            rope_freqs_name);
        if (D < 2 || D > TL_MAX_HEAD_DIM || t->n_factors != D / 2)
            return tl__fail(err, TL_EFORMAT, "%s: tensor '%s' has %lld numbers; heads of width %lld need %lld", where,
                            rope_freqs_name, (long long)t->n_factors, (long long)D, (long long)D / 2);
        if (!(theta >= 1) || !find_factors(&r, t->rope_factors, (int)D, theta))
            return tl__fail(err, TL_EUNSUPPORTED,
                            "%s: tensor '%s' holds other factors than Llama 3's rule gives (low 1, high 4)", where,
                            rope_freqs_name);
        json_object_set_new(config, "rope_scaling",
                            json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor", r.factor,
                                      "low_freq_factor", r.low_freq_factor, "high_freq_factor", r.high_freq_factor,
                                      "original_max_position_embeddings", r.original_positions));
        return 0;
    }
    if (!name) return 0;
    json_t *scaling = json_pack("{s:s}", "rope_type", name); /* an unknown one is refused where config.json is read */
    static const char *const pairs[][2] = {{"rope.scaling.factor", "factor"},
                                           {"rope.scaling.original_context_length", "original_max_position_embeddings"},
                                           {"rope.scaling.yarn_beta_fast", "beta_fast"},
                                           {"rope.scaling.yarn_beta_slow", "beta_slow"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        bool wanted =
            i == 0 || strcmp(name, "yarn") == 0; /* converters note the original context of linear scaling too */
        json_t *v = json_object_get(meta, pairs[i][0]);
        if (v && wanted) json_object_set(scaling, pairs[i][1], v);
    }
    json_object_set_new(config, "rope_scaling", scaling);
    if (f->bit == GEMMA3 && strcmp(name, "yarn") == 0)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: 'rope.scaling.type' is yarn; a gemma3 model can have linear", where);
    return 0;
}

/* Gemma: which layers slide. */
static int windows_to_config(json_t *config, const family *f, const json_t *meta, int64_t L, int64_t positions,
                             const char *where, tl_error *err) {
    const json_t *said = json_object_get(meta, "attention.sliding_window_pattern");
    const int64_t window = whole_or(meta, "attention.sliding_window", f->bit == GEMMA2 ? 4096 : 0);
    const int64_t pattern = said && !json_is_array(said) ? json_integer_value(said) : f->pattern;
    json_t *list = json_array();
    json_object_set_new(config, "layer_types", list);
    json_object_set_new(config, "sliding_window", json_integer(window > 0 ? window : positions));
    if (json_is_array(said) && json_array_size(said) != (size_t)L)
        return tl__fail(err, TL_EFORMAT, "%s: '%s.attention.sliding_window_pattern' has %zu entries for %lld layers",
                        where, f->gguf, json_array_size(said), (long long)L);
    if (pattern < 0 || pattern > TL_MOST_WIDTH)
        return tl__fail(err, TL_EFORMAT,
                        "%s: '%s.attention.sliding_window_pattern' is %lld; a number of layers was expected", where,
                        f->gguf, (long long)pattern);
    for (int64_t l = 0; l < L; l++) {
        bool slides = json_is_array(said) ? json_is_true(json_array_get(said, (size_t)l))
                      : pattern == 0      ? false
                                          : (l + 1) % pattern != 0;
        json_array_append_new(list, json_string(window > 0 && slides ? "sliding_attention" : "full_attention"));
    }
    return 0;
}

/* What every reader of GGUF takes for granted about a family. */
static void add_conventions(json_t *config, const family *f, const facts *t, int64_t L, int64_t C, int64_t H,
                            int64_t D) {
    if (f->norm_topk >= 0) json_object_set_new(config, "norm_topk_prob", json_boolean(f->norm_topk));
    if (f->no_rope4) json_object_set_new(config, "no_rope_layer_interval", json_integer(4));
    if (f->bit & GEMMA) json_object_set_new(config, "query_pre_attn_scalar", json_integer(L == f->large ? C / H : D));
    if (f->bit & (LLAMA | SMOLLM3 | QWEN3 | QWEN3_MOE | OLMOE | GEMMA))
        json_object_set_new(config, "attention_bias", json_boolean(t->qkv_bias));
    if (f->bit & (LLAMA | SMOLLM3)) json_object_set_new(config, "mlp_bias", json_boolean(t->mlp_bias));
    json_object_set_new(config, "tie_word_embeddings", json_boolean(t->tied));
}

static int check_meta(const json_t *meta, const family *f, const facts *t, int64_t D, const char *where,
                      tl_error *err) {
    const int64_t vocab = whole_or(meta, "vocab_size", t->vocab);
    const int64_t value = whole_or(meta, "attention.value_length", D);
    const int64_t rotated = whole_or(meta, "rope.dimension_count", D);
    const json_t *causal = json_object_get(meta, "attention.causal");
    if (vocab != t->vocab)
        return tl__fail(err, TL_EFORMAT, "%s: '%s.vocab_size' is %lld, but 'token_embd.weight' has %lld rows", where,
                        f->gguf, (long long)vocab, (long long)t->vocab);
    if (f->bit != GPT2 && value != D)
        return tl__fail(err, TL_EUNSUPPORTED,
                        "%s: '%s.attention.value_length' is %lld; only the keys' %lld is supported", where, f->gguf,
                        (long long)value, (long long)D);
    if (f->bit != GPT2 && rotated != D)
        return tl__fail(err, TL_EUNSUPPORTED,
                        "%s: '%s.rope.dimension_count' is %lld; only whole heads of %lld can be rotated", where,
                        f->gguf, (long long)rotated, (long long)D);
    if (causal && !json_is_true(causal))
        return tl__fail(err, TL_EUNSUPPORTED, "%s: '%s.attention.causal' is false; only true is supported", where,
                        f->gguf);
    return 0;
}

static int to_config(json_t *config, const family *f, const json_t *meta, const facts *t, const char *where,
                     tl_error *err) {
    json_object_set_new(config, "model_type", json_string(f->config));
    json_object_set_new(config, "vocab_size", json_integer(t->vocab));
    for (int i = 0; i < FIELDS; i++) {
        json_t *v = fields[i].families & f->bit ? json_object_get(meta, fields[i].key) : NULL;
        if ((fields[i].families & f->bit) && fields[i].required && !v)
            return tl__fail(err, TL_EFORMAT, "%s: its metadata lack '%s.%s'", where, f->gguf, fields[i].key);
        bool no_experts = f->bit == LLAMA && strncmp(fields[i].key, "expert_", 7) == 0; /* a count of 0 */
        if (v && fields[i].config && !no_experts) json_object_set(config, fields[i].config, v);
    }
    const int64_t L = whole_or(meta, "block_count", 0), C = whole_or(meta, "embedding_length", 0);
    const int64_t H = whole_or(meta, "attention.head_count", 0);
    if (L < 1 || L > TL_MAX_LAYERS || C < 1 || H < 1)
        return tl__fail(
            err, TL_EUNSUPPORTED,
            "%s: %lld layers of width %lld with %lld heads; 1 to %d layers with a width and heads are supported", where,
            (long long)L, (long long)C, (long long)H, TL_MAX_LAYERS);
    const int64_t D = whole_or(meta, "attention.key_length", C / H);
    const json_t *base = json_object_get(meta, "rope.freq_base");
    const double theta = base ? json_number_value(base) : 1e4;
    TRY(check_meta(meta, f, t, D, where, err));
    add_conventions(config, f, t, L, C, H, D);
    if (f->bit == GPT2) return 0;
    json_object_set_new(config, "head_dim", json_integer(D));
    json_object_set_new(config, "num_key_value_heads", json_integer(whole_or(meta, "attention.head_count_kv", H)));
    json_object_set_new(config, "rope_theta", json_real(theta));
    if (f->bit & GEMMA) TRY(windows_to_config(config, f, meta, L, whole_or(meta, "context_length", 0), where, err));
    return rope_to_config(config, f, meta, t, D, theta, where, err);
}

static int parse_config(tl_arch *arch, json_t *config, const char *where, tl_error *err) {
    char *text = json_dumps(config, JSON_REAL_PRECISION(17));
    if (!text) return tl__fail(err, TL_ENOMEM, "no memory for the configuration in %s", where);
    int status = tl__arch_parse(arch, text, strlen(text), where, err);
    free(text);
    return status;
}

/* ---- reading ---- */

static int read_value(json_t *meta, const char *key, const field *like, const tl_gguf_value *v, const char *where,
                      tl_error *err) {
    int64_t whole = 0, other;
    double real = 0;
    json_t *out = NULL;
    bool flags = like->kind == WHOLE_OR_FLAGS && v->kind == TL_GGUF_ARRAY && v->of == TL_GGUF_BOOL;
    if (flags) {
        if (v->count > TL_MAX_LAYERS)
            return tl__fail(err, TL_EUNSUPPORTED, "%s: '%s' has %lld entries; at most %d are supported", where, key,
                            (long long)v->count, TL_MAX_LAYERS);
        out = json_array();
        for (int64_t i = 0; i < v->count; i++)
            json_array_append_new(out, json_boolean(((const unsigned char *)v->data)[i]));
    } else if (like->kind == TEXT) {
        if (v->kind == TL_GGUF_STRING) out = json_stringn(v->texts->bytes, v->texts->n);
    } else if (like->kind == FLAG) {
        if (v->kind == TL_GGUF_BOOL) out = json_boolean(*(const unsigned char *)v->data);
    } else if (like->kind == REAL) {
        if (v->count == 1 && tl__gguf_real(v, 0, &real)) out = tl__arch_real((float)real);
    } else if (v->count > 0 && tl__gguf_int(v, 0, &whole)) {
        out = json_integer(whole);
        for (int64_t i = 1; i < v->count; i++)
            if (!tl__gguf_int(v, i, &other) || other != whole) {
                json_decref(out);
                return tl__fail(err, TL_EUNSUPPORTED,
                                "%s: '%s' differs from layer to layer; only one value for all is supported", where,
                                key);
            }
    }
    static const char *const wanted[] = {"a whole number", "a number", "true or false", "a text",
                                         "a whole number or a list of true and false"};
    if (!out)
        return tl__fail(err, TL_EFORMAT, "%s: '%s' is %s%s; %s was expected", where, key,
                        v->kind == TL_GGUF_ARRAY ? "an array of kind " : "of kind ", tl__gguf_kind_name(v->of),
                        wanted[like->kind]);
    json_object_set_new(meta, like->key, out);
    return 0;
}

static int read_meta(json_t *meta, const family *f, const tl_gguf *gguf, const char *where, tl_error *err) {
    const size_t prefix = strlen(f->gguf);
    for (int i = 0; i < tl__gguf_values(gguf); i++) {
        const tl_gguf_value *v = tl__gguf_value_at(gguf, i);
        char key[KEY_BYTES];
        if (v->key.n <= prefix || memcmp(v->key.bytes, f->gguf, prefix) || v->key.bytes[prefix] != '.') continue;
        snprintf(key, sizeof key, "%.*s", (int)(v->key.n < sizeof key ? v->key.n : sizeof key - 1), v->key.bytes);
        const field *known = v->key.n < sizeof key ? find_field(f, key + prefix + 1) : NULL;
        if (!known)
            return tl__fail(err, TL_EUNSUPPORTED,
                            "%s: '%s' is not a key of a %s model that this version knows, and it may change the result",
                            where, key, f->gguf);
        TRY(read_value(meta, key, known, v, where, err));
    }
    return 0;
}

static void add_token(json_t *config, const char *key, const tl_gguf *gguf, const char *name) {
    const tl_gguf_value *v = tl__gguf_find(gguf, name);
    int64_t id;
    if (v && tl__gguf_int(v, 0, &id)) json_object_set_new(config, key, json_integer(id));
}

static int read_factors(facts *t, float *room, const tl_gguf *gguf, const char *where, tl_error *err) {
    const tl_tensor_info *info = tl__gguf_tensor(gguf, rope_freqs_name);
    if (!info) return 0;
    if (info->type != TL_F32 || info->dims != 1 || info->shape[0] > TL_MAX_HEAD_DIM / 2)
        return tl__fail(err, TL_EFORMAT, "%s: tensor '%s' should be at most %d numbers of type F32", where,
                        rope_freqs_name, TL_MAX_HEAD_DIM / 2);
    t->n_factors = info->shape[0], t->rope_factors = room;
    return tl__gguf_read(gguf, info, room, 0, (size_t)t->n_factors * sizeof *room, err);
}

static int find_family(const family **out, const tl_gguf *gguf, const char *where, tl_error *err) {
    const tl_gguf_value *v = tl__gguf_find(gguf, "general.architecture");
    char name[64] = "", known[256] = "";
    if (!v || v->kind != TL_GGUF_STRING)
        return tl__fail(err, TL_EFORMAT, "%s: its metadata lack 'general.architecture'", where);
    snprintf(name, sizeof name, "%.*s", (int)(v->texts->n < sizeof name ? v->texts->n : sizeof name - 1),
             v->texts->bytes);
    for (int i = 0; i < FAMILIES; i++) {
        if (strcmp(families[i].gguf, name) == 0) {
            *out = &families[i];
            int64_t experts = 0;
            v = tl__gguf_find(gguf, "llama.expert_count");
            if (families[i].bit == LLAMA && v && tl__gguf_int(v, 0, &experts) && experts > 0) *out = &families[i + 1];
            return 0;
        }
        if (i && strcmp(families[i].gguf, families[i - 1].gguf) == 0) continue;
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s",
                 i == 0             ? ""
                 : i + 1 < FAMILIES ? ", "
                                    : " and ",
                 families[i].gguf);
    }
    return tl__fail(err, TL_EUNSUPPORTED, "%s: 'general.architecture' is '%s'; this version knows %s", where, name,
                    known);
}

static int read_config(json_t *config, json_t *meta, const tl_gguf *gguf, const char *where, tl_error *err) {
    const family *f = NULL;
    float factors[TL_MAX_HEAD_DIM / 2];
    TRY(find_family(&f, gguf, where, err));
    const tl_tensor_info *embed = tl__gguf_tensor(gguf, "token_embd.weight");
    if (!embed || embed->dims != 2)
        return tl__fail(err, TL_EFORMAT, "%s: %s tensor 'token_embd.weight'; a file of a vocabulary alone is no model",
                        where, embed ? "two dimensions were expected of" : "it lacks");
    facts t = {.vocab = embed->shape[0],
               .qkv_bias = tl__gguf_tensor(gguf, "blk.0.attn_q.bias") != NULL,
               .mlp_bias = tl__gguf_tensor(gguf, "blk.0.ffn_gate.bias") != NULL,
               .tied = tl__gguf_tensor(gguf, "output.weight") == NULL};
    TRY(read_factors(&t, factors, gguf, where, err));
    TRY(read_meta(meta, f, gguf, where, err));
    TRY(to_config(config, f, meta, &t, where, err));
    add_token(config, "bos_token_id", gguf, "tokenizer.ggml.bos_token_id");
    add_token(config, "eos_token_id", gguf, "tokenizer.ggml.eos_token_id");
    add_token(config, "pad_token_id", gguf, "tokenizer.ggml.padding_token_id");
    return 0;
}

int tl__arch_from_gguf(tl_arch *arch, const tl_gguf *gguf, tl_error *err) {
    const char *where = tl__gguf_path(gguf);
    json_t *config = json_object(), *meta = json_object();
    int status = read_config(config, meta, gguf, where, err);
    if (!status) status = parse_config(arch, config, where, err);
    json_decref(config);
    json_decref(meta);
    return status;
}

/* ---- writing ---- */

static const family *family_of(const tl_arch *a) {
    for (int i = 0; i < FAMILIES; i++)
        if (strcmp(families[i].config, a->family) == 0) return &families[i];
    return NULL;
}

const char *tl__gguf_arch_name(const tl_arch *a) {
    const family *f = family_of(a);
    return f ? f->gguf : NULL;
}

static json_t *config_of(const tl_arch *a) {
    char *text = tl__arch_config_json(a);
    json_t *config = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    return config;
}

static void meta_from_config(json_t *meta, const family *f, const json_t *config, const tl_arch *a) {
    for (int i = 0; i < FIELDS; i++) {
        json_t *v = fields[i].config ? json_object_get(config, fields[i].config) : NULL;
        /* num_experts is what all but Mixtral call it. */
        if (!v && strcmp(fields[i].key, "expert_count") == 0) v = json_object_get(config, "num_experts");
        if (v && !json_is_null(v) && (fields[i].families & f->bit)) json_object_set(meta, fields[i].key, v);
    }
    json_object_set_new(meta, "vocab_size", json_integer(a->V));
    if (f->bit == GPT2) return;
    json_object_set_new(meta, "attention.value_length", json_integer(a->D));
    json_object_set_new(meta, "rope.dimension_count", json_integer(a->D));
    if (a->rope.scaling == TL_ROPE_LINEAR || a->rope.scaling == TL_ROPE_YARN) {
        bool yarn = a->rope.scaling == TL_ROPE_YARN;
        json_object_set_new(meta, "rope.scaling.type", json_string(yarn ? "yarn" : "linear"));
        json_object_set_new(meta, "rope.scaling.factor", json_real(a->rope.factor));
        if (yarn) {
            json_object_set_new(meta, "rope.scaling.original_context_length", json_integer(a->rope.original_positions));
            json_object_set_new(meta, "rope.scaling.yarn_beta_fast", json_real(a->rope.beta_fast));
            json_object_set_new(meta, "rope.scaling.yarn_beta_slow", json_real(a->rope.beta_slow));
        }
    }
    if (!(f->bit & GEMMA)) return;
    bool usual = true;
    json_t *slides = json_array();
    for (int l = 0; l < a->L; l++) {
        usual = usual && a->layer[l].sliding == ((l + 1) % f->pattern != 0);
        json_array_append_new(slides, json_boolean(a->layer[l].sliding));
    }
    if (!usual) json_object_set(meta, "attention.sliding_window_pattern", slides);
    json_decref(slides);
}

/* Fields of config.json that no reader of GGUF asks for: training's, and the tokens', which the tokenizer brings. */
static bool is_beside_the_point(const char *key) {
    static const char *const keys[] = {"model_type",   "architectures", "initializer_range", "router_aux_loss_coef",
                                       "bos_token_id", "eos_token_id",  "pad_token_id",      NULL};
    return tl__arch_listed(keys, key);
}

/* Every field of one that says something is in the other. */
static int compare(const json_t *config, const json_t *back, const family *f, const char *where, tl_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)config, key, value) {
        bool silent = json_is_null(value) || json_is_false(value);
        if (silent || is_beside_the_point(key) || json_equal(value, json_object_get(back, key))) continue;
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        int status = tl__fail(
            err, TL_EUNSUPPORTED,
            "%s: a GGUF file of a %s model cannot say that '%s' is %.200s; readers would compute something else", where,
            f->gguf, key, text ? text : "this");
        free(text);
        return status;
    }
    return 0;
}

static int prove(const json_t *config, const json_t *meta, const family *f, const tl_arch *a, tl_error *err) {
    float factors[TL_MAX_HEAD_DIM / 2];
    facts t = {.vocab = a->V, .qkv_bias = a->qkv_bias, .mlp_bias = a->mlp_bias, .tied = a->tied, .n_factors = a->D / 2};
    if (f->bit & (LLAMA | MIXTRAL) && tl__gguf_rope_factors(factors, a)) t.rope_factors = factors;
    json_t *again = json_object(), *back = NULL;
    tl_arch arch;
    char where[64];
    snprintf(where, sizeof where, "the %s model", a->family);
    const family *reader = f->bit == LLAMA ? &families[0] : f; /* which cannot know that it was Mistral's */
    int status = to_config(again, reader, meta, &t, where, err);
    if (!status) status = parse_config(&arch, again, where, err);
    if (!status) {
        snprintf(arch.family, sizeof arch.family, "%s", a->family);
        back = config_of(&arch);
        status = back ? compare(config, back, f, where, err) : tl__fail(err, TL_ENOMEM, "no memory for metadata");
    }
    json_decref(again);
    json_decref(back);
    return status;
}

static int put(tl_gguf_out *out, const family *f, const field *like, const json_t *v, tl_error *err) {
    char key[KEY_BYTES];
    snprintf(key, sizeof key, "%s.%s", f->gguf, like->key);
    if (json_is_array(v)) {
        unsigned char flags[TL_MAX_LAYERS];
        size_t n = json_array_size(v);
        for (size_t i = 0; i < n; i++) flags[i] = json_is_true(json_array_get(v, i));
        return tl__gguf_put(out, key, TL_GGUF_BOOL, true, flags, NULL, (int64_t)n, err);
    }
    if (like->kind == REAL) {
        float real = (float)json_number_value(v);
        return tl__gguf_put(out, key, TL_GGUF_F32, false, &real, NULL, 1, err);
    }
    if (like->kind == TEXT) {
        tl_gguf_text text = {json_string_value(v), json_string_length(v)};
        return tl__gguf_put(out, key, TL_GGUF_STRING, false, NULL, &text, 1, err);
    }
    uint32_t whole = (uint32_t)json_integer_value(v);
    return tl__gguf_put(out, key, TL_GGUF_U32, false, &whole, NULL, 1, err);
}

static int write_meta(tl_gguf_out *out, const family *f, const json_t *meta, tl_error *err) {
    tl_gguf_text name = {f->gguf, strlen(f->gguf)};
    TRY(tl__gguf_put(out, "general.architecture", TL_GGUF_STRING, false, NULL, &name, 1, err));
    for (int i = 0; i < FIELDS; i++) {
        const json_t *v = fields[i].families & f->bit ? json_object_get(meta, fields[i].key) : NULL;
        if (v) TRY(put(out, f, &fields[i], v, err));
    }
    return 0;
}

int tl__arch_to_gguf(tl_gguf_out *out, const tl_arch *a, tl_error *err) {
    const family *f = family_of(a);
    if (!f) return tl__fail(err, TL_EUNSUPPORTED, "GGUF has no name for a %s model", a->family);
    json_t *config = config_of(a), *meta = json_object();
    int status = config ? 0 : tl__fail(err, TL_ENOMEM, "no memory for metadata");
    if (!status) {
        meta_from_config(meta, f, config, a);
        status = prove(config, meta, f, a, err);
    }
    if (!status) status = write_meta(out, f, meta, err);
    json_decref(config);
    json_decref(meta);
    return status;
}
