/* unicode.c — owns the character class tables and the checking and repair of UTF-8; promises the replacement practice
 * of WHATWG and of Python's errors="replace": one U+FFFD for each maximal ill-formed subpart. */
#include "text/unicode.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#include "text/unicode_ranges.inc"

enum { PAGES_MOST = 255 };
uint8_t tl__char_page[0x1100];
uint8_t tl__char_class_of[PAGES_MOST][256];

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int pages_used = 1; /* page 0: nothing but TL_CHAR_OTHER */

static void mark(const uint32_t (*ranges)[2], size_t n, tl_char_class class) {
    for (size_t i = 0; i < n; i++) {
        for (uint32_t c = ranges[i][0]; c <= ranges[i][1]; c++) {
            uint8_t *page = &tl__char_page[c >> 8];
            if (*page == 0) {
                assert(pages_used < PAGES_MOST);
                *page = (uint8_t)pages_used++;
            }
            tl__char_class_of[*page][c & 255] = (uint8_t) class;
        }
    }
}

/* Wholly lettered pages (CJK, Hangul) are many: they share one. */
static void share_letter_pages(void) {
    int shared = 0;
    for (size_t i = 0; i < sizeof letter_ranges / sizeof letter_ranges[0]; i++) {
        uint32_t first = (letter_ranges[i][0] + 255) >> 8, last = (letter_ranges[i][1] + 1) >> 8;
        for (uint32_t page = first; page < last; page++) {
            if (shared == 0) {
                shared = pages_used++;
                memset(tl__char_class_of[shared], TL_CHAR_LETTER, 256);
            }
            tl__char_page[page] = (uint8_t)shared;
        }
    }
}

static void fill(void) {
    share_letter_pages();
    mark(letter_ranges, sizeof letter_ranges / sizeof letter_ranges[0], TL_CHAR_LETTER);
    mark(number_ranges, sizeof number_ranges / sizeof number_ranges[0], TL_CHAR_NUMBER);
    mark(space_ranges, sizeof space_ranges / sizeof space_ranges[0], TL_CHAR_SPACE);
    tl__char_class_of[tl__char_page[0]]['\n'] = TL_CHAR_NEWLINE;
    tl__char_class_of[tl__char_page[0]]['\r'] = TL_CHAR_NEWLINE;
}

void tl__unicode_init(void) {
    pthread_once(&once, fill);
}

int tl__utf8_check(const uint8_t *s, size_t n, int *skip, bool *partial) {
    int dummy_skip;
    bool dummy_partial;
    if (!skip) skip = &dummy_skip;
    if (!partial) partial = &dummy_partial;
    *skip = 1;
    *partial = false;
    if (n == 0) return 0;
    if (s[0] < 0x80) return 1;
    int width = s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    if (width == 0) return 0;
    /* The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF. */
    uint8_t low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
    uint8_t high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
    for (int i = 1; i < width; i++) {
        if ((size_t)i >= n) {
            *skip = i;
            *partial = true;
            return 0;
        }
        if (s[i] < low || s[i] > high) {
            *skip = i;
            return 0;
        }
        low = 0x80, high = 0xBF;
    }
    return width;
}

/* Most of what is not ASCII: three bytes, the first of which sets no bounds to the second. */
static inline bool is_three_plainly(const uint8_t *s, size_t n) {
    return n >= 3 && (s[0] & 0xF0) == 0xE0 && s[0] != 0xE0 && s[0] != 0xED && (s[1] & 0xC0) == 0x80 && (s[2] & 0xC0) == 0x80;
}

size_t tl__utf8_valid(const uint8_t *s, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint64_t word;
        while (i + 8 <= n && (memcpy(&word, s + i, 8), (word & 0x8080808080808080u) == 0)) i += 8;
        while (i < n && s[i] < 0x80) i++;
        if (i >= n) break;
        int width = is_three_plainly(s + i, n - i) ? 3 : tl__utf8_check(s + i, n - i, NULL, NULL);
        if (width == 0) return i;
        i += (size_t)width;
    }
    return n;
}

size_t tl__utf8_repair(char *out, const uint8_t *s, size_t n, int64_t *replaced) {
    size_t at = 0, o = 0;
    while (at < n) {
        size_t good = tl__utf8_valid(s + at, n - at);
        memcpy(out + o, s + at, good);
        o += good, at += good;
        if (at >= n) break;
        int skip;
        tl__utf8_check(s + at, n - at, &skip, NULL);
        at += (size_t)skip;
        memcpy(out + o, "\xEF\xBF\xBD", 3);
        o += 3;
        ++*replaced;
    }
    return o;
}
