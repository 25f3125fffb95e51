/* charsmap.c — owns sentencepiece's precompiled_charsmap: a double-array trie (darts-clone) from byte strings to texts;
 * every unit and text that it leads to is checked as it is read. */
#include <string.h>
#include <utf8proc.h>

#include "text/normalize.h"

struct tl_charsmap {
    uint8_t *bytes; /* the whole, as it was given */
    size_t n, units, texts_at;
    bool whole;
};

int tl__charsmap_open(tl_charsmap **out, const uint8_t *bytes, size_t n, bool whole, const char *where, tl_error *err) {
    *out = NULL;
    uint32_t size = 0;
    if (n >= 4) size = bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
    if (n < 4 || size > n - 4 || size % 4 != 0 || size == 0)
        return tl__fail(err, TL_EFORMAT,
                        "%s: precompiled_charsmap of %zu bytes says that its trie has %u; check the file", where, n, size);
    tl_charsmap *map = calloc(1, sizeof *map);
    uint8_t *copy = malloc(n + 1);
    if (!map || !copy) {
        free(map);
        free(copy);
        return tl__fail(err, TL_ENOMEM, "%s: not enough memory for a precompiled_charsmap of %zu bytes", where, n);
    }
    memcpy(copy, bytes, n);
    copy[n] = 0; /* the last text ends */
    *map = (tl_charsmap){.bytes = copy, .n = n, .units = size / 4, .texts_at = 4 + size, .whole = whole};
    *out = map;
    return 0;
}

void tl__charsmap_free(tl_charsmap *map) {
    if (!map) return;
    free(map->bytes);
    free(map);
}

const uint8_t *tl__charsmap_bytes(const tl_charsmap *map, size_t *n, bool *whole) {
    *n = map->n;
    *whole = map->whole;
    return map->bytes;
}

static uint32_t unit_at(const tl_charsmap *map, size_t i) {
    const uint8_t *u = map->bytes + 4 + 4 * i;
    return u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
}

static size_t offset_of(uint32_t unit) {
    return (unit >> 10) << ((unit & 1u << 9) >> 6);
}

/* The text for a key that s[0, n) begins with: the longest key's, or the shortest's. NULL: none. */
static const char *find(const tl_charsmap *map, const uint8_t *s, size_t n, bool longest, size_t *length) {
    const char *found = NULL;
    size_t at = offset_of(unit_at(map, 0));
    for (size_t i = 0; i < n && s[i] != 0; i++) {
        at ^= s[i];
        if (at >= map->units) break;
        uint32_t unit = unit_at(map, at);
        if ((unit & (1u << 31 | 0xFF)) != s[i]) break;
        at ^= offset_of(unit);
        if (unit >> 8 & 1) { /* a key ends here: its value lies at the node itself */
            if (at >= map->units) break;
            size_t place = map->texts_at + (unit_at(map, at) & 0x7FFFFFFF);
            if (place > map->n) break;
            found = (const char *)map->bytes + place;
            *length = i + 1;
            if (!longest) break;
        }
    }
    return found;
}

static void put(tl_textbuf *out, const char *text, bool *kept) {
    size_t n = strlen(text);
    if (n == 0 && out->n == 0) *kept = false;
    /* A hostile map's texts need not be UTF-8. */
    if (tl__utf8_valid((const uint8_t *)text, n) == n) {
        tl__textbuf_add(out, text, n);
    } else {
        int64_t replaced = 0;
        if (tl__textbuf_reserve(out, 3 * n)) out->n += tl__utf8_repair(out->bytes + out->n, (const uint8_t *)text, n, &replaced);
    }
}

static size_t grapheme_end(const uint8_t *s, size_t n, size_t at) {
    uint32_t c, next;
    size_t end = at + (size_t)tl__utf8_at(s + at, &c);
    utf8proc_int32_t state = 0;
    while (end < n) {
        int width = tl__utf8_at(s + end, &next);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)c, (utf8proc_int32_t)next, &state)) break;
        end += (size_t)width;
        c = next;
    }
    return end;
}

void tl__charsmap_apply(const tl_charsmap *map, const uint8_t *s, size_t n, tl_textbuf *out, bool *kept) {
    size_t length;
    if (map->whole) {
        for (size_t at = 0; at < n;) {
            const char *text = find(map, s + at, n - at, true, &length);
            uint32_t c;
            /* A key that ends within a character is no match. */
            if (text && (at + length == n || (s[at + length] & 0xC0) != 0x80)) {
                put(out, text, kept);
                at += length;
            } else {
                size_t width = (size_t)tl__utf8_at(s + at, &c);
                tl__textbuf_add(out, s + at, width);
                at += width;
            }
        }
        return;
    }
    for (size_t at = 0; at < n;) {
        size_t end = grapheme_end(s, n, at);
        const char *text = end - at < 6 ? find(map, s + at, end - at, false, &length) : NULL;
        if (text) {
            put(out, text, kept);
            at = end;
        }
        while (at < end) {
            uint32_t c;
            size_t width = (size_t)tl__utf8_at(s + at, &c);
            text = find(map, s + at, width, false, &length);
            if (text) put(out, text, kept);
            else tl__textbuf_add(out, s + at, width);
            at += width;
        }
    }
}
