/* prefix.c — nodes found by hashing (parent, tokens), so that a page of a prompt costs one look-up whatever the tree's
 * shape.
 *
 * Invariants, asserted by number:
 *   T1  a node is a kept page; it is held by every sequence that holds a child of it.
 *   T2  sequences let go of their last page first: among cached pages a child was let go before its parent, so the
 *       oldest has no child, and giving up the oldest never cuts a path.
 *   T3  no two nodes have the same parent and the same tokens. */
#include "infer/prefix.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

void tl__prefix_place(tl_prefix *t, tl_arena *arena, tl_pages *pages, uint64_t seed) {
    const int n = pages->n;
    int buckets = 1;
    while (buckets < n) buckets *= 2;
    *t = (tl_prefix){.pages = pages, .seed = seed, .buckets = buckets};
    t->bucket = TL_TAKE(arena, int32_t, buckets);
    t->chain = TL_TAKE(arena, int32_t, n);
    t->parent = TL_TAKE(arena, int32_t, n);
    t->children = TL_TAKE(arena, int32_t, n);
    t->token = TL_TAKE(arena, int32_t, (int64_t)n * TL_KV_BLOCK);
    if (!arena->dry) memset(t->bucket, -1, (size_t)buckets * sizeof *t->bucket);
}

static int32_t *tokens_of(const tl_prefix *t, int32_t page) {
    return t->token + (int64_t)page * TL_KV_BLOCK;
}

static int32_t *bucket_of(const tl_prefix *t, int32_t parent, const int32_t *tokens) {
    const uint64_t hash = XXH3_64bits_withSeed(tokens, TL_KV_BLOCK * sizeof *tokens, t->seed ^ (uint32_t)parent);
    return &t->bucket[hash & (uint64_t)(t->buckets - 1)];
}

static int32_t child(const tl_prefix *t, int32_t parent, const int32_t *tokens) {
    for (int32_t i = *bucket_of(t, parent, tokens); i >= 0; i = t->chain[i])
        if (t->parent[i] == parent && !memcmp(tokens_of(t, i), tokens, TL_KV_BLOCK * sizeof *tokens)) return i;
    return -1;
}

int tl__prefix_find(const tl_prefix *t, int32_t *page, const int32_t *tokens, int most) {
    int n = 0;
    for (int32_t at = -1; n < most; n++) {
        at = child(t, at, tokens + (int64_t)n * TL_KV_BLOCK);
        if (at < 0) break;
        page[n] = at;
    }
    return n;
}

int32_t tl__prefix_add(tl_prefix *t, int32_t parent, const int32_t *tokens, int32_t page) {
    const int32_t there = child(t, parent, tokens);
    if (there >= 0) return there;                                                    /* T3 */
    assert(parent < 0 || (t->pages->kept[parent] && t->pages->holders[parent] > 0)); /* T1 */
    assert(!t->pages->kept[page]);
    int32_t *bucket = bucket_of(t, parent, tokens);
    t->chain[page] = *bucket;
    *bucket = page;
    t->parent[page] = parent;
    t->children[page] = 0;
    memcpy(tokens_of(t, page), tokens, TL_KV_BLOCK * sizeof *tokens);
    if (parent >= 0) t->children[parent]++;
    tl__pages_keep(t->pages, page);
    return page;
}

bool tl__prefix_evict(tl_prefix *t) {
    const int32_t page = tl__pages_give_up(t->pages);
    if (page < 0) return false;
    assert(t->children[page] == 0); /* T2 */
    int32_t *at = bucket_of(t, t->parent[page], tokens_of(t, page));
    while (*at != page) at = &t->chain[*at];
    *at = t->chain[page];
    if (t->parent[page] >= 0) t->children[t->parent[page]]--;
    return true;
}
