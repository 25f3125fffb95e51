/* convert_metadata.c — owns what a converted model has beside its weights: GGUF's keys, or a folder's config.json and
 * tokenizer files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "model/convert_parts.h"
#include "text/tokenizer.h"

#define MOST_BYTES ((size_t)256 << 20) /* of a file that is copied or read whole */

/* ---- GGUF's keys ---- */

static int put_text(tl_gguf_out *out, const char *key, const char *text, size_t n, tl_error *err) {
    const tl_gguf_text value = {text, n};
    return tl__gguf_put(out, key, TL_GGUF_STRING, false, NULL, &value, 1, err);
}

static int put_u32(tl_gguf_out *out, const char *key, uint32_t value, tl_error *err) {
    return tl__gguf_put(out, key, TL_GGUF_U32, false, &value, NULL, 1, err);
}

/* llama.cpp's number of a file that is mostly of a type. */
static int file_type(tl_type type) {
    switch (type) {
    case TL_F32:
        return 0;
    case TL_F16:
        return 1;
    case TL_Q4_0:
        return 2;
    case TL_Q4_1:
        return 3;
    case TL_Q8_0:
        return 7;
    case TL_Q5_0:
        return 8;
    case TL_Q5_1:
        return 9;
    case TL_Q2_K:
        return 10;
    case TL_Q3_K:
        return 12;
    case TL_Q4_K:
        return 14;
    case TL_Q5_K:
        return 16;
    case TL_Q6_K:
        return 18;
    case TL_IQ4_NL:
        return 25;
    case TL_IQ4_XS:
        return 30;
    case TL_BF16:
        return 32;
    default:
        return 1024; /* guessed */
    }
}

static int put_types(const tl_conversion *c, tl_gguf_out *out, tl_error *err) {
    TRY(put_u32(out, "general.file_type", (uint32_t)file_type(c->most), err));
    return put_u32(out, "general.quantization_version", 2, err);
}

static bool key_is(const tl_gguf_value *v, const char *key) {
    return v->key.n == strlen(key) && !memcmp(v->key.bytes, key, v->key.n);
}

/* What lies in several parts becomes one file, and the alignment is the writer's. */
static bool is_rewritten(const tl_conversion *c, const tl_gguf_value *v) {
    static const char *const keys[] = {"general.alignment", "split.no", "split.count", "split.tensors.count"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (key_is(v, keys[i])) return true;
    return c->job->type != TL_TYPES && (key_is(v, "general.file_type") || key_is(v, "general.quantization_version"));
}

static int copy_keys(const tl_conversion *c, tl_gguf_out *out, tl_error *err) {
    const tl_gguf *g = tl__source_gguf(c->source);
    for (int i = 0; i < tl__gguf_values(g); i++) {
        const tl_gguf_value *v = tl__gguf_value_at(g, i);
        if (is_rewritten(c, v)) continue;
        char *key = strndup(v->key.bytes, v->key.n);
        int rc = key ? tl__gguf_put(out, key, v->of, v->kind == TL_GGUF_ARRAY, v->data, v->texts, v->count, err)
                     : tl__fail(err, TL_ENOMEM, "no memory for the keys of %s", c->job->in);
        free(key);
        if (rc) return rc;
    }
    return c->job->type != TL_TYPES ? put_types(c, out, err) : 0;
}

/* The folder's own name, for general.name. */
static void name_of(char *out, size_t size, const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t first = n;
    while (first > 0 && path[first - 1] != '/') first--;
    snprintf(out, size, "%.*s", (int)(n - first), path + first);
}

/* The template's text, whether or not this program can render it. Of several the default one. */
static int put_template(const tl_conversion *c, tl_gguf_out *out, tl_error *err) {
    static const char key[] = "tokenizer.chat_template";
    char path[4096], *text;
    size_t n;
    tl__path_join(path, sizeof path, c->job->in, "chat_template.jinja");
    const bool alone = tl__path_exists(path);
    if (!alone) tl__path_join(path, sizeof path, c->job->in, "tokenizer_config.json");
    if (!tl__path_exists(path)) return 0;
    TRY(tl__file_slurp(&text, &n, path, MOST_BYTES, err));
    if (alone) {
        int rc = put_text(out, key, text, n, err);
        free(text);
        return rc;
    }
    json_t *config = tl__json_parse(text, n, path, err), *one;
    free(text);
    if (!config) return TL_EFORMAT;
    const json_t *template = json_object_get(config, "chat_template"),
                 *found = json_is_string(template) ? template : NULL;
    size_t i;
    json_array_foreach(template, i, one) {
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name && !strcmp(name, "default")) found = json_object_get(one, "template");
    }
    int rc = json_is_string(found) ? put_text(out, key, json_string_value(found), json_string_length(found), err) : 0;
    json_decref(config);
    return rc;
}

/* Without a tokenizer the file says so, and is good for token ids. */
static int put_tokenizer(const tl_conversion *c, tl_gguf_out *out, tl_error *err) {
    char path[4096];
    tl__path_join(path, sizeof path, c->job->in, "tokenizer.json");
    if (!tl__path_exists(path)) return put_text(out, "tokenizer.ggml.model", "no_vocab", 8, err);
    tl_tokenizer *tok;
    TRY(tl__tokenizer_open(&tok, path, err));
    int rc = tl__tokenizer_to_gguf(tok, c->arch.V, out, err);
    if (rc) tl__error_prefix(err, "%s", path);
    tl__tokenizer_close(tok);
    return rc ? rc : put_template(c, out, err);
}

int tl__convert_keys(const tl_conversion *c, tl_gguf_out *out, tl_error *err) {
    if (c->same_form) return copy_keys(c, out, err);
    char name[256];
    TRY(tl__arch_to_gguf(out, &c->arch, err));
    name_of(name, sizeof name, c->job->in);
    TRY(put_text(out, "general.type", "model", 5, err));
    TRY(put_text(out, "general.name", name, strlen(name), err));
    TRY(put_types(c, out, err));
    return put_tokenizer(c, out, err);
}

/* ---- a folder's files ---- */

static int copy_file(const tl_conversion *c, const char *name, tl_error *err) {
    char from[4096], to[4096], *bytes;
    size_t n;
    tl__path_join(from, sizeof from, c->job->in, name);
    tl__path_join(to, sizeof to, c->job->out, name);
    if (!tl__path_exists(from)) return 0;
    TRY(tl__file_slurp(&bytes, &n, from, MOST_BYTES, err));
    int rc = tl__file_publish(to, bytes, n, err);
    free(bytes);
    return rc;
}

/* config.json's text with the type of the weights that it speaks of. Its other bytes stay where the type does. */
static int publish_config(const tl_conversion *c, const char *text, size_t n, tl_error *err) {
    static const char *const names[TL_TYPES] = {[TL_F32] = "float32", [TL_F16] = "float16", [TL_BF16] = "bfloat16"};
    char path[4096];
    tl__path_join(path, sizeof path, c->job->out, "config.json");
    if ((c->same_form && c->job->type == TL_TYPES) || !names[c->most]) return tl__file_publish(path, text, n, err);
    json_t *config = tl__json_parse(text, n, c->job->in, err);
    if (!config) return TL_EFORMAT;
    const char *key = json_object_get(config, "torch_dtype") ? "torch_dtype" : "dtype"; /* as older and newer have it */
    json_object_set_new(config, key, json_string(names[c->most]));
    char *out = json_dumps(config, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    json_decref(config);
    int rc = out ? tl__file_publish(path, out, strlen(out), err) : tl__fail(err, TL_ENOMEM, "no memory for %s", path);
    free(out);
    return rc;
}

static int copy_files(const tl_conversion *c, tl_error *err) {
    static const char *const names[] = {"tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "tokenizer.model",
                                        "generation_config.json",
                                        "chat_template.jinja",
                                        "chat_template.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) TRY(copy_file(c, names[i], err));
    char path[4096], *text;
    size_t n;
    tl__path_join(path, sizeof path, c->job->in, "config.json");
    if (!tl__path_exists(path)) return 0; /* tensors alone */
    TRY(tl__file_slurp(&text, &n, path, MOST_BYTES, err));
    int rc = publish_config(c, text, n, err);
    free(text);
    return rc;
}

int tl__convert_files(const tl_conversion *c, tl_error *err) {
    if (c->same_form) return copy_files(c, err);
    const tl_gguf *g = tl__source_gguf(c->source);
    if (tl__gguf_find(g, "tokenizer.ggml.tokens")) {
        tl_tokenizer *tok;
        TRY(tl__tokenizer_from_gguf(&tok, g, err));
        int rc = tl__tokenizer_save(tok, c->job->out, err);
        tl__tokenizer_close(tok);
        if (rc) return rc;
    }
    char *config = tl__arch_config_json(&c->arch);
    int rc =
        config ? publish_config(c, config, strlen(config), err) : tl__fail(err, TL_ENOMEM, "no memory for config.json");
    free(config);
    return rc;
}
