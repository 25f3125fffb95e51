/* encode.c — owns the way from text to ids: added tokens found, the rest normalised, cut and given to the model piece by
 * piece; promises the ids of `tokenizers` and safety from several threads. */
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "text/encode.h"

struct tl_scratches {
    pthread_mutex_t lock;
    tl_encode_scratch *free;
};

struct tl_scratches *tl__encode_scratches_open(void) {
    struct tl_scratches *s = calloc(1, sizeof *s);
    if (s) pthread_mutex_init(&s->lock, NULL);
    return s;
}

static void scratch_free(tl_encode_scratch *scratch) {
    free(scratch->cache);
    free(scratch->symbols);
    free(scratch->heap);
    free(scratch->normal[0].bytes);
    free(scratch->normal[1].bytes);
    for (int i = 0; i < TL_STEPS_MOST; i++) free(scratch->pieces[i].bytes);
    free(scratch->spelled.bytes);
    free(scratch->lattice.bytes);
    free(scratch);
}

void tl__encode_scratches_close(struct tl_scratches *s) {
    if (!s) return;
    while (s->free) {
        tl_encode_scratch *next = s->free->next;
        scratch_free(s->free);
        s->free = next;
    }
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static tl_encode_scratch *borrow(struct tl_scratches *s) {
    pthread_mutex_lock(&s->lock);
    tl_encode_scratch *scratch = s->free;
    if (scratch) s->free = scratch->next;
    pthread_mutex_unlock(&s->lock);
    if (scratch) return scratch;
    scratch = calloc(1, sizeof *scratch);
    if (!scratch) return NULL;
    scratch->cache = calloc(CACHE_SLOTS, sizeof *scratch->cache);
    if (!scratch->cache) {
        free(scratch);
        return NULL;
    }
    return scratch;
}

static bool swollen(const tl_encode_scratch *scratch) {
    bool any = scratch->normal[0].swollen || scratch->normal[1].swollen;
    for (int i = 0; i < TL_STEPS_MOST; i++) any |= scratch->pieces[i].swollen;
    return any;
}

static void give_back(struct tl_scratches *s, tl_encode_scratch *scratch) {
    for (int i = 0; i < 2; i++) tl__textbuf_trim(&scratch->normal[i]); /* one monstrous text must not hold its memory */
    for (int i = 0; i < TL_STEPS_MOST; i++) tl__textbuf_trim(&scratch->pieces[i]);
    tl__textbuf_trim(&scratch->spelled);
    tl__textbuf_trim(&scratch->lattice);
    pthread_mutex_lock(&s->lock);
    scratch->next = s->free;
    s->free = scratch;
    pthread_mutex_unlock(&s->lock);
}

static bool take_piece(void *user, const uint8_t *s, size_t n) {
    return tl__encode_piece(user, s, n);
}

/* A text without added tokens, normalised. first: it begins the whole text. */
static bool encode_plain(tl_output *out, const uint8_t *s, size_t n, bool first) {
    const tl_tokenizer *tok = out->tok;
    if (!tok->plain)
        return tl__pretokenize(tok->pre, tok->n_pre, out->scratch->pieces, s, n, first, take_piece, out);
    for (size_t at = 0; at < n;) {
        size_t end = tl__split_next(tok->pre[0].split, s, n, at);
        if (!tl__encode_piece(out, s + at, end - at)) return false;
        at = end;
    }
    return true;
}

/* ---- added tokens ---- */

/* The longest added token of one round that starts at s[at]; its index in tok->added, −1: none. */
static int added_at(const tl_tokenizer *tok, const tl_added_index *index, const uint8_t *s, size_t n, size_t at) {
    for (int k = index->first[s[at]], end = index->first[s[at] + 1]; k < end; k = index->group_end[k]) {
        size_t length = tok->added[index->order[k]].key_n;
        if (length > n - at) continue;
        int low = k, high = index->group_end[k]; /* the first that is not less */
        while (low < high) {
            int middle = (low + high) / 2;
            if (memcmp(tok->text + tok->added[index->order[middle]].key_at, s + at, length) < 0) low = middle + 1;
            else high = middle;
        }
        if (low < index->group_end[k] && memcmp(tok->text + tok->added[index->order[low]].key_at, s + at, length) == 0)
            return index->order[low];
    }
    return -1;
}

/* The character that ends at s[at], at > 0. */
static size_t char_before(const uint8_t *s, size_t at, uint32_t *c) {
    size_t from = at - 1;
    while (from > 0 && (s[from] & 0xC0) == 0x80) from--;
    tl__utf8_at(s + from, c);
    return from;
}

static bool is_single_word(const uint8_t *s, size_t n, size_t from, size_t to) {
    uint32_t c;
    if (from > 0 && (char_before(s, from, &c), tl__char_in(TL_SET_WORD_CHAR, c))) return false;
    return to == n || (tl__utf8_at(s + to, &c), !tl__char_in(TL_SET_WORD_CHAR, c));
}

static bool encode_gap(tl_output *out, const uint8_t *s, size_t n, bool first, bool special, bool raw);

/* Cuts at added tokens, leftmost first and longest among those; in two rounds as the library does: raw ones, then, in
 * what is left and normalised, the others. A special token that is not wanted is passed over as a whole. */
static bool encode_round(tl_output *out, const uint8_t *s, size_t n, bool first, bool special, bool raw) {
    const tl_tokenizer *tok = out->tok;
    const tl_added_index *index = raw ? &tok->raw : &tok->normal;
    size_t done = 0;
    for (size_t at = 0; at < n && index->n; at++) {
        if (index->first[s[at]] == index->first[s[at] + 1]) continue;
        int found = added_at(tok, index, s, n, at);
        if (found < 0) continue;
        const tl_added *a = &tok->added[found];
        size_t from = at, to = at + a->key_n;
        at = to - 1; /* the search goes on behind it, whatever becomes of it */
        if ((a->special && !special) || (a->single_word && !is_single_word(s, n, from, to))) continue;
        uint32_t c;
        if (a->lstrip) {
            while (from > done) {
                size_t before = char_before(s, from, &c);
                if (before < done || !tl__char_in(TL_SET_SPACE, c)) break;
                from = before;
            }
        }
        for (int width; a->rstrip && to < n; to += (size_t)width) {
            width = tl__utf8_at(s + to, &c);
            if (!tl__char_in(TL_SET_SPACE, c)) break;
        }
        if (from > done && !encode_gap(out, s + done, from - done, first && done == 0, special, raw)) return false;
        tl__output_put(out, a->id);
        done = to;
    }
    return done == n || encode_gap(out, s + done, n - done, first && done == 0, special, raw);
}

/* What lies between the added tokens of a round: normalised and searched again, or encoded. */
static bool encode_gap(tl_output *out, const uint8_t *s, size_t n, bool first, bool special, bool raw) {
    const tl_tokenizer *tok = out->tok;
    if (!raw) return encode_plain(out, s, n, first);
    for (int i = 0; i < 2; i++) out->scratch->normal[i].n = 0, out->scratch->normal[i].most = tl__textbuf_most(n);
    for (int i = 0; i < tok->n_norm; i++) {
        tl_textbuf *b = &out->scratch->normal[i & 1];
        bool kept = true;
        tl__normalize(&tok->norm[i], s, n, b, &kept);
        if (b->failed) return false;
        s = (const uint8_t *)b->bytes;
        n = b->n;
        first &= kept;
    }
    return n == 0 || encode_round(out, s, n, first, special, false);
}

int64_t tl__tokenizer_encode(const tl_tokenizer *tok, const char *text, size_t n, bool special, int32_t *ids,
                             size_t cap, int64_t *replaced) {
    if (replaced) *replaced = 0;
    if (n == 0) return 0;
    char *repaired = NULL;
    if (tl__utf8_valid((const uint8_t *)text, n) < n) {
        if (n > SIZE_MAX / 3) return TL_ENOMEM;
        repaired = malloc(3 * n);
        if (!repaired) return TL_ENOMEM;
        int64_t count = 0;
        n = tl__utf8_repair(repaired, (const uint8_t *)text, n, &count);
        if (replaced) *replaced = count;
        text = repaired;
    }
    tl_output out = {.tok = tok, .scratch = borrow(tok->scratches), .ids = ids, .cap = cap};
    int status = TL_ENOMEM;
    if (out.scratch) {
        if (encode_round(&out, (const uint8_t *)text, n, true, special, true)) status = 0;
        else if (swollen(out.scratch)) status = TL_EFORMAT;
        give_back(tok->scratches, out.scratch);
    }
    free(repaired);
    return status ? status : out.n;
}

/* ---- cutting a text that is read in ranges ---- */

/* Could an added token lie across `at`? What lies beyond the end of the text is taken as if it could. */
static bool inside_added(const tl_tokenizer *tok, const uint8_t *s, size_t n, size_t at) {
    for (int i = 0; i < tok->n_added; i++) {
        const tl_added *a = &tok->added[i];
        const char *text = tok->text + a->key_at;
        for (size_t k = 1; k < a->key_n && k <= at; k++) {
            size_t length = a->key_n < n - at + k ? a->key_n : n - at + k;
            if (memcmp(s + at - k, text, length) == 0) return true;
        }
    }
    return false;
}

/* Is there always a cut between two characters of these classes? Known of scanners, and of splits by classes before
 * them, which cut at the characters themselves. */
static bool cut_between(const tl_tokenizer *tok, uint32_t before, uint32_t after) {
    for (int i = 0; i < tok->n_pre; i++)
        if (tok->pre[i].kind == TL_PRE_SCAN &&
            tl__split_always(tok->pre[i].split, tl__char_class(before), tl__char_class(after)))
            return true;
    return false;
}

/* Where nothing that the steps do depends on what lies beyond a cut. */
static bool has_cuts(const tl_tokenizer *tok) {
    for (int i = 0; i < tok->n_norm; i++)
        if (!tl__norm_keeps_ascii(&tok->norm[i])) return false;
    for (int i = 0; i < tok->n_pre; i++) {
        const tl_pre *step = &tok->pre[i];
        if (step->kind != TL_PRE_SCAN && !(step->kind == TL_PRE_SPLIT && step->name && step->behavior == TL_ISOLATED))
            return false;
    }
    for (int i = 0; i < tok->n_added; i++)
        if (tok->added[i].single_word || tok->added[i].lstrip || tok->added[i].rstrip) return false;
    return true;
}

size_t tl__tokenizer_safe_cut(const tl_tokenizer *tok, const char *text, size_t n) {
    const uint8_t *s = (const uint8_t *)text;
    if (!has_cuts(tok)) return 0;
    for (size_t at = n; at-- > 1;) {
        if ((s[at] & 0xC0) == 0x80) continue;
        /* Both characters around the place must be whole and well formed. */
        if (tl__utf8_check(s + at, n - at, NULL, NULL) == 0) continue;
        size_t from = at - 1;
        while (from > 0 && at - from < 4 && (s[from] & 0xC0) == 0x80) from--;
        if (tl__utf8_check(s + from, at - from, NULL, NULL) != (int)(at - from)) continue;
        uint32_t before_char, after_char;
        tl__utf8_at(s + from, &before_char);
        tl__utf8_at(s + at, &after_char);
        /* A normal form can join what follows an ASCII character to it, but not ASCII. */
        if (tok->n_norm && (before_char >= 0x80 || after_char >= 0x80)) continue;
        if (cut_between(tok, before_char, after_char) && !inside_added(tok, s, n, at))
            return at;
    }
    return 0;
}
