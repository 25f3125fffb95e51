/* textbuf.h — bytes that grow. A failed allocation is remembered, and the last call's user asks once. */
#ifndef TL_TEXT_TEXTBUF_H
#define TL_TEXT_TEXTBUF_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "text/unicode.h"

typedef struct tl_textbuf {
    char *bytes;
    size_t n, room;
    size_t most; /* more bytes than this fail: steps of a hostile file may double a text each; 0: any */
    bool failed, swollen; /* swollen: it was for `most` */
} tl_textbuf;

static inline bool tl__textbuf_reserve(tl_textbuf *b, size_t more) {
    if (b->failed) return false;
    if (b->most && more > b->most - b->n) return b->failed = b->swollen = true, false;
    if (b->bytes && more <= b->room - b->n) return true;
    size_t room = (b->n + more) + (b->n + more) / 2 + 256;
    char *bigger = room > more ? realloc(b->bytes, room) : NULL;
    if (!bigger) return b->failed = true, false;
    b->bytes = bigger;
    b->room = room;
    return true;
}

static inline void tl__textbuf_add(tl_textbuf *b, const void *bytes, size_t n) {
    if (!tl__textbuf_reserve(b, n)) return;
    if (n) memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
}

static inline void tl__textbuf_add_char(tl_textbuf *b, uint32_t c) {
    if (tl__textbuf_reserve(b, 4)) b->n += (size_t)tl__utf8_put(b->bytes + b->n, c);
}

static inline void tl__textbuf_add_text(tl_textbuf *b, const char *text) {
    tl__textbuf_add(b, text, strlen(text));
}

/* Gives back what one monstrous text took. */
static inline void tl__textbuf_trim(tl_textbuf *b) {
    if (b->room > 1 << 22 || b->failed) {
        free(b->bytes);
        *b = (tl_textbuf){0};
    }
    b->n = 0;
}

/* What steps may make of n bytes: beyond compatibility decomposition's 18 times nothing honest grows. */
static inline size_t tl__textbuf_most(size_t n) {
    return n < SIZE_MAX / 128 ? 64 * n + 65536 : SIZE_MAX;
}

#endif
