/* bpe_train.c — owns the training of a byte-level BPE; promises the merges of `tokenizers`' BpeTrainer on the same
 * text, ties and all, whatever the number of threads.
 *
 * Counting: blocks of text are split and counted by all threads, each into its own table; a pre-token of up to 15 bytes
 * is its own key of two words. Merging (Sennrich et al. 2016): the most frequent pair, of equals the one with the
 * smallest ids, over distinct words with lists of where a pair occurs. Three habits of the library show in the result
 * and are kept:
 *   1. the queue is lazy: an entry carries the words known when its pair was met; a pair met again has a second entry,
 * and an entry whose count is out of date goes back with the right one;
 *   2. the count of a pair that was merged is not taken back, so if one of its symbols is made again by another merge,
 * the old count still stands;
 *   3. a merge whose text is a token already makes that token, and a merge made twice keeps its later rank. */
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "text/bpe.h"
#include "text/text_source.h"

/* ---- counting words ---- */

/* Words of at most 15 bytes: the bytes, zero-filled, and the length in the last byte. */
typedef struct short_word {
    uint64_t a, b; /* b = 0: free (a length is never 0) */
    int64_t count;
} short_word;

typedef struct long_word {
    uint64_t hash;
    size_t at, n; /* bytes within the arena; n = 0: free */
    int64_t count;
} long_word;

typedef struct words {
    short_word *small;
    size_t small_room, small_n; /* rooms are powers of two, filled at most by half */
    long_word *large;
    size_t large_room, large_n;
    uint8_t *arena;
    size_t arena_n, arena_room;
    bool failed; /* out of memory */
} words;

static void words_free(words *w) {
    free(w->small);
    free(w->large);
    free(w->arena);
}

static inline uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t h = (a ^ b >> 47 ^ b << 9) * 0x9E3779B97F4A7C15u;
    h ^= h >> 32 ^ b;
    h *= 0xD6E8FEB86659FD93u;
    return h ^ h >> 32;
}

static inline short_word *small_slot(short_word *table, size_t room, uint64_t hash, uint64_t a, uint64_t b) {
    size_t at = hash & (room - 1);
    while (table[at].b != 0 && (table[at].a != a || table[at].b != b)) at = (at + 1) & (room - 1);
    return &table[at];
}

static void add_small(words *w, uint64_t hash, uint64_t a, uint64_t b, int64_t count) {
    if (2 * w->small_n >= w->small_room) {
        size_t room = w->small_room ? 2 * w->small_room : 1 << 14;
        short_word *table = calloc(room, sizeof *table);
        if (!table) {
            w->failed = true;
            return;
        }
        for (size_t i = 0; i < w->small_room; i++)
            if (w->small[i].b)
                *small_slot(table, room, mix(w->small[i].a, w->small[i].b), w->small[i].a, w->small[i].b) = w->small[i];
        free(w->small);
        w->small = table;
        w->small_room = room;
    }
    short_word *slot = small_slot(w->small, w->small_room, hash, a, b);
    if (slot->b == 0) slot->a = a, slot->b = b, w->small_n++;
    slot->count += count;
}

static void add_large(words *w, const uint8_t *s, size_t n, int64_t count) {
    if (2 * w->large_n >= w->large_room) {
        size_t room = w->large_room ? 2 * w->large_room : 1 << 10;
        long_word *table = calloc(room, sizeof *table);
        if (!table) {
            w->failed = true;
            return;
        }
        for (size_t i = 0; i < w->large_room; i++) {
            if (!w->large[i].n) continue;
            size_t at = w->large[i].hash & (room - 1);
            while (table[at].n) at = (at + 1) & (room - 1);
            table[at] = w->large[i];
        }
        free(w->large);
        w->large = table;
        w->large_room = room;
    }
    uint64_t hash = n;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t word;
        memcpy(&word, s + i, 8);
        hash = mix(hash, word);
    }
    uint64_t tail = 0;
    memcpy(&tail, s + i, n - i);
    hash = mix(hash, tail);
    size_t at = hash & (w->large_room - 1);
    for (; w->large[at].n; at = (at + 1) & (w->large_room - 1)) {
        if (w->large[at].hash == hash && w->large[at].n == n && memcmp(w->arena + w->large[at].at, s, n) == 0) {
            w->large[at].count += count;
            return;
        }
    }
    if (w->arena_n + n > w->arena_room) {
        size_t room = 2 * (w->arena_n + n) + 65536;
        uint8_t *bigger = realloc(w->arena, room);
        if (!bigger) {
            w->failed = true;
            return;
        }
        w->arena = bigger;
        w->arena_room = room;
    }
    memcpy(w->arena + w->arena_n, s, n);
    w->large[at] = (long_word){hash, w->arena_n, n, count};
    w->arena_n += n;
    w->large_n++;
}

/* Counts the pre-tokens of valid UTF-8 s[0, n); TL_BLOCK_SLACK_BYTES beyond the end can be read. */
static void count_words(words *w, tl_split split, const uint8_t *s, size_t n) {
    static const uint64_t low[9] = {
        0, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF, 0xFFFFFFFFFF, 0xFFFFFFFFFFFF, 0xFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF};
    /* A table of all words of a large text lies beyond the caches: ask for its lines a batch before they are needed. */
    enum { BATCH = 32 };
    struct {
        uint64_t hash, a, b;
    } batch[BATCH];
    int waiting = 0;
    for (size_t at = 0; at < n && !w->failed;) {
        size_t end = tl__split_next(split, s, n, at), length = end - at;
        if (length > 15) {
            add_large(w, s + at, length, 1);
        } else if (length > 1) { /* one byte has no pair */
            uint64_t a, b;
            memcpy(&a, s + at, 8);
            memcpy(&b, s + at + 8, 8);
            a &= low[length < 8 ? length : 8];
            b = (b & low[length > 8 ? length - 8 : 0]) | (uint64_t)length << 56;
            uint64_t hash = mix(a, b);
            if (w->small_room) __builtin_prefetch(&w->small[hash & (w->small_room - 1)]);
            batch[waiting].hash = hash, batch[waiting].a = a, batch[waiting].b = b;
            if (++waiting == BATCH) {
                for (int i = 0; i < BATCH; i++) add_small(w, batch[i].hash, batch[i].a, batch[i].b, 1);
                waiting = 0;
            }
        }
        at = end;
    }
    for (int i = 0; i < waiting; i++) add_small(w, batch[i].hash, batch[i].a, batch[i].b, 1);
}

typedef struct counting {
    const tl_bpe_options *options;
    const char *const *paths;
    const char *text_key;
    tl_block *blocks;
    int n_blocks;
    words *words;     /* [threads] */
    tl_error *errors; /* [n_blocks]: status 0: fine */
} counting;

static void count_text(words *w, bool by_line, char **spare, const char *text, size_t n) {
    const uint8_t *s = (const uint8_t *)text;
    if (tl__utf8_valid(s, n) < n) {
        free(*spare);
        *spare = malloc(3 * n + TL_BLOCK_SLACK_BYTES);
        if (!*spare) {
            w->failed = true;
            return;
        }
        int64_t replaced = 0;
        n = tl__utf8_repair(*spare, s, n, &replaced);
        memset(*spare + n, 0, TL_BLOCK_SLACK_BYTES);
        s = (const uint8_t *)*spare;
    }
    if (!by_line) {
        count_words(w, TL_SPLIT_GPT4, s, n);
        return;
    }
    for (size_t at = 0; at < n;) {
        const uint8_t *end = memchr(s + at, '\n', n - at);
        size_t next = end ? (size_t)(end - s) + 1 : n;
        count_words(w, TL_SPLIT_GPT4, s + at, next - at);
        at = next;
    }
}

static void count_block(void *user, int64_t i, int worker) {
    counting *c = user;
    const tl_block *block = &c->blocks[i];
    words *w = &c->words[worker];
    char *spare = NULL;
    if (!block->jsonl) {
        count_text(w, c->options->by_line, &spare, block->bytes, block->n);
        free(spare);
        return;
    }
    char *text = malloc(block->n + TL_BLOCK_SLACK_BYTES);
    if (!text) w->failed = true;
    int64_t line = block->first_line;
    for (size_t at = 0; at < block->n && !w->failed; line++) {
        const char *end = memchr(block->bytes + at, '\n', block->n - at);
        size_t next = end ? (size_t)(end - block->bytes) + 1 : block->n;
        int64_t replaced = 0;
        int64_t n = tl__jsonl_text(block->bytes + at, next - at, c->text_key, text, &replaced);
        at = next;
        if (n == -1) continue;
        if (n < 0) {
            tl__jsonl_fail(n, c->paths[block->path], line, c->text_key, &c->errors[i]);
            break;
        }
        memset(text + n, 0, TL_BLOCK_SLACK_BYTES);
        count_text(w, c->options->by_line, &spare, text, (size_t)n);
    }
    free(spare);
    free(text);
}

static int no_memory(tl_error *err) {
    return tl__fail(err, TL_ENOMEM,
                    "not enough memory to train the tokenizer; use less text (--limit) or a larger machine");
}

/* All words of the files into *all. */
static int count_files(words *all, const char *const *paths, int n_paths, const tl_bpe_options *options,
                       const tl_tokenizer *cut, tl_error *err) {
    enum { BLOCKS_A_THREAD = 4 };
    int threads = tl__pool_threads(options->pool), room = threads * BLOCKS_A_THREAD, status;
    tl_texts *texts = NULL;
    counting c = {.options = options, .paths = paths, .text_key = options->text_key ? options->text_key : "text"};
    c.blocks = calloc((size_t)room, sizeof *c.blocks);
    c.words = calloc((size_t)threads, sizeof *c.words);
    c.errors = calloc((size_t)room, sizeof *c.errors);
    status = c.blocks && c.words && c.errors ? 0 : no_memory(err);
    if (!status) status = tl__texts_open(&texts, paths, n_paths, cut, options->by_line, options->limit_bytes, err);
    for (bool more = true; more && !status;) {
        for (c.n_blocks = 0; c.n_blocks < room && more && !status;) {
            int got = tl__texts_next(texts, &c.blocks[c.n_blocks], err);
            if (got > 0) c.n_blocks++;
            else more = false, status = got;
        }
        if (status) break;
        tl__parallel_for(options->pool, c.n_blocks, count_block, &c);
        for (int i = 0; i < c.n_blocks && !status; i++) {
            status = c.errors[i].status;
            if (status && err) *err = c.errors[i];
        }
        for (int i = 0; i < threads && !status; i++)
            if (c.words[i].failed) status = no_memory(err);
    }
    tl__texts_close(texts);
    if (!status) {
        *all = c.words[0];
        c.words[0] = (words){0};
        for (int t = 1; t < threads; t++) {
            const words *w = &c.words[t];
            for (size_t i = 0; i < w->small_room; i++)
                if (w->small[i].b)
                    add_small(all, mix(w->small[i].a, w->small[i].b), w->small[i].a, w->small[i].b, w->small[i].count);
            for (size_t i = 0; i < w->large_room; i++)
                if (w->large[i].n) add_large(all, w->arena + w->large[i].at, w->large[i].n, w->large[i].count);
            words_free(&c.words[t]);
            c.words[t] = (words){0};
        }
        if (all->failed) status = no_memory(err);
    }
    for (int t = 0; t < threads && c.words; t++) words_free(&c.words[t]);
    for (int i = 0; i < room && c.blocks; i++) tl__block_free(&c.blocks[i]);
    free(c.words);
    free(c.blocks);
    free(c.errors);
    return status;
}

/* ---- merging ---- */

typedef struct word {
    size_t at; /* its symbols: symbol[at, at + n) */
    uint32_t n;
    int64_t count;
} word;

typedef struct pair_count {
    uint64_t pair; /* left << 32 | right; all ones: free */
    int64_t count;
} pair_count;

/* An entry of the queue: a pair, its count when it was put there, the words where it was met. */
typedef struct entry {
    int64_t count;
    uint64_t pair;
    uint32_t *list;
    uint32_t n;
    bool own; /* list is to be freed */
} entry;

/* What one merge does to the pairs with one neighbour. */
typedef struct change {
    int64_t lost, gained;
    uint32_t n, last; /* words that gained, the last of them + 1 */
    uint32_t filled;
    uint32_t *list;
} change;

typedef struct merger {
    tl_tokenizer *tok;
    word *words;
    size_t n_words;
    int32_t *symbols;
    pair_count *pairs;
    size_t pair_room, pair_n;
    entry *heap;
    size_t heap_n, heap_room;
    uint32_t *first_lists; /* of the pairs of bytes, in one piece */
    change *change;        /* [2·V]: left neighbour x at 2x, right neighbour y at 2y+1 */
    uint32_t *touched;
    size_t touched_n;
    struct event {
        uint32_t slot, word;
    } * events;
    size_t events_n, events_room;
} merger;

static pair_count *pair_slot(pair_count *table, size_t room, uint64_t pair) {
    size_t at = mix(pair, pair) & (room - 1);
    while (table[at].pair != pair && table[at].pair != ~(uint64_t)0) at = (at + 1) & (room - 1);
    return &table[at];
}

/* Adds to the count of a pair; the sum, or INT64_MIN when out of memory. Sums may be negative in passing. */
static int64_t pair_add(merger *m, uint64_t pair, int64_t count) {
    if (2 * m->pair_n >= m->pair_room) {
        size_t room = m->pair_room ? 2 * m->pair_room : 1 << 16;
        pair_count *table = malloc(room * sizeof *table);
        if (!table) return INT64_MIN;
        memset(table, 0xFF, room * sizeof *table);
        for (size_t i = 0; i < m->pair_room; i++)
            if (m->pairs[i].pair != ~(uint64_t)0) *pair_slot(table, room, m->pairs[i].pair) = m->pairs[i];
        free(m->pairs);
        m->pairs = table;
        m->pair_room = room;
    }
    pair_count *slot = pair_slot(m->pairs, m->pair_room, pair);
    if (slot->pair != pair) *slot = (pair_count){pair, 0}, m->pair_n++;
    return slot->count += count;
}

static inline bool sooner(const entry *a, const entry *b) {
    return a->count != b->count ? a->count > b->count : a->pair < b->pair;
}

static bool heap_push(merger *m, entry e) {
    if (m->heap_n == m->heap_room) {
        size_t room = 2 * m->heap_room + 1024;
        entry *bigger = realloc(m->heap, room * sizeof *bigger);
        if (!bigger) return false;
        m->heap = bigger;
        m->heap_room = room;
    }
    size_t i = m->heap_n++;
    for (; i > 0 && sooner(&e, &m->heap[(i - 1) / 4]); i = (i - 1) / 4) m->heap[i] = m->heap[(i - 1) / 4];
    m->heap[i] = e;
    return true;
}

static void heap_sink(merger *m, entry e) {
    size_t i = 0;
    for (size_t child; (child = 4 * i + 1) < m->heap_n;) {
        size_t best = child, stop = child + 4 < m->heap_n ? child + 4 : m->heap_n;
        for (size_t k = child + 1; k < stop; k++)
            if (sooner(&m->heap[k], &m->heap[best])) best = k;
        if (!sooner(&m->heap[best], &e)) break;
        m->heap[i] = m->heap[best];
        i = best;
    }
    m->heap[i] = e;
}

static void heap_drop(merger *m) {
    entry last = m->heap[--m->heap_n];
    if (m->heap_n) heap_sink(m, last);
}

static inline uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* Words as symbols, from the tables of counts. */
static bool lay_out_words(merger *m, const words *all) {
    size_t symbols = 0;
    for (size_t i = 0; i < all->small_room; i++) symbols += all->small[i].b >> 56;
    for (size_t i = 0; i < all->large_room; i++) symbols += all->large[i].n;
    m->n_words = all->small_n + all->large_n;
    if (m->n_words >= UINT32_MAX) return false;
    m->words = malloc((m->n_words + 1) * sizeof *m->words);
    m->symbols = malloc((symbols + 1) * sizeof *m->symbols);
    if (!m->words || !m->symbols) return false;
    size_t at = 0, w = 0;
    for (size_t i = 0; i < all->small_room; i++) {
        if (!all->small[i].b) continue;
        uint8_t bytes[16];
        memcpy(bytes, &all->small[i].a, 8);
        memcpy(bytes + 8, &all->small[i].b, 8);
        m->words[w++] = (word){at, bytes[15], all->small[i].count};
        for (int k = 0; k < bytes[15]; k++) m->symbols[at++] = m->tok->byte_id[bytes[k]];
    }
    for (size_t i = 0; i < all->large_room; i++) {
        const long_word *l = &all->large[i];
        if (!l->n) continue;
        if (l->n > UINT32_MAX) return false;
        m->words[w++] = (word){at, (uint32_t)l->n, l->count};
        for (size_t k = 0; k < l->n; k++) m->symbols[at++] = m->tok->byte_id[all->arena[l->at + k]];
    }
    return true;
}

/* Counts the pairs of bytes and queues each with the words where it stands. */
static bool first_pairs(merger *m) {
    enum { PAIRS = 256 * 256 };
    struct first {
        int64_t count;
        size_t words, at;
        uint32_t last;
    } *first = calloc(PAIRS, sizeof *first);
    uint8_t *byte_of = calloc((size_t)m->tok->vocab, 1);
    bool fine = first && byte_of;
    for (int byte = 0; byte < 256 && fine; byte++) byte_of[m->tok->byte_id[byte]] = (uint8_t)byte;
    for (size_t w = 0; w < m->n_words && fine; w++) {
        const int32_t *s = m->symbols + m->words[w].at;
        for (uint32_t i = 0; i + 1 < m->words[w].n; i++) {
            struct first *f = &first[byte_of[s[i]] << 8 | byte_of[s[i + 1]]];
            f->count += m->words[w].count;
            if (f->last != w + 1) f->last = (uint32_t)w + 1, f->words++;
        }
    }
    size_t total = 0;
    for (size_t i = 0; i < PAIRS && fine; i++) {
        first[i].at = total;
        total += first[i].words;
        first[i].last = 0, first[i].words = 0;
    }
    if (fine) m->first_lists = malloc((total + 1) * sizeof *m->first_lists);
    fine = fine && m->first_lists;
    for (size_t w = 0; w < m->n_words && fine; w++) {
        const int32_t *s = m->symbols + m->words[w].at;
        for (uint32_t i = 0; i + 1 < m->words[w].n; i++) {
            struct first *f = &first[byte_of[s[i]] << 8 | byte_of[s[i + 1]]];
            if (f->last != w + 1) f->last = (uint32_t)w + 1, m->first_lists[f->at + f->words++] = (uint32_t)w;
        }
    }
    for (size_t i = 0; i < PAIRS && fine; i++) {
        if (first[i].count == 0) continue;
        uint64_t pair = pair_of(m->tok->byte_id[i >> 8], m->tok->byte_id[i & 255]);
        fine =
            pair_add(m, pair, first[i].count) != INT64_MIN &&
            heap_push(m, (entry){first[i].count, pair, m->first_lists + first[i].at, (uint32_t)first[i].words, false});
    }
    free(first);
    free(byte_of);
    return fine;
}

static inline change *touch(merger *m, uint32_t slot) {
    change *c = &m->change[slot];
    if (c->lost == 0 && c->gained == 0) m->touched[m->touched_n++] = slot;
    return c;
}

static inline bool gain(merger *m, uint32_t slot, int64_t count, uint32_t w) {
    change *c = touch(m, slot);
    c->gained += count;
    if (c->last == w + 1) return true;
    c->last = w + 1;
    c->n++;
    if (m->events_n == m->events_room) {
        size_t room = 2 * m->events_room + 4096;
        struct event *bigger = realloc(m->events, room * sizeof *bigger);
        if (!bigger) return false;
        m->events = bigger;
        m->events_room = room;
    }
    m->events[m->events_n++] = (struct event){slot, w};
    return true;
}

/* Makes `made` of every (a, b) in the entry's words, and queues the pairs that this forms. */
static bool merge_pair(merger *m, const entry *e, int32_t made) {
    int32_t a = (int32_t)(e->pair >> 32), b = (int32_t)(e->pair & 0xFFFFFFFF);
    m->touched_n = m->events_n = 0;
    for (uint32_t k = 0; k < e->n; k++) {
        if (k + 8 < e->n) __builtin_prefetch(&m->words[e->list[k + 8]]);
        if (k + 4 < e->n) __builtin_prefetch(&m->symbols[m->words[e->list[k + 4]].at]);
        uint32_t w = e->list[k];
        word *one = &m->words[w];
        int32_t *s = m->symbols + one->at;
        int64_t count = one->count;
        uint32_t n = one->n, to = 0;
        for (uint32_t i = 0; i < n;) {
            if (s[i] != a || i + 1 >= n || s[i + 1] != b) {
                s[to++] = s[i++];
                continue;
            }
            if (to > 0) {
                uint32_t slot = 2 * (uint32_t)s[to - 1];
                touch(m, slot)->lost += count;
                if (!gain(m, slot, count, w)) return false;
            }
            if (i + 2 < n) {
                int32_t next = s[i + 2];
                touch(m, 2 * (uint32_t)next + 1)->lost += count;
                /* (made, made) has one place, that of the left neighbour */
                if (!gain(m, next == made ? 2 * (uint32_t)made : 2 * (uint32_t)next + 1, count, w)) return false;
            }
            s[to++] = made;
            i += 2;
        }
        one->n = to;
    }
    /* First all sums, then the queue: one pair may lose and gain. */
    for (size_t i = 0; i < m->touched_n; i++) {
        uint32_t slot = m->touched[i];
        change *c = &m->change[slot];
        int32_t other = (int32_t)(slot / 2);
        bool right = slot & 1;
        if (c->lost && pair_add(m, right ? pair_of(b, other) : pair_of(other, a), -c->lost) == INT64_MIN) return false;
        if (c->gained && pair_add(m, right ? pair_of(made, other) : pair_of(other, made), c->gained) == INT64_MIN)
            return false;
        if (c->n) {
            c->list = malloc(c->n * sizeof *c->list);
            if (!c->list) return false;
        }
    }
    for (size_t i = 0; i < m->events_n; i++) {
        change *c = &m->change[m->events[i].slot];
        c->list[c->filled++] = m->events[i].word;
    }
    bool fine = true;
    for (size_t i = 0; i < m->touched_n; i++) {
        uint32_t slot = m->touched[i];
        change *c = &m->change[slot];
        if (c->list) {
            uint64_t pair = slot & 1 ? pair_of(made, (int32_t)(slot / 2)) : pair_of((int32_t)(slot / 2), made);
            int64_t count = pair_slot(m->pairs, m->pair_room, pair)->count;
            if (count > 0) fine &= heap_push(m, (entry){count, pair, c->list, c->n, true});
            else free(c->list);
        }
        *c = (change){0};
    }
    return fine;
}

static void merger_free(merger *m) {
    for (size_t i = 0; i < m->heap_n; i++)
        if (m->heap[i].own) free(m->heap[i].list);
    free(m->words);
    free(m->symbols);
    free(m->pairs);
    free(m->heap);
    free(m->first_lists);
    free(m->change);
    free(m->touched);
    free(m->events);
}

static int learn_merges(tl_tokenizer *tok, const words *all, int vocab, tl_error *err) {
    merger m = {.tok = tok};
    m.change = calloc(2 * (size_t)vocab, sizeof *m.change);
    m.touched = malloc(2 * (size_t)vocab * sizeof *m.touched);
    bool fine = m.change && m.touched && lay_out_words(&m, all) && first_pairs(&m);
    int status = fine ? 0 : no_memory(err);
    char *joined = NULL;
    while (!status && tok->model_size < vocab && m.heap_n) {
        entry top = m.heap[0];
        int64_t count = pair_slot(m.pairs, m.pair_room, top.pair)->count;
        if (top.count != count) {
            top.count = count;
            heap_sink(&m, top); /* out of date: back to its place */
            continue;
        }
        if (count < 1) break;
        heap_drop(&m);
        int left = (int)(top.pair >> 32), right = (int)(top.pair & 0xFFFFFFFF), made = -1;
        const tl_token *a = &tok->token[left], *b = &tok->token[right];
        size_t n = (size_t)a->text_n + b->text_n;
        char *bigger = realloc(joined, n);
        if (bigger) {
            joined = bigger;
            memcpy(joined, tok->text + a->text_at, a->text_n);
            memcpy(joined + a->text_n, tok->text + b->text_at, b->text_n);
            made = tl__bpe_find(tok, joined, n);
            if (made < 0) {
                made = tok->vocab;
                status = tl__bpe_add_token(tok, joined, n, made, "training", err);
            }
        } else {
            status = no_memory(err);
        }
        if (!status) status = tl__bpe_add_merge(tok, left, right, made, err);
        if (!status && !merge_pair(&m, &top, made)) status = no_memory(err);
        if (top.own) free(top.list);
    }
    free(joined);
    merger_free(&m);
    return status;
}

int tl__tokenizer_train(tl_tokenizer **out, const char *const *paths, int n_paths, const tl_bpe_options *options,
                        tl_error *err) {
    static const char *const usual[] = {"<|endoftext|>"};
    const char *const *special = options->n_special > 0 ? options->special : usual;
    int n_special = options->n_special > 0 ? options->n_special : 1;
    *out = NULL;
    if (options->vocab < 256 + n_special || options->vocab > 1 << 24)
        return tl__fail(err, TL_EINVALID,
                        "a vocabulary of %d cannot hold the 256 bytes and %d special token%s; ask for %d to %d",
                        options->vocab, n_special, n_special == 1 ? "" : "s", 256 + n_special, 1 << 24);
    tl_tokenizer *tok;
    int status = tl__bpe_new(&tok, err);
    if (status) return status;
    tl__bpe_set_plain(tok, TL_SPLIT_GPT4);
    /* Special tokens first, then the 256 characters of bytes in the order of their code points. */
    for (int i = 0; i < n_special && !status; i++) {
        if (special[i][0] == 0) status = tl__fail(err, TL_EINVALID, "special token %d is empty; give it a text", i + 1);
        else if (tl__utf8_valid((const uint8_t *)special[i], strlen(special[i])) != strlen(special[i]))
            status = tl__fail(err, TL_EINVALID, "special token %d is not valid UTF-8; give it a text in UTF-8", i + 1);
        if (!status) status = tl__bpe_add_token(tok, special[i], strlen(special[i]), i, "special tokens", err);
    }
    for (uint32_t c = 0; c < 0x144 && !status; c++) {
        int byte = tl__char_byte(c);
        if (byte < 0) continue;
        char text[4];
        size_t n = (size_t)tl__utf8_put(text, c);
        int id = tl__bpe_find(tok, text, n);
        if (id < 0) status = tl__bpe_add_token(tok, text, n, id = tok->vocab, "bytes", err);
        tok->byte_id[byte] = id;
    }
    words all = {0};
    if (!status) status = count_files(&all, paths, n_paths, options, tok, err);
    if (!status) status = learn_merges(tok, &all, options->vocab, err);
    words_free(&all);
    for (int i = 0; i < n_special && !status; i++)
        status = tl__bpe_add_added(tok, special[i], strlen(special[i]), i, (tl_added){.special = true, .raw = true},
                                   "special tokens", err);
    if (!status) status = tl__bpe_finish(tok, "training", err);
    if (status) tl__tokenizer_close(tok);
    else *out = tok;
    return status;
}
