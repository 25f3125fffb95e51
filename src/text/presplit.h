/* presplit.h — where a text is cut into pre-tokens before byte pairs are merged; no merge crosses a cut.
 *
 * Each kind is one regular expression of the field, scanned by hand: at 20 MB/s of training a general engine would be
 * most of the time. tests/text/test_presplit.c holds each scanner against PCRE2, and vectors against `tokenizers`. */
#ifndef TL_TEXT_PRESPLIT_H
#define TL_TEXT_PRESPLIT_H

#include "text/unicode.h"

typedef enum tl_split {
    TL_SPLIT_GPT4, /* what we train with: digits by threes, punctuation may lead a word; also Llama 3's spelling of it
                    */
    TL_SPLIT_QWEN, /* the same with single digits */
    TL_SPLIT_GPT2, /* ' ?\p{L}+| ?\p{N}+| …' */
    TL_SPLITS
} tl_split;

/* The expression of a kind, as it stands in tokenizer.json. */
const char *tl__split_pattern(tl_split split);
/* The kind whose expression (any known spelling of it) this is; −1 if unknown. */
int tl__split_find(const char *pattern);

/* End of the pre-token that starts at s[at], at < n, in valid UTF-8 s[0, n). */
size_t tl__split_next(tl_split split, const uint8_t *s, size_t n, size_t at);
/* Is there a cut at `at` whatever precedes and follows the two characters around it? before and after are their
 * classes. */
bool tl__split_always(tl_split split, tl_char_class before, tl_char_class after);

#endif
