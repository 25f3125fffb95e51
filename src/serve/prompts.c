/* prompts.c — from texts, ids and messages to the ids that are read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "serve/request.h"
#include "serve/spelling.h"
#include "text/conversation.h"

/* ---- texts and ids ---- */

static int add_text(tl_ask *a, const char *param, const json_t *text, const tl_ask_context *c, tl_refusal *r) {
    const tl_engine *e = c->engine;
    tl_error err;
    tl_prompt p = {0};
    if (!e->tokenizer) return tl__refuse(r, param, "this model has no tokenizer; send token ids in '%s'", param);
    const int64_t n =
        tl__engine_encode(e, &p.ids, json_string_value(text), json_string_length(text), true, param, &err);
    if (n < 0 || n > INT32_MAX) return n < 0 ? tl__refuse_error(r, param, &err) : tl__refuse(r, param, "too long");
    p.n = (int)n;
    const bool begun = tl__tokenizer_adds_bos(e->tokenizer) && tl__engine_begin_id(e) >= 0;
    if (begun && a->no_begin) memmove(p.ids, p.ids + 1, (size_t)--p.n * sizeof *p.ids);
    if (p.n == 0 && tl__engine_begin_id(e) >= 0) p.ids[p.n++] = tl__engine_begin_id(e); /* "": a text of its own */
    a->prompt[a->n_prompts++] = p;
    return 0;
}

static int add_ids(tl_ask *a, const char *param, const json_t *list, const tl_ask_context *c, tl_refusal *r) {
    const size_t n = json_array_size(list);
    const int V = c->engine->arch.V;
    tl_prompt p = {malloc((n + 1) * sizeof *p.ids), (int)n};
    if (!p.ids) return tl__refuse_as(r, 503, NULL, param, "not enough memory for %zu ids", n);
    a->prompt[a->n_prompts++] = p;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(list, i);
        const json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value >= V)
            return tl__refuse(r, param, "item %zu of a list in '%s' is no token id of this model, which are 0 to %d", i,
                              param, V - 1);
        p.ids[i] = (int32_t)value;
    }
    return 0;
}

int tl__ask_prompts(tl_ask *a, const char *param, const json_t *v, const tl_ask_context *c, tl_refusal *r) {
    const bool list = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    const size_t n = list ? json_array_size(v) : 1;
    if (a->n_prompts > 0) return tl__refuse(r, param, "'%s' was given beside another prompt", param);
    a->prompt = calloc(n + 1, sizeof *a->prompt);
    if (!a->prompt) return tl__refuse_as(r, 503, NULL, param, "not enough memory for %zu prompts", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = list ? json_array_get(v, i) : v;
        if (json_is_string(one)) TRY(add_text(a, param, one, c, r));
        else if (json_is_array(one)) TRY(add_ids(a, param, one, c, r));
        else
            return tl__refuse(r, param, "'%s' is a text, a list of texts, token ids, or a list of lists of token ids",
                              param);
    }
    return 0;
}

/* ---- messages ---- */

/* A content in parts, joined: a template reads texts. */
static int join_parts(json_t *message, size_t at, const json_t *parts, tl_refusal *r) {
    tl_textbuf text = {0};
    int status = 0;
    for (size_t i = 0; i < json_array_size(parts) && !status; i++) {
        const json_t *part = json_array_get(parts, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *words = json_object_get(part, "text");
        char param[96];
        snprintf(param, sizeof param, "messages[%zu].content[%zu]", at, i);
        if (!type || strcmp(type, "text") || !json_is_string(words))
            status = tl__refuse_as(r, 400, "unsupported", param,
                                   "'%s' is of type '%.40s'; this server reads parts of type \"text\"", param,
                                   type ? type : "none");
        if (status) break;
        tl__textbuf_add(&text, "\n", i > 0);
        tl__textbuf_add(&text, json_string_value(words), json_string_length(words));
        if (text.failed) status = tl__refuse_as(r, 503, NULL, param, "not enough memory for a message");
    }
    if (!status) json_object_set_new(message, "content", json_stringn(text.bytes ? text.bytes : "", text.n));
    free(text.bytes);
    return status;
}

/* Arguments are a text in OpenAI's form and an object in templates'. */
static void open_arguments(json_t *calls) {
    for (size_t i = 0; i < json_array_size(calls); i++) {
        json_t *f = json_object_get(json_array_get(calls, i), "function");
        const json_t *text = json_object_get(f, "arguments");
        if (!json_is_string(text)) continue;
        json_t *value = tl__json_parse_exact(json_string_value(text), json_string_length(text), "arguments", NULL);
        if (json_is_object(value)) json_object_set(f, "arguments", value);
        json_decref(value);
    }
}

static int read_message(json_t *message, size_t at, tl_refusal *r) {
    static const char *const roles[] = {"system", "user", "assistant", "tool", "developer"};
    const char *role = json_string_value(json_object_get(message, "role"));
    const json_t *content = json_object_get(message, "content");
    char param[64];
    bool known = false;
    snprintf(param, sizeof param, "messages[%zu]", at);
    for (int i = 0; i < 5 && role; i++) known |= strcmp(role, roles[i]) == 0;
    if (!known)
        return tl__refuse(r, param, "the role of '%s' is '%.40s'; it is system, developer, user, assistant or tool",
                          param, role ? role : "");
    if (strcmp(role, "developer") == 0) json_object_set_new(message, "role", json_string("system"));
    open_arguments(json_object_get(message, "tool_calls"));
    if (json_is_array(content)) return join_parts(message, at, content, r);
    if (json_is_string(content)) return 0;
    if (content && !json_is_null(content)) return tl__refuse(r, param, "the content of '%s' is not a text", param);
    json_object_set_new(message, "content", json_string(""));
    return 0;
}

static int render(tl_ask *a, const json_t *conversation, const tl_ask_context *c, tl_refusal *r) {
    const tl_chat_template *chat = a->parse_tools ? c->chat_tools : c->chat;
    json_t *settings = json_pack("{s:b}", "add_generation_prompt", !a->no_generation_prompt);
    json_object_update_missing(settings, chat->tokens);
    const json_t *more = json_object_get(a->root, "chat_template_kwargs");
    if (json_is_object(more)) json_object_update(settings, (json_t *)(uintptr_t)more);
    tl_error err;
    tl_rendering text = {0};
    tl_prompt p = {0};
    int status = tl__template_render(chat->template, conversation, settings, NULL, &text, &err);
    json_decref(settings);
    if (!status) {
        const int64_t n = tl__chat_encode(c->engine->tokenizer, &text, &p.ids, &err);
        status = n < 0 ? (int)n : 0;
        p.n = n < 0 || n > INT32_MAX ? 0 : (int)n;
        tl__rendering_free(&text);
    }
    if (status) return tl__refuse_error(r, "messages", &err);
    a->prompt[a->n_prompts++] = p;
    return 0;
}

int tl__ask_messages(tl_ask *a, const json_t *messages, const tl_ask_context *c, tl_refusal *r) {
    json_t *conversation = NULL, *list;
    tl_error err;
    int status = 0;
    if (!c->chat || !c->chat->template)
        return tl__refuse(r, "messages",
                          "this model has no chat template; start the server with --template FILE, or use "
                          "/v1/completions");
    if (!c->engine->tokenizer) return tl__refuse(r, "messages", "this model has no tokenizer, so it cannot chat");
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return tl__refuse(r, "messages", "'messages' is a list of at least one message");
    if (a->n_prompts > 0) return tl__refuse(r, "messages", "'messages' was given beside a prompt");
    a->prompt = calloc(1, sizeof *a->prompt);
    list = json_deep_copy(messages);
    if (!a->prompt || !list) {
        json_decref(list);
        return tl__refuse_as(r, 503, NULL, "messages", "not enough memory for the messages");
    }
    for (size_t i = 0; i < json_array_size(list) && !status; i++) {
        json_t *one = json_array_get(list, i);
        status =
            json_is_object(one) ? read_message(one, i, r) : tl__refuse(r, "messages", "message %zu is no object", i);
    }
    if (status) {
        json_decref(list);
        return status;
    }
    if (tl__conversation_make(&conversation, list, &err)) return tl__refuse_error(r, "messages", &err);
    const json_t *tools = json_object_get(a->root, "tools");
    if (a->parse_tools) json_object_set(conversation, "tools", (json_t *)(uintptr_t)tools);
    status = render(a, conversation, c, r);
    json_decref(conversation);
    return status;
}
