/* encode.h — what a running encoding carries: where ids go, and the scratch of one thread. */
#ifndef TL_TEXT_ENCODE_H
#define TL_TEXT_ENCODE_H

#include "text/bpe.h"

enum {
    CACHE_SLOTS = 1 << 14, /* × 64 bytes: half of a usual L2 */
    CACHE_KEY_MOST = 22,
    CACHE_IDS_MOST = 10,
};

typedef struct tl_cached {
    uint8_t n, n_ids; /* n = 0: free */
    uint8_t key[CACHE_KEY_MOST];
    int32_t ids[CACHE_IDS_MOST];
} tl_cached;
_Static_assert(sizeof(tl_cached) == 64, "one slot is one cache line");

/* A symbol of a long word: a doubly linked list within an array. */
typedef struct tl_symbol {
    int32_t id, previous, next; /* next: index, −1 at the end; id −1: unknown to the vocabulary */
    uint32_t at, n;             /* its bytes in the piece; n = 0: merged away */
} tl_symbol;

typedef struct tl_heap_item {
    int32_t rank, at, made;
    uint32_t n; /* bytes of both when it was pushed: it is out of date when they differ */
} tl_heap_item;

struct tl_encode_scratch {
    tl_encode_scratch *next;
    tl_cached *cache; /* [CACHE_SLOTS] */
    tl_symbol *symbols;
    tl_heap_item *heap;
    size_t long_room;                /* symbols that the two hold */
    tl_textbuf normal[2];            /* normalised text, in turns */
    tl_textbuf pieces[TL_STEPS_MOST]; /* what pre-tokenizers rewrite */
    tl_textbuf spelled;              /* bytes behind their spelling */
    tl_textbuf lattice;              /* unigram's best paths */
};

typedef struct tl_output {
    const tl_tokenizer *tok;
    tl_encode_scratch *scratch;
    int32_t *ids;
    size_t cap;
    int64_t n; /* ids so far, beyond cap as well */
} tl_output;

static inline void tl__output_put(tl_output *out, int32_t id) {
    if ((size_t)out->n < out->cap) out->ids[out->n] = id;
    out->n++;
}

/* bpe_encode.c: the ids of one piece, n > 0; false: no memory. */
bool tl__encode_piece(tl_output *out, const uint8_t *s, size_t n);

#endif
