/* tokens.c — the calls that need no engine's thread: a tokenizer is read by several at once. */
#include "serve/tokens.h"

#include <stdlib.h>
#include <string.h>

static int check_members(const json_t *root, const char *const *names, int n, tl_refusal *r) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)root, key, v) {
        bool known = false;
        for (int i = 0; i < n && !known; i++) known = strcmp(key, names[i]) == 0;
        if (!known) return tl__ask_unknown(key, names, n, r);
    }
    return 0;
}

static int read_flag(const json_t *root, const char *key, bool fallback, bool *out, tl_refusal *r) {
    const json_t *v = json_object_get(root, key);
    *out = v && !json_is_null(v) ? json_is_true(v) : fallback;
    if (!v || json_is_null(v) || json_is_boolean(v)) return 0;
    return tl__refuse(r, key, "'%s' is either true or false", key);
}

static json_t *token_strings(const tl_ask *a, const tl_tokenizer *tok) {
    json_t *list = json_array();
    for (int i = 0; i < a->prompt[0].n && tok; i++) {
        size_t n;
        const char *bytes = tl__tokenizer_bytes(tok, a->prompt[0].ids[i], &n);
        json_t *text = json_stringn(bytes, n);
        json_array_append_new(list, text ? text : json_string("\xef\xbf\xbd")); /* part of a character */
    }
    return list;
}

static int encode(tl_ask *a, bool *strings, const tl_ask_context *c, tl_refusal *r) {
    static const char *const names[] = {"model",
                                        "prompt",
                                        "content",
                                        "messages",
                                        "tools",
                                        "add_special_tokens",
                                        "add_generation_prompt",
                                        "return_token_strs",
                                        "chat_template_kwargs"};
    bool begin, generation;
    TRY(check_members(a->root, names, sizeof names / sizeof *names, r));
    TRY(read_flag(a->root, "add_special_tokens", true, &begin, r));
    TRY(read_flag(a->root, "add_generation_prompt", true, &generation, r));
    TRY(read_flag(a->root, "return_token_strs", false, strings, r));
    a->no_begin = !begin;
    a->no_generation_prompt = !generation;
    a->parse_tools = json_array_size(json_object_get(a->root, "tools")) > 0;
    const json_t *messages = json_object_get(a->root, "messages"), *prompt = json_object_get(a->root, "prompt");
    if (!prompt) prompt = json_object_get(a->root, "content");
    if (messages && !json_is_null(messages)) return tl__ask_messages(a, messages, c, r);
    if (!json_is_string(prompt)) return tl__refuse(r, "prompt", "'prompt' is missing, or no text");
    const bool empty = json_string_length(prompt) == 0; /* of which a request makes the id that begins a text */
    TRY(tl__ask_prompts(a, "prompt", prompt, c, r));
    if (empty && !begin) a->prompt[0].n = 0;
    return 0;
}

json_t *tl__tokens_encode(const char *body, size_t n, const tl_ask_context *c, tl_refusal *r) {
    tl_ask a = {.root = tl__ask_object(body, n, r)};
    bool strings = false;
    json_t *out = NULL;
    if (a.root && !encode(&a, &strings, c, r)) {
        json_t *ids = json_array();
        for (int i = 0; i < a.prompt[0].n; i++) json_array_append_new(ids, json_integer(a.prompt[0].ids[i]));
        out = json_pack("{s:i, s:i, s:o}", "count", a.prompt[0].n, "max_model_len", c->positions, "tokens", ids);
        if (strings) json_object_set_new(out, "token_strs", token_strings(&a, c->engine->tokenizer));
    }
    tl__ask_free(&a);
    return out;
}

static json_t *decode(const tl_ask *a, const tl_ask_context *c, tl_refusal *r) {
    size_t n = 0;
    tl_error err;
    if (!c->engine->tokenizer) return tl__refuse(r, NULL, "this model has no tokenizer"), NULL;
    const int32_t *ids = a->prompt[0].ids;
    const size_t count = (size_t)a->prompt[0].n;
    int status = tl_engine_decode(c->engine, ids, count, true, NULL, 0, &n, &err);
    char *text = malloc(n + 1);
    if (!status && text) status = tl_engine_decode(c->engine, ids, count, true, text, n + 1, &n, &err);
    json_t *out = !status && text ? json_pack("{s:s%}", "prompt", text, n) : NULL;
    if (status) tl__refuse_error(r, "tokens", &err);
    else if (!out) tl__refuse_as(r, 503, NULL, NULL, "not enough memory for the text");
    free(text);
    return out;
}

json_t *tl__tokens_decode(const char *body, size_t n, const tl_ask_context *c, tl_refusal *r) {
    static const char *const names[] = {"model", "tokens"};
    tl_ask a = {.root = tl__ask_object(body, n, r)};
    json_t *out = NULL;
    const json_t *tokens = json_object_get(a.root, "tokens");
    const bool ids = json_is_array(tokens) && !json_is_string(json_array_get(tokens, 0)) &&
                     !json_is_array(json_array_get(tokens, 0));
    if (a.root && !check_members(a.root, names, 2, r)) {
        if (!ids) tl__refuse(r, "tokens", "'tokens' is missing, or no list of token ids");
        else if (json_array_size(tokens) == 0) out = json_pack("{s:s}", "prompt", "");
        else if (!tl__ask_prompts(&a, "tokens", tokens, c, r)) out = decode(&a, c, r);
    }
    tl__ask_free(&a);
    return out;
}

json_t *tl__tokens_info(const tl_ask_context *c, tl_refusal *r) {
    const tl_tokenizer *tok = c->engine->tokenizer;
    if (!tok) return tl__refuse_as(r, 404, "not_found", NULL, "this model has no tokenizer"), NULL;
    json_t *out =
        json_pack("{s:s, s:i, s:i, s:b}", "tokenizer_class", "trilith", "vocab_size", tl__tokenizer_vocab(tok),
                  "max_model_len", c->positions, "add_bos_token", tl__tokenizer_adds_bos(tok));
    json_object_update(out, c->chat->tokens);
    if (c->chat->source) json_object_set_new(out, "chat_template", json_string(c->chat->source));
    const int32_t ids[] = {tl__tokenizer_bos(tok), tl__tokenizer_eos(tok)};
    static const char *const names[] = {"bos_token", "eos_token"};
    for (int i = 0; i < 2; i++) {
        size_t n = 0;
        const char *text = ids[i] >= 0 ? tl__tokenizer_bytes(tok, ids[i], &n) : NULL;
        if (!json_object_get(out, names[i]))
            json_object_set_new(out, names[i], text ? json_stringn(text, n) : json_null());
    }
    return out;
}
