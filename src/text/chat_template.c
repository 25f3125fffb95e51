/* chat_template.c — finds a model's chat template and the text of its special tokens. */
#include "text/chat_template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "io/file.h"
#include "io/gguf.h"

#define CONFIG_BYTES ((size_t)64 << 20)

static const char *const token_names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                          "pad_token", "cls_token", "mask_token"};

/* [n] bytes; `where` is what errors call them. */
static int compile(tl_chat_template *chat, const char *source, size_t n, const char *where, tl_error *err) {
    TRY(tl__template_compile(&chat->template, source, n, where, err));
    chat->source = strndup(source, n);
    return chat->source ? 0 : tl__fail(err, TL_ENOMEM, "not enough memory for a template");
}

int tl__chat_template_file(tl_chat_template *chat, const char *path, tl_error *err) {
    char *source = NULL;
    size_t n = 0;
    if (!chat->tokens && !(chat->tokens = json_object()))
        return tl__fail(err, TL_ENOMEM, "not enough memory for a template");
    int status = tl__file_slurp(&source, &n, path, TL_TEMPLATE_SOURCE_BYTES, err);
    if (!status) status = compile(chat, source, n, path, err);
    free(source);
    return status;
}

void tl__chat_template_close(tl_chat_template *chat) {
    tl__template_free(chat->template);
    free(chat->source);
    json_decref(chat->tokens);
    *chat = (tl_chat_template){0};
}

/* ---- Hugging Face folders ---- */

static int read_json(json_t **out, const char *folder, const char *name, tl_error *err) {
    char path[4096];
    tl__path_join(path, sizeof path, folder, name);
    *out = NULL;
    if (!tl__path_exists(path)) return 0;
    char *bytes = NULL;
    size_t n = 0;
    int status = tl__file_slurp(&bytes, &n, path, CONFIG_BYTES, err);
    if (status) return status;
    *out = tl__json_parse(bytes, n, path, err);
    free(bytes);
    if (*out && json_is_object(*out)) return 0;
    if (*out) tl__fail(err, TL_EFORMAT, "%s: a JSON object was expected", path);
    return TL_EFORMAT;
}

/* A token is written as its text, or as an object with "content". */
static void take_tokens(json_t *tokens, const json_t *config) {
    for (size_t i = 0; i < sizeof token_names / sizeof *token_names; i++) {
        const json_t *t = json_object_get(config, token_names[i]);
        if (json_is_object(t)) t = json_object_get(t, "content");
        if (json_is_string(t)) json_object_set(tokens, token_names[i], (json_t *)t);
    }
}

/* "chat_template" as a text, or as a list of {"name", "template"}. */
static const char *choose(const json_t *value, bool tools) {
    if (json_is_string(value)) return json_string_value(value);
    const char *found = NULL;
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *one = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(one, "name")),
                   *source = json_string_value(json_object_get(one, "template"));
        if (!name || !source) continue;
        if (tools && !strcmp(name, "tool_use")) return source;
        if (!strcmp(name, "default")) found = source;
    }
    return found;
}

/* source false: the tokens alone. */
static int open_folder(tl_chat_template *chat, const char *folder, bool tools, bool source_too, tl_error *err) {
    json_t *config = NULL, *special = NULL, *alone = NULL;
    char path[4096];
    int status = read_json(&config, folder, "tokenizer_config.json", err);
    if (!status) status = read_json(&special, folder, "special_tokens_map.json", err);
    if (!status) {
        take_tokens(chat->tokens, config);
        /* transformers reads the older file only beside a tokenizer_config.json that lists no added tokens */
        if (!json_object_get(config, "added_tokens_decoder")) take_tokens(chat->tokens, special);
    }
    tl__path_join(path, sizeof path, folder, "chat_template.jinja");
    if (!status && source_too && tl__path_exists(path)) {
        status = tl__chat_template_file(chat, path, err);
    } else if (!status && source_too) {
        status = read_json(&alone, folder, "chat_template.json", err);
        const char *source = choose(json_object_get(alone ? alone : config, "chat_template"), tools);
        tl__path_join(path, sizeof path, folder, alone ? "chat_template.json" : "tokenizer_config.json");
        if (!status && !source)
            status = tl__fail(err, TL_ENOTFOUND,
                              "'%s' has no chat template (chat_template.jinja, or \"chat_template\" in "
                              "tokenizer_config.json); give one with --template",
                              folder);
        if (!status) status = compile(chat, source, strlen(source), path, err);
    }
    json_decref(config);
    json_decref(special);
    json_decref(alone);
    return status;
}

/* ---- GGUF ---- */

static int take_gguf_token(json_t *tokens, const tl_gguf *g, const char *key, const char *name, tl_error *err) {
    const tl_gguf_value *id = tl__gguf_find(g, key), *list = tl__gguf_find(g, "tokenizer.ggml.tokens");
    int64_t at;
    if (!id || !list || !list->texts || !tl__gguf_int(id, 0, &at)) return 0;
    if (at < 0 || at >= list->count)
        return tl__fail(err, TL_EFORMAT, "%s: %s is %lld, but there are %lld tokens", tl__gguf_path(g), key,
                        (long long)at, (long long)list->count);
    json_t *text = json_stringn(list->texts[at].bytes, list->texts[at].n);
    if (text) json_object_set_new(tokens, name, text);
    return 0;
}

static int read_gguf(tl_chat_template *chat, const tl_gguf *g, bool source_too, tl_error *err) {
    static const char *const kinds[][2] = {
        {"bos", "bos_token"},     {"eos", "eos_token"}, {"unknown", "unk_token"}, {"seperator", "sep_token"},
        {"padding", "pad_token"}, {"cls", "cls_token"}, {"mask", "mask_token"}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char key[64];
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", kinds[i][0]);
        TRY(take_gguf_token(chat->tokens, g, key, kinds[i][1], err));
    }
    if (!source_too) return 0;
    const tl_gguf_value *source = tl__gguf_find(g, "tokenizer.chat_template");
    char where[4096];
    snprintf(where, sizeof where, "%s: tokenizer.chat_template", tl__gguf_path(g));
    if (!source || source->kind != TL_GGUF_STRING || !source->texts)
        return tl__fail(err, TL_ENOTFOUND,
                        "%s has no chat template (tokenizer.chat_template); give one with --template",
                        tl__gguf_path(g));
    return compile(chat, source->texts[0].bytes, source->texts[0].n, where, err);
}

static int open_model(tl_chat_template *chat, const char *model, const tl_gguf *gguf, bool tools, bool source_too,
                      tl_error *err) {
    *chat = (tl_chat_template){.tokens = json_object()};
    if (!chat->tokens) return tl__fail(err, TL_ENOMEM, "not enough memory for a template");
    if (gguf) return read_gguf(chat, gguf, source_too, err);
    if (tl__path_is_folder(model)) return open_folder(chat, model, tools, source_too, err);
    tl_gguf *opened;
    TRY(tl__gguf_open(&opened, model, err));
    int status = read_gguf(chat, opened, source_too, err);
    tl__gguf_close(opened);
    return status;
}

int tl__chat_template_open(tl_chat_template *chat, const char *model, const tl_gguf *gguf, bool tools, tl_error *err) {
    return open_model(chat, model, gguf, tools, true, err);
}

int tl__chat_template_tokens(tl_chat_template *chat, const char *model, const tl_gguf *gguf, tl_error *err) {
    return open_model(chat, model, gguf, false, false, err);
}
