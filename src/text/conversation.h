/* conversation.h — what a chat template is given, and which ids end what follows. */
#ifndef TL_TEXT_CONVERSATION_H
#define TL_TEXT_CONVERSATION_H

#include <jansson.h>
#include "io/gguf.h"

enum { TL_CHAT_STOPS = 64 };

/* {"messages", "tools", "documents"} of this list (the reference is taken), as transformers passes them. What stands
 * under older names for reasoning is copied to reasoning_content. */
int tl__conversation_make(json_t **conversation, json_t *messages, tl_error *err);

/* Ids below V that end an answer: "eos_token_id" of config.json and generation_config.json of a folder, or the eos, eot
 * and eom of a GGUF file (not NULL: model is that). */
int tl__conversation_stops(int32_t stops[TL_CHAT_STOPS], int *n, const char *model, const tl_gguf *gguf, int V,
                           tl_error *err);

#endif
