/* gguf_presplit.h — the names of tokenizer.ggml.pre and the splits that they stand for. */
#ifndef TL_TEXT_GGUF_PRESPLIT_H
#define TL_TEXT_GGUF_PRESPLIT_H

#include "text/bpe.h"

/* Fills in tok's pre-tokenizers (and whole_words) for a name of n bytes; refuses an unknown one. *adds_bos: models of
 * this name expect bos unless told otherwise. */
int tl__gguf_presplit(tl_tokenizer *tok, const char *name, size_t n, bool *adds_bos, const char *where, tl_error *err);
/* The name for tok's pre-tokenizers, NULL: GGUF has none. */
const char *tl__gguf_presplit_name(const tl_tokenizer *tok);

#endif
