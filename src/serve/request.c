/* request.c — a table of members, and what each means. */
#include "serve/request.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "base/json.h"

enum { USUAL_COMPLETION_TOKENS = 16 };

typedef struct member {
    const char *name;
    unsigned kinds; /* bit 1 << tl_ask_kind of each request that may hold it */
    int (*read)(tl_ask *a, const struct member *m, const json_t *v, const tl_ask_context *c, tl_refusal *r);
    size_t offset; /* of the field that it fills, for the readers of plain values */
    double least, most;
} member;

#define COMPLETION (1u << TL_ASK_COMPLETION)
#define CHAT (1u << TL_ASK_CHAT)
#define EMBEDDING (1u << TL_ASK_EMBEDDING)
#define SCORE (1u << TL_ASK_SCORE)
#define MAKES (COMPLETION | CHAT)
#define ALL (MAKES | EMBEDDING | SCORE)

/* ---- plain values ---- */

static int wrong(tl_refusal *r, const char *name, const json_t *v, const char *expected) {
    char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    int status = tl__refuse(r, name, "'%s' is %.60s; %s was expected", name, text ? text : "too large", expected);
    free(text);
    return status;
}

static int read_real(const char *name, const json_t *v, double least, double most, double *out, tl_refusal *r) {
    char expected[80];
    snprintf(expected, sizeof expected, "a number from %g to %g", least, most);
    if (!json_is_number(v)) return wrong(r, name, v, expected);
    *out = json_number_value(v);
    return *out >= least && *out <= most ? 0 : wrong(r, name, v, expected);
}

static int read_int(const char *name, const json_t *v, double least, double most, int64_t *out, tl_refusal *r) {
    double x;
    char expected[80];
    snprintf(expected, sizeof expected, "a whole number from %.0f to %.0f", least, most);
    if (!json_is_number(v)) return wrong(r, name, v, expected);
    x = json_number_value(v);
    if (!(x >= least && x <= most) || x != floor(x)) return wrong(r, name, v, expected);
    *out = json_is_integer(v) ? json_integer_value(v) : (int64_t)x;
    return 0;
}

static int read_flag(const char *name, const json_t *v, bool *out, tl_refusal *r) {
    if (!json_is_boolean(v)) return wrong(r, name, v, "true or false");
    *out = json_is_true(v);
    return 0;
}

/* ---- members ---- */

#define MEMBER(read)                                                                                                   \
    static int read(tl_ask *a, const member *m, const json_t *v, const tl_ask_context *c, tl_refusal *r)

MEMBER(ignore) {
    return 0;
}

MEMBER(read_model) {
    if (!json_is_string(v)) return wrong(r, m->name, v, "a text");
    if (strcmp(json_string_value(v), c->name) == 0) return 0;
    return tl__refuse_as(r, 404, "model_not_found", m->name, "there is no model '%.100s' here; this server has '%s'",
                         json_string_value(v), c->name);
}

MEMBER(read_max_tokens) {
    int64_t n = 0;
    int status = read_int(m->name, v, a->kind == TL_ASK_COMPLETION ? 0 : 1, INT32_MAX, &n, r);
    if (status) return status;
    if (a->asked_max && a->request.max_tokens != n)
        return tl__refuse(r, m->name, "'max_tokens' and 'max_completion_tokens' differ; give one of them");
    a->request.max_tokens = (int)n;
    a->asked_max = true;
    return 0;
}

MEMBER(read_seed) {
    if (!json_is_integer(v)) return wrong(r, m->name, v, "a whole number");
    a->request.sampling.seed = (uint64_t)json_integer_value(v);
    return 0;
}

MEMBER(read_top_k) { /* −1 is off for vLLM, 0 for others */
    int64_t n = 0;
    int status = read_int(m->name, v, -1, INT32_MAX, &n, r);
    a->request.sampling.top_k = n > 0 ? (int)n : 0;
    return status;
}

MEMBER(read_n) {
    int64_t n = 1;
    int status = read_int(m->name, v, 1, TL_MOST_CHOICES, &n, r);
    a->n = (int)n;
    return status;
}

MEMBER(read_best_of) {
    int64_t n = 1;
    int status = read_int(m->name, v, 1, TL_MOST_CHOICES, &n, r);
    a->request.choices = (int)n;
    return status;
}

MEMBER(read_stop) {
    if (!json_is_string(v) && !json_is_array(v)) return wrong(r, m->name, v, "a text or a list of texts");
    const size_t n = json_is_string(v) ? 1 : json_array_size(v);
    if (n > TL_MOST_STOPS) return tl__refuse(r, m->name, "'stop' has %zu texts; %d may be given", n, TL_MOST_STOPS);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_is_string(v) ? v : json_array_get(v, i);
        if (!json_is_string(one)) return wrong(r, m->name, one, "a text");
        if (json_string_length(one) > 0) a->stop[a->request.n_stop++] = json_string_value(one); /* "" stops nothing */
    }
    a->request.stop = a->stop;
    return 0;
}

static int read_ids(const char *name, const json_t *v, int V, int32_t **out, int *n, tl_refusal *r) {
    if (!json_is_array(v)) return wrong(r, name, v, "a list of token ids");
    const size_t count = json_array_size(v);
    *out = malloc((count + 1) * sizeof **out);
    if (!*out || count > INT32_MAX) return tl__refuse_as(r, 503, NULL, name, "not enough memory for %zu ids", count);
    for (size_t i = 0; i < count; i++) {
        const json_t *one = json_array_get(v, i);
        const json_int_t id = json_integer_value(one);
        if (!json_is_integer(one) || id < 0 || id >= V) {
            char expected[80];
            snprintf(expected, sizeof expected, "a token id of this model, from 0 to %d,", V - 1);
            return wrong(r, name, one, expected);
        }
        (*out)[i] = (int32_t)id;
    }
    *n = (int)count;
    return 0;
}

MEMBER(read_stop_ids) {
    free(a->stop_id);
    a->stop_id = NULL;
    return read_ids(m->name, v, c->engine->arch.V, &a->stop_id, &a->request.n_stop_id, r);
}

MEMBER(read_bias) { /* {"50256": −100} */
    const char *key;
    json_t *one;
    const int V = c->engine->arch.V;
    if (!json_is_object(v)) return wrong(r, m->name, v, "an object of ids and numbers");
    free(a->bias);
    a->request.n_bias = 0;
    a->bias = malloc((json_object_size(v) + 1) * sizeof *a->bias);
    if (!a->bias) return tl__refuse_as(r, 503, NULL, m->name, "not enough memory for 'logit_bias'");
    json_object_foreach((json_t *)(uintptr_t)v, key, one) {
        char *end;
        const long id = strtol(key, &end, 10);
        double bias;
        if (*key < '0' || *key > '9' || *end || id >= V)
            return tl__refuse(r, m->name, "'logit_bias' names token '%.40s'; this model's ids are 0 to %d", key, V - 1);
        int status = read_real(m->name, one, -100, 100, &bias, r);
        if (status) return status;
        a->bias[a->request.n_bias++] = (tl_logit_bias){(int32_t)id, (float)bias};
    }
    a->request.bias = a->bias;
    return 0;
}

MEMBER(read_logprobs) { /* a number of alternatives, or for chats whether */
    int64_t n = 0;
    int status;
    if (a->kind == TL_ASK_CHAT) return read_flag(m->name, v, &a->logprobs, r);
    status = read_int(m->name, v, 0, TL_MOST_ALTERNATIVES, &n, r);
    a->logprobs = true;
    a->top_logprobs = (int)n;
    return status;
}

MEMBER(read_top_logprobs) {
    int64_t n = 0;
    int status = read_int(m->name, v, 0, TL_MOST_ALTERNATIVES, &n, r);
    a->top_logprobs = (int)n;
    return status;
}

MEMBER(read_stream_options) {
    const char *key;
    json_t *one;
    if (!json_is_object(v)) return wrong(r, m->name, v, "an object");
    json_object_foreach((json_t *)(uintptr_t)v, key, one) {
        int status = 0;
        if (strcmp(key, "include_usage") == 0)
            status = json_is_null(one) ? 0 : read_flag("stream_options.include_usage", one, &a->include_usage, r);
        else if (strcmp(key, "include_obfuscation") != 0) /* padding that hides lengths; none is added */
            status = tl__refuse(r, m->name, "'stream_options' has '%.60s'; there is include_usage", key);
        if (status) return status;
    }
    return 0;
}

MEMBER(read_response_format) {
    const char *type = json_string_value(json_object_get(v, "type"));
    if (type && strcmp(type, "text") == 0) return 0;
    return tl__refuse_as(r, 400, "unsupported", m->name,
                         "'response_format' %.40s is not supported yet; leave it out, or ask for {\"type\": \"text\"}",
                         type ? type : "");
}

MEMBER(read_tools) {
    if (!json_is_array(v)) return wrong(r, m->name, v, "a list of functions");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *tool = json_array_get(v, i), *f = json_object_get(tool, "function");
        const char *type = json_string_value(json_object_get(tool, "type"));
        char param[64];
        snprintf(param, sizeof param, "tools[%zu]", i);
        if (!type || strcmp(type, "function") || !json_is_string(json_object_get(f, "name")))
            return tl__refuse(r, param, "'%s' is not {\"type\": \"function\", \"function\": {\"name\": …}}", param);
        if (json_is_true(json_object_get(f, "strict")))
            return tl__refuse_as(r, 400, "unsupported", param,
                                 "'%s' asks for strict arguments, which are not supported yet; leave 'strict' out",
                                 param);
    }
    a->parse_tools = json_array_size(v) > 0;
    return 0;
}

MEMBER(read_tool_choice) {
    const char *word = json_string_value(v);
    if (word && strcmp(word, "auto") == 0) return 0;
    if (word && strcmp(word, "none") == 0) return a->no_tools = true, 0;
    return tl__refuse_as(r, 400, "unsupported", m->name,
                         "'tool_choice' can be \"auto\" or \"none\"; a call cannot be forced yet");
}

MEMBER(read_parallel) {
    bool many = true;
    int status = read_flag(m->name, v, &many, r);
    a->one_tool = !many;
    return status;
}

MEMBER(read_modalities) {
    if (json_array_size(v) == 1 && json_is_string(json_array_get(v, 0)) &&
        strcmp(json_string_value(json_array_get(v, 0)), "text") == 0)
        return 0;
    return tl__refuse_as(r, 400, "unsupported", m->name, "'modalities' can be [\"text\"] alone");
}

MEMBER(read_encoding) {
    const char *word = json_string_value(v);
    a->base64 = word && strcmp(word, "base64") == 0;
    return a->base64 || (word && strcmp(word, "float") == 0) ? 0 : wrong(r, m->name, v, "\"float\" or \"base64\"");
}

MEMBER(read_dimensions) {
    int64_t n = 0;
    const int C = c->engine->arch.C;
    int status = read_int(m->name, v, 1, INT32_MAX, &n, r);
    if (status || n == C) return status;
    return tl__refuse(r, m->name, "'dimensions' is %lld, but this model's embeddings have %d; leave it out",
                      (long long)n, C);
}

MEMBER(read_float) {
    double x = 0;
    int status = read_real(m->name, v, m->least, m->most, &x, r);
    *(float *)((char *)a + m->offset) = (float)x;
    return status;
}

MEMBER(read_number) {
    int64_t n = 0;
    int status = read_int(m->name, v, m->least, m->most, &n, r);
    *(int *)((char *)a + m->offset) = (int)n;
    return status;
}

MEMBER(read_bool) {
    return read_flag(m->name, v, (bool *)((char *)a + m->offset), r);
}

MEMBER(read_not_bool) {
    bool *out = (bool *)((char *)a + m->offset);
    int status = read_flag(m->name, v, out, r);
    *out = !*out;
    return status;
}

MEMBER(read_prompt) {
    return tl__ask_prompts(a, m->name, v, c, r);
}

/* Read once tools and template settings are known. */
MEMBER(later) {
    return 0;
}

MEMBER(read_template_settings) {
    return json_is_object(v) ? 0 : wrong(r, m->name, v, "an object of the template's variables");
}

MEMBER(read_most_thinking) {
    int64_t n = 0;
    int status = read_int(m->name, v, 0, INT32_MAX, &n, r);
    a->request.thinking.most = n > 0 ? (int)n : -1;
    return status;
}

#define AT(field) .offset = offsetof(tl_ask, field)
static const member members[] = {
    {.name = "model", .kinds = ALL, .read = read_model},
    {.name = "prompt", .kinds = COMPLETION | SCORE, .read = read_prompt},
    {.name = "input", .kinds = EMBEDDING | SCORE, .read = read_prompt},
    {.name = "messages", .kinds = CHAT, .read = later},
    {.name = "max_tokens", .kinds = MAKES, .read = read_max_tokens},
    {.name = "max_completion_tokens", .kinds = CHAT, .read = read_max_tokens},
    {"min_tokens", MAKES, read_number, AT(request.min_tokens), 0, INT32_MAX},
    {"temperature", MAKES, read_float, AT(request.sampling.temperature), 0, 100},
    {"top_p", MAKES, read_float, AT(request.sampling.top_p), 1e-6, 1},
    {.name = "top_k", .kinds = MAKES, .read = read_top_k},
    {"min_p", MAKES, read_float, AT(request.sampling.min_p), 0, 1},
    {"typical_p", MAKES, read_float, AT(request.sampling.typical_p), 1e-6, 1},
    {"repetition_penalty", MAKES, read_float, AT(request.sampling.repetition_penalty), 1e-2, 100},
    {"presence_penalty", MAKES, read_float, AT(request.sampling.presence_penalty), -2, 2},
    {"frequency_penalty", MAKES, read_float, AT(request.sampling.frequency_penalty), -2, 2},
    {.name = "logit_bias", .kinds = MAKES, .read = read_bias},
    {.name = "seed", .kinds = MAKES, .read = read_seed},
    {.name = "n", .kinds = MAKES, .read = read_n},
    {.name = "best_of", .kinds = COMPLETION, .read = read_best_of},
    {.name = "stop", .kinds = MAKES, .read = read_stop},
    {.name = "stop_token_ids", .kinds = MAKES, .read = read_stop_ids},
    {.name = "include_stop_str_in_output", .kinds = MAKES, .read = read_bool, AT(request.include_stop)},
    {.name = "ignore_eos", .kinds = MAKES, .read = read_bool, AT(request.ignore_eos)},
    {.name = "skip_special_tokens", .kinds = MAKES, .read = read_not_bool, AT(request.special)},
    {.name = "add_special_tokens", .kinds = COMPLETION | SCORE | EMBEDDING, .read = read_not_bool, AT(no_begin)},
    {.name = "echo", .kinds = COMPLETION, .read = read_bool, AT(echo)},
    {.name = "logprobs", .kinds = MAKES, .read = read_logprobs},
    {.name = "top_logprobs", .kinds = CHAT, .read = read_top_logprobs},
    {.name = "stream", .kinds = MAKES, .read = read_bool, AT(stream)},
    {.name = "stream_options", .kinds = MAKES, .read = read_stream_options},
    {.name = "response_format", .kinds = MAKES, .read = read_response_format},
    {.name = "tools", .kinds = CHAT, .read = read_tools},
    {.name = "tool_choice", .kinds = CHAT, .read = read_tool_choice},
    {.name = "parallel_tool_calls", .kinds = CHAT, .read = read_parallel},
    {.name = "modalities", .kinds = CHAT, .read = read_modalities},
    {.name = "add_generation_prompt", .kinds = CHAT, .read = read_not_bool, AT(no_generation_prompt)},
    {.name = "chat_template_kwargs", .kinds = CHAT, .read = read_template_settings},
    {"min_thinking_tokens", CHAT, read_number, AT(request.thinking.least), 0, INT32_MAX},
    {.name = "max_thinking_tokens", .kinds = CHAT, .read = read_most_thinking},
    {.name = "encoding_format", .kinds = EMBEDDING, .read = read_encoding},
    {.name = "dimensions", .kinds = EMBEDDING, .read = read_dimensions},
    /* OpenAI files requests by these; they change no answer. */
    {.name = "user", .kinds = ALL, .read = ignore},
    {.name = "metadata", .kinds = MAKES, .read = ignore},
    {.name = "store", .kinds = MAKES, .read = ignore},
    {.name = "service_tier", .kinds = MAKES, .read = ignore},
    {.name = "safety_identifier", .kinds = MAKES, .read = ignore},
    {.name = "prompt_cache_key", .kinds = MAKES, .read = ignore},
};
enum { MEMBERS = sizeof members / sizeof *members };

int tl__ask_unknown(const char *key, const char *const *names, int n, tl_refusal *r) {
    const char *nearest = tl__nearest_name(key, names, n);
    if (nearest)
        return tl__refuse_as(r, 400, "unknown_parameter", key, "there is no parameter '%.80s'; did you mean '%s'?", key,
                             nearest);
    return tl__refuse_as(r, 400, "unknown_parameter", key, "the parameter '%.80s' is not supported; leave it out", key);
}

static int read_members(tl_ask *a, const tl_ask_context *c, tl_refusal *r) {
    const char *key, *names[MEMBERS];
    json_t *v;
    int n = 0;
    for (int i = 0; i < MEMBERS; i++)
        if (members[i].kinds >> a->kind & 1) names[n++] = members[i].name;
    json_object_foreach(a->root, key, v) {
        const member *m = NULL;
        for (int i = 0; i < MEMBERS && !m; i++)
            if (members[i].kinds >> a->kind & 1 && strcmp(members[i].name, key) == 0) m = &members[i];
        if (!m) return tl__ask_unknown(key, names, n, r);
        if (!json_is_null(v)) TRY(m->read(a, m, v, c, r));
    }
    return 0;
}

/* ---- what several members say together ---- */

static int settle_choices(tl_ask *a, tl_refusal *r) {
    tl_request *q = &a->request;
    if (q->choices == 0) q->choices = a->n;
    if (q->choices < a->n)
        return tl__refuse(r, "best_of", "'best_of' is %d, fewer than the %d that 'n' asks for", q->choices, a->n);
    if (q->choices > a->n && a->stream)
        return tl__refuse(r, "best_of",
                          "the best of %d cannot be known while they stream; leave 'stream' or 'best_of' "
                          "out",
                          q->choices);
    if (a->top_logprobs > 0 && !a->logprobs)
        return tl__refuse(r, "top_logprobs", "'top_logprobs' goes with 'logprobs': true");
    q->alternatives = a->logprobs ? a->top_logprobs : 0;
    q->logprobs = a->logprobs || q->choices > a->n;
    q->prompt_logprobs = a->echo && a->logprobs;
    if (a->include_usage && !a->stream)
        return tl__refuse(r, "stream_options", "'stream_options' goes with 'stream': true");
    return 0;
}

static int add_stops(tl_ask *a, const tl_ask_context *c, tl_refusal *r) {
    tl_request *q = &a->request;
    const int more = a->kind == TL_ASK_CHAT && !q->ignore_eos ? c->n_stops : 0;
    if (more > 0) {
        int32_t *all = realloc(a->stop_id, (size_t)(q->n_stop_id + more) * sizeof *all);
        if (!all) return tl__refuse_as(r, 503, NULL, NULL, "not enough memory for the ids that end an answer");
        memcpy(all + q->n_stop_id, c->stops, (size_t)more * sizeof *all);
        a->stop_id = all;
        q->n_stop_id += more;
    }
    q->stop_id = a->stop_id;
    return 0;
}

static int check_room(const tl_ask *a, const tl_ask_context *c, tl_refusal *r) {
    const tl_request *q = &a->request;
    const char *param = a->kind == TL_ASK_CHAT ? "messages" : a->kind == TL_ASK_EMBEDDING ? "input" : "prompt";
    const int least = q->max_tokens == 0 ? 0 : a->asked_max ? q->max_tokens : 1;
    for (int i = 0; i < a->n_prompts; i++) {
        const int64_t n = a->prompt[i].n, over = n + least - c->positions;
        if (n == 0) return tl__refuse(r, param, "there is nothing to read: the prompt has no token");
        if (over <= 0) continue;
        if (a->asked_max && n < c->positions)
            return tl__refuse_as(
                r, 400, "context_length_exceeded", param,
                "the prompt has %lld tokens and %d more are asked for: %lld more than the %d that this "
                "server holds of a sequence; shorten the prompt or ask for fewer",
                (long long)n, least, (long long)over, c->positions);
        return tl__refuse_as(
            r, 400, "context_length_exceeded", param,
            "the prompt has %lld tokens%s: %lld more than the %d that this server holds of a sequence; "
            "shorten it",
            (long long)n, least > 0 ? ", and one more is needed to answer" : "",
            (long long)(n + (least > 0) - c->positions), c->positions);
    }
    return 0;
}

/* The tokens that models write around what they think. */
static int settle_thinking(tl_ask *a, const tl_ask_context *c, tl_refusal *r) {
    tl_thinking *t = &a->request.thinking;
    const tl_tokenizer *tok = c->engine->tokenizer;
    const bool bounds = t->least != 0 || t->most != 0;
    a->marks = (tl_marks){-1, -1, false};
    if (a->kind != TL_ASK_CHAT) return 0;
    const int32_t open = tl__tokenizer_id(tok, "<think>"), close = tl__tokenizer_id(tok, "</think>");
    if (open < 0 || close < 0)
        return bounds ? tl__refuse(r, t->most ? "max_thinking_tokens" : "min_thinking_tokens",
                                   "this model has no tokens <think> and </think>, so its thinking cannot be bounded")
                      : 0;
    a->marks = (tl_marks){open, close, false};
    const tl_prompt *p = &a->prompt[0];
    enum { TAIL = 4 }; /* the template may write line breaks behind the token */
    for (int i = p->n - 1; i >= 0 && i >= p->n - TAIL && p->ids[i] != close && !a->marks.begun; i--)
        a->marks.begun = p->ids[i] == open;
    t->open = &a->marks.open; /* without bounds too: what is thought is counted */
    t->close = &a->marks.close;
    t->n_open = t->n_close = 1;
    t->begun = a->marks.begun;
    return 0;
}

static int settle(tl_ask *a, const tl_ask_context *c, tl_refusal *r) {
    static const char *const what[] = {"prompt", "messages", "input", "input"};
    tl_request *q = &a->request;
    if (a->no_tools) a->parse_tools = false;
    if (a->kind == TL_ASK_CHAT) {
        const json_t *messages = json_object_get(a->root, "messages");
        if (messages && !json_is_null(messages)) TRY(tl__ask_messages(a, messages, c, r));
        if (!a->asked_max) q->max_tokens = INT32_MAX; /* what the positions leave */
    } else if (a->kind == TL_ASK_COMPLETION) {
        if (!a->asked_max) q->max_tokens = USUAL_COMPLETION_TOKENS;
    } else {
        q->max_tokens = 0;
        q->embed = a->kind == TL_ASK_EMBEDDING;
        q->prompt_logprobs = a->kind == TL_ASK_SCORE;
    }
    if (a->n_prompts == 0) return tl__refuse(r, what[a->kind], "'%s' is missing or empty", what[a->kind]);
    if (a->n_prompts > c->waiting)
        return tl__refuse(r, what[a->kind], "%d prompts at once; this server takes %d (--waiting)", a->n_prompts,
                          c->waiting);
    if (a->kind == TL_ASK_COMPLETION || a->kind == TL_ASK_CHAT) TRY(settle_choices(a, r));
    if (q->min_tokens > q->max_tokens)
        return tl__refuse(r, "min_tokens", "'min_tokens' is %d, more than the %d of 'max_tokens'", q->min_tokens,
                          q->max_tokens);
    TRY(add_stops(a, c, r));
    TRY(settle_thinking(a, c, r));
    return check_room(a, c, r);
}

/* ---- the whole ---- */

json_t *tl__ask_object(const char *body, size_t n, tl_refusal *r) {
    tl_error err;
    json_t *root = tl__json_parse_exact(body, n, "the request", &err);
    if (!root) return tl__refuse(r, NULL, "%s", err.text), NULL;
    if (json_is_object(root)) return root;
    json_decref(root);
    tl__refuse(r, NULL, "the request is not a JSON object");
    return NULL;
}

int tl__ask_read(tl_ask *a, tl_ask_kind kind, const char *body, size_t n, const tl_ask_context *c, tl_refusal *r) {
    *a = (tl_ask){.kind = kind, .n = 1};
    tl_sampling *s = &a->request.sampling;
    s->temperature = 1;
    if (getrandom(&s->seed, sizeof s->seed, 0) != (ssize_t)sizeof s->seed) s->seed = 0;
    a->root = tl__ask_object(body, n, r);
    if (!a->root) return TL_EINVALID;
    const json_t *begin = json_object_get(a->root, "add_special_tokens"); /* of the prompts, which may come before it */
    a->no_begin = json_is_false(begin);
    TRY(read_members(a, c, r));
    return settle(a, c, r);
}

void tl__ask_free(tl_ask *a) {
    for (int i = 0; i < a->n_prompts; i++) free(a->prompt[i].ids);
    free(a->prompt);
    free(a->bias);
    free(a->stop_id);
    json_decref(a->root);
    *a = (tl_ask){0};
}
