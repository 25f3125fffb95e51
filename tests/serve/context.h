/* context.h — what a request is read against where there is no model: a tokenizer of bytes and a template. */
#ifndef TESTS_SERVE_CONTEXT_H
#define TESTS_SERVE_CONTEXT_H

#include <assert.h>
#include <string.h>
#include "serve/request.h"

static tl_engine context_engine;
static tl_chat_template context_chat;
static tl_ask_context context;

static void open_context(void) {
    static const char source[] = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}"
                                 "[{{ c.function.arguments.city }}]{% endfor %}{% endfor %}"
                                 "{% if tools %}{{ tools | length }}{% endif %}"
                                 "{% if add_generation_prompt %}<|endoftext|>{% endif %}{{ more }}";
    if (context.engine) return;
    context_engine.arch = (tl_arch){.V = 300, .C = 8, .bos = -1, .eos = 256, .max_positions = 100};
    const int failed = tl__tokenizer_open(&context_engine.tokenizer, "bytes", NULL) ||
                       tl__template_compile(&context_chat.template, source, strlen(source), "template", NULL);
    assert(!failed);
    context_chat.tokens = json_object();
    static const int32_t stops[] = {7, 8};
    context = (tl_ask_context){.engine = &context_engine,
                               .chat = &context_chat,
                               .chat_tools = &context_chat,
                               .stops = stops,
                               .n_stops = 2,
                               .name = "model",
                               .positions = 100,
                               .waiting = 5};
}

static void close_context(void) {
    tl__chat_template_close(&context_chat);
    tl__tokenizer_close(context_engine.tokenizer);
    context = (tl_ask_context){0};
}

#endif
