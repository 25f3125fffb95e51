/* prefix.h — the radix tree over finished pages: which tokens, from the beginning of a sequence, have their keys and
 * values in the pool already.
 *
 * An edge is the TL_KV_BLOCK tokens of a page, a node the page that holds what they and all before them left. Tokens
 * are compared, never their hash alone. A page is at most one node, so that the tree takes no memory of its own. */
#ifndef TL_INFER_PREFIX_H
#define TL_INFER_PREFIX_H

#include "infer/pages.h"

typedef struct tl_prefix {
    tl_pages *pages;
    uint64_t seed;     /* of the hash, so that nobody can choose tokens that collide */
    int buckets;       /* a power of two */
    int32_t *bucket;   /* [buckets] the first node; −1: none */
    int32_t *chain;    /* [n] the next node of the bucket */
    int32_t *parent;   /* [n] −1: it begins sequences */
    int32_t *children; /* [n] */
    int32_t *token;    /* [n, TL_KV_BLOCK] */
} tl_prefix;

void tl__prefix_place(tl_prefix *prefix, tl_arena *arena, tl_pages *pages, uint64_t seed);
/* The pages of the longest beginning of tokens that is at hand, at most `most` of them: their number. */
int tl__prefix_find(const tl_prefix *prefix, int32_t *page, const int32_t *tokens, int most);
/* A held, finished page of these tokens after those of `parent` (−1: at the beginning), which is a node. Returns the
 * page that stands for them from now on: this one, or another that was there before and holds the same bits. */
int32_t tl__prefix_add(tl_prefix *prefix, int32_t parent, const int32_t *tokens, int32_t page);
/* Forget the cached page that was let go first, to make it free; false: none is cached. */
bool tl__prefix_evict(tl_prefix *prefix);

#endif
