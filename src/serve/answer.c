/* answer.c — what was told, as the objects of OpenAI's API. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "serve/server_parts.h"
#include "serve/tool_calls.h"
#include "text/unicode.h"

/* ---- tokens and log-probabilities ---- */

/* A token's text; where its bytes are no whole characters, as OpenAI writes them: "bytes:\xe2\x80". */
static json_t *token_text(const tl_tokenizer *tok, int32_t id) {
    size_t n = 0;
    const char *bytes = tok ? tl__tokenizer_bytes(tok, id, &n) : NULL;
    char out[8 + 4 * 256];
    if (bytes && tl__utf8_valid((const uint8_t *)bytes, n) == n) return json_stringn(bytes, n);
    size_t used = (size_t)snprintf(out, sizeof out, bytes ? "bytes:" : "token_id:%d", (int)id);
    for (size_t i = 0; i < n && used + 5 < sizeof out; i++)
        used += (size_t)snprintf(out + used, 5, "\\x%02x", (unsigned char)bytes[i]);
    return json_stringn(out, used);
}

/* JSON has no infinity; OpenAI writes what cannot be as −9999. */
static json_t *logp_of(float logp) {
    return json_real(isfinite(logp) ? (double)logp : -9999.0);
}

static int64_t characters(const char *bytes, size_t n) {
    int64_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)bytes[i] & 0xC0) != 0x80;
    return count;
}

/* "tokens", "token_logprobs", "top_logprobs", "text_offset": lists that grow by a token. logp NULL: there is none. */
static void add_token(json_t *lists[4], const tl_tokenizer *tok, int32_t id, const float *logp, const tl_candidate *top,
                      int n_top, bool special, int64_t *offset) {
    json_t *text = token_text(tok, id), *tops = logp ? json_object() : json_null();
    for (int i = 0; i < n_top && logp; i++) {
        json_t *key = token_text(tok, top[i].id);
        const char *name = json_string_value(key);
        const size_t n = json_string_length(key);
        if (!json_object_getn(tops, name, n)) json_object_setn_new(tops, name, n, logp_of(top[i].logp));
        json_decref(key);
    }
    if (logp && !json_object_getn(tops, json_string_value(text), json_string_length(text)))
        json_object_setn_new(tops, json_string_value(text), json_string_length(text), logp_of(*logp));
    json_array_append_new(lists[0], text);
    json_array_append_new(lists[1], logp ? logp_of(*logp) : json_null());
    json_array_append_new(lists[2], tops);
    json_array_append_new(lists[3], json_integer(*offset));
    size_t n = 0;
    const char *bytes = tok ? tl__tokenizer_bytes(tok, id, &n) : NULL;
    if (bytes && (special || !tl__tokenizer_is_special(tok, id))) *offset += characters(bytes, n);
}

static json_t *token_bytes(const tl_tokenizer *tok, int32_t id) {
    size_t n = 0;
    const char *bytes = tl__tokenizer_bytes(tok, id, &n);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_integer((unsigned char)bytes[i]));
    return list;
}

static json_t *chat_token(const tl_tokenizer *tok, int32_t id, float logp) {
    return json_pack("{s:o, s:o, s:o}", "token", token_text(tok, id), "logprob", logp_of(logp), "bytes",
                     token_bytes(tok, id));
}

json_t *tl__answer_logprobs(const tl_exchange *x, const tl_part *p, const tl_reply *r, int from, int to, bool read,
                            int64_t *offset) {
    const tl_tokenizer *tok = x->server->runner.context.engine->tokenizer;
    const int k = x->job->alternatives;
    const bool special = x->ask.request.special;
    if (x->ask.kind == TL_ASK_CHAT) {
        json_t *list = json_array();
        for (int i = from; i < to; i++) {
            const tl_candidate *top = r->top + (size_t)i * (size_t)k;
            json_t *one = chat_token(tok, r->told[i].id, r->told[i].logp), *tops = json_array();
            for (int j = 0; j < r->told[i].n_top; j++)
                json_array_append_new(tops, chat_token(tok, top[j].id, top[j].logp));
            json_object_set_new(one, "top_logprobs", tops);
            json_array_append_new(list, one);
        }
        return json_pack("{s:o, s:n}", "content", list, "refusal");
    }
    json_t *lists[4] = {json_array(), json_array(), json_array(), json_array()};
    for (int i = 0; i < p->n_read && read; i++)
        add_token(lists, tok, p->read[i].id, i > 0 ? &p->read[i].logp : NULL, p->read_top + (size_t)i * (size_t)k,
                  p->read[i].n_top, special, offset);
    for (int i = from; i < to; i++)
        add_token(lists, tok, r->told[i].id, &r->told[i].logp, r->top + (size_t)i * (size_t)k, r->told[i].n_top,
                  special, offset);
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", lists[0], "token_logprobs", lists[1], "top_logprobs", lists[2],
                     "text_offset", lists[3]);
}

/* ---- what all answers have ---- */

const char *tl__answer_finish(const tl_reply *r) {
    switch (r->finish) {
    case TL_FINISH_STOP:
        return "stop";
    case TL_FINISH_LENGTH:
        return "length";
    default:
        return "abort"; /* cut off by a deadline, or by the server's end */
    }
}

json_t *tl__answer_usage(const tl_job *job) {
    int64_t prompt = 0, cached = 0, made = 0, thought = 0, proposed = 0, accepted = 0;
    for (int i = 0; i < job->n_parts; i++) {
        prompt += job->part[i].n_prompt;
        cached += job->part[i].reply[0].usage.cached_tokens;
        for (int c = 0; c < job->choices; c++) {
            const tl_usage *u = &job->part[i].reply[c].usage;
            made += u->completion_tokens, thought += u->thinking_tokens;
            proposed += u->proposed, accepted += u->accepted;
        }
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I}, s:{s:I, s:I, s:I}}", "prompt_tokens", (json_int_t)prompt,
                     "completion_tokens", (json_int_t)made, "total_tokens", (json_int_t)(prompt + made),
                     "prompt_tokens_details", "cached_tokens", (json_int_t)cached, "completion_tokens_details",
                     "reasoning_tokens", (json_int_t)thought, "accepted_prediction_tokens", (json_int_t)accepted,
                     "rejected_prediction_tokens", (json_int_t)(proposed - accepted));
}

int tl__answer_failed(const tl_job *job, tl_refusal *refusal) {
    for (int i = 0; i < job->n_parts; i++)
        for (int c = 0; c < job->choices; c++)
            if (job->part[i].reply[c].finish == TL_FINISH_FAILED)
                return tl__refuse_as(refusal, 500, NULL, NULL, "%s", job->part[i].reply[c].error);
    return 0;
}

int tl__answer_prompt(const tl_exchange *x, const tl_part *p, tl_textbuf *text) {
    const tl_engine *e = x->server->runner.context.engine;
    size_t n = 0;
    tl_error err;
    TRY(tl_engine_decode(e, p->prompt, (size_t)p->n_prompt, x->ask.request.special, NULL, 0, &n, &err));
    if (!tl__textbuf_reserve(text, n)) return TL_ENOMEM;
    TRY(tl_engine_decode(e, p->prompt, (size_t)p->n_prompt, x->ask.request.special, text->bytes + text->n, n, &n,
                         &err));
    text->n += n;
    return 0;
}

static int whole_text(const tl_exchange *x, const tl_reply *r, tl_textbuf *said, tl_textbuf *thought) {
    tl_spelling s;
    tl_error err;
    int status;
    tl__spelling_open(&s, x->server->runner.context.engine->tokenizer, &x->ask.marks, x->ask.request.special);
    while ((status = tl__spell(&s, said, thought, r, r->n, r->finish, &err)) > 0) continue;
    tl__spelling_free(&s);
    return status;
}

/* ---- completions and chats ---- */

static json_t *completion_choice(const tl_exchange *x, const tl_part *p, const tl_reply *r, int index) {
    const tl_ask *a = &x->ask;
    tl_textbuf text = {0};
    int64_t offset = 0;
    json_t *out = NULL;
    if (tl__textbuf_reserve(&text, 0) && (!a->echo || !tl__answer_prompt(x, p, &text)) &&
        !whole_text(x, r, &text, NULL))
        out = json_pack("{s:s%, s:i, s:o, s:s}", "text", text.bytes, text.n, "index", index, "logprobs",
                        a->logprobs ? tl__answer_logprobs(x, p, r, 0, r->n, a->echo, &offset) : json_null(),
                        "finish_reason", tl__answer_finish(r));
    free(text.bytes);
    return out;
}

static json_t *chat_choice(const tl_exchange *x, const tl_part *p, const tl_reply *r, int index) {
    const tl_ask *a = &x->ask;
    tl_textbuf text = {0}, thought = {0};
    json_t *message = NULL, *calls = NULL;
    size_t n = 0;
    if (tl__textbuf_reserve(&text, 0) && !whole_text(x, r, &text, &thought)) {
        n = text.n;
        if (a->parse_tools)
            calls = tl__tool_calls(text.bytes, text.n, true, json_object_get(a->root, "tools"), a->one_tool, &n);
        message = json_pack("{s:s, s:o, s:n}", "role", "assistant", "content",
                            calls && n == 0 ? json_null() : json_stringn(text.bytes, n), "refusal");
    }
    if (message && thought.n > 0)
        json_object_set_new(message, "reasoning_content", json_stringn(thought.bytes, thought.n));
    free(text.bytes);
    free(thought.bytes);
    if (calls) json_object_set(message, "tool_calls", calls);
    json_t *out = json_pack("{s:i, s:o, s:o, s:s}", "index", index, "message", message, "logprobs",
                            a->logprobs ? tl__answer_logprobs(x, p, r, 0, r->n, false, NULL) : json_null(),
                            "finish_reason", calls ? "tool_calls" : tl__answer_finish(r));
    json_decref(calls);
    return out;
}

static double mean_logp(const tl_reply *r) {
    double sum = 0;
    for (int i = 0; i < r->n; i++) sum += (double)r->told[i].logp;
    return r->n > 0 ? sum / r->n : -INFINITY;
}

/* Choices to tell, in order: all, or the n best by mean log-probability. */
static void choose(int *chosen, const tl_job *job, const tl_part *p, int n) {
    double mean[TL_MOST_CHOICES] = {0};
    bool taken[TL_MOST_CHOICES] = {false};
    for (int c = 0; c < job->choices && n < job->choices; c++) mean[c] = mean_logp(&p->reply[c]);
    for (int i = 0; i < n; i++) {
        int best = -1;
        for (int c = 0; c < job->choices; c++)
            if (!taken[c] && (best < 0 || mean[c] > mean[best])) best = c;
        taken[best] = true;
        chosen[i] = best;
    }
}

static json_t *made_answer(const tl_exchange *x) {
    const tl_job *job = x->job;
    const bool chat = x->ask.kind == TL_ASK_CHAT;
    const int n = x->ask.n;
    int chosen[TL_MOST_CHOICES];
    json_t *choices = json_array();
    for (int i = 0; i < job->n_parts; i++) {
        const tl_part *p = &job->part[i];
        choose(chosen, job, p, n);
        for (int c = 0; c < n; c++) {
            const tl_reply *r = &p->reply[chosen[c]];
            json_array_append_new(choices,
                                  chat ? chat_choice(x, p, r, i * n + c) : completion_choice(x, p, r, i * n + c));
        }
    }
    return json_pack("{s:s, s:s, s:I, s:s, s:o, s:o}", "id", x->object_id, "object",
                     chat ? "chat.completion" : "text_completion", "created", (json_int_t)x->created, "model",
                     x->server->runner.name, "choices", choices, "usage", tl__answer_usage(job));
}

/* ---- embeddings and scores ---- */

/* RFC 4648 of floats as they lie (little-endian). */
static json_t *base64(const float *v, int n) {
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *bytes = (const unsigned char *)v;
    const size_t size = (size_t)n * sizeof *v;
    char *out = malloc((size + 2) / 3 * 4 + 1);
    size_t used = 0;
    if (!out) return NULL;
    for (size_t i = 0; i < size; i += 3) {
        const size_t left = size - i;
        const unsigned word = (unsigned)bytes[i] << 16 | (left > 1 ? (unsigned)bytes[i + 1] << 8 : 0) |
                              (left > 2 ? (unsigned)bytes[i + 2] : 0);
        out[used++] = digit[word >> 18];
        out[used++] = digit[word >> 12 & 63];
        out[used++] = left > 1 ? digit[word >> 6 & 63] : '=';
        out[used++] = left > 2 ? digit[word & 63] : '=';
    }
    json_t *text = json_stringn(out, used);
    free(out);
    return text;
}

static json_t *embedding_answer(const tl_exchange *x) {
    const tl_job *job = x->job;
    json_t *data = json_array();
    int64_t tokens = 0;
    for (int i = 0; i < job->n_parts; i++) {
        const tl_part *p = &job->part[i];
        json_t *list = x->ask.base64 ? base64(p->embedding, job->C) : json_array();
        for (int j = 0; j < job->C && !x->ask.base64; j++)
            json_array_append_new(list, json_real((double)p->embedding[j]));
        json_array_append_new(data, json_pack("{s:s, s:i, s:o}", "object", "embedding", "index", i, "embedding", list));
        tokens += p->n_prompt;
    }
    return json_pack("{s:s, s:o, s:s, s:{s:I, s:I}}", "object", "list", "data", data, "model", x->server->runner.name,
                     "usage", "prompt_tokens", (json_int_t)tokens, "total_tokens", (json_int_t)tokens);
}

/* As `trilith score --json`: of each token after the first, and their mean. */
static json_t *score_answer(const tl_exchange *x) {
    const tl_job *job = x->job;
    const tl_tokenizer *tok = x->server->runner.context.engine->tokenizer;
    json_t *data = json_array();
    int64_t tokens = 0;
    for (int i = 0; i < job->n_parts; i++) {
        const tl_part *p = &job->part[i];
        json_t *list = json_array(), *ids = json_array();
        double nats = 0;
        int64_t bytes = 0;
        for (int j = 0; j < p->n_read; j++) {
            size_t n = 0;
            json_array_append_new(ids, json_integer(p->read[j].id));
            if (j == 0) continue;
            if (tok) tl__tokenizer_bytes(tok, p->read[j].id, &n);
            json_array_append_new(list, isfinite(p->read[j].logp) ? json_real((double)p->read[j].logp) : json_null());
            nats -= (double)p->read[j].logp;
            bytes += (int64_t)n;
        }
        const bool some = p->n_read > 1 && isfinite(nats);
        json_array_append_new(data, json_pack("{s:s, s:i, s:o, s:o, s:o, s:o, s:I}", "object", "score", "index", i,
                                              "tokens", ids, "logprobs", list, "loss",
                                              some ? json_real(nats / (p->n_read - 1)) : json_null(), "bits_per_byte",
                                              some && bytes > 0 ? json_real(nats / M_LN2 / (double)bytes) : json_null(),
                                              "bytes", (json_int_t)bytes));
        tokens += p->n_prompt;
    }
    return json_pack("{s:s, s:s, s:I, s:s, s:o, s:{s:I, s:I}}", "id", x->object_id, "object", "list", "created",
                     (json_int_t)x->created, "model", x->server->runner.name, "data", data, "usage", "prompt_tokens",
                     (json_int_t)tokens, "total_tokens", (json_int_t)tokens);
}

int tl__answer_send(tl_exchange *x, tl_refusal *refusal) {
    TRY(tl__answer_failed(x->job, refusal));
    const tl_ask_kind kind = x->ask.kind;
    for (int i = 0; i < x->job->n_parts && kind >= TL_ASK_EMBEDDING; i++) {
        const tl_finish finish = x->job->part[i].reply[0].finish;
        if (finish == TL_FINISH_CANCELLED || finish == TL_FINISH_DEADLINE)
            return tl__refuse_as(refusal, 503, "aborted", NULL, "the request was cut off before it was computed");
    }
    tl__exchange_send(x, 200,
                      kind == TL_ASK_EMBEDDING ? embedding_answer(x)
                      : kind == TL_ASK_SCORE   ? score_answer(x)
                                               : made_answer(x));
    return 0;
}
