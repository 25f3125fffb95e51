/* Any bytes as the body of a request, of the kind that the first byte says, and, after a line "====", as what a model
 * wrote: refused in a sentence, in OpenAI's shape, or a request within the batcher's limits; calls of tools that are
 * JSON, and the same whether the text streams or not. */
#include <stdint.h>
#include <stdlib.h>
#include "../serve/context.h"
#include "serve/tokens.h"
#include "serve/tool_calls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_refusal(const tl_refusal *r) {
    if (r->http < 400 || r->http > 599 || !r->text[0] || !r->type) abort();
    json_t *told = tl__refusal_json(r);
    char *text = told ? json_dumps(told, JSON_COMPACT) : NULL;
    if (!text) abort();
    free(text);
    json_decref(told);
}

static void read_request(tl_ask_kind kind, const char *body, size_t n) {
    tl_ask a;
    tl_refusal r = {0};
    if (tl__ask_read(&a, kind, body, n, &context, &r)) {
        check_refusal(&r);
    } else {
        const tl_request *q = &a.request;
        if (r.http || a.n_prompts < 1 || a.n_prompts > context.waiting) abort();
        for (int i = 0; i < a.n_prompts; i++) {
            if (a.prompt[i].n < 1 || a.prompt[i].n > context.positions) abort();
            for (int j = 0; j < a.prompt[i].n; j++)
                if (a.prompt[i].ids[j] < 0 || a.prompt[i].ids[j] >= context_engine.arch.V) abort();
        }
        if (a.n < 1 || q->choices > TL_MOST_CHOICES || (q->choices && q->choices < a.n) ||
            q->min_tokens > q->max_tokens || q->alternatives > TL_MOST_ALTERNATIVES || q->n_stop > TL_MOST_STOPS)
            abort();
    }
    tl__ask_free(&a);
}

static void read_tokens(const char *body, size_t n, bool decode) {
    tl_refusal r = {0};
    json_t *out = decode ? tl__tokens_decode(body, n, &context, &r) : tl__tokens_encode(body, n, &context, &r);
    if (!out) check_refusal(&r);
    json_decref(out);
}

static void read_calls(const char *text, size_t n) {
    json_t *tools = json_pack("[{s:{s:s}}]", "function", "name", "f");
    size_t whole, from = 0, rest;
    json_t *calls = tl__tool_calls(text, n, true, tools, false, &whole);
    if (whole > n || (calls && json_array_size(calls) == 0)) abort();
    for (size_t to = 1; to <= n; to++) {
        const size_t safe = tl__tool_calls_safe(text + from, to - from, from == 0);
        if (safe > to - from) abort();
        from += safe;
    }
    json_t *again = tl__tool_calls(text + from, n - from, from == 0, tools, false, &rest);
    if (json_array_size(again) != json_array_size(calls) || from + rest != whole) abort();
    json_decref(calls);
    json_decref(again);
    json_decref(tools);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char cut[] = "\n====\n";
    if (size < 1) return 0;
    open_context();
    const char *body = (const char *)data + 1, *parted = memmem(body, size - 1, cut, sizeof cut - 1);
    const size_t n = parted ? (size_t)(parted - body) : size - 1;
    switch (data[0] % 6) {
    case 4:
    case 5:
        read_tokens(body, n, data[0] % 6 == 5);
        break;
    default:
        read_request((tl_ask_kind)(data[0] % 6), body, n);
    }
    if (parted) {
        const char *text = parted + sizeof cut - 1;
        const size_t left = size - (size_t)(text - (const char *)data);
        char *copy = malloc(left + 1); /* bytes beyond the end are seen to be read */
        memcpy(copy, text, left);
        if (left < 4096) read_calls(copy, left);
        free(copy);
    }
    return 0;
}
