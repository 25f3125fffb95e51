/* normalize.h — the normalisers of tokenizer.json: steps that turn a text into another before it is cut. */
#ifndef TL_TEXT_NORMALIZE_H
#define TL_TEXT_NORMALIZE_H

#include "text/pattern.h"
#include "text/textbuf.h"

typedef enum tl_norm_kind {
    TL_NORM_NFC,
    TL_NORM_NFD,
    TL_NORM_NFKC,
    TL_NORM_NFKD,
    TL_NORM_LOWERCASE,
    TL_NORM_STRIP_ACCENTS,
    TL_NORM_PREPEND, /* text, if there is any to prepend it to */
    TL_NORM_REPLACE, /* every match of pattern by text */
    TL_NORM_STRIP,   /* white space at the left, the right */
    TL_NORM_CHARSMAP /* sentencepiece's compiled replacements */
} tl_norm_kind;

typedef struct tl_charsmap tl_charsmap;

typedef struct tl_norm {
    tl_norm_kind kind;
    tl_pattern *pattern;
    char *text;
    size_t text_n;
    bool left, right;
    tl_charsmap *map;
} tl_norm;

/* What one step makes of valid UTF-8 s[0, n), into out (which is emptied); *kept: its beginning is the text's own or
 * was put before it, rather than left when something there was taken away. */
void tl__normalize(const tl_norm *step, const uint8_t *s, size_t n, tl_textbuf *out, bool *kept);
/* Does the step leave pure ASCII without capitals as it is? */
bool tl__norm_keeps_ascii(const tl_norm *step);
void tl__norm_free(tl_norm *step);

/* sentencepiece's precompiled_charsmap: the length of a double array, the double array, texts parted by NUL.
 * whole: the longest match at each place, as sentencepiece itself has it; else the `tokenizers` library's reading
 * (by graphemes of less than six bytes, else characters; of several matches the shortest). */
int tl__charsmap_open(tl_charsmap **map, const uint8_t *bytes, size_t n, bool whole, const char *where, tl_error *err);
const uint8_t *tl__charsmap_bytes(const tl_charsmap *map, size_t *n, bool *whole);
void tl__charsmap_free(tl_charsmap *map);
void tl__charsmap_apply(const tl_charsmap *map, const uint8_t *s, size_t n, tl_textbuf *out, bool *kept);

#endif
