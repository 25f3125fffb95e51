/* template_unicode.c — what Python's str asks of a character: its class, and its full upper, lower and title case. */
#include "text/template_value.h"

#include <string.h>
#include <utf8proc.h>
#include "text/unicode.h"

bool tl__char_space(uint32_t c) {
    if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

bool tl__char_printable(uint32_t c) {
    if (c < 0x7F) return c >= 0x20;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

/* Numeric_Type=Digit beyond the decimal digits: superscripts, circled and parenthesised digits. */
static bool is_other_digit(uint32_t c) {
    static const uint32_t range[][2] = {{0xB2, 0xB3},       {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},
                                        {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
                                        {0x2474, 0x247C},   {0x2488, 0x2490},   {0x24EA, 0x24EA},   {0x24F5, 0x24FD},
                                        {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},   {0x278A, 0x2792},
                                        {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A}};
    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        if (c >= range[i][0] && c <= range[i][1]) return true;
    return false;
}

/* Other_Lowercase and Other_Uppercase: letters of no case by category that have one by meaning. */
static bool is_other_lower(uint32_t c) {
    return c == 0xAA || c == 0xBA || (c >= 0x2B0 && c <= 0x2B8) || c == 0x2C0 || c == 0x2C1 ||
           (c >= 0x2E0 && c <= 0x2E4) || c == 0x345 || c == 0x37A || (c >= 0x1D2C && c <= 0x1D6A) || c == 0x1D78 ||
           (c >= 0x1D9B && c <= 0x1DBF) || c == 0x2071 || c == 0x207F || (c >= 0x2090 && c <= 0x209C) ||
           (c >= 0x2170 && c <= 0x217F) || (c >= 0x24D0 && c <= 0x24E9) || c == 0x2C7C || c == 0x2C7D || c == 0xA69C ||
           c == 0xA69D || c == 0xA770 || c == 0xA7F8 || c == 0xA7F9 || (c >= 0xAB5C && c <= 0xAB5F);
}
static bool is_other_upper(uint32_t c) {
    return (c >= 0x2160 && c <= 0x216F) || (c >= 0x24B6 && c <= 0x24CF) || (c >= 0x1F130 && c <= 0x1F149) ||
           (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

bool tl__char_is(uint32_t c, tl_char_is what) {
    if (c < 0x80) {
        bool digit = c >= '0' && c <= '9', lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z';
        switch (what) {
        case TL_IS_ALPHA:
            return lower || upper;
        case TL_IS_DECIMAL:
        case TL_IS_DIGIT:
        case TL_IS_NUMERIC:
            return digit;
        case TL_IS_UPPER:
            return upper;
        case TL_IS_LOWER:
            return lower;
        case TL_IS_TITLE:
            return false;
        case TL_IS_NAME_START:
            return lower || upper || c == '_';
        default:
            return lower || upper || digit || c == '_';
        }
    }
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    bool letter = k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
    bool mark = k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC;
    switch (what) {
    case TL_IS_ALPHA:
        return letter;
    case TL_IS_DECIMAL:
        return k == UTF8PROC_CATEGORY_ND;
    case TL_IS_DIGIT:
        return k == UTF8PROC_CATEGORY_ND || is_other_digit(c);
    case TL_IS_NUMERIC:
        return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
    case TL_IS_UPPER:
        return k == UTF8PROC_CATEGORY_LU || is_other_upper(c);
    case TL_IS_LOWER:
        return k == UTF8PROC_CATEGORY_LL || is_other_lower(c);
    case TL_IS_TITLE:
        return k == UTF8PROC_CATEGORY_LT;
    case TL_IS_WORD:
        return letter || k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
    case TL_IS_NAME_START:
        return letter || k == UTF8PROC_CATEGORY_NL;
    default:
        return letter || mark || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_PC;
    }
}

int tl__char_digit(uint32_t c) {
    if (c < 0x80) return c >= '0' && c <= '9' ? (int)c - '0' : -1;
    if (utf8proc_category((utf8proc_int32_t)c) != UTF8PROC_CATEGORY_ND) return -1;
    if (c >= 0x1D7CE && c <= 0x1D7FF) return (int)((c - 0x1D7CE) % 10); /* five runs of mathematical digits */
    int value = 0;                                                      /* all others lie in runs of ten */
    while (value < 9 && utf8proc_category((utf8proc_int32_t)c - 1) == UTF8PROC_CATEGORY_ND) c--, value++;
    return value;
}

/* SpecialCasing.txt of Unicode, its unconditional part: c, then upper, lower, title, each up to three code points. */
typedef struct special {
    uint32_t c, to[3][3];
} special;
#include "text/template_case.inc"

int tl__char_case(uint32_t c, tl_case to, uint32_t out[3]) {
    if (c < 0x80) {
        bool lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z';
        out[0] = to == TL_CASE_LOWER ? (upper ? c + 32 : c) : (lower ? c - 32 : c);
        return 1;
    }
    size_t low = 0, high = sizeof specials / sizeof *specials;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (specials[middle].c < c) low = middle + 1;
        else high = middle;
    }
    if (low < sizeof specials / sizeof *specials && specials[low].c == c) {
        const uint32_t *form = specials[low].to[to];
        int n = 0;
        while (n < 3 && form[n]) out[n] = form[n], n++;
        return n;
    }
    utf8proc_int32_t from = (utf8proc_int32_t)c;
    out[0] = (uint32_t)(to == TL_CASE_UPPER   ? utf8proc_toupper(from)
                        : to == TL_CASE_LOWER ? utf8proc_tolower(from)
                                              : utf8proc_totitle(from));
    return 1;
}

static bool cased(uint32_t c) {
    return tl__char_is(c, TL_IS_UPPER) || tl__char_is(c, TL_IS_LOWER) || tl__char_is(c, TL_IS_TITLE);
}

static bool case_ignorable(uint32_t c) {
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x387 || c == 0x55F || c == 0x5F4 ||
               c == 0x2018 || c == 0x2019 || c == 0x2024 || c == 0x2027 || c == 0xFE13 || c == 0xFE52 || c == 0xFE55 ||
               c == 0xFF07 || c == 0xFF0E || c == 0xFF1A;
    }
}

/* A capital sigma at `at` of s that ends a word (Unicode, table 3-17): a cased letter before it, none after. */
static bool final_sigma(const tl_string *s, size_t at) {
    const uint8_t *b = (const uint8_t *)s->bytes;
    uint32_t c = 0;
    size_t i = at;
    bool found = false;
    while (i > 0 && !found) {
        do i--;
        while ((b[i] & 0xC0) == 0x80);
        tl__utf8_at(b + i, &c);
        if (!case_ignorable(c)) found = true;
    }
    if (!found || !cased(c)) return false;
    for (i = at + 2; i < s->n;) {
        i += (size_t)tl__utf8_at(b + i, &c);
        if (!case_ignorable(c)) return !cased(c);
    }
    return true;
}

void tl__text_case(tl_text *t, const tl_string *s, size_t from, size_t to, tl_case to_case) {
    for (size_t i = from; i < to;) {
        uint32_t c, form[3];
        bool data = s->data && s->data[i];
        int width = tl__utf8_at((const uint8_t *)s->bytes + i, &c);
        if (c == 0x3A3 && to_case == TL_CASE_LOWER) {
            tl__text_char(t, final_sigma(s, i) ? 0x3C2 : 0x3C3, data);
        } else {
            int n = tl__char_case(c, to_case, form);
            for (int k = 0; k < n; k++) tl__text_char(t, form[k], data);
        }
        i += (size_t)width;
    }
}
