/* bpe_encode.c — owns the way from one piece of text to ids by merging; promises the ids of `tokenizers`.
 *
 * The pair of lowest rank first, leftmost among equals (Sennrich et al. 2016, algorithm 1). Words are short and few
 * forms make most of a text, so each running thread has a direct-mapped cache from a piece's bytes to its ids; short
 * words search their lowest rank by looking at all, long ones in a heap. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "text/encode.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { SMALL_WORD_MOST = 64 }; /* symbols up to which all ranks are looked at for the lowest */

/* ---- merging one pre-token ---- */

/* Ids of s[0, n), 1 ≤ n ≤ SMALL_WORD_MOST, into id[]; returns how many. */
static int merge_small(const tl_tokenizer *tok, const uint8_t *s, int n, int32_t *id) {
    int32_t rank[SMALL_WORD_MOST]; /* rank[i]: of merging id[i] with id[i+1] */
    for (int i = 0; i < n; i++) id[i] = tok->byte_id[s[i]];
    for (int i = 0; i + 1 < n; i++) rank[i] = tok->byte_pair_rank[s[i] << 8 | s[i + 1]];
    while (n > 1) {
        int best = 0;
        int32_t least = rank[0];
        for (int i = 1; i + 1 < n; i++) {
            bool less = rank[i] < least;
            best = less ? i : best;
            least = less ? rank[i] : least;
        }
        if (least == INT32_MAX) break;
        id[best] = tok->merge[least].made;
        n--;
        for (int i = best + 1; i < n; i++) id[i] = id[i + 1];
        for (int i = best; i + 1 < n; i++) rank[i] = rank[i + 1];
        if (best > 0) rank[best - 1] = tl__bpe_rank(tok, id[best - 1], id[best]);
        if (best + 1 < n) rank[best] = tl__bpe_rank(tok, id[best], id[best + 1]);
    }
    return n;
}

static inline bool before(tl_heap_item a, tl_heap_item b) {
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(tl_heap_item *heap, size_t *n, tl_heap_item item) {
    size_t i = (*n)++;
    for (; i > 0 && before(item, heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = item;
}

static tl_heap_item heap_pop(tl_heap_item *heap, size_t *n) {
    tl_heap_item top = heap[0], last = heap[--*n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < *n; i = child) {
        if (child + 1 < *n && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], last)) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

/* What two neighbours merge into: by their ids' rank, or by the score of the token that their bytes are together. */
static inline int32_t pair_rank(const tl_tokenizer *tok, const uint8_t *s, const tl_symbol *a, const tl_symbol *b,
                                int32_t *made) {
    int32_t rank;
    if (tok->model != TL_MODEL_SCORES) {
        rank = tl__bpe_rank(tok, a->id, b->id);
        *made = rank == INT32_MAX ? -1 : tok->merge[rank].made;
        return rank;
    }
    size_t n = (size_t)a->n + b->n;
    *made = n > tok->longest ? -1 : tl__bpe_find(tok, (const char *)s + a->at, n);
    return *made < 0 ? INT32_MAX : tl__bpe_score_rank(tok, *made);
}

static void push_pair(const tl_output *out, const uint8_t *s, int32_t at, size_t *heap_n) {
    const tl_symbol *left = &out->scratch->symbols[at], *right = &out->scratch->symbols[left->next];
    int32_t made, rank = pair_rank(out->tok, s, left, right, &made);
    if (rank != INT32_MAX) heap_push(out->scratch->heap, heap_n, (tl_heap_item){rank, at, made, left->n + right->n});
}

/* Room for n symbols. */
static bool long_room(tl_encode_scratch *scratch, size_t n) {
    if (n > INT32_MAX / 4) return false;
    if (n <= scratch->long_room) return true;
    free(scratch->symbols);
    free(scratch->heap);
    scratch->symbols = malloc(n * sizeof *scratch->symbols);
    scratch->heap = malloc(3 * n * sizeof *scratch->heap); /* n − 1 pairs, and at most two more a merge */
    scratch->long_room = scratch->symbols && scratch->heap ? n : 0;
    return scratch->long_room > 0;
}

/* Merges the n symbols of piece s: O(n log n). An entry whose pair has changed since is passed over. Few symbols are
 * looked at all, which is faster. */
static void merge_symbols(tl_output *out, const uint8_t *s, size_t n) {
    tl_encode_scratch *scratch = out->scratch;
    tl_symbol *symbols = scratch->symbols;
    if (n <= SMALL_WORD_MOST / 2) {
        int32_t rank[SMALL_WORD_MOST], made[SMALL_WORD_MOST];
        for (size_t i = 0; i + 1 < n; i++) rank[i] = pair_rank(out->tok, s, &symbols[i], &symbols[i + 1], &made[i]);
        while (n > 1) {
            size_t best = 0;
            for (size_t i = 1; i + 1 < n; i++)
                if (rank[i] < rank[best]) best = i;
            if (rank[best] == INT32_MAX) break;
            symbols[best].id = made[best];
            symbols[best].n += symbols[best + 1].n;
            n--;
            memmove(&symbols[best + 1], &symbols[best + 2], (n - best - 1) * sizeof *symbols);
            memmove(&rank[best], &rank[best + 1], (n - best - 1) * sizeof *rank);
            memmove(&made[best], &made[best + 1], (n - best - 1) * sizeof *made);
            if (best > 0)
                rank[best - 1] = pair_rank(out->tok, s, &symbols[best - 1], &symbols[best], &made[best - 1]);
            if (best + 1 < n) rank[best] = pair_rank(out->tok, s, &symbols[best], &symbols[best + 1], &made[best]);
        }
        for (size_t i = 0; i < n; i++) symbols[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
        return;
    }
    size_t heap_n = 0;
    for (size_t i = 0; i < n; i++) symbols[i].previous = (int32_t)i - 1, symbols[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
    for (size_t i = 0; i + 1 < n; i++) push_pair(out, s, (int32_t)i, &heap_n);
    while (heap_n) {
        tl_heap_item top = heap_pop(scratch->heap, &heap_n);
        tl_symbol *left = &symbols[top.at];
        if (left->n == 0 || left->next < 0) continue;
        tl_symbol *right = &symbols[left->next];
        if (left->n + right->n != top.n) continue;
        left->id = top.made;
        left->n += right->n;
        right->n = 0;
        left->next = right->next;
        if (left->next >= 0) symbols[left->next].previous = top.at;
        if (left->previous >= 0) push_pair(out, s, left->previous, &heap_n);
        if (left->next >= 0) push_pair(out, s, top.at, &heap_n);
    }
}

/* One monstrous word must not hold its memory for ever. */
static void trim_long(tl_encode_scratch *scratch) {
    if (scratch->long_room <= 1 << 20) return;
    free(scratch->symbols);
    free(scratch->heap);
    scratch->symbols = NULL, scratch->heap = NULL, scratch->long_room = 0;
}

/* A long piece of bytes. */
static bool merge_long(tl_output *out, const uint8_t *s, size_t n) {
    if (!long_room(out->scratch, n)) return false;
    tl_symbol *symbols = out->scratch->symbols;
    for (size_t i = 0; i < n; i++) symbols[i] = (tl_symbol){.id = out->tok->byte_id[s[i]], .at = (uint32_t)i, .n = 1};
    merge_symbols(out, s, n);
    for (int32_t i = 0; i >= 0; i = symbols[i].next) tl__output_put(out, symbols[i].id);
    trim_long(out->scratch);
    return true;
}

/* ---- pieces of characters ---- */

/* The characters of a piece as symbols; what the vocabulary lacks is spelled in bytes, becomes the unknown token or
 * vanishes. At most n symbols. With scores, unknown characters stay for a while: their neighbours may complete a
 * token. */
static size_t symbols_of(const tl_tokenizer *tok, const uint8_t *s, size_t n, tl_symbol *symbols) {
    size_t count = 0;
    tl_symbol unknown = {.n = 0}; /* waits to be joined by the next one; as in the library, bytes overtake it */
    for (size_t at = 0; at < n;) {
        uint32_t c;
        size_t width = (size_t)tl__utf8_at(s + at, &c);
        int id = tl__bpe_char(tok, c, s + at, width);
        if (id >= 0 && !tok->token[id].model) id = -1;
        if (id >= 0 || tok->model == TL_MODEL_SCORES) {
            if (unknown.n) symbols[count++] = unknown, unknown.n = 0;
            symbols[count++] = (tl_symbol){.id = id, .at = (uint32_t)at, .n = (uint32_t)width};
        } else {
            bool spelled = tok->byte_fallback;
            for (size_t i = 0; i < width && spelled; i++) spelled = tok->byte_id[s[at + i]] >= 0;
            if (spelled) {
                for (size_t i = 0; i < width; i++)
                    symbols[count++] = (tl_symbol){.id = tok->byte_id[s[at + i]], .at = (uint32_t)(at + i), .n = 1};
            } else if (tok->unk >= 0) {
                if (unknown.n && tok->fuse_unk) {
                    unknown.n += (uint32_t)width;
                } else {
                    if (unknown.n) symbols[count++] = unknown;
                    unknown = (tl_symbol){.id = tok->unk, .at = (uint32_t)at, .n = (uint32_t)width};
                }
            }
        }
        at += width;
    }
    if (unknown.n) symbols[count++] = unknown;
    return count;
}

/* A symbol that no merge made known. */
static void put_unknown(tl_output *out, const uint8_t *s, const tl_symbol *symbol) {
    const tl_tokenizer *tok = out->tok;
    bool spelled = true;
    for (uint32_t i = 0; i < symbol->n && spelled; i++) spelled = tok->byte_id[s[symbol->at + i]] >= 0;
    if (spelled)
        for (uint32_t i = 0; i < symbol->n; i++) tl__output_put(out, tok->byte_id[s[symbol->at + i]]);
    else if (tok->unk >= 0) tl__output_put(out, tok->unk);
}

static bool merge_chars(tl_output *out, const uint8_t *s, size_t n) {
    if (n > UINT32_MAX || !long_room(out->scratch, n)) return false;
    tl_symbol *symbols = out->scratch->symbols;
    size_t count = symbols_of(out->tok, s, n, symbols);
    if (count) {
        merge_symbols(out, s, count);
        for (int32_t i = 0; i >= 0; i = symbols[i].next) {
            if (symbols[i].id >= 0) tl__output_put(out, symbols[i].id);
            else put_unknown(out, s, &symbols[i]);
        }
    }
    trim_long(out->scratch);
    return true;
}

/* The whole pre-token as a token of the model, or −1. */
static int32_t whole_word(const tl_tokenizer *tok, const uint8_t *s, size_t n, uint64_t hash) {
    for (size_t at = hash & (tok->id_of_bytes_size - 1); tok->id_of_bytes[at];
         at = (at + 1) & (tok->id_of_bytes_size - 1)) {
        const tl_token *t = &tok->token[tok->id_of_bytes[at] - 1];
        if (t->bytes_n == n && memcmp(tok->text + t->bytes_at, s, n) == 0) return (int32_t)tok->id_of_bytes[at] - 1;
    }
    return -1;
}

/* Mixes a short key; reads inside s[0, n) only. */
static inline uint64_t short_hash(const uint8_t *s, size_t n) {
    uint64_t a = 0, b = 0, c = 0;
    if (n >= 8) {
        memcpy(&a, s, 8);
        memcpy(&b, s + n - 8, 8);
        if (n > 16) memcpy(&c, s + 8, 8);
    } else if (n >= 4) {
        uint32_t x, y;
        memcpy(&x, s, 4);
        memcpy(&y, s + n - 4, 4);
        a = x, b = y;
    } else {
        a = (uint64_t)s[0] | (uint64_t)s[n / 2] << 8 | (uint64_t)s[n - 1] << 16;
    }
    a = (a ^ n) * 0x9E3779B97F4A7C15u;
    b = (b ^ a >> 32) * 0xC2B2AE3D27D4EB4Fu;
    c = (c ^ b >> 29) * 0x165667B19E3779F9u;
    return a ^ b ^ c ^ c >> 31;
}

static void put_id(void *user, int32_t id) {
    tl__output_put(user, id);
}

/* The ids of a word, which is a piece or a part of one that merges do not leave. */
static bool encode_word(tl_output *out, const uint8_t *s, size_t n) {
    const tl_tokenizer *tok = out->tok;
    tl_cached *slot = NULL;
    if (n <= CACHE_KEY_MOST) {
        uint64_t h = short_hash(s, n);
        slot = &out->scratch->cache[(h >> 24 ^ h) & (CACHE_SLOTS - 1)];
        if (slot->n == n && memcmp(slot->key, s, n) == 0) {
            if ((size_t)out->n + CACHE_IDS_MOST <= out->cap) {
                memcpy(out->ids + out->n, slot->ids, sizeof slot->ids);
                out->n += slot->n_ids;
            } else {
                for (int i = 0; i < slot->n_ids; i++) tl__output_put(out, slot->ids[i]);
            }
            return true;
        }
    }
    int32_t ids[SMALL_WORD_MOST];
    int count = 0;
    if (tok->model != TL_MODEL_BYTES) {
        int64_t from = out->n;
        int whole = tok->whole_words ? tl__bpe_find(tok, (const char *)s, n) : -1;
        if (whole >= 0 && tok->token[whole].model) tl__output_put(out, whole);
        else if (tok->model == TL_MODEL_UNIGRAM) {
            if (!tl__unigram_encode(tok, s, n, &out->scratch->lattice, put_id, out)) return false;
        } else if (!merge_chars(out, s, n)) return false;
        if (out->n == from || out->n - from > CACHE_IDS_MOST || (size_t)out->n > out->cap) return true;
        count = (int)(out->n - from);
        memcpy(ids, out->ids + from, (size_t)count * sizeof *ids);
    } else {
        if (tok->whole_words) {
            ids[0] = whole_word(tok, s, n, XXH3_64bits(s, n));
            count = ids[0] >= 0;
        }
        if (count == 0) {
            if (n > SMALL_WORD_MOST) return merge_long(out, s, n);
            count = merge_small(tok, s, (int)n, ids);
        }
        for (int i = 0; i < count; i++) tl__output_put(out, ids[i]);
    }
    if (slot && count <= CACHE_IDS_MOST) {
        slot->n = (uint8_t)n;
        slot->n_ids = (uint8_t)count;
        memcpy(slot->key, s, n);
        memcpy(slot->ids, ids, (size_t)count * sizeof *ids);
    }
    return true;
}

/* Characters back to the bytes that they stand for. */
static bool unspell(tl_output *out, const uint8_t **s, size_t *n) {
    tl_textbuf *b = &out->scratch->spelled;
    b->n = 0;
    if (!tl__textbuf_reserve(b, *n)) return false;
    for (size_t at = 0; at < *n;) {
        uint32_t c;
        at += (size_t)tl__utf8_at(*s + at, &c);
        int byte = tl__char_byte(c);
        if (byte >= 0) b->bytes[b->n++] = (char)byte; /* others are in no token, and there is no unknown one */
    }
    *s = (const uint8_t *)b->bytes;
    *n = b->n;
    return true;
}

bool tl__encode_piece(tl_output *out, const uint8_t *s, size_t n) {
    const tl_tokenizer *tok = out->tok;
    if (tok->model == TL_MODEL_BYTES) {
        if (tok->mapped && !unspell(out, &s, &n)) return false;
        if (n > 1) return encode_word(out, s, n);
        if (n == 1) tl__output_put(out, tok->byte_id[s[0]]);
        return true;
    }
    if (!tok->cuts) return encode_word(out, s, n);
    for (size_t from = 0, at; from < n; from = at) {
        at = from + 1;
        while (at < n && !(s[at] == 0xE2 && n - at >= 3 && s[at + 1] == 0x96 && s[at + 2] == 0x81 &&
                           !tok->keeps[s[at - 1]])) {
            const uint8_t *next = memchr(s + at + 1, 0xE2, n - at - 1);
            at = next ? (size_t)(next - s) : n;
        }
        if (!encode_word(out, s + from, at - from)) return false;
    }
    return true;
}
