/* charset.c — owns the pinned classes; promises the `tokenizers` library's answer for every code point. */
#include "text/charset.h"

#include <assert.h>
#include <pthread.h>

#include "text/unicode_ranges.inc"
#include "text/unicode_sets.inc"

static uint32_t other_letter_ranges[1024][2]; /* letters that are none of the other four kinds */
static int n_other_letter;
static pthread_once_t once = PTHREAD_ONCE_INIT;

#define SET(ranges) {ranges, (int)(sizeof(ranges) / sizeof((ranges)[0]))}
static const struct {
    const uint32_t (*ranges)[2];
    int n;
} sets[TL_SETS] = {
    [TL_SET_LETTER] = SET(letter_ranges),
    [TL_SET_NUMBER] = SET(number_ranges),
    [TL_SET_SPACE] = SET(space_ranges),
    [TL_SET_UPPER] = SET(upper_ranges),
    [TL_SET_LOWER] = SET(lower_ranges),
    [TL_SET_TITLE] = SET(title_ranges),
    [TL_SET_MODIFIER] = SET(modifier_ranges),
    [TL_SET_MARK] = SET(mark_ranges),
    [TL_SET_PUNCTUATION] = SET(punctuation_ranges),
    [TL_SET_SYMBOL] = SET(symbol_ranges),
    [TL_SET_WORD] = SET(word_ranges),
    [TL_SET_DIGIT] = SET(digit_ranges),
    [TL_SET_HAN] = SET(han_ranges),
    [TL_SET_NUMERIC] = SET(numeric_ranges),
    [TL_SET_WORD_CHAR] = SET(word_char_ranges),
    [TL_SET_PUNCTUATOR] = SET(punctuator_ranges),
    [TL_SET_ACCENT] = SET(accent_ranges),
    [TL_SET_UNDECOMPOSED] = SET(undecomposed_ranges),
    [TL_SET_STARTER] = SET(starter_ranges),
};

static bool in_ranges(const uint32_t (*ranges)[2], int n, uint32_t c) {
    int low = 0, high = n; /* the first range that ends at c or beyond lies in [low, high] */
    while (low < high) {
        int middle = (low + high) / 2;
        if (ranges[middle][1] < c) low = middle + 1;
        else high = middle;
    }
    return low < n && ranges[low][0] <= c;
}

static void fill_other_letters(void) {
    static const tl_charset kinds[] = {TL_SET_UPPER, TL_SET_LOWER, TL_SET_TITLE, TL_SET_MODIFIER};
    for (int i = 0; i < sets[TL_SET_LETTER].n; i++) {
        for (uint32_t c = letter_ranges[i][0]; c <= letter_ranges[i][1]; c++) {
            bool other = true;
            for (int k = 0; k < 4 && other; k++) other = !tl__char_in(kinds[k], c);
            if (!other) continue;
            if (n_other_letter && other_letter_ranges[n_other_letter - 1][1] == c - 1) {
                other_letter_ranges[n_other_letter - 1][1] = c;
            } else {
                assert(n_other_letter < 1024);
                other_letter_ranges[n_other_letter][0] = other_letter_ranges[n_other_letter][1] = c;
                n_other_letter++;
            }
        }
    }
}

const uint32_t (*tl__charset_ranges(tl_charset set, int *n))[2] {
    if (set == TL_SET_OTHER_LETTER) {
        pthread_once(&once, fill_other_letters);
        *n = n_other_letter;
        return (const uint32_t(*)[2])other_letter_ranges;
    }
    *n = sets[set].n;
    return sets[set].ranges;
}

bool tl__char_in(tl_charset set, uint32_t c) {
    int n;
    const uint32_t(*ranges)[2] = tl__charset_ranges(set, &n);
    return in_ranges(ranges, n, c);
}

int tl__char_lower(uint32_t c, uint32_t out[2]) {
    out[0] = c;
    if (c < 0x80) {
        if (c >= 'A' && c <= 'Z') out[0] = c + 32;
        return 1;
    }
    if (c == 0x130) return out[0] = 'i', out[1] = 0x307, 2; /* İ: i and a dot above */
    int n = (int)(sizeof lowercase_runs / sizeof lowercase_runs[0]), low = 0, high = n;
    while (low < high) {
        int middle = (low + high) / 2;
        if (lowercase_runs[middle][1] < c) low = middle + 1;
        else high = middle;
    }
    /* Runs of every other code point may lie within each other: the one before the first that ends beyond c, and on. */
    for (int i = low; i < n && i < low + 2; i++) {
        const uint32_t *run = lowercase_runs[i];
        if (run[0] <= c && c <= run[1] && (c - run[0]) % run[2] == 0) return out[0] = c + run[3], 1;
    }
    return 1;
}
