/* pretokenize.c — owns the walk through the pre-tokenizers, piece by piece and depth first, so that what is held is one
 * piece a step; promises the pieces of the `tokenizers` library. */
#include "text/pretokenize.h"

uint32_t tl__byte_char(uint8_t byte) {
    if ((byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE) return byte;
    if (byte <= 0x20) return 0x100u + byte;
    if (byte <= 0xA0) return 0x121u + (byte - 0x7Fu);
    return 0x143; /* 0xAD */
}

int tl__char_byte(uint32_t c) {
    if ((c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF)) return (int)c;
    if (c >= 0x100 && c <= 0x120) return (int)(c - 0x100);
    if (c >= 0x121 && c <= 0x142) return (int)(c - 0x121 + 0x7F);
    return c == 0x143 ? 0xAD : -1;
}

void tl__pre_free(tl_pre *step) {
    tl__pattern_free(step->pattern);
    *step = (tl_pre){0};
}

typedef struct walker {
    const tl_pre *steps;
    int n_steps;
    tl_textbuf *buffers;
    tl_piece_taker *take;
    void *user;
} walker;

static bool walk(const walker *w, int level, const uint8_t *s, size_t n, bool first);

/* Matches and what lies between them arrive in order; pieces leave as a behaviour joins them. */
typedef struct joiner {
    const walker *w;
    int level;
    const uint8_t *s;
    bool first;
    const tl_pre *step;
    size_t from, to; /* the piece that may still grow */
    bool some, match;
} joiner;

static bool leave(joiner *j, size_t from, size_t to) {
    return walk(j->w, j->level + 1, j->s + from, to - from, j->first && from == 0);
}

static bool arrive(joiner *j, size_t from, size_t to, bool is_match) {
    bool match = is_match != j->step->invert, grows = false;
    switch (j->step->behavior) {
    case TL_REMOVED:
        return match || leave(j, from, to);
    case TL_ISOLATED:
        return leave(j, from, to);
    case TL_CONTIGUOUS:
        grows = j->some && j->match == match;
        break;
    case TL_MERGED_WITH_PREVIOUS:
        grows = j->some && match && !j->match;
        break;
    case TL_MERGED_WITH_NEXT:
        grows = j->some && j->match && !match;
        break;
    }
    if (grows) {
        j->to = to;
    } else {
        if (j->some && !leave(j, j->from, j->to)) return false;
        j->from = from, j->to = to, j->some = true;
    }
    j->match = match;
    return true;
}

static bool walk_split(const walker *w, int level, const uint8_t *s, size_t n, bool first) {
    const tl_pre *step = &w->steps[level];
    joiner j = {.w = w, .level = level, .s = s, .first = first, .step = step};
    size_t done = 0, at = 0, last_end = SIZE_MAX, from, to;
    while (tl__pattern_next(step->pattern, s, n, &at, &last_end, &from, &to)) {
        if (from > done && !arrive(&j, done, from, false)) return false;
        if (!arrive(&j, from, to, true)) return false;
        done = to;
    }
    if (done < n && !arrive(&j, done, n, false)) return false;
    return !j.some || leave(&j, j.from, j.to);
}

static bool walk_words(const walker *w, int level, const uint8_t *s, size_t n, bool first) {
    size_t from = 0;
    int kind = 0; /* of the run since from: 0 white space, 1 word, 2 the rest */
    for (size_t at = 0; at <= n;) {
        uint32_t c = 0;
        int width = at < n ? tl__utf8_at(s + at, &c) : 1;
        int next = at == n                             ? -1
                   : tl__char_in(TL_SET_WORD_CHAR, c) ? 1
                   : tl__char_in(TL_SET_SPACE, c)     ? 0
                                                      : 2;
        if (next != kind) {
            if (kind && !walk(w, level + 1, s + from, at - from, first && from == 0)) return false;
            from = at;
            kind = next;
        }
        at += (size_t)width;
    }
    return true;
}

static bool walk_metaspace(const walker *w, int level, const uint8_t *s, size_t n, bool first) {
    const tl_pre *step = &w->steps[level];
    tl_textbuf *b = &w->buffers[level];
    size_t mark_n;
    bool regex;
    const char *mark = tl__pattern_source(step->pattern, &mark_n, &regex);
    b->n = 0;
    tl__textbuf_reserve(b, n + n / 4 + 16);
    bool begins = s[0] == ' ' || (n >= mark_n && memcmp(s, mark, mark_n) == 0);
    if (!begins && (step->prepend == TL_PREPEND_ALWAYS || (step->prepend == TL_PREPEND_FIRST && first)))
        tl__textbuf_add(b, mark, mark_n);
    for (size_t at = 0; at < n;) {
        const uint8_t *space = memchr(s + at, ' ', n - at);
        size_t to = space ? (size_t)(space - s) : n;
        tl__textbuf_add(b, s + at, to - at);
        if (space) tl__textbuf_add(b, mark, mark_n);
        at = to + (space != NULL);
    }
    if (b->failed) return false;
    const uint8_t *text = (const uint8_t *)b->bytes;
    if (step->cut) return walk_split(w, level, text, b->n, first);
    return walk(w, level + 1, text, b->n, first);
}

static bool walk(const walker *w, int level, const uint8_t *s, size_t n, bool first) {
    if (n == 0) return true;
    if (level == w->n_steps) return w->take(w->user, s, n);
    const tl_pre *step = &w->steps[level];
    tl_textbuf *b = &w->buffers[level];
    switch (step->kind) {
    case TL_PRE_SCAN:
        for (size_t at = 0; at < n;) {
            size_t end = tl__split_next(step->split, s, n, at);
            if (!walk(w, level + 1, s + at, end - at, first && at == 0)) return false;
            at = end;
        }
        return true;
    case TL_PRE_SPLIT:
        return walk_split(w, level, s, n, first);
    case TL_PRE_WORDS:
        return walk_words(w, level, s, n, first);
    case TL_PRE_METASPACE:
        return walk_metaspace(w, level, s, n, first);
    case TL_PRE_PREFIX_SPACE:
        if (s[0] == ' ') return walk(w, level + 1, s, n, first);
        b->n = 0;
        tl__textbuf_add(b, " ", 1);
        tl__textbuf_add(b, s, n);
        return !b->failed && walk(w, level + 1, (const uint8_t *)b->bytes, b->n, first);
    case TL_PRE_BYTES:
        b->n = 0;
        for (size_t i = 0; i < n; i++) tl__textbuf_add_char(b, tl__byte_char(s[i]));
        return !b->failed && walk(w, level + 1, (const uint8_t *)b->bytes, b->n, first);
    }
    return true;
}

bool tl__pretokenize(const tl_pre *steps, int n_steps, tl_textbuf *buffers, const uint8_t *s, size_t n, bool first,
                     tl_piece_taker *take, void *user) {
    walker w = {steps, n_steps, buffers, take, user};
    return walk(&w, 0, s, n, first);
}
