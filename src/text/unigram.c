/* unigram.c — owns the unigram model: a trie of its tokens and the best sum of scores over a piece (Kudo 2018); promises
 * the ids of `tokenizers`, ties and double sums included. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "text/bpe.h"

static inline size_t slot_of(const tl_tokenizer *tok, uint64_t edge) {
    size_t mask = tok->trie_size - 1;
    size_t at = (edge * 0x9E3779B97F4A7C15u) >> 20 & mask;
    while (tok->trie[at].edge && tok->trie[at].edge != edge) at = (at + 1) & mask;
    return at;
}

static bool make_room(tl_tokenizer *tok) {
    if (2 * (tok->trie_used + 1) <= tok->trie_size) return true;
    size_t old_size = tok->trie_size, size = old_size ? 2 * old_size : 1 << 12;
    struct tl_trie_slot *old = tok->trie;
    tok->trie = calloc(size, sizeof *tok->trie);
    if (!tok->trie) {
        tok->trie = old;
        return false;
    }
    tok->trie_size = size;
    for (size_t i = 0; i < old_size; i++)
        if (old[i].edge) tok->trie[slot_of(tok, old[i].edge)] = old[i];
    free(old);
    return true;
}

int tl__unigram_finish(tl_tokenizer *tok, const char *where, tl_error *err) {
    double least = DBL_MAX;
    for (int id = 0; id < tok->vocab; id++) {
        const tl_token *t = &tok->token[id];
        if (!t->model) continue;
        if (!t->unused && tok->score[id] < least) least = tok->score[id];
        uint64_t node = 0;
        for (uint32_t i = 0; i < t->text_n; i++) {
            if (!make_room(tok))
                return tl__fail(err, TL_ENOMEM, "%s: not enough memory for the trie of %d tokens", where, tok->vocab);
            uint64_t edge = (node << 8 | (uint8_t)tok->text[t->text_at + i]) + 1;
            struct tl_trie_slot *slot = &tok->trie[slot_of(tok, edge)];
            if (!slot->edge) {
                slot->edge = edge;
                slot->node = (uint32_t)++tok->trie_used;
            }
            node = slot->node;
            if (i + 1 == t->text_n) slot->id = (uint32_t)id + 1;
        }
    }
    if (!make_room(tok)) return tl__fail(err, TL_ENOMEM, "%s: not enough memory for the trie", where);
    tok->unk_score = (least < DBL_MAX ? least : 0) - TL_UNKNOWN_PENALTY;
    return 0;
}

/* The best path to the end of a prefix: its sum, where its last token starts and which it is; start −1: none yet. */
typedef struct best {
    double sum;
    int32_t start, id;
} best;

/* A token of the path, or several unknown ones in a row. */
static void put_piece(const tl_tokenizer *tok, const uint8_t *s, size_t n, int32_t id, void (*put)(void *, int32_t),
                      void *user) {
    if (id == tok->unk) { /* a token's text may be that of unknown characters together */
        id = tl__bpe_find(tok, (const char *)s, n);
        if (id >= 0 && !tok->token[id].model) id = -1;
    }
    if (id >= 0) {
        put(user, id);
        return;
    }
    bool spelled = tok->byte_fallback;
    for (size_t i = 0; i < n && spelled; i++) spelled = tok->byte_id[s[i]] >= 0;
    if (spelled)
        for (size_t i = 0; i < n; i++) put(user, tok->byte_id[s[i]]);
    else if (tok->unk >= 0) put(user, tok->unk);
}

bool tl__unigram_encode(const tl_tokenizer *tok, const uint8_t *s, size_t n, tl_textbuf *room,
                        void (*put)(void *user, int32_t id), void *user) {
    if (n >= INT32_MAX / 2) return false;
    room->n = 0;
    if (!tl__textbuf_reserve(room, (n + 1) * sizeof(best))) return false;
    best *ends = (best *)(void *)room->bytes;
    for (size_t i = 0; i <= n; i++) ends[i] = (best){0, -1, -1};
    for (size_t at = 0; at < n;) {
        uint32_t c;
        size_t width = (size_t)tl__utf8_at(s + at, &c);
        bool single = false;
        uint64_t node = 0;
        for (size_t i = at; i < n; i++) {
            const struct tl_trie_slot *slot = &tok->trie[slot_of(tok, (node << 8 | s[i]) + 1)];
            if (!slot->edge) break;
            node = slot->node;
            if (!slot->id) continue;
            double sum = tok->score[slot->id - 1] + ends[at].sum;
            best *end = &ends[i + 1];
            if (end->start < 0 || sum > end->sum) *end = (best){sum, (int32_t)at, (int32_t)slot->id - 1};
            single |= i + 1 - at == width;
        }
        if (!single) {
            double sum = tok->unk_score + ends[at].sum;
            best *end = &ends[at + width];
            if (end->start < 0 || sum > end->sum) *end = (best){sum, (int32_t)at, tok->unk};
        }
        at += width;
    }
    /* The path is found from its end: turn it around in place, each end then names the next one. */
    int32_t next = -1;
    for (int32_t at = (int32_t)n;;) {
        int32_t start = at ? ends[at].start : -1;
        ends[at].start = next;
        next = at;
        if (at == 0) break;
        at = start;
    }
    for (int32_t at = 0; at < (int32_t)n;) {
        int32_t to = ends[at].start, id = ends[to].id;
        while (id == tok->unk && tok->fuse_unk && to < (int32_t)n && ends[ends[to].start].id == tok->unk) to = ends[to].start;
        put_piece(tok, s + at, (size_t)(to - at), id, put, user);
        at = to;
    }
    return true;
}
