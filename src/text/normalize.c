/* normalize.c — owns the normalisers; promises the texts of the `tokenizers` library.
 *
 * Decompositions are utf8proc's, character by character; what it knows and the library's older tables do not is held
 * back by two pinned sets. Order and composition are Unicode's algorithm (Unicode 16, 3.11) over them. */
#include "text/normalize.h"

#include <utf8proc.h>

void tl__norm_free(tl_norm *step) {
    tl__pattern_free(step->pattern);
    tl__charsmap_free(step->map);
    free(step->text);
    *step = (tl_norm){0};
}

bool tl__norm_keeps_ascii(const tl_norm *step) {
    return step->kind <= TL_NORM_STRIP_ACCENTS;
}

/* ---- NFC, NFD, NFKC, NFKD ---- */

static int class_of(uint32_t c) {
    int class = c < 0x300 ? 0 : utf8proc_get_property((utf8proc_int32_t)c)->combining_class;
    return class && tl__char_in(TL_SET_STARTER, c) ? 0 : class;
}

/* Two characters as one, 0: they do not compose. */
static uint32_t composed(uint32_t a, uint32_t b) {
    if (b < 0x300) return 0;   /* nothing composes with what lies below */
    if (b == 0x11A7) return 0; /* TBase, which is no trailing consonant (Unicode 16, §3.12.1): utf8proc 2.8 would swallow it */
    bool hangul = (a >= 0x1100 && a < 0x1113) || (a >= 0xAC00 && a < 0xD7A4);
    if (!hangul && utf8proc_get_property((utf8proc_int32_t)b)->comb_index == UINT16_MAX) return 0;
    utf8proc_int32_t pair[2] = {(utf8proc_int32_t)a, (utf8proc_int32_t)b};
    if (utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE) != 1) return 0;
    return tl__char_in(TL_SET_UNDECOMPOSED, (uint32_t)pair[0]) ? 0 : (uint32_t)pair[0];
}

typedef struct points {
    uint32_t *c;
    size_t n, room;
    bool failed;
} points;

static void add_point(points *p, uint32_t c) {
    if (p->n == p->room) {
        size_t room = 2 * p->room + 64;
        uint32_t *bigger = realloc(p->c, room * sizeof *p->c);
        if (!bigger) {
            p->failed = true;
            return;
        }
        p->c = bigger;
        p->room = room;
    }
    p->c[p->n++] = c;
}

static void decompose(points *p, uint32_t c, bool compatible) {
    if (c < 0xA0 || tl__char_in(TL_SET_UNDECOMPOSED, c)) {
        add_point(p, c);
        return;
    }
    utf8proc_int32_t parts[64];
    int boundary = 0;
    utf8proc_ssize_t n =
        utf8proc_decompose_char((utf8proc_int32_t)c, parts, 64,
                                UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0), &boundary);
    if (n < 1 || n > 64) add_point(p, c);
    else
        for (int i = 0; i < (int)n; i++) add_point(p, (uint32_t)parts[i]);
}

/* Marks after a starter go by class, equals as they stood. Runs of marks are short in writing, and in hostile texts as
 * long as they please: merged, not inserted one by one. */
static bool sort_marks(uint32_t *c, size_t n) {
    if (n < 2) return true;
    if (n <= 32) {
        for (size_t i = 1; i < n; i++) {
            uint32_t mark = c[i];
            int class = class_of(mark);
            size_t k = i;
            for (; k > 0 && class_of(c[k - 1]) > class; k--) c[k] = c[k - 1];
            c[k] = mark;
        }
        return true;
    }
    size_t start[256] = {0}, sum = 0; /* counted by class: stable, and linear */
    uint32_t *sorted = malloc(n * sizeof *sorted);
    if (!sorted) return false;
    for (size_t i = 0; i < n; i++) start[class_of(c[i]) & 255]++;
    for (int class = 0; class < 256; class++) {
        size_t count = start[class];
        start[class] = sum;
        sum += count;
    }
    for (size_t i = 0; i < n; i++) sorted[start[class_of(c[i]) & 255]++] = c[i];
    memcpy(c, sorted, n * sizeof *sorted);
    free(sorted);
    return true;
}

static void compose(points *p) {
    size_t starter = SIZE_MAX, out = 0;
    int last = 0; /* class of the mark before, of those kept since the starter */
    for (size_t i = 0; i < p->n; i++) {
        uint32_t c = p->c[i];
        int class = class_of(c);
        bool open = starter != SIZE_MAX && (out == starter + 1 || (last != 0 && last < class));
        uint32_t made = open ? composed(p->c[starter], c) : 0;
        if (made) {
            p->c[starter] = made;
            continue;
        }
        if (class == 0) starter = out;
        last = class;
        p->c[out++] = c;
    }
    p->n = out;
}

static void normal_form(const uint8_t *s, size_t n, tl_textbuf *out, bool compatible, bool composing) {
    points p = {0};
    for (size_t at = 0; at < n;) {
        /* ASCII is in every form; only its last character can compose with what follows. */
        size_t plain = at;
        while (plain < n && s[plain] < 0x80) plain++;
        if (plain == n) {
            tl__textbuf_add(out, s + at, n - at);
            break;
        }
        size_t begin = plain > at ? plain - 1 : plain;
        tl__textbuf_add(out, s + at, begin - at);
        size_t end = begin;
        p.n = 0;
        while (end < n && !(end > begin && s[end] < 0x80)) {
            uint32_t c;
            end += (size_t)tl__utf8_at(s + end, &c);
            decompose(&p, c, compatible);
        }
        for (size_t i = 0; i < p.n;) {
            size_t marks = i;
            while (marks < p.n && class_of(p.c[marks]) != 0) marks++;
            if (!sort_marks(p.c + i, marks - i)) p.failed = true;
            i = marks + 1;
        }
        if (composing) compose(&p);
        for (size_t i = 0; i < p.n; i++) tl__textbuf_add_char(out, p.c[i]);
        at = end;
    }
    out->failed |= p.failed;
    free(p.c);
}

/* ---- the others ---- */

static void lower_case(const uint8_t *s, size_t n, tl_textbuf *out) {
    for (size_t at = 0; at < n;) {
        uint32_t c, lower[2];
        at += (size_t)tl__utf8_at(s + at, &c);
        int count = tl__char_lower(c, lower);
        for (int i = 0; i < count; i++) tl__textbuf_add_char(out, lower[i]);
    }
}

static void strip_accents(const uint8_t *s, size_t n, tl_textbuf *out, bool *kept) {
    for (size_t at = 0; at < n;) {
        uint32_t c;
        int width = tl__utf8_at(s + at, &c);
        if (c < 0x300 || !tl__char_in(TL_SET_ACCENT, c)) tl__textbuf_add(out, s + at, (size_t)width);
        else if (out->n == 0) *kept = false;
        at += (size_t)width;
    }
}

static void replace(const tl_norm *step, const uint8_t *s, size_t n, tl_textbuf *out, bool *kept) {
    size_t done = 0, at = 0, last_end = SIZE_MAX, from, to;
    while (tl__pattern_next(step->pattern, s, n, &at, &last_end, &from, &to)) {
        tl__textbuf_add(out, s + done, from - done);
        if (from == 0 && to > 0 && step->text_n == 0) *kept = false;
        tl__textbuf_add(out, step->text, step->text_n);
        done = to;
    }
    tl__textbuf_add(out, s + done, n - done);
}

static void strip(const tl_norm *step, const uint8_t *s, size_t n, tl_textbuf *out, bool *kept) {
    size_t from = 0, to = n;
    uint32_t c;
    for (int width; step->left && from < n; from += (size_t)width) {
        width = tl__utf8_at(s + from, &c);
        if (!tl__char_in(TL_SET_SPACE, c)) break;
        *kept = false;
    }
    while (step->right && to > from) {
        size_t before = to - 1;
        while (before > from && (s[before] & 0xC0) == 0x80) before--;
        tl__utf8_at(s + before, &c);
        if (!tl__char_in(TL_SET_SPACE, c)) break;
        to = before;
    }
    tl__textbuf_add(out, s + from, to - from);
}

void tl__normalize(const tl_norm *step, const uint8_t *s, size_t n, tl_textbuf *out, bool *kept) {
    out->n = 0;
    tl__textbuf_reserve(out, n + 16);
    switch (step->kind) {
    case TL_NORM_NFC:
        normal_form(s, n, out, false, true);
        break;
    case TL_NORM_NFD:
        normal_form(s, n, out, false, false);
        break;
    case TL_NORM_NFKC:
        normal_form(s, n, out, true, true);
        break;
    case TL_NORM_NFKD:
        normal_form(s, n, out, true, false);
        break;
    case TL_NORM_LOWERCASE:
        lower_case(s, n, out);
        break;
    case TL_NORM_STRIP_ACCENTS:
        strip_accents(s, n, out, kept);
        break;
    case TL_NORM_PREPEND:
        if (n) tl__textbuf_add(out, step->text, step->text_n);
        tl__textbuf_add(out, s, n);
        break;
    case TL_NORM_REPLACE:
        replace(step, s, n, out, kept);
        break;
    case TL_NORM_STRIP:
        strip(step, s, n, out, kept);
        break;
    case TL_NORM_CHARSMAP:
        tl__charsmap_apply(step->map, s, n, out, kept);
        break;
    }
}
