/* tool_calls.h — the calls of tools in what a model wrote: between <tool_call> and </tool_call>, an object or a list of
 * them (Hermes, Qwen, SmolLM), or the whole answer as JSON (Llama 3, Mistral). */
#ifndef TL_SERVE_TOOL_CALLS_H
#define TL_SERVE_TOOL_CALLS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* Calls in OpenAI's form, or NULL where there are none; *content: bytes of the text before the first of them. whole:
 * nothing of the answer came before the text; then it may be a call in JSON, if it names one of the tools, which are as
 * in the request. one: no more than the first. */
json_t *tl__tool_calls(const char *text, size_t n, bool whole, const json_t *tools, bool one, size_t *content);

/* Bytes of the text that are no part of a call, whatever follows. */
size_t tl__tool_calls_safe(const char *text, size_t n, bool whole);

#endif
