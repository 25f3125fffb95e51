/* page.c — owns the page buffer, its escaping, and how numbers read on it. */
#include "observe/page.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool reserve(tl_page *page, size_t more) {
    if (page->failed) return false;
    if (page->used + more < page->size) return true;
    size_t size = page->size ? page->size : 1 << 16;
    while (size <= page->used + more) size *= 2;
    char *bytes = realloc(page->bytes, size);
    if (!bytes) {
        page->failed = true;
        return false;
    }
    page->bytes = bytes;
    page->size = size;
    return true;
}

void tl__page_put(tl_page *page, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n > 0 && reserve(page, (size_t)n)) {
        vsnprintf(page->bytes + page->used, (size_t)n + 1, format, again);
        page->used += (size_t)n;
    }
    va_end(again);
}

static void put_bytes(tl_page *page, const char *bytes, size_t n) {
    if (!reserve(page, n)) return;
    memcpy(page->bytes + page->used, bytes, n);
    page->used += n;
    page->bytes[page->used] = 0;
}

/* The code point at text[0 … n) and its length; length 0: not UTF-8 (overlong, surrogate, cut short …). */
static uint32_t decode(const unsigned char *t, size_t n, size_t *length) {
    *length = 0;
    if (t[0] < 0x80) return *length = 1, t[0];
    size_t want = t[0] >= 0xf0 ? 4 : t[0] >= 0xe0 ? 3 : 2;
    if (t[0] < 0xc2 || t[0] > 0xf4 || want > n) return 0;
    uint32_t c = t[0] & (0xffu >> (want + 1));
    for (size_t i = 1; i < want; i++) {
        if ((t[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (t[i] & 0x3f);
    }
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (c < least[want] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return 0;
    *length = want;
    return c;
}

void tl__page_text(tl_page *page, const char *text, size_t bytes) {
    static const char replacement[] = "\xef\xbf\xbd";
    const unsigned char *t = (const unsigned char *)text;
    for (size_t i = 0; i < bytes;) {
        size_t length;
        uint32_t c = decode(t + i, bytes - i, &length);
        const char *as = NULL;
        switch (c) {
        case '&':
            as = "&amp;";
            break;
        case '<':
            as = "&lt;";
            break;
        case '>':
            as = "&gt;";
            break;
        case '"':
            as = "&quot;";
            break;
        case '\'':
            as = "&#39;";
            break;
        default:
            if (length == 0) as = replacement, length = 1;
            else if ((c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7f && c < 0xa0)) as = replacement;
            else if ((c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069)) as = replacement;
        }
        if (as) put_bytes(page, as, strlen(as));
        else put_bytes(page, text + i, length);
        i += length;
    }
}

void tl__page_free(tl_page *page) {
    free(page->bytes);
    *page = (tl_page){0};
}

/* Three significant digits of 1 ≤ |x| < 1000. */
static int decimals(double x) {
    return fabs(x) < 9.995 ? 2 : fabs(x) < 99.95 ? 1 : 0;
}

static void form_scaled(char out[32], double x, const char *unit) {
    static const char *const prefixes[] = {"", "k", "M", "G", "T", "P", "E"};
    size_t p = 0;
    while (fabs(x) >= 999.5 && p + 1 < sizeof prefixes / sizeof *prefixes) x /= 1000, p++;
    if (fabs(x) >= 999.5) snprintf(out, 32, "%.3g %s%s", x, prefixes[p], unit);
    else
        snprintf(out, 32, "%.*f%s%s%s", p == 0 && x == floor(x) ? 0 : decimals(x), x, p || *unit ? "\u00a0" : "",
                 prefixes[p], unit);
}

static void form_count(char out[32], double x) {
    if (fabs(x) >= 999999.5) form_scaled(out, x, "");
    else if (fabs(x) >= 999.5)
        snprintf(out, 32, "%d,%03d", (int)(x < 0 ? x - 0.5 : x + 0.5) / 1000,
                 abs((int)(x < 0 ? x - 0.5 : x + 0.5)) % 1000);
    else snprintf(out, 32, "%.*f", x == floor(x) ? 0 : decimals(x), x);
}

static void form_seconds(char out[32], double x) {
    if (x < 0) x = 0;
    if (x < 0.9995e-3) snprintf(out, 32, "%.*f\u00a0\u00b5s", decimals(x * 1e6), x * 1e6);
    else if (x < 0.9995) snprintf(out, 32, "%.*f\u00a0ms", decimals(x * 1e3), x * 1e3);
    else if (x < 59.95) snprintf(out, 32, "%.1f\u00a0s", x);
    else if (x < 3599.5) snprintf(out, 32, "%d\u00a0min %d\u00a0s", (int)(x + 0.5) / 60, (int)(x + 0.5) % 60);
    else if (x < 172800)
        snprintf(out, 32, "%d\u00a0h %02d\u00a0min", (int)(x / 60 + 0.5) / 60, (int)(x / 60 + 0.5) % 60);
    else if (x < 1e9) snprintf(out, 32, "%.1f\u00a0days", x / 86400);
    else snprintf(out, 32, "%.3g\u00a0s", x);
}

const char *tl__form(char out[32], tl_form form, double x) {
    if (!isfinite(x)) snprintf(out, 32, "\u2013");
    else if (form == TL_FORM_COUNT) form_count(out, x);
    else if (form == TL_FORM_BYTES) form_scaled(out, x, "B");
    else if (form == TL_FORM_SECONDS) form_seconds(out, x);
    else if (form == TL_FORM_PERCENT) {
        if (fabs(x) < 10) snprintf(out, 32, "%.1f\u00a0%%", x * 100);
        else snprintf(out, 32, "%.3g\u00a0%%", x * 100);
    } else if (x != 0 && (fabs(x) < 1e-4 || fabs(x) >= 1e6)) snprintf(out, 32, "%.3g", x);
    else snprintf(out, 32, "%.*f", fabs(x) < 0.01 ? 5 : fabs(x) < 0.1 ? 4 : fabs(x) < 100 ? 3 : 1, x);
    return out;
}
