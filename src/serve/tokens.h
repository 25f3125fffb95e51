/* tokens.h — text to ids and back for clients that count or score, in the form that vLLM gave these calls. */
#ifndef TL_SERVE_TOKENS_H
#define TL_SERVE_TOKENS_H

#include "serve/request.h"

/* {"prompt"} or {"messages"} → {"tokens", "count", "max_model_len"}; each NULL with a refusal. */
json_t *tl__tokens_encode(const char *body, size_t n, const tl_ask_context *context, tl_refusal *refusal);
/* {"tokens"} → {"prompt"} */
json_t *tl__tokens_decode(const char *body, size_t n, const tl_ask_context *context, tl_refusal *refusal);
/* What tokenizer_config.json would say. */
json_t *tl__tokens_info(const tl_ask_context *context, tl_refusal *refusal);

#endif
