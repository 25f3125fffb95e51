/* presplit.c — owns the scanners of the pre-splitting expressions; promises the same cuts as the expressions make,
 * leftmost alternative first, on any valid UTF-8. */
#include "text/presplit.h"

#include <assert.h>
#include <string.h>

static const struct {
    tl_split split;
    const char *pattern;
} spellings[] = {
    /* The first spelling of each kind is the one that is written. */
    {TL_SPLIT_GPT4, "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|"
                    "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"},
    {TL_SPLIT_GPT4,
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {TL_SPLIT_QWEN, "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {TL_SPLIT_GPT2, "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
};

const char *tl__split_pattern(tl_split split) {
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++)
        if (spellings[i].split == split) return spellings[i].pattern;
    assert(!"every kind has a spelling");
    return "";
}

int tl__split_find(const char *pattern) {
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++)
        if (strcmp(spellings[i].pattern, pattern) == 0) return (int)spellings[i].split;
    return -1;
}

static inline tl_char_class class_at(const uint8_t *s, size_t at, int *width) {
    uint32_t c;
    *width = tl__utf8_at(s + at, &c);
    return tl__char_class(c);
}

/* End of the run of `class` from `at`. */
static inline size_t run_of(tl_char_class class, const uint8_t *s, size_t n, size_t at) {
    int width;
    while (at < n && class_at(s, at, &width) == class) at += (size_t)width;
    return at;
}

/* Bytes of the contraction 's 't 'd 'm 'll 've 're at s[at] == '\''; 0: none. With any_case the long s (U+017F), whose
 * simple case folding is s, counts as well, as it does for the regular expression. */
static size_t contraction(const uint8_t *s, size_t n, size_t at, bool any_case) {
    if (at + 1 >= n) return 0;
    uint8_t fold = any_case ? 0x20 : 0;
    uint8_t a = s[at + 1];
    if (any_case && a == 0xC5 && s[at + 2] == 0xBF) return 3; /* valid text: a lead byte has its second */
    if (a >= 0x80) return 0;
    a |= fold;
    if (a == 's' || a == 't' || a == 'd' || a == 'm') return 2;
    if (at + 2 >= n || s[at + 2] >= 0x80) return 0;
    uint8_t b = s[at + 2] | fold;
    return (a == 'l' && b == 'l') || (a == 'v' && b == 'e') || (a == 'r' && b == 'e') ? 3 : 0;
}

/* \s+(?!\S)|\s+ on the white space from at to end: all of it at the end of the text, all but its last character before
 * a word. */
static inline size_t space_end(size_t n, size_t at, size_t last, size_t end) {
    return end == n || last == at ? end : last;
}

static size_t next_gpt4(const uint8_t *s, size_t n, size_t at, int digits) {
    if (s[at] == '\'') {
        size_t length = contraction(s, n, at, true);
        if (length) return at + length;
    }
    int width, width2;
    tl_char_class class = class_at(s, at, &width);
    size_t next = at + (size_t)width;
    switch (class) {
    case TL_CHAR_LETTER:
        return run_of(TL_CHAR_LETTER, s, n, next);
    case TL_CHAR_NUMBER:
        for (int i = 1; i < digits && next < n && class_at(s, next, &width) == TL_CHAR_NUMBER; i++)
            next += (size_t)width;
        return next;
    case TL_CHAR_OTHER:
        if (next < n && class_at(s, next, &width2) == TL_CHAR_LETTER)
            return run_of(TL_CHAR_LETTER, s, n, next + (size_t)width2);
        return run_of(TL_CHAR_NEWLINE, s, n, run_of(TL_CHAR_OTHER, s, n, next));
    case TL_CHAR_SPACE:
        if (next < n) {
            tl_char_class after = class_at(s, next, &width2);
            if (after == TL_CHAR_LETTER) return run_of(TL_CHAR_LETTER, s, n, next + (size_t)width2);
            if (after == TL_CHAR_OTHER && s[at] == ' ')
                return run_of(TL_CHAR_NEWLINE, s, n, run_of(TL_CHAR_OTHER, s, n, next + (size_t)width2));
        }
        break;
    case TL_CHAR_NEWLINE:
        break;
    }
    /* \s*[\r\n] takes the white space up to its last line break; else the general rule. */
    size_t end = at, last = at, after_newline = 0;
    while (end < n) {
        class = class_at(s, end, &width);
        if (class != TL_CHAR_SPACE && class != TL_CHAR_NEWLINE) break;
        last = end;
        end += (size_t)width;
        if (class == TL_CHAR_NEWLINE) after_newline = end;
    }
    return after_newline ? after_newline : space_end(n, at, last, end);
}

static size_t next_gpt2(const uint8_t *s, size_t n, size_t at) {
    if (s[at] == '\'') {
        size_t length = contraction(s, n, at, false);
        if (length) return at + length;
    }
    int width;
    size_t word = at + (s[at] == ' ' && at + 1 < n);
    tl_char_class class = class_at(s, word, &width);
    if (class != TL_CHAR_SPACE && class != TL_CHAR_NEWLINE) return run_of(class, s, n, word + (size_t)width);
    size_t end = at, last = at;
    while (end < n) {
        class = class_at(s, end, &width);
        if (class != TL_CHAR_SPACE && class != TL_CHAR_NEWLINE) break;
        last = end;
        end += (size_t)width;
    }
    return space_end(n, at, last, end);
}

size_t tl__split_next(tl_split split, const uint8_t *s, size_t n, size_t at) {
    if (split == TL_SPLIT_GPT2) return next_gpt2(s, n, at);
    return next_gpt4(s, n, at, split == TL_SPLIT_QWEN ? 1 : 3);
}

bool tl__split_always(tl_split split, tl_char_class before, tl_char_class after) {
    bool space_before = before == TL_CHAR_SPACE || before == TL_CHAR_NEWLINE;
    bool space_after = after == TL_CHAR_SPACE || after == TL_CHAR_NEWLINE;
    /* A word ends at the first character that is not a letter, and what follows starts anew. */
    if (before == TL_CHAR_LETTER && after != TL_CHAR_LETTER) return true;
    /* GPT-4's line breaks end their pre-token unless more white space follows; GPT-2 parts the last of several from the
     * rest, which a text that ends there would not show. */
    if (before == TL_CHAR_NEWLINE && !space_after) return split != TL_SPLIT_GPT2;
    /* Digits and punctuation end before white space; GPT-4's punctuation may take line breaks along. */
    return !space_before && space_after && (split == TL_SPLIT_GPT2 || after != TL_CHAR_NEWLINE);
}
