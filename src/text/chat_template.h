/* chat_template.h — the chat template that a model brings, with the special tokens that it names: from a Hugging Face
 * folder or a GGUF file, chosen and passed as transformers chooses and passes them. */
#ifndef TL_TEXT_CHAT_TEMPLATE_H
#define TL_TEXT_CHAT_TEMPLATE_H

#include "text/template.h"
#include "text/tokenizer.h"

typedef struct tl_chat_template {
    tl_template *template;
    char *source; /* that it was compiled from */
    json_t *tokens; /* {"bos_token": "<s>", …}: variables of every rendering */
} tl_chat_template;

/* model: a folder (chat_template.jinja, else chat_template.json, else tokenizer_config.json) or a GGUF file
 * (tokenizer.chat_template); gguf: the file, where the caller has it open; else NULL. tools: of a folder's several
 * templates the one for tools is taken, if there is one; a GGUF file has one. */
int tl__chat_template_open(tl_chat_template *chat, const char *model, const tl_gguf *gguf, bool tools, tl_error *err);
/* The special tokens alone. */
int tl__chat_template_tokens(tl_chat_template *chat, const char *model, const tl_gguf *gguf, tl_error *err);
/* A template in a file of its own, beside the tokens that are there. */
int tl__chat_template_file(tl_chat_template *chat, const char *path, tl_error *err);
void tl__chat_template_close(tl_chat_template *chat);

/* Ids of a rendering, malloc'd; special tokens are those that the template wrote, never those that stand in what came
 * from the conversation. Their number, or a status. */
int64_t tl__chat_encode(const tl_tokenizer *tok, const tl_rendering *rendering, int32_t **ids, tl_error *err);

#endif
