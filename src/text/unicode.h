/* unicode.h — UTF-8 and the three classes of characters that pre-splitting asks for.
 *
 * The classes are those of the `tokenizers` library (Unicode 16), pinned as ranges in unicode_ranges.inc: PCRE2 and
 * utf8proc of a stable distribution know Unicode 14 and would cut newer letters elsewhere. */
#ifndef TL_TEXT_UNICODE_H
#define TL_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum tl_char_class {
    TL_CHAR_OTHER,
    TL_CHAR_LETTER,
    TL_CHAR_NUMBER,
    TL_CHAR_SPACE,
    TL_CHAR_NEWLINE
} tl_char_class;

/* Two stages: page of 256 code points, then the class. Filled once by tl__unicode_init, read-only afterwards. */
extern uint8_t tl__char_page[0x1100];
extern uint8_t tl__char_class_of[][256];

/* Fills the tables; cheap and safe to call from any thread, any number of times. Every tokenizer does when it opens. */
void tl__unicode_init(void);

static inline tl_char_class tl__char_class(uint32_t c) {
    return (tl_char_class)tl__char_class_of[tl__char_page[c >> 8]][c & 255];
}

/* Decodes the character at s of text known to be valid; returns its width in bytes. */
static inline int tl__utf8_at(const uint8_t *s, uint32_t *c) {
    if (s[0] < 0x80) {
        *c = s[0];
        return 1;
    }
    if (s[0] < 0xE0) {
        *c = (uint32_t)(s[0] & 0x1F) << 6 | (s[1] & 0x3F);
        return 2;
    }
    if (s[0] < 0xF0) {
        *c = (uint32_t)(s[0] & 0x0F) << 12 | (uint32_t)(s[1] & 0x3F) << 6 | (s[2] & 0x3F);
        return 3;
    }
    *c = (uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3F) << 12 | (uint32_t)(s[2] & 0x3F) << 6 | (s[3] & 0x3F);
    return 4;
}

/* Writes c as UTF-8; returns the bytes written (1 … 4). */
static inline int tl__utf8_put(char *out, uint32_t c) {
    if (c < 0x80) return out[0] = (char)c, 1;
    if (c < 0x800) return out[0] = (char)(0xC0 | c >> 6), out[1] = (char)(0x80 | (c & 0x3F)), 2;
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 0x3F)), out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18), out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F)), out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

/* Width of the character at s[0, n) if it is whole and well formed (Unicode 16, table 3-7); else 0, and *skip (may be
 * NULL) is the length of the maximal ill-formed subpart, which one U+FFFD replaces; *partial: only the end of the bytes
 * is wrong. */
int tl__utf8_check(const uint8_t *s, size_t n, int *skip, bool *partial);
/* Bytes of the longest valid prefix. */
size_t tl__utf8_valid(const uint8_t *s, size_t n);
/* Copies s[0, n) to out (room for 3·n) with every maximal ill-formed subpart replaced by U+FFFD; *replaced counts them.
 */
size_t tl__utf8_repair(char *out, const uint8_t *s, size_t n, int64_t *replaced);

#endif
