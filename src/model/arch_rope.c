/* arch_rope.c — owns RoPE's parameters: read from config.json in its old and new form, written back in both, and turned
 * into tables of cosines and sines.
 *
 * Plain: Su et al. 2021. Linear: Chen et al. 2023 (positions divided by a factor). YaRN: Peng et al. 2023, §3. llama3:
 * the rule of Llama 3.1, which divides low frequencies only. The order of f32 operations is that of transformers, so
 * that tables agree to the last bits. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/elementary.h"
#include "model/arch_parts.h"

enum { PATH_BYTES = 512 };

static const double MOST_THETA = 1e12, MOST_FACTOR = 1e6;

/* ---- reading ---- */

static const char *const scaling_names[] = {"default", "linear", "llama3", "yarn", NULL};

static const char *const scaling_keys[][9] = {
    [TL_ROPE_PLAIN] = {NULL},
    [TL_ROPE_LINEAR] = {"factor", NULL},
    [TL_ROPE_LLAMA3] = {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", NULL},
    [TL_ROPE_YARN] = {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
                      "mscale", "mscale_all_dim", "truncate", NULL},
};

/* A real number that must be there. */
static int real(const json_t *rope, const char *key, double least, double most, double *out, const char *where,
                tl_error *err) {
    if (!json_is_number(json_object_get(rope, key)))
        return tl__fail(err, TL_EFORMAT, "%s: '%s' is missing; this kind of RoPE needs it as a number", where, key);
    return tl__json_real_or(rope, key, least, most, 0, out, where, err);
}

/* One object of RoPE parameters. theta comes in as what the file says elsewhere. */
static int parse_object(tl_rope *r, double *theta, const json_t *rope, int max_positions, const char *where,
                        tl_error *err) {
    const char *type, *key;
    json_t *value;
    double partial;
    if (!json_is_object(rope)) return tl__fail(err, TL_EFORMAT, "%s: should be an object", where);
    TRY(tl__json_string_or(rope, "type", "default", &type, where, err)); /* its name in old files */
    TRY(tl__json_string_or(rope, "rope_type", type, &type, where, err));
    int kind = 0;
    while (scaling_names[kind] && strcmp(scaling_names[kind], type)) kind++;
    if (!scaling_names[kind])
        return tl__fail(err, TL_EUNSUPPORTED,
                        "%s: RoPE of type '%s' is not supported; default, linear, llama3 and yarn are", where, type);
    json_object_foreach((json_t *)rope, key, value) {
        static const char *const always[] = {"type", "rope_type", "rope_theta", "partial_rotary_factor", NULL};
        if (json_is_null(value) || tl__arch_listed(always, key) || tl__arch_listed(scaling_keys[kind], key)) continue;
        return tl__fail(err, TL_EUNSUPPORTED,
                        "%s: '%s' is not a field of RoPE of type '%s'; remove it if it does not matter", where, key,
                        type);
    }
    TRY(tl__json_real_or(rope, "partial_rotary_factor", 0, 1, 1, &partial, where, err));
    if (partial != 1)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: 'partial_rotary_factor' is %g; only whole heads can be rotated",
                        where, partial);
    TRY(tl__json_real_or(rope, "rope_theta", 1.0, MOST_THETA, *theta, theta, where, err));
    r->scaling = (tl_rope_scaling)kind;
    if (r->scaling == TL_ROPE_PLAIN) return 0;
    TRY(real(rope, "factor", 1, MOST_FACTOR, &r->factor, where, err));
    if (r->scaling == TL_ROPE_LINEAR) return 0;
    TRY(tl__arch_int(rope, "original_max_position_embeddings", 1, TL_MOST_POSITIONS, max_positions,
                     &r->original_positions, where, err));
    if (r->scaling == TL_ROPE_LLAMA3) {
        TRY(real(rope, "low_freq_factor", 1e-6, MOST_FACTOR, &r->low_freq_factor, where, err));
        TRY(real(rope, "high_freq_factor", 1e-6, MOST_FACTOR, &r->high_freq_factor, where, err));
        if (r->high_freq_factor <= r->low_freq_factor)
            return tl__fail(err, TL_EINVALID, "%s: 'high_freq_factor' is %g; it should exceed 'low_freq_factor', %g",
                            where, r->high_freq_factor, r->low_freq_factor);
        return 0;
    }
    TRY(tl__json_real_or(rope, "beta_fast", 0, MOST_FACTOR, 0, &r->beta_fast, where, err));
    TRY(tl__json_real_or(rope, "beta_slow", 0, MOST_FACTOR, 0, &r->beta_slow, where, err));
    if (r->beta_fast == 0) r->beta_fast = 32; /* as transformers: 0 stands for the default */
    if (r->beta_slow == 0) r->beta_slow = 1;
    if (r->beta_fast < r->beta_slow || r->beta_slow < 1e-6)
        return tl__fail(err, TL_EINVALID, "%s: 'beta_fast' is %g and 'beta_slow' %g; the first should be the larger",
                        where, r->beta_fast, r->beta_slow);
    TRY(tl__json_real_or(rope, "attention_factor", 0, MOST_FACTOR, -1, &r->attention_factor, where, err));
    if (r->attention_factor == 0)
        return tl__fail(err, TL_EINVALID, "%s: 'attention_factor' is 0, which would turn every query and key to zero",
                        where);
    if (*theta <= 1) return tl__fail(err, TL_EINVALID, "%s: 'rope_theta' is %g; yarn needs more than 1", where, *theta);
    if (r->attention_factor < 0) r->attention_factor = 0;
    TRY(tl__json_real_or(rope, "mscale", 0, MOST_FACTOR, 0, &r->mscale, where, err));
    TRY(tl__json_real_or(rope, "mscale_all_dim", 0, MOST_FACTOR, 0, &r->mscale_all_dim, where, err));
    return tl__json_bool_or(rope, "truncate", true, &r->truncate, where, err);
}

static const json_t *object(const json_t *config, const char *key) {
    const json_t *value = json_object_get(config, key);
    return value && !json_is_null(value) ? value : NULL;
}

/* Gemma 3: rope_parameters holds one object for each kind of layer. */
static int parse_nested(tl_arch *a, const json_t *rope, const char *where, tl_error *err) {
    const char *key;
    json_t *value;
    char at[PATH_BYTES];
    if (!json_is_object(rope)) return tl__fail(err, TL_EFORMAT, "%s: 'rope_parameters' should be an object", where);
    json_object_foreach((json_t *)rope, key, value) {
        bool local = strcmp(key, "sliding_attention") == 0;
        if (json_is_null(value)) continue;
        if (!local && strcmp(key, "full_attention"))
            return tl__fail(err, TL_EUNSUPPORTED,
                            "%s: 'rope_parameters.%s' is not known here; full_attention and sliding_attention are",
                            where, key);
        tl_rope other = {0};
        snprintf(at, sizeof at, "%s: rope_parameters.%s", where, key);
        TRY(parse_object(local ? &other : &a->rope, local ? &a->rope.local_theta : &a->rope.theta, value,
                         a->max_positions, at, err));
        if (other.scaling != TL_ROPE_PLAIN)
            return tl__fail(err, TL_EUNSUPPORTED,
                            "%s: RoPE of sliding layers is scaled; only 'default' is supported there", at);
    }
    return 0;
}

int tl__rope_parse(tl_arch *a, const json_t *config, double default_theta, double local_default, const char *where,
                   tl_error *err) {
    char at[PATH_BYTES];
    const json_t *scaling = object(config, "rope_scaling"), *rope = object(config, "rope_parameters");
    a->rope = (tl_rope){.local_theta = local_default};
    TRY(tl__json_real_or(config, "rope_theta", 1.0, MOST_THETA, default_theta, &a->rope.theta, where, err));
    if (local_default > 0)
        TRY(tl__json_real_or(config, "rope_local_base_freq", 1.0, MOST_THETA, local_default, &a->rope.local_theta,
                             where, err));
    if (rope && local_default > 0) TRY(parse_nested(a, rope, where, err));
    /* Where both are present transformers takes rope_scaling. */
    if (scaling || (rope && local_default == 0)) {
        snprintf(at, sizeof at, "%s: %s", where, scaling ? "rope_scaling" : "rope_parameters");
        TRY(parse_object(&a->rope, &a->rope.theta, scaling ? scaling : rope, a->max_positions, at, err));
    }
    if (local_default > 0 && a->rope.scaling == TL_ROPE_YARN && !a->rope.truncate)
        return tl__fail(err, TL_EUNSUPPORTED,
                        "%s: 'truncate' is false, which transformers ignores in a %s model; remove it", where,
                        a->family);
    return 0;
}

/* ---- writing ---- */

static json_t *write_object(const tl_rope *r, double theta, tl_rope_scaling scaling) {
    json_t *o = json_pack("{s:s, s:f}", "rope_type", scaling_names[scaling], "rope_theta", theta);
    if (scaling == TL_ROPE_PLAIN) return o;
    json_object_set_new(o, "factor", json_real(r->factor));
    if (scaling == TL_ROPE_LINEAR) return o;
    json_object_set_new(o, "original_max_position_embeddings", json_integer(r->original_positions));
    if (scaling == TL_ROPE_LLAMA3) {
        json_object_set_new(o, "low_freq_factor", json_real(r->low_freq_factor));
        json_object_set_new(o, "high_freq_factor", json_real(r->high_freq_factor));
        return o;
    }
    json_object_set_new(o, "beta_fast", json_real(r->beta_fast));
    json_object_set_new(o, "beta_slow", json_real(r->beta_slow));
    if (r->attention_factor > 0) json_object_set_new(o, "attention_factor", json_real(r->attention_factor));
    if (r->mscale > 0) json_object_set_new(o, "mscale", json_real(r->mscale));
    if (r->mscale_all_dim > 0) json_object_set_new(o, "mscale_all_dim", json_real(r->mscale_all_dim));
    if (!r->truncate) json_object_set_new(o, "truncate", json_false());
    return o;
}

/* Today's form, and the old one beside it for programs that know only that; where both are read they say the same. */
void tl__rope_write(json_t *c, const tl_arch *a) {
    const tl_rope *r = &a->rope;
    json_object_set_new(c, "rope_theta", json_real(r->theta));
    if (r->scaling != TL_ROPE_PLAIN) json_object_set_new(c, "rope_scaling", write_object(r, r->theta, r->scaling));
    json_t *rope = write_object(r, r->theta, r->scaling);
    if (r->local_theta > 0) {
        json_object_set_new(c, "rope_local_base_freq", json_real(r->local_theta));
        rope = json_pack("{s:o, s:o}", "full_attention", rope, "sliding_attention",
                         write_object(r, r->local_theta, TL_ROPE_PLAIN));
    }
    json_object_set_new(c, "rope_parameters", rope);
}

/* ---- tables ---- */

int tl__rope_tables(const tl_arch *a) {
    return a->positions != TL_POS_ROPE ? 0 : a->rope.local_theta > 0 ? 2 : 1;
}

/* Natural logarithm in double: a Newton step on the f32 one. */
static double log_f64(double x) {
    double y = (double)tl__log((float)x), r = x * tl__pow_f64(2.718281828459045, -y) - 1;
    return y + (r - r * r / 2);
}

/* YaRN's ramp: 0 for dimensions that turn often within the original positions (kept), 1 for those that hardly do
 * (interpolated), between them a line (Peng et al. 2023, eq. 17–18 in terms of dimensions). */
typedef struct ramp {
    float low, width;
} ramp;

static double turning_dimension(const tl_arch *a, double turns) {
    const double two_pi = 6.283185307179586;
    return a->D * log_f64(a->rope.original_positions / (turns * two_pi)) / (2 * log_f64(a->rope.theta));
}

static ramp yarn_ramp(const tl_arch *a) {
    double low = turning_dimension(a, a->rope.beta_fast), high = turning_dimension(a, a->rope.beta_slow);
    if (a->rope.truncate) low = floor(low), high = ceil(high);
    low = low > 0 ? low : 0, high = high < a->D - 1 ? high : a->D - 1;
    if (low == high) high += 0.001;
    return (ramp){(float)low, (float)(high - low)};
}

static double yarn_mscale(double scale, double mscale) {
    return scale <= 1 ? 1 : 0.1 * mscale * log_f64(scale) + 1;
}

static float yarn_attention_factor(const tl_rope *r) {
    if (r->attention_factor > 0) return (float)r->attention_factor;
    if (r->mscale > 0 && r->mscale_all_dim > 0)
        return (float)(yarn_mscale(r->factor, r->mscale) / yarn_mscale(r->factor, r->mscale_all_dim));
    return (float)yarn_mscale(r->factor, 1);
}

/* Low frequencies divided by the factor, high ones kept, those between blended. Products and quotients one by one in
 * f32; number ÷ tensor is number · (1/tensor), as PyTorch computes it. */
static float llama3_frequency(const tl_rope *r, float frequency) {
    const float two_pi = 6.2831855f;
    float wavelength = (1.0f / frequency) * two_pi, original = (float)r->original_positions;
    float longest = (float)(r->original_positions / r->low_freq_factor);
    float shortest = (float)(r->original_positions / r->high_freq_factor);
    float factor = (float)r->factor;
    if (wavelength > longest) return frequency / factor;
    if (wavelength < shortest) return frequency;
    float smooth = ((1.0f / wavelength) * original - (float)r->low_freq_factor) /
                   (float)(r->high_freq_factor - r->low_freq_factor);
    return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

static float yarn_frequency(const tl_rope *r, ramp line, int i, float power) {
    float kept = 1.0f / power, stretched = 1.0f / ((float)r->factor * power);
    float along = ((float)i - line.low) / line.width;
    along = along < 0 ? 0 : along > 1 ? 1 : along;
    float keep = 1.0f - along;
    return stretched * (1.0f - keep) + kept * keep;
}

void tl__rope_fill(float *cos_sin, const tl_arch *a, bool local, int first, int end) {
    int half = a->D / 2;
    const tl_rope *r = &a->rope;
    double theta = local ? r->local_theta : r->theta;
    tl_rope_scaling scaling = local ? TL_ROPE_PLAIN : r->scaling;
    ramp line = {0};
    float magnitude = 1;
    if (scaling == TL_ROPE_YARN) line = yarn_ramp(a), magnitude = yarn_attention_factor(r);
    float frequencies[TL_MAX_HEAD_DIM / 2];
    for (int i = 0; i < half; i++) {
        float power = (float)tl__pow_f64(theta, (double)((float)(2 * i) / (float)a->D));
        float frequency = 1.0f / power;
        if (scaling == TL_ROPE_LINEAR) frequency /= (float)r->factor;
        if (scaling == TL_ROPE_LLAMA3) frequency = llama3_frequency(r, frequency);
        if (scaling == TL_ROPE_YARN) frequency = yarn_frequency(r, line, i, power);
        frequencies[i] = frequency;
    }
    for (int p = first; p < end; p++) {
        float *row = cos_sin + (int64_t)p * a->D;
        for (int i = 0; i < half; i++) {
            float angle = (float)p * frequencies[i];
            row[i] = tl__cos(angle) * magnitude;
            row[half + i] = tl__sin(angle) * magnitude;
        }
    }
}
