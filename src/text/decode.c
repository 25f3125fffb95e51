/* decode.c — owns the way from ids to text, one id at a time; promises that what it hands out is valid UTF-8 and that
 * no character is split between two pushes.
 *
 * What a token becomes is worked out when a tokenizer opens, step by step as in the `tokenizers` library; only what
 * depends on a token's place (the first one's marks, white space at the beginning) is done on the way. The library
 * replaces every byte of a row of byte tokens if the whole row is not UTF-8; here, where characters leave as they are
 * complete, only those that belong to none. */
#include <string.h>

#include "text/bpe.h"

void tl__decode_free(tl_decode *step) {
    tl__pattern_free(step->pattern);
    free(step->text);
    *step = (tl_decode){0};
}

static bool uses(const tl_tokenizer *tok, tl_decode_kind kind) {
    for (int i = 0; i < tok->n_decode; i++)
        if (tok->decode[i].kind == kind) return true;
    return false;
}

static void replace(tl_textbuf *text, tl_textbuf *spare, const tl_pattern *pattern, const char *by, size_t by_n) {
    size_t done = 0, at = 0, last_end = SIZE_MAX, from, to;
    const uint8_t *s = (const uint8_t *)text->bytes;
    if (!tl__pattern_find(pattern, s, text->n, 0, &from, &to)) return;
    spare->n = 0;
    while (tl__pattern_next(pattern, s, text->n, &at, &last_end, &from, &to)) {
        tl__textbuf_add(spare, text->bytes + done, from - done);
        tl__textbuf_add(spare, by, by_n);
        done = to;
    }
    tl__textbuf_add(spare, text->bytes + done, text->n - done);
    tl_textbuf other = *text;
    *text = *spare;
    *spare = other;
}

static void strip(tl_textbuf *text, const tl_decode *step) {
    int left = step->left, right = step->right;
    size_t n = step->text_n, from = 0;
    for (; left > 0 && text->n - from >= n && memcmp(text->bytes + from, step->text, n) == 0; left--) from += n;
    for (; right > 0 && text->n - from >= n && memcmp(text->bytes + text->n - n, step->text, n) == 0; right--) text->n -= n;
    memmove(text->bytes, text->bytes + from, text->n -= from);
}

static void spelled_bytes(tl_textbuf *text) {
    size_t o = 0;
    for (size_t pass = 0; pass < 2; pass++) { /* all of it, or none */
        for (size_t at = 0; at < text->n;) {
            uint32_t c;
            at += (size_t)tl__utf8_at((const uint8_t *)text->bytes + at, &c);
            int byte = tl__char_byte(c);
            if (byte < 0) return;
            if (pass) text->bytes[o++] = (char)byte;
        }
    }
    text->n = o;
}

/* "<0xE2>": the byte; −1: another token. */
static int fallback_byte(const char *s, size_t n) {
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        const char *digits = "0123456789abcdef", *at = s[i] ? strchr(digits, s[i] >= 'A' && s[i] <= 'F' ? s[i] + 32 : s[i]) : NULL;
        if (!at) return -1;
        value = value * 16 + (int)(at - digits);
    }
    return value;
}

/* What decoding starts from: a token's text, or an added one's that is matched. */
typedef struct span {
    uint32_t at, n;
} span;

/* It goes through the steps, into text; *byte: it is one by byte fallback. */
static void token_text(const tl_tokenizer *tok, span from, bool added, bool first, tl_textbuf *text, tl_textbuf *spare,
                       bool *byte) {
    *byte = false;
    text->n = 0;
    tl__textbuf_add(text, tok->text + from.at, from.n);
    for (int i = 0; i < tok->n_decode && !text->failed && !spare->failed; i++) {
        const tl_decode *step = &tok->decode[i];
        switch (step->kind) {
        case TL_DECODE_BYTE_LEVEL:
            if (!added) spelled_bytes(text); /* an added token is its text */
            break;
        case TL_DECODE_REPLACE:
            replace(text, spare, step->pattern, step->text, step->text_n);
            break;
        case TL_DECODE_METASPACE:
            replace(text, spare, step->pattern, " ", step->strip && first ? 0 : 1);
            break;
        case TL_DECODE_BYTE_FALLBACK: {
            int value = fallback_byte(text->bytes, text->n);
            if (value >= 0) *byte = true, text->bytes[0] = (char)value, text->n = 1;
            break;
        }
        case TL_DECODE_STRIP:
            strip(text, step);
            break;
        case TL_DECODE_FUSE:
            return; /* what follows works on the whole text */
        }
    }
}

/* The bytes without which a token passes all steps as it is: most tokens have none of them. */
static void find_watched(const tl_tokenizer *tok, bool watched[256]) {
    for (int i = 0; i < tok->n_decode; i++) {
        const tl_decode *step = &tok->decode[i];
        size_t n;
        bool regex;
        const uint8_t *source = step->pattern ? (const uint8_t *)tl__pattern_source(step->pattern, &n, &regex) : NULL;
        if (step->kind == TL_DECODE_FUSE) return;
        for (int byte = 0; byte < 256; byte++)
            watched[byte] |= step->kind == TL_DECODE_STRIP || (step->kind == TL_DECODE_BYTE_LEVEL && byte >= 0x80) ||
                             (step->kind == TL_DECODE_BYTE_FALLBACK && byte == '<') ||
                             (source && (regex || byte == source[0]));
    }
}

/* What decoding makes of a token: *at, *n, which hold what it would be taken for. false: no memory. */
static bool keep_text(tl_tokenizer *tok, tl_token *t, span from, bool first, tl_textbuf *text, tl_textbuf *spare,
                      uint32_t *at, uint32_t *n) {
    spare->n = 0;
    token_text(tok, from, t->added, first, text, spare, &t->byte);
    if (text->failed || spare->failed) return false;
    if (text->n == *n && (*n == 0 || memcmp(text->bytes, tok->text + *at, *n) == 0)) return true;
    const int64_t place = tl__bpe_keep(tok, text->n ? text->bytes : "", text->n);
    if (place < 0) return false;
    *at = (uint32_t)place, *n = (uint32_t)text->n;
    return true;
}

/* Most vocabularies of marks have one step that matters: the mark becomes a space. What is short and no byte of fallback
 * goes through it without a buffer. */
typedef struct mark {
    const uint8_t *bytes; /* [n]; NULL: there are other steps */
    size_t n;
    char by;
} mark;

enum { SHORT_BYTES = 128 };

static mark only_mark(const tl_tokenizer *tok) {
    mark m = {0};
    bool regex;
    for (int i = 0; i < tok->n_decode && tok->decode[i].kind != TL_DECODE_FUSE; i++) {
        const tl_decode *step = &tok->decode[i];
        if (i > 0 && step->kind == TL_DECODE_BYTE_FALLBACK) continue;
        if (i > 0 || step->kind != TL_DECODE_REPLACE) return (mark){0};
        m.bytes = (const uint8_t *)tl__pattern_source(step->pattern, &m.n, &regex);
        if (regex || m.n == 0 || step->text_n != 1 || step->text[0] == '<') return (mark){0};
        m.by = step->text[0];
    }
    return m;
}

static bool is_here(const mark *m, const uint8_t *s, size_t n) {
    size_t i = 0;
    while (i < m->n && i < n && s[i] == m->bytes[i]) i++;
    return i == m->n;
}

/* false: no memory. */
static bool keep_unmarked(tl_tokenizer *tok, tl_token *t, span from, const mark *m) {
    const uint8_t *s = (const uint8_t *)tok->text + from.at, begins = m->bytes[0];
    char out[SHORT_BYTES];
    size_t n = 0;
    for (size_t i = 0; i < from.n;) {
        const bool here = s[i] == begins && is_here(m, s + i, from.n - i);
        out[n++] = here ? m->by : (char)s[i];
        i += here ? m->n : 1;
    }
    if (n == t->bytes_n && memcmp(out, tok->text + t->bytes_at, n) == 0) return true;
    const int64_t place = tl__bpe_keep(tok, out, n);
    if (place < 0) return false;
    t->bytes_at = (uint32_t)place, t->bytes_n = (uint32_t)n;
    return true;
}

typedef struct finishing {
    bool watched[256], marked;
    mark only;
    tl_textbuf text, spare;
    size_t most; /* bytes of all texts */
} finishing;

/* A token's bytes; false: no memory. */
static bool finish_token(tl_tokenizer *tok, tl_token *t, span from, finishing *f) {
    const uint8_t *s = (const uint8_t *)tok->text + from.at;
    uint32_t passed = 0;
    bool kept = true;
    while (passed < from.n && !f->watched[s[passed]]) passed++;
    const bool changes = passed < from.n || from.at != t->text_at;
    if (changes && f->only.bytes && from.n <= SHORT_BYTES && from.n > 0 && s[0] != '<') {
        kept = keep_unmarked(tok, t, from, &f->only);
    } else if (changes) {
        f->text.most = f->spare.most = tl__textbuf_most(from.n);
        if (tok->text_used > f->most) f->text.failed = true;
        kept = keep_text(tok, t, from, false, &f->text, &f->spare, &t->bytes_at, &t->bytes_n);
    }
    t->first_at = t->bytes_at, t->first_n = t->bytes_n;
    if (changes && kept && f->marked)
        kept = keep_text(tok, t, from, true, &f->text, &f->spare, &t->first_at, &t->first_n);
    const uint32_t longer = t->bytes_n > t->first_n ? t->bytes_n : t->first_n;
    if (longer > tok->longest_bytes) tok->longest_bytes = longer;
    return kept;
}

int tl__decode_finish(tl_tokenizer *tok, const char *where, tl_error *err) {
    bool fused = false, bytes = false, kept = true;
    for (int i = 0; i < tok->n_decode; i++) {
        const tl_decode *step = &tok->decode[i];
        bool can = !fused || (step->kind == TL_DECODE_STRIP && step->right == 0 && i == tok->n_decode - 1);
        can = can && (!bytes || step->kind == TL_DECODE_FUSE || step->kind == TL_DECODE_STRIP);
        if (!can)
            return tl__fail(err, TL_EUNSUPPORTED,
                            "%s: decoder step %d works on what the steps before it have joined, which is not supported; a "
                            "Strip at the beginning after Fuse is",
                            where, i + 1);
        fused |= step->kind == TL_DECODE_FUSE;
        bytes |= step->kind == TL_DECODE_BYTE_FALLBACK;
    }
    finishing f = {.marked = uses(tok, TL_DECODE_METASPACE), .only = only_mark(tok), .most = tl__textbuf_most(tok->text_used)};
    find_watched(tok, f.watched);
    for (int id = 0; id < tok->vocab && kept; id++) {
        tl_token *t = &tok->token[id];
        if (t->present && !t->added) kept = finish_token(tok, t, (span){t->text_at, t->text_n}, &f);
    }
    for (int i = 0; i < tok->n_added && kept; i++) { /* as the library has it: by what is matched */
        const tl_added *a = &tok->added[i];
        kept = finish_token(tok, &tok->token[a->id], (span){a->key_at, a->key_n}, &f);
    }
    free(f.text.bytes);
    free(f.spare.bytes);
    if (kept) return 0;
    return tl__fail(err, TL_ENOMEM, "%s: not enough memory for what the decoder makes of %d tokens", where, tok->vocab);
}

size_t tl__tokenizer_decode_room(const tl_tokenizer *tok) {
    return 3 * tok->longest_bytes + 16; /* every byte may be wrong and become the three of U+FFFD, those held back too */
}

static size_t put_replacement(char *out, int n) {
    for (int i = 0; i < n; i++) memcpy(out + 3 * i, "\xEF\xBF\xBD", 3);
    return 3 * (size_t)n;
}

/* Moves what is whole in in[0, n) to out, repaired; what could be the beginning of a character stays in d. */
static size_t flow(tl_decoder *d, const uint8_t *in, size_t n, char *out) {
    size_t at = 0, o = 0;
    while (at < n) {
        int skip;
        bool partial;
        int width = tl__utf8_check(in + at, n - at, &skip, &partial);
        if (width) {
            memcpy(out + o, in + at, (size_t)width);
            o += (size_t)width, at += (size_t)width;
        } else if (partial) {
            d->n = (int)(n - at); /* at most 3 */
            memcpy(d->held, in + at, n - at);
            return o;
        } else {
            o += put_replacement(out + o, d->bytewise ? skip : 1);
            at += (size_t)skip;
        }
    }
    return o;
}

/* What a Strip on the whole takes from its beginning. */
static size_t strip_beginning(const tl_tokenizer *tok, tl_decoder *d, char *out, size_t n) {
    const tl_decode *last = tok->n_decode ? &tok->decode[tok->n_decode - 1] : NULL;
    if (!last || last->kind != TL_DECODE_STRIP || !uses(tok, TL_DECODE_FUSE)) d->begun = true;
    while (!d->begun && n > 0) {
        bool strips = d->stripped < last->left && last->text_n <= n && memcmp(out, last->text, last->text_n) == 0;
        d->begun = !strips;
        if (!strips) break;
        d->stripped++;
        n -= last->text_n;
        memmove(out, out + last->text_n, n);
    }
    return n;
}

size_t tl__decoder_push(const tl_tokenizer *tok, tl_decoder *d, int32_t id, bool skip_special, char *out) {
    if (skip_special && tl__tokenizer_is_special(tok, id)) return 0;
    if (id < 0 || id >= tok->vocab || !tok->token[id].present) return 0;
    const tl_token *t = &tok->token[id];
    const uint8_t *bytes = (const uint8_t *)tok->text + (d->some ? t->bytes_at : t->first_at);
    const size_t n = d->some ? t->bytes_n : t->first_n;
    d->some = true;
    d->bytewise = uses(tok, TL_DECODE_BYTE_FALLBACK);
    size_t o = 0, used = 0;
    /* Bytes of fallback make characters among themselves only. */
    if (d->bytewise && !t->byte && d->n > 0) o += tl__decoder_finish(d, out);
    /* First, complete or give up what was held back: with at most 4 bytes it is decided. */
    while (d->n > 0 && used < n) {
        uint8_t head[8];
        size_t held = (size_t)d->n;
        memcpy(head, d->held, held);
        head[held] = bytes[used++];
        d->n = 0;
        o += flow(d, head, held + 1, out + o);
    }
    o += flow(d, bytes + used, n - used, out + o);
    return d->begun ? o : strip_beginning(tok, d, out, o);
}

size_t tl__decoder_finish(tl_decoder *d, char *out) {
    size_t o = d->n > 0 ? put_replacement(out, d->bytewise ? d->n : 1) : 0; /* held back is one maximal subpart */
    d->n = 0;
    return o;
}
