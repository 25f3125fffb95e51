/* bpe_encode.c — owns the way from text to ids: added tokens found, the rest pre-split, each pre-token merged by rank;
 * promises the ids of `tokenizers` and safety from several threads.
 *
 * Merging: the pair of lowest rank first, leftmost among equals (Sennrich et al. 2016, algorithm 1). Words are short
 * and few forms make most of a text, so each running thread has a direct-mapped cache from a pre-token's bytes to its
 * ids; short words search their lowest rank by looking at all, long ones in a heap. */
#include <assert.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "text/bpe.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

enum {
    CACHE_SLOTS = 1 << 14, /* × 64 bytes: half of a usual L2 */
    CACHE_KEY_MOST = 22,
    CACHE_IDS_MOST = 10,
    SMALL_WORD_MOST = 64, /* symbols up to which all ranks are looked at for the lowest */
};

typedef struct cached {
    uint8_t n, n_ids; /* n = 0: free */
    uint8_t key[CACHE_KEY_MOST];
    int32_t ids[CACHE_IDS_MOST];
} cached;
_Static_assert(sizeof(cached) == 64, "one slot is one cache line");

/* A symbol of a long word: a doubly linked list within an array. */
typedef struct symbol {
    int32_t id, previous, next; /* next: index, −1 at the end; id −1: merged away */
} symbol;

typedef struct heap_item {
    int32_t rank, at;
} heap_item;

struct tl_encode_scratch {
    tl_encode_scratch *next;
    cached *cache; /* [CACHE_SLOTS] */
    symbol *symbols;
    heap_item *heap;
    size_t long_room; /* symbols that the two hold */
};

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

static void give_back(struct tl_scratches *s, tl_encode_scratch *scratch) {
    pthread_mutex_lock(&s->lock);
    scratch->next = s->free;
    s->free = scratch;
    pthread_mutex_unlock(&s->lock);
}

typedef struct output {
    const tl_tokenizer *tok;
    tl_encode_scratch *scratch;
    int32_t *ids;
    size_t cap;
    int64_t n; /* ids so far, beyond cap as well */
} output;

static inline void put(output *out, int32_t id) {
    if ((size_t)out->n < out->cap) out->ids[out->n] = id;
    out->n++;
}

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

static inline bool before(heap_item a, heap_item b) {
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(heap_item *heap, size_t *n, heap_item item) {
    size_t i = (*n)++;
    for (; i > 0 && before(item, heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = item;
}

static heap_item heap_pop(heap_item *heap, size_t *n) {
    heap_item top = heap[0], last = heap[--*n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < *n; i = child) {
        if (child + 1 < *n && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], last)) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

/* A long pre-token: O(n log n). An entry whose pair has changed since is passed over. false: no memory. */
static bool merge_long(output *out, const uint8_t *s, size_t n) {
    const tl_tokenizer *tok = out->tok;
    tl_encode_scratch *scratch = out->scratch;
    if (n > INT32_MAX / 4) return false;
    if (n > scratch->long_room) {
        free(scratch->symbols);
        free(scratch->heap);
        scratch->symbols = malloc(n * sizeof *scratch->symbols);
        scratch->heap = malloc(3 * n * sizeof *scratch->heap); /* n − 1 pairs, and at most two more a merge */
        scratch->long_room = scratch->symbols && scratch->heap ? n : 0;
        if (!scratch->long_room) return false;
    }
    symbol *symbols = scratch->symbols;
    heap_item *heap = scratch->heap;
    size_t heap_n = 0;
    for (size_t i = 0; i < n; i++) {
        symbols[i] = (symbol){tok->byte_id[s[i]], (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1};
        if (i + 1 == n) break;
        int32_t rank = tok->byte_pair_rank[s[i] << 8 | s[i + 1]];
        if (rank != INT32_MAX) heap_push(heap, &heap_n, (heap_item){rank, (int32_t)i});
    }
    while (heap_n) {
        heap_item top = heap_pop(heap, &heap_n);
        symbol *left = &symbols[top.at];
        if (left->id < 0 || left->next < 0) continue;
        symbol *right = &symbols[left->next];
        const tl_merge *m = &tok->merge[top.rank];
        if (left->id != m->left || right->id != m->right) continue;
        left->id = m->made;
        right->id = -1;
        left->next = right->next;
        if (left->next >= 0) symbols[left->next].previous = top.at;
        if (left->previous >= 0) {
            int32_t rank = tl__bpe_rank(tok, symbols[left->previous].id, left->id);
            if (rank != INT32_MAX) heap_push(heap, &heap_n, (heap_item){rank, left->previous});
        }
        if (left->next >= 0) {
            int32_t rank = tl__bpe_rank(tok, left->id, symbols[left->next].id);
            if (rank != INT32_MAX) heap_push(heap, &heap_n, (heap_item){rank, top.at});
        }
    }
    for (int32_t i = 0; i >= 0; i = symbols[i].next) put(out, symbols[i].id);
    if (scratch->long_room > 1 << 20) { /* one monstrous word must not hold its memory for ever */
        free(scratch->symbols);
        free(scratch->heap);
        scratch->symbols = NULL, scratch->heap = NULL, scratch->long_room = 0;
    }
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

static bool encode_word(output *out, const uint8_t *s, size_t n) {
    const tl_tokenizer *tok = out->tok;
    if (n == 1) {
        put(out, tok->byte_id[s[0]]);
        return true;
    }
    cached *slot = NULL;
    if (n <= CACHE_KEY_MOST) {
        uint64_t h = short_hash(s, n);
        slot = &out->scratch->cache[(h >> 24 ^ h) & (CACHE_SLOTS - 1)];
        if (slot->n == n && memcmp(slot->key, s, n) == 0) {
            if ((size_t)out->n + CACHE_IDS_MOST <= out->cap) {
                memcpy(out->ids + out->n, slot->ids, sizeof slot->ids);
                out->n += slot->n_ids;
            } else {
                for (int i = 0; i < slot->n_ids; i++) put(out, slot->ids[i]);
            }
            return true;
        }
    }
    int32_t ids[SMALL_WORD_MOST];
    int count = 0;
    if (tok->whole_words) {
        ids[0] = whole_word(tok, s, n, XXH3_64bits(s, n));
        count = ids[0] >= 0;
    }
    if (count == 0) {
        if (n > SMALL_WORD_MOST) return merge_long(out, s, n);
        count = merge_small(tok, s, (int)n, ids);
    }
    for (int i = 0; i < count; i++) put(out, ids[i]);
    if (slot && count <= CACHE_IDS_MOST) {
        slot->n = (uint8_t)n;
        slot->n_ids = (uint8_t)count;
        memcpy(slot->key, s, n);
        memcpy(slot->ids, ids, (size_t)count * sizeof *ids);
    }
    return true;
}

static bool encode_plain(output *out, const uint8_t *s, size_t n) {
    for (size_t at = 0; at < n;) {
        size_t end = tl__split_next(out->tok->split, s, n, at);
        if (!encode_word(out, s + at, end - at)) return false;
        at = end;
    }
    return true;
}

/* ---- added tokens ---- */

/* The longest added token of one round that starts at s[at]; its index in tok->added, −1: none. */
static int added_at(const tl_tokenizer *tok, const uint8_t *s, size_t n, size_t at, bool special, bool raw) {
    for (int k = tok->added_first[s[at]]; k < tok->added_first[s[at] + 1]; k++) {
        const tl_added *a = &tok->added[tok->added_order[k]];
        const tl_token *t = &tok->token[a->id];
        if (a->raw == raw && (special || !a->special) && t->text_n <= n - at &&
            memcmp(tok->text + t->text_at, s + at, t->text_n) == 0)
            return tok->added_order[k];
    }
    return -1;
}

/* Cuts at added tokens, leftmost first and longest among those; in two rounds as the library does: raw ones, then, in
 * what is left, the others. */
static bool encode_round(output *out, const uint8_t *s, size_t n, bool special, bool raw) {
    const tl_tokenizer *tok = out->tok;
    size_t from = 0;
    for (size_t at = 0; at < n; at++) {
        if (tok->added_first[s[at]] == tok->added_first[s[at] + 1]) continue;
        int found = added_at(tok, s, n, at, special, raw);
        if (found < 0) continue;
        if (at > from &&
            !(raw ? encode_round(out, s + from, at - from, special, false) : encode_plain(out, s + from, at - from)))
            return false;
        put(out, tok->added[found].id);
        from = at + tok->token[tok->added[found].id].text_n;
        at = from - 1;
    }
    if (from == n) return true;
    return raw ? encode_round(out, s + from, n - from, special, false) : encode_plain(out, s + from, n - from);
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
    output out = {.tok = tok, .scratch = borrow(tok->scratches), .ids = ids, .cap = cap};
    bool done = false;
    if (out.scratch) {
        bool search = false;
        for (int i = 0; i < tok->n_added && !search; i++) search = special || !tok->added[i].special;
        done = search ? encode_round(&out, (const uint8_t *)text, n, special, true)
                      : encode_plain(&out, (const uint8_t *)text, n);
        give_back(tok->scratches, out.scratch);
    }
    free(repaired);
    return done ? out.n : TL_ENOMEM;
}

/* ---- cutting a text that is read in ranges ---- */

/* Could an added token lie across `at`? What lies beyond the end of the text is taken as if it could. */
static bool inside_added(const tl_tokenizer *tok, const uint8_t *s, size_t n, size_t at) {
    for (int i = 0; i < tok->n_added; i++) {
        const tl_token *t = &tok->token[tok->added[i].id];
        const char *text = tok->text + t->text_at;
        for (size_t k = 1; k < t->text_n && k <= at; k++) {
            size_t length = t->text_n < n - at + k ? t->text_n : n - at + k;
            if (memcmp(s + at - k, text, length) == 0) return true;
        }
    }
    return false;
}

size_t tl__tokenizer_safe_cut(const tl_tokenizer *tok, const char *text, size_t n) {
    const uint8_t *s = (const uint8_t *)text;
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
        if (tl__split_always(tok->split, tl__char_class(before_char), tl__char_class(after_char)) &&
            !inside_added(tok, s, n, at))
            return at;
    }
    return 0;
}
