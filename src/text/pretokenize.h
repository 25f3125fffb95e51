/* pretokenize.h — the pre-tokenizers of tokenizer.json: steps that cut a text, each within the pieces of the one before,
 * and some that rewrite what they cut. */
#ifndef TL_TEXT_PRETOKENIZE_H
#define TL_TEXT_PRETOKENIZE_H

#include "text/pattern.h"
#include "text/presplit.h"
#include "text/textbuf.h"

typedef enum tl_pre_kind {
    TL_PRE_SCAN,         /* one of the scanned expressions */
    TL_PRE_SPLIT,        /* at the matches of a pattern */
    TL_PRE_WORDS,        /* \w+|[^\w\s]+, white space removed */
    TL_PRE_METASPACE,    /* spaces become a mark, which may be prepended and cut before */
    TL_PRE_PREFIX_SPACE, /* a space before a piece that does not begin with one */
    TL_PRE_BYTES         /* bytes become the characters that stand for them */
} tl_pre_kind;

typedef enum tl_behavior {
    TL_REMOVED,
    TL_ISOLATED,
    TL_MERGED_WITH_PREVIOUS,
    TL_MERGED_WITH_NEXT,
    TL_CONTIGUOUS
} tl_behavior;

typedef enum tl_prepend { TL_PREPEND_NEVER, TL_PREPEND_FIRST, TL_PREPEND_ALWAYS } tl_prepend;

typedef struct tl_pre {
    tl_pre_kind kind;
    tl_split split;
    tl_pattern *pattern; /* SPLIT; METASPACE: its mark */
    tl_behavior behavior;
    bool invert;
    tl_prepend prepend;
    bool cut;         /* METASPACE: before each mark */
    const char *name; /* SPLIT: the pre-tokenizer that is a split by a set, for saving; NULL: Split itself */
} tl_pre;

/* Takes one piece, n > 0; false stops. */
typedef bool tl_piece_taker(void *user, const uint8_t *s, size_t n);

/* Cuts valid UTF-8 s[0, n) by all steps in order. first: it is the beginning of the whole text. buffers: one a step,
 * for those that rewrite. false: the taker stopped, or memory ended (a buffer's failed). */
bool tl__pretokenize(const tl_pre *steps, int n_steps, tl_textbuf *buffers, const uint8_t *s, size_t n, bool first,
                     tl_piece_taker *take, void *user);
void tl__pre_free(tl_pre *step);

/* The 256 characters that stand for bytes in tokenizer.json: printable ones for themselves, the rest from U+0100 on. */
uint32_t tl__byte_char(uint8_t byte);
int tl__char_byte(uint32_t c); /* −1: stands for no byte */

#endif
