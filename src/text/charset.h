/* charset.h — classes of characters beyond the scanners' three, pinned as the `tokenizers` library has them.
 *
 * Its parts follow different Unicode versions (regular expressions 16, Rust's own classes 17, normalisers 12), so each
 * class is named by who asks for it. Membership is a search in sorted ranges: for steps that are not hot. */
#ifndef TL_TEXT_CHARSET_H
#define TL_TEXT_CHARSET_H

#include "text/unicode.h"

typedef enum tl_charset {
    /* regular expressions: \p{…} and the escapes */
    TL_SET_LETTER,
    TL_SET_NUMBER,
    TL_SET_SPACE, /* \s, and White_Space everywhere else */
    TL_SET_UPPER,
    TL_SET_LOWER,
    TL_SET_TITLE,
    TL_SET_MODIFIER,
    TL_SET_OTHER_LETTER,
    TL_SET_MARK,
    TL_SET_PUNCTUATION,
    TL_SET_SYMBOL,
    TL_SET_WORD, /* \w between brackets */
    TL_SET_DIGIT,
    TL_SET_HAN,
    /* pre-tokenizers and normalisers */
    TL_SET_NUMERIC,      /* Digits */
    TL_SET_WORD_CHAR,    /* \w of Whitespace and of added tokens' single_word */
    TL_SET_PUNCTUATOR,   /* Punctuation */
    TL_SET_ACCENT,       /* StripAccents */
    TL_SET_UNDECOMPOSED, /* what utf8proc decomposes and the normalisers do not know yet */
    TL_SET_STARTER,      /* what utf8proc gives a combining class and the normalisers do not */
    TL_SETS
} tl_charset;

bool tl__char_in(tl_charset set, uint32_t c);
/* The sorted ranges [2] of a set; *n of them. */
const uint32_t (*tl__charset_ranges(tl_charset set, int *n))[2];
/* Lower case of one character, at most two; returns how many. */
int tl__char_lower(uint32_t c, uint32_t out[2]);

#endif
